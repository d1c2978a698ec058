/* Inside the engine: the workspace of a step and the parts of the forward pass. Users see engine.h.
 *
 * A layer is seven stages; every stage is one run of the thread pool and ends in a barrier:
 *
 *     rows    norm, quantise            base rows, and for rows with insertions [n(h); parents; n(h')]
 *     matmul  Q K V                     base and inserted projections in one run
 *     heads   rotary, store K V, attention, quantise   base heads and new heads; a prompt's rows are stored in a stage before
 *     matmul  W_O                       added to h and h'
 *     rows    norm, quantise
 *     matmul  gate up, activate, quantise
 *     matmul  W_d                       added to h and h'
 *
 * A block of 32 activations is quantised by itself, so whoever has computed a block quantises it, and gives it to every
 * concatenation that has it too ([base; parents; own], ot_streams_give_blocks). Where parts do not begin on a block, and where
 * an insertion has float matrices or is on a tape, rows are gathered and quantised in two further stages instead.
 *
 * Base values are computed first and read by the inserted stream, never written by it: that is promise 1.
 */
#ifndef OTTER_ENGINE_STEP_H
#define OTTER_ENGINE_STEP_H

#include "engine/model.h"
#include "engine/otter/insertion.h"

#define OT_GROUP_QUERIES 24 /* queries that share one pass over keys and values, at most (but one row at least) */
#define OT_ROWS_PER_TASK 4

/* Float rows and their quantised forms.
 *
 * The wide form, of 16 bits, costs twice the arithmetic of the narrow one. It is used where 8 bits lose most of the accuracy: V of every
 * layer, the FFN of the last layer, and the output matrix. On SmolLM2-135M Q4_1 that brings the mean difference to float32
 * log-probabilities from 0.053 to 0.031 nats a token, for 6% more products in a prompt's rows (tests/golden measures it). */
typedef struct ot_buffer {
    float *x;        /* (max_rows, width) */
    uint32_t width;
    ot_acts acts;    /* q is NULL where width is no multiple of 32, wide_q also where the buffer is never wide */
} ot_buffer;

/* The rows of one insertion in the current batch. Compact row c is batch row rows[c]. */
typedef struct ot_stream {
    const ot_insertion *insertion;
    uint32_t n_parents;
    const struct ot_stream *parents[OT_MAX_PARENTS];
    uint32_t n_rows;
    uint32_t *rows;      /* (max_rows) */
    int32_t *index;      /* (max_rows) batch row -> compact row, or -1 */
    float *ext;          /* (n_rows, d') h' */
    bool in_blocks;      /* its parts are whole blocks of 32 and it reads no floats: parts are given to it quantised */
    ot_buffer in;        /* (n_rows, D) before Q K V, and again before gate and up */
    ot_buffer attn;      /* (n_rows, A) */
    ot_buffer ff;        /* (n_rows, F) */
    float *q, *k, *v;    /* (n_rows, heads'*hd), (n_rows, kv'*hd) twice */
    float *gate, *up;    /* (n_rows, f') on a tape, else NULL */
    float *out;          /* (n_rows, d') H', valid for output rows */
    float *scores;       /* (n_rows, OT_MAX_HEADS), valid for output rows */
    /* What ot_engine_open allocated room for; the fields above point there, or into a tape. */
    float *storage_in, *storage_attn, *storage_ff, *storage_q, *storage_k, *storage_v;
} ot_stream;

/* Consecutive rows of one sequence: they share a pass over its keys and values. */
typedef struct ot_group {
    uint32_t first_row, n_rows;
    uint32_t sequence;
    bool stores;         /* its tasks store keys and values too: no other group has rows of this sequence */
} ot_group;

/* One attention task: a group, and a KV head of the base (stream NULL) or of an insertion. */
typedef struct ot_attn_task {
    const ot_group *group;
    ot_stream *stream;
    uint8_t *const *units;
    uint32_t kv_head;
    bool shared;         /* threads share it: it is done step by step */
} ot_attn_task;

/* A shared task, and what its steps leave for the next. Each is at least two thirds of what a thread would do if the work were even. */
#define OT_MAX_SHARED(n_threads) ((n_threads) + (n_threads) / 2)
typedef struct ot_shared_task {
    const ot_attn_task *task;
    uint32_t first_query;        /* among those of all shared tasks */
    uint32_t first_part;         /* of the scores, likewise */
    float z[OT_GROUP_QUERIES];   /* sums of weights */
} ot_shared_task;

typedef struct ot_matmul {
    float *y;           /* NULL for products into an FFN that are wanted no longer than their task runs */
    size_t y_stride;
    const ot_acts *x;
    bool wide;          /* quantised weights read the wide form of x */
    const ot_matrix *w;
    bool accumulate;
    /* The products into an FFN (up not NULL): y is up's; the same panels of gate go to gate_y, and then their features are
     * activated and quantised, for the base (stream NULL) or a stream. */
    const ot_linear *gate, *up;
    float *gate_y;
    ot_stream *stream;
} ot_matmul;

/* Panels [begin, end) of a queued product, for rows [row, row + n_rows). */
typedef struct ot_matmul_task {
    uint32_t matmul, begin, end, row, n_rows;
} ot_matmul_task;

enum { OT_MATMUL_TASKS_PER_THREAD = 64 }; /* at most, rounding apart */

/* Products of this many rows a thread and more are cut by rows: what a thread has made of its rows is still in its cache when
 * the next stage reads it. Fewer rows are cut by panels, so that each weight is read by one thread. */
enum { OT_CUT_ROWS_PER_THREAD = 64 };

/* Where a row of values goes, and what is done to each value before: value + bias (NULL: none), through the sigmoid or not. */
typedef struct ot_out_row {
    float *values;  /* the caller's, one for each output feature */
    const float *bias;
    bool sigmoid;
} ot_out_row;

static inline float ot_out_value(const ot_out_row *out, float value)
{
    if (out->bias != NULL)
        value += out->bias[0];
    return out->sigmoid ? ot_sigmoid(value) : value;
}

/* A product of quantised rows with the first n_out rows of the output matrix or of a head's table: in->acts.n_rows rows. */
typedef struct ot_projection {
    const ot_buffer *in;
    const ot_matrix *w;
    uint32_t n_out;
    const ot_out_row *out;
    uint32_t first_task;
} ot_projection;

enum { OT_STAGE_NORM, OT_STAGE_QKV, OT_STAGE_STORE, OT_STAGE_ATTENTION, OT_STAGE_CONCAT, OT_STAGE_ATTN_OUT, OT_STAGE_FFN_IN,
       OT_STAGE_FFN_ACT, OT_STAGE_FFN_OUT, OT_STAGE_HEADS, OT_STAGE_PROJECT, OT_N_STAGES };

struct ot_engine {
    const ot_model *model;
    ot_engine_options options;   /* zeros resolved */
    const ot_kernels *kernels;
    ot_pool *pool;
    bool owns_pool;
    uint8_t *arena;              /* one mapping: everything below but the pool */
    size_t arena_bytes, arena_used;

    float *h;                    /* (max_rows, d) */
    float *inv, *mean;           /* (max_rows) factor of the last norm, and what a LayerNorm took off before */
    ot_buffer xn;                /* (max_rows, d) n(h) */
    float *q, *k, *v;            /* (max_rows, H*hd), (max_rows, KV*hd) twice */
    ot_buffer att;               /* (max_rows, H*hd) */
    ot_buffer inner;             /* (max_rows, n_ff) */
    float *rope;                 /* (max_rows, n_rot) */
    ot_buffer hidden;            /* (max_rows, d) H_o, compact: output rows only */
    int32_t *output_index;       /* (max_rows) batch row -> row of hidden, or -1 */
    ot_buffer project_in;        /* (max_rows, d) rows that go through the output matrix */
    float *token_row;            /* (d) head values: the embedding of a token that a head reads */
    bool *full_rows_silu;        /* (max_rows) head values: whether a row of project_in takes a SiLU first */
    ot_buffer head_in;           /* (max_rows, max(d, max_ext_width)) inputs of heads, each head's as a buffer of its own width: */
    ot_buffer *head_parts;       /* (max_rows) at the index of its first row */
    uint32_t n_projections;
    ot_projection *projections;  /* (max_rows + 1) */
    ot_out_row *out_rows;        /* (2 * max_rows) rows of project_in, then rows of head_in */
    float *tiles;                /* (threads, OT_TILE_ROWS, OT_TILE_COLUMNS) */
    float *scratch;              /* (threads, scratch_floats) attention scores */
    size_t scratch_floats, scratch_stride;

    uint32_t n_streams;
    ot_stream *streams;          /* (max_insertions) */
    ot_stream **stream_of;       /* (max_rows sequences, max_insertions): streams of a sequence, in its view's order */
    uint32_t n_groups;
    ot_group *groups;            /* (max_rows) */
    uint32_t *sequence_groups;   /* (max_rows sequences) groups of each */
    bool stores_apart;           /* some group does not store by itself */
    uint32_t n_attn_tasks;
    ot_attn_task *attn_tasks;    /* (max_rows * max KV heads of a layer, see workspace.c) */
    uint32_t max_attn_tasks;
    uint32_t n_shared, n_shared_queries, n_shared_parts;
    ot_shared_task *shared;      /* (OT_MAX_SHARED) */
    float *shared_scores;        /* (OT_MAX_SHARED * OT_GROUP_QUERIES, scratch_stride) a row for each query of the shared tasks */
    uint32_t n_matmuls;
    ot_matmul *matmuls;          /* (3 + 3 * max_insertions, or max_rows) */
    ot_matmul_task *matmul_tasks; /* (OT_MATMUL_TASKS_PER_THREAD * threads + matmuls) */
    bool gathers;                /* some stream of the batch is not in_blocks */

    const ot_batch *batch;       /* the last one; within its last layer &kept, where rows without output have been left behind */
    ot_batch kept;
    ot_row *kept_rows;           /* (max_rows) */
    uint32_t n_outputs;          /* rows with OT_ROW_OUTPUT */
    bool narrows;                /* in the last layer, until its keys and values are stored: some rows will be left behind */
    uint32_t layer;
    const ot_op *op;             /* of the layer's block, that runs */
    ot_stage_time stages[OT_N_STAGES]; /* what each has done so far; names are filled in by ot_engine_stage_times */
};

/* Books a product of n_rows rows with the first n_out rows of w. */
static inline void ot_step_count_part(ot_engine *e, int stage, const ot_matrix *w, uint32_t n_out, uint32_t n_rows)
{
    const double ops = 2.0 * n_rows * w->n_in * n_out;
    *(ot_matrix_takes_q8(w) ? &e->stages[stage].int8_ops : &e->stages[stage].float_ops) += ops;
    e->stages[stage].bytes += (double)w->panel_bytes * ((n_out + OT_PANEL - 1) / OT_PANEL);
}
static inline void ot_step_count_product(ot_engine *e, int stage, const ot_matrix *w, uint32_t n_rows)
{
    ot_step_count_part(e, stage, w, w->n_out, n_rows);
}

#define OT_TILE_ROWS 32
#define OT_TILE_COLUMNS 512
/* Products into an FFN use the same memory for gate and up of at most so many rows, and of as many features as then fit. */
#define OT_FFN_TILE_ROWS 64
#define OT_FFN_TILE_FLOATS 4096

/* Where K and V of the current layer lie in a KV unit (kernels.h draws it). */
static inline size_t ot_step_k_offset(const ot_engine *e)
{
    const size_t element = e->options.kv_type == OT_KV_F16 ? 2 : 4;
    return 2 * (size_t)e->layer * OT_PAGE_TOKENS * e->model->info.head_dim * element;
}
static inline size_t ot_step_v_offset(const ot_engine *e)
{
    const size_t element = e->options.kv_type == OT_KV_F16 ? 2 : 4;
    return ot_step_k_offset(e) + (size_t)OT_PAGE_TOKENS * e->model->info.head_dim * element;
}

static inline bool ot_step_is_last_layer(const ot_engine *e)
{
    return e->layer + 1 == e->model->info.n_layers;
}

/* Runs fn on tasks [0, n), inline where one task or thread is all there is, and books the time. */
void ot_step_run(ot_engine *e, int stage, ot_task *fn, uint32_t n_tasks);
/* The same for tasks in the order of rows: in many stages a thread has the same rows. */
void ot_step_run_rows(ot_engine *e, int stage, ot_task *fn, uint32_t n_tasks);
/* Rows [row, row + n_rows) and columns [column, column + n) of activations, the latter whole blocks. */
ot_acts ot_acts_part(const ot_acts *all, uint32_t row, uint32_t n_rows, uint32_t column, uint32_t n);
/* Quantises rows [begin, end) of a buffer in these forms (OT_ACTS_NARROW, OT_ACTS_WIDE), where it has them. */
void ot_buffer_quantize(const ot_engine *e, const ot_buffer *b, unsigned forms, uint32_t begin, uint32_t end);
/* The same for columns [column, column + n), whole blocks. */
void ot_buffer_quantize_blocks(const ot_engine *e, const ot_buffer *b, unsigned forms, uint32_t begin, uint32_t end,
                               uint32_t column, uint32_t n);
/* Whether the attention's outputs of a KV head are whole blocks, so that its task can quantise them. */
bool ot_step_heads_in_blocks(const ot_engine *e);

/* The norm that an operation means, of a layer. */
const ot_norm *ot_step_norm_of(const ot_op *op, const ot_layer *layer);
/* What base and inserted rows do alike, by the architecture. n(h') of n elements by the statistics that the last norm of the
 * row's h had: */
void ot_step_norm_extended(const ot_engine *e, uint32_t row, const ot_norm *norm, const float *ext, uint32_t n, float *dst);
/* The FFN's inner activation from n elements of gate and up, biases included; gate is not looked at where there is none. */
void ot_step_activate(const ot_engine *e, float *dst, const float *gate, const float *up, uint32_t n);
/* y += elements [first, first + n) of the bias, where there is one. */
void ot_step_add_bias(const ot_engine *e, float *y, const ot_linear *linear, uint32_t first, uint32_t n);

/* ---- Products (product-stage.c) ---------------------------------------------------------------------------------- */

/* Queues a product for the next ot_step_run_matmuls. */
void ot_step_add_matmul(ot_engine *e, float *y, size_t y_stride, ot_buffer *x, bool wide, uint32_t n_rows,
                        const ot_matrix *w, bool accumulate);
void ot_step_run_matmuls(ot_engine *e, int stage);
/* Queues the products into an FFN, and what follows on their results: of the base (s NULL) or a stream. */
void ot_step_add_ffn_in(ot_engine *e, ot_stream *s, ot_buffer *x, bool wide, uint32_t n_rows, const ot_linear *gate,
                        const ot_linear *up);

/* ---- Attention (attention-stage.c) ----------------------------------------------------------------------------- */

/* Groups the rows of the batch and lists their tasks; stored: keys and values of this layer are in their pages already. */
void ot_attention_group_rows(ot_engine *e, bool stored);
/* Books the attention of so many layers for the groups as they are. */
void ot_attention_count(ot_engine *e, uint32_t n_layers);
void ot_attention_store(ot_engine *e);     /* keys and values of the groups that do not store by themselves */
void ot_attention_store_all(ot_engine *e); /* ... of all groups */
void ot_attention_run(ot_engine *e);

/* Queues a product with the first n_out rows of w for the next ot_project_run; the wide form of `in` is there and stays as it is
 * until then. */
void ot_project_add(ot_engine *e, const ot_buffer *in, const ot_matrix *w, uint32_t n_out, const ot_out_row *out);
/* Runs all queued products in one run of the pool. */
void ot_project_run(ot_engine *e);
/* Processors that this process may use. */
uint32_t ot_available_cpus(void);

/* ---- The inserted stream (otter/stream.c). Row functions are called for one batch row, after the base's part. ---- */

/* Streams and rows of a batch; checks widths. */
ot_status ot_streams_begin(ot_engine *e, const ot_batch *batch, ot_error *err);
void ot_streams_layer(ot_engine *e);                       /* at each layer: points buffers into the tape, if any */
void ot_streams_norm_row(ot_engine *e, uint32_t row, bool ffn);
/* The three concatenations that inserted projections read. */
typedef enum ot_part_kind { OT_PART_IN, OT_PART_HEADS, OT_PART_FF } ot_part_kind;
/* Streams that are not in_blocks: a row's concatenation of floats, quantised; own parts are there. */
void ot_streams_gather_row(ot_engine *e, uint32_t row, ot_part_kind kind);
/* Streams that are in_blocks get columns [column, column + n) of what a batch row's base (source NULL) or parent has quantised. */
void ot_streams_give_blocks(ot_engine *e, uint32_t row, ot_part_kind kind, const ot_stream *source, uint32_t column, uint32_t n);
/* The column at which a stream's own part of a concatenation begins. */
uint32_t ot_stream_own_column(const ot_engine *e, const ot_stream *s, ot_part_kind kind);
void ot_streams_add_keys_values(ot_engine *e);
void ot_streams_add_queries(ot_engine *e);
void ot_streams_add_attn_out(ot_engine *e);
void ot_streams_add_ffn_in(ot_engine *e);
void ot_streams_add_ffn_out(ot_engine *e);
/* Rows without output are left behind: compact rows move together, and belong to rows of e->kept. */
void ot_streams_keep_output_rows(ot_engine *e);
/* ... and after the last layer to rows of the whole batch again. */
void ot_streams_restore_rows(ot_engine *e, uint32_t n_rows);
void ot_streams_head_row(ot_engine *e, uint32_t row, const float *hidden);
/* The stream of an insertion in the batch, or NULL. */
ot_stream *ot_streams_find(const ot_engine *e, const ot_insertion *insertion);
/* Streams of a batch row's sequence, parents first. */
ot_stream *const *ot_streams_of_row(const ot_engine *e, uint32_t row, uint32_t *n);

#endif
