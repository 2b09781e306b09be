/* test_mo.c: the noise-level frame, Measurements Optimization, RED-diff and DDNM's levels
   against closed forms on exact priors, and against the official programs' trajectories.
   Numbers beside a check are those of the specification; where only some digits are given the
   tolerance is half of the last. */
#define finish solver_finish /* solvers.c has one of its own, and so has check.h */
#include "solvers.c"
#undef finish
#include "run.h"

#include <stdlib.h>

/* ---- Priors and problems ----------------------------------------------------------------- */

/* N(m, v I) */
static di_prior *gaussian(int d, double m, double v)
{
    di_prior *p;
    di_real *mean = malloc(2 * (size_t)d * sizeof *mean), *cov = mean + d;
    for (int i = 0; i < d; i++) {
        mean[i] = (di_real)m;
        cov[i] = (di_real)v;
    }
    EQUAL(di_prior_gauss(ctx, 1, 1, d, mean, cov, 0, &p), DI_OK);
    free(mean);
    return p;
}

/* y_i = s x_i on d pixels */
static void scale_apply(const di_problem *p, const di_real *x, di_real *y)
{
    const double *s = p->self;
    for (int i = 0; i < p->x[2]; i++)
        y[i] = (di_real)*s * x[i];
}

static void scale_vjp(const di_problem *p, const di_real *x, const di_real *v, di_real *gx)
{
    (void)x;
    scale_apply(p, v, gx);
}

static di_problem scaling(int d, double *s)
{
    di_problem p = { .ctx = ctx, .name = "scaling", .linear = 1, .x = { 1, 1, d },
                     .y = { 1, 1, d }, .apply = scale_apply, .vjp = scale_vjp, .self = s };
    return p;
}

/* ---- Linear laws, exactly ----

   On independent equal pixels a solver that is linear in its noise gives every pixel
   mean + sum_k c_k z_k. With draw number k an impulse at pixel k alone, pixel k holds mean +
   c_k: one run shows all weights, and the sum of their squares is the variance. */

typedef struct law {
    double mean, variance;
    size_t draws, from;  /* impulses from draw `from` on, the earlier ones 0 */
    double means[256], variances[256]; /* after each step */
    int steps;
} law;

static double spread(const di_real *x, size_t n, double mean)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (x[i] - mean) * (x[i] - mean);
    return sum;
}

static int law_step(void *user, const di_step *s)
{
    law *w = user;
    size_t n = w->draws - w->from;
    w->means[s->step - 1] = s->x[n]; /* the last pixel sees no noise */
    w->variances[s->step - 1] = spread(s->x, n, s->x[n]);
    w->steps = s->step;
    return 0;
}

/* Pixels of every array: draws - from, and one more. */
static law law_of(job j, double y, size_t draws, size_t from)
{
    static law w;
    size_t d = draws - from + 1;
    float *noise = calloc(draws * d, sizeof *noise);
    di_real *x = malloc(2 * d * sizeof *x), *ys = x + d;
    for (size_t k = from; k < draws; k++)
        noise[k * d + k - from] = 1;
    for (size_t i = 0; i < d; i++)
        ys[i] = (di_real)y;
    memset(&w, 0, sizeof w);
    w.draws = draws;
    w.from = from;
    j.y = ys;
    j.noise = noise;
    j.count = draws * d;
    j.report = law_step;
    j.user = &w;
    EQUAL(solve(&j, x), DI_OK);
    EQUAL(j.used, draws * d);
    w.mean = x[d - 1];
    w.variance = spread(x, d - 1, w.mean);
    free(x);
    free(noise);
    return w;
}

/* ---- P4: the order of Euler and Heun ----------------------------------------------------- */

/* Relative error of the flow's end over its start, the exact ratio given; one pixel. */
static double flow_error(const char *settings, double start, double end, int calls)
{
    static const float one[1] = { 1 };
    di_real x[1];
    job j = { .solver = "edm", .settings = settings, .noise = one, .count = 1,
              .prior = gaussian(1, 0, 0.25) };
    EQUAL(solve(&j, x), DI_OK);
    EQUAL(j.cost.net, calls);
    return x[0] / (start * sqrt((0.25 + end * end) / (0.25 + start * start))) - 1;
}

static void test_order(void)
{
    static const struct { int K; double euler, heun; } known[] = {
        { 50, -5.635e-2, 6.119e-3 }, { 100, -2.830e-2, 1.460e-3 },
        { 200, -1.419e-2, 3.514e-4 }, { 400, -7.105e-3, 8.093e-5 } };
    double euler[4], heun[4];
    for (int i = 0; i < 4; i++) {
        char settings[80];
        snprintf(settings, sizeof settings, "steps=%d step=euler", known[i].K);
        in_case("edm %s", settings);
        euler[i] = flow_error(settings, 80, 0, known[i].K);
        figure(where, euler[i]);
        NEAR(euler[i], known[i].euler, BOUND(1e-5, i < 3 ? 5e-6 : 5e-7));
        snprintf(settings, sizeof settings, "steps=%d step=heun", known[i].K);
        in_case("edm %s", settings);
        heun[i] = flow_error(settings, 80, 0, 2 * known[i].K - 1);
        figure(where, heun[i]);
        NEAR(heun[i], known[i].heun, BOUND(1e-5, i < 2 ? 5e-7 : i < 3 ? 5e-8 : 5e-9));
        if (i) {
            NEAR(euler[i - 1] / euler[i], 2, 0.02);
            NEAR(heun[i - 1] / heun[i], 4, BOUND(0.7, 0.35));
        }
    }
}

/* The same flow on InverseBench's grids, between their own ends: first and second order. */
static void test_other_grids(void)
{
    static const struct { const char *grid; double start, end; } grids[] = {
        { "grid=vp final=0.01", 0, 0.01 },
        { "grid=sqrt smax=100 smin=0.01 final=0.01", 100, 0.01 } };
    for (int g = 0; g < 2; g++)
        for (int heun = 0; heun < 2; heun++) {
            double before = 0;
            for (int K = 100; K <= 800; K *= 2) {
                char settings[80];
                snprintf(settings, sizeof settings, "steps=%d step=%s %s", K,
                         heun ? "heun" : "euler", grids[g].grid);
                in_case("edm %s", settings);
                double start = g ? grids[g].start : vp_sigma(1);
                double far = flow_error(settings, start, grids[g].end, heun ? 2 * K : K);
                figure(where, far);
                if (K > 100 && (!heun || BOUND(0, 1)))
                    NEAR(before / far, heun ? 4 : 2, heun ? 0.8 : 0.2);
                before = far;
            }
            NEAR(before, 0, heun ? 1e-3 : 0.03);
        }
}

/* ---- The VP grid's nodes (gradient-free, 1 and P9) --------------------------------------- */

static struct nodes {
    double t[1001], sigma[1001], s[1001], f[1000];
} nodes;

/* A solver that shows its grid. */
static di_status show_nodes(di_run *run)
{
    grid g;
    int K = (int)num(run, "steps");
    if (grid_vp(run, &g, K, 0.01))
        return run->ctx->status;
    for (int i = 0; i <= K; i++) {
        nodes.t[i] = g.t[i];
        nodes.sigma[i] = g.sigma[i];
        nodes.s[i] = g.s[i];
        NEAR(g.shrink[i], -g.rate[i], 0);
        if (i < K)
            nodes.f[i] = 2 * g.rate[i] * (g.t[i] - g.t[i + 1]);
    }
    return DI_OK;
}

static const di_solver nodes_solver = { "nodes", "", "", 0, 0, 0,
    { { "steps", "500", "1..1000 int", "" } }, show_nodes, NULL };

static void test_nodes(void)
{
    static const struct { int K, i; double t, sigma, s, f, f_digit; } known[] = {
        { 500, 0, 1.000000, 152.167, 0.00657159, 0.0400401, 5e-8 },
        { 500, 1, 0.997998, 149.154, 0.00670434, 0.0399603, 5e-8 },
        { 500, 99, 0.801802, 25.4745, 0.0392248, 0.0321439, 5e-8 },
        { 500, 250, 0.499499, 3.4036, 0.281891, 0.0201002, 5e-8 },
        { 500, 498, 0.003002, 0.0197471, 0.999805, 3.198e-4, 5e-8 },
        { 500, 499, 0.001000, 0.010486, 0.999945, 1.00246e-5, 5e-11 },
        { 1000, 250, 0.750000, 17.017, 0.0586635, 0.015025, 5e-7 } };
    di_real x[1];
    for (int k = 0; k < 7; k++) {
        char settings[40];
        int i = known[k].i, K = known[k].K;
        snprintf(settings, sizeof settings, "steps=%d", K);
        in_case("the VP grid, K = %d, node %d", K, i);
        job j = { .own = &nodes_solver, .settings = settings, .prior = gaussian(1, 0, 1) };
        EQUAL(solve(&j, x), DI_OK);
        NEAR(nodes.t[i], known[k].t, 5e-7);
        NEAR(nodes.sigma[i], known[k].sigma, 1e-5 * known[k].sigma);
        NEAR(nodes.s[i], known[k].s, 2e-6 * known[k].s);
        NEAR(nodes.f[i], known[k].f, known[k].f_digit);
        NEAR(nodes.t[K], 0.00091639, 5e-9); /* tau(0.01), worked out anew */
        NEAR(nodes.sigma[K], 0.01, 1e-12);
        for (int l = 0; l <= K; l++) {
            double s = nodes.s[l], sigma = nodes.sigma[l];
            NEAR(s * s * (1 + sigma * sigma), 1, 1e-14);
            NEAR(vp_time(sigma), nodes.t[l], 1e-12);
            CHECK(l == K || nodes.f[l] > 0);
        }
    }
}

/* Unguided, from N(0, I), a step of the reverse SDE is x -> (1 - f/2) x + sqrt(f) N: the
   variance stays between 1 and 1/(1 - f_0/4). */
static void test_sde(void)
{
    enum { K = 500 };
    job j = { .solver = "edm",
              .settings = "steps=500 grid=vp step=sde final=0.01",
              .prior = gaussian(K + 2, 0, 1) };
    in_case("edm, the reverse SDE on N(0, I)");
    float *noise = calloc((K + 1) * (size_t)(K + 2), sizeof *noise);
    static di_real x[K + 2], one[K + 2];
    for (size_t k = 0; k <= K; k++)
        noise[k * (K + 2) + k] = 1;
    j.noise = noise;
    j.count = (K + 1) * (size_t)(K + 2);
    EQUAL(solve(&j, x), DI_OK);
    EQUAL(solve(&(job){ .own = &nodes_solver, .settings = "steps=500", .prior = j.prior },
                one), DI_OK);
    double V = vp_sigma(1), s = di_exp(-(BETA_D / 2 + BETA_0) / 2), most = 0;
    V = V * V * s * s;
    for (int i = 0; i < K; i++) {
        double f = nodes.f[i];
        V = (1 - f / 2) * (1 - f / 2) * V + f;
        most = V > most ? V : most;
        CHECK(V > 1 - 1e-4 && V < 1 / (1 - nodes.f[0] / 4));
    }
    V *= 1 + 0.01 * 0.01; /* the answer is x/s at sigma = 0.01 */
    NEAR(spread(x, K + 1, 0), V, BOUND(1e-5, 1e-10));
    figure("variance of the unguided SDE, most over K = 500", most);
    figure("variance of the unguided SDE, against its recursion", spread(x, K + 1, 0) - V);
    free(noise);
}

/* ---- P6, P7: MO at one level ------------------------------------------------------------- */

/* `steps` MO calls at level `sigma`, from z0. */
static di_status fixed_mo(di_run *run)
{
    di_real *xh = take(run, run->d);
    mo m = mo_open(run);
    run->steps = (int)num(run, "steps");
    for (size_t i = 0; i < run->n * run->d; i++)
        xh[i] = (di_real)num(run, "z0");
    for (int i = 0; i < run->steps && !run->ctx->status; i++) {
        mo_call(run, &m, xh, num(run, "sigma"), (uint32_t)(i * (m.N + 1)), xh);
        done(run, -1, num(run, "sigma"), -1, xh, xh);
    }
    return run->ctx->status ? run->ctx->status : solver_finish(run, xh);
}

static const di_solver fixed_solver = { "fixed_mo", "", "", DI_NEEDS_PROBLEM | DI_NEEDS_VJP, 3,
    1, { P_MO("1"), { "sigma", "0", "0..100", "" }, { "z0", "0", "-10..10", "" }, P_TIME },
    fixed_mo, NULL };

static void test_sgld(void)
{
    const double s0 = 0.7, h = 4e-4 / (0.05 * 0.05), q = 1 - h * s0 * s0;
    const double qN = pow(q, 25), mean = -qN + (1 - qN) * 0.3 / s0;
    enum { D = 500, N = 200 };
    static di_real x[N * D], y[D];
    double s = s0;
    di_problem p = scaling(27, &s), many = scaling(D, &s), few = scaling(1, &s);
    job j = { .own = &fixed_solver, .settings = "tau=0.05 eta=4e-4 n=25 z0=-1",
              .prior = gaussian(27, 0, 1), .problem = &p };
    in_case("SGLD law");
    law w = law_of(j, 0.3, 26, 0);
    NEAR(w.mean, mean, BOUND(1e-6, 1e-14));
    NEAR(w.mean, 0.2430203, BOUND(5e-7, 5e-8));
    NEAR(w.variance, 2 * 4e-4 * (1 - qN * qN) / (1 - q * q), BOUND(1e-8, 1e-15));
    NEAR(w.variance, 5.220616e-3, BOUND(1e-8, 5e-10));
    for (int i = 0; i < D; i++)
        y[i] = (di_real)0.3;
    j.prior = gaussian(D, 0, 1);
    j.problem = &many;
    j.y = y;
    j.n = N;
    EQUAL(solve(&j, x), DI_OK); /* 1e5 from the generator */
    double sum = 0, var;
    for (int i = 0; i < N * D; i++)
        sum += x[i] / (double)(N * D);
    var = spread(x, N * D, sum) / (N * D);
    NEAR(sum, 0.2430203, 0.01 * 0.2430203);
    NEAR(var, 5.220616e-3, 0.01 * 5.220616e-3);
    figure("SGLD of 1e5, mean over the law's", sum / mean);
    figure("SGLD of 1e5, variance over the law's", var / 5.220616e-3);
    j.prior = gaussian(1, 0, 1);
    j.problem = &few;
    j.n = 1;
    in_case("SGLD without noise");
    j.settings = "tau=0.05 eta=4e-4 n=25 z0=-1 noise=no";
    EQUAL(solve(&j, x), DI_OK);
    NEAR(x[0], mean, BOUND(1e-6, 1e-14));
    in_case("SGLD beyond its limit"); /* h s^2 = 3: the error doubles every step */
    s = sqrt(3 / h);
    double at[2], limit = 0.3 / s;
    for (int k = 0; k < 2; k++) {
        j.settings = k ? "tau=0.05 eta=4e-4 n=8 z0=-1 noise=no"
                       : "tau=0.05 eta=4e-4 n=4 z0=-1 noise=no";
        EQUAL(solve(&j, x), DI_OK);
        at[k] = x[0] - limit;
    }
    NEAR(at[1] / at[0], 16, BOUND(1e-4, 1e-12));
    j.settings = "tau=0.05 eta=4e-4 n=25 z0=-1 noise=no";
    EQUAL(solve(&j, x), DI_ENUMERIC);
    SAYS(di_error(ctx), "fixed_mo: the Langevin steps diverge at step 1 of 1");
    di_clear(ctx);
}

/* m' = w (q^N m + (1-q^N) y/s) + (1-w) mu0,  V' = w^2 (q^2N V + v_N + sigma^2) */
static void check_calls(const law *w, double s, double mu0, double v, double h, double eta,
                        int N, double sigma, double y)
{
    double q = 1 - h * s * s, qN = 1, vN = 0, gain = v / (v + sigma * sigma), m = 0, V = 0;
    for (int k = 0; k < N; k++) {
        qN *= q;
        vN = q * q * vN + 2 * eta;
    }
    for (int i = 0; i < w->steps; i++) {
        m = gain * (qN * m + (s > 0 ? (1 - qN) * y / s : 0)) + (1 - gain) * mu0;
        V = gain * gain * (qN * qN * V + vN + sigma * sigma);
        NEAR(w->means[i], m, BOUND(1e-6, 1e-13));
        NEAR(w->variances[i], V, BOUND(1e-6, 1e-13));
    }
}

static void test_calls(void)
{
    double s = 0.7, none = 0;
    di_problem p = scaling(521, &s), null = scaling(601, &none), quiet = scaling(121, &none);
    job j = { .own = &fixed_solver, .prior = gaussian(521, 0.2, 1), .problem = &p,
              .settings = "tau=0.05 eta=4e-4 n=25 sigma=0.3 steps=20" };
    in_case("MO calls at one level");
    law w = law_of(j, 0.3, 520, 0);
    check_calls(&w, 0.7, 0.2, 1, 0.16, 4e-4, 25, 0.3, 0.3);
    NEAR(w.mean, 0.407145, BOUND(1e-6, 5e-7));
    NEAR(w.variance, 0.081300, BOUND(1e-6, 5e-7));
    figure("MO at one level, limit mean", w.mean);
    figure("MO at one level, limit variance", w.variance);
    in_case("MO calls, null direction"); /* there only eta N counts: 4 steps for 25 */
    j.settings = "tau=0.05 eta=2.5e-3 n=4 sigma=0.3 steps=120";
    j.prior = gaussian(601, 0.2, 1);
    j.problem = &null;
    w = law_of(j, 0.3, 600, 0);
    check_calls(&w, 0, 0.2, 1, 1, 2.5e-3, 4, 0.3, 0.3);
    NEAR(w.mean, 0.2, BOUND(1e-5, 2e-5));
    NEAR(w.variance, 0.584795, BOUND(2e-6, 5e-7));
    in_case("MO calls, null direction, without noise");
    j.settings = "tau=0.05 eta=4e-4 n=25 sigma=0.3 steps=120 noise=no";
    j.prior = gaussian(121, 0.2, 1);
    j.problem = &quiet;
    w = law_of(j, 0.3, 120, 0);
    check_calls(&w, 0, 0.2, 1, 0.16, 0, 25, 0.3, 0.3);
    NEAR(w.variance, 0.478469, BOUND(2e-6, 5e-7));
}

/* The setting of the figures below; what is said after it counts. */
#define SETTING "steps=100 smax=100 rho=7 sigma_y=0.05 smin_rel=2 n=50 eta=5e-5 tau=0.01 "

/* ---- P8: bookkeeping of DPS-MO ----------------------------------------------------------- */

typedef struct books {
    size_t d;
    di_real x[64], x0[64]; /* of the last step */
    double sigma, far;
} books;

/* x' = (sigma'/sigma) x + (1 - sigma'/sigma) xh, seen a step later. */
static int keep_books(void *user, const di_step *s)
{
    books *b = user;
    memcpy(b->x, s->x, b->d * sizeof *s->x);
    memcpy(b->x0, s->x0, b->d * sizeof *s->x0);
    b->sigma = s->sigma;
    return 0;
}

static void test_bookkeeping(void)
{
    enum { D = 16, N = 5, K = 12, DRAWS = 1 + K * (N + 1) };
    static float noise[DRAWS * D], other[DRAWS * D];
    di_real x[D], x2[D], y[D];
    di_problem *p;
    EQUAL(di_problem_denoise(ctx, 1, 1, D, &p), DI_OK);
    fill(y, D, 60);
    for (int i = 0; i < DRAWS * D; i++) {
        noise[i] = (float)(1.7 * value_at((size_t)i, 61));
        other[i] = i < D ? 100.0f : noise[i];
    }
    for (int v = 0; v < 3; v++) {
        char settings[60];
        books b = { .d = D };
        snprintf(settings, sizeof settings, "steps=12 n=5 smin_rel=2 variant=%c", "abc"[v]);
        in_case("dps_mo %s", settings);
        job j = { .solver = "dps_mo", .settings = settings, .y = y,
                  .prior = gaussian(D, 0.1, 0.25), .problem = p, .noise = noise,
                  .count = DRAWS * D, .report = keep_books, .user = &b };
        EQUAL(solve(&j, x), DI_OK);
        CHECK(same(x, b.x0, D)); /* the answer is the last call's */
        CHECK(same(x, b.x, D));  /* which is where the trajectory ends */
        EQUAL(j.cost.net, v == 0 ? 2 * K : K);
        EQUAL(j.cost.apply_vjp, K * N);
        NEAR(b.sigma, 0.1, 1e-15); /* smin_rel sigma_y */
        j.noise = other;
        EQUAL(solve(&j, x2), DI_OK);
        EQUAL(same(x, x2, D), v == 1); /* in variant b the trajectory enters no call */
    }
}

/* ---- P9: the Bayes point ----------------------------------------------------------------- */

/* d(mean)/d(y/s) of a one-pixel run without Langevin noise: the re-noising is the same. */
static double gain(const char *settings, double s, double v)
{
    di_real x[2], y[2] = { (di_real)(0.25 * s), (di_real)(0.75 * s) };
    di_problem p = scaling(1, &s);
    job j = { .solver = "dps_mo", .prior = gaussian(1, 0, v), .problem = &p };
    char with[200];
    snprintf(with, sizeof with, SETTING "noise=no %s", settings);
    in_case("dps_mo %s s=%g", settings, s);
    j.settings = with;
    for (int i = 0; i < 2; i++) {
        j.y = y + i;
        EQUAL(solve(&j, x + i), DI_OK);
    }
    figure(where, (x[1] - x[0]) / 0.5);
    return (x[1] - x[0]) / 0.5;
}

static void test_bayes(void)
{
    const double posterior = 0.25 / (0.25 + 0.0025), far = BOUND(6e-5, 5e-5);
    NEAR(gain("smin_rel=0.4", 1, 0.25), 0.9984, far);
    NEAR(gain("smin_rel=1", 1, 0.25), 0.9901, far);
    NEAR(gain("smin_rel=1", 1, 0.25), posterior, BOUND(5e-6, 1e-9)); /* at smin = sigma_y/s */
    NEAR(gain("smin_rel=2", 1, 0.25), 0.9615, far);
    NEAR(gain("smin_rel=4", 1, 0.25), 0.8621, far);
    NEAR(gain("smin_rel=0.2 sigma_y=0.25", 1, 0.25), 0.9901, far); /* smin = smin_rel sigma_y */
    NEAR(gain("smin_rel=4", 0.25, 0.25), 0.8261, far);
    NEAR(gain("smin_rel=4 eta=1e-4", 0.25, 0.25), 0.8562, far);
    NEAR(gain("smin_rel=4 n=400", 0.25, 0.25), 0.86207, BOUND(1e-5, 5e-6));
    NEAR(gain("smin_rel=1 tau=0.707106781186548", 1, 0.25), 0.05477, BOUND(1e-5, 5e-6));
    NEAR(pow(1 - 5e-5 / 0.5, 50), 0.99501, 5e-6);
    enum { K = 100, DRAWS = 1 + K * 51 };
    double one = 1;
    di_problem p = scaling(52, &one);
    job j = { .solver = "dps_mo", .problem = &p,
              .settings = SETTING "smin_rel=1",
              .prior = gaussian(52, 0, 0.25) };
    in_case("dps_mo, spread at the Bayes point");
    law w = law_of(j, 0.5, DRAWS, DRAWS - 51); /* 0.5^50 of what was before is left */
    double v = 2 * 5e-5 / (1 - 0.25), std = posterior * sqrt(v + 0.0025);
    NEAR(sqrt(w.variance), std, BOUND(1e-6, 1e-12));
    NEAR(sqrt(w.variance), 0.0508, 5e-5);
    NEAR(sqrt(0.25 * 0.0025 / 0.2525), 0.0498, 5e-5);
    figure("standard deviation at the Bayes point", sqrt(w.variance));
    enum { D = 64, N = 100 };
    static di_real x[N * D], y[D];
    di_problem many = scaling(D, &one);
    for (int i = 0; i < D; i++)
        y[i] = (di_real)0.5;
    j.settings = SETTING "smin_rel=1 steps=10"; /* from the generator; 6400: 0.9 % of spread */
    j.prior = gaussian(D, 0, 0.25);
    j.problem = &many;
    j.y = y;
    j.n = N;
    EQUAL(solve(&j, x), DI_OK);
    double mean = 0;
    for (int i = 0; i < N * D; i++)
        mean += x[i] / (double)(N * D);
    NEAR(mean, 0.5 * posterior, 0.003); /* 5 standard errors */
    NEAR(sqrt(spread(x, N * D, mean) / (N * D)), 0.0508, 0.03 * 0.0508);
}

/* ---- P10, and the toy of 4.5: three modes ------------------------------------------------ */

enum { RUNS = 400 };
static const double modes[3][2] = { { 0.7, 0.7 }, { -0.7, -0.7 }, { 0.7, -0.7 } };

static di_prior *three_modes(void)
{
    static const di_real weight[3] = { (di_real)0.4, (di_real)0.4, (di_real)0.2 };
    di_real mean[6], var[3];
    di_prior *p;
    for (int i = 0; i < 6; i++)
        mean[i] = (di_real)modes[i / 2][i % 2];
    for (int k = 0; k < 3; k++)
        var[k] = (di_real)(0.08 * 0.08);
    EQUAL(di_prior_mixture(ctx, 1, 1, 2, 3, weight, mean, var, 0, &p), DI_OK);
    return p;
}

typedef struct tally { /* runs nearest to each mode, mean distance to it, distance <= far */
    double share[3], distance;
} tally;

static tally count_modes(const char *solver, const char *settings, di_real a0, di_real a1,
                         double y)
{
    static di_real x[2 * RUNS];
    di_real A[2] = { a0, a1 }, ys[1] = { (di_real)y };
    di_problem *p;
    tally t = { { 0 }, 0 };
    char with[200];
    snprintf(with, sizeof with, SETTING "%s", settings);
    EQUAL(di_problem_matrix(ctx, 1, 1, 2, 1, A, &p), DI_OK);
    job j = { .solver = solver, .settings = with, .prior = three_modes(),
              .problem = p, .y = ys, .n = RUNS };
    EQUAL(solve(&j, x), DI_OK);
    for (int i = 0; i < RUNS; i++) {
        int best = 0;
        double least = HUGE_VAL;
        for (int k = 0; k < 3; k++) {
            double u = x[2 * i] - modes[k][0], v = x[2 * i + 1] - modes[k][1];
            best = u * u + v * v < least ? k : best;
            least = u * u + v * v < least ? u * u + v * v : least;
        }
        t.share[best] += 1.0 / RUNS;
        t.distance += sqrt(least) / RUNS;
    }
    return t;
}

static void test_modes(void)
{
    in_case("dps_mo, three modes, x1 measured"); /* exact 2/3, 0, 1/3 */
    tally t = count_modes("dps_mo", "", 1, 0, 0.7);
    CHECK(t.share[0] >= 0.57 && t.share[0] <= 0.72);
    EQUAL(t.share[1], 0);
    figure("dps_mo, share of mode 1 (0.57..0.72)", t.share[0]);
    figure("dps_mo, distance to the nearest mode", t.distance);
    in_case("dps_mo, three modes, x1 + x2 measured");
    t = count_modes("dps_mo", "", 1, 1, 1.4);
    NEAR(t.share[0], 1, 1e-12);
    for (int c = 0; c < 2; c++) { /* 0.47 and 0.48 were measured: the weights are not kept */
        const char *settings = c ? "variant=c" : "variant=a steps=50";
        in_case("dps_mo %s, three modes", settings);
        t = count_modes("dps_mo", settings, 1, 0, 0.7);
        NEAR(t.share[0], c ? 0.48 : 0.47, 0.1); /* 4 standard errors of a share of 400 */
        figure(where, t.share[0]);
    }
    for (int k = 0; k < 2; k++) {
        const char *settings = k ? "lr=0.3" : "lr=0.1";
        in_case("reddiff_mo %s, distance to the nearest mode", settings);
        t = count_modes("reddiff_mo", settings, 1, 0, 0.7);
        CHECK(t.distance > 0.06 && t.distance < 0.10);
        EQUAL(t.share[1], 0);
        figure(where, t.distance);
    }
}

/* ---- P11: RED-diff ----------------------------------------------------------------------- */

/* N(mu0, c^2 I) at one noise level, whatever the time: beta is sigma^2/(1+sigma^2), then 0. */
typedef struct flat {
    di_prior p;
    double beta[4000], sigma, mu0, c;
    di_real e[8];
} flat;

static di_status flat_eval(di_prior *p, size_t n, const double *t, const di_real *x,
                           di_real *eps, di_real *v, int keep)
{
    flat *f = p->self;
    double root = sqrt(1 + f->sigma * f->sigma);
    (void)t;
    (void)v;
    (void)keep;
    for (size_t i = 0; i < n * (size_t)p->w; i++) /* sigma (x_ve - mu0)/(c^2 + sigma^2) */
        eps[i] = (di_real)(f->sigma * (root * x[i] - f->mu0)
                           / (f->c * f->c + f->sigma * f->sigma));
    memcpy(f->e, eps, (size_t)p->w * sizeof *eps);
    return DI_OK;
}

static size_t flat_bytes(di_prior *p, size_t n, int keep)
{
    (void)p;
    (void)n;
    (void)keep;
    return 0;
}

static flat *flat_prior(int d, double sigma, double mu0, double c)
{
    static flat f;
    memset(&f, 0, sizeof f);
    f.beta[0] = sigma * sigma / (1 + sigma * sigma);
    f.sigma = sigma;
    f.mu0 = mu0;
    f.c = c;
    di_prior p = { .ctx = ctx, .c = 1, .h = 1, .w = d, .steps = 4000, .beta = f.beta,
                   .eval = flat_eval, .bytes = flat_bytes, .self = &f };
    f.p = p;
    return &f;
}

/* E[e - eps] over eps at mu: linear in eps, so the mean over +eps and -eps. */
static void test_reddiff_mean(void)
{
    flat *f = flat_prior(1, 0.7, 0.1, 0.5);
    di_problem *p;
    di_real x[1], y[1] = { (di_real)0.3 };
    double sum = 0;
    EQUAL(di_problem_denoise(ctx, 1, 1, 1, &p), DI_OK);
    in_case("RED-diff, E[e - eps]");
    for (int k = -1; k <= 1; k += 2) {
        float noise[2] = { 5, 1.25f * (float)k };
        job j = { .solver = "reddiff", .settings = "steps=1", .prior = &f->p,
                  .problem = p, .y = y, .noise = noise, .count = 2 };
        EQUAL(solve(&j, x), DI_OK);
        EQUAL(x[0], y[0]); /* the answer is mu before the step */
        sum += (f->e[0] - noise[1]) / 2;
    }
    NEAR(sum, 0.189189, BOUND(1e-6, 5e-7));
    NEAR(sum, 0.7 * 0.2 / (0.25 + 0.49), BOUND(1e-6, 1e-14));
    figure("RED-diff, E[e - eps]", sum);
}

static int copy_x(void *user, const di_step *s)
{
    memcpy(user, s->x, 3 * sizeof *s->x);
    return 0;
}

/* The expected loss, at one noise level: no noise is its mean. */
static void check_fixed_point(const char *settings, double lambda, double obs)
{
    enum { D = 3, T = 4000 };
    static float noise[2 * T * D];
    static const double sigma = 0.7, mu0 = 0.1, c = 0.5, s = 0.6;
    di_real x[D], y[D] = { (di_real)0.4, (di_real)-0.2, (di_real)0.9 }, mu[D];
    double scale = s;
    di_problem p = scaling(D, &scale);
    job j = { .solver = "reddiff", .settings = settings, .noise = noise,
              .prior = &flat_prior(D, sigma, mu0, c)->p, .problem = &p, .y = y,
              .count = 2 * T * D, .report = copy_x, .user = mu };
    double k = lambda * sigma * sigma / (D * (c * c + sigma * sigma)), far = 0;
    in_case("RED-diff's fixed point, %s", settings);
    EQUAL(solve(&j, x), DI_OK);
    for (int i = 0; i < D; i++) {
        double want = (obs * s * y[i] / D + k * mu0) / (obs * s * s / D + k);
        NEAR(mu[i], want, 0.01); /* lr */
        far = fabs(mu[i] - want) > far ? fabs(mu[i] - want) : far;
    }
    figure(where, far);
}

static void test_fixed_points(void)
{
    check_fixed_point("steps=4000 lr=0.01", 0.25, 1);
    check_fixed_point("steps=4000 lr=0.01 lambda=1 obs_weight=0.5", 1, 0.5);
    check_fixed_point("steps=4000 lr=0.01 lambda=0", 0, 1);       /* least squares: y/s */
    check_fixed_point("steps=4000 lr=0.01 obs_weight=0", 0.25, 0); /* the prior's mean */
}

typedef struct byhand {
    int step;
    double mu[3], m[3], v[3], far;
} byhand;

static int compare_mu(void *user, const di_step *s);

/* What one step should be: 2 measurements of 3 pixels, prior N(0.1, 0.25 I). */
static struct reddiff_case {
    const char *rule;
    double lr, lambda, obs, sigma_x0, A[6], y[2];
    const float *noise;
    byhand now;
} rc;

static double rule_of(const char *rule, double r)
{
    return strcmp(rule, "linear") == 0 ? r : strcmp(rule, "sqrt") == 0 ? sqrt(r)
           : strcmp(rule, "square") == 0 ? r * r : strcmp(rule, "log") == 0 ? log1p(r)
           : strcmp(rule, "clip") == 0 ? fmin(r, 1)
           : strcmp(rule, "power2over3") == 0 ? cbrt(r * r) : 1;
}

static void step_by_hand(double t, int k)
{
    byhand *b = &rc.now;
    double abar = 1, x0p[3], r[2], bias1 = 1 - pow(0.9, k), bias2 = 1 - pow(0.99, k);
    for (int i = 0; i <= t; i++)
        abar *= 1 - (1e-4 + (2e-2 - 1e-4) * i / 999);
    double snr = sqrt((1 - abar) / abar), w = rc.lambda * rule_of(rc.rule, snr) / 3;
    const float *z = rc.noise + 6 * (k - 1), *eps = z + 3;
    for (int i = 0; i < 3; i++)
        x0p[i] = b->mu[i] + rc.sigma_x0 * z[i];
    for (int l = 0; l < 2; l++)
        r[l] = rc.A[3 * l] * x0p[0] + rc.A[3 * l + 1] * x0p[1] + rc.A[3 * l + 2] * x0p[2]
               - rc.y[l];
    for (int i = 0; i < 3; i++) {
        double xt = sqrt(abar) * x0p[i] + sqrt(1 - abar) * eps[i];
        double e = sqrt(1 - abar) * (xt - sqrt(abar) * 0.1) / (abar * 0.25 + 1 - abar);
        double g = w * (e - eps[i]) + rc.obs / 2 * (rc.A[i] * r[0] + rc.A[3 + i] * r[1]);
        b->m[i] = 0.9 * b->m[i] + 0.1 * g;
        b->v[i] = 0.99 * b->v[i] + 0.01 * g * g;
        b->mu[i] -= rc.lr * (b->m[i] / bias1) / (sqrt(b->v[i] / bias2) + 1e-8);
        if (k == 1) /* the first step is lr sign(g) */
            NEAR(fabs(rc.lr * (b->m[i] / bias1) / (sqrt(b->v[i] / bias2) + 1e-8)), rc.lr,
                 rc.lr * 1e-5);
    }
}

static int compare_mu(void *user, const di_step *s)
{
    (void)user;
    step_by_hand(s->t, s->step);
    for (int i = 0; i < 3; i++) {
        double far = fabs(s->x[i] - rc.now.mu[i]);
        NEAR(s->x[i], rc.now.mu[i], BOUND(2e-5, 1e-12));
        rc.now.far = far > rc.now.far ? far : rc.now.far;
    }
    return 0;
}

static void test_weights(void)
{
    static const char *const rules[] = { "linear", "sqrt", "square", "log", "clip",
                                         "power2over3", "const" };
    static const double A[6] = { 1, -0.5, 0.25, 0.5, 0.75, -1 };
    float noise[60];
    di_real a[6], y[2] = { (di_real)0.25, (di_real)-0.75 }, x[3];
    di_problem *p;
    for (int i = 0; i < 60; i++)
        noise[i] = (float)(1.7 * value_at((size_t)i, 62));
    for (int i = 0; i < 6; i++)
        a[i] = (di_real)A[i];
    EQUAL(di_problem_matrix(ctx, 1, 1, 3, 2, a, &p), DI_OK);
    for (int k = 0; k < 14; k++) {
        char settings[120];
        memset(&rc, 0, sizeof rc);
        rc.rule = rules[k % 7];
        rc.lr = k < 7 ? 0.1 : 0.25;
        rc.lambda = k < 7 ? 0.25 : 1;
        rc.obs = k < 7 ? 1 : 0.5;
        rc.sigma_x0 = k < 7 ? 0 : 0.25;
        rc.noise = noise;
        memcpy(rc.A, A, sizeof A);
        rc.y[0] = y[0];
        rc.y[1] = y[1];
        snprintf(settings, sizeof settings, "steps=10 start=zero weight=%s lr=%g lambda=%g "
                 "obs_weight=%g sigma_x0=%g", rc.rule, rc.lr, rc.lambda, rc.obs, rc.sigma_x0);
        in_case("reddiff %s", settings);
        job j = { .solver = "reddiff", .settings = settings, .problem = p,
                  .prior = gaussian(3, 0.1, 0.25), .y = y, .noise = noise, .count = 60,
                  .report = compare_mu };
        EQUAL(solve(&j, x), DI_OK);
        figure(where, rc.now.far);
    }
    job j = { .solver = "reddiff", .settings = "steps=1", .problem = p, .y = y,
              .prior = gaussian(3, 0.1, 0.25), .noise = noise, .count = 6 };
    di_real start[3];
    in_case("reddiff starts at the pseudo-inverse");
    EQUAL(solve(&j, x), DI_OK);
    EQUAL(di_apply_pinv(p, 1, y, start), DI_OK);
    CHECK(same(x, start, 3));
}

/* One step of Red-diff-MO: g = lambda (mu - xh) + obs A^T (A mu - y), mu -= lr sign(g). */
static void test_reddiff_mo_step(void)
{
    enum { D = 8 };
    di_real x[D], y[D], mu[D + 3];
    double s = 0.5;
    di_problem p = scaling(D, &s);
    fill(y, D, 63);
    for (int k = 0; k < 3; k++) {
        char settings[80];
        double lambda = k == 1 ? 0 : 1, obs = k == 2 ? 0 : 1;
        snprintf(settings, sizeof settings, "steps=1 n=5 lr=0.2 lambda=%g obs_weight=%g",
                 lambda, obs);
        in_case("reddiff_mo %s", settings);
        job j = { .solver = "reddiff_mo", .settings = settings, .problem = &p,
                  .prior = gaussian(D, 0.1, 0.25), .y = y, .report = copy_x, .user = mu };
        EQUAL(solve(&j, x), DI_OK);
        for (int i = 0; i < 3; i++) { /* mu was 0 */
            double g = -lambda * x[i] - obs * s * y[i];
            NEAR(mu[i], -0.2 * g / (fabs(g) + 1e-8), BOUND(2e-7, 1e-15));
        }
    }
}

/* ---- P13: DDNM on its own levels, with time travel --------------------------------------- */

/* The algorithm in the noise-level frame, in double: prior N(0.1, 0.25 I), y = diag(s) x. */
enum { PIXELS = 24 };
typedef struct travel {
    int K, L, one;
    double sigma[64], eta, sigma_y, s[PIXELS];
    const float *noise;
    const di_real *y;
} travel;

/* From level sg to `next`; one: the weights of s = 1 everywhere, as InverseBench. */
static void travel_inner(travel *v, double *x, double sg, double next)
{
    for (int i = 0; i < PIXELS; i++) {
        double far = v->one ? v->sigma_y : v->s[i] > 0 ? v->sigma_y / v->s[i] : 0;
        double lam = far > next ? next / far : 1;
        double gam = sqrt(larger(0, next * next - far * far));
        double D = 0.1 + 0.25 / (0.25 + sg * sg) * (x[i] - 0.1);
        double hat = v->s[i] > 0 ? lam * v->y[i] / v->s[i] + (1 - lam) * D : D;
        x[i] = hat + sqrt(1 - v->eta * v->eta) * next / sg * (x[i] - hat)
               + v->eta * gam * *v->noise++;
    }
}

static void travel_run(travel *v, double *x)
{
    for (int i = 0; i < PIXELS; i++)
        x[i] = v->sigma[0] * *v->noise++;
    for (int k = 0; k < v->K; k++) {
        int L = v->L < k ? v->L : k;
        double up = sqrt(v->sigma[k - L] * v->sigma[k - L] - v->sigma[k] * v->sigma[k]);
        for (int i = 0; i < PIXELS; i++)
            x[i] += up * *v->noise++;
        for (int j = k - L; j <= k; j++)
            travel_inner(v, x, v->sigma[j], v->sigma[j + 1]);
    }
}

typedef struct feasible {
    const travel *v;
    double most; /* |A x0 - y| over all steps */
} feasible;

static int check_feasible(void *user, const di_step *s)
{
    feasible *f = user;
    for (int i = 0; i < PIXELS; i++)
        if (f->v->s[i] > 0)
            f->most = larger(f->most, fabs(f->v->s[i] * s->x0[i] - f->v->y[i]));
    return 0;
}

/* Levels of spacing=log or vp; returns the number of network calls. */
static int travel_levels(travel *v, int vp, double final)
{
    int calls = 0;
    for (int k = 0; k < v->K; k++) {
        double part = (double)k / (v->K - 1), t = 1 - part * (1 - 1e-3);
        v->sigma[k] = vp ? sqrt(expm1(19.9 * t * t / 2 + 0.1 * t)) : 100 * pow(1e-4, part);
        calls += 1 + (v->L < k ? v->L : k);
    }
    v->sigma[v->K] = final;
    return calls;
}

static double check_travel(travel v, const di_problem *p, int vp, double final)
{
    char settings[120];
    double want[PIXELS], most = 0, size = 0;
    const float *noise = v.noise;
    di_real x[PIXELS];
    feasible f = { &v, 0 };
    int calls = travel_levels(&v, vp, final);
    snprintf(settings, sizeof settings, "steps=%d spacing=%s travel=%d sigma_y=%g final=%g "
             "weight=%s clip=no", v.K, vp ? "vp" : "log", v.L, v.sigma_y, final,
             v.one ? "one" : "each");
    in_case("ddnm %s", settings);
    job j = { .solver = "ddnm", .settings = settings, .problem = p, .y = v.y,
              .prior = gaussian(PIXELS, 0.1, 0.25), .noise = noise, .count = PIXELS * 200,
              .report = check_feasible, .user = &f };
    EQUAL(solve(&j, x), DI_OK);
    travel_run(&v, want);
    EQUAL(j.used, v.noise - noise);
    EQUAL(j.used, PIXELS * (1 + v.K + calls));
    EQUAL(j.cost.net, calls);
    for (int i = 0; i < PIXELS; i++) {
        most = larger(most, fabs(x[i] - want[i]));
        size = larger(size, fabs(want[i]));
    }
    NEAR(most / size, 0, BOUND(1e-5, 1e-11));
    if (v.sigma_y == 0) {
        NEAR(f.most, 0, BOUND(5e-7, 1e-15)); /* A x0 = y at every step */
        for (int i = 0; i < PIXELS && final == 0; i++) /* and A x = y in the end */
            NEAR(v.s[i] * x[i], v.s[i] > 0 ? v.y[i] : 0, BOUND(5e-7, 1e-15));
    }
    return most / size;
}

static void test_travel(void)
{
    static const double sigmas[4] = { 0, 0.05, 0.3, 2 }, finals[4] = { 0, 0.01, 0, 0.01 };
    static const double values[4] = { 1, 0, 0.5, 0.125 };
    static float noise[PIXELS * 200];
    static di_real A[PIXELS * PIXELS];
    di_real y[PIXELS];
    di_problem *p;
    travel v = { .K = 12, .eta = 0.85, .noise = noise, .y = y };
    double most = 0;
    for (int i = 0; i < PIXELS * 200; i++)
        noise[i] = (float)(1.7 * value_at((size_t)i, 64));
    fill(y, PIXELS, 65);
    for (int i = 0; i < PIXELS; i++) {
        v.s[i] = values[i % 4];
        A[i * PIXELS + i] = (di_real)v.s[i];
    }
    EQUAL(di_problem_matrix(ctx, 1, 1, PIXELS, PIXELS, A, &p), DI_OK);
    for (int c = 0; c < 64; c++) { /* both grids, 4 travels, both weights, 4 noise levels */
        v.L = c / 2 % 4;
        v.one = c / 8 % 2;
        v.sigma_y = sigmas[c / 16];
        most = larger(most, check_travel(v, p, c % 2, finals[c / 16]));
    }
    figure("ddnm on its own levels, against a second writing", most);
}

/* ---- Official trajectories (tests/vectors/README.md) ------------------------------------- */

enum { SIDE = 32, PICTURE = 3 * SIDE * SIDE, NOISE = 125952, REPEATED = 200000 };
#ifdef __TINYC__ /* 30 times slower than with vectors */
enum { FOLLOWED = 1 };
#else
enum { FOLLOWED = 20 };
#endif

static struct scene {
    di_prior *prior;
    di_problem *inpaint, *sr;
    float noise[REPEATED]; /* read cyclically, as the DDNM runs were made */
} scene;

static void open_scene(void)
{
    di_real mask[SIDE * SIDE];
    io_array z = vector("dps", ".noise");
    for (int i = 0; i < SIDE * SIDE; i++) {
        int r = i / SIDE, c = i % SIDE;
        mask[i] = !(r >= 10 && r <= 21 && c >= 9 && c <= 20);
    }
    for (int i = 0; z.v && i < REPEATED; i++)
        scene.noise[i] = (float)z.v[i % NOISE];
    EQUAL(di_problem_inpaint(ctx, 3, SIDE, SIDE, mask, &scene.inpaint), DI_OK);
    EQUAL(di_problem_sr(ctx, 3, SIDE, SIDE, 4, DI_SR_BICUBIC, &scene.sr), DI_OK);
    scene.prior = network(SIDE);
    io_free(&z);
}

/* Differences over the reference's size: of all, and the largest. */
static double distance_l2(const di_real *got, const di_real *want)
{
    double far = 0, size = 0;
    for (int i = 0; i < PICTURE; i++) {
        far += (got[i] - want[i]) * (got[i] - want[i]);
        size += want[i] * want[i];
    }
    return sqrt(far / size);
}

static double distance_most(const di_real *got, const di_real *want)
{
    static double w[PICTURE];
    for (int i = 0; i < PICTURE; i++)
        w[i] = want[i];
    return worst(got, w, PICTURE);
}

typedef struct follow {
    const di_real *x;       /* (kept,PICTURE) references of the state */
    int kept, after[8];     /* the step after which each stands */
    double scale[8];        /* what the state is divided by there */
    double most, l2, max_tolerance, l2_tolerance;
} follow;

static int follow_step(void *user, const di_step *s)
{
    static di_real x[PICTURE];
    follow *f = user;
    for (int k = 0; k < f->kept; k++)
        if (f->after[k] == s->step) {
            for (int i = 0; i < PICTURE; i++)
                x[i] = (di_real)(s->x[i] / f->scale[k]);
            double most = distance_most(x, f->x + (size_t)k * PICTURE);
            double l2 = distance_l2(x, f->x + (size_t)k * PICTURE);
            NEAR(most, 0, f->max_tolerance);
            NEAR(l2, 0, f->l2_tolerance);
            f->most = larger(f->most, most);
            f->l2 = larger(f->l2, l2);
        }
    return s->step == FOLLOWED && FOLLOWED < s->steps;
}

static void show_follow(const char *name, const follow *f)
{
    char text[80];
    snprintf(text, sizeof text, "%s against the official program, largest", name);
    figure(text, f->most);
    snprintf(text, sizeof text, "%s against the official program, L2", name);
    figure(text, f->l2);
}

/* NVlabs/RED-diff. Its first Adam steps are lr sign(g): where |g| is about 1e-8 a rounding
   moves a pixel by as much as lr: the program in float is itself off by `most` of the largest
   value (6 to 20 pixels of 3072 by more than 1e-4) and by `l2`. Float here: twice that. */
static void test_official_reddiff(void)
{
    static const struct { const char *name, *y, *settings; int sr; double most, l2; } runs[] = {
        { "reddiff_inpaint", "dps_inpaint", "steps=20 lr=0.1 lambda=0.25", 0, 6e-3, 3e-4 },
        { "reddiff_inpaint2", "dps_inpaint", "steps=20 lr=0.5 lambda=0.25 sigma_x0=1e-4", 0,
          2e-2, 1.1e-3 },
        { "reddiff_sr", "dps_sr", "steps=20 lr=0.1 lambda=0.25", 1, 7e-3, 3e-4 } };
    static di_real x[PICTURE], start[PICTURE];
    for (int k = 0; k < 3; k++) {
        const di_problem *p = runs[k].sr ? scene.sr : scene.inpaint;
        io_array y = vector(runs[k].y, ".y"), mu = vector(runs[k].name, ".mu");
        follow f = { .x = mu.v + PICTURE, .kept = 5, .after = { 1, 4, 9, 19, 20 },
                     .scale = { 1, 1, 1, 1, 1 }, .max_tolerance = BOUND(2 * runs[k].most, 1e-9),
                     .l2_tolerance = BOUND(2 * runs[k].l2, 1e-9) };
        job j = { .solver = "reddiff", .settings = runs[k].settings,
                  .prior = scene.prior, .problem = p, .y = y.v, .noise = scene.noise,
                  .count = NOISE, .report = follow_step, .user = &f };
        in_case("%s", runs[k].name);
        if (CHECK(y.v && mu.v && mu.n == 6)) {
            EQUAL(di_apply_pinv(p, 1, y.v, start), DI_OK);
            NEAR(distance_most(start, mu.v), 0, BOUND(1e-6, 1e-9));
            EQUAL(solve(&j, x), FOLLOWED < 20 ? DI_EINTERRUPTED : DI_OK);
            EQUAL(j.used, 2 * FOLLOWED * PICTURE);
            di_clear(ctx);
            show_follow(runs[k].name, &f);
        }
        if (k == 1 && FOLLOWED == 20) { /* the answer: mu before the last step, perturbed */
            io_array x0p = vector(runs[k].name, ".x0p");
            NEAR(distance_most(x, x0p.v), 0, f.max_tolerance);
            NEAR(distance_l2(x, x0p.v), 0, f.l2_tolerance);
            io_free(&x0p);
        } else if (FOLLOWED == 20) {
            NEAR(distance_l2(x, mu.v + 4 * PICTURE), 0, f.l2_tolerance);
        }
        io_free(&y);
        io_free(&mu);
    }
}

/* devzhk/InverseBench's DDNM; under VP its step mixes the scaled state with the estimate.
   The program in float is within 1e-6. In the VP runs the state is theirs, in the others ours
   over sqrt(abar) at the level reached. */
static void test_official_ddnm(void)
{
    static const struct { const char *name, *y, *settings; int sr, vp, images; } runs[] = {
        { "ddnm_inpaint", "dps_inpaint", "spacing=log travel=1", 0, 0, 1 + 2 + 19 * 3 },
        { "ddnm_sr", "dps_sr", "spacing=log", 1, 0, 1 + 20 * 2 },
        { "ddnm_exact", "dps_inpaint", "spacing=log sigma_y=1e-4", 0, 0, 1 + 20 * 2 },
        { "ddnm_vp", "dps_inpaint", "spacing=vp travel=1 mix=scaled", 0, 1, 1 + 2 + 19 * 3 } };
    static di_real x[PICTURE];
    for (int k = 0; k < 4; k++) {
        char settings[120];
        io_array y = vector(runs[k].y, ".y"), ref = vector(runs[k].name, ".x");
        double half = 1 / sqrt(1 + pow(100 * pow(1e-4, 10.0 / 19), 2)), end = 1 / sqrt(1.0001);
        follow f = { .x = ref.v, .kept = 2, .after = { 10, 20 }, .scale = { half, end },
                     .max_tolerance = BOUND(1e-5, 1e-9), .l2_tolerance = BOUND(1e-5, 1e-9) };
        if (runs[k].vp)
            f.scale[0] = f.scale[1] = 1;
        snprintf(settings, sizeof settings, "steps=20 final=0.01 clip=no weight=one %s",
                 runs[k].settings);
        job j = { .solver = "ddnm",
                  .settings = settings, .prior = scene.prior, .y = y.v,
                  .problem = runs[k].sr ? scene.sr : scene.inpaint, .noise = scene.noise,
                  .count = REPEATED, .report = follow_step, .user = &f };
        in_case("%s", runs[k].name);
        if (CHECK(y.v && ref.v && ref.n == 2)) {
            EQUAL(solve(&j, x), DI_OK);
            EQUAL(j.used, runs[k].images * PICTURE);
            if (!runs[k].vp) /* the answer is not scaled */
                NEAR(distance_most(x, ref.v + PICTURE), 0, BOUND(1e-5, 1e-9));
            show_follow(runs[k].name, &f);
        }
        io_free(&y);
        io_free(&ref);
    }
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    EQUAL(di_open(&ctx, NULL, NULL), DI_OK);
    test_order();
    test_other_grids();
    test_nodes();
    test_sde();
    test_sgld();
    test_calls();
    test_bookkeeping();
    test_bayes();
    test_modes();
    test_reddiff_mean();
    test_fixed_points();
    test_weights();
    test_reddiff_mo_step();
    test_travel();
    open_scene();
    if (scene.prior) {
        test_official_reddiff();
        if (FOLLOWED < 20)
            printf("note: with tcc RED-diff's official runs are followed for %d step of 20, "
                   "DDNM's not at all\n", FOLLOWED);
        else
            test_official_ddnm();
    }
    SAYS(di_error(ctx), "");
    di_close(ctx);
    return finish();
}
