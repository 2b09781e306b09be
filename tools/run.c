/* run.c - measure, solve, sample: the verbs that run something long */
#define _XOPEN_SOURCE 700
#include "job.h"
#include "score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ==== measure ==============================================================================

   y = A(x) + sigma*N. Every picture has its own noise: sample i of the measurement stream. */

static int measure_all(cmd *c, const di_problem *p, const make_spec *spec, uint64_t seed,
                       const io_array *x, io_array *y)
{
    size_t n = (size_t)p->x[0] * (size_t)p->x[1] * (size_t)p->x[2], m = measurement_size(p);
    if (io_make(y, x->n, (size_t)p->y[0], (size_t)p->y[1], (size_t)p->y[2]))
        return no_memory(c, "the measurement");
    int code = 0;
    for (size_t i = 0; !code && i < x->n; i++)
        code = make_measure(c->ctx, spec, p, seed, i, x->v + i * n, y->v + i * m);
    return code;
}

/* The prior that the pictures are brought to: the default one only if it is there, and for
   photographs. */
static int measure_prior(cmd *c, const make_spec *spec, weights *w, int *known)
{
    char path[1024];
    const char *name = cmd_get(c, "weights");
    *known = 0;
    if (!name && make_extra_of(spec->kind)->apart)
        return 0;
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
    int known = 0, code = cmd_need(c, "input", &in) || cmd_need(c, "output", &out) ||
                      input_problem(c, NULL, NULL, &spec) || input_seed(c, &seed) ||
                      input_machine(c);
    if (!code)
        code = cmd_check_output(c, "output", 1);
    if (!code)
        code = cmd_check_output(c, "simple", 1);
    if (!code)
        code = cmd_check_output(c, "sheet", 1);
    if (!code)
        code = measure_prior(c, &spec, &w, &known);
    io_array x = {0, 0, 0, 0, NULL, 0}, y = x;
    di_problem *p = NULL;
    if (!code)
        code = input_pictures(c, in, known ? &w : NULL, &x);
    if (!code)
        code = make_problem(c->ctx, &spec, (int)x.c, (int)x.h, (int)x.w, &p);
    if (!code)
        code = simple_check(c, p);
    if (!code)
        code = measure_all(c, p, &spec, seed, &x, &y);
    if (!code && is_picture_name(out))
        cmd_note(c, "%s: clipped to 8 bits; use .npy to solve from it", out);
    if (!code && known && w.trained && (x.h != (size_t)w.trained || x.w != (size_t)w.trained))
        cmd_note(c, "%s is %zux%zu, and the prior was trained at %dx%d: --fit resize brings it "
                 "there", in, x.h, x.w, w.trained, w.trained);
    if (!code)
        code = cmd_write(c, "output", &y);
    if (!code)
        code = simple_answer(c, p, &y);
    if (!code)
        code = sheet_write(c, p, &spec, &y, &x, NULL, "");
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
int measurement_record(cmd *c, const char *y, settings *record, char path[1040])
{
    size_t len = strlen(y);
    const char *open = len && y[len - 1] == ']' ? strrchr(y, '[') : NULL;
    if (open)
        len = (size_t)(open - y);
    if (len > 1000)
        return 0;
    snprintf(path, 1040, "%.*s", (int)len, y);
    if (access(path, F_OK))
        return di_fail(c->ctx, DI_EINPUT, "%s: no such file%s", path, c->bit == V_SOLVE ?
                       ": make it with diffinv measure" : "");
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
    int code = cmd_need(c, "output", &out) ||
               input_solver(c, "dps", DI_NEEDS_PROBLEM, &j->solver);
    if (!code && y)
        code = measurement_record(c, y, &record, path);
    if (!code && y && !record.n && !cmd_get(c, "problem"))
        code = di_fail(c->ctx, DI_EUSAGE, "solve needs -p and a problem: there is no record %s, "
                       "which measure writes%s", path, is_picture_name(y) ?
                       "; a picture to measure first is -i" : "");
    if (!code)
        code = input_problem(c, record.n ? &record : NULL, path, &j->spec);
    const char *fit = settings_get(&record, "fit");
    if (fit)
        snprintf(j->fit, sizeof j->fit, "%s", fit);
    settings_free(&record);
    /* What these measure tells nothing of the image's size. */
    int silent = !code && (!strcmp(j->spec.kind->name, "matrix") ||
                           !strcmp(j->spec.kind->name, "scatter"));
    if (!code && y && ((cmd_get(c, "fit") && !cmd_get(c, "truth")) ||
                       (cmd_get(c, "size") && !silent)))
        return di_fail(c->ctx, DI_EUSAGE, "--size and --fit belong to a picture (-i): the "
                       "measurement -y has its size");
    if (!code)
        code = input_seed(c, &j->seed) ||
               input_int(c, "samples", "1", 1, 1 << 20, &j->samples) || input_machine(c);
    return code;
}

/* -i: a picture to measure now, which is the truth too. */
static int measure_input(job *j)
{
    cmd *c = j->c;
    io_array picture;
    int code = input_pictures(c, cmd_get(c, "input"), &j->w, &picture);
    if (code)
        return code;
    code = make_problem(c->ctx, &j->spec, (int)picture.c, (int)picture.h, (int)picture.w,
                        &j->problem);
    if (!code)
        code = measure_all(c, j->problem, &j->spec, j->seed, &picture, &j->y);
    if (!code)
        cmd_note(c, "measured %s with noise from --seed %s", cmd_get(c, "input"),
                 cmd_get(c, "seed"));
    if (!code && !cmd_get(c, "truth"))
        j->truth = picture;
    else
        io_free(&picture);
    return code;
}

/* The shape x of the images that y measures: it follows from y's, but for a matrix, where it is
   the prior's. */
static int measured_shape(job *j, const char *path, int x[3])
{
    cmd *c = j->c;
    int shape[3] = {(int)j->y.c, (int)j->y.h, (int)j->y.w};
    x[0] = j->w.in;
    if (!strcmp(j->spec.kind->name, "matrix")) {
        if (input_size(c, &x[1], &x[2]))
            return DI_EUSAGE;
        return x[1] ? 0 : weights_own_size(c, &j->w, &x[1], &x[2]);
    }
    int code = make_image_shape(c->ctx, &j->spec, shape, x);
    if (!code && x[0] != j->w.in)
        code = di_fail(c->ctx, DI_EINPUT, "%s %s %d channel%s, the prior %s makes %d: give -w and "
                       "a prior of such pictures (diffinv list priors)", path,
                       x[0] == shape[0] ? "has" : "is of pictures with", x[0],
                       x[0] == 1 ? "" : "s", cmd_get(c, "weights"), j->w.in);
    if (!code && !x[1])
        code = input_size(c, &x[1], &x[2]);
    if (!code && !x[1])
        code = weights_own_size(c, &j->w, &x[1], &x[2]);
    return code;
}

/* y from -y, or measured from -i; then the problem. */
static int solve_measurement(job *j)
{
    cmd *c = j->c;
    const char *path = cmd_get(c, "measurement");
    int x[3];
    if (!path)
        return measure_input(j);
    int code = input_array(c, path, &j->y);
    if (!code)
        code = input_finite(c, path, &j->y);
    if (code)
        return code;
    const io_array *y = &j->y;
    if (y->picture)
        cmd_note(c, "%s is a picture, rounded to 8 bits; measure into .npy for exact values",
                 path);
    if (y->c > 1 << 16 || y->h > 1 << 16 || y->w > 1 << 16)
        return di_fail(c->ctx, DI_EINPUT, "%s: %zux%zu is larger than 65536 a side", path,
                       y->h, y->w);
    code = measured_shape(j, path, x);
    if (!code)
        code = weights_size(c, &j->w, x[1], x[2]);
    if (!code)
        code = make_problem(c->ctx, &j->spec, x[0], x[1], x[2], &j->problem);
    if (!code)
        code = make_check_measurement(c->ctx, &j->spec, j->problem, path, y);
    return code;
}

static int solve_truth(job *j)
{
    cmd *c = j->c;
    const char *path = cmd_get(c, "truth");
    const int *x = j->problem->x;
    if (path) {
        const char *how = cmd_get(c, "fit") ? cmd_get(c, "fit") : *j->fit ? j->fit : NULL;
        int code = input_truth(c, path, &j->w, how, x[1], x[2], &j->truth);
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

/* The problem's own columns of image i: its names or its values. */
static int own_scores(job *j, size_t i, scores *s)
{
    size_t n = image_size(j->prior), k = i / (size_t)j->samples;
    const di_real *truth = j->truth.v;
    if (truth && j->truth.n > 1)
        truth += k * n;
    return score_of(j->c->ctx, &j->spec, j->problem, j->out.v + i * n,
                    j->y.v + k * measurement_size(j->problem), truth, s);
}

static void print_scores(job *j, const scores *s, int names)
{
    for (int k = 0; k < s->n; k++) {
        if (names)
            job_print(j, "\t%s", s->name[k]);
        else
            job_print(j, "\t%.4f", s->v[k]);
    }
    job_print(j, "\n");
}

/* One line of the result for image i of the call just done, and sums for the mean line. What
   a call cost is shared by its images alike. */
static int print_line(job *j, size_t i)
{
    di_cost cost = di_run_cost(j->run);
    unsigned long long n = j->now;
    const di_real *x = j->out.v + i * image_size(j->prior);
    size_t k = i / (size_t)j->samples, m = measurement_size(j->problem);
    size_t c = (size_t)j->prior->c, h = (size_t)j->prior->h, w = (size_t)j->prior->w;
    double v[4] = {NAN, 0, 0, 0};
    scores s;
    if (own_scores(j, i, &s))
        return DI_EMEMORY;
    di_real *work = malloc(m * sizeof *work);
    if (work)
        v[0] = di_residual(j->problem, x, j->y.v + k * m, work);
    else
        no_memory(j->c, "the residual"); /* the context ends the run */
    free(work);
    if (j->truth.v) {
        const di_real *t = j->truth.v + (j->truth.n > 1 ? k : 0) * c * h * w;
        v[1] = di_psnr(x, t, c * h * w);
        v[2] = pic_ssim_piq(x, t, c, h, w);
        v[3] = pic_ssim(x, t, c, h, w);
        if (v[2] == -HUGE_VAL || v[3] == -HUGE_VAL)
            return no_memory(j->c, "the comparison");
        if (!i) {
            job_print(j, "image\tresidual\tpsnr\tssim_piq\tssim_skimage%s",
                      j->oracle ? "\toracle_iterate" : "");
            print_scores(j, &s, 1);
        }
        job_print(j, "%zu\t%.6g\t%.4f\t%.4f\t%.4f", i, v[0], v[1], v[2], v[3]);
        if (j->oracle)
            job_print(j, "\t%llu of %llu", (unsigned long long)j->at.best_step,
                      (unsigned long long)j->at.step);
    } else {
        if (!i) {
            job_print(j, "image\tresidual\tnet\tnet_vjp\tapply\tapply_vjp\tseconds");
            print_scores(j, &s, 1);
        }
        job_print(j, "%zu\t%.6g\t%llu\t%llu\t%llu\t%llu\t%.2f", i, v[0], cost.net / n,
                  cost.net_vjp / n, cost.apply / n, cost.apply_vjp / n,
                  (j->at.call_seconds + seconds() - j->began) / (double)n);
    }
    print_scores(j, &s, 0);
    for (int q = 0; q < 4; q++)
        j->at.sum[q] += v[q];
    return 0;
}

/* Means, but of the problem's own scores the best, as InverseBench reports several samples. */
static int print_average(job *j)
{
    const double *sum = j->at.sum, n = (double)j->images;
    scores s, best = {0, {NULL}, {0}, {0}};
    for (size_t i = 0; i < j->images; i++) {
        if (own_scores(j, i, &s))
            return DI_EMEMORY;
        score_best(&best, &s);
    }
    job_print(j, "mean\t%.6g\t%.4f\t%.4f\t%.4f%s", sum[0] / n, sum[1] / n, sum[2] / n,
              sum[3] / n, j->oracle ? "\t-" : "");
    for (int k = 0; k < best.n; k++)
        job_print(j, "\tbest %.4f", best.v[k]);
    job_print(j, "\n");
    return 0;
}

/* The pixelwise mean of a measurement's samples against the truth: it scores higher than they
   do, and looks like none of them. Averages over the measurements. */
static int print_mean(job *j)
{
    size_t n = image_size(j->prior), m = measurement_size(j->problem);
    size_t c = (size_t)j->prior->c, h = (size_t)j->prior->h, w = (size_t)j->prior->w;
    double v[4] = {0, 0, 0, 0};
    io_array mean;
    if (average_make(j, &mean, NULL))
        return DI_EMEMORY;
    di_real *work = malloc(m * sizeof *work);
    for (size_t k = 0; work && k < mean.n; k++) {
        const di_real *x = mean.v + k * n, *t = j->truth.v + (j->truth.n > 1 ? k : 0) * n;
        v[0] += di_residual(j->problem, x, j->y.v + k * m, work) / (double)mean.n;
        v[1] += di_psnr(x, t, n) / (double)mean.n;
        v[2] += pic_ssim_piq(x, t, c, h, w) / (double)mean.n;
        v[3] += pic_ssim(x, t, c, h, w) / (double)mean.n;
    }
    int code = work ? cmd_fact(j->c, "info.psnr_of_mean", "%.4f", v[1])
                    : no_memory(j->c, "the residual");
    if (!code)
        job_print(j, "mean_of_samples\t%.6g\t%.4f\t%.4f\t%.4f%s\n", v[0], v[1], v[2], v[3],
                  j->oracle ? "\t-" : "");
    free(work);
    io_free(&mean);
    return code;
}

static int solve_all(job *j, size_t *done)
{
    cmd *c = j->c;
    size_t m = measurement_size(j->problem);
    const double *sum = j->at.sum, n = (double)j->images;
    int code = 0;
    while (!code && j->at.image < j->images) {
        code = job_go(j, j->y.v + j->at.image / (size_t)j->samples * m, done);
        if (code)
            return code;
        for (size_t i = 0; !code && i < j->now; i++)
            code = print_line(j, (size_t)j->at.image + i);
        job_next(j);
    }
    if (!code && j->images > 1 && j->truth.v)
        code = print_average(j);
    if (!code && j->samples > 1 && j->truth.v)
        code = print_mean(j);
    if (!code)
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
        code = job_outputs(j);
    if (!code)
        code = weights_open(c, cmd_or(c, "weights", "portraits64"), 0, &j->w);
    if (!code)
        code = solve_measurement(j);
    if (!code)
        code = solve_truth(j);
    if (code)
        return code;
    j->images = j->y.n * (size_t)j->samples;
    code = input_labels(c, &j->w, j->images, &j->labels);
    if (!code)
        code = job_open(j, j->problem->x[1], j->problem->x[2]);
    if (code)
        return code;
    cmd_poll_stop(1);
    code = solve_all(j, &done);
    code = job_finish(j, code, done);
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
        code = job_outputs(j);
    if (!code)
        code = weights_open(c, cmd_or(c, "weights", "portraits64"), 0, &j->w);
    if (code)
        return code;
    if (!h && weights_own_size(c, &j->w, &h, &w))
        return DI_EUSAGE;
    j->images = (size_t)j->samples;
    code = input_labels(c, &j->w, j->images, &j->labels);
    if (!code)
        code = job_open(j, h, w);
    if (code)
        return code;
    j->out.picture = 1;
    cmd_poll_stop(1);
    while (!code && j->at.image < j->images) {
        code = job_go(j, NULL, &done);
        if (!code)
            job_next(j);
    }
    if (!code)
        printf("samples\tnet\tseconds\n%zu\t%llu\t%.2f\n", j->images,
               (unsigned long long)j->at.cost.net, j->at.seconds + seconds() - c->start);
    return job_finish(j, code, done);
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
