/* Phi-3 and Phi-4 (Abdin et al. 2024): the block of Llama, with one matrix for Q, K and V and one for gate and up; fewer elements of a head than
 * all may turn. */
#include "engine/bases/bases.h"

static const ot_key_row keys[] = {
    OT_KEY("attention.layer_norm_rms_epsilon", norm_eps, 0.0f, 1.0f, 1e-5f),
    OT_KEY("attention.sliding_window", window, 0.0f, 16777216.0f, 0.0f),
    {0},
};

static const ot_tensor_row tensors[] = {
    OT_ROWS("token_embd.weight", token_embd, OT_DIM_D, OT_DIM_VOCAB),
    OT_LAYER_GAMMA("attn_norm.weight", attn_norm, OT_DIM_D),
    OT_LAYER_MATRIX_PART("attn_qkv.weight", "attn_q.weight", q, OT_DIM_D, OT_DIM_Q, OT_DIM_QKV),
    OT_LAYER_MATRIX_PART("attn_qkv.weight", "attn_k.weight", k, OT_DIM_D, OT_DIM_KV, OT_DIM_QKV),
    OT_LAYER_MATRIX_PART("attn_qkv.weight", "attn_v.weight", v, OT_DIM_D, OT_DIM_KV, OT_DIM_QKV),
    OT_LAYER_MATRIX("attn_output.weight", o, OT_DIM_Q, OT_DIM_D),
    OT_LAYER_GAMMA("ffn_norm.weight", ffn_norm, OT_DIM_D),
    OT_LAYER_MATRIX_PART("ffn_up.weight", "ffn_gate.weight", gate, OT_DIM_D, OT_DIM_F, OT_DIM_2F),
    OT_LAYER_MATRIX_PART("ffn_up.weight", "ffn_up.weight", up, OT_DIM_D, OT_DIM_F, OT_DIM_2F),
    OT_LAYER_MATRIX("ffn_down.weight", down, OT_DIM_F, OT_DIM_D),
    OT_GAMMA("output_norm.weight", output_norm, OT_DIM_D),
    OT_OUTPUT_MATRIX,
    {0},
};

static const ot_op block[] = {
    {.kind = OT_OP_NORM, .norm = OT_NORM_AT(attn_norm)},
    {.kind = OT_OP_QKV},
    {.kind = OT_OP_ROTARY, .pairs = OT_PAIRS_NEOX},
    {.kind = OT_OP_WINDOW},
    {.kind = OT_OP_ATTEND},
    {.kind = OT_OP_ATTN_OUT},
    {.kind = OT_OP_ADD},
    {.kind = OT_OP_NORM, .norm = OT_NORM_AT(ffn_norm)},
    {.kind = OT_OP_FFN_IN, .ffn = OT_FFN_SILU_GATED},
    {.kind = OT_OP_FFN_OUT},
    {.kind = OT_OP_ADD},
    {.kind = OT_OP_END},
};

const ot_architecture ot_base_phi3 = {
    .name = "phi3", .norm = OT_NORM_RMS, .keys = keys, .tensors = tensors, .block = block,
};
