/* AdamW (Loshchilov and Hutter 2019) over all parameters of an insertion, in float32. */
#ifndef OTTER_TRAIN_BACKWARD_ADAMW_H
#define OTTER_TRAIN_BACKWARD_ADAMW_H

#include "engine/engine.h"

typedef struct ot_adamw {
    double head_rate;                       /* the learning rate of otter.head.* is multiplied by it */
    double beta1, beta2, eps, weight_decay; /* weight decay: matrices only, never norms, biases or heads' vectors */
    uint64_t n_steps;                       /* taken so far */
    size_t n_values;                        /* of all parameters together */
    float *m, *v;                           /* (n_values) moments, parameters in their order */
} ot_adamw;

ot_status ot_adamw_open(ot_adamw *adam, ot_insertion *insertion, ot_error *err);
void ot_adamw_close(ot_adamw *adam);
/* One step with gradients scale * gradient_of(i); does not commit. */
void ot_adamw_step(ot_adamw *adam, ot_insertion *insertion, const float *const *gradient_of, double lr, double scale,
                   ot_pool *pool);

#endif
