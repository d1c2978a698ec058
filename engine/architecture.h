/* What tells one transformer architecture from another, as a table: the forward pass, the loader and the inserted stream ask for a
 * trait, never for a name, so that a new architecture is a line here and, where it brings a trait of its own, one place that
 * computes it. An insertion has the traits of its base: the same norm, positions, activation and biases (method: the extended
 * transformer). */
#ifndef OTTER_ENGINE_ARCHITECTURE_H
#define OTTER_ENGINE_ARCHITECTURE_H

#include <stdbool.h>
#include <stddef.h>

typedef enum ot_norm_kind {
    OT_NORM_RMS,  /* x / rms(x) * gamma */
    OT_NORM_LAYER /* (x - mean) / deviation * gamma + beta */
} ot_norm_kind;

typedef enum ot_ffn_kind {
    OT_FFN_SILU_GATED, /* W_d (silu(W_g x) * W_u x) */
    OT_FFN_GELU        /* W_d gelu(W_u x), gelu in its tanh form */
} ot_ffn_kind;

/* Which projections have a bias. */
enum { OT_BIAS_QKV = 1, OT_BIAS_ATTN_OUT = 2, OT_BIAS_FFN = 4 };

typedef struct ot_architecture {
    const char *name;       /* general.architecture, and the prefix of its keys */
    ot_norm_kind norm;
    const char *eps_key;    /* after the prefix */
    bool learned_positions; /* a row of position_embd.weight is added to the embedding; else rotary */
    bool fused_qkv;         /* the file has one attn_qkv for Q, K and V */
    ot_ffn_kind ffn;
    unsigned biases;        /* OT_BIAS_* */
} ot_architecture;

/* NULL for one that is not known. */
const ot_architecture *ot_architecture_find(const char *name);
/* "llama, gpt2": for messages. At most size - 1 bytes. */
void ot_architecture_list(char *text, size_t size);

#endif
