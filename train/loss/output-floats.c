/* E is kept as floats because gradients need its rows (113 MB for 49,152 tokens of width 576; a training process only). */
#include "train/loss/output-floats.h"

#include <math.h>
#include <stdlib.h>

#include "train/train-internal.h"

ot_status ot_output_floats(float **out, const ot_model *model, ot_error *err)
{
    const ot_model_info *i = ot_model_get_info(model);
    uint32_t n_in, n_out;
    const bool own = ot_model_tensor_shape(model, "output.weight", &n_in, &n_out, NULL) == OT_OK;
    float *e = ot_alloc((size_t)i->n_vocab * i->n_embd, sizeof *e);
    if (e == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for the output matrix as floats");
    for (uint32_t v = 0; v < i->n_vocab; v++) {
        const ot_status st = ot_model_tensor_row(model, own ? "output.weight" : "token_embd.weight", v, e + (size_t)v * i->n_embd, err);
        if (st != OT_OK) {
            free(e);
            return st;
        }
    }
    *out = e;
    return OT_OK;
}

double ot_log_sum_exp(const ot_kernels *kernels, const float *z, uint32_t n)
{
    const float max = kernels->max(z, n);
    return (double)max + log(kernels->sum_exp(z, n, max));
}
