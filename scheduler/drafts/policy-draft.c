/* Speculative decoding: a turn is the pending token and a chain or tree of guesses after it, verified by the pass that computes them.
 *
 * Every position is decided exactly as plain decoding decides it, from the logits of the row before it: same adjustments, same draw
 * (a function of seed, choice and position). While the decision is a node of the turn, that row's logits are at hand already and the
 * turn goes on; at the first difference the decision itself is kept and the rest of the turn is scratch. So the text, its
 * log-probabilities and its signals are those of plain decoding to the bit, greedy or sampled, steered by experts or not;
 * guesses change only how many passes they take. (Rejection sampling would keep the distribution but not the draw. With guesses
 * fixed before the draw it accepts a guess as often as we do: with the probability that the model gives it.) The guard
 * composes, too: a refused token ends the turn.
 *
 * ARGS walks along guesses in the same way (policy-args.c). */
#include "scheduler/drafts/drafts.h"

/* ---- The walk -------------------------------------------------------------------------------------------- */

static bool is_below(const ot_turn *t, uint32_t node, uint32_t above)
{
    int32_t i = (int32_t)node;
    while (i > (int32_t)above)
        i = t->nodes[i].parent;
    return i == (int32_t)above;
}

void ot_draft_want(ot_turn *t, uint32_t node)
{
    ot_policy_want(t, node);
    for (uint32_t i = t->n_nodes - t->n_optional; i < t->n_nodes; i++)
        if (is_below(t, i, node))
            ot_policy_want(t, i);
}

uint32_t ot_draft_logits_of(const ot_turn *t, uint32_t node)
{
    uint32_t i = 0;
    while (t->wanted[i] != node)
        i++;
    return i;
}

int32_t ot_draft_child(const ot_turn *t, uint32_t parent, int32_t token)
{
    for (uint32_t i = t->n_nodes - t->n_optional; i < t->n_nodes; i++)
        if (t->nodes[i].parent == (int32_t)parent && t->nodes[i].token == token)
            return (int32_t)i;
    return -1;
}

bool ot_draft_goes_on(const ot_choice *c)
{
    return c->state != OT_CHOICE_FINISHED && ot_output_has_room(&c->output);
}

/* ---- One token a position -------------------------------------------------------------------------------- */

static void plan(const ot_decoder *d, const ot_choice *c, ot_turn *t)
{
    t->n_nodes = 1;
    t->nodes[0] = (ot_node){c->pending.candidates[c->pending.at].token, -1};
    ot_draft_plan(&d->draft_costs, c, t, 1);
}

static void judge(ot_decoder *d, ot_choice *c, ot_turn *t)
{
    if (ot_policy_take(d, c, t, 0))
        ot_draft_want(t, 0);
    else
        ot_draft_end_turn(d, c, t);
}

static void advance(ot_decoder *d, ot_choice *c, ot_turn *t, const ot_logits *logits)
{
    ot_policy_decide(d, c, &logits[0]);
    if (t == NULL)
        return;
    int32_t node = 0;
    while (ot_draft_goes_on(c) && (node = ot_draft_child(t, (uint32_t)node, c->pending.candidates[0].token)) >= 0 &&
           ot_policy_take(d, c, t, (uint32_t)node)) {
        t->decided = ot_draft_logits_of(t, (uint32_t)node);
        ot_policy_decide(d, c, &logits[t->decided]);
    }
    ot_draft_end_turn(d, c, t);
}

const ot_policy ot_policy_draft = {"draft", plan, judge, advance};
