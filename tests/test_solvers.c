/* test_solvers.c: each solver against closed forms on exact Gaussian priors, against its own
   promises (batches, seeds, replayed noise, errors), and DPS against the official program. */
#define DIFFINV_KERNELS
#include "run.h"

#include <stdlib.h>

/* The schedule of 1000 steps, in long double. */
static long double abar_at(int t)
{
    long double a = 1;
    for (int i = 0; i <= t; i++)
        a *= 1 - (1e-4L + (2e-2L - 1e-4L) * i / 999);
    return a;
}

/* N(m, v I) in `d` dimensions. */
static di_prior *gaussian(int c, int h, int w, double m, double v)
{
    static di_real mean[2048], cov[2048];
    di_prior *p;
    for (int i = 0; i < c * h * w; i++) {
        mean[i] = (di_real)m;
        cov[i] = (di_real)v;
    }
    EQUAL(di_prior_gauss(ctx, c, h, w, mean, cov, 0, &p), DI_OK);
    return p;
}

/* ---- A prior that watches another, and can be made to fail ------------------------------- */

enum { SPY = 512 };
typedef struct spy {
    di_prior p, *inner;
    int calls, vjps;
    int nan_at, fail_at, nan_vjp, fail_vjp; /* the call that goes wrong; 0: none */
    double head;                        /* what the variance head says */
    const di_real *push;                /* added to eps, or NULL */
    di_real x[SPY], eps[SPY];           /* of the last call, first image */
} spy;

static di_status spy_eval(di_prior *p, size_t n, const double *t, const di_real *x,
                          di_real *eps, di_real *v, int keep)
{
    spy *s = p->self;
    size_t d = (size_t)p->c * p->h * p->w;
    if (++s->calls == s->fail_at)
        return DI_EMEMORY;
    di_status status = s->inner->eval(s->inner, n, t, x, eps, NULL, keep);
    for (size_t i = 0; v && p->variance == DI_VAR_LEARNED_RANGE && i < n * d; i++)
        v[i] = (di_real)s->head;
    for (size_t i = 0; s->push && i < n * d; i++)
        eps[i] += s->push[i % d];
    if (s->calls == s->nan_at)
        eps[n * d - 1] = NAN;
    memcpy(s->x, x, d * sizeof *x);
    memcpy(s->eps, eps, d * sizeof *eps);
    return status;
}

static di_status spy_vjp(di_prior *p, int keep, const di_real *geps, di_real *gx)
{
    spy *s = p->self;
    if (++s->vjps == s->fail_vjp)
        return DI_EMEMORY;
    di_status status = s->inner->vjp(s->inner, keep, geps, gx);
    if (s->vjps == s->nan_vjp)
        gx[0] = NAN;
    return status;
}

static size_t no_bytes(di_prior *p, size_t n, int keep)
{
    (void)p;
    (void)n;
    (void)keep;
    return 0;
}

static spy *watch(di_prior *inner)
{
    static spy s;
    memset(&s, 0, sizeof s);
    s.inner = inner;
    s.p = *inner;
    s.p.eval = spy_eval;
    s.p.vjp = spy_vjp;
    s.p.bytes = no_bytes;
    s.p.self = &s;
    return &s;
}

/* ---- Reports ----------------------------------------------------------------------------- */

enum { STEPS = 1000, KEEP = 512 };
static struct trace {
    int n, stop_at;             /* steps seen; the step to stop at, 0: none */
    size_t d;                   /* elements of x kept */
    double t[STEPS], sigma[STEPS], residual[STEPS];
    di_real x[KEEP], x0[KEEP];  /* of the last step */
} trace;

static int record(void *user, const di_step *s)
{
    (void)user;
    int i = s->step - 1;
    EQUAL(i, trace.n);
    trace.t[i] = s->t;
    trace.sigma[i] = s->sigma;
    trace.residual[i] = s->residual;
    memcpy(trace.x, s->x, trace.d * sizeof *s->x);
    memcpy(trace.x0, s->x0, trace.d * sizeof *s->x0);
    trace.n = s->step;
    return s->step == trace.stop_at;
}

static void trace_begin(size_t d, int stop_at)
{
    trace.n = 0;
    trace.d = d;
    trace.stop_at = stop_at;
}

/* ---- Schedule: P1 and respacing ---------------------------------------------------------- */

static void test_tables(void)
{
    static const struct { int t; double sigma; } known[] = { { 0, 0.01000050004 },
        { 100, 0.342259699 }, { 499, 3.424136619 }, { 999, 157.4072808 } };
    static const struct { int t; double abar; } product[] = { { 0, 0.9999 },
        { 1, 0.999780092072 }, { 499, 0.078587242882 }, { 998, 4.118193638e-5 },
        { 999, 4.035829765e-5 } };
    di_real x[1];
    job j = { .solver = "ddim", .settings = "steps=1000", .prior = gaussian(1, 1, 1, 0, 1),
              .report = record };
    in_case("tables");
    trace_begin(1, 0);
    EQUAL(solve(&j, x), DI_OK);
    EQUAL(trace.n, 1000);
    double most = 0;
    for (int i = 0; i < 1000; i++) {
        long double abar = abar_at(999 - i);
        double want = (double)sqrtl((1 - abar) / abar), d = fabs(trace.sigma[i] / want - 1);
        EQUAL(trace.t[i], 999 - i);
        most = d <= most ? most : d == d ? d : HUGE_VAL;
        EQUAL(trace.residual[i], -1);
    }
    NEAR(most, 0, 2e-12); /* 1 - abar loses 4 of double's 16 digits at t = 0 */
    figure("sigma of 1000 steps, relative", most);
    for (int i = 0; i < 4; i++)
        NEAR(trace.sigma[999 - known[i].t], known[i].sigma, 1e-9 * known[i].sigma);
    for (int i = 0; i < 5; i++) {
        double s = trace.sigma[999 - product[i].t];
        NEAR(1 / (1 + s * s), product[i].abar, 2e-10 * product[i].abar);
    }
}

/* Kept times in running order; sigma belongs to the original time whatever is kept. */
static void test_respacing(void)
{
    static const int counts[] = { 1, 2, 7, 20, 50, 100, 250, 333, 999, 1000 };
    static const int fifty[] = { 0, 20, 41, 61, 82, 102, 122, 143, 163, 183 };
    di_real x[1];
    job j = { .solver = "ddpm", .prior = gaussian(1, 1, 1, 0, 1), .report = record };
    for (int c = 0; c < 10; c++) {
        char settings[64];
        int K = counts[c];
        snprintf(settings, sizeof settings, "steps=%d spacing=even", K);
        in_case("ddpm %s", settings);
        j.settings = settings;
        trace_begin(1, 0);
        EQUAL(solve(&j, x), DI_OK);
        EQUAL(trace.n, K);
        double at = 0;
        for (int k = 0; k < K; k++, at += 999.0 / (K - 1)) {
            EQUAL(trace.t[K - 1 - k], K == 1 ? 0 : rint(at));
            if (K == 50 && k < 10)
                EQUAL(trace.t[K - 1 - k], fifty[k]);
        }
        long double abar = abar_at((int)trace.t[0]);
        NEAR(trace.sigma[0], (double)sqrtl((1 - abar) / abar), 2e-12 * trace.sigma[0]);
        if (K > 1)
            EQUAL(trace.t[0], 999);
    }
    static const int strides[][2] = { { 1, 1000 }, { 3, 334 }, { 20, 50 }, { 50, 20 },
                                      { 100, 10 }, { 250, 4 }, { 500, 2 }, { 1000, 1 } };
    for (int c = 0; c < 8; c++) {
        char settings[64];
        int K = strides[c][0];
        snprintf(settings, sizeof settings, "steps=%d spacing=ddim", K);
        in_case("ddpm %s", settings);
        j.settings = settings;
        trace_begin(1, 0);
        EQUAL(solve(&j, x), DI_OK);
        EQUAL(trace.n, K);
        for (int k = 0; k < K; k++)
            EQUAL(trace.t[K - 1 - k], k * strides[c][1]);
    }
    in_case("respacing refusals");
    j.settings = "steps=999 spacing=ddim";
    REFUSED(solve(&j, x), DI_EUSAGE, "no whole stride over 1000 steps keeps 999");
    j.settings = "steps=1001";
    REFUSED(solve(&j, x), DI_EUSAGE, "steps=1001, but the prior has only 1000");
}

/* ---- P2: DDIM on N(0, I) is a rotation --------------------------------------------------- */

static int check_rotation(void *user, const di_step *s)
{
    double *most = user;
    int t = (int)s->t;
    double turn = t ? acos((double)sqrtl(abar_at(t))) - acos((double)sqrtl(abar_at(t - 1)))
                    : acos((double)sqrtl(abar_at(0)));
    for (int i = 0; i < 3 && s->step > 1; i++) {
        double d = fabs(s->x[i] / (trace.x[i] * cos(turn)) - 1);
        *most = d <= *most ? *most : d == d ? d : HUGE_VAL;
    }
    memcpy(trace.x, s->x, 3 * sizeof *s->x);
    return 0;
}

static void test_rotation(void)
{
    static float noise[3 * 1001] = { 1, -0.5f, 0.25f };
    di_real x[3];
    double most = 0;
    job j = { .solver = "ddim", .settings = "steps=1000 eta=0 clip=no", .noise = noise,
              .prior = gaussian(1, 1, 3, 0, 1), .count = 3 * 1001, .report = check_rotation,
              .user = &most };
    in_case("DDIM rotation");
    EQUAL(solve(&j, x), DI_OK);
    NEAR(most, 0, BOUND(1e-6, 1e-14));
    figure("DDIM rotation, one step", most);
    for (int i = 0; i < 3; i++)
        NEAR(x[i], 0.9981242939976 * noise[i], BOUND(5e-6, 2e-13)); /* thirteen digits given */
    figure("DDIM rotation, total gain", fabs(x[0] - 0.9981242939976));
}

/* ---- P3: DDPM's mean and variance -------------------------------------------------------- */

/* With a N(0, I) prior each coordinate obeys the same linear recursion, x' = g x + c_k z_k.
   Draw number k is an impulse at coordinate k, so coordinate k of the iterate is the weight of
   that draw, and the sum of squares over coordinates is the variance under normal draws. */
static double impulses(di_prior *prior, const char *settings, int K, di_report_fn report,
                       di_real *x)
{
    size_t d = (size_t)K + 1;
    float *noise = calloc(d * d, sizeof *noise);
    double sum = 0;
    for (size_t k = 0; k < d; k++)
        noise[k * d + k] = 1;
    job j = { .solver = "ddpm", .settings = settings, .prior = prior, .noise = noise,
              .count = d * d, .report = report, .user = &d };
    EQUAL(solve(&j, x), DI_OK);
    EQUAL(j.used, d * d);
    for (size_t i = 0; i < d; i++)
        sum += (double)x[i] * x[i];
    free(noise);
    return sum;
}

static int unit_variance(void *user, const di_step *s)
{
    size_t d = *(size_t *)user;
    double sum = 0;
    for (size_t i = 0; i < d; i++)
        sum += (double)s->x[i] * s->x[i];
    if (s->step < s->steps)
        NEAR(sum, 1, BOUND(1e-5, 1e-11));
    return 0;
}

/* The start's weight shrinks by sqrt(1 - beta) a step exactly. */
static int shrinks(void *user, const di_step *s)
{
    double *gain = user, beta = 1e-4 + (2e-2 - 1e-4) * s->t / 999;
    *gain = s->step == 1 ? sqrt(1 - beta) : *gain * sqrt(1 - beta);
    NEAR(s->x[0], *gain, BOUND(5e-6, 1e-12));
    return 0;
}

static void test_ddpm_law(void)
{
    static const struct { int K; double variance; } known[] = { { 1000, 0.991067376 },
        { 100, 0.920876952 }, { 50, 0.855057436 }, { 20, 0.700577471 } };
    static di_real x[1001], fixed[1001];
    for (int i = 0; i < 4; i++) {
        char settings[80];
        di_prior *p = gaussian(1, 1, known[i].K + 1, 0, 1);
        snprintf(settings, sizeof settings, "steps=%d clip=no var=fixed_small", known[i].K);
        in_case("ddpm %s", settings);
        double v = impulses(p, settings, known[i].K, NULL, x);
        NEAR(v, known[i].variance, BOUND(2e-6, 6e-10)); /* nine digits given */
        figure(where, fabs(v - known[i].variance));
        snprintf(settings, sizeof settings, "steps=%d clip=no var=fixed_large", known[i].K);
        in_case("ddpm %s", settings);
        impulses(p, settings, known[i].K, unit_variance, x);
    }
    static float noise[1001] = { 1 };
    double gain;
    job j = { .solver = "ddpm", .settings = "steps=1000 clip=no", .noise = noise, .count = 1001,
              .prior = gaussian(1, 1, 1, 0, 1), .report = shrinks, .user = &gain };
    in_case("ddpm mean");
    EQUAL(solve(&j, x), DI_OK);
    for (int head = -1; head <= 1; head += 2) { /* the learned range's two ends */
        spy *s = watch(gaussian(1, 1, 21, 0, 1));
        in_case("ddpm learned_range, v = %d", head);
        impulses(&s->p, head < 0 ? "steps=20 clip=no var=fixed_small"
                                 : "steps=20 clip=no var=fixed_large", 20, NULL, fixed);
        s->p.variance = DI_VAR_LEARNED_RANGE;
        s->head = head;
        impulses(&s->p, "steps=20 clip=no", 20, NULL, x);
        CHECK(same(x, fixed, 21));
    }
    spy *s = watch(gaussian(1, 1, 21, 0, 1)); /* auto: none means fixed_large */
    impulses(&s->p, "steps=20 clip=no var=fixed_large", 20, NULL, fixed);
    s->p.variance = DI_VAR_NONE;
    impulses(&s->p, "steps=20 clip=no var=auto", 20, NULL, x);
    CHECK(same(x, fixed, 21));
    di_real one[1];
    job learned = { .solver = "ddpm", .settings = "var=learned_range", .prior = j.prior };
    REFUSED(solve(&learned, one), DI_EUSAGE, "this prior has no variance head");
}

/* ---- P5: the DPS gradient in two dimensions, and on a curved denoiser -------------------- */

/* One step, abar = 0.37: eps = tilt sin(M x / tilt) or, with tilt 0, M x; at most 3-D. */
typedef struct matrix_prior {
    di_prior p;
    double beta, M[9], tilt;
    di_real x[3];
} matrix_prior;

static di_status matrix_eval(di_prior *p, size_t n, const double *t, const di_real *x,
                             di_real *eps, di_real *v, int keep)
{
    matrix_prior *m = p->self;
    int d = p->w;
    (void)t;
    (void)v;
    (void)keep;
    EQUAL(n, 1);
    for (int i = 0; i < d; i++) {
        double s = 0;
        for (int k = 0; k < d; k++)
            s += m->M[i * d + k] * x[k];
        eps[i] = (di_real)(m->tilt != 0 ? m->tilt * sin(s / m->tilt) : s);
        m->x[i] = x[i];
    }
    return DI_OK;
}

static di_status matrix_vjp(di_prior *p, int keep, const di_real *geps, di_real *gx)
{
    matrix_prior *m = p->self;
    int d = p->w;
    (void)keep;
    for (int k = 0; k < d; k++) {
        double sum = 0;
        for (int i = 0; i < d; i++) {
            double s = 0;
            for (int l = 0; l < d; l++)
                s += m->M[i * d + l] * m->x[l];
            sum += m->M[i * d + k] * (m->tilt != 0 ? cos(s / m->tilt) : 1) * geps[i];
        }
        gx[k] = (di_real)sum;
    }
    return DI_OK;
}

static di_prior *one_step(int d, const double *M, double tilt)
{
    static matrix_prior m;
    memset(&m, 0, sizeof m);
    m.beta = 0.63;
    m.tilt = tilt;
    memcpy(m.M, M, (size_t)(d * d) * sizeof *M);
    di_prior p = { .ctx = ctx, .c = 1, .h = 1, .w = d, .variance = DI_VAR_FIXED_SMALL,
                   .steps = 1, .beta = &m.beta, .eval = matrix_eval, .vjp = matrix_vjp,
                   .bytes = no_bytes, .self = &m };
    m.p = p;
    return &m.p;
}

/* y = A x, A (y[2], x[2]) in self. */
static void matrix_apply(const di_problem *p, const di_real *x, di_real *y)
{
    const double *A = p->self;
    for (int i = 0; i < p->y[2]; i++) {
        double s = 0;
        for (int k = 0; k < p->x[2]; k++)
            s += A[i * p->x[2] + k] * x[k];
        y[i] = (di_real)s;
    }
}

static void matrix_apply_vjp(const di_problem *p, const di_real *x, const di_real *v,
                             di_real *gx)
{
    const double *A = p->self;
    (void)x;
    for (int k = 0; k < p->x[2]; k++) {
        double s = 0;
        for (int i = 0; i < p->y[2]; i++)
            s += A[i * p->x[2] + k] * v[i];
        gx[k] = (di_real)s;
    }
}

static di_problem matrix_problem(int m, int d, const double *A)
{
    di_problem p = { .ctx = ctx, .name = "matrix", .linear = 1, .x = { 1, 1, d },
                     .y = { 1, 1, m }, .apply = matrix_apply, .vjp = matrix_apply_vjp,
                     .self = (void *)A };
    return p;
}

static const char one_dps_step[] = "steps=1 scale=1 clip=no";

/* The norm of the residual at a start x, by one step. */
static double residual_at(job *j, const double *x, int d, int m)
{
    float noise[16] = { 0 };
    di_real out[3];
    for (int i = 0; i < d; i++)
        noise[i] = (float)x[i];
    j->noise = noise;
    j->count = 16;
    j->report = record;
    trace_begin((size_t)d, 0);
    EQUAL(solve(j, out), DI_OK);
    return trace.residual[0] * sqrt(m);
}

/* At abar = 0.37 the last step's mean is x0, so g = x0 - result. */
static void test_dps_gradient(void)
{
    const double abar = 0.37, C[4] = { 0.5, 0.2, 0.2, 0.3 }, A[2] = { 1, -0.4 };
    const double want[2] = { -0.3103185789, -0.0346808710 };
    const double exact[2] = { 0.0879901232, 0.0098336817 };
    double a = abar * C[0] + 1 - abar, b = abar * C[1], d = abar * C[3] + 1 - abar;
    double f = sqrt(1 - abar) / (a * d - b * b), M[4] = { f * d, -f * b, -f * b, f * a };
    float noise[5] = { 0.8f, -1.1f, 9, 9, 9 };
    di_real y[1] = { (di_real)0.3 }, x[2];
    di_problem p = matrix_problem(1, 2, A);
    job j = { .solver = "dps", .settings = one_dps_step, .prior = one_step(2, M, 0),
              .problem = &p, .y = y, .noise = noise, .count = 5, .report = record };
    in_case("DPS gradient in two dimensions");
    trace_begin(2, 0);
    EQUAL(solve(&j, x), DI_OK);
    EQUAL(j.used, 5);
    double x0[2], g[2], J[4], S = 0, rho = trace.residual[0];
    for (int i = 0; i < 2; i++) {
        x0[i] = (noise[i] - sqrt(1 - abar) * (M[2 * i] * noise[0] + M[2 * i + 1] * noise[1]))
                / sqrt(abar);
        g[i] = x0[i] - x[i];
        NEAR(trace.x0[i], x0[i], BOUND(3e-7, 1e-15));
        NEAR(g[i], want[i], BOUND(3e-7, 2e-10));
        for (int k = 0; k < 2; k++)
            J[2 * i + k] = ((i == k) - sqrt(1 - abar) * M[2 * i + k]) / sqrt(abar);
    }
    NEAR(rho, fabs(0.3 - (x0[0] - 0.4 * x0[1])), BOUND(2e-7, 1e-8)); /* y is 0.3f in float */
    for (int i = 0; i < 2; i++) /* P5b: A Sig A^T, Sig = (1-abar)/sqrt(abar) J */
        for (int k = 0; k < 2; k++)
            S += A[i] * (1 - abar) / sqrt(abar) * J[2 * i + k] * A[k];
    for (int i = 0; i < 2; i++) /* the start is 0.8f, -1.1f: 3e-8 off */
        NEAR(-g[i] * rho / (S + 0.01), exact[i], BOUND(3e-7, 2e-8));
    noise[3] = noise[4] = noise[2] = -7; /* the last step's draws change nothing */
    di_real again[2];
    EQUAL(solve(&(job){ .solver = "dps", .settings = one_dps_step, .prior = j.prior,
                        .problem = &p, .y = y, .noise = noise, .count = 5 }, again), DI_OK);
    CHECK(same(x, again, 2));
}

/* Central differences (Richardson) of the residual's norm through a curved denoiser. */
static void test_dps_curved(void)
{
    static const double M[9] = { 0.9, 0.3, -0.2, 0.1, 0.8, 0.4, -0.3, 0.2, 0.7 };
    static const double A[6] = { 1, -0.4, 0.3, 0.2, 0.9, -0.7 };
    static const double at[3] = { 0.75, -1.125, 0.5 };
    di_real y[2] = { (di_real)0.25, (di_real)-0.5 }, x[3];
    di_problem p = matrix_problem(2, 3, A);
    job j = { .solver = "dps", .settings = one_dps_step, .prior = one_step(3, M, 0.5),
              .problem = &p, .y = y };
    in_case("DPS gradient through a curved denoiser");
    float noise[8] = { 0.75f, -1.125f, 0.5f };
    double x0[3], most = 0;
    j.noise = noise;
    j.count = 8;
    j.report = record;
    trace_begin(3, 0);
    EQUAL(solve(&j, x), DI_OK);
    for (int i = 0; i < 3; i++)
        x0[i] = trace.x0[i];
    for (int i = 0; i < 3; i++) {
        double slope[2];
        for (int k = 0; k < 2; k++) {
            double h = BOUND(0.03125, 0.001953125) / (1 + k), plus[3], minus[3];
            for (int l = 0; l < 3; l++) {
                plus[l] = at[l] + (l == i ? h : 0);
                minus[l] = at[l] - (l == i ? h : 0);
            }
            slope[k] = (residual_at(&j, plus, 3, 2) - residual_at(&j, minus, 3, 2)) / (2 * h);
        }
        double want = (4 * slope[1] - slope[0]) / 3, d = fabs(x0[i] - x[i] - want);
        NEAR(x0[i] - x[i], want, BOUND(3e-5, 1e-9));
        most = d > most ? d : most;
    }
    figure("DPS gradient against central differences", most);
}

/* ---- DPS: scale 0, clipping, the norm ---------------------------------------------------- */

static void test_dps_limits(void)
{
    enum { D = 3 * 4 * 4 };
    di_real y[D], x[D], plain[D];
    di_prior *prior = gaussian(3, 4, 4, 0.25, 0.25);
    di_problem *p;
    fill(y, D, 40);
    EQUAL(di_problem_denoise(ctx, 3, 4, 4, &p), DI_OK);
    static const char *const settings[] = { "steps=20 clip=yes", "steps=20 clip=no",
        "steps=7 spacing=ddim clip=yes var=fixed_large", "steps=1" };
    for (int i = 0; i < 4; i++) {
        char with[80];
        snprintf(with, sizeof with, "%s scale=0", settings[i]);
        in_case("dps %s is ddpm", with);
        job free_run = { .solver = "ddpm", .settings = settings[i], .prior = prior, .seed = 3 };
        job dps = { .solver = "dps", .settings = with, .prior = prior, .problem = p, .y = y,
                    .seed = 3 };
        EQUAL(solve(&free_run, plain), DI_OK);
        EQUAL(solve(&dps, x), DI_OK);
        CHECK(same(x, plain, D));
        EQUAL(dps.cost.net_vjp, 0);
        EQUAL(dps.cost.apply_vjp, 0);
    }
    /* One step from t = 0, where x0 is nearly x: the components beyond 1 get no gradient. */
    float noise[3 * D] = { 0 };
    for (int i = 0; i < D; i++)
        noise[i] = i % 3 ? (float)(4 * value_at((size_t)i, 41)) : 0.5f;
    job one = { .solver = "dps", .settings = "steps=1 scale=0.3", .prior = prior, .problem = p,
                .y = y, .noise = noise, .count = 3 * D };
    job none = one;
    none.settings = "steps=1 scale=0";
    in_case("dps, clipped components");
    EQUAL(solve(&one, x), DI_OK);
    EQUAL(solve(&none, plain), DI_OK);
    int clipped = 0, moved = 0;
    double length = 0;
    for (int i = 0; i < D; i++) {
        int out = fabsf(noise[i]) > 1.05f;
        clipped += out;
        if (out)
            EQUAL(x[i], plain[i]);
        else if (fabsf(noise[i]) < 0.95f)
            moved += x[i] != plain[i];
        length += (x[i] - plain[i]) * (x[i] - plain[i]);
    }
    CHECK(clipped > 5 && moved > 5);
    CHECK(sqrt(length) < 0.31 && sqrt(length) > 0.01); /* at most scale |J|: a unit direction */
    for (int i = 0; i < D; i++)
        noise[i] = i % 2 ? 30.0f : -30.0f;
    EQUAL(solve(&one, x), DI_OK);
    EQUAL(solve(&none, plain), DI_OK);
    in_case("dps, everything clipped");
    CHECK(same(x, plain, D));
    /* A residual of exactly 0 gives no gradient, not a division by it. */
    for (int i = 0; i < D; i++)
        y[i] = i % 2 ? 1 : -1;
    in_case("dps, residual 0");
    EQUAL(solve(&one, x), DI_OK);
    CHECK(same(x, plain, D));
}

/* ---- DDNM: P13 --------------------------------------------------------------------------- */

typedef struct projection {
    spy *watched;
    const di_problem *p;
    const di_real *y;
    double sigma_y, most;
} projection;

/* x0 = D + lam A^+ (y - A D) with the clamped estimate D, lam = min(1, sigma'/sigma_y); so with
   lam = 1: A x0 = y, and x0 - D lies in the range of A^+. */
static int check_projection(void *user, const di_step *s)
{
    projection *q = user;
    di_real D[SPY], r[SPY], back[SPY];
    size_t d = (size_t)q->watched->p.c * q->watched->p.h * q->watched->p.w;
    size_t m = (size_t)q->p->y[0] * q->p->y[1] * q->p->y[2];
    double abar = 1 / (1 + s->sigma * s->sigma), next = 0, lam = 1;
    int kept = (int)rint((s->steps - s->step) * 999.0 / (s->steps - 1)), before
        = (int)rint((s->steps - s->step - 1) * 999.0 / (s->steps - 1));
    EQUAL(s->t, kept);
    if (s->step < s->steps)
        next = (double)sqrtl((1 - abar_at(before)) / abar_at(before));
    if (next < q->sigma_y)
        lam = next / q->sigma_y;
    for (size_t i = 0; i < d; i++) {
        double u = q->watched->x[i] / sqrt(abar) - sqrt(1 / abar - 1) * q->watched->eps[i];
        D[i] = (di_real)(u < -1 ? -1 : u > 1 ? 1 : u);
    }
    di_apply(q->p, 1, D, r);
    for (size_t i = 0; i < m; i++)
        r[i] = q->y[i] - r[i];
    di_apply_pinv(q->p, 1, r, back);
    double far = 0;
    for (size_t i = 0; i < d; i++) {
        double e = fabs(s->x0[i] - (D[i] + lam * back[i]));
        far = e <= far ? far : e == e ? e : HUGE_VAL;
    }
    NEAR(far, 0, BOUND(1e-4, 1e-12)); /* float: the start weighs 157 in D before its clamp */
    q->most = far > q->most ? far : q->most;
    if (lam == 1) {
        di_apply(q->p, 1, s->x0, r);
        for (size_t i = 0; i < m; i++)
            NEAR(r[i], q->y[i], BOUND(2e-6, 1e-14));
    }
    return 0;
}

static void test_ddnm(void)
{
    enum { D = 2 * 8 * 8 };
    static const double sigmas[] = { 0, 0.05, 1e2 };
    di_real truth[D], y[D], mask[64], x[D], other[D];
    di_problem *problem[2];
    fill(truth, D, 42);
    for (int i = 0; i < 64; i++)
        mask[i] = value_at((size_t)i, 43) > 0;
    di_problem_inpaint(ctx, 2, 8, 8, mask, &problem[0]);
    di_problem_sr(ctx, 2, 8, 8, 2, DI_SR_MEAN, &problem[1]);
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < 3; i++) {
            char settings[80];
            projection q = { watch(gaussian(2, 8, 8, 0.1, 0.25)), problem[k], y, sigmas[i], 0 };
            di_apply(problem[k], 1, truth, y);
            snprintf(settings, sizeof settings, "steps=40 sigma_y=%g weight=one", sigmas[i]);
            in_case("ddnm %s, %s", problem[k]->name, settings);
            job j = { .solver = "ddnm", .settings = settings, .prior = &q.watched->p, .seed = 8,
                      .problem = problem[k], .y = y, .report = check_projection, .user = &q };
            EQUAL(solve(&j, x), DI_OK);
            figure(where, q.most);
            EQUAL(j.cost.net, 40);
            EQUAL(j.cost.net_vjp, 0);
        }
    for (int i = 0; i < 3; i++) { /* weight=each: all singular values of sr=2 are 1/2 */
        char settings[80];
        projection q = { watch(gaussian(2, 8, 8, 0.1, 0.25)), problem[1], y, 2 * sigmas[i], 0 };
        di_apply(problem[1], 1, truth, y);
        snprintf(settings, sizeof settings, "steps=40 sigma_y=%g weight=each", sigmas[i]);
        in_case("ddnm sr, %s", settings);
        job j = { .solver = "ddnm", .settings = settings, .prior = &q.watched->p, .seed = 8,
                  .problem = problem[1], .y = y, .report = check_projection, .user = &q };
        EQUAL(solve(&j, x), DI_OK);
        figure(where, q.most);
    }
    /* gam = 0 where sigma_y exceeds the next level: the draws after the start do not matter. */
    static float noise[21 * D], noise2[21 * D];
    for (int i = 0; i < 21 * D; i++) {
        noise[i] = (float)(2 * value_at((size_t)i, 44));
        noise2[i] = i < D ? noise[i] : -3;
    }
    job quiet = { .solver = "ddnm", .y = y,
                  .settings = "steps=10 sigma_y=100 spacing=ddim weight=one",
                  .prior = gaussian(2, 8, 8, 0, 1), .problem = problem[1], .noise = noise,
                  .count = 21 * D };
    in_case("ddnm, sigma_y above every level");
    EQUAL(solve(&quiet, x), DI_OK);
    EQUAL(quiet.used, 21 * D);
    quiet.noise = noise2;
    EQUAL(solve(&quiet, other), DI_OK);
    CHECK(same(x, other, D));
    /* sigma_y = 0: what the network says in the range of A^+ does not matter. */
    spy *s = watch(gaussian(2, 8, 8, 0, 0.25));
    di_real push[D];
    fill(push, D, 45);
    di_apply(problem[0], 1, push, push);
    di_apply(problem[0], 1, truth, y);
    job j = { .solver = "ddnm", .settings = "steps=20 sigma_y=0", .prior = &s->p, .y = y,
              .problem = problem[0] };
    in_case("ddnm, eps changed on the known pixels");
    EQUAL(solve(&j, x), DI_OK);
    s->push = push;
    EQUAL(solve(&j, other), DI_OK);
    for (int i = 0; i < D; i++)
        NEAR(x[i], other[i], BOUND(1e-5, 1e-13));
}

/* ---- Promises of every solver ------------------------------------------------------------ */

/* A short run of each solver: its steps; what it calls per sample; the replayed normals it
   draws or discards, in images and in measurements. */
typedef struct kind {
    const char *solver, *settings;
    int steps, net, net_vjp, apply, apply_vjp, images, measured;
} kind;

static const kind kinds[] = {
    { "ddpm", "steps=5", 5, 5, 0, 0, 0, 1 + 5, 0 },
    { "ddim", "steps=5 eta=0.5", 5, 5, 0, 0, 0, 1 + 5, 0 },
    { "dps", "steps=5", 5, 5, 5, 5, 5, 1 + 5, 5 },
    { "dps", "steps=5 scale=0 clip=no", 5, 5, 0, 5, 0, 1 + 5, 5 },
    { "ddnm", "steps=5", 5, 5, 0, 2 * 5, 0, 1 + 2 * 5, 0 }, /* one image a step discarded */
    { "ddnm", "steps=5 travel=1 spacing=log final=0.01", 5, 1 + 4 * 2, 0, 2 * 9, 0,
      1 + 2 + 4 * 3, 0 },
    { "ddnm", "steps=5 travel=2 spacing=vp weight=one", 5, 1 + 2 + 3 * 3, 0, 2 * 12, 0,
      1 + 2 + 3 + 3 * 4, 0 },
    { "edm", "steps=5", 5, 9, 0, 0, 0, 1, 0 }, /* the last step, to 0, is Euler's */
    { "edm", "steps=5 grid=vp final=0.01", 5, 10, 0, 0, 0, 1, 0 },
    { "edm", "steps=5 grid=vp step=sde", 5, 5, 0, 0, 0, 1 + 5, 0 },
    { "edm", "steps=5 grid=sqrt step=euler", 5, 5, 0, 0, 0, 1, 0 },
    { "dps_mo", "steps=5 n=3", 5, 5, 0, 5 * 4, 5 * 3, 1 + 5 * 4, 0 },
    { "dps_mo", "steps=5 n=3 variant=a", 5, 10, 0, 5 * 4, 5 * 3, 1 + 5 * 4, 0 },
    { "dps_mo", "steps=5 n=3 variant=c", 5, 5, 0, 5 * 4, 5 * 3, 1 + 5 * 4, 0 },
    { "dps_mo", "steps=5 n=3 noise=no", 5, 5, 0, 5 * 4, 5 * 3, 1 + 5, 0 },
    { "reddiff_mo", "steps=5 n=3", 5, 5, 0, 5 * 5, 5 * 4, 5 * 4, 0 },
    { "reddiff", "steps=5 sigma_x0=0.1", 5, 5, 0, 5, 5, 5 * 2, 0 },
    { "reddiff", "steps=5 start=zero", 5, 5, 0, 5, 5, 5 * 2, 0 }, /* both always drawn */
    { "dmplug", "iters=5 es=no", 5, 15, 15, 5, 5, 1, 0 },
    { "dmplug", "iters=6 window=3 patience=9", 6, 18, 18, 6, 6, 1, 0 },
    { "dmplug", "iters=5 es=no recompute=yes clip=no", 5, 25, 15, 5, 5, 1, 0 },
    { "cps", "steps=8 n=4 thr=0.5 compat_hole=no batch=3", 8, 1 + 5 + 1 + 1 + 3 * 5 + 1, 0,
      3 * 4, 0, 1 + 8 + 3 * 4, 0 },
    { "cps", "steps=8 n=4 passes=2 window=0.5", 8, 1 + 3 * 2 * 5 + 3 * 5 + 1, 0,
      (3 * 2 + 3) * 4, 0, 1 + 3 * (2 * 4 + 1) + 3 * 4, 0 },
    { "scg", "steps=8 n=4", 8, 2 + 5 * 5 + 1, 0, 5 * 4, 0, 1 + 2 + 5 * 4, 0 },
    { "scg", "steps=8 n=4 thr=0 hole=yes mirror=yes batch=3", 8, 1 + 6 * 5 + 1, 0, 6 * 4, 0,
      1 + 6 * 4, 0 } };
enum { KINDS = sizeof kinds / sizeof *kinds, SMALL = 16, FEW = 4 };

#ifdef __TINYC__ /* networks are 30 times slower than with vectors */
enum { SLOW = 1 };
#else
enum { SLOW = 0 };
#endif

/* Whether a kind is run on a network too: the first of each solver. */
static int on_network(const kind *q)
{
    return (q == kinds || strcmp(q->solver, q[-1].solver) != 0)
           && (!SLOW || strcmp(q->solver, "ddim") == 0 || strcmp(q->solver, "dps") == 0);
}

static int uses_problem(const kind *q)
{
    return (di_solver_find(q->solver)->needs & DI_NEEDS_PROBLEM) != 0;
}

/* The job of a kind on SMALL pixels, FEW measurements. */
static job small(const kind *q, di_prior *prior)
{
    static di_real y[FEW];
    di_problem *p = NULL;
    fill(y, FEW, 46);
    if (uses_problem(q))
        EQUAL(di_problem_sr(ctx, 1, 4, 4, 2, DI_SR_MEAN, &p), DI_OK);
    job j = { .solver = q->solver, .settings = q->settings, .prior = prior, .seed = 9,
              .problem = p, .y = y };
    return j;
}

static void test_table(void)
{
    for (int k = 0; di_solver_at(k); k++) {
        int seen = 0;
        for (int i = 0; i < KINDS; i++)
            seen += strcmp(kinds[i].solver, di_solver_at(k)->name) == 0;
        in_case("%s has its short runs", di_solver_at(k)->name);
        CHECK(seen > 0);
    }
}

/* ---- Batches, seeds, costs ---- */

/* Samples 7, 8, 9: together, one by one from the last, two by two. */
static void check_batches(job j, const kind *q, size_t d)
{
    static di_real x[3 * SPY], one[3 * SPY], two[2 * SPY];
    j.n = 3;
    j.seed = 5;
    j.first = 7;
    EQUAL(solve(&j, x), DI_OK);
    EQUAL(j.cost.net, 3 * q->net);
    EQUAL(j.cost.net_vjp, 3 * q->net_vjp);
    EQUAL(j.cost.apply, 3 * q->apply);
    EQUAL(j.cost.apply_vjp, 3 * q->apply_vjp);
    EQUAL(j.used, 0);
    CHECK(di_finite(x, 3 * d));
    j.n = 1;
    for (size_t i = 3; i-- > 0;) {
        j.first = 7 + i;
        EQUAL(solve(&j, one + i * d), DI_OK);
        CHECK(same(one + i * d, x + i * d, d));
        CHECK(i == 2 || !same(one + i * d, one + (i + 1) * d, d)); /* samples differ */
    }
    j.first = 8;
    j.n = 2;
    EQUAL(solve(&j, two), DI_OK);
    CHECK(same(two, x + d, 2 * d));
    j.n = 1;
    j.first = 7;
    j.seed = 6;
    EQUAL(solve(&j, one), DI_OK);
    CHECK(!same(one, x, d));
}

static void test_batches(void)
{
    enum { D = 3 * 8 * 8 };
    static di_real y[D];
    di_problem *p;
    di_prior *prior = gaussian(1, 4, 4, 0.1, 0.3), *net = network(8);
    EQUAL(di_problem_sr(ctx, 3, 8, 8, 2, DI_SR_BICUBIC, &p), DI_OK);
    fill(y, D / 4, 46);
    if (SLOW)
        printf("note: with tcc only ddim and dps are run on a network\n");
    for (int k = 0; k < KINDS && net; k++) {
        const kind *q = &kinds[k];
        in_case("%s %s, a batch on a Gaussian", q->solver, q->settings);
        check_batches(small(q, prior), q, SMALL);
        if (!on_network(q))
            continue;
        in_case("%s %s, a batch on a network", q->solver, q->settings);
        job j = { .solver = q->solver, .settings = q->settings, .prior = net, .y = y,
                  .problem = uses_problem(q) ? p : NULL };
        check_batches(j, q, D);
    }
}

/* ---- Replayed noise ---- */

enum { NORMALS = 2000 };
static const float *normals(void)
{
    static float z[NORMALS];
    for (int i = 0; i < NORMALS; i++)
        z[i] = (float)(1.7 * value_at((size_t)i, 47));
    return z;
}

/* Noise that ends after `count` values: no step after the one that wants more, and the last
   good estimate stays. Returns that step, 0: none. */
static int check_short_noise(job j, size_t count, int steps)
{
    di_real x[SMALL];
    char words[80];
    j.count = count;
    j.report = record;
    trace_begin(SMALL, 0);
    di_status s = solve(&j, x);
    if (!s)
        return 0;
    snprintf(words, sizeof words, "%s: the noise file ran out after %d values, at step %d of ",
             j.solver, (int)count, trace.n + 1);
    REFUSED(s, DI_EUSAGE, words);
    EQUAL(j.used, count);
    CHECK(trace.n < steps);
    if (trace.n)
        CHECK(same(x, trace.x0, SMALL));
    else
        EQUAL(di_rms(x, SMALL), 0);
    return trace.n + 1;
}

static void test_noise(void)
{
    di_real x[SMALL], full[2 * SMALL];
    di_prior *prior = gaussian(1, 4, 4, 0, 0.25);
    for (int k = 0; k < KINDS; k++) {
        const kind *q = &kinds[k];
        job j = small(q, prior);
        size_t used = (size_t)(q->images * SMALL + q->measured * FEW);
        size_t last = q->measured ? FEW : 0; /* discarded at the very end */
        in_case("%s %s, replayed noise", q->solver, q->settings);
        CHECK(used < NORMALS);
        j.noise = normals();
        j.count = NORMALS;
        EQUAL(solve(&j, full), DI_OK);
        EQUAL(j.used, used);
        j.count = used; /* exactly enough */
        EQUAL(solve(&j, x), DI_OK);
        CHECK(same(x, full, SMALL));
        EQUAL(check_short_noise(j, 0, q->steps), 1);
        EQUAL(check_short_noise(j, SMALL - 1, q->steps), 1);
        EQUAL(check_short_noise(j, used - last - 1, q->steps) > 0, 1);
        int step = 1; /* fewer values never reach farther */
        for (size_t count = 0; count < used; count += 7) {
            int at = check_short_noise(j, count, q->steps);
            CHECK(at >= step || (at == 0 && count >= used - last));
            step = at ? at : step;
        }
        j.count = NORMALS;
        j.n = 2;
        REFUSED(solve(&j, full), DI_EUSAGE, "one sample at a time");
    }
}

/* One run gone through twice gives the same numbers again. */
static void test_repeated(void)
{
    di_prior *prior = gaussian(1, 4, 4, 0, 0.25);
    for (int k = 0; k < KINDS; k++) {
        const kind *q = &kinds[k];
        job j = small(q, prior);
        di_real x[2 * SMALL], again[2 * SMALL];
        di_run *run;
        in_case("%s %s, a run repeated", q->solver, q->settings);
        EQUAL(di_run_open(ctx, di_solver_find(q->solver), prior, j.problem, &run), DI_OK);
        set_all(run, q->settings);
        EQUAL(di_run_go(run, j.y, 3, 4, 2, x), DI_OK);
        EQUAL(di_run_go(run, j.y, 3, 4, 2, again), DI_OK);
        CHECK(same(x, again, 2 * SMALL));
        EQUAL(di_run_cost(run).net, 2 * q->net);
        di_run_noise(run, normals(), NORMALS);
        EQUAL(di_run_go(run, j.y, 0, 0, 1, x), DI_OK);
        EQUAL(di_run_go(run, j.y, 0, 0, 1, again), DI_OK);
        CHECK(same(x, again, SMALL));
        EQUAL(di_run_noise_used(run), q->images * SMALL + q->measured * FEW);
        di_run_close(run);
    }
}

/* ---- Errors ---- */

/* How many calls of the prior the reported steps have taken. */
static int calls_by[STEPS], vjps_by[STEPS];

static int count_calls(void *user, const di_step *s)
{
    const spy *w = user;
    calls_by[s->step] = w->calls;
    vjps_by[s->step] = w->vjps;
    return record(NULL, s);
}

/* A run in which the prior's call number `call` (of its vjp, if vjp) goes wrong in step `step`:
   the message names solver and step, and x is the last good estimate. */
static void check_failure(job j, int step, int steps, di_status want, const char *what)
{
    di_real x[SMALL];
    char words[120];
    j.report = record;
    trace_begin(SMALL, 0);
    memset(x, 0x55, sizeof x);
    di_status s = solve(&j, x);
    EQUAL(s, want);
    SAYS(di_error(ctx), j.solver);
    snprintf(words, sizeof words, "%s at step %d of %d", what, step, steps);
    SAYS(di_error(ctx), words);
    EQUAL(trace.n, step - 1);
    CHECK(di_finite(x, SMALL));
    if (step > 1)
        CHECK(same(x, trace.x0, SMALL));
    else
        EQUAL(di_rms(x, SMALL), 0);
    di_clear(ctx);
}

static void test_failures(void)
{
    di_real x[SMALL];
    di_prior *prior = gaussian(1, 4, 4, 0, 0.25);
    for (int k = 0; k < KINDS; k++) {
        const kind *q = &kinds[k];
        spy *s = watch(prior);
        job j = small(q, &s->p);
        in_case("%s %s, undisturbed", q->solver, q->settings);
        j.report = count_calls;
        j.user = s;
        trace_begin(SMALL, 0);
        EQUAL(solve(&j, x), DI_OK);
        EQUAL(trace.n, q->steps);
        int calls = s->calls, vjps = s->vjps, step = 1;
        for (int call = 1; call <= calls; call++) {
            step += call > calls_by[step];
            in_case("%s %s, NaN from call %d of the prior", q->solver, q->settings, call);
            s = watch(prior);
            s->nan_at = call;
            if (!strstr(q->settings, "recompute") || (call - 1) % 5 < 3)
                check_failure(j, step, q->steps, DI_ENUMERIC, ""); /* else eps is not used */
            in_case("%s %s, call %d of the prior fails", q->solver, q->settings, call);
            s = watch(prior);
            s->fail_at = call;
            check_failure(j, step, q->steps, DI_EMEMORY, "the prior failed");
            EQUAL(s->calls, call);
        }
        step = 1;
        for (int call = 1; call <= vjps; call++) {
            step += call > vjps_by[step];
            in_case("%s %s, NaN from derivative %d of the prior", q->solver, q->settings, call);
            s = watch(prior);
            s->nan_vjp = call;
            check_failure(j, step, q->steps, DI_ENUMERIC, "NaN or Inf in the iterate");
            in_case("%s %s, derivative %d of the prior fails", q->solver, q->settings, call);
            s = watch(prior);
            s->fail_vjp = call;
            check_failure(j, step, q->steps, DI_EMEMORY, "the prior failed");
            EQUAL(s->vjps, call);
        }
        for (int at = 1; at <= q->steps; at++) {
            char words[80];
            in_case("%s %s, stopped at step %d", q->solver, q->settings, at);
            s = watch(prior);
            j.report = record;
            trace_begin(SMALL, at);
            snprintf(words, sizeof words, "%s: stopped at step %d of %d", q->solver, at,
                     q->steps);
            REFUSED(solve(&j, x), DI_EINTERRUPTED, words);
            EQUAL(s->calls, calls_by[at]);
            CHECK(same(x, trace.x0, SMALL));
        }
    }
}

static void test_arguments(void)
{
    di_real x[SMALL], y[FEW] = { 0 };
    di_prior *prior = gaussian(1, 4, 4, 0, 0.25), *large = gaussian(1, 8, 8, 0, 1);
    for (int k = 0; k < KINDS; k++) {
        job j = small(&kinds[k], prior);
        di_run *run;
        in_case("%s, arguments of a run", j.solver);
        EQUAL(di_run_open(ctx, di_solver_find(j.solver), prior, j.problem, &run), DI_OK);
        REFUSED(di_run_go(run, j.y, 0, 0, 0, x), DI_EUSAGE, "0 samples asked for");
        di_run_close(run);
        if (!j.problem)
            continue;
        j.y = y;
        y[1] = NAN;
        REFUSED(solve(&j, x), DI_EINPUT, "the measurement holds NaN or Inf");
        y[1] = (di_real)HUGE_VAL;
        REFUSED(solve(&j, x), DI_EINPUT, "the measurement holds NaN or Inf");
        j.prior = large;
        REFUSED(solve(&j, x), DI_EUSAGE,
                "the prior makes 1x8x8 images, the problem takes 1x4x4");
    }
}

/* Langevin steps that do not contract, eta/tau^2 ||A||^2 > 2: a numeric error at a named step,
   the last finite estimate kept. Just below 2 the same run ends well. */
static void check_divergence(job j, const char *settings, int least)
{
    di_real x[SMALL];
    char words[80];
    in_case("%s %s, diverging", j.solver, settings);
    j.settings = settings;
    j.report = record;
    trace_begin(SMALL, 0);
    memset(x, 0x55, sizeof x);
    di_status s = solve(&j, x);
    snprintf(words, sizeof words, " at step %d of 400", trace.n + 1);
    SAYS(di_error(ctx), j.solver);
    REFUSED(s, DI_ENUMERIC, words);
    CHECK(trace.n >= least && trace.n < 400);
    CHECK(di_finite(x, SMALL));
    if (trace.n)
        CHECK(same(x, trace.x0, SMALL));
    else
        EQUAL(di_rms(x, SMALL), 0);
    figure(where, trace.n + 1);
}

static void test_divergence(void)
{
    static const char *const variants[] = { "a", "b", "c" };
    di_real x[SMALL], y[SMALL];
    di_problem *p;
    fill(y, SMALL, 48);
    EQUAL(di_problem_denoise(ctx, 1, 4, 4, &p), DI_OK);
    job j = { .solver = "dps_mo", .prior = gaussian(1, 4, 4, 0, 0.25), .problem = p, .y = y };
    for (int k = 0; k < 3; k++) {
        char settings[80];
        snprintf(settings, sizeof settings, "steps=400 eta=3e-4 variant=%s", variants[k]);
        check_divergence(j, settings, 0);
        snprintf(settings, sizeof settings, "steps=400 eta=3.4e-4 n=8 variant=%s",
                 variants[k]); /* too few steps a level to be seen in one */
        check_divergence(j, settings, 0);
        snprintf(settings, sizeof settings, "steps=40 eta=1.9e-4 variant=%s", variants[k]);
        in_case("dps_mo %s, stable", settings);
        j.settings = settings;
        EQUAL(solve(&j, x), DI_OK);
        CHECK(di_rms(x, SMALL) < 2);
    }
    j.solver = "reddiff_mo";
    check_divergence(j, "steps=400 eta=3e-4", 0);
    check_divergence(j, "steps=400 eta=1 n=100", 0);
}

/* ---- Memory ---- */

/* An allocator that counts, remembers sizes, and refuses request number fail_at, or all from
   there on (lasting). */
typedef struct heap {
    int calls, fail_at, lasting;
    size_t live, size[512];
} heap;

static void *heap_alloc(void *user, void *p, size_t old_size, size_t size)
{
    heap *h = user;
    if (size) {
        h->calls++;
        if (h->fail_at && (h->lasting ? h->calls >= h->fail_at : h->calls == h->fail_at))
            return NULL;
        h->size[h->calls % 512] = size;
    }
    h->live += size - old_size;
    if (size)
        return realloc(p, size);
    free(p);
    return NULL;
}

/* A run in a context of its own, from its priors on; request number fail_at of the run refused.
   Returns whether the run came to its end. */
static int run_in(heap *h, const kind *q, int fail_at, int lasting, int cold)
{
    di_real x[2 * SMALL];
    di_ctx *before = ctx;
    memset(h, 0, sizeof *h);
    EQUAL(di_open(&ctx, heap_alloc, h), DI_OK);
    job j = small(q, gaussian(1, 4, 4, 0, 0.25));
    j.n = 2;
    if (!cold)
        EQUAL(solve(&j, x), DI_OK);
    size_t held = di_bytes(ctx), live = h->live;
    h->calls = 0;
    h->fail_at = fail_at;
    h->lasting = lasting;
    memset(x, 0, sizeof x);
    di_status s = solve(&j, x);
    int ok = s == DI_OK;
    EQUAL(s, ok ? DI_OK : DI_EMEMORY);
    SAYS(di_error(ctx), ok ? "" : "out of memory");
    EQUAL(ok, fail_at > h->calls || !fail_at);
    CHECK(di_finite(x, 2 * SMALL));
    if (!cold) { /* a cold prior keeps its first working memory */
        EQUAL(di_bytes(ctx), held);
        EQUAL(h->live, live);
    }
    int calls = h->calls;
    di_close(ctx);
    EQUAL(h->live, 0);
    ctx = before;
    return ok ? 0 : calls;
}

static void test_allocation(void)
{
    heap h;
    for (int k = 0; k < KINDS; k++)
        for (int how = 0; how < 4; how++)
            for (int at = 1; at < 400; at++) {
                in_case("%s %s, request %d fails%s%s", kinds[k].solver, kinds[k].settings, at,
                        how & 1 ? " and all after it" : "", how & 2 ? ", cold prior" : "");
                if (!run_in(&h, &kinds[k], at, how & 1, how & 2))
                    break;
                CHECK(at < 399);
            }
}

/* A network's own memory, made at the first call and kept by it, may fail too. */
static void test_network_allocation(void)
{
    static const char *const names[][2] = { { "ddim", "steps=2" }, { "dps", "steps=2" },
                                            { "dmplug", "iters=2 es=no" },
                                            { "scg", "steps=3 n=2" } };
    static di_real x[192], y[192];
    heap h;
    di_ctx *before = ctx;
    for (int k = 0; k < 4; k++)
        for (int at = 1, end = 0; !end && at < 100; at++) {
            di_problem *p;
            memset(&h, 0, sizeof h);
            in_case("%s on a network, request %d fails", names[k][0], at);
            EQUAL(di_open(&ctx, heap_alloc, &h), DI_OK);
            EQUAL(di_problem_denoise(ctx, 3, 8, 8, &p), DI_OK);
            job j = { .solver = names[k][0], .settings = names[k][1], .prior = network(8),
                      .problem = k ? p : NULL, .y = y };
            h.calls = 0;
            h.fail_at = at;
            di_status s = solve(&j, x);
            end = !s;
            EQUAL(s, h.calls < at ? DI_OK : DI_EMEMORY);
            CHECK(at < 99);
            di_close(ctx);
            EQUAL(h.live, 0);
        }
    ctx = before;
}

/* What di_run_bytes says is what a run asks for, in one piece, beside tables of less than 64
   KiB; on a network, what the run and its passes ask for. */
static void check_bytes(heap *h, const kind *q, size_t n, int net)
{
    static di_real x[5 * 192], y[192];
    di_run *run;
    di_problem *p = NULL;
    in_case("%s %s, bytes of %d samples%s", q->solver, q->settings, (int)n,
            net ? " on a network" : "");
    memset(h, 0, sizeof *h);
    EQUAL(di_open(&ctx, heap_alloc, h), DI_OK);
    di_free(ctx, di_new(ctx, 1, 1000));
    size_t over = h->size[h->calls % 512] - 1000;
    if (uses_problem(q))
        EQUAL(di_problem_sr(ctx, 3, 8, 8, 2, DI_SR_MEAN, &p), DI_OK);
    di_prior *prior = net ? network(8) : &watch(gaussian(3, 8, 8, 0, 0.25))->p;
    EQUAL(di_run_open(ctx, di_solver_find(q->solver), prior, p, &run), DI_OK);
    set_all(run, q->settings);
    size_t said = di_run_bytes(run, n), held = di_bytes(ctx);
    h->calls = 0;
    EQUAL(di_run_go(run, y, 1, 0, n, x), DI_OK);
    size_t peak = di_bytes_peak(ctx) - held;
    int found = 0;
    for (int i = 1; i <= h->calls && i < 512; i++)
        found += h->size[i] == said + over;
    EQUAL(found, !net);
    CHECK(peak >= said);
    CHECK(net || peak < said + 65536);
    if (net) {
        snprintf(where, sizeof where, "%s %s: peak over di_run_bytes, KiB", q->solver,
                 q->settings);
        figure(where, (double)(peak - said) / 1024);
    }
    di_run_close(run);
    di_close(ctx);
    EQUAL(h->live, 0);
}

static void test_bytes(void)
{
    di_ctx *before = ctx;
    heap h;
    for (int k = 0; k < KINDS; k++) {
        check_bytes(&h, &kinds[k], 1, 0);
        check_bytes(&h, &kinds[k], 5, 0);
        if (on_network(&kinds[k]))
            check_bytes(&h, &kinds[k], 2, 1);
    }
    ctx = before;
}

/* ---- Saved runs ---- */

typedef struct saver {
    int seen, save_at, stop_at; /* reports so far; the one to save and to stop at, 0: none */
    bytes *to;
} saver;

static int save_step(void *user, const di_step *s)
{
    saver *v = user;
    (void)s;
    if (++v->seen == v->save_at) {
        v->to->n = 0;
        EQUAL(di_run_save(running, state_write, v->to), DI_OK);
    }
    return v->seen == v->stop_at;
}

/* Saves at report `at` and stops there, or goes on to the end. */
static di_status run_saving(job *j, int at, int stop, bytes *to, di_real *x)
{
    saver v = { 0, at, stop ? at : 0, to };
    j->report = save_step;
    j->user = &v;
    di_status s = solve(j, x);
    di_clear(ctx);
    return s;
}

static int same_cost(di_cost a, di_cost b)
{
    return a.net == b.net && a.net_vjp == b.net_vjp && a.apply == b.apply
           && a.apply_vjp == b.apply_vjp;
}

/* From every report of the run to its end; and from report to report, each time a fresh run. */
static void check_saved(job j, size_t samples, int reports)
{
    static bytes state, chain, once;
    di_real full[2 * SMALL], x[2 * SMALL];
    j.n = samples;
    EQUAL(solve(&j, full), DI_OK);
    job whole = j;
    chain.n = 0;
    for (int at = 1; at <= reports; at++) {
        job a = j, b = j, c = j;
        EQUAL(run_saving(&a, at, 1, &state, x), DI_EINTERRUPTED);
        EQUAL(run_saving(&a, at, 0, &once, x), DI_OK); /* saving disturbs nothing */
        CHECK(same(x, full, samples * SMALL));
        CHECK(state.n > 0 && state.n == once.n && memcmp(state.v, once.v, state.n) == 0);
        saver rest = { 0 };
        b.state = &state;
        b.report = save_step;
        b.user = &rest;
        memset(x, 0x55, sizeof x);
        EQUAL(solve(&b, x), DI_OK);
        SAYS(di_error(ctx), "");
        CHECK(same(x, full, samples * SMALL));
        CHECK(same_cost(b.cost, whole.cost));
        CHECK(strcmp(b.note, whole.note) == 0);
        EQUAL(b.used, whole.used);
        EQUAL(rest.seen, reports - at);
        c.state = at > 1 ? &chain : NULL;
        bytes before = chain;
        c.state = at > 1 ? &before : NULL;
        EQUAL(run_saving(&c, 1, 1, &chain, x), DI_EINTERRUPTED);
        CHECK(state.n == chain.n && memcmp(state.v, chain.v, state.n) == 0);
    }
}

static void test_saved(void)
{
    di_prior *prior = gaussian(1, 4, 4, 0.1, 0.25);
    for (int k = 0; k < KINDS; k++) {
        const kind *q = &kinds[k];
        int single = (di_solver_find(q->solver)->needs & DI_ONE_BY_ONE) != 0;
        job j = small(q, prior);
        in_case("%s %s, saved", q->solver, q->settings);
        check_saved(j, 1, q->steps);
        in_case("%s %s, two samples saved", q->solver, q->settings);
        check_saved(j, 2, single ? 2 * q->steps : q->steps);
        in_case("%s %s, saved with replayed noise", q->solver, q->settings);
        j.noise = normals();
        j.count = NORMALS;
        check_saved(j, 1, q->steps);
    }
}

/* A state of a run, refused by the same solver's run of another kind, with x left empty. */
static void check_alien(job j, bytes *state, const char *what)
{
    di_real x[2 * SMALL];
    snprintf(where, sizeof where, "%s, a state of another %s", j.solver, what);
    j.state = state;
    j.report = record;
    trace_begin(SMALL, 0);
    REFUSED(solve(&j, x), DI_EUSAGE, "the saved state is of another run");
    EQUAL(trace.n, 0);
}

static void test_alien_states(void)
{
    static bytes state;
    di_real x[2 * SMALL], y[FEW];
    di_prior *prior = gaussian(1, 4, 4, 0.1, 0.25);
    fill(y, FEW, 46);
    for (int k = 0; k < KINDS; k++) {
        job j = small(&kinds[k], prior), other = j;
        char settings[120];
        EQUAL(run_saving(&j, 2, 1, &state, x), DI_EINTERRUPTED);
        other.seed++;
        check_alien(other, &state, "seed");
        other = j;
        other.first++;
        check_alien(other, &state, "sample");
        other = j;
        other.n = 2;
        check_alien(other, &state, "number of samples");
        other = j;
        other.noise = normals();
        other.count = NORMALS;
        check_alien(other, &state, "noise");
        other = j;
        const di_param *p = di_solver_find(j.solver)->param;
        snprintf(settings, sizeof settings, "%s %s", j.settings,
                 strcmp(j.solver, "dmplug") == 0 ? "lr=0.02" : strcmp(p[0].key, "steps") == 0
                 && strstr(j.settings, "steps=8") ? "steps=9" : "steps=6");
        other.settings = settings;
        check_alien(other, &state, "setting");
        other = j;
        other.prior = gaussian(1, 4, 8, 0, 1); /* another shape */
        other.problem = NULL;
        if (!j.problem)
            check_alien(other, &state, "prior");
        if (j.problem) {
            other = j;
            y[1] += (di_real)1e-6;
            other.y = y;
            check_alien(other, &state, "measurement");
            y[1] = j.y[1];
        }
        other = small(&kinds[(k + 4) % KINDS], prior);
        check_alien(other, &state, "solver");
    }
    job j = small(&kinds[0], prior);
    in_case("a state of another schedule");
    EQUAL(run_saving(&j, 2, 1, &state, x), DI_EINTERRUPTED);
    spy *s = watch(prior);
    s->p.steps = 999;
    j.prior = &s->p;
    check_alien(j, &state, "prior");
}

/* Cut short, lengthened, or with one byte changed, anywhere: refused when loaded, and the run
   then starts at its beginning. */
static void test_damaged_states(void)
{
    static bytes state, bad;
    di_real x[SMALL], full[SMALL];
    di_prior *prior = gaussian(1, 4, 4, 0.1, 0.25);
    di_run *run;
    job j = small(&kinds[0], prior);
    for (int k = 0; strcmp(j.solver, "dps_mo"); k++)
        j = small(&kinds[k], prior);
    EQUAL(solve(&j, full), DI_OK);
    EQUAL(run_saving(&j, 2, 1, &state, x), DI_EINTERRUPTED);
    EQUAL(di_run_open(ctx, di_solver_find(j.solver), prior, j.problem, &run), DI_OK);
    set_all(run, j.settings);
    size_t held = di_bytes(ctx);
    for (size_t n = 0; n < state.n; n++) {
        in_case("a state cut to %d bytes of %d", (int)n, (int)state.n);
        bad = state;
        bad.n = n;
        REFUSED(di_run_load(run, state_read, &bad, n), DI_EINPUT, "the saved state is ");
        EQUAL(di_bytes(ctx), held);
    }
    in_case("a state that is shorter than said");
    REFUSED(di_run_load(run, state_read, &state, state.n + 1), DI_EINPUT, "can't be read");
    REFUSED(di_run_load(run, state_read, &state, (uint64_t)-1), DI_EINPUT, "the saved state");
    bad = state;
    bad.n++;
    in_case("a state with a byte more");
    REFUSED(di_run_load(run, state_read, &bad, bad.n), DI_EINPUT, "the saved state is damaged");
    for (size_t i = 0; i < state.n; i++) {
        in_case("a state with byte %d of %d flipped", (int)i, (int)state.n);
        bad = state;
        bad.v[i] ^= (unsigned char)(1u << i % 8);
        REFUSED(di_run_load(run, state_read, &bad, bad.n), DI_EINPUT,
                "the saved state is damaged");
        EQUAL(di_bytes(ctx), held);
    }
    in_case("a run after a state that was refused");
    EQUAL(di_run_go(run, j.y, j.seed, 0, 1, x), DI_OK);
    CHECK(same(x, full, SMALL));
    EQUAL(di_bytes(ctx), held);
    di_clear(ctx);
    in_case("a state loaded and not used");
    EQUAL(di_run_load(run, state_read, &state, state.n), DI_OK);
    EQUAL(di_run_load(run, state_read, &state, state.n), DI_OK); /* again: the first goes */
    di_run_close(run);
    CHECK(di_bytes(ctx) < held);
}

/* A state that lies, with its checksum made right: `count` words of its head. The run refuses
   it, or ends, well or not; it never reads or writes past what it has. */
static void forge(bytes *b, size_t at, uint64_t word, int count)
{
    uint64_t h = 0; /* FNV-1a */
    for (int i = 0; i < count; i++, at += sizeof word)
        memcpy(b->v + at, &word, sizeof word);
    for (size_t i = 0; i + 8 < b->n; i++)
        h = (h ^ b->v[i]) * 0x100000001B3u;
    memcpy(b->v + b->n - 8, &h, sizeof h);
}

static int check_forged(job j, const bytes *state, size_t at, uint64_t word, int count)
{
    static bytes bad;
    di_real x[SMALL];
    in_case("%s %s, a state with word %d forged", j.solver, j.settings, (int)at / 8);
    bad = *state;
    forge(&bad, at, word, count);
    j.state = &bad;
    di_status s = solve(&j, x);
    CHECK(s == DI_OK || s == DI_EINPUT || s == DI_EUSAGE || s == DI_ENUMERIC);
    EQUAL(s != DI_OK, di_error(ctx)[0] != 0);
    CHECK(strlen(j.note) < sizeof j.note - 1 || memcmp(j.note, "AAAA", 4)); /* it ends */
    di_clear(ctx);
    return s != DI_OK;
}

static void test_forged_states(void)
{
    static const uint64_t words[] = { 0, 1, 6, 4096, 0x7FFFFFFF, 0x80000000u, (uint64_t)-1,
        (uint64_t)1 << 40, (uint64_t)1 << 63, 0x7FF8000000000000u, 0x4141414141414141u };
    static bytes state;
    di_real x[SMALL];
    di_prior *prior = gaussian(1, 4, 4, 0.1, 0.25);
    int refusals = 0;
    for (int k = 0; k < KINDS; k++) {
        job j = small(&kinds[k], prior);
        j.noise = normals();
        j.count = NORMALS;
        EQUAL(run_saving(&j, 2, 1, &state, x), DI_EINTERRUPTED);
        j.report = NULL;
        for (size_t at = 0; at < 400 && at + 208 <= state.n; at += 8) {
            for (size_t w = 0; w < sizeof words / sizeof *words; w++)
                refusals += check_forged(j, &state, at, words[w], 1);
            check_forged(j, &state, at, 0x4141414141414141u, 25); /* a note without an end */
        }
    }
    CHECK(refusals > 1000);
}

static int never_written(void *user, const void *src, size_t n)
{
    (void)user;
    (void)src;
    (void)n;
    return 1;
}

static int save_nowhere(void *user, const di_step *s)
{
    (void)user;
    REFUSED(di_run_save(running, never_written, NULL), DI_EOUTPUT, "could not be written");
    return s->step == s->steps;
}

static void test_save_refused(void)
{
    static bytes state;
    di_real x[SMALL];
    job j = small(&kinds[0], gaussian(1, 4, 4, 0, 0.25));
    di_run *run;
    in_case("a state that cannot be written");
    j.report = save_nowhere;
    REFUSED(solve(&j, x), DI_EINTERRUPTED, "stopped at step 5 of 5");
    in_case("a state outside the report");
    EQUAL(di_run_open(ctx, di_solver_find(j.solver), j.prior, j.problem, &run), DI_OK);
    REFUSED(di_run_save(run, state_write, &state), DI_EUSAGE, "from within its report");
    di_run_close(run);
}

/* ---- Needs ---- */

/* Solvers for problems that ask for no more than `have`, as a message lists them. */
static void would_do(unsigned have, char *list, size_t size)
{
    size_t used = (size_t)snprintf(list, size, ": ");
    for (int i = 0; di_solver_at(i); i++)
        if ((di_solver_at(i)->needs & DI_NEEDS_PROBLEM)
            && !(di_solver_at(i)->needs & ~(have | DI_ONE_BY_ONE)))
            used += (size_t)snprintf(list + used, size - used, "%s%s", used > 2 ? ", " : "",
                                     di_solver_at(i)->name);
}

/* A^+ of A = (1, 1) */
static void half_each(const di_problem *p, const di_real *y, di_real *x)
{
    (void)p;
    x[0] = x[1] = y[0] / 2;
}

/* Every solver on a prior and a problem that have and lack what they can. */
static void test_needs(void)
{
    static const double A[2] = { 1, 1 };
    di_prior *prior = gaussian(1, 1, 2, 0, 1);
    di_run *run;
    for (int k = 0; di_solver_at(k); k++)
        for (unsigned has = 0; has < 16; has++) {
            const di_solver *s = di_solver_at(k);
            unsigned have = DI_NEEDS_PROBLEM | (has & 1 ? DI_NEEDS_NET_VJP : 0)
                            | (has & 2 ? DI_NEEDS_LINEAR : 0) | (has & 4 ? DI_NEEDS_PINV : 0)
                            | (has & 8 ? DI_NEEDS_VJP : 0);
            unsigned lacks = s->needs & ~(have | DI_ONE_BY_ONE);
            char words[120], others[200];
            di_problem p = matrix_problem(1, 2, A);
            spy *w = watch(prior);
            p.name = "odd";
            p.linear = (has & 2) != 0;
            p.pinv = has & 4 ? matrix_apply : NULL;
            p.vjp = has & 8 ? matrix_apply_vjp : NULL;
            w->p.vjp = has & 1 ? w->p.vjp : NULL;
            in_case("%s with %x", s->name, has);
            di_status got = di_run_open(ctx, s, &w->p, &p, &run);
            if ((s->needs & DI_NEEDS_PROBLEM) && !lacks) {
                EQUAL(got, DI_OK);
                di_run_close(run);
                continue;
            }
            if (!(s->needs & DI_NEEDS_PROBLEM))
                snprintf(words, sizeof words, "solver %s samples the prior and uses no "
                         "measurement; for problem odd these would do", s->name);
            else if (lacks & DI_NEEDS_NET_VJP)
                snprintf(words, sizeof words, "solver %s needs the prior's derivative",
                         s->name);
            else
                snprintf(words, sizeof words, "solver %s needs %s, which problem odd lacks",
                         s->name, lacks & DI_NEEDS_LINEAR ? "a linear map" : lacks
                         & DI_NEEDS_PINV ? "a pseudo-inverse" : "a derivative");
            would_do(have, others, sizeof others);
            SAYS(di_error(ctx), words);
            REFUSED(got, DI_EUSAGE, others);
            CHECK(run == NULL);
        }
}

static void test_needs_at_all(void)
{
    static const double A[2] = { 1, 1 };
    di_prior *prior = gaussian(1, 1, 2, 0, 1);
    di_run *run;
    di_problem own = matrix_problem(1, 2, A); /* linear, a pseudo-inverse, no SVD */
    di_real y[1] = { 1 }, x[2];
    own.pinv = half_each;
    job j = { .solver = "ddnm", .settings = "steps=3", .prior = prior, .problem = &own,
              .y = y };
    in_case("ddnm on a problem without an SVD");
    REFUSED(solve(&j, x), DI_EUSAGE, "weight=one");
    j.settings = "steps=3 weight=one";
    EQUAL(solve(&j, x), DI_OK);
    for (int k = 0; di_solver_at(k); k++) {
        char words[80];
        const di_solver *s = di_solver_at(k);
        in_case("%s without a problem", s->name);
        di_status got = di_run_open(ctx, s, prior, NULL, &run);
        if (s->needs & DI_NEEDS_PROBLEM) {
            snprintf(words, sizeof words, "solver %s needs a problem to solve (-p); to sample "
                     "the prior alone use ddpm", s->name);
            REFUSED(got, DI_EUSAGE, words);
        } else {
            EQUAL(got, DI_OK);
            di_run_close(run);
        }
    }
}

/* ---- Settings ---- */

/* Values beside and beyond what a parameter's `choice` allows are refused, the text says it. */
static void check_choice(di_run *run, const di_solver *s, const di_param *p)
{
    char bad[6][40], words[80];
    int n = 0;
    const char *dots = strstr(p->choice, "..");
    if (dots) {
        double lo = strtod(p->choice, NULL), hi = strtod(dots + 2, NULL);
        snprintf(bad[n++], 40, "%.9g", lo - (lo >= 1 ? 1 : 1e-9));
        snprintf(bad[n++], 40, "%.9g", hi + 1);
        snprintf(bad[n++], 40, "nan");
        snprintf(bad[n++], 40, "1..2");
        if (strstr(p->choice, "int"))
            snprintf(bad[n++], 40, "%.9g", lo + 0.5);
        snprintf(words, sizeof words, "number in %s", p->choice);
    } else {
        snprintf(bad[n++], 40, "%.30sx", p->value);
        snprintf(bad[n++], 40, "%.*s", (int)strlen(p->value) - 1, p->value);
        snprintf(bad[n++], 40, "%.39s", p->choice);
        snprintf(words, sizeof words, "wants one of %.60s", p->choice);
    }
    snprintf(bad[n++], 40, "%s", "");
    for (int i = 0; i < n; i++) {
        in_case("%s %s=%s", s->name, p->key, bad[i]);
        SAYS(p->note, " "); /* every parameter says something */
        di_status got = di_run_set(run, p->key, bad[i]);
        SAYS(di_error(ctx), s->name);
        SAYS(di_error(ctx), p->key);
        REFUSED(got, DI_EUSAGE, words);
        CHECK(strcmp(di_run_get(run, p->key), p->value) == 0); /* nothing has changed */
    }
}

static void test_choices(void)
{
    static const double A[2] = { 1, 1 };
    di_problem p = matrix_problem(1, 2, A);
    p.pinv = matrix_apply;
    di_prior *prior = gaussian(1, 1, 2, 0, 1);
    di_run *run;
    for (int k = 0; di_solver_at(k); k++) {
        const di_solver *s = di_solver_at(k);
        CHECK(di_solver_find(s->name) == s);
        EQUAL(di_run_open(ctx, s, prior, s->needs ? &p : NULL, &run), DI_OK);
        for (int i = 0; i < DI_MAX_PARAM && s->param[i].key; i++) {
            in_case("%s %s", s->name, s->param[i].key); /* defaults are legal and in place */
            CHECK(strcmp(di_run_get(run, s->param[i].key), s->param[i].value) == 0);
            EQUAL(di_run_set(run, s->param[i].key, s->param[i].value), DI_OK);
            SAYS(di_error(ctx), "");
            check_choice(run, s, &s->param[i]);
        }
        di_run_close(run);
    }
}

static void test_settings(void)
{
    static const char *const bad[][4] = { /* solver, key, value, words */
        { "dps", "stesp", "20", "solver dps has no parameter 'stesp'; did you mean 'steps'?" },
        { "dps", "Scale", "1", "did you mean 'scale'?" },
        { "ddnm", "sigma", "1", "did you mean 'sigma_y'?" },
        { "ddpm", "eta", "0", "ddpm has no parameter 'eta'" },
        { "dps", "", "1", "no parameter ''" },
        { "dps", "steps", "0", "dps steps=0: wants a whole number in 1..100000" },
        { "dps", "steps", "100001", "whole number" },
        { "dps", "steps", "20.5", "wants a whole number" },
        { "dps", "steps", "many", "wants a whole number" },
        { "dps", "steps", "", "steps=: wants" },
        { "dps", "steps", " 20", "wants" },
        { "dps", "steps", "-1", "wants" },
        { "dps", "scale", "-0.1", "dps scale=-0.1: wants a number in 0..1000" },
        { "dps", "scale", "1001", "wants a number" },
        { "dps", "scale", "nan", "wants a number" },
        { "dps", "scale", "inf", "wants a number" },
        { "dps", "scale", "0.3x", "wants a number" },
        { "dps", "scale", "0.3000000000000000000000000000000000001", "wants a number" },
        { "ddim", "eta", "1.01", "ddim eta=1.01: wants a number in 0..1" },
        { "ddnm", "sigma_y", "101", "0..100" },
        { "dps", "var", "fixed", "dps var=fixed: wants one of auto|fixed_small|fixed_large" },
        { "dps", "var", "", "wants one of" },
        { "dps", "var", "auto|fixed_small", "wants one of" },
        { "dps", "clip", "Yes", "dps clip=Yes: wants one of yes|no" },
        { "ddim", "spacing", "uniform", "wants one of even|ddim" },
        { "ddim", "spacing", "log", "wants one of even|ddim" },
        { "cps", "n", "0", "cps n=0: wants a whole number in 1..65536" },
        { "cps", "steps", "1", "cps steps=1: wants a whole number in 2..100000" },
        { "scg", "n", "0", "scg n=0: wants a whole number in 1..65536" },
        { "dps_mo", "sigma_y", "0", "dps_mo sigma_y=0: wants a number in 1e-6..100" },
        { "dps_mo", "sigma_y", "-0.05", "wants a number in 1e-6..100" },
        { "reddiff_mo", "sigma_y", "0", "reddiff_mo sigma_y=0: wants a number in 1e-6..100" },
        { "dps_mo", "eta", "-5e-5", "dps_mo eta=-5e-5: wants a number in 0..1" },
        { "dps_mo", "tau", "0", "dps_mo tau=0: wants a number in 1e-6..1000" },
        { "dps_mo", "steps", "0", "dps_mo steps=0: wants a whole number" },
        { "dps_mo", "n", "-1", "dps_mo n=-1: wants a whole number in 0..100000" },
        { "reddiff", "lr", "0", "reddiff lr=0: wants a number in 1e-6..10" },
        { "reddiff", "weight", "cubic", "wants one of linear|sqrt|square|log|clip|power" },
        { "dmplug", "iters", "0", "dmplug iters=0: wants a whole number in 1..1000000" },
        { "dmplug", "window", "1", "dmplug window=1: wants a whole number in 2..100000" },
        { "dmplug", "lr", "-0.01", "dmplug lr=-0.01: wants a number" },
        { "edm", "steps", "0", "edm steps=0: wants a whole number in 1..100000" },
        { "edm", "step", "rk4", "edm step=rk4: wants one of heun|euler|sde" } };
    static const double A[2] = { 1, 1 };
    di_problem p = matrix_problem(1, 2, A);
    p.pinv = matrix_apply;
    di_prior *prior = gaussian(1, 1, 2, 0, 1);
    di_run *run;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const di_solver *s = di_solver_find(bad[i][0]);
        in_case("%s %s=%s", bad[i][0], bad[i][1], bad[i][2]);
        EQUAL(di_run_open(ctx, s, prior, s->needs ? &p : NULL, &run), DI_OK);
        char before[40] = "";
        const char *value = di_run_get(run, bad[i][1]);
        snprintf(before, sizeof before, "%s", value ? value : "(none)");
        REFUSED(di_run_set(run, bad[i][1], bad[i][2]), DI_EUSAGE, bad[i][3]);
        value = di_run_get(run, bad[i][1]);
        CHECK(strcmp(before, value ? value : "(none)") == 0); /* a refusal changes nothing */
        di_run_close(run);
    }
    in_case("solver table");
    CHECK(di_solver_find("dsp") == NULL && di_solver_find("") == NULL);
    CHECK(di_solver_at(-1) == NULL && di_solver_at(1000) == NULL);
    CHECK(di_default_at(-1) == NULL && di_default_at(1000) == NULL);
    static const char *const words[] = { "inpaint", "denoise", "gblur" };
    CHECK(strcmp(di_nearest("blur", words, 3), "gblur") == 0);
    CHECK(strcmp(di_nearest("impaint", words, 3), "inpaint") == 0);
    CHECK(strcmp(di_nearest("anything", words, 0), "") == 0);
}

/* Settings that are legal alone and do not go together: refused when the run starts, nothing
   left behind. */
static void test_combinations(void)
{
    static const char *const bad[][3] = { /* solver, settings, words */
        { "ddpm", "steps=1001", "ddpm: steps=1001, but the prior has only 1000" },
        { "ddpm", "steps=999 spacing=ddim", "no whole stride over 1000 steps keeps 999" },
        { "ddnm", "steps=1001", "ddnm: steps=1001, but the prior has only 1000" },
        { "dps", "steps=1001", "dps: steps=1001, but the prior has only 1000" },
        { "dps", "steps=4 var=learned_range", "this prior has no variance head" },
        { "reddiff", "steps=1001", "reddiff: steps=1001, but the prior has only 1000" },
        { "dmplug", "iters=49", "dmplug: a window of 50 iterations is longer than the run of "
          "49" },
        { "dmplug", "iters=4 es=no steps=17", "dmplug: steps=17 keeps as many derivatives, at "
          "most 16: say recompute=yes" },
        { "edm", "smin=80", "edm: noise levels must fall, but go from 80 to 80 to 0" },
        { "edm", "final=0.01", "edm: noise levels must fall, but go from 80 to 0.002 to 0.01" },
        { "dps_mo", "smax=0.1 smin_rel=2", "dps_mo: noise levels must fall, but go from 0.1 to "
          "0.1 to 0" },
        { "reddiff_mo", "smin_rel=1000 sigma_y=1", "reddiff_mo: noise levels must fall" } };
    di_real x[SMALL];
    di_prior *prior = gaussian(1, 4, 4, 0, 0.25);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kind q = { .solver = bad[i][0], .settings = bad[i][1] };
        job j = small(&q, prior);
        in_case("%s %s", q.solver, q.settings);
        REFUSED(solve(&j, x), DI_EUSAGE, bad[i][2]);
        size_t held = di_bytes(ctx); /* the prior's own memory among it */
        REFUSED(solve(&j, x), DI_EUSAGE, bad[i][2]);
        EQUAL(di_bytes(ctx), held);
    }
}

/* A problem's own defaults are in place when a run of it is opened. */
static void test_defaults(void)
{
    di_prior *prior = gaussian(1, 4, 4, 0, 0.25);
    for (int i = 0; di_default_at(i); i++) {
        const di_default *d = di_default_at(i);
        di_problem *p;
        di_run *run;
        in_case("%s on %s: %s=%s", d->solver, d->problem, d->key, d->value);
        EQUAL(di_problem_denoise(ctx, 1, 4, 4, &p), DI_OK);
        EQUAL(di_run_open(ctx, di_solver_find(d->solver), prior, p, &run), DI_OK);
        if (strcmp(d->problem, "denoise") != 0)
            CHECK(strcmp(di_run_get(run, d->key), d->value) != 0);
        di_run_close(run);
        p->name = d->problem;
        EQUAL(di_run_open(ctx, di_solver_find(d->solver), prior, p, &run), DI_OK);
        SAYS(di_run_get(run, d->key), d->value);
        EQUAL(di_run_set(run, d->key, d->value), DI_OK);
        di_run_close(run);
    }
}

/* ---- DPS against the official program (tests/vectors/README.md) -------------------------- */

#ifdef __TINYC__ /* 30 times slower than with vectors */
#define FOLLOWED 5
#else
#define FOLLOWED 20
#endif
enum { SIDE = 32, PICTURE = 3 * SIDE * SIDE, PASSES = 20, STOP = FOLLOWED };
typedef struct official {
    io_array x, x0, rho;
    double most_x, most_x0, most_rho, root;
} official;

static double distance(const di_real *got, const di_real *want)
{
    static double w[PICTURE];
    for (int i = 0; i < PICTURE; i++)
        w[i] = want[i];
    return worst(got, w, PICTURE);
}

/* Their own float32 run lies within 2.6e-4 of x0 in the first pass, where x0 weighs 157. */
static int check_official(void *user, const di_step *s)
{
    static const int x_pass[6] = { 1, 2, 5, 10, 15, 20 }, x0_pass[3] = { 1, 10, 20 };
    official *o = user;
    double rho = fabs(s->residual * o->root / o->rho.v[s->step - 1] - 1);
    NEAR(rho, 0, BOUND(1e-4, 1e-9));
    o->most_rho = rho > o->most_rho ? rho : o->most_rho;
    for (int i = 0; i < 6; i++)
        if (x_pass[i] == s->step) {
            double d = distance(s->x, o->x.v + (size_t)i * PICTURE);
            NEAR(d, 0, BOUND(1e-4, 1e-9));
            o->most_x = d > o->most_x ? d : o->most_x;
        }
    for (int i = 0; i < 3; i++)
        if (x0_pass[i] == s->step) {
            double d = distance(s->x0, o->x0.v + (size_t)i * PICTURE);
            NEAR(d, 0, BOUND(1e-3, 1e-9));
            o->most_x0 = d > o->most_x0 ? d : o->most_x0;
        }
    return s->step == STOP && STOP < PASSES;
}

static void test_official(void)
{
    static const struct { const char *task, *settings; size_t used; } task[] = {
        { "dps_inpaint", "steps=20 scale=0.5", 125952 },
        { "dps_sr", "steps=20 scale=0.3", 68352 } };
    static di_real mask[SIDE * SIDE], x[PICTURE];
    di_problem *problem[2];
    for (int i = 0; i < SIDE * SIDE; i++) {
        int r = i / SIDE, c = i % SIDE;
        mask[i] = !(r >= 10 && r <= 21 && c >= 9 && c <= 20);
    }
    if (STOP < PASSES)
        printf("note: with tcc the official DPS runs are followed for %d passes of %d\n", STOP,
               PASSES);
    EQUAL(di_problem_inpaint(ctx, 3, SIDE, SIDE, mask, &problem[0]), DI_OK);
    EQUAL(di_problem_sr(ctx, 3, SIDE, SIDE, 4, DI_SR_BICUBIC, &problem[1]), DI_OK);
    di_prior *prior = network(SIDE);
    io_array noise = vector("dps.noise", "");
    size_t count = noise.n * noise.c * noise.h * noise.w;
    float *normals = malloc((count + 1) * sizeof *normals);
    for (size_t i = 0; noise.v && i < count; i++)
        normals[i] = (float)noise.v[i];
    for (int k = 0; k < 2 && prior && noise.v; k++) {
        char name[40];
        const di_problem *p = problem[k];
        size_t m = (size_t)p->y[0] * p->y[1] * p->y[2];
        snprintf(name, sizeof name, "%s.y", task[k].task);
        io_array y = vector(name, "");
        official o = { .root = sqrt((double)m) };
        snprintf(name, sizeof name, "%s.x", task[k].task);
        o.x = vector(name, "");
        snprintf(name, sizeof name, "%s.x0hat", task[k].task);
        o.x0 = vector(name, "");
        snprintf(name, sizeof name, "%s.rho", task[k].task);
        o.rho = vector(name, "");
        job j = { .solver = "dps", .settings = task[k].settings, .prior = prior, .problem = p,
                  .y = y.v, .noise = normals, .count = count, .report = check_official,
                  .user = &o };
        in_case("%s", task[k].task);
        if (CHECK(y.v && o.x.v && o.x0.v && o.rho.v && o.x.n == 6 && o.x0.n == 3
                  && o.rho.w == PASSES && y.n * y.c * y.h * y.w == m)) {
            EQUAL(solve(&j, x), STOP < PASSES ? DI_EINTERRUPTED : DI_OK);
            EQUAL(j.used, PICTURE + (task[k].used - PICTURE) / PASSES * STOP);
            if (STOP == PASSES)
                NEAR(distance(x, o.x.v + 5 * (size_t)PICTURE), 0, BOUND(1e-4, 1e-9));
            di_clear(ctx);
            snprintf(where, sizeof where, "%s against the official program, x", task[k].task);
            figure(where, o.most_x);
            snprintf(where, sizeof where, "%s, x0", task[k].task);
            figure(where, o.most_x0);
            snprintf(where, sizeof where, "%s, residual", task[k].task);
            figure(where, o.most_rho);
        }
        io_free(&y);
        io_free(&o.x);
        io_free(&o.x0);
        io_free(&o.rho);
    }
    io_free(&noise);
    free(normals);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    EQUAL(di_open(&ctx, NULL, NULL), DI_OK);
    test_tables();
    test_respacing();
    test_rotation();
    test_ddpm_law();
    test_dps_gradient();
    test_dps_curved();
    test_dps_limits();
    test_ddnm();
    test_table();
    test_batches();
    test_noise();
    test_repeated();
    test_failures();
    test_arguments();
    test_divergence();
    test_allocation();
    test_network_allocation();
    test_bytes();
    test_saved();
    test_alien_states();
    test_damaged_states();
    test_forged_states();
    test_save_refused();
    test_needs();
    test_needs_at_all();
    test_choices();
    test_settings();
    test_combinations();
    test_defaults();
    test_official();
    SAYS(di_error(ctx), "");
    di_close(ctx);
    return finish();
}
