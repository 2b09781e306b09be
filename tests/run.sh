#!/bin/sh
# Runs every test given and adds up their "N passed, N failed" lines.
#   sh tests/run.sh NAME=COMMAND...      a command without that line, or failing, is a failure
pass=0; fail=0; notrun=
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
for t in "$@"; do
    name=${t%%=*}; cmd=${t#*=}
    case $cmd in python3\ *)
        if ! command -v python3 >/dev/null 2>&1; then
            notrun="$notrun $name"; echo "$name: NOT RUN, python3 is not installed"; continue
        fi ;;
    esac
    sh -c "$cmd" >"$log" 2>&1; code=$?
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1)
    p=$(echo "$line" | sed -n 's/^\([0-9]*\) passed.*/\1/p'); f=$(echo "$line" | sed -n 's/.*, \([0-9]*\) failed.*/\1/p')
    p=${p:-0}; f=${f:-0}
    [ $code != 0 ] && [ "$f" = 0 ] && f=1
    [ -z "$line" ] && [ $code = 0 ] && f=1
    pass=$((pass + p)); fail=$((fail + f))
    echo "$name: $p passed, $f failed"
    grep 'is not installed' "$log" | sed 's/^/    /'
    [ "$f" != 0 ] && grep -v -E '^same bits|passed' "$log" | tail -n 20 | sed 's/^/    /'
done
[ -n "$notrun" ] && echo "not run:$notrun"
echo "$pass passed, $fail failed"
[ $fail = 0 ]
