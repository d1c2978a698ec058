/* Who holds pages. Choices that hold some are *active*; the others *wait*.
 *
 * A choice is admitted with the units for its whole text, so that reading it never runs short; while it decodes it takes a page at a
 * time. When units run out, a choice gives its pages back and will read its text again later (preemption by recomputation), most of
 * it from the prefix cache where its pages are still there. Who gives way to whom:
 *
 *   For a page that a decoding choice needs, one that is behind it in line: less urgent, or with a later seat. So the first in line
 *   always advances, and since a choice alone always fits (checked at submission) so does everyone in the end.
 *
 *   For a place (max_sequences), or the pages to begin, one that has used its time slice: OT_TIME_SLICE turns, or more of a long text
 *   if reading that again would cost much. It gets a new seat, behind all others. That happens only when somebody waits, and not
 *   for one who is less urgent, or whose client has had more.
 *
 *   For anyone, one whose reader is behind: a slow reader holds nobody up.
 *
 * Of those who wait the most urgent comes first (the lowest priority), then the one whose client has had the fewest rows, then the
 * earliest seat. But who has waited for OT_PATIENCE steps comes before all of them. Nothing here can starve: a short request starts
 * within a slice of those that run and of those before it in line, and a long one is back in line after each of its slices. Who has
 * just had a slice takes only what is free for as long as one lasts, and lets others pass who need more. */
#include "scheduler/steps/choice-pages.h"

#include "base/asserts.h"
#include "base/clock.h"
#include "scheduler/lifecycle.h"
#include "scheduler/scheduler-state.h"

/* ---- Lists ----------------------------------------------------------------------------------------------- */

bool ot_choice_is_before(const ot_choice *a, const ot_choice *b)
{
    if (a->urgency != b->urgency)
        return a->urgency < b->urgency;
    if (a->seat != b->seat)
        return a->seat < b->seat;
    return a->index < b->index;
}

void ot_waiting_insert(ot_scheduler *s, ot_choice *c)
{
    OT_ASSERT(c->next == NULL && c->prev == NULL);
    c->prev = s->line.waiting_last;
    if (c->prev != NULL)
        c->prev->next = c;
    else
        s->line.waiting_first = c;
    s->line.waiting_last = c;
    c->waits_since = s->decoder.n_steps;
    c->state = OT_CHOICE_WAITING;
}

void ot_waiting_remove(ot_scheduler *s, ot_choice *c)
{
    if (c->next != NULL)
        c->next->prev = c->prev;
    else
        s->line.waiting_last = c->prev;
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        s->line.waiting_first = c->next;
    c->next = c->prev = NULL;
}

static void active_insert(ot_scheduler *s, ot_choice *c, int32_t urgency)
{
    OT_ASSERT(s->line.n_active < s->options.max_sequences);
    c->urgency = urgency;
    c->n_turns = 0;
    c->had_slice = false;
    uint32_t at = s->line.n_active++;
    for (; at > 0 && ot_choice_is_before(c, s->line.active[at - 1]); at--)
        s->line.active[at] = s->line.active[at - 1];
    s->line.active[at] = c;
}

void ot_active_remove(ot_scheduler *s, ot_choice *c)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < s->line.n_active; i++)
        if (s->line.active[i] != c)
            s->line.active[kept++] = s->line.active[i];
    OT_ASSERT(kept + 1 == s->line.n_active);
    s->line.n_active = kept;
}

/* ---- Slow readers ---------------------------------------------------------------------------------------- */

bool ot_waits_for_reader(ot_choice *c)
{
    if (!c->out_of_room && ot_output_has_room(&c->output))
        return false;
    /* Say that we wait, then look again: the reader stores what it took before it looks whether we wait. */
    c->out_of_room = true;
    atomic_store(&c->reader_wakes, true);
    atomic_thread_fence(memory_order_seq_cst);
    if (!ot_output_is_half_empty(&c->output))
        return true;
    atomic_store(&c->reader_wakes, false);
    c->out_of_room = false;
    return false;
}

/* ---- Preemption ------------------------------------------------------------------------------------------ */

static void preempt(ot_scheduler *s, ot_choice *c)
{
    ot_pages_clear(c);
    c->n_computed = 0;
    ot_active_remove(s, c);
    ot_waiting_insert(s, c);
    s->stats.preemptions++;
}

/* One whose reader is behind, the last in line; its pages and its place are anyone's. */
static ot_choice *find_idle(const ot_scheduler *s, const ot_choice *c, uint32_t n_slots)
{
    for (uint32_t i = s->line.n_active; i-- > 0;) {
        ot_choice *v = s->line.active[i];
        if (v->out_of_room && !v->in_batch && v != c && (n_slots == 0 || ot_pages_would_help(c, n_slots, v)))
            return v;
    }
    return NULL;
}

static ot_choice *find_last_behind(const ot_scheduler *s, const ot_choice *c, uint32_t n_slots)
{
    for (uint32_t i = s->line.n_active; i-- > 0;) {
        ot_choice *v = s->line.active[i];
        if (!v->in_batch && ot_choice_is_before(c, v) && ot_pages_would_help(c, n_slots, v))
            return v;
    }
    return NULL;
}

bool ot_make_room(ot_scheduler *s, ot_choice *c, uint32_t n_slots)
{
    while (!ot_pages_reserve(c, n_slots)) {
        ot_choice *victim = find_idle(s, c, n_slots);
        if (victim == NULL)
            victim = find_last_behind(s, c, n_slots);
        if (victim == NULL)
            return false;
        preempt(s, victim);
    }
    return true;
}

/* ---- Time slices ----------------------------------------------------------------------------------------- */

static bool is_out_of_patience(const ot_scheduler *s, const ot_choice *c)
{
    return s->decoder.n_steps - c->waits_since >= OT_PATIENCE;
}

/* Whether the choice has had its turns for this time. Where its pages are taken, or are not to be found again, it will have to read
 * its text once more, which costs about as much as an eighth of as many turns. */
static bool has_used_slice(const ot_choice *v, bool loses_pages)
{
    uint32_t turns = OT_TIME_SLICE;
    if ((loses_pages || !v->request->uses_cache) && v->n_text / 8 > turns)
        turns = v->n_text / 8;
    return v->state == OT_CHOICE_DECODE && v->n_turns >= turns;
}

/* Whether v, which has used its slice, makes way for c, which waits. */
static bool gives_way(const ot_scheduler *s, const ot_choice *v, const ot_choice *c)
{
    const ot_request *theirs = v->request, *ours = c->request;
    if (is_out_of_patience(s, c))
        return true;
    return theirs->priority > ours->priority ||
           (theirs->priority == ours->priority && theirs->account->n_rows >= ours->account->n_rows);
}

/* The better one to make way: the least urgent, then of the client that has had most, then the one that has run longest. */
static bool makes_way_rather(const ot_choice *a, const ot_choice *b)
{
    if (a->request->priority != b->request->priority)
        return a->request->priority > b->request->priority;
    if (a->request->account->n_rows != b->request->account->n_rows)
        return a->request->account->n_rows > b->request->account->n_rows;
    return a->n_turns > b->n_turns;
}

static ot_choice *find_used_slice(const ot_scheduler *s, const ot_choice *c, uint32_t n_slots)
{
    ot_choice *best = NULL;
    for (uint32_t i = 0; i < s->line.n_active; i++) {
        ot_choice *v = s->line.active[i];
        if (!v->in_batch && has_used_slice(v, n_slots > 0) && gives_way(s, v, c) &&
            (n_slots == 0 || ot_pages_would_help(c, n_slots, v)) && (best == NULL || makes_way_rather(v, best)))
            best = v;
    }
    return best;
}

/* Who has just had a slice does not end another's at once: or one newcomer would set all of them in motion. */
static bool is_resting(const ot_scheduler *s, const ot_choice *c)
{
    return c->had_slice && s->decoder.n_steps - c->waits_since < OT_TIME_SLICE;
}

static bool has_many_readers(const ot_scheduler *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->line.n_active; i++)
        n += s->line.active[i]->state == OT_CHOICE_PREFILL;
    return n >= OT_MAX_READERS;
}

/* Takes a place, or pages (n_slots > 0), from somebody for one who waits. */
static bool take_from_others(ot_scheduler *s, const ot_choice *c, uint32_t n_slots)
{
    ot_choice *victim = find_idle(s, c, n_slots);
    bool ends_slice = victim == NULL;
    if (ends_slice && !is_resting(s, c) && !has_many_readers(s))
        victim = find_used_slice(s, c, n_slots);
    if (victim == NULL)
        return false;
    preempt(s, victim);
    victim->had_slice = ends_slice;
    victim->seat = ends_slice ? s->line.next_seat++ : victim->seat;
    return true;
}

/* ---- Admission ------------------------------------------------------------------------------------------- */

/* Maps what the prefix cache has of the text. Unless something is pending, the last token must run: its logits are
 * wanted. A request that wants results of every prompt row runs them all, once. */
static uint32_t match_prefix(ot_choice *c)
{
    const ot_request *r = c->request;
    if (!r->uses_cache || ((r->prompt_logprobs || r->prompt_scores || r->pooling == OT_POOL_MEAN) && !r->prompt_done))
        return 0;
    return ot_pages_match(c, c->pending.n > 0 ? c->n_text : c->n_text - 1);
}

static void note_first_admission(ot_scheduler *s, ot_request *r, uint32_t matched)
{
    if (r->was_admitted)
        return;
    r->was_admitted = true;
    r->cached_tokens = matched;
    atomic_store_explicit(&r->cached_tokens_seen, matched, memory_order_relaxed);
    pthread_mutex_lock(&s->inbox.lock);
    s->inbox.n_waiting--;
    pthread_mutex_unlock(&s->inbox.lock);
    if (s->options.prefix_cache) {
        s->stats.prefix_cache_queries += r->n_prompt;
        s->stats.prefix_cache_hits += matched;
    }
    r->admitted_s = ot_clock_s();
    ot_histogram_observe(&s->stats.queue_time_s, r->admitted_s - r->submitted_s);
}

/* False if the units do not suffice. */
static bool admit(ot_scheduler *s, ot_choice *c)
{
    uint32_t matched = match_prefix(c);
    uint32_t want = c->n_text + ot_request_scratch_slots(c->request);
    while (!ot_pages_reserve(c, want))
        if (!take_from_others(s, c, want)) {
            ot_pages_clear(c);
            return false;
        }
    ot_waiting_remove(s, c);
    active_insert(s, c, is_out_of_patience(s, c) ? INT32_MIN : c->request->priority);
    c->n_computed = matched;
    c->n_charged = matched > c->n_charged ? matched : c->n_charged;
    c->state = matched == c->n_text ? OT_CHOICE_DECODE : OT_CHOICE_PREFILL;
    note_first_admission(s, c->request, matched);
    return true;
}

/* Whether a comes before b, of two that wait. */
static bool waits_before(const ot_scheduler *s, const ot_choice *a, const ot_choice *b)
{
    bool a_is_first = is_out_of_patience(s, a), b_is_first = is_out_of_patience(s, b);
    if (a_is_first != b_is_first)
        return a_is_first;
    if (!a_is_first && a->request->priority != b->request->priority)
        return a->request->priority < b->request->priority;
    if (!a_is_first && a->request->account->n_rows != b->request->account->n_rows)
        return a->request->account->n_rows < b->request->account->n_rows;
    return a->seat != b->seat ? a->seat < b->seat : a->index < b->index;
}

/* Who comes first, of all or only of those that may take from others. NULL: nobody can go on. */
static ot_choice *first_in_line(ot_scheduler *s, bool only_rested)
{
    ot_choice *first = NULL;
    for (ot_choice *c = s->line.waiting_first; c != NULL; c = c->next)
        if ((first == NULL || waits_before(s, c, first)) && !(only_rested && is_resting(s, c)) && !ot_waits_for_reader(c))
            first = c;
    return first;
}

static bool has_place(ot_scheduler *s, const ot_choice *c)
{
    return s->line.n_active < s->options.max_sequences || take_from_others(s, c, 0);
}

/* True if c has been admitted, or has ended: should memory run out. Then it ends alone, as others of its request may be in the batch
 * already; but before the prompt has been read they all wait for this one. */
static bool try_admit(ot_scheduler *s, ot_choice *c)
{
    if (!has_place(s, c))
        return false;
    if (ot_pages_open(s, c, &c->request->error) == OT_OK)
        return admit(s, c);
    if (c->request->prompt_done)
        ot_choice_end(s, c, OT_FINISH_ERROR);
    else
        ot_request_end(s, c->request, OT_FINISH_ERROR, NULL);
    return true;
}

void ot_admit_waiting(ot_scheduler *s)
{
    for (ot_choice *c; (c = first_in_line(s, false)) != NULL;)
        if (!try_admit(s, c) && (!is_resting(s, c) || (c = first_in_line(s, true)) == NULL || !try_admit(s, c)))
            return;
}

/* ---- Choices of one prompt ------------------------------------------------------------------------------- */

static bool fork_choice(ot_scheduler *s, ot_choice *c, const ot_choice *first)
{
    ot_error err;
    if (s->line.n_active == s->options.max_sequences || ot_pages_open(s, c, &err) != OT_OK ||
        !ot_pages_fork(c, first, c->n_text))
        return false;
    c->n_computed = c->n_text;
    c->n_charged = c->n_text;
    c->state = OT_CHOICE_DECODE;
    active_insert(s, c, first->urgency);
    return true;
}

void ot_start_siblings(ot_scheduler *s, ot_choice *first)
{
    ot_request *r = first->request;
    bool forks = true; /* once one has to wait, those after it do, too: in order */
    for (uint32_t i = 0; i < r->n_choices; i++) {
        ot_choice *c = &r->choices[i];
        if (c->state != OT_CHOICE_IDLE)
            continue;
        forks = forks && first->seq != NULL && fork_choice(s, c, first);
        if (!forks)
            ot_waiting_insert(s, c);
    }
}
