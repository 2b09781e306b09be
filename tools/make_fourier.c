/* make_fourier.c - phase retrieval, magnetic resonance and inverse scattering from text, and
 * what they are made of: coil maps, columns measured, noise of complex numbers. See make.h. */
#define DIFFINV_KERNELS
#include "make.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double PI = 3.14159265358979323846;

/* ==== Phase retrieval ==================================================================== */

/* Zeros on each side of an image whose longer side is n: int(oversample/8 n), as DAPS has it
 * for square ones; DPS takes n = 256 always. */
static int phase_pad(const make_spec *spec, int n)
{
    return (int)(make_number(spec, "oversample") / 8 * n);
}

static di_status problem_phase(di_ctx *ctx, const make_spec *spec, int c, int h, int w,
                               di_problem **problem)
{
    return di_problem_phase(ctx, c, h, w, phase_pad(spec, h > w ? h : w),
                            !strcmp(make_get(spec, "input"), "daps"), problem);
}

/* n + 2 int(a n) grows with n, so at most one n gives a measurement's longer side. */
static di_status phase_image(di_ctx *ctx, const make_spec *spec, const int y[3], int x[3])
{
    int most = y[1] > y[2] ? y[1] : y[2], least = y[1] < y[2] ? y[1] : y[2], n = 1;
    while (n < most && n + 2 * phase_pad(spec, n) < most)
        n++;
    int pad = phase_pad(spec, n);
    if (n + 2 * pad != most || least - 2 * pad < 1)
        return di_fail(ctx, DI_EINPUT, "problem phase: no image has measurements of %dx%d with "
                       "oversample=%s: give the value that it was measured with", y[1], y[2],
                       make_get(spec, "oversample"));
    x[1] = y[1] - 2 * pad;
    x[2] = y[2] - 2 * pad;
    return DI_OK;
}

const make_kind make_phase = {
    "phase", "phase retrieval: y = |F(x, padded)|", "exact derivative", 0, 0, problem_phase,
    phase_image, NULL,
    {{"oversample", "2", "0..64", "zeros on each side: oversample/8 of the longer side"},
     {"input", "dps", "dps|daps", "the picture as it is, or x/2 + 1/2, which DAPS transforms"},
     MAKE_SIGMA}};

/* ==== Magnetic resonance ================================================================= */

/* maps (2 coils,h,w): K coils around the picture see bells about places on a circle of radius
 * 1.2 half sides, each with its own gently turning phase, scaled to sum_k |S_k|^2 = 1. One coil
 * sees all alike. */
static void synthetic_coils(int coils, int h, int w, di_real *maps)
{
    size_t n = (size_t)h * (size_t)w;
    for (size_t i = 0; i < n; i++) {
        double v = h > 1 ? 2.0 * (double)(i / (size_t)w) / (h - 1) - 1 : 0, sum = 0;
        double u = w > 1 ? 2.0 * (double)(i % (size_t)w) / (w - 1) - 1 : 0;
        for (int pass = 0; pass < 2; pass++)
            for (int k = 0; k < coils; k++) {
                double a = 2 * PI * k / coils, x = 1.2 * di_cos(a), y = 1.2 * di_sin(a);
                double bell = di_exp(-((u - x) * (u - x) + (v - y) * (v - y)) / 2);
                double turn = coils > 1 ? a + 0.7 * (u * x + v * y) : 0;
                if (!pass) {
                    sum += bell * bell;
                    continue;
                }
                maps[2 * k * n + i] = (di_real)(bell / sqrt(sum) * di_cos(turn));
                maps[2 * k * n + n + i] = (di_real)(bell / sqrt(sum) * di_sin(turn));
            }
    }
}

/* The maps of a spec, and how many coils; NULL after a failure. For the caller to free. */
static di_real *make_coils(di_ctx *ctx, const make_spec *spec, int h, int w, int *coils)
{
    const char *path = make_get(spec, "coils");
    if (!*path) {
        *coils = (int)make_number(spec, "ncoils");
        di_real *maps = malloc(2 * (size_t)*coils * (size_t)h * (size_t)w * sizeof *maps);
        if (maps)
            synthetic_coils(*coils, h, w, maps);
        else
            di_fail(ctx, DI_EMEMORY, "no memory for the maps of %d coils", *coils);
        return maps;
    }
    io_array a;
    if (make_numbers(ctx, path, "coil maps", &a))
        return NULL;
    if (a.n == 1 && a.c % 2 == 0 && a.c <= 2048 && a.h == (size_t)h && a.w == (size_t)w) {
        *coils = (int)a.c / 2;
        return a.v;
    }
    di_fail(ctx, DI_EINPUT, "%s is %zux%zux%zu%s: the maps of K coils for a %dx%d image are "
            "(2K,%d,%d), each coil's real part and imaginary part", path, a.c, a.h, a.w,
            a.n > 1 ? " (several)" : "", h, w, h, w);
    io_free(&a);
    return NULL;
}

static di_status mask_of_file(di_ctx *ctx, const char *path, int w, di_real *mask)
{
    io_array a;
    di_status s = make_numbers(ctx, path, "columns", &a);
    if (!s && (a.n != 1 || a.c != 1 || a.h != 1 || a.w != (size_t)w))
        s = di_fail(ctx, DI_EINPUT, "%s is %zux%zux%zu: the mask of an image %d columns wide "
                    "is (%d), 1 for each column measured, 0 for the others", path, a.c, a.h,
                    a.w, w, w);
    for (int c = 0; !s && c < w; c++)
        mask[c] = a.v[c];
    io_free(&a);
    return s;
}

/* The columns measured, as InverseBench chooses them: the middle ones, floor(0.08 w) if
 * 1 < accel <= 6, else floor(0.04 w); of the others random ones up to floor(w/accel) in all, or
 * every int(accel)-th. Draws are ours: element i of the mask stream. */
static di_status make_columns(di_ctx *ctx, const make_spec *spec, int w, di_real *mask)
{
    const char *rule = make_get(spec, "mask"), *text = make_get(spec, "center");
    double accel = make_number(spec, "accel");
    int random = !strcmp(rule, "random"), outer = 0;
    if (!random && strcmp(rule, "equispaced"))
        return mask_of_file(ctx, rule, w, mask);
    int center = (int)floor((accel > 1 && accel <= 6 ? 0.08 : 0.04) * w);
    if (strcmp(text, "auto") && make_int(text, strlen(text), 0, w, &center))
        return di_fail(ctx, DI_EUSAGE, "problem mri: center=%s: give auto or at most the %d "
                       "columns of the image", text, w);
    int total = (int)floor(w / accel), lo = (w - center) / 2;
    int *order = malloc((size_t)w * sizeof *order);
    if (!order)
        return di_fail(ctx, DI_EMEMORY, "no memory for a mask");
    for (int c = 0; c < w; c++) {
        mask[c] = c >= lo && c < lo + center;
        if (mask[c] == 0)
            order[outer++] = c;
    }
    uint64_t pseed = 0;
    make_u64(make_get(spec, "pseed"), &pseed);
    for (int i = 0; random && i < total - center; i++) { /* the head of a shuffle */
        uint64_t bits = di_bits((size_t)i, pseed, DI_STREAM_MASK, 0, 0);
        int j = i + (int)(bits * (uint64_t)(outer - i) >> 32), c = order[j];
        order[j] = order[i];
        mask[c] = 1;
    }
    for (int i = 0; !random && i < outer; i += (int)accel)
        mask[order[i]] = 1;
    free(order);
    if (random && total < center)
        return di_fail(ctx, DI_EUSAGE, "problem mri: the %d columns of the center are more "
                       "than the %d that accel=%s leaves of %d: give center= or a smaller "
                       "accel=",
                       center, total, make_get(spec, "accel"), w);
    if (random && !total)
        return di_fail(ctx, DI_EUSAGE, "problem mri: accel=%s leaves no column of %d: give a "
                       "smaller one", make_get(spec, "accel"), w);
    return DI_OK;
}

static di_status problem_mri(di_ctx *ctx, const make_spec *spec, int c, int h, int w,
                             di_problem **problem)
{
    int coils = 0;
    if (c != 2)
        return di_fail(ctx, DI_EINPUT, "problem mri: an image has two channels, its real and "
                       "its imaginary part, not %d", c);
    di_real *mask = malloc((size_t)w * sizeof *mask), *maps = NULL;
    if (!mask)
        return di_fail(ctx, DI_EMEMORY, "no memory for a mask");
    di_status s = make_columns(ctx, spec, w, mask);
    if (!s)
        maps = make_coils(ctx, spec, h, w, &coils);
    if (maps)
        s = di_problem_mri(ctx, h, w, coils, maps, mask, problem);
    else if (!s)
        s = DI_EINPUT;
    free(maps);
    free(mask);
    return s;
}

static di_status mri_image(di_ctx *ctx, const make_spec *spec, const int y[3], int x[3])
{
    (void)spec;
    if (y[0] % 2)
        return di_fail(ctx, DI_EINPUT, "problem mri: a measurement has two channels for each "
                       "coil, not %d in all", y[0]);
    x[0] = 2;
    return DI_OK;
}

/* sigma on real and imaginary part of what is measured; columns that are not stay 0. */
static di_status mri_noise(di_ctx *ctx, const make_spec *spec, const di_problem *p,
                           uint64_t seed, size_t sample, di_real *y)
{
    size_t w = (size_t)p->y[2], m = (size_t)p->y[0] * (size_t)p->y[1] * w;
    double sigma = make_sigma(spec);
    if (!(sigma > 0))
        return DI_OK;
    di_real *mask = malloc(w * sizeof *mask), *noise = malloc(m * sizeof *noise);
    di_status s = mask && noise ? make_columns(ctx, spec, (int)w, mask)
                                : di_fail(ctx, DI_EMEMORY, "no memory for the noise");
    if (!s)
        di_normal(noise, m, seed, DI_STREAM_MEASURE, sample, 0);
    for (size_t i = 0; !s && i < m; i++)
        if (mask[i % w] != 0)
            y[i] += (di_real)sigma * noise[i];
    free(mask);
    free(noise);
    return s;
}

const make_kind make_mri = {
    "mri", "magnetic resonance: y_k = mask * F(S_k x), coils k", "exact adjoint", 0, 0,
    problem_mri, mri_image, mri_noise,
    {{"coils", "", "an NPY file (2K,H,W)", "maps of K coils, real and imaginary part of each"},
     {"ncoils", "4", "1..64 int", "without coils=: smooth maps; with 1 coil there is an SVD"},
     {"accel", "4", "1..64", "one column in so many is measured (InverseBench: 4, 8)"},
     {"center", "auto", "auto or columns", "middle ones kept; auto: 8 %, above accel=6 4 %"},
     {"mask", "random", "random, equispaced or a file (W)", "the other columns (InverseBench)"},
     MAKE_PSEED,
     {"sigma", "0", "0..100", "noise of each part of a measured value (InverseBench: none)"}}};

/* ==== Inverse scattering ================================================================= */

static di_status problem_scatter(di_ctx *ctx, const make_spec *spec, int c, int h, int w,
                                 di_problem **problem)
{
    if (c != 1 || h != w)
        return di_fail(ctx, DI_EINPUT, "problem scatter: an image is square and has one "
                       "channel, not %dx%dx%d", c, h, w);
    di_scatter s = {(int)make_number(spec, "transmitters"), (int)make_number(spec, "receivers"),
                    make_number(spec, "side"), make_number(spec, "radius"),
                    make_number(spec, "wave")};
    return di_problem_scatter(ctx, h, &s, problem);
}

/* A measurement does not tell the image's side. */
static di_status scatter_image(di_ctx *ctx, const make_spec *spec, const int y[3], int x[3])
{
    (void)ctx;
    (void)spec;
    (void)y;
    x[0] = 1;
    x[1] = x[2] = 0;
    return DI_OK;
}

/* A complex normal of deviation sigma: sigma/sqrt(2) in each part (torch.randn_like). */
static di_status scatter_noise(di_ctx *ctx, const make_spec *spec, const di_problem *p,
                               uint64_t seed, size_t sample, di_real *y)
{
    return make_gaussian_noise(ctx, make_sigma(spec) * sqrt(0.5), p, seed, sample, y);
}

const make_kind make_scatter = {
    "scatter", "inverse scattering (Born): y of each transmitter and receiver",
    "exact adjoint of its linear part", 0, 0, problem_scatter, scatter_image,
    scatter_noise,
    {{"transmitters", "20", "1..1024 int", "on a circle, 0 to 359 degrees (InverseBench)"},
     {"receivers", "360", "1..4096 int", "on the same circle (InverseBench)"},
     {"side", "0.18", "0.000001..1000000", "side of the picture in metres (InverseBench)"},
     {"radius", "1.6", "0.000001..1000000", "of the circle, in metres (InverseBench)"},
     {"wave", "6", "0.000001..1000000", "wavelength in pixels (InverseBench)"},
     {"sigma", "0.0001", "0..100", "noise of a complex value (InverseBench)"}}};
