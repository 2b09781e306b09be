/* io.h - image and array files: NPY, PNG, PPM/PGM and PFM in, the same out.
 *
 * Everything inside is one type: values (N,C,H,W), contiguous, row-major. Pictures live in
 * [-1,1] (x = 2p/max - 1); other arrays are kept as they are, NaN and infinities included.
 *
 *   file                         becomes                       values
 *   NPY float or integer         (m) -> (1,1,1,m)              as they are
 *                                (H,W) -> (1,1,H,W)
 *                                (C,H,W) -> (1,C,H,W)
 *                                (N,C,H,W)
 *   NPY u1 (pictures)            (H,W), (N,H,W) -> C = 1       [-1,1]
 *                                (H,W,3), (N,H,W,3) -> C = 3
 *   NPY bool (a mask)            as float                      0 or 1
 *   PNG, PPM, PGM                (1,1,H,W) or (1,3,H,W)        [-1,1]; alpha is dropped
 *   PFM                          (1,1,H,W) or (1,3,H,W)        as they are
 *
 * The format is decided by content, never by name. A path may end in a selector along N:
 * "f.npy[a:b]", "[a:]", "[:b]", "[a]". Every function that can fail returns 0 or the exit code
 * of the command, and leaves one line in err: where, what, what to do about it.
 */
#ifndef IO_H
#define IO_H

#include <stddef.h>
#include "../diffinv.h"

enum { IO_BAD = 2, IO_MEMORY = 3, IO_OUTPUT = 6 };

typedef struct {
    size_t n, c, h, w;
    di_real *v;     /* (n,c,h,w), made with malloc */
    int picture;    /* 1: from a u1 array or an image file, so values are in [-1,1] */
} io_array;

void io_free(io_array *a);

/* Makes an array of n*c*h*w zeros; IO_MEMORY if that does not fit. */
int io_make(io_array *a, size_t n, size_t c, size_t h, size_t w);

/* Reads a file; on failure a is empty (v = NULL). Memory follows the selection and never
 * exceeds what the file's own size justifies. */
int io_read(io_array *a, const char *path, char *err, size_t errlen);

/* Writes a by the extension of path: .npy .png .ppm .pgm .pfm. The file appears whole or not at
 * all. NPY: float, (C,H,W) if n is 1, else (N,C,H,W). PNG, PPM and PGM: 8 bits,
 * round((x+1)*127.5) clamped, NaN -> 0; several pictures become io_grid(zoom 1, gap 2).
 * text, for a PNG, or NULL: key, value, key, value, ..., NULL (UTF-8; a key is 1..79 printable
 * ASCII characters). */
int io_write(const char *path, const io_array *a, const char *const *text, char *err,
             size_t errlen);

/* Whether an array of a's shape can be written there; its values are not looked at. */
int io_check_write(const char *path, const io_array *a, char *err, size_t errlen);

/* The same atomic writing for any bytes. A device or a pipe is written to directly. */
int io_write_text(const char *path, const char *bytes, size_t len, char *err, size_t errlen);

/* Reads a whole file of at most cap bytes; *out has a closing NUL not counted in *len; free
 * it. */
int io_read_text(const char *path, char **out, size_t *len, size_t cap, char *err,
                 size_t errlen);

/* n pictures side by side, near-square, row by row, each pixel zoom x zoom, gap pixels of
 * black (-1) between them: (n,c,h,w) -> (1,c,H,W). IO_MEMORY if that does not fit. */
int io_grid(io_array *grid, const io_array *a, size_t zoom, size_t gap);

/* CRC-32 (that of PNG and zip) of n bytes more; begin with 0. */
uint32_t io_crc32(uint32_t crc, const void *bytes, size_t n);

/* Removes the temporary file under way, if any: for signal and exit handlers
 * (async-signal-safe, it calls unlink only). */
void io_remove_temporary(void);

#endif
