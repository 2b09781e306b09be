#!/bin/sh
# What becomes of files when things end badly: kill -9 and SIGTERM at chosen moments, a full disk,
# a folder that can't be written; and what is odd about an input.
# From the root of the tree:  sh tests/test_files.sh ./diffinv
# KILLS=20: so many kills of each solver instead of 4, at moments that follow from SEED.

# shellcheck source=tests/cli.sh
. tests/cli.sh
KILLS=${KILLS:-4}
SEED=${SEED:-1}
W=$ROOT/tests/vectors/dps.unw
export OMP_WAIT_POLICY=passive # the command would start itself again to say so

# A picture of 16x16, its bytes a formula.
awk 'BEGIN { printf "P3\n16 16\n255\n"
    for (i = 0; i < 768; i++) printf "%d\n", (i * 37 + int(i / 48) * 11) % 256 }' >p.ppm

# ---- Kills ---------------------------------------------------------------------------------
# The small network of the tests; each run takes a second or two. Killed at a random moment and
# taken up until it is done, perhaps killed again, the result is that of the run left in peace.

"$D" measure -q -w none -p inpaint mask=box:6 sigma=0.05 -i p.ppm -o y.npy || no "measure"

now() { date +%s.%N; }
moment() { # the k-th of the sequence, a share of the time that a run takes
    awk -v k="$1" -v seed="$SEED" -v t="$took" 'BEGIN { srand(1000 * seed + k); rand()
        printf "%.3f", t * rand() }'
}
killed() { # AFTER SIGNAL COMMAND...: the exit code of a command that gets a signal after a while
    after=$1
    signal=$2
    shift 2
    "$@" >out 2>err &
    pid=$!
    sleep "$after"
    kill "-$signal" $pid 2>/dev/null
    wait $pid 2>/dev/null
}

kill_run() { # SOLVER SETTINGS...
    run="$D solve -q -w $W -y y.npy --threads 1 --save-every 1 -s $*"
    began=$(now)
    $run -o whole.npy >out 2>err || { no "$1: $(cat err)"; return; }
    took=$(echo "$(now) $began" | awk '{ print $1 - $2 }')
    k=0
    while [ $k -lt "$KILLS" ]; do
        k=$((k + 1))
        rm -f k.npy*
        killed "$(moment $k)" KILL $run -o k.npy
        tries=0
        while [ ! -f k.npy.run ] && [ $tries -lt 100 ]; do
            tries=$((tries + 1))
            again=
            [ -f k.npy.state ] && again=--resume
            if [ $tries -eq 1 ] && [ $((k % 2)) -eq 0 ]; then
                killed "$(moment $((k + 500)))" KILL $run -o k.npy $again
            else
                $run -o k.npy $again >out 2>err || no "$1, kill $k: $(cat err)"
            fi
        done
        if cmp -s whole.npy k.npy && [ ! -f k.npy.state ]; then yes; else
            no "$1, kill $k: another result"
        fi
    done
    rm -f k.npy*
    killed "$(echo "$took" | awk '{ print $1 / 2 }')" TERM $run -o k.npy
    code=$?
    if [ $code -eq 5 ] && [ -s k.npy ] && [ -s k.npy.state ] && ! ls ./k.npy*.tmp* >/dev/null 2>&1
    then yes; else no "$1, SIGTERM: exit code $code, $(ls k.npy*)"; fi
    $run -o k.npy --resume >out 2>err
    if cmp -s whole.npy k.npy; then yes; else no "$1, SIGTERM: another result"; fi
}

kill_run dps steps=60
kill_run dmplug iters=16 es=no
kill_run cps steps=24 n=4

# ---- A full disk ---------------------------------------------------------------------------
# A limit of file size stands for it: no file grows beyond 512 or, by shell, 1024 bytes.

"$D" measure -q -w none -p denoise sigma=0 -i p.ppm -o big.npy || no "measure"
limited() { (ulimit -f 1 && exec "$@"); }
for out in x.npy x.png x.ppm x.pfm; do
    bad 6 "cannot write it" limited "$D" measure -q -w none -p denoise -i p.ppm -o $out
done
bad 6 "cannot write it" limited "$D" op -p denoise -i big.npy -o x.npy
# A state that can't be written is no reason to end a run; its result is another matter.
rm -f x.*
limited "$D" solve -q -w "$W" -s dps steps=2 -y y.npy -o x.npy --save-every 1 >out 2>err
code=$?
if [ $code -eq 6 ] && ! ls x.npy* >/dev/null 2>&1; then yes; else
    no "solve on a full disk: exit code $code, $(ls x.npy* 2>&1)"
fi
if [ -w /dev/full ]; then
    ln -s /dev/full full.npy
    "$D" measure -q -w none -p denoise -i p.ppm -o full.npy 2>err
    [ $? -eq 6 ] && [ "$(wc -l <err)" -eq 1 ] && yes || no "/dev/full as output: $(cat err)"
    for verb in "list solvers" "info -w $W" "eval p.ppm p.ppm" --help --version; do
        "$D" $verb >/dev/full 2>err
        code=$?
        [ $code -eq 6 ] && [ "$(wc -l <err)" -eq 1 ] && yes || no "$verb >/dev/full: $code"
    done
fi

# ---- Odd inputs ------------------------------------------------------------------------------
# Each of these once waited for ever, was taken silently, or was refused without its reason.

mkfifo pipe
bad 2 "not a file" "$D" info -w pipe
{
    printf '\223NUMPY\001\000\166\000%-117s\n' \
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 2), }"
    printf '\000\000\300\177\000\000\000\000\000\000\000\000\000\000\000\000'
} >nan.npy
bad 2 "holds NaN or infinity" "$D" measure -w none -p denoise -i nan.npy -o x.npy
bad 2 "holds NaN or infinity" "$D" solve -w "$W" -p denoise -y nan.npy -o x.npy
bad 2 "File name too long" "$D" eval "$(printf '%03000d' 0)" p.ppm
bad 1 "at most 32768 a side" "$D" sample -w "$W" --size 65536x65536 -o x.npy
"$D" info -w "$W" -s ddim -n 1048576 --size 16x16 >out 2>err
grep -q "^peak bytes, sample" out && yes || no "info of a million samples: $(cat err)"

# ---- A folder that can't be written ----------------------------------------------------------

mkdir shut
chmod 555 shut
chmod 755 "$T"
as_user() { "$@"; }
if [ "$(id -u)" -eq 0 ]; then # root may write anywhere
    as_user() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
    cp "$D" ./diffinv # where another user may read it
    D=$T/diffinv
fi
for out in shut/x.npy shut/x.png; do
    as_user "$D" measure -w none -p denoise -i p.ppm -o $out >out 2>err
    code=$?
    if [ $code -eq 6 ] && grep -q "can't write into shut" err && [ "$(wc -l <err)" -eq 1 ]; then
        yes
    else
        no "$out in a shut folder: exit code $code: $(cat err)"
    fi
done
[ -z "$(ls shut)" ] && yes || no "a shut folder holds $(ls shut)"

echo "$pass passed, $fail failed"
[ $fail -eq 0 ]
