/* input.c - weights, pictures, numbers, problems and solvers, brought to what a run needs */
#define _XOPEN_SOURCE 700
#include "cmd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ==== Numbers and the machine =========================================================== */

int input_seed(cmd *c, uint64_t *seed)
{
    const char *given = cmd_or(c, "seed", "0");
    if (make_u64(given, seed))
        return di_fail(c->ctx, DI_EUSAGE, "--seed %s: give a whole number, 0 to %llu", given,
                       (unsigned long long)UINT64_MAX);
    return 0;
}

int input_int(cmd *c, const char *key, const char *otherwise, int lo, int hi, int *value)
{
    const char *given = otherwise ? cmd_or(c, key, otherwise) : cmd_get(c, key);
    if (given && make_int(given, strlen(given), lo, hi, value))
        return di_fail(c->ctx, DI_EUSAGE, "%s=%s: give a whole number, %d to %d", key, given,
                       lo, hi);
    return 0;
}

int input_size(cmd *c, int *h, int *w)
{
    const char *given = cmd_get(c, "size");
    *h = *w = 0;
    if (given && make_size(given, h, w))
        return di_fail(c->ctx, DI_EUSAGE, "--size %s: give HxW in pixels, such as 64x64",
                       given);
    return 0;
}

int input_machine(cmd *c)
{
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    int threads = online > 0 && online < 1024 ? (int)online : 1;
    const char *numerics = cmd_get(c, "numerics"), *isa = cmd_get(c, "isa");
    if (input_int(c, "threads", NULL, 1, 1024, &threads))
        return DI_EUSAGE;
    if (numerics && strcmp(numerics, "exact") && strcmp(numerics, "fast"))
        return di_fail(c->ctx, DI_EUSAGE, "--numerics %s: exact or fast", numerics);
    di_set_fast(c->ctx, numerics && !strcmp(numerics, "fast"));
    di_set_threads(c->ctx, threads);
    return isa ? (int)di_set_isa(c->ctx, isa) : 0;
}

/* Digits, and K, M or G for powers of 1024; 0 on success. */
static int read_bytes(const char *given, double *bytes)
{
    size_t len = strlen(given);
    const char *unit = "KMG", *at = len ? strchr(unit, given[len - 1]) : NULL;
    if (!len || di_parse(given, at ? len - 1 : len, bytes) || !(*bytes > 0))
        return -1;
    for (const char *u = unit; at && u <= at; u++)
        *bytes *= 1024;
    return 0;
}

size_t input_batch(const di_solver *solver, size_t samples, int h, int w)
{
    enum { MOST = 8, PIXELS = 256 * 256 };
    size_t most = PIXELS / ((size_t)h * (size_t)w), n = samples < MOST ? samples : MOST;
    n = n > most ? most : n;
    return !n || solver->needs & DI_ONE_BY_ONE ? 1 : n;
}

int input_fits(cmd *c, const weights *w, size_t (*need)(void *user), void *user, double arrays,
               int *fits)
{
    const char *given = cmd_get(c, "mem");
    double room;
    *fits = 1;
    if (!given || read_bytes(given, &room))
        return 0; /* input_memory() says what is wrong */
    size_t work = need(user);
    if (!work && c->ctx->status)
        return (int)c->ctx->status;
    *fits = memory_need(c, w, (double)work, arrays) <= room;
    return 0;
}

int input_memory(cmd *c, const weights *w, size_t (*need)(void *user), void *user,
                 double arrays)
{
    static const char *const how[DI_KEEP_PLANS] = {
        "derivatives keep what they need", "derivatives run blocks again",
        "derivatives run whole passes again", "derivatives run passes and blocks again"};
    const char *given = cmd_get(c, "mem");
    double room, least = 0;
    if (!given)
        return 0;
    if (read_bytes(given, &room))
        return di_fail(c->ctx, DI_EUSAGE, "--mem %s: give bytes, or such as 800M or 1.5G",
                       given);
    double fixed = memory_need(c, w, 0, arrays);
    for (int plan = 0; plan < (w->net ? DI_KEEP_PLANS : 1); plan++) {
        if (w->net)
            di_net_keep(w->net, plan);
        size_t work = need(user);
        if (!work && c->ctx->status)
            return (int)c->ctx->status;
        double bytes = fixed + (double)work;
        if (bytes <= room) {
            cmd_note(c, "memory %.1f MiB of %.1f: %s", bytes / 1048576, room / 1048576,
                     how[plan]);
            return 0;
        }
        if (!plan || bytes < least)
            least = bytes;
    }
    double loaded = w->net ? (double)di_net_weight_bytes(w->net) : 0;
    return di_fail(c->ctx, DI_EMEMORY, "--mem %s: this run needs %.1f MiB (weights %.1f); use "
                   "a smaller --size or -n, or fewer --threads", given, least / 1048576,
                   loaded / 1048576);
}

int input_array(cmd *c, const char *path, io_array *a)
{
    char err[400];
    return cmd_io(c, io_read(a, path, err, sizeof err), err);
}

int input_numbers(cmd *c, const char *key, const char *value, size_t n, double *out)
{
    double v;
    if (!di_parse(value, strlen(value), &v)) {
        for (size_t i = 0; i < n; i++)
            out[i] = v;
        return 0;
    }
    io_array a;
    struct stat st;
    if (!strchr(value, '[') && stat(value, &st))
        return di_fail(c->ctx, DI_EUSAGE, "%s %s: neither a number nor a file", key, value);
    int code = input_array(c, value, &a);
    if (code)
        return code;
    size_t count = a.n * a.c * a.h * a.w;
    if (count != n)
        code = di_fail(c->ctx, DI_EINPUT, "%s: it holds %zu numbers: give %zu, one for each "
                       "image", value, count, n);
    for (size_t i = 0; !code && i < n; i++)
        out[i] = (double)a.v[i];
    io_free(&a);
    return code;
}

int input_labels(cmd *c, const weights *w, size_t n, int **labels)
{
    const char *value = cmd_get(c, "label");
    *labels = NULL;
    if (!w->classes && value)
        return di_fail(c->ctx, DI_EUSAGE, "--label %s: %s knows no classes; leave it out",
                       value, w->path);
    if (!w->classes)
        return 0;
    if (!value)
        return di_fail(c->ctx, DI_EUSAGE, "%s is conditioned on a class: give --label, 0 to %d",
                       w->path, w->classes - 1);
    double *number = malloc(n * sizeof *number);
    *labels = malloc(n * sizeof **labels);
    int code = number && *labels ? input_numbers(c, "--label", value, n, number)
                                 : (int)di_fail(c->ctx, DI_EMEMORY, "no memory for %zu labels",
                                                n);
    for (size_t i = 0; !code && i < n; i++) {
        if (!(number[i] >= 0 && number[i] < w->classes) || number[i] != (int)number[i])
            code = di_fail(c->ctx, DI_EUSAGE, "--label %s: give a class, 0 to %d", value,
                           w->classes - 1);
        else
            (*labels)[i] = (int)number[i];
    }
    free(number);
    if (code) {
        free(*labels);
        *labels = NULL;
    }
    return code;
}

/* ==== Weights ==============================================================================

   A prior that ships is named without its ending and looked for beside the command (a source
   tree), in the place of an installation, and first of all where DIFFINV_WEIGHTS says. */

/* The folder of the running program; 0 on success. */
static int program_dir(const cmd *c, char *dir, size_t len)
{
    ssize_t n = readlink("/proc/self/exe", dir, len - 1);
    if (n > 0) {
        dir[n] = 0;
    } else if (strchr(c->program, '/')) {
        if (snprintf(dir, len, "%s", c->program) >= (int)len)
            return 1;
    } else {
        const char *path = getenv("PATH");
        int found = 0;
        while (path && *path && !found) {
            size_t part = strcspn(path, ":");
            found = snprintf(dir, len, "%.*s/%s", (int)part, path, c->program) < (int)len &&
                    !access(dir, X_OK);
            path += part + (path[part] == ':');
        }
        if (!found)
            return 1;
    }
    char *slash = strrchr(dir, '/');
    if (!slash)
        return 1;
    slash[slash == dir] = 0;
    return 0;
}

const char *weights_dir(const cmd *c, int i, char path[1024])
{
    char dir[900];
    const char *set = getenv("DIFFINV_WEIGHTS");
    path[0] = 0;
    if (i == 0 && set && strlen(set) < 1000)
        strcpy(path, set);
    if ((i == 1 || i == 2) && !program_dir(c, dir, sizeof dir))
        snprintf(path, 1024, "%s/%s", dir, i == 1 ? "weights" : "../share/diffinv");
#ifdef DI_DATADIR
    if (i == 3)
        snprintf(path, 1024, "%s", DI_DATADIR);
#endif
    return i < 4 ? path : NULL;
}

int weights_find(cmd *c, const char *name, char path[1024])
{
    struct stat st;
    char dir[1024];
    if (strlen(name) < 1024 && !stat(name, &st)) {
        strcpy(path, name);
        return 0;
    }
    for (int i = 0; !strchr(name, '/') && weights_dir(c, i, dir); i++)
        if (*dir && snprintf(path, 1024, "%s/%s.unw", dir, name) < 1024 && !stat(path, &st))
            return 0;
    return 1;
}

static int read_weights(void *user, uint64_t offset, void *dst, size_t n)
{
    char *p = dst;
    while (n) {
        ssize_t got = pread(((weights *)user)->fd, p, n < (1u << 30) ? n : 1u << 30,
                            (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return 1;
        p += got;
        n -= (size_t)got;
        offset += (uint64_t)got;
    }
    return 0;
}

static int meta_int(const di_net *net, const char *key)
{
    const char *given = di_net_get(net, key);
    int v = 0;
    if (given)
        make_int(given, strlen(given), 0, 1 << 20, &v);
    return v;
}

int weights_open(cmd *c, const char *name, unsigned flags, weights *w)
{
    struct stat st;
    memset(w, 0, sizeof *w);
    w->fd = -1;
    if (exact_is(name))
        return exact_open(c, name, !(flags & DI_NET_HEAD) || cmd_get(c, "solver"), w);
    if (weights_find(c, name, w->path))
        return di_fail(c->ctx, DI_EINPUT, "-w %.200s: no such file, and no prior of that name: see "
                       "diffinv list priors, or set DIFFINV_WEIGHTS to their folder", name);
    /* opening a pipe would wait for a writer */
    int known = !stat(w->path, &st);
    if (known && !S_ISREG(st.st_mode))
        return di_fail(c->ctx, DI_EINPUT, "%s: not a file: give a .unw weight file", w->path);
    w->fd = known ? open(w->path, O_RDONLY) : -1;
    if (w->fd < 0 || fstat(w->fd, &st))
        return di_fail(c->ctx, DI_EINPUT, "%s: can't read: %s", w->path, strerror(errno));
    di_status s = di_net_open(c->ctx, read_weights, w, (uint64_t)st.st_size, flags, &w->net);
    close(w->fd);
    w->fd = -1;
    if (s) {
        char why[400];
        snprintf(why, sizeof why, "%s", di_error(c->ctx));
        di_clear(c->ctx);
        return di_fail(c->ctx, s, "%s: %s", w->path, why);
    }
    w->head = (flags & DI_NET_HEAD) != 0;
    w->in = di_net_channels(w->net, &w->out);
    w->multiple = di_net_multiple(w->net);
    w->trained = meta_int(w->net, "net.image_size");
    w->classes = meta_int(w->net, "net.classes");
    w->crc = di_net_crc(w->net);
    return cmd_fact(c, "info.weights_crc", "%08lx", (unsigned long)w->crc);
}

int weights_prior(const weights *w, int h, int width, di_prior **prior)
{
    *prior = w->exact;
    return w->exact ? 0 : (int)di_prior_net(w->net, h, width, prior);
}

int weights_size(cmd *c, const weights *w, int h, int width)
{
    if (w->h && (h != w->h || width != w->w))
        return di_fail(c->ctx, DI_EINPUT, "%dx%d does not suit the prior %s, which knows %dx%d "
                       "only%s", h, width, w->path, w->h, w->w, cmd_get(c, "input") ?
                       "; give --fit crop|pad|resize" : "");
    int m = w->multiple, up_h = (h + m - 1) / m * m, up_w = (width + m - 1) / m * m;
    int down_h = h < m ? m : h / m * m, down_w = width < m ? m : width / m * m;
    if (h != up_h || width != up_w)
        return di_fail(c->ctx, DI_EINPUT, "%dx%d does not suit the prior %s, whose sides are "
                       "multiples of %d: the nearest sizes are %dx%d and %dx%d%s", h, width,
                       cmd_or(c, "weights", "portraits64"), m, down_h, down_w, up_h, up_w,
                       c->bit == V_MEASURE ? "; give --fit crop|pad|resize, or -w none to "
                       "measure it as it is" : c->bit != V_SOLVE ? "" : cmd_get(c, "input") ?
                       "; give --fit crop|pad|resize" :
                       "; measure it again with --fit crop|pad|resize");
    return 0;
}

int weights_own_size(cmd *c, const weights *w, int *h, int *width)
{
    *h = w->h ? w->h : w->trained;
    *width = w->h ? w->w : w->trained;
    return *h ? 0 : (int)di_fail(c->ctx, DI_EUSAGE, "%s does not say its size: give --size HxW",
                                 w->path);
}

/* ==== Pictures ========================================================================== */

static int repeat_grey(cmd *c, const char *path, io_array *a)
{
    io_array b;
    size_t plane = a->h * a->w;
    if (io_make(&b, a->n, 3, a->h, a->w))
        return di_fail(c->ctx, DI_EMEMORY, "%s: no memory for its three channels", path);
    b.picture = a->picture;
    for (size_t i = 0; i < a->n; i++)
        for (size_t k = 0; k < 3; k++)
            memcpy(b.v + (3 * i + k) * plane, a->v + i * plane, plane * sizeof *b.v);
    io_free(a);
    *a = b;
    cmd_detail(c, "%s is grey: repeated to 3 channels", path);
    return 0;
}

static int check_fit(cmd *c, const char *how)
{
    if (!how || !strcmp(how, "crop") || !strcmp(how, "pad") || !strcmp(how, "resize"))
        return 0;
    return di_fail(c->ctx, DI_EUSAGE, "--fit %s: give crop, pad or resize", how);
}

/* Where --fit brings a picture: --size, or else the size the prior was trained at (resize), or
   the nearest that it takes (crop, pad). */
static int fit_picture(cmd *c, const char *path, const weights *w, io_array *a)
{
    const char *how = cmd_get(c, "fit");
    int h, width;
    char err[400];
    if (input_size(c, &h, &width))
        return DI_EUSAGE;
    if (check_fit(c, how))
        return DI_EUSAGE;
    if (!how && h && (a->h != (size_t)h || a->w != (size_t)width))
        return di_fail(c->ctx, DI_EINPUT, "%s is %zux%zu, not %dx%d: add --fit crop|pad|resize",
                       path, a->h, a->w, h, width);
    if (!how)
        return 0;
    if (!h && !w)
        return di_fail(c->ctx, DI_EUSAGE, "--fit %s needs --size HxW, or -w and a prior to fit "
                       "to", how);
    if (!h) {
        int m = w->multiple, up = strcmp(how, "pad") ? 0 : m - 1;
        h = ((int)a->h + up) / m * m;
        width = ((int)a->w + up) / m * m;
        if (!strcmp(how, "resize") && w->trained)
            h = width = w->trained;
        if (w->h) {
            h = w->h;
            width = w->w;
        }
        if (!h || !width)
            return di_fail(c->ctx, DI_EINPUT, "%s: %zux%zu is too small to crop to a multiple "
                           "of %d: use --fit pad or resize", path, a->h, a->w, m);
    }
    cmd_detail(c, "%s: %zux%zu brought to %dx%d by %s", path, a->h, a->w, h, width, how);
    int code = pic_fit(a, how, (size_t)h, (size_t)width, err, sizeof err);
    return code ? (int)di_fail(c->ctx, (di_status)code, "%s: %s", path, err) : 0;
}

int input_finite(cmd *c, const char *path, const io_array *a)
{
    size_t plane = a->h * a->w, n = a->n * a->c * plane;
    if (di_finite(a->v, n))
        return 0;
    size_t i = 0;
    while (di_finite(a->v + i, 1))
        i++;
    return di_fail(c->ctx, DI_EINPUT, "%s holds NaN or infinity, first at row %zu, column %zu "
                   "of channel %zu", path, i % plane / a->w, i % a->w, i / plane % a->c);
}

/* Reads pictures and brings them to the prior's channels; on failure a holds what was read. */
static int read_pictures(cmd *c, const char *path, const weights *w, io_array *a)
{
    int code = input_array(c, path, a);
    if (!code)
        code = input_finite(c, path, a);
    if (!code && w && a->c == 1 && w->in == 3 && a->picture)
        code = repeat_grey(c, path, a);
    if (!code && w && a->c != (size_t)w->in)
        code = di_fail(c->ctx, DI_EINPUT, "%s has %zu channel%s, the prior %s has %d: give a "
                       "picture that has as many, or another -w%s", path, a->c,
                       a->c == 1 ? "" : "s", cmd_or(c, "weights", "portraits64"), w->in,
                       c->bit == V_MEASURE ? " (none: as it is)" : "");
    if (!code && (a->h > 1 << 16 || a->w > 1 << 16))
        code = di_fail(c->ctx, DI_EINPUT, "%s: %zux%zu is larger than 65536 a side", path, a->h,
                       a->w);
    return code;
}

int input_pictures(cmd *c, const char *path, const weights *w, io_array *a)
{
    int code = read_pictures(c, path, w, a);
    if (!code)
        code = fit_picture(c, path, w, a);
    if (!code && w)
        code = weights_size(c, w, (int)a->h, (int)a->w);
    if (code)
        io_free(a);
    return code;
}

int input_truth(cmd *c, const char *path, const weights *w, const char *how, int h, int width,
                io_array *a)
{
    char err[400];
    memset(a, 0, sizeof *a); /* freed by callers even when nothing is read */
    if (check_fit(c, how))
        return DI_EUSAGE;
    int code = w ? read_pictures(c, path, w, a) : input_array(c, path, a);
    if (!code && how && (a->h != (size_t)h || a->w != (size_t)width)) {
        cmd_detail(c, "%s: %zux%zu brought to %dx%d by %s", path, a->h, a->w, h, width, how);
        code = pic_fit(a, how, (size_t)h, (size_t)width, err, sizeof err);
        if (code)
            code = di_fail(c->ctx, (di_status)code, "%s: %s", path, err);
    }
    if (code)
        io_free(a);
    return code;
}

/* ==== Problems and solvers ============================================================== */

/* Whether two values say the same: equal texts, or equal numbers. */
static int same_value(const char *a, const char *b)
{
    double x, y;
    return !strcmp(a, b) ||
           (!di_parse(a, strlen(a), &x) && !di_parse(b, strlen(b), &y) && x == y);
}

/* Sets what the settings give; values stay those of the store. */
static int spec_from(cmd *c, const settings *set, make_spec *spec, const char *name)
{
    int code = make_begin(c->ctx, spec, name);
    for (int i = 0; !code && i < set->n; i++)
        if (!strncmp(set->item[i].key, "problem.", 8))
            code = make_set(c->ctx, spec, set->item[i].key + 8, set->item[i].value);
    return code;
}

static int check_record(cmd *c, const make_spec *spec, const settings *record, const char *path)
{
    const make_kind *kind = spec->kind;
    const char *name = settings_get(record, "problem");
    if (name && strcmp(name, kind->name))
        return di_fail(c->ctx, DI_EUSAGE, "-p %s, but %s says the measurement is of '%s': "
                       "leave -p out, or give another -y", kind->name, path, name);
    for (int i = 0; i < MAKE_PARAMS && kind->param[i].key; i++) {
        char key[64];
        snprintf(key, sizeof key, "problem.%s", kind->param[i].key);
        const char *was = settings_get(record, key), *is = spec->value[i];
        if (was && is && !same_value(was, is))
            return di_fail(c->ctx, DI_EUSAGE, "-p %s %s=%s, but %s says %s=%s: leave it out, "
                           "or measure again", kind->name, kind->param[i].key, is, path,
                           kind->param[i].key, was);
    }
    return 0;
}

int input_problem(cmd *c, const settings *record, const char *path, make_spec *spec)
{
    const char *name = cmd_get(c, "problem"), *recorded = NULL;
    if (record)
        recorded = settings_get(record, "problem");
    if (!name && !recorded)
        return di_fail(c->ctx, DI_EUSAGE, "%s needs -p and a problem: see diffinv list "
                       "problems", c->verb);
    int code = spec_from(c, &c->set, spec, name ? name : recorded);
    if (!code && record)
        code = check_record(c, spec, record, path);
    /* The store gets every value in force, so that the record of this run holds them all. */
    settings all = {NULL, 0, 0};
    for (int i = 0; !code && i < MAKE_PARAMS && spec->kind->param[i].key; i++) {
        char key[64];
        const char *value = spec->value[i];
        snprintf(key, sizeof key, "problem.%s", spec->kind->param[i].key);
        if (!value && record)
            value = settings_get(record, key);
        code = settings_put(c, &all, key, value ? value : spec->kind->param[i].value);
    }
    if (!code) {
        code = settings_put(c, &c->set, "problem", spec->kind->name);
        settings_drop(&c->set, "problem.");
        for (int i = 0; !code && i < all.n; i++)
            code = settings_put(c, &c->set, all.item[i].key, all.item[i].value);
    }
    settings_free(&all);
    return code ? code : spec_from(c, &c->set, spec, cmd_get(c, "problem"));
}

int input_solver(cmd *c, const char *otherwise, unsigned needs, const di_solver **solver)
{
    const char *name = cmd_or(c, "solver", otherwise), *words[64];
    int n = 0;
    *solver = di_solver_find(name);
    for (const di_solver *s; n < 64 && (s = di_solver_at(n)) != NULL; n++)
        words[n] = s->name;
    if (!*solver)
        return di_fail(c->ctx, DI_EUSAGE, "no solver is named '%s': did you mean '%s'? See "
                       "diffinv list solvers", name, di_nearest(name, words, n));
    if (((*solver)->needs ^ needs) & DI_NEEDS_PROBLEM)
        return di_fail(c->ctx, DI_EUSAGE, needs ? "-s %s only draws samples: say diffinv "
                       "sample -s %s, or solve with dps" : "-s %s solves a problem: say "
                       "diffinv solve -s %s -y FILE, or sample with ddim", name, name);
    for (int i = 0; i < c->set.n; i++) {
        char where[64];
        snprintf(where, sizeof where, "solver %s", (*solver)->name);
        const setting *s = &c->set.item[i];
        if (!strncmp(s->key, "solver.", 7) &&
            make_check(c->ctx, where, (*solver)->param, s->key + 7, s->value))
            return DI_EUSAGE;
    }
    return 0;
}

int input_params(cmd *c, const di_solver *solver, di_run *run)
{
    int code = 0;
    for (int i = 0; !code && i < DI_MAX_PARAM && solver->param[i].key; i++) {
        char key[64];
        snprintf(key, sizeof key, "solver.%s", solver->param[i].key);
        const char *value = cmd_get(c, key), *sigma = NULL;
        /* The noise level is the problem's business, unless a solver is told otherwise. */
        if (!value && !strcmp(key, "solver.sigma_y"))
            value = sigma = cmd_get(c, "problem.sigma");
        if (value)
            code = di_run_set(run, solver->param[i].key, value);
        if (code && sigma) {
            di_clear(c->ctx);
            code = di_fail(c->ctx, DI_EUSAGE, "-s %s works with a noise level sigma_y in %s, "
                           "but the problem has sigma=%s: give sigma_y= after -s %s",
                           solver->name, solver->param[i].choice, sigma, solver->name);
        }
        if (!code)
            code = settings_put(c, &c->set, key, di_run_get(run, solver->param[i].key));
    }
    return code;
}
