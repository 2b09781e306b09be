/* sheet.c - the sheet of pictures that measure and solve make: what was, what was seen, what
 * came of it; and the answer that needs no prior */
#include "cmd.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t count_of(const int shape[3])
{
    return (size_t)shape[0] * (size_t)shape[1] * (size_t)shape[2];
}

static int alike(const int a[3], const int b[3]) { return !memcmp(a, b, 3 * sizeof *a); }

/* ==== The answer that needs no prior ==================================================== */

/* x = y with each channel's mean over the known pixels in the place of the missing ones. */
static int mean_fill(const di_problem *p, const di_real *y, di_real *x)
{
    size_t plane = (size_t)p->x[1] * (size_t)p->x[2], n = count_of(p->x);
    di_real *mask = malloc(n * sizeof *mask);
    if (!mask)
        return di_fail(p->ctx, DI_EMEMORY, "no memory for the simple answer");
    for (size_t i = 0; i < n; i++)
        x[i] = 1;
    int code = di_apply(p, 1, x, mask);
    for (int c = 0; !code && c < p->x[0]; c++) {
        double sum = 0, known = 0;
        size_t at = (size_t)c * plane;
        for (size_t i = at; i < at + plane; i++) {
            sum += (double)(mask[i] * y[i]);
            known += (double)mask[i];
        }
        for (size_t i = at; i < at + plane; i++)
            x[i] = mask[i] > 0 ? y[i] : (di_real)(known > 0 ? sum / known : 0);
    }
    free(mask);
    return code;
}

/* x (C,H,W) and its name, "" where the measurement is itself that answer; NULL where there is
   none, or after a failure. */
static const char *simple(const di_problem *p, const di_real *y, di_real *x)
{
    size_t n = count_of(p->x);
    if (!strcmp(p->name, "sr")) {
        if (!pic_bicubic(x, (size_t)p->x[1], (size_t)p->x[2], y, (size_t)p->y[1],
                         (size_t)p->y[2], (size_t)p->x[0]))
            return "bicubic";
        di_fail(p->ctx, DI_EMEMORY, "no memory for the simple answer");
        return NULL;
    }
    if (!strcmp(p->name, "inpaint"))
        return mean_fill(p, y, x) ? NULL : "mean fill";
    if (!strcmp(p->name, "colorize")) {
        for (size_t i = 0; i < n; i++)
            x[i] = y[i % count_of(p->y)];
        return "grey";
    }
    if (alike(p->x, p->y)) {
        memcpy(x, y, n * sizeof *x);
        return "";
    }
    return p->pinv && !di_apply_pinv(p, 1, y, x) ? "pseudo-inverse" : NULL;
}

int simple_check(cmd *c, const di_problem *p)
{
    if (!cmd_get(c, "simple") || count_of(p->y) == count_of(p->x) || p->pinv ||
        !strcmp(p->name, "sr"))
        return 0;
    return di_fail(c->ctx, DI_EUSAGE, "problem %s has no simple answer: leave --simple out",
                   p->name);
}

int simple_answer(cmd *c, const di_problem *p, const io_array *y)
{
    size_t n = count_of(p->x), m = count_of(p->y);
    io_array a = {0, 0, 0, 0, NULL, 0};
    if (!cmd_get(c, "simple"))
        return 0;
    int code = 0;
    if (io_make(&a, y->n, (size_t)p->x[0], (size_t)p->x[1], (size_t)p->x[2]))
        code = di_fail(c->ctx, DI_EMEMORY, "no memory for the simple answer");
    for (size_t i = 0; !code && i < y->n; i++)
        simple(p, y->v + i * m, a.v + i * n);
    if (!code)
        code = c->ctx->status;
    if (!code)
        code = cmd_write(c, "simple", &a);
    io_free(&a);
    return code;
}

/* ==== Cells of a row ==================================================================== */

enum { MOST_ROWS = 16, MOST_RESTORED = 6, MOST_COLUMNS = 3 + MOST_RESTORED };

typedef struct cell {
    io_array a;
    char words[160];
} cell;
typedef struct sheet {
    cmd *c;
    const di_problem *p;
    const make_spec *spec;
    size_t rows, columns;
    cell *cell;             /* [rows][MOST_COLUMNS] */
} sheet;

/* "inpaint mask=box:32", newline, "sigma 0.05". */
static void problem_words(const make_spec *spec, char *out, size_t len)
{
    size_t used = (size_t)snprintf(out, len, "%s", spec->kind->name);
    for (int i = 0; i < MAKE_PARAMS && spec->kind->param[i].key && used < len; i++) {
        const di_param *p = &spec->kind->param[i];
        const char *value = make_get(spec, p->key);
        int plain = strcmp(p->key, "sigma") && strcmp(p->key, "pseed") &&
                    strcmp(p->key, "margin");
        if (plain && (!strcmp(p->key, "factor") || strcmp(value, p->value)))
            used += (size_t)snprintf(out + used, len - used, " %.40s", value);
    }
    if (used < len && make_get(spec, "sigma"))
        snprintf(out + used, len - used, "\nsigma %s", make_get(spec, "sigma"));
}

/* A cell of what v (an image; measured: a measurement) looks like; truth: with its PSNR. */
static void put(const sheet *s, cell *at, int measured, const di_real *v, const di_real *truth,
                const char *title)
{
    size_t used = (size_t)snprintf(at->words, sizeof at->words, "%s", title);
    if (truth && used < sizeof at->words)
        snprintf(at->words + used, sizeof at->words - used, "\n%.2f dB",
                 di_psnr(v, truth, count_of(s->p->x)));
    if (!s->c->ctx->status)
        view_small(s->c, s->spec, s->p, measured, v, &at->a);
}

/* What can be made of a measurement without anything else: A^+ y; else A^T y; else J(x)^T y at
   the truth x, the greatest value brought to 1. */
static const char *look_back(const sheet *s, const di_real *y, const di_real *truth, di_real *x)
{
    const di_problem *p = s->p;
    double most = 0;
    if (p->pinv)
        return di_apply_pinv(p, 1, y, x) ? NULL : "pseudo-inverse";
    if (!p->vjp || (!p->linear && !truth))
        return NULL;
    if (di_apply_vjp(p, 1, truth, y, x))
        return NULL;
    for (size_t i = 0; i < count_of(p->x); i++)
        most = fabs((double)x[i]) > most ? fabs((double)x[i]) : most;
    for (size_t i = 0; most > 0 && i < count_of(p->x); i++)
        x[i] = (di_real)(x[i] / most);
    return p->linear ? "adjoint" : "adjoint at the truth";
}

/* Truth, measurement, the simple answer, then results, of so many. Returns the cells. */
static size_t fill_row(const sheet *s, cell *row, const di_real *y, const di_real *truth,
                       const di_real *out, size_t samples, const char *title)
{
    size_t restored = samples < MOST_RESTORED ? samples : MOST_RESTORED;
    size_t n = count_of(s->p->x), at = 0;
    char words[120];
    di_real *x = malloc(n * sizeof *x);
    if (!x) {
        di_fail(s->c->ctx, DI_EMEMORY, "no memory for the sheet");
        return 0;
    }
    const char *name = out ? simple(s->p, y, x) : look_back(s, y, truth, x);
    if (truth)
        put(s, &row[at++], 0, truth, NULL, "truth");
    problem_words(s->spec, words, sizeof words);
    put(s, &row[at++], 1, y, name && !*name ? truth : NULL, words);
    if (name && *name)
        put(s, &row[at++], 0, x, strncmp(name, "adjoint", 7) ? truth : NULL,
            name);
    for (size_t i = 0; i < restored; i++) {
        if (samples > 1)
            snprintf(words, sizeof words, "%s\n%zu of %zu", title, i + 1, samples);
        put(s, &row[at++], 0, out + i * n, truth, samples > 1 ? words : title);
    }
    free(x);
    return at;
}

/* Two sheets as one, the old one above or (across) left of the new one; what is left of the
   ground takes the colour of a corner. */
static int join(cmd *c, const char *path, int across, io_array *new)
{
    io_array old, all;
    int code = input_array(c, path, &old);
    if (code)
        return code;
    if (old.n != 1 || (old.c != 1 && old.c != 3))
        code = di_fail(c->ctx, DI_EINPUT, "%s: not a sheet of this command", path);
    size_t h = across ? (old.h > new->h ? old.h : new->h) : old.h + new->h;
    size_t w = across ? old.w + new->w : old.w > new->w ? old.w : new->w;
    if (!code && io_make(&all, 1, old.c > new->c ? old.c : new->c, h, w))
        code = di_fail(c->ctx, DI_EMEMORY, "no memory for the sheet");
    for (size_t k = 0; !code && k < all.c * h * w; k++) {
        size_t y = k / w % h, x = k % w;
        const io_array *from = (across ? x < old.w : y < old.h) ? &old : new;
        y -= from == new && !across ? old.h : 0;
        x -= from == new && across ? old.w : 0;
        const di_real *plane = from->v + (from->c > 1 ? k / (w * h) : 0) * from->h * from->w;
        all.v[k] = y < from->h && x < from->w ? plane[y * from->w + x] : plane[0];
    }
    io_free(&old);
    if (code)
        return code;
    all.picture = 1;
    io_free(new);
    *new = all;
    return 0;
}

static int draw(const sheet *s, io_array *picture)
{
    char err[400];
    pic_cell *cells = calloc(s->rows * s->columns, sizeof *cells);
    if (!cells)
        return di_fail(s->c->ctx, DI_EMEMORY, "no memory for the sheet");
    for (size_t i = 0; i < s->rows * s->columns; i++) {
        const cell *from = &s->cell[i / s->columns * MOST_COLUMNS + i % s->columns];
        pic_cell to = {from->a.v, from->a.c, from->a.h, from->a.w, from->words};
        cells[i] = to;
    }
    int code = cmd_io(s->c, pic_sheet(picture, cells, s->rows, s->columns, NULL, err,
                                      sizeof err), err);
    free(cells);
    return code;
}

int sheet_write(cmd *c, const di_problem *p, const make_spec *spec, const io_array *y,
                const io_array *truth, const io_array *out, const char *title)
{
    size_t n = count_of(p->x), m = count_of(p->y), samples = out ? out->n / y->n : 0;
    sheet s = {c, p, spec, y->n < MOST_ROWS ? y->n : MOST_ROWS, 0, NULL};
    io_array picture = {0, 0, 0, 0, NULL, 0};
    if (!cmd_get(c, "sheet"))
        return 0;
    s.cell = calloc(s.rows * MOST_COLUMNS, sizeof *s.cell);
    int code = s.cell ? 0 : (int)di_fail(c->ctx, DI_EMEMORY, "no memory for the sheet");
    for (size_t i = 0; !code && i < s.rows; i++) {
        s.columns = fill_row(&s, s.cell + i * MOST_COLUMNS, y->v + i * m,
                             truth->v ? truth->v + (truth->n > 1 ? i : 0) * n : NULL,
                             out ? out->v + i * samples * n : NULL, samples, title);
        code = c->ctx->status;
    }
    if (!code)
        code = draw(&s, &picture);
    if (!code && cmd_get(c, "beside"))
        code = join(c, cmd_get(c, "beside"), 1, &picture);
    if (!code && cmd_get(c, "under"))
        code = join(c, cmd_get(c, "under"), 0, &picture);
    if (!code)
        code = cmd_write(c, "sheet", &picture);
    io_free(&picture);
    for (size_t i = 0; s.cell && i < s.rows * MOST_COLUMNS; i++)
        io_free(&s.cell[i].a);
    free(s.cell);
    return code;
}
