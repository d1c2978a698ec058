/* Inside the engine: the weights of a base or of an insertion, and the one list that names them.
 *
 * Both have the same parts. What they are called in a file, how they are shaped and which of them exist stands in the table of the
 * base's architecture (architecture.h); ot_weights_walk goes through that table with the sizes of the base or of the insertion.
 * Loading, creating, writing, counting, freeing and checking a file for strangers are visits of this walk. */
#ifndef OTTER_ENGINE_WEIGHTS_H
#define OTTER_ENGINE_WEIGHTS_H

#include "engine/architecture.h"
#include "engine/kernels.h"

/* y = W x + b; b is NULL where the architecture has none. */
typedef struct ot_linear {
    ot_matrix w;
    float *bias; /* (n_out) */
} ot_linear;

/* n(.): beta is NULL but in a LayerNorm. */
typedef struct ot_norm {
    float *gamma, *beta;
} ot_norm;

/* Rows of embeddings, dequantised one at a time: they stay in the file's mapping, or in a trainer's floats. */
typedef struct ot_table {
    ot_type type;
    uint32_t n_in;
    const uint8_t *rows; /* NULL: there is no such table */
} ot_table;

/* Which of these a layer has is its architecture's affair, and an insertion's: without new heads it has no q, k, v. */
typedef struct ot_layer {
    ot_norm attn_norm, ffn_norm;           /* before attention and before the FFN */
    ot_norm attn_post_norm, ffn_post_norm; /* of what either adds */
    ot_norm q_norm, k_norm;                /* of queries and keys */
    ot_linear q, k, v, o;                  /* W_Q, W_K, W_V, W_O */
    ot_linear gate, up, down;              /* W_g, W_u, W_d */
} ot_layer;

typedef struct ot_weights {
    ot_table token_embd, position_embd;    /* a row for each token, and for each position where these are learned */
    ot_layer *layers;
    ot_norm output_norm;
    ot_matrix output;                      /* lm_head; the base's alone */
    float *rope_factors;                   /* divisors of the rotary frequencies; the base's alone */
} ot_weights;

/* What the symbols of shapes stand for. An insertion's matrices read more than their own lane holds: [base; parents; own]. */
typedef struct ot_widths {
    uint32_t d, q, kv, f;                  /* own: of the stream, all query heads, all key/value heads, the FFN's inside */
    uint32_t in_d, in_q, in_f;             /* read: D, A and F */
    uint32_t head;                         /* one head */
    uint32_t n_vocab, n_context, n_pairs, n_layers;
} ot_widths;

/* One tensor of the walk. */
typedef struct ot_slot {
    char name[64];
    const ot_tensor_row *row;              /* NULL for the heads of an insertion */
    ot_tensor_kind kind;
    uint32_t n_in, n_out;                  /* n_out is 1 for vectors */
    uint32_t first, whole;                 /* of a fused tensor: its first row (or element) that is meant, and how many it has in all */
    ot_matrix *matrix;                     /* OT_TENSOR_MATRIX */
    float **vector;                        /* OT_TENSOR_VECTOR, OT_TENSOR_GAMMA */
    ot_table *table;                       /* OT_TENSOR_TABLE */
} ot_slot;
typedef ot_status ot_slot_visit(void *arg, const ot_slot *slot, ot_error *err);

/* Calls visit for every tensor that the sizes imply, in the order of the table, layer by layer; stops at the first error. A base's are
 * named as in its file, where a fused tensor is met once for each of its parts; an insertion's ("otter." before the name) are never
 * fused. weights->layers has n_layers elements. */
ot_status ot_weights_walk_base(ot_weights *weights, const ot_architecture *arch, const ot_widths *widths, ot_slot_visit *visit,
                               void *arg, ot_error *err);
ot_status ot_weights_walk_inserted(ot_weights *weights, const ot_architecture *arch, const ot_widths *widths, ot_slot_visit *visit,
                                   void *arg, ot_error *err);

/* Finds the slot's tensor in a file, checks type and shape, and loads it: matrices are packed, vectors become floats, tables stay where
 * they are. A missing tensor is an error that names it; one that the architecture calls optional is left as it is. */
ot_status ot_slot_load(const ot_gguf *gguf, const ot_slot *slot, ot_error *err);
void ot_slot_free(const ot_slot *slot);
/* Bytes in memory of a loaded matrix or vector; a table's rows lie in the file, and are counted there. */
size_t ot_slot_bytes(const ot_slot *slot);
/* OT_ERR_UNSUPPORTED, naming it, if the file holds a tensor that no row of the table names: what it does would be left out. */
ot_status ot_weights_refuse_strangers(const ot_gguf *gguf, const ot_architecture *arch, uint32_t n_layers, ot_error *err);

/* dst = tokens[token], plus positions[position] where there are such rows; `scratch` is as long as dst. */
void ot_weights_embed(const ot_weights *weights, int32_t token, uint32_t position, float *dst, float *scratch);

#endif
