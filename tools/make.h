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
    /* The shape x of the images that have measurements of shape y; NULL: the same. */
    di_status (*image)(di_ctx *ctx, const make_spec *spec, const int y[3], int x[3]);
    /* Noise of number `sample` of the seed, onto a clean measurement y; NULL: y + sigma N. */
    di_status (*noise)(di_ctx *ctx, const make_spec *spec, const di_problem *p, uint64_t seed,
                       size_t sample, di_real *y);
    di_param param[MAKE_PARAMS + 1]; /* ends with key NULL */
} make_kind;

extern const make_kind make_denoise, make_inpaint, make_sr, make_gblur, make_matrix,
    make_navier_stokes;

/* Parameters that many problems have. */
#define MAKE_SIGMA \
    {"sigma", "0.05", "0..100", "noise level on [-1,1]; sigma01= says it on [0,1] (DPS paper)"}
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
/* Fails if y does not have the shape of the problem's measurements. */
di_status make_check_measurement(di_ctx *ctx, const di_problem *p, const char *path,
                                 const io_array *y);
di_status make_problem(di_ctx *ctx, const make_spec *spec, int c, int h, int w,
                       di_problem **problem);
di_status make_noise(di_ctx *ctx, const make_spec *spec, const di_problem *p, uint64_t seed,
                     size_t sample, di_real *y);

/* mask (h,w) of 0 (missing) and 1 from text: "box:S", "box:HxW", "random:SHARE", a file. at:
 * "center", "rand" or "t,l"; margin: "auto" or pixels, the border that at=rand keeps free. */
di_status make_mask(di_ctx *ctx, const char *text, const char *at, const char *margin,
                    uint64_t pseed, int h, int w, di_real *mask);

/* Whole decimal numbers; 0 on success. */
int make_u64(const char *text, uint64_t *value);
int make_int(const char *text, size_t len, int lo, int hi, int *value);
int make_size(const char *text, int *h, int *w); /* "HxW", or "S" for a square */

#endif
