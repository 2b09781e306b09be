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
    const di_real *y;
    di_real *out;                /* the caller's result: last good estimate */
    di_real *work, *next;        /* nx images and ny measurements, handed out by take */
    double *t;                   /* (n) network times */
    int step, steps;
    di_cost cost;
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

/* z (n,size) = N(0,1), draw number `draw` of the stream; replayed noise is read in order. */
static void normal(di_run *run, di_real *z, size_t size, uint32_t stream, uint32_t draw)
{
    for (size_t i = 0; !run->noise && i < run->n; i++)
        di_normal(z + i * size, size, run->seed, stream, run->first + i, draw);
    for (size_t i = 0; run->noise && i < size; i++) {
        if (run->noise_used == run->noise_count) {
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
    if (run->noise)
        run->noise_used += size < run->noise_count - run->noise_used
                               ? size : run->noise_count - run->noise_used;
}

/* A prior of the caller's own fails without a text. */
static di_status heed(di_run *run, di_status s)
{
    if (s && !run->ctx->status)
        di_fail(run->ctx, s, "%s: the prior failed at step %d of %d", run->solver->name,
                run->step + 1, run->steps);
    return s;
}

static di_status predict(di_run *run, double t, const di_real *x, di_real *eps, di_real *v,
                         int keep)
{
    for (size_t i = 0; i < run->n; i++)
        run->t[i] = t;
    run->cost.net += run->n;
    return heed(run, run->prior->eval(run->prior, run->n, run->t, x, eps, v, keep));
}

/* r = y - A(x0), per sample; y is shared. */
static void residual(di_run *run, const di_real *x0, di_real *r)
{
    di_apply(run->problem, run->n, x0, r);
    run->cost.apply += run->n;
    for (size_t i = 0; i < run->n * run->m; i++)
        r[i] = run->y[i % run->m] - r[i];
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
    di_step s = { run->step, run->steps, t, sigma, resid, x, x0 };
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

/* ==== 2. The discrete schedule ===============================================================
   K kept of T steps, every table rebuilt from the kept abar (Nichol & Dhariwal 2021,
   arXiv 2102.09672; rules as in openai/guided-diffusion respace.py). Double throughout. */

typedef struct schedule {
    int K;
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

static di_status make_schedule(di_run *run, schedule *s)
{
    const di_prior *p = run->prior;
    int K = s->K = (int)num(run, "steps");
    s->index = di_new(run->ctx, 6 * (size_t)K, sizeof(double));
    if (!s->index)
        return DI_EMEMORY;
    s->beta = s->index + K;
    s->abar = s->beta + K;
    s->prev = s->abar + K;
    s->btil = s->prev + K;
    s->log_btil = s->btil + K;
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
    run->steps = K;
    return DI_OK;
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

/* Ancestral step (Ho et al. 2020, arXiv 2006.11239, eq. 7; variance of 2102.09672, eq. 15):
   next = c1 x0 + c2 x + [k>0] exp(logvar/2) z. v: the variance head or NULL. z is drawn also
   at k = 0, as the official programs do. */
static void ancestral(di_run *run, const schedule *s, int k, int var, const di_real *x0,
                      const di_real *x, const di_real *v, di_real *z, uint32_t draw,
                      di_real *next)
{
    double log_beta = di_log(s->beta[k]), log_btil = s->log_btil[k];
    di_real c1 = (di_real)(s->beta[k] * sqrt(s->prev[k]) / (1 - s->abar[k]));
    di_real c2 = (di_real)((1 - s->prev[k]) * sqrt(1 - s->beta[k]) / (1 - s->abar[k]));
    di_real std = (di_real)di_exp(0.5 * (var == DI_VAR_FIXED_LARGE && k ? log_beta : log_btil));
    normal(run, z, run->d, DI_STREAM_SOLVER, draw);
    for (size_t i = 0; i < run->n * run->d; i++) {
        di_real mean = c1 * x0[i] + c2 * x[i];
        if (var == DI_VAR_LEARNED_RANGE && k) {
            double f = (v[i] + 1.0) / 2;
            std = (di_real)di_exp(0.5 * (f * log_beta + (1 - f) * log_btil));
        }
        next[i] = k ? mean + std * z[i] : mean;
    }
}

/* ==== 3. DDPM: unconditional ancestral sampling ==============================================
   J. Ho, A. Jain, P. Abbeel, "Denoising Diffusion Probabilistic Models", arXiv 2006.11239v2,
   Algorithm 2, with the learned variance and respacing of arXiv 2102.09672. Defaults of
   openai/guided-diffusion. */

static di_status ddpm(di_run *run)
{
    schedule s;
    if (make_schedule(run, &s))
        return run->ctx->status;
    int var = variance(run), clip = is(run, "clip", "yes");
    di_real *x = take(run, run->d), *x0 = take(run, run->d), *e = take(run, run->d);
    di_real *v = take(run, run->d), *z = take(run, run->d);
    normal(run, x, run->d, DI_STREAM_INIT, 0);                          /* Alg.2 l.1 */
    for (int k = s.K - 1; k >= 0 && !run->ctx->status; k--) {           /* Alg.2 l.2 */
        predict(run, s.index[k], x, e, v, 0);
        estimate(run, s.abar[k], x, e, clip, x0);
        ancestral(run, &s, k, var, x0, x, v, z, (uint32_t)(s.K - k), x); /* Alg.2 l.3-4 */
        done(run, s.index[k], sqrt((1 - s.abar[k]) / s.abar[k]), -1, x, x0);
    }
    di_free(run->ctx, s.index);
    return run->ctx->status ? run->ctx->status : finish(run, x);        /* Alg.2 l.6 */
}

/* ==== 4. DDIM ================================================================================
   J. Song, C. Meng, S. Ermon, "Denoising Diffusion Implicit Models", arXiv 2010.02502v4, eq. 12
   and 16. The noise direction is re-derived from the clipped x0, as openai/guided-diffusion. */

/* next = sqrt(prev) x0 + sqrt(1-prev-sg^2) e' + [k>0] sg z,
   e' = (x/sqrt(abar) - x0) / sqrt(1/abar - 1) */
static void implicit(di_run *run, const schedule *s, int k, double eta, const di_real *x0,
                     const di_real *x, di_real *z, uint32_t draw, di_real *next)
{
    double abar = s->abar[k], prev = s->prev[k];
    double sg = eta * sqrt((1 - prev) / (1 - abar)) * sqrt(1 - abar / prev);
    double turn = sqrt(1 - prev - sg * sg < 0 ? 0 : 1 - prev - sg * sg) / sqrt(1 / abar - 1);
    di_real a = (di_real)(sqrt(prev) - turn), b = (di_real)(turn / sqrt(abar));
    di_real c = (di_real)(k ? sg : 0);
    normal(run, z, run->d, DI_STREAM_SOLVER, draw);
    for (size_t i = 0; i < run->n * run->d; i++)
        next[i] = a * x0[i] + b * x[i] + c * z[i];
}

static di_status ddim(di_run *run)
{
    schedule s;
    if (make_schedule(run, &s))
        return run->ctx->status;
    int clip = is(run, "clip", "yes");
    double eta = num(run, "eta");
    di_real *x = take(run, run->d), *x0 = take(run, run->d), *e = take(run, run->d);
    di_real *z = take(run, run->d);
    normal(run, x, run->d, DI_STREAM_INIT, 0);
    for (int k = s.K - 1; k >= 0 && !run->ctx->status; k--) {
        predict(run, s.index[k], x, e, NULL, 0);
        estimate(run, s.abar[k], x, e, clip, x0);                       /* eq. 9 */
        implicit(run, &s, k, eta, x0, x, z, (uint32_t)(s.K - k), x);    /* eq. 12 */
        done(run, s.index[k], sqrt((1 - s.abar[k]) / s.abar[k]), -1, x, x0);
    }
    di_free(run->ctx, s.index);
    return run->ctx->status ? run->ctx->status : finish(run, x);
}

/* ==== 5. DPS =================================================================================
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

static di_status dps(di_run *run)
{
    schedule s;
    if (make_schedule(run, &s))
        return run->ctx->status;
    int var = variance(run), clip = is(run, "clip", "yes");
    double scale = num(run, "scale");
    di_real *x = take(run, run->d), *x0 = take(run, run->d), *e = take(run, run->d);
    di_real *v = take(run, run->d), *z = take(run, run->d), *g = take(run, run->d);
    di_real *r = take(run, run->m);
    normal(run, x, run->d, DI_STREAM_INIT, 0);                          /* Alg.1 l.1 */
    for (int k = s.K - 1; k >= 0 && !run->ctx->status; k--) {           /* Alg.1 l.2 */
        predict(run, s.index[k], x, e, v, scale != 0);                  /* Alg.1 l.3 */
        double a = sqrt(1 / s.abar[k]), b = sqrt(1 / s.abar[k] - 1), first = 0;
        estimate(run, s.abar[k], x, e, 0, x0);                          /* Alg.1 l.4 */
        for (size_t i = 0; i < run->n * run->d; i++) {
            g[i] = !clip || (x0[i] >= -1 && x0[i] <= 1);                /* the clamp's slope */
            x0[i] = clip && x0[i] < -1 ? -1 : clip && x0[i] > 1 ? 1 : x0[i];
        }
        residual(run, x0, r);                                           /* y - A(x0) */
        for (size_t j = 0; j < run->n; j++) {
            double rho = sqrt(di_dot(r + j * run->m, r + j * run->m, run->m));
            first = j ? first : rho / sqrt((double)run->m);
            for (size_t i = 0; i < run->m; i++)
                r[j * run->m + i] = rho > 0 ? (di_real)(r[j * run->m + i] / rho) : 0;
        }
        if (scale != 0) { /* d||y - A(x0)||/dx = -J^T A'^T r/rho; J = (a I - b J_e) */
            di_apply_vjp(run->problem, run->n, x0, r, z);
            run->cost.apply_vjp += run->n;
            for (size_t i = 0; i < run->n * run->d; i++)
                g[i] = -g[i] * z[i];
            heed(run, run->prior->vjp(run->prior, g, e));
            run->cost.net_vjp += run->n;
            for (size_t i = 0; i < run->n * run->d; i++)
                g[i] = (di_real)a * g[i] - (di_real)b * e[i];
        }
        ancestral(run, &s, k, var, x0, x, v, z, (uint32_t)(s.K - k), x); /* Alg.1 l.5-6 */
        discard(run, run->m);
        for (size_t i = 0; scale != 0 && i < run->n * run->d; i++)
            x[i] -= (di_real)scale * g[i];                              /* Alg.1 l.7 */
        done(run, s.index[k], sqrt((1 - s.abar[k]) / s.abar[k]), first, x, x0);
    }
    di_free(run->ctx, s.index);
    return run->ctx->status ? run->ctx->status : finish(run, x);        /* Alg.1 l.9 */
}

/* ==== 6. DDNM ================================================================================
   Y. Wang, J. Yu, J. Zhang, "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space
   Model", arXiv 2212.00490v2, Algorithm 1 (sigma_y = 0) and the scalar DDNM+ of devzhk/
   InverseBench, on the discrete schedule: with sg the noise level sqrt((1-abar)/abar),
     lam = min(1, sg'/sigma_y),  gam = sqrt(max(0, sg'^2 - lam^2 sigma_y^2)),
     xhat = lam (A^+ y + (I - A^+ A) x0) + (1-lam) x0,
     x'/sqrt(abar') = xhat + sqrt(1-eta^2) (sg'/sg) (x/sqrt(abar) - xhat) + eta gam z.
   Deviation: no time travel (L = 1); the paper's lam, gam per singular value become one. */

static di_status ddnm(di_run *run)
{
    schedule s;
    if (make_schedule(run, &s))
        return run->ctx->status;
    int clip = is(run, "clip", "yes");
    double eta = num(run, "eta"), sigma_y = num(run, "sigma_y");
    di_real *x = take(run, run->d), *x0 = take(run, run->d), *e = take(run, run->d);
    di_real *z = take(run, run->d), *r = take(run, run->m);
    normal(run, x, run->d, DI_STREAM_INIT, 0);
    for (int k = s.K - 1; k >= 0 && !run->ctx->status; k--) {
        double sg = sqrt((1 - s.abar[k]) / s.abar[k]), next = sqrt((1 - s.prev[k]) / s.prev[k]);
        double lam = next >= sigma_y ? 1 : next / sigma_y;
        double gam = lam < 1 ? 0 : eta * sqrt(next * next - sigma_y * sigma_y);
        double turn = sqrt(1 - eta * eta) * next / sg;
        predict(run, s.index[k], x, e, NULL, 0);
        estimate(run, s.abar[k], x, e, clip, x0);                       /* Alg.1 l.3 */
        residual(run, x0, r);
        di_apply_pinv(run->problem, run->n, r, z);
        for (size_t i = 0; i < run->n * run->d; i++)
            x0[i] += (di_real)lam * z[i];                               /* Alg.1 l.4 */
        residual(run, x0, r);
        run->cost.apply -= run->n;                                      /* for the report only */
        normal(run, z, run->d, DI_STREAM_SOLVER, (uint32_t)(s.K - k));
        di_real a = (di_real)(sqrt(s.prev[k]) * (1 - turn));
        di_real b = (di_real)(sqrt(s.prev[k] / s.abar[k]) * turn);
        di_real c = (di_real)(sqrt(s.prev[k]) * gam);
        for (size_t i = 0; i < run->n * run->d; i++)
            x[i] = a * x0[i] + b * x[i] + c * z[i];                     /* Alg.1 l.5 */
        done(run, s.index[k], sg, di_rms(r, run->m), x, x0);
    }
    di_free(run->ctx, s.index);
    return run->ctx->status ? run->ctx->status : finish(run, x);
}

/* ==== 7. The table ======================================================================== */

#define P_VAR { "var", "auto", "auto|fixed_small|fixed_large|learned_range", \
                "posterior variance; auto: what the prior was trained for" }
#define P_SPACING { "spacing", "even", "even|ddim", \
                    "rule of the kept steps (guided-diffusion respace.py)" }
#define P_CLIP { "clip", "yes", "yes|no", "clamp x0 to [-1,1] (guided-diffusion)" }

static const di_solver solvers[] = {
    { "ddpm", "unconditional ancestral sampling", "Ho et al., arXiv 2006.11239v2, Alg. 2",
      0, 5, 0,
      { { "steps", "1000", "1..100000 int", "kept steps (guided-diffusion)" },
        P_VAR, P_SPACING, P_CLIP }, ddpm },
    { "ddim", "unconditional implicit sampling", "Song et al., arXiv 2010.02502v4, eq. 12",
      0, 4, 0,
      { { "steps", "50", "1..100000 int", "kept steps (paper, table 1)" },
        { "eta", "0", "0..1", "noise added, 0 deterministic, 1 as ddpm (paper)" },
        P_SPACING, P_CLIP }, ddim },
    { "dps", "diffusion posterior sampling", "Chung et al., arXiv 2209.14687v4, Alg. 1",
      DI_NEEDS_PROBLEM | DI_NEEDS_VJP | DI_NEEDS_NET_VJP, 6, 1,
      { { "steps", "1000", "1..100000 int", "kept steps (official configs)" },
        { "scale", "0.3", "0..1000",
          "step on the gradient of ||y-A(x0)|| (official configs: sr, blur 0.3; inpaint 0.5)" },
        P_VAR, P_SPACING, P_CLIP }, dps },
    { "ddnm", "null-space projection", "Wang et al., arXiv 2212.00490v2, Alg. 1",
      DI_NEEDS_PROBLEM | DI_NEEDS_LINEAR | DI_NEEDS_PINV, 4, 1,
      { { "steps", "100", "1..100000 int", "kept steps (paper, InverseBench)" },
        { "eta", "0.85", "0..1", "share of fresh noise (paper, InverseBench)" },
        { "sigma_y", "0.05", "0..100", "measurement noise, [-1,1] scale; 0: plain DDNM" },
        P_SPACING, P_CLIP }, ddnm },
};

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

/* ==== 8. The public calls ================================================================= */

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
    unsigned have = DI_NEEDS_PROBLEM | (prior->vjp ? DI_NEEDS_NET_VJP : 0);
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
    *out = run;
    return DI_OK;
}

void di_run_close(di_run *run)
{
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

static size_t work_elements(const di_run *run, size_t n)
{
    return n * ((size_t)run->solver->nx * run->d + (size_t)run->solver->ny * run->m);
}

size_t di_run_bytes(const di_run *run, size_t n)
{
    return work_elements(run, n) * sizeof(di_real)
           + run->prior->bytes(run->prior, n, (run->solver->needs & DI_NEEDS_NET_VJP) != 0);
}

di_status di_run_go(di_run *run, const di_real *y, uint64_t seed, uint64_t first, size_t n,
                    di_real *x)
{
    if (n < 1)
        return di_fail(run->ctx, DI_EUSAGE, "%s: 0 samples asked for", run->solver->name);
    if (run->noise && n != 1)
        return di_fail(run->ctx, DI_EUSAGE, "replayed noise serves one sample at a time");
    if (run->problem && !di_finite(y, run->m))
        return di_fail(run->ctx, DI_EINPUT, "the measurement holds NaN or Inf");
    run->n = n;
    run->y = y;
    run->out = x;
    run->seed = seed;
    run->first = first;
    run->step = run->steps = 0;
    run->noise_used = 0;
    memset(&run->cost, 0, sizeof run->cost);
    memset(x, 0, n * run->d * sizeof *x);
    run->work = di_new(run->ctx, work_elements(run, n), sizeof(di_real));
    run->t = di_new(run->ctx, n, sizeof(double));
    run->next = run->work;
    di_status s = DI_EMEMORY;
    if (run->work && run->t)
        s = run->solver->go(run);
    di_free(run->ctx, run->work);
    di_free(run->ctx, run->t);
    return s;
}
