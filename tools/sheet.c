/* sheet.c - the sheet of pictures that solve makes: what was, what was seen, what came of it */
#include "cmd.h"
#include "view_hole.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One row a measurement; a cell that is made here owns its pixels. */
enum { MOST_ROWS = 16, MOST_RESTORED = 6, MOST_COLUMNS = 3 + MOST_RESTORED };

typedef struct cell_text {
    char s[160];
} cell_text;

static size_t count_of(const int shape[3])
{
    return (size_t)shape[0] * (size_t)shape[1] * (size_t)shape[2];
}

/* Each pixel of y becomes a block of factor x factor. */
static void enlarge(const di_problem *p, const di_real *y, di_real *x)
{
    int fh = p->x[1] / p->y[1], fw = p->x[2] / p->y[2];
    for (int c = 0; c < p->x[0]; c++)
        for (int r = 0; r < p->x[1]; r++)
            for (int q = 0; q < p->x[2]; q++)
                x[(c * p->x[1] + r) * p->x[2] + q] =
                    y[(c * p->y[1] + r / fh) * p->y[2] + q / fw];
}

/* seen = y with its missing pixels grey (they hold noise only); fill = y with each channel's
   mean over the known pixels in their place. mask (C,H,W) = A(1). */
static void mean_fill(const di_problem *p, const di_real *mask, const di_real *y, di_real *seen,
                      di_real *fill)
{
    size_t plane = (size_t)p->x[1] * (size_t)p->x[2];
    for (int c = 0; c < p->x[0]; c++) {
        double sum = 0, known = 0;
        size_t at = (size_t)c * plane;
        for (size_t i = at; i < at + plane; i++) {
            sum += (double)(mask[i] * y[i]);
            known += (double)mask[i];
        }
        for (size_t i = at; i < at + plane; i++) {
            seen[i] = mask[i] * y[i];
            fill[i] = mask[i] > 0 ? y[i] : (di_real)(known > 0 ? sum / known : 0);
        }
    }
}

/* Numbers y (m) as a graph in x (C,H,W): white where it reaches from the zero line. */
static void draw_graph(const di_problem *p, const di_real *y, di_real *x)
{
    size_t m = count_of(p->y), h = (size_t)p->x[1], w = (size_t)p->x[2];
    double most = 0;
    for (size_t i = 0; i < m; i++) {
        double v = y[i] < 0 ? -y[i] : y[i];
        most = v > most ? v : most;
    }
    for (size_t i = 0; i < count_of(p->x); i++) {
        double v = most > 0 ? y[i % w * m / w] / most : 0;
        double level = 1 - (2.0 * (double)(i / w % h) + 1) / (double)h; /* 1 at the top */
        x[i] = (level > 0 && level <= v) || (level < 0 && level >= v) ? 1 : (di_real)-0.7;
    }
}

static int alike(const int a[3], const int b[3]) { return !memcmp(a, b, 3 * sizeof *a); }

/* A measurement that is no picture, as one: A^T y, its greatest value 1; of phase retrieval the
   amplitudes, thinned out, from white down to black at a thousandth of the greatest. */
static void show_other(const di_problem *p, const di_real *y, di_real *x)
{
    size_t n = count_of(p->x), m = count_of(p->y);
    double most = 0;
    int spectrum = !strcmp(p->name, "phase");
    if (!spectrum && di_apply_vjp(p, 1, NULL, y, x))
        return;
    for (size_t i = 0; i < (spectrum ? m : n); i++) {
        double v = spectrum ? y[i] : x[i] < 0 ? -x[i] : x[i];
        most = v > most ? v : most;
    }
    for (size_t i = 0; i < n; i++) {
        size_t w = (size_t)p->x[2], h = (size_t)p->x[1], r = i / w, yw = (size_t)p->y[2];
        if (!spectrum) {
            x[i] = (di_real)(most > 0 ? x[i] / most : 0);
            continue;
        }
        double v = y[(r / h * (size_t)p->y[1] + r % h * (size_t)p->y[1] / h) * yw
                     + i % w * yw / w];
        v = fabs(v) > 1e-3 * most ? log10(fabs(v) / most) : -3;
        x[i] = (di_real)(1 + v * 2 / 3);
    }
}

/* The measurement as a person sees it, and the trivial answer; returns its name, or NULL when
   the measurement itself is that answer, or after a failure. (C,H,W) both. */
static const char *show_measurement(const di_problem *p, const di_real *y, di_real *seen,
                                    di_real *trivial)
{
    size_t n = count_of(p->x);
    if (!strcmp(p->name, "sr")) {
        enlarge(p, y, seen);
        if (!pic_bicubic(trivial, (size_t)p->x[1], (size_t)p->x[2], y, (size_t)p->y[1],
                         (size_t)p->y[2], (size_t)p->x[0]))
            return "bicubic";
        di_fail(p->ctx, DI_EMEMORY, "no memory for the simple answer");
        return NULL;
    }
    if (!strcmp(p->name, "inpaint")) {
        for (size_t i = 0; i < n; i++)
            trivial[i] = 1;
        if (di_apply(p, 1, trivial, seen))
            return NULL;
        di_real *mask = malloc(n * sizeof *mask);
        if (!mask) {
            di_fail(p->ctx, DI_EMEMORY, "no memory for the simple answer");
            return NULL;
        }
        memcpy(mask, seen, n * sizeof *mask);
        mean_fill(p, mask, y, seen, trivial);
        free(mask);
        return "mean fill";
    }
    if (!strcmp(p->name, "colorize")) {
        for (size_t i = 0; i < n; i++)
            seen[i] = y[i % count_of(p->y)];
        return NULL;
    }
    if (!strcmp(p->name, "matrix")) {
        draw_graph(p, y, seen);
        return di_apply_pinv(p, 1, y, trivial) ? NULL : "pseudo-inverse";
    }
    if (alike(p->x, p->y))
        memcpy(seen, y, n * sizeof *seen);
    else
        show_other(p, y, seen);
    return NULL;
}

/* The view of a black hole's measurement, grey, in the picture's size: means of blocks. */
static int small_view(const di_problem *p, const make_spec *spec, const di_real *y, di_real *x)
{
    size_t m = count_of(p->y), h = (size_t)p->x[1], w = (size_t)p->x[2];
    io_array view, a = {1, 1, 1, m, malloc(m * sizeof *y), 0};
    if (!a.v)
        return 1;
    memcpy(a.v, y, m * sizeof *y);
    int code = view_blackhole(p->ctx, spec, &a, &view);
    free(a.v);
    for (size_t i = 0; !code && i < h * w; i++) {
        size_t r0 = i / w * view.h / h, r1 = (i / w + 1) * view.h / h, n = 0;
        size_t c0 = i % w * view.w / w, c1 = (i % w + 1) * view.w / w;
        double sum = 0;
        for (size_t r = r0; r < r1; r++)
            for (size_t q = c0; q < c1; q++, n += 3)
                for (size_t k = 0; k < 3; k++)
                    sum += (double)view.v[(k * view.h + r) * view.w + q];
        x[i] = (di_real)(n ? sum / (double)n : -1);
    }
    io_free(&view);
    return code;
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
    di_real *seen = calloc(n, sizeof *seen);
    int code = 0;
    if (!seen || io_make(&a, y->n, (size_t)p->x[0], (size_t)p->x[1], (size_t)p->x[2]))
        code = di_fail(c->ctx, DI_EMEMORY, "no memory for the simple answer");
    for (size_t i = 0; !code && i < y->n; i++)
        if (!show_measurement(p, y->v + i * m, seen, a.v + i * n))
            memcpy(a.v + i * n, seen, n * sizeof *seen);
    if (!code)
        code = c->ctx->status;
    if (!code)
        code = cmd_write(c, "simple", &a);
    io_free(&a);
    free(seen);
    return code;
}

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

static void put_cell(pic_cell *cell, cell_text *words, const di_problem *p, const di_real *v,
                     const di_real *truth, const char *title)
{
    size_t used = (size_t)snprintf(words->s, sizeof words->s, "%s", title);
    if (truth && used < sizeof words->s)
        snprintf(words->s + used, sizeof words->s - used, "\n%.2f dB",
                 di_psnr(v, truth, count_of(p->x)));
    cell->v = v;
    cell->c = (size_t)p->x[0];
    cell->h = (size_t)p->x[1];
    cell->w = (size_t)p->x[2];
    cell->caption = words->s;
}

typedef struct sheet {
    size_t rows, columns, restored;
    di_real *made;      /* two pictures a row: seen, trivial */
    pic_cell *cell;
    cell_text *words;
} sheet;

static void fill_row(const sheet *s, size_t row, const di_problem *p, const make_spec *spec,
                     const di_real *y, const di_real *truth, const di_real *out,
                     const char *title)
{
    size_t n = count_of(p->x), at = row * s->columns;
    di_real *seen = s->made + 2 * row * n, *trivial = seen + n;
    char words[120];
    if (truth) {
        put_cell(&s->cell[at], &s->words[at], p, truth, NULL, "truth");
        at++;
    }
    const char *name = show_measurement(p, y, seen, trivial);
    if (!strcmp(p->name, "blackhole"))
        small_view(p, spec, y, seen);
    problem_words(spec, words, sizeof words);
    put_cell(&s->cell[at], &s->words[at], p, seen,
             name || !alike(p->x, p->y) ? NULL : truth, words);
    at++;
    if (name) {
        put_cell(&s->cell[at], &s->words[at], p, trivial, truth, name);
        at++;
    }
    for (size_t i = 0; i < s->restored; i++, at++)
        put_cell(&s->cell[at], &s->words[at], p, out + i * n, truth, title);
}

/* --under: the earlier sheet on top, the new rows below, the narrower widened in its own
   background. */
static int stack(cmd *c, const char *path, io_array *new)
{
    io_array old, all;
    int code = input_array(c, path, &old);
    if (code)
        return code;
    if (old.n != 1 || old.c != new->c)
        code = di_fail(c->ctx, DI_EINPUT, "%s: not a sheet of this command", path);
    size_t w = old.w > new->w ? old.w : new->w, h = old.h + new->h;
    if (!code && io_make(&all, 1, new->c, h, w))
        code = di_fail(c->ctx, DI_EMEMORY, "no memory for the sheet");
    if (code) {
        io_free(&old);
        return code;
    }
    for (size_t k = 0; k < all.c; k++)
        for (size_t i = 0; i < h; i++) {
            const io_array *from = i < old.h ? &old : new;
            const di_real *plane = from->v + k * from->h * from->w;
            for (size_t j = 0; j < w; j++)
                all.v[(k * h + i) * w + j] =
                    j < from->w ? plane[(i < old.h ? i : i - old.h) * from->w + j] : plane[0];
        }
    all.picture = 1;
    io_free(&old);
    io_free(new);
    *new = all;
    return 0;
}

int sheet_write(cmd *c, const di_problem *p, const make_spec *spec, const io_array *y,
                const io_array *truth, const io_array *out, const char *title)
{
    char err[400];
    size_t n = count_of(p->x), m = count_of(p->y), samples = out->n / y->n;
    sheet s = {y->n < MOST_ROWS ? y->n : MOST_ROWS, 0, 0, NULL, NULL, NULL};
    if (!cmd_get(c, "sheet"))
        return 0;
    s.restored = samples < MOST_RESTORED ? samples : MOST_RESTORED;
    int two = !strcmp(p->name, "sr") || !strcmp(p->name, "inpaint") ||
              !strcmp(p->name, "matrix");
    s.columns = (truth->v ? 1u : 0u) + (two ? 2u : 1u) + s.restored;
    s.made = calloc(2 * s.rows * n, sizeof *s.made);
    s.cell = calloc(s.rows * s.columns, sizeof *s.cell);
    s.words = calloc(s.rows * s.columns, sizeof *s.words);
    int code = 0;
    if (!s.made || !s.cell || !s.words)
        code = di_fail(c->ctx, DI_EMEMORY, "no memory for the sheet");
    for (size_t i = 0; !code && i < s.rows; i++)
        fill_row(&s, i, p, spec, y->v + i * m,
                 truth->v ? truth->v + (truth->n > 1 ? i : 0) * n : NULL,
                 out->v + i * samples * n, title);
    io_array picture = {0, 0, 0, 0, NULL, 0};
    if (!code)
        code = c->ctx->status;
    if (!code)
        code = cmd_io(c, pic_sheet(&picture, s.cell, s.rows, s.columns, NULL, err, sizeof err),
                      err);
    if (!code && cmd_get(c, "under"))
        code = stack(c, cmd_get(c, "under"), &picture);
    if (!code)
        code = cmd_write(c, "sheet", &picture);
    io_free(&picture);
    free(s.made);
    free(s.cell);
    free(s.words);
    return code;
}
