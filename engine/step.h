/* Inside the engine: the workspace of a step, and how a stage runs. Users see engine.h.
 *
 * A layer is seven stages; every stage is one run of the thread pool and ends in a barrier:
 *
 *     rows     norm, quantise            of each lane of a row, the base first (row-stage.h)
 *     products Q K V                     of all lanes in one run (product-stage.h)
 *     heads    rotary, store K V, attention, quantise   of all lanes; a prompt's rows are stored in a stage before (attention-stage.h)
 *     products W_O                       added to h
 *     rows     norm, quantise
 *     products gate up, activate, quantise
 *     products W_d                       added to h
 *
 * forward.c runs the operations of the architecture's block as these stages. It knows them; they do not know it, nor each other: what they
 * share is the workspace below, the lanes (lane.h) and the plan (plan.h). */
#ifndef OTTER_ENGINE_STEP_H
#define OTTER_ENGINE_STEP_H

#include "engine/model.h"
#include "engine/otter/insertion.h"
#include "engine/plan.h"

#define OT_ROWS_PER_TASK 4

/* Where a row of values goes, and what is done to each value before: value / divisor, capped, + bias, through the sigmoid; 0 and NULL are
 * none of these. */
typedef struct ot_out_row {
    float *values;  /* the caller's, one for each output feature */
    float divisor, cap;
    const float *bias;
    bool sigmoid;
} ot_out_row;

static inline float ot_out_value(const ot_out_row *out, float value)
{
    if (out->divisor != 0.0f)
        value /= out->divisor;
    if (out->cap != 0.0f)
        value = ot_soft_cap(value, out->cap);
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

typedef struct ot_product ot_product;
typedef struct ot_product_task ot_product_task;

struct ot_engine {
    const ot_model *model;
    ot_engine_options options;   /* zeros resolved */
    const ot_kernels *kernels;
    ot_pool *pool;
    bool owns_pool;
    uint8_t *arena;              /* one mapping: everything below but the pool */
    size_t arena_bytes, arena_used;

    ot_plan plan;                /* of the last batch */
    float *inv, *mean;           /* (max_rows) of each row of the base: factor of the last norm, and what a LayerNorm took off before */
    float *rope[OT_N_ROPES];     /* (max_rows, n_rot) cos and sin at the position of each row */
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
    size_t unit_bytes;           /* of a KV unit */
    float *shared_z;             /* (OT_MAX_SHARED * OT_GROUP_QUERIES) sums of weights of each query of the shared tasks, */
    float *shared_scores;        /* (OT_MAX_SHARED * OT_GROUP_QUERIES, scratch_stride) and a row of scores */
    uint32_t max_products;
    ot_product *products;        /* (max_products) */
    ot_product_task *product_tasks; /* (OT_PRODUCT_TASKS_PER_THREAD * threads + max_products) */
    ot_stage_time stages[OT_N_STAGES]; /* what each has done so far; names are filled in by ot_engine_stage_times */
};

/* What a layer's attention does, of the operations that its tasks do. */
typedef struct ot_attention {
    bool norms_heads;            /* OT_OP_HEAD_NORM */
    const ot_rope *rope;         /* OT_OP_ROTARY; NULL: nothing is turned */
    const float *turns;          /* (rows, n_rot) cos and sin */
    uint32_t window;             /* OT_OP_WINDOW; 0: all keys are seen */
    float scale, cap;
} ot_attention;

/* Where a pass stands: what every task of a stage is told. */
typedef struct ot_stage {
    ot_engine *e;
    const ot_row_set *rows;
    uint32_t set;                /* OT_ROWS_ALL or OT_ROWS_KEPT: which set `rows` is */
    uint32_t layer;
    const ot_op *op;             /* the operation of the block */
    ot_attention attention;      /* of the layer */
    bool wide;                   /* what is quantised here takes the wide form too, where its lane has one */
    bool adds_bias;              /* a norm adds the bias of the product that will add to h, once it has read h */
    bool stores_all;             /* a stage of its own stores keys and values, of all groups */
} ot_stage;

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

static inline ot_lane *ot_engine_base_lane(ot_engine *e)
{
    return &e->plan.lanes[0];
}
static inline const ot_layer *ot_stage_layer(const ot_stage *s, const ot_lane *lane)
{
    return &lane->weights->layers[s->layer];
}
static inline ot_lane *const *ot_stage_lanes(const ot_stage *s, uint32_t row, uint32_t *n)
{
    return ot_plan_lanes(&s->e->plan, s->set, row, n);
}
/* y += elements [first, first + n) of the bias, where there is one. */
static inline void ot_add_bias(const ot_engine *e, float *y, const ot_linear *linear, uint32_t first, uint32_t n)
{
    if (linear->bias != NULL)
        e->kernels->add(y, linear->bias + first, n);
}
/* Own columns [column, column + n) of a lane's part, quantised and given to the lanes above. */
static inline void ot_stage_finish_blocks(const ot_stage *s, const ot_lane *lane, uint32_t row, ot_part part, unsigned forms,
                                          uint32_t column, uint32_t n)
{
    uint32_t n_lanes;
    ot_lane *const *lanes = ot_stage_lanes(s, row, &n_lanes);
    const uint32_t c = (uint32_t)lane->rows[s->set].index[row];
    ot_buffer_quantize(s->e->kernels, &lane->parts[part], forms, c, c + 1, ot_lane_own_column(lane, part) + column, n);
    if (n_lanes > 1)
        ot_lane_give(lane, s->set, row, part, column, n, lanes, n_lanes);
}

/* Runs fn(arg) on tasks [0, n), inline where one task or thread is all there is, and books the time. */
void ot_step_run(ot_engine *e, int stage, ot_task *fn, void *arg, uint32_t n_tasks);
/* The same for tasks in the order of rows: in many stages a thread has the same rows. */
void ot_step_run_shares(ot_engine *e, int stage, ot_task *fn, void *arg, uint32_t n_tasks);

/* Queues a product with the first n_out rows of w for the next ot_project_run; the wide form of `in` is there and stays as it is
 * until then. */
void ot_project_add(ot_engine *e, const ot_buffer *in, const ot_matrix *w, uint32_t n_out, const ot_out_row *out);
/* Runs all queued products in one run of the pool. */
void ot_project_run(ot_engine *e);
/* Processors that this process may use. */
uint32_t ot_available_cpus(void);

#endif
