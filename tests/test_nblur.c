/* test_nblur.c: the network that blurs, and the problem made of it, against the official
   program's numbers (tests/vectors/README.md). Its weights are a formula of their names. */
#define DIFFINV_KERNELS
#include "maker.h"
#include "../tools/io.h"

enum { H = 128, W = 256, N = 3 * H * W, LATENT = 8 * BLUR_BASE * 2 };
static di_ctx *ctx;

static di_status open_blur(const char *meta, int cut, di_bkse **net)
{
    bytes f = make_blur(meta, cut);
    di_status s = di_bkse_open(ctx, read_bytes, f.p, f.size, 0, net);
    free(f.p);
    return s;
}

/* max |got - file| / max |file|; the file has every 16th value of a side, from (3,5) on. */
static double against(const di_real *got, const char *path)
{
    io_array a;
    char err[256] = "";
    double far = 0, top = 0, square = 0;
    if (!CHECK(io_read(&a, path, err, sizeof err) == 0))
        return HUGE_VAL;
    CHECK(a.c == 3 && a.h == H / 16 && a.w == W / 16);
    for (size_t i = 0; i < a.c * a.h * a.w; i++) {
        size_t r = i / a.w, at = (r / a.h * H + r % a.h * 16 + 3) * W + i % a.w * 16 + 5;
        double d = fabs((double)got[at] - a.v[i]);
        far = d <= far ? far : d == d ? d : HUGE_VAL;
        top = larger(top, fabs(a.v[i]));
        square += d * d;
    }
    square = sqrt(square / (double)(a.c * a.h * a.w));
    io_free(&a);
    figure(path, far / top);
    figure("        root mean square error over largest value", square / top);
    return far / top;
}

static di_real x[N], y[N], v[N], gx[N], other[N], latent[LATENT];

static void test_official(di_bkse *net)
{
    di_problem *p;
    in_case("nblur");
    EQUAL(di_problem_nblur(ctx, net, H, W, latent, &p), DI_OK);
    if (!p)
        return;
    EQUAL(p->linear, 0);
    EQUAL(p->y[0] * p->y[1] * p->y[2], N);
    EQUAL(di_apply(p, 1, x, y), DI_OK);
    EQUAL(di_apply_vjp(p, 1, x, v, gx), DI_OK);
    NEAR(against(y, "tests/vectors/nblur.y.npy"), 0, BOUND(3e-6, 1e-14));
    /* float: where a layer's value is 0 but for rounding, the other slope may be taken */
    NEAR(against(gx, "tests/vectors/nblur.gx.npy"), 0, BOUND(1e-4, 1e-14));
    int edge = 0;
    for (int i = 0; i < N; i++)
        edge += y[i] == -1 || y[i] == 1;
    CHECK(edge > N / 10 && edge < N / 2); /* the clamp takes part */
    EQUAL(di_apply(p, 1, x, other), DI_OK);
    CHECK(same(y, other, N));
    di_set_threads(ctx, 2);
    EQUAL(di_bkse_run(net, H, W, latent, x, NULL, v, other), DI_OK);
    CHECK(same(gx, other, N));
    di_set_threads(ctx, 1);
    di_set_fast(ctx, 1);
    EQUAL(di_apply(p, 1, x, other), DI_OK);
    di_set_fast(ctx, 0);
    for (int i = 0; i < N; i++)
        NEAR(other[i], y[i], BOUND(2e-4, 1e-12)); /* Winograd's rounding, some layers deep */
    memcpy(other, latent, sizeof latent);
    for (int i = 0; i < LATENT; i++)
        other[i] = latent[i] > 0 ? latent[i] : -3; /* negative entries are dead */
    EQUAL(di_bkse_run(net, H, W, other, x, other, NULL, NULL), DI_OK);
    CHECK(same(y, other, N));
}

/* Central differences along a direction, away from the kinks, whose share of this falls with
   the step. */
static void test_derivative(di_bkse *net)
{
    static di_real u[N], far[2][N];
    double e = BOUND(1e-3, 1e-7), slope = 0, want = 0;
    in_case("nblur, derivative");
    fill(u, N, 8);
    for (int side = 0; side < 2; side++) {
        for (int i = 0; i < N; i++)
            other[i] = x[i] + (di_real)((side ? -e : e) * u[i]);
        di_bkse_run(net, H, W, latent, other, far[side], NULL, NULL);
    }
    for (int i = 0; i < N; i++) {
        slope += v[i] * ((double)far[0][i] - far[1][i]) / (2 * e);
        want += (double)gx[i] * u[i];
    }
    NEAR(slope, want, BOUND(3e-2, 1e-7) * fabs(want));
    figure("        derivative against differences", fabs(slope / want - 1));
}

static void test_memory(di_bkse *net)
{
    in_case("nblur, memory");
    size_t plain_bytes = di_bkse_bytes(net, H, W, 0), vjp = di_bkse_bytes(net, H, W, 1);
    CHECK(plain_bytes > 0 && vjp > plain_bytes && vjp < 400u << 20);
    EQUAL(di_bkse_bytes(net, H, W, 0), plain_bytes);
    EQUAL(di_bkse_weights(net), 1418899);
    CHECK(di_bkse_weight_bytes(net) > 1418899 * sizeof(di_real));
    REFUSED(di_bkse_bytes(net, 64, 128, 0) ? DI_OK : DI_EUSAGE, DI_EUSAGE, "multiples of 128");
    REFUSED(di_bkse_bytes(net, 128, 200, 0) ? DI_OK : DI_EUSAGE, DI_EUSAGE, "128x200");
}

static void test_refused(di_bkse *net)
{
    di_bkse *b;
    di_net *d;
    di_problem *p;
    di_real wrong = latent[5];
    in_case("nblur, refused");
    latent[5] = NAN;
    REFUSED(di_problem_nblur(ctx, net, H, W, latent, &p), DI_EINPUT, "latent holds NaN");
    latent[5] = wrong;
    REFUSED(di_problem_nblur(ctx, net, 96, W, latent, &p), DI_EUSAGE, "image size 96x256");
    REFUSED(open_blur(BLUR_META, 1, &b), DI_EINPUT, "missing back.out.b (3)");
    REFUSED(open_blur("format.kind=bkse\nnet.back=2\nnet.base=16\nnet.front=2\nnet.in=3\n", 0,
                      &b), DI_EINPUT, "missing front.res.1.c1.w (16x16x3x3)");
    REFUSED(open_blur("format.kind=bkse\nnet.back=1\nnet.base=16\nnet.front=1\nnet.in=3\n", 0,
                      &b), DI_EINPUT, "unexpected back.res.1.c1.b");
    REFUSED(open_blur("format.kind=bkse\nnet.back=2\nnet.base=20\nnet.front=1\nnet.in=3\n", 0,
                      &b), DI_EINPUT, "multiple of 16");
    REFUSED(open_blur(BLUR_META "net.odd=1\n", 0, &b), DI_EINPUT, "metadata key 'net.odd'");
    REFUSED(open_blur("format.kind=bkse\nnet.base=16\nnet.front=1\nnet.in=3\n", 0, &b),
            DI_EINPUT, "lacks 'net.back'");
    REFUSED(open_blur("format.kind=blur\n", 0, &b), DI_EINPUT, "one of unet2d|bkse");
    REFUSED(open_blur("format.kind=unet2d\n", 0, &b), DI_EINPUT, "a network that denoises");
    CHECK(b == NULL);
    bytes f = make_blur(BLUR_META, 0);
    REFUSED(di_net_open(ctx, read_bytes, f.p, f.size, 0, &d), DI_EINPUT,
            "blurs (problem nblur, net=)");
    f.p[f.size - 70] ^= 1;
    REFUSED(di_bkse_open(ctx, read_bytes, f.p, f.size, 0, &b), DI_EINPUT, "damaged");
    EQUAL(di_bkse_open(ctx, read_bytes, f.p, f.size, DI_NET_HEAD, &b), DI_OK);
    REFUSED(di_bkse_run(b, H, W, latent, x, y, NULL, NULL), DI_EUSAGE, "head-only");
    di_bkse_close(b);
    free(f.p);
}

/* Errors in units of the last place of the value. */
static void test_tanh(void)
{
    double far = 0;
    in_case("tanh");
    for (double t = 1e-9; t < 40; t *= 1.003) {
        far = larger(far, fabs(di_tanh(t) / tanh(t) - 1));
        CHECK(di_tanh(-t) == -di_tanh(t));
    }
    NEAR(far, 0, 5e-16);
    figure("        tanh against libm's, relative", far);
    CHECK(di_tanh(0) == 0 && di_tanh(1e300) == 1 && di_tanh(-HUGE_VAL) == -1);
    CHECK(di_tanh(NAN) != di_tanh(NAN));
}

/* nblur -o FILE: the network's file, for the tests of the command. */
static int write_file(const char *path)
{
    bytes b = make_blur(BLUR_META, 0);
    FILE *f = fopen(path, "wb");
    size_t n = f ? fwrite(b.p, 1, b.size, f) : 0;
    free(b.p);
    return !f || fclose(f) || n != b.size;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "-o") == 0)
        return write_file(argv[2]);
    begin(argc, argv);
    EQUAL(di_open(&ctx, NULL, NULL), DI_OK);
    test_tanh();
    size_t empty = di_bytes(ctx);
    di_bkse *net;
    EQUAL(open_blur(BLUR_META, 0, &net), DI_OK);
    if (net) {
        fill(x, N, 1);
        fill(v, N, 2);
        fill(latent, LATENT, 3);
        for (int i = 0; i < LATENT; i++)
            latent[i] *= 2;
        test_memory(net);
        test_official(net);
        test_derivative(net);
        test_refused(net);
        di_bkse_close(net);
        CHECK(di_bytes(ctx) < empty + (1 << 20)); /* only the problem is left */
    } else {
        printf("     %s\n", di_error(ctx));
    }
    di_close(ctx);
    return finish();
}
