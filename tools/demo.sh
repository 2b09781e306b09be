#!/bin/sh
# make demo: one picture, two problems, one sheet in demo-out/sheet.png.
#   sh tools/demo.sh [PICTURE.png]
# The picture that comes with it is a sample of the prior itself (seed 4711, used nowhere else),
# so nobody's portrait is shown and the prior has never seen it.
img=${1:-tools/demo.png}
out=demo-out
mkdir -p "$out" || exit 6
./diffinv measure -q -p denoise sigma=0 -i "$img" --fit resize -o "$out/truth.png" || exit $?
img=$out/truth.png
measure() { # NAME PROBLEM...
    name=$1; shift
    ./diffinv measure -q -p "$@" sigma=0.05 --seed 1 -i "$img" -o "$out/$name.npy" || exit $?
}
measure box inpaint mask=box:24
measure sr sr factor=4
echo "restoring a 24x24 hole, then a picture seen at 16x16 (dps_mo, 100 network calls each)"
./diffinv solve --numerics fast -s dps_mo -y "$out/box.npy" --seed 1 -o "$out/box.png" \
    --truth "$img" --sheet "$out/sheet.png" || exit $?
./diffinv solve --numerics fast -s dps_mo -y "$out/sr.npy" --seed 1 -o "$out/sr.png" \
    --truth "$img" --sheet "$out/sheet.png" --under "$out/sheet.png" || exit $?
echo "look at $out/sheet.png: truth, measurement, simple answer, restored"
