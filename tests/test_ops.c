/* test_ops.c: the numeric floor. Elementary functions and random numbers against published and
   libm values; each tape operation and its derivative against the formulas written out plainly
   in double, and bit for bit across instruction sets and thread counts; memory. */
#define DIFFINV_KERNELS
#include "check.h"

#include <stdlib.h>

/* ---- Elementary functions ---------------------------------------------------------------- */

/* |got - want| in units of want's last place in double. */
static double ulps(double got, long double want)
{
    int e;
    if (got == (double)want)
        return 0;
    frexp((double)want, &e);
    return (double)fabsl(got - want) / ldexp(1, e - 53 < -1074 ? -1074 : e - 53);
}

static double keep(double most, double next)
{
    return next <= most ? most : next == next ? next : HUGE_VAL;
}

static void test_exp_log(void)
{
    double most = 0;
    for (int i = 0; i < 200000; i++) {
        double x = value_at(i, 1), y = 745.13 * x;
        if (y < 709.78)
            most = keep(most, ulps(di_exp(y), expl(y)));
        most = keep(most, ulps(di_exp(x), expl(x)));
        most = keep(most, ulps(di_exp(ldexp(x, -i % 60)), expl(ldexp(x, -i % 60))));
    }
    in_case("exp");
    NEAR(most, 0, 2);
    figure("exp, ulp", most);
    EQUAL(di_exp(0), 1);
    EQUAL(di_exp(-746), 0);
    EQUAL(di_exp(-HUGE_VAL), 0);
    EQUAL(di_exp(710), HUGE_VAL);
    EQUAL(di_exp(HUGE_VAL), HUGE_VAL);
    EQUAL(di_exp(-745.13), 4.9406564584124654e-324);
    CHECK(di_exp(709.782712893384) < HUGE_VAL);
    CHECK(di_exp(NAN) != di_exp(NAN));

    most = 0;
    for (int i = 0; i < 200000; i++) {
        double m = 1 + value_at(i, 2) / 2, x = ldexp(m, i % 2096 - 1074); /* and subnormals */
        most = keep(most, ulps(di_log(x), logl(x)));
        most = keep(most, ulps(di_log(m), logl(m)));
        double near_1 = 1 + ldexp(m - 1, -i % 52);
        most = keep(most, ulps(di_log(near_1), logl(near_1)));
    }
    in_case("log");
    NEAR(most, 0, 2);
    figure("log, ulp", most);
    EQUAL(di_log(1), 0);
    EQUAL(di_log(0), -HUGE_VAL);
    EQUAL(di_log(HUGE_VAL), HUGE_VAL);
    NEAR(ulps(di_log(1.7976931348623157e308), logl(1.7976931348623157e308L)), 0, 2);
    NEAR(ulps(di_log(4.9406564584124654e-324), logl(4.9406564584124654e-324)), 0, 2);
    CHECK(di_log(-1) != di_log(-1) && di_log(NAN) != di_log(NAN));
}

static void test_sin_cos(void)
{
    double most = 0;
    for (int i = 0; i < 200000; i++) {
        double x[4], v = value_at(i, 3);
        x[0] = 1e6 * v;
        x[1] = ldexp(v, 20 - i % 60);
        x[2] = (double)(1.57079632679489661923L * (i * 3 + 1)); /* beside the zeros */
        x[3] = x[2] * (1 + ldexp(v, -i % 52));
        for (int k = 0; k < 4; k++) {
            if (fabs(x[k]) > 1e6)
                continue;
            most = keep(most, ulps(di_sin(x[k]), sinl(x[k])));
            most = keep(most, ulps(di_cos(x[k]), cosl(x[k])));
        }
    }
    in_case("sin, cos");
    NEAR(most, 0, 2);
    figure("sin and cos, ulp", most);
    EQUAL(di_sin(0), 0);
    EQUAL(di_cos(0), 1);
}

static void test_parse(void)
{
    static const struct { const char *text; double value; } good[] = {
        { "0", 0 }, { "-0", 0 }, { "7", 7 }, { "+7", 7 }, { "1.5", 1.5 }, { ".5", 0.5 },
        { "5.", 5 }, { "0.1", 0.1 }, { "1e-3", 1e-3 }, { "1E+3", 1e3 }, { "-2.5e-7", -2.5e-7 },
        { "0.000100", 1e-4 }, { "1e22", 1e22 }, { "1e-22", 1e-22 }, { "0e5", 0 },
        { "123456789012345", 123456789012345 }, { "0.02", 0.02 }, { "100e-2", 1 },
        { "3.14159265358979", 3.14159265358979 }, { "1234567890123450", 1234567890123450 },
        { "0.10000000000000000000", 0.1 }, { "9.99999999999999e22", 9.99999999999999e22 } };
    static const char *const bad[] = { "", " ", "-", "+", ".", "e5", "1e", "1e+", "1e5x", " 1",
        "1 ", "1,5", "1.2.3", "--1", "0x10", "inf", "nan", "NaN", "1_0", "1e23", "1e-23",
        "1e400", "1e99999999999", "1234567890123456", "0.1234567890123456" };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        double v = -1;
        in_case("parse \"%s\"", good[i].text);
        EQUAL(di_parse(good[i].text, strlen(good[i].text), &v), 0);
        EQUAL(v, good[i].value);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        double v = 77;
        in_case("parse \"%s\"", bad[i]);
        CHECK(di_parse(bad[i], strlen(bad[i]), &v) != 0);
        EQUAL(v, 77);
    }
    double v = 0;
    in_case("parse a part");
    EQUAL(di_parse("12,5", 2, &v), 0);
    EQUAL(v, 12);
}

/* ---- Random numbers and reductions ------------------------------------------------------- */

/* The generator's published known answers: counter 0 and key 0, all ones, digits of pi. */
static void test_philox(void)
{
    static const struct { uint32_t counter[4]; uint64_t seed; uint32_t out[4]; } known[] = {
        { { 0, 0, 0, 0 }, 0, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
        { { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff }, 0xffffffffffffffffu,
          { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
        { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 }, 0x299f31d0a4093822u,
          { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } } };
    for (int i = 0; i < 3; i++) {
        uint32_t out[4];
        in_case("philox vector %d", i);
        di_philox(known[i].seed, known[i].counter, out);
        for (int k = 0; k < 4; k++)
            EQUAL(out[k], known[i].out[k]);
    }
    uint32_t counter[4] = { 25, 9, 3 | 5 << 8, 8 }, out[4];
    in_case("the counter of element 4*25+2: (25, draw 9, stream 3 | high 5, sample low 8)");
    di_philox(77, counter, out);
    EQUAL(di_bits(102, 77, 3, (uint64_t)5 << 32 | 8, 9), out[2]);
}

/* The law: moments within 4 standard errors of their sampling distributions. */
static void test_normal_law(di_ctx *ctx)
{
    const size_t n = 1000000;
    di_real *z = di_new(ctx, n, sizeof *z);
    double m = 0, m2 = 0, m4 = 0, next = 0, far = 0;
    di_normal(z, n, 1, DI_STREAM_SOLVER, 0, 0);
    for (size_t i = 0; i < n; i++) {
        m += z[i];
        m2 += (double)z[i] * z[i];
        m4 += (double)z[i] * z[i] * z[i] * z[i];
        next += i ? (double)z[i] * z[i - 1] : 0;
        far = fabs(z[i]) > far ? fabs(z[i]) : far;
    }
    in_case("di_normal");
    NEAR(m / n, 0, 4 * sqrt(1.0 / n));
    NEAR(m2 / n, 1, 4 * sqrt(2.0 / n));
    NEAR(m4 / n, 3, 4 * sqrt(96.0 / n));
    NEAR(next / n, 0, 4 * sqrt(1.0 / n));
    CHECK(far > 4.5 && far < 6.78);
    di_free(ctx, z);
}

static void test_normal(void)
{
    enum { N = 203 };
    di_real z[N], part[N];
    di_normal(z, N, 5, DI_STREAM_INIT, 6, 7);
    for (size_t n = 0; n <= N; n++) { /* a shorter array is a prefix */
        in_case("di_normal, %d of %d", (int)n, N);
        di_normal(part, n, 5, DI_STREAM_INIT, 6, 7);
        CHECK(same(part, z, n));
    }
    for (size_t i = 0; i < N; i += 2) { /* Box-Muller on the generator's words */
        double u = (di_bits(i, 5, DI_STREAM_INIT, 6, 7) + 0.5) / 4294967296.0;
        double v = (di_bits(i + 1, 5, DI_STREAM_INIT, 6, 7) + 0.5) / 4294967296.0;
        in_case("di_normal, element %d", (int)i);
        NEAR(z[i], sqrt(-2 * log(u)) * cos(6.283185307179586 * v), BOUND(5e-7, 1e-14));
        if (i + 1 < N)
            NEAR(z[i + 1], sqrt(-2 * log(u)) * sin(6.283185307179586 * v), BOUND(5e-7, 1e-14));
    }
    const uint64_t high = (uint64_t)1 << 32, other[6][4] = { /* seed, stream, sample, draw */
        { 4, 0, 6, 7 }, { 5 + high, 0, 6, 7 }, { 5, 1, 6, 7 }, { 5, 0, 5, 7 },
        { 5, 0, 6 + high, 7 }, { 5, 0, 6, 8 } };
    for (int k = 0; k < 6; k++) { /* each argument makes another, uncorrelated array */
        int equal = 0;
        double r = 0;
        di_normal(part, N, other[k][0], (uint32_t)other[k][1], other[k][2],
                  (uint32_t)other[k][3]);
        for (int i = 0; i < N; i++) {
            equal += part[i] == z[i];
            r += (double)part[i] * z[i] / N;
        }
        in_case("di_normal, other arguments %d", k);
        EQUAL(equal, 0);
        NEAR(r, 0, 4 / sqrt(N));
    }
}

static void test_dot(void)
{
    enum { N = 1000 };
    di_real a[N], b[N];
    fill(a, N, 4);
    fill(b, N, 5);
    static const size_t sizes[] = { 0, 1, 15, 16, 17, 255, 256, 257, 600, N };
    for (int k = 0; k < 10; k++) {
        size_t n = sizes[k];
        double lane[16] = { 0 }, plain = 0;
        for (int l = 0; l < 16; l++)
            for (size_t i0 = 0; i0 < n; i0 += 256) {
                di_real sum = 0;
                for (size_t i = i0 + l; i < n && i < i0 + 256; i += 16)
                    sum += a[i] * b[i];
                lane[l] += sum;
            }
        for (size_t i = 0; i < n; i++)
            plain += (double)a[i] * b[i];
        for (int l = 0; l < 4; l++)
            lane[l] = (lane[l] + lane[l + 8]) + (lane[l + 4] + lane[l + 12]);
        in_case("dot of %d", (int)n);
        EQUAL(di_dot(a, b, n), (lane[0] + lane[2]) + (lane[1] + lane[3]));
        NEAR(di_dot(a, b, n), plain, BOUND(2e-5, 1e-13));
    }
    in_case("finite");
    CHECK(di_finite(a, N) && di_finite(a, 0));
    const double bad[3] = { NAN, HUGE_VAL, -HUGE_VAL };
    for (int k = 0; k < 3; k++) {
        a[N - 1] = (di_real)bad[k];
        CHECK(!di_finite(a, N));
        CHECK(di_finite(a, N - 1));
    }
}

/* ---- Operations of the tape: the oracles ------------------------------------------------- */

enum kind { CONV, NORM, UP, POOL, ATTENTION };
typedef struct op {
    enum kind kind;
    int c, oc;                      /* channels in and out */
    int k, stride, end, add, fast;  /* CONV */
    double scale;
    int groups, emb, silu;          /* NORM */
    int heads;                      /* ATTENTION, c = 3 oc */
    int h, w, oh, ow;               /* sizes of the case */
    di_conv conv;
    di_norm norm;
    di_real *weight, *bias, *cond;  /* plain weights; cond (2C,N): scale and shift */
} op;
enum { N = 2 };

static size_t at(int n, int c, int h, int w, int C, int H, int W)
{
    return (((size_t)n * C + c) * H + h) * W + w;
}

/* y[o,i,j] = scale (b[o] + sum_cuv w[o,c,u,v] x[c, s i+u-p, s j+v-p] + add), and its transpose:
   every product w x of the sum is w gy towards gx. y or gx may be NULL. */
static void plain_conv(const op *o, const double *x, const double *add, double *y,
                       const double *gy, double *gx)
{
    int p = o->k == 1 || o->end ? 0 : 1;
    for (int n = 0; n < N; n++)
        for (int q = 0; q < o->oc; q++)
            for (int i = 0; i < o->oh; i++)
                for (int j = 0; j < o->ow; j++) {
                    size_t out = at(n, q, i, j, o->oc, o->oh, o->ow);
                    double sum = o->bias[q] + (add ? add[out] : 0);
                    for (int c = 0; c < o->c; c++)
                        for (int t = 0; t < o->k * o->k; t++) {
                            int a = i * o->stride + t / o->k - p;
                            int b = j * o->stride + t % o->k - p;
                            if (a < 0 || a >= o->h || b < 0 || b >= o->w)
                                continue;
                            double w = o->weight[(q * o->c + c) * o->k * o->k + t];
                            sum += w * x[at(n, c, a, b, o->c, o->h, o->w)];
                            if (gx)
                                gx[at(n, c, a, b, o->c, o->h, o->w)] += o->scale * w * gy[out];
                        }
                    if (y)
                        y[out] = o->scale * sum;
                }
}

static double sigmoid(double u) { return 1 / (1 + exp(-u)); }

/* xh = (x-m) r, u = (g xh + b)(1+s) + t, y = u or silu(u); per group of M values, with
   q = gy f'(u) g (1+s): gx = r (q - mean q - xh mean(q xh)). */
static void plain_norm(const op *o, const double *x, double *y, const double *gy, double *gx)
{
    int per = o->c / o->groups, size = o->h * o->w;
    double count = (double)per * size;
    for (int k = 0; k < N * o->groups; k++) {
        const double *v = x + (size_t)k * per * size;
        double m = 0, var = 0, mq = 0, mqx = 0;
        for (int i = 0; i < per * size; i++)
            m += v[i] / count;
        for (int i = 0; i < per * size; i++)
            var += (v[i] - m) * (v[i] - m) / count;
        double r = 1 / sqrt(var + o->norm.eps);
        for (int pass = 0; pass < 2; pass++)
            for (int i = 0; i < per * size; i++) {
                int n = k / o->groups, c = k % o->groups * per + i / size;
                double s = o->emb ? o->cond[c * N + n] : 0;
                double t = o->emb ? o->cond[(o->c + c) * N + n] : 0;
                double xh = (v[i] - m) * r;
                double u = (o->norm.g[c] * xh + o->norm.b[c]) * (1 + s) + t;
                double z = sigmoid(u), slope = o->silu ? z * (1 + u * (1 - z)) : 1;
                size_t j = (size_t)k * per * size + i;
                if (y)
                    y[j] = o->silu ? u * z : u;
                if (!gx)
                    continue;
                double q = gy[j] * slope * o->norm.g[c] * (1 + s);
                if (pass)
                    gx[j] += r * (q - mq - xh * mqx);
                mq += pass ? 0 : q / count;
                mqx += pass ? 0 : q * xh / count;
            }
    }
}

/* Nearest doubling, or the mean of 2x2 cells; both are y[i][j] += f x[..] over four pairs. */
static void plain_resample(const op *o, const double *x, double *y, const double *gy,
                           double *gx)
{
    int up = o->kind == UP, h = up ? o->oh : o->h, w = up ? o->ow : o->w;
    for (int c = 0; y && c < N * o->c * o->oh * o->ow; c++)
        y[c] = 0;
    for (int c = 0; c < N * o->c; c++)
        for (int i = 0; i < h; i++)
            for (int j = 0; j < w; j++) {
                size_t big = ((size_t)c * h + i) * w + j;
                size_t small = ((size_t)c * (h / 2) + i / 2) * (w / 2) + j / 2;
                if (y)
                    y[up ? big : small] += up ? x[small] : x[big] / 4;
                if (gx)
                    gx[up ? small : big] += up ? gy[big] : gy[small] / 4;
            }
}

/* One image and head; q, k, v, y, g* point at its first channel, positions are contiguous. */
static void plain_head(int T, int d, const double *q, const double *k, const double *v,
                       double *y, const double *gy, double *gq, double *gk, double *gv)
{
    static double p[512];
    for (int i = 0; i < T; i++) {
        double top = -HUGE_VAL, sum = 0, delta = 0;
        for (int j = 0; j < T; j++) {
            p[j] = 0;
            for (int c = 0; c < d; c++)
                p[j] += q[c * T + i] * k[c * T + j] / sqrt(d);
            top = p[j] > top ? p[j] : top;
        }
        for (int j = 0; j < T; j++)
            sum += p[j] = exp(p[j] - top);
        for (int c = 0; c < d; c++) {
            double o = 0;
            for (int j = 0; j < T; j++)
                o += p[j] / sum * v[c * T + j];
            if (y)
                y[c * T + i] = o;
            delta += gy ? gy[c * T + i] * o : 0;
        }
        for (int j = 0; gq && j < T; j++) { /* dS = P (dP - delta) */
            double dp = 0;
            for (int c = 0; c < d; c++) {
                gv[c * T + j] += p[j] / sum * gy[c * T + i];
                dp += gy[c * T + i] * v[c * T + j];
            }
            double ds = p[j] / sum * (dp - delta) / sqrt(d);
            for (int c = 0; c < d; c++) {
                gq[c * T + i] += ds * k[c * T + j];
                gk[c * T + j] += ds * q[c * T + i];
            }
        }
    }
}

static void plain_attention(const op *o, const double *x, double *y, const double *gy,
                            double *gx)
{
    int T = o->h * o->w, d = o->oc / o->heads;
    size_t C = (size_t)o->oc * T;
    for (int n = 0; n < N; n++)
        for (int hd = 0; hd < o->heads; hd++) {
            size_t in = n * 3 * C + (size_t)hd * d * T, out = n * C + (size_t)hd * d * T;
            plain_head(T, d, x + in, x + in + C, x + in + 2 * C, y ? y + out : NULL,
                       gy ? gy + out : NULL, gx ? gx + in : NULL, gx ? gx + in + C : NULL,
                       gx ? gx + in + 2 * C : NULL);
        }
}

/* y = op(x); gx += J^T gy. */
static void plain(const op *o, const double *x, const double *add, double *y, const double *gy,
                  double *gx)
{
    if (o->kind == CONV)
        plain_conv(o, x, add, y, gy, gx);
    else if (o->kind == NORM)
        plain_norm(o, x, y, gy, gx);
    else if (o->kind == ATTENTION)
        plain_attention(o, x, y, gy, gx);
    else
        plain_resample(o, x, y, gy, gx);
}

/* The kernels' own order in plain C, for equal bits: one sum over (ic/16, ky, kx, ic%16), the
   padding added as zeros, then bias, add, scale. x (N,ic,h,w), w (oc,ic,k,k); y (N,oc,oh,ow)
   where pixel (i,j) starts at x[stride i - p]. */
static void ordered_conv(const di_real *x, int ic, int h, int w, const di_real *weight, int oc,
                         int k, int stride, int p, int oh, int ow, const di_real *bias,
                         const di_real *add, di_real scale, di_real *y)
{
    for (int n = 0; n < N; n++)
        for (int o = 0; o < oc; o++)
            for (int i = 0; i < oh; i++)
                for (int j = 0; j < ow; j++) {
                    di_real sum = 0;
                    for (int b = 0; b < ic; b += 16)
                        for (int t = 0; t < k * k; t++)
                            for (int c = b; c < b + 16; c++) {
                                int r = i * stride + t / k - p, s = j * stride + t % k - p;
                                int in = c < ic && r >= 0 && r < h && s >= 0 && s < w;
                                di_real v = in ? x[at(n, c, r, s, ic, h, w)] : 0;
                                di_real m = c < ic ? weight[(o * ic + c) * k * k + t] : 0;
                                sum += m * v;
                            }
                    if (bias)
                        sum += bias[o];
                    if (add)
                        sum += add[at(n, o, i, j, oc, oh, ow)];
                    y[at(n, o, i, j, oc, oh, ow)] = sum * scale;
                }
}

/* gx by the same routine: gy scaled and spread on the input's grid, weights transposed and
   flipped. */
static void ordered_conv_vjp(di_ctx *ctx, const op *o, const di_real *gy, di_real *gx)
{
    int taps = o->k * o->k;
    di_real *spread = di_new(ctx, (size_t)N * o->oc * o->h * o->w, sizeof *spread);
    di_real *wt = di_new(ctx, (size_t)o->c * o->oc * taps, sizeof *wt);
    for (int q = 0; q < N * o->oc; q++)
        for (int i = 0; i < o->oh; i++)
            for (int j = 0; j < o->ow; j++)
                spread[(q * o->h + i * o->stride + o->end) * o->w + j * o->stride + o->end]
                    = gy[(q * o->oh + i) * o->ow + j] * (di_real)o->scale;
    for (int q = 0; q < o->oc; q++)
        for (int c = 0; c < o->c; c++)
            for (int t = 0; t < taps; t++)
                wt[(c * o->oc + q) * taps + taps - 1 - t]
                    = o->weight[(q * o->c + c) * taps + t];
    ordered_conv(spread, o->oc, o->h, o->w, wt, o->c, o->k, 1, o->k == 1 ? 0 : 1, o->h, o->w,
                 NULL, NULL, 1, gx);
    di_free(ctx, spread);
    di_free(ctx, wt);
}

/* ---- Operations of the tape: the runs ---------------------------------------------------- */

typedef struct arrays { /* planar; sizes in elements of x and y */
    size_t nx, ny;
    di_real *x, *add, *gy, *y, *gx, *gadd;
} arrays;

static di_tensor *run_op(di_tape *tp, const op *o, di_tensor *x, di_tensor *add,
                         di_tensor *cond)
{
    switch (o->kind) {
    case CONV: return di_convolve(tp, x, &o->conv, add, o->scale);
    case NORM: return di_normalize(tp, x, &o->norm, cond, o->silu);
    case UP: return di_upsample(tp, x);
    case POOL: return di_pool2(tp, x);
    default: return di_attention(tp, x, o->heads);
    }
}

/* y = op(x), or the concatenation of op(x) with itself: then gy has twice the channels, and the
   second record finds a gradient to add to. */
static void graph(di_tape *tp, const op *o, const arrays *a, int twice)
{
    di_tensor *x = di_pack(tp, N, o->c, o->h, o->w, a->x, o->c), *add = NULL, *cond = NULL;
    if (o->add)
        add = di_pack(tp, N, o->oc, o->oh, o->ow, a->add, o->oc);
    if (o->emb)
        cond = di_pack(tp, 1, 2 * o->c, 1, N, o->cond, 2 * o->c);
    x->need = 1;
    if (add)
        add->need = 1;
    di_tensor *y = run_op(tp, o, x, add, cond);
    if (twice) {
        di_tensor *first = y, *second = run_op(tp, o, x, add, cond);
        y = di_concat(tp, first, second);
        di_drop(tp, first);
        di_drop(tp, second);
    }
    di_drop(tp, x);
    di_drop(tp, add);
    di_drop(tp, cond);
    di_unpack(tp, y, 0, y->c, a->y);
    y->g = di_pack(tp, N, y->c, o->oh, o->ow, a->gy, y->c);
    di_drop(tp, y);
    di_tape_back(tp);
    di_unpack(tp, x->g, 0, o->c, a->gx);
    if (add)
        di_unpack(tp, add->g, 0, o->oc, a->gadd);
    di_drop(tp, x->g);
    if (add)
        di_drop(tp, add->g);
}

/* The graph, two times over, in exactly the memory a dry run found: full of NaN before, guarded
   behind. */
static void run_graph(di_ctx *ctx, const op *o, arrays *a, int twice)
{
    enum { GUARD = 256 };
    di_tape tp;
    size_t ny = a->ny * (twice ? 2 : 1);
    di_real *y = di_new(ctx, ny, sizeof *y), *gx = di_new(ctx, a->nx, sizeof *gx);
    di_tape_open(&tp, ctx);
    di_tape_begin(&tp, NULL, 0, 1);
    graph(&tp, o, a, twice);
    size_t size = tp.arena.peak;
    char *memory = di_new(ctx, size + GUARD, 1);
    for (int again = 0; again < 2; again++) {
        memset(memory, 0xff, size + GUARD);
        di_tape_begin(&tp, memory, size, 1);
        graph(&tp, o, a, twice);
        EQUAL(tp.failed, 0);
        EQUAL(tp.arena.peak, size);
        EQUAL(tp.arena.top, 0); /* everything was given back */
        int guard = 1;
        for (int i = 0; i < GUARD; i++)
            guard &= memory[size + i] == (char)0xff;
        CHECK(guard);
        if (!again) {
            memcpy(y, a->y, ny * sizeof *y);
            memcpy(gx, a->gx, a->nx * sizeof *gx);
        }
    }
    CHECK(same(y, a->y, ny) && same(gx, a->gx, a->nx));
    di_tape_close(&tp);
    di_free(ctx, memory);
    di_free(ctx, y);
    di_free(ctx, gx);
}

static double *widen(di_ctx *ctx, const di_real *a, size_t n)
{
    double *d = di_new(ctx, n, sizeof *d);
    for (size_t i = 0; i < n; i++)
        d[i] = a[i];
    return d;
}

/* The oracle's derivative by central differences of the oracle, in three directions. */
static void check_oracle(di_ctx *ctx, const op *o, const arrays *a, const double *x,
                         const double *add, const double *gy, const double *gx)
{
    const double step = 1e-6;
    double *moved = di_new(ctx, a->nx, sizeof *moved), *y = di_new(ctx, a->ny, sizeof *y);
    for (unsigned k = 0; k < 3; k++) {
        double slope = 0, got = 0, size = 0;
        for (int side = -1; side <= 1; side += 2) {
            for (size_t i = 0; i < a->nx; i++)
                moved[i] = x[i] + side * step * value_at(i, 50 + k);
            plain(o, moved, add, y, NULL, NULL);
            for (size_t i = 0; i < a->ny; i++)
                slope += side * gy[i] * y[i] / (2 * step);
        }
        for (size_t i = 0; i < a->nx; i++) {
            got += gx[i] * value_at(i, 50 + k);
            size += fabs(gx[i] * value_at(i, 50 + k));
        }
        NEAR(got, slope, 1e-7 * size + 1e-9);
    }
    di_free(ctx, moved);
    di_free(ctx, y);
}

/* Kernels against the double oracle, relative to the largest element: rounding of sums of at
   most a few hundred float products stays well inside 1e-5. */
static void check_plain(di_ctx *ctx, const op *o, const arrays *a, double *most)
{
    double *x = widen(ctx, a->x, a->nx), *gy = widen(ctx, a->gy, a->ny);
    double *add = o->add ? widen(ctx, a->add, a->ny) : NULL;
    double *y = di_new(ctx, a->ny, sizeof *y), *gx = di_new(ctx, a->nx, sizeof *gx);
    plain(o, x, add, y, gy, gx);
    double forward = worst(a->y, y, a->ny), back = worst(a->gx, gx, a->nx);
    most[0] = keep(most[0], forward);
    most[1] = keep(most[1], back);
    NEAR(forward, 0, BOUND(1e-5, 1e-12));
    NEAR(back, 0, BOUND(1e-5, 1e-12));
    if (!o->fast)
        check_oracle(ctx, o, a, x, add, gy, gx);
    for (size_t i = 0; o->add && i < a->ny; i++)
        gy[i] *= (di_real)o->scale;
    if (o->add)
        NEAR(worst(a->gadd, gy, a->ny), 0, BOUND(1e-7, 1e-15));
    di_free(ctx, x);
    di_free(ctx, gy);
    di_free(ctx, add);
    di_free(ctx, y);
    di_free(ctx, gx);
}

/* Twice the operation into one concatenation: the same output twice, the sum of gradients. */
static void check_twice(di_ctx *ctx, const op *o, const arrays *once, double *most)
{
    arrays a = *once;
    size_t plane = once->ny / N;
    a.y = di_new(ctx, 2 * a.ny, sizeof *a.y);
    a.gy = di_new(ctx, 2 * a.ny, sizeof *a.gy);
    a.gx = di_new(ctx, a.nx, sizeof *a.gx);
    a.gadd = di_new(ctx, a.ny, sizeof *a.gadd);
    fill(a.gy, 2 * a.ny, 13);
    run_graph(ctx, o, &a, 1);
    double *x = widen(ctx, a.x, a.nx), *sum = di_new(ctx, a.ny, sizeof *sum);
    double *gx = di_new(ctx, a.nx, sizeof *gx);
    for (int n = 0; n < N; n++) {
        CHECK(same(a.y + 2 * n * plane, once->y + n * plane, plane));
        CHECK(same(a.y + (2 * n + 1) * plane, once->y + n * plane, plane));
        for (size_t i = 0; i < plane; i++)
            sum[n * plane + i] = (double)a.gy[2 * n * plane + i]
                                 + a.gy[(2 * n + 1) * plane + i];
    }
    plain(o, x, NULL, NULL, sum, gx);
    double back = worst(a.gx, gx, a.nx);
    most[1] = keep(most[1], back);
    NEAR(back, 0, BOUND(1e-5, 1e-12));
    di_free(ctx, a.y);
    di_free(ctx, a.gy);
    di_free(ctx, a.gx);
    di_free(ctx, a.gadd);
    di_free(ctx, x);
    di_free(ctx, sum);
    di_free(ctx, gx);
}

/* The case's sizes, and its inputs and weights by formula. */
static void prepare(di_ctx *ctx, op *o, int h, int w, arrays *a)
{
    size_t count = (size_t)o->oc * o->c * o->k * o->k;
    o->h = h;
    o->w = w;
    o->oh = o->kind == UP ? 2 * h : o->kind == POOL || o->stride == 2 ? h / 2 : h;
    o->ow = o->kind == UP ? 2 * w : o->kind == POOL || o->stride == 2 ? w / 2 : w;
    a->nx = (size_t)N * o->c * h * w;
    a->ny = (size_t)N * o->oc * o->oh * o->ow;
    a->x = di_new(ctx, 2 * a->nx + 4 * a->ny, sizeof *a->x);
    a->gx = a->x + a->nx;
    a->add = a->gx + a->nx;
    a->gy = a->add + a->ny;
    a->y = a->gy + a->ny;
    a->gadd = a->y + a->ny;
    fill(a->x, 2 * a->nx + 3 * a->ny, 12);
    for (size_t i = 0; o->kind == ATTENTION && i < a->nx; i++)
        a->x[i] *= 3; /* logits of several units */
    o->weight = di_new(ctx, count + (size_t)o->oc, sizeof *o->weight);
    o->bias = o->weight + count;
    fill(o->weight, count + (size_t)o->oc, 11);
    o->cond = di_new(ctx, 2 * (size_t)o->c * N, sizeof *o->cond);
    fill(o->cond, 2 * (size_t)o->c * N, 14);
    if (o->kind == CONV) {
        di_conv conv = { .oc = o->oc, .ic = o->c, .k = o->k, .stride = o->stride,
                         .end = o->end };
        o->conv = conv;
        di_conv_init(ctx, &o->conv, o->weight, o->bias);
    } else if (o->kind == NORM) {
        di_norm norm = { .c = o->c, .groups = o->groups, .eps = 1e-5 };
        norm.g = di_new(ctx, 2 * (size_t)o->c, sizeof *norm.g);
        norm.b = norm.g + o->c;
        fill(norm.g, 2 * (size_t)o->c, 15);
        o->norm = norm;
    }
}

static void check_ordered(di_ctx *ctx, const op *o, const arrays *a)
{
    di_real *y = di_new(ctx, a->ny + a->nx, sizeof *y), *gx = y + a->ny;
    ordered_conv(a->x, o->c, o->h, o->w, o->weight, o->oc, o->k, o->stride,
                 o->k == 1 || o->end ? 0 : 1, o->oh, o->ow, o->bias, o->add ? a->add : NULL,
                 (di_real)o->scale, y);
    ordered_conv_vjp(ctx, o, a->gy, gx);
    CHECK(same(y, a->y, a->ny));
    CHECK(same(gx, a->gx, a->nx));
}

/* One case on every instruction set with 1, 2 and 3 threads; all bits as the first run's, and,
   for convolutions, as the plain C of the same order. */
static void test_op(op *o, int h, int w, double *most)
{
    di_ctx *first, *ctx;
    arrays a, b;
    di_open(&first, NULL, NULL);
    di_set_fast(first, o->fast);
    prepare(first, o, h, w, &a);
    run_graph(first, o, &a, 0);
    check_plain(first, o, &a, most);
    if (o->kind == CONV && !o->fast)
        check_ordered(first, o, &a);
    if (o->oc % 16 == 0 && !o->add)
        check_twice(first, o, &a, most);
    for (int isa = 0; di_isa_list(isa); isa++)
        for (int threads = 1; threads <= 3; threads++) {
            di_open(&ctx, NULL, NULL);
            di_set_isa(ctx, di_isa_list(isa));
            di_set_threads(ctx, threads);
            di_set_fast(ctx, o->fast);
            if (isa + threads > 1 && ctx->threads == threads) { /* 1 without OpenMP */
                prepare(ctx, o, h, w, &b);
                run_graph(ctx, o, &b, 0);
                CHECK(same(a.y, b.y, a.ny));
                CHECK(same(a.gx, b.gx, a.nx));
            }
            di_close(ctx);
        }
    di_close(first);
}

static void test_convolve(void)
{
    static const struct { int c, oc, k, stride, end, add; double scale; } kind[] = {
        { 3, 16, 3, 1, 0, 0, 1 },  { 32, 6, 3, 1, 0, 0, 1 },    { 48, 32, 3, 1, 0, 1, 0.7 },
        { 48, 32, 1, 1, 0, 1, 1 }, { 16, 48, 1, 1, 0, 0, 0.7 }, { 3, 6, 3, 1, 0, 0, 1 },
        { 16, 32, 3, 2, 0, 0, 1 }, { 32, 16, 3, 2, 1, 0, 1 } };
    static const int size[][2] = { { 5, 7 }, { 1, 1 }, { 3, 17 }, { 19, 2 } };
    double most[2] = { 0, 0 };
    for (size_t i = 0; i < sizeof kind / sizeof *kind; i++)
        for (int s = 0; s < 4; s++) {
            op o = { .kind = CONV, .c = kind[i].c, .oc = kind[i].oc, .k = kind[i].k,
                     .stride = kind[i].stride, .end = kind[i].end, .add = kind[i].add,
                     .scale = kind[i].scale };
            int h = size[s][0] * o.stride, w = size[s][1] * o.stride;
            in_case("convolve %d->%d k%d stride %d end %d at %dx%d", o.c, o.oc, o.k, o.stride,
                    o.end, h, w);
            test_op(&o, h, w, most);
        }
    figure("convolve, relative to the maximum", most[0]);
    figure("convolve, gradient", most[1]);
}

/* The fast class: Winograd where the shape allows; 132 tiles of 4x4 pass its chunks of 128. */
static void test_winograd(void)
{
    static const int size[][2] = { { 16, 16 }, { 12, 176 }, { 15, 18 } };
    double most[2] = { 0, 0 };
    for (int s = 0; s < 3; s++) {
        op o = { .kind = CONV, .c = 32, .oc = 32, .k = 3, .stride = 1, .add = 1, .scale = 0.7,
                 .fast = 1 };
        in_case("fast convolve at %dx%d", size[s][0], size[s][1]);
        test_op(&o, size[s][0], size[s][1], most);
    }
    figure("fast convolve, relative to the maximum", most[0]);
    figure("fast convolve, gradient", most[1]);
}

static void test_normalize(void)
{
    static const int kind[][2] /* c, groups */
        = { { 32, 32 }, { 48, 8 }, { 16, 1 }, { 64, 32 } };
    static const int size[][2] = { { 5, 7 }, { 2, 3 }, { 3, 17 } };
    double most[2] = { 0, 0 };
    for (int i = 0; i < 4 * 3 * 4; i++) {
        op o = { .kind = NORM, .c = kind[i % 4][0], .oc = kind[i % 4][0],
                 .groups = kind[i % 4][1], .emb = i / 4 % 2, .silu = i / 8 % 2 };
        int h = size[i / 16][0], w = size[i / 16][1];
        in_case("normalize %d in %d groups%s%s at %dx%d", o.c, o.groups, o.emb ? " emb" : "",
                o.silu ? " silu" : "", h, w);
        test_op(&o, h, w, most);
    }
    figure("normalize, relative to the maximum", most[0]);
    figure("normalize, gradient", most[1]);
}

static void test_resample(void)
{
    static const int channels[3] = { 3, 16, 32 }, size[][2] = { { 5, 7 }, { 1, 1 }, { 3, 17 } };
    double most[2] = { 0, 0 };
    for (int i = 0; i < 18; i++) {
        int c = channels[i / 2 % 3], m = i % 2 ? 2 : 1;
        op o = { .kind = i % 2 ? POOL : UP, .c = c, .oc = c };
        in_case("%s %d channels, %dx%d", i % 2 ? "pool2" : "upsample", c, size[i / 6][0],
                size[i / 6][1]);
        test_op(&o, m * size[i / 6][0], m * size[i / 6][1], most);
    }
    figure("upsample and pool2, relative to the maximum", most[0]);
    figure("upsample and pool2, gradient", most[1]);
}

/* 80 positions pass the strips of 64 rows, 289 the sum's flush at 256. */
static void test_attention(void)
{
    static const int size[][2] = { { 5, 7 }, { 1, 1 }, { 3, 17 }, { 16, 5 }, { 17, 17 } };
    double most[2] = { 0, 0 };
    for (int d = 8; d <= 32; d += 8)
        for (int heads = 1; heads <= 3; heads++)
            for (int s = 0; s < (d == 8 && heads == 2 ? 5 : d == 24 ? 4 : 3); s++) {
                op o = { .kind = ATTENTION, .c = 3 * heads * d, .oc = heads * d,
                         .heads = heads };
                in_case("attention, %d heads of %d at %dx%d", heads, d, size[s][0], size[s][1]);
                test_op(&o, size[s][0], size[s][1], most);
            }
    figure("attention, relative to the maximum", most[0]);
    figure("attention, gradient", most[1]);
}

/* ---- Operations without a derivative, packing -------------------------------------------- */

static void small_graph(di_tape *tp, const di_real *x, const di_real *e, di_real *out)
{
    di_tensor *t = di_pack(tp, N, 20, 3, 5, x, 18), *emb = di_pack(tp, 1, 20, 1, N, e, 20);
    di_unpack(tp, t, 0, 20, out);                     /* 18 channels packed, 2 of zeros */
    di_add_channels(tp, t, emb);
    di_unpack(tp, t, 0, 20, out + 600);               /* x + e */
    di_tensor *s = di_silu(tp, emb);
    di_unpack(tp, s, 0, 20, out + 1200);              /* silu(e) */
    di_tensor *a = di_pack(tp, N, 16, 3, 5, x, 16), *ab = di_concat(tp, a, t);
    di_drop(tp, a);
    di_drop(tp, t);
    di_unpack(tp, ab, 14, 6, out + 1300);             /* 2 channels of a, 4 of t */
    di_drop(tp, ab);
    di_drop(tp, emb);
    di_drop(tp, s);
}

static void test_small(void)
{
    di_ctx *ctx;
    di_tape tp;
    di_open(&ctx, NULL, NULL);
    di_real *x = di_new(ctx, N * 18 * 15, sizeof *x), *e = di_new(ctx, 20 * N, sizeof *e);
    di_real *out = di_new(ctx, 1300 + N * 6 * 15, sizeof *out);
    fill(x, N * 18 * 15, 20);
    fill(e, 20 * N, 21);
    di_tape_open(&tp, ctx);
    di_tape_begin(&tp, NULL, 0, 0);
    small_graph(&tp, x, e, out);
    size_t size = tp.arena.peak;
    char *memory = di_new(ctx, size, 1);
    memset(memory, 0xff, size);
    di_tape_begin(&tp, memory, size, 0);
    small_graph(&tp, x, e, out);
    in_case("pack, unpack, add_channels, silu, concat");
    EQUAL(tp.arena.peak, size);
    EQUAL(tp.arena.top, 0);
    EQUAL(tp.failed, 0);
    for (int n = 0; n < N; n++)
        for (int c = 0; c < 20; c++)
            for (int i = 0; i < 15; i++) {
                di_real v = c < 18 ? x[(n * 18 + c) * 15 + i] : 0, u = v + e[c * N + n];
                EQUAL(out[(n * 20 + c) * 15 + i], v);
                EQUAL(out[600 + (n * 20 + c) * 15 + i], u);
                if (c >= 14 && c < 16) /* a reads x as images of 16 channels */
                    EQUAL(out[1300 + (n * 6 + c - 14) * 15 + i], x[(n * 16 + c) * 15 + i]);
                if (c < 4)
                    EQUAL(out[1300 + (n * 6 + c + 2) * 15 + i], u);
            }
    for (int i = 0; i < 20 * N; i++)
        NEAR(out[1200 + i], e[i] * sigmoid(e[i]), BOUND(2e-7, 1e-15));
    in_case("concatenation that cannot be a view");
    di_tape_begin(&tp, NULL, 0, 0);
    di_tensor *a = di_pack(&tp, 1, 6, 2, 2, x, 6);
    CHECK(di_concat(&tp, a, a) == NULL);
    SAYS(di_error(ctx), "16k channels");
    in_case("a failed tape returns NULL and takes NULL");
    CHECK(di_silu(&tp, a) == NULL && di_upsample(&tp, NULL) == NULL);
    CHECK(di_convolve(&tp, NULL, NULL, NULL, 1) == NULL && di_attention(&tp, a, 1) == NULL);
    di_tape_close(&tp);
    di_close(ctx);
}

/* ---- Context: instruction sets, allocation failures -------------------------------------- */

static void test_context(void)
{
    di_ctx *ctx;
    in_case("context");
    EQUAL(di_open(&ctx, NULL, NULL), DI_OK);
    EQUAL(strcmp(di_error(ctx), ""), 0);
    CHECK(di_isa_list(0) && !di_isa_list(-1) && !di_isa_list(9));
    EQUAL(strcmp(di_isa(ctx), di_isa_list(0)), 0);
    EQUAL(di_set_isa(ctx, "avx9"), DI_EUSAGE);
    SAYS(di_error(ctx), "'avx9' is not compiled in");
    SAYS(di_error(ctx), di_isa_list(0));
    EQUAL(di_fail(ctx, DI_EINPUT, "second"), DI_EINPUT); /* the first error's text stays */
    SAYS(di_error(ctx), "avx9");
    di_clear(ctx);
    EQUAL(strcmp(di_error(ctx), ""), 0);
    size_t before = di_bytes(ctx);
    char *p = di_new(ctx, 3, 100);
    CHECK((uintptr_t)p % 64 == 0 && di_bytes(ctx) >= before + 300);
    int sum = 0;
    for (int i = 0; i < 300; i++)
        sum += p[i] != 0;
    EQUAL(sum, 0);
    size_t peak = di_bytes_peak(ctx);
    di_free(ctx, p);
    di_free(ctx, NULL);
    EQUAL(di_bytes(ctx), before);
    EQUAL(di_bytes_peak(ctx), peak);
    CHECK(di_new(ctx, (size_t)-1 / 4, 16) == NULL);
    SAYS(di_error(ctx), "out of memory");
    di_close(ctx);
    di_close(NULL);
}

typedef struct heap {
    int left;             /* allocations before the one that fails; negative: none fails */
    size_t bytes;         /* allocated now, by the sizes the library names */
} heap;

static void *count_alloc(void *user, void *p, size_t old_size, size_t new_size)
{
    heap *h = user;
    if (new_size && h->left-- == 0)
        return NULL;
    h->bytes += new_size;
    h->bytes -= old_size;
    if (new_size)
        return realloc(p, new_size);
    free(p);
    return NULL;
}

static int read_memory(void *user, uint64_t offset, void *dst, size_t n)
{
    memcpy(dst, (const char *)user + offset, n);
    return 0;
}

static char *read_file(const char *name, size_t *size)
{
    FILE *f = fopen(name, "rb");
    char *p = NULL;
    if (f && fseek(f, 0, SEEK_END) == 0) {
        *size = (size_t)ftell(f);
        p = malloc(*size);
        rewind(f);
        if (!p || fread(p, 1, *size, f) != *size)
            *size = 0;
    }
    if (f)
        fclose(f);
    return p;
}

/* Opens a context and a network, runs it forward and back; the first failure's status. */
static di_status whole_use(heap *h, const char *file, size_t size, di_real *gx, int retry)
{
    enum { SIDE = 8, C = 3 };
    static di_real x[C * SIDE * SIDE], y[2 * C * SIDE * SIDE];
    static const double t = 37.5;
    static const int label = 1;
    di_ctx *ctx;
    di_net *net = NULL;
    di_status s = di_open(&ctx, count_alloc, h);
    if (s)
        return s;
    fill(x, C * SIDE * SIDE, 30);
    s = di_net_open(ctx, read_memory, (void *)file, size, 0, &net);
    const int *l = s || strcmp(di_net_get(net, "net.classes"), "0") == 0 ? NULL : &label;
    if (!s)
        s = di_net_run(net, 1, SIDE, SIDE, &t, l, x, y, y, gx);
    if (s)
        SAYS(di_error(ctx), "out of memory");
    if (s && net && retry) { /* the network is whole: with memory again it works */
        di_clear(ctx);
        EQUAL(di_net_run(net, 1, SIDE, SIDE, &t, l, x, y, y, gx), DI_OK);
    }
    if (h->left % 2)
        di_net_close(net); /* or leave it to the context */
    di_close(ctx);
    return s;
}

static void test_allocation(const char *name)
{
    enum { COUNT = 3 * 8 * 8 };
    static di_real whole[COUNT], gx[COUNT];
    size_t size = 0;
    char *file = read_file(name, &size);
    heap h = { -1, 0 };
    in_case("allocations of %s", name);
    if (!CHECK(file != NULL))
        return;
    EQUAL(whole_use(&h, file, size, whole, 0), DI_OK);
    EQUAL(h.bytes, 0);
    int total = -1 - h.left;
    figure("allocations of a network's whole use", total);
    for (int k = 0; k < total; k++) {
        in_case("%s, allocation %d of %d fails", name, k + 1, total);
        h.left = k;
        EQUAL(whole_use(&h, file, size, gx, k % 4 == 0), DI_EMEMORY);
        EQUAL(h.bytes, 0);
    }
    in_case("%s, no allocation fails", name);
    h.left = total;
    EQUAL(whole_use(&h, file, size, gx, 0), DI_OK);
    CHECK(same(whole, gx, COUNT));
    free(file);
}

int main(int argc, char **argv)
{
    di_ctx *ctx;
    begin(argc, argv);
    di_open(&ctx, NULL, NULL);
    test_exp_log();
    test_sin_cos();
    test_parse();
    test_philox();
    test_normal_law(ctx);
    test_normal();
    test_dot();
    di_close(ctx);
    test_convolve();
    test_winograd();
    test_normalize();
    test_resample();
    test_attention();
    test_small();
    test_context();
    test_allocation("tests/vectors/pool_label.unw");
    return finish();
}
