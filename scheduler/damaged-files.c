/* A pass that read a damaged file fails as a whole, since the engine knows rows and no requests. Here the damage is laid at the door of
 * those who use the file: its insertions, its separate models, and of everybody if it is the base. The others have lost a step and no
 * more: nothing of it was read, and the rows that they ask for again write the same slots with the same values. As each failed
 * step ends a request, there is an end to it. */
#include "scheduler/damaged-files.h"

#include "scheduler/companion.h"
#include "scheduler/policies/policy.h"
#include "scheduler/scheduler-state.h"

static ot_status check_components(const ot_kv_component *components, uint32_t n, ot_error *err)
{
    ot_status st = OT_OK;
    for (uint32_t i = 0; i < n && st == OT_OK; i++)
        st = ot_insertion_check(components[i].insertion, err);
    return st;
}

/* OT_ERR_IO, and which it is, if a file that the request's rows read is damaged. A draft model's is not among them: it guesses in passes of
 * its own, and guesses may be missing. */
static ot_status check_request(const ot_scheduler *s, const ot_request *r, ot_error *err)
{
    ot_status st = ot_model_check(s->model, err);
    if (st == OT_OK)
        st = check_components(r->resolved.components, r->resolved.n_components, err);
    for (uint32_t i = 0; i < r->resolved.companions.n_mirrors && st == OT_OK; i++) {
        const ot_companion *c = r->resolved.companions.mirrors[i];
        ot_kv_component components[OT_KV_MAX_INSERTIONS];
        st = ot_model_check(c->model, err);
        if (st == OT_OK)
            st = check_components(components, ot_companion_components(c, r, components), err);
    }
    return st;
}

static bool end_if_hurt(ot_scheduler *s, ot_request *r)
{
    ot_error err = {0};
    if (check_request(s, r, &err) == OT_OK)
        return false;
    ot_request_end(s, r, OT_FINISH_ERROR, &err);
    return true;
}

bool ot_damage_end_requests(ot_scheduler *s)
{
    const ot_step_batch *b = &s->batch;
    bool found = false;
    for (uint32_t i = 0; i < b->n_turns; i++)
        found |= end_if_hurt(s, b->turns[i].choice->request);
    for (uint32_t i = 0; i < b->n_chunks; i++)
        found |= end_if_hurt(s, b->chunks[i].choice->request);
    return found;
}
