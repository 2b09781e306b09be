/* test_alloc_tool.c: every allocation of the command fails once. The tools' sources are compiled
   with malloc, calloc and realloc renamed to the three below (Makefile), and linked with this
   file in place of a start of their own. Each command line runs in a child of its own: once to
   count, then with the k-th allocation refused, for every k. Each time: exit code 3 with one
   line, no temporary file, and a file that is there is the whole one. */
#define _XOPEN_SOURCE 700
#include "check.h"

#include <dirent.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int diffinv_main(int argc, char **argv);
void *test_malloc(size_t n);
void *test_calloc(size_t n, size_t size);
void *test_realloc(void *p, size_t n);

static long asked, refuse; /* in the child: allocations so far, and the refused one */

static int refused(void) { return ++asked == refuse; }
void *test_malloc(size_t n) { return refused() ? NULL : malloc(n); }
void *test_calloc(size_t n, size_t size) { return refused() ? NULL : calloc(n, size); }
void *test_realloc(void *p, size_t n) { return refused() ? NULL : realloc(p, n); }

/* ---- Files -------------------------------------------------------------------------------- */

enum { MOST = 1 << 20 };
static char bytes[2][MOST];

static size_t read_whole(const char *path, char *to)
{
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(to, 1, MOST - 1, f) : 0;
    to[n] = 0;
    if (f)
        fclose(f);
    return n;
}

static int ends_in(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n >= m && !strcmp(name + n - m, end);
}

/* Outputs are named x...; keep: they become the whole ones to compare with, whole.x... */
static void outputs(int keep)
{
    DIR *d = opendir(".");
    const struct dirent *e;
    char other[300];
    while (d && (e = readdir(d)) != NULL) {
        const char *name = e->d_name;
        if (!keep)
            CHECK(!strstr(name, ".tmp"));
        if (name[0] != 'x')
            continue;
        snprintf(other, sizeof other, "whole.%s", name);
        if (keep) {
            rename(name, other);
            continue;
        }
        size_t n = read_whole(name, bytes[0]), m = read_whole(other, bytes[1]);
        /* a record holds the time taken, and a state too: they end as they should */
        if (ends_in(name, ".run"))
            CHECK(n > 0 && strstr(bytes[0], "cost.peak_bytes=") && bytes[0][n - 1] == '\n');
        else if (!ends_in(name, ".state"))
            CHECK(n == m && !memcmp(bytes[0], bytes[1], n));
        unlink(name);
    }
    if (d)
        closedir(d);
}

/* ---- One command line --------------------------------------------------------------------- */

static char line[600], *words[64];

static int split(const char *command)
{
    int n = 1;
    words[0] = (char *)"diffinv";
    snprintf(line, sizeof line, "%s", command);
    for (char *p = strtok(line, " "); p && n < 63; p = strtok(NULL, " "))
        words[n++] = p;
    words[n] = NULL;
    return n;
}

/* Runs it with allocation k refused; the exit code, -1 for a crash. */
static int run(const char *command, long k, long *count)
{
    int tube[2], status, argc = split(command);
    long counted = 0;
    if (pipe(tube))
        return -1;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        refuse = k;
        if (!freopen("err", "w", stderr) || !freopen("out", "w", stdout))
            _exit(99);
        int code = diffinv_main(argc, words);
        fflush(stdout);
        fflush(stderr);
        if (write(tube[1], &asked, sizeof asked) != sizeof asked)
            code = 98;
        _exit(code);
    }
    close(tube[1]);
    if (read(tube[0], &counted, sizeof counted) == sizeof counted && count)
        *count = counted;
    close(tube[0]);
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
        return -1;
    return WEXITSTATUS(status);
}

/* before: a command that makes an input; its last allocation is refused if `fails`, which
   leaves the state of a run behind. */
static long every(const char *command, const char *before, int fails)
{
    long all = 0, last = 0;
    in_case("%s", command);
    if (before)
        EQUAL(run(before, 0, &last), 0);
    if (!fails)
        last = 0;
    if (fails)
        EQUAL(run(before, last, NULL), 3);
    if (!EQUAL(run(command, 0, &all), 0)) {
        read_whole("err", bytes[0]);
        printf("     %s\n", bytes[0]);
        return 0;
    }
    CHECK(all > 0);
    outputs(1);
    for (long k = 1; k <= all; k++) {
        in_case("allocation %ld of %ld of %s", k, all, command);
        if (before)
            run(before, last, NULL);
        int right = EQUAL(run(command, k, NULL), 3);
        size_t n = read_whole("err", bytes[0]);
        const char *end = strchr(bytes[0], '\n');
        right &= CHECK(n > 0 && end == bytes[0] + n - 1);
        right &= CHECK(!strncmp(bytes[0], "diffinv: ", 9));
        if (!right)
            printf("     %s\n", bytes[0]);
        outputs(0);
    }
    where[0] = 0;
    return all;
}

/* ---- Inputs -------------------------------------------------------------------------------- */

/* A PPM of side x side. */
static void write_picture(const char *path, int side)
{
    FILE *f = fopen(path, "wb");
    if (!f)
        return;
    fprintf(f, "P6\n%d %d\n255\n", side, side);
    for (int i = 0; i < 3 * side * side; i++)
        fputc((i * 7) % 251, f);
    fclose(f);
}

/* A float NPY of equal values. */
static void write_array(const char *path, const char *shape, size_t n, float value)
{
    FILE *f = fopen(path, "wb");
    if (!f)
        return;
    fwrite("\223NUMPY\001\000\166\000", 1, 10, f);
    char head[128];
    snprintf(head, sizeof head, "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }",
             shape);
    fprintf(f, "%-117s\n", head);
    uint32_t u;
    memcpy(&u, &value, 4);
    for (size_t i = 0; i < n; i++)
        for (int k = 0; k < 4; k++)
            fputc((int)(u >> 8 * k & 255), f);
    fclose(f);
}

int main(int argc, char **argv)
{
#define GAUSS "-w gauss:m.npy,c.npy "
    static const char *const lines[][3] = {
        {"measure -q -w none -p inpaint mask=box:4 -i p.ppm -o x.npy", NULL, NULL},
        {"measure -q -w none -p sr factor=2 -i p.png -o x.png --simple xs.ppm", NULL, NULL},
        {"measure -q -w none -p gblur size=3 --size 6x6 --fit resize -i p.pfm -o x.pfm", NULL,
         NULL},
        {"measure -q -w none -p inpaint mask=random:0.5 --size 10x10 --fit pad -i p.npy -o x.pgm",
         NULL, NULL},
        {"op -q -p matrix a=a.npy -i p.npy -o x.npy", NULL, NULL},
        {"eval -q p.png p.ppm", NULL, NULL},
        {"list solvers --defaults", NULL, NULL},
        {"info " GAUSS "-s ddnm -p sr factor=2", NULL, NULL},
        {"net -q -w tiny.unw -i m.npy -t 9 -o x.npy --vjp g.npy --gx xg.npy", NULL, NULL},
        {"sample -q " GAUSS "-s ddim steps=2 -n 3 -o x.png --trace xt.tsv", NULL, NULL},
        {"solve -q " GAUSS "-s ddnm steps=2 -p sr factor=2 -i p.ppm -o x.png --sheet xs.png "
         "--trace xt.tsv", NULL, NULL},
        {"solve -q " GAUSS "-s dps steps=2 -y y.npy -o x.npy --truth p.ppm --oracle "
         "--save-every 1", "measure -q -w none -p sr factor=2 -i p.ppm -o y.npy", NULL},
        {"sample -q " GAUSS "-s ddim steps=2 -o x.npy --noise n.npy", NULL, NULL},
        {"solve -q " GAUSS "-s dps steps=2 -y y.npy -o x.npy --trace xt.tsv --resume",
         "solve -q " GAUSS "-s dps steps=2 -y y.npy -o x.npy --trace xt.tsv --save-every 1",
         "fails"},
    };
    char folder[] = "/tmp/diffinv-alloc-XXXXXX", tiny[1100], here[1024];
    long all = 0;
    begin(argc, argv);
    if (!getcwd(here, sizeof here) || !mkdtemp(folder))
        return 1;
    snprintf(tiny, sizeof tiny, "%s/tests/vectors/dps.unw", here);
    setenv("OMP_WAIT_POLICY", "passive", 1);
    CHECK(!chdir(folder) && !symlink(tiny, "tiny.unw"));
    write_picture("p.ppm", 8);
    write_array("p.npy", "1, 8, 8", 64, 0.25f);
    write_array("m.npy", "3, 8, 8", 192, 0.1f);
    write_array("g.npy", "6, 8, 8", 384, 0.1f);
    write_array("c.npy", "3, 8, 8", 192, 0.5f);
    write_array("a.npy", "2, 64", 128, 0.5f);
    write_array("n.npy", "960", 960, 0.5f);
    EQUAL(run("measure -q -w none -p denoise sigma=0 -i p.ppm -o p.png", 0, NULL), 0);
    EQUAL(run("measure -q -w none -p denoise sigma=0 -i p.ppm -o p.pfm", 0, NULL), 0);
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        all += every(lines[i][0], lines[i][1], lines[i][2] != NULL);
    figure("allocations of the command refused", (double)all);
    snprintf(tiny, sizeof tiny, "rm -rf %s", folder);
    CHECK(!chdir(here) && !system(tiny));
    return finish();
}
