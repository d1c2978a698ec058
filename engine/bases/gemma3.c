/* Gemma 3 (Gemma Team 2025): Gemma 2 with a norm of each head of Q and K instead of caps; five layers with a window and a rotary table of base
 * 10,000 for each that sees everything. The 27B model, of 62 layers, scales scores by D / heads. */
#include "engine/bases/bases.h"

static const ot_key_row keys[] = {
    OT_KEY("attention.layer_norm_rms_epsilon", norm_eps, 0.0f, 1.0f, 1e-6f),
    OT_KEY("attention.sliding_window", window, 1.0f, 16777216.0f, 1024.0f),
    OT_KEY("rope.freq_base_swa", local_freq_base, 1.0f, 1e9f, 10000.0f),
    {0},
};

static const ot_tensor_row tensors[] = {
    OT_ROWS("token_embd.weight", token_embd, OT_DIM_D, OT_DIM_VOCAB),
    OT_LAYER_GAMMA("attn_norm.weight", attn_norm, OT_DIM_D),
    OT_LAYER_MATRIX("attn_q.weight", q, OT_DIM_D, OT_DIM_Q),
    OT_LAYER_MATRIX("attn_k.weight", k, OT_DIM_D, OT_DIM_KV),
    OT_LAYER_MATRIX("attn_v.weight", v, OT_DIM_D, OT_DIM_KV),
    OT_LAYER_GAMMA("attn_q_norm.weight", q_norm, OT_DIM_HEAD),
    OT_LAYER_GAMMA("attn_k_norm.weight", k_norm, OT_DIM_HEAD),
    OT_LAYER_MATRIX("attn_output.weight", o, OT_DIM_Q, OT_DIM_D),
    OT_LAYER_GAMMA("post_attention_norm.weight", attn_post_norm, OT_DIM_D),
    OT_LAYER_GAMMA("ffn_norm.weight", ffn_norm, OT_DIM_D),
    OT_LAYER_MATRIX("ffn_gate.weight", gate, OT_DIM_D, OT_DIM_F),
    OT_LAYER_MATRIX("ffn_up.weight", up, OT_DIM_D, OT_DIM_F),
    OT_LAYER_MATRIX("ffn_down.weight", down, OT_DIM_F, OT_DIM_D),
    OT_LAYER_GAMMA("post_ffw_norm.weight", ffn_post_norm, OT_DIM_D),
    OT_GAMMA("output_norm.weight", output_norm, OT_DIM_D),
    OT_OUTPUT_MATRIX,
    {0},
};

static const ot_op block[] = {
    {.kind = OT_OP_NORM, .norm = OT_NORM_AT(attn_norm)},
    {.kind = OT_OP_QKV},
    {.kind = OT_OP_HEAD_NORM},
    {.kind = OT_OP_ROTARY, .pairs = OT_PAIRS_NEOX, .layers = OT_GLOBAL_LAYERS},
    {.kind = OT_OP_ROTARY, .pairs = OT_PAIRS_NEOX, .table = OT_ROPE_LOCAL, .layers = OT_LOCAL_LAYERS},
    {.kind = OT_OP_WINDOW, .layers = OT_LOCAL_LAYERS},
    {.kind = OT_OP_ATTEND},
    {.kind = OT_OP_ATTN_OUT},
    {.kind = OT_OP_POST_NORM, .norm = OT_NORM_AT(attn_post_norm)},
    {.kind = OT_OP_ADD},
    {.kind = OT_OP_NORM, .norm = OT_NORM_AT(ffn_norm)},
    {.kind = OT_OP_FFN_IN, .ffn = OT_FFN_GELU_GATED},
    {.kind = OT_OP_FFN_OUT},
    {.kind = OT_OP_POST_NORM, .norm = OT_NORM_AT(ffn_post_norm)},
    {.kind = OT_OP_ADD},
    {.kind = OT_OP_END},
};

const ot_architecture ot_base_gemma3 = {
    .name = "gemma3", .norm = OT_NORM_RMS, .keys = keys, .tensors = tensors, .block = block, .global = {6, 5}, .scales_embeddings = true,
    .odd_scale_layers = 62,
};
