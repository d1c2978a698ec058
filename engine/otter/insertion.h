/* Inside the engine: what an open insertion holds. Users see engine.h. */
#ifndef OTTER_ENGINE_OTTER_INSERTION_H
#define OTTER_ENGINE_OTTER_INSERTION_H

#include "engine/model.h"

/* One output. A scalar head has a weight vector and a bias; the others have a matrix W_h, or where that is cheaper G = E W_h made at
 * load (head-table.c), and a lookahead head a bias too. `in` is d' or d. */
typedef struct ot_head_weights {
    float *weight;    /* (in) */
    float *bias;      /* (1) */
    ot_matrix matrix; /* W_h [in, d]; freed where there is a table */
    ot_matrix table;  /* G [in, n_vocab], or empty */
    ot_matrix token;  /* B_h [d, in] of heads that read tokens; freed when a file's has become ... */
    float *residual;  /* (1) rho_h of heads that read tokens */
    float *token_rows; /* ... (in, d) floats: one product of a row at a time */
} ot_head_weights;

struct ot_insertion {
    ot_insertion_info info;
    const ot_model *base;
    uint32_t n_parents;
    const ot_insertion *parents[OT_MAX_PARENTS];
    ot_widths widths;
    ot_weights weights;           /* those of the base's architecture, in its own sizes; no layers where d' = 0 */
    ot_head_weights heads[OT_MAX_HEADS];
    bool takes_q8;                /* its matrices multiply quantised activations */

    ot_gguf *gguf;                /* where it came from; E' is read from its mapping */
    char **training;              /* keys and values of the record, 2 * info.n_training strings */

    /* Trainable insertions only: float32 masters. Vectors and E' above point into them. */
    uint32_t n_params;
    ot_param *params;
    ot_matrix **packed;           /* (n_params) the kernels' copy of each matrix; NULL for what is used in place */
    void **buffers;               /* quantised copies made by ot_insertion_put, n_params entries */
};

/* Calls visit for every tensor that the insertion's sizes imply, in file order; stops at the first error. */
ot_status ot_insertion_walk(ot_insertion *insertion, ot_slot_visit *visit, void *arg, ot_error *err);

/* ot_insertion_open, or the same without the tables of heads, which take seconds: enough for who reads the file's tensors alone. */
ot_status ot_insertion_open_file(ot_insertion **out, const ot_model *base, const char *name, const char *path,
                                 const ot_insertion *const *loaded, uint32_t n_loaded, const ot_insertion_options *options,
                                 bool builds_tables, ot_error *err);
/* Computes the widths and checks a spec against the base. */
ot_status ot_insertion_prepare(ot_insertion *insertion, ot_error *err);
/* Inputs of the heads: d' or d. */
uint32_t ot_insertion_head_width(const ot_insertion *insertion);
/* After all tensors are there: flags and sums of info. */
void ot_insertion_finish(ot_insertion *insertion);
/* Makes the tables of heads (head-table.c) from their matrices, which it frees; nothing where values come through the output
 * matrix. Unpacks the matrices of heads that read tokens. */
ot_status ot_head_tables_build(ot_insertion *insertion, uint32_t n_threads /* 0: all that the process may use */, ot_error *err);
#endif
