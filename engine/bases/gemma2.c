/* Gemma 2 (Gemma Team 2024): RMSNorm before each part and of what it adds, embeddings scaled by sqrt(D), GELU, a window in every other
 * layer, caps on scores and logits. Converters have added 1 to the norms' factors. The 27B model, of 46 layers, scales scores by D / heads. */
#include "engine/bases/bases.h"

static const ot_key_row keys[] = {
    OT_KEY("attention.layer_norm_rms_epsilon", norm_eps, 0.0f, 1.0f, 1e-6f),
    OT_KEY("attn_logit_softcapping", score_cap, 0.0f, 1e4f, 50.0f),
    OT_KEY("final_logit_softcapping", logit_cap, 0.0f, 1e4f, 30.0f),
    OT_KEY("attention.sliding_window", window, 1.0f, 16777216.0f, 4096.0f),
    {0},
};

static const ot_tensor_row tensors[] = {
    OT_ROWS("token_embd.weight", token_embd, OT_DIM_D, OT_DIM_VOCAB),
    OT_LAYER_GAMMA("attn_norm.weight", attn_norm, OT_DIM_D),
    OT_LAYER_MATRIX("attn_q.weight", q, OT_DIM_D, OT_DIM_Q),
    OT_LAYER_MATRIX("attn_k.weight", k, OT_DIM_D, OT_DIM_KV),
    OT_LAYER_MATRIX("attn_v.weight", v, OT_DIM_D, OT_DIM_KV),
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
    {.kind = OT_OP_ROTARY, .pairs = OT_PAIRS_NEOX},
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

const ot_architecture ot_base_gemma2 = {
    .name = "gemma2", .norm = OT_NORM_RMS, .keys = keys, .tensors = tensors, .block = block, .global = {2, 1}, .scales_embeddings = true,
    .odd_scale_layers = 46,
};
