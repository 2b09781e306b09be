#!/bin/sh
# Every problem in one picture: truth, measurement, and what can be made of the measurement alone
# (pseudo-inverse, adjoint, or the derivative's adjoint at the truth).
#   sh tools/gallery.sh [FACE.png]      writes demo-out/gallery.png
set -e
D=./diffinv
OUT=demo-out
face=${1:-tools/demo.png}
mkdir -p $OUT
under=
row() { # NAME ARGUMENTS-OF-MEASURE...
    name=$1
    shift
    # shellcheck disable=SC2086
    $D measure -q "$@" -o $OUT/gallery-$name.npy --sheet $OUT/gallery.png $under
    rm -f $OUT/gallery-$name.npy $OUT/gallery-$name.npy.run
    under="--under $OUT/gallery.png"
}
picture() { name=$1; shift; row "$name" -p "$@" -i "$face" --fit resize; }

picture denoise denoise sigma=0.2
picture inpaint inpaint mask=random:0.7
picture sr sr factor=4
picture gblur gblur size=15 std=1.5
picture motion motion size=15
picture nlblur nlblur
picture blind blind size=16
picture turbulence turbulence size=16
picture hdr hdr
picture colorize colorize
picture jpeg jpeg
picture phase phase
$D make -q ring --seed 4 -o $OUT/ring.npy
row blackhole -p blackhole -i $OUT/ring.npy
row scatter -w none -p scatter -i $OUT/ring.npy
rm -f $OUT/ring.npy $OUT/ring.npy.run
echo "look at $OUT/gallery.png"
