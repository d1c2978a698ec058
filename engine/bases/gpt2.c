/* GPT-2 (Radford et al. 2019): LayerNorm with biases, learned positions, one matrix for Q, K and V, GELU in its tanh form without a
 * gate, a bias on every product. */
#include "engine/bases/bases.h"

static const ot_key_row keys[] = {
    OT_KEY("attention.layer_norm_epsilon", norm_eps, 0.0f, 1.0f, 1e-5f),
    {0},
};

static const ot_tensor_row tensors[] = {
    OT_ROWS("token_embd.weight", token_embd, OT_DIM_D, OT_DIM_VOCAB),
    OT_ROWS("position_embd.weight", position_embd, OT_DIM_D, OT_DIM_CONTEXT),
    OT_LAYER_GAMMA("attn_norm.weight", attn_norm, OT_DIM_D),
    OT_LAYER_BETA("attn_norm.bias", attn_norm, OT_DIM_D),
    OT_LAYER_MATRIX_PART("attn_qkv.weight", "attn_q.weight", q, OT_DIM_D, OT_DIM_Q, OT_DIM_QKV),
    OT_LAYER_BIAS_PART("attn_qkv.bias", "attn_q.bias", q, OT_DIM_Q, OT_DIM_QKV),
    OT_LAYER_MATRIX_PART("attn_qkv.weight", "attn_k.weight", k, OT_DIM_D, OT_DIM_KV, OT_DIM_QKV),
    OT_LAYER_BIAS_PART("attn_qkv.bias", "attn_k.bias", k, OT_DIM_KV, OT_DIM_QKV),
    OT_LAYER_MATRIX_PART("attn_qkv.weight", "attn_v.weight", v, OT_DIM_D, OT_DIM_KV, OT_DIM_QKV),
    OT_LAYER_BIAS_PART("attn_qkv.bias", "attn_v.bias", v, OT_DIM_KV, OT_DIM_QKV),
    OT_LAYER_MATRIX("attn_output.weight", o, OT_DIM_Q, OT_DIM_D),
    OT_LAYER_BIAS("attn_output.bias", o, OT_DIM_D),
    OT_LAYER_GAMMA("ffn_norm.weight", ffn_norm, OT_DIM_D),
    OT_LAYER_BETA("ffn_norm.bias", ffn_norm, OT_DIM_D),
    OT_LAYER_MATRIX("ffn_up.weight", up, OT_DIM_D, OT_DIM_F),
    OT_LAYER_BIAS("ffn_up.bias", up, OT_DIM_F),
    OT_LAYER_MATRIX("ffn_down.weight", down, OT_DIM_F, OT_DIM_D),
    OT_LAYER_BIAS("ffn_down.bias", down, OT_DIM_D),
    OT_GAMMA("output_norm.weight", output_norm, OT_DIM_D),
    OT_BETA("output_norm.bias", output_norm, OT_DIM_D),
    OT_OUTPUT_MATRIX,
    {0},
};

static const ot_op block[] = {
    {.kind = OT_OP_NORM, .norm = OT_NORM_AT(attn_norm)},
    {.kind = OT_OP_QKV},
    {.kind = OT_OP_ATTEND},
    {.kind = OT_OP_ATTN_OUT},
    {.kind = OT_OP_ADD},
    {.kind = OT_OP_NORM, .norm = OT_NORM_AT(ffn_norm)},
    {.kind = OT_OP_FFN_IN, .ffn = OT_FFN_GELU},
    {.kind = OT_OP_FFN_OUT},
    {.kind = OT_OP_ADD},
    {.kind = OT_OP_END},
};

const ot_architecture ot_base_gpt2 = {
    .name = "gpt2", .norm = OT_NORM_LAYER, .keys = keys, .tensors = tensors, .block = block,
};
