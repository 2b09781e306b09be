/* run.h: what the tests of solvers share: one run from settings in words, the small trained
   network, and the official programs' arrays. */
#ifndef RUN_H
#define RUN_H

#include "check.h"
#include "../tools/io.h"

static di_ctx *ctx;

/* ---- A run ------------------------------------------------------------------------------- */

enum { STATE = 65536 };
typedef struct bytes { /* a saved state */
    unsigned char v[STATE];
    size_t n;
} bytes;

static inline int state_write(void *user, const void *src, size_t n)
{
    bytes *b = user;
    if (n > STATE - b->n)
        return 1;
    memcpy(b->v + b->n, src, n);
    b->n += n;
    return 0;
}

static inline int state_read(void *user, uint64_t offset, void *dst, size_t n)
{
    const bytes *b = user;
    if (offset > b->n || n > b->n - offset)
        return 1;
    memcpy(dst, b->v + offset, n);
    return 0;
}

typedef struct job { /* what to run, and what came of it */
    const char *solver;                 /* a name of the table, */
    const di_solver *own;               /* or one of the test's own */
    const char *settings;               /* "key=value key=value" */
    di_prior *prior;
    const di_problem *problem;
    const di_real *y;
    const float *noise;
    size_t count, used;
    uint64_t seed, first;
    size_t n;                           /* 0 stands for 1 */
    di_report_fn report;
    void *user;
    bytes *state;                       /* to take up, or NULL */
    di_cost cost;
    char note[400];
} job;

static di_run *running; /* for a report that saves */

static inline void set_all(di_run *run, const char *settings)
{
    while (settings && *settings) {
        char key[32] = "", value[32] = "";
        sscanf(settings, "%31[^=]=%31s", key, value);
        EQUAL(di_run_set(run, key, value), DI_OK);
        settings += strcspn(settings, " ");
        settings += strspn(settings, " ");
    }
}

static inline di_status solve(job *j, di_real *x)
{
    di_run *run;
    const di_solver *solver = j->own ? j->own : di_solver_find(j->solver);
    if (di_run_open(ctx, solver, j->prior, j->problem, &run))
        return ctx->status;
    set_all(run, j->settings);
    di_run_report(run, j->report, j->user);
    if (j->noise)
        di_run_noise(run, j->noise, j->count);
    running = run;
    di_status s = DI_OK;
    if (j->state)
        s = di_run_load(run, state_read, j->state, j->state->n);
    if (!s)
        s = di_run_go(run, j->y, j->seed, j->first, j->n ? j->n : 1, x);
    j->used = di_run_noise_used(run);
    j->cost = di_run_cost(run);
    snprintf(j->note, sizeof j->note, "%s", di_run_note(run));
    di_run_close(run);
    return s;
}

/* ---- Files of tests/vectors (README.md there) -------------------------------------------- */

static inline int read_file(void *user, uint64_t offset, void *dst, size_t n)
{
    FILE *f = user;
    return fseek(f, (long)offset, SEEK_SET) != 0 || fread(dst, 1, n, f) != n;
}

/* The small trained network (tests/vectors/README.md), which must be there. */
static inline di_prior *network(int side)
{
    FILE *f = fopen("tests/vectors/dps.unw", "rb");
    di_net *net;
    di_prior *p = NULL;
    if (CHECK(f != NULL) && fseek(f, 0, SEEK_END) == 0) {
        EQUAL(di_net_open(ctx, read_file, f, (uint64_t)ftell(f), 0, &net), DI_OK);
        fclose(f);
        if (net)
            EQUAL(di_prior_net(net, side, side, &p), DI_OK);
    }
    return p;
}

/* tests/vectors/NAME PART.npy; part may be "". */
static inline io_array vector(const char *name, const char *part)
{
    char path[64], err[256] = "";
    io_array a;
    snprintf(path, sizeof path, "tests/vectors/%s%s.npy", name, part);
    if (!CHECK(io_read(&a, path, err, sizeof err) == 0))
        printf("     %s\n", err);
    return a;
}

#endif
