/* test_solvers.c: each solver against closed forms on exact Gaussian priors, against its own
   promises (batches, seeds, replayed noise, errors), and DPS against the official program. */
#define DIFFINV_KERNELS
#include "check.h"
#include "../tools/io.h"

#include <stdlib.h>

static di_ctx *ctx;

/* ---- A run ------------------------------------------------------------------------------- */

typedef struct job { /* what to run, and what came of it */
    const char *solver, *settings;      /* "key=value key=value" */
    di_prior *prior;
    const di_problem *problem;
    const di_real *y;
    const float *noise;
    size_t count, used;
    uint64_t seed, first;
    size_t n;                           /* 0 stands for 1 */
    di_report_fn report;
    void *user;
    di_cost cost;
} job;

static void set_all(di_run *run, const char *settings)
{
    while (settings && *settings) {
        char key[32] = "", value[32] = "";
        sscanf(settings, "%31[^=]=%31s", key, value);
        EQUAL(di_run_set(run, key, value), DI_OK);
        settings += strcspn(settings, " ");
        settings += strspn(settings, " ");
    }
}

static di_status solve(job *j, di_real *x)
{
    di_run *run;
    if (di_run_open(ctx, di_solver_find(j->solver), j->prior, j->problem, &run))
        return ctx->status;
    set_all(run, j->settings);
    di_run_report(run, j->report, j->user);
    if (j->noise)
        di_run_noise(run, j->noise, j->count);
    di_status s = di_run_go(run, j->y, j->seed, j->first, j->n ? j->n : 1, x);
    j->used = di_run_noise_used(run);
    j->cost = di_run_cost(run);
    di_run_close(run);
    return s;
}

static void refused(di_status got, di_status want, const char *words)
{
    EQUAL(got, want);
    SAYS(di_error(ctx), words);
    di_clear(ctx);
}

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
    int nan_at, fail_at, fail_vjp;      /* the call that goes wrong; 0: none */
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
    return s->inner->vjp(s->inner, keep, geps, gx);
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
    refused(solve(&j, x), DI_EUSAGE, "no whole stride over 1000 steps keeps 999");
    j.settings = "steps=1001";
    refused(solve(&j, x), DI_EUSAGE, "steps=1001, but the prior has only 1000");
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
    refused(solve(&learned, one), DI_EUSAGE, "this prior has no variance head");
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
            snprintf(settings, sizeof settings, "steps=40 sigma_y=%g", sigmas[i]);
            in_case("ddnm %s, %s", problem[k]->name, settings);
            job j = { .solver = "ddnm", .settings = settings, .prior = &q.watched->p, .seed = 8,
                      .problem = problem[k], .y = y, .report = check_projection, .user = &q };
            EQUAL(solve(&j, x), DI_OK);
            figure(where, q.most);
            EQUAL(j.cost.net, 40);
            EQUAL(j.cost.net_vjp, 0);
        }
    /* gam = 0 where sigma_y exceeds the next level: the draws after the start do not matter. */
    static float noise[11 * D], noise2[11 * D];
    for (int i = 0; i < 11 * D; i++) {
        noise[i] = (float)(2 * value_at((size_t)i, 44));
        noise2[i] = i < D ? noise[i] : -3;
    }
    job quiet = { .solver = "ddnm", .settings = "steps=10 sigma_y=100 spacing=ddim", .y = y,
                  .prior = gaussian(2, 8, 8, 0, 1), .problem = problem[1], .noise = noise,
                  .count = 11 * D };
    in_case("ddnm, sigma_y above every level");
    EQUAL(solve(&quiet, x), DI_OK);
    EQUAL(quiet.used, 11 * D);
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

/* ---- Promises of every solver: batches, seeds, replayed noise, costs --------------------- */

static int read_file(void *user, uint64_t offset, void *dst, size_t n)
{
    FILE *f = user;
    return fseek(f, (long)offset, SEEK_SET) != 0 || fread(dst, 1, n, f) != n;
}

/* The small trained network (tests/vectors/README.md), which must be there. */
static di_prior *network(int side)
{
    FILE *f = fopen("tests/vectors/dps.unw", "rb");
    di_net *net;
    di_prior *p = NULL;
    if (CHECK(f != NULL) && fseek(f, 0, SEEK_END) == 0) {
        EQUAL(di_net_open(ctx, read_file, f, (uint64_t)ftell(f), 0, &net), DI_OK);
        fclose(f);
        if (net)
            EQUAL(di_prior_net(net, side, side, &p), DI_OK);
    }
    return p;
}

static void test_batches(void)
{
    enum { D = 3 * 8 * 8, N = 3 };
    static di_real x[N * D], one[N * D], y[D];
    di_prior *priors[2] = { gaussian(3, 8, 8, 0.1, 0.3), network(8) };
    di_problem *p;
    EQUAL(di_problem_sr(ctx, 3, 8, 8, 2, DI_SR_BICUBIC, &p), DI_OK);
    fill(y, D / 4, 46);
    for (int k = 0; di_solver_at(k); k++)
        for (int b = 0; b < 2 && priors[b]; b++) {
            const di_solver *s = di_solver_at(k);
            const di_problem *problem = s->needs & DI_NEEDS_PROBLEM ? p : NULL;
            int grad = (s->needs & DI_NEEDS_NET_VJP) != 0;
            job j = { .solver = s->name, .settings = "steps=5", .prior = priors[b], .y = y,
                      .problem = problem, .seed = 5, .first = 7, .n = N };
            in_case("%s, a batch on %s", s->name, b ? "a network" : "a Gaussian");
            EQUAL(solve(&j, x), DI_OK);
            EQUAL(j.cost.net, 5 * N);
            EQUAL(j.cost.net_vjp, grad * 5 * N);
            EQUAL(j.cost.apply, problem ? 5 * N : 0);
            EQUAL(j.cost.apply_vjp, grad * 5 * N);
            EQUAL(j.used, 0);
            CHECK(di_finite(x, N * D));
            j.n = 1;
            for (int i = 0; i < N; i++, j.first++) {
                EQUAL(solve(&j, one + i * D), DI_OK);
                CHECK(same(one + i * D, x + i * D, D));
                CHECK(i == 0 || !same(one + i * D, one, D)); /* samples differ */
            }
            j.first = 7;
            j.seed = 6;
            EQUAL(solve(&j, one), DI_OK);
            CHECK(!same(one, x, D));
        }
}

static void test_noise(void)
{
    enum { D = 16, K = 4 };
    static const struct { const char *solver, *settings; int values; } used[] = {
        { "ddpm", "steps=4", D + K * D },          { "ddim", "steps=4", D + K * D },
        { "dps", "steps=4", D + K * (D + D / 4) }, { "ddnm", "steps=4", D + K * D } };
    float noise[200];
    di_real x[D], full[D], y[D / 4] = { 0 };
    di_problem *p;
    di_prior *prior = gaussian(1, 4, 4, 0, 0.25);
    di_problem_sr(ctx, 1, 4, 4, 2, DI_SR_MEAN, &p);
    for (int i = 0; i < 200; i++)
        noise[i] = (float)value_at((size_t)i, 47);
    for (int k = 0; k < 4; k++) {
        job j = { .solver = used[k].solver, .settings = used[k].settings, .prior = prior,
                  .problem = k < 2 ? NULL : p, .y = y, .noise = noise, .count = 200,
                  .report = record };
        in_case("%s, replayed noise", j.solver);
        trace_begin(D, 0);
        EQUAL(solve(&j, full), DI_OK);
        EQUAL(j.used, used[k].values);
        j.count = (size_t)used[k].values; /* exactly enough */
        trace_begin(D, 0);
        EQUAL(solve(&j, x), DI_OK);
        CHECK(same(x, full, D));
        j.count = D + 1; /* the first step's draw fails: nothing was estimated yet */
        trace_begin(D, 0);
        refused(solve(&j, x), DI_EUSAGE, "ran out after 17 values, at step 1 of 4");
        EQUAL(j.used, D + 1);
        EQUAL(trace.n, 0);
        EQUAL(di_rms(x, D), 0);
        j.count = D + 2 * (size_t)(used[k].values - D) / K + 1;
        trace_begin(D, 0);
        refused(solve(&j, x), DI_EUSAGE, "at step 3 of 4");
        EQUAL(trace.n, 2);
        CHECK(same(x, trace.x0, D)); /* the last good estimate */
        j.count = D - 1;
        trace_begin(D, 0);
        refused(solve(&j, x), DI_EUSAGE, "ran out after 15 values");
        j.count = 200;
        j.n = 2;
        di_real two[2 * D];
        refused(solve(&j, two), DI_EUSAGE, "one sample at a time");
    }
    di_run *run; /* one run twice: the same numbers again */
    in_case("a run repeated");
    di_run_open(ctx, di_solver_find("ddpm"), prior, NULL, &run);
    di_run_set(run, "steps", "4");
    di_run_noise(run, noise, D + K * D);
    EQUAL(di_run_go(run, NULL, 0, 0, 1, full), DI_OK);
    EQUAL(di_run_go(run, NULL, 0, 0, 1, x), DI_OK);
    CHECK(same(x, full, D));
    EQUAL(di_run_noise_used(run), D + K * D);
    EQUAL(di_run_cost(run).net, K);
    EQUAL(di_run_bytes(run, 2), 2 * 5 * D * sizeof(di_real)); /* five images a sample */
    di_run_close(run);
}

/* ---- Errors ------------------------------------------------------------------------------ */

static void test_failures(void)
{
    enum { D = 16 };
    static const char *const names[] = { "ddpm", "ddim", "dps", "ddnm" };
    di_real x[D], y[D / 4] = { 0 };
    di_problem *p;
    di_prior *prior = gaussian(1, 4, 4, 0, 0.25);
    di_problem_sr(ctx, 1, 4, 4, 2, DI_SR_MEAN, &p);
    for (int k = 0; k < 4; k++) {
        char words[80];
        spy *s = watch(prior);
        job j = { .solver = names[k], .settings = "steps=6 clip=no", .prior = &s->p, .y = y,
                  .problem = k < 2 ? NULL : p, .report = record, .seed = 9 };
        in_case("%s, NaN at step 4", names[k]);
        s->nan_at = 4;
        trace_begin(D, 0);
        snprintf(words, sizeof words, "%s: NaN or Inf in the estimate at step 4 of 6",
                 names[k]);
        refused(solve(&j, x), DI_ENUMERIC, words);
        EQUAL(trace.n, 3);
        EQUAL(s->calls, 4);
        CHECK(same(x, trace.x0, D) && di_finite(x, D));
        in_case("%s, NaN at once", names[k]);
        s = watch(prior);
        s->nan_at = 1;
        trace_begin(D, 0);
        refused(solve(&j, x), DI_ENUMERIC, "at step 1 of 6");
        EQUAL(trace.n, 0);
        EQUAL(di_rms(x, D), 0);
        in_case("%s, stopped at step 3", names[k]);
        s = watch(prior);
        trace_begin(D, 3);
        snprintf(words, sizeof words, "%s: stopped at step 3 of 6", names[k]);
        refused(solve(&j, x), DI_EINTERRUPTED, words);
        EQUAL(s->calls, 3);
        CHECK(same(x, trace.x0, D));
        in_case("%s, a prior that fails at step 2", names[k]);
        s = watch(prior);
        s->fail_at = 2;
        trace_begin(D, 0);
        refused(solve(&j, x), DI_EMEMORY, names[k]);
        EQUAL(trace.n, 1);
        EQUAL(s->calls, 2);
        CHECK(same(x, trace.x0, D));
    }
    spy *s = watch(prior);
    job j = { .solver = "dps", .settings = "steps=6", .prior = &s->p, .y = y, .problem = p,
              .report = record };
    in_case("dps, a prior whose derivative fails at step 2");
    s->fail_vjp = 2;
    trace_begin(D, 0);
    refused(solve(&j, x), DI_EMEMORY, "dps");
    EQUAL(trace.n, 1);
    in_case("dps, a prior without a derivative");
    s = watch(prior);
    s->p.vjp = NULL;
    refused(solve(&j, x), DI_EUSAGE, "derivative");
    in_case("arguments of a run");
    s = watch(prior);
    di_run *run;
    EQUAL(di_run_open(ctx, di_solver_find("ddpm"), prior, NULL, &run), DI_OK);
    refused(di_run_go(run, NULL, 0, 0, 0, x), DI_EUSAGE, "0 samples");
    di_run_close(run);
    y[1] = NAN;
    refused(solve(&j, x), DI_EINPUT, "the measurement holds NaN or Inf");
    di_prior *large = gaussian(1, 8, 8, 0, 1);
    j.prior = large;
    refused(solve(&j, x), DI_EUSAGE, "the prior makes 1x8x8 images, the problem takes 1x4x4");
}

static void test_needs(void)
{
    static const struct {
        const char *solver;
        int linear, pinv, vjp; /* what the problem has */
        const char *words;
    } bad[] = {
        { "ddnm", 0, 1, 1, "solver ddnm needs a linear map, which problem odd lacks" },
        { "ddnm", 1, 0, 1, "solver ddnm needs a pseudo-inverse, which problem odd lacks" },
        { "ddnm", 1, 0, 1, "these would do: dps" },
        { "dps", 1, 1, 0, "solver dps needs a derivative, which problem odd lacks" },
        { "dps", 1, 1, 0, "these would do: ddnm" },
        { "dps", 0, 0, 0, "none yet" },
        { "ddpm", 1, 1, 1, "solver ddpm samples the prior and uses no measurement" },
        { "ddim", 1, 1, 1, "for problem odd these would do: dps, ddnm" } };
    di_prior *prior = gaussian(1, 1, 2, 0, 1);
    di_run *run;
    for (int i = 0; i < 8; i++) {
        static const double A[2] = { 1, 1 };
        di_problem p = matrix_problem(1, 2, A);
        p.name = "odd";
        p.linear = bad[i].linear;
        p.pinv = bad[i].pinv ? matrix_apply : NULL;
        p.vjp = bad[i].vjp ? matrix_apply_vjp : NULL;
        in_case("needs %d", i);
        refused(di_run_open(ctx, di_solver_find(bad[i].solver), prior, &p, &run), DI_EUSAGE,
                bad[i].words);
        CHECK(run == NULL);
    }
    in_case("needs a problem");
    refused(di_run_open(ctx, di_solver_find("dps"), prior, NULL, &run), DI_EUSAGE,
            "solver dps needs a problem to solve (-p); to sample the prior alone use ddpm or "
            "ddim");
    refused(di_run_open(ctx, di_solver_find("ddnm"), prior, NULL, &run), DI_EUSAGE,
            "solver ddnm needs a problem");
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
        { "ddim", "spacing", "uniform", "wants one of even|ddim" } };
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
        refused(di_run_set(run, bad[i][1], bad[i][2]), DI_EUSAGE, bad[i][3]);
        value = di_run_get(run, bad[i][1]);
        CHECK(strcmp(before, value ? value : "(none)") == 0); /* a refusal changes nothing */
        di_run_close(run);
    }
    for (int k = 0; di_solver_at(k); k++) { /* defaults are legal and are the values */
        const di_solver *s = di_solver_at(k);
        CHECK(di_solver_find(s->name) == s);
        EQUAL(di_run_open(ctx, s, prior, s->needs ? &p : NULL, &run), DI_OK);
        for (int i = 0; i < DI_MAX_PARAM && s->param[i].key; i++) {
            in_case("%s %s", s->name, s->param[i].key);
            CHECK(strcmp(di_run_get(run, s->param[i].key), s->param[i].value) == 0);
            EQUAL(di_run_set(run, s->param[i].key, s->param[i].value), DI_OK);
            SAYS(di_error(ctx), "");
            CHECK(strlen(s->param[i].note) > 0);
        }
        di_run_close(run);
    }
    in_case("solver table");
    CHECK(di_solver_find("dsp") == NULL && di_solver_find("") == NULL);
    CHECK(di_solver_at(-1) == NULL && di_solver_at(1000) == NULL);
    static const char *const words[] = { "inpaint", "denoise", "gblur" };
    CHECK(strcmp(di_nearest("blur", words, 3), "gblur") == 0);
    CHECK(strcmp(di_nearest("impaint", words, 3), "inpaint") == 0);
    CHECK(strcmp(di_nearest("anything", words, 0), "") == 0);
}

/* ---- DPS against the official program (tests/vectors/README.md) -------------------------- */

static io_array vector(const char *name)
{
    char path[64], err[256] = "";
    io_array a;
    snprintf(path, sizeof path, "tests/vectors/%s.npy", name);
    if (!CHECK(io_read(&a, path, err, sizeof err) == 0))
        printf("     %s\n", err);
    return a;
}

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
    io_array noise = vector("dps.noise");
    size_t count = noise.n * noise.c * noise.h * noise.w;
    float *normals = malloc((count + 1) * sizeof *normals);
    for (size_t i = 0; noise.v && i < count; i++)
        normals[i] = (float)noise.v[i];
    for (int k = 0; k < 2 && prior && noise.v; k++) {
        char name[40];
        const di_problem *p = problem[k];
        size_t m = (size_t)p->y[0] * p->y[1] * p->y[2];
        snprintf(name, sizeof name, "%s.y", task[k].task);
        io_array y = vector(name);
        official o = { .root = sqrt((double)m) };
        snprintf(name, sizeof name, "%s.x", task[k].task);
        o.x = vector(name);
        snprintf(name, sizeof name, "%s.x0hat", task[k].task);
        o.x0 = vector(name);
        snprintf(name, sizeof name, "%s.rho", task[k].task);
        o.rho = vector(name);
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
    test_batches();
    test_noise();
    test_failures();
    test_needs();
    test_settings();
    test_official();
    SAYS(di_error(ctx), "");
    di_close(ctx);
    return finish();
}
