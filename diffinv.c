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

typedef struct svd_kind {
    void (*pinv)(const di_problem *p, const di_real *y, di_real *x); /* tells the kind */
    di_status (*values)(const di_problem *p, di_real *s);
    void (*spectral)(const di_problem *p, const di_real *in, di_real *out, int what);
} svd_kind;
static const svd_kind SVD_KIND[] = {
    { mask_apply, mask_values, mask_spectral },
    { sep_pinv, sep_values, sep_spectral },
    { matrix_pinv, matrix_values, matrix_spectral },
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

/* ==== 7. A fluid: two-dimensional Navier-Stokes equations ====================================
   Data assimilation as in InverseBench (arXiv 2503.11043) and CPS: the vorticity w at time T of
   a fluid that starts with w_0 = scale x,
       w_t + u . grad w = nu Lap w + f,  u = (psi_y, -psi_x),  -Lap psi = w,  nu = 1/Re,
   on the periodic square, pseudo-spectral: products in space, derivatives as factors i k in the
   transform, where k at n/2 is 0. With P the modes k1^2 + k2^2 <= 2 (n/3)^2 without the mean,
       N(w) = -(d_x (q W) + d_y (v W)) + f,  W = P w,  (q, v) = (d_y W/G, -d_x W/G),
   G = k1^2 + k2^2,
   and one step of Heun (N) and Crank-Nicolson (nu Lap), g = nu G, S = 1/(1 + dt g/2):
       w~ = S (w + dt (N(w) - g w/2)),  w+ = S (w + dt ((N(w) + N(w~))/2 - g w/2)).
   The adaptive dt = min(h/(2 max|u|), h^2/(2 mu)), h = 1/n, mu = nu sqrt(max|f|) (nu if f = 0),
   is found anew at each step from the velocity without P; the last step is cut to end at T.

   Deviation: the programs take the maximum over a batch, so a field's answer depends on its
   neighbours. Here each has its own dt, and with `together` the programs' rule.

   Fields of a group lie side by side, (n,n,lanes); lanes that have arrived wait, dt = 0. */

enum { FLOW_KEEP = 1024, FLOW_STEPS = 2000000, FLOW_WIDE = 100 };

enum { FLOW_HALVES = 11, FLOW_PLANES = 5 };
typedef struct flow {
    di_problem p;
    di_flow set;
    size_t n, half;            /* half: n/2 + 1 */
    di_fft *fft;
    const di_flow_kernels *k;
    di_flow_grid g;            /* of the group that runs */
    size_t lanes, room;        /* of that group; of the largest so far */
    di_real *fixed;            /* k1, g1 (n) */
    size_t *cut, *kept;        /* (n) columns that P keeps, and times lanes */
    di_real *memory;           /* what the pointers below point to */
    di_real *k2, *g2, *dt_row, *force, *top, *work;
    di_half w, t, n1, a, b, c, d, e, l, mu, nu;
    di_real *plane[FLOW_PLANES]; /* q, v, W, a, b in space */
    double *time, *dt, *now;   /* (lanes) reached, adaptive or fixed, of this step */
    size_t *steps;             /* (lanes) */
    size_t last;               /* steps of the last field */
} flow;

/* The states of a run's steps, for its derivative: every stride-th. */
typedef struct flow_tape {
    size_t slots, used, stride, count;
    di_half *slot;             /* (slots) */
    di_half *part;             /* (stride) the states from one slot to the next */
    double *dt;                /* (room,lanes) of every step */
    size_t room;
} flow_tape;

/* ---- memory ---- */

static size_t flow_size(const flow *q) { return q->n * q->half * q->lanes; }

static di_half flow_half(di_real **at, size_t size)
{
    di_half h = { *at, *at + size };
    *at += 2 * size;
    return h;
}

/* The tables and the working memory of groups of `lanes` fields. */
static di_status flow_group(flow *q, size_t lanes)
{
    di_ctx *ctx = q->p.ctx;
    size_t n = q->n, row = q->half * lanes, size = n * row, plane = n * n * lanes;
    if (lanes > q->room) {
        di_free(ctx, q->memory);
        di_free(ctx, q->time);
        di_free(ctx, q->steps);
        q->room = 0;
        q->memory = di_new(ctx, 4 * row + n * lanes + FLOW_HALVES * 2 * size
                           + FLOW_PLANES * plane + di_fft_work(q->fft), sizeof *q->memory);
        q->time = di_new(ctx, 3 * lanes, sizeof *q->time);
        q->steps = di_new(ctx, lanes, sizeof *q->steps);
        if (!q->memory || !q->time || !q->steps)
            return ctx->status;
        q->room = lanes;
    }
    di_real *at = q->memory;
    di_half *half[FLOW_HALVES] = { &q->w, &q->t, &q->n1, &q->a, &q->b, &q->c, &q->d, &q->e,
                                   &q->l, &q->mu, &q->nu };
    for (int i = 0; i < FLOW_HALVES; i++)
        *half[i] = flow_half(&at, size);
    for (int i = 0; i < FLOW_PLANES; i++, at += plane)
        q->plane[i] = at;
    q->k2 = at;
    q->g2 = q->k2 + row;
    q->dt_row = q->g2 + row;
    q->force = q->dt_row + row;
    q->top = q->force + row;
    q->work = q->top + n * lanes;
    q->dt = q->time + lanes;
    q->now = q->dt + lanes;
    q->lanes = lanes;
    for (size_t j = 0; j < row; j++) {
        size_t k = j / lanes;
        q->k2[j] = (di_real)(2 * k == n ? 0 : k);
        q->g2[j] = (di_real)(k * k);
        q->force[j] = (di_real)(k == 4 ? -q->set.forcing * (double)(n * n) / (n == 8 ? 1 : 2)
                                       : 0);
    }
    for (size_t i = 0; i < n; i++)
        q->kept[i] = q->cut[i] * lanes;
    di_flow_grid g = { n, row, q->fixed, q->fixed + n, q->k2, q->g2, q->kept, q->dt_row,
                       q->force, (di_real)(1 / q->set.re) };
    q->g = g;
    return DI_OK;
}

/* ---- forwards ---- */

static void flow_to_space(flow *q, di_half h, di_real *plane)
{
    di_real scale = (di_real)(1.0 / (double)(q->n * q->n));
    di_fft2_real_back(q->fft, q->fft, q->lanes, scale, h.re, h.im, plane, q->work);
}

static void flow_from_space(flow *q, const di_real *plane, di_half h)
{
    di_fft2_real(q->fft, q->fft, q->lanes, plane, h.re, h.im, q->work);
}

/* plane 0, 1, 2 = q, -v, W of w. As -v = d_x psi, q W and -v W are what the kernels take. */
static void flow_velocity(flow *q, di_half w)
{
    size_t row = q->g.row;
    q->k->derive(&q->g, 1, 1, w, q->b, q->a);
    flow_to_space(q, q->a, q->plane[0]);
    flow_to_space(q, q->b, q->plane[1]);
    for (size_t i = 0; i < 2 * q->n; i++) { /* c.im follows c.re */
        di_real *c = q->c.re + i * row;
        memset(c, 0, row * sizeof *c);
        memcpy(c, w.re + i * row, q->kept[i % q->n] * sizeof *c);
        if (i % q->n == 0)
            memset(c, 0, q->lanes * sizeof *c);
    }
    flow_to_space(q, q->c, q->plane[2]);
}

/* One stage of a step: to = w~ of from = w, or w+ of from = w~. */
static void flow_stage(flow *q, int second, di_half from, di_half to)
{
    flow_velocity(q, from);
    q->k->products(q->n * q->n * q->lanes, q->plane[0], q->plane[1], q->plane[2], NULL, NULL);
    flow_from_space(q, q->plane[0], q->a);
    flow_from_space(q, q->plane[1], q->b);
    q->k->update(&q->g, second, q->w, q->a, q->b, q->n1, to);
}

/* w one step of `now` further */
static void flow_step(flow *q)
{
    for (size_t j = 0; j < q->g.row; j++)
        q->dt_row[j] = (di_real)q->now[j % q->lanes];
    flow_stage(q, 0, q->w, q->t);
    flow_stage(q, 1, q->t, q->w);
}

/* dt of every lane from the velocity of w; 0 when a step would be absurdly short. */
static di_status flow_adapt(flow *q)
{
    double h = 1.0 / (double)q->n, least = HUGE_VAL;
    double mu = (q->set.forcing > 0 ? sqrt(q->set.forcing) : 1) / q->set.re;
    size_t row = q->n * q->lanes;
    q->k->derive(&q->g, 1, 0, q->w, q->b, q->a);
    flow_to_space(q, q->a, q->plane[0]);
    flow_to_space(q, q->b, q->plane[1]);
    q->k->speed(q->n, row, q->plane[0], q->plane[1], q->top);
    for (size_t l = 0; l < q->lanes; l++) {
        di_real top = 0;
        for (size_t j = l; j < row; j += q->lanes)
            top = q->top[j] > top ? q->top[j] : top;
        double speed = sqrt((double)top);
        q->dt[l] = 0.5 * h * h / mu;
        if (speed > 0 && 0.5 * h / speed < q->dt[l])
            q->dt[l] = 0.5 * h / speed;
        if (q->time[l] < q->set.time && !(q->set.time / q->dt[l] < FLOW_STEPS))
            return di_fail(q->p.ctx, DI_ENUMERIC, "navier_stokes: at time %g the velocity "
                           "reaches %g, which would take steps of %g: the field is too large "
                           "(its unit is scale=%g), or re=%g too small", q->time[l], speed,
                           q->dt[l], q->set.scale, q->set.re);
        least = q->dt[l] < least ? q->dt[l] : least;
    }
    for (size_t l = 0; q->set.together && l < q->lanes; l++)
        q->dt[l] = least;
    return DI_OK;
}

/* A NaN or infinity anywhere reaches every mode within a step. */
static di_status flow_check(flow *q)
{
    for (size_t l = 0; l < q->lanes; l++) {
        double v = fabs((double)q->w.re[q->lanes + l]) + fabs((double)q->w.im[q->lanes + l]);
        if (!(v < HUGE_VAL))
            return di_fail(q->p.ctx, DI_ENUMERIC, "navier_stokes: unstable: NaN or infinity in "
                           "step %.0f, at time %g: %s", (double)q->steps[l], q->time[l],
                           q->set.dt > 0 ? "take a smaller dt, or the adaptive one"
                                         : "the field is too large");
    }
    return DI_OK;
}

static void flow_copy(const flow *q, di_half to, di_half from)
{
    memcpy(to.re, from.re, 2 * flow_size(q) * sizeof *to.re);
}

/* Stores w and the dt of the step that begins. When the slots are full every other one is given
   up, so that they never are more than asked for. */
static di_status flow_keep(flow *q, flow_tape *t)
{
    di_ctx *ctx = q->p.ctx;
    if (t->count == t->room) {
        double *more = di_new(ctx, (2 * t->room + 64) * q->lanes, sizeof *more);
        if (!more)
            return ctx->status;
        for (size_t i = 0; i < t->count * q->lanes; i++)
            more[i] = t->dt[i];
        di_free(ctx, t->dt);
        t->dt = more;
        t->room = 2 * t->room + 64;
    }
    memcpy(t->dt + t->count * q->lanes, q->now, q->lanes * sizeof *t->dt);
    if (t->count % t->stride == 0 && t->count / t->stride == t->slots) {
        for (size_t i = 0; 2 * i < t->slots; i++) {
            di_half h = t->slot[i];
            t->slot[i] = t->slot[2 * i];
            t->slot[2 * i] = h;
        }
        t->stride *= 2;
    }
    size_t i = t->count++ / t->stride;
    if ((t->count - 1) % t->stride)
        return DI_OK;
    if (!t->slot[i].re) {
        di_real *at = di_new(ctx, 2 * flow_size(q), sizeof *at);
        if (!at)
            return ctx->status;
        t->slot[i] = flow_half(&at, flow_size(q));
    }
    flow_copy(q, t->slot[i], q->w);
    return DI_OK;
}

/* q->w from 0 to T; x (lanes,n,n) */
static di_status flow_forward(flow *q, const di_real *x, flow_tape *tape)
{
    size_t area = q->n * q->n, L = q->lanes;
    double T = q->set.time;
    if (!di_finite(x, area * L))
        return di_fail(q->p.ctx, DI_ENUMERIC, "navier_stokes: the first field holds NaN or "
                       "infinity");
    for (size_t l = 0; l < L; l++) {
        for (size_t i = 0; i < area; i++)
            q->plane[0][i * L + l] = (di_real)q->set.scale * x[l * area + i];
        q->time[l] = 0;
        q->steps[l] = 0;
        q->dt[l] = q->set.dt;
    }
    flow_from_space(q, q->plane[0], q->w);
    for (;;) {
        int going = 0;
        if (q->set.dt == 0 && flow_adapt(q))
            return q->p.ctx->status;
        for (size_t l = 0; l < L; l++) {
            double left = T - q->time[l];
            q->now[l] = !(left > 0) ? 0 : q->time[l] + q->dt[l] > T ? left : q->dt[l];
            going |= q->now[l] > 0;
        }
        if (!going)
            break;
        if (tape && flow_keep(q, tape))
            return q->p.ctx->status;
        flow_step(q);
        for (size_t l = 0; l < L; l++) {
            q->time[l] += q->now[l];
            q->steps[l] += q->now[l] > 0;
        }
        if (flow_check(q))
            return q->p.ctx->status;
    }
    q->last = q->steps[L - 1];
    return DI_OK;
}

/* ---- backwards ----

   dt is a constant. With l the adjoint of w+ and C = 1 - dt g/2, as d_x and d_y are
   antisymmetric and P, G, S and C symmetric,
     mu = S l;  nu = S (dt/2 N'(w~)^T mu);  l of w = C (mu + nu) + dt N'(w)^T (mu/2 + nu),
     N'(w)^T l = P (a q + b v + (-d_y (a W) + d_x (b W))/G),  a = d_x l, b = d_y l. */

/* The products of N'(w)^T l, into a, b, c. */
static void flow_linear(flow *q, di_half w, di_half l)
{
    flow_velocity(q, w);
    q->k->derive(&q->g, 0, 0, l, q->d, q->e);
    flow_to_space(q, q->d, q->plane[3]);
    flow_to_space(q, q->e, q->plane[4]);
    q->k->products(q->n * q->n * q->lanes, q->plane[0], q->plane[1], q->plane[2], q->plane[3],
                   q->plane[4]);
    flow_from_space(q, q->plane[3], q->a);
    flow_from_space(q, q->plane[4], q->b);
    flow_from_space(q, q->plane[0], q->c);
}

/* l of the step's end to l of its beginning, w. */
static void flow_step_vjp(flow *q, di_half w)
{
    flow_copy(q, q->w, w);
    for (size_t j = 0; j < q->g.row; j++)
        q->dt_row[j] = (di_real)q->now[j % q->lanes];
    flow_stage(q, 0, q->w, q->t);
    di_half abc[3] = { q->a, q->b, q->c };
    q->k->adjoint(&q->g, 0, abc, q->mu, q->nu, q->l);
    flow_linear(q, q->t, q->mu);
    di_half middle = q->t;
    q->k->adjoint(&q->g, 1, abc, q->mu, q->nu, middle);
    flow_linear(q, q->w, middle);
    q->k->adjoint(&q->g, 2, abc, q->mu, q->nu, q->l);
}

/* The state at the beginning of step s, which comes from the last to the first. */
static di_half flow_recall(flow *q, flow_tape *t, size_t s)
{
    size_t base = s / t->stride * t->stride, end = base + t->stride;
    if (t->stride == 1)
        return t->slot[s];
    if (s + 1 == end || s + 1 == t->count) {
        flow_copy(q, q->w, t->slot[base / t->stride]);
        for (size_t i = base; i <= s; i++) {
            flow_copy(q, t->part[i - base], q->w);
            memcpy(q->now, t->dt + i * q->lanes, q->lanes * sizeof *q->now);
            if (i < s)
                flow_step(q);
        }
    }
    return t->part[s - base];
}

/* l through all steps, the last first. */
static void flow_backward(flow *q, flow_tape *t)
{
    di_ctx *ctx = q->p.ctx;
    t->part = di_new(ctx, t->stride, sizeof *t->part);
    for (size_t i = 0; t->part && t->stride > 1 && i < t->stride; i++) {
        di_real *at = di_new(ctx, 2 * flow_size(q), sizeof *at);
        if (!at)
            return;
        t->part[i] = flow_half(&at, flow_size(q));
    }
    for (size_t s = t->count; t->part && s-- > 0; ) {
        di_half w = flow_recall(q, t, s);
        memcpy(q->now, t->dt + s * q->lanes, q->lanes * sizeof *q->now);
        flow_step_vjp(q, w);
    }
}

static void flow_tape_free(di_ctx *ctx, flow_tape *t)
{
    for (size_t i = 0; t->slot && i < t->slots; i++)
        di_free(ctx, t->slot[i].re);
    for (size_t i = 0; t->part && i < t->stride; i++)
        di_free(ctx, t->part[i].re);
    di_free(ctx, t->slot);
    di_free(ctx, t->part);
    di_free(ctx, t->dt);
}

/* ---- the problem ---- */

/* y (lanes,n/sub,n/sub), or with v gx (lanes,n,n) */
static void flow_run(flow *q, const di_real *x, di_real *y, const di_real *v, di_real *gx)
{
    size_t n = q->n, L = q->lanes, sub = (size_t)q->set.sub, m = n / sub;
    flow_tape t = { 0 };
    t.stride = 1;
    t.slots = q->set.keep ? (size_t)q->set.keep : FLOW_KEEP;
    if (v)
        t.slot = di_new(q->p.ctx, t.slots, sizeof *t.slot);
    if ((v && !t.slot) || flow_forward(q, x, v ? &t : NULL)) {
        flow_tape_free(q->p.ctx, &t);
        return;
    }
    di_real *to = q->plane[0];
    if (!v) {
        flow_to_space(q, q->w, to);
        for (size_t i = 0; i < m * m * L; i++) /* + 0: waiting may have turned a zero's sign */
            y[i] = to[(i / m % m * sub * n + i % m * sub) * L + i / (m * m)] + (di_real)0;
        if (!di_finite(y, m * m * L))
            di_fail(q->p.ctx, DI_ENUMERIC, "navier_stokes: NaN or infinity at time %g",
                    q->set.time);
        return;
    }
    memset(to, 0, n * n * L * sizeof *to);
    for (size_t i = 0; i < m * m * L; i++)
        to[(i / m % m * sub * n + i % m * sub) * L + i / (m * m)] = v[i];
    flow_from_space(q, to, q->l);
    flow_backward(q, &t);
    flow_tape_free(q->p.ctx, &t);
    flow_to_space(q, q->l, to);
    for (size_t i = 0; i < n * n * L; i++)
        gx[i] = (di_real)q->set.scale * to[i % (n * n) * L + i / (n * n)] + (di_real)0;
}

/* How many fields go side by side: 16, where there are so many and they fit into the cache;
   else one, whose columns and rows then are the vectors' lanes. The bits are the same. */
static size_t flow_width(size_t n, size_t count)
{
    return n < FLOW_WIDE && count >= 16 ? 16 : 1;
}

static void flow_many(flow *q, size_t count, const di_real *x, di_real *y, const di_real *v,
                      di_real *gx)
{
    size_t in = q->n * q->n, out = in / (size_t)q->set.sub / (size_t)q->set.sub;
    for (size_t i = 0; i < count && !q->p.ctx->status; i += q->lanes) {
        size_t lanes = q->set.together ? count : flow_width(q->n, count - i);
        if (flow_group(q, lanes))
            return;
        flow_run(q, x + i * in, y ? y + i * out : NULL, v ? v + i * out : NULL,
                 gx ? gx + i * in : NULL);
    }
}

static void flow_apply(const di_problem *p, const di_real *x, di_real *y)
{
    flow_many(p->self, 1, x, y, NULL, NULL);
}

static void flow_vjp(const di_problem *p, const di_real *x, const di_real *v, di_real *gx)
{
    flow_many(p->self, 1, x, NULL, v, gx);
}

static void flow_apply_many(const di_problem *p, size_t n, const di_real *x, di_real *y)
{
    flow_many(p->self, n, x, y, NULL, NULL);
}

static void flow_vjp_many(const di_problem *p, size_t n, const di_real *x, const di_real *v,
                          di_real *gx)
{
    flow_many(p->self, n, x, NULL, v, gx);
}

size_t di_flow_steps(const di_problem *p) { return ((const flow *)p->self)->last; }

static di_status flow_legal(di_ctx *ctx, int n, const di_flow *f)
{
    if (n < 8 || n % 2 || n > 4096)
        return di_fail(ctx, DI_EUSAGE, "navier_stokes: a field of %dx%d; the side must be "
                       "even, 8 to 4096", n, n);
    if (!(f->re > 0 && f->re < 1e12))
        return di_fail(ctx, DI_EUSAGE, "navier_stokes: re=%g must be positive", f->re);
    if (!(f->time > 0 && f->time < 1e6))
        return di_fail(ctx, DI_EUSAGE, "navier_stokes: time=%g must be positive", f->time);
    if (!(f->dt >= 0 && f->dt < HUGE_VAL) || (f->dt > 0 && f->time / f->dt > FLOW_STEPS))
        return di_fail(ctx, DI_EUSAGE, "navier_stokes: dt=%g must be positive and at most %d "
                       "steps, or 0, which adapts it", f->dt, FLOW_STEPS);
    if (!(f->forcing >= 0 && f->forcing < 1e6))
        return di_fail(ctx, DI_EUSAGE, "navier_stokes: forcing=%g must be 0 or positive",
                       f->forcing);
    if (!(fabs(f->scale) > 0 && fabs(f->scale) < 1e6))
        return di_fail(ctx, DI_EUSAGE, "navier_stokes: scale=%g must not be 0", f->scale);
    if (f->sub < 1 || n % f->sub)
        return di_fail(ctx, DI_EUSAGE, "navier_stokes: sub=%d does not divide the side, %d",
                       f->sub, n);
    if (f->keep < 0 || f->keep == 1)
        return di_fail(ctx, DI_EUSAGE, "navier_stokes: keep=%d states; at least 2, or 0",
                       f->keep);
    return DI_OK;
}

di_status di_problem_navier_stokes(di_ctx *ctx, int n, const di_flow *f, di_problem **out)
{
    *out = NULL;
    if (flow_legal(ctx, n, f))
        return ctx->status;
    flow *q = problem_new(ctx, sizeof *q, "navier_stokes", 1, n, n);
    if (!q)
        return ctx->status;
    q->p.linear = 0;
    q->p.y[1] = q->p.y[2] = n / f->sub;
    q->p.apply = flow_apply;
    q->p.vjp = flow_vjp;
    q->p.apply_many = flow_apply_many;
    q->p.vjp_many = flow_vjp_many;
    q->set = *f;
    q->n = (size_t)n;
    q->half = q->n / 2 + 1;
    q->k = di_flow_ops(ctx);
    q->fft = di_fft_new(ctx, n);
    q->fixed = di_new(ctx, 2 * q->n, sizeof *q->fixed);
    q->cut = di_new(ctx, 2 * q->n, sizeof *q->cut);
    if (!q->fft || !q->fixed || !q->cut)
        return ctx->status;
    q->kept = q->cut + n;
    for (int i = 0; i < n; i++) {
        double k1 = 2 * i <= n ? i : i - n;
        q->fixed[i] = (di_real)(2 * i == n ? 0 : k1);
        q->fixed[n + i] = (di_real)(k1 * k1);
        while (2 * q->cut[i] <= q->n
               && 9 * (k1 * k1 + (double)(q->cut[i] * q->cut[i])) <= 2.0 * n * n)
            q->cut[i]++;
    }
    if (!flow_group(q, 1))
        *out = &q->p;
    return ctx->status;
}
