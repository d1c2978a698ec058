/* The stages of a layer that multiply by weights: products of all lanes are listed, cut into tasks, and run together. */
#ifndef OTTER_ENGINE_PRODUCT_STAGE_H
#define OTTER_ENGINE_PRODUCT_STAGE_H

#include "engine/step.h"

struct ot_product {
    float *y;            /* NULL for products into an FFN that are wanted no longer than their task runs */
    size_t y_stride;
    const ot_acts *x;
    uint32_t n_rows;
    bool wide;           /* quantised weights read the wide form of x */
    const ot_matrix *w;
    bool accumulate;
    /* The products into an FFN (lane not NULL): y is up's; the same panels of gate, if there is one, go to gate_y, and then their features
     * are activated and quantised. */
    const ot_lane *lane;
    const ot_linear *gate, *up;
    float *gate_y;
};

/* Panels [begin, end) of a listed product, for rows [row, row + n_rows). */
struct ot_product_task {
    uint32_t product, begin, end, row, n_rows;
};

/* Products that run together: in the engine's room for them. */
typedef struct ot_product_list {
    const ot_stage *stage;
    uint32_t n;
} ot_product_list;

enum { OT_PRODUCT_TASKS_PER_THREAD = 64 }; /* at most, rounding apart */

/* y = (or += if accumulate) W x for n_rows rows; none without rows. */
void ot_products_add(ot_product_list *list, float *y, size_t y_stride, const ot_acts *x, bool wide, uint32_t n_rows,
                     const ot_matrix *w, bool accumulate);
/* The products into a lane's FFN, and what follows on their results. */
void ot_products_add_ffn_in(ot_product_list *list, const ot_lane *lane, bool wide);
/* Runs them, and empties the list. */
void ot_products_run(ot_product_list *list, int stage);

#endif
