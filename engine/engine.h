/* The engine: a frozen base model, insertions on top of it, and one forward pass over a batch of rows.
 *
 * Rows in, hidden states, logits and scores out. A row is one token at one position of one sequence; a batch mixes
 * prompt chunks, decode rows, candidate rows and draft rows of many sequences. The engine keeps no state
 * of a sequence: keys and values live in units that the caller owns and passes in as a view (kv-cache/ fills it).
 *
 * A step has two halves, so that a policy can look at scores before the costly output matrix runs:
 *     ot_engine_forward(engine, &batch)            hidden states, and scores of the heads
 *     ot_engine_project(engine, rows, n, logits)   logits of the rows that need them
 *
 * Results of a row depend on that row and the keys it attends to alone, to the last bit (see kernels.h).
 * Threads: a model and an insertion are immutable once opened (training excepted) and may be shared; an engine
 * belongs to one thread, which its pool joins.
 */
#ifndef OTTER_ENGINE_ENGINE_H
#define OTTER_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "engine/kv-layout.h"
#include "engine/threads.h"
#include "gguf/gguf.h"
#include "text/tokenizer.h"

/* ---- Base model ------------------------------------------------------------------------------------------ */

typedef struct ot_model ot_model;

typedef struct ot_model_info {
    char architecture[32];  /* general.architecture */
    char name[128];         /* general.name, or the file's name */
    char fingerprint[65];   /* ot_gguf_fingerprint */
    uint32_t n_embd;        /* d */
    uint32_t n_layers;
    uint32_t n_heads, n_kv_heads, head_dim;
    uint32_t n_ff;
    uint32_t n_vocab;
    uint32_t n_ctx_train;   /* context length in the file */
    float norm_eps;
    size_t weight_bytes;    /* packed weights in memory */
    size_t file_bytes;
    uint64_t n_params;
} ot_model_info;

/* Opens, checks and packs a model. err names file, key or tensor, and offset. */
ot_status ot_model_open(ot_model **out, const char *path, ot_error *err);
void ot_model_close(ot_model **model);
const ot_model_info *ot_model_get_info(const ot_model *model);
const ot_tokenizer *ot_model_tokenizer(const ot_model *model);
/* OT_ERR_IO, which names the file, if it was cut short or overwritten in place since it was opened (gguf-guard.c): what was read of it since
 * may be anything, and a pass that reads it fails. From any thread. */
ot_status ot_model_check(const ot_model *model, ot_error *err);
/* tokenizer.chat_template, or an empty string. */
ot_str ot_model_chat_template(const ot_model *model);
/* The rotary embedding of one position, as ot_kernels.rope takes it: n_rot / 2 pairs cos, sin in `table`, which has room
 * for head_dim floats. The trainer turns gradients back with it. */
void ot_model_rope_table(const ot_model *model, uint32_t position, float *table, uint32_t *n_rot, bool *neox);

/* ---- Insertions ------------------------------------------------------------------------------------------ */

typedef struct ot_insertion ot_insertion;

typedef enum ot_head_kind { OT_HEAD_SCALAR, OT_HEAD_GENERATION, OT_HEAD_LOOKAHEAD } ot_head_kind;
typedef enum ot_head_input { OT_INPUT_EXTENDED /* H' */, OT_INPUT_BASE /* H_o */ } ot_head_input;
typedef enum ot_activation { OT_ACT_SIGMOID, OT_ACT_IDENTITY, OT_ACT_LINEAR, OT_ACT_SILU_RESIDUAL } ot_activation;

/* As in files, by the number of the kind, input or activation. */
extern const char *const ot_head_kind_names[3];
extern const char *const ot_head_input_names[2];
extern const char *const ot_activation_names[4];

#define OT_MAX_PARENTS 4
#define OT_MAX_HEADS 16

/* Sizes and kind of an insertion: what its file says, and what a new one is made from. */
typedef struct ot_insertion_spec {
    char name[64];
    uint32_t n_embd;       /* d'; 0 for task-head-only */
    uint32_t n_ff;         /* f' */
    uint32_t n_heads, n_kv_heads;
    ot_head_kind kind;
    ot_head_input input;
    ot_activation activation;
    uint32_t n_outputs;    /* otter.head.count */
    uint32_t offsets[OT_MAX_HEADS];
    bool reads_tokens;     /* generation: output k also reads the token before the one it names (ot_engine_project_heads) */
    char labels[OT_MAX_HEADS][64];
    uint32_t n_parents;
    char parents[OT_MAX_PARENTS][64]; /* names, lowest first */
} ot_insertion_spec;

typedef struct ot_insertion_info {
    ot_insertion_spec spec;
    char path[512];
    size_t bytes;           /* packed weights in memory */
    uint64_t n_params;
    uint32_t width_in;      /* D = d + parents' d' + d' */
    uint32_t width_attn;    /* A */
    uint32_t width_ff;      /* F */
    size_t kv_bytes_per_token;
    bool has_head_tables;   /* its heads have E W_h ready (ot_engine_project_heads): no product of full width */
    uint32_t n_training;    /* otter.training.* keys, as text */
    const char *const *training_keys;
    const char *const *training_values;
} ot_insertion_info;

typedef struct ot_insertion_options {
    bool allow_base_mismatch; /* lifts the fingerprint check */
    uint32_t n_threads;       /* that make the tables of heads with a value for every token; 0: as many as the process may use */
} ot_insertion_options;

/* Opens an insertion file for `base`. `loaded` are the insertions its parents are looked up in by name; they must outlive
 * it. Any disagreement with the base, a missing tensor or a wrong shape is an error that names it. */
ot_status ot_insertion_open(ot_insertion **out, const ot_model *base, const char *name, const char *path,
                            const ot_insertion *const *loaded, uint32_t n_loaded,
                            const ot_insertion_options *options, ot_error *err);
void ot_insertion_close(ot_insertion **insertion);
/* As ot_model_check, for the insertion's own file. */
ot_status ot_insertion_check(const ot_insertion *insertion, ot_error *err);
const ot_insertion_info *ot_insertion_get_info(const ot_insertion *insertion);
uint32_t ot_insertion_n_parents(const ot_insertion *insertion);
const ot_insertion *ot_insertion_parent(const ot_insertion *insertion, uint32_t i);

/* Training: a new insertion with float32 weights, all zero but the norms (one). Its parameters are a list of named, row-major
 * float tensors that the trainer owns the values of; after changing them, ot_insertion_commit repacks. */
typedef struct ot_param {
    char name[64];     /* as in the file: "otter.blk.3.attn_q.weight" */
    uint32_t n_in;     /* dims[0], contiguous */
    uint32_t n_out;    /* dims[1], or 1 for vectors */
    bool is_vector;    /* written with one dimension */
    float *data;       /* (n_out, n_in) */
} ot_param;
ot_status ot_insertion_create(ot_insertion **out, const ot_model *base, const ot_insertion_spec *spec,
                              const ot_insertion *const *parents, ot_error *err);
/* Opens a file as a trainable (float32) insertion, to go on with its training. */
ot_status ot_insertion_open_trainable(ot_insertion **out, const ot_model *base, const char *name, const char *path,
                                      const ot_insertion *const *loaded, uint32_t n_loaded,
                                      const ot_insertion_options *options, ot_error *err);
/* What a trainable scalar insertion's outputs go through from now on; of other heads OT_ERR_INVALID. */
ot_status ot_insertion_set_activation(ot_insertion *insertion, ot_activation activation, ot_error *err);
/* Names an output of a trainable insertion; at most 63 bytes count. */
void ot_insertion_set_label(ot_insertion *insertion, uint32_t output, const char *label);
uint32_t ot_insertion_n_params(const ot_insertion *insertion);      /* 0 for one that is not trainable */
ot_param *ot_insertion_param(ot_insertion *insertion, uint32_t i);
ot_param *ot_insertion_find_param(ot_insertion *insertion, const char *name); /* NULL if missing */
void ot_insertion_commit(ot_insertion *insertion, ot_pool *pool /* may be NULL */);
/* Puts all otter.* keys (not otter.training.*) and tensors into a writer, matrices as `type` (block types fall back to F16 where
 * the inputs are no multiple of 32; with 4 or 5 bits the embedding and the heads' matrices are Q8_0), vectors as F32. Buffers it makes
 * are owned by the insertion. */
ot_status ot_insertion_put(ot_insertion *insertion, ot_gguf_writer *writer, ot_type type, ot_error *err);

/* Base weights as floats, for initialisation: the tensor "blk.3.attn_q.weight" etc., row o -> n_in floats. */
ot_status ot_model_tensor_row(const ot_model *model, const char *tensor, uint32_t o, float *dst, ot_error *err);
ot_status ot_model_tensor_shape(const ot_model *model, const char *tensor, uint32_t *n_in, uint32_t *n_out, ot_error *err);

/* ---- KV units and views ---------------------------------------------------------------------------------- */

/* One unit: one KV head, OT_PAGE_TOKENS slots, all layers. The base takes n_kv_heads units for each page of a sequence, an
 * insertion its own n_kv_heads (which may be 0). All units have the same size. */
size_t ot_model_kv_unit_bytes(const ot_model *model, ot_kv_type type);

typedef struct ot_kv_insertion {
    const ot_insertion *insertion;
    const uint32_t *units; /* [kv_head * page_stride + page] */
} ot_kv_insertion;

/* What the engine may touch of one sequence. */
typedef struct ot_kv_view {
    uint8_t *memory;            /* of all units: unit u begins at memory + u * ot_model_kv_unit_bytes */
    const uint32_t *units;      /* base: [kv_head * page_stride + page] */
    size_t page_stride;         /* pages reserved for each head in the tables of this view */
    uint32_t n_insertions;      /* insertions that run for this sequence, closed under parents, parents first */
    const ot_kv_insertion *insertions;
} ot_kv_view;

/* Copies K and V of slots of units to other slots (all layers), in order: the winners of candidates to their places. */
typedef struct ot_kv_slot_copy {
    uint32_t dst_unit, dst_slot, src_unit, src_slot; /* slots count within their unit */
} ot_kv_slot_copy;
void ot_model_kv_copy_slots(const ot_model *model, ot_kv_type type, uint8_t *memory, const ot_kv_slot_copy *copies, size_t n);

/* ---- Rows and batches ------------------------------------------------------------------------------------ */

typedef enum ot_row_flags {
    OT_ROW_OUTPUT = 1 /* H_o, scores and (by project) logits will be asked for */
} ot_row_flags;

/* An ordinary row at position p: slot p, n_prefix p + 1, no tail. A candidate for position p: position p, any free slot s >= p,
 * n_prefix p, tail {s}. A draft node: n_prefix of the accepted text, tail = the slots of its ancestors, then its own. Rows of one
 * batch see each other's keys and values, so that a prompt chunk is just consecutive rows. */
typedef struct ot_row {
    int32_t token;
    uint32_t position;   /* for the rotary embedding, or a row of learned positions: below n_ctx_train then */
    uint32_t sequence;   /* index into ot_batch.sequences */
    uint32_t slot;       /* where its K and V go */
    uint32_t n_prefix;   /* attends to slots [0, n_prefix) ... */
    uint32_t n_tail;     /* ... and then to these */
    const uint32_t *tail;
    uint32_t flags;      /* ot_row_flags */
} ot_row;

/* Intermediate values that the trainer needs of one insertion, filled by a forward pass. Buffers belong to the trainer
 * and are laid out [layer][row][width]; `inv_*` are the factors of n(.) (1 / rms of h) and `ms_*` the mean squares. All
 * rows of the batch must use the insertion. D, A and F are the widths in ot_insertion_info. */
typedef struct ot_tape {
    const ot_insertion *insertion;
    uint32_t max_rows;      /* the row stride of each layer */
    float *attn_in;         /* (D)      [n(h); n(h'_parents); n(h'_own)] before Q, K, V */
    float *q, *k, *v;       /* (heads'*hd), (kv'*hd), (kv'*hd): own, after the rotary embedding */
    float *attn_cat;        /* (A)      [base heads; parents' heads; own heads] before the output product */
    float *ffn_in;          /* (D) */
    float *gate, *up;       /* (f') before the activation */
    float *ffn_cat;         /* (F)      [base inner; parents' inner; own inner] */
    float *ext;             /* (d')     h' entering the layer; n_layers + 1 layers: the last is before the output norm */
    float *inv_attn;        /* (1)      1 / rms(h) at the attention norm */
    float *inv_ffn;         /* (1) */
    float *inv_out;         /* (1)      at the output norm; one layer only */
    float *ms_base;         /* (1)      mean of h^2 leaving each layer: n_layers layers */
    float *head_in;         /* (d' or d) input of the heads: H' or H_o; one layer only */
} ot_tape;

typedef struct ot_batch {
    uint32_t n_rows;
    const ot_row *rows;
    uint32_t n_sequences;
    const ot_kv_view *sequences;
    ot_tape *tape;             /* NULL but in training */
} ot_batch;

/* ---- Engine ---------------------------------------------------------------------------------------------- */

typedef struct ot_engine ot_engine;

typedef struct ot_engine_options {
    uint32_t n_threads;        /* 0: as many as the process may use */
    uint32_t max_rows;         /* rows in a batch at most */
    uint32_t max_context;      /* slots that a row may attend to at most */
    uint32_t max_insertions;   /* distinct insertions in a batch at most */
    uint32_t max_ext_width;    /* largest d', heads'*hd or f' sum that any batch will meet; 0: 4096 */
    ot_kv_type kv_type;
    unsigned cpu_mask;         /* ~0u: all instruction sets */
    ot_pool *pool;             /* another engine's, to share its threads (one of them runs at a time); NULL: its own.
                                * Must outlive the engine; n_threads is not looked at then */
} ot_engine_options;
void ot_engine_options_default(ot_engine_options *options);

/* Allocates the whole workspace of a step; forward and project allocate nothing. */
ot_status ot_engine_open(ot_engine **out, const ot_model *model, const ot_engine_options *options, ot_error *err);
void ot_engine_close(ot_engine **engine);
ot_pool *ot_engine_pool(ot_engine *engine);
/* The arithmetic that it runs (kernels.h), for rooms that compute beside it. */
struct ot_kernels;
const struct ot_kernels *ot_engine_kernels(const ot_engine *engine);
const ot_model *ot_engine_model(const ot_engine *engine);

/* Computes all rows of the batch: stores K and V, and keeps H_o (and H') of rows with OT_ROW_OUTPUT until the next forward.
 * The batch and its arrays must stay valid until the next forward. OT_ERR_INVALID names a row out of bounds; nothing is
 * written then. */
ot_status ot_engine_forward(ot_engine *engine, const ot_batch *batch, ot_error *err);
/* Output `output` of a scalar insertion for a row of the last batch that had OT_ROW_OUTPUT and whose sequence uses it. */
float ot_engine_score(const ot_engine *engine, uint32_t row, const ot_insertion *insertion, uint32_t output);
/* H_o, n_embd floats, valid until the next forward. */
const float *ot_engine_hidden(const ot_engine *engine, uint32_t row);
/* logits[i] (n_vocab floats each, caller's) = lm_head(H_o of rows[i]). n at most max_rows. */
ot_status ot_engine_project(ot_engine *engine, const uint32_t *rows, uint32_t n, float *const *logits, ot_error *err);
/* The same before the cap that some architectures put on logits: values of generation heads are added to these, and then the sum is
 * capped, each logit to cap * tanh(logit / cap). Without a cap ot_engine_cap_logits leaves them as they are. */
ot_status ot_engine_project_uncapped(ot_engine *engine, const uint32_t *rows, uint32_t n, float *const *logits, ot_error *err);
void ot_engine_cap_logits(const ot_engine *engine, float *logits);

/* logits[i] (n_vocab floats each) = lm_head(x + i * x_stride), for any n vectors of n_embd floats: how the trainer gets the
 * logits of generation heads. n at most max_rows. */
ot_status ot_engine_project_vectors(ot_engine *engine, const float *x, size_t x_stride, uint32_t n, float *const *logits,
                                    ot_error *err);

/* Heads with a value for every token, at rows of the last batch that had OT_ROW_OUTPUT and whose sequences use the insertion.
 *
 * Generation (eq. 8), z = lm_head(W_h x + H_o) = z_base + E W_h x with x = H' or H_o, E the output matrix: values are the difference
 * z - z_base, so that several heads and the base's own logits add up without a product of full width. `linear` heads that read
 * fewer than d / 2 inputs have E W_h ready from loading (vocab x d'); others, and `silu_residual` (Medusa-1:
 * E SiLU(W H_o)), go through the output matrix.
 * A generation head with offset o >= 1 that `reads_tokens` is told the token that stands o places after the row, the one before what it
 * names (Ankner et al. 2024, Hydra: drafts that depend on the drafts before them): x = H' + B_h e(token), with e the base's token
 * embedding. As x has d' numbers, the table serves as it is. What H_o says of the next token is in the way of such a head, which is told that
 * token: its z = lm_head(W_h x + rho_h H_o) = rho_h z_base + values, with a trained rho_h (ot_insertion_residual).
 * Lookahead: values are scores after the activation: a prediction of the score of [text, v] for every token v,
 * act(E W_h H' + b), with E the output matrix as well (the token embedding, where the base ties them). */
typedef struct ot_head_rows {
    const ot_insertion *insertion;
    uint32_t output;
    uint32_t n_rows;
    const uint32_t *rows;  /* (n_rows) */
    float *const *values;  /* (n_rows) n_vocab floats each, overwritten; the caller's */
    const int32_t *tokens; /* (n_rows) for heads that read them; NULL for others */
    uint32_t n_tokens;     /* values are wanted of tokens [0, n_tokens) only, and the rest of a row is undefined; 0: of all */
} ot_head_rows;
/* All heads in one run of the pool. OT_ERR_INVALID for a row without output, a scalar head, a token that is missing or not in the vocabulary, or more than max_rows rows together. */
ot_status ot_engine_project_heads(ot_engine *engine, const ot_head_rows *heads, uint32_t n_heads, ot_error *err);
/* rho of an output that reads tokens; 1 for any other generation head. */
float ot_insertion_residual(const ot_insertion *insertion, uint32_t output);
/* Scores of a lookahead head for n tokens only, the same bits as ot_engine_project_heads gives them. */
ot_status ot_engine_lookahead(ot_engine *engine, uint32_t row, const ot_insertion *insertion, uint32_t output,
                              const int32_t *tokens, uint32_t n, float *scores, ot_error *err);

/* What each stage has done since the engine opened, for profiles; returns the number of stages. Operations and bytes are what the
 * stage's arithmetic needs: two operations for each weight and row (one with 16-bit activations counts once, though it takes twice the instructions), four
 * for each key, query and element of a head; weights, keys and values once for all rows of a step, or of a sequence. */
typedef struct ot_stage_time {
    const char *name;
    double seconds;
    double waited_s;             /* of those, with nothing left to do while other threads finished their last tasks */
    double int8_ops, float_ops;  /* products of quantised activations; products and attention in floats */
    double bytes;                /* of weights, keys and values */
} ot_stage_time;
uint32_t ot_engine_stage_times(const ot_engine *engine, ot_stage_time *out, uint32_t max);

#endif
