/* Inside sampling: the workspace, and the order of tokens that its two files share. */
#ifndef OTTER_SCHEDULER_POLICIES_SAMPLER_H
#define OTTER_SCHEDULER_POLICIES_SAMPLER_H

#include "scheduler/policies/sampling.h"

#define OT_SAMPLER_BLOCK 64

struct ot_sampler {
    const ot_kernels *kernels;
    uint32_t n_vocab, n_blocks;
    float *adjusted;   /* (n_vocab) logits after penalties and bias */
    float *scaled;     /* (n_vocab) (logits - max) / temperature */
    float *block;      /* (n_blocks) maxima or sums */
    float *heap;       /* (n_blocks) */
    uint32_t *counts;  /* (n_vocab) occurrences, zero between calls */
    int32_t *ids;      /* (n_vocab) the filtered set ... */
    float *weights;    /* (n_vocab) ... and exp(scaled) of each of it */
    uint64_t *keys[2]; /* (n_vocab) sort key << 32 | id */
};

static inline uint32_t ot_sampler_block_size(const ot_sampler *s, uint32_t b)
{
    uint32_t left = s->n_vocab - b * OT_SAMPLER_BLOCK;
    return left < OT_SAMPLER_BLOCK ? left : OT_SAMPLER_BLOCK;
}

/* Puts ids in the order of choice: higher logit first, then lower id. */
void ot_sampler_sort(const float *logits, int32_t *ids, uint32_t n);

#endif
