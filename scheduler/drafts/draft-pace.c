/* The pace of drafts: are they worth their rows, and how many?
 *
 * Cost (draft-costs.c). Few rows cost little more than one, since a pass over them mostly reads weights; further ones cost their share of
 * arithmetic. Where several sequences decode the step is full sooner, so a guess has to be surer there.
 *
 * Chances. How likely a guess is right is learnt from the guesses of this choice alone: heads and models claim a probability, which is
 * multiplied by what such claims came true before; for the lookup it is the share of its tokens that were right. Both
 * start from a prior that counts like PRIOR guesses, and forget: an old turn counts DECAY of the one after it.
 *
 * Worth. After each turn with guesses: the tokens it gave by the time it took, against a plain turn's. Once the average says that
 * drafts lose, they rest: for two turns, twice as many after each trial that did not pay either, up to 64. A choice that rests
 * runs no head and no lookup. Of K heads no more are asked than turns had use for, and one.
 *
 * A request may want its drafts whether or not they pay (to measure what heads can do, or where rows are cheap): chances are learnt
 * then, and all the rest is left out.
 *
 * None of this can be seen in the text: it is all about how many rows a turn asks for. */
#include "scheduler/drafts/drafts.h"

#include "scheduler/companion.h"
#include "scheduler/drafts/ngram-drafts.h"

#define PRIOR 3.0f
#define DECAY 0.9f
#define WORTH_MEMORY 0.875f
#define LOSS -0.02f

enum { FIRST_REST = 2, MAX_RESTS = 5, FORCED_DRAFT = 8 };

/* ---- Cost ------------------------------------------------------------------------------------------------ */

float ot_draft_time(const ot_draft_costs *costs, uint32_t n_sharing, uint32_t n_rows, uint32_t n_guesses)
{
    return ot_draft_cost_of_rows(costs, n_sharing * (n_rows + n_guesses)) / ot_draft_cost_of_rows(costs, n_sharing * n_rows);
}

float ot_draft_proposal_time(const ot_draft_costs *costs, const ot_choice *c, uint32_t n_sharing)
{
    const ot_insertion *insertion = c->request->resolved.draft.insertion;
    if (insertion == NULL)
        return 0; /* a draft model's time is not known here */
    const float time = ot_draft_cost_of_guess(costs, ot_insertion_get_info(insertion)->has_head_tables);
    return time * (float)(c->proposal.n_depths * n_sharing) / ot_draft_cost_of_rows(costs, n_sharing);
}

/* ---- Chances --------------------------------------------------------------------------------------------- */

/* After a rest everything is tried anew, however badly it fared. */
static bool is_trial(const ot_draft_pace *pace)
{
    return pace->rests > 0;
}

float ot_draft_scale(const ot_draft_pace *pace)
{
    float scale = (pace->accepted + PRIOR) / (pace->offered + PRIOR);
    return is_trial(pace) && scale < 1 ? 1 : scale;
}

float ot_draft_lookup_chance(const ot_draft_pace *pace, uint32_t matched)
{
    float prior = 0.4f + 0.1f * (float)(matched < OT_NGRAM_LONGEST ? matched - 2 : OT_NGRAM_LONGEST - 2);
    float chance = (pace->right + PRIOR * prior) / (pace->tried + PRIOR);
    return is_trial(pace) && chance < prior ? prior : chance;
}

/* ---- Experience ------------------------------------------------------------------------------------------ */

static bool is_on_path(const ot_turn *t, uint32_t node)
{
    for (uint32_t i = 0; i < t->n_path; i++)
        if (t->path[i] == node)
            return true;
    return false;
}

static void learn(ot_draft_pace *pace, const ot_turn *t)
{
    float offered = 0, accepted = 0, tried = 0, right = 0;
    for (uint32_t i = t->n_nodes - t->n_optional; i < t->n_nodes; i++) {
        bool was_right = is_on_path(t, i);
        offered += t->guesses[i].claimed;
        accepted += was_right && t->guesses[i].claimed > 0;
        if (t->guesses[i].by_lookup && is_on_path(t, (uint32_t)t->nodes[i].parent)) {
            tried++;
            right += was_right;
        }
    }
    if (offered > 0) {
        pace->offered = DECAY * pace->offered + offered;
        pace->accepted = DECAY * pace->accepted + accepted;
    }
    if (tried > 0) {
        pace->tried = DECAY * pace->tried + tried;
        pace->right = DECAY * pace->right + right;
    }
}

/* Heads that turns have no use for need not be asked: the depth follows the deepest guess at once when that goes deeper, and step by
 * step when it does not. */
static void follow_depth(ot_draft_pace *pace, const ot_turn *t, uint32_t asked)
{
    uint8_t depth[OT_MAX_NODES] = {0}, deepest = 0;
    for (uint32_t i = t->n_nodes - t->n_optional; i < t->n_nodes; i++) {
        depth[i] = depth[t->nodes[i].parent] + 1;
        deepest = depth[i] > deepest ? depth[i] : deepest;
    }
    if (deepest + 1u >= asked)
        pace->depth = (uint8_t)(deepest + 1);
    else
        pace->depth = (uint8_t)(asked - 1);
}

uint32_t ot_draft_depth(const ot_choice *c, uint32_t n_heads)
{
    uint32_t max = c->request->intervention->drafting.max_draft < n_heads ? c->request->intervention->drafting.max_draft : n_heads;
    return c->pace.depth > 0 && c->pace.depth < max && !c->request->intervention->drafting.fixed ? c->pace.depth : max;
}

static void weigh(ot_draft_pace *pace, float profit)
{
    pace->worth = WORTH_MEMORY * pace->worth + (1 - WORTH_MEMORY) * profit;
    if (pace->worth > 0)
        pace->rests = 0;
    if (pace->worth >= LOSS)
        return;
    pace->rest = (uint8_t)(FIRST_REST << pace->rests);
    pace->rests += pace->rests < MAX_RESTS;
    pace->worth = LOSS; /* one trial decides */
}

uint32_t ot_draft_limit(const ot_request *r)
{
    const uint32_t asked_for = r->intervention->drafting.max_draft;
    return r->grammar != NULL && asked_for < FORCED_DRAFT ? FORCED_DRAFT : asked_for;
}

bool ot_draft_wanted(const ot_choice *c)
{
    const ot_request *r = c->request;
    return ot_draft_limit(r) > 0 && c->pace.rest == 0 && c->state != OT_CHOICE_FINISHED && r->max_new - c->n_generated > 1;
}

void ot_draft_end_turn(ot_decoder *d, ot_choice *c, const ot_turn *t)
{
    ot_request *r = c->request;
    ot_draft_pace *pace = &c->pace;
    uint32_t n_plain = t->n_nodes - t->n_optional, accepted = 0;
    for (uint32_t i = 0; i < t->n_path; i++)
        accepted += t->path[i] >= n_plain;
    d->stats->draft_tokens += t->n_optional;
    d->stats->accepted_tokens += accepted;
    d->stats->draft_turns += t->n_optional > 0;
    for (uint32_t i = 0; i < accepted && i < OT_STATS_DRAFT_POSITIONS; i++)
        d->stats->accepted_at[i]++;
    atomic_fetch_add_explicit(&r->accepted_drafts, accepted, memory_order_relaxed);
    atomic_fetch_add_explicit(&r->rejected_drafts, t->n_optional - accepted, memory_order_relaxed);
    bool was_guessed = c->proposal.n_depths > 0 && c->proposal.at == t->start;
    if (pace->rest > 0) {
        pace->rest--;
    } else if (t->n_optional > 0 || was_guessed) {
        learn(pace, t);
        if (was_guessed)
            follow_depth(pace, t, c->proposal.n_depths);
        float time = ot_draft_time(&d->draft_costs, t->n_sharing, n_plain, t->n_optional) +
                     (was_guessed ? ot_draft_proposal_time(&d->draft_costs, c, t->n_sharing) : 0);
        if (!r->intervention->drafting.fixed)
            weigh(pace, (float)t->n_path / time - 1);
    }
}
