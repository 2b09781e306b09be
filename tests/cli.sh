# cli.sh: what the tests of the command share. Sourced, with the command as $1, from the root of
# the tree; then the test runs in a folder of its own, which goes with it. D: the command, ROOT: the
# tree; pass and fail count.
case ${1:-./diffinv} in
/*) D=${1:-./diffinv} ;;
*) D=$PWD/${1:-./diffinv} ;;
esac
ROOT=$PWD
[ -x "$D" ] || { echo "$0: no command at $D"; exit 1; }
T=$(mktemp -d) || exit 1
trap 'chmod -R u+w "$T"; rm -rf "$T"' EXIT
trap 'exit 1' INT TERM
cd "$T" || exit 1
pass=0
fail=0

yes() { pass=$((pass + 1)); }
no() { fail=$((fail + 1)); echo "FAILED: $*"; }

# good NAME COMMAND...: succeeds. Its output is left in out and err.
good() {
    name=$1
    shift
    if "$@" >out 2>err; then yes; else
        no "$name: exit code $?: $*"
        sed 's/^/    /' err
    fi
}

# bad CODE WORDS COMMAND...: fails with that code and one line that holds the words; the outputs
# x.* that it was asked for do not appear, and nothing half-written stays.
bad() {
    code=$1
    words=$2
    shift 2
    rm -f x.*
    "$@" >out 2>err
    got=$?
    if [ "$got" -ne "$code" ]; then
        no "exit code $got, not $code: $*"
        sed 's/^/    /' err
    elif [ "$(wc -l <err)" -ne 1 ] || ! grep -q '^diffinv: ' err; then
        no "not one line: $*"
        sed 's/^/    /' err
    elif ! grep -q -e "$words" err; then
        no "the line lacks '$words': $*"
        sed 's/^/    /' err
    elif ls x.* ./*.tmp* >/dev/null 2>&1; then
        no "something was left: $(ls x.* ./*.tmp* 2>/dev/null): $*"
    else
        yes
    fi
}

same() { if cmp -s "$2" "$3"; then yes; else no "$1: $2 and $3 differ"; fi; }
differ() { if cmp -s "$2" "$3"; then no "$1: $2 and $3 are equal"; else yes; fi; }
holds() { if grep -q -e "$2" "$1"; then yes; else no "$1 lacks '$2'"; fi; }
exists() { if [ -s "$1" ]; then yes; else no "$1 is missing"; fi; }
# column NAME: that column of the table's first line, in out; without it no comparison passes
column() {
    awk -F '\t' -v name="$1" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) c = i }
                              NR == 2 { print c ? $c : "no column (" }' out
}

# npy FILE SHAPE VALUE...: an array of float32, as NumPy writes it
npy() {
    npy_file=$1
    npy_shape=$2
    shift 2
    {
        printf '\223NUMPY\001\000\166\000%-117s\n' \
            "{'descr': '<f4', 'fortran_order': False, 'shape': ($npy_shape), }"
        # shellcheck disable=SC2059
        printf "$(echo "$@" | tr ' ' '\n' | awk '
            function put(n, k) {
                for (k = 0; k < 4; k++) { printf "\\%03o", n % 256; n = int(n / 256) }
            }
            $1 == "nan" { put(2143289344); next }
            $1 + 0 == 0 { put(0); next }
            { v = $1 < 0 ? -$1 : $1; e = 127
              while (v >= 2) { v /= 2; e++ }
              while (v < 1) { v *= 2; e-- }
              put(($1 < 0 ? 2147483648 : 0) + e * 8388608 + int((v - 1) * 8388608 + 0.5)) }')"
    } >"$npy_file"
}
# formula N EXPRESSION: N values of an awk expression in i; "nan" is NaN
formula() {
    awk "BEGIN { for (i = 0; i < $1; i++) {
        x = $2
        printf(x == \"nan\" ? \"nan \" : \"%.9g \", x) } }"
}
true_that() {
    case $2 in
    *nan*) no "$1: $2" ;; # to awk a variable, of value 0
    *) if awk "BEGIN { exit !($2) }"; then yes; else no "$1: $2"; fi ;;
    esac
}
