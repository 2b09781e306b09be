/* view.c - an array as a person wants to see it */
#include "cmd.h"
#include "view_hole.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A view turns an array (N,C,H,W) into panels, pictures of 1 or 3 channels in [-1,1]; the
   panels are then laid out as a grid, or, where colours stand for numbers, with captions and a
   bar that says which. What is to be seen of a problem's measurements is one function in the
   table at the end of this file. */

enum { MAP_NONE, MAP_GREY, MAP_HEAT, MAP_DIVERGING, MAP_LOG, MAPS };
static const char *const map_names[MAPS] = {"none", "grey", "heat", "diverging", "log"};

typedef struct view {
    cmd *c;
    io_array a;             /* what is shown */
    const make_spec *spec;  /* the problem, or NULL */
    int map;                /* MAP_* asked for */
    size_t scale;           /* asked for, 0: choose */
    io_array out;           /* the picture that came of it */
} view;

enum { VISIBLE = 256, MOST_PANELS = 64, GAP = 8, DECADES = 6 };
static const size_t LARGEST = (size_t)1 << 27; /* pixels of a view */

static int no_room(cmd *c)
{
    return di_fail(c->ctx, DI_EMEMORY, "no memory for the view: it would be too large; give a "
                   "smaller --scale, or select with FILE[a:b]");
}

/* By how much a panel of h x w is enlarged so that one can see it. */
static size_t choose_scale(size_t scale, size_t h, size_t w)
{
    size_t side = h > w ? h : w;
    return scale ? scale : side && side < VISIBLE ? VISIBLE / side : 1;
}

/* ==== Numbers as colours ================================================================ */

typedef struct range {
    double lo, hi;      /* of the finite values */
    size_t odd;         /* NaN and infinite ones */
    int map;
} range;

/* The range of n values and the map that suits them: two signs ask for a middle. */
static range find_range(const di_real *v, size_t n, int map)
{
    range r = {0, 0, 0, map};
    int any = 0;
    for (size_t i = 0; i < n; i++) {
        double x = (double)v[i];
        if (!(fabs(x) < HUGE_VAL)) {
            r.odd++;
            continue;
        }
        r.lo = !any || x < r.lo ? x : r.lo;
        r.hi = !any || x > r.hi ? x : r.hi;
        any = 1;
    }
    if (map == MAP_NONE)
        r.map = r.lo < 0 && r.hi > 0 ? MAP_DIVERGING : MAP_HEAT;
    return r;
}

static double clip(double x)
{
    return x < 0 ? 0 : x > 1 ? 1 : x;
}

/* x's share of the range, which may be too large to subtract its ends; no range: a half. */
static double share(const range *r, double x)
{
    return r->hi > r->lo ? clip((x / 2 - r->lo / 2) / (r->hi / 2 - r->lo / 2)) : 0.5;
}

/* Where x lies between the ends of the map: 0..1; -1 for what is no number. */
static double place(const range *r, double x)
{
    double most = fabs(r->lo) > fabs(r->hi) ? fabs(r->lo) : fabs(r->hi);
    if (!(fabs(x) < HUGE_VAL))
        return -1;
    if (!(most > 0))
        return r->map == MAP_DIVERGING ? 0.5 : 0;
    if (r->map == MAP_DIVERGING)
        return clip(0.5 + 0.5 * x / most);
    if (r->map == MAP_LOG)
        return x == 0 ? 0 : clip(1 + log10(fabs(x) / most) / DECADES);
    return share(r, x);
}

/* t in 0..1 to colours in [-1,1]. heat, log: black, red, yellow, white. diverging: blue, white,
   red. Magenta marks what is no number. */
static void colour(int map, double t, di_real rgb[3])
{
    double c[3] = {t, t, t};
    if (t < 0) {
        c[0] = c[2] = 1;
        c[1] = 0;
    } else if (map == MAP_HEAT || map == MAP_LOG) {
        for (int k = 0; k < 3; k++)
            c[k] = clip(3 * t - k);
    } else if (map == MAP_DIVERGING) {
        static const double cold[3] = {0.10, 0.28, 0.65}, warm[3] = {0.72, 0.10, 0.12};
        double far = fabs(2 * t - 1);
        for (int k = 0; k < 3; k++)
            c[k] = 1 - far * (1 - (t < 0.5 ? cold[k] : warm[k]));
    }
    for (int k = 0; k < 3; k++)
        rgb[k] = (di_real)(2 * c[k] - 1);
}

/* ==== Layout ============================================================================ */

static const di_real GROUND = (di_real)-0.85, WORDS = (di_real)0.7;

static int blank(view *v, size_t h, size_t w)
{
    if (!h || !w || h > LARGEST / w || io_make(&v->out, 1, 3, h, w))
        return no_room(v->c);
    v->out.picture = 1;
    for (size_t i = 0; i < 3 * h * w; i++)
        v->out.v[i] = GROUND;
    return 0;
}

static void dot(io_array *out, size_t y, size_t x, const di_real rgb[3])
{
    if (y < out->h && x < out->w)
        for (size_t k = 0; k < 3; k++)
            out->v[(k * out->h + y) * out->w + x] = rgb[k];
}

/* The ends of the map in words, and between them its colours. */
static void draw_bar(io_array *out, size_t y, const range *r)
{
    double most = fabs(r->lo) > fabs(r->hi) ? fabs(r->lo) : fabs(r->hi);
    double lo = r->map == MAP_DIVERGING ? -most : r->map == MAP_LOG ? most / 1e6 : r->lo;
    char from[40], to[40];
    di_real rgb[3];
    snprintf(from, sizeof from, "%.4g", lo);
    snprintf(to, sizeof to, "%.4g%s", r->map == MAP_DIVERGING || r->map == MAP_LOG ? most : r->hi,
             r->map == MAP_LOG ? " log" : "");
    size_t left = GAP + 6 * strlen(from) + 6, right = out->w - GAP - 6 * strlen(to) - 6;
    pic_text(out, y, GAP, from, 40, 1, WORDS);
    if (right < out->w && right > left)
        pic_text(out, y, right + 6, to, 40, 1, WORDS);
    for (size_t x = left; x < right && right < out->w; x++)
        for (size_t i = 0; i < 7; i++) {
            colour(r->map, (double)(x - left) / (double)(right - left), rgb);
            dot(out, y + i, x, rgb);
        }
}

/* "2.1" above channel 1 of image 2, or less where there is less to tell apart. */
static void panel_name(const io_array *a, size_t i, char *out, size_t len)
{
    size_t n = i / a->c, k = i % a->c;
    *out = 0;
    if (a->n > 1 && a->c > 1)
        snprintf(out, len, "%zu, channel %zu", n, k);
    else if (a->c > 1)
        snprintf(out, len, "channel %zu", k);
    else if (a->n > 1)
        snprintf(out, len, "%zu", n);
}

/* Each channel a panel, one range for all. */
static int view_panels(view *v)
{
    const io_array *a = &v->a;
    size_t all = a->n * a->c, plane = a->h * a->w, scale = choose_scale(v->scale, a->h, a->w);
    size_t shown = all < MOST_PANELS ? all : MOST_PANELS, columns = 1;
    while (columns * columns < shown)
        columns++;
    if (a->c <= 8 && a->n > 1)
        columns = a->c * (8 / a->c < a->n ? 8 / a->c : a->n);
    else if (shown <= 8)
        columns = shown;
    while (!v->scale && scale > 1 && columns * a->w * scale > 8 * VISIBLE)
        scale--;
    size_t h = a->h * scale, w = a->w * scale, cell = w < 84 ? 84 : w;
    size_t rows = (shown + columns - 1) / columns, words = all > 1 ? 12 : 0;
    range r = find_range(a->v, all * plane, v->map);
    if (h > LARGEST || w > LARGEST || rows > LARGEST / (h + words + GAP) ||
        columns > LARGEST / (cell + GAP))
        return no_room(v->c);
    size_t wide = columns * (cell + GAP) + GAP;
    int code = blank(v, rows * (h + words + GAP) + GAP + 16, wide < 200 ? 200 : wide);
    if (code)
        return code;
    for (size_t p = 0; p < shown; p++) {
        size_t y = GAP + p / columns * (h + words + GAP), x = GAP + p % columns * (cell + GAP);
        char name[64];
        di_real rgb[3];
        panel_name(a, p, name, sizeof name);
        pic_text(&v->out, y, x, name, cell / 6, 1, WORDS);
        for (size_t i = 0; i < h; i++)
            for (size_t j = 0; j < w; j++) {
                colour(r.map, place(&r, (double)a->v[p * plane + i / scale * a->w + j / scale]),
                       rgb);
                dot(&v->out, y + words + i, x + (cell - w) / 2 + j, rgb);
            }
    }
    draw_bar(&v->out, v->out.h - 14, &r);
    cmd_note(v->c, "%s map, values %.6g to %.6g", map_names[r.map], r.lo, r.hi);
    if (r.odd)
        cmd_note(v->c, "%zu of %zu values are NaN or infinite: magenta", r.odd, all * plane);
    if (shown < all)
        cmd_note(v->c, "the first %zu of %zu panels: select others with FILE[a:b]", shown, all);
    return 0;
}

/* Pictures as they are, in a grid; values outside [-1,1] are clipped. */
static int view_pictures(view *v)
{
    const io_array *a = &v->a;
    size_t columns = 1, scale = choose_scale(v->scale, a->h, a->w);
    while (columns < (a->n + columns - 1) / columns)
        columns++;
    while (!v->scale && scale > 1 && columns * a->w * scale > 8 * VISIBLE)
        scale--;
    range r = find_range(a->v, a->n * a->c * a->h * a->w, MAP_GREY);
    if (r.lo < -1.5 || r.hi > 1.5)
        cmd_note(v->c, "values reach from %.4g to %.4g, a picture is clipped to [-1,1]: --map "
                 "heat shows them all", r.lo, r.hi);
    if (scale > LARGEST / a->h || scale > LARGEST / a->w ||
        a->n * a->h * scale > LARGEST / (a->w * scale) ||
        io_grid(&v->out, a, scale, scale > 1 ? scale : 2))
        return no_room(v->c);
    v->out.picture = 1;
    return 0;
}

/* ==== Numbers in a row as a graph ======================================================= */

enum { PLOT_W = 512, PLOT_H = 192, PLOT_LEFT = 66 };

static void draw_span(io_array *out, size_t x, double from, double to, const di_real rgb[3])
{
    size_t lo = (size_t)(from < to ? from : to), hi = (size_t)(from < to ? to : from);
    for (size_t y = lo; y <= hi; y++)
        dot(out, y, x, rgb);
}

static double height(double x, const range *r, size_t top)
{
    return (double)top + (1 - share(r, x)) * (PLOT_H - 1);
}

/* v (m) as a line from `top` down: where a column holds several values, their whole span. */
static void draw_line(io_array *out, size_t top, const di_real *v, size_t m, const range *r)
{
    static const di_real ink[3] = {(di_real)0.9, (di_real)0.7, (di_real)-0.2};
    double last = -1;
    for (size_t x = 0; x < PLOT_W; x++) {
        size_t a = x * m / PLOT_W, b = (x + 1) * m / PLOT_W;
        for (size_t i = a; i < (b > a ? b : a + 1) && i < m; i++) {
            double y;
            if (!(fabs((double)v[i]) < HUGE_VAL)) {
                last = -1;
                continue;
            }
            y = height((double)v[i], r, top);
            draw_span(out, PLOT_LEFT + x, last < 0 ? y : last, y, ink);
            last = y;
        }
    }
}

/* Lines (N,C,1,m), each in a frame of its own, with one scale. */
static int view_lines(view *v)
{
    const io_array *a = &v->a;
    static const di_real axis[3] = {(di_real)-0.35, (di_real)-0.35, (di_real)-0.35};
    size_t m = a->h * a->w, all = a->n * a->c, shown = all < 8 ? all : 8, zoom = v->scale;
    range r = find_range(a->v, all * m, MAP_GREY);
    int code = blank(v, shown * (PLOT_H + 28) + GAP, PLOT_LEFT + PLOT_W + GAP);
    for (size_t p = 0; !code && p < shown; p++) {
        size_t top = GAP + p * (PLOT_H + 28), zero = (size_t)height(0, &r, top);
        char words[64];
        for (size_t x = 0; x < PLOT_W; x++) {
            dot(&v->out, top + PLOT_H, PLOT_LEFT + x, axis);
            if (r.lo < 0 && r.hi > 0)
                dot(&v->out, zero, PLOT_LEFT + x, axis);
        }
        for (size_t y = 0; y <= PLOT_H; y++)
            dot(&v->out, top + y, PLOT_LEFT - 1, axis);
        draw_line(&v->out, top, a->v + p * m, m, &r);
        snprintf(words, sizeof words, "%9.3g", r.hi);
        pic_text(&v->out, top, 4, words, 40, 1, WORDS);
        snprintf(words, sizeof words, "%9.3g", r.lo);
        pic_text(&v->out, top + PLOT_H - 7, 4, words, 40, 1, WORDS);
        if (r.lo < 0 && r.hi > 0 && zero > top + 12 && zero + 16 < top + PLOT_H)
            pic_text(&v->out, zero - 3, 4 + 48, "0", 40, 1, WORDS);
        pic_text(&v->out, top + PLOT_H + 6, PLOT_LEFT, "0", 40, 1, WORDS);
        snprintf(words, sizeof words, "%zu", m - 1);
        pic_text(&v->out, top + PLOT_H + 6, PLOT_LEFT + PLOT_W - 6 * strlen(words), words, 40, 1,
                 WORDS);
    }
    if (!code)
        cmd_note(v->c, "%zu numbers, %.6g to %.6g", m, r.lo, r.hi);
    if (!code && r.odd)
        cmd_note(v->c, "%zu of %zu values are NaN or infinite: left out", r.odd, all * m);
    if (!code && shown < all)
        cmd_note(v->c, "the first %zu of %zu lines: select others with FILE[a:b]", shown, all);
    if (!code && zoom)
        cmd_note(v->c, "a graph has its own size: --scale has no effect");
    return code;
}

/* ==== Views ============================================================================= */

static int view_any(view *v)
{
    if (v->map == MAP_NONE && v->a.h == 1 && !v->a.picture)
        return view_lines(v);
    if (v->map == MAP_NONE && (v->a.c == 1 || v->a.c == 3))
        return view_pictures(v);
    return view_panels(v);
}

/* The problem whose measurements v->a holds. */
static int view_problem(view *v, di_problem **p)
{
    int y[3] = {(int)v->a.c, (int)v->a.h, (int)v->a.w}, x[3];
    int code = make_image_shape(v->c->ctx, v->spec, y, x);
    if (!code)
        code = make_problem(v->c->ctx, v->spec, x[0], x[1], x[2], p);
    return code ? code : (int)make_check_measurement(v->c->ctx, v->spec, *p, "the array", &v->a);
}

/* Missing pixels hold noise only: they are shown as a chequered grey. */
static int view_inpaint(view *v)
{
    enum { SQUARE = 8 };
    di_problem *p;
    size_t n = v->a.c * v->a.h * v->a.w, scale = choose_scale(v->scale, v->a.h, v->a.w);
    if (v->map != MAP_NONE || (v->a.c != 1 && v->a.c != 3))
        return view_any(v);
    int code = view_problem(v, &p);
    di_real *mask = code ? NULL : malloc(2 * n * sizeof *mask);
    if (!code && !mask)
        code = no_room(v->c);
    for (size_t i = 0; !code && i < n; i++)
        mask[i] = 1;
    if (!code)
        code = di_apply(p, 1, mask, mask + n);
    io_array big = {0, 0, 0, 0, NULL, 0};
    if (!code && (scale > LARGEST / (v->a.h * v->a.w) / scale / (v->a.n * 3) ||
                  io_make(&big, v->a.n, v->a.c, v->a.h * scale, v->a.w * scale)))
        code = no_room(v->c);
    for (size_t i = 0; !code && i < big.n * big.c * big.h * big.w; i++) {
        size_t x = i % big.w, y = i / big.w % big.h, k = i / (big.w * big.h);
        size_t at = y / scale * v->a.w + x / scale, plane = v->a.h * v->a.w;
        int dark = (x / SQUARE + y / SQUARE) % 2;
        big.v[i] = mask[n + k % v->a.c * plane + at] > 0 ? v->a.v[k * plane + at]
                                                        : (di_real)(dark ? -0.15 : 0.15);
    }
    free(mask);
    if (code)
        return code;
    io_free(&v->a);
    v->a = big;
    v->scale = 1; /* it is done */
    return view_any(v);
}

/* At least as large as the picture that was reduced. */
static int view_sr(view *v)
{
    int factor = atoi(make_get(v->spec, "factor"));
    size_t scale = choose_scale(v->scale, v->a.h, v->a.w);
    if (!v->scale)
        v->scale = scale > (size_t)factor ? scale : (size_t)factor;
    return view_any(v);
}

/* ==== What stands for numbers of one kind =============================================== */

/* How arrays of a problem are coloured where they are no pictures, and what of their channels is
   shown: all, or the length of each pair (real, imaginary). */
static const struct look {
    const char *problem;
    int map[2];             /* of images, of measurements; MAP_NONE: as any picture */
    int pairs;
} looks[] = {
    {"blackhole", {MAP_HEAT, MAP_NONE}, 0},
    {"navier_stokes", {MAP_DIVERGING, MAP_DIVERGING}, 0},
    {"phase", {MAP_NONE, MAP_LOG}, 0},
    {"mri", {MAP_GREY, MAP_LOG}, 1},
    {"scatter", {MAP_HEAT, MAP_HEAT}, 1},
};

static const struct look *look_of(const char *problem)
{
    for (size_t i = 0; i < sizeof looks / sizeof looks[0]; i++)
        if (!strcmp(looks[i].problem, problem))
            return &looks[i];
    return NULL;
}

/* Pairs of channels become one, their length. */
static int join_pairs(cmd *c, io_array *a)
{
    io_array b;
    size_t plane = a->h * a->w;
    if (io_make(&b, a->n, a->c / 2, a->h, a->w))
        return no_room(c);
    for (size_t i = 0; i < b.n * b.c * plane; i++) {
        const di_real *re = a->v + i / plane * 2 * plane + i % plane;
        b.v[i] = (di_real)sqrt((double)re[0] * re[0] + (double)re[plane] * re[plane]);
    }
    io_free(a);
    *a = b;
    return 0;
}

/* Whether v->a has the shape of the problem's measurements: then it is taken for one. */
static int is_measured(view *v)
{
    di_problem *p;
    int there = !view_problem(v, &p);
    di_clear(v->c->ctx);
    return there;
}

static int view_look(view *v)
{
    const struct look *look = look_of(v->spec->kind->name);
    int measured = is_measured(v);
    if (look->pairs && v->a.c % 2 == 0 && join_pairs(v->c, &v->a))
        return DI_EMEMORY;
    if (v->map == MAP_NONE)
        v->map = look->map[measured];
    return view_any(v);
}

static int view_hole(view *v)
{
    if (v->map != MAP_NONE || v->a.c != 1 || v->a.h != 1)
        return view_look(v);
    return view_blackhole(v->c->ctx, v->spec, &v->a, &v->out);
}

/* The mean over its channels, in colours: (1,3,h,w). */
static int paint(cmd *c, const io_array *a, int map, int measured, io_array *out)
{
    size_t plane = a->h * a->w;
    if (io_make(out, 1, 3, a->h, a->w))
        return no_room(c);
    for (size_t i = 0; i < plane; i++) {
        double sum = 0;
        for (size_t k = 0; k < a->c; k++)
            sum += (double)a->v[k * plane + i];
        out->v[i] = (di_real)(sum / (double)a->c);
    }
    range r = find_range(out->v, plane, map);
    if (map == MAP_HEAT && !measured && r.lo >= -1 && r.hi <= 1) { /* black is -1 */
        r.lo = -1;
        r.hi = 1;
    }
    for (size_t i = plane; i-- > 0; ) {
        di_real rgb[3];
        colour(map, place(&r, (double)out->v[i]), rgb);
        for (size_t k = 3; k-- > 0; )
            out->v[k * plane + i] = rgb[k];
    }
    out->picture = 1;
    return 0;
}

/* A long strip as a square that can be looked at beside others: every pixel of it is one of the
   strip's. */
static int square(cmd *c, io_array *out)
{
    enum { SIDE = 128 };
    io_array a;
    if (out->w <= 3 * out->h && out->h <= 3 * out->w)
        return 0;
    if (io_make(&a, 1, out->c, SIDE, SIDE))
        return no_room(c);
    for (size_t i = 0; i < a.c * SIDE * SIDE; i++)
        a.v[i] = out->v[(i / (SIDE * SIDE) * out->h + i / SIDE % SIDE * out->h / SIDE) * out->w +
                        i % SIDE * out->w / SIDE];
    a.picture = 1;
    io_free(out);
    *out = a;
    return 0;
}

/* out = means of squares of side k */
static int shrink(cmd *c, io_array *out, size_t k)
{
    io_array a;
    if (io_make(&a, 1, out->c, out->h / k, out->w / k))
        return no_room(c);
    for (size_t i = 0; i < a.c * a.h * a.w; i++) {
        size_t x = i % a.w, y = i / a.w % a.h, plane = i / (a.w * a.h);
        double sum = 0;
        for (size_t j = 0; j < k * k; j++)
            sum += (double)out->v[(plane * out->h + y * k + j / k) * out->w + x * k + j % k];
        a.v[i] = (di_real)(sum / (double)(k * k));
    }
    a.picture = 1;
    io_free(out);
    *out = a;
    return 0;
}

int view_small(cmd *c, const make_spec *spec, const di_problem *p, int measured,
               const di_real *v, io_array *out)
{
    const int *shape = measured ? p->y : p->x;
    const struct look *look = look_of(p->name);
    int map = look ? look->map[measured] : MAP_NONE, code = 0;
    io_array a;
    memset(out, 0, sizeof *out);
    if (io_make(&a, 1, (size_t)shape[0], (size_t)shape[1], (size_t)shape[2]))
        return no_room(c);
    size_t n = a.c * a.h * a.w;
    memcpy(a.v, v, n * sizeof *v);
    if (measured && !strcmp(p->name, "inpaint")) /* missing pixels hold noise only */
        p->apply(p, v, a.v);
    if (measured && !strcmp(p->name, "blackhole")) {
        code = view_blackhole(c->ctx, spec, &a, out);
        if (!code)
            code = shrink(c, out, 2);
    } else if (a.c == 1 && a.h == 1 && a.w > 1) {
        view line = {c, a, spec, MAP_NONE, 0, {0, 0, 0, 0, NULL, 0}};
        int quiet = c->quiet;
        c->quiet = 1;
        code = view_lines(&line);
        c->quiet = quiet;
        *out = line.out;
        if (!code)
            code = shrink(c, out, 2);
    } else if (map != MAP_NONE || (a.c != 1 && a.c != 3)) {
        if (look && look->pairs && a.c % 2 == 0)
            code = join_pairs(c, &a);
        if (!code)
            code = paint(c, &a, map == MAP_NONE ? MAP_DIVERGING : map, measured, out);
        if (!code)
            code = square(c, out);
    } else {
        *out = a;
        return 0;
    }
    io_free(&a);
    return code;
}

/* How a problem's measurements are shown, if otherwise than any array of their shape. */
static const struct kind {
    const char *problem;
    int (*make)(view *v);
} kinds[] = {
    {"inpaint", view_inpaint},
    {"sr", view_sr},
    {"blackhole", view_hole},
    {"navier_stokes", view_look},
    {"phase", view_look},
    {"mri", view_look},
    {"scatter", view_look},
};

static int make_view(view *v)
{
    const char *problem = v->spec ? v->spec->kind->name : "";
    if (!v->a.n || !v->a.c || !v->a.h || !v->a.w)
        return di_fail(v->c->ctx, DI_EINPUT, "the array is empty: there is nothing to see");
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (!strcmp(kinds[i].problem, problem))
            return kinds[i].make(v);
    return view_any(v);
}

int view_plain(io_array *out, const io_array *a)
{
    size_t zoom = choose_scale(0, a->h, a->w);
    io_array one = *a;
    if (a->c == 1 || a->c == 3)
        return pic_grid(out, a);
    one.n = a->n * a->c;
    one.c = 1;
    return io_grid(out, &one, zoom, zoom > 1 ? zoom : 2);
}

static int view_settings(cmd *c, view *v, const char **in)
{
    const char *map = cmd_get(c, "map"), *out;
    int scale = 0;
    *in = c->words ? c->word[0] : cmd_get(c, "input");
    if (!*in)
        return di_fail(c->ctx, DI_EUSAGE, "view needs a file: diffinv view y.npy -o y.png");
    if (c->words && cmd_get(c, "input"))
        return di_fail(c->ctx, DI_EUSAGE, "view shows one file: %s, or -i %s", c->word[0],
                       cmd_get(c, "input"));
    int code = settings_put(c, &c->set, "input", *in);
    *in = cmd_get(c, "input");
    if (!code)
        code = cmd_need(c, "output", &out) || cmd_check_output(c, "output", 1) ||
               input_int(c, "scale", NULL, 1, 4096, &scale);
    if (code)
        return c->ctx->status ? (int)c->ctx->status : code;
    v->scale = (size_t)scale;
    v->map = MAP_NONE;
    for (int i = 1; map && i < MAPS; i++)
        if (!strcmp(strcmp(map, "gray") ? map : "grey", map_names[i]))
            v->map = i;
    if (map && v->map == MAP_NONE)
        return di_fail(c->ctx, DI_EUSAGE, "--map %s: did you mean %s? There are grey, heat, "
                       "diverging and log", map, di_nearest(map, map_names + 1, MAPS - 1));
    if (!is_picture_name(out))
        return di_fail(c->ctx, DI_EUSAGE, "-o %s: a view is a picture: end the name in .png, "
                       ".ppm or .pgm", out);
    return 0;
}

int verb_view(cmd *c)
{
    view v;
    make_spec spec;
    settings record = {NULL, 0, 0};
    const char *in;
    char path[1040] = "";
    memset(&v, 0, sizeof v);
    v.c = c;
    int code = view_settings(c, &v, &in);
    if (!code)
        code = measurement_record(c, in, &record, path);
    if (!code && (record.n || cmd_get(c, "problem"))) {
        code = input_problem(c, record.n ? &record : NULL, path, &spec);
        v.spec = &spec;
    }
    if (!code)
        code = input_array(c, in, &v.a);
    if (!code && (v.a.c > 1 << 16 || v.a.h > 1 << 24 || v.a.w > 1 << 24))
        code = di_fail(c->ctx, DI_EINPUT, "%s: larger than 65536 a side", in);
    if (!code)
        code = make_view(&v);
    if (!code)
        code = cmd_write(c, "output", &v.out);
    settings_free(&record);
    io_free(&v.a);
    io_free(&v.out);
    return code;
}
