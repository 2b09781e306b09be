/* test_net.c: the network against numbers written by the original PyTorch programs
   (tests/vectors/README.md). A network too large to keep is made here from its description: its
   weights are a formula of their names. */
#define DIFFINV_KERNELS
#include "maker.h"
#include "../tools/io.h"

typedef struct network {
    const char *name;
    const char *set;            /* metadata other than `plain` below: "key=value key=value" */
    uint32_t crc;               /* of all weights as float32, in the file's order */
    const char *file;           /* or NULL: made here */
} network;

/* The metadata, keys ascending; "" stands for a key that is left out. */
static const char *const plain[][2] = {
    { "data.channels", "rgb" }, { "data.max", "1" }, { "data.min", "-1" },
    { "data.scale", "1" }, { "data.shift", "0" }, { "format.kind", "unet2d" },
    { "net.attn.dec", "none,all" }, { "net.attn.enc", "none,all" },
    { "net.attn.head_channels", "" }, { "net.attn.heads", "" }, { "net.attn.mid", "1" },
    { "net.attn.mid_norm", "1" }, { "net.base", "32" }, { "net.blocks", "1" },
    { "net.center", "" }, { "net.classes", "0" }, { "net.cond", "scale_shift" },
    { "net.down_pad", "sym" }, { "net.emb", "128" }, { "net.image_size", "16" },
    { "net.in", "3" }, { "net.label", "" }, { "net.mid_scale", "" }, { "net.mult", "1,1" },
    { "net.norm.eps", "0.00001" }, { "net.norm.groups", "32" },
    { "net.norm.min_channels", "1" }, { "net.out", "3" }, { "net.resample", "res" },
    { "net.resample_skip_conv", "0" }, { "net.residual_scale", "1" }, { "net.stem", "32" },
    { "net.temb.freq_shift", "0" }, { "net.temb.max_period", "10000" },
    { "net.temb.order", "cos_sin" }, { "pred.channels", "3" }, { "pred.kind", "eps" },
    { "pred.var", "fixed_large" }, { "sched.beta_d", "" }, { "sched.beta_end", "0.02" },
    { "sched.beta_min", "" }, { "sched.beta_start", "0.0001" }, { "sched.kind", "linear" },
    { "sched.sigma_data", "" }, { "sched.steps", "1000" }, { "t.scale", "1" } };
enum { KEYS = sizeof plain / sizeof *plain };

#define LEARNED " net.out=6 pred.var=learned_range"
#define NO_BETAS " sched.beta_start= sched.beta_end="
#define VP NO_BETAS " sched.kind=vp sched.beta_d=19.9 sched.beta_min=0.1 pred.var=none"
#define VE NO_BETAS " sched.kind=ve sched.steps= pred.kind=edm_F pred.var=none"
#define EDM NO_BETAS " sched.kind=edm sched.steps= sched.sigma_data=0.5 pred.kind=edm_F" \
            " pred.var=none"
#define IDDPM NO_BETAS " sched.kind=iddpm" LEARNED
#define SONG "net.attn.heads=1 net.cond=add net.norm.eps=0.000001 net.norm.min_channels=4" \
             " net.resample_skip_conv=1 net.residual_scale=0.707106781186548" \
             " net.temb.freq_shift=1 net.temb.order=sin_cos"
#define SONG_3 SONG " net.mult=1,2 net.attn.dec=none,last"
#define DHARIWAL "net.attn.head_channels=64 net.norm.min_channels=4"
#define DHARIWAL_3 DHARIWAL " net.mult=1,4"
#define DDPM "net.attn.heads=1 net.blocks=2 net.cond=add net.down_pad=end net.mult=1,2" \
             " net.resample=conv net.norm.eps=0.000001 net.norm.groups=16" \
             " net.temb.freq_shift=1 net.temb.order=sin_cos pred.var=fixed_small"

static const network networks[] = {
    { "res_legacy", "net.attn.head_channels=16" LEARNED, 0x5c358e22, NULL },
    { "res_wide", "net.attn.head_channels=16 net.mult=1,2" LEARNED, 0x8d1c8212, NULL },
    { "res_new", "net.attn.head_channels=16 net.blocks=2", 0xee94e1a2, NULL },
    { "conv_add", "net.attn.heads=2 net.mult=1,1,2 net.resample=conv,conv net.cond=add"
                  " net.attn.enc=none,none,all net.attn.dec=none,none,all", 0x90d327b5, NULL },
    { "pool_label", "net.attn.heads=2 net.resample=pool net.classes=5", 0x30890d13, NULL },
    { "pool_label", "net.classes=5", 0, "tests/vectors/pool_label.unw" },
    { "rect", "net.out=6", 0, "tests/vectors/dps.unw" },
    { "song", SONG_3 VP, 0x779abc80, NULL },
    { "song_label", SONG " net.mult=2,1 net.attn.enc=all,none net.attn.dec=last,none"
                    " net.classes=5 net.label=time net.in=1 net.out=1 pred.channels=1"
                    " data.channels=gray" EDM, 0x43f114cf, NULL },
    { "dhariwal", DHARIWAL_3 EDM, 0x30d8c505, NULL },
    { "dhariwal_label", DHARIWAL " net.mult=2,2 net.stem=64 net.attn.enc=none,none"
                        " net.attn.dec=none,none net.classes=5 net.in=2 net.out=2"
                        " pred.channels=2 data.channels=complex" EDM, 0x1de50257, NULL },
    { "diff_add", DDPM, 0x56311c91, NULL },
    { "diff_ss", "net.attn.head_channels=16 net.attn.mid_norm=0 net.center=1 net.classes=5"
                 " net.mid_scale=0.707106781186548 net.mult=1,1,2 net.attn.enc=all,none,none"
                 " net.attn.dec=none,all,none net.resample=res,conv net.norm.groups=8"
                 " pred.var=fixed_small", 0x7987ed1c, NULL },
    { "pre_vp", SONG_3 VP, 0x779abc80, NULL },
    { "pre_ve", SONG_3 VE, 0x779abc80, NULL },
    { "pre_edm", DHARIWAL_3 EDM, 0x30d8c505, NULL },
    { "pre_iddpm", DHARIWAL_3 IDDPM, 0xfb80fe42, NULL } };
enum { NETWORKS = sizeof networks / sizeof *networks };

/* A metadata value; "" if the key is left out. The last of several counts. */
static const char *get(const network *net, const char *key)
{
    static char value[4][64];
    static int turn;
    const char *found = NULL;
    size_t len = strlen(key);
    for (const char *p = net->set; p; p = strchr(p, ' ')) {
        p += *p == ' ';
        if (strncmp(p, key, len) == 0 && p[len] == '=')
            found = p + len + 1;
    }
    for (int i = 0; !found && i < KEYS; i++)
        if (strcmp(plain[i][0], key) == 0)
            return plain[i][1];
    CHECK(found != NULL);
    turn = (turn + 1) % 4;
    snprintf(value[turn], sizeof *value, "%.*s", (int)strcspn(found, " "), found);
    return value[turn];
}

static int number(const network *net, const char *key) { return atoi(get(net, key)); }

/* Item i of a list. */
static const char *item(const char *list, int i)
{
    for (; i > 0; i--)
        list = strchr(list, ',') + 1;
    return list;
}

static int is_prior(const network *net) { return strncmp(net->name, "pre_", 4) == 0; }

/* ---- Making a network ------------------------------------------------------------------ */

enum { META = 2048 };

static void norm(maker *m, const char *prefix, const char *part, int c)
{
    char name[40];
    snprintf(name, sizeof name, "%s%s", prefix, part);
    tensor(m, name, ".g", 1, c, 1, 1);
    tensor(m, name, ".b", 1, c, 1, 1);
}

static void res(maker *m, const network *net, const char *prefix, int in, int out, int skip)
{
    int add = get(net, "net.cond")[0] == 'a';
    norm(m, prefix, ".n1", in);
    layer(m, prefix, ".c1", 4, out, in, 3);
    layer(m, prefix, ".emb", 2, add ? out : 2 * out, number(net, "net.emb"), 1);
    norm(m, prefix, ".n2", out);
    layer(m, prefix, ".c2", 4, out, out, 3);
    if (in != out || skip)
        layer(m, prefix, ".skip", 4, out, in, 1);
}

static void attention(maker *m, const char *prefix, int c, int normed)
{
    if (normed)
        norm(m, prefix, ".n", c);
    layer(m, prefix, ".qkv", 2, 3 * c, c, 1);
    layer(m, prefix, ".proj", 2, c, c, 1);
}

/* By residual block, by convolution, or by pooling, which has no weights. */
static void resample(maker *m, const network *net, int level, const char *place, int c)
{
    const char *kind = item(get(net, "net.resample"), level);
    char p[40];
    snprintf(p, sizeof p, "%s%s", place, kind[0] == 'r' ? ".res" : "");
    if (kind[0] == 'r')
        res(m, net, p, c, c, number(net, "net.resample_skip_conv"));
    else if (kind[0] == 'c')
        layer(m, p, "", 4, c, c, 3);
}

static int attends(const network *net, const char *side, int level, int last)
{
    const char *rule = item(get(net, side), level);
    return rule[0] == 'a' || (rule[0] == 'l' && last);
}

static void embedding(maker *m, const network *net)
{
    int base = number(net, "net.base"), emb = number(net, "net.emb");
    int classes = number(net, "net.classes"), early = *get(net, "net.label") != 0;
    if (classes && early) {
        tensor(m, "label", ".w", 2, classes, base, 1);
        tensor(m, "label", ".b", 1, base, 1, 1);
    }
    layer(m, "temb.0", "", 2, emb, base, 1);
    layer(m, "temb.1", "", 2, emb, emb, 1);
    if (classes && !early)
        tensor(m, "label", ".w", 2, classes, emb, 1);
}

/* All tensors in order of execution. */
static void tensors(maker *m, const network *net)
{
    char mult[32]; /* get's values do not last */
    snprintf(mult, sizeof mult, "%s", get(net, "net.mult"));
    int levels = (int)(strlen(mult) + 1) / 2, c = number(net, "net.stem"), skip[32], skips = 0;
    int k = 0, base = number(net, "net.base"), blocks = number(net, "net.blocks");
    char p[40];
    embedding(m, net);
    layer(m, "stem", "", 4, c, number(net, "net.in"), 3);
    skip[skips++] = c;
    for (int l = 0; l < levels; l++) {
        int width = base * atoi(item(mult, l));
        for (int i = 0; i < blocks; i++, k++) {
            snprintf(p, sizeof p, "enc.%d.res", k);
            res(m, net, p, c, width, 0);
            skip[skips++] = c = width;
            snprintf(p, sizeof p, "enc.%d.att", k);
            if (attends(net, "net.attn.enc", l, i == blocks - 1))
                attention(m, p, c, 1);
        }
        if (l < levels - 1) {
            snprintf(p, sizeof p, "enc.%d.down", k++);
            resample(m, net, l, p, c);
            skip[skips++] = c;
        }
    }
    res(m, net, "mid.0.res", c, c, 0);
    attention(m, "mid.1.att", c, number(net, "net.attn.mid_norm"));
    res(m, net, "mid.2.res", c, c, 0);
    k = 0;
    for (int l = levels - 1; l >= 0; l--)
        for (int i = 0; i <= blocks; i++, k++) {
            int width = base * atoi(item(mult, l));
            snprintf(p, sizeof p, "dec.%d.res", k);
            res(m, net, p, c + skip[--skips], width, 0);
            c = width;
            snprintf(p, sizeof p, "dec.%d.att", k);
            if (attends(net, "net.attn.dec", l, i == blocks))
                attention(m, p, c, 1);
            snprintf(p, sizeof p, "dec.%d.up", k);
            if (l > 0 && i == blocks)
                resample(m, net, l - 1, p, c);
        }
    norm(m, "out", ".n", c);
    layer(m, "out", ".c", 4, number(net, "net.out"), c, 3);
}

/* Keys in ascending order. */
static size_t metadata(const network *net, char *text)
{
    size_t n = 0;
    for (int i = 0; i < KEYS; i++) {
        const char *value = get(net, plain[i][0]);
        if (*value)
            n += (size_t)snprintf(text + n, META - n, "%s=%s\n", plain[i][0], value);
    }
    return n;
}

static bytes make_network(const network *net)
{
    static maker m;
    char meta[META];
    memset(&m, 0, sizeof m);
    tensors(&m, net);
    EQUAL(m.crc, net->crc);
    metadata(net, meta);
    return make_file(&m, meta);
}

/* ---- Running it -------------------------------------------------------------------------- */

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
    io_array t = vector(net->name, is_prior(net) ? "sigma" : "t");
    p->n = p->x.n;
    p->h = (int)p->x.h;
    p->w = (int)p->x.w;
    p->in = p->x.c * p->x.h * p->x.w;
    p->out = p->y.c * p->x.h * p->x.w;
    p->nx = p->n * p->in;
    p->ny = p->n * p->out;
    int ok = p->x.v && p->y.v && p->gy.v && p->gx.v && t.v && p->n <= 8 && t.w == p->n
             && p->x.c == (size_t)number(net, "net.in")
             && (is_prior(net) || p->y.c == (size_t)number(net, "net.out"))
             && p->y.n * p->y.c * p->y.h * p->y.w == p->ny;
    for (size_t i = 0; ok && i < p->n; i++)
        p->t[i] = t.v[i];
    if (number(net, "net.classes")) {
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

/* Bounds: the original program in float32 is off by up to 7e-6 (the README's tables), ours by up
   to 2.4e-6; the fast class transforms its inputs with weights up to 8: up to 7.8e-6. */
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
        for (int k = isa > 0; net && k < (isa ? 2 : 3); k++) { /* the other sets are slow */
            in_case("%s%s on %s, %d threads", d->name, fast ? ", fast" : "", di_isa_list(isa),
                    threads[k]);
            di_set_threads(ctx, threads[k]);
            if (ctx->threads != threads[k])
                break; /* no OpenMP */
            memset(y, 0xff, size);
            EQUAL((is_prior(d) ? di_net_denoise : di_net_run)(net, p->n, p->h, p->w, p->t,
                                                              p->label, p->x.v, y, p->gy.v, gx),
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
    int learned = number(d, "net.out") == 6;
    in_case("%s as a prior", d->name);
    for (size_t i = 0; i < p->ny; i++)
        gy[i] = i % p->out < p->in ? p->gy.v[i] : 0;
    for (size_t i = 0; i < p->nx; i++)
        geps[i] = p->gy.v[i / p->in * p->out + i % p->in];
    if (net && CHECK(di_prior_net(net, p->h, p->w, &prior) == DI_OK)) {
        prior->label = p->label;
        EQUAL(prior->variance, learned ? DI_VAR_LEARNED_RANGE : DI_VAR_FIXED_LARGE);
        EQUAL(prior->steps, 1000);
        NEAR(prior->beta[0], 1e-4, 1e-18);
        NEAR(prior->beta[999], 0.02, 1e-16);
        EQUAL(di_net_run(net, p->n, p->h, p->w, p->t, p->label, p->x.v, y, gy, gx), DI_OK);
        EQUAL(prior->eval(prior, p->n, p->t, p->x.v, eps, learned ? v : NULL, 1), DI_OK);
        EQUAL(prior->vjp(prior, 1, geps, got), DI_OK);
        for (size_t i = 0; i < p->n; i++) {
            CHECK(same(eps + i * p->in, y + i * p->out, p->in));
            CHECK(!learned || same(v + i * p->in, y + i * p->out + p->in, p->in));
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

/* The same by the prior: eps at the table's time of the noise level, and its VJP, are those of
   the reference's denoiser, D = x - sigma eps(x / sqrt(1 + sigma^2)), with every plan of memory. */
static void test_level_prior(const network *d, const bytes *file, const pass *p)
{
    di_real *all = malloc(5 * p->nx * sizeof *all), *x = all, *eps = x + p->nx;
    di_real *gx = eps + p->nx, *first = gx + p->nx;
    double t[8];
    di_ctx *ctx;
    di_prior *prior = NULL;
    di_net *net = open_net(&ctx, file, 0, 0);
    EQUAL(di_prior_net(net, p->h, p->w, &prior), DI_OK);
    EQUAL(prior->continuous, -1);
    for (size_t i = 0; i < p->n; i++)
        t[i] = di_prior_time(prior, p->t[i], 1); /* which is not for this prior to say */
    for (size_t i = 0; i < p->nx; i++) {
        double s = p->t[i / p->in];
        x[i] = (di_real)(p->x.v[i] / sqrt(1 + s * s));
    }
    for (int plan = 0; plan < DI_KEEP_PLANS; plan++) {
        in_case("%s as a prior, plan %d", d->name, plan);
        di_net_keep(net, plan);
        EQUAL(prior->eval(prior, p->n, t, x, eps, NULL, 1), DI_OK);
        EQUAL(prior->eval(prior, 1, t + p->n - 1, x, gx, NULL, 0), DI_OK); /* another between */
        EQUAL(prior->vjp(prior, 1, p->gy.v, gx), DI_OK);
        for (size_t i = 0; i < p->nx; i++) {
            double s = p->t[i / p->in];
            eps[i] = (di_real)(p->x.v[i] - s * eps[i]);
            gx[i] = (di_real)(p->gy.v[i] - s / sqrt(1 + s * s) * gx[i]);
        }
        double dy = far_from(eps, &p->y), dgx = far_from(gx, &p->gx);
        NEAR(dy, 0, BOUND(1e-5, 1e-11));
        NEAR(dgx, 0, BOUND(2e-5, 1e-11));
        if (plan == 0) {
            figure(where, dy);
            figure("    its gradient", dgx);
            memcpy(first, eps, 2 * p->nx * sizeof *eps);
        }
        CHECK(same(eps, first, 2 * p->nx));
        CHECK(prior->bytes(prior, p->n, 1) > di_net_bytes(net, p->n, p->h, p->w, 1)
              || plan & DI_KEEP_STEPS);
    }
    di_close(ctx);
    free(all);
}

/* Networks that predict x_0 or v = sqrt(abar) eps - sqrt(1-abar) x_0: eps follows from them. */
static void test_kinds(const network *d, const pass *p)
{
    for (int v = 0; v < 2; v++) {
        char set[400];
        network other = *d;
        snprintf(set, sizeof set, "%s pred.kind=%s", d->set, v ? "v" : "x0");
        other.set = set;
        in_case("%s that predicts %s", d->name, v ? "v" : "x_0");
        bytes file = make_network(&other);
        di_real *y = malloc(4 * p->nx * sizeof *y), *gx = y + p->nx, *eps = gx + p->nx;
        di_real *got = eps + p->nx;
        di_ctx *ctx;
        di_prior *prior = NULL;
        di_net *net = open_net(&ctx, &file, 0, 0);
        EQUAL(di_prior_net(net, p->h, p->w, &prior), DI_OK);
        EQUAL(di_net_run(net, p->n, p->h, p->w, p->t, NULL, p->x.v, y, p->gy.v, gx), DI_OK);
        EQUAL(prior->eval(prior, p->n, p->t, p->x.v, eps, NULL, 1), DI_OK);
        EQUAL(prior->vjp(prior, 1, p->gy.v, got), DI_OK);
        for (size_t i = 0; i < p->nx; i++) {
            double a = di_prior_abar(prior, p->t[i / p->in]), root = sqrt(1 - a);
            double skip = v ? root : 1 / root, out = v ? sqrt(a) : -sqrt(a) / root;
            NEAR(eps[i], skip * p->x.v[i] + out * y[i], BOUND(1e-5, 1e-13) * (skip - out + 1));
            NEAR(got[i], skip * p->gy.v[i] + out * gx[i],
                 BOUND(1e-5, 1e-13) * (skip - out + 1));
        }
        di_close(ctx);
        free(y);
        free(file.p);
    }
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
    int label[8] = { 0, 1 }, bad[8] = { 5, 0 }, classes = number(d, "net.classes");
    double t[8] = { NAN, 0 };
    in_case("%s, refusals", d->name);
    EQUAL(di_net_run(net, p->n, p->h + 1, p->w, p->t, p->label, p->x.v, y, NULL, NULL),
          DI_EUSAGE);
    SAYS(di_error(ctx), "multiples of 2");
    di_clear(ctx);
    EQUAL(di_net_run(net, p->n, p->h, p->w, p->t, classes ? NULL : label, p->x.v, y, NULL,
                     NULL), DI_EUSAGE);
    SAYS(di_error(ctx), classes ? "needs a class label" : "takes no class label");
    di_clear(ctx);
    if (classes) {
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

/* Metadata that cannot be meant, each in a file whose checksum is right. */
static void test_lies(void)
{
    static const struct { const char *set, *words; } lie[] = {
        { " pred.kind=edm_F", "do not go together" },
        { EDM " pred.kind=eps", "do not go together" },
        { VP " pred.kind=v", "do not go together" },
        { VE " sched.steps=1000", "unknown metadata key 'sched.steps'" },
        { VP " sched.beta_min=0", "sched.beta_min=0" },
        { EDM " sched.sigma_data=", "lacks 'sched.sigma_data'" },
        { " net.label=late", "net.label=late" }, { " net.center=2", "net.center=2" },
        { " net.mid_scale=0", "net.mid_scale=0" },
        { " net.norm.min_channels=33", "cannot form 0 groups" } };
    for (size_t i = 0; i < sizeof lie / sizeof *lie; i++) {
        char set[400];
        network other = networks[2];
        di_ctx *ctx;
        di_net *net;
        snprintf(set, sizeof set, "%s%s", networks[2].set, lie[i].set);
        other.set = set;
        in_case("metadata%s", lie[i].set);
        bytes file = make_network(&other);
        EQUAL(di_open(&ctx, NULL, NULL), DI_OK);
        EQUAL(di_net_open(ctx, read_bytes, file.p, file.size, 0, &net), DI_EINPUT);
        SAYS(di_error(ctx), lie[i].words);
        di_close(ctx);
        free(file.p);
    }
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
            if (is_prior(d))
                test_level_prior(d, &file, &p);
            else if (i < 5)
                test_prior(d, &file, &p);
            if (i == 2)
                test_kinds(d, &p);
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
    test_lies();
    return finish();
}
