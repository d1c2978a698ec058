/* Requests: one allocation each, laid out by running the same sequence of `take` twice, first to count, then to place. */
#include "scheduler/request.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/asserts.h"
#include "scheduler/heads-registry.h"
#include "scheduler/scheduler-state.h"

/* ---- Arena ----------------------------------------------------------------------------------------------- */

typedef struct arena {
    uint8_t *base; /* NULL while counting */
    size_t used;
    bool overflow;
} arena;

static void *take(arena *a, size_t n, size_t size)
{
    size_t bytes, end;
    if (__builtin_mul_overflow(n, size, &bytes) || __builtin_add_overflow(bytes, (size_t)15, &bytes) ||
        __builtin_add_overflow(a->used, bytes & ~(size_t)15, &end)) {
        a->overflow = true;
        return NULL;
    }
    void *at = a->base != NULL ? a->base + a->used : NULL;
    a->used = end;
    return at;
}

static void *copy(arena *a, const void *from, size_t n, size_t size)
{
    void *to = take(a, n, size);
    if (to != NULL && n > 0)
        memcpy(to, from, n * size);
    return to;
}

/* ---- Layout ---------------------------------------------------------------------------------------------- */

typedef struct sizes {
    uint32_t max_new, ring, held, longest_stop, n_embd;
} sizes;

static void lay_stops(arena *a, ot_request *r, const ot_request_params *p)
{
    ot_stop *stops = take(a, p->n_stops, sizeof *stops);
    for (uint32_t i = 0; i < p->n_stops; i++) {
        uint16_t size = (uint16_t)strlen(p->stops[i]);
        char *text = copy(a, p->stops[i], size, 1);
        uint16_t *fail = take(a, size, sizeof *fail);
        if (a->base == NULL)
            continue;
        ot_stop_prepare(text, size, fail);
        stops[i] = (ot_stop){text, size, fail};
    }
    if (r != NULL)
        r->stops = stops;
}

static void lay_choice(arena *a, ot_request *r, uint32_t index, const ot_request_params *p, const sizes *z)
{
    int32_t *tokens = take(a, (size_t)p->n_prompt + z->max_new, sizeof *tokens);
    ot_token_out *ring = take(a, z->ring, sizeof *ring);
    uint32_t *ends = take(a, z->ring, sizeof *ends);
    uint16_t *states = take(a, p->n_stops, sizeof *states);
    char *held = take(a, z->held, 1);
    if (r == NULL)
        return;
    ot_choice *c = &r->choices[index];
    c->request = r;
    c->index = index;
    c->state = index == 0 ? OT_CHOICE_WAITING : OT_CHOICE_IDLE;
    c->tokens = tokens;
    c->n_text = p->n_prompt;
    if (index == 0) /* the others get it when it has been read (iteration.c): many may wait, and untouched memory costs nothing */
        memcpy(tokens, p->prompt, p->n_prompt * sizeof *tokens);
    c->output = (ot_output){
        .ring = ring, .capacity = z->ring, .reserve = ot_output_reserve(z->held), .n_stops = p->n_stops,
        .stops = r->stops, .held = held, .held_capacity = z->held, .ends = ends, .states = states,
    };
}

/* With a->base NULL only counts. */
static void lay_out(arena *a, const ot_request_params *p, const sizes *z)
{
    size_t head;
    if (__builtin_mul_overflow((size_t)p->n_choices, sizeof(ot_choice), &head))
        a->overflow = true;
    else
        take(a, 1, sizeof(ot_request) + head);
    ot_request *r = (ot_request *)a->base;
    lay_stops(a, r, p);
    int32_t *stop_tokens = copy(a, p->stop_tokens, p->n_stop_tokens, sizeof *stop_tokens);
    int32_t *bias_tokens = copy(a, p->sampling.bias_tokens, p->sampling.n_bias, sizeof *bias_tokens);
    float *bias_values = copy(a, p->sampling.bias_values, p->sampling.n_bias, sizeof *bias_values);
    const ot_intervention *intervention = copy(a, &p->intervention, 1, sizeof p->intervention);
    float *logprob = take(a, p->prompt_logprobs ? p->n_prompt : 0, sizeof *logprob);
    ot_token_logprob *top = take(a, p->prompt_logprobs ? (size_t)p->n_prompt * p->top_logprobs : 0, sizeof *top);
    float *score = take(a, p->prompt_scores ? (size_t)p->n_prompt * p->intervention.n_signals : 0, sizeof *score);
    double *pooled = take(a, p->pooling != OT_POOL_NONE ? z->n_embd : 0, sizeof *pooled);
    if (r != NULL) {
        r->pooled = p->pooling != OT_POOL_NONE ? pooled : NULL;
        r->stop_tokens = stop_tokens;
        r->intervention = intervention;
        r->sampling = p->sampling;
        r->sampling.bias_tokens = bias_tokens;
        r->sampling.bias_values = bias_values;
        r->prompt_logprob = p->prompt_logprobs ? logprob : NULL;
        r->prompt_top = p->prompt_logprobs && p->top_logprobs > 0 ? top : NULL;
        r->prompt_score = p->prompt_scores && p->intervention.n_signals > 0 ? score : NULL;
    }
    for (uint32_t i = 0; i < p->n_choices && !a->overflow; i++)
        lay_choice(a, r, i, p, z);
}

static void resolve_signals(ot_resolved *out, const ot_intervention *v)
{
    for (uint32_t i = 0; i < v->n_signals; i++) {
        const ot_insertion *insertion = ot_head_insertion(v->signals[i].head);
        const ot_insertion_spec *spec = &ot_insertion_get_info(insertion)->spec;
        out->signals[i] = (ot_signal){
            .head = v->signals[i].head,
            .insertion = insertion,
            .output = v->signals[i].output,
            .weight = v->signals[i].weight,
            .bounded = spec->activation == OT_ACT_SIGMOID,
            .lookahead = spec->kind == OT_HEAD_LOOKAHEAD,
            .stats_index = OT_STATS_MAX_HEADS,
        };
        out->scores_rows |= !out->signals[i].lookahead;
    }
}

static ot_used_head resolve_use(const ot_head *head, uint32_t output)
{
    return (ot_used_head){
        .head = head,
        .insertion = head != NULL ? ot_head_insertion(head) : NULL,
        .output = output,
        .stats_index = OT_STATS_MAX_HEADS,
    };
}

/* All but the companions (ot_companions_attach). */
static ot_status resolve(ot_resolved *out, const ot_intervention *v, ot_error *err)
{
    resolve_signals(out, v);
    out->scores_candidates = ot_intervention_scores_candidates(v);
    out->steers_logits = v->experts.negative != NULL;
    out->positive = resolve_use(v->experts.positive, v->experts.positive_output);
    out->negative = resolve_use(v->experts.negative, v->experts.negative_output);
    out->draft = resolve_use(v->drafting.head, 0);
    return ot_request_collect_components(v, out->components, &out->n_components, err);
}

static void fill(ot_request *r, const ot_request_params *p, const sizes *z)
{
    r->owner = p->owner;
    r->client = p->client;
    r->priority = p->priority;
    r->first_choice = p->best_of_index;
    r->n_choices = r->n_unfinished = p->n_choices;
    r->n_prompt = p->n_prompt;
    r->max_new = z->max_new;
    r->min_tokens = p->min_tokens;
    r->grammar = p->grammar;
    r->ignore_eos = p->ignore_eos;
    r->logprobs = p->logprobs || p->top_logprobs > 0;
    r->prompt_logprobs = p->prompt_logprobs;
    r->prompt_scores = r->prompt_score != NULL;
    r->pooling = p->pooling;
    r->uses_cache = !p->no_prefix_cache;
    r->top_logprobs = p->top_logprobs;
    r->n_stops = p->n_stops;
    r->longest_stop = z->longest_stop;
    r->n_stop_tokens = p->n_stop_tokens;
    memcpy(r->cache_salt, p->cache_salt, sizeof r->cache_salt);
}

ot_status ot_request_build(ot_request **out, const ot_request_params *p, uint32_t max_new, uint32_t output_ring,
                           uint32_t longest_token, uint32_t n_embd, ot_error *err)
{
    *out = NULL;
    sizes z = {.max_new = max_new, .n_embd = n_embd};
    for (uint32_t i = 0; i < p->n_stops; i++)
        if (strlen(p->stops[i]) > z.longest_stop)
            z.longest_stop = (uint32_t)strlen(p->stops[i]);
    z.held = ot_output_held_bytes(z.longest_stop, longest_token);
    z.ring = ot_output_capacity(output_ring < max_new ? output_ring : max_new, z.held);
    arena a = {0};
    lay_out(&a, p, &z);
    if (!a.overflow)
        a.base = calloc(1, a.used);
    if (a.base == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "no memory for a request of %u tokens and %u choices", p->n_prompt, p->n_choices);
    ot_request *r = (ot_request *)a.base;
    atomic_init(&r->refs, 1);
    const size_t counted = a.used;
    a.used = 0;
    lay_out(&a, p, &z);
    OT_ASSERT(a.used == counted);
    fill(r, p, &z);
    ot_status st = resolve(&r->resolved, &p->intervention, err);
    if (st != OT_OK) {
        free(r);
        return st;
    }
    *out = r;
    return OT_OK;
}

void ot_request_unref(ot_request *r)
{
    const uint32_t refs = atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel);
    OT_ASSERT(refs > 0);
    if (refs > 1)
        return;
    if (r->scheduler != NULL) {
        ot_intervention held = *r->intervention;
        ot_intervention_release(&held);
        ot_grammar_release(&r->grammar);
        ot_scheduler_unref(r->scheduler);
    }
    free(r);
}

/* ---- Heads ----------------------------------------------------------------------------------------------- */

static ot_status add_component(const ot_head *head, ot_kv_component *out, uint32_t *n, ot_error *err)
{
    for (uint32_t i = 0; i < *n; i++)
        if (out[i].id == ot_head_serial(head))
            return OT_OK;
    for (uint32_t i = 0; i < ot_head_n_parents(head); i++) {
        ot_status st = add_component(ot_head_parent(head, i), out, n, err);
        if (st != OT_OK)
            return st;
    }
    if (*n == OT_KV_MAX_INSERTIONS)
        return ot_fail_param(err, OT_ERR_INVALID, "intervention", "a request can use %d insertions, with those they stand on",
                             OT_KV_MAX_INSERTIONS);
    out[(*n)++] = (ot_kv_component){ot_head_insertion(head), ot_head_serial(head)};
    return OT_OK;
}

/* Separate models keep their keys and values elsewhere. */
static ot_status add_insertion(const ot_head *head, ot_kv_component *out, uint32_t *n, ot_error *err)
{
    bool inserted = head != NULL && ot_head_get_role(head) == OT_ROLE_INSERTION;
    return inserted ? add_component(head, out, n, err) : OT_OK;
}

ot_status ot_request_collect_components(const ot_intervention *v, ot_kv_component *out, uint32_t *n, ot_error *err)
{
    *n = 0;
    ot_status st = OT_OK;
    for (uint32_t i = 0; i < v->n_signals && st == OT_OK; i++)
        st = add_insertion(v->signals[i].head, out, n, err);
    if (st == OT_OK)
        st = add_insertion(v->experts.positive, out, n, err);
    if (st == OT_OK)
        st = add_insertion(v->experts.negative, out, n, err);
    if (st == OT_OK)
        st = add_insertion(v->drafting.head, out, n, err);
    return st;
}

bool ot_intervention_scores_candidates(const ot_intervention *v)
{
    bool exact = false;
    for (uint32_t i = 0; i < v->n_signals; i++)
        exact |= v->signals[i].weight != 0 &&
                 ot_insertion_get_info(ot_head_insertion(v->signals[i].head))->spec.kind != OT_HEAD_LOOKAHEAD;
    return v->reward && exact;
}

static uint32_t scratch_slots(bool scores_candidates, uint32_t candidates, uint32_t keep)
{
    if (!scores_candidates)
        return 1;
    return keep > 0 && keep < candidates ? keep : candidates;
}

uint32_t ot_intervention_scratch_slots(const ot_intervention *v)
{
    return scratch_slots(ot_intervention_scores_candidates(v), v->candidates, v->lookahead_keep);
}

uint32_t ot_request_scratch_slots(const ot_request *r)
{
    return scratch_slots(r->resolved.scores_candidates, r->intervention->candidates, r->intervention->lookahead_keep);
}

/* ---- What other threads may ask -------------------------------------------------------------------------- */

void *ot_request_owner(const ot_request *r)
{
    return r->owner;
}

size_t ot_request_read(ot_request *r, uint32_t choice, ot_token_out *out, size_t max)
{
    if (choice >= r->n_choices)
        return 0;
    ot_choice *c = &r->choices[choice];
    size_t n = ot_output_read(&c->output, out, max);
    if (n > 0 && atomic_load(&c->reader_wakes) && atomic_exchange(&c->reader_wakes, false))
        ot_scheduler_wake(r->scheduler);
    return n;
}

ot_finish ot_request_finish(const ot_request *r, uint32_t choice)
{
    if (choice >= r->n_choices)
        return OT_FINISH_NONE;
    const ot_choice *c = &r->choices[choice];
    ot_finish finish = (ot_finish)atomic_load_explicit(&c->finish, memory_order_acquire);
    return ot_output_is_empty(&c->output) ? finish : OT_FINISH_NONE;
}

ot_refusal ot_request_refusal(const ot_request *r, uint32_t choice)
{
    bool filtered = ot_request_finish(r, choice) == OT_FINISH_FILTER;
    return filtered ? r->choices[choice].refused : (ot_refusal){.token = -1};
}

bool ot_request_done(const ot_request *r)
{
    for (uint32_t i = 0; i < r->n_choices; i++)
        if (ot_request_finish(r, i) == OT_FINISH_NONE)
            return false;
    return true;
}

const ot_error *ot_request_error(const ot_request *r)
{
    return &r->error;
}

ot_prompt_out ot_request_prompt(const ot_request *r)
{
    return (ot_prompt_out){
        .logprobs = r->prompt_logprob,
        .top = r->prompt_top,
        .scores = r->prompt_score,
        .pooled = r->pooled,
        .last_scores = r->intervention->n_signals > 0 ? r->last_scores : NULL,
        .cached_tokens = atomic_load_explicit(&r->cached_tokens_seen, memory_order_relaxed),
    };
}

ot_request_usage ot_request_get_usage(const ot_request *r)
{
    return (ot_request_usage){
        .prompt_tokens = r->n_prompt,
        .cached_tokens = atomic_load_explicit(&r->cached_tokens_seen, memory_order_relaxed),
        .completion_tokens = atomic_load_explicit(&r->completion_tokens, memory_order_relaxed),
        .accepted_prediction_tokens = atomic_load_explicit(&r->accepted_drafts, memory_order_relaxed),
        .rejected_prediction_tokens = atomic_load_explicit(&r->rejected_drafts, memory_order_relaxed),
        .candidates_scored = atomic_load_explicit(&r->candidates_scored, memory_order_relaxed),
        .changed_tokens = atomic_load_explicit(&r->changed_tokens, memory_order_relaxed),
        .steps_to_first_token = atomic_load_explicit(&r->steps_to_first_token, memory_order_relaxed),
    };
}
