/* test_images.c: the problems of pictures (blurs known and unknown, HDR, grey, JPEG, bicubic
   cut at the border), their derivatives, the makers of kernels, tilts and noise, against closed
   forms and the official programs' numbers. */
#define DIFFINV_KERNELS
#include "check.h"
#include "../tools/make.h"
#include "../tools/picture.h"

#include <stdlib.h>

enum { MOST = 3 * 64 * 64, THETA = 64 * 64 + 2 * 64 * 64 };
static di_ctx *ctx;
static di_real kernel_of[64 * 64], tilt_of[2 * 64 * 64];

/* A kernel without symmetry that sums to 1; a third of its taps are 0. */
static const di_real *kernel(int kh, int kw, int signs)
{
    double sum = 0;
    for (int i = 0; i < kh * kw; i++) {
        double v = value_at((size_t)i, 30);
        kernel_of[i] = (di_real)(v < -0.3 ? 0 : signs ? v : fabs(v) + 0.1);
        sum += kernel_of[i];
    }
    for (int i = 0; i < kh * kw; i++)
        kernel_of[i] = (di_real)(kernel_of[i] / sum);
    return kernel_of;
}

/* Never a whole number of pixels. */
static const di_real *tilt(int h, int w)
{
    for (int i = 0; i < 2 * h * w; i++)
        tilt_of[i] = (di_real)(2.2 * value_at((size_t)i, 6) + 1e-3);
    return tilt_of;
}

static di_problem *blur(int c, int h, int w, int kh, int kw, const di_real *k, int border)
{
    di_problem *p = NULL;
    EQUAL(di_problem_blur(ctx, c, h, w, kh, kw, k, border, &p), DI_OK);
    return p;
}

/* ---- Derivatives ------------------------------------------------------------------------- */

/* <A x, v> = <x, A^T v>; two images at once are the images one by one. */
static void test_adjoint(const di_problem *p)
{
    static di_real x[2 * MOST], y[2 * MOST], v[2 * MOST], gx[2 * MOST], one[MOST];
    size_t d = size3(p->x), m = size3(p->y);
    double left = 0, right = 0, size = 0;
    in_case("adjoint of %s %dx%dx%d", p->name, p->x[0], p->x[1], p->x[2]);
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
    NEAR(left, right, BOUND(1e-6, 1e-14) * size);
    figure(where, fabs(left - right) / size);
    for (int n = 0; n < 2; n++) {
        di_apply(p, 1, x + n * d, one);
        CHECK(same(one, y + n * m, m));
        di_apply_vjp(p, 1, x, v + n * m, one);
        CHECK(same(one, gx + n * d, d));
    }
}

static void test_adjoints(void)
{
    static const int k[][5] = { { 5, 5, 16, 21, 0 }, { 7, 3, 9, 17, 1 }, { 4, 6, 18, 33, 0 },
                                { 1, 1, 4, 5, 0 }, { 16, 16, 16, 16, 1 }, { 31, 31, 31, 40, 0 },
                                { 61, 61, 64, 64, 0 }, { 64, 64, 64, 64, 1 } };
    di_problem *p;
    for (int i = 0; i < 8; i++) {
        const int *s = k[i];
        test_adjoint(blur(i < 6 ? 3 : 1, s[2], s[3], s[0], s[1], kernel(s[0], s[1], 1), s[4]));
        EQUAL(di_problem_blind(ctx, 2, s[2], s[3], s[0], s[1], kernel(s[0], s[1], 0), &p), 0);
        test_adjoint(p);
        EQUAL(di_problem_turbulence(ctx, 2, s[2], s[3], s[0], s[1], kernel(s[0], s[1], 0),
                                    tilt(s[2], s[3]), &p), 0);
        test_adjoint(p);
    }
    EQUAL(di_problem_colorize(ctx, 8, 12, &p), DI_OK);
    test_adjoint(p);
    for (int s = 2; s <= 8; s *= 2) {
        EQUAL(di_problem_sr(ctx, 3, 32, 48, s, DI_SR_CUT, &p), DI_OK);
        test_adjoint(p);
    }
}

/* <v, A(x + h d, theta + h e) - A(x - h d, theta - h e)> / 2h against <gx, d> + <gtheta, e>. */
static void test_direction(const di_problem *p, double range, unsigned seed, int whole)
{
    static di_real x[MOST], a[MOST], b[MOST], v[MOST], gx[MOST], t[THETA], t2[THETA],
        gt[THETA];
    size_t d = size3(p->x), m = size3(p->y);
    const double h = BOUND(1e-2, 1e-5);
    double by_h = 0, by_v = 0, size = 0;
    for (size_t i = 0; i < m; i++)
        v[i] = (di_real)value_at(i, seed + 1);
    for (size_t i = 0; i < p->extra; i++)
        t[i] = (di_real)((i < p->extra - (size_t)whole ? 3 : 1.9) * value_at(i, seed + 2));
    for (int side = -1; side <= 1; side += 2) {
        for (size_t i = 0; i < d; i++)
            x[i] = (di_real)(range * value_at(i, seed) + side * h * value_at(i, seed + 3));
        for (size_t i = 0; i < p->extra; i++)
            t2[i] = (di_real)(t[i] + side * h * value_at(i, seed + 4));
        if (p->extra)
            p->apply_with(p, x, t2, side < 0 ? a : b);
        else
            p->apply(p, x, side < 0 ? a : b);
    }
    for (size_t i = 0; i < d; i++)
        x[i] = (di_real)(range * value_at(i, seed));
    if (p->extra)
        p->vjp_with(p, x, t, v, gx, gt);
    else
        p->vjp(p, x, v, gx);
    for (size_t i = 0; i < m; i++)
        by_h += v[i] * ((double)b[i] - a[i]) / (2 * h);
    for (size_t i = 0; i < d; i++) {
        by_v += gx[i] * value_at(i, seed + 3);
        size += fabs(gx[i] * value_at(i, seed + 3));
    }
    for (size_t i = 0; i < p->extra; i++) {
        by_v += gt[i] * value_at(i, seed + 4);
        size += fabs(gt[i] * value_at(i, seed + 4));
    }
    NEAR(by_h, by_v, BOUND(2e-3, 1e-7) * size);
    figure(where, fabs(by_h - by_v) / size);
    if (p->extra) { /* either gradient alone is the same; theta's true value: apply */
        p->vjp_with(p, x, t, v, a, NULL);
        CHECK(same(a, gx, d));
        p->vjp_with(p, x, t, v, NULL, t2);
        CHECK(same(t2, gt, p->extra));
    }
}

static void test_directions(void)
{
    di_problem *p;
    in_case("nlblur along a line");
    EQUAL(di_problem_nlblur(ctx, 3, 16, 20, 7, 5, kernel(7, 5, 0), &p), DI_OK);
    test_direction(p, 0.9, 40, 0);
    EQUAL(p->linear, 0);
    in_case("hdr along a line");
    EQUAL(di_problem_hdr(ctx, 3, 16, 20, 2, &p), DI_OK);
    test_direction(p, 0.48, 45, 0);
    in_case("blind along a line");
    EQUAL(di_problem_blind(ctx, 3, 16, 20, 6, 5, kernel(6, 5, 0), &p), DI_OK);
    EQUAL(p->extra, 30);
    test_direction(p, 1, 50, 0);
    in_case("turbulence along a line");
    EQUAL(di_problem_turbulence(ctx, 1, 9, 10, 4, 5, kernel(4, 5, 0), tilt(9, 10), &p), DI_OK);
    EQUAL(p->extra, 20 + 180);
    test_direction(p, 1, 55, 180);
}

/* y is linear in K too: <v, A(x) K2> = sum K2 gK for any other kernel K2, with the gradient
   gK = glogits/K + <v, A(x) K> had at K. */
static void test_kernel_adjoint(void)
{
    enum { KH = 6, KW = 5, K = KH * KW, H = 11, W = 14, D = 2 * H * W };
    di_real x[D], at[D], out[D], logit[2][K], g[K];
    double soft[2][K], value[2] = { 0, 0 }, right = 0, size = 0;
    di_problem *p;
    in_case("adjoint in the kernel");
    EQUAL(di_problem_blind(ctx, 2, H, W, KH, KW, kernel(KH, KW, 0), &p), DI_OK);
    fill(x, D, 64);
    fill(at, D, 65);
    for (int k = 0; k < 2; k++) {
        double sum = 0;
        fill(logit[k], K, 66 + (unsigned)k);
        for (int i = 0; i < K; i++)
            sum += soft[k][i] = exp(logit[k][i]);
        for (int i = 0; i < K; i++)
            soft[k][i] /= sum;
        p->apply_with(p, x, logit[k], out);
        for (int i = 0; i < D; i++)
            value[k] += (double)at[i] * out[i];
        for (int i = 0; i < D; i++)
            size += fabs((double)at[i] * out[i]);
    }
    p->vjp_with(p, x, logit[0], at, NULL, g);
    for (int i = 0; i < K; i++)
        right += soft[1][i] * (g[i] / soft[0][i] + value[0]);
    NEAR(value[1], right, BOUND(1e-6, 1e-14) * size);
    figure(where, fabs(value[1] - right) / size);
}

/* ---- The official programs' numbers (tests/vectors/README.md) ---------------------------- */

static int load(const char *name, io_array *a)
{
    char path[80], err[256];
    snprintf(path, sizeof path, "tests/vectors/%s.npy", name);
    int bad = io_read(a, path, err, sizeof err);
    if (!CHECK(!bad))
        printf("     %s\n", err);
    return bad;
}

static void agrees(const char *name, const di_real *got, size_t n, double in_float,
                   double in_double)
{
    static double want[MOST];
    io_array a;
    in_case("%s", name);
    if (load(name, &a))
        return;
    EQUAL(a.n * a.c * a.h * a.w, n);
    for (size_t i = 0; i < n; i++)
        want[i] = a.v[i];
    double d = worst(got, want, n);
    figure(name, d);
    NEAR(d, 0, BOUND(in_float, in_double));
    (void)in_float;
    (void)in_double;
    io_free(&a);
}

/* Bytes of a u1 array, which io_read maps to [-1,1]. */
static size_t load_bytes(const char *name, unsigned char *out, size_t most)
{
    io_array a;
    if (load(name, &a))
        return 0;
    size_t n = a.h * a.w;
    CHECK(a.picture && n <= most);
    for (size_t i = 0; i < n && i < most; i++)
        out[i] = (unsigned char)rint((a.v[i] + 1) * 127.5);
    io_free(&a);
    return n;
}

/* The picture of the vectors, (c,h,w). */
static void picture(di_real *u, int c, int h, int w)
{
    for (int i = 0; i < c * h * w; i++)
        u[i] = (float)(0.5 * sin(0.3 * (i / w % h) + i / (h * w))
                       + 0.4 * cos(0.2 * (i % w) - 0.5 * (i / (h * w))));
}

static di_real u[MOST], v[MOST], y[MOST], gx[MOST], theta[THETA], gtheta[THETA];

static void both(const di_problem *p, int h, int w)
{
    picture(u, p->x[0], h, w);
    fill(v, size3(p->y), 2);
    di_apply(p, 1, u, y);
    if (p->vjp)
        di_apply_vjp(p, 1, u, v, gx);
}

static void official_kernel(const char *name, di_real *k)
{
    static unsigned char grey[64 * 64];
    size_t n = load_bytes(name, grey, sizeof grey);
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += grey[i];
    for (size_t i = 0; i < n; i++)
        k[i] = (di_real)(grey[i] / sum);
}

static void test_official(void)
{
    di_problem *p;
    official_kernel("motion_61.grey", kernel_of);
    p = blur(3, 64, 64, 61, 61, kernel_of, DI_BORDER_REFLECT);
    both(p, 64, 64);
    agrees("op_motion.y", y, 64 * 64, 1e-6, 1e-13);
    agrees("op_motion.gx", gx, 64 * 64, 1e-6, 1e-13);
    EQUAL(di_problem_sr(ctx, 3, 64, 64, 4, DI_SR_CUT, &p), DI_OK);
    both(p, 64, 64);
    agrees("op_cut4.y", y, 3 * 16 * 16, 1e-6, 1e-13);
    EQUAL(di_problem_sr(ctx, 3, 32, 32, 2, DI_SR_CUT, &p), DI_OK);
    both(p, 32, 32);
    agrees("op_cut2.y", y, 3 * 16 * 16, 1e-6, 1e-13);
    agrees("op_cut2.gx", gx, 3 * 32 * 32, 1e-6, 1e-13);
    EQUAL(di_problem_colorize(ctx, 8, 8, &p), DI_OK);
    both(p, 8, 8);
    agrees("op_grey.y", y, 64, 1e-6, 1e-13);
    agrees("op_grey.gx", gx, 192, 1e-6, 1e-13);
    fill(v, 64, 3);
    di_apply_pinv(p, 1, v, gx);
    agrees("op_grey.pinv", gx, 192, 1e-6, 1e-13);
    for (int q = 5; q <= 75; q += 70) {
        EQUAL(di_problem_jpeg(ctx, 32, 32, q, &p), DI_OK);
        both(p, 32, 32);
        agrees(q == 5 ? "op_jpeg5.y" : "op_jpeg75.y", y, 3 * 32 * 32, 1e-6, 1e-12);
    }
    official_kernel("motion_15.grey", kernel_of);
    EQUAL(di_problem_nlblur(ctx, 3, 16, 16, 15, 15, kernel_of, &p), DI_OK);
    picture(u, 3, 16, 16);
    for (int i = 0; i < 768; i++)
        u[i] = (di_real)(1.3 * u[i]);
    fill(v, 768, 2);
    di_apply(p, 1, u, y);
    di_apply_vjp(p, 1, u, v, gx);
    agrees("op_nlblur.y", y, 768, 1e-6, 1e-13);
    agrees("op_nlblur.gx", gx, 768, 1e-6, 1e-13);
    io_array a;
    if (load("op_hdr.x", &a))
        return;
    memcpy(u, a.v, 192 * sizeof *u);
    io_free(&a);
    EQUAL(di_problem_hdr(ctx, 3, 8, 8, 2, &p), DI_OK);
    fill(v, 192, 2);
    di_apply(p, 1, u, y);
    di_apply_vjp(p, 1, u, v, gx);
    agrees("op_hdr.y", y, 192, 1e-6, 0);
    agrees("op_hdr.gx", gx, 192, 1e-6, 0);
}

/* The blurs that are not known, and the same with the true kernel and tilt. */
static void test_official_hidden(void)
{
    enum { K = 16, N = 24 };
    static di_real truth[K * K], again[MOST];
    di_problem *p;
    double sum = 0;
    picture(u, 3, N, N);
    fill(v, 3 * N * N, 2);
    for (int i = 0; i < K * K; i++) {
        theta[i] = (di_real)(3 * value_at((size_t)i, 5));
        sum += exp(theta[i]);
    }
    for (int i = 0; i < 2 * N * N; i++)
        theta[K * K + i] = (di_real)(2.2 * value_at((size_t)i, 6));
    for (int i = 0; i < K * K; i++)
        truth[i] = (di_real)(exp(theta[i]) / sum);
    for (int k = 0; k < 2; k++) {
        if (k)
            EQUAL(di_problem_turbulence(ctx, 3, N, N, K, K, truth, theta + K * K, &p), DI_OK);
        else
            EQUAL(di_problem_blind(ctx, 3, N, N, K, K, truth, &p), DI_OK);
        p->apply_with(p, u, theta, y);
        p->vjp_with(p, u, theta, v, gx, gtheta);
        agrees(k ? "op_turb.y" : "op_blind.y", y, 3 * N * N, 2e-6, 1e-12);
        agrees(k ? "op_turb.gx" : "op_blind.gx", gx, 3 * N * N, 2e-6, 1e-12);
        agrees(k ? "op_turb.gtheta" : "op_blind.gtheta", gtheta, p->extra, 2e-6, 1e-12);
        static double want[MOST];
        for (int i = 0; i < 3 * N * N; i++)
            want[i] = y[i];
        di_apply(p, 1, u, again);
        NEAR(worst(again, want, 3 * N * N), 0, BOUND(1e-6, 1e-13));
        for (int i = 0; i < 3 * N * N; i++)
            want[i] = gx[i];
        di_apply_vjp(p, 1, NULL, v, again);
        NEAR(worst(again, want, 3 * N * N), 0, BOUND(1e-6, 1e-13));
    }
}

/* ---- Orientation, borders ---------------------------------------------------------------- */

static void test_orientation(void)
{
    enum { S = 20, K = 5 };
    static di_real x[64 * 64], out[64 * 64], k[64 * 64];
    di_problem *p = blur(1, S, S, K, K, kernel(K, K, 1), DI_BORDER_REFLECT);
    in_case("an impulse shows the flipped kernel");
    x[10 * S + 9] = 1;
    di_apply(p, 1, x, out);
    for (int i = 0; i < S * S; i++) {
        int r = 10 + 2 - i / S, q = 9 + 2 - i % S;
        EQUAL(out[i], r >= 0 && r < K && q >= 0 && q < K ? kernel_of[r * K + q] : 0);
    }
    in_case("reflect-101 at the corner");
    memset(x, 0, sizeof x);
    x[1] = 1; /* seen by (0,0) to its right and, mirrored, to its left */
    di_apply(p, 1, x, out);
    NEAR(out[0], (double)kernel_of[2 * K + 3] + kernel_of[2 * K + 1], BOUND(1e-8, 1e-16));
    in_case("zeros outside");
    p = blur(1, S, S, K, K, kernel_of, DI_BORDER_ZERO);
    di_apply(p, 1, x, out);
    EQUAL(out[0], kernel_of[2 * K + 3]);
    in_case("an even kernel");
    memset(x, 0, sizeof x);
    for (int at = 31; at <= 32; at++) {
        memset(k, 0, sizeof k);
        k[at * 64 + at] = 1;
        p = blur(1, 64, 64, 64, 64, k, DI_BORDER_ZERO);
        fill(x, 64 * 64, 60);
        di_apply(p, 1, x, out);
        for (int i = 0; i < 64 * 64; i++) {
            int r = i / 64 + at - 31, q = i % 64 + at - 31;
            EQUAL(out[i], r < 64 && q < 64 ? x[r * 64 + q] : 0);
        }
    }
    in_case("a constant stays");
    p = blur(1, 31, 64, 31, 61, kernel(31, 61, 0), DI_BORDER_REFLECT);
    for (int i = 0; i < 31 * 64; i++)
        x[i] = (di_real)0.7;
    di_apply(p, 1, x, out);
    for (int i = 0; i < 31 * 64; i++)
        NEAR(out[i], 0.7, BOUND(1e-6, 1e-13)); /* the kernel's own sum is off by 2e-14 */
}

/* Rows sum to 1, constants stay, ramps stay inside, inner rows are those of the other. */
static void test_cut(void)
{
    enum { S = 64 };
    static di_real x[S * S], a[S * S], b[S * S];
    for (int s = 2; s <= 8; s *= 2) {
        di_problem *p, *q;
        int n = S / s, differ = 0;
        in_case("cut bicubic, factor %d", s);
        EQUAL(di_problem_sr(ctx, 1, S, S, s, DI_SR_CUT, &p), DI_OK);
        EQUAL(di_problem_sr(ctx, 1, S, S, s, DI_SR_BICUBIC, &q), DI_OK);
        check_bicubic(p, s, x, a);
        fill(x, S * S, 61);
        di_apply(p, 1, x, a);
        di_apply(q, 1, x, b);
        for (int i = 0; i < n * n; i++) {
            int inside = i / n >= 2 && i / n < n - 2 && i % n >= 2 && i % n < n - 2;
            if (inside)
                NEAR(a[i], b[i], BOUND(2e-7, 1e-15));
            else
                differ += fabs(a[i] - b[i]) > 1e-3;
        }
        CHECK(differ > n);
    }
}

/* A = U S V^T: V orthogonal, |A x| = |S V^T x|, A A+ A = A. */
static void test_svd(di_problem *p)
{
    static di_real x[MOST], xt[MOST], back[MOST], s[MOST], out[MOST], z[MOST];
    static double want[MOST];
    size_t d = size3(p->x), m = size3(p->y);
    double sum = 0;
    in_case("svd of %s", p->name);
    fill(x, d, 62);
    EQUAL(di_svd_values(p, s), DI_OK);
    EQUAL(di_svd_vt(p, x, xt), DI_OK);
    EQUAL(di_svd_v(p, xt, back), DI_OK);
    for (size_t i = 0; i < d; i++) {
        want[i] = x[i];
        sum += (double)s[i] * xt[i] * s[i] * xt[i];
    }
    NEAR(worst(back, want, d), 0, BOUND(2e-6, 1e-13));
    NEAR(di_rms(xt, d), di_rms(x, d), BOUND(1e-6, 1e-13));
    di_apply(p, 1, x, out);
    NEAR(di_rms(out, m) * sqrt((double)m), sqrt(sum), BOUND(2e-6, 1e-12) * sqrt(sum));
    EQUAL(di_apply_pinv(p, 1, out, back), DI_OK);
    di_apply(p, 1, back, z);
    for (size_t i = 0; i < m; i++)
        want[i] = out[i];
    NEAR(worst(z, want, m), 0, BOUND(5e-6, 1e-12));
}

static void test_svds(void)
{
    di_problem *p;
    EQUAL(di_problem_sr(ctx, 3, 32, 48, 4, DI_SR_CUT, &p), DI_OK);
    test_svd(p);
    EQUAL(di_problem_colorize(ctx, 8, 12, &p), DI_OK);
    test_svd(p);
    di_real s[3 * 96];
    di_svd_values(p, s);
    NEAR(s[0], 0.57735, 1e-6);
    EQUAL(s[96], 0);
}

/* ---- HDR, JPEG, nonlinear blur ----------------------------------------------------------- */

static void test_hdr(void)
{
    static const double at[6] = { 0.5, -0.5, 0.5000001, -0.5000001, 0.25, 7 };
    static const double slope[6] = { 2, 2, 0, 0, 2, 0 }, value[6] = { 1, -1, 1, -1, 0.5, 1 };
    di_real x[6], out[6], ones[6] = { 1, 1, 1, 1, 1, 1 }, g[6];
    di_problem *p;
    in_case("hdr at its ends");
    EQUAL(di_problem_hdr(ctx, 1, 2, 3, 2, &p), DI_OK);
    for (int i = 0; i < 6; i++)
        x[i] = (di_real)at[i];
    di_apply(p, 1, x, out);
    di_apply_vjp(p, 1, x, ones, g);
    for (int i = 0; i < 6; i++) {
        EQUAL(out[i], value[i]);
        EQUAL(g[i], slope[i]);
        x[i] = i % 2 ? 1 : -1;
    }
    di_apply(p, 1, x, out);
    CHECK(same(x, out, 6)); /* +-1 stay */
    REFUSED(di_problem_hdr(ctx, 1, 2, 3, 0, &p), DI_EUSAGE, "scale=0 must be positive");
    REFUSED(di_problem_hdr(ctx, 1, 2, 3, NAN, &p), DI_EUSAGE, "must be positive");
}

static void test_jpeg(void)
{
    static di_real x[3 * 32 * 32], out[3 * 32 * 32], g[3 * 32 * 32];
    di_problem *p;
    in_case("jpeg");
    EQUAL(di_problem_jpeg(ctx, 32, 32, 100, &p), DI_OK);
    CHECK(p->vjp == NULL && p->pinv == NULL && !p->linear);
    for (int i = 0; i < 3 * 32 * 32; i++) /* steps of 1 in 255, chroma constant */
        x[i] = (di_real)((i % 1024 / 32 * 8 + i % 32) / 255.0 * 2 - 1);
    di_apply(p, 1, x, out);
    for (int i = 0; i < 3 * 32 * 32; i++) /* 64 coefficients off by 1/2 at the most */
        NEAR(out[i], x[i], 2 * 4.0 / 255);
    REFUSED(di_apply_vjp(p, 1, x, out, g), DI_EUSAGE, "problem jpeg has no derivative");
    REFUSED(di_problem_jpeg(ctx, 32, 40, 5, &p), DI_EUSAGE, "multiples of 16");
    REFUSED(di_problem_jpeg(ctx, 32, 32, 0, &p), DI_EUSAGE, "quality=0 must be 1..100");
    REFUSED(di_problem_jpeg(ctx, 32, 32, 101, &p), DI_EUSAGE, "quality=101");
    CHECK(p == NULL);
}

/* Outside [0.01, 1] the light does not change: no gradient there, its ends count as inside. */
static void test_nlblur(void)
{
    di_real one = 1, x[5] = { -1, (di_real)-0.98, 0, 1, (di_real)1.01 }, out[5], g[5];
    di_real ones[5] = { 1, 1, 1, 1, 1 };
    di_problem *p;
    in_case("nlblur without blur");
    EQUAL(di_problem_nlblur(ctx, 1, 1, 5, 1, 1, &one, &p), DI_OK);
    di_apply(p, 1, x, out);
    di_apply_vjp(p, 1, x, ones, g);
    NEAR(out[0], -0.98, 1e-6);
    NEAR(out[2], 0, 1e-6);
    NEAR(out[4], 1, 1e-6);
    EQUAL(g[0], 0);
    NEAR(g[2], 1, 1e-6);
    NEAR(g[3], 1, 1e-6);
    EQUAL(g[4], 0);
}

/* ---- Tilt -------------------------------------------------------------------------------- */

static void test_tilt(void)
{
    enum { H = 9, W = 13 };
    static const double shift[3] = { 0, 1, 0.5 };
    di_real one = 1, t[2 * H * W] = { 0 }, x[H * W], out[H * W];
    di_problem *p;
    fill(x, H * W, 63);
    for (int k = 0; k < 3; k++) {
        in_case("tilt by %g", shift[k]);
        for (int i = 0; i < H * W; i++)
            t[i] = (di_real)shift[k];
        EQUAL(di_problem_turbulence(ctx, 1, H, W, 1, 1, &one, t, &p), DI_OK);
        di_apply(p, 1, x, out);
        for (int i = 0; i < H * W; i++) {
            double next = i % W == W - 1 ? 0 : x[i + 1];
            NEAR(out[i], (1 - shift[k]) * x[i] + shift[k] * next, BOUND(1e-7, 1e-16));
        }
    }
    in_case("tilt out of the image");
    for (int i = 0; i < H * W; i++)
        t[i] = (di_real)(i % 2 ? 1e30 : -50);
    EQUAL(di_problem_turbulence(ctx, 1, H, W, 1, 1, &one, t, &p), DI_OK);
    di_apply(p, 1, x, out);
    for (int i = 0; i < H * W; i++)
        EQUAL(out[i], 0);
    t[W + 2] = NAN;
    REFUSED(di_problem_turbulence(ctx, 1, H, W, 1, 1, &one, t, &p), DI_EINPUT,
            "tilt holds NaN or infinity at row 1, column 2");
}

/* DMPlug's generator with our numbers for its random ones. */
static void test_tilt_map(void)
{
    enum { S = 96, HALF = 32, N = 2 * 4 * HALF * HALF };
    double *sum = calloc(2 * S * S, sizeof *sum);
    di_real *normal = malloc(N * sizeof *normal);
    static di_real cut[2 * 16 * 16];
    if (!CHECK(sum && normal))
        return;
    for (size_t i = 0; i < 500; i++) {
        double r[3];
        for (size_t k = 0; k < 3; k++)
            r[k] = (value_at(3 * i + k, 7) + 1) / 2;
        for (size_t k = 0; k < N; k++)
            normal[k] = (di_real)value_at(i * N + k, 8);
        CHECK(make_tilt_patch(sum, S, S, HALF, HALF + (int)(r[0] * 32), HALF + (int)(r[1] * 32),
                              0.1 + 0.3 * r[2], normal) == 0);
    }
    for (int i = 0; i < 512; i++) {
        double t = sum[i / 256 * S * S + (40 + i % 256 / 16) * S + 40 + i % 16];
        cut[i] = (di_real)(t < -2.5 ? -2.5 : t > 2.5 ? 2.5 : t);
    }
    agrees("tilt_map", cut, 512, 1e-6, 1e-12);
    free(sum);
    free(normal);
}

/* ---- Motion kernels ---------------------------------------------------------------------- */

static size_t load_path(const char *name, double (*xy)[2])
{
    io_array a;
    if (load(name, &a))
        return 0;
    size_t n = a.h;
    EQUAL(a.w, 2);
    for (size_t i = 0; i < 2 * n; i++)
        xy[i / 2][i % 2] = a.v[i];
    io_free(&a);
    return n;
}

/* Given the path, every byte of every stage is Pillow's. In float the path is rounded to
   float32, which moves no vertex over a pixel's border in these. */
static void test_motion_official(void)
{
    static const struct { const char *name; int size; } at[] = {
        { "motion_61", 61 }, { "motion_61b", 61 }, { "motion_61c", 61 }, { "motion_61d", 61 },
        { "motion_64", 64 }, { "motion_15", 15 }, { "motion_90", 90 } };
    static double xy[400][2];
    static unsigned char canvas[180 * 180], work[180 * 180], grey[90 * 90], want[180 * 180];
    for (size_t k = 0; k < sizeof at / sizeof *at; k++) {
        char name[40];
        size_t count = (size_t)at[k].size * (size_t)at[k].size;
        snprintf(name, sizeof name, "%s.path", at[k].name);
        in_case("%s", at[k].name);
        int n = (int)load_path(name, xy);
        CHECK(n > 0 && make_motion_grey(at[k].size, xy, n, grey) == 0);
        snprintf(name, sizeof name, "%s.grey", at[k].name);
        EQUAL(load_bytes(name, want, sizeof want), count);
        CHECK(memcmp(grey, want, count) == 0);
        if (k)
            continue;
        make_motion_draw(canvas, 122, xy, n);
        EQUAL(load_bytes("motion_61.line", want, sizeof want), 122 * 122);
        CHECK(memcmp(canvas, want, 122 * 122) == 0);
        make_motion_soften(canvas, 122, 1, work);
        EQUAL(load_bytes("motion_61.soft", want, sizeof want), 122 * 122);
        CHECK(memcmp(canvas, want, 122 * 122) == 0);
        make_motion_halve(canvas, 122, grey, work);
        EQUAL(load_bytes("motion_61.grey", want, sizeof want), 61 * 61);
        CHECK(memcmp(grey, want, 61 * 61) == 0);
    }
}

/* A vertical line; three passes of 42, 170, 42 over it, computed here. */
static void test_motion_by_hand(void)
{
    enum { S = 40 };
    double xy[2][2] = { { 20.9, -3.5 }, { 20.2, 31.7 } };
    unsigned char canvas[S * S], work[S * S];
    int row[S] = { 0 }, old[S];
    in_case("a vertical line");
    make_motion_draw(canvas, S, xy, 2);
    for (int i = 0; i < S * S; i++)
        EQUAL(canvas[i], i % S == 20 && i / S <= 31 ? 255 : 0);
    row[20] = 255;
    for (int pass = 0; pass < 3; pass++) { /* thirds and sixths in whole numbers of 2^-24 */
        memcpy(old, row, sizeof old);
        for (int i = 1; i + 1 < S; i++)
            row[i] = (int)floor((old[i] * 11184811. + (old[i - 1] + old[i + 1]) * 2796202.)
                                / 16777216 + 0.5);
        if (pass)
            continue;
        EQUAL(row[19], 42);
        EQUAL(row[20], 170);
        EQUAL(row[21], 42);
    }
    make_motion_soften(canvas, S, 1, work);
    for (int i = 0; i < S; i++)
        EQUAL(canvas[10 * S + i], row[i]);
}

/* Distance of (x,y) from the path. */
static double from_path(double (*xy)[2], int n, double x, double y0)
{
    double least = hypot(xy[0][0] - x, xy[0][1] - y0);
    for (int i = 0; i + 1 < n; i++) {
        double dx = xy[i + 1][0] - xy[i][0], dy = xy[i + 1][1] - xy[i][1];
        double at = ((x - xy[i][0]) * dx + (y0 - xy[i][1]) * dy) / (dx * dx + dy * dy);
        at = at < 0 ? 0 : at > 1 ? 1 : at;
        least = fmin(least, hypot(xy[i][0] + at * dx - x, xy[i][1] + at * dy - y0));
    }
    return least;
}

static void test_motion_paths(void)
{
    static double xy[8192][2], again[8192][2];
    static unsigned char grey[64 * 64];
    double lengths = 0, nonzero = 0;
    for (uint64_t seed = 0; seed < 200; seed++) {
        int n = make_motion_path(61, 0.5, seed, xy, 8192), sum = 0, used = 0, near = 0;
        double mx = 0, my = 0, length = 0;
        in_case("path %d", (int)seed);
        CHECK(n > 0 && n < 400);
        CHECK(make_motion_path(61, 0.5, seed, again, 8192) == n);
        CHECK(memcmp(xy, again, (size_t)n * sizeof *xy) == 0);
        for (int i = 0; i < n; i++) {
            mx += xy[i][0] / n;
            my += xy[i][1] / n;
            if (i)
                length += hypot(xy[i][0] - xy[i - 1][0], xy[i][1] - xy[i - 1][1]);
        }
        NEAR(mx, 61, 1e-9);
        NEAR(my, 61, 1e-9);
        CHECK(length < 0.75 * 172.6 * 1.25 + 103.6);
        CHECK(make_motion_grey(61, xy, n, grey) == 0);
        for (int i = 0; i < 61 * 61; i++) {
            sum += grey[i];
            used += grey[i] > 0;
            if (!grey[i])
                continue;
            double least = from_path(xy, n, 2 * (i % 61) + 1, 2 * (i / 61) + 1);
            near += least < 12; /* halving reaches 6, softening 3, a pixel 1, the corners */
        }
        CHECK(sum > 0);
        EQUAL(near, used);
        lengths += length / 200;
        nonzero += used / 200.0;
    }
    figure("mean length of 200 paths, canvas pixels", lengths);
    figure("mean number of taps", nonzero);
    /* E = 0.75 D (1/2 + 1/8) and half a step over, less the first step, which is not drawn. */
    NEAR(lengths, 0.75 * 172.53 * 0.625, 8);
}

/* ---- Noise ------------------------------------------------------------------------------- */

static void test_poisson(void)
{
    static const double mean[] = { 0.3, 4, 29.9, 30, 153, 255, 4000 };
    enum { N = 160000 };
    for (size_t k = 0; k < sizeof mean / sizeof *mean; k++) {
        double sum = 0, square = 0, cube = 0, m = mean[k];
        in_case("Poisson of mean %g", m);
        for (size_t i = 0; i < N; i++) {
            double d = make_poisson(m, i, 3, 1) - m;
            sum += d / N;
            square += d * d / N;
            cube += d * d * d / N;
        }
        NEAR(sum, 0, 4 * sqrt(m / N));
        NEAR(square, m, 4 * sqrt((2 * m * m + m) / N));
        NEAR(cube, m, 4 * sqrt((15 * m * m * m + 25 * m * m + m) / N));
        EQUAL(make_poisson(m, 7, 3, 1), make_poisson(m, 7, 3, 1));
    }
    in_case("Poisson of small means, exact shares");
    int hit[12] = { 0 };
    for (size_t i = 0; i < N; i++) {
        int n = (int)make_poisson(4, i, 9, 0);
        hit[n < 11 ? n : 11]++;
    }
    double share = exp(-4);
    for (int n = 0; n < 11; n++) {
        NEAR(hit[n], N * share, 4 * sqrt(N * share));
        share *= 4.0 / (n + 1);
    }
    in_case("Poisson of mean 40, exact shares"); /* the rejection method */
    int at[80] = { 0 };
    for (size_t i = 0; i < N; i++) {
        int n = (int)make_poisson(40, i, 9, 0);
        at[n < 79 ? n : 79]++;
    }
    share = exp(-40);
    for (int n = 0; n < 79; n++) {
        NEAR(at[n], N * share, 4.5 * sqrt(N * share) + 1);
        share *= 40.0 / (n + 1);
    }
}

/* Noise `kind` on a flat grey of p = 0.6: mean and deviation in [-1,1] units. */
static void noise_of(const char *kind, const char *level, double *mean, double *dev,
                     di_real *out, int n)
{
    make_spec spec;
    di_problem *p;
    int side = (int)sqrt(n);
    EQUAL(make_begin(ctx, &spec, "denoise"), DI_OK);
    EQUAL(make_set(ctx, &spec, "noise", kind), DI_OK);
    EQUAL(make_set(ctx, &spec, "level", level), DI_OK);
    EQUAL(di_problem_denoise(ctx, 1, side, side, &p), DI_OK);
    for (int i = 0; i < n; i++)
        out[i] = (di_real)0.2;
    EQUAL(make_noise(ctx, &spec, p, 5, 0, out), DI_OK);
    *mean = *dev = 0;
    for (int i = 0; i < n; i++)
        *mean += out[i] / (double)n;
    for (int i = 0; i < n; i++)
        *dev += (out[i] - *mean) * (out[i] - *mean) / n;
    *dev = sqrt(*dev);
}

static void test_noise(void)
{
    enum { N = 400 * 400 };
    static di_real out[N];
    double mean, dev;
    in_case("noise");
    noise_of("poisson", "low", &mean, &dev, out, N);
    NEAR(mean, 0.2, 4 * 0.097 / 400);
    NEAR(dev, 0.0970, 4 * 0.097 / 565);
    for (int i = 0; i < N; i++) { /* whole numbers of 1/255, in [-1,1] */
        double level = (out[i] + 1.0) / 2 * 255;
        CHECK(out[i] >= -1 && out[i] <= 1 && fabs(level - rint(level)) < 1e-4);
    }
    noise_of("shot", "high", &mean, &dev, out, N); /* 2 sqrt(0.6/25), a little clipped at 1 */
    NEAR(dev, 2 * sqrt(0.6 / 25), 0.01);
    noise_of("shot", "low", &mean, &dev, out, N);
    NEAR(dev, 0.2, 0.002);
    noise_of("speckle", "low", &mean, &dev, out, N);
    NEAR(mean, 0.2, 0.002);
    NEAR(dev, 0.18, 0.002);
    noise_of("speckle", "high", &mean, &dev, out, N);
    NEAR(dev, 0.24, 0.004);
    for (int high = 0; high < 2; high++) {
        int white = 0, black = 0, kept = 0;
        noise_of("impulse", high ? "high" : "low", &mean, &dev, out, N);
        for (int i = 0; i < N; i++) {
            white += out[i] == 1;
            black += out[i] == -1;
            kept += fabs(out[i] - 0.2) < 1e-6;
        }
        EQUAL(white + black + kept, N);
        NEAR(white, (high ? 0.03 : 0.015) * N, 4 * sqrt(0.03 * N));
        NEAR(black, (high ? 0.03 : 0.015) * N, 4 * sqrt(0.03 * N));
    }
    noise_of("gaussian", "low", &mean, &dev, out, N);
    NEAR(dev, 0.05, 0.0005);
    in_case("noise on NaN stays finite");
    make_spec spec;
    di_problem *p;
    make_begin(ctx, &spec, "denoise");
    make_set(ctx, &spec, "noise", "poisson");
    di_problem_denoise(ctx, 1, 1, 1, &p);
    out[0] = NAN;
    EQUAL(make_noise(ctx, &spec, p, 5, 0, out), DI_OK);
    CHECK(di_finite(out, 1));
}

/* ---- Masks (counts and places) and marks ------------------------------------------------- */

static void test_mask_draws(void)
{
    static di_real m[256 * 256];
    int missing = 0, least = 256, most = 0;
    in_case("masks");
    EQUAL(make_mask(ctx, "random:0.7", "center", "auto", 0, 256, 256, m), DI_OK);
    for (int i = 0; i < 256 * 256; i++)
        missing += m[i] == 0;
    EQUAL(missing, 45875);
    for (uint64_t seed = 0; seed < 3000; seed++) { /* 16 kept free: 16..111 */
        EQUAL(make_mask(ctx, "box:128", "rand", "auto", seed, 256, 256, m), DI_OK);
        int t = 0;
        while (m[t * 256 + 128] == 1)
            t++;
        least = t < least ? t : least;
        most = t > most ? t : most;
    }
    EQUAL(least, 16);
    EQUAL(most, 111);
}

static void test_marks(void)
{
    enum { S = 32 };
    static di_real a[S * S], b[S * S];
    in_case("metrics");
    for (int i = 0; i < S * S; i++) {
        a[i] = (di_real)(0.7 * value_at((size_t)i, 70));
        b[i] = (di_real)(a[i] + 0.2); /* 0.1 on [0,1] */
    }
    NEAR(di_psnr(a, b, S * S), 20, 1e-5);
    NEAR(pic_psnr_piq(a, b, S * S), 20, 1e-4);
    NEAR(pic_psnr_piq(a, a, S * S), 80, 1e-9);
    NEAR(pic_ssim(a, a, 1, S, S), 1, 1e-12);
    NEAR(pic_ssim_piq(a, a, 1, S, S), 1, 1e-12);
    fill(b, S * S, 71);
    NEAR(pic_ssim(a, b, 1, S, S), pic_ssim(b, a, 1, S, S), 1e-12);
    NEAR(pic_ssim_piq(a, b, 1, S, S), pic_ssim_piq(b, a, 1, S, S), 1e-12);
    CHECK(pic_ssim(a, b, 1, S, S) < 0.5);
}

/* ---- The same bits everywhere ------------------------------------------------------------ */

#ifndef DI_DOUBLE
static uint32_t map_crc(const di_problem *p)
{
    uint32_t crc;
    fill(u, size3(p->x), 80);
    fill(v, size3(p->y), 81);
    fill(theta, p->extra, 82);
    di_apply(p, 1, u, y);
    crc = io_crc32(0, y, size3(p->y) * sizeof *y);
    if (p->vjp) {
        di_apply_vjp(p, 1, u, v, gx);
        crc = io_crc32(crc, gx, size3(p->x) * sizeof *gx);
    }
    if (p->extra) {
        p->apply_with(p, u, theta, y);
        p->vjp_with(p, u, theta, v, gx, gtheta);
        crc = io_crc32(crc, y, size3(p->y) * sizeof *y);
        crc = io_crc32(crc, gx, size3(p->x) * sizeof *gx);
        crc = io_crc32(crc, gtheta, p->extra * sizeof *gtheta);
    }
    return crc;
}

/* Written by gcc on x86-64: any compiler, any number of threads. */
static void test_bits(void)
{
    static const struct { const char *name, *key[3], *value[3]; uint32_t crc; } at[] = {
        { "motion", { "size", NULL, NULL }, { "31", NULL, NULL }, 0x17a46636 },
        { "motion", { "size", "kernel", "std" }, { "15", "gaussian", "2" }, 0xeaa80923 },
        { "nlblur", { "pseed", NULL, NULL }, { "1", NULL, NULL }, 0x2939fd65 },
        { "blind", { "size", NULL, NULL }, { "32", NULL, NULL }, 0x210e6f07 },
        { "turbulence", { "size", "kernel", "pseed" }, { "32", "motion", "2" }, 0xed2d5085 },
        { "hdr", { NULL, NULL, NULL }, { NULL, NULL, NULL }, 0x5fa21a93 },
        { "colorize", { NULL, NULL, NULL }, { NULL, NULL, NULL }, 0x22309ea5 },
        { "jpeg", { "quality", NULL, NULL }, { "40", NULL, NULL }, 0x1efd7878 },
        { "sr", { "kind", NULL, NULL }, { "cut", NULL, NULL }, 0xe121ac3e } };
    static const struct { const char *kind, *level; uint32_t crc; } noise[] = {
        { "gaussian", "low", 0x6a42fbcb }, { "poisson", "low", 0xb37b6af8 },
        { "shot", "high", 0xd9f951e8 },
        { "speckle", "low", 0x2cc66b01 }, { "impulse", "high", 0x05698516 } };
    for (size_t k = 0; k < sizeof at / sizeof *at; k++)
        for (int threads = 1; threads <= 3; threads += 2) {
            make_spec spec;
            di_problem *p;
            in_case("bits of %s, %d threads", at[k].name, threads);
            di_set_threads(ctx, threads);
            EQUAL(make_begin(ctx, &spec, at[k].name), DI_OK);
            for (int i = 0; i < 3 && at[k].key[i]; i++)
                EQUAL(make_set(ctx, &spec, at[k].key[i], at[k].value[i]), DI_OK);
            EQUAL(make_problem(ctx, &spec, 3, 32, 48, &p), DI_OK);
            EQUAL(map_crc(p), at[k].crc);
        }
    for (size_t k = 0; k < sizeof noise / sizeof *noise; k++) {
        double mean, dev;
        in_case("bits of noise %s", noise[k].kind);
        noise_of(noise[k].kind, noise[k].level, &mean, &dev, y, 64 * 64);
        EQUAL(io_crc32(0, y, 64 * 64 * sizeof *y), noise[k].crc);
    }
}
#endif

static void test_refusals(void)
{
    static di_real k[64 * 64];
    di_problem *p;
    in_case("kernels refused");
    kernel(8, 8, 0);
    memcpy(k, kernel_of, 64 * sizeof *k);
    REFUSED(di_problem_blur(ctx, 1, 7, 9, 8, 8, k, DI_BORDER_ZERO, &p), DI_EINPUT,
            "kernel of 8x8 does not fit the image of 7x9");
    CHECK(p == NULL);
    REFUSED(di_problem_blur(ctx, 1, 9, 9, 0, 8, k, DI_BORDER_ZERO, &p), DI_EINPUT, "0x8");
    k[11] = NAN;
    REFUSED(di_problem_blind(ctx, 1, 9, 9, 8, 8, k, &p), DI_EINPUT,
            "NaN or infinity at row 1, column 3");
    k[11] = (di_real)-0.5;
    REFUSED(di_problem_blind(ctx, 1, 9, 9, 8, 8, k, &p), DI_EINPUT,
            "-0.5 at row 1, column 3; a blur kernel is not negative");
    REFUSED(di_problem_nlblur(ctx, 1, 9, 9, 8, 8, k, &p), DI_EINPUT, "not negative");
    EQUAL(di_problem_blur(ctx, 1, 9, 9, 8, 8, k, DI_BORDER_ZERO, &p), DI_OK);
    memset(k, 0, sizeof k);
    REFUSED(di_problem_nlblur(ctx, 1, 9, 9, 8, 8, k, &p), DI_EINPUT, "all zero");
    CHECK(p == NULL);
    REFUSED(di_problem_colorize(ctx, 0, 9, &p), DI_EUSAGE, "impossible");
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    EQUAL(di_open(&ctx, NULL, NULL), DI_OK);
    test_adjoints();
    test_directions();
    test_kernel_adjoint();
    test_official();
    test_official_hidden();
    test_orientation();
    test_cut();
    test_svds();
    test_hdr();
    test_jpeg();
    test_nlblur();
    test_tilt();
    test_tilt_map();
    test_motion_official();
    test_motion_by_hand();
    test_motion_paths();
    test_poisson();
    test_noise();
    test_mask_draws();
    test_marks();
    test_refusals();
#ifndef DI_DOUBLE
    test_bits();
#endif
    di_close(ctx);
    return finish();
}
