/* make_nblur.c - blur by a network from text: its weight file and its latent. See make.h. */
#define _XOPEN_SOURCE 700
#define DIFFINV_KERNELS
#include "make.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int read_file(void *user, uint64_t offset, void *dst, size_t n)
{
    FILE *f = user;
    return offset > 0x7fffffffu || fseek(f, (long)offset, SEEK_SET) || fread(dst, 1, n, f) != n;
}

static di_status open_net(di_ctx *ctx, const char *path, di_bkse **net)
{
    *net = NULL;
    if (!*path)
        return di_fail(ctx, DI_EUSAGE, "problem nblur needs its network: net=FILE.unw (see "
                       "weights/README.md, preset GOPRO_wVAE)");
    struct stat st;
    int known = !stat(path, &st);
    if (known && !S_ISREG(st.st_mode)) /* opening a pipe would wait for a writer */
        return di_fail(ctx, DI_EINPUT, "%s: not a file: give a .unw weight file", path);
    FILE *f = known ? fopen(path, "rb") : NULL;
    if (!f)
        return di_fail(ctx, DI_EINPUT, "%s: can't read", path);
    di_status s = di_bkse_open(ctx, read_file, f, (uint64_t)st.st_size, 0, net);
    fclose(f);
    if (s) {
        char why[400];
        snprintf(why, sizeof why, "%s", di_error(ctx));
        di_clear(ctx);
        di_fail(ctx, s, "%s: %s", path, why);
    }
    return s;
}

/* latent of `shape`: 1.2 N(0,1) from pseed, element i of the kernel stream, or a file's. For
 * the caller to free. */
static di_real *make_latent(di_ctx *ctx, const make_spec *spec, const int shape[3])
{
    const char *text = make_get(spec, "latent");
    size_t n = (size_t)shape[0] * (size_t)shape[1] * (size_t)shape[2];
    uint64_t pseed = 0;
    if (strcmp(text, "fixed")) {
        io_array a;
        if (make_numbers(ctx, text, "values of the latent", &a))
            return NULL;
        if (a.n == 1 && a.c == (size_t)shape[0] && a.h == (size_t)shape[1] &&
            a.w == (size_t)shape[2])
            return a.v;
        di_fail(ctx, DI_EINPUT, "%s is %zux%zux%zu, the latent of this network and image is "
                "%dx%dx%d", text, a.c, a.h, a.w, shape[0], shape[1], shape[2]);
        io_free(&a);
        return NULL;
    }
    make_u64(make_get(spec, "pseed"), &pseed);
    di_real *v = malloc(n * sizeof *v);
    if (!v) {
        di_fail(ctx, DI_EMEMORY, "no memory for the latent");
        return NULL;
    }
    di_normal(v, n, pseed, DI_STREAM_KERNEL, 0, 0);
    for (size_t i = 0; i < n; i++)
        v[i] *= (di_real)1.2;
    return v;
}

static di_status problem_nblur(di_ctx *ctx, const make_spec *spec, int c, int h, int w,
                               di_problem **problem)
{
    int shape[3];
    di_bkse *net;
    if (!*make_get(spec, "net"))
        return open_net(ctx, "", &net);
    if (c != 3)
        return di_fail(ctx, DI_EINPUT, "problem nblur: its network blurs colour pictures, not "
                       "ones with %d channel%s", c, c == 1 ? "" : "s");
    if (h % 128 || w % 128)
        return di_fail(ctx, DI_EINPUT, "problem nblur: %dx%d: height and width must be "
                       "multiples of 128; give --size and --fit crop|pad|resize", h, w);
    di_status s = open_net(ctx, make_get(spec, "net"), &net);
    if (s)
        return s;
    di_bkse_latent(net, h, w, shape);
    di_real *latent = make_latent(ctx, spec, shape);
    s = latent ? di_problem_nblur(ctx, net, h, w, latent, problem) : DI_EINPUT;
    free(latent);
    if (s)
        di_bkse_close(net);
    return s;
}

const make_kind make_nblur = {
    "nblur", "nonlinear blur by a network", "exact derivative", 0, 0, problem_nblur, NULL, NULL,
    {{"net", "", "a .unw file of kind bkse", "required; converted from GOPRO_wVAE.pth"},
     {"latent", "fixed", "fixed or an NPY file (512,H/128,W/128)",
      "fixed: 1.2 N(0,1), drawn once (DMPlug, DAPS); DPS draws anew at every call"},
     MAKE_PSEED, MAKE_SIGMA}};
