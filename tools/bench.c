/* bench.c: what the machine can do and what the library reaches of it. `make bench` builds and
   runs it. Compiled with contraction allowed, so that the peak is that of fused multiply-add.

     bench [WEIGHTS [SIZE]]     the report; bench --help
     bench serve WEIGHTS SIZE   passes on demand: the half of bench_torch.py, bench_ort.js */
#define _POSIX_C_SOURCE 200809L
#define DIFFINV_KERNELS
#include "../diffinv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#ifdef _OPENMP
#include <omp.h>
#define PRAGMA(x) _Pragma(#x)
#define PARALLEL(threads) PRAGMA(omp parallel for schedule(static) num_threads(threads))
#else
#define omp_get_num_procs() 1
#define PARALLEL(threads)
#endif
#ifdef __GNUC__
typedef di_real vec __attribute__((vector_size(__BIGGEST_ALIGNMENT__), may_alias,
                                   aligned(sizeof(di_real))));
#else
typedef di_real vec;
#define __VERSION__ "unknown"
#endif

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- The machine ------------------------------------------------------------------------- */

#ifdef __aarch64__ /* chains: enough for the latency, with two constants in the registers */
enum { CHAINS = 24, TURNS = 1000000 };
#else
enum { CHAINS = 14, TURNS = 1000000 };
#endif
enum { FUSED, APART, READ, COPY };
typedef struct {
    int threads;
    double best[4]; /* GFLOP/s fused and apart, GB/s read and copied */
} machine;

/* Multiply-adds in all chains; multiplications in half of them, additions in the others; the
   sums of x (n vectors). */
static void work(int what, const vec *x, size_t n)
{
    volatile vec zero = { 0 }, sink;
    vec v[CHAINS], factor = zero + (what == FUSED ? (di_real)0.999 : 1);
    vec term = zero + (di_real)1e-3;
    for (int i = 0; i < CHAINS; i++)
        v[i] = zero;
    for (int turn = 0; what == FUSED && turn < TURNS; turn++)
#pragma GCC unroll 24
        for (int i = 0; i < CHAINS; i++)
            v[i] = v[i] * factor + term;
    for (int turn = 0; what == APART && turn < TURNS; turn++)
#pragma GCC unroll 24
        for (int i = 0; i < CHAINS; i++)
            v[i] = i % 2 ? v[i] * factor : v[i] + term;
    for (; what == READ && n >= CHAINS; n -= CHAINS, x += CHAINS)
#pragma GCC unroll 24
        for (int i = 0; i < CHAINS; i++)
            v[i] = v[i] + x[i];
    for (int i = 1; i < CHAINS; i++)
        v[0] = v[0] + v[i];
    sink = v[0];
    (void)sink;
}

/* What the threads reach together, the best so far and of `times` more. x, y: `size` bytes to
   READ and COPY. */
static void measure(machine *m, int what, int times, vec *x, vec *y, size_t size)
{
    size_t part = size / sizeof *x / (size_t)m->threads, lanes = sizeof *x / sizeof(di_real);
    double each = size ? (double)part * sizeof *x : (double)CHAINS * TURNS * (double)lanes;
    each *= what == FUSED || what == COPY ? 2e-9 : 1e-9;
    for (int i = 0; i < times; i++) {
        double start = now();
        PARALLEL(m->threads)
        for (int k = 0; k < m->threads; k++)
            if (what == COPY)
                memcpy(y + part * (size_t)k, x + part * (size_t)k, part * sizeof *x);
            else
                work(what, size ? x + part * (size_t)k : NULL, part);
        double speed = each * m->threads / (now() - start);
        m->best[what] = speed > m->best[what] ? speed : m->best[what];
    }
}

/* ---- A network and its passes ------------------------------------------------------------ */

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

/* ---- The report -------------------------------------------------------------------------- */

enum { ROUNDS = 99, ROWS = 64, FORWARD = 0, DERIVATIVE, BLOCKS, KINDS };
static const char *const kind_name[KINDS] = { "forward", "forward + derivative",
                                              "  its blocks run again" };
typedef struct {
    char name[48]; /* an operation and its output's resolution */
    double macs, seconds[2][ROUNDS];
} row;
typedef struct {
    int kind, k, round, rows; /* at present in this round on machine k */
    double last, peak[2];     /* GFLOP/s of multiply-add at the same time */
    size_t bytes[2];          /* the most that the context had allocated */
    row total, other, row[ROWS];
} pass;
typedef struct {
    const char *path;
    int size, n, rounds, machines;
    machine m[2];        /* one thread, all threads */
    pass pass[2][KINDS]; /* exact, fast */
} bench;

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *a, int n)
{
    qsort(a, (size_t)n, sizeof *a, compare);
    return (a[(n - 1) / 2] + a[n / 2]) / 2;
}

/* A di_probe_fn: the time since its last call is that of the operation just done. A pass with
   derivative has one row for all that is not a VJP. */
static void probe(void *user, const char *op, const di_tensor *x, const di_tensor *y,
                  double macs)
{
    pass *p = user;
    row *r = p->row, *end = r + p->rows;
    char name[48] = "(forward)";
    int vjp = strstr(op, "vjp") != NULL;
    double seconds = now() - p->last;
    if (vjp || p->kind == FORWARD)
        snprintf(name, sizeof name, "%-14s%dx%d", op, (vjp ? x : y)->h, (vjp ? x : y)->w);
    while (r < end && strcmp(r->name, name))
        r++;
    if (r < p->row + ROWS) {
        p->rows += r == end;
        strcpy(r->name, name);
        r->macs += p->k || p->round ? 0 : macs;
        p->total.macs += p->k || p->round ? 0 : macs;
        r->seconds[p->k][p->round] += seconds;
        p->other.seconds[p->k][p->round] -= seconds;
    }
    p->last = now();
}

/* In a network of its own, whose memory is then this pass's. */
static int measure_pass(bench *b, di_ctx *ctx, int fast, int kind, int k)
{
    pass *p = &b->pass[fast][kind];
    machine m = { b->m[k].threads, { 0 } };
    job j;
    ctx->peak = ctx->bytes;
    int bad = job_open(&j, ctx, b->path, b->size, b->n);
    if (bad)
        return bad;
    di_net_keep(j.net, kind == BLOCKS ? DI_KEEP_BLOCKS : DI_KEEP_ALL);
    bad = job_run(&j, kind != FORWARD) < 0; /* does not count: the memory's first touch */
    p->bytes[k] = ctx->peak;
    p->kind = kind;
    p->k = k;
    ctx->probe_user = p;
    ctx->probe = probe;
    for (p->round = 0; p->round < b->rounds && !bad; p->round++) {
        measure(&m, FUSED, 4, NULL, NULL, 0);
        p->last = now();
        p->total.seconds[k][p->round] = job_run(&j, kind != FORWARD);
        p->other.seconds[k][p->round] += p->total.seconds[k][p->round];
        bad = ctx->status;
    }
    ctx->probe = NULL;
    p->peak[k] = m.best[FUSED];
    if (bad)
        fprintf(stderr, "bench: %s\n", di_error(ctx));
    job_close(&j);
    return ctx->status;
}

static void print_row(bench *b, pass *p, row *r, const char *name)
{
    printf("  %-24s", name);
    for (int k = 0; k < b->machines; k++) {
        double s = median(r->seconds[k], b->rounds), speed = 2e-9 * r->macs / s;
        printf("  %10.2f %5.1f", 1e3 * s, 100 * s / median(p->total.seconds[k], b->rounds));
        printf(r->macs > 0 ? " %8.1f %5.0f" : "        -     -", speed,
               100 * speed / p->peak[k]);
    }
    putchar('\n');
}

/* In the order of the network; what takes under 1 % of the time goes to the others. */
static void print_pass(bench *b, pass *p)
{
    printf("%s\n", kind_name[p->kind]);
    for (row *r = p->row; r < p->row + p->rows; r++) {
        double share = 0;
        for (int k = 0; k < b->machines; k++)
            share += median(r->seconds[k], b->rounds) / median(p->total.seconds[k], b->rounds);
        if (share > 0.01 * b->machines)
            print_row(b, p, r, r->name);
        else
            for (int i = 0; i < 2 * b->rounds; i++)
                p->other.seconds[i % 2][i / 2] += r->seconds[i % 2][i / 2];
    }
    print_row(b, p, &p->other, "other");
    print_row(b, p, &p->total, "total");
}

static const char help[] =
    "bench [WEIGHTS [SIZE [n=1] [threads=all] [rounds=9]]]\n"
    "what this machine can do, and what a network reaches of it with n images of SIZE x SIZE:\n"
    "on one thread and on all, in both numeric classes, by operation and resolution\n"
    "(WEIGHTS SIZE: weights/portraits64.unw 64; rounds: at most 99)\n\n"
    "bench serve WEIGHTS SIZE ...     passes on demand, for programs; bench serve: how\n";
static const char notes[] =
    "\nms: median of the rounds; %: of the pass. GFLOP/s: 2 for each multiply-add of a direct\n"
    "convolution; fast needs fewer, so it may pass 100 % of the peak. peak: %, of fused\n"
    "multiply-add, measured between these rounds; the library never fuses. norm: coefficients\n"
    "alone: the convolution that reads its output computes norm and SiLU. other: embedding,\n"
    "packing, rows under 1 %. MiB: the most the context had allocated, weights included.\n"
    "blocks run again: DI_KEEP_BLOCKS; what runs again does not count as speed.\n";

/* Speed counts no operation twice: not what runs again. */
static void print_totals(bench *b)
{
    printf("\n%-6s%-23s%7s%11s%11s%9s%6s%10s%9s\n", "class", "pass", "threads", "ms", "best ms",
           "GFLOP/s", "peak", "speed-up", "MiB");
    for (int i = 0; i < 2 * KINDS * b->machines; i++) {
        int k = i % b->machines, kind = i / b->machines % KINDS, fast = i / b->machines / KINDS;
        pass *p = &b->pass[fast][kind];
        double *seconds = p->total.seconds[k], s = median(seconds, b->rounds);
        double speed = 2e-9 * b->pass[fast][kind != FORWARD].total.macs / s;
        printf("%-6s%-23s%7d%11.2f%11.2f%9.1f%6.0f%10.2f%9.1f\n", fast ? "fast" : "exact",
               kind_name[kind], b->m[k].threads, 1e3 * s, 1e3 * seconds[0], speed,
               100 * speed / p->peak[k], median(p->total.seconds[0], b->rounds) / s,
               (double)p->bytes[k] / (1 << 20));
    }
}

/* Memory that each thread is the first to write its part of; 256 MiB exceed most caches. */
static void print_machine(bench *b)
{
    size_t size = (size_t)256 << 20;
    vec *x = malloc(size), *y = malloc(size);
    machine first = b->m[b->machines - 1];
    for (int i = 0; i < 2 && x && y; i++)
        measure(&first, COPY, 1, i ? y : x, i ? x : y, size);
    for (machine *m = b->m; m < b->m + b->machines; m++) {
        for (int what = 0; what < 4 && x && y; what++)
            measure(m, what, what < READ ? 32 : 8, x, y, what < READ ? 0 : size);
        printf("%d thread%s: fused multiply-add %.1f GFLOP/s, multiply and add apart %.1f; "
               "read %.1f GB/s, copy %.1f\n", m->threads, m->threads > 1 ? "s" : "",
               m->best[FUSED], m->best[APART], m->best[READ], m->best[COPY]);
    }
    free(x);
    free(y);
}

static int report(bench *b, di_ctx *ctx)
{
    job j;
    int bad = job_open(&j, ctx, b->path, b->size, b->n); /* what is wrong shows at once */
    if (bad)
        return bad;
    job_close(&j);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("diffinv %s, %s, kernels %s, compiler %s\n%s, n=%d, %dx%d, %d rounds\n", DI_VERSION,
           sizeof(di_real) == 8 ? "double" : "float", di_isa(ctx), __VERSION__, b->path, b->n,
           b->size, b->size, b->rounds);
    print_machine(b);
    for (int fast = 0; fast < 2; fast++) {
        di_set_fast(ctx, fast);
        for (int i = 0; i < KINDS * b->machines; i++) {
            di_set_threads(ctx, b->m[i % b->machines].threads);
            bad = measure_pass(b, ctx, fast, i / b->machines, i % b->machines);
            if (bad)
                return bad;
        }
        printf("\nclass %-20s", fast ? "fast" : "exact");
        for (int k = 0; k < b->machines; k++)
            printf("%5d thr. ms     %%  GFLOP/s  peak", b->m[k].threads);
        putchar('\n');
        print_pass(b, &b->pass[fast][FORWARD]);
        print_pass(b, &b->pass[fast][DERIVATIVE]);
    }
    print_totals(b);
    fputs(notes, stdout);
    return 0;
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
    bench *b = calloc(1, sizeof *b);
    di_ctx *ctx = NULL;
    int serves = argc > 1 && !strcmp(argv[1], "serve"), bad = 0;
    if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        fputs(help, stdout);
        return 0;
    }
    wait_patiently(argv);
    if (!b || di_open(&ctx, NULL, NULL)) {
        fprintf(stderr, "bench: %s\n", ctx ? di_error(ctx) : "out of memory");
        return 3;
    }
    b->path = argc > 1 ? argv[1] : "weights/portraits64.unw";
    b->size = argc > 2 ? atoi(argv[2]) : 64;
    b->n = b->m[0].threads = 1;
    b->m[1].threads = omp_get_num_procs();
    b->rounds = 9;
    for (int i = 3; i < argc && !serves && !bad; i++) {
        char end;
        bad = (sscanf(argv[i], "n=%d%c", &b->n, &end) != 1
               && sscanf(argv[i], "threads=%d%c", &b->m[1].threads, &end) != 1
               && sscanf(argv[i], "rounds=%d%c", &b->rounds, &end) != 1)
              || b->n < 1 || b->m[1].threads < 1 || b->rounds < 1 || b->rounds > ROUNDS;
        if (bad)
            fprintf(stderr, "bench: unknown or impossible argument %s\n%s", argv[i], help);
    }
    b->machines = b->m[1].threads > 1 ? 2 : 1;
    if (!bad)
        bad = serves ? serve(ctx, argc, argv) : report(b, ctx);
    di_close(ctx);
    free(b);
    return bad;
}
