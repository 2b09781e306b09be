/* run.c - measure, solve, sample: the verbs that run something long */
#define _XOPEN_SOURCE 700
#include "cmd.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ==== A run ================================================================================

   What a verb of this file gathers, in this order: settings, places of outputs, weights,
   inputs, and last the long work. What is missing or wrong shows before the work starts. */

typedef struct job {
    cmd *c;
    const di_solver *solver;
    make_spec spec;
    uint64_t seed;
    int samples;            /* wanted, of each measurement */
    weights w;
    di_problem *problem;
    di_prior *prior;
    di_run *run;
    io_array y, truth, noise, out;
    float *normals;         /* of --noise */
    int *labels;
    size_t image, images;   /* under way, in all */
    size_t batch;           /* images of one call */
    double began;           /* the current call */
    int shown, tty, steps;  /* last tenth shown; progress is rewritten; steps of the run done */
    text trace;
    di_cost cost;
} job;

static void job_close(job *j)
{
    io_free(&j->y);
    io_free(&j->truth);
    io_free(&j->noise);
    io_free(&j->out);
    free(j->normals);
    free(j->labels);
    free(j->trace.s);
}

static size_t image_size(const di_prior *p)
{
    return (size_t)p->c * (size_t)p->h * (size_t)p->w;
}

static size_t measurement_size(const di_problem *p)
{
    return (size_t)p->y[0] * (size_t)p->y[1] * (size_t)p->y[2];
}

static int no_memory(cmd *c, const char *what)
{
    return di_fail(c->ctx, DI_EMEMORY, "no memory for %s: use a smaller --size or -n", what);
}

/* ---- Progress and trace ---- */

static void show_progress(job *j, const di_step *s)
{
    cmd *c = j->c;
    double passed = seconds() - j->began;
    double calls = (double)(j->images - j->image) / (double)j->batch;
    double left = passed / s->step * (s->steps * ceil(calls) - s->step);
    char which[48] = "", fit[48] = "";
    int tenth = (int)(10.0 * s->step / s->steps);
    if (c->quiet || (!j->tty && tenth == j->shown && !c->verbose))
        return;
    j->shown = tenth;
    size_t last = j->image + j->batch < j->images ? j->image + j->batch : j->images;
    if (j->batch > 1)
        snprintf(which, sizeof which, "images %zu-%zu of %zu, ", j->image + 1, last, j->images);
    else if (j->images > 1)
        snprintf(which, sizeof which, "image %zu of %zu, ", j->image + 1, j->images);
    double sigma = j->problem ? make_sigma(&j->spec) : 0;
    if (s->residual >= 0 && sigma > 0)
        snprintf(fit, sizeof fit, ", residual/sigma %.2f", s->residual / sigma);
    else if (s->residual >= 0)
        snprintf(fit, sizeof fit, ", residual %.4g", s->residual);
    fprintf(stderr, "%s%s: %sstep %d/%d, noise %.3g%s, %.0f s left%s", j->tty ? "\r" : "",
            j->solver->name, which, s->step, s->steps, s->sigma, fit, left,
            j->tty ? "\033[K" : "\n");
    fflush(stderr);
}

static void end_progress(const job *j)
{
    if (j->tty && !j->c->quiet)
        fputs("\r\033[K", stderr);
}

static int report(void *user, const di_step *s)
{
    job *j = user;
    size_t n = image_size(j->prior);
    j->steps = s->step;
    if (cmd_get(j->c, "trace")) {
        if (!j->trace.n)
            text_add(&j->trace, "image\tstep\tt\tnoise%s%s\n", j->problem ? "\tresidual" : "",
                     j->truth.v ? "\tpsnr" : "");
        text_add(&j->trace, "%zu\t%d\t%.6g\t%.6g", j->image, s->step, s->t, s->sigma);
        if (j->problem)
            text_add(&j->trace, "\t%.6g", s->residual);
        if (j->truth.v) {
            size_t k = j->truth.n > 1 ? j->image / (size_t)j->samples : 0;
            text_add(&j->trace, "\t%.4f", pic_psnr(s->x0, j->truth.v + k * n, n));
        }
        text_add(&j->trace, "\n");
    }
    show_progress(j, s);
    return cmd_stop != 0;
}

/* ---- Preparation that solve and sample share ---- */

static int open_run(job *j, int h, int w)
{
    cmd *c = j->c;
    int code = weights_size(c, &j->w, h, w);
    if (!code)
        code = di_prior_net(j->w.net, h, w, &j->prior);
    if (!code)
        code = di_run_open(c->ctx, j->solver, j->prior, j->problem, &j->run);
    if (!code)
        code = input_params(c, j->solver, j->run);
    if (code)
        return code;
    if (j->w.trained && (h != j->w.trained || w != j->w.trained))
        cmd_note(c, "%s was trained at %dx%d; at %dx%d it may do worse", j->w.path,
                 j->w.trained, j->w.trained, h, w);
    di_run_report(j->run, report, j);
    j->tty = isatty(2);
    j->shown = -1;
    code = cmd_fact(c, "info.image", "%dx%dx%d", j->prior->c, h, w);
    cmd_detail(c, "%s, %s, %d thread%s; working memory %.1f MiB", j->w.path, di_isa(c->ctx),
               c->ctx->threads, c->ctx->threads == 1 ? "" : "s",
               (double)di_run_bytes(j->run, j->batch) / 1048576);
    return code;
}

static int open_noise(job *j)
{
    cmd *c = j->c;
    const char *path = cmd_get(c, "noise");
    if (!path)
        return 0;
    if (j->images != 1)
        return di_fail(c->ctx, DI_EUSAGE, "--noise replays one run: it goes with -n 1 and one "
                       "measurement");
    int code = input_array(c, path, &j->noise);
    if (code)
        return code;
    size_t n = j->noise.n * j->noise.c * j->noise.h * j->noise.w;
    j->normals = malloc((n ? n : 1) * sizeof *j->normals);
    if (!j->normals)
        return no_memory(c, "the noise file");
    for (size_t i = 0; i < n; i++)
        j->normals[i] = (float)j->noise.v[i];
    di_run_noise(j->run, j->normals, n);
    return 0;
}

/* Images image..image+n-1 into j->out; *done counts those that hold a result. */
static int go(job *j, const di_real *y, size_t n, size_t *done)
{
    cmd *c = j->c;
    j->began = seconds();
    j->shown = -1;
    j->steps = 0;
    j->prior->label = j->labels ? j->labels + j->image : NULL;
    di_status s = di_run_go(j->run, y, j->seed, j->image, n,
                            j->out.v + j->image * image_size(j->prior));
    end_progress(j);
    di_cost cost = di_run_cost(j->run);
    j->cost.net += cost.net;
    j->cost.net_vjp += cost.net_vjp;
    j->cost.apply += cost.apply;
    j->cost.apply_vjp += cost.apply_vjp;
    if (!s || (s == DI_EINTERRUPTED && j->steps))
        *done = j->image + n;
    if (j->normals && !s) {
        size_t left = j->noise.n * j->noise.c * j->noise.h * j->noise.w -
                      di_run_noise_used(j->run);
        cmd_note(c, "%s: %zu normals used, %zu left over", cmd_get(c, "noise"),
                 di_run_noise_used(j->run), left);
        cmd_fact(c, "info.noise_left", "%zu", left);
    }
    return s;
}

/* Many pictures in one file become a grid that a person can look at. */
static int write_result(cmd *c, const io_array *a)
{
    io_array grid;
    if (a->n == 1 || !is_picture_name(cmd_get(c, "output")))
        return cmd_write(c, "output", a);
    if (pic_grid(&grid, a))
        return no_memory(c, "the grid");
    int code = cmd_write(c, "output", &grid);
    io_free(&grid);
    return code;
}

static int write_trace(job *j)
{
    char err[400];
    const char *path = cmd_get(j->c, "trace");
    if (!path || !j->trace.n)
        return 0;
    if (j->trace.failed)
        return no_memory(j->c, "the trace");
    return cmd_io(j->c, io_write_text(path, j->trace.s, j->trace.n, err, sizeof err), err);
}

/* Outputs of a run that ended well (code 0) or was interrupted with `done` images begun. */
static int finish(job *j, int code, size_t done)
{
    cmd *c = j->c;
    if (code && (code != DI_EINTERRUPTED || !done))
        return code;
    cmd_poll_stop(0);
    j->out.n = done;
    cmd_fact(c, "info.status", code ? "interrupted" : "complete");
    if (code) {
        cmd_fact(c, "info.interrupted", "image %zu step %d", j->image + 1, j->steps);
        di_clear(c->ctx);
    }
    int failed = write_result(c, &j->out);
    if (!failed)
        failed = write_trace(j);
    if (!failed)
        failed = cmd_write_record(c, &j->cost, seconds() - c->start);
    if (failed || !code)
        return failed;
    return di_fail(c->ctx, DI_EINTERRUPTED, "interrupted at step %d%s: the estimate so far is "
                   "in %s", j->steps, j->images > 1 ? " of an image" : "",
                   cmd_get(c, "output"));
}

/* ==== measure ==============================================================================

   y = A(x) + sigma*N. Every picture has its own noise: sample i of the measurement stream. */

static int measure_all(cmd *c, const di_problem *p, double sigma, uint64_t seed,
                       const io_array *x, io_array *y)
{
    size_t n = (size_t)p->x[0] * (size_t)p->x[1] * (size_t)p->x[2], m = measurement_size(p);
    if (io_make(y, x->n, (size_t)p->y[0], (size_t)p->y[1], (size_t)p->y[2]))
        return no_memory(c, "the measurement");
    di_real *noise = malloc(m * sizeof *noise);
    if (!noise)
        return no_memory(c, "the noise");
    int code = 0;
    for (size_t i = 0; !code && i < x->n; i++) {
        di_real *yi = y->v + i * m;
        code = di_apply(p, 1, x->v + i * n, yi);
        di_normal(noise, m, seed, DI_STREAM_MEASURE, i, 0);
        for (size_t k = 0; sigma > 0 && k < m; k++)
            yi[k] += (di_real)sigma * noise[k];
    }
    free(noise);
    return code;
}

/* The prior that the pictures are brought to: the default one only if it is there. */
static int measure_prior(cmd *c, weights *w, int *known)
{
    char path[1024];
    const char *name = cmd_get(c, "weights");
    *known = 0;
    if (name ? !strcmp(name, "none") : weights_find(c, "portraits64", path))
        return 0;
    *known = 1;
    return weights_open(c, name ? name : "portraits64", DI_NET_HEAD, w);
}

int verb_measure(cmd *c)
{
    const char *in, *out;
    make_spec spec;
    uint64_t seed;
    weights w;
    int known, code = cmd_need(c, "input", &in) || cmd_need(c, "output", &out) ||
                      input_problem(c, NULL, NULL, &spec) || input_seed(c, &seed) ||
                      input_machine(c);
    if (!code)
        code = cmd_check_output(c, "output", 1);
    if (!code)
        code = cmd_check_output(c, "simple", 1);
    if (!code)
        code = measure_prior(c, &w, &known);
    io_array x = {0, 0, 0, 0, NULL, 0}, y = x;
    di_problem *p = NULL;
    if (!code)
        code = input_pictures(c, in, known ? &w : NULL, &x);
    if (!code)
        code = make_problem(c->ctx, &spec, (int)x.c, (int)x.h, (int)x.w, &p);
    if (!code)
        code = measure_all(c, p, make_sigma(&spec), seed, &x, &y);
    if (!code && is_picture_name(out))
        cmd_note(c, "%s: clipped to 8 bits; use .npy to solve from it", out);
    if (!code)
        code = cmd_write(c, "output", &y);
    if (!code)
        code = simple_answer(c, p, &y);
    if (!code) {
        di_cost cost = {0, 0, x.n, 0};
        cmd_fact(c, "info.image", "%dx%dx%d", p->x[0], p->x[1], p->x[2]);
        code = cmd_write_record(c, &cost, seconds() - c->start);
    }
    io_free(&x);
    io_free(&y);
    return code;
}

/* ==== solve ============================================================================= */

/* "y.npy[2:3]" was measured as y.npy says. */
static int read_record(cmd *c, const char *y, settings *record, char path[1040])
{
    size_t len = strlen(y);
    const char *open = len && y[len - 1] == ']' ? strrchr(y, '[') : NULL;
    if (open)
        len = (size_t)(open - y);
    if (len > 1000)
        return 0;
    snprintf(path, 1040, "%.*s", (int)len, y);
    if (access(path, F_OK))
        return di_fail(c->ctx, DI_EINPUT, "%s: no such file: make it with diffinv measure",
                       path);
    strcat(path, ".run");
    if (access(path, F_OK))
        return 0;
    int code = settings_read(c, path, record);
    const char *verb = settings_get(record, "verb");
    /* The record of a restored picture says nothing about a measurement. */
    if (!code && (!verb || strcmp(verb, "measure")))
        settings_free(record);
    return code;
}

/* The settings of the line; nothing but the measurement's record is read. */
static int solve_settings(job *j)
{
    cmd *c = j->c;
    settings record = {NULL, 0, 0};
    char path[1040];
    const char *y = cmd_get(c, "measurement"), *out;
    if (!y && !cmd_get(c, "input"))
        return di_fail(c->ctx, DI_EUSAGE, "solve needs -y, a measurement, or -i, a picture to "
                       "measure first (see diffinv solve --help)");
    if (y && cmd_get(c, "input"))
        return di_fail(c->ctx, DI_EUSAGE, "-y and -i together: give the measurement, or the "
                       "picture to measure");
    if (y && (cmd_get(c, "size") || cmd_get(c, "fit")))
        return di_fail(c->ctx, DI_EUSAGE, "--size and --fit belong to a picture (-i): the "
                       "measurement -y has its size");
    int code = cmd_need(c, "output", &out) ||
               input_solver(c, "dps", DI_NEEDS_PROBLEM, &j->solver);
    if (!code && y)
        code = read_record(c, y, &record, path);
    if (!code)
        code = input_problem(c, record.n ? &record : NULL, path, &j->spec);
    settings_free(&record);
    if (!code)
        code = input_seed(c, &j->seed) ||
               input_int(c, "samples", "1", 1, 1 << 20, &j->samples) || input_machine(c);
    return code;
}

static int check_outputs(cmd *c)
{
    int code = cmd_check_output(c, "output", 1);
    if (!code)
        code = cmd_check_output(c, "sheet", 1);
    return code ? code : cmd_check_output(c, "trace", 0);
}

/* y from -y, or measured from -i; then the problem. */
static int solve_measurement(job *j)
{
    cmd *c = j->c;
    const char *path = cmd_get(c, "measurement");
    int shape[3], x[3], code;
    if (!path) {
        io_array picture;
        code = input_pictures(c, cmd_get(c, "input"), &j->w, &picture);
        if (code)
            return code;
        code = make_problem(c->ctx, &j->spec, (int)picture.c, (int)picture.h, (int)picture.w,
                            &j->problem);
        if (!code)
            code = measure_all(c, j->problem, make_sigma(&j->spec), j->seed, &picture, &j->y);
        if (!code)
            cmd_note(c, "measured %s with noise from --seed %s", cmd_get(c, "input"),
                     cmd_get(c, "seed"));
        if (!code && !cmd_get(c, "truth"))
            j->truth = picture;
        else
            io_free(&picture);
        return code;
    }
    code = input_array(c, path, &j->y);
    if (code)
        return code;
    if (j->y.picture)
        cmd_note(c, "%s is a picture, rounded to 8 bits; measure into .npy for exact values",
                 path);
    if (j->y.c != (size_t)j->w.in)
        return di_fail(c->ctx, DI_EINPUT, "%s has %zu channel%s, the prior %s makes %d: "
                       "measure the picture again with -w %s", path, j->y.c, j->y.c == 1 ?
                       "" : "s", cmd_get(c, "weights"), j->w.in, cmd_get(c, "weights"));
    if (j->y.h > 1 << 16 || j->y.w > 1 << 16)
        return di_fail(c->ctx, DI_EINPUT, "%s: %zux%zu is larger than 65536 a side", path,
                       j->y.h, j->y.w);
    shape[0] = (int)j->y.c;
    shape[1] = (int)j->y.h;
    shape[2] = (int)j->y.w;
    code = make_image_shape(c->ctx, &j->spec, shape, x);
    if (!code)
        code = weights_size(c, &j->w, x[1], x[2]);
    return code ? code : (int)make_problem(c->ctx, &j->spec, x[0], x[1], x[2], &j->problem);
}

static int solve_truth(job *j)
{
    cmd *c = j->c;
    const char *path = cmd_get(c, "truth");
    const int *x = j->problem->x;
    if (path) {
        int code = input_pictures(c, path, &j->w, &j->truth);
        if (code)
            return code;
    }
    if (!j->truth.v)
        return 0;
    if (j->truth.h != (size_t)x[1] || j->truth.w != (size_t)x[2])
        return di_fail(c->ctx, DI_EINPUT, "%s is %zux%zu, the restored picture %dx%d: give the "
                       "picture that was measured", path, j->truth.h, j->truth.w, x[1], x[2]);
    if (j->truth.n != 1 && j->truth.n != j->y.n)
        return di_fail(c->ctx, DI_EINPUT, "%s holds %zu pictures for %zu measurements: give "
                       "one, or as many", path, j->truth.n, j->y.n);
    return 0;
}

/* One line of the result for image i, and sums for the mean line. */
static void print_line(job *j, size_t i, const di_cost *cost, double spent, double sum[4])
{
    const di_real *x = j->out.v + i * image_size(j->prior);
    size_t k = i / (size_t)j->samples, m = measurement_size(j->problem);
    size_t c = (size_t)j->prior->c, h = (size_t)j->prior->h, w = (size_t)j->prior->w;
    double v[4] = {NAN, 0, 0, 0};
    di_real *work = malloc(m * sizeof *work);
    if (work)
        v[0] = di_residual(j->problem, x, j->y.v + k * m, work);
    free(work);
    if (j->truth.v) {
        const di_real *t = j->truth.v + (j->truth.n > 1 ? k : 0) * c * h * w;
        v[1] = pic_psnr(x, t, c * h * w);
        v[2] = pic_ssim_piq(x, t, c, h, w);
        v[3] = pic_ssim(x, t, c, h, w);
        if (!i)
            printf("image\tresidual\tpsnr\tssim_piq\tssim_skimage\n");
        printf("%zu\t%.6g\t%.4f\t%.4f\t%.4f\n", i, v[0], v[1], v[2], v[3]);
    } else {
        if (!i)
            printf("image\tresidual\tnet\tnet_vjp\tapply\tapply_vjp\tseconds\n");
        printf("%zu\t%.6g\t%llu\t%llu\t%llu\t%llu\t%.2f\n", i, v[0],
               (unsigned long long)cost->net, (unsigned long long)cost->net_vjp,
               (unsigned long long)cost->apply, (unsigned long long)cost->apply_vjp, spent);
    }
    for (int q = 0; q < 4; q++)
        sum[q] += v[q];
    fflush(stdout);
}

static int solve_all(job *j, size_t *done)
{
    cmd *c = j->c;
    double sum[4] = {0, 0, 0, 0};
    size_t m = measurement_size(j->problem);
    int code = 0;
    for (j->image = 0; !code && j->image < j->images; ) {
        code = go(j, j->y.v + j->image / (size_t)j->samples * m, 1, done);
        if (code)
            break;
        di_cost cost = di_run_cost(j->run);
        print_line(j, j->image, &cost, seconds() - j->began, sum);
        j->image++;
    }
    if (code || !j->images)
        return code;
    double n = (double)j->images;
    if (j->images > 1 && j->truth.v)
        printf("mean\t%.6g\t%.4f\t%.4f\t%.4f\n", sum[0] / n, sum[1] / n, sum[2] / n, sum[3] /
               n);
    code = cmd_fact(c, "info.residual", "%.6g", sum[0] / n);
    if (!code && j->truth.v)
        code = cmd_fact(c, "info.psnr", "%.4f", sum[1] / n);
    return code;
}

static int run_solve(job *j)
{
    cmd *c = j->c;
    size_t done = 0;
    int code = solve_settings(j);
    if (!code)
        code = check_outputs(c);
    if (!code)
        code = weights_open(c, cmd_or(c, "weights", "portraits64"), 0, &j->w);
    if (!code)
        code = solve_measurement(j);
    if (!code)
        code = solve_truth(j);
    if (code)
        return code;
    j->images = j->y.n * (size_t)j->samples;
    j->batch = 1;
    code = input_labels(c, &j->w, j->images, &j->labels);
    if (!code)
        code = open_run(j, j->problem->x[1], j->problem->x[2]);
    if (!code)
        code = open_noise(j);
    if (code)
        return code;
    if (io_make(&j->out, j->images, (size_t)j->prior->c, (size_t)j->prior->h,
                (size_t)j->prior->w))
        return no_memory(c, "the results");
    cmd_poll_stop(1);
    code = solve_all(j, &done);
    code = finish(j, code, done);
    if (!code) {
        char title[80];
        const char *steps = cmd_get(c, "solver.steps");
        snprintf(title, sizeof title, "%s%s%s", j->solver->name, steps ? ", steps " : "",
                 steps ? steps : "");
        code = sheet_write(c, j->problem, &j->spec, &j->y, &j->truth, &j->out, title);
    }
    return code;
}

int verb_solve(cmd *c)
{
    job j;
    memset(&j, 0, sizeof j);
    j.c = c;
    int code = run_solve(&j);
    job_close(&j);
    return code;
}

/* ==== sample ===============================================================================

   Samples are numbered, and each depends on the seed and its number only; a batch is a matter
   of speed. */

enum { BATCH = 8 };

static int run_sample(job *j)
{
    cmd *c = j->c;
    const char *out;
    int h, w;
    size_t done = 0;
    int code = cmd_need(c, "output", &out) || input_solver(c, "ddim", 0, &j->solver) ||
                        input_seed(c, &j->seed) || input_int(c, "samples", "1", 1, 1 << 20,
                        &j->samples) || input_size(c, &h, &w) || input_machine(c);
    if (!code)
        code = check_outputs(c);
    if (!code)
        code = weights_open(c, cmd_or(c, "weights", "portraits64"), 0, &j->w);
    if (code)
        return code;
    if (!h && !j->w.trained)
        return di_fail(c->ctx, DI_EUSAGE, "%s does not say its size: give --size HxW",
                       j->w.path);
    if (!h)
        h = w = j->w.trained;
    j->images = (size_t)j->samples;
    j->batch = j->images < BATCH ? j->images : BATCH;
    code = input_labels(c, &j->w, j->images, &j->labels);
    if (!code)
        code = open_run(j, h, w);
    if (!code)
        code = open_noise(j);
    if (code)
        return code;
    if (io_make(&j->out, j->images, (size_t)j->prior->c, (size_t)h, (size_t)w))
        return no_memory(c, "the samples");
    j->out.picture = 1;
    cmd_poll_stop(1);
    for (j->image = 0; !code && j->image < j->images; ) {
        size_t n = j->images - j->image < j->batch ? j->images - j->image : j->batch;
        code = go(j, NULL, n, &done);
        if (!code)
            j->image += n;
    }
    if (!code)
        printf("samples\tnet\tseconds\n%zu\t%llu\t%.2f\n", j->images,
               (unsigned long long)j->cost.net, seconds() - c->start);
    return finish(j, code, done);
}

int verb_sample(cmd *c)
{
    job j;
    memset(&j, 0, sizeof j);
    j.c = c;
    int code = run_sample(&j);
    job_close(&j);
    return code;
}
