/* view_flow.h - vorticity as a person wants to see it.
 *
 * a (n,1,h,w), fields or what was measured of them: maps from blue (negative, the fluid turns
 * clockwise) over white (0) to red, all on one scale that is symmetric about 0, the largest
 * value of any; side by side, small ones enlarged; as arrays, so x goes down and y right. Grey:
 * NaN and infinities. Makes *out, a picture in colour, for the caller to free; an exit
 * code otherwise, said in the context. */
#ifndef VIEW_FLOW_H
#define VIEW_FLOW_H

#include "make.h"

int view_vorticity(di_ctx *ctx, const make_spec *spec, const io_array *a, io_array *out);

#endif
