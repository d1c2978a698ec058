/* Attention of a group of queries over pages, on lanes.h; included once by the source of each instruction set.
 *
 * Queries are taken a tile at a time, so that each load (and conversion) of keys and values serves all of them; the
 * tile's scores lie in the scratch rows, in logical order. Keys come in vectors of 16 slots of a page (K is stored
 * transposed), values in vectors of 16 floats of the head. A tile first walks the pages up to its longest prefix:
 * what that writes past a shorter prefix is overwritten by the tail or never read. Values are summed for the whole
 * tile up to its shortest prefix, and then for each query alone; sums wait in `out` between these spans, which does not
 * round. Slots of a tail are single columns of their pages and are computed several at a time, one chain each.
 */
#ifndef OTTER_ENGINE_CPU_ATTENTION_KERNEL_H
#define OTTER_ENGINE_CPU_ATTENTION_KERNEL_H

#include "engine/cpu/vector-kernels.h"

#ifdef OT_LANES

typedef struct attn_tile {
    const ot_attn_group *group;
    uint32_t first, n; /* queries */
} attn_tile;

OT_INLINE v16 kv_vector(const uint8_t *base, size_t i, bool half)
{
    return half ? v16_load_f16((const uint16_t *)(const void *)base + i) : v16_load((const float *)(const void *)base + i);
}

OT_INLINE float kv_scalar(const uint8_t *base, size_t i, bool half)
{
    if (!half)
        return ((const float *)(const void *)base)[i];
    return _cvtsh_ss(((const uint16_t *)(const void *)base)[i]);
}

OT_INLINE float *tile_scores(const attn_tile *t, uint32_t i)
{
    return t->group->scratch + (t->first + i) * t->group->scratch_stride;
}

/* Where the next page's K or V lies no prefetcher of the processor can know, so who reads elements [i, i + 16 n) of a page asks for
 * those of the next. Into the second cache: a core has far more misses under way there than in the first one. Over 4,096 keys in
 * memory three queries read 9 GB/s on a thread without this, 11 through the first cache, 16 through the second (Zen 4). */
OT_INLINE void prefetch_vectors(const uint8_t *next, size_t i, int n, bool half)
{
    OT_UNROLL for (int j = 0; j < n; j += half ? 2 : 1)
        __builtin_prefetch(next + (i + 16 * (size_t)j) * (half ? sizeof(uint16_t) : sizeof(float)), 0, 2);
}

/* ---- Scores ---------------------------------------------------------------------------------------------- */

/* The scores of n_q queries for OT_SCORE_VECTORS x 16 slots of one page, from slot `at` on; `next` is the next page's K. */
OT_INLINE void score_vectors(const float *const *q, float *const *dst, const uint8_t *k, const uint8_t *next, uint32_t at,
                             uint32_t head_dim, float scale, uint32_t n_q, bool half)
{
    v16 sum[OT_SCORE_QUERIES][OT_SCORE_VECTORS];
    OT_UNROLL for (uint32_t i = 0; i < n_q; i++)
        OT_UNROLL for (int j = 0; j < OT_SCORE_VECTORS; j++)
            sum[i][j] = v16_zero();
    for (uint32_t d = 0; d < head_dim; d++) {
        v16 key[OT_SCORE_VECTORS];
        prefetch_vectors(next, (size_t)d * OT_PAGE_TOKENS + at, OT_SCORE_VECTORS, half);
        OT_UNROLL for (int j = 0; j < OT_SCORE_VECTORS; j++)
            key[j] = kv_vector(k, (size_t)d * OT_PAGE_TOKENS + at + 16 * j, half);
        OT_UNROLL for (uint32_t i = 0; i < n_q; i++)
            OT_UNROLL for (int j = 0; j < OT_SCORE_VECTORS; j++)
                sum[i][j] = v16_fma(v16_set1(q[i][d]), key[j], sum[i][j]);
    }
    OT_UNROLL for (uint32_t i = 0; i < n_q; i++)
        OT_UNROLL for (int j = 0; j < OT_SCORE_VECTORS; j++)
            v16_store(dst[i] + at + 16 * j, v16_mul(sum[i][j], v16_set1(scale)));
}

OT_INLINE void score_pages(const attn_tile *t, uint32_t n_pages, uint32_t n_q, bool half)
{
    const ot_attn_group *g = t->group;
    const float *q[OT_SCORE_QUERIES];
    float *dst[OT_SCORE_QUERIES];
    OT_UNROLL for (uint32_t i = 0; i < n_q; i++) {
        q[i] = g->q[t->first + i];
        dst[i] = tile_scores(t, i);
    }
    for (uint32_t page = 0; page < n_pages; page++) {
        const uint8_t *k = g->units[page] + g->k_offset, *next = g->units[page + 1 < n_pages ? page + 1 : page] + g->k_offset;
        for (uint32_t at = 0; at < OT_PAGE_TOKENS; at += 16 * OT_SCORE_VECTORS)
            score_vectors(q, dst, k, next, at, g->head_dim, g->scale, n_q, half);
        OT_UNROLL for (uint32_t i = 0; i < n_q; i++)
            dst[i] += OT_PAGE_TOKENS;
    }
}

/* Slots of tails: (query, slot) pairs, CHAINS at a time. */
enum { CHAINS = 8 };
typedef struct tail_chains {
    uint32_t n;
    const float *q[CHAINS];
    const uint8_t *k[CHAINS]; /* the slot's column */
    float *dst[CHAINS];
} tail_chains;

OT_INLINE void run_chains(tail_chains *c, uint32_t head_dim, float scale, bool half)
{
    float sum[CHAINS] = {0};
    for (uint32_t i = c->n; i < CHAINS && c->n > 0; i++) { /* idle chains repeat the first */
        c->q[i] = c->q[0];
        c->k[i] = c->k[0];
    }
    for (uint32_t d = 0; d < head_dim && c->n > 0; d++)
        OT_UNROLL for (int i = 0; i < CHAINS; i++)
            sum[i] = __builtin_fmaf(c->q[i][d], kv_scalar(c->k[i], (size_t)d * OT_PAGE_TOKENS, half), sum[i]);
    for (uint32_t i = 0; i < c->n; i++)
        *c->dst[i] = sum[i] * scale;
    c->n = 0;
}

OT_INLINE void score_tails(const attn_tile *t, bool half)
{
    const ot_attn_group *g = t->group;
    size_t element = half ? sizeof(uint16_t) : sizeof(float);
    tail_chains c = {.n = 0};
    for (uint32_t i = 0; i < t->n; i++) {
        for (uint32_t j = 0; j < g->n_tail[t->first + i]; j++) {
            uint32_t slot = g->tail[t->first + i][j];
            c.q[c.n] = g->q[t->first + i];
            c.k[c.n] = g->units[slot / OT_PAGE_TOKENS] + g->k_offset + slot % OT_PAGE_TOKENS * element;
            c.dst[c.n] = tile_scores(t, i) + g->n_prefix[t->first + i] + j;
            if (++c.n == CHAINS)
                run_chains(&c, g->head_dim, g->scale, half);
        }
    }
    run_chains(&c, g->head_dim, g->scale, half);
}

static __attribute__((noinline)) void score_tails_f16(const attn_tile *t)
{
    score_tails(t, true);
}

static __attribute__((noinline)) void score_tails_f32(const attn_tile *t)
{
    score_tails(t, false);
}

/* Scores to weights exp(s - max); returns their sum. */
static float softmax_weights(float *score, uint32_t n)
{
    float max = lanes_max(score, n);
    v16 sum = v16_zero();
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16 p = v16_exp(v16_sub(v16_load(score + i), v16_set1(max)));
        v16_store(score + i, p);
        sum = v16_add(sum, p);
    }
    if (i < n) {
        v16 p = v16_exp(v16_sub(v16_load_n(score + i, n - i), v16_set1(max)));
        v16_store_n(score + i, p, n - i);
        sum = v16_first_of(v16_add(sum, p), sum, n - i);
    }
    return v16_fold(sum);
}

/* ---- Values ---------------------------------------------------------------------------------------------- */

/* The slots [begin, end), whose weights for query i are weight[i][0 ..]. */
typedef struct span {
    uint32_t begin, end;
} span;

/* out[i][0 .. 16 n_v) += weights of a span times its values, for n_q queries. `v_at` is the byte offset of the first of the
 * 16 n_v floats within slot 0 of a page. */
OT_INLINE void value_vectors(const attn_tile *t, float *const *out, const float *const *weight, span keys,
                             size_t v_at, uint32_t n_q, int n_v, bool half)
{
    const ot_attn_group *g = t->group;
    v16 sum[OT_VALUE_QUERIES][OT_VALUE_VECTORS];
    OT_UNROLL for (uint32_t i = 0; i < n_q; i++)
        OT_UNROLL for (int j = 0; j < n_v; j++)
            sum[i][j] = v16_load(out[i] + 16 * j);
    for (uint32_t s = keys.begin; s < keys.end;) {
        const uint32_t page = s / OT_PAGE_TOKENS;
        uint32_t stop = (page + 1) * OT_PAGE_TOKENS;
        const uint8_t *v = g->units[page] + v_at, *next = g->units[stop < keys.end ? page + 1 : page] + v_at;
        for (stop = stop < keys.end ? stop : keys.end; s < stop; s++) {
            const size_t at = (size_t)(s % OT_PAGE_TOKENS) * g->head_dim;
            v16 value[OT_VALUE_VECTORS];
            prefetch_vectors(next, at, n_v, half);
            OT_UNROLL for (int j = 0; j < n_v; j++)
                value[j] = kv_vector(v, at + 16 * j, half);
            OT_UNROLL for (uint32_t i = 0; i < n_q; i++) {
                v16 p = v16_set1(weight[i][s - keys.begin]);
                OT_UNROLL for (int j = 0; j < n_v; j++)
                    sum[i][j] = v16_fma(p, value[j], sum[i][j]);
            }
        }
    }
    OT_UNROLL for (uint32_t i = 0; i < n_q; i++)
        OT_UNROLL for (int j = 0; j < n_v; j++)
            v16_store(out[i] + 16 * j, sum[i][j]);
}

/* The last head_dim % 16 floats of a head, where there are any. */
OT_INLINE void value_rest(const attn_tile *t, uint32_t i, const float *weight, span keys, bool half)
{
    const ot_attn_group *g = t->group;
    float *out = g->out[t->first + i];
    for (uint32_t d = g->head_dim / 16 * 16; d < g->head_dim; d++)
        for (uint32_t s = keys.begin; s < keys.end; s++)
            out[d] = __builtin_fmaf(weight[s - keys.begin],
                                    kv_scalar(g->units[s / OT_PAGE_TOKENS] + g->v_offset,
                                              (size_t)(s % OT_PAGE_TOKENS) * g->head_dim + d, half),
                                    out[d]);
}

/* Adds a span to the sums of queries [i, i + n_q) of the tile. */
OT_INLINE void value_span(const attn_tile *t, uint32_t i, const float *const *weight, span keys,
                          uint32_t n_q, bool half)
{
    const ot_attn_group *g = t->group;
    size_t element = half ? sizeof(uint16_t) : sizeof(float);
    float *out[OT_VALUE_QUERIES];
    uint32_t d = 0;
    OT_UNROLL for (uint32_t k = 0; k < n_q; k++)
        out[k] = g->out[t->first + i + k];
    for (; d + 16 * OT_VALUE_VECTORS <= g->head_dim; d += 16 * OT_VALUE_VECTORS) {
        value_vectors(t, out, weight, keys, g->v_offset + d * element, n_q, OT_VALUE_VECTORS, half);
        OT_UNROLL for (uint32_t k = 0; k < n_q; k++)
            out[k] += 16 * OT_VALUE_VECTORS;
    }
    for (; OT_VALUE_VECTORS > 1 && d + 16 <= g->head_dim; d += 16) {
        value_vectors(t, out, weight, keys, g->v_offset + d * element, n_q, 1, half);
        OT_UNROLL for (uint32_t k = 0; k < n_q; k++)
            out[k] += 16;
    }
    for (uint32_t k = 0; k < n_q && d < g->head_dim; k++)
        value_rest(t, i + k, weight[k], keys, half);
}

/* One query's span: not inlined, since it is the same code for every tile size. */
static __attribute__((noinline)) void value_span_f16(const attn_tile *t, uint32_t i, const float *weight, span keys)
{
    value_span(t, i, &weight, keys, 1, true);
}

static __attribute__((noinline)) void value_span_f32(const attn_tile *t, uint32_t i, const float *weight, span keys)
{
    value_span(t, i, &weight, keys, 1, false);
}

OT_INLINE void sum_values(const attn_tile *t, uint32_t common, uint32_t n_q, bool half)
{
    const ot_attn_group *g = t->group;
    void (*const alone)(const attn_tile *, uint32_t, const float *, span) = half ? value_span_f16 : value_span_f32;
    const float *weight[OT_VALUE_QUERIES];
    OT_UNROLL for (uint32_t i = 0; i < n_q; i++)
        weight[i] = tile_scores(t, i);
    if (n_q > 1)
        value_span(t, 0, weight, (span){0, common}, n_q, half);
    else
        alone(t, 0, weight[0], (span){0, common});
    for (uint32_t i = 0; i < n_q; i++) {
        const uint32_t q = t->first + i;
        if (common < g->n_prefix[q])
            alone(t, i, weight[i] + common, (span){common, g->n_prefix[q]});
        for (uint32_t j = 0; j < g->n_tail[q]; j++)
            alone(t, i, weight[i] + g->n_prefix[q] + j, (span){g->tail[q][j], g->tail[q][j] + 1});
    }
}

static void divide(float *out, float z, uint32_t head_dim)
{
    const v16 inv = v16_set1(1.0f / z);
    uint32_t d = 0;
    for (; d + 16 <= head_dim; d += 16)
        v16_store(out + d, v16_mul(v16_load(out + d), inv));
    if (d < head_dim)
        v16_store_n(out + d, v16_mul(v16_load_n(out + d, head_dim - d), inv), head_dim - d);
}

/* ---- A tile ---------------------------------------------------------------------------------------------- */

OT_INLINE void attend_tile(const attn_tile *t, uint32_t n_q, bool half)
{
    const ot_attn_group *g = t->group;
    uint32_t shortest = UINT32_MAX, longest = 0;
    float z[OT_VALUE_QUERIES];
    for (uint32_t i = 0; i < n_q; i++) {
        uint32_t n = g->n_prefix[t->first + i];
        shortest = n < shortest ? n : shortest;
        longest = n > longest ? n : longest;
    }
    score_pages(t, (longest + OT_PAGE_TOKENS - 1) / OT_PAGE_TOKENS, n_q, half);
    if (half)
        score_tails_f16(t);
    else
        score_tails_f32(t);
    for (uint32_t i = 0; i < n_q; i++) {
        uint32_t q = t->first + i;
        z[i] = softmax_weights(tile_scores(t, i), g->n_prefix[q] + g->n_tail[q]);
        memset(g->out[q], 0, g->head_dim * sizeof(float));
    }
    sum_values(t, shortest, n_q, half);
    for (uint32_t i = 0; i < n_q; i++) {
        uint32_t q = t->first + i;
        if (g->n_prefix[q] + g->n_tail[q] > 0) /* else out stays 0 */
            divide(g->out[q], z[i], g->head_dim);
    }
}

/* The tile sizes that are compiled; 3 heads on a key is common. */
OT_INLINE void attend_group(const ot_attn_group *g, bool half)
{
    _Static_assert(OT_VALUE_QUERIES == 6 && OT_SCORE_QUERIES >= 6, "the sizes below");
    attn_tile t = {.group = g};
    for (; t.first < g->n_queries; t.first += t.n) {
        uint32_t left = g->n_queries - t.first;
        t.n = left >= 6 ? 6 : left == 5 ? 4 : left;
        switch (t.n) {
        case 6: attend_tile(&t, 6, half); break;
        case 4: attend_tile(&t, 4, half); break;
        case 3: attend_tile(&t, 3, half); break;
        case 2: attend_tile(&t, 2, half); break;
        default: attend_tile(&t, 1, half); break;
        }
    }
}

static void attention_f16(const ot_attn_group *g)
{
    attend_group(g, true);
}

static void attention_f32(const ot_attn_group *g)
{
    attend_group(g, false);
}

static void lanes_attention(const ot_attn_group *g)
{
    if (g->kv_type == OT_KV_F16)
        attention_f16(g);
    else
        attention_f32(g);
}

#endif
#endif
