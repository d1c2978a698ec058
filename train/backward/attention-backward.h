/* The gradient of causal softmax attention, for one key/value head of one sequence, or of two that begin alike, at a time. */
#ifndef OTTER_TRAIN_BACKWARD_ATTENTION_BACKWARD_H
#define OTTER_TRAIN_BACKWARD_ATTENTION_BACKWARD_H

#include "engine/kernels.h"

/* Row-major buffers over all rows of a batch; query heads are n_heads, in equal groups for each of n_kv_heads. */
typedef struct ot_attention_backward {
    const ot_kernels *kernels;
    uint32_t head_dim, n_heads, n_kv_heads;
    float scale;                 /* of the scores */
    const float *q, *k, *v;      /* (rows, n_heads * hd), (rows, n_kv_heads * hd) twice: after the rotary embedding */
    const float *d_out;          /* (rows, n_heads * hd): derivative by the heads' outputs */
    float *d_q, *d_k, *d_v;      /* shaped as q, k, v: derivatives before the rotary embedding */
    const float *rope_back;      /* (positions, head_dim) tables of the inverse rotation, n_rot floats used in each */
    uint32_t n_rot;
    bool neox;
} ot_attention_backward;

/* Floats of scratch that a sequence of n_rows positions needs. */
size_t ot_attention_backward_scratch(uint32_t head_dim, uint32_t n_rows);
/* Rows [first, first + n) are a sequence from position 0, and each attends to those up to itself. n_fork > 0: rows [fork, fork + n_fork),
 * behind them, are the positions from n_shared on of a second sequence, whose first n_shared rows are those of the first. */
typedef struct ot_sequence_rows {
    uint32_t first, n;
    uint32_t fork, n_fork, n_shared;
} ot_sequence_rows;
/* Overwrites the parts of d_q, d_k, d_v that belong to these rows and this key/value head. */
void ot_attention_backward_run(const ot_attention_backward *a, const ot_sequence_rows *rows, uint32_t kv_head, float *scratch);

#endif
