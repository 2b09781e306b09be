/* test_problems.c: measurement maps, their adjoints, pseudo-inverses and SVDs, metrics, and the
   Gaussian prior, against closed forms and the official programs' numbers. */
#include "check.h"
#include "../tools/io.h"

enum { MOST = 3 * 64 * 64 };
static di_ctx *ctx;

static size_t size3(const int *s) { return (size_t)s[0] * s[1] * s[2]; }

/* The error's words, and a fresh start. */
static void refused(di_status got, di_status want, const char *words)
{
    EQUAL(got, want);
    SAYS(di_error(ctx), words);
    di_clear(ctx);
}

/* A 0/1 mask by formula that misses about a third, never the first pixel. */
static void make_mask(di_real *m, int n)
{
    for (int i = 0; i < n; i++)
        m[i] = i == 0 || value_at((size_t)i, 90) > -0.3;
}

/* ---- Every problem ----------------------------------------------------------------------- */

enum { KINDS = 9 };
static di_problem *problem(int kind, int c, int h, int w)
{
    static di_real mask[64 * 64];
    di_problem *p = NULL;
    make_mask(mask, h * w);
    switch (kind) {
    case 0: di_problem_denoise(ctx, c, h, w, &p); break;
    case 1: di_problem_inpaint(ctx, c, h, w, mask, &p); break;
    case 2: di_problem_sr(ctx, c, h, w, 4, DI_SR_BICUBIC, &p); break;
    case 3: di_problem_sr(ctx, c, h, w, 2, DI_SR_BICUBIC, &p); break;
    case 4: di_problem_sr(ctx, c, h, w, 8, DI_SR_BICUBIC, &p); break;
    case 5: di_problem_sr(ctx, c, h, w, 4, DI_SR_MEAN, &p); break;
    case 6: di_problem_gblur(ctx, c, h, w, 15, 1.5, &p); break;
    case 7: di_problem_gblur(ctx, c, h, w, 9, 3, &p); break; /* tails folded into the kernel */
    default: di_problem_gblur(ctx, c, h, w, 29, 3, &p); break;
    }
    CHECK(p != NULL);
    return p;
}

/* <A x, v> = <x, A^T v>; two images at once are the images one by one. */
static void test_adjoint(const di_problem *p)
{
    static di_real x[2 * MOST], y[2 * MOST], v[2 * MOST], gx[2 * MOST], one[MOST];
    size_t d = size3(p->x), m = size3(p->y);
    double left = 0, right = 0, size = 0;
    fill(x, 2 * d, 1);
    fill(v, 2 * m, 2);
    EQUAL(p->linear, 1);
    EQUAL(di_apply(p, 2, x, y), DI_OK);
    EQUAL(di_apply_vjp(p, 2, NULL, v, gx), DI_OK);
    for (size_t i = 0; i < 2 * m; i++) {
        left += (double)y[i] * v[i];
        size += fabs((double)y[i] * v[i]);
    }
    for (size_t i = 0; i < 2 * d; i++)
        right += (double)x[i] * gx[i];
    NEAR(left, right, BOUND(1e-6, 1e-14) * size); /* a few roundings in each element */
    figure(where, fabs(left - right) / size);
    for (int n = 0; n < 2; n++) {
        di_apply(p, 1, x + n * d, one);
        CHECK(same(one, y + n * m, m));
        di_apply_vjp(p, 1, x, v + n * m, one);
        CHECK(same(one, gx + n * d, d));
    }
}

/* A A^+ A = A wherever A^+ inverts: everywhere, or on the singular values of at least 0.03 on
   both axes. x is first cut to that part. */
static void test_pinv(di_problem *p)
{
    static di_real x[MOST], xt[MOST], s[MOST], y[MOST], back[MOST], again[MOST];
    static double want[MOST];
    size_t d = size3(p->x), m = size3(p->y);
    fill(x, d, 3);
    EQUAL(di_svd_values(p, s), DI_OK);
    EQUAL(di_svd_vt(p, x, xt), DI_OK);
    double top = 0;
    for (size_t i = 0; i < d; i++)
        top = s[i] > top ? s[i] : top;
    int kept = 0;
    for (size_t i = 0; i < d; i++) { /* both factors >= 0.03 if their product is >= 0.03 top */
        xt[i] = s[i] < 0.03 * top ? 0 : xt[i];
        kept += xt[i] != 0;
    }
    CHECK(kept > 0 && (size_t)kept <= d);
    EQUAL(di_svd_v(p, xt, x), DI_OK);
    EQUAL(di_apply(p, 1, x, y), DI_OK);
    EQUAL(di_apply_pinv(p, 1, y, back), DI_OK);
    EQUAL(di_apply(p, 1, back, again), DI_OK);
    for (size_t i = 0; i < m; i++)
        want[i] = y[i];
    NEAR(worst(again, want, m), 0, BOUND(5e-5, 1e-11)); /* 1/0.03 times the rounding of y */
    figure("        A pinv A x against A x", worst(again, want, m));
    for (size_t i = 0; i < d; i++)
        want[i] = x[i];
    NEAR(worst(back, want, d), 0, BOUND(5e-5, 1e-11));
}

/* A = U S V^T: V^T and V invert each other and keep lengths, and ||A x|| = ||S V^T x||. */
static void test_svd(di_problem *p)
{
    static di_real x[MOST], xt[MOST], back[MOST], s[MOST], y[MOST];
    static double want[MOST];
    size_t d = size3(p->x), m = size3(p->y);
    double sum = 0;
    fill(x, d, 4);
    EQUAL(di_svd_values(p, s), DI_OK);
    EQUAL(di_svd_vt(p, x, xt), DI_OK);
    EQUAL(di_svd_v(p, xt, back), DI_OK);
    for (size_t i = 0; i < d; i++)
        want[i] = x[i];
    NEAR(worst(back, want, d), 0, BOUND(2e-6, 1e-13));
    NEAR(di_rms(xt, d), di_rms(x, d), BOUND(1e-6, 1e-13));
    di_svd_v(p, x, back); /* the other way round: V V^T = I too */
    di_svd_vt(p, back, xt);
    NEAR(worst(xt, want, d), 0, BOUND(2e-6, 1e-13));
    int zeros = 0;
    for (size_t i = 0; i < d; i++) {
        zeros += s[i] == 0;
        CHECK(s[i] >= 0 && s[i] < 2);
    }
    if (m < d)
        EQUAL(zeros, d - m);
    di_svd_vt(p, x, xt);
    di_apply(p, 1, x, y);
    for (size_t i = 0; i < d; i++)
        sum += (double)s[i] * xt[i] * s[i] * xt[i];
    NEAR(di_rms(y, m) * sqrt((double)m), sqrt(sum), BOUND(2e-6, 1e-13) * sqrt(sum));
}

static void test_every_problem(void)
{
    static const int shape[][3] = { { 3, 32, 48 }, { 1, 24, 16 } };
    for (int k = 0; k < KINDS; k++)
        for (int s = 0; s < 2; s++) {
            if (k == 8 && s == 1)
                continue; /* a 29x29 kernel is too large for 24x16 */
            di_problem *p = problem(k, shape[s][0], shape[s][1], shape[s][2]);
            in_case("%s %d, %dx%dx%d", p->name, k, shape[s][0], shape[s][1], shape[s][2]);
            test_adjoint(p);
            test_svd(p);
            test_pinv(p);
        }
}

/* ---- Masks ------------------------------------------------------------------------------- */

static void test_masks(void)
{
    enum { H = 5, W = 7 };
    di_real m[H * W], x[2 * H * W], y[2 * H * W];
    di_problem *p;
    make_mask(m, H * W);
    fill(x, 2 * H * W, 5);
    in_case("inpaint");
    EQUAL(di_problem_inpaint(ctx, 2, H, W, m, &p), DI_OK);
    EQUAL(strcmp(p->name, "inpaint"), 0);
    di_apply(p, 1, x, y);
    for (int i = 0; i < 2 * H * W; i++) /* one mask for both channels */
        EQUAL(y[i], m[i % (H * W)] ? x[i] : 0);
    for (int i = 0; i < H * W; i++)
        m[i] = 0;
    EQUAL(p->y[0] * p->y[1] * p->y[2], 2 * H * W);
    di_real again[2 * H * W];
    di_apply(p, 1, x, again); /* the problem keeps its own copy; A A = A */
    CHECK(same(y, again, 2 * H * W));
    di_apply(p, 1, y, again);
    CHECK(same(y, again, 2 * H * W));
    refused(di_problem_inpaint(ctx, 2, H, W, m, &p), DI_EINPUT, "keeps no pixel at all");
    CHECK(p == NULL);
    m[1] = 1;
    m[W + 2] = (di_real)0.5;
    refused(di_problem_inpaint(ctx, 2, H, W, m, &p), DI_EINPUT, "holds 0.5 at row 1, column 2");
    m[W + 2] = NAN;
    refused(di_problem_inpaint(ctx, 2, H, W, m, &p), DI_EINPUT, "nan at row 1, column 2");
    in_case("denoise");
    EQUAL(di_problem_denoise(ctx, 2, H, W, &p), DI_OK);
    di_apply(p, 1, x, y);
    CHECK(same(x, y, 2 * H * W));
    refused(di_problem_denoise(ctx, 0, H, W, &p), DI_EUSAGE, "image shape 0x5x7 is impossible");
    refused(di_problem_denoise(ctx, 1, 70000, W, &p), DI_EUSAGE, "impossible");
}

/* ---- Super-resolution -------------------------------------------------------------------- */

/* Rows of the 1-D map sum to 1, a constant stays, a ramp stays in the interior, and the taps
   for factor 4 are those of the official Resizer. */
static void test_bicubic(void)
{
    enum { S = 64 };
    static const double tap[8] = { -0.00170898, -0.01098633, -0.01831055, -0.01196289,
                                   0.02270508, 0.09741211, 0.18188477, 0.24096680 };
    static di_real x[S * S], y[S * S], gx[S * S];
    for (int s = 2; s <= 8; s *= 2) {
        di_problem *p;
        int n = S / s;
        in_case("bicubic, factor %d", s);
        EQUAL(di_problem_sr(ctx, 1, S, S, s, DI_SR_BICUBIC, &p), DI_OK);
        for (int i = 0; i < S * S; i++)
            x[i] = (di_real)0.7;
        di_apply(p, 1, x, y);
        for (int i = 0; i < n * n; i++)
            NEAR(y[i], 0.7, BOUND(5e-7, 1e-14));
        for (int i = 0; i < S * S; i++)
            x[i] = (di_real)(i / S + 2 * (i % S)) / 64;
        di_apply(p, 1, x, y);
        for (int i = 2; i < n - 2; i++)
            for (int j = 2; j < n - 2; j++)
                NEAR(y[i * n + j], (3 * (s - 1) / 2.0 + s * i + 2 * s * j) / 64,
                     BOUND(1e-6, 1e-13));
        for (int i = 0; i < n; i++) { /* row i: A^T of its impulse, summed over columns */
            double sum = 0, row[S] = { 0 };
            memset(y, 0, sizeof y);
            y[i * n + n / 2] = 1;
            di_apply_vjp(p, 1, NULL, y, gx);
            for (int k = 0; k < S * S; k++)
                row[k / S] += gx[k];
            for (int k = 0; k < S; k++)
                sum += row[k];
            NEAR(sum, 1, BOUND(5e-7, 1e-14));
            for (int k = 0; s == 4 && i >= 2 && i < n - 2 && k < 8; k++) {
                NEAR(row[4 * i - 6 + k], tap[k], BOUND(1.5e-8, 6e-9)); /* 8 digits given */
                NEAR(row[4 * i + 9 - k], tap[k], BOUND(1.5e-8, 6e-9));
            }
            if (s == 4 && i == 0) /* symmetric border: tap -1 falls on 0, -6 on 5 */
                for (int k = 0; k < 6; k++)
                    NEAR(row[k], (k < 2 ? tap[k + 6] : tap[9 - k]) + tap[5 - k],
                         BOUND(2e-8, 1e-8));
        }
    }
}

/* A A^T = I/s^2, A A^+ = I, every singular value 1/s. */
static void test_mean(void)
{
    enum { H = 8, W = 12, S = 4 };
    di_real x[H * W], y[6], v[6], s[H * W];
    di_problem *p;
    in_case("block mean");
    EQUAL(di_problem_sr(ctx, 1, H, W, S, DI_SR_MEAN, &p), DI_OK);
    fill(x, H * W, 6);
    di_apply(p, 1, x, y);
    for (int i = 0; i < 6; i++) {
        double sum = 0;
        for (int k = 0; k < 16; k++)
            sum += x[(i / 3 * S + k / S) * W + i % 3 * S + k % S] / 16;
        NEAR(y[i], sum, BOUND(1e-7, 1e-15));
    }
    fill(v, 6, 7);
    di_apply_vjp(p, 1, NULL, v, x);
    di_apply(p, 1, x, y);
    for (int i = 0; i < 6; i++)
        NEAR(y[i], v[i] / 16, BOUND(1e-8, 1e-16));
    di_apply_pinv(p, 1, v, x);
    for (int i = 0; i < H * W; i++) /* each value spread over its block */
        NEAR(x[i], v[i / W / S * 3 + i % W / S], BOUND(3e-7, 1e-14));
    di_apply(p, 1, x, y);
    for (int i = 0; i < 6; i++)
        NEAR(y[i], v[i], BOUND(3e-7, 1e-14));
    di_svd_values(p, s);
    for (int i = 0, large = 0; i < H * W; i++) {
        large += s[i] != 0;
        NEAR(s[i], s[i] != 0 ? 0.25 : 0, BOUND(1e-7, 1e-15));
        if (i == H * W - 1)
            EQUAL(large, 6);
    }
}

static void test_sr_refusals(void)
{
    static const int bad[][3] = { { 32, 32, 5 }, { 32, 30, 4 }, { 32, 32, 1 }, { 32, 32, 0 },
                                  { 32, 32, -4 }, { 128, 128, 128 }, { 2, 64, 4 } };
    di_problem *p;
    for (int i = 0; i < 7; i++) {
        in_case("sr factor %d of %dx%d", bad[i][2], bad[i][0], bad[i][1]);
        refused(di_problem_sr(ctx, 1, bad[i][0], bad[i][1], bad[i][2], DI_SR_BICUBIC, &p),
                DI_EUSAGE, "must be 2..64 and divide the image size");
        CHECK(p == NULL);
    }
}

/* ---- Gaussian blur ----------------------------------------------------------------------- */

/* g[t], |t| <= 12: the 1-D kernel of std 3, written out plainly. */
static double gauss_tap(int t)
{
    double sum = 0;
    for (int k = -12; k <= 12; k++)
        sum += exp(-k * k / 18.0);
    return t < -12 || t > 12 ? 0 : exp(-t * t / 18.0) / sum;
}

static void test_gblur(void)
{
    enum { S = 64 };
    static di_real x[S * S], y[S * S];
    const double tolerance = BOUND(1e-8, 1e-16);
    di_problem *p;
    in_case("gblur 61, std 3");
    EQUAL(di_problem_gblur(ctx, 1, S, S, 61, 3, &p), DI_OK);
    memset(x, 0, sizeof x);
    x[32 * S + 30] = 1;
    di_apply(p, 1, x, y);
    double sum = 0;
    int nonzero = 0;
    for (int i = 0; i < S * S; i++) {
        sum += y[i];
        nonzero += y[i] != 0;
        NEAR(y[i], gauss_tap(i / S - 32) * gauss_tap(i % S - 30), tolerance);
    }
    NEAR(y[32 * S + 30], 0.0176848875, BOUND(2e-9, 6e-11));
    NEAR(sum, 1, BOUND(1e-6, 1e-14));
    EQUAL(nonzero, 625);
    memset(x, 0, sizeof x);
    x[0] = 1; /* reflect-101 at the corner: the impulse is seen once from 0, never doubled */
    di_apply(p, 1, x, y);
    for (int i = 0; i < S * S; i++)
        NEAR(y[i], gauss_tap(i / S) * gauss_tap(i % S), tolerance);
    memset(x, 0, sizeof x);
    x[1] = 1; /* pixel 1 is also the mirror image at -1 */
    di_apply(p, 1, x, y);
    for (int i = 0; i < S; i++)
        NEAR(y[i], gauss_tap(0) * (gauss_tap(i - 1) + gauss_tap(i + 1)), tolerance);
    for (int i = 0; i < S * S; i++)
        x[i] = (di_real)-0.3;
    di_apply(p, 1, x, y);
    for (int i = 0; i < S * S; i++)
        NEAR(y[i], -0.3, BOUND(3e-7, 1e-14));
    in_case("gblur of size 1");
    EQUAL(di_problem_gblur(ctx, 1, 3, 3, 1, 2, &p), DI_OK);
    fill(x, 9, 8);
    di_apply(p, 1, x, y);
    for (int i = 0; i < 9; i++)
        NEAR(y[i], x[i], BOUND(2e-7, 1e-15));
    in_case("gblur refusals");
    refused(di_problem_gblur(ctx, 1, S, S, 60, 3, &p), DI_EUSAGE, "size=60 must be odd");
    CHECK(p == NULL);
    refused(di_problem_gblur(ctx, 1, S, S, -1, 3, &p), DI_EUSAGE, "size=-1");
    refused(di_problem_gblur(ctx, 1, S, S, 9, 0, &p), DI_EUSAGE, "std=0 positive");
    refused(di_problem_gblur(ctx, 1, S, S, 9, NAN, &p), DI_EUSAGE, "positive");
    refused(di_problem_gblur(ctx, 1, 40, 30, 61, 3, &p), DI_EUSAGE, "largest size here is 59");
    EQUAL(di_problem_gblur(ctx, 1, 40, 30, 59, 3, &p), DI_OK);
}

/* ---- What has no pseudo-inverse or SVD; residual, RMS, PSNR ------------------------------ */

static void square_apply(const di_problem *p, const di_real *x, di_real *y)
{
    for (size_t i = 0; i < size3(p->x); i++)
        y[i] = x[i] * x[i];
}

static void test_custom(void)
{
    di_problem p = { .ctx = ctx, .name = "square", .x = { 1, 1, 3 }, .y = { 1, 1, 3 },
                     .apply = square_apply };
    di_real x[3] = { 1, 2, -3 }, y[3] = { 1, 0, 0 }, work[3];
    in_case("a caller's own problem");
    EQUAL(di_apply(&p, 1, x, work), DI_OK);
    EQUAL(work[2], 9);
    NEAR(di_residual(&p, x, y, work), sqrt((16 + 81) / 3.0), BOUND(1e-6, 1e-14));
    refused(di_apply_pinv(&p, 1, x, y), DI_EUSAGE, "problem square has no pseudo-inverse");
    refused(di_svd_values(&p, x), DI_EUSAGE, "problem square has no SVD");
    refused(di_svd_vt(&p, x, y), DI_EUSAGE, "no SVD");
    refused(di_svd_v(&p, x, y), DI_EUSAGE, "no SVD");
}

static void test_metrics(void)
{
    enum { N = 1000 };
    di_real a[N], b[N];
    in_case("rms, psnr");
    for (int i = 0; i < N; i++) {
        a[i] = (di_real)(i % 2 ? 0.5 : -0.5);
        b[i] = a[i] + (di_real)0.2; /* 0.1 on [0,1] */
    }
    NEAR(di_rms(a, N), 0.5, 1e-15);
    EQUAL(di_rms(a, 0), 0);
    NEAR(di_psnr(a, b, N), 20, BOUND(1e-5, 1e-12));
    NEAR(di_psnr(b, a, N), 20, BOUND(1e-5, 1e-12));
    EQUAL(di_psnr(a, a, N), HUGE_VAL);
    for (int i = 0; i < N; i++) { /* clipped to [-1,1] before it counts */
        a[i] = i % 2 ? -5 : 1;
        b[i] = i % 2 ? -1 : 7;
    }
    EQUAL(di_psnr(a, b, N), HUGE_VAL);
    b[0] = -1;
    NEAR(di_psnr(a, b, N), 30, 1e-12); /* one of a thousand wrong by 1 */
}

/* ---- The official programs' numbers (tests/vectors/README.md) ---------------------------- */

/* The program in float32 is itself off by up to 1.3e-6 (the README). */
static void test_official(void)
{
    static const struct { const char *name; int c, side, factor, size; double std; } op[] = {
        { "op_sr4", 3, 64, 4, 0, 0 }, { "op_sr2", 3, 32, 2, 0, 0 },
        { "op_gauss61", 1, 64, 0, 61, 3 }, { "op_gauss15", 1, 64, 0, 15, 1.5 } };
    static di_real u[MOST], y[MOST];
    static double want[MOST];
    for (int k = 0; k < 4; k++) {
        char path[64], err[256] = "";
        io_array a;
        di_problem *p;
        int s = op[k].side;
        in_case("%s", op[k].name);
        for (int i = 0; i < op[k].c * s * s; i++) {
            int c = i / (s * s), r = i / s % s, q = i % s;
            u[i] = (float)(0.5 * sin(0.3 * r + c) + 0.4 * cos(0.2 * q - 0.5 * c));
        }
        if (op[k].factor)
            EQUAL(di_problem_sr(ctx, op[k].c, s, s, op[k].factor, DI_SR_BICUBIC, &p), DI_OK);
        else
            EQUAL(di_problem_gblur(ctx, op[k].c, s, s, op[k].size, op[k].std, &p), DI_OK);
        di_apply(p, 1, u, y);
        snprintf(path, sizeof path, "tests/vectors/%s.npy", op[k].name);
        if (!CHECK(io_read(&a, path, err, sizeof err) == 0)) {
            printf("     %s\n", err);
            continue;
        }
        EQUAL(a.n * a.c * a.h * a.w, size3(p->y));
        for (size_t i = 0; i < size3(p->y); i++)
            want[i] = a.v[i];
        double d = worst(y, want, size3(p->y));
        figure(op[k].name, d);
        NEAR(d, 0, BOUND(1e-6, 1e-13));
        io_free(&a);
    }
}

/* ---- The Gaussian prior ------------------------------------------------------------------ */

static double abar_at(int t)
{
    double a = 1;
    for (int i = 0; i <= t; i++)
        a *= 1 - (1e-4 + (2e-2 - 1e-4) * i / 999);
    return a;
}

/* eps = sqrt(1-abar) (abar C + (1-abar) I)^-1 (x - sqrt(abar) m), 2x2 inverse written out. */
static void gauss_2d(double abar, const double *m, const double *C, const double *x,
                     double *eps)
{
    double a = abar * C[0] + 1 - abar, b = abar * C[1], d = abar * C[3] + 1 - abar;
    double u = x[0] - sqrt(abar) * m[0], v = x[1] - sqrt(abar) * m[1];
    double f = sqrt(1 - abar) / (a * d - b * b);
    eps[0] = f * (d * u - b * v);
    eps[1] = f * (a * v - b * u);
}

static void test_gauss_prior(void)
{
    static const double C[4] = { 0.5, 0.25, 0.25, 0.375 }, m[2] = { 0.25, -0.5 };
    static const double D[4] = { 0.5, 0, 0, 0.125 }; /* exact in float */
    static const int time[] = { 0, 1, 100, 499, 999 };
    for (int full = 0; full < 2; full++) {
        const double *cov = full ? C : D;
        di_real mean[2] = { (di_real)m[0], (di_real)m[1] }, c[4];
        di_prior *p;
        for (int i = 0; i < 4; i++)
            c[i] = (di_real)(full ? cov[i] : cov[3 * (i % 2)]);
        in_case("gauss prior, %s", full ? "full" : "diagonal");
        EQUAL(di_prior_gauss(ctx, 1, 1, 2, mean, c, full, &p), DI_OK);
        EQUAL(p->steps, 1000);
        EQUAL(p->variance, DI_VAR_FIXED_SMALL);
        for (int k = 0; k < 5; k++) {
            double t[2] = { time[k], time[4 - k] }, want[2], wantg[2], zero[2] = { 0, 0 };
            di_real x[4], eps[4], g[4], gx[4];
            fill(x, 4, 60 + (unsigned)k);
            fill(g, 4, 70 + (unsigned)k);
            EQUAL(p->eval(p, 2, t, x, eps, NULL, 1), DI_OK);
            EQUAL(p->vjp(p, 1, g, gx), DI_OK);
            for (int n = 0; n < 2; n++) {
                double abar = abar_at((int)t[n]);
                double xd[2] = { x[2 * n], x[2 * n + 1] }, gd[2] = { g[2 * n], g[2 * n + 1] };
                gauss_2d(abar, m, cov, xd, want);
                gauss_2d(abar, zero, cov, gd, wantg); /* symmetric: J^T = J */
                for (int i = 0; i < 2; i++) {
                    NEAR(eps[2 * n + i], want[i], BOUND(1e-6, 1e-11));
                    NEAR(gx[2 * n + i], wantg[i], BOUND(1e-6, 1e-11));
                }
                for (int i = 0; i < 2; i++) { /* central differences; the map is affine */
                    di_real moved[2], e[2][2];
                    for (int side = 0; side < 2; side++) {
                        for (int j = 0; j < 2; j++)
                            moved[j] = x[2 * n + j] + (di_real)(i == j ? 0.5 - side : 0);
                        p->eval(p, 1, t + n, moved, e[side], NULL, 0);
                    }
                    NEAR(gx[2 * n + i], g[2 * n] * (e[0][0] - e[1][0])
                         + g[2 * n + 1] * (e[0][1] - e[1][1]), BOUND(1e-5, 1e-12));
                }
            }
        }
    }
}

/* Fractional times: abar is log-linear between entries. Bad covariances are refused. */
static void test_gauss_edges(void)
{
    di_real mean[2] = { 0, 0 }, cov[4] = { 1, 0, 0, 1 }, x[2] = { 1, 0 }, eps[2];
    di_prior *p;
    in_case("gauss prior, fractional time");
    di_prior_gauss(ctx, 1, 1, 2, mean, cov, 0, &p);
    const double t = 100.25, abar = pow(abar_at(100), 0.75) * pow(abar_at(101), 0.25);
    p->eval(p, 1, &t, x, eps, NULL, 0);
    NEAR(eps[0], sqrt(1 - abar) / (abar * 1 + 1 - abar), BOUND(1e-7, 1e-13));
    in_case("gauss prior, refusals");
    cov[1] = (di_real)0.5;
    refused(di_prior_gauss(ctx, 1, 1, 2, mean, cov, 1, &p), DI_EINPUT, "not symmetric");
    CHECK(p == NULL);
    cov[1] = -1;
    refused(di_prior_gauss(ctx, 1, 1, 2, mean, cov, 0, &p), DI_EINPUT, "negative or NaN");
    cov[1] = NAN;
    refused(di_prior_gauss(ctx, 1, 1, 2, mean, cov, 0, &p), DI_EINPUT, "negative or NaN");
    cov[1] = cov[2] = 2; /* eigenvalues 3 and -1 */
    refused(di_prior_gauss(ctx, 1, 1, 2, mean, cov, 1, &p), DI_EINPUT, "negative eigenvalue");
    CHECK(p == NULL);
    cov[0] = cov[3] = 0; /* 2 and -2: one singular value twice */
    refused(di_prior_gauss(ctx, 1, 1, 2, mean, cov, 1, &p), DI_EINPUT, "negative eigenvalue");
    cov[0] = cov[1] = cov[2] = cov[3] = 1; /* of rank one: fine */
    EQUAL(di_prior_gauss(ctx, 1, 1, 2, mean, cov, 1, &p), DI_OK);
    cov[3] = NAN;
    refused(di_prior_gauss(ctx, 1, 1, 2, mean, cov, 1, &p), DI_EINPUT, "not symmetric");
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    EQUAL(di_open(&ctx, NULL, NULL), DI_OK);
    test_every_problem();
    test_masks();
    test_bicubic();
    test_mean();
    test_sr_refusals();
    test_gblur();
    test_custom();
    test_metrics();
    test_official();
    test_gauss_prior();
    test_gauss_edges();
    di_close(ctx);
    return finish();
}
