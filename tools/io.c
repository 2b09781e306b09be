/* io.c - image and array files; see io.h for what becomes of each kind. */
#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64

#include "io.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_CAP 4096u        /* longest path, selector and temporary suffix included */
#define SIDE_CAP 65536u       /* image files: width and height at most */
#define PIXEL_CAP (1ul << 28) /* image files: width * height at most */

/* tests/fuzz.c defines DI_FUZZ: mutated files are to reach what lies behind the checksums. */
#ifdef DI_FUZZ
#define SAME_SUM(a, b) ((void)(a), (void)(b), 1)
#else
#define SAME_SUM(a, b) ((a) == (b))
#endif

/* ------------------------------------------------------------------------------------------
 * Reports and small helpers. A report carries the caller's error buffer and the file's name;
 * fail() writes the one line and hands the exit code through, so that a function ends with
 * `return fail(r, IO_BAD, "what; what to do")`.
 * ------------------------------------------------------------------------------------------ */

typedef struct {
    const char *path;
    char *err;
    size_t errlen;
} report;

static int fail(const report *r, int code, const char *format, ...)
{
    char what[512];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    size_t len = strlen(r->path); /* of a long name its end: the reason must have room */
    if (r->err && r->errlen)
        snprintf(r->err, r->errlen, "%s%s: %s", len > 200 ? "..." : "",
                 r->path + (len > 200 ? len - 200 : 0), what);
    /* names and headers come from outside: the report stays one line, without control codes */
    for (char *p = r->err; p && r->errlen && *p; p++)
        if ((unsigned char)*p < 32 || *p == 127)
            *p = '?';
    return code;
}

static int no_memory(const report *r)
{
    return fail(r, IO_MEMORY, "not enough memory to hold it; select fewer or make it smaller");
}

static uint32_t be32(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put_be32(unsigned char *p, uint32_t v)
{
    p[0] = (unsigned char)(v >> 24);
    p[1] = (unsigned char)(v >> 16);
    p[2] = (unsigned char)(v >> 8);
    p[3] = (unsigned char)v;
}

/* p in 0..max, to [-1,1] */
static di_real signed_unit(unsigned p, unsigned max)
{
    return (di_real)(2.0 * p / max - 1.0);
}

/* x in [-1,1], to 0..255; values outside are clamped, NaN is black */
static unsigned char byte_of(di_real x)
{
    double p = floor(((double)x + 1.0) * 127.5 + 0.5);
    if (!(p > 0.0))
        return 0;
    return p < 255.0 ? (unsigned char)p : 255;
}

void io_free(io_array *a)
{
    if (!a)
        return;
    free(a->v);
    memset(a, 0, sizeof *a);
}

int io_make(io_array *a, size_t n, size_t c, size_t h, size_t w)
{
    memset(a, 0, sizeof *a);
    size_t room = SIZE_MAX / 2 / sizeof(di_real);
    if (!n || !c || !h || !w || n > room || c > room / n || h > room / n / c ||
        w > room / n / c / h)
        return IO_MEMORY;
    a->v = calloc(n * c * h * w, sizeof(di_real));
    if (!a->v)
        return IO_MEMORY;
    a->n = n;
    a->c = c;
    a->h = h;
    a->w = w;
    return 0;
}

/* ------------------------------------------------------------------------------------------
 * Input files. Only regular files are read: their size is known before the first byte, and it
 * bounds every allocation that a header may ask for.
 * ------------------------------------------------------------------------------------------ */

typedef struct {
    size_t first, last; /* [first, last) along N; last = SIZE_MAX: to the end */
    int given;
} selection;

/* Reads decimal digits at *p; 0 if there are none or they overflow. */
static int scan_size(const char **p, const char *end, size_t *out)
{
    const char *s = *p;
    size_t v = 0;
    for (; s < end && *s >= '0' && *s <= '9'; s++) {
        if (v > (SIZE_MAX - 9) / 10)
            return 0;
        v = v * 10 + (size_t)(*s - '0');
    }
    if (s == *p)
        return 0;
    *p = s;
    *out = v;
    return 1;
}

/* Splits "f.npy[a:b]" into the name (PATH_CAP bytes) and the selection. */
static int split_selector(const char *path, char *name, selection *s, const report *r)
{
    size_t len = strlen(path);
    if (len >= PATH_CAP)
        return fail(r, IO_BAD, "the path is too long; use one of at most %u bytes",
                    PATH_CAP - 1);
    memcpy(name, path, len + 1);
    s->first = 0;
    s->last = SIZE_MAX;
    s->given = 0;
    char *open = strrchr(name, '[');
    if (!open || name[len - 1] != ']')
        return 0;
    const char *p = open + 1, *end = name + len - 1;
    int has_first = scan_size(&p, end, &s->first);
    int ok;
    if (p < end && *p == ':') {
        p++;
        ok = p == end || scan_size(&p, end, &s->last);
    } else {
        s->last = s->first + 1;
        ok = has_first;
    }
    if (!ok || p != end)
        return fail(r, IO_BAD,
                    "cannot read the selector at its end; write [a], [a:b], [a:] or [:b]");
    s->given = 1;
    *open = 0;
    return 0;
}

/* Makes the selection concrete for a file that holds n items. */
static int settle(selection *s, size_t n, const report *r)
{
    if (s->last == SIZE_MAX)
        s->last = n;
    if (s->first < s->last && s->last <= n)
        return 0;
    if (s->first >= s->last && s->first < n)
        return fail(r, IO_BAD, "the selector selects nothing; write [a:b] with a < b");
    return fail(r, IO_BAD,
                "the selector reaches item %zu but the file holds %zu; items count "
                "from 0",
                s->last > n ? s->last - 1 : s->first, n);
}

static FILE *open_input(const char *name, uint64_t *size, const report *r)
{
    struct stat st;
    if (stat(name, &st) != 0) {
        fail(r, IO_BAD, "cannot open it (%s); check the name", strerror(errno));
        return NULL;
    }
    if (!S_ISREG(st.st_mode)) {
        fail(r, IO_BAD,
             S_ISDIR(st.st_mode) ? "is a folder; give a file"
                                 : "is not a regular file; save it to a file first");
        return NULL;
    }
    *size = (uint64_t)st.st_size;
    FILE *f = fopen(name, "rb");
    if (!f)
        fail(r, IO_BAD, "cannot open it (%s); check its permissions", strerror(errno));
    return f;
}

static int short_read(FILE *f, const report *r)
{
    if (ferror(f))
        return fail(r, IO_BAD, "reading failed (%s); copy the file again", strerror(errno));
    return fail(r, IO_BAD, "ends before its data do; copy or export the file again");
}

/* Reads the whole file; *out has one closing NUL more than size bytes. */
static int slurp(FILE *f, uint64_t size, unsigned char **out, const report *r)
{
    *out = NULL;
    if (size >= SIZE_MAX)
        return no_memory(r);
    unsigned char *p = malloc((size_t)size + 1);
    if (!p)
        return no_memory(r);
    if (fread(p, 1, (size_t)size, f) != (size_t)size) {
        free(p);
        return short_read(f, r);
    }
    p[size] = 0;
    *out = p;
    return 0;
}

int io_read_text(const char *path, char **out, size_t *len, size_t cap, char *err,
                 size_t errlen)
{
    report r = {path, err, errlen};
    uint64_t size = 0;
    *out = NULL;
    *len = 0;
    FILE *f = open_input(path, &size, &r);
    if (!f)
        return IO_BAD;
    unsigned char *p = NULL;
    int code = size > cap ? fail(&r, IO_BAD,
                                 "is larger than the %zu bytes allowed here; is it "
                                 "the right file?",
                                 cap)
                          : slurp(f, size, &p, &r);
    fclose(f);
    if (code)
        return code;
    *out = (char *)p;
    *len = (size_t)size;
    return 0;
}

/* ------------------------------------------------------------------------------------------
 * NPY. The header is a Python literal; only the one shape of it that NumPy writes is read. The
 * values are then walked in file order, and an odometer over the file's axes says where each
 * one belongs: that covers C and Fortran order, planar and interleaved pictures, and
 * selections.
 * ------------------------------------------------------------------------------------------ */

typedef struct {
    char kind;     /* f, i, u or b */
    unsigned size; /* bytes in one value */
    int big, fortran;
    unsigned rank;
    size_t dim[4];
    char descr[24]; /* as written, for messages */
} npy;

typedef struct {
    const char *p, *end;
} cursor;

static void skip_space(cursor *s)
{
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\t' || *s->p == '\n' || *s->p == '\r'))
        s->p++;
}

static int accept(cursor *s, const char *word)
{
    skip_space(s);
    size_t len = strlen(word);
    if ((size_t)(s->end - s->p) < len || memcmp(s->p, word, len) != 0)
        return 0;
    s->p += len;
    return 1;
}

/* A quoted string without escapes, into out (cap bytes). */
static int quoted(cursor *s, char *out, size_t cap)
{
    skip_space(s);
    if (s->p == s->end || (*s->p != '\'' && *s->p != '"'))
        return 0;
    char mark = *s->p++;
    size_t len = 0;
    while (s->p < s->end && *s->p != mark && len + 1 < cap)
        out[len++] = *s->p++;
    out[len] = 0;
    return s->p < s->end && *s->p++ == mark;
}

static const char *npy_shape(npy *d, cursor *s)
{
    if (!accept(s, "("))
        return "its shape cannot be read";
    d->rank = 0;
    while (!accept(s, ")")) {
        size_t v = 0;
        skip_space(s);
        if (!scan_size(&s->p, s->end, &v))
            return "its shape cannot be read";
        if (s->p < s->end && *s->p == 'L')
            s->p++;
        if (d->rank == 4)
            return "it has more than 4 dimensions; reshape it to (N,C,H,W)";
        d->dim[d->rank++] = v;
        if (!accept(s, ",") && !(s->p < s->end && *s->p == ')'))
            return "its shape cannot be read";
    }
    if (!d->rank)
        return "it holds one number without dimensions; reshape it to 1 to 4 dimensions";
    return NULL;
}

static const char *npy_type(npy *d)
{
    const char *t = d->descr;
    if (strchr(t, 'O'))
        return "it holds Python objects (a pickle); save plain numbers, float32 or uint8";
    int known = strlen(t) == 3 && strchr("<>|", t[0]) && strchr("fiub", t[1]) && t[2] > '0';
    d->kind = known ? t[1] : 0;
    d->size = known ? (unsigned)(t[2] - '0') : 0;
    d->big = t[0] == '>';
    int sized = d->size == 1 || ((d->size == 2 || d->size == 4 || d->size == 8) && t[0] != '|');
    if (!known || !sized || (d->kind == 'f' && d->size == 1) || (d->kind == 'b' && d->size > 1))
        return "its values are not plain numbers; save it as float32 or uint8";
    return NULL;
}

/* Reads the header's dictionary; NULL, or what is wrong. */
static const char *npy_header(npy *d, const char *text, size_t len)
{
    cursor s = {text, text + len};
    const char *wrong = NULL;
    unsigned seen = 0;
    char key[16];
    if (!accept(&s, "{"))
        return "its header cannot be read";
    while (!accept(&s, "}")) {
        unsigned bit = 0;
        if (!quoted(&s, key, sizeof key) || !accept(&s, ":"))
            return "its header cannot be read";
        if (!strcmp(key, "descr")) {
            bit = 1;
            skip_space(&s);
            if (s.p < s.end && *s.p == '[')
                return "it holds records; save one field as a plain array";
            wrong =
                quoted(&s, d->descr, sizeof d->descr) ? npy_type(d) : "its type cannot be read";
        } else if (!strcmp(key, "fortran_order")) {
            bit = 2;
            d->fortran = accept(&s, "True");
            wrong = d->fortran || accept(&s, "False") ? NULL : "its header cannot be read";
        } else if (!strcmp(key, "shape")) {
            bit = 4;
            wrong = npy_shape(d, &s);
        }
        if (wrong)
            return wrong;
        if (!bit || seen & bit || (!accept(&s, ",") && !(s.p < s.end && *s.p == '}')))
            return "its header cannot be read";
        seen |= bit;
    }
    skip_space(&s);
    return seen == 7 && s.p == s.end ? NULL : "its header cannot be read";
}

static double half_value(unsigned u)
{
    unsigned exponent = u >> 10 & 31, fraction = u & 1023;
    double v;
    if (exponent == 31)
        v = fraction ? (double)NAN : (double)INFINITY;
    else if (exponent == 0)
        v = ldexp((double)fraction, -24);
    else
        v = ldexp((double)(fraction + 1024), (int)exponent - 25);
    return u >> 15 ? -v : v;
}

/* One value from its bytes, put together by hand so that the host's byte order is no matter. */
static double npy_value(const npy *d, const unsigned char *p)
{
    uint64_t u = 0;
    for (unsigned i = 0; i < d->size; i++)
        u = u << 8 | p[d->big ? i : d->size - 1 - i];
    if (d->kind == 'f' && d->size == 4) {
        uint32_t bits = (uint32_t)u;
        float v;
        memcpy(&v, &bits, 4);
        return v;
    }
    if (d->kind == 'f' && d->size == 8) {
        double v;
        memcpy(&v, &u, 8);
        return v;
    }
    if (d->kind == 'f')
        return half_value((unsigned)u);
    if (d->kind == 'b')
        return u != 0;
    if (d->kind == 'u' || !(u >> (8 * d->size - 1)))
        return (double)u;
    uint64_t mask = d->size == 8 ? ~(uint64_t)0 : ((uint64_t)1 << (8 * d->size)) - 1;
    return -(double)((~u + 1) & mask);
}

/* Which of N, C, H, W (0..3) each axis of the file is; says no for shapes that mean nothing. */
static int npy_axes(const npy *d, int pictures, int axis[4], const report *r)
{
    static const int planar[4][4] = {{3}, {2, 3}, {1, 2, 3}, {0, 1, 2, 3}};
    static const int grey[2][4] = {{2, 3}, {0, 2, 3}};
    static const int colour[2][4] = {{2, 3, 1}, {0, 2, 3, 1}};
    const int *from = planar[d->rank - 1];
    if (pictures) {
        size_t last = d->dim[d->rank - 1];
        if (d->rank == 1 || (d->rank == 4 && last != 3 && last != 1))
            return fail(r, IO_BAD,
                        "a uint8 array is pictures and must be (H,W), (H,W,3), (N,H,W) or "
                        "(N,H,W,3); transpose it, or save other things as float32");
        int interleaved = d->rank == 4 || (d->rank == 3 && last == 3);
        from = interleaved ? colour[d->rank - 3] : grey[d->rank - 2];
    }
    memcpy(axis, from, d->rank * sizeof *from);
    return 0;
}

/* Walks the values of the file from value `at` to value `end`, placing those in the selection.
 * shape: N, C, H, W of the file; axis: see npy_axes. */
static int npy_values(io_array *a, const npy *d, const int axis[4], const selection *s, FILE *f,
                      size_t at, size_t end, const report *r)
{
    unsigned char buf[8192];
    size_t place[4] = {a->c * a->h * a->w, a->h * a->w, a->w, 1};
    size_t index[4] = {0, 0, 0, 0}, have = 0, used = 0, target = 0;
    if (!d->fortran && axis[0] == 0)
        index[0] = s->first;
    for (; at < end; at++) {
        if (used == have) {
            have = (end - at) * d->size < sizeof buf ? (end - at) * d->size : sizeof buf;
            used = 0;
            if (fread(buf, 1, have, f) != have)
                return short_read(f, r);
        }
        size_t n = axis[0] == 0 ? index[0] : 0;
        if (n >= s->first && n < s->last) {
            double v = npy_value(d, buf + used);
            a->v[target + (n - s->first) * place[0]] =
                a->picture ? signed_unit((unsigned)v, 255) : (di_real)v;
        }
        used += d->size;
        for (unsigned i = 0; i < d->rank; i++) {
            unsigned k = d->fortran ? i : d->rank - 1 - i;
            size_t step = axis[k] ? place[axis[k]] : 0;
            target += step;
            if (++index[k] < d->dim[k])
                break;
            target -= step * d->dim[k];
            index[k] = 0;
        }
    }
    return 0;
}

/* The file's header has been read and `offset` bytes of it are behind us. */
static int npy_body(io_array *a, const npy *d, selection *s, FILE *f, uint64_t size,
                    uint64_t offset, const report *r)
{
    int axis[4] = {0, 0, 0, 0}, pictures = d->kind == 'u' && d->size == 1;
    size_t shape[4] = {1, 1, 1, 1};
    uint64_t total = 1, room = (size - offset) / d->size;
    for (unsigned i = 0; i < d->rank; i++) {
        if (!d->dim[i])
            return fail(r, IO_BAD, "holds an array without values; save one that is not empty");
        if (d->dim[i] > room / total)
            return fail(r, IO_BAD, "ends before its data do; copy or export the file again");
        total *= d->dim[i];
    }
    if (offset + total * d->size != size)
        return fail(r, IO_BAD, "has bytes beyond its array; save one array in each file");
    int code = npy_axes(d, pictures, axis, r);
    if (code)
        return code;
    for (unsigned i = 0; i < d->rank; i++)
        shape[axis[i]] = d->dim[i];
    code = settle(s, shape[0], r);
    if (code)
        return code;
    if (total > SIZE_MAX || io_make(a, s->last - s->first, shape[1], shape[2], shape[3]))
        return no_memory(r);
    a->picture = pictures;
    size_t at = 0, end = (size_t)total;
    if (!d->fortran && axis[0] == 0) {
        at = s->first * (end / shape[0]);
        end = s->last * (end / shape[0]);
        offset += (uint64_t)at * d->size;
    }
    if (fseeko(f, (off_t)offset, SEEK_SET) != 0)
        return short_read(f, r);
    return npy_values(a, d, axis, s, f, at, end, r);
}

static int read_npy(io_array *a, selection *s, FILE *f, uint64_t size, const report *r)
{
    unsigned char head[12];
    npy d;
    memset(&d, 0, sizeof d);
    if (fread(head, 1, 8, f) != 8)
        return short_read(f, r);
    unsigned wide = head[6] == 1 ? 2 : 4;
    if (head[6] < 1 || head[6] > 3 || head[7] != 0)
        return fail(r, IO_BAD, "is NPY version %u.%u; save it with numpy.save", head[6],
                    head[7]);
    if (fread(head + 8, 1, wide, f) != wide)
        return short_read(f, r);
    uint64_t len = head[8] | (uint64_t)head[9] << 8;
    if (wide == 4)
        len |= (uint64_t)head[10] << 16 | (uint64_t)head[11] << 24;
    uint64_t offset = 8 + wide + len;
    if (offset > size)
        return fail(r, IO_BAD, "ends before its data do; copy or export the file again");
    if (len > 65535)
        return fail(r, IO_BAD,
                    "its header is not that of a plain array; save it as float32 or uint8");
    char *text = malloc((size_t)len + 1);
    if (!text)
        return no_memory(r);
    int code = 0;
    if (fread(text, 1, (size_t)len, f) != (size_t)len)
        code = short_read(f, r);
    const char *wrong = code ? NULL : npy_header(&d, text, (size_t)len);
    free(text);
    if (wrong && d.descr[0])
        code = fail(r, IO_BAD, "cannot use this array of type '%s': %s", d.descr, wrong);
    else if (wrong)
        code = fail(r, IO_BAD, "cannot use this array: %s", wrong);
    return code ? code : npy_body(a, &d, s, f, size, offset, r);
}

/* ------------------------------------------------------------------------------------------
 * Inflate (RFC 1950, 1951) into a buffer of exactly known size. Input is never trusted: each
 * read is bounded, code sets must be complete (but for the lone distance code that the format
 * allows), and a distance may not reach before the first byte.
 * ------------------------------------------------------------------------------------------ */

static const uint16_t LENGTH_BASE[29] = {3,  4,  5,  6,   7,   8,   9,   10,  11, 13,
                                         15, 17, 19, 23,  27,  31,  35,  43,  51, 59,
                                         67, 83, 99, 115, 131, 163, 195, 227, 258};
static const unsigned char LENGTH_EXTRA[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                               2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
static const uint16_t DIST_BASE[30] = {
    1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,    97,    129,
    193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
static const unsigned char DIST_EXTRA[30] = {0, 0, 0,  0,  1,  1,  2,  2,  3,  3,
                                             4, 4, 5,  5,  6,  6,  7,  7,  8,  8,
                                             9, 9, 10, 10, 11, 11, 12, 12, 13, 13};
/* the order in which a dynamic block sends the lengths of its code-length codes */
static const unsigned char LENGTH_ORDER[19] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                               11, 4,  12, 3, 13, 2, 14, 1, 15};

#define FAST_BITS 10

typedef struct {
    uint16_t fast[1 << FAST_BITS]; /* by the next bits: symbol << 4 | length; 0: longer code */
    uint16_t count[16];            /* codes of each length */
    uint16_t symbol[288];          /* in the order of their codes */
} huffman;

typedef struct {
    const unsigned char *in;
    size_t len, at;
    uint64_t bits; /* not yet used, the next one lowest */
    unsigned nbits;
    unsigned char *out;
    size_t size, used;
    const char *wrong; /* the first fault; once set, everything else is idle */
} inflater;

static void refill(inflater *s)
{
    while (s->nbits <= 48 && s->at < s->len) {
        s->bits |= (uint64_t)s->in[s->at++] << s->nbits;
        s->nbits += 8;
    }
}

static unsigned take(inflater *s, unsigned n)
{
    refill(s);
    if (s->nbits < n) {
        s->wrong = "its compressed data end early";
        return 0;
    }
    unsigned v = (unsigned)(s->bits & (((uint64_t)1 << n) - 1));
    s->bits >>= n;
    s->nbits -= n;
    return v;
}

/* Builds the decoder of n symbols; length[i] in 0..15. */
static void build(inflater *s, huffman *t, const unsigned char *length, unsigned n)
{
    uint16_t start[16], code = 0;
    int left = 1;
    memset(t, 0, sizeof *t);
    for (unsigned i = 0; i < n; i++)
        t->count[length[i]]++;
    unsigned used = n - t->count[0];
    t->count[0] = 0;
    start[0] = 0;
    for (unsigned b = 1; b < 16; b++) {
        start[b] = (uint16_t)(start[b - 1] + t->count[b - 1]);
        left = 2 * left - t->count[b];
        if (left < 0)
            break;
    }
    if (left < 0 || (left > 0 && used != t->count[1])) {
        s->wrong = "a set of codes is impossible";
        return;
    }
    for (unsigned i = 0; i < n; i++)
        if (length[i])
            t->symbol[start[length[i]]++] = (uint16_t)i;
    unsigned k = 0;
    for (unsigned b = 1; b <= FAST_BITS; b++, code = (uint16_t)(code << 1))
        for (unsigned i = 0; i < t->count[b]; i++, k++, code++) {
            unsigned reversed = 0;
            for (unsigned j = 0; j < b; j++)
                reversed |= (unsigned)(code >> j & 1) << (b - 1 - j);
            for (; reversed < 1u << FAST_BITS; reversed += 1u << b)
                t->fast[reversed] = (uint16_t)(t->symbol[k] << 4 | b);
        }
}

static unsigned decode(inflater *s, const huffman *t)
{
    refill(s);
    unsigned hit = t->fast[s->bits & ((1u << FAST_BITS) - 1)], length = hit & 15,
             symbol = hit >> 4;
    if (!hit) {
        unsigned code = 0, first = 0, index = 0;
        for (length = 1; length < 16; length++) {
            code |= (unsigned)(s->bits >> (length - 1) & 1);
            if (code - first < t->count[length])
                break;
            index += t->count[length];
            first = (first + t->count[length]) << 1;
            code <<= 1;
        }
        if (length == 16) {
            s->wrong = "a code is unknown";
            return 0;
        }
        symbol = t->symbol[index + code - first];
    }
    if (length > s->nbits) {
        s->wrong = "its compressed data end early";
        return 0;
    }
    s->bits >>= length;
    s->nbits -= length;
    return symbol;
}

static void inflate_stored(inflater *s)
{
    take(s, s->nbits & 7);
    unsigned len = take(s, 16), check = take(s, 16);
    if (s->wrong)
        return;
    s->at -= s->nbits / 8;
    s->bits = 0;
    s->nbits = 0;
    if ((len ^ check) != 0xffff)
        s->wrong = "a block's length is damaged";
    else if (len > s->len - s->at)
        s->wrong = "its compressed data end early";
    else if (len > s->size - s->used)
        s->wrong = "it holds more data than its size says";
    if (s->wrong)
        return;
    memcpy(s->out + s->used, s->in + s->at, len);
    s->used += len;
    s->at += len;
}

/* Reads the two code sets of a dynamic block. */
static void read_codes(inflater *s, huffman *literal, huffman *distance)
{
    unsigned char length[320];
    unsigned nliteral = take(s, 5) + 257, ndistance = take(s, 5) + 1;
    unsigned ncode = take(s, 4) + 4, n = 0;
    if (nliteral > 286 || ndistance > 30) {
        s->wrong = "a set of codes is impossible";
        return;
    }
    memset(length, 0, sizeof length);
    for (unsigned i = 0; i < ncode; i++)
        length[LENGTH_ORDER[i]] = (unsigned char)take(s, 3);
    build(s, literal, length, 19);
    while (!s->wrong && n < nliteral + ndistance) {
        unsigned symbol = decode(s, literal), repeat = 1;
        unsigned char value = symbol < 16 ? (unsigned char)symbol : 0;
        if (symbol == 16) {
            repeat = 3 + take(s, 2);
            if (n == 0)
                s->wrong = "a set of codes is impossible";
            else
                value = length[n - 1];
        } else if (symbol > 16) {
            repeat = symbol == 17 ? 3 + take(s, 3) : 11 + take(s, 7);
        }
        if (repeat > nliteral + ndistance - n)
            s->wrong = "a set of codes is impossible";
        for (; !s->wrong && repeat; repeat--)
            length[n++] = value;
    }
    if (!s->wrong && !length[256])
        s->wrong = "a set of codes is impossible";
    if (!s->wrong)
        build(s, distance, length + nliteral, ndistance);
    if (!s->wrong)
        build(s, literal, length, nliteral);
}

static void fixed_codes(inflater *s, huffman *literal, huffman *distance)
{
    unsigned char length[288];
    for (unsigned i = 0; i < 288; i++)
        length[i] = (unsigned char)(i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8);
    build(s, literal, length, 288);
    memset(length, 5, 32);
    build(s, distance, length, 32);
}

static void inflate_codes(inflater *s, const huffman *literal, const huffman *distance)
{
    while (!s->wrong) {
        unsigned symbol = decode(s, literal);
        if (s->wrong || symbol == 256)
            return;
        if (symbol < 256) {
            if (s->used == s->size)
                s->wrong = "it holds more data than its size says";
            else
                s->out[s->used++] = (unsigned char)symbol;
            continue;
        }
        if (symbol > 285) {
            s->wrong = "a code is unknown";
            return;
        }
        size_t len = LENGTH_BASE[symbol - 257] + take(s, LENGTH_EXTRA[symbol - 257]);
        unsigned far = s->wrong ? 30 : decode(s, distance);
        size_t back = far < 30 ? DIST_BASE[far] + take(s, DIST_EXTRA[far]) : 0;
        if (s->wrong)
            return;
        if (!back || back > s->used)
            s->wrong = "a distance reaches before its first byte";
        else if (len > s->size - s->used)
            s->wrong = "it holds more data than its size says";
        else
            for (; len; len--, s->used++)
                s->out[s->used] = s->out[s->used - back];
    }
}

static uint32_t adler32(const unsigned char *p, size_t n)
{
    uint32_t a = 1, b = 0;
    while (n) {
        size_t run = n < 5552 ? n : 5552;
        n -= run;
        for (; run; run--) {
            a += *p++;
            b += a;
        }
        a %= 65521;
        b %= 65521;
    }
    return b << 16 | a;
}

/* Expands a zlib stream into exactly size bytes; NULL, or what is wrong. The two decoders are
 * about 5 KB, on the stack. */
static const char *expand(unsigned char *out, size_t size, const unsigned char *in, size_t len)
{
    inflater s = {in, len, 0, 0, 0, out, size, 0, NULL};
    huffman literal, distance;
    unsigned last = 0;
    unsigned method = take(&s, 8), flags = take(&s, 8);
    if (s.wrong)
        return s.wrong;
    if ((method & 15) != 8 || method >> 4 > 7 || (method << 8 | flags) % 31 || flags & 32)
        return "its compressed data have an unknown form";
    while (!last && !s.wrong) {
        last = take(&s, 1);
        unsigned kind = take(&s, 2);
        if (s.wrong)
            break;
        if (kind == 0) {
            inflate_stored(&s);
        } else if (kind == 3) {
            s.wrong = "a block has an unknown form";
        } else {
            if (kind == 1)
                fixed_codes(&s, &literal, &distance);
            else
                read_codes(&s, &literal, &distance);
            if (!s.wrong)
                inflate_codes(&s, &literal, &distance);
        }
    }
    if (s.wrong)
        return s.wrong;
    if (s.used != size)
        return "it holds less data than its size says";
    take(&s, s.nbits & 7);
    uint32_t check = 0;
    for (int i = 0; i < 4; i++)
        check = check << 8 | take(&s, 8);
    if (s.wrong)
        return s.wrong;
    return SAME_SUM(check, adler32(out, size)) ? NULL : "its checksum differs";
}

/* ------------------------------------------------------------------------------------------
 * PNG in. The file is in memory; its IDAT payloads are moved together in place, expanded,
 * unfiltered pass by pass (seven with Adam7, one without) and spread into planes.
 * ------------------------------------------------------------------------------------------ */

typedef struct {
    size_t w, h;
    unsigned depth, type, channels; /* bits per sample, colour type, samples per pixel */
    int interlaced;
    unsigned char palette[768];
    unsigned colours;    /* entries in the palette */
    unsigned char *data; /* the compressed data, inside the file's buffer */
    size_t len;
} png;

/* first column and row, then the steps between columns and rows; the last line is the whole */
static const unsigned char PASS[8][4] = {{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8},
                                         {2, 0, 4, 4}, {0, 2, 2, 4}, {1, 0, 2, 2},
                                         {0, 1, 1, 2}, {0, 0, 1, 1}};

uint32_t io_crc32(uint32_t crc, const void *bytes, size_t n)
{
    const unsigned char *p = bytes;
    static const uint32_t nibble[16] = {0,          0x1db71064, 0x3b6e20c8, 0x26d930ac,
                                        0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
                                        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
                                        0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    crc = ~crc;
    for (; n; n--) {
        crc ^= *p++;
        crc = crc >> 4 ^ nibble[crc & 15];
        crc = crc >> 4 ^ nibble[crc & 15];
    }
    return ~crc;
}

static const char *png_header(png *d, const unsigned char *p)
{
    static const unsigned char channels[7] = {1, 0, 3, 1, 2, 0, 4};
    d->w = be32(p);
    d->h = be32(p + 4);
    d->depth = p[8];
    d->type = p[9];
    d->interlaced = p[12] == 1;
    d->channels = d->type < 7 ? channels[d->type] : 0;
    unsigned n = d->depth;
    int fits = n == 8 || (n == 16 && d->type != 3) ||
               ((n == 1 || n == 2 || n == 4) && (d->type == 0 || d->type == 3));
    if (!d->channels || !fits || p[10] || p[11] || p[12] > 1)
        return "its header names an unknown form";
    if (!d->w || !d->h)
        return "its size is zero";
    if (d->w > SIDE_CAP || d->h > SIDE_CAP || d->h > PIXEL_CAP / d->w)
        return "it is larger than 65536 a side or 2^28 pixels";
    return NULL;
}

/* Takes one chunk whose CRC is right; stage: 0 before IDAT, 1 in it, 2 after it. */
static const char *png_chunk(png *d, const unsigned char *type, const unsigned char *p,
                             size_t len, int *stage)
{
    if (!memcmp(type, "IDAT", 4)) {
        if (*stage == 2)
            return "its data are interrupted";
        if (d->type == 3 && !d->colours)
            return "its palette is missing";
        *stage = 1;
        memmove(d->data + d->len, p, len);
        d->len += len;
        return NULL;
    }
    if (*stage == 1)
        *stage = 2;
    if (!memcmp(type, "PLTE", 4)) {
        if (*stage || d->colours || !len || len > 768 || len % 3)
            return "its palette is damaged";
        memcpy(d->palette, p, len);
        d->colours = (unsigned)len / 3;
        return NULL;
    }
    return type[0] & 32 ? NULL : "it has a chunk of unknown meaning";
}

/* Walks the chunks of a file of n bytes; NULL, or what is wrong. */
static const char *png_chunks(png *d, unsigned char *file, size_t n)
{
    size_t at = 8;
    int stage = 0, first = 1;
    for (;;) {
        if (n - at < 12)
            return "it ends early";
        const unsigned char *head = file + at;
        size_t len = be32(head);
        if (len > n - at - 12)
            return "it ends early, or a chunk's length is damaged";
        if (!SAME_SUM(io_crc32(0, head + 4, len + 4), be32(head + 8 + len)))
            return "a chunk's checksum differs";
        const char *wrong = NULL;
        if (first != !memcmp(head + 4, "IHDR", 4) || (first && len != 13))
            return "its header is missing or repeated";
        if (first) {
            wrong = png_header(d, head + 8);
            d->data = file + at + 25;
        } else if (!memcmp(head + 4, "IEND", 4)) {
            return d->len ? NULL : "its data are missing";
        } else {
            wrong = png_chunk(d, head + 4, head + 8, len, &stage);
        }
        if (wrong)
            return wrong;
        first = 0;
        at += len + 12;
    }
}

/* The pixels of one pass; zero either way if it is empty. */
static void pass_size(const png *d, const unsigned char *pass, size_t *w, size_t *h)
{
    *w = d->w > pass[0] ? (d->w - pass[0] + pass[2] - 1) / pass[2] : 0;
    *h = d->h > pass[1] ? (d->h - pass[1] + pass[3] - 1) / pass[3] : 0;
}

static size_t row_bytes(const png *d, size_t w)
{
    return (w * d->channels * d->depth + 7) / 8;
}

/* The predictor of filter 4: of left, up and upper left the one nearest to left + up - corner.
 */
static int nearest(int left, int up, int corner)
{
    int to_left = abs(up - corner), to_up = abs(left - corner),
        to_corner = abs(left + up - 2 * corner);
    if (to_left <= to_up && to_left <= to_corner)
        return left;
    return to_up <= to_corner ? up : corner;
}

/* What filter 0..4 expects of a byte, from its neighbours. */
static int predict(int filter, int left, int up, int corner)
{
    switch (filter) {
    case 1:
        return left;
    case 2:
        return up;
    case 3:
        return (left + up) / 2;
    case 4:
        return nearest(left, up, corner);
    }
    return 0;
}

/* Undoes one row's filter in place. row, above: n bytes (above NULL for the first row);
 * unit: bytes to the pixel on the left. */
static void unfilter(unsigned char *row, const unsigned char *above, size_t n, size_t unit,
                     int filter)
{
    for (size_t i = 0; i < n; i++) {
        int left = i >= unit ? row[i - unit] : 0, up = above ? above[i] : 0;
        int corner = i >= unit && above ? above[i - unit] : 0;
        int guess = predict(filter, left, up, corner);
        row[i] = (unsigned char)(row[i] + guess);
    }
}

/* Sample k of a row whose samples have `depth` bits. */
static unsigned sample(const unsigned char *row, size_t k, unsigned depth)
{
    if (depth == 8)
        return row[k];
    if (depth == 16)
        return (unsigned)row[2 * k] << 8 | row[2 * k + 1];
    size_t bit = k * depth;
    return row[bit / 8] >> (8 - depth - bit % 8) & ((1u << depth) - 1);
}

/* Spreads w pixels of one row into the planes, `step` columns apart from v on. Alpha, the
 * sample behind the colours, is left out. */
static const char *png_row(const png *d, const unsigned char *row, size_t w, di_real *v,
                           size_t step)
{
    size_t plane = d->w * d->h, planes = d->channels >= 3 ? 3 : 1;
    unsigned max = (1u << d->depth) - 1;
    for (size_t x = 0; x < w; x++, v += step) {
        if (d->type == 3) {
            unsigned colour = sample(row, x, d->depth);
            if (colour >= d->colours)
                return "a pixel is not in its palette";
            for (size_t k = 0; k < 3; k++)
                v[k * plane] = signed_unit(d->palette[3 * colour + k], 255);
        } else {
            for (size_t k = 0; k < planes; k++)
                v[k * plane] = signed_unit(sample(row, x * d->channels + k, d->depth), max);
        }
    }
    return NULL;
}

static const char *png_pixels(const png *d, unsigned char *raw, di_real *v)
{
    size_t unit = d->channels * d->depth >= 8 ? d->channels * d->depth / 8 : 1;
    for (int i = d->interlaced ? 0 : 7; i < (d->interlaced ? 7 : 8); i++) {
        const unsigned char *pass = PASS[i], *above = NULL;
        size_t w, h;
        pass_size(d, pass, &w, &h);
        if (!w)
            continue;
        size_t n = row_bytes(d, w);
        for (size_t y = 0; y < h; y++, raw += n + 1) {
            if (raw[0] > 4)
                return "a row's filter is unknown";
            unfilter(raw + 1, above, n, unit, raw[0]);
            above = raw + 1;
            const char *wrong =
                png_row(d, above, w, v + (pass[1] + y * pass[3]) * d->w + pass[0], pass[2]);
            if (wrong)
                return wrong;
        }
    }
    return NULL;
}

static int read_png(io_array *a, unsigned char *file, size_t n, const report *r)
{
    png d;
    memset(&d, 0, sizeof d);
    const char *wrong = png_chunks(&d, file, n);
    uint64_t size = 0;
    for (int i = d.interlaced ? 0 : 7; !wrong && i < (d.interlaced ? 7 : 8); i++) {
        size_t w, h;
        pass_size(&d, PASS[i], &w, &h);
        size += w ? (uint64_t)h * (row_bytes(&d, w) + 1) : 0;
    }
    /* one bit of deflate yields at most 129 bytes, so this bounds what a small file can ask for
     */
    if (!wrong && size / 1032 > d.len)
        wrong = "it holds less data than its size says";
    if (wrong)
        return fail(r, IO_BAD, "is a damaged PNG (%s); copy or export it again", wrong);
    if (size > SIZE_MAX)
        return no_memory(r);
    unsigned char *raw = malloc((size_t)size);
    if (!raw)
        return no_memory(r);
    wrong = expand(raw, (size_t)size, d.data, d.len);
    int code = 0;
    if (!wrong && io_make(a, 1, d.type == 0 || d.type == 4 ? 1 : 3, d.h, d.w))
        code = no_memory(r);
    else if (!wrong)
        wrong = png_pixels(&d, raw, a->v);
    free(raw);
    a->picture = 1;
    return wrong ? fail(r, IO_BAD, "is a damaged PNG (%s); copy or export it again", wrong)
                 : code;
}

/* ------------------------------------------------------------------------------------------
 * PPM, PGM and PFM in. Numbers are scanned by hand: no locale, no overflow.
 * ------------------------------------------------------------------------------------------ */

static int is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void skip_comments(cursor *s)
{
    while (s->p < s->end && (is_space(*s->p) || *s->p == '#')) {
        if (*s->p == '#')
            while (s->p < s->end && *s->p != '\n' && *s->p != '\r')
                s->p++;
        else
            s->p++;
    }
}

/* A number of at most max after blanks and comments. */
static int pnm_number(cursor *s, size_t max, size_t *v)
{
    skip_comments(s);
    return scan_size(&s->p, s->end, v) && *v <= max;
}

static int pnm_bad(const report *r, const char *wrong)
{
    return fail(r, IO_BAD, "is a damaged PPM, PGM or PFM (%s); copy or export it again", wrong);
}

static int pnm_size(cursor *s, size_t *w, size_t *h)
{
    return pnm_number(s, SIDE_CAP, w) && pnm_number(s, SIDE_CAP, h) && *w && *h &&
           *h <= PIXEL_CAP / *w;
}

/* Nothing but blanks may follow: a second picture would be lost silently. */
static int pnm_end(cursor *s, const report *r)
{
    while (s->p < s->end && is_space(*s->p))
        s->p++;
    if (s->p == s->end)
        return 0;
    return fail(r, IO_BAD, "has more behind its first picture; save one picture in each file");
}

static int read_pnm(io_array *a, const unsigned char *file, size_t n, const report *r)
{
    cursor s = {(const char *)file + 2, (const char *)file + n};
    size_t w = 0, h = 0, max = 0, c = file[1] == '3' || file[1] == '6' ? 3 : 1;
    int plain = file[1] <= '3';
    if (!pnm_size(&s, &w, &h) || !pnm_number(&s, 65535, &max) || !max)
        return pnm_bad(r, "its header is wrong or its size beyond 65536 a side, 2^28 pixels");
    if (s.p == s.end || !is_space(*s.p++))
        return pnm_bad(r, "its header is wrong");
    size_t bytes = max > 255 ? 2 : 1, count = w * h * c;
    if ((size_t)(s.end - s.p) / (plain ? 1 : bytes) < count)
        return pnm_bad(r, "it ends early");
    if (io_make(a, 1, c, h, w))
        return no_memory(r);
    a->picture = 1;
    for (size_t i = 0; i < w * h; i++)
        for (size_t k = 0; k < c; k++) {
            size_t v = 0;
            if (plain) {
                if (!pnm_number(&s, max, &v))
                    return pnm_bad(r, "a value is missing or above the maximum");
            } else {
                for (size_t b = 0; b < bytes; b++)
                    v = v << 8 | (unsigned char)*s.p++;
                if (v > max)
                    return pnm_bad(r, "a value is above the maximum");
            }
            a->v[k * w * h + i] = signed_unit((unsigned)v, (unsigned)max);
        }
    return pnm_end(&s, r);
}

/* The scale line of a PFM: only its sign (negative: little endian) is used, since the values
 * are taken as they are. 0 if it is not a number or is zero. */
static int pfm_scale(cursor *s)
{
    int sign = 1, digits = 0, nonzero = 0;
    skip_space(s);
    if (s->p < s->end && (*s->p == '-' || *s->p == '+'))
        sign = *s->p++ == '-' ? -1 : 1;
    for (; s->p < s->end && ((*s->p >= '0' && *s->p <= '9') || *s->p == '.'); s->p++) {
        digits += *s->p != '.';
        nonzero |= *s->p >= '1' && *s->p <= '9';
    }
    if (digits && s->p < s->end && (*s->p == 'e' || *s->p == 'E')) {
        s->p++;
        if (s->p < s->end && (*s->p == '-' || *s->p == '+'))
            s->p++;
        while (s->p < s->end && *s->p >= '0' && *s->p <= '9')
            s->p++;
    }
    return digits && nonzero ? sign : 0;
}

static int read_pfm(io_array *a, const unsigned char *file, size_t n, const report *r)
{
    cursor s = {(const char *)file + 2, (const char *)file + n};
    size_t w = 0, h = 0, c = file[1] == 'F' ? 3 : 1;
    if (!pnm_size(&s, &w, &h))
        return pnm_bad(r, "its header is wrong or its size beyond 65536 a side, 2^28 pixels");
    int sign = pfm_scale(&s);
    if (!sign || s.p == s.end || !is_space(*s.p))
        return pnm_bad(r, "its header is wrong");
    if (s.p[0] == '\r' && s.end - s.p > 1 && s.p[1] == '\n')
        s.p++;
    s.p++;
    if ((size_t)(s.end - s.p) / 4 < w * h * c)
        return pnm_bad(r, "it ends early");
    if (io_make(a, 1, c, h, w))
        return no_memory(r);
    npy d = {'f', 4, sign > 0, 0, 0, {0, 0, 0, 0}, ""};
    for (size_t y = h; y-- > 0;)
        for (size_t x = 0; x < w; x++)
            for (size_t k = 0; k < c; k++, s.p += 4)
                a->v[(k * h + y) * w + x] = (di_real)npy_value(&d, (const unsigned char *)s.p);
    return pnm_end(&s, r);
}

/* ------------------------------------------------------------------------------------------
 * Other formats, known by their first bytes only to be refused by name, with the command that
 * converts them; and io_read.
 * ------------------------------------------------------------------------------------------ */

static const struct {
    unsigned at, len;
    const char *magic, *name, *convert;
} OTHER[] = {
    {0, 3, "\377\330\377", "a JPEG picture", "magick in.jpg out.png"},
    {0, 4, "GIF8", "a GIF picture", "magick 'in.gif[0]' out.png"},
    {8, 4, "WEBP", "a WebP picture", "magick in.webp out.png"},
    {0, 4, "II*\0", "a TIFF picture", "magick in.tif out.png"},
    {0, 4, "MM\0*", "a TIFF picture", "magick in.tif out.png"},
    {0, 4, "II+\0", "a TIFF picture", "magick in.tif out.png"},
    {0, 4, "MM\0+", "a TIFF picture", "magick in.tif out.png"},
    {4, 8, "ftypavif", "an AVIF picture", "magick in.avif out.png"},
    {4, 8, "ftypavis", "an AVIF picture", "magick in.avif out.png"},
    {4, 7, "ftyphei", "a HEIC picture", "magick in.heic out.png"},
    {4, 7, "ftyphev", "a HEIC picture", "magick in.heic out.png"},
    {4, 8, "ftypmif1", "a HEIF picture", "magick in.heic out.png"},
    {4, 8, "ftypmsf1", "a HEIF picture", "magick in.heic out.png"},
    {4, 4, "ftyp", "a film (MP4)", "ffmpeg -i in.mp4 -frames:v 1 out.png"},
    {0, 2, "\377\012", "a JPEG XL picture", "magick in.jxl out.png"},
    {4, 4, "JXL ", "a JPEG XL picture", "magick in.jxl out.png"},
    {4, 4, "jP  ", "a JPEG 2000 picture", "magick in.jp2 out.png"},
    {0, 4, "\166\057\061\001", "an OpenEXR picture", "magick in.exr out.pfm"},
    {0, 2, "#?", "a Radiance HDR picture", "magick in.hdr out.pfm"},
    {0, 4, "qoif", "a QOI picture", "magick in.qoi out.png"},
    {0, 4, "8BPS", "a Photoshop file", "magick 'in.psd[0]' out.png"},
    {0, 4, "\212MNG", "an MNG film", "magick 'in.mng[0]' out.png"},
    {0, 4, "%PDF", "a PDF", "magick -density 150 'in.pdf[0]' out.png"},
    {0, 2, "P1", "a PBM bitmap", "magick in.pbm out.png"},
    {0, 2, "P4", "a PBM bitmap", "magick in.pbm out.png"},
    {0, 2, "P7", "a PAM picture", "magick in.pam out.png"},
    {0, 8, "\211HDF\r\n\032\n", "an HDF5 file",
     "python3 -c \"import h5py,numpy; numpy.save('out.npy', h5py.File('in.h5')['NAME'][:])\""},
    {0, 6, "MATLAB", "a MATLAB file",
     "python3 -c \"import scipy.io,numpy; numpy.save('out.npy', "
     "scipy.io.loadmat('in.mat')['NAME'])\""},
    {0, 6, "SIMPLE", "a FITS file",
     "python3 -c \"import astropy.io.fits as f,numpy; numpy.save('out.npy', "
     "f.getdata('in.fits'))\""},
    {0, 14, "\200\002\212\012l\374\234F\371 j\250P\031", "a PyTorch checkpoint",
     "tools/convert.py in.pt out.unw"},
    {0, 2, "\037\213", "compressed with gzip", "gunzip in.gz"},
    {0, 6, "\3757zXZ\0", "compressed with xz", "unxz in.xz"},
    {0, 4, "(\265/\375", "compressed with zstd", "unzstd in.zst"},
    {0, 4, "<svg", "an SVG drawing", "magick in.svg out.png"},
    {0, 5, "<?xml", "an XML or SVG file", "magick in.svg out.png"},
    {0, 2, "BM", "a BMP picture", "magick in.bmp out.png"},
};

/* A ZIP is told apart by the name of its first entry. */
static int refuse_zip(const unsigned char *head, size_t n, const report *r)
{
    size_t len = n >= 30 ? (size_t)(head[26] | head[27] << 8) : 0;
    char name[65] = "";
    if (n > 30)
        memcpy(name, head + 30, len < n - 30 ? len : n - 30);
    size_t got = strlen(name);
    if (got >= 4 && !strcmp(name + got - 4, ".npy"))
        return fail(r, IO_BAD, "is a NumPy .npz archive; unpack it first: unzip in.npz");
    if (strstr(name, "data.pkl") || strstr(name, "/byteorder") ||
        strstr(name, ".format_version"))
        return fail(r, IO_BAD,
                    "is a PyTorch checkpoint, not a picture or array; convert it first: "
                    "tools/convert.py in.pt out.unw");
    return fail(r, IO_BAD, "is a ZIP archive; unpack it first: unzip in.zip");
}

/* head: the first n <= 94 bytes. */
static int refuse(const unsigned char *head, size_t n, const report *r)
{
    if (n == 0)
        return fail(r, IO_BAD, "is empty; copy or export the file again");
    if (n >= 4 && !memcmp(head, "PK\3\4", 4))
        return refuse_zip(head, n, r);
    if (n >= 4 && !memcmp(head, "\211UNW", 4))
        return fail(r, IO_BAD, "is a weight file, not a picture or array; give it with -w");
    for (size_t i = 0; i < sizeof OTHER / sizeof *OTHER; i++)
        if (n >= OTHER[i].at + OTHER[i].len &&
            !memcmp(head + OTHER[i].at, OTHER[i].magic, OTHER[i].len))
            return fail(r, IO_BAD, "is %s, which is not read here; convert it first: %s",
                        OTHER[i].name, OTHER[i].convert);
    if (n >= 10 && head[8] == '{' && head[9] == '"')
        return fail(r, IO_BAD,
                    "is a safetensors checkpoint, not a picture or array; convert it "
                    "first: tools/convert.py in.safetensors out.unw");
    if (n >= 2 && head[0] == 0x80 && head[1] <= 5)
        return fail(r, IO_BAD,
                    "is a Python pickle; save its array with numpy.save as float32 or uint8");
    return fail(r, IO_BAD,
                "is not an NPY, PNG, PPM, PGM or PFM file; convert it first: "
                "magick in out.png");
}

int io_read(io_array *a, const char *path, char *err, size_t errlen)
{
    static const unsigned char png_magic[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    report r = {path, err, errlen};
    char name[PATH_CAP];
    unsigned char head[94], *file = NULL;
    selection s;
    uint64_t size = 0;
    memset(a, 0, sizeof *a);
    int code = split_selector(path, name, &s, &r);
    if (code)
        return code;
    FILE *f = open_input(name, &size, &r);
    if (!f)
        return IO_BAD;
    size_t n = fread(head, 1, sizeof head, f);
    int is_npy = n >= 8 && !memcmp(head, "\223NUMPY", 6);
    int is_png = n >= 8 && !memcmp(head, png_magic, 8);
    int spaced = n >= 3 && head[0] == 'P' && (is_space((char)head[2]) || head[2] == '#');
    int is_pnm = spaced && head[1] && strchr("2356", head[1]);
    int is_pfm = spaced && (head[1] == 'F' || head[1] == 'f');
    if (ferror(f) || fseeko(f, 0, SEEK_SET) != 0)
        code = short_read(f, &r);
    else if (is_npy)
        code = read_npy(a, &s, f, size, &r);
    else if (!is_png && !is_pnm && !is_pfm)
        code = refuse(head, n, &r);
    else
        code = settle(&s, 1, &r);
    if (!code && !is_npy)
        code = slurp(f, size, &file, &r);
    if (!code && is_png)
        code = read_png(a, file, (size_t)size, &r);
    if (!code && is_pnm)
        code = read_pnm(a, file, (size_t)size, &r);
    if (!code && is_pfm)
        code = read_pfm(a, file, (size_t)size, &r);
    fclose(f);
    free(file);
    if (code)
        io_free(a);
    return code;
}

/* ------------------------------------------------------------------------------------------
 * Output files appear whole or not at all: they are written beside their place, flushed to the
 * disk and renamed. The temporary's name is the one piece of static state, so that a signal
 * handler can remove it; a device or pipe has no such place and is written to directly.
 * ------------------------------------------------------------------------------------------ */

static char temporary[PATH_CAP];
static volatile sig_atomic_t temporary_exists;

void io_remove_temporary(void)
{
    if (temporary_exists)
        unlink(temporary);
}

typedef struct {
    FILE *f;
    int direct;
} output;

static int fail_output(const report *r, int error)
{
    return fail(r, IO_OUTPUT,
                "cannot write it (%s); check the folder, its permissions and the free space",
                error ? strerror(error) : "the device took less than all");
}

static int open_output(output *o, const report *r)
{
    struct stat st;
    o->f = NULL;
    o->direct = stat(r->path, &st) == 0 && !S_ISREG(st.st_mode);
    if (o->direct && S_ISDIR(st.st_mode))
        return fail_output(r, EISDIR);
    if (o->direct) {
        o->f = fopen(r->path, "wb");
        return o->f ? 0 : fail_output(r, errno);
    }
    int fd = -1;
    if (strlen(r->path) + 40 > PATH_CAP)
        return fail_output(r, ENAMETOOLONG);
    for (unsigned i = 0; fd < 0 && i < 100; i++) {
        snprintf(temporary, sizeof temporary, "%s.tmp%ld-%u", r->path, (long)getpid(), i);
        fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL, 0666);
        if (fd < 0 && errno != EEXIST)
            break;
    }
    if (fd < 0)
        return fail_output(r, errno);
    temporary_exists = 1;
    o->f = fdopen(fd, "wb");
    if (o->f)
        return 0;
    int error = errno;
    close(fd);
    unlink(temporary);
    temporary_exists = 0;
    return fail_output(r, error);
}

/* Ends the output. Every step can be the one that finds the disk full. code: what the writing
 * itself came to; a failure there is kept, and the file still closed and removed. */
static int close_output(output *o, int code, const report *r)
{
    int error = 0;
    errno = 0;
    if (ferror(o->f) || fflush(o->f) != 0)
        error = errno ? errno : EIO;
    errno = 0;
    /* EINVAL: a pipe or device that knows no syncing */
    if (!error && fsync(fileno(o->f)) != 0 && errno != EINVAL && errno != EROFS)
        error = errno;
    if (fclose(o->f) != 0 && !error)
        error = errno ? errno : EIO;
    o->f = NULL;
    if (o->direct)
        return code ? code : error ? fail_output(r, error) : 0;
    if (!code && !error && rename(temporary, r->path) != 0)
        error = errno;
    if (code || error)
        unlink(temporary);
    temporary_exists = 0;
    return code ? code : error ? fail_output(r, error) : 0;
}

static int put(output *o, const void *p, size_t n, const report *r)
{
    errno = 0;
    if (fwrite(p, 1, n, o->f) != n)
        return fail_output(r, errno);
    return 0;
}

int io_write_text(const char *path, const char *bytes, size_t len, char *err, size_t errlen)
{
    report r = {path, err, errlen};
    output o;
    int code = open_output(&o, &r);
    if (code)
        return code;
    return close_output(&o, put(&o, bytes, len, &r), &r);
}

/* ------------------------------------------------------------------------------------------
 * Deflate. Matches are searched along hash chains, with one step of looking ahead before a
 * match is taken; tokens are gathered into blocks, and each block is written in the cheapest of
 * the three forms. Integers only, so a picture gives the same bytes everywhere.
 * ------------------------------------------------------------------------------------------ */

#define WINDOW 32768u
#define HASH_BITS 15
#define CHAIN 256u  /* candidates looked at for one position */
#define ENOUGH 128u /* a match of this length ends the search */
#define SHORTEST 6u /* in filtered pictures shorter matches cost more than their literals */
#define BLOCK_TOKENS 16384u

typedef struct {
    unsigned char *p;
    size_t n, cap;
    uint64_t bits;
    unsigned nbits;
    int full; /* memory ran out; everything after is idle */
} packer;

typedef struct {
    packer *out;
    const unsigned char *in;
    size_t len;
    uint32_t *head,
        *prev;       /* (1 << HASH_BITS), (WINDOW): position + 1 of earlier text, 0: none */
    uint32_t *token; /* (BLOCK_TOKENS): literal, or distance << 9 | length */
    size_t ntoken, start; /* tokens waiting; where their text starts */
} deflater;

static void add_bytes(packer *s, const void *p, size_t n)
{
    if (!s->full && s->cap - s->n < n) {
        size_t cap = s->cap * 2 + n + 1024;
        unsigned char *bigger = realloc(s->p, cap);
        s->full = !bigger;
        if (bigger) {
            s->p = bigger;
            s->cap = cap;
        }
    }
    if (s->full || !n)
        return;
    memcpy(s->p + s->n, p, n);
    s->n += n;
}

static void add_bits(packer *s, unsigned v, unsigned n)
{
    s->bits |= (uint64_t)v << s->nbits;
    s->nbits += n;
    while (s->nbits >= 8) {
        unsigned char byte = (unsigned char)s->bits;
        add_bytes(s, &byte, 1);
        s->bits >>= 8;
        s->nbits -= 8;
    }
}

static void add_padding(packer *s)
{
    if (s->nbits)
        add_bits(s, 0, 8 - s->nbits);
}

/* Depths of the Huffman tree for n <= 286 symbols; 0 for those not used. The two rarest trees
 * are joined until one is left; ties go to the lower index, so the result is the same
 * everywhere. */
static unsigned tree_depths(unsigned char *depth, const uint32_t *freq, unsigned n)
{
    uint32_t weight[572];
    uint16_t parent[572];
    unsigned char level[572];
    unsigned nodes = n, deepest = 0;
    for (unsigned i = 0; i < n; i++)
        weight[i] = freq[i];
    for (;;) {
        unsigned a = nodes, b = nodes;
        for (unsigned i = 0; i < nodes; i++) {
            if (!weight[i])
                continue;
            if (a == nodes || weight[i] < weight[a]) {
                b = a;
                a = i;
            } else if (b == nodes || weight[i] < weight[b]) {
                b = i;
            }
        }
        if (b == nodes)
            break;
        weight[nodes] = weight[a] + weight[b];
        weight[a] = weight[b] = 0;
        parent[a] = parent[b] = (uint16_t)nodes++;
    }
    level[nodes - 1] = 0;
    for (unsigned i = nodes - 1; i-- > 0;) {
        int used = i >= n || freq[i];
        level[i] = used ? (unsigned char)(level[parent[i]] + 1) : 0;
        if (level[i] > deepest)
            deepest = level[i];
    }
    memcpy(depth, level, n);
    return deepest;
}

/* Code lengths of at most limit bits. Too deep a tree is flattened by halving the counts. At
 * least two symbols get a code, since some readers refuse a set of one. */
static void code_lengths(unsigned char *length, const uint32_t *freq, unsigned n,
                         unsigned limit)
{
    uint32_t f[286];
    unsigned used = 0;
    for (unsigned i = 0; i < n; i++) {
        f[i] = freq[i];
        used += f[i] > 0;
    }
    for (unsigned i = 0; used < 2; i++)
        if (!f[i]) {
            f[i] = 1;
            used++;
        }
    while (tree_depths(length, f, n) > limit)
        for (unsigned i = 0; i < n; i++)
            f[i] = (f[i] + 1) / 2;
}

/* Canonical codes for the lengths, bit-reversed as the stream wants them. */
static void assign_codes(uint16_t *code, const unsigned char *length, unsigned n)
{
    unsigned next = 0;
    for (unsigned b = 1; b < 16; b++, next <<= 1)
        for (unsigned i = 0; i < n; i++) {
            if (length[i] != b)
                continue;
            unsigned reversed = 0;
            for (unsigned j = 0; j < b; j++)
                reversed |= (next >> j & 1) << (b - 1 - j);
            code[i] = (uint16_t)reversed;
            next++;
        }
}

static unsigned length_symbol(unsigned len)
{
    unsigned i = 28;
    while (LENGTH_BASE[i] > len)
        i--;
    return i;
}

static unsigned distance_symbol(unsigned distance)
{
    unsigned i = 29;
    while (DIST_BASE[i] > distance)
        i--;
    return i;
}

typedef struct {
    unsigned char length[288], distance[30]; /* code lengths; the last two are 0 */
    unsigned nlength, ndistance;             /* how many are sent */
    unsigned char step[316], extra[316];     /* the lengths, run by run, and each run's count */
    unsigned nstep, ncode;
    unsigned char code[19]; /* lengths of the codes of the steps */
} plan;

/* Packs the lengths into runs: 16 repeats the last one 3..6 times, 17 and 18 are 3..10 and
 * 11..138 zeros. */
static void plan_steps(plan *s)
{
    unsigned char all[316];
    uint32_t freq[19] = {0};
    unsigned n = s->nlength + s->ndistance;
    memcpy(all, s->length, s->nlength);
    memcpy(all + s->nlength, s->distance, s->ndistance);
    s->nstep = 0;
    for (unsigned i = 0, run; i < n; i += run) {
        unsigned most = all[i] ? 6 : 138;
        int repeats = all[i] == 0 || (i > 0 && all[i] == all[i - 1]);
        for (run = 1; i + run < n && run < most && all[i + run] == all[i];)
            run++;
        unsigned step = all[i], extra = 0;
        if (!repeats || run < 3)
            run = 1;
        else
            step = all[i] ? 16 : run < 11 ? 17 : 18;
        if (step > 15)
            extra = run - (step == 18 ? 11 : 3);
        s->step[s->nstep] = (unsigned char)step;
        s->extra[s->nstep++] = (unsigned char)extra;
        freq[step]++;
    }
    code_lengths(s->code, freq, 19, 7);
    s->ncode = 19;
    while (s->ncode > 4 && !s->code[LENGTH_ORDER[s->ncode - 1]])
        s->ncode--;
}

static unsigned step_extra_bits(unsigned step)
{
    return step == 16 ? 2 : step == 17 ? 3 : step == 18 ? 7 : 0;
}

/* Bits that a block takes with these code lengths, apart from its header. */
static uint64_t body_bits(const uint32_t *freq, const uint32_t *dfreq,
                          const unsigned char *length, const unsigned char *distance)
{
    uint64_t bits = 0;
    for (unsigned i = 0; i < 286; i++)
        bits += (uint64_t)freq[i] * (length[i] + (i > 256 ? LENGTH_EXTRA[i - 257] : 0u));
    for (unsigned i = 0; i < 30; i++)
        bits += (uint64_t)dfreq[i] * (distance[i] + (unsigned)DIST_EXTRA[i]);
    return bits;
}

static void add_tokens(deflater *s, const unsigned char *length, const unsigned char *distance)
{
    uint16_t code[288], dcode[30];
    assign_codes(code, length, 288);
    assign_codes(dcode, distance, 30);
    for (size_t i = 0; i < s->ntoken; i++) {
        unsigned back = s->token[i] >> 9, len = s->token[i] & 511;
        if (!back) {
            add_bits(s->out, code[len], length[len]);
            continue;
        }
        unsigned k = length_symbol(len), far = distance_symbol(back);
        add_bits(s->out, code[257 + k], length[257 + k]);
        add_bits(s->out, len - LENGTH_BASE[k], LENGTH_EXTRA[k]);
        add_bits(s->out, dcode[far], distance[far]);
        add_bits(s->out, back - DIST_BASE[far], DIST_EXTRA[far]);
    }
    add_bits(s->out, code[256], length[256]);
}

static void add_plan(packer *out, const plan *s)
{
    uint16_t code[19];
    assign_codes(code, s->code, 19);
    add_bits(out, s->nlength - 257, 5);
    add_bits(out, s->ndistance - 1, 5);
    add_bits(out, s->ncode - 4, 4);
    for (unsigned i = 0; i < s->ncode; i++)
        add_bits(out, s->code[LENGTH_ORDER[i]], 3);
    for (unsigned i = 0; i < s->nstep; i++) {
        add_bits(out, code[s->step[i]], s->code[s->step[i]]);
        add_bits(out, s->extra[i], step_extra_bits(s->step[i]));
    }
}

static void add_stored(deflater *s, size_t end, unsigned last)
{
    while (s->start < end) {
        size_t n = end - s->start < 65535 ? end - s->start : 65535;
        add_bits(s->out, last && s->start + n == end, 3);
        add_padding(s->out);
        add_bits(s->out, (unsigned)n, 16);
        add_bits(s->out, (unsigned)n ^ 0xffffu, 16);
        add_bytes(s->out, s->in + s->start, n);
        s->start += n;
    }
}

/* Writes the tokens that wait, whose text ends at `end`, in the cheapest of the three forms. */
static void flush_block(deflater *s, size_t end, unsigned last)
{
    uint32_t freq[286] = {0}, dfreq[30] = {0};
    unsigned char fixed[288], fixed_distance[32];
    plan p;
    for (size_t i = 0; i < s->ntoken; i++) {
        unsigned back = s->token[i] >> 9, len = s->token[i] & 511;
        freq[back ? 257 + length_symbol(len) : len]++;
        if (back)
            dfreq[distance_symbol(back)]++;
    }
    freq[256] = 1;
    for (unsigned i = 0; i < 288; i++)
        fixed[i] = (unsigned char)(i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8);
    memset(fixed_distance, 5, sizeof fixed_distance);
    p.length[286] = p.length[287] = 0;
    code_lengths(p.length, freq, 286, 15);
    code_lengths(p.distance, dfreq, 30, 15);
    for (p.nlength = 286; p.nlength > 257 && !p.length[p.nlength - 1];)
        p.nlength--;
    for (p.ndistance = 30; p.ndistance > 1 && !p.distance[p.ndistance - 1];)
        p.ndistance--;
    plan_steps(&p);
    uint64_t by_plan = 17 + 3 * p.ncode + body_bits(freq, dfreq, p.length, p.distance);
    for (unsigned i = 0; i < p.nstep; i++)
        by_plan += p.code[p.step[i]] + step_extra_bits(p.step[i]);
    uint64_t by_fixed = 3 + body_bits(freq, dfreq, fixed, fixed_distance);
    uint64_t stored = 8 * ((uint64_t)(end - s->start) + 5 * ((end - s->start) / 65535 + 1));
    if (stored < by_plan && stored < by_fixed) {
        add_stored(s, end, last);
    } else if (by_fixed <= by_plan) {
        add_bits(s->out, last | 1u << 1, 3);
        add_tokens(s, fixed, fixed_distance);
    } else {
        add_bits(s->out, last | 2u << 1, 3);
        add_plan(s->out, &p);
        add_tokens(s, p.length, p.distance);
    }
    s->start = end;
    s->ntoken = 0;
}

/* The chain of all texts that begin with (about) the same SHORTEST bytes. */
static uint32_t *chain_of(deflater *s, size_t at)
{
    const unsigned char *p = s->in + at;
    uint32_t key = (be32(p) * 2654435761u) ^ (((uint32_t)p[4] << 8 | p[5]) * 2246822519u);
    return s->head + (key >> (32 - HASH_BITS));
}

static void insert(deflater *s, size_t at)
{
    if (s->len - at < SHORTEST)
        return;
    uint32_t *head = chain_of(s, at);
    s->prev[at % WINDOW] = *head;
    *head = (uint32_t)at + 1;
}

/* The longest earlier text like that at `at`, if longer than best; 0 if none. */
static unsigned search(deflater *s, size_t at, unsigned best, unsigned *distance)
{
    unsigned most = s->len - at < 258 ? (unsigned)(s->len - at) : 258, found = 0;
    if (most < SHORTEST || best >= most || best >= ENOUGH)
        return 0;
    const unsigned char *here = s->in + at;
    uint32_t next = *chain_of(s, at);
    /* with a good match in hand a long search seldom pays */
    for (unsigned tries = best < 16 ? CHAIN : CHAIN / 8; next && tries; tries--) {
        size_t from = next - 1;
        if (at - from > WINDOW)
            break;
        const unsigned char *there = s->in + from;
        if (there[best] == here[best]) {
            unsigned n = 0;
            while (n < most && there[n] == here[n])
                n++;
            if (n > best && n >= SHORTEST) {
                best = found = n;
                *distance = (unsigned)(at - from);
                if (n == most || n >= ENOUGH)
                    break;
            }
        }
        uint32_t older = s->prev[from % WINDOW];
        if (older >= next)
            break;
        next = older;
    }
    return found;
}

static void add_token(deflater *s, uint32_t token, size_t end)
{
    s->token[s->ntoken++] = token;
    if (s->ntoken == BLOCK_TOKENS)
        flush_block(s, end, 0);
}

/* Adds the zlib stream of len >= 1 bytes (len < 2^32) to out. */
static void compress(packer *out, const unsigned char *in, size_t len)
{
    deflater s = {out, in, len, NULL, NULL, NULL, 0, 0};
    unsigned waiting = 0, length = 0, distance = 0; /* the byte before, and its match */
    unsigned char tail[4];
    s.head = calloc((1u << HASH_BITS) + WINDOW + BLOCK_TOKENS, sizeof *s.head);
    if (!s.head) {
        out->full = 1;
        return;
    }
    s.prev = s.head + (1u << HASH_BITS);
    s.token = s.prev + WINDOW;
    add_bytes(out, "\x78\xda", 2);
    for (size_t i = 0; i < len; i++) {
        unsigned further = 0;
        unsigned longer = search(&s, i, length, &further);
        insert(&s, i);
        if (length && !longer) {
            size_t end = i - 1 + length;
            for (i++; i < end; i++)
                insert(&s, i);
            add_token(&s, distance << 9 | length, end);
            i = end - 1;
            waiting = length = 0;
            continue;
        }
        if (waiting)
            add_token(&s, in[i - 1], i);
        waiting = 1;
        length = longer;
        distance = further;
    }
    if (waiting)
        s.token[s.ntoken++] = in[len - 1];
    flush_block(&s, len, 1);
    add_padding(out);
    put_be32(tail, adler32(in, len));
    add_bytes(out, tail, 4);
    free(s.head);
}

/* ------------------------------------------------------------------------------------------
 * Pictures out: PNG, PPM and PGM as 8 bits, PFM and NPY as they are; and io_write.
 * ------------------------------------------------------------------------------------------ */

int io_grid(io_array *grid, const io_array *a, size_t zoom, size_t gap)
{
    size_t columns = 1;
    memset(grid, 0, sizeof *grid);
    while (columns < (a->n + columns - 1) / columns)
        columns++;
    size_t rows = (a->n + columns - 1) / columns, limit = (size_t)1 << 30;
    if (!zoom || gap > limit || a->h > limit / zoom || a->w > limit / zoom ||
        rows > limit / (a->h * zoom + gap) || columns > limit / (a->w * zoom + gap))
        return IO_MEMORY;
    size_t h = a->h * zoom, w = a->w * zoom;
    int code = io_make(grid, 1, a->c, rows * (h + gap) - gap, columns * (w + gap) - gap);
    if (code)
        return code;
    size_t all = a->c * grid->h * grid->w;
    for (size_t i = 0; i < all; i++)
        grid->v[i] = -1;
    for (size_t i = 0; i < a->n; i++)
        for (size_t k = 0; k < a->c; k++)
            for (size_t y = 0; y < h; y++) {
                const di_real *from = a->v + ((i * a->c + k) * a->h + y / zoom) * a->w;
                di_real *to = grid->v + (k * grid->h + i / columns * (h + gap) + y) * grid->w +
                              i % columns * (w + gap);
                for (size_t x = 0; x < w; x++)
                    to[x] = from[x / zoom];
            }
    grid->picture = a->picture;
    return 0;
}

/* Filters one row of n bytes into out by filter 0..4; above: the row before, or NULL. */
static void filter_row(unsigned char *out, const unsigned char *row, const unsigned char *above,
                       size_t n, size_t unit, int filter)
{
    for (size_t i = 0; i < n; i++) {
        int left = i >= unit ? row[i - unit] : 0, up = above ? above[i] : 0;
        int corner = i >= unit && above ? above[i - unit] : 0;
        int guess = predict(filter, left, up, corner);
        out[i] = (unsigned char)(row[i] - guess);
    }
}

/* Filters h rows of n bytes; out: (h, n + 1). Each row takes the filter whose bytes, read as
 * signed, have the least sum of magnitudes: a cheap stand-in for the size after packing. */
static void filter_rows(unsigned char *out, const unsigned char *pixels, size_t h, size_t n,
                        size_t unit, unsigned char *trial)
{
    for (size_t y = 0; y < h; y++, out += n + 1) {
        const unsigned char *row = pixels + y * n, *above = y ? row - n : NULL;
        uint64_t least = UINT64_MAX;
        for (int filter = 0; filter < 5; filter++) {
            uint64_t sum = 0;
            filter_row(trial, row, above, n, unit, filter);
            for (size_t i = 0; i < n; i++)
                sum += trial[i] < 128 ? trial[i] : 256u - trial[i];
            if (sum < least) {
                least = sum;
                out[0] = (unsigned char)filter;
                memcpy(out + 1, trial, n);
            }
        }
    }
}

/* Interleaved bytes (H,W,C) of the first picture of a; out: h*w*c bytes. c = 3 of a grey
 * picture repeats it. */
static void to_bytes(unsigned char *out, const io_array *a, size_t c)
{
    size_t plane = a->h * a->w;
    for (size_t i = 0; i < plane; i++)
        for (size_t k = 0; k < c; k++)
            *out++ = byte_of(a->v[(a->c == 1 ? 0 : k) * plane + i]);
}

static void add_chunk(packer *s, const char *type, const void *p, size_t n)
{
    unsigned char word[4];
    put_be32(word, (uint32_t)n);
    add_bytes(s, word, 4);
    add_bytes(s, type, 4);
    add_bytes(s, p, n);
    put_be32(word, io_crc32(io_crc32(0, (const unsigned char *)type, 4), p, n));
    add_bytes(s, word, 4);
}

/* One text: tEXt if the value is ASCII, else iTXt, which is the chunk for UTF-8. */
static int add_text(packer *s, const char *key, const char *value, const report *r)
{
    size_t keylen = strlen(key), len = strlen(value);
    packer body = {NULL, 0, 0, 0, 0, 0};
    int ascii = 1;
    for (size_t i = 0; i < keylen; i++)
        if (key[i] < 32 || key[i] > 126)
            keylen = 0;
    if (!keylen || keylen > 79)
        return fail(r, IO_OUTPUT,
                    "a PNG text's key must be 1 to 79 printable ASCII characters");
    for (size_t i = 0; i < len; i++)
        ascii &= (unsigned char)value[i] < 128;
    add_bytes(&body, key, keylen + 1);
    if (!ascii)
        add_bytes(&body, "\0\0\0\0", 4);
    add_bytes(&body, value, len);
    if (!body.full)
        add_chunk(s, ascii ? "tEXt" : "iTXt", body.p, body.n);
    s->full |= body.full;
    free(body.p);
    return 0;
}

/* Builds a PNG of the picture a (1,C,H,W), C = 1 or 3, in s. */
static int build_png(packer *s, const io_array *a, const char *const *text, const report *r)
{
    size_t n = a->w * a->c, size = a->h * (n + 1);
    unsigned char head[13] = {0};
    packer data = {NULL, 0, 0, 0, 0, 0};
    int code = 0;
    unsigned char *pixels = malloc(a->h * n), *rows = malloc(size), *trial = malloc(n);
    if (pixels && rows && trial) {
        to_bytes(pixels, a, a->c);
        filter_rows(rows, pixels, a->h, n, a->c, trial);
        compress(&data, rows, size);
    } else {
        data.full = 1;
    }
    free(pixels);
    free(rows);
    free(trial);
    put_be32(head, (uint32_t)a->w);
    put_be32(head + 4, (uint32_t)a->h);
    head[8] = 8;
    head[9] = a->c == 3 ? 2 : 0;
    add_bytes(s, "\211PNG\r\n\032\n", 8);
    add_chunk(s, "IHDR", head, 13);
    for (; !code && text && text[0] && text[1]; text += 2)
        code = add_text(s, text[0], text[1], r);
    if (!data.full)
        add_chunk(s, "IDAT", data.p, data.n);
    add_chunk(s, "IEND", "", 0);
    s->full |= data.full;
    free(data.p);
    return code;
}

/* Bytes of one value, little-endian whatever the host. */
static void put_value(unsigned char *p, di_real x, unsigned size)
{
    uint64_t u = 0;
    if (size == 4) {
        float v = (float)x;
        uint32_t bits;
        memcpy(&bits, &v, 4);
        u = bits;
    } else {
        double v = (double)x;
        memcpy(&u, &v, 8);
    }
    for (unsigned i = 0; i < size; i++)
        p[i] = (unsigned char)(u >> (8 * i));
}

static int write_npy(output *o, const io_array *a, const report *r)
{
    char head[192] = "";
    unsigned char buf[8192];
    unsigned size = sizeof(di_real);
    int len = a->n == 1 ? snprintf(head, sizeof head,
                                   "{'descr': '<f%u', 'fortran_order': False, "
                                   "'shape': (%zu, %zu, %zu), }",
                                   size, a->c, a->h, a->w)
                        : snprintf(head, sizeof head,
                                   "{'descr': '<f%u', 'fortran_order': False, "
                                   "'shape': (%zu, %zu, %zu, %zu), }",
                                   size, a->n, a->c, a->h, a->w);
    /* NumPy pads so that the values start at a multiple of 64 */
    int padded = (10 + len + 1 + 63) / 64 * 64 - 10;
    memset(head + len, ' ', (size_t)(padded - len));
    head[padded - 1] = '\n';
    unsigned char magic[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)padded, 0};
    int code = put(o, magic, 10, r);
    if (!code)
        code = put(o, head, (size_t)padded, r);
    size_t all = a->n * a->c * a->h * a->w, used = 0;
    for (size_t i = 0; !code && i < all; i++) {
        put_value(buf + used, a->v[i], size);
        used += size;
        if (used == sizeof buf || i + 1 == all) {
            code = put(o, buf, used, r);
            used = 0;
        }
    }
    return code;
}

/* Builds a PPM (c = 3) or PGM (c = 1), or with pfm a PF or Pf, of the picture a in s. */
static int build_pnm(packer *s, const io_array *a, size_t c, int pfm, const report *r)
{
    char head[64];
    size_t plane = a->h * a->w, count = plane * c;
    int len = snprintf(head, sizeof head, "P%c\n%zu %zu\n%s\n",
                       pfm ? (c == 3 ? 'F' : 'f') : (c == 3 ? '6' : '5'), a->w, a->h,
                       pfm ? "-1.0" : "255");
    add_bytes(s, head, (size_t)len);
    unsigned char *body = count > SIZE_MAX / 4 ? NULL : malloc(pfm ? 4 * count : count);
    if (!body)
        return no_memory(r);
    unsigned char *p = body;
    if (!pfm)
        to_bytes(body, a, c);
    for (size_t y = a->h; pfm && y-- > 0;)
        for (size_t x = 0; x < a->w; x++)
            for (size_t k = 0; k < c; k++, p += 4)
                put_value(p, a->v[k * plane + y * a->w + x], 4);
    add_bytes(s, body, pfm ? 4 * count : count);
    free(body);
    return 0;
}

enum { AS_NPY, AS_PNG, AS_PPM, AS_PGM, AS_PFM, AS_UNKNOWN };

static int format_of(const char *path)
{
    static const char *const known[] = {".npy", ".png", ".ppm", ".pgm", ".pfm"};
    size_t len = strlen(path);
    for (int i = 0; i < AS_UNKNOWN; i++) {
        int same = len > 4;
        for (size_t k = 0; same && k < 4; k++) {
            char c = path[len - 4 + k];
            same = (c >= 'A' && c <= 'Z' ? c + 32 : c) == known[i][k];
        }
        if (same)
            return i;
    }
    return AS_UNKNOWN;
}

/* Can the array be written in this format? */
static int check_output(const io_array *a, int format, const report *r)
{
    if (format == AS_UNKNOWN)
        return fail(r, IO_OUTPUT,
                    "the name says no known format; end it in .npy, .png, .ppm, .pgm or "
                    ".pfm");
    if (!a->n || !a->c || !a->h || !a->w)
        return fail(r, IO_OUTPUT, "there is nothing to write; give an array that is not empty");
    if (format == AS_NPY)
        return 0;
    if (a->c != 1 && a->c != 3)
        return fail(r, IO_OUTPUT,
                    "a picture has 1 or 3 channels and this array %zu; write it as .npy, "
                    "or make a picture of it with diffinv view",
                    a->c);
    if (format == AS_PGM && a->c == 3)
        return fail(r, IO_OUTPUT,
                    "a PGM is grey and this picture is in colour; end the name in .ppm or "
                    ".png");
    if (format == AS_PFM && a->n > 1)
        return fail(r, IO_OUTPUT,
                    "a PFM holds one picture and this array %zu; write it as .npy", a->n);
    return 0;
}

int io_check_write(const char *path, const io_array *a, char *err, size_t errlen)
{
    report r = {path, err, errlen};
    return check_output(a, format_of(path), &r);
}

int io_write(const char *path, const io_array *a, const char *const *text, char *err,
             size_t errlen)
{
    report r = {path, err, errlen};
    int format = format_of(path), code = check_output(a, format, &r);
    io_array grid = {0, 0, 0, 0, NULL, 0};
    packer s = {NULL, 0, 0, 0, 0, 0};
    output o;
    if (code)
        return code;
    const io_array *one = a;
    if (format != AS_NPY && a->n > 1) {
        if (io_grid(&grid, a, 1, 2))
            return no_memory(&r);
        one = &grid;
    }
    if (format != AS_NPY &&
        (one->h > SIDE_CAP || one->w > SIDE_CAP || one->h > PIXEL_CAP / one->w))
        code = fail(&r, IO_OUTPUT, "a picture of %zux%zu is too large; write it as .npy",
                    one->h, one->w);
    else if (format == AS_PNG)
        code = build_png(&s, one, text, &r);
    else if (format != AS_NPY)
        code = build_pnm(&s, one, format == AS_PPM ? 3 : one->c, format == AS_PFM, &r);
    io_free(&grid);
    if (!code && s.full)
        code = no_memory(&r);
    if (!code)
        code = open_output(&o, &r);
    if (!code)
        code = close_output(&o, format == AS_NPY ? write_npy(&o, a, &r) : put(&o, s.p, s.n, &r),
                            &r);
    free(s.p);
    return code;
}
