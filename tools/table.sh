#!/bin/sh
# The README's table: DPS on four problems, sigma 0.05, at the official scale and at a tuned one,
# against the simple answer, on any array of 64x64 pictures. From the repository root:
#   sh tools/table.sh PICTURES.npy 100|1000 [FIRST:END]
# SETTINGS="--numerics fast --threads 1" are passed on. Prints TSV; works in a temporary folder.
pictures=$1; steps=$2; range=${3:+[$3]}
[ -n "$steps" ] || { sed -n 2,5p "$0"; exit 1; }
work=$(mktemp -d) || exit 6
trap 'rm -rf "$work"' EXIT
column() { awk -v k="$2" '/^mean|^0/ { line = $k } END { print line }' "$1"; }
row() { # NAME OFFICIAL TUNED100 TUNED1000 PROBLEM...
    name=$1; official=$2; tuned=$3; [ "$steps" = 1000 ] && tuned=$4; shift 4
    ./diffinv measure -q -p "$@" sigma=0.05 --seed 1 -i "$pictures" -o "$work/y.npy" \
        --simple "$work/simple.npy" || exit $?
    ./diffinv eval "$work/simple.npy$range" "$pictures$range" > "$work/simple.tsv" || exit $?
    for scale in $official $tuned; do
        ./diffinv solve -q $SETTINGS -s dps steps=$steps scale=$scale -y "$work/y.npy$range" \
            --truth "$pictures$range" --seed 2 -o "$work/x.npy" > "$work/x.tsv" || exit $?
        n=$(grep -c '^[0-9]' "$work/x.tsv")
        seconds=$(sed -n 's/^cost.seconds=//p' "$work/x.npy.run")
        printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$name" "$steps" "$scale" \
            "$(column "$work/simple.tsv" 2)" "$(column "$work/simple.tsv" 3)" \
            "$(column "$work/x.tsv" 3)" "$(column "$work/x.tsv" 4)" \
            "$(awk -v r="$(column "$work/x.tsv" 2)" 'BEGIN { printf "%.2f", r / 0.05 }')" \
            "$(awk -v s="$seconds" -v n="$n" 'BEGIN { printf "%.1f", s / n }')"
    done
}
printf 'problem\tsteps\tscale\tsimple_psnr\tsimple_ssim\tpsnr\tssim\tresidual/sigma\tseconds\n'
row "box 24" 0.5 4 0.3 inpaint mask=box:24
row "random 70 %" 0.5 8 1.2 inpaint mask=random:0.7
row "super-resolution x4" 0.3 8 1.2 sr factor=4
row "Gaussian deblurring" 0.3 8 1.2 gblur size=15 std=1.5
