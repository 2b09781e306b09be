/* make_flow.h - vorticity fields of a fluid: random ones and such that have evolved.
 *
 * Fields are (n,n) with n even, first index x, second y, on the periodic square [0,2pi)^2, and
 * pure functions of seed and sample number. */
#ifndef MAKE_FLOW_H
#define MAKE_FLOW_H

#include "make.h"

/* Of the Gaussian random field: spectrum (|k|^2 + tau^2)^-alpha; and of the fluid. */
typedef struct flow_plan {
    double alpha, tau;      /* > 1; > 0 */
    double re, time;        /* Reynolds number; how long the field evolves, 0: not at all */
    double forcing, scale;  /* f = -forcing cos(4 y); the unit that it is divided by */
} flow_plan;
/* The random field of InverseBench's EKI, and what its training fields are said to be: that,
 * after 5 units of time at Re 200, over 10. */
#define FLOW_PLAN {4, 3, 200, 5, 4, 10}

/* w (n,n) = a sample of the random field: mean 0, deviation 0.154 for alpha 4, tau 3. */
di_status make_grf(di_ctx *ctx, const flow_plan *plan, uint64_t seed, uint64_t sample, int n,
                   di_real *w);
/* x (count,n,n) = samples first, first + 1, .. of the field, evolved, over the scale: deviation
 * about 0.55 for FLOW_PLAN. Several at once are faster than one by one, and the same bits. */
di_status make_vorticity(di_ctx *ctx, const flow_plan *plan, uint64_t seed, uint64_t first,
                         size_t count, int n, di_real *x);

#endif
