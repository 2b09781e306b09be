/* view_flow.c - vorticity as a person wants to see it, see view_flow.h */
#define DIFFINV_KERNELS
#include "view_flow.h"
#include "picture.h"

#include <math.h>

/* Colours of -1, -1/2, 0, 1/2, 1, linear between: equally dark on both sides. */
static const double stops[5][3] = {{-0.9, -0.7, -0.1}, {-0.45, 0.1, 0.7}, {0.93, 0.93, 0.93},
                                   {0.85, 0, -0.4}, {-0.05, -0.9, -0.7}};

static double colour(double t, int channel)
{
    double at = 2 * (t + 1);
    int i = at >= 4 ? 3 : (int)at;
    return stops[i][channel] + (at - i) * (stops[i + 1][channel] - stops[i][channel]);
}

int view_vorticity(di_ctx *ctx, const make_spec *spec, const io_array *a, io_array *out)
{
    io_array maps;
    double top = 0;
    size_t h = a->h, w = a->w, area = h * w;
    (void)spec;
    if (a->c != 1)
        return di_fail(ctx, DI_EINPUT, "vorticity has one channel, not %zu", a->c);
    for (size_t i = 0; i < a->n * area; i++) {
        double v = fabs((double)a->v[i]);
        top = v > top && v < HUGE_VAL ? v : top;
    }
    if (io_make(&maps, a->n, 3, h, w))
        return di_fail(ctx, DI_EMEMORY, "no memory for the view");
    maps.picture = 1;
    for (size_t i = 0; i < a->n * area; i++) {
        double v = (double)a->v[i];
        for (size_t k = 0; k < 3; k++)
            maps.v[(i / area * 3 + k) * area + i % area] =
                (di_real)(fabs(v) < HUGE_VAL ? colour(top > 0 ? v / top : 0, (int)k) : 0);
    }
    int failed = pic_grid(out, &maps);
    io_free(&maps);
    if (failed)
        return di_fail(ctx, DI_EMEMORY, "no memory for the view");
    out->picture = 1;
    return 0;
}
