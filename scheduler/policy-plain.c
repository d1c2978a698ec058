/* Plain sampling: one row a turn, the token that the last logits gave.
 *
 * Without signals a token is sent as soon as it is picked, one pass before its own row runs; the last one's row never runs. With
 * signals its row runs first, since the score of the text up to the token is part of what is sent: that holds for the
 * last token, too. A guard that resamples needs further tokens for the same position when the logits are gone, so
 * all that could be tried are picked at once, in order. */
#include "scheduler/policy.h"

static void plan(const ot_choice *c, ot_turn *t)
{
    t->n_nodes = 1;
    t->nodes[0] = (ot_node){c->pending.candidates[c->pending.at].token, -1};
}

static void judge(ot_scheduler *s, ot_choice *c, ot_turn *t)
{
    ot_pending *p = &c->pending;
    ot_request *r = c->request;
    if (r->n_signals > 0) {
        float scores[OT_MAX_SIGNALS];
        ot_policy_scores(s, t, 0, scores);
        if (ot_guard_refuses(r, scores)) {
            if (p->at + 1 < p->n)
                p->at++;
            else
                ot_choice_end(s, c, OT_FINISH_FILTER);
            return;
        }
        if (p->at > 0)
            ot_policy_count_changed(s, c, OT_MODE_GUARD);
        ot_policy_accept(t, 0);
        ot_policy_emit(s, c, &p->candidates[p->at], scores);
    } else {
        ot_policy_accept(t, 0);
    }
    if (c->state != OT_CHOICE_FINISHED)
        ot_policy_want(t, 0);
}

static void advance(ot_scheduler *s, ot_choice *c, ot_turn *t, const float *const *logits)
{
    (void)t;
    const ot_request *r = c->request;
    ot_position at;
    ot_policy_read(s, c, logits[0], false, &at);
    ot_pending *p = &c->pending;
    int32_t tokens[OT_MAX_CANDIDATES];
    p->n = ot_sampler_pick(s->sampler, at.adjusted, &r->sampling, at.draw, ot_guard_attempts(r), tokens);
    for (uint32_t i = 0; i < p->n; i++)
        p->candidates[i] = (ot_candidate){
            .token = tokens[i],
            .logprob = r->logprobs ? ot_log_prob(at.raw_norm, at.raw, tokens[i]) : 0,
        };
    p->base_token = tokens[0];
    if (r->n_signals == 0)
        ot_policy_emit(s, c, &p->candidates[0], NULL);
}

const ot_policy ot_policy_plain = {"plain", plan, judge, advance};
