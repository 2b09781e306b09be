#!/bin/sh
# Does `diffinv info` predict what a run takes? Its "peak bytes" against cost.peak_bytes, the
# record's measured height of the process, at the prior that ships. And --mem keeps its promise.
#   sh tests/test_memory.sh ./diffinv [-v]      -v: the table
#   WEIGHTS=f.unw SIZE=256x256 STEPS=2          another network (then net, sample and dps only)
# Within 2 % (tables that a solver may not need, arenas rounded to pages) and 1 MiB: the kernel
# counts resident pages in batches of up to 64 for each processor, and how much of the program's
# own file is resident depends on what has been read of it. --mem is a bound without an allowance.
case ${1:-./diffinv} in
/*) D=${1:-./diffinv} ;;
*) D=$PWD/${1:-./diffinv} ;;
esac
[ -x "$D" ] || { echo "test_memory: no command at $D"; exit 1; }
V=$2
W=${WEIGHTS:-$PWD/weights/portraits64.unw}
SIZE=${SIZE:-64x64}
STEPS=${STEPS:-2}
THREADS=${THREADS:-2}
T=$(mktemp -d) || exit 1
trap 'rm -rf "$T"' EXIT
trap 'exit 1' INT TERM
cd "$T" || exit 1
export OMP_WAIT_POLICY=passive
pass=0
fail=0
yes() { pass=$((pass + 1)); }
no() { fail=$((fail + 1)); echo "FAILED: $*"; }

predicted() { # LINE INFO-ARGUMENTS...
    line=$1
    shift
    "$D" info -w "$W" --size "$SIZE" --threads "$THREADS" "$@" >out 2>err ||
        no "info $*: $(cat err)"
    want=$(awk -v line="$line" 'index($0, line "  ") == 1 || index($0, line " ") == 1 {
        sub(line, ""); print $1; exit }' out)
}
measured() { # NAME OUT COMMAND...: against `want`; NAME --mem...: not above it
    name=$1
    record=$2.run
    shift 2
    rm -f "$record"
    "$@" >out 2>err || { no "$*: $(cat err)"; return; }
    got=$(sed -n 's/^cost.peak_bytes=//p' "$record")
    [ "$V" = -v ] && awk -v n="$name" -v p="$want" -v m="$got" 'BEGIN {
        printf "%-28s predicted %9.1f MiB, measured %9.1f MiB, %+.2f %%\n", n, p / 1048576,
            m / 1048576, 100 * (p - m) / m }'
    over=1048576
    case $name in --mem*) over=0 ;; esac
    if awk -v p="$want" -v m="$got" -v over="$over" 'BEGIN {
        exit !(p > 0 && m <= (over ? 1.02 * p + over : p) && m >= 0.98 * p - 1048576) }'
    then yes; else no "$name: predicted $want, measured $got"; fi
}

"$D" sample -q -w "$W" -s ddim steps=1 --size "$SIZE" --threads "$THREADS" -o x.npy >out 2>err ||
    no "sample: $(cat err)"
"$D" measure -q -w "$W" -p inpaint mask=box:24 -i x.npy -o y.npy || no "measure"
"$D" measure -q -w "$W" -p sr factor=4 -i x.npy -o ysr.npy || no "measure"
R="-q -w $W --threads $THREADS"

predicted "peak bytes, net"
measured "net" e.npy "$D" net $R -i x.npy -t 37 -o e.npy
predicted "peak bytes, net --vjp"
# the derivative wants an array of the output's shape
measured "net --vjp" e2.npy "$D" net $R -i x.npy -t 37 -o e2.npy --vjp e.npy --gx gx.npy
predicted "peak bytes, sample" -s ddim steps="$STEPS"
measured "sample ddim" s.npy "$D" sample $R --size "$SIZE" -s ddim steps="$STEPS" -o s.npy
predicted "peak bytes, solve" -s dps steps="$STEPS" -p inpaint mask=box:24
measured "solve dps" d.png "$D" solve $R -s dps steps="$STEPS" -y y.npy -o d.png --truth x.npy
if [ -z "$WEIGHTS" ]; then
    predicted "peak bytes, sample" -s ddim steps="$STEPS" -n 8
    measured "sample ddim -n 8" s8.png "$D" sample $R -s ddim steps="$STEPS" -n 8 -o s8.png
    predicted "peak bytes, solve" -s dps steps=2 -p inpaint mask=box:24 -n 8
    measured "solve dps -n 8" d8.npy "$D" solve $R -s dps steps=2 -y y.npy -n 8 -o d8.npy
    predicted "peak bytes, solve" -s dmplug iters=2 es=no -p inpaint mask=box:24
    measured "solve dmplug" m.png "$D" solve $R -s dmplug iters=2 es=no -y y.npy -o m.png
    predicted "peak bytes, solve" -s ddnm steps=3 -p sr factor=4
    measured "solve ddnm" n.png "$D" solve $R -s ddnm steps=3 -y ysr.npy -o n.png --truth x.npy
    predicted "peak bytes, solve" -s cps steps=4 n=16 passes=1 -p inpaint mask=box:24
    measured "solve cps" c.png "$D" solve $R -s cps steps=4 n=16 passes=1 -y y.npy -o c.png
    predicted "peak bytes, solve" -s dps steps=2 -p inpaint mask=box:24 --numerics fast
    measured "solve dps fast" f.png "$D" solve $R -s dps steps=2 -y y.npy -o f.png --numerics fast
    # --mem: what it says is needed (and half a MiB: processes differ) is enough and is kept
    for run in "-s dps steps=2" "-s dmplug iters=2 es=no" "-s dps steps=2 --save-every 1"; do
        mem="$D solve $R -y y.npy -o mem.png $run"
        $mem --mem 8M >out 2>err
        least=$(sed -n 's/.*needs \([0-9.]*\) MiB.*/\1/p' err)
        want=$(echo "$least" | awk '{ printf "%.0f", ($1 + 0.5) * 1048576 }')
        measured "--mem, solve $run" mem.png $mem --mem "$want"
    done
fi

echo "$pass passed, $fail failed"
[ $fail -eq 0 ]
