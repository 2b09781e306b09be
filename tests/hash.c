/* hash.c: one transcript of everything that computes, as SHA-256 over float arrays: random
   numbers, networks with their derivatives, problems, solvers. Prints a line per numeric class.
   Every compiler, instruction set and thread count must print what tests/hash.txt records.

     hash [ISA|-] [THREADS]          run from the repository root */
#define DIFFINV_KERNELS
#include "maker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- SHA-256 (FIPS 180-4) ---- */

typedef struct sha {
    uint32_t h[8];
    unsigned char block[64];
    uint64_t bytes;
} sha;

static uint32_t turn(uint32_t x, int n) { return x >> n | x << (32 - n); }

/* The 64 round constants: first 32 fractional bits of the cube roots of the primes. */
static void sha_constants(uint32_t *k)
{
    int n = 0;
    for (int p = 2; n < 64; p++) {
        int prime = 1;
        for (int q = 2; q * q <= p; q++)
            prime &= p % q != 0;
        if (!prime)
            continue;
        uint64_t root = 0; /* floor(cbrt(p) 2^32), p < 2^9: by bits, 8.32 fixed point */
        for (uint64_t bit = (uint64_t)1 << 34; bit; bit >>= 1) {
            uint64_t r = root | bit, hi = r >> 20, lo = r & 0xfffff;
            /* r^3 compared with p 2^96, in 20-bit limbs of r = hi 2^20 + lo */
            uint64_t limb[6] = { lo * lo, 2 * hi * lo, hi * hi, 0, 0, 0 };
            limb[1] += limb[0] >> 20;
            limb[0] &= 0xfffff;
            limb[2] += limb[1] >> 20;
            limb[1] &= 0xfffff;
            uint64_t cube[4] = { limb[0] * lo, limb[1] * lo + limb[0] * hi,
                                 limb[2] * lo + limb[1] * hi, limb[2] * hi };
            for (int i = 0; i < 3; i++) {
                cube[i + 1] += cube[i] >> 20;
                cube[i] &= 0xfffff;
            }
            uint64_t top = cube[3], want = (uint64_t)p << 36; /* p 2^96 >> 60 */
            if (top < want)
                root = r;
        }
        k[n++] = (uint32_t)root;
    }
}

static void sha_block(sha *s, const unsigned char *p, const uint32_t *k)
{
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16
               | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 64; i++)
        w[i] = w[i - 16] + w[i - 7]
               + (turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ w[i - 15] >> 3)
               + (turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(v, s->h, sizeof v);
    for (int i = 0; i < 64; i++) {
        uint32_t a = v[7] + (turn(v[4], 6) ^ turn(v[4], 11) ^ turn(v[4], 25))
                     + ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i];
        uint32_t b = (turn(v[0], 2) ^ turn(v[0], 13) ^ turn(v[0], 22))
                     + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += a;
        v[0] = a + b;
    }
    for (int i = 0; i < 8; i++)
        s->h[i] += v[i];
}

static uint32_t K[64];

static void sha_start(sha *s)
{
    static const uint32_t h[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f,
                                   0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };
    memcpy(s->h, h, sizeof h);
    s->bytes = 0;
}

static void sha_byte(sha *s, unsigned char b)
{
    s->block[s->bytes++ % 64] = b;
    if (s->bytes % 64 == 0)
        sha_block(s, s->block, K);
}

static void sha_text(sha *s, char *out)
{
    uint64_t bits = s->bytes * 8;
    sha_byte(s, 0x80);
    while (s->bytes % 64 != 56)
        sha_byte(s, 0);
    for (int i = 7; i >= 0; i--)
        sha_byte(s, (unsigned char)(bits >> 8 * i));
    for (int i = 0; i < 8; i++)
        sprintf(out + 8 * i, "%08lx", (unsigned long)s->h[i]);
}

/* Values as little-endian words: float32, or float64 in the double build. */
static void put(sha *s, const di_real *a, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t u = 0;
#ifdef DI_DOUBLE
        memcpy(&u, &a[i], 8);
#else
        uint32_t v;
        memcpy(&v, &a[i], 4);
        u = v;
#endif
        for (size_t k = 0; k < sizeof *a; k++)
            sha_byte(s, (unsigned char)(u >> 8 * k));
    }
}

/* ---- the transcript ---- */

static void need(di_ctx *ctx, int bad, const char *what)
{
    if (bad) {
        fprintf(stderr, "hash: %s: %s\n", what, ctx ? di_error(ctx) : "");
        exit(1);
    }
}

static int file_read(void *user, uint64_t at, void *dst, size_t n)
{
    return fseek(user, (long)at, SEEK_SET) || fread(dst, 1, n, user) != n;
}

static di_net *load(di_ctx *ctx, const char *path)
{
    FILE *f = fopen(path, "rb");
    di_net *net = NULL;
    need(NULL, !f || fseek(f, 0, SEEK_END), path);
    di_net_open(ctx, file_read, f, (uint64_t)ftell(f), 0, &net);
    fclose(f);
    need(ctx, !net, path);
    return net;
}

static void numbers(sha *s)
{
    di_real z[203], f[400];
    di_normal(z, 203, 7, DI_STREAM_SOLVER, 3, 11);
    put(s, z, 203);
    for (int i = 0; i < 100; i++) {
        double x = (i - 50) * 0.37 + 1e-3;
        f[4 * i] = (di_real)di_exp(x);
        f[4 * i + 1] = (di_real)di_log(x * x);
        f[4 * i + 2] = (di_real)di_sin(17 * x);
        f[4 * i + 3] = (di_real)di_cos(17 * x);
    }
    put(s, f, 400);
}

/* Forward and derivative at a square, a wide and (odd tails) a narrow size. */
static void network(sha *s, di_ctx *ctx, const char *path)
{
    static const int size[3][3] = { { 16, 16, 1 }, { 20, 28, 2 }, { 6, 10, 1 } };
    static const int label[2] = { 1, 4 };
    double t[2] = { 37.25, 999 };
    di_net *net = load(ctx, path);
    int out, in = di_net_channels(net, &out);
    for (int k = 0; k < 3; k++) {
        int h = size[k][0], w = size[k][1], n = size[k][2];
        size_t nx = (size_t)n * in * h * w, ny = (size_t)n * out * h * w;
        di_real *x = malloc((2 * nx + 2 * ny) * sizeof *x), *gx = x + nx;
        di_real *y = gx + nx, *gy = y + ny;
        need(NULL, !x, "out of memory");
        di_normal(x, nx, 1, DI_STREAM_INIT, 0, 0);
        di_normal(gy, ny, 1, DI_STREAM_INIT, 0, 1);
        const char *classes = di_net_get(net, "net.classes");
        need(ctx, di_net_run(net, (size_t)n, h, w, t, classes[0] == '0' ? NULL : label, x, y, gy,
                             gx), path);
        put(s, y, ny);
        put(s, gx, nx);
        free(x);
    }
    di_net_close(net);
}

enum { SIDE = 16, PIXELS = 3 * SIDE * SIDE }; /* tcc runs 0.5 GFLOP/s */

static di_problem *make_problem(di_ctx *ctx, int kind)
{
    static di_real mask[SIDE * SIDE];
    di_problem *p = NULL;
    for (int i = 0; i < SIDE * SIDE; i++)
        mask[i] = i % 7 != 3;
    need(ctx, kind == 0 ? di_problem_inpaint(ctx, 3, SIDE, SIDE, mask, &p)
              : kind == 1 ? di_problem_sr(ctx, 3, SIDE, SIDE, 4, DI_SR_BICUBIC, &p)
              : kind == 2 ? di_problem_sr(ctx, 3, SIDE, SIDE, 2, DI_SR_MEAN, &p)
              : di_problem_gblur(ctx, 3, SIDE, SIDE, 9, 1.25, &p), "problem");
    return p;
}

static void problems(sha *s, di_ctx *ctx)
{
    static di_real x[PIXELS], y[PIXELS], g[PIXELS];
    di_normal(x, PIXELS, 5, DI_STREAM_INIT, 0, 0);
    for (int k = 0; k < 4; k++) {
        di_problem *p = make_problem(ctx, k);
        need(ctx, di_apply(p, 1, x, y) || di_apply_vjp(p, 1, x, y, g), "apply");
        put(s, y, (size_t)p->y[0] * p->y[1] * p->y[2]);
        put(s, g, PIXELS);
        need(ctx, di_apply_pinv(p, 1, y, g), "pinv");
        put(s, g, PIXELS);
    }
}

/* Fourier problems and the network that blurs. */
static void others(sha *s, di_ctx *ctx)
{
    enum { W = 128, N = 3 * W * W, SMALL = 24 };
    static di_real x[N], v[N], y[N], g[N], maps[4 * SMALL * SMALL], mask[SMALL];
    di_problem *p[4];
    di_scatter sensors = { 3, 21, 0.18, 0.2, 12 };
    di_bkse *net;
    di_normal(x, N, 5, DI_STREAM_INIT, 0, 0);
    di_normal(v, N, 6, DI_STREAM_INIT, 0, 0);
    di_normal(maps, 4 * SMALL * SMALL, 7, DI_STREAM_INIT, 0, 0);
    for (int i = 0; i < SMALL; i++)
        mask[i] = i % 3 != 1;
    need(ctx, di_problem_phase(ctx, 2, SMALL, SMALL - 3, 6, 0, &p[0])
         || di_problem_phase(ctx, 1, SMALL, SMALL, 5, 1, &p[1])
         || di_problem_mri(ctx, SMALL, SMALL, 2, maps, mask, &p[2])
         || di_problem_scatter(ctx, SMALL, &sensors, &p[3]), "problem");
    for (int k = 0; k < 4; k++) {
        need(ctx, di_apply(p[k], 1, x, y) || di_apply_vjp(p[k], 1, x, v, g), "apply");
        put(s, y, (size_t)p[k]->y[0] * p[k]->y[1] * p[k]->y[2]);
        put(s, g, (size_t)p[k]->x[0] * p[k]->x[1] * p[k]->x[2]);
    }
    bytes f = make_blur(BLUR_META, 0);
    need(ctx, di_bkse_open(ctx, read_bytes, f.p, f.size, 0, &net), "open");
    need(ctx, di_bkse_run(net, W, W, maps, x, y, v, g), "blur");
    put(s, y, N);
    put(s, g, N);
    di_bkse_close(net);
    free(f.p);
}

/* Each solver of the table in a short run: its own line. */
static void solvers(di_ctx *ctx, const char *kind)
{
    static const struct { const char *solver, *set[4][2]; } brief[] = {
        { "edm", { { "steps", "3" }, { "smin", "0.1" } } },
        { "dps_mo", { { "steps", "3" }, { "n", "3" } } },
        { "reddiff_mo", { { "steps", "3" }, { "n", "3" } } },
        { "dmplug", { { "iters", "3" }, { "window", "2" } } },
        { "cps", { { "steps", "5" }, { "n", "3" }, { "passes", "2" }, { "window", "0.5" } } },
        { "scg", { { "steps", "5" }, { "n", "3" }, { "batch", "2" } } },
    };
    static di_real x[PIXELS], y[PIXELS], out[PIXELS];
    di_prior *prior;
    di_net *net = load(ctx, "tests/vectors/dps.unw");
    need(ctx, di_prior_net(net, SIDE, SIDE, &prior), "prior");
    di_normal(x, PIXELS, 5, DI_STREAM_INIT, 0, 0);
    for (int i = 0; di_solver_at(i); i++) {
        const di_solver *v = di_solver_at(i);
        char text[65];
        sha s;
        di_run *run;
        di_problem *p = v->needs & DI_NEEDS_PROBLEM ? make_problem(ctx, i % 4) : NULL;
        need(ctx, p && di_apply(p, 1, x, y), "apply");
        need(ctx, di_run_open(ctx, v, prior, p, &run), v->name);
        int told = 0;
        for (size_t k = 0; k < sizeof brief / sizeof *brief; k++)
            for (int j = 0; !strcmp(brief[k].solver, v->name) && j < 4; j++)
                if (brief[k].set[j][0])
                    told += !di_run_set(run, brief[k].set[j][0], brief[k].set[j][1]);
        need(ctx, !told && di_run_set(run, "steps", "4"), v->name);
        need(ctx, di_run_go(run, y, 3, 0, 1, out), v->name);
        sha_start(&s);
        put(&s, out, PIXELS);
        sha_text(&s, text);
        printf("%s %s %s\n", kind, v->name, text);
        di_run_close(run);
    }
    di_net_close(net);
}

/* Fields of a batch and alone, lengths with and without odd factors, and the derivative. */
static void fluid(di_ctx *ctx, const char *kind)
{
    enum { MOST = 17 * 20 * 20 };
    static di_real x[MOST], y[MOST], g[MOST];
    char text[65];
    sha s;
    sha_start(&s);
    di_normal(x, MOST, 6, DI_STREAM_INIT, 0, 0);
    for (int n = 16; n <= 20; n += 2) {
        size_t count = n == 16 ? 17 : 2;
        di_flow f = { 200, 0.04, 0, 4, 10, 2, 0, 3 };
        di_problem *p;
        need(ctx, di_problem_navier_stokes(ctx, n, &f, &p), "navier_stokes");
        need(ctx, di_apply(p, count, x, y) || di_apply_vjp(p, count, x, y, g), "apply");
        put(&s, y, count * (size_t)(n / 2 * (n / 2)));
        put(&s, g, count * (size_t)(n * n));
    }
    sha_text(&s, text);
    printf("%s fluid %s\n", kind, text);
}

int main(int argc, char **argv)
{
    sha_constants(K);
    for (int fast = 0; fast < 2; fast++) {
        char text[65], kind[16];
        sha s;
        di_ctx *ctx = NULL;
        sha_start(&s);
        need(ctx, di_open(&ctx, NULL, NULL), "open");
        if (argc > 1 && strcmp(argv[1], "-") != 0)
            need(ctx, di_set_isa(ctx, argv[1]), "isa");
        di_set_threads(ctx, argc > 2 ? atoi(argv[2]) : 1);
        di_set_fast(ctx, fast);
        numbers(&s);
        network(&s, ctx, "tests/vectors/dps.unw");
        network(&s, ctx, "tests/vectors/pool_label.unw");
        problems(&s, ctx);
        sha_text(&s, text);
        snprintf(kind, sizeof kind, "%s %s", sizeof(di_real) == 8 ? "double" : "float",
                 fast ? "fast" : "exact");
        printf("%s numbers, networks, problems %s\n", kind, text);
        sha_start(&s);
        others(&s, ctx);
        sha_text(&s, text);
        printf("%s Fourier, blur %s\n", kind, text);
        solvers(ctx, kind);
        if (fast)
            fluid(ctx, kind);
        di_close(ctx);
    }
    return 0;
}
