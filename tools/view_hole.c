/* view_hole.c - pictures of black holes and of coverages, see view_hole.h */
#define DIFFINV_KERNELS
#include "view_hole.h"
#include "make_hole.h"

#include <math.h>
#include <string.h>

/* p in [0,1] as the light of a glowing body: red first, then green, then blue. */
static void heat(double p, di_real rgb[3])
{
    p = !(p > 0) ? 0 : p > 1 ? 1 : p;
    for (int k = 0; k < 3; k++) {
        double v = k == 0 ? 2 * p : k == 1 ? 2 * p - 0.5 : 2 * p - 1;
        v = v < 0 ? 0 : v > 1 ? 1 : v;
        rgb[k] = (di_real)(2 * v - 1);
    }
}

static int heat_maps(di_ctx *ctx, const io_array *a, io_array *out)
{
    enum { SIDE = 256 };
    size_t plane = a->h * a->w, side = a->h > a->w ? a->h : a->w;
    size_t zoom = side && side < SIDE ? SIDE / side : 1;
    io_array colour;
    if (io_make(&colour, a->n, 3, a->h, a->w))
        return di_fail(ctx, DI_EMEMORY, "no memory for the view");
    colour.picture = 1;
    for (size_t i = 0; i < a->n * plane; i++) {
        di_real rgb[3];
        heat(((double)a->v[i] + 1) / 2, rgb);
        for (size_t k = 0; k < 3; k++)
            colour.v[(i / plane * 3 + k) * plane + i % plane] = rgb[k];
    }
    while (zoom > 1 && a->n * side * zoom > 4096)
        zoom--;
    int code = io_grid(out, &colour, zoom, zoom);
    io_free(&colour);
    out->picture = 1;
    return code ? (int)di_fail(ctx, DI_EMEMORY, "no memory for the view") : 0;
}

/* ==== The plane of baselines ============================================================= */

enum { PLANE = 513, RADIUS = 3 };

static void dot(io_array *out, double row, double column, const di_real rgb[3])
{
    for (int i = -RADIUS; i <= RADIUS; i++)
        for (int j = -RADIUS; j <= RADIUS; j++) {
            long r = (long)floor(row + 0.5) + i, c = (long)floor(column + 0.5) + j;
            if (i * i + j * j > RADIUS * RADIUS || r < 0 || c < 0 || r >= PLANE || c >= PLANE)
                continue;
            for (int k = 0; k < 3; k++)
                out->v[(k * PLANE + r) * PLANE + c] = rgb[k];
        }
}

/* Axes and circles, grey, a pixel wide; scale: pixels a wavelength. */
static void draw_frame(io_array *out, double scale)
{
    for (long i = 0; i < (long)PLANE * PLANE; i++) {
        double r = (double)(i / PLANE - PLANE / 2), c = (double)(i % PLANE - PLANE / 2);
        double rings = sqrt(r * r + c * c) / (2e9 * scale);
        int on = r == 0 || c == 0 ||
                 (rings > 0.5 && fabs(rings - floor(rings + 0.5)) * 2e9 * scale < 0.5);
        for (int k = 0; k < 3; k++)
            out->v[k * (long)PLANE * PLANE + i] = (di_real)(on ? -0.55 : -0.85);
    }
}

static int coverage(di_ctx *ctx, const make_spec *spec, const io_array *y, io_array *out)
{
    hole_uv uv;
    int code = hole_open(ctx, spec, &uv);
    if (!code && y->w != 2 * ((size_t)uv.rows + (size_t)uv.tri + (size_t)uv.quad) + 1)
        code = di_fail(ctx, DI_EINPUT, "a measurement of %zu values is not one of this "
                       "coverage, which has %d", y->w, 2 * (uv.rows + uv.tri + uv.quad) + 1);
    if (!code && io_make(out, 1, 3, PLANE, PLANE))
        code = di_fail(ctx, DI_EMEMORY, "no memory for the view");
    if (code) {
        hole_free(&uv);
        return code;
    }
    double most = 1, flux = fabs((double)y->v[y->w - 1]);
    for (int i = 0; i < uv.rows; i++) {
        double u = fabs(uv.row[i].u), v = fabs(uv.row[i].v);
        most = u > most ? u : most;
        most = v > most ? v : most;
    }
    double scale = (PLANE / 2 - 4 * RADIUS) / most;
    draw_frame(out, scale);
    for (int i = 0; i < uv.rows; i++) {
        double share = flux > 0 ? fabs((double)y->v[i]) / flux : 0, bright = 0.25;
        if (share > 0)
            bright += 0.75 * di_exp(di_log(share) / 3);
        di_real rgb[3];
        heat(bright, rgb);
        for (int side = -1; side <= 1; side += 2)
            dot(out, PLANE / 2 - side * scale * uv.row[i].v,
                PLANE / 2 - side * scale * uv.row[i].u, rgb);
    }
    out->picture = 1;
    hole_free(&uv);
    return 0;
}

int view_blackhole(di_ctx *ctx, const make_spec *spec, const io_array *a, io_array *out)
{
    memset(out, 0, sizeof *out);
    if (a->c == 1 && a->h > 1)
        return heat_maps(ctx, a, out);
    if (a->c == 1 && a->n)
        return coverage(ctx, spec, a, out);
    return di_fail(ctx, DI_EINPUT, "%zux%zux%zu is neither a picture of a black hole nor a "
                   "measurement", a->c, a->h, a->w);
}
