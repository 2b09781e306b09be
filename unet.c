/* unet.c: the denoising UNet and its weight file. One graph with options covers the ADM
   network of guided-diffusion (arXiv 2105.05233), UNet2DModel of diffusers, and SongUNet and
   DhariwalUNet of EDM (arXiv 2206.00364); the options are the metadata of the weight file
   (weights/README.md). Chapter 10: another network, which blurs. Knows nothing of problems or
   solvers. */
#define DIFFINV_KERNELS
#include "diffinv.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ==== 1. The network's parts ============================================================== */

enum { LEVELS = 16, MAX_BLOCKS = 16, NAME = 256 };
enum { RESAMPLE_NONE, RESAMPLE_RES, RESAMPLE_CONV, RESAMPLE_POOL };
enum { ATTN_ALL, ATTN_LAST, ATTN_NONE };
enum { PRED_EPS, PRED_X0, PRED_V, PRED_F };
enum { SCHED_LINEAR, SCHED_COSINE, SCHED_VP, SCHED_VE, SCHED_EDM, SCHED_IDDPM };

typedef struct config {
    int in, out, base, stem, levels, blocks, emb, classes, label_time, center;
    int width[LEVELS], resample[LEVELS], attn_enc[LEVELS], attn_dec[LEVELS];
    int attn_mid, attn_mid_norm, heads, heads_dec, head_channels;
    int groups, min_channels, add, end, skip_conv, freq_shift, sin_first, pred_channels, var;
    int pred, sched;
    double eps, residual_scale, mid_scale, max_period, t_scale;
    double beta_d, beta_min, sigma_data;
} config;

typedef struct res {            /* residual block */
    int dir;                    /* -1 halves, +1 doubles the image */
    double scale;               /* of its sum */
    di_norm n1, n2;
    di_conv c1, c2, emb, skip;  /* skip.w NULL: the identity */
} res;
typedef struct att {
    int heads;                  /* 0: absent */
    double scale;
    di_norm n;
    di_conv qkv, proj;
} att;
typedef struct stage {          /* one block of the encoder or decoder */
    int has_res, resample, dir; /* resample: how the image is halved or doubled at its end */
    res r, rs;
    att a;
    di_conv c;
} stage;

/* What makes a denoiser, or a noise predictor, of the network F at one noise level (chapter 8):
   skip x + out F(in x, time). */
typedef struct frame {
    double in, time, skip, out;
} frame;

/* A forward pass and what its derivative needs: its tape, or (steps run again) its input. */
typedef struct pass {
    di_tape tape;
    char *memory;
    size_t memory_size;
    di_tensor **x, **y;         /* [groups] inputs and outputs, in one allocation */
    int groups, room;           /* groups 0: nothing to differentiate; room in x and y */
    void *input;                /* n times in double, then (n,C,h,w); n 0: none */
    size_t n, input_size;
    int h, w;
    const int *label;
    frame *frame;               /* of a prior's pass: (frames), and the times of its images */
    double *time;
    size_t frames, images;      /* images: of the last forward pass */
} pass;

struct di_net {
    di_ctx *ctx;
    char *head;                 /* the file's head: header, metadata, index, names */
    struct line { char *key, *value; int used; } *line;
    struct entry *entry;
    int lines, entries;
    char *meta;                 /* the metadata as it was, terminated */
    size_t meta_len, weights, weight_bytes;
    uint32_t crc;
    config f;
    double *beta, *levels;      /* levels: [steps+1] of iddpm, falling to 0 */
    int steps, linear, loaded;
    di_conv temb[2], stem, out;
    di_norm out_norm;
    di_real *label, *label_b;   /* [classes][emb]; label_time: [classes][base], [base] */
    stage enc[LEVELS * (MAX_BLOCKS + 1)], dec[LEVELS * (MAX_BLOCKS + 1)], mid[2];
    int encs, decs;
    di_conv *conv[LEVELS * MAX_BLOCKS * 24]; /* every convolution, to free them */
    di_norm *norm[LEVELS * MAX_BLOCKS * 12];
    int convs, norms;
    pass pass[DI_MAX_KEEP + 1]; /* 0: plans, passes that are not kept, steps run again */
    pass *now;
    size_t plan_n, plan_bytes;  /* the last plan */
    int plan_h, plan_w, plan_vjp, plan_threads, plan_fast, plan_keep;
    int keep;                   /* DI_KEEP_... */
    di_real *framed;            /* in x, or out times an output's gradient */
    size_t framed_size;
};

/* ==== 2. Reading the head of a weight file ================================================ */

typedef struct entry {
    uint64_t off, bytes, dim[4];
    const char *name;
    int name_len, dtype, rank, used;
    uint32_t crc;
} entry;

typedef struct loader {
    di_ctx *ctx;
    di_net *net;
    di_read_fn read;
    void *user;
    uint64_t size;
    unsigned flags;
    int load;                   /* 0: check names and shapes, 1: read the values */
    struct di_bkse *blur;       /* the network to load, where it is none that denoises */
    int wrong;                  /* offending tensors so far */
    char list[360];             /* and the first of them */
    uint32_t table[8][256];     /* CRC-32, eight bytes at a time */
} loader;

static uint32_t u32(const char *p)
{
    const unsigned char *b = (const unsigned char *)p;
    return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static uint64_t u64(const char *p) { return u32(p) | (uint64_t)u32(p + 4) << 32; }

static void crc_table(loader *L)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? 0xEDB88320u ^ c >> 1 : c >> 1;
        L->table[0][i] = c;
    }
    for (int k = 1; k < 8; k++)
        for (int i = 0; i < 256; i++)
            L->table[k][i] = L->table[k - 1][i] >> 8 ^ L->table[0][L->table[k - 1][i] & 255];
}

static uint32_t crc32(const loader *L, uint32_t crc, const char *p, size_t n)
{
    const uint32_t (*t)[256] = L->table;
    crc = ~crc;
    for (; n >= 8; n -= 8, p += 8) {
        uint32_t a = crc ^ u32(p), b = u32(p + 4);
        crc = t[7][a & 255] ^ t[6][a >> 8 & 255] ^ t[5][a >> 16 & 255] ^ t[4][a >> 24]
              ^ t[3][b & 255] ^ t[2][b >> 8 & 255] ^ t[1][b >> 16 & 255] ^ t[0][b >> 24];
    }
    for (; n; n--, p++)
        crc = crc >> 8 ^ t[0][(crc ^ (unsigned char)*p) & 255];
    return ~crc;
}

static di_status bad(loader *L, const char *what)
{
    return di_fail(L->ctx, DI_EINPUT, "weight file: %s; convert the checkpoint again with "
                   "tools/convert.py", what);
}

/* The checks of the fixed header and its regions, in the format's order; reads the head. */
static di_status read_head(loader *L)
{
    static const char magic[8] = { '\x89', 'U', 'N', 'W', '\r', '\n', '\x1a', '\n' };
    char h[128];
    if (L->size < 128)
        return bad(L, "shorter than its 128-byte header");
    if (L->read(L->user, 0, h, 128))
        return di_fail(L->ctx, DI_EINPUT, "weight file: reading the header failed");
    if (memcmp(h, magic, 8) != 0)
        return bad(L, "not a UNW1 file (wrong first bytes)");
    if (u32(h + 8) != 1 || u32(h + 12) != 128 || u32(h + 100) != 0)
        return bad(L, "a version of the format that this program does not know");
    for (int i = 104; i < 128; i++)
        if (h[i])
            return bad(L, "reserved header bytes are not zero");
    if (u64(h + 16) != L->size)
        return di_fail(L->ctx, DI_EINPUT, "weight file: has %.0f bytes but says %.0f: cut "
                       "short, or something was appended; fetch or convert it again",
                       (double)L->size,
                       (double)u64(h + 16));
    uint64_t at = 128;
    for (int i = 0; i < 4; i++) { /* metadata, index, names, data: in order, inside the file */
        uint64_t off = u64(h + 24 + 16 * i), len = u64(h + 32 + 16 * i);
        if (off > L->size || len > L->size - off || off < at)
            return bad(L, "a region of the header lies outside the file or overlaps another");
        at = off + len;
    }
    uint64_t meta_len = u64(h + 32), names_len = u64(h + 64), data_off = u64(h + 72);
    uint32_t count = u32(h + 88), align = u32(h + 92);
    if (align < 64 || align > 65536 || (align & (align - 1)) || data_off % align)
        return bad(L, "alignment is no power of two in 64..65536 or the data is not aligned");
    if (count > 65536 || u64(h + 48) != 64 * (uint64_t)count)
        return bad(L, "the tensor count does not fit the index");
    if (meta_len > 1 << 20 || names_len > (uint64_t)count * 255 || data_off > 64u << 20)
        return bad(L, "the metadata or the names are too long");
    di_net *net = L->net;
    net->head = di_new(L->ctx, (size_t)data_off + 1, 1);
    net->meta = di_new(L->ctx, 2 * (size_t)meta_len + 2, 1);
    if (!net->head || !net->meta)
        return DI_EMEMORY;
    if (L->read(L->user, 0, net->head, (size_t)data_off))
        return di_fail(L->ctx, DI_EINPUT, "weight file: reading the head failed");
    memset(net->head + 96, 0, 4);
    net->crc = crc32(L, 0, net->head, (size_t)data_off);
    if (net->crc != u32(h + 96))
        return bad(L, "the head's checksum is wrong: the file is damaged");
    net->meta_len = (size_t)meta_len;
    memcpy(net->meta, net->head + u64(h + 24), (size_t)meta_len);
    net->entries = (int)count;
    return DI_OK;
}

/* Splits a copy of the metadata into lines key=value, keys strictly ascending. */
static di_status read_meta(loader *L)
{
    di_net *net = L->net;
    char *p = net->meta + net->meta_len + 1, *end = p + net->meta_len;
    memcpy(p, net->meta, net->meta_len);
    int n = 0;
    for (char *q = p; q < end; q++) {
        unsigned char c = (unsigned char)*q;
        if (c != '\n' && (c < 32 || c == 127))
            return bad(L, "control characters in the metadata");
        n += c == '\n';
    }
    if (n > 1024 || (end > p && end[-1] != '\n'))
        return bad(L, "metadata has too many lines or an unfinished one");
    net->line = di_new(L->ctx, (size_t)n + 1, sizeof *net->line);
    if (!net->line)
        return DI_EMEMORY;
    for (; p < end; net->lines++) {
        struct line *l = &net->line[net->lines];
        char *eol = memchr(p, '\n', (size_t)(end - p)), *eq = memchr(p, '=', (size_t)(eol - p));
        if (!eq || eq == p)
            return bad(L, "a metadata line without key=value");
        *eol = *eq = 0;
        l->key = p;
        l->value = eq + 1;
        if (net->lines && strcmp(l[-1].key, l->key) >= 0)
            return bad(L, "metadata keys are not in strictly ascending order");
        p = eol + 1;
    }
    return DI_OK;
}

/* One index entry: its name after the previous one's, its size exact, its bytes in the data. */
static di_status check_entry(loader *L, entry *e, const char *p, const entry *previous)
{
    static const int item[5] = { 0, 4, 2, 2, 8 };
    const char *h = L->net->head;
    uint64_t names_len = u64(h + 64), data = u64(h + 72), data_len = u64(h + 80), product = 1;
    uint32_t name = u32(p + 16);
    e->off = u64(p);
    e->bytes = u64(p + 8);
    e->name_len = (int)(u32(p + 20) & 0xffff);
    e->dtype = (unsigned char)p[22];
    e->rank = (unsigned char)p[23];
    e->crc = u32(p + 56);
    if (e->name_len < 1 || e->name_len > 255 || name > names_len
        || (uint64_t)e->name_len > names_len - name)
        return bad(L, "a tensor's name lies outside the names");
    e->name = h + u64(h + 56) + name;
    for (int j = 0; j < e->name_len; j++)
        if (e->name[j] < 33 || e->name[j] > 126)
            return bad(L, "a tensor's name is not printable");
    if (previous) {
        int least = previous->name_len < e->name_len ? previous->name_len : e->name_len;
        int c = memcmp(previous->name, e->name, (size_t)least);
        if (c > 0 || (c == 0 && previous->name_len >= e->name_len))
            return bad(L, "tensor names are not in strictly ascending order");
    }
    if (e->dtype < 1 || e->dtype > 4 || e->rank > 4 || u32(p + 60))
        return bad(L, "a tensor of unknown type or rank");
    for (int j = 0; j < 4; j++) {
        e->dim[j] = u64(p + 24 + 8 * j);
        if (e->dim[j] < 1 || (j >= e->rank && e->dim[j] != 1) || e->dim[j] > L->size / product)
            return bad(L, "a tensor's shape is impossible");
        product *= e->dim[j];
    }
    if (product > L->size / item[e->dtype] || e->bytes != product * item[e->dtype])
        return bad(L, "a tensor's size does not fit its shape");
    if (e->off % u32(h + 92) || e->off < data || e->off - data > data_len
        || e->bytes > data_len - (e->off - data))
        return bad(L, "a tensor lies outside the data");
    return DI_OK;
}

/* All entries, and that no two overlap: sorted by offset, each ends before the next begins. */
static di_status read_index(loader *L)
{
    di_net *net = L->net;
    int n = net->entries;
    net->entry = di_new(L->ctx, (size_t)n + 1, sizeof *net->entry);
    const entry **order = di_new(L->ctx, (size_t)n + 1, sizeof *order);
    for (int i = 0; net->entry && order && i < n && !L->ctx->status; i++) {
        const char *p = net->head + u64(net->head + 40) + (size_t)64 * i;
        entry *e = &net->entry[i];
        check_entry(L, e, p, i ? e - 1 : NULL);
        order[i] = e;
    }
    for (int gap = n / 2; order && !L->ctx->status && gap > 0; gap /= 2) /* Shell's sort */
        for (int i = gap; i < n; i++) {
            const entry *e = order[i];
            int at = i;
            for (; at >= gap && order[at - gap]->off > e->off; at -= gap)
                order[at] = order[at - gap];
            order[at] = e;
        }
    for (int i = 1; order && i < n && !L->ctx->status; i++)
        if (order[i - 1]->off + order[i - 1]->bytes > order[i]->off)
            bad(L, "two tensors overlap");
    di_free(L->ctx, order);
    return L->ctx->status;
}

/* ==== 3. Metadata to options ============================================================== */

static const char *meta_get(loader *L, const char *key, int required)
{
    di_net *net = L->net;
    for (int i = 0; i < net->lines; i++)
        if (strcmp(net->line[i].key, key) == 0) {
            net->line[i].used = 1;
            return net->line[i].value;
        }
    if (required)
        di_fail(L->ctx, DI_EINPUT, "weight file: metadata lacks '%s'", key);
    return NULL;
}

static double meta_number(loader *L, const char *key, double lo, double hi, int whole)
{
    const char *s = meta_get(L, key, 1);
    double v = lo;
    if (s && (di_parse(s, strlen(s), &v) || !(v >= lo && v <= hi)
              || (whole && v != floor(v)))) {
        di_fail(L->ctx, DI_EINPUT, "weight file: metadata '%s=%.40s' is not a%s number in "
                "%g..%g", key, s, whole ? " whole" : "", lo, hi);
        v = lo;
    }
    return v;
}

static int meta_int(loader *L, const char *key, int lo, int hi)
{
    return (int)meta_number(L, key, lo, hi, 1);
}

/* Index of the value (its first `len` bytes) among "a|b|c". */
static int word_index(const char *s, size_t len, const char *words)
{
    for (int i = 0; *words; i++) {
        size_t n = strcspn(words, "|");
        if (n == len && memcmp(words, s, n) == 0)
            return i;
        words += n + (words[n] == '|');
    }
    return -1;
}

static int meta_word(loader *L, const char *key, const char *words)
{
    const char *s = meta_get(L, key, 1);
    int i = s ? word_index(s, strlen(s), words) : 0;
    if (i < 0)
        di_fail(L->ctx, DI_EINPUT, "weight file: metadata '%s=%.40s' is not supported (one of "
                "%s)", key, s, words);
    return i < 0 ? 0 : i;
}

/* A comma-separated list of exactly `count` words, or numbers when words is NULL. */
static void meta_list(loader *L, const char *key, int count, const char *words, int *index,
                      double *number)
{
    const char *s = meta_get(L, key, 1);
    for (int i = 0; s && i < count; i++) {
        size_t n = strcspn(s, ",");
        int wrong = words ? (index[i] = word_index(s, n, words)) < 0
                          : di_parse(s, n, &number[i]) != 0;
        if (wrong || (s[n] == ',') != (i + 1 < count)) {
            di_fail(L->ctx, DI_EINPUT, "weight file: metadata '%s' must list %d values%s%s",
                    key, count, words ? " of " : "", words ? words : "");
            return;
        }
        s += n + 1;
    }
}

static void read_levels(loader *L, config *f)
{
    const char *mult = meta_get(L, "net.mult", 1);
    double m[LEVELS];
    f->levels = 1;
    for (const char *p = mult; p && *p; p++)
        f->levels += *p == ',';
    if (f->levels > LEVELS) {
        di_fail(L->ctx, DI_EINPUT, "weight file: more than %d levels in net.mult", LEVELS);
        f->levels = 1;
        return;
    }
    meta_list(L, "net.mult", f->levels, NULL, NULL, m);
    meta_list(L, "net.attn.enc", f->levels, "all|last|none", f->attn_enc, NULL);
    meta_list(L, "net.attn.dec", f->levels, "all|last|none", f->attn_dec, NULL);
    if (f->levels > 1)
        meta_list(L, "net.resample", f->levels - 1, "none|res|conv|pool", f->resample, NULL);
    else
        meta_word(L, "net.resample", "none");
    for (int l = 0; l < f->levels && !L->ctx->status; l++) {
        f->width[l] = m[l] > 0 && m[l] < 4096 ? (int)(m[l] * f->base) : 0;
        if (f->width[l] < 16 || f->width[l] > 65536 || f->width[l] % 16)
            di_fail(L->ctx, DI_EINPUT, "weight file: level %d is %d channels wide; widths must "
                    "be multiples of 16 up to 65536", l, f->width[l]);
        if (l + 1 < f->levels && f->resample[l] == RESAMPLE_NONE)
            di_fail(L->ctx, DI_EINPUT, "weight file: net.resample is none between two levels");
    }
}

/* abar_i of the cosine schedule (arXiv 2102.09672, eq. 17) is cos^2 of this over that of 0. */
static double cosine_angle(double i, int steps)
{
    return (i / steps + 0.008) / 1.008 * 1.57079632679489661923;
}

/* The betas that solvers walk. A network of noise levels (vp, ve, edm) has none of its own, and
   takes the linear ones. */
static void make_betas(loader *L, double a, double b)
{
    di_net *net = L->net;
    int cosine = net->f.sched == SCHED_COSINE || net->f.sched == SCHED_IDDPM;
    net->beta = di_new(L->ctx, (size_t)net->steps, sizeof *net->beta);
    for (int i = 0; net->beta && i < net->steps; i++) {
        double next = di_cos(cosine_angle(i + 1, net->steps));
        double c = next / di_cos(cosine_angle(i, net->steps));
        double cut = 1 - c * c;
        net->beta[i] = cosine ? (cut < 0.999 ? cut : 0.999)
                              : net->steps > 1 ? a + (b - a) * i / (net->steps - 1) : a;
    }
}

/* iddpm (arXiv 2206.00364, table 1 and appendix C.3.2; C_1 = 0.001, C_2 = 0.008): the noise
   levels that the network was trained at, u_M = 0,
     u_{j-1} = sqrt((u_j^2 + 1) / max(abar_{j-1}/abar_j, C_1) - 1),
     abar_j = sin^2(pi/2 j / (M (1 + C_2))). */
static void make_iddpm(loader *L)
{
    di_net *net = L->net;
    int M = net->steps;
    double *u = net->levels = di_new(L->ctx, (size_t)M + 1, sizeof *u);
    for (int j = M; u && j > 0; j--) {
        double step = 1.57079632679489661923 / M / 1.008;
        double r = di_sin(step * (j - 1)) / di_sin(step * j), ratio = r * r;
        u[j - 1] = sqrt((u[j] * u[j] + 1) / (ratio > 0.001 ? ratio : 0.001) - 1);
    }
}

static void read_schedule(loader *L)
{
    di_net *net = L->net;
    config *f = &net->f;
    double a = 1e-4, b = 0.02;
    f->pred = meta_word(L, "pred.kind", "eps|x0|v|edm_F");
    f->sched = meta_word(L, "sched.kind", "linear|cosine|vp|ve|edm|iddpm");
    f->t_scale = meta_number(L, "t.scale", 1e-6, 1e6, 0);
    net->steps = f->sched == SCHED_VE || f->sched == SCHED_EDM
                     ? 1000 : meta_int(L, "sched.steps", 1, 100000);
    if (f->sched == SCHED_LINEAR) {
        a = meta_number(L, "sched.beta_start", 1e-9, 0.999, 0);
        b = meta_number(L, "sched.beta_end", 1e-9, 0.999, 0);
        net->linear = net->steps == 1000 && a == 1e-4 && b == 0.02;
    }
    if (f->sched == SCHED_VP) {
        f->beta_d = meta_number(L, "sched.beta_d", 1e-3, 1e3, 0);
        f->beta_min = meta_number(L, "sched.beta_min", 1e-6, 1e3, 0);
    }
    if (f->sched == SCHED_EDM)
        f->sigma_data = meta_number(L, "sched.sigma_data", 1e-6, 1e6, 0);
    int levels = f->sched == SCHED_VE || f->sched == SCHED_EDM;
    int noise = f->sched == SCHED_VP || f->sched == SCHED_IDDPM;
    if (levels != (f->pred == PRED_F) || (noise && f->pred != PRED_EPS))
        di_fail(L->ctx, DI_EINPUT, "weight file: pred.kind and sched.kind do not go together: "
                "ve and edm need edm_F, vp and iddpm need eps");
    make_betas(L, a, b);
    if (f->sched == SCHED_IDDPM)
        make_iddpm(L);
}

/* The kinds of networks: those that denoise, and one that blurs (chapter 10). */
static di_status want_kind(loader *L, const char *kind)
{
    static const char kinds[] = "unet2d|bkse";
    const char *s = meta_get(L, "format.kind", 1);
    if (!s || strcmp(s, kind) == 0)
        return L->ctx->status;
    if (word_index(s, strlen(s), kinds) < 0)
        return di_fail(L->ctx, DI_EINPUT, "weight file: metadata 'format.kind=%.40s' is not "
                       "supported (one of %s)", s, kinds);
    return di_fail(L->ctx, DI_EINPUT, "weight file: format.kind=%s is a network that %s; here "
                   "one that %s is wanted, format.kind=%s", s,
                   strcmp(s, "bkse") ? "denoises" : "blurs (problem nblur, net=)",
                   strcmp(s, "bkse") ? "blurs" : "denoises", kind);
}

static di_status refuse_unused(loader *L)
{
    di_net *net = L->net;
    for (int i = 0; i < net->lines; i++)
        if (!net->line[i].used && strncmp(net->line[i].key, "info.", 5) != 0)
            di_fail(L->ctx, DI_EINPUT, "weight file: unknown metadata key '%.40s'",
                    net->line[i].key);
    return L->ctx->status;
}

static di_status read_config(loader *L)
{
    di_net *net = L->net;
    config *f = &net->f;
    if (want_kind(L, "unet2d"))
        return L->ctx->status;
    f->in = meta_int(L, "net.in", 1, 1024);
    f->out = meta_int(L, "net.out", 1, 1024);
    f->base = meta_int(L, "net.base", 2, 65536);
    f->blocks = meta_int(L, "net.blocks", 1, MAX_BLOCKS);
    f->emb = meta_int(L, "net.emb", 1, 1 << 20);
    f->classes = meta_int(L, "net.classes", 0, 1 << 20);
    f->stem = meta_int(L, "net.stem", 16, 65536);
    read_levels(L, f);
    f->attn_mid = meta_int(L, "net.attn.mid", 0, 1);
    f->attn_mid_norm = meta_int(L, "net.attn.mid_norm", 0, 1);
    if (meta_get(L, "net.attn.head_channels", 0)) {
        f->head_channels = meta_int(L, "net.attn.head_channels", 1, 65536);
    } else {
        f->heads = f->heads_dec = meta_int(L, "net.attn.heads", 1, 4096);
        if (meta_get(L, "net.attn.heads_dec", 0))
            f->heads_dec = meta_int(L, "net.attn.heads_dec", 1, 4096);
    }
    f->groups = meta_int(L, "net.norm.groups", 1, 65536);
    f->min_channels = meta_int(L, "net.norm.min_channels", 1, 65536);
    f->eps = meta_number(L, "net.norm.eps", 0, 1, 0);
    f->add = meta_word(L, "net.cond", "scale_shift|add");
    f->end = meta_word(L, "net.down_pad", "sym|end");
    f->skip_conv = meta_int(L, "net.resample_skip_conv", 0, 1);
    f->residual_scale = f->mid_scale = meta_number(L, "net.residual_scale", 1e-6, 1e6, 0);
    if (meta_get(L, "net.mid_scale", 0))
        f->mid_scale = meta_number(L, "net.mid_scale", 1e-6, 1e6, 0);
    if (meta_get(L, "net.label", 0))
        f->label_time = meta_word(L, "net.label", "emb|time");
    if (meta_get(L, "net.center", 0))
        f->center = meta_int(L, "net.center", 0, 1);
    f->freq_shift = meta_int(L, "net.temb.freq_shift", 0, 1);
    f->sin_first = meta_word(L, "net.temb.order", "cos_sin|sin_cos");
    f->max_period = meta_number(L, "net.temb.max_period", 1, 1e12, 0);
    meta_int(L, "net.image_size", 1, 1 << 20);
    f->var = meta_word(L, "pred.var", "none|fixed_small|fixed_large|learned_range");
    f->pred_channels = meta_int(L, "pred.channels", 1, 1024);
    read_schedule(L);
    meta_number(L, "data.min", -1e6, 1e6, 0);
    meta_number(L, "data.max", -1e6, 1e6, 0);
    meta_number(L, "data.shift", -1e6, 1e6, 0);
    meta_number(L, "data.scale", -1e6, 1e6, 0);
    meta_word(L, "data.channels", "rgb|gray|complex");
    int halves = f->var == DI_VAR_LEARNED_RANGE ? 2 : 1;
    if (!L->ctx->status && f->out != f->pred_channels * halves)
        di_fail(L->ctx, DI_EINPUT, "weight file: net.out=%d does not fit pred.channels=%d and "
                "pred.var", f->out, f->pred_channels);
    if (!L->ctx->status && (f->stem % 16 || f->emb % 16 || f->base % 2 || f->base < 4))
        di_fail(L->ctx, DI_EINPUT, "weight file: net.stem and net.emb must be multiples of 16 "
                "and net.base even");
    return refuse_unused(L);
}

/* ==== 4. Names to layers ================================================================== */

static void offend(loader *L, const char *format, const char *name, const char *more)
{
    if (L->wrong++ < 6) {
        size_t used = strlen(L->list);
        snprintf(L->list + used, sizeof L->list - used, format, used ? "; " : "", name, more);
    }
}

static di_real widen(const char *p, int dtype)
{
    union { uint32_t u; float f; } s;
    union { uint64_t u; double d; } w;
    uint32_t h;
    switch (dtype) {
    case 1:
        s.u = u32(p);
        return s.f;
    case 2: /* f16: value = (-1)^s 2^(e-25) (1024 + m), subnormals with e = 1 and no 1024 */
        h = (unsigned char)p[0] | (uint32_t)(unsigned char)p[1] << 8;
        if ((h & 0x7c00) == 0x7c00) {
            s.u = (h & 0x8000) << 16 | 0x7f800000 | (h & 0x3ff) << 13;
            return s.f;
        }
        if (h & 0x7c00) {
            s.u = (h & 0x8000) << 16 | (((h & 0x7fff) << 13) + 0x38000000);
            return s.f;
        }
        return (di_real)((h & 0x8000 ? -1 : 1) * (double)(h & 0x3ff) / 16777216);
    case 3:
        s.u = (uint32_t)(unsigned char)p[0] << 16 | (uint32_t)(unsigned char)p[1] << 24;
        return s.f;
    default:
        w.u = u64(p);
        return (di_real)w.d;
    }
}

static entry *find_entry(di_net *net, const char *name)
{
    int lo = 0, hi = net->entries, len = (int)strlen(name);
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        entry *e = &net->entry[mid];
        int m = e->name_len < len ? e->name_len : len, c = memcmp(e->name, name, (size_t)m);
        if (c == 0)
            c = e->name_len - len;
        if (c == 0)
            return e;
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

enum { SLICE = 1 << 20 }; /* bytes of a tensor read at once; a multiple of every item */

/* In the checking pass: notes what is missing or misshapen. In the loading pass: the values,
   in fresh memory. d: shape, outermost first, rank entries. */
static di_real *tensor(loader *L, const char *prefix, const char *leaf, int rank, const int *d)
{
    static const int item[5] = { 0, 4, 2, 2, 8 };
    char name[NAME], shape[64];
    snprintf(name, sizeof name, "%s%s", prefix, leaf);
    entry *e = find_entry(L->net, name);
    int fits = e && e->rank == rank;
    for (int i = 0; fits && i < rank; i++)
        fits = e->dim[i] == (uint64_t)d[i];
    if (!L->load) {
        int used = 0;
        for (int i = 0; i < rank; i++)
            used += snprintf(shape + used, sizeof shape - used, i ? "x%d" : "%d", d[i]);
        if (!e)
            offend(L, "%smissing %.100s (%s)", name, shape);
        else if (!fits)
            offend(L, "%s%.100s is not %s", name, shape);
        else
            e->used = 1;
        return NULL;
    }
    if (L->ctx->status)
        return NULL;
    size_t bytes = (size_t)e->bytes, n = bytes / item[e->dtype];
    size_t slice = bytes < SLICE ? bytes : SLICE;
    char *raw = di_new(L->ctx, slice, 1);
    di_real *v = raw ? di_new(L->ctx, n, sizeof *v) : NULL, *to = v;
    uint32_t crc = 0;
    for (size_t at = 0; v && at < bytes && !L->ctx->status; at += slice) {
        size_t part = bytes - at < slice ? bytes - at : slice;
        if (L->read(L->user, e->off + at, raw, part))
            di_fail(L->ctx, DI_EINPUT, "weight file: reading tensor %s failed", name);
        crc = L->flags & DI_NET_NO_CRC ? e->crc : crc32(L, crc, raw, part);
        for (size_t i = 0; i < part; i += item[e->dtype])
            *to++ = widen(raw + i, e->dtype);
    }
    if (v && !L->ctx->status && crc != e->crc)
        di_fail(L->ctx, DI_EINPUT, "weight file: tensor %s is damaged (checksum); fetch or "
                "convert the file again", name);
    if (v && !(L->flags & DI_NET_NONFINITE) && !di_finite(v, n))
        di_fail(L->ctx, DI_EINPUT, "weight file: tensor %s holds NaN or Inf; the checkpoint is "
                "spoilt", name);
    di_free(L->ctx, raw);
    return v;
}

static di_real *vector(loader *L, const char *prefix, const char *leaf, int n)
{
    return tensor(L, prefix, leaf, 1, &n);
}

/* rank 4: [oc][ic][k][k]; rank 2: [oc][ic]. sums: a norm follows. */
static void bind_conv(loader *L, di_conv *w, const char *prefix, int rank, int oc, int ic,
                      int k, int sums)
{
    int d[4] = { oc, ic, k, k };
    w->oc = oc;
    w->ic = ic;
    w->k = k;
    w->sums = sums;
    if (!w->stride)
        w->stride = 1;
    di_real *weight = tensor(L, prefix, ".w", rank, d);
    di_real *bias = vector(L, prefix, ".b", oc);
    L->net->weights += (size_t)oc * ic * k * k + oc;
    L->net->weight_bytes += di_conv_bytes(oc, ic, k);
    L->net->conv[L->net->convs++] = w;
    if (weight && bias)
        di_conv_init(L->ctx, w, weight, bias);
    di_free(L->ctx, weight);
    di_free(L->ctx, bias);
}

static void bind_norm(loader *L, di_norm *w, const char *prefix, int c)
{
    const config *f = &L->net->f;
    w->c = c;
    w->eps = f->eps;
    w->groups = c / f->min_channels < f->groups ? c / f->min_channels : f->groups;
    if (w->groups < 1 || c % w->groups)
        di_fail(L->ctx, DI_EINPUT, "weight file: %s: %d channels cannot form %d groups", prefix,
                c, w->groups);
    w->g = vector(L, prefix, ".g", c);
    w->b = vector(L, prefix, ".b", c);
    L->net->norm[L->net->norms++] = w;
    L->net->weights += 2 * (size_t)c;
    L->net->weight_bytes += 2 * (size_t)c * sizeof(di_real);
}

static void bind_res(loader *L, res *r, const char *prefix, int in, int out, int dir,
                     double scale)
{
    const config *f = &L->net->f;
    char p[NAME];
    r->dir = dir;
    r->scale = scale;
    snprintf(p, sizeof p, "%s.n1", prefix);
    bind_norm(L, &r->n1, p, in);
    snprintf(p, sizeof p, "%s.c1", prefix);
    bind_conv(L, &r->c1, p, 4, out, in, 3, !f->add);
    snprintf(p, sizeof p, "%s.emb", prefix);
    bind_conv(L, &r->emb, p, 2, f->add ? out : 2 * out, f->emb, 1, 0);
    snprintf(p, sizeof p, "%s.n2", prefix);
    bind_norm(L, &r->n2, p, out);
    snprintf(p, sizeof p, "%s.c2", prefix);
    bind_conv(L, &r->c2, p, 4, out, out, 3, 1);
    snprintf(p, sizeof p, "%s.skip", prefix);
    if (in != out || (dir && f->skip_conv))
        bind_conv(L, &r->skip, p, 4, out, in, 1, 0);
}

static void bind_att(loader *L, att *a, const char *prefix, int c, int heads, int norm,
                     double scale)
{
    const config *f = &L->net->f;
    char p[NAME];
    if (f->head_channels)
        heads = c % f->head_channels ? 0 : c / f->head_channels;
    if (heads < 1 || c % heads) {
        di_fail(L->ctx, DI_EINPUT, "weight file: %s: %d channels do not split into heads",
                prefix, c);
        return;
    }
    a->heads = heads;
    a->scale = scale;
    snprintf(p, sizeof p, "%s.n", prefix);
    if (norm)
        bind_norm(L, &a->n, p, c);
    snprintf(p, sizeof p, "%s.qkv", prefix);
    bind_conv(L, &a->qkv, p, 2, 3 * c, c, 1, 0);
    snprintf(p, sizeof p, "%s.proj", prefix);
    bind_conv(L, &a->proj, p, 2, c, c, 1, 1);
}

static void bind_resample(loader *L, stage *s, const char *prefix, int kind, int dir, int c)
{
    char p[NAME];
    s->resample = kind;
    s->dir = dir;
    snprintf(p, sizeof p, kind == RESAMPLE_RES ? "%.200s.res" : "%.200s", prefix);
    if (kind == RESAMPLE_RES) {
        bind_res(L, &s->rs, p, c, c, dir, L->net->f.residual_scale);
    } else if (kind == RESAMPLE_CONV) {
        s->c.stride = dir < 0 ? 2 : 1;
        s->c.end = dir < 0 && L->net->f.end;
        bind_conv(L, &s->c, p, 4, c, c, 3, 1);
    }
}

static int wants_attention(int rule, int i, int last)
{
    return rule == ATTN_ALL || (rule == ATTN_LAST && i == last);
}

/* The graph of the specification: encoder, middle, decoder; skips popped in reverse. */
static void bind_net(loader *L)
{
    di_net *net = L->net;
    const config *f = &net->f;
    int skip[LEVELS * (MAX_BLOCKS + 1) + 1], skips = 0, c = f->stem;
    double scale = f->residual_scale;
    char p[NAME];
    net->convs = net->norms = net->encs = net->decs = 0;
    net->weights = net->weight_bytes = 0;
    bind_conv(L, &net->temb[0], "temb.0", 2, f->emb, f->base, 1, 0);
    bind_conv(L, &net->temb[1], "temb.1", 2, f->emb, f->emb, 1, 0);
    if (f->classes) {
        int d[2] = { f->classes, f->label_time ? f->base : f->emb };
        net->label = tensor(L, "label", ".w", 2, d);
        net->weights += (size_t)d[0] * d[1];
        net->weight_bytes += (size_t)d[0] * d[1] * sizeof(di_real);
        if (f->label_time) {
            net->label_b = vector(L, "label", ".b", f->base);
            net->weights += (size_t)f->base;
            net->weight_bytes += (size_t)f->base * sizeof(di_real);
        }
    }
    bind_conv(L, &net->stem, "stem", 4, c, f->in, 3, 1);
    skip[skips++] = c;
    for (int l = 0; l < f->levels; l++) {
        for (int i = 0; i < f->blocks; i++) {
            stage *s = &net->enc[net->encs];
            snprintf(p, sizeof p, "enc.%d.res", net->encs);
            s->has_res = 1;
            bind_res(L, &s->r, p, c, f->width[l], 0, scale);
            c = f->width[l];
            snprintf(p, sizeof p, "enc.%d.att", net->encs);
            if (wants_attention(f->attn_enc[l], i, f->blocks - 1))
                bind_att(L, &s->a, p, c, f->heads, 1, scale);
            net->encs++;
            skip[skips++] = c;
        }
        if (l + 1 < f->levels) {
            snprintf(p, sizeof p, "enc.%d.down", net->encs);
            bind_resample(L, &net->enc[net->encs++], p, f->resample[l], -1, c);
            skip[skips++] = c;
        }
    }
    net->mid[0].has_res = net->mid[1].has_res = 1;
    bind_res(L, &net->mid[0].r, "mid.0.res", c, c, 0, f->mid_scale);
    if (f->attn_mid)
        bind_att(L, &net->mid[0].a, "mid.1.att", c, f->heads, f->attn_mid_norm, f->mid_scale);
    bind_res(L, &net->mid[1].r, "mid.2.res", c, c, 0, f->mid_scale);
    for (int l = f->levels - 1; l >= 0; l--)
        for (int i = 0; i <= f->blocks; i++) {
            stage *s = &net->dec[net->decs];
            snprintf(p, sizeof p, "dec.%d.res", net->decs);
            s->has_res = 1;
            bind_res(L, &s->r, p, c + skip[--skips], f->width[l], 0, scale);
            c = f->width[l];
            snprintf(p, sizeof p, "dec.%d.att", net->decs);
            if (wants_attention(f->attn_dec[l], i, f->blocks))
                bind_att(L, &s->a, p, c, f->heads_dec, 1, scale);
            snprintf(p, sizeof p, "dec.%d.up", net->decs);
            if (l > 0 && i == f->blocks)
                bind_resample(L, s, p, f->resample[l - 1], 1, c);
            net->decs++;
        }
    bind_norm(L, &net->out_norm, "out.n", c);
    bind_conv(L, &net->out, "out.c", 4, f->out, c, 3, 0);
}

/* bind names every tensor of a network: once to check them, once to load them. */
static di_status bind_all(loader *L, void (*bind)(loader *))
{
    bind(L);
    for (int i = 0; i < L->net->entries; i++)
        if (!L->net->entry[i].used) {
            char name[NAME];
            memcpy(name, L->net->entry[i].name, (size_t)L->net->entry[i].name_len);
            name[L->net->entry[i].name_len] = 0;
            offend(L, "%sunexpected %.100s%s", name, "");
        }
    if (L->ctx->status)
        return L->ctx->status;
    if (L->wrong)
        return di_fail(L->ctx, DI_EINPUT, "weight file: %d tensors do not fit the network of "
                       "the metadata: %s%s", L->wrong, L->list, L->wrong > 6 ? "; ..." : "");
    if (!(L->flags & DI_NET_HEAD)) {
        L->load = 1;
        bind(L);
        L->net->loaded = 1;
    }
    return L->ctx->status;
}

/* A loader with an empty network to hold the file's head; NULL after a failure. */
static loader *loader_new(di_ctx *ctx, di_read_fn read, void *user, uint64_t size,
                          unsigned flags)
{
    loader *L = di_new(ctx, 1, sizeof *L);
    di_net *net = L ? di_new(ctx, 1, sizeof *net) : NULL;
    if (!net) {
        di_free(ctx, L);
        return NULL;
    }
    L->ctx = net->ctx = ctx;
    L->net = net;
    L->read = read;
    L->user = user;
    L->size = size;
    L->flags = flags;
    crc_table(L);
    for (int i = 0; i <= DI_MAX_KEEP; i++)
        di_tape_open(&net->pass[i].tape, ctx);
    net->now = net->pass;
    return L;
}

static di_status read_file(loader *L)
{
    di_status s = read_head(L);
    if (!s)
        s = read_meta(L);
    if (!s)
        s = read_index(L);
    return s;
}

di_status di_net_open(di_ctx *ctx, di_read_fn read, void *user, uint64_t size, unsigned flags,
                      di_net **out)
{
    *out = NULL;
    loader *L = loader_new(ctx, read, user, size, flags);
    if (!L)
        return DI_EMEMORY;
    di_net *net = L->net;
    di_status s = read_file(L);
    if (!s)
        s = read_config(L);
    if (!s)
        s = bind_all(L, bind_net);
    di_free(ctx, L);
    if (s)
        di_net_close(net);
    else
        *out = net;
    return s;
}

/* ==== 5. The forward pass ================================================================= */

static di_tensor *resample(di_tape *tp, di_tensor *x, int dir)
{
    return dir > 0 ? di_upsample(tp, x) : di_pool2(tp, x);
}

/* h = c1(resample(silu(n1 x))); h = c2(silu(n2(h) (1+s) + t)); y = scale (skip(x) + h) */
static di_tensor *run_res(di_net *net, const res *r, di_tensor *x, di_tensor *emb)
{
    di_tape *tp = &net->now->tape;
    di_tensor *h = di_normalize(tp, x, &r->n1, NULL, 1), *s = x;
    if (r->dir) {
        di_tensor *small = resample(tp, h, r->dir);
        di_drop(tp, h);
        h = small;
        s = resample(tp, x, r->dir);
    }
    di_tensor *h1 = di_convolve(tp, h, &r->c1, NULL, 1);
    di_drop(tp, h);
    di_tensor *e = di_convolve(tp, emb, &r->emb, NULL, 1);
    if (net->f.add)
        di_add_channels(tp, h1, e);
    di_tensor *h2 = di_normalize(tp, h1, &r->n2, net->f.add ? NULL : e, 1);
    di_drop(tp, e);
    di_drop(tp, h1);
    di_tensor *skip = r->skip.oc ? di_convolve(tp, s, &r->skip, NULL, 1) : s;
    di_tensor *y = di_convolve(tp, h2, &r->c2, skip, r->scale);
    di_drop(tp, h2);
    if (skip != s)
        di_drop(tp, skip);
    if (s != x)
        di_drop(tp, s);
    return y;
}

static di_tensor *run_att(di_net *net, const att *a, di_tensor *x)
{
    di_tape *tp = &net->now->tape;
    di_tensor *z = a->n.c ? di_normalize(tp, x, &a->n, NULL, 0) : x;
    di_tensor *qkv = di_convolve(tp, z, &a->qkv, NULL, 1);
    if (z != x)
        di_drop(tp, z);
    di_tensor *o = di_attention(tp, qkv, a->heads);
    di_drop(tp, qkv);
    di_tensor *y = di_convolve(tp, o, &a->proj, x, a->scale);
    di_drop(tp, o);
    return y;
}

/* One block of the encoder or decoder. */
static di_tensor *run_stage(void *user, const void *part, di_tensor *x, di_tensor *emb)
{
    di_net *net = user;
    const stage *s = part;
    di_tape *tp = &net->now->tape;
    di_tensor *y = s->has_res ? run_res(net, &s->r, x, emb) : x, *z = y;
    if (s->a.heads) {
        z = run_att(net, &s->a, y);
        if (y != x)
            di_drop(tp, y);
        y = z;
    }
    if (s->resample == RESAMPLE_RES) {
        z = run_res(net, &s->rs, y, emb);
    } else if (s->resample == RESAMPLE_POOL) {
        z = resample(tp, y, s->dir);
    } else if (s->resample && s->dir > 0) {
        di_tensor *big = di_upsample(tp, y);
        z = di_convolve(tp, big, &s->c, NULL, 1);
        di_drop(tp, big);
    } else if (s->resample) {
        z = di_convolve(tp, y, &s->c, NULL, 1);
    }
    if (s->resample && y != x)
        di_drop(tp, y);
    return z;
}

static di_tensor *block(di_net *net, const stage *s, di_tensor *x, di_tensor *emb)
{
    if (net->keep & DI_KEEP_BLOCKS)
        return di_again(&net->now->tape, run_stage, net, s, x, emb);
    return run_stage(net, s, x, emb);
}

/* The vectors of classes, of `width`, added to those of n images in a (1,width,1,n) tensor. */
static void add_label(di_net *net, di_tensor *v, int n, int width, const int *label)
{
    double gain = net->f.label_time ? sqrt(net->f.classes) : 1;
    for (int c = 0; v && !net->now->tape.dry && c < width; c++)
        for (int k = 0; k < n; k++) {
            double add = gain * net->label[(size_t)label[k] * width + c];
            v->blk[c / 16][((size_t)(n + 2) + 1 + k) * 16 + c % 16] +=
                (di_real)(net->label_b ? add + net->label_b[c] : add);
        }
}

/* silu(W2 silu(W1 v + b1) + b2 (+ label)), as a (1,E,1,N) tensor: one pixel an image.
   Frequencies and phases in double, rounded once. net.label=time: v += sqrt(classes) label + b,
   as SongUNet does, instead. */
static di_tensor *embed(di_net *net, int n, const double *t, const int *label)
{
    const config *f = &net->f;
    di_tape *tp = &net->now->tape;
    int half = f->base / 2;
    di_tensor *v = di_tensor_new(tp, 1, f->base, 1, n);
    for (int b = 0; v && !tp->dry && b < v->cb; b++)
        memset(v->blk[b], 0, (size_t)3 * (n + 2) * 16 * sizeof(di_real));
    for (int i = 0; v && !tp->dry && i < half; i++) {
        double freq = di_exp(-di_log(f->max_period) * i / (half - f->freq_shift));
        for (int k = 0; k < n; k++) {
            size_t at = ((size_t)(n + 2) + 1 + k) * 16;
            double phase = t[k] * f->t_scale * freq;
            int c = f->sin_first ? half + i : i, s = f->sin_first ? i : half + i;
            v->blk[c / 16][at + c % 16] = (di_real)di_cos(phase);
            v->blk[s / 16][at + s % 16] = (di_real)di_sin(phase);
        }
    }
    if (label && f->label_time)
        add_label(net, v, n, f->base, label);
    di_tensor *a = di_convolve(tp, v, &net->temb[0], NULL, 1), *b = di_silu(tp, a);
    di_tensor *e = di_convolve(tp, b, &net->temb[1], NULL, 1);
    if (label && !f->label_time)
        add_label(net, e, n, f->emb, label);
    di_tensor *out = di_silu(tp, e);
    di_drop(tp, v);
    di_drop(tp, a);
    di_drop(tp, b);
    di_drop(tp, e);
    return out;
}

/* Images of a batch that go through the network together: more would leave the caches. */
static int group_size(size_t n, int h, int w)
{
    size_t g = 16384 / ((size_t)h * w);
    return (int)(g < 1 ? 1 : g < n ? g : n);
}

/* net.center: x = 2x - 1, but for the border and channels past c, which stay 0. */
static void center(di_tensor *x)
{
    for (int b = 0; b < x->n * x->cb; b++) {
        int channels = x->c - b % x->cb * 16 < 16 ? x->c - b % x->cb * 16 : 16;
        for (int i = 1; i <= x->h; i++)
            for (int j = 1; j <= x->w; j++) {
                di_real *p = x->blk[b] + ((size_t)i * (x->w + 2) + j) * 16;
                for (int c = 0; c < channels; c++)
                    p[c] = 2 * p[c] - 1;
            }
    }
}

/* One group of n images as number `k` of the present pass. */
static void forward(di_net *net, int k, int n, int h, int w, const double *t, const int *label,
                    const di_real *planar)
{
    pass *p = net->now;
    di_tape *tp = &p->tape;
    di_tensor *skip[LEVELS * (MAX_BLOCKS + 1) + 1];
    int skips = 0;
    di_tensor *emb = embed(net, n, t, label);
    di_tensor *x = di_pack(tp, n, net->f.in, h, w, planar, net->f.in);
    if (x)
        x->need = 1;
    if (x && net->f.center && !tp->dry)
        center(x);
    di_tensor *v = di_convolve(tp, x, &net->stem, NULL, 1);
    skip[skips++] = v;
    for (int i = 0; i < net->encs; i++)
        skip[skips++] = v = block(net, &net->enc[i], v, emb);
    for (int i = 0; i < 2; i++) {
        di_tensor *u = block(net, &net->mid[i], v, emb);
        if (i > 0)
            di_drop(tp, v);
        v = u;
    }
    for (int i = 0; i < net->decs; i++) {
        di_tensor *top = skip[--skips], *both = di_concat(tp, v, top);
        di_drop(tp, v);
        di_drop(tp, top);
        v = block(net, &net->dec[i], both, emb);
        di_drop(tp, both);
    }
    di_tensor *z = di_normalize(tp, v, &net->out_norm, NULL, 1);
    di_drop(tp, v);
    p->x[k] = x;
    p->y[k] = di_convolve(tp, z, &net->out, NULL, 1);
    di_drop(tp, z);
    di_drop(tp, emb);
    di_drop(tp, x);
}

/* The groups' records lie on one tape, one after another. */
static void backward(di_net *net, const di_real *gy, int have, di_real *gx)
{
    pass *p = net->now;
    di_tape *tp = &p->tape;
    for (int k = 0; k < p->groups; k++) {
        di_tensor *y = p->y[k];
        if (!y)
            return;
        y->g = di_pack(tp, y->n, net->f.out, y->h, y->w, gy, have);
        di_drop(tp, y);
        if (!tp->dry) /* NULL takes no offset, not even 0 */
            gy += (size_t)y->n * have * y->h * y->w;
    }
    di_tape_back(tp);
    for (int k = 0; k < p->groups; k++) {
        di_tensor *x = p->x[k];
        size_t size = (size_t)x->n * net->f.in * x->h * x->w;
        di_unpack(tp, x->g, 0, net->f.in, gx);
        for (size_t i = 0; net->f.center && !tp->dry && i < size; i++)
            gx[i] *= 2;
        di_drop(tp, x->g);
        if (!tp->dry)
            gx += size;
    }
    p->groups = 0; /* the tape is used up */
}

/* ==== 6. Plans and the public calls ======================================================= */

static di_status room_for_groups(di_net *net, pass *p, int groups)
{
    if (p->room >= groups)
        return DI_OK;
    di_free(net->ctx, p->x);
    p->room = 0;
    p->x = di_new(net->ctx, 2 * (size_t)groups, sizeof *p->x);
    if (!p->x)
        return DI_EMEMORY;
    p->y = p->x + groups;
    p->room = groups;
    return DI_OK;
}

/* Bytes of working memory by a dry run; also counts multiply-adds. 0 after a failure. */
static size_t plan(di_net *net, size_t n, int h, int w, int vjp)
{
    if (net->plan_bytes && net->plan_n == n && net->plan_h == h && net->plan_w == w
        && net->plan_vjp == vjp && net->plan_threads == net->ctx->threads
        && net->plan_fast == net->ctx->fast && net->plan_keep == net->keep)
        return net->plan_bytes;
    net->plan_bytes = 0;
    int m = di_net_multiple(net);
    if (h > 1 << 15 || w > 1 << 15) {
        di_fail(net->ctx, DI_EUSAGE, "image size %dx%d: at most 32768 a side", h, w);
        return 0;
    }
    if (h < m || w < m || h % m || w % m) {
        di_fail(net->ctx, DI_EUSAGE, "image size %dx%d: height and width must be multiples of "
                "%d for this network", h, w, m);
        return 0;
    }
    if (n < 1 || n > 4096) {
        di_fail(net->ctx, DI_EUSAGE, "a batch of %.0f images: 1 to 4096", (double)n);
        return 0;
    }
    pass *p = net->now = net->pass;
    int g = group_size(n, h, w), groups = vjp ? ((int)n + g - 1) / g : 1;
    p->groups = 0;
    if (room_for_groups(net, p, groups) || di_tape_begin(&p->tape, NULL, 0, vjp))
        return 0;
    for (int k = 0; k < groups; k++)
        forward(net, k, k * g + g < (int)n ? g : (int)n - k * g, h, w, NULL, NULL, NULL);
    p->groups = groups;
    if (vjp)
        backward(net, NULL, 0, NULL);
    p->groups = 0;
    if (p->tape.failed)
        return 0;
    net->plan_n = n;
    net->plan_h = h;
    net->plan_w = w;
    net->plan_vjp = vjp;
    net->plan_threads = net->ctx->threads;
    net->plan_fast = net->ctx->fast;
    net->plan_keep = net->keep;
    return net->plan_bytes = p->tape.arena.peak;
}

size_t di_net_bytes(di_net *net, size_t n, int h, int w, int vjp)
{
    return plan(net, n, h, w, vjp);
}

size_t di_net_weight_bytes(const di_net *net) { return net->weight_bytes; }

double di_net_macs(const di_net *net, int h, int w)
{
    di_net *mutable_net = (di_net *)net; /* a dry run touches only the plan */
    mutable_net->plan_bytes = 0;
    return plan(mutable_net, 1, h, w, 0) ? net->now->tape.macs : 0;
}

static di_status check_run(di_net *net, size_t n, const double *t, const int *label)
{
    if (!net->loaded)
        return di_fail(net->ctx, DI_EUSAGE, "the network was opened head-only");
    if ((net->f.classes > 0) != (label != NULL))
        return di_fail(net->ctx, DI_EUSAGE, net->f.classes ? "this network needs a class label"
                       : "this network takes no class label");
    for (size_t i = 0; label && i < n; i++)
        if (label[i] < 0 || label[i] >= net->f.classes)
            return di_fail(net->ctx, DI_EUSAGE, "class label %d: 0 to %d", label[i],
                           net->f.classes - 1);
    for (size_t i = 0; i < n; i++)
        if (!(t[i] > -1e5 && t[i] < 1e5))
            return di_fail(net->ctx, DI_EUSAGE, "network time %g is out of range", t[i]);
    return DI_OK;
}

/* Makes a pass with `need` bytes the present one: number `keep`, or for 0 any that is free. */
static di_status take_pass(di_net *net, int keep, size_t need)
{
    pass *p = &net->pass[keep];
    for (int i = 1; keep == 0 && i <= DI_MAX_KEEP && p->memory_size < need; i++)
        if (net->pass[i].memory_size >= need && !net->pass[i].groups)
            p = &net->pass[i];
    if (p->memory_size < need) {
        pass *old[2] = { p, net->pass }; /* what is not kept makes room */
        for (int i = 0; i < 2; i++) {
            di_free(net->ctx, old[i]->memory);
            old[i]->memory = NULL;
            old[i]->memory_size = 0;
        }
        p->memory = di_new(net->ctx, need, 1);
        if (!p->memory)
            return DI_EMEMORY;
        p->memory_size = need;
    }
    net->now = p;
    p->groups = 0;
    return DI_OK;
}

/* Runs the network as pass `keep`; kept: the pass stays for backward. y, and v if not NULL,
   are the first and the next `channels` of the output. */
static di_status run_forward(di_net *net, size_t n, int h, int w, const double *t,
                             const int *label, const di_real *x, int channels, di_real *y,
                             di_real *v, int keep, int kept)
{
    if (check_run(net, n, t, label))
        return net->ctx->status;
    size_t need = plan(net, n, h, w, kept);
    if (!need || take_pass(net, keep, need))
        return net->ctx->status;
    pass *p = net->now;
    int g = group_size(n, h, w), groups = ((int)n + g - 1) / g;
    size_t pixels = (size_t)h * w;
    if (room_for_groups(net, p, groups))
        return DI_EMEMORY;
    for (int k = 0; k < groups && !net->ctx->status; k++) {
        size_t i = (size_t)k * g;
        if ((k == 0 || !kept) && di_tape_begin(&p->tape, p->memory, p->memory_size, kept))
            return DI_EMEMORY;
        forward(net, k, i + g < n ? g : (int)(n - i), h, w, t + i, label ? label + i : NULL,
                x + i * net->f.in * pixels);
        if (y)
            di_unpack(&p->tape, p->y[k], 0, channels, y + i * channels * pixels);
        if (v)
            di_unpack(&p->tape, p->y[k], channels, channels, v + i * channels * pixels);
    }
    p->groups = kept && !net->ctx->status ? groups : 0;
    return net->ctx->status;
}

di_status di_net_run(di_net *net, size_t n, int h, int w, const double *t, const int *label,
                     const di_real *x, di_real *y, const di_real *gy, di_real *gx)
{
    di_status s = run_forward(net, n, h, w, t, label, x, net->f.out, y, NULL, 0, gy && gx);
    if (!s && gy && gx)
        backward(net, gy, net->f.out, gx);
    return net->ctx->status;
}

void di_net_keep(di_net *net, int plan_number) { net->keep = plan_number; }

const char *di_net_get(const di_net *net, const char *key)
{
    for (int i = 0; i < net->lines; i++)
        if (strcmp(net->line[i].key, key) == 0)
            return net->line[i].value;
    return NULL;
}

const char *di_net_meta(const di_net *net, size_t *len)
{
    *len = net->meta_len;
    return net->meta;
}

uint32_t di_net_crc(const di_net *net) { return net->crc; }

size_t di_net_weights(const di_net *net) { return net->weights; }

int di_net_channels(const di_net *net, int *out)
{
    *out = net->f.out;
    return net->f.in;
}

int di_net_multiple(const di_net *net) { return 1 << (net->f.levels - 1); }

void di_net_close(di_net *net)
{
    if (!net)
        return;
    di_ctx *ctx = net->ctx;
    for (int i = 0; i <= DI_MAX_KEEP; i++) {
        di_tape_close(&net->pass[i].tape);
        di_free(ctx, net->pass[i].memory);
        di_free(ctx, net->pass[i].input);
        di_free(ctx, net->pass[i].x);
        di_free(ctx, net->pass[i].frame);
    }
    for (int i = 0; i < net->convs; i++) {
        di_free(ctx, net->conv[i]->w);
        di_free(ctx, net->conv[i]->bias);
    }
    for (int i = 0; i < net->norms; i++) {
        di_free(ctx, net->norm[i]->g);
        di_free(ctx, net->norm[i]->b);
    }
    di_free(ctx, net->label);
    di_free(ctx, net->label_b);
    di_free(ctx, net->framed);
    di_free(ctx, net->beta);
    di_free(ctx, net->levels);
    di_free(ctx, net->entry);
    di_free(ctx, net->line);
    di_free(ctx, net->meta);
    di_free(ctx, net->head);
    di_free(ctx, net);
}

/* ==== 7. Noise levels and times ==============================================================
   abar_i = prod_{j<=i} (1 - beta_j), sigma = sqrt((1 - abar)/abar). Both directions walk the
   table by multiplication, which is cheap, and take logarithms between two entries only. */

/* t = -1 is the clean image itself; before it there is nothing. With i the whole index at or
   below t, -1 <= i < steps: abar = abar_i (1 - beta_{i+1})^(t-i), beyond the table with its
   last beta. */
double di_prior_abar(const di_prior *p, double t)
{
    const double most = 1 - 1.1102230246251565e-16; /* so that 1 - abar stays positive */
    double abar = 1;
    int i = -1, last = p->steps - 1;
    while (i < last && i + 1 <= t)
        abar *= 1 - p->beta[++i];
    if (!(t <= i)) /* NaN goes through */
        abar *= di_exp((t - i) * di_log(1 - p->beta[i < last ? i + 1 : last]));
    return t == -1 ? 1 : abar > most ? most : abar;
}

/* (steps-1) tau of the VP process with beta(tau) = beta_min + beta_d tau. */
static double vp_time(int steps, double beta_d, double beta_min, double grown)
{
    return (steps - 1) * (sqrt(beta_min * beta_min + 2 * beta_d * di_log(grown)) - beta_min)
           / beta_d;
}

double di_prior_time(const di_prior *p, double sigma, int continuous)
{
    double grown = 1 + sigma * sigma, abar = 1;
    if (continuous && p->continuous >= 0)
        return vp_time(1000, 19.9, 0.1, grown);
    int i = 0;
    while (i < p->steps - 1 && abar * (1 - p->beta[i]) * grown > 1)
        abar *= 1 - p->beta[i++];
    return i - 1 - di_log(grown * abar) / di_log(1 - p->beta[i]);
}

/* ==== 8. A network as a denoiser =============================================================
   Preconditioning (arXiv 2206.00364, eq. 7 and table 1): x = x_0 + sigma N, the denoiser is
     D(x; sigma) = skip x + out F(in x, time)
   and the noise predictor at x_t = sqrt(abar) x is eps = (x - D) / sigma. */

/* Time of the level of iddpm nearest to sigma, the first if two are. */
static double iddpm_time(const di_net *net, double sigma)
{
    int best = 0;
    for (int j = 1; j <= net->steps; j++)
        if (fabs(net->levels[j] - sigma) < fabs(net->levels[best] - sigma))
            best = j;
    return net->steps - 1 - best;
}

/* D at level sigma > 0; t: the time by the table, for a network trained with one. */
static frame denoiser(const di_net *net, double sigma, double t)
{
    const config *f = &net->f;
    double grown = 1 + sigma * sigma, sd = f->sigma_data, all = sigma * sigma + sd * sd;
    frame a = { 1 / sqrt(grown), t, 1, -sigma }; /* predicts eps */
    if (f->pred == PRED_X0) {
        a.skip = 0;
        a.out = 1;
    } else if (f->pred == PRED_V) { /* v = sqrt(abar) eps - sqrt(1-abar) x_0 */
        a.skip = 1 / grown;
        a.out = -sigma / sqrt(grown);
    }
    if (f->sched == SCHED_VP) {
        a.time = vp_time(net->steps, f->beta_d, f->beta_min, grown);
    } else if (f->sched == SCHED_IDDPM) {
        a.time = iddpm_time(net, sigma);
    } else if (f->sched == SCHED_VE) {
        a.in = 1;
        a.time = di_log(sigma / 2);
        a.out = sigma;
    } else if (f->sched == SCHED_EDM) {
        a.in = 1 / sqrt(all);
        a.time = di_log(sigma) / 4;
        a.skip = sd * sd / all;
        a.out = sigma * sd / sqrt(all);
    }
    return a;
}

/* eps of x_t at time t of the prior's table: (x - D) / sigma, x = x_t sqrt(1 + sigma^2). */
static frame predictor(const di_net *net, const di_prior *p, double t)
{
    double abar = di_prior_abar(p, t == -1 ? t + 1e-15 : t);
    double sigma = sqrt((1 - abar) / abar), grow = sqrt(1 / abar);
    frame a = denoiser(net, sigma, t);
    if (net->f.pred == PRED_EPS) {
        a.in = a.out = 1;
        a.skip = 0;
    } else {
        a.in *= grow;
        a.skip = (1 - a.skip) / sigma * grow;
        a.out /= -sigma;
    }
    return a;
}

/* Whether a prior's pass is more than F at the time of the table. */
static int is_framed(const di_net *net)
{
    return net->f.pred != PRED_EPS || net->f.sched > SCHED_COSINE;
}

/* Room for the frames of n images as pass `keep`, and for one framed input of size d each. */
static di_status room_for_frames(di_net *net, int keep, size_t n, size_t d)
{
    pass *p = &net->pass[keep];
    if (p->frames < n) {
        di_free(net->ctx, p->frame);
        p->frames = 0;
        p->frame = di_new(net->ctx, n, sizeof *p->frame + sizeof *p->time);
        if (!p->frame)
            return DI_EMEMORY;
        p->time = (double *)(void *)(p->frame + n);
        p->frames = n;
    }
    if (net->framed_size < n * d) {
        di_free(net->ctx, net->framed);
        net->framed_size = 0;
        net->framed = di_new(net->ctx, n * d, sizeof *net->framed);
        if (!net->framed)
            return DI_EMEMORY;
        net->framed_size = n * d;
    }
    return DI_OK;
}

/* framed = factor x of each image, the factor at that place of its frame. */
static const di_real *frame_with(di_net *net, const pass *p, size_t place, size_t n, size_t d,
                                 const di_real *x)
{
    for (size_t i = 0; i < n * d; i++) {
        const char *at = (const char *)&p->frame[i / d] + place;
        net->framed[i] = (di_real)*(const double *)(const void *)at * x[i];
    }
    return net->framed;
}

di_status di_net_denoise(di_net *net, size_t n, int h, int w, const double *sigma,
                         const int *label, const di_real *x, di_real *x0, const di_real *gy,
                         di_real *gx)
{
    size_t d = (size_t)net->f.in * h * w;
    di_prior table = { .steps = net->steps, .beta = net->beta };
    pass *p = net->pass;
    if (net->f.in != net->f.pred_channels)
        return di_fail(net->ctx, DI_EUSAGE, "a network that predicts %d of %d channels is no "
                       "denoiser", net->f.pred_channels, net->f.in);
    for (size_t i = 0; i < n; i++)
        if (!(sigma[i] > 1e-8 && sigma[i] < 1e8))
            return di_fail(net->ctx, DI_EUSAGE, "noise level %g: it must be positive",
                           sigma[i]);
    if (!plan(net, n, h, w, gy && gx) || room_for_frames(net, 0, n, d))
        return net->ctx->status;
    for (size_t i = 0; i < n; i++) {
        p->frame[i] = denoiser(net, sigma[i], di_prior_time(&table, sigma[i], net->linear));
        p->time[i] = p->frame[i].time;
    }
    if (run_forward(net, n, h, w, p->time, label,
                    frame_with(net, p, offsetof(frame, in), n, d, x), net->f.pred_channels, x0,
                    NULL, 0, gy && gx))
        return net->ctx->status;
    for (size_t i = 0; i < n * d; i++)
        x0[i] = (di_real)p->frame[i / d].out * x0[i] + (di_real)p->frame[i / d].skip * x[i];
    if (!gy || !gx)
        return DI_OK;
    backward(net, frame_with(net, p, offsetof(frame, out), n, d, gy), net->f.pred_channels, gx);
    for (size_t i = 0; i < n * d; i++)
        gx[i] = (di_real)p->frame[i / d].in * gx[i] + (di_real)p->frame[i / d].skip * gy[i];
    return net->ctx->status;
}

/* ==== 9. A network as a prior ============================================================= */

typedef struct net_prior {
    di_prior p;
    di_net *net;
} net_prior;

/* Keeps the input of pass `keep`, all that running it again needs. */
static di_status keep_input(di_net *net, pass *p, size_t n, int h, int w, const double *t,
                            const int *label, const di_real *x)
{
    size_t d = n * (size_t)net->f.in * h * w, size = d * sizeof *x + n * sizeof *t;
    if (p->input_size < size) {
        di_free(net->ctx, p->input);
        p->input_size = 0;
        p->input = di_new(net->ctx, size, 1);
        if (!p->input)
            return DI_EMEMORY;
        p->input_size = size;
    }
    memcpy(p->input, t, n * sizeof *t);
    memcpy((char *)p->input + n * sizeof *t, x, d * sizeof *x);
    p->n = n;
    p->h = h;
    p->w = w;
    p->label = label;
    return DI_OK;
}

/* eps, and v when asked for: the two halves of the output's channels. */
static di_status net_eval(di_prior *p, size_t n, const double *t, const di_real *x,
                          di_real *eps, di_real *v, int keep)
{
    di_net *net = ((net_prior *)p)->net;
    int again = keep && net->keep & DI_KEEP_STEPS;
    if (keep < 0 || keep > DI_MAX_KEEP)
        return di_fail(net->ctx, DI_EUSAGE, "%d passes kept: at most %d", keep, DI_MAX_KEEP);
    if (p->variance != DI_VAR_LEARNED_RANGE)
        v = NULL;
    size_t d = (size_t)p->c * p->h * p->w;
    pass *q = &net->pass[keep];
    int shaped = net->f.pred != PRED_EPS; /* and so more than the time differs from F */
    if (is_framed(net)) {
        if (room_for_frames(net, keep, n, shaped ? d : 0))
            return net->ctx->status;
        for (size_t i = 0; i < n; i++) {
            q->frame[i] = predictor(net, p, t[i]);
            q->time[i] = q->frame[i].time;
        }
        t = q->time;
        if (shaped)
            x = frame_with(net, q, offsetof(frame, in), n, d, x);
    }
    q->images = n;
    if (again && keep_input(net, &net->pass[keep], n, p->h, p->w, t, p->label, x))
        return net->ctx->status;
    di_status s = run_forward(net, n, p->h, p->w, t, p->label, x, net->f.pred_channels, eps, v,
                              again ? 0 : keep, keep && !again);
    for (size_t i = 0; shaped && !s && i < n * d; i++) { /* x is framed: in x */
        const frame *a = &q->frame[i / d];
        eps[i] = (di_real)a->out * eps[i] + (di_real)(a->skip / a->in) * x[i];
    }
    return s;
}

static di_status net_vjp(di_prior *p, int keep, const di_real *geps, di_real *gx)
{
    di_net *net = ((net_prior *)p)->net;
    pass *q = keep < 1 || keep > DI_MAX_KEEP ? NULL : &net->pass[keep];
    size_t n = q ? q->images : 0, d = (size_t)p->c * p->h * p->w;
    if (q && net->keep & DI_KEEP_STEPS && q->n) {
        const double *t = q->input;
        q->n = 0;
        if (run_forward(net, n, q->h, q->w, t, q->label, (const di_real *)(t + n), 0, NULL,
                        NULL, 0, 1))
            return net->ctx->status;
    } else if (q && q->groups) {
        net->now = q;
    } else {
        return di_fail(net->ctx, DI_EUSAGE, "a prior's vjp must follow an eval with its keep");
    }
    int shaped = net->f.pred != PRED_EPS;
    if (shaped)
        geps = frame_with(net, q, offsetof(frame, out), n, d, geps);
    backward(net, geps, net->f.pred_channels, gx);
    for (size_t i = 0; shaped && i < n * d; i++) { /* geps is framed: out geps */
        const frame *a = &q->frame[i / d];
        gx[i] = (di_real)a->in * gx[i] + (di_real)(a->skip / a->out) * geps[i];
    }
    return net->ctx->status;
}

/* Each kept pass has a tape of its own beside the one that the plan was made with. */
static size_t net_prior_bytes(di_prior *p, size_t n, int keep)
{
    di_net *net = ((net_prior *)p)->net;
    size_t d = n * (size_t)p->c * p->h * p->w, one = plan(net, n, p->h, p->w, keep > 0);
    size_t framed = 0, passes = (size_t)(keep > 1 ? keep : 1);
    if (is_framed(net))
        framed = passes * n * (sizeof(frame) + sizeof(double))
                 + (net->f.pred == PRED_EPS ? 0 : d * sizeof(di_real));
    if (keep && net->keep & DI_KEEP_STEPS)
        return framed + one + keep * (d * sizeof(di_real) + n * sizeof(double));
    size_t tapes = keep ? (size_t)keep * di_tape_bytes(&net->pass[0].tape) : 0;
    return one ? framed + one * passes + tapes : 0;
}

di_status di_prior_net(di_net *net, int h, int w, di_prior **out)
{
    *out = NULL;
    if (net->f.in != net->f.pred_channels)
        return di_fail(net->ctx, DI_EINPUT, "a prior's network must have as many input as "
                       "predicted channels");
    if (!plan(net, 1, h, w, 0))
        return net->ctx->status;
    net_prior *np = di_new(net->ctx, 1, sizeof *np);
    if (!np)
        return DI_EMEMORY;
    np->net = net;
    np->p.ctx = net->ctx;
    np->p.c = net->f.pred_channels;
    np->p.h = h;
    np->p.w = w;
    np->p.variance = net->f.var;
    np->p.steps = net->steps;
    np->p.beta = net->beta;
    np->p.continuous = net->f.sched > SCHED_COSINE ? -1 : net->linear;
    np->p.eval = net_eval;
    np->p.vjp = net_vjp;
    np->p.bytes = net_prior_bytes;
    np->p.self = np;
    *out = &np->p;
    return DI_OK;
}

/* ==== 10. A network that blurs ===============================================================
   The function G of "Exploring Image Deblurring via Blur Kernel Space" (arXiv 2104.00317, class
   KernelWizard, without norms), which blurs an image x as a latent k says, on the tape:

     f = front(x)                   3x3 convolutions, the last two of stride 2; residual blocks
     e1 = down0(f), e_i+1 = down_i(lrelu(e_i)), i = 1..4          4x4, stride 2
     d4 = up4(relu(e5, k)), d_i = up_i(relu(d_i+1, e_i+1)), i = 3..1    their transposes
     out = tanh(up0(relu(d1, e1))), net(x) = x + back(out)    residual blocks, two doublings

   Every layer becomes a 3x3 convolution of stride 1, but for two: pixels are first shuffled
   into channels, or channels into pixels afterwards. A 4x4 kernel of stride 2 has 16 of the 36
   taps that this makes of it; the others are 0. So its weights take 2.25 times the memory, and
   the fast kernels do all the work. */

enum { BLUR_MOST = 64, BLUR_DEPTH = 5, BLUR_TAIL = 64, BLUR_SIDE = 128 };
typedef struct blur_res {       /* y = x + c2(relu(c1 x)) */
    di_conv c1, c2;
} blur_res;
struct di_bkse {
    di_ctx *ctx;
    int base, blocks[2], loaded; /* blocks: residual blocks in front and back */
    size_t weights, weight_bytes;
    di_conv head[3], down[BLUR_DEPTH], up[BLUR_DEPTH], grow[2], mid, out;
    blur_res res[2][BLUR_MOST];
    di_tape tape;
    char *memory;
    size_t memory_size, plan[2]; /* plan: bytes without and with derivative */
    int plan_h, plan_w, plan_threads, plan_fast;
    di_real *work;              /* (2,3,h,w): (x + 1)/2, and an output's gradient */
    size_t work_size;
};

/* What a layer of the file is, and how its 3x3 kernel comes from it. */
enum { BLUR_PLAIN, BLUR_GROW, BLUR_DOWN, BLUR_UP };

/* to (oc,ic,3,3), from as in the file. Of 2x2 pixels (a,b) is number 2a + b.
     GROW: a pixel shuffle follows, channel 4c + 2a + b becomes (2a+b)C + c
     DOWN: from (oc,ic/4,4,4), tap t of 4 reads pixel a of cell ky, t = 2 ky + a - 1
     UP:   from (ic,oc/4,4,4), pixel a of a cell has tap t = a + 3 - 2 ky */
static void blur_kernel(di_real *to, const di_real *from, int kind, int oc, int ic)
{
    for (int o = 0; o < oc; o++)
        for (int i = 0; i < ic; i++)
            for (int ky = 0; ky < 3; ky++)
                for (int kx = 0; kx < 3; kx++, to++) {
                    int C = kind == BLUR_DOWN ? ic / 4 : oc / 4, part = 0, y, x;
                    if (kind == BLUR_DOWN || kind == BLUR_UP)
                        part = kind == BLUR_DOWN ? i / C : o / C;
                    y = kind == BLUR_DOWN ? 2 * ky + part / 2 - 1 : part / 2 + 3 - 2 * ky;
                    x = kind == BLUR_DOWN ? 2 * kx + part % 2 - 1 : part % 2 + 3 - 2 * kx;
                    int tap = y < 0 || y > 3 || x < 0 || x > 3 ? -1 : 4 * y + x;
                    size_t at = ((size_t)o * ic + i) * 9 + 3 * ky + kx;
                    if (kind == BLUR_GROW)
                        at = ((size_t)(o % C * 4 + o / C) * ic + i) * 9 + 3 * ky + kx;
                    else if (kind == BLUR_DOWN)
                        at = ((size_t)o * C + i % C) * 16 + tap;
                    else if (kind == BLUR_UP)
                        at = ((size_t)i * C + o % C) * 16 + tap;
                    *to = tap < 0 && kind >= BLUR_DOWN ? 0 : from[at];
                }
}

/* One layer, oc and ic as in the file; the file's names: PREFIX.w, and PREFIX.b if biased. */
static void blur_layer(loader *L, di_conv *w, const char *prefix, int kind, int oc, int ic,
                       int biased)
{
    di_bkse *b = L->blur;
    int d[4] = { kind == BLUR_UP ? ic : oc, kind == BLUR_UP ? oc : ic, 3, 3 };
    if (kind >= BLUR_DOWN)
        d[2] = d[3] = 4;
    w->k = 3;
    w->oc = kind == BLUR_UP ? 4 * oc : oc;
    w->ic = kind == BLUR_DOWN ? 4 * ic : ic;
    if (!w->stride)
        w->stride = 1;
    di_real *from = tensor(L, prefix, ".w", 4, d);
    di_real *bias = biased ? vector(L, prefix, ".b", oc) : NULL;
    b->weights += (size_t)oc * ic * d[2] * d[3] + (biased ? oc : 0);
    b->weight_bytes += di_conv_bytes(w->oc, w->ic, 3);
    size_t n = (size_t)w->oc * w->ic * 9;
    di_real *to = from && (bias || !biased) ? di_new(L->ctx, n + w->oc, sizeof *to) : NULL;
    if (to) {
        blur_kernel(to, from, kind, w->oc, w->ic);
        for (int o = 0; bias && o < w->oc; o++)
            to[n + o] = bias[kind == BLUR_GROW ? o % (oc / 4) * 4 + o / (oc / 4) : o % oc];
        di_conv_init(L->ctx, w, to, to + n);
    }
    di_free(L->ctx, to);
    di_free(L->ctx, from);
    di_free(L->ctx, bias);
}

static void bind_blur(loader *L)
{
    di_bkse *b = L->blur;
    int nf = b->base, width[BLUR_DEPTH + 1] = { nf, nf, 2 * nf, 4 * nf, 8 * nf, 8 * nf };
    char p[NAME];
    b->weights = b->weight_bytes = 0;
    b->head[1].stride = b->head[2].stride = 2;
    for (int i = 0; i < 3; i++) {
        snprintf(p, sizeof p, "front.%d", i);
        blur_layer(L, &b->head[i], p, BLUR_PLAIN, nf, i ? nf : 3, 1);
    }
    for (int side = 0; side < 2; side++) {
        for (int i = 0; i < b->blocks[side]; i++) {
            snprintf(p, sizeof p, "%s.res.%d.c1", side ? "back" : "front", i);
            blur_layer(L, &b->res[side][i].c1, p, BLUR_PLAIN, nf, nf, 1);
            snprintf(p, sizeof p, "%s.res.%d.c2", side ? "back" : "front", i);
            blur_layer(L, &b->res[side][i].c2, p, BLUR_PLAIN, nf, nf, 1);
        }
        for (int i = 0; !side && i < BLUR_DEPTH; i++) {
            snprintf(p, sizeof p, "down.%d", i);
            blur_layer(L, &b->down[i], p, BLUR_DOWN, width[i + 1], width[i], 0);
        }
        for (int i = BLUR_DEPTH - 1; !side && i >= 0; i--) {
            snprintf(p, sizeof p, "up.%d", i);
            blur_layer(L, &b->up[i], p, BLUR_UP, width[i], 2 * width[i + 1], !i);
        }
    }
    blur_layer(L, &b->grow[0], "back.up.0", BLUR_GROW, 4 * nf, nf, 1);
    blur_layer(L, &b->grow[1], "back.up.1", BLUR_GROW, 4 * BLUR_TAIL, nf, 1);
    blur_layer(L, &b->mid, "back.mid", BLUR_PLAIN, BLUR_TAIL, BLUR_TAIL, 1);
    blur_layer(L, &b->out, "back.out", BLUR_PLAIN, 3, BLUR_TAIL, 1);
}

di_status di_bkse_open(di_ctx *ctx, di_read_fn read, void *user, uint64_t size, unsigned flags,
                       di_bkse **out)
{
    *out = NULL;
    di_bkse *b = di_new(ctx, 1, sizeof *b);
    loader *L = b ? loader_new(ctx, read, user, size, flags) : NULL;
    if (!L)
        return ctx->status;
    b->ctx = ctx;
    L->blur = b;
    di_tape_open(&b->tape, ctx);
    di_status s = read_file(L);
    if (!s)
        s = want_kind(L, "bkse");
    if (!s) {
        meta_int(L, "net.in", 3, 3);
        b->base = meta_int(L, "net.base", 16, 4096);
        b->blocks[0] = meta_int(L, "net.front", 0, BLUR_MOST);
        b->blocks[1] = meta_int(L, "net.back", 0, BLUR_MOST);
        s = refuse_unused(L);
        if (!s && b->base % 16)
            s = di_fail(ctx, DI_EINPUT, "weight file: net.base=%d must be a multiple of 16",
                        b->base);
    }
    if (!s)
        s = bind_all(L, bind_blur);
    b->loaded = L->net->loaded;
    di_net_close(L->net);
    di_free(ctx, L);
    if (s)
        di_bkse_close(b);
    else
        *out = b;
    return s;
}

static void blur_conv_free(di_ctx *ctx, di_conv *w)
{
    di_free(ctx, w->w);
    di_free(ctx, w->bias);
}

void di_bkse_close(di_bkse *b)
{
    if (!b)
        return;
    di_ctx *ctx = b->ctx;
    for (int i = 0; i < 3; i++)
        blur_conv_free(ctx, &b->head[i]);
    for (int i = 0; i < BLUR_DEPTH; i++) {
        blur_conv_free(ctx, &b->down[i]);
        blur_conv_free(ctx, &b->up[i]);
    }
    for (int i = 0; i < 2 * BLUR_MOST; i++) {
        blur_conv_free(ctx, &b->res[i / BLUR_MOST][i % BLUR_MOST].c1);
        blur_conv_free(ctx, &b->res[i / BLUR_MOST][i % BLUR_MOST].c2);
    }
    blur_conv_free(ctx, &b->grow[0]);
    blur_conv_free(ctx, &b->grow[1]);
    blur_conv_free(ctx, &b->mid);
    blur_conv_free(ctx, &b->out);
    di_tape_close(&b->tape);
    di_free(ctx, b->memory);
    di_free(ctx, b->work);
    di_free(ctx, b);
}

size_t di_bkse_weights(const di_bkse *b) { return b->weights; }
size_t di_bkse_weight_bytes(const di_bkse *b) { return b->weight_bytes; }

void di_bkse_latent(const di_bkse *b, int h, int w, int shape[3])
{
    shape[0] = 8 * b->base;
    shape[1] = h / BLUR_SIDE;
    shape[2] = w / BLUR_SIDE;
}

/* x's place is taken by its convolution, or by its activation. */
static di_tensor *blur_step(di_tape *tp, di_tensor *x, const di_conv *w)
{
    di_tensor *y = di_convolve(tp, x, w, NULL, 1);
    di_drop(tp, x);
    return y;
}

static di_tensor *blur_bend(di_tape *tp, di_tensor *x, double slope)
{
    di_tensor *y = di_activate(tp, x, slope);
    di_drop(tp, x);
    return y;
}

static di_tensor *blur_shuffle(di_tape *tp, di_tensor *x, int to_big)
{
    di_tensor *y = di_shuffle(tp, x, to_big);
    di_drop(tp, x);
    return y;
}

static di_tensor *blur_blocks(di_bkse *b, int side, di_tensor *x)
{
    di_tape *tp = &b->tape;
    for (int i = 0; i < b->blocks[side]; i++) {
        const blur_res *r = &b->res[side][i];
        di_tensor *h = blur_bend(tp, di_convolve(tp, x, &r->c1, NULL, 1), 0);
        di_tensor *y = di_convolve(tp, h, &r->c2, x, 1);
        di_drop(tp, h);
        di_drop(tp, x);
        x = y;
    }
    return x;
}

/* The nested levels: f and k to out. e's place is taken by two activations of it. */
static di_tensor *blur_adapt(di_bkse *b, di_tensor *f, di_tensor *k)
{
    di_tape *tp = &b->tape;
    di_tensor *skip[BLUR_DEPTH], *e = f;
    for (int i = 0; i < BLUR_DEPTH; i++) {
        di_tensor *l = e;
        if (i) {
            l = di_activate(tp, e, 0.2);
            skip[i] = blur_bend(tp, e, 0);
        }
        e = blur_step(tp, blur_shuffle(tp, l, 0), &b->down[i]);
    }
    di_tensor *d = blur_bend(tp, e, 0), *with = blur_bend(tp, k, 0);
    for (int i = BLUR_DEPTH - 1; i >= 0; i--) {
        di_tensor *both = di_concat(tp, d, with);
        di_drop(tp, d);
        di_drop(tp, with);
        d = blur_shuffle(tp, blur_step(tp, both, &b->up[i]), 1);
        d = blur_bend(tp, d, i ? 0 : DI_TANH);
        with = i ? skip[i] : NULL;
    }
    return d;
}

/* net(x) = x + back(adapt(front(x), k)); x (1,3,h,w), k (1,8 base,h/128,w/128). */
static di_tensor *blur_forward(di_bkse *b, di_tensor *x, di_tensor *k)
{
    di_tape *tp = &b->tape;
    di_tensor *v = blur_bend(tp, di_convolve(tp, x, &b->head[0], NULL, 1), 0.1);
    for (int i = 1; i < 3; i++)
        v = blur_bend(tp, blur_step(tp, v, &b->head[i]), 0.1);
    v = blur_adapt(b, blur_blocks(b, 0, v), k);
    v = blur_blocks(b, 1, v);
    for (int i = 0; i < 2; i++)
        v = blur_bend(tp, blur_shuffle(tp, blur_step(tp, v, &b->grow[i]), 1), 0.1);
    v = blur_bend(tp, blur_step(tp, v, &b->mid), 0.1);
    di_tensor *y = di_convolve(tp, v, &b->out, x, 1);
    di_drop(tp, v);
    return y;
}

/* y = clamp(2 net((x+1)/2) - 1, -1, 1), which lets gradients pass within, ends included: its
   derivative is that of net, the factors 2 and 1/2 cancel. All NULL: a dry run. */
static void blur_pass(di_bkse *b, int h, int w, const di_real *latent, const di_real *x,
                      di_real *y, const di_real *gy, di_real *gx, int vjp)
{
    di_tape *tp = &b->tape;
    int k[3];
    size_t n = (size_t)3 * h * w;
    di_real *in = b->work, *g = tp->dry ? NULL : in + n;
    di_bkse_latent(b, h, w, k);
    for (size_t i = 0; !tp->dry && i < n; i++)
        in[i] = (di_real)0.5 * (x[i] + 1);
    di_tensor *image = di_pack(tp, 1, 3, h, w, in, 3);
    di_tensor *code = di_pack(tp, 1, k[0], k[1], k[2], latent, k[0]);
    if (image)
        image->need = vjp;
    di_tensor *out = blur_forward(b, image, code);
    if (!tp->dry && out)
        di_unpack(tp, out, 0, 3, in);
    for (size_t i = 0; !tp->dry && out && i < n; i++) {
        di_real v = 2 * in[i] - 1;
        if (vjp)
            g[i] = v >= -1 && v <= 1 ? gy[i] : 0;
        if (y)
            y[i] = v < -1 ? -1 : v > 1 ? 1 : v; /* NaN stays */
    }
    if (vjp && out) {
        out->g = di_pack(tp, 1, 3, h, w, g, 3);
        di_drop(tp, out);
        di_tape_back(tp);
        di_unpack(tp, image->g, 0, 3, gx);
        di_drop(tp, image->g);
    } else {
        di_drop(tp, out);
    }
    di_drop(tp, image);
}

size_t di_bkse_bytes(di_bkse *b, int h, int w, int vjp)
{
    if (h < BLUR_SIDE || w < BLUR_SIDE || h % BLUR_SIDE || w % BLUR_SIDE || h > 1 << 15
        || w > 1 << 15) {
        di_fail(b->ctx, DI_EUSAGE, "image size %dx%d: height and width must be multiples of %d "
                "for the network that blurs", h, w, BLUR_SIDE);
        return 0;
    }
    if (b->plan_h != h || b->plan_w != w || b->plan_threads != b->ctx->threads
        || b->plan_fast != b->ctx->fast)
        b->plan[0] = b->plan[1] = 0;
    b->plan_h = h;
    b->plan_w = w;
    b->plan_threads = b->ctx->threads;
    b->plan_fast = b->ctx->fast;
    if (!b->plan[vjp != 0] && !di_tape_begin(&b->tape, NULL, 0, vjp)) {
        blur_pass(b, h, w, NULL, NULL, NULL, NULL, NULL, vjp);
        b->plan[vjp != 0] = b->tape.failed ? 0 : b->tape.arena.peak;
    }
    size_t work = 6 * (size_t)h * w * sizeof(di_real);
    return b->plan[vjp != 0] ? b->plan[vjp != 0] + work : 0;
}

/* Memory *p of at least `size` bytes, kept for the next call. */
static di_status blur_room(di_ctx *ctx, void **p, size_t *have, size_t size)
{
    if (*have >= size)
        return DI_OK;
    di_free(ctx, *p);
    *have = 0;
    *p = di_new(ctx, size, 1);
    if (!*p)
        return DI_EMEMORY;
    *have = size;
    return DI_OK;
}

di_status di_bkse_run(di_bkse *b, int h, int w, const di_real *latent, const di_real *x,
                      di_real *y, const di_real *gy, di_real *gx)
{
    int vjp = gy && gx;
    size_t need = di_bkse_bytes(b, h, w, vjp), work = 6 * (size_t)h * w * sizeof(di_real);
    void *memory = b->memory, *other = b->work;
    if (!need)
        return b->ctx->status;
    if (!b->loaded)
        return di_fail(b->ctx, DI_EUSAGE, "the network was opened head-only");
    di_status s = blur_room(b->ctx, &memory, &b->memory_size, need - work);
    b->memory = memory;
    if (!s)
        s = blur_room(b->ctx, &other, &b->work_size, work);
    b->work = other;
    if (s || di_tape_begin(&b->tape, b->memory, b->memory_size, vjp))
        return b->ctx->status;
    blur_pass(b, h, w, latent, x, y, gy, gx, vjp);
    return b->ctx->status;
}

/* ==== 11. Singular values of a small matrix, double ======================================= */

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
int di_svd(double *w, double *u, double *s, int r, int n)
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
void di_complete_basis(double *w, int filled, int n)
{
    for (int e = 0; filled < n && e < n; e++) {
        double *x = w + (size_t)filled * n;
        memset(x, 0, (size_t)n * sizeof *x);
        x[e] = 1;
        for (int round = 0; round < 2; round++)
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

/* ==== 12. Analytic priors: what they share ==================================================
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

/* ==== 13. The Gaussian prior, exact =========================================================
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
    di_complete_basis(g->q, di_svd(g->q, u, g->lambda, (int)d, (int)d), (int)d);
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

/* ==== 14. The Gaussian mixture, exact =======================================================
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
