#!/bin/sh
# What a person sees of every problem, and what `make` makes. From the root of the tree:
#   sh tests/test_cli_view.sh ./diffinv

# shellcheck source=tests/cli.sh
. tests/cli.sh

# ---- make ----------------------------------------------------------------------------------

for what in phantom grf vorticity; do
    good "make $what" "$D" make $what --size 16x16 -n 2 --seed 7 -o two.npy
    good "make $what again" "$D" make @two.npy.run -o again.npy
    same "a recorded make" two.npy again.npy
    good "make one" "$D" make $what --size 16x16 --seed 7 -o one.npy
    good "the first" "$D" op -p denoise -i 'two.npy[0]' -o first.npy
    same "sample 0 does not depend on -n" one.npy first.npy
    good "make another" "$D" make $what --size 16x16 --seed 8 -o other.npy
    differ "the seed counts" one.npy other.npy
done
bad 1 "a square of an even side" "$D" make grf --size 16x18 -o x.npy
bad 1 "a square of an even side" "$D" make vorticity --size 7x7 -o x.npy
bad 1 "alpha=1 is out of range" "$D" make grf alpha=1 -o x.npy

# ---- Every problem of the list: a view of its measurement, and a sheet -----------------------

cp "$ROOT/tools/demo.png" face.png
good "ring" "$D" make ring --size 32x32 --seed 4 -o ring.npy
good "sky" "$D" make ring --seed 4 -o sky.npy
good "field" "$D" make grf --size 16x16 -o field.npy
good "phantom" "$D" make phantom --size 32x32 -o phantom.npy
good "flow" "$D" make vorticity --size 32x32 time=0.2 -o flow.npy
npy a.npy "3, 256" $(formula 768 "i % 7 - 3")
"$D" list problems | awk '/^[a-z]/ { print $1 }' >problems
[ "$(wc -l <problems)" -ge 17 ] && yes || no "17 problems at least"
while read -r p; do
    set="" input=face.png none=""
    [ $p = matrix ] && none="-w none"
    case $p in
    inpaint) set="mask=box:24" ;;
    gblur | motion) set="size=15" ;;
    blind | turbulence) set="size=16" ;;
    matrix) input=field.npy set="a=a.npy" ;;
    mri) input=phantom.npy ;;
    blackhole) input=sky.npy ;;
    scatter) input=ring.npy ;;
    navier_stokes) input=flow.npy set="sub=2 time=0.1" ;;
    nblur) continue ;; # tests/test_cli_fourier.sh, which has a network for it
    esac
    # shellcheck disable=SC2086
    good "measure $p" "$D" measure -q -p $p $set $none -i $input -o "$p.npy" --sheet "$p.sheet.png"
    exists "$p.sheet.png"
    good "view $p" "$D" view -q "$p.npy" -o "$p.png"
    exists "$p.png"
    # shellcheck disable=SC2086
    good "view its image" "$D" view -q $input -p $p $set -o image.png
    good "as numbers" "$D" view -q "$p.npy" --map heat -o heat.png
    differ "--map counts" "$p.png" heat.png
done <problems

# From -1.5e308 to 1.5e308 (in a float build both are infinite)
{ printf '\223NUMPY\001\000\166\000%-117s\n' \
      "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }"
  printf '\360\254\341\110\155\263\352\177\360\254\341\110\155\263\352\377'; } >far.npy
good "a range too large to subtract" "$D" view -q far.npy -o far.png
if [ -x "$ROOT/diffinv-double" ]; then
    good "and in double" timeout 20 "$ROOT/diffinv-double" view -q far.npy -o far.png
fi

# ---- Sheets next to each other -------------------------------------------------------------

good "beside" "$D" measure -q -p hdr -i face.png -o hdr.npy --sheet s.png --beside sr.sheet.png
good "under" "$D" measure -q -p hdr -i face.png -o hdr.npy --sheet u.png --under sr.sheet.png
size_of() { od -An -t u1 -j 16 -N 8 "$1" | awk '{ print $3 * 256 + $4, $7 * 256 + $8 }'; }
{
    size_of sr.sheet.png
    size_of hdr.sheet.png
    size_of s.png
    size_of u.png
} >sizes
awk '{ w[NR] = $1; h[NR] = $2 }
     END { exit !(w[3] == w[1] + w[2] && h[3] == (h[1] > h[2] ? h[1] : h[2]) &&
                  h[4] == h[1] + h[2] && w[4] == (w[1] > w[2] ? w[1] : w[2])) }' sizes && yes ||
    no "sizes of joined sheets: $(cat sizes)"

echo "$pass passed, $fail failed"
[ $fail = 0 ]
