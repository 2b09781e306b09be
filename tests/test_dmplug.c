/* test_dmplug.c: DMPlug's map R and its derivative against closed forms on exact priors, Adam,
   ES-WMV, the solver's own promises, and the official program's trajectories. Numbers: schedule
   and priors in double, to 1e-9 or to the digits given. In float an image is off by 1e-7 times
   what the steps multiply, c/s = 9.5 at t = 666 (157 at 999), and Adam's first steps look only
   at the gradient's sign. */
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

/* ---- The map R by itself ----------------------------------------------------------------- */

enum { D = 64 };
typedef struct plug { /* R and L with their derivatives, as dmplug calls them */
    di_run *run;
    sampler R;
    double time;
    di_real steps[1000 * D], raw[1000 * D], e[D], h[D];
    di_real x[D], r[D], g[D]; /* R(z), y - A R(z), dL/dz */
} plug;

static void plug_in(plug *P, di_prior *prior, const di_problem *p, const char *settings)
{
    if (di_run_open(ctx, di_solver_find("dmplug"), prior, p, &P->run)) {
        printf("FAIL %s\n", di_error(ctx));
        exit(1);
    }
    set_all(P->run, settings);
    P->run->n = 1;
    P->run->t = &P->time;
    P->R.T = (int)num(P->run, "steps");
    P->R.clip = is(P->run, "clip", "yes");
    P->R.recompute = is(P->run, "recompute", "yes");
    P->R.x = P->steps;
    P->R.u = P->raw;
    P->R.e = P->e;
    sampler_grid(P->run, &P->R);
}

/* x = R(z) */
static const di_real *map(plug *P, const double *z)
{
    for (size_t i = 0; i < P->run->d; i++)
        P->R.x[i] = (di_real)z[i];
    sampler_run(P->run, &P->R, P->x);
    return P->x;
}

static double loss(plug *P, const double *z, const di_real *y)
{
    double sum = 0;
    map(P, z);
    P->run->y = y;
    residual(P->run, P->x, P->r);
    for (size_t i = 0; i < P->run->m; i++)
        sum += (double)P->r[i] * P->r[i];
    return sum / (double)P->run->m;
}

/* g = dL/dz of the last loss */
static const di_real *slope(plug *P)
{
    for (size_t i = 0; i < P->run->m; i++)
        P->r[i] *= (di_real)(-2 / (double)P->run->m);
    back(P->run, P->x, P->r, P->g);
    sampler_back(P->run, &P->R, P->g, P->h);
    return P->g;
}

static plug P;

/* ---- Priors and problems ----------------------------------------------------------------- */

/* N(mean, diag(cov)), d values each */
static di_prior *gaussian(int d, const double *mean, const double *cov)
{
    di_real m[D], c[D];
    di_prior *p;
    for (int i = 0; i < d; i++) {
        m[i] = (di_real)mean[i];
        c[i] = (di_real)cov[i];
    }
    EQUAL(di_prior_gauss(ctx, 1, 1, d, m, c, 0, &p), DI_OK);
    return p;
}

static di_problem *matrix(int m, int d, const double *A)
{
    di_real a[D * D];
    di_problem *p;
    for (int i = 0; i < m * d; i++)
        a[i] = (di_real)A[i];
    EQUAL(di_problem_matrix(ctx, 1, 1, d, m, a, &p), DI_OK);
    return p;
}

static const double A23[6] = { 0.5, 0.5, 0, 0, 0.5, 0.5 };
static const di_real Y2[2] = { (di_real)0.3, (di_real)-0.2 };
static const double ZERO[D];

/* The two-component mixture of T9. */
static di_prior *mixture3(void)
{
    static const di_real weight[2] = { (di_real)0.3, (di_real)0.7 };
    static const di_real mean[6] = { (di_real)0.8, (di_real)-0.4, (di_real)0.1, (di_real)-0.5,
                                     (di_real)0.6, (di_real)-0.7 };
    static const di_real var[6] = { (di_real)0.04, (di_real)0.09, (di_real)0.25, (di_real)0.16,
                                    (di_real)0.01, (di_real)0.05 };
    di_prior *p;
    EQUAL(di_prior_mixture(ctx, 1, 1, 3, 2, weight, mean, var, 1, &p), DI_OK);
    return p;
}

/* 0.5 N(1, .09) + 0.5 N(-1, .09) */
static di_prior *twin(void)
{
    static const di_real weight[2] = { 1, 1 }, mean[2] = { 1, -1 };
    static const di_real var[2] = { (di_real)0.09, (di_real)0.09 };
    di_prior *p;
    EQUAL(di_prior_mixture(ctx, 1, 1, 1, 2, weight, mean, var, 0, &p), DI_OK);
    return p;
}

static void square_apply(const di_problem *p, const di_real *x, di_real *y)
{
    for (int i = 0; i < p->x[2]; i++)
        y[i] = x[i] * x[i];
}

static void square_vjp(const di_problem *p, const di_real *x, const di_real *v, di_real *gx)
{
    for (int i = 0; i < p->x[2]; i++)
        gx[i] = 2 * x[i] * v[i];
}

/* A prior that watches another, and can be made to fail. */
typedef struct spy {
    di_prior p, *inner;
    int calls, vjps, heads;   /* heads: calls that asked for the variance head */
    int nan_at, nan_vjp;      /* the call that goes wrong; 0: none */
} spy;

static di_status spy_eval(di_prior *p, size_t n, const double *t, const di_real *x,
                          di_real *eps, di_real *v, int keep)
{
    spy *s = p->self;
    size_t d = (size_t)p->c * p->h * p->w;
    di_status status = s->inner->eval(s->inner, n, t, x, eps, NULL, keep);
    s->heads += v != NULL;
    for (size_t i = 0; v && i < n * d; i++)
        v[i] = 7;
    if (++s->calls == s->nan_at)
        eps[n * d - 1] = NAN;
    return status;
}

static di_status spy_vjp(di_prior *p, int keep, const di_real *geps, di_real *gx)
{
    spy *s = p->self;
    di_status status = s->inner->vjp(s->inner, keep, geps, gx);
    if (++s->vjps == s->nan_vjp)
        gx[0] = NAN;
    return status;
}

static size_t spy_bytes(di_prior *p, size_t n, int keep)
{
    spy *s = p->self;
    return s->inner->bytes(s->inner, n, keep);
}

static spy *watch(di_prior *inner)
{
    static spy s;
    memset(&s, 0, sizeof s);
    s.inner = inner;
    s.p = *inner;
    s.p.eval = spy_eval;
    s.p.vjp = spy_vjp;
    s.p.bytes = spy_bytes;
    s.p.self = &s;
    return &s;
}

/* ---- T1-T3, T11: the map R --------------------------------------------------------------- */

/* The schedule of 1000 steps, in long double; 1 at t = -1. */
static long double abar_at(int t)
{
    long double a = 1;
    for (int i = 0; i <= t; i++)
        a *= 1 - (1e-4L + (2e-2L - 1e-4L) * i / 999);
    return a;
}

/* Gain of R at variance lam: the product of (s s' lam + c c') / (abar lam + 1 - abar) over the
   steps t[0..T-1], the last to t[T] (-1: clean). */
static double gain(const int *t, int T, double lam)
{
    double g = 1;
    for (int j = 0; j < T; j++) {
        double ab = (double)abar_at(t[j]), left = (double)(1 - abar_at(t[j]));
        double ab1 = (double)abar_at(t[j + 1]), left1 = (double)(1 - abar_at(t[j + 1]));
        g *= (sqrt(ab * ab1) * lam + sqrt(left * left1)) / (ab * lam + left);
    }
    return g;
}

static void test_gain(void)
{
    static const double lam[9] = { 0, 0.01, 0.04, 0.1, 0.25, 0.5, 1, 2, 4 };
    static const double known[2][9] = {
        { 0, 0.01669650802, 0.03686848709, 0.07567913697, 0.1653238319, 0.295439608,
          0.5039853256, 0.8011564902, 1.186183694 },
        { 0.010000202, 0.016770223, 0.036756944, 0.075340114, 0.16450008, 0.29395498,
          0.50156026, 0.79776286, 1.1826136 } };
    static const int t[2][4] = { { 666, 333, 0, -1 }, { 999, 666, 333, 0 } };
    double mu[9], one[9], most = 0, s666 = (double)sqrtl(abar_at(666));
    for (int i = 0; i < 9; i++) {
        mu[i] = 0.25 + 0.125 * i;
        one[i] = 1;
    }
    for (int k = 0; k < 2; k++) {
        in_case("T1 grid=%s", k ? "dmilo" : "dmplug");
        plug_in(&P, gaussian(9, mu, lam), matrix(1, 9, one), k ? "grid=dmilo clip=no"
                                                               : "grid=dmplug clip=no");
        for (int j = 0; j < 3; j++)
            EQUAL(P.R.t[j], t[k][j]);
        double zero[9];
        for (int i = 0; i < 9; i++)
            zero[i] = map(&P, ZERO)[i];
        for (int i = 0; i < 9; i++) {
            double want = gain(t[k], 3, (double)(di_real)lam[i]);
            double got = map(&P, one)[i] - zero[i];
            double off = fabs(got - want) / (want > 0.1 ? want : 0.1);
            NEAR(want, known[k][i], BOUND(3e-8, 6e-10) * (k ? 100 : 1)); /* digits given */
            NEAR(off, 0, BOUND(k ? 1e-4 : 6e-6, 1e-12)); /* float: c/s, a few times 6e-8 */
            if (!k)
                NEAR(zero[i], mu[i] * (1 - s666 * want), BOUND(3e-6, 1e-9));
            most = off > most ? off : most;
        }
        if (!k) {
            NEAR(zero[6] / mu[6], 0.947179, BOUND(4e-6, 6e-7));
            for (int i = 0; i < 50; i++) { /* T3: on the range, whatever z */
                double z[9] = { 3 * value_at((size_t)i, 9) };
                NEAR(map(&P, z)[0], mu[0], BOUND(4e-6, 1e-14));
            }
        }
        di_run_close(P.run);
    }
    figure("T1 gains, relative", most);
}

/* Gains for lam (3) of a grid in use. */
static void gains(const char *settings, const double *lam, double *g)
{
    static const double one[3] = { 1, 1, 1 };
    plug_in(&P, gaussian(3, ZERO, lam), matrix(1, 3, one), settings);
    map(&P, one);
    for (int i = 0; i < 3; i++)
        g[i] = P.x[i];
    di_run_close(P.run);
}

static void test_flow(void)
{
    static const double lam[3] = { 1, 0.25, 0.04 }, flow[3] = { 0.998124, 0.996991, 0.992518 };
    static const int counts[] = { 2, 3, 5, 10, 50, 100, 500, 1000 };
    double g[3], last[3] = { 0 };
    in_case("T2 unit stride");
    gains("steps=1000 clip=no recompute=yes", lam, g);
    for (int i = 0; i < 3; i++)
        NEAR(g[i] / sqrt(lam[i]), flow[i], BOUND(1e-5, 6e-7)); /* six digits given */
    gains("steps=667 clip=no recompute=yes", lam, g);
    NEAR(g[0] / sqrt(lam[0] / (0.01098423018 * lam[0] + 1 - 0.01098423018)), 0.998145,
         BOUND(1e-5, 6e-7));
    for (int k = 0; k < 8; k++) {
        char settings[80];
        int T = counts[k];
        double ab = (double)abar_at((T - 1) * (1000 / T));
        snprintf(settings, sizeof settings, "steps=%d clip=no recompute=yes", T);
        in_case("T2 %s", settings);
        gains(settings, lam, g);
        for (int i = 0; i < 3; i++) {
            double ratio = g[i] / sqrt(lam[i] / (ab * lam[i] + 1 - ab));
            CHECK(ratio < 1 && ratio > last[i] && ratio > 0); /* rises to 1 with the steps */
            last[i] = ratio;
        }
    }
}

static void test_twin(void)
{
    static const double z[4] = { 0.1, 0.5, 1, 2 };
    static const double three[4] = { 0.07497764, 0.35960577, 0.65206463, 0.99213509 };
    static const double all[4] = { 0.577625, 0.910292, 1.141407, 1.504304 };
    static const double hundred[4] = { 0.573680, 0.906588, 1.131885, 1.482721 };
    static const double one[1] = { 1 };
    static const char *const settings[3] = { "clip=no", "clip=no steps=1000 recompute=yes",
                                             "clip=no steps=100 recompute=yes" };
    const double *want[3] = { three, all, hundred };
    for (int k = 0; k < 3; k++) {
        in_case(k ? "T11 %s" : "T10 %s", settings[k]);
        plug_in(&P, twin(), matrix(1, 1, one), settings[k]);
        EQUAL(map(&P, ZERO)[0], 0);
        for (int i = 0; i < 4; i++) {
            double x = map(&P, &z[i])[0], minus = -z[i];
            NEAR(x, want[k][i], BOUND(k ? 2e-5 : 4e-6, k ? 6e-7 : 6e-9)); /* digits given */
            EQUAL(map(&P, &minus)[0], -x);                     /* odd, to the bit */
        }
        di_run_close(P.run);
    }
    di_problem square = { .ctx = ctx, .name = "square", .x = { 1, 1, 1 }, .y = { 1, 1, 1 },
                          .apply = square_apply, .vjp = square_vjp };
    di_real y[1] = { (di_real)0.64 }, x[1];
    job j = { .solver = "dmplug",
              .settings = "clip=no es=no iters=300 start=zero", .prior = twin(),
              .problem = &square, .y = y };
    in_case("T10 saddle");
    EQUAL(solve(&j, x), DI_OK);
    EQUAL(x[0], 0); /* the gradient there is exactly 0 */
    for (int sign = -1; sign <= 1; sign += 2) {
        float start[1] = { 0.1f * (float)sign };
        j.settings = "clip=no es=no iters=1000";
        j.noise = start;
        j.count = 1;
        EQUAL(solve(&j, x), DI_OK);
        NEAR(x[0], sign * 0.8, 1e-3); /* Adam's steps of 0.01 die down slowly */
    }
}

/* ---- T4: the optimum on an affine set, by Adam ------------------------------------------- */

typedef struct seen { /* what a report saw */
    int n, stop_at;
    size_t d;
    double residual[2000], wmv[2000];
    di_real x[2000][8], x0[2000][8];
} seen;
static seen S;

static int look(void *user, const di_step *s)
{
    (void)user;
    int i = s->step - 1;
    EQUAL(i, S.n);
    EQUAL(s->t, -1);
    EQUAL(s->sigma, -1);
    S.residual[i] = s->residual;
    S.wmv[i] = s->wmv;
    memcpy(S.x[i], s->x, S.d * sizeof *s->x);
    memcpy(S.x0[i], s->x0, S.d * sizeof *s->x0);
    S.n = s->step;
    return s->step == S.stop_at;
}

static void look_at(job *j, size_t d, int stop_at)
{
    S.n = 0;
    S.d = d;
    S.stop_at = stop_at;
    j->report = look;
}

/* z after k Adam steps on mean ((h z - y)^2), h (2): all but the first coordinate of x is 0. */
static double adam_alone(const double *h, const double *y, int k)
{
    double z = 0, m = 0, v = 0;
    for (int i = 1; i <= k; i++) {
        double g = h[0] * (h[0] * z - y[0]) + h[1] * (h[1] * z - y[1]);
        m = 0.9 * m + 0.1 * g;
        v = 0.999 * v + 0.001 * g * g;
        z -= 0.01 * (m / (1 - pow(0.9, i))) / (sqrt(v / (1 - pow(0.999, i))) + 1e-8);
    }
    return z;
}

static void test_affine(void)
{
    static const double lam[3] = { 1, 0, 0 }, y[2] = { 0.3, -0.2 };
    static const struct { int k; double z; } known[4] = { { 1, 0.009999998677 },
        { 2, 0.0199977097 }, { 3, 0.0299915876 }, { 100, 0.8184701516 } };
    di_real x[3];
    double h[2] = { 0.5 * 0.5039853256, 0 };
    job j = { .solver = "dmplug", .settings = "clip=no es=no iters=2000 start=zero", .y = Y2,
              .prior = gaussian(3, ZERO, lam), .problem = matrix(2, 3, A23) };
    in_case("T4");
    look_at(&j, 3, 0);
    EQUAL(solve(&j, x), DI_OK);
    EQUAL(S.n, 2000);
    for (int i = 0; i < 4; i++) {
        double z = S.x[known[i].k - 1][0];
        NEAR(z, known[i].z, BOUND(2e-6 * z, 6e-11)); /* ten digits given */
        NEAR(z, adam_alone(h, y, known[i].k), BOUND(2e-6, 1e-9) * z);
    }
    double aside = 0;
    for (int k = 0; k < 2000; k++)
        for (int i = 1; i < 3; i++) {
            NEAR(S.x0[k][i], 0, BOUND(1e-6, 1e-15)); /* T3: R has no part there */
            aside = fabs(S.x[k][i]) > aside ? fabs(S.x[k][i]) : aside;
        }
    /* Where R is flat the derivative is rounding, which Adam makes steps of: 1e-17 against its
       eps of 1e-8 in double, as large as eps in float. R does not see them. */
    NEAR(aside, 0, BOUND(0.01 * 2000, 1e-8));
    figure("T4 z_2, z_3, along which R is flat", aside);
    double at = S.residual[1000] * S.residual[1000];
    NEAR(at, 0.02, BOUND(1e-8, 1e-12)); /* the residual is a root: its square keeps 12 digits */
    NEAR(S.residual[1999] * S.residual[1999], 0.02, BOUND(1e-8, 1e-12));
    NEAR(x[0], 0.6, BOUND(1e-5, 1e-7));
    NEAR(S.x[1999][0], 1.1905108531735, BOUND(2e-5, 1e-7));
}

/* ---- T5-T7: plain gradient descent ------------------------------------------------------- */

/* x_want = G A^T (A G A^T)^-1 y, G = diag(g^2), for A23. */
static void least_norm(const double *g, const di_real *y, double *x)
{
    double G[3] = { g[0] * g[0], g[1] * g[1], g[2] * g[2] };
    double a = (G[0] + G[1]) / 4, b = G[1] / 4, d = (G[1] + G[2]) / 4, det = a * d - b * b;
    double u = (d * y[0] - b * y[1]) / det, v = (a * y[1] - b * y[0]) / det;
    x[0] = G[0] * u / 2;
    x[1] = G[1] * (u + v) / 2;
    x[2] = G[2] * v / 2;
}

static void test_descent(void)
{
    static const double lam[3] = { 1, 0.25, 0.04 };
    static const double known[3] = { 0.9760735006, -0.3760735006, -0.0239264994 };
    static const double mean[3] = { 0.9133333, -0.3133333, -0.0866667 };
    double g[3], want[3], far = 0;
    gains("clip=no", lam, g);
    plug_in(&P, gaussian(3, ZERO, lam), matrix(2, 3, A23), "clip=no");
    for (int k = 0; k < 4; k++) { /* T6: y of any kind is fitted entirely */
        di_real y[2] = { (di_real)value_at((size_t)k, 1), (di_real)value_at((size_t)k, 2) };
        double z[3] = { 0 }, first[2] = { 0 }, l = 0;
        if (!k)
            memcpy(y, Y2, sizeof y);
        in_case(k ? "T6 y number %d" : "T5", k);
        for (int i = 0; i < 8000; i++) {
            l = loss(&P, z, y);
            if (i < 2)
                first[i] = l;
            if (!k && i == 100)
                NEAR(l, 3.8153e-5, BOUND(1e-9, 5e-10));
            const di_real *s = slope(&P);
            for (int c = 0; c < 3; c++)
                z[c] -= 5 * s[c];
        }
        least_norm(g, y, want);
        NEAR(l, 0, BOUND(1e-12, 1e-25));
        for (int i = 0; i < 3; i++)
            NEAR(P.x[i], want[i], BOUND(1e-4, 1e-9));
        if (k)
            continue;
        NEAR(first[0], 0.065, BOUND(1e-8, 1e-15));
        NEAR(first[1], 0.0408875666, BOUND(1e-8, 6e-11));
        for (int i = 0; i < 3; i++) {
            NEAR(P.x[i], known[i], BOUND(1e-4, 2e-10));
            far = fabs(P.x[i] - mean[i]) > far ? fabs(P.x[i] - mean[i]) : far;
        }
        NEAR(far, 0.0627, 1e-3); /* not the posterior's mean */
    }
    di_run_close(P.run);
    in_case("T5, many steps");
    gains("steps=1000 clip=no recompute=yes", lam, g);
    least_norm(g, Y2, want);
    for (int i = 0; i < 3; i++)
        NEAR(want[i], mean[i], 2e-3); /* which the flow approaches */
}

static void test_peak(void)
{
    double lam[D], mse[4001], least = 1, z[D] = { 0 };
    di_real y[D];
    int best = 0;
    di_problem *p;
    for (int i = 0; i < D; i++) {
        lam[i] = 1.0 / ((i + 1) * (i + 1));
        y[i] = (di_real)(1.0 / (i + 1) + (i % 2 ? -0.05 : 0.05));
    }
    EQUAL(di_problem_denoise(ctx, 1, 1, D, &p), DI_OK);
    in_case("T7");
    plug_in(&P, gaussian(D, ZERO, lam), p, "clip=no");
    for (int k = 0; k <= 4000; k++) {
        loss(&P, z, y);
        mse[k] = 0;
        for (int i = 0; i < D; i++)
            mse[k] += pow(P.x[i] - 1.0 / (i + 1), 2) / D;
        best = mse[k] < least ? k : best;
        least = mse[best];
        slope(&P);
        for (int i = 0; i < D; i++)
            z[i] -= 62.991826 * P.g[i];
    }
    NEAR(mse[10], 0.00683477, BOUND(2e-8, 6e-9));
    NEAR(least, 0.00101776, BOUND(2e-8, 6e-9));
    NEAR(best, 2326, BOUND(20, 0));
    NEAR(10 * log10(0.0025 / least), 3.90, 0.005);
    CHECK(mse[4000] > 1.01 * least);
    figure("T7 iteration of the least error", best);
    di_run_close(P.run);
}

/* ---- T8, T9: the derivative -------------------------------------------------------------- */

/* J (3,3), row i = J^T e_i, of the map in use at z. */
static void jacobian(plug *Q, const double *z, double *J)
{
    for (int i = 0; i < 3; i++) {
        di_real e[3] = { 0 };
        map(Q, z);
        e[i] = 1;
        sampler_back(Q->run, &Q->R, e, Q->h);
        for (int c = 0; c < 3; c++)
            J[3 * i + c] = e[c];
    }
}

static double asymmetry(const double *J)
{
    double most = 0, top = 0;
    for (int i = 0; i < 3; i++)
        for (int c = 0; c < 3; c++) {
            most = larger(most, fabs(J[3 * i + c] - J[3 * c + i]));
            top = larger(top, fabs(J[3 * i + c]));
        }
    return most / top;
}

static void test_symmetry(void)
{
    static const double z[3] = { 0.5, -1, 0.25 }, one[3] = { 1, 1, 1 };
    static const di_real cov[9] = { 1, (di_real)0.5, (di_real)0.2, (di_real)0.5, 2,
                                    (di_real)-0.3, (di_real)0.2, (di_real)-0.3, (di_real)0.5 };
    static const di_real mean[3] = { (di_real)0.1, (di_real)0.2, (di_real)-0.3 };
    double J[9], most = 0, whole[2];
    di_prior *prior[2];
    prior[0] = mixture3();
    EQUAL(di_prior_gauss(ctx, 1, 1, 3, mean, cov, 1, &prior[1]), DI_OK);
    for (int k = 0; k < 2; k++) {
        in_case("T8 %s", k ? "Gaussian" : "mixture");
        plug_in(&P, prior[k], matrix(1, 3, one), "clip=no");
        jacobian(&P, z, J);
        whole[k] = asymmetry(J);
        for (int j = 0; j < 3; j++) { /* step j alone, at its own input */
            static plug Q;
            double in[3];
            Q = P;
            Q.R.x = Q.steps;
            Q.R.u = Q.raw;
            Q.R.e = Q.e;
            Q.R.T = 1;
            Q.R.t[0] = P.R.t[j];
            Q.R.s[0] = P.R.s[j];
            Q.R.c[0] = P.R.c[j];
            Q.R.a[0] = P.R.a[j];
            Q.R.b[0] = P.R.b[j];
            map(&P, z);
            for (int i = 0; i < 3; i++)
                in[i] = P.R.x[3 * j + i];
            jacobian(&Q, in, J);
            most = larger(most, asymmetry(J));
            NEAR(asymmetry(J), 0, BOUND(2e-5, 1e-12));
        }
        di_run_close(P.run);
    }
    figure("T8 asymmetry of a step", most);
    NEAR(whole[1], 0, BOUND(2e-5, 1e-12)); /* Gaussian steps commute, a mixture's do not */
    CHECK(whole[0] > 1e-3);
}

/* Largest difference from central differences over the largest derivative. */
static double differences(plug *Q, const double *z, const di_real *y, double h)
{
    double g[3], far = 0, top = 0;
    loss(Q, z, y);
    slope(Q);
    for (int i = 0; i < 3; i++)
        g[i] = Q->g[i];
    for (int i = 0; i < 3; i++) {
        double up[3], down[3];
        memcpy(up, z, sizeof up);
        memcpy(down, z, sizeof down);
        up[i] += h;
        down[i] -= h;
        double d = (loss(Q, up, y) - loss(Q, down, y)) / (2 * h) - g[i];
        far = larger(far, fabs(d));
        top = larger(top, fabs(g[i]));
    }
    return far / top;
}

static void test_gradient(void)
{
    static const double z[3] = { 0.5, -1, 0.25 };
    static const double R[3] = { 0.248610211987675, 0.0239075216970871, -0.2604565691016 };
    static const double g[3] = { -0.0114228774031585, 0.00281679057234120,
                                 0.000906625260855179 };
    double off = 0;
    in_case("T9");
    plug_in(&P, mixture3(), matrix(2, 3, A23), "clip=no");
    double L = loss(&P, z, Y2);
    NEAR(L, 0.016745106081917, BOUND(1e-7, 1e-9) * L);
    for (int i = 0; i < 3; i++)
        NEAR(P.x[i], R[i], BOUND(5e-7, 1e-9 * fabs(R[i])));
    slope(&P);
    for (int i = 0; i < 3; i++) {
        off = larger(off, fabs(P.g[i] - g[i]) / fabs(g[0]));
        NEAR(P.g[i], g[i], BOUND(2e-6 * fabs(g[0]), 1e-9 * fabs(g[i])));
    }
    figure("T9 gradient, relative", off);
    for (int k = 0; k < 5; k++) { /* in float a difference at h = 1e-2 is good to 1e-4 */
        double at[3];
        for (int i = 0; i < 3; i++)
            at[i] = k ? 1.5 * value_at((size_t)(3 * k + i), 3) : z[i];
        double fine = differences(&P, at, Y2, BOUND(1e-2, 1e-4));
        NEAR(fine, 0, BOUND(1e-3, 1e-9));
        figure("T9 against central differences", fine);
        if (sizeof(di_real) == 8) /* quadratic decay */
            NEAR(differences(&P, at, Y2, 1e-3) / fine, 100, 20);
    }
    di_run_close(P.run);
}

/* ---- T12: clipping ----------------------------------------------------------------------- */

static void test_clip(void)
{
    double lam[8], mu[8], z[8], far = 0;
    di_real y[8], plain[8], grad[8];
    di_problem *p;
    int clipped = 0, inside = 0;
    for (int i = 0; i < 8; i++) {
        lam[i] = 0.25 * (i + 1);
        mu[i] = 0.1 * i;
        z[i] = 4 * value_at((size_t)i, 4);
        y[i] = (di_real)value_at((size_t)i, 5);
    }
    EQUAL(di_problem_denoise(ctx, 1, 1, 8, &p), DI_OK);
    in_case("T12");
    plug_in(&P, gaussian(8, mu, lam), p, "clip=yes");
    loss(&P, z, y);
    for (int j = 0; j < 3; j++)
        for (int i = 0; i < 8; i++) { /* next = s' x0 + c' e', s x0 + c e' = x */
            double x = P.R.x[8 * j + i], u = P.R.u[8 * j + i];
            double x0 = u > 1 ? 1 : u < -1 ? -1 : u, e = (x - P.R.s[j] * x0) / P.R.c[j];
            double next = j < 2 ? P.R.s[j + 1] * x0 + P.R.c[j + 1] * e : x0;
            double got = j < 2 ? P.R.x[8 * (j + 1) + i] : P.x[i];
            far = larger(far, fabs(got - next));
            clipped += x0 != u;
        }
    NEAR(far, 0, BOUND(1e-6, 4e-15));
    CHECK(clipped > 4);
    for (int i = 0; i < 8; i++)
        CHECK(P.x[i] >= -1 && P.x[i] <= 1);
    di_real last[8];
    memcpy(last, P.R.u + 16, sizeof last);
    slope(&P);
    memcpy(grad, P.g, sizeof grad);
    for (int i = 0; i < 8; i++) { /* the prior is diagonal: a pixel is its own affair */
        if (last[i] > 1 || last[i] < -1)
            EQUAL(grad[i], 0);
        inside += last[i] >= -1 && last[i] <= 1 && grad[i] != 0;
    }
    CHECK(inside > 1);
    for (int i = 0; i < 8 && sizeof(di_real) == 8; i++) {
        double up[8], down[8];
        memcpy(up, z, sizeof up);
        memcpy(down, z, sizeof down);
        up[i] += 1e-5;
        down[i] -= 1e-5;
        NEAR((loss(&P, up, y) - loss(&P, down, y)) / 2e-5, grad[i], 1e-9);
    }
    for (int out = 0; out < 2; out++) { /* the clamp passes what lies on its border */
        di_real g[8];
        map(&P, z);
        for (int i = 0; i < 8; i++) {
            P.R.u[i] = P.R.u[8 + i] = 0;
            P.R.u[16 + i] = (di_real)(i % 2 ? 1 : -1) * (out ? (di_real)1.0000002 : 1);
            g[i] = 1;
        }
        sampler_back(P.run, &P.R, g, P.h);
        for (int i = 0; i < 8; i++)
            CHECK((g[i] != 0) == !out);
    }
    di_run_close(P.run);
    for (int i = 0; i < 8; i++)
        z[i] *= 0.1;
    in_case("T12, nothing to clip");
    plug_in(&P, gaussian(8, ZERO, lam), p, "clip=no");
    memcpy(plain, map(&P, z), sizeof plain);
    di_run_close(P.run);
    plug_in(&P, gaussian(8, ZERO, lam), p, "clip=yes");
    CHECK(same(map(&P, z), plain, 8));
    di_run_close(P.run);
}

/* ---- T13, T14: recomputation, the variance head ------------------------------------------ */

static void test_recompute(void)
{
    static const int steps[] = { 1, 2, 3, 5, 16 };
    static di_real x[2][3 * 256], y[3 * 256];
    di_prior *prior[2] = { mixture3(), network(16) };
    di_problem *p[2] = { matrix(2, 3, A23), NULL };
    EQUAL(di_problem_denoise(ctx, 3, 16, 16, &p[1]), DI_OK);
    fill(y, 3 * 256, 6);
    for (int k = 0; k < 2 && prior[k]; k++)
        for (int i = k && SLOW; i < (k ? 3 - SLOW : 5); i++)
            for (int r = 0; r < 2; r++) {
                char settings[80];
                unsigned T = (unsigned)steps[i], iters = k ? 2 : 7;
                snprintf(settings, sizeof settings, "es=no iters=%u steps=%u recompute=%s",
                         iters, T, r ? "yes" : "no");
                in_case("T13 %s, %s", k ? "network" : "mixture", settings);
                job j = { .solver = "dmplug",
                          .settings = settings, .prior = prior[k], .problem = p[k],
                          .y = k ? y : Y2, .seed = 4 };
                EQUAL(solve(&j, x[r]), DI_OK);
                EQUAL(j.cost.net, iters * (r ? 2 * T - 1 : T));
                EQUAL(j.cost.net_vjp, iters * T);
                EQUAL(j.cost.apply, iters);
                EQUAL(j.cost.apply_vjp, iters);
                CHECK(!r || same(x[0], x[1], k ? 3 * 256 : 3));
            }
    double g[2][3], z[3] = { 0.5, -1, 0.25 };
    in_case("T13 gradients");
    for (int r = 0; r < 2; r++) {
        plug_in(&P, prior[0], p[0], r ? "clip=no recompute=yes" : "clip=no");
        loss(&P, z, Y2);
        slope(&P);
        for (int i = 0; i < 3; i++)
            g[r][i] = P.g[i];
        di_run_close(P.run);
    }
    CHECK(memcmp(g[0], g[1], sizeof g[0]) == 0);
    in_case("T13 too many to keep");
    job j = { .solver = "dmplug",
              .settings = "es=no iters=2 steps=17", .prior = prior[0], .problem = p[0],
              .y = Y2 };
    REFUSED(solve(&j, x[0]), DI_EUSAGE, "steps=17 keeps as many derivatives, at most 16: say "
            "recompute=yes");
    j.settings = "es=no iters=2 steps=17 recompute=yes";
    EQUAL(solve(&j, x[0]), DI_OK);
    spy *s = watch(prior[0]);
    s->p.steps = 10;
    j.prior = &s->p;
    j.settings = "es=no iters=2 steps=11";
    REFUSED(solve(&j, x[0]), DI_EUSAGE, "steps=11, but the prior has only 10");
}

static void test_head(void)
{
    di_real x[3], other[3];
    spy *s = watch(mixture3());
    job j = { .solver = "dmplug",
              .settings = "iters=20 es=no", .prior = s->inner, .problem = matrix(2, 3, A23),
              .y = Y2, .seed = 5 };
    in_case("T14");
    EQUAL(solve(&j, x), DI_OK);
    s->p.variance = DI_VAR_LEARNED_RANGE;
    j.prior = &s->p;
    EQUAL(solve(&j, other), DI_OK);
    EQUAL(s->calls, 60);
    EQUAL(s->vjps, 60);
    EQUAL(s->heads, 0); /* never asked for */
    CHECK(same(x, other, 3));
}

/* ---- T18-T21: the detector --------------------------------------------------------------- */

enum { RING = 100 };
static di_real ring[RING * D], kept_one[D];

static wmv detector(size_t d, int window, int patience)
{
    wmv w = { .d = d, .window = window, .patience = patience, .best = -1, .ring = ring,
              .keep = kept_one };
    memset(ring, 0, sizeof ring);
    return w;
}

static void test_variance(void)
{
    static const int windows[] = { 2, 10, 11, 100 };
    for (int i = 0; i < 4; i++) {
        int W = windows[i];
        wmv still = detector(3, W, 1000000), line = still, flip = still;
        static di_real rings[3][RING * D], best[3][D];
        double v[3], sum = 0;
        still.ring = rings[0];
        line.ring = rings[1];
        flip.ring = rings[2];
        still.keep = best[0];
        line.keep = best[1];
        flip.keep = best[2];
        in_case("T18 window=%d", W);
        for (int k = 0; k < 3 * W; k++) {
            di_real a[3], b[3], c[3];
            sum = 0;
            for (int l = 0; l < 3; l++) {
                double u = ldexp(floor(64 * value_at((size_t)l, 7)), -6); /* k u: no rounding */
                a[l] = (di_real)value_at((size_t)l, 7);
                b[l] = (di_real)(k * u);
                c[l] = (di_real)(k % 2 ? -u : u);
                sum += u * u;
            }
            EQUAL(wmv_push(&still, k, a, &v[0]), 0);
            EQUAL(wmv_push(&line, k, b, &v[1]), 0);
            EQUAL(wmv_push(&flip, k, c, &v[2]), 0);
            EQUAL(v[0], k < W - 1 ? -1 : 0);
            NEAR(v[1], k < W - 1 ? -1 : sum / 3 * (W * W - 1) / 12.0, 1e-13 * W * W);
            if (W % 2 == 0)
                NEAR(v[2], k < W - 1 ? -1 : sum / 3, 1e-15);
        }
        EQUAL(still.best, W - 1); /* never strictly less again */
        EQUAL(still.wait, 2 * W);
    }
    for (int W = 10; W <= 11; W++) { /* the detector lags by (W-1)/2; a tie keeps the first */
        wmv w = detector(1, W, 1000000);
        double v;
        in_case("T18 parabola, window=%d", W);
        for (int k = 0; k < 100; k++) {
            di_real x[1] = { (di_real)((k - 50) * (k - 50) / 2.0) };
            EQUAL(wmv_push(&w, k, x, &v), 0);
        }
        EQUAL(w.best, W == 10 ? 54 : 55);
        EQUAL(w.keep[0], W == 10 ? 8 : 12.5);
    }
}

/* Under x' = M x + c the variance falls by at least |M|^2 a step: T7's descent never stops. */
static void test_contraction(void)
{
    wmv w = detector(D, 100, 1);
    double g[D], last = -1, v, most = 0, q = 0;
    static const int t[4] = { 666, 333, 0, -1 };
    in_case("T19");
    for (int i = 0; i < D; i++)
        g[i] = gain(t, 3, 1.0 / ((i + 1) * (i + 1)));
    for (int k = 0; k < 3000; k++) {
        di_real x[D];
        for (int i = 0; i < D; i++) {
            q = 1 - g[i] * g[i] / (2 * g[0] * g[0]);
            x[i] = (di_real)((1 - pow(q, k)) * (1.0 / (i + 1) + (i % 2 ? -0.05 : 0.05)));
        }
        int stop = wmv_push(&w, k, x, &v);
        if (sizeof(di_real) == 8)
            EQUAL(stop, 0); /* float: the variance, 1e-9 of x^2 at last, is of rounded x */
        if (last > 0)
            most = larger(most, v / last);
        last = v;
    }
    NEAR(most, BOUND(0.99, q * q), BOUND(0.02, 0.02));
    CHECK(sizeof(di_real) == 4 || most <= q * q);
    figure("T19 largest ratio", most);
    figure("T19 its bound", q * q);
}

static void test_valley(void)
{
    static const struct { int W, P, best, stop; } known[3] = { { 100, 1000, 1008, 2008 },
        { 50, 300, 981, 1281 }, { 10, 100, 961, 1061 } };
    static double psnr[8000], at[8000][2];
    int peak = 0;
    for (int k = 0; k < 8000; k++) {
        at[k][0] = 0.3 * (1 - exp(-k / 100.0));
        at[k][1] = 0.1 / (1 + exp(-(k - 3000) / 300.0));
        psnr[k] = -10 * log10(pow(0.3 - at[k][0], 2) + pow(at[k][1], 2) + 0.02 * 0.02);
        peak = psnr[k] > psnr[peak] ? k : peak;
    }
    EQUAL(peak, 874);
    NEAR(psnr[peak], 33.97930, 6e-6);
    NEAR(psnr[7999], 19.83, 6e-3);
    for (int i = 0; i < 3; i++) {
        wmv w = detector(2, known[i].W, known[i].P);
        double v;
        int k = 0, stop = 0;
        in_case("T20 window=%d patience=%d", w.window, w.patience);
        for (; k < 8000 && !stop; k++) {
            di_real x[2] = { (di_real)at[k][0], (di_real)at[k][1] };
            stop = wmv_push(&w, k, x, &v);
        }
        /* float rounds x to 1.5e-8: the valley's floor, flat to 1e-4, is shifted */
        NEAR(w.best, known[i].best, BOUND(6, 0));
        NEAR(k - 1, known[i].stop, BOUND(6, 0));
        EQUAL(k - 1 - w.best, known[i].P);
        EQUAL(w.keep[0], (di_real)at[w.best][0]);
        if (i == 0) {
            NEAR(2 * w.least, 1.519142e-10, BOUND(1e-13, 6e-17)); /* ours is per element */
            NEAR(psnr[peak] - psnr[w.best], 8.6e-5, BOUND(1e-5, 6e-7));
            NEAR(psnr[peak] - psnr[7999], 14.1, 0.06);
        }
        figure(where, w.best);
    }
}

static void test_patience(void)
{
    static const int patience[] = { 1, 2, 7, 100 };
    double v;
    for (int i = 0; i < 4; i++) {
        wmv down = detector(1, 5, patience[i]);
        int stop = 0, k = 0;
        in_case("T21 patience=%d", patience[i]);
        for (; k < 60; k++) {
            di_real x[1] = { (di_real)ldexp(1, -k) };
            EQUAL(wmv_push(&down, k, x, &v), 0); /* strictly falling: never */
        }
        EQUAL(down.best, 59);
        wmv flat = detector(1, 5, patience[i]);
        for (k = 0; !stop && k < 1000; k++) {
            di_real x[1] = { (di_real)k };
            stop = wmv_push(&flat, k, x, &v);
            EQUAL(v, k < 4 ? -1 : 2); /* (5^2 - 1) / 12 */
        }
        EQUAL(k - 1, 4 + patience[i]); /* the first test was at 4 */
        EQUAL(flat.best, 4);
        EQUAL(flat.keep[0], 4);
    }
    in_case("T21 a window not full");
    wmv young = detector(1, 50, 1);
    for (int k = 0; k < 49; k++) {
        di_real x[1] = { (di_real)(k * k) };
        EQUAL(wmv_push(&young, k, x, &v), 0);
        EQUAL(v, -1);
    }
    EQUAL(young.best, -1);
    in_case("T21 patience starts again with a new least");
    wmv w = detector(1, 2, 3); /* differences 4 5 3 5 5 5: least at the third */
    static const di_real path[] = { 0, 4, 9, 12, 17, 22, 27, 32 };
    int stop = 0, k = 0;
    for (; k < 8 && !stop; k++)
        stop = wmv_push(&w, k, &path[k], &v);
    EQUAL(k - 1, 6);
    EQUAL(w.best, 3);
    EQUAL(w.least, 2.25);
}

/* ---- The solver's early stop ------------------------------------------------------------- */

/* What ES-WMV must do with the pictures of S (d): the iterate it returns, the one it stops at
   (or S.n), and the variances, which the reports must hold. */
static int expected(size_t d, int W, int patience, int *stop)
{
    double least = HUGE_VAL;
    int best = -1, wait = 0;
    for (int k = 0; k < S.n; k++) {
        long double var = 0;
        if (k < W - 1) {
            EQUAL(S.wmv[k], -1);
            continue;
        }
        for (size_t i = 0; i < d; i++) {
            long double mean = 0;
            for (int j = 0; j < W; j++)
                mean += (long double)S.x0[k - j][i] / W;
            for (int j = 0; j < W; j++)
                var += (S.x0[k - j][i] - mean) * (S.x0[k - j][i] - mean) / (W * (double)d);
        }
        NEAR(S.wmv[k], (double)var, 1e-12 * (double)var + 1e-30);
        best = S.wmv[k] < least ? k : best;
        wait = best == k ? 0 : wait + 1;
        least = S.wmv[best];
        if (wait == patience) {
            *stop = k;
            return best;
        }
    }
    *stop = S.n;
    return best;
}

static void test_early(void)
{
    static const struct { const char *settings; int W, P, iters; } run[] = {
        { "window=8 patience=12 lr=0.2 iters=400 es=yes", 8, 12, 400 },
        { "window=2 patience=1 lr=0.5 iters=400", 2, 1, 400 },
        { "window=30 patience=4 lr=0.3 iters=500 recompute=yes", 30, 4, 500 },
        { "window=10 patience=1000 lr=0.2 iters=60", 10, 1000, 60 },
        { "window=60 patience=5 lr=0.2 iters=60", 60, 5, 60 } };
    static const double mu[5] = { 0.1, -0.2, 0.3, 0, 0.2 };
    static const double lam[5] = { 1, 0.5, 0.25, 0.1, 0.05 };
    di_real y[5], x[5], last[5];
    di_problem *p;
    fill(y, 5, 8);
    EQUAL(di_problem_denoise(ctx, 1, 1, 5, &p), DI_OK);
    for (int i = 0; i < 5; i++) {
        char words[120];
        int stop, r = strstr(run[i].settings, "recompute") ? 5 : 3;
        job j = { .solver = "dmplug",
                  .settings = run[i].settings, .prior = gaussian(5, mu, lam), .problem = p,
                  .y = y, .seed = 11 };
        in_case("ES %s", run[i].settings);
        look_at(&j, 5, 0);
        EQUAL(solve(&j, x), DI_OK);
        int best = expected(5, run[i].W, run[i].P, &stop), stopped = stop < S.n;
        EQUAL(S.n, stopped ? stop + 1 : run[i].iters); /* ends when patience is over */
        EQUAL(stopped, i < 3);
        CHECK(best >= 0 && same(x, S.x0[best < 0 ? 0 : best], 5));
        snprintf(words, sizeof words, "ES-WMV: %s after %d of %d iterations; returned iterate "
                 "%d, windowed variance %.4g per element", stopped ? "stopped" : "not stopped",
                 S.n, run[i].iters, best + 1, S.wmv[best < 0 ? 0 : best]);
        SAYS(j.note, words);
        EQUAL(j.cost.net, S.n * r - stopped * (r - 3)); /* the last makes no derivative */
        EQUAL(j.cost.net_vjp, 3 * (S.n - stopped));
        EQUAL(j.cost.apply, S.n);
        figure(where, best + 1);
        memcpy(last, S.x0[S.n - 1], sizeof last); /* es=no: the same path, its last iterate */
        char without[120];
        snprintf(without, sizeof without, "%.60s es=no iters=%d", strchr(run[i].settings, 'l'),
                 S.n);
        j.settings = without;
        look_at(&j, 5, 0);
        EQUAL(solve(&j, x), DI_OK);
        CHECK(same(x, last, 5) && same(x, S.x0[S.n - 1], 5));
        EQUAL(S.wmv[S.n - 1], -1);
        EQUAL(j.note[0], 0);
    }
    in_case("ES, a window longer than the run");
    job j = { .solver = "dmplug",
              .settings = "window=51 iters=50", .prior = gaussian(5, mu, lam), .problem = p,
              .y = y };
    REFUSED(solve(&j, x), DI_EUSAGE, "a window of 51 iterations is longer than the run of 50: "
            "lower window, raise iters, or say es=no");
    j.settings = "window=51 iters=50 es=no";
    EQUAL(solve(&j, x), DI_OK);
    j.settings = "window=50 iters=50";
    EQUAL(solve(&j, x), DI_OK);
}

/* ---- Failures, samples, a run taken up again --------------------------------------------- */

static void test_failures(void)
{
    static const double lam[3] = { 1, 0.25, 0.04 };
    static const char *const settings[] = { "iters=20 es=no",
                                            "iters=20 window=4 patience=100" };
    di_real x[3];
    di_prior *prior = gaussian(3, ZERO, lam);
    di_problem *p = matrix(2, 3, A23);
    for (int i = 0; i < 2; i++) {
        spy *s = watch(prior);
        job j = { .solver = "dmplug",
                  .settings = settings[i], .prior = &s->p, .problem = p, .y = Y2, .seed = 2 };
        in_case("NaN in iteration 6, %s", settings[i]);
        s->nan_at = 3 * 5 + 2;
        look_at(&j, 3, 0);
        REFUSED(solve(&j, x), DI_ENUMERIC,
                "dmplug: NaN or Inf in the estimate at step 6 of 20");
        EQUAL(S.n, 5);
        CHECK(same(x, S.x0[4], 3));
        in_case("NaN in a derivative, %s", settings[i]);
        s = watch(prior);
        s->nan_vjp = 3 * 5 + 2;
        look_at(&j, 3, 0);
        REFUSED(solve(&j, x), DI_ENUMERIC, "dmplug: NaN or Inf in the iterate at step 6 of 20");
        EQUAL(S.n, 5);
        CHECK(same(x, S.x0[4], 3));
        in_case("stopped by the caller, %s", settings[i]);
        s = watch(prior);
        look_at(&j, 3, 7);
        REFUSED(solve(&j, x), DI_EINTERRUPTED, "dmplug: stopped at step 7 of 20");
        CHECK(same(x, S.x0[6], 3));
        CHECK(!strstr(j.note, "returned"));
    }
    in_case("needs");
    di_run *run;
    spy *s = watch(prior);
    s->p.vjp = NULL;
    REFUSED(di_run_open(ctx, di_solver_find("dmplug"), &s->p, p, &run), DI_EUSAGE,
            "derivative");
    REFUSED(di_run_open(ctx, di_solver_find("dmplug"), prior, NULL, &run), DI_EUSAGE,
            "needs a problem");
}

static void test_samples(void)
{
    static const double lam[3] = { 1, 0.25, 0.04 };
    di_real all[9], x[3];
    job j = { .solver = "dmplug",
              .settings = "iters=30 window=5 patience=4 lr=0.3", .y = Y2, .seed = 3, .first = 5,
              .prior = gaussian(3, ZERO, lam), .problem = matrix(2, 3, A23), .n = 3 };
    in_case("samples one by one");
    EQUAL(solve(&j, all), DI_OK);
    uint64_t net = j.cost.net, sum = 0;
    j.n = 1;
    for (int i = 0; i < 3; i++, j.first++) {
        EQUAL(solve(&j, x), DI_OK);
        CHECK(same(x, all + 3 * i, 3));
        sum += j.cost.net;
    }
    EQUAL(net, sum);
    CHECK(!same(all, all + 3, 3));
    j.settings = "iters=30 es=no start=zero";
    j.n = 3;
    EQUAL(solve(&j, all), DI_OK);
    CHECK(same(all, all + 3, 3) && same(all, all + 6, 3));
}

typedef struct tape { /* a saved state */
    char byte[1 << 16];
    size_t n;
    di_run *run;
    int at, steps;
} tape;

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
    if (s->step == t->at) {
        t->n = 0;
        EQUAL(di_run_save(t->run, tape_write, t), DI_OK);
        return 1;
    }
    return 0;
}

static void test_resume(void)
{
    static const double lam[3] = { 1, 0.25, 0.04 };
    static tape t;
    di_real whole[3], x[3];
    di_prior *prior = gaussian(3, ZERO, lam);
    di_problem *p = matrix(2, 3, A23);
    const char *settings = "iters=60 window=6 patience=9 lr=0.3";
    job j = { .solver = "dmplug",
              .settings = settings, .prior = prior, .problem = p, .y = Y2, .seed = 8 };
    in_case("a run taken up again");
    look_at(&j, 3, 0);
    EQUAL(solve(&j, whole), DI_OK);
    CHECK(S.n > 10 && S.n < 60);
    for (t.at = 1; t.at <= S.n; t.at++) {
        char note[200];
        di_cost cost;
        t.steps = 0;
        for (int k = 0; k < 2; k++) {
            EQUAL(di_run_open(ctx, di_solver_find("dmplug"), prior, p, &t.run), DI_OK);
            set_all(t.run, settings);
            di_run_report(t.run, k ? NULL : save_at, &t);
            if (k)
                EQUAL(di_run_load(t.run, tape_read, &t, t.n), DI_OK);
            EQUAL(di_run_go(t.run, Y2, 8, 0, 1, x), k ? DI_OK : DI_EINTERRUPTED);
            di_clear(ctx);
            cost = di_run_cost(t.run);
            snprintf(note, sizeof note, "%s", di_run_note(t.run));
            di_run_close(t.run);
        }
        EQUAL(t.steps, t.at);
        CHECK(same(x, whole, 3));
        SAYS(note, j.note);
        CHECK(memcmp(&cost, &j.cost, sizeof cost) == 0);
    }
}

/* ---- The official program (tests/vectors/README.md) -------------------------------------- */

enum { SIDE = 32, PICTURE = 3 * SIDE * SIDE };
typedef struct official {
    io_array z, loss;
    const int *after;       /* the updates that z shows */
    double off_z, off_loss; /* the tolerances in float */
    double most_z, most_loss;
} official;

static double off(const di_real *got, const di_real *want)
{
    static double w[PICTURE];
    for (int i = 0; i < PICTURE; i++)
        w[i] = want[i];
    return worst(got, w, PICTURE);
}

static int compare(void *user, const di_step *s)
{
    official *o = user;
    double l = fabs(s->residual * s->residual / o->loss.v[s->step - 1] - 1);
    NEAR(l, 0, BOUND(o->off_loss, 1e-9));
    o->most_loss = larger(o->most_loss, l);
    for (size_t i = 0; i < o->z.n; i++)
        if (o->after[i] == s->step) {
            double d = off(s->x, o->z.v + i * PICTURE);
            NEAR(d, 0, BOUND(o->off_z, 1e-9));
            o->most_z = larger(o->most_z, d);
        }
    return SLOW && s->step == 1;
}

/* Their own float32 run lies within 6e-6 in z, 1.4e-5 in x and 6e-7 in the loss of the double
   one; with lr=0.3 and clipping within 1.8e-4 and 6e-6. */
static void test_official(void)
{
    static const int ten[] = { 1, 2, 5, 10 }, four[] = { 2, 4 };
    static const struct { const char *name, *y, *settings; const int *after; double z, loss; }
    task[] = { { "dmplug_inpaint", "dps_inpaint.y", "es=no iters=10", ten, 1e-4, 1e-4 },
               { "dmplug_sr", "dps_sr.y", "es=no iters=10", ten, 1e-4, 1e-4 },
               { "dmplug_clip", "dps_inpaint.y", "es=no iters=4 lr=0.3", four, 3e-4, 1e-4 } };
    static di_real mask[SIDE * SIDE], x[PICTURE];
    static float normals[PICTURE];
    di_problem *problem[2];
    if (SLOW)
        printf("note: with tcc one official DMPlug run is followed, for one step\n");
    for (int i = 0; i < SIDE * SIDE; i++) {
        int r = i / SIDE, c = i % SIDE;
        mask[i] = !(r >= 10 && r <= 21 && c >= 9 && c <= 20);
    }
    EQUAL(di_problem_inpaint(ctx, 3, SIDE, SIDE, mask, &problem[0]), DI_OK);
    EQUAL(di_problem_sr(ctx, 3, SIDE, SIDE, 4, DI_SR_BICUBIC, &problem[1]), DI_OK);
    di_prior *prior = network(SIDE);
    io_array noise = vector("dps.noise", "");
    for (int i = 0; noise.v && i < PICTURE; i++)
        normals[i] = (float)noise.v[i];
    for (int k = 0; k < (SLOW ? 1 : 3) && prior && noise.v; k++) {
        char name[40];
        in_case("%s", task[k].name);
        io_array y = vector(task[k].y, ""), rec = { 0 };
        official o = { .after = task[k].after, .off_z = task[k].z, .off_loss = task[k].loss };
        snprintf(name, sizeof name, "%s.z", task[k].name);
        o.z = vector(name, "");
        snprintf(name, sizeof name, "%s.loss", task[k].name);
        o.loss = vector(name, "");
        snprintf(name, sizeof name, "%s.x", task[k].name);
        if (k < 2)
            rec = vector(name, "");
        job j = { .solver = "dmplug",
                  .settings = task[k].settings, .prior = prior, .problem = problem[k == 1],
                  .y = y.v, .noise = normals, .count = PICTURE, .report = compare, .user = &o };
        if (CHECK(y.v && o.z.v && o.loss.v && (k == 2 || rec.v) && o.z.n == (k < 2 ? 4 : 2))) {
            EQUAL(solve(&j, x), SLOW ? DI_EINTERRUPTED : DI_OK);
            di_clear(ctx);
            double most = k < 2 && !SLOW ? off(x, rec.v) : 0;
            NEAR(most, 0, BOUND(1e-4, 1e-9));
            snprintf(where, sizeof where, "%s against the official program, z", task[k].name);
            figure(where, o.most_z);
            snprintf(where, sizeof where, "%s, loss", task[k].name);
            figure(where, o.most_loss);
            snprintf(where, sizeof where, "%s, picture", task[k].name);
            figure(where, most);
        }
        io_free(&y);
        io_free(&rec);
        io_free(&o.z);
        io_free(&o.loss);
    }
    io_free(&noise);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    EQUAL(di_open(&ctx, NULL, NULL), DI_OK);
    test_gain();
    test_flow();
    test_twin();
    test_affine();
    test_descent();
    test_peak();
    test_symmetry();
    test_gradient();
    test_clip();
    test_recompute();
    test_head();
    test_variance();
    test_contraction();
    test_valley();
    test_patience();
    test_early();
    test_failures();
    test_samples();
    test_resume();
    test_official();
    SAYS(di_error(ctx), "");
    di_close(ctx);
    return finish();
}
