/* diffinv.c: the inverse problem. Measurement maps A with derivative, pseudo-inverse and SVD,
   losses, residual and PSNR. Knows nothing of solvers, nor where arrays came from. */
#define DIFFINV_KERNELS
#include "diffinv.h"

#include <math.h>
#include <string.h>

/* ==== 1. Measurement problems ============================================================= */

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
    if (!p->vjp)
        return di_fail(p->ctx, DI_EUSAGE, "problem %s has no derivative", p->name);
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
    di_complete_basis(m->w, di_svd(m->w, m->u, m->s, r, n), n);
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
    double *d = di_new(p->ctx, 3 * n, sizeof *d);
    if (!d)
        return;
    double *e = d + n, *f = e + n;
    for (int c = 0; c < p->x[0]; c++) {
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
    for (size_t i = 0; i < size3(p->x); i++) { /* what A^+ drops is not measured */
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

static double keys(double t) /* Keys' cubic, a = -1/2 */
{
    t = fabs(t);
    if (t <= 1)
        return (1.5 * t - 2.5) * t * t + 1;
    return t < 2 ? ((-0.5 * t + 2.5) * t - 4) * t + 2 : 0;
}

/* The cubic stretched by the factor, |j - c| < 2s, symmetric border: the Resizer of DPS, DAPS
   and DMPlug. */
static void bicubic_map(double *d, int rows, int cols, const void *arg)
{
    int s = *(const int *)arg;
    for (int i = 0; i < rows; i++) {
        double c = s * i + (s - 1) / 2.0, sum = 0;
        for (int pass = 0; pass < 2; pass++)
            for (int j = (int)ceil(c - 2 * s); j <= (int)floor(c + 2 * s); j++) {
                double k = keys((j - c) / s);
                if (!pass)
                    sum += k;
                else
                    d[(size_t)i * cols + fold_symmetric(j, cols)] += k / sum;
            }
    }
}

/* The same kernel cut off at the border, where the rest is normalized: torchvision's bicubic
   resize with antialias, of InverseBench and CPS. Inside the image the same rows. */
static void cut_map(double *d, int rows, int cols, const void *arg)
{
    int s = *(const int *)arg;
    for (int i = 0; i < rows; i++) {
        double c = s * (i + 0.5), sum = 0;
        int lo = (int)floor(c - 2 * s + 0.5), hi = (int)floor(c + 2 * s + 0.5);
        lo = lo < 0 ? 0 : lo;
        hi = hi > cols ? cols : hi;
        for (int pass = 0; pass < 2; pass++)
            for (int j = lo; j < hi; j++) {
                double k = keys((j + 0.5 - c) / s);
                if (!pass)
                    sum += k;
                else
                    d[(size_t)i * cols + j] = k / sum;
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
                         kind == DI_SR_MEAN ? mean_map : kind == DI_SR_CUT ? cut_map
                         : bicubic_map, &factor, p);
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
    int rank = di_svd(w, u, s, (int)r, (int)(wide ? d : m));
    if (wide)
        di_complete_basis(w, rank, (int)d);
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

/* ==== 2. Blur with any kernel ===============================================================
   y[r][q] = sum_ij K[i][j] x[r+i-top][q+j-left] for each channel: a correlation, the kernel is
   not flipped. top = (kh-1)/2 and left = (kw-1)/2 pixels come before the image, kh/2 and kw/2
   after it, so a kernel of odd sides is centred and an even one sits as PyTorch's
   padding='same' puts it. There x is its mirror image without the edge pixel (reflect-101), or
   0.

   Taps of 0 are skipped. An output is one sum of its kernel rows' sums, each ascending. */

#ifdef _OPENMP
#define DI_PRAGMA(x) _Pragma(#x)
#define PARALLEL_FOR(threads) \
    DI_PRAGMA(omp parallel for num_threads(threads) if ((threads) > 1))
#else
#define PARALLEL_FOR(threads) (void)(threads);
#endif

enum { TILE = 16 };

typedef struct stencil {
    int h, w, kh, kw, border;
    int top, left;
    int rows[2], cols[2];     /* taps lie in rows [rows[0], rows[1]), and so in columns */
    int *start, *col;         /* row i has taps [start[i], start[i+1]), at these columns */
    di_real *weight;
    size_t stride, vstride;
    di_real *pad;             /* image with its border (h+kh-1,stride), zeros right of it */
    di_real *vpad;            /* v with kh-1, kw-1 zeros around it (h+2kh-2,vstride) */
    di_real *spread;          /* (h+kh-1,stride) A^T v before the border is folded back */
} stencil;

/* kernel (kh,kw), any values */
static void stencil_set(stencil *s, const di_real *kernel)
{
    int n = 0;
    s->rows[0] = s->kh;
    s->cols[0] = s->kw;
    s->rows[1] = s->cols[1] = 0;
    for (int i = 0; i < s->kh; i++) {
        for (int j = 0; j < s->kw; j++) {
            if (kernel[i * s->kw + j] == 0)
                continue;
            s->col[n] = j;
            s->weight[n++] = kernel[i * s->kw + j];
            s->rows[0] = i < s->rows[0] ? i : s->rows[0];
            s->rows[1] = i + 1;
            s->cols[0] = j < s->cols[0] ? j : s->cols[0];
            s->cols[1] = j + 1 > s->cols[1] ? j + 1 : s->cols[1];
        }
        s->start[i + 1] = n;
    }
}

/* kernel NULL: to be set later */
static di_status stencil_new(di_ctx *ctx, const char *name, stencil *s, int h, int w, int kh,
                             int kw, const di_real *kernel, int border)
{
    if (kh < 1 || kw < 1 || kh > h || kw > w)
        return di_fail(ctx, DI_EINPUT, "%s: a kernel of %dx%d does not fit the image of %dx%d: "
                       "give a kernel of at most the image's size", name, kh, kw, h, w);
    for (size_t i = 0; kernel && i < (size_t)kh * kw; i++)
        if (!(fabs(kernel[i]) < HUGE_VAL))
            return di_fail(ctx, DI_EINPUT, "%s: the kernel holds NaN or infinity at row %d, "
                           "column %d", name, (int)(i / kw), (int)(i % kw));
    s->h = h;
    s->w = w;
    s->kh = kh;
    s->kw = kw;
    s->border = border;
    s->top = (kh - 1) / 2;
    s->left = (kw - 1) / 2;
    s->stride = (size_t)w + kw + 2 * TILE;
    s->vstride = (size_t)w + 2 * kw + 2 * TILE;
    s->start = di_new(ctx, (size_t)kh + 1, sizeof(int));
    s->col = di_new(ctx, (size_t)kh * kw, sizeof(int));
    s->weight = di_new(ctx, (size_t)kh * kw, sizeof(di_real));
    s->pad = di_new(ctx, ((size_t)h + kh) * s->stride, sizeof(di_real));
    s->vpad = di_new(ctx, ((size_t)h + 2 * kh) * s->vstride, sizeof(di_real));
    s->spread = di_new(ctx, ((size_t)h + kh) * s->stride, sizeof(di_real));
    if (!s->start || !s->col || !s->weight || !s->pad || !s->vpad || !s->spread)
        return DI_EMEMORY;
    if (kernel)
        stencil_set(s, kernel);
    return DI_OK;
}

/* Four neighbours at once, which compilers keep in one register. */
typedef struct quad {
    di_real v[4];
} quad;

static inline quad quad_add(quad a, di_real w, const di_real *x)
{
    for (int l = 0; l < 4; l++)
        a.v[l] += w * x[l];
    return a;
}

/* out[l] = sum_ij K[i][j] at[sign (i stride + j) + l], l < n <= TILE; reads TILE values. */
static void stencil_sum(const stencil *s, const di_real *at, size_t stride, int sign, int n,
                        di_real *out)
{
    di_real sum[TILE] = { 0 };
    for (int i = s->rows[0]; i < s->rows[1]; i++) {
        const di_real *row = sign > 0 ? at + i * stride : at - i * stride;
        quad a = { { 0 } }, b = a, c = a, d = a;
        for (int t = s->start[i]; t < s->start[i + 1]; t++) {
            const di_real weight = s->weight[t], *x = row + sign * s->col[t];
            a = quad_add(a, weight, x);
            b = quad_add(b, weight, x + 4);
            c = quad_add(c, weight, x + 8);
            d = quad_add(d, weight, x + 12);
        }
        for (int l = 0; l < 4; l++) {
            sum[l] += a.v[l];
            sum[4 + l] += b.v[l];
            sum[8 + l] += c.v[l];
            sum[12 + l] += d.v[l];
        }
    }
    memcpy(out, sum, (size_t)n * sizeof *out);
}

/* The pixel that lies at row or column i of the border's outside, or -1: zero. */
static int beyond(int border, int i, int n)
{
    return border == DI_BORDER_REFLECT ? fold_reflect(i, n) : i >= 0 && i < n ? i : -1;
}

/* s->pad = x (h,w) with its border */
static void stencil_pad(const stencil *s, const di_real *x)
{
    for (int a = 0; a < s->h + s->kh - 1; a++) {
        int r = beyond(s->border, a - s->top, s->h);
        for (int b = 0; b < s->w + s->kw - 1; b++) {
            int q = beyond(s->border, b - s->left, s->w);
            s->pad[a * s->stride + b] = r < 0 || q < 0 ? 0 : x[(size_t)r * s->w + q];
        }
    }
}

/* y (h,w) = K x (h,w) */
static void stencil_apply(di_ctx *ctx, const stencil *s, const di_real *x, di_real *y)
{
    stencil_pad(s, x);
    PARALLEL_FOR(ctx->threads)
    for (int r = 0; r < s->h; r++)
        for (int q = 0; q < s->w; q += TILE)
            stencil_sum(s, s->pad + r * s->stride + q, s->stride, 1,
                        s->w - q < TILE ? s->w - q : TILE, y + (size_t)r * s->w + q);
}

/* gx (h,w) = K^T v: spread[a][b] = sum_ij K[i][j] v[a-i][b-j], then what fell on the border
   goes to the pixels that the border is made of. */
static void stencil_vjp(di_ctx *ctx, const stencil *s, const di_real *v, di_real *gx)
{
    int reflect = s->border == DI_BORDER_REFLECT;
    int a0 = reflect ? s->rows[0] : s->top, a1 = reflect ? s->h - 1 + s->rows[1]
                                                         : s->top + s->h;
    int b0 = reflect ? s->cols[0] : s->left, b1 = reflect ? s->w - 1 + s->cols[1]
                                                          : s->left + s->w;
    for (int r = 0; r < s->h; r++)
        memcpy(s->vpad + ((size_t)r + s->kh - 1) * s->vstride + s->kw - 1,
               v + (size_t)r * s->w, (size_t)s->w * sizeof *v);
    PARALLEL_FOR(ctx->threads)
    for (int a = a0; a < a1; a++)
        for (int b = b0; b < b1; b += TILE)
            stencil_sum(s, s->vpad + ((size_t)a + s->kh - 1) * s->vstride + b + s->kw - 1,
                        s->vstride, -1, b1 - b < TILE ? b1 - b : TILE,
                        s->spread + a * s->stride + b);
    memset(gx, 0, (size_t)s->h * s->w * sizeof *gx);
    for (int a = a0; a < a1; a++) {
        int r = beyond(s->border, a - s->top, s->h);
        for (int b = b0; b < b1; b++) {
            int q = beyond(s->border, b - s->left, s->w);
            gx[(size_t)r * s->w + q] += s->spread[a * s->stride + b];
        }
    }
}

/* gk (kh,kw) += dK^T v: gk[i][j] += sum_rq v[r][q] x[r+i-top][q+j-left], x (h,w). The sum of a
   row of v is taken in di_real, the sum of rows in double. */
static void stencil_kernel_vjp(di_ctx *ctx, const stencil *s, const di_real *x,
                               const di_real *v, double *gk)
{
    stencil_pad(s, x);
    PARALLEL_FOR(ctx->threads)
    for (int i = 0; i < s->kh; i++)
        for (int j = 0; j < s->kw; j += TILE)
            for (int r = 0; r < s->h; r++) {
                const di_real *at = s->pad + (size_t)(r + i) * s->stride + j;
                const di_real *vr = v + (size_t)r * s->w;
                quad part[4] = { { { 0 } } }, a = part[0], b = a, c = a, d = a;
                for (int q = 0; q < s->w; q++, at++) {
                    a = quad_add(a, vr[q], at);
                    b = quad_add(b, vr[q], at + 4);
                    c = quad_add(c, vr[q], at + 8);
                    d = quad_add(d, vr[q], at + 12);
                }
                part[0] = a;
                part[1] = b;
                part[2] = c;
                part[3] = d;
                for (int l = 0; l < TILE && j + l < s->kw; l++)
                    gk[i * s->kw + j + l] += part[l / 4].v[l % 4];
            }
}

typedef struct blur {
    di_problem p;
    stencil k;
    di_real *work; /* (h,w) */
} blur;

static void blur_apply(const di_problem *p, const di_real *x, di_real *y)
{
    const blur *q = p->self;
    size_t plane = (size_t)p->x[1] * p->x[2];
    for (int c = 0; c < p->x[0]; c++)
        stencil_apply(p->ctx, &q->k, x + c * plane, y + c * plane);
}

static void blur_vjp(const di_problem *p, const di_real *x, const di_real *v, di_real *gx)
{
    const blur *q = p->self;
    size_t plane = (size_t)p->x[1] * p->x[2];
    (void)x;
    for (int c = 0; c < p->x[0]; c++)
        stencil_vjp(p->ctx, &q->k, v + c * plane, gx + c * plane);
}

static di_status blur_new(di_ctx *ctx, const char *name, int c, int h, int w, int kh, int kw,
                          const di_real *kernel, int border, blur **q)
{
    *q = problem_new(ctx, sizeof **q, name, c, h, w);
    if (!*q)
        return ctx->status;
    (*q)->p.apply = blur_apply;
    (*q)->p.vjp = blur_vjp;
    return stencil_new(ctx, name, &(*q)->k, h, w, kh, kw, kernel, border);
}

di_status di_problem_blur(di_ctx *ctx, int c, int h, int w, int kh, int kw,
                          const di_real *kernel, int border, di_problem **p)
{
    blur *q;
    di_status s = blur_new(ctx, "blur", c, h, w, kh, kw, kernel, border, &q);
    *p = s ? NULL : &q->p;
    return s;
}

/* ---- nonlinear blur: y = 2 (K p^2.2)^(1/2.2) - 1, p = clip((x+1)/2, 0.01, 1) ----
   What a lens does to light, seen through the encoding of a picture file. Ours: the programs'
   nonlinear blur is a network of 23 million weights. The clip keeps p^1.2 and its inverse
   finite. */

static const double GAMMA = 2.2, DARKEST = 0.01;

static double power(double x, double e) { return di_exp(e * di_log(x)); }

static double light_of(di_real x)
{
    double p = (x + 1.0) / 2;
    return p < DARKEST ? DARKEST : p > 1 ? 1 : p;
}

static void nlblur_apply(const di_problem *p, const di_real *x, di_real *y)
{
    const blur *q = p->self;
    size_t plane = (size_t)p->x[1] * p->x[2];
    for (size_t c = 0; c < (size_t)p->x[0]; c++) {
        for (size_t i = 0; i < plane; i++)
            q->work[i] = (di_real)power(light_of(x[c * plane + i]), GAMMA);
        stencil_apply(p->ctx, &q->k, q->work, y + c * plane);
        for (size_t i = c * plane; i < (c + 1) * plane; i++)
            y[i] = (di_real)(2 * power(y[i], 1 / GAMMA) - 1);
    }
}

/* gx = [0.01 <= (x+1)/2 <= 1] p^1.2 K^T (s^(-1.2/2.2) v), s = K p^2.2: the factors 1/2, 2.2, 2
   and 1/2.2 cancel. */
static void nlblur_vjp(const di_problem *p, const di_real *x, const di_real *v, di_real *gx)
{
    const blur *q = p->self;
    size_t plane = (size_t)p->x[1] * p->x[2];
    for (size_t c = 0; c < (size_t)p->x[0]; c++) {
        di_real *g = gx + c * plane;
        for (size_t i = 0; i < plane; i++)
            q->work[i] = (di_real)power(light_of(x[c * plane + i]), GAMMA);
        stencil_apply(p->ctx, &q->k, q->work, g);
        for (size_t i = 0; i < plane; i++)
            q->work[i] = (di_real)(power(g[i], 1 / GAMMA - 1) * v[c * plane + i]);
        stencil_vjp(p->ctx, &q->k, q->work, g);
        for (size_t i = 0; i < plane; i++) {
            double light = (x[c * plane + i] + 1.0) / 2;
            g[i] = light < DARKEST || light > 1 ? 0
                   : (di_real)(power(light, GAMMA - 1) * g[i]);
        }
    }
}

/* The kernel must not be negative and not all zero: light adds up. */
static di_status check_kernel(di_ctx *ctx, const char *name, int kh, int kw,
                              const di_real *kernel)
{
    double sum = 0;
    for (size_t i = 0; i < (size_t)kh * kw; i++) {
        if (kernel[i] < 0)
            return di_fail(ctx, DI_EINPUT, "%s: the kernel holds %g at row %d, column %d; a "
                           "blur kernel is not negative", name, (double)kernel[i],
                           (int)(i / kw), (int)(i % kw));
        sum += kernel[i];
    }
    return sum == 0 ? di_fail(ctx, DI_EINPUT, "%s: the kernel is all zero", name) : DI_OK;
}

di_status di_problem_nlblur(di_ctx *ctx, int c, int h, int w, int kh, int kw,
                            const di_real *kernel, di_problem **p)
{
    blur *q;
    *p = NULL;
    di_status s = blur_new(ctx, "nlblur", c, h, w, kh, kw, kernel, DI_BORDER_REFLECT, &q);
    if (!s)
        s = check_kernel(ctx, "nlblur", kh, kw, kernel);
    if (s)
        return s;
    q->p.linear = 0;
    q->p.apply = nlblur_apply;
    q->p.vjp = nlblur_vjp;
    q->work = di_new(ctx, (size_t)h * w, sizeof *q->work);
    *p = q->work ? &q->p : NULL;
    return ctx->status;
}

/* ==== 3. Blurs that are not known: blind deblurring and turbulence ==========================
   DMPlug's (arXiv 2405.16749): y = K T(x), K a blur with zeros outside the image, T the
   identity or a tilt, which moves every pixel: (T x)[r][q] = x at row r + t1[r][q], column
   q + t0[r][q], bilinear between the four pixels around, 0 outside.

   theta = (logits of K (kh*kw), then for turbulence the tilt (2,h,w) in pixels, t0 first);
   K = softmax(logits). Positions and weights are double; the program's pass through float32
   coordinates in [-1,1], which alone makes it differ by 4e-6 at 64x64, more at larger sizes. */

typedef struct hidden {
    di_problem p;
    stencil truth, guess;
    const di_real *tilt;   /* the true one (2,h,w), or NULL: blind */
    int tilted;
    double *gk;            /* (2, kh*kw) gradient of K, softmax */
    di_real *kernel;       /* (kh*kw) */
    di_real *moved, *back; /* (h,w) */
} hidden;

/* Where pixel i comes from: pixel (*r, *q) and the three after it by the fractions fy, fx. 0 if
   all four are outside. */
static int tilt_from(const di_real *tilt, int h, int w, size_t i, int *r, int *q, double *fy,
                     double *fx)
{
    double x = (double)(i % w) + tilt[i], y = (double)(i / w) + tilt[(size_t)h * w + i];
    if (!(y > -1 && y < h && x > -1 && x < w))
        return 0;
    *r = (int)floor(y);
    *q = (int)floor(x);
    *fy = y - *r;
    *fx = x - *q;
    return 1;
}

static double pixel(const di_real *x, int h, int w, int r, int q)
{
    return r >= 0 && r < h && q >= 0 && q < w ? x[(size_t)r * w + q] : 0;
}

/* y (h,w) = T x (h,w), tilt (2,h,w) */
static void tilt_apply(const di_real *tilt, int h, int w, const di_real *x, di_real *y)
{
    for (size_t i = 0; i < (size_t)h * w; i++) {
        int r, q;
        double fy, fx;
        y[i] = 0;
        if (tilt_from(tilt, h, w, i, &r, &q, &fy, &fx))
            y[i] = (di_real)((1 - fy) * ((1 - fx) * pixel(x, h, w, r, q)
                                         + fx * pixel(x, h, w, r, q + 1))
                             + fy * ((1 - fx) * pixel(x, h, w, r + 1, q)
                                     + fx * pixel(x, h, w, r + 1, q + 1)));
    }
}

/* gx (h,w) = T^T v: v goes to the four pixels with their weights. */
static void tilt_vjp(const di_real *tilt, int h, int w, const di_real *v, di_real *gx)
{
    memset(gx, 0, (size_t)h * w * sizeof *gx);
    for (size_t i = 0; i < (size_t)h * w; i++) {
        int r, q;
        double fy, fx;
        if (!tilt_from(tilt, h, w, i, &r, &q, &fy, &fx))
            continue;
        for (int k = 0; k < 4; k++) {
            int a = r + k / 2, b = q + k % 2;
            if (a >= 0 && a < h && b >= 0 && b < w)
                gx[(size_t)a * w + b] += (di_real)((k / 2 ? fy : 1 - fy)
                                                   * (k % 2 ? fx : 1 - fx) * v[i]);
        }
    }
}

/* gt (2,h,w) += dT^T v: gt0 = v ((1-fy)(x01-x00) + fy (x11-x10)), gt1 the same across. At a
   whole tilt, where the derivative jumps, that of the pixel after (floor), as PyTorch. */
static void tilt_field_vjp(const di_real *tilt, int h, int w, const di_real *x,
                           const di_real *v, di_real *gt)
{
    size_t plane = (size_t)h * w;
    for (size_t i = 0; i < plane; i++) {
        int r, q;
        double fy, fx;
        if (!tilt_from(tilt, h, w, i, &r, &q, &fy, &fx))
            continue;
        double x00 = pixel(x, h, w, r, q), x01 = pixel(x, h, w, r, q + 1);
        double x10 = pixel(x, h, w, r + 1, q), x11 = pixel(x, h, w, r + 1, q + 1);
        gt[i] += (di_real)(v[i] * ((1 - fy) * (x01 - x00) + fy * (x11 - x10)));
        gt[plane + i] += (di_real)(v[i] * ((1 - fx) * (x10 - x00) + fx * (x11 - x01)));
    }
}

static void hidden_forward(const di_problem *p, const stencil *k, const di_real *tilt,
                           const di_real *x, di_real *y)
{
    const hidden *q = p->self;
    size_t plane = (size_t)p->x[1] * p->x[2];
    for (int c = 0; c < p->x[0]; c++) {
        if (tilt)
            tilt_apply(tilt, p->x[1], p->x[2], x + c * plane, q->moved);
        stencil_apply(p->ctx, k, tilt ? q->moved : x + c * plane, y + c * plane);
    }
}

/* gx = T^T K^T v */
static void hidden_back(const di_problem *p, const stencil *k, const di_real *tilt,
                        const di_real *v, di_real *gx)
{
    const hidden *q = p->self;
    size_t plane = (size_t)p->x[1] * p->x[2];
    for (int c = 0; c < p->x[0]; c++) {
        stencil_vjp(p->ctx, k, v + c * plane, tilt ? q->back : gx + c * plane);
        if (tilt)
            tilt_vjp(tilt, p->x[1], p->x[2], q->back, gx + c * plane);
    }
}

static void hidden_apply(const di_problem *p, const di_real *x, di_real *y)
{
    const hidden *q = p->self;
    hidden_forward(p, &q->truth, q->tilt, x, y);
}

static void hidden_vjp(const di_problem *p, const di_real *x, const di_real *v, di_real *gx)
{
    const hidden *q = p->self;
    (void)x;
    hidden_back(p, &q->truth, q->tilt, v, gx);
}

/* Sets the guessed kernel and returns its tilt, or NULL. */
static const di_real *hidden_set(hidden *q, const di_real *theta)
{
    size_t n = (size_t)q->guess.kh * q->guess.kw;
    double *soft = q->gk + n, most = theta[0], sum = 0;
    for (size_t i = 1; i < n; i++)
        most = theta[i] > most ? theta[i] : most;
    for (size_t i = 0; i < n; i++)
        sum += soft[i] = di_exp(theta[i] - most);
    for (size_t i = 0; i < n; i++) {
        soft[i] /= sum;
        q->kernel[i] = (di_real)soft[i];
    }
    stencil_set(&q->guess, q->kernel);
    return q->tilted ? theta + n : NULL;
}

static void hidden_apply_with(const di_problem *p, const di_real *x, const di_real *theta,
                              di_real *y)
{
    hidden *q = p->self;
    const di_real *tilt = hidden_set(q, theta);
    hidden_forward(p, &q->guess, tilt, x, y);
}

/* glogits = k (gK - sum k gK), gK = sum over channels of dK^T v; gtilt = dT^T K^T v. */
static void hidden_vjp_with(const di_problem *p, const di_real *x, const di_real *theta,
                            const di_real *v, di_real *gx, di_real *gtheta)
{
    hidden *q = p->self;
    int h = p->x[1], w = p->x[2];
    size_t n = (size_t)q->guess.kh * q->guess.kw, plane = (size_t)h * w;
    const di_real *tilt = hidden_set(q, theta);
    double *soft = q->gk + n, mean = 0;
    if (gx)
        hidden_back(p, &q->guess, tilt, v, gx);
    if (!gtheta)
        return;
    memset(q->gk, 0, n * sizeof *q->gk);
    memset(gtheta, 0, p->extra * sizeof *gtheta);
    for (int c = 0; c < p->x[0]; c++) {
        const di_real *xc = x + c * plane, *vc = v + c * plane;
        if (tilt)
            tilt_apply(tilt, h, w, xc, q->moved);
        stencil_kernel_vjp(p->ctx, &q->guess, tilt ? q->moved : xc, vc, q->gk);
        if (!tilt)
            continue;
        stencil_vjp(p->ctx, &q->guess, vc, q->back);
        tilt_field_vjp(tilt, h, w, xc, q->back, gtheta + n);
    }
    for (size_t i = 0; i < n; i++)
        mean += soft[i] * q->gk[i];
    for (size_t i = 0; i < n; i++)
        gtheta[i] = (di_real)(soft[i] * (q->gk[i] - mean));
}

static di_status hidden_new(di_ctx *ctx, const char *name, int c, int h, int w, int kh, int kw,
                            const di_real *kernel, const di_real *tilt, di_problem **p)
{
    *p = NULL;
    hidden *q = problem_new(ctx, sizeof *q, name, c, h, w);
    if (!q || stencil_new(ctx, name, &q->truth, h, w, kh, kw, kernel, DI_BORDER_ZERO)
        || stencil_new(ctx, name, &q->guess, h, w, kh, kw, NULL, DI_BORDER_ZERO)
        || check_kernel(ctx, name, kh, kw, kernel))
        return ctx->status;
    size_t n = (size_t)kh * kw, plane = (size_t)h * w;
    di_real *own = di_new(ctx, 2 * plane, sizeof *own);
    q->gk = di_new(ctx, 2 * n, sizeof *q->gk);
    q->kernel = di_new(ctx, n, sizeof *q->kernel);
    q->moved = di_new(ctx, plane, sizeof *q->moved);
    q->back = di_new(ctx, plane, sizeof *q->back);
    if (!own || !q->gk || !q->kernel || !q->moved || !q->back)
        return DI_EMEMORY;
    for (size_t i = 0; tilt && i < 2 * plane; i++) {
        if (!(fabs(tilt[i]) < HUGE_VAL))
            return di_fail(ctx, DI_EINPUT, "%s: the tilt holds NaN or infinity at row %d, "
                           "column %d", name, (int)(i % plane / w), (int)(i % w));
        own[i] = tilt[i];
    }
    q->tilted = tilt != NULL;
    q->tilt = tilt ? own : NULL;
    q->p.apply = hidden_apply;
    q->p.vjp = hidden_vjp;
    q->p.extra = n + (tilt ? 2 * plane : 0);
    q->p.apply_with = hidden_apply_with;
    q->p.vjp_with = hidden_vjp_with;
    *p = &q->p;
    return DI_OK;
}

di_status di_problem_blind(di_ctx *ctx, int c, int h, int w, int kh, int kw,
                           const di_real *kernel, di_problem **p)
{
    return hidden_new(ctx, "blind", c, h, w, kh, kw, kernel, NULL, p);
}

di_status di_problem_turbulence(di_ctx *ctx, int c, int h, int w, int kh, int kw,
                                const di_real *kernel, const di_real *tilt, di_problem **p)
{
    return hidden_new(ctx, "turbulence", c, h, w, kh, kw, kernel, tilt, p);
}

/* ==== 4. Range, colour, compression ======================================================= */

/* ---- high dynamic range: y = clip(s x, -1, 1) ---- */

typedef struct hdr {
    di_problem p;
    di_real scale;
} hdr;

static void hdr_apply(const di_problem *p, const di_real *x, di_real *y)
{
    const di_real s = ((const hdr *)p->self)->scale;
    for (size_t i = 0; i < size3(p->x); i++)
        y[i] = s * x[i] < -1 ? -1 : s * x[i] > 1 ? 1 : s * x[i];
}

/* gx = [|s x| <= 1] s v, the ends included */
static void hdr_vjp(const di_problem *p, const di_real *x, const di_real *v, di_real *gx)
{
    const di_real s = ((const hdr *)p->self)->scale;
    for (size_t i = 0; i < size3(p->x); i++)
        gx[i] = s * x[i] < -1 || s * x[i] > 1 ? 0 : s * v[i];
}

di_status di_problem_hdr(di_ctx *ctx, int c, int h, int w, double scale, di_problem **p)
{
    *p = NULL;
    if (!(scale > 0 && scale < 1e6))
        return di_fail(ctx, DI_EUSAGE, "hdr: scale=%g must be positive", scale);
    hdr *q = problem_new(ctx, sizeof *q, "hdr", c, h, w);
    if (!q)
        return ctx->status;
    q->scale = (di_real)scale;
    q->p.linear = 0;
    q->p.apply = hdr_apply;
    q->p.vjp = hdr_vjp;
    *p = &q->p;
    return DI_OK;
}

/* ---- colourisation: y = a . x over the three colours, a = (0.3333, 0.3334, 0.3333) ---- */

static const double GREY[3] = { 0.3333, 0.3334, 0.3333 };

static double grey_length(void)
{
    return sqrt(GREY[0] * GREY[0] + GREY[1] * GREY[1] + GREY[2] * GREY[2]);
}

static void grey_apply(const di_problem *p, const di_real *x, di_real *y)
{
    size_t n = size3(p->y);
    for (size_t i = 0; i < n; i++)
        y[i] = (di_real)(GREY[0] * x[i] + GREY[1] * x[n + i] + GREY[2] * x[2 * n + i]);
}

/* gx = a v */
static void grey_vjp(const di_problem *p, const di_real *x, const di_real *v, di_real *gx)
{
    size_t n = size3(p->y);
    (void)x;
    for (size_t i = 0; i < 3 * n; i++)
        gx[i] = (di_real)(GREY[i / n] * v[i % n]);
}

/* x = a y / |a|^2 */
static void grey_pinv(const di_problem *p, const di_real *y, di_real *x)
{
    size_t n = size3(p->y);
    double square = grey_length() * grey_length();
    for (size_t i = 0; i < 3 * n; i++)
        x[i] = (di_real)(GREY[i / n] / square * y[i % n]);
}

static di_status grey_values(const di_problem *p, di_real *s)
{
    size_t n = size3(p->y);
    for (size_t i = 0; i < 3 * n; i++)
        s[i] = (di_real)(i < n ? grey_length() : 0);
    return DI_OK;
}

/* V = V^T = 1 - 2 u u^T / |u|^2, u = a/|a| - e0, the reflection of each pixel that takes the
   first colour to a/|a|. */
static void grey_spectral(const di_problem *p, const di_real *in, di_real *out, int what)
{
    size_t n = size3(p->y);
    double u[3], square = 0;
    (void)what;
    for (int c = 0; c < 3; c++) {
        u[c] = GREY[c] / grey_length() - (c == 0);
        square += u[c] * u[c];
    }
    for (size_t i = 0; i < n; i++) {
        double dot_u = 0;
        for (int c = 0; c < 3; c++)
            dot_u += u[c] * in[c * n + i];
        for (int c = 0; c < 3; c++)
            out[c * n + i] = (di_real)(in[c * n + i] - 2 * dot_u / square * u[c]);
    }
}

di_status di_problem_colorize(di_ctx *ctx, int h, int w, di_problem **p)
{
    *p = problem_new(ctx, sizeof **p, "colorize", 3, h, w);
    if (!*p)
        return ctx->status;
    (*p)->y[0] = 1;
    (*p)->apply = grey_apply;
    (*p)->vjp = grey_vjp;
    (*p)->pinv = grey_pinv;
    return DI_OK;
}

/* ---- JPEG: y = decode(encode(x)), 4:2:0, of the CPS and RED-diff programs ----
   The even rows and columns of the chroma are kept, no averages, and put back as 2x2 blocks;
   nothing is rounded but the coefficients, nothing clipped. In double throughout: a coefficient
   near a half must not depend on the build. y jumps where a coefficient crosses a half and is
   constant in between, so there is no derivative to be had: vjp is NULL. */

typedef struct jpeg {
    di_problem p;
    double quant[2][64]; /* luma, chroma */
    double wave[64];     /* wave[k][n]: DCT-II, orthonormal */
    double *plane;       /* (h,w) luma, then (2,h/2,w/2) chroma */
} jpeg;

/* The tables of the standard (ITU-T T.81, annex K), at quality 50. */
static const unsigned char QUANT[2][64] = {
    { 16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
      14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
      18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
      49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99 },
    { 17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99,
      24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99,
      99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
      99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99 } };

/* out = M in M^T (back 0) or M^T in M, all 8x8 */
static void wave_block(const double *m, const double *in, int back, double *out)
{
    double half[64];
    for (int k = 0; k < 64; k++) {
        half[k] = 0;
        for (int n = 0; n < 8; n++)
            half[k] += (back ? m[n * 8 + k / 8] : m[k / 8 * 8 + n]) * in[n * 8 + k % 8];
    }
    for (int k = 0; k < 64; k++) {
        out[k] = 0;
        for (int n = 0; n < 8; n++)
            out[k] += (back ? m[n * 8 + k % 8] : m[k % 8 * 8 + n]) * half[k / 8 * 8 + n];
    }
}

/* plane (h,w), multiples of 8: its blocks' coefficients rounded to multiples of quant, a half
   to the even one */
static void jpeg_plane(const jpeg *q, const double *quant, int h, int w, double *plane)
{
    for (int r = 0; r < h; r += 8)
        for (int s = 0; s < w; s += 8) {
            double block[64], coef[64];
            for (int k = 0; k < 64; k++)
                block[k] = plane[(size_t)(r + k / 8) * w + s + k % 8];
            wave_block(q->wave, block, 0, coef);
            for (int k = 0; k < 64; k++)
                coef[k] = rint(coef[k] / quant[k]) * quant[k];
            wave_block(q->wave, coef, 1, block);
            for (int k = 0; k < 64; k++)
                plane[(size_t)(r + k / 8) * w + s + k % 8] = block[k];
        }
}

static void jpeg_apply(const di_problem *p, const di_real *x, di_real *y)
{
    static const double to[9] = { 0.299, 0.587, 0.114, -0.1687, -0.3313, 0.5,
                                  0.5, -0.4187, -0.0813 };
    static const double from[9] = { 1, -3.68199903e-05, 1.40198758, 1, -0.344113281,
                                    -0.714103821, 1, 1.77197812, -1.34583413e-04 };
    const jpeg *q = p->self;
    int h = p->x[1], w = p->x[2];
    size_t n = (size_t)h * w;
    double *part[3] = { q->plane, q->plane + n, q->plane + n + n / 4 };
    for (size_t i = 0; i < n; i++) {
        size_t r = i / w, s = i % w;
        for (int k = 0; k < 3; k++) {
            double v = k ? 0 : -128;
            if (k && (r % 2 || s % 2))
                continue;
            for (int c = 0; c < 3; c++)
                v += to[3 * k + c] * ((x[c * n + i] + 1.0) / 2 * 255);
            part[k][k ? r / 2 * (w / 2) + s / 2 : i] = v;
        }
    }
    jpeg_plane(q, q->quant[0], h, w, part[0]);
    jpeg_plane(q, q->quant[1], h / 2, w / 2, part[1]);
    jpeg_plane(q, q->quant[1], h / 2, w / 2, part[2]);
    for (size_t i = 0; i < n; i++) {
        size_t at = i / w / 2 * (w / 2) + i % w / 2;
        for (int c = 0; c < 3; c++) {
            double v = from[3 * c] * (part[0][i] + 128) + from[3 * c + 1] * part[1][at]
                       + from[3 * c + 2] * part[2][at];
            y[c * n + i] = (di_real)(v / 255 * 2 - 1);
        }
    }
}

/* Quality as in the IJG's program: s = 5000/q below 50, else 200 - 2q, percent of the table. */
static double jpeg_step(int base, int quality)
{
    int s = quality < 50 ? 5000 / quality : 200 - 2 * quality;
    int v = (base * s + 50) / 100;
    return v < 1 ? 1 : v > 255 ? 255 : v;
}

di_status di_problem_jpeg(di_ctx *ctx, int h, int w, int quality, di_problem **p)
{
    *p = NULL;
    if (quality < 1 || quality > 100)
        return di_fail(ctx, DI_EUSAGE, "jpeg: quality=%d must be 1..100", quality);
    if (h < 1 || w < 1 || h % 16 || w % 16)
        return di_fail(ctx, DI_EUSAGE, "jpeg: an image of %dx%d has no whole blocks: its sides "
                       "must be multiples of 16", h, w);
    jpeg *q = problem_new(ctx, sizeof *q, "jpeg", 3, h, w);
    if (!q)
        return ctx->status;
    for (int k = 0; k < 64; k++) {
        q->quant[0][k] = jpeg_step(QUANT[0][k], quality);
        q->quant[1][k] = jpeg_step(QUANT[1][k], quality);
        q->wave[k] = sqrt(k < 8 ? 0.125 : 0.25)
                     * di_cos(k / 8 * (2 * (k % 8) + 1) * 3.14159265358979323846 / 16);
    }
    q->plane = di_new(ctx, (size_t)h * w / 2 * 3, sizeof *q->plane);
    if (!q->plane)
        return DI_EMEMORY;
    q->p.linear = 0;
    q->p.apply = jpeg_apply;
    *p = &q->p;
    return DI_OK;
}

/* ==== 5. Problems in the Fourier plane ======================================================
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

/* ==== 6. Linear inverse scattering ==========================================================
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

/* ==== 7. Nonlinear blur by a network ========================================================
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

/* One image at a time. */
static size_t nblur_bytes(const di_problem *p, size_t n, int vjp)
{
    const nblur *q = p->self;
    (void)n;
    return di_bkse_bytes(q->net, p->x[1], p->x[2], vjp);
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
    q->p.bytes = nblur_bytes;
    *out = &q->p;
    return DI_OK;
}

/* ==== 8. Black-hole imaging =================================================================
   The operator and loss of InverseBench (arXiv 2503.11043; devzhk/InverseBench) and CPS, after
   eht-imaging (A. Chael et al., arXiv 1803.07088): direct Fourier sums. The exponential and the
   pulse T split into a factor of the row and one of the column, so a baseline keeps h + w
   complex numbers, and V and the gradient cost 2 h w multiply-adds a baseline each.
   All is double, in float builds too: closures divide by |V|, which is small on the long
   baselines, and sums over the image would lose there what the closures are made of.
   Ours: |V|^2 is at least 1e-30, so a black image has closures and a gradient of 0 where the
   program has NaN. */

enum { LANES = 8 };                 /* columns at a time: independent sums */
static const double LEAST_V2 = 1e-30;

typedef struct hole {
    di_problem p;
    int m, a, b, h, w, wide;        /* wide: w in whole LANES; columns past w are 0 */
    double weight[4], *sigma;
    int *triangle, *quadrangle;
    double *row, *col;              /* (m,2,h), (m,2,wide): re and im */
    double *image;                  /* (h,wide): p, or a gradient */
    double *v, *gv;                 /* (m,2): V; dL = sum Re(conj(gv) dV) */
    double *log_v;                  /* (m) log|V| */
    double *pred, *half;            /* (m+a+b+1): amp, cp, lca, flux; half of dL/d each */
} hole;

static double square(double x) { return x * x; }

static double power_of(const double *v)
{
    double p = v[0] * v[0] + v[1] * v[1];
    return p > LEAST_V2 ? p : LEAST_V2;
}

/* out (2,n): T(f) exp(2 pi i f d ((n-1)/2 - k)), next doubles to a part */
static void hole_factor(double f, double d, int n, int next, double *out)
{
    const double pi = 3.14159265358979323846;
    double t = pi * f * d, sinc = t != 0 ? di_sin(t) / t : 1;
    for (int k = 0; k < n; k++) {
        double angle = 2 * pi * f * (d * ((n - 1) / 2.0 - k));
        out[k] = sinc * sinc * di_cos(angle);
        out[next + k] = sinc * sinc * di_sin(angle);
    }
}

/* v = sum_r row[r] sum_c col[c] image[r][c]; the inner sums run over rows, side by side */
static void hole_sum(const hole *q, const double *row, const double *col, double v[2])
{
    double re = 0, im = 0;
    for (int at = 0; at < q->wide; at += LANES) {
        double sr[LANES] = { 0 }, si[LANES] = { 0 };
        for (int r = 0; r < q->h; r++) {
            const double *p = q->image + (size_t)r * q->wide + at, br = row[r],
                         bi = row[q->h + r];
            for (int k = 0; k < LANES; k++) {
                sr[k] += br * p[k];
                si[k] += bi * p[k];
            }
        }
        for (int k = 0; k < LANES; k++) {
            double cr = col[at + k], ci = col[q->wide + at + k];
            re += cr * sr[k] - ci * si[k];
            im += cr * si[k] + ci * sr[k];
        }
    }
    v[0] = re;
    v[1] = im;
}

/* Closures of v (m,2) and the flux into pred. */
static void hole_close(const hole *q, const double *v, double flux, double *pred)
{
    for (int i = 0; i < q->m; i++) {
        pred[i] = sqrt(square(v[2 * i]) + square(v[2 * i + 1]));
        q->log_v[i] = 0.5 * di_log(power_of(v + 2 * i));
    }
    for (int t = 0; t < q->a; t++) {
        double re = 1, im = 0;
        for (int k = 0; k < 3; k++) {
            int at = q->triangle[3 * t + k];
            const double *u = v + 2 * ((at < 0 ? -at : at) - 1);
            double ui = at < 0 ? -u[1] : u[1], next = re * u[0] - im * ui;
            im = re * ui + im * u[0];
            re = next;
        }
        pred[q->m + t] = di_atan2(im, re);
    }
    for (int t = 0; t < q->b; t++) {
        const int *at = q->quadrangle + 4 * t;
        pred[q->m + q->a + t] = q->log_v[at[0]] + q->log_v[at[1]] - q->log_v[at[2]]
                                - q->log_v[at[3]];
    }
    pred[q->m + q->a + q->b] = flux;
}

/* V of x, and all that is predicted from it */
static void hole_look(hole *q, const di_real *x)
{
    double flux = 0;
    for (int r = 0; r < q->h; r++)
        for (int c = 0; c < q->wide; c++) { /* past w: a NaN may have come there from gv */
            double p = c < q->w ? ((double)x[(size_t)r * q->w + c] + 1) / 2 : 0;
            q->image[(size_t)r * q->wide + c] = p;
            flux += p;
        }
    for (int i = 0; i < q->m; i++)
        hole_sum(q, q->row + (size_t)i * 2 * q->h, q->col + (size_t)i * 2 * q->wide,
                 q->v + 2 * i);
    hole_close(q, q->v, flux, q->pred);
}

double di_hole_vis(const di_problem *p, const di_real *x, double *v)
{
    hole *q = p->self;
    hole_look(q, x);
    memcpy(v, q->v, 2 * (size_t)q->m * sizeof *v);
    return q->pred[q->m + q->a + q->b];
}

/* sqrt(sum_k (sigma_k / |V_k|)^2) over the n baselines of a closure; from: what their numbers
   begin with */
static double hole_error(const int *at, int n, int from, const double *v, const double *sigma)
{
    double sum = 0;
    for (int k = 0; k < n; k++) {
        int i = (at[k] < 0 ? -at[k] : at[k]) - from;
        sum += square(sigma[i]) / power_of(v + 2 * i);
    }
    return sqrt(sum);
}

void di_hole_measure(const di_problem *p, const double *v, const double *sigma, double flux,
                     di_real *y)
{
    hole *q = p->self;
    const double *pred = q->pred;
    sigma = sigma ? sigma : q->sigma;
    hole_close(q, v, flux, q->pred);
    for (int i = 0; i < q->m; i++) {
        y[i] = (di_real)*pred++;
        y[q->m + i] = (di_real)sigma[i];
    }
    y += 2 * q->m;
    for (int t = 0; t < q->a; t++) {
        y[t] = (di_real)*pred++;
        y[q->a + t] = (di_real)hole_error(q->triangle + 3 * t, 3, 1, v, sigma);
    }
    y += 2 * q->a;
    for (int t = 0; t < q->b; t++) {
        y[t] = (di_real)*pred++;
        y[q->b + t] = (di_real)hole_error(q->quadrangle + 4 * t, 4, 0, v, sigma);
    }
    y[2 * q->b] = (di_real)*pred;
}

/* The sigmas too are those of x, as the program's forward has them: of the amplitudes the
   thermal ones, of a closure what they make of it at this |V|. */
static void hole_apply(const di_problem *p, const di_real *x, di_real *y)
{
    hole *q = p->self;
    hole_look(q, x);
    di_hole_measure(p, q->v, NULL, q->pred[q->m + q->a + q->b], y);
}

/* gv += g d log|V_i|:  d log|V| = Re(conj(V/|V|^2) dV) */
static void hole_grow(hole *q, int i, double g)
{
    const double *v = q->v + 2 * i;
    q->gv[2 * i] += g * v[0] / power_of(v);
    q->gv[2 * i + 1] += g * v[1] / power_of(v);
}

/* gv += g d(phase of triangle t):  d arg V = Re(conj(iV/|V|^2) dV), minus where conjugated */
static void hole_turn(hole *q, int t, double g)
{
    for (int k = 0; k < 3; k++) {
        int at = q->triangle[3 * t + k], i = (at < 0 ? -at : at) - 1;
        const double *v = q->v + 2 * i, s = (at < 0 ? -g : g) / power_of(v);
        q->gv[2 * i] -= s * v[1];
        q->gv[2 * i + 1] += s * v[0];
    }
}

static void hole_quad_back(hole *q, int t, double g)
{
    for (int k = 0; k < 4; k++)
        hole_grow(q, q->quadrangle[4 * t + k], k < 2 ? g : -g);
}

/* gv += g d hole_error:  d sig = -(1/sig) sum_k (sigma_k/|V_k|)^2 d log|V_k| */
static void hole_error_back(hole *q, const int *at, int n, int from, double g)
{
    double sig = hole_error(at, n, from, q->v, q->sigma);
    for (int k = 0; g != 0 && k < n; k++) {
        int i = (at[k] < 0 ? -at[k] : at[k]) - from;
        hole_grow(q, i, -g / sig * square(q->sigma[i]) / power_of(q->v + 2 * i));
    }
}

/* gx = (sum_i Re(conj(A_i) gv_i) + gflux) / 2, A_i[r][c] = row_i[r] col_i[c] */
static void hole_picture(hole *q, double gflux, di_real *gx)
{
    memset(q->image, 0, (size_t)q->h * q->wide * sizeof *q->image);
    for (int i = 0; i < q->m; i++) {
        const double *row = q->row + (size_t)i * 2 * q->h, gr = q->gv[2 * i];
        const double *col = q->col + (size_t)i * 2 * q->wide, gi = q->gv[2 * i + 1];
        for (int r = 0; r < q->h && (gr != 0 || gi != 0); r++) {
            double *g = q->image + (size_t)r * q->wide;
            double zr = row[r] * gr + row[q->h + r] * gi, zi = row[r] * gi - row[q->h + r] * gr;
            for (int at = 0; at < q->wide; at += LANES) {
                const double *cr = col + at, *ci = cr + q->wide;
                double sum[LANES];
                for (int k = 0; k < LANES; k++)
                    sum[k] = g[at + k] + (cr[k] * zr + ci[k] * zi);
                memcpy(g + at, sum, sizeof sum);
            }
        }
    }
    for (int r = 0; r < q->h; r++)
        for (int c = 0; c < q->w; c++)
            gx[(size_t)r * q->w + c] =
                (di_real)((q->image[(size_t)r * q->wide + c] + gflux) / 2);
}

/* Of all entries, the sigmas' too (those of the amplitudes are constants). */
static void hole_vjp(const di_problem *p, const di_real *x, const di_real *v, di_real *gx)
{
    hole *q = p->self;
    const di_real *cp = v + 2 * q->m, *lca = cp + 2 * q->a;
    hole_look(q, x);
    memset(q->gv, 0, 2 * (size_t)q->m * sizeof *q->gv);
    for (int i = 0; i < q->m; i++) /* d|V| = |V| d log|V| */
        hole_grow(q, i, v[i] * q->pred[i]);
    for (int t = 0; t < q->a; t++) {
        hole_turn(q, t, cp[t]);
        hole_error_back(q, q->triangle + 3 * t, 3, 1, cp[q->a + t]);
    }
    for (int t = 0; t < q->b; t++) {
        hole_quad_back(q, t, lca[t]);
        hole_error_back(q, q->quadrangle + 4 * t, 4, 0, lca[q->b + t]);
    }
    hole_picture(q, lca[2 * q->b], gx);
}

/* chi2 of pred against y, and half = half of the loss's derivative by each entry of pred:
   w1 2 (amp - amp_y)/sig^2, -w2 2 sin(cp_y - cp)/sig^2, w3 2 (lca - lca_y)/sig^2,
   w4 (flux - flux_y)/2. Returns the loss. What has no weight may have any sigma. */
static double hole_fit(const hole *q, const double *pred, const di_real *y, double chi2[4],
                       double *half)
{
    const double *w = q->weight;
    double sum[4] = { 0, 0, 0, 0 };
    for (int i = 0; i < q->m; i++) {
        double s = y[q->m + i], e = (pred[i] - y[i]) / s;
        sum[0] += e * e;
        half[i] = w[0] != 0 ? w[0] * 2 * e / s : 0;
    }
    pred += q->m;
    half += q->m;
    y += 2 * q->m;
    for (int t = 0; t < q->a; t++) { /* 1 - cos d = 2 sin^2(d/2) */
        double s = y[q->a + t], d = y[t] - pred[t];
        sum[1] += square(2 * di_sin(d / 2) / s);
        half[t] = w[1] != 0 ? -w[1] * 2 * di_sin(d) / square(s) : 0;
    }
    pred += q->a;
    half += q->a;
    y += 2 * q->a;
    for (int t = 0; t < q->b; t++) {
        double s = y[q->b + t], e = (pred[t] - y[t]) / s;
        sum[2] += e * e;
        half[t] = w[2] != 0 ? w[2] * 2 * e / s : 0;
    }
    double e = (pred[q->b] - y[2 * q->b]) / 2, loss = 0;
    sum[3] = e * e;
    half[q->b] = w[3] * e;
    for (int k = 0; k < 4; k++) {
        int count = k == 0 ? q->m : k == 1 ? q->a : k == 2 ? q->b : 1;
        chi2[k] = count ? sum[k] / count : 0;
        loss += w[k] != 0 ? 2 * w[k] * sum[k] : 0;
    }
    return loss;
}

static double hole_misfit(const di_problem *p, const di_real *x, const di_real *y,
                          di_real *half)
{
    hole *q = p->self;
    double chi2[4];
    hole_look(q, x);
    double loss = hole_fit(q, q->pred, y, chi2, q->half);
    if (!half)
        return loss;
    memset(q->gv, 0, 2 * (size_t)q->m * sizeof *q->gv);
    for (int i = 0; q->weight[0] != 0 && i < q->m; i++)
        hole_grow(q, i, q->half[i] * q->pred[i]);
    for (int t = 0; t < q->a; t++)
        hole_turn(q, t, q->half[q->m + t]);
    for (int t = 0; t < q->b; t++)
        hole_quad_back(q, t, q->half[q->m + q->a + t]);
    hole_picture(q, q->half[q->m + q->a + q->b], half);
    return loss;
}

/* The loss of a measurement m (CPS looks at no image). Its sigmas are not read, and have no
   derivative. */
static double hole_loss(const di_problem *p, const di_real *m, const di_real *y, di_real *half)
{
    hole *q = p->self;
    int part[3] = { q->m, q->a, q->b }, at = 0, from = 0;
    double chi2[4];
    for (int k = 0; k < 3; k++, from += part[k - 1])
        for (int i = 0; i < part[k]; i++)
            q->pred[at++] = m[2 * from + i];
    q->pred[at] = m[2 * from];
    double loss = hole_fit(q, q->pred, y, chi2, q->half);
    at = from = 0;
    for (int k = 0; half && k < 3; k++, from += part[k - 1])
        for (int i = 0; i < part[k]; i++) {
            half[2 * from + i] = (di_real)q->half[at++];
            half[2 * from + part[k] + i] = 0;
        }
    if (half)
        half[2 * from] = (di_real)q->half[at];
    return loss;
}

void di_hole_chi2(const di_problem *p, const di_real *x, const di_real *y, double chi2[4])
{
    hole *q = p->self;
    hole_look(q, x);
    hole_fit(q, q->pred, y, chi2, q->half);
}

static di_status hole_check(di_ctx *ctx, const di_hole *o)
{
    if (o->vis < 1 || o->tri < 0 || o->quad < 0 || o->vis > 65536 || o->tri > 65536
        || o->quad > 65536)
        return di_fail(ctx, DI_EINPUT, "blackhole: %d visibilities, %d triangles and %d "
                       "quadrangles are impossible", o->vis, o->tri, o->quad);
    if (!(o->pixel > 0 && o->pixel < 1))
        return di_fail(ctx, DI_EINPUT, "blackhole: a pixel of %g radians is impossible",
                       o->pixel);
    for (int i = 0; i < o->vis; i++)
        if (!(o->sigma[i] > 0 && o->sigma[i] < HUGE_VAL && fabs(o->uv[2 * i]) * o->pixel < 1e4
              && fabs(o->uv[2 * i + 1]) * o->pixel < 1e4))
            return di_fail(ctx, DI_EINPUT, "blackhole: baseline %d has u %g, v %g, sigma %g: "
                           "sigma is positive, u and v within 1e4 / pixel", i + 1,
                           o->uv[2 * i], o->uv[2 * i + 1], o->sigma[i]);
    for (int i = 0; i < 3 * o->tri; i++)
        if (o->triangle[i] == 0 || o->triangle[i] > o->vis || o->triangle[i] < -o->vis)
            return di_fail(ctx, DI_EINPUT, "blackhole: triangle %d has no baseline %d",
                           i / 3 + 1, o->triangle[i]);
    for (int i = 0; i < 4 * o->quad; i++)
        if (o->quadrangle[i] < 0 || o->quadrangle[i] >= o->vis)
            return di_fail(ctx, DI_EINPUT, "blackhole: quadrangle %d has no baseline %d",
                           i / 4 + 1, o->quadrangle[i]);
    for (int k = 0; k < 4; k++)
        if (!(o->weight[k] >= 0 && o->weight[k] < HUGE_VAL))
            return di_fail(ctx, DI_EINPUT, "blackhole: weight %d is %g; it is 0 or positive",
                           k + 1, o->weight[k]);
    return DI_OK;
}

static di_status hole_fill(hole *q, const di_hole *o)
{
    di_ctx *ctx = q->p.ctx;
    size_t m = (size_t)o->vis, all = m + (size_t)o->tri + (size_t)o->quad + 1;
    q->sigma = di_new(ctx, m, sizeof *q->sigma);
    q->triangle = di_new(ctx, 3 * (size_t)o->tri + 1, sizeof *q->triangle);
    q->quadrangle = di_new(ctx, 4 * (size_t)o->quad + 1, sizeof *q->quadrangle);
    q->row = di_new(ctx, m * 2 * q->h, sizeof *q->row);
    q->col = di_new(ctx, m * 2 * q->wide, sizeof *q->col);
    q->image = di_new(ctx, (size_t)q->h * q->wide, sizeof *q->image);
    q->v = di_new(ctx, 5 * m + 2 * all, sizeof *q->v);
    if (!q->sigma || !q->triangle || !q->quadrangle || !q->row || !q->col || !q->image || !q->v)
        return DI_EMEMORY;
    q->gv = q->v + 2 * m;
    q->log_v = q->gv + 2 * m;
    q->pred = q->log_v + m;
    q->half = q->pred + all;
    memcpy(q->weight, o->weight, sizeof q->weight);
    memcpy(q->sigma, o->sigma, m * sizeof *q->sigma);
    memcpy(q->triangle, o->triangle, 3 * (size_t)o->tri * sizeof *q->triangle);
    memcpy(q->quadrangle, o->quadrangle, 4 * (size_t)o->quad * sizeof *q->quadrangle);
    for (size_t i = 0; i < m; i++) {
        hole_factor(o->uv[2 * i], o->pixel, q->w, q->wide, q->col + i * 2 * q->wide);
        hole_factor(o->uv[2 * i + 1], o->pixel, q->h, q->h, q->row + i * 2 * q->h);
    }
    return DI_OK;
}

di_status di_problem_blackhole(di_ctx *ctx, int h, int w, const di_hole *o, di_problem **out)
{
    *out = NULL;
    if (hole_check(ctx, o))
        return ctx->status;
    hole *q = problem_new(ctx, sizeof *q, "blackhole", 1, h, w);
    if (!q)
        return ctx->status;
    q->m = o->vis;
    q->a = o->tri;
    q->b = o->quad;
    q->h = h;
    q->w = w;
    q->wide = (w + LANES - 1) / LANES * LANES;
    if (hole_fill(q, o))
        return ctx->status;
    q->p.linear = 0;
    q->p.y[0] = q->p.y[1] = 1;
    q->p.y[2] = 2 * (o->vis + o->tri + o->quad) + 1;
    q->p.apply = hole_apply;
    q->p.vjp = hole_vjp;
    q->p.misfit = hole_misfit;
    q->p.loss = hole_loss;
    *out = &q->p;
    return DI_OK;
}

/* ==== 9. A fluid: two-dimensional Navier-Stokes equations ===================================
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
    di_real *grid[FLOW_PLANES]; /* q, v, W, a, b in space */
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
    size_t n = q->n, row = q->half * lanes, size = n * row, grid = n * n * lanes;
    if (lanes > q->room) {
        di_free(ctx, q->memory);
        di_free(ctx, q->time);
        di_free(ctx, q->steps);
        q->room = 0;
        q->memory = di_new(ctx, 4 * row + n * lanes + FLOW_HALVES * 2 * size
                           + FLOW_PLANES * grid + di_fft_work(q->fft), sizeof *q->memory);
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
    for (int i = 0; i < FLOW_PLANES; i++, at += grid)
        q->grid[i] = at;
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

static void flow_to_space(flow *q, di_half h, di_real *grid)
{
    di_real scale = (di_real)(1.0 / (double)(q->n * q->n));
    di_fft2_real_back(q->fft, q->fft, q->lanes, scale, h.re, h.im, grid, q->work);
}

static void flow_from_space(flow *q, const di_real *grid, di_half h)
{
    di_fft2_real(q->fft, q->fft, q->lanes, grid, h.re, h.im, q->work);
}

/* grid 0, 1, 2 = q, -v, W of w. As -v = d_x psi, q W and -v W are what the kernels take. */
static void flow_velocity(flow *q, di_half w)
{
    size_t row = q->g.row;
    q->k->derive(&q->g, 1, 1, w, q->b, q->a);
    flow_to_space(q, q->a, q->grid[0]);
    flow_to_space(q, q->b, q->grid[1]);
    for (size_t i = 0; i < 2 * q->n; i++) { /* c.im follows c.re */
        di_real *c = q->c.re + i * row;
        memset(c, 0, row * sizeof *c);
        memcpy(c, w.re + i * row, q->kept[i % q->n] * sizeof *c);
        if (i % q->n == 0)
            memset(c, 0, q->lanes * sizeof *c);
    }
    flow_to_space(q, q->c, q->grid[2]);
}

/* One stage of a step: to = w~ of from = w, or w+ of from = w~. */
static void flow_stage(flow *q, int second, di_half from, di_half to)
{
    flow_velocity(q, from);
    q->k->products(q->n * q->n * q->lanes, q->grid[0], q->grid[1], q->grid[2], NULL, NULL);
    flow_from_space(q, q->grid[0], q->a);
    flow_from_space(q, q->grid[1], q->b);
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
    flow_to_space(q, q->a, q->grid[0]);
    flow_to_space(q, q->b, q->grid[1]);
    q->k->speed(q->n, row, q->grid[0], q->grid[1], q->top);
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
            q->grid[0][i * L + l] = (di_real)q->set.scale * x[l * area + i];
        q->time[l] = 0;
        q->steps[l] = 0;
        q->dt[l] = q->set.dt;
    }
    flow_from_space(q, q->grid[0], q->w);
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
    flow_to_space(q, q->d, q->grid[3]);
    flow_to_space(q, q->e, q->grid[4]);
    q->k->products(q->n * q->n * q->lanes, q->grid[0], q->grid[1], q->grid[2], q->grid[3],
                   q->grid[4]);
    flow_from_space(q, q->grid[3], q->a);
    flow_from_space(q, q->grid[4], q->b);
    flow_from_space(q, q->grid[0], q->c);
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
    di_real *to = q->grid[0];
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

/* The memory of a group of fields, and with vjp its states: of an adaptive dt, whose steps are
   not known, as many as are kept. */
static size_t flow_bytes(const di_problem *p, size_t n, int vjp)
{
    const flow *q = p->self;
    size_t lanes = q->set.together ? n : flow_width(q->n, n), row = q->half * lanes;
    size_t group = 0, states = 0, keep = q->set.keep ? (size_t)q->set.keep : FLOW_KEEP;
    if (lanes > q->room)
        group = 4 * row + (1 + FLOW_PLANES * q->n) * q->n * lanes
                + FLOW_HALVES * 2 * q->n * row + di_fft_work(q->fft);
    if (vjp) {
        size_t steps = q->set.dt > 0 ? (size_t)(q->set.time / q->set.dt) + 1 : keep, gap = 1;
        while ((steps + gap - 1) / gap > keep)
            gap *= 2;
        states = (steps < keep ? steps : keep) + (gap > 1 ? gap : 0);
    }
    return (group + states * 2 * q->n * row) * sizeof(di_real);
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
    q->p.bytes = flow_bytes;
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

/* ==== 10. SVD A = U S V^T, for the kinds of problems that have one ======================== */

typedef struct svd_kind {
    void (*pinv)(const di_problem *p, const di_real *y, di_real *x); /* tells the kind */
    di_status (*values)(const di_problem *p, di_real *s);
    void (*spectral)(const di_problem *p, const di_real *in, di_real *out, int what);
} svd_kind;
static const svd_kind SVD_KIND[] = {
    { mask_apply, mask_values, mask_spectral },
    { sep_pinv, sep_values, sep_spectral },
    { matrix_pinv, matrix_values, matrix_spectral },
    { grey_pinv, grey_values, grey_spectral },
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

/* ==== 11. How good an answer is =========================================================== */

double di_rms(const di_real *a, size_t n) { return n ? sqrt(di_dot(a, a, n) / (double)n) : 0; }

/* ||y - A(x)|| / sqrt(m), or sqrt(L/m) of a loss L of the problem's own; work (C,H,W of y). */
double di_residual(const di_problem *p, const di_real *x, const di_real *y, di_real *work)
{
    size_t m = size3(p->y);
    if (p->misfit || p->loss)
        return sqrt(di_misfit(p, x, y, NULL, work) / (double)m);
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
    if (p->loss) {
        double loss = p->loss(p, work, y, work);
        if (half)
            p->vjp(p, x, work, half);
        return loss;
    }
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
