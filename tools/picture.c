/* picture.c - metrics, resizing, and sheets of pictures; see picture.h. */
#include "picture.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------
 * Metrics. Formulas and conventions are those of piq and scikit-image, as published results use
 * them. A NaN in an image gives a NaN, never a good mark.
 * ------------------------------------------------------------------------------------------ */

/* [-1,1] to [0,1], clipped; NaN stays */
static double unit(di_real x)
{
    double p = ((double)x + 1.0) / 2.0;
    return p < 0.0 ? 0.0 : p > 1.0 ? 1.0 : p;
}

static double mean_square(const di_real *x, const di_real *ref, size_t count)
{
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        double d = unit(x[i]) - unit(ref[i]);
        sum += d * d;
    }
    return sum / (double)count;
}

double pic_psnr_piq(const di_real *x, const di_real *ref, size_t count)
{
    return -10.0 * log10(mean_square(x, ref, count) + 1e-8);
}

double pic_relative_l2(const di_real *x, const di_real *ref, size_t count)
{
    double above = 0.0, below = 0.0;
    for (size_t i = 0; i < count; i++) {
        double d = (double)x[i] - (double)ref[i];
        above += d * d;
        below += (double)ref[i] * (double)ref[i];
    }
    return above == 0.0 && below == 0.0 ? 0.0 : sqrt(above / below);
}

/* One channel (h,w) to [0,1], averaged over f x f blocks; the rest at the far edges is dropped.
 * out: (h/f, w/f). */
static void pooled(double *out, const di_real *x, size_t h, size_t w, size_t f)
{
    for (size_t i = 0; i < h / f; i++)
        for (size_t j = 0; j < w / f; j++) {
            double sum = 0.0;
            for (size_t y = 0; y < f; y++)
                for (size_t k = 0; k < f; k++)
                    sum += unit(x[(i * f + y) * w + j * f + k]);
            *out++ = sum / (double)(f * f);
        }
}

/* SSIM of two channels x, y (h,w) in [0,1], averaged over all windows that fit. weight: (win),
 * the separable window, sums to 1; factor: of the covariances; column: (5,w) scratch. */
static double ssim_channel(const double *x, const double *y, size_t h, size_t w,
                           const double *weight, size_t win, double factor, double *column)
{
    const double c1 = 0.01 * 0.01, c2 = 0.03 * 0.03;
    double total = 0.0;
    for (size_t i = 0; i + win <= h; i++) {
        for (size_t j = 0; j < w; j++) {
            double m[5] = {0.0, 0.0, 0.0, 0.0, 0.0};
            for (size_t k = 0; k < win; k++) {
                double a = x[(i + k) * w + j], b = y[(i + k) * w + j], g = weight[k];
                m[0] += g * a;
                m[1] += g * b;
                m[2] += g * (a * a);
                m[3] += g * (b * b);
                m[4] += g * (a * b);
            }
            for (size_t q = 0; q < 5; q++)
                column[q * w + j] = m[q];
        }
        for (size_t j = 0; j + win <= w; j++) {
            double m[5] = {0.0, 0.0, 0.0, 0.0, 0.0};
            for (size_t q = 0; q < 5; q++)
                for (size_t k = 0; k < win; k++)
                    m[q] += weight[k] * column[q * w + j + k];
            double vx = factor * (m[2] - m[0] * m[0]), vy = factor * (m[3] - m[1] * m[1]);
            double vxy = factor * (m[4] - m[0] * m[1]);
            total += (2.0 * m[0] * m[1] + c1) * (2.0 * vxy + c2) /
                     ((m[0] * m[0] + m[1] * m[1] + c1) * (vx + vy + c2));
        }
    }
    return total / ((double)(h - win + 1) * (double)(w - win + 1));
}

/* Mean over channels; f: pooling. */
static double ssim(const di_real *x, const di_real *ref, size_t c, size_t h, size_t w, size_t f,
                   const double *weight, size_t win, double factor)
{
    size_t H = h / f, W = w / f;
    if (!c || H < win || W < win || H > SIZE_MAX / 64 / W)
        return NAN;
    double *a = malloc((2 * H * W + 5 * W) * sizeof *a), sum = 0.0;
    if (!a)
        return -HUGE_VAL;
    for (size_t k = 0; k < c; k++) {
        pooled(a, x + k * h * w, h, w, f);
        pooled(a + H * W, ref + k * h * w, h, w, f);
        sum += ssim_channel(a, a + H * W, H, W, weight, win, factor, a + 2 * H * W);
    }
    free(a);
    return sum / (double)c;
}

double pic_ssim_piq(const di_real *x, const di_real *ref, size_t c, size_t h, size_t w)
{
    /* exp(-k^2 / (2 1.5^2)) for k = 0..5, written out: libm's exp differs between systems */
    static const double gauss[6] = {1.0,
                                    0.80073740291680804,
                                    0.41111229050718745,
                                    0.13533528323661270,
                                    0.028565500784550377,
                                    0.0038659201394728076};
    double weight[11], sum = 0.0;
    for (int i = 0; i < 11; i++)
        sum += gauss[i < 5 ? 5 - i : i - 5];
    for (int i = 0; i < 11; i++)
        weight[i] = gauss[i < 5 ? 5 - i : i - 5] / sum;
    /* halves round to even, as Python's round does */
    double f = rint((double)(h < w ? h : w) / 256.0);
    return ssim(x, ref, c, h, w, f > 1.0 ? (size_t)f : 1, weight, 11, 1.0);
}

double pic_ssim(const di_real *x, const di_real *ref, size_t c, size_t h, size_t w)
{
    double weight[7];
    for (int i = 0; i < 7; i++)
        weight[i] = 1.0 / 7.0;
    return ssim(x, ref, c, h, w, 1, weight, 7, 49.0 / 48.0);
}

/* ------------------------------------------------------------------------------------------
 * Sizes: cubic resampling, one axis after the other, and the three ways to make an input fit.
 * ------------------------------------------------------------------------------------------ */

/* Keys' cubic with a = -1/2; zero from 2 on. */
static double keys(double t)
{
    t = fabs(t);
    if (t >= 2.0)
        return 0.0;
    return t < 1.0 ? (1.5 * t - 2.5) * t * t + 1.0 : ((-0.5 * t + 2.5) * t - 4.0) * t + 2.0;
}

/* in (lines, from, inner) to out (lines, to, inner). */
static int resample(double *out, size_t to, const double *in, size_t from, size_t lines,
                    size_t inner)
{
    double ratio = (double)from / (double)to, wide = ratio > 1.0 ? ratio : 1.0;
    size_t room = (size_t)ceil(4.0 * wide) + 3;
    double *weight = malloc(room * sizeof *weight);
    if (!weight)
        return IO_MEMORY;
    for (size_t i = 0; i < to; i++) {
        double centre = ((double)i + 0.5) * ratio - 0.5, sum = 0.0;
        ptrdiff_t first = (ptrdiff_t)floor(centre - 2.0 * wide);
        for (size_t k = 0; k < room; k++) {
            weight[k] = keys((centre - (double)(first + (ptrdiff_t)k)) / wide);
            sum += weight[k];
        }
        for (size_t line = 0; line < lines; line++)
            for (size_t j = 0; j < inner; j++) {
                double v = 0.0;
                for (size_t k = 0; k < room; k++) {
                    ptrdiff_t at = first + (ptrdiff_t)k, last = (ptrdiff_t)from - 1;
                    at = at < 0 ? 0 : at > last ? last : at;
                    v += weight[k] * in[(line * from + (size_t)at) * inner + j];
                }
                out[(line * to + i) * inner + j] = v / sum;
            }
    }
    free(weight);
    return 0;
}

int pic_bicubic(di_real *dst, size_t H, size_t W, const di_real *src, size_t h, size_t w,
                size_t c)
{
    size_t rows = h > H ? h : H, columns = w > W ? w : W;
    if (!H || !W || !h || !w || !c || rows > SIZE_MAX / 32 / columns / c)
        return IO_MEMORY;
    double *a = malloc(c * rows * columns * 2 * sizeof *a);
    if (!a)
        return IO_MEMORY;
    double *b = a + c * rows * columns;
    for (size_t i = 0; i < c * h * w; i++)
        a[i] = (double)src[i];
    int code = resample(b, W, a, w, c * h, 1);
    if (!code)
        code = resample(a, H, b, h, c, W);
    for (size_t i = 0; !code && i < c * H * W; i++)
        dst[i] = (di_real)a[i];
    free(a);
    return code;
}

/* Position i of an axis of n pixels that goes on mirrored at its edge pixels. */
static size_t mirrored(ptrdiff_t i, size_t n)
{
    if (n == 1)
        return 0;
    ptrdiff_t period = 2 * ((ptrdiff_t)n - 1), m = i % period;
    if (m < 0)
        m += period;
    return (size_t)(m < (ptrdiff_t)n ? m : period - m);
}

/* src (c,h,w) to dst (c,H,W), centred: a crop or a mirrored border, by which is larger. */
static void recentre(di_real *dst, size_t H, size_t W, const di_real *src, size_t h, size_t w,
                     size_t c)
{
    ptrdiff_t top = ((ptrdiff_t)h - (ptrdiff_t)H) / 2, left = ((ptrdiff_t)w - (ptrdiff_t)W) / 2;
    for (size_t k = 0; k < c; k++)
        for (size_t y = 0; y < H; y++)
            for (size_t x = 0; x < W; x++)
                *dst++ = src[(k * h + mirrored((ptrdiff_t)y + top, h)) * w +
                             mirrored((ptrdiff_t)x + left, w)];
}

/* Scales the picture until it covers HxW, then crops the middle: nothing is distorted. */
static int cover(di_real *to, size_t H, size_t W, const di_real *from, size_t h, size_t w,
                 size_t c)
{
    double tall = (double)H / (double)h, wide = (double)W / (double)w;
    size_t nh = tall >= wide ? H : (size_t)((double)h * wide + 0.5);
    size_t nw = tall >= wide ? (size_t)((double)w * tall + 0.5) : W;
    io_array big;
    int code = io_make(&big, 1, c, nh < H ? H : nh, nw < W ? W : nw);
    if (!code)
        code = pic_bicubic(big.v, big.h, big.w, from, h, w, c);
    if (!code)
        recentre(to, H, W, big.v, big.h, big.w, c);
    io_free(&big);
    return code;
}

static int fit_fail(int code, const char *advice, const io_array *a, size_t H, size_t W,
                    char *err, size_t errlen)
{
    if (err && errlen)
        snprintf(err, errlen, "the input is %zux%zu and %zux%zu is wanted: %s", a->h, a->w, H,
                 W, advice);
    return code;
}

int pic_fit(io_array *a, const char *how, size_t H, size_t W, char *err, size_t errlen)
{
    int crop = !strcmp(how, "crop"), pad = !strcmp(how, "pad");
    io_array b;
    if (!crop && !pad && strcmp(how, "resize") != 0)
        return fit_fail(1, "--fit must be crop, pad or resize", a, H, W, err, errlen);
    if (a->h == H && a->w == W)
        return 0;
    if (crop && (a->h < H || a->w < W))
        return fit_fail(IO_BAD, "too small to crop; use --fit pad or --fit resize", a, H, W,
                        err, errlen);
    if (pad && (a->h > H || a->w > W))
        return fit_fail(IO_BAD, "too large to pad; use --fit crop or --fit resize", a, H, W,
                        err, errlen);
    int code = io_make(&b, a->n, a->c, H, W);
    for (size_t i = 0; !code && i < a->n; i++) {
        const di_real *from = a->v + i * a->c * a->h * a->w;
        di_real *to = b.v + i * a->c * H * W;
        if (crop || pad)
            recentre(to, H, W, from, a->h, a->w, a->c);
        else
            code = cover(to, H, W, from, a->h, a->w, a->c);
    }
    if (code) {
        io_free(&b);
        return fit_fail(code, "not enough memory for that size", a, H, W, err, errlen);
    }
    b.picture = a->picture;
    for (size_t i = 0; b.picture && i < b.n * b.c * H * W; i++)
        b.v[i] = b.v[i] < -1 ? -1 : b.v[i] > 1 ? 1 : b.v[i];
    io_free(a);
    *a = b;
    return 0;
}

/* ------------------------------------------------------------------------------------------
 * Text. A 5x7 font for the printable ASCII characters; each glyph is seven rows from the top,
 * one base-32 digit (0-9, A-V) each, whose bits are the five columns from the left.
 * ------------------------------------------------------------------------------------------ */

static const char FONT[95][8] = {
    "0000000", "4444404", "AAA0000", "AAVAVAA", "4FKE5U4", "PQ248BJ", /* space ! " # $ % */
    "CIK8LID", "4480000", "2488842", "8422248", "0LEVEL0", "044V440", /* & ' ( ) * + */
    "0000C48", "000U000", "00000CC", "11248GG", "EHJLPHE", "4CK444V", /* , - . / 0 1 */
    "EH168GV", "EH161HE", "26AIV22", "VGU11HE", "68GUHHE", "VH12444", /* 2 3 4 5 6 7 */
    "EHHEHHE", "EHHF12C", "0CC0CC0", "0CC0C48", "248G842", "00V0V00", /* 8 9 : ; < = */
    "8421248", "EH12404", "EHNLNGF", "4AHHVHH", "UHHUHHU", "EHGGGHE", /* > ? @ A B C */
    "SIHHHIS", "VGGUGGV", "VGGUGGG", "EHGNHHF", "HHHVHHH", "E44444E", /* D E F G H I */
    "72222IC", "HIKOKIH", "GGGGGGV", "HRLLHHH", "HPPLJJH", "EHHHHHE", /* J K L M N O */
    "UHHUGGG", "EHHHLID", "UHHUKIH", "FGGE11U", "V444444", "HHHHHHE", /* P Q R S T U */
    "HHHHAA4", "HHHLLRH", "HHA4AHH", "HHA4444", "V1248GV", "E88888E", /* V W X Y Z [ */
    "GG84211", "E22222E", "4AH0000", "000000V", "8420000", "00E1FHF", /* \ ] ^ _ ` a */
    "GGUHHHU", "00FGGGF", "11FHHHF", "00EHVGF", "698S888", "0FHHF1E", /* b c d e f g */
    "GGUHHHH", "40C444E", "20622IC", "GGIKOKI", "C44444E", "00QLLLH", /* h i j k l m */
    "00UHHHH", "00EHHHE", "0UHHUGG", "0FHHF11", "00MPGGG", "00FGE1U", /* n o p q r s */
    "88U8896", "00HHHJD", "00HHHA4", "00HHLLA", "00HA4AH", "0HHF12C", /* t u v w x y */
    "00V248V", "688G886", "4444444", "C22122C", "009M000",            /* z { | } ~ */
};

/* Is the pixel of the glyph set? */
static int glyph_bit(unsigned char c, size_t row, size_t column)
{
    char digit = FONT[c >= 32 && c < 127 ? c - 32 : '?' - 32][row];
    int bits = digit <= '9' ? digit - '0' : digit - 'A' + 10;
    return bits >> (4 - column) & 1;
}

/* The next line of a text: at most `most` characters, broken at '\n' or else at the last space
 * that fits. Gives its end and moves *text behind it; NULL when the text is over. */
static const char *next_line(const char **text, size_t most)
{
    const char *p = *text, *space = NULL;
    size_t n = 0;
    if (!p || !*p)
        return NULL;
    for (; *p && *p != '\n'; p++) {
        /* UTF-8 continuation bytes take no place */
        if (((unsigned char)*p & 0xc0) == 0x80)
            continue;
        if (n == most)
            break;
        n++;
        if (*p == ' ')
            space = p;
    }
    if (*p && *p != '\n' && *p != ' ' && space && space > *text)
        p = space;
    *text = p + (*p == '\n' || *p == ' ');
    return p;
}

static size_t count_lines(const char *text, size_t most)
{
    size_t n = 0;
    while (next_line(&text, most))
        n++;
    return n;
}

enum { ADVANCE = 6, PITCH = 9 }; /* of one character, before enlargement */

static void set_pixel(io_array *out, size_t y, size_t x, di_real value)
{
    if (y < out->h && x < out->w)
        for (size_t k = 0; k < out->c; k++)
            out->v[(k * out->h + y) * out->w + x] = value;
}

/* Letters with a tail stand one row lower. */
static void draw_glyph(io_array *out, size_t y, size_t x, unsigned char c, size_t zoom,
                       di_real value)
{
    y += c && strchr("gpqy", c) ? zoom : 0;
    for (size_t i = 0; i < 7 * zoom; i++)
        for (size_t j = 0; j < 5 * zoom; j++)
            if (glyph_bit(c, i / zoom, j / zoom))
                set_pixel(out, y + i, x + j, value);
}

void pic_text(io_array *out, size_t y, size_t x, const char *text, size_t most, size_t zoom,
              di_real value)
{
    for (;; y += PITCH * zoom) {
        const char *p = text, *end = next_line(&text, most);
        size_t at = x;
        if (!end)
            return;
        for (; p < end; p++) {
            unsigned char c = (unsigned char)*p;
            if ((c & 0xc0) == 0x80)
                continue;
            draw_glyph(out, y, at, c, zoom, value);
            at += ADVANCE * zoom;
        }
    }
}

/* ------------------------------------------------------------------------------------------
 * Sheets. All pictures share one box; each is enlarged by the largest whole factor that fits
 * it, so that a measurement of 16x16 stands as large as the 64x64 picture beside it.
 * ------------------------------------------------------------------------------------------ */

enum { SIDE = 256, MARGIN = 8, NARROWEST = 96 };

static const di_real GROUND = (di_real)-0.85, LINE = (di_real)-0.6, CAPTION = (di_real)0.6,
                     HEADING = (di_real)0.9;

typedef struct {
    size_t box_h, box_w;       /* place for one picture */
    size_t column;             /* width of a column */
    size_t zoom;               /* of the text */
    size_t most, most_heading; /* characters in a line */
    size_t w, h;               /* of the sheet */
} layout;

/* Height of row r: heading, pictures, captions and the margin under them. */
static size_t row_height(const layout *g, const pic_cell *row, size_t columns,
                         const char *label, size_t *heading)
{
    size_t lines = 0, text = PITCH * g->zoom;
    for (size_t i = 0; i < columns; i++) {
        size_t n = row[i].caption ? count_lines(row[i].caption, g->most) : 0;
        if (n > lines)
            lines = n;
    }
    *heading = label ? count_lines(label, g->most_heading) * text : 0;
    return *heading + g->box_h + (lines ? lines * text + 2 * g->zoom : 0) + MARGIN;
}

static int sheet_layout(layout *g, const pic_cell *cells, size_t rows, size_t columns,
                        const char *const *labels)
{
    size_t largest, heading, limit = (size_t)1 << 28;
    memset(g, 0, sizeof *g);
    for (size_t i = 0; i < rows * columns; i++) {
        if (!cells[i].v)
            continue;
        g->box_h = cells[i].h > g->box_h ? cells[i].h : g->box_h;
        g->box_w = cells[i].w > g->box_w ? cells[i].w : g->box_w;
    }
    largest = g->box_h > g->box_w ? g->box_h : g->box_w;
    if (largest > 65536)
        return IO_MEMORY;
    size_t zoom = largest && largest < SIDE ? SIDE / largest : 1;
    g->box_h *= zoom;
    g->box_w *= zoom;
    g->column = g->box_w < NARROWEST ? NARROWEST : g->box_w;
    g->zoom = g->column >= 192 ? 2 : 1;
    g->w = MARGIN + columns * (g->column + MARGIN);
    g->most = g->column / (ADVANCE * g->zoom);
    g->most_heading = (g->w - 2 * MARGIN) / (ADVANCE * g->zoom);
    g->h = MARGIN;
    for (size_t r = 0; r < rows; r++) {
        g->h +=
            row_height(g, cells + r * columns, columns, labels ? labels[r] : NULL, &heading);
        if (g->h > limit / g->w)
            return IO_MEMORY;
    }
    return 0;
}

static void draw_picture(io_array *out, size_t y, size_t x, const pic_cell *cell,
                         const layout *g)
{
    size_t zoom =
        g->box_h / cell->h < g->box_w / cell->w ? g->box_h / cell->h : g->box_w / cell->w;
    size_t plane = cell->h * cell->w;
    y += (g->box_h - cell->h * zoom) / 2;
    x += (g->column - cell->w * zoom) / 2;
    for (size_t k = 0; k < out->c; k++)
        for (size_t i = 0; i < cell->h * zoom; i++)
            for (size_t j = 0; j < cell->w * zoom; j++) {
                di_real v =
                    cell->v[(cell->c == 1 ? 0 : k) * plane + i / zoom * cell->w + j / zoom];
                out->v[(k * out->h + y + i) * out->w + x + j] = !(v > -1) ? -1 : v > 1 ? 1 : v;
            }
}

/* Row r of the sheet, from y down; gives its height. */
static size_t draw_row(io_array *out, size_t y, size_t r, const pic_cell *row, size_t columns,
                       const char *label, const layout *g)
{
    size_t heading = 0, h = row_height(g, row, columns, label, &heading);
    for (size_t k = 0; r && k < g->w; k++)
        set_pixel(out, y - MARGIN / 2, k, LINE);
    if (label)
        pic_text(out, y, MARGIN, label, g->most_heading, g->zoom, HEADING);
    for (size_t i = 0; i < columns; i++) {
        size_t x = MARGIN + i * (g->column + MARGIN);
        for (size_t k = heading; i && k < h - MARGIN / 2; k++)
            set_pixel(out, y + k, x - MARGIN / 2, LINE);
        if (row[i].v)
            draw_picture(out, y + heading, x, &row[i], g);
        if (row[i].caption)
            pic_text(out, y + heading + g->box_h + 3 * g->zoom, x, row[i].caption, g->most,
                     g->zoom, CAPTION);
    }
    return h;
}

static int sheet_fail(int code, const char *what, char *err, size_t errlen)
{
    if (err && errlen)
        snprintf(err, errlen, "cannot make the sheet: %s", what);
    return code;
}

int pic_sheet(io_array *out, const pic_cell *cells, size_t rows, size_t columns,
              const char *const *labels, char *err, size_t errlen)
{
    layout g;
    size_t c = 1, y = MARGIN;
    memset(out, 0, sizeof *out);
    if (!rows || !columns || columns > 4096 || rows > 4096)
        return sheet_fail(IO_MEMORY, "it has no pictures, or too many", err, errlen);
    for (size_t i = 0; i < rows * columns; i++) {
        const pic_cell *cell = &cells[i];
        if (cell->v && ((cell->c != 1 && cell->c != 3) || !cell->h || !cell->w))
            return sheet_fail(IO_BAD, "a picture must have 1 or 3 channels; leave this one out",
                              err, errlen);
        if (cell->v && cell->c == 3)
            c = 3;
    }
    if (sheet_layout(&g, cells, rows, columns, labels) || io_make(out, 1, c, g.h, g.w))
        return sheet_fail(IO_MEMORY, "it would be too large; show fewer or smaller pictures",
                          err, errlen);
    out->picture = 1;
    for (size_t i = 0; i < c * g.h * g.w; i++)
        out->v[i] = GROUND;
    for (size_t r = 0; r < rows; r++)
        y += draw_row(out, y, r, cells + r * columns, columns, labels ? labels[r] : NULL, &g);
    return 0;
}

int pic_grid(io_array *out, const io_array *a)
{
    size_t largest = a->h > a->w ? a->h : a->w, columns = 1;
    while (columns < (a->n + columns - 1) / columns)
        columns++;
    size_t zoom = largest && largest < SIDE ? SIDE / largest : 1;
    /* many pictures share a screen */
    while (zoom > 1 && columns * largest * zoom > 8 * SIDE)
        zoom--;
    return io_grid(out, a, zoom, zoom > 1 ? zoom : 2);
}
