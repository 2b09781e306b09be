/* ops.c: the numeric floor of diffinv. Maps with their derivatives beside them, random numbers,
   elementary functions, memory, the tape. Knows nothing of networks, images or files.

   Every result is the same bits for every compiler, instruction set and thread count:
   an output element is one accumulator filled in a fixed order; vector lanes are independent
   outputs; reductions follow one written order; multiply and add stay two roundings.

   This file is compiled once whole, and once more per further instruction set with
   -DDI_KERNELS_ONLY -DDI_ISA=name: then only chapters 1 to 4 remain. */
#define DIFFINV_KERNELS
#include "diffinv.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __FAST_MATH__
#error "diffinv must not be compiled with -ffast-math: results would differ between machines"
#endif
#if defined __FLT_EVAL_METHOD__ && __FLT_EVAL_METHOD__ != 0
#error "FLT_EVAL_METHOD must be 0: x86 -msse2 -mfpmath=sse, s390x -fexcess-precision=fast"
#endif
#if defined __i386__ && !defined __SSE2_MATH__
#error "diffinv needs SSE2 arithmetic on 32-bit x86: add -msse2 -mfpmath=sse"
#endif

#ifdef _OPENMP
#include <omp.h>
#define PARALLEL_FOR(threads) \
    DI_PRAGMA(omp parallel for schedule(dynamic) num_threads(threads) if ((threads) > 1))
#define DI_PRAGMA(x) _Pragma(#x)
#else
#define PARALLEL_FOR(threads) (void)(threads);
#endif

/* ==== 1. The vector type =====================================================================
   One vector of the target's width, or a scalar where the compiler has no vectors. Everything
   below is written once for both; only this chapter has two bodies. */

#ifdef DI_DOUBLE
typedef int64_t di_int;
#define REAL_BYTES 8
#else
typedef int32_t di_int;
#define REAL_BYTES 4
#endif

#if defined __GNUC__ && !defined __TINYC__ && !(defined __arm__ && !defined __aarch64__)
#if defined __AVX512F__
#define VECTOR_BYTES 64
#elif defined __AVX__
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#define LANES (VECTOR_BYTES / REAL_BYTES)
typedef di_real vec __attribute__((vector_size(VECTOR_BYTES), aligned(REAL_BYTES), may_alias));
typedef di_int ivec __attribute__((vector_size(VECTOR_BYTES), aligned(REAL_BYTES), may_alias));
#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#define UNROLL_SOME _Pragma("clang loop unroll_count(2)")
#define APART _Pragma("clang loop vectorize(assume_safety)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#define UNROLL_SOME _Pragma("GCC unroll 2")
#define APART _Pragma("GCC ivdep") /* the iterations of the loop are independent */
#endif
INLINE ivec bits(vec a) { return (ivec)a; }
INLINE vec from_bits(ivec a) { return (vec)a; }
INLINE vec vmax(vec a, vec b)
{
    ivec m = a < b;
    return (vec)((m & (ivec)b) | (~m & (ivec)a));
}
INLINE vec vmin(vec a, vec b)
{
    ivec m = a > b;
    return (vec)((m & (ivec)b) | (~m & (ivec)a));
}
INLINE vec set1(di_real a) { return a - (vec){0}; }
#if LANES == 2
#define LOW 0, 2
#define HIGH 1, 3
#elif LANES == 4
#define LOW 0, 4, 1, 5
#define HIGH 2, 6, 3, 7
#elif LANES == 8
#define LOW 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#endif
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){ __VA_ARGS__ })
#endif
INLINE vec interleave_low(vec a, vec b) { return SHUFFLE(a, b, LOW); } /* a0 b0 a1 b1 .. */
INLINE vec interleave_high(vec a, vec b) { return SHUFFLE(a, b, HIGH); }
#else
#define VECTOR_BYTES REAL_BYTES
#define LANES 1
typedef di_real vec;
typedef di_int ivec;
#define INLINE static inline
#define UNROLL
#define UNROLL_SOME
#define APART
INLINE ivec bits(vec a)
{
    union { vec f; ivec i; } u;
    u.f = a;
    return u.i;
}
INLINE vec from_bits(ivec a)
{
    union { vec f; ivec i; } u;
    u.i = a;
    return u.f;
}
INLINE vec vmax(vec a, vec b) { return a < b ? b : a; }
INLINE vec vmin(vec a, vec b) { return a > b ? b : a; }
INLINE vec set1(di_real a) { return a; }
INLINE vec interleave_low(vec a, vec b) { return (void)b, a; }
INLINE vec interleave_high(vec a, vec b) { return (void)a, b; }
#endif

#define VPB (16 / LANES) /* vectors in a block of 16 channels */
INLINE vec load(const di_real *p) { return *(const vec *)p; }
INLINE void store(di_real *p, vec a) { *(vec *)p = a; }

/* Output pixels of a tile, as many accumulators as the registers hold, and of a small one for
   what is left of a row. */
#if LANES == 1
#define TILE 1
#define SMALL 1
#elif VPB == 1
#define TILE 8
#define SMALL 4
#elif VPB == 2 && VECTOR_BYTES == 64
#define TILE 8
#define SMALL 4
#elif VPB == 2
#define TILE 6
#define SMALL 4
#elif defined __aarch64__
#define TILE 4
#define SMALL 2
#else
#define TILE 2
#define SMALL 2
#endif

/* ==== 2. Elementary functions on vectors ================================================== */

/* exp(x), x clamped to where the result is a normal number. 2^n e^r, |r| <= ln2/2, Taylor. */
INLINE vec vexp(vec x)
{
#ifdef DI_DOUBLE
    static const di_real coef[14] = { 1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0,
        1.0 / 3628800.0, 1.0 / 362880.0, 1.0 / 40320.0, 1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0,
        1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0 };
    const di_real lo = -708.0, hi = 709.0, magic = 6755399441055744.0;
    const di_real ln2h = 6.93147180369123816490e-01, ln2l = 1.90821492927058770002e-10;
    enum { TERMS = 14, BIAS = 1023, MANTISSA = 52 };
#else
    static const di_real coef[8] = { 1.0f / 5040.0f, 1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f,
        1.0f / 6.0f, 0.5f, 1.0f, 1.0f };
    const di_real lo = -87.0f, hi = 88.0f, magic = 12582912.0f;
    const di_real ln2h = 0.693359375f, ln2l = -2.12194440e-4f;
    enum { TERMS = 8, BIAS = 127, MANTISSA = 23 };
#endif
    const di_real log2e = (di_real)1.44269504088896340736;
    x = vmin(vmax(x, set1(lo)), set1(hi));
    vec z = x * log2e + magic;
    ivec n = bits(z) - bits(set1(magic));
    vec f = z - magic;
    vec r = (x - f * ln2h) - f * ln2l;
    vec p = set1(coef[0]);
    UNROLL
    for (int i = 1; i < TERMS; i++)
        p = p * r + coef[i];
    return p * from_bits((n + BIAS) << MANTISSA);
}

INLINE vec sigmoid(vec u) { return (di_real)1 / ((di_real)1 + vexp(-u)); }

/* ==== 3. Kernels =============================================================================
   On blocked planes [h+2][w+2][16]; `pitch` is w+2. Each states its map; _vjp kernels
   accumulate into gx where `acc` is set, else overwrite. Threads share out whole outputs. */

/* ---- 3.1 Rows of a norm: what a convolution does to its input and output on the way ---- */

/* q = f(A p + B), f = SiLU or identity, on w pixels of 16 channels. */
static void row_normalize(di_real *q, const di_real *p, const di_real *A, const di_real *B,
                          int w, int silu)
{
    vec a[VPB], b[VPB];
    for (int v = 0; v < VPB; v++) {
        a[v] = load(A + v * LANES);
        b[v] = load(B + v * LANES);
    }
    for (int j = 0; j < w; j++)
        for (int v = 0; v < VPB; v++, p += LANES, q += LANES) {
            vec u = load(p) * a[v] + b[v];
            if (silu)
                u *= sigmoid(u);
            store(q, u);
        }
}

/* s[0..15] = sum of p, s[16..31] = sum of p^2 by channel, ascending x, in double. */
static void row_sums(double *s, const di_real *p, int w)
{
    double sum[16] = { 0 }, square[16] = { 0 };
    for (int j = 0; j < w; j++, p += 16)
        for (int l = 0; l < 16; l++) {
            double v = p[l];
            sum[l] += v;
            square[l] += v * v;
        }
    memcpy(s, sum, sizeof sum);
    memcpy(s + 16, square, sizeof square);
}

/* g *= f'(A p + B); s[0..15] = sum of g, s[16..31] = sum of g p.
   f'(u) = s (1 + u (1-s)), s = sigmoid(u). */
static void row_norm_vjp(double *s, di_real *g, const di_real *p, const di_real *A,
                         const di_real *B, int w, int silu)
{
    double sum[16] = { 0 }, cross[16] = { 0 };
    for (int j = 0; j < w; j++, p += 16, g += 16) {
        for (int v = 0; silu && v < VPB; v++) {
            vec u = load(p + v * LANES) * load(A + v * LANES) + load(B + v * LANES);
            vec z = sigmoid(u);
            store(g + v * LANES, load(g + v * LANES) * (z * (1 + u * (1 - z))));
        }
        for (int l = 0; l < 16; l++) {
            sum[l] += g[l];
            cross[l] += (double)g[l] * p[l];
        }
    }
    memcpy(s, sum, sizeof sum);
    memcpy(s + 16, cross, sizeof cross);
}

/* ---- 3.2 The product: 95 % of a network's time ----

   Convolution as packed implicit matrix product.

     input block ib            weights of output block ob                 output block ob
     [h+2][w+2][16]            [ib][tap][16 in][16 out]                   [h+2][w+2][16]
        . . . . . . .
        . x x x x . .   tap     k=0: o0 o1 .. o15  -\                     TILE pixels x 16 out
        . x x x x . .  -----> * k=1: o0 o1 .. o15    >  accumulators ---> one register each
        . x x x x . .           ...                -/                     vector of LANES out
        . . . . . . .           k=15

   A tile of TILE neighbouring pixels times 16 output channels stays in registers; for every
   (ib, tap, k), ascending, one weight vector is loaded and TILE input scalars are broadcast
   against it. Few input blocks a pass keep their weights in L1 while a band of rows goes by;
   partial sums rest in the output between passes. A Winograd product is the same with one tap
   and transformed pixels. */

enum { FIRST = 1, LAST = 2 };  /* passes that start the sum, that finish it */

typedef struct product {
    const di_real *const *x;   /* [blocks] */
    const di_real *w;          /* [blocks][taps][16][16] */
    const ptrdiff_t *off;      /* [taps], of each tap from the pixel's first element */
    int blocks, taps, pass;
    const di_real *bias;       /* the last pass: scale * (sum + bias + add), if not NULL */
    di_real scale;
} product;

/* acc[p] += x[p] w: one input channel of every pixel against its row of weights. */
INLINE void product_step(vec acc[TILE][VPB], const int tile, const ptrdiff_t step,
                         const di_real *x, const di_real *w)
{
    vec wv[VPB];
    UNROLL
    for (int v = 0; v < VPB; v++)
        wv[v] = load(w + v * LANES);
    UNROLL
    for (int p = 0; p < tile; p++) {
        UNROLL
        for (int v = 0; v < VPB; v++)
            acc[p][v] += wv[v] * x[p * step];
    }
}

INLINE void product_tile(const int tile, const ptrdiff_t step, const int channels,
                         const product *a, ptrdiff_t at, di_real *y, const di_real *add)
{
    const di_real *w = a->w;
    vec acc[TILE][VPB];
    UNROLL
    for (int p = 0; p < tile; p++) {
        UNROLL
        for (int v = 0; v < VPB; v++)
            acc[p][v] = a->pass & FIRST ? set1(0) : load(y + p * 16 + v * LANES);
    }
    for (int b = 0; b < a->blocks; b++) {
        const di_real *block = a->x[b] + at;
        for (int t = 0; t < a->taps; t++, w += (16 - channels) * 16) {
            const di_real *x = block + a->off[t];
            UNROLL_SOME
            for (int k = 0; k < channels; k++, w += 16)
                product_step(acc, tile, step, x + k, w);
        }
    }
    UNROLL
    for (int p = 0; p < tile; p++) {
        UNROLL
        for (int v = 0; v < VPB; v++) {
            vec s = acc[p][v];
            if (a->pass & LAST) {
                if (a->bias)
                    s += load(a->bias + v * LANES);
                if (add)
                    s += load(add + p * 16 + v * LANES);
                s *= a->scale;
            }
            store(y + p * 16 + v * LANES, s);
        }
    }
}

/* A row of `count` pixels, `step` elements apart in x; channels: of each block, 16 unless
   there is but one block. */
static void product_row(const product *a, int count, ptrdiff_t step, int channels, ptrdiff_t at,
                        di_real *y, const di_real *add)
{
    int j = 0;
    if (step == 16 && channels == 16) { /* every offset a constant */
        for (; j + TILE <= count && count - j != 2 * SMALL; j += TILE)
            product_tile(TILE, 16, 16, a, at + j * 16, y + j * 16, add ? add + j * 16 : NULL);
        for (; j + SMALL <= count; j += SMALL)
            product_tile(SMALL, 16, 16, a, at + j * 16, y + j * 16, add ? add + j * 16 : NULL);
    } else {
        for (; j + SMALL <= count; j += SMALL)
            product_tile(SMALL, step, channels, a, at + j * step, y + j * 16,
                         add ? add + j * 16 : NULL);
    }
    for (; j < count; j++)
        product_tile(1, step, channels, a, at + j * step, y + j * 16,
                     add ? add + j * 16 : NULL);
}

/* ---- 3.3 Convolution ---- */

enum { L1_BLOCKS = 8 }; /* input blocks of one tap whose weights fit L1 */

/* y = scale * (W f(A x + B) + bias + add), or with acc y += W x. */
typedef struct conv_args {
    int n, ib, ob, h, w, taps;   /* 16-channel blocks in and out; output size */
    int last;                    /* channels in the last input block */
    ptrdiff_t off[9];            /* of each tap from the pixel's first */
    ptrdiff_t step, row;         /* input elements from one output pixel, row, to the next */
    const di_real *const *x;     /* [n*ib] planes */
    di_real *const *y;           /* [n*ob] planes */
    const di_real *weight, *bias;
    di_real *flipped;            /* room for the weights transposed and flipped: used instead */
    di_real *const *add;         /* [n*ob] planes added to the result, or NULL */
    di_real scale;               /* of everything, at the end */
    int acc;                     /* start from y's content instead of 0 */
    const di_real *A, *B;        /* [n*ib][16]: the input is f(A x + B); or NULL: x itself */
    int silu;
    double *sums;                /* [n*ob][h][32]: row_sums of y; or NULL */
    di_real *const *nx;          /* [n*ob] planes, or NULL: y is the gradient of */
    const di_real *nA, *nB;      /*   f(nA nx + nB), and sums are row_norm_vjp's */
    int nsilu;
    int rows;                    /* of a band */
    int threads, together;       /* together: threads share one image, not each a band */
    di_real *work;               /* scratch: a band of input each thread, or one image */
    size_t each;                 /* its elements a thread */
} conv_args;

static int thread_number(void)
{
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

/* w'[tap][k][o] = w[taps-1-tap][o][k] for one pair of blocks. */
static void flip_block(di_real *to, const di_real *from, int taps)
{
    for (int t = 0; t < taps; t++, to += 256) {
        const di_real *p = from + (size_t)(taps - 1 - t) * 256;
        for (int k = 0; k < 16; k++)
            for (int o = 0; o < 16; o++)
                to[k * 16 + o] = p[o * 16 + k];
    }
}

/* The weights from input block ib to output block ob, as packed for the forward pass. */
static const di_real *weight_block(const conv_args *a, int ob, int ib)
{
    size_t at = a->flipped ? (size_t)ib * a->ob + ob : (size_t)ob * a->ib + ib;
    return a->weight + at * a->taps * 256;
}

/* What follows a finished row r of output plane o, while it is in cache. */
static void finish_row(const conv_args *a, int o, int r)
{
    size_t at = ((size_t)(r + 1) * (a->w + 2) + 1) * 16;
    double *sums = a->sums + ((size_t)o * a->h + r) * 32;
    if (a->nx)
        row_norm_vjp(sums, a->y[o] + at, a->nx[o] + at, a->nA + o * 16, a->nB + o * 16, a->w,
                     a->nsilu);
    else
        row_sums(sums, a->y[o] + at, a->w);
}

/* to [r1-r0][w+2][16] = f(A x + B) of input rows r0.. of block b; outside the image +0. */
static void normalize_rows(const conv_args *a, int b, int r0, int r1, di_real *to)
{
    size_t pitch = (size_t)(a->w + 2) * 16;
    for (int r = r0; r < r1; r++, to += pitch)
        if (r < 0 || r >= a->h) {
            memset(to, 0, pitch * sizeof *to);
        } else {
            memset(to, 0, 16 * sizeof *to);
            row_normalize(to + 16, a->x[b] + (r + 1) * pitch + 16, a->A + b * 16, a->B + b * 16,
                          a->w, a->silu);
            memset(to + pitch - 16, 0, 16 * sizeof *to);
        }
}

/* Rows [r0,r1) of output block ob of image n. band: its input [ib][rows][w+2][16] beginning
   at row b0, `plane` elements a block; or NULL: x. */
static void conv_rows(const conv_args *a, int n, int ob, int r0, int r1, const di_real *band,
                      int b0, size_t plane)
{
    ptrdiff_t pitch = (ptrdiff_t)(a->w + 2) * 16;
    int o = n * a->ob + ob, per = a->taps == 1 ? L1_BLOCKS : 1;
    const di_real *x[L1_BLOCKS], *add = a->add ? a->add[o] : NULL;
    for (int ib = 0; ib < a->ib; ib += per) {
        product q;
        q.x = x;
        q.blocks = a->ib - ib < per ? a->ib - ib : per;
        q.w = a->flipped ? a->flipped + ((size_t)ob * a->ib + ib) * a->taps * 256
                         : weight_block(a, ob, ib);
        q.off = a->off;
        q.taps = a->taps;
        q.pass = (ib == 0 && !a->acc ? FIRST : 0) | (ib + per >= a->ib ? LAST : 0);
        q.bias = a->bias ? a->bias + ob * 16 : NULL;
        q.scale = a->scale;
        for (int b = 0; b < q.blocks; b++)
            x[b] = band ? band + (ib + b) * plane : a->x[n * a->ib + ib + b];
        for (int r = r0; r < r1; r++) {
            ptrdiff_t at = (r + 1) * pitch + 16;
            product_row(&q, a->w, a->step, q.blocks == 1 && ib == a->ib - 1 ? a->last : 16,
                        (r - b0) * a->row, a->y[o] + at, add ? add + at : NULL);
        }
    }
    for (int r = r0; a->sums && r < r1; r++)
        finish_row(a, o, r);
}

static void conv(const conv_args *a)
{
    int groups = (a->h + a->rows - 1) / a->rows, jobs = a->n * groups;
    size_t pitch = (size_t)(a->w + 2) * 16;
    if (a->flipped) {
        PARALLEL_FOR(a->threads)
        for (int b = 0; b < a->ob * a->ib; b++)
            flip_block(a->flipped + (size_t)b * a->taps * 256,
                       weight_block(a, b / a->ib, b % a->ib), a->taps);
    }
    if (!a->A) {
        PARALLEL_FOR(a->threads)
        for (int job = 0; job < jobs * a->ob; job++) {
            int r0 = job / a->ob % groups * a->rows, n = job / a->ob / groups;
            conv_rows(a, n, job % a->ob, r0, r0 + a->rows < a->h ? r0 + a->rows : a->h, NULL, 0,
                      0);
        }
    } else if (a->together) {
        size_t plane = (a->h + 2) * pitch;
        for (int n = 0; n < a->n; n++) {
            PARALLEL_FOR(a->threads)
            for (int b = 0; b < a->ib; b++)
                normalize_rows(a, n * a->ib + b, -1, a->h + 1, a->work + b * plane);
            PARALLEL_FOR(a->threads)
            for (int job = 0; job < groups * a->ob; job++) {
                int r0 = job / a->ob * a->rows;
                conv_rows(a, n, job % a->ob, r0, r0 + a->rows < a->h ? r0 + a->rows : a->h,
                          a->work, 0, plane);
            }
        }
    } else {
        size_t plane = (a->rows + 2) * pitch;
        PARALLEL_FOR(a->threads)
        for (int job = 0; job < jobs; job++) {
            int r0 = job % groups * a->rows, r1 = r0 + a->rows < a->h ? r0 + a->rows : a->h;
            di_real *band = a->work + thread_number() * a->each;
            for (int b = 0; b < a->ib; b++)
                normalize_rows(a, job / groups * a->ib + b, r0 - 1, r1 + 1, band + b * plane);
            for (int ob = 0; ob < a->ob; ob++)
                conv_rows(a, job / groups, ob, r0, r1, band, r0, plane);
        }
    }
}

/* ---- 3.4 Winograd convolution F(4x4, 3x3) (Lavin & Gray, arXiv 1509.09308): the fast class

     6x6 input tile d, every 4 pixels   V = B^T d B      [36][ic/16K][tile/TILE][K][TILE][16]
     weights                            U = G g G^T      [36][K][16][16], for 16 outputs
     36 products                        M = V U          [36][tile][16]
     4x4 output tile                    Y = A^T M A

   36 multiplications where the direct form takes 144. The work goes by chunks of rows of
   tiles: first all V, then for every 16 output channels U, M and Y, for K input blocks at a
   time so that U and M stay in L2; V is read from end to end. U is made anew for each chunk:
   that costs 2 % of the products and spares four times the weights in memory and in traffic.
   Each M is one accumulator over ic ascending. Size: h and w multiples of 4. */

enum { WINO_TILES = 128 }; /* wanted in a chunk: with L1_BLOCKS input blocks U and M fit L2 */

/* o = B^T i, o's elements dO apart. */
INLINE void wino_in1(const vec *i, vec *o, int dO)
{
    vec a = i[0], b = i[1], c = i[2], d = i[3], e = i[4], f = i[5];
    const di_real k4 = 4, k5 = 5, k2 = 2;
    vec p = e - c * k4, q = d - b * k4, r = e - c, s = (d - b) * k2;
    o[0] = (a * k4 - c * k5) + e;
    o[dO] = p + q;
    o[2 * dO] = p - q;
    o[3 * dO] = r + s;
    o[4 * dO] = r - s;
    o[5 * dO] = (b * k4 - d * k5) + f;
}

/* o = A^T i */
INLINE void wino_out1(const vec *i, vec *o, int dO)
{
    vec a = i[0], b = i[1], c = i[2], d = i[3], e = i[4], f = i[5];
    const di_real k2 = 2, k4 = 4, k8 = 8;
    vec p = b + c, q = b - c, r = d + e, s = d - e;
    o[0] = (a + p) + r;
    o[dO] = q + s * k2;
    o[2 * dO] = p + r * k4;
    o[3 * dO] = (q + s * k8) + f;
}

/* o = G i, G = (1/4 0 0; -1/6 (1 1 1); -1/6 (1 -1 1); 1/24 (1 2 4); 1/24 (1 -2 4); 0 0 1) */
INLINE void wino_weight1(const vec *i, vec *o, int dO)
{
    vec a = i[0], b = i[1], c = i[2];
    const di_real quarter = (di_real)0.25, sixth = (di_real)(-1.0 / 6), k4 = 4;
    const di_real k12 = (di_real)(1.0 / 12), k24 = (di_real)(1.0 / 24);
    vec p = (a + c) * sixth, q = b * sixth, r = (a + c * k4) * k24, s = b * k12;
    o[0] = a * quarter;
    o[dO] = p + q;
    o[2 * dO] = p - q;
    o[3 * dO] = r + s;
    o[4 * dO] = r - s;
    o[5 * dO] = c;
}

typedef struct wino_plan {
    int across, down, rows;      /* tiles of a row, rows of an image, rows of a chunk */
    int groups;                  /* of TILE tiles, of a chunk */
    size_t vs, us, ms;           /* elements from one of the 36 to the next in V, U, M */
    ptrdiff_t off[L1_BLOCKS];    /* of a block in a group of TILE tiles of V */
    di_real *V;                  /* of the chunk */
    di_real *mine;               /* of each thread: U, M, normalised input rows */
} wino_plan;

/* Where V keeps input block ib of the group of tiles that tile t of the chunk is in. */
static di_real *wino_at(const wino_plan *p, int ib, int t)
{
    size_t group = (size_t)(ib / L1_BLOCKS) * p->groups + t / TILE;
    return p->V + (group * L1_BLOCKS + ib % L1_BLOCKS) * TILE * 16;
}

/* V of `count` rows of tiles from row `ty` of an image on, input block ib of it (plane b);
   first: the first of them in the chunk. */
static void wino_input(const conv_args *a, const wino_plan *p, int b, int ib, int ty, int count,
                       int first, di_real *rows)
{
    ptrdiff_t pitch = (ptrdiff_t)(a->w + 2) * 16;
    const di_real *x = a->x[b] + 4 * ty * pitch;
    if (a->A) {
        normalize_rows(a, b, 4 * ty - 1, 4 * (ty + count) + 1, rows);
        x = rows;
    }
    for (int t = 0; t < count * p->across; t++) {
        const di_real *from = x + t / p->across * 4 * pitch + t % p->across * 64;
        int at = first * p->across + t;
        di_real *v = wino_at(p, ib, at) + at % TILE * 16;
        for (int l = 0; l < 16; l += LANES) {
            vec half[36];
            for (int j = 0; j < 6; j++) {
                vec d[6];
                UNROLL
                for (int i = 0; i < 6; i++)
                    d[i] = load(from + i * pitch + j * 16 + l);
                wino_in1(d, half + j, 6);
            }
            for (int i = 0; i < 6; i++) {
                vec d[6];
                wino_in1(half + i * 6, d, 1);
                UNROLL
                for (int j = 0; j < 6; j++)
                    store(v + (i * 6 + j) * p->vs + l, d[j]);
            }
        }
    }
}

/* U of `blocks` input blocks from ib on, for output block ob. */
static void wino_weights(const conv_args *a, const wino_plan *p, int ob, int ib, int blocks,
                         di_real *U)
{
    di_real turned[9 * 256];
    for (int b = 0; b < blocks; b++, U += 256) {
        const di_real *w = weight_block(a, ob, ib + b);
        if (a->flipped) {
            flip_block(turned, w, 9);
            w = turned;
        }
        for (int k = 0; k < 256; k += LANES) {
            vec half[18];
            for (int j = 0; j < 3; j++) {
                vec g[3];
                UNROLL
                for (int i = 0; i < 3; i++)
                    g[i] = load(w + (i * 3 + j) * 256 + k);
                wino_weight1(g, half + j, 3);
            }
            for (int i = 0; i < 6; i++) {
                vec u[6];
                wino_weight1(half + i * 3, u, 1);
                UNROLL
                for (int j = 0; j < 6; j++)
                    store(U + (i * 6 + j) * p->us + k, u[j]);
            }
        }
    }
}

/* M = V U for tiles [t0, t1) of the chunk and output block ob. */
static void wino_product(const conv_args *a, const wino_plan *p, int ob, int t0, int t1,
                         di_real *U, di_real *M)
{
    for (int ib = 0; ib < a->ib; ib += L1_BLOCKS) {
        int blocks = a->ib - ib < L1_BLOCKS ? a->ib - ib : L1_BLOCKS;
        wino_weights(a, p, ob, ib, blocks, U);
        for (int k = 0; k < 36; k++)
            for (int t = t0, n; t < t1; t += n) {
                const di_real *x = wino_at(p, ib, t) + k * p->vs;
                product q = { &x, U + k * p->us, p->off, 1, blocks, ib ? 0 : FIRST, NULL, 1 };
                n = TILE - t % TILE < t1 - t ? TILE - t % TILE : t1 - t;
                product_row(&q, n, 16, 16, t % TILE * 16, M + k * p->ms + (size_t)(t - t0) * 16,
                            NULL);
            }
    }
}

/* Row `ty` of tiles of output plane o; M: its first tile. */
static void wino_output(const conv_args *a, const wino_plan *p, const di_real *M, int o, int ty)
{
    ptrdiff_t pitch = (ptrdiff_t)(a->w + 2) * 16;
    const di_real *bias = a->bias ? a->bias + o % a->ob * 16 : NULL;
    for (int t = 0; t < p->across; t++, M += 16) {
        ptrdiff_t at = (4 * ty + 1) * pitch + (4 * t + 1) * 16;
        for (int l = 0; l < 16; l += LANES) {
            vec half[24];
            for (int j = 0; j < 6; j++) {
                vec m[6];
                UNROLL
                for (int i = 0; i < 6; i++)
                    m[i] = load(M + (i * 6 + j) * p->ms + l);
                wino_out1(m, half + j, 6);
            }
            for (int i = 0; i < 4; i++) {
                vec y[4];
                wino_out1(half + i * 6, y, 1);
                UNROLL
                for (int j = 0; j < 4; j++) {
                    ptrdiff_t q = at + i * pitch + j * 16 + l;
                    vec s = y[j];
                    if (bias)
                        s += load(bias + l);
                    if (a->add)
                        s += load(a->add[o] + q);
                    s *= a->scale;
                    if (a->acc)
                        s += load(a->y[o] + q);
                    store(a->y[o] + q, s);
                }
            }
        }
    }
    for (int r = 4 * ty; a->sums && r < 4 * ty + 4; r++)
        finish_row(a, o, r);
}

/* Rows of tiles [first, first+count) of the whole batch. */
static void wino_chunk(const conv_args *a, const wino_plan *p, int first, int count,
                       int threads)
{
    int image0 = first / p->down, images = (first + count - 1) / p->down + 1 - image0;
    size_t each = a->each;
    PARALLEL_FOR(threads)
    for (int job = 0; job < a->ib * images; job++) {
        int n = image0 + job % images, ib = job / images;
        int from = n * p->down > first ? n * p->down : first;
        int to = (n + 1) * p->down < first + count ? (n + 1) * p->down : first + count;
        di_real *mine = p->mine + (threads > 1 ? thread_number() : 0) * each;
        wino_input(a, p, n * a->ib + ib, ib, from - n * p->down, to - from, from - first,
                   mine + 36 * (p->us + p->ms));
    }
    int parts = (count + p->rows - 1) / p->rows;
    PARALLEL_FOR(threads)
    for (int job = 0; job < a->ob * parts; job++) {
        int r0 = job % parts * p->rows, r1 = r0 + p->rows < count ? r0 + p->rows : count;
        di_real *U = p->mine + (threads > 1 ? thread_number() : 0) * each, *M = U + 36 * p->us;
        wino_product(a, p, job / parts, r0 * p->across, r1 * p->across, U, M);
        for (int r = r0; r < r1; r++)
            wino_output(a, p, M + (size_t)(r - r0) * p->across * 16,
                        (first + r) / p->down * a->ob + job / parts, (first + r) % p->down);
    }
}

/* Room for one thread and for V, in elements; the same for every instruction set. */
static void wino_layout(const conv_args *a, wino_plan *p, size_t *each, size_t *v)
{
    p->across = a->w / 4;
    p->down = a->h / 4;
    p->rows = p->across < WINO_TILES ? WINO_TILES / p->across : 1;
    int all = a->n * p->down, rows = p->rows < all ? p->rows : all;
    int chunk = a->together ? all : rows, most = chunk < p->down ? chunk : p->down;
    /* + 8: the last group of at most 8; + 16: planes in different sets of the cache */
    p->groups = (chunk * p->across + TILE - 1) / TILE;
    p->vs = (size_t)((a->ib + L1_BLOCKS - 1) / L1_BLOCKS * L1_BLOCKS)
            * (chunk * p->across + 8) * 16 + 16;
    for (int b = 0; b < L1_BLOCKS; b++)
        p->off[b] = b * TILE * 16;
    p->us = L1_BLOCKS * 256 + 16;
    p->ms = (size_t)rows * p->across * 16 + 16;
    *v = 36 * p->vs;
    *each = 36 * (p->us + p->ms) + (a->A ? (size_t)(4 * most + 2) * (a->w + 2) * 16 : 0);
}

static void wino(const conv_args *a)
{
    wino_plan p;
    size_t each, v;
    wino_layout(a, &p, &each, &v);
    int all = a->n * p.down;
    if (a->together) {
        p.V = a->work;
        p.mine = p.V + v;
        wino_chunk(a, &p, 0, all, a->threads);
        return;
    }
    PARALLEL_FOR(a->threads)
    for (int first = 0; first < all; first += p.rows) {
        wino_plan own = p;
        own.V = a->work + thread_number() * a->each;
        own.mine = own.V + v;
        wino_chunk(a, &own, first, all - first < p.rows ? all - first : p.rows, 1);
    }
}

/* ---- 3.5 Attention's products and softmax ----
   A matrix of R rows and C columns lies in panels of 16 columns, [C/16][R][16], as blocks of
   a tensor and of weights do; ap, bp, cp, sp: elements from a panel to the next. */

enum { KPANELS = 16 }; /* panels of A whose rows of B stay in L1 */

/* C (m x n) = A B; k and n multiples of 16, each element one sum over k, ascending. */
static void matmul(di_real *c, size_t cp, const di_real *a, size_t ap, const di_real *b,
                   size_t bp, int m, int k, int n)
{
    ptrdiff_t off[KPANELS];
    for (int t = 0; t < KPANELS; t++)
        off[t] = (ptrdiff_t)(t * ap);
    for (int j = 0; j < n; j += 16, b += bp, c += cp)
        for (int t = 0; t < k / 16; t += KPANELS) {
            const di_real *x = a + t * ap;
            int taps = k / 16 - t < KPANELS ? k / 16 - t : KPANELS;
            product q = { &x, b + t * 256, off, 1, taps, t ? 0 : FIRST, NULL, 1 };
            product_row(&q, m, 16, 16, 0, c, NULL);
        }
}

/* C (m x n) += A^T B, A (k x m); m and n multiples of 16, each sum over k ascending. */
static void matmul_t(di_real *c, size_t cp, const di_real *a, size_t ap, const di_real *b,
                     size_t bp, int m, int k, int n)
{
    enum { COLUMNS = 16 % TILE ? SMALL : TILE };
    for (int j = 0; j < n; j += 16, b += bp, c += cp)
        for (int i = 0; i < m; i += COLUMNS) {
            const di_real *x = a + i / 16 * ap + i % 16;
            vec acc[TILE][VPB];
            UNROLL
            for (int p = 0; p < COLUMNS; p++) {
                UNROLL
                for (int v = 0; v < VPB; v++)
                    acc[p][v] = set1(0);
            }
            for (int q = 0; q < k; q++)
                product_step(acc, COLUMNS, 1, x + q * 16, b + q * 16);
            UNROLL
            for (int p = 0; p < COLUMNS; p++) {
                UNROLL
                for (int v = 0; v < VPB; v++) {
                    di_real *to = c + (i + p) * 16 + v * LANES;
                    store(to, load(to) + acc[p][v]);
                }
            }
        }
}

/* In place on m rows of n values: p = exp(scale*s - max) / sum; the last panel's tail gets 0.
   The sum is flat: lane j%16, flushed to double every 256, tree 8-4-2-1. */
static void softmax(di_real *s, size_t sp, int m, int n, di_real scale)
{
    const int panels = (n + 15) / 16, tail = 16 - (panels * 16 - n);
    for (int i = 0; i < m; i++, s += 16) {
        di_real *last = s + (panels - 1) * sp, lane[16];
        for (int l = tail; l < 16; l++)
            last[l] = s[0];
        vec top[VPB];
        for (int v = 0; v < VPB; v++)
            top[v] = load(s + v * LANES) * scale;
        for (di_real *p = s; p <= last; p += sp)
            for (int v = 0; v < VPB; v++)
                top[v] = vmax(top[v], load(p + v * LANES) * scale);
        for (int v = 0; v < VPB; v++)
            store(lane + v * LANES, top[v]);
        di_real max = lane[0];
        for (int l = 1; l < 16; l++)
            max = lane[l] > max ? lane[l] : max;
        for (int v = 0; v < 16; v += LANES)
            for (di_real *p = s + v; p <= last + v; p += sp)
                store(p, vexp(load(p) * scale - max));
        for (int l = tail; l < 16; l++)
            last[l] = 0;
        double sum[16] = { 0 };
        for (int j0 = 0; j0 < panels; j0 += 16) {
            di_real part[16] = { 0 };
            for (int j = j0; j < panels && j < j0 + 16; j++)
                for (int l = 0; l < 16; l++)
                    part[l] += s[j * sp + l];
            for (int l = 0; l < 16; l++)
                sum[l] += part[l];
        }
        for (int half = 8; half; half /= 2)
            for (int l = 0; l < half; l++)
                sum[l] += sum[l + half];
        di_real inv = (di_real)(1 / sum[0]);
        for (di_real *p = s; p <= last; p += sp)
            for (int l = 0; l < 16; l += LANES)
                store(p + l, load(p + l) * inv);
    }
}

/* ---- 3.6 Norm and resampling on whole tensors ---- */

/* sums[block][h][32] = row_sums of every row. */
static void norm_sums(double *sums, di_real *const *x, int blocks, int h, int w, int threads)
{
    PARALLEL_FOR(threads)
    for (int b = 0; b < blocks; b++)
        for (int i = 0; i < h; i++)
            row_sums(sums + ((size_t)b * h + i) * 32,
                     x[b] + ((size_t)(i + 1) * (w + 2) + 1) * 16, w);
}

/* y = f(A x + B), f = SiLU or identity; A, B [block][16]. */
static void norm_apply(di_real *const *y, di_real *const *x, const di_real *A, const di_real *B,
                       int blocks, int h, int w, int silu, int threads)
{
    PARALLEL_FOR(threads)
    for (int job = 0; job < blocks * h; job++) {
        int b = job / h, i = job % h;
        size_t at = ((size_t)(i + 1) * (w + 2) + 1) * 16;
        row_normalize(y[b] + at, x[b] + at, A + b * 16, B + b * 16, w, silu);
    }
}

/* First half of the norm's derivative: g *= f'(A x + B), sums[block][h][32] as row_norm_vjp. */
static void norm_vjp_sums(double *sums, di_real *const *g, di_real *const *x, const di_real *A,
                          const di_real *B, int blocks, int h, int w, int silu, int threads)
{
    PARALLEL_FOR(threads)
    for (int b = 0; b < blocks; b++)
        for (int i = 0; i < h; i++) {
            size_t at = ((size_t)(i + 1) * (w + 2) + 1) * 16;
            row_norm_vjp(sums + ((size_t)b * h + i) * 32, g[b] + at, x[b] + at, A + b * 16,
                         B + b * 16, w, silu);
        }
}

/* Second half: gx (+)= ca g + cx (x - m) + c0 with coef[block][4][16] = ca, cx, m, c0. */
static void norm_vjp_apply(di_real *const *gx, di_real *const *g, di_real *const *x,
                           const di_real *coef, int blocks, int h, int w, int acc, int threads)
{
    PARALLEL_FOR(threads)
    for (int job = 0; job < blocks * h; job++) {
        int b = job / h, i = job % h;
        size_t at = ((size_t)(i + 1) * (w + 2) + 1) * 16;
        for (int v = 0; v < VPB; v++) {
            const di_real *k = coef + b * 64 + v * LANES;
            vec ca = load(k), cx = load(k + 16), m = load(k + 32), c0 = load(k + 48);
            const di_real *p = x[b] + at + v * LANES, *q = g[b] + at + v * LANES;
            di_real *r = gx[b] + at + v * LANES;
            for (int j = 0; j < w; j++, p += 16, q += 16, r += 16) {
                vec d = load(q) * ca + ((load(p) - m) * cx + c0);
                if (acc)
                    d += load(r);
                store(r, d);
            }
        }
    }
}

/* y (+)= a x over whole planes of `size` elements; the border stays +0. */
static void axpy(di_real *const *y, di_real *const *x, di_real a, int blocks, size_t size,
                 int acc, int threads)
{
    PARALLEL_FOR(threads)
    for (int b = 0; b < blocks; b++)
        for (size_t i = 0; i < size; i += LANES) {
            vec d = load(x[b] + i) * a;
            if (acc)
                d += load(y[b] + i);
            store(y[b] + i, d);
        }
}

/* Nearest x2, y[2i+a][2j+b] = a x[i][j] (h, w: size of x). Its derivative is pool with scale 1,
   and pool's derivative is this with scale 1/4. */
static void upsample(di_real *const *y, di_real *const *x, di_real a, int blocks, int h, int w,
                     int acc, int threads)
{
    PARALLEL_FOR(threads)
    for (int b = 0; b < blocks; b++)
        for (int i = 0; i < 2 * h; i++) {
            const di_real *p = x[b] + ((size_t)(i / 2 + 1) * (w + 2) + 1) * 16;
            di_real *q = y[b] + ((size_t)(i + 1) * (2 * w + 2) + 1) * 16;
            for (int j = 0; j < 2 * w; j++, q += 16)
                for (int v = 0; v < 16; v += LANES) {
                    vec d = load(p + j / 2 * 16 + v) * a;
                    if (acc)
                        d += load(q + v);
                    store(q + v, d);
                }
        }
}

/* y[i][j] = a * sum of the 2x2 cell of x (h, w: size of y). */
static void pool(di_real *const *y, di_real *const *x, di_real a, int blocks, int h, int w,
                 int acc, int threads)
{
    PARALLEL_FOR(threads)
    for (int b = 0; b < blocks; b++)
        for (int i = 0; i < h; i++) {
            const di_real *p = x[b] + ((size_t)(2 * i + 1) * (2 * w + 2) + 1) * 16;
            const di_real *below = p + (2 * w + 2) * 16;
            di_real *q = y[b] + ((size_t)(i + 1) * (w + 2) + 1) * 16;
            for (int j = 0; j < w; j++, p += 32, below += 32, q += 16)
                for (int v = 0; v < 16; v += LANES) {
                    vec d = ((load(p + v) + load(p + 16 + v))
                             + (load(below + v) + load(below + 16 + v))) * a;
                    if (acc)
                        d += load(q + v);
                    store(q + v, d);
                }
        }
}

/* ---- 3.7 The Fourier transform ----

   Stockham's autosorting FFT, decimation in frequency, of up to 16 signals side by side: lanes
   are whole vectors and a vector's lanes different signals. Real and imaginary parts lie apart.
   One pass, with n = radix m values left, w = exp(-2 pi i / n) and `run` numbers beside each
   other, is
     y[radix p + k][q] = w^(p k) sum_j x[p + m j][q] exp(-2 pi i j k / radix),  p < m. */

enum { FFT_LANES = 16, FFT_PASSES = 32 };
typedef struct fft_pass {
    int radix, m;
    const di_real *twiddle, *root;  /* re, im of w^(p k), k = 1..radix-1, for each p; of */
} fft_pass;                         /*   exp(-2 pi i k / radix) */
typedef struct fft_plan {
    int n, passes;
    fft_pass pass[FFT_PASSES];
} fft_plan;

typedef struct fft_row {            /* the butterflies of one p */
    const di_real *xr, *xi;
    di_real *yr, *yi;
    size_t jump, hop, run;          /* from j to j + 1 in x, from k to k + 1 in y */
    const di_real *w;               /* NULL: p = 0, scaled instead */
    di_real scale;
} fft_row;

INLINE void fft_store(const fft_row *a, const int twiddled, size_t q, const int k, vec u, vec v)
{
    di_real *re = a->yr + k * a->hop + q, *im = a->yi + k * a->hop + q;
    if (twiddled && k > 0) {
        const di_real c = a->w[2 * k - 2], s = a->w[2 * k - 1];
        store(re, u * c - v * s);
        store(im, u * s + v * c);
    } else {
        store(re, u * (twiddled ? 1 : a->scale));
        store(im, v * (twiddled ? 1 : a->scale));
    }
}

/* u + v and (u - v) exp(-2 pi i j / 2 half) of the values half apart. */
INLINE void fft_halve(vec *r, vec *i, const int radix, const int half)
{
    const di_real eighth = (di_real)0.70710678118654752440;
    UNROLL
    for (int k = 0; k < radix / 2; k++) {
        const int u = k / half * 2 * half + k % half, v = u + half, turn = k % half * 4 / half;
        vec dr = r[u] - r[v], di = i[u] - i[v];
        r[u] = r[u] + r[v];
        i[u] = i[u] + i[v];
        if (turn % 2) {
            vec t = eighth * (dr + di);
            di = eighth * (di - dr);
            dr = t;
        }
        r[v] = dr;
        i[v] = di;
        if (turn >= 2) {
            r[v] = di;
            i[v] = -dr;
        }
    }
}

/* Radix 2, 4 and 8: halvings, which leave value k at its bits reversed. */
INLINE void fft_row_binary(const fft_row *a, const int radix, const int twiddled)
{
    for (size_t q = 0; q < a->run; q += LANES) {
        vec r[8], i[8];
        UNROLL
        for (int j = 0; j < radix; j++) {
            r[j] = load(a->xr + j * a->jump + q);
            i[j] = load(a->xi + j * a->jump + q);
        }
        if (radix == 8)
            fft_halve(r, i, radix, 4);
        if (radix >= 4)
            fft_halve(r, i, radix, 2);
        fft_halve(r, i, radix, 1);
        UNROLL
        for (int k = 0; k < radix; k++) {
            const int at = radix == 8 ? k % 2 * 4 + k / 2 % 2 * 2 + k / 4
                                      : radix == 4 ? k % 2 * 2 + k / 2 : k;
            fft_store(a, twiddled, q, k, r[at], i[at]);
        }
    }
}

/* An odd radix: y_k, y_-k = x_0 + sum_(2j<radix) c_jk (x_j + x_-j) -+ i s_jk (x_j - x_-j). */
INLINE void fft_row_odd(const fft_row *a, const int radix, const int twiddled,
                        const di_real *root)
{
    for (size_t q = 0; q < a->run; q += LANES) {
        const di_real *xr = a->xr + q, *xi = a->xi + q;
        for (int k = 0; k <= radix / 2; k++) {
            vec er = load(xr), ei = load(xi), gr = set1(0), gi = set1(0);
            for (int j = 1, t = k; j <= radix / 2; j++, t = (t + k) % radix) {
                size_t u = j * a->jump, v = (radix - j) * a->jump;
                er += root[2 * t] * (load(xr + u) + load(xr + v));
                ei += root[2 * t] * (load(xi + u) + load(xi + v));
                gr += root[2 * t + 1] * (load(xr + u) - load(xr + v));
                gi += root[2 * t + 1] * (load(xi + u) - load(xi + v));
            }
            fft_store(a, twiddled, q, k, er - gi, ei + gr);
            if (k > 0)
                fft_store(a, twiddled, q, radix - k, er + gi, ei - gr);
        }
    }
}

INLINE void fft_butterfly(const fft_row *a, const int twiddled, const fft_pass *pass)
{
    switch (pass->radix) { /* each a constant in its loops */
    case 2: fft_row_binary(a, 2, twiddled); break;
    case 4: fft_row_binary(a, 4, twiddled); break;
    case 8: fft_row_binary(a, 8, twiddled); break;
    case 3: fft_row_odd(a, 3, twiddled, pass->root); break;
    default: fft_row_odd(a, pass->radix, twiddled, pass->root);
    }
}

/* Value k of lane l: x[k xs + l] to y[k ys + l], times scale; y may be x. work: two pairs of n
   lanes, of which the second may be x; y NULL: the result stays in the pair returned. */
static di_real *fft_run(const fft_plan *f, const di_real *xr, const di_real *xi, size_t xs,
                        di_real *yr, di_real *yi, size_t ys, size_t lanes, di_real scale,
                        di_real *work)
{
    size_t size = (size_t)f->n * lanes, run = lanes;
    di_real *to = work, *from = work + 2 * size;
    if (f->passes == 1 && xr == yr) {
        for (int k = 0; k < f->n; k++) {
            memcpy(from + k * lanes, xr + k * xs, lanes * sizeof *xr);
            memcpy(from + size + k * lanes, xi + k * xs, lanes * sizeof *xi);
        }
        xr = from, xi = from + size, xs = lanes;
    }
    for (size_t l = 0; f->passes == 0 && l < lanes; l++)
        (yr ? yr : to)[l] = scale * xr[l], (yr ? yi : to + size)[l] = scale * xi[l];
    for (int i = 0; i < f->passes; i++) {
        const fft_pass *pass = &f->pass[i];
        size_t step = i ? run : xs, spread = run / lanes;
        int last = pass->m == 1, apart = last && yr && ys != lanes;
        fft_row a = { xr, xi, last && yr ? yr : to, last && yr ? yi : to + size,
                      pass->m * step, apart ? spread * ys : run, apart ? lanes : run, NULL,
                      last ? scale : 1 };
        fft_butterfly(&a, 0, pass);
        for (size_t r = 1; apart && r < spread; r++) {
            a.xr += lanes, a.xi += lanes, a.yr += ys, a.yi += ys;
            fft_butterfly(&a, 0, pass);
        }
        a.w = pass->twiddle;
        for (int p = 1; p < pass->m; p++) {
            a.xr += step, a.xi += step;
            a.yr += pass->radix * run, a.yi += pass->radix * run;
            a.w += 2 * (pass->radix - 1);
            fft_butterfly(&a, 1, pass);
        }
        xr = to, xi = to + size;
        to = from, from = (di_real *)xr;
        run *= pass->radix;
    }
    return f->passes ? from : to;
}

/* Two real signals a, b are one complex z = a + i b; of its transform Z, with k' = -k mod n,
     A_k = (Z_k + conj Z_k') / 2,  B_k = (Z_k - conj Z_k') / 2i,  k <= n/2.
   Z lies in n lanes; A and B have a step. B may be Z; NULL: it is not wanted. */
static void fft_split(size_t n, size_t lanes, const di_real *zr, const di_real *zi, di_real *ar,
                      di_real *ai, di_real *br, di_real *bi, size_t step)
{
    for (size_t k = 0; k <= n / 2; k++) {
        size_t u = k * lanes, v = (k ? n - k : 0) * lanes, at = k * step;
        for (size_t l = 0; l < lanes; l += LANES, u += LANES, v += LANES, at += LANES) {
            vec pr = load(zr + u), pi = load(zi + u), qr = load(zr + v), qi = load(zi + v);
            store(ar + at, (di_real)0.5 * (pr + qr));
            store(ai + at, (di_real)0.5 * (pi - qi));
            if (br) {
                store(br + at, (di_real)0.5 * (pi + qi));
                store(bi + at, (di_real)0.5 * (qr - pr));
            }
        }
    }
}

/* The inverse: z = A + i B from the halves A and B, whose values at 0 and n/2 are real: their
   imaginary parts are not read. A may be Z; B NULL: zeros. */
static void fft_join(size_t n, size_t lanes, di_real *zr, di_real *zi, const di_real *ar,
                     const di_real *ai, const di_real *br, const di_real *bi, size_t step)
{
    for (size_t k = 0; k <= n / 2; k++) {
        size_t u = k * lanes, v = (k ? n - k : 0) * lanes, at = k * step;
        int real = k == 0 || 2 * k == n;
        for (size_t l = 0; l < lanes; l += LANES, u += LANES, v += LANES, at += LANES) {
            vec pr = load(ar + at), pi = set1(0), qr = set1(0), qi = set1(0);
            if (!real)
                pi = load(ai + at);
            if (br)
                qr = load(br + at);
            if (br && !real)
                qi = load(bi + at);
            store(zr + v, pr + qi);
            store(zi + v, qr - pi);
            store(zr + u, pr - qi);
            store(zi + u, qr + pi);
        }
    }
}

/* to[c][r] = from[r][c]; a tile of vectors by rounds of interleaving its upper half with its
   lower half, each of which turns the bits of an element's address by one. */
static void turn(di_real *to, size_t to_step, const di_real *from, size_t from_step,
                      size_t rows, size_t cols)
{
    size_t r = 0;
    for (; r + LANES <= rows && LANES > 1; r += LANES) {
        size_t c = 0;
        for (; c + LANES <= cols; c += LANES) {
            vec a[LANES], b[LANES];
            UNROLL
            for (int i = 0; i < LANES; i++)
                a[i] = load(from + (r + i) * from_step + c);
            UNROLL
            for (int round = 1; round < LANES; round *= 2) {
                UNROLL
                for (int i = 0; i < LANES / 2; i++) {
                    b[2 * i] = interleave_low(a[i], a[i + LANES / 2]);
                    b[2 * i + 1] = interleave_high(a[i], a[i + LANES / 2]);
                }
                UNROLL
                for (int i = 0; i < LANES; i++)
                    a[i] = b[i];
            }
            UNROLL
            for (int i = 0; i < LANES; i++)
                store(to + (c + i) * to_step + r, a[i]);
        }
        for (; c < cols; c++)
            for (int i = 0; i < LANES; i++)
                to[c * to_step + r + i] = from[(r + i) * from_step + c];
    }
    for (; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            to[c * to_step + r] = from[r * from_step + c];
}

/* ---- 3.8 Vorticity: the passes between the transforms of a fluid's step ----

   On half spectra (n,n/2+1,lanes), G = k1^2 + k2^2; see diffinv.c, chapter 9. */

/* dx = i k1 f, dy = i k2 f of f, or with `inverse` of f/G; with `mask` of P f. */
static void flow_derive(const di_flow_grid *g, int inverse, int mask, di_half f, di_half dx,
                        di_half dy)
{
    const di_real *k2 = g->k2, *g2 = g->g2;
    for (size_t i = 0, at = 0; i < g->n; i++, at += g->row) {
        const di_real k1 = g->k1[i], g1 = g->g1[i], *fr = f.re + at, *fi = f.im + at;
        di_real *out[4] = { dx.re + at, dx.im + at, dy.re + at, dy.im + at };
        di_real *xr = out[0], *xi = out[1], *yr = out[2], *yi = out[3];
        size_t kept = mask ? g->kept[i] : g->row;
        APART
        for (size_t j = 0; j < kept; j++) {
            di_real s = inverse ? 1 / (g1 + g2[j]) : 1, re = s * fr[j], im = s * fi[j];
            xr[j] = -k1 * im;
            xi[j] = k1 * re;
            yr[j] = -k2[j] * im;
            yi[j] = k2[j] * re;
        }
        for (int k = 0; k < 4; k++) {
            memset(out[k] + kept, 0, (g->row - kept) * sizeof(di_real));
            if (i == 0) /* the mean, where G = 0 */
                memset(out[k], 0, g->row / (g->n / 2 + 1) * sizeof(di_real));
        }
    }
}

/* In space: (q, p) = (q W, p W), or where a is not NULL (q, a, b) = (a q - b p, a W, b W). */
static void flow_products(size_t size, di_real *q, di_real *p, const di_real *W, di_real *a,
                          di_real *b)
{
    for (size_t i = 0; !a && i < size; i++) {
        q[i] *= W[i];
        p[i] *= W[i];
    }
    for (size_t i = 0; a && i < size; i++) {
        q[i] = a[i] * q[i] - b[i] * p[i];
        a[i] *= W[i];
        b[i] *= W[i];
    }
}

/* top (row) = the largest q^2 + p^2 of each column of (rows,row). */
static void flow_speed(size_t rows, size_t row, const di_real *q, const di_real *p,
                       di_real *top)
{
    memset(top, 0, row * sizeof *top);
    for (size_t i = 0; i < rows; i++, q += row, p += row)
        for (size_t j = 0; j < row; j++) {
            di_real s = q[j] * q[j] + p[j] * p[j];
            top[j] = s > top[j] ? s : top[j];
        }
}

/* N = -d_x A + d_y B + f; of the first stage it is put into n1 and M = N, of the second M =
   (n1 + N)/2; to = S (w + dt (M - g w/2)), S = 1/(1 + dt g/2), g = G nu. A is spoilt; to may be
   w. */
static void flow_update(const di_flow_grid *g, int second, di_half w, di_half a, di_half b,
                        di_half n1, di_half to)
{
    const di_real *k2 = g->k2, *g2 = g->g2, *step = g->dt, nu = (di_real)0.5 * g->nu;
    for (size_t i = 0, at = 0, row = g->row; i < g->n; i++, at += row) {
        const di_real k1 = g->k1[i], g1 = g->g1[i], *br = b.re + at, *bi = b.im + at;
        di_real *ar = a.re + at, *ai = a.im + at, *nr = n1.re + at, *ni = n1.im + at;
        di_real *wr = w.re + at, *wi = w.im + at, *tr = to.re + at, *ti = to.im + at;
        APART
        for (size_t j = 0; j < row; j++) {
            di_real re = k1 * ai[j] - k2[j] * bi[j], im = k2[j] * br[j] - k1 * ar[j];
            ar[j] = re;
            ai[j] = im;
        }
        for (size_t j = 0; i == 0 && j < row; j++)
            ar[j] += g->force[j];
        if (!second) {
            memcpy(nr, ar, row * sizeof *ar);
            memcpy(ni, ai, row * sizeof *ai);
        }
        APART
        for (size_t j = 0; j < row; j++) {
            di_real dt = step[j], h = nu * (g1 + g2[j]), s = 1 / (1 + dt * h);
            di_real re = (di_real)0.5 * (nr[j] + ar[j]), im = (di_real)0.5 * (ni[j] + ai[j]);
            tr[j] = (wr[j] + dt * (re - h * wr[j])) * s;
            ti[j] = (wi[j] + dt * (im - h * wi[j])) * s;
        }
    }
}

/* The adjoint's stages, h = dt g/2, R = P (C + (-d_y A + d_x B)/G) = N'^T l by its products: 0:
   mu = l/(1 + h); 1: nu = dt/2 R/(1 + h), l = mu/2 + nu; 2: l = (1 - h) (mu + nu) + dt R. C is
   spoilt. */
static void flow_adjoint(const di_flow_grid *g, int stage, const di_half abc[3], di_half mu,
                         di_half nu, di_half l)
{
    const di_real *k2 = g->k2, *g2 = g->g2, *step = g->dt, half = (di_real)0.5 * g->nu;
    for (size_t line = 0, row = g->row; line < 2 * g->n; line++) {
        size_t i = line / 2, im = line % 2, at = i * row, kept = g->kept[i];
        const di_real k1 = im ? -g->k1[i] : g->k1[i], sign = im ? -1 : 1, g1 = g->g1[i];
        const di_real *a = (im ? abc[0].re : abc[0].im) + at;
        const di_real *b = (im ? abc[1].re : abc[1].im) + at;
        di_real *r = (im ? abc[2].im : abc[2].re) + at, *x = (im ? l.im : l.re) + at;
        di_real *m = (im ? mu.im : mu.re) + at, *n = (im ? nu.im : nu.re) + at;
        if (stage == 0) {
            APART
            for (size_t j = 0; j < row; j++)
                m[j] = x[j] / (1 + step[j] * half * (g1 + g2[j]));
            continue;
        }
        APART
        for (size_t j = 0; j < kept; j++)
            r[j] += (sign * k2[j] * a[j] - k1 * b[j]) / (g1 + g2[j]);
        memset(r + kept, 0, (row - kept) * sizeof *r);
        if (i == 0) /* the mean */
            memset(r, 0, row / (g->n / 2 + 1) * sizeof *r);
        APART
        for (size_t j = 0; j < row; j++) {
            const di_real dt = step[j], h = dt * half * (g1 + g2[j]), M = m[j], R = r[j];
            const di_real first = (di_real)0.5 * dt * R / (1 + h), old = n[j];
            n[j] = stage == 1 ? first : old;
            x[j] = stage == 1 ? (di_real)0.5 * M + first : (1 - h) * (M + old) + dt * R;
        }
    }
}

/* The arithmetic this code relies on: no contraction, no flushing of small numbers. */
static int self_check(void)
{
#ifdef DI_DOUBLE
    volatile di_real e = 2.220446049250313e-16, tiny = 4.9406564584124654e-324 * 1024;
#else
    volatile di_real e = 1.1920928955078125e-7f, tiny = 7.17464813734306340e-43f; /* 2^-140 */
#endif
    volatile di_real a = 1 + e, b = 1 - e, one = 1, half = 0.5f;
    di_real x = a, y = b, z = one;
    return x * y - z == 0 && tiny * half != 0;
}

/* ==== 4. The table of kernels ============================================================= */

struct di_kernels {
    const char *name;
    int lanes;
    int (*self_check)(void);
    void (*conv)(const conv_args *);
    void (*wino)(const conv_args *);
    void (*matmul)(di_real *, size_t, const di_real *, size_t, const di_real *, size_t, int,
                   int, int);
    void (*matmul_t)(di_real *, size_t, const di_real *, size_t, const di_real *, size_t, int,
                     int, int);
    void (*softmax)(di_real *, size_t, int, int, di_real);
    void (*norm_sums)(double *, di_real *const *, int, int, int, int);
    void (*norm_apply)(di_real *const *, di_real *const *, const di_real *, const di_real *,
                       int, int, int, int, int);
    void (*norm_vjp_sums)(double *, di_real *const *, di_real *const *, const di_real *,
                          const di_real *, int, int, int, int, int);
    void (*norm_vjp_apply)(di_real *const *, di_real *const *, di_real *const *,
                           const di_real *, int, int, int, int, int);
    void (*axpy)(di_real *const *, di_real *const *, di_real, int, size_t, int, int);
    void (*upsample)(di_real *const *, di_real *const *, di_real, int, int, int, int, int);
    void (*pool)(di_real *const *, di_real *const *, di_real, int, int, int, int, int);
    di_real *(*fft)(const fft_plan *, const di_real *, const di_real *, size_t, di_real *,
                    di_real *, size_t, size_t, di_real, di_real *);
    void (*fft_split)(size_t, size_t, const di_real *, const di_real *, di_real *, di_real *,
                      di_real *, di_real *, size_t);
    void (*fft_join)(size_t, size_t, di_real *, di_real *, const di_real *, const di_real *,
                     const di_real *, const di_real *, size_t);
    void (*turn)(di_real *, size_t, const di_real *, size_t, size_t, size_t);
    di_flow_kernels flow;
};

#ifndef DI_ISA
#if defined __aarch64__
#define DI_ISA neon
#else
#define DI_ISA baseline
#endif
#endif
#define JOIN2(a, b) a##b
#define JOIN(a, b) JOIN2(a, b)
#define TEXT2(a) #a
#define TEXT(a) TEXT2(a)
extern const di_kernels JOIN(di_kernels_, DI_ISA);
const di_kernels JOIN(di_kernels_, DI_ISA) = {
    TEXT(DI_ISA), LANES, self_check, conv, wino, matmul, matmul_t, softmax, norm_sums,
    norm_apply, norm_vjp_sums, norm_vjp_apply, axpy, upsample, pool, fft_run,
    fft_split, fft_join, turn,
    { flow_derive, flow_products, flow_speed, flow_update, flow_adjoint }
};

#ifndef DI_KERNELS_ONLY

/* ==== 5. Context: memory, error text, choice of instruction set =========================== */

typedef struct block { /* header before every owned allocation */
    struct block *prev, *next;
    void *raw;
    size_t size;
} block;
enum { HEADER = 64 };

static void *default_alloc(void *user, void *p, size_t old_size, size_t new_size)
{
    (void)user;
    (void)old_size;
    if (new_size)
        return realloc(p, new_size);
    free(p);
    return NULL;
}

void *di_new(di_ctx *ctx, size_t count, size_t size)
{
    if (size && count > ((size_t)-1 - 2 * HEADER) / size) {
        di_fail(ctx, DI_EMEMORY, "out of memory: %.0f x %.0f bytes are more than can be "
                "addressed", (double)count, (double)size);
        return NULL;
    }
    size_t total = count * size + 2 * HEADER;
    char *raw = ctx->alloc(ctx->user, NULL, 0, total);
    if (!raw) {
        di_fail(ctx, DI_EMEMORY, "out of memory: %.1f MiB wanted beside %.1f MiB in use",
                (double)total / 1048576, (double)ctx->bytes / 1048576);
        return NULL;
    }
    char *p = raw + HEADER;
    p += (HEADER - (uintptr_t)p % HEADER) % HEADER;
    memset(raw, 0, total);
    block *b = (block *)(void *)(p - HEADER);
    b->raw = raw;
    b->size = total;
    b->next = ctx->objects;
    if (b->next)
        b->next->prev = b;
    ctx->objects = b;
    ctx->bytes += total;
    if (ctx->bytes > ctx->peak)
        ctx->peak = ctx->bytes;
    return p;
}

void di_free(di_ctx *ctx, void *p)
{
    if (!p)
        return;
    block *b = (block *)(void *)((char *)p - HEADER);
    if (b->prev)
        b->prev->next = b->next;
    else
        ctx->objects = b->next;
    if (b->next)
        b->next->prev = b->prev;
    ctx->bytes -= b->size;
    ctx->alloc(ctx->user, b->raw, b->size, 0);
}

di_status di_fail(di_ctx *ctx, di_status s, const char *format, ...)
{
    if (ctx->status == DI_OK) {
        va_list ap;
        va_start(ap, format);
        vsnprintf(ctx->error, sizeof ctx->error, format, ap);
        va_end(ap);
        ctx->status = s;
    }
    return s;
}

const char *di_error(const di_ctx *ctx) { return ctx->error; }

void di_clear(di_ctx *ctx)
{
    ctx->status = DI_OK;
    ctx->error[0] = 0;
}

size_t di_bytes(const di_ctx *ctx) { return ctx->bytes; }

size_t di_bytes_peak(const di_ctx *ctx) { return ctx->peak; }

void di_set_threads(di_ctx *ctx, int threads)
{
#ifdef _OPENMP
    ctx->threads = threads < 1 ? 1 : threads > 256 ? 256 : threads;
#else
    (void)threads;
    ctx->threads = 1;
#endif
}

#ifdef DI_HAVE_V3
extern const di_kernels di_kernels_v3;
#endif
#ifdef DI_HAVE_V4
extern const di_kernels di_kernels_v4;
#endif

/* The kernels compiled in that this processor runs, fastest first. */
static const di_kernels *kernels_at(int i)
{
    const di_kernels *have[4];
    int n = 0;
#if defined DI_HAVE_V3 || defined DI_HAVE_V4
    __builtin_cpu_init();
    int v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
             && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
#ifdef DI_HAVE_V4
    if (v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
        && __builtin_cpu_supports("avx512cd"))
        have[n++] = &di_kernels_v4;
#endif
#ifdef DI_HAVE_V3
    if (v3)
        have[n++] = &di_kernels_v3;
#endif
#endif
    have[n++] = &JOIN(di_kernels_, DI_ISA);
    return i >= 0 && i < n ? have[i] : NULL;
}

const char *di_isa_list(int i)
{
    const di_kernels *k = kernels_at(i);
    return k ? k->name : NULL;
}

const char *di_isa(const di_ctx *ctx) { return ctx->k->name; }

const di_flow_kernels *di_flow_ops(const di_ctx *ctx) { return &ctx->k->flow; }

void di_set_fast(di_ctx *ctx, int fast) { ctx->fast = fast != 0; }

di_status di_set_isa(di_ctx *ctx, const char *isa)
{
    const di_kernels *k = kernels_at(0);
    for (int i = 1; isa && k && strcmp(k->name, isa) != 0; i++)
        k = kernels_at(i);
    if (!k)
        return di_fail(ctx, DI_EUSAGE, "instruction set '%s' is not compiled in or not "
                       "supported by this processor; it has: %s%s%s%s%s", isa, di_isa_list(0),
                       di_isa_list(1) ? ", " : "", di_isa_list(1) ? di_isa_list(1) : "",
                       di_isa_list(1) && di_isa_list(2) ? ", " : "",
                       di_isa_list(1) && di_isa_list(2) ? di_isa_list(2) : "");
    if (!k->self_check())
        return di_fail(ctx, DI_ENUMERIC, "the %s kernels were built with contracted or flushed "
                       "arithmetic, so results would differ from other machines; build with "
                       "-ffp-contract=off and without -ffast-math", k->name);
    ctx->k = k;
    return DI_OK;
}

di_status di_open(di_ctx **out, di_alloc_fn alloc, void *user)
{
    *out = NULL;
    if (!alloc)
        alloc = default_alloc;
    di_ctx *ctx = alloc(user, NULL, 0, sizeof *ctx);
    if (!ctx)
        return DI_EMEMORY;
    memset(ctx, 0, sizeof *ctx);
    ctx->alloc = alloc;
    ctx->user = user;
    ctx->threads = 1;
    *out = ctx;
    return di_set_isa(ctx, NULL);
}

void di_close(di_ctx *ctx)
{
    if (!ctx)
        return;
    while (ctx->objects)
        di_free(ctx, (char *)ctx->objects + HEADER);
    ctx->alloc(ctx->user, ctx, sizeof *ctx, 0);
}

/* ==== 6. Elementary functions ================================================================
   libm's differ between systems in the last bit; these do not. Double, at most 2 ulp. */

double di_exp(double x)
{
    if (!(x > -745.2))
        return x != x ? x : 0;
    if (x > 709.8)
        return HUGE_VAL;
    double n = rint(x * 1.44269504088896340736);
    double hi = x - n * 6.93147180369123816490e-01, lo = n * 1.90821492927058770002e-10;
    double r = hi - lo, err = (hi - r) - lo, p = 1.0 / 6227020800.0;
    static const double coef[11] = { 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0,
        1.0 / 362880.0, 1.0 / 40320.0, 1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0,
        1.0 / 6.0, 0.5 };
    for (int i = 0; i < 11; i++)
        p = p * r + coef[i];
    return ldexp(1 + (r + (err + p * r * r)), (int)n);
}

double di_log(double x)
{
    if (!(x > 0))
        return x == 0 ? -HUGE_VAL : (x - x) / (x - x);
    if (x > 1.7976931348623157e308)
        return x;
    int e;
    double m = frexp(x, &e);
    if (m < 0.70710678118654752440) {
        m *= 2;
        e--;
    }
    /* log(1+f) = f - (f^2/2 - s (f^2/2 + R)), s = f/(2+f), R = sum_k 2 s^2k / (2k+1) */
    double f = m - 1, s = f / (2 + f), z = s * s, half = 0.5 * f * f, r = 2.0 / 25;
    for (int k = 11; k >= 1; k--)
        r = r * z + 2.0 / (2 * k + 1);
    r *= z;
    return e * 6.93147180369123816490e-01
           - ((half - (s * (half + r) + e * 1.90821492927058770002e-10)) - f);
}

/* x = n pi/2 + r, |r| <= pi/4: returns n mod 4, r in two parts. */
static int quarter_turns(double x, double *r, double *tail)
{
    double n = rint(x * 0.63661977236758134308);
    double a = x - n * 1.57079632673412561417e+00; /* exact: 33-bit factor */
    double w = n * 6.07710050630396597660e-11;
    double b = a - w;
    double lost = ((a - b) - w) - n * 2.02226624879595063154e-21;
    *r = b + lost;
    *tail = (b - *r) + lost;
    return (int)fmod(n, 4) & 3;
}

static double sin_series(double r, double tail)
{
    double z = r * r, p = 1.0 / 121645100408832000.0;
    static const double coef[8] = { 1.0 / 355687428096000.0, 1.0 / 1307674368000.0,
        1.0 / 6227020800.0, 1.0 / 39916800.0, 1.0 / 362880.0, 1.0 / 5040.0, 1.0 / 120.0,
        1.0 / 6.0 };
    for (int i = 0; i < 8; i++)
        p = coef[i] - p * z;
    return r + (tail * (1 - 0.5 * z) - p * z * r);
}

static double cos_series(double r, double tail)
{
    double z = r * r, p = 1.0 / 2432902008176640000.0, half = 0.5 * z, w = 1 - half;
    static const double coef[8] = { 1.0 / 6402373705728000.0, 1.0 / 20922789888000.0,
        1.0 / 87178291200.0, 1.0 / 479001600.0, 1.0 / 3628800.0, 1.0 / 40320.0, 1.0 / 720.0,
        1.0 / 24.0 };
    for (int i = 0; i < 8; i++)
        p = coef[i] - p * z;
    return w + (((1 - w) - half) + (p * z * z - r * tail));
}

double di_sin(double x)
{
    double r, t;
    int q = quarter_turns(x, &r, &t);
    double y = q & 1 ? cos_series(r, t) : sin_series(r, t);
    return q & 2 ? -y : y;
}

double di_cos(double x)
{
    double r, t;
    int q = quarter_turns(x, &r, &t);
    double y = q & 1 ? sin_series(r, t) : cos_series(r, t);
    return (q + 1) & 2 ? -y : y;
}

/* atan(y/x), 0 <= y <= x, x > 0, in two parts: the nearest k/16 = c leaves the angle s away,
   tan s = (y - c x) / (x + c y), |tan s| < 1/31. Returns the large part. */
static double octant(double y, double x, double *small)
{
    static const double angle[17][2] = { /* atan(k/16), and what the double lacks */
        { 0.0, 0.0 }, { 0.06241880999595735, -1.5490756308295046e-18 },
        { 0.12435499454676144, -3.1253241424539383e-18 },
        { 0.18534794999569476, 4.180692268843079e-18 },
        { 0.24497866312686414, 1.0698755618734451e-17 },
        { 0.3028848683749714, -1.1010827903001369e-17 },
        { 0.35877067027057225, -2.4623815582638635e-17 },
        { 0.4124104415973873, -1.587652227770689e-17 },
        { 0.4636476090008061, 2.2698777452961687e-17 },
        { 0.5123894603107377, -2.5462781472855804e-17 },
        { 0.5585993153435624, -5.4556305485916264e-18 },
        { 0.6022873461349642, 2.950430737228402e-17 },
        { 0.6435011087932844, 1.5834785051444286e-17 },
        { 0.6823165548747481, 6.943223671560008e-18 },
        { 0.7188299996216245, -2.1478388444456983e-17 },
        { 0.7531512809621944, -2.4256934659182068e-17 },
        { 0.7853981633974483, 3.061616997868383e-17 }
    };
    int k = (int)rint(16 * (y / x));
    double c = k / 16.0, s = (y - c * x) / (x + c * y), z = s * s, p = 1.0 / 13;
    for (int i = 11; i >= 3; i -= 2)
        p = 1.0 / i - z * p;
    *small = angle[k][1] + (s - s * z * p);
    return angle[k][0];
}

static int minus(double x) { return x < 0 || (x == 0 && 1 / x < 0); }

/* The angle of (x,y) in [-pi,pi]; signed zeros and infinities as in the C standard. */
double di_atan2(double y, double x)
{
    if (x != x || y != y)
        return x + y;
    double a = fabs(y), b = fabs(x), top = a > b ? a : b, small, big;
    if (top > 1.7976931348623157e308) { /* infinite */
        a = a == top;
        b = b == top;
    } else if (top > 1e300 || top < 1e-270) {
        a *= top > 1 ? ldexp(1, -64) : ldexp(1, 200);
        b *= top > 1 ? ldexp(1, -64) : ldexp(1, 200);
    }
    if (top == 0)
        b = 1;
    const double half = 1.57079632679489661923, rest = 6.12323399573676603587e-17; /* pi/2 */
    if (a <= b) {
        big = octant(a, b, &small);
    } else {
        big = half - octant(b, a, &small);
        small = rest - small;
    }
    if (minus(x)) {
        double turned = 2 * half - big;
        small = ((2 * half - turned) - big) + (2 * rest - small);
        big = turned;
    }
    double angle = big + small;
    return minus(y) ? -angle : angle;
}

/* [-+]digits[.digits][e[-+]digits]: at most 15 significant digits, one exact division. */
int di_parse(const char *s, size_t len, double *value)
{
    const char *end = s + len;
    int negative = 0, digits = 0, scale = 0, point = 0, any = 0;
    double m = 0;
    if (s < end && (*s == '-' || *s == '+'))
        negative = *s++ == '-';
    for (; s < end && ((*s >= '0' && *s <= '9') || (*s == '.' && !point)); s++) {
        if (*s == '.') {
            point = 1;
            continue;
        }
        any = 1;
        if (digits || *s != '0') {
            if (digits < 15) {
                m = m * 10 + (*s - '0');
                digits++;
            } else if (*s != '0') {
                return -1;
            } else {
                scale++;
            }
        }
        scale -= point;
    }
    if (!any)
        return -1;
    if (s < end && (*s == 'e' || *s == 'E')) {
        int sign = 1, e = 0;
        if (++s < end && (*s == '-' || *s == '+'))
            sign = *s++ == '-' ? -1 : 1;
        if (s == end)
            return -1;
        for (; s < end && *s >= '0' && *s <= '9' && e < 1000; s++)
            e = e * 10 + (*s - '0');
        scale += sign * e;
    }
    if (s != end)
        return -1;
    while (m != 0 && scale < 0 && fmod(m, 10) == 0) {
        m /= 10;
        scale++;
    }
    if (m != 0 && (scale < -22 || scale > 22))
        return -1;
    double ten = 1;
    for (int i = 0; m != 0 && i < (scale < 0 ? -scale : scale); i++)
        ten *= 10;
    m = scale < 0 ? m / ten : m * ten;
    *value = negative ? -m : m;
    return 0;
}

/* ==== 7. Random numbers ======================================================================
   Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011): a pure function of seed and counter. */

void di_philox(uint64_t seed, const uint32_t counter[4], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)c0 * 0xD2511F53u, b = (uint64_t)c2 * 0xCD9E8D57u;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

static void random_words(size_t block_number, uint64_t seed, uint32_t stream, uint64_t sample,
                         uint32_t draw, uint32_t out[4])
{
    uint32_t counter[4] = { (uint32_t)block_number, draw,
                            stream | (uint32_t)(sample >> 32) << 8, (uint32_t)sample };
    di_philox(seed, counter, out);
}

uint32_t di_bits(size_t i, uint64_t seed, uint32_t stream, uint64_t sample, uint32_t draw)
{
    uint32_t r[4];
    random_words(i / 4, seed, stream, sample, draw, r);
    return r[i % 4];
}

/* Box-Muller on (a + 1/2) / 2^32, so |z| <= 6.77. */
void di_normal(di_real *out, size_t n, uint64_t seed, uint32_t stream, uint64_t sample,
               uint32_t draw)
{
    for (size_t i = 0; i < n; i += 4) {
        uint32_t r[4];
        random_words(i / 4, seed, stream, sample, draw, r);
        for (size_t j = 0; j < 4 && i + j < n; j += 2) {
            double radius = sqrt(-2 * di_log((r[j] + 0.5) / 4294967296.0));
            double angle = 6.28318530717958647693 * ((r[j + 1] + 0.5) / 4294967296.0);
            out[i + j] = (di_real)(radius * di_cos(angle));
            if (i + j + 1 < n)
                out[i + j + 1] = (di_real)(radius * di_sin(angle));
        }
    }
}

/* ==== 8. Reductions ======================================================================= */

/* sum a*b: lane i%16 in di_real, flushed to double every 256 elements, tree 8-4-2-1. */
double di_dot(const di_real *a, const di_real *b, size_t n)
{
    double total[16] = { 0 };
    for (size_t i0 = 0; i0 < n; i0 += 256) {
        di_real part[16] = { 0 };
        size_t end = n - i0 < 256 ? n : i0 + 256;
        for (size_t i = i0; i < end; i++)
            part[i % 16] += a[i] * b[i];
        for (int l = 0; l < 16; l++)
            total[l] += part[l];
    }
    for (int half = 8; half; half /= 2)
        for (int l = 0; l < half; l++)
            total[l] += total[l + half];
    return total[0];
}

int di_finite(const di_real *a, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(a[i] - a[i] == 0))
            return 0;
    return 1;
}

/* ==== 9. Arena: working memory whose size a dry run has found ============================= */

/* First fit at the lowest address, so a run repeats its dry run's addresses exactly. */
static size_t arena_take(di_arena *m, size_t size)
{
    for (int i = 0; i < m->holes; i++)
        if (m->hole[i].size >= size) {
            size_t off = m->hole[i].off;
            m->hole[i].off += size;
            m->hole[i].size -= size;
            if (!m->hole[i].size) {
                m->holes--;
                memmove(m->hole + i, m->hole + i + 1, (m->holes - i) * sizeof *m->hole);
            }
            return off;
        }
    size_t off = m->top;
    m->top += size;
    if (m->top > m->peak)
        m->peak = m->top;
    return off;
}

/* Holes stay sorted and merged; one that reaches the top lowers it. 0 on success. */
static int arena_give(di_arena *m, size_t off, size_t size)
{
    int i = 0;
    while (i < m->holes && m->hole[i].off < off)
        i++;
    if (i > 0 && m->hole[i - 1].off + m->hole[i - 1].size == off) {
        m->hole[--i].size += size;
    } else {
        if (m->holes == m->cap)
            return -1;
        memmove(m->hole + i + 1, m->hole + i, (m->holes - i) * sizeof *m->hole);
        m->hole[i].off = off;
        m->hole[i].size = size;
        m->holes++;
    }
    if (i + 1 < m->holes && m->hole[i].off + m->hole[i].size == m->hole[i + 1].off) {
        m->hole[i].size += m->hole[i + 1].size;
        m->holes--;
        memmove(m->hole + i + 1, m->hole + i + 2, (m->holes - i - 1) * sizeof *m->hole);
    }
    if (i == m->holes - 1 && m->hole[i].off + m->hole[i].size == m->top) {
        m->top = m->hole[i].off;
        m->holes--;
    }
    return 0;
}

/* ==== 10. The tape ===========================================================================
   A list of records {vjp, inputs, output, saved}. Networks are straight-line code on it: after
   a failure every operation returns NULL, and NULL is a legal input. A record keeps only what
   its derivative reads; gradients are created by their first contribution, which is handed
   over instead of copied wherever it can be. */

struct di_rec {
    void (*vjp)(di_tape *, di_rec *);
    di_tensor *x, *add, *y;
    const void *weight;         /* or the part that is run again */
    di_buf *saved;
    double scale;
    int flag;
    di_again_fn again;
    void *user;
};

enum { POOL_BYTES = 1 << 16, MAX_HOLES = 1024, CHUNK = 512, CHUNKS = 4096 /* of records */ };
typedef struct pool_chunk {
    struct pool_chunk *next;
    size_t used;
    double data[1];
} pool_chunk;

static void *pool_new(di_tape *tp, size_t size)
{
    size = (size + 15) / 16 * 16;
    pool_chunk *c = tp->pool;
    size_t room = POOL_BYTES - offsetof(pool_chunk, data);
    while (c && c->used + size > room && c->next)
        c = c->next;
    if (size > room || tp->failed)
        return NULL;
    if (!c || c->used + size > room) {
        pool_chunk *fresh = di_new(tp->ctx, 1, POOL_BYTES);
        if (!fresh) {
            tp->failed = 1;
            return NULL;
        }
        if (c)
            c->next = fresh;
        else
            tp->pool = fresh;
        c = fresh;
    }
    void *p = (char *)c->data + c->used;
    c->used += size;
    memset(p, 0, size);
    return p;
}

void di_tape_open(di_tape *tp, di_ctx *ctx)
{
    memset(tp, 0, sizeof *tp);
    tp->ctx = ctx;
    tp->k = ctx->k;
}

void di_tape_close(di_tape *tp)
{
    for (pool_chunk *c = tp->pool, *next; c; c = next) {
        next = c->next;
        di_free(tp->ctx, c);
    }
    di_free(tp->ctx, tp->arena.hole);
    for (int i = 0; tp->rec && i < CHUNKS; i++)
        di_free(tp->ctx, tp->rec[i]);
    di_free(tp->ctx, tp->rec);
    memset(tp, 0, sizeof *tp);
}

size_t di_tape_bytes(const di_tape *tp)
{
    size_t n = tp->arena.hole ? MAX_HOLES * sizeof *tp->arena.hole : 0;
    for (const pool_chunk *c = tp->pool; c; c = c->next)
        n += POOL_BYTES;
    for (int i = 0; tp->rec && i < CHUNKS; i++)
        n += tp->rec[i] ? CHUNK * sizeof **tp->rec : 0;
    return n + (tp->rec ? CHUNKS * sizeof *tp->rec : 0);
}

di_status di_tape_begin(di_tape *tp, void *base, size_t size, int keep)
{
    if (!tp->rec)
        tp->rec = di_new(tp->ctx, CHUNKS, sizeof *tp->rec);
    if (!tp->arena.hole)
        tp->arena.hole = di_new(tp->ctx, MAX_HOLES, sizeof *tp->arena.hole);
    if (!tp->rec || !tp->arena.hole)
        return DI_EMEMORY;
    tp->arena.cap = MAX_HOLES;
    for (pool_chunk *c = tp->pool; c; c = c->next)
        c->used = 0;
    tp->dry = !base;
    tp->keep = keep;
    tp->failed = tp->recs = 0;
    tp->macs = 0;
    tp->arena.base = base;
    tp->arena.size = size;
    tp->arena.top = tp->arena.peak = 0;
    tp->arena.holes = 0;
    return DI_OK;
}

static void tape_fail(di_tape *tp, di_status s, const char *what)
{
    tp->failed = 1;
    di_fail(tp->ctx, s, "%s", what);
}

static di_buf *buf_new(di_tape *tp, size_t size)
{
    di_buf *b = pool_new(tp, sizeof *b);
    if (!b)
        return NULL;
    b->size = (size + 63) / 64 * 64;
    b->refs = 1;
    b->off = arena_take(&tp->arena, b->size);
    if (!tp->dry && tp->arena.top > tp->arena.size) {
        tape_fail(tp, DI_EMEMORY, "working memory too small: planned for another size");
        return NULL;
    }
    return b;
}

static void *buf_data(di_tape *tp, di_buf *b) { return tp->arena.base + b->off; }

static void buf_drop(di_tape *tp, di_buf *b)
{
    if (b && --b->refs == 0 && arena_give(&tp->arena, b->off, b->size))
        tape_fail(tp, DI_EMEMORY, "working memory too fragmented");
}

static di_tensor *header_new(di_tape *tp, int n, int c, int h, int w)
{
    di_tensor *t = pool_new(tp, sizeof *t);
    if (!t)
        return NULL;
    t->n = n;
    t->c = c;
    t->h = h;
    t->w = w;
    t->cb = (c + 15) / 16;
    t->blk = pool_new(tp, (size_t)n * t->cb * sizeof *t->blk);
    t->sums = pool_new(tp, (size_t)n * t->cb * sizeof *t->sums);
    if (!t->sums && !tp->failed)
        tape_fail(tp, DI_EMEMORY, "too many images in one batch");
    return t->sums ? t : NULL;
}

static size_t plane(const di_tensor *t) { return (size_t)(t->h + 2) * (t->w + 2) * 16; }

di_tensor *di_tensor_new(di_tape *tp, int n, int c, int h, int w)
{
    di_tensor *t = header_new(tp, n, c, h, w);
    if (!t)
        return NULL;
    size_t size = plane(t), row = (size_t)(w + 2) * 16;
    t->buf[0] = buf_new(tp, (size_t)n * t->cb * size * sizeof(di_real));
    if (!t->buf[0] || tp->dry)
        return t->buf[0] ? t : NULL;
    di_real *p = buf_data(tp, t->buf[0]);
    for (int b = 0; b < n * t->cb; b++, p += size) {
        t->blk[b] = p;
        memset(p, 0, (row + 16) * sizeof *p); /* the border: +0 */
        for (int i = 1; i <= h; i++)
            memset(p + (i + 1) * row - 16, 0, 32 * sizeof *p);
        memset(p + (h + 1) * row + 16, 0, (row - 16) * sizeof *p);
    }
    return t;
}

static di_tensor *like(di_tape *tp, const di_tensor *t)
{
    return di_tensor_new(tp, t->n, t->c, t->h, t->w);
}

static di_buf *hold(di_buf *b)
{
    if (b)
        b->refs++;
    return b;
}

/* A record's hold on a tensor: on its elements alone. */
static void keep(di_tensor *t)
{
    hold(t->buf[0]);
    hold(t->buf[1]);
}

static void release(di_tape *tp, di_tensor *t)
{
    buf_drop(tp, t->buf[0]);
    buf_drop(tp, t->buf[1]);
}

static void forget_sums(di_tape *tp, di_tensor *t)
{
    buf_drop(tp, t->sum_buf[0]);
    buf_drop(tp, t->sum_buf[1]);
    t->sum_buf[0] = t->sum_buf[1] = NULL;
    memset(t->sums, 0, (size_t)t->n * t->cb * sizeof *t->sums);
}

void di_drop(di_tape *tp, di_tensor *t)
{
    if (!t)
        return;
    release(tp, t);
    buf_drop(tp, t->coef);
    forget_sums(tp, t);
}

static int live(const di_tape *tp) { return !tp->dry && !tp->failed; }

static di_real *const *planes(const di_tensor *t) { return t->blk; }

/* Threads for so many multiply-adds or their like: waking others takes as long as 4 million. */
static int share(const di_tape *tp, double work)
{
    return work < 4e6 ? 1 : tp->ctx->threads;
}

/* The same for passes over t, some 16 operations an element. */
static int share_over(const di_tape *tp, const di_tensor *t)
{
    return share(tp, 256.0 * t->n * t->cb * t->h * t->w);
}

/* Tells who measures that an operation from x to y is done. */
static void done(const di_tape *tp, const char *op, const di_tensor *x, const di_tensor *y,
                 double macs)
{
    if (tp->ctx->probe && live(tp))
        tp->ctx->probe(tp->ctx->probe_user, op, x, y, macs);
}

/* x itself with its elements computed, where a norm had only promised them. */
static di_tensor *solid(di_tape *tp, di_tensor *x)
{
    if (!x || !x->coef)
        return x;
    di_tensor *y = di_tensor_new(tp, x->n, x->c, x->h, x->w);
    if (!y)
        return NULL;
    if (live(tp))
        tp->k->norm_apply(y->blk, x->blk, x->A, x->B, x->n * x->cb, x->h, x->w, x->silu,
                          share_over(tp, x));
    release(tp, x);
    buf_drop(tp, x->coef);
    x->coef = NULL;
    x->blk = y->blk;
    x->buf[0] = y->buf[0];
    x->buf[1] = NULL;
    return x;
}

/* A record, when the output's gradient will be wanted. */
static di_rec *record(di_tape *tp, void (*vjp)(di_tape *, di_rec *), di_tensor *x, di_tensor *y)
{
    if (!tp->keep || !y || !x->need || tp->failed)
        return NULL;
    if (tp->recs == CHUNK * CHUNKS) {
        tape_fail(tp, DI_EMEMORY, "too many layers and images for one tape: use fewer images");
        return NULL;
    }
    di_rec **chunk = &tp->rec[tp->recs / CHUNK];
    if (!*chunk)
        *chunk = di_new(tp->ctx, CHUNK, sizeof **chunk);
    if (!*chunk) {
        tp->failed = 1;
        return NULL;
    }
    di_rec *r = &(*chunk)[tp->recs++ % CHUNK];
    memset(r, 0, sizeof *r);
    r->vjp = vjp;
    r->x = x;
    r->y = y;
    y->need = 1;
    return r;
}

/* t->g (+)= g, where g is no longer needed: handed over when it is the first contribution. */
static void give_gradient(di_tape *tp, di_tensor *t, di_tensor *g)
{
    if (!g)
        return;
    if (!t->g) {
        t->g = g;
        return;
    }
    if (live(tp))
        tp->k->axpy(t->g->blk, planes(g), 1, g->n * g->cb, plane(g), 1, share_over(tp, g));
    di_drop(tp, g);
}

/* Through the records from the last one to number `base`; a record may add others after
   itself and go back through them. */
static void back_to(di_tape *tp, int base)
{
    while (tp->recs > base) {
        int i = tp->recs - 1;
        di_rec *r = &tp->rec[i / CHUNK][i % CHUNK];
        if (r->y->g && !tp->failed)
            r->vjp(tp, r);
        di_drop(tp, r->y->g);
        r->y->g = NULL;
        if (r->saved)
            buf_drop(tp, r->saved);
        tp->recs = i;
    }
}

void di_tape_back(di_tape *tp) { back_to(tp, 0); }

/* The part runs again, this time on record; the same operations give the same bits. */
static void again_vjp(di_tape *tp, di_rec *r)
{
    int base = tp->recs;
    di_tensor *y = r->again(r->user, r->weight, r->x, r->add);
    if (y) {
        y->g = r->y->g;
        r->y->g = NULL;
        di_drop(tp, y);
        back_to(tp, base);
    }
    forget_sums(tp, r->x);
    release(tp, r->x);
    release(tp, r->add);
}

di_tensor *di_again(di_tape *tp, di_again_fn f, void *user, const void *part, di_tensor *x,
                    di_tensor *emb)
{
    int wanted = tp->keep;
    x = solid(tp, x);
    if (!x || tp->failed)
        return NULL;
    tp->keep = 0;
    di_tensor *y = f(user, part, x, emb);
    tp->keep = wanted;
    di_rec *r = record(tp, again_vjp, x, y);
    if (r) {
        r->add = emb;
        r->weight = part;
        r->again = f;
        r->user = user;
        keep(x);
        keep(emb);
    }
    return y;
}

/* ==== 11. Operations ====================================================================== */

/* x (n,have,h,w), have <= c: the channels past it are +0. */
di_tensor *di_pack(di_tape *tp, int n, int c, int h, int w, const di_real *x, int have)
{
    di_tensor *t = di_tensor_new(tp, n, c, h, w);
    for (int b = 0; t && live(tp) && b < n * t->cb; b++) {
        int c0 = b % t->cb * 16;
        for (int i = 0; i < h; i++) {
            di_real *p = t->blk[b] + ((size_t)(i + 1) * (w + 2) + 1) * 16;
            for (int j = 0; j < w; j++)
                for (int l = 0; l < 16; l++, p++)
                    *p = c0 + l < have
                             ? x[(((size_t)(b / t->cb) * have + c0 + l) * h + i) * w + j] : 0;
        }
    }
    return t;
}

void di_unpack(di_tape *tp, di_tensor *t, int from, int c, di_real *x)
{
    t = solid(tp, t);
    for (int n = 0; t && live(tp) && n < t->n; n++)
        for (int k = 0; k < c; k++)
            for (int i = 0; i < t->h; i++) {
                const di_real *p = t->blk[n * t->cb + (from + k) / 16]
                                   + ((size_t)(i + 1) * (t->w + 2) + 1) * 16 + (from + k) % 16;
                for (int j = 0; j < t->w; j++)
                    x[(((size_t)n * c + k) * t->h + i) * t->w + j] = p[(size_t)j * 16];
            }
}

/* ---- convolution ---- */

size_t di_conv_bytes(int oc, int ic, int k)
{
    return (size_t)((oc + 15) / 16) * ((ic + 15) / 16) * k * k * 256 * sizeof(di_real);
}

/* Packs weight [oc][ic][k][k] and bias [oc] (or NULL) into fresh memory of the context. */
di_status di_conv_init(di_ctx *ctx, di_conv *w, const di_real *weight, const di_real *bias)
{
    int taps = w->k * w->k, ob = (w->oc + 15) / 16, ib = (w->ic + 15) / 16;
    w->w = di_new(ctx, (size_t)ob * ib * taps * 256, sizeof *w->w);
    w->bias = di_new(ctx, (size_t)ob * 16, sizeof *w->bias);
    if (!w->w || !w->bias)
        return DI_EMEMORY;
    for (int o = 0; o < w->oc; o++)
        for (int i = 0; i < w->ic; i++)
            for (int t = 0; t < taps; t++)
                w->w[((((size_t)(o / 16) * ib + i / 16) * taps + t) * 16 + i % 16) * 16
                     + o % 16] = weight[((size_t)o * w->ic + i) * taps + t];
    if (bias)
        memcpy(w->bias, bias, (size_t)w->oc * sizeof *bias);
    return DI_OK;
}

/* The fast class takes Winograd's way by the layer's shape alone. */
static int wants_wino(const di_ctx *ctx, int k, int stride, int ic, int h, int w)
{
    return ctx->fast && k == 3 && stride == 1 && ic >= 32 && h % 4 == 0 && w % 4 == 0
           && h * w >= 64;
}

/* Elements of scratch; sets how threads share the work: each a band, or all one image. */
static size_t conv_work(conv_args *a, int fast)
{
    size_t pitch = (size_t)(a->w + 2) * 16, v, each;
    if (fast) {
        wino_plan p;
        a->together = 0;
        wino_layout(a, &p, &each, &v);
        a->together = a->n * p.down < 2 * a->threads * p.rows;
        wino_layout(a, &p, &each, &v);
        a->each = a->together ? each : v + each;
        return (a->together ? v : 0) + a->threads * a->each;
    }
    /* pixels of a band: the input of all its channels stays in L2 or L3 for every output */
    int pixels = a->taps == 1 ? 512 : 1024, least = a->taps == 1 ? 1 : 8;
    a->rows = pixels / a->w > least ? pixels / a->w : least;
    a->together = a->n * ((a->h + a->rows - 1) / a->rows) < 2 * a->threads;
    a->each = !a->A ? 0 : a->ib * pitch * (a->together ? a->h + 2 : a->rows + 2);
    return a->together ? a->each : a->each * a->threads;
}

/* t's sums over rows, ascending: total [n*cb][32]. */
static void add_rows(di_tensor *t, double *total, const double *rows)
{
    memset(total, 0, (size_t)t->n * t->cb * 32 * sizeof *total);
    for (int b = 0; b < t->n * t->cb; b++, total += 32) {
        for (int i = 0; i < t->h; i++, rows += 32)
            for (int l = 0; l < 32; l++)
                total[l] += rows[l];
        t->sums[b] = total;
    }
}

/* t's sums by a pass of their own: of x, or with `norm` of its gradient t. */
static void make_sums(di_tape *tp, di_tensor *t, const di_tensor *norm)
{
    size_t blocks = (size_t)t->n * t->cb;
    forget_sums(tp, t);
    t->sum_buf[0] = buf_new(tp, blocks * 32 * sizeof(double));
    di_buf *rows = buf_new(tp, blocks * t->h * 32 * sizeof(double));
    if (live(tp)) {
        double *sums = buf_data(tp, rows);
        if (norm)
            tp->k->norm_vjp_sums(sums, t->blk, planes(norm), norm->A, norm->B, (int)blocks,
                                 t->h, t->w, norm->silu, share_over(tp, t));
        else
            tp->k->norm_sums(sums, planes(t), (int)blocks, t->h, t->w, share_over(tp, t));
        add_rows(t, buf_data(tp, t->sum_buf[0]), sums);
    }
    buf_drop(tp, rows);
}

/* y = scale * (conv(x) + bias + add), or with acc y += conv(x); the derivative takes the
   weights transposed and flipped. norm: y is the gradient of this, its one use. */
static void run_conv(di_tape *tp, di_tensor *y, di_tensor *x, const di_conv *w, int derivative,
                     di_tensor *add, double scale, int acc, const di_tensor *norm)
{
    static const di_real promised = 0; /* a dry run has no coefficients yet */
    conv_args a = { 0 };
    ptrdiff_t pitch = x->w + 2;
    int stride = derivative || w->stride != 2 ? 1 : 2, end = derivative ? 0 : w->end;
    int fast = wants_wino(tp->ctx, w->k, stride, x->c, y->h, y->w);
    int sums = norm || (w->sums && !derivative);
    a.n = x->n;
    a.ib = x->cb;
    a.ob = y->cb;
    a.h = y->h;
    a.w = y->w;
    a.last = x->c - (x->cb - 1) * 16;
    a.taps = w->k * w->k;
    for (int t = 0; t < a.taps; t++) /* the tensor's border is the padding */
        a.off[t] = w->k == 1 ? (pitch + 1) * 16 : ((t / 3 + end) * pitch + t % 3 + end) * 16;
    a.step = 16 * stride;
    a.row = 16 * stride * pitch;
    a.threads = share(tp, (double)a.n * a.h * a.w * w->ic * w->oc * w->k * w->k);
    a.A = !x->coef ? NULL : live(tp) ? x->A : &promised;
    size_t work = conv_work(&a, fast);
    size_t flipped = derivative && !fast ? (size_t)a.ob * a.ib * a.taps * 256 : 0;
    size_t rows = sums ? (size_t)a.n * a.ob * a.h * 32 : 0;
    if (sums)
        y->sum_buf[0] = buf_new(tp, (size_t)a.n * a.ob * 32 * sizeof(double));
    di_buf *scratch = buf_new(tp, rows * sizeof(double) + (work + flipped) * sizeof(di_real));
    if (live(tp)) {
        a.sums = sums ? buf_data(tp, scratch) : NULL;
        a.work = (di_real *)((double *)buf_data(tp, scratch) + rows);
        a.weight = w->w;
        a.flipped = derivative ? a.work + work : NULL;
        a.bias = derivative ? NULL : w->bias;
        a.x = (const di_real *const *)x->blk;
        a.y = y->blk;
        a.add = add ? planes(add) : NULL;
        a.scale = (di_real)scale;
        a.acc = acc;
        a.B = x->B;
        a.silu = x->silu;
        if (norm) {
            a.nx = planes(norm);
            a.nA = norm->A;
            a.nB = norm->B;
            a.nsilu = norm->silu;
        }
        if (fast)
            tp->k->wino(&a);
        else
            tp->k->conv(&a);
        if (sums)
            add_rows(y, buf_data(tp, y->sum_buf[0]), a.sums);
    }
    buf_drop(tp, scratch);
}

/* gx = W^T gy; stride 2 goes through gy spread out on the input's grid. add: gadd = gy. */
static void conv_vjp(di_tape *tp, di_rec *r)
{
    const di_conv *w = r->weight;
    di_tensor *gy = r->y->g, *spread = NULL;
    if (r->scale != 1 && live(tp))
        tp->k->axpy(gy->blk, planes(gy), (di_real)r->scale, gy->n * gy->cb, plane(gy), 0,
                    share_over(tp, gy));
    if (w->stride == 2) {
        spread = di_tensor_new(tp, gy->n, gy->c, r->x->h, r->x->w);
        for (int b = 0; spread && live(tp) && b < gy->n * gy->cb; b++) {
            memset(spread->blk[b], 0, plane(spread) * sizeof(di_real));
            for (int i = 0; i < gy->h; i++)
                for (int j = 0; j < gy->w; j++)
                    memcpy(spread->blk[b] + ((size_t)(2 * i + 1 + w->end) * (spread->w + 2)
                                             + 2 * j + 1 + w->end) * 16,
                           gy->blk[b] + ((size_t)(i + 1) * (gy->w + 2) + j + 1) * 16,
                           16 * sizeof(di_real));
        }
    }
    int acc = r->x->g != NULL;
    if (!acc)
        r->x->g = like(tp, r->x);
    if (r->x->g)
        run_conv(tp, r->x->g, spread ? spread : gy, w, 1, NULL, 1, acc,
                 r->x->coef && r->x->uses == 1 ? r->x : NULL);
    di_drop(tp, spread);
    double macs = (double)w->k * w->k * w->ic * w->oc * r->y->h * r->y->w * r->y->n;
    tp->macs += macs;
    done(tp, w->k == 3 ? "conv 3x3 vjp" : "conv 1x1 vjp", gy, r->x, macs);
    if (r->add && r->add->need) {
        r->y->g = NULL;
        give_gradient(tp, r->add, gy);
    }
}

di_tensor *di_convolve(di_tape *tp, di_tensor *x, const di_conv *w, di_tensor *add,
                       double scale)
{
    add = solid(tp, add);
    if (w && w->stride == 2)
        x = solid(tp, x);
    if (!x || tp->failed)
        return NULL;
    int s = w->stride == 2 ? 2 : 1;
    di_tensor *y = di_tensor_new(tp, x->n, w->oc, x->h / s, x->w / s);
    if (!y)
        return NULL;
    x->uses++;
    run_conv(tp, y, x, w, 0, add, scale, 0, NULL);
    double macs = (double)w->k * w->k * w->ic * w->oc * y->h * y->w * y->n;
    tp->macs += macs;
    done(tp, w->k == 3 ? "conv 3x3" : "conv 1x1", x, y, macs);
    di_rec *r = record(tp, conv_vjp, x, y);
    if (r) {
        r->weight = w;
        r->add = add;
        r->scale = scale;
    }
    return y;
}

/* ---- group norm, scale-shift, SiLU ---- */

/* saved: per (image, group) mean and 1/std in double, then A and B per (image, channel). */
typedef struct norm_saved {
    double *stat;       /* [n*groups][2] */
    di_real *A, *B, *S; /* [n*cb*16]; S = g(1+s), the gain without 1/std */
} norm_saved;

static norm_saved norm_layout(void *data, const di_tensor *x, int groups)
{
    norm_saved s;
    size_t count = (size_t)x->n * x->cb * 16;
    s.stat = data;
    s.A = (di_real *)(s.stat + (size_t)x->n * groups * 2);
    s.B = s.A + count;
    s.S = s.B + count;
    return s;
}

static void norm_coefficients(norm_saved *s, const di_tensor *x, const di_norm *w,
                              const di_tensor *emb)
{
    int per = w->c / w->groups;
    double count = (double)per * x->h * x->w;
    for (int n = 0; n < x->n; n++)
        for (int gr = 0; gr < w->groups; gr++) {
            double a = 0, q = 0;
            for (int c = gr * per; c < (gr + 1) * per; c++) {
                a += x->sums[n * x->cb + c / 16][c % 16];
                q += x->sums[n * x->cb + c / 16][16 + c % 16];
            }
            double mean = a / count, var = q / count - mean * mean;
            double rstd = 1 / sqrt((var > 0 ? var : 0) + w->eps);
            s->stat[(n * w->groups + gr) * 2] = mean;
            s->stat[(n * w->groups + gr) * 2 + 1] = rstd;
            for (int c = gr * per; c < (gr + 1) * per; c++) {
                double gain = w->g[c], shift = w->b[c];
                if (emb) { /* (1,2C,1,N): scale, then shift */
                    size_t at = ((size_t)1 * (emb->w + 2) + 1 + n) * 16;
                    int c2 = c + w->c;
                    double k = 1 + (double)emb->blk[c / 16][at + c % 16];
                    gain *= k;
                    shift = shift * k + emb->blk[c2 / 16][at + c2 % 16];
                }
                size_t at = (size_t)n * x->cb * 16 + c;
                s->S[at] = (di_real)gain;
                s->A[at] = (di_real)(gain * rstd);
                s->B[at] = (di_real)(shift - gain * rstd * mean);
            }
        }
}

/* xh = (x-m)r, q = S gy f'(u): gx = r (q - mean(q) - xh mean(q xh)), means over a group. */
static void norm_vjp(di_tape *tp, di_rec *r)
{
    const di_norm *w = r->weight;
    di_tensor *x = r->x, *g = r->y->g;
    di_tensor read = *r->y; /* its elements may have been computed since */
    read.blk = x->blk;
    if (!g->sum_buf[0])
        make_sums(tp, g, &read);
    di_buf *work = buf_new(tp, (size_t)x->n * x->cb * 64 * sizeof(di_real));
    if (live(tp)) {
        norm_saved s = norm_layout(buf_data(tp, r->saved), x, w->groups);
        di_real *coef = buf_data(tp, work);
        int per = w->c / w->groups;
        double count = (double)per * x->h * x->w;
        memset(coef, 0, (size_t)x->n * x->cb * 64 * sizeof *coef);
        for (int n = 0; n < x->n; n++)
            for (int gr = 0; gr < w->groups; gr++) {
                double mean = s.stat[(n * w->groups + gr) * 2];
                double rstd = s.stat[(n * w->groups + gr) * 2 + 1], mq = 0, mqx = 0;
                for (int c = gr * per; c < (gr + 1) * per; c++) {
                    double gain = s.S[(size_t)n * x->cb * 16 + c];
                    const double *sums = g->sums[n * x->cb + c / 16] + c % 16;
                    mq += gain * sums[0];
                    mqx += gain * (rstd * (sums[16] - mean * sums[0]));
                }
                for (int c = gr * per; c < (gr + 1) * per; c++) {
                    di_real *k = coef + ((size_t)n * x->cb + c / 16) * 64 + c % 16;
                    k[0] = (di_real)(rstd * s.S[(size_t)n * x->cb * 16 + c]);
                    k[16] = (di_real)(-rstd * rstd * mqx / count);
                    k[32] = (di_real)mean;
                    k[48] = (di_real)(-rstd * mq / count);
                }
            }
        /* the first contribution is computed in gy's own place and handed over */
        tp->k->norm_vjp_apply(x->g ? x->g->blk : g->blk, planes(g), planes(x), coef,
                              x->n * x->cb, x->h, x->w, x->g != NULL, share_over(tp, x));
    }
    buf_drop(tp, work);
    forget_sums(tp, g);
    done(tp, "norm vjp", x, x, 0);
    if (!x->g) {
        x->g = g;
        r->y->g = NULL;
    }
    release(tp, x);
}

/* The norm's coefficients; the elements are computed by who reads them. */
di_tensor *di_normalize(di_tape *tp, di_tensor *x, const di_norm *w, const di_tensor *emb,
                        int silu)
{
    x = solid(tp, x);
    di_tensor *y = x && !tp->failed ? header_new(tp, x->n, x->c, x->h, x->w) : NULL;
    if (!y)
        return NULL;
    size_t count = (size_t)x->n * x->cb * 16;
    if (!x->sum_buf[0] || (x->buf[1] && !x->sum_buf[1]))
        make_sums(tp, x, NULL);
    y->coef = buf_new(tp, (size_t)x->n * w->groups * 2 * sizeof(double)
                      + 3 * count * sizeof(di_real));
    if (!y->coef)
        return NULL;
    y->silu = silu;
    y->buf[0] = hold(x->buf[0]);
    y->buf[1] = hold(x->buf[1]);
    memcpy(y->blk, x->blk, (size_t)x->n * x->cb * sizeof *y->blk);
    if (live(tp)) {
        norm_saved s = norm_layout(buf_data(tp, y->coef), x, w->groups);
        memset(s.A, 0, 3 * count * sizeof(di_real)); /* padding channels stay +0 */
        norm_coefficients(&s, x, w, emb);
        y->A = s.A;
        y->B = s.B;
    }
    done(tp, "norm", x, y, 0);
    di_rec *r = record(tp, norm_vjp, x, y);
    if (r) {
        r->weight = w;
        r->saved = hold(y->coef);
        keep(x);
    }
    return y;
}

/* ---- resampling, concatenation ---- */

static void upsample_vjp(di_tape *tp, di_rec *r)
{
    int acc = r->x->g != NULL;
    if (!acc)
        r->x->g = like(tp, r->x);
    if (r->x->g && live(tp))
        tp->k->pool(r->x->g->blk, planes(r->y->g), 1, r->x->n * r->x->cb, r->x->h, r->x->w, acc,
                    share_over(tp, r->y));
    done(tp, "resample vjp", r->y, r->x, 0);
}

di_tensor *di_upsample(di_tape *tp, di_tensor *x)
{
    x = solid(tp, x);
    di_tensor *y = x && !tp->failed ? di_tensor_new(tp, x->n, x->c, 2 * x->h, 2 * x->w) : NULL;
    if (y && live(tp))
        tp->k->upsample(y->blk, planes(x), 1, x->n * x->cb, x->h, x->w, 0, share_over(tp, y));
    if (y) {
        done(tp, "resample", x, y, 0);
        record(tp, upsample_vjp, x, y);
    }
    return y;
}

static void pool_vjp(di_tape *tp, di_rec *r)
{
    int acc = r->x->g != NULL;
    if (!acc)
        r->x->g = like(tp, r->x);
    if (r->x->g && live(tp))
        tp->k->upsample(r->x->g->blk, planes(r->y->g), (di_real)0.25, r->y->n * r->y->cb,
                        r->y->h, r->y->w, acc, share_over(tp, r->x));
    done(tp, "resample vjp", r->y, r->x, 0);
}

di_tensor *di_pool2(di_tape *tp, di_tensor *x)
{
    x = solid(tp, x);
    di_tensor *y = x && !tp->failed ? di_tensor_new(tp, x->n, x->c, x->h / 2, x->w / 2) : NULL;
    if (y && live(tp))
        tp->k->pool(y->blk, planes(x), (di_real)0.25, x->n * x->cb, y->h, y->w, 0,
                    share_over(tp, x));
    if (y) {
        done(tp, "resample", x, y, 0);
        record(tp, pool_vjp, x, y);
    }
    return y;
}

/* Channels [from, from+c) of t, sharing its memory. */
static di_tensor *slice(di_tape *tp, di_tensor *t, int from, int c)
{
    di_tensor *s = header_new(tp, t->n, c, t->h, t->w);
    if (!s)
        return NULL;
    for (int n = 0; n < t->n; n++)
        for (int b = 0; b < s->cb; b++)
            s->blk[n * s->cb + b] = t->blk[n * t->cb + from / 16 + b];
    s->buf[0] = hold(t->buf[0]);
    s->buf[1] = hold(t->buf[1]);
    return s;
}

/* The gradient splits: each half is a view of gy's memory. */
static void concat_vjp(di_tape *tp, di_rec *r)
{
    di_tensor *a = r->x, *b = r->add, *g = r->y->g;
    if (a->need)
        give_gradient(tp, a, slice(tp, g, 0, a->c));
    if (b->need)
        give_gradient(tp, b, slice(tp, g, a->c, b->c));
}

di_tensor *di_concat(di_tape *tp, di_tensor *a, di_tensor *b)
{
    a = solid(tp, a);
    b = solid(tp, b);
    if (!a || !b || tp->failed)
        return NULL;
    if (a->c % 16 || a->buf[1] || b->buf[1]) {
        tape_fail(tp, DI_EINPUT, "concatenation needs plain tensors of 16k channels");
        return NULL;
    }
    di_tensor *y = header_new(tp, a->n, a->c + b->c, a->h, a->w);
    if (!y)
        return NULL;
    for (int n = 0; n < y->n; n++) {
        memcpy(y->blk + n * y->cb, a->blk + n * a->cb, a->cb * sizeof *y->blk);
        memcpy(y->blk + n * y->cb + a->cb, b->blk + n * b->cb, b->cb * sizeof *y->blk);
        memcpy(y->sums + n * y->cb, a->sums + n * a->cb, a->cb * sizeof *y->sums);
        memcpy(y->sums + n * y->cb + a->cb, b->sums + n * b->cb, b->cb * sizeof *y->sums);
    }
    y->buf[0] = hold(a->buf[0]);
    y->buf[1] = hold(b->buf[0]);
    y->sum_buf[0] = hold(a->sum_buf[0]);
    y->sum_buf[1] = hold(b->sum_buf[0]);
    di_rec *r = record(tp, concat_vjp, a->need ? a : b, y);
    if (r) {
        r->x = a;
        r->add = b;
    }
    return y;
}

/* ---- activations without a norm, pixel shuffles ---- */

/* Series of sinh and cosh where 1 - 2/(exp(2x)+1) would cancel. */
double di_tanh(double x)
{
    double a = fabs(x), z = x * x, s = 1, c = 1, e;
    if (!(a > 0.5)) {
        for (int k = 8; k >= 1; k--) {
            s = 1 + s * z / (2 * k * (2 * k + 1));
            c = 1 + c * z / (2 * k * (2 * k - 1));
        }
        return x * s / c;
    }
    e = a > 20 ? 1 : 1 - 2 / (di_exp(2 * a) + 1);
    return x < 0 ? -e : e;
}

static di_real activation(di_real x, double slope)
{
    if (slope == DI_TANH)
        return (di_real)di_tanh(x);
    return x > 0 ? x : (di_real)slope * x;
}

/* gx = f'(x) gy, in gy's own place, by the output: its sign is x's, and tanh' = 1 - tanh^2. */
static void activate_vjp(di_tape *tp, di_rec *r)
{
    di_tensor *y = r->y, *g = r->y->g;
    for (int b = 0; live(tp) && b < y->n * y->cb; b++)
        for (int i = 1; i <= y->h; i++) {
            const di_real *p = y->blk[b] + ((size_t)i * (y->w + 2) + 1) * 16;
            di_real *q = g->blk[b] + ((size_t)i * (y->w + 2) + 1) * 16;
            if (r->scale == DI_TANH)
                for (int j = 0; j < y->w * 16; j++)
                    q[j] *= 1 - p[j] * p[j];
            else
                for (int j = 0; j < y->w * 16; j++)
                    q[j] = p[j] > 0 ? q[j] : (di_real)r->scale * q[j];
        }
    release(tp, y);
    r->y->g = NULL;
    give_gradient(tp, r->x, g);
}

di_tensor *di_activate(di_tape *tp, di_tensor *x, double slope)
{
    x = solid(tp, x);
    di_tensor *y = x && !tp->failed ? like(tp, x) : NULL;
    if (!y)
        return NULL;
    for (int b = 0; live(tp) && b < y->n * y->cb; b++)
        for (int i = 1; i <= y->h; i++) {
            size_t row = ((size_t)i * (y->w + 2) + 1) * 16;
            for (int j = 0; j < y->w * 16; j++)
                y->blk[b][row + j] = activation(x->blk[b][row + j], slope);
        }
    done(tp, "activation", x, y, 0);
    di_rec *r = record(tp, activate_vjp, x, y);
    if (r) {
        r->scale = slope;
        keep(y);
    }
    return y;
}

/* big (n,C,2h,2w) and small (n,4C,h,w): big_c[2i+a][2j+b] = small_{(2a+b)C+c}[i][j]. Copies the
   one into the other. C is a multiple of 16, so whole blocks move. */
static void shuffle(di_tensor *big, di_tensor *small, int to_big)
{
    for (int k = 0; k < small->n * small->cb; k++) {
        int part = k % small->cb / big->cb;
        di_real *wide = big->blk[k / small->cb * big->cb + k % big->cb];
        for (int i = 0; i < small->h; i++)
            for (int j = 0; j < small->w; j++) {
                di_real *s = small->blk[k] + ((size_t)(i + 1) * (small->w + 2) + j + 1) * 16;
                di_real *b = wide + ((size_t)(2 * i + part / 2 + 1) * (big->w + 2)
                                     + 2 * j + part % 2 + 1) * 16;
                memcpy(to_big ? b : s, to_big ? s : b, 16 * sizeof *s);
            }
    }
}

/* Each is the other's inverse, a permutation, and so the other's derivative. */
static void shuffle_vjp(di_tape *tp, di_rec *r)
{
    di_tensor *gx = like(tp, r->x);
    if (gx && live(tp))
        shuffle(r->flag ? r->y->g : gx, r->flag ? gx : r->y->g, !r->flag);
    give_gradient(tp, r->x, gx);
}

di_tensor *di_shuffle(di_tape *tp, di_tensor *x, int to_big)
{
    x = solid(tp, x);
    if (!x || tp->failed)
        return NULL;
    int c = to_big ? x->c / 4 : 4 * x->c;
    if ((to_big ? c : x->c) % 16 || x->c % 16 || (!to_big && (x->h % 2 || x->w % 2))) {
        tape_fail(tp, DI_EINPUT, "a pixel shuffle needs 16k channels and even sides");
        return NULL;
    }
    di_tensor *y = to_big ? di_tensor_new(tp, x->n, c, 2 * x->h, 2 * x->w)
                          : di_tensor_new(tp, x->n, c, x->h / 2, x->w / 2);
    if (y && live(tp))
        shuffle(to_big ? y : x, to_big ? x : y, to_big);
    done(tp, "shuffle", x, y, 0);
    di_rec *r = record(tp, shuffle_vjp, x, y);
    if (r)
        r->flag = to_big;
    return y;
}

/* ---- embedding helpers (constants: no derivative) ---- */

void di_add_channels(di_tape *tp, di_tensor *x, const di_tensor *emb)
{
    if (!x || !emb)
        return;
    forget_sums(tp, x);
    for (int b = 0; live(tp) && b < x->n * x->cb; b++) {
        const di_real *e = emb->blk[b % x->cb] + ((size_t)(emb->w + 2) + 1 + b / x->cb) * 16;
        for (int i = 0; i < x->h; i++) {
            di_real *p = x->blk[b] + ((size_t)(i + 1) * (x->w + 2) + 1) * 16;
            for (int j = 0; j < x->w; j++, p += 16)
                for (int l = 0; l < 16; l++)
                    p[l] += e[l];
        }
    }
}

di_tensor *di_silu(di_tape *tp, di_tensor *x)
{
    di_tensor *y = x && !tp->failed ? like(tp, x) : NULL;
    di_buf *one = y ? buf_new(tp, 2 * (size_t)x->n * x->cb * 16 * sizeof(di_real)) : NULL;
    if (one && live(tp)) {
        di_real *A = buf_data(tp, one), *B = A + (size_t)x->n * x->cb * 16;
        for (int i = 0; i < x->n * x->cb * 16; i++) {
            A[i] = 1;
            B[i] = 0;
        }
        tp->k->norm_apply(y->blk, planes(x), A, B, x->n * x->cb, x->h, x->w, 1,
                          share_over(tp, x));
    }
    buf_drop(tp, one);
    return y;
}

/* ---- attention ----
   Per image and head, T positions, d channels: S = Q K^T / sqrt(d), P = softmax over keys,
   O = P V. The derivative recomputes P; nothing of size T x T is kept.

   All matrices in panels of 16 columns (3.5), queries in strips of QROWS. One row more between
   the panels of S and dS keeps a row of theirs off one set of the cache. */

enum { QROWS = 64, STRIP = QROWS * 16, WIDE = STRIP + 16 };

typedef struct attn {
    int T, d, Tp, dp;                  /* Tp, dp: rounded up to 16 */
    di_real *q, *k, *v;                /* [dp/16][Tp][16] */
    di_real *kt, *vt;                  /* [Tp/16][dp][16] */
    di_real *s, *ds;                   /* [Tp/16][WIDE] */
    di_real *go, *o;                   /* [dp/16][STRIP] */
    di_real *gq, *gk, *gv;             /* [dp/16][Tp][16] */
} attn;

/* Carves one job's scratch out of p (NULL: only counts); returns its size in elements. */
static size_t attn_layout(attn *a, int T, int d, int vjp, di_real *p)
{
    size_t Tp = ((size_t)T + 15) / 16 * 16, dp = ((size_t)d + 15) / 16 * 16, used = 0;
    size_t rows = Tp * dp, wide = Tp / 16 * WIDE, strip = dp / 16 * STRIP;
    struct { di_real **p; size_t n; } part[12] = {
        { &a->q, rows }, { &a->k, rows }, { &a->v, rows }, { &a->kt, rows }, { &a->s, wide },
        { &a->o, strip }, { &a->vt, rows }, { &a->ds, wide }, { &a->go, strip },
        { &a->gq, rows }, { &a->gk, rows }, { &a->gv, rows } };
    a->T = T;
    a->d = d;
    a->Tp = (int)Tp;
    a->dp = (int)dp;
    for (int i = 0; i < (vjp ? 12 : 6); i++) {
        *part[i].p = p ? p + used : NULL;
        used += part[i].n;
    }
    return used;
}

/* Channel c of image n at position `at`; *run: positions from there on in its row, at most
   `count`. */
static di_real *head_at(const di_tensor *t, int n, int c, int at, int count, int *run)
{
    int x = at % t->w;
    *run = t->w - x < count ? t->w - x : count;
    return t->blk[n * t->cb + c / 16] + ((size_t)(at / t->w + 1) * (t->w + 2) + x + 1) * 16
        + c % 16;
}

/* rows [dp/16][panel] = channels c0..c0+d of image n, positions first.. of t; padding +0. */
static void head_read(const di_tensor *t, int n, int c0, int d, int first, int count,
                      di_real *rows, size_t panel)
{
    int whole = (c0 | d) % 16 == 0;
    if (!whole || panel > (size_t)count * 16)
        memset(rows, 0, (size_t)(d + 15) / 16 * panel * sizeof(di_real));
    for (int c = 0; c < d; c += whole ? 16 : 1)
        for (int i = 0, run; i < count; i += run) {
            const di_real *p = head_at(t, n, c0 + c, first + i, count - i, &run);
            di_real *r = rows + c / 16 * panel + (size_t)i * 16 + c % 16;
            if (whole)
                memcpy(r, p, (size_t)run * 16 * sizeof(di_real));
            else
                for (int l = 0; l < run * 16; l += 16)
                    r[l] = p[l];
        }
}

static void head_write(di_tensor *t, int n, int c0, int d, int first, int count,
                       const di_real *rows, size_t panel, int acc)
{
    int whole = (c0 | d) % 16 == 0;
    for (int c = 0; c < d; c += whole ? 16 : 1)
        for (int i = 0, run; i < count; i += run) {
            di_real *p = head_at(t, n, c0 + c, first + i, count - i, &run);
            const di_real *r = rows + c / 16 * panel + (size_t)i * 16 + c % 16;
            if (whole && !acc)
                memcpy(p, r, (size_t)run * 16 * sizeof(di_real));
            else
                for (int l = 0; l < run * 16; l += whole ? 1 : 16)
                    p[l] = acc ? p[l] + r[l] : r[l];
        }
}

/* at [C/16][R][16] = a [R/16][C][16] transposed. */
static void transpose(const di_real *a, int R, int C, di_real *at)
{
    for (int j = 0; j < C; j += 16)
        for (int r = 0; r < R; r++, at += 16)
            for (int l = 0; l < 16; l++)
                at[l] = a[((size_t)r / 16 * C + j + l) * 16 + r % 16];
}

/* q, k, v of head `hd`. */
static void head_load(const di_tensor *qkv, int n, int hd, attn *a)
{
    int C = qkv->c / 3, c0 = hd * a->d;
    size_t panel = (size_t)a->Tp * 16;
    head_read(qkv, n, c0, a->d, 0, a->T, a->q, panel);
    head_read(qkv, n, C + c0, a->d, 0, a->T, a->k, panel);
    head_read(qkv, n, 2 * C + c0, a->d, 0, a->T, a->v, panel);
    transpose(a->k, a->dp, a->Tp, a->kt);
}

/* P and O for rows [first, first+count). */
static void head_strip(const di_kernels *k, attn *a, int first, int count)
{
    size_t panel = (size_t)a->Tp * 16, column = (size_t)a->dp * 16;
    k->matmul(a->s, WIDE, a->q + (size_t)first * 16, panel, a->kt, column, count, a->dp, a->Tp);
    k->softmax(a->s, WIDE, count, a->T, (di_real)(1 / sqrt((double)a->d)));
    k->matmul(a->o, STRIP, a->s, WIDE, a->v, panel, count, a->Tp, a->dp);
}

/* gv = P^T go; dP = go V^T; dS = P (dP - sum(go o)); gq = dS K / sqrt d; gk = dS^T Q / sqrt d.
   Sums over query rows run ascending through the strips. */
static void head_vjp(const di_kernels *k, const di_tensor *qkv, const di_tensor *go,
                     di_tensor *gqkv, int n, int hd, int acc, attn *a)
{
    int C = qkv->c / 3, T = a->T, d = a->d, dp = a->dp, Tp = a->Tp, c0 = hd * d;
    size_t panel = (size_t)Tp * 16, column = (size_t)dp * 16;
    di_real scale = (di_real)(1 / sqrt((double)d));
    head_load(qkv, n, hd, a);
    transpose(a->v, dp, Tp, a->vt);
    memset(a->gk, 0, (size_t)Tp * dp * sizeof(di_real));
    memset(a->gv, 0, (size_t)Tp * dp * sizeof(di_real));
    for (int first = 0; first < T; first += QROWS) {
        int count = T - first < QROWS ? T - first : QROWS;
        size_t at = (size_t)first * 16;
        head_strip(k, a, first, count);
        head_read(go, n, c0, d, first, count, a->go, STRIP);
        k->matmul_t(a->gv, panel, a->s, WIDE, a->go, STRIP, Tp, count, dp);
        k->matmul(a->ds, WIDE, a->go, STRIP, a->vt, column, count, dp, Tp);
        di_real delta[QROWS] = { 0 };
        for (int c = 0; c < d; c++)
            for (int i = 0; i < count; i++) {
                int e = c / 16 * STRIP + i * 16 + c % 16;
                delta[i] += a->go[e] * a->o[e];
            }
        for (int j = 0; j < Tp / 16; j++)
            for (int i = 0; i < count * 16; i++) {
                size_t e = (size_t)j * WIDE + i;
                a->ds[e] = a->s[e] * (a->ds[e] - delta[i / 16]) * scale;
            }
        k->matmul(a->gq + at, panel, a->ds, WIDE, a->k, panel, count, Tp, dp);
        k->matmul_t(a->gk, panel, a->ds, WIDE, a->q + at, panel, Tp, count, dp);
    }
    head_write(gqkv, n, c0, d, 0, T, a->gq, panel, acc);
    head_write(gqkv, n, C + c0, d, 0, T, a->gk, panel, acc);
    head_write(gqkv, n, 2 * C + c0, d, 0, T, a->gv, panel, acc);
}

static void attention_vjp(di_tape *tp, di_rec *r)
{
    di_tensor *x = r->x;
    int heads = r->flag, d = x->c / 3 / heads, acc = x->g != NULL, threads = tp->ctx->threads;
    attn probe;
    size_t each = attn_layout(&probe, x->h * x->w, d, 1, NULL);
    di_buf *work = buf_new(tp, each * threads * sizeof(di_real));
    if (!acc)
        x->g = like(tp, x);
    if (work && x->g && live(tp)) {
        di_real *base = buf_data(tp, work);
        PARALLEL_FOR(threads)
        for (int job = 0; job < x->n * heads; job++) {
            attn a;
            attn_layout(&a, x->h * x->w, d, 1, base + thread_number() * each);
            head_vjp(tp->k, x, r->y->g, x->g, job / heads, job % heads, acc, &a);
        }
    }
    buf_drop(tp, work);
    release(tp, x);
    double T = (double)x->h * x->w;
    done(tp, "attention vjp", r->y, x, 6.0 * T * T * (x->c / 3) * x->n);
}

di_tensor *di_attention(di_tape *tp, di_tensor *x, int heads)
{
    x = solid(tp, x);
    if (!x || tp->failed)
        return NULL;
    int d = x->c / 3 / heads, T = x->h * x->w, threads = tp->ctx->threads;
    di_tensor *y = di_tensor_new(tp, x->n, x->c / 3, x->h, x->w);
    attn probe;
    size_t each = attn_layout(&probe, T, d, 0, NULL);
    di_buf *work = y ? buf_new(tp, each * threads * sizeof(di_real)) : NULL;
    if (!work)
        return NULL;
    if (live(tp)) {
        di_real *base = buf_data(tp, work);
        for (int b = 0; y->c % 16 && b < y->n * y->cb; b++)
            memset(y->blk[b], 0, plane(y) * sizeof(di_real));
        PARALLEL_FOR(threads)
        for (int job = 0; job < x->n * heads; job++) {
            attn a;
            attn_layout(&a, T, d, 0, base + thread_number() * each);
            head_load(x, job / heads, job % heads, &a);
            for (int first = 0; first < T; first += QROWS) {
                int count = T - first < QROWS ? T - first : QROWS;
                head_strip(tp->k, &a, first, count);
                head_write(y, job / heads, job % heads * d, d, first, count, a.o, STRIP, 0);
            }
        }
    }
    buf_drop(tp, work);
    double macs = 2.0 * T * T * (x->c / 3) * x->n;
    tp->macs += macs;
    done(tp, "attention", x, y, macs);
    di_rec *r = record(tp, attention_vjp, x, y);
    if (r) {
        r->flag = heads;
        keep(x);
    }
    return y;
}

/* ==== 12. The Fourier transform ==============================================================
   Of any length: radices 4, 2 and 8, then every odd prime. Signals go through it 16 at a time,
   side by side; what is fewer is filled up to whole vectors. No scaling but where it is asked
   for. */

struct di_fft {
    di_ctx *ctx;
    fft_plan plan;
    di_real *table;
};

/* Splits n into radices, those of 2 first, of them the largest last; returns the size of the
   tables. */
static size_t fft_factor(fft_plan *f)
{
    size_t size = 0;
    for (int left = f->n, odd = 3; left > 1; ) {
        int twos = left & -left; /* a power of 2; of 8 if it is 1 mod 7 */
        while (twos == 1 && left % odd)
            odd = odd + 2 > left / odd ? left : odd + 2;
        int radix = twos == 1 ? odd : twos == 2 ? 2 : twos % 7 == 1 ? 8 : 4;
        left /= radix;
        fft_pass *a = &f->pass[f->passes++];
        a->radix = radix;
        a->m = left;
        size += 2 * (size_t)left * (radix - 1) + 2 * (size_t)radix;
    }
    return size;
}

/* re, im of exp(-2 pi i k / n), exact at quarter turns. */
static void fft_root(di_real *to, long k, long n)
{
    double t = 6.28318530717958647693 * (double)(k % n) / (double)n;
    long eighth = 8 * (k % n) / n;
    double c = di_cos(t), s = di_sin(t);
    if (4 * (k % n) % n == 0) {
        c = eighth == 0 ? 1 : eighth == 4 ? -1 : 0;
        s = eighth == 2 ? 1 : eighth == 6 ? -1 : 0;
    }
    to[0] = (di_real)c;
    to[1] = (di_real)-s;
}

di_fft *di_fft_new(di_ctx *ctx, int n)
{
    if (n < 1 || n > 1 << 20) {
        di_fail(ctx, DI_EUSAGE, "a Fourier transform of length %d: 1 to %d", n, 1 << 20);
        return NULL;
    }
    di_fft *f = di_new(ctx, 1, sizeof *f);
    if (!f)
        return NULL;
    f->ctx = ctx;
    f->plan.n = n;
    di_real *t = f->table = di_new(ctx, fft_factor(&f->plan) + 1, sizeof *f->table);
    for (int i = 0; t && i < f->plan.passes; i++) {
        fft_pass *a = &f->plan.pass[i];
        a->twiddle = t;
        for (int p = 0; p < a->m; p++)
            for (int k = 1; k < a->radix; k++, t += 2)
                fft_root(t, (long)p * k, (long)a->m * a->radix);
        a->root = t;
        for (int k = 0; k < a->radix; k++, t += 2)
            fft_root(t, k, a->radix);
    }
    if (!t) {
        di_free(ctx, f);
        return NULL;
    }
    return f;
}

void di_fft_free(di_fft *f)
{
    if (!f)
        return;
    di_free(f->ctx, f->table);
    di_free(f->ctx, f);
}

size_t di_fft_work(const di_fft *f) { return (size_t)4 * FFT_LANES * f->plan.n; }

/* Value k of signal l is x[k step + l next], one of the two steps 1; to and from lane by lane,
   `wide` lanes, of which those past `lanes` are 0. NULL: all are. */
static void fft_gather(const di_fft *f, di_real *to, size_t wide, size_t lanes, size_t n,
                       const di_real *x, size_t step, size_t next)
{
    if (!x || lanes < wide)
        memset(to, 0, n * wide * sizeof *to);
    if (x && next == 1)
        for (size_t k = 0; k < n; k++)
            for (size_t l = 0; l < lanes; l++)
                to[k * wide + l] = x[k * step + l];
    else if (x)
        f->ctx->k->turn(to, wide, x, next, lanes, n);
}

static void fft_scatter(const di_fft *f, di_real *x, size_t step, size_t next,
                        const di_real *from, size_t wide, size_t lanes, size_t n)
{
    if (next == 1)
        for (size_t k = 0; k < n; k++)
            for (size_t l = 0; l < lanes; l++)
                x[k * step + l] = from[k * wide + l];
    else
        f->ctx->k->turn(x, next, from, wide, n, lanes);
}

static size_t fft_lanes(size_t left) { return left < FFT_LANES ? left : FFT_LANES; }

static size_t fft_wide(const di_fft *f, size_t lanes)
{
    size_t v = (size_t)f->ctx->k->lanes;
    return (lanes + v - 1) / v * v;
}

/* With sign > 0 the parts are swapped, which turns the exponent's sign. */
void di_fft_run(const di_fft *f, int sign, size_t count, di_real scale, di_real *re,
                di_real *im, size_t step, size_t next, di_real *work)
{
    size_t n = (size_t)f->plan.n;
    for (size_t l = 0; l < count; l += FFT_LANES) {
        size_t lanes = fft_lanes(count - l), wide = fft_wide(f, lanes);
        di_real *r = (sign < 0 ? re : im) + l * next, *i = (sign < 0 ? im : re) + l * next;
        if (lanes == wide && next == 1) {
            f->ctx->k->fft(&f->plan, r, i, step, r, i, step, lanes, scale, work);
            continue;
        }
        di_real *x = work + 2 * n * wide;
        fft_gather(f, x, wide, lanes, n, r, step, next);
        fft_gather(f, x + n * wide, wide, lanes, n, i, step, next);
        x = f->ctx->k->fft(&f->plan, x, x + n * wide, wide, NULL, NULL, 0, wide, scale, work);
        fft_scatter(f, r, step, next, x, wide, lanes, n);
        fft_scatter(f, i, step, next, x + n * wide, wide, lanes, n);
    }
}

void di_fft2(const di_fft *fh, const di_fft *fw, int sign, size_t lanes, di_real scale,
             di_real *re, di_real *im, di_real *work)
{
    size_t h = (size_t)fh->plan.n, w = (size_t)fw->plan.n, row = w * lanes;
    if (lanes == 1)
        di_fft_run(fw, sign, h, 1, re, im, 1, w, work);
    for (size_t r = 0; lanes > 1 && r < h; r++)
        di_fft_run(fw, sign, lanes, 1, re + r * row, im + r * row, lanes, 1, work);
    di_fft_run(fh, sign, row, scale, re, im, row, 1, work);
}

typedef struct fft_real {
    const di_fft *f;        /* of a row */
    int sign;
    size_t lanes;
    di_real *x, *re, *im, *work;
} fft_real;

/* `take` pairs of rows, one complex transform each: of lanes lane, lane+1, .. of rows row and
   row+1; with one lane of rows row, row+1, row+2, ..; alone: the second row does not exist. */
static void fft_pairs(const fft_real *a, size_t row, size_t lane, size_t take, int alone)
{
    const di_fft *f = a->f;
    const di_kernels *k = f->ctx->k;
    size_t n = (size_t)f->plan.n, half = n / 2 + 1, step = a->lanes, wide = fft_wide(f, take);
    size_t next = step == 1 ? 2 * n : 1, half_next = step == 1 ? 2 * half : 1, part = n * wide;
    size_t at = row * half * step + lane, at2 = at + half * step;
    di_real *x = a->x + row * n * step + lane, *x2 = alone ? NULL : x + n * step;
    di_real *out[4] = { a->re + at, a->im + at, alone ? NULL : a->re + at2, a->im + at2 };
    di_real *first = a->work, *z = first + 2 * part, *other = first;
    int direct = next == 1 && wide == take && !alone, rows = alone ? 2 : 4;
    if (a->sign < 0) {
        for (int i = 0; !direct && i < 2; i++)
            fft_gather(f, z + i * part, wide, take, n, i ? x2 : x, step, next);
        z = k->fft(&f->plan, direct ? x : z, direct ? x2 : z + part, direct ? step : wide, NULL,
                   NULL, 0, wide, 1, first);
        if (direct) {
            k->fft_split(n, wide, z, z + part, out[0], out[1], out[2], out[3], step);
            return;
        }
        other = z == first ? first + 2 * part : first;
        k->fft_split(n, wide, z, z + part, other, other + part, z, z + part, wide);
        for (int i = 0; i < rows; i++)
            fft_scatter(f, out[i], step, half_next, (i < 2 ? other : z) + i % 2 * part, wide,
                        take, half);
    } else {
        for (int i = 0; !direct && i < rows; i++)
            fft_gather(f, (i < 2 ? z : other) + i % 2 * part, wide, take, half, out[i], step,
                       half_next);
        if (direct)
            k->fft_join(n, wide, z, z + part, out[0], out[1], out[2], out[3], step);
        else
            k->fft_join(n, wide, z, z + part, z, z + part, alone ? NULL : other, other + part,
                        wide);
        z = k->fft(&f->plan, z + part, z, wide, direct ? x2 : NULL, direct ? x : NULL, step,
                   wide, 1, first);
        for (int i = 0; !direct && i < rows / 2; i++)
            fft_scatter(f, i ? x2 : x, step, next, z + (1 - i) * part, wide, take, n);
    }
}

static void fft_rows(const fft_real *a, size_t h)
{
    for (size_t l = 0; a->lanes == 1 && l < h / 2; l += FFT_LANES)
        fft_pairs(a, 2 * l, 0, fft_lanes(h / 2 - l), 0);
    if (a->lanes == 1 && h % 2)
        fft_pairs(a, h - 1, 0, 1, 1);
    for (size_t row = 0; a->lanes > 1 && row < h; row += 2)
        for (size_t l = 0; l < a->lanes; l += FFT_LANES)
            fft_pairs(a, row, l, fft_lanes(a->lanes - l), row + 1 == h);
}

/* Without the last columns of (h,row) that are 0, as their transforms are: dealiasing drops
   them and so does a derivative. */
static size_t fft_columns(const di_real *re, const di_real *im, size_t h, size_t row)
{
    size_t cols = row, i = 0;
    for (; cols > 0; cols--) {
        for (i = cols - 1; i < h * row && re[i] == 0 && im[i] == 0; )
            i += row;
        if (i < h * row)
            break;
    }
    return cols;
}

void di_fft2_real(const di_fft *fh, const di_fft *fw, size_t lanes, const di_real *x,
                  di_real *re, di_real *im, di_real *work)
{
    size_t row = ((size_t)fw->plan.n / 2 + 1) * lanes;
    fft_real a = { fw, -1, lanes, (di_real *)x, re, im, work }; /* x is only read */
    fft_rows(&a, (size_t)fh->plan.n);
    di_fft_run(fh, -1, row, 1, re, im, row, 1, work);
}

void di_fft2_real_back(const di_fft *fh, const di_fft *fw, size_t lanes, di_real scale,
                       di_real *re, di_real *im, di_real *x, di_real *work)
{
    size_t h = (size_t)fh->plan.n, row = ((size_t)fw->plan.n / 2 + 1) * lanes;
    fft_real a = { fw, 1, lanes, x, re, im, work };
    di_fft_run(fh, 1, fft_columns(re, im, h, row), scale, re, im, row, 1, work);
    fft_rows(&a, h);
}

#endif /* DI_KERNELS_ONLY */
