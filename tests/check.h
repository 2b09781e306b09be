/* check.h: what the library's test programs share. A program prints its failures and a closing
   count; with -v also the measured figures behind its tolerances. */
#ifndef CHECK_H
#define CHECK_H

#include "../diffinv.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#ifdef DI_DOUBLE
#define BOUND(in_float, in_double) (in_double)
#else
#define BOUND(in_float, in_double) (in_float)
#endif

static int passed, failed, verbose;
static char where[160]; /* the case under test, shown beside a failure */

/* Names the case of a loop. */
static inline void in_case(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(where, sizeof where, format, ap);
    va_end(ap);
}

static inline int check_near(const char *file, int line, const char *what, double got,
                             double want, double tolerance)
{
    int ok = got == want || fabs(got - want) <= tolerance;
    passed += ok;
    failed += !ok;
    if (!ok)
        printf("FAIL %s:%d %s%s%s got %.17g want %.17g tol %g\n", file, line, where,
               where[0] ? ": " : "", what, got, want, tolerance);
    return ok;
}

static inline int check_text(const char *file, int line, const char *got, const char *want)
{
    int ok = got && strstr(got, want) != NULL;
    passed += ok;
    failed += !ok;
    if (!ok)
        printf("FAIL %s:%d %s%s got \"%s\" want \"...%s...\"\n", file, line, where,
               where[0] ? ":" : "", got ? got : "(null)", want);
    return ok;
}

#define CHECK(ok) check_near(__FILE__, __LINE__, #ok, (ok) ? 1 : 0, 1, 0)
#define EQUAL(got, want) check_near(__FILE__, __LINE__, #got, (double)(got), (double)(want), 0)
#define NEAR(got, want, tolerance) \
    check_near(__FILE__, __LINE__, #got, (got), (want), (tolerance))
#define SAYS(text, words) check_text(__FILE__, __LINE__, (text), (words)) /* contains them */

/* A measured figure, shown with -v. */
static inline void figure(const char *what, double value)
{
    if (verbose)
        printf("%-60s %.3g\n", what, value);
}

/* The i-th value of sequence `seed`: a multiple of 2^-23 in [-1,1), the same in every build. */
static inline double value_at(size_t i, unsigned seed)
{
    uint32_t u = (uint32_t)i * 2654435769u + seed * 40503u + 12345u;
    u = (u ^ u >> 16) * 2246822519u;
    u = (u ^ u >> 13) * 3266489917u;
    return (double)((u ^ u >> 16) >> 8) / 8388608 - 1;
}

static inline void fill(di_real *a, size_t n, unsigned seed)
{
    for (size_t i = 0; i < n; i++)
        a[i] = (di_real)value_at(i, seed);
}

/* The larger one, but NaN if one is: a largest difference that hides none. */
static inline double larger(double a, double b) { return a >= b || a != a ? a : b; }

/* max |got - want| / max |want|; a NaN counts as infinite. */
static inline double worst(const di_real *got, const double *want, size_t n)
{
    double far = 0, top = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs(got[i] - want[i]);
        far = d <= far ? far : d == d ? d : HUGE_VAL;
        top = fabs(want[i]) > top ? fabs(want[i]) : top;
    }
    return far == 0 ? 0 : far / top;
}

static inline size_t size3(const int *shape)
{
    return (size_t)shape[0] * shape[1] * shape[2];
}

static inline int same(const di_real *a, const di_real *b, size_t n)
{
    return memcmp(a, b, n * sizeof *a) == 0;
}

/* A call that fails as it should, and says so; a fresh start after it. */
static inline void check_refused(const char *file, int line, const char *what, di_ctx *ctx,
                                 di_status got, di_status want, const char *words)
{
    check_near(file, line, what, got, want, 0);
    check_text(file, line, di_error(ctx), words);
    di_clear(ctx);
}

#define REFUSED(got, want, words) \
    check_refused(__FILE__, __LINE__, #got, ctx, (got), (want), (words))

/* Any bicubic shrinking by s of a 64 x 64 image: constants stay, ramps stay inside. */
static inline void check_bicubic(const di_problem *p, int s, di_real *x, di_real *y)
{
    int size = 64, n = size / s;
    for (int i = 0; i < size * size; i++)
        x[i] = (di_real)0.7;
    di_apply(p, 1, x, y);
    for (int i = 0; i < n * n; i++)
        NEAR(y[i], 0.7, BOUND(5e-7, 1e-14));
    for (int i = 0; i < size * size; i++)
        x[i] = (di_real)(i / size + 2 * (i % size)) / 64;
    di_apply(p, 1, x, y);
    for (int i = 2; i < n - 2; i++)
        for (int j = 2; j < n - 2; j++)
            NEAR(y[i * n + j], (3 * (s - 1) / 2.0 + s * i + 2 * s * j) / 64,
                 BOUND(1e-6, 1e-13));
}

static inline void begin(int argc, char **argv)
{
    verbose = argc > 1 && strcmp(argv[1], "-v") == 0;
}

static inline int finish(void)
{
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}

#endif
