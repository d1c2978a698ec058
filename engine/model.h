/* Inside the engine: what an open base model holds. Users see engine.h. */
#ifndef OTTER_ENGINE_MODEL_H
#define OTTER_ENGINE_MODEL_H

#include "engine/architecture.h"
#include "engine/engine.h"
#include "base/memory.h"

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

typedef struct ot_layer {
    ot_norm attn_norm, ffn_norm;  /* (n_embd) */
    ot_linear q, k, v, o;         /* W_Q, W_K, W_V, W_O */
    ot_linear gate, up, down;     /* W_g (where the FFN is gated), W_u, W_d */
} ot_layer;

/* Rotary embedding: one inverse frequency for each rotated pair, after every scaling of the file. */
typedef struct ot_rope {
    uint32_t n_rot;        /* rotated dimensions of a head, even; 0 where positions are learned */
    bool neox;             /* pairs (i, i + n_rot/2) instead of (2i, 2i + 1) */
    double *inv_freq;      /* (n_rot / 2) */
    double magnitude;      /* cos and sin are multiplied by it (YaRN), else 1 */
} ot_rope;

struct ot_model {
    ot_model_info info;
    const ot_architecture *arch;
    ot_gguf *gguf;                 /* stays open: embedding rows are read from the mapping */
    ot_tokenizer *tokenizer;
    char *chat_template;
    size_t chat_template_size;
    const ot_tensor *token_embd;   /* (n_vocab rows of n_embd) */
    ot_table position_embd;        /* (n_ctx_train rows of n_embd), where positions are learned */
    ot_layer *layers;
    ot_norm output_norm;           /* (n_embd) */
    ot_matrix output;              /* lm_head: output.weight, or token_embd where tied */
    ot_rope rope;
};

/* Loads all layers from the file (model-layers.c). */
ot_status ot_model_load_layers(ot_model *model, ot_error *err);
void ot_model_free_layers(ot_model *model);
/* Bytes of the layers' weights in memory. */
size_t ot_model_layer_bytes(const ot_model *model);

/* Fills rope from the file's keys and, for Llama 3, its rope_freqs.weight. */
ot_status ot_rope_open(ot_rope *rope, const ot_gguf *gguf, const char *arch, uint32_t head_dim, ot_error *err);
void ot_rope_close(ot_rope *rope);
/* table: n_rot / 2 pairs of cos and sin at a position. */
void ot_rope_table(const ot_rope *rope, uint32_t position, float *table);

/* Finds a tensor and checks its shape: n_out 0 means a vector of n_in. Missing or of another shape: an error that names it. */
ot_status ot_tensor_require(const ot_gguf *gguf, const char *name, uint32_t n_in, uint32_t n_out,
                            const ot_tensor **out, ot_error *err);
/* A vector tensor as newly allocated floats. OT_ERR_FORMAT if one of them is not finite. */
ot_status ot_tensor_load_vector(const ot_gguf *gguf, const char *name, uint32_t n, float **out, ot_error *err);
/* A matrix tensor, packed. */
ot_status ot_tensor_load_matrix(const ot_gguf *gguf, const char *name, uint32_t n_in, uint32_t n_out, ot_matrix *out,
                                ot_error *err);
/* The norm NAME.weight and, if has_beta, NAME.bias. */
ot_status ot_tensor_load_norm(const ot_gguf *gguf, const char *name, uint32_t n, bool has_beta, ot_norm *out, ot_error *err);
void ot_norm_free(ot_norm *norm);
/* dst = tokens[token], plus positions[position] where there are such rows; `scratch` is as long as dst. */
void ot_table_embed(const ot_table *tokens, const ot_table *positions, int32_t token, uint32_t position, float *dst,
                    float *scratch);
/* The same for the base: n_embd floats. */
void ot_model_embed(const ot_model *model, int32_t token, uint32_t position, float *dst, float *scratch);

/* The embedding of a token without its position: n_embd floats. */
void ot_model_token_row(const ot_model *model, int32_t token, float *dst);

#endif
