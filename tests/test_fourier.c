/* test_fourier.c: phase retrieval, magnetic resonance, inverse scattering and their Bessel
   functions, against the official programs' numbers and the laws that they obey. */
#define DIFFINV_KERNELS
#include "run.h"

#include <stdlib.h>

enum { MOST = 4 * 64 * 64 };


static double inner(const di_real *a, const di_real *b, size_t n, double *size)
{
    double s = 0;
    for (size_t i = 0; i < n; i++) {
        s += (double)a[i] * b[i];
        *size += fabs((double)a[i] * b[i]);
    }
    return s;
}

/* max |got - file| / max |file| */
static double against(const di_real *got, size_t n, const char *name, const char *part)
{
    io_array a = vector(name, part);
    double far = 0, top = 0;
    if (!CHECK(a.v && a.n * a.c * a.h * a.w == n))
        return HUGE_VAL;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - a.v[i]);
        far = d <= far ? far : d == d ? d : HUGE_VAL;
        top = larger(top, fabs(a.v[i]));
    }
    io_free(&a);
    char what[80];
    snprintf(what, sizeof what, "%s%s against the official program", name, part);
    figure(what, far / top);
    return far / top;
}

/* A(x) and its VJP of the formula's x (seed 1) and v (seed 2) are the files NAME.y, NAME.gx. */
static void official(const di_problem *p, const char *name, double tolerance)
{
    static di_real x[MOST], v[MOST], y[MOST], gx[MOST];
    in_case("%s", name);
    if (!CHECK(p != NULL))
        return;
    fill(x, size3(p->x), 1);
    fill(v, size3(p->y), 2);
    EQUAL(di_apply(p, 1, x, y), DI_OK);
    EQUAL(di_apply_vjp(p, 1, x, v, gx), DI_OK);
    NEAR(against(y, size3(p->y), name, ".y"), 0, tolerance);
    NEAR(against(gx, size3(p->x), name, ".gx"), 0, tolerance);
}

/* <A x - A 0, v> = <x, A^T v>; the VJP needs no x; two images at once are them one by one,
   twice the same. */
static void adjoint(const di_problem *p)
{
    static di_real x[2 * MOST], v[2 * MOST], y[2 * MOST], gx[2 * MOST], zero[MOST], y0[MOST];
    size_t d = size3(p->x), m = size3(p->y);
    double size = 0, left, right;
    fill(x, 2 * d, 5);
    fill(v, 2 * m, 6);
    memset(zero, 0, d * sizeof *zero);
    di_apply(p, 1, zero, y0);
    EQUAL(di_apply(p, 2, x, y), DI_OK);
    EQUAL(di_apply_vjp(p, 2, NULL, v, gx), DI_OK);
    left = inner(y, v, m, &size) - inner(y0, v, m, &size);
    right = inner(x, gx, d, &size);
    NEAR(left, right, BOUND(1e-6, 1e-14) * size);
    NEAR(left, right, BOUND(1e-4, 1e-12) * fabs(left));
    figure(where, fabs(left - right) / fabs(left));
    di_apply(p, 1, x + d, y0);
    CHECK(same(y0, y + m, m));
    di_apply_vjp(p, 1, NULL, v + m, zero);
    CHECK(same(zero, gx + d, d));
}

/* ---- Phase retrieval --------------------------------------------------------------------- */

static di_problem *phase(int c, int h, int w, int pad, int halved)
{
    di_problem *p;
    EQUAL(di_problem_phase(ctx, c, h, w, pad, halved, &p), DI_OK);
    return p;
}

/* (<v, A(x + e u)> - <v, A(x - e u)>) / 2e = <J^T v, u>, in double. */
static void derivative(const di_problem *p, double e, double tolerance)
{
    static di_real x[MOST], u[MOST], v[MOST], y[2][MOST], gx[MOST];
    size_t d = size3(p->x), m = size3(p->y);
    double size = 0, far = 0;
    fill(x, d, 7);
    fill(u, d, 8);
    fill(v, m, 9);
    di_apply_vjp(p, 1, x, v, gx);
    double want = inner(gx, u, d, &size);
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < d; i++)
            x[i] += (di_real)(side ? -2 * e : e) * u[i];
        di_apply(p, 1, x, y[side]);
    }
    for (size_t i = 0; i < m; i++)
        far += (double)v[i] * (y[0][i] - (double)y[1][i]);
    NEAR(far / (2 * e), want, tolerance * fabs(want));
    figure(where, fabs(far / (2 * e) - want) / fabs(want));
}

static void test_phase_laws(int c, int h, int w, int pad)
{
    static di_real x[MOST], y[MOST], z[MOST], gx[MOST];
    in_case("phase %dx%dx%d, pad %d", c, h, w, pad);
    di_problem *p = phase(c, h, w, pad, 0), *half = phase(c, h, w, pad, 1);
    size_t d = size3(p->x), m = size3(p->y), n = (size_t)h * w;
    size_t H = (size_t)p->y[1], W = (size_t)p->y[2];
    EQUAL(p->linear, 0);
    EQUAL(H, h + 2 * pad);
    EQUAL(W, w + 2 * pad);
    fill(x, d, 3);
    di_apply(p, 1, x, y);
    double sum = 0, xx = inner(x, x, d, &sum), yy = inner(y, y, m, &sum);
    NEAR(yy, xx, BOUND(1e-6, 1e-13) * xx); /* orthonormal */
    for (int k = 0; k < c; k++) { /* the origin of the spectrum is the sum */
        double total = 0;
        for (size_t i = 0; i < n; i++)
            total += x[k * n + i];
        NEAR(y[k * H * W + H / 2 * W + W / 2], fabs(total) / sqrt((double)(H * W)),
             BOUND(2e-6, 1e-14));
    }
    for (size_t i = 0; i < d; i++) /* the point reflection of the picture */
        gx[i] = x[i / n * n + (n - 1 - i % n)];
    di_apply(p, 1, gx, z);
    for (size_t i = 0; i < m; i++)
        NEAR(z[i], y[i], BOUND(3e-6, 1e-14));
    for (size_t i = 0; i < d; i++)
        gx[i] = -x[i];
    di_apply(p, 1, gx, z);
    CHECK(same(y, z, m));
    for (size_t i = 0; i < d; i++)
        gx[i] = (di_real)0.5 * x[i] + (di_real)0.5;
    di_apply(p, 1, gx, y);
    di_apply(half, 1, x, z);
    CHECK(same(y, z, m));
    derivative(p, 1e-5 * BOUND(300, 1), BOUND(3e-3, 1e-7));
    derivative(half, 1e-5 * BOUND(300, 1), BOUND(3e-3, 1e-7));
    memset(x, 0, d * sizeof *x); /* no phase where there is no amplitude */
    fill(z, m, 4);
    di_apply_vjp(p, 1, x, z, gx);
    for (size_t i = 0; i < d; i++)
        CHECK(gx[i] == 0);
}

/* All channels at once, in other company, and twice: the same bits. */
static void test_phase_channels(void)
{
    static di_real x[MOST], y[MOST], one[MOST], v[MOST], gx[MOST];
    in_case("phase, channels");
    di_problem *p = phase(3, 20, 14, 5, 0), *single = phase(1, 20, 14, 5, 0);
    fill(x, size3(p->x), 3);
    fill(v, size3(p->y), 4);
    di_apply(p, 1, x, y);
    di_apply_vjp(p, 1, x, v, gx);
    size_t d = size3(single->x), m = size3(single->y);
    for (size_t k = 3; k-- > 0;) {
        di_apply(single, 1, x + k * d, one);
        CHECK(same(one, y + k * m, m));
        di_apply_vjp(single, 1, x + k * d, v + k * m, one);
        CHECK(same(one, gx + k * d, d));
    }
}

static void test_phase(void)
{
    official(phase(2, 16, 16, 4, 0), "phase_dps", BOUND(1e-6, 1e-14));
    official(phase(1, 9, 14, 3, 1), "phase_daps", BOUND(1e-6, 1e-14));
    test_phase_laws(2, 16, 16, 4);
    test_phase_laws(1, 9, 14, 3);
    test_phase_laws(1, 13, 11, 0);
    test_phase_laws(1, 1, 5, 2);
    test_phase_laws(1, 64, 64, 16);
    test_phase_channels();
    di_problem *p;
    in_case("phase refused");
    REFUSED(di_problem_phase(ctx, 1, 8, 8, -1, 0, &p), DI_EUSAGE, "pad=-1");
    REFUSED(di_problem_phase(ctx, 1, 8, 65530, 4, 0, &p), DI_EUSAGE, "more than 65536 a side");
    REFUSED(di_problem_phase(ctx, 0, 8, 8, 1, 0, &p), DI_EUSAGE, "impossible");
    CHECK(p == NULL);
    REFUSED(di_svd_values(phase(1, 4, 4, 1, 0), NULL), DI_EUSAGE, "no SVD");
    REFUSED(di_apply_pinv(phase(1, 4, 4, 1, 0), 1, NULL, NULL), DI_EUSAGE, "no pseudo-inverse");
}

/* ---- Magnetic resonance ------------------------------------------------------------------ */

/* The vectors' mask: by formula, and the middle. */
static void columns(di_real *mask, int w, int lo, int hi)
{
    for (int c = 0; c < w; c++)
        mask[c] = value_at((size_t)c, 4) > 0 || (c >= lo && c < hi);
}

static di_problem *mri(int h, int w, int coils, const di_real *maps, const di_real *mask)
{
    di_problem *p;
    EQUAL(di_problem_mri(ctx, h, w, coils, maps, mask, &p), DI_OK);
    return p;
}

static void mri_official(const char *name, int h, int w, int lo, int hi)
{
    static di_real maps[MOST], mask[64], x[MOST], y[MOST];
    double scale;
    fill(maps, 4 * (size_t)h * w, 3);
    columns(mask, w, lo, hi);
    di_problem *p = mri(h, w, 2, maps, mask);
    EQUAL(p->linear, 1);
    CHECK(p->pinv == NULL);
    official(p, name, BOUND(1e-6, 1e-14));
    adjoint(p);
    fill(x, size3(p->x), 1);
    di_apply(p, 1, x, y);
    EQUAL(di_mri_mvue(p, y, x, &scale), DI_OK);
    NEAR(against(x, size3(p->x), name, ".mvue"), 0, BOUND(2e-6, 1e-14));
    di_real s = (di_real)scale;
    NEAR(against(&s, 1, name, ".scale"), 0, BOUND(1e-6, 1e-14));
    for (size_t i = 0; i < size3(p->y); i++) /* nothing where nothing is measured */
        if (mask[i % w] == 0)
            CHECK(y[i] == 0);
}

/* One coil: A A^+ A = A, A^+ A A^+ = A^+, V^H orthogonal, |A x| = |S V^H x|. */
static void mri_single(int h, int w)
{
    static di_real maps[MOST], mask[64], x[MOST], y[MOST], z[MOST], s[MOST], again[MOST];
    size_t n = (size_t)h * w;
    double sum = 0;
    in_case("mri, one coil, %dx%d", h, w);
    for (size_t i = 0; i < n; i++) { /* even gain 2, any phase */
        maps[i] = (di_real)(2 * cos(3 * value_at(i, 12)));
        maps[n + i] = (di_real)(2 * sin(3 * value_at(i, 12)));
    }
    columns(mask, w, w / 2, w / 2 + 1);
    di_problem *p = mri(h, w, 1, maps, mask);
    if (!CHECK(p->pinv != NULL))
        return;
    fill(x, 2 * n, 1);
    di_apply(p, 1, x, y);
    EQUAL(di_apply_pinv(p, 1, y, z), DI_OK);
    di_apply(p, 1, z, again);
    for (size_t i = 0; i < 2 * n; i++)
        NEAR(again[i], y[i], BOUND(3e-6, 1e-14));
    EQUAL(di_svd_values(p, s), DI_OK);
    EQUAL(di_svd_vt(p, x, y), DI_OK);
    NEAR(inner(x, x, 2 * n, &sum), inner(y, y, 2 * n, &sum), BOUND(1e-6, 1e-13) * n);
    EQUAL(di_svd_v(p, y, z), DI_OK);
    for (size_t i = 0; i < 2 * n; i++) {
        NEAR(z[i], x[i], BOUND(2e-6, 1e-14));
        again[i] = s[i] * y[i];
        NEAR(s[i], 2 * mask[i % w], BOUND(1e-6, 1e-14));
    }
    di_apply(p, 1, x, y);
    NEAR(inner(again, again, 2 * n, &sum), inner(y, y, 2 * n, &sum), BOUND(1e-5, 1e-13) * n);
    maps[3] = (di_real)2.5; /* uneven */
    CHECK(mri(h, w, 1, maps, mask)->pinv == NULL);
}

static void test_mri(void)
{
    static di_real maps[MOST], mask[64], y[MOST];
    mri_official("mri_even", 12, 16, 7, 9);
    mri_official("mri_odd", 9, 15, 7, 8);
    mri_single(16, 20);
    mri_single(7, 9);
    di_problem *p;
    double scale;
    in_case("mri refused");
    columns(mask, 8, 3, 5);
    fill(maps, 4 * 64, 3);
    REFUSED(di_problem_mri(ctx, 8, 8, 0, maps, mask, &p), DI_EUSAGE, "0 coils");
    REFUSED(di_problem_mri(ctx, 8, 70000, 1, maps, mask, &p), DI_EUSAGE, "impossible");
    maps[2 * 64 + 5] = NAN;
    REFUSED(di_problem_mri(ctx, 8, 8, 2, maps, mask, &p), DI_EINPUT, "coil 1 holds NaN");
    memset(maps, 0, sizeof maps);
    REFUSED(di_problem_mri(ctx, 8, 8, 2, maps, mask, &p), DI_EINPUT, "zero everywhere");
    maps[0] = 1;
    mask[2] = (di_real)0.5;
    REFUSED(di_problem_mri(ctx, 8, 8, 2, maps, mask, &p), DI_EINPUT, "0.5 at column 2");
    mask[2] = NAN;
    REFUSED(di_problem_mri(ctx, 8, 8, 2, maps, mask, &p), DI_EINPUT, "nan at column 2");
    memset(mask, 0, sizeof mask);
    REFUSED(di_problem_mri(ctx, 8, 8, 2, maps, mask, &p), DI_EINPUT, "no column at all");
    CHECK(p == NULL);
    REFUSED(di_mri_mvue(phase(1, 4, 4, 1, 0), y, y, &scale), DI_EUSAGE, "no coils");
}

/* ---- Inverse scattering ------------------------------------------------------------------ */

/* Relative to |J + i Y|: beside a zero of one of them its own digits are lost. */
static void test_bessel(void)
{
    io_array a = vector("bessel0", "");
    double far = 0;
    in_case("bessel");
    for (size_t i = 0; i < a.w; i++) {
        double j, y, x = a.v[i], wj = a.v[a.w + i], wy = a.v[2 * a.w + i];
        di_bessel0(x, &j, &y);
        double size = sqrt(wj * wj + wy * wy), d = sqrt((j - wj) * (j - wj)
                                                        + (y - wy) * (y - wy));
        far = larger(far, d / size);
        /* float: the file's x was rounded, which turns the phase by as much */
        if (!NEAR(d / size, 0, BOUND(1e-7 * (2 + x), 7e-16)))
            printf("     at x = %.17g\n", x);
    }
    figure("        error of J + iY over its size", far);
    for (double x = 0.01; x < 3000; x *= 1.37) { /* J_0' Y_0 - J_0 Y_0' = -2/(pi x) */
        double e = 1e-5 * x / (1 + x), at[3] = { x - e, x, x + e }, j[3], y[3];
        for (int k = 0; k < 3; k++)
            di_bessel0(at[k], &j[k], &y[k]);
        NEAR(((j[2] - j[0]) * y[1] - j[1] * (y[2] - y[0])) / (at[2] - at[0]) * x
                 * 1.5707963267948966, -1, 1e-8);
    }
    io_free(&a);
}

static di_problem *scatter(int n, int transmitters, int receivers, double radius, double wave)
{
    di_problem *p;
    di_scatter s = { transmitters, receivers, 0.18, radius, wave };
    EQUAL(di_problem_scatter(ctx, n, &s, &p), DI_OK);
    return p;
}

static void test_scatter(void)
{
    in_case("scatter");
    di_problem *p = scatter(16, 4, 19, 1.6, 6);
    official(p, "scatter16", BOUND(1e-6, 3e-13));
    adjoint(p);
    p = scatter(9, 3, 5, 0.15, 3.5);
    official(p, "scatter9", BOUND(1e-6, 1e-13));
    adjoint(p);
    p = scatter(40, 1, 1, 0.3, 5);
    in_case("scatter 40");
    adjoint(p);
    di_scatter s = { 2, 0, 0.18, 1.6, 6 };
    in_case("scatter refused");
    REFUSED(di_problem_scatter(ctx, 8, &s, &p), DI_EUSAGE, "0 receivers");
    s.receivers = 2;
    s.radius = 0.1;
    REFUSED(di_problem_scatter(ctx, 8, &s, &p), DI_EUSAGE, "stand around the object");
    s.radius = NAN;
    REFUSED(di_problem_scatter(ctx, 8, &s, &p), DI_EUSAGE, "stand around the object");
    s.radius = 1.6;
    s.wave = 0;
    REFUSED(di_problem_scatter(ctx, 8, &s, &p), DI_EUSAGE, "wave=0");
    s.wave = 1e-4;
    REFUSED(di_problem_scatter(ctx, 128, &s, &p), DI_EUSAGE, "1e6 radians");
    s.wave = 6;
    REFUSED(di_problem_scatter(ctx, 0, &s, &p), DI_EUSAGE, "impossible");
    CHECK(p == NULL);
}

/* ---- Memory ------------------------------------------------------------------------------ */

/* An allocator whose `left`-th call fails. */
static void *failing(void *user, void *p, size_t old_size, size_t new_size)
{
    int *left = user;
    (void)old_size;
    if (!new_size) {
        free(p);
        return NULL;
    }
    return (*left)-- > 0 ? realloc(p, new_size) : NULL;
}

/* Whichever allocation fails: DI_EMEMORY, no problem, and nothing that stays allocated. */
static void test_memory(int kind)
{
    static di_real maps[4 * 64], mask[8];
    di_scatter s = { 2, 3, 0.18, 1.6, 6 };
    fill(maps, 4 * 64, 3);
    columns(mask, 8, 3, 5);
    for (int calls = 0, done = 0; !done && calls < 100; calls++) {
        int left = 1000;
        di_ctx *c;
        di_problem *p;
        EQUAL(di_open(&c, failing, &left), DI_OK);
        size_t before = di_bytes(c);
        left = calls;
        in_case("memory, problem %d, allocation %d", kind, calls);
        di_status got = kind == 0 ? di_problem_phase(c, 1, 8, 8, 2, 0, &p)
                        : kind == 1 ? di_problem_mri(c, 8, 8, 2, maps, mask, &p)
                                    : di_problem_scatter(c, 8, &s, &p);
        done = got == DI_OK;
        CHECK(done ? p != NULL : got == DI_EMEMORY && !p && di_bytes(c) == before);
        CHECK(!done || calls > 3);
        di_close(c);
    }
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    EQUAL(di_open(&ctx, NULL, NULL), DI_OK);
    test_phase();
    test_mri();
    test_bessel();
    test_scatter();
    for (int kind = 0; kind < 3; kind++)
        test_memory(kind);
    di_close(ctx);
    return finish();
}
