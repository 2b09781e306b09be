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

/* M (r x n, r <= n) = U S W^T by one-sided Jacobi (Hestenes) on M's rows. In: w (n x n), its
   first r rows those of M. Out: w's rows are the right singular vectors, a whole orthonormal
   basis; u (r x r)'s rows the left ones; s (r) descending. */
static void svd(double *w, double *u, double *s, int r, int n)
{
    memset(u, 0, (size_t)r * r * sizeof *u);
    for (int k = 0; k < r; k++)
        u[k * r + k] = 1;
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
    int filled = 0;
    while (filled < r && s[filled] > 0)
        filled++;
    for (int e = 0; filled < n && e < n; e++) { /* complete the basis: Gram-Schmidt, twice */
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
    for (size_t i = 0; i < n; i++)
        p->apply(p, x + i * size3(p->x), y + i * size3(p->y));
    return p->ctx->status;
}

di_status di_apply_vjp(const di_problem *p, size_t n, const di_real *x, const di_real *v,
                       di_real *gx)
{
    for (size_t i = 0; i < n; i++)
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
    if (!m->u || !m->s || !m->w)
        return DI_EMEMORY;
    for (int i = 0; i < r; i++)
        for (int k = m->start[i]; k < m->start[i + 1]; k++)
            m->w[(size_t)i * n + m->index[k]] += m->weight[k];
    svd(m->w, m->u, m->s, r, n);
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

enum { TO_VT, FROM_V, PINV };

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

/* ---- SVD A = U S V^T ---- */

static int is_separable(const di_problem *p) { return p->pinv == sep_pinv; }

static int has_svd(di_problem *p)
{
    if (p->pinv == sep_pinv || p->pinv == mask_apply)
        return 1;
    di_fail(p->ctx, DI_EUSAGE, "problem %s has no SVD", p->name);
    return 0;
}

di_status di_svd_values(di_problem *p, di_real *s)
{
    if (!has_svd(p))
        return p->ctx->status;
    size_t plane = (size_t)p->x[1] * p->x[2];
    separable *q = p->self;
    const di_real *mask = is_separable(p) ? NULL : ((masked *)p->self)->mask;
    if (is_separable(p) && (map1_svd(p->ctx, &q->m[0]) || map1_svd(p->ctx, &q->m[1])))
        return DI_EMEMORY;
    for (size_t i = 0; i < size3(p->x); i++) {
        size_t at = i % plane;
        if (is_separable(p))
            s[i] = (di_real)(q->m[0].s[at / p->x[2]] * q->m[1].s[at % p->x[2]]);
        else
            s[i] = mask ? mask[at] : 1;
    }
    return DI_OK;
}

di_status di_svd_vt(di_problem *p, const di_real *x, di_real *xt)
{
    if (has_svd(p) && is_separable(p))
        sep_spectral(p, x, xt, TO_VT);
    else if (p->ctx->status == DI_OK)
        memmove(xt, x, size3(p->x) * sizeof *x);
    return p->ctx->status;
}

di_status di_svd_v(di_problem *p, const di_real *xt, di_real *x)
{
    if (has_svd(p) && is_separable(p))
        sep_spectral(p, xt, x, FROM_V);
    else if (p->ctx->status == DI_OK)
        memmove(x, xt, size3(p->x) * sizeof *x);
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

/* ==== 4. The Gaussian prior, exact ===========================================================
   x0 ~ N(m, C). E[eps | x_t] = sqrt(1-abar) (abar C + (1-abar) I)^-1 (x_t - sqrt(abar) m), a
   symmetric linear map, so its own derivative. C = Q L Q^T, or diagonal. */

typedef struct gauss {
    di_prior p;
    size_t d, n;
    int full;
    di_real *mean;
    double *lambda, *q, *work; /* (d), (d,d) rows are eigenvectors, (2d) */
    double *beta, *t;          /* t (n): of the last eval with keep */
} gauss;

enum { GAUSS_STEPS = 1000 };

/* abar at a fractional index: log-linear between table entries, 1 at t = -1. */
static double gauss_abar(const gauss *g, double t)
{
    double log_abar = 0;
    for (int i = 0; i < GAUSS_STEPS && i <= t; i++)
        log_abar += di_log(1 - g->beta[i]);
    double part = t - floor(t);
    int next = (int)floor(t) + 1;
    if (part > 0 && next < GAUSS_STEPS)
        log_abar += part * di_log(1 - g->beta[next]);
    return di_exp(log_abar);
}

/* out = sqrt(1-abar) (abar C + (1-abar) I)^-1 in */
static void gauss_map(gauss *g, double abar, const di_real *in, const di_real *mean,
                      di_real *out)
{
    size_t d = g->d;
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
    (void)v;
    if (keep && n > g->n) {
        di_free(p->ctx, g->t);
        g->t = di_new(p->ctx, n, sizeof *g->t);
        if (!g->t)
            return DI_EMEMORY;
    }
    if (keep) {
        g->n = n;
        memcpy(g->t, t, n * sizeof *t);
    }
    for (size_t i = 0; i < n; i++)
        gauss_map(g, gauss_abar(g, t[i]), x + i * g->d, g->mean, eps + i * g->d);
    return DI_OK;
}

static di_status gauss_vjp(di_prior *p, const di_real *geps, di_real *gx)
{
    gauss *g = p->self;
    for (size_t i = 0; i < g->n; i++)
        gauss_map(g, gauss_abar(g, g->t[i]), geps + i * g->d, NULL, gx + i * g->d);
    return DI_OK;
}

static size_t gauss_bytes(di_prior *p, size_t n, int vjp)
{
    (void)p;
    return vjp ? n * sizeof(double) : 0;
}

di_status di_prior_gauss(di_ctx *ctx, int c, int h, int w, const di_real *mean,
                         const di_real *cov, int full, di_prior **out)
{
    size_t d = (size_t)c * h * w;
    *out = NULL;
    gauss *g = di_new(ctx, 1, sizeof *g);
    if (!g)
        return DI_EMEMORY;
    g->d = d;
    g->full = full;
    g->mean = di_new(ctx, d, sizeof *g->mean);
    g->lambda = di_new(ctx, d, sizeof(double));
    g->work = di_new(ctx, 2 * d, sizeof(double));
    g->beta = di_new(ctx, GAUSS_STEPS, sizeof(double));
    if (!g->mean || !g->lambda || !g->work || !g->beta)
        return DI_EMEMORY;
    memcpy(g->mean, mean, d * sizeof *mean);
    for (int i = 0; i < GAUSS_STEPS; i++)
        g->beta[i] = 1e-4 + (2e-2 - 1e-4) * i / (GAUSS_STEPS - 1);
    if (full) {
        double *u = di_new(ctx, d * d, sizeof *u);
        g->q = di_new(ctx, d * d, sizeof *g->q);
        if (!g->q || !u)
            return DI_EMEMORY;
        for (size_t i = 0; i < d * d; i++) {
            g->q[i] = cov[i];
            if (!(fabs(cov[i] - cov[i % d * d + i / d]) <= 1e-6 * (fabs(cov[i]) + 1)))
                return di_fail(ctx, DI_EINPUT, "gauss: the covariance is not symmetric");
        }
        svd(g->q, u, g->lambda, (int)d, (int)d);
        for (size_t i = 0; i < d; i++) /* u = q where the eigenvalue is positive */
            if (g->lambda[i] > 1e-6 * g->lambda[0]
                && dot(u + i * d, g->q + i * d, (int)d) < 0.5)
                return di_fail(ctx, DI_EINPUT, "gauss: the covariance has a negative "
                               "eigenvalue");
        di_free(ctx, u);
    }
    for (size_t i = 0; !full && i < d; i++) {
        g->lambda[i] = cov[i];
        if (!(cov[i] >= 0))
            return di_fail(ctx, DI_EINPUT, "gauss: a variance is negative or NaN");
    }
    g->p.ctx = ctx;
    g->p.c = c;
    g->p.h = h;
    g->p.w = w;
    g->p.variance = DI_VAR_FIXED_SMALL;
    g->p.steps = GAUSS_STEPS;
    g->p.beta = g->beta;
    g->p.eval = gauss_eval;
    g->p.vjp = gauss_vjp;
    g->p.bytes = gauss_bytes;
    g->p.self = g;
    *out = &g->p;
    return DI_OK;
}
