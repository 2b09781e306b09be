/* bench.c: what the machine can do and what the kernels reach. `make bench` builds and runs it.
   Compiled with contraction allowed, so that the peak is that of fused multiply-add.

     bench [WEIGHTS [SIZE]]     this machine's peak, convolutions, a network
     bench serve WEIGHTS SIZE   passes on demand: the half of bench_torch.py, bench_ort.js */
#define _POSIX_C_SOURCE 200809L
#define DIFFINV_KERNELS
#include "../diffinv.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

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

/* A network and what it is run on: n random images, time 500, class 0 if it has classes. */
typedef struct {
    di_net *net;
    int in, out, size;
    size_t n, nx, ny;
    double *t, macs;
    int *label;
    di_real *x, *gx, *y, *gy;
} job;

static void job_close(job *j)
{
    free(j->t);
    free(j->label);
    free(j->x);
    free(j->gx);
    free(j->y);
    free(j->gy);
    di_net_close(j->net);
}

/* Nonzero, with a message, when it cannot be. */
static int job_open(job *j, di_ctx *ctx, const char *path, int size, int n)
{
    FILE *f = fopen(path, "rb");
    memset(j, 0, sizeof *j);
    if (!f || fseek(f, 0, SEEK_END)) {
        fprintf(stderr, "bench: cannot read %s\n", path);
        if (f)
            fclose(f);
        return 2;
    }
    int bad = di_net_open(ctx, file_read, f, (uint64_t)ftell(f), 0, &j->net) != DI_OK;
    fclose(f);
    if (bad) {
        fprintf(stderr, "bench: %s\n", di_error(ctx));
        return 2;
    }
    int multiple = di_net_multiple(j->net);
    if (size < 1 || size % multiple || n < 1) {
        fprintf(stderr, "bench: size %d, n %d: the size must be a multiple of %d, n at least "
                "1\n", size, n, multiple);
        job_close(j);
        return 1;
    }
    const char *classes = di_net_get(j->net, "net.classes");
    j->in = di_net_channels(j->net, &j->out);
    j->size = size;
    j->n = (size_t)n;
    j->nx = j->n * (size_t)j->in * (size_t)size * (size_t)size;
    j->ny = j->n * (size_t)j->out * (size_t)size * (size_t)size;
    j->macs = di_net_macs(j->net, size, size) * n;
    j->t = calloc(j->n, sizeof *j->t);
    j->label = classes && atoi(classes) ? calloc(j->n, sizeof *j->label) : NULL;
    j->x = calloc(j->nx, sizeof *j->x);
    j->gx = calloc(j->nx, sizeof *j->x);
    j->y = calloc(j->ny, sizeof *j->x);
    j->gy = calloc(j->ny, sizeof *j->x);
    if (!j->t || !j->x || !j->gx || !j->y || !j->gy) {
        fprintf(stderr, "bench: out of memory\n");
        job_close(j);
        return 3;
    }
    for (size_t i = 0; i < j->n; i++)
        j->t[i] = 500;
    di_normal(j->x, j->nx, 1, 0, 0, 0);
    di_normal(j->gy, j->ny, 1, 0, 0, 1);
    return 0;
}

/* Seconds of a forward pass, or of one with the input derivative; negative after an error. */
static double job_run(job *j, int derivative)
{
    double start = now();
    di_status s = di_net_run(j->net, j->n, j->size, j->size, j->t, j->label, j->x, j->y,
                             derivative ? j->gy : NULL, derivative ? j->gx : NULL);
    return s ? -1 : now() - start;
}

/* Medians of a network's forward pass and of forward + input derivative. */
static void bench_net(di_ctx *ctx, const char *path, int size, int threads, double peak)
{
    double fwd[9], both[9];
    job j;
    di_set_threads(ctx, threads);
    if (job_open(&j, ctx, path, size, 1))
        return;
    for (int r = 0; r < 9; r++) {
        fwd[r] = job_run(&j, 0);
        both[r] = job_run(&j, 1);
        if (fwd[r] < 0 || both[r] < 0) {
            fprintf(stderr, "bench: %s\n", di_error(ctx));
            job_close(&j);
            return;
        }
    }
    qsort(fwd, 9, sizeof *fwd, compare);
    qsort(both, 9, sizeof *both, compare);
    printf("net %s %dx%d, %d thread%s: forward %.1f ms (%.1f GFLOP/s, %.0f %%), "
           "forward + derivative %.1f ms (%.1f GFLOP/s, %.0f %%)\n", path, size, size, threads,
           threads > 1 ? "s" : "", fwd[4] * 1e3, 2e-9 * j.macs / fwd[4],
           2e-7 * j.macs / fwd[4] / peak / threads, both[4] * 1e3, 4e-9 * j.macs / both[4],
           4e-7 * j.macs / both[4] / peak / threads);
    job_close(&j);
}

/* ---- bench serve: passes on demand, so that another program can take turns with it ------- */

/* n elements from or to a file of little-endian float32; nonzero when that fails. */
static int raw_read(const char *path, di_real *a, size_t n)
{
    FILE *f = fopen(path, "rb");
    int bad = !f;
    for (size_t i = 0; i < n && !bad; i++) {
        unsigned char b[4];
        float v;
        bad = fread(b, 1, 4, f) != 4;
        uint32_t u = b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
        memcpy(&v, &u, 4);
        a[i] = v;
    }
    bad = bad || fgetc(f) != EOF;
    if (f)
        fclose(f);
    return bad;
}

static int raw_write(const char *path, const di_real *a, size_t n)
{
    FILE *f = fopen(path, "wb");
    int bad = !f;
    for (size_t i = 0; i < n && !bad; i++) {
        float v = (float)a[i];
        uint32_t u;
        memcpy(&u, &v, 4);
        unsigned char b[4] = { u & 255, u >> 8 & 255, u >> 16 & 255, u >> 24 };
        bad = fwrite(b, 1, 4, f) != 4;
    }
    return (f && fclose(f)) || bad;
}

/* getrusage's figure includes, on Linux, whoever started this process. */
static double peak_bytes(void)
{
    struct rusage use;
    char line[256];
    double kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f) && sscanf(line, "VmHWM: %lf", &kib) != 1)
        ;
    if (f)
        fclose(f);
    if (kib > 0)
        return 1024 * kib;
    getrusage(RUSAGE_SELF, &use);
#ifdef __APPLE__
    return (double)use.ru_maxrss;
#else
    return 1024.0 * (double)use.ru_maxrss;
#endif
}

static const char serve_help[] =
    "bench serve WEIGHTS SIZE [threads=1] [class=exact|fast] [n=1]\n"
    "prints ready; then each line of standard input gets one line in answer:\n"
    "  f        a forward pass: its seconds\n"
    "  v        forward and input derivative: seconds\n"
    "  m        peak resident bytes so far\n"
    "  i        facts, key=value; macs is of one forward pass\n"
    "  x FILE   takes the input, g FILE the output's gradient: float32, (n,C,H,W)\n"
    "  y FILE   writes the last output, d FILE the last input gradient\n"
    "a failure is answered by error: and what is wrong\n";

static int serve(di_ctx *ctx, int argc, char **argv)
{
    int threads = 1, n = 1, fast = 0, have_y = 0, have_gx = 0;
    char line[4096];
    job j;
    for (int i = 4; i < argc; i++) {
        if (!strcmp(argv[i], "class=exact") || !strcmp(argv[i], "class=fast")) {
            fast = argv[i][6] == 'f';
        } else if (sscanf(argv[i], "threads=%d", &threads) != 1
                   && sscanf(argv[i], "n=%d", &n) != 1) {
            fprintf(stderr, "bench: unknown argument %s\n%s", argv[i], serve_help);
            return 1;
        }
    }
    if (argc < 4 || threads < 1) {
        fputs(serve_help, stderr);
        return 1;
    }
    di_set_threads(ctx, threads);
    di_set_fast(ctx, fast);
    int bad = job_open(&j, ctx, argv[2], atoi(argv[3]), n);
    if (bad)
        return bad;
    puts("ready");
    while (fflush(stdout) == 0 && fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\r\n")] = 0;
        char *path = line[0] && line[1] == ' ' && line[2] ? line + 2 : NULL;
        char what = path || (line[0] && !line[1]) ? line[0] : '?';
        int file = strchr("xgyd", what) != NULL;
        if (!strchr("fvmixgyd", what) || file != (path != NULL)) {
            printf("error: line '%.60s': f, v, m, i, or x, g, y, d and a file\n", line);
        } else if (what == 'f' || what == 'v') {
            double seconds = job_run(&j, what == 'v');
            if (seconds < 0) {
                printf("error: %s\n", di_error(ctx));
                di_clear(ctx);
                continue;
            }
            printf("%.9f\n", seconds);
            have_y = 1;
            have_gx |= what == 'v';
        } else if (what == 'm') {
            printf("%.0f\n", peak_bytes());
        } else if (what == 'i') {
            printf("version=%s isa=%s real=%s class=%s threads=%d n=%d in=%d out=%d size=%d "
                   "macs=%.0f\n", DI_VERSION, di_isa(ctx),
                   sizeof(di_real) == 8 ? "double" : "float", fast ? "fast" : "exact", threads,
                   n, j.in, j.out, j.size, j.macs);
        } else if (what == 'x' || what == 'g') {
            size_t count = what == 'x' ? j.nx : j.ny;
            if (raw_read(path, what == 'x' ? j.x : j.gy, count))
                printf("error: %s: cannot read it as %zu float32 values\n", path, count);
            else
                puts("ok");
        } else if (!(what == 'y' ? have_y : have_gx)) {
            printf("error: nothing to write before %s\n", what == 'y' ? "f or v" : "v");
        } else if (raw_write(path, what == 'y' ? j.y : j.gx, what == 'y' ? j.ny : j.nx)) {
            printf("error: %s: cannot write\n", path);
        } else {
            puts("ok");
        }
    }
    job_close(&j);
    return 0;
}

/* Waiting threads that spin take the processor from whoever is being measured in turn; see
   main.c. */
static void wait_patiently(char **argv)
{
#ifdef _OPENMP
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT") || getenv("KMP_BLOCKTIME")
        || setenv("OMP_WAIT_POLICY", "passive", 1))
        return;
    execv("/proc/self/exe", argv);
#else
    (void)argv;
#endif
}

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : "weights/portraits64.unw";
    int size = argc > 2 ? atoi(argv[2]) : 64;
    di_ctx *ctx;
    wait_patiently(argv);
    if (di_open(&ctx, NULL, NULL)) {
        fprintf(stderr, "bench: %s\n", ctx ? di_error(ctx) : "out of memory");
        return 3;
    }
    if (argc > 1 && !strcmp(argv[1], "serve")) {
        int status = serve(ctx, argc, argv);
        di_close(ctx);
        return status;
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
