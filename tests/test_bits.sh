#!/bin/sh
# The recorded hash, from every instruction set this processor runs and 1, 2, 3 threads.
#   test_bits.sh HASH HASH-DOUBLE      (tests/hash_all.sh goes through the compilers)
pass=0; fail=0
same() { # WHAT KIND COMMAND...
    what=$1; kind=$2; shift 2
    if [ "$("$@" 2>&1)" = "$(grep "^$kind " tests/hash.txt)" ]; then pass=$((pass + 1))
    else fail=$((fail + 1)); echo "FAIL other bits: $what"; fi
}
for isa in $(./diffinv list isa | awk '{ print $1 }'); do
    same "float $isa" float "$1" "$isa" 1
    same "double $isa" double "$2" "$isa" 1
done
for d in ./diffinv ./diffinv-double; do
    if $d selftest >/dev/null 2>&1; then pass=$((pass + 1)); else fail=$((fail + 1)); echo "FAIL $d selftest"; fi
done
for n in 2 3; do same "float, $n threads" float "$1" - $n; same "double, $n threads" double "$2" - $n; done
echo "$pass passed, $fail failed"
[ $fail = 0 ]
