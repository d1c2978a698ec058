/* From tensors of a file to what the engine computes with: checked shapes, float vectors, packed matrices. */
#include "engine/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    for (uint32_t i = 0; i < n; i++)
        if (!isfinite(v[i])) {
            free(v);
            return ot_fail(err, OT_ERR_FORMAT, "%s: tensor '%s'[%u] is not finite", ot_gguf_path(gguf), name, i);
        }
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

ot_status ot_tensor_load_norm(const ot_gguf *gguf, const char *name, uint32_t n, bool has_beta, ot_norm *out, ot_error *err)
{
    char full[128];
    snprintf(full, sizeof full, "%s.weight", name);
    const ot_status st = ot_tensor_load_vector(gguf, full, n, &out->gamma, err);
    if (st != OT_OK || !has_beta)
        return st;
    snprintf(full, sizeof full, "%s.bias", name);
    return ot_tensor_load_vector(gguf, full, n, &out->beta, err);
}

void ot_norm_free(ot_norm *norm)
{
    free(norm->gamma);
    free(norm->beta);
    *norm = (ot_norm){NULL, NULL};
}

static void table_row(const ot_table *t, uint32_t row, float *dst)
{
    const size_t row_bytes = t->n_in / ot_type_block(t->type) * (size_t)ot_type_block_bytes(t->type);
    ot_dequantize(t->type, t->rows + row * row_bytes, dst, t->n_in);
}

void ot_table_embed(const ot_table *tokens, const ot_table *positions, int32_t token, uint32_t position, float *dst,
                    float *scratch)
{
    table_row(tokens, (uint32_t)token, dst);
    if (positions->rows == NULL)
        return;
    table_row(positions, position, scratch);
    for (uint32_t i = 0; i < tokens->n_in; i++)
        dst[i] += scratch[i];
}
