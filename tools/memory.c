/* memory.c - what a run will need in memory, all told, and what it has needed */
#define _XOPEN_SOURCE 700
#include "cmd.h"

#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

/* The figure of `key` ("VmRSS:", "VmHWM:") in /proc/self/status, in bytes; 0: not there. */
static double from_status(const char *key)
{
    char line[200];
    unsigned long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && !kib && fgets(line, sizeof line, f))
        if (!strncmp(line, key, strlen(key)))
            sscanf(line + strlen(key), "%lu", &kib);
    if (f)
        fclose(f);
    return 1024.0 * (double)kib;
}

/* getrusage counts what the process was before exec too: started by a large program, that
   program's memory. So it comes second. */
double memory_peak(void)
{
    struct rusage r;
    double peak = from_status("VmHWM:");
    if (peak > 0 || getrusage(RUSAGE_SELF, &r))
        return peak;
#ifdef __APPLE__
    return (double)r.ru_maxrss;
#else
    return 1024.0 * (double)r.ru_maxrss;
#endif
}

static double memory_now(void)
{
    double now = from_status("VmRSS:");
    return now > 0 ? now : memory_peak();
}

void memory_begin(void)
{
#ifdef __GLIBC__
    /* Large blocks go back to the system when they are freed, so that the tensors' copies made
       while loading do not stay beside the weights. (glibc moves this threshold otherwise.) */
    mallopt(M_MMAP_THRESHOLD, 1 << 18);
    mallopt(M_TRIM_THRESHOLD, 1 << 18);
#endif
}

/* Threads exist from here on, so that what they take is seen; how many. */
static int start_threads(int threads)
{
    int ready = 0;
    (void)threads;
#ifdef _OPENMP
#pragma omp parallel num_threads(threads) reduction(+ : ready)
#endif
    ready += 1;
    return ready;
}

double memory_need(const cmd *c, const weights *w, double work, double arrays)
{
    /* Pages of the program and of the threads' stacks that only work touches. */
    const double untouched = 3 << 17, stack = 1 << 16;
    int threads = start_threads(c->ctx->threads);
    double missing = w->net && w->head ? (double)di_net_weight_bytes(w->net) : 0;
    return memory_now() + missing + work + arrays + untouched + stack * threads;
}
