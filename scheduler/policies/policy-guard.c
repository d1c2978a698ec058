/* The guard: a head whose score of the text, with the next token, may not rise above a limit. It sits between a policy's decision
 * and the token's way out, so it composes with each of them: a refused token is neither part of the text nor ever sent.
 * `stop` ends the choice there; `resample` lets the policy offer its next best token, a limited number of times. */
#include "scheduler/policies/policy.h"

bool ot_guard_refuses(const ot_request *r, const float *scores)
{
    /* Written so that a score that is no number is refused. */
    return r->guard != OT_GUARD_NONE && !(scores[r->guard_signal] <= r->guard_above);
}

uint32_t ot_guard_attempts(const ot_request *r)
{
    if (r->guard != OT_GUARD_RESAMPLE)
        return 1;
    return r->guard_max_resamples < OT_MAX_CANDIDATES - 1 ? r->guard_max_resamples + 1 : OT_MAX_CANDIDATES;
}
