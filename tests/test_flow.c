/* test_flow.c: the fluid. The solver against the official program's numbers, against its own
   formulas done with plain sums, and against what is known in closed form; its adjoint against
   the tangent and against differences; batches, memory, refusals; random fields. */
#define DIFFINV_KERNELS
#include "check.h"
#include "../tools/make_flow.h"

#include <stdlib.h>

enum { MOST = 64 * 64, MANY = 18 };
static di_ctx *ctx;
static const double PI2 = 6.28318530717958647693;

static di_flow plain(double time, double dt)
{
    di_flow f = { 200, time, dt, 4, 1, 1, 0, 0 };
    return f;
}

static di_problem *make(int n, di_flow f)
{
    di_problem *p = NULL;
    EQUAL(di_problem_navier_stokes(ctx, n, &f, &p), DI_OK);
    return p;
}

static double inner(const di_real *a, const di_real *b, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += (double)a[i] * b[i];
    return s;
}

/* ---- The formulas with plain sums, double ------------------------------------------------ */

enum { SIDE = 16, AREA = SIDE * SIDE };
enum { DX, DY, MASK, PSI, IMPLICIT, EXPLICIT }; /* factors of a transform */
static struct { int n; double dt, nu, forcing; } oracle;

static double factor(int what, int k1, int k2)
{
    int n = oracle.n, nyquist1 = 2 * k1 == n, nyquist2 = 2 * k2 == n;
    double a = k1 - (2 * k1 > n ? n : 0), b = k2 - (2 * k2 > n ? n : 0), g = a * a + b * b;
    int kept = g > 0 && g <= 2 * (n / 3.0) * (n / 3.0) * (1 + 1e-12);
    switch (what) {
    case DX: return nyquist1 ? 0 : a;
    case DY: return nyquist2 ? 0 : b;
    case MASK: return kept;
    case PSI: return kept ? 1 / g : 0;
    case IMPLICIT: return 1 / (1 + oracle.dt * oracle.nu * g / 2);
    default: return 1 - oracle.dt * oracle.nu * g / 2;
    }
}

/* to = F^-1 (factor F from), with a factor i for a derivative; from may be to. */
static void spectral(int what, const double *from, double *to)
{
    int n = oracle.n;
    static double out[AREA];
    for (int i = 0; i < n * n; i++)
        out[i] = 0;
    for (int k1 = 0; k1 < n; k1++)
        for (int k2 = 0; k2 < n; k2++) {
            double re = 0, im = 0, f = factor(what, k1, k2) / (n * n);
            for (int i = 0; i < n * n; i++) {
                double t = -PI2 * ((i / n * k1 + i % n * k2) % n) / n;
                re += from[i] * cos(t);
                im += from[i] * sin(t);
            }
            if (what == DX || what == DY) {
                double r = re;
                re = -im;
                im = r;
            }
            for (int i = 0; i < n * n; i++) {
                double t = PI2 * ((i / n * k1 + i % n * k2) % n) / n;
                out[i] += f * (re * cos(t) - im * sin(t));
            }
        }
    memcpy(to, out, (size_t)(n * n) * sizeof *to);
}

/* N(w), or with l its derivative N'(w) l. */
static void advection(const double *w, const double *l, double *to)
{
    int m = oracle.n * oracle.n;
    static double W[2][AREA], q[2][AREA], v[2][AREA], a[AREA], b[AREA];
    for (int k = 0; k < (l ? 2 : 1); k++) {
        const double *x = k ? l : w;
        spectral(MASK, x, W[k]);
        spectral(PSI, x, v[k]);
        spectral(DY, v[k], q[k]);
        spectral(DX, v[k], v[k]);
        for (int i = 0; i < m; i++)
            v[k][i] = -v[k][i];
    }
    for (int i = 0; i < m; i++) {
        a[i] = l ? q[1][i] * W[0][i] + q[0][i] * W[1][i] : q[0][i] * W[0][i];
        b[i] = l ? v[1][i] * W[0][i] + v[0][i] * W[1][i] : v[0][i] * W[0][i];
    }
    spectral(DX, a, a);
    spectral(DY, b, b);
    for (int i = 0; i < m; i++)
        to[i] = -a[i] - b[i]
                - (l ? 0 : oracle.forcing * cos(4 * PI2 * (i % oracle.n) / oracle.n));
}

/* w one step on, and with l the tangent l along with it. */
static void step(double *w, double *l)
{
    int m = oracle.n * oracle.n;
    static double n1[AREA], n2[AREA], t[AREA], c[AREA], m1[AREA], m2[AREA], s[AREA], d[AREA];
    advection(w, NULL, n1);
    spectral(EXPLICIT, w, c);
    for (int i = 0; i < m; i++)
        t[i] = c[i] + oracle.dt * n1[i];
    spectral(IMPLICIT, t, t);
    advection(t, NULL, n2);
    if (l) {
        advection(w, l, m1);
        spectral(EXPLICIT, l, d);
        for (int i = 0; i < m; i++)
            s[i] = d[i] + oracle.dt * m1[i];
        spectral(IMPLICIT, s, s);
        advection(t, s, m2);
        for (int i = 0; i < m; i++)
            l[i] = d[i] + oracle.dt * (m1[i] + m2[i]) / 2;
        spectral(IMPLICIT, l, l);
    }
    for (int i = 0; i < m; i++)
        w[i] = c[i] + oracle.dt * (n1[i] + n2[i]) / 2;
    spectral(IMPLICIT, w, w);
}

/* The solver is the formulas; its adjoint is that of their tangent. n = 8: the forcing lies at
   n/2. */
static void test_formulas(int n, int steps)
{
    static di_real x[AREA], y[AREA], v[AREA], gx[AREA];
    static double w[AREA], l[AREA];
    size_t m = (size_t)(n * n);
    double dt = 0.02, left = 0, right = 0, size = 0;
    in_case("formulas, side %d, %d steps", n, steps);
    oracle.n = n;
    oracle.dt = dt;
    oracle.nu = 1 / 30.0;
    oracle.forcing = 4;
    di_flow f = { 30, dt * steps * (1 - 1e-15), dt, 4, 10, 1, 0, 0 };
    di_problem *p = make(n, f);
    fill(x, m, 21);
    fill(v, m, 22);
    fill(gx, m, 23);
    for (size_t i = 0; i < m; i++) {
        w[i] = 10 * x[i];
        l[i] = 10 * gx[i];
    }
    for (int k = 0; k < steps; k++)
        step(w, l);
    EQUAL(di_apply(p, 1, x, y), DI_OK);
    EQUAL(di_flow_steps(p), steps);
    NEAR(worst(y, w, m), 0, BOUND(5e-6, 1e-13));
    figure(where, worst(y, w, m));
    for (size_t i = 0; i < m; i++)
        left += l[i] * v[i];
    fill(y, m, 23);
    EQUAL(di_apply_vjp(p, 1, x, v, gx), DI_OK);
    for (size_t i = 0; i < m; i++) {
        right += (double)y[i] * gx[i];
        size += fabs((double)y[i] * gx[i]);
    }
    NEAR(left, right, BOUND(1e-5, 1e-12) * size);
    figure("    adjoint against tangent", fabs(left - right) / size);
}

/* ---- The official program (tests/vectors/README.md) -------------------------------------- */

static void load(io_array *a, const char *name)
{
    char path[64], err[400] = "";
    snprintf(path, sizeof path, "tests/vectors/%s.npy", name);
    if (!CHECK(io_read(a, path, err, sizeof err) == 0)) {
        printf("     %s\n", err);
        exit(1);
    }
}

static void against(const char *name, const di_real *got, double tolerance)
{
    io_array a;
    static double want[MOST];
    load(&a, name);
    size_t m = a.n * a.c * a.h * a.w;
    for (size_t i = 0; i < m; i++)
        want[i] = a.v[i];
    in_case("%s", name);
    NEAR(worst(got, want, m), 0, tolerance);
    figure(name, worst(got, want, m));
    io_free(&a);
}

/* In float the program itself is off by 2e-6. */
static void test_official(void)
{
    static di_real y[MOST], gx[MOST];
    io_array x, v;
    di_flow f = { 200, 1, 0, 4, 10, 1, 0, 0 };
    load(&x, "flow16.x");
    load(&v, "flow16.v");
    di_problem *p = make(16, f);
    di_apply(p, 1, x.v, y);
    against("flow16.y", y, BOUND(1e-5, 1e-13));
    EQUAL(di_flow_steps(p), 183);
    f.time = 0.25;
    f.sub = 2;
    p = make(16, f);
    di_apply_vjp(p, 1, x.v, v.v, gx);
    against("flow16.gx", gx, BOUND(1e-5, 1e-13));
    EQUAL(di_flow_steps(p), 47);
    io_free(&x);
    io_free(&v);
    load(&x, "flow32.x");
    f.time = 1;
    p = make(32, f);
    di_apply(p, 1, x.v, y);
    against("flow32.y", y, BOUND(1e-5, 1e-13));
    EQUAL(di_flow_steps(p), 408);
    f.dt = 0.01;
    f.sub = 4;
    p = make(32, f);
    di_apply(p, 1, x.v, y);
    against("flow32.dt.y", y, BOUND(1e-5, 1e-13));
    io_free(&x);
    load(&x, "flow_batch.x");
    di_flow g = { 200, 0.5, 0, 4, 10, 2, 1, 0 };
    p = make(16, g);
    di_apply(p, 3, x.v, y);
    against("flow_batch.y", y, BOUND(1e-5, 1e-13));
    EQUAL(di_flow_steps(p), 172);
    io_free(&x);
}

/* ---- What is known ----------------------------------------------------------------------- */

/* w = 2 cos x cos y without forcing decays by (1-a)/(1+a) a step, a = dt/Re: the eddies do not
   move. */
static void test_taylor_green(void)
{
    enum { N = 32 };
    static di_real x[N * N], y[N * N];
    static double want[N * N];
    in_case("Taylor-Green");
    di_flow f = { 100, 1, 0, 0, 1, 1, 0, 0 };
    for (int i = 0; i < N * N; i++)
        x[i] = (di_real)(2 * cos(PI2 * (i / N) / N) * cos(PI2 * (i % N) / N));
    di_problem *p = make(N, f);
    di_apply(p, 1, x, y);
    for (int i = 0; i < N * N; i++)
        want[i] = exp(-2.0 / 100) * x[i];
    NEAR(worst(y, want, N * N), 0, BOUND(1e-5, 1e-8));
    figure(where, worst(y, want, N * N));
    f.dt = f.time = 0.5;
    p = make(N, f);
    di_apply(p, 1, x, y);
    for (int i = 0; i < N * N; i++)
        want[i] = (1 - 0.005) / (1 + 0.005) * x[i];
    NEAR(worst(y, want, N * N), 0, BOUND(1e-6, 1e-14));
    EQUAL(di_flow_steps(p), 1);
}

static double smooth(int i, int j, int n)
{
    double a = PI2 * i / n, b = PI2 * j / n;
    return 2 * cos(a) + 3 * cos(b + 1) + 1.5 * sin(a + 2 * b) - cos(2 * a - b);
}

/* The mean stays; a quarter's shift of the field along x or y is one of the answer. */
static void test_symmetry(void)
{
    enum { N = 24 };
    static di_real x[N * N], y[N * N], s[N * N];
    static double want[N * N];
    di_problem *p = make(N, plain(0.5, 0));
    for (int i = 0; i < N * N; i++)
        x[i] = (di_real)(smooth(i / N, i % N, N) + 0.25);
    di_apply(p, 1, x, y);
    in_case("mean");
    double sum = 0;
    for (int i = 0; i < N * N; i++)
        sum += y[i] / (double)(N * N);
    NEAR(sum, 0.25, BOUND(1e-6, 1e-14));
    for (int along = 0; along < 2; along++) {
        in_case("shift along %c", "xy"[along]);
        for (int i = 0; i < N * N; i++) {
            int x1 = i / N, y1 = i % N, by = N / 4;
            int from = along ? x1 * N + (y1 + by) % N : (x1 + by) % N * N + y1;
            s[i] = x[from];
            want[i] = y[from];
        }
        static di_real z[N * N];
        di_apply(p, 1, s, z);
        NEAR(worst(z, want, N * N), 0, BOUND(1e-5, 1e-12));
    }
}

/* Half of a fixed step, a quarter of the error; without viscosity and forcing enstrophy is
   lost only by it. */
static void test_order(void)
{
    enum { N = 32 };
    static di_real x[N * N], y[4][N * N];
    static double want[N * N];
    static const double dt[4] = { 0.02, 0.01, 0.005, 0.00125 };
    double off[3], drift[3];
    in_case("order");
    for (int i = 0; i < N * N; i++)
        x[i] = (di_real)smooth(i / N, i % N, N);
    for (int k = 0; k < 4; k++) {
        di_flow f = { 1e9, 0.4, dt[k], 0, 1, 1, 0, 0 };
        di_apply(make(N, f), 1, x, y[k]);
        if (k < 3)
            drift[k] = fabs(inner(y[k], y[k], N * N) / inner(x, x, N * N) - 1);
    }
    for (int i = 0; i < N * N; i++)
        want[i] = y[3][i];
    for (int k = 0; k < 3; k++)
        off[k] = worst(y[k], want, N * N);
    figure("error of dt = 0.02, 0.01", off[0]);
    figure("", off[1]);
    figure("drift of enstrophy of dt = 0.02, 0.01", drift[0]);
    figure("", drift[1]);
    CHECK(off[0] > 3.8 * off[1] && off[0] < 4.5 * off[1]);
#ifdef DI_DOUBLE
    CHECK(off[1] > 3.8 * off[2] && off[1] < 4.6 * off[2]);
    CHECK(drift[1] < drift[0] / 3.9 && drift[2] < drift[1] / 3.9 && drift[0] < 1e-4);
#endif
}

/* <J d, v> by central differences of the whole solve, in double. */
static void test_difference(void)
{
#ifdef DI_DOUBLE
    enum { N = 16, M = 8 };
    static di_real x[N * N], d[N * N], a[N * N], y[2][M * M], v[M * M], gx[N * N];
    static const double h = 1e-5;
    for (int steps = 1; steps <= 20; steps += steps < 10 ? 9 : 10) {
        di_flow f = { 200, 0.01 * steps * (1 - 1e-15), 0.01, 4, 10, 2, 0, 0 };
        di_problem *p = make(N, f);
        in_case("difference, %d steps", steps);
        fill(x, N * N, 31);
        fill(d, N * N, 32);
        fill(v, M * M, 33);
        for (int side = 0; side < 2; side++) {
            for (int i = 0; i < N * N; i++)
                a[i] = x[i] + (side ? h : -h) * d[i];
            di_apply(p, 1, a, y[side]);
        }
        EQUAL(di_flow_steps(p), steps);
        EQUAL(di_apply_vjp(p, 1, x, v, gx), DI_OK);
        double want = (inner(y[1], v, M * M) - inner(y[0], v, M * M)) / (2 * h);
        NEAR(inner(gx, d, N * N), want, 1e-7 * fabs(want));
        figure(where, fabs(inner(gx, d, N * N) / want - 1));
    }
#endif
}

/* ---- Batches, memory, instruction sets --------------------------------------------------- */

/* A field of a batch has the bits that it has alone, though its neighbours take other steps,
   and on every instruction set; the derivative also whatever it keeps. */
static void test_bits(int n)
{
    static di_real x[MANY * 400], y[MANY * 400], v[MANY * 100], gx[MANY * 400], one[400];
    static di_real first[2][MANY * 400];
    size_t m = (size_t)(n * n), k = m / 4;
    fill(x, MANY * m, 41);
    fill(v, MANY * k, 42);
    for (size_t i = 0; i < MANY * m; i++) /* from rest to fast */
        x[i] *= (di_real)(0.1 * (double)(i / m));
    const char *isa;
    for (int which = 0; (isa = di_isa_list(which)) != NULL; which++) {
        in_case("bits, side %d, %s", n, isa);
        EQUAL(di_set_isa(ctx, isa), DI_OK);
        for (int keep = 0; keep <= 4; keep += 2) {
            di_flow f = { 200, 0.05, 0, 4, 10, 2, 0, keep };
            di_problem *p = make(n, f);
            EQUAL(di_apply(p, MANY, x, y), DI_OK);
            EQUAL(di_apply_vjp(p, MANY, x, v, gx), DI_OK);
            if (which == 0 && keep == 0) {
                memcpy(first[0], y, MANY * k * sizeof *y);
                memcpy(first[1], gx, MANY * m * sizeof *gx);
            }
            CHECK(same(y, first[0], MANY * k));
            CHECK(same(gx, first[1], MANY * m));
            for (size_t i = 0; i < MANY; i += 4) {
                di_apply(p, 1, x + i * m, one);
                CHECK(same(one, y + i * k, k));
                di_apply_vjp(p, 1, x + i * m, v + i * k, one);
                CHECK(same(one, gx + i * m, m));
            }
        }
    }
    di_set_isa(ctx, NULL);
}

/* A derivative that keeps little takes little, and gives all back. */
static void test_memory(void)
{
    enum { N = 32 };
    static di_real x[N * N], y[N * N], gx[N * N];
    size_t used[2];
    in_case("memory");
    fill(x, N * N, 51);
    for (int small = 0; small < 2; small++) {
        di_ctx *c;
        di_problem *p = NULL;
        EQUAL(di_open(&c, NULL, NULL), DI_OK);
        di_flow f = plain(1, 0.002);
        f.keep = small ? 16 : 0;
        EQUAL(di_problem_navier_stokes(c, N, &f, &p), DI_OK);
        size_t before = di_bytes(c), said = p->bytes(p, 1, 1);
        EQUAL(di_apply_vjp(p, 1, x, x, small ? gx : y), DI_OK);
        EQUAL(di_bytes(c), before);
        used[small] = di_bytes_peak(c) - before;
        NEAR(used[small] / (said + 20480.0), 1, 0.05); /* with tables, and heads of blocks */
        di_close(c);
    }
    CHECK(same(y, gx, N * N));
    size_t state = N * (N + 2) * sizeof(di_real);
    CHECK(used[0] > 500 * state && used[0] < 600 * state);
    CHECK(used[1] < 64 * state);
}

/* ---- Refusals ---------------------------------------------------------------------------- */

static void test_refusals(void)
{
    enum { N = 16 };
    static di_real x[N * N], y[N * N];
    static const struct { di_flow f; int n; const char *words; } bad[] = {
        { { 200, 1, 0, 4, 10, 2, 0, 0 }, 15, "must be even" },
        { { 200, 1, 0, 4, 10, 2, 0, 0 }, 6, "8 to 4096" },
        { { 0, 1, 0, 4, 10, 2, 0, 0 }, 16, "re=0" },
        { { -5, 1, 0, 4, 10, 2, 0, 0 }, 16, "re=-5 must be positive" },
        { { 200, -1, 0, 4, 10, 2, 0, 0 }, 16, "time=-1 must be positive" },
        { { 200, 1, -1, 4, 10, 2, 0, 0 }, 16, "dt=-1" },
        { { 200, 1, 1e-9, 4, 10, 2, 0, 0 }, 16, "at most 2000000 steps" },
        { { 200, 1, 0, -4, 10, 2, 0, 0 }, 16, "forcing=-4" },
        { { 200, 1, 0, 4, 0, 2, 0, 0 }, 16, "scale=0" },
        { { 200, 1, 0, 4, 10, 3, 0, 0 }, 16, "sub=3 does not divide the side, 16" },
        { { 200, 1, 0, 4, 10, 0, 0, 0 }, 16, "sub=0" },
        { { 200, 1, 0, 4, 10, 2, 0, 1 }, 16, "at least 2" } };
    di_problem *p;
    in_case("refusals");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        REFUSED(di_problem_navier_stokes(ctx, bad[i].n, &bad[i].f, &p), DI_EUSAGE,
                bad[i].words);
        CHECK(p == NULL);
    }
    fill(x, N * N, 61);
    for (int i = 0; i < N * N; i++)
        x[i] *= 300;
    REFUSED(di_apply(make(N, plain(20, 0.5)), 1, x, y), DI_ENUMERIC, "unstable");
    size_t bytes = di_bytes(ctx);
    p = make(N, plain(20, 0.5));
    bytes = di_bytes(ctx);
    REFUSED(di_apply_vjp(p, 1, x, x, y), DI_ENUMERIC, "take a smaller dt");
    EQUAL(di_bytes(ctx), bytes);
    for (int i = 0; i < N * N; i++)
        x[i] *= (di_real)1e10;
    REFUSED(di_apply(make(N, plain(1, 0)), 1, x, y), DI_ENUMERIC, "the field is too large");
    x[5] = (di_real)NAN;
    REFUSED(di_apply(make(N, plain(1, 0)), 1, x, y), DI_ENUMERIC, "holds NaN");
}

/* ---- Fields ------------------------------------------------------------------------------ */

/* Mean 0; the power at |k| = 1 and 2 is (13/10)^4 apart; a sample is that of its number. */
static void test_random_field(void)
{
    enum { N = 16, SAMPLES = 500 };
    static di_real w[N * N], again[N * N];
    flow_plan plan = FLOW_PLAN;
    double power[2] = { 0 }, square = 0, mean = 0;
    in_case("random field");
    for (int s = 0; s < SAMPLES; s++) {
        EQUAL(make_grf(ctx, &plan, 7, (uint64_t)s, N, w), DI_OK);
        double sum = 0;
        for (int i = 0; i < N * N; i++)
            sum += w[i];
        mean = larger(mean, fabs(sum) / (N * N));
        square += inner(w, w, N * N) / (N * N);
        for (int k = 1; k <= 2; k++)
            for (int along = 0; along < 2; along++) {
                double re = 0, im = 0;
                for (int i = 0; i < N * N; i++) {
                    double t = PI2 * k * (along ? i % N : i / N) / N;
                    re += w[i] * cos(t);
                    im += w[i] * sin(t);
                }
                power[k - 1] += re * re + im * im;
            }
    }
    NEAR(mean, 0, BOUND(1e-8, 1e-16));
    NEAR(power[0] / power[1], pow(1.3, 4), 0.15 * pow(1.3, 4)); /* 2000 squares each */
    NEAR(sqrt(square / SAMPLES), 0.15385, 0.005); /* the sum of lambda^2 / n^4 */
    figure("power ratio", power[0] / power[1]);
    figure("deviation", sqrt(square / SAMPLES));
    make_grf(ctx, &plan, 7, SAMPLES - 1, N, again);
    CHECK(same(w, again, N * N));
    make_grf(ctx, &plan, 8, SAMPLES - 1, N, again);
    CHECK(!same(w, again, N * N));
    REFUSED(make_grf(ctx, &plan, 7, 0, 15, w), DI_EUSAGE, "must be even");
    plan.tau = -1;
    REFUSED(make_grf(ctx, &plan, 7, 0, N, w), DI_EUSAGE, "tau=-1");
}

static void test_vorticity(void)
{
    enum { N = 32, COUNT = 3 };
    static di_real x[COUNT * N * N], one[N * N];
    flow_plan plan = FLOW_PLAN;
    in_case("evolved field");
    EQUAL(make_vorticity(ctx, &plan, 3, 10, COUNT, N, x), DI_OK);
    double rms = sqrt(inner(x, x, COUNT * N * N) / (COUNT * N * N));
    figure("deviation of evolved fields", rms);
    CHECK(rms > 0.4 && rms < 1);
    EQUAL(make_vorticity(ctx, &plan, 3, 11, 1, N, one), DI_OK);
    CHECK(same(one, x + N * N, N * N));
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    EQUAL(di_open(&ctx, NULL, NULL), DI_OK);
    static const int side[] = { 8, 10, 12, 14, 16 };
    for (int i = 0; i < 5; i++)
        test_formulas(side[i], 1);
    test_formulas(12, 10);
    test_official();
    test_taylor_green();
    test_symmetry();
    test_order();
    test_difference();
    test_bits(16);
    test_bits(20);
    test_memory();
    test_refusals();
    test_random_field();
    test_vorticity();
    di_close(ctx);
    return finish();
}
