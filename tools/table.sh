#!/bin/sh
# The README's tables: solvers side by side on four problems at sigma 0.05, on any array of 64x64
# pictures. From the repository root:
#   sh tools/table.sh PICTURES.npy[FIRST:END] SYSTEM...
# A SYSTEM is simple, dps100, dps1000 (scales tuned as the README says), dps100o, dps1000o (the
# official scale), dps_mo, reddiff_mo, reddiff, dmplug, cps, scg or ddnm; none: all but the o's.
# SETTINGS="--numerics fast --threads 1" are passed on, FOLDER=DIR keeps the pictures, EACH=1 makes
# a run of every picture (which then has the solver's noise of the first). Prints TSV, means over
# the pictures; cost and seconds per picture.
pictures=$1
[ -n "$pictures" ] || { sed -n 2,10p "$0"; exit 1; }
shift
[ $# -gt 0 ] || set -- simple dps100 dps1000 dps_mo reddiff_mo reddiff dmplug cps scg ddnm
work=${FOLDER:-$(mktemp -d)} || exit 6
[ -n "$FOLDER" ] || trap 'rm -rf "$work"' EXIT
mean() { awk -v k="$2" '/^[0-9]/ { s += $k; n++ } END { printf "%.4f", s / n }' "$1"; }
cost() { awk -F= -v k="cost.$2" -v n="$3" '$1 == k { s += $2 } END { printf "%.6g", s / n }' "$1"; }
restore() { # SETTINGS: all pictures in a run, or each in its own
    rm -f "$x.tsv" "$x.runs"
    last=0; [ -n "$EACH" ] && last=$((n - 1))
    for i in $(seq 0 $last); do
        pick=; [ -n "$EACH" ] && pick="[$i:$((i + 1))]"
        ./diffinv solve -q $SETTINGS -s "$@" -y "$y$pick" --truth "$truth$pick" --seed 2 \
            -o "$x" >> "$x.tsv" || exit $?
        cat "$x.run" >> "$x.runs"
        [ -z "$EACH" ] || mv "$x" "${x%.npy}_$i.npy"
    done
}
solver() { # SYSTEM PROBLEM: its settings
    case $1/$2 in
    dps100/box) echo dps steps=100 scale=4 ;;
    dps100/*) echo dps steps=100 scale=8 ;;
    dps1000/box) echo dps steps=1000 scale=0.3 ;;
    dps1000/*) echo dps steps=1000 scale=1.2 ;;
    dps*o/*) echo dps steps="$(echo "$1" | tr -dc 0-9)" ;;
    dps_mo/*|reddiff_mo/*|ddnm/*) echo "$1" steps=100 ;;
    reddiff/*) echo reddiff steps=1000 ;;
    dmplug/*) echo dmplug iters=2000 ;;
    cps/*) echo cps steps=200 n=16 ;;
    scg/*) echo scg steps=355 n=16 thr=0 ;; # as many A as cps
    *) echo "$1: no such system" >&2; return 1 ;;
    esac
}
row() { # NAME PROBLEM...
    name=$1; shift
    y=$work/y_$name.npy
    ./diffinv measure -q -p "$@" sigma=0.05 --seed 1 -i "$pictures" -o "$y" \
        --simple "$work/simple_$name.npy" || exit $?
    truth=$work/truth.npy
    ./diffinv measure -q -p denoise sigma=0 -i "$pictures" -o "$truth" || exit $?
    n=$(./diffinv eval "$work/simple_$name.npy" "$truth" | grep -c '^[0-9]')
    for system in $systems; do
        x=$work/${system}_$name.npy
        if [ "$system" = simple ]; then
            ./diffinv eval "$work/simple_$name.npy" "$truth" > "$x.tsv" || exit $?
            printf '%s\t%s\t%s\t%s\n' "$name" simple "$(mean "$x.tsv" 2)" "$(mean "$x.tsv" 3)"
            continue
        fi
        s=$(solver "$system" "$name") || exit 1
        # shellcheck disable=SC2086
        restore $s
        printf '%s\t%s\t%s\t%s\t%s' "$name" "$system" "$(mean "$x.tsv" 3)" "$(mean "$x.tsv" 4)" \
            "$(awk -v r="$(mean "$x.tsv" 2)" 'BEGIN { printf "%.2f", r / 0.05 }')"
        for k in net net_vjp apply seconds; do printf '\t%s' "$(cost "$x.runs" $k "$n")"; done
        echo
    done
}
systems=$*
printf 'problem\tsystem\tpsnr\tssim\tresidual/sigma\tnetwork\tderivative\tA\tseconds\n'
row box inpaint mask=box:24
row random inpaint mask=random:0.7
row sr sr factor=4
row blur gblur size=15 std=1.5
