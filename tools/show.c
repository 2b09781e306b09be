/* show.c - eval, info, list, net, op: the verbs that show something */
#define _XOPEN_SOURCE 700
#include "cmd.h"
#include "score.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ==== eval ============================================================================== */

/* What -p and -y add: a problem's own scores. */
typedef struct judge {
    make_spec spec;
    di_problem *p;      /* NULL: no -p and no -y */
    io_array y;         /* empty without -y */
} judge;

static int open_judge(cmd *c, const io_array *a, judge *q)
{
    const char *path = cmd_get(c, "measurement");
    settings record = {NULL, 0, 0};
    char run[1040];
    memset(q, 0, sizeof *q);
    if (!path && !cmd_get(c, "problem"))
        return 0;
    int code = path ? measurement_record(c, path, &record, run) : 0;
    if (!code)
        code = input_problem(c, record.n ? &record : NULL, run, &q->spec);
    settings_free(&record);
    if (!code)
        code = make_problem(c->ctx, &q->spec, (int)a->c, (int)a->h, (int)a->w, &q->p);
    if (!code && path)
        code = input_array(c, path, &q->y);
    if (!code && path)
        code = make_check_measurement(c->ctx, &q->spec, q->p, path, &q->y);
    if (!code && path && q->y.n != 1 && q->y.n != a->n)
        code = di_fail(c->ctx, DI_EINPUT, "%s holds %zu measurements for %zu pictures: give "
                       "one, or as many", path, q->y.n, a->n);
    return code;
}

static int eval_line(cmd *c, const judge *q, const io_array *a, const io_array *b, size_t i,
                     double sum[4], scores *s)
{
    size_t n = a->c * a->h * a->w;
    const di_real *x = a->v + i * n, *ref = b->v + (b->n > 1 ? i : 0) * n, *y = q->y.v;
    double v[4] = {di_psnr(x, ref, n), pic_ssim_piq(x, ref, a->c, a->h, a->w),
                   pic_ssim(x, ref, a->c, a->h, a->w), pic_relative_l2(x, ref, n)};
    s->n = 0;
    if (v[1] == -HUGE_VAL || v[2] == -HUGE_VAL)
        return di_fail(c->ctx, DI_EMEMORY, "%s: no memory to compare it", c->word[0]);
    if (y && q->y.n > 1)
        y += i * (q->y.c * q->y.h * q->y.w);
    int code = q->p ? score_of(c->ctx, &q->spec, q->p, x, y, ref, s) : 0;
    if (code)
        return code;
    if (!i)
        printf("image\tpsnr\tssim_piq\tssim_skimage\trelative_l2");
    for (int k = 0; !i && k < s->n; k++)
        printf("\t%s", s->name[k]);
    printf("%s%zu\t%.4f\t%.4f\t%.4f\t%.6f", i ? "" : "\n", i, v[0], v[1], v[2], v[3]);
    for (int k = 0; k < s->n; k++)
        printf("\t%.4f", s->v[k]);
    printf("\n");
    for (int k = 0; k < 4; k++)
        sum[k] += v[k] / (double)a->n;
    return 0;
}

static int eval_pairs(cmd *c, const io_array *a, const io_array *b)
{
    double sum[4] = {0, 0, 0, 0};
    judge q;
    scores s = {0, {NULL}, {0}, {0}}, best = s;
    if (a->c != b->c || a->h != b->h || a->w != b->w)
        return di_fail(c->ctx, DI_EINPUT, "%s is %zux%zux%zu, %s is %zux%zux%zu: give pictures "
                       "of one shape, or --fit crop|pad|resize", c->word[0], a->c, a->h, a->w, c->word[1], b->c, b->h,
                       b->w);
    if (b->n != 1 && b->n != a->n)
        return di_fail(c->ctx, DI_EINPUT, "%s holds %zu pictures, %s %zu: give as many, or one "
                       "to compare with", c->word[0], a->n, c->word[1], b->n);
    if (!a->n)
        return di_fail(c->ctx, DI_EINPUT, "%s holds no picture", c->word[0]);
    int code = open_judge(c, a, &q);
    for (size_t i = 0; !code && i < a->n; i++) {
        code = eval_line(c, &q, a, b, i, sum, &s);
        score_best(&best, &s);
    }
    if (!code && a->n > 1) {
        printf("mean\t%.4f\t%.4f\t%.4f\t%.6f", sum[0], sum[1], sum[2], sum[3]);
        for (int k = 0; k < best.n; k++)
            printf("\tbest %.4f", best.v[k]);
        printf("\n");
    }
    io_free(&q.y);
    return code;
}

int verb_eval(cmd *c)
{
    io_array a, b;
    if (c->words != 2)
        return di_fail(c->ctx, DI_EUSAGE, "eval needs two files: the picture and what it "
                       "should be");
    int code = input_array(c, c->word[0], &a);
    if (code)
        return code;
    code = input_truth(c, c->word[1], NULL, cmd_get(c, "fit"), (int)a.h, (int)a.w, &b);
    if (!code)
        code = eval_pairs(c, &a, &b);
    io_free(&a);
    io_free(&b);
    return code;
}

/* ==== info ============================================================================== */

static void info_line(const weights *w, const char *name, const char *key)
{
    const char *value = di_net_get(w->net, key);
    if (value && *value)
        printf("%-22s %s\n", name, value);
}

static void info_bytes(const char *name, double bytes)
{
    printf("%-22s %.0f (%.1f MiB)\n", name, bytes, bytes / 1048576);
}

static void info_exact(const weights *w)
{
    printf("%-22s %s\n", "prior", w->path);
    printf("%-22s %s, exact\n", "kind", w->what);
    printf("%-22s %08lx\n", "checksum", (unsigned long)w->crc);
    printf("%-22s %dx%dx%d\n", "image", w->in, w->h, w->w);
}

static void info_network(const weights *w, int h, int width)
{
    static const char *const line[][2] = {
        {"family", "format.kind"}, {"base width", "net.base"}, {"multipliers", "net.mult"},
        {"blocks a level", "net.blocks"}, {"attention (encoder)", "net.attn.enc"},
        {"classes", "net.classes"}, {"trained at", "net.image_size"}, {"predicts", "pred.kind"},
        {"variance", "pred.var"}, {"schedule", "sched.kind"}, {"schedule steps", "sched.steps"},
        {"beta, first", "sched.beta_start"}, {"beta, last", "sched.beta_end"},
        {"source", "info.source"}, {"licence", "info.license"},
    };
    printf("%-22s %s\n", "file", w->path);
    printf("%-22s %08lx\n", "checksum", (unsigned long)di_net_crc(w->net));
    for (size_t i = 0; i < sizeof line / sizeof line[0]; i++)
        info_line(w, line[i][0], line[i][1]);
    printf("%-22s %d in, %d out\n", "channels", w->in, w->out);
    printf("%-22s %d\n", "sides, multiples of", w->multiple);
    printf("%-22s %zu\n", "weights", di_net_weights(w->net));
    printf("%-22s %dx%d\n", "at size", h, width);
    printf("%-22s %.3f\n", "GMAC a pass", di_net_macs(w->net, h, width) / 1e9);
    info_bytes("weights, bytes", (double)di_net_weight_bytes(w->net));
    info_bytes("pass, bytes", (double)di_net_bytes(w->net, 1, h, width, 0));
    info_bytes("with derivative", (double)di_net_bytes(w->net, 1, h, width, 1));
    di_net_keep(w->net, DI_KEEP_BLOCKS);
    info_bytes("blocks run again", (double)di_net_bytes(w->net, 1, h, width, 1));
    di_net_keep(w->net, DI_KEEP_ALL);
}

static double array_bytes(size_t n, size_t c, size_t h, size_t w)
{
    return (double)n * (double)c * (double)h * (double)w * sizeof(di_real);
}

/* What the verb net will need for n images, with its arrays of input and output. */
static void info_net_peak(const cmd *c, const weights *w, size_t n, int h, int width)
{
    for (int vjp = 0; vjp < 2 && n <= 4096; vjp++) { /* more than one pass can take */
        double work = (double)di_net_bytes(w->net, n, h, width, vjp);
        double arrays = array_bytes(n, (size_t)(w->in + w->out), (size_t)h, (size_t)width);
        if (work > 0)
            info_bytes(vjp ? "peak bytes, net --vjp" : "peak bytes, net",
                       memory_need(c, w, work, (vjp + 1) * arrays));
    }
}

typedef struct planned {
    const di_run *run;
    size_t batch;
} planned;

static size_t run_bytes(void *user)
{
    const planned *p = user;
    return di_run_bytes(p->run, p->batch);
}

/* The arrays of solve (measurement, truth, results) or sample (results). */
static double run_arrays(const weights *w, const di_problem *p, size_t n, int h, int width)
{
    double image = array_bytes(1, (size_t)w->in, (size_t)h, (size_t)width);
    double y = p ? array_bytes(1, (size_t)p->y[0], (size_t)p->y[1], (size_t)p->y[2]) : 0;
    return y + image * (double)(n + (p != NULL));
}

/* What a solver finds out about the problem before its first step belongs to what there is. */
static int prepare(cmd *c, const di_solver *solver, const di_problem *p)
{
    if (!(solver->needs & DI_NEEDS_PINV))
        return 0;
    size_t n = (size_t)p->x[0] * (size_t)p->x[1] * (size_t)p->x[2];
    di_real *s = malloc(n * sizeof *s);
    int code = s ? (int)di_svd_values(p, s)
                 : (int)di_fail(c->ctx, DI_EMEMORY, "no memory for the singular values");
    free(s);
    return code;
}

/* The working memory of a solver; for want of another problem it denoises. */
static int info_solver(cmd *c, const weights *w, size_t n, int h, int width)
{
    const di_solver *solver;
    const char *name = cmd_get(c, "solver");
    make_spec spec;
    di_problem *p = NULL;
    di_prior *prior;
    di_run *run = NULL;
    planned plan = {NULL, 1};
    if (!name)
        return 0;
    unsigned needs = 0;
    solver = di_solver_find(name);
    if (solver)
        needs = solver->needs & DI_NEEDS_PROBLEM;
    int code = input_solver(c, name, needs, &solver);
    if (!code && needs && !cmd_get(c, "problem"))
        code = settings_put(c, &c->set, "problem", "denoise");
    if (!code && needs)
        code = input_problem(c, NULL, NULL, &spec);
    if (!code && needs)
        code = make_problem(c->ctx, &spec, w->in, h, width, &p);
    if (!code)
        code = weights_prior(w, h, width, &prior);
    if (!code)
        code = di_run_open(c->ctx, solver, prior, p, &run);
    if (!code)
        code = input_params(c, solver, run);
    if (!code)
        code = prepare(c, solver, p);
    if (code)
        return code;
    double arrays = run_arrays(w, p, n, h, width);
    plan.run = run;
    plan.batch = input_batch(solver, n, h, width);
    code = input_memory(c, w, run_bytes, &plan, arrays);
    if (code)
        return code;
    double work = (double)run_bytes(&plan);
    printf("%-22s %s\n", "solver", solver->name);
    info_bytes("its working bytes", work);
    info_bytes(p ? "peak bytes, solve" : "peak bytes, sample", memory_need(c, w, work, arrays));
    return c->ctx->status;
}

int verb_info(cmd *c)
{
    weights w;
    int h, width, n = 1, code = input_size(c, &h, &width);
    if (!code)
        code = input_int(c, "samples", NULL, 1, 1 << 20, &n);
    if (!code)
        code = input_machine(c);
    if (!code)
        code = weights_open(c, cmd_or(c, "weights", "portraits64"), DI_NET_HEAD, &w);
    if (code)
        return code;
    if (!h) {
        h = w.h ? w.h : w.trained ? w.trained : 16 * w.multiple;
        width = w.h ? w.w : h;
    }
    code = weights_size(c, &w, h, width);
    if (code)
        return code;
    if (w.net)
        info_network(&w, h, width);
    else
        info_exact(&w);
    if (w.net)
        info_net_peak(c, &w, (size_t)n, h, width);
    return c->ctx->status ? (int)c->ctx->status : info_solver(c, &w, (size_t)n, h, width);
}

/* ==== list ============================================================================== */

static void list_params(const di_param *table, int max, int show)
{
    for (int i = 0; show && i < max && table[i].key; i++)
        printf("    %-10s %-10s [%s]  %s\n", table[i].key, *table[i].value ? table[i].value :
               "-", table[i].choice ? table[i].choice : "text", table[i].note ? table[i].note :
               "");
}

/* "for sr: eta=1e-4, steps=50": the defaults that hold for one problem. */
static void list_problem_defaults(const char *solver)
{
    const di_default *d, *e;
    for (int i = 0; (d = di_default_at(i)) != NULL; i++) {
        int any = 0;
        for (int k = 0; k < i && !any; k++) {
            e = di_default_at(k);
            any = !strcmp(e->solver, d->solver) && !strcmp(e->problem, d->problem);
        }
        if (any || strcmp(d->solver, solver))
            continue;
        for (int k = i; (e = di_default_at(k)) != NULL; k++) {
            if (strcmp(e->solver, solver) || strcmp(e->problem, d->problem))
                continue;
            if (any++)
                printf(", %s=%s", e->key, e->value);
            else
                printf("    for %s: %s=%s", d->problem, e->key, e->value);
        }
        printf("\n");
    }
}

static void list_solvers(int defaults)
{
    static const struct {
        unsigned bit;
        const char *name;
    } need[] = {
        {DI_NEEDS_PROBLEM, "a measurement"}, {DI_NEEDS_VJP, "derivative of A"},
        {DI_NEEDS_LINEAR, "linear A"}, {DI_NEEDS_PINV, "pseudo-inverse"},
        {DI_NEEDS_NET_VJP, "derivative of the network"},
    };
    enum { INDENT = 11 }; /* behind a name */
    const di_solver *s;
    for (int i = 0; (s = di_solver_at(i)) != NULL; i++) {
        int any = 0;
        printf("%-*s%s\n%*s%s\n%*sneeds: ", INDENT, s->name, s->title, INDENT, "", s->cite,
               INDENT, "");
        for (size_t k = 0; k < sizeof need / sizeof need[0]; k++)
            if (s->needs & need[k].bit)
                printf("%s%s", any++ ? ", " : "", need[k].name);
        printf("%s%s\n", any ? "" : "the prior only",
               s->needs & DI_ONE_BY_ONE ? "; one sample after another" : "");
        list_params(s->param, DI_MAX_PARAM, defaults);
        if (defaults)
            list_problem_defaults(s->name);
    }
}

static void list_problems(int defaults)
{
    const make_kind *k;
    for (int i = 0; (k = make_kind_at(i)) != NULL; i++) {
        printf("%-10s %s; derivative: %s%s%s\n", k->name, k->title, k->adjoint,
               k->pinv ? "; pseudo-inverse" : "", k->svd ? "; SVD" : "");
        list_params(k->param, MAKE_PARAMS, defaults);
    }
}

/* The priors of one folder; a file that is none is named with the reason. */
static void list_folder(cmd *c, const char *dir, int *count)
{
    DIR *d = opendir(dir);
    const struct dirent *e;
    while (d && (e = readdir(d)) != NULL) {
        size_t len = strlen(e->d_name);
        char path[1400];
        weights w;
        if (len < 5 || strcmp(e->d_name + len - 4, ".unw"))
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        (*count)++;
        if (weights_open(c, path, DI_NET_HEAD, &w)) {
            printf("%.*s\t-\t%s\n", (int)len - 4, e->d_name, di_error(c->ctx));
            di_clear(c->ctx);
            continue;
        }
        const char *licence = di_net_get(w.net, "info.license");
        printf("%.*s\t%dx%dx%d, %zu weights\t%s\t%s\n", (int)len - 4, e->d_name, w.in,
               w.trained, w.trained, di_net_weights(w.net), path, licence ? licence :
               "");
        di_net_close(w.net);
    }
    if (d)
        closedir(d);
}

static void list_priors(cmd *c)
{
    char dir[1024], before[1024];
    int count = 0;
    for (int i = 0; weights_dir(c, i, dir); i++) {
        int again = !*dir;
        for (int k = 0; !again && k < i; k++)
            again = weights_dir(c, k, before) && !strcmp(before, dir);
        if (!again)
            list_folder(c, dir, &count);
    }
    printf("gauss:MEAN.npy,COV.npy\texact Gaussian: MEAN (C,H,W), COV (C,H,W) or (d,d)\n"
           "mixture:WEIGHTS.npy,MEANS.npy,VARS.npy\texact mixture: WEIGHTS (K), MEANS "
           "(K,C,H,W), VARS (K) or (K,C,H,W)\n");
    if (!count)
        cmd_note(c, "no weight files found: set DIFFINV_WEIGHTS to their folder");
}

static void list_isa(cmd *c)
{
    const char *name;
    for (int i = 0; (name = di_isa_list(i)) != NULL; i++)
        printf("%s%s\n", name, strcmp(name, di_isa(c->ctx)) ? "" : "\tused by default");
}

int verb_list(cmd *c)
{
    static const char *const words[] = {"solvers", "problems", "priors", "makers", "isa"};
    const char *what = c->words ? c->word[0] : "";
    int defaults = cmd_get(c, "defaults") != NULL;
    if (!strcmp(what, "solvers"))
        list_solvers(defaults);
    else if (!strcmp(what, "problems"))
        list_problems(defaults);
    else if (!strcmp(what, "priors"))
        list_priors(c);
    else if (!strcmp(what, "makers"))
        make_list(defaults);
    else if (!strcmp(what, "isa"))
        list_isa(c);
    else if (!*what)
        return di_fail(c->ctx, DI_EUSAGE, "list what? solvers, problems, priors, makers "
                       "or isa");
    else
        return di_fail(c->ctx, DI_EUSAGE, "list has no '%s': did you mean '%s'?", what,
                       di_nearest(what, words, 5));
    return 0;
}

/* ==== net and op ===========================================================================

   One map and its derivative on arrays as they are: what tests and other backends compare. */

/* The array that --vjp names, of the shape of the map's output; empty without --vjp. */
static int read_vjp(cmd *c, size_t n, const int shape[3], io_array *g)
{
    const char *path = cmd_get(c, "vjp"), *gx = cmd_get(c, "gx");
    memset(g, 0, sizeof *g);
    if (!path != !gx)
        return di_fail(c->ctx, DI_EUSAGE, "--vjp and --gx go together: the derivative's input "
                       "and its output");
    if (!path)
        return 0;
    int code = input_array(c, path, g);
    if (!code && (g->n != n || g->c != (size_t)shape[0] || g->h != (size_t)shape[1] ||
                  g->w != (size_t)shape[2]))
        return di_fail(c->ctx, DI_EINPUT, "%s is %zux%zux%zux%zu: give the output's shape, "
                       "%zux%dx%dx%d", path, g->n, g->c, g->h, g->w, n, shape[0], shape[1],
                       shape[2]);
    return code;
}

static int map_outputs(cmd *c)
{
    int code = cmd_check_output(c, "output", 1);
    return code ? code : cmd_check_output(c, "gx", 1);
}

static int write_maps(cmd *c, const io_array *y, const io_array *gx, const di_cost *cost)
{
    int code = cmd_write(c, "output", y);
    if (!code && gx->v)
        code = cmd_write(c, "gx", gx);
    return code ? code : cmd_write_record(c, cost, seconds() - c->start);
}

typedef struct net_call {
    const weights *w;
    const io_array *x;
    int vjp, level;
} net_call;

static size_t net_bytes(void *user)
{
    const net_call *n = user;
    size_t framed = n->level ? n->x->n * n->x->c * n->x->h * n->x->w * sizeof(di_real) : 0;
    size_t pass = di_net_bytes(n->w->net, n->x->n, (int)n->x->h, (int)n->x->w, n->vjp);
    return pass ? pass + framed : 0;
}

/* level: t are noise levels and the output is the denoised x, not the bare network's. */
static int run_net(cmd *c, const weights *w, const io_array *x, int level, const double *t,
                   const int *label)
{
    const int shape[3] = {level ? w->in : w->out, (int)x->h, (int)x->w};
    io_array y = {0, 0, 0, 0, NULL, 0}, g, gx = y;
    int code = read_vjp(c, x->n, shape, &g);
    net_call call = {w, x, g.v != NULL, level};
    if (!code)
        code = input_memory(c, w, net_bytes, &call,
                            array_bytes(x->n, (size_t)(shape[0] + (g.v ? w->in : 0)), x->h,
                                        x->w));
    if (!code && (io_make(&y, x->n, (size_t)shape[0], x->h, x->w) ||
                  (g.v && io_make(&gx, x->n, x->c, x->h, x->w))))
        code = di_fail(c->ctx, DI_EMEMORY, "no memory for the network's output");
    if (!code)
        code = (level ? di_net_denoise : di_net_run)(w->net, x->n, shape[1], shape[2], t, label,
                                                     x->v, y.v, g.v, gx.v);
    di_net_close(w->net); /* room for the pictures, if it is they that are wanted */
    di_cost cost = {x->n, g.v ? x->n : 0, 0, 0};
    if (!code)
        code = write_maps(c, &y, &gx, &cost);
    io_free(&y);
    io_free(&g);
    io_free(&gx);
    return code;
}

int verb_net(cmd *c)
{
    const char *in, *out, *sigma = cmd_get(c, "sigma"), *t = sigma;
    weights w;
    io_array x;
    int *label = NULL;
    if (sigma && cmd_get(c, "t"))
        return di_fail(c->ctx, DI_EUSAGE, "-t and --sigma together: a time for the bare "
                       "network, or a noise level for its denoiser");
    int code = cmd_need(c, "input", &in) || (!sigma && cmd_need(c, "t", &t)) ||
               cmd_need(c, "output", &out) || input_machine(c);
    if (!code)
        code = map_outputs(c);
    const char *name = cmd_or(c, "weights", "portraits64");
    if (!code && exact_is(name))
        code = di_fail(c->ctx, DI_EUSAGE, "net shows a network, and -w %s is none: give a "
                       "weight file", name);
    if (!code)
        code = weights_open(c, name, 0, &w);
    if (!code)
        code = input_array(c, in, &x);
    if (code)
        return code;
    double *times = malloc((x.n ? x.n : 1) * sizeof *times);
    if (!times)
        code = di_fail(c->ctx, DI_EMEMORY, "no memory for %zu times", x.n);
    if (!code && x.c != (size_t)w.in)
        code = di_fail(c->ctx, DI_EINPUT, "%s has %zu channels, the network takes %d", in, x.c,
                       w.in);
    if (!code && (x.h > 1 << 16 || x.w > 1 << 16))
        code = di_fail(c->ctx, DI_EINPUT, "%s: %zux%zu is larger than 65536 a side", in, x.h,
                       x.w);
    if (!code)
        code = weights_size(c, &w, (int)x.h, (int)x.w);
    if (!code)
        code = input_numbers(c, sigma ? "--sigma" : "-t", t, x.n, times);
    if (!code)
        code = input_labels(c, &w, x.n, &label);
    if (!code)
        code = run_net(c, &w, &x, sigma != NULL, times, label);
    free(label);
    free(times);
    io_free(&x);
    return code;
}

/* x = A^+ y: the input is a measurement then. */
static int run_pinv(cmd *c, const di_problem *p, const io_array *y)
{
    io_array x;
    if (cmd_get(c, "vjp") || cmd_get(c, "gx"))
        return di_fail(c->ctx, DI_EUSAGE, "--pinv has no derivative: leave out --vjp and --gx");
    if (io_make(&x, y->n, (size_t)p->x[0], (size_t)p->x[1], (size_t)p->x[2]))
        return di_fail(c->ctx, DI_EMEMORY, "no memory for the picture");
    int code = di_apply_pinv(p, y->n, y->v, x.v);
    if (!code)
        code = cmd_write(c, "output", &x);
    if (!code)
        code = cmd_write_record(c, NULL, seconds() - c->start);
    io_free(&x);
    return code;
}

static int run_op(cmd *c, const di_problem *p, const io_array *x)
{
    io_array y = {0, 0, 0, 0, NULL, 0}, g, gx = y;
    int code = read_vjp(c, x->n, p->y, &g);
    if (!code && (io_make(&y, x->n, (size_t)p->y[0], (size_t)p->y[1], (size_t)p->y[2]) ||
                  (g.v && io_make(&gx, x->n, x->c, x->h, x->w))))
        code = di_fail(c->ctx, DI_EMEMORY, "no memory for the measurement");
    if (!code)
        code = di_apply(p, x->n, x->v, y.v);
    if (!code && g.v)
        code = di_apply_vjp(p, x->n, x->v, g.v, gx.v);
    di_cost cost = {0, 0, x->n, g.v ? x->n : 0};
    if (!code)
        code = write_maps(c, &y, &gx, &cost);
    io_free(&y);
    io_free(&g);
    io_free(&gx);
    return code;
}

int verb_op(cmd *c)
{
    const char *in, *out;
    make_spec spec;
    io_array x;
    di_problem *p;
    int shape[3], image[3], pinv = cmd_get(c, "pinv") != NULL;
    int code = cmd_need(c, "input", &in) || cmd_need(c, "output", &out) || input_machine(c) ||
               input_problem(c, NULL, NULL, &spec);
    if (!code)
        code = map_outputs(c);
    if (!code)
        code = input_array(c, in, &x);
    if (code)
        return code;
    if (x.c > 1 << 16 || x.h > 1 << 16 || x.w > 1 << 16)
        code = di_fail(c->ctx, DI_EINPUT, "%s: larger than 65536 a side", in);
    if (!code) {
        shape[0] = image[0] = (int)x.c;
        shape[1] = image[1] = (int)x.h;
        shape[2] = image[2] = (int)x.w;
        if (pinv)
            code = make_image_shape(c->ctx, &spec, shape, image);
        if (!code && !image[1])
            code = di_fail(c->ctx, DI_EUSAGE, "problem %s has no pseudo-inverse",
                           spec.kind->name);
    }
    if (!code)
        code = make_problem(c->ctx, &spec, image[0], image[1], image[2], &p);
    if (!code && pinv)
        code = make_check_measurement(c->ctx, &spec, p, in, &x);
    if (!code)
        code = pinv ? run_pinv(c, p, &x) : run_op(c, p, &x);
    io_free(&x);
    return code;
}
