#!/bin/sh
# What the build must be: the libraries it asks for, the symbols the library may use, its size,
# a header for C++98, one plain compiler line, the README's C program. From the repository root.
pass=0; fail=0
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out"' EXIT
ok() { pass=$((pass + 1)); }
no() { fail=$((fail + 1)); echo "FAIL $*"; }
CC=${CC:-cc}

# 1. nothing but libc, libm and the OpenMP runtime
if command -v ldd >/dev/null 2>&1; then
    extra=$(ldd ./diffinv | grep -v -E 'linux-vdso|libc\.so|libm\.so|libgomp|libomp|ld-linux|libpthread|libdl|librt|libgcc_s')
    [ -z "$extra" ] && ok || no "the command links $extra"
fi

# 2. the library's undefined symbols: a fixed list
allowed='^(_GLOBAL_OFFSET_TABLE_|sqrt|fabs|floor|ceil|rint|ldexp|frexp|fmod|malloc|realloc|free|memcpy|memmove|memset|memcmp|memchr|strlen|strcmp|strncmp|strcspn|strstr|strchr|snprintf|vsnprintf|__snprintf_chk|__vsnprintf_chk|__stack_chk_fail|__memcpy_chk|__memset_chk|GOMP_.*|omp_.*|__kmpc_.*|__cpu_model|__cpu_indicator_init|__tls_get_addr|di_.*|DW\.ref.*)$'
extra=$(nm -u libdiffinv.a | awk '$1 == "U" { print $2 }' | sort -u | grep -v -E "$allowed")
[ -z "$extra" ] && ok || no "the library calls" $extra

# 3. size of the stripped command
cp ./diffinv "$out/d" && strip "$out/d" && size=$(wc -c < "$out/d")
[ "$size" -lt 400000 ] && ok || no "the stripped command has $size bytes, 400000 allowed"

# 4. the header in C++98
if command -v c++ >/dev/null 2>&1; then
    printf '#define DIFFINV_KERNELS\n#include "diffinv.h"\nint main() { return DI_OK; }\n' > "$out/h.cc"
    c++ -std=c++98 -pedantic -Wall -Wextra -Werror -I. -o "$out/h" "$out/h.cc" && ok || no "diffinv.h is not C++98"
fi

# 5. no configure, no Makefile: one line
$CC -O1 -ffp-contract=off -o "$out/plain" tools/main.c $(ls tools/*.c | grep -v -E 'tools/(main|bench)\.c') \
    ops.c unet.c diffinv.c solvers.c -lm && "$out/plain" --version >/dev/null && ok || no "the plain build"

# 6. the C program of the README
awk '/^```c$/ { on = 1; next } /^```$/ { on = 0 } on' README.md > "$out/readme.c"
if [ -s "$out/readme.c" ] && $CC -I. -o "$out/readme" "$out/readme.c" libdiffinv.a $(ldd ./diffinv 2>/dev/null | grep -q libgomp && echo -fopenmp) -lm; then
    (cp weights/portraits64.unw "$out" && cd "$out" && ./readme > r.txt 2>&1) && [ -s "$out/r.txt" ] && ok || no "the README's program does not run"
else
    no "the README's program does not compile"
fi

# 7. contraction stays off: no fused multiply-add anywhere in the library
if command -v objdump >/dev/null 2>&1; then
    n=$(objdump -d libdiffinv.a | grep -c -E 'vf[n]?m(add|sub)|\bfm(add|la|ls)\b')
    [ "$n" = 0 ] && ok || no "$n fused multiply-adds in the library"
fi
echo "$pass passed, $fail failed"
[ $fail = 0 ]
