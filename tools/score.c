/* score.c - how good a picture is in the terms of its problem, see score.h */
#define DIFFINV_KERNELS
#include "picture.h"
#include "score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ==== PSNR after a shift, and blurred ==================================================== */

typedef struct plane {
    size_t h, w;
    double *x, *truth, *shifted, *best, *blur[2], *work; /* (h,w) each, in [0,1] */
} plane;

static double psnr(const double *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    return -10 * di_log(sum / (double)n + 1e-8) / 2.30258509299404568402;
}

static double clip(double v) { return v < 0 ? 0 : v > 1 ? 1 : v; }

static double at(const plane *p, double r, double c)
{
    int inside = r >= 0 && r < (double)p->h && c >= 0 && c < (double)p->w;
    return inside ? p->x[(size_t)r * p->w + (size_t)c] : 0;
}

/* shifted[r][c] = x at (r + dy, c + dx), bilinear, 0 outside. */
static void shift(plane *p, double dy, double dx)
{
    double fy = dy - floor(dy), fx = dx - floor(dx);
    for (size_t i = 0; i < p->h * p->w; i++) {
        double r = (double)(i / p->w) + floor(dy), c = (double)(i % p->w) + floor(dx);
        p->shifted[i] = (1 - fy) * ((1 - fx) * at(p, r, c) + fx * at(p, r, c + 1)) +
                        fy * ((1 - fx) * at(p, r + 1, c) + fx * at(p, r + 1, c + 1));
    }
}

/* The shift of least error, the first of equals: 30 x 30 of them, -1/2 .. 1/2 of half the side
   between the outer pixels' centres. */
static double align(plane *p)
{
    enum { STEPS = 30 };
    double best = -1;
    for (int i = 0; i < STEPS; i++)
        for (int k = 0; k < STEPS; k++) {
            double tx = -0.5 + (double)i / (STEPS - 1), ty = -0.5 + (double)k / (STEPS - 1);
            shift(p, ty * (double)(p->h - 1) / 2, tx * (double)(p->w - 1) / 2);
            double v = psnr(p->shifted, p->truth, p->h * p->w);
            if (!(v <= best)) { /* NaN stays */
                best = v;
                memcpy(p->best, p->shifted, p->h * p->w * sizeof *p->best);
            }
        }
    return best;
}

/* i folded into 0..n-1 by mirrors at the edges, the edge pixel repeated */
static size_t fold(long i, size_t n)
{
    long m = 2 * (long)n, k = (i % m + m) % m;
    return (size_t)(k < (long)n ? k : m - 1 - k);
}

/* out = in under a Gaussian of deviation sigma pixels, cut off at 4 sigma; out is not in. */
static void gaussian(plane *p, double sigma, const double *in, double *out)
{
    long reach = (long)(4 * sigma + 0.5);
    memcpy(out, in, p->h * p->w * sizeof *out);
    for (int side = 0; side < 2 && sigma > 1e-15; side++) {
        memcpy(p->work, out, p->h * p->w * sizeof *out);
        for (size_t i = 0; i < p->h * p->w; i++) {
            double sum = 0, weight = 0;
            for (long k = -reach; k <= reach; k++) {
                double g = di_exp(-0.5 * (double)(k * k) / (sigma * sigma));
                long r = (long)(i / p->w), c = (long)(i % p->w);
                size_t from = side ? (size_t)r * p->w + fold(c + k, p->w)
                                   : fold(r + k, p->h) * p->w + (size_t)c;
                sum += g * p->work[from];
                weight += g;
            }
            out[i] = sum / weight;
        }
    }
}

int score_hole_psnr(const di_real *x, const di_real *truth, size_t h, size_t w, double pixel,
                    double out[HOLE_PSNRS])
{
    static const double fwhm[HOLE_PSNRS - 1] = {0, 10, 15, 20};
    size_t n = h * w;
    plane p = {h, w, calloc(7 * n, sizeof(double)), NULL, NULL, NULL, {NULL, NULL}, NULL};
    if (!p.x)
        return IO_MEMORY;
    p.truth = p.x + n;
    p.shifted = p.truth + n;
    p.best = p.shifted + n;
    p.blur[0] = p.best + n;
    p.blur[1] = p.blur[0] + n;
    p.work = p.blur[1] + n;
    for (size_t i = 0; i < n; i++) {
        p.x[i] = clip(((double)x[i] + 1) / 2);
        p.truth[i] = clip(((double)truth[i] + 1) / 2);
    }
    out[0] = align(&p);
    for (int k = 1; k < HOLE_PSNRS; k++) {
        double sigma = fwhm[k - 1] / (2 * sqrt(2 * 0.69314718055994530942)) / pixel;
        gaussian(&p, sigma, p.best, p.blur[0]);
        gaussian(&p, sigma, p.truth, p.blur[1]);
        out[k] = psnr(p.blur[0], p.blur[1], n);
    }
    free(p.x);
    return 0;
}

/* ==== Reported chi-squares =============================================================== */

int score_hole_chi2(const di_problem *p, const di_real *x, const di_real *y, double out[2])
{
    size_t n = (size_t)p->x[1] * (size_t)p->x[2];
    di_real *scaled = malloc(n * sizeof *scaled);
    double flux = 0, chi2[4];
    if (!scaled)
        return IO_MEMORY;
    for (size_t i = 0; i < n; i++)
        flux += ((double)x[i] + 1) / 2;
    for (size_t i = 0; i < n; i++)
        scaled[i] = (di_real)(((double)x[i] + 1) * (double)y[p->y[2] - 1] / flux - 1);
    di_hole_chi2(p, scaled, y, chi2);
    for (int k = 0; k < 2; k++)
        out[k] = chi2[k + 1] < 1 ? 1 / chi2[k + 1] : chi2[k + 1];
    free(scaled);
    return 0;
}

/* ==== Columns of a problem =============================================================== */

static void put(scores *s, const char *name, double v, int least)
{
    s->name[s->n] = name;
    s->least[s->n] = least;
    s->v[s->n++] = v;
}

static int score_hole(const make_spec *spec, const di_problem *p, const di_real *x,
                      const di_real *y, const di_real *truth, scores *s)
{
    static const char *const name[HOLE_PSNRS] = {"psnr_aligned", "psnr_fwhm0", "psnr_fwhm10",
                                                 "psnr_fwhm15", "psnr_fwhm20"};
    double size = make_number(spec, "size"), chi2[2], v[HOLE_PSNRS];
    int code = y ? score_hole_chi2(p, x, y, chi2) : 0;
    for (int k = 0; !code && y && k < 2; k++)
        put(s, k ? "chi2_lca" : "chi2_cp", chi2[k], 1);
    if (!code && truth)
        code = score_hole_psnr(x, truth, (size_t)size, (size_t)size, make_number(spec, "fov") /
                               size, v);
    for (int k = 0; !code && truth && k < HOLE_PSNRS; k++)
        put(s, name[k], v[k], 0);
    return code;
}

/* PSNR of magnitudes, x and truth (2,h,w), the data range the greatest of the truth's. */
static double psnr_magnitude(const di_real *x, const di_real *truth, size_t n)
{
    double sum = 0, most = 0;
    for (size_t i = 0; i < n; i++) {
        double a = sqrt((double)x[i] * x[i] + (double)x[n + i] * x[n + i]);
        double re = (double)truth[i], im = (double)truth[n + i], b = sqrt(re * re + im * im);
        sum += (a - b) * (a - b);
        most = b > most ? b : most;
    }
    return -10 * di_log(sum / (double)n / (most * most)) / 2.30258509299404568402;
}

int score_of(di_ctx *ctx, const make_spec *spec, const di_problem *p, const di_real *x,
             const di_real *y, const di_real *truth, scores *s)
{
    const char *name = spec->kind->name;
    size_t n = p ? (size_t)p->x[1] * (size_t)p->x[2] : 0;
    s->n = 0;
    if (!strcmp(name, "blackhole") && score_hole(spec, p, x, y, truth, s))
        return di_fail(ctx, DI_EMEMORY, "no memory for the scores");
    if (truth && p && !strcmp(name, "navier_stokes"))
        put(s, "field_error", pic_relative_l2(x, truth, n), 1);
    if (truth && p && !strcmp(name, "mri"))
        put(s, "psnr_magnitude", psnr_magnitude(x, truth, n), 0);
    return 0;
}

void score_best(scores *best, const scores *s)
{
    for (int k = 0; k < s->n; k++)
        if (k >= best->n || (s->least[k] ? s->v[k] < best->v[k] : s->v[k] > best->v[k]))
            best->v[k] = s->v[k];
    best->n = s->n;
}
