/* reward-course.h. */
#include "scheduler/policies/reward-course.h"

static uint32_t n_before(const ot_choice *c)
{
    return c->n_text - c->request->n_prompt;
}

bool ot_reward_steers(const ot_choice *c)
{
    const ot_intervention *v = c->request->intervention;
    return v->reward && !c->reward_has_ended && (v->until_tokens == 0 || n_before(c) < v->until_tokens);
}

double ot_reward_scale(const ot_choice *c)
{
    const ot_intervention *v = c->request->intervention;
    double power = 1, factor = v->decay > 0 ? (double)v->decay : 1;
    for (uint32_t n = n_before(c); n > 0 && factor != 1; n >>= 1) {
        if (n & 1)
            power *= factor;
        factor *= factor;
    }
    return power;
}

void ot_reward_note(ot_choice *c, const float *scores)
{
    const ot_intervention *v = c->request->intervention;
    double sum = 0;
    if (!v->has_until_score || c->reward_has_ended)
        return;
    for (uint32_t i = 0; i < v->n_signals; i++)
        if (v->signals[i].weight != 0)
            sum += (double)v->signals[i].weight * scores[i];
    c->reward_has_ended = sum >= (double)v->until_score; /* never for NaN */
}
