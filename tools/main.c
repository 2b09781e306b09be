/* main.c - the diffinv command: its verbs, their help, the start and the end of a run */
#define _XOPEN_SOURCE 700
#include "cmd.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ==== The verbs and their help =============================================================

   Each help fits a screen of 24 lines of 80 characters and shows a line that works. */

static const char help_measure[] =
    "diffinv measure -p PROBLEM key=value... -i PICTURE -o y.npy\n"
    "\n"
    "Makes a measurement y = A(x) + sigma*noise of a picture; from y.npy.run beside\n"
    "it solve knows the problem.\n"
    "\n"
    "  -p PROBLEM key=value...  what is measured (diffinv list problems --defaults):\n"
    "                           inpaint mask=box:24, inpaint mask=random:0.7,\n"
    "                           sr factor=4, gblur size=15 std=1.5, matrix a=A.npy,\n"
    "                           denoise; sigma=0.05 goes with each\n"
    "  -i PICTURE               PNG, PPM, PGM, PFM or NPY, one picture or many\n"
    "  -o FILE                  .npy keeps every value; a picture is cut to 8 bits\n"
    "  --seed S                 of the noise (0); the problem's own is pseed=\n"
    "  --fit crop|pad|resize    bring the picture to --size, or to the prior's\n"
    "  --size HxW\n"
    "  --simple FILE            also the answer without a prior: mean fill, bicubic,\n"
    "                           pseudo-inverse\n"
    "  --sheet FILE             truth, measurement, A^+ y or A^T y in one picture;\n"
    "                           --under OLD, --beside OLD: next to an earlier one\n"
    "  -w WEIGHTS               the prior it is meant for (portraits64), or none\n"
    "  --threads N, --isa NAME, --numerics exact|fast: as for solve\n"
    "\n"
    "Example:\n"
    "  diffinv measure -p inpaint mask=box:24 -i face.png --fit resize -o y.npy\n";

static const char help_solve[] =
    "diffinv solve [-s SOLVER key=value...] -y y.npy -o out.png\n"
    "\n"
    "Restores a picture from a measurement of the problem in y.npy.run, or of -p.\n"
    "\n"
    "  -s SOLVER key=value...   how (diffinv list solvers --defaults); default dps\n"
    "  -p PROBLEM key=value...  what was measured; must not contradict y.npy.run\n"
    "  -y FILE | -i PICTURE     the measurement, or a picture to measure first, which\n"
    "                           --fit crop|pad|resize brings to --size HxW\n"
    "  -o FILE                  .png .ppm .pgm .pfm .npy; FILE.run repeats the run\n"
    "  -w PRIOR, --label K      a file or a name (diffinv list priors); its class\n"
    "  -n K, --seed S           K samples (1), drawn from seed S (0); their pixelwise\n"
    "                           --mean FILE, --std FILE (in a picture white is most)\n"
    "  --truth PICTURE          prints PSNR, SSIM; --oracle: the nearest iterate\n"
    "  --sheet FILE             all in one picture; --under, --beside: an old one\n"
    "  --trace FILE             every step: noise level, residual, PSNR, as TSV\n"
    "  --preview N              OUT.preview.png every N steps, until OUT is written\n"
    "  --save-every N           a state in OUT.state every N steps; --resume goes on\n"
    "                           from there, to the same bits\n"
    "  --noise FILE             normals to use in place of the generator's (-n 1)\n"
    "  --threads N, --isa NAME, --mem 800M: same numbers; --numerics fast differs\n"
    "Ctrl-C writes the estimate so far. @FILE.run reads a recorded run's settings:\n"
    "  diffinv solve -s dps_mo -y y.npy -o out.png --sheet sheet.png\n"
    "  diffinv solve @out.png.run --seed 7 -o other.png\n";

static const char help_sample[] =
    "diffinv sample [-s SOLVER key=value...] -n N -o grid.png\n"
    "\n"
    "Draws pictures from the prior alone: a grid for a picture format, an array for\n"
    ".npy.\n"
    "\n"
    "  -s SOLVER key=value...   how (diffinv list solvers --defaults); default ddim\n"
    "  -n N                     how many (1); sample k depends on the seed and k only\n"
    "  --seed S                 (0)\n"
    "  -o FILE                  .png .ppm .pgm .pfm .npy; FILE.run repeats the run\n"
    "  -w WEIGHTS               the prior: a file, a name (portraits64), gauss:M,C or\n"
    "                           mixture:W,M,V (diffinv list priors)\n"
    "  --size HxW, --label K    not the size it was trained at; its class\n"
    "  --mean FILE, --std FILE  of the samples (in a picture white is most)\n"
    "  --trace FILE             every step as TSV\n"
    "  --preview N              OUT.preview.png every N steps, until OUT is written\n"
    "  --save-every N           keeps the run's state in OUT.state every N steps;\n"
    "                           --resume goes on from there, to the same bits\n"
    "  --noise FILE             normals to use in place of the generator's (-n 1)\n"
    "  --threads N, --isa NAME, --mem 800M: same numbers; --numerics fast differs\n"
    "\n"
    "Example:\n"
    "  diffinv sample -s ddim steps=50 eta=1 -n 16 --seed 1 -o grid.png\n";

static const char help_eval[] =
    "diffinv eval PICTURE TRUTH [--fit HOW] [-p PROBLEM key=value... [-y y.npy]]\n"
    "\n"
    "Prints how near a picture is to what it should be, as TSV: one line each for\n"
    "several pictures in one array, then their mean.\n"
    "\n"
    "  psnr          -10 log10 of the mean squared error on [0,1], in dB (skimage)\n"
    "  ssim_piq      11x11 Gaussian window (piq; DAPS, InverseBench)\n"
    "  ssim_skimage  7x7 uniform window (skimage; DMPlug). Never mix the two\n"
    "  relative_l2   |x - truth| / |truth|\n"
    "\n"
    "  --fit crop|pad|resize  brings the truth to the picture's size\n"
    "  -p PROBLEM, -y FILE  the problem's own scores too, of its measurement FILE:\n"
    "                blackhole: chi-squares, PSNR aligned and blurred\n"
    "\n"
    "Example:\n"
    "  diffinv eval out.png face.png\n";

static const char help_info[] =
    "diffinv info [-w WEIGHTS] [-s SOLVER key=value...] [--size HxW]\n"
    "\n"
    "Shows a network: shape, schedule, cost of a pass, the bytes a run will need,\n"
    "licence.\n"
    "\n"
    "  -w WEIGHTS               a file, the name of a prior (portraits64), gauss:M,C\n"
    "                           or mixture:W,M,V (diffinv list priors)\n"
    "  -s SOLVER key=value...   also its working memory; -p PROBLEM: for that problem\n"
    "  -n K                     so many images (1)\n"
    "  --size HxW               other than what the prior was trained at\n"
    "  --mem 800M, --threads N  what -s SOLVER would do to fit; memory depends on N,\n"
    "                           and on --isa NAME and --numerics exact|fast\n"
    "\n"
    "Example:\n"
    "  diffinv info -w portraits64 -s dps --size 64x64\n";

static const char help_list[] =
    "diffinv list solvers | problems | priors | makers | isa [--defaults]\n"
    "\n"
    "  solvers     algorithms, the paper of each, what they need\n"
    "  problems    what can be measured\n"
    "  priors      weight files found beside the command, installed, or in\n"
    "              DIFFINV_WEIGHTS, and the priors made from arrays\n"
    "  makers      what diffinv make can make\n"
    "  isa         instruction sets this machine can use\n"
    "  --defaults  parameters too: default, range, source\n"
    "\n"
    "Example:\n"
    "  diffinv list solvers --defaults\n";

static const char help_view[] =
    "diffinv view FILE [-p PROBLEM key=value...] -o OUT.png\n"
    "\n"
    "An array as a person wants to see it: pictures as a grid, numbers in a row as a\n"
    "graph, channels side by side in colours that stand for their values; small ones\n"
    "are enlarged.\n"
    "\n"
    "  FILE                     NPY, PNG, PPM, PGM or PFM; FILE[a:b] selects\n"
    "  -p PROBLEM key=value...  it is a measurement of that problem (FILE.run, if it\n"
    "                           is there, says so by itself): inpaint chequers the\n"
    "                           missing pixels, sr enlarges to the picture's size\n"
    "  --map grey|heat|diverging|log  values as colours, with a bar that says which:\n"
    "                           heat from the least (black) to the largest (white),\n"
    "                           diverging around 0 (blue, white, red), log: six\n"
    "                           decades of |value|. NaN is magenta\n"
    "  --scale K                each value becomes KxK pixels\n"
    "  -o FILE                  .png, .ppm or .pgm (FILE may also be given by -i)\n"
    "\n"
    "Example:\n"
    "  diffinv view y.npy -o y.png\n";

static const char help_selftest[] =
    "diffinv selftest\n"
    "\n"
    "Whether this installation computes the right bits: the network and solvers on a\n"
    "small network made from a formula, for every instruction set of this machine,\n"
    "exact and fast, one thread and all; and whether the prior that ships is found\n"
    "and whole. A line a check, ok or FAILED; exit code 4 if one failed. Takes a few\n"
    "seconds.\n"
    "\n"
    "  -v             also the hashes\n"
    "\n"
    "Example:\n"
    "  diffinv selftest\n";

static const char help_net[] =
    "diffinv net [-w WEIGHTS] -i x.npy -t T | --sigma S -o y.npy\n"
    "            [--vjp g.npy --gx gx.npy]\n"
    "\n"
    "Applies the network to an array (C,H,W) or (N,C,H,W), and with --vjp its\n"
    "derivative: gx = J^T g, g of the output's shape.\n"
    "\n"
    "  -t T           the time, may be fractional; or an NPY file of N numbers\n"
    "  --sigma S      instead: the denoiser at noise level S, or an NPY file of N:\n"
    "                 y = D(x; S), by the network's own preconditioning\n"
    "  --label K      class; or an NPY file of N numbers\n"
    "  -w WEIGHTS     a file, or the name of a prior (portraits64)\n"
    "  --threads N, --isa NAME, --mem 800M: same numbers; --numerics fast differs\n"
    "\n"
    "Example:\n"
    "  diffinv net -i x.npy -t 37 -o y.npy\n";

static const char help_op[] =
    "diffinv op -p PROBLEM key=value... -i x.npy -o y.npy [--vjp v.npy --gx gx.npy]\n"
    "\n"
    "Applies a problem's map without noise, and with --vjp its derivative:\n"
    "gx = J^T v, v of the output's shape (for a linear map the adjoint A^T v).\n"
    "\n"
    "  --pinv         the pseudo-inverse instead: -i is a measurement, -o a picture\n"
    "  --threads N, --isa NAME, --numerics exact|fast: same numbers\n"
    "\n"
    "Example:\n"
    "  diffinv op -p sr factor=4 -i x.npy -o y.npy\n";

static const char help_make[] =
    "diffinv make WHAT key=value... -o FILE\n"
    "\n"
    "Makes test pictures, and other inputs that a program can make.\n"
    "\n"
    "  ring, crescent   what a black hole may look like; uv: what telescopes cover\n"
    "  phantom          a slice through a body, for mri\n"
    "  grf, vorticity   a random field; one that evolved as a fluid: navier_stokes\n"
    "                   (diffinv list makers --defaults; --what WHAT says it too)\n"
    "  key=A:B          each picture draws its own value in that range\n"
    "  -n N, --seed S   how many (1); picture k depends on the seed (0) and k only\n"
    "  --size HxW       of a picture (64x64; 128x128)\n"
    "  -o FILE          .npy .png .ppm .pgm .pfm; a text as it is\n"
    "\n"
    "Example:\n"
    "  diffinv make ring diameter=42 angle=180 -o ring.npy\n";

static const struct verb {
    const char *name, *title, *help;
    unsigned bit;
    int (*go)(cmd *c);
} verbs[] = {
    {"measure", "make a measurement of a picture", help_measure, V_MEASURE, verb_measure},
    {"solve", "restore a picture from a measurement", help_solve, V_SOLVE, verb_solve},
    {"sample", "draw pictures from a prior", help_sample, V_SAMPLE, verb_sample},
    {"eval", "compare a picture with what it should be", help_eval, V_EVAL, verb_eval},
    {"info", "a network, its cost, the memory it needs", help_info, V_INFO, verb_info},
    {"list", "solvers, problems, priors, instruction sets", help_list, V_LIST, verb_list},
    {"view", "an array as a person wants to see it", help_view, V_VIEW, verb_view},
    {"net", "the network and its derivative on arrays", help_net, V_NET, verb_net},
    {"op", "a problem's map and its derivative on arrays", help_op, V_OP, verb_op},
    {"selftest", "whether this installation computes the right bits", help_selftest,
     V_SELFTEST, verb_selftest},
    {"make", "make test pictures and other inputs", help_make, V_MAKE, verb_make},
};
enum { VERBS = sizeof verbs / sizeof verbs[0] };

const char *verb_names(unsigned bits)
{
    static char names[160];
    size_t n = 0;
    names[0] = 0;
    for (int i = 0; i < VERBS; i++)
        if (verbs[i].bit & bits)
            n += (size_t)snprintf(names + n, sizeof names - n, "%s%s", n ? ", " : "",
                                  verbs[i].name);
    return names;
}

static void help(FILE *f)
{
    fputs("diffinv " DI_VERSION
          ": inverse problems, solved with a diffusion model as the prior\n\n", f);
    for (int i = 0; i < VERBS; i++)
        fprintf(f, "  diffinv %-8s %s\n", verbs[i].name, verbs[i].title);
    fputs("\n"
          "diffinv VERB --help says more. A first run, on any portrait:\n"
          "  diffinv measure -p inpaint mask=box:24 -i face.png --fit resize -o y.npy\n"
          "  diffinv solve -s dps_mo -y y.npy -o out.png --sheet sheet.png\n"
          "\n"
          "Every verb: -q, -v say less, say more; --help, --version.\n"
          "Exit codes: 1 usage, 2 input file, 3 memory, 4 numbers, 5 interrupted, 6 output\n",
          f);
}

/* ==== Signals ==============================================================================

   While a solver runs, the first interrupt asks it to stop at the end of its step, so that the
   estimate can be written. At any other time, and at the second, nothing is to be kept. */

volatile sig_atomic_t cmd_stop;
static volatile sig_atomic_t polling;

static void on_signal(int number)
{
    (void)number;
    if (!polling || cmd_stop) {
        io_remove_temporary();
        _exit(DI_EINTERRUPTED);
    }
    cmd_stop = 1;
}

void cmd_poll_stop(int on)
{
    polling = on;
}

static void catch_signals(void)
{
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = on_signal;
    sigemptyset(&a.sa_mask);
    a.sa_flags = SA_RESTART;
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    sigaction(SIGHUP, &a, NULL);
    a.sa_handler = SIG_IGN; /* beyond a limit of file size a write fails, and is reported */
    sigaction(SIGXFSZ, &a, NULL);
}

/* ==== Start and end ===================================================================== */

static const struct verb *find_verb(const char *name)
{
    for (int i = 0; i < VERBS; i++)
        if (!strcmp(verbs[i].name, name))
            return &verbs[i];
    return NULL;
}

static int unknown_verb(const char *name)
{
    const char *words[VERBS];
    for (int i = 0; i < VERBS; i++)
        words[i] = verbs[i].name;
    fprintf(stderr, "diffinv: there is no '%s': did you mean '%s'? See diffinv --help\n", name,
            di_nearest(name, words, VERBS));
    return DI_EUSAGE;
}

/* Errors are one line, whatever a file's name holds. */
static void print_error(const char *line)
{
    fflush(stdout);
    fputs("diffinv: ", stderr);
    for (; *line; line++)
        fputc((unsigned char)*line < 32 || *line == 127 ? '?' : *line, stderr);
    fputc('\n', stderr);
}

/* The exit code, after all that was said has got out. */
static int said(void)
{
    if (!fflush(stdout) && !ferror(stdout))
        return 0;
    print_error("standard output: can't write the result");
    return DI_EOUTPUT;
}

static int version(void)
{
    printf("diffinv %s (%s)\n", DI_VERSION, sizeof(di_real) == 8 ? "double" : "float");
    return said();
}

static int run_verb(const struct verb *v, cmd *c, int argc, char **argv)
{
    c->verb = v->name;
    c->bit = v->bit;
    /* Who types a verb alone wants to know what to say. */
    if (!argc && !(v->bit & (V_INFO | V_LIST | V_SELFTEST))) {
        fputs(v->help, stderr);
        return DI_EUSAGE;
    }
    int code = cmd_parse(c, argc, argv);
    if (!code && cmd_get(c, "help")) {
        fputs(v->help, stdout);
        return said();
    }
    if (!code && cmd_get(c, "version"))
        return version();
    if (!code)
        code = v->go(c);
    if (!code) /* a failure on the way that nothing waited for, such as a lost fact */
        code = c->ctx->status;
    if (code) {
        print_error(*di_error(c->ctx) ? di_error(c->ctx) : "it failed, without saying why");
        return c->ctx->status ? (int)c->ctx->status : code;
    }
    return said();
}

/* Threads that spin while they wait take the very processor that they wait for when the machine
   has other work (measured: eleven times slower on a busy pair of cores). The OpenMP runtime
   reads its waiting policy once, before main, so the command starts itself again with the
   patient one, unless the user has chosen. */
static void wait_patiently(char **argv)
{
#ifdef _OPENMP
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT") || getenv("KMP_BLOCKTIME") ||
        setenv("OMP_WAIT_POLICY", "passive", 1))
        return;
    execv("/proc/self/exe", argv); /* where that does not exist, the run goes on as it is */
#else
    (void)argv;
#endif
}

int main(int argc, char **argv)
{
    cmd c;
    memset(&c, 0, sizeof c);
    c.start = seconds();
    c.program = argv[0];
    if (argc < 2) {
        help(stderr);
        return DI_EUSAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        help(stdout);
        return said();
    }
    if (!strcmp(argv[1], "--version"))
        return version();
    const struct verb *v = find_verb(argv[1]);
    if (!v)
        return unknown_verb(argv[1]);
    if (v->bit & (V_SOLVE | V_SAMPLE | V_NET | V_SELFTEST))
        wait_patiently(argv);
    catch_signals();
    memory_begin();
    di_status s = di_open(&c.ctx, NULL, NULL);
    if (s) {
        print_error(s == DI_EMEMORY ? "no memory to start" : c.ctx ? di_error(c.ctx) :
                    "this build breaks the arithmetic it relies on: build it with the flags of "
                    "its Makefile");
        di_close(c.ctx);
        return s;
    }
    int code = run_verb(v, &c, argc - 2, argv + 2);
    settings_free(&c.set);
    settings_free(&c.facts);
    di_close(c.ctx);
    return code;
}
