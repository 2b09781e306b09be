#!/bin/sh
# Black-hole imaging as a user types it: make, measure, solve, eval, and every refusal. From the
# root of the tree:  sh tests/test_cli_hole.sh ./diffinv
# It needs nothing outside the tree; the prior is an exact mixture of the rings it makes.

# shellcheck source=tests/cli.sh
. tests/cli.sh

# ---- make ----------------------------------------------------------------------------------

good "make --help" "$D" make --help
awk 'length($0) > 80 { bad = 1 } END { exit bad || NR > 24 }' out && yes || no "make --help"
good "list makers" "$D" list makers --defaults
for w in '^ring' '^crescent' '^uv' diameter; do holds out "$w"; done
good "rings" "$D" make ring -n 6 --seed 4 -o rings.npy
good "rings again" "$D" make @rings.npy.run -o again.npy
same "a recorded make" rings.npy again.npy
good "one of them" "$D" make ring -n 2 --seed 4 -o two.npy
good "cut out" "$D" make ring -n 6 --seed 5 -o other.npy
differ "another seed" rings.npy other.npy
good "crescent" "$D" make crescent diameter=42 asymmetry=1 angle=90 -o c.png
good "other size" "$D" make ring --size 32x48 -o small.npy
bad 1 "did you mean 'ring'" "$D" make rng -o x.npy
bad 1 "did you mean 'diameter'" "$D" make ring diametr=3 -o x.npy
bad 1 "out of range" "$D" make ring width=0 -o x.npy
bad 1 "the lesser first" "$D" make ring width=9:8 -o x.npy
bad 1 "a number, or a range" "$D" make ring width=nan -o x.npy
bad 1 "needs" "$D" make ring
bad 1 "no two stations see" "$D" make uv start=18 scans=1 -o x.txt

# ---- measure -------------------------------------------------------------------------------

good "list problems" "$D" list problems --defaults
holds out '^blackhole'
good "measure" "$D" measure -p blackhole -i 'rings.npy[0]' --seed 3 -o y.npy
good "the coverage as text" "$D" make uv -o m87.txt
holds m87.txt '^# time'
[ "$(grep -vc '^#' m87.txt)" -eq 189 ] && yes || no "189 baselines"
good "from the text" "$D" measure -p blackhole uv=m87.txt -i 'rings.npy[0]' --seed 3 -o t.npy
same "the built-in coverage is that text" y.npy t.npy
good "the first scans" "$D" measure -p blackhole share=0.5 -i 'rings.npy[0]' -o h.npy
for k in vis_thermal gaussian none; do
    good "noise $k" "$D" measure -p blackhole noise=$k -i 'rings.npy[0]' --seed 3 -o "$k.npy"
    differ "noise $k" y.npy "$k.npy"
done
good "all weights" "$D" measure -p blackhole weights=1,1,1,1 -i 'rings.npy[0]' -o w.npy
good "the map" "$D" op -p blackhole -i 'rings.npy[0]' -o map.npy
same "no noise is the map" none.npy map.npy
good "its derivative" "$D" op -p blackhole -i 'rings.npy[0]' -o map.npy --vjp y.npy --gx gx.npy
bad 1 "no pseudo-inverse" "$D" op -p blackhole --pinv -i y.npy -o x.npy

bad 1 "no simple answer" "$D" measure -p blackhole -i 'rings.npy[0]' -o x.npy --simple x.png
bad 2 "1x64x64" "$D" measure -p blackhole -i small.npy -o x.npy
bad 2 "cannot open it" "$D" measure -p blackhole uv=none.txt -i 'rings.npy[0]' -o x.npy
bad 1 "four numbers" "$D" measure -p blackhole weights=1,1 -i 'rings.npy[0]' -o x.npy
bad 1 "eht|vis_thermal" "$D" measure -p blackhole noise=no -i 'rings.npy[0]' -o x.npy
# uv LINES WORDS: a file of these lines is refused
uv() {
    printf "$1" >bad.txt
    bad 2 "$2" "$D" measure -p blackhole uv=bad.txt -i 'rings.npy[0]' -o x.npy
}
uv '' "no baseline"
uv '1 ALMA VLA 1e9 1e9 1\n' "bad.txt:1: no station is named 'VLA'"
uv '1 ALMA PV nan 1e9 1\n' "not a number"
uv '1 ALMA PV 1e9 1e9 0\n' "sigma is 0"
uv '1 ALMA PV 1e9 1e9\n' "six words"
uv '1 ALMA PV 1e9 1e9 1\n' "in no triangle"
uv '2 ALMA PV 1e9 1e9 1\n1 ALMA PV 1e9 1e9 1\n' "sort the lines"
uv '1 ALMA PV 4e9 1e9 1\n1 ALMA LMT 1e9 2e9 1\n1 PV LMT -3e9 1e9 1\n' "lacks: give"
uv '1 ALMA PV 1e9 1e9 1\n\0001 ALMA LMT 1e9 1e9 1\n' "a byte of 0 at 20"

# ---- solve and eval ------------------------------------------------------------------------

# Six rings of variance 1e-3 as the prior: what is found is near the right one, and fits.
# six FILE BYTES: that float32 six times
six() {
    { printf '\223NUMPY\001\000\166\000%-117s\n' \
          "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }"
      for k in 1 2 3 4 5 6; do printf "$2"; done; } >"$1"
}
six weights.npy '\000\000\200\077'
six vars.npy '\157\022\203\072' # 1e-3
P=mixture:weights.npy,rings.npy,vars.npy
good "solve" "$D" solve -s dps steps=200 scale=0.003 -w $P -y y.npy -o o.npy --truth 'rings.npy[0]' --sheet s.png
for w in residual chi2_cp chi2_lca psnr_aligned psnr_fwhm0 psnr_fwhm10 psnr_fwhm20; do
    holds out "$w"
done
true_that "PSNR" "$(column psnr) > 38"
true_that "chi2 of the right ring" "$(column chi2_cp) < 2 && $(column chi2_lca) < 2"
good "eval" "$D" eval -y y.npy 'rings.npy[0]' 'rings.npy[0]'
true_that "chi2 of the truth" "$(column chi2_cp) < 1.6 && $(column chi2_lca) < 1.6"
true_that "FWHM 0 is no blur" "$(column psnr_fwhm0) == $(column psnr_aligned)"
true_that "blur forgives" "$(column psnr_fwhm20) >= $(column psnr_fwhm10)"
good "eval without a measurement" "$D" eval -p blackhole fov=160 o.npy 'rings.npy[0]'
holds out psnr_fwhm15
good "eval of several" "$D" eval -y y.npy rings.npy 'rings.npy[0]'
holds out '^mean.*best'
good "without a derivative" "$D" solve -s scg steps=12 -w $P -y y.npy -o g.npy
good "particles" "$D" solve -s cps steps=12 n=8 -w $P -y y.npy -o p.npy
good "two samples" "$D" solve -s dps steps=5 -n 2 -w $P -y y.npy -o n.npy --truth 'rings.npy[0]'
holds out '^mean.*best'
bad 2 "measures 1x1x837" "$D" solve -w $P -p blackhole -y 'rings.npy[0]' -o x.npy
cp h.npy half.npy
bad 2 "measure the picture again" "$D" solve -w $P -p blackhole -y half.npy -o x.npy
bad 1 "h.npy.run says share=0.5" "$D" solve -w $P -p blackhole share=1 -y h.npy -o x.npy
# a measurement with a sigma of 0: the first closure phase's (element 2*189 + 122)
{ dd if=y.npy bs=1 count=$((128 + 4 * 500)) ; printf '\000\000\000\000'
  dd if=y.npy bs=1 skip=$((128 + 4 * 501)); } >zero.npy 2>/dev/null
bad 2 "sigma of closure phase 1 is 0" "$D" solve -w $P -p blackhole -y zero.npy -o x.npy
{ dd if=y.npy bs=1 count=$((128 + 4 * 500)) ; printf '\000\000\300\177'
  dd if=y.npy bs=1 skip=$((128 + 4 * 501)); } >nan.npy 2>/dev/null
bad 2 "NaN or infinity" "$D" solve -w $P -p blackhole -y nan.npy -o x.npy

echo "$pass passed, $fail failed"
[ $fail = 0 ]
