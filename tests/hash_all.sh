#!/bin/sh
# One hash from every compiler, instruction set and thread count. From the repository root:
#   sh tests/hash_all.sh            what is installed
#   sh tests/hash_all.sh --all      a missing compiler or emulator is a failure
# Closes with "N passed, N failed".
pass=0; fail=0
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out"' EXIT
src="tests/hash.c ops.c unet.c diffinv.c solvers.c"
OMP_WAIT_POLICY=passive; export OMP_WAIT_POLICY

check() { # name, wanted lines (grep pattern), command...
    name=$1; kind=$2; shift 2
    if [ "$("$@" 2>&1)" = "$(grep "^$kind " tests/hash.txt)" ]; then
        pass=$((pass + 1)); echo "same bits: $name"
    else
        fail=$((fail + 1)); echo "FAIL $name"
    fi
}
build() { # output, compiler and flags...
    bin=$1; shift
    if ! "$@" -I. -o "$out/$bin" $src -lm; then
        fail=$((fail + 1)); echo "FAIL building with: $*"; return 1
    fi
}
have() {
    command -v "$1" >/dev/null 2>&1 && return 0
    [ "$all" = 1 ] && { fail=$((fail + 1)); echo "FAIL $1 is not installed"; }
    return 1
}
all=0; [ "$1" = --all ] && all=1
flags="-std=c99 -O3 -ffp-contract=off -fno-math-errno"

for cc in gcc clang; do
    have $cc || continue
    machine=$($cc -dumpmachine)
    for kind in float double; do
        def=; [ $kind = double ] && def=-DDI_DOUBLE
        build a $cc $flags $def && check "$cc $kind" $kind "$out/a"
        case $machine in x86_64*)
            wide=; [ $cc = clang ] && wide=-mprefer-vector-width=512
            for v in v3 v4; do
                w=; [ $v = v4 ] && w=$wide
                if ! grep -q avx512vl /proc/cpuinfo && [ $v = v4 ]; then
                    have qemu-x86_64 || continue
                    # no emulator here runs AVX-512: compiling it is all that can be checked
                    build a $cc $flags $def -march=x86-64-v4 $w && { pass=$((pass + 1)); echo "compiles only: $cc $kind v4"; }
                    continue
                fi
                build a $cc $flags $def -march=x86-64-$v $w && check "$cc $kind $v" $kind "$out/a"
            done ;;
        esac
        if build a $cc $flags $def -fopenmp; then
            for n in 1 2 3; do check "$cc $kind, $n threads" $kind "$out/a" - $n; done
        fi
    done
done
if have tcc; then
    build a tcc -std=c99 && check tcc float "$out/a"
    build a tcc -std=c99 -DDI_DOUBLE && check "tcc double" double "$out/a"
fi
if have aarch64-linux-gnu-gcc && have qemu-aarch64; then
    build a aarch64-linux-gnu-gcc $flags -static && check "aarch64 gcc, emulated" float qemu-aarch64 "$out/a"
fi
echo "$pass passed, $fail failed"
[ $fail = 0 ]
