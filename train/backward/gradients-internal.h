/* What gradients-open.c makes and gradients.c works on. Nobody else includes this. */
#ifndef OTTER_TRAIN_BACKWARD_GRADIENTS_INTERNAL_H
#define OTTER_TRAIN_BACKWARD_GRADIENTS_INTERNAL_H

#include "train/backward/attention-backward.h"
#include "train/backward/gradients.h"
#include "engine/kernels.h"

/* Values of which one task adds up the squares, for the norm of all gradients. */
#define OT_NORM_CHUNK 65536

/* A parameter and its gradient; w is NULL where the insertion has none. */
typedef struct ot_weight_gradient {
    const float *w;
    float *g;
    uint32_t n_in, n_out;
} ot_weight_gradient;

typedef struct ot_layer_gradients {
    ot_weight_gradient q, k, v, o, gate, up, down, attn_norm, ffn_norm;
} ot_layer_gradients;

/* One tile of a weight gradient: features [begin, end) of g += d_out^T x. */
typedef struct ot_gradient_tile {
    const ot_weight_gradient *w;
    const float *d_out; /* (rows, w->n_out) */
    const float *x;     /* (rows, w->n_in) */
    uint32_t begin, end;
} ot_gradient_tile;

struct ot_gradients {
    ot_engine *engine;
    ot_insertion *insertion;
    const ot_kernels *kernels;
    ot_pool *pool;
    const ot_insertion_info *info;
    uint32_t d_base, d, f, n_layers, n_outputs, hd;
    uint32_t width_q, width_kv;
    uint32_t max_rows, max_length;
    float lambda, eps;
    ot_tape tape;
    float *tape_buffer;

    uint32_t n_params;
    float *g_buffer;            /* all gradients, one after the other */
    size_t n_values;
    float **g_of;               /* (n_params) views into g_buffer */
    ot_layer_gradients *layers; /* (n_layers) */
    ot_weight_gradient embedding, out_norm;
    ot_weight_gradient head_w[OT_MAX_HEADS], head_b[OT_MAX_HEADS], head_t[OT_MAX_HEADS], head_r[OT_MAX_HEADS];
    int32_t *touched;           /* tokens whose embedding gradient is not zero */
    uint32_t n_touched;

    float *row_buffer;          /* the views below */
    float *dx, *dx_next, *d_mid, *d_n1, *d_n2; /* (max_rows, d) */
    float *d_heads, *d_q;       /* (max_rows, width_q) */
    float *d_k, *d_v;           /* (max_rows, width_kv) */
    float *d_inner, *d_gate, *d_up; /* (max_rows, f) */
    double *row_penalty;        /* (max_rows) */
    float *rope_back;           /* (max_length, hd) */
    uint32_t n_rot;
    bool neox;
    float *scratch;             /* (threads, scratch_floats) */
    size_t scratch_floats;
    double *norm_parts;

    /* of the current backward pass */
    const ot_batch *batch;
    uint32_t layer;
    uint32_t n_row_tasks;
    float penalty_scale;        /* lambda / rows that count */
    ot_sequence_rows *sequences; /* (max_rows) those that begin alike as one */
    uint32_t n_sequences;
    ot_gradient_tile *tiles;
    uint32_t n_tiles, max_tiles, tile_features;
};

static inline uint32_t ot_gradients_norm_chunks(const ot_gradients *g)
{
    return (uint32_t)((g->n_values + OT_NORM_CHUNK - 1) / OT_NORM_CHUNK);
}

#endif
