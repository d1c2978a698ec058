/* OLMo 2 (OLMo Team 2024): no norm before attention and FFN, one of what each adds; Q and K are normalised over all heads together. */
#include "engine/bases/bases.h"

static const ot_key_row keys[] = {
    OT_KEY("attention.layer_norm_rms_epsilon", norm_eps, 0.0f, 1.0f, 1e-6f),
    {0},
};

static const ot_tensor_row tensors[] = {
    OT_ROWS("token_embd.weight", token_embd, OT_DIM_D, OT_DIM_VOCAB),
    OT_LAYER_MATRIX("attn_q.weight", q, OT_DIM_D, OT_DIM_Q),
    OT_LAYER_MATRIX("attn_k.weight", k, OT_DIM_D, OT_DIM_KV),
    OT_LAYER_MATRIX("attn_v.weight", v, OT_DIM_D, OT_DIM_KV),
    OT_LAYER_GAMMA("attn_q_norm.weight", q_norm, OT_DIM_Q),
    OT_LAYER_GAMMA("attn_k_norm.weight", k_norm, OT_DIM_KV),
    OT_LAYER_MATRIX("attn_output.weight", o, OT_DIM_Q, OT_DIM_D),
    OT_LAYER_GAMMA("post_attention_norm.weight", attn_post_norm, OT_DIM_D),
    OT_LAYER_MATRIX("ffn_gate.weight", gate, OT_DIM_D, OT_DIM_F),
    OT_LAYER_MATRIX("ffn_up.weight", up, OT_DIM_D, OT_DIM_F),
    OT_LAYER_MATRIX("ffn_down.weight", down, OT_DIM_F, OT_DIM_D),
    OT_LAYER_GAMMA("post_ffw_norm.weight", ffn_post_norm, OT_DIM_D),
    OT_GAMMA("output_norm.weight", output_norm, OT_DIM_D),
    OT_OUTPUT_MATRIX,
    {0},
};

static const ot_op block[] = {
    {.kind = OT_OP_READ},
    {.kind = OT_OP_QKV},
    {.kind = OT_OP_QK_NORM},
    {.kind = OT_OP_ROTARY, .pairs = OT_PAIRS_NEOX},
    {.kind = OT_OP_ATTEND},
    {.kind = OT_OP_ATTN_OUT},
    {.kind = OT_OP_POST_NORM, .norm = OT_NORM_AT(attn_post_norm)},
    {.kind = OT_OP_ADD},
    {.kind = OT_OP_READ},
    {.kind = OT_OP_FFN_IN, .ffn = OT_FFN_SILU_GATED},
    {.kind = OT_OP_FFN_OUT},
    {.kind = OT_OP_POST_NORM, .norm = OT_NORM_AT(ffn_post_norm)},
    {.kind = OT_OP_ADD},
    {.kind = OT_OP_END},
};

const ot_architecture ot_base_olmo2 = {
    .name = "olmo2", .norm = OT_NORM_RMS, .keys = keys, .tensors = tensors, .block = block,
};
