/* picture.h - how good a picture is, and pictures made of pictures.
 *
 * Metrics. x and ref are in [-1,1]; p = clip((x+1)/2, 0, 1) is what is compared, with data
 * range 1, all in double. Each takes one image (C,H,W) and gives one number; averages over
 * images are the caller's.
 *
 *   pic_psnr_piq     -10 log10(mse + 1e-8)       piq: DAPS, InverseBench; at most 80 dB
 *   di_psnr          -10 log10(mse)              skimage: DPS, DMPlug; the library's
 *   pic_ssim_piq     11x11 Gaussian, sigma 1.5, valid windows, population moments, after
 *                    average pooling by max(1, round(min(H,W)/256))
 *   pic_ssim         skimage's default: 7x7 uniform, sample covariance (49/48), valid windows
 *   pic_relative_l2  |x - ref| / |ref| on the values as they are, unclipped
 *
 * The two conventions differ by more than methods do: never mix them in one table.
 */
#ifndef PICTURE_H
#define PICTURE_H

#include <stddef.h>
#include "io.h"

double pic_psnr_piq(const di_real *x, const di_real *ref, size_t count);

/* x, ref: (c,h,w). NAN if the image (after pooling) is smaller than the window; -HUGE_VAL if
 * there is no memory. */
double pic_ssim_piq(const di_real *x, const di_real *ref, size_t c, size_t h, size_t w);
double pic_ssim(const di_real *x, const di_real *ref, size_t c, size_t h, size_t w);

/* 0 if both are zero, infinite if only ref is. */
double pic_relative_l2(const di_real *x, const di_real *ref, size_t count);

/* src (c,h,w) to dst (c,H,W): Keys' cubic with a = -1/2, pixel centres aligned, edges repeated,
 * the kernel widened by the ratio when shrinking. Values may overshoot. 0 or IO_MEMORY. */
int pic_bicubic(di_real *dst, size_t H, size_t W, const di_real *src, size_t h, size_t w,
                size_t c);

/* Brings every image of a to (H,W). how: "crop" cuts around the centre; "pad" surrounds with
 * the image mirrored at its edge pixels (again and again where one mirror image is not enough);
 * "resize" scales by pic_bicubic until the image covers (H,W), then crops the middle; clamped
 * to [-1,1] if a is a picture. 0, or an exit code with a line
 * in err; a is unchanged then. */
int pic_fit(io_array *a, const char *how, size_t H, size_t W, char *err, size_t errlen);

typedef struct {
    const di_real *v;       /* (c,h,w) in [-1,1], c = 1 or 3; NULL: an empty place */
    size_t c, h, w;
    const char *caption;    /* under the picture; '\n' breaks a line, NULL: none */
} pic_cell;

/* A sheet (1,C,H,W), C = 3 if any cell is in colour: rows x columns of pictures on a dark
 * ground, small ones enlarged by whole factors. labels: one heading above each row, or NULL, as
 * may be each of them. Text is ASCII; other characters are drawn as '?'. 0, or an exit code
 * with a line in err. */
int pic_sheet(io_array *out, const pic_cell *cells, size_t rows, size_t columns,
              const char *const *labels, char *err, size_t errlen);

/* Draws text (ASCII) with its upper left corner at (y,x), all channels alike; letters are 5x7
 * pixels in a field of 6x9, times zoom; lines break after `most` characters. Nothing is drawn
 * outside the picture. */
void pic_text(io_array *out, size_t y, size_t x, const char *text, size_t most, size_t zoom,
              di_real value);

/* The n pictures of a in one near-square picture, small ones enlarged. 0 or IO_MEMORY. */
int pic_grid(io_array *out, const io_array *a);

#endif
