/* Who holds pages. Choices that hold some are *active*; the others *wait*. Both are kept in order of arrival.
 *
 * A choice is admitted with the units for its whole text, so that reading it never runs short; while it decodes it takes a page at a
 * time. When units run out, the choice that arrived last gives its pages back and will read its text again later
 * (preemption by recomputation). Three rules make that safe: a choice alone always fits (checked at submission), only
 * later arrivals are preempted for a decoding choice, so the earliest always advances, and one whose reader is behind
 * may be preempted for anyone, so a slow reader holds nobody up. */
#include "scheduler/steps/choice-pages.h"
#include "scheduler/core.h"
#include "scheduler/policies/policy.h"

/* ---- Lists ----------------------------------------------------------------------------------------------- */

bool ot_choice_is_before(const ot_choice *a, const ot_choice *b)
{
    if (a->request->arrival != b->request->arrival)
        return a->request->arrival < b->request->arrival;
    return a->index < b->index;
}

void ot_waiting_insert(ot_scheduler *s, ot_choice *c)
{
    ot_choice *after = s->waiting_last;
    while (after != NULL && ot_choice_is_before(c, after))
        after = after->prev;
    c->prev = after;
    c->next = after != NULL ? after->next : s->waiting_first;
    if (c->next != NULL)
        c->next->prev = c;
    else
        s->waiting_last = c;
    if (after != NULL)
        after->next = c;
    else
        s->waiting_first = c;
    c->state = OT_CHOICE_WAITING;
}

void ot_waiting_remove(ot_scheduler *s, ot_choice *c)
{
    if (c->next != NULL)
        c->next->prev = c->prev;
    else
        s->waiting_last = c->prev;
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        s->waiting_first = c->next;
    c->next = c->prev = NULL;
}

static void active_insert(ot_scheduler *s, ot_choice *c)
{
    uint32_t at = s->n_active++;
    for (; at > 0 && ot_choice_is_before(c, s->active[at - 1]); at--)
        s->active[at] = s->active[at - 1];
    s->active[at] = c;
}

void ot_active_remove(ot_scheduler *s, ot_choice *c)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < s->n_active; i++)
        if (s->active[i] != c)
            s->active[kept++] = s->active[i];
    s->n_active = kept;
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

/* The choice whose pages c may have: one whose reader is behind, else one that arrived later; the latest first. n_slots: what c
 * wants to hold; 0: it wants no pages but a place. */
static ot_choice *find_victim(const ot_scheduler *s, const ot_choice *c, uint32_t n_slots, bool only_idle)
{
    for (uint32_t i = s->n_active; i-- > 0;) {
        ot_choice *v = s->active[i];
        if (v->out_of_room && !v->in_batch && v != c && (n_slots == 0 || ot_pages_would_help(c, n_slots, v)))
            return v;
    }
    for (uint32_t i = s->n_active; i-- > 0 && !only_idle;) {
        ot_choice *v = s->active[i];
        if (!v->in_batch && ot_choice_is_before(c, v) && (n_slots == 0 || ot_pages_would_help(c, n_slots, v)))
            return v;
    }
    return NULL;
}

bool ot_make_room(ot_scheduler *s, ot_choice *c, uint32_t n_slots)
{
    while (!ot_pages_reserve(c, n_slots)) {
        ot_choice *victim = find_victim(s, c, n_slots, false);
        if (victim == NULL)
            return false;
        preempt(s, victim);
    }
    return true;
}

/* ---- Admission ------------------------------------------------------------------------------------------- */

/* Maps what the prefix cache has of the text. Unless something is pending, the last token must run: its logits are
 * wanted. A request that wants results of every prompt row runs them all, once. */
static uint32_t match_prefix(ot_choice *c)
{
    const ot_request *r = c->request;
    if (!r->uses_cache || ((r->prompt_logprobs || r->prompt_scores) && !r->prompt_done))
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
    pthread_mutex_lock(&s->lock);
    s->n_waiting--;
    pthread_mutex_unlock(&s->lock);
    if (s->options.prefix_cache) {
        s->stats.prefix_cache_queries += r->n_prompt;
        s->stats.prefix_cache_hits += matched;
    }
    ot_histogram_observe(&s->stats.queue_time_s, ot_clock_s() - r->submitted_s);
}

/* False, and nothing has changed, if the units do not suffice. */
static bool admit(ot_scheduler *s, ot_choice *c)
{
    uint32_t matched = match_prefix(c);
    uint32_t want = c->n_text + ot_request_scratch_slots(c->request);
    while (!ot_pages_reserve(c, want)) {
        ot_choice *victim = find_victim(s, c, want, true);
        if (victim == NULL) {
            ot_pages_clear(c);
            return false;
        }
        preempt(s, victim);
    }
    ot_waiting_remove(s, c);
    active_insert(s, c);
    c->n_computed = matched;
    c->state = matched == c->n_text ? OT_CHOICE_DECODE : OT_CHOICE_PREFILL;
    note_first_admission(s, c->request, matched);
    return true;
}

/* A place among the active, if need be that of a choice whose reader is behind. */
static bool find_place(ot_scheduler *s, const ot_choice *c)
{
    if (s->n_active < s->options.max_sequences)
        return true;
    ot_choice *victim = find_victim(s, c, 0, true);
    if (victim != NULL)
        preempt(s, victim);
    return victim != NULL;
}

ot_choice *ot_admit_next(ot_scheduler *s)
{
    ot_choice *next;
    for (ot_choice *c = s->waiting_first; c != NULL; c = next) {
        next = c->next;
        if (ot_waits_for_reader(c))
            continue;
        if (!find_place(s, c))
            return NULL;
        if (ot_pages_open(s, c, &c->request->error) == OT_OK)
            return admit(s, c) ? c : NULL;
        /* Should memory run out, this choice ends alone, as others of its request may be in the batch already; but before the prompt has
         * been read they all wait for this one. */
        if (c->request->prompt_done)
            ot_choice_end(s, c, OT_FINISH_ERROR);
        else
            ot_request_end(s, c->request, OT_FINISH_ERROR, NULL);
    }
    return NULL;
}

/* ---- Choices of one prompt ------------------------------------------------------------------------------- */

static bool fork_choice(ot_scheduler *s, ot_choice *c, const ot_choice *first)
{
    ot_error err;
    if (s->n_active == s->options.max_sequences || ot_pages_open(s, c, &err) != OT_OK ||
        !ot_pages_fork(c, first, c->n_text))
        return false;
    c->n_computed = c->n_text;
    c->state = OT_CHOICE_DECODE;
    active_insert(s, c);
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
