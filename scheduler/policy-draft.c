/* Speculative decoding: a turn is the pending token and a chain of drafts after it, verified by the pass that computes them.
 *
 * Every position is decided exactly as plain decoding decides it, from the logits of the row before it: same adjustments, same draw
 * (a function of seed, choice and position). While the decision is the draft, the next row's logits are at hand already and the
 * turn goes on; at the first difference the decision itself is kept and the rest of the chain is scratch. So the text, its
 * log-probabilities and its signals are those of plain decoding to the bit, greedy or sampled; drafts change only how many passes
 * they take. (Rejection sampling would keep the distribution but not the draw, and accepts no more: the drafts
 * have no distribution of their own.) The guard composes, too: a refused token ends the turn.
 *
 * Pace. A verified row costs time, so a chain begins short, grows when all of it was right, shrinks to one more than what was right,
 * and rests for a growing while after misses in a row. How many rows a step can spare bounds it (batch.c). None of this
 * can be seen in the text.
 *
 * ARGS decides by scores of candidates side by side and does not use drafts yet: ot_policy_for gives those requests to ARGS. */
#include "scheduler/ngram-drafts.h"
#include "scheduler/policy.h"

enum {
    FIRST_LENGTH = 3,
    GROWTH = 2,           /* after a chain that was right to its end */
    PATIENCE = 3,         /* chains in a row that were wrong at once, before a rest */
    FIRST_REST = 2,       /* turns */
    MAX_DOUBLINGS = 5
};

static uint32_t length_of(const ot_choice *c)
{
    uint32_t length = c->pace.length > 0 ? c->pace.length : FIRST_LENGTH;
    return length < c->request->max_draft ? length : c->request->max_draft;
}

static void plan(const ot_choice *c, ot_turn *t)
{
    int32_t next = c->pending.candidates[c->pending.at].token, draft[OT_MAX_DRAFT];
    uint32_t n = length_of(c), useful = c->request->max_new - c->n_generated - 1; /* the root's row gives one token */
    n = n < useful ? n : useful;
    n = n < t->spare_rows ? n : t->spare_rows;
    if (c->pace.rest > 0)
        n = 0;
    if (n > 0)
        n = ot_ngram_draft(c->tokens, c->n_text, next, n, draft);
    t->nodes[0] = (ot_node){next, -1};
    for (uint32_t i = 0; i < n; i++)
        t->nodes[i + 1] = (ot_node){draft[i], (int32_t)i};
    t->n_nodes = n + 1;
    t->n_optional = n;
}

static void change_pace(ot_choice *c, uint32_t drafted, uint32_t accepted)
{
    ot_draft_pace *pace = &c->pace;
    uint32_t length = length_of(c);
    if (drafted == 0) {
        pace->rest -= pace->rest > 0;
        return;
    }
    if (accepted == drafted)
        length += drafted == length ? GROWTH : 0;
    else
        length = accepted + 1;
    pace->length = (uint8_t)(length < c->request->max_draft ? length : c->request->max_draft);
    if (accepted > 0) {
        pace->misses = 0;
    } else if (++pace->misses >= PATIENCE) {
        uint32_t doublings = pace->misses - PATIENCE;
        pace->rest = (uint8_t)(FIRST_REST << doublings);
        pace->misses -= doublings == MAX_DOUBLINGS;
    }
}

static void end_turn(ot_scheduler *s, ot_choice *c, const ot_turn *t)
{
    ot_request *r = c->request;
    uint32_t drafted = t->n_nodes - 1, accepted = t->n_path > 0 ? t->n_path - 1 : 0;
    s->stats.draft_tokens += drafted;
    s->stats.accepted_tokens += accepted;
    atomic_fetch_add_explicit(&r->accepted_drafts, accepted, memory_order_relaxed);
    atomic_fetch_add_explicit(&r->rejected_drafts, drafted - accepted, memory_order_relaxed);
    change_pace(c, drafted, accepted);
}

static void judge(ot_scheduler *s, ot_choice *c, ot_turn *t)
{
    if (!ot_policy_take(s, c, t, 0)) {
        end_turn(s, c, t);
        return;
    }
    for (uint32_t i = 0; i < t->n_nodes; i++)
        ot_policy_want(t, i);
}

/* Whether the token just decided is the next draft, and may be taken now: a reader who is behind gets no more in this step. */
static bool goes_on(ot_choice *c, const ot_turn *t, uint32_t next)
{
    return c->state != OT_CHOICE_FINISHED && next < t->n_nodes && t->nodes[next].token == c->pending.candidates[0].token &&
           ot_output_has_room(&c->output);
}

static void advance(ot_scheduler *s, ot_choice *c, ot_turn *t, const ot_logits *logits)
{
    ot_policy_decide(s, c, &logits[0]);
    if (t == NULL)
        return;
    for (uint32_t i = 1; goes_on(c, t, i) && ot_policy_take(s, c, t, i); i++)
        ot_policy_decide(s, c, &logits[i]);
    end_turn(s, c, t);
}

const ot_policy ot_policy_draft = {"draft", plan, judge, advance};
