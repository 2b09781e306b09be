/* test_net.c: the network against numbers written by the original PyTorch programs
   (tests/vectors/README.md). A network too large to keep is made here from its description: its
   weights are a formula of their names. */
#define DIFFINV_KERNELS
#include "check.h"
#include "../tools/io.h"

#include <stdlib.h>

typedef struct network {
    const char *name, *mult, *resample;
    int add, blocks, head_channels, heads, classes, out;
    uint32_t crc;               /* of all weights as float32, in the file's order */
    const char *file;           /* or NULL: made here */
} network;
static const network networks[] = {
    { "res_legacy", "1,1", "res", 0, 1, 16, 0, 0, 6, 0x5c358e22, NULL },
    { "res_wide", "1,2", "res", 0, 1, 16, 0, 0, 6, 0x8d1c8212, NULL },
    { "res_new", "1,1", "res", 0, 2, 16, 0, 0, 3, 0xee94e1a2, NULL },
    { "conv_add", "1,1,2", "conv,conv", 1, 1, 0, 2, 0, 3, 0x90d327b5, NULL },
    { "pool_label", "1,1", "pool", 0, 1, 0, 2, 5, 3, 0x30890d13, NULL },
    { "pool_label", "1,1", "pool", 0, 1, 0, 2, 5, 3, 0, "tests/vectors/pool_label.unw" },
    { "rect", "1,1", "res", 0, 1, 16, 0, 0, 6, 0, "tests/vectors/dps.unw" } };
enum { NETWORKS = sizeof networks / sizeof *networks };

typedef struct bytes {
    char *p;
    size_t size;
} bytes;

/* ---- Making a weight file (weights/README.md) -------------------------------------------- */

enum { BASE = 32, EMB = 128, TENSORS = 256, META = 2048, ALIGN = 64 };
typedef struct maker {
    struct tensor { char name[40]; int rank, dim[4]; size_t off, bytes; } tensor[TENSORS];
    int count;
    char data[4 << 20];
    size_t size;
    uint32_t crc;
} maker;

static uint32_t crc32(uint32_t crc, const void *p, size_t n)
{
    const unsigned char *b = p;
    for (crc = ~crc; n; n--, b++) {
        crc ^= *b;
        for (int k = 0; k < 8; k++)
            crc = crc & 1 ? 0xEDB88320u ^ crc >> 1 : crc >> 1;
    }
    return ~crc;
}

static void put(char *p, uint64_t v, int count)
{
    for (int i = 0; i < count; i++)
        p[i] = (char)(v >> 8 * i & 255);
}

/* Appends a tensor with its values by formula: offset + integer in -K..K, times 2^-s. */
static void tensor(maker *m, const char *prefix, const char *leaf, int rank, int a, int b,
                   int c)
{
    struct tensor *t = &m->tensor[m->count++];
    int dim[4] = { a, b, c, c }, s = 10, k = leaf[1] == 'w' ? 1024 : 256;
    double fan = 1;
    size_t n = (size_t)a;
    snprintf(t->name, sizeof t->name, "%s%s", prefix, leaf);
    t->rank = rank;
    for (int i = 0; i < 4; i++) {
        t->dim[i] = i < rank ? dim[i] : 1;
        fan *= i ? t->dim[i] : 1;
    }
    n *= (size_t)fan;
    if (leaf[1] == 'w' && strcmp(prefix, "label") != 0)
        for (s = 30; (k = (int)floor(ldexp(sqrt(3 / fan), s))) > 2047;)
            s--;
    t->off = m->size;
    t->bytes = 4 * n;
    m->size += (t->bytes + ALIGN - 1) / ALIGN * ALIGN;
    for (uint32_t i = 0, seed = crc32(0, t->name, strlen(t->name)); i < n; i++) {
        union { float f; uint32_t u; } v;
        uint32_t h = seed + i * 0x9E3779B9u;
        h = (h ^ h >> 16) * 0x85EBCA6Bu;
        h = (h ^ h >> 13) * 0xC2B2AE35u;
        h ^= h >> 16;
        int u = (int)((uint64_t)h * (2 * (unsigned)k + 1) >> 32) - k;
        v.f = (float)((leaf[1] == 'g') + ldexp(u, -s));
        put(m->data + t->off + 4 * (size_t)i, v.u, 4);
    }
    m->crc = crc32(m->crc, m->data + t->off, t->bytes);
}

/* rank 4: a convolution of size k; rank 2: a matrix. */
static void layer(maker *m, const char *prefix, const char *part, int rank, int oc, int ic,
                  int k)
{
    char name[40];
    snprintf(name, sizeof name, "%s%s", prefix, part);
    tensor(m, name, ".w", rank, oc, ic, k);
    tensor(m, name, ".b", 1, oc, 1, 1);
}

static void norm(maker *m, const char *prefix, const char *part, int c)
{
    char name[40];
    snprintf(name, sizeof name, "%s%s", prefix, part);
    tensor(m, name, ".g", 1, c, 1, 1);
    tensor(m, name, ".b", 1, c, 1, 1);
}

static void res(maker *m, const network *net, const char *prefix, int in, int out)
{
    norm(m, prefix, ".n1", in);
    layer(m, prefix, ".c1", 4, out, in, 3);
    layer(m, prefix, ".emb", 2, net->add ? out : 2 * out, EMB, 1);
    norm(m, prefix, ".n2", out);
    layer(m, prefix, ".c2", 4, out, out, 3);
    if (in != out)
        layer(m, prefix, ".skip", 4, out, in, 1);
}

static void attention(maker *m, const char *prefix, int c)
{
    norm(m, prefix, ".n", c);
    layer(m, prefix, ".qkv", 2, 3 * c, c, 1);
    layer(m, prefix, ".proj", 2, c, c, 1);
}

/* The way by its first letter: res, conv or pool, which has no weights. */
static void resample(maker *m, const network *net, const char *place, int c)
{
    char p[40];
    snprintf(p, sizeof p, "%s%s", place, net->resample[0] == 'r' ? ".res" : "");
    if (net->resample[0] == 'r')
        res(m, net, p, c, c);
    else if (net->resample[0] == 'c')
        layer(m, p, "", 4, c, c, 3);
}

/* All tensors in order of execution; attention on the coarsest level and in the middle. */
static void tensors(maker *m, const network *net)
{
    int levels = (int)(strlen(net->mult) + 1) / 2, c = BASE, skip[32], skips = 0, k = 0;
    char p[40];
    layer(m, "temb.0", "", 2, EMB, BASE, 1);
    layer(m, "temb.1", "", 2, EMB, EMB, 1);
    if (net->classes)
        tensor(m, "label", ".w", 2, net->classes, EMB, 1);
    layer(m, "stem", "", 4, BASE, 3, 3);
    skip[skips++] = c;
    for (int l = 0; l < levels; l++) {
        int width = BASE * (net->mult[2 * l] - '0');
        for (int i = 0; i < net->blocks; i++, k++) {
            snprintf(p, sizeof p, "enc.%d.res", k);
            res(m, net, p, c, width);
            skip[skips++] = c = width;
            snprintf(p, sizeof p, "enc.%d.att", k);
            if (l == levels - 1)
                attention(m, p, c);
        }
        if (l < levels - 1) {
            snprintf(p, sizeof p, "enc.%d.down", k++);
            resample(m, net, p, c);
            skip[skips++] = c;
        }
    }
    res(m, net, "mid.0.res", c, c);
    attention(m, "mid.1.att", c);
    res(m, net, "mid.2.res", c, c);
    k = 0;
    for (int l = levels - 1; l >= 0; l--)
        for (int i = 0; i <= net->blocks; i++, k++) {
            int width = BASE * (net->mult[2 * l] - '0');
            snprintf(p, sizeof p, "dec.%d.res", k);
            res(m, net, p, c + skip[--skips], width);
            c = width;
            snprintf(p, sizeof p, "dec.%d.att", k);
            if (l == levels - 1)
                attention(m, p, c);
            snprintf(p, sizeof p, "dec.%d.up", k);
            if (l > 0 && i == net->blocks)
                resample(m, net, p, c);
        }
    norm(m, "out", ".n", c);
    layer(m, "out", ".c", 4, net->out, c, 3);
}

/* Keys in ascending order. */
static size_t metadata(const network *net, char *text)
{
    static const char *const everywhere[] = { "none,all", "none,none,all" };
    const char *where_attn = everywhere[strlen(net->mult) / 2 - 1];
    return (size_t)snprintf(text, META,
        "data.channels=rgb\ndata.max=1\ndata.min=-1\ndata.scale=1\ndata.shift=0\n"
        "format.kind=unet2d\nnet.attn.dec=%s\nnet.attn.enc=%s\n%s=%d\nnet.attn.mid=1\n"
        "net.attn.mid_norm=1\nnet.base=%d\nnet.blocks=%d\nnet.classes=%d\nnet.cond=%s\n"
        "net.down_pad=sym\nnet.emb=%d\nnet.image_size=16\nnet.in=3\nnet.mult=%s\n"
        "net.norm.eps=0.00001\nnet.norm.groups=32\nnet.norm.min_channels=1\nnet.out=%d\n"
        "net.resample=%s\nnet.resample_skip_conv=0\nnet.residual_scale=1\nnet.stem=%d\n"
        "net.temb.freq_shift=0\nnet.temb.max_period=10000\nnet.temb.order=cos_sin\n"
        "pred.channels=3\npred.kind=eps\npred.var=%s\nsched.beta_end=0.02\n"
        "sched.beta_start=0.0001\nsched.kind=linear\nsched.steps=1000\nt.scale=1\n",
        where_attn, where_attn, net->heads ? "net.attn.heads" : "net.attn.head_channels",
        net->heads ? net->heads : net->head_channels, BASE, net->blocks, net->classes,
        net->add ? "add" : "scale_shift", EMB, net->mult, net->out, net->resample, BASE,
        net->out == 6 ? "learned_range" : "fixed_large");
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

static bytes make_network(const network *net)
{
    static maker m;
    char meta[META];
    memset(&m, 0, sizeof m);
    tensors(&m, net);
    EQUAL(m.crc, net->crc);
    qsort(m.tensor, (size_t)m.count, sizeof *m.tensor, by_name);
    size_t meta_len = metadata(net, meta), names = 0;
    size_t index = (128 + meta_len + ALIGN - 1) / ALIGN * ALIGN;
    size_t at = index + 64 * (size_t)m.count; /* of the names */
    for (int i = 0; i < m.count; i++)
        names += strlen(m.tensor[i].name);
    size_t data = (at + names + ALIGN - 1) / ALIGN * ALIGN;
    bytes f = { calloc(data + m.size, 1), data + m.size };
    uint64_t head[8] = { 128, meta_len, index, at - index, at, names, data, m.size };
    memcpy(f.p, "\x89UNW\r\n\x1a\n", 8);
    put(f.p + 8, 1, 4);
    put(f.p + 12, 128, 4);
    put(f.p + 16, f.size, 8);
    for (int i = 0; i < 8; i++)
        put(f.p + 24 + 8 * i, head[i], 8);
    put(f.p + 88, (uint64_t)m.count, 4);
    put(f.p + 92, ALIGN, 4);
    memcpy(f.p + 128, meta, meta_len);
    memcpy(f.p + data, m.data, m.size);
    size_t name = 0;
    for (int i = 0; i < m.count; i++) {
        struct tensor *t = &m.tensor[i];
        char *e = f.p + index + 64 * (size_t)i;
        put(e, data + t->off, 8);
        put(e + 8, t->bytes, 8);
        put(e + 16, name, 4);
        put(e + 20, strlen(t->name), 2);
        put(e + 22, 1, 1); /* float32 */
        put(e + 23, (uint64_t)t->rank, 1);
        for (int k = 0; k < 4; k++)
            put(e + 24 + 8 * k, (uint64_t)t->dim[k], 8);
        put(e + 56, crc32(0, m.data + t->off, t->bytes), 4);
        memcpy(f.p + at + name, t->name, strlen(t->name));
        name += strlen(t->name);
    }
    put(f.p + 96, crc32(0, f.p, data), 4);
    return f;
}

/* ---- Running it -------------------------------------------------------------------------- */

static int read_bytes(void *user, uint64_t offset, void *dst, size_t n)
{
    memcpy(dst, (const char *)user + offset, n);
    return 0;
}

/* tests/vectors/NAME.PART.npy, which must be there. */
static io_array vector(const char *name, const char *part)
{
    char path[128], err[256] = "";
    io_array a;
    snprintf(path, sizeof path, "tests/vectors/%s.%s.npy", name, part);
    if (!CHECK(io_read(&a, path, err, sizeof err) == 0))
        printf("     %s\n", err);
    return a;
}

typedef struct pass { /* one network's inputs and reference */
    size_t n, in, out, nx, ny;  /* images; elements of one input, of one output; of all */
    int h, w, labels[8];
    double t[8];
    const int *label;
    io_array x, y, gy, gx;
} pass;

static int load_pass(const network *net, pass *p)
{
    memset(p, 0, sizeof *p);
    p->x = vector(net->name, "x");
    p->y = vector(net->name, "y");
    p->gy = vector(net->name, "gy");
    p->gx = vector(net->name, "gx");
    io_array t = vector(net->name, "t");
    p->n = p->x.n;
    p->h = (int)p->x.h;
    p->w = (int)p->x.w;
    p->in = 3 * p->x.h * p->x.w;
    p->out = (size_t)net->out * p->x.h * p->x.w;
    p->nx = p->n * p->in;
    p->ny = p->n * p->out;
    int ok = p->x.v && p->y.v && p->gy.v && p->gx.v && t.v && p->n <= 8 && t.w == p->n
             && p->x.c == 3 && p->y.n * p->y.c * p->y.h * p->y.w == p->ny;
    for (size_t i = 0; ok && i < p->n; i++)
        p->t[i] = t.v[i];
    if (net->classes) {
        io_array label = vector(net->name, "label");
        for (size_t i = 0; ok && label.v && i < p->n; i++)
            p->labels[i] = (int)label.v[i];
        p->label = p->labels;
        io_free(&label);
    }
    io_free(&t);
    return CHECK(ok);
}

static void free_pass(pass *p)
{
    io_free(&p->x);
    io_free(&p->y);
    io_free(&p->gy);
    io_free(&p->gx);
}

static double far_from(const di_real *got, const io_array *want)
{
    size_t n = want->n * want->c * want->h * want->w;
    double *w = malloc(n * sizeof *w);
    for (size_t i = 0; i < n; i++)
        w[i] = want->v[i];
    double d = worst(got, w, n);
    free(w);
    return d;
}

/* Bounds: the original program in float32 is off by up to 2.7e-6 (the README's table); the fast
   class transforms its inputs with weights up to 8 and is off by up to 4.2e-6. */
static void compare(const network *net, const pass *p, const di_real *y, const di_real *gx,
                    int fast)
{
    char what[80];
    double dy = far_from(y, &p->y), dgx = far_from(gx, &p->gx);
    NEAR(dy, 0, BOUND(1e-5, 1e-11));
    NEAR(dgx, 0, BOUND(2e-5, 1e-11));
    snprintf(what, sizeof what, "%s%s%s, output", net->name, net->file ? " (file)" : "",
             fast ? ", fast" : "");
    figure(what, dy);
    snprintf(what, sizeof what, "%s%s%s, gradient", net->name, net->file ? " (file)" : "",
             fast ? ", fast" : "");
    figure(what, dgx);
}

static di_net *open_net(di_ctx **ctx, const bytes *file, int isa, int fast)
{
    di_net *net = NULL;
    EQUAL(di_open(ctx, NULL, NULL), DI_OK);
    EQUAL(di_set_isa(*ctx, di_isa_list(isa)), DI_OK);
    di_set_fast(*ctx, fast);
    if (!CHECK(di_net_open(*ctx, read_bytes, file->p, file->size, 0, &net) == DI_OK))
        printf("     %s\n", di_error(*ctx));
    return net;
}

/* One class on every instruction set, 1 and 2 threads: the reference's numbers, one set of
   bits. */
static void test_class(const network *d, const bytes *file, const pass *p, int fast)
{
    size_t size = (p->nx + p->ny) * sizeof(di_real);
    di_real *y = malloc(2 * size), *gx = y + p->ny, *first = gx + p->nx;
    for (int isa = 0; di_isa_list(isa); isa++) {
        di_ctx *ctx;
        di_net *net = open_net(&ctx, file, isa, fast);
        static const int threads[3] = { 1, 2, 1 };
        for (int k = 0; net && k < 3; k++) {
            in_case("%s%s on %s, %d threads", d->name, fast ? ", fast" : "", di_isa_list(isa),
                    threads[k]);
            di_set_threads(ctx, threads[k]);
            if (ctx->threads != threads[k])
                break; /* no OpenMP */
            memset(y, 0xff, size);
            EQUAL(di_net_run(net, p->n, p->h, p->w, p->t, p->label, p->x.v, y, p->gy.v, gx),
                  DI_OK);
            SAYS(di_error(ctx), "");
            if (isa == 0 && k == 0) {
                compare(d, p, y, gx, fast);
                memcpy(first, y, size);
            } else {
                CHECK(memcmp(first, y, size) == 0);
            }
        }
        di_close(ctx);
    }
    free(y);
}

/* Images one by one, without a derivative, and after a pass of another size: the same bits. */
static void test_batches(const network *d, const bytes *file, const pass *p)
{
    size_t size = (p->nx + p->ny) * sizeof(di_real);
    di_real *y = malloc(2 * size), *gx = y + p->ny, *one = gx + p->nx, *gone = one + p->ny;
    di_ctx *ctx;
    di_net *net = open_net(&ctx, file, 0, 0);
    in_case("%s, batches", d->name);
    for (int go = 0; net && go < 1; go++) {
        size_t plan = di_net_bytes(net, p->n, p->h, p->w, 1);
        CHECK(plan > 0 && plan > di_net_bytes(net, p->n, p->h, p->w, 0));
        EQUAL(di_net_run(net, p->n, p->h, p->w, p->t, p->label, p->x.v, y, p->gy.v, gx), DI_OK);
        EQUAL(di_net_run(net, p->n, p->h, p->w, p->t, p->label, p->x.v, one, NULL, NULL),
              DI_OK);
        CHECK(same(y, one, p->ny));
        EQUAL(di_net_run(net, 1, 8, 8, p->t, p->label, p->x.v, one, NULL, NULL), DI_OK);
        for (size_t i = 0; i < p->n; i++)
            EQUAL(di_net_run(net, 1, p->h, p->w, p->t + i, p->label ? p->label + i : NULL,
                             p->x.v + i * p->in, one + i * p->out, p->gy.v + i * p->out,
                             gone + i * p->in), DI_OK);
        CHECK(same(y, one, p->ny));
        CHECK(same(gx, gone, p->nx));
    }
    di_close(ctx);
    free(y);
}

/* As a prior: eps and v are the halves of the output, its VJP the gradient of eps alone. */
static void test_prior(const network *d, const bytes *file, const pass *p)
{
    size_t size = (p->nx + p->ny) * sizeof(di_real);
    di_real *y = malloc(2 * size), *gx = y + p->ny, *gy = gx + p->nx, *got = gy + p->ny;
    di_real *eps = malloc(3 * p->nx * sizeof *eps), *v = eps + p->nx, *geps = v + p->nx;
    di_ctx *ctx;
    di_prior *prior = NULL;
    di_net *net = open_net(&ctx, file, 0, 0);
    in_case("%s as a prior", d->name);
    for (size_t i = 0; i < p->ny; i++)
        gy[i] = i % p->out < p->in ? p->gy.v[i] : 0;
    for (size_t i = 0; i < p->nx; i++)
        geps[i] = p->gy.v[i / p->in * p->out + i % p->in];
    if (net && CHECK(di_prior_net(net, p->h, p->w, &prior) == DI_OK)) {
        prior->label = p->label;
        EQUAL(prior->variance, d->out == 6 ? DI_VAR_LEARNED_RANGE : DI_VAR_FIXED_LARGE);
        EQUAL(prior->steps, 1000);
        NEAR(prior->beta[0], 1e-4, 1e-18);
        NEAR(prior->beta[999], 0.02, 1e-16);
        EQUAL(di_net_run(net, p->n, p->h, p->w, p->t, p->label, p->x.v, y, gy, gx), DI_OK);
        EQUAL(prior->eval(prior, p->n, p->t, p->x.v, eps, d->out == 6 ? v : NULL, 1), DI_OK);
        EQUAL(prior->vjp(prior, 1, geps, got), DI_OK);
        for (size_t i = 0; i < p->n; i++) {
            CHECK(same(eps + i * p->in, y + i * p->out, p->in));
            CHECK(d->out == 3 || same(v + i * p->in, y + i * p->out + p->in, p->in));
        }
        CHECK(same(got, gx, p->nx));
        /* a pass and the records and headers of its tape: 32 + 16 KiB of tables, one or two
           chunks of 40 and 64 KiB each */
        size_t one = di_net_bytes(net, p->n, p->h, p->w, 1), all = prior->bytes(prior, p->n, 1);
        CHECK(all > one && all < one + (1 << 18));
    }
    di_close(ctx);
    free(y);
    free(eps);
}

/* Every plan of memory, in a batch of more images than go through the network together: the
   bits of the images one by one, in less memory from plan to plan. */
static void test_plans(const network *d, const bytes *file, const pass *p, int fast)
{
    size_t n = 16384 / ((size_t)p->h * p->w) + 2, px = n * p->in, py = n * p->out;
    di_real *all = malloc((5 * px + 2 * py) * sizeof *all), *x = all, *gx = x + px;
    di_real *one = gx + px, *got = one + px, *other = got + px, *y = other + px, *gy = y + py;
    double *t = malloc(n * sizeof *t);
    size_t before = 0;
    di_ctx *ctx;
    di_net *net = open_net(&ctx, file, 0, fast);
    di_prior *prior;
    for (size_t i = 0; i < n; i++) {
        memcpy(x + i * p->in, p->x.v + i % p->n * p->in, p->in * sizeof *x);
        memcpy(gy + i * p->out, p->gy.v + i % p->n * p->out, p->out * sizeof *x);
        t[i] = p->t[i % p->n] + (double)i;
    }
    EQUAL(di_prior_net(net, p->h, p->w, &prior), DI_OK);
    for (size_t i = 0; i < n; i++)
        EQUAL(di_net_run(net, 1, p->h, p->w, t + i, NULL, x + i * p->in, y + i * p->out,
                         gy + i * p->out, one + i * p->in), DI_OK);
    di_real *first = malloc(3 * px * sizeof *first), *second = first + px, *geps = second + px;
    for (size_t i = 0; i < px; i++)
        geps[i] = gy[i / p->in * p->out + i % p->in];
    for (int plan = 0; plan < DI_KEEP_PLANS; plan++) {
        in_case("%s%s, plan %d", d->name, fast ? ", fast" : "", plan);
        di_net_keep(net, plan);
        size_t size = di_net_bytes(net, n, p->h, p->w, 1);
        EQUAL(di_net_run(net, n, p->h, p->w, t, NULL, x, y, gy, gx), DI_OK);
        CHECK(same(gx, one, px));
        if (plan == DI_KEEP_BLOCKS)
            CHECK(size < before);
        before = plan == DI_KEEP_ALL ? size : before;
        /* two passes kept at once and one that is not; their derivatives backwards */
        EQUAL(prior->eval(prior, n, t, x, got, NULL, 1), DI_OK);
        EQUAL(prior->eval(prior, n, t, gx, other, NULL, 2), DI_OK);
        EQUAL(prior->eval(prior, 1, t, x, other, NULL, 0), DI_OK);
        CHECK(same(other, got, p->in));
        EQUAL(prior->vjp(prior, 2, geps, other), DI_OK);
        EQUAL(prior->vjp(prior, 1, geps, got), DI_OK);
        if (plan == DI_KEEP_ALL) {
            memcpy(first, got, px * sizeof *got);
            memcpy(second, other, px * sizeof *other);
        }
        CHECK(same(got, first, px));
        CHECK(same(other, second, px));
        EQUAL(prior->vjp(prior, 1, geps, got), DI_EUSAGE);
        SAYS(di_error(ctx), "must follow an eval");
        di_clear(ctx);
        if (plan == DI_KEEP_STEPS)
            CHECK(prior->bytes(prior, n, 3) < 2 * di_net_bytes(net, n, p->h, p->w, 1));
    }
    di_close(ctx);
    free(all);
    free(first);
    free(t);
}

/* What a call refuses, and the words it says. */
static void test_refusals(const network *d, const bytes *file, const pass *p)
{
    di_ctx *ctx;
    di_prior *prior;
    di_net *net = open_net(&ctx, file, 0, 0);
    di_real *y = malloc(p->ny * sizeof *y);
    int label[8] = { 0, 1 }, bad[8] = { 5, 0 };
    double t[8] = { NAN, 0 };
    in_case("%s, refusals", d->name);
    EQUAL(di_net_run(net, p->n, p->h + 1, p->w, p->t, p->label, p->x.v, y, NULL, NULL),
          DI_EUSAGE);
    SAYS(di_error(ctx), "multiples of 2");
    di_clear(ctx);
    EQUAL(di_net_run(net, p->n, p->h, p->w, p->t, d->classes ? NULL : label, p->x.v, y, NULL,
                     NULL), DI_EUSAGE);
    SAYS(di_error(ctx), d->classes ? "needs a class label" : "takes no class label");
    di_clear(ctx);
    if (d->classes) {
        EQUAL(di_net_run(net, p->n, p->h, p->w, p->t, bad, p->x.v, y, NULL, NULL), DI_EUSAGE);
        SAYS(di_error(ctx), "class label 5: 0 to 4");
        di_clear(ctx);
    }
    EQUAL(di_net_run(net, p->n, p->h, p->w, t, p->label, p->x.v, y, NULL, NULL), DI_EUSAGE);
    SAYS(di_error(ctx), "out of range");
    di_clear(ctx);
    EQUAL(di_net_bytes(net, 0, p->h, p->w, 0), 0);
    SAYS(di_error(ctx), "a batch of 0");
    di_clear(ctx);
    EQUAL(di_prior_net(net, 7, 8, &prior), DI_EUSAGE);
    CHECK(prior == NULL);
    di_clear(ctx);
    di_net_close(net);
    EQUAL(di_net_open(ctx, read_bytes, file->p, file->size, DI_NET_HEAD, &net), DI_OK);
    EQUAL(di_net_run(net, p->n, p->h, p->w, p->t, p->label, p->x.v, y, NULL, NULL), DI_EUSAGE);
    SAYS(di_error(ctx), "head-only");
    EQUAL(di_net_run(net, p->n, p->h, p->w, p->t, p->label, p->x.v, y, NULL, NULL), DI_EUSAGE);
    free(y);
    di_close(ctx);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    for (int i = 0; i < NETWORKS; i++) {
        const network *d = &networks[i];
        bytes file = { NULL, 0 };
        pass p;
        char err[256] = "";
        in_case("%s", d->file ? d->file : d->name);
        if (!d->file)
            file = make_network(d);
        else if (io_read_text(d->file, &file.p, &file.size, 1 << 24, err, sizeof err))
            CHECK(!"a weight file of tests/vectors");
        if (load_pass(d, &p) && file.p) {
            test_class(d, &file, &p, 0);
            test_class(d, &file, &p, 1);
            if (p.h == 16 && !d->file)
                test_prior(d, &file, &p);
            if (p.h == 32) {
                test_plans(d, &file, &p, 0);
                test_plans(d, &file, &p, 1);
            }
            if (p.h == 16 && d->file) {
                test_batches(d, &file, &p);
                test_refusals(d, &file, &p);
            }
        }
        free_pass(&p);
        free(file.p);
    }
    return finish();
}
