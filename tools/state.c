/* state.c - a run left and taken up later: --save-every N, --resume */
#define _XOPEN_SOURCE 700
#include "job.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* OUT.state is written beside and renamed, so there is always a whole one:

       "diffinv state 2\n"
       blocks: name (8 bytes, padded with 0), length (8 bytes), that many bytes
       CRC-32 of all before it (4 bytes)

   Lengths and the checksum are little-endian; values are the machine's own, and the settings
   say which machine. Blocks: settings, marks, images (the finished ones), best (--oracle),
   table, trace, note, chosen, and run: what the library needs to go on. */

static const char MAGIC[] = "diffinv state 2\n";
enum { MAGIC_SIZE = 16, HEAD = 16, CRC_SIZE = 4 };

static void state_path(const job *j, char path[1040])
{
    snprintf(path, 1040, "%s.state", cmd_get(j->c, "output"));
}

static void put_number(char *p, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        p[i] = (char)(unsigned char)(v >> 8 * i);
}

static uint64_t get_number(const char *p, int bytes)
{
    uint64_t v = 0;
    for (int i = bytes; i-- > 0; )
        v = v << 8 | (unsigned char)p[i];
    return v;
}

/* ==== What must not differ ============================================================== */

static uint32_t array_crc(const di_real *v, size_t n)
{
    return io_crc32(0, v, n * sizeof *v);
}

/* The map itself is known by what it makes of one noise image: a mask's file, or a matrix's,
   may have changed behind its name. */
static int problem_crc(job *j, uint32_t *crc)
{
    size_t n = image_size(j->prior), m = measurement_size(j->problem);
    di_real *x = malloc((n + m) * sizeof *x);
    if (!x)
        return no_memory(j->c, "the state");
    di_normal(x, n, 0, DI_STREAM_MEASURE, 0, 0);
    int code = di_apply(j->problem, 1, x, x + n);
    *crc = array_crc(x + n, m);
    free(x);
    return code;
}

static void add_crc(text *t, const char *what, uint32_t crc)
{
    text_add(t, "checksum of the %s=%08lx\n", what, (unsigned long)crc);
}

static int add_fingerprint(job *j, text *t)
{
    const uint16_t one = 1;
    unsigned char low;
    uint32_t crc = 0;
    memcpy(&low, &one, 1);
    text_add(t, "version=" DI_VERSION "\nmachine=float%d %s-endian\n",
             (int)(8 * sizeof(di_real)), low ? "little" : "big");
    add_settings(j->c, t, IN_STATE);
    add_crc(t, "weights", j->w.crc);
    if (j->problem) {
        if (problem_crc(j, &crc))
            return j->c->ctx->status;
        add_crc(t, "problem", crc);
        add_crc(t, "measurement", array_crc(j->y.v, j->y.n * measurement_size(j->problem)));
    }
    if (j->truth.v)
        add_crc(t, "truth", array_crc(j->truth.v, j->truth.n * image_size(j->prior)));
    if (j->noise.v)
        add_crc(t, "noise file", array_crc(j->noise.v, j->noise.n * j->noise.c * j->noise.h *
                                           j->noise.w));
    if (j->labels)
        add_crc(t, "labels", io_crc32(0, j->labels, j->images * sizeof *j->labels));
    return t->failed ? no_memory(j->c, "the state") : 0;
}

/* Refuses settings that are not those of the saved run; says the first that differs. */
static int same_settings(cmd *c, const char *path, const settings *saved, const settings *now)
{
    for (int i = 0; i < saved->n + now->n; i++) {
        const setting *s = i < saved->n ? &saved->item[i] : &now->item[i - saved->n];
        const char *was = settings_get(saved, s->key), *is = settings_get(now, s->key);
        if (was && is && !strcmp(was, is))
            continue;
        return di_fail(c->ctx, DI_EUSAGE, "%s: saved by another run: %s was %.200s and is "
                       "%.200s; make it the same, or leave --resume out to start from the "
                       "beginning", path, s->key, was ? was : "not set", is ? is : "not set");
    }
    return 0;
}

static int check_fingerprint(job *j, const char *path, const text *saved)
{
    settings was = {NULL, 0, 0}, is = {NULL, 0, 0};
    text now = {NULL, 0, 0, 0};
    text_put(&now, j->print.s, j->print.n);
    int code = now.failed ? no_memory(j->c, "the state") : 0;
    if (!code)
        code = settings_parse(j->c, path, saved->s, &was);
    if (!code)
        code = settings_parse(j->c, path, now.s, &is);
    if (!code)
        code = same_settings(j->c, path, &was, &is);
    settings_free(&was);
    settings_free(&is);
    free(now.s);
    return code;
}

/* ==== Saving ============================================================================ */

/* Begins a block; end_block fills in its length. */
static size_t begin_block(text *t, const char *name)
{
    char head[HEAD] = {0};
    memcpy(head, name, strlen(name));
    text_put(t, head, HEAD);
    return t->n;
}

static void end_block(text *t, size_t from)
{
    if (!t->failed)
        put_number(t->s + from - 8, t->n - from, 8);
}

static void add_block(text *t, const char *name, const void *bytes, size_t n)
{
    size_t from = begin_block(t, name);
    text_put(t, bytes, n);
    end_block(t, from);
}

static int put_bytes(void *user, const void *src, size_t n)
{
    text *t = user;
    text_put(t, src, n);
    return t->failed;
}

static int build(job *j, text *t)
{
    char crc[CRC_SIZE];
    double now = seconds();
    size_t size = image_size(j->prior) * sizeof(di_real);
    marks m = j->at;
    m.seconds += now - j->c->start;
    m.call_seconds += now - j->began;
    t->n = 0;
    text_put(t, MAGIC, MAGIC_SIZE);
    add_block(t, "settings", j->print.s, j->print.n);
    add_block(t, "marks", &m, sizeof m);
    add_block(t, "images", j->out.v, (size_t)m.image * size);
    add_block(t, "best", j->best, j->oracle ? size : 0);
    add_block(t, "table", j->table.s, j->table.n);
    add_block(t, "trace", j->trace.s, j->trace.n);
    add_block(t, "note", j->note.s, j->note.n);
    add_block(t, "chosen", j->chosen.s, j->chosen.n);
    size_t from = begin_block(t, "run");
    di_status s = di_run_save(j->run, put_bytes, t);
    if (s && !t->failed)
        return s;
    end_block(t, from);
    if (s) /* put_bytes found no memory: say that, not that writing failed */
        di_clear(j->c->ctx);
    if (t->failed || j->table.failed || j->trace.failed || j->note.failed || j->chosen.failed)
        return no_memory(j->c, "the state");
    put_number(crc, io_crc32(0, t->s, t->n), CRC_SIZE);
    text_put(t, crc, CRC_SIZE);
    return t->failed ? no_memory(j->c, "the state") : 0;
}

void state_step(job *j)
{
    char path[1040], err[400];
    if (!j->every)
        return;
    j->unsaved++;
    if (j->unsaved < j->every && !cmd_stop)
        return;
    j->unsaved = 0;
    if (build(j, &j->state))
        return; /* the context holds the error, and the run ends with it */
    state_path(j, path);
    if (io_write_text(path, j->state.s, j->state.n, err, sizeof err))
        cmd_note(j->c, "%s; the run goes on", err);
}

void state_end(job *j)
{
    char path[1040];
    state_path(j, path);
    if (j->every || cmd_get(j->c, "resume"))
        unlink(path);
}

/* ==== Taking up ========================================================================= */

int state_settings(job *j)
{
    cmd *c = j->c;
    const char *out = cmd_get(c, "output");
    int resume = cmd_get(c, "resume") != NULL;
    char path[1040];
    struct stat st;
    if (input_int(c, "save-every", NULL, 1, 1 << 30, &j->every))
        return DI_EUSAGE;
    if (!resume && !j->every)
        return 0;
    if (!stat(out, &st) && !S_ISREG(st.st_mode))
        return di_fail(c->ctx, DI_EUSAGE, "%s is no file: a state has no place beside it", out);
    state_path(j, path);
    int there = !access(path, F_OK);
    if (resume && !there)
        return di_fail(c->ctx, DI_EINPUT, "%s: no such file, so there is nothing to resume: "
                       "leave --resume out to start from the beginning", path);
    if (!resume && there)
        cmd_note(c, "%s is there, and will be replaced: --resume would have gone on from it",
                 path);
    return 0;
}

/* A block of the whole file, which has been checked; 0 on success. */
static int find_block(const text *t, const char *name, const char **bytes, size_t *n)
{
    char key[8] = {0};
    size_t at = MAGIC_SIZE, end = t->n - CRC_SIZE;
    memcpy(key, name, strlen(name));
    while (end - at >= HEAD) {
        uint64_t len = get_number(t->s + at + 8, 8);
        if (len > end - at - HEAD)
            return 1;
        *bytes = t->s + at + HEAD;
        *n = (size_t)len;
        if (!memcmp(t->s + at, key, 8))
            return 0;
        at += HEAD + (size_t)len;
    }
    return 1;
}

static int take_bytes(const text *t, const char *name, void *dst, size_t size)
{
    const char *bytes;
    size_t n;
    if (find_block(t, name, &bytes, &n) || n != size)
        return 1;
    if (size)
        memcpy(dst, bytes, size);
    return 0;
}

static int take_text(const text *t, const char *name, text *dst)
{
    const char *bytes;
    size_t n;
    if (find_block(t, name, &bytes, &n))
        return 1;
    dst->n = 0;
    text_put(dst, bytes, n);
    return dst->failed;
}

static int take_all(job *j, const text *t)
{
    size_t size = image_size(j->prior) * sizeof(di_real);
    marks m;
    if (take_bytes(t, "marks", &m, sizeof m) || m.image >= j->images ||
        !m.batch || m.batch > j->images ||
        take_bytes(t, "images", j->out.v, (size_t)m.image * size) ||
        take_bytes(t, "best", j->best, j->oracle ? size : 0) ||
        take_text(t, "table", &j->table) || take_text(t, "trace", &j->trace) ||
        take_text(t, "note", &j->note) || take_text(t, "chosen", &j->chosen))
        return 1;
    j->at = m;
    j->batch = (size_t)m.batch;
    return 0;
}

static int damaged(cmd *c, const char *path)
{
    return di_fail(c->ctx, DI_EINPUT, "%s: not a state, or a damaged one: leave --resume out "
                   "to start from the beginning", path);
}

static int load(job *j)
{
    cmd *c = j->c;
    char path[1040], err[400];
    text *t = &j->state, saved = {NULL, 0, 0, 0};
    state_path(j, path);
    int code = io_read_text(path, &t->s, &t->n, SIZE_MAX / 4, err, sizeof err);
    if (code)
        return cmd_io(c, code, err);
    t->cap = t->n + 1;
    if (t->n < MAGIC_SIZE + CRC_SIZE || memcmp(t->s, MAGIC, MAGIC_SIZE) ||
        io_crc32(0, t->s, t->n - CRC_SIZE) != get_number(t->s + t->n - CRC_SIZE, CRC_SIZE) ||
        take_text(t, "settings", &saved))
        code = saved.failed ? no_memory(c, "the state") : damaged(c, path);
    if (!code)
        code = check_fingerprint(j, path, &saved);
    free(saved.s);
    if (!code && take_all(j, t))
        code = j->table.failed || j->trace.failed || j->note.failed || j->chosen.failed
                   ? no_memory(c, "the state") : damaged(c, path);
    if (code)
        return code;
    j->resumed = 1;
    fputs(j->table.n ? j->table.s : "", stdout);
    fflush(stdout);
    cmd_note(c, "going on after step %llu%s", (unsigned long long)j->at.step,
             j->images > 1 ? " of an image" : "");
    return cmd_fact(c, "info.resumed", "image %llu step %llu",
                    (unsigned long long)j->at.image + 1, (unsigned long long)j->at.step);
}

int state_open(job *j)
{
    int resume = cmd_get(j->c, "resume") != NULL, code = 0;
    if (resume || j->every)
        code = add_fingerprint(j, &j->print);
    return !code && resume ? load(j) : code;
}

typedef struct span {
    const char *bytes;
    size_t n;
} span;

static int read_span(void *user, uint64_t offset, void *dst, size_t n)
{
    const span *s = user;
    if (offset > s->n || n > s->n - (size_t)offset)
        return 1;
    memcpy(dst, s->bytes + offset, n);
    return 0;
}

int state_begin_call(job *j)
{
    cmd *c = j->c;
    char path[1040], why[400];
    span s;
    if (!j->resumed)
        return 0;
    j->resumed = 0;
    state_path(j, path);
    if (find_block(&j->state, "run", &s.bytes, &s.n))
        return damaged(c, path);
    di_status code = di_run_load(j->run, read_span, &s, s.n);
    free(j->state.s);
    memset(&j->state, 0, sizeof j->state);
    if (!code)
        return 0;
    snprintf(why, sizeof why, "%s", di_error(c->ctx));
    di_clear(c->ctx);
    return di_fail(c->ctx, code, "%s: %s", path, why);
}
