/* make.h - everything that makes an input: masks and, from key=value text, problems.
 *
 * What belongs to a problem (a mask's place, its random pixels) comes from the problem's own
 * pseed=, never from the seed of a run. Failures are recorded in the context (di_error) and
 * returned as the command's exit code. */
#ifndef MAKE_H
#define MAKE_H

#include "io.h"

enum { MAKE_PARAMS = 14 };

typedef struct make_spec make_spec;

/* A row of the command's problem table. */
typedef struct make_kind {
    const char *name, *title;
    const char *adjoint;            /* how the derivative is had */
    int pinv, svd;                  /* whether A^+ and an SVD exist */
    /* The problem for images (c,h,w). */
    di_status (*make)(di_ctx *ctx, const make_spec *spec, int c, int h, int w,
                      di_problem **problem);
    /* The shape x of the images that have measurements of shape y; NULL: the same. A height of
     * 0: y does not tell. */
    di_status (*image)(di_ctx *ctx, const make_spec *spec, const int y[3], int x[3]);
    /* Noise of number `sample` of the seed, onto a clean measurement y; NULL: y + sigma N. */
    di_status (*noise)(di_ctx *ctx, const make_spec *spec, const di_problem *p, uint64_t seed,
                       size_t sample, di_real *y);
    di_param param[MAKE_PARAMS + 1]; /* ends with key NULL */
} make_kind;

extern const make_kind make_denoise, make_inpaint, make_sr, make_gblur, make_matrix;
extern const make_kind make_motion, make_nlblur, make_blind, make_turbulence, make_hdr,
    make_colorize, make_jpeg, make_blackhole;
extern const make_kind make_phase, make_mri, make_scatter; /* make_fourier.c */
extern const make_kind make_nblur;                         /* make_nblur.c */
extern const make_kind make_navier_stokes;                 /* make_flow.c */

/* What few problems have beside their row; any function may be NULL. */
typedef struct make_extra {
    const char *problem;
    int apart;                      /* its images are no photographs: measure takes them as
                                       they are, unless -w names a prior */
    /* y = the noisy measurement number `sample` of the seed of x, in place of A(x) + noise. */
    di_status (*measure)(di_ctx *ctx, const make_spec *spec, const di_problem *p, uint64_t seed,
                         size_t sample, const di_real *x, di_real *y);
    /* Whether the values of y, of the right shape, can be measurements. */
    di_status (*check)(di_ctx *ctx, const make_spec *spec, const di_problem *p,
                       const char *path, const io_array *y);
} make_extra;
extern const make_extra make_extra_blackhole;
const make_extra *make_extra_of(const make_kind *kind); /* all NULL where it has none */

/* Parameters that many problems have. */
#define MAKE_SIGMA_OF(value) \
    {"sigma", value, "0..100", "noise level on [-1,1]; sigma01= says it on [0,1] (DPS paper)"}
#define MAKE_SIGMA MAKE_SIGMA_OF("0.05")
/* With these, make_image_noise is the row's noise. */
#define MAKE_NOISE \
    {"noise", "gaussian", "gaussian|poisson|impulse|shot|speckle", \
     "its kind; sigma= is of gaussian only, but what solvers take for sigma_y"}, \
    {"rate", "1", "0.001..1000", "of poisson: photons to an 8-bit level (DPS)"}, \
    {"level", "low", "low|high", "of impulse, shot, speckle: ImageNet-C severity 1 or 2"}
#define MAKE_PSEED {"pseed", "0", "a whole number", "seed of what is random in the problem"}

const make_kind *make_kind_at(int i);              /* i-th of the table, or NULL */
const make_kind *make_kind_find(const char *name); /* or NULL */
const char *make_kind_nearest(const char *name);   /* for messages */

/* A problem as it was asked for: the values are the caller's strings or the table's. */
struct make_spec {
    const make_kind *kind;
    const char *value[MAKE_PARAMS]; /* NULL: not given */
    char sigma[32];                 /* storage for a doubled sigma01 */
};

/* Checks value against the choice of key in a table of parameters: "lo..hi", "lo..hi int" or
 * "a|b|c"; any other choice is free text. where: "problem sr", for messages. */
di_status make_check(di_ctx *ctx, const char *where, const di_param *table, const char *key,
                     const char *value);

di_status make_begin(di_ctx *ctx, make_spec *spec, const char *name);
/* Key as in the table, or sigma01, which says sigma on [0,1] and is kept doubled. */
di_status make_set(di_ctx *ctx, make_spec *spec, const char *key, const char *value);
const char *make_get(const make_spec *spec, const char *key); /* with defaults; or NULL */
int make_given(const make_spec *spec, const char *key);       /* whether it was set */
double make_number(const make_spec *spec, const char *key);   /* a numeric one; 0 if absent */
double make_sigma(const make_spec *spec);                     /* on [-1,1] */

/* The shape x of the images that have measurements of shape y; (1,1,d) for a matrix. */
di_status make_image_shape(di_ctx *ctx, const make_spec *spec, const int y[3], int x[3]);
/* Fails if y does not have the shape of the problem's measurements, or not their values. */
di_status make_check_measurement(di_ctx *ctx, const make_spec *spec, const di_problem *p,
                                 const char *path, const io_array *y);
di_status make_problem(di_ctx *ctx, const make_spec *spec, int c, int h, int w,
                       di_problem **problem);
di_status make_noise(di_ctx *ctx, const make_spec *spec, const di_problem *p, uint64_t seed,
                     size_t sample, di_real *y);
/* y = measurement number `sample` of the seed of x: A(x) and noise. */
di_status make_measure(di_ctx *ctx, const make_spec *spec, const di_problem *p, uint64_t seed,
                       size_t sample, const di_real *x, di_real *y);

di_status make_gaussian_noise(di_ctx *ctx, double sigma, const di_problem *p, uint64_t seed,
                              size_t sample, di_real *y);
/* The kinds of MAKE_NOISE. */
di_status make_image_noise(di_ctx *ctx, const make_spec *spec, const di_problem *p,
                           uint64_t seed, size_t sample, di_real *y);
/* A Poisson number: a function of its arguments alone. */
double make_poisson(double mean, size_t i, uint64_t seed, uint64_t sample);

/* A motion kernel in its stages. xy: vertices (x, y) of the path on a canvas of 2*size a side,
   at most `most`; their number is returned. canvas, work (side,side) bytes; grey
   (side/2,side/2); _grey does all three and returns 0, or 1 for want of memory. */
int make_motion_path(int size, double intensity, uint64_t pseed, double (*xy)[2], int most);
void make_motion_draw(unsigned char *canvas, int side, double (*xy)[2], int n);
void make_motion_soften(unsigned char *canvas, int side, int radius, unsigned char *work);
void make_motion_halve(const unsigned char *canvas, int side, unsigned char *grey,
                       unsigned char *work);
int make_motion_grey(int size, double (*xy)[2], int n, unsigned char *grey);
/* Adds one patch of 2*half a side around (row,col) to tilt (2,h,w); normal (2,2half,2half).
   0, or 1 for want of memory. */
int make_tilt_patch(double *tilt, int h, int w, int half, int row, int col, double strength,
                    const di_real *normal);

/* An array file of finite numbers, for the caller to free. what: "coil maps", for messages. */
di_status make_numbers(di_ctx *ctx, const char *path, const char *what, io_array *a);

/* mask (h,w) of 0 (missing) and 1 from text: "box:S", "box:HxW", "random:SHARE", a file. at:
 * "center", "rand" or "t,l"; margin: "auto" or pixels, the border that at=rand keeps free. */
di_status make_mask(di_ctx *ctx, const char *text, const char *at, const char *margin,
                    uint64_t pseed, int h, int w, di_real *mask);

/* Whole decimal numbers; 0 on success. */
int make_u64(const char *text, uint64_t *value);
int make_int(const char *text, size_t len, int lo, int hi, int *value);
int make_size(const char *text, int *h, int *w); /* "HxW", or "S" for a square */

#endif
