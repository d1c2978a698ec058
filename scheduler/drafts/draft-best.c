/* The best tokens of what a head guesses, in one pass over its values: base logits, times the head's residual, and values are added a block at a time, and while
 * the block is in the nearest cache its maximum says whether a best token may be in it, and its exponentials join the sum that
 * makes probabilities of logits. */
#include <math.h>

#include "engine/kernels.h"
#include "scheduler/drafts/drafts.h"

#define BLOCK 256

typedef struct best_tokens {
    uint32_t n, max;
    ot_draft_guess *best; /* (max) in order: higher logit first, then lower id; logits in the place of log-probabilities so far */
} best_tokens;

static bool has_room_for(const best_tokens *b, float logit)
{
    return logit > -INFINITY && (b->n < b->max || logit > b->best[b->max - 1].logprob);
}

/* Tokens come in the order of their ids. */
static void insert(best_tokens *b, int32_t token, float logit)
{
    uint32_t at = b->n < b->max ? b->n++ : b->max - 1;
    for (; at > 0 && logit > b->best[at - 1].logprob; at--)
        b->best[at] = b->best[at - 1];
    b->best[at] = (ot_draft_guess){token, logit};
}

uint32_t ot_draft_best(const ot_kernels *kernels, const float *base, float residual, float *values, uint32_t n, uint32_t n_best,
                       ot_draft_guess *best)
{
    best_tokens b = {.max = n_best, .best = best};
    float shift = -INFINITY, sum = 0;
    for (uint32_t begin = 0; begin < n; begin += BLOCK) {
        const uint32_t end = begin + BLOCK < n ? begin + BLOCK : n;
        kernels->axpy(values + begin, base + begin, residual, end - begin);
        const float max = kernels->max(values + begin, end - begin);
        if (!(max > -INFINITY))
            continue;
        if (max > shift) {
            sum *= expf(shift - max);
            shift = max;
        }
        sum += kernels->sum_exp(values + begin, end - begin, shift);
        for (uint32_t i = begin; has_room_for(&b, max) && i < end; i++)
            if (has_room_for(&b, values[i]))
                insert(&b, (int32_t)i, values[i]);
    }
    const float log_sum = shift + logf(sum);
    for (uint32_t i = 0; i < b.n; i++)
        best[i].logprob -= log_sum;
    return b.n;
}
