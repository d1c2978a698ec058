/* Tensors of a file, checked against what the engine expects of them. */
#include "engine/tensors.h"
#include "base/memory.h"

#include <math.h>
#include <stdlib.h>

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

const uint8_t *ot_tensor_row_data(const ot_tensor *t, uint64_t row)
{
    return t->data + row * (t->dims[0] / ot_type_block(t->type) * ot_type_block_bytes(t->type));
}

ot_status ot_tensor_load_floats(const ot_gguf *gguf, const ot_tensor *t, uint32_t first, uint32_t n, float **out, ot_error *err)
{
    const size_t whole = (size_t)t->dims[0];
    const int size = (int)(t->name.size < 64 ? t->name.size : 64);
    float *v = ot_alloc(whole, sizeof *v);
    float *part = ot_alloc(n, sizeof *part);
    ot_status st = v != NULL && part != NULL
                       ? OT_OK
                       : ot_fail(err, OT_ERR_NOMEM, "out of memory for tensor '%.*s'", size, t->name.data);
    if (st == OT_OK)
        ot_dequantize(t->type, t->data, v, whole);
    for (uint32_t i = 0; i < n && st == OT_OK; i++) {
        part[i] = v[first + i];
        if (!isfinite(part[i]))
            st = ot_fail(err, OT_ERR_FORMAT, "%s: tensor '%.*s'[%u] is not finite", ot_gguf_path(gguf), size, t->name.data, first + i);
    }
    free(v);
    if (st != OT_OK) {
        free(part);
        return st;
    }
    *out = part;
    return OT_OK;
}
