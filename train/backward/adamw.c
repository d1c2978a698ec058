/* m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  w = w (1 - lr decay) - lr m' / (sqrt(v') + eps), with the
 * bias-corrected m' = m / (1 - b1^t) and v' = v / (1 - b2^t). Each value is updated by itself, so cutting the work for
 * the pool cannot change a result. */
#include "train/backward/adamw.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/train-internal.h"

#define CHUNK 65536

ot_status ot_adamw_open(ot_adamw *adam, ot_insertion *insertion, ot_error *err)
{
    *adam = (ot_adamw){.head_rate = 1, .beta1 = 0.9, .beta2 = 0.98, .eps = 1e-8};
    for (uint32_t i = 0; i < ot_insertion_n_params(insertion); i++) {
        const ot_param *p = ot_insertion_param(insertion, i);
        adam->n_values += (size_t)p->n_in * p->n_out;
    }
    adam->m = ot_alloc(adam->n_values, sizeof(float));
    adam->v = ot_alloc(adam->n_values, sizeof(float));
    if (adam->m == NULL || adam->v == NULL) {
        ot_adamw_close(adam);
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for the optimizer's state");
    }
    return OT_OK;
}

void ot_adamw_close(ot_adamw *adam)
{
    free(adam->m);
    free(adam->v);
    *adam = (ot_adamw){0};
}

typedef struct step_arg {
    float *w, *m, *v;
    const float *g;
    size_t n;
    float beta1, beta2, rate, root_scale, eps, keep, scale;
} step_arg;

static void step_task(void *arg, uint32_t task, uint32_t thread)
{
    const step_arg *a = arg;
    const size_t begin = (size_t)task * CHUNK, end = begin + CHUNK < a->n ? begin + CHUNK : a->n;
    float *restrict w = a->w, *restrict m = a->m, *restrict v = a->v;
    const float *restrict grad = a->g;
    const float b1 = a->beta1, b2 = a->beta2, rate = a->rate, root = a->root_scale, eps = a->eps, keep = a->keep,
                scale = a->scale;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        const float g = grad[i] * scale;
        m[i] = b1 * m[i] + (1.0f - b1) * g;
        v[i] = b2 * v[i] + (1.0f - b2) * (g * g);
        w[i] = w[i] * keep - rate * m[i] / (sqrtf(v[i]) * root + eps);
    }
}

void ot_adamw_step(ot_adamw *adam, ot_insertion *insertion, const float *const *gradient_of, double lr, double scale,
                   ot_pool *pool)
{
    const double t = (double)++adam->n_steps;
    size_t at = 0;
    for (uint32_t i = 0; i < ot_insertion_n_params(insertion); i++) {
        ot_param *p = ot_insertion_param(insertion, i);
        const size_t n = (size_t)p->n_in * p->n_out;
        const double own_lr = strncmp(p->name, "otter.head.", 11) == 0 ? lr * adam->head_rate : lr;
        step_arg a = {
            .w = p->data, .m = adam->m + at, .v = adam->v + at, .g = gradient_of[i], .n = n,
            .beta1 = (float)adam->beta1, .beta2 = (float)adam->beta2, .eps = (float)adam->eps,
            .rate = (float)(own_lr / (1.0 - pow(adam->beta1, t))),
            .root_scale = (float)(1.0 / sqrt(1.0 - pow(adam->beta2, t))),
            .keep = p->is_vector ? 1.0f : (float)(1.0 - own_lr * adam->weight_decay), .scale = (float)scale,
        };
        ot_pool_run(pool, step_task, &a, (uint32_t)((n + CHUNK - 1) / CHUNK));
        at += n;
    }
}
