/* The table of one instruction set: included last by its source, after the integer products. OT_TABLE is the table's
 * variable, OT_TABLE_NAME its name. */
#ifdef OT_TABLE

#include "engine/cpu/attention-kernel.h"
#include "engine/cpu/float-products.h"
#include "engine/cpu/kernel-tables.h"
#include "engine/cpu/vector-kernels.h"

static void lanes_product(const product *p, uint32_t panel_begin, uint32_t panel_end)
{
    if (panel_end > p->w->n_panels)
        panel_end = p->w->n_panels;
    switch (p->w->format) {
    case OT_PACK_F32: matmul_f32(p, panel_begin, panel_end); break;
    case OT_PACK_F16: matmul_f16(p, panel_begin, panel_end); break;
    case OT_PACK_BF16: matmul_bf16(p, panel_begin, panel_end); break;
    default: integer_matmul(p, panel_begin, panel_end); break;
    }
}

static void lanes_matmul(float *y, size_t y_stride, const ot_acts *x, const ot_matrix *w, uint32_t panel_begin,
                         uint32_t panel_end, bool accumulate)
{
    lanes_product(&(product){y, y_stride, x, w, accumulate, false}, panel_begin, panel_end);
}

static void lanes_matmul_wide(float *y, size_t y_stride, const ot_acts *x, const ot_matrix *w, uint32_t panel_begin,
                              uint32_t panel_end, bool accumulate)
{
    lanes_product(&(product){y, y_stride, x, w, accumulate, true}, panel_begin, panel_end);
}

const ot_kernels OT_TABLE = {
    .name = OT_TABLE_NAME,
    .quantize = lanes_quantize,
    .matmul = lanes_matmul,
    .matmul_wide = lanes_matmul_wide,
    .rms_norm = lanes_rms_norm,
    .scale_norm = lanes_scale_norm,
    .layer_norm = lanes_layer_norm,
    .shift_norm = lanes_shift_norm,
    .add = lanes_add,
    .silu_mul = lanes_silu_mul,
    .gelu = lanes_gelu,
    .dot = lanes_dot,
    .max = lanes_max,
    .sum_exp = lanes_sum_exp,
    .rope = lanes_rope,
    .kv_store = lanes_kv_store,
    .attention = lanes_attention,
    .attention_scores = lanes_attention_scores,
    .attention_weights = lanes_attention_weights,
    .attention_values = lanes_attention_values,
    .axpy = lanes_axpy,
    .gemm_tn = lanes_gemm_tn,
    .gemm_nn = lanes_gemm_nn,
};

#endif
