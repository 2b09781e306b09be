/* cmd.h - what the files of the diffinv command share.
 *
 *   main.c      the verbs, their help, the start, signals
 *   settings.c  key=value settings from the line and from files; the run record
 *   input.c     weights, pictures and numbers, brought to what a run needs
 *   memory.c    bytes that a run needs and has needed
 *   exact.c     the priors that need no network: gauss:... and mixture:...
 *   run.c       measure, solve, sample: the verbs that run something long
 *   job.c       what a run reports, counts and writes down (job.h)
 *   state.c     a run left and taken up later: --save-every, --resume
 *   average.c   the mean and the spread of several samples: --mean, --std
 *   view.c      view: an array as a person wants to see it
 *   selftest.c  selftest: whether this installation computes the right bits
 *   sheet.c     the sheet of pictures that solve makes
 *   make_image.c  make: test pictures, coverages
 *   show.c      eval, info, list, net, op: the verbs that show something
 *
 * Everything that can fail returns nonzero and leaves one line and the exit code in the
 * context: di_fail() records them, main() prints the one and returns the other. */
#ifndef CMD_H
#define CMD_H

#define DIFFINV_KERNELS
#include <signal.h>
#include <stdio.h>
#include "io.h"
#include "make.h"
#include "picture.h"

enum {
    V_MEASURE = 1, V_SOLVE = 2, V_SAMPLE = 4, V_EVAL = 8, V_INFO = 16, V_LIST = 32, V_NET = 64,
    V_OP = 128, V_VIEW = 256, V_SELFTEST = 512, V_MAKE = 1024, V_ALL = 2047
};

typedef struct setting {
    char *key, *value;
    int recorded;       /* it comes from a file, not from the line */
} setting;
/* Settings in the order of their first mention; setting a key again replaces its value. */
typedef struct settings {
    setting *item;
    int n, cap;
} settings;

typedef struct text {
    char *s;
    size_t n, cap;
    int failed;
} text;

enum { MAX_WORDS = 2 };
typedef struct cmd {
    di_ctx *ctx;
    const char *verb, *program;     /* the verb's name; argv[0] */
    unsigned bit;                   /* V_* */
    settings set;                   /* what the line and its files say; later also defaults */
    const char *word[MAX_WORDS];
    int words, quiet, verbose, help;
    double start;                   /* seconds() at the start */
    settings facts;                 /* info.* and cost.* lines of the record */
} cmd;

/* ---- main.c */

extern volatile sig_atomic_t cmd_stop; /* an interrupt came in */
void cmd_poll_stop(int on); /* on: the first interrupt only sets cmd_stop */

/* ---- settings.c */

double seconds(void);
void text_add(text *t, const char *format, ...);
void text_put(text *t, const void *bytes, size_t n);
const char *settings_get(const settings *s, const char *key);
int settings_put(cmd *c, settings *s, const char *key, const char *value);
void settings_drop(settings *s, const char *key); /* "key", or all of "prefix." */
void settings_free(settings *s);
/* Reads key=value lines; '#' starts a comment line. */
int settings_read(cmd *c, const char *path, settings *s);
int settings_parse(cmd *c, const char *path, char *lines, settings *s); /* lines is cut up */

const char *cmd_get(const cmd *c, const char *key);          /* or NULL */
const char *cmd_or(cmd *c, const char *key, const char *or); /* makes the default a setting */
int cmd_need(cmd *c, const char *key, const char **value);   /* fails if it is missing */
int cmd_parse(cmd *c, int argc, char **argv);
void cmd_note(cmd *c, const char *format, ...);   /* on stderr, not with -q */
void cmd_detail(cmd *c, const char *format, ...); /* on stderr with -v */
int cmd_io(cmd *c, int code, const char *err);    /* passes on what a function of io.h says */
int cmd_fact(cmd *c, const char *key, const char *format, ...);

/* Fails now, not after the work, if an output can't be written; array: an array or picture. */
int cmd_check_output(cmd *c, const char *key, int array);
/* Fails if n images of so many channels can't go into that output's format. */
int cmd_check_shape(cmd *c, const char *key, size_t n, size_t channels);
/* The settings as lines in one order: options, each followed by its parameters. */
enum { IN_RECORD, IN_PICTURE, IN_STATE };
void add_settings(const cmd *c, text *t, int place);
int cmd_write(cmd *c, const char *key, const io_array *a); /* with the settings in a PNG */
int cmd_write_record(cmd *c, const di_cost *cost, double spent); /* OUT.run */
int is_picture_name(const char *path); /* .png .ppm .pgm */

/* "y.npy[2:3]" was measured as y.npy.run says: its settings, or none if there is no record of a
 * measurement. path: the record's. */
int measurement_record(cmd *c, const char *y, settings *record, char path[1040]);

/* ---- input.c */

int input_seed(cmd *c, uint64_t *seed);
int input_int(cmd *c, const char *key, const char *otherwise, int lo, int hi, int *value);
int input_machine(cmd *c); /* --threads, --isa, --numerics */
int input_array(cmd *c, const char *path, io_array *a);
int input_finite(cmd *c, const char *path, const io_array *a); /* refuses NaN and infinity */
/* value: one number, or an NPY file of n. */
int input_numbers(cmd *c, const char *key, const char *value, size_t n, double *out);

typedef struct weights {
    di_net *net;        /* NULL: an exact prior */
    di_prior *exact;    /* or NULL, if only its shape is wanted */
    int fd;
    char path[1024];    /* of the file, or the whole name of an exact prior */
    char what[64];      /* "mixture of 3 Gaussians" */
    uint32_t crc;
    int in, out;        /* channels */
    int h, w;           /* an exact prior's only size; 0: any */
    int trained;        /* side of the pictures it was trained at, 0: unknown */
    int multiple;       /* sides are multiples of this */
    int classes;
    int head;           /* only the head is loaded */
} weights;
int weights_open(cmd *c, const char *name, unsigned flags, weights *w);
int weights_find(cmd *c, const char *name, char path[1024]);     /* 0 when it is found */
const char *weights_dir(const cmd *c, int i, char path[1024]);   /* i-th place, or NULL */
int weights_size(cmd *c, const weights *w, int h, int width);    /* is that size legal? */
int weights_own_size(cmd *c, const weights *w, int *h, int *width); /* or fails */
int weights_prior(const weights *w, int h, int width, di_prior **prior); /* a legal one's */
int input_size(cmd *c, int *h, int *w); /* --size; 0 0 if there is none */
int input_labels(cmd *c, const weights *w, size_t n, int **labels); /* NULL if it has none */

/* Reads pictures for prior w (NULL: any) and brings them to its channels and size. */
int input_pictures(cmd *c, const char *path, const weights *w, io_array *a);
/* Reads what a picture of h x width is compared with; how (or NULL): it is fitted to that size. */
int input_truth(cmd *c, const char *path, const weights *w, const char *how, int h, int width,
                io_array *a);
/* *fits: whether they do so under the plan in force. */
int input_fits(cmd *c, const weights *w, size_t (*need)(void *user), void *user, double arrays,
               int *fits);
/* How many of `samples` go through the network together, at most. */
size_t input_batch(const di_solver *solver, size_t samples, int h, int w);
/* Sets the fastest plan of the derivative with which the whole process, `need(user)` bytes of
   work and `arrays` of the command among it, fits --mem, and says which; without --mem the
   fastest. */
int input_memory(cmd *c, const weights *w, size_t (*need)(void *user), void *user,
                 double arrays);

/* ---- memory.c */

void memory_begin(void);    /* at the start of the process */
double memory_peak(void);   /* resident bytes of this process at its height */
/* Those of a run that is still to come: what there is now, weights that are not loaded yet,
   `work` of solver and network, `arrays` of the command. An upper bound, by 2 % and 1 MiB at
   most. */
double memory_need(const cmd *c, const weights *w, double work, double arrays);

/* The problem that the settings ask for. record (or NULL) is that of the measurement: it fills
 * what was not given, and a contradiction is an error. */
int input_problem(cmd *c, const settings *record, const char *path, make_spec *spec);
/* The solver, its parameters checked; otherwise: the default. needs: DI_NEEDS_PROBLEM or 0. */
int input_solver(cmd *c, const char *otherwise, unsigned needs, const di_solver **solver);
int input_params(cmd *c, const di_solver *solver, di_run *run); /* from settings and back */

/* ---- exact.c */

int exact_is(const char *name); /* gauss:... or mixture:... */
/* Reads and checks the arrays; build: makes w->exact too. */
int exact_open(cmd *c, const char *name, int build, weights *w);

/* ---- sheet.c */

/* --sheet, if asked for: truth (may be empty), measurement, the answer that needs no prior,
 * restored; without out what can be made of the measurement alone. */
int sheet_write(cmd *c, const di_problem *p, const make_spec *spec, const io_array *y,
                const io_array *truth, const io_array *out, const char *title);

/* measure --simple FILE: what one would do without a prior: the known pixels' mean in a hole,
 * bicubic enlargement, or the measurement itself. */
int simple_check(cmd *c, const di_problem *p); /* fails where there is none */
int simple_answer(cmd *c, const di_problem *p, const io_array *y);

/* ---- view.c */

/* Pictures (N,1 or 3,H,W) as a grid, other channels as panels: a picture (1,1 or 3,H',W') large
 * enough to look at. 0 or IO_MEMORY. */
int view_plain(io_array *out, const io_array *a);
/* An image, or a measurement, of a problem as a small picture (1,1 or 3,h,w), for sheets. */
int view_small(cmd *c, const make_spec *spec, const di_problem *p, int measured,
               const di_real *v, io_array *out);

/* ---- make_image.c */

void make_list(int defaults); /* diffinv list makers */

/* ---- the verbs: main.c holds their table */

int verb_measure(cmd *c);
int verb_solve(cmd *c);
int verb_sample(cmd *c);
int verb_eval(cmd *c);
int verb_info(cmd *c);
int verb_list(cmd *c);
int verb_net(cmd *c);
int verb_op(cmd *c);
int verb_view(cmd *c);
int verb_selftest(cmd *c);
int verb_make(cmd *c);

const char *verb_names(unsigned bits); /* "solve and sample", for messages */
unsigned verb_bit(const char *name);

#endif
