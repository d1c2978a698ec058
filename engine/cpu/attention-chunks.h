/* What a query's row of attention scratch holds, for the kernels alone: the scores of its keys in logical order, which become their
 * weights in place, and from the next multiple of OT_PAGE_TOKENS on a factor and a sum for each chunk. Scores of whole pages may be
 * written past a query's own keys, but only before its chunks are: their place is taken once all of its scores are there. */
#ifndef OTTER_ENGINE_CPU_ATTENTION_CHUNKS_H
#define OTTER_ENGINE_CPU_ATTENTION_CHUNKS_H

#include <float.h>

#include "engine/kernels.h"

static inline uint32_t ot_query_keys(const ot_attn_group *g, uint32_t i)
{
    return g->n_prefix[i] + g->n_tail[i];
}

static inline float *ot_query_scores(const ot_attn_group *g, uint32_t i)
{
    return g->scratch + i * g->scratch_stride;
}

static inline uint32_t ot_chunk_count(uint32_t n_keys)
{
    return n_keys / OT_ATTN_CHUNK + (n_keys % OT_ATTN_CHUNK != 0);
}

/* exp(m_c - M) of each chunk c, behind the weights. */
static inline float *ot_chunk_factors(const ot_attn_group *g, uint32_t i)
{
    const size_t n_keys = ot_query_keys(g, i);
    return ot_query_scores(g, i) + (n_keys + OT_PAGE_TOKENS - 1) / OT_PAGE_TOKENS * OT_PAGE_TOKENS;
}

/* What is done to the scores of query i, all of which are there, before they are weighed. In plain C for every instruction set: few models
 * ask for it. */
static inline void ot_finish_scores(const ot_attn_group *g, uint32_t i)
{
    float *score = ot_query_scores(g, i);
    const uint32_t n_keys = ot_query_keys(g, i), n_unseen = g->n_unseen != NULL ? g->n_unseen[i] : 0;
    const float cap = g->softcap;
    for (uint32_t j = 0; j < n_unseen; j++)
        score[j] = -FLT_MAX;
    for (uint32_t j = n_unseen; j < n_keys && cap != 0.0f; j++)
        score[j] = ot_soft_cap(score[j], cap);
}

#endif
