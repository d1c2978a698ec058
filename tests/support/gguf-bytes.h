/* GGUF files made byte by byte, so that tests can make what the writer would refuse: wrong counts, duplicate names, old versions.
 *
 * A buffer of fixed size on the caller's stack; running over it is remembered in `overrun`, for the test to check. Values are
 * little-endian. */
#ifndef OTTER_TESTS_SUPPORT_GGUF_BYTES_H
#define OTTER_TESTS_SUPPORT_GGUF_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gguf/gguf.h"

typedef struct gguf_bytes {
    uint8_t bytes[16384];
    size_t size;
    bool overrun;
} gguf_bytes;

void gguf_bytes_raw(gguf_bytes *b, const void *data, size_t n);
void gguf_bytes_u8(gguf_bytes *b, uint8_t value);
void gguf_bytes_u16(gguf_bytes *b, uint16_t value);
void gguf_bytes_u32(gguf_bytes *b, uint32_t value);
void gguf_bytes_u64(gguf_bytes *b, uint64_t value);
void gguf_bytes_f32(gguf_bytes *b, float value);
void gguf_bytes_f64(gguf_bytes *b, double value);
void gguf_bytes_str(gguf_bytes *b, const char *text); /* length and bytes */

/* Magic, version and the two counts. */
void gguf_bytes_header(gguf_bytes *b, uint32_t version, uint64_t n_tensors, uint64_t n_keys);
/* Name and type of a key; the value follows. */
void gguf_bytes_key(gguf_bytes *b, const char *name, ot_gguf_type type);
/* The same of an array; the elements follow. */
void gguf_bytes_array(gguf_bytes *b, const char *name, ot_gguf_type element, uint64_t count);
/* A tensor header with two dimensions. */
void gguf_bytes_tensor(gguf_bytes *b, const char *name, uint32_t type, uint64_t dim0, uint64_t dim1, uint64_t offset);
/* Zeros up to a multiple of `alignment`. */
void gguf_bytes_pad(gguf_bytes *b, size_t alignment);

/* A sound file of about 2 KB with every value type and nine tensor types: what the fuzz test starts from. */
void gguf_bytes_sample(gguf_bytes *b);

#endif
