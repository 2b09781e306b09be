/* selftest.c - whether this installation computes the right bits */
#define _XOPEN_SOURCE 700
#include "cmd.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ==== A small network from a formula =======================================================

   Two levels, attention in the middle, resampling by convolution: 85 k weights, written as a
   weight file into memory and read back as any other. */

static const char META[] =
    "data.channels=rgb\ndata.max=1\ndata.min=-1\ndata.scale=1\ndata.shift=0\n"
    "format.kind=unet2d\nnet.attn.dec=none,none\nnet.attn.enc=none,none\n"
    "net.attn.head_channels=16\nnet.attn.mid=1\nnet.attn.mid_norm=1\nnet.base=32\n"
    "net.blocks=1\nnet.classes=0\nnet.cond=scale_shift\nnet.down_pad=sym\nnet.emb=64\n"
    "net.image_size=16\nnet.in=3\nnet.mult=1,1\nnet.norm.eps=0.00001\nnet.norm.groups=8\n"
    "net.norm.min_channels=1\nnet.out=3\nnet.resample=conv\nnet.resample_skip_conv=0\n"
    "net.residual_scale=1\nnet.stem=32\nnet.temb.freq_shift=0\nnet.temb.max_period=10000\n"
    "net.temb.order=cos_sin\npred.channels=3\npred.kind=eps\npred.var=none\n"
    "sched.beta_end=0.02\nsched.beta_start=0.0001\nsched.kind=linear\nsched.steps=1000\n"
    "t.scale=1\n";

enum { HEAD = 128, ENTRY = 64, NAMES_SIZE = 20, MOST_TENSORS = 128, ALIGN = 64 };
enum { C = 32, E = 64 };

typedef struct tensor {
    char name[NAMES_SIZE];
    int dim[4], rank;
    size_t count;
    int kind;           /* of its values: 0 weights, 1 gains near 1, 2 offsets near 0 */
} tensor;

typedef struct tiny {
    tensor t[MOST_TENSORS];
    int n;
} tiny;

/* Kept in the order of names, which is the index's. */
static void add(tiny *net, const char *name, const char *leaf, int rank, const int dim[4])
{
    int kind = !strcmp(leaf, ".g") ? 1 : !strcmp(leaf, ".b") ? 2 : 0;
    tensor t = {"", {1, 1, 1, 1}, rank, 1, kind};
    int at = net->n++;
    snprintf(t.name, sizeof t.name, "%s%s", name, leaf);
    for (int i = 0; i < rank; i++) {
        t.dim[i] = dim[i];
        t.count *= (size_t)dim[i];
    }
    for (; at > 0 && strcmp(net->t[at - 1].name, t.name) > 0; at--)
        net->t[at] = net->t[at - 1];
    net->t[at] = t;
}

/* k = 0: a matrix. */
static void layer(tiny *net, const char *name, int oc, int ic, int k)
{
    const int dim[4] = {oc, ic, k, k};
    add(net, name, ".w", k ? 4 : 2, dim);
    add(net, name, ".b", 1, dim);
}

static void norm(tiny *net, const char *name, int c)
{
    const int dim[4] = {c, 1, 1, 1};
    add(net, name, ".g", 1, dim);
    add(net, name, ".b", 1, dim);
}

static void block(tiny *net, const char *place, int in)
{
    char name[NAMES_SIZE];
    const char *const part[] = {"n1", "c1", "emb", "n2", "c2", "skip"};
    for (int i = 0; i < (in == C ? 5 : 6); i++) {
        snprintf(name, sizeof name, "%s.res.%s", place, part[i]);
        if (part[i][0] == 'n')
            norm(net, name, i ? C : in);
        else
            layer(net, name, i == 2 ? 2 * C : C, i == 2 ? E : i == 4 ? C : in,
                  i == 2 ? 0 : i == 5 ? 1 : 3);
    }
}

static void describe(tiny *net)
{
    static const char *const narrow[] = {"enc.0", "enc.2", "mid.0", "mid.2"};
    static const char *const wide[] = {"dec.0", "dec.1", "dec.2", "dec.3"};
    net->n = 0;
    layer(net, "temb.0", E, C, 0);
    layer(net, "temb.1", E, E, 0);
    layer(net, "stem", C, 3, 3);
    for (int i = 0; i < 4; i++) {
        block(net, narrow[i], C);
        block(net, wide[i], 2 * C);
    }
    layer(net, "enc.1.down", C, C, 3);
    layer(net, "dec.1.up", C, C, 3);
    norm(net, "mid.1.att.n", C);
    layer(net, "mid.1.att.qkv", 3 * C, C, 0);
    layer(net, "mid.1.att.proj", C, C, 0);
    norm(net, "out.n", C);
    layer(net, "out.c", 3, C, 3);
}

static void put(unsigned char *p, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        p[i] = (unsigned char)(v >> 8 * i);
}

/* Random words of the library's own generator, 24 bits of each: exact in float32. */
static void fill(unsigned char *p, const tensor *t, int number)
{
    size_t fan = 1, inputs = t->count / (size_t)t->dim[0];
    while (fan * fan < inputs)
        fan *= 2;
    for (size_t i = 0; i < t->count; i++) {
        float u = (float)(di_bits(i, 1, DI_STREAM_INIT, (uint64_t)number, 0) >> 8) / 8388608 - 1;
        float v = t->kind == 0 ? u / (float)fan : t->kind == 1 ? 1 + u / 8 : u / 16;
        uint32_t bits;
        memcpy(&bits, &v, sizeof bits);
        put(p + 4 * i, bits, 4);
    }
}

typedef struct file {
    unsigned char *bytes;
    size_t size;
} file;

/* weights/README.md says what stands where. */
static int write_file(const tiny *net, file *f)
{
    size_t meta = sizeof META - 1, index = (HEAD + meta + 7) / 8 * 8;
    size_t names = index + ENTRY * (size_t)net->n, named = 0, data = 0;
    for (int i = 0; i < net->n; i++)
        named += strlen(net->t[i].name);
    size_t from = (names + named + ALIGN - 1) / ALIGN * ALIGN;
    for (int i = 0; i < net->n; i++)
        data += (4 * net->t[i].count + ALIGN - 1) / ALIGN * ALIGN;
    unsigned char *p = f->bytes = calloc(from + data, 1);
    if (!p)
        return 1;
    f->size = from + data;
    memcpy(p, "\211UNW\r\n\032\n", 8);
    put(p + 8, 1, 4);
    put(p + 12, HEAD, 4);
    uint64_t place[] = {f->size, HEAD, meta, index, ENTRY * (uint64_t)net->n, names, named, from,
                        data};
    for (int i = 0; i < 9; i++)
        put(p + 16 + 8 * i, place[i], 8);
    put(p + 88, (uint64_t)net->n, 4);
    put(p + 92, ALIGN, 4);
    memcpy(p + HEAD, META, meta);
    size_t at = from, name = 0;
    for (int i = 0; i < net->n; i++) {
        const tensor *t = &net->t[i];
        unsigned char *e = p + index + ENTRY * (size_t)i;
        size_t len = strlen(t->name);
        fill(p + at, t, i);
        put(e, at, 8);
        put(e + 8, 4 * t->count, 8);
        put(e + 16, name, 4);
        put(e + 20, len, 2);
        e[22] = 1;
        e[23] = (unsigned char)t->rank;
        for (int k = 0; k < 4; k++)
            put(e + 24 + 8 * k, (uint64_t)t->dim[k], 8);
        put(e + 56, io_crc32(0, p + at, 4 * t->count), 4);
        memcpy(p + names + name, t->name, len);
        name += len;
        at += (4 * t->count + ALIGN - 1) / ALIGN * ALIGN;
    }
    put(p + 96, io_crc32(0, p, from), 4);
    return 0;
}

static int read_file(void *user, uint64_t at, void *dst, size_t n)
{
    const file *f = user;
    if (at > f->size || n > f->size - (size_t)at)
        return 1;
    memcpy(dst, f->bytes + at, n);
    return 0;
}

/* ==== What it must compute =================================================================

   A number for each piece of work: FNV-1a, 64 bits, over the results as little-endian words. It
   is the same for every compiler, instruction set and number of threads; the two scalar types
   and the two numeric classes have their own. */

enum { SIDE = 16, PIXELS = 3 * SIDE * SIDE, WORKS = 7 };
static const struct work {
    const char *name, *set[2][2];
    uint64_t want[2];   /* exact, fast */
} works[WORKS] = {
#ifdef DI_DOUBLE
#define WANT(f0, f1, d0, d1) {d0, d1}
#else
#define WANT(f0, f1, d0, d1) {f0, f1}
#endif
    {"network", {{NULL, NULL}, {NULL, NULL}},
     WANT(0xee552910cc37e11eU, 0x4954de5da0b11018U,
          0x35b28fca2f5ebbaeU, 0xccef29b3143d347bU)},
    {"ddim", {{"steps", "4"}, {NULL, NULL}},
     WANT(0xf2c423a1ba1231e3U, 0xdac32e8ce9aaebd6U,
          0xa2d0a1a1f123832cU, 0xf09a2bd3a94ea7b5U)},
    {"dps", {{"steps", "4"}, {NULL, NULL}},
     WANT(0xaaf900ae5f766636U, 0x4a44963f1b3385f9U,
          0x348a7248ad37cd41U, 0xdeeb49ad7fef6183U)},
    {"ddnm", {{"steps", "4"}, {NULL, NULL}},
     WANT(0xf7f475d7f017b1bcU, 0x072baaa927c7bf99U,
          0x5576c5043dcba426U, 0xa9df3df8d1b92078U)},
    {"dps_mo", {{"steps", "3"}, {"n", "3"}},
     WANT(0xad04e1037c116e3cU, 0x3b91a2f555f66d8dU,
          0x085b051d96fbe761U, 0x660b11abb92d19b0U)},
    {"reddiff", {{"steps", "4"}, {NULL, NULL}},
     WANT(0x0aed6a9944c209d5U, 0x6d8035a92cb13882U,
          0x229cf934023452aeU, 0x3ea8774be89e905dU)},
    {"cps", {{"steps", "4"}, {"n", "3"}},
     WANT(0x2baf81904395d597U, 0x75d414d8cc32aeabU,
          0x22fddd2b194a3ca3U, 0xde83dbfdbc59ea40U)},
};

static uint64_t hash(uint64_t h, const di_real *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t u = 0;
#ifdef DI_DOUBLE
        memcpy(&u, &v[i], 8);
#else
        uint32_t bits;
        memcpy(&bits, &v[i], 4);
        u = bits;
#endif
        for (size_t k = 0; k < sizeof *v; k++)
            h = (h ^ (u >> 8 * k & 255)) * 0x100000001B3u;
    }
    return h;
}

/* The network forward and its derivative, two images. */
static int run_network(di_ctx *ctx, di_net *net, uint64_t *h)
{
    const double t[2] = {37.25, 999};
    di_real *x = di_new(ctx, 8 * PIXELS, sizeof *x), *y = x + 2 * PIXELS, *gy = y + 2 * PIXELS;
    if (!x)
        return DI_EMEMORY;
    di_normal(x, 2 * PIXELS, 1, DI_STREAM_INIT, 0, 0);
    di_normal(gy, 2 * PIXELS, 1, DI_STREAM_INIT, 0, 1);
    int code = di_net_run(net, 2, SIDE, SIDE, t, NULL, x, y, gy, gy + 2 * PIXELS);
    *h = hash(hash(*h, y, 2 * PIXELS), gy + 2 * PIXELS, 2 * PIXELS);
    di_free(ctx, x);
    return code;
}

static int run_solver(di_ctx *ctx, di_prior *prior, const struct work *k, uint64_t *h)
{
    static const di_real hole[3] = {1, 1, 0};
    di_real x[PIXELS], y[PIXELS], mask[SIDE * SIDE];
    const di_solver *solver = di_solver_find(k->name);
    di_problem *p = NULL;
    di_run *run;
    for (int i = 0; i < SIDE * SIDE; i++)
        mask[i] = hole[i % 7 % 3];
    di_normal(x, PIXELS, 5, DI_STREAM_INIT, 0, 0);
    int code = di_problem_inpaint(ctx, 3, SIDE, SIDE, mask, &p);
    if (!code)
        code = di_apply(p, 1, x, y);
    if (!code)
        code = di_run_open(ctx, solver, prior, solver->needs & DI_NEEDS_PROBLEM ? p : NULL, &run);
    for (int i = 0; !code && i < 2 && k->set[i][0]; i++)
        code = di_run_set(run, k->set[i][0], k->set[i][1]);
    if (!code)
        code = di_run_go(run, y, 3, 0, 1, x);
    *h = hash(*h, x, PIXELS);
    return code;
}

/* ==== The checks ======================================================================== */

typedef struct tally {
    int done, failed;
} tally;

static void say(tally *t, int ok, const char *what, const char *why)
{
    t->done++;
    t->failed += !ok;
    printf("%s\t%s%s%s\n", ok ? "ok" : "FAILED", what, *why ? ": " : "", why);
    fflush(stdout);
}

/* All works under one instruction set, class and number of threads: the names of those that
   came out wrong. */
static int check_bits(const char *isa, int fast, int threads, const file *f, int show, text *why)
{
    di_ctx *ctx = NULL;
    di_net *net;
    di_prior *prior;
    int code = di_open(&ctx, NULL, NULL);
    if (!code)
        code = di_set_isa(ctx, isa);
    if (!code) {
        di_set_threads(ctx, threads);
        di_set_fast(ctx, fast);
        code = di_net_open(ctx, read_file, (void *)f, f->size, 0, &net);
    }
    if (!code)
        code = di_prior_net(net, SIDE, SIDE, &prior);
    for (int i = 0; !code && i < WORKS; i++) {
        uint64_t h = 0xCBF29CE484222325u;
        code = i ? run_solver(ctx, prior, &works[i], &h) : run_network(ctx, net, &h);
        if (!code && h != works[i].want[fast])
            text_add(why, "%s%s", why->n ? ", " : "other bits from ", works[i].name);
        if (show)
            printf("%s\t%s\t%08lx%08lx\n", works[i].name, fast ? "fast" : "exact",
                   (unsigned long)(h >> 32), (unsigned long)(h & 0xffffffffu));
    }
    if (code)
        text_add(why, "%s", ctx && *di_error(ctx) ? di_error(ctx) : "no context");
    di_close(ctx);
    return why->failed;
}

static int check_machine(cmd *c, tally *t, const char *isa, const file *f)
{
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    int all = online > 1 && online <= 1024 ? (int)online : 2;
    for (int k = 0; k < 4; k++) {
        char what[80];
        text why = {NULL, 0, 0, 0};
        int fast = k / 2, threads = k % 2 ? all : 1;
        snprintf(what, sizeof what, "%s, %s, %d thread%s", isa, fast ? "fast" : "exact", threads,
                 threads == 1 ? "" : "s");
        if (check_bits(isa, fast, threads, f, c->verbose && threads == 1, &why)) {
            free(why.s);
            return di_fail(c->ctx, DI_EMEMORY, "no memory for the checks");
        }
        say(t, !why.n, what, why.n ? why.s : "");
        free(why.s);
    }
    return 0;
}

/* The head's checksum covers those of all tensors, which opening the file compares. */
static void check_prior(cmd *c, tally *t)
{
    const unsigned long want = 0x904a0acc;
    char what[1100], why[400] = "";
    weights w;
    if (weights_open(c, "portraits64", 0, &w)) {
        snprintf(why, sizeof why, "%.390s", di_error(c->ctx));
        di_clear(c->ctx);
        say(t, 0, "the prior portraits64", why);
        return;
    }
    if (w.crc != want)
        snprintf(why, sizeof why, "its checksum is %08lx, not %08lx: another file",
                 (unsigned long)w.crc, want);
    snprintf(what, sizeof what, "the prior %s", w.path);
    say(t, w.crc == want, what, why);
    di_net_close(w.net);
}

int verb_selftest(cmd *c)
{
    static tiny net;
    file f = {NULL, 0};
    tally t = {0, 0};
    const char *isa;
    describe(&net);
    if (write_file(&net, &f))
        return di_fail(c->ctx, DI_EMEMORY, "no memory for the small network");
    /* A context opens only if its arithmetic is in order: without fused operations, without
       flushed denormals. */
    say(&t, 1, "arithmetic: rounds each operation, keeps denormals", "");
    int code = 0;
    for (int i = 0; !code && (isa = di_isa_list(i)) != NULL; i++)
        code = check_machine(c, &t, isa, &f);
    free(f.bytes);
    if (code)
        return code;
    check_prior(c, &t);
    if (t.failed) {
        printf("%d of %d checks FAILED\n", t.failed, t.done);
        return di_fail(c->ctx, DI_ENUMERIC, "this installation does not compute what it should: "
                       "build it again with the flags of its Makefile, and run make test");
    }
    printf("%d checks, all ok, %.1f s\n", t.done, seconds() - c->start);
    return 0;
}
