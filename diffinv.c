/* diffinv.c: the inverse problem. Measurement maps A with derivative, pseudo-inverse and SVD,
   residual and PSNR, analytic priors. Knows nothing of solvers, nor where arrays came from. */
#define DIFFINV_KERNELS
#include "diffinv.h"

#include <math.h>
#include <string.h>

/* ==== 1. Singular values of a small matrix, double ======================================== */

static double dot(const double *a, const double *b, int n)
{
    double s = 0;
    for (int i = 0; i < n; i++)
        s += a[i] * b[i];
    return s;
}

static void rotate(double *a, double *b, double c, double s, int n)
{
    for (int i = 0; i < n; i++) {
        double u = a[i], v = b[i];
        a[i] = c * u - s * v;
        b[i] = s * u + c * v;
    }
}

/* M (r x n, r <= n) = U S W^T by one-sided Jacobi (Hestenes) on M's rows. In: w (r x n) = M.
   Out: s (r) descending, 0 below 1e-13 of the largest; returns the rank, the number that are
   not 0. The first rank rows of w are the right singular vectors, the others are undefined;
   u (r x r)'s rows are the left ones. */
static int svd(double *w, double *u, double *s, int r, int n)
{
    memset(u, 0, (size_t)r * r * sizeof *u);
    for (int k = 0; k < r; k++)
        u[(size_t)k * r + k] = 1;
    for (int sweep = 0, turned = 1; turned && sweep < 60; sweep++) {
        turned = 0;
        for (int a = 0; a < r; a++)
            for (int b = a + 1; b < r; b++) {
                double *x = w + (size_t)a * n, *y = w + (size_t)b * n;
                double xx = dot(x, x, n), yy = dot(y, y, n), xy = dot(x, y, n);
                if (fabs(xy) <= 1e-15 * sqrt(xx * yy))
                    continue;
                double z = (yy - xx) / (2 * xy);
                double t = (z >= 0 ? 1 : -1) / (fabs(z) + sqrt(1 + z * z));
                double c = 1 / sqrt(1 + t * t);
                rotate(x, y, c, c * t, n);
                rotate(u + (size_t)a * r, u + (size_t)b * r, c, c * t, r);
                turned = 1;
            }
    }
    for (int a = 0; a < r; a++) { /* sort, normalize */
        int top = a;
        for (int b = a + 1; b < r; b++)
            if (dot(w + (size_t)b * n, w + (size_t)b * n, n)
                > dot(w + (size_t)top * n, w + (size_t)top * n, n))
                top = b;
        if (top != a) {
            rotate(w + (size_t)a * n, w + (size_t)top * n, 0, 1, n);
            rotate(u + (size_t)a * r, u + (size_t)top * r, 0, 1, r);
        }
        s[a] = sqrt(dot(w + (size_t)a * n, w + (size_t)a * n, n));
        if (s[a] <= 1e-13 * s[0])
            s[a] = 0;
        for (int i = 0; s[a] > 0 && i < n; i++)
            w[(size_t)a * n + i] /= s[a];
    }
    int rank = 0;
    while (rank < r && s[rank] > 0)
        rank++;
    return rank;
}

/* w (n x n): its first `filled` rows are orthonormal; the others become so, by Gram-Schmidt,
   twice, on unit vectors. Of those some unit vector keeps 1/sqrt(n) of its length. */
static void complete_basis(double *w, int filled, int n)
{
    for (int e = 0; filled < n && e < n; e++) {
        double *x = w + (size_t)filled * n;
        memset(x, 0, (size_t)n * sizeof *x);
        x[e] = 1;
        for (int pass = 0; pass < 2; pass++)
            for (int k = 0; k < filled; k++) {
                double d = dot(x, w + (size_t)k * n, n);
                for (int i = 0; i < n; i++)
                    x[i] -= d * w[(size_t)k * n + i];
            }
        double norm = sqrt(dot(x, x, n));
        if (norm < 0.5 / sqrt((double)n))
            continue;
        for (int i = 0; i < n; i++)
            x[i] /= norm;
        filled++;
    }
}

/* ==== 2. Measurement problems ============================================================= */

static size_t size3(const int *s) { return (size_t)s[0] * s[1] * s[2]; }

di_status di_apply(const di_problem *p, size_t n, const di_real *x, di_real *y)
{
    if (p->apply_many && n > 1)
        p->apply_many(p, n, x, y);
    for (size_t i = 0; i < n && !(p->apply_many && n > 1); i++)
        p->apply(p, x + i * size3(p->x), y + i * size3(p->y));
    return p->ctx->status;
}

di_status di_apply_vjp(const di_problem *p, size_t n, const di_real *x, const di_real *v,
                       di_real *gx)
{
    if (p->vjp_many && n > 1)
        p->vjp_many(p, n, x, v, gx);
    for (size_t i = 0; i < n && !(p->vjp_many && n > 1); i++)
        p->vjp(p, x ? x + i * size3(p->x) : NULL, v + i * size3(p->y), gx + i * size3(p->x));
    return p->ctx->status;
}

di_status di_apply_pinv(const di_problem *p, size_t n, const di_real *y, di_real *x)
{
    if (!p->pinv)
        return di_fail(p->ctx, DI_EUSAGE, "problem %s has no pseudo-inverse", p->name);
    for (size_t i = 0; i < n; i++)
        p->pinv(p, y + i * size3(p->y), x + i * size3(p->x));
    return p->ctx->status;
}

enum { TO_VT, FROM_V, PINV }; /* what a problem's spectral function does: V^T x, V xt, A^+ y */

/* A problem of `size` bytes whose first member is the di_problem. */
static void *problem_new(di_ctx *ctx, size_t size, const char *name, int c, int h, int w)
{
    if (c < 1 || h < 1 || w < 1 || c > 65536 || h > 65536 || w > 65536) {
        di_fail(ctx, DI_EUSAGE, "problem %s: image shape %dx%dx%d is impossible", name, c, h,
                w);
        return NULL;
    }
    di_problem *p = di_new(ctx, 1, size);
    if (!p)
        return NULL;
    p->ctx = ctx;
    p->name = name;
    p->linear = 1;
    p->x[0] = p->y[0] = c;
    p->x[1] = p->y[1] = h;
    p->x[2] = p->y[2] = w;
    p->self = p;
    return p;
}

/* ---- denoising: y = x; inpainting: y = m x, one 0/1 mask (h,w) for all channels ---- */

typedef struct masked {
    di_problem p;
    di_real *mask; /* NULL: all ones */
} masked;

static void mask_apply(const di_problem *p, const di_real *x, di_real *y)
{
    const di_real *m = ((const masked *)p)->mask;
    size_t plane = (size_t)p->x[1] * p->x[2], n = size3(p->x);
    for (size_t i = 0; i < n; i++)
        y[i] = m ? m[i % plane] * x[i] : x[i];
}

static void mask_vjp(const di_problem *p, const di_real *x, const di_real *v, di_real *gx)
{
    (void)x;
    mask_apply(p, v, gx);
}

/* V = I, the singular values are the mask. */
static di_status mask_values(const di_problem *p, di_real *s)
{
    for (size_t i = 0; i < size3(p->x); i++)
        s[i] = 1;
    mask_apply(p, s, s);
    return DI_OK;
}

static void mask_spectral(const di_problem *p, const di_real *in, di_real *out, int what)
{
    (void)what;
    memmove(out, in, size3(p->x) * sizeof *in);
}

static di_status masked_new(di_ctx *ctx, const char *name, int c, int h, int w,
                            const di_real *mask, di_problem **out)
{
    *out = NULL;
    masked *q = problem_new(ctx, sizeof *q, name, c, h, w);
    if (!q)
        return ctx->status;
    q->p.apply = q->p.pinv = mask_apply;
    q->p.vjp = mask_vjp;
    if (mask) {
        size_t n = (size_t)h * w, kept = 0;
        q->mask = di_new(ctx, n, sizeof *mask);
        if (!q->mask)
            return DI_EMEMORY;
        for (size_t i = 0; i < n; i++) {
            if (mask[i] != 0 && mask[i] != 1)
                return di_fail(ctx, DI_EINPUT, "inpaint: the mask holds %g at row %d, column "
                               "%d; a mask is 0 (missing) and 1 (known)", (double)mask[i],
                               (int)(i / w), (int)(i % w));
            q->mask[i] = mask[i];
            kept += mask[i] == 1;
        }
        if (!kept)
            return di_fail(ctx, DI_EINPUT, "inpaint: the mask keeps no pixel at all");
    }
    *out = &q->p;
    return DI_OK;
}

di_status di_problem_denoise(di_ctx *ctx, int c, int h, int w, di_problem **p)
{
    return masked_new(ctx, "denoise", c, h, w, NULL, p);
}

di_status di_problem_inpaint(di_ctx *ctx, int c, int h, int w, const di_real *mask,
                             di_problem **p)
{
    return masked_new(ctx, "inpaint", c, h, w, mask, p);
}

/* ---- separable linear maps: per channel Y = L X R^T, L and R sparse 1-D maps ---- */

typedef struct map1 {        /* rows x cols; row i has taps [start[i], start[i+1]) */
    int rows, cols, *start, *index;
    di_real *weight;
    double *u, *s, *w;       /* SVD, made when first asked for */
} map1;
typedef struct separable {
    di_problem p;
    map1 m[2], t[2];         /* along h and along w, and their transposes */
    di_real *work;           /* max of both intermediate sizes */
} separable;

/* Smallest 1-D singular value that the pseudo-inverse inverts (DDRM's threshold). */
static const double SVD_FLOOR = 0.03;

/* dense (rows x cols), double -> sparse, and its transpose. */
static di_status map1_make(di_ctx *ctx, map1 *m, map1 *t, const double *dense, int rows,
                           int cols)
{
    int taps = 0;
    for (size_t i = 0; i < (size_t)rows * cols; i++)
        taps += dense[i] != 0;
    map1 *side[2] = { m, t };
    for (int k = 0; k < 2; k++) {
        side[k]->rows = k ? cols : rows;
        side[k]->cols = k ? rows : cols;
        side[k]->start = di_new(ctx, (size_t)side[k]->rows + 1, sizeof(int));
        side[k]->index = di_new(ctx, (size_t)taps, sizeof(int));
        side[k]->weight = di_new(ctx, (size_t)taps, sizeof(di_real));
        if (!side[k]->start || !side[k]->index || !side[k]->weight)
            return DI_EMEMORY;
        int used = 0;
        for (int i = 0; i < side[k]->rows; i++) {
            for (int j = 0; j < side[k]->cols; j++) {
                double v = k ? dense[(size_t)j * cols + i] : dense[(size_t)i * cols + j];
                if (v != 0) {
                    side[k]->index[used] = j;
                    side[k]->weight[used++] = (di_real)v;
                }
            }
            side[k]->start[i + 1] = used;
        }
    }
    return DI_OK;
}

/* out (n1 x n2 transformed): along rows (axis 0) or along columns (axis 1) of in (h x w).
   Each output is one accumulator over ascending taps. */
static void map1_apply(const map1 *m, const di_real *in, int h, int w, int axis, di_real *out)
{
    if (axis == 0) {
        for (int i = 0; i < m->rows; i++)
            for (int j = 0; j < w; j++) {
                di_real s = 0;
                for (int k = m->start[i]; k < m->start[i + 1]; k++)
                    s += m->weight[k] * in[(size_t)m->index[k] * w + j];
                out[(size_t)i * w + j] = s;
            }
    } else {
        for (int i = 0; i < h; i++)
            for (int j = 0; j < m->rows; j++) {
                di_real s = 0;
                for (int k = m->start[j]; k < m->start[j + 1]; k++)
                    s += m->weight[k] * in[(size_t)i * w + m->index[k]];
                out[(size_t)i * m->rows + j] = s;
            }
    }
}

static void sep_apply(const di_problem *p, const di_real *x, di_real *y)
{
    separable *q = p->self;
    size_t in = (size_t)p->x[1] * p->x[2], out = (size_t)p->y[1] * p->y[2];
    for (int c = 0; c < p->x[0]; c++) {
        map1_apply(&q->m[0], x + c * in, p->x[1], p->x[2], 0, q->work);
        map1_apply(&q->m[1], q->work, p->y[1], p->x[2], 1, y + c * out);
    }
}

static void sep_vjp(const di_problem *p, const di_real *x, const di_real *v, di_real *gx)
{
    separable *q = p->self;
    size_t in = (size_t)p->x[1] * p->x[2], out = (size_t)p->y[1] * p->y[2];
    (void)x;
    for (int c = 0; c < p->x[0]; c++) {
        map1_apply(&q->t[1], v + c * out, p->y[1], p->y[2], 1, q->work);
        map1_apply(&q->t[0], q->work, p->y[1], p->x[2], 0, gx + c * in);
    }
}

static di_status map1_svd(di_ctx *ctx, map1 *m)
{
    if (m->w)
        return DI_OK;
    int r = m->rows, n = m->cols;
    m->u = di_new(ctx, (size_t)r * r, sizeof(double));
    m->s = di_new(ctx, (size_t)n, sizeof(double)); /* zeros past r */
    m->w = di_new(ctx, (size_t)n * n, sizeof(double));
    if (!m->u || !m->s || !m->w) {
        di_free(ctx, m->u);
        di_free(ctx, m->s);
        di_free(ctx, m->w);
        m->u = m->s = m->w = NULL;
        return DI_EMEMORY;
    }
    for (int i = 0; i < r; i++)
        for (int k = m->start[i]; k < m->start[i + 1]; k++)
            m->w[(size_t)i * n + m->index[k]] += m->weight[k];
    complete_basis(m->w, svd(m->w, m->u, m->s, r, n), n);
    return DI_OK;
}

/* out (a x b) = P in (h x w) Q^T, P (a x h) and Q (b x w) dense with strides; double inside. */
static void two_sided(double *out, double *work, const double *in, int h, int w,
                      const double *P, int pi, int pk, int a, const double *Q, int qi, int qk,
                      int b)
{
    for (int i = 0; i < a; i++)
        for (int j = 0; j < w; j++) {
            double s = 0;
            for (int k = 0; k < h; k++)
                s += P[(size_t)i * pi + (size_t)k * pk] * in[(size_t)k * w + j];
            work[(size_t)i * w + j] = s;
        }
    for (int i = 0; i < a; i++)
        for (int j = 0; j < b; j++) {
            double s = 0;
            for (int k = 0; k < w; k++)
                s += Q[(size_t)j * qi + (size_t)k * qk] * work[(size_t)i * w + k];
            out[(size_t)i * b + j] = s;
        }
}

/* V^T x, V xt, or V S^+ U^T y, per channel. */
static void sep_spectral(const di_problem *p, const di_real *in, di_real *out, int what)
{
    separable *q = p->self;
    map1 *a = &q->m[0], *b = &q->m[1];
    int h = p->x[1], w = p->x[2], yh = p->y[1], yw = p->y[2];
    size_t n = (size_t)h * w, m = (size_t)yh * yw;
    if (map1_svd(p->ctx, a) || map1_svd(p->ctx, b))
        return;
    double *d = di_new(p->ctx, 3 * n, sizeof *d), *e = d + n, *f = e + n;
    for (int c = 0; d && c < p->x[0]; c++) {
        for (size_t i = 0; i < (what == PINV ? m : n); i++)
            d[i] = what == PINV ? in[c * m + i] : in[c * n + i];
        if (what == TO_VT) {
            two_sided(e, f, d, h, w, a->w, h, 1, h, b->w, w, 1, w);
        } else if (what == FROM_V) {
            two_sided(e, f, d, h, w, a->w, 1, h, h, b->w, 1, w, w);
        } else {
            two_sided(e, f, d, yh, yw, a->u, yh, 1, yh, b->u, yw, 1, yw);
            memset(d, 0, n * sizeof *d);
            for (int i = 0; i < yh; i++)
                for (int j = 0; j < yw; j++)
                    if (a->s[i] >= SVD_FLOOR && b->s[j] >= SVD_FLOOR)
                        d[(size_t)i * w + j] = e[(size_t)i * yw + j] / (a->s[i] * b->s[j]);
            two_sided(e, f, d, h, w, a->w, 1, h, h, b->w, 1, w, w);
        }
        for (size_t i = 0; i < n; i++)
            out[c * n + i] = (di_real)e[i];
    }
    di_free(p->ctx, d);
}

static void sep_pinv(const di_problem *p, const di_real *y, di_real *x)
{
    sep_spectral(p, y, x, PINV);
}

static di_status sep_values(const di_problem *p, di_real *s)
{
    separable *q = p->self;
    size_t plane = (size_t)p->x[1] * p->x[2], w = (size_t)p->x[2];
    if (map1_svd(p->ctx, &q->m[0]) || map1_svd(p->ctx, &q->m[1]))
        return DI_EMEMORY;
    for (size_t i = 0; i < size3(p->x); i++) { /* what the pseudo-inverse drops is not measured */
        double a = q->m[0].s[i % plane / w], b = q->m[1].s[i % plane % w];
        s[i] = (di_real)(a >= SVD_FLOOR && b >= SVD_FLOOR ? a * b : 0);
    }
    return DI_OK;
}

/* make(dense (rows x cols), rows, cols, argument) fills a 1-D map. */
static di_status separable_new(di_ctx *ctx, const char *name, const int *x, int yh, int yw,
                               void (*make)(double *, int, int, const void *), const void *arg,
                               di_problem **out)
{
    *out = NULL;
    separable *q = problem_new(ctx, sizeof *q, name, x[0], x[1], x[2]);
    if (!q)
        return ctx->status;
    q->p.y[1] = yh;
    q->p.y[2] = yw;
    q->work = di_new(ctx, (size_t)yh * x[2], sizeof *q->work);
    for (int k = 0; q->work && k < 2; k++) {
        int rows = k ? yw : yh, cols = x[1 + k];
        double *dense = di_new(ctx, (size_t)rows * cols, sizeof *dense);
        if (!dense)
            break;
        make(dense, rows, cols, arg);
        map1_make(ctx, &q->m[k], &q->t[k], dense, rows, cols);
        di_free(ctx, dense);
    }
    q->p.apply = sep_apply;
    q->p.vjp = sep_vjp;
    q->p.pinv = sep_pinv;
    if (!ctx->status)
        *out = &q->p;
    return ctx->status;
}

static int fold_symmetric(int j, int n) /* c b a | a b c d | d c b */
{
    j %= 2 * n;
    if (j < 0)
        j += 2 * n;
    return j >= n ? 2 * n - 1 - j : j;
}

static int fold_reflect(int j, int n) /* d c b | a b c d | c b a */
{
    if (n == 1)
        return 0;
    j %= 2 * n - 2;
    if (j < 0)
        j += 2 * n - 2;
    return j >= n ? 2 * n - 2 - j : j;
}

/* ---- super-resolution ---- */

/* Keys' cubic, a = -1/2, stretched by the factor, |j - c| < 2s, symmetric border: the Resizer
   of DPS, DAPS and DMPlug. */
static void bicubic_map(double *d, int rows, int cols, const void *arg)
{
    int s = *(const int *)arg;
    for (int i = 0; i < rows; i++) {
        double c = s * i + (s - 1) / 2.0, sum = 0;
        for (int pass = 0; pass < 2; pass++)
            for (int j = (int)ceil(c - 2 * s); j <= (int)floor(c + 2 * s); j++) {
                double t = fabs(j - c) / s, k = 0;
                if (t <= 1)
                    k = (1.5 * t - 2.5) * t * t + 1;
                else if (t < 2)
                    k = ((-0.5 * t + 2.5) * t - 4) * t + 2;
                if (!pass)
                    sum += k;
                else
                    d[(size_t)i * cols + fold_symmetric(j, cols)] += k / sum;
            }
    }
}

static void mean_map(double *d, int rows, int cols, const void *arg)
{
    int s = *(const int *)arg;
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < s; j++)
            d[(size_t)i * cols + i * s + j] = 1.0 / s;
}

di_status di_problem_sr(di_ctx *ctx, int c, int h, int w, int factor, int kind, di_problem **p)
{
    int x[3] = { c, h, w };
    *p = NULL;
    if (factor < 2 || factor > 64 || h < factor || w < factor || h % factor || w % factor)
        return di_fail(ctx, DI_EUSAGE, "sr: factor=%d must be 2..64 and divide the image size "
                       "%dx%d", factor, h, w);
    return separable_new(ctx, "sr", x, h / factor, w / factor,
                         kind == DI_SR_MEAN ? mean_map : bicubic_map, &factor, p);
}

/* ---- Gaussian blur, reflect-101 border: the 2-D kernel is an outer product ---- */

typedef struct gauss_arg {
    int size;
    double std;
} gauss_arg;

/* Taps exp(-t^2/2std^2), |t| <= int(4 std + 1/2), sum 1; tails past the kernel fold back. */
static void gblur_map(double *d, int rows, int cols, const void *arg)
{
    const gauss_arg *a = arg;
    int reach = (int)(4 * a->std + 0.5), half = a->size / 2;
    double sum = 0;
    for (int t = -reach; t <= reach; t++)
        sum += di_exp(-t * t / (2 * a->std * a->std));
    for (int i = 0; i < rows; i++)
        for (int t = -reach; t <= reach; t++) {
            int tap = fold_symmetric(t + half, a->size) - half;
            d[(size_t)i * cols + fold_reflect(i + tap, cols)] +=
                di_exp(-t * t / (2 * a->std * a->std)) / sum;
        }
}

di_status di_problem_gblur(di_ctx *ctx, int c, int h, int w, int size, double std,
                           di_problem **p)
{
    int x[3] = { c, h, w };
    gauss_arg a = { size, std };
    *p = NULL;
    if (size < 1 || size % 2 == 0 || !(std > 0 && std < 1e4))
        return di_fail(ctx, DI_EUSAGE, "gblur: size=%d must be odd and std=%g positive", size,
                       std);
    if (size / 2 >= h || size / 2 >= w)
        return di_fail(ctx, DI_EUSAGE, "gblur: a %dx%d kernel reaches past a %dx%d image; the "
                       "largest size here is %d", size, size, h, w, 2 * (h < w ? h : w) - 1);
    return separable_new(ctx, "gblur", x, h, w, gblur_map, &a, p);
}

/* ---- a dense matrix: y = A x, A (m,d), d = c*h*w ---- */

typedef struct matrix {
    di_problem p;
    di_real *a;               /* (m,d) */
    double *left, *right, *s; /* SVD, made when first asked for: (r,m), (d,d), (d) with
                                 r = min(m,d); rows are singular vectors, s is 0 past r */
    double *work;             /* (2d) */
} matrix;

/* The largest m and d. The SVD grows with the cube: minutes here, and nobody wants more. */
enum { MATRIX_MOST = 2048 };

/* Smaller singular values, in units of the largest, count as 0: inverted they would blow up the
   rounding of A's entries, which is all that they are in a matrix of lower rank. */
#ifdef DI_DOUBLE
static const double MATRIX_FLOOR = 1e-10;
#else
static const double MATRIX_FLOOR = 1e-6;
#endif

static void matrix_apply(const di_problem *p, const di_real *x, di_real *y)
{
    const matrix *q = p->self;
    size_t d = size3(p->x), m = size3(p->y);
    for (size_t i = 0; i < m; i++) {
        double s = 0;
        for (size_t j = 0; j < d; j++)
            s += (double)q->a[i * d + j] * x[j];
        y[i] = (di_real)s;
    }
}

/* gx = A^T v */
static void matrix_vjp(const di_problem *p, const di_real *x, const di_real *v, di_real *gx)
{
    const matrix *q = p->self;
    size_t d = size3(p->x), m = size3(p->y);
    (void)x;
    memset(q->work, 0, d * sizeof *q->work);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < d; j++)
            q->work[j] += (double)q->a[i * d + j] * v[i];
    for (size_t j = 0; j < d; j++)
        gx[j] = (di_real)q->work[j];
}

/* Jacobi wants the short side as rows: of A = U S V^T when m <= d, else of A^T = V S U^T. */
static di_status matrix_svd(matrix *q)
{
    size_t d = size3(q->p.x), m = size3(q->p.y), r = m < d ? m : d;
    int wide = m <= d;
    if (q->s)
        return DI_OK;
    double *w = di_new(q->p.ctx, wide ? d * d : d * m, sizeof *w);
    double *u = di_new(q->p.ctx, r * r, sizeof *u);
    double *s = di_new(q->p.ctx, d, sizeof *s);
    if (!w || !u || !s) {
        di_free(q->p.ctx, w);
        di_free(q->p.ctx, u);
        di_free(q->p.ctx, s);
        return DI_EMEMORY;
    }
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < d; j++)
            w[wide ? i * d + j : j * m + i] = q->a[i * d + j];
    int rank = svd(w, u, s, (int)r, (int)(wide ? d : m));
    if (wide)
        complete_basis(w, rank, (int)d);
    for (size_t k = 0; k < r; k++)
        if (s[k] <= MATRIX_FLOOR * s[0])
            s[k] = 0;
    q->left = wide ? u : w;
    q->right = wide ? w : u;
    q->s = s;
    return DI_OK;
}

static double dot_real(const double *a, const di_real *b, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += a[i] * b[i];
    return s;
}

/* V^T x, V xt, or V S^+ U^T y */
static void matrix_spectral(const di_problem *p, const di_real *in, di_real *out, int what)
{
    matrix *q = p->self;
    size_t d = size3(p->x), m = size3(p->y);
    if (matrix_svd(q))
        return;
    double *coef = q->work, *sum = coef + d;
    for (size_t k = 0; k < d; k++) {
        if (what == FROM_V)
            coef[k] = in[k];
        else if (what == TO_VT)
            coef[k] = dot_real(q->right + k * d, in, d);
        else
            coef[k] = q->s[k] > 0 ? dot_real(q->left + k * m, in, m) / q->s[k] : 0;
        sum[k] = 0;
    }
    for (size_t k = 0; what != TO_VT && k < d; k++)
        for (size_t i = 0; i < d; i++)
            sum[i] += coef[k] * q->right[k * d + i];
    for (size_t i = 0; i < d; i++)
        out[i] = (di_real)(what == TO_VT ? coef[i] : sum[i]);
}

static void matrix_pinv(const di_problem *p, const di_real *y, di_real *x)
{
    matrix_spectral(p, y, x, PINV);
}

static di_status matrix_values(const di_problem *p, di_real *s)
{
    matrix *q = p->self;
    if (matrix_svd(q))
        return DI_EMEMORY;
    for (size_t i = 0; i < size3(p->x); i++)
        s[i] = (di_real)q->s[i];
    return DI_OK;
}

di_status di_problem_matrix(di_ctx *ctx, int c, int h, int w, int m, const di_real *a,
                            di_problem **out)
{
    *out = NULL;
    matrix *q = problem_new(ctx, sizeof *q, "matrix", c, h, w);
    if (!q)
        return ctx->status;
    size_t d = size3(q->p.x);
    if (m < 1 || m > MATRIX_MOST || d > MATRIX_MOST)
        return di_fail(ctx, DI_EUSAGE, "matrix: %d rows and %.0f columns (the image's elements)"
                       "; at least 1 and at most %d of each", m, (double)d, MATRIX_MOST);
    for (size_t i = 0; i < m * d; i++)
        if (!(fabs(a[i]) < HUGE_VAL))
            return di_fail(ctx, DI_EINPUT, "matrix: the entry in row %d, column %d is NaN or "
                           "infinite", (int)(i / d), (int)(i % d));
    q->p.y[0] = q->p.y[1] = 1;
    q->p.y[2] = m;
    q->p.apply = matrix_apply;
    q->p.vjp = matrix_vjp;
    q->p.pinv = matrix_pinv;
    q->a = di_new(ctx, m * d, sizeof *a);
    q->work = di_new(ctx, 2 * d, sizeof *q->work);
    if (!q->a || !q->work)
        return DI_EMEMORY;
    memcpy(q->a, a, m * d * sizeof *a);
    *out = &q->p;
    return DI_OK;
}

/* ---- SVD A = U S V^T, for the kinds of problems that have one ---- */

static void mri_pinv(const di_problem *p, const di_real *y, di_real *x); /* chapter 7 */
static di_status mri_values(const di_problem *p, di_real *s);
static void mri_spectral(const di_problem *p, const di_real *in, di_real *out, int what);

typedef struct svd_kind {
    void (*pinv)(const di_problem *p, const di_real *y, di_real *x); /* tells the kind */
    di_status (*values)(const di_problem *p, di_real *s);
    void (*spectral)(const di_problem *p, const di_real *in, di_real *out, int what);
} svd_kind;
static const svd_kind SVD_KIND[] = {
    { mask_apply, mask_values, mask_spectral },
    { sep_pinv, sep_values, sep_spectral },
    { matrix_pinv, matrix_values, matrix_spectral },
    { mri_pinv, mri_values, mri_spectral },
};

static const svd_kind *svd_of(const di_problem *p)
{
    for (size_t i = 0; i < sizeof SVD_KIND / sizeof *SVD_KIND; i++)
        if (p->pinv == SVD_KIND[i].pinv)
            return &SVD_KIND[i];
    di_fail(p->ctx, DI_EUSAGE, "problem %s has no SVD", p->name);
    return NULL;
}

di_status di_svd_values(const di_problem *p, di_real *s)
{
    const svd_kind *k = svd_of(p);
    return k ? k->values(p, s) : p->ctx->status;
}

di_status di_svd_vt(const di_problem *p, const di_real *x, di_real *xt)
{
    const svd_kind *k = svd_of(p);
    if (k)
        k->spectral(p, x, xt, TO_VT);
    return p->ctx->status;
}

di_status di_svd_v(const di_problem *p, const di_real *xt, di_real *x)
{
    const svd_kind *k = svd_of(p);
    if (k)
        k->spectral(p, xt, x, FROM_V);
    return p->ctx->status;
}

/* ==== 3. How good an answer is ============================================================ */

double di_rms(const di_real *a, size_t n) { return n ? sqrt(di_dot(a, a, n) / (double)n) : 0; }

/* ||y - A(x)|| / sqrt(m); work (C,H,W of y). */
double di_residual(const di_problem *p, const di_real *x, const di_real *y, di_real *work)
{
    size_t m = size3(p->y);
    p->apply(p, x, work);
    for (size_t i = 0; i < m; i++)
        work[i] = y[i] - work[i];
    return di_rms(work, m);
}

double di_misfit(const di_problem *p, const di_real *x, const di_real *y, di_real *half,
                 di_real *work)
{
    size_t m = size3(p->y);
    if (p->misfit)
        return p->misfit(p, x, y, half);
    p->apply(p, x, work);
    for (size_t i = 0; i < m; i++)
        work[i] -= y[i];
    if (half)
        p->vjp(p, x, work, half);
    return di_dot(work, work, m);
}

double di_psnr(const di_real *a, const di_real *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double u = (a[i] + 1.0) / 2, v = (b[i] + 1.0) / 2;
        u = u < 0 ? 0 : u > 1 ? 1 : u;
        v = v < 0 ? 0 : v > 1 ? 1 : v;
        sum += (u - v) * (u - v);
    }
    return -10 * di_log(sum / (double)n) / 2.30258509299404568402;
}

/* ==== 4. Analytic priors: what they share ====================================================
   The linear schedule of 1000 steps, and what a vjp must know of its eval. */

enum { ANALYTIC_STEPS = 1000 };

/* 1 - abar, which these priors divide by, stays positive. */
static double noisy_abar(const di_prior *p, double t)
{
    return di_prior_abar(p, t == -1 ? t + 1e-15 : t);
}

typedef struct kept {
    size_t n, room;  /* images of the last eval, 0: there was none; and of the allocation */
    double *t;       /* (n) */
    di_real *x;      /* (n,d), only with keep_x */
} kept;
typedef struct analytic {
    di_prior p;
    size_t d;
    int keep_x;
    kept slot[DI_MAX_KEEP + 1];
} analytic;

/* A prior of `size` bytes whose first member is an analytic one; eval and vjp are missing. */
static void *analytic_new(di_ctx *ctx, size_t size, const char *name, int c, int h, int w)
{
    if (c < 1 || h < 1 || w < 1 || c > 65536 || h > 65536 || w > 65536) {
        di_fail(ctx, DI_EUSAGE, "%s: image shape %dx%dx%d is impossible", name, c, h, w);
        return NULL;
    }
    analytic *a = di_new(ctx, 1, size);
    double *beta = di_new(ctx, ANALYTIC_STEPS, sizeof *beta);
    if (!a || !beta)
        return NULL;
    for (int i = 0; i < ANALYTIC_STEPS; i++)
        beta[i] = 1e-4 + (2e-2 - 1e-4) * i / (ANALYTIC_STEPS - 1);
    a->d = (size_t)c * h * w;
    a->p.ctx = ctx;
    a->p.c = c;
    a->p.h = h;
    a->p.w = w;
    a->p.variance = DI_VAR_FIXED_SMALL;
    a->p.steps = ANALYTIC_STEPS;
    a->p.beta = beta;
    a->p.self = a;
    return a;
}

static size_t slot_bytes(const analytic *a, size_t n)
{
    return n * (sizeof(double) + (a->keep_x ? a->d * sizeof(di_real) : 0));
}

static size_t analytic_bytes(di_prior *p, size_t n, int keep)
{
    return keep > 0 ? (size_t)keep * slot_bytes(p->self, n) : 0;
}

/* Stores t (n) and x (n,d) for a vjp with this keep. */
static di_status remember(analytic *a, int keep, size_t n, const double *t, const di_real *x)
{
    if (keep < 0 || keep > DI_MAX_KEEP)
        return di_fail(a->p.ctx, DI_EUSAGE, "%d passes kept: at most %d", keep, DI_MAX_KEEP);
    if (!keep)
        return DI_OK;
    kept *s = &a->slot[keep];
    s->n = 0;
    if (n > s->room) {
        di_free(a->p.ctx, s->t);
        s->room = 0;
        s->t = di_new(a->p.ctx, 1, slot_bytes(a, n));
        if (!s->t)
            return DI_EMEMORY;
        s->room = n;
    }
    s->n = n;
    memcpy(s->t, t, n * sizeof *t);
    s->x = (di_real *)(void *)(s->t + n);
    if (a->keep_x)
        memcpy(s->x, x, n * a->d * sizeof *x);
    return DI_OK;
}

/* What remember stored, or NULL. */
static const kept *recall(const analytic *a, int keep)
{
    if (keep >= 1 && keep <= DI_MAX_KEEP && a->slot[keep].n)
        return &a->slot[keep];
    di_fail(a->p.ctx, DI_EUSAGE, "a prior's vjp must follow an eval with its keep");
    return NULL;
}

/* ==== 5. The Gaussian prior, exact ===========================================================
   x0 ~ N(m, C). E[eps | x_t] = sqrt(1-abar) (abar C + (1-abar) I)^-1 (x_t - sqrt(abar) m), a
   symmetric linear map, so its own derivative. C = Q L Q^T, or diagonal. */

typedef struct gauss {
    analytic a;
    int full;
    di_real *mean;
    double *lambda, *q, *work; /* (d), (d,d) rows are eigenvectors, (2d) */
} gauss;

/* out = sqrt(1-abar) (abar C + (1-abar) I)^-1 (in - sqrt(abar) mean), mean may be NULL: 0 */
static void gauss_map(gauss *g, double abar, const di_real *in, const di_real *mean,
                      di_real *out)
{
    size_t d = g->a.d;
    double *a = g->work, *b = a + d, gain = sqrt(1 - abar);
    for (size_t i = 0; i < d; i++)
        a[i] = in[i] - (mean ? sqrt(abar) * mean[i] : 0);
    for (size_t i = 0; i < d; i++)
        b[i] = gain / (abar * g->lambda[i] + (1 - abar))
               * (g->full ? dot(g->q + i * d, a, (int)d) : a[i]);
    for (size_t i = 0; i < d; i++) {
        double s = g->full ? 0 : b[i];
        for (size_t k = 0; g->full && k < d; k++)
            s += g->q[k * d + i] * b[k];
        out[i] = (di_real)s;
    }
}

static di_status gauss_eval(di_prior *p, size_t n, const double *t, const di_real *x,
                            di_real *eps, di_real *v, int keep)
{
    gauss *g = p->self;
    size_t d = g->a.d;
    (void)v;
    if (remember(&g->a, keep, n, t, x))
        return p->ctx->status;
    for (size_t i = 0; i < n; i++)
        gauss_map(g, noisy_abar(p, t[i]), x + i * d, g->mean, eps + i * d);
    return DI_OK;
}

static di_status gauss_vjp(di_prior *p, int keep, const di_real *geps, di_real *gx)
{
    gauss *g = p->self;
    size_t d = g->a.d;
    const kept *s = recall(&g->a, keep);
    if (!s)
        return DI_EUSAGE;
    for (size_t i = 0; i < s->n; i++)
        gauss_map(g, noisy_abar(p, s->t[i]), geps + i * d, NULL, gx + i * d);
    return DI_OK;
}

/* cov (d,d) = q^T diag(lambda) q. For a covariance the singular vectors are eigenvectors: left
   and right ones are equal where the value is not 0, and opposite where it is negative. */
static di_status gauss_eigen(gauss *g, const di_real *cov)
{
    di_ctx *ctx = g->a.p.ctx;
    size_t d = g->a.d;
    double *u = di_new(ctx, d * d, sizeof *u);
    g->q = di_new(ctx, d * d, sizeof *g->q);
    if (!g->q || !u)
        return DI_EMEMORY;
    for (size_t i = 0; i < d * d; i++) {
        g->q[i] = cov[i];
        if (!(fabs(cov[i] - cov[i % d * d + i / d]) <= 1e-6 * (fabs(cov[i]) + 1)))
            return di_fail(ctx, DI_EINPUT, "gauss: the covariance is not symmetric");
    }
    complete_basis(g->q, svd(g->q, u, g->lambda, (int)d, (int)d), (int)d);
    for (size_t i = 0; i < d; i++)
        if (g->lambda[i] > 1e-6 * g->lambda[0] && dot(u + i * d, g->q + i * d, (int)d) < 0.5)
            return di_fail(ctx, DI_EINPUT, "gauss: the covariance has a negative eigenvalue");
    di_free(ctx, u);
    return DI_OK;
}

di_status di_prior_gauss(di_ctx *ctx, int c, int h, int w, const di_real *mean,
                         const di_real *cov, int full, di_prior **out)
{
    *out = NULL;
    gauss *g = analytic_new(ctx, sizeof *g, "gauss", c, h, w);
    if (!g)
        return ctx->status;
    size_t d = g->a.d;
    if (!di_finite(mean, d))
        return di_fail(ctx, DI_EINPUT, "gauss: a mean is NaN or infinite");
    if (full && !di_finite(cov, d * d))
        return di_fail(ctx, DI_EINPUT, "gauss: the covariance holds NaN or Inf");
    g->full = full;
    g->mean = di_new(ctx, d, sizeof *g->mean);
    g->lambda = di_new(ctx, d, sizeof(double));
    g->work = di_new(ctx, 2 * d, sizeof(double));
    if (!g->mean || !g->lambda || !g->work)
        return DI_EMEMORY;
    memcpy(g->mean, mean, d * sizeof *mean);
    if (full && gauss_eigen(g, cov))
        return ctx->status;
    for (size_t i = 0; !full && i < d; i++) {
        g->lambda[i] = cov[i];
        if (!(cov[i] >= 0 && cov[i] < HUGE_VAL))
            return di_fail(ctx, DI_EINPUT, "gauss: a variance is negative or NaN or infinite");
    }
    g->a.p.eval = gauss_eval;
    g->a.p.vjp = gauss_vjp;
    g->a.p.bytes = analytic_bytes;
    *out = &g->a.p;
    return DI_OK;
}

/* ==== 6. The Gaussian mixture, exact =========================================================
   x0 ~ sum_k w_k N(m_k, diag(V_k)), so x_t ~ sum_k w_k N(sqrt(abar) m_k, diag(S_k)) with
   S_k = abar V_k + (1-abar). The components have the scores g_k = -(x_t - sqrt(abar) m_k)/S_k
   and the responsibilities p_k ~ w_k N(x_t; sqrt(abar) m_k, diag(S_k)), sum 1. The score of the
   mixture is gbar = sum_k p_k g_k, and
       eps = -sqrt(1-abar) gbar
       J   = -sqrt(1-abar) (sum_k p_k (-diag(1/S_k) + g_k g_k^T) - gbar gbar^T)
           = sqrt(1-abar) sum_k p_k (diag(1/S_k) - (g_k - gbar)(g_k - gbar)^T), symmetric.
   The last form has no large terms that cancel where one component has all of the weight. */

typedef struct mixture {
    analytic a;
    int k, each;         /* each: a variance for every element, else one for a component */
    double *log_w;       /* (k); a common factor of the weights cancels in p */
    di_real *mean, *var; /* (k,d); (k,d) or (k) */
    double abar, root;   /* where mixture_at stands: abar, sqrt(abar) */
    double *p, *gbar;    /* (k), (d): at that place */
    double *sum;         /* (d) */
} mixture;

/* S_k and g_k of element i */
static double mixture_spread(const mixture *q, int k, size_t i)
{
    return q->abar * q->var[q->each ? (size_t)k * q->a.d + i : (size_t)k] + (1 - q->abar);
}

static double mixture_score(const mixture *q, int k, size_t i, double x)
{
    return (q->root * q->mean[(size_t)k * q->a.d + i] - x) / mixture_spread(q, k, i);
}

/* p and gbar at x (d). The largest exponent is taken out, so that nothing overflows and one p
   at least is not 0. */
static void mixture_at(mixture *q, double abar, const di_real *x)
{
    size_t d = q->a.d;
    double top = -HUGE_VAL, sum = 0, log_s = 0;
    q->abar = abar;
    q->root = sqrt(abar);
    for (int k = 0; k < q->k; k++) {
        double far = 0; /* sum_i log S + S g^2 */
        for (size_t i = 0; i < d; i++) {
            double s = mixture_spread(q, k, i), g = mixture_score(q, k, i, x[i]);
            if (q->each || i == 0)
                log_s = di_log(s);
            far += log_s + s * g * g;
        }
        q->p[k] = q->log_w[k] - 0.5 * far;
        top = q->p[k] > top ? q->p[k] : top;
    }
    for (int k = 0; k < q->k; k++) {
        q->p[k] = di_exp(q->p[k] - top);
        sum += q->p[k];
    }
    memset(q->gbar, 0, d * sizeof *q->gbar);
    for (int k = 0; k < q->k; k++) {
        q->p[k] /= sum;
        for (size_t i = 0; i < d; i++)
            q->gbar[i] += q->p[k] * mixture_score(q, k, i, x[i]);
    }
}

static di_status mixture_eval(di_prior *p, size_t n, const double *t, const di_real *x,
                              di_real *eps, di_real *v, int keep)
{
    mixture *q = p->self;
    size_t d = q->a.d;
    (void)v;
    if (remember(&q->a, keep, n, t, x))
        return p->ctx->status;
    for (size_t j = 0; j < n; j++) {
        mixture_at(q, noisy_abar(p, t[j]), x + j * d);
        for (size_t i = 0; i < d; i++)
            eps[j * d + i] = (di_real)(-sqrt(1 - q->abar) * q->gbar[i]);
    }
    return DI_OK;
}

/* gx = J geps, J as above */
static di_status mixture_vjp(di_prior *p, int keep, const di_real *geps, di_real *gx)
{
    mixture *q = p->self;
    size_t d = q->a.d;
    const kept *s = recall(&q->a, keep);
    if (!s)
        return DI_EUSAGE;
    for (size_t j = 0; j < s->n; j++) {
        const di_real *x = s->x + j * d, *v = geps + j * d;
        mixture_at(q, noisy_abar(p, s->t[j]), x);
        memset(q->sum, 0, d * sizeof *q->sum);
        for (int k = 0; k < q->k; k++) {
            double along = 0; /* (g_k - gbar)^T v */
            for (size_t i = 0; i < d; i++)
                along += (mixture_score(q, k, i, x[i]) - q->gbar[i]) * v[i];
            for (size_t i = 0; i < d; i++)
                q->sum[i] += q->p[k] * (v[i] / mixture_spread(q, k, i)
                                        - along * (mixture_score(q, k, i, x[i]) - q->gbar[i]));
        }
        for (size_t i = 0; i < d; i++)
            gx[j * d + i] = (di_real)(sqrt(1 - q->abar) * q->sum[i]);
    }
    return DI_OK;
}

/* Copies and checks the numbers: weight (k), mean (k,d), var (k,d) or (k). */
static di_status mixture_fill(mixture *q, const di_real *weight, const di_real *mean,
                              const di_real *var)
{
    di_ctx *ctx = q->a.p.ctx;
    size_t d = q->a.d, vars = q->each ? d : 1;
    for (int k = 0; k < q->k; k++) {
        if (!(weight[k] > 0 && weight[k] < HUGE_VAL))
            return di_fail(ctx, DI_EINPUT, "mixture: component %d has the weight %g; a weight "
                           "is positive and finite", k, (double)weight[k]);
        if (!di_finite(mean + k * d, d))
            return di_fail(ctx, DI_EINPUT, "mixture: the mean of component %d holds NaN or Inf",
                           k);
        for (size_t i = 0; i < vars; i++)
            if (!(var[k * vars + i] >= 0 && var[k * vars + i] < HUGE_VAL))
                return di_fail(ctx, DI_EINPUT, "mixture: component %d has the variance %g; a "
                               "variance is 0 or positive, and finite", k,
                               (double)var[k * vars + i]);
        q->log_w[k] = di_log(weight[k]);
    }
    memcpy(q->mean, mean, q->k * d * sizeof *mean);
    memcpy(q->var, var, q->k * vars * sizeof *var);
    return DI_OK;
}

di_status di_prior_mixture(di_ctx *ctx, int c, int h, int w, int k, const di_real *weight,
                           const di_real *mean, const di_real *var, int each, di_prior **out)
{
    *out = NULL;
    if (k < 1)
        return di_fail(ctx, DI_EINPUT, "mixture: %d components; at least 1", k);
    mixture *q = analytic_new(ctx, sizeof *q, "mixture", c, h, w);
    if (!q)
        return ctx->status;
    size_t d = q->a.d;
    q->k = k;
    q->each = each;
    q->a.keep_x = 1;
    q->log_w = di_new(ctx, (size_t)k, sizeof(double));
    q->mean = di_new(ctx, (size_t)k * d, sizeof(di_real));
    q->var = di_new(ctx, (size_t)k * (each ? d : 1), sizeof(di_real));
    q->p = di_new(ctx, (size_t)k, sizeof(double));
    q->gbar = di_new(ctx, d, sizeof(double));
    q->sum = di_new(ctx, d, sizeof(double));
    if (!q->log_w || !q->mean || !q->var || !q->p || !q->gbar || !q->sum)
        return DI_EMEMORY;
    if (mixture_fill(q, weight, mean, var))
        return ctx->status;
    q->a.p.eval = mixture_eval;
    q->a.p.vjp = mixture_vjp;
    q->a.p.bytes = analytic_bytes;
    *out = &q->a.p;
    return DI_OK;
}

/* ==== 7. Problems in the Fourier plane =======================================================
   Phase retrieval and magnetic resonance. F is the centred orthonormal transform of an (h,w)
   plane: the origin of the image and that of the spectrum lie at row h/2, column w/2. Moving an
   image's origin only turns phases, moving the spectrum's reorders it; neither is done here but
   where it shows. */

static void free_all(di_ctx *ctx, void *const *block, int n)
{
    for (int i = 0; i < n; i++)
        di_free(ctx, block[i]);
}

/* Transforms of length h and w and their working memory; 0 on success. */
typedef struct plane {
    di_fft *h, *w;
    di_real *work, scale;    /* scale: 1 / sqrt(h w) */
} plane;

static di_status plane_open(di_ctx *ctx, plane *f, int h, int w)
{
    f->h = di_fft_new(ctx, h);
    f->w = f->h ? di_fft_new(ctx, w) : NULL;
    if (!f->w) {
        di_fft_free(f->h);
        return ctx->status;
    }
    size_t a = di_fft_work(f->h), b = di_fft_work(f->w);
    f->scale = (di_real)(1 / sqrt((double)h * w));
    f->work = di_new(ctx, a > b ? a : b, sizeof *f->work);
    if (!f->work) {
        di_fft_free(f->h);
        di_fft_free(f->w);
    }
    return ctx->status;
}

/* ---- phase retrieval: y = |F(pad(u))|, u = x, or x/2 + 1/2 ---- */

typedef struct phase {
    di_problem p;
    int pad, halved;
    plane f;                 /* of the padded image (H,W), H = h + 2 pad, W = w + 2 pad */
    di_real *u, *re, *im;    /* (H,W), and half a spectrum: (H,W/2+1) */
} phase;

/* Smaller amplitudes have no phase: the factor z/|z| of the derivative is 0 there. */
static const double PHASE_FLOOR = 1e-30;

/* re, im = the half spectrum of u, unscaled, uncentred: one channel of x (h,w). */
static void phase_spectrum(phase *q, const di_real *x)
{
    size_t h = (size_t)q->p.x[1], w = (size_t)q->p.x[2], W = (size_t)q->p.y[2];
    memset(q->u, 0, (size_t)q->p.y[1] * W * sizeof *q->u);
    for (size_t r = 0; r < h; r++)
        for (size_t c = 0; c < w; c++) {
            di_real v = x[r * w + c];
            q->u[(r + (size_t)q->pad) * W + (size_t)q->pad + c] =
                q->halved ? (di_real)0.5 * v + (di_real)0.5 : v;
        }
    di_fft2_real(q->f.h, q->f.w, 1, q->u, q->re, q->im, q->f.work);
}

/* Where frequency k of n lies in a centred spectrum, and frequency -k. */
static size_t centred(size_t k, size_t n) { return (k + n / 2) % n; }
static size_t mirrored(size_t k, size_t n) { return (n - k + n / 2) % n; }

static double modulus(const phase *q, size_t i)
{
    return sqrt((double)q->re[i] * q->re[i] + (double)q->im[i] * q->im[i]);
}

static void phase_apply(const di_problem *p, const di_real *x, di_real *y)
{
    phase *q = p->self;
    size_t H = (size_t)p->y[1], W = (size_t)p->y[2], half = W / 2 + 1;
    for (int c = 0; c < p->x[0]; c++, x += (size_t)p->x[1] * p->x[2], y += H * W) {
        phase_spectrum(q, x);
        for (size_t r = 0; r < H; r++)
            for (size_t k = 0; k < half; k++) { /* |z_-k| = |z_k|: u is real */
                di_real a = (di_real)(q->f.scale * modulus(q, r * half + k));
                y[centred(r, H) * W + centred(k, W)] = a;
                y[mirrored(r, H) * W + mirrored(k, W)] = a;
            }
    }
}

/* gx = kappa crop(Re F^H (v z/|z|)), kappa 1 or 1/2. The real part comes of the Hermitian
   half
   of v z/|z|, whose value at k is (v_k + v_-k)/2 z_k/|z_k|. */
static void phase_vjp(const di_problem *p, const di_real *x, const di_real *v, di_real *gx)
{
    phase *q = p->self;
    size_t H = (size_t)p->y[1], W = (size_t)p->y[2], half = W / 2 + 1;
    size_t h = (size_t)p->x[1], w = (size_t)p->x[2], pad = (size_t)q->pad;
    di_real scale = q->halved ? (di_real)0.5 * q->f.scale : q->f.scale;
    for (int c = 0; c < p->x[0]; c++, x += h * w, gx += h * w, v += H * W) {
        phase_spectrum(q, x);
        for (size_t r = 0; r < H; r++)
            for (size_t k = 0; k < half; k++) {
                size_t i = r * half + k;
                double a = modulus(q, i), g = 0;
                if (q->f.scale * a > PHASE_FLOOR)
                    g = 0.5 * ((double)v[centred(r, H) * W + centred(k, W)]
                               + v[mirrored(r, H) * W + mirrored(k, W)]) / a;
                q->re[i] = (di_real)(g * q->re[i]);
                q->im[i] = (di_real)(g * q->im[i]);
            }
        di_fft2_real_back(q->f.h, q->f.w, 1, scale, q->re, q->im, q->u, q->f.work);
        for (size_t r = 0; r < h; r++)
            memcpy(gx + r * w, q->u + (r + pad) * W + pad, w * sizeof *gx);
    }
}

/* y (c, h+2pad, w+2pad). Of the mirror of u about its centre, and where u = x of -u, y is the
   same: restorations come out in any of these ways. */
di_status di_problem_phase(di_ctx *ctx, int c, int h, int w, int pad, int halved,
                           di_problem **out)
{
    *out = NULL;
    if (pad < 0 || pad > 32768 || h + 2 * (double)pad > 65536 || w + 2 * (double)pad > 65536)
        return di_fail(ctx, DI_EUSAGE, "phase: pad=%d around %dx%d is negative, or leaves more "
                       "than 65536 a side", pad, h, w);
    phase *q = problem_new(ctx, sizeof *q, "phase", c, h, w);
    if (!q)
        return ctx->status;
    int H = q->p.y[1] = h + 2 * pad, W = q->p.y[2] = w + 2 * pad;
    q->p.linear = 0;
    q->p.apply = phase_apply;
    q->p.vjp = phase_vjp;
    q->pad = pad;
    q->halved = halved;
    q->u = di_new(ctx, (size_t)H * W, sizeof *q->u);
    q->re = di_new(ctx, (size_t)H * (W / 2 + 1), sizeof *q->re);
    q->im = di_new(ctx, (size_t)H * (W / 2 + 1), sizeof *q->im);
    if (q->u && q->re && q->im && !plane_open(ctx, &q->f, H, W))
        *out = &q->p;
    else
        free_all(ctx, (void *[]){ q->u, q->re, q->im, q }, 4);
    return ctx->status;
}

/* ---- magnetic resonance: y_k = m F(S_k x), x and y complex, coils k ---- */

typedef struct mri {
    di_problem p;
    int coils;
    plane f;
    di_real *maps;           /* (2 coils,h,w): real and imaginary part of each S_k */
    di_real *mask;           /* (w) of 0 and 1: the columns measured */
    di_real *re, *im;        /* (h,w): a plane with the origin in its corner */
    double gain;             /* |S|^2 where one coil sees all alike, else 0: no A^+ */
} mri;

/* What a plane's row or column is with the origin in the corner. */
static size_t cornered(size_t i, size_t n) { return (i + n - n / 2) % n; }

/* F (sign -1) or F^H of re, im. */
static void mri_transform(mri *q, int sign)
{
    di_fft2(q->f.h, q->f.w, sign, 1, q->f.scale, q->re, q->im, q->f.work);
}

/* re, im = S x, S and x (2,h,w) */
static void mri_seen(mri *q, const di_real *s, const di_real *x)
{
    size_t h = (size_t)q->p.x[1], w = (size_t)q->p.x[2], n = h * w;
    for (size_t r = 0; r < h; r++)
        for (size_t c = 0; c < w; c++) {
            size_t i = r * w + c, to = cornered(r, h) * w + cornered(c, w);
            q->re[to] = s[i] * x[i] - s[n + i] * x[n + i];
            q->im[to] = s[i] * x[n + i] + s[n + i] * x[i];
        }
}

/* y (2,h,w) = m times the centred plane; m NULL: all ones */
static void mri_masked(const mri *q, const di_real *m, di_real *y)
{
    size_t h = (size_t)q->p.x[1], w = (size_t)q->p.x[2], n = h * w;
    for (size_t r = 0; r < h; r++)
        for (size_t c = 0; c < w; c++) {
            size_t i = r * w + c, from = cornered(r, h) * w + cornered(c, w);
            y[i] = !m || m[c] != 0 ? q->re[from] : 0;
            y[n + i] = !m || m[c] != 0 ? q->im[from] : 0;
        }
}

static void mri_forth(mri *q, const di_real *m, const di_real *x, di_real *y)
{
    size_t n = 2 * (size_t)q->p.x[1] * q->p.x[2];
    for (int k = 0; k < q->coils; k++) {
        mri_seen(q, q->maps + k * n, x);
        mri_transform(q, -1);
        mri_masked(q, m, y + k * n);
    }
}

/* gx = sum_k conj(S_k) F^H (m v_k), coils ascending */
static void mri_back(mri *q, const di_real *m, const di_real *v, di_real *gx)
{
    size_t h = (size_t)q->p.x[1], w = (size_t)q->p.x[2], n = h * w;
    for (int k = 0; k < q->coils; k++) {
        const di_real *s = q->maps + 2 * k * n;
        for (size_t r = 0; r < h; r++)
            for (size_t c = 0; c < w; c++) {
                size_t i = r * w + c, to = cornered(r, h) * w + cornered(c, w);
                q->re[to] = !m || m[c] != 0 ? v[2 * k * n + i] : 0;
                q->im[to] = !m || m[c] != 0 ? v[2 * k * n + n + i] : 0;
            }
        mri_transform(q, 1);
        for (size_t r = 0; r < h; r++)
            for (size_t c = 0; c < w; c++) {
                size_t i = r * w + c, from = cornered(r, h) * w + cornered(c, w);
                di_real a = q->re[from], b = q->im[from];
                gx[i] = (k ? gx[i] : 0) + (s[i] * a + s[n + i] * b);
                gx[n + i] = (k ? gx[n + i] : 0) + (s[i] * b - s[n + i] * a);
            }
    }
}

static void mri_apply(const di_problem *p, const di_real *x, di_real *y)
{
    mri *q = p->self;
    mri_forth(q, q->mask, x, y);
}

static void mri_vjp(const di_problem *p, const di_real *x, const di_real *v, di_real *gx)
{
    mri *q = p->self;
    (void)x;
    mri_back(q, q->mask, v, gx);
}

/* V^H = F S/|S|, the singular values are |S| m. */
static di_status mri_values(const di_problem *p, di_real *s)
{
    const mri *q = p->self;
    for (size_t i = 0; i < size3(p->x); i++)
        s[i] = q->mask[i % (size_t)p->x[2]] != 0 ? (di_real)sqrt(q->gain) : 0;
    return DI_OK;
}

static void mri_spectral(const di_problem *p, const di_real *in, di_real *out, int what)
{
    mri *q = p->self;
    if (what == TO_VT)
        mri_forth(q, NULL, in, out);
    else
        mri_back(q, what == PINV ? q->mask : NULL, in, out);
    for (size_t i = 0; i < size3(p->x); i++)
        out[i] = (di_real)(out[i] / (what == PINV ? q->gain : sqrt(q->gain)));
}

/* One coil of even gain: A / |S| is a part of a unitary map, so A^+ = A^H / |S|^2. */
static void mri_pinv(const di_problem *p, const di_real *y, di_real *x)
{
    mri_spectral(p, y, x, PINV);
}

/* |S|^2 of the only coil if it is the same everywhere, to a rounding of the maps' entries. */
static double mri_gain(const mri *q, size_t n)
{
    double least = HUGE_VAL, most = 0;
    for (size_t i = 0; i < n; i++) {
        double g = (double)q->maps[i] * q->maps[i] + (double)q->maps[n + i] * q->maps[n + i];
        least = g < least ? g : least;
        most = g > most ? g : most;
    }
    return q->coils == 1 && least > 0 && most - least <= 1e-6 * most ? 0.5 * (least + most) : 0;
}

static di_status mri_check(di_ctx *ctx, int h, int w, int coils, const di_real *maps,
                           const di_real *mask)
{
    int columns = 0;
    size_t n = 2 * (size_t)h * w;
    for (int c = 0; c < w; c++) {
        if (mask[c] != 0 && mask[c] != 1)
            return di_fail(ctx, DI_EINPUT, "mri: the mask holds %g at column %d; it is 0 "
                           "(missing) or 1 (measured)", (double)mask[c], c);
        columns += mask[c] == 1;
    }
    if (!columns)
        return di_fail(ctx, DI_EINPUT, "mri: the mask keeps no column at all");
    for (int k = 0; k < coils; k++)
        if (!di_finite(maps + k * n, n))
            return di_fail(ctx, DI_EINPUT, "mri: the map of coil %d holds NaN or Inf", k);
    if (!(di_dot(maps, maps, coils * n) > 0))
        return di_fail(ctx, DI_EINPUT, "mri: the coil maps are zero everywhere");
    return DI_OK;
}

/* x (2,h,w): real and imaginary part. y (2 coils,h,w): those of each coil. mask (w), maps
   (2 coils,h,w). Where a side is odd the InverseBench program puts the origin at (n+1)/2,
   beside the middle of its own mask; here it is at n/2, as in fastMRI. */
di_status di_problem_mri(di_ctx *ctx, int h, int w, int coils, const di_real *maps,
                         const di_real *mask, di_problem **out)
{
    *out = NULL;
    if (coils < 1 || coils > 1024)
        return di_fail(ctx, DI_EUSAGE, "mri: %d coils; 1 to 1024", coils);
    mri *q = problem_new(ctx, sizeof *q, "mri", 2, h, w);
    if (!q)
        return ctx->status;
    size_t n = (size_t)h * w;
    q->p.y[0] = 2 * coils;
    q->p.apply = mri_apply;
    q->p.vjp = mri_vjp;
    q->coils = coils;
    if (mri_check(ctx, h, w, coils, maps, mask)) {
        di_free(ctx, q);
        return ctx->status;
    }
    q->maps = di_new(ctx, 2 * n * coils, sizeof *maps);
    q->mask = di_new(ctx, (size_t)w, sizeof *mask);
    q->re = di_new(ctx, n, sizeof *q->re);
    q->im = di_new(ctx, n, sizeof *q->im);
    if (!q->maps || !q->mask || !q->re || !q->im || plane_open(ctx, &q->f, h, w)) {
        free_all(ctx, (void *[]){ q->maps, q->mask, q->re, q->im, q }, 5);
        return ctx->status;
    }
    memcpy(q->maps, maps, 2 * n * coils * sizeof *maps);
    memcpy(q->mask, mask, (size_t)w * sizeof *mask);
    q->gain = mri_gain(q, n);
    if (q->gain > 0)
        q->p.pinv = mri_pinv;
    *out = &q->p;
    return DI_OK;
}

/* The value of order k, from 0, of a (n), which is reordered: Hoare's selection. */
static double nth_value(double *a, long n, long k)
{
    for (long lo = 0, hi = n - 1; lo < hi;) {
        double pivot = a[k];
        long i = lo, j = hi;
        while (i <= j) {
            while (a[i] < pivot)
                i++;
            while (a[j] > pivot)
                j--;
            if (i <= j) {
                double t = a[i];
                a[i++] = a[j];
                a[j--] = t;
            }
        }
        if (j < k)
            lo = i;
        if (k < i)
            hi = j;
    }
    return a[k];
}

/* What the coils see of a pixel, sum_k conj(S_k) F^H y_k / sqrt(sum_k |S_k|^2), 0 where they
   see nothing; the scale is the linearly interpolated 99 % quantile of its magnitude. */
di_status di_mri_mvue(const di_problem *p, const di_real *y, di_real *x, double *scale)
{
    if (p->apply != mri_apply)
        return di_fail(p->ctx, DI_EUSAGE, "problem %s has no coils", p->name);
    mri *q = p->self;
    size_t n = (size_t)p->x[1] * p->x[2];
    double *size = di_new(p->ctx, n, sizeof *size);
    if (!size)
        return DI_EMEMORY;
    mri_back(q, NULL, y, x);
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (size_t k = 0; k < 2 * (size_t)q->coils; k++)
            sum += (double)q->maps[k * n + i] * q->maps[k * n + i];
        double over = sum > 0 ? 1 / sqrt(sum) : 0;
        x[i] = (di_real)(over * x[i]);
        x[n + i] = (di_real)(over * x[n + i]);
        size[i] = sqrt((double)x[i] * x[i] + (double)x[n + i] * x[n + i]);
    }
    double at = 0.99 * (double)(n - 1);
    long lo = (long)floor(at), hi = lo + (lo + 1 < (long)n);
    double a = nth_value(size, (long)n, lo), b = nth_value(size, (long)n, hi);
    *scale = a + (at - lo) * (b - a);
    di_free(p->ctx, size);
    return DI_OK;
}

/* ==== 8. Linear inverse scattering ===========================================================
   The Born model: a wave from each transmitter t meets the object f once, on its way to each
   receiver r. With g(d) = i/4 H(k d), H = J_0 + i Y_0 the Hankel function of the first kind,
       y_tr = dx^2 k^2 sum_p f_p conj(g(|p - p_t|)) g(|p - p_r|),
   conjugate where the InverseBench program has it. Its matrix would take 1.9 GB; here it is two
   tables, of transmitters and of receivers. */

/* A number as the sum of two, of which lo is what rounding took from hi (Dekker 1971). */
typedef struct twice {
    double hi, lo;
} twice;

static twice twice_sum(double a, double b)
{
    double s = a + b, t = s - a;
    return (twice){ s, (a - (s - t)) + (b - t) };
}

static twice twice_product(double a, double b)
{
    double p = a * b, c = 134217729 * a, d = 134217729 * b; /* 2^27 + 1 */
    double ah = c - (c - a), al = a - ah, bh = d - (d - b), bl = b - bh;
    return (twice){ p, ((ah * bh - p) + ah * bl + al * bh) + al * bl };
}

static twice twice_add(twice a, twice b)
{
    twice s = twice_sum(a.hi, b.hi);
    return twice_sum(s.hi, s.lo + (a.lo + b.lo));
}

static twice twice_times(twice a, twice b)
{
    twice p = twice_product(a.hi, b.hi);
    return twice_sum(p.hi, p.lo + (a.hi * b.lo + a.lo * b.hi));
}

static twice twice_over(twice a, double b)
{
    twice back = twice_product(a.hi / b, b);
    return twice_sum(a.hi / b, ((a.hi - back.hi) - back.lo + a.lo) / b);
}

/* J and Y of order 0 by their power series, 0 < x < 18: s = x^2/4,
     J = sum (-s)^k / k!^2,  Y = 2/pi ((log(x/2) + gamma) J - sum h_k (-s)^k / k!^2),
   h_k = 1 + 1/2 + .. + 1/k. Terms reach 1e6 and leave 0.2: hence the double length. */
static void bessel_series(double x, double *j, double *y)
{
    twice s = twice_product(-x / 2, x / 2), term = { 1, 0 }, one = { 1, 0 }, h = { 0, 0 };
    twice a = { 1, 0 }, b = { 0, 0 };
    for (int k = 1; k < 80 && fabs(term.hi) > 1e-25; k++) {
        term = twice_over(twice_times(term, s), (double)k * k);
        h = twice_add(h, twice_over(one, k));
        a = twice_add(a, term);
        b = twice_add(b, twice_times(h, term));
    }
    double log_x = di_log(x / 2) + 0.57721566490153286061;
    twice p = twice_product(log_x, a.hi);
    *j = a.hi;
    *y = 0.63661977236758134308 * ((p.hi - b.hi) + (p.lo - b.lo + log_x * a.lo));
}

/* x >= 18: Hankel's expansion, H ~ sqrt(2/(pi x)) exp(i (x - pi/4)) (P + i Q), with
     P + i Q = sum_k a_k, a_k = -i (2k-1)^2 / (8 k x) a_{k-1},
   as far as terms fall. Of x - pi/4 the sine and cosine are those of x, turned. */
static void bessel_large(double x, double *j, double *y)
{
    double term = 1, p = 1, q = 0, c = di_cos(x), s = di_sin(x);
    for (int k = 1; k < 40; k++) {
        double factor = (2.0 * k - 1) * (2.0 * k - 1) / (8 * k * x);
        term *= factor;
        if (factor >= 1 || term < 1e-18)
            break;
        if (k % 2)
            q += k % 4 == 1 ? -term : term;
        else
            p += k % 4 == 2 ? -term : term;
    }
    double a = 1 / sqrt(3.14159265358979323846 * x);
    *j = a * (p * (c + s) - q * (s - c));
    *y = a * (p * (s - c) + q * (c + s));
}

void di_bessel0(double x, double *j, double *y)
{
    if (x < 18)
        bessel_series(x, j, y);
    else
        bessel_large(x, j, y);
}

enum { WAVE_LANES = 16, WAVE_RUN = 64 }; /* receivers side by side; pixels summed in one go */
typedef struct waves {
    di_problem p;
    size_t pixels, blocks;   /* blocks of WAVE_LANES receivers, the last one filled with 0 */
    di_real *from;           /* (transmitters, pixels, 2): dx^2 conj(g), the source's field */
    di_real *to;             /* (blocks, pixels, 2, WAVE_LANES): k^2 g */
    di_real *lit;            /* (transmitters, pixels, 2): f times from */
    di_real *seen;           /* (blocks, transmitters, 2, WAVE_LANES): y or v, rearranged */
} waves;

/* One block of receivers: sum (transmitters, 2, WAVE_LANES) = lit times its columns of `to`.
   Runs of pixels in di_real, the runs in double; ascending. */
static void waves_block(const waves *q, const di_real *to, di_real *sum)
{
    size_t transmitters = (size_t)q->p.y[1];
    for (size_t t = 0; t < transmitters; t++, sum += 2 * WAVE_LANES) {
        double re[WAVE_LANES] = { 0 }, im[WAVE_LANES] = { 0 };
        const di_real *a = q->lit + 2 * t * q->pixels, *b = to;
        for (size_t p = 0; p < q->pixels; p += WAVE_RUN) {
            di_real sr[WAVE_LANES] = { 0 }, si[WAVE_LANES] = { 0 };
            size_t end = q->pixels - p < WAVE_RUN ? q->pixels - p : WAVE_RUN;
            for (size_t i = 0; i < end; i++, a += 2, b += 2 * WAVE_LANES)
                for (int l = 0; l < WAVE_LANES; l++) {
                    sr[l] += a[0] * b[l] - a[1] * b[WAVE_LANES + l];
                    si[l] += a[0] * b[WAVE_LANES + l] + a[1] * b[l];
                }
            for (int l = 0; l < WAVE_LANES; l++) {
                re[l] += sr[l];
                im[l] += si[l];
            }
        }
        for (int l = 0; l < WAVE_LANES; l++) {
            sum[l] = (di_real)re[l];
            sum[WAVE_LANES + l] = (di_real)im[l];
        }
    }
}

static void waves_apply(const di_problem *p, const di_real *x, di_real *y)
{
    waves *q = p->self;
    size_t T = (size_t)p->y[1], R = (size_t)p->y[2];
    for (size_t t = 0; t < T; t++)
        for (size_t i = 0; i < q->pixels; i++) {
            size_t at = 2 * (t * q->pixels + i);
            di_real f = (di_real)0.5 * x[i] + (di_real)0.5;
            q->lit[at] = f * q->from[at];
            q->lit[at + 1] = f * q->from[at + 1];
        }
    for (size_t b = 0; b < q->blocks; b++) {
        waves_block(q, q->to + b * q->pixels * 2 * WAVE_LANES, q->seen);
        for (size_t t = 0; t < T; t++)
            for (size_t l = 0; l < WAVE_LANES && b * WAVE_LANES + l < R; l++)
                for (size_t part = 0; part < 2; part++)
                    y[(part * T + t) * R + b * WAVE_LANES + l] =
                        q->seen[(2 * t + part) * WAVE_LANES + l];
    }
}

static double sum_lanes(const di_real *a)
{
    double s[WAVE_LANES];
    for (int l = 0; l < WAVE_LANES; l++)
        s[l] = a[l];
    for (int step = WAVE_LANES / 2; step; step /= 2)
        for (int l = 0; l < step; l++)
            s[l] += s[l + step];
    return s[0];
}

/* gx_p = 1/2 sum_t Re(conj(from_tp) sum_r conj(to_rp) v_tr) */
static void waves_vjp(const di_problem *p, const di_real *x, const di_real *v, di_real *gx)
{
    waves *q = p->self;
    size_t T = (size_t)p->y[1], R = (size_t)p->y[2];
    (void)x;
    memset(q->seen, 0, q->blocks * T * 2 * WAVE_LANES * sizeof *q->seen);
    for (size_t part = 0; part < 2; part++)
        for (size_t t = 0; t < T; t++)
            for (size_t r = 0; r < R; r++)
                q->seen[(((r / WAVE_LANES) * T + t) * 2 + part) * WAVE_LANES + r % WAVE_LANES] =
                    v[(part * T + t) * R + r];
    for (size_t i = 0; i < q->pixels; i++) {
        double sum = 0;
        for (size_t t = 0; t < T; t++) {
            di_real re[WAVE_LANES] = { 0 }, im[WAVE_LANES] = { 0 };
            for (size_t b = 0; b < q->blocks; b++) {
                const di_real *g = q->to + (b * q->pixels + i) * 2 * WAVE_LANES;
                const di_real *a = q->seen + (b * T + t) * 2 * WAVE_LANES;
                for (int l = 0; l < WAVE_LANES; l++) {
                    re[l] += g[l] * a[l] + g[WAVE_LANES + l] * a[WAVE_LANES + l];
                    im[l] += g[l] * a[WAVE_LANES + l] - g[WAVE_LANES + l] * a[l];
                }
            }
            const di_real *s = q->from + 2 * (t * q->pixels + i);
            sum += s[0] * sum_lanes(re) + s[1] * sum_lanes(im);
        }
        gx[i] = (di_real)(0.5 * sum);
    }
}

/* Sensor number i of n on the circle: 0 to 359 degrees, both ends included. */
static void waves_sensor(const di_scatter *s, int i, int n, double *x, double *y)
{
    double angle = n > 1 ? 359.0 * i / (n - 1) * 3.14159265358979323846 / 180 : 0;
    *x = s->radius * di_cos(angle);
    *y = s->radius * di_sin(angle);
}

/* The tables: pixel (r,c) of n lies at ((c - n/2) dx, (r - n/2) dx); g = i/4 (J + i Y). */
static void waves_fill(waves *q, const di_scatter *s)
{
    int n = q->p.x[1];
    double dx = s->side / n, k = 2 * 3.14159265358979323846 / (dx * s->wave), j, y, sx, sy;
    for (int i = 0; i < s->transmitters + s->receivers; i++) {
        int r = i - s->transmitters;
        if (r < 0)
            waves_sensor(s, i, s->transmitters, &sx, &sy);
        else
            waves_sensor(s, r, s->receivers, &sx, &sy);
        for (size_t at = 0; at < q->pixels; at++) {
            double ax = ((double)(at % n) - n / 2.0) * dx - sx;
            double ay = ((double)(at / n) - n / 2.0) * dx - sy;
            di_bessel0(k * sqrt(ax * ax + ay * ay), &j, &y);
            if (r < 0) {
                q->from[2 * (i * q->pixels + at)] = (di_real)(dx * dx * -0.25 * y);
                q->from[2 * (i * q->pixels + at) + 1] = (di_real)(dx * dx * -0.25 * j);
            } else {
                di_real *to = q->to + (r / WAVE_LANES * q->pixels + at) * 2 * WAVE_LANES;
                to[r % WAVE_LANES] = (di_real)(k * k * -0.25 * y);
                to[WAVE_LANES + r % WAVE_LANES] = (di_real)(k * k * 0.25 * j);
            }
        }
    }
}

/* x (1,n,n) in [-1,1], f = (x + 1)/2: an affine map, so not `linear`, but its VJP needs no x.
   y (2,transmitters,receivers): real parts, imaginary parts. */
di_status di_problem_scatter(di_ctx *ctx, int n, const di_scatter *s, di_problem **out)
{
    *out = NULL;
    if (s->transmitters < 1 || s->receivers < 1 || s->transmitters > 65536
        || s->receivers > 65536)
        return di_fail(ctx, DI_EUSAGE, "scatter: %d transmitters, %d receivers: 1 to 65536 of "
                       "each", s->transmitters, s->receivers);
    if (!(s->side > 0 && s->side < 1e6 && s->wave > 0 && s->wave < 1e6)
        || !(s->radius > 0.75 * s->side && s->radius < 1e3 * s->side))
        return di_fail(ctx, DI_EUSAGE, "scatter: side=%g and wave=%g must be positive, and the "
                       "radius=%g of the sensors more than 0.75 and less than 1000 sides: they "
                       "stand around the object", s->side, s->wave, s->radius);
    if (6.3 * n / (s->side * s->wave) * (s->radius + s->side) > 1e6)
        return di_fail(ctx, DI_EUSAGE, "scatter: the wave travels more than 1e6 radians from "
                       "sensor to pixel: give longer waves (wave=%g) or a smaller radius=%g",
                       s->wave, s->radius);
    waves *q = problem_new(ctx, sizeof *q, "scatter", 1, n, n);
    if (!q)
        return ctx->status;
    q->p.linear = 0;
    q->p.y[0] = 2;
    q->p.y[1] = s->transmitters;
    q->p.y[2] = s->receivers;
    q->p.apply = waves_apply;
    q->p.vjp = waves_vjp;
    q->pixels = (size_t)n * n;
    q->blocks = (size_t)(s->receivers + WAVE_LANES - 1) / WAVE_LANES;
    size_t lit = 2 * q->pixels * s->transmitters;
    q->from = di_new(ctx, lit, sizeof *q->from);
    q->lit = di_new(ctx, lit, sizeof *q->lit);
    q->to = di_new(ctx, 2 * q->pixels * q->blocks * WAVE_LANES, sizeof *q->to);
    q->seen = di_new(ctx, 2 * q->blocks * WAVE_LANES * s->transmitters, sizeof *q->seen);
    if (!q->from || !q->lit || !q->to || !q->seen) {
        free_all(ctx, (void *[]){ q->from, q->lit, q->to, q->seen, q }, 5);
        return ctx->status;
    }
    waves_fill(q, s);
    *out = &q->p;
    return DI_OK;
}

/* ==== 9. Nonlinear blur by a network =========================================================
   y = clamp(2 net((x+1)/2; k) - 1, -1, 1), with one latent k for the problem: so DMPlug (once a
   run) and DAPS (from a fixed seed) have it. DPS draws a new k at every call, also within one
   step of its solver, which makes of A a random map; here A is one map. */

typedef struct nblur {
    di_problem p;
    di_bkse *net;
    di_real *latent;         /* (8 base, h/128, w/128) */
} nblur;

static void nblur_apply(const di_problem *p, const di_real *x, di_real *y)
{
    const nblur *q = p->self;
    di_bkse_run(q->net, p->x[1], p->x[2], q->latent, x, y, NULL, NULL);
}

/* gx = J^T (v where the clamp is open), by the network's own derivative */
static void nblur_vjp(const di_problem *p, const di_real *x, const di_real *v, di_real *gx)
{
    const nblur *q = p->self;
    di_bkse_run(q->net, p->x[1], p->x[2], q->latent, x, NULL, v, gx);
}

di_status di_problem_nblur(di_ctx *ctx, di_bkse *net, int h, int w, const di_real *latent,
                           di_problem **out)
{
    int k[3];
    *out = NULL;
    if (!di_bkse_bytes(net, h, w, 1)) /* checks the size */
        return ctx->status;
    di_bkse_latent(net, h, w, k);
    if (!di_finite(latent, size3(k)))
        return di_fail(ctx, DI_EINPUT, "nblur: the latent holds NaN or Inf");
    nblur *q = problem_new(ctx, sizeof *q, "nblur", 3, h, w);
    if (!q)
        return ctx->status;
    q->latent = di_new(ctx, size3(k), sizeof *latent);
    if (!q->latent) {
        di_free(ctx, q);
        return DI_EMEMORY;
    }
    memcpy(q->latent, latent, size3(k) * sizeof *latent);
    q->net = net;
    q->p.linear = 0;
    q->p.apply = nblur_apply;
    q->p.vjp = nblur_vjp;
    *out = &q->p;
    return DI_OK;
}
