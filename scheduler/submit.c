/* The way in: parameters are checked and copied on the submitting thread, then all requests of a call enter the queue together,
 * or none does. Every number that sizes something is bounded here. */
#include "scheduler/policies/policy.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "scheduler/companion.h"
#include "scheduler/intervention-members.h"
#include "scheduler/scheduler-state.h"

/* ---- Checks ---------------------------------------------------------------------------------------------- */

static bool in_range(float x, float low, float high)
{
    return isfinite(x) && x >= low && x <= high;
}

static ot_status check_sampling(const ot_scheduler *s, const ot_sampling *p, ot_error *err)
{
    if (!in_range(p->temperature, 0, 100))
        return ot_fail_param(err, OT_ERR_INVALID, "temperature", "temperature must lie in 0..100");
    if (!in_range(p->top_p, 0, 1) || p->top_p <= 0)
        return ot_fail_param(err, OT_ERR_INVALID, "top_p", "top_p must be above 0 and at most 1");
    if (!in_range(p->min_p, 0, 1))
        return ot_fail_param(err, OT_ERR_INVALID, "min_p", "min_p must lie in 0..1");
    if (!in_range(p->presence_penalty, -2, 2))
        return ot_fail_param(err, OT_ERR_INVALID, "presence_penalty", "presence_penalty must lie in -2..2");
    if (!in_range(p->frequency_penalty, -2, 2))
        return ot_fail_param(err, OT_ERR_INVALID, "frequency_penalty", "frequency_penalty must lie in -2..2");
    if (!in_range(p->repetition_penalty, 0, 100) || p->repetition_penalty <= 0)
        return ot_fail_param(err, OT_ERR_INVALID, "repetition_penalty", "repetition_penalty must be above 0 and at most 100");
    for (uint32_t i = 0; i < p->n_bias; i++) {
        if (p->bias_tokens[i] < 0 || (uint32_t)p->bias_tokens[i] >= s->decoder.n_vocab)
            return ot_fail_param(err, OT_ERR_INVALID, "logit_bias", "token %d is not in the vocabulary of %u",
                                 p->bias_tokens[i], s->decoder.n_vocab);
        if (!in_range(p->bias_values[i], -100, 100))
            return ot_fail_param(err, OT_ERR_INVALID, "logit_bias", "the bias of token %d must lie in -100..100",
                                 p->bias_tokens[i]);
    }
    return OT_OK;
}

static ot_status check_tokens(const ot_scheduler *s, const int32_t *tokens, uint32_t n, const char *param, ot_error *err)
{
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= s->decoder.n_vocab)
            return ot_fail_param(err, OT_ERR_INVALID, param, "token %d at %u is not in the vocabulary of %u", tokens[i], i,
                                 s->decoder.n_vocab);
    return OT_OK;
}

static ot_status check_stops(const ot_request_params *p, ot_error *err)
{
    if (p->n_stops > OT_MAX_STOPS)
        return ot_fail_param(err, OT_ERR_INVALID, "stop", "%u stop strings; at most %d", p->n_stops, OT_MAX_STOPS);
    for (uint32_t i = 0; i < p->n_stops; i++) {
        size_t size = strlen(p->stops[i]);
        if (size == 0 || size > OT_MAX_STOP_BYTES)
            return ot_fail_param(err, OT_ERR_INVALID, "stop", "a stop string has 1 to %d bytes, not %zu", OT_MAX_STOP_BYTES,
                                 size);
    }
    return OT_OK;
}

/* Heads that know a token's score only before its row runs have none of a prompt. */
static ot_status check_prompt_scores(const ot_request_params *p, ot_error *err)
{
    const ot_intervention *v = &p->intervention;
    for (uint32_t i = 0; i < v->n_signals && (p->prompt_scores || p->max_tokens == 0); i++)
        if (ot_insertion_get_info(ot_head_insertion(v->signals[i].head))->spec.kind == OT_HEAD_LOOKAHEAD)
            return ot_fail_param(err, OT_ERR_INVALID, "heads", "lookahead head '%.60s' scores tokens to come, not a prompt",
                                 v->signals[i].name);
    return OT_OK;
}

/* The longest text that a request with these heads can ever hold: its context, or all units of the KV memory. */
static ot_status longest_text(const ot_scheduler *s, const ot_request_params *p, uint64_t *out, ot_error *err)
{
    ot_companion_use companions;
    ot_kv_component components[OT_KV_MAX_INSERTIONS];
    uint32_t n;
    ot_status st = ot_request_collect_components(&p->intervention, components, &n, err);
    if (st == OT_OK)
        st = ot_companions_resolve(s, &p->intervention, &companions, err);
    if (st != OT_OK)
        return st;
    const ot_model_info *m = ot_model_get_info(s->model);
    for (uint32_t i = 0; i < n; i++) {
        const ot_insertion_info *x = ot_insertion_get_info(components[i].insertion);
        if (x->width_in - m->n_embd > OT_MAX_EXT_WIDTH || x->width_ff - m->n_ff > OT_MAX_EXT_WIDTH ||
            x->width_attn - m->n_heads * m->head_dim > OT_MAX_EXT_WIDTH)
            return ot_fail_param(err, OT_ERR_UNSUPPORTED, "intervention", "insertion '%s' is wider than %d", x->spec.name,
                                 OT_MAX_EXT_WIDTH);
    }
    if (n > s->max_insertions)
        return ot_fail_param(err, OT_ERR_INVALID, "intervention", "%u insertions in one request; at most %u", n,
                             s->max_insertions);
    uint64_t pages = s->n_kv_units / ot_kv_units_per_page(s->model, components, n);
    uint64_t slots = pages * OT_PAGE_TOKENS, scratch = ot_intervention_scratch_slots(&p->intervention);
    uint64_t mirrored = ot_companions_longest(&companions);
    slots = slots < mirrored ? slots : mirrored;
    uint64_t fits = slots > scratch ? slots - scratch : 0;
    *out = fits < s->options.ctx_size ? fits : s->options.ctx_size;
    return OT_OK;
}

static ot_status check(ot_scheduler *s, const ot_request_params *p, uint32_t *max_new, int *reject, ot_error *err)
{
    *reject = OT_REJECT_INVALID;
    ot_status st;
    if (p->n_prompt == 0)
        return ot_fail_param(err, OT_ERR_INVALID, "prompt", "the prompt has no tokens");
    if (p->n_choices == 0 || p->n_choices > OT_MAX_CHOICES)
        return ot_fail_param(err, OT_ERR_INVALID, "n", "n must lie in 1..%d, not %u", OT_MAX_CHOICES, p->n_choices);
    if (p->top_logprobs > OT_MAX_TOP_LOGPROBS)
        return ot_fail_param(err, OT_ERR_INVALID, "top_logprobs", "%u alternatives for a token; at most %d", p->top_logprobs,
                             OT_MAX_TOP_LOGPROBS);
    if (p->min_tokens > p->max_tokens)
        return ot_fail_param(err, OT_ERR_INVALID, "min_tokens", "min_tokens %u is above max_tokens %u", p->min_tokens,
                             p->max_tokens);
    if (p->grammar != NULL && ot_grammar_vocab_size(p->grammar) != s->decoder.n_vocab)
        return ot_fail_param(err, OT_ERR_MISMATCH, "grammar", "the grammar was compiled for a vocabulary of %u tokens, not %u",
                             ot_grammar_vocab_size(p->grammar), s->decoder.n_vocab);
    if ((st = check_sampling(s, &p->sampling, err)) != OT_OK || (st = check_stops(p, err)) != OT_OK ||
        (st = ot_intervention_check(&p->intervention, err)) != OT_OK || (st = check_prompt_scores(p, err)) != OT_OK ||
        (st = check_tokens(s, p->stop_tokens, p->n_stop_tokens, "stop_token_ids", err)) != OT_OK)
        return st;
    uint64_t longest;
    if ((st = longest_text(s, p, &longest, err)) != OT_OK)
        return st;
    uint64_t shortest = (uint64_t)p->n_prompt + (p->max_tokens > 0);
    if (shortest > longest) {
        *reject = OT_REJECT_TOO_LONG;
        return ot_fail_param(err, OT_ERR_TOO_LONG, "prompt",
                             "the prompt has %u tokens; with the context of %u and the KV memory there is room for %llu%s",
                             p->n_prompt, s->options.ctx_size, (unsigned long long)longest,
                             p->max_tokens > 0 ? ", one of them to be generated" : "");
    }
    *max_new = p->max_tokens < longest - p->n_prompt ? p->max_tokens : (uint32_t)(longest - p->n_prompt);
    return check_tokens(s, p->prompt, p->n_prompt, "prompt", err);
}

/* ---- Queue ----------------------------------------------------------------------------------------------- */

static ot_status build(ot_scheduler *s, const ot_request_params *p, ot_request **out, int *reject, ot_error *err)
{
    uint32_t max_new = 0;
    ot_status st = check(s, p, &max_new, reject, err);
    if (st == OT_OK)
        st = ot_request_build(out, p, max_new, s->options.output_ring, s->decoder.longest_token, ot_model_get_info(s->model)->n_embd,
                              err);
    if (st != OT_OK)
        return st;
    (*out)->policy = ot_policy_for(p);
    ot_companions_attach(s, &p->intervention, *out);
    return OT_OK;
}

/* Under lock. From here on nothing can fail. */
static void enter(ot_scheduler *s, ot_request *r)
{
    r->scheduler = s; /* from here on it holds the heads */
    atomic_fetch_add(&s->refs, 1);
    atomic_store(&r->refs, 2);
    r->submitted_s = ot_clock_s();
    if (s->inbox.last != NULL)
        s->inbox.last->next_incoming = r;
    else
        s->inbox.first = r;
    s->inbox.last = r;
    s->inbox.n_waiting++;
    atomic_fetch_add(&s->n_live, 1);
}

/* Room in the queue, and for all that are live: a running request that gave its place up waits without counting as in the queue. Under
 * lock. */
static bool has_room(const ot_scheduler *s, uint32_t n)
{
    uint32_t queue = s->options.max_queue, live = atomic_load(&s->n_live);
    return n <= queue && s->inbox.n_waiting <= queue - n && live <= queue + s->options.max_sequences - n;
}

static ot_status enter_all(ot_scheduler *s, uint32_t n, ot_request **out, int *reject, ot_error *err)
{
    ot_status st = OT_OK;
    pthread_mutex_lock(&s->inbox.lock);
    if (s->inbox.closing || atomic_load(&s->draining)) {
        *reject = OT_REJECT_DRAINING;
        st = ot_fail(err, OT_ERR_CLOSING, "the server is shutting down and takes no new work");
    } else if (!has_room(s, n)) {
        *reject = OT_REJECT_QUEUE_FULL;
        st = ot_fail(err, OT_ERR_FULL, "%u requests wait and %u more do not fit a queue of %u", s->inbox.n_waiting, n,
                     s->options.max_queue);
    } else {
        for (uint32_t i = 0; i < n; i++)
            enter(s, out[i]);
        s->inbox.woken = true;
        pthread_cond_signal(&s->inbox.wake);
    }
    pthread_mutex_unlock(&s->inbox.lock);
    return st;
}

void ot_scheduler_count_too_long(ot_scheduler *s, uint32_t n)
{
    atomic_fetch_add(&s->rejected[OT_REJECT_TOO_LONG], n);
}

ot_status ot_scheduler_submit(ot_scheduler *s, const ot_request_params *params, uint32_t n, ot_request **out, ot_error *err)
{
    ot_status st = OT_OK;
    int reject = OT_REJECT_INVALID;
    uint32_t built = 0;
    while (st == OT_OK && built < n) {
        st = build(s, &params[built], &out[built], &reject, err);
        built += st == OT_OK;
    }
    if (st == OT_OK)
        st = enter_all(s, n, out, &reject, err);
    if (st == OT_OK)
        return OT_OK;
    for (uint32_t i = 0; i < built; i++)
        ot_request_unref(out[i]); /* holds no head and no scheduler yet */
    for (uint32_t i = 0; i < n; i++)
        out[i] = NULL;
    atomic_fetch_add(&s->rejected[reject], n);
    return st;
}
