/* Inside scheduler/: guessing ahead, for every policy that can check a guess.
 *
 *     draft-heads.c   proposals of draft heads, from the row that decided the pending token
 *     draft-best.c    the best tokens of a head's values
 *     ngram-drafts.c  prompt lookup
 *     draft-tree.c    proposals and lookup together make a chain or a tree of nodes below a turn's first node
 *     draft-costs.c   what rows and guesses cost (draft-costs.h)
 *     draft-pace.c    how guesses fared, when to leave it
 *     policy-draft.c  plain decoding along the guesses; the walk that policies share
 *
 * Nothing here can be seen in a text: guesses only change how many passes it takes. */
#ifndef OTTER_SCHEDULER_DRAFTS_DRAFTS_H
#define OTTER_SCHEDULER_DRAFTS_DRAFTS_H

#include "scheduler/policies/policy.h"

/* ---- Proposals of heads (draft-heads.c) ---------------------------------------------------------------------- */

typedef struct ot_draft_heads ot_draft_heads;
/* Buffers for OT_LOGIT_ROWS rows of values; pages that nobody writes stay unused. */
ot_status ot_draft_heads_open(ot_draft_heads **out, uint32_t n_vocab, ot_error *err);
void ot_draft_heads_close(ot_draft_heads **heads);
/* What is pending for the choice was decided by this row of the batch, whose own logits stay where they are until the next
 * ot_draft_heads_run. Does nothing for a choice that wants no guesses of a head now. */
void ot_draft_heads_add(ot_decoder *d, ot_choice *c, const ot_logits *logits);
/* Fills the proposals of all choices added since the last call: one call of the engine for every OT_LOGIT_ROWS values. */
void ot_draft_heads_run(ot_decoder *d);
/* The n_best tokens of residual * base + values, which values are afterwards (both n floats), best first, ties by lower id; and how
 * likely they are among the n. Returns how many there are: fewer where logits are -inf or NaN. */
uint32_t ot_draft_best(const ot_kernels *kernels, const float *base, float residual, float *values, uint32_t n, uint32_t n_best,
                       ot_draft_guess *best);
/* Tokens that a draft head guesses ahead: its offsets 1, 2, ... as far as they go. */
uint32_t ot_draft_head_depths(const ot_insertion *insertion);

/* ---- Pace (draft-pace.c) ------------------------------------------------------------------------------------- */

/* Tokens ahead at most; 0: no drafts. Under a grammar there are some whatever the request says: what is forced is guessed. */
uint32_t ot_draft_limit(const ot_request *r);
/* Whether the choice's next turn can use guesses: whoever makes them asks first. */
bool ot_draft_wanted(const ot_choice *c);
/* Time of a step in which each of n_sharing sequences runs n_rows + n_guesses rows, with that of n_rows rows as the unit. */
float ot_draft_time(const ot_draft_costs *costs, uint32_t n_sharing, uint32_t n_rows, uint32_t n_guesses);
/* Time that it takes to fill the choice's proposal, in units of a plain step for each of n_sharing sequences. */
float ot_draft_proposal_time(const ot_draft_costs *costs, const ot_choice *c, uint32_t n_sharing);
/* How many tokens ahead it makes sense to ask a head, which has `n_heads` depths. */
uint32_t ot_draft_depth(const ot_choice *c, uint32_t n_heads);
/* By how much to multiply what heads or models claim. */
float ot_draft_scale(const ot_draft_pace *pace);
/* How likely the lookup's next token is right, after `matched` tokens in common. */
float ot_draft_lookup_chance(const ot_draft_pace *pace, uint32_t matched);
/* A turn is over: counts its guesses, and sets the pace of the next ones. */
void ot_draft_end_turn(ot_decoder *d, ot_choice *c, const ot_turn *t);

/* ---- Nodes (draft-tree.c) ------------------------------------------------------------------------------------ */

/* Adds guesses below t->nodes[0], which is the pending token or the likeliest of the candidates that the nodes so far are, as
 * long as they promise more than they cost: t->n_optional of them, each after its parent. `sure`: how likely node 0 is the winner. */
void ot_draft_plan(const ot_draft_costs *costs, const ot_choice *c, ot_turn *t, float sure);

/* ---- The walk (policy-draft.c) ------------------------------------------------------------------------------- */

/* Wants the logits of an accepted node and of all guesses below it. */
void ot_draft_want(ot_turn *t, uint32_t node);
/* Where ot_draft_want put a node's logits. */
uint32_t ot_draft_logits_of(const ot_turn *t, uint32_t node);
/* The node after `parent` that bears the token; -1: none. */
int32_t ot_draft_child(const ot_turn *t, uint32_t parent, int32_t token);
/* Whether the choice may take more tokens in this step: not if it has ended, nor if its reader is behind. */
bool ot_draft_goes_on(const ot_choice *c);

#endif
