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
[ "$size" -lt 640000 ] && ok || no "the stripped command has $size bytes, 640000 allowed"

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
    (mkdir -p "$out/weights" && cp weights/portraits64.unw "$out/weights" && cd "$out" && ./readme > r.txt 2>&1) && [ -s "$out/r.txt" ] && ok || no "the README's program does not run"
else
    no "the README's program does not compile"
fi

# 7. contraction stays off: no fused multiply-add anywhere in the library
if command -v objdump >/dev/null 2>&1; then
    n=$(objdump -d libdiffinv.a | grep -c -E 'vf[n]?m(add|sub)|\bfm(add|la|ls)\b')
    [ "$n" = 0 ] && ok || no "$n fused multiply-adds in the library"
fi

# 8. every flag of the command's table stands in the manual page and in its verbs' help
awk '
    /^enum \{$/ { names = 1 }
    names && /V_[A-Z]* = V_/ { line = $0; sub(/,$/, "", line); split(line, part, " = ")
                               gsub(/ /, "", part[1]); set[part[1]] = part[2] }
    /^static const option options/ { table = 1; next }
    table && /^};/ { table = 0 }
    table { all = all " " $0 }
    END { n = split(all, row, /\}, *\{|\{"|\},$/)
          for (i = 1; i <= n; i++) {
              split(row[i], field, /, */)
              flag = field[1]; gsub(/[" {]/, "", flag)
              verbs = field[4]
              for (s in set) sub("(^|[^A-Z_])" s "($|[^A-Z_])", " " set[s] " | ", verbs)
              for (s in set) sub("(^|[^A-Z_])" s "($|[^A-Z_])", " " set[s] " ", verbs)
              gsub(/\|/, " ", verbs)
              if (flag ~ /^-/) print flag, verbs } }' tools/settings.c > "$out/flags"
[ "$(wc -l < "$out/flags")" -gt 35 ] && ok || no "the table of flags in tools/settings.c was not read"
while read -r flag verbs; do
    roff=$(printf '%s' "$flag" | sed 's/-/\\\\-/g')
    grep -q -E -e "(^|[^a-z\\-])$roff([^a-z]|\$)" tools/diffinv.1 && ok || no "tools/diffinv.1 lacks $flag"
    for v in $verbs; do
        verb=$(printf '%s' "${v#V_}" | tr 'A-Z' 'a-z')
        if [ "$verb" = all ]; then set -- --help; else set -- "$verb" --help; fi
        ./diffinv "$@" | grep -q -E -e "(^|[^a-z-])$flag([^a-z]|\$)" && ok || no "diffinv $* lacks $flag"
    done
done < "$out/flags"
if command -v groff >/dev/null 2>&1; then
    words=$(groff -man -ww -z tools/diffinv.1 2>&1)
    [ -z "$words" ] && ok || no "the manual page: $words"
else
    echo "groff is not installed: the manual page was not checked"
fi

# 9. an installation: what it holds, programs built against it, and nothing left of it
D=$out/dest; P=/opt/place
${MAKE:-make} -s install DESTDIR="$D" PREFIX=$P CC="$CC" >/dev/null 2>"$out/log" && ok || no "make install: $(cat "$out/log")"
for f in bin/diffinv include/diffinv.h lib/libdiffinv.a lib/libdiffinv.so lib/pkgconfig/diffinv.pc \
    share/man/man1/diffinv.1 share/diffinv/portraits64.unw share/diffinv/README.md share/doc/diffinv/README.md; do
    [ -s "$D$P/$f" ] && ok || no "make install left out $f"
done
"$D$P/bin/diffinv" selftest > "$out/log" 2>&1 && grep -q "^ok.the prior .*$P" "$out/log" && ok ||
    no "the installed command: $(grep FAILED "$out/log")"
if command -v pkg-config >/dev/null 2>&1; then
    export PKG_CONFIG_PATH="$D$P/lib/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$D"
    flags=$(pkg-config --cflags --libs diffinv) && [ "$(pkg-config --modversion diffinv)" = \
        "$(./diffinv --version | cut -d ' ' -f 2)" ] && ok || no "pkg-config does not know diffinv"
else
    echo "pkg-config is not installed: diffinv.pc was read by sed instead"
    flags=$(sed -n -e "s|\${includedir}|$D$P/include|; s/^Cflags: //p" \
        -e "s|\${libdir}|$D$P/lib|; s/^Libs: //p" "$D$P/lib/pkgconfig/diffinv.pc" | tr '\n' ' ')
fi
grep -q '@' "$D$P/lib/pkgconfig/diffinv.pc" && no "diffinv.pc holds an @" || ok
LD_LIBRARY_PATH=$D$P/lib; export LD_LIBRARY_PATH
# shellcheck disable=SC2086
$CC -o "$out/readme2" "$out/readme.c" $flags -lm && (cd "$out" && ./readme2 > r2.txt 2>&1) &&
    [ "$(tail -n 1 "$out/r.txt")" = "$(tail -n 1 "$out/r2.txt")" ] && ok || no "a C program with the shared library"
if command -v g++ >/dev/null 2>&1; then
    # shellcheck disable=SC2086
    g++ -std=c++11 -Wall -Wextra -pedantic -Werror -o "$out/cpp" tools/example.cpp $flags &&
        "$out/cpp" "$D$P/share/diffinv/portraits64.unw" > "$out/log" 2>/dev/null &&
        grep -q '^network calls 4, residual' "$out/log" && ok || no "tools/example.cpp"
    "$out/cpp" nowhere.unw 2>/dev/null
    [ $? = 2 ] && ok || no "tools/example.cpp: a missing file is exit code 2"
else
    echo "g++ is not installed: tools/example.cpp was NOT RUN"
fi
if command -v python3 >/dev/null 2>&1; then
    python3 tools/example.py "$D$P/lib/libdiffinv.so" "$D$P/share/diffinv/portraits64.unw" > "$out/log" &&
        python3 tools/example.py > "$out/log2" && cmp -s "$out/log" "$out/log2" &&
        grep -q '^restored: [0-9]' "$out/log" && ok || no "tools/example.py"
else
    echo "python3 is not installed: tools/example.py was NOT RUN"
fi
if command -v readelf >/dev/null 2>&1; then
    readelf -d "$out/readme2" | grep -q 'NEEDED.*libdiffinv\.so\.0' && ok || no "the shared library has no SONAME"
fi
touch "$D$P/lib/stranger"
${MAKE:-make} -s uninstall DESTDIR="$D" PREFIX=$P >/dev/null 2>&1
left=$(find "$D" -type f -o -type l)
[ "$left" = "$D$P/lib/stranger" ] && [ ! -d "$D$P/share/diffinv" ] && ok || no "make uninstall left: $left"
echo "$pass passed, $fail failed"
[ $fail = 0 ]
