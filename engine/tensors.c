/* From tensors of a file to what the engine computes with: checked shapes, float vectors, packed matrices. */
#include "engine/model.h"

#include <stdlib.h>
#include <string.h>

void *ot_alloc(size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX - 128)
        return NULL;
    bytes = (bytes + 63) / 64 * 64;
    void *p = aligned_alloc(64, bytes ? bytes : 64);
    if (p != NULL)
        memset(p, 0, bytes ? bytes : 64);
    return p;
}

ot_status ot_tensor_require(const ot_gguf *gguf, const char *name, uint32_t n_in, uint32_t n_out,
                            const ot_tensor **out, ot_error *err)
{
    const ot_tensor *t = ot_gguf_tensor(gguf, name);
    const uint64_t want_out = n_out ? n_out : 1;
    if (t == NULL)
        return ot_fail(err, OT_ERR_FORMAT, "%s: tensor '%s' is missing", ot_gguf_path(gguf), name);
    if (t->dims[0] != n_in || t->dims[1] != want_out || t->dims[2] != 1 || t->dims[3] != 1)
        return ot_fail(err, OT_ERR_FORMAT, "%s: tensor '%s' is [%llu, %llu, %llu, %llu], expected [%u, %llu]",
                       ot_gguf_path(gguf), name, (unsigned long long)t->dims[0], (unsigned long long)t->dims[1],
                       (unsigned long long)t->dims[2], (unsigned long long)t->dims[3], n_in,
                       (unsigned long long)want_out);
    if (!ot_type_known((uint32_t)t->type))
        return ot_fail(err, OT_ERR_UNSUPPORTED, "%s: tensor '%s' has type %u (%s), which this build cannot compute with",
                       ot_gguf_path(gguf), name, (unsigned)t->type, ot_type_name(t->type));
    *out = t;
    return OT_OK;
}

ot_status ot_tensor_load_vector(const ot_gguf *gguf, const char *name, uint32_t n, float **out, ot_error *err)
{
    const ot_tensor *t;
    const ot_status st = ot_tensor_require(gguf, name, n, 0, &t, err);
    if (st != OT_OK)
        return st;
    float *v = ot_alloc(n, sizeof *v);
    if (v == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for tensor '%s'", name);
    ot_dequantize(t->type, t->data, v, n);
    *out = v;
    return OT_OK;
}

ot_status ot_tensor_load_matrix(const ot_gguf *gguf, const char *name, uint32_t n_in, uint32_t n_out, ot_matrix *out,
                                ot_error *err)
{
    const ot_tensor *t;
    const ot_status st = ot_tensor_require(gguf, name, n_in, n_out, &t, err);
    return st != OT_OK ? st : ot_matrix_pack(out, t->type, t->data, n_in, n_out, err);
}
