/* The guard: a head whose score of the text, with the next token, may not rise above a limit. It sits between a policy's decision
 * and the token's way out, so it composes with each of them: a refused token is neither part of the text nor ever sent.
 * `stop` ends the choice there; `resample` lets the policy offer its next best token, a limited number of times. */
#include "scheduler/policies/policy.h"

bool ot_guard_refuses(ot_choice *c, int32_t token, const float *scores)
{
    /* Written so that a score that is no number is refused. */
    const ot_intervention *v = c->request->intervention;
    if (v->guard == OT_GUARD_NONE || scores[v->guard_signal] <= v->guard_above)
        return false;
    c->refused = (ot_refusal){token, scores[v->guard_signal]};
    return true;
}

uint32_t ot_guard_attempts(const ot_request *r)
{
    const ot_intervention *v = r->intervention;
    if (v->guard != OT_GUARD_RESAMPLE)
        return 1;
    return v->guard_max_resamples < OT_MAX_CANDIDATES - 1 ? v->guard_max_resamples + 1 : OT_MAX_CANDIDATES;
}
