/* Composing a step: turns of decoding choices first, then pieces of prompts, until max_batch_tokens rows are there. What a batch is made
 * of cannot change any result (engine/kernels.h), so everything here is about time and fairness only.
 *
 * A turn is taken whole or not at all. Should turns find no room (many candidates at once), the next step begins with the first one
 * left out; should they leave little room for prompts, the next step begins with those and gives them up to half of its rows.
 *
 * Of the rows for prompts, half go to the reader that is first in line and the others to whoever has least left to read. So a long
 * prompt is read at half speed at the worst, and a short one within a step or two, however many long ones are being read. */
#include "scheduler/steps/choice-pages.h"
#include "base/asserts.h"
#include "scheduler/policies/policy.h"

#include <string.h>

#include "scheduler/companion.h"
#include "scheduler/scheduler-state.h"

static bool has_insertion(const ot_step_batch *b, const ot_insertion *insertion)
{
    for (uint32_t i = 0; i < b->n_insertions; i++)
        if (b->insertions[i] == insertion)
            return true;
    return false;
}

/* Enters the choice's insertions into the batch; false, and nothing changed, if that is more than the engine takes. More are alive than
 * can be loaded only while heads are replaced under running requests. */
static bool enter_insertions(const ot_scheduler *s, ot_step_batch *b, const ot_request *r)
{
    uint32_t n = b->n_insertions;
    for (uint32_t i = 0; i < r->resolved.n_components; i++) {
        if (has_insertion(b, r->resolved.components[i].insertion))
            continue;
        if (b->n_insertions == s->max_insertions) {
            b->n_insertions = n;
            return false;
        }
        b->insertions[b->n_insertions++] = r->resolved.components[i].insertion;
    }
    return true;
}

static void enter_view(ot_step_batch *b, ot_choice *c)
{
    b->views[b->engine.n_sequences++] = *ot_kv_seq_view(c->seq);
    c->in_batch = true;
}

/* ---- Turns ----------------------------------------------------------------------------------------------- */

/* Slots of the path from the root to a node, the node last; returns its length. */
static uint32_t path_slots(const ot_turn *t, uint32_t node, uint32_t *slots)
{
    uint32_t n = 0;
    for (int32_t i = (int32_t)node; i >= 0; i = t->nodes[i].parent)
        slots[n++] = t->start + (uint32_t)i;
    for (uint32_t i = 0; i < n / 2; i++) {
        uint32_t x = slots[i];
        slots[i] = slots[n - 1 - i];
        slots[n - 1 - i] = x;
    }
    return n;
}

/* Node i writes slot start + i. Where its path lies in its final place already the row is an ordinary one; otherwise the path is the
 * row's tail. Either way the same keys come in the same order. */
static bool add_node(const ot_scheduler *s, ot_step_batch *b, const ot_turn *t, uint32_t node)
{
    uint32_t slots[OT_MAX_NODES];
    uint32_t depth = path_slots(t, node, slots);
    bool in_place = slots[depth - 1] == t->start + depth - 1; /* slots ascend along a path */
    ot_row *row = &b->rows[b->engine.n_rows];
    *row = (ot_row){
        .token = t->nodes[node].token,
        .position = t->start + depth - 1,
        .sequence = b->engine.n_sequences,
        .slot = t->start + node,
        .n_prefix = in_place ? t->start + depth : t->start,
        .flags = OT_ROW_OUTPUT,
    };
    if (!in_place) {
        if (b->n_tails + depth > s->options.max_batch_tokens * OT_TAIL_SLOTS_PER_ROW)
            return false;
        row->n_tail = depth;
        row->tail = b->tails + b->n_tails;
        memcpy(b->tails + b->n_tails, slots, depth * sizeof slots[0]);
        b->n_tails += depth;
    }
    b->engine.n_rows++;
    return true;
}

/* The step's rows are divided among the sequences, so guesses never crowd a turn out. How many of them pay is another matter
 * (draft-pace.c). */
static uint32_t spare_rows(const ot_scheduler *s)
{
    uint32_t max = s->options.max_batch_tokens, rows = max / s->line.n_active, room = max - s->batch.engine.n_rows;
    rows = rows < room ? rows : room;
    return rows > 0 ? rows - 1 : 0;
}

/* False if the batch is full for this turn. */
static bool add_turn(ot_scheduler *s, ot_choice *c)
{
    ot_step_batch *b = &s->batch;
    ot_turn *t = &b->turns[b->n_turns];
    t->choice = c;
    t->start = c->n_text;
    t->first_row = b->engine.n_rows;
    t->n_path = t->n_wanted = t->n_optional = t->decided = 0;
    t->spare_rows = spare_rows(s);
    t->n_sharing = s->line.n_active;
    t->policy = ot_policy_now(c);
    t->policy->plan(&s->decoder, c, t);
    if (b->engine.n_rows + t->n_nodes > s->options.max_batch_tokens)
        return false;
    /* Nobody is preempted for guesses. */
    if (t->n_optional > 0 && !ot_pages_reserve(c, t->start + t->n_nodes)) {
        t->n_nodes -= t->n_optional;
        t->n_optional = 0;
    }
    if (!ot_make_room(s, c, t->start + t->n_nodes))
        return true; /* it waits for pages, not for room in the batch */
    if (!enter_insertions(s, b, c->request))
        return false;
    OT_ASSERT(t->n_nodes > 0 && t->n_nodes <= OT_MAX_NODES && t->n_optional < t->n_nodes && b->n_turns < s->options.max_sequences);
    uint32_t n_tails = b->n_tails;
    for (uint32_t i = 0; i < t->n_nodes; i++)
        if (!add_node(s, b, t, i)) {
            b->engine.n_rows = t->first_row;
            b->n_tails = n_tails;
            return false;
        }
    enter_view(b, c);
    b->n_turns++;
    c->n_turns++;
    c->request->account->n_rows += t->n_nodes;
    return true;
}

static void try_turn(ot_scheduler *s, ot_choice *c)
{
    ot_step_batch *b = &s->batch;
    if (c->state != OT_CHOICE_DECODE || c->in_batch || ot_waits_for_reader(c) || add_turn(s, c) || b->left_out)
        return;
    b->left_out = true;
    b->first_left_out = c->seat;
}

static void add_turns(ot_scheduler *s)
{
    /* Preemption shortens the list behind the current place (or, for slow readers, before it: then one may miss a turn). */
    for (uint32_t i = 0; i < s->line.n_active; i++)
        if (s->line.active[i]->seat >= s->batch.rotate_from)
            try_turn(s, s->line.active[i]);
    for (uint32_t i = 0; i < s->line.n_active && s->batch.rotate_from > 0; i++)
        if (s->line.active[i]->seat < s->batch.rotate_from)
            try_turn(s, s->line.active[i]);
    s->batch.rotate_from = s->batch.left_out ? s->batch.first_left_out : 0;
}

/* ---- Prompts --------------------------------------------------------------------------------------------- */

static bool wants_output(const ot_request *r, const ot_choice *c, uint32_t i)
{
    if (i + 1 == c->n_text && c->pending.n == 0)
        return true;
    return !r->prompt_done && (r->prompt_scores || r->pooling == OT_POOL_MEAN || (r->prompt_logprobs && i + 1 < r->n_prompt));
}

/* Rows that are read for the first time are charged to the client. */
static void charge_chunk(ot_choice *c, uint32_t end)
{
    if (end <= c->n_charged)
        return;
    c->request->account->n_rows += end - (c->n_computed > c->n_charged ? c->n_computed : c->n_charged);
    c->n_charged = end;
}

/* Up to max_rows rows of the choice's text. */
static void add_chunk(ot_scheduler *s, ot_choice *c, uint32_t max_rows)
{
    ot_step_batch *b = &s->batch;
    uint32_t left = c->n_text - c->n_computed;
    uint32_t n = left < max_rows ? left : max_rows;
    if (n == 0 || c->in_batch || !enter_insertions(s, b, c->request))
        return;
    OT_ASSERT(b->engine.n_rows + n <= s->options.max_batch_tokens);
    b->chunks[b->n_chunks++] = (ot_chunk){c, b->engine.n_rows, c->n_computed, n};
    b->n_prompt_rows += n;
    charge_chunk(c, c->n_computed + n);
    for (uint32_t i = c->n_computed; i < c->n_computed + n; i++)
        b->rows[b->engine.n_rows++] = (ot_row){
            .token = c->tokens[i],
            .position = i,
            .sequence = b->engine.n_sequences,
            .slot = i,
            .n_prefix = i + 1,
            .flags = wants_output(c->request, c, i) ? OT_ROW_OUTPUT : 0,
        };
    enter_view(b, c);
}

static bool is_reader(const ot_choice *c)
{
    return c->state == OT_CHOICE_PREFILL && !c->in_batch;
}

static uint32_t left_to_read(const ot_choice *c)
{
    return c->n_text - c->n_computed;
}

/* The reader with least left to read but more than *after, or as much and further back in line; *after moves on to it. NULL: none. */
static ot_choice *next_reader(const ot_scheduler *s, uint64_t *after)
{
    ot_choice *best = NULL;
    uint64_t best_key = UINT64_MAX;
    for (uint32_t i = 0; i < s->line.n_active; i++) {
        uint64_t key = (uint64_t)left_to_read(s->line.active[i]) << 32 | (i + 1);
        if (is_reader(s->line.active[i]) && key > *after && key < best_key) {
            best = s->line.active[i];
            best_key = key;
        }
    }
    *after = best_key;
    return best;
}

/* Pieces of prompts, of `room` rows at most. */
static void add_prompts(ot_scheduler *s, uint32_t room)
{
    ot_step_batch *b = &s->batch;
    const uint32_t end = b->engine.n_rows + room;
    ot_choice *first = NULL;
    uint32_t n_readers = 0;
    for (uint32_t i = 0; i < s->line.n_active; i++) {
        if (!is_reader(s->line.active[i]))
            continue;
        first = n_readers == 0 ? s->line.active[i] : first;
        n_readers++;
    }
    if (first != NULL)
        add_chunk(s, first, n_readers == 1 ? room : (room + 1) / 2);
    uint64_t after = 0;
    for (ot_choice *c; b->engine.n_rows < end && (c = next_reader(s, &after)) != NULL;)
        add_chunk(s, c, end - b->engine.n_rows);
}

void ot_batch_compose(ot_scheduler *s)
{
    ot_step_batch *b = &s->batch;
    const uint32_t max = s->options.max_batch_tokens;
    b->engine = (ot_batch){.rows = b->rows, .sequences = b->views};
    b->n_turns = b->n_chunks = b->n_tails = b->n_insertions = b->n_prompt_rows = 0;
    b->left_out = false;
    s->decoder.n_steps++;
    ot_admit_waiting(s);
    ot_draft_models_run(s);
    if (s->batch.prompts_first)
        add_prompts(s, max / 2);
    add_turns(s);
    add_prompts(s, max - b->engine.n_rows);
    s->batch.prompts_first = b->n_prompt_rows < max / 8;
}
