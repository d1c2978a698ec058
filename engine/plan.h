/* The plan of a pass: a batch as indices, made once before the pass begins. It checks the batch, lists its lanes and their compact
 * rows, the rows that are kept for the last layer, groups of rows for attention and their tasks. No arithmetic happens here, and a pass
 * changes nothing in it. */
#ifndef OTTER_ENGINE_PLAN_H
#define OTTER_ENGINE_PLAN_H

#include "engine/lane.h"

#define OT_GROUP_QUERIES 24 /* queries that share one pass over keys and values, at most (but one row at least) */

/* Consecutive rows of one sequence: they share a pass over its keys and values. */
typedef struct ot_group {
    uint32_t first_row, n_rows;
    uint32_t sequence;
    bool stores;         /* its tasks store keys and values too: no other group has rows of this sequence */
} ot_group;

/* One attention task: a group, and a KV head of a lane. */
typedef struct ot_attn_task {
    const ot_group *group;
    ot_lane *lane;
    uint8_t *memory;     /* of the sequence's units, */
    const uint32_t *units; /* and those of the head's pages */
    uint32_t kv_head;
    bool shared;         /* threads share it: it is done step by step */
} ot_attn_task;

/* A shared task. Each is at least two thirds of what a thread would do if the work were even. */
#define OT_MAX_SHARED(n_threads) ((n_threads) + (n_threads) / 2)
typedef struct ot_shared_task {
    const ot_attn_task *task;
    uint32_t first_query;        /* among those of all shared tasks */
    uint32_t first_part;         /* of the scores, likewise */
} ot_shared_task;

typedef struct ot_row_set {
    uint32_t n_rows;
    const ot_row *rows;
    uint32_t n_groups;
    ot_group *groups;            /* (max_rows) */
    bool stores_apart;           /* some group does not store by itself */
    uint32_t n_attn_tasks;
    ot_attn_task *attn_tasks;    /* (max_attn_tasks) */
    uint32_t n_shared, n_shared_queries, n_shared_parts;
    ot_shared_task *shared;      /* (OT_MAX_SHARED) */
} ot_row_set;

typedef struct ot_plan {
    const ot_batch *batch;       /* NULL: there is none */
    uint32_t n_lanes;
    ot_lane *lanes;              /* (1 + max_insertions) the base, then insertions, parents first */
    ot_lane **lanes_of;          /* (max_rows sequences, 1 + max_insertions): lanes of a sequence, the base first */
    uint32_t max_lanes;
    ot_row_set sets[OT_N_ROW_SETS];
    ot_row *kept_rows;           /* (max_rows) of the set of kept rows */
    uint32_t *kept_from;         /* (max_rows) kept row -> row of the batch */
    uint32_t *sequence_groups;   /* (max_rows sequences) groups of each */
    uint32_t max_attn_tasks;
    uint32_t n_outputs;          /* rows with OT_ROW_OUTPUT */
    int32_t *output_index;       /* (max_rows) batch row -> its number among them, or -1 */
    bool narrows;                /* the last layer goes on with the kept rows alone */
    bool gathers[OT_N_PARTS];    /* some lane's part is put together in a stage of its own */
    ot_lane *taped;              /* the lane that batch->tape is about, or NULL */
} ot_plan;

/* What a plan must keep to. */
typedef struct ot_plan_limits {
    uint32_t max_rows, max_context, max_ext_width, n_threads;
} ot_plan_limits;

/* Makes the plan of a batch. OT_ERR_INVALID names a row out of bounds; OT_ERR_FULL an insertion too many, or one that is too wide. */
ot_status ot_plan_make(ot_plan *plan, const ot_model *model, const ot_plan_limits *limits, const ot_batch *batch, ot_error *err);

/* Lanes of a row of a set, parents before what stands on them. */
static inline ot_lane *const *ot_plan_lanes(const ot_plan *plan, uint32_t set, uint32_t row, uint32_t *n)
{
    const uint32_t sequence = plan->sets[set].rows[row].sequence;
    *n = 1 + plan->batch->sequences[sequence].n_insertions;
    return plan->lanes_of + (size_t)sequence * plan->max_lanes;
}
/* The lane of an insertion in the batch (NULL: the base), or NULL. */
ot_lane *ot_plan_lane(const ot_plan *plan, const ot_insertion *insertion);
/* Compact row of a batch row with output in the set that the pass ended with, or -1. */
int32_t ot_plan_final_row(const ot_plan *plan, const ot_lane *lane, uint32_t batch_row);
/* Queries that share a key/value head of the lane, for one row. */
static inline uint32_t ot_lane_group(const ot_lane *lane)
{
    return lane->n_heads / lane->n_kv_heads;
}

/* Keys of a part of the scores of a shared task, and columns of a part of its values. */
enum { OT_PART_PAGES = 16, OT_PART_COLUMNS = OT_QBLOCK };

#endif
