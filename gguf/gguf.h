/* Reading and writing GGUF files (versions 2 and 3, little-endian).
 * Source: the GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 *
 * A file is mapped read-only and its directory (keys and tensor headers) is parsed once. Every count, length,
 * offset, string and type is checked against the file's size before it is used, so that after ot_gguf_open
 * returned OT_OK each pointer handed out here stays inside the mapping. Strings are not zero-terminated in
 * the file: they come as ot_str.
 */
#ifndef OTTER_GGUF_GGUF_H
#define OTTER_GGUF_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define OT_GGUF_MAX_DIMS 4

typedef struct ot_str {
    const char *data; /* not zero-terminated */
    size_t size;      /* bytes */
} ot_str;

/* Numbers as in the file format. */
typedef enum ot_gguf_type {
    OT_GGUF_U8 = 0, OT_GGUF_I8 = 1, OT_GGUF_U16 = 2, OT_GGUF_I16 = 3, OT_GGUF_U32 = 4, OT_GGUF_I32 = 5,
    OT_GGUF_F32 = 6, OT_GGUF_BOOL = 7, OT_GGUF_STRING = 8, OT_GGUF_ARRAY = 9, OT_GGUF_U64 = 10,
    OT_GGUF_I64 = 11, OT_GGUF_F64 = 12
} ot_gguf_type;

/* Tensor element types, numbered as in ggml. */
typedef enum ot_type {
    OT_TYPE_F32 = 0, OT_TYPE_F16 = 1, OT_TYPE_Q4_0 = 2, OT_TYPE_Q4_1 = 3, OT_TYPE_Q5_0 = 6, OT_TYPE_Q5_1 = 7,
    OT_TYPE_Q8_0 = 8, OT_TYPE_Q2_K = 10, OT_TYPE_Q3_K = 11, OT_TYPE_Q4_K = 12, OT_TYPE_Q5_K = 13, OT_TYPE_Q6_K = 14,
    OT_TYPE_IQ4_NL = 20, OT_TYPE_IQ4_XS = 23, OT_TYPE_BF16 = 30, OT_TYPE_MXFP4 = 39
} ot_type;

typedef struct ot_tensor {
    ot_str name;
    ot_type type;
    uint32_t n_dims;
    uint64_t dims[OT_GGUF_MAX_DIMS]; /* dims[0] is the contiguous one; unused ones are 1 */
    const uint8_t *data;             /* inside the mapping */
    size_t bytes;
} ot_tensor;

typedef struct ot_gguf ot_gguf;

/* Maps and checks a file, and with the first part of a model in several (NAME-00001-of-0000N.gguf) the others. On failure *out is NULL
 * and err names the file, the key or tensor, and the offset. */
ot_status ot_gguf_open(ot_gguf **out, const char *path, ot_error *err);
/* The same from memory that outlives the object (fuzzing, tests); name stands in messages. */
ot_status ot_gguf_open_memory(ot_gguf **out, const void *data, size_t bytes, const char *name, ot_error *err);
void ot_gguf_close(ot_gguf **gguf);

/* Lets the kernel drop the pages of the mapping that were read so far: after loading they are needed no more, or rarely. They come
 * back from the file when they are read again. */
void ot_gguf_drop_pages(const ot_gguf *gguf);
/* The same of one tensor of the file, once it has been read: so no more than the largest is ever in memory while a model is loaded. */
void ot_gguf_drop_tensor(const ot_gguf *gguf, const ot_tensor *tensor);

/* Whether a part of the mapping could not be read from the file any more, since someone cut it short. It reads as zeros then, and
 * nothing that came from the file can be relied on. */
bool ot_gguf_is_damaged(const ot_gguf *gguf);
/* OT_ERR_IO with the file's name if it is damaged so, or was written to since it was opened. To be asked before results that stand on
 * the mapping are given away. */
ot_status ot_gguf_check(const ot_gguf *gguf, ot_error *err);

const char *ot_gguf_path(const ot_gguf *gguf);
uint32_t ot_gguf_version(const ot_gguf *gguf);
size_t ot_gguf_file_bytes(const ot_gguf *gguf);

/* Keys. A get of a missing key leaves *out alone and returns OT_ERR_NOT_FOUND; of a key with another type or
 * a value that does not fit, OT_ERR_FORMAT. Integer getters take any integer type of the file (and bool). */
bool ot_gguf_has(const ot_gguf *gguf, const char *key);
ot_status ot_gguf_get_u32(const ot_gguf *gguf, const char *key, uint32_t *out, ot_error *err);
ot_status ot_gguf_get_f32(const ot_gguf *gguf, const char *key, float *out, ot_error *err);
ot_status ot_gguf_get_bool(const ot_gguf *gguf, const char *key, bool *out, ot_error *err);
ot_status ot_gguf_get_str(const ot_gguf *gguf, const char *key, ot_str *out, ot_error *err);

/* Arrays: element type and count, then elements by index (strings are located in constant time). */
typedef struct ot_gguf_array {
    ot_gguf_type type;
    uint64_t count;
    const uint8_t *data;          /* numeric elements, unaligned, little-endian; NULL for strings */
    const uint64_t *string_at;    /* string elements: offset in the file of each length field; else NULL */
    const ot_gguf *gguf;
} ot_gguf_array;
ot_status ot_gguf_get_array(const ot_gguf *gguf, const char *key, ot_gguf_array *out, ot_error *err);
/* i < count; type must be OT_GGUF_STRING. */
ot_str ot_gguf_array_str(const ot_gguf_array *array, uint64_t i);
/* i < count; any integer type, converted. */
int64_t ot_gguf_array_int(const ot_gguf_array *array, uint64_t i);
/* i < count; any numeric type, converted. */
double ot_gguf_array_num(const ot_gguf_array *array, uint64_t i);

/* Directory walking, in file order (for inspect and fingerprints). */
uint64_t ot_gguf_key_count(const ot_gguf *gguf);
ot_str ot_gguf_key_name(const ot_gguf *gguf, uint64_t i, ot_gguf_type *type);
/* Writes the value of key i as text, cut to size (arrays as "[n] a, b, ..."); returns dst. */
char *ot_gguf_key_text(const ot_gguf *gguf, uint64_t i, char *dst, size_t size);
uint64_t ot_gguf_tensor_count(const ot_gguf *gguf);
const ot_tensor *ot_gguf_tensor_at(const ot_gguf *gguf, uint64_t i);
const ot_tensor *ot_gguf_tensor(const ot_gguf *gguf, const char *name); /* NULL if missing */

/* SHA-256 in lower-case hexadecimal over all tensors sorted by name: for each its name, a zero byte, the type
 * as u32 LE, n_dims as u32 LE, the dims as u64 LE each, then the data. 64 digits and a zero. */
void ot_gguf_fingerprint(const ot_gguf *gguf, char digits[65]);

/* Element types. */
const char *ot_type_name(ot_type type);           /* "Q4_1"; "?" if unknown */
bool ot_type_known(uint32_t type);
uint32_t ot_type_block(ot_type type);             /* elements in a block: 1, 32 or 256 */
uint32_t ot_type_block_bytes(ot_type type);
/* Dequantises n elements (a multiple of the block) from src to dst. Exact: each value is the float32 product
 * and sum that the format defines (ggml's dequantize_row_*). */
void ot_dequantize(ot_type type, const void *src, float *dst, size_t n);
/* Quantises n floats (a multiple of the block). F32, F16, BF16, Q8_0, Q4_0, Q4_1 only, else OT_ERR_UNSUPPORTED. */
ot_status ot_quantize(ot_type type, const float *src, void *dst, size_t n, ot_error *err);
/* The same, but blocks of Q4_0, Q4_1, Q5_0 and Q5_1 get the scale and minimum of least squared error that a short search finds, about
 * 3 us a block: for weights that are written once. There a float that is not finite or beyond 65504 is OT_ERR_INVALID, with its
 * index. Other types go to ot_quantize. */
ot_status ot_quantize_fitted(ot_type type, const float *src, void *dst, size_t n, ot_error *err);
float ot_f16_to_f32(uint16_t h);
uint16_t ot_f32_to_f16(float f);   /* round to nearest even */
float ot_bf16_to_f32(uint16_t b);
uint16_t ot_f32_to_bf16(float f);  /* round to nearest even */

/* Writing. Keys and tensor headers are collected, then everything is written to `path.tmp`, synced and renamed,
 * so that a crash never leaves a half file under the final name. Tensor data is borrowed until write. */
typedef struct ot_gguf_writer ot_gguf_writer;
ot_status ot_gguf_writer_open(ot_gguf_writer **out, ot_error *err);
void ot_gguf_writer_close(ot_gguf_writer **writer);
ot_status ot_gguf_put_u32(ot_gguf_writer *w, const char *key, uint32_t value);
ot_status ot_gguf_put_u64(ot_gguf_writer *w, const char *key, uint64_t value);
ot_status ot_gguf_put_f32(ot_gguf_writer *w, const char *key, float value);
ot_status ot_gguf_put_bool(ot_gguf_writer *w, const char *key, bool value);
ot_status ot_gguf_put_str(ot_gguf_writer *w, const char *key, const char *value);
ot_status ot_gguf_put_u32_array(ot_gguf_writer *w, const char *key, const uint32_t *values, size_t n);
ot_status ot_gguf_put_f32_array(ot_gguf_writer *w, const char *key, const float *values, size_t n);
ot_status ot_gguf_put_str_array(ot_gguf_writer *w, const char *key, const char *const *values, size_t n);
/* data must stay valid until ot_gguf_write; bytes follows from type and dims. */
ot_status ot_gguf_put_tensor(ot_gguf_writer *w, const char *name, ot_type type, uint32_t n_dims,
                             const uint64_t *dims, const void *data, ot_error *err);
ot_status ot_gguf_write(ot_gguf_writer *w, const char *path, ot_error *err);

#endif
