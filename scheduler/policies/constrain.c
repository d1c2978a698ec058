/* A choice's place in its grammar follows the accepted text, and nothing else: drafts that are refused never touched it, and after a
 * preemption it is where it was. So nothing has to be rolled back: before a position is decided, the place catches up with the text. */
#include "scheduler/policies/constrain.h"

#include "base/clock.h"
#include "scheduler/lifecycle.h"

static bool catch_up(ot_choice *c, ot_error *err)
{
    const ot_request *r = c->request;
    if (c->constraint.grammar == NULL) {
        ot_constraint_begin(&c->constraint, r->grammar);
        c->n_constrained = r->n_prompt;
    }
    for (; c->n_constrained < c->n_text; c->n_constrained++)
        if (!ot_constraint_accept(&c->constraint, c->tokens[c->n_constrained], err))
            return false;
    return true;
}

bool ot_constrain(ot_decoder *d, ot_choice *c, const uint64_t **allowed)
{
    ot_error err = {0};
    *allowed = NULL;
    if (c->request->grammar == NULL)
        return true;
    const double begun = ot_clock_s();
    if (catch_up(c, &err))
        *allowed = ot_constraint_mask(&c->constraint, &err);
    d->stats->constraint_masks++;
    d->stats->constraint_s += ot_clock_s() - begun;
    if (*allowed == NULL)
        ot_request_end(d->scheduler, c->request, OT_FINISH_ERROR, &err);
    return *allowed != NULL;
}

uint32_t ot_constrain_guess(const ot_choice *c, int32_t next, int32_t *tokens, uint32_t max)
{
    if (c->constraint.grammar == NULL || c->n_constrained != c->n_text)
        return 0;
    return ot_constraint_forced_after(&c->constraint, next, tokens, max);
}

void ot_constrain_end(ot_choice *c)
{
    ot_constraint_end(&c->constraint);
}
