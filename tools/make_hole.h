/* make_hole.h - what telescopes measure of a black hole: stations, coverage, noise.
 *
 * A coverage is text, one line a baseline and scan, made by hole_text or by hand:
 *
 *     # comment
 *     TIME STATION1 STATION2 U V SIGMA
 *
 * TIME in hours (UT), ascending; lines of one time are one scan. U, V of the baseline STATION1
 * minus STATION2 in wavelengths. SIGMA > 0 in Jy, thermal noise of the real and of the
 * imaginary part of the visibility. Names are those of the station table (ALMA APEX PV LMT SMA
 * JCMT SMT SPT). Numbers have at most 15 digits. What the problem takes by default is such a
 * text too, so that a file of it measures the same bits. */
#ifndef MAKE_HOLE_H
#define MAKE_HOLE_H

#include "make.h"

enum { HOLE_STATIONS = 8 };

/* When the array looks at what: 15 scans of M87, 6 April 2017. */
typedef struct hole_plan {
    const char *array;      /* SEFDs: "m87", those of the M87 observation, or "eht2017" */
    const char *source;     /* "m87" or "sgra" */
    double mjd, start, every, tau; /* day; first scan and step, hours UT; seconds a scan */
    int scans;
} hole_plan;
#define HOLE_PLAN {"m87", "m87", 57850, 0.5, 0.5, 120, 15}

typedef struct hole_row {
    double time, u, v, sigma;
    int scan, a, b;         /* stations by rank, ascending SEFD */
    int line;               /* of the text */
} hole_row;
/* What an array sees and the closures it allows. */
typedef struct hole_uv {
    hole_row *row;
    int rows, scans;
    int *triangle, tri;     /* as in di_hole */
    int *quadrangle, quad;
    char array[16];         /* whose ranks */
} hole_uv;

const char *hole_station(const char *array, int rank);
/* The text of a plan's coverage, for the caller to free. */
di_status hole_text(di_ctx *ctx, const hole_plan *plan, char **text);
/* The coverage that problem `spec` says; free it with hole_free, after failures too. */
di_status hole_open(di_ctx *ctx, const make_spec *spec, hole_uv *uv);
void hole_free(hole_uv *uv);

#endif
