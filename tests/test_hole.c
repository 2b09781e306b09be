/* test_hole.c: black-hole imaging: visibilities, closures, loss and scores against the official
   program's numbers, their derivatives, what closures leave unchanged, the coverage and its
   noise. */
#define DIFFINV_KERNELS
#include "run.h"
#include "../tools/make_hole.h"
#include "../tools/score.h"
#include "../tools/view_hole.h"

#include <stdlib.h>
#include <time.h>

enum { SIDE = 64, N = SIDE * SIDE, M = 189, A = 122, B = 107, ALL = 2 * (M + A + B) + 1 };
static const double PI = 3.14159265358979323846;

/* An array of doubles, tests/vectors/hole_NAME.npy, which must hold n. */
static void reference(const char *name, double *out, size_t n)
{
    char path[80];
    unsigned char b[10], v[8];
    snprintf(path, sizeof path, "tests/vectors/hole_%s.npy", name);
    FILE *f = fopen(path, "rb");
    size_t got = 0;
    if (f && fread(b, 1, 10, f) == 10 && !fseek(f, b[8] + 256 * b[9], SEEK_CUR))
        for (; got < n && fread(v, 1, 8, f) == 8; got++) {
            uint64_t bits = 0;
            for (int i = 7; i >= 0; i--)
                bits = bits << 8 | v[i];
            memcpy(&out[got], &bits, sizeof bits);
        }
    if (f)
        fclose(f);
    in_case("%s", path);
    EQUAL(got, n);
    in_case("%s", "");
}

/* The picture of the references: a ring, brighter on the right. Nothing but + - * / sqrt, then
   rounded to float, so every program has the same bits. */
static void picture(di_real *x, double row, double column)
{
    for (int i = 0; i < N; i++) {
        double r = i / SIDE - row, c = i % SIDE - column, rho = sqrt(r * r + c * c);
        double q = (rho - 8) / 2.5;
        q *= q;
        x[i] = (di_real)(float)(2 * ((0.6 + 0.4 * c / (rho + 1)) / (1 + q * q)) - 1);
    }
}

/* 3 columns to the right, around the edge, then three quarters: the loss's picture. */
static void moved(const di_real *x, di_real *z)
{
    for (int i = 0; i < N; i++)
        z[i] = (di_real)0.75 * x[i / SIDE * SIDE + (i % SIDE + SIDE - 3) % SIDE];
}

/* "key=value key=value" */
static di_problem *problem(make_spec *spec, const char *settings)
{
    static char word[8][64];
    di_problem *p = NULL;
    EQUAL(make_begin(ctx, spec, "blackhole"), DI_OK);
    for (int i = 0; *settings; i++) {
        size_t n = strcspn(settings, " "), eq = strcspn(settings, "=");
        snprintf(word[i], sizeof word[i], "%.*s", (int)n, settings);
        word[i][eq] = 0;
        EQUAL(make_set(ctx, spec, word[i], word[i] + eq + 1), DI_OK);
        settings += n + (settings[n] == ' ');
    }
    make_problem(ctx, spec, 1, SIDE, SIDE, &p);
    return p;
}

static double far(const double *got, const double *want, size_t n)
{
    double d = 0, top = 0;
    for (size_t i = 0; i < n; i++) {
        d = larger(d, fabs(got[i] - want[i]));
        top = fabs(want[i]) > top ? fabs(want[i]) : top;
    }
    return d / top;
}

static double turned(double a) { return fabs(a - 2 * PI * floor(a / (2 * PI) + 0.5)); }

/* ---- The angle --------------------------------------------------------------------------- */

/* Against libm's long double: where that is no longer than double this allows half an ulp
   more. */
static void test_angle(void)
{
    double most = 0;
    for (size_t i = 0; i < 200000; i++) {
        double y = value_at(i, 7), x = value_at(i, 8);
        y *= i % 3 == 0 ? 1e-3 : i % 3 == 1 ? 100 : 1;
        if (i % 7 == 0) {
            x = ldexp(x, -900);
            y = ldexp(y, -905);
        }
        long double want = atan2l(y, x);
        double top = fabs((double)want), ulp = nextafter(top, HUGE_VAL) - top;
        double d = (double)fabsl(di_atan2(y, x) - want) / ulp;
        most = larger(most, d);
    }
    NEAR(most, 0, 2);
    figure("angle: ulp", most);
    const double odd[] = {0.0, -0.0, 1, -1, HUGE_VAL, -HUGE_VAL, 1e308, -1e308};
    for (int i = 0; i < 8; i++)
        for (int k = 0; k < 8; k++) {
            double got = di_atan2(odd[i], odd[k]), want = atan2(odd[i], odd[k]);
            NEAR(got, want, 1e-15);
            EQUAL(signbit(got) != 0, signbit(want) != 0);
        }
    CHECK(di_atan2(0.0 * HUGE_VAL, 1) != di_atan2(0.0 * HUGE_VAL, 1));
}

/* ---- The official programs' numbers ------------------------------------------------------ */

/* The coverage is rounded to 15 digits; theirs has pi to 13 digits in its angles. */
static void test_coverage(void)
{
    static double uv[3 * M], set[3 * A + 4 * B], got[3 * M];
    make_spec spec;
    hole_uv o;
    reference("uv", uv, 3 * M);
    reference("set", set, 3 * A + 4 * B);
    problem(&spec, "");
    EQUAL(hole_open(ctx, &spec, &o), DI_OK);
    EQUAL(o.rows, M);
    EQUAL(o.tri, A);
    EQUAL(o.quad, B);
    EQUAL(o.scans, 15);
    if (o.rows != M || o.tri != A || o.quad != B)
        return;
    for (int i = 0; i < M; i++) {
        got[3 * i] = o.row[i].u;
        got[3 * i + 1] = o.row[i].v;
        got[3 * i + 2] = o.row[i].sigma / 0.004;
    }
    figure("coverage: u, v", far(got, uv, 3 * M));
    NEAR(far(got, uv, 3 * M), 0, 2e-11);
    for (int i = 0; i < M; i++)
        NEAR(got[3 * i + 2], uv[3 * i + 2], 2e-15 * uv[3 * i + 2]);
    for (int i = 0; i < 3 * A; i++)
        EQUAL(o.triangle[i], set[i]);
    for (int i = 0; i < 4 * B; i++)
        EQUAL(o.quadrangle[i], set[3 * A + i]);
    hole_free(&o);
}

/* The problem with their coverage to the last bit; scores and loss as in their program. */
static di_problem *official(void)
{
    static double uv[3 * M], pair[2 * M], sigma[M], set[3 * A + 4 * B];
    static int triangle[3 * A], quadrangle[4 * B];
    di_problem *p;
    reference("uv", uv, 3 * M);
    reference("set", set, 3 * A + 4 * B);
    for (int i = 0; i < M; i++) {
        pair[2 * i] = uv[3 * i];
        pair[2 * i + 1] = uv[3 * i + 1];
        sigma[i] = uv[3 * i + 2];
    }
    for (int i = 0; i < 3 * A; i++)
        triangle[i] = (int)set[i];
    for (int i = 0; i < 4 * B; i++)
        quadrangle[i] = (int)set[3 * A + i];
    di_hole o = {M, A, B, 160 * PI / 180 / 3600e6 / SIDE, pair, sigma, triangle, quadrangle,
                 {0, 1, 1, 0.5}};
    EQUAL(di_problem_blackhole(ctx, SIDE, SIDE, &o, &p), DI_OK);
    return p;
}

static void test_official(void)
{
    static di_real x[N], z[N], y[ALL], q[ALL], half[N], seen[ALL], from[N];
    static double v[2 * M], want[ALL], g[64], mine[64], score[19], chi2[4], psnr[5];
    di_problem *p = official();
    picture(x, 30, 33.5);
    moved(x, z);
    reference("v", want, 2 * M);
    di_hole_vis(p, x, v);
    figure("official: V", far(v, want, 2 * M));
    NEAR(far(v, want, 2 * M), 0, 1e-12);
    reference("ax", want, ALL);
    EQUAL(di_apply(p, 1, x, seen), DI_OK);
    static const int part[7] = {M, M, A, A, B, B, 1};
    static const char *const name[7] = {"amp", "sig_amp", "cp", "sig_cp", "lca", "sig_lca",
                                        "flux"};
    for (int k = 0, at = 0; k < 7; at += part[k++]) {
        in_case("%s", name[k]);
        double d = worst(seen + at, want + at, (size_t)part[k]);
        figure(name[k], d);
        NEAR(d, 0, BOUND(1e-7, 1e-11));
    }
    in_case("%s", "");
    reference("y", want, ALL);
    for (int i = 0; i < ALL; i++)
        y[i] = (di_real)want[i];
    reference("gx", g, 64);
    reference("score", score, 15);
    double loss = di_misfit(p, z, y, half, q);
    for (int i = 0; i < 64; i++)
        mine[i] = 2 * half[(3 + i / 8 * 8) * SIDE + 4 + i % 8 * 8];
    figure("official: loss", loss / score[0] - 1);
    figure("official: gradient", far(mine, g, 64));
    NEAR(loss / score[0], 1, BOUND(1e-7, 1e-11)); /* z is rounded in float */
    NEAR(far(mine, g, 64), 0, BOUND(1e-7, 1e-11));
    di_hole_chi2(p, z, y, chi2);
    for (int k = 0; k < 4; k++)
        NEAR(chi2[k] / score[2 + k], 1, BOUND(1e-7, 1e-11));
    EQUAL(score_hole_chi2(p, z, y, chi2), 0);
    EQUAL(score_hole_chi2(p, x, y, chi2 + 2), 0);
    for (int k = 0; k < 4; k++) /* the rescaled picture is rounded to a float */
        NEAR(chi2[k] / score[6 + k], 1, BOUND(1e-5, 1e-11));
    EQUAL(score_hole_psnr(z, x, SIDE, SIDE, 2.5, psnr), 0);
    for (int k = 0; k < 5; k++)
        NEAR(psnr[k], score[10 + k], BOUND(1e-7, 1e-9));
    /* The loss of a measurement is that of its image; its half-gradient leads back to x. */
    EQUAL(di_apply(p, 1, z, q), DI_OK);
    NEAR(p->loss(p, q, y, q) / loss, 1, BOUND(1e-5, 1e-13));
    EQUAL(di_apply_vjp(p, 1, z, q, from), DI_OK);
    double top = 0, off = 0;
    for (int i = 0; i < N; i++) {
        top = fabs(half[i]) > top ? fabs(half[i]) : top;
        off = larger(off, fabs(from[i] - half[i]));
    }
    NEAR(off / top, 0, BOUND(1e-5, 1e-12));
    figure("loss of y: gradient", off / top);
}

/* ---- Derivatives ------------------------------------------------------------------------- */

/* Central differences along a random direction, in double: 1e-7 relative. */
static void test_derivative(void)
{
#ifdef DI_DOUBLE
    static di_real x[N], d[N], a[N], b[N], y[ALL], qa[ALL], qb[ALL], v[ALL], g[N];
    make_spec spec;
    di_problem *p = problem(&spec, "weights=1,1,1,0.5 noise=vis_thermal");
    picture(x, 30, 33.5);
    EQUAL(make_measure(ctx, &spec, p, 3, 0, x, y), DI_OK);
    picture(x, 32, 30);
    fill(d, N, 11);
    double h = 1e-5, along = 0;
    for (int i = 0; i < N; i++) {
        a[i] = x[i] + h * d[i];
        b[i] = x[i] - h * d[i];
    }
    double up = di_misfit(p, a, y, NULL, qa), down = di_misfit(p, b, y, NULL, qb);
    di_misfit(p, x, y, g, qa);
    for (int i = 0; i < N; i++)
        along += 2 * g[i] * d[i];
    figure("derivative: loss", (up - down) / (2 * h) / along - 1);
    NEAR((up - down) / (2 * h) / along, 1, 1e-7);
    di_apply(p, 1, a, qa);
    di_apply(p, 1, b, qb);
    static const int part[7] = {M, M, A, A, B, B, 1};
    for (int k = 0, at = 0; k < 7; at += part[k++]) { /* each kind of entry alone */
        double want = 0, got = 0;
        memset(v, 0, sizeof v);
        fill(v + at, (size_t)part[k], 12);
        for (int i = at; i < at + part[k]; i++) {
            double e = qa[i] - qb[i];
            if (k == 2) /* across the cut */
                e -= 2 * PI * floor(e / (2 * PI) + 0.5);
            want += v[i] * e / (2 * h);
        }
        di_apply_vjp(p, 1, x, v, g);
        for (int i = 0; i < N; i++)
            got += g[i] * d[i];
        in_case("entries %d", k);
        NEAR(got, want, 1e-7 * fabs(want));
        figure("derivative: entries", want != 0 ? got / want - 1 : 0);
    }
    in_case("%s", "");
#endif
}

/* A black picture, of which nothing is seen, gives numbers. */
static void test_black(void)
{
    static di_real x[N], y[ALL], q[ALL], g[N];
    make_spec spec;
    di_problem *p = problem(&spec, "weights=1,1,1,1 noise=none");
    picture(x, 30, 33.5);
    EQUAL(make_measure(ctx, &spec, p, 3, 0, x, y), DI_OK);
    for (int i = 0; i < N; i++)
        x[i] = -1;
    di_misfit(p, x, y, g, q);
    CHECK(di_finite(g, N));
    EQUAL(di_apply(p, 1, x, q), DI_OK);
    CHECK(di_finite(q, ALL));
}

/* A gradient that is no number leaves nothing behind, whatever the width: 12 is not whole. The
   scores of a picture with such a pixel are none. */
static void test_nan(void)
{
    enum { H = 9, W = 12 };
    static double uv[6] = {1e9, 2e9, -3e9, 1e9, 2e9, -3e9}, sigma[3] = {1, 1, 1};
    static int triangle[3] = {1, 2, 3};
    di_hole o = {3, 1, 0, 1e-11, uv, sigma, triangle, NULL, {1, 1, 0, 1}};
    di_problem *p;
    di_real x[H * W], y[9], again[9], v[9], g[H * W];
    EQUAL(di_problem_blackhole(ctx, H, W, &o, &p), DI_OK);
    fill(x, H * W, 5);
    for (int i = 0; i < 9; i++)
        v[i] = (di_real)(HUGE_VAL - HUGE_VAL);
    EQUAL(di_apply(p, 1, x, y), DI_OK);
    EQUAL(di_apply_vjp(p, 1, x, v, g), DI_OK);
    CHECK(!di_finite(g, H * W));
    EQUAL(di_apply(p, 1, x, again), DI_OK);
    CHECK(di_finite(y, 9) && same(y, again, 9));
    double psnr[HOLE_PSNRS];
    x[H * W / 2] = v[0];
    EQUAL(score_hole_psnr(x, x, H, W, 2.5, psnr), 0);
    for (int k = 0; k < HOLE_PSNRS; k++)
        CHECK(psnr[k] != psnr[k]);
}

/* ---- What closures leave unchanged ------------------------------------------------------- */

static void check_closures(const di_real *a, const di_real *b, double tolerance)
{
    double cp = 0, lca = 0;
    for (int i = 0; i < A; i++) {
        double d = turned((double)a[2 * M + i] - (double)b[2 * M + i]);
        cp = d > cp ? d : cp;
    }
    for (int i = 0; i < B; i++) {
        double d = fabs((double)a[2 * M + 2 * A + i] - (double)b[2 * M + 2 * A + i]);
        lca = d > lca ? d : lca;
    }
    NEAR(cp, 0, tolerance);
    NEAR(lca, 0, tolerance);
    figure("closures: phase", cp);
    figure("closures: log amplitude", lca);
}

static void test_closures(void)
{
    static di_real x[N], z[N], clean[ALL], y[ALL], e[ALL];
    static double v[2 * M];
    make_spec spec;
    hole_uv o;
    di_problem *p = problem(&spec, "noise=eht");
    EQUAL(hole_open(ctx, &spec, &o), DI_OK);
    picture(x, 30, 33.5);
    di_apply(p, 1, x, clean);
    double flux = di_hole_vis(p, x, v);
    for (int i = 0; i < M; i++) { /* a phase and a gain of each station and scan */
        int a = 8 * o.row[i].scan + o.row[i].a, b = 8 * o.row[i].scan + o.row[i].b;
        double turn = PI * (value_at((size_t)b, 5) - value_at((size_t)a, 5));
        double gain = (1.5 + value_at((size_t)a, 6)) * (1.5 + value_at((size_t)b, 6));
        double re = v[2 * i], im = v[2 * i + 1];
        double c = gain * di_cos(turn), s = gain * di_sin(turn);
        v[2 * i] = re * c - im * s;
        v[2 * i + 1] = re * s + im * c;
    }
    di_hole_measure(p, v, NULL, flux, y);
    in_case("station errors");
    check_closures(y, clean, BOUND(1e-6, 1e-10));
    hole_free(&o);
    /* The program's noise: eht is vis_thermal with station errors after it. */
    di_problem *q;
    make_spec thermal;
    EQUAL(make_measure(ctx, &spec, p, 3, 2, x, y), DI_OK);
    q = problem(&thermal, "noise=vis_thermal");
    EQUAL(make_measure(ctx, &thermal, q, 3, 2, x, e), DI_OK);
    in_case("eht against vis_thermal");
    check_closures(y, e, BOUND(2e-6, 1e-10));
    CHECK(!same(y, e, M) && !same(y + M, e + M, M));
    for (int i = 0; i < A; i++) /* sigma / |V| has no gain */
        NEAR(y[2 * M + A + i], e[2 * M + A + i], BOUND(1e-6, 1e-12) * y[2 * M + A + i]);
    for (int i = 0; i < N; i++)
        z[i] = (di_real)((x[i] + 1) * (di_real)0.5 - 1);
    di_apply(p, 1, z, y);
    in_case("half the flux");
    check_closures(y, clean, BOUND(1e-6, 1e-10));
    NEAR(y[ALL - 1] / clean[ALL - 1], 0.5, 1e-6);
    for (int i = 0; i < N; i++) /* symmetric in the centre: V is real */
        z[i] = (x[i] + x[N - 1 - i]) / 2;
    di_apply(p, 1, z, y);
    in_case("symmetric");
    for (int i = 0; i < A; i++)
        NEAR(fabs(sin((double)y[2 * M + i])), 0, BOUND(1e-6, 1e-9));
    in_case("%s", "");
}

/* A shift by whole pixels of a picture that is 0 around them, exactly. */
static void test_shift(void)
{
    static di_real x[N], z[N], a[ALL], b[ALL];
    make_spec spec;
    di_problem *p = problem(&spec, "");
    for (int i = 0; i < N; i++)
        x[i] = z[i] = -1;
    for (int r = 0; r < 20; r++)
        for (int c = 0; c < 20; c++) {
            x[(20 + r) * SIDE + 20 + c] = (di_real)value_at((size_t)(20 * r + c), 3);
            z[(24 + r) * SIDE + 13 + c] = x[(20 + r) * SIDE + 20 + c];
        }
    di_apply(p, 1, x, a);
    di_apply(p, 1, z, b);
    in_case("a shift by 4, -7 pixels");
    check_closures(a, b, BOUND(1e-6, 1e-9));
    in_case("%s", "");
}

/* ---- Solvers ----------------------------------------------------------------------------- */

/* A loss of the problem's own that is the square. */
static double squares(const di_problem *p, const di_real *q, const di_real *y, di_real *half)
{
    for (int i = 0; i < p->y[2]; i++)
        half[i] = q[i] - y[i];
    return di_dot(half, half, (size_t)p->y[2]);
}

/* What solvers do with such a loss is what they do with none. CPS sums it over its particles in
   another order. */
static void test_solvers(void)
{
    static const struct {
        const char *name, *settings;
        double tolerance;
    } run[] = {
        {"dps", "steps=20 scale=0.5", 0}, {"dps_mo", "steps=10 n=5", 0},
        {"reddiff_mo", "steps=10 n=5", 0}, {"reddiff", "steps=20", 0},
        {"dmplug", "iters=5 es=no", 0}, {"scg", "steps=20 n=8", 0},
        {"cps", "steps=20 n=8", BOUND(1e-3, 1e-10)},
    };
    enum { D = 12, R = 5 };
    di_real a[R * D], mean[D], cov[D], y[R], x[2][D];
    di_problem *p;
    di_prior *prior;
    fill(a, R * D, 21);
    fill(mean, D, 22);
    fill(y, R, 23);
    for (int i = 0; i < D; i++)
        cov[i] = (di_real)0.3;
    EQUAL(di_problem_matrix(ctx, 1, 1, D, R, a, &p), DI_OK);
    EQUAL(di_prior_gauss(ctx, 1, 1, D, mean, cov, 0, &prior), DI_OK);
    for (size_t k = 0; k < sizeof run / sizeof run[0]; k++) {
        in_case("%s", run[k].name);
        for (int own = 0; own < 2; own++) {
            job j = {.solver = run[k].name, .settings = run[k].settings, .prior = prior,
                     .problem = p, .y = y, .seed = 9};
            p->loss = own ? squares : NULL;
            EQUAL(solve(&j, x[own]), DI_OK);
        }
        double d = 0, top = 0;
        for (int i = 0; i < D; i++) {
            d = larger(d, fabs(x[0][i] - x[1][i]));
            top = fabs(x[0][i]) > top ? fabs(x[0][i]) : top;
        }
        NEAR(d / top, 0, run[k].tolerance);
    }
    in_case("%s", "");
}

/* ---- Coverage and noise ------------------------------------------------------------------ */

/* A file's coverage, from text. */
static const char *written(const char *text)
{
    static char path[] = "build/test_hole.txt";
    FILE *f = fopen(path, "wb");
    if (f) {
        fputs(text, f);
        fclose(f);
    }
    return path;
}

static di_status open_text(const char *text, hole_uv *o, const char *weights)
{
    make_spec spec;
    make_begin(ctx, &spec, "blackhole");
    make_set(ctx, &spec, "uv", written(text));
    make_set(ctx, &spec, "weights", weights);
    return hole_open(ctx, &spec, o);
}

static void test_plans(void)
{
    hole_plan plan = HOLE_PLAN, later = HOLE_PLAN;
    char *a, *b;
    hole_uv o, day;
    EQUAL(hole_text(ctx, &plan, &a), DI_OK);
    EQUAL(open_text(a, &o, "0,1,1,0.5"), DI_OK);
    EQUAL(o.rows, M);
    double most = 0, near = 0;
    for (int i = 0; i < o.rows; i++) {
        double length = sqrt(o.row[i].u * o.row[i].u + o.row[i].v * o.row[i].v);
        int pair = !strcmp(hole_station("m87", o.row[i].a), "ALMA") &&
                   !strcmp(hole_station("m87", o.row[i].b), "APEX");
        most = length > most ? length : most;
        near = pair && length > near ? length : near;
    }
    CHECK(most * 299792458 / 230e9 <= 12800e3 && most > 7e9); /* the Earth's diameter */
    CHECK(near > 0 && near < 2.03e6);                         /* 2637 m */
    later.start += 24 / 1.00273790935;                        /* a sidereal day */
    later.mjd = plan.mjd;
    EQUAL(hole_text(ctx, &later, &b), DI_OK);
    EQUAL(open_text(b, &day, "0,1,1,0.5"), DI_OK);
    EQUAL(day.rows, o.rows);
    for (int i = 0; i < o.rows && i < day.rows; i++) {
        NEAR(day.row[i].u, o.row[i].u, 1);
        NEAR(day.row[i].v, o.row[i].v, 1);
    }
    hole_free(&o);
    hole_free(&day);
    free(a);
    free(b);
    plan.source = "sgra";
    plan.start = 9;
    plan.array = "eht2017";
    EQUAL(hole_text(ctx, &plan, &a), DI_OK);
    SAYS(a, "SPT"); /* the South Pole sees Sagittarius A*, never M87 */
    free(a);
    plan.scans = 1;
    plan.source = "m87";
    plan.start = 20;
    REFUSED(hole_text(ctx, &plan, &a), DI_EUSAGE, "no two stations see m87");
    CHECK(!strcmp(hole_station("m87", 0), "ALMA") && !strcmp(hole_station("m87", 1), "PV") &&
          !strcmp(hole_station("m87", 2), "LMT") && !hole_station("m87", 8));
}

/* The same baseline either way round, (u,v) negated: the same closures. */
static void test_swap(void)
{
    static di_real x[N], a[64], b[64];
    make_spec spec;
    di_problem *p;
    const char *one = "1 ALMA PV 5e9 1e9 0.01\n1 ALMA LMT 2e9 -3e9 0.02\n"
                      "1 PV LMT -3e9 -4e9 0.03\n";
    const char *two = "1 PV ALMA -5e9 -1e9 0.01\n1 ALMA LMT 2e9 -3e9 0.02\n"
                      "# and a comment\n\n1 LMT PV 3e9 4e9 0.03\n";
    picture(x, 30, 33.5);
    for (int k = 0; k < 2; k++) {
        make_begin(ctx, &spec, "blackhole");
        make_set(ctx, &spec, "uv", written(k ? two : one));
        EQUAL(make_problem(ctx, &spec, 1, SIDE, SIDE, &p), DI_OK);
        EQUAL(p->y[2], 2 * 3 + 2 + 1);
        di_apply(p, 1, x, k ? b : a);
    }
    for (int i = 0; i < 9; i++)
        NEAR(a[i], b[i], BOUND(1e-6, 1e-12) * (fabs(a[i]) + 1));
}

/* chi^2 without noise is 0; with it, at high signal to noise, 1 on average. */
static void test_chi2(void)
{
    static di_real x[N], y[ALL];
    static double v[2 * M];
    make_spec spec, clean;
    hole_uv o;
    di_problem *p = problem(&clean, "noise=none");
    double chi2[4], sum[2] = {0, 0}, count[2] = {0, 0};
    picture(x, 30, 33.5);
    EQUAL(make_measure(ctx, &clean, p, 1, 0, x, y), DI_OK);
    di_hole_chi2(p, x, y, chi2);
    for (int k = 0; k < 4; k++)
        NEAR(chi2[k], 0, BOUND(1e-6, 1e-20));
    p = problem(&spec, "noise=vis_thermal");
    EQUAL(hole_open(ctx, &spec, &o), DI_OK);
    di_real truth[ALL];
    di_apply(p, 1, x, truth);
    di_hole_vis(p, x, v);
    for (size_t k = 0; k < 100; k++) {
        EQUAL(make_measure(ctx, &spec, p, 5, k, x, y), DI_OK);
        for (int t = 0; t < A + B; t++) {
            int cp = t < A, weak = 0, at = cp ? 2 * M + t : 2 * M + 2 * A + t - A;
            for (int i = 0; i < (cp ? 3 : 4); i++) {
                int b = cp ? abs(o.triangle[3 * t + i]) - 1 : o.quadrangle[4 * (t - A) + i];
                weak |= sqrt(v[2 * b] * v[2 * b] + v[2 * b + 1] * v[2 * b + 1]) <
                        5 * o.row[b].sigma / 0.004;
            }
            double s = (double)y[at + (cp ? A : B)], d = (double)y[at] - (double)truth[at];
            if (weak)
                continue;
            sum[!cp] += (cp ? 2 * (1 - cos(d)) : d * d) / (s * s);
            count[!cp]++;
        }
    }
    NEAR(sum[0] / count[0], 1, 0.1);
    NEAR(sum[1] / count[1], 1, 0.1);
    figure("chi2: closure phases", sum[0] / count[0]);
    figure("chi2: log closure amplitudes", sum[1] / count[1]);
    hole_free(&o);
    /* independent noise of the entries themselves: sigma as it was drawn with */
    p = problem(&spec, "noise=gaussian weights=1,1,1,1");
    sum[0] = sum[1] = 0;
    for (size_t k = 0; k < 100; k++) {
        make_measure(ctx, &spec, p, 5, k, x, y);
        di_hole_chi2(p, x, y, chi2);
        sum[0] += chi2[0] / 100;
        sum[1] += chi2[2] / 100;
        NEAR(chi2[3], 0, 1e-6);
    }
    NEAR(sum[0], 1, 0.05);
    NEAR(sum[1], 1, 0.05);
}

/* ---- Bad input --------------------------------------------------------------------------- */

static void test_bad(void)
{
    static const struct {
        const char *text, *words;
    } bad[] = {
        {"", "no baseline in it"},
        {"# nothing\n\n", "no baseline in it"},
        {"1 ALMA PV 1e9 1e9\n", ":1: a line is TIME STATION STATION U V SIGMA"},
        {"1 ALMA PV 1e9 1e9 1 1\n", "six words"},
        {"\n1 ALMA XYZ 1e9 1e9 1\n", ":2: no station is named 'XYZ'"},
        {"1 ALMA ALMA 1e9 1e9 1\n", "joins two stations"},
        {"1 ALMA PV nan 1e9 1\n", "u, 'nan', is not a number"},
        {"1 ALMA PV 1e9 1e9 0\n", "sigma is 0"},
        {"1 ALMA PV 1e9 1e9 -1\n", "sigma is -1"},
        {"2 ALMA PV 1e9 1e9 1\n1 ALMA PV 1e9 1e9 1\n", ":2: the time goes back"},
        {"1 ALMA PV 1e9 1e9 1\n1 PV ALMA 1e9 1e9 1\n", "a second time"},
        {"1 ALMA PV 1e9 1e9 1\n", "is in no triangle"},
    };
    hole_uv o;
    make_spec spec;
    di_problem *p;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        in_case("uv %zu", i);
        di_status s = open_text(bad[i].text, &o, "0,1,1,0.5");
        hole_free(&o);
        REFUSED(s, DI_EINPUT, bad[i].words);
    }
    in_case("%s", "");
    EQUAL(open_text("1 ALMA PV 1e9 1e9 1\n", &o, "1,1,1,0.5"), DI_OK); /* |V| counts */
    hole_free(&o);
    REFUSED(open_text("1 ALMA PV 1e9 1e9 1\n", &o, "1,1,1"), DI_EUSAGE, "four numbers");
    make_begin(ctx, &spec, "blackhole");
    REFUSED(make_problem(ctx, &spec, 3, SIDE, SIDE, &p), DI_EINPUT, "1x64x64");
    REFUSED(make_problem(ctx, &spec, 1, 32, 32, &p), DI_EINPUT, "not 1x32x32");
    double uv[2] = {1e9, 1e9}, sigma[1] = {0};
    int triangle[3] = {1, 1, 2}, quad[4] = {0, 0, 0, -1};
    di_hole h = {1, 0, 0, 1e-11, uv, sigma, triangle, quad, {0, 1, 1, 0.5}};
    REFUSED(di_problem_blackhole(ctx, 8, 8, &h, &p), DI_EINPUT, "sigma 0");
    sigma[0] = 1;
    uv[1] = HUGE_VAL - HUGE_VAL;
    REFUSED(di_problem_blackhole(ctx, 8, 8, &h, &p), DI_EINPUT, "baseline 1");
    uv[1] = 0;
    h.tri = 1;
    REFUSED(di_problem_blackhole(ctx, 8, 8, &h, &p), DI_EINPUT, "no baseline 2");
    h.tri = 0;
    h.quad = 1;
    REFUSED(di_problem_blackhole(ctx, 8, 8, &h, &p), DI_EINPUT, "no baseline -1");
    h.quad = 0;
    h.pixel = 0;
    REFUSED(di_problem_blackhole(ctx, 8, 8, &h, &p), DI_EINPUT, "pixel");
    h.pixel = 1e-11;
    h.weight[2] = -1;
    REFUSED(di_problem_blackhole(ctx, 8, 8, &h, &p), DI_EINPUT, "weight 3");
    h.weight[2] = 0;
    EQUAL(di_problem_blackhole(ctx, 9, 5, &h, &p), DI_OK); /* one baseline, no closure */
    EQUAL(p->y[2], 3);
}

/* ---- Views ------------------------------------------------------------------------------- */

static void test_views(void)
{
    static di_real x[2 * N], y[ALL];
    io_array a = {2, 1, SIDE, SIDE, x, 1}, m = {1, 1, 1, ALL, y, 0}, out;
    make_spec spec;
    di_problem *p = problem(&spec, "noise=none");
    picture(x, 30, 33.5);
    EQUAL(make_measure(ctx, &spec, p, 1, 0, x, y), DI_OK);
    x[0] = -1;
    x[1] = 1;
    EQUAL(view_blackhole(ctx, &spec, &a, &out), 0);
    EQUAL(out.c, 3);
    CHECK(out.h >= 256 && out.w >= 512 && di_finite(out.v, out.c * out.h * out.w));
    io_free(&out);
    EQUAL(view_blackhole(ctx, &spec, &m, &out), 0);
    EQUAL(out.h, 513);
    size_t mid = 256 * 513 + 256, plane = 513 * 513; /* ALMA-APEX: all of the flux, white */
    for (size_t k = 0; k < 3; k++)
        NEAR(out.v[k * plane + mid], 1, 0.05);
    for (size_t i = 0; i < 3 * plane; i++) /* V(-u,-v) is V conjugated */
        if (out.v[i] != out.v[i / plane * plane + plane - 1 - i % plane]) {
            CHECK(!"symmetric");
            break;
        }
    io_free(&out);
    m.w--;
    REFUSED(view_blackhole(ctx, &spec, &m, &out), DI_EINPUT, "not one of this coverage");
    a.c = 3;
    REFUSED(view_blackhole(ctx, &spec, &a, &out), DI_EINPUT, "neither");
}

/* ---- Bits and time ----------------------------------------------------------------------- */

static void test_bits(void)
{
    static di_real x[N], y[ALL], q[ALL], half[N];
    make_spec spec;
    di_problem *p = problem(&spec, "noise=eht");
    picture(x, 30, 33.5);
    EQUAL(make_measure(ctx, &spec, p, 7, 1, x, y), DI_OK);
    picture(x, 32, 30);
    di_misfit(p, x, y, half, q);
    uint32_t crc = io_crc32(io_crc32(0, y, sizeof y), half, sizeof half);
    const unsigned char one[2] = {1, 0};
    uint16_t low;
    memcpy(&low, one, 2);
    if (low == 1) /* the checksum is of little-endian bytes */
        EQUAL(crc, BOUND(2271077419u, 4247957129u));
    double least = 1e9;
    for (int k = 0; k < 20; k++) {
        clock_t from = clock();
        for (int i = 0; i < 5; i++)
            di_misfit(p, x, y, half, q);
        double t = (double)(clock() - from) / CLOCKS_PER_SEC / 5;
        least = t < least ? t : least;
    }
    figure("loss and gradient, ms", least * 1000);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    if (di_open(&ctx, NULL, NULL))
        return 1;
    test_angle();
    test_coverage();
    test_official();
    test_derivative();
    test_black();
    test_nan();
    test_closures();
    test_shift();
    test_solvers();
    test_plans();
    test_swap();
    test_chi2();
    test_bad();
    test_views();
    test_bits();
    di_close(ctx);
    remove("build/test_hole.txt");
    return finish();
}
