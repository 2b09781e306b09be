/* maker.h: weight files made in memory (weights/README.md), with weights that are a formula of
   their names (tests/vectors/README.md). */
#ifndef MAKER_H
#define MAKER_H

#include "check.h"

#include <stdlib.h>

typedef struct bytes {
    char *p;
    size_t size;
} bytes;

enum { TENSORS = 256, ALIGN = 64 };
typedef struct maker {
    struct tensor { char name[40]; int rank, dim[4]; size_t off, bytes; } tensor[TENSORS];
    int count;
    char data[16 << 20];
    size_t size;
    uint32_t crc;
} maker;

static inline uint32_t crc32(uint32_t crc, const void *p, size_t n)
{
    static uint32_t table[256];
    const unsigned char *b = p;
    for (uint32_t i = 0; !table[255] && i < 256; i++) {
        table[i] = i;
        for (int k = 0; k < 8; k++)
            table[i] = table[i] & 1 ? 0xEDB88320u ^ table[i] >> 1 : table[i] >> 1;
    }
    for (crc = ~crc; n; n--, b++)
        crc = crc >> 8 ^ table[(crc ^ *b) & 255];
    return ~crc;
}

static inline void store(char *p, uint64_t v, int count)
{
    for (int i = 0; i < count; i++)
        p[i] = (char)(v >> 8 * i & 255);
}

/* Appends a tensor with its values by formula: offset + integer in -K..K, times 2^-s. */
static inline void tensor(maker *m, const char *prefix, const char *leaf, int rank, int a,
                          int b, int c)
{
    struct tensor *t = &m->tensor[m->count++];
    int dim[4] = { a, b, c, c }, s = 10, k = leaf[1] == 'w' ? 1024 : 256;
    double fan = 1;
    size_t n = (size_t)a;
    snprintf(t->name, sizeof t->name, "%s%s", prefix, leaf);
    t->rank = rank;
    for (int i = 0; i < 4; i++) {
        t->dim[i] = i < rank ? dim[i] : 1;
        fan *= i ? t->dim[i] : 1;
    }
    n *= (size_t)fan;
    if (leaf[1] == 'w' && strcmp(prefix, "label") != 0)
        for (s = 30; (k = (int)floor(ldexp(sqrt(3 / fan), s))) > 2047;)
            s--;
    t->off = m->size;
    t->bytes = 4 * n;
    m->size += (t->bytes + ALIGN - 1) / ALIGN * ALIGN;
    for (uint32_t i = 0, seed = crc32(0, t->name, strlen(t->name)); i < n; i++) {
        union { float f; uint32_t u; } v;
        uint32_t h = seed + i * 0x9E3779B9u;
        h = (h ^ h >> 16) * 0x85EBCA6Bu;
        h = (h ^ h >> 13) * 0xC2B2AE35u;
        h ^= h >> 16;
        int u = (int)((uint64_t)h * (2 * (unsigned)k + 1) >> 32) - k;
        v.f = (float)((leaf[1] == 'g') + ldexp(u, -s));
        store(m->data + t->off + 4 * (size_t)i, v.u, 4);
    }
    m->crc = crc32(m->crc, m->data + t->off, t->bytes);
}

/* rank 4: a convolution of size k; rank 2: a matrix. */
static inline void layer(maker *m, const char *prefix, const char *part, int rank, int oc,
                         int ic, int k)
{
    char name[40];
    snprintf(name, sizeof name, "%s%s", prefix, part);
    tensor(m, name, ".w", rank, oc, ic, k);
    tensor(m, name, ".b", 1, oc, 1, 1);
}

static inline int by_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

/* The file of the maker's tensors and the metadata, lines key=value with ascending keys. */
static inline bytes make_file(maker *m, const char *meta)
{
    qsort(m->tensor, (size_t)m->count, sizeof *m->tensor, by_name);
    size_t meta_len = strlen(meta), names = 0;
    size_t index = (128 + meta_len + ALIGN - 1) / ALIGN * ALIGN;
    size_t at = index + 64 * (size_t)m->count; /* of the names */
    for (int i = 0; i < m->count; i++)
        names += strlen(m->tensor[i].name);
    size_t data = (at + names + ALIGN - 1) / ALIGN * ALIGN;
    bytes f = { calloc(data + m->size, 1), data + m->size };
    uint64_t head[8] = { 128, meta_len, index, at - index, at, names, data, m->size };
    memcpy(f.p, "\x89UNW\r\n\x1a\n", 8);
    store(f.p + 8, 1, 4);
    store(f.p + 12, 128, 4);
    store(f.p + 16, f.size, 8);
    for (int i = 0; i < 8; i++)
        store(f.p + 24 + 8 * i, head[i], 8);
    store(f.p + 88, (uint64_t)m->count, 4);
    store(f.p + 92, ALIGN, 4);
    memcpy(f.p + 128, meta, meta_len);
    memcpy(f.p + data, m->data, m->size);
    size_t name = 0;
    for (int i = 0; i < m->count; i++) {
        struct tensor *t = &m->tensor[i];
        char *e = f.p + index + 64 * (size_t)i;
        store(e, data + t->off, 8);
        store(e + 8, t->bytes, 8);
        store(e + 16, name, 4);
        store(e + 20, strlen(t->name), 2);
        store(e + 22, 1, 1); /* float32 */
        store(e + 23, (uint64_t)t->rank, 1);
        for (int k = 0; k < 4; k++)
            store(e + 24 + 8 * k, (uint64_t)t->dim[k], 8);
        store(e + 56, crc32(0, m->data + t->off, t->bytes), 4);
        memcpy(f.p + at + name, t->name, strlen(t->name));
        name += strlen(t->name);
    }
    store(f.p + 96, crc32(0, f.p, data), 4);
    return f;
}

static inline int read_bytes(void *user, uint64_t offset, void *dst, size_t n)
{
    memcpy(dst, (const char *)user + offset, n);
    return 0;
}

enum { BLUR_BASE = 16 };
#define BLUR_META \
    "format.kind=bkse\ninfo.x=y\nnet.back=2\nnet.base=16\nnet.front=1\nnet.in=3\n"

static inline void blur_layer(maker *m, const char *name, int i, const char *part, int oc,
                              int ic)
{
    char p[40];
    snprintf(p, sizeof p, name, i, part);
    layer(m, p, "", 4, oc, ic, 3);
}

/* A small network that blurs: one residual block in front, two at the back; without the last
   tensor where `cut`. */
static inline bytes make_blur(const char *meta, int cut)
{
    static maker m;
    static const int width[6] = { BLUR_BASE, BLUR_BASE, 2 * BLUR_BASE, 4 * BLUR_BASE,
                                  8 * BLUR_BASE, 8 * BLUR_BASE };
    char p[40];
    memset(&m, 0, sizeof m);
    for (int i = 0; i < 3; i++)
        blur_layer(&m, "front.%d%s", i, "", BLUR_BASE, i ? BLUR_BASE : 3);
    blur_layer(&m, "front.res.%d.%s", 0, "c1", BLUR_BASE, BLUR_BASE);
    blur_layer(&m, "front.res.%d.%s", 0, "c2", BLUR_BASE, BLUR_BASE);
    for (int i = 0; i < 5; i++) {
        snprintf(p, sizeof p, "down.%d", i);
        tensor(&m, p, ".w", 4, width[i + 1], width[i], 4);
    }
    for (int i = 4; i >= 0; i--) { /* in, out: the other way round */
        snprintf(p, sizeof p, "up.%d", i);
        tensor(&m, p, ".w", 4, 2 * width[i + 1], width[i], 4);
    }
    tensor(&m, "up.0", ".b", 1, BLUR_BASE, 1, 1);
    for (int i = 0; i < 2; i++) {
        blur_layer(&m, "back.res.%d.%s", i, "c1", BLUR_BASE, BLUR_BASE);
        blur_layer(&m, "back.res.%d.%s", i, "c2", BLUR_BASE, BLUR_BASE);
    }
    blur_layer(&m, "back.up.%d%s", 0, "", 4 * BLUR_BASE, BLUR_BASE);
    blur_layer(&m, "back.up.%d%s", 1, "", 4 * 64, BLUR_BASE);
    layer(&m, "back", ".mid", 4, 64, 64, 3);
    layer(&m, "back", ".out", 4, 3, 64, 3);
    m.count -= cut;
    return make_file(&m, meta);
}

#endif
