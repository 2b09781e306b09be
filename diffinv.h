/* diffinv: inverse problems y = A(x) + noise, solved with a diffusion model as the prior.

   Part 1 is the embedding interface. Part 2, behind DIFFINV_KERNELS, is the numeric floor:
   tensors, tape, kernels and random numbers, for tests and for faster backends.

   Arrays are contiguous, row-major, (N,C,H,W), and stay the caller's. Images lie in [-1,1].
   Every function that can fail returns a di_status; di_error() then says what, where and what
   to do. Objects belong to the context and die with it. The library opens no file, prints
   nothing, and keeps no global state. One context is used by one thread at a time. */
#ifndef DIFFINV_H
#define DIFFINV_H

#include <stddef.h>
#include <stdint.h>

#define DI_VERSION "0.1.0"

#ifdef DI_DOUBLE
typedef double di_real;
#else
typedef float di_real;
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Context ----------------------------------------------------------------------------- */

/* The numbers are the command's exit codes. */
typedef enum di_status {
    DI_OK = 0,
    DI_EUSAGE = 1,       /* a wrong argument, name or setting */
    DI_EINPUT = 2,       /* a bad weight file or array */
    DI_EMEMORY = 3,      /* the allocator returned NULL */
    DI_ENUMERIC = 4,     /* NaN or Inf in an iterate, or an arithmetic that breaks the rules */
    DI_EINTERRUPTED = 5, /* the report callback asked to stop */
    DI_EOUTPUT = 6       /* not used by the library: output files */
} di_status;

typedef struct di_ctx di_ctx;
typedef struct di_net di_net;
typedef struct di_bkse di_bkse;
typedef struct di_prior di_prior;
typedef struct di_problem di_problem;
typedef struct di_solver di_solver;
typedef struct di_run di_run;

/* The one allocator: grow, shrink, or (new_size 0) free. NULL stands for malloc and free. */
typedef void *(*di_alloc_fn)(void *user, void *ptr, size_t old_size, size_t new_size);

di_status di_open(di_ctx **ctx, di_alloc_fn alloc, void *user);
void di_close(di_ctx *ctx); /* NULL is fine */
const char *di_error(const di_ctx *ctx); /* the first error since di_clear; "" when none */
void di_clear(di_ctx *ctx);
void di_set_threads(di_ctx *ctx, int threads);            /* >= 1; without OpenMP always 1 */
di_status di_set_isa(di_ctx *ctx, const char *isa);       /* before networks are opened */
/* The numeric class: 0 exact (default), 1 fast (Winograd). Not between a pass and its vjp. */
void di_set_fast(di_ctx *ctx, int fast);
const char *di_isa(const di_ctx *ctx);                    /* baseline, v3, v4; neon: aarch64 */
const char *di_isa_list(int i); /* the i-th compiled in that this processor runs, or NULL */
size_t di_bytes(const di_ctx *ctx);                       /* bytes allocated now */
size_t di_bytes_peak(const di_ctx *ctx);

/* ---- Networks ---------------------------------------------------------------------------- */

/* Reads n bytes at offset into dst; returns 0 on success. */
typedef int (*di_read_fn)(void *user, uint64_t offset, void *dst, size_t n);

enum {
    DI_NET_NO_CRC = 1,     /* do not check the tensors' checksums (the head's always is) */
    DI_NET_NONFINITE = 2,  /* accept NaN and Inf among the weights */
    DI_NET_HEAD = 4        /* read and check the head only: metadata, names, shapes */
};
/* Opens a UNW1 weight file (weights/README.md) of `size` bytes. Checks everything. */
di_status di_net_open(di_ctx *ctx, di_read_fn read, void *user, uint64_t size, unsigned flags,
                      di_net **net);
void di_net_close(di_net *net);
const char *di_net_get(const di_net *net, const char *key); /* metadata value or NULL */
const char *di_net_meta(const di_net *net, size_t *len);    /* all "key=value\n" lines */
uint32_t di_net_crc(const di_net *net);                     /* checksum of the file's head */
size_t di_net_weights(const di_net *net);                   /* number of weights */
int di_net_channels(const di_net *net, int *out);           /* in (returned) and out channels */
int di_net_multiple(const di_net *net);    /* H and W must be multiples of this */
double di_net_macs(const di_net *net, int h, int w);        /* multiply-adds of one pass */
/* Bytes of working memory of a pass over n images, with or without its derivative, and of the
   weights; 0 when the size is illegal. Nothing is computed. */
size_t di_net_bytes(di_net *net, size_t n, int h, int w, int vjp);
size_t di_net_weight_bytes(const di_net *net);
/* What a derivative keeps of its pass, from the fastest to the smallest; the same bits. */
enum {
    DI_KEEP_ALL,
    DI_KEEP_BLOCKS = 1,    /* blocks run again */
    DI_KEEP_STEPS = 2,     /* whole passes run again, where several are chained */
    DI_KEEP_LEAST = 3,     /* both */
    DI_KEEP_PLANS
};
void di_net_keep(di_net *net, int plan);

/* y (N,Cout,h,w) = net(x (N,Cin,h,w), t (N), label (N) or NULL). t may be fractional. With
   gy (N,Cout,h,w) and gx (N,Cin,h,w) not NULL also gx = J^T gy, the input gradient. */
di_status di_net_run(di_net *net, size_t n, int h, int w, const double *t, const int *label,
                     const di_real *x, di_real *y, const di_real *gy, di_real *gx);

/* x0 (N,C,h,w) = D(x; sigma): the denoised x (N,C,h,w), a clean image with noise of deviation
   sigma (N) > 0, by the network's own preconditioning (arXiv 2206.00364, table 1). With gy and
   gx not NULL also gx = J^T gy. x0 is not x, gx not gy. */
di_status di_net_denoise(di_net *net, size_t n, int h, int w, const double *sigma,
                         const int *label, const di_real *x, di_real *x0, const di_real *gy,
                         di_real *gx);

/* A network that blurs a picture as a latent says (class KernelWizard of arXiv 2104.00317), for
   the problem of that kind; a weight file with format.kind=bkse. */
di_status di_bkse_open(di_ctx *ctx, di_read_fn read, void *user, uint64_t size, unsigned flags,
                       di_bkse **net);
void di_bkse_close(di_bkse *net);
size_t di_bkse_weights(const di_bkse *net); /* their number, */
size_t di_bkse_weight_bytes(const di_bkse *net); /* and bytes as they are held */
void di_bkse_latent(const di_bkse *net, int h, int w, int shape[3]);
/* Bytes of working memory, as di_net_bytes; h and w must be multiples of 128. */
size_t di_bkse_bytes(di_bkse *net, int h, int w, int vjp);
/* y (3,h,w) = x (3,h,w) blurred as latent (shape above) says, both in [-1,1]; with gy and gx
   (3,h,w) not NULL also gx = J^T gy, and then y may be NULL. */
di_status di_bkse_run(di_bkse *net, int h, int w, const di_real *latent, const di_real *x,
                      di_real *y, const di_real *gy, di_real *gx);

/* ---- Priors: what a solver sees of a diffusion model ------------------------------------- */

enum { DI_VAR_NONE, DI_VAR_FIXED_SMALL, DI_VAR_FIXED_LARGE, DI_VAR_LEARNED_RANGE };

/* A noise predictor on the discrete variance-preserving schedule beta[0..steps-1]. Public, so
   that analytic models and other backends can stand in a network's place. */
enum { DI_MAX_KEEP = 16 };
struct di_prior {
    di_ctx *ctx;
    int c, h, w;          /* image shape */
    int variance;         /* the variance it was trained for: DI_VAR_* */
    int steps;
    const double *beta;   /* (steps), owned by the prior */
    const int *label;     /* class of every image of a batch, or NULL */
    int continuous;       /* 1: noise levels become times by the continuous VP formula, see
                             di_prior_time; 0: by interpolation of beta's table; -1: so too,
                             always: the model has a formula of its own for its noise levels */
    /* eps (n,c,h,w) = predicted noise at x (n,c,h,w), t (n) original indices, may be
       fractional; v, when not NULL, the variance head in [-1,1] (LEARNED_RANGE only). eps may
       be x. keep = 1..DI_MAX_KEEP: a vjp call with that number may follow; 0: none. */
    di_status (*eval)(di_prior *p, size_t n, const double *t, const di_real *x, di_real *eps,
                      di_real *v, int keep);
    /* gx (n,c,h,w) = J^T geps of the last eval with that keep. */
    di_status (*vjp)(di_prior *p, int keep, const di_real *geps, di_real *gx);
    /* Working memory of evals of n images, numbers 1..keep kept at once. */
    size_t (*bytes)(di_prior *p, size_t n, int keep);
    void *self;
};
/* The time of noise level sigma = sqrt((1-abar)/abar) > 0. Continuous (the VP preconditioning
   of EDM, arXiv 2206.00364, table 1, as DAPS and InverseBench use it; beta_d 19.9, beta_min
   0.1): 999 (sqrt(0.1^2 + 2*19.9 log(1+sigma^2)) - 0.1) / 19.9. Else the inverse of
   di_prior_abar. Either is fractional. */
double di_prior_time(const di_prior *p, double sigma, int continuous);
/* abar at a fractional index: log-linear between the entries of beta's table, 1 at t = -1. */
double di_prior_abar(const di_prior *p, double t);
di_status di_prior_net(di_net *net, int h, int w, di_prior **prior);
/* N(mean, diag(cov)) or N(mean, cov), exact: mean (c,h,w), cov (c,h,w) or (d,d), d = c*h*w. */
di_status di_prior_gauss(di_ctx *ctx, int c, int h, int w, const di_real *mean,
                         const di_real *cov, int full, di_prior **prior);
/* sum_k weight[k] N(mean[k], diag(var[k])), exact: weight (k) > 0, normalised here; mean
   (k,c,h,w); var (k,c,h,w), or with each = 0 (k), one variance for all of a component. */
di_status di_prior_mixture(di_ctx *ctx, int c, int h, int w, int k, const di_real *weight,
                           const di_real *mean, const di_real *var, int each,
                           di_prior **prior);

/* ---- Measurement problems ---------------------------------------------------------------- */

/* A known map A from images x to measurements y, with its derivative. */
struct di_problem {
    di_ctx *ctx;
    const char *name;
    int linear;
    int x[3], y[3];       /* (C,H,W) of an image and of a measurement */
    void (*apply)(const di_problem *p, const di_real *x, di_real *y);
    /* NULL: none to be had (a solver that needs one refuses the problem) */
    void (*vjp)(const di_problem *p, const di_real *x, const di_real *v, di_real *gx);
    void (*pinv)(const di_problem *p, const di_real *y, di_real *x); /* A^+, or NULL */
    /* The rest may be NULL. apply and vjp of n images at once, where that is faster. */
    void (*apply_many)(const di_problem *p, size_t n, const di_real *x, di_real *y);
    void (*vjp_many)(const di_problem *p, size_t n, const di_real *x, const di_real *v,
                     di_real *gx);
    /* The loss that fits x to y, where it is not |A(x) - y|^2: see di_misfit. */
    double (*misfit)(const di_problem *p, const di_real *x, const di_real *y, di_real *half);
    /* The same loss of a measurement q = A(x); half = half of its gradient in q, may be q. */
    double (*loss)(const di_problem *p, const di_real *q, const di_real *y, di_real *half);
    /* A problem with unknowns beside the image, theta (extra): y = A(x, theta) and its VJP to
       both, gx and gtheta overwritten, either may be NULL. apply and vjp use the true theta. */
    size_t extra;
    void (*apply_with)(const di_problem *p, const di_real *x, const di_real *theta, di_real *y);
    void (*vjp_with)(const di_problem *p, const di_real *x, const di_real *theta,
                     const di_real *v, di_real *gx, di_real *gtheta);
    /* What apply, or with `vjp` the derivative, of n images takes of memory when it runs, beside
       what the problem holds, at most, but for small tables. NULL: nothing. */
    size_t (*bytes)(const di_problem *p, size_t n, int vjp);
    void *self;
};
/* y = A(x); gx = J(x)^T v (for a linear A: A^T v, x may be NULL); x = A^+ y (DI_EUSAGE when the
   problem has none). Each for n images at once, gx and x are overwritten. */
di_status di_apply(const di_problem *p, size_t n, const di_real *x, di_real *y);
di_status di_apply_vjp(const di_problem *p, size_t n, const di_real *x, const di_real *v,
                       di_real *gx);
di_status di_apply_pinv(const di_problem *p, size_t n, const di_real *y, di_real *x);

di_status di_problem_denoise(di_ctx *ctx, int c, int h, int w, di_problem **p);
/* y = m * x, m (h,w) of 0 (missing) and 1. */
di_status di_problem_inpaint(di_ctx *ctx, int c, int h, int w, const di_real *mask,
                             di_problem **p);
/* Antialiased bicubic with symmetric border; block mean; bicubic cut off at the border. */
enum { DI_SR_BICUBIC, DI_SR_MEAN, DI_SR_CUT };
di_status di_problem_sr(di_ctx *ctx, int c, int h, int w, int factor, int kind, di_problem **p);
/* size x size Gaussian kernel (odd size), reflect-101 border. */
di_status di_problem_gblur(di_ctx *ctx, int c, int h, int w, int size, double std,
                           di_problem **p);
/* y[r][q] = sum_ij K[i][j] x[r+i-(kh-1)/2][q+j-(kw-1)/2], K (kh,kw), kh <= h, kw <= w. Outside
   the image: x mirrored without the edge pixel, or 0. */
enum { DI_BORDER_REFLECT, DI_BORDER_ZERO };
di_status di_problem_blur(di_ctx *ctx, int c, int h, int w, int kh, int kw,
                          const di_real *kernel, int border, di_problem **p);
/* y = 2 (K p^2.2)^(1/2.2) - 1, p = clip((x+1)/2, 0.01, 1), K as above, REFLECT, not below 0. */
di_status di_problem_nlblur(di_ctx *ctx, int c, int h, int w, int kh, int kw,
                            const di_real *kernel, di_problem **p);
/* y = K x, K as above, ZERO, and unknown: theta = logits of K (kh*kw), K = softmax(theta). The
   turbulence tilts x before: row r + tilt[1][r][q], column q + tilt[0][r][q], bilinear, 0
   outside; theta = logits (kh*kw), tilt (2,h,w). kernel, tilt: the truth. */
di_status di_problem_blind(di_ctx *ctx, int c, int h, int w, int kh, int kw,
                           const di_real *kernel, di_problem **p);
di_status di_problem_turbulence(di_ctx *ctx, int c, int h, int w, int kh, int kw,
                                const di_real *kernel, const di_real *tilt, di_problem **p);
/* y = clip(scale x, -1, 1); y (1,h,w) = 0.3333 R + 0.3334 G + 0.3333 B; y = x (3,h,w) after
   JPEG compression, 4:2:0, quality 1..100: no vjp, it is 0 almost everywhere. */
di_status di_problem_hdr(di_ctx *ctx, int c, int h, int w, double scale, di_problem **p);
di_status di_problem_colorize(di_ctx *ctx, int h, int w, di_problem **p);
di_status di_problem_jpeg(di_ctx *ctx, int h, int w, int quality, di_problem **p);
/* y = A x, A (m,c*h*w) dense, y (1,1,m). */
di_status di_problem_matrix(di_ctx *ctx, int c, int h, int w, int m, const di_real *a,
                            di_problem **p);
/* Telescopes that see an image p = (x+1)/2, one pixel of value 1 the unit of brightness: the
   visibilities V_i = sum_rc p[r][c] T(u_i) T(v_i) exp(2 pi i (u_i X_c + v_i Y_r)), with X_c =
   d ((w-1)/2 - c), Y_r = d ((h-1)/2 - r), T(f) = (sin(pi f d) / (pi f d))^2, and of them what
   the stations' own errors leave alone:
     closure phase of a triangle     arg(V_ab V_bc V_ca), in (-pi,pi]
     log closure amplitude           log|V_12| + log|V_34| - log|V_14| - log|V_23|
   A measurement is (1,1,2m+2a+2b+1): m amplitudes and their sigmas, a closure phases and
   sigmas, b log closure amplitudes and sigmas, the flux sum p. */
typedef struct di_hole {
    int vis, tri, quad;      /* m, a, b */
    double pixel;            /* d, side of a pixel in radians */
    const double *uv;        /* (m,2) in wavelengths */
    const double *sigma;     /* (m) > 0, thermal noise of each part of V */
    const int *triangle;     /* (a,3): k+1 for baseline k, -(k+1) where it is run backwards */
    const int *quadrangle;   /* (b,4): baselines 12, 34, 14, 23, from 0 */
    double weight[4];        /* of the loss, see di_problem_blackhole */
} di_hole;
/* The loss of InverseBench and CPS, 2 (w1 m chi2_amp + w2 a chi2_cp + w3 b chi2_lca + w4
   chi2_flux), as di_hole_chi2 has them; the sigmas are those in y, constants. */
di_status di_problem_blackhole(di_ctx *ctx, int h, int w, const di_hole *hole, di_problem **p);
/* v (m,2) = V, real and imaginary parts. Returns the flux. */
double di_hole_vis(const di_problem *p, const di_real *x, double *v);
/* y = the measurement made of visibilities v (m,2) of noise sigma (m), NULL: the problem's. */
void di_hole_measure(const di_problem *p, const double *v, const double *sigma, double flux,
                     di_real *y);
/* Mean squares, 0 where there is nothing: ((|V| - amp)/sig)^2, 2 (1 - cos(cp_y - cp))/sig^2,
   ((lca - lca_y)/sig)^2; and ((flux - flux_y)/2)^2. */
void di_hole_chi2(const di_problem *p, const di_real *x, const di_real *y, double chi2[4]);

/* Phase retrieval: y = |F(pad(u))|, F the centred orthonormal Fourier transform, u = x, or
   x/2 + 1/2 where halved, `pad` zeros on each side: y (c,h+2pad,w+2pad). */
di_status di_problem_phase(di_ctx *ctx, int c, int h, int w, int pad, int halved,
                           di_problem **p);
/* Magnetic resonance: y_k = m F(S_k x), complex numbers as planes of real and of imaginary
   parts: x (2,h,w), maps S (2 coils,h,w), y (2 coils,h,w). m (w) of 0 and 1: columns. */
di_status di_problem_mri(di_ctx *ctx, int h, int w, int coils, const di_real *maps,
                         const di_real *mask, di_problem **p);
/* Its simplest image x (2,h,w) of y, and that one's size, to divide both by: see there. */
di_status di_mri_mvue(const di_problem *p, const di_real *y, di_real *x, double *scale);
/* Inverse scattering, Born model: x (1,n,n), y (2,transmitters,receivers). */
typedef struct di_scatter {
    int transmitters, receivers;  /* on one circle, 0 to 359 degrees */
    double side, radius, wave;    /* of the image and of that circle, m; wavelength, pixels */
} di_scatter;
di_status di_problem_scatter(di_ctx *ctx, int n, const di_scatter *s, di_problem **p);
/* y = x (3,h,w) blurred by a network as latent (di_bkse_latent) says; the net stays the
   caller's, opened in the same context. */
di_status di_problem_nblur(di_ctx *ctx, di_bkse *net, int h, int w, const di_real *latent,
                           di_problem **p);
/* The vorticity of a fluid on the periodic square [0,2pi)^2 at a later time. x (1,n,n) times
   `scale` is the field at 0, first index x, second y, n even and at least 8; y (1,n/sub,n/sub)
   is every sub-th point of the field at `time`. See diffinv.c, chapter 9. */
typedef struct di_flow {
    double re;       /* Reynolds number */
    double time, dt; /* dt 0: found at every step from the velocity */
    double forcing;  /* f = -forcing cos(4 y) */
    double scale;    /* of the image's unit: 10 */
    int sub;
    int together;    /* the adaptive dt of a batch is that of its fastest field (InverseBench);
                        0: each field has its own, and the bits that it has alone */
    int keep;        /* states of (n,n+2) numbers that a derivative keeps of its steps, at least
                        2; those between two of them run again and lie beside them meanwhile, so
                        the root of the number of steps takes the least memory; 0: 1024 */
} di_flow;
di_status di_problem_navier_stokes(di_ctx *ctx, int n, const di_flow *flow, di_problem **p);
size_t di_flow_steps(const di_problem *p); /* of the last field that ran */
/* Linear problems with an SVD A = U S V^T. Singular values in the order of the coordinates of
   V^T x (count C*H*W; 0 where A^+ drops a direction), and the two orthogonal maps. */
di_status di_svd_values(const di_problem *p, di_real *s);
di_status di_svd_vt(const di_problem *p, const di_real *x, di_real *xt);
di_status di_svd_v(const di_problem *p, const di_real *xt, di_real *x);

/* The loss |A(x) - y|^2, or the problem's own; half (C,H,W) = half of its gradient in x, for
   the square A'(x)^T (A(x) - y), or NULL. work (measurement). */
double di_misfit(const di_problem *p, const di_real *x, const di_real *y, di_real *half,
                 di_real *work);
double di_rms(const di_real *a, size_t n);                    /* sqrt(mean a^2), fixed order */
double di_residual(const di_problem *p, const di_real *x, const di_real *y, di_real *work);
double di_psnr(const di_real *a, const di_real *b, size_t n); /* on clip((x+1)/2,0,1), dB */

/* ---- Solvers ----------------------------------------------------------------------------- */

enum { DI_NEEDS_PROBLEM = 1, DI_NEEDS_VJP = 2, DI_NEEDS_LINEAR = 4, DI_NEEDS_PINV = 8,
       DI_NEEDS_NET_VJP = 16,
       DI_ONE_BY_ONE = 32 }; /* takes samples one after another, not as a batch */
enum { DI_MAX_PARAM = 14 };
typedef struct di_param {
    const char *key, *value; /* name and default */
    const char *choice;      /* "lo..hi" for a number, "lo..hi int", or words "a|b|c" */
    const char *note;        /* meaning and source of the default */
} di_param;
/* What a run needs: elements of working memory, images of one network call, derivatives kept
   at once. */
typedef struct di_plan {
    size_t elements, batch;
    int keep;
} di_plan;
struct di_solver {
    const char *name, *title, *cite;
    unsigned needs;
    int nx, ny;              /* working memory: images and measurements of each sample */
    di_param param[DI_MAX_PARAM];
    di_status (*go)(di_run *run);
    void (*plan)(const di_run *run, di_plan *plan); /* corrects what nx, ny say, or NULL */
};
const di_solver *di_solver_at(int i);              /* i-th of the table, or NULL */
const di_solver *di_solver_find(const char *name); /* or NULL */
/* A default that holds for one problem instead of the parameter's own. */
typedef struct di_default {
    const char *solver, *problem, *key, *value;
} di_default;
const di_default *di_default_at(int i);            /* i-th of the table, or NULL */
const char *di_nearest(const char *word, const char *const *words, int n); /* for messages */

typedef struct di_step {
    int step, steps;        /* 1..steps */
    double t, sigma;        /* network time, -1: none; noise level sqrt((1-abar)/abar) */
    double residual;        /* ||y - A(x0)|| / sqrt(m), first image; -1 without a problem */
    double wmv;             /* windowed moving variance per element; -1: not watched */
    const di_real *x, *x0;  /* (n,C,H,W) iterate and estimate of the clean image */
} di_step;
typedef int (*di_report_fn)(void *user, const di_step *s); /* nonzero: stop */
typedef struct di_cost {
    uint64_t net, net_vjp, apply, apply_vjp; /* per image, summed over the batch */
} di_cost;

di_status di_run_open(di_ctx *ctx, const di_solver *s, di_prior *prior,
                      const di_problem *problem, di_run **run); /* problem NULL: sampling */
void di_run_close(di_run *run);
di_status di_run_set(di_run *run, const char *key, const char *value);
const char *di_run_get(const di_run *run, const char *key);
void di_run_report(di_run *run, di_report_fn report, void *user);
/* Replays `count` normals in the official program's order instead of the generator (n = 1). */
void di_run_noise(di_run *run, const float *normals, size_t count);
size_t di_run_noise_used(const di_run *run);
/* Working memory of the run and of the prior's passes; weights (di_net_weight_bytes) aside. */
size_t di_run_bytes(const di_run *run, size_t n);
/* x (n,C,H,W) = n samples, numbers first..first+n-1 of the seed's sequence: the same whatever
   the batch. On DI_EINTERRUPTED and DI_ENUMERIC x holds the last good estimate. */
di_status di_run_go(di_run *run, const di_real *y, uint64_t seed, uint64_t first, size_t n,
                    di_real *x);
di_cost di_run_cost(const di_run *run);
const char *di_run_note(const di_run *run); /* what the solver decided, for people; or "" */

/* A run can be left and taken up later with the same bits. From within a report: writes the
   state of the run so far. Then, in another process: open and set the run as before, load, and
   go with the same y, seed, first and n (checked; that problem and prior are the same is
   for the caller to know); x, cost, note and noise count are those of the run. */
typedef int (*di_write_fn)(void *user, const void *src, size_t n); /* 0 on success */
size_t di_run_state_bytes(const di_run *run, size_t n); /* what save writes, n samples a go */
di_status di_run_save(di_run *run, di_write_fn write, void *user);
di_status di_run_load(di_run *run, di_read_fn read, void *user, uint64_t size);

#ifdef __cplusplus
}
#endif

#ifdef DIFFINV_KERNELS
/* ================= Part 2: the numeric floor ============================================== */
#ifdef __cplusplus
extern "C" {
#endif

/* ---- Context internals ------------------------------------------------------------------- */

typedef struct di_kernels di_kernels;
struct di_tensor;
/* Called after each operation of a network, x to y, with its multiply-adds: for benchmarks. */
typedef void (*di_probe_fn)(void *user, const char *op, const struct di_tensor *x,
                            const struct di_tensor *y, double macs);
struct di_ctx {
    di_alloc_fn alloc;
    void *user;
    void *objects;          /* list of owned blocks, see di_new */
    size_t bytes, peak;
    int threads, fast;
    di_probe_fn probe;      /* or NULL */
    void *probe_user;
    const di_kernels *k;
    di_status status;
    char error[512];
};
/* Records the first error and returns its status. printf format. */
di_status di_fail(di_ctx *ctx, di_status s, const char *format, ...);
void *di_new(di_ctx *ctx, size_t count, size_t size); /* zeroed, 64-byte aligned, owned */
void di_free(di_ctx *ctx, void *p);

/* ---- Elementary functions, double, at most 2 ulp ----------------------------------------- */

double di_exp(double x);
double di_log(double x);
double di_sin(double x); /* |x| < 1e6 */
double di_cos(double x);
double di_atan2(double y, double x);
double di_tanh(double x);
void di_bessel0(double x, double *j, double *y); /* J_0, Y_0, x > 0; 3 ulp of |J_0 + iY_0| */
int di_parse(const char *s, size_t len, double *value); /* the whole text; 0 on success */

/* ---- Random numbers: Philox4x32-10, a pure function of its arguments --------------------- */

enum { DI_STREAM_INIT, DI_STREAM_SOLVER, DI_STREAM_MEASURE, DI_STREAM_MASK, DI_STREAM_KERNEL };
void di_philox(uint64_t seed, const uint32_t counter[4], uint32_t out[4]);
/* out (n) = N(0,1); element i comes from counter (i/4, draw, stream, sample), word i%4. */
void di_normal(di_real *out, size_t n, uint64_t seed, uint32_t stream, uint64_t sample,
               uint32_t draw);
uint32_t di_bits(size_t i, uint64_t seed, uint32_t stream, uint64_t sample, uint32_t draw);

/* ---- Reductions, in the fixed order of lanes i%16 ---------------------------------------- */

double di_dot(const di_real *a, const di_real *b, size_t n);
int di_finite(const di_real *a, size_t n);

/* ---- Tensors ----------------------------------------------------------------------------- */

/* Blocks of 16 channels with a one-pixel border of +0: blk[n*cb + c/16] points to
   [h+2][w+2][16]; channels past c are +0. A tensor may be a view of others' blocks. */
typedef struct di_buf {
    size_t off, size;
    int refs;
} di_buf;
typedef struct di_tensor {
    int n, c, h, w, cb;
    di_real **blk;
    double **sums;          /* of each block [32]: sums and sums of squares, if known */
    di_buf *buf[2], *sum_buf[2];
    di_buf *coef;           /* not NULL: the value is f(A blk + B), computed by its reader; */
    di_real *A, *B;         /*   A, B [n*cb*16], f = SiLU where silu is set */
    int silu, uses;         /* uses: how many operations have read it so */
    struct di_tensor *g;    /* gradient, or NULL */
    int need;               /* a gradient is wanted */
} di_tensor;

/* A convolution's weights, packed [oc/ob][ic/16][tap][16][ob] for the kernels in use. */
typedef struct di_conv {
    int oc, ic, k;          /* k = 1 or 3 */
    int stride, end;        /* stride 2: end = 1 pads at the bottom and right only */
    int sums;               /* a norm follows: the output comes with its sums */
    di_real *w, *bias;      /* derivative's and Winograd's forms are made where they are used */
} di_conv;
typedef struct di_norm {
    int c, groups;
    double eps;
    di_real *g, *b;         /* (c) */
} di_norm;

/* ---- The tape ---------------------------------------------------------------------------- */

/* Working memory: first fit in a region whose size a dry run has found. */
typedef struct di_arena {
    char *base;
    size_t size, top, peak;
    struct di_span { size_t off, size; } *hole;
    int holes, cap;
} di_arena;

typedef struct di_rec di_rec;
typedef struct di_tape {
    di_ctx *ctx;
    const di_kernels *k;
    int dry, keep, failed;  /* dry: count bytes, compute nothing; keep: record derivatives */
    double macs;
    di_arena arena;
    di_rec **rec;           /* in chunks: a record stays where it is */
    int recs;
    void *pool;             /* headers, freed together by reset */
    size_t pool_used;
} di_tape;

void di_tape_open(di_tape *tp, di_ctx *ctx);
void di_tape_close(di_tape *tp);
size_t di_tape_bytes(const di_tape *tp); /* of its records and headers */
di_status di_tape_begin(di_tape *tp, void *base, size_t size, int keep); /* base NULL: dry */
void di_tape_back(di_tape *tp);        /* from the outputs' g to the inputs' g */
/* y = f(user, part, x, emb), of which only x and emb are kept: the derivative runs f again.
   f drops neither of the two; emb is a constant. */
typedef di_tensor *(*di_again_fn)(void *user, const void *part, di_tensor *x, di_tensor *emb);
di_tensor *di_again(di_tape *tp, di_again_fn f, void *user, const void *part, di_tensor *x,
                    di_tensor *emb);

/* Every operation returns a new tensor, or NULL after a failure; NULL is a legal input. */
di_tensor *di_tensor_new(di_tape *tp, int n, int c, int h, int w);
void di_drop(di_tape *tp, di_tensor *t);                 /* its data is not read again */
di_tensor *di_pack(di_tape *tp, int n, int c, int h, int w, const di_real *planar,
                   int have);
/* planar (n,c,h,w) = channels from..from+c of t */
void di_unpack(di_tape *tp, di_tensor *t, int from, int c, di_real *planar);
di_tensor *di_convolve(di_tape *tp, di_tensor *x, const di_conv *w, di_tensor *add,
                       double scale);                             /* scale*(conv(x) + add) */
di_tensor *di_normalize(di_tape *tp, di_tensor *x, const di_norm *w, const di_tensor *emb,
                        int silu);  /* silu?(norm(x)*(1+s)+t), (s|t) = emb (1,2C,1,N) or NULL */
di_tensor *di_upsample(di_tape *tp, di_tensor *x);                /* nearest, x2 */
di_tensor *di_pool2(di_tape *tp, di_tensor *x);                   /* mean of 2x2 cells */
enum { DI_TANH = 2 };
/* x where x > 0, else slope x; slope DI_TANH: tanh(x) */
di_tensor *di_activate(di_tape *tp, di_tensor *x, double slope);
/* (n,4C,h,w) to (n,C,2h,2w): pixel (a,b) of a cell comes from channel (2a+b)C + c; or back */
di_tensor *di_shuffle(di_tape *tp, di_tensor *x, int to_big);
di_tensor *di_concat(di_tape *tp, di_tensor *a, di_tensor *b);    /* a view, no copy */
di_tensor *di_attention(di_tape *tp, di_tensor *qkv, int heads);  /* (N,3C,H,W) -> (N,C,H,W) */
void di_add_channels(di_tape *tp, di_tensor *x, const di_tensor *emb); /* x += emb (1,C,1,N) */
di_tensor *di_silu(di_tape *tp, di_tensor *x);                    /* constants only */

/* ---- Singular values of a small matrix, double -------------------------------------------- */

/* M (r,n), r <= n, = U S W^T. In: w (r,n) = M. Out: s (r) descending, 0 below 1e-13 of the
   largest; the rank, the first rows of w the right singular vectors, rows of u (r,r) the left. */
int di_svd(double *w, double *u, double *s, int r, int n);
/* w (n,n), its first `filled` rows orthonormal: the others become so. */
void di_complete_basis(double *w, int filled, int n);

/* ---- The Fourier transform ---------------------------------------------------------------
   X_k = sum_j x_j exp(sign 2 pi i j k / n), sign -1 or +1, any n; real and imaginary parts lie
   apart. No transform scales but by `scale`. work: di_fft_work of the longest, elements. */

typedef struct di_fft di_fft;
di_fft *di_fft_new(di_ctx *ctx, int n); /* NULL after a failure */
void di_fft_free(di_fft *f);
size_t di_fft_work(const di_fft *f);
/* `count` signals in place; value k of signal l is re[k step + l next], im[the same]; one of
   the two steps is 1. */
void di_fft_run(const di_fft *f, int sign, size_t count, di_real scale, di_real *re,
                di_real *im, size_t step, size_t next, di_real *work);
/* (h,w,lanes) in place, `lanes` images side by side, h and w those of fh and fw. */
void di_fft2(const di_fft *fh, const di_fft *fw, int sign, size_t lanes, di_real scale,
             di_real *re, di_real *im, di_real *work);
/* Real x (h,w,lanes) to half of its spectrum, re and im (h,w/2+1,lanes), sign -1; and back,
   sign +1, which overwrites re and im and reads no imaginary part that must be 0. */
void di_fft2_real(const di_fft *fh, const di_fft *fw, size_t lanes, const di_real *x,
                  di_real *re, di_real *im, di_real *work);
void di_fft2_real_back(const di_fft *fh, const di_fft *fw, size_t lanes, di_real scale,
                       di_real *re, di_real *im, di_real *x, di_real *work);

/* ---- Passes of the vorticity solver ------------------------------------------------------
   Made for each instruction set in ops.c 3.8, which says what they do; called in diffinv.c. */

typedef struct di_half { /* half spectra (n,n/2+1,lanes) of `lanes` fields side by side */
    di_real *re, *im;
} di_half;
typedef struct di_flow_grid {
    size_t n, row;           /* row: (n/2+1) lanes */
    const di_real *k1, *g1;  /* (n) wavenumber of d/dx, 0 at n/2; its square, not so */
    const di_real *k2, *g2;  /* (row) the same of d/dy */
    const size_t *kept;      /* (n) how many numbers of a row P keeps, the first ones */
    const di_real *dt;       /* (row) step of each lane; 0: it stands still */
    const di_real *force;    /* (row) the forcing's row 0, real; its others are 0 */
    di_real nu;              /* 1/Re */
} di_flow_grid;
typedef struct di_flow_kernels {
    void (*derive)(const di_flow_grid *g, int inverse, int mask, di_half f, di_half dx,
                   di_half dy);
    void (*products)(size_t size, di_real *q, di_real *p, const di_real *W, di_real *a,
                     di_real *b);
    void (*speed)(size_t rows, size_t row, const di_real *q, const di_real *p, di_real *top);
    void (*update)(const di_flow_grid *g, int second, di_half w, di_half a, di_half b,
                   di_half n1, di_half to);
    void (*adjoint)(const di_flow_grid *g, int stage, const di_half abc[3], di_half mu,
                    di_half nu, di_half l);
} di_flow_kernels;
const di_flow_kernels *di_flow_ops(const di_ctx *ctx);

di_status di_conv_init(di_ctx *ctx, di_conv *w, const di_real *weight, const di_real *bias);
size_t di_conv_bytes(int oc, int ic, int k);

#ifdef __cplusplus
}
#endif
#endif /* DIFFINV_KERNELS */
#endif
