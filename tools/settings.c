/* settings.c - settings from the command line and from files, outputs and the run record */
#define _XOPEN_SOURCE 700
#include "cmd.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ==== Small things ====================================================================== */

double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Makes room for n bytes more and a NUL; 0 on success. */
static int text_room(text *t, size_t n)
{
    if (t->failed || n > SIZE_MAX / 4 - t->n)
        t->failed = 1;
    if (t->failed || t->n + n + 1 <= t->cap)
        return t->failed;
    size_t cap = t->cap + t->cap / 2 + n + 256;
    char *s = realloc(t->s, cap);
    if (!s) {
        t->failed = 1;
        return 1;
    }
    t->s = s;
    t->cap = cap;
    return 0;
}

void text_add(text *t, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    int need = vsnprintf(NULL, 0, format, ap);
    va_end(ap);
    if (need < 0)
        t->failed = 1;
    if (text_room(t, need < 0 ? 0 : (size_t)need))
        return;
    va_start(ap, format);
    vsnprintf(t->s + t->n, t->cap - t->n, format, ap);
    va_end(ap);
    t->n += (size_t)need;
}

void text_put(text *t, const void *bytes, size_t n)
{
    if (text_room(t, n))
        return;
    if (n)
        memcpy(t->s + t->n, bytes, n);
    t->n += n;
    t->s[t->n] = 0;
}

static void say(const char *format, va_list ap)
{
    fflush(stdout);
    fputs("diffinv: ", stderr);
    vfprintf(stderr, format, ap);
    fputc('\n', stderr);
}

void cmd_note(cmd *c, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    if (!c->quiet)
        say(format, ap);
    va_end(ap);
}

void cmd_detail(cmd *c, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    if (c->verbose && !c->quiet)
        say(format, ap);
    va_end(ap);
}

int cmd_io(cmd *c, int code, const char *err)
{
    return code ? (int)di_fail(c->ctx, (di_status)code, "%s", err) : 0;
}

/* ==== The store ============================================================================

   A setting is a key and a text. The line and @files fill the same store, in the order in which
   they are read, so a later one overrides; what a run then writes down is this store. */

const char *settings_get(const settings *s, const char *key)
{
    for (int i = 0; i < s->n; i++)
        if (!strcmp(s->item[i].key, key))
            return s->item[i].value;
    return NULL;
}

static char *copy_text(const char *s)
{
    char *p = malloc(strlen(s) + 1);
    if (p)
        strcpy(p, s);
    return p;
}

static int no_memory(cmd *c)
{
    return di_fail(c->ctx, DI_EMEMORY, "no memory for the settings");
}

int settings_put(cmd *c, settings *s, const char *key, const char *value)
{
    for (const char *p = value; *p; p++)
        if ((unsigned char)*p < 32 || *p == 127)
            return di_fail(c->ctx, DI_EUSAGE, "%s=: control characters can't be recorded; "
                           "rename the file", key);
    char *v = copy_text(value);
    if (!v)
        return no_memory(c);
    for (int i = 0; i < s->n; i++) {
        if (!strcmp(s->item[i].key, key)) {
            free(s->item[i].value);
            s->item[i].value = v;
            s->item[i].recorded = 0;
            return 0;
        }
    }
    char *k = copy_text(key);
    if (k && s->n == s->cap) {
        int cap = 2 * s->cap + 16;
        setting *item = realloc(s->item, (size_t)cap * sizeof *item);
        if (item) {
            s->item = item;
            s->cap = cap;
        }
    }
    if (!k || s->n == s->cap) {
        free(k);
        free(v);
        return no_memory(c);
    }
    s->item[s->n].key = k;
    s->item[s->n].recorded = 0;
    s->item[s->n++].value = v;
    return 0;
}

void settings_free(settings *s)
{
    for (int i = 0; i < s->n; i++) {
        free(s->item[i].key);
        free(s->item[i].value);
    }
    free(s->item);
    memset(s, 0, sizeof *s);
}

void settings_drop(settings *s, const char *key)
{
    size_t len = strlen(key);
    int kept = 0;
    for (int i = 0; i < s->n; i++) {
        const char *k = s->item[i].key;
        if (key[len - 1] == '.' ? !strncmp(k, key, len) : !strcmp(k, key)) {
            free(s->item[i].key);
            free(s->item[i].value);
        } else {
            s->item[kept++] = s->item[i];
        }
    }
    s->n = kept;
}

int settings_parse(cmd *c, const char *path, char *lines, settings *s)
{
    int code = 0, line = 0;
    for (char *p = lines, *next; !code && *p; p = next) {
        line++;
        size_t n = strcspn(p, "\n");
        next = p + n + (p[n] == '\n');
        p[n] = 0;
        if (n && p[n - 1] == '\r')
            p[n - 1] = 0;
        char *eq = strchr(p, '=');
        if (!*p || *p == '#')
            continue;
        if (!eq || eq == p) {
            code = di_fail(c->ctx, DI_EINPUT, "%s: line %d is not key=value", path, line);
            break;
        }
        *eq = 0;
        code = settings_put(c, s, p, eq + 1);
    }
    return code;
}

int settings_read(cmd *c, const char *path, settings *s)
{
    char err[400], *bytes;
    size_t len;
    int code = io_read_text(path, &bytes, &len, 1 << 20, err, sizeof err);
    if (code)
        return cmd_io(c, code, err);
    if (memchr(bytes, 0, len))
        code = di_fail(c->ctx, DI_EINPUT, "%s: not a settings file: it holds NUL bytes", path);
    if (!code)
        code = settings_parse(c, path, bytes, s);
    free(bytes);
    return code;
}

const char *cmd_get(const cmd *c, const char *key)
{
    return settings_get(&c->set, key);
}

const char *cmd_or(cmd *c, const char *key, const char *or)
{
    const char *value = cmd_get(c, key);
    if (value)
        return value;
    settings_put(c, &c->set, key, or);
    return or;
}

int cmd_fact(cmd *c, const char *key, const char *format, ...)
{
    char value[1200];
    va_list ap;
    va_start(ap, format);
    vsnprintf(value, sizeof value, format, ap);
    va_end(ap);
    return settings_put(c, &c->facts, key, value);
}

/* ==== The line =============================================================================

   Flags and settings are two spellings of one thing: --seed 7 is seed=7, and after -s NAME or
   -p NAME a key=value belongs to the solver or the problem: solver.steps=100. */

typedef struct option {
    const char *flag, *key;
    int takes;          /* a value */
    unsigned verbs;
    const char *what;   /* the value, for messages */
} option;

enum {
    V_RUN = V_MEASURE | V_SOLVE | V_SAMPLE | V_NET | V_OP,
    V_DRAW = V_MEASURE | V_SOLVE | V_SAMPLE
};

/* In the order in which a record lists them. */
static const option options[] = {
    {"-s", "solver", 1, V_SOLVE | V_SAMPLE | V_INFO, "the name of a solver"},
    {"-p", "problem", 1, V_MEASURE | V_SOLVE | V_OP | V_INFO | V_EVAL | V_VIEW,
     "the name of a problem"},
    {"--what", "what", 1, V_MAKE, "what to make (diffinv list makers)"},
    {"-w", "weights", 1, V_MEASURE | V_SOLVE | V_SAMPLE | V_INFO | V_NET,
     "a weight file or the name of a prior"},
    {"-i", "input", 1, V_MEASURE | V_SOLVE | V_NET | V_OP | V_VIEW, "a file"},
    {"-y", "measurement", 1, V_SOLVE | V_EVAL, "a file"},
    {"--size", "size", 1, V_DRAW | V_INFO | V_MAKE, "HxW"},
    {"--fit", "fit", 1, V_MEASURE | V_SOLVE | V_EVAL, "crop, pad or resize"},
    {"--seed", "seed", 1, V_DRAW | V_MAKE, "a whole number"},
    {"-n", "samples", 1, V_SOLVE | V_SAMPLE | V_INFO | V_MAKE, "a number of samples"},
    {"--noise", "noise", 1, V_SOLVE | V_SAMPLE, "an NPY file"},
    {"--label", "label", 1, V_SOLVE | V_SAMPLE | V_NET, "a class or an NPY file of them"},
    {"-t", "t", 1, V_NET, "a number or an NPY file of them"},
    {"--sigma", "sigma", 1, V_NET, "a noise level or an NPY file of them"},
    {"--vjp", "vjp", 1, V_NET | V_OP, "an NPY file"},
    {"--pinv", "pinv", 0, V_OP, ""},
    {"--numerics", "numerics", 1, V_RUN | V_INFO, "exact or fast"},
    {"--isa", "isa", 1, V_RUN | V_INFO, "a name from diffinv list isa"},
    {"--threads", "threads", 1, V_RUN | V_INFO, "a number"},
    {"--mem", "mem", 1, V_SOLVE | V_SAMPLE | V_NET | V_INFO, "bytes, such as 800M"},
    {"--truth", "truth", 1, V_SOLVE, "a file"},
    {"--map", "map", 1, V_VIEW, "grey, heat, diverging or log"},
    {"--scale", "scale", 1, V_VIEW, "a whole factor"},
    {"-o", "output", 1, V_RUN | V_VIEW | V_MAKE, "a file"},
    {"--simple", "simple", 1, V_MEASURE, "a file"},
    {"--gx", "gx", 1, V_NET | V_OP, "a file"},
    {"--mean", "mean", 1, V_SOLVE | V_SAMPLE, "a file"},
    {"--std", "std", 1, V_SOLVE | V_SAMPLE, "a file"},
    {"--sheet", "sheet", 1, V_SOLVE | V_MEASURE, "a file"},
    {"--under", "under", 1, V_SOLVE | V_MEASURE, "an earlier sheet"},
    {"--beside", "beside", 1, V_SOLVE | V_MEASURE, "an earlier sheet"},
    {"--trace", "trace", 1, V_SOLVE | V_SAMPLE, "a file"},
    {"--oracle", "oracle", 0, V_SOLVE, ""},
    {"--preview", "preview", 1, V_SOLVE | V_SAMPLE, "a number of steps"},
    {"--save-every", "save-every", 1, V_SOLVE | V_SAMPLE, "a number of steps"},
    {"--resume", "resume", 0, V_SOLVE | V_SAMPLE, ""},
    {"--defaults", "defaults", 0, V_LIST, ""},
    {"-q", "quiet", 0, V_ALL, ""},
    {"-v", "verbose", 0, V_ALL, ""},
    {"--help", "help", 0, V_ALL, ""},
    {"--version", "version", 0, V_ALL, ""},
};
enum { OPTIONS = sizeof options / sizeof options[0] };

static int among(const char *key, const char *const *keys)
{
    while (*keys && strcmp(*keys, key))
        keys++;
    return *keys != NULL;
}

/* Options whose key=value settings follow them. */
static int has_parameters(const char *key)
{
    static const char *const keys[] = {"solver", "problem", "what", NULL};
    return among(key, keys);
}

/* What a record leaves out; what in a PNG would make equal pictures differ; what may differ
   between a run and its continuation. */
static int recorded(const option *o, int place)
{
    static const char *const never[] = {"quiet", "verbose", "help", "version", "defaults",
                                        "resume", NULL};
    static const char *const outside[] = {"threads", "isa", "mem", "truth", "output", "gx",
                                          "sheet", "under", "beside", "trace", "simple",
                                          "save-every", "mean", "std", "preview", NULL};
    static const char *const free_to_change[] = {"threads", "isa", "output", "sheet", "under",
                                                 "beside", "save-every", "mean", "std",
                                                 "preview", NULL};
    return !among(o->key, never) && !(place == IN_PICTURE && among(o->key, outside)) &&
           !(place == IN_STATE && among(o->key, free_to_change));
}

static int unknown_option(cmd *c, const char *flag)
{
    const char *words[OPTIONS];
    int n = 0;
    for (int i = 0; i < OPTIONS; i++) {
        if (!strcmp(options[i].flag, flag))
            return di_fail(c->ctx, DI_EUSAGE, "%s has no option %s: it belongs to %s", c->verb,
                           flag, verb_names(options[i].verbs));
        if (options[i].verbs & c->bit)
            words[n++] = options[i].flag;
    }
    return di_fail(c->ctx, DI_EUSAGE, "%s has no option '%s': did you mean %s? See diffinv %s "
                   "--help", c->verb, flag, di_nearest(flag, words, n), c->verb);
}

static int unknown_key(cmd *c, const char *key, const char *path)
{
    const char *words[OPTIONS];
    int n = 0;
    for (int i = 0; i < OPTIONS; i++)
        if ((options[i].verbs & c->bit) && recorded(&options[i], IN_RECORD))
            words[n++] = options[i].key;
    if (!n)
        return di_fail(c->ctx, DI_EUSAGE, "%s takes no settings: '%s'", c->verb, key);
    const char *guess = di_nearest(key, words, n);
    if (path)
        return di_fail(c->ctx, DI_EUSAGE, "%s: %s has no setting '%s': did you mean '%s'?",
                       path, c->verb, key, guess);
    const di_solver *s = cmd_get(c, "solver") ? di_solver_find(cmd_get(c, "solver")) : NULL;
    for (int i = 0; s && i < DI_MAX_PARAM && s->param[i].key; i++)
        if (!strcmp(s->param[i].key, key))
            guess = "solver.KEY";
    const make_kind *kind = cmd_get(c, "problem") ? make_kind_find(cmd_get(c, "problem")) : NULL;
    for (int i = 0; kind && i < MAKE_PARAMS && kind->param[i].key; i++)
        if (!strcmp(kind->param[i].key, key))
            guess = "problem.KEY";
    if (strstr(guess, ".KEY"))
        return di_fail(c->ctx, DI_EUSAGE, "%s has no setting '%s' of its own: say %.*s%s, or let "
                       "it follow its -s or -p", c->verb, key, (int)strlen(guess) - 3, guess,
                       key);
    return di_fail(c->ctx, DI_EUSAGE, "%s has no setting '%s': did you mean '%s'? Parameters "
                   "of a solver or problem follow its -s or -p", c->verb, key, guess);
}

/* The default in force for a parameter of a solver and a problem; "" if there is none. */
static const char *default_for(const char *solver, const char *problem, const char *key)
{
    const di_solver *s = di_solver_find(solver);
    const di_default *d;
    for (int i = 0; (d = di_default_at(i)) != NULL; i++)
        if (!strcmp(d->solver, solver) && !strcmp(d->problem, problem) && !strcmp(d->key, key))
            return d->value;
    for (int i = 0; s && i < DI_MAX_PARAM && s->param[i].key; i++)
        if (!strcmp(s->param[i].key, key))
            return s->param[i].value;
    return "";
}

/* Whether the parameter's default depends on the problem. */
static int has_own_default(const char *solver, const char *key)
{
    const di_default *d;
    for (int i = 0; (d = di_default_at(i)) != NULL; i++)
        if (!strcmp(d->solver, solver) && !strcmp(d->key, key))
            return 1;
    return 0;
}

/* A record holds the solver's defaults for its problem; for another problem they are others. */
static void drop_defaults(cmd *c, const char *problem)
{
    const char *solver = cmd_get(c, "solver");
    for (int i = c->set.n; solver && i-- > 0; ) {
        const setting *s = &c->set.item[i];
        if (s->recorded && !strncmp(s->key, "solver.", 7) &&
            has_own_default(solver, s->key + 7) &&
            !strcmp(s->value, default_for(solver, problem, s->key + 7))) {
            char key[64];
            snprintf(key, sizeof key, "%s", s->key);
            settings_drop(&c->set, key);
        }
    }
}

static int put_option(cmd *c, const char *key, const char *value, int recorded)
{
    const char *old = cmd_get(c, key);
    int other = old && strcmp(old, value);
    /* Another solver or problem starts from its own defaults. */
    if (other && !strcmp(key, "solver"))
        settings_drop(&c->set, "solver.");
    if (other && !strcmp(key, "problem")) {
        drop_defaults(c, old);
        settings_drop(&c->set, "problem.");
    }
    /* Two names of one quantity: the later one counts. */
    if (!strcmp(key, "problem.sigma"))
        settings_drop(&c->set, "problem.sigma01");
    if (!strcmp(key, "problem.sigma01"))
        settings_drop(&c->set, "problem.sigma");
    int code = settings_put(c, &c->set, key, value);
    for (int i = 0; !code && i < c->set.n; i++)
        if (!strcmp(c->set.item[i].key, key))
            c->set.item[i].recorded = recorded;
    return code;
}

/* One key=value, path: the file it came from or NULL. */
static int take_setting(cmd *c, const char *key, const char *value, const char *path)
{
    if (path && (!strncmp(key, "info.", 5) || !strncmp(key, "cost.", 5)))
        return 0;
    if (path && !strcmp(key, "verb")) {
        if (strcmp(value, c->verb))
            return di_fail(c->ctx, DI_EUSAGE, "%s records a run of '%s', not of '%s': say "
                           "diffinv %s @%s", path, value, c->verb, value, path);
        return 0;
    }
    for (int i = 0; i < OPTIONS; i++) {
        const option *o = &options[i];
        if (!(o->verbs & c->bit) || !recorded(o, IN_RECORD))
            continue;
        size_t len = strlen(o->key);
        if (!strcmp(o->key, key) && !o->takes && strcmp(value, "1"))
            return di_fail(c->ctx, DI_EUSAGE, "%s=%s: it is 1, or left out", key, value);
        if (!strcmp(o->key, key))
            return put_option(c, key, value, path != NULL);
        if (has_parameters(o->key) &&
            !strncmp(key, o->key, len) && key[len] == '.' && key[len + 1])
            return put_option(c, key, value, path != NULL);
    }
    return unknown_key(c, key, path);
}

static int take_file(cmd *c, const char *path)
{
    settings file = {NULL, 0, 0};
    int code = settings_read(c, path, &file);
    for (int i = 0; !code && i < file.n; i++)
        code = take_setting(c, file.item[i].key, file.item[i].value, path);
    settings_free(&file);
    return code;
}

static int take_flag(cmd *c, char **argv, int argc, int *i, const char **section)
{
    const char *arg = strcmp(argv[*i], "-h") ? argv[*i] : "--help";
    const char *eq = arg[1] == '-' ? strchr(arg, '=') : NULL;
    char flag[64];
    snprintf(flag, sizeof flag, "%.*s", (int)(eq ? eq - arg : 63), arg);
    const option *o = NULL;
    for (int k = 0; k < OPTIONS; k++)
        if ((options[k].verbs & c->bit) && !strcmp(options[k].flag, flag))
            o = &options[k];
    *section = NULL;
    if (!o)
        return unknown_option(c, flag);
    if (!o->takes) {
        if (eq)
            return di_fail(c->ctx, DI_EUSAGE, "%s takes no value", flag);
        return settings_put(c, &c->set, o->key, "1");
    }
    const char *value = eq ? eq + 1 : *i + 1 < argc ? argv[++*i] : NULL;
    /* "-o -n 3" is a forgotten name; "-t -3" is a number. */
    if (!value || !*value || (!eq && value[0] == '-' && value[1] && !strchr("0123456789.",
                                                                            value[1])))
        return di_fail(c->ctx, DI_EUSAGE, "%s needs a value: %s", flag, o->what);
    if (has_parameters(o->key))
        *section = o->key;
    return put_option(c, o->key, value, 0);
}

/* Whether a word with '=' is a setting where it might be a file's name too. */
static int is_setting(const cmd *c, const char *arg, size_t len)
{
    for (int i = 0; i < OPTIONS; i++)
        if ((options[i].verbs & c->bit) && strlen(options[i].key) == len &&
            !strncmp(options[i].key, arg, len))
            return 1;
    return !strncmp(arg, "problem.", 8);
}

/* A record repeated with another output would write over what else the recorded run wrote. */
static void drop_side_outputs(cmd *c)
{
    static const char *const side[] = {"sheet", "under", "beside", "trace", "mean", "std",
                                       "simple", "gx"};
    int elsewhere = 0;
    for (int i = 0; i < c->set.n; i++)
        elsewhere |= !strcmp(c->set.item[i].key, "output") && !c->set.item[i].recorded;
    for (size_t k = 0; elsewhere && k < sizeof side / sizeof side[0]; k++)
        for (int i = 0; i < c->set.n; i++)
            if (c->set.item[i].recorded && !strcmp(c->set.item[i].key, side[k])) {
                cmd_detail(c, "the recorded %s=%s stays as it is: say --%s FILE for another",
                         side[k], c->set.item[i].value, side[k]);
                settings_drop(&c->set, side[k]);
                break;
            }
}

int cmd_parse(cmd *c, int argc, char **argv)
{
    const char *section = NULL;
    int most = c->bit == V_EVAL ? 2 : c->bit == V_LIST || c->bit == V_VIEW;
    int set = !most || c->bit == V_VIEW; /* whether it has settings */
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i], *eq = strchr(arg, '=');
        int code = 0;
        if (arg[0] == '-' && arg[1]) {
            code = take_flag(c, argv, argc, &i, &section);
        } else if (c->bit == V_MAKE && !eq && arg[0] != '@' && !cmd_get(c, "what")) {
            section = "what"; /* make ring: the word that matters needs no option */
            code = put_option(c, "what", arg, 0);
        } else if (arg[0] == '@' && set) {
            section = NULL;
            code = take_file(c, arg + 1);
        } else if (eq && eq != arg &&
                   (section || (set && (!most || is_setting(c, arg, (size_t)(eq - arg)))))) {
            char key[128];
            if (c->bit == V_MAKE && cmd_get(c, "what")) /* nothing else has parameters */
                section = "what";
            snprintf(key, sizeof key, "%s%s%.*s", section ? section : "", section ? "." : "",
                     (int)(eq - arg), arg);
            code = take_setting(c, key, eq + 1, NULL);
        } else if (c->words < most) {
            c->word[c->words++] = arg;
        } else {
            code = di_fail(c->ctx, DI_EUSAGE, "what is '%s'? A file follows its option (see "
                           "diffinv %s --help), a setting is key=value", arg, c->verb);
        }
        if (code)
            return code;
    }
    c->quiet = cmd_get(c, "quiet") != NULL;
    c->verbose = cmd_get(c, "verbose") != NULL;
    drop_side_outputs(c);
    return 0;
}

int cmd_need(cmd *c, const char *key, const char **value)
{
    *value = cmd_get(c, key);
    for (int i = 0; !*value && i < OPTIONS; i++)
        if (!strcmp(options[i].key, key))
            return di_fail(c->ctx, DI_EUSAGE, "%s needs %s: %s (see diffinv %s --help)",
                           c->verb, options[i].flag, options[i].what, c->verb);
    return 0;
}

/* ==== Outputs and the record ===============================================================

   OUT.run is a valid @file: the settings of the run, defaults included, then what the run found
   (info.*) and cost (cost.*), which a reader skips. */

static int has_ending(const char *path, const char *const *ending, int n)
{
    size_t len = strlen(path);
    for (int i = 0; i < n; i++) {
        int same = len > 4;
        for (size_t k = 0; same && k < 4; k++) {
            char q = path[len - 4 + k];
            same = (q >= 'A' && q <= 'Z' ? q + 32 : q) == ending[i][k];
        }
        if (same)
            return 1;
    }
    return 0;
}

int is_picture_name(const char *path)
{
    static const char *const ending[] = {".png", ".ppm", ".pgm"};
    return has_ending(path, ending, 3);
}

/* Each output has a file of its own, and no input is overwritten. */
static int check_clash(cmd *c, const char *key, const char *path)
{
    static const char *const others[] = {"input", "measurement", "truth", "noise", "vjp",
                                         "output", "gx", "sheet", "trace", "simple",
                                         "mean", "std"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        const char *other = cmd_get(c, others[i]);
        if (other && strcmp(others[i], key) && !strcmp(other, path))
            return di_fail(c->ctx, DI_EUSAGE, "%s is both the %s and the %s: give two names",
                           path, others[i], key);
    }
    return 0;
}

int cmd_check_output(cmd *c, const char *key, int array)
{
    static const char *const ending[] = {".npy", ".png", ".ppm", ".pgm", ".pfm"};
    const char *path = cmd_get(c, key);
    char dir[1024];
    struct stat st;
    if (!path)
        return 0;
    if (check_clash(c, key, path))
        return DI_EUSAGE;
    if (strlen(path) + 8 > sizeof dir)
        return di_fail(c->ctx, DI_EOUTPUT, "%.200s...: the name is too long", path);
    if (array && !has_ending(path, ending, 5))
        return di_fail(c->ctx, DI_EOUTPUT, "%s: can't write that format: end the name in .npy, "
                       ".png, .ppm, .pgm or .pfm", path);
    if (!stat(path, &st)) {
        if (S_ISDIR(st.st_mode))
            return di_fail(c->ctx, DI_EOUTPUT, "%s is a folder: name a file", path);
        if (access(path, W_OK))
            return di_fail(c->ctx, DI_EOUTPUT, "%s: can't write: %s", path, strerror(errno));
    }
    strcpy(dir, path);
    char *slash = strrchr(dir, '/');
    if (slash)
        slash[slash == dir] = 0;
    else
        strcpy(dir, ".");
    if (stat(dir, &st) || !S_ISDIR(st.st_mode))
        return di_fail(c->ctx, DI_EOUTPUT, "%s: there is no folder %s: make it first", path,
                       dir);
    if (access(dir, W_OK | X_OK))
        return di_fail(c->ctx, DI_EOUTPUT, "%s: can't write into %s: %s", path, dir,
                       strerror(errno));
    return 0;
}

void add_settings(const cmd *c, text *t, int place)
{
    text_add(t, "verb=%s\n", c->verb);
    for (int i = 0; i < OPTIONS; i++) {
        const char *key = options[i].key, *value = cmd_get(c, key);
        size_t len = strlen(key);
        if (!value || !recorded(&options[i], place))
            continue;
        text_add(t, "%s=%s\n", key, value);
        for (int k = 0; k < c->set.n; k++) {
            const setting *s = &c->set.item[k];
            if (!strncmp(s->key, key, len) && s->key[len] == '.')
                text_add(t, "%s=%s\n", s->key, s->value);
        }
    }
}

int cmd_check_shape(cmd *c, const char *key, size_t n, size_t channels)
{
    io_array a = {n, channels, 1, 1, NULL, 0};
    char err[400];
    const char *path = cmd_get(c, key);
    if (!path)
        return 0;
    if (is_picture_name(path))
        a.n = 1;
    return cmd_io(c, io_check_write(path, &a, err, sizeof err), err);
}

int cmd_write(cmd *c, const char *key, const io_array *a)
{
    const char *path = cmd_get(c, key);
    char err[400];
    text t = {NULL, 0, 0, 0};
    if (!path)
        return 0;
    add_settings(c, &t, IN_PICTURE);
    if (t.failed) {
        free(t.s);
        return no_memory(c);
    }
    const char *words[] = {"Software", "diffinv " DI_VERSION, "diffinv", t.s, NULL};
    int code = io_write(path, a, words, err, sizeof err);
    free(t.s);
    return cmd_io(c, code, err);
}

int cmd_write_record(cmd *c, const di_cost *cost, double spent)
{
    char err[400], path[1040];
    const char *out = cmd_get(c, "output");
    struct stat st;
    /* Beside a device or a pipe there is no place for a record. */
    if (!out || (!stat(out, &st) && !S_ISREG(st.st_mode)))
        return 0;
    text t = {NULL, 0, 0, 0};
    text_add(&t, "# diffinv " DI_VERSION "; repeat with: diffinv %s @%s.run\n", c->verb, out);
    add_settings(c, &t, IN_RECORD);
    text_add(&t, "info.version=" DI_VERSION "\ninfo.scalar=f%d\ninfo.isa=%s\n",
             (int)(8 * sizeof(di_real)), di_isa(c->ctx));
    for (int i = 0; i < c->facts.n; i++)
        text_add(&t, "%s=%s\n", c->facts.item[i].key, c->facts.item[i].value);
    if (cost)
        text_add(&t, "cost.net=%llu\ncost.net_vjp=%llu\ncost.apply=%llu\ncost.apply_vjp=%llu\n",
                 (unsigned long long)cost->net, (unsigned long long)cost->net_vjp,
                 (unsigned long long)cost->apply, (unsigned long long)cost->apply_vjp);
    text_add(&t, "cost.seconds=%.3f\ncost.peak_bytes=%.0f\n", spent, memory_peak());
    if (t.failed) {
        free(t.s);
        return no_memory(c);
    }
    snprintf(path, sizeof path, "%s.run", out);
    int code = io_write_text(path, t.s, t.n, err, sizeof err);
    free(t.s);
    return cmd_io(c, code, err);
}
