/* What a query's row of attention scratch holds, for the kernels alone: the scores of its keys in logical order, which become their
 * weights in place, and from the next multiple of OT_PAGE_TOKENS on a factor and a sum for each chunk. Scores of whole pages may be
 * written past a query's own keys, but only before its chunks are: their place is taken once all of its scores are there. */
#ifndef OTTER_ENGINE_CPU_ATTENTION_CHUNKS_H
#define OTTER_ENGINE_CPU_ATTENTION_CHUNKS_H

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

#endif
