/* view_hole.h - a black hole, or what telescopes measured of it, as a person wants to see it.
 *
 * a of shape (n,1,size,size): heat maps, from black over red and yellow to white for x =
 * -1..1, side by side, small ones enlarged. a of the shape of measurements (1,1,m), the first
 * of them: the plane of baselines, east left and north up, with a dot at (u,v) and one at
 * (-u,-v) of each visibility, in the heat of its amplitude over the flux (cube root), and
 * circles every 2e9 wavelengths. Makes *out, a picture in colour, for the caller to free; an
 * exit code otherwise, said in the context. */
#ifndef VIEW_HOLE_H
#define VIEW_HOLE_H

#include "make.h"

int view_blackhole(di_ctx *ctx, const make_spec *spec, const io_array *a, io_array *out);

#endif
