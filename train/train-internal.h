/* Inside the trainer: small things that its files share. */
#ifndef OTTER_TRAIN_TRAIN_INTERNAL_H
#define OTTER_TRAIN_TRAIN_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/memory.h"
#include "train/train.h"

/* A generator whose whole state is one number (splitmix64, Steele et al. 2014), so that any point of a run can be
 * named and entered again. */
typedef struct ot_rng { uint64_t state; } ot_rng;
/* The stream of (seed, a, b): unrelated streams for unrelated uses. */
ot_rng ot_rng_at(uint64_t seed, uint64_t a, uint64_t b);
uint64_t ot_rng_next(ot_rng *rng);
uint32_t ot_rng_below(ot_rng *rng, uint32_t n);   /* [0, n); n > 0 */
float ot_rng_uniform(ot_rng *rng);                /* [0, 1) */
float ot_rng_normal(ot_rng *rng);                 /* mean 0, variance 1 */

/* Sets rho of all heads that read tokens: how much of H_o stands in what they say. */
void ot_init_residuals(ot_insertion *insertion, float rho);

/* Makes generation heads add nothing to the logits of tokens with typographic quotes, dashes and spaces: see neutral-typography.c. *n_directions: of
 * the embeddings that were taken out of each W_h; 0 where no token has such characters. */
ot_status ot_neutral_typography(ot_insertion *insertion, const ot_model *base, uint32_t *n_directions, ot_error *err);

/* Opens "NAME=FILE" insertions, each looked up among those before it. *n counts the opened ones, also on failure. */
ot_status ot_train_open_parents(const ot_model *model, char (*parents)[OT_TRAIN_PATH], uint32_t n_parents,
                                bool allow_base_mismatch, ot_insertion **opened, uint32_t *n, ot_error *err);

/* A lookahead head that says r(x) for every next token: see initialise-lookahead.c. Needs `scorer` to be the first of its parents but
 * for the scorer's own, both with a stream that their heads read; after ot_init_params. */
bool ot_init_can_follow(const ot_insertion *insertion, const ot_insertion *scorer);
ot_status ot_init_follow(ot_insertion *insertion, const ot_model *base, const ot_insertion *scorer, const ot_insertion_options *options,
                         ot_error *err);

#endif
