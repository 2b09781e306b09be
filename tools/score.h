/* score.h - how good a picture is in the terms of its problem.
 *
 * Black hole, as InverseBench reports it (p = clip((x+1)/2, 0, 1)):
 *
 *   chi2_cp, chi2_lca   of the picture brought to the measurement's flux; c < 1 becomes 1/c
 *   psnr_aligned        the best PSNR of 30x30 shifts of the picture, within half of its side
 *   psnr_fwhm0..20      of the picture so shifted, it and the truth blurred by a Gaussian of 0,
 *                       10, 15, 20 micro-arcseconds at half height
 *
 * PSNR is piq's, at most 80 dB. The shifts are steps of 1.09 pixels on 64 and 0 is not among
 * them, so even the truth scores 31 or so. A trap: InverseBench prints the first four of these
 * five PSNRs under the names psnr, f=10, f=15, f=20, so what it calls f=10 is not blurred, its
 * f=15 is 10, its f=20 is 15. Ours are named by what they are.
 *
 * Fluid: field_error = |x - truth| / |truth| of the field at the start. MRI: psnr_magnitude, of
 * |x| and |truth|, the data range the greatest |truth|. */
#ifndef SCORE_H
#define SCORE_H

#include "make.h"

enum { HOLE_PSNRS = 5 };

/* x, truth (h,w) in [-1,1]; pixel: side in micro-arcseconds. 0 or IO_MEMORY. */
int score_hole_psnr(const di_real *x, const di_real *truth, size_t h, size_t w, double pixel,
                    double psnr[HOLE_PSNRS]);
/* The two reported chi-squares; IO_MEMORY or 0. x of the problem's size. */
int score_hole_chi2(const di_problem *p, const di_real *x, const di_real *y, double chi2[2]);

/* For any problem: columns that its results have beside the usual ones. */
enum { SCORE_MOST = 8 };
typedef struct scores {
    int n;
    const char *name[SCORE_MOST];
    int least[SCORE_MOST];          /* the best of several is the least */
    double v[SCORE_MOST];
} scores;
/* y and its problem p, or truth, may be NULL: their columns are then missing. 0, or an exit
 * code, said in the context. */
int score_of(di_ctx *ctx, const make_spec *spec, const di_problem *p, const di_real *x,
             const di_real *y, const di_real *truth, scores *s);
/* The best of each column so far, as InverseBench reports several samples; at first n = 0. */
void score_best(scores *best, const scores *s);

#endif
