/* Inside the engine: what an open base model holds. Users see engine.h. */
#ifndef OTTER_ENGINE_MODEL_H
#define OTTER_ENGINE_MODEL_H

#include "base/memory.h"
#include "engine/engine.h"
#include "engine/weights.h"

/* Rotary embedding: one inverse frequency for each rotated pair, after every scaling of the file. */
typedef struct ot_rope {
    uint32_t n_rot;        /* rotated dimensions of a head, even; 0 where the block turns nothing */
    ot_pairs pairs;
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
    ot_traits traits;
    ot_widths widths;
    ot_weights weights;            /* output is packed from token_embd where the file ties the two */
    ot_rope ropes[OT_N_ROPES];      /* of one n_rot and one layout; OT_ROPE_LOCAL only where the block uses it */
};

/* Names, then sizes and traits, from the file's keys (model-keys.c). */
ot_status ot_model_read_names(ot_model *model, ot_error *err);
ot_status ot_model_read_sizes(ot_model *model, ot_error *err);

/* How many elements of a head the block turns, from the file's keys. */
ot_status ot_rope_read_size(ot_rope *rope, const ot_gguf *gguf, const ot_architecture *arch, uint32_t head_dim, ot_error *err);
/* The frequencies, from the file's keys and its divisors (NULL: none). */
ot_status ot_rope_open(ot_rope *rope, const ot_gguf *gguf, const char *arch, const float *factors, ot_error *err);
/* Those of a base of its own: the file's scaling is for the main table alone. */
ot_status ot_rope_open_plain(ot_rope *rope, const ot_rope *like, double base, ot_error *err);
void ot_rope_close(ot_rope *rope);
/* table: n_rot / 2 pairs of cos and sin at a position. */
void ot_rope_table(const ot_rope *rope, uint32_t position, float *table);

/* The embedding of a token without its position: n_embd floats. */
void ot_model_token_row(const ot_model *model, int32_t token, float *dst);

#endif
