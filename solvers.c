/* solvers.c: schedules and one function per algorithm, to be read beside its paper. A solver
   shares nothing with another but the helpers of the first chapter. The table is at the end. */
#define DIFFINV_KERNELS
#include "diffinv.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ==== 1. A run and its helpers ============================================================ */

struct di_run {
    di_ctx *ctx;
    const di_solver *solver;
    di_prior *prior;
    const di_problem *problem;
    char value[DI_MAX_PARAM][32];
    di_report_fn report;
    void *user;
    const float *noise;          /* replayed normals, or NULL */
    size_t noise_count, noise_used;
    uint64_t seed, first;
    size_t n, d, m;              /* batch, elements of an image, of a measurement */
    size_t sample, samples;      /* DI_ONE_BY_ONE: the one under way, of how many */
    const di_real *y;
    di_real *out;                /* the caller's result: last good estimate */
    di_real *work, *next;        /* working memory, handed out by take */
    size_t elements;             /* of work */
    void *table;                 /* a solver's schedule, freed when it returns */
    double own[4];               /* a solver's numbers beside its arrays, saved with them */
    double *t;                   /* network times, as many as images in a network call */
    double *loss;                /* (n) of the last residual, of a problem with its own loss */
    double *pull;                /* (m), half (m): for such a one, of solvers with particles */
    di_real *half;
    int step, steps;
    double wmv;                  /* for the report */
    di_cost cost;
    char note[200];
    char *saved;                 /* a state to take up */
    size_t saved_size;
};

/* A numeric parameter. Values were checked when set. */
static double num(const di_run *run, const char *key)
{
    const char *s = di_run_get(run, key);
    double v = 0;
    di_parse(s, strlen(s), &v);
    return v;
}

static int is(const di_run *run, const char *key, const char *word)
{
    return strcmp(di_run_get(run, key), word) == 0;
}

/* The next `size` elements per sample of the working memory. */
static di_real *take(di_run *run, size_t size)
{
    di_real *p = run->next;
    run->next += run->n * size;
    return p;
}

/* A solver's table of numbers, zeroed; one each run. */
static void *table(di_run *run, size_t count, size_t size)
{
    return run->table = di_new(run->ctx, count, size);
}

/* z (n,size) = N(0,1), draw number `draw` of the stream; replayed noise is read in order. */
static void normal(di_run *run, di_real *z, size_t size, uint32_t stream, uint32_t draw)
{
    for (size_t i = 0; !run->noise && i < run->n; i++)
        di_normal(z + i * size, size, run->seed, stream,
                  run->first + run->sample + i, draw);
    for (size_t i = 0; run->noise && i < size; i++) {
        if (run->noise_used >= run->noise_count) {
            di_fail(run->ctx, DI_EUSAGE, "%s: the noise file ran out after %.0f values, at "
                    "step %d of %d", run->solver->name, (double)run->noise_count, run->step + 1,
                    run->steps);
            return;
        }
        z[i] = run->noise[run->noise_used++];
    }
}

/* A draw that the official program makes and discards. */
static void discard(di_run *run, size_t size)
{
    size_t left = run->noise_used < run->noise_count ? run->noise_count - run->noise_used : 0;
    if (run->noise)
        run->noise_used += size < left ? size : left;
}

/* A prior of the caller's own fails without a text. */
static di_status heed(di_run *run, di_status s)
{
    if (s && !run->ctx->status)
        di_fail(run->ctx, s, "%s: the prior failed at step %d of %d", run->solver->name,
                run->step + 1, run->steps);
    return s;
}

/* eps of n images x at time t; v: the variance head or NULL. */
static di_status predict(di_run *run, size_t n, double t, const di_real *x, di_real *eps,
                         di_real *v, int keep)
{
    if (run->ctx->status)
        return run->ctx->status;
    for (size_t i = 0; i < n; i++)
        run->t[i] = t;
    run->cost.net += n;
    return heed(run, run->prior->eval(run->prior, n, run->t, x, eps, v, keep));
}

/* gx = J^T geps of the pass kept under that number. */
static di_status predict_vjp(di_run *run, int keep, const di_real *geps, di_real *gx)
{
    if (run->ctx->status)
        return run->ctx->status;
    run->cost.net_vjp += run->n;
    return heed(run, run->prior->vjp(run->prior, keep, geps, gx));
}

/* The denoiser in the noise-level frame, x = x_0 + sigma N: x0 = D(x; sigma) of n images, by
   the VP preconditioning of arXiv 2206.00364: D = x - sigma eps(x/sqrt(1+sigma^2), time).
   x0 is not x. */
static di_status denoise(di_run *run, size_t n, double sigma, const di_real *x, di_real *x0)
{
    const char *rule = di_run_get(run, "time");
    int continuous = !rule || rule[0] == 'a' ? run->prior->continuous : rule[0] == 'c';
    di_real c_in = (di_real)(1 / sqrt(1 + sigma * sigma));
    for (size_t i = 0; i < n * run->d; i++)
        x0[i] = c_in * x[i];
    predict(run, n, di_prior_time(run->prior, sigma, continuous), x0, x0, NULL, 0);
    for (size_t i = 0; i < n * run->d; i++)
        x0[i] = x[i] - (di_real)sigma * x0[i];
    return run->ctx->status;
}

/* r = y - A(x0), per sample; y is shared. For a problem with a loss L of its own r = minus half
   of dL/dA, which for the square is the same, and run->loss keeps L. */
static void residual(di_run *run, const di_real *x0, di_real *r)
{
    const di_problem *p = run->problem;
    di_apply(p, run->n, x0, r);
    run->cost.apply += run->n;
    for (size_t j = 0; j < run->n; j++) {
        di_real *q = r + j * run->m;
        if (p->loss)
            run->loss[j] = p->loss(p, q, run->y, q);
        for (size_t i = 0; i < run->m; i++)
            q[i] = p->loss ? -q[i] : run->y[i] - q[i];
    }
}

/* sqrt(L) of sample j, the norm of its residual */
static double norm_of(const di_run *run, size_t j, const di_real *r)
{
    r += j * run->m;
    return sqrt(run->problem->loss ? run->loss[j] : di_dot(r, r, run->m));
}

/* and for reports, per entry: that of the first sample */
static double rms_of(const di_run *run, size_t j, const di_real *r)
{
    return run->problem->loss ? sqrt(run->loss[j] / (double)run->m)
                              : di_rms(r + j * run->m, run->m);
}

/* start=pinv: mu = A^+ y at the start of a run, where the problem has one; else mu stays 0. */
static void pinv_start(di_run *run, di_real *mu)
{
    if (run->step || !run->problem->pinv || !is(run, "start", "pinv"))
        return;
    for (size_t j = 0; j < run->n; j++)
        di_apply_pinv(run->problem, 1, run->y, mu + j * run->d);
}

/* gx = A'(x)^T r, per sample */
static void back(di_run *run, const di_real *x, const di_real *r, di_real *gx)
{
    di_apply_vjp(run->problem, run->n, x, r, gx);
    run->cost.apply_vjp += run->n;
}

/* Adam (Kingma & Ba, arXiv 1412.6980v9, Alg. 1) in the form of torch.optim.Adam: the root of
   the second moment is bias-corrected before eps = 1e-8 is added. */
typedef struct adam {
    di_real *m, *v; /* moments, zero at the start */
    double lr, beta1, beta2;
} adam;

/* x -= step k = 1, 2, ... along g; all (n) */
static void adam_step(const adam *a, int k, const di_real *g, di_real *x, size_t n)
{
    double left1 = 1, left2 = 1;
    for (int i = 0; i < k && left2 > 1e-40; i++) {
        left1 *= a->beta1;
        left2 *= a->beta2;
    }
    for (size_t i = 0; i < n; i++) {
        a->m[i] = (di_real)(a->beta1 * a->m[i] + (1 - a->beta1) * g[i]);
        a->v[i] = (di_real)(a->beta2 * a->v[i] + (1 - a->beta2) * g[i] * g[i]);
        double root = sqrt(a->v[i]) / sqrt(1 - left2) + 1e-8;
        x[i] -= (di_real)(a->lr / (1 - left1) * a->m[i] / root);
    }
}

/* Ends a step: x0 is checked and kept as the estimate, the caller told. resid: of the first
   sample, or -1. Returns not DI_OK to stop. */
static di_status done(di_run *run, double t, double sigma, double resid, const di_real *x,
                      const di_real *x0)
{
    if (run->ctx->status)
        return run->ctx->status;
    run->step++;
    if (!di_finite(x, run->n * run->d) || !di_finite(x0, run->n * run->d))
        return di_fail(run->ctx, DI_ENUMERIC, "%s: NaN or Inf in the %s at step %d of %d (t = "
                       "%g); the last good estimate is kept", run->solver->name,
                       di_finite(x0, run->n * run->d) ? "iterate" : "estimate", run->step,
                       run->steps, t);
    memcpy(run->out, x0, run->n * run->d * sizeof *x0);
    di_step s = { run->step, run->steps, t, sigma, resid, run->wmv, x, x0 };
    if (run->report && run->report(run->user, &s))
        return di_fail(run->ctx, DI_EINTERRUPTED, "%s: stopped at step %d of %d",
                       run->solver->name, run->step, run->steps);
    return DI_OK;
}

static di_status finish(di_run *run, const di_real *x)
{
    if (!di_finite(x, run->n * run->d))
        return di_fail(run->ctx, DI_ENUMERIC, "%s: NaN or Inf in the result; the last good "
                       "estimate is kept", run->solver->name);
    memcpy(run->out, x, run->n * run->d * sizeof *x);
    return DI_OK;
}

/* ==== 2. Schedules ===========================================================================
   The discrete one: K kept of T steps, every table rebuilt from the kept abar (Nichol &
   Dhariwal 2021, arXiv 2102.09672; rules as in openai/guided-diffusion respace.py), or K levels
   between those of the table (spacing=log, vp). Double throughout. */

typedef struct schedule {
    int K;
    double start;                       /* standard deviation of the first x */
    double *index, *beta, *abar, *prev; /* (K): original time; prev = abar one step earlier */
    double *btil, *log_btil;            /* posterior variance, its log clipped at index 0 */
} schedule;

static double round_even(double v)
{
    double r = floor(v + 0.5);
    return r - v == 0.5 && fmod(r, 2) != 0 ? r - 1 : r;
}

/* Kept index k of K: "even" rounds k (T-1)/(K-1); "ddim" strides by the smallest d that keeps
   exactly K. */
static di_status kept(di_run *run, int T, int K, double *index)
{
    if (K > T)
        return di_fail(run->ctx, DI_EUSAGE, "%s: steps=%d, but the prior has only %d",
                       run->solver->name, K, T);
    if (is(run, "spacing", "ddim")) {
        int d = 1;
        while (d < T && (T + d - 1) / d != K)
            d++;
        if (d == T && K != 1)
            return di_fail(run->ctx, DI_EUSAGE, "%s: no whole stride over %d steps keeps %d; "
                           "use spacing=even", run->solver->name, T, K);
        for (int k = 0; k < K; k++)
            index[k] = (double)k * d;
        return DI_OK;
    }
    double at = 0, stride = K > 1 ? (T - 1.0) / (K - 1) : 0;
    for (int k = 0; k < K; k++, at += stride)
        index[k] = round_even(at);
    return DI_OK;
}

/* The VP process of arXiv 2011.13456 with beta(t) = 0.1 + 19.9 t; sigma(t), and its inverse. */
static const double BETA_D = 19.9, BETA_0 = 0.1;
static double vp_sigma(double t) { return sqrt(di_exp(BETA_D * t * t / 2 + BETA_0 * t) - 1); }

static double vp_time(double sigma)
{
    return (sqrt(BETA_0 * BETA_0 + 2 * BETA_D * di_log(1 + sigma * sigma)) - BETA_0) / BETA_D;
}

/* Levels of devzhk/InverseBench's scheduler, noise first: log, sigma^2 geometric from 100 to
   0.01; vp, sigma(t) at even t from 1 to 0.001. The last step ends at level `final`. */
static void make_levels(di_run *run, schedule *s)
{
    double final = num(run, "final");
    for (int i = 0; i < s->K; i++) {
        int k = s->K - 1 - i;
        double part = s->K > 1 ? (double)i / (s->K - 1) : 0;
        double sigma = is(run, "spacing", "vp") ? vp_sigma(1 - part * (1 - 1e-3))
                       : 100 * di_exp(part * di_log(0.01 / 100));
        s->index[k] = di_prior_time(run->prior, sigma, run->prior->continuous);
        s->abar[k] = 1 / (1 + sigma * sigma);
    }
    for (int k = 0; k < s->K; k++) {
        s->prev[k] = k ? s->abar[k - 1] : 1 / (1 + final * final);
        s->beta[k] = 1 - s->abar[k] / s->prev[k];
    }
    s->start = sqrt(1 - s->abar[s->K - 1]);
}

static di_status make_schedule(di_run *run, schedule *s)
{
    const di_prior *p = run->prior;
    int K = s->K = run->steps = (int)num(run, "steps");
    s->index = table(run, 6 * (size_t)K, sizeof(double));
    if (!s->index)
        return DI_EMEMORY;
    s->start = 1;
    s->beta = s->index + K;
    s->abar = s->beta + K;
    s->prev = s->abar + K;
    s->btil = s->prev + K;
    s->log_btil = s->btil + K;
    if (is(run, "spacing", "log") || is(run, "spacing", "vp")) {
        make_levels(run, s);
        return DI_OK;
    }
    if (kept(run, p->steps, K, s->index))
        return run->ctx->status;
    double all = 1, last = 1, now = 1;
    for (int i = 0, k = 0; i < p->steps && k < K; i++) {
        all *= 1 - p->beta[i];
        if (i != (int)s->index[k])
            continue;
        s->beta[k] = 1 - all / last;
        s->prev[k] = now;
        now *= 1 - s->beta[k];
        s->abar[k] = now;
        s->btil[k] = s->beta[k] * (1 - s->prev[k]) / (1 - s->abar[k]);
        last = all;
        k++;
    }
    for (int k = 0; k < K; k++) /* btil[0] is 0: its log copies the next */
        s->log_btil[k] = di_log(s->btil[k ? k : K > 1 ? 1 : 0]);
    return DI_OK;
}

/* x0 = x/sqrt(abar) - sqrt(1/abar - 1) e, clamped to [-1,1] when clip. x0 may be e. */
static void estimate(const di_run *run, double abar, const di_real *x, const di_real *e,
                     int clip, di_real *x0)
{
    di_real a = (di_real)sqrt(1 / abar), b = (di_real)sqrt(1 / abar - 1);
    for (size_t i = 0; i < run->n * run->d; i++) {
        di_real u = a * x[i] - b * e[i];
        x0[i] = clip && u < -1 ? -1 : clip && u > 1 ? 1 : u;
    }
}

/* ==== 3. The interleaving template ===========================================================
   J. Sun, "Diffusion Models for Inverse Problems Done Right" (slides, 6 March 2025): reverse
   steps of the diffusion alternate with steps toward the measurement,
     l.1  x_T ~ N(0, I); for i = T-1, ..., 0:
     l.2    e = eps(x_i, i)
     l.3    x0 = (x_i - sqrt(1-abar) e) / sqrt(abar)
     l.4    x' = reverse step from x_i, x0
     l.5    x_{i-1} = correct(x', x0, y)
   A solver is a reverse step and up to three hooks: before the network sees x, on x0 (the
   projection kind), and on x' (the gradient kind). Without hooks it samples the prior. */

typedef struct inter {
    schedule s;
    int k;                             /* of the step under way, K-1 first */
    uint32_t draw;                     /* number of the step's own noise */
    double resid;                      /* for the report */
    di_real *x, *x0, *e, *v, *z, *g, *r; /* z, g: scratch */
} inter;

typedef struct hooks hooks;
struct hooks {
    int keep, head, spare;             /* wanted: a derivative; the variance head; v and g */
    void (*pre)(di_run *run, inter *it, const hooks *h);
    void (*correct_x0)(di_run *run, inter *it);
    void (*reverse)(di_run *run, inter *it);
    void (*correct_prev)(di_run *run, inter *it);
};

static void interleave_step(di_run *run, inter *it, const hooks *h, int k)
{
    it->k = k;
    predict(run, run->n, it->s.index[k], it->x, it->e, it->v, h->keep);     /* l.2 */
    estimate(run, it->s.abar[k], it->x, it->e, is(run, "clip", "yes"), it->x0); /* l.3 */
    if (h->correct_x0)
        h->correct_x0(run, it);                                             /* l.5 */
    h->reverse(run, it);                                                    /* l.4 */
    if (h->correct_prev)
        h->correct_prev(run, it);                                           /* l.5 */
}

static di_status interleave(di_run *run, const hooks *h)
{
    inter it = { .resid = -1 };
    if (make_schedule(run, &it.s))
        return run->ctx->status;
    it.x = take(run, run->d);
    it.x0 = take(run, run->d);
    it.e = take(run, run->d);
    it.z = take(run, run->d);
    it.v = h->head || h->spare ? take(run, run->d) : NULL;
    it.g = h->keep || h->spare ? take(run, run->d) : NULL;
    it.r = run->problem ? take(run, run->m) : NULL;
    if (!run->step) {
        normal(run, it.x, run->d, DI_STREAM_INIT, 0);                       /* l.1 */
        for (size_t i = 0; it.s.start != 1 && i < run->n * run->d; i++)
            it.x[i] *= (di_real)it.s.start;
    }
    for (int k = it.s.K - 1 - run->step; k >= 0 && !run->ctx->status; k--) {
        it.draw = (uint32_t)(it.s.K - k);
        it.k = k;
        if (h->pre)
            h->pre(run, &it, h);
        interleave_step(run, &it, h, k);
        done(run, it.s.index[k], sqrt((1 - it.s.abar[k]) / it.s.abar[k]), it.resid, it.x,
             it.x0);
    }
    di_real last = (di_real)sqrt(it.s.prev[0]); /* 1, unless final > 0 */
    for (size_t i = 0; last != 1 && i < run->n * run->d; i++)
        it.x[i] /= last;
    return run->ctx->status ? run->ctx->status : finish(run, it.x);
}

/* Variance rule: var=auto follows the prior. */
static int variance(const di_run *run)
{
    int v = is(run, "var", "auto") ? run->prior->variance
            : is(run, "var", "fixed_small") ? DI_VAR_FIXED_SMALL
            : is(run, "var", "fixed_large") ? DI_VAR_FIXED_LARGE : DI_VAR_LEARNED_RANGE;
    if (v == DI_VAR_LEARNED_RANGE && run->prior->variance != v)
        di_fail(run->ctx, DI_EUSAGE, "%s: var=learned_range, but this prior has no variance "
                "head; use fixed_large or fixed_small", run->solver->name);
    return v == DI_VAR_NONE ? DI_VAR_FIXED_LARGE : v;
}

/* Ancestral step (Ho et al. 2020, arXiv 2006.11239, eq. 7; variance of 2102.09672, eq. 15):
   x' = c1 x0 + c2 x + [k>0] exp(logvar/2) z. z is drawn also at k = 0, as the official programs
   do. */
static void ancestral(di_run *run, inter *it)
{
    const schedule *s = &it->s;
    int k = it->k, var = variance(run);
    double log_beta = di_log(s->beta[k]), log_btil = s->log_btil[k];
    di_real c1 = (di_real)(s->beta[k] * sqrt(s->prev[k]) / (1 - s->abar[k]));
    di_real c2 = (di_real)((1 - s->prev[k]) * sqrt(1 - s->beta[k]) / (1 - s->abar[k]));
    di_real std = (di_real)di_exp(0.5 * (var == DI_VAR_FIXED_LARGE && k ? log_beta : log_btil));
    normal(run, it->z, run->d, DI_STREAM_SOLVER, it->draw);
    for (size_t i = 0; i < run->n * run->d; i++) {
        di_real mean = c1 * it->x0[i] + c2 * it->x[i];
        if (var == DI_VAR_LEARNED_RANGE && k) {
            double f = (it->v[i] + 1.0) / 2;
            std = (di_real)di_exp(0.5 * (f * log_beta + (1 - f) * log_btil));
        }
        it->x[i] = k ? mean + std * it->z[i] : mean;
    }
}

/* DDPM: J. Ho, A. Jain, P. Abbeel, "Denoising Diffusion Probabilistic Models", arXiv
   2006.11239v2, Algorithm 2, with the learned variance and respacing of arXiv 2102.09672.
   Defaults of openai/guided-diffusion. */
static di_status ddpm(di_run *run)
{
    static const hooks h = { .head = 1, .reverse = ancestral };
    return interleave(run, &h);
}

/* DDIM: J. Song, C. Meng, S. Ermon, "Denoising Diffusion Implicit Models", arXiv 2010.02502v4,
   eq. 12 and 16: x' = sqrt(prev) x0 + sqrt(1-prev-sg^2) e' + [k>0] sg z. The noise direction
   e' = (x/sqrt(abar) - x0) / sqrt(1/abar - 1) is re-derived from the clipped x0, as
   openai/guided-diffusion does. */
static void implicit(di_run *run, inter *it)
{
    double abar = it->s.abar[it->k], prev = it->s.prev[it->k], eta = num(run, "eta");
    double sg = eta * sqrt((1 - prev) / (1 - abar)) * sqrt(1 - abar / prev);
    double turn = sqrt(1 - prev - sg * sg < 0 ? 0 : 1 - prev - sg * sg) / sqrt(1 / abar - 1);
    di_real a = (di_real)(sqrt(prev) - turn), b = (di_real)(turn / sqrt(abar));
    di_real c = (di_real)(it->k ? sg : 0);
    normal(run, it->z, run->d, DI_STREAM_SOLVER, it->draw);
    for (size_t i = 0; i < run->n * run->d; i++)
        it->x[i] = a * it->x0[i] + b * it->x[i] + c * it->z[i];
}

static di_status ddim(di_run *run)
{
    static const hooks h = { .reverse = implicit };
    return interleave(run, &h);
}

/* ==== 4. DPS: the gradient kind ==============================================================
   H. Chung, J. Kim, M. T. McCann, M. L. Klasky, J. C. Ye, "Diffusion Posterior Sampling for
   General Noisy Inverse Problems", arXiv 2209.14687v4, Algorithm 1; program:
   DPS2022/diffusion-posterior-sampling (ps conditioning, ddpm sampler).

   As their program, not their listing:
   - the step is scale * gradient of the norm, not of its square (zeta' of the paper = scale/2);
   - x0 is clamped inside the gradient (zero where it was clipped), and the ancestral mean uses
     the clamped x0; the gradient covers x0 only, not the mean or the variance head;
   - the correction is also made at t = 0, and the corrected iterate is the answer, not x0;
   - each step draws the noise of a noised measurement and discards it (noise files only).
   Ours: the norm is per image (theirs spans the batch and runs batches of 1); where the
   residual is 0 the gradient is 0 (theirs divides by zero); a prior without a variance head
   uses its fixed variance. */

/* g = d||y - A(x0)||/dx = -J^T A'^T r/rho, J = (I/sqrt(abar) - sqrt(1/abar-1) J_e) where x0 was
   not clipped. With a loss L of the problem's own it is d sqrt(L)/dx, as in InverseBench. */
static void dps_gradient(di_run *run, inter *it)
{
    double abar = it->s.abar[it->k];
    di_real a = (di_real)sqrt(1 / abar), b = (di_real)sqrt(1 / abar - 1);
    int clip = is(run, "clip", "yes");
    residual(run, it->x0, it->r);                                       /* y - A(x0) */
    for (size_t j = 0; j < run->n; j++) {
        di_real *r = it->r + j * run->m;
        double rho = norm_of(run, j, it->r);
        it->resid = j ? it->resid : rho / sqrt((double)run->m);
        for (size_t i = 0; i < run->m; i++)
            r[i] = rho > 0 ? (di_real)(r[i] / rho) : 0;
    }
    if (num(run, "scale") == 0)
        return;
    back(run, it->x0, it->r, it->z);
    for (size_t i = 0; i < run->n * run->d; i++) {
        di_real u = a * it->x[i] - b * it->e[i];                        /* x0 before the clip */
        it->g[i] = !clip || (u >= -1 && u <= 1) ? -it->z[i] : 0;
    }
    predict_vjp(run, 1, it->g, it->e);
    for (size_t i = 0; i < run->n * run->d; i++)
        it->g[i] = a * it->g[i] - b * it->e[i];
}

static void dps_step(di_run *run, inter *it)
{
    di_real scale = (di_real)num(run, "scale");
    discard(run, run->m);
    for (size_t i = 0; scale != 0 && i < run->n * run->d; i++)
        it->x[i] -= scale * it->g[i];                                   /* Alg.1 l.7 */
}

static di_status dps(di_run *run)
{
    static const hooks h = { .keep = 1, .head = 1, .correct_x0 = dps_gradient,
                             .reverse = ancestral /* Alg.1 l.5-6 */, .correct_prev = dps_step };
    return interleave(run, &h);
}

/* ==== 5. DDNM: the projection kind ===========================================================
   Y. Wang, J. Yu, J. Zhang, "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space
   Model", arXiv 2212.00490v2, Algorithms 1 and 2 (time travel) and DDNM+ (eq. 17-19), as
   devzhk/InverseBench writes it; with sg the noise level sqrt((1-abar)/abar), sg' the next, s
   the singular value of a direction (1 for all of them with weight=one),
     lam = min(1, sg' s/sigma_y),  gam = sqrt(max(0, sg'^2 - (lam sigma_y/s)^2)),
     xhat = x0 + lam A^+ (y - A x0),
     x'/sqrt(abar') = xhat + sqrt(1-eta^2) (sg'/sg) (x/sqrt(abar) - xhat) + eta gam z.
   Deviations: levels of the prior's table and x0 clamped by default. InverseBench: weight=one
   spacing=log final=0.01 clip=no travel=1; one weight amplifies noise where s is small. With
   its VP scaling (spacing=vp) theirs mixes x, not x/sqrt(abar), with xhat: mix=scaled. */

/* z = V diag(w) V^T z, w = lam, or with noise eta gam; level: sg'. g holds the s of the run's
   problem, v is scratch. */
static void ddnm_weigh(di_run *run, inter *it, double level, int noise, di_real *z)
{
    double sigma_y = num(run, "sigma_y"), eta = num(run, "eta");
    if (is(run, "weight", "one")) {
        double lam = level >= sigma_y ? 1 : level / sigma_y;
        double gam = level < sigma_y ? 0 : sqrt(level * level - sigma_y * sigma_y);
        for (size_t i = 0; i < run->n * run->d; i++)
            z[i] *= (di_real)(noise ? eta * gam : lam);
        return;
    }
    if (run->ctx->status)
        return;
    if (di_svd_values(run->problem, it->g) == DI_EUSAGE) {
        di_clear(run->ctx);
        di_fail(run->ctx, DI_EUSAGE, "ddnm: weight=each needs the SVD of the problem, which %s "
                "lacks: say weight=one", run->problem->name);
    }
    for (size_t j = 0; j < run->n; j++) {
        di_svd_vt(run->problem, z + j * run->d, it->v);
        for (size_t i = 0; i < run->d; i++) {
            double far = sigma_y > 0 && it->g[i] > 0 ? sigma_y / it->g[i] : 0;
            double lam = level >= far ? 1 : level / far;
            double gam = level < far ? 0 : sqrt(level * level - far * far);
            it->v[i] *= (di_real)(noise ? eta * gam : lam);
        }
        di_svd_v(run->problem, it->v, z + j * run->d);
    }
}

static void ddnm_project(di_run *run, inter *it)
{
    double prev = it->s.prev[it->k];
    residual(run, it->x0, it->r);
    di_apply_pinv(run->problem, run->n, it->r, it->z);
    ddnm_weigh(run, it, sqrt((1 - prev) / prev), 0, it->z);
    for (size_t i = 0; i < run->n * run->d; i++)
        it->x0[i] += it->z[i];                                          /* Alg.1 l.4 */
    residual(run, it->x0, it->r);
    it->resid = di_rms(it->r, run->m);
}

static void ddnm_reverse(di_run *run, inter *it)
{
    double abar = it->s.abar[it->k], prev = it->s.prev[it->k], eta = num(run, "eta");
    double sg = sqrt((1 - abar) / abar), next = sqrt((1 - prev) / prev);
    double turn = sqrt(1 - eta * eta) * next / sg;
    double unscale = is(run, "mix", "scaled") ? 1 : abar;
    di_real a = (di_real)(sqrt(prev) * (1 - turn)), b = (di_real)(sqrt(prev / unscale) * turn);
    di_real c = (di_real)sqrt(prev);
    normal(run, it->z, run->d, DI_STREAM_SOLVER, it->draw);
    ddnm_weigh(run, it, next, 1, it->z);
    for (size_t i = 0; i < run->n * run->d; i++)
        it->x[i] = a * it->x0[i] + b * it->x[i] + c * it->z[i];         /* Alg.1 l.5 */
}

/* Time travel: back to the level of `travel` steps ago, and down again, before every step.
   Draw numbers: the step's, plus K+1 for each step of the travel. */
static void ddnm_travel(di_run *run, inter *it, const hooks *h)
{
    int k = it->k, top = k + (int)num(run, "travel");
    uint32_t draw = it->draw;
    top = top < it->s.K ? top : it->s.K - 1;
    if (top == k) {
        discard(run, run->d); /* InverseBench draws it and multiplies it by 0 */
        return;
    }
    double keep = it->s.abar[top] / it->s.abar[k];
    it->draw = draw + ((uint32_t)it->s.K + 1) * (uint32_t)(top - k + 1);
    normal(run, it->z, run->d, DI_STREAM_SOLVER, it->draw);
    for (size_t i = 0; i < run->n * run->d; i++)
        it->x[i] = (di_real)sqrt(keep) * it->x[i] + (di_real)sqrt(1 - keep) * it->z[i];
    for (int j = top; j > k && !run->ctx->status; j--) {
        it->draw = draw + ((uint32_t)it->s.K + 1) * (uint32_t)(j - k);
        interleave_step(run, it, h, j);
    }
    it->k = k;
    it->draw = draw;
}

static di_status ddnm(di_run *run)
{
    static const hooks h = { .spare = 1, .pre = ddnm_travel, .correct_x0 = ddnm_project,
                             .reverse = ddnm_reverse };
    return interleave(run, &h);
}

/* ==== 6. The noise-level frame ===============================================================
   T. Karras, M. Aittala, T. Aila, S. Laine, "Elucidating the Design Space of Diffusion-Based
   Generative Models" (EDM), arXiv 2206.00364v2: x = s(t) (x_0 + sigma(t) N), the denoiser D,
     dx/dt = (s'/s) x - s^2 sigma' sigma score,  score = (D(x/s; sigma) - x/s) / (sigma^2 s).
   A grid of K steps, noise first; nodes 0..K. */

typedef struct grid {
    int K;
    double *t, *sigma, *s;
    double *shrink;  /* s'/s */
    double *rate;    /* s^2 sigma sigma' */
} grid;

static di_status grid_new(di_run *run, grid *g, int K)
{
    g->K = K;
    g->t = table(run, 5 * ((size_t)K + 1), sizeof(double));
    if (!g->t)
        return DI_EMEMORY;
    g->sigma = g->t + K + 1;
    g->s = g->sigma + K + 1;
    g->shrink = g->s + K + 1;
    g->rate = g->shrink + K + 1;
    run->steps = K;
    return DI_OK;
}

/* An empty last step is legal (InverseBench's final is its smin), rounding apart. */
static di_status grid_falls(di_run *run, const grid *g)
{
    double first = g->sigma[0], last = g->sigma[g->K - 1], final = g->sigma[g->K];
    if (!(g->K == 1 || last < first) || !(final <= last * (1 + 1e-9)))
        return di_fail(run->ctx, DI_EUSAGE, "%s: noise levels must fall, but go from %g to %g "
                       "to %g", run->solver->name, first, last, final);
    return DI_OK;
}

/* a^p, a >= 0 */
static double power(double a, double p) { return a > 0 ? di_exp(p * di_log(a)) : 0; }

/* EDM, eq. 5: sigma = t from smax to smin, even in sigma^(1/rho); then `final`. s = 1. */
static di_status grid_edm(di_run *run, grid *g, int K, double smax, double smin, double rho,
                          double final)
{
    if (grid_new(run, g, K))
        return DI_EMEMORY;
    double a = power(smax, 1 / rho), b = power(smin, 1 / rho);
    for (int i = 0; i <= K; i++) {
        g->t[i] = i == K ? final : i == 0 ? smax : i == K - 1 ? smin
                  : power(a + i / (K - 1.0) * (b - a), rho);
        g->sigma[i] = g->rate[i] = g->t[i];
        g->s[i] = 1;
    }
    return grid_falls(run, g);
}

/* The VP process at even t from 1 to 0.001, then at level `final` (0.01: InverseBench, CPS). */
static di_status grid_vp(di_run *run, grid *g, int K, double final)
{
    if (grid_new(run, g, K))
        return DI_EMEMORY;
    for (int i = 0; i <= K; i++) {
        double t = i == K ? vp_time(final) : 1 - (K > 1 ? i / (K - 1.0) : 0) * (1 - 1e-3);
        g->t[i] = t;
        g->sigma[i] = vp_sigma(t);
        g->s[i] = di_exp(-(BETA_D * t * t / 2 + BETA_0 * t) / 2);
        g->rate[i] = (BETA_D * t + BETA_0) / 2;
        g->shrink[i] = -g->rate[i];
    }
    return grid_falls(run, g);
}

/* sigma = sqrt(t), t geometric: the variance-exploding grid of arXiv 2011.13456, s = 1. */
static di_status grid_sqrt(di_run *run, grid *g, int K, double smax, double smin, double final)
{
    if (grid_new(run, g, K))
        return DI_EMEMORY;
    for (int i = 0; i <= K; i++) {
        double part = K > 1 ? i / (K - 1.0) : 0;
        g->t[i] = i == K ? final * final
                  : smax * smax * power(smin * smin / (smax * smax), part);
        g->sigma[i] = sqrt(g->t[i]);
        g->s[i] = 1;
        g->rate[i] = 0.5;
    }
    return grid_falls(run, g);
}

/* The first x of a run that begins: N(0, s^2 sigma^2) at the grid's start. */
static void grid_start(di_run *run, const grid *g, di_real *x)
{
    if (run->step)
        return;
    normal(run, x, run->d, DI_STREAM_INIT, 0);
    for (size_t i = 0; i < run->n * run->d; i++)
        x[i] *= (di_real)(g->sigma[0] * g->s[0]);
}

/* One step of the generic stepper of devzhk/InverseBench, from node i: with dt = t_i - t_{i+1},
     mean = (1 - (s'/s) dt) x + f score / (noisy ? 1 : 2),  f = max(0, 2 s^2 sigma sigma' dt).
   x0 = D(x/s; sigma) (n images); mean may be x. Returns f, the variance of the noisy step. */
static double grid_mean(di_run *run, const grid *g, int i, int noisy, const di_real *x,
                        di_real *x0, di_real *mean)
{
    double dt = g->t[i] - g->t[i + 1], f = 2 * g->rate[i] * dt, sigma = g->sigma[i];
    f = f > 0 ? f : 0;
    double lead = 1 - g->shrink[i] * dt, gain = (noisy ? f : f / 2) / (sigma * sigma * g->s[i]);
    di_real c = (di_real)(1 / g->s[i]);
    for (size_t j = 0; j < run->n * run->d; j++)
        mean[j] = c * x[j];
    denoise(run, run->n, sigma, mean, x0);
    for (size_t j = 0; j < run->n * run->d; j++) /* mean holds x/s */
        mean[j] = (di_real)(lead * g->s[i] * mean[j] + gain * ((double)x0[j] - mean[j]));
    return f;
}

/* EDM sampler: its Algorithm 1 without churn (step=heun, euler), or the reverse SDE. */
static di_status edm(di_run *run)
{
    grid g;
    int K = (int)num(run, "steps");
    int heun = is(run, "step", "heun"), noisy = is(run, "step", "sde");
    double smax = num(run, "smax"), smin = num(run, "smin"), final = num(run, "final");
    if (is(run, "grid", "edm") ? grid_edm(run, &g, K, smax, smin, num(run, "rho"), final)
        : is(run, "grid", "vp") ? grid_vp(run, &g, K, final)
        : grid_sqrt(run, &g, K, smax, smin, final))
        return run->ctx->status;
    di_real *x = take(run, run->d), *x0 = take(run, run->d), *z = take(run, run->d);
    di_real *to = take(run, run->d);
    grid_start(run, &g, x);                                             /* Alg.1 l.2 */
    for (int i = run->step; i < K && !run->ctx->status; i++) {          /* Alg.1 l.3 */
        double dt = g.t[i] - g.t[i + 1];
        double f = grid_mean(run, &g, i, noisy, x, x0, to);             /* Alg.1 l.4-5 */
        if (heun && g.sigma[i + 1] > 0) {                               /* Alg.1 l.6 */
            /* x + (slope at x + slope at x') / 2 = (x + x' + dt slope at x') / 2 */
            double sg = g.sigma[i + 1], gain = g.rate[i + 1] * dt / (sg * sg * g.s[i + 1]);
            di_real c = (di_real)(1 / g.s[i + 1]);
            for (size_t j = 0; j < run->n * run->d; j++)
                to[j] *= c;
            denoise(run, run->n, sg, to, z);
            for (size_t j = 0; j < run->n * run->d; j++) {
                double there = g.s[i + 1] * to[j];
                to[j] = (di_real)((x[j] + there - g.shrink[i + 1] * dt * there
                                   + gain * ((double)z[j] - to[j])) / 2); /* Alg.1 l.7-8 */
            }
        }
        if (noisy)
            normal(run, z, run->d, DI_STREAM_SOLVER, (uint32_t)(i + 1));
        for (size_t j = 0; j < run->n * run->d; j++)
            x[j] = noisy ? to[j] + (di_real)sqrt(f) * z[j] : to[j];
        done(run, -1, g.sigma[i], -1, x, x0);
    }
    di_real last = (di_real)(1 / g.s[K]);
    for (size_t i = 0; i < run->n * run->d; i++)
        x[i] *= last;
    return run->ctx->status ? run->ctx->status : finish(run, x);
}

/* ==== 7. Measurements Optimization (MO) ======================================================
   T. Chen, Z. Wang, M. Zhou, "Enhancing and Accelerating Diffusion-Based Inverse Problem
   Solving through Measurements Optimization", arXiv 2412.03941. No official program was found
   and the full text was not at hand; what follows is the published structure (stochastic
   gradient Langevin steps on the measurement error, re-noising, one denoiser call), and what
   it leaves open is ours:
     l.1  z = init; N times: z -= eta grad E(z), z += sqrt(2 eta) N     (no network call)
     l.2  z += sigma N                                                  (back to the level)
     l.3  return D(z; sigma)                                            (one network call)
   - E(z) = ||y - A(z)||^2 / (2 tau^2). Read with E = ||y - A(z)||^2 the step eta = 5e-5 does
     nothing (tau = 1/sqrt(2) brings it back); tau = 0.01 is the scale of DAPS, whose eta it is.
     Linear A is stable while eta/tau^2 ||A||^2 < 2.
   - init is the previous level's answer (variant b, the default), the denoiser at the iterate
     (a, two calls a level; an unofficial port), or the iterate itself (c); 0 at first. */

typedef struct mo {
    int N, noise;
    double eta, tau;
    di_real *z, *g, *r;
} mo;

static mo mo_open(di_run *run)
{
    mo m = { .N = (int)num(run, "n"), .noise = is(run, "noise", "yes"),
             .eta = num(run, "eta"), .tau = num(run, "tau") };
    m.z = take(run, run->d);
    m.g = take(run, run->d);
    m.r = take(run, run->m);
    return m;
}

/* xh = MO(init) at level sigma. Draws serial..serial+N. m->r is left as y - A(z) of the last
   Langevin step. */
static void mo_call(di_run *run, const mo *m, const di_real *init, double sigma,
                    uint32_t serial, di_real *xh)
{
    di_real step = (di_real)(m->eta / (m->tau * m->tau)), std = (di_real)sqrt(2 * m->eta);
    size_t all = run->n * run->d;
    memmove(m->z, init, all * sizeof *init);
    for (int k = 0; k < m->N && !run->ctx->status; k++) {
        residual(run, m->z, m->r);
        for (size_t j = 0; k == m->N - 1 && j < run->n; j++)
            if (!(rms_of(run, j, m->r) <= 1e3 * (1 + di_rms(run->y, run->m))))
                di_fail(run->ctx, DI_ENUMERIC, "%s: the Langevin steps diverge at step %d of "
                        "%d: eta/tau^2 is too large for this problem, lower eta; the last good "
                        "estimate is kept", run->solver->name, run->step + 1, run->steps);
        back(run, m->z, m->r, m->g);                       /* -tau^2 grad E */
        for (size_t i = 0; i < all; i++)
            m->z[i] += step * m->g[i];                     /* l.1 */
        if (!m->noise)
            continue;
        normal(run, m->g, run->d, DI_STREAM_SOLVER, serial + (uint32_t)k);
        for (size_t i = 0; i < all; i++)
            m->z[i] += std * m->g[i];
    }
    normal(run, m->g, run->d, DI_STREAM_SOLVER, serial + (uint32_t)m->N);
    for (size_t i = 0; i < all; i++)
        m->z[i] += (di_real)sigma * m->g[i];               /* l.2 */
    denoise(run, run->n, sigma, m->z, xh);                 /* l.3 */
}

static double mo_residual(di_run *run, const di_real *xh, di_real *r)
{
    residual(run, xh, r);
    return rms_of(run, 0, r);
}

/* The levels of an MO run: EDM's, down to smin_rel * sigma_y and then to 0. For a Gaussian
   prior the answer's mean is the posterior's when smin = sigma_y / s, s the singular value. */
static di_status mo_levels(di_run *run, grid *g)
{
    double smin = num(run, "smin_rel") * num(run, "sigma_y");
    return grid_edm(run, g, (int)num(run, "steps"), num(run, "smax"),
                    smin > 0.002 ? smin : 0.002, num(run, "rho"), 0);
}

/* DPS-MO: Euler steps of the probability flow with MO in the denoiser's place. In variant b the
   trajectory x enters no network call and is bookkeeping. */
static di_status dps_mo(di_run *run)
{
    grid g;
    if (mo_levels(run, &g))
        return run->ctx->status;
    di_real *x = take(run, run->d), *xh = take(run, run->d);
    mo m = mo_open(run);
    int a = is(run, "variant", "a"), c = is(run, "variant", "c");
    size_t all = run->n * run->d;
    grid_start(run, &g, x);
    for (int i = run->step; i < g.K && !run->ctx->status; i++) {
        if (a)
            denoise(run, run->n, g.sigma[i], x, xh);
        mo_call(run, &m, c ? x : xh, g.sigma[i], (uint32_t)i * ((uint32_t)m.N + 1), xh);
        di_real keep = (di_real)(g.sigma[i + 1] / g.sigma[i]);
        for (size_t j = 0; j < all; j++)
            x[j] = keep * x[j] + (1 - keep) * xh[j];
        done(run, -1, g.sigma[i], mo_residual(run, xh, m.r), x, xh);
    }
    return run->ctx->status ? run->ctx->status : finish(run, xh);
}

/* Red-diff-MO: RED-diff (next chapter) with MO in the denoiser's place; the pull to the prior
   lambda (mu - xh) is RED-diff's with its default weight, in this frame. The answer is xh: mu
   keeps moving by about lr. Only the name is published: the loss is ours. */
static di_status reddiff_mo(di_run *run)
{
    grid g;
    if (mo_levels(run, &g))
        return run->ctx->status;
    size_t all = run->n * run->d;
    di_real *mu = take(run, run->d), *xh = take(run, run->d);
    adam opt = { take(run, run->d), take(run, run->d), num(run, "lr"), 0.9, 0.99 };
    mo m = mo_open(run);
    di_real lambda = (di_real)num(run, "lambda"), weight = (di_real)num(run, "obs_weight");
    pinv_start(run, mu);
    for (int i = run->step; i < g.K && !run->ctx->status; i++) {
        mo_call(run, &m, mu, g.sigma[i], (uint32_t)i * ((uint32_t)m.N + 1), xh);
        residual(run, mu, m.r);
        back(run, mu, m.r, m.g);
        for (size_t j = 0; j < all; j++)
            m.g[j] = lambda * (mu[j] - xh[j]) - weight * m.g[j];
        adam_step(&opt, i + 1, m.g, mu, all);
        done(run, -1, g.sigma[i], mo_residual(run, xh, m.r), mu, xh);
    }
    return run->ctx->status ? run->ctx->status : finish(run, xh);
}

/* ==== 8. RED-diff ============================================================================
   M. Mardani, J. Song, J. Kautz, A. Vahdat, "A Variational Perspective on Solving Inverse
   Problems with Diffusion Models", arXiv 2305.04391v2, Algorithm 1; program: NVlabs/RED-diff.
   One Adam step a timestep, from the largest down, on
     mean_j (y - A(x0p))_j^2 / 2 * obs_weight + w_t mean_i (e - eps)_i x0p_i,   (e - eps) fixed,
     x0p = mu + sigma_x0 N,  xt = sqrt(abar) x0p + sqrt(1-abar) eps,  e = eps_theta(xt, t).
   As their program: the means are over all entries of y and of x, hidden pixels counted; the
   answer is x0p of the last step, mu before its final update. */

static double reddiff_weight(const di_run *run, double snrinv)
{
    return is(run, "weight", "linear") ? snrinv
           : is(run, "weight", "sqrt") ? sqrt(snrinv)
           : is(run, "weight", "square") ? snrinv * snrinv
           : is(run, "weight", "log") ? di_log(1 + snrinv)
           : is(run, "weight", "power2over3") ? power(snrinv, 2.0 / 3)
           : is(run, "weight", "clip") && snrinv < 1 ? snrinv : 1;
}

static di_status reddiff(di_run *run)
{
    int T = run->prior->steps, stride = T / (int)num(run, "steps");
    if (stride < 1)
        return di_fail(run->ctx, DI_EUSAGE, "reddiff: steps=%s, but the prior has only %d",
                       di_run_get(run, "steps"), T);
    run->steps = (T + stride - 1) / stride;                             /* t = 0, k, 2k, ... */
    size_t all = run->n * run->d;
    di_real *mu = take(run, run->d), *x0p = take(run, run->d), *eps = take(run, run->d);
    di_real *g = take(run, run->d), *xt = take(run, run->d);
    adam opt = { take(run, run->d), take(run, run->d), num(run, "lr"), 0.9, 0.99 };
    di_real *r = take(run, run->m);
    double lambda = num(run, "lambda"), obs = num(run, "obs_weight") / (double)run->m;
    di_real std = (di_real)num(run, "sigma_x0");
    pinv_start(run, mu);                                                /* Alg.1 l.2 */
    for (int k = run->steps - 1 - run->step; k >= 0 && !run->ctx->status; k--) {
        uint32_t draw = (uint32_t)(run->steps - k);
        double t = (double)k * stride, abar = di_prior_abar(run->prior, t);
        double snrinv = sqrt(1 - abar) / sqrt(abar);
        double w = lambda * reddiff_weight(run, snrinv) / (double)run->d;
        normal(run, g, run->d, DI_STREAM_SOLVER, 2 * draw);
        normal(run, eps, run->d, DI_STREAM_SOLVER, 2 * draw + 1);       /* Alg.1 l.4 */
        for (size_t i = 0; i < all; i++) {
            x0p[i] = mu[i] + std * g[i];
            xt[i] = (di_real)sqrt(abar) * x0p[i] + (di_real)sqrt(1 - abar) * eps[i];
        }
        predict(run, run->n, t, xt, xt, NULL, 0);                       /* Alg.1 l.5 */
        residual(run, x0p, r);
        back(run, x0p, r, g);
        for (size_t i = 0; i < all; i++)
            g[i] = (di_real)(w * (xt[i] - eps[i]) - obs * g[i]);        /* Alg.1 l.6 */
        adam_step(&opt, run->steps - k, g, mu, all);                    /* Alg.1 l.7 */
        done(run, t, snrinv, rms_of(run, 0, r), mu, x0p);
    }
    return run->ctx->status ? run->ctx->status : finish(run, x0p);
}

/* ==== 9. ES-WMV: early stopping by the windowed moving variance ==============================
   H. Wang, T. Li, Z. Zhuang, T. Chen, H. Liang, J. Sun, "Early Stopping for Deep Image Prior",
   arXiv 2112.06074, Algorithm 1; program: sun-umn/Early_Stopping_for_DIP. Iterates first learn
   the picture and slow down, then the noise and speed up: the variance of the last W has a
   valley near the best. Returned is the newest picture of the window with the least variance
   (not the window's mean); stop after P tests in a row without a new least. */

typedef struct wmv {
    size_t d;
    int window, patience;
    int wait, best;       /* tests since the least; its iterate, -1: none yet */
    double least;
    di_real *ring, *keep; /* (window,d) the last pictures; (d) the best one */
} wmv;

/* Takes iterate k = 0, 1, ... Returns 1 to stop. *value: the variance per element, or -1 while
   the window is not full. Two passes in double: the difference form cancels. */
static int wmv_push(wmv *w, int k, const di_real *x, double *value)
{
    double sum = 0;
    *value = -1;
    memcpy(w->ring + (size_t)(k % w->window) * w->d, x, w->d * sizeof *x);
    if (k + 1 < w->window)
        return 0;
    for (size_t i = 0; i < w->d; i++) {
        double mean = 0, var = 0;
        for (int j = 0; j < w->window; j++)
            mean += w->ring[(size_t)j * w->d + i];
        mean /= w->window;
        for (int j = 0; j < w->window; j++) {
            double u = w->ring[(size_t)j * w->d + i] - mean;
            var += u * u;
        }
        sum += var / w->window;
    }
    *value = sum / (double)w->d;
    if (w->best < 0 || *value < w->least) {
        w->least = *value;
        w->best = k;
        w->wait = 0;
        memcpy(w->keep, x, w->d * sizeof *x);
        return 0;
    }
    return ++w->wait >= w->patience;
}

/* ==== 10. DMPlug =============================================================================
   H. Wang, X. Zhang, T. Li, Y. Wan, T. Chen, J. Sun, "DMPlug: A Plug-in Method for Solving
   Inverse Problems with Diffusion Models", arXiv 2405.16749; program: sun-umn/DMPlug. The
   K-step DDIM sampler is one function R from seed to picture; min over z of
     L(z) = mean_j (A(R(z)) - y)_j^2
   by Adam, differentiated through all steps. As their program: K = 3 at t = 666, 333, 0; x0
   clipped and the noise re-derived from it; the mean over all entries of y.
   Deviations: the program chooses the iterate with the best PSNR against the truth. Ours stops
   by ES-WMV (es=yes, chapter 9, the paper's own answer, absent from their program) or returns
   the last iterate. grid=dmilo is that of StarNextDay/DMILO: t = 999, 666, 333 to 0. */

typedef struct sampler {
    int T, clip, recompute;
    double t[1000], s[1000], c[1000], a[1000], b[1000]; /* time; sqrt(abar), sqrt(1-abar);
                                                           next = a x + b x0 */
    di_real *x, *u; /* (T,n,d) inputs of the steps, their x0 before the clip */
    di_real *e;     /* (n,d) scratch */
} sampler;

static void sampler_grid(di_run *run, sampler *R)
{
    int dmilo = is(run, "grid", "dmilo"), r = run->prior->steps / R->T;
    for (int j = 0; j < R->T; j++) {
        int t = (R->T - 1 + dmilo - j) * r;
        t = t < run->prior->steps ? t : run->prior->steps - 1;
        double abar = di_prior_abar(run->prior, t);
        double prev = t - r < 0 ? 1 : di_prior_abar(run->prior, t - r);
        R->t[j] = t;
        R->s[j] = sqrt(abar);
        R->c[j] = sqrt(1 - abar);
        R->a[j] = sqrt(1 - prev) / R->c[j];
        R->b[j] = sqrt(prev) - R->s[j] * R->a[j];
    }
}

/* x = R(z), z in R->x; passes are kept for the derivative, the last only with recompute. */
static void sampler_run(di_run *run, sampler *R, di_real *x)
{
    size_t all = run->n * run->d;
    for (int j = 0; j < R->T && !run->ctx->status; j++) {
        di_real *in = R->x + j * all, *u = R->u + j * all, *next = j + 1 < R->T ? in + all : x;
        di_real s = (di_real)(1 / R->s[j]), c = (di_real)(R->c[j] / R->s[j]);
        di_real a = (di_real)R->a[j], b = (di_real)R->b[j];
        predict(run, run->n, R->t[j], in, R->e, NULL, R->recompute ? 1 : j + 1);
        for (size_t i = 0; i < all; i++) {
            u[i] = s * in[i] - c * R->e[i];
            di_real x0 = !R->clip ? u[i] : u[i] < -1 ? -1 : u[i] > 1 ? 1 : u[i];
            next[i] = a * in[i] + b * x0;
        }
    }
}

/* g = dL/dx in, dL/dz out. Through one step, next = a x + b x0(u), u = (x - c eps(x)) / s:
   h = b g where u was not clipped;  g' = a g + h/s - (c/s) J_eps^T h. */
static void sampler_back(di_run *run, sampler *R, di_real *g, di_real *h)
{
    size_t all = run->n * run->d;
    for (int j = R->T - 1; j >= 0 && !run->ctx->status; j--) {
        di_real *in = R->x + j * all, *u = R->u + j * all;
        di_real s = (di_real)(1 / R->s[j]), c = (di_real)(R->c[j] / R->s[j]);
        di_real a = (di_real)R->a[j], b = (di_real)R->b[j];
        if (R->recompute && j + 1 < R->T)
            predict(run, run->n, R->t[j], in, R->e, NULL, 1);
        for (size_t i = 0; i < all; i++)
            h[i] = !R->clip || (u[i] >= -1 && u[i] <= 1) ? b * g[i] : 0;
        predict_vjp(run, R->recompute ? 1 : j + 1, h, R->e);
        for (size_t i = 0; i < all; i++)
            g[i] = a * g[i] + s * h[i] - c * R->e[i];
    }
}

static void dmplug_plan(const di_run *run, di_plan *plan)
{
    size_t T = (size_t)num(run, "steps");
    size_t W = is(run, "es", "yes") ? (size_t)num(run, "window") : 0;
    plan->elements = (2 * T + 6 + W) * run->d + run->m;
    plan->keep = is(run, "recompute", "yes") ? 1 : (int)T;
}

static di_status dmplug(di_run *run)
{
    sampler *R = table(run, 1, sizeof *R);
    if (!R)
        return DI_EMEMORY;
    int iters = run->steps = (int)num(run, "iters"), es = is(run, "es", "yes");
    int stop = (int)run->own[3];
    R->T = (int)num(run, "steps");
    R->clip = is(run, "clip", "yes");
    R->recompute = is(run, "recompute", "yes");
    if (R->T > run->prior->steps)
        return di_fail(run->ctx, DI_EUSAGE, "dmplug: steps=%d, but the prior has only %d",
                       R->T, run->prior->steps);
    if (!R->recompute && R->T > DI_MAX_KEEP)
        return di_fail(run->ctx, DI_EUSAGE, "dmplug: steps=%d keeps as many derivatives, at "
                       "most %d: say recompute=yes", R->T, DI_MAX_KEEP);
    if (es && num(run, "window") > iters)
        return di_fail(run->ctx, DI_EUSAGE, "dmplug: a window of %s iterations is longer than "
                       "the run of %d: lower window, raise iters, or say es=no",
                       di_run_get(run, "window"), iters);
    sampler_grid(run, R);
    R->x = take(run, (size_t)R->T * run->d);
    R->u = take(run, (size_t)R->T * run->d);
    R->e = take(run, run->d);
    di_real *x = take(run, run->d), *g = take(run, run->d), *r = take(run, run->m);
    adam opt = { take(run, run->d), take(run, run->d), num(run, "lr"), 0.9, 0.999 };
    wmv w = { .d = run->d, .window = (int)num(run, "window"),
              .patience = (int)num(run, "patience"), .keep = take(run, run->d) };
    w.ring = es ? take(run, (size_t)w.window * run->d) : NULL;
    w.best = run->step ? (int)run->own[0] : -1;
    w.wait = (int)run->own[1];
    w.least = run->own[2];
    if (!run->step && is(run, "start", "normal"))
        normal(run, R->x, run->d, DI_STREAM_INIT, 0);
    for (int k = run->step; k < iters && !stop && !run->ctx->status; k++) {
        sampler_run(run, R, x);                                         /* x = R(z) */
        if (run->ctx->status)
            break;
        residual(run, x, r);
        stop = es && wmv_push(&w, k, x, &run->wmv);
        run->own[0] = w.best;
        run->own[1] = w.wait;
        run->own[2] = w.least;
        run->own[3] = stop;
        double resid = rms_of(run, 0, r);
        if (!stop) {
            for (size_t i = 0; i < run->m; i++)
                r[i] *= (di_real)(-2.0 / (double)run->m);
            back(run, x, r, g);                                         /* dL/dx */
            sampler_back(run, R, g, R->u + (size_t)(R->T - 1) * run->d); /* u is used up */
            adam_step(&opt, k + 1, g, R->x, run->d);                    /* z */
        }
        done(run, -1, -1, resid, R->x, x);
    }
    if (es && !run->ctx->status)
        snprintf(run->note, sizeof run->note, "ES-WMV: %s after %d of %d iterations; returned "
                 "iterate %d, windowed variance %.4g per element",
                 stop ? "stopped" : "not stopped", run->step, iters, w.best + 1, w.least);
    return run->ctx->status ? run->ctx->status : finish(run, es ? w.keep : x);
}

/* ==== 11. Guided without derivatives: CPS and SCG ============================================
   Both follow the reverse VP SDE, x' = mu + sqrt(f) N, and look at N particles of its next
   state through the denoiser and A alone. */

/* q (N,m) = A(D((mu + sqrt(f) eps_n)/s'; sigma')), eps_n = draw serial + n; p (2,batch,d). */
static void particles(di_run *run, const grid *g, int i, double f, const di_real *mu,
                      uint32_t serial, int N, int batch, di_real *p, di_real *q)
{
    di_real c = (di_real)(1 / g->s[i + 1]), std = (di_real)sqrt(f);
    for (int at = 0; at < N && !run->ctx->status; at += batch) {
        int n = N - at < batch ? N - at : batch;
        for (int j = 0; j < n; j++) {
            di_real *pj = p + (size_t)j * run->d;
            normal(run, pj, run->d, DI_STREAM_SOLVER, serial + (uint32_t)(at + j));
            for (size_t k = 0; k < run->d; k++)
                pj[k] = c * (mu[k] + std * pj[k]);
        }
        di_real *u = p + (size_t)batch * run->d;
        denoise(run, (size_t)n, g->sigma[i + 1], p, u);
        di_apply(run->problem, (size_t)n, u, q + (size_t)at * run->m);
        run->cost.apply += (uint64_t)n;
        if (!di_finite(q + (size_t)at * run->m, (size_t)n * run->m))
            di_fail(run->ctx, DI_ENUMERIC, "%s: NaN or Inf in the measurement of a particle at "
                    "step %d of %d; the last good estimate is kept", run->solver->name,
                    run->step + 1, run->steps);
    }
}

/* Draw n of serial.. once more; mark: where replayed noise stood before draw 0. */
static void again(di_run *run, size_t mark, int n, uint32_t serial, di_real *z)
{
    if (run->noise)
        run->noise_used = mark + (size_t)n * run->d;
    normal(run, z, run->d, DI_STREAM_SOLVER, serial + (uint32_t)n);
}

static void particle_plan(const di_run *run, di_plan *plan)
{
    size_t N = (size_t)num(run, "n"), batch = (size_t)num(run, "batch");
    batch = batch < N ? batch : N;
    plan->batch = batch;
    plan->elements = (run->d + N) * (sizeof(double) / sizeof(di_real))
                     + (4 + 2 * batch) * run->d + N * run->m;
    if (run->problem && run->problem->loss)
        plan->elements += run->m * (sizeof(double) / sizeof(di_real) + 1);
}

/* A prior that is poor near t = 1 throws the state off its level's scale, 1. */
static void watch_scale(di_run *run, const di_real *x)
{
    double rms = di_rms(x, run->d);
    if (rms > 3 && !run->note[0])
        snprintf(run->note, sizeof run->note, "at step %d the state was %.3g times its level's "
                 "scale: the prior is poor at noise this strong", run->step + 1, rms);
}

/* run->pull = the mean over particles q (N,m) of half of dL/dq, of a problem's own loss L.
   Returns the mean of L. */
static double cps_pull(di_run *run, const di_real *q, int N)
{
    double loss = 0;
    memset(run->pull, 0, run->m * sizeof *run->pull);
    for (int n = 0; n < N; n++, q += run->m) {
        loss += run->problem->loss(run->problem, q, run->y, run->half) / N;
        for (size_t k = 0; k < run->m; k++)
            run->pull[k] += run->half[k] / N;
    }
    return loss;
}

/* g (d) = sum_n c_n eps_n, c_n = <qbar - y, q_n - qbar> / N; c (N) and z (d) are scratch.
   Returns ||qbar - y|| / sqrt(m). With a loss of the problem's own run->pull stands for
   qbar - y, as in the program. */
static double cps_direction(di_run *run, const di_real *q, int N, uint32_t serial, size_t mark,
                            di_real *z, double *c, double *g)
{
    const double *pull = run->pull;
    double sum = pull ? cps_pull(run, q, N) : 0;
    memset(c, 0, (size_t)N * sizeof *c);
    memset(g, 0, run->d * sizeof *g);
    for (size_t k = 0; k < run->m; k++) {
        double qbar = 0;
        for (int n = 0; n < N; n++)
            qbar += q[(size_t)n * run->m + k];
        qbar /= N;
        double e = pull ? pull[k] : qbar - run->y[k];                   /* half of dL/dq */
        for (int n = 0; n < N; n++)
            c[n] += e * (q[(size_t)n * run->m + k] - qbar) / N;
        sum += pull ? 0 : e * e;
    }
    for (int n = 0; n < N; n++) {
        again(run, mark, n, serial, z);
        for (size_t j = 0; j < run->d; j++)
            g[j] += c[n] * z[j];
    }
    return sqrt(sum / (double)run->m);
}

/* What both begin with: the VP grid of T steps down to level 0.01, guidance from step K on, and
   x ~ N(0, s^2 sigma^2) at its start. */
typedef struct seek {
    grid g;
    int T, N, batch, K, hole;
    double *c, *dir;               /* (N), (d) */
    di_real *x, *mu, *u, *z, *q, *p; /* (d), (d), (d), (d), (N,m), (2,batch,d) */
} seek;

static di_status seek_open(di_run *run, seek *s, const char *hole)
{
    size_t d = run->d;
    s->T = (int)num(run, "steps");
    s->N = (int)num(run, "n");
    s->batch = (int)num(run, "batch") < s->N ? (int)num(run, "batch") : s->N;
    s->K = (int)floor(s->T * num(run, "thr"));
    s->hole = is(run, hole, "yes");
    if (grid_vp(run, &s->g, s->T, 0.01))
        return run->ctx->status;
    s->c = (double *)(void *)take(run, (d + (size_t)s->N) * (sizeof(double) / sizeof *s->x));
    s->dir = s->c + s->N;
    if (run->problem->loss) {
        run->pull = (double *)(void *)take(run, run->m * (sizeof(double) / sizeof *s->x));
        run->half = take(run, run->m);
    }
    s->x = take(run, d);
    s->mu = take(run, d);
    s->u = take(run, d);
    s->z = take(run, d);
    s->q = take(run, (size_t)s->N * run->m);
    s->p = take(run, 2 * (size_t)s->batch * d);
    grid_start(run, &s->g, s->x);
    return DI_OK;
}

/* CPS: "Constrained Particle Seeking: Solving Diffusion Inverse Problems with Just Forward
   Passes", AAAI 2026, arXiv 2603.01837v1; program: deng-ai-lab/CPS (algorithm APS_R).
     l.1  mu = a x + f score(x)                             mean of the reverse kernel
     l.2  q_n = A(D((mu + sqrt(f) eps_n)/s'; sigma')),      n = 1..N
     l.3  c_n = <qbar - y, q_n - qbar> / N
     l.4  g = sum_n c_n eps_n
     l.5  x' = mu - sqrt(f d) g/||g||
     l.6  x = s (x'/s' + sqrt(sigma^2 - sigma'^2) N), again from l.1: restarts
   l.5 is the least misfit of the affine model of x -> q that the particles span, on the sphere
   where the kernel's mass is, in the limit of a small radius. No step size, no sigma_y.
   As their program, not the paper: restarts (five passes a level) in the first fifth only; at
   i = T*thr the state becomes its denoised estimate (compat_hole); where g = 0, x' = mu without
   noise; thr > 0 repeats the unguided step in the window without going back.
   Ours: particles are drawn twice from the counter instead of kept, N m + O(d) numbers in all;
   two network calls a step, made to print a loss, are left out.
   Draws: 1 + (passes i + pass)(N + 2) + n. */
static di_status cps(di_run *run)
{
    seek s;
    int most = (int)num(run, "passes");
    double window = num(run, "window");
    if (seek_open(run, &s, "compat_hole"))
        return run->ctx->status;
    size_t d = run->d;
    const grid *g = &s.g;
    for (int i = run->step; i < s.T && !run->ctx->status; i++) {
        int passes = (double)i / s.T > 0.001 && (double)i / s.T < window ? most : 1;
        double resid = -1;                                              /* of the last pass */
        for (int pass = 0; pass < passes && !run->ctx->status; pass++) {
            uint32_t turn = (uint32_t)i * (uint32_t)most + (uint32_t)pass;
            uint32_t serial = 1 + turn * ((uint32_t)s.N + 2);
            double f = grid_mean(run, g, i, 1, s.x, s.u, s.mu);         /* l.1 */
            if (i < s.K) {
                normal(run, s.z, d, DI_STREAM_SOLVER, serial);
                for (size_t j = 0; j < d; j++)
                    s.x[j] = s.mu[j] + (di_real)sqrt(f) * s.z[j];
                continue;
            }
            if (i == s.T - 1 || (s.hole && i == s.K)) {
                memcpy(s.x, s.u, d * sizeof *s.x);
                continue;
            }
            size_t mark = run->noise_used;
            particles(run, g, i, f, s.mu, serial, s.N, s.batch, s.p, s.q);          /* l.2 */
            if (run->ctx->status)
                break;
            resid = cps_direction(run, s.q, s.N, serial, mark, s.z, s.c, s.dir);    /* l.3-4 */
            double norm = 0;
            for (size_t j = 0; j < d; j++)
                norm += s.dir[j] * s.dir[j];
            norm = sqrt(norm) > 1e-12 ? sqrt(norm) : 1e-12;
            for (size_t j = 0; j < d; j++)
                s.x[j] = (di_real)(s.mu[j] - sqrt(f * (double)d) / norm * s.dir[j]); /* l.5 */
            if (pass + 1 == passes)
                continue;
            double a = g->s[i] / g->s[i + 1]; /* s^2 (sigma^2 - sigma'^2) = 1 - a^2 */
            normal(run, s.z, d, DI_STREAM_SOLVER, serial + (uint32_t)s.N);
            for (size_t j = 0; j < d; j++)
                s.x[j] = (di_real)(a * s.x[j] + sqrt(1 - a * a) * s.z[j]);          /* l.6 */
        }
        watch_scale(run, s.x);
        done(run, g->t[i], g->sigma[i], resid, s.x, i == s.T - 1 ? s.x : s.u);
    }
    return run->ctx->status ? run->ctx->status : finish(run, s.x);
}

/* SCG: Y. Huang et al., "Symbolic Music Generation with Non-Differentiable Rule Guided
   Diffusion", arXiv 2402.14285, Algorithm 1; program: devzhk/InverseBench.
     l.1  mu as in CPS      l.2  particles as in CPS
     l.3  x' = the particle with the least ||q_n - y||^2
   mirror=yes takes its reflection in mu, as the SCG of CPS's program does by mistake; hole=yes
   is in both programs, off here. Draws: 1 + i (N + 1) + n. */
static di_status scg(di_run *run)
{
    seek s;
    double side = is(run, "mirror", "yes") ? -1 : 1;
    if (seek_open(run, &s, "hole"))
        return run->ctx->status;
    size_t d = run->d, m = run->m;
    for (int i = run->step; i < s.T && !run->ctx->status; i++) {
        int best = 0, guided = i >= s.K;
        uint32_t serial = 1 + (uint32_t)i * ((uint32_t)s.N + 1);
        size_t mark = run->noise_used;
        double f = grid_mean(run, &s.g, i, 1, s.x, s.u, s.mu), least = -1;          /* l.1 */
        if (i == s.T - 1 || (s.hole && i == s.K)) {
            memcpy(s.x, s.u, d * sizeof *s.x);
        } else {
            if (guided)
                particles(run, &s.g, i, f, s.mu, serial, s.N, s.batch, s.p, s.q);   /* l.2 */
            for (int n = 0; guided && n < s.N; n++) {
                const di_real *q = s.q + (size_t)n * m;
                double loss = 0;
                if (run->half)
                    loss = run->problem->loss(run->problem, q, run->y, run->half);
                for (size_t k = 0; !run->half && k < m; k++) {
                    double r = (double)q[k] - run->y[k];
                    loss += r * r;
                }
                best = n && !(loss < least) ? best : n;
                least = best == n ? loss : least;
            }
            if (run->ctx->status)
                break;
            again(run, mark, best, serial, s.z);
            if (run->noise && !run->ctx->status)
                run->noise_used = mark + (guided ? (size_t)s.N : 1) * d;
            for (size_t j = 0; j < d; j++)
                s.x[j] = (di_real)(s.mu[j] + side * sqrt(f) * s.z[j]);              /* l.3 */
        }
        watch_scale(run, s.x);
        done(run, s.g.t[i], s.g.sigma[i], least < 0 ? -1 : sqrt(least / (double)m), s.x,
             i == s.T - 1 ? s.x : s.u);
    }
    return run->ctx->status ? run->ctx->status : finish(run, s.x);
}

/* ==== 12. The table ======================================================================= */

#define P_VAR { "var", "auto", "auto|fixed_small|fixed_large|learned_range", \
                "posterior variance; auto: what the prior was trained for" }
#define P_SPACING { "spacing", "even", "even|ddim", \
                    "rule of the kept steps (guided-diffusion respace.py)" }
#define P_TIME { "time", "auto", "auto|continuous|table", \
                 "network time of a noise level: EDM's VP formula, or the table's inverse" }
#define P_MO(K) \
    { "steps", K, "1..100000 int", "noise levels, one network call each (50..100: paper)" }, \
    { "smax", "100", "0.01..10000", "first noise level (ours, as DAPS)" }, \
    { "smin_rel", "2", "0..1000", "last level over sigma_y (ours; larger: smoother)" }, \
    { "sigma_y", "0.05", "1e-6..100", "measurement noise, [-1,1] scale" }, \
    { "rho", "7", "0.1..100", "spacing of the levels (EDM, eq. 5)" }, \
    { "n", "20", "0..100000 int", "Langevin steps a level (ours; unofficial port 50)" }, \
    { "eta", "5e-5", "0..1", "their step (unofficial port)" }, \
    { "tau", "0.01", "1e-6..1000", "scale of the energy, see chapter 7 (ours)" }, \
    { "noise", "yes", "yes|no", "Langevin noise" }
#define P_CLIP { "clip", "yes", "yes|no", "clamp x0 to [-1,1] (guided-diffusion)" }

static const di_solver solvers[] = {
    { "ddpm", "unconditional ancestral sampling", "Ho et al., arXiv 2006.11239v2, Alg. 2",
      0, 5, 0,
      { { "steps", "1000", "1..100000 int", "kept steps (guided-diffusion)" },
        P_VAR, P_SPACING, P_CLIP }, ddpm, NULL },
    { "ddim", "unconditional implicit sampling", "Song et al., arXiv 2010.02502v4, eq. 12",
      0, 4, 0,
      { { "steps", "50", "1..100000 int", "kept steps (paper, table 1)" },
        { "eta", "0", "0..1", "noise added, 0 deterministic, 1 as ddpm (paper)" },
        P_SPACING, P_CLIP }, ddim, NULL },
    { "dps", "diffusion posterior sampling", "Chung et al., arXiv 2209.14687v4, Alg. 1",
      DI_NEEDS_PROBLEM | DI_NEEDS_VJP | DI_NEEDS_NET_VJP, 6, 1,
      { { "steps", "1000", "1..100000 int", "kept steps (official configs)" },
        { "scale", "0.3", "0..1000",
          "step on the gradient of ||y-A(x0)|| (official configs: sr, blur 0.3; inpaint 0.5)" },
        P_VAR, P_SPACING, P_CLIP }, dps, NULL },
    { "ddnm", "null-space projection", "Wang et al., arXiv 2212.00490v2, Alg. 1",
      DI_NEEDS_PROBLEM | DI_NEEDS_LINEAR | DI_NEEDS_PINV, 6, 1,
      { { "steps", "100", "1..100000 int", "kept steps (paper, InverseBench)" },
        { "eta", "0.85", "0..1", "share of fresh noise (paper, InverseBench)" },
        { "sigma_y", "0.05", "0..100", "measurement noise, [-1,1] scale; 0: plain DDNM" },
        { "weight", "each", "each|one", "lam, gam of each singular value (paper), or one pair "
                                        "(InverseBench)" },
        { "travel", "0", "0..100 int", "steps of time travel (paper, Alg. 1; InverseBench 1)" },
        { "spacing", "even", "even|ddim|log|vp",
          "kept steps of the prior's table, or InverseBench's levels (theirs: log)" },
        { "final", "0", "0..1", "last level of spacing=log, vp (InverseBench 0.01)" },
        { "mix", "unscaled", "unscaled|scaled", "scaled: InverseBench's slip under VP" },
        P_CLIP }, ddnm, NULL },
    { "edm", "unconditional sampling by noise level",
      "Karras et al., arXiv 2206.00364v2, Alg. 1", 0, 4, 0,
      { { "steps", "40", "1..100000 int", "noise levels (paper, ImageNet-64)" },
        { "grid", "edm", "edm|vp|sqrt", "rule of the levels: EDM, InverseBench's VP and VE" },
        { "step", "heun", "heun|euler|sde", "2 network calls a step, 1, or 1 with noise" },
        { "smax", "80", "0.01..10000", "first level (paper)" },
        { "smin", "0.002", "1e-6..100", "last level before `final` (paper)" },
        { "rho", "7", "0.1..100", "spacing of grid=edm (paper)" },
        { "final", "0", "0..1", "where the last step ends" }, P_TIME }, edm, NULL },
    { "dps_mo", "DPS with measurements optimization", "Chen et al., arXiv 2412.03941",
      DI_NEEDS_PROBLEM | DI_NEEDS_VJP, 4, 1,
      { P_MO("100"),
        { "variant", "b", "a|b|c", "start of a level's Langevin steps, chapter 7" },
        P_TIME }, dps_mo, NULL },
    { "reddiff_mo", "RED-diff with measurements optimization", "Chen et al., arXiv 2412.03941",
      DI_NEEDS_PROBLEM | DI_NEEDS_VJP, 6, 1,
      { P_MO("100"), { "lr", "0.3", "1e-6..10", "Adam's step on mu (ours)" },
        { "lambda", "1", "0..1000", "pull to the prior (ours)" },
        { "obs_weight", "1", "0..1000", "pull to the measurement (ours)" },
        { "start", "pinv", "pinv|zero", "mu at first: A^+ y where there is one" }, P_TIME },
      reddiff_mo, NULL },
    { "reddiff", "regularisation by denoising diffusion", "Mardani et al., arXiv 2305.04391v2, "
      "Alg. 1", DI_NEEDS_PROBLEM | DI_NEEDS_VJP, 7, 1,
      { { "steps", "1000", "1..100000 int", "timesteps (paper; scripts 100, 1000)" },
        { "lr", "0.1", "1e-6..10", "Adam's step (program: 0.1; inpainting 0.25, others 0.5)" },
        { "lambda", "0.25", "0..1000", "weight of the prior (program)" },
        { "weight", "linear", "linear|sqrt|square|log|clip|power2over3|const",
          "w_t as a function of sqrt(1-abar)/sqrt(abar) (program)" },
        { "obs_weight", "1", "0..1000", "weight of the measurement (program)" },
        { "sigma_x0", "0", "0..1", "perturbation of mu (program; one script 1e-4)" },
        { "start", "pinv", "pinv|zero", "mu at first: A^+ y (program), or 0 (InverseBench)" } },
      reddiff, NULL },
    { "dmplug", "seed optimization with early stopping", "Wang et al., arXiv 2405.16749; stop: "
      "arXiv 2112.06074", DI_NEEDS_PROBLEM | DI_NEEDS_VJP | DI_NEEDS_NET_VJP | DI_ONE_BY_ONE,
      0, 0,
      { { "iters", "5000", "1..1000000 int", "Adam steps at most (program; nonlinear 10000)" },
        { "steps", "3", "1..1000 int", "DDIM steps of R (program)" },
        { "grid", "dmplug", "dmplug|dmilo", "times of the steps: from 666, or from 999" },
        { "lr", "0.01", "1e-9..10", "Adam's step on the seed (program)" },
        { "clip", "yes", "yes|no", "clamp x0 to [-1,1] (program)" },
        { "recompute", "no", "yes|no", "same bits in less memory, 2 K - 1 passes forward" },
        { "es", "yes", "yes|no", "stop by ES-WMV; no: all iterations, the last iterate" },
        { "window", "50", "2..100000 int", "of ES-WMV (recalled: nonlinear 50, sr 10)" },
        { "patience", "300", "1..1000000 int", "of ES-WMV (recalled: nonlinear 300, sr 100)" },
        { "start", "normal", "normal|zero", "the seed at first (program: normal)" } },
      dmplug, dmplug_plan },
    { "cps", "constrained particle seeking", "AAAI 2026, arXiv 2603.01837v1",
      DI_NEEDS_PROBLEM | DI_ONE_BY_ONE, 0, 0,
      { { "steps", "500", "2..100000 int", "T (program)" },
        { "n", "64", "1..65536 int", "particles (program; paper: 32 suffice, 8 work)" },
        { "thr", "0", "0..0.99", "share of steps before guidance (program's config)" },
        { "passes", "5", "1..1000 int", "passes of a level inside the window (program)" },
        { "window", "0.2", "0..1", "share of steps with restarts (program)" },
        { "compat_hole", "yes", "yes|no", "denoise the state at step T*thr (program)" },
        { "batch", "16", "1..4096 int", "particles in one network call, same bits" },
        P_TIME }, cps, particle_plan },
    { "scg", "stochastic control guidance", "Huang et al., arXiv 2402.14285, Alg. 1",
      DI_NEEDS_PROBLEM | DI_ONE_BY_ONE, 0, 0,
      { { "steps", "1000", "2..100000 int", "T (InverseBench; CPS program 500)" },
        { "n", "512", "1..65536 int", "candidates (InverseBench; CPS program 128)" },
        { "thr", "0.25", "0..0.99", "share of steps before guidance (InverseBench)" },
        { "hole", "no", "yes|no", "denoise the state at step T*thr (both programs)" },
        { "mirror", "no", "yes|no", "reflect the winner in the mean (CPS program's slip)" },
        { "batch", "16", "1..4096 int", "candidates in one network call, same bits" },
        P_TIME }, scg, particle_plan },
};

/* Defaults of one problem. dps: the official config. reddiff: the program's test script, its
   lines for noisy inpainting and for deblurring. dps_mo, reddiff_mo: ours, on two pictures of
   the training file's last 200 (64x64, sigma 0.05, 100 levels); mean PSNR of what was tried:
     n        inpaint box 50: 25.98  20: 26.49  10: 25.80  5: 25.25   (smin_rel 2)
              random      50: 26.14  20: 26.70  10: 26.97  5: 26.91   (smin_rel 2)
              sr          50: 23.78  20: 23.97  10: 23.60  5: 22.67   (smin_rel 4)
              gblur       50: 27.05  20: 27.41  10: 26.94             (smin_rel 3)
     smin_rel inpaint box  1: 25.97 1.5: 26.05   2: 25.98  4: 25.26  8: 23.94  (n 50)
              and at n 20        1.5: 26.64   2: 26.49; random 1.5: 26.86  2: 26.70
              random       1: 26.02 1.5: 26.25   2: 26.14  4: 25.13  8: 23.13  (n 50)
              sr           1: 21.76   2: 23.10   3: 23.62  4: 23.78  8: 23.39  (n 50)
              gblur        1: 25.20   2: 26.86   3: 27.05  4: 26.84  8: 25.41  (n 50)
     eta      random 5e-5: 26.14  1e-4: 25.56 (n 50, smin_rel 2); gblur 27.05, 26.23 (3);
              sr 1e-4: 23.78  2e-4: 23.30 (4)
     reddiff_mo, n 20, lr 0.1: box 27.18, random 24.65, sr 22.90, gblur 25.75;
              lr 0.3: random 25.88, sr 23.23, gblur 27.37; lr 1: random 24.15; obs_weight 0
              changes nothing where the Langevin steps reach the data (random: 25.88) */
static const di_default defaults[] = {
    { "dps", "inpaint", "scale", "0.5" },
    { "dps", "blackhole", "scale", "0.001" },
    { "reddiff", "inpaint", "lr", "0.25" },
    { "reddiff", "inpaint", "lambda", "1" },
    { "reddiff", "gblur", "lr", "0.5" },
    { "dps_mo", "inpaint", "smin_rel", "1.5" },
    { "dps_mo", "sr", "smin_rel", "4" },
    { "dps_mo", "sr", "eta", "1e-4" },
    { "dps_mo", "gblur", "smin_rel", "3" },
    { "reddiff_mo", "sr", "smin_rel", "4" },
    { "reddiff_mo", "sr", "eta", "1e-4" },
    { "reddiff_mo", "gblur", "smin_rel", "3" },
};

const di_default *di_default_at(int i)
{
    return i >= 0 && i < (int)(sizeof defaults / sizeof *defaults) ? &defaults[i] : NULL;
}


const di_solver *di_solver_at(int i)
{
    return i >= 0 && i < (int)(sizeof solvers / sizeof *solvers) ? &solvers[i] : NULL;
}

const di_solver *di_solver_find(const char *name)
{
    for (int i = 0; di_solver_at(i); i++)
        if (strcmp(solvers[i].name, name) == 0)
            return &solvers[i];
    return NULL;
}

/* Edit distance where swapping neighbours costs one; cut at 31 characters. */
static int distance(const char *a, const char *b)
{
    unsigned char d[32][32];
    int la = (int)strlen(a), lb = (int)strlen(b);
    la = la > 31 ? 31 : la;
    lb = lb > 31 ? 31 : lb;
    for (int i = 0; i <= la; i++)
        for (int j = 0; j <= lb; j++) {
            int least = !i ? j : !j ? i : d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (i && j && d[i - 1][j] + 1 < least)
                least = d[i - 1][j] + 1;
            if (i && j && d[i][j - 1] + 1 < least)
                least = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]
                && d[i - 2][j - 2] + 1 < least)
                least = d[i - 2][j - 2] + 1;
            d[i][j] = (unsigned char)least;
        }
    return d[la][lb];
}

const char *di_nearest(const char *word, const char *const *words, int n)
{
    const char *best = n > 0 ? words[0] : "";
    int least = 1000;
    for (int i = 0; i < n; i++) {
        int d = distance(word, words[i]);
        if (d < least) {
            least = d;
            best = words[i];
        }
    }
    return best;
}

/* ==== 13. The public calls ================================================================ */

/* Names of the solvers that ask for no more than `allowed`. */
static void would_do(unsigned allowed, char *list, size_t size)
{
    size_t used = 0;
    list[0] = 0;
    for (int i = 0; di_solver_at(i); i++)
        if ((solvers[i].needs & DI_NEEDS_PROBLEM) && !(solvers[i].needs & ~allowed)
            && used + 20 < size)
            used += (size_t)snprintf(list + used, size - used, "%s%s", used ? ", " : "",
                                     solvers[i].name);
    if (!used)
        snprintf(list, size, "none yet");
}

static di_status check_needs(di_ctx *ctx, const di_solver *s, const di_prior *prior,
                             const di_problem *p)
{
    unsigned have = DI_NEEDS_PROBLEM | DI_ONE_BY_ONE | (prior->vjp ? DI_NEEDS_NET_VJP : 0);
    char others[200];
    if (!p)
        return s->needs & DI_NEEDS_PROBLEM
                   ? di_fail(ctx, DI_EUSAGE, "solver %s needs a problem to solve (-p); to "
                             "sample the prior alone use ddpm or ddim", s->name) : DI_OK;
    have |= p->vjp ? DI_NEEDS_VJP : 0;
    have |= p->linear ? DI_NEEDS_LINEAR : 0;
    have |= p->pinv ? DI_NEEDS_PINV : 0;
    unsigned missing = s->needs & ~have;
    if (!(s->needs & DI_NEEDS_PROBLEM)) {
        would_do(have, others, sizeof others);
        return di_fail(ctx, DI_EUSAGE, "solver %s samples the prior and uses no measurement; "
                       "for problem %s these would do: %s", s->name, p->name, others);
    }
    if (!missing)
        return DI_OK;
    would_do(have, others, sizeof others);
    if (missing & DI_NEEDS_NET_VJP)
        return di_fail(ctx, DI_EUSAGE, "solver %s needs the prior's derivative, which this "
                       "prior lacks; these would do: %s", s->name, others);
    return di_fail(ctx, DI_EUSAGE, "solver %s needs %s, which problem %s lacks; these would "
                   "do: %s", s->name, missing & DI_NEEDS_LINEAR ? "a linear map"
                   : missing & DI_NEEDS_PINV ? "a pseudo-inverse" : "a derivative", p->name,
                   others);
}

di_status di_run_open(di_ctx *ctx, const di_solver *s, di_prior *prior,
                      const di_problem *problem, di_run **out)
{
    *out = NULL;
    if (check_needs(ctx, s, prior, problem))
        return ctx->status;
    if (problem && (problem->x[0] != prior->c || problem->x[1] != prior->h
                    || problem->x[2] != prior->w))
        return di_fail(ctx, DI_EUSAGE, "the prior makes %dx%dx%d images, the problem takes "
                       "%dx%dx%d", prior->c, prior->h, prior->w, problem->x[0], problem->x[1],
                       problem->x[2]);
    di_run *run = di_new(ctx, 1, sizeof *run);
    if (!run)
        return DI_EMEMORY;
    run->ctx = ctx;
    run->solver = s;
    run->prior = prior;
    run->problem = problem;
    run->d = (size_t)prior->c * prior->h * prior->w;
    run->m = problem ? (size_t)problem->y[0] * problem->y[1] * problem->y[2] : 0;
    for (int i = 0; i < DI_MAX_PARAM && s->param[i].key; i++)
        snprintf(run->value[i], sizeof run->value[i], "%s", s->param[i].value);
    for (const di_default *d = defaults; problem && (d = di_default_at((int)(d - defaults)));
         d++)
        if (strcmp(d->solver, s->name) == 0 && strcmp(d->problem, problem->name) == 0)
            di_run_set(run, d->key, d->value);
    *out = run;
    return DI_OK;
}

void di_run_close(di_run *run)
{
    if (run)
        di_free(run->ctx, run->saved);
    if (run)
        di_free(run->ctx, run);
}

static int in_words(const char *word, const char *words)
{
    size_t len = strlen(word);
    while (*words) {
        size_t n = strcspn(words, "|");
        if (n == len && memcmp(words, word, n) == 0)
            return 1;
        words += n + (words[n] == '|');
    }
    return 0;
}

di_status di_run_set(di_run *run, const char *key, const char *value)
{
    const di_param *p = run->solver->param;
    const char *keys[DI_MAX_PARAM];
    int n = 0, at = -1;
    for (; n < DI_MAX_PARAM && p[n].key; n++) {
        keys[n] = p[n].key;
        if (strcmp(p[n].key, key) == 0)
            at = n;
    }
    if (at < 0)
        return di_fail(run->ctx, DI_EUSAGE, "solver %s has no parameter '%.40s'; did you mean "
                       "'%s'?", run->solver->name, key, di_nearest(key, keys, n));
    const char *dots = strstr(p[at].choice, "..");
    double v, lo = 0, hi = 0;
    if (dots) {
        size_t end = strcspn(dots + 2, " ");
        int whole = strstr(p[at].choice, "int") != NULL;
        di_parse(p[at].choice, (size_t)(dots - p[at].choice), &lo);
        di_parse(dots + 2, end, &hi);
        if (strlen(value) >= sizeof run->value[at] || di_parse(value, strlen(value), &v)
            || !(v >= lo && v <= hi) || (whole && v != floor(v)))
            return di_fail(run->ctx, DI_EUSAGE, "%s %s=%.40s: wants a%s number in %s",
                           run->solver->name, key, value, whole ? " whole" : "", p[at].choice);
    } else if (!in_words(value, p[at].choice)) {
        return di_fail(run->ctx, DI_EUSAGE, "%s %s=%.40s: wants one of %s", run->solver->name,
                       key, value, p[at].choice);
    }
    snprintf(run->value[at], sizeof run->value[at], "%s", value);
    return DI_OK;
}

const char *di_run_get(const di_run *run, const char *key)
{
    for (int i = 0; i < DI_MAX_PARAM && run->solver->param[i].key; i++)
        if (strcmp(run->solver->param[i].key, key) == 0)
            return run->value[i];
    return NULL;
}

void di_run_report(di_run *run, di_report_fn report, void *user)
{
    run->report = report;
    run->user = user;
}

void di_run_noise(di_run *run, const float *normals, size_t count)
{
    run->noise = normals;
    run->noise_count = count;
    run->noise_used = 0;
}

size_t di_run_noise_used(const di_run *run) { return run->noise_used; }

di_cost di_run_cost(const di_run *run) { return run->cost; }

const char *di_run_note(const di_run *run) { return run->note; }

static di_plan make_plan(const di_run *run, size_t n)
{
    n = run->solver->needs & DI_ONE_BY_ONE ? 1 : n;
    size_t each = (size_t)run->solver->nx * run->d + (size_t)run->solver->ny * run->m;
    di_plan plan = { n * each, n, (run->solver->needs & DI_NEEDS_NET_VJP) != 0 };
    if (run->solver->plan)
        run->solver->plan(run, &plan);
    return plan;
}

size_t di_run_bytes(const di_run *run, size_t n)
{
    di_plan plan = make_plan(run, n);
    const di_problem *p = run->problem;
    size_t problem = 0, images = run->solver->needs & DI_ONE_BY_ONE ? 1 : n;
    images = plan.batch > images ? plan.batch : images;
    if (p && p->bytes)
        problem = p->bytes(p, images, (run->solver->needs & DI_NEEDS_VJP) != 0);
    return plan.elements * sizeof(di_real) + problem
           + run->prior->bytes(run->prior, plan.batch, plan.keep);
}

/* ---- A run's state: a head, the results so far, the working memory, a checksum ---- */

typedef struct state {
    char magic[8];
    uint64_t settings, seed, first, samples, sample, n, d, elements, noise_used;
    di_cost cost;
    double own[4], wmv;
    int64_t step, steps;
    char note[200];
} state;

size_t di_run_state_bytes(const di_run *run, size_t n)
{
    return sizeof(state) + (n * run->d + make_plan(run, n).elements) * sizeof(di_real)
           + sizeof(uint64_t);
}

/* FNV-1a, 64 bits */
static uint64_t stir(uint64_t h, const void *data, size_t n)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001B3u;
    return h;
}

/* A number of what the run was told: solver, values, measurement, replayed noise. */
static uint64_t settings_number(const di_run *run)
{
    uint64_t h = stir(0xCBF29CE484222325u, run->solver->name, strlen(run->solver->name) + 1);
    for (int i = 0; i < DI_MAX_PARAM && run->solver->param[i].key; i++)
        h = stir(h, run->value[i], strlen(run->value[i]) + 1);
    if (run->problem)
        h = stir(h, run->y, run->m * sizeof *run->y);
    h = stir(h, &run->prior->steps, sizeof run->prior->steps);
    return run->noise ? stir(h, run->noise, run->noise_count * sizeof *run->noise) : h;
}

static state head_of(const di_run *run)
{
    state h;
    memset(&h, 0, sizeof h);
    memcpy(h.magic, sizeof(di_real) == 8 ? "DISTATE8" : "DISTATE4", 8);
    h.settings = settings_number(run);
    h.seed = run->seed;
    h.first = run->first;
    h.samples = run->samples;
    h.n = run->n;
    h.d = run->d;
    h.elements = run->elements;
    return h;
}

di_status di_run_save(di_run *run, di_write_fn write, void *user)
{
    if (!run->work)
        return di_fail(run->ctx, DI_EUSAGE, "a run is saved from within its report");
    state h = head_of(run);
    h.sample = run->sample;
    h.noise_used = run->noise_used;
    h.cost = run->cost;
    memcpy(h.own, run->own, sizeof h.own);
    h.wmv = run->wmv;
    h.step = run->step;
    h.steps = run->steps;
    memcpy(h.note, run->note, sizeof h.note);
    size_t out = run->samples * run->n * run->d * sizeof(di_real);
    size_t work = run->elements * sizeof(di_real);
    const di_real *result = run->out - run->sample * run->d;
    uint64_t sum = stir(stir(stir(0, &h, sizeof h), result, out), run->work, work);
    if (write(user, &h, sizeof h) || write(user, result, out) || write(user, run->work, work)
        || write(user, &sum, sizeof sum))
        return di_fail(run->ctx, DI_EOUTPUT, "the state of the run could not be written");
    return DI_OK;
}

di_status di_run_load(di_run *run, di_read_fn read, void *user, uint64_t size)
{
    state h;
    uint64_t sum;
    di_free(run->ctx, run->saved);
    run->saved = NULL;
    if (size < sizeof h + sizeof sum || size > (uint64_t)1 << 46)
        return di_fail(run->ctx, DI_EINPUT, "the saved state is cut short");
    char *saved = di_new(run->ctx, (size_t)size, 1);
    if (!saved)
        return DI_EMEMORY;
    int bad = read(user, 0, saved, (size_t)size);
    memcpy(&h, saved, sizeof h);
    memcpy(&sum, saved + size - sizeof sum, sizeof sum);
    if (!bad && !memcmp(h.magic, sizeof(di_real) == 8 ? "DISTATE8" : "DISTATE4", 8)
        && sum == stir(0, saved, (size_t)size - sizeof sum)) {
        run->saved = saved;
        run->saved_size = (size_t)size;
        return DI_OK;
    }
    di_free(run->ctx, saved);
    return di_fail(run->ctx, DI_EINPUT, bad ? "the saved state can't be read"
                   : "the saved state is damaged, or another build's");
}

/* Takes the state up, working memory being there. */
static di_status resume(di_run *run, di_real *x)
{
    state h, now = head_of(run);
    memcpy(&h, run->saved, sizeof h);
    size_t out = run->samples * run->n * run->d * sizeof(di_real);
    size_t work = run->elements * sizeof(di_real);
    int odd = 0; /* numbers that no run writes, and int can't hold */
    for (int i = 0; i < 4; i++)
        odd |= !(fabs(h.own[i]) < 1e9);
    if (odd || h.settings != now.settings || h.seed != now.seed || h.first != now.first
        || h.samples != now.samples || h.n != now.n || h.d != now.d
        || h.elements != now.elements || h.sample >= h.samples || h.step < 0
        || h.step > 1 << 30 || h.steps < h.step || h.steps > 1 << 30
        || run->saved_size != sizeof h + out + work + sizeof(uint64_t))
        return di_fail(run->ctx, DI_EUSAGE, "the saved state is of another run: resume with "
                       "the settings, measurement and seed that it was made with");
    memcpy(x, run->saved + sizeof h, out);
    memcpy(run->work, run->saved + sizeof h + out, work);
    run->sample = (size_t)h.sample;
    run->step = (int)h.step;
    run->steps = (int)h.steps;
    run->noise_used = (size_t)h.noise_used;
    run->cost = h.cost;
    memcpy(run->own, h.own, sizeof run->own);
    run->wmv = h.wmv;
    memcpy(run->note, h.note, sizeof run->note);
    run->note[sizeof run->note - 1] = 0;
    di_free(run->ctx, run->saved);
    run->saved = NULL;
    return DI_OK;
}

di_status di_run_go(di_run *run, const di_real *y, uint64_t seed, uint64_t first, size_t n,
                    di_real *x)
{
    int single = (run->solver->needs & DI_ONE_BY_ONE) != 0;
    if (n < 1)
        return di_fail(run->ctx, DI_EUSAGE, "%s: 0 samples asked for", run->solver->name);
    if (run->noise && n != 1)
        return di_fail(run->ctx, DI_EUSAGE, "replayed noise serves one sample at a time");
    if (run->problem && !di_finite(y, run->m))
        return di_fail(run->ctx, DI_EINPUT, "the measurement holds NaN or Inf");
    di_plan plan = make_plan(run, n);
    run->n = single ? 1 : n;
    run->samples = single ? n : 1;
    run->y = y;
    run->seed = seed;
    run->first = first;
    run->sample = run->noise_used = 0;
    run->step = run->steps = 0;
    run->wmv = -1;
    run->note[0] = 0;
    run->elements = plan.elements;
    memset(run->own, 0, sizeof run->own);
    memset(&run->cost, 0, sizeof run->cost);
    memset(x, 0, n * run->d * sizeof *x);
    run->work = di_new(run->ctx, plan.elements, sizeof(di_real));
    size_t times = plan.batch > run->n ? plan.batch : run->n;
    run->t = di_new(run->ctx, times + run->n, sizeof(double));
    run->loss = run->t ? run->t + times : NULL;
    di_status s = DI_EMEMORY;
    if (run->work && run->t)
        s = run->saved ? resume(run, x) : DI_OK;
    while (!s && run->sample < run->samples) {
        run->next = run->work;
        run->out = x + run->sample * run->d;
        s = run->solver->go(run);
        di_free(run->ctx, run->table);
        run->table = NULL;
        if (!s && ++run->sample < run->samples) {
            run->step = run->steps = 0;
            run->wmv = -1;
            memset(run->own, 0, sizeof run->own);
            memset(run->work, 0, run->elements * sizeof(di_real));
        }
    }
    di_free(run->ctx, run->work);
    di_free(run->ctx, run->t);
    run->work = NULL;
    run->t = run->loss = run->pull = NULL;
    run->half = NULL;
    return s;
}
