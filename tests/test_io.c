/* test_io.c - image and array files, metrics and sheets. Every input is made here, from
 * formulas, by encoders that share nothing with the readers under test. Prints failures only.
 */
#define _XOPEN_SOURCE 700

#include "../tools/io.h"
#include "../tools/picture.h"

#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------
 * Counting, files and byte buffers.
 * ------------------------------------------------------------------------------------------ */

static int passed, failed;
static char folder[512];

static void check(int ok, const char *format, ...)
{
    va_list args;
    if (ok) {
        passed++;
        return;
    }
    failed++;
    va_start(args, format);
    printf("FAILED: ");
    vprintf(format, args);
    printf("\n");
    va_end(args);
}

static void near(double got, double want, double tolerance, const char *what)
{
    check(fabs(got - want) <= tolerance, "%s: got %.17g, want %.17g", what, got, want);
}

typedef struct {
    unsigned char *p;
    size_t n, cap;
    unsigned bits, nbits;
} bytes;

static void *grab(size_t n)
{
    void *p = calloc(n ? n : 1, 1);
    if (!p) {
        printf("FAILED: the test itself ran out of memory\n");
        exit(1);
    }
    return p;
}

static void add(bytes *b, const void *p, size_t n)
{
    if (b->cap < b->n + n) {
        unsigned char *q = grab(2 * b->n + n + 64);
        if (b->n)
            memcpy(q, b->p, b->n);
        free(b->p);
        b->p = q;
        b->cap = 2 * b->n + n + 64;
    }
    if (n)
        memcpy(b->p + b->n, p, n);
    b->n += n;
}

static void add_byte(bytes *b, unsigned v)
{
    unsigned char c = (unsigned char)v;
    add(b, &c, 1);
}

static void add_big(bytes *b, uint64_t v, unsigned size)
{
    while (size--)
        add_byte(b, (unsigned)(v >> (8 * size)) & 255);
}

static void add_text(bytes *b, const char *s)
{
    add(b, s, strlen(s));
}

static void drop(bytes *b)
{
    free(b->p);
    memset(b, 0, sizeof *b);
}

/* A path in the folder of this run; four may be in use at once. */
static const char *at(const char *name)
{
    static char path[4][1024];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static void store(const char *name, const void *p, size_t n)
{
    FILE *f = fopen(at(name), "wb");
    if (!f || fwrite(p, 1, n, f) != n || fclose(f) != 0) {
        printf("FAILED: the test cannot write to %s\n", folder);
        exit(1);
    }
}

static int files_in_folder(void)
{
    int n = 0;
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));)
        n += e->d_name[0] != '.';
    if (d)
        closedir(d);
    return n;
}

static void empty_folder(void)
{
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.' && remove(at(e->d_name)) != 0)
            printf("note: %s stays behind\n", e->d_name);
    if (d)
        closedir(d);
}

/* Reads bytes as a file; a is empty on failure, and then a line must be in err. */
static int read_bytes(io_array *a, const void *p, size_t n, const char *selector, char *err)
{
    char path[1024];
    store("input", p, n);
    snprintf(path, sizeof path, "%s%s", at("input"), selector);
    strcpy(err, "");
    int code = io_read(a, path, err, 256);
    if (code != 0 && (code != IO_BAD || a->v || !err[0] || strchr(err, '\n')))
        check(0, "failure is not clean: code %d, '%s'", code, err);
    return code;
}

static void refused(const void *p, size_t n, const char *selector, const char *says)
{
    char err[256];
    io_array a;
    int code = read_bytes(&a, p, n, selector, err);
    check(code == IO_BAD && strstr(err, says), "want '%s', got %d '%s'", says, code, err);
    io_free(&a);
}

static int shape_is(const io_array *a, size_t n, size_t c, size_t h, size_t w, int picture)
{
    return a->v && a->n == n && a->c == c && a->h == h && a->w == w && a->picture == picture;
}

/* ------------------------------------------------------------------------------------------
 * NPY in: every type, byte order, axis order, rank, header version and selector.
 * ------------------------------------------------------------------------------------------ */

/* The value at a logical index: small whole numbers that every type can hold. */
static int value_at(const size_t i[4], int is_signed, int is_bool)
{
    int v = (int)((i[0] * 31 + i[1] * 17 + i[2] * 5 + i[3] * 3) % 61);
    return is_bool ? v & 1 : is_signed ? v - 30 : v;
}

/* Whole numbers up to 2048 as a half. */
static uint64_t half_of(int v)
{
    unsigned sign = v < 0 ? 0x8000u : 0, m = (unsigned)abs(v), e = 25;
    if (!m)
        return sign;
    while (m < 1024) {
        m *= 2;
        e--;
    }
    return sign | e << 10 | (m & 1023);
}

static uint64_t encode(char kind, unsigned size, int v)
{
    uint64_t u = 0;
    if (kind == 'f' && size == 2)
        return half_of(v);
    if (kind == 'f' && size == 4) {
        float x = (float)v;
        uint32_t bits;
        memcpy(&bits, &x, 4);
        return bits;
    }
    if (kind == 'f') {
        double x = v;
        memcpy(&u, &x, 8);
        return u;
    }
    return (uint64_t)(int64_t)v;
}

static void npy_head(bytes *b, int version, const char *dictionary)
{
    size_t len = strlen(dictionary) + 1;
    add(b, "\223NUMPY", 6);
    add_byte(b, (unsigned)version);
    add_byte(b, 0);
    for (int i = 0; i < (version == 1 ? 2 : 4); i++)
        add_byte(b, (unsigned)(len >> (8 * i)) & 255);
    add_text(b, dictionary);
    add_byte(b, '\n');
}

/* An array of value_at; rank axes of sizes dim, in the order asked for. */
static void npy_make(bytes *b, char order, char kind, unsigned size, int fortran, unsigned rank,
                     const size_t *dim, int version)
{
    char dictionary[200], shape[100] = "";
    size_t total = 1;
    for (unsigned k = 0; k < rank; k++) {
        sprintf(shape + strlen(shape), "%u,%s", (unsigned)dim[k], k + 1 < rank ? " " : "");
        total *= dim[k];
    }
    sprintf(dictionary, "{'descr': '%c%c%u', 'fortran_order': %s, 'shape': (%s), }", order,
            kind, size, fortran ? "True" : "False", shape);
    npy_head(b, version, dictionary);
    for (size_t at_value = 0; at_value < total; at_value++) {
        size_t i[4] = {0, 0, 0, 0}, rest = at_value;
        for (unsigned q = 0; q < rank; q++) {
            unsigned k = fortran ? q : rank - 1 - q;
            i[k] = rest % dim[k];
            rest /= dim[k];
        }
        uint64_t u = encode(kind, size, value_at(i, kind == 'i' || kind == 'f', kind == 'b'));
        for (unsigned q = 0; q < size; q++)
            add_byte(b, (unsigned)(u >> (8 * (order == '>' ? size - 1 - q : q))) & 255);
    }
}

/* Compares a, read with [first, first+a.n), with value_at; shift: axes that the file lacks. */
static int npy_same(const io_array *a, unsigned rank, size_t first, int is_signed, int is_bool)
{
    unsigned shift = 4 - rank;
    for (size_t n = 0; n < a->n; n++)
        for (size_t c = 0; c < a->c; c++)
            for (size_t y = 0; y < a->h; y++)
                for (size_t x = 0; x < a->w; x++) {
                    size_t full[4] = {n + first, c, y, x}, i[4] = {0, 0, 0, 0};
                    for (unsigned k = shift; k < 4; k++)
                        i[k - shift] = full[k];
                    if (a->v[((n * a->c + c) * a->h + y) * a->w + x] !=
                        value_at(i, is_signed, is_bool))
                        return 0;
                }
    return 1;
}

static void test_npy_types(void)
{
    static const char types[][2] = {{'f', 2}, {'f', 4}, {'f', 8}, {'i', 1}, {'i', 2}, {'i', 4},
                                    {'i', 8}, {'u', 2}, {'u', 4}, {'u', 8}, {'b', 1}};
    const size_t dim[4] = {3, 2, 5, 4};
    char err[256];
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (int big = 0; big < 2; big++)
            for (int fortran = 0; fortran < 2; fortran++)
                for (unsigned rank = 1; rank <= 4; rank++)
                    for (int version = 1; version <= 3; version++) {
                        bytes b = {0};
                        io_array a;
                        char kind = types[t][0];
                        unsigned size = (unsigned)types[t][1];
                        const size_t *d = dim + 4 - rank;
                        npy_make(&b,
                                 size == 1 ? '|'
                                 : big     ? '>'
                                           : '<',
                                 kind, size, fortran, rank, d, version);
                        int code = read_bytes(&a, b.p, b.n, "", err);
                        check(
                            !code &&
                                shape_is(&a, rank > 3 ? 3 : 1, rank > 2 ? 2 : 1,
                                         rank > 1 ? 5 : 1, 4, 0) &&
                                npy_same(&a, rank, 0, kind == 'f' || kind == 'i', kind == 'b'),
                            "NPY %c%u big %d fortran %d rank %u version %d: %s", kind, size,
                            big, fortran, rank, version, err);
                        io_free(&a);
                        drop(&b);
                    }
}

/* Values at the ends of the types. */
static void test_npy_values(void)
{
    const struct {
        const char *descr;
        unsigned size;
        uint64_t bits;
        double value;
    } known[] = {
        {"<f2", 2, 0x3c00, 1},
        {"<f2", 2, 0x0001, 0x1p-24},
        {"<f2", 2, 0x03ff, 1023 * 0x1p-24},
        {"<f2", 2, 0x0400, 0x1p-14},
        {"<f2", 2, 0xfbff, -65504},
        {"<f2", 2, 0x3555, 0.333251953125},
        {"<f2", 2, 0x7c00, INFINITY},
        {"<f2", 2, 0xfc00, -INFINITY},
        {"<f4", 4, 0x7f800000, INFINITY},
        {"<f4", 4, 0x3dcccccd, 0.100000001490116119384765625},
        {"<f4", 4, 0x00000001, 0x1p-149},
        {"<f8", 8, 0x3fe0000000000000, 0.5},
        {"<i1", 1, 0x80, -128},
        {"<i2", 2, 0x8000, -32768},
        {"<i2", 2, 0x7fff, 32767},
        {"<u2", 2, 0xffff, 65535},
        {"<i4", 4, 0x80000000, -2147483648.0},
        {"<u4", 4, 0x80000000, 2147483648.0},
        {"<i8", 8, 0x8000000000000000, -0x1p63},
        {"<i8", 8, 0xffffffffffffffff, -1},
        {"<u8", 8, 0x8000000000000000, 0x1p63},
        {"|b1", 1, 2, 1},
        {"|i1", 1, 0xff, -1},
    };
    char err[256], dictionary[100];
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        bytes b = {0};
        io_array a;
        sprintf(dictionary, "{'descr': '%s', 'fortran_order': False, 'shape': (1,), }",
                known[i].descr);
        npy_head(&b, 1, dictionary);
        for (unsigned k = 0; k < known[i].size; k++)
            add_byte(&b, (unsigned)(known[i].bits >> (8 * k)) & 255);
        int code = read_bytes(&a, b.p, b.n, "", err);
        check(!code && a.v[0] == (di_real)known[i].value, "NPY value %zu: %s", i, err);
        io_free(&a);
        drop(&b);
    }
    bytes b = {0};
    io_array a;
    npy_head(&b, 1, "{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }");
    add_big(&b, 0x7fc00000, 4);
    check(!read_bytes(&a, b.p, b.n, "", err) && a.v[0] != a.v[0], "NPY NaN is kept");
    io_free(&a);
    drop(&b);
}

/* uint8 arrays are pictures, interleaved or grey. */
static void test_npy_pictures(void)
{
    static const struct {
        unsigned rank;
        size_t dim[4];
        size_t n, c, h, w;
    } known[] = {
        {2, {5, 4}, 1, 1, 5, 4},       {2, {5, 3}, 1, 1, 5, 3},
        {3, {5, 4, 3}, 1, 3, 5, 4},    {3, {2, 5, 4}, 2, 1, 5, 4},
        {3, {2, 5, 1}, 2, 1, 5, 1},    {4, {2, 5, 4, 3}, 2, 3, 5, 4},
        {4, {2, 5, 4, 1}, 2, 1, 5, 4},
    };
    char err[256];
    for (size_t q = 0; q < sizeof known / sizeof *known; q++)
        for (int fortran = 0; fortran < 2; fortran++) {
            bytes b = {0};
            io_array a;
            int same = 1;
            npy_make(&b, '|', 'u', 1, fortran, known[q].rank, known[q].dim, 1);
            int code = read_bytes(&a, b.p, b.n, "", err);
            int shaped =
                !code && shape_is(&a, known[q].n, known[q].c, known[q].h, known[q].w, 1);
            for (size_t i = 0; shaped && i < a.n * a.c * a.h * a.w; i++) {
                size_t x = i % a.w, y = i / a.w % a.h, c = i / a.w / a.h % a.c;
                size_t n = i / a.w / a.h / a.c, index[4] = {0, 0, 0, 0}, k = 0;
                if (known[q].rank == 4 || (known[q].rank == 3 && known[q].c == 1))
                    index[k++] = n;
                index[k++] = y;
                index[k++] = x;
                if (k < 4)
                    index[k] = c;
                double p = value_at(index, 0, 0);
                same &= a.v[i] == (di_real)(2 * p / 255 - 1);
            }
            check(shaped && same, "uint8 pictures, case %zu, fortran %d: %s", q, fortran, err);
            io_free(&a);
            drop(&b);
        }
}

static void test_npy_selectors(void)
{
    static const struct {
        const char *text;
        size_t first, n; /* n = 0: refused */
    } known[] = {
        {"[0]", 0, 1},
        {"[6]", 6, 1},
        {"[2:5]", 2, 3},
        {"[:3]", 0, 3},
        {"[4:]", 4, 3},
        {"[:]", 0, 7},
        {"[0:7]", 0, 7},
        {"[7]", 0, 0},
        {"[5:8]", 0, 0},
        {"[3:3]", 0, 0},
        {"[4:2]", 0, 0},
        {"[]", 0, 0},
        {"[-1]", 0, 0},
        {"[a]", 0, 0},
        {"[1:2:3]", 0, 0},
        {"[1,2]", 0, 0},
        {"[ 1]", 0, 0},
        {"[7:]", 0, 0},
        {"[1]]", 0, 0},
        {"[99999999999999999999999]", 0, 0},
        {"[18446744073709551615:]", 0, 0},
        {"[18446744073709551609]", 0, 0},
    };
    const size_t dim[4] = {7, 2, 3, 2};
    char err[256];
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        for (int fortran = 0; fortran < 2; fortran++) {
            bytes b = {0};
            io_array a;
            npy_make(&b, '<', 'f', 4, fortran, 4, dim, 1);
            int code = read_bytes(&a, b.p, b.n, known[i].text, err);
            if (known[i].n)
                check(!code && shape_is(&a, known[i].n, 2, 3, 2, 0) &&
                          npy_same(&a, 4, known[i].first, 1, 0),
                      "selector %s: %s", known[i].text, err);
            else
                check(code == IO_BAD, "selector %s is refused", known[i].text);
            io_free(&a);
            drop(&b);
        }
    bytes b = {0};
    io_array a;
    npy_make(&b, '<', 'f', 4, 0, 3, dim, 1);
    check(!read_bytes(&a, b.p, b.n, "[0]", err) && shape_is(&a, 1, 7, 2, 3, 0),
          "[0] of one array");
    io_free(&a);
    refused(b.p, b.n, "[1]", "holds 1");
    drop(&b);
    npy_make(&b, '|', 'u', 1, 0, 3, (const size_t[]){7, 2, 4}, 1);
    check(!read_bytes(&a, b.p, b.n, "[3:5]", err) && shape_is(&a, 2, 1, 2, 4, 1),
          "grey pictures");
    io_free(&a);
    drop(&b);
}

static void test_npy_refusals(void)
{
    static const struct {
        const char *dictionary, *says;
    } known[] = {
        {"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", "pickle"},
        {"{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }", "<c8"},
        {"{'descr': '<U3', 'fortran_order': False, 'shape': (1,), }", "plain numbers"},
        {"{'descr': '<f16', 'fortran_order': False, 'shape': (1,), }", "plain numbers"},
        {"{'descr': '<f1', 'fortran_order': False, 'shape': (1,), }", "plain numbers"},
        {"{'descr': '|f4', 'fortran_order': False, 'shape': (1,), }", "plain numbers"},
        {"{'descr': '<b2', 'fortran_order': False, 'shape': (1,), }", "plain numbers"},
        {"{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (1,), }", "records"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (), }", "reshape"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1, 1, 1), }",
         "4 dimensions"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4), }", "without values"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", "ends before"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (4,), }", "uint8"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1, 1, 4), }", "uint8"},
        {"{'descr': '<f2', 'fortran_order': False, 'shape': (1,), }", "beyond"},
        {"{'descr': '<f4', 'fortran_order': 0, 'shape': (1,), }", "header"},
        {"{'descr': '<f4', 'fortran_order': False, }", "header"},
        {"{'descr': '<f4', 'descr': '<f4', 'shape': (1,), }", "header"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': 1}", "header"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", "shape"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1 1), }", "shape"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), } x", "header"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), ", "header"},
        {"{'descr': '<f4", "type"},
        {"", "header"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (65536, 65536, 65536, 65536), }",
         "ends before"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551617,), }",
         "shape"},
    };
    io_array a;
    char err[256];
    bytes b = {0};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        npy_head(&b, 1, known[i].dictionary);
        add(&b, "\0\0\0\0", 4);
        refused(b.p, b.n, "", known[i].says);
        drop(&b);
    }
    npy_head(&b, 1, "{\"shape\":(1L,1),\"descr\":\"<f4\",\"fortran_order\":False}");
    add(&b, "\0\0\0\0", 4);
    check(!read_bytes(&a, b.p, b.n, "", err), "a header in another style: %s", err);
    io_free(&a);
    b.p[6] = 9;
    refused(b.p, b.n, "", "version");
    drop(&b);
    add(&b, "\223NUMPY\2\0\377\377\377\377{", 13);
    refused(b.p, b.n, "", "ends before");
    drop(&b);
}

/* The values a byte is damaged to: each single bit and some more, or with `full` all there are.
 */
static int full;

static unsigned next_damage(unsigned v)
{
    return full ? v + 1 : v < 128 ? 2 * v : v + 61;
}

/* Every truncation is refused; every damaged byte ends cleanly. */
static void test_npy_damage(void)
{
    const size_t dim[3] = {2, 2, 3};
    char err[256];
    io_array a;
    bytes b = {0};
    npy_make(&b, '<', 'f', 4, 0, 3, dim, 1);
    for (size_t n = 0; n < b.n; n++)
        check(read_bytes(&a, b.p, n, "", err) == IO_BAD, "NPY cut at %zu is refused", n);
    for (size_t i = 0; i < b.n; i++)
        for (unsigned v = 1; v < 256; v = next_damage(v)) {
            b.p[i] ^= (unsigned char)v;
            int code = read_bytes(&a, b.p, b.n, "", err);
            if (code != 0 && code != IO_BAD)
                check(0, "NPY byte %zu ^ %u: code %d", i, v, code);
            io_free(&a);
            b.p[i] ^= (unsigned char)v;
        }
    check(1, "NPY damage");
    drop(&b);
}

/* ------------------------------------------------------------------------------------------
 * A zlib encoder for tests: stored, fixed and dynamic blocks from the same tokens, with code
 * sets that reach the corners of the format.
 * ------------------------------------------------------------------------------------------ */

enum { STORED, FIXED, BALANCED, DEEP, MIXED, KINDS };

static void put_bits(bytes *b, unsigned v, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        b->bits |= (v >> i & 1) << b->nbits;
        if (++b->nbits == 8) {
            add_byte(b, b->bits);
            b->bits = b->nbits = 0;
        }
    }
}

static void put_align(bytes *b)
{
    while (b->nbits)
        put_bits(b, 0, 1);
}

/* The canonical code of one symbol, straight from the definition in RFC 1951. */
static void put_symbol(bytes *b, const unsigned char *length, unsigned n, unsigned symbol)
{
    unsigned code = 0;
    for (unsigned len = 1; len <= length[symbol]; len++) {
        code <<= 1;
        for (unsigned i = 0; i < n; i++)
            if (length[i] == len && (len < length[symbol] || i < symbol))
                code++;
    }
    for (unsigned i = length[symbol]; i-- > 0;)
        put_bits(b, code >> i & 1, 1);
}

/* A complete set over the symbols marked in used: two neighbouring lengths. */
static void balanced(unsigned char *length, const unsigned char *used, unsigned n)
{
    unsigned count = 0, depth = 0, shorter, given = 0;
    for (unsigned i = 0; i < n; i++)
        count += used[i];
    while (1u << depth < count)
        depth++;
    shorter = (1u << depth) - count;
    for (unsigned i = 0; i < n; i++)
        length[i] = (unsigned char)(used[i] ? depth - (given++ < shorter) : 0);
    if (count == 1) /* the lone code has one bit, and its set is incomplete */
        for (unsigned i = 0; i < n; i++)
            length[i] = used[i];
}

/* A complete set of 286 codes of 2 to 15 bits, of 30 distances of 4 and 5. */
static void deep(unsigned char *literal, unsigned char *distance)
{
    static const unsigned count[16] = {0, 0, 3, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 233, 45, 2};
    unsigned at_symbol = 0;
    for (unsigned len = 0; len < 16; len++)
        for (unsigned i = 0; i < count[len]; i++)
            literal[at_symbol++ * 37 % 286] = (unsigned char)len;
    for (unsigned i = 0; i < 30; i++)
        distance[i] = i % 15 == 7 ? 4 : 5;
}

static unsigned base_of(unsigned first, unsigned groups, unsigned symbol, unsigned *extra)
{
    unsigned base = first;
    for (unsigned i = 0;; i++) {
        *extra = i < 2 * groups ? 0 : i / groups - 1;
        if (i == symbol)
            return base;
        base += 1u << *extra;
    }
}

/* Lengths 3..258 and distances 1..32768 have the same scheme in groups of four and two. */
static unsigned symbol_of(unsigned value, unsigned first, unsigned groups, unsigned *low,
                          unsigned *extra)
{
    for (unsigned i = 0;; i++) {
        unsigned base = base_of(first, groups, i, extra);
        if (value < base + (1u << *extra)) {
            *low = value - base;
            return i;
        }
    }
}

typedef struct {
    unsigned len, back; /* back 0: the literal len */
} token;

static size_t tokenize(token *t, const unsigned char *in, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n;) {
        unsigned best = 0, back = 0;
        for (size_t d = 1; d <= i && d <= 32768; d++) {
            unsigned len = 0;
            while (len < 258 && i + len < n && in[i + len] == in[i + len - d])
                len++;
            if (len > best) {
                best = len;
                back = (unsigned)d;
            }
        }
        t[count].len = best >= 3 ? best : in[i];
        t[count].back = best >= 3 ? back : 0;
        i += best >= 3 ? best : 1;
        count++;
    }
    return count;
}

static unsigned length_code(unsigned len, unsigned *low, unsigned *extra)
{
    *low = *extra = 0;
    return len == 258 ? 285 : 257 + symbol_of(len, 3, 4, low, extra);
}

static void put_lengths(bytes *b, const unsigned char *literal, const unsigned char *distance)
{
    static const unsigned char order[19] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                            11, 4,  12, 3, 13, 2, 14, 1, 15};
    unsigned char all[316], length[19];
    for (unsigned i = 0; i < 19; i++)
        length[i] = i < 13 ? 4 : 5;
    memcpy(all, literal, 286);
    memcpy(all + 286, distance, 30);
    put_bits(b, 286 - 257, 5);
    put_bits(b, 30 - 1, 5);
    put_bits(b, 19 - 4, 4);
    for (unsigned i = 0; i < 19; i++)
        put_bits(b, length[order[i]], 3);
    for (unsigned i = 0, run; i < 316; i += run) {
        for (run = 1; i + run < 316 && all[i + run] == all[i];)
            run++;
        if (all[i] == 0 && run >= 11) {
            run = run < 138 ? run : 138;
            put_symbol(b, length, 19, 18);
            put_bits(b, run - 11, 7);
        } else if (all[i] == 0 && run >= 3) {
            put_symbol(b, length, 19, 17);
            put_bits(b, run - 3, 3);
        } else if (i && all[i] == all[i - 1] && run >= 3) {
            run = run < 6 ? run : 6;
            put_symbol(b, length, 19, 16);
            put_bits(b, run - 3, 2);
        } else {
            run = 1;
            put_symbol(b, length, 19, all[i]);
        }
    }
}

static void put_codes(bytes *b, const token *t, size_t n, const unsigned char *literal,
                      unsigned nliteral, const unsigned char *distance, unsigned ndistance)
{
    for (size_t i = 0; i < n; i++) {
        unsigned low, extra;
        if (!t[i].back) {
            put_symbol(b, literal, nliteral, t[i].len);
            continue;
        }
        put_symbol(b, literal, nliteral, length_code(t[i].len, &low, &extra));
        put_bits(b, low, extra);
        put_symbol(b, distance, ndistance, symbol_of(t[i].back, 1, 2, &low, &extra));
        put_bits(b, low, extra);
    }
    put_symbol(b, literal, nliteral, 256);
}

static void put_block(bytes *b, const token *t, size_t n, int kind, unsigned last)
{
    unsigned char literal[288], distance[32], used[288] = {0}, dused[32] = {0};
    put_bits(b, last, 1);
    put_bits(b, kind == FIXED ? 1 : 2, 2);
    if (kind == FIXED) {
        for (unsigned i = 0; i < 288; i++)
            literal[i] = (unsigned char)(i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8);
        memset(distance, 5, 32);
        put_codes(b, t, n, literal, 288, distance, 32);
        return;
    }
    if (kind == DEEP) {
        deep(literal, distance);
    } else {
        used[256] = 1;
        for (size_t i = 0; i < n; i++) {
            unsigned low, extra;
            used[t[i].back ? length_code(t[i].len, &low, &extra) : t[i].len] = 1;
            if (t[i].back)
                dused[symbol_of(t[i].back, 1, 2, &low, &extra)] = 1;
        }
        balanced(literal, used, 286);
        balanced(distance, dused, 30);
    }
    put_lengths(b, literal, distance);
    put_codes(b, t, n, literal, 286, distance, 30);
}

static void put_stored(bytes *b, const unsigned char *in, size_t n, unsigned last)
{
    put_bits(b, last, 3);
    put_align(b);
    put_bits(b, (unsigned)n, 16);
    put_bits(b, (unsigned)n ^ 0xffffu, 16);
    add(b, in, n);
}

static uint32_t adler(const unsigned char *p, size_t n)
{
    uint32_t a = 1, s = 0;
    for (size_t i = 0; i < n; i++) {
        a = (a + p[i]) % 65521;
        s = (s + a) % 65521;
    }
    return s << 16 | a;
}

static void zlib_make(bytes *b, const unsigned char *in, size_t n, int kind)
{
    token *t = grab(n * sizeof *t);
    size_t count = tokenize(t, in, n), text = 0;
    add(b, "\x78\x01", 2);
    if (kind == STORED) {
        put_stored(b, in, n / 2, 0);
        put_stored(b, in + n / 2, n - n / 2, 1);
    } else if (kind != MIXED) {
        put_block(b, t, count, kind, 1);
    } else {
        /* blocks of a few tokens of each kind in turn, and an empty one at the end */
        for (size_t i = 0, turn = 0; i < count; i += 5, turn++) {
            size_t m = count - i < 5 ? count - i : 5, len = 0;
            for (size_t k = i; k < i + m; k++)
                len += t[k].back ? t[k].len : 1;
            if (turn % 4 == STORED)
                put_stored(b, in + text, len, 0);
            else
                put_block(b, t + i, m, (int)(turn % 4), 0);
            text += len;
        }
        put_stored(b, in, 0, 1);
    }
    put_align(b);
    add_big(b, adler(in, n), 4);
    free(t);
}

/* ------------------------------------------------------------------------------------------
 * PNG in.
 * ------------------------------------------------------------------------------------------ */

static uint32_t crc(const unsigned char *p, size_t n)
{
    uint32_t c = 0xffffffffu;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int k = 0; k < 8; k++)
            c = c & 1 ? c >> 1 ^ 0xedb88320u : c >> 1;
    }
    return ~c;
}

static void chunk(bytes *b, const char *type, const void *p, size_t n)
{
    size_t start = b->n;
    add_big(b, n, 4);
    add(b, type, 4);
    add(b, p, n);
    add_big(b, crc(b->p + start + 4, n + 4), 4);
}

static unsigned samples_of(unsigned type)
{
    return type == 2 ? 3 : type == 4 ? 2 : type == 6 ? 4 : 1;
}

/* Sample k of pixel (y, x): smooth with edges, so that matches and all filters occur. */
static unsigned png_sample(size_t y, size_t x, unsigned k, unsigned depth, unsigned type)
{
    unsigned v = (unsigned)(x * 11 + y * 7 + k * 50 + (x / 4 + y / 3) % 2 * 300);
    if (type == 3 && depth == 8)
        return v % 200;
    return v * (depth == 16 ? 97 : 1) & ((1u << depth) - 1);
}

static unsigned palette_entry(unsigned colour, unsigned k)
{
    return (colour * (k + 3) * 5 + k * 90) & 255;
}

static int paeth(int a, int b, int c)
{
    int p = a + b - c, pa = abs(p - a), pb = abs(p - b), pc = abs(p - c);
    return pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
}

/* Adds the filtered rows of one pass; filters take turns. */
static void png_pass(bytes *raw, size_t w, size_t h, unsigned depth, unsigned type,
                     const int pass[4])
{
    unsigned samples = samples_of(type);
    size_t unit = samples * depth < 8 ? 1 : samples * depth / 8;
    size_t pw = ((ptrdiff_t)w - pass[0] + pass[2] - 1) / pass[2];
    size_t n = (pw * samples * depth + 7) / 8;
    unsigned char *row = grab(n), *above = grab(n);
    for (size_t y = (size_t)pass[1], turn = 0; pw && (size_t)pass[0] < w && y < h;
         y += (size_t)pass[3], turn++) {
        bytes packed = {0};
        for (size_t x = (size_t)pass[0]; x < w; x += (size_t)pass[2])
            for (unsigned k = 0; k < samples; k++) {
                unsigned v = png_sample(y, x, k, depth, type);
                for (unsigned i = depth; i-- > 0;) {
                    packed.bits = packed.bits << 1 | (v >> i & 1);
                    if (++packed.nbits == 8) {
                        add_byte(&packed, packed.bits & 255);
                        packed.nbits = 0;
                    }
                }
            }
        if (packed.nbits)
            add_byte(&packed, packed.bits << (8 - packed.nbits) & 255);
        memcpy(row, packed.p, n);
        drop(&packed);
        add_byte(raw, turn % 5);
        for (size_t i = 0; i < n; i++) {
            int a = i >= unit ? row[i - unit] : 0, b = above[i],
                c = i >= unit ? above[i - unit] : 0;
            int guess[5] = {0, a, b, (a + b) / 2, paeth(a, b, c)};
            add_byte(raw, (unsigned)(row[i] - guess[turn % 5]) & 255);
        }
        memcpy(above, row, n);
    }
    free(row);
    free(above);
}

static void png_raw(bytes *raw, size_t w, size_t h, unsigned depth, unsigned type,
                    int interlaced)
{
    static const int adam7[7][4] = {{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4},
                                    {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}};
    static const int whole[4] = {0, 0, 1, 1};
    if (!interlaced)
        png_pass(raw, w, h, depth, type, whole);
    for (int i = 0; interlaced && i < 7; i++)
        png_pass(raw, w, h, depth, type, adam7[i]);
}

static void png_start(bytes *b, size_t w, size_t h, unsigned depth, unsigned type,
                      int interlaced)
{
    bytes head = {0};
    add_big(&head, w, 4);
    add_big(&head, h, 4);
    add_byte(&head, depth);
    add_byte(&head, type);
    add(&head, "\0\0", 2);
    add_byte(&head, (unsigned)interlaced);
    add(b, "\211PNG\r\n\032\n", 8);
    chunk(b, "IHDR", head.p, head.n);
    drop(&head);
}

static void png_palette(bytes *b, unsigned depth)
{
    bytes palette = {0};
    unsigned colours = depth == 8 ? 200 : 1u << depth;
    for (unsigned i = 0; i < 3 * colours; i++)
        add_byte(&palette, palette_entry(i / 3, i % 3));
    chunk(b, "PLTE", palette.p, palette.n);
    chunk(b, "tRNS", "\0\200", 2);
    drop(&palette);
}

/* split: bytes in one IDAT */
static void png_make(bytes *b, size_t w, size_t h, unsigned depth, unsigned type,
                     int interlaced, int kind, size_t split)
{
    bytes raw = {0}, z = {0};
    png_start(b, w, h, depth, type, interlaced);
    if (type == 3)
        png_palette(b, depth);
    chunk(b, "tEXt", "Comment\0ignored", 15);
    png_raw(&raw, w, h, depth, type, interlaced);
    zlib_make(&z, raw.p, raw.n, kind);
    for (size_t i = 0; i < z.n; i += split)
        chunk(b, "IDAT", z.p + i, z.n - i < split ? z.n - i : split);
    chunk(b, "IEND", "", 0);
    drop(&raw);
    drop(&z);
}

static int png_same(const io_array *a, unsigned depth, unsigned type)
{
    for (size_t k = 0; k < a->c; k++)
        for (size_t y = 0; y < a->h; y++)
            for (size_t x = 0; x < a->w; x++) {
                double max = (1u << depth) - 1, p;
                p = png_sample(y, x, type == 3 ? 0 : (unsigned)k, depth, type);
                if (type == 3) {
                    p = palette_entry((unsigned)p, (unsigned)k);
                    max = 255;
                }
                if (a->v[(k * a->h + y) * a->w + x] != (di_real)(2 * p / max - 1))
                    return 0;
            }
    return 1;
}

static void test_png_kinds(void)
{
    static const unsigned char forms[15][2] = {{0, 1}, {0, 2},  {0, 4},  {0, 8}, {0, 16},
                                               {2, 8}, {2, 16}, {3, 1},  {3, 2}, {3, 4},
                                               {3, 8}, {4, 8},  {4, 16}, {6, 8}, {6, 16}};
    static const size_t sizes[][2] = {{1, 1}, {3, 2}, {1, 5}, {6, 1}, {9, 11}, {34, 7}};
    char err[256];
    for (size_t f = 0; f < 15; f++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (int interlaced = 0; interlaced < 2; interlaced++)
                for (int kind = 0; kind < KINDS; kind++) {
                    unsigned type = forms[f][0], depth = forms[f][1];
                    size_t w = sizes[s][0], h = sizes[s][1], c = type == 0 || type == 4 ? 1 : 3;
                    bytes b = {0};
                    io_array a;
                    png_make(&b, w, h, depth, type, interlaced, kind,
                             kind == FIXED ? 7 : 65536);
                    int code = read_bytes(&a, b.p, b.n, kind == DEEP ? "[0]" : "", err);
                    check(!code && shape_is(&a, 1, c, h, w, 1) && png_same(&a, depth, type),
                          "PNG type %u depth %u %zux%zu interlaced %d deflate %d: %s", type,
                          depth, w, h, interlaced, kind, err);
                    io_free(&a);
                    drop(&b);
                }
    bytes b = {0};
    io_array a;
    png_make(&b, 200, 120, 8, 2, 1, DEEP, 1000);
    check(!read_bytes(&a, b.p, b.n, "", err) && png_same(&a, 8, 2), "a larger PNG: %s", err);
    io_free(&a);
    refused(b.p, b.n, "[1]", "holds 1");
    drop(&b);
}

/* Makes the CRCs of all chunks right again, as far as the lengths lead. */
static void repair(unsigned char *p, size_t n)
{
    for (size_t i = 8; n - i >= 12;) {
        size_t len =
            (size_t)p[i] << 24 | (size_t)p[i + 1] << 16 | (size_t)p[i + 2] << 8 | p[i + 3];
        if (len > n - i - 12)
            return;
        uint32_t c = crc(p + i + 4, len + 4);
        for (int k = 0; k < 4; k++)
            p[i + 8 + len + (size_t)k] = (unsigned char)(c >> (24 - 8 * k));
        i += len + 12;
    }
}

/* All truncations and all single damaged bytes are refused. With the CRCs made right again,
 * they end cleanly; and what is read from damaged compressed data is right, for Adler-32 saw
 * it. */
static void test_png_damage(int kind, unsigned type, int interlaced)
{
    char err[256];
    io_array a;
    bytes b = {0};
    png_make(&b, 5, 4, type == 3 ? 4 : 8, type, interlaced, kind, 65536);
    unsigned char *p = grab(b.n);
    size_t data = 0;
    int wrong = 0;
    while (memcmp(b.p + data, "IDAT", 4) != 0)
        data++;
    for (size_t n = 0; n < b.n; n++)
        check(read_bytes(&a, b.p, n, "", err) == IO_BAD, "PNG cut at %zu is refused", n);
    for (size_t i = 0; i < b.n; i++)
        for (unsigned v = 1; v < 256; v = next_damage(v)) {
            memcpy(p, b.p, b.n);
            p[i] ^= (unsigned char)v;
            if (i > 8 && read_bytes(&a, p, b.n, "", err) != IO_BAD) {
                check(0, "PNG byte %zu ^ %u is not refused", i, v);
                io_free(&a);
            }
            repair(p, b.n);
            int code = read_bytes(&a, p, b.n, "", err);
            if (!code && i > data + 4 && (a.h != 4 || !png_same(&a, type == 3 ? 4 : 8, type)))
                wrong++;
            io_free(&a);
        }
    check(!wrong, "%d PNGs with damaged data were read wrongly", wrong);
    free(p);
    drop(&b);
}

/* A grey 8-bit PNG of w x h around compressed data z. */
static void png_around(bytes *b, size_t w, size_t h, const bytes *z)
{
    png_start(b, w, h, 8, 0, 0);
    chunk(b, "IDAT", z->p, z->n);
    chunk(b, "IEND", "", 0);
}

static void refuse_data(bytes *z, size_t w, size_t h, const char *says)
{
    bytes b = {0};
    png_around(&b, w, h, z);
    refused(b.p, b.n, "", says);
    drop(&b);
    drop(z);
}

static void test_png_streams(void)
{
    static const unsigned char rows[6] = {0, 1, 2, 0, 3, 4};
    bytes z = {0};
    unsigned char length[288], distance[32];
    zlib_make(&z, rows, 6, FIXED);
    refuse_data(&z, 3, 2, "less data");
    zlib_make(&z, rows, 6, FIXED);
    refuse_data(&z, 2, 1, "more data");
    zlib_make(&z, rows, 6, STORED);
    refuse_data(&z, 2, 1, "more data");
    zlib_make(&z, rows, 6, STORED);
    z.p[z.n - 1] ^= 1;
    refuse_data(&z, 2, 2, "checksum");
    zlib_make(&z, rows, 6, STORED);
    z.p[3] ^= 1;
    refuse_data(&z, 2, 2, "length");
    zlib_make(&z, (const unsigned char *)"\5\1\2\0\3\4", 6, STORED);
    refuse_data(&z, 2, 2, "filter");
    add(&z, "\x78\x9c\x07", 3);
    refuse_data(&z, 2, 2, "unknown form");
    add(&z, "\x79\x9c\x03\0", 4);
    refuse_data(&z, 2, 2, "unknown form");
    add(&z, "\x78\x20\x03\0", 4);
    refuse_data(&z, 2, 2, "unknown form");
    for (unsigned i = 0; i < 288; i++)
        length[i] = (unsigned char)(i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8);
    memset(distance, 5, 32);
    for (int bad = 0; bad < 3; bad++) {
        /* a distance of 2 after one byte; distance symbol 30; length symbol 286 */
        add(&z, "\x78\x01", 2);
        put_bits(&z, 1, 1);
        put_bits(&z, 1, 2);
        put_symbol(&z, length, 288, 0);
        put_symbol(&z, length, 288, bad == 2 ? 286 : 257);
        put_symbol(&z, distance, 32, bad == 1 ? 30 : 1);
        put_align(&z);
        add(&z, "\0\0\0\0", 4);
        refuse_data(&z, 2, 2,
                    bad == 0   ? "before its first byte"
                    : bad == 1 ? "before"
                               : "unknown");
    }
    for (int bad = 0; bad < 4; bad++) {
        /* over-full, incomplete, without an end symbol, with one distance that is never given
         */
        unsigned char literal[286] = {0}, far[30] = {0};
        literal[0] = literal[1] = literal[256] = 2;
        literal[2] = bad == 1 ? 0 : 2;
        literal[3] = bad == 0 ? 2 : 0;
        if (bad == 2) {
            literal[256] = 0;
            literal[3] = 2;
        }
        if (bad == 3) {
            literal[2] = 0;
            literal[257] = 2;
            far[0] = 1;
        }
        add(&z, "\x78\x01", 2);
        put_bits(&z, 1, 1);
        put_bits(&z, 2, 2);
        put_lengths(&z, literal, far);
        put_symbol(&z, literal, 286, bad == 3 ? 257 : 0);
        put_bits(&z, 1, 1);
        put_bits(&z, 0, 15);
        put_align(&z);
        add(&z, "\0\0\0\0", 4);
        refuse_data(&z, 2, 2, bad == 3 ? "unknown" : "impossible");
    }
}

static void test_png_chunks(void)
{
    static const unsigned char rows[6] = {0, 0, 255, 0, 51, 0};
    static const char *const says[] = {"",           "interrupted", "header",  "header",
                                       "ends early", "meaning",     "missing", "palette",
                                       "palette",    "palette",     "missing", "unknown form"};
    char err[256];
    io_array a;
    bytes z = {0};
    zlib_make(&z, rows, 6, FIXED);
    for (int bad = 0; bad < 12; bad++) {
        bytes b = {0};
        int palette = bad >= 7 && bad <= 9;
        if (bad == 3)
            add(&b, "\211PNG\r\n\032\n", 8);
        else
            png_start(&b, 2, 2, bad == 11 ? 4 : 8, palette ? 3 : bad == 11 ? 2 : 0, 0);
        if (bad == 2)
            png_start(&b, 2, 2, 8, 0, 0);
        if (bad == 2)
            memmove(b.p + 33, b.p + 41, (b.n -= 8) - 33);
        chunk(&b, bad == 5 ? "CgBI" : "caNb", "any", 3);
        if (palette)
            chunk(&b, "PLTE", "abcdef", bad == 7 ? 6 : bad == 8 ? 5 : 0);
        if (bad != 6)
            chunk(&b, "IDAT", z.p, bad == 1 || bad == 10 ? 4 : z.n);
        if (bad == 1) {
            chunk(&b, "tIME", "\7\350\1\1\0\0\0", 7);
            chunk(&b, "IDAT", z.p + 4, z.n - 4);
        }
        if (bad == 10)
            b.n -= 16 - 4 + 4;
        if (bad != 4)
            chunk(&b, "IEND", "", 0);
        if (bad) {
            refused(b.p, b.n, "", says[bad]);
        } else {
            add_text(&b, "anything after the end");
            int code = read_bytes(&a, b.p, b.n, "", err);
            check(!code && a.v[0] == -1 && a.v[1] == 1 && a.v[2] == (di_real)(102.0 / 255 - 1),
                  "PNG with unknown ancillary chunks: %s", err);
            io_free(&a);
        }
        drop(&b);
    }
    static const size_t sizes[][2] = {{0, 2},        {2, 0},          {65537, 1},
                                      {65536, 4097}, {0xffffffff, 1}, {65536, 4096},
                                      {4096, 65536}, {20000, 10000}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        bytes b = {0};
        png_around(&b, sizes[i][0], sizes[i][1], &z);
        refused(b.p, b.n, "", i < 2 ? "zero" : i < 5 ? "larger" : "less data");
        drop(&b);
    }
    drop(&z);
}

/* ------------------------------------------------------------------------------------------
 * PPM, PGM and PFM in; formats that are refused by name.
 * ------------------------------------------------------------------------------------------ */

static void read_pnm(const char *text, size_t n, size_t c, size_t h, size_t w,
                     const double *want)
{
    char err[256];
    io_array a;
    int same = 1, code = read_bytes(&a, text, n, "", err);
    int shaped = !code && a.n == 1 && a.c == c && a.h == h && a.w == w;
    for (size_t i = 0; shaped && i < c * h * w; i++)
        same &= a.v[i] == (di_real)want[i];
    check(shaped && same, "PNM %.12s: %s", text, err);
    io_free(&a);
    for (size_t i = 0; i + 1 < n; i++) {
        code = read_bytes(&a, text, i, "", err);
        check(code == IO_BAD || (text[1] < '4' && i + 3 >= n), "PNM %.12s cut at %zu", text, i);
        io_free(&a);
    }
}

/* a literal and its length, zero bytes included */
#define LITERAL(s) s, sizeof s - 1

static void test_pnm(void)
{
    const double grey[4] = {-1, 1, 2.0 * 50 / 100 - 1, 2.0 * 7 / 100 - 1};
    const double wide[4] = {2.0 * 1 / 1000 - 1, 1, 2.0 * 258 / 1000 - 1, -1};
    const double colour[6] = {-1, 1, 2.0 * 51 / 255 - 1, -1, 1, 2.0 * 10 / 255 - 1};
    const double bits[2] = {-1, 1};
    read_pnm(LITERAL("P2\n2 2\n100\n0 100\n50 7\n"), 1, 2, 2, grey);
    read_pnm(LITERAL("P2 # grey\n#all\n2 2 #size\n100 0 100 50 # x\n 7 "), 1, 2, 2, grey);
    read_pnm(LITERAL("P2 2 1 1\r\n0\r\n1\r\n"), 1, 1, 2, bits);
    read_pnm(LITERAL("P3 2 1 255 0 51 255\n255 0 10 "), 3, 1, 2, colour);
    read_pnm(LITERAL("P5 2 2 100 \0\144\062\007"), 1, 2, 2, grey);
    read_pnm(LITERAL("P5\n# c\n2 2\n1000\n\0\1\3\350\1\2\0\0"), 1, 2, 2, wide);
    read_pnm(LITERAL("P6 2 1 255\n\0\63\377\377\0\12"), 3, 1, 2, colour);
    read_pnm(LITERAL("P5 1 1 65535\n\377\377"), 1, 1, 1, (const double[]){1});
    refused(LITERAL("P5 2 2 0 abcd"), "", "header");
    refused(LITERAL("P5 2 2 65536 abcdabcd"), "", "header");
    refused(LITERAL("P5 0 2 255 "), "", "header");
    refused(LITERAL("P5 70000 2 255 "), "", "header");
    refused(LITERAL("P5 65536 65536 255 "), "", "header");
    refused(LITERAL("P5 60000 4000 255 ab"), "", "ends early");
    refused(LITERAL("P2 60000 4000 255 1 1"), "", "ends early");
    refused(LITERAL("P5 2 2 100 \0\144\145\0"), "", "above");
    refused(LITERAL("P2 2 1 100 1 101 "), "", "above");
    refused(LITERAL("P2 2 1 100 1 -1 "), "", "missing");
    refused(LITERAL("P2 1 1 1 99999999999999999999999"), "", "above");
    refused(LITERAL("P5 2 1 9 \1\2P5 2 1 9 \1\2"), "", "more behind");
    refused(LITERAL("P5 2 1 9\1\2"), "", "header");
    refused(LITERAL("P5 2 1 9 \1\2"), "[1]", "holds 1");
}

static void test_pfm(void)
{
    char err[256];
    for (int big = 0; big < 2; big++)
        for (int colour = 0; colour < 2; colour++) {
            bytes b = {0};
            io_array a;
            size_t c = colour ? 3 : 1, w = 3, h = 2;
            int same = 1;
            add_text(&b, colour ? "PF\n3 2\n" : "Pf 3\n2\r\n");
            add_text(&b, big ? "1.000000\n" : "-2.5e-1\r\n");
            for (size_t y = h; y-- > 0;)
                for (size_t i = 0; i < w * c; i++) {
                    uint64_t u = encode('f', 4, (int)(y * 100 + i) - 50);
                    for (unsigned k = 0; k < 4; k++)
                        add_byte(&b, (unsigned)(u >> 8 * (big ? 3 - k : k)) & 255);
                }
            int code = read_bytes(&a, b.p, b.n, "", err);
            int shaped = !code && shape_is(&a, 1, c, h, w, 0);
            for (size_t i = 0; shaped && i < c * h * w; i++)
                same &=
                    a.v[i] == (di_real)((int)(i / w % h * 100 + i % w * c + i / w / h) - 50);
            check(shaped && same, "PFM big %d colour %d: %s", big, colour, err);
            io_free(&a);
            for (size_t n = 0; n < b.n; n++)
                check(read_bytes(&a, b.p, n, "", err) == IO_BAD, "PFM cut at %zu", n);
            drop(&b);
        }
    refused(LITERAL("Pf 1 1 0.0\nabcd"), "", "header");
    refused(LITERAL("Pf 1 1 x\nabcd"), "", "header");
    refused(LITERAL("Pf 1 1 -1.0\nabcdefgh"), "", "more behind");
}

static void test_refusals(void)
{
    static const struct {
        const char *head;
        size_t n;
        const char *says;
    } known[] = {
        {LITERAL("\377\330\377\340\0\20JFIF"), "JPEG picture"},
        {LITERAL("GIF89a"), "GIF"},
        {LITERAL("RIFF\0\0\0\0WEBPVP8 "), "WebP"},
        {LITERAL("II*\0\10\0\0\0"), "TIFF"},
        {LITERAL("MM\0*\0\0\0\10"), "TIFF"},
        {LITERAL("BM\66\0\0\0"), "BMP"},
        {LITERAL("\0\0\0\40ftypheic\0\0\0\0"), "HEIC"},
        {LITERAL("\0\0\0\40ftypavif\0\0\0\0"), "AVIF"},
        {LITERAL("\0\0\0\40ftypmif1\0\0\0\0"), "HEIF"},
        {LITERAL("\0\0\0\14jP  \r\n\207\n"), "JPEG 2000"},
        {LITERAL("PK\3\4\24\0\0\0\0\0\0\0!\0abcdabcdabcd\10\0\0\0file.txt"), "ZIP"},
        {LITERAL("PK\3\4\24\0\0\0\0\0\0\0!\0abcdabcdabcd\11\0\0\0arr_0.npy"), "unzip in.npz"},
        {LITERAL("PK\3\4\0\0\10\10\0\0\0\0\0\0abcdabcdabcd\20\0\0\0archive/data.pkl"),
         "PyTorch"},
        {LITERAL("PK\3\4"), "ZIP"},
        {LITERAL("\200\002\212\012l\374\234F\371 j\250P\031."), "PyTorch"},
        {LITERAL("\200\004\225\0\0\0"), "pickle"},
        {LITERAL("%PDF-1.7"), "PDF"},
        {LITERAL("\211HDF\r\n\032\n"), "HDF5"},
        {LITERAL("\211UNW\r\n\032\n\1\0\0\0"), "weight file"},
        {LITERAL("\200\0\0\0\0\0\0\0{\"__metadata__\""), "safetensors"},
        {LITERAL("MATLAB 5.0 MAT-file"), "MATLAB"},
        {LITERAL("P4 8 1 \1"), "PBM"},
        {LITERAL("P7\nWIDTH 1\n"), "PAM"},
        {LITERAL("<svg xmlns="), "SVG"},
        {LITERAL("hello\n"), "not an NPY"},
        {LITERAL(""), "is empty"},
        {LITERAL("\0"), "not an NPY"},
    };
    char err[256];
    io_array a;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        refused(known[i].head, known[i].n, "", known[i].says);
    refused("\377\330\377\340\0\20JFIF", 10, "", "magick in.jpg out.png");
    check(io_read(&a, at("no such file.png"), err, sizeof err) == IO_BAD && !a.v &&
              strstr(err, "no such file.png") && strstr(err, "cannot open"),
          "a file that is not there: %s", err);
    check(io_read(&a, folder, err, sizeof err) == IO_BAD && strstr(err, "folder"),
          "a folder: %s", err);
    check(io_read(&a, "/dev/null", err, sizeof err) == IO_BAD && strstr(err, "regular"),
          "a device: %s", err);
    char *longest = grab(6001);
    memset(longest, 'x', 6000);
    check(io_read(&a, longest, err, sizeof err) == IO_BAD && !a.v, "a path too long");
    check(io_read(&a, longest, NULL, 0) == IO_BAD, "without a place for the line");
    free(longest);
}

/* ------------------------------------------------------------------------------------------
 * Writing.
 * ------------------------------------------------------------------------------------------ */

/* Pictures of whole byte values from a formula; noise 0: smooth, 256: nothing but noise. */
static io_array make_picture(size_t n, size_t c, size_t h, size_t w, unsigned noise)
{
    io_array a;
    uint32_t s = 12345;
    if (io_make(&a, n, c, h, w))
        exit(1);
    for (size_t i = 0; i < n * c * h * w; i++) {
        size_t x = i % w, y = i / w % h, k = i / w / h;
        s = s * 1664525u + 1013904223u;
        unsigned v = (unsigned)(x * 3 + y * 2 + k * 40) + (noise ? (s >> 16) % noise : 0);
        v = noise == 256 ? s >> 24 : v % 512 < 256 ? v % 256 : 255 - v % 256;
        a.v[i] = (di_real)(2.0 * v / 255 - 1.0);
    }
    a.picture = 1;
    return a;
}

/* Are a and b the same, if values are float in between? */
static int same_array(const io_array *a, const io_array *b, int as_float)
{
    size_t count = a->n * a->c * a->h * a->w;
    if (!a->v || !b->v || a->n != b->n || a->c != b->c || a->h != b->h || a->w != b->w)
        return 0;
    for (size_t i = 0; i < count; i++) {
        di_real want = as_float ? (di_real)(float)a->v[i] : a->v[i];
        if (want != b->v[i] && (want == want || b->v[i] == b->v[i]))
            return 0;
    }
    return 1;
}

static size_t size_of(const char *name)
{
    struct stat st;
    return stat(at(name), &st) == 0 ? (size_t)st.st_size : 0;
}

/* Writes a and reads it again. */
static void round_trip(const io_array *a, const char *name, int picture)
{
    char err[256] = "";
    io_array b;
    int code = io_write(at(name), a, NULL, err, sizeof err);
    if (!code)
        code = io_read(&b, at(name), err, sizeof err);
    check(!code && same_array(a, &b, strstr(name, ".pfm") != NULL) && b.picture == picture,
          "%s %zux%zux%zux%zu again: %s", name, a->n, a->c, a->h, a->w, err);
    if (!code)
        io_free(&b);
}

static void test_round_trips(void)
{
    static const size_t sizes[][2] = {{1, 1}, {1, 7}, {5, 1}, {16, 16}, {64, 64}, {131, 257}};
    static const unsigned noises[] = {0, 9, 60, 256};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (size_t c = 1; c <= 3; c += 2)
            for (size_t q = 0; q < 4; q++) {
                io_array a = make_picture(1, c, sizes[s][0], sizes[s][1], noises[q]);
                size_t raw = sizes[s][0] * (c * sizes[s][1] + 1);
                round_trip(&a, "a.png", 1);
                check(size_of("a.png") <= raw + raw / 1000 + 100,
                      "PNG noise does not grow: %zu of %zu", size_of("a.png"), raw);
                if (q == 3) {
                    round_trip(&a, c == 3 ? "a.ppm" : "a.pgm", 1);
                    round_trip(&a, "a.pfm", 0);
                    round_trip(&a, "a.NPY", 0);
                }
                io_free(&a);
            }
    io_array a = make_picture(1, 3, 600, 500, 3);
    for (size_t i = 0; i < a.h * a.w; i++) /* long matches, far and near, beside the noise */
        if (i / a.w % 40 < 20)
            a.v[i] = i % a.w % 100 < 50 ? -1 : 1;
    round_trip(&a, "large.PNG", 1);
    io_free(&a);
    a = make_picture(5, 2, 3, 4, 256);
    a.v[7] = (di_real)NAN;
    a.v[8] = -INFINITY;
    a.v[9] = (di_real)1e-30;
    round_trip(&a, "a.npy", 0);
    io_free(&a);
    a = make_picture(1, 1, 64, 64, 0);
    for (size_t i = 0; i < 64 * 64; i++)
        a.v[i] = 0;
    check(!io_write(at("flat.png"), &a, NULL, NULL, 0) && size_of("flat.png") < 120,
          "a flat PNG");
    io_free(&a);
    a = make_picture(1, 3, 64, 64, 9);
    /* libpng and zlib at their best make 6363 bytes of it; 5 % more is as good */
    check(!io_write(at("photo.png"), &a, NULL, NULL, 0) && size_of("photo.png") < 6680,
          "a PNG of %zu bytes", size_of("photo.png"));
    io_free(&a);
    empty_folder();
}

static int file_holds(const char *name, const char *what, size_t n)
{
    char *p = NULL, err[256];
    size_t len = 0;
    int found = 0;
    if (io_read_text(at(name), &p, &len, 1u << 24, err, sizeof err))
        return 0;
    for (size_t i = 0; i + n <= len; i++)
        found |= memcmp(p + i, what, n) == 0;
    free(p);
    return found;
}

static void test_write_values(void)
{
    static const double x[9] = {-1, 1, -2, 2, 0, -0.9955, -0.99, 0.5, 0};
    static const int p[9] = {0, 255, 0, 255, 128, 1, 1, 191, 0};
    static const char *const text[] = {"seed", "7", "name", "M\303\274ller", NULL};
    static const char *const bad[] = {"k\n", "x", NULL};
    char err[256] = "";
    io_array a, b;
    if (io_make(&a, 1, 1, 3, 3))
        exit(1);
    for (int i = 0; i < 9; i++)
        a.v[i] = i == 8 ? (di_real)NAN : (di_real)x[i];
    check(!io_write(at("v.png"), &a, text, err, sizeof err) &&
              !io_read(&b, at("v.png"), err, 256),
          "values: %s", err);
    for (int i = 0; b.v && i < 9; i++)
        check(b.v[i] == (di_real)(2.0 * p[i] / 255 - 1), "value %d of a PNG is %g", i,
              (double)b.v[i]);
    io_free(&b);
    check(file_holds("v.png",
                     "tEXtseed\0"
                     "7",
                     10),
          "a text in a PNG");
    check(file_holds("v.png", "iTXtname\0\0\0\0\0M\303\274ller", 20), "a UTF-8 text in a PNG");
    check(io_write(at("w.png"), &a, bad, err, sizeof err) == IO_OUTPUT, "a bad key of a text");
    check(!io_write(at("v.ppm"), &a, NULL, err, 256) &&
              file_holds("v.ppm", "P6\n3 3\n255\n\0\0\0\377\377", 16),
          "grey as PPM");
    check(!io_write(at("v.npy"), &a, NULL, err, 256) &&
              file_holds("v.npy",
                         sizeof(di_real) == 4
                             ? "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 3), }"
                             : "{'descr': '<f8', 'fortran_order': False, 'shape': (1, 3, 3), }",
                         62) &&
              size_of("v.npy") == 128 + 9 * sizeof(di_real),
          "an NPY header");
    io_free(&a);
    a = make_picture(7, 1, 4, 5, 256);
    check(!io_write(at("g.png"), &a, NULL, err, 256) && !io_read(&b, at("g.png"), err, 256) &&
              shape_is(&b, 1, 1, 3 * 4 + 2 * 2, 3 * 5 + 2 * 2, 1),
          "seven pictures in a grid: %s", err);
    int same = 1;
    for (size_t i = 0; b.v && i < 7 * 20; i++)
        same &= a.v[i] == b.v[(i / 20 / 3 * 6 + i % 20 / 5) * 19 + i / 20 % 3 * 7 + i % 5];
    check(same && b.v && b.v[5] == -1 && b.v[4 * 19] == -1 && b.v[15 * 19 + 18] == -1,
          "the grid");
    io_free(&b);
    io_free(&a);
    empty_folder();
}

static void write_fails(const char *path, const io_array *a, const char *says)
{
    char err[256] = "";
    int code = io_write(path, a, NULL, err, sizeof err);
    check(code == IO_OUTPUT && strstr(err, says) && !strchr(err, '\n'),
          "want '%s', got %d '%s'", says, code, err);
}

static void removed_by_signal(int number)
{
    (void)number;
    io_remove_temporary();
}

/* A file size limit is a full disk that any system has. */
static void test_disk_full(const io_array *a)
{
    struct rlimit old, tight;
    char err[256];
    store("old.npy", "precious", 8);
    if (getrlimit(RLIMIT_FSIZE, &old) != 0) {
        check(0, "no file size limit here");
        return;
    }
    tight = old;
    tight.rlim_cur = 4096;
    for (int hook = 0; hook < 2; hook++) {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_handler = hook ? removed_by_signal : SIG_IGN;
        sigaction(SIGXFSZ, &action, NULL);
        setrlimit(RLIMIT_FSIZE, &tight);
        write_fails(at("full.npy"), a, "cannot write");
        write_fails(at("old.npy"), a, "cannot write");
        check(io_write_text(at("full.txt"), (const char *)a->v, 9000, err, 256) == IO_OUTPUT,
              "text on a full disk");
        setrlimit(RLIMIT_FSIZE, &old);
        check(files_in_folder() == 1 && size_of("old.npy") == 8, "a full disk leaves no trace");
    }
    signal(SIGXFSZ, SIG_DFL);
    remove(at("old.npy"));
}

static void test_write_failures(void)
{
    io_array none = {0, 0, 0, 0, NULL, 0}, a = make_picture(1, 3, 50, 60, 256);
    io_array two = make_picture(1, 2, 4, 4, 0), many = make_picture(2, 1, 4, 4, 0);
    char err[256], *p = NULL;
    size_t n = 0;
    write_fails(at("x.jpg"), &a, ".npy, .png, .ppm, .pgm");
    write_fails(at("x"), &a, ".npy, .png");
    write_fails(".png", &a, "no known format");
    write_fails(at("x.png"), &two, "1 or 3 channels");
    write_fails(at("x.pgm"), &a, "grey");
    write_fails(at("x.pfm"), &many, "one picture");
    write_fails(at("x.png"), &none, "nothing");
    write_fails(at("no folder/x.png"), &a, "cannot write");
    write_fails(at("no folder/x.npy"), &a, "cannot write");
    store("file", "", 0);
    write_fails(at("file/x.png"), &a, "cannot write");
    remove(at("file"));
    check(mkdir(at("dir.png"), 0777) == 0, "a folder");
    write_fails(at("dir.png"), &a, "cannot write");
    check(io_write_text(folder, "x", 1, err, sizeof err) == IO_OUTPUT, "text over a folder");
    rmdir(at("dir.png"));
    check(files_in_folder() == 0, "failures leave nothing behind");
    struct stat st;
    if (stat("/dev/full", &st) == 0 && symlink("/dev/full", at("full.png")) == 0) {
        write_fails(at("full.png"), &a, "cannot write");
        check(io_write_text("/dev/full", "x", 1, err, sizeof err) == IO_OUTPUT,
              "text to /dev/full");
        check(stat("/dev/full", &st) == 0 && S_ISCHR(st.st_mode), "the device is still one");
        remove(at("full.png"));
    } else {
        printf("note: no /dev/full here; the file size limit stands for it\n");
    }
    check(!io_write_text("/dev/null", "x", 1, err, sizeof err), "text to /dev/null: %s", err);
    test_disk_full(&a);
    io_remove_temporary();
    check(!io_write_text(at("t.run"), "a=1\n", 4, err, sizeof err) &&
              !io_write_text(at("t.run"),
                             "a=\0"
                             "2",
                             4, err, sizeof err) &&
              files_in_folder() == 1 &&
              !io_read_text(at("t.run"), &p, &n, 4, err, sizeof err) && n == 4 &&
              !memcmp(p,
                      "a=\0"
                      "2",
                      5),
          "text again");
    free(p);
    check(io_read_text(at("t.run"), &p, &n, 3, err, sizeof err) == IO_BAD && !p &&
              strstr(err, "3"),
          "text beyond its cap: %s", err);
    io_free(&a);
    io_free(&two);
    io_free(&many);
    empty_folder();
}

/* ------------------------------------------------------------------------------------------
 * Metrics. The known answers are from a slow program in which windows are sums over two
 * dimensions, moments are centred and Gaussian weights come from exp.
 * ------------------------------------------------------------------------------------------ */

/* Two pictures (c,h,w) whose values k/128 - 1 are exact in float. */
static void formula_pair(di_real *x, di_real *ref, size_t c, size_t h, size_t w)
{
    for (size_t k = 0; k < c; k++)
        for (size_t i = 0; i < h; i++)
            for (size_t j = 0; j < w; j++) {
                int v = (int)((8 * i + 5 * j + 40 * k) % 256);
                int u = v + (int)((i * 7919 + j * 104729 + k * 31 + i * j * 13) % 41) - 20;
                u = u < 0 ? 0 : u > 255 ? 255 : u;
                *ref++ = (di_real)(v / 128.0 - 1.0);
                *x++ = (di_real)(u / 128.0 - 1.0);
            }
}

static void test_metrics(void)
{
    const struct {
        size_t c, h, w;
        double psnr_piq, ssim_piq, ssim;
    } known[] = {
        {1, 32, 32, 26.9961782061288, 0.842294484242002, 0.89443907175937},
        {3, 40, 28, 26.7957240762595, 0.835333052682908, 0.886803494088212},
        {1, 400, 384, 26.9517929936472, 0.987863216905936, 0.890850192231872},
        {3, 11, 11, 26.6055664794628, 0.771320194797922, 0.847469235735011},
        {3, 7, 9, 26.6833571993727, NAN, 0.841901071736972},
    };
    di_real *x = grab(400 * 384 * sizeof *x), *y = grab(400 * 384 * sizeof *y);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        size_t c = known[i].c, h = known[i].h, w = known[i].w, count = c * h * w;
        formula_pair(x, y, c, h, w);
        /* 1e-12: rounding of sums of 1e5 terms; 15 digits were written down */
        near(pic_psnr_piq(x, y, count), known[i].psnr_piq, 1e-11, "PSNR of piq");
        near(pic_ssim(x, y, c, h, w), known[i].ssim, 1e-12, "SSIM");
        double s = pic_ssim_piq(x, y, c, h, w);
        if (known[i].ssim_piq != known[i].ssim_piq)
            check(s != s, "SSIM of piq below its window is NaN");
        else
            near(s, known[i].ssim_piq, 1e-12, "SSIM of piq");
        near(pic_ssim(x, y, c, h, w), pic_ssim(y, x, c, h, w), 1e-14, "SSIM is symmetric");
        if (s == s)
            near(s, pic_ssim_piq(y, x, c, h, w), 1e-14, "SSIM of piq is symmetric");
        near(pic_ssim(x, x, c, h, w), 1, 1e-12, "SSIM(x,x)");
        if (s == s)
            near(pic_ssim_piq(y, y, c, h, w), 1, 1e-12, "SSIM(x,x) of piq");
        near(pic_psnr_piq(x, x, count), 80, 1e-12, "PSNR of piq at most");
    }
    check(isnan(pic_ssim(x, y, 1, 6, 50)) && isnan(pic_ssim_piq(x, y, 1, 50, 10)), "too small");
    for (size_t i = 0; i < 100; i++) {
        x[i] = (di_real)(i / 100.0 - 0.5);
        y[i] = x[i] + (di_real)0.2;
    }
    /* an offset of .1 on [0,1]; 1e-5: the rounding of 0.2 and of the sums to float */
    near(pic_psnr_piq(x, y, 100), 20 - 10 * log10(1 + 1e-6), 1e-5,
         "PSNR of piq of an offset of .1");
    for (size_t i = 0; i < 100; i++) {
        x[i] = 5;
        y[i] = 1;
    }
    near(pic_psnr_piq(x, y, 100), 80, 1e-12, "values are clipped");
    near(pic_relative_l2(x, y, 100), 4, 1e-12, "relative L2");
    x[50] = (di_real)NAN;
    check(isnan(pic_psnr_piq(y, x, 100)) && isnan(pic_ssim(x, y, 1, 10, 10)),
          "NaN is never a good mark");
    memset(x, 0, 100 * sizeof *x);
    check(pic_relative_l2(x, x, 100) == 0 && isinf(pic_relative_l2(y, x, 100)),
          "relative L2 at zero");
    free(x);
    free(y);
}

/* ------------------------------------------------------------------------------------------
 * Sizes, sheets and grids.
 * ------------------------------------------------------------------------------------------ */

static double cubic(double t)
{
    t = fabs(t);
    return t < 1   ? 1.5 * t * t * t - 2.5 * t * t + 1
           : t < 2 ? -0.5 * t * t * t + 2.5 * t * t - 4 * t + 2
                   : 0;
}

/* One output pixel, straight from the definition. */
static double slow_bicubic(const di_real *src, size_t h, size_t w, size_t H, size_t W, size_t y,
                           size_t x)
{
    double ry = (double)h / H, rx = (double)w / W, sy = ry > 1 ? ry : 1, sx = rx > 1 ? rx : 1;
    double cy = (y + 0.5) * ry - 0.5, cx = (x + 0.5) * rx - 0.5, sum = 0, norm = 0;
    for (int i = -80; i < (int)h + 80; i++)
        for (int j = -80; j < (int)w + 80; j++) {
            double g = cubic((cy - i) / sy) * cubic((cx - j) / sx);
            size_t a = i < 0 ? 0 : (size_t)i >= h ? h - 1 : (size_t)i;
            size_t b = j < 0 ? 0 : (size_t)j >= w ? w - 1 : (size_t)j;
            norm += g;
            sum += g * (double)src[a * w + b];
        }
    return sum / norm;
}

static void test_bicubic(void)
{
    static const size_t to[][2] = {{7, 9}, {14, 18}, {28, 9}, {3, 4}, {1, 1}, {7, 2}, {11, 23}};
    di_real src[63], dst[14 * 28 * 2], pair[126];
    for (size_t i = 0; i < 63; i++)
        src[i] = (di_real)((int)(i * i * 7 % 31) - 15) / 16;
    for (size_t q = 0; q < sizeof to / sizeof *to; q++) {
        size_t H = to[q][0], W = to[q][1];
        double worst = 0;
        check(!pic_bicubic(dst, H, W, src, 7, 9, 1), "bicubic");
        for (size_t i = 0; i < H * W; i++) {
            double d = fabs((double)dst[i] - slow_bicubic(src, 7, 9, H, W, i / W, i % W));
            worst = d <= worst ? worst : d; /* NaN stays */
        }
        near(worst, 0, sizeof(di_real) == 4 ? 2e-7 : 1e-14, "bicubic against its definition");
    }
    pic_bicubic(dst, 7, 9, src, 7, 9, 1);
    check(!memcmp(dst, src, sizeof src), "bicubic to the same size changes nothing");
    memcpy(pair, src, sizeof src);
    memcpy(pair + 63, src, sizeof src);
    pic_bicubic(dst, 4, 4, pair, 7, 9, 2);
    check(!memcmp(dst, dst + 16, 16 * sizeof *dst), "bicubic takes channels alone");
    const di_real step[6] = {0, 0, 0, 1, 1, 1};
    pic_bicubic(dst, 1, 12, step, 1, 6, 1);
    /* Keys' weights at 1/4: -9/128, 111/128, 29/128, -3/128 */
    near((double)dst[5], 29 / 128.0 - 3 / 128.0, 1e-7, "bicubic at a step");
    near((double)dst[4], -3 / 128.0 - 0 * 9 / 128.0 - 0, 0.06, "bicubic before a step");
}

static void test_fit(void)
{
    char err[256] = "";
    io_array a;
    if (io_make(&a, 2, 1, 3, 4))
        exit(1);
    for (size_t i = 0; i < 24; i++)
        a.v[i] = (di_real)i;
    check(!pic_fit(&a, "pad", 9, 6, err, sizeof err) && a.h == 9 && a.w == 6 && a.n == 2,
          "pad: %s", err);
    /* rows 1 0 1 2 1 0 1 2 1 of [0,2] around the three from the third on; columns 1 0 1 2 3 2
     */
    static const int rows[9] = {1, 2, 1, 0, 1, 2, 1, 0, 1}, columns[6] = {1, 0, 1, 2, 3, 2};
    int same = 1;
    for (size_t i = 0; i < 54; i++)
        same &= a.v[i] == rows[i / 6] * 4 + columns[i % 6] && a.v[54 + i] == a.v[i] + 12;
    check(same, "pad mirrors at the edge pixels");
    check(!pic_fit(&a, "crop", 3, 4, err, sizeof err), "crop: %s", err);
    for (size_t i = 0; i < 24; i++)
        same &= a.v[i] == (di_real)i;
    check(same, "crop undoes pad");
    check(pic_fit(&a, "crop", 4, 4, err, sizeof err) == 2 && strstr(err, "3x4") && a.h == 3,
          "crop: %s", err);
    check(pic_fit(&a, "pad", 3, 2, err, sizeof err) == 2 && strstr(err, "--fit"), "pad: %s",
          err);
    check(pic_fit(&a, "stretch", 3, 2, err, sizeof err) == 1, "an unknown way: %s", err);
    a.picture = 1;
    check(!pic_fit(&a, "resize", 8, 8, err, sizeof err) && shape_is(&a, 2, 1, 8, 8, 1) &&
              a.v[0] <= 1 && a.v[127] == 1,
          "resize keeps a picture in its range");
    io_free(&a);
    if (io_make(&a, 1, 1, 1, 1))
        exit(1);
    check(!pic_fit(&a, "pad", 2, 5, err, sizeof err) && a.w == 5, "pad of one pixel");
    io_free(&a);
}

static void test_sheet(void)
{
    char err[256] = "";
    io_array truth = make_picture(1, 3, 64, 64, 9), small = make_picture(1, 1, 16, 16, 9), out,
             one;
    const char *labels[2] = {"dps", NULL};
    pic_cell cells[4] = {
        {truth.v, 3, 64, 64, "truth"},
        {small.v, 1, 16, 16, "measurement\n16x16, a long line of words to be broken"},
        {NULL, 0, 0, 0, "nothing here"},
        {truth.v, 3, 64, 64, NULL}};
    int code = pic_sheet(&out, cells, 2, 2, labels, err, sizeof err), same = 1;
    /* 2 columns of 256 and 3 margins of 8; heading 18, box 256, captions of 3 and 1 lines of 18
     * + 4 */
    check(!code && out.c == 3 && out.w == 536 && out.h == 8 + 18 + 256 + 58 + 8 + 256 + 22 + 8,
          "the sheet is %zux%zu: %s", out.h, out.w, err);
    for (size_t i = 0; !code && i < 256 * 256; i++) {
        size_t y = i / 256, x = i % 256;
        same &= out.v[(out.h + 26 + y) * out.w + 8 + x] == truth.v[(64 + y / 4) * 64 + x / 4];
        same &= out.v[(out.h * 2 + 26 + y) * out.w + 272 + x] == small.v[y / 16 * 16 + x / 16];
    }
    check(same, "pictures stand enlarged in the sheet");
    io_free(&out);
    cells[0].c = 2;
    check(pic_sheet(&out, cells, 2, 2, labels, err, sizeof err) == IO_BAD && !out.v,
          "two channels");
    check(pic_sheet(&out, cells, 0, 2, NULL, err, sizeof err) != 0 && !out.v, "no rows");
    /* a lone I at text size 1: rows of 3, 1, 1, 1, 1, 1, 3 pixels */
    pic_cell letter = {small.v, 1, 16, 16, "I"};
    letter.h = 1;
    letter.w = 1;
    check(!pic_sheet(&one, &letter, 1, 1, NULL, err, sizeof err) && one.c == 1, "one cell");
    size_t lit = 0;
    for (size_t i = 264 * one.w; i < one.h * one.w; i++)
        lit += one.v[i] > (di_real)0.5;
    check(lit == 4 * 11, "the letter has %zu pixels", lit);
    io_free(&one);
    io_array five = make_picture(5, 1, 64, 64, 9);
    check(!pic_grid(&one, &five) && one.w == 3 * 256 + 2 * 4 && one.h == 2 * 256 + 4 &&
              one.c == 1 && one.v[260] == five.v[64 * 64],
          "the grid is %zux%zu", one.h, one.w);
    io_free(&one);
    io_free(&five);
    io_free(&truth);
    io_free(&small);
}

/* With the argument "full" every byte of the small files is damaged in all 255 ways. */
int main(int argc, char **argv)
{
    full = argc > 1 && !strcmp(argv[1], "full");
    const char *temporary = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/diffinv-test-XXXXXX", temporary ? temporary : "/tmp");
    if (!mkdtemp(folder)) {
        printf("FAILED: cannot make a folder for the test in %s\n", folder);
        return 1;
    }
    test_npy_types();
    test_npy_values();
    test_npy_pictures();
    test_npy_selectors();
    test_npy_refusals();
    test_npy_damage();
    test_png_kinds();
    test_png_damage(STORED, 2, 0);
    test_png_damage(FIXED, 0, 1);
    test_png_damage(BALANCED, 3, 0);
    test_png_damage(DEEP, 6, 1);
    test_png_streams();
    test_png_chunks();
    test_pnm();
    test_pfm();
    test_refusals();
    empty_folder();
    test_round_trips();
    test_write_values();
    test_write_failures();
    test_metrics();
    test_bicubic();
    test_fit();
    test_sheet();
    empty_folder();
    rmdir(folder);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
