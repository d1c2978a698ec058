/* What an intervention may be: each number in its range (intervention-members.c), each head of the kind that its use needs, and what its
 * members ask of each other. The field at fault is named as a client writes it. On the submitting thread. */
#include "scheduler/intervention-members.h"

#include <math.h>

#include "scheduler/request.h"

static const ot_insertion_spec *spec_of(const ot_head *head)
{
    return &ot_insertion_get_info(ot_head_insertion(head))->spec;
}

static bool is_inserted(const ot_head *head, ot_head_kind kind)
{
    return ot_head_get_role(head) == OT_ROLE_INSERTION && spec_of(head)->kind == kind;
}

/* ---- Scores ---------------------------------------------------------------------------------------------- */

/* Of a text that has been run: what a guard needs, and what exact ARGS compares. */
static bool scores_text(const ot_head *head)
{
    return ot_head_get_role(head) == OT_ROLE_REWARD_MODEL || is_inserted(head, OT_HEAD_SCALAR);
}

static ot_status check_signal(const ot_intervention *v, uint32_t i, ot_error *err)
{
    const ot_head *head = v->signals[i].head;
    const char *name = v->signals[i].name, *param = v->signals[i].weight != 0 ? "intervention.reward.heads" : "intervention.signals";
    if (!isfinite(v->signals[i].weight))
        return ot_fail_param(err, OT_ERR_INVALID, "intervention.reward.heads", "the weight of '%.60s' must be a finite number", name);
    if (!scores_text(head) && !is_inserted(head, OT_HEAD_LOOKAHEAD))
        return ot_fail_param(err, OT_ERR_INVALID, param,
                             "'%.60s' gives no score: expected a scalar head, a lookahead head or a reward model", name);
    if (v->signals[i].output >= spec_of(head)->n_outputs)
        return ot_fail_param(err, OT_ERR_INVALID, param, "head '%.60s' has %u outputs, not %u", name, spec_of(head)->n_outputs,
                             v->signals[i].output + 1);
    return OT_OK;
}

static ot_status check_lookahead(const ot_intervention *v, ot_error *err)
{
    if (v->lookahead_keep == 0)
        return OT_OK;
    if (v->lookahead_signal >= v->n_signals || !is_inserted(v->signals[v->lookahead_signal].head, OT_HEAD_LOOKAHEAD))
        return ot_fail_param(err, OT_ERR_INVALID, "intervention.reward.lookahead.head",
                             "no lookahead head picks the candidates to be scored");
    if (!ot_intervention_scores_candidates(v))
        return ot_fail_param(err, OT_ERR_INVALID, "intervention.reward.lookahead",
                             "picks candidates for heads that score them exactly, and 'heads' names none of these");
    return OT_OK;
}

/* "toxicity" and "toxicity/toxic" are two names of one output. */
static ot_status check_weighted_once(const ot_intervention *v, ot_error *err)
{
    for (uint32_t i = 0; i < v->n_signals; i++)
        for (uint32_t j = 0; j < i && v->signals[i].weight != 0; j++)
            if (v->signals[j].weight != 0 && v->signals[j].head == v->signals[i].head && v->signals[j].output == v->signals[i].output)
                return ot_fail_param(err, OT_ERR_INVALID, "intervention.reward.heads",
                                     "'%.100s' and '%.100s' are the same output, whose weight would count twice", v->signals[j].name,
                                     v->signals[i].name);
    return OT_OK;
}

static ot_status check_reward(const ot_intervention *v, ot_error *err)
{
    if (!v->reward)
        return check_lookahead(v, err);
    if (v->n_signals == 0)
        return ot_fail_param(err, OT_ERR_INVALID, "intervention.reward.heads", "no head to steer with");
    ot_status st = check_weighted_once(v, err);
    return st == OT_OK ? check_lookahead(v, err) : st;
}

static ot_status check_guard(const ot_intervention *v, ot_error *err)
{
    if (v->guard == OT_GUARD_NONE)
        return OT_OK;
    if (v->guard_signal >= v->n_signals)
        return ot_fail_param(err, OT_ERR_INVALID, "intervention.guard.head", "the guard has no head");
    if (!scores_text(v->signals[v->guard_signal].head))
        return ot_fail_param(err, OT_ERR_INVALID, "intervention.guard.head",
                             "'%.60s' cannot guard: expected a scalar head or a reward model, which score the text itself",
                             v->signals[v->guard_signal].name);
    return OT_OK;
}

/* ---- Experts --------------------------------------------------------------------------------------------- */

static ot_status check_expert(const ot_head *head, uint32_t output, const char *param, ot_error *err)
{
    if (head == NULL || ot_head_get_role(head) == OT_ROLE_EXPERT_MODEL)
        return OT_OK;
    if (!is_inserted(head, OT_HEAD_GENERATION))
        return ot_fail_param(err, OT_ERR_INVALID, param, "'%s' is not an expert: expected a generation head or an expert model", ot_head_name(head));
    if (output >= spec_of(head)->n_outputs)
        return ot_fail_param(err, OT_ERR_INVALID, param, "head '%s' has %u outputs, not %u", ot_head_name(head),
                             spec_of(head)->n_outputs, output + 1);
    if (spec_of(head)->offsets[output] != 0)
        return ot_fail_param(err, OT_ERR_INVALID, param,
                             "head '%s' predicts %u tokens further ahead; an expert predicts the next one (offset 0)",
                             ot_head_name(head), spec_of(head)->offsets[output]);
    return OT_OK;
}

static ot_status check_experts(const ot_experts *e, ot_error *err)
{
    if (e->negative == NULL && e->positive != NULL)
        return ot_fail_param(err, OT_ERR_INVALID, "intervention.experts.negative",
                             "a positive expert needs a negative one to differ from");
    if (e->negative == NULL)
        return OT_OK;
    ot_status st = check_expert(e->positive, e->positive_output, "intervention.experts.positive", err);
    if (st == OT_OK)
        st = check_expert(e->negative, e->negative_output, "intervention.experts.negative", err);
    return st;
}

/* ---- Drafts ---------------------------------------------------------------------------------------------- */

static ot_status check_draft_head(const ot_head *head, ot_error *err)
{
    static const char *const param = "intervention.speculative.draft";
    if (head == NULL || ot_head_get_role(head) == OT_ROLE_DRAFT_MODEL)
        return OT_OK;
    if (!is_inserted(head, OT_HEAD_GENERATION))
        return ot_fail_param(err, OT_ERR_INVALID, param, "'%s' cannot draft: expected a generation head or a draft model", ot_head_name(head));
    for (uint32_t i = 0; i < spec_of(head)->n_outputs; i++)
        if (spec_of(head)->offsets[i] == 0)
            return ot_fail_param(err, OT_ERR_INVALID, param,
                                 "output %u of head '%s' predicts the next token (offset 0): drafts lie further ahead", i,
                                 ot_head_name(head));
    return OT_OK;
}

static ot_status check_drafting(const ot_drafting *d, ot_error *err)
{
    if (d->max_draft > 0 && !d->lookup && d->head == NULL)
        return ot_fail_param(err, OT_ERR_INVALID, "intervention.speculative.draft", "nothing to draft with");
    if (d->tree > 0 && (d->head == NULL || ot_head_get_role(d->head) != OT_ROLE_INSERTION))
        return ot_fail_param(err, OT_ERR_INVALID, "intervention.speculative.tree",
                             "a tree needs a head that drafts: only these guess several ways on");
    return check_draft_head(d->head, err);
}

ot_status ot_intervention_check(const ot_intervention *v, ot_error *err)
{
    if (v->n_signals > OT_MAX_SIGNALS)
        return ot_fail_param(err, OT_ERR_INVALID, "intervention", "%u signals; at most %d", v->n_signals, OT_MAX_SIGNALS);
    ot_status st = OT_OK;
    for (uint32_t i = 0; i < v->n_signals && st == OT_OK; i++)
        st = check_signal(v, i, err);
    if (st == OT_OK)
        st = check_reward(v, err);
    if (st == OT_OK)
        st = check_guard(v, err);
    if (st == OT_OK)
        st = check_experts(&v->experts, err);
    if (st == OT_OK)
        st = check_drafting(&v->drafting, err);
    return st == OT_OK ? ot_members_check_ranges(v, err) : st;
}
