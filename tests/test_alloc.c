/* test_alloc.c: every allocation of the library fails once. Each sequence below (a network
   opened, a problem made, a short run of every solver, a run left and taken up) is gone through
   once to count its allocations, and then again with the k-th one refused, for every k; and
   with all from the k-th on. Each time the status is DI_EMEMORY, there is a message, closing
   gives every byte back with the size it was asked for, and the same context, cleared, then
   gives the bits of the first time. */
#define DIFFINV_KERNELS
#include "run.h"

#include <stdlib.h>

/* ---- An allocator that counts, and refuses ------------------------------------------------ */

static struct counter {
    long asked, refuse, blocks; /* requests so far; the refused one, 0: none; blocks alive */
    int on;                     /* all from there on, not that one alone */
    size_t bytes, wrong;        /* alive; frees with another size than was asked for */
} count;

enum { HEAD = 64 };

static void *counted(void *user, void *p, size_t old_size, size_t new_size)
{
    struct counter *c = user;
    char *raw = p ? (char *)p - HEAD : NULL;
    size_t had = 0;
    if (raw)
        memcpy(&had, raw, sizeof had);
    c->wrong += had != old_size;
    if (new_size) {
        c->asked++;
        if (c->refuse && (c->asked == c->refuse || (c->on && c->asked > c->refuse)))
            return NULL;
    }
    char *fresh = new_size ? realloc(raw, new_size + HEAD) : NULL;
    if (new_size && !fresh)
        return NULL;
    if (!new_size)
        free(raw);
    c->blocks += (fresh != NULL) - (raw != NULL);
    c->bytes += new_size - had;
    if (fresh)
        memcpy(fresh, &new_size, sizeof new_size);
    return fresh ? fresh + HEAD : NULL;
}

/* ---- Sequences ---------------------------------------------------------------------------- */

static long opened; /* allocations of opening a network, where that is not the matter */
enum { SIDE = 8, D = 3 * SIDE * SIDE };
static di_real out[4 * D], want[4 * D], y[D], two[2 * D];
static unsigned char file[1 << 20]; /* the small network */
static size_t file_size;

typedef struct sequence {
    const char *name;
    di_status (*go)(const struct sequence *s);
    const char *solver, *settings;
} sequence;

static int read_network(void *user, uint64_t at, void *dst, size_t n)
{
    (void)user;
    if (at > file_size || n > file_size - at)
        return 1;
    memcpy(dst, file + at, n);
    return 0;
}

static di_status open_network(const sequence *s)
{
    di_net *net;
    (void)s;
    di_status code = di_net_open(ctx, read_network, NULL, file_size, 0, &net);
    if (!code)
        out[0] = (di_real)di_net_weights(net);
    if (!code)
        di_net_close(net);
    return code;
}

static di_status run_network(const sequence *s)
{
    static const double t[2] = {37, 500};
    di_real *gx = out + 2 * D;
    static di_real wide[4 * D], g[4 * D];
    di_net *net;
    fill(g, 4 * D, 7);
    di_status code = di_net_open(ctx, read_network, NULL, file_size, DI_NET_NO_CRC, &net);
    opened = count.asked;
    if (!code)
        di_net_keep(net, s->settings ? DI_KEEP_BLOCKS : DI_KEEP_ALL);
    if (!code)
        code = di_net_run(net, 2, SIDE, SIDE, t, NULL, two, wide, g, gx);
    if (!code)
        di_net_close(net);
    return code;
}

/* Each problem, its SVD and its pseudo-inverse, and an exact mixture. */
static di_status make_all(const sequence *s)
{
    static di_real mask[SIDE * SIDE], a[5 * D], weight[2] = {1, 2}, var[2] = {1, 1};
    di_problem *p[6] = {NULL};
    di_prior *prior;
    (void)s;
    fill(a, 5 * D, 3);
    for (int i = 0; i < SIDE * SIDE; i++)
        mask[i] = i % 3 > 0;
    di_status code = di_problem_denoise(ctx, 3, SIDE, SIDE, &p[0]);
    if (!code)
        code = di_problem_inpaint(ctx, 3, SIDE, SIDE, mask, &p[1]);
    if (!code)
        code = di_problem_sr(ctx, 3, SIDE, SIDE, 2, DI_SR_BICUBIC, &p[2]);
    if (!code)
        code = di_problem_sr(ctx, 3, SIDE, SIDE, 4, DI_SR_MEAN, &p[3]);
    if (!code)
        code = di_problem_gblur(ctx, 3, SIDE, SIDE, 5, 1.5, &p[4]);
    if (!code)
        code = di_problem_matrix(ctx, 3, SIDE, SIDE, 5, a, &p[5]);
    if (!code)
        code = di_prior_mixture(ctx, 3, SIDE, SIDE, 2, weight, a, var, 0, &prior);
    for (int i = 0; !code && i < 6; i++) {
        code = di_svd_values(p[i], out);
        if (!code)
            code = di_svd_vt(p[i], y, out + D);
        if (!code)
            code = di_apply_pinv(p[i], 1, y, out + 2 * D);
    }
    return code;
}

/* One short run; with a network's prior, or an exact one. */
static di_status solve_with(const sequence *s, int exact)
{
    static di_real mean[D], cov[D];
    di_net *net = NULL;
    di_prior *prior;
    di_problem *problem = NULL;
    di_run *run = NULL;
    const di_solver *solver = di_solver_find(s->solver);
    for (int i = 0; i < D; i++)
        cov[i] = (di_real)0.3;
    di_status code = exact ? di_prior_gauss(ctx, 3, SIDE, SIDE, mean, cov, 0, &prior)
                           : di_net_open(ctx, read_network, NULL, file_size, DI_NET_NO_CRC,
                                         &net);
    opened = exact ? 0 : count.asked;
    if (!code && !exact)
        code = di_prior_net(net, SIDE, SIDE, &prior);
    if (!code && solver->needs & DI_NEEDS_PROBLEM)
        code = di_problem_sr(ctx, 3, SIDE, SIDE, 2, DI_SR_BICUBIC, &problem);
    if (!code)
        code = di_run_open(ctx, solver, prior, problem, &run);
    if (!code)
        set_all(run, s->settings);
    if (!code)
        code = di_run_go(run, y, 1, 0, 2, out);
    di_run_close(run);
    di_net_close(net);
    return code;
}

static di_status solve_exact(const sequence *s) { return solve_with(s, 1); }
static di_status solve_network(const sequence *s) { return solve_with(s, 0); }

static bytes saved;
static di_run *saving;

static int save(void *user, const di_step *s)
{
    saved.n = 0;
    return s->step == 2 && (di_run_save(saving, state_write, user) || 1);
}

/* Left after two steps, taken up by another run, to the end. */
static di_status leave_and_take_up(const sequence *s)
{
    static di_real mean[D], cov[D];
    di_prior *prior;
    di_problem *problem;
    di_run *run;
    for (int i = 0; i < D; i++)
        cov[i] = (di_real)0.3;
    di_status code = di_prior_gauss(ctx, 3, SIDE, SIDE, mean, cov, 0, &prior);
    if (!code)
        code = di_problem_sr(ctx, 3, SIDE, SIDE, 2, DI_SR_BICUBIC, &problem);
    for (int again = 0; !code && again < 2; again++) {
        code = di_run_open(ctx, di_solver_find(s->solver), prior, problem, &run);
        if (code)
            return code;
        set_all(run, s->settings);
        saving = run;
        if (!again)
            di_run_report(run, save, &saved);
        else
            code = di_run_load(run, state_read, &saved, saved.n);
        if (!code)
            code = di_run_go(run, y, 1, 0, 1, out);
        di_run_close(run);
        if (code == DI_EINTERRUPTED && !again) {
            di_clear(ctx);
            code = DI_OK;
        }
    }
    return code;
}

/* ---- Every k ------------------------------------------------------------------------------ */

static void refuse(long k, int on)
{
    count.asked = 0;
    count.refuse = k;
    count.on = on;
}

/* A context opened by the counting allocator, which refuses nothing. */
static void fresh(void)
{
    memset(&count, 0, sizeof count);
    EQUAL(di_open(&ctx, counted, &count), DI_OK);
}

static void balanced(void)
{
    di_close(ctx);
    ctx = NULL;
    EQUAL(count.blocks, 0);
    EQUAL(count.bytes, 0);
    EQUAL(count.wrong, 0);
}

/* Every allocation of the sequence refused, alone and with all that follow; how many. */
static long every(const sequence *s)
{
    opened = 0;
    in_case("%s%s%s", s->name, s->solver ? " " : "", s->solver ? s->solver : "");
    fresh();
    memset(out, 0, sizeof out);
    refuse(0, 0);
    EQUAL(s->go(s), DI_OK);
    memcpy(want, out, sizeof out);
    long all = count.asked, from = opened + 1;
    CHECK(all > 0);
    balanced();
    for (int on = 0; on < 2; on++)
        for (long k = from; k <= all; k++) {
            in_case("%s%s%s, allocation %ld of %ld%s", s->name, s->solver ? " " : "",
                    s->solver ? s->solver : "", k, all, on ? " and all after" : "");
            fresh();
            refuse(k, on);
            if (!EQUAL(s->go(s), DI_EMEMORY))
                printf("     \"%s\"\n", di_error(ctx));
            EQUAL(ctx->status, DI_EMEMORY);
            SAYS(di_error(ctx), "out of memory");
            di_clear(ctx);
            memset(out, 0, sizeof out);
            refuse(0, 0);
            EQUAL(s->go(s), DI_OK);
            CHECK(same(out, want, sizeof out / sizeof *out));
            balanced();
        }
    where[0] = 0;
    return all - from + 1;
}

static const struct {
    const char *solver, *settings;
} shortest[] = {
    {"ddpm", "steps=2"}, {"ddim", "steps=2 eta=0.5"}, {"dps", "steps=2"},
    {"ddnm", "steps=2 travel=1"}, {"edm", "steps=2 step=heun"}, {"dps_mo", "steps=2 n=2"},
    {"reddiff_mo", "steps=2 n=2"}, {"reddiff", "steps=2"},
    {"dmplug", "iters=2 es=no steps=2"}, {"cps", "steps=3 n=3 batch=2"},
    {"scg", "steps=3 n=3 batch=2"},
};
enum { SHORTEST = sizeof shortest / sizeof shortest[0] };

int main(int argc, char **argv)
{
    static const sequence first[] = {
        {"open a network", open_network, NULL, NULL},
        {"a pass and its derivative", run_network, NULL, NULL},
        {"the same, blocks again", run_network, NULL, "blocks"},
        {"problems", make_all, NULL, NULL},
        {"leave and take up", leave_and_take_up, "dps", "steps=3"},
        {"leave and take up", leave_and_take_up, "dmplug", "iters=3 es=no steps=2"},
        {"leave and take up", leave_and_take_up, "dps_mo", "steps=3 n=2"},
    };
    FILE *f = fopen("tests/vectors/dps.unw", "rb");
    long exact = 0, network = 0, rest = 0;
    begin(argc, argv);
    if (!CHECK(f != NULL))
        return finish();
    file_size = fread(file, 1, sizeof file, f);
    fclose(f);
    fill(y, D, 5);
    fill(two, 2 * D, 6);
    for (size_t i = 0; i < sizeof first / sizeof first[0]; i++)
        rest += every(&first[i]);
    for (int i = 0; di_solver_at(i); i++) {
        sequence s = {"exact prior,", solve_exact, di_solver_at(i)->name, NULL};
        for (int k = 0; k < SHORTEST; k++)
            if (!strcmp(shortest[k].solver, s.solver))
                s.settings = shortest[k].settings;
        in_case("a short run of %s for this test", s.solver);
        if (!CHECK(s.settings != NULL))
            continue;
        exact += every(&s);
        s.name = "network,";
        s.go = solve_network;
        network += every(&s);
    }
    figure("allocations refused: networks, problems, states", (double)rest);
    figure("allocations refused: each solver, exact prior", (double)exact);
    figure("allocations refused: each solver, network", (double)network);
    return finish();
}
