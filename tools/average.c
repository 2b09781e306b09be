/* average.c - the mean and the spread of several samples of one measurement: --mean, --std */
#include "job.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int average_outputs(job *j)
{
    cmd *c = j->c;
    int code = cmd_check_output(c, "mean", 1);
    if (!code)
        code = cmd_check_output(c, "std", 1);
    if (!code && cmd_get(c, "std") && j->samples < 2)
        code = di_fail(c->ctx, DI_EUSAGE, "--std is the spread of several samples: give -n 2 or "
                       "more");
    return code;
}

/* x (k,n), k samples: sums in double, in the samples' order. */
static void of_pixels(const di_real *x, size_t k, size_t n, di_real *mean, di_real *std)
{
    for (size_t i = 0; i < n; i++) {
        double sum = 0, square = 0;
        for (size_t s = 0; s < k; s++)
            sum += (double)x[s * n + i];
        double m = sum / (double)k;
        for (size_t s = 0; s < k; s++) {
            double d = (double)x[s * n + i] - m;
            square += d * d;
        }
        mean[i] = (di_real)m;
        if (std)
            std[i] = (di_real)(k > 1 ? sqrt(square / (double)(k - 1)) : 0);
    }
}

int average_make(job *j, io_array *mean, io_array *std)
{
    const io_array *x = &j->out;
    size_t k = (size_t)j->samples, n = image_size(j->prior);
    memset(mean, 0, sizeof *mean);
    if (std)
        memset(std, 0, sizeof *std);
    if (io_make(mean, j->images / k, x->c, x->h, x->w) ||
        (std && io_make(std, j->images / k, x->c, x->h, x->w))) {
        io_free(mean);
        return no_memory(j->c, "the mean of the samples");
    }
    for (size_t i = 0; i < mean->n; i++)
        of_pixels(x->v + i * k * n, k, n, mean->v + i * n, std ? std->v + i * n : NULL);
    mean->picture = x->picture;
    return 0;
}

/* Numbers in .npy and .pfm; in a picture black is 0 and white the largest value. */
static int write_std(job *j, io_array *std)
{
    cmd *c = j->c;
    const char *path = cmd_get(c, "std");
    double most = 0;
    size_t n = std->n * std->c * std->h * std->w;
    for (size_t i = 0; i < n; i++)
        most = (double)std->v[i] > most ? (double)std->v[i] : most;
    if (path && is_picture_name(path)) {
        for (size_t i = 0; i < n; i++)
            std->v[i] = (di_real)(most > 0 ? 2 * (double)std->v[i] / most - 1 : -1);
        cmd_note(c, "%s: black is 0, white is %.4g; .npy keeps the numbers", path, most);
    }
    int code = path ? cmd_fact(c, "info.std_max", "%.6g", most) : 0;
    return code ? code : job_write(c, "std", std);
}

int average_write(job *j)
{
    io_array mean, std;
    if (!cmd_get(j->c, "mean") && !cmd_get(j->c, "std"))
        return 0;
    int code = average_make(j, &mean, &std);
    if (code)
        return code;
    code = job_write(j->c, "mean", &mean);
    if (!code)
        code = write_std(j, &std);
    io_free(&mean);
    io_free(&std);
    return code;
}
