/* bench.c: what the machine can do and what the kernels reach. `make bench` builds and runs it.
   Compiled with contraction allowed, so that the peak is that of fused multiply-add. */
#define _POSIX_C_SOURCE 200809L
#define DIFFINV_KERNELS
#include "../diffinv.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#if defined __AVX512F__
enum { BYTES = 64 };
#elif defined __AVX__
enum { BYTES = 32 };
#else
enum { BYTES = 16 };
#endif

#ifdef __GNUC__
typedef di_real vec __attribute__((vector_size(BYTES)));
#else
typedef di_real vec;
#endif

/* Ten independent chains of multiply-add, one thread, best of several. */
static double peak_gflops(void)
{
    enum { TURNS = 4000000 };
    static volatile di_real sink;
    double best = 1e9;
    for (int r = 0; r < 8; r++) {
        vec a = { 0 }, b = a, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a;
        vec m = a + (di_real)0.999, s = a + (di_real)1e-3;
        double t = now();
        for (int k = 0; k < TURNS; k++) {
            a = a * m + s;
            b = b * m + s;
            c = c * m + s;
            d = d * m + s;
            e = e * m + s;
            f = f * m + s;
            g = g * m + s;
            h = h * m + s;
            i = i * m + s;
            j = j * m + s;
#ifdef __GNUC__
            __asm__ volatile("" : "+x"(a), "+x"(b), "+x"(c), "+x"(d), "+x"(e), "+x"(f), "+x"(g),
                             "+x"(h), "+x"(i), "+x"(j));
#endif
        }
        t = now() - t;
        best = t < best ? t : best;
        vec all = a + b + c + d + e + f + g + h + i + j;
        memcpy((void *)&sink, &all, sizeof sink);
    }
    return 2.0 * TURNS * 10 * (sizeof(vec) / sizeof(di_real)) / best * 1e-9;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median seconds of one convolution, with its peak taken in turn. */
static void bench_conv(di_ctx *ctx, int c, int size, int k, double peak)
{
    size_t weights = (size_t)c * c * k * k, pixels = (size_t)c * size * size;
    di_real *w = calloc(weights, sizeof *w), *x = calloc(pixels, sizeof *x);
    double seconds[61];
    di_conv conv = { 0 };
    di_tape tape;
    conv.oc = conv.ic = c;
    conv.k = k;
    conv.stride = 1;
    di_normal(w, weights, 1, 0, 0, 0);
    di_normal(x, pixels, 1, 0, 0, 1);
    di_conv_init(ctx, &conv, w, NULL);
    di_tape_open(&tape, ctx);
    size_t bytes = 4 * pixels * sizeof *x + (1 << 20);
    void *memory = di_new(ctx, bytes, 1);
    for (int r = 0; memory && r < 61; r++) {
        di_tape_begin(&tape, memory, bytes, 0);
        di_tensor *t = di_pack(&tape, 1, c, size, size, x, c);
        double start = now();
        di_convolve(&tape, t, &conv, NULL, 1);
        seconds[r] = now() - start;
    }
    qsort(seconds, 61, sizeof *seconds, compare);
    double flops = 2.0 * (double)weights * size * size * 1e-9;
    printf("conv %dx%d %4d->%-4d %3dx%-3d  median %6.1f GFLOP/s  best %6.1f  (%.0f %% of "
           "peak)\n", k, k, c, c, size, size, flops / seconds[30], flops / seconds[0],
           100 * flops / seconds[0] / peak);
    di_tape_close(&tape);
    free(w);
    free(x);
}

static int file_read(void *user, uint64_t at, void *dst, size_t n)
{
    return fseek(user, (long)at, SEEK_SET) || fread(dst, 1, n, user) != n;
}

/* Medians of a network's forward pass and of forward + input derivative. */
static void bench_net(di_ctx *ctx, const char *path, int size, int threads, double peak)
{
    FILE *f = fopen(path, "rb");
    di_net *net = NULL;
    int out;
    if (!f || fseek(f, 0, SEEK_END)) {
        fprintf(stderr, "bench: cannot read %s\n", path);
        return;
    }
    di_set_threads(ctx, threads);
    if (di_net_open(ctx, file_read, f, (uint64_t)ftell(f), 0, &net)) {
        fprintf(stderr, "bench: %s\n", di_error(ctx));
        fclose(f);
        return;
    }
    fclose(f);
    int in = di_net_channels(net, &out);
    size_t nx = (size_t)in * size * size, ny = (size_t)out * size * size;
    di_real *x = calloc(nx, sizeof *x), *gx = calloc(nx, sizeof *x);
    di_real *y = calloc(ny, sizeof *x), *gy = calloc(ny, sizeof *x);
    double t = 500, fwd[9], both[9], macs = di_net_macs(net, size, size);
    di_normal(x, nx, 1, 0, 0, 0);
    di_normal(gy, ny, 1, 0, 0, 1);
    for (int r = 0; r < 9; r++) {
        double a = now();
        di_net_run(net, 1, size, size, &t, NULL, x, y, NULL, NULL);
        double b = now();
        di_net_run(net, 1, size, size, &t, NULL, x, y, gy, gx);
        both[r] = now() - b;
        fwd[r] = b - a;
    }
    qsort(fwd, 9, sizeof *fwd, compare);
    qsort(both, 9, sizeof *both, compare);
    printf("net %s %dx%d, %d thread%s: forward %.1f ms (%.1f GFLOP/s, %.0f %%), "
           "forward + derivative %.1f ms (%.1f GFLOP/s, %.0f %%)\n", path, size, size, threads,
           threads > 1 ? "s" : "", fwd[4] * 1e3, 2e-9 * macs / fwd[4],
           2e-7 * macs / fwd[4] / peak / threads, both[4] * 1e3, 4e-9 * macs / both[4],
           4e-7 * macs / both[4] / peak / threads);
    free(x);
    free(gx);
    free(y);
    free(gy);
    di_net_close(net);
}

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : "weights/portraits64.unw";
    int size = argc > 2 ? atoi(argv[2]) : 64;
    di_ctx *ctx;
    if (di_open(&ctx, NULL, NULL)) {
        fprintf(stderr, "bench: %s\n", ctx ? di_error(ctx) : "out of memory");
        return 3;
    }
    double peak = peak_gflops();
    printf("kernels %s, %s, class exact\nFMA peak, one thread: %.1f GFLOP/s\n", di_isa(ctx),
           sizeof(di_real) == 8 ? "double" : "float", peak);
    bench_conv(ctx, 128, 64, 3, peak);
    bench_conv(ctx, 64, 64, 3, peak);
    bench_conv(ctx, 256, 16, 3, peak);
    bench_conv(ctx, 128, 64, 1, peak);
    for (int threads = 1; threads <= 2; threads++)
        bench_net(ctx, path, size, threads, peak);
    di_close(ctx);
    return 0;
}
