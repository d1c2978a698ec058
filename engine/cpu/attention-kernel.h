/* Attention of a group of queries over pages, on lanes.h; included once by the source of each instruction set. Scores, weights and
 * values are three steps: `attention` takes them for one tile after the other, threads that share a text for the whole group.
 *
 * Queries are taken a tile at a time, so that each load (and conversion) of keys and values serves all of them; the
 * tile's scores lie in the scratch rows, in logical order. Keys come in vectors of 16 slots of a page (K is stored
 * transposed), values in vectors of 16 floats of the head. A tile first walks the pages up to its longest prefix:
 * what that writes past a shorter prefix is overwritten by the tail or never read. Values are summed, a few vectors of columns at
 * a time, for the whole tile up to its shortest prefix, and then for each query alone; the sums of the chunk under way wait in
 * memory between these spans, which does not round, and join `out` where the chunk ends. In a prefix that is always the end of a
 * page. Slots of a tail are single columns of their pages and are scored several at a time, one chain each.
 */
#ifndef OTTER_ENGINE_CPU_ATTENTION_KERNEL_H
#define OTTER_ENGINE_CPU_ATTENTION_KERNEL_H

#include "engine/cpu/attention-chunks.h"
#include "engine/cpu/vector-kernels.h"

#ifdef OT_LANES

_Static_assert(OT_ATTN_CHUNK % OT_PAGE_TOKENS == 0, "chunks of a prefix end with pages");

typedef struct span {
    uint32_t begin, end;
} span;

typedef struct attn_tile {
    const ot_attn_group *group;
    uint32_t first, n; /* queries */
    span columns;      /* those of the head whose values are summed */
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
    return ot_query_scores(t->group, t->first + i);
}

/* Where a text's next pages lie no prefetcher of the processor can know, so who reads elements [i, i + 16 n) of a page asks for those of
 * the page after the next: where only some columns are read, the time that one page takes is shorter than memory's. Into the second
 * cache: a core has far more misses under way there than in the first one. Over 4,096 keys in memory three queries read
 * 9 GB/s on a thread without this, 11 through the first cache, 16 through the second (Zen 4). */
enum { PAGES_AHEAD = 2 };

OT_INLINE void prefetch_vectors(const uint8_t *next, size_t i, int n, bool half)
{
    OT_UNROLL for (int j = 0; j < n; j += half ? 2 : 1)
        __builtin_prefetch(next + (i + 16 * (size_t)j) * (half ? sizeof(uint16_t) : sizeof(float)), 0, 2);
}

/* ---- Scores ---------------------------------------------------------------------------------------------- */

/* Pages that are scored together, where registers suffice: a query's element then serves more keys. */
enum { SCORE_PAGES = OT_SCORE_VECTORS > 1 ? 2 : 1 };

/* The scores of n_q queries for OT_SCORE_VECTORS x 16 slots, from slot `at` on, of each of n_pages pages: k are their keys, next those to
 * ask for. */
OT_INLINE void score_vectors(const float *const *q, float *const *dst, const uint8_t *const *k, const uint8_t *const *next, uint32_t at,
                             uint32_t head_dim, float scale, uint32_t n_q, int n_pages, bool half)
{
    v16 sum[OT_SCORE_QUERIES][SCORE_PAGES * OT_SCORE_VECTORS];
    const int n = n_pages * OT_SCORE_VECTORS;
    OT_UNROLL for (uint32_t i = 0; i < n_q; i++)
        OT_UNROLL for (int j = 0; j < n; j++)
            sum[i][j] = v16_zero();
    for (uint32_t d = 0; d < head_dim; d++) {
        const size_t slot = (size_t)d * OT_PAGE_TOKENS + at;
        v16 key[SCORE_PAGES * OT_SCORE_VECTORS];
        OT_UNROLL for (int p = 0; p < n_pages; p++)
            prefetch_vectors(next[p], slot, OT_SCORE_VECTORS, half);
        OT_UNROLL for (int j = 0; j < n; j++)
            key[j] = kv_vector(k[j / OT_SCORE_VECTORS], slot + 16 * (size_t)(j % OT_SCORE_VECTORS), half);
        OT_UNROLL for (uint32_t i = 0; i < n_q; i++)
            OT_UNROLL for (int j = 0; j < n; j++)
                sum[i][j] = v16_fma(v16_set1(q[i][d]), key[j], sum[i][j]);
    }
    OT_UNROLL for (uint32_t i = 0; i < n_q; i++)
        OT_UNROLL for (int j = 0; j < n; j++)
            v16_store(dst[i] + j / OT_SCORE_VECTORS * OT_PAGE_TOKENS + at + 16 * (j % OT_SCORE_VECTORS),
                      v16_mul(sum[i][j], v16_set1(scale)));
}

/* n_pages pages from `page` on, out of those before `end`. */
OT_INLINE void score_page_run(const attn_tile *t, uint32_t page, uint32_t end, uint32_t n_q, int n_pages, bool half)
{
    const ot_attn_group *g = t->group;
    const float *q[OT_SCORE_QUERIES];
    float *dst[OT_SCORE_QUERIES];
    const uint8_t *k[SCORE_PAGES], *next[SCORE_PAGES];
    OT_UNROLL for (uint32_t i = 0; i < n_q; i++) {
        q[i] = g->q[t->first + i];
        dst[i] = tile_scores(t, i) + (size_t)page * OT_PAGE_TOKENS;
    }
    OT_UNROLL for (int p = 0; p < n_pages; p++) {
        const uint32_t at = page + (uint32_t)p;
        k[p] = ot_attn_unit(g, at) + g->k_offset;
        next[p] = at + PAGES_AHEAD < end ? ot_attn_unit(g, at + PAGES_AHEAD) + g->k_offset : k[p];
    }
    for (uint32_t at = 0; at < OT_PAGE_TOKENS; at += 16 * OT_SCORE_VECTORS)
        score_vectors(q, dst, k, next, at, g->head_dim, g->scale, n_q, n_pages, half);
}

OT_INLINE void score_pages(const attn_tile *t, span pages, uint32_t n_q, bool half)
{
    uint32_t page = pages.begin;
    for (; SCORE_PAGES > 1 && page + SCORE_PAGES <= pages.end; page += SCORE_PAGES)
        score_page_run(t, page, pages.end, n_q, SCORE_PAGES, half);
    for (; page < pages.end; page++)
        score_page_run(t, page, pages.end, n_q, 1, half);
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
            c.k[c.n] = ot_attn_unit(g, slot / OT_PAGE_TOKENS) + g->k_offset + slot % OT_PAGE_TOKENS * element;
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

/* The scores of one chunk to weights exp(s - max); returns their sum. */
OT_INLINE float weigh_chunk(float *score, uint32_t n, float max)
{
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

/* Weights in the place of query i's scores, and the factors of its chunks; returns z. All maxima come first: so chunks do not wait for
 * one another's. */
static float weigh_query(const ot_attn_group *g, uint32_t i)
{
    const uint32_t n_keys = ot_query_keys(g, i), n_chunks = ot_chunk_count(n_keys);
    float *score = ot_query_scores(g, i), *factor = ot_chunk_factors(g, i), *sum = factor + n_chunks, z = 0.0f;
    ot_finish_scores(g, i);
    for (uint32_t c = 0; c < n_chunks; c++) {
        const uint32_t begin = c * OT_ATTN_CHUNK;
        factor[c] = lanes_max(score + begin, n_keys - begin < OT_ATTN_CHUNK ? n_keys - begin : OT_ATTN_CHUNK);
    }
    for (uint32_t c = 0; c < n_chunks; c++) {
        const uint32_t begin = c * OT_ATTN_CHUNK;
        sum[c] = weigh_chunk(score + begin, n_keys - begin < OT_ATTN_CHUNK ? n_keys - begin : OT_ATTN_CHUNK, factor[c]);
    }
    const v16 max = v16_set1(lanes_max(factor, n_chunks));
    for (uint32_t c = 0; c < n_chunks; c += 16) {
        const uint32_t n = n_chunks - c < 16 ? n_chunks - c : 16;
        v16_store_n(factor + c, v16_exp(v16_sub(v16_load_n(factor + c, n), max)), n);
    }
    for (uint32_t c = 0; c < n_chunks; c++)
        z = __builtin_fmaf(factor[c], sum[c], z);
    return z;
}

/* ---- Values ---------------------------------------------------------------------------------------------- */

/* Sums of a few vectors of columns, those at `out`, for each query of a tile: chunk is what the chunk under way has come to. */
typedef struct value_sums {
    const attn_tile *tile;
    size_t v_at; /* the byte offset of the first column within slot 0 of a page */
    float *out[OT_VALUE_QUERIES];
    const float *factor[OT_VALUE_QUERIES];
    float chunk[OT_VALUE_QUERIES][16 * OT_VALUE_VECTORS];
} value_sums;

/* Chunk c of query i is complete. */
OT_INLINE void join_chunk(const value_sums *s, uint32_t i, const v16 *sum, uint32_t c, int n_v)
{
    const v16 factor = v16_set1(s->factor[i][c]);
    OT_UNROLL for (int j = 0; j < n_v; j++)
        v16_store(s->out[i] + 16 * j, v16_fma(factor, sum[j], v16_load(s->out[i] + 16 * j)));
}

/* The slots of a span, times their weights, for queries [i, i + n_q) of the tile. They are the keys from the at-th on in logical order;
 * either one slot, or slots of the prefix. */
OT_INLINE void value_span(value_sums *s, uint32_t i, span slots, uint32_t at, uint32_t n_q, int n_v, bool half)
{
    const ot_attn_group *g = s->tile->group;
    const float *weight[OT_VALUE_QUERIES];
    v16 sum[OT_VALUE_QUERIES][OT_VALUE_VECTORS];
    OT_UNROLL for (uint32_t k = 0; k < n_q; k++) {
        weight[k] = tile_scores(s->tile, i + k) + at;
        OT_UNROLL for (int j = 0; j < n_v; j++)
            sum[k][j] = v16_load(s->chunk[i + k] + 16 * j);
    }
    for (uint32_t slot = slots.begin; slot < slots.end;) {
        const uint32_t page = slot / OT_PAGE_TOKENS;
        uint32_t stop = (page + 1) * OT_PAGE_TOKENS;
        const uint8_t *v = ot_attn_unit(g, page) + s->v_at, *next = v;
        if (page + PAGES_AHEAD <= (slots.end - 1) / OT_PAGE_TOKENS)
            next = ot_attn_unit(g, page + PAGES_AHEAD) + s->v_at;
        for (stop = stop < slots.end ? stop : slots.end; slot < stop; slot++) {
            const size_t element = (size_t)(slot % OT_PAGE_TOKENS) * g->head_dim;
            v16 value[OT_VALUE_VECTORS];
            prefetch_vectors(next, element, n_v, half);
            OT_UNROLL for (int j = 0; j < n_v; j++)
                value[j] = kv_vector(v, element + 16 * j, half);
            OT_UNROLL for (uint32_t k = 0; k < n_q; k++) {
                v16 p = v16_set1(weight[k][slot - slots.begin]);
                OT_UNROLL for (int j = 0; j < n_v; j++)
                    sum[k][j] = v16_fma(p, value[j], sum[k][j]);
            }
        }
        const uint32_t done = at + (slot - slots.begin);
        if (done % OT_ATTN_CHUNK != 0)
            continue;
        OT_UNROLL for (uint32_t k = 0; k < n_q; k++) {
            join_chunk(s, i + k, sum[k], done / OT_ATTN_CHUNK - 1, n_v);
            OT_UNROLL for (int j = 0; j < n_v; j++)
                sum[k][j] = v16_zero();
        }
    }
    OT_UNROLL for (uint32_t k = 0; k < n_q; k++)
        OT_UNROLL for (int j = 0; j < n_v; j++)
            v16_store(s->chunk[i + k] + 16 * j, sum[k][j]);
}

/* What query i of the tile reads past the `common` slots that all do: the rest of its prefix, its tail, and the last chunk's end. */
OT_INLINE void value_alone(value_sums *s, uint32_t i, uint32_t common, float z, int n_v, bool half)
{
    const ot_attn_group *g = s->tile->group;
    const uint32_t q = s->tile->first + i, n_prefix = g->n_prefix[q], n_keys = ot_query_keys(g, q);
    for (uint32_t at = common; at < n_keys;) {
        const uint32_t slot = at < n_prefix ? at : g->tail[q][at - n_prefix];
        const span slots = {slot, at < n_prefix ? n_prefix : slot + 1};
        value_span(s, i, slots, at, 1, n_v, half);
        at += slots.end - slots.begin;
    }
    v16 sum[OT_VALUE_VECTORS];
    OT_UNROLL for (int j = 0; j < n_v; j++)
        sum[j] = v16_load(s->chunk[i] + 16 * j);
    if (n_keys % OT_ATTN_CHUNK != 0)
        join_chunk(s, i, sum, n_keys / OT_ATTN_CHUNK, n_v);
    const v16 inv = v16_set1(1.0f / z);
    OT_UNROLL for (int j = 0; j < n_v; j++)
        v16_store(s->out[i] + 16 * j, n_keys > 0 ? v16_mul(v16_load(s->out[i] + 16 * j), inv) : v16_zero());
}

/* n_v vectors of columns from d on, for all queries of a tile, whose sums of weights are z. */
OT_INLINE void value_columns(const attn_tile *t, uint32_t d, const float *z, int n_v, bool half)
{
    const ot_attn_group *g = t->group;
    value_sums s = {.tile = t, .v_at = g->v_offset + d * (half ? sizeof(uint16_t) : sizeof(float))};
    uint32_t common = t->n > 1 ? UINT32_MAX : 0;
    for (uint32_t i = 0; i < t->n; i++) {
        const uint32_t n_prefix = g->n_prefix[t->first + i];
        common = n_prefix < common ? n_prefix : common;
        s.out[i] = g->out[t->first + i] + d;
        s.factor[i] = ot_chunk_factors(g, t->first + i);
        OT_UNROLL for (int j = 0; j < n_v; j++) {
            v16_store(s.out[i] + 16 * j, v16_set1(-0.0f));
            v16_store(s.chunk[i] + 16 * j, v16_zero());
        }
    }
    switch (t->n) {
    case 6: value_span(&s, 0, (span){0, common}, 0, 6, n_v, half); break;
    case 4: value_span(&s, 0, (span){0, common}, 0, 4, n_v, half); break;
    case 3: value_span(&s, 0, (span){0, common}, 0, 3, n_v, half); break;
    case 2: value_span(&s, 0, (span){0, common}, 0, 2, n_v, half); break;
    default: break;
    }
    for (uint32_t i = 0; i < t->n; i++)
        value_alone(&s, i, common, z[i], n_v, half);
}

/* The last head_dim % 16 columns of a head, for query i of a tile. */
OT_INLINE void value_rest(const attn_tile *t, uint32_t i, float z, bool half)
{
    const ot_attn_group *g = t->group;
    const uint32_t q = t->first + i, n_prefix = g->n_prefix[q], n_keys = ot_query_keys(g, q);
    const float *weight = ot_query_scores(g, q), *factor = ot_chunk_factors(g, q), inv = 1.0f / z;
    for (uint32_t d = g->head_dim / 16 * 16; d < t->columns.end; d++) {
        float out = -0.0f, chunk = 0.0f;
        for (uint32_t j = 0; j < n_keys; j++) {
            const uint32_t slot = j < n_prefix ? j : g->tail[q][j - n_prefix];
            const uint8_t *v = ot_attn_unit(g, slot / OT_PAGE_TOKENS) + g->v_offset;
            chunk = __builtin_fmaf(weight[j], kv_scalar(v, (size_t)(slot % OT_PAGE_TOKENS) * g->head_dim + d, half), chunk);
            if ((j + 1) % OT_ATTN_CHUNK == 0 || j + 1 == n_keys) {
                out = __builtin_fmaf(factor[j / OT_ATTN_CHUNK], chunk, out);
                chunk = 0.0f;
            }
        }
        g->out[q][d] = n_keys > 0 ? out * inv : 0.0f;
    }
}

/* ---- A tile's steps --------------------------------------------------------------------------------------- */

/* Each step is compiled once for every size of a tile; 3 heads on a key is common. */
OT_INLINE void score_tile(const attn_tile *t, span pages, bool half)
{
    _Static_assert(OT_VALUE_QUERIES == 6 && OT_SCORE_QUERIES >= 6, "the sizes here and in value_tile");
    switch (t->n) {
    case 6: score_pages(t, pages, 6, half); break;
    case 4: score_pages(t, pages, 4, half); break;
    case 3: score_pages(t, pages, 3, half); break;
    case 2: score_pages(t, pages, 2, half); break;
    default: score_pages(t, pages, 1, half); break;
    }
}

static __attribute__((noinline)) void score_tile_f16(const attn_tile *t, span pages)
{
    score_tile(t, pages, true);
}

static __attribute__((noinline)) void score_tile_f32(const attn_tile *t, span pages)
{
    score_tile(t, pages, false);
}

/* Tails, which lie past what pages leave behind, and the weights; z[i] is query i's sum of them. */
static void weigh_tile(const attn_tile *t, float *z)
{
    if (t->group->kv_type == OT_KV_F16)
        score_tails_f16(t);
    else
        score_tails_f32(t);
    for (uint32_t i = 0; i < t->n; i++)
        z[i] = weigh_query(t->group, t->first + i);
}

/* The columns of a tile by groups of four vectors, two and one, as far as registers go. */
OT_INLINE void value_tile(const attn_tile *t, const float *z, bool half)
{
    uint32_t d = t->columns.begin;
    for (; OT_VALUE_VECTORS > 2 && d + 16 * OT_VALUE_VECTORS <= t->columns.end; d += 16 * OT_VALUE_VECTORS)
        value_columns(t, d, z, OT_VALUE_VECTORS, half);
    for (; OT_VALUE_VECTORS > 1 && d + 32 <= t->columns.end; d += 32)
        value_columns(t, d, z, 2, half);
    for (; d + 16 <= t->columns.end; d += 16)
        value_columns(t, d, z, 1, half);
    for (uint32_t i = 0; i < t->n && d < t->columns.end; i++)
        value_rest(t, i, z[i], half);
}

static __attribute__((noinline)) void value_tile_f16(const attn_tile *t, const float *z)
{
    value_tile(t, z, true);
}

static __attribute__((noinline)) void value_tile_f32(const attn_tile *t, const float *z)
{
    value_tile(t, z, false);
}

static void finish_tile(const attn_tile *t, const float *z)
{
    if (t->group->kv_type == OT_KV_F16)
        value_tile_f16(t, z);
    else
        value_tile_f32(t, z);
}

/* ---- A group ---------------------------------------------------------------------------------------------- */

/* The tile from query `first` on. */
static attn_tile tile_at(const ot_attn_group *g, uint32_t first)
{
    const uint32_t left = g->n_queries - first;
    return (attn_tile){g, first, left >= 6 ? 6 : left == 5 ? 4 : left, {0, g->head_dim}};
}

/* Pages up to the longest prefix, of those given. */
static void score_until(const attn_tile *t, span pages)
{
    uint32_t longest = 0;
    for (uint32_t i = t->first; i < t->first + t->n; i++)
        longest = t->group->n_prefix[i] > longest ? t->group->n_prefix[i] : longest;
    const uint32_t n_pages = longest / OT_PAGE_TOKENS + (longest % OT_PAGE_TOKENS != 0);
    pages.end = pages.end < n_pages ? pages.end : n_pages;
    if (t->group->kv_type == OT_KV_F16)
        score_tile_f16(t, pages);
    else
        score_tile_f32(t, pages);
}

static void lanes_attention(const ot_attn_group *g)
{
    float z[OT_VALUE_QUERIES];
    for (uint32_t first = 0; first < g->n_queries;) {
        const attn_tile t = tile_at(g, first);
        score_until(&t, (span){0, UINT32_MAX});
        weigh_tile(&t, z);
        finish_tile(&t, z);
        first += t.n;
    }
}

static void lanes_attention_scores(const ot_attn_group *g, uint32_t page_begin, uint32_t page_end)
{
    for (uint32_t first = 0; first < g->n_queries;) {
        const attn_tile t = tile_at(g, first);
        score_until(&t, (span){page_begin, page_end});
        first += t.n;
    }
}

static void lanes_attention_weights(const ot_attn_group *g, uint32_t query_begin, uint32_t query_end)
{
    const attn_tile t = {g, query_begin, query_end - query_begin, {0, 0}};
    weigh_tile(&t, g->z + query_begin);
}

static void lanes_attention_values(const ot_attn_group *g, uint32_t column_begin, uint32_t column_end)
{
    for (uint32_t first = 0; first < g->n_queries;) {
        attn_tile t = tile_at(g, first);
        t.columns = (span){column_begin, column_end};
        finish_tile(&t, g->z + first);
        first += t.n;
    }
}

#endif
#endif
