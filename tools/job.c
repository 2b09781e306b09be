/* job.c - what a run of solve or sample reports, counts and writes down */
#define _XOPEN_SOURCE 700
#include "job.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

size_t image_size(const di_prior *p)
{
    return (size_t)p->c * (size_t)p->h * (size_t)p->w;
}

size_t measurement_size(const di_problem *p)
{
    return (size_t)p->y[0] * (size_t)p->y[1] * (size_t)p->y[2];
}

int no_memory(cmd *c, const char *what)
{
    return di_fail(c->ctx, DI_EMEMORY, "no memory for %s: use a smaller --size or -n", what);
}

void job_close(job *j)
{
    text *t[] = {&j->trace, &j->table, &j->note, &j->chosen, &j->print,
                 &j->state};
    io_array *a[] = {&j->y, &j->truth, &j->noise, &j->out};
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++)
        free(t[i]->s);
    for (size_t i = 0; i < sizeof a / sizeof a[0]; i++)
        io_free(a[i]);
    free(j->normals);
    free(j->labels);
    free(j->best);
}

/* ==== Progress, trace, oracle =========================================================== */

/* Whether the solver may end before its last step. */
static int stops_early(const job *j)
{
    const char *es = di_run_get(j->run, "es");
    return es && strcmp(es, "no");
}

/* "image 2 of 5" and what is to follow it, or nothing for a run of one. */
static void which_image(const job *j, const char *then, char *out, size_t len)
{
    size_t i = (size_t)j->at.image;
    *out = 0;
    if (j->now > 1)
        snprintf(out, len, "images %zu-%zu of %zu%s", i + 1, i + j->now, j->images, then);
    else if (j->images > 1)
        snprintf(out, len, "image %zu of %zu%s", i + 1, j->images, then);
}

/* Calls left, with the one under way: each measurement's samples are calls of their own. */
static double calls_left(const job *j)
{
    size_t k = (size_t)j->samples, others = (j->images - (size_t)j->at.image - 1) / k;
    size_t own = j->images - (size_t)j->at.image - others * k;
    return (double)((own + j->batch - 1) / j->batch) +
           (double)others * (double)((k + j->batch - 1) / j->batch);
}

static void show_progress(job *j, const di_step *s)
{
    cmd *c = j->c;
    double calls = calls_left(j);
    double done = s->step - (double)j->from;
    double left = (seconds() - j->began) / (done > 0 ? done : 1) *
                  (s->steps * calls - s->step);
    char which[48], noise[32] = "", fit[48] = "", wmv[32] = "";
    int tenth = (int)(10.0 * s->step / s->steps);
    int due = tenth != j->shown || seconds() - j->shown_at > 30;
    if (c->quiet || (!j->tty && !due && !c->verbose))
        return;
    j->shown = tenth;
    j->shown_at = seconds();
    which_image(j, ", ", which, sizeof which);
    if (s->sigma >= 0)
        snprintf(noise, sizeof noise, ", noise %.3g", s->sigma);
    double sigma = j->problem ? make_sigma(&j->spec) : 0;
    if (s->residual >= 0 && sigma > 0)
        snprintf(fit, sizeof fit, ", residual/sigma %.2f", s->residual / sigma);
    else if (s->residual >= 0)
        snprintf(fit, sizeof fit, ", residual %.4g", s->residual);
    if (s->wmv >= 0)
        snprintf(wmv, sizeof wmv, ", wmv %.3g", s->wmv);
    fprintf(stderr, "%s%s: %sstep %d/%d%s%s%s, %s%.0f s left%s", j->tty ? "\r" : "",
            j->solver->name, which, s->step, s->steps, noise, fit, wmv,
            stops_early(j) ? "at most " : "", left, j->tty ? "\033[K" : "\n");
    fflush(stderr);
}

static void end_progress(const job *j)
{
    if (j->tty && !j->c->quiet)
        fputs("\r\033[K", stderr);
}

/* A quantity of the trace that a solver may not have. */
static void add_number(text *t, double v)
{
    if (v >= 0)
        text_add(t, "\t%.6g", v);
    else
        text_add(t, "\tnan");
}

/* Every line ends in the moving variance; write_trace leaves it out if no step has one. */
static void add_trace(job *j, const di_step *s, double psnr)
{
    text *t = &j->trace;
    if (!t->n)
        text_add(t, "image\tstep\tt\tnoise%s%s\twmv\n", j->problem ? "\tresidual" : "",
                 j->truth.v ? "\tpsnr" : "");
    text_add(t, "%llu\t%d", (unsigned long long)j->at.image, s->step);
    add_number(t, s->t);
    add_number(t, s->sigma);
    if (j->problem)
        add_number(t, s->residual);
    if (j->truth.v)
        text_add(t, "\t%.4f", psnr);
    add_number(t, s->wmv);
    text_add(t, "\n");
    if (s->wmv >= 0)
        j->at.watched = 1;
}

static void preview_path(const job *j, char path[1040])
{
    snprintf(path, 1040, "%s.preview.png", cmd_get(j->c, "output"));
}

/* OUT.preview.png: the estimate so far of the images under way, never half a file. Nothing here
   is worth the end of a run. */
static void write_preview(job *j, const di_step *s)
{
    char path[1040], err[400] = "no memory for the preview";
    io_array a = {j->now, (size_t)j->prior->c, (size_t)j->prior->h, (size_t)j->prior->w, NULL, 1};
    io_array picture = {0, 0, 0, 0, NULL, 0};
    if (!j->preview || (s->step % j->preview && s->step != 1))
        return;
    a.v = malloc(a.n * image_size(j->prior) * sizeof *a.v);
    if (a.v)
        memcpy(a.v, s->x0, a.n * image_size(j->prior) * sizeof *a.v);
    preview_path(j, path);
    if (!a.v || view_plain(&picture, &a) || io_write(path, &picture, NULL, err, sizeof err)) {
        if (!j->unseen++)
            cmd_note(j->c, "%s; the run goes on without a preview", err);
    }
    io_free(&a);
    io_free(&picture);
}

static int report(void *user, const di_step *s)
{
    job *j = user;
    size_t n = image_size(j->prior);
    int traced = cmd_get(j->c, "trace") != NULL;
    double psnr = 0;
    j->at.step = (uint64_t)s->step;
    if (j->truth.v && (traced || j->oracle)) {
        size_t k = j->truth.n > 1 ? (size_t)j->at.image / (size_t)j->samples : 0;
        psnr = di_psnr(s->x0, j->truth.v + k * n, n);
    }
    if (traced)
        add_trace(j, s, psnr);
    if (j->oracle && (!j->at.best_step || psnr > j->at.best)) {
        j->at.best = psnr;
        j->at.best_step = (uint64_t)s->step;
        memcpy(j->best, s->x0, n * sizeof *j->best);
    }
    show_progress(j, s);
    write_preview(j, s);
    state_step(j);
    return cmd_stop != 0;
}

/* ==== Before the work =================================================================== */

static int preview_settings(job *j)
{
    cmd *c = j->c;
    const char *out = cmd_get(c, "output");
    struct stat st;
    if (input_int(c, "preview", NULL, 1, 1 << 30, &j->preview))
        return DI_EUSAGE;
    if (j->preview && !stat(out, &st) && !S_ISREG(st.st_mode))
        return di_fail(c->ctx, DI_EUSAGE, "%s is no file: a preview has no place beside it", out);
    return 0;
}

int job_outputs(job *j)
{
    cmd *c = j->c;
    int code = cmd_check_output(c, "output", 1);
    if (!code)
        code = cmd_check_output(c, "sheet", 1);
    if (!code)
        code = cmd_check_output(c, "trace", 0);
    if (!code)
        code = average_outputs(j);
    if (!code)
        code = preview_settings(j);
    return code ? code : state_settings(j);
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

static int open_oracle(job *j)
{
    cmd *c = j->c;
    if (!cmd_get(c, "oracle"))
        return 0;
    if (!j->truth.v)
        return di_fail(c->ctx, DI_EUSAGE, "--oracle chooses by the truth: give --truth, or "
                       "measure a picture with -i");
    j->oracle = 1;
    j->best = malloc(image_size(j->prior) * sizeof *j->best);
    if (!j->best)
        return no_memory(c, "the oracle's choice");
    if (stops_early(j))
        cmd_note(c, "%s may stop early, and the oracle chooses among the steps done: es=no "
                 "does them all", j->solver->name);
    return 0;
}

static size_t run_bytes(void *user)
{
    const job *j = user;
    return di_run_bytes(j->run, j->batch);
}

/* Bytes of the results and of what grows beside them; inputs are there already. Pictures are
   made when the network has gone. */
static double job_arrays(const job *j)
{
    double size = (double)(image_size(j->prior) * sizeof(di_real)), n = (double)j->images;
    double state = j->every ? (double)di_run_state_bytes(j->run, j->batch) + n * size : 0;
    return n * size + (cmd_get(j->c, "oracle") ? size : 0) + (j->w.net ? 0 : n * size) + state;
}

/* Samples of one measurement go through the network together. A call of several takes no more
   memory than one of a 256x256 picture, whose speed would gain nothing from company; with --mem
   the largest that fits the fastest plan, or else one by one. A trace and an oracle look at one
   image at a time. */
static int choose_batch(job *j)
{
    int fits = 1;
    j->batch = input_batch(j->solver, (size_t)j->samples, j->prior->h, j->prior->w);
    if (cmd_get(j->c, "trace") || cmd_get(j->c, "oracle"))
        j->batch = 1;
    for (; j->batch > 1; j->batch--) {
        if (input_fits(j->c, &j->w, run_bytes, j, job_arrays(j), &fits))
            return (int)j->c->ctx->status;
        if (fits)
            break;
    }
    return input_memory(j->c, &j->w, run_bytes, j, job_arrays(j));
}

int job_open(job *j, int h, int w)
{
    cmd *c = j->c;
    int code = weights_size(c, &j->w, h, w);
    if (!code)
        code = weights_prior(&j->w, h, w, &j->prior);
    if (!code)
        code = cmd_check_shape(c, "output", j->images, (size_t)j->prior->c);
    if (!code)
        code = cmd_check_shape(c, "sheet", 1, (size_t)j->prior->c);
    if (!code)
        code = di_run_open(c->ctx, j->solver, j->prior, j->problem, &j->run);
    if (!code)
        code = input_params(c, j->solver, j->run);
    if (!code)
        code = open_noise(j);
    if (!code)
        code = choose_batch(j);
    if (code)
        return code;
    j->at.batch = j->batch;
    if (j->w.trained && (h != j->w.trained || w != j->w.trained))
        cmd_note(c, "%s was trained at %dx%d; at %dx%d it may do worse", j->w.path,
                 j->w.trained, j->w.trained, h, w);
    di_run_report(j->run, report, j);
    j->tty = isatty(2);
    code = cmd_fact(c, "info.image", "%dx%dx%d", j->prior->c, h, w);
    cmd_detail(c, "%s, %s, %d thread%s, %zu at once; working memory %.1f MiB", j->w.path,
               di_isa(c->ctx), c->ctx->threads, c->ctx->threads == 1 ? "" : "s", j->batch,
               (double)di_run_bytes(j->run, j->batch) / 1048576);
    if (!code)
        code = open_oracle(j);
    if (!code && io_make(&j->out, j->images, (size_t)j->prior->c, (size_t)h, (size_t)w))
        code = no_memory(c, "the results");
    return code ? code : state_open(j);
}

/* ==== The work ========================================================================== */

void job_print(job *j, const char *format, ...)
{
    char line[400];
    va_list ap;
    va_start(ap, format);
    vsnprintf(line, sizeof line, format, ap);
    va_end(ap);
    fputs(line, stdout);
    fflush(stdout);
    text_add(&j->table, "%s", line);
    if (j->table.failed)
        no_memory(j->c, "the table"); /* the context ends the run */
}

/* What the solver decided and what the oracle chose, for the record; and said aloud. */
static void add_notes(job *j)
{
    char which[48];
    const char *note = di_run_note(j->run);
    which_image(j, ": ", which, sizeof which);
    if (*note) {
        cmd_note(j->c, "%s%s", which, note);
        text_add(&j->note, "%s%s%s", j->note.n ? "; " : "", which, note);
    }
    if (j->oracle && j->at.best_step) {
        char words[120];
        snprintf(words, sizeof words, "iterate %llu of %llu chosen by its PSNR against the "
                 "truth; not available in practice", (unsigned long long)j->at.best_step,
                 (unsigned long long)j->at.step);
        cmd_note(j->c, "%soracle: %s", which, words);
        text_add(&j->chosen, "%s%s%s", j->chosen.n ? "; " : "", which, words);
    }
}

static void add_cost(job *j)
{
    di_cost cost = di_run_cost(j->run);
    j->at.cost.net += cost.net;
    j->at.cost.net_vjp += cost.net_vjp;
    j->at.cost.apply += cost.apply;
    j->at.cost.apply_vjp += cost.apply_vjp;
}

int job_go(job *j, const di_real *y, size_t *done)
{
    cmd *c = j->c;
    size_t first = (size_t)j->at.image, size = image_size(j->prior);
    size_t own = (size_t)j->samples - first % (size_t)j->samples;
    size_t n = j->now = own < j->batch ? own : j->batch;
    di_real *x = j->out.v + first * size;
    int code = state_begin_call(j);
    if (code)
        return code;
    j->began = seconds();
    j->from = j->at.step;
    j->shown = -1;
    j->prior->label = j->labels ? j->labels + first : NULL;
    di_status s = di_run_go(j->run, y, j->seed, first, n, x);
    end_progress(j);
    add_cost(j);
    if (!s || (s == DI_EINTERRUPTED && j->at.step)) {
        *done = first + n;
        if (j->oracle && j->at.best_step)
            memcpy(x, j->best, size * sizeof *x);
        add_notes(j);
    }
    if (j->normals && !s) {
        size_t left = j->noise.n * j->noise.c * j->noise.h * j->noise.w -
                      di_run_noise_used(j->run);
        cmd_note(c, "%s: %zu normals used, %zu left over", cmd_get(c, "noise"),
                 di_run_noise_used(j->run), left);
        cmd_fact(c, "info.noise_left", "%zu", left);
    }
    return s;
}

void job_next(job *j)
{
    j->at.image += j->now;
    j->at.step = 0;
    j->at.call_seconds = 0;
    j->at.best_step = 0;
}

/* ==== After the work ==================================================================== */

int job_write(cmd *c, const char *key, const io_array *a)
{
    io_array grid;
    if (a->n == 1 || !cmd_get(c, key) || !is_picture_name(cmd_get(c, key)))
        return cmd_write(c, key, a);
    if (pic_grid(&grid, a))
        return no_memory(c, "the grid");
    int code = cmd_write(c, key, &grid);
    io_free(&grid);
    return code;
}

static int write_trace(job *j)
{
    char err[400];
    const char *path = cmd_get(j->c, "trace");
    text t = {NULL, 0, 0, 0};
    if (!path || (!j->trace.n && !j->trace.failed))
        return 0;
    for (const char *p = j->trace.s ? j->trace.s : ""; *p; ) {
        size_t len = strcspn(p, "\n"), keep = len;
        while (!j->at.watched && keep && p[keep] != '\t')
            keep--;
        text_put(&t, p, keep);
        text_put(&t, "\n", 1);
        p += len + (p[len] == '\n');
    }
    int code = j->trace.failed || t.failed
                   ? no_memory(j->c, "the trace")
                   : cmd_io(j->c, io_write_text(path, t.s, t.n, err, sizeof err), err);
    free(t.s);
    return code;
}

static int write_record(job *j, double spent)
{
    cmd *c = j->c;
    int code = j->note.failed || j->chosen.failed ? no_memory(c, "the notes") : 0;
    if (!code && j->note.n)
        code = settings_put(c, &c->facts, "info.note", j->note.s);
    if (!code && j->chosen.n)
        code = settings_put(c, &c->facts, "info.oracle", j->chosen.s);
    return code ? code : cmd_write_record(c, &j->at.cost, spent);
}

static void print_cost(const job *j, double spent)
{
    const di_cost *t = &j->at.cost;
    cmd_note(j->c, "cost: %llu network calls, %llu derivative calls, %llu A, %llu A', %.*f s",
             (unsigned long long)t->net, (unsigned long long)t->net_vjp,
             (unsigned long long)t->apply, (unsigned long long)t->apply_vjp, spent < 10 ? 2 : 0,
             spent);
}

int job_finish(job *j, int code, size_t done)
{
    cmd *c = j->c;
    if (code && (code != DI_EINTERRUPTED || !done))
        return code;
    cmd_poll_stop(0);
    j->out.n = done;
    cmd_fact(c, "info.status", code ? "interrupted" : "complete");
    if (code) {
        if (cmd_get(c, "sheet"))
            cmd_note(c, "a sheet needs the end of the run: not made");
        if (cmd_get(c, "mean") || cmd_get(c, "std"))
            cmd_note(c, "the mean and the spread of samples need all of them: not written");
        cmd_fact(c, "info.interrupted", "image %llu step %llu",
                 (unsigned long long)j->at.image + 1, (unsigned long long)j->at.step);
        di_clear(c->ctx);
    }
    double spent = j->at.seconds + seconds() - c->start;
    di_net_close(j->w.net); /* room for the pictures */
    j->w.net = NULL;
    int failed = job_write(c, "output", &j->out);
    if (!failed)
        failed = write_trace(j);
    if (!failed && !code)
        failed = average_write(j);
    if (!failed)
        failed = write_record(j, spent);
    if (failed)
        return failed;
    print_cost(j, spent);
    if (j->preview) {
        char path[1040];
        preview_path(j, path);
        unlink(path); /* the result has taken its place */
    }
    if (!code) {
        state_end(j);
        return 0;
    }
    return di_fail(c->ctx, DI_EINTERRUPTED, "interrupted at step %llu%s: the estimate so far "
                   "is in %s%s", (unsigned long long)j->at.step,
                   j->images > 1 ? " of an image" : "", cmd_get(c, "output"),
                   j->every ? "; the same line with --resume goes on" : "");
}
