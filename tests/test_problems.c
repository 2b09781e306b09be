/* test_problems.c: measurement maps, their adjoints, pseudo-inverses and SVDs, metrics, noise
   levels and times, and the analytic priors, against closed forms and the official programs'
   numbers. */
#include "check.h"
#include "../tools/io.h"

enum { MOST = 3 * 64 * 64 };
static di_ctx *ctx;

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
    /* What the pseudo-inverse drops counts as unmeasured: values below 0.03 an axis. */
    double length = di_rms(y, m) * sqrt((double)m), drop = length * length - sum;
    if (m == d && zeros && strcmp(p->name, "gblur") == 0)
        CHECK(drop > 0 && drop < 0.03 * 0.03 * 2 * di_rms(x, d) * di_rms(x, d) * (double)d);
    else
        NEAR(length, sqrt(sum), BOUND(2e-6, 1e-13) * sqrt(sum));
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
    REFUSED(di_problem_inpaint(ctx, 2, H, W, m, &p), DI_EINPUT, "keeps no pixel at all");
    CHECK(p == NULL);
    m[1] = 1;
    m[W + 2] = (di_real)0.5;
    REFUSED(di_problem_inpaint(ctx, 2, H, W, m, &p), DI_EINPUT, "holds 0.5 at row 1, column 2");
    m[W + 2] = NAN;
    REFUSED(di_problem_inpaint(ctx, 2, H, W, m, &p), DI_EINPUT, "nan at row 1, column 2");
    in_case("denoise");
    EQUAL(di_problem_denoise(ctx, 2, H, W, &p), DI_OK);
    di_apply(p, 1, x, y);
    CHECK(same(x, y, 2 * H * W));
    REFUSED(di_problem_denoise(ctx, 0, H, W, &p), DI_EUSAGE, "image shape 0x5x7 is impossible");
    REFUSED(di_problem_denoise(ctx, 1, 70000, W, &p), DI_EUSAGE, "impossible");
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
        check_bicubic(p, s, x, y);
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
        REFUSED(di_problem_sr(ctx, 1, bad[i][0], bad[i][1], bad[i][2], DI_SR_BICUBIC, &p),
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
    REFUSED(di_problem_gblur(ctx, 1, S, S, 60, 3, &p), DI_EUSAGE, "size=60 must be odd");
    CHECK(p == NULL);
    REFUSED(di_problem_gblur(ctx, 1, S, S, -1, 3, &p), DI_EUSAGE, "size=-1");
    REFUSED(di_problem_gblur(ctx, 1, S, S, 9, 0, &p), DI_EUSAGE, "std=0 positive");
    REFUSED(di_problem_gblur(ctx, 1, S, S, 9, NAN, &p), DI_EUSAGE, "positive");
    REFUSED(di_problem_gblur(ctx, 1, 40, 30, 61, 3, &p), DI_EUSAGE, "largest size here is 59");
    EQUAL(di_problem_gblur(ctx, 1, 40, 30, 59, 3, &p), DI_OK);
}

/* ---- A dense matrix ---------------------------------------------------------------------- */

enum { SIDE = 48 }; /* most rows and columns below */

/* A (m,d), its largest singular value below 2; of rank `rank` exactly: a product of small whole
   numbers over 64, without rounding in float. */
static void make_matrix(di_real *a, int m, int d, int rank)
{
    for (int i = 0; i < m * d; i++) {
        double s = 0;
        for (int k = 0; k < rank; k++)
            s += rint(3 * value_at((size_t)(i / d * rank + k), 20))
                 * rint(3 * value_at((size_t)(k * d + i % d), 21));
        a[i] = (di_real)(rank ? s / 64 : value_at((size_t)i, 22) / sqrt((double)d));
    }
}

/* out (a x c) = left (a x b) right (b x c) */
static void product(double *out, const double *left, const double *right, int a, int b, int c)
{
    for (int i = 0; i < a * c; i++) {
        out[i] = 0;
        for (int k = 0; k < b; k++)
            out[i] += left[i / c * b + k] * right[k * c + i % c];
    }
}

static double asymmetry(const double *a, int n)
{
    double far = 0;
    for (int i = 0; i < n * n; i++)
        far = larger(far, fabs(a[i] - a[i % n * n + i / n]));
    return far;
}

static double farthest(const double *a, const double *b, int n)
{
    double far = 0, top = 0;
    for (int i = 0; i < n; i++) {
        far = larger(far, fabs(a[i] - b[i]));
        top = larger(top, fabs(b[i]));
    }
    return far / top;
}

/* A A+ A = A, A+ A A+ = A+, A A+ and A+ A symmetric. Column k of A+ is A+ applied to the k-th
   unit vector. The tolerance is the rounding of A+ times the condition number, below 100. */
static void test_penrose(const di_problem *p, const di_real *dense, int m, int d)
{
    static double a[SIDE * SIDE], plus[SIDE * SIDE], left[SIDE * SIDE], right[SIDE * SIDE],
        all[SIDE * SIDE];
    const double tolerance = BOUND(2e-5, 1e-12);
    di_real y[SIDE], x[SIDE];
    for (int k = 0; k < m; k++) {
        memset(y, 0, sizeof y);
        y[k] = 1;
        EQUAL(di_apply_pinv(p, 1, y, x), DI_OK);
        for (int j = 0; j < d; j++)
            plus[j * m + k] = x[j];
    }
    for (int i = 0; i < m * d; i++)
        a[i] = dense[i];
    product(left, a, plus, m, d, m);
    product(right, plus, a, d, m, d);
    product(all, left, a, m, m, d);
    double far = farthest(all, a, m * d);
    product(all, right, plus, d, d, m);
    far = larger(far, farthest(all, plus, d * m));
    far = larger(far, larger(asymmetry(left, m), asymmetry(right, d)));
    NEAR(far, 0, tolerance);
    figure("        Moore-Penrose", far);
}

static void test_matrix(void)
{
    static const struct { int c, h, w, m, rank; } at[] = { /* rank 0: full */
        { 1, 1, 1, 1, 0 }, { 1, 1, 5, 1, 0 }, { 1, 1, 1, 5, 0 }, { 2, 3, 4, 7, 0 },
        { 1, 4, 3, 31, 0 }, { 3, 2, 4, 24, 0 }, { 1, 3, 9, 13, 4 }, { 1, 1, 9, 31, 4 },
        { 1, 2, 6, 12, 5 }, { 3, 4, 4, 16, 0 } };
    static di_real a[SIDE * SIDE];
    for (size_t k = 0; k < sizeof at / sizeof *at; k++) {
        int m = at[k].m, d = at[k].c * at[k].h * at[k].w, rank = at[k].rank, r = m < d ? m : d;
        di_real x[SIDE], y[SIDE], s[SIDE];
        double want[SIDE];
        di_problem *p;
        in_case("matrix %dx%d, rank %d", m, d, rank ? rank : r);
        make_matrix(a, m, d, rank);
        EQUAL(di_problem_matrix(ctx, at[k].c, at[k].h, at[k].w, m, a, &p), DI_OK);
        EQUAL(strcmp(p->name, "matrix"), 0);
        EQUAL(p->y[0] * p->y[1], 1);
        EQUAL(p->y[2], m);
        fill(x, (size_t)d, 23);
        di_apply(p, 1, x, y);
        for (int i = 0; i < m; i++) {
            want[i] = 0;
            for (int j = 0; j < d; j++)
                want[i] += (double)a[i * d + j] * x[j];
        }
        NEAR(worst(y, want, (size_t)m), 0, BOUND(1e-7, 1e-15)); /* one rounding to float */
        test_adjoint(p);
        test_penrose(p, a, m, d);
        di_svd_values(p, s);
        for (int i = 0; i < d; i++) { /* descending, zeros past the rank */
            CHECK((s[i] > 0) == (i < (rank ? rank : r)));
            CHECK(i == 0 || s[i] <= s[i - 1]);
        }
        if (!rank) {
            test_svd(p);
            test_pinv(p);
        }
    }
}

/* diag(1, 2^-10, 2^-27, 2^-40): what is inverted and what counts as zero. The problem keeps its
   own copy of A. */
static void test_matrix_floor(void)
{
    static const int power[4] = { 0, 10, 27, 40 };
    di_real a[16] = { 0 }, y[4] = { 1, 1, 1, 1 }, x[4], s[4];
    di_problem *p;
    in_case("matrix, small singular values");
    for (int i = 0; i < 4; i++)
        a[5 * i] = (di_real)ldexp(1, -power[i]);
    EQUAL(di_problem_matrix(ctx, 1, 2, 2, 4, a, &p), DI_OK);
    memset(a, 0, sizeof a);
    EQUAL(di_apply_pinv(p, 1, y, x), DI_OK);
    EQUAL(di_svd_values(p, s), DI_OK);
    for (int i = 0; i < 4; i++) {
        int kept = power[i] < BOUND(20, 34);
        EQUAL(x[i], kept ? ldexp(1, power[i]) : 0);
        EQUAL(s[i], kept ? ldexp(1, -power[i]) : 0);
    }
    in_case("matrix of zeros");
    EQUAL(di_problem_matrix(ctx, 1, 2, 2, 4, a, &p), DI_OK);
    EQUAL(di_apply_pinv(p, 1, y, x), DI_OK);
    EQUAL(di_svd_values(p, s), DI_OK);
    for (int i = 0; i < 4; i++)
        CHECK(x[i] == 0 && s[i] == 0);
}

static void test_matrix_refusals(void)
{
    di_real a[6] = { 1, 2, 3, 4, 5, 6 };
    di_problem *p;
    in_case("matrix refusals");
    REFUSED(di_problem_matrix(ctx, 1, 1, 3, 0, a, &p), DI_EUSAGE, "matrix: 0 rows");
    CHECK(p == NULL);
    REFUSED(di_problem_matrix(ctx, 1, 1, 3, -2, a, &p), DI_EUSAGE, "matrix: -2 rows");
    REFUSED(di_problem_matrix(ctx, 1, 1, 3, 2049, a, &p), DI_EUSAGE, "at most 2048");
    REFUSED(di_problem_matrix(ctx, 3, 64, 64, 1, a, &p), DI_EUSAGE, "12288 columns");
    REFUSED(di_problem_matrix(ctx, 0, 1, 3, 2, a, &p), DI_EUSAGE, "impossible");
    a[4] = NAN;
    REFUSED(di_problem_matrix(ctx, 1, 1, 3, 2, a, &p), DI_EINPUT, "in row 1, column 1 is NaN");
    a[4] = -HUGE_VAL;
    REFUSED(di_problem_matrix(ctx, 1, 1, 3, 2, a, &p), DI_EINPUT, "in row 1, column 1 is NaN");
    CHECK(p == NULL);
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
    REFUSED(di_apply_pinv(&p, 1, x, y), DI_EUSAGE, "problem square has no pseudo-inverse");
    REFUSED(di_svd_values(&p, x), DI_EUSAGE, "problem square has no SVD");
    REFUSED(di_svd_vt(&p, x, y), DI_EUSAGE, "no SVD");
    REFUSED(di_svd_v(&p, x, y), DI_EUSAGE, "no SVD");
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

/* ---- Noise levels and times -------------------------------------------------------------- */

static double abar_at(int t)
{
    long double a = 1;
    for (int i = 0; i <= t; i++)
        a *= 1 - (1e-4L + (2e-2L - 1e-4L) * i / 999);
    return (double)a;
}

static double sigma_of(double abar) { return sqrt((1 - abar) / abar); }

/* N(m, v I) in `d` dimensions. */
static di_prior *gaussian(int d, double m, double v)
{
    di_real mean[8], cov[8];
    di_prior *p;
    for (int i = 0; i < d; i++) {
        mean[i] = (di_real)m;
        cov[i] = (di_real)v;
    }
    EQUAL(di_prior_gauss(ctx, 1, 1, d, mean, cov, 0, &p), DI_OK);
    return p;
}

/* shared/spec/solvers-gradient.md 1.1: the digits given there, and the product in long double.
   s_0's bound: 1 - abar_0 = 1e-4 keeps 12 digits of a double. */
static void test_abar(void)
{
    static const struct { int t; double abar, tolerance; } known[] = {
        { 0, 0.9999, 1e-12 }, { 1, 0.999780092072, 1e-12 }, { 499, 0.078587242882, 1e-12 },
        { 998, 4.118193638e-5, 1e-14 }, { 999, 4.035829765e-5, 1e-14 } };
    static const struct { int t; double sigma, tolerance; } level[] = {
        { 0, 0.01000050004, 5e-12 }, { 100, 0.342259699, 1e-9 }, { 499, 3.424136619, 1e-9 },
        { 999, 157.4072808, 1e-7 } };
    const double least = 1 - ldexp(1, -53);
    di_prior *p = gaussian(1, 0, 1);
    double far = 0;
    in_case("abar");
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        NEAR(di_prior_abar(p, known[i].t), known[i].abar, known[i].tolerance);
    for (size_t i = 0; i < sizeof level / sizeof *level; i++)
        NEAR(sigma_of(di_prior_abar(p, level[i].t)), level[i].sigma, level[i].tolerance);
    for (int i = 0; i < 1000; i++)
        far = larger(far, fabs(di_prior_abar(p, i) / abar_at(i) - 1));
    NEAR(far, 0, 1e-12);
    figure("abar at all 1000 indices", far);
    NEAR(di_prior_abar(p, 100.25) / (pow(abar_at(100), 0.75) * pow(abar_at(101), 0.25)), 1,
         1e-14); /* log-linear */
    NEAR(di_prior_abar(p, -0.25), pow(0.9999, 0.75), 1e-15);
    NEAR(di_prior_abar(p, 1002.5) / (abar_at(999) * pow(0.98, 3.5)), 1, 1e-13); /* last slope */
    EQUAL(di_prior_abar(p, -1), 1);
    CHECK(di_prior_abar(p, -1 + 1e-15) == least); /* below 1 everywhere else */
    CHECK(di_prior_abar(p, -2) == least && di_prior_abar(p, -HUGE_VAL) == least);
    EQUAL(di_prior_abar(p, HUGE_VAL), 0);
    CHECK(isnan(di_prior_abar(p, NAN)));
    for (double t = -1; t < 1010; t += 0.3)
        CHECK(di_prior_abar(p, t + 0.3) < di_prior_abar(p, t));
}

/* The continuous formula's values in solvers-gradient.md 1.5, and how far it lies from the
   table; the table's own inverse. */
static void test_time(void)
{
    static const double known[][2] = { { 0.01, 0.915 }, { 0.05, 11.582 }, { 0.1, 26.968 },
        { 0.5, 144.669 }, { 1, 258.701 }, { 10, 675.369 }, { 100, 956.150 },
        { 157.4, 1002.372 } };
    di_prior *p = gaussian(1, 0, 1);
    double least = 9, table = 0, round = 0, precise = 0;
    int at = 0;
    in_case("time of a noise level");
    EQUAL(p->continuous, 0);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        NEAR(di_prior_time(p, known[i][0], 1), known[i][1], 1e-3);
    for (int i = 0; i < 1000; i++) {
        double s = sigma_of(abar_at(i)), apart = di_prior_time(p, s, 1) - i;
        table = larger(table, fabs(di_prior_time(p, s, 0) - i));
        at = apart < least ? i : at;
        least = fmin(least, apart);
    }
    NEAR(table, 0, 1e-11); /* one rounding of abar, 1e-16, over beta_0 = 1e-4 */
    figure("table's time at its own levels", table);
    NEAR(least, 0.507, 5e-4);
    CHECK(at > 85 && at < 115);
    NEAR(di_prior_time(p, sigma_of(abar_at(0)), 1), 0.916, 5e-4);
    NEAR(di_prior_time(p, sigma_of(abar_at(999)), 1) - 999, 3.38, 5e-3);
    NEAR(di_prior_time(p, 1, 1) - di_prior_time(p, 1, 0), 0.61, 5e-3);
    NEAR(di_prior_time(p, 10, 1) - di_prior_time(p, 10, 0), 1.70, 5e-3);
    NEAR(di_prior_time(p, 100, 1) - di_prior_time(p, 100, 0), 3.10, 5e-3);
    for (double s = 0.002; s <= 200; s *= 1.01) {
        double back = sigma_of(di_prior_abar(p, di_prior_time(p, s, 0)));
        round = larger(round, fabs(back / s - 1) / (1e-12 + 3e-16 / (s * s)));
        if (s > 0.02)
            precise = larger(precise, fabs(back / s - 1));
    }
    NEAR(round, 0, 1); /* abar near 1 is a double: its rounding is 1e-16 / 2 sigma^2 in sigma */
    NEAR(precise, 0, 1e-12);
    figure("sigma -> time -> sigma, from 0.02", precise);
    figure("sigma -> time -> sigma, from 0.002, share of its bound", round);
    for (double t = -0.999; t < 1020; t += 0.37)
        NEAR(di_prior_time(p, sigma_of(di_prior_abar(p, t)), 0), t, 1e-11);
    EQUAL(di_prior_time(p, 1e-12, 0), -1);
}

/* ---- The Gaussian prior ------------------------------------------------------------------ */

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
    REFUSED(di_prior_gauss(ctx, 1, 1, 2, mean, cov, 1, &p), DI_EINPUT, "not symmetric");
    CHECK(p == NULL);
    cov[1] = -1;
    REFUSED(di_prior_gauss(ctx, 1, 1, 2, mean, cov, 0, &p), DI_EINPUT, "negative or NaN");
    cov[1] = NAN;
    REFUSED(di_prior_gauss(ctx, 1, 1, 2, mean, cov, 0, &p), DI_EINPUT, "negative or NaN");
    cov[1] = cov[2] = 2; /* eigenvalues 3 and -1 */
    REFUSED(di_prior_gauss(ctx, 1, 1, 2, mean, cov, 1, &p), DI_EINPUT, "negative eigenvalue");
    CHECK(p == NULL);
    cov[0] = cov[3] = 0; /* 2 and -2: one singular value twice */
    REFUSED(di_prior_gauss(ctx, 1, 1, 2, mean, cov, 1, &p), DI_EINPUT, "negative eigenvalue");
    cov[0] = cov[1] = cov[2] = cov[3] = 1; /* of rank one: fine */
    EQUAL(di_prior_gauss(ctx, 1, 1, 2, mean, cov, 1, &p), DI_OK);
    cov[3] = NAN;
    REFUSED(di_prior_gauss(ctx, 1, 1, 2, mean, cov, 1, &p), DI_EINPUT, "holds NaN or Inf");
    cov[3] = HUGE_VAL;
    REFUSED(di_prior_gauss(ctx, 1, 1, 2, mean, cov, 1, &p), DI_EINPUT, "holds NaN or Inf");
    cov[1] = HUGE_VAL;
    REFUSED(di_prior_gauss(ctx, 1, 1, 2, mean, cov, 0, &p), DI_EINPUT, "infinite");
    cov[1] = 1;
    mean[1] = NAN;
    REFUSED(di_prior_gauss(ctx, 1, 1, 2, mean, cov, 0, &p), DI_EINPUT, "a mean is NaN");
    mean[1] = 0;
    REFUSED(di_prior_gauss(ctx, 1, 0, 2, mean, cov, 0, &p), DI_EUSAGE, "1x0x2 is impossible");
    CHECK(p == NULL);
}

/* ---- What both analytic priors must do --------------------------------------------------- */

enum { D3 = 3 };

/* Numbers with few bits, the same in float and double. */
static const double PI3[3] = { 0.25, 0.5, 0.25 };
static const double M3[3][D3] = { { 0.75, -0.5, 0.25 }, { -0.5, 0.5, -0.75 },
                                  { 0.125, 0.25, 1 } };
static const double V3[3][D3] = { { 0.0625, 0.125, 0.25 }, { 0.1875, 0.03125, 0.0625 },
                                  { 0.25, 0.5, 0.125 } };

/* The first k of the three components, normalised weights; variance c2 > 0 for all, or V3. */
static di_prior *mixture3(int k, double c2)
{
    di_real w[3], m[3 * D3], v[3 * D3];
    di_prior *p;
    for (int i = 0; i < 3; i++)
        w[i] = (di_real)(12 * PI3[i]);
    for (int i = 0; i < 3 * D3; i++) {
        m[i] = (di_real)M3[i / D3][i % D3];
        v[i] = (di_real)(c2 > 0 ? c2 : V3[i / D3][i % D3]);
    }
    EQUAL(di_prior_mixture(ctx, 1, 1, D3, k, w, m, v, c2 == 0, &p), DI_OK);
    return p;
}

/* N((0.25,-0.5,0.75), [[.5,.25,.125],[.25,.375,-.125],[.125,-.125,.25]]) */
static const double C3[9] = { 0.5, 0.25, 0.125, 0.25, 0.375, -0.125, 0.125, -0.125, 0.25 };
static const double MEAN3[3] = { 0.25, -0.5, 0.75 };
static di_prior *gaussian3(void)
{
    di_real m[3], c[9];
    di_prior *p;
    for (int i = 0; i < 9; i++)
        c[i] = (di_real)C3[i];
    for (int i = 0; i < 3; i++)
        m[i] = (di_real)MEAN3[i];
    EQUAL(di_prior_gauss(ctx, 1, 1, 3, m, c, 1, &p), DI_OK);
    return p;
}

/* Slots do not disturb each other, nor what an eval without one leaves; eps may be x; memory is
   as announced; unknown slots are refused. */
static void test_slots(di_prior *p, const char *name)
{
    enum { N = 2 };
    double t[3][N] = { { 5, 700 }, { 300.5, 40 }, { 999, 0 } };
    di_real x[3][N * D3], eps[3][N * D3], again[N * D3], g[N * D3], gx[3][N * D3];
    in_case("%s prior, slots", name);
    fill(g, N * D3, 31);
    REFUSED(p->vjp(p, 1, g, gx[0]), DI_EUSAGE, "must follow an eval with its keep");
    EQUAL(p->bytes(p, N, 0), 0);
    size_t before = di_bytes(ctx), one = di_bytes(ctx);
    for (int k = 0; k < 3; k++)
        fill(x[k], N * D3, 32 + (unsigned)k);
    EQUAL(p->eval(p, 1, t[0], x[0], again, NULL, 1), DI_OK); /* the slot must grow after it */
    for (int k = 0; k < 3; k++) { /* one by one */
        EQUAL(p->eval(p, N, t[k], x[k], eps[k], NULL, 1), DI_OK);
        EQUAL(p->vjp(p, 1, g, gx[k]), DI_OK);
        if (k == 0)
            one = di_bytes(ctx) - before - p->bytes(p, N, 1); /* a block's own bookkeeping */
        EQUAL(di_bytes(ctx), before + p->bytes(p, N, 1) + one);
    }
    CHECK(one <= 128);
    for (int k = 0; k < 3; k++) /* all kept, eps in the place of x */
        for (int pass = 0; pass < 2; pass++) {
            memcpy(again, x[k], sizeof again);
            EQUAL(p->eval(p, N, t[k], again, again, NULL, pass ? 0 : k + 1), DI_OK);
            CHECK(same(again, eps[k], N * D3));
        }
    EQUAL(di_bytes(ctx), before + p->bytes(p, N, 3) + 3 * one);
    for (int k = 0; k < 3; k++) {
        memcpy(again, g, sizeof again);
        EQUAL(p->vjp(p, k + 1, again, again), DI_OK); /* gx may be geps */
        CHECK(same(again, gx[k], N * D3));
    }
    EQUAL(p->eval(p, 1, t[0], x[0], again, NULL, 2), DI_OK); /* fewer images in an old slot */
    EQUAL(p->vjp(p, 2, g, again), DI_OK);
    CHECK(same(again, gx[0], D3));
    EQUAL(p->eval(p, N, t[0], x[0], again, NULL, DI_MAX_KEEP), DI_OK);
    EQUAL(p->vjp(p, DI_MAX_KEEP, g, again), DI_OK);
    CHECK(same(again, gx[0], N * D3));
    REFUSED(p->vjp(p, 5, g, again), DI_EUSAGE, "must follow an eval with its keep");
    REFUSED(p->vjp(p, 0, g, again), DI_EUSAGE, "must follow an eval with its keep");
    REFUSED(p->vjp(p, DI_MAX_KEEP + 1, g, again), DI_EUSAGE, "must follow");
    REFUSED(p->eval(p, 1, t[0], x[0], again, NULL, DI_MAX_KEEP + 1), DI_EUSAGE, "at most 16");
    REFUSED(p->eval(p, 1, t[0], x[0], again, NULL, -1), DI_EUSAGE, "at most 16");
}

/* The prior's abar is di_prior_abar's, bit for bit: images at t and at the whole index with
   the same abar. Here: eps of N(0,1) at x = 1 is sqrt(1-abar). */
static void test_same_abar(void)
{
    di_prior *p = gaussian(1, 0, 1);
    in_case("gauss prior, its abar");
    for (double t = -0.9; t < 1005; t += 3.7) {
        di_real x = 1, eps;
        double abar = di_prior_abar(p, t);
        p->eval(p, 1, &t, &x, &eps, NULL, 0);
        CHECK(eps == (di_real)(sqrt(1 - abar) / (abar + (1 - abar))));
    }
}

/* J^T v by vjp: symmetric (T8 of solvers-dmplug.md: J is a scaled second derivative), and the
   derivative of eval by central differences, h = 1e-4: truncation h^2 times a third derivative,
   rounding 1e-16/h; in float rounding 1e-7/h, so there h = 0.02 and a rough bound. */
static void test_derivative(di_prior *p, const char *name)
{
    static const double time[] = { -0.5, 0, 20.75, 100, 333, 666, 999, 1003 };
    double skew = 0, far = 0, h = BOUND(0.02, 1e-4);
    in_case("%s prior, derivative", name);
    for (int k = 0; k < 8; k++)
        for (unsigned s = 0; s < 5; s++) {
            di_real x[D3], u[D3], v[D3], Ju[D3], Jv[D3], eps[D3], side[2][D3];
            double left = 0, right = 0, size = 0, slope = 0;
            double step = h * (time[k] < 10 ? 0.1 : 1); /* near 0 eps bends sooner */
            fill(x, D3, 40 + s);
            fill(u, D3, 50 + s);
            fill(v, D3, 60 + s);
            p->eval(p, 1, time + k, x, eps, NULL, 1);
            p->vjp(p, 1, u, Ju);
            p->vjp(p, 1, v, Jv);
            for (int i = 0; i < D3; i++) {
                left += (double)u[i] * Jv[i];
                right += (double)v[i] * Ju[i];
                size += fabs((double)u[i] * Jv[i]) + fabs((double)v[i] * Ju[i]);
            }
            skew = larger(skew, fabs(left - right) / size);
            for (int n = 0; n < 2; n++) {
                di_real moved[D3];
                for (int i = 0; i < D3; i++)
                    moved[i] = x[i] + (di_real)(n ? -step : step) * v[i];
                p->eval(p, 1, time + k, moved, side[n], NULL, 0);
            }
            for (int i = 0; i < D3; i++)
                slope += u[i] * ((double)side[0][i] - side[1][i]) / (2 * step);
            far = larger(far, fabs(slope - right) / size);
        }
    NEAR(skew, 0, BOUND(3e-7, 1e-12));
    NEAR(far, 0, BOUND(4e-3, 1e-7));
    figure(where, skew);
    figure("        against central differences", far);
}

/* The analytic denoiser and its Jacobian in the frame x = x0 + sigma eps, at sigma. */
typedef struct denoiser {
    double D[D3], J[D3 * D3];
} denoiser;

/* D = m0 + C (C + s^2 I)^-1 (x - m0), J = C (C + s^2 I)^-1: 3x3 by cofactors. */
static void gauss_denoiser(denoiser *r, const double *x, double sigma)
{
    double a[9], inv[9], det = 0;
    for (int i = 0; i < 9; i++)
        a[i] = C3[i] + (i % 4 == 0) * sigma * sigma;
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            int p = (i + 1) % 3, q = (i + 2) % 3, u = (j + 1) % 3, v = (j + 2) % 3;
            inv[j * 3 + i] = a[p * 3 + u] * a[q * 3 + v] - a[p * 3 + v] * a[q * 3 + u];
        }
    for (int i = 0; i < 3; i++)
        det += a[i] * inv[i * 3];
    for (int i = 0; i < 9; i++)
        inv[i] /= det;
    product(r->J, C3, inv, 3, 3, 3);
    for (int i = 0; i < 3; i++) {
        r->D[i] = MEAN3[i];
        for (int j = 0; j < 3; j++)
            r->D[i] += r->J[i * 3 + j] * (x[j] - MEAN3[j]);
    }
}

/* solvers-gradient.md 9, mixture of N(m_k, c2 I): with v = c2 + s^2
   D = sum p_k (m_k + c2/v (x-m_k)), J = c2/v I + s^2/v^2 Cov_p(m). */
static void mixture_denoiser(denoiser *r, const double *x, double sigma, double c2)
{
    double v = c2 + sigma * sigma, p[3], sum = 0, mbar[D3] = { 0 }, top = -HUGE_VAL;
    for (int k = 0; k < 3; k++) {
        double far = 0;
        for (int i = 0; i < D3; i++)
            far += (x[i] - M3[k][i]) * (x[i] - M3[k][i]);
        p[k] = log(PI3[k]) - far / (2 * v);
        top = larger(top, p[k]);
    }
    for (int k = 0; k < 3; k++)
        sum += p[k] = exp(p[k] - top);
    for (int k = 0; k < 3 * D3; k++)
        mbar[k % D3] += p[k / D3] / sum * M3[k / D3][k % D3];
    for (int i = 0; i < D3; i++)
        r->D[i] = mbar[i] + c2 / v * (x[i] - mbar[i]);
    for (int i = 0; i < D3 * D3; i++) {
        r->J[i] = (i % (D3 + 1) == 0) * c2 / v;
        for (int k = 0; k < 3; k++)
            r->J[i] += sigma * sigma / (v * v) * p[k] / sum * (M3[k][i / D3] - mbar[i / D3])
                       * (M3[k][i % D3] - mbar[i % D3]);
    }
}

/* The denoiser made of a noise predictor, D = x - sigma e(c_in x, t) and
   J_D^T v = v - sigma c_in J_e^T v with c_in = 1/sqrt(1+sigma^2), against the analytic one: the
   largest error of D in units of 1 + sigma, the size of x, and of J_D^T v. c2 = 0 is the
   Gaussian, else the mixture. */
static void frame_error(di_prior *p, double c2, double sigma, int continuous, double *eD,
                        double *eJ)
{
    double cin = 1 / sqrt(1 + sigma * sigma), t = di_prior_time(p, sigma, continuous);
    *eD = *eJ = 0;
    for (unsigned s = 0; s < 5; s++) {
        di_real scaled[D3], v[D3], e[D3], gx[D3];
        double x[D3];
        denoiser want;
        fill(v, D3, 80 + s);
        for (int i = 0; i < D3; i++) {
            scaled[i] = (di_real)(cin * (1 + sigma) * value_at((size_t)i, 70 + s));
            x[i] = scaled[i] / cin;
        }
        if (c2 > 0)
            mixture_denoiser(&want, x, sigma, c2);
        else
            gauss_denoiser(&want, x, sigma);
        p->eval(p, 1, &t, scaled, e, NULL, 1);
        p->vjp(p, 1, v, gx);
        for (int i = 0; i < D3; i++) {
            double Jv = 0;
            for (int j = 0; j < D3; j++)
                Jv += want.J[i * D3 + j] * v[j];
            *eD = larger(*eD, fabs(x[i] - sigma * e[i] - want.D[i]) / (1 + sigma));
            *eJ = larger(*eJ, fabs(v[i] - sigma * cin * gx[i] - Jv));
        }
    }
}

/* P20 of solvers-gradient.md. Through the table's time both frames agree to rounding. Through
   the continuous time they differ by its 0.5 to 3.4 steps: below, for the Gaussian and the
   mixture, is what was measured in double; it must be there to one per cent. */
static void test_frames(void)
{
    static const struct { double sigma, D[2], J[2]; } at[] = {
        { 0.01, { 1.2594e-3, 8.1932e-4 }, { 4.6704e-4, 6.2501e-3 } },
        { 0.1, { 2.3867e-3, 2.0457e-3 }, { 9.5820e-4, 7.6514e-3 } },
        { 0.5, { 1.8046e-3, 1.6544e-3 }, { 1.0895e-3, 9.8664e-3 } },
        { 1, { 1.6341e-3, 1.6133e-3 }, { 5.6533e-4, 2.8258e-3 } },
        { 10, { 8.8400e-4, 2.3784e-4 }, { 4.4083e-5, 6.9372e-5 } },
        { 100, { 2.2121e-4, 5.5769e-5 }, { 1.1234e-6, 1.7335e-6 } } };
    const double slack = BOUND(3e-7, 1e-13); /* roundings */
    const double c2 = 0.0625;
    di_prior *p[2] = { gaussian3(), mixture3(3, c2) };
    for (int k = 0; k < 2; k++) {
        double topD = 0, topJ = 0, eD, eJ;
        in_case("%s prior, frames", k ? "mixture" : "gauss");
        for (double sigma = 0.002; sigma < 200; sigma *= 1.5) {
            frame_error(p[k], k * c2, sigma, 0, &eD, &eJ);
            topD = larger(topD, eD);
            topJ = larger(topJ, eJ);
        }
        NEAR(topD, 0, slack);
        NEAR(topJ, 0, slack);
        figure(where, topD);
        figure("        J^T v", topJ);
        for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
            frame_error(p[k], k * c2, at[i].sigma, 1, &eD, &eJ);
            NEAR(eD, at[i].D[k], 0.01 * at[i].D[k] + slack);
            NEAR(eJ, at[i].J[k], 0.01 * at[i].J[k] + slack);
        }
    }
}

/* ---- The mixture prior ------------------------------------------------------------------- */

/* Different variances per element, the formula written out plainly in probabilities. */
static void test_mixture_spread(void)
{
    static const double time[] = { 0, 50.5, 333, 999 };
    di_prior *p = mixture3(3, 0);
    double far = 0;
    in_case("mixture prior, a variance for every element");
    EQUAL(p->steps, 1000);
    EQUAL(p->variance, DI_VAR_FIXED_SMALL);
    EQUAL(p->continuous, 0);
    for (int k = 0; k < 4; k++) {
        double abar = di_prior_abar(p, time[k]), sum = 0, g[D3] = { 0 };
        di_real x[D3], eps[D3];
        fill(x, D3, 95);
        for (int c = 0; c < 3; c++) {
            double density = PI3[c], S;
            for (int i = 0; i < D3; i++) {
                double u = x[i] - sqrt(abar) * M3[c][i];
                S = abar * V3[c][i] + 1 - abar;
                density *= exp(-u * u / (2 * S)) / sqrt(S);
            }
            for (int i = 0; i < D3; i++)
                g[i] -= density * (x[i] - sqrt(abar) * M3[c][i]) / (abar * V3[c][i] + 1 - abar);
            sum += density;
        }
        for (int i = 0; i < D3; i++)
            g[i] *= -sqrt(1 - abar) / sum;
        EQUAL(p->eval(p, 1, time + k, x, eps, NULL, 0), DI_OK);
        far = larger(far, worst(eps, g, D3));
    }
    NEAR(far, 0, BOUND(2e-7, 1e-13));
    figure(where, far);
}

/* One component is the Gaussian prior; three times the same component too, and one variance for
   all elements is the same variance for every element. */
static void test_mixture_alone(void)
{
    di_real w[3] = { 7, 1, 2 }, m[3 * D3], v[3 * D3], x[D3], e[5][D3], gx[5][D3];
    di_prior *p[5];
    in_case("mixture of one");
    for (int i = 0; i < 3 * D3; i++) {
        m[i] = (di_real)M3[0][i % D3];
        v[i] = (di_real)V3[0][i % D3];
    }
    di_prior_gauss(ctx, 1, 1, D3, m, v, 0, &p[0]);
    di_prior_mixture(ctx, 1, 1, D3, 1, w, m, v, 1, &p[1]);
    di_prior_mixture(ctx, 1, 1, D3, 3, w, m, v, 1, &p[2]);
    p[3] = mixture3(3, 0.1875);
    for (int i = 0; i < 3 * D3; i++) {
        m[i] = (di_real)M3[i / D3][i % D3];
        v[i] = (di_real)0.1875;
    }
    for (int i = 0; i < 3; i++)
        w[i] = (di_real)PI3[i];
    EQUAL(di_prior_mixture(ctx, 1, 1, D3, 3, w, m, v, 1, &p[4]), DI_OK);
    for (double t = -1; t < 1003; t += 50.25) {
        fill(x, D3, 97);
        for (int k = 0; k < 5; k++) {
            EQUAL(p[k]->eval(p[k], 1, &t, x, e[k], NULL, 1), DI_OK);
            EQUAL(p[k]->vjp(p[k], 1, x, gx[k]), DI_OK);
        }
        for (int k = 1; k < 5; k += k == 2 ? 2 : 1)
            for (int i = 0; i < D3; i++) {
                const int base = k == 4 ? 3 : 0;
                NEAR(e[k][i], e[base][i], BOUND(1e-6, 1e-14) * (1 + fabs(e[base][i])));
                NEAR(gx[k][i], gx[base][i], BOUND(1e-6, 1e-14) * (1 + fabs(gx[base][i])));
            }
    }
}

/* |x| = 1000 and abar near 1, with point masses among the components: no overflow, no NaN, and
   the nearest component alone counts: eps = sqrt(1-abar) (x - sqrt(abar) m)/S, and the same
   with x replaced by v is J v. */
static void test_mixture_far(void)
{
    static const double time[] = { -1, -1 + 1e-13, -0.5, 0, 500, 999, 1020 };
    const di_real w[2] = { 1, 3 }, m[4] = { 1, 1, -1, -1 }, v[2] = { 0, 0.25 };
    di_prior *p;
    in_case("mixture prior, far out");
    EQUAL(di_prior_mixture(ctx, 1, 1, 2, 2, w, m, v, 0, &p), DI_OK);
    for (int k = 0; k < 7; k++)
        for (int side = -1; side <= 1; side += 2) {
            di_real x[2] = { (di_real)(1e3 * side), (di_real)(1e3 * side) }, e[2], gx[2];
            const di_real g[2] = { 1, -2 };
            double abar = fmin(di_prior_abar(p, time[k]), 1 - ldexp(1, -53));
            double S = abar * 0.25 + 1 - abar, gain = sqrt(1 - abar) / S;
            EQUAL(p->eval(p, 1, time + k, x, e, NULL, 1), DI_OK);
            EQUAL(p->vjp(p, 1, g, gx), DI_OK);
            for (int i = 0; i < 2; i++) {
                double want = gain * (x[i] + sqrt(abar));
                CHECK(fabs(e[i]) < HUGE_VAL && fabs(gx[i]) < HUGE_VAL);
                if (k < 5) { /* the wide component wins by far on either side */
                    NEAR(e[i], want, BOUND(1e-6, 1e-13) * fabs(want));
                    NEAR(gx[i], gain * g[i], BOUND(1e-6, 1e-13) * fabs(gain * g[i]));
                }
            }
        }
    in_case("mixture of point masses");
    const di_real none[2] = { 0, 0 };
    EQUAL(di_prior_mixture(ctx, 1, 1, 2, 2, w, m, none, 0, &p), DI_OK);
    for (int k = 0; k < 7; k++) {
        const di_real x[2] = { (di_real)0.75, (di_real)0.5 };
        double abar = fmin(di_prior_abar(p, time[k]), 1 - ldexp(1, -53)), bend = 0;
        di_real e[2], gx[2];
        EQUAL(p->eval(p, 1, time + k, x, e, NULL, 1), DI_OK);
        EQUAL(p->vjp(p, 1, x, gx), DI_OK);
        /* means +-(1,1): x0hat = tanh(sqrt(abar)(x1+x2)/(1-abar) + log(1/3)/2) */
        double x0 = tanh(sqrt(abar) * 1.25 / (1 - abar) - log(3) / 2);
        bend = abar / (1 - abar) * (1 - x0 * x0) * 1.25; /* sqrt(abar) d x0hat/dx . x */
        for (int i = 0; i < 2; i++) {
            double want = (x[i] - sqrt(abar) * x0) / sqrt(1 - abar);
            NEAR(e[i], want, BOUND(1e-6, 1e-11) * fabs(want));
            want = (x[i] - bend) / sqrt(1 - abar);
            NEAR(gx[i], want, BOUND(1e-6, 1e-11) * fabs(want));
        }
    }
}

static void test_mixture_refusals(void)
{
    const double bad[] = { NAN, HUGE_VAL, -HUGE_VAL, -1, 0 };
    di_real w[2] = { 1, 1 }, m[4] = { 0, 0, 1, 1 }, v[4] = { 1, 1, 1, 1 };
    di_prior *p;
    in_case("mixture refusals");
    REFUSED(di_prior_mixture(ctx, 1, 1, 2, 0, w, m, v, 1, &p), DI_EINPUT, "0 components");
    CHECK(p == NULL);
    REFUSED(di_prior_mixture(ctx, 1, 1, 2, -3, w, m, v, 1, &p), DI_EINPUT, "-3 components");
    REFUSED(di_prior_mixture(ctx, 1, -1, 2, 2, w, m, v, 1, &p), DI_EUSAGE, "impossible");
    for (int i = 0; i < 5; i++) {
        w[1] = (di_real)bad[i];
        REFUSED(di_prior_mixture(ctx, 1, 1, 2, 2, w, m, v, 1, &p), DI_EINPUT,
                "component 1 has the weight");
        w[1] = 1;
        if (i < 3) {
            m[2] = (di_real)bad[i];
            REFUSED(di_prior_mixture(ctx, 1, 1, 2, 2, w, m, v, 1, &p), DI_EINPUT,
                    "the mean of component 1 holds NaN or Inf");
            m[2] = 0;
        }
        if (i < 4) {
            v[3] = (di_real)bad[i];
            REFUSED(di_prior_mixture(ctx, 1, 1, 2, 2, w, m, v, 1, &p), DI_EINPUT,
                    "component 1 has the variance");
            EQUAL(di_prior_mixture(ctx, 1, 1, 2, 2, w, m, v, 0, &p), DI_OK); /* reads two */
            v[3] = 1;
        }
    }
}

/* The three-step map of DMPlug (solvers-dmplug.md 2) from z (n,d): t = 666, 333, 0, then clean.
   x0 = (x - c e)/s, x' = s' x0 + c' e, no clipping. Evals are kept in slots 1..3. */
static const double TRIO[3] = { 666, 333, 0 };
static double trio_abar(int k) { return k == 3 ? 1 : abar_at((int)TRIO[k]); }

static void three_steps(di_prior *p, size_t n, const di_real *z, di_real *x)
{
    di_real e[8];
    size_t d = (size_t)p->w;
    memmove(x, z, n * d * sizeof *x);
    for (int k = 0; k < 3; k++) {
        double now = trio_abar(k), next = trio_abar(k + 1);
        double a = sqrt(next / now), b = sqrt(1 - next) - sqrt(1 - now) * a, t[8];
        for (size_t i = 0; i < n; i++)
            t[i] = TRIO[k];
        EQUAL(p->eval(p, n, t, x, e, NULL, k + 1), DI_OK);
        for (size_t i = 0; i < n * d; i++)
            x[i] = (di_real)(a * x[i] + b * e[i]);
    }
}

/* g <- J^T g of the last three_steps, all vjps after all evals. */
static void three_steps_vjp(di_prior *p, size_t n, di_real *g)
{
    di_real ge[8];
    for (int k = 2; k >= 0; k--) {
        double now = trio_abar(k), next = trio_abar(k + 1);
        double a = sqrt(next / now), b = sqrt(1 - next) - sqrt(1 - now) * a;
        EQUAL(p->vjp(p, k + 1, g, ge), DI_OK);
        for (size_t i = 0; i < n * (size_t)p->w; i++)
            g[i] = (di_real)(a * g[i] + b * ge[i]);
    }
}

/* Known answers of solvers-dmplug.md 11: T1 (Gaussian gains) and T10 (odd mixture). */
static void test_three_steps(void)
{
    static const double lambda[9] = { 0, 0.01, 0.04, 0.1, 0.25, 0.5, 1, 2, 4 };
    static const double gain[9] = { 0, 0.01669650802, 0.03686848709, 0.07567913697,
        0.1653238319, 0.295439608, 0.5039853256, 0.8011564902, 1.186183694 };
    const double tolerance = BOUND(1e-5, 1e-9); /* printed to ten digits */
    in_case("T1, three steps on a Gaussian");
    for (int i = 0; i < 9; i++) {
        di_prior *p = gaussian(1, 0, lambda[i]);
        di_real z = 1, x, g = 1;
        three_steps(p, 1, &z, &x);
        NEAR(x, gain[i], tolerance);
        three_steps_vjp(p, 1, &g);
        NEAR(g, gain[i], tolerance);
    }
    in_case("T10, three steps on 0.5 N(1,.09) + 0.5 N(-1,.09)");
    static const double start[4] = { 0.1, 0.5, 1, 2 };
    static const double end[4] = { 0.07497764, 0.35960577, 0.65206463, 0.99213509 };
    const di_real weight[2] = { 1, 1 }, mean[2] = { 1, -1 };
    const di_real var[2] = { (di_real)0.09, (di_real)0.09 };
    di_real z[8], x[8];
    di_prior *p;
    EQUAL(di_prior_mixture(ctx, 1, 1, 1, 2, weight, mean, var, 0, &p), DI_OK);
    for (int i = 0; i < 4; i++) {
        z[i] = (di_real)start[i];
        z[i + 4] = -z[i];
    }
    three_steps(p, 8, z, x);
    for (int i = 0; i < 4; i++) {
        NEAR(x[i], end[i], BOUND(1e-5, 1e-8));
        NEAR(x[i + 4], -end[i], BOUND(1e-5, 1e-8));
    }
    z[0] = 0;
    three_steps(p, 1, z, x);
    NEAR(x[0], 0, 1e-15);
}

/* T9: value, loss and gradient through three steps and a matrix problem. */
static void test_gradient(void)
{
    const di_real w[2] = { (di_real)0.3, (di_real)0.7 };
    const di_real m[6] = { (di_real)0.8, (di_real)-0.4, (di_real)0.1,
                           (di_real)-0.5, (di_real)0.6, (di_real)-0.7 };
    const di_real v[6] = { (di_real)0.04, (di_real)0.09, (di_real)0.25,
                           (di_real)0.16, (di_real)0.01, (di_real)0.05 };
    const di_real A[6] = { (di_real)0.5, (di_real)0.5, 0, 0, (di_real)0.5, (di_real)0.5 };
    const di_real y[2] = { (di_real)0.3, (di_real)-0.2 };
    const di_real seed[3] = { (di_real)0.5, -1, (di_real)0.25 };
    static const double R[3] = { 0.248610211987675, 0.0239075216970871, -0.2604565691016 };
    static const double G[3] = { -0.0114228774031585, 0.00281679057234120,
                                 0.000906625260855179 };
    di_problem *q;
    di_prior *p;
    di_real x[3], r[2], g[3];
    in_case("T9, gradient through three steps");
    EQUAL(di_prior_mixture(ctx, 1, 1, 3, 2, w, m, v, 1, &p), DI_OK);
    EQUAL(di_problem_matrix(ctx, 1, 1, 3, 2, A, &q), DI_OK);
    three_steps(p, 1, seed, x);
    di_apply(q, 1, x, r);
    for (int i = 0; i < 2; i++)
        r[i] -= y[i];
    NEAR((r[0] * r[0] + r[1] * r[1]) / 2, 0.016745106081917, BOUND(1e-6, 1e-13));
    di_apply_vjp(q, 1, x, r, g); /* the loss is the mean of two squares: its gradient is r */
    three_steps_vjp(p, 1, g);
    double farR = 0, farG = 0;
    for (int i = 0; i < 3; i++) {
        farR = larger(farR, fabs(x[i] - R[i]));
        farG = larger(farG, fabs(g[i] - G[i]));
    }
    NEAR(farR, 0, BOUND(2e-6, 1e-12));
    NEAR(farG, 0, BOUND(2e-6, 1e-13));
    figure("T9, R(z)", farR);
    figure("T9, gradient", farG);
}

/* T8: the product of three steps' Jacobians is symmetric for a Gaussian, where they commute,
   and not for a mixture, where they do not. */
static void test_symmetric_steps(void)
{
    di_prior *p[2] = { gaussian3(), mixture3(3, 0) };
    for (int k = 0; k < 2; k++) {
        di_real z[D3], x[D3], u[D3], v[D3], Ju[D3], Jv[D3];
        double left = 0, right = 0;
        in_case("T8, %s prior", k ? "mixture" : "gauss");
        fill(z, D3, 98);
        fill(u, D3, 99);
        fill(v, D3, 100);
        memcpy(Ju, u, sizeof u);
        memcpy(Jv, v, sizeof v);
        three_steps(p[k], 1, z, x);
        three_steps_vjp(p[k], 1, Ju);
        three_steps_vjp(p[k], 1, Jv);
        for (int i = 0; i < D3; i++) {
            left += (double)u[i] * Jv[i];
            right += (double)v[i] * Ju[i];
        }
        figure(where, fabs(left - right));
        if (k == 0)
            NEAR(left, right, BOUND(1e-6, 1e-13));
        else
            CHECK(fabs(left - right) > 1e-4);
    }
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
    test_matrix();
    test_matrix_floor();
    test_matrix_refusals();
    test_custom();
    test_metrics();
    test_official();
    test_abar();
    test_time();
    test_gauss_prior();
    test_gauss_edges();
    test_same_abar();
    test_slots(gaussian3(), "gauss");
    test_derivative(gaussian3(), "gauss");
    test_slots(mixture3(3, 0), "mixture");
    test_derivative(mixture3(3, 0), "mixture");
    test_frames();
    test_mixture_spread();
    test_mixture_alone();
    test_mixture_far();
    test_mixture_refusals();
    test_three_steps();
    test_gradient();
    test_symmetric_steps();
    di_close(ctx);
    return finish();
}
