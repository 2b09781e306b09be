/* test_cps.c: CPS and SCG against closed forms on exact Gaussian priors, against a plain second
   writing of both algorithms, and the official programs' trajectories. In float an estimate at
   the first level is good to 152 * 6e-8, and CPS divides by the length of what it measured. */
#define finish solver_finish /* solvers.c has one of its own, and so has check.h */
#include "solvers.c"
#undef finish
#include "run.h"

#include <stdlib.h>

#ifdef __TINYC__ /* networks are 30 times slower than with vectors: fewer passes */
enum { SLOW = 1 };
#else
enum { SLOW = 0 };
#endif

/* ---- Normals ----------------------------------------------------------------------------- */

/* Normals for long runs: 2^22 of them, four times over. */
enum { POOL = 1 << 24, FRESH = 1 << 22 };
static float pool[POOL];

static void fill_pool(void)
{
    static di_real z[FRESH];
    di_normal(z, FRESH, 20260, DI_STREAM_SOLVER, 0, 0);
    for (size_t i = 0; i < POOL; i++)
        pool[i] = (float)z[i % FRESH];
}

/* ---- A fast prior N(m, V I), which remembers the last x of a single image ---------------- */

enum { MOST = 1024 };
typedef struct toy {
    di_prior p;
    double m[MOST], V;
    double t, abar;
    di_real x[MOST];
    uint64_t images;
    int nan_at;         /* the image that goes wrong, counted from 1; 0: none */
} toy;

static di_status toy_eval(di_prior *p, size_t n, const double *t, const di_real *x,
                          di_real *eps, di_real *v, int keep)
{
    toy *q = p->self;
    size_t d = (size_t)p->c * p->h * p->w;
    CHECK(v == NULL && keep == 0); /* neither solver wants the variance, or a derivative */
    if (n == 1)
        memcpy(q->x, x, d * sizeof *x);
    for (size_t j = 0; j < n; j++) {
        if (t[j] != q->t) {
            q->t = t[j];
            q->abar = di_prior_abar(p, t[j]);
        }
        double s = sqrt(q->abar), c = sqrt(1 - q->abar) / (q->abar * q->V + 1 - q->abar);
        for (size_t i = 0; i < d; i++)
            eps[j * d + i] = (di_real)(c * (x[j * d + i] - s * q->m[i]));
        if (++q->images == (uint64_t)q->nan_at)
            eps[j * d] = NAN;
    }
    return DI_OK;
}

static size_t no_bytes(di_prior *p, size_t n, int keep)
{
    (void)p;
    (void)n;
    (void)keep;
    return 0;
}

/* mean (d) or NULL: 0 */
static toy *toy_prior(int d, const double *mean, double V)
{
    static toy q;
    static double beta[1000];
    memset(&q, 0, sizeof q);
    for (int i = 0; i < 1000; i++)
        beta[i] = 1e-4 + (2e-2 - 1e-4) * i / 999;
    di_prior p = { .ctx = ctx, .c = 1, .h = 1, .w = d, .steps = 1000, .beta = beta,
                   .variance = DI_VAR_FIXED_SMALL, .eval = toy_eval, .bytes = no_bytes,
                   .self = &q };
    q.p = p;
    q.V = V;
    q.t = -2;
    for (int i = 0; mean && i < d; i++)
        q.m[i] = mean[i];
    return &q;
}

/* D(v; sigma) of element i */
static double clean(const toy *q, int i, double v, double sigma)
{
    return q->m[i] + q->V / (q->V + sigma * sigma) * (v - q->m[i]);
}

/* ---- A problem y = M f(x) + b; no derivative --------------------------------------------- */

enum { MAPS = 300 * 300 };
typedef struct affine {
    di_problem p;
    int square;         /* f(x) = x^2, else x */
    double M[MAPS], b[300];
    double y[300], least, worst; /* losses of the measurements made since they were cleared */
    uint64_t calls;
} affine;

static void affine_apply(const di_problem *p, const di_real *x, di_real *y)
{
    affine *a = p->self;
    double loss = 0;
    for (int k = 0; k < p->y[2]; k++) {
        double s = a->b[k];
        for (int i = 0; i < p->x[2]; i++)
            s += a->M[k * p->x[2] + i] * (a->square ? (double)x[i] * x[i] : x[i]);
        y[k] = (di_real)s;
        loss += ((double)y[k] - a->y[k]) * ((double)y[k] - a->y[k]);
    }
    a->calls++;
    a->least = a->least < 0 || loss < a->least ? loss : a->least;
}

/* M (m,d) is the caller's to fill; b = 0. */
static void affine_open(affine *a, int m, int d)
{
    di_problem p = { .ctx = ctx, .name = "affine", .linear = 0, .x = { 1, 1, d },
                     .y = { 1, 1, m }, .apply = affine_apply, .self = a };
    memset(a, 0, sizeof *a);
    a->p = p;
    a->least = -1;
}

static affine H;

/* ---- One CPS pass by itself -------------------------------------------------------------- */

enum { PARTICLES = 1024 };
typedef struct pass {
    di_run *run;
    grid g;
    int i, N, batch;
    size_t d;
    double f, time[64];
    di_real mu[MOST], z[MOST], q[PARTICLES * 8], p[2 * 16 * MOST];
    double c[PARTICLES], dir[MOST], x[MOST]; /* x: where it goes */
} pass;
static pass K;

/* At node i of a grid of 500 steps, with N particles. */
static void pass_open(pass *s, di_prior *prior, di_problem *p, int i, int N)
{
    if (di_run_open(ctx, di_solver_find("cps"), prior, p, &s->run)) {
        printf("FAIL %s\n", di_error(ctx));
        exit(1);
    }
    s->run->n = 1;
    s->run->t = s->time;
    EQUAL(grid_vp(s->run, &s->g, 500, 0.01), DI_OK);
    s->i = i;
    s->N = N;
    s->d = s->run->d;
    s->batch = 16;
    s->f = 2 * s->g.rate[i] * (s->g.t[i] - s->g.t[i + 1]);
}

static void pass_close(pass *s)
{
    di_free(ctx, s->g.t);
    di_run_close(s->run);
}

/* x = mu - sqrt(f d) g / |g|, with those normals; returns |g|. */
static double pass_go(pass *s, const double *mu, const di_real *y, const float *normals)
{
    di_run *run = s->run;
    double norm = 0;
    for (size_t j = 0; j < run->d; j++)
        s->mu[j] = (di_real)mu[j];
    run->noise = normals;
    run->noise_count = (size_t)s->N * run->d;
    run->noise_used = 0;
    run->y = y;
    particles(run, &s->g, s->i, s->f, s->mu, 0, s->N, s->batch, s->p, s->q);
    EQUAL(run->noise_used, run->noise_count);
    cps_direction(run, s->q, s->N, 0, 0, s->z, s->c, s->dir);
    EQUAL(run->noise_used, run->noise_count);
    for (size_t j = 0; j < run->d; j++)
        norm += s->dir[j] * s->dir[j];
    norm = sqrt(norm);
    for (size_t j = 0; j < run->d; j++)
        s->x[j] = s->mu[j] - sqrt(s->f * (double)run->d) / (norm > 1e-12 ? norm : 1e-12)
                             * s->dir[j];
    return norm;
}

/* Largest difference of two results, in units of the step's radius. */
static double apart(const pass *s, const double *a, const double *b)
{
    double most = 0;
    for (size_t j = 0; j < s->d; j++)
        most = larger(most, fabs(a[j] - b[j]));
    return most / sqrt(s->f * (double)s->d);
}

/* d q / d x of element i of the state at the next node: D's slope over s. */
static double slope(const pass *s, double V)
{
    double sigma = s->g.sigma[s->i + 1];
    return V / (V + sigma * sigma) / s->g.s[s->i + 1];
}

/* ---- P9: the grid; P8: the kernel of the restarts ---------------------------------------- */

/* The table of T, T = 500 or 1000. */
static void check_table(const grid *g)
{
    static const struct { int T, i; double t, sigma, s, f; } known[] = {
        { 500, 0, 1.000000, 152.167, 0.00657159, 0.0400401 },
        { 500, 1, 0.997998, 149.154, 0.00670434, 0.0399603 },
        { 500, 99, 0.801802, 25.4745, 0.0392248, 0.0321439 },
        { 500, 250, 0.499499, 3.4036, 0.281891, 0.0201002 },
        { 500, 498, 0.003002, 0.0197471, 0.999805, 3.198e-4 },
        { 500, 499, 0.001000, 0.010486, 0.999945, 1.00246e-5 },
        { 1000, 250, 0.750000, 17.017, 0.0586635, 0.015025 } };
    NEAR(g->t[g->K], 0.000916392, 6e-10); /* tau(0.01) */
    for (int k = 0; k < 7; k++) {         /* digits given */
        int i = known[k].i;
        if (known[k].T != g->K)
            continue;
        NEAR(g->t[i], known[k].t, 6e-7);
        NEAR(g->sigma[i], known[k].sigma, 6e-6 * known[k].sigma);
        NEAR(g->s[i], known[k].s, 6e-6 * known[k].s);
        NEAR(2 * g->rate[i] * (g->t[i] - g->t[i + 1]), known[k].f, 2e-4 * known[k].f);
    }
}

static void test_grid(void)
{
    double most[4] = { 0 };
    affine_open(&H, 1, 1);
    for (int T = 500; T <= 1000; T += 500) {
        grid g;
        di_run *run;
        double time, low = 1, high = 1, spread = 1;
        in_case("P9 T=%d", T);
        EQUAL(di_run_open(ctx, di_solver_find("cps"), &toy_prior(1, NULL, 1)->p, &H.p, &run),
              DI_OK);
        run->n = 1;
        run->t = &time;
        EQUAL(grid_vp(run, &g, T, 0.01), DI_OK);
        check_table(&g);
        for (int i = 0; i < T; i++) {
            double t = g.t[i], sg = g.sigma[i], s = g.s[i], dt = t - g.t[i + 1];
            double beta = 19.9 * t + 0.1, slope_sg = (1 + sg * sg) * beta / (2 * sg);
            double f = 2 * g.rate[i] * dt, a = s / g.s[i + 1], next = g.sigma[i + 1];
            CHECK(f > 0);
            most[0] = larger(most[0], fabs(s * s * (1 + sg * sg) - 1));
            most[1] = larger(most[1], fabs(vp_time(sg) - t) / t);
            most[2] = larger(most[2], fabs(2 * s * s * sg * slope_sg * dt / f - 1));
            double back = s * s * (sg * sg - next * next) - 1 + a * a;                 /* P8 */
            most[3] = larger(most[3], fabs(back));
            di_real one[1] = { 1 }, x0[1], mean[1]; /* N(0, 1): x goes to (1 - f/2) x */
            NEAR(grid_mean(run, &g, i, 1, one, x0, mean), f, 0);
            NEAR(mean[0], 1 - f / 2, BOUND(2e-6, 1e-13));
            spread = spread * (1 - f / 2) * (1 - f / 2) + f;
            low = fmin(low, spread);
            high = larger(high, spread);
        }
        double f0 = 2 * g.rate[0] * (g.t[0] - g.t[1]);
        CHECK(low >= 1 && high <= 1 / (1 - f0 / 4));
        if (T == 500)
            NEAR(1 / (1 - f0 / 4), 1.0101, 1e-4);
        di_free(ctx, g.t);
        di_run_close(run);
    }
    NEAR(most[0], 0, 1e-13);
    NEAR(most[1], 0, 1e-11); /* at t = 0.001 the root loses three digits */
    NEAR(most[2], 0, 1e-11);
    NEAR(most[3], 0, 1e-12);
    figure("P9 s^2 (1 + sigma^2) - 1", most[0]);
    figure("P9 tau(sigma(t)) / t - 1", most[1]);
    figure("P9 f / (2 s^2 sigma sigma' dt) - 1", most[2]);
    figure("P8 s^2 (sigma^2 - sigma'^2) - (1 - a^2)", most[3]);
}

/* ---- A second writing of both algorithms, from the listing ------------------------------- */

typedef struct plain {
    int T, N, K, hole, passes, mirror, scg;
    double window;
    const float *z;     /* normals, in the official program's order */
    uint64_t net, apply;
} plain;

static double plain_sigma(double t) { return sqrt(exp(19.9 * t * t / 2 + 0.1 * t) - 1); }
static double plain_scale(double t) { return exp(-(19.9 * t * t / 2 + 0.1 * t) / 2); }

static double plain_time(int i, int T)
{
    return i < T ? 1 - i / (T - 1.0) * (1 - 0.001)
           : (sqrt(0.01 + 2 * 19.9 * log(1 + 0.01 * 0.01)) - 0.1) / 19.9;
}

/* q (m) = A(D(x/s; sigma)) */
static void plain_measure(const toy *q, const affine *a, const double *x, double s,
                          double sigma, double *out)
{
    int d = q->p.w, m = a->p.y[2];
    double u[MOST];
    for (int i = 0; i < d; i++)
        u[i] = clean(q, i, x[i] / s, sigma);
    for (int k = 0; k < m; k++) {
        out[k] = a->b[k];
        for (int i = 0; i < d; i++)
            out[k] += a->M[k * d + i] * (a->square ? u[i] * u[i] : u[i]);
    }
}

/* One guided pass from mu to x. */
static void plain_guided(plain *o, const toy *q, const affine *a, const di_real *y, int i,
                         double f, const double *mu, double *x)
{
    static double out[64 * 300], c[64];
    int d = q->p.w, m = a->p.y[2], best = 0;
    double t = plain_time(i + 1, o->T), least = HUGE_VAL, norm = 0, g[MOST] = { 0 };
    for (int n = 0; n < o->N; n++) {
        double xn[MOST], loss = 0;
        for (int j = 0; j < d; j++)
            xn[j] = mu[j] + sqrt(f) * o->z[n * d + j];
        plain_measure(q, a, xn, plain_scale(t), plain_sigma(t), out + n * m);
        for (int k = 0; k < m; k++)
            loss += (out[n * m + k] - y[k]) * (out[n * m + k] - y[k]);
        best = loss < least ? n : best;
        least = fmin(least, loss);
        c[n] = 0;
    }
    for (int k = 0; k < m; k++) {
        double qbar = 0;
        for (int n = 0; n < o->N; n++)
            qbar += out[n * m + k] / o->N;
        for (int n = 0; n < o->N; n++)
            c[n] += (qbar - y[k]) * (out[n * m + k] - qbar) / o->N;
    }
    for (int j = 0; j < d; j++) {
        for (int n = 0; n < o->N; n++)
            g[j] += c[n] * o->z[n * d + j];
        norm += g[j] * g[j];
    }
    for (int j = 0; j < d; j++)
        x[j] = o->scg ? mu[j] + (o->mirror ? -1 : 1) * sqrt(f) * o->z[best * d + j]
                      : mu[j] - sqrt(f * d) * g[j] / larger(sqrt(norm), 1e-12);
    o->z += o->N * d;
    o->net += (uint64_t)o->N;
    o->apply += (uint64_t)o->N;
}

static void plain_run(plain *o, const toy *q, const affine *a, const di_real *y, double *x)
{
    int d = q->p.w;
    double mu[MOST], u[MOST];
    for (int j = 0; j < d; j++)
        x[j] = *o->z++ * plain_scale(1) * plain_sigma(1);
    for (int i = 0; i < o->T; i++) {
        double t = plain_time(i, o->T), next = plain_time(i + 1, o->T), part = (double)i / o->T;
        double s = plain_scale(t), sg = plain_sigma(t), s1 = plain_scale(next);
        double sg1 = plain_sigma(next), f = (19.9 * t + 0.1) * (t - next);
        int passes = part > 0.001 && part < o->window ? o->passes : 1;
        for (int p = 1; p <= passes; p++) {
            for (int j = 0; j < d; j++) {
                u[j] = clean(q, j, x[j] / s, sg);
                mu[j] = (1 + f / 2) * x[j] + f * (u[j] - x[j] / s) / (sg * sg * s);
            }
            o->net++;
            if (i == o->T - 1 || (o->hole && i == o->K)) {
                memcpy(x, u, sizeof u);
            } else if (i < o->K) {
                for (int j = 0; j < d; j++)
                    x[j] = mu[j] + sqrt(f) * *o->z++;
            } else {
                plain_guided(o, q, a, y, i, f, mu, x);
                for (int j = 0; p < passes && j < d; j++)
                    x[j] = s * (x[j] / s1 + sqrt(sg * sg - sg1 * sg1) * *o->z++);
            }
        }
    }
}

/* thr > 0: the unguided steps, and the hole, of the window are made `passes` times in a row. */
static void test_plain(void)
{
    static const struct { int scg; const char *settings; plain o; } runs[] = {
        { 0, "steps=30 n=6", { 30, 6, 0, 1, 5, 0, 0, 0.2, NULL, 0, 0 } },
        { 0, "steps=30 n=6 compat_hole=no batch=4", { 30, 6, 0, 0, 5, 0, 0, 0.2, NULL, 0, 0 } },
        { 0, "steps=30 n=20 passes=1", { 30, 20, 0, 1, 1, 0, 0, 0.2, NULL, 0, 0 } },
        { 0, "steps=30 n=5 thr=0.4", { 30, 5, 12, 1, 5, 0, 0, 0.2, NULL, 0, 0 } },
        { 0, "steps=30 n=5 thr=0.1", { 30, 5, 3, 1, 5, 0, 0, 0.2, NULL, 0, 0 } },
        { 0, "steps=30 n=5 thr=0.1 compat_hole=no", { 30, 5, 3, 0, 5, 0, 0, 0.2, NULL, 0, 0 } },
        { 0, "steps=20 n=4 passes=3 window=0.55", { 20, 4, 0, 1, 3, 0, 0, 0.55, NULL, 0, 0 } },
        { 0, "steps=20 n=4 passes=2 window=1", { 20, 4, 0, 1, 2, 0, 0, 1, NULL, 0, 0 } },
        { 1, "steps=30 n=6 thr=0", { 30, 6, 0, 0, 1, 0, 1, 0, NULL, 0, 0 } },
        { 1, "steps=30 n=6 thr=0.25", { 30, 6, 7, 0, 1, 0, 1, 0, NULL, 0, 0 } },
        { 1, "steps=30 n=6 thr=0.25 hole=yes", { 30, 6, 7, 1, 1, 0, 1, 0, NULL, 0, 0 } },
        { 1, "steps=30 n=6 thr=0 mirror=yes", { 30, 6, 0, 0, 1, 1, 1, 0, NULL, 0, 0 } } };
    enum { d = 12, m = 4 };
    double mean[d], most = 0;
    for (int i = 0; i < d; i++)
        mean[i] = value_at((size_t)i, 51) / 2;
    affine_open(&H, m, d);
    for (int i = 0; i < m * d; i++)
        H.M[i] = value_at((size_t)i, 52);
    for (int square = 0; square < 2; square++)
        for (size_t k = 0; k < sizeof runs / sizeof *runs; k++) {
            di_real x[d], y[m];
            double want[MOST], far = 0, top = 0;
            toy *q = toy_prior(d, mean, 0.3);
            plain o = runs[k].o;
            job j = { .solver = runs[k].scg ? "scg" : "cps", .settings = runs[k].settings,
                      .prior = &q->p, .problem = &H.p, .y = y, .noise = pool, .count = POOL };
            in_case("%s %s%s", j.solver, j.settings, square ? ", squares" : "");
            H.square = square;
            fill(y, m, 53);
            o.z = pool;
            plain_run(&o, q, &H, y, want);
            EQUAL(solve(&j, x), DI_OK);
            for (int i = 0; i < d; i++) {
                far = larger(far, fabs(x[i] - want[i]));
                top = larger(top, fabs(want[i]));
            }
            NEAR(far / top, 0, BOUND(5e-4, 1e-10));
            most = larger(most, far / top);
            EQUAL(j.used, o.z - pool); /* the same draws in the same order */
            EQUAL(j.cost.net, o.net);
            EQUAL(j.cost.apply, o.apply);
            EQUAL(j.cost.net_vjp + j.cost.apply_vjp, 0);
        }
    figure("CPS and SCG against a second writing", most);
}

/* ---- P1: the sphere ---------------------------------------------------------------------- */

typedef struct sphere {
    const toy *q;
    int T, hole;
    double most;
} sphere;

/* The last single image that the network saw is the x that mu was made of: s^2 (1 + sigma^2)
   is 1. */
static int on_sphere(void *user, const di_step *s)
{
    sphere *o = user;
    int i = s->step - 1, d = o->q->p.w;
    double t = plain_time(i, o->T), f = (19.9 * t + 0.1) * (t - plain_time(i + 1, o->T));
    double sc = plain_scale(t), sg = plain_sigma(t), r = 0;
    if (i == o->T - 1 || (o->hole && i == 0))
        return 0;
    for (int j = 0; j < d; j++) {
        double x = o->q->x[j], u = clean(o->q, j, x / sc, sg);
        r += pow(s->x[j] - (1 + f / 2) * x - f * (u - x / sc) / (sg * sg * sc), 2);
    }
    o->most = larger(o->most, fabs(sqrt(r / (f * d)) - 1));
    return 0;
}

static void test_sphere(void)
{
    static const char *const settings[] = { "steps=100 n=2", "steps=100 n=8 compat_hole=no",
                                            "steps=100 n=70 passes=2" };
    enum { d = 32, m = 8 };
    double most = 0;
    for (int k = 0; k < 6; k++) {
        di_real x[d], y[m];
        sphere o = { toy_prior(d, NULL, 0.5), 100, k % 3 != 1, 0 };
        in_case("P1 %s, number %d", settings[k % 3], k);
        affine_open(&H, m, d);
        H.square = k > 2;
        for (int i = 0; i < m * d; i++)
            H.M[i] = value_at((size_t)i, 60 + (unsigned)k);
        for (int i = 0; i < m; i++)
            y[i] = (di_real)(pow(10, k - 3) * value_at((size_t)i, 70));
        job j = { .solver = "cps", .settings = settings[k % 3], .prior = &toy_prior(d, NULL,
                  0.5)->p, .problem = &H.p, .y = y, .seed = (uint64_t)k, .report = on_sphere,
                  .user = &o };
        EQUAL(solve(&j, x), DI_OK);
        NEAR(o.most, 0, BOUND(1e-5, 1e-12));
        most = larger(most, o.most);
    }
    figure("P1 |x - mu| / sqrt(f d) - 1", most);
}

/* ---- P2, P3: the surrogate --------------------------------------------------------------- */

/* A (m,d) of the pass, row by row: with y = qbar - e_k the direction is sqrt(f) A^T e_k. */
static void surrogate(pass *s, const double *mu, const float *normals, double *A)
{
    size_t d = s->run->d, m = s->run->m;
    di_real y[8] = { 0 };
    double qbar[8] = { 0 };
    pass_go(s, mu, y, normals);
    for (size_t k = 0; k < m; k++)
        for (int n = 0; n < s->N; n++)
            qbar[k] += (double)s->q[(size_t)n * m + k] / s->N;
    for (size_t k = 0; k < m; k++) {
        for (size_t l = 0; l < m; l++)
            y[l] = (di_real)(qbar[l] - (l == k));
        cps_direction(s->run, s->q, s->N, 0, 0, s->z, s->c, s->dir);
        for (size_t j = 0; j < d; j++)
            A[k * d + j] = s->dir[j] / sqrt(s->f);
    }
}

/* S = (1/N) sum (eps - mean) eps^T, (d,d) */
static void spread_of(const float *eps, int N, int d, double *S)
{
    double mean[8] = { 0 };
    memset(S, 0, (size_t)(d * d) * sizeof *S);
    for (int n = 0; n < N; n++)
        for (int i = 0; i < d; i++)
            mean[i] += eps[n * d + i] / (double)N;
    for (int n = 0; n < N; n++)
        for (int i = 0; i < d; i++)
            for (int j = 0; j < d; j++)
                S[i * d + j] += (eps[n * d + i] - mean[i]) * eps[n * d + j] / N;
}

/* B (m,d) = A S^-1, Gauss-Jordan on the columns. */
static void divide(double *A, double *S, int m, int d)
{
    for (int c = 0; c < d; c++) {
        int top = c;
        for (int k = c; k < d; k++)
            top = fabs(S[c * d + k]) > fabs(S[c * d + top]) ? k : top;
        for (int r = 0; r < d + m; r++) {
            double *row = r < d ? S + r * d : A + (r - d) * d, swap = row[c];
            row[c] = row[top];
            row[top] = swap;
        }
        double pivot = S[c * d + c];
        for (int r = 0; r < d + m; r++)
            (r < d ? S + r * d : A + (r - d) * d)[c] /= pivot;
        for (int k = 0; k < d; k++) {
            double times = S[c * d + k];
            for (int r = 0; k != c && r < d + m; r++) {
                double *row = r < d ? S + r * d : A + (r - d) * d;
                row[k] -= times * row[c];
            }
        }
    }
}

static double far_off(const double *a, const double *b, int n)
{
    double far = 0, top = 0;
    for (int i = 0; i < n; i++) {
        far = larger(far, fabs(a[i] - b[i]));
        top = larger(top, fabs(b[i]));
    }
    return far / top;
}

static double det3(const double *a, int stride)
{
    const double *b = a + stride, *c = b + stride;
    return a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0])
           + a[2] * (b[0] * c[1] - b[1] * c[0]);
}

static void test_surrogate(void)
{
    static const int counts[] = { 2, 3, 5, 7, 12, 64 };
    enum { d = 6, m = 4 };
    double mu[d], J[m * d], A[m * d], want[m * d], S[d * d], most = 0, control = 0, sum[m * d];
    affine_open(&H, m, d);
    for (int i = 0; i < m * d; i++)
        H.M[i] = value_at((size_t)i, 80);
    for (int i = 0; i < m; i++)
        H.b[i] = value_at((size_t)i, 81);
    for (int i = 0; i < d; i++)
        mu[i] = value_at((size_t)i, 82);
    for (int k = 0; k < 6; k++) {
        int N = counts[k];
        in_case("P2 N=%d", N);
        pass_open(&K, &toy_prior(d, NULL, 0.5)->p, &H.p, 250, N);
        for (int i = 0; i < m * d; i++)
            J[i] = H.M[i] * slope(&K, 0.5);
        surrogate(&K, mu, pool + 1000 * k, A);
        spread_of(pool + 1000 * k, N, d, S);
        for (int r = 0; r < m; r++)
            for (int c = 0; c < d; c++) {
                want[r * d + c] = 0;
                for (int i = 0; i < d; i++)
                    want[r * d + c] += J[r * d + i] * S[i * d + c];
            }
        NEAR(far_off(A, want, m * d), 0, BOUND(1e-4, 1e-11));
        most = larger(most, far_off(A, want, m * d));
        CHECK(far_off(A, J, m * d) > 0.1); /* not exact, whatever N */
        if (N == 2) /* rank 1: every minor of two is 0 */
            NEAR((A[0] * A[d + 1] - A[1] * A[d]) / (fabs(A[0]) * fabs(A[d + 1])), 0,
                 BOUND(1e-4, 1e-11));
        if (N == 3)
            NEAR(det3(A, d) / pow(fabs(A[0]) + fabs(A[1]) + fabs(A[2]), 3), 0,
                 BOUND(1e-4, 1e-11));
        CHECK(N < 5 || fabs(det3(A, d)) > 1e-6);
        if (N > d) { /* least squares would be */
            divide(A, S, m, d);
            control = larger(control, far_off(A, J, m * d));
            NEAR(far_off(A, J, m * d), 0, BOUND(2e-3, 1e-10));
        }
        pass_close(&K);
    }
    in_case("P2 mean");
    pass_open(&K, &toy_prior(d, NULL, 0.5)->p, &H.p, 250, 4);
    memset(sum, 0, sizeof sum);
    for (int k = 0; k < 20000; k++) {
        surrogate(&K, mu, pool + 24 * k, A);
        for (int i = 0; i < m * d; i++)
            sum[i] += A[i] / 20000;
    }
    for (int i = 0; i < m * d; i++)
        J[i] = H.M[i] * slope(&K, 0.5) * 3 / 4; /* 1 - 1/N */
    NEAR(far_off(sum, J, m * d), 0, 0.03); /* 80,000 particles: 0.01 */
    pass_close(&K);
    figure("P2 A = J S", most);
    figure("P2 least squares", control);
    figure("P2 E A = (1 - 1/N) J", far_off(sum, J, m * d));
}

static void test_stein(void)
{
    enum { d = 3, N = 8, RUNS = 20000 };
    double mu[d] = { 0.5, -1, 1.5 }, A[d * d], sum[d * d] = { 0 }, want[d * d] = { 0 };
    affine_open(&H, d, d);
    H.square = 1;
    for (int i = 0; i < d; i++)
        H.M[i * d + i] = 1;
    in_case("P3");
    pass_open(&K, &toy_prior(d, NULL, 0.5)->p, &H.p, 100, N);
    for (int k = 0; k < RUNS; k++) {
        surrogate(&K, mu, pool + N * d * k, A);
        for (int i = 0; i < d * d; i++)
            sum[i] += A[i] * N / (N - 1.0) / RUNS;
    }
    for (int i = 0; i < d; i++)
        want[i * d + i] = 2 * mu[i] * slope(&K, 0.5) * slope(&K, 0.5);
    NEAR(far_off(sum, want, d * d), 0, 0.02);
    figure("P3 expected Jacobian", far_off(sum, want, d * d));
    pass_close(&K);
}

/* ---- P4, P5: how far a pass goes --------------------------------------------------------- */

/* Mean cosine of the direction with the true one, m = 1. */
static double cosine(int d, int N, int runs, unsigned seed)
{
    double mu[MOST], length = 0, sum = 0;
    di_real y[1] = { 3 };
    affine_open(&H, 1, d);
    for (int i = 0; i < d; i++) {
        H.M[i] = value_at((size_t)i, seed);
        mu[i] = 0.5 * value_at((size_t)i, seed + 1);
        length += H.M[i] * H.M[i];
    }
    pass_open(&K, &toy_prior(d, NULL, 0.5)->p, &H.p, 100, N);
    for (int k = 0; k < runs; k++) {
        double along = 0, qbar = 0;
        size_t at = (size_t)k * (size_t)(N * d) % (POOL - PARTICLES * MOST);
        double norm = pass_go(&K, mu, y, pool + at);
        for (int n = 0; n < N; n++)
            qbar += (double)K.q[n] / N;
        for (int i = 0; i < d; i++)
            along += K.dir[i] * H.M[i];
        sum += (qbar > y[0] ? 1 : -1) * along / (norm * sqrt(length)) / runs;
    }
    pass_close(&K);
    return sum;
}

static void test_law(void)
{
    static const struct { int d, N, runs; double measured; } law[] = {
        { 16, 8, 4000, 0.549 }, { 16, 64, 500, 0.898 }, { 64, 64, 400, 0.705 },
        { 256, 8, 3000, 0.158 }, { 256, 64, 300, 0.445 }, { 1024, 64, 120, 0.240 } };
    for (int k = 0; k < 6; k++) {
        int d = law[k].d, N = law[k].N;
        double want = sqrt((N - 1.0) / (N + d)), got;
        in_case("P4 d=%d N=%d", d, N);
        got = cosine(d, N, law[k].runs, 90 + (unsigned)k);
        NEAR(got / want, 1, 0.04);
        NEAR(got / law[k].measured, 1, 0.04);
        figure(where, got);
    }
}

/* The first of two steps, from x = 0 (mu = 0 for a mean of 0) toward a measurement far away:
   the shift along the true direction, in units of sqrt(f). */
static int first_step(void *user, const di_step *s)
{
    double *x = user;
    for (int i = 0; s->step == 1 && i < H.p.x[2]; i++)
        x[i] = s->x[i];
    return s->step == 1;
}

static double shift(const char *solver, int d, int N, int runs)
{
    static float normals[PARTICLES * 256 + 256];
    static double x[256];
    char settings[80];
    double sum = 0, length = 0, t = 1 - 1e-3, f = 20 * t;
    di_real y[1] = { 1e5 }, out[256];
    affine_open(&H, 1, d);
    for (int i = 0; i < d; i++) {
        H.M[i] = value_at((size_t)i, 100);
        length += H.M[i] * H.M[i];
    }
    snprintf(settings, sizeof settings, "steps=2 n=%d %s", N, strcmp(solver, "scg") == 0
             ? "thr=0" : "passes=1 compat_hole=no");
    for (int k = 0; k < runs; k++) {
        size_t at = (size_t)k * (size_t)(N * d) % (POOL - PARTICLES * 256);
        memset(normals, 0, (size_t)d * sizeof *normals);
        memcpy(normals + d, pool + at, (size_t)(N * d) * sizeof *pool);
        job j = { .solver = solver, .settings = settings, .prior = &toy_prior(d, NULL, 0.5)->p,
                  .problem = &H.p, .y = y, .noise = normals, .count = (size_t)((N + 1) * d),
                  .report = first_step, .user = x };
        EQUAL(solve(&j, out), DI_EINTERRUPTED);
        di_clear(ctx);
        for (int i = 0; i < d; i++)
            sum += x[i] * H.M[i] / sqrt(length * f) / runs;
    }
    return sum;
}

static void test_shift(void)
{
    static const struct { int N, runs; double most; } scg[] = { { 8, 3000, 1.424 },
        { 16, 2000, 1.766 }, { 32, 1500, 2.070 }, { 64, 1000, 2.344 }, { 128, 800, 2.595 },
        { 512, 400, 3.044 }, { 1024, 300, 3.248 } };
    double here[2];
    for (int k = 0; k < 7; k++) { /* the largest of N normals, whatever d */
        in_case("P5 scg N=%d", scg[k].N);
        double got = shift("scg", 8, scg[k].N, scg[k].runs);
        NEAR(got / scg[k].most, 1, 0.03);
        figure(where, got);
    }
    in_case("P5 cps against scg, d = 256, N = 64");
    here[0] = shift("cps", 256, 64, 150);
    here[1] = shift("scg", 256, 64, 150);
    NEAR(here[0] / 7.10, 1, 0.04);
    NEAR(here[1] / 2.344, 1, 0.06);
    NEAR(here[0] / here[1], 7.10 / 2.34, 0.25);
    figure("P5 cps", here[0]);
    figure("P5 scg", here[1]);
}

/* ---- P6, P10: invariances, degenerate cases ---------------------------------------------- */

/* Eight dimensions; normals, mu and M have 16 bits, so that sums and halves are exact. */
enum { D6 = 8, M6 = 4, N6 = 12 };
static float eps6[N6 * D6];
static double mu6[D6];
static di_real y6[M6 + 4];

static double bits16(size_t i, unsigned seed)
{
    return floor(32768 * value_at(i, seed)) / 32768;
}

static void open6(affine *a, int m)
{
    affine_open(a, m, D6);
    for (int k = 0; k < M6; k++) {
        for (int i = 0; i < D6; i++)
            a->M[k * D6 + i] = bits16((size_t)(k * D6 + i), 110);
        a->b[k] = bits16((size_t)k, 111);
        y6[k] = (di_real)bits16((size_t)k, 112);
    }
    for (int i = 0; i < N6 * D6; i++)
        eps6[i] = (float)(3 * bits16((size_t)i, 113));
    for (int i = 0; i < D6; i++)
        mu6[i] = bits16((size_t)i, 114);
}

/* The result of the pass with that problem, from mu6 and eps6 to y6. */
static void go6(affine *a, double *x)
{
    pass_open(&K, &toy_prior(D6, NULL, 0.5)->p, &a->p, 200, N6);
    pass_go(&K, mu6, y6, eps6);
    memcpy(x, K.x, D6 * sizeof *x);
    pass_close(&K);
}

/* v (n) times a Hadamard matrix over 2, in groups of four: orthogonal, its own inverse. */
static void mix(double *v, int n)
{
    for (int i = 0; i < n; i += 4) {
        double a = v[i] + v[i + 1], b = v[i] - v[i + 1], c = v[i + 2] + v[i + 3];
        double d = v[i + 2] - v[i + 3];
        v[i] = (a + c) / 2;
        v[i + 1] = (b + d) / 2;
        v[i + 2] = (a - c) / 2;
        v[i + 3] = (b - d) / 2;
    }
}

static void changed(const char *what, affine *a, const double *x)
{
    double other[D6];
    in_case("P6 %s", what);
    go6(a, other);
    double far = apart(&K, other, x);
    NEAR(far, 0, BOUND(1e-5, 1e-13));
    figure(where, far);
}

static void test_measurement_changes(const double *x)
{
    static const double scale[] = { -1, 4, -0.125, 3 };
    for (int k = 0; k < 4; k++) { /* also L -> c^2 L */
        open6(&H, M6);
        for (int i = 0; i < M6 * D6; i++)
            H.M[i] *= scale[k];
        for (int i = 0; i < M6; i++) {
            H.b[i] *= scale[k];
            y6[i] *= (di_real)scale[k];
        }
        changed("scale", &H, x);
    }
    open6(&H, M6);
    double y[M6];
    for (int i = 0; i < D6; i++) {
        double column[M6];
        for (int k = 0; k < M6; k++)
            column[k] = H.M[k * D6 + i];
        mix(column, M6);
        for (int k = 0; k < M6; k++)
            H.M[k * D6 + i] = column[k];
    }
    for (int k = 0; k < M6; k++)
        y[k] = y6[k];
    mix(H.b, M6);
    mix(y, M6);
    for (int k = 0; k < M6; k++)
        y6[k] = (di_real)y[k];
    changed("an orthogonal map of the measurements", &H, x);
    open6(&H, M6);
    for (int k = 0; k < M6; k++) {
        H.b[k] += k - 1.5;
        y6[k] += (di_real)(k - 1.5);
    }
    changed("a constant on both", &H, x);
    open6(&H, M6 + 3); /* rows that do not depend on x, as masked pixels */
    for (int k = M6; k < M6 + 3; k++) {
        H.b[k] = 0.25 * k;
        y6[k] = (di_real)(3 * value_at((size_t)k, 115));
    }
    changed("rows that are constant", &H, x);
}

static void test_invariance(void)
{
    double x[D6], other[D6], back[D6];
    open6(&H, M6);
    go6(&H, x);
    test_measurement_changes(x);
    open6(&H, M6);
    for (int n = 0; n < N6 / 2; n++) /* particles in reverse */
        for (int i = 0; i < D6; i++) {
            float swap = eps6[n * D6 + i];
            eps6[n * D6 + i] = eps6[(N6 - 1 - n) * D6 + i];
            eps6[(N6 - 1 - n) * D6 + i] = swap;
        }
    changed("particles in another order", &H, x);
    open6(&H, M6);
    mix(mu6, D6); /* q after R^-1, for a prior that does not change under R */
    for (int n = 0; n < N6; n++) {
        double v[D6];
        for (int i = 0; i < D6; i++)
            v[i] = eps6[n * D6 + i];
        mix(v, D6);
        for (int i = 0; i < D6; i++)
            eps6[n * D6 + i] = (float)v[i];
    }
    for (int k = 0; k < M6; k++)
        mix(H.M + k * D6, D6);
    go6(&H, other);
    mix(other, D6);
    in_case("P6 a rotation of mu and eps");
    NEAR(apart(&K, other, x), 0, BOUND(1e-5, 1e-13));
    figure(where, apart(&K, other, x));
    open6(&H, M6);
    for (int k = 0; k < M6; k++) { /* y to 2 qbar - y */
        double qbar = 0;
        for (int n = 0; n < N6; n++)
            qbar += (double)K.q[n * M6 + k] / N6;
        y6[k] = (di_real)(2 * qbar - y6[k]);
    }
    go6(&H, other);
    for (int i = 0; i < D6; i++)
        back[i] = 2 * K.mu[i] - other[i];
    in_case("P6 the residual negated");
    NEAR(apart(&K, back, x), 0, BOUND(1e-5, 1e-13));
    figure(where, apart(&K, back, x));
}

static void test_degenerate(void)
{
    enum { d = 5 };
    di_real x[d], y[3] = { 1, -2, 3 }, zero[3] = { 0 };
    double mu[d] = { 0 }, most = 0;
    float twins[2 * d];
    for (int k = 0; k < 2; k++) {
        /* One particle, or a constant map: mu at every pass, and only the restarts' noise. */
        plain o = { 25, k ? 4 : 1, 0, 1, 5, 0, 0, 0.2, pool, 0, 0 };
        double want[MOST];
        toy *q = toy_prior(d, NULL, 0.5);
        job j = { .solver = "cps", .settings = k ? "steps=25 n=4" : "steps=25 n=1", .y = y,
                  .prior = &q->p, .problem = &H.p, .noise = pool, .count = POOL };
        in_case(k ? "P10 a constant measurement" : "P10 one particle");
        affine_open(&H, 3, d);
        for (int i = 0; i < 3 * d; i++)
            H.M[i] = k ? 0 : value_at((size_t)i, 120);
        for (int i = 0; i < 3; i++)
            H.b[i] = 0.5;
        plain_run(&o, q, &H, y, want);
        EQUAL(solve(&j, x), DI_OK);
        for (int i = 0; i < d; i++)
            NEAR(x[i], want[i], BOUND(1e-4, 1e-11));
        double in[d] = { 0.5, -1, 0.25, 2, 0 };
        pass_open(&K, &q->p, &H.p, 100, k ? 4 : 1);
        EQUAL(pass_go(&K, in, y, pool), 0);
        for (int i = 0; i < d; i++)
            EQUAL(K.x[i], (di_real)in[i]); /* mu itself */
        pass_close(&K);
    }
    in_case("P10 y = qbar"); /* of two particles opposite in mu = 0: exactly 0 */
    affine_open(&H, 3, d);
    for (int i = 0; i < 3 * d; i++)
        H.M[i] = value_at((size_t)i, 121);
    for (int i = 0; i < d; i++) {
        twins[i] = pool[i];
        twins[d + i] = -pool[i];
    }
    pass_open(&K, &toy_prior(d, NULL, 0.5)->p, &H.p, 100, 2);
    EQUAL(pass_go(&K, mu, zero, twins), 0);
    for (int i = 0; i < d; i++)
        EQUAL(K.x[i], 0);
    pass_close(&K);
    in_case("P10 sum of c");
    for (int N = 2; N < 200; N += 33) {
        double sum = 0, top = 0;
        pass_open(&K, &toy_prior(d, NULL, 0.5)->p, &H.p, 100, N);
        pass_go(&K, mu, y, pool);
        for (int n = 0; n < N; n++) {
            sum += K.c[n];
            top = larger(top, fabs(K.c[n]));
        }
        most = larger(most, fabs(sum) / top);
        pass_close(&K);
    }
    NEAR(most, 0, 1e-12);
    figure(where, most);
}

/* ---- P7: optimality on the sphere -------------------------------------------------------- */

enum { D7 = 32, M7 = 4 };

/* w (M7) = (A A^T + lam I)^-1 r; returns |A^T w|. */
static double secular(const double *A, const double *r, double lam, double *w)
{
    double G[M7][M7 + 1], sum = 0;
    for (int i = 0; i < M7; i++) {
        for (int k = 0; k < M7; k++) {
            G[i][k] = i == k ? lam : 0;
            for (int j = 0; j < D7; j++)
                G[i][k] += A[i * D7 + j] * A[k * D7 + j];
        }
        G[i][M7] = r[i];
    }
    for (int c = 0; c < M7; c++) /* positive definite: no pivots wanted */
        for (int i = 0; i < M7; i++) {
            double times = G[i][c] / G[c][c];
            for (int k = c; i != c && k <= M7; k++)
                G[i][k] -= times * G[c][k];
        }
    for (int i = 0; i < M7; i++)
        w[i] = G[i][M7] / G[i][i];
    for (int j = 0; j < D7; j++) {
        double v = 0;
        for (int i = 0; i < M7; i++)
            v += A[i * D7 + j] * w[i];
        sum += v * v;
    }
    return sqrt(sum);
}

/* delta (D7): the least |r - A delta| on |delta| = R, by bisection in log lam. */
static void exact_step(const double *A, const double *r, double R, double *delta)
{
    double low = -40, high = 40, w[M7];
    for (int i = 0; i < 200; i++) {
        double mid = (low + high) / 2;
        *(secular(A, r, exp(mid), w) > R ? &low : &high) = mid;
    }
    secular(A, r, exp(low), w);
    for (int j = 0; j < D7; j++) {
        delta[j] = 0;
        for (int i = 0; i < M7; i++)
            delta[j] += A[i * D7 + j] * w[i];
    }
}

static double misfit(const double *A, const double *r, const double *delta)
{
    double sum = 0;
    for (int i = 0; i < M7; i++) {
        double v = r[i];
        for (int j = 0; j < D7; j++)
            v -= A[i * D7 + j] * delta[j];
        sum += v * v;
    }
    return sqrt(sum);
}

static double inner(const double *a, const double *b, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* The surrogate A of a pass, r = y - qbar, and the direction (unit) that the pass took. */
static double surrogate7(double *A, double *r, double *unit)
{
    double mu[D7], AT[D7] = { 0 }, off[D7];
    di_real y[M7];
    affine_open(&H, M7, D7);
    for (int i = 0; i < M7 * D7; i++)
        H.M[i] = value_at((size_t)i, 130);
    for (int i = 0; i < D7; i++)
        mu[i] = value_at((size_t)i, 131);
    for (int i = 0; i < M7; i++)
        y[i] = (di_real)(20 * value_at((size_t)i, 132));
    pass_open(&K, &toy_prior(D7, NULL, 0.5)->p, &H.p, 200, 64);
    surrogate(&K, mu, pool, A);
    pass_go(&K, mu, y, pool);
    for (int i = 0; i < M7; i++) {
        r[i] = y[i];
        for (int n = 0; n < 64; n++)
            r[i] -= (double)K.q[n * M7 + i] / 64;
        for (int j = 0; j < D7; j++)
            AT[j] += A[i * D7 + j] * r[i];
    }
    double radius = sqrt(K.f * D7), top = sqrt(inner(AT, AT, D7));
    for (int j = 0; j < D7; j++) {
        unit[j] = AT[j] / top;
        off[j] = (K.x[j] - K.mu[j]) / radius;
    }
    NEAR(far_off(off, unit, D7), 0, BOUND(1e-4, 1e-12)); /* what the pass took is A^T r */
    pass_close(&K);
    return top;
}

/* The largest eigenvalue of A A^T: |A|^2. */
static double norm2(const double *A)
{
    double v[M7] = { 1, 1, 1, 1 }, size = 0;
    for (int k = 0; k < 1000; k++) {
        double at[D7] = { 0 }, w[M7] = { 0 };
        for (int i = 0; i < M7; i++)
            for (int j = 0; j < D7; j++)
                at[j] += A[i * D7 + j] * v[i];
        for (int i = 0; i < M7; i++)
            w[i] = inner(A + i * D7, at, D7);
        size = sqrt(inner(w, w, M7));
        for (int i = 0; i < M7; i++)
            v[i] = w[i] / size;
    }
    return size;
}

static void test_optimal(void)
{
    double A[M7 * D7], r[M7], unit[D7], delta[D7], closed[D7], zero[D7] = { 0 };
    double top = surrogate7(A, r, unit), size = norm2(A), last = 0, AT[D7] = { 0 };
    for (int i = 0; i < M7; i++)
        for (int j = 0; j < D7; j++)
            AT[j] += A[i * D7 + j] * r[i];
    in_case("P7 a");
    for (int k = 0; k < 1000; k++) {
        for (int j = 0; j < D7; j++)
            delta[j] = pool[k * D7 + j];
        CHECK(inner(AT, delta, D7) < inner(AT, unit, D7) * sqrt(inner(delta, delta, D7)));
    }
    for (double kappa = 0.213; kappa > 1e-3; kappa /= 4) {
        double R = kappa * top / size, off = 0;
        in_case("P7 kappa = %g", kappa);
        exact_step(A, r, R, delta);
        double length = sqrt(inner(delta, delta, D7));
        NEAR(length / R, 1, 1e-9);
        for (int j = 0; j < D7; j++) {
            closed[j] = R * unit[j];
            off += pow(delta[j] / length - unit[j], 2) / 2; /* 1 - cos, without cancelling */
        }
        if (last > 0) /* b: as kappa^2 */
            NEAR(last / off, 16, kappa > 0.05 ? 5 : kappa > 0.01 ? 1 : 0.4);
        last = off;
        figure(where, off);
        CHECK(misfit(A, r, delta) <= misfit(A, r, closed)); /* c */
        CHECK(misfit(A, r, closed) < misfit(A, r, zero));   /* d */
    }
    for (int j = 0; j < D7; j++)
        closed[j] = 1e3 * top / size * unit[j];
    CHECK(misfit(A, r, closed) > misfit(A, r, zero)); /* d: a large radius overshoots */
}

/* ---- P11: end to end --------------------------------------------------------------------- */

enum { D11 = 256, M11 = 64 };

static void keep_apply(const di_problem *p, const di_real *x, di_real *y)
{
    for (int k = 0; k < p->y[2]; k++)
        y[k] = x[4 * k];
}

typedef struct outcome {
    double rmse, residual, spread, unseen; /* unseen: the spread of what H hides */
} outcome;

static outcome end_to_end(const char *solver, const char *settings, int runs)
{
    di_problem p = { .ctx = ctx, .name = "keep", .linear = 1, .x = { 1, 1, D11 },
                     .y = { 1, 1, M11 }, .apply = keep_apply };
    outcome o = { 0, 0, 0, 0 };
    double mean[D11];
    for (int j = 0; j < D11; j++)
        mean[j] = 0.3 * sin(j);
    for (int k = 0; k < runs; k++) {
        di_real z[D11 + M11], truth[D11], y[M11], x[D11];
        double rmse = 0, residual = 0, spread = 0, unseen = 0;
        di_normal(z, D11 + M11, 11, DI_STREAM_MEASURE, (uint64_t)k, 0);
        for (int j = 0; j < D11; j++)
            truth[j] = (di_real)(mean[j] + 0.5 * z[j]);
        for (int j = 0; j < M11; j++)
            y[j] = truth[4 * j] + (di_real)0.05 * z[D11 + j];
        size_t at = 150001 * (size_t)k;
        job j = { .solver = solver, .settings = settings, .problem = &p, .y = y,
                  .prior = &toy_prior(D11, mean, 0.25)->p, .noise = pool + at,
                  .count = POOL - at };
        EQUAL(solve(&j, x), DI_OK);
        for (int i = 0; i < D11; i++) {
            rmse += pow(x[i] - truth[i], 2) / D11;
            residual += i % 4 ? 0 : pow(x[i] - y[i / 4], 2) / M11;
            spread += pow(x[i] - mean[i], 2) / D11;
            unseen += i % 4 ? pow(x[i] - mean[i], 2) / (D11 - M11) : 0;
        }
        o.rmse += sqrt(rmse) / runs;
        o.residual += sqrt(residual) / runs;
        o.spread += sqrt(spread) / runs;
        o.unseen += sqrt(unseen) / runs;
    }
    return o;
}

static void test_toy(void)
{
    static const struct {
        int runs;
        const char *solver, *settings;
        double rmse, residual, spread;
    } row[] = { { 8, "scg", "steps=500 n=1 thr=0", 0.715, 0.705, 0.514 },
                { 8, "cps", "steps=500 n=64", 0.589, 0.0163, 0.468 },
                { 4, "cps", "steps=500 n=64 compat_hole=no", 0.588, 0.0169, 0.468 },
                { 4, "cps", "steps=500 n=64 passes=1", 0.595, 0.0163, 0.477 },
                { 4, "cps", "steps=500 n=64 passes=1 compat_hole=no", 0.599, 0.0159, 0.480 },
                { 8, "cps", "steps=500 n=32", 0.593, 0.0199, 0.481 },
                { 8, "cps", "steps=500 n=16", 0.613, 0.0272, 0.501 },
                { 8, "cps", "steps=500 n=8", 0.619, 0.0455, 0.504 },
                { 4, "scg", "steps=500 n=64 thr=0", 0.613, 0.0457, 0.506 },
                { 4, "scg", "steps=500 n=32 thr=0", 0.613, 0.0543, 0.506 },
                { 8, "scg", "steps=500 n=16 thr=0", 0.623, 0.0720, 0.506 },
                { 8, "scg", "steps=500 n=8 thr=0", 0.602, 0.1015, 0.506 },
                { 2, "scg", "steps=500 n=64 thr=0 mirror=yes", 1.600, 2.957, 1.311 } };
    enum { ROWS = sizeof row / sizeof *row };
    outcome o[ROWS];
    for (int k = 0; k < ROWS; k++) {
        in_case("P11 %s %s", row[k].solver, row[k].settings);
        o[k] = end_to_end(row[k].solver, row[k].settings, row[k].runs / BOUND(2, 1));
        NEAR(o[k].rmse / row[k].rmse, 1, 0.1);
        NEAR(o[k].residual / row[k].residual, 1, 0.25);
        NEAR(o[k].spread / row[k].spread, 1, 0.1);
        if (verbose)
            printf("%-52s %.3f %.4f %.3f\n", where, o[k].rmse, o[k].residual, o[k].spread);
    }
    in_case("P11 orders");
    CHECK(o[1].residual < o[8].residual && o[5].residual < o[9].residual);
    CHECK(o[6].residual < o[10].residual && o[7].residual < o[11].residual);
    CHECK(o[1].residual < o[5].residual && o[5].residual < o[6].residual);
    CHECK(o[6].residual < o[7].residual && o[7].residual < 0.05); /* below sigma_y */
    CHECK(o[1].unseen < o[7].unseen); /* less noise is left with more particles */
    CHECK(o[12].residual > 2 * o[0].residual); /* mirrored: away from the data */
}

/* H(x) = x^2 on every other element; components at 0.6 and -0.6, one of weight 0.85. */
static di_prior *two_signs(int d, int heavy)
{
    static const di_real var[2] = { (di_real)0.04, (di_real)0.04 };
    di_real weight[2] = { (di_real)0.85, (di_real)0.15 }, mean[2 * 64];
    di_prior *prior;
    for (int i = 0; i < 2 * d; i++)
        mean[i] = (di_real)(0.6 * heavy * (i < d ? 1 : -1));
    EQUAL(di_prior_mixture(ctx, 1, 1, d, 2, weight, mean, var, 0, &prior), DI_OK);
    return prior;
}

static void test_companion(void)
{
    enum { d = 32, m = 16, SEEDS = 12 };
    di_real y[m], x[d];
    int right = 0;
    double worst_guided = 0, best_free = 1e9;
    affine_open(&H, m, d);
    H.square = 1;
    for (int k = 0; k < m; k++)
        H.M[k * d + 2 * k] = 1;
    in_case("P11 squares");
    for (int k = 0; k < SEEDS; k++) {
        double residual[2] = { 0 }, side = 0;
        int heavy = k % 2 ? 1 : -1;
        di_real z[d];
        di_normal(z, d, 12, DI_STREAM_MEASURE, (uint64_t)k, 0);
        for (int i = 0; i < m; i++)
            y[i] = (di_real)pow(0.6 + 0.2 * z[2 * i], 2);
        for (int guided = 0; guided < 2; guided++) {
            job j = { .solver = guided ? "cps" : "scg", .prior = two_signs(d, heavy), .y = y,
                      .settings = guided ? "steps=200 n=16" : "steps=200 n=1 thr=0",
                      .problem = &H.p, .seed = (uint64_t)k };
            EQUAL(solve(&j, x), DI_OK);
            for (int i = 0; i < m; i++)
                residual[guided] += pow((double)x[2 * i] * x[2 * i] - y[i], 2);
        }
        for (int i = 0; i < d; i++)
            side += x[i];
        right += side * heavy > 0;
        CHECK(residual[1] < residual[0]);
        worst_guided = larger(worst_guided, sqrt(residual[1] / m));
        best_free = fmin(best_free, sqrt(residual[0] / m));
    }
    CHECK(worst_guided < best_free);
    CHECK(right >= 9); /* the sign is the heavier component's: 85 of 100 */
    figure("P11 squares: largest residual of CPS", worst_guided);
    figure("P11 squares: smallest residual unguided", best_free);
    figure("P11 squares: runs of 12 with the heavier sign", right);
}

/* ---- P12: counts ------------------------------------------------------------------------- */

static void test_counts(void)
{
    static const struct { const char *solver, *settings; unsigned net, apply; } known[] = {
        { "cps", "", 58112, 57216 }, { "cps", "passes=1", 32372, 31872 },
        { "cps", "compat_hole=no", 58112 + 64, 57216 + 64 },
        { "cps", "n=1", 894 * 2 + 2, 894 },
        { "scg", "steps=500 thr=0 n=128 hole=yes", 498 * 129 + 2, 63744 },
        { "scg", "n=8 hole=yes", 748 * 8 + 1000, 748 * 8 },
        { "scg", "n=8", 749 * 8 + 1000, 749 * 8 } };
    di_real x[2], y[1] = { 1 };
    affine_open(&H, 1, 2);
    H.M[0] = H.M[1] = 1;
    for (int k = 0; k < 7; k++) {
        toy *q = toy_prior(2, NULL, 0.5);
        job j = { .solver = known[k].solver, .settings = known[k].settings, .prior = &q->p,
                  .problem = &H.p, .y = y };
        in_case("P12 %s %s", j.solver, j.settings);
        H.calls = 0;
        EQUAL(solve(&j, x), DI_OK);
        EQUAL(j.cost.net, known[k].net);
        EQUAL(q->images, known[k].net); /* and as the prior and the map count them */
        EQUAL(j.cost.apply, known[k].apply);
        EQUAL(H.calls, known[k].apply);
        EQUAL(j.cost.net_vjp + j.cost.apply_vjp, 0);
    }
    di_run *run; /* no derivative asked of the prior, the map or its linearity */
    EQUAL(di_run_open(ctx, di_solver_find("dmplug"), &toy_prior(2, NULL, 0.5)->p, &H.p, &run),
          DI_EUSAGE);
    SAYS(di_error(ctx), "these would do: cps, scg");
    di_clear(ctx);
}

/* ---- P16: SCG ---------------------------------------------------------------------------- */

/* The reported residual is that of the best of all candidates. */
static int is_least(void *user, const di_step *s)
{
    int *guided = user;
    double m = H.p.y[2];
    if (H.least >= 0) {
        NEAR(s->residual, sqrt(H.least / m), 1e-12 * s->residual);
        *guided += 1;
    } else {
        EQUAL(s->residual, -1);
    }
    H.least = -1;
    return 0;
}

static int to_first(void *user, const di_step *s)
{
    di_real *x = user;
    if (s->step == 1)
        memcpy(x, s->x, 8 * sizeof *x);
    return 0;
}

static void open16(di_real *y)
{
    affine_open(&H, 4, 8);
    for (int i = 0; i < 32; i++)
        H.M[i] = value_at((size_t)i, 140);
    for (int i = 0; i < 4; i++)
        H.y[i] = y[i] = (di_real)value_at((size_t)i, 141);
}

static void test_scg(void)
{
    static const int counts[] = { 1, 2, 4, 16, 64, 256 };
    di_real x[8], other[8], y[4], at[3][8];
    int guided = 0;
    toy *q = toy_prior(8, NULL, 0.5);
    open16(y);
    job j = { .solver = "scg", .settings = "steps=20 n=9 thr=0.25 hole=yes", .prior = &q->p,
              .problem = &H.p, .y = y, .seed = 4, .report = is_least, .user = &guided };
    in_case("P16 the least of all");
    EQUAL(solve(&j, x), DI_OK);
    EQUAL(guided, 13);
    in_case("P16 one candidate is the unguided sampler");
    job one = { .solver = "scg", .settings = "steps=50 n=1 thr=0", .prior = &q->p,
                .problem = &H.p, .y = y, .seed = 5 };
    EQUAL(solve(&one, x), DI_OK);
    EQUAL(one.cost.apply, 49);
    one.settings = "steps=50 n=1 thr=0.99"; /* guidance from step 49 on, the last: never */
    EQUAL(solve(&one, other), DI_OK);
    EQUAL(one.cost.apply, 0);
    CHECK(same(x, other, 8));
    in_case("P16 and edm's, but for the last step");
    one.noise = pool;
    one.count = POOL;
    one.report = to_first;
    one.user = at[0];
    EQUAL(solve(&one, x), DI_OK);
    one.solver = "edm";
    one.problem = NULL;
    one.settings = "steps=50 grid=vp step=sde final=0.01";
    one.user = at[1];
    EQUAL(solve(&one, x), DI_OK);
    for (int i = 0; i < 8; i++)
        NEAR(at[0][i], at[1][i], BOUND(1e-6, 0));
    in_case("P16 mirror");
    one.solver = "scg";
    one.problem = &H.p;
    for (int k = 0; k < 3; k++) { /* of 1-step moves: the winner, its image, and mu */
        static float still[8 + 16 * 8];
        memcpy(still, pool, 8 * sizeof *pool);
        memcpy(still + 8, pool + 8, k < 2 ? sizeof still - 8 * sizeof *pool : 0);
        memset(still + 8, 0, k < 2 ? 0 : sizeof still - 8 * sizeof *pool);
        one.settings = k == 1 ? "steps=2 n=16 thr=0 mirror=yes" : "steps=2 n=16 thr=0";
        one.noise = still;
        one.count = 8 + 16 * 8;
        one.user = at[k];
        EQUAL(solve(&one, x), DI_OK);
    }
    for (int i = 0; i < 8; i++)
        NEAR((at[0][i] + at[1][i]) / 2, at[2][i], BOUND(1e-5, 1e-14));
    double last = HUGE_VAL;
    for (int k = 0; k < 6; k++) { /* chosen loss falls with N */
        double mean = 0;
        for (int run = 0; run < 100; run++) {
            char settings[40];
            snprintf(settings, sizeof settings, "steps=2 n=%d thr=0", counts[k]);
            job f = { .solver = "scg", .settings = settings, .prior = &q->p, .problem = &H.p,
                      .y = y, .noise = pool + 2100 * run, .count = 8 + 8 * 256 };
            H.least = -1;
            EQUAL(solve(&f, x), DI_OK);
            mean += H.least / 100;
        }
        in_case("P16 N=%d", counts[k]);
        CHECK(mean < last);
        last = mean;
        figure(where, mean);
    }
}

/* ---- Batches, samples, failures, a run taken up again ------------------------------------ */

static void test_batches(void)
{
    static const char *const batch[] = { "1", "3", "16", "7" };
    static const char *const solver[] = { "cps", "scg" };
    enum { d = 3 * 8 * 8 };
    static di_real x[3 * d], first[d], y[3 * 16];
    di_prior *prior = network(8);
    di_problem *p;
    EQUAL(di_problem_sr(ctx, 3, 8, 8, 2, DI_SR_MEAN, &p), DI_OK);
    fill(y, 3 * 16, 150);
    for (int k = 0; k < 2 && prior; k++) {
        for (int b = 0; b < 4; b++) {
            char settings[80];
            snprintf(settings, sizeof settings, "steps=5 n=7 thr=0 batch=%s", batch[b]);
            in_case("%s %s", solver[k], settings);
            job j = { .solver = solver[k], .settings = settings, .prior = prior, .problem = p,
                      .y = y, .seed = 6, .first = 2 };
            EQUAL(solve(&j, x), DI_OK);
            CHECK(b == 0 || same(x, first, d));
            memcpy(first, x, sizeof first);
        }
        job j = { .solver = solver[k], .settings = "steps=5 n=7 thr=0", .prior = prior,
                  .problem = p, .y = y, .seed = 6, .n = 3 };
        in_case("%s, samples one by one", solver[k]);
        EQUAL(solve(&j, x), DI_OK);
        CHECK(same(x + 2 * d, first, d) && !same(x, first, d) && !same(x, x + d, d));
    }
}

typedef struct tape { /* a saved state, and where to save */
    char byte[1 << 16];
    size_t n;
    di_run *run;
    int at, steps, stop_at;
    di_real x0[8], x[8]; /* of the last report */
} tape;
static tape t_;

static int tape_write(void *user, const void *src, size_t n)
{
    tape *t = user;
    if (t->n + n > sizeof t->byte)
        return 1;
    memcpy(t->byte + t->n, src, n);
    t->n += n;
    return 0;
}

static int tape_read(void *user, uint64_t offset, void *dst, size_t n)
{
    tape *t = user;
    memcpy(dst, t->byte + offset, n);
    return 0;
}

static int save_at(void *user, const di_step *s)
{
    tape *t = user;
    t->steps++;
    memcpy(t->x0, s->x0, sizeof t->x0);
    memcpy(t->x, s->x, sizeof t->x);
    if (s->step == t->at) {
        t->n = 0;
        EQUAL(di_run_save(t->run, tape_write, t), DI_OK);
    }
    return s->step == t->at || s->step == t->stop_at;
}

static void test_resume(void)
{
    static const struct { const char *solver, *settings; } run[] = {
        { "cps", "steps=12 n=5 passes=3 window=0.5" }, { "cps", "steps=12 n=5 thr=0.3" },
        { "scg", "steps=12 n=5 thr=0.3 hole=yes" } };
    di_real whole[8], x[8], y[4];
    open16(y);
    for (int k = 0; k < 3; k++) {
        di_prior *prior = &toy_prior(8, NULL, 0.5)->p;
        job j = { .solver = run[k].solver, .settings = run[k].settings, .prior = prior,
                  .problem = &H.p, .y = y, .seed = 8 };
        EQUAL(solve(&j, whole), DI_OK);
        for (t_.at = 1; t_.at <= 12; t_.at++) {
            di_cost cost;
            in_case("%s %s, taken up after %d", run[k].solver, run[k].settings, t_.at);
            for (int part = 0; part < 2; part++) {
                EQUAL(di_run_open(ctx, di_solver_find(run[k].solver), prior, &H.p, &t_.run),
                      DI_OK);
                set_all(t_.run, run[k].settings);
                di_run_report(t_.run, part ? NULL : save_at, &t_);
                if (part)
                    EQUAL(di_run_load(t_.run, tape_read, &t_, t_.n), DI_OK);
                EQUAL(di_run_go(t_.run, y, 8, 0, 1, x), part ? DI_OK : DI_EINTERRUPTED);
                di_clear(ctx);
                cost = di_run_cost(t_.run);
                di_run_close(t_.run);
            }
            CHECK(same(x, whole, 8));
            CHECK(memcmp(&cost, &j.cost, sizeof cost) == 0);
        }
    }
}

static void test_failures(void)
{
    static const char *const solver[] = { "cps", "scg" };
    di_real x[8], y[4];
    di_run *run;
    open16(y);
    for (int k = 0; k < 2; k++) {
        toy *q = toy_prior(8, NULL, 0.5);
        /* steps 1..3 look at 1 + 1 + 4 + 1 + 4 images, or at 3 (1 + 4) */
        job j = { .solver = solver[k], .prior = &q->p, .problem = &H.p, .y = y, .seed = 9,
                  .settings = k ? "steps=10 n=4 thr=0" : "steps=10 n=4 passes=1",
                  .report = save_at, .user = &t_ };
        memset(&t_, 0, sizeof t_);
        for (int bad = 0; bad < 5; bad++) { /* the mean's pass, or any particle's */
            char words[80];
            q = toy_prior(8, NULL, 0.5);
            in_case("%s, NaN in pass %d of step 4", solver[k], bad);
            q->nan_at = (k ? 15 : 11) + 1 + bad;
            t_.steps = 0;
            snprintf(words, sizeof words, "%s: NaN or Inf in the %s", solver[k],
                     bad ? "measurement of a particle at step 4 of 10" : "");
            REFUSED(solve(&j, x), DI_ENUMERIC, words);
            EQUAL(t_.steps, 3);
            CHECK(same(x, t_.x0, 8) && di_finite(x, 8));
        }
        in_case("%s, stopped", solver[k]);
        q = toy_prior(8, NULL, 0.5);
        t_.stop_at = 6;
        t_.steps = 0;
        REFUSED(solve(&j, x), DI_EINTERRUPTED, "stopped at step 6 of 10");
        CHECK(same(x, t_.x0, 8));
        in_case("%s, replayed noise that runs out", solver[k]);
        t_.stop_at = 0;
        j.noise = pool;
        for (j.count = 0; j.count < 100; j.count += 7) {
            t_.steps = 0;
            REFUSED(solve(&j, x), DI_EUSAGE, "ran out after");
            EQUAL(j.used, j.count);
            CHECK(t_.steps == 0 || same(x, t_.x0, 8));
        }
        in_case("%s, a state off its scale", solver[k]);
        j.noise = NULL;
        j.report = NULL;
        q = toy_prior(8, NULL, 0.5);
        q->m[0] = 500; /* 3.3 at the first level, far above 1 in a single element */
        EQUAL(solve(&j, x), DI_OK);
        SAYS(j.note, "times its level's scale");
        in_case("%s needs a problem", solver[k]);
        REFUSED(di_run_open(ctx, di_solver_find(solver[k]), &q->p, NULL, &run), DI_EUSAGE,
                "needs a problem");
    }
}

/* ---- The official programs (tests/vectors/README.md) ------------------------------------- */

enum { SIDE = 32, PICTURE = 3 * SIDE * SIDE };
typedef struct official {
    io_array x;
    const int *after;   /* the steps that x shows */
    int stop;
    double tolerance, most;
} official;

static int compare(void *user, const di_step *s)
{
    static double want[PICTURE];
    official *o = user;
    for (size_t i = 0; i < o->x.n; i++)
        if (o->after[i] == s->step) {
            for (int j = 0; j < PICTURE; j++)
                want[j] = o->x.v[i * PICTURE + (size_t)j];
            double d = worst(s->x, want, PICTURE);
            NEAR(d, 0, BOUND(o->tolerance, 1e-9));
            o->most = larger(o->most, d);
        }
    return s->step == o->stop && s->step < s->steps;
}

/* Their own float32 run of CPS lies within 2.2e-5 of the double one. scg_thr and scg_sr have
   losses that differ by 1e-5 of their size, so that float picks other particles: double only.
   A network pass takes time, so the runs are followed for `stop` steps of 20; to the end with
   -v, where all seven agree to 4e-14. */
static void test_official(void)
{
    static const int cps[] = { 2, 5, 10, 15, 20 }, nohole[] = { 1, 20 }, mirror[] = { 10, 20 };
    static const int plain_scg[] = { 1, 10, 20 }, thr[] = { 6, 20 }, sr[] = { 5, 20 };
    static const struct {
        const char *name, *solver, *settings;
        const int *after;
        int stop;
        size_t draws;           /* pictures of normals to the end */
        double tolerance;       /* in float; 0: not run */
    } task[] = {
        { "cps_inpaint", "cps", "steps=20 n=8", cps, 5, 253, 1e-4 },
        { "cps_sr", "cps", "steps=20 n=8", cps, 2, 253, 1e-4 },
        { "cps_nohole", "cps", "steps=20 n=8 compat_hole=no", nohole, 1, 261, 1e-4 },
        { "scg_mirror", "scg", "steps=20 n=8 thr=0 mirror=yes", mirror, 10, 153, 1e-4 },
        { "scg_inpaint", "scg", "steps=20 n=8 thr=0", plain_scg, 1, 153, 1e-4 },
        { "scg_thr", "scg", "steps=20 n=8 thr=0.25 hole=yes", thr, 6, 110, 0 },
        { "scg_sr", "scg", "steps=20 n=8 thr=0 hole=yes", sr, 5, 145, 0 } };
    static di_real mask[SIDE * SIDE], x[PICTURE];
    di_problem *problem[2];
    for (int i = 0; i < SIDE * SIDE; i++) {
        int r = i / SIDE, c = i % SIDE;
        mask[i] = !(r >= 10 && r <= 21 && c >= 9 && c <= 20);
    }
    EQUAL(di_problem_inpaint(ctx, 3, SIDE, SIDE, mask, &problem[0]), DI_OK);
    EQUAL(di_problem_sr(ctx, 3, SIDE, SIDE, 4, DI_SR_BICUBIC, &problem[1]), DI_OK);
    if (SLOW)
        printf("note: with tcc two official runs are followed, for one step\n");
    di_prior *prior = network(SIDE);
    io_array noise = vector("dps.noise", "");
    size_t count = noise.n * noise.c * noise.h * noise.w;
    for (size_t i = 0; noise.v && i < POOL; i++) /* read over and over */
        pool[i] = (float)noise.v[i % count];
    for (size_t k = 0; k < sizeof task / sizeof *task && prior && noise.v; k++) {
        char name[40], settings[80];
        int is_sr = k == 1 || k > 4, stop = verbose ? 20 : task[k].stop;
        if (BOUND(task[k].tolerance, 1) == 0 || (SLOW && task[k].stop > 1))
            continue;
        in_case("%s", task[k].name);
        snprintf(name, sizeof name, "%s.x", task[k].name);
        snprintf(settings, sizeof settings, "%s time=continuous", task[k].settings);
        io_array y = vector(is_sr ? "dps_sr.y" : "dps_inpaint.y", "");
        official o = { .after = task[k].after, .tolerance = task[k].tolerance,
                       .stop = stop, .x = vector(name, "") };
        job j = { .solver = task[k].solver, .settings = settings, .prior = prior,
                  .problem = problem[is_sr], .y = y.v, .noise = pool, .count = POOL,
                  .report = compare, .user = &o };
        if (CHECK(y.v && o.x.v && o.x.n == (k < 2 ? 5 : k == 4 ? 3 : 2))) {
            EQUAL(solve(&j, x), stop < 20 ? DI_EINTERRUPTED : DI_OK);
            di_clear(ctx);
            if (stop == 20)
                EQUAL(j.used, PICTURE * task[k].draws);
            snprintf(where, sizeof where, "%s against the official program", task[k].name);
            figure(where, o.most);
        }
        io_free(&y);
        io_free(&o.x);
    }
    io_free(&noise);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    EQUAL(di_open(&ctx, NULL, NULL), DI_OK);
    fill_pool();
    test_grid();
    test_plain();
    test_sphere();
    test_surrogate();
    test_stein();
    test_law();
    test_shift();
    test_invariance();
    test_degenerate();
    test_optimal();
    test_toy();
    test_companion();
    test_counts();
    test_scg();
    test_batches();
    test_resume();
    test_failures();
    test_official(); /* fills the pool with other numbers */
    SAYS(di_error(ctx), "");
    di_close(ctx);
    return finish();
}
