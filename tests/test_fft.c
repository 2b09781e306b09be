/* test_fft.c: the Fourier transform against the sum it stands for, and its laws. */
#define DIFFINV_KERNELS
#include "check.h"

#include <stdlib.h>

static di_ctx *ctx;
static const double PI2 = 6.28318530717958647693;

/* Worst error over the largest value: some roundings for every pass. */
static double bound(int n) { return BOUND(4e-7, 1e-15) * (1 + log2(n)); }

/* All signals of a strided array, and only they, against the O(n^2) sum in double. */
static void test_lengths(void)
{
    static const int length[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 20, 25, 30, 49, 64,
                                  77, 96, 97, 121, 128, 320, 384 };
    enum { SIGNALS = 19, STEP = SIGNALS + 2 };
    for (size_t c = 0; c < sizeof length / sizeof *length; c++) {
        int n = length[c];
        di_fft *f = di_fft_new(ctx, n);
        size_t size = (size_t)n * STEP;
        di_real *re = malloc(4 * size * sizeof *re), *im = re + size, *x = im + size;
        di_real *work = malloc(di_fft_work(f) * sizeof *work);
        for (int sign = -1; sign <= 1; sign += 2) {
            in_case("length %d, sign %d", n, sign);
            double far = 0, top = 0;
            fill(re, 2 * size, 3);
            memcpy(x, re, 2 * size * sizeof *x);
            di_fft_run(f, sign, SIGNALS, (di_real)0.5, re, im, STEP, 1, work);
            for (int l = 0; l < STEP; l++)
                for (int k = 0; k < n; k++) {
                    double sr = 0, si = 0;
                    for (int j = 0; l < SIGNALS && j < n; j++) {
                        double t = sign * PI2 * ((long)j * k % n) / n;
                        double a = x[(size_t)j * STEP + l], b = x[size + (size_t)j * STEP + l];
                        sr += (a * cos(t) - b * sin(t)) / 2;
                        si += (a * sin(t) + b * cos(t)) / 2;
                    }
                    size_t at = (size_t)k * STEP + l;
                    if (l >= SIGNALS) {
                        sr = x[at];
                        si = x[size + at];
                    }
                    far = larger(far, larger(fabs(re[at] - sr), fabs(im[at] - si)));
                    top = larger(top, larger(fabs(sr), fabs(si)));
                }
            NEAR(far / top, 0, bound(n));
            if (n == 384 || n == 97)
                figure(where, far / top);
        }
        free(re);
        free(work);
        di_fft_free(f);
    }
}

/* Signals next to each other (rows) and side by side (columns): the same bits. */
static void test_strides(void)
{
    enum { N = 60, COUNT = 21 };
    static di_real a[2][COUNT][N], b[2][N][COUNT], work[8192];
    di_fft *f = di_fft_new(ctx, N);
    in_case("strides");
    fill(a[0][0], 2 * COUNT * N, 5);
    for (int l = 0; l < COUNT; l++)
        for (int k = 0; k < N; k++) {
            b[0][k][l] = a[0][l][k];
            b[1][k][l] = a[1][l][k];
        }
    di_fft_run(f, -1, COUNT, 1, a[0][0], a[1][0], 1, N, work);
    di_fft_run(f, -1, COUNT, 1, b[0][0], b[1][0], COUNT, 1, work);
    for (int l = 0; l < COUNT; l++)
        for (int k = 0; k < N; k++)
            CHECK(a[0][l][k] == b[0][k][l] && a[1][l][k] == b[1][k][l]);
    di_fft_free(f);
}

/* Two dimensions, any number of lanes, even and odd sides: the transform and its inverse are the
   identity, Parseval's sum, and the real one is half of the complex one. */
static void test_plane(int h, int w, size_t lanes)
{
    di_fft *fh = di_fft_new(ctx, h), *fw = di_fft_new(ctx, w);
    size_t size = (size_t)h * w * lanes, wh = (size_t)w / 2 + 1, half = h * wh * lanes;
    size_t need = di_fft_work(fh) > di_fft_work(fw) ? di_fft_work(fh) : di_fft_work(fw);
    di_real *re = malloc((4 * size + 2 * half + need) * sizeof *re), *im = re + size;
    di_real *x = im + size, *back = x + size, *hr = back + size, *hi = hr + half;
    di_real *work = hi + half;
    double far = 0, tol = bound(h * w), space = 0, sum = 0, round = 0;
    in_case("%dx%d, %d lanes", h, w, (int)lanes);
    fill(x, size, 7);
    memcpy(re, x, size * sizeof *x);
    memset(im, 0, size * sizeof *x);
    di_fft2(fh, fw, -1, lanes, 1, re, im, work);
    di_fft2_real(fh, fw, lanes, x, hr, hi, work);
    for (size_t i = 0; i < half; i++) {
        size_t at = i / (wh * lanes) * w * lanes + i % (wh * lanes);
        far = larger(far, larger(fabs(hr[i] - re[at]), fabs(hi[i] - im[at])));
    }
    NEAR(far, 0, tol * sqrt(size / lanes));
    for (size_t i = 0; i < size; i++) {
        space += (double)x[i] * x[i];
        sum += ((double)re[i] * re[i] + (double)im[i] * im[i]) / ((double)h * w);
    }
    NEAR(sum / space, 1, BOUND(tol, 1e-12)); /* two plain sums of size terms */
    di_fft2_real_back(fh, fw, lanes, (di_real)(1.0 / ((double)h * w)), hr, hi, back, work);
    di_fft2(fh, fw, 1, lanes, (di_real)(1.0 / ((double)h * w)), re, im, work);
    for (size_t i = 0; i < size; i++) {
        round = larger(round, fabs(back[i] - x[i]));
        round = larger(round, larger(fabs(re[i] - x[i]), fabs(im[i])));
    }
    NEAR(round, 0, 2 * tol);
    free(re);
    di_fft_free(fh);
    di_fft_free(fw);
}

/* A pulse has a flat spectrum, a shifted one a phase; a constant is a pulse. Exactly, where
   the roots are. */
static void test_pulse(void)
{
    enum { N = 16 };
    di_real re[N] = { 0 }, im[N] = { 0 }, work[4 * 16 * N];
    di_fft *f = di_fft_new(ctx, N);
    in_case("pulse");
    re[0] = 1;
    di_fft_run(f, -1, 1, 1, re, im, 1, 1, work);
    for (int k = 0; k < N; k++)
        CHECK(re[k] == 1 && im[k] == 0);
    di_fft_run(f, -1, 1, 1, re, im, 1, 1, work);
    for (int k = 0; k < N; k++)
        CHECK(re[k] == (k ? 0 : N) && im[k] == 0);
    memset(re, 0, sizeof re);
    memset(im, 0, sizeof im);
    re[3] = 1;
    di_fft_run(f, -1, 1, 1, re, im, 1, 1, work);
    for (int k = 0; k < N; k++) {
        NEAR(re[k], cos(PI2 * (3 * k % N) / N), BOUND(2e-7, 1e-15));
        NEAR(im[k], -sin(PI2 * (3 * k % N) / N), BOUND(2e-7, 1e-15));
    }
    di_fft_free(f);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    EQUAL(di_open(&ctx, NULL, NULL), DI_OK);
    test_lengths();
    test_strides();
    test_pulse();
    static const int side[][2] = { { 8, 8 }, { 5, 6 }, { 6, 5 }, { 7, 9 }, { 1, 4 }, { 4, 1 },
                                   { 96, 96 }, { 40, 34 }, { 33, 70 } };
    for (size_t i = 0; i < sizeof side / sizeof *side; i++)
        for (size_t lanes = 1; lanes <= 17; lanes = lanes < 3 ? lanes + 1 : lanes * 2 - 1)
            test_plane(side[i][0], side[i][1], lanes);
    CHECK(di_fft_new(ctx, 0) == NULL);
    SAYS(di_error(ctx), "length 0");
    di_clear(ctx);
    size_t bytes = di_bytes(ctx);
    di_fft *f = di_fft_new(ctx, 100);
    di_fft_free(f);
    EQUAL(di_bytes(ctx), bytes);
    di_close(ctx);
    return finish();
}
