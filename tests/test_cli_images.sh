#!/bin/sh
# The problems of pictures as a user types them: measurements, noise, kernels from files, and
# every refusal with its line. From the root of the tree:  sh tests/test_cli_images.sh ./diffinv
# It needs weights/portraits64.unw and tools/demo.png.

# shellcheck source=tests/cli.sh
. tests/cli.sh
cp "$ROOT/tools/demo.png" face.png || exit 1


# ---- The table ---------------------------------------------------------------------------

good "list" "$D" list problems --defaults
for p in motion nlblur blind turbulence hdr colorize jpeg; do holds out "^$p "; done
holds out "jpeg .*derivative: none"
holds out "^    noise "

# ---- Measuring ---------------------------------------------------------------------------

for p in "motion size=15" "motion kernel=gaussian size=21 std=2" "nlblur" "blind size=32" \
    "blind" "turbulence size=31" "hdr" "jpeg" "sr kind=cut" "sr kind=cut factor=2"; do
    # shellcheck disable=SC2086
    good "measure $p" "$D" measure -p $p -i face.png -o y.npy
    good "repeat $p" "$D" measure @y.npy.run -o y2.npy
    same "a record repeats $p" y.npy y2.npy
done
good "colorize" "$D" measure -p colorize -i face.png -o grey.npy
good "solve colorize" "$D" solve -s ddnm steps=3 -y grey.npy -o out.png --truth face.png \
    --sheet sheet.png
exists sheet.png
good "simple answer" "$D" measure -p colorize sigma=0 -i face.png -o g.npy --simple simple.png
good "grey" "$D" op -p colorize --pinv -i g.npy -o back.npy
good "A of A+" "$D" op -p colorize -i back.npy -o g2.npy
good "they agree" "$D" eval g2.npy g.npy
true_that "A A+ y = y" "$(column relative_l2) < 1e-6"
for p in motion nlblur turbulence; do
    good "pseed 0" "$D" measure -p $p size=15 -i face.png -o a.npy
    good "pseed 1" "$D" measure -p $p size=15 pseed=1 -i face.png -o b.npy
    good "seed 1" "$D" measure -p $p size=15 sigma=0 --seed 1 -i face.png -o c.npy
    good "seed 2" "$D" measure -p $p size=15 sigma=0 --seed 2 -i face.png -o d.npy
    differ "pseed draws the problem of $p" a.npy b.npy
    same "--seed does not" c.npy d.npy
done
good "blind motion" "$D" measure -p blind kernel=motion size=31 -i face.png -o y.npy
for s in dps_mo reddiff; do
    good "solve blind by $s" "$D" solve -s $s steps=2 -y y.npy -o out.png
done
good "solve turbulence" "$D" solve -s dps steps=2 -p turbulence size=16 -i face.png -o out.png
good "solve hdr" "$D" solve -s dps steps=2 -p hdr -i face.png -o out.png --sheet sheet.png
good "solve jpeg" "$D" solve -s scg steps=3 n=2 -p jpeg -i face.png -o out.png
bad 1 "needs a derivative, which problem jpeg lacks" \
    "$D" solve -q -s dps steps=2 -p jpeg -i face.png -o x.png
bad 1 "needs a pseudo-inverse, which problem motion lacks" \
    "$D" solve -q -s ddnm steps=2 -p motion size=15 -i face.png -o x.png

# ---- Noise -------------------------------------------------------------------------------

good "clean" "$D" measure -p denoise sigma=0 -i face.png -o clean.npy
for n in gaussian poisson impulse shot speckle; do
    good "noise $n" "$D" measure -p denoise noise=$n -i face.png -o n_$n.npy
    good "noise $n again" "$D" measure @n_$n.npy.run -o again.npy
    same "noise $n repeats" n_$n.npy again.npy
    good "noise $n, other seed" "$D" measure -p denoise noise=$n --seed 1 -i face.png -o b.npy
    differ "noise $n of another seed" n_$n.npy b.npy
    good "how noisy" "$D" eval n_$n.npy clean.npy
    true_that "noise $n is between 10 and 40 dB" "$(column psnr) > 10 && $(column psnr) < 40"
done
good "rate" "$D" measure -p denoise noise=poisson rate=100 -i face.png -o a.npy
good "less noise" "$D" eval a.npy clean.npy
true_that "100 times the photons, 20 dB" "$(column psnr) > 44"
good "level" "$D" measure -p denoise noise=impulse level=high -i face.png -o a.npy
differ "level" a.npy n_impulse.npy
good "noise elsewhere" "$D" measure -p inpaint mask=box:20 noise=shot -i face.png -o a.npy
good "solve with it" "$D" solve -s dps steps=2 -y a.npy -o out.png
holds out.png.run '^problem.noise=shot$'
bad 1 "noise=salt is unknown: give one of gaussian|poisson" \
    "$D" measure -p denoise noise=salt -i face.png -o x.npy
bad 1 "rate=0 is out of range" "$D" measure -p denoise rate=0 -i face.png -o x.npy
bad 1 "level=9 is unknown" "$D" measure -p denoise level=9 -i face.png -o x.npy

# ---- Kernels from files ------------------------------------------------------------------

npy k.npy "3, 3" 0 2 0 0 2 4 0 0 0
npy half.npy "3, 3" 0 0.25 0 0 0.25 0.5 0 0 0
npy one.npy "1, 1" 8
good "kernel from an array" "$D" measure -p motion kernel=k.npy -i face.png -o a.npy
good "the same, scaled" "$D" measure -p motion kernel=half.npy -i face.png -o b.npy
same "a kernel is divided by its sum" a.npy b.npy
good "kernel of one pixel" "$D" op -p motion kernel=one.npy -i clean.npy -o a.npy
good "it changes nothing" "$D" eval a.npy clean.npy
[ "$(column psnr)" = inf ] && yes || no "a kernel of one pixel changes the picture"
good "a picture" "$D" measure -p colorize sigma=0 -i face.png -o kernel.png
good "kernel from a picture" "$D" measure -p blind kernel=kernel.png -i face.png -o a.npy
bad 2 "neither motion nor gaussian: none.npy: " \
    "$D" measure -p motion kernel=none.npy -i face.png -o x.npy
bad 2 "is grey, one channel" "$D" measure -p motion kernel=face.png -i face.png -o x.npy
npy bad.npy "2, 2" 1 -0.5 1 1
bad 2 "bad.npy: the kernel holds -0.5 at row 0, column 1" \
    "$D" measure -p motion kernel=bad.npy -i face.png -o x.npy
npy bad.npy "2, 2" 1 1 nan 1
bad 2 "NaN or infinity at row 1, column 0" \
    "$D" measure -p nlblur kernel=bad.npy -i face.png -o x.npy
npy bad.npy "2, 2" 0 0 0 0
bad 2 "sums to 0, so it cannot be divided" \
    "$D" measure -p blind kernel=bad.npy -i face.png -o x.npy
npy bad.npy "2, 1, 1, 2" 1 1 1 1
bad 2 "holds 2 pictures: a kernel is one" \
    "$D" measure -p motion kernel=bad.npy -i face.png -o x.npy
good "a small picture" "$D" measure -p denoise sigma=0 -w none --size 32x48 --fit crop \
    -i face.png -o small.npy
bad 2 "kernel.png of 64x64 is larger than the image of 32x48" \
    "$D" measure -p blind kernel=kernel.png -w none -i small.npy -o x.npy
bad 1 "size=61 is larger than the image of 32x48: give size=31 or less" \
    "$D" measure -p motion -w none -i small.npy -o x.npy
bad 1 "size=64 is larger than the image of 32x48: give size=32 or less" \
    "$D" measure -p blind -w none -i small.npy -o x.npy
bad 1 "size=64 is larger" "$D" measure -p turbulence -w none -i small.npy -o x.npy
bad 1 "size=20 is even: give 19 or 21" "$D" measure -p motion size=20 -i face.png -o x.npy
bad 1 "size=106 is out of range" "$D" measure -p motion size=106 -i face.png -o x.npy
bad 1 "intensity=2 is out of range" "$D" measure -p motion intensity=2 -i face.png -o x.npy
bad 1 "scale=0 is out of range" "$D" measure -p hdr scale=0 -i face.png -o x.npy
bad 1 "quality=101 is out of range" "$D" measure -p jpeg quality=101 -i face.png -o x.npy

# ---- Shapes, values ----------------------------------------------------------------------

good "a crop" "$D" measure -p denoise sigma=0 -w none --size 40x48 --fit crop -i face.png \
    -o odd.npy
bad 2 "40x48 has no whole blocks" "$D" measure -p jpeg -w none -i odd.npy -o x.npy
bad 2 "needs 3 channels, the image has 1" "$D" measure -p jpeg -w none -i g.npy -o x.npy
bad 2 "needs 3 channels, the image has 1" "$D" measure -p colorize -w none -i g.npy -o x.npy
for f in clean g odd; do mv $f.npy plain_$f.npy; done
bad 2 "measures 1 channel, this measurement has 3" \
    "$D" solve -s ddnm steps=2 -p colorize -y plain_clean.npy -o x.png
bad 2 "has 1 channel, the prior" "$D" solve -s dps steps=2 -p hdr -y plain_g.npy -o x.png
bad 2 "40x48 has no whole blocks" "$D" solve -q -s scg steps=2 -p jpeg -y plain_odd.npy -o x.png
npy nan.npy "3, 1, 2" 0 0 0 nan 0 0
bad 2 "nan.npy holds NaN or infinity, first at row 0, column 1 of channel 1" \
    "$D" measure -p hdr -w none -i nan.npy -o x.npy
bad 2 "nan.npy holds NaN or infinity" "$D" solve -s dps steps=2 -p hdr -y nan.npy -o x.png
bad 1 "has no derivative" "$D" op -p jpeg -i plain_clean.npy -o x.npy --vjp plain_clean.npy \
    --gx x.gx.npy

echo "$pass passed, $fail failed"
[ $fail = 0 ]
