/* make_hole.c - stations, coverage and noise of black-hole imaging, see make_hole.h
 *
 * After eht-imaging (arXiv 1803.07088), as InverseBench and CPS use it. Ours: sidereal time by
 * a formula (0.5 s from theirs: UT1 is not UTC); pi in full, where theirs has 13 digits. */
#define DIFFINV_KERNELS
#include "make_hole.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double PI = 3.14159265358979323846;
static const double WAVELENGTH = 299792458.0 / 230e9;

/* ==== Stations ==============================================================================

   The Event Horizon Telescope of 2017: places in metres, Earth-fixed; noise (SEFD) in Jy of the
   right and left hand, in the M87 observation and in general. */

typedef struct station {
    const char *name;
    double x, y, z;
    double m87[2], general[2];
} station;

static const station stations[HOLE_STATIONS] = {
    {"PV", 5088967.9, -301681.6, 3825015.8, {3600, 3600}, {1400, 1400}},
    {"SMT", -1828796.2, -5054406.8, 3427865.2, {14400, 14400}, {5000, 5000}},
    {"SMA", -5464523.4, -2493147.08, 2150611.75, {5600, 6500}, {4900, 4900}},
    {"LMT", -768713.9637, -5988541.7982, 2063275.9472, {3600, 3600}, {600, 600}},
    {"ALMA", 2225061.164, -5440057.37, -2481681.15, {70, 70}, {90, 90}},
    {"SPT", 0.01, 0.01, -6359609.7, {16900, 16900}, {5000, 5000}},
    {"APEX", 2225039.53, -5441197.63, -2479303.36, {4900, 4900}, {3500, 3500}},
    {"JCMT", -5464584.68, -2493001.17, 2150653.98, {10000, 10000}, {6000, 6000}},
};

static const double *sefd(const char *array, const station *s)
{
    return strcmp(array, "m87") ? s->general : s->m87;
}

/* The station of that rank by ascending sqrt(R^2 + L^2); equal ones stay in table order. */
static const station *ranked(const char *array, int rank)
{
    for (int i = 0; i < HOLE_STATIONS; i++) {
        const double *s = sefd(array, &stations[i]);
        int before = 0;
        for (int k = 0; k < HOLE_STATIONS; k++) {
            const double *o = sefd(array, &stations[k]);
            double d = o[0] * o[0] + o[1] * o[1] - s[0] * s[0] - s[1] * s[1];
            before += d < 0 || (d == 0 && k < i);
        }
        if (before == rank)
            return &stations[i];
    }
    return NULL;
}

const char *hole_station(const char *array, int rank)
{
    const station *s = ranked(array, rank);
    return s ? s->name : NULL;
}

/* ==== Coverage from a plan =============================================================== */

/* Place of a station in the frame that turns with the sky: out = (x', y', z). */
static void turn(const station *s, double theta, double out[3])
{
    double c = di_cos(theta), sn = di_sin(theta);
    out[0] = s->x * c - s->y * sn;
    out[1] = s->x * sn + s->y * c;
    out[2] = s->z;
}

/* Whether the source stands between 10 and 85 degrees over the (geocentric) horizon. */
static int sees(const double at[3], double dec)
{
    double up = (at[0] * di_cos(dec) + at[2] * di_sin(dec)) /
                sqrt(at[0] * at[0] + at[1] * at[1] + at[2] * at[2]);
    return up > di_sin(10 * PI / 180) && up < di_sin(85 * PI / 180);
}

/* Noise of Stokes I on a baseline, Jy: of each hand's product sqrt(S S / (2 B tau)) / 0.88, B =
   2 GHz, 0.88 for sampling with 2 bits. */
static double thermal(const double *a, const double *b, double tau)
{
    double r = sqrt(a[0] * b[0] / (2 * 2e9 * tau)) / 0.88;
    double l = sqrt(a[1] * b[1] / (2 * 2e9 * tau)) / 0.88;
    return 0.5 * sqrt(r * r + l * l);
}

enum { MOST_LINE = 128, HEAD = 512 };

/* The lines of one scan, onto text. */
static size_t scan_text(const hole_plan *p, double hour, char *text)
{
    int sgra = !strcmp(p->source, "sgra");
    double ra = sgra ? 17.761122472222223 : 12.51373;
    double dec = (sgra ? -28.992189444444445 : 12.39112) * PI / 180;
    double gmst = 6.697374558 + 0.06570982441908 * (p->mjd - 51544.5) + 1.00273790935 * hour;
    double theta = (fmod(gmst, 24) - ra) * PI / 12, at[HOLE_STATIONS][3];
    int seen[HOLE_STATIONS];
    size_t n = 0;
    for (int i = 0; i < HOLE_STATIONS; i++) {
        turn(ranked(p->array, i), theta, at[i]);
        seen[i] = sees(at[i], dec);
    }
    for (int i = 0; i < HOLE_STATIONS; i++)
        for (int k = i + 1; k < HOLE_STATIONS; k++) {
            const station *a = ranked(p->array, i), *b = ranked(p->array, k);
            double x = at[i][0] - at[k][0], y = at[i][1] - at[k][1], z = at[i][2] - at[k][2];
            if (seen[i] && seen[k])
                n += (size_t)snprintf(text + n, MOST_LINE, "%.15g %s %s %.15g %.15g %.15g\n",
                                      hour, a->name, b->name, y / WAVELENGTH,
                                      (-x * di_sin(dec) + z * di_cos(dec)) / WAVELENGTH,
                                      thermal(sefd(p->array, a), sefd(p->array, b), p->tau));
        }
    return n;
}

di_status hole_text(di_ctx *ctx, const hole_plan *p, char **text)
{
    const int pairs = HOLE_STATIONS * (HOLE_STATIONS - 1) / 2;
    char *s = malloc(HEAD + (size_t)p->scans * pairs * MOST_LINE);
    *text = s;
    if (!s)
        return di_fail(ctx, DI_EMEMORY, "no memory for %d scans", p->scans);
    size_t n = (size_t)snprintf(s, HEAD, "# time (h UT), station 1, station 2, u, v "
                                "(wavelengths), sigma (Jy)\n# %s with the array %s, MJD %g, "
                                "230 GHz, 2 GHz wide, %g s a scan\n", p->source, p->array,
                                p->mjd, p->tau), head = n;
    for (int i = 0; i < p->scans; i++)
        n += scan_text(p, p->start + i * p->every, s + n);
    if (n > head)
        return DI_OK;
    free(s);
    *text = NULL;
    return di_fail(ctx, DI_EUSAGE, "no two stations see %s in %d scans from %g h UT: give "
                   "another start or more scans", p->source, p->scans, p->start);
}

/* ==== Coverage from text ================================================================= */

void hole_free(hole_uv *uv)
{
    free(uv->row);
    free(uv->triangle);
    free(uv->quadrangle);
    memset(uv, 0, sizeof *uv);
}

static int find_station(const char *array, const char *name, size_t len)
{
    for (int i = 0; i < HOLE_STATIONS; i++) {
        const char *s = hole_station(array, i);
        if (strlen(s) == len && !strncmp(s, name, len))
            return i;
    }
    return -1;
}

static di_status unknown_station(di_ctx *ctx, const char *path, int line, const char *name,
                                 size_t len)
{
    char known[96] = "", word[24];
    for (int i = 0; i < HOLE_STATIONS; i++) {
        strcat(known, i ? " " : "");
        strcat(known, stations[i].name);
    }
    snprintf(word, sizeof word, "%.*s", (int)(len < 20 ? len : 20), name);
    return di_fail(ctx, DI_EINPUT, "%s:%d: no station is named '%s': the array has %s", path,
                   line, word, known);
}

/* One line of six words into the next row. */
static di_status read_line(di_ctx *ctx, const char *path, int line, const char *s, size_t len,
                           hole_uv *uv)
{
    static const char *const name[6] = {"the time", NULL, NULL, "u", "v", "sigma"};
    hole_row *r = &uv->row[uv->rows], *last = uv->rows ? r - 1 : NULL;
    double value[6] = {0, 0, 0, 0, 0, 0};
    const char *end = s + len;
    int words = 0, rank[6] = {0, 0, 0, 0, 0, 0};
    for (;; words++) {
        while (s < end && (*s == ' ' || *s == '\t' || *s == '\r'))
            s++;
        size_t n = 0;
        while (s + n < end && s[n] != ' ' && s[n] != '\t' && s[n] != '\r')
            n++;
        if (!n || words == 6)
            break;
        if (name[words] && di_parse(s, n, &value[words]))
            return di_fail(ctx, DI_EINPUT, "%s:%d: %s, '%.*s', is not a number of at most 15 "
                           "digits", path, line, name[words], (int)(n < 24 ? n : 24), s);
        if (!name[words]) {
            rank[words] = find_station(uv->array, s, n);
            if (rank[words] < 0)
                return unknown_station(ctx, path, line, s, n);
        }
        s += n;
    }
    if (words != 6 || s < end)
        return di_fail(ctx, DI_EINPUT, "%s:%d: a line is TIME STATION STATION U V SIGMA, six "
                       "words", path, line);
    if (!(value[5] > 0))
        return di_fail(ctx, DI_EINPUT, "%s:%d: sigma is %g: thermal noise is positive, in Jy",
                       path, line, value[5]);
    if (last && value[0] < last->time)
        return di_fail(ctx, DI_EINPUT, "%s:%d: the time goes back from %g to %g: sort the "
                       "lines by time", path, line, last->time, value[0]);
    if (rank[1] == rank[2])
        return di_fail(ctx, DI_EINPUT, "%s:%d: a baseline joins two stations, not %s and %s",
                       path, line, hole_station(uv->array, rank[1]),
                       hole_station(uv->array, rank[2]));
    hole_row row = {value[0], value[3], value[4], value[5], 0, rank[1], rank[2], line};
    row.scan = !last ? 0 : last->scan + (value[0] > last->time);
    *r = row;
    uv->rows++;
    return DI_OK;
}

static di_status read_text(di_ctx *ctx, const char *path, const char *text, size_t len,
                           hole_uv *uv)
{
    size_t lines = 1;
    if (strlen(text) != len)
        return di_fail(ctx, DI_EINPUT, "%s: a byte of 0 at %zu: it is no text", path,
                       strlen(text));
    for (const char *s = text; *s; s++)
        lines += *s == '\n';
    if (lines > 1 << 16)
        return di_fail(ctx, DI_EINPUT, "%s: %zu lines: at most 65536", path, lines);
    uv->row = calloc(lines, sizeof *uv->row);
    if (!uv->row)
        return di_fail(ctx, DI_EMEMORY, "%s: no memory for %zu lines", path, lines);
    int line = 0;
    for (const char *s = text; *s; ) {
        size_t n = strcspn(s, "\n"), blank = strspn(s, " \t\r");
        line++;
        if (blank < n && s[blank] != '#' && read_line(ctx, path, line, s, n, uv))
            return ctx->status;
        s += n + (s[n] == '\n');
    }
    if (!uv->rows)
        return di_fail(ctx, DI_EINPUT, "%s: no baseline in it: a line is TIME STATION STATION "
                       "U V SIGMA", path);
    uv->scans = uv->row[uv->rows - 1].scan + 1;
    return DI_OK;
}

/* ==== Closures ==============================================================================

   Of the stations of a scan, by rank s_0, s_1, ...: the triangles (s_0, s_i, s_j), i < j, and
   for i >= 3, 1 <= j < i the quadrangles (s_0, s_i, s_j, s_k), k = j + 1, but 1 for j = i - 1.
   Those that lack a baseline are left out. */

typedef struct one_scan {
    int baseline[HOLE_STATIONS][HOLE_STATIONS]; /* k+1, -(k+1) backwards, 0: none */
    int s[HOLE_STATIONS], n;
} one_scan;

/* The scan that begins with row *at, which moves to the next one's first row. */
static di_status scan_open(di_ctx *ctx, const char *path, const hole_uv *uv, int *at,
                           one_scan *c)
{
    int here[HOLE_STATIONS] = {0}, number = uv->row[*at].scan;
    memset(c, 0, sizeof *c);
    for (; *at < uv->rows && uv->row[*at].scan == number; ++*at) {
        const hole_row *r = &uv->row[*at];
        if (c->baseline[r->a][r->b])
            return di_fail(ctx, DI_EINPUT, "%s:%d: baseline %s %s a second time at %g h", path,
                           r->line, hole_station(uv->array, r->a),
                           hole_station(uv->array, r->b), r->time);
        c->baseline[r->a][r->b] = *at + 1;
        c->baseline[r->b][r->a] = -(*at + 1);
        here[r->a] = here[r->b] = 1;
    }
    for (int i = 0; i < HOLE_STATIONS; i++)
        if (here[i])
            c->s[c->n++] = i;
    return DI_OK;
}

static void scan_triangles(const one_scan *c, hole_uv *uv)
{
    for (int i = 1; i < c->n; i++)
        for (int j = i + 1; j < c->n; j++) {
            int a = c->s[0], b = c->s[i], d = c->s[j];
            int *t = uv->triangle + 3 * uv->tri;
            t[0] = c->baseline[a][b];
            t[1] = c->baseline[b][d];
            t[2] = c->baseline[d][a];
            uv->tri += t[0] && t[1] && t[2];
        }
}

static void scan_quadrangles(const one_scan *c, hole_uv *uv)
{
    for (int i = 3; i < c->n; i++)
        for (int j = 1; j < i; j++) {
            int one = c->s[0], two = c->s[i], three = c->s[j];
            int four = c->s[j == i - 1 ? 1 : j + 1], all = 1;
            int side[4] = {c->baseline[one][two], c->baseline[three][four],
                           c->baseline[one][four], c->baseline[two][three]};
            for (int k = 0; k < 4; k++) {
                uv->quadrangle[4 * uv->quad + k] = (side[k] < 0 ? -side[k] : side[k]) - 1;
                all = all && side[k];
            }
            uv->quad += all;
        }
}

static di_status find_closures(di_ctx *ctx, const char *path, hole_uv *uv)
{
    size_t most = (size_t)uv->scans * HOLE_STATIONS * HOLE_STATIONS;
    uv->triangle = calloc(most, 3 * sizeof *uv->triangle);
    uv->quadrangle = calloc(most, 4 * sizeof *uv->quadrangle);
    if (!uv->triangle || !uv->quadrangle)
        return di_fail(ctx, DI_EMEMORY, "%s: no memory for its closures", path);
    for (int at = 0; at < uv->rows; ) {
        one_scan c;
        if (scan_open(ctx, path, uv, &at, &c))
            return ctx->status;
        scan_triangles(&c, uv);
        scan_quadrangles(&c, uv);
    }
    return DI_OK;
}

/* A baseline in no closure says nothing to a loss that leaves amplitudes out. */
static di_status check_used(di_ctx *ctx, const char *path, const hole_uv *uv)
{
    char *used = calloc((size_t)uv->rows, 1);
    if (!used)
        return di_fail(ctx, DI_EMEMORY, "%s: no memory for its baselines", path);
    for (int k = 0; k < 3 * uv->tri; k++)
        used[abs(uv->triangle[k]) - 1] = 1;
    for (int k = 0; k < 4 * uv->quad; k++)
        used[uv->quadrangle[k]] = 1;
    int i = 0;
    while (i < uv->rows && used[i])
        i++;
    free(used);
    if (i == uv->rows)
        return DI_OK;
    const hole_row *r = &uv->row[i];
    return di_fail(ctx, DI_EINPUT, "%s:%d: baseline %s %s is in no triangle and no quadrangle "
                   "at %g h, so nothing uses it: remove the line, or weigh amplitudes "
                   "(weights=1,1,1,0.5)", path, r->line, hole_station(uv->array, r->a),
                   hole_station(uv->array, r->b), r->time);
}

/* "0,1,1,0.5" */
static di_status read_weights(di_ctx *ctx, const make_spec *spec, double weight[4])
{
    const char *s = make_get(spec, "weights");
    for (int k = 0; k < 4; k++) {
        size_t n = strcspn(s, ",");
        if (di_parse(s, n, &weight[k]) || !(weight[k] >= 0 && weight[k] <= 1e6) ||
            (k < 3) != (s[n] == ','))
            return di_fail(ctx, DI_EUSAGE, "problem blackhole: weights=%s: give four numbers "
                           "from 0, such as 0,1,1,0.5: amplitudes, closure phases, log closure "
                           "amplitudes, flux", make_get(spec, "weights"));
        s += n + (s[n] == ',');
    }
    return DI_OK;
}

di_status hole_open(di_ctx *ctx, const make_spec *spec, hole_uv *uv)
{
    const char *path = make_get(spec, "uv");
    double weight[4], share = make_number(spec, "share");
    char *text = NULL, err[400];
    size_t len;
    memset(uv, 0, sizeof *uv);
    snprintf(uv->array, sizeof uv->array, "%s", make_get(spec, "array"));
    if (read_weights(ctx, spec, weight))
        return ctx->status;
    if (*path) {
        int code = io_read_text(path, &text, &len, 1 << 24, err, sizeof err);
        if (code)
            return di_fail(ctx, (di_status)code, "%s", err);
    } else {
        hole_plan plan = HOLE_PLAN;
        plan.array = uv->array;
        path = "the built-in coverage";
        if (hole_text(ctx, &plan, &text))
            return ctx->status;
        len = strlen(text);
    }
    di_status s = read_text(ctx, path, text, len, uv);
    free(text);
    int scans = (int)(uv->scans * share * (1 + 1e-15));
    if (!s && !scans)
        s = di_fail(ctx, DI_EUSAGE, "problem blackhole: share=%s of %d scans is none",
                    make_get(spec, "share"), uv->scans);
    while (!s && uv->row[uv->rows - 1].scan >= scans)
        uv->rows--;
    uv->scans = scans;
    if (!s)
        s = find_closures(ctx, path, uv);
    if (!s && weight[0] == 0)
        s = check_used(ctx, path, uv);
    return s;
}

/* ==== The problem ======================================================================== */

static di_status problem_hole(di_ctx *ctx, const make_spec *spec, int c, int h, int w,
                              di_problem **problem)
{
    int size = (int)make_number(spec, "size");
    double jy = make_number(spec, "jy"), micro = PI / 180 / 3600e6;
    hole_uv uv;
    if (c != 1 || h != size || w != size)
        return di_fail(ctx, DI_EINPUT, "problem blackhole sees pictures of 1x%dx%d (channels, "
                       "height, width), not %dx%dx%d: give such a one, or size=%s", size, size,
                       c, h, w, c == 1 && h == w ? "its side" : "and a grey square");
    if (hole_open(ctx, spec, &uv)) {
        hole_free(&uv);
        return ctx->status;
    }
    double *number = malloc(3 * (size_t)uv.rows * sizeof *number);
    di_hole o = {uv.rows, uv.tri, uv.quad, make_number(spec, "fov") * micro / size, number,
                 number + 2 * uv.rows, uv.triangle, uv.quadrangle, {0, 0, 0, 0}};
    for (int i = 0; number && i < uv.rows; i++) {
        number[2 * i] = uv.row[i].u;
        number[2 * i + 1] = uv.row[i].v;
        number[2 * uv.rows + i] = uv.row[i].sigma / jy;
    }
    di_status s = number ? read_weights(ctx, spec, o.weight) :
                  di_fail(ctx, DI_EMEMORY, "no memory for %d baselines", uv.rows);
    if (!s)
        s = di_problem_blackhole(ctx, h, w, &o, problem);
    free(number);
    hole_free(&uv);
    return s;
}

static di_status hole_image(di_ctx *ctx, const make_spec *spec, const int y[3], int x[3])
{
    (void)ctx;
    (void)y;
    x[0] = 1;
    x[1] = x[2] = (int)make_number(spec, "size");
    return DI_OK;
}

/* ==== Noise =================================================================================

   Draws of sample k in the measurement stream:
     0  thermal: real and imaginary part of baseline i are elements 2i, 2i+1 (eht, vis_thermal);
        of amplitude, closure phase, log closure amplitude in turn (gaussian)
     1  c_s, the gain error of station s that stays      (eht)
     2  e_st, the one of scan t, element 8 t + s          (eht)
     3  phi_st, uniform, bits of element 8 t + s          (eht) */

enum { THERMAL, STATION, SCAN, PHASE };

typedef struct noise {
    uint64_t seed;
    size_t sample;
    const hole_uv *uv;
    di_real *thermal, *fixed, *passing; /* (2m), (8), (8 scans) */
    double *v, *sigma;                  /* (m,2), (m) */
} noise;

static void thermal_noise(noise *o)
{
    int m = o->uv->rows;
    di_normal(o->thermal, 2 * (size_t)m, o->seed, DI_STREAM_MEASURE, o->sample, THERMAL);
    for (int i = 0; i < 2 * m; i++)
        o->v[i] += o->sigma[i / 2] * o->thermal[i];
}

/* |(1 + 0.1 c)(1 + 0.1 e)| */
static double gain(const noise *o, int scan, int s)
{
    return fabs((1 + 0.1 * (double)o->fixed[s]) *
                (1 + 0.1 * (double)o->passing[HOLE_STATIONS * scan + s]));
}

static double phase(const noise *o, int scan, int s)
{
    uint32_t bits = di_bits((size_t)(HOLE_STATIONS * scan + s), o->seed, DI_STREAM_MEASURE,
                            o->sample, PHASE);
    return 2 * PI * (bits / 4294967296.0);
}

/* V and sigma times sqrt(G_1 G_2), V turned by phi_2 - phi_1. */
static void station_noise(noise *o)
{
    size_t all = (size_t)HOLE_STATIONS * (size_t)o->uv->scans;
    di_normal(o->fixed, HOLE_STATIONS, o->seed, DI_STREAM_MEASURE, o->sample, STATION);
    di_normal(o->passing, all, o->seed, DI_STREAM_MEASURE, o->sample, SCAN);
    for (int i = 0; i < o->uv->rows; i++) {
        const hole_row *r = &o->uv->row[i];
        double g = sqrt(gain(o, r->scan, r->a) * gain(o, r->scan, r->b));
        double turn_by = phase(o, r->scan, r->b) - phase(o, r->scan, r->a);
        double c = g * di_cos(turn_by), s = g * di_sin(turn_by), *v = o->v + 2 * i, re = v[0];
        v[0] = re * c - v[1] * s;
        v[1] = re * s + v[1] * c;
        o->sigma[i] *= g;
    }
}

static int upwards(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The flux as the program estimates it: the median of |V| between ALMA and APEX, which stand
   2.6 km apart and do not resolve the source. */
static di_status short_flux(di_ctx *ctx, const noise *o, double *flux)
{
    int alma = find_station(o->uv->array, "ALMA", 4), n = 0;
    int apex = find_station(o->uv->array, "APEX", 4);
    double *amp = malloc((size_t)o->uv->rows * sizeof *amp);
    if (!amp)
        return di_fail(ctx, DI_EMEMORY, "no memory for the flux");
    for (int i = 0; i < o->uv->rows; i++) {
        const hole_row *r = &o->uv->row[i];
        const double *v = o->v + 2 * i;
        if ((r->a == alma && r->b == apex) || (r->a == apex && r->b == alma))
            amp[n++] = sqrt(v[0] * v[0] + v[1] * v[1]);
    }
    qsort(amp, (size_t)n, sizeof *amp, upwards);
    if (n)
        *flux = (amp[(n - 1) / 2] + amp[n / 2]) / 2;
    free(amp);
    if (n)
        return DI_OK;
    return di_fail(ctx, DI_EINPUT, "problem blackhole: noise=eht takes the flux from the "
                   "baseline ALMA APEX, which the coverage lacks: give noise=vis_thermal");
}

static void entry_noise(const noise *o, di_real *y)
{
    int part[3] = {o->uv->rows, o->uv->tri, o->uv->quad};
    for (int k = 0; k < 3; k++) {
        di_normal(o->thermal, (size_t)part[k], o->seed, DI_STREAM_MEASURE, o->sample,
                  (uint32_t)k);
        for (int i = 0; i < part[k]; i++)
            y[i] += y[part[k] + i] * o->thermal[i];
        y += 2 * part[k];
    }
}

/* y = what is measured of x, in the program's words: eht (thermal noise, then gains and phases
   of the stations), vis_thermal (the first alone), gaussian (independent noise on amplitudes
   and closures), none. Theirs clips x to [-1,1] for eht; ours takes it as it is. */
static di_status hole_measure(di_ctx *ctx, const make_spec *spec, const di_problem *p,
                              uint64_t seed, size_t sample, const di_real *x, di_real *y)
{
    const char *kind = make_get(spec, "noise");
    int eht = !strcmp(kind, "eht"), thermally = eht || !strcmp(kind, "vis_thermal");
    hole_uv uv;
    di_status s = hole_open(ctx, spec, &uv);
    size_t m = (size_t)uv.rows, all = 2 * m + HOLE_STATIONS * (size_t)(uv.scans + 1);
    size_t most = all > (size_t)uv.tri + (size_t)uv.quad ? all : (size_t)(uv.tri + uv.quad);
    noise o = {seed, sample, &uv, malloc(most * sizeof *o.thermal), NULL, NULL,
               malloc(3 * m * sizeof *o.v), NULL};
    if (!s && (!o.thermal || !o.v))
        s = di_fail(ctx, DI_EMEMORY, "no memory for the noise");
    if (!s) {
        double flux = di_hole_vis(p, x, o.v);
        o.fixed = o.thermal + 2 * m;
        o.passing = o.fixed + HOLE_STATIONS;
        o.sigma = o.v + 2 * m;
        for (size_t i = 0; i < m; i++)
            o.sigma[i] = uv.row[i].sigma / make_number(spec, "jy");
        if (thermally)
            thermal_noise(&o);
        if (eht)
            station_noise(&o);
        if (eht)
            s = short_flux(ctx, &o, &flux);
        di_hole_measure(p, o.v, o.sigma, flux, y);
        if (!s && !strcmp(kind, "gaussian"))
            entry_noise(&o, y);
    }
    free(o.thermal);
    free(o.v);
    hole_free(&uv);
    return s;
}

/* Sigmas divide: those of a measurement from elsewhere could be anything. */
static di_status hole_check(di_ctx *ctx, const make_spec *spec, const di_problem *p,
                            const char *path, const io_array *y)
{
    size_t m = (size_t)p->y[2];
    hole_uv uv;
    di_status s = hole_open(ctx, spec, &uv);
    int part[3] = {uv.rows, uv.tri, uv.quad};
    static const char *const name[3] = {"amplitude", "closure phase", "log closure amplitude"};
    for (size_t n = 0; !s && n < y->n; n++) {
        const di_real *v = y->v + n * m;
        if (!di_finite(v, m))
            s = di_fail(ctx, DI_EINPUT, "%s holds NaN or infinity", path);
        for (int k = 0; !s && k < 3; v += 2 * part[k], k++)
            for (int i = 0; !s && i < part[k]; i++)
                if (!(v[part[k] + i] > 0))
                    s = di_fail(ctx, DI_EINPUT, "%s: the sigma of %s %d is %g; it is positive",
                                path, name[k], i + 1, (double)v[part[k] + i]);
    }
    hole_free(&uv);
    return s;
}

const make_kind make_blackhole = {
    "blackhole", "black-hole imaging: closures of telescopes' visibilities",
    "exact derivative", 0, 0, problem_hole, hole_image, NULL,
    {{"uv", "", "a text file", "TIME STATION STATION U V SIGMA; none: 15 scans of M87, 189 "
      "baselines"},
     {"array", "m87", "m87|eht2017", "SEFDs, which rank the stations (eht-imaging's arrays)"},
     {"share", "1", "0.01..1", "of the scans, the first ones (InverseBench)"},
     {"fov", "160", "1..100000", "side of the picture in micro-arcseconds"},
     {"jy", "0.004", "1e-9..1e9", "Jy of a pixel of value 1"},
     {"noise", "eht", "eht|vis_thermal|gaussian|none", "InverseBench's kinds; eht: thermal, "
      "gains 10 %, phases"},
     {"weights", "0,1,1,0.5", "A,P,L,F", "of the loss: amplitude, phase, log amplitude, flux"},
     {"size", "64", "2..1024 int", "side of the picture in pixels"}}};

const make_extra make_extra_blackhole = {"blackhole", 1, hole_measure, hole_check};
