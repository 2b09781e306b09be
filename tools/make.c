/* make.c - masks and measurement problems from text, see make.h */
#define DIFFINV_KERNELS
#include "make.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ==== Numbers as text ======================================================================

   The C library's parsers skip blanks, accept hexadecimal and follow the locale, so a setting
   could mean two things on two systems. These read all of the text or fail. */

int make_u64(const char *text, uint64_t *value)
{
    uint64_t v = 0;
    if (!*text)
        return 1;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return 1;
        unsigned digit = (unsigned)(*text - '0');
        if (v > (UINT64_MAX - digit) / 10)
            return 1;
        v = v * 10 + digit;
    }
    *value = v;
    return 0;
}

int make_int(const char *text, size_t len, int lo, int hi, int *value)
{
    double v;
    if (di_parse(text, len, &v) || !(v >= lo && v <= hi) || v != floor(v))
        return 1;
    *value = (int)v;
    return 0;
}

int make_size(const char *text, int *h, int *w)
{
    const char *x = strchr(text, 'x');
    if (make_int(text, x ? (size_t)(x - text) : strlen(text), 1, 1 << 16, h))
        return 1;
    *w = *h;
    return x ? make_int(x + 1, strlen(x + 1), 1, 1 << 16, w) : 0;
}

/* The bounds of a choice "lo..hi" or "lo..hi int"; 0 if it is one. */
static int parse_range(const char *choice, double *lo, double *hi, int *whole)
{
    const char *dots = choice ? strstr(choice, "..") : NULL;
    if (!dots)
        return 1;
    const char *end = dots + 2 + strcspn(dots + 2, " ");
    *whole = !strcmp(end, " int");
    return di_parse(choice, (size_t)(dots - choice), lo) ||
           di_parse(dots + 2, (size_t)(end - dots - 2), hi);
}

static int among(const char *choice, const char *value)
{
    size_t len = strlen(value);
    for (const char *p = choice; ; p += strcspn(p, "|") + 1) {
        if (len && strcspn(p, "|") == len && !strncmp(p, value, len))
            return 1;
        if (!p[strcspn(p, "|")])
            return 0;
    }
}

static const di_param *find_param(const di_param *table, int max, const char *key)
{
    for (int i = 0; i < max && table[i].key; i++)
        if (!strcmp(table[i].key, key))
            return &table[i];
    return NULL;
}

static di_status unknown_key(di_ctx *ctx, const char *where, const di_param *table, int max,
                             const char *key, const char *extra)
{
    const char *words[DI_MAX_PARAM + 1];
    int n = 0;
    while (n < max && table[n].key) {
        words[n] = table[n].key;
        n++;
    }
    if (extra)
        words[n++] = extra;
    if (!n)
        return di_fail(ctx, DI_EUSAGE, "%s has no parameters, so none named '%s'", where, key);
    return di_fail(ctx, DI_EUSAGE, "%s has no parameter '%s': did you mean '%s'?", where, key,
                   di_nearest(key, words, n));
}

static di_status check_value(di_ctx *ctx, const char *where, const di_param *p,
                             const char *value)
{
    double lo, hi, v;
    int whole;
    if (!parse_range(p->choice, &lo, &hi, &whole)) {
        if (di_parse(value, strlen(value), &v))
            return di_fail(ctx, DI_EUSAGE, "%s: %s=%s is not a number: give %s", where, p->key,
                           value, p->choice);
        if (!(v >= lo && v <= hi) || (whole && v != floor(v)))
            return di_fail(ctx, DI_EUSAGE, "%s: %s=%s is out of range: give %s", where, p->key,
                           value, p->choice);
        return DI_OK;
    }
    if (p->choice && strchr(p->choice, '|') && !among(p->choice, value))
        return di_fail(ctx, DI_EUSAGE, "%s: %s=%s is unknown: give one of %s", where, p->key,
                       value, p->choice);
    return DI_OK;
}

di_status make_check(di_ctx *ctx, const char *where, const di_param *table, const char *key,
                     const char *value)
{
    const di_param *p = find_param(table, DI_MAX_PARAM, key);
    return p ? check_value(ctx, where, p, value)
             : unknown_key(ctx, where, table, DI_MAX_PARAM, key, NULL);
}

/* ==== Masks ================================================================================

   One mask (h,w) serves all channels and all pictures. Draws come from the generator's mask
   stream, element i of draw 0, so a mask is a pure function of its text, its size and pseed. */

/* A whole number in [0, n), from the generator's i-th word. */
static size_t draw_below(size_t i, uint64_t pseed, size_t n)
{
    return (size_t)((uint64_t)di_bits(i, pseed, DI_STREAM_MASK, 0, 0) * (uint64_t)n >> 32);
}

/* Where a box goes that is placed at random: uniform in [margin, side-margin-box), the upper
   bound excluded, as the DPS program draws it (margin 16 on 256). */
static di_status draw_place(di_ctx *ctx, const char *text, const char *margin, uint64_t pseed,
                            int h, int w, int bh, int bw, int *t, int *l)
{
    int m = h / 16;
    if (strcmp(margin, "auto") && make_int(margin, strlen(margin), 0, 1 << 16, &m))
        return di_fail(ctx, DI_EUSAGE, "problem inpaint: margin=%s: give auto or pixels",
                       margin);
    if (h - 2 * m - bh < 1 || w - 2 * m - bw < 1)
        return di_fail(ctx, DI_EUSAGE, "problem inpaint: mask=%s does not fit into %dx%d with "
                       "a margin of %d: give a smaller box or margin=", text, h, w, m);
    *t = m + (int)draw_below(0, pseed, (size_t)(h - 2 * m - bh));
    *l = m + (int)draw_below(1, pseed, (size_t)(w - 2 * m - bw));
    return DI_OK;
}

static di_status mask_box(di_ctx *ctx, const char *text, const char *at, const char *margin,
                          uint64_t pseed, int h, int w, di_real *mask)
{
    int bh, bw;
    if (make_size(text + 4, &bh, &bw))
        return di_fail(ctx, DI_EUSAGE, "problem inpaint: mask=%s: give box:S or box:HxW, in "
                       "pixels", text);
    if (bh > h || bw > w)
        return di_fail(ctx, DI_EUSAGE, "problem inpaint: mask=%s is larger than the %dx%d "
                       "image", text, h, w);
    int t = (h - bh) / 2, l = (w - bw) / 2;
    if (!strcmp(at, "rand")) {
        di_status s = draw_place(ctx, text, margin, pseed, h, w, bh, bw, &t, &l);
        if (s)
            return s;
    } else if (strcmp(at, "center")) {
        const char *comma = strchr(at, ',');
        if (!comma || make_int(at, (size_t)(comma - at), 0, h - bh, &t) ||
            make_int(comma + 1, strlen(comma + 1), 0, w - bw, &l))
            return di_fail(ctx, DI_EUSAGE, "problem inpaint: at=%s: give center, rand or "
                           "top,left of at most %d,%d", at, h - bh, w - bw);
    }
    for (int r = 0; r < h; r++)
        for (int q = 0; q < w; q++)
            mask[r * w + q] = !(r >= t && r < t + bh && q >= l && q < l + bw);
    return DI_OK;
}

/* Exactly floor(h*w*share) pixels go missing: the head of a Fisher-Yates shuffle. */
static di_status mask_random(di_ctx *ctx, const char *text, uint64_t pseed, int h, int w,
                             di_real *mask)
{
    double share;
    if (di_parse(text + 7, strlen(text + 7), &share) || !(share >= 0 && share <= 1))
        return di_fail(ctx, DI_EUSAGE, "problem inpaint: mask=%s: give random:SHARE, the share "
                       "of pixels missing, 0..1", text);
    size_t n = (size_t)h * (size_t)w;
    /* 0.29*100 is 28.999999999999996 in binary; the decimal product is meant. */
    size_t missing = (size_t)floor((double)n * share * (1 + 1e-15));
    size_t *order = malloc(n * sizeof *order);
    if (!order)
        return di_fail(ctx, DI_EMEMORY, "no memory for a mask of %dx%d", h, w);
    for (size_t i = 0; i < n; i++) {
        order[i] = i;
        mask[i] = 1;
    }
    for (size_t i = 0; i < missing && i < n; i++) {
        size_t j = i + draw_below(i, pseed, n - i);
        size_t pixel = order[j];
        order[j] = order[i];
        mask[pixel] = 0;
    }
    free(order);
    return DI_OK;
}

/* A mask file holds two values, white (or 1) for known; all channels must agree. */
static di_status mask_values(di_ctx *ctx, const char *path, const io_array *a, di_real *mask)
{
    size_t n = a->h * a->w;
    /* A u1 array of 0 and 1 was read as a very dark picture. */
    di_real dark_one = (di_real)(2.0 / 255 - 1);
    int bits = a->picture;
    for (size_t i = 0; i < n; i++)
        if (a->v[i] != -1 && (double)fabs((double)a->v[i] - (double)dark_one) > 1e-6)
            bits = 0;
    for (size_t i = 0; i < n; i++) {
        di_real v = a->v[i];
        mask[i] = bits ? v != -1 : v == 1;
        if (!bits && v != 1 && v != (a->picture ? -1 : 0))
            return di_fail(ctx, DI_EINPUT, "%s: a mask holds only black and white (arrays: 0 "
                           "and 1), not %s at row %zu, column %zu", path,
                           a->picture ? "grey" : "other values", i / a->w, i % a->w);
        for (size_t c = 1; c < a->c; c++)
            if (a->v[c * n + i] != v)
                return di_fail(ctx, DI_EINPUT, "%s: a mask is black and white, not coloured: "
                               "row %zu, column %zu", path, i / a->w, i % a->w);
    }
    return DI_OK;
}

static di_status mask_file(di_ctx *ctx, const char *path, int h, int w, di_real *mask)
{
    io_array a;
    char err[400];
    int code = io_read(&a, path, err, sizeof err);
    if (code)
        return di_fail(ctx, (di_status)code, "%s", err);
    di_status s = DI_OK;
    if (a.n != 1 || a.h != (size_t)h || a.w != (size_t)w)
        s = di_fail(ctx, DI_EINPUT, "%s: the mask is %zux%zu%s, the image %dx%d: give a mask "
                    "of %dx%d, or fit the image to it with --size %zux%zu --fit "
                    "crop|pad|resize", path, a.h, a.w, a.n > 1 ? " (several)" : "", h, w, h, w,
                    a.h, a.w);
    else
        s = mask_values(ctx, path, &a, mask);
    io_free(&a);
    return s;
}

di_status make_mask(di_ctx *ctx, const char *text, const char *at, const char *margin,
                    uint64_t pseed, int h, int w, di_real *mask)
{
    if (!strncmp(text, "box:", 4))
        return mask_box(ctx, text, at, margin, pseed, h, w, mask);
    if (strcmp(at, "center"))
        return di_fail(ctx, DI_EUSAGE, "problem inpaint: at=%s places a box, but mask=%s is "
                       "none", at, text);
    if (!strncmp(text, "random:", 7))
        return mask_random(ctx, text, pseed, h, w, mask);
    return mask_file(ctx, text, h, w, mask);
}

/* ==== The problem table ====================================================================

   What the command knows of every problem. The rows of this file's problems stand at its end;
   the others' stand beside their code. */

static const make_kind *const kinds[] = {
    &make_denoise, &make_inpaint, &make_sr, &make_gblur, &make_motion, &make_nlblur,
    &make_nblur, &make_blind, &make_turbulence, &make_hdr, &make_colorize, &make_jpeg,
    &make_phase, &make_mri, &make_scatter, &make_blackhole,
    &make_navier_stokes, &make_matrix,
};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

const make_kind *make_kind_at(int i)
{
    return i >= 0 && i < KINDS ? kinds[i] : NULL;
}

const make_kind *make_kind_find(const char *name)
{
    for (int i = 0; i < KINDS; i++)
        if (!strcmp(kinds[i]->name, name))
            return kinds[i];
    return NULL;
}

const char *make_kind_nearest(const char *name)
{
    const char *words[KINDS];
    for (int i = 0; i < KINDS; i++)
        words[i] = kinds[i]->name;
    return di_nearest(name, words, KINDS);
}

const make_extra *make_extra_of(const make_kind *kind)
{
    static const make_extra none = {"", 0, NULL, NULL}, science[] = {
        {"mri", 1, NULL, NULL}, {"scatter", 1, NULL, NULL}, {"navier_stokes", 1, NULL, NULL}};
    if (!strcmp(kind->name, make_extra_blackhole.problem))
        return &make_extra_blackhole;
    for (size_t i = 0; i < sizeof science / sizeof science[0]; i++)
        if (!strcmp(kind->name, science[i].problem))
            return &science[i];
    return &none;
}

/* ==== Problems from text ================================================================ */

static void where_of(const make_spec *spec, char where[48])
{
    snprintf(where, 48, "problem %s", spec->kind->name);
}

di_status make_begin(di_ctx *ctx, make_spec *spec, const char *name)
{
    memset(spec, 0, sizeof *spec);
    spec->kind = make_kind_find(name);
    if (!spec->kind)
        return di_fail(ctx, DI_EUSAGE, "no problem is named '%s': did you mean '%s'? See "
                       "diffinv list problems", name, make_kind_nearest(name));
    return DI_OK;
}

di_status make_set(di_ctx *ctx, make_spec *spec, const char *key, const char *value)
{
    char where[48];
    where_of(spec, where);
    int twice = !strcmp(key, "sigma01");
    const di_param *table = spec->kind->param;
    const di_param *p = find_param(table, MAKE_PARAMS, twice ? "sigma" : key);
    if (!p)
        return unknown_key(ctx, where, table, MAKE_PARAMS, key, "sigma01");
    if (!strcmp(key, "pseed")) {
        uint64_t seed;
        if (make_u64(value, &seed))
            return di_fail(ctx, DI_EUSAGE, "%s: pseed=%s is not a whole number", where, value);
    }
    di_status s = check_value(ctx, where, p, value);
    if (s)
        return s;
    if (twice) {
        double v;
        if (di_parse(value, strlen(value), &v))
            return DI_EUSAGE;
        snprintf(spec->sigma, sizeof spec->sigma, "%.15g", 2 * v);
        value = spec->sigma;
    }
    spec->value[p - table] = value;
    return DI_OK;
}

const char *make_get(const make_spec *spec, const char *key)
{
    const di_param *p = find_param(spec->kind->param, MAKE_PARAMS, key);
    if (!p)
        return NULL;
    const char *given = spec->value[p - spec->kind->param];
    return given ? given : p->value;
}

int make_given(const make_spec *spec, const char *key)
{
    const di_param *p = find_param(spec->kind->param, MAKE_PARAMS, key);
    return p && spec->value[p - spec->kind->param];
}

/* A value that make_set has checked. */
double make_number(const make_spec *spec, const char *key)
{
    const char *text = make_get(spec, key);
    double v = 0;
    if (text)
        di_parse(text, strlen(text), &v);
    return v;
}

double make_sigma(const make_spec *spec)
{
    return make_number(spec, "sigma");
}

di_status make_check_measurement(di_ctx *ctx, const make_spec *spec, const di_problem *p,
                                 const char *path, const io_array *y)
{
    const make_extra *extra = make_extra_of(spec->kind);
    if (y->c == (size_t)p->y[0] && y->h == (size_t)p->y[1] && y->w == (size_t)p->y[2])
        return extra->check ? extra->check(ctx, spec, p, path, y) : DI_OK;
    return di_fail(ctx, DI_EINPUT, "%s is %zux%zux%zu, problem %s measures %dx%dx%d: measure "
                   "the picture again", path, y->c, y->h, y->w, p->name, p->y[0], p->y[1],
                   p->y[2]);
}

di_status make_image_shape(di_ctx *ctx, const make_spec *spec, const int y[3], int x[3])
{
    for (int i = 0; i < 3; i++)
        x[i] = y[i];
    return spec->kind->image ? spec->kind->image(ctx, spec, y, x) : DI_OK;
}

di_status make_problem(di_ctx *ctx, const make_spec *spec, int c, int h, int w,
                       di_problem **problem)
{
    return spec->kind->make(ctx, spec, c, h, w, problem);
}

di_status make_gaussian_noise(di_ctx *ctx, double sigma, const di_problem *p, uint64_t seed,
                              size_t sample, di_real *y)
{
    size_t m = (size_t)p->y[0] * (size_t)p->y[1] * (size_t)p->y[2];
    if (!(sigma > 0))
        return DI_OK;
    di_real *noise = malloc(m * sizeof *noise);
    if (!noise)
        return di_fail(ctx, DI_EMEMORY, "no memory for the noise");
    di_normal(noise, m, seed, DI_STREAM_MEASURE, sample, 0);
    for (size_t i = 0; i < m; i++)
        y[i] += (di_real)sigma * noise[i];
    free(noise);
    return DI_OK;
}

di_status make_noise(di_ctx *ctx, const make_spec *spec, const di_problem *p, uint64_t seed,
                     size_t sample, di_real *y)
{
    if (spec->kind->noise)
        return spec->kind->noise(ctx, spec, p, seed, sample, y);
    return make_gaussian_noise(ctx, make_sigma(spec), p, seed, sample, y);
}

di_status make_measure(di_ctx *ctx, const make_spec *spec, const di_problem *p, uint64_t seed,
                       size_t sample, const di_real *x, di_real *y)
{
    const make_extra *extra = make_extra_of(spec->kind);
    if (extra->measure)
        return extra->measure(ctx, spec, p, seed, sample, x, y);
    di_status s = di_apply(p, 1, x, y);
    return s ? s : make_noise(ctx, spec, p, seed, sample, y);
}

di_status make_numbers(di_ctx *ctx, const char *path, const char *what, io_array *a)
{
    char err[400];
    memset(a, 0, sizeof *a);
    int code = io_read(a, path, err, sizeof err);
    if (code)
        return di_fail(ctx, (di_status)code, "%s", err);
    if (!a->picture && di_finite(a->v, a->n * a->c * a->h * a->w))
        return DI_OK;
    int picture = a->picture;
    io_free(a);
    return di_fail(ctx, DI_EINPUT, picture ? "%s is a picture or a uint8 array, which is read "
                   "as [-1,1]: save the %s as float32" : "%s: the %s hold NaN or infinity",
                   path, what);
}

/* ==== Denoising, inpainting, super-resolution, Gaussian blur, any matrix ================= */

static di_status problem_denoise(di_ctx *ctx, const make_spec *spec, int c, int h, int w,
                                 di_problem **problem)
{
    (void)spec;
    return di_problem_denoise(ctx, c, h, w, problem);
}

static di_status problem_inpaint(di_ctx *ctx, const make_spec *spec, int c, int h, int w,
                                 di_problem **problem)
{
    uint64_t pseed = 0;
    const char *text = make_get(spec, "mask");
    if (!*text)
        return di_fail(ctx, DI_EUSAGE, "problem inpaint needs a mask: mask=box:S, box:HxW, "
                       "random:SHARE or a file");
    make_u64(make_get(spec, "pseed"), &pseed);
    di_real *mask = malloc((size_t)h * (size_t)w * sizeof *mask);
    if (!mask)
        return di_fail(ctx, DI_EMEMORY, "no memory for a mask of %dx%d", h, w);
    di_status s = make_mask(ctx, text, make_get(spec, "at"), make_get(spec, "margin"), pseed, h,
                            w, mask);
    if (!s)
        s = di_problem_inpaint(ctx, c, h, w, mask, problem);
    free(mask);
    return s;
}

static di_status problem_sr(di_ctx *ctx, const make_spec *spec, int c, int h, int w,
                            di_problem **problem)
{
    int factor = (int)make_number(spec, "factor");
    if (h % factor || w % factor) {
        int dh = h < factor ? factor : h - h % factor, uh = (h + factor - 1) / factor * factor;
        int dw = w < factor ? factor : w - w % factor, uw = (w + factor - 1) / factor * factor;
        return di_fail(ctx, DI_EINPUT, "problem sr: %dx%d is not divisible by factor=%d: the "
                       "nearest sizes are %dx%d and %dx%d; give --size and --fit "
                       "crop|pad|resize", h, w, factor, dh, dw, uh, uw);
    }
    const char *kind = make_get(spec, "kind");
    return di_problem_sr(ctx, c, h, w, factor, !strcmp(kind, "mean") ? DI_SR_MEAN
                         : !strcmp(kind, "cut") ? DI_SR_CUT : DI_SR_BICUBIC, problem);
}

static di_status problem_gblur(di_ctx *ctx, const make_spec *spec, int c, int h, int w,
                               di_problem **problem)
{
    int size = (int)make_number(spec, "size"), least = h < w ? h : w;
    if (size % 2 == 0)
        return di_fail(ctx, DI_EUSAGE, "problem gblur: size=%d is even: give %d or %d", size,
                       size - 1, size + 1);
    if (size / 2 >= least)
        return di_fail(ctx, DI_EUSAGE, "problem gblur: size=%d is too large for a %dx%d image, "
                       "which reflects at most %d pixels: give at most %d", size, h, w,
                       least - 1, 2 * least - 1);
    return di_problem_gblur(ctx, c, h, w, size, make_number(spec, "std"), problem);
}

static di_status sr_image(di_ctx *ctx, const make_spec *spec, const int y[3], int x[3])
{
    int factor = (int)make_number(spec, "factor");
    if (y[1] > (1 << 16) / factor || y[2] > (1 << 16) / factor)
        return di_fail(ctx, DI_EINPUT, "problem sr: a measurement of %dx%d times factor=%d is "
                       "more than 65536 pixels a side", y[1], y[2], factor);
    x[1] = y[1] * factor;
    x[2] = y[2] * factor;
    return DI_OK;
}

/* A of a matrix problem: (1,1,m,d), for the caller to free. */
static di_status read_matrix(di_ctx *ctx, const make_spec *spec, io_array *a)
{
    const char *path = make_get(spec, "a");
    char err[400];
    memset(a, 0, sizeof *a);
    if (!*path)
        return di_fail(ctx, DI_EUSAGE, "problem matrix needs a matrix: a=A.npy");
    int code = io_read(a, path, err, sizeof err);
    if (code)
        return di_fail(ctx, (di_status)code, "%s", err);
    const char *wrong = NULL;
    if (a->picture)
        wrong = "is a picture or a uint8 array, which is read as [-1,1]: save it as float32";
    else if (a->n != 1 || a->c != 1)
        wrong = "has more than two dimensions: give a matrix (m,d)";
    else if (a->h > 1 << 16 || a->w > 1 << 16)
        wrong = "is larger than 65536 a side";
    else if (!di_finite(a->v, a->h * a->w))
        wrong = "holds NaN or infinity";
    if (!wrong)
        return DI_OK;
    io_free(a);
    return di_fail(ctx, DI_EINPUT, "%s %s", path, wrong);
}

static di_status problem_matrix(di_ctx *ctx, const make_spec *spec, int c, int h, int w,
                                di_problem **problem)
{
    io_array a;
    di_status s = read_matrix(ctx, spec, &a);
    if (!s && a.w != (size_t)c * (size_t)h * (size_t)w)
        s = di_fail(ctx, DI_EINPUT, "%s is %zux%zu, an image of %dx%dx%d has %zu values: give "
                    "a matrix with as many columns", make_get(spec, "a"), a.h, a.w, c, h, w,
                    (size_t)c * (size_t)h * (size_t)w);
    if (!s)
        s = di_problem_matrix(ctx, c, h, w, (int)a.h, a.v, problem);
    io_free(&a);
    return s;
}

static di_status matrix_image(di_ctx *ctx, const make_spec *spec, const int y[3], int x[3])
{
    io_array a;
    di_status s = read_matrix(ctx, spec, &a);
    (void)y;
    x[0] = x[1] = 1;
    x[2] = s ? 0 : (int)a.w;
    io_free(&a);
    return s;
}

const make_kind make_denoise = {
    "denoise", "denoising: y = x", "the identity", 1, 1, problem_denoise, NULL,
    make_image_noise, {MAKE_SIGMA, MAKE_NOISE}};
const make_kind make_inpaint = {
    "inpaint", "inpainting: y = mask * x", "its own adjoint", 1, 1, problem_inpaint, NULL,
    make_image_noise,
    {{"mask", "", "box:S, box:HxW, random:SHARE (the share missing) or a file (white = known)",
      "required; DPS: box:128 of 256 and random:0.3 to 0.7, DAPS: random:0.7"},
     {"at", "center", "center, rand or top,left", "place of a box"},
     {"margin", "auto", "auto or pixels", "at=rand keeps it free; auto: H/16, as DPS"},
     MAKE_PSEED, MAKE_SIGMA, MAKE_NOISE}};
const make_kind make_sr = {
    "sr", "super-resolution: y = x reduced", "exact adjoint", 1, 1, problem_sr, sr_image,
    make_image_noise,
    {{"factor", "4", "2..64 int", "reduction of each side (DPS)"},
     {"kind", "bicubic", "bicubic|mean|cut",
      "antialiased bicubic (DPS), block mean (DDRM), bicubic cut at the border (InverseBench)"},
     MAKE_SIGMA, MAKE_NOISE}};
const make_kind make_gblur = {
    "gblur", "Gaussian blur, reflect-101 border", "exact adjoint", 1, 1, problem_gblur, NULL,
    make_image_noise,
    {{"size", "61", "1..511 int", "side of the kernel, odd (DPS)"},
     {"std", "3", "0.01..100", "its standard deviation in pixels (DPS)"},
     MAKE_SIGMA, MAKE_NOISE}};
const make_kind make_matrix = {
    "matrix", "any linear map: y = A x, x as one column", "exact adjoint", 1, 1, problem_matrix,
    matrix_image, NULL,
    {{"a", "", "an NPY file (m,d), d = C*H*W", "required; one row a measurement"},
     MAKE_SIGMA}};
