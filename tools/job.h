/* job.h - a run of solve or sample: what it gathers, reports, counts and writes down */
#ifndef JOB_H
#define JOB_H

#include "cmd.h"

/* How far a run has come. A state file holds it as it is: 8-byte members only. */
typedef struct marks {
    uint64_t image;         /* first image of the call under way */
    uint64_t step;          /* of that call */
    double seconds, call_seconds; /* spent by earlier processes: in all, in this call */
    di_cost cost;           /* of finished calls */
    double sum[4];          /* for the mean line */
    double best;            /* --oracle: the best iterate's PSNR */
    uint64_t best_step;     /* 0: none yet */
    uint64_t watched;       /* a step had a moving variance */
    uint64_t batch;         /* of the job: memory decides it, and that differs by machine */
} marks;

/* In the order in which a verb fills it: settings, places of outputs, weights, inputs, and
   last the long work. What is missing or wrong shows before the work starts. */
typedef struct job {
    cmd *c;
    const di_solver *solver;
    make_spec spec;
    char fit[16];           /* how the measured picture was fitted, or "" */
    uint64_t seed;
    int samples;            /* wanted, of each measurement */
    weights w;
    di_problem *problem;    /* NULL: sample */
    di_prior *prior;
    di_run *run;
    io_array y, truth, noise, out;
    float *normals;         /* of --noise */
    int *labels;
    size_t images, batch;   /* in all; of one call, at most */
    size_t now;             /* of the call under way */
    marks at;
    int oracle, every;      /* --save-every, 0: never */
    int preview, unseen;    /* --preview, 0: never; whether writing one has failed */
    di_real *best;          /* (C,H,W) of --oracle */
    text trace, table;      /* the lines of stdout so far */
    text note, chosen;      /* what the solver decided, what the oracle chose */
    double began;           /* the current call */
    uint64_t from;          /* its first step is the one after this */
    int shown, tty;         /* last tenth shown; progress is rewritten */
    double shown_at;        /* when */
    int unsaved;            /* steps since the last state */
    text print;             /* what must not differ between a run and its continuation */
    text state;             /* the state file's bytes */
    int resumed;            /* it holds a state that the next call is to go on from */
} job;

/* ---- job.c */

size_t image_size(const di_prior *p);
size_t measurement_size(const di_problem *p);
int no_memory(cmd *c, const char *what);
void job_close(job *j);
int job_outputs(job *j);  /* checks the places of all outputs */
/* Opens the run for images of h x w, j->images of them, and decides j->batch. */
int job_open(job *j, int h, int w);
/* The next images of the run, samples of one measurement y, into j->out: j->now of them; *done
   counts those with a result. */
int job_go(job *j, const di_real *y, size_t *done);
void job_next(job *j); /* they are done */
void job_print(job *j, const char *format, ...); /* a line of the table on stdout */
/* Many pictures in one file become a grid that a person can look at. */
int job_write(cmd *c, const char *key, const io_array *a);
/* Outputs of a run that ended well (code 0) or was interrupted with `done` images begun. */
int job_finish(job *j, int code, size_t done);

/* ---- average.c */

int average_outputs(job *j); /* --mean and --std: their places, and whether they make sense */
int average_write(job *j);   /* after the last image */
/* Samples of each measurement, their pixelwise mean into mean and standard deviation (n-1)
   into std, or NULL: (images/samples,C,H,W). 0, or DI_EMEMORY recorded. */
int average_make(job *j, io_array *mean, io_array *std);

/* ---- state.c */

int state_settings(job *j);  /* --save-every and --resume, checked */
int state_open(job *j);      /* before the work; with --resume goes to where it was left */
int state_begin_call(job *j); /* gives the loaded working memory to the run, once */
void state_step(job *j);     /* from a report: saves, if it is time to */
void state_end(job *j);      /* removes the file */

#endif
