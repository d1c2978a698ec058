/* From logits to tokens: log-softmax, the k best, penalties, filters and draws.
 *
 * Every function here depends on one row of logits, the request's parameters and the text so far, never on other rows,
 * and ties always go to the lower token id: so a token is a function of the request alone.
 *
 * The order of the parameters is vLLM's: repetition, frequency and presence penalties, logit_bias, the min_tokens mask and
 * that of a grammar change the logits; temperature divides them; min_p, then top_k, then top_p (over what is left, renormalised)
 * narrow the set; then one draw.
 */
#ifndef OTTER_SCHEDULER_POLICIES_SAMPLING_H
#define OTTER_SCHEDULER_POLICIES_SAMPLING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/kernels.h"
#include "scheduler/scheduler.h"

/* Workspace for one vocabulary; belongs to one thread. */
typedef struct ot_sampler ot_sampler;
ot_status ot_sampler_open(ot_sampler **out, const ot_kernels *kernels, uint32_t n_vocab, ot_error *err);
void ot_sampler_close(ot_sampler **sampler);

/* log p(v) = (logits[v] - max) - log_sum. */
typedef struct ot_log_norm {
    float max, log_sum;
} ot_log_norm;
ot_log_norm ot_sampler_normalize(ot_sampler *s, const float *logits);
static inline float ot_log_prob(ot_log_norm norm, const float *logits, int32_t token)
{
    return (logits[token] - norm.max) - norm.log_sum;
}

/* The k largest logits, best first, ties by lower id; -inf and NaN are never among them. Returns how many there are. */
uint32_t ot_sampler_top(ot_sampler *s, const float *logits, uint32_t k, int32_t *tokens);

/* What changes the logits before anything is chosen. */
typedef struct ot_adjust {
    const ot_sampling *sampling;
    const int32_t *text;       /* prompt and generated tokens */
    uint32_t n_prompt, n_text;
    const int32_t *banned[2];  /* tokens that may not come now: end of text and stop tokens before min_tokens */
    uint32_t n_banned[2];
    const uint64_t *allowed;   /* (n_vocab bits) tokens that a grammar lets come; NULL: all */
} ot_adjust;
/* Returns logits itself where nothing changes, else a changed copy in the workspace (valid until the next call). */
const float *ot_sampler_adjust(ot_sampler *s, const float *logits, const ot_adjust *adjust);

/* Makes every token impossible in `out` (-inf) that lies outside the top-p nucleus of softmax(logits): the most likely tokens that
 * hold the mass top_p together, ties by lower id; at least one. */
void ot_sampler_keep_nucleus(ot_sampler *s, const float *logits, float top_p, float *out);
/* False if all logits are -inf: a ban or a nucleus has left nothing. */
bool ot_sampler_has_choice(const ot_sampler *s, const float *logits);

/* Identifies a draw. */
typedef struct ot_draw {
    uint64_t seed;
    uint32_t choice, position;
} ot_draw;

/* Picks n distinct tokens in the order in which they would be taken: the first is the sample; each further one is a new draw
 * with the earlier ones taken out (at temperature 0: the next best). Once the filtered set is used up, the next
 * best tokens outside it follow. Returns how many there are (n, unless the vocabulary is used up). n <= OT_MAX_CANDIDATES. */
uint32_t ot_sampler_pick(ot_sampler *s, const float *logits, const ot_sampling *p, ot_draw draw, uint32_t n,
                         int32_t *tokens);

/* How many of the n best tokens of the row min_p, top_k and top_p leave; at least one. What they leave is ordered as the n are. */
uint32_t ot_sampler_filter(ot_sampler *s, const float *logits, const ot_sampling *p, uint32_t n);

#endif
