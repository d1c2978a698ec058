/* Plain sampling: one row a turn, the token that the last logits gave.
 *
 * Without signals a token is sent as soon as it is picked, one pass before its own row runs; the last one's row never runs. With
 * signals its row runs first, since the score of the text up to the token is part of what is sent: that holds for the
 * last token, too. A guard that resamples needs further tokens for the same position when the logits are gone, so
 * all that could be tried are picked at once, in order. */
#include "scheduler/policies/policy.h"

static void plan(const ot_decoder *d, const ot_choice *c, ot_turn *t)
{
    (void)d;
    t->n_nodes = 1;
    t->nodes[0] = (ot_node){c->pending.candidates[c->pending.at].token, -1};
}

static void judge(ot_decoder *d, ot_choice *c, ot_turn *t)
{
    if (ot_policy_take(d, c, t, 0))
        ot_policy_want(t, 0);
}

static void advance(ot_decoder *d, ot_choice *c, ot_turn *t, const ot_logits *logits)
{
    (void)t;
    ot_policy_decide(d, c, &logits[0]);
}

const ot_policy ot_policy_plain = {"plain", plan, judge, advance};
