/* The constraint's place in the order: after experts, penalties and bans, before candidates (grammar/grammar.h). */
#ifndef OTTER_SCHEDULER_POLICIES_CONSTRAIN_H
#define OTTER_SCHEDULER_POLICIES_CONSTRAIN_H

#include "scheduler/policies/decoder.h"
#include "scheduler/request.h"

/* The tokens that may come at position c->n_text, a bit each; NULL: any. Valid until the next call. False if that cannot be told: the
 * request has ended then. */
bool ot_constrain(ot_decoder *d, ot_choice *c, const uint64_t **allowed);
/* Tokens that the grammar leaves no choice about after `next`, at most max: guesses, since a text may be cut into tokens in several ways. */
uint32_t ot_constrain_guess(const ot_choice *c, int32_t next, int32_t *tokens, uint32_t max);
/* The choice has ended. */
void ot_constrain_end(ot_choice *c);

#endif
