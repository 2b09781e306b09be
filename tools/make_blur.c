/* make_blur.c - blur kernels, tilt fields and the problems of pictures, see make.h */
#define DIFFINV_KERNELS
#include "make.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double PI = 3.14159265358979323846;

/* ==== Motion kernels =======================================================================

   A shaking hand: the random path of LeviBorodenko/motionblur, which DPS, DAPS and DMPlug use,
   drawn at twice the size, softened, halved, and divided by its sum. Given the path, the bytes
   are those of that program with Pillow 9.4 (tests/vectors). The path's random numbers are our
   own: the generator's kernel stream, draw 0, in the order of use. */

typedef struct dice {
    uint64_t seed;
    size_t used;
    uint32_t draw;
} dice;

static double uniform(dice *d, double lo, double hi) /* never an end */
{
    uint32_t word = di_bits(d->used++, d->seed, DI_STREAM_KERNEL, 0, d->draw);
    return lo + (hi - lo) * (((double)word + 0.5) / 4294967296.0);
}

/* Beta(1,30) times c, given that it is below `most`: its distribution function inverted. The
   program draws again what is too long, which comes to the same. */
static double step_below(dice *d, double c, double most)
{
    double share = most < c ? 1 - di_exp(30 * di_log(1 - most / c)) : 1;
    return c * (1 - di_exp(di_log(1 - share * uniform(d, 0, 1)) / 30));
}

static double triangular(dice *d, double left, double mode, double right)
{
    double u = uniform(d, 0, 1), whole = right - left, first = mode - left;
    return u <= first / whole ? left + sqrt(u * first * whole)
                              : right - sqrt((1 - u) * (right - mode) * whole);
}

/* Beta(2,20): the second smallest of 21 uniform numbers. */
static double second_of_21(dice *d)
{
    double least = 2, second = 2;
    for (int i = 0; i < 21; i++) {
        double u = uniform(d, 0, 1);
        second = u < least ? least : u < second ? u : second;
        least = u < least ? u : least;
    }
    return second;
}

int make_motion_path(int size, double intensity, uint64_t pseed, double (*xy)[2], int most)
{
    const double eps = 0.1, diagonal = 2 * size * sqrt(2);
    dice d = {pseed, 0, 0};
    double length = 0.75 * diagonal * uniform(&d, 0, 1);
    length += 0.75 * diagonal * uniform(&d, 0, intensity * intensity);
    int n = 0;
    for (double sum = 0; sum < length && n < most; n++) {
        xy[n][0] = step_below(&d, (1 - intensity + eps) * diagonal, length);
        sum += xy[n][0];
    }
    double widest = uniform(&d, 0, intensity * PI), jitter = second_of_21(&d);
    double angle = uniform(&d, -widest, widest), x = 0, y = 0, mx = 0, my = 0;
    for (int i = 0; i < n; i++) {
        if (i) {
            double sign = angle < 0 ? -1 : 1;
            angle = sign * triangular(&d, 0, intensity * widest, widest + eps);
            if (uniform(&d, 0, 1) < jitter)
                angle = -angle;
        }
        double step = xy[i][0];
        xy[i][0] = x += step * di_cos(angle);
        xy[i][1] = y += step * di_sin(angle);
        mx += x / n;
        my += y / n;
    }
    double turn = uniform(&d, 0, PI), c = di_cos(turn), s = di_sin(turn);
    for (int i = 0; i < n; i++) {
        double u = xy[i][0] - mx, v = xy[i][1] - my;
        xy[i][0] = size + c * u - s * v;
        xy[i][1] = size + s * u + c * v;
    }
    return n;
}

static void dot(unsigned char *canvas, int side, int x, int y)
{
    if (x >= 0 && x < side && y >= 0 && y < side)
        canvas[y * side + x] = 255;
}

/* Bresenham's line from a to b without b; ties go along y. */
static void line(unsigned char *canvas, int side, int ax, int ay, int bx, int by)
{
    int dx = abs(bx - ax), dy = abs(by - ay), sx = bx < ax ? -1 : 1, sy = by < ay ? -1 : 1;
    int flat = dx > dy, along = flat ? dx : dy, across = flat ? dy : dx;
    int error = 2 * across - along;
    for (int i = 0; i < along; i++) {
        dot(canvas, side, ax, ay);
        if (error >= 0) {
            error -= 2 * along;
            ax += flat ? 0 : sx;
            ay += flat ? sy : 0;
        }
        error += 2 * across;
        ax += flat ? sx : 0;
        ay += flat ? 0 : sy;
    }
}

void make_motion_draw(unsigned char *canvas, int side, double (*xy)[2], int n)
{
    memset(canvas, 0, (size_t)side * (size_t)side);
    for (int i = 0; i + 1 < n; i++)
        line(canvas, side, (int)xy[i][0], (int)xy[i][1], (int)xy[i + 1][0], (int)xy[i + 1][1]);
    if (n > 0) /* the program draws nothing for a single vertex, and divides by 0 */
        dot(canvas, side, (int)xy[n - 1][0], (int)xy[n - 1][1]);
}

/* One pass of a box of 2r+1 pixels and a share of the next on either side, in whole numbers of
   2^-24; edges repeat. in, out: n bytes, `step` apart. */
static void box_pass(unsigned char *line_of, int n, size_t step, int r, uint32_t whole,
                     uint32_t part, unsigned char *work)
{
    for (int i = 0; i < n; i++)
        work[i] = line_of[(size_t)i * step];
    for (int i = 0; i < n; i++) {
        uint32_t sum = (uint32_t)1 << 23;
        for (int k = i - r - 1; k <= i + r + 1; k++) {
            uint32_t v = work[k < 0 ? 0 : k >= n ? n - 1 : k];
            sum += v * (k < i - r || k > i + r ? part : whole);
        }
        line_of[(size_t)i * step] = (unsigned char)(sum >> 24);
    }
}

/* A Gaussian of deviation `radius` made of three boxes each way, as Pillow makes it: box
   half-width l + a with variance radius^2/3. Its float rounding counts. */
void make_motion_soften(unsigned char *canvas, int side, int radius, unsigned char *work)
{
    if (!radius)
        return;
    float variance = (float)(radius * radius) / 3;
    double width = sqrt(12.0 * (double)variance + 1), l = floor((width - 1) / 2);
    double a = (2 * l + 1) * (l * (l + 1) - 3 * (double)variance) /
               (6 * ((double)variance - (l + 1) * (l + 1)));
    float half = (float)(l + a), all = half * 2 + 1;
    float share = 16777216.0f / all;
    uint32_t whole = (uint32_t)share;
    uint32_t part = (16777216u - (uint32_t)(2 * (int)half + 1) * whole) / 2;
    for (int axis = 0; axis < 2; axis++)
        for (int pass = 0; pass < 3; pass++)
            for (int i = 0; i < side; i++)
                box_pass(canvas + (axis ? (size_t)i : (size_t)i * (size_t)side), side,
                         axis ? (size_t)side : 1, (int)half, whole, part, work);
}

/* sinc(t) sinc(t/3), |t| < 3 */
static double lanczos(double t)
{
    if (t == 0)
        return 1;
    return t > -3 && t < 3 ? 3 * di_sin(PI * t) * di_sin(PI * t / 3) / (PI * PI * t * t) : 0;
}

/* n numbers `from` apart to n/2, `to` apart: weights in whole numbers of 2^-22. */
static void halve_line(const unsigned char *in, size_t from, int n, unsigned char *out,
                       size_t to)
{
    for (int i = 0; i < n / 2; i++) {
        double c = 2 * (i + 0.5), weight[16], sum = 0;
        int lo = (int)(c - 6 + 0.5), hi = (int)(c + 6 + 0.5);
        lo = lo < 0 ? 0 : lo;
        hi = hi > n ? n : hi;
        for (int j = lo; j < hi; j++)
            sum += weight[j - lo] = lanczos((j + 0.5 - c) / 2);
        int total = 1 << 21;
        for (int j = lo; j < hi; j++) {
            double w = weight[j - lo] / sum * (1 << 22);
            total += (int)(w < 0 ? w - 0.5 : w + 0.5) * in[(size_t)j * from];
        }
        int v = total < 0 ? 0 : total >> 22;
        out[(size_t)i * to] = (unsigned char)(v > 255 ? 255 : v);
    }
}

void make_motion_halve(const unsigned char *canvas, int side, unsigned char *grey,
                       unsigned char *work)
{
    size_t half = (size_t)side / 2;
    for (size_t r = 0; r < (size_t)side; r++)
        halve_line(canvas + r * (size_t)side, 1, side, work + r * half, 1);
    for (size_t q = 0; q < half; q++)
        halve_line(work + q, half, side, grey + q, half);
}

int make_motion_grey(int size, double (*xy)[2], int n, unsigned char *grey)
{
    size_t side = 2 * (size_t)size;
    unsigned char *canvas = malloc(2 * side * side), *work = canvas + side * side;
    if (!canvas)
        return 1;
    make_motion_draw(canvas, (int)side, xy, n);
    make_motion_soften(canvas, (int)side, (int)(2 * size * sqrt(2) * 0.01), work);
    make_motion_halve(canvas, (int)side, grey, work);
    free(canvas);
    return 0;
}

/* kernel (size,size), its sum 1 */
static di_status motion_kernel(di_ctx *ctx, const char *name, int size, double intensity,
                               uint64_t pseed, di_real *kernel)
{
    enum { MOST = 8192 };
    size_t count = (size_t)size * (size_t)size;
    double (*xy)[2] = malloc(MOST * sizeof *xy), sum = 0;
    unsigned char *grey = malloc(count);
    int bad = !xy || !grey ||
              make_motion_grey(size, xy, make_motion_path(size, intensity, pseed, xy, MOST),
                               grey);
    for (size_t i = 0; !bad && i < count; i++)
        sum += grey[i];
    for (size_t i = 0; !bad && i < count; i++)
        kernel[i] = (di_real)(grey[i] / sum);
    free(xy);
    free(grey);
    if (bad)
        return di_fail(ctx, DI_EMEMORY, "no memory for a kernel of %dx%d", size, size);
    return sum > 0 ? DI_OK
                   : di_fail(ctx, DI_EUSAGE, "problem %s: the path of pseed=%llu leaves the "
                             "kernel of %dx%d empty: give another pseed", name,
                             (unsigned long long)pseed, size, size);
}

/* ==== Gaussian kernels ================================================================ */

/* tap (size): a delta at size/2 filtered by exp(-t^2/2std^2), |t| <= int(4 std + 1/2), sum 1,
   the edge pixel repeated by mirroring (SciPy's gaussian_filter). */
static void gauss_taps(double *tap, int size, double std)
{
    int reach = (int)(4 * std + 0.5);
    double sum = 0;
    memset(tap, 0, (size_t)size * sizeof *tap);
    for (int t = -reach; t <= reach; t++)
        sum += di_exp(-t * t / (2 * std * std));
    for (int t = -reach; t <= reach; t++) {
        int at = (size / 2 + t) % (2 * size);
        at = at < 0 ? at + 2 * size : at;
        tap[at < size ? at : 2 * size - 1 - at] += di_exp(-t * t / (2 * std * std)) / sum;
    }
}

enum { MOST_SIZE = 105 }; /* beyond, the program draws lines of two pixels */

static void gauss_kernel(int size, double std, di_real *kernel)
{
    double tap[MOST_SIZE];
    gauss_taps(tap, size, std);
    for (int i = 0; i < size * size; i++)
        kernel[i] = (di_real)(tap[i / size] * tap[i % size]);
}

/* ==== Kernels as they are asked for =================================================== */

typedef struct kernel {
    int h, w;
    di_real *v; /* (h,w), made with malloc */
} kernel;

/* A picture's greys, or an array's values, divided by their sum. */
static di_status kernel_values(di_ctx *ctx, const char *path, const io_array *a, kernel *k)
{
    size_t n = a->h * a->w;
    double sum = 0;
    k->v = malloc(n * sizeof *k->v);
    if (!k->v)
        return di_fail(ctx, DI_EMEMORY, "%s: no memory for the kernel", path);
    for (size_t i = 0; i < n; i++) {
        double v = a->picture ? ((double)a->v[i] + 1) / 2 : (double)a->v[i];
        for (size_t c = 1; c < a->c; c++)
            if (a->v[c * n + i] != a->v[i])
                return di_fail(ctx, DI_EINPUT, "%s: a kernel is grey, one channel: row %zu, "
                               "column %zu has several values", path, i / a->w, i % a->w);
        if (!(fabs(v) < HUGE_VAL))
            return di_fail(ctx, DI_EINPUT, "%s: the kernel holds NaN or infinity at row %zu, "
                           "column %zu", path, i / a->w, i % a->w);
        if (v < 0)
            return di_fail(ctx, DI_EINPUT, "%s: the kernel holds %g at row %zu, column %zu: a "
                           "blur kernel is not negative", path, v, i / a->w, i % a->w);
        k->v[i] = (di_real)v;
        sum += v;
    }
    if (!(sum > 0 && sum < HUGE_VAL))
        return di_fail(ctx, DI_EINPUT, "%s: the kernel sums to %g, so it cannot be divided by "
                       "its sum", path, sum);
    k->h = (int)a->h;
    k->w = (int)a->w;
    for (size_t i = 0; i < n; i++)
        k->v[i] = (di_real)((double)k->v[i] / sum);
    return DI_OK;
}

static di_status kernel_file(di_ctx *ctx, const make_spec *spec, int h, int w, kernel *k)
{
    const char *path = make_get(spec, "kernel");
    io_array a;
    char err[400];
    int code = io_read(&a, path, err, sizeof err);
    if (code)
        return di_fail(ctx, (di_status)code, "problem %s: kernel=%s is neither motion nor "
                       "gaussian: %s", spec->kind->name, path, err);
    di_status s = DI_OK;
    if (a.n != 1)
        s = di_fail(ctx, DI_EINPUT, "%s holds %zu pictures: a kernel is one", path, a.n);
    else if (a.h > (size_t)h || a.w > (size_t)w)
        s = di_fail(ctx, DI_EINPUT, "problem %s: the kernel %s of %zux%zu is larger than the "
                    "image of %dx%d: give a smaller one", spec->kind->name, path, a.h, a.w, h,
                    w);
    else
        s = kernel_values(ctx, path, &a, k);
    io_free(&a);
    return s;
}

/* The kernel of a spec for images of h x w: motion, gaussian or a file. k->v is to be freed,
   also after a failure. centred: an even size is refused. */
static di_status kernel_make(di_ctx *ctx, const make_spec *spec, int h, int w, int centred,
                             kernel *k)
{
    const char *what = make_get(spec, "kernel"), *name = spec->kind->name;
    int size = (int)make_number(spec, "size"), least = h < w ? h : w;
    uint64_t pseed = 0;
    k->v = NULL;
    if (strcmp(what, "motion") && strcmp(what, "gaussian"))
        return kernel_file(ctx, spec, h, w, k);
    if (centred && size % 2 == 0)
        return di_fail(ctx, DI_EUSAGE, "problem %s: size=%d is even: give %d or %d", name, size,
                       size - 1, size + 1);
    if (size > least)
        return di_fail(ctx, DI_EUSAGE, "problem %s: a kernel of size=%d is larger than the "
                       "image of %dx%d: give size=%d or less", name, size, h, w,
                       centred && least % 2 == 0 ? least - 1 : least);
    make_u64(make_get(spec, "pseed"), &pseed);
    k->h = k->w = size;
    k->v = malloc((size_t)size * (size_t)size * sizeof *k->v);
    if (!k->v)
        return di_fail(ctx, DI_EMEMORY, "no memory for a kernel of %dx%d", size, size);
    if (!strcmp(what, "motion"))
        return motion_kernel(ctx, name, size, make_number(spec, "intensity"), pseed, k->v);
    gauss_kernel(size, make_number(spec, "std"), k->v);
    return DI_OK;
}

/* ==== Tilt fields ==========================================================================

   DMPlug's: 500 square patches, each of two fields of smoothed normals, added up. There a patch
   is 64 of 256 pixels; here a quarter of the shorter side, so any size has the same overlap and
   the same tilt in pixels. Draws: kernel stream, draw 1 (places, strengths) and draw 2
   (normals, sample = patch). */

static const double MOST_TILT = 2.5;
enum { PATCHES = 500, SMOOTH = 7 };

/* out (side,side) = normal smoothed by the 7x7 Gaussian of deviation 1, zeros outside */
static void smooth(const di_real *normal, int side, double *work, double *out)
{
    double tap[SMOOTH];
    gauss_taps(tap, SMOOTH, 1);
    for (int axis = 0; axis < 2; axis++)
        for (int i = 0; i < side * side; i++) {
            double sum = 0;
            for (int t = 0; t < SMOOTH; t++) {
                int r = i / side + (axis ? t - SMOOTH / 2 : 0);
                int q = i % side + (axis ? 0 : t - SMOOTH / 2);
                if (r >= 0 && r < side && q >= 0 && q < side)
                    sum += tap[t] * (axis ? work[r * side + q]
                                          : (double)normal[r * side + q]);
            }
            (axis ? out : work)[i] = sum;
        }
}

int make_tilt_patch(double *tilt, int h, int w, int half, int row, int col, double strength,
                    const di_real *normal)
{
    int side = 2 * half;
    size_t n = (size_t)side * (size_t)side;
    double *work = malloc(2 * n * sizeof *work);
    if (!work)
        return 1;
    for (size_t k = 0; k < 2; k++) {
        smooth(normal + k * n, side, work, work + n);
        for (int i = 0; i < side * side; i++)
            tilt[(k * (size_t)h + (size_t)(row - half + i / side)) * (size_t)w +
                 (size_t)(col - half + i % side)] += strength * work[n + (size_t)i];
    }
    free(work);
    return 0;
}

/* tilt (2,h,w) in pixels, sides of at least 8 */
static di_status tilt_make(di_ctx *ctx, int h, int w, double strength, uint64_t pseed,
                           di_real *tilt)
{
    int half = (h < w ? h : w) / 8;
    size_t n = 2 * (size_t)h * (size_t)w, m = 8 * (size_t)half * (size_t)half;
    double *sum = calloc(n, sizeof *sum);
    di_real *normal = malloc(m * sizeof *normal);
    dice d = {pseed, 0, 1};
    int bad = !sum || !normal;
    for (int i = 0; !bad && i < PATCHES; i++) {
        int row = half + (int)uniform(&d, 0, h - 2 * half);
        int col = half + (int)uniform(&d, 0, w - 2 * half);
        double s = strength * uniform(&d, 0.1, 0.4);
        di_normal(normal, m, pseed, DI_STREAM_KERNEL, (uint64_t)i, 2);
        bad = make_tilt_patch(sum, h, w, half, row, col, s, normal);
    }
    for (size_t i = 0; !bad && i < n; i++)
        tilt[i] = (di_real)(sum[i] < -MOST_TILT ? -MOST_TILT : sum[i] > MOST_TILT ? MOST_TILT
                                                                               : sum[i]);
    free(sum);
    free(normal);
    return bad ? di_fail(ctx, DI_EMEMORY, "no memory for a tilt field of %dx%d", h, w) : DI_OK;
}

/* ==== The problems ==================================================================== */

static di_status problem_motion(di_ctx *ctx, const make_spec *spec, int c, int h, int w,
                                di_problem **problem)
{
    kernel k;
    di_status s = kernel_make(ctx, spec, h, w, 1, &k);
    if (!s)
        s = di_problem_blur(ctx, c, h, w, k.h, k.w, k.v, DI_BORDER_REFLECT, problem);
    if (!s)
        (*problem)->name = spec->kind->name;
    free(k.v);
    return s;
}

static di_status problem_nlblur(di_ctx *ctx, const make_spec *spec, int c, int h, int w,
                                di_problem **problem)
{
    kernel k;
    di_status s = kernel_make(ctx, spec, h, w, 1, &k);
    if (!s)
        s = di_problem_nlblur(ctx, c, h, w, k.h, k.w, k.v, problem);
    free(k.v);
    return s;
}

static di_status problem_blind(di_ctx *ctx, const make_spec *spec, int c, int h, int w,
                               di_problem **problem)
{
    kernel k;
    di_status s = kernel_make(ctx, spec, h, w, 0, &k);
    if (!s)
        s = di_problem_blind(ctx, c, h, w, k.h, k.w, k.v, problem);
    free(k.v);
    return s;
}

static di_status problem_turbulence(di_ctx *ctx, const make_spec *spec, int c, int h, int w,
                                    di_problem **problem)
{
    kernel k;
    uint64_t pseed = 0;
    if (h < 8 || w < 8)
        return di_fail(ctx, DI_EINPUT, "problem turbulence: an image of %dx%d is too small for "
                       "a tilt field: at least 8x8", h, w);
    make_u64(make_get(spec, "pseed"), &pseed);
    di_real *tilt = malloc(2 * (size_t)h * (size_t)w * sizeof *tilt);
    di_status s = kernel_make(ctx, spec, h, w, 0, &k);
    if (!s && !tilt)
        s = di_fail(ctx, DI_EMEMORY, "no memory for a tilt field of %dx%d", h, w);
    if (!s)
        s = tilt_make(ctx, h, w, make_number(spec, "strength"), pseed, tilt);
    if (!s)
        s = di_problem_turbulence(ctx, c, h, w, k.h, k.w, k.v, tilt, problem);
    free(k.v);
    free(tilt);
    return s;
}

static di_status problem_hdr(di_ctx *ctx, const make_spec *spec, int c, int h, int w,
                             di_problem **problem)
{
    return di_problem_hdr(ctx, c, h, w, make_number(spec, "scale"), problem);
}

static di_status three_channels(di_ctx *ctx, const make_spec *spec, int c)
{
    return c == 3 ? DI_OK
                  : di_fail(ctx, DI_EINPUT, "problem %s is about colours: it needs 3 channels, "
                            "the image has %d", spec->kind->name, c);
}

static di_status problem_colorize(di_ctx *ctx, const make_spec *spec, int c, int h, int w,
                                  di_problem **problem)
{
    di_status s = three_channels(ctx, spec, c);
    return s ? s : di_problem_colorize(ctx, h, w, problem);
}

static di_status colorize_image(di_ctx *ctx, const make_spec *spec, const int y[3], int x[3])
{
    (void)spec;
    if (y[0] != 1)
        return di_fail(ctx, DI_EINPUT, "problem colorize measures 1 channel, this measurement "
                       "has %d: measure the picture again", y[0]);
    x[0] = 3;
    return DI_OK;
}

static di_status problem_jpeg(di_ctx *ctx, const make_spec *spec, int c, int h, int w,
                              di_problem **problem)
{
    di_status s = three_channels(ctx, spec, c);
    if (!s && (h % 16 || w % 16))
        s = di_fail(ctx, DI_EINPUT, "problem jpeg: %dx%d has no whole blocks, its sides must "
                    "be multiples of 16: give --size and --fit crop|pad|resize", h, w);
    return s ? s : di_problem_jpeg(ctx, h, w, (int)make_number(spec, "quality"), problem);
}

#define KERNEL(word, size, from) \
    {"kernel", word, "motion, gaussian or a file (NPY or a picture)", \
     "a file's values are divided by their sum"}, \
    {"size", size, "3..105 int", "side of the kernel, of motion and gaussian (" from ")"}, \
    {"intensity", "0.5", "0.01..1", "of motion: straight to winding (DPS)"}, \
    {"std", "3", "0.1..25", "of gaussian, in pixels (DPS)"}, MAKE_PSEED

const make_kind make_motion = {
    "motion", "motion blur, reflect-101 border", "exact adjoint", 0, 0, problem_motion, NULL,
    make_image_noise, {KERNEL("motion", "61", "DPS; odd"), MAKE_SIGMA, MAKE_NOISE}};
const make_kind make_nlblur = {
    "nlblur", "blur of light: y = 2 (K p^2.2)^(1/2.2) - 1, p = (x+1)/2", "exact", 0, 0,
    problem_nlblur, NULL, make_image_noise,
    {KERNEL("motion", "15", "ours; odd"), MAKE_SIGMA, MAKE_NOISE}};
const make_kind make_blind = {
    "blind", "blind deblurring, zeros outside; unknown kernel", "exact, to x and to the kernel",
    0, 0, problem_blind, NULL, make_image_noise,
    {KERNEL("gaussian", "64", "DMPlug"), MAKE_SIGMA_OF("0.01"), MAKE_NOISE}};
const make_kind make_turbulence = {
    "turbulence", "tilt, then blur; both unknown", "exact, to x, to kernel and tilt", 0, 0,
    problem_turbulence, NULL, make_image_noise,
    {{"strength", "1", "0..10", "of the tilt, which is at most 2.5 pixels (DMPlug)"},
     KERNEL("gaussian", "64", "DMPlug"), MAKE_SIGMA_OF("0.01"), MAKE_NOISE}};
const make_kind make_hdr = {
    "hdr", "high dynamic range: y = clip(scale x, -1, 1)", "exact", 0, 0, problem_hdr, NULL,
    make_image_noise,
    {{"scale", "2", "0.01..100", "(RED-diff)"}, MAKE_SIGMA, MAKE_NOISE}};
const make_kind make_colorize = {
    "colorize", "colourisation: y = grey of x", "exact adjoint", 1, 1, problem_colorize,
    colorize_image, make_image_noise, {MAKE_SIGMA, MAKE_NOISE}};
const make_kind make_jpeg = {
    "jpeg", "JPEG compression, 4:2:0", "none (0 almost everywhere)", 0, 0, problem_jpeg, NULL,
    make_image_noise,
    {{"quality", "5", "1..100 int", "(CPS)"}, MAKE_SIGMA, MAKE_NOISE}};
