/* fuzz.c: everything that reads bytes from outside, against bytes made to break it.

   One target of
       weights   di_net_open, then a dry run and, if small, the network itself and its derivative
       png npy pnm   io_read (one function; the corpora differ)
       settings  the command line and an @file, on to solver and problem
       state     a state file of --resume, on to the end of the run that it takes up
   is chosen by -DTARGET=name (libFuzzer: make fuzz TARGET=png) or, without, by the first
   argument of a main() that replays files: what `make test` does with tests/fuzz.

   Checksums are no wall: the weight file's and the state's are made right here, io.c is
   compiled with DI_FUZZ, which passes a PNG's. A target must not crash, and where it refuses
   there must be a message. Inputs are short: sizes that a file only claims are made up here. */
#define _XOPEN_SOURCE 700
#include "../tools/job.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char folder[64], file_name[96]; /* a scratch place, and the file under test in it */

/* A refusal without words, or a success that left an error, is a fault like any other. */
static void insist(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "fuzz: %s\n", what);
        abort();
    }
}

static void scratch(void)
{
    if (*folder)
        return;
    snprintf(folder, sizeof folder, "%s/diffinv-fuzz-XXXXXX",
             access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    insist(mkdtemp(folder) != NULL, "no scratch folder");
    snprintf(file_name, sizeof file_name, "%s/x", folder);
}

static void write_file(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    insist(f && fwrite(bytes, 1, n, f) == n && !fclose(f), "the scratch file can't be written");
}

static uint64_t get(const unsigned char *p, int bytes)
{
    uint64_t v = 0;
    while (bytes-- > 0)
        v = v << 8 | p[bytes];
    return v;
}

static void set(unsigned char *p, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        p[i] = (unsigned char)(v >> 8 * i);
}

/* ---- weights: the input is the head; the tensors' bytes follow from their place ---------- */

typedef struct head {
    const unsigned char *p;
    size_t n;
} head;

/* Behind the head 0x2020...: a small number in each of the four types. */
static int read_head(void *user, uint64_t at, void *dst, size_t n)
{
    const head *h = user;
    memset(dst, 0x20, n);
    if (at < h->n)
        memcpy(dst, h->p + at, n < h->n - at ? n : h->n - (size_t)at);
    return 0;
}

static void run_network(di_net *net)
{
    int out, c = di_net_channels(net, &out), side = di_net_multiple(net);
    size_t pixels = (size_t)side * (size_t)side, bytes = di_net_bytes(net, 1, side, side, 1);
    const char *classes = di_net_get(net, "net.classes");
    const int label = 0, *labels = classes && strcmp(classes, "0") ? &label : NULL;
    const double t = 3.5;
    if (!bytes || bytes > 1 << 26 || di_net_macs(net, side, side) > 2e7)
        return;
    di_real *x = calloc(2 * ((size_t)c + (size_t)out) * pixels, sizeof *x);
    di_real *gx = x + (size_t)c * pixels, *y = gx + (size_t)c * pixels;
    insist(x != NULL, "no memory");
    di_net_run(net, 1, side, side, &t, labels, x, y, y + (size_t)out * pixels, gx);
    free(x);
}

static void fuzz_weights(const uint8_t *data, size_t n)
{
    enum { MOST = 8 << 20 };
    unsigned char *p = calloc(n + 128, 1);
    insist(p != NULL, "no memory");
    memcpy(p, data, n);
    uint64_t at = get(p + 72, 8), len = get(p + 80, 8), size = n < 128 ? n : n + 128;
    if (at < MOST && len < MOST && at + len > size)
        size = at + len;
    head h = {p, n + 128 < size ? n + 128 : (size_t)size};
    if (n >= 128) {
        set(p + 16, size, 8);
        memset(p + 96, 0, 4);
        if (at <= h.n)
            set(p + 96, io_crc32(0, p, (size_t)at), 4);
    }
    di_ctx *ctx;
    di_net *net;
    insist(!di_open(&ctx, NULL, NULL), "no context");
    size_t before = di_bytes(ctx);
    di_status s = di_net_open(ctx, read_head, &h, size, DI_NET_NO_CRC, &net);
    insist(s == ctx->status && !s == !*di_error(ctx), "status and message differ");
    insist(!s || di_bytes(ctx) == before, "a refused file leaves memory behind");
    if (!s)
        run_network(net);
    di_close(ctx);
    free(p);
}

/* ---- pictures and arrays ----------------------------------------------------------------- */

static volatile di_real seen; /* every value is there to be read */

static void fuzz_io(const uint8_t *data, size_t n)
{
    char err[300] = "";
    io_array a;
    scratch();
    write_file(file_name, data, n);
    int code = io_read(&a, file_name, err, sizeof err);
    insist(!code == !*err && !code == (a.v != NULL), "code, message and array differ");
    insist(!strchr(err, '\n'), "a message of two lines");
    for (size_t i = 0; i < a.n * a.c * a.h * a.w; i++)
        seen = a.v[i];
    io_free(&a);
}

/* ---- settings: verb, words up to a NUL, one a line; behind it the file that @ stands for -- */

static int use_settings(cmd *c)
{
    const di_solver *solver;
    make_spec spec;
    di_prior *prior;
    di_problem *problem = NULL;
    di_run *run;
    uint64_t seed;
    int h, w, n;
    static const di_real half[48] = {0.5f, 0.5f, 0.5f};
    static di_real one[48];
    for (int i = 0; i < 48; i++)
        one[i] = 1;
    int code = input_seed(c, &seed) || input_size(c, &h, &w) || input_machine(c) ||
               input_int(c, "samples", "1", 1, 1 << 20, &n);
    unsigned needs = c->bit == V_SOLVE ? DI_NEEDS_PROBLEM : 0;
    if (!code)
        code = input_solver(c, needs ? "dps" : "ddim", needs, &solver);
    if (!code && needs)
        code = input_problem(c, NULL, NULL, &spec);
    if (!code && needs)
        code = make_problem(c->ctx, &spec, 3, 4, 4, &problem);
    if (!code)
        code = di_prior_gauss(c->ctx, 3, 4, 4, half, one, 0, &prior);
    if (!code)
        code = di_run_open(c->ctx, solver, prior, problem, &run);
    if (!code)
        code = input_params(c, solver, run);
    if (!code)
        di_run_bytes(run, 1);
    return code;
}

static void fuzz_settings(const uint8_t *data, size_t n)
{
    static const char *const verb[] = {"measure", "solve", "sample", "eval", "info", "list",
                                       "net", "op"};
    char *words = malloc(n + 1), *argv[64], name[128];
    cmd c;
    int argc = 0;
    if (n < 1 || !words) {
        free(words);
        return;
    }
    scratch();
    memcpy(words, data, n);
    words[n] = 0;
    size_t len = strlen(words + 1) + 1;
    write_file(file_name, data + (len < n ? len + 1 : n), len < n ? n - len - 1 : 0);
    memset(&c, 0, sizeof c);
    c.verb = verb[data[0] % 8];
    c.bit = 1u << data[0] % 8; /* V_* are in that order */
    c.program = "fuzz";
    insist(!di_open(&c.ctx, NULL, NULL), "no context");
    snprintf(name, sizeof name, "@%s", file_name);
    for (char *p = words + 1, *next; *p && argc < 64; p = next) {
        next = p + strcspn(p, "\n");
        if (*next)
            *next++ = 0;
        argv[argc++] = strcmp(p, "@") ? p : name;
    }
    int code = cmd_parse(&c, argc, argv);
    if (!code && c.bit & (V_SOLVE | V_SAMPLE))
        code = use_settings(&c);
    insist(!code || *di_error(c.ctx), "a refusal without words");
    text t = {NULL, 0, 0, 0};
    add_settings(&c, &t, 0);
    free(t.s);
    settings_free(&c.set);
    settings_free(&c.facts);
    di_close(c.ctx);
    free(words);
}

/* ---- state: the input is added, bit by bit, to a good file of the run that byte 0 names --- */

enum { STATES = 64, IMAGE = 48 };
static struct good {
    char *s;
    size_t n;
} good[STATES];

static int save_and_stop(void *user, const di_step *s)
{
    state_step(user);
    return s->step > 1;
}

/* The run of a solver in an otherwise empty job of two 3x4x4 images; 0 on success. */
static int open_job(job *j, cmd *c, int solver)
{
    static di_real mean[IMAGE], cov[IMAGE];
    char out[100];
    memset(j, 0, sizeof *j);
    memset(c, 0, sizeof *c);
    j->c = c;
    c->verb = "solve";
    c->bit = V_SOLVE;
    c->quiet = 1;
    insist(!di_open(&c->ctx, NULL, NULL), "no context");
    for (int i = 0; i < IMAGE; i++) {
        mean[i] = (di_real)0.1;
        cov[i] = (di_real)0.5;
    }
    j->solver = di_solver_at(solver);
    snprintf(out, sizeof out, "%s/o.npy", folder);
    settings_put(c, &c->set, "output", out);
    insist(!di_prior_gauss(c->ctx, 3, 4, 4, mean, cov, 0, &j->prior) &&
           !di_problem_denoise(c->ctx, 3, 4, 4, &j->problem) && !io_make(&j->y, 1, 3, 4, 4) &&
           !io_make(&j->out, 2, 3, 4, 4), "no memory");
    j->images = 2;
    j->batch = 1;
    if (!(j->solver->needs & DI_NEEDS_PROBLEM))
        j->problem = NULL;
    if (di_run_open(c->ctx, j->solver, j->prior, j->problem, &j->run))
        return 1;
    static const char *const few[][2] = {{"steps", "3"}, {"iters", "3"}, {"epochs", "3"}};
    for (int i = 0; i < 3; i++)
        if (di_run_get(j->run, few[i][0]))
            di_run_set(j->run, few[i][0], few[i][1]);
    di_clear(c->ctx);
    return 0;
}

static void close_job(job *j, cmd *c)
{
    job_close(j);
    settings_free(&c->set);
    settings_free(&c->facts);
    di_close(c->ctx);
}

/* The state that the solver's run leaves behind at its second report; NULL if it can't run
   here. */
static const struct good *good_state(int solver)
{
    char path[120], err[200];
    job j;
    cmd c;
    if (good[solver].n)
        return good[solver].s ? &good[solver] : NULL;
    good[solver].n = 1;
    snprintf(path, sizeof path, "%s/o.npy.state", folder);
    unlink(path);
    if (!open_job(&j, &c, solver)) {
        j.every = 1;
        insist(!state_open(&j), "no fingerprint");
        di_run_report(j.run, save_and_stop, &j);
        di_run_go(j.run, j.y.v, 0, 0, 1, j.out.v);
        io_read_text(path, &good[solver].s, &good[solver].n, 1 << 24, err, sizeof err);
    }
    close_job(&j, &c);
    good[solver].n += !good[solver].n;
    return good[solver].s ? &good[solver] : NULL;
}

static uint64_t stir(const unsigned char *p, size_t n) /* FNV-1a from 0, as solvers.c has it */
{
    uint64_t h = 0;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001B3u;
    return h;
}

static void fuzz_state(const uint8_t *data, size_t n)
{
    char path[120];
    job j;
    cmd c;
    int solvers = 0;
    while (di_solver_at(solvers) && solvers < STATES)
        solvers++;
    scratch();
    int solver = n ? data[0] % solvers : 0;
    const struct good *g = good_state(solver);
    if (!g || n < 2)
        return;
    unsigned char *p = malloc(g->n);
    insist(p != NULL, "no memory");
    memcpy(p, g->s, g->n);
    size_t fixed = 32 + (size_t)get(p + 24, 8), run = fixed; /* the settings stay as they are */
    while (memcmp(p + run, "run\0", 4))
        run += 16 + (size_t)get(p + run + 8, 8);
    for (size_t i = 1; i < n && fixed + i - 1 < g->n; i++)
        p[fixed + i - 1] ^= data[i];
    size_t from = run + 16, len = g->n - 4 - from;
    set(p + from + len - 8, stir(p + from, len - 8), 8);
    set(p + g->n - 4, io_crc32(0, p, g->n - 4), 4);
    snprintf(path, sizeof path, "%s/o.npy.state", folder);
    write_file(path, p, g->n);
    free(p);
    if (!open_job(&j, &c, solver)) {
        settings_put(&c, &c.set, "resume", "1");
        int code = state_open(&j);
        if (!code)
            code = state_begin_call(&j);
        if (!code)
            code = di_run_go(j.run, j.y.v, 0, 0, 1, j.out.v);
        insist(!code || *di_error(c.ctx), "a refusal without words");
    }
    close_job(&j, &c);
}

/* ---- The entries ------------------------------------------------------------------------- */

static const struct target {
    const char *name;
    void (*go)(const uint8_t *data, size_t n);
} targets[] = {
    {"weights", fuzz_weights}, {"png", fuzz_io}, {"npy", fuzz_io}, {"pnm", fuzz_io},
    {"settings", fuzz_settings}, {"state", fuzz_state},
};
enum { TARGETS = sizeof targets / sizeof targets[0] };

#define TEXT_OF(word) TEXT_OF_IT(word)
#define TEXT_OF_IT(word) #word

#ifdef TARGET

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct target *t;
    for (int i = 0; !t && i < TARGETS; i++)
        if (!strcmp(targets[i].name, TEXT_OF(TARGET)))
            t = &targets[i];
    insist(t != NULL, "no such target");
    t->go(data, size);
    return 0;
}

#else

/* fuzz NAME FILE... [NAME FILE...]...: every file through its target. */
int main(int argc, char **argv)
{
    const struct target *t = NULL;
    char err[300], path[120];
    int done = 0;
    for (int i = 1; i < argc; i++) {
        const struct target *named = NULL;
        for (int k = 0; k < TARGETS; k++)
            if (!strcmp(targets[k].name, argv[i]))
                named = &targets[k];
        if (named) {
            t = named;
            continue;
        }
        char *bytes;
        size_t n;
        if (!t || io_read_text(argv[i], &bytes, &n, 1 << 24, err, sizeof err)) {
            printf("FAIL %s: %s\n%d passed, 1 failed\n", argv[i], t ? err : "no target", done);
            return 1;
        }
        fprintf(stderr, "%s %s\n", t->name, argv[i]);
        t->go((const uint8_t *)bytes, n);
        free(bytes);
        done++;
    }
    if (*folder) {
        unlink(file_name);
        snprintf(path, sizeof path, "%s/o.npy.state", folder);
        unlink(path);
        rmdir(folder);
    }
    for (int i = 0; i < STATES; i++)
        free(good[i].s);
    printf("%d passed, %d failed\n", done, !done);
    return !done;
}

#endif
