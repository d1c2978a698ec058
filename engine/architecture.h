/* What tells one transformer architecture from another, as data: a file of engine/bases/ for each, without control flow.
 *
 *   keys     which keys of a GGUF file fill which number of the model, with bounds
 *   tensors  a row for each tensor of a file: its name, the weight that it is, its shape in symbols
 *   block    the operations of a layer, in order
 *
 * The loader walks keys and tensors, the forward pass runs the block; none of them knows an architecture by name. An insertion
 * has the tensors, the operations and the numbers of its base, in its own sizes (README.md, "Architectures").
 * docs/adding-an-architecture.md adds one. */
#ifndef OTTER_ENGINE_ARCHITECTURE_H
#define OTTER_ENGINE_ARCHITECTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- Keys --------------------------------------------------------------------------------------------------------- */

/* Numbers of a model beyond its sizes. A scale or cap of 0 is none. */
typedef struct ot_traits {
    float norm_eps;
    float embedding_scale;  /* h is so many times the embedding */
    float residual_scale;   /* OT_OP_SCALE: of what is added to h */
    float attention_scale;  /* of q k; 0: 1 / sqrt(head size) */
    float logit_divisor;    /* logits are lm_head / this */
    float score_cap;        /* scores of attention s become cap * tanh(s / cap) */
    float logit_cap;        /* and logits, once the values of generation heads are added to them */
    float window;           /* OT_OP_WINDOW: a row sees so many keys, its own among them; 0: all */
    float local_freq_base;  /* of the rotary embedding with .table = OT_ROPE_LOCAL */
} ot_traits;

/* A key that fills a number of ot_traits. */
typedef struct ot_key_row {
    const char *name;       /* after "ARCHITECTURE." */
    size_t at;              /* in ot_traits */
    float least, most;
    float otherwise;        /* where the file does not have it */
} ot_key_row;

#define OT_KEY(name_, field, least_, most_, otherwise_) {name_, offsetof(ot_traits, field), least_, most_, otherwise_}

/* ---- Tensors ------------------------------------------------------------------------------------------------------ */

/* Symbols of shapes. */
typedef enum ot_dim {
    OT_DIM_NONE,
    OT_DIM_D,       /* width of the stream */
    OT_DIM_Q,       /* all query heads */
    OT_DIM_KV,      /* all key/value heads */
    OT_DIM_QKV,     /* Q + 2 KV */
    OT_DIM_HEAD,    /* one head */
    OT_DIM_F,       /* the inside of the FFN */
    OT_DIM_2F,      /* twice that: a gate beside it */
    OT_DIM_VOCAB,
    OT_DIM_CONTEXT, /* positions that the model has seen */
    OT_DIM_PAIRS    /* pairs of elements that the rotary embedding turns */
} ot_dim;

typedef enum ot_tensor_kind {
    OT_TENSOR_TABLE,  /* rows looked up by token or position */
    OT_TENSOR_MATRIX,
    OT_TENSOR_VECTOR,
    OT_TENSOR_GAMMA   /* a vector of factors: new ones are 1, not 0 */
} ot_tensor_kind;

enum {
    OT_TENSOR_OPTIONAL = 1,  /* a file may lack it */
    OT_TENSOR_BASE_ONLY = 2  /* an insertion has none of its own */
};

typedef struct ot_tensor_row {
    const char *name;     /* in the base's file; "blk.%u." for those of layers */
    ot_tensor_kind kind;
    size_t at;            /* where it goes: in ot_layer if it is a layer's, else in ot_weights */
    ot_dim n_in, n_out;   /* [n_in, n_out], or [n_in] */
    unsigned flags;
    /* A row that is part of a fused tensor: the size of the whole, and the part's own name, which insertions use. The parts of a tensor
     * stand one after the other, in its order. */
    ot_dim fused;
    const char *part;
} ot_tensor_row;

/* Rows as the files of bases/ write them. In weights.h lie ot_weights and ot_layer. */
#define OT_ROWS(name_, field, in, out) {.name = name_, .kind = OT_TENSOR_TABLE, .at = offsetof(ot_weights, field), .n_in = in, .n_out = out}
#define OT_GAMMA(name_, field, n) {.name = name_, .kind = OT_TENSOR_GAMMA, .at = offsetof(ot_weights, field.gamma), .n_in = n}
#define OT_BETA(name_, field, n) {.name = name_, .kind = OT_TENSOR_VECTOR, .at = offsetof(ot_weights, field.beta), .n_in = n}
#define OT_LAYER_GAMMA(name_, field, n) {.name = "blk.%u." name_, .kind = OT_TENSOR_GAMMA, .at = offsetof(ot_layer, field.gamma), .n_in = n}
#define OT_LAYER_BETA(name_, field, n) {.name = "blk.%u." name_, .kind = OT_TENSOR_VECTOR, .at = offsetof(ot_layer, field.beta), .n_in = n}
#define OT_LAYER_MATRIX(name_, field, in, out) \
    {.name = "blk.%u." name_, .kind = OT_TENSOR_MATRIX, .at = offsetof(ot_layer, field.w), .n_in = in, .n_out = out}
#define OT_LAYER_BIAS(name_, field, n) {.name = "blk.%u." name_, .kind = OT_TENSOR_VECTOR, .at = offsetof(ot_layer, field.bias), .n_in = n}
#define OT_LAYER_MATRIX_PART(name_, part_, field, in, out, whole) \
    {.name = "blk.%u." name_, .kind = OT_TENSOR_MATRIX, .at = offsetof(ot_layer, field.w), .n_in = in, .n_out = out, .fused = whole, \
     .part = "blk.%u." part_}
#define OT_LAYER_BIAS_PART(name_, part_, field, n, whole) \
    {.name = "blk.%u." name_, .kind = OT_TENSOR_VECTOR, .at = offsetof(ot_layer, field.bias), .n_in = n, .fused = whole, \
     .part = "blk.%u." part_}
/* lm_head; a file without it uses the token embedding. */
#define OT_OUTPUT_MATRIX \
    {.name = "output.weight", .kind = OT_TENSOR_MATRIX, .at = offsetof(ot_weights, output), .n_in = OT_DIM_D, .n_out = OT_DIM_VOCAB, \
     .flags = OT_TENSOR_OPTIONAL | OT_TENSOR_BASE_ONLY}
/* Divisors of the rotary frequencies (Llama 3.1 and later). */
#define OT_ROPE_FACTORS \
    {.name = "rope_freqs.weight", .kind = OT_TENSOR_VECTOR, .at = offsetof(ot_weights, rope_factors), .n_in = OT_DIM_PAIRS, \
     .flags = OT_TENSOR_OPTIONAL | OT_TENSOR_BASE_ONLY}

/* ---- The block ---------------------------------------------------------------------------------------------------- */

/* Operations of a layer, on a stream h: x is what products read, y what is about to be added. */
typedef enum ot_op_kind {
    OT_OP_END,
    OT_OP_NORM,      /* x = n(h) */
    OT_OP_READ,      /* x = h */
    OT_OP_QKV,       /* q, k, v = W x (+ bias) */
    OT_OP_QK_NORM,   /* q = n(q), k = n(k), each over all heads together. Without biases in OT_OP_QKV */
    OT_OP_HEAD_NORM, /* the same, of each head by itself */
    OT_OP_ROTARY,    /* q and k are turned by their position */
    OT_OP_WINDOW,    /* keys further back than the window are not seen */
    OT_OP_ATTEND,    /* heads = softmax(q k^T * scale) v; k and v are stored */
    OT_OP_ATTN_OUT,  /* y = W_O heads (+ bias) */
    OT_OP_FFN_IN,    /* inner = act(W_g x) * W_u x, or act(W_u x) (+ biases) */
    OT_OP_FFN_OUT,   /* y = W_d inner (+ bias) */
    OT_OP_POST_NORM, /* y = n(y) */
    OT_OP_SCALE,     /* y = residual_scale y */
    OT_OP_ADD        /* h = h + y */
} ot_op_kind;

/* Where layers are of two kinds, one in `period` is global: those n with n % period == phase. */
typedef struct ot_layer_pattern {
    uint32_t period, phase; /* period 0: all are global */
} ot_layer_pattern;

/* Layers that an operation is done in. */
typedef enum ot_op_layers { OT_ALL_LAYERS, OT_GLOBAL_LAYERS, OT_LOCAL_LAYERS } ot_op_layers;

typedef enum ot_norm_kind {
    OT_NORM_RMS,  /* x / rms(x) * gamma */
    OT_NORM_LAYER /* (x - mean) / deviation * gamma + beta */
} ot_norm_kind;

typedef enum ot_pairs {
    OT_PAIRS_ADJACENT, /* elements 2i and 2i + 1 turn together: files whose W_Q and W_K were permuted for it */
    OT_PAIRS_NEOX      /* i and i + n/2 */
} ot_pairs;

/* Rotary tables: that of the file's keys; one of ot_traits.local_freq_base, without scaling. */
typedef enum ot_rope_choice { OT_ROPE_MAIN, OT_ROPE_LOCAL, OT_N_ROPES } ot_rope_choice;

typedef enum ot_ffn_kind {
    OT_FFN_SILU_GATED, /* silu(W_g x) * W_u x */
    OT_FFN_GELU_GATED, /* gelu(W_g x) * W_u x, gelu in its tanh form */
    OT_FFN_GELU        /* gelu(W_u x), likewise */
} ot_ffn_kind;

typedef struct ot_op {
    ot_op_kind kind;
    ot_op_layers layers; /* OT_OP_ROTARY, OT_OP_WINDOW: other operations are done in all */
    size_t norm;      /* OT_OP_NORM, OT_OP_POST_NORM: which of ot_layer */
    ot_pairs pairs;   /* OT_OP_ROTARY, the same in all of a block */
    ot_rope_choice table; /* OT_OP_ROTARY */
    ot_ffn_kind ffn;  /* OT_OP_FFN_IN */
} ot_op;

#define OT_MAX_OPS 24

/* ---- An architecture ---------------------------------------------------------------------------------------------- */

typedef struct ot_architecture {
    const char *name;              /* general.architecture, and the prefix of its keys */
    ot_norm_kind norm;             /* of all its norms */
    const ot_key_row *keys;        /* ends with a row without a name, as tensors do; a block ends with OT_OP_END */
    const ot_tensor_row *tensors;
    const ot_op *block;
    ot_layer_pattern global;
    bool scales_embeddings;        /* by sqrt(D) */
    uint32_t odd_scale_layers;     /* a model of so many layers scales scores by 1 / sqrt(D / heads), not by the head's size; 0: none does */
} ot_architecture;

/* NULL for one that is not known. */
const ot_architecture *ot_architecture_find(const char *name);
/* Those that are known, by number; NULL beyond the last. */
const ot_architecture *ot_architecture_at(uint32_t i);
/* "llama, gpt2": for messages. At most size - 1 bytes. */
void ot_architecture_list(char *text, size_t size);
/* The first operation of this kind, or NULL. */
const ot_op *ot_architecture_op(const ot_architecture *arch, ot_op_kind kind);
/* The first one that is done in this layer, or NULL. */
const ot_op *ot_architecture_op_in(const ot_architecture *arch, ot_op_kind kind, uint32_t layer);
/* Whether a row stands for a tensor of each layer. */
bool ot_tensor_row_of_layer(const ot_tensor_row *row);
/* The first tensor row that goes to this place, or NULL: whether the architecture has such a weight. */
const ot_tensor_row *ot_architecture_tensor(const ot_architecture *arch, bool of_layer, size_t at);

#endif
