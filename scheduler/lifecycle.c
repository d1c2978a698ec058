/* Beginnings and ends: requests that arrive, choices that finish, cancellations, and telling others about it. Everything that a
 * choice holds (pages, its place in a list) is given back in ot_choice_end and nowhere else. The request itself stays until
 * the end of the step, since the step's records point to it. */
#include "scheduler/lifecycle.h"

#include <stdio.h>
#include <string.h>

#include "base/asserts.h"
#include "base/clock.h"
#include "scheduler/steps/choice-pages.h"
#include "scheduler/companion.h"
#include "scheduler/counters.h"
#include "scheduler/heads-registry.h"
#include "scheduler/scheduler-state.h"
#include "scheduler/policies/constrain.h"

/* ---- Beginning ------------------------------------------------------------------------------------------- */

static bool is_counted_at(const ot_stats *stats, uint32_t i, const ot_head *head)
{
    return strcmp(stats->heads[i].name, ot_head_name(head)) == 0 && strcmp(stats->heads[i].file, ot_head_file(head)) == 0;
}

/* Whether what is counted at a place was unloaded, or replaced under its name, and nobody uses it any more. */
static bool is_gone(const ot_scheduler *s, uint32_t i)
{
    ot_head *head = NULL;
    uint32_t output;
    bool loaded = ot_heads_find(s->heads, s->stats.heads[i].name, &head, &output, NULL) == OT_OK && is_counted_at(&s->stats, i, head);
    ot_head_release(&head);
    return !loaded && s->stats.heads[i].running_requests == 0;
}

/* Where a head is counted: by its name and its file, so that one put in another's place begins anew. Counters stay until their place is
 * needed and their head is gone. */
static uint32_t find_stats_head(ot_scheduler *s, const ot_head *head)
{
    static const double score_bounds[] = {0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1};
    ot_stats *stats = &s->stats;
    uint32_t at = 0;
    for (uint32_t i = 0; i < stats->n_heads; i++)
        if (is_counted_at(stats, i, head))
            return i;
    if (stats->n_heads < OT_STATS_MAX_HEADS)
        at = stats->n_heads++;
    else
        while (at < OT_STATS_MAX_HEADS && !is_gone(s, at))
            at++;
    if (at == OT_STATS_MAX_HEADS)
        return at;
    snprintf(stats->heads[at].name, sizeof stats->heads[at].name, "%s", ot_head_name(head));
    snprintf(stats->heads[at].file, sizeof stats->heads[at].file, "%s", ot_head_file(head));
    ot_histogram_init(&stats->heads[at].score, score_bounds, sizeof score_bounds / sizeof score_bounds[0]);
    return at;
}

/* A head's name in the counters, and where the request keeps its number. */
typedef struct head_count {
    const ot_head *head;
    uint32_t *at;
} head_count;

static uint32_t heads_of(ot_request *r, head_count *out)
{
    ot_used_head *used[] = {&r->resolved.positive, &r->resolved.negative, &r->resolved.draft};
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->intervention->n_signals; i++)
        out[n++] = (head_count){r->resolved.signals[i].head, &r->resolved.signals[i].stats_index};
    for (size_t i = 0; i < sizeof used / sizeof used[0]; i++)
        if (used[i]->head != NULL)
            out[n++] = (head_count){used[i]->head, &used[i]->stats_index};
    return n;
}

static void count_head_use(ot_scheduler *s, ot_request *r, bool begins)
{
    head_count heads[OT_MAX_SIGNALS + 3];
    uint32_t n = heads_of(r, heads);
    for (uint32_t i = 0; i < n; i++) {
        if (begins)
            *heads[i].at = find_stats_head(s, heads[i].head);
        uint32_t at = *heads[i].at;
        bool counted = at == OT_STATS_MAX_HEADS;
        for (uint32_t j = 0; j < i && !counted; j++)
            counted = *heads[j].at == at; /* used twice */
        if (!counted)
            s->stats.heads[at].running_requests += begins ? 1 : -(uint64_t)1;
    }
}

void ot_request_begin(ot_scheduler *s, ot_request *r)
{
    r->live_next = s->live;
    if (s->live != NULL)
        s->live->live_prev = r;
    s->live = r;
    r->begun_step = s->decoder.n_steps;
    r->account = ot_fair_share_enter(&s->line.fair_share, r->client);
    for (uint32_t i = 0; i < r->n_choices; i++)
        r->choices[i].seat = s->line.next_seat;
    s->line.next_seat++;
    ot_waiting_insert(s, &r->choices[0]);
    if (r->intervention->reward)
        s->stats.intervention_requests[OT_MODE_REWARD]++;
    if (r->resolved.steers_logits)
        s->stats.intervention_requests[OT_MODE_EXPERTS]++;
    if (r->intervention->guard != OT_GUARD_NONE)
        s->stats.intervention_requests[OT_MODE_GUARD]++;
    s->stats.constrained_requests += r->grammar != NULL;
    if (r->intervention->drafting.max_draft > 0)
        s->stats.intervention_requests[OT_MODE_SPECULATIVE]++;
    if (r->intervention->n_signals > 0 && !r->intervention->reward && r->intervention->guard == OT_GUARD_NONE)
        s->stats.intervention_requests[OT_MODE_SIGNALS]++;
    count_head_use(s, r, true);
}

/* ---- End ------------------------------------------------------------------------------------------------- */

static void finish_request(ot_scheduler *s, ot_request *r)
{
    if (r->live_next != NULL)
        r->live_next->live_prev = r->live_prev;
    if (r->live_prev != NULL)
        r->live_prev->live_next = r->live_next;
    else
        s->live = r->live_next;
    count_head_use(s, r, false);
    ot_fair_share_leave(r->account);
    if (!r->was_admitted) {
        pthread_mutex_lock(&s->inbox.lock);
        s->inbox.n_waiting--;
        pthread_mutex_unlock(&s->inbox.lock);
    }
    ot_count_request(s, r);
    r->ended_next = s->ended;
    s->ended = r;
}

void ot_choice_end(ot_scheduler *s, ot_choice *c, ot_finish finish)
{
    ot_request *r = c->request;
    if (c->state == OT_CHOICE_FINISHED)
        return;
    if (c->state == OT_CHOICE_WAITING)
        ot_waiting_remove(s, c);
    else if (c->state != OT_CHOICE_IDLE)
        ot_active_remove(s, c);
    c->state = OT_CHOICE_FINISHED;
    ot_pages_close(c);
    ot_constrain_end(c);
    ot_output_flush(&c->output, s->decoder.text_scratch);
    c->ended_as = finish;
    ot_note_news(s, r);
    OT_ASSERT(r->n_unfinished > 0);
    if (--r->n_unfinished == 0)
        finish_request(s, r);
}

void ot_request_end(ot_scheduler *s, ot_request *r, ot_finish finish, const ot_error *err)
{
    if (err != NULL)
        r->error = *err;
    for (uint32_t i = 0; i < r->n_choices; i++)
        ot_choice_end(s, &r->choices[i], finish);
}

static int phase_of(const ot_request *r)
{
    if (!r->was_admitted)
        return OT_PHASE_QUEUE;
    if (!r->prompt_done)
        return OT_PHASE_PREFILL;
    return r->intervention->reward ? OT_PHASE_CANDIDATES : OT_PHASE_DECODE;
}

void ot_take_cancellations(ot_scheduler *s)
{
    if (!atomic_exchange(&s->cancel_asked, false))
        return;
    ot_request *next;
    for (ot_request *r = s->live; r != NULL; r = next) {
        next = r->live_next;
        if (!atomic_load_explicit(&r->cancelled, memory_order_acquire))
            continue;
        s->stats.cancelled[phase_of(r)]++;
        ot_request_end(s, r, OT_FINISH_CANCELLED, NULL);
    }
}

/* ---- Announcing ------------------------------------------------------------------------------------------ */

void ot_note_news(ot_scheduler *s, ot_request *r)
{
    if (r->has_news)
        return;
    r->has_news = true;
    r->news_next = s->news;
    s->news = r;
}

/* Under ready_lock. */
static bool push_ready(ot_scheduler *s, ot_request *r)
{
    if (r->released || r->in_ready)
        return false;
    r->in_ready = true;
    r->ready_next = NULL;
    r->ready_prev = s->outbox.last;
    if (s->outbox.last != NULL)
        s->outbox.last->ready_next = r;
    else
        s->outbox.first = r;
    s->outbox.last = r;
    return true;
}

/* Readers see an end only now, when the counters that others may look at have it. */
static void publish_ends(ot_request *r)
{
    for (uint32_t i = 0; i < r->n_choices; i++)
        if (r->choices[i].ended_as != OT_FINISH_NONE)
            atomic_store_explicit(&r->choices[i].finish, r->choices[i].ended_as, memory_order_release);
}

void ot_announce(ot_scheduler *s)
{
    bool pushed = false;
    if (s->news != NULL) {
        pthread_mutex_lock(&s->outbox.lock);
        while (s->news != NULL) {
            ot_request *r = s->news;
            s->news = r->news_next;
            r->has_news = false;
            publish_ends(r);
            pushed |= push_ready(s, r);
        }
        pthread_cond_broadcast(&s->outbox.cond);
        pthread_mutex_unlock(&s->outbox.lock);
    }
    while (s->ended != NULL) {
        ot_request *r = s->ended;
        s->ended = r->ended_next;
        atomic_fetch_sub(&s->n_live, 1);
        ot_request_unref(r);
    }
    if (pushed && s->options.on_output != NULL)
        s->options.on_output(s->options.on_output_ctx);
}
