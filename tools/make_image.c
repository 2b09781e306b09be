/* make_image.c - the verb make: test pictures and other inputs by name */
#define _XOPEN_SOURCE 700
#include "cmd.h"
#include "make_flow.h"
#include "make_hole.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ==== What can be made ======================================================================

   A row makes one array or one text. A parameter with the choice "LO:HI" is a number, or a
   range A:B of which each picture draws its own: picture i of seed s is a function of both. */

typedef struct maker maker;
typedef struct make_job {
    cmd *c;
    const maker *row;
    uint64_t seed;
    size_t i;               /* number of the picture */
    int h, w;
} make_job;
struct maker {
    const char *name, *title;
    const char *size;       /* default of --size; NULL: it is no picture */
    int picture;            /* values are in [-1,1] */
    int channels;
    int (*draw)(const make_job *j, di_real *x);   /* x (channels,h,w); 0, or nothing said: no
                                                     memory */
    int (*write)(const make_job *j, char **words); /* or a text, malloc'd */
    di_param param[MAKE_PARAMS + 1];
};

static const char *value_of(const make_job *j, const char *key)
{
    char full[64];
    snprintf(full, sizeof full, "what.%s", key);
    return cmd_get(j->c, full);
}

/* "A" or "A:B" in lo..hi, A <= B; 0 on success. */
static int parse_pair(const char *s, double *a, double *b)
{
    size_t n = strcspn(s, ":");
    if (di_parse(s, n, a))
        return 1;
    *b = *a;
    return s[n] && di_parse(s + n + 1, strlen(s + n + 1), b);
}

/* A parameter of this picture; ranges are drawn by the parameter's place in the table. */
static double number(const make_job *j, const char *key)
{
    double a = 0, b = 0;
    size_t at = 0;
    parse_pair(value_of(j, key), &a, &b);
    while (strcmp(j->row->param[at].key, key))
        at++;
    uint32_t bits = di_bits(at, j->seed, DI_STREAM_MASK, j->i, 0);
    return a + (b - a) * (bits / 4294967296.0);
}

/* ==== Rings and crescents ===================================================================

   p = what the formulas below say, blurred, over its maximum; x = 2p - 1. Micro-arcseconds, the
   picture fov of them wide; angles in degrees from north (up) over east (left), as astronomers
   count them. */

static const double PI = 3.14159265358979323846;

/* (h,w) under a Gaussian of that deviation in pixels, cut off at 4 of them; black around. */
static int blur(double *p, int h, int w, double sigma)
{
    int reach = (int)(4 * sigma + 0.5);
    double *row = malloc((size_t)(h > w ? h : w) * sizeof *row);
    if (!row)
        return 1;
    for (int side = 0; side < 2 && reach; side++)
        for (int i = 0; i < (side ? w : h); i++) {
            int n = side ? h : w, step = side ? w : 1;
            double *line = p + (side ? i : i * w);
            for (int k = 0; k < n; k++) {
                double sum = 0, weight = 0;
                for (int d = -reach; d <= reach; d++) {
                    double g = di_exp(-0.5 * d * d / (sigma * sigma));
                    weight += g;
                    sum += k + d >= 0 && k + d < n ? g * line[(k + d) * step] : 0;
                }
                row[k] = sum / weight;
            }
            for (int k = 0; k < n; k++)
                line[k * step] = row[k];
        }
    free(row);
    return 0;
}

/* Blurs p to FWHM `fwhm`, and into x with maximum 1. */
static int finish(const make_job *j, double *p, double pixel, di_real *x)
{
    size_t n = (size_t)j->h * (size_t)j->w;
    double most = 0;
    int code = blur(p, j->h, j->w, number(j, "blur") / pixel / 2.35482004503094938202);
    for (size_t i = 0; i < n; i++)
        most = p[i] > most ? p[i] : most;
    for (size_t i = 0; i < n; i++)
        x[i] = (di_real)(2 * p[i] / (most > 0 ? most : 1) - 1);
    return code;
}

/* The place of pixel i: east and north of the centre, which is off by the parameters x, y. */
static void place(const make_job *j, size_t i, double pixel, double *east, double *north)
{
    size_t w = (size_t)j->w;
    *east = ((j->w - 1) / 2.0 - (double)(i % w)) * pixel - number(j, "east");
    *north = ((j->h - 1) / 2.0 - (double)(i / w)) * pixel - number(j, "north");
}

/* Brightness over the radius a Gaussian of FWHM `width` about the ring, times
   1 + asymmetry cos(angle - where it is brightest). */
static int draw_ring(const make_job *j, di_real *x)
{
    size_t n = (size_t)j->h * (size_t)j->w;
    double *p = malloc(n * sizeof *p), pixel = number(j, "fov") / j->w, east, north;
    double radius = number(j, "diameter") / 2, width = number(j, "width");
    double angle = number(j, "angle") * PI / 180, much = number(j, "asymmetry");
    if (!p)
        return 1;
    for (size_t i = 0; i < n; i++) {
        place(j, i, pixel, &east, &north);
        double rho = sqrt(east * east + north * north), off = (rho - radius) / width;
        double along = rho > 0 ? (north * di_cos(angle) + east * di_sin(angle)) / rho : 0;
        p[i] = di_exp(-4 * 0.69314718055994530942 * off * off) * (1 + much * along);
    }
    int code = finish(j, p, pixel, x);
    free(p);
    return code;
}

/* 1 inside a disc, 0 outside, a ramp of one pixel at its rim */
static double disc(double east, double north, double radius, double pixel)
{
    double in = (radius - sqrt(east * east + north * north)) / pixel + 0.5;
    return in < 0 ? 0 : in > 1 ? 1 : in;
}

/* A disc less a smaller one that touches its rim on the far side of the angle as far as
   asymmetry (0: concentric, 1: it touches) says. */
static int draw_crescent(const make_job *j, di_real *x)
{
    size_t n = (size_t)j->h * (size_t)j->w;
    double *p = malloc(n * sizeof *p), pixel = number(j, "fov") / j->w, east, north;
    double radius = (number(j, "diameter") + number(j, "width")) / 2;
    double hole = radius - number(j, "width"), angle = number(j, "angle") * PI / 180;
    if (!p)
        return 1;
    hole = hole > 0 ? hole : 0;
    double off = number(j, "asymmetry") * (radius - hole);
    for (size_t i = 0; i < n; i++) {
        place(j, i, pixel, &east, &north);
        double d = disc(east + off * di_sin(angle), north + off * di_cos(angle), hole, pixel);
        p[i] = disc(east, north, radius, pixel) * (1 - d);
    }
    int code = finish(j, p, pixel, x);
    free(p);
    return code;
}

#define SKY_PARAMS(wide, uneven, blurred) \
    {"fov", "160", "1:100000", "side of the picture in micro-arcseconds (as blackhole's)"}, \
    {"diameter", "36:46", "0:100000", "of the ring (M87*: 42)"}, \
    {"width", wide, "0.01:100000", "of the ring, at half height"}, \
    {"asymmetry", uneven, "0:1", "0: even"}, \
    {"angle", "0:360", "-360:360", "of the brightest part, degrees from north over east"}, \
    {"east", "-4:4", "-100000:100000", "of the picture's centre"}, \
    {"north", "-4:4", "-100000:100000", ""}, \
    {"blur", blurred, "0:100000", "FWHM of a Gaussian over all"}

/* ==== A body, for magnetic resonance ====================================================== */

/* Ellipses of one tissue in another, edges a pixel soft, under a phase that varies slowly. */
static int draw_phantom(const make_job *j, di_real *x)
{
    enum { ELLIPSES = 7, WAVES = 3 };
    double shape[ELLIPSES][6], wave[WAVES][3], phase = number(j, "phase");
    size_t n = (size_t)j->h * (size_t)j->w;
    uint32_t at = 64; /* behind the parameters' words */
    for (int e = 0; e < ELLIPSES; e++) /* centre, half axes, angle, how much it adds */
        for (int k = 0; k < 6; k++)
            shape[e][k] = di_bits(at++, j->seed, DI_STREAM_MASK, j->i, 0) / 4294967296.0;
    for (int e = 0; e < WAVES; e++)
        for (int k = 0; k < 3; k++)
            wave[e][k] = di_bits(at++, j->seed, DI_STREAM_MASK, j->i, 0) / 4294967296.0;
    for (size_t i = 0; i < n; i++) {
        double u = 2 * ((double)(i % (size_t)j->w) + 0.5) / j->w - 1, p = 0, turn = 0;
        double v = 2 * ((double)(i / (size_t)j->w) + 0.5) / j->h - 1;
        for (int e = 0; e < ELLIPSES; e++) {
            const double *s = shape[e];
            double angle = PI * s[4], size = e ? 0.1 + 0.3 * s[2] : 0.75;
            double a = u - (e ? 0.9 * (s[0] - 0.5) : 0), b = v - (e ? 0.9 * (s[1] - 0.5) : 0);
            double major = a * di_cos(angle) + b * di_sin(angle);
            double minor = (b * di_cos(angle) - a * di_sin(angle)) / (0.6 + 0.4 * s[3]);
            double in = (size - sqrt(major * major + minor * minor)) * j->h / 2 + 0.5;
            p += (e ? 0.6 * (s[5] - 0.4) : 0.5) * (in < 0 ? 0 : in > 1 ? 1 : in);
        }
        for (int e = 0; e < WAVES; e++)
            turn += phase / WAVES * di_cos(PI * (wave[e][0] * u + wave[e][1] * v)
                                           + 2 * PI * wave[e][2]);
        p = p < 0 ? 0 : p > 1 ? 1 : p;
        x[i] = (di_real)(p * di_cos(turn));
        x[n + i] = (di_real)(p * di_sin(turn));
    }
    return 0;
}

/* ==== Fields of a fluid =================================================================== */

static int flow_side(const make_job *j)
{
    if (j->h == j->w && j->h % 2 == 0 && j->h >= 8)
        return 0;
    return di_fail(j->c->ctx, DI_EUSAGE, "make %s: --size %dx%d: a fluid's field is a square "
                   "of an even side, 8 or more", j->row->name, j->h, j->w);
}

static int draw_grf(const make_job *j, di_real *x)
{
    flow_plan plan = FLOW_PLAN;
    plan.alpha = number(j, "alpha");
    plan.tau = number(j, "tau");
    return flow_side(j) || make_grf(j->c->ctx, &plan, j->seed, j->i, j->h, x);
}

static int draw_vorticity(const make_job *j, di_real *x)
{
    flow_plan plan = FLOW_PLAN;
    plan.alpha = number(j, "alpha");
    plan.tau = number(j, "tau");
    plan.time = number(j, "time");
    plan.re = number(j, "re");
    return flow_side(j) || make_vorticity(j->c->ctx, &plan, j->seed, j->i, 1, j->h, x);
}

/* ==== A telescopes' coverage ============================================================= */

static int write_uv(const make_job *j, char **words)
{
    hole_plan plan = HOLE_PLAN;
    plan.array = value_of(j, "array");
    plan.source = value_of(j, "source");
    plan.mjd = number(j, "mjd");
    plan.start = number(j, "start");
    plan.every = number(j, "every");
    plan.tau = number(j, "tau");
    plan.scans = (int)number(j, "scans");
    return hole_text(j->c->ctx, &plan, words);
}

/* ==== The table and the verb ============================================================= */

static const maker makers[] = {
    {"ring", "a blurred ring, brighter on one side", "64x64", 1, 1, draw_ring, NULL,
     {SKY_PARAMS("8:14", "0.3:0.9", "4")}},
    {"crescent", "a disc with a smaller one cut out of it", "64x64", 1, 1, draw_crescent,
     NULL,
     {SKY_PARAMS("8:12", "0.6:1", "6")}},
    {"phantom", "a slice through a body for mri: real and imaginary part", "128x128", 0, 2,
     draw_phantom, NULL,
     {{"phase", "1", "0:10", "greatest phase, radians: how complex it is"}}},
    {"grf", "a Gaussian random field, spectrum (k^2 + tau^2)^-alpha", "128x128", 0, 1, draw_grf,
     NULL,
     {{"alpha", "4", "1.001:20", "how smooth it is (InverseBench's EKI)"},
      {"tau", "3", "0.001:1000", "below what wavenumber it is flat (InverseBench's EKI)"}}},
    {"vorticity", "a fluid's, for navier_stokes: a random field that evolved", "128x128", 0, 1,
     draw_vorticity, NULL,
     {{"alpha", "4", "1.001:20", "of the field that it starts with"},
      {"tau", "3", "0.001:1000", "of that field"},
      {"time", "5", "0:1000", "how long it evolves (InverseBench's data)"},
      {"re", "200", "0.001:1e9", "Reynolds number"}}},
    {"uv", "a coverage for blackhole's uv=, as text", NULL, 0, 0, NULL, write_uv,
     {{"array", "m87", "m87|eht2017", "SEFDs of the stations"},
      {"source", "m87", "m87|sgra", "what is looked at"},
      {"mjd", "57850", "40000..80000 int", "day (57850: 6 April 2017)"},
      {"start", "0.5", "0..48", "first scan, hours UT"},
      {"every", "0.5", "0.001..24", "hours between scans"},
      {"scans", "15", "1..1000 int", "how many"},
      {"tau", "120", "0.1..100000", "seconds a scan"}}},
};
enum { MAKERS = sizeof makers / sizeof makers[0] };

void make_list(int defaults)
{
    for (int i = 0; i < MAKERS; i++) {
        printf("%-10s %s\n", makers[i].name, makers[i].title);
        for (int k = 0; defaults && k < MAKE_PARAMS && makers[i].param[k].key; k++) {
            const di_param *p = &makers[i].param[k];
            printf("    %-10s %-10s [%s]  %s\n", p->key, p->value, p->choice, p->note);
        }
    }
}

static int find_maker(cmd *c, const char *name, const maker **row)
{
    const char *words[MAKERS];
    *row = NULL;
    for (int i = 0; i < MAKERS; i++) {
        words[i] = makers[i].name;
        if (!strcmp(name, makers[i].name))
            *row = &makers[i];
    }
    return *row ? 0 : (int)di_fail(c->ctx, DI_EUSAGE, "make: nothing is named '%s': did you "
                                   "mean '%s'? See diffinv list makers", name,
                                   di_nearest(name, words, MAKERS));
}

/* A value against a choice "LO:HI". */
static int check_pair(cmd *c, const char *where, const di_param *p, const char *value)
{
    double lo, hi, a, b;
    if (parse_pair(p->choice, &lo, &hi))
        return 0;
    if (parse_pair(value, &a, &b))
        return di_fail(c->ctx, DI_EUSAGE, "%s: %s=%s: give a number, or a range A:B to draw "
                       "from", where, p->key, value);
    if (!(a >= lo && b <= hi && a <= b))
        return di_fail(c->ctx, DI_EUSAGE, "%s: %s=%s is out of range: give %g to %g, the "
                       "lesser first", where, p->key, value, lo, hi);
    return 0;
}

/* Checks what was given and fills in the rest. */
static int take_params(cmd *c, const maker *row)
{
    char where[48], key[64];
    int code = 0;
    snprintf(where, sizeof where, "make %s", row->name);
    for (int i = 0; !code && i < c->set.n; i++)
        if (!strncmp(c->set.item[i].key, "what.", 5))
            code = make_check(c->ctx, where, row->param, c->set.item[i].key + 5,
                              c->set.item[i].value);
    for (int i = 0; !code && i < MAKE_PARAMS && row->param[i].key; i++) {
        const di_param *p = &row->param[i];
        snprintf(key, sizeof key, "what.%s", p->key);
        const char *given = cmd_get(c, key);
        code = given ? check_pair(c, where, p, given) : settings_put(c, &c->set, key, p->value);
    }
    return code;
}

static int make_pictures(make_job *j, size_t n)
{
    cmd *c = j->c;
    io_array a;
    size_t channels = (size_t)j->row->channels, size = channels * (size_t)j->h * (size_t)j->w;
    if (io_make(&a, n, channels, (size_t)j->h, (size_t)j->w))
        return di_fail(c->ctx, DI_EMEMORY, "no memory for %zu pictures", n);
    a.picture = j->row->picture;
    int code = 0;
    for (j->i = 0; !code && j->i < n; j->i++)
        if (j->row->draw(j, a.v + j->i * size))
            code = c->ctx->status ? (int)c->ctx->status
                                  : (int)di_fail(c->ctx, DI_EMEMORY, "no memory for a picture");
    if (!code)
        code = cmd_write(c, "output", &a);
    io_free(&a);
    return code;
}

static int make_text(make_job *j)
{
    char *words = NULL, err[400];
    int code = j->row->write(j, &words);
    if (!code)
        code = cmd_io(j->c, io_write_text(cmd_get(j->c, "output"), words, strlen(words), err,
                                          sizeof err), err);
    free(words);
    return code;
}

int verb_make(cmd *c)
{
    make_job j = {c, NULL, 0, 0, 0, 0};
    const char *what, *out;
    int n = 1;
    int code = cmd_need(c, "what", &what) || cmd_need(c, "output", &out) ||
               find_maker(c, what, &j.row) || input_seed(c, &j.seed) ||
               input_int(c, "samples", "1", 1, 1 << 20, &n) || take_params(c, j.row);
    if (!code && j.row->size)
        cmd_or(c, "size", j.row->size);
    if (!code)
        code = input_size(c, &j.h, &j.w);
    if (!code && !j.row->size && (is_picture_name(out) || strstr(out, ".npy")))
        code = di_fail(c->ctx, DI_EUSAGE, "make %s: %s: it is a text: end the name in .txt",
                       j.row->name, out);
    if (!code)
        code = cmd_check_output(c, "output", j.row->size != NULL);
    if (!code)
        code = j.row->size ? make_pictures(&j, (size_t)n) : make_text(&j);
    return code ? code : cmd_write_record(c, NULL, seconds() - c->start);
}
