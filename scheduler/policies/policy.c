/* What decoding policies have in common: reading logits, and sending tokens. */
#include "scheduler/policies/policy.h"

#include <string.h>

#include "base/asserts.h"
#include "scheduler/companion.h"
#include "scheduler/policies/constrain.h"
#include "scheduler/policies/reward-course.h"

const ot_policy *ot_policy_for(const ot_request_params *p)
{
    const ot_intervention *v = &p->intervention;
    if (ot_intervention_scores_candidates(v))
        return &ot_policy_args;
    return v->drafting.max_draft > 0 || p->grammar != NULL ? &ot_policy_draft : &ot_policy_plain;
}

const ot_policy *ot_policy_now(const ot_choice *c)
{
    const ot_request *r = c->request;
    if (!c->pending.is_plain)
        return r->policy;
    return r->intervention->drafting.max_draft > 0 || r->grammar != NULL ? &ot_policy_draft : &ot_policy_plain;
}

/* ---- Logits ---------------------------------------------------------------------------------------------- */

static void note_alternatives(ot_decoder *d, ot_choice *c, const ot_position *at)
{
    ot_pending *p = &c->pending;
    int32_t tokens[OT_MAX_TOP_LOGPROBS];
    p->n_top = ot_sampler_top(d->sampler, at->raw, c->request->top_logprobs, tokens);
    for (uint32_t i = 0; i < p->n_top; i++)
        p->top[i] = (ot_token_logprob){tokens[i], ot_log_prob(at->raw_norm, at->raw, tokens[i])};
}

/* Logits as they are chosen from: adjusted, or raw where experts and bans together leave no token at all. What a grammar asks for stays:
 * where it leaves only what is banned, bans give way. */
static const float *adjust_logits(ot_decoder *d, const float *logits, const float *raw, const ot_adjust *how)
{
    const float *z = ot_sampler_adjust(d->sampler, logits, how);
    if (z == raw || ot_sampler_has_choice(d->sampler, z))
        return z;
    if (logits != raw)
        z = ot_sampler_adjust(d->sampler, raw, how);
    if (z == raw || ot_sampler_has_choice(d->sampler, z))
        return z;
    ot_adjust without_bans = *how;
    without_bans.n_banned[0] = without_bans.n_banned[1] = 0;
    return how->allowed != NULL ? ot_sampler_adjust(d->sampler, raw, &without_bans) : raw;
}

bool ot_policy_read(ot_decoder *d, ot_choice *c, const ot_logits *logits, bool needs_norm, ot_position *at)
{
    const ot_request *r = c->request;
    bool too_early = c->n_text - r->n_prompt < r->min_tokens;
    ot_adjust adjust = {
        .sampling = &r->sampling,
        .text = c->tokens,
        .n_prompt = r->n_prompt,
        .n_text = c->n_text,
        .banned = {d->eog_tokens, r->stop_tokens},
        .n_banned = {too_early && (!r->ignore_eos || r->grammar != NULL) ? d->n_eog : 0, too_early ? r->n_stop_tokens : 0},
    };
    if (!ot_constrain(d, c, &adjust.allowed))
        return false;
    at->raw = logits->raw;
    at->row = logits->row;
    at->draw = (ot_draw){r->sampling.seed, r->first_choice + c->index, c->n_text};
    at->base_token = -1;
    if (logits->steered != logits->raw)
        ot_sampler_pick(d->sampler, adjust_logits(d, logits->raw, logits->raw, &adjust), &r->sampling, at->draw, 1,
                        &at->base_token);
    at->adjusted = adjust_logits(d, logits->steered, logits->raw, &adjust);
    if (r->logprobs || (needs_norm && at->adjusted == at->raw))
        at->raw_norm = ot_sampler_normalize(d->sampler, at->raw);
    c->pending.n = c->pending.at = c->pending.n_top = 0;
    c->pending.is_plain = c->pending.first_was_tried = false;
    if (r->top_logprobs > 0)
        note_alternatives(d, c, at);
    return true;
}

/* ---- Turns ----------------------------------------------------------------------------------------------- */

void ot_policy_scores(const ot_decoder *d, const ot_turn *t, uint32_t node, float *scores)
{
    const ot_request *r = t->choice->request;
    const ot_pending *p = &t->choice->pending;
    uint32_t at = 0;
    while (at + 1 < p->n && p->candidates[at].token != t->nodes[node].token)
        at++;
    for (uint32_t i = 0; i < r->intervention->n_signals; i++)
        scores[i] = r->resolved.signals[i].lookahead ? p->ahead[at][i]
                                                     : ot_signal_score(d->engine, t->first_row + node, &r->resolved.signals[i]);
}

void ot_policy_fail_logits(ot_decoder *d, ot_request *r)
{
    ot_error err;
    ot_fail(&err, OT_ERR_IO, "the model produced non-finite logits");
    ot_request_end(d->scheduler, r, OT_FINISH_ERROR, &err);
}

bool ot_policy_look_ahead(ot_decoder *d, ot_choice *c, uint32_t row)
{
    const ot_request *r = c->request;
    ot_pending *p = &c->pending;
    int32_t tokens[OT_MAX_CANDIDATES];
    float scores[OT_MAX_CANDIDATES];
    ot_error err;
    if (p->n == 0) {
        ot_policy_fail_logits(d, c->request);
        return false;
    }
    for (uint32_t i = 0; i < p->n; i++)
        tokens[i] = p->candidates[i].token;
    for (uint32_t i = 0; i < r->intervention->n_signals; i++) {
        const ot_signal *x = &r->resolved.signals[i];
        if (!x->lookahead)
            continue;
        if (ot_engine_lookahead(d->engine, row, x->insertion, x->output, tokens, p->n, scores, &err) != OT_OK) {
            ot_request_end(d->scheduler, c->request, OT_FINISH_ERROR, &err);
            return false;
        }
        for (uint32_t j = 0; j < p->n; j++)
            p->ahead[j][i] = scores[j];
    }
    return true;
}

void ot_policy_accept(ot_turn *t, uint32_t node)
{
    ot_choice *c = t->choice;
    OT_ASSERT(node < t->n_nodes && t->n_path < OT_MAX_NODES && c->n_text < c->request->n_prompt + c->request->max_new);
    OT_ASSERT(t->nodes[node].parent == (t->n_path > 0 ? (int32_t)t->path[t->n_path - 1] : -1)); /* accepted nodes form a path */
    t->path[t->n_path++] = (uint8_t)node;
    c->tokens[c->n_text++] = t->nodes[node].token;
}

void ot_policy_want(ot_turn *t, uint32_t node)
{
    OT_ASSERT(node < t->n_nodes && t->n_wanted < OT_MAX_NODES);
    t->wanted[t->n_wanted++] = (uint8_t)node;
}

void ot_policy_count_change(ot_decoder *d, ot_choice *c, int32_t token, bool refused)
{
    const ot_pending *p = &c->pending;
    int mode;
    if (token == p->base_token)
        return;
    if (refused)
        mode = OT_MODE_GUARD;
    else
        mode = token != p->shifted_token ? OT_MODE_REWARD : OT_MODE_EXPERTS;
    d->stats->intervention_changed[mode]++;
    atomic_fetch_add_explicit(&c->request->changed_tokens, 1, memory_order_relaxed);
}

/* ---- Sending --------------------------------------------------------------------------------------------- */

static bool is_among(const int32_t *tokens, uint32_t n, int32_t token)
{
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] == token)
            return true;
    return false;
}

static void count_token(ot_decoder *d, ot_choice *c, const float *scores)
{
    ot_request *r = c->request;
    d->stats->generation_tokens++;
    atomic_fetch_add_explicit(&r->completion_tokens, 1, memory_order_relaxed);
    if (!r->had_token) {
        r->had_token = true;
        r->first_token_s = d->now_s;
        atomic_store_explicit(&r->steps_to_first_token, (uint32_t)(d->n_steps - r->begun_step), memory_order_relaxed);
        ot_histogram_observe(&d->stats->time_to_first_token_s, d->now_s - r->submitted_s);
    }
    if (c->n_generated > 1)
        ot_histogram_observe(&d->stats->inter_token_latency_s, d->now_s - c->last_token_s);
    c->last_token_s = d->now_s;
    for (uint32_t i = 0; i < r->intervention->n_signals; i++)
        if (r->resolved.signals[i].stats_index < OT_STATS_MAX_HEADS)
            ot_histogram_observe(&d->stats->heads[r->resolved.signals[i].stats_index].score, scores[i]);
}

void ot_policy_emit(ot_decoder *d, ot_choice *c, const ot_candidate *v, const float *scores)
{
    ot_request *r = c->request;
    ot_token_out entry;
    memset(&entry, 0, offsetof(ot_token_out, text));
    entry.token = v->token;
    entry.logprob = v->logprob;
    entry.n_top = c->pending.n_top;
    memcpy(entry.top, c->pending.top, c->pending.n_top * sizeof entry.top[0]);
    if (r->intervention->n_signals > 0)
        memcpy(entry.signals, scores, r->intervention->n_signals * sizeof entry.signals[0]);
    c->n_generated++;
    ot_reward_note(c, scores);
    count_token(d, c, scores);

    /* Under a grammar the end of text comes when the text is complete: there is nothing after it. */
    bool ends = ((!r->ignore_eos || r->grammar != NULL) && ot_tokenizer_is_eog(d->tokenizer, v->token)) ||
                is_among(r->stop_tokens, r->n_stop_tokens, v->token);
    ot_str text = {"", 0};
    if (!ends && !ot_tokenizer_is_special(d->tokenizer, v->token))
        text = ot_token_bytes(d->tokenizer, v->token);
    uint32_t before = c->output.written;
    /* A stop string counts from the first token that may end the text. */
    ends |= ot_output_put(&c->output, &entry, text, c->n_generated > r->min_tokens, d->text_scratch);
    if (c->output.written != before)
        ot_note_news(d->scheduler, r);
    if (ends)
        ot_choice_end(d->scheduler, c, OT_FINISH_STOP);
    else if (c->n_generated == r->max_new)
        ot_choice_end(d->scheduler, c, OT_FINISH_LENGTH);
}

/* ---- One token a position: plain and drafts -------------------------------------------------------------- */

static void pick_tokens(ot_decoder *d, ot_choice *c, const ot_position *at)
{
    const ot_request *r = c->request;
    ot_pending *p = &c->pending;
    int32_t tokens[OT_MAX_CANDIDATES];
    p->n = ot_sampler_pick(d->sampler, at->adjusted, &r->sampling, at->draw, ot_guard_attempts(r), tokens);
    for (uint32_t i = 0; i < p->n; i++)
        p->candidates[i] = (ot_candidate){
            .token = tokens[i],
            .logprob = r->logprobs ? ot_log_prob(at->raw_norm, at->raw, tokens[i]) : 0,
        };
    p->shifted_token = p->n > 0 ? tokens[0] : -1;
    p->base_token = at->base_token >= 0 ? at->base_token : p->shifted_token;
}

void ot_policy_decide(ot_decoder *d, ot_choice *c, const ot_logits *logits)
{
    const ot_request *r = c->request;
    ot_pending *p = &c->pending;
    ot_position at;
    const bool steers = ot_reward_steers(c);
    if (!ot_policy_read(d, c, logits, steers, &at))
        return;
    p->is_plain = r->intervention->reward && !steers;
    bool running;
    if (steers) {
        running = ot_args_decide(d, c, &at);
    } else {
        pick_tokens(d, c, &at);
        running = ot_policy_look_ahead(d, c, at.row);
    }
    if (!running || r->resolved.scores_rows)
        return;
    ot_policy_count_change(d, c, p->candidates[0].token, false);
    ot_policy_emit(d, c, &p->candidates[0], p->ahead[0]);
}

bool ot_policy_take(ot_decoder *d, ot_choice *c, ot_turn *t, uint32_t node)
{
    ot_pending *p = &c->pending;
    ot_request *r = c->request;
    if (!r->resolved.scores_rows) {
        ot_policy_accept(t, node);
        return true;
    }
    float scores[OT_MAX_SIGNALS];
    ot_policy_scores(d, t, node, scores);
    if (ot_guard_refuses(c, p->candidates[p->at].token, scores)) {
        if (p->at + 1 < p->n)
            p->at++;
        else
            ot_choice_end(d->scheduler, c, OT_FINISH_FILTER);
        return false;
    }
    ot_policy_count_change(d, c, p->candidates[p->at].token, p->at > 0);
    ot_policy_accept(t, node);
    ot_policy_emit(d, c, &p->candidates[p->at], scores);
    return c->state != OT_CHOICE_FINISHED;
}
