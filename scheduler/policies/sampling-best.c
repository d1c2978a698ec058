/* The k best tokens. A block of logits whose maximum is below the k-th largest block maximum cannot hold one of them, so the costly pass
 * runs on the kernels' vectors. A few tokens are sorted by a binary heap, many by their digits; neither has a bad case that
 * a client could ask for. */
#include "scheduler/policies/sampler.h"

#include <math.h>

#include "base/float-bits.h"

#define HEAP_MAX 256 /* more are sorted by digits */

/* The order of choice: higher logit first, then lower id. */
static bool better(const float *logits, int32_t a, int32_t b)
{
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

/* Restores a heap of n ids whose root is the worst, after its root changed. */
static void sift_down(const float *logits, int32_t *heap, uint32_t n)
{
    uint32_t at = 0;
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= n)
            return;
        if (child + 1 < n && better(logits, heap[child], heap[child + 1]))
            child++;
        if (better(logits, heap[child], heap[at]))
            return;
        int32_t t = heap[at];
        heap[at] = heap[child];
        heap[child] = t;
        at = child;
    }
}

static void heap_push(const float *logits, int32_t *heap, uint32_t n, int32_t id)
{
    uint32_t at = n;
    while (at > 0 && better(logits, heap[(at - 1) / 2], id)) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = id;
}

/* Puts a heap of n ids in order, best first. */
static void unheap(const float *logits, int32_t *ids, uint32_t n)
{
    for (uint32_t left = n; left > 1; left--) { /* the worst to the end, again and again */
        int32_t t = ids[0];
        ids[0] = ids[left - 1];
        ids[left - 1] = t;
        sift_down(logits, ids, left - 1);
    }
}

void ot_sampler_sort(const float *logits, int32_t *ids, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++)
        heap_push(logits, ids, i, ids[i]);
    unheap(logits, ids, n);
}

/* Same on floats, least at the root: keeps the k largest. */
static void keep_largest(float *heap, uint32_t *n, uint32_t k, float value)
{
    uint32_t at;
    if (*n < k) {
        at = (*n)++;
        while (at > 0 && heap[(at - 1) / 2] > value) {
            heap[at] = heap[(at - 1) / 2];
            at = (at - 1) / 2;
        }
        heap[at] = value;
        return;
    }
    if (!(value > heap[0]))
        return;
    for (at = 0;;) {
        uint32_t child = 2 * at + 1;
        if (child >= k)
            break;
        if (child + 1 < k && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= value)
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = value;
}

/* The k-th largest block maximum: at least k logits are no smaller. -inf if there are fewer blocks. Fills s->block. */
static float kth_block_max(ot_sampler *s, const float *logits, uint32_t k)
{
    uint32_t n = 0;
    for (uint32_t b = 0; b < s->n_blocks; b++) {
        s->block[b] = s->kernels->max(logits + (size_t)b * OT_SAMPLER_BLOCK, ot_sampler_block_size(s, b));
        if (k <= s->n_blocks)
            keep_largest(s->heap, &n, k, s->block[b]);
    }
    return k <= s->n_blocks ? s->heap[0] : -INFINITY;
}

/* Sorts by the upper 32 bits, stably, 11 bits at a time. Returns which of the two buffers holds the result. */
static int sort_by_digits(uint64_t *const keys[2], uint32_t n)
{
    int from = 0;
    for (int shift = 32; shift < 64; shift += 11) {
        uint32_t starts[2049] = {0};
        for (uint32_t i = 0; i < n; i++)
            starts[(keys[from][i] >> shift & 2047) + 1]++;
        for (int d = 0; d < 2048; d++)
            starts[d + 1] += starts[d];
        for (uint32_t i = 0; i < n; i++)
            keys[1 - from][starts[keys[from][i] >> shift & 2047]++] = keys[from][i];
        from = 1 - from;
    }
    return from;
}

/* Unsigned numbers in the opposite order of floats. */
static uint32_t descending_key(float x)
{
    const uint32_t bits = ot_float_to_bits(x + 0.0f); /* -0 is no less than 0 */
    return bits >> 31 ? bits : ~bits & 0x7fffffffu;
}

static uint32_t top_by_digits(ot_sampler *s, const float *logits, uint32_t k, int32_t *tokens)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_vocab; i++)
        if (logits[i] > -INFINITY)
            s->keys[0][n++] = (uint64_t)descending_key(logits[i]) << 32 | i;
    const uint64_t *sorted = s->keys[sort_by_digits(s->keys, n)];
    n = n < k ? n : k;
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(uint32_t)sorted[i];
    return n;
}

static uint32_t top_by_heap(ot_sampler *s, const float *logits, uint32_t k, int32_t *tokens)
{
    float floor = kth_block_max(s, logits, k);
    uint32_t n = 0;
    for (uint32_t b = 0; b < s->n_blocks; b++) {
        if (!(s->block[b] >= floor))
            continue;
        uint32_t end = b * OT_SAMPLER_BLOCK + ot_sampler_block_size(s, b);
        for (uint32_t i = b * OT_SAMPLER_BLOCK; i < end; i++) {
            if (!(logits[i] >= floor) || logits[i] == -INFINITY)
                continue;
            if (n < k) {
                heap_push(logits, tokens, n++, (int32_t)i);
            } else if (better(logits, (int32_t)i, tokens[0])) {
                tokens[0] = (int32_t)i;
                sift_down(logits, tokens, n);
            }
        }
    }
    unheap(logits, tokens, n);
    return n;
}

uint32_t ot_sampler_top(ot_sampler *s, const float *logits, uint32_t k, int32_t *tokens)
{
    if (k > s->n_vocab)
        k = s->n_vocab;
    if (k == 0)
        return 0;
    return k <= HEAP_MAX ? top_by_heap(s, logits, k, tokens) : top_by_digits(s, logits, k, tokens);
}
