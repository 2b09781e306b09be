/* test_hostile.c: the weight reader against damaged and hostile files. Every truncation of the
   head, every flipped byte, a table of crafted lies with the checksum made right again. The
   reader must refuse each with a message, or accept what is harmless; never crash, never leak. */
#define DIFFINV_KERNELS
#include "../diffinv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct memory {
    const unsigned char *p;
    size_t n;
} memory;

static int passed, failed;

static void check(int ok, const char *what, const char *more)
{
    if (ok)
        passed++;
    else {
        failed++;
        printf("FAIL %s: %s\n", what, more);
    }
}

static int read_memory(void *user, uint64_t at, void *dst, size_t n)
{
    memory *m = user;
    if (at > m->n || n > m->n - at)
        return -1;
    memcpy(dst, m->p + at, n);
    return 0;
}

/* Status of opening the n bytes at p; the message in text. Everything is given back. */
static di_status try_open(const unsigned char *p, size_t n, uint64_t size, char *text)
{
    memory m;
    di_ctx *ctx;
    di_net *net;
    m.p = p;
    m.n = n;
    if (di_open(&ctx, NULL, NULL))
        return DI_EMEMORY;
    di_status s = di_net_open(ctx, read_memory, &m, size, 0, &net);
    snprintf(text, 512, "%s", di_error(ctx));
    if (s && (net || di_bytes(ctx)))
        snprintf(text, 512, "leaves %.0f bytes behind", (double)di_bytes(ctx));
    if (s && !*text)
        snprintf(text, 512, "no message");
    di_close(ctx);
    return s;
}

static uint32_t crc32(const unsigned char *p, size_t n)
{
    uint32_t c = 0xffffffffu;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int k = 0; k < 8; k++)
            c = c & 1 ? 0xEDB88320u ^ c >> 1 : c >> 1;
    }
    return ~c;
}

static uint64_t get(const unsigned char *p, int bytes)
{
    uint64_t v = 0;
    for (int i = bytes - 1; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

static void set(unsigned char *p, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        p[i] = (unsigned char)(v >> 8 * i);
}

static void sign(unsigned char *p) /* makes the head's checksum right */
{
    uint64_t data = get(p + 72, 8);
    set(p + 96, 0, 4);
    set(p + 96, crc32(p, (size_t)data), 4);
}

/* Fields of the head and values that lie. base: 0 header, 1 first index entry. */
static const struct lie {
    const char *what;
    int base, at, bytes;
    uint64_t value;
} lies[] = {
    { "version 2", 0, 8, 4, 2 },
    { "header size", 0, 12, 4, 256 },
    { "file size one more", 0, 16, 8, 0 },
    { "metadata past the end", 0, 24, 8, 0xffffffffffffff00u },
    { "metadata length wraps", 0, 32, 8, 0xffffffffffffffffu },
    { "index before metadata", 0, 40, 8, 128 },
    { "index length", 0, 48, 8, 64 },
    { "names overlap", 0, 56, 8, 130 },
    { "count huge", 0, 88, 4, 0xffffffffu },
    { "count one less", 0, 88, 4, 1 },
    { "align zero", 0, 92, 4, 0 },
    { "align 48", 0, 92, 4, 48 },
    { "align huge", 0, 92, 4, 1u << 31 },
    { "flags", 0, 100, 4, 1 },
    { "reserved", 0, 120, 4, 7 },
    { "tensor offset unaligned", 1, 0, 8, 12345 },
    { "tensor offset in the head", 1, 0, 8, 128 },
    { "tensor offset past the end", 1, 0, 8, 0xffffffffffffffc0u },
    { "tensor bytes huge", 1, 8, 8, 0xffffffffffffffffu },
    { "tensor bytes odd", 1, 8, 8, 3 },
    { "name offset", 1, 16, 4, 0xfffffff0u },
    { "name length 0", 1, 20, 2, 0 },
    { "name length past the names", 1, 20, 2, 65535 },
    { "dtype 0", 1, 22, 1, 0 },
    { "dtype 9", 1, 22, 1, 9 },
    { "rank 5", 1, 23, 1, 5 },
    { "dim 0", 1, 24, 8, 0 },
    { "dim huge", 1, 24, 8, (uint64_t)1 << 63 },
    { "unused dim 2", 1, 48, 8, 2 },
    { "entry tail", 1, 60, 4, 1 },
};

/* Metadata values replaced by others of the same length, where the text holds them. */
static const char *const meta_lies[][2] = {
    { "format.kind=unet2d", "format.kind=unet3d" }, { "net.base=32", "net.base=-2" },
    { "net.base=32", "net.base=99" }, { "net.blocks=1", "net.blocks=0" },
    { "net.blocks=1", "net.blocks=9" }, { "net.in=3", "net.in=0" }, { "net.out=6", "net.out=7" },
    { "net.mult=1,1", "net.mult=1,x" }, { "net.mult=1,1", "net.mult=1,9" },
    { "net.mult=1,1", "net.mult=1e9" }, { "net.norm.groups=32", "net.norm.groups=00" },
    { "net.norm.groups=32", "net.norm.groups=31" }, { "pred.kind=eps", "pred.kind=xxx" },
    { "pred.var=learned_range", "pred.var=learned_ranke" }, { "sched.steps=1000", "sched.steps=0x10" },
    { "sched.kind=linear", "sched.kind=lineal" }, { "net.emb=128", "net.emb=nan" },
    { "net.attn.mid=1", "net.attn.mid=7" }, { "net.stem=32", "net.stem=33" },
    { "data.min=-1", "data.min=\001\001" }, { "net.in=3", "net.iq=3" },
};

static void lies_of_the_head(const unsigned char *file, size_t n)
{
    unsigned char *p = malloc(n);
    char text[512];
    uint64_t index = get(file + 40, 8), data = get(file + 72, 8);
    for (size_t i = 0; p && i < sizeof lies / sizeof *lies; i++) {
        memcpy(p, file, n);
        set(p + (lies[i].base ? index : 0) + lies[i].at, lies[i].value, lies[i].bytes);
        if (get(p + 72, 8) == data)
            sign(p);
        di_status s = try_open(p, n, n, text);
        check(s == DI_EINPUT && strncmp(text, "weight file", 11) == 0, lies[i].what, text);
    }
    for (size_t i = 0; p && i < sizeof meta_lies / sizeof *meta_lies; i++) {
        memcpy(p, file, n);
        size_t len = strlen(meta_lies[i][0]), at = (size_t)get(file + 24, 8);
        while (at + len < data && memcmp(p + at, meta_lies[i][0], len) != 0)
            at++;
        check(at + len < data, meta_lies[i][0], "is not in the test file");
        if (at + len >= data)
            continue;
        memcpy(p + at, meta_lies[i][1], len);
        sign(p);
        di_status s = try_open(p, n, n, text);
        check(s == DI_EINPUT && strncmp(text, "weight file", 11) == 0, meta_lies[i][1], text);
    }
    if (p) { /* NaN among the weights, its checksum right */
        memcpy(p, file, n);
        uint64_t off = get(p + index, 8), bytes = get(p + index + 8, 8);
        set(p + off, 0x7e00, 2);
        set(p + index + 56, crc32(p + off, (size_t)bytes), 4);
        sign(p);
        check(try_open(p, n, n, text) == DI_EINPUT && strstr(text, "NaN"), "NaN weight", text);
    }
    free(p);
}

static void damage(const unsigned char *file, size_t n)
{
    unsigned char *p = malloc(n);
    char text[512];
    uint64_t data = get(file + 72, 8);
    int refused = 0, tried = 0;
    for (size_t i = 0; p && i < data; i += i < 400 ? 1 : 7) { /* a byte of the head flipped */
        memcpy(p, file, n);
        p[i] ^= 0x41;
        tried++;
        refused += try_open(p, n, n, text) == DI_EINPUT;
    }
    check(tried && refused == tried, "flipped head bytes", "one was accepted");
    for (size_t i = refused = tried = 0; p && i < 40; i++) { /* a byte of the data flipped */
        size_t at = (size_t)get(file + get(file + 40, 8) + 64 * (i % get(file + 88, 4)), 8);
        memcpy(p, file, n);
        p[at + 1] ^= 1;
        tried++;
        refused += try_open(p, n, n, text) == DI_EINPUT && strstr(text, "damaged");
    }
    check(tried && refused == tried, "flipped data bytes", text);
    for (size_t cut = refused = tried = 0; cut < n; cut += cut < 300 ? 1 : 1777) {
        tried++;
        refused += try_open(file, cut, cut, text) == DI_EINPUT; /* honest about its size */
        tried++;
        refused += try_open(file, cut, n, text) == DI_EINPUT;   /* reads fail */
    }
    check(tried && refused == tried, "truncations", "one was accepted");
    check(try_open(file, n, n + 1, text) == DI_EINPUT, "appended byte", text);
    uint32_t r[4], counter[4] = { 0, 0, 0, 0 };
    for (uint32_t i = 0; p && i < 3000; i++) { /* random bytes of a signed head */
        memcpy(p, file, (size_t)data);
        counter[0] = i;
        di_philox(99, counter, r);
        for (int k = 0; k < 1 + (int)(r[3] % 3); k++)
            p[128 + (r[k] >> 8) % (data - 128)] = (unsigned char)r[k];
        if (i == 0)
            memcpy(p + data, file + data, n - data);
        sign(p);
        if (try_open(p, n, n, text) && !*text)
            check(0, "random head", text);
    }
    passed++;
    free(p);
}

int main(void)
{
    FILE *f = fopen("tests/vectors/dps.unw", "rb");
    size_t cap = 1 << 22, n;
    unsigned char *file = malloc(cap);
    char text[512];
    if (!f || !file) {
        printf("FAIL tests/vectors/dps.unw cannot be read\n0 passed, 1 failed\n");
        return 1;
    }
    n = fread(file, 1, cap, f);
    fclose(f);
    check(try_open(file, n, n, text) == DI_OK, "the file as it is", text);
    lies_of_the_head(file, n);
    damage(file, n);
    free(file);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
