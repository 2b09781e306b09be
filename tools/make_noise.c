/* make_noise.c - the noise of pictures, see make.h */
#define DIFFINV_KERNELS
#include "make.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ==== Poisson numbers ======================================================================

   A pure function: element i of sample `sample` takes words 0, 1, ... (as draws) of its own
   until one is accepted. Below 30 the distribution function is inverted; from there Hoermann's
   transformed rejection PTRS (Insurance: Mathematics and Economics 12, 1993), with our own
   logarithm. */

static double uniform(size_t i, uint64_t seed, uint64_t sample, uint32_t draw)
{
    return ((double)di_bits(i, seed, DI_STREAM_MEASURE, sample, draw) + 0.5) / 4294967296.0;
}

/* log k!: a product below 10, Stirling's series from there (within 1e-10) */
static double log_factorial(double k)
{
    double product = 1, k2 = k * k;
    for (int i = 2; k < 10 && i <= k; i++)
        product *= i;
    return k < 10 ? di_log(product)
                  : (k + 0.5) * di_log(k) - k + 0.91893853320467274178 +
                        (1.0 / 12 - (1.0 / 360 - 1 / (1260 * k2)) / k2) / k;
}

static double poisson_large(double mean, size_t i, uint64_t seed, uint64_t sample)
{
    double b = 0.931 + 2.53 * sqrt(mean), a = 0.02483 * b - 0.059;
    double accept = 0.9277 - 3.6224 / (b - 2), height = 1.1239 + 1.1328 / (b - 3.4);
    for (uint32_t draw = 0; draw < 2000; draw += 2) {
        double u = uniform(i, seed, sample, draw) - 0.5, v = uniform(i, seed, sample, draw + 1);
        double edge = 0.5 - fabs(u), k = floor((2 * a / edge + b) * u + mean + 0.43);
        if (edge >= 0.07 && v <= accept)
            return k;
        if (k < 0 || (edge < 0.013 && v > edge))
            continue;
        if (di_log(v * height / (a / (edge * edge) + b)) <=
            k * di_log(mean) - mean - log_factorial(k))
            return k;
    }
    return floor(mean); /* once in 10^300 */
}

double make_poisson(double mean, size_t i, uint64_t seed, uint64_t sample)
{
    if (mean >= 30)
        return poisson_large(mean, i, seed, sample);
    double u = uniform(i, seed, sample, 0), share = di_exp(-mean), sum = share;
    int k = 0;
    while (u > sum && k < 200) {
        k++;
        share *= mean / k;
        sum += share;
    }
    return k;
}

/* ==== The kinds of noise ===================================================================

   But for the Gaussian they act on p = clip((y+1)/2, 0, 1) and clip again.
     poisson   Pois(255 rate p) / (255 rate)                          DPS, rate 1
     shot      Pois(c p) / c                       c = 60, 25         low, high: severities 1
     speckle   p + c p N                           c = 0.15, 0.20     and 2 of ImageNet-C, which
     impulse   0 or 1, each with probability c/2   c = 0.03, 0.06     stand in for DMPlug's
                                                                      study: it has no code */

static double noisy(const char *kind, double c, double p, double normal, size_t i,
                    uint64_t seed, uint64_t sample)
{
    if (!strcmp(kind, "speckle"))
        return p + c * p * normal;
    if (!strcmp(kind, "impulse"))
        return uniform(i, seed, sample, 0) >= c ? p : uniform(i, seed, sample, 1) >= 0.5;
    return make_poisson(c * p, i, seed, sample) / c;
}

di_status make_image_noise(di_ctx *ctx, const make_spec *spec, const di_problem *p,
                           uint64_t seed, size_t sample, di_real *y)
{
    const char *kind = make_get(spec, "noise");
    int high = !strcmp(make_get(spec, "level"), "high");
    size_t m = (size_t)p->y[0] * (size_t)p->y[1] * (size_t)p->y[2];
    if (!strcmp(kind, "gaussian"))
        return make_gaussian_noise(ctx, make_sigma(spec), p, seed, sample, y);
    double c = !strcmp(kind, "poisson") ? 255 * make_number(spec, "rate")
               : !strcmp(kind, "shot") ? (high ? 25 : 60)
               : !strcmp(kind, "speckle") ? (high ? 0.20 : 0.15) : high ? 0.06 : 0.03;
    di_real *normal = malloc(m * sizeof *normal);
    if (!normal)
        return di_fail(ctx, DI_EMEMORY, "no memory for the noise");
    di_normal(normal, m, seed, DI_STREAM_MEASURE, sample, 0);
    for (size_t i = 0; i < m; i++) {
        double v = ((double)y[i] + 1) / 2;
        v = v > 0 ? v < 1 ? v : 1 : 0;
        v = noisy(kind, c, v, (double)normal[i], i, seed, sample);
        y[i] = (di_real)(2 * (v > 0 ? v < 1 ? v : 1 : 0) - 1);
    }
    free(normal);
    return DI_OK;
}
