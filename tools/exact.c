/* exact.c - the priors that need no network: a Gaussian or a mixture of them, from arrays */
#include "cmd.h"

#include <string.h>

static const char GAUSS[] = "gauss:MEAN.npy,COV.npy";
static const char MIXTURE[] = "mixture:WEIGHTS.npy,MEANS.npy,VARS.npy";

enum { MOST_PARTS = 3 };
typedef struct parts {
    char path[MOST_PARTS][1024];
    io_array a[MOST_PARTS];
    int n;
} parts;

int exact_is(const char *name)
{
    return !strncmp(name, "gauss:", 6) || !strncmp(name, "mixture:", 8);
}

static size_t count_of(const io_array *a)
{
    return a->n * a->c * a->h * a->w;
}

static int same_shape(const io_array *a, size_t n, size_t c, size_t h, size_t w)
{
    return a->n == n && a->c == c && a->h == h && a->w == w;
}

/* "gauss:a,b" into the names of its files. */
static int split(cmd *c, const char *name, parts *p)
{
    const char *form = *name == 'g' ? GAUSS : MIXTURE, *s = strchr(name, ':') + 1;
    p->n = *name == 'g' ? 2 : 3;
    for (int i = 0; i < p->n; i++) {
        size_t len = strcspn(s, ",");
        int last = i == p->n - 1;
        if (!len || len >= sizeof p->path[i] || (s[len] == 0) != last)
            return di_fail(c->ctx, DI_EUSAGE, "-w %s: write %s, %d files, no comma in their "
                           "names", name, form, p->n);
        memcpy(p->path[i], s, len);
        p->path[i][len] = 0;
        s += len + !last;
    }
    return 0;
}

/* The checksum of shape and values, the same for every machine and scalar type. */
static uint32_t add_crc(uint32_t crc, const io_array *a)
{
    size_t shape[4] = {a->n, a->c, a->h, a->w};
    unsigned char b[8];
    for (size_t i = 0; i < 4 + count_of(a); i++) {
        uint64_t u = i < 4 ? (uint64_t)shape[i] : 0;
        if (i >= 4) {
            float v = (float)a->v[i - 4];
            uint32_t bits;
            memcpy(&bits, &v, sizeof bits);
            u = bits;
        }
        for (int k = 0; k < 8; k++)
            b[k] = (unsigned char)(u >> 8 * k);
        crc = io_crc32(crc, b, i < 4 ? 8 : 4);
    }
    return crc;
}

static int read_part(cmd *c, parts *p, int i, int may_be_picture)
{
    io_array *a = &p->a[i];
    int code = input_array(c, p->path[i], a);
    if (code)
        return code;
    if (a->picture && !may_be_picture)
        return di_fail(c->ctx, DI_EINPUT, "%s is a picture or a uint8 array, which is read as "
                       "[-1,1]: save the numbers as float32", p->path[i]);
    for (size_t k = 0; k < count_of(a); k++)
        if (!di_finite(a->v + k, 1))
            return di_fail(c->ctx, DI_EINPUT, "%s: value %zu is NaN or infinite", p->path[i],
                           k);
    return 0;
}

/* MEAN (C,H,W); COV (C,H,W), its diagonal, or (d,d). *full: which. */
static int check_gauss(cmd *c, const parts *p, int *full)
{
    const io_array *m = &p->a[0], *v = &p->a[1];
    size_t d = m->c * m->h * m->w;
    if (m->n != 1)
        return di_fail(c->ctx, DI_EINPUT, "%s holds %zu images: give one mean, (C,H,W)",
                       p->path[0], m->n);
    *full = !same_shape(v, 1, m->c, m->h, m->w);
    if (*full && !same_shape(v, 1, 1, d, d))
        return di_fail(c->ctx, DI_EINPUT, "%s is %zux%zux%zux%zu, and the mean %zux%zux%zu: "
                       "give the covariance as its diagonal, (%zu,%zu,%zu), or as (%zu,%zu)",
                       p->path[1], v->n, v->c, v->h, v->w, m->c, m->h, m->w, m->c, m->h, m->w,
                       d, d);
    return 0;
}

/* WEIGHTS (K), MEANS (K,C,H,W), VARS (K) or (K,C,H,W). *each: the latter. */
static int check_mixture(cmd *c, const parts *p, int *each)
{
    const io_array *g = &p->a[0], *m = &p->a[1], *v = &p->a[2];
    size_t k = g->w;
    if (!same_shape(g, 1, 1, 1, k))
        return di_fail(c->ctx, DI_EINPUT, "%s is %zux%zux%zux%zu: give the weights as (K)",
                       p->path[0], g->n, g->c, g->h, g->w);
    if (m->n != k)
        return di_fail(c->ctx, DI_EINPUT, "%s holds %zu means, (%zu,%zu,%zu) each, for %zu "
                       "weights: give (%zu,C,H,W)", p->path[1], m->n, m->c, m->h, m->w, k, k);
    *each = !same_shape(v, 1, 1, 1, k);
    if (*each && !same_shape(v, k, m->c, m->h, m->w))
        return di_fail(c->ctx, DI_EINPUT, "%s is %zux%zux%zux%zu: give the variances as (%zu) "
                       "or as the means, (%zu,%zu,%zu,%zu)", p->path[2], v->n, v->c, v->h,
                       v->w, k, k, m->c, m->h, m->w);
    return 0;
}

static int build_prior(cmd *c, const char *name, const parts *p, int choice, weights *w)
{
    const io_array *a = p->a;
    di_status s = p->n == 2
        ? di_prior_gauss(c->ctx, w->in, w->h, w->w, a[0].v, a[1].v, choice, &w->exact)
        : di_prior_mixture(c->ctx, w->in, w->h, w->w, (int)a[0].w, a[0].v, a[1].v, a[2].v,
                           choice, &w->exact);
    if (s) {
        char why[400];
        snprintf(why, sizeof why, "%s", di_error(c->ctx));
        di_clear(c->ctx);
        return di_fail(c->ctx, s, "-w %.400s: %s", name, why);
    }
    return 0;
}

int exact_open(cmd *c, const char *name, int build, weights *w)
{
    parts p;
    int choice = 0;
    memset(&p, 0, sizeof p);
    if (strlen(name) >= sizeof w->path)
        return di_fail(c->ctx, DI_EUSAGE, "-w %.200s...: the name is too long", name);
    strcpy(w->path, name);
    int code = split(c, name, &p);
    for (int i = 0; !code && i < p.n; i++)
        code = read_part(c, &p, i, i == p.n - 2);
    if (!code)
        code = p.n == 2 ? check_gauss(c, &p, &choice) : check_mixture(c, &p, &choice);
    const io_array *mean = &p.a[p.n - 2];
    if (!code && (mean->c > 1 << 16 || mean->h > 1 << 16 || mean->w > 1 << 16))
        code = di_fail(c->ctx, DI_EINPUT, "%s: larger than 65536 a side",
                       p.path[p.n - 2]);
    if (!code) {
        w->in = w->out = (int)mean->c;
        w->h = (int)mean->h;
        w->w = (int)mean->w;
        w->multiple = 1;
        if (p.n == 2)
            snprintf(w->what, sizeof w->what, "Gaussian, %s covariance",
                     choice ? "full" : "diagonal");
        else
            snprintf(w->what, sizeof w->what, "mixture of %zu Gaussian%s", p.a[0].w,
                     p.a[0].w == 1 ? "" : "s");
        for (int i = 0; i < p.n; i++)
            w->crc = add_crc(w->crc, &p.a[i]);
        code = cmd_fact(c, "info.weights_crc", "%08lx", (unsigned long)w->crc);
    }
    if (!code && build)
        code = build_prior(c, name, &p, choice, w);
    for (int i = 0; i < p.n; i++)
        io_free(&p.a[i]);
    return code;
}
