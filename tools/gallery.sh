#!/bin/sh
# Every problem but nblur, which needs its network, in one picture: truth, measurement, and what can be made of the measurement alone
# (pseudo-inverse, adjoint, or the derivative's adjoint at the truth).
#   sh tools/gallery.sh [FACE.png]      writes demo-out/gallery.png
set -e
D=./diffinv
OUT=demo-out
face=${1:-tools/demo.png}
T=$OUT/gallery-tmp
mkdir -p $T
rm -f $OUT/gallery.png
k=0
cell() { # ARGUMENTS-OF-MEASURE...: three to a row
    k=$((k + 1))
    beside=
    under=
    sheet=$T/row.png
    [ $((k % 3)) = 1 ] || beside="--beside $T/row.png"
    if [ $((k % 3)) = 0 ]; then
        sheet=$OUT/gallery.png
        [ $k = 3 ] || under="--under $OUT/gallery.png"
    fi
    # shellcheck disable=SC2086
    $D measure -q "$@" -o $T/y.npy --sheet $sheet $beside $under
}
picture() { cell -p "$@" -i "$face" --fit resize; }

$D make -q ring --seed 4 -o $T/ring.npy
$D make -q phantom --seed 3 --size 64x64 -o $T/phantom.npy
$D make -q grf --size 256x256 -o $T/a.npy
$D make -q grf --size 16x16 alpha=2 -o $T/field.npy
$D make -q vorticity --seed 2 --size 64x64 -o $T/flow.npy
picture denoise sigma=0.2
picture inpaint mask=random:0.7
picture sr
picture gblur size=15 std=1.5
picture motion size=15
picture nlblur
picture blind size=16
picture turbulence size=16
picture hdr
picture colorize
picture jpeg quality=10
picture phase
cell -p mri -i $T/phantom.npy
cell -p scatter -i $T/ring.npy
cell -p blackhole -i $T/ring.npy
cell -p navier_stokes sub=4 -i $T/flow.npy
picture sr kind=mean
cell -p matrix a=$T/a.npy -w none -i $T/field.npy
rm -r $T
echo "look at $OUT/gallery.png"
