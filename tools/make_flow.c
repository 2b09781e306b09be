/* make_flow.c - the problem navier_stokes from text, and fields for it, see make_flow.h */
#define DIFFINV_KERNELS
#include "make_flow.h"

#include <math.h>
#include <string.h>

/* ==== Random fields ======================================================================= */

/* Of the generator: no other input has this number. */
enum { STREAM_FLOW = 32 };

/* u = Im F^-1 (lambda (xi_1 + i xi_2)), xi standard normal (draws 0 and 1),
   lambda = n^2 tau^(alpha-1) sqrt(2)/(2 pi) (k1^2 + k2^2 + tau^2)^(-alpha/2)
   on the half plane k1 + k2 > 0, or k1 + k2 = 0 and k1 > 0; k = 0..n/2-1, -n/2..-1; else 0. */
di_status make_grf(di_ctx *ctx, const flow_plan *plan, uint64_t seed, uint64_t sample, int n,
                   di_real *w)
{
    size_t area = (size_t)n * (size_t)n;
    if (n < 2 || n % 2 || n > 4096)
        return di_fail(ctx, DI_EUSAGE, "random field: %dx%d; the side must be even, 2 to 4096",
                       n, n);
    if (!(plan->alpha > 1 && plan->alpha <= 20 && plan->tau > 0 && plan->tau <= 1000))
        return di_fail(ctx, DI_EUSAGE, "random field: alpha=%g must be more than 1 and at most "
                       "20, tau=%g positive and at most 1000", plan->alpha, plan->tau);
    di_fft *f = di_fft_new(ctx, n);
    di_real *re = f ? di_new(ctx, 2 * area + di_fft_work(f), sizeof *re) : NULL;
    if (!re) {
        di_fft_free(f);
        return ctx->status;
    }
    di_real *im = re + area;
    di_normal(re, area, seed, STREAM_FLOW, sample, 0);
    di_normal(im, area, seed, STREAM_FLOW, sample, 1);
    double log_tau = di_log(plan->tau);
    for (size_t i = 0; i < area; i++) {
        int k1 = (int)(i / (size_t)n), k2 = (int)(i % (size_t)n);
        k1 -= k1 < n / 2 ? 0 : n;
        k2 -= k2 < n / 2 ? 0 : n;
        double power = di_log(k1 * k1 + k2 * k2 + plan->tau * plan->tau);
        double lambda = 0.22507907903927651739 /* sqrt(2)/(2 pi); n^2 cancels in F^-1 */
                        * di_exp((plan->alpha - 1) * log_tau - plan->alpha / 2 * power);
        if (!(k1 + k2 > 0 || (k1 + k2 == 0 && k1 > 0)))
            lambda = 0;
        re[i] = (di_real)(lambda * re[i]);
        im[i] = (di_real)(lambda * im[i]);
    }
    di_fft2(f, f, 1, 1, 1, re, im, im + area);
    memcpy(w, im, area * sizeof *w);
    di_free(ctx, re);
    di_fft_free(f);
    return ctx->status;
}

di_status make_vorticity(di_ctx *ctx, const flow_plan *plan, uint64_t seed, uint64_t first,
                         size_t count, int n, di_real *x)
{
    size_t area = (size_t)n * (size_t)n;
    if (!(fabs(plan->scale) > 0))
        return di_fail(ctx, DI_EUSAGE, "vorticity: scale=%g must not be 0", plan->scale);
    for (size_t i = 0; i < count; i++)
        if (make_grf(ctx, plan, seed, first + i, n, x + i * area))
            return ctx->status;
    if (plan->time != 0) {
        di_flow flow = { plan->re, plan->time, 0, plan->forcing, 1, 1, 0, 0 };
        di_problem *p;
        if (di_problem_navier_stokes(ctx, n, &flow, &p))
            return ctx->status;
        di_real *w = di_new(ctx, count * area, sizeof *w);
        if (!w)
            return ctx->status;
        memcpy(w, x, count * area * sizeof *w);
        di_apply(p, count, w, x);
        di_free(ctx, w);
    }
    for (size_t i = 0; i < count * area; i++)
        x[i] = (di_real)(x[i] / plan->scale);
    return ctx->status;
}

/* ==== The problem ========================================================================= */

static di_status problem_flow(di_ctx *ctx, const make_spec *spec, int c, int h, int w,
                              di_problem **problem)
{
    int sub = (int)make_number(spec, "sub");
    di_flow flow = { make_number(spec, "re"), make_number(spec, "time"), 0,
                     make_number(spec, "forcing"), make_number(spec, "scale"), sub, 0,
                     (int)make_number(spec, "keep") };
    const char *dt = make_get(spec, "dt");
    if (!strcmp(dt, "batch"))
        flow.together = 1;
    else if (strcmp(dt, "adaptive") && (di_parse(dt, strlen(dt), &flow.dt) || !(flow.dt > 0)))
        return di_fail(ctx, DI_EUSAGE, "problem navier_stokes: dt=%s: give adaptive, batch or "
                       "a positive number", dt);
    if (c != 1)
        return di_fail(ctx, DI_EINPUT, "problem navier_stokes: the field has %d channels: give "
                       "the vorticity alone, (1,n,n)", c);
    if (h != w || h % 2 || h < 8)
        return di_fail(ctx, DI_EINPUT, "problem navier_stokes: the field is %dx%d: it must be "
                       "square with an even side of at least 8; --size and --fit resize cut "
                       "and scale a picture", h, w);
    if (h % sub)
        return di_fail(ctx, DI_EUSAGE, "problem navier_stokes: sub=%d does not divide the "
                       "field's side, %d", sub, h);
    return di_problem_navier_stokes(ctx, h, &flow, problem);
}

static di_status flow_image(di_ctx *ctx, const make_spec *spec, const int y[3], int x[3])
{
    int sub = (int)make_number(spec, "sub");
    if (y[1] > (1 << 16) / sub || y[2] > (1 << 16) / sub)
        return di_fail(ctx, DI_EINPUT, "problem navier_stokes: a measurement of %dx%d times "
                       "sub=%d is more than 65536 a side", y[1], y[2], sub);
    x[1] = y[1] * sub;
    x[2] = y[2] * sub;
    return DI_OK;
}

const make_kind make_navier_stokes = {
    "navier_stokes", "fluid: y = every sub-th point of the vorticity at a later time",
    "exact adjoint of the solver's steps", 0, 0, problem_flow, flow_image, NULL,
    {{"sub", "2", "1..512 int", "every how many points are measured (InverseBench: 2, 4, 8)"},
     {"re", "200", "0.001..1000000000", "Reynolds number (InverseBench)"},
     {"time", "1", "0.000001..10000", "how much later (InverseBench)"},
     {"dt", "adaptive", "adaptive, batch or a number",
      "step; batch: that of the fastest field for all of a batch, as InverseBench"},
     {"forcing", "4", "0..100000", "f = -forcing cos(4 y) (InverseBench)"},
     {"scale", "10", "0.000001..100000", "vorticity of an image's 1 (InverseBench)"},
     {"keep", "1024", "2..1000000 int",
      "states of (n,n+2) numbers that a derivative stores; fewer: steps run again, by gaps"},
     {"sigma", "0", "0..100", "noise level on the vorticity (InverseBench: 0, 1, 2)"}}};
