/* One step of the engine thread:
 *
 *     cancellations, composing the batch      schedule
 *     ot_engine_forward                       forward
 *     policies judge the scores               policy
 *     logits, in groups of OT_LOGIT_ROWS      project
 *     policies advance; slots move to place   policy
 *     tokens are announced                    output
 *
 * The records of a step (turns, chunks) stay valid to its end, also for choices that end within it. Nothing is allocated
 * while choices decode; a choice that is admitted opens its sequences (choice-pages.c). */
#include "scheduler/policies/policy.h"

#include <math.h>
#include <string.h>

#include "base/asserts.h"
#include "base/clock.h"
#include "scheduler/steps/choice-pages.h"
#include "scheduler/companion.h"
#include "scheduler/counters.h"
#include "scheduler/damaged-files.h"
#include "scheduler/drafts/drafts.h"
#include "scheduler/policies/experts.h"
#include "scheduler/scheduler-state.h"

/* ---- Logits in groups ------------------------------------------------------------------------------------ */

/* Who gets projected logits. Rows of one taker lie in one group. */
typedef struct taker {
    ot_turn *turn;      /* or */
    ot_chunk *chunk;
    uint32_t token;     /* chunk: the text position of the row */
    uint32_t first, n;  /* in the group */
} taker;

typedef struct group {
    uint32_t n_rows, n_takers;
    uint32_t rows[OT_LOGIT_ROWS];
    taker takers[OT_LOGIT_ROWS];
    double project_s;   /* time spent in ot_engine_project so far */
} group;

static void note_prompt_logprobs(ot_scheduler *s, ot_request *r, uint32_t next, const float *logits)
{
    ot_log_norm norm = ot_sampler_normalize(s->decoder.sampler, logits);
    if (!isfinite(norm.max) || !isfinite(norm.log_sum)) {
        ot_policy_fail_logits(&s->decoder, r);
        return;
    }
    r->prompt_logprob[next] = ot_log_prob(norm, logits, r->choices[0].tokens[next]);
    if (r->prompt_top == NULL)
        return;
    int32_t tokens[OT_MAX_TOP_LOGPROBS];
    uint32_t n = ot_sampler_top(s->decoder.sampler, logits, r->top_logprobs, tokens);
    ot_token_logprob *top = r->prompt_top + (size_t)next * r->top_logprobs;
    for (uint32_t i = 0; i < r->top_logprobs; i++)
        top[i] = i < n ? (ot_token_logprob){tokens[i], ot_log_prob(norm, logits, tokens[i])} : (ot_token_logprob){-1, 0};
}

/* The prompt has been read and these are its last logits: every choice takes its first decision from them. */
static void start_choices(ot_scheduler *s, ot_choice *first, const ot_logits *logits)
{
    ot_request *r = first->request;
    for (uint32_t i = 0; i < r->n_choices; i++) {
        ot_choice *c = &r->choices[i];
        if (c->state == OT_CHOICE_IDLE)
            memcpy(c->tokens, first->tokens, r->n_prompt * sizeof c->tokens[0]);
        if (c->state != OT_CHOICE_FINISHED)
            r->policy->advance(&s->decoder, c, NULL, logits);
    }
    ot_start_siblings(s, first);
}

static ot_choice *choice_of(const taker *k)
{
    return k->turn != NULL ? k->turn->choice : k->chunk->choice;
}

static void give_logits(ot_scheduler *s, const taker *k, const ot_logits *all)
{
    const ot_logits *logits = all + k->first;
    ot_choice *c = choice_of(k);
    if (c->state == OT_CHOICE_FINISHED)
        return;
    if (k->turn != NULL)
        k->turn->policy->advance(&s->decoder, c, k->turn, logits);
    else if (k->token + 1 < c->n_text)
        note_prompt_logprobs(s, c->request, k->token + 1, logits[0].raw);
    else
        start_choices(s, c, logits);
}

static void fail_taker(ot_scheduler *s, const taker *k, const ot_error *err)
{
    ot_request_end(s, choice_of(k)->request, OT_FINISH_ERROR, err);
}

static const ot_request *request_of(const taker *k)
{
    return choice_of(k)->request;
}

/* Whether something is chosen by these logits: those of a prompt's inner tokens are only reported. */
static bool decides(const taker *k)
{
    return k->turn != NULL || k->token + 1 == k->chunk->choice->n_text;
}

/* Shifts the logits of requests with experts; what cannot be shifted is NULL afterwards. */
static void steer_group(ot_scheduler *s, const group *g, ot_logits *logits, ot_error *err)
{
    ot_steered_row rows[OT_LOGIT_ROWS];
    uint32_t n = 0;
    for (uint32_t i = 0; i < g->n_takers; i++) {
        const taker *k = &g->takers[i];
        for (uint32_t j = k->first; j < k->first + k->n && request_of(k)->resolved.steers_logits && decides(k); j++)
            rows[n++] = (ot_steered_row){request_of(k), s->logit_rows[j], &logits[j]};
    }
    if (n > 0)
        ot_experts_steer(&s->decoder, rows, n, err);
}

static bool is_steered(const taker *k, const ot_logits *logits)
{
    for (uint32_t i = k->first; i < k->first + k->n; i++)
        if (logits[i].steered == NULL)
            return false;
    return true;
}

/* Draft heads guess what follows the decisions just taken, while the logits they are added to are at hand. */
static void guess_ahead(ot_scheduler *s, const group *g, const ot_logits *logits)
{
    for (uint32_t i = 0; i < g->n_takers; i++) {
        const taker *k = &g->takers[i];
        ot_request *r = k->turn != NULL ? NULL : k->chunk->choice->request;
        if (r == NULL)
            ot_draft_heads_add(&s->decoder, k->turn->choice, &logits[k->first + k->turn->decided]);
        for (uint32_t j = 0; r != NULL && decides(k) && j < r->n_choices; j++)
            ot_draft_heads_add(&s->decoder, &r->choices[j], &logits[k->first]);
    }
    ot_draft_heads_run(&s->decoder);
}

static void flush_group(ot_scheduler *s, group *g)
{
    if (g->n_rows == 0)
        return;
    ot_error err;
    double begin = ot_clock_s();
    ot_logits logits[OT_LOGIT_ROWS];
    for (uint32_t i = 0; i < g->n_rows; i++)
        logits[i] = (ot_logits){s->logit_rows[i], s->logit_rows[i], g->rows[i]};
    /* Experts add to logits before a base's cap. */
    bool projected = ot_engine_project_uncapped(s->engine, g->rows, g->n_rows, s->logit_rows, &err) == OT_OK;
    if (projected)
        steer_group(s, g, logits, &err);
    for (uint32_t i = 0; i < g->n_rows && projected; i++)
        if (logits[i].steered == logits[i].raw)
            ot_engine_cap_logits(s->engine, s->logit_rows[i]);
    g->project_s += ot_clock_s() - begin;
    for (uint32_t i = 0; i < g->n_takers; i++)
        if (projected && is_steered(&g->takers[i], logits))
            give_logits(s, &g->takers[i], logits);
        else
            fail_taker(s, &g->takers[i], &err);
    begin = ot_clock_s();
    guess_ahead(s, g, logits);
    g->project_s += ot_clock_s() - begin;
    g->n_rows = g->n_takers = 0;
}

static void add_taker(ot_scheduler *s, group *g, taker k, const uint32_t *rows)
{
    if (g->n_rows + k.n > OT_LOGIT_ROWS)
        flush_group(s, g);
    OT_ASSERT(g->n_rows + k.n <= OT_LOGIT_ROWS && g->n_takers < OT_LOGIT_ROWS);
    k.first = g->n_rows;
    memcpy(g->rows + g->n_rows, rows, k.n * sizeof rows[0]);
    g->n_rows += k.n;
    g->takers[g->n_takers++] = k;
}

/* ---- After the forward pass ------------------------------------------------------------------------------ */

static void judge_turns(ot_scheduler *s)
{
    for (uint32_t i = 0; i < s->batch.n_turns; i++) {
        ot_turn *t = &s->batch.turns[i];
        if (t->choice->state != OT_CHOICE_FINISHED)
            t->policy->judge(&s->decoder, t->choice, t);
    }
}

static void note_prompt_scores(ot_scheduler *s, const ot_chunk *k, uint32_t token)
{
    ot_request *r = k->choice->request;
    for (uint32_t i = 0; i < r->intervention->n_signals; i++) {
        uint32_t row = k->first_row + token - k->begin;
        float score = r->resolved.signals[i].lookahead ? NAN : ot_signal_score(s->engine, row, &r->resolved.signals[i]);
        if (r->prompt_score != NULL)
            r->prompt_score[(size_t)i * r->n_prompt + token] = score;
        if (token + 1 == r->n_prompt)
            r->last_scores[i] = score;
    }
}

/* Rows of a chunk come in order, so that a mean is one sum over positions, however the prompt was cut. A prompt that begins again, after it
 * lost its pages, sums again. */
static void pool_hidden(ot_scheduler *s, const ot_chunk *k)
{
    ot_request *r = k->choice->request;
    const uint32_t d = ot_model_get_info(s->model)->n_embd;
    if (k->begin == 0)
        memset(r->pooled, 0, d * sizeof *r->pooled);
    for (uint32_t i = k->begin; i < k->begin + k->n; i++) {
        if (r->pooling == OT_POOL_LAST && i + 1 < r->n_prompt)
            continue;
        const float *hidden = ot_engine_hidden(s->engine, k->first_row + i - k->begin);
        for (uint32_t j = 0; j < d; j++)
            r->pooled[j] += (double)hidden[j];
    }
    for (uint32_t j = 0; r->pooling == OT_POOL_MEAN && k->begin + k->n == r->n_prompt && j < d; j++)
        r->pooled[j] /= r->n_prompt;
}

/* A prompt that was only to be read ends here. */
static void finish_reading(ot_scheduler *s, ot_request *r)
{
    for (uint32_t i = 0; i < r->intervention->n_signals; i++)
        if (r->resolved.signals[i].stats_index < OT_STATS_MAX_HEADS)
            ot_histogram_observe(&s->stats.heads[r->resolved.signals[i].stats_index].score, r->last_scores[i]);
    ot_request_end(s, r, OT_FINISH_LENGTH, NULL);
}

/* Results of the prompt's rows that need no logits. */
static void read_chunk(ot_scheduler *s, ot_chunk *k)
{
    ot_choice *c = k->choice;
    ot_request *r = c->request;
    c->n_computed = k->begin + k->n;
    ot_pages_settle(c);
    if (c->n_computed == c->n_text)
        c->state = OT_CHOICE_DECODE;
    if (r->prompt_done)
        return;
    for (uint32_t i = k->begin; i < k->begin + k->n && r->intervention->n_signals > 0; i++)
        if (r->prompt_score != NULL || i + 1 == r->n_prompt)
            note_prompt_scores(s, k, i);
    if (r->pooled != NULL)
        pool_hidden(s, k);
    if (k->begin == 0 && r->prompt_logprob != NULL)
        r->prompt_logprob[0] = NAN;
    if (c->n_computed == r->n_prompt) {
        r->prompt_done = true;
        s->stats.prompt_tokens += r->n_prompt;
    }
}

static void add_chunk_takers(ot_scheduler *s, group *g, ot_chunk *k, bool was_done)
{
    ot_choice *c = k->choice;
    ot_request *r = c->request;
    uint32_t end = k->begin + k->n;
    for (uint32_t i = k->begin; i < end; i++) {
        bool scored = !was_done && r->prompt_logprob != NULL && i + 1 < r->n_prompt;
        bool starts = i + 1 == c->n_text && c->pending.n == 0 && r->max_new > 0;
        uint32_t row = k->first_row + i - k->begin;
        if (scored || starts)
            add_taker(s, g, (taker){.chunk = k, .token = i, .n = 1}, &row);
    }
}

static void add_turn_takers(ot_scheduler *s, group *g)
{
    for (uint32_t i = 0; i < s->batch.n_turns; i++) {
        ot_turn *t = &s->batch.turns[i];
        uint32_t rows[OT_MAX_NODES];
        for (uint32_t j = 0; j < t->n_wanted; j++)
            rows[j] = t->first_row + t->wanted[j];
        if (t->n_wanted > 0)
            add_taker(s, g, (taker){.turn = t, .n = t->n_wanted}, rows);
    }
}

static double read_results(ot_scheduler *s)
{
    ot_step_batch *b = &s->batch;
    group g = {0};
    judge_turns(s);
    add_turn_takers(s, &g);
    for (uint32_t i = 0; i < b->n_chunks; i++) {
        if (b->chunks[i].choice->state == OT_CHOICE_FINISHED)
            continue; /* with its request, by an error in a group flushed above; it holds no sequence any more */
        bool was_done = b->chunks[i].choice->request->prompt_done;
        read_chunk(s, &b->chunks[i]);
        add_chunk_takers(s, &g, &b->chunks[i], was_done);
    }
    flush_group(s, &g);
    return g.project_s;
}

/* Moves the keys and values of accepted nodes to their final slots; pages that are full now can be shared. */
static void settle_turns(ot_scheduler *s)
{
    for (uint32_t i = 0; i < s->batch.n_turns; i++) {
        ot_turn *t = &s->batch.turns[i];
        ot_choice *c = t->choice;
        if (c->state == OT_CHOICE_FINISHED)
            continue;
        for (uint32_t j = 0; j < t->n_path; j++)
            ot_pages_move(c, t->start + j, t->start + t->path[j]);
        c->n_computed = c->n_text;
        ot_pages_settle(c);
    }
}

static void end_batch(ot_scheduler *s, const ot_error *err)
{
    for (uint32_t i = 0; i < s->batch.n_turns; i++) {
        s->batch.turns[i].choice->in_batch = false;
        if (err != NULL)
            ot_request_end(s, s->batch.turns[i].choice->request, OT_FINISH_ERROR, err);
    }
    for (uint32_t i = 0; i < s->batch.n_chunks; i++) {
        ot_choice *c = s->batch.chunks[i].choice;
        c->in_batch = false;
        if (err != NULL)
            ot_request_end(s, c->request, OT_FINISH_ERROR, err);
        else if (c->state != OT_CHOICE_FINISHED && c->request->prompt_done && c->request->max_new == 0)
            finish_reading(s, c->request);
    }
}

static void observe_step(ot_scheduler *s, int phase, double seconds)
{
    ot_histogram_observe(&s->stats.step_s[phase], seconds);
}

bool ot_step_once(ot_scheduler *s)
{
    double t0 = ot_clock_s();
    ot_take_cancellations(s);
    ot_batch_compose(s);
    bool ran = s->batch.engine.n_rows > 0;
    if (ran) {
        double t1 = ot_clock_s(), cpu1 = ot_clock_thread_s();
        ot_error err;
        ot_status st = ot_engine_forward(s->engine, &s->batch.engine, &err);
        if (st == OT_OK)
            st = ot_companions_forward(s, &err);
        double t2 = s->decoder.now_s = ot_clock_s();
        double project_s = 0;
        if (st == OT_OK) {
            project_s = read_results(s);
            settle_turns(s);
        }
        ot_draft_costs_end_step(&s->decoder.draft_costs, st == OT_OK && s->batch.n_chunks == 0, s->batch.engine.n_rows,
                                ot_clock_thread_s() - cpu1);
        end_batch(s, st == OT_OK || ot_damage_end_requests(s) ? NULL : &err);
        double t3 = ot_clock_s();
        observe_step(s, OT_STEP_SCHEDULE, t1 - t0 - s->draft_models_s);
        observe_step(s, OT_STEP_FORWARD, t2 - t1 + s->draft_models_s);
        observe_step(s, OT_STEP_PROJECT, project_s);
        observe_step(s, OT_STEP_POLICY, t3 - t2 - project_s);
        ot_histogram_observe(&s->stats.iteration_tokens, s->batch.engine.n_rows);
    }
    double t4 = ot_clock_s();
    ot_stats_publish(s);
    ot_announce(s);
    if (ran)
        observe_step(s, OT_STEP_OUTPUT, ot_clock_s() - t4);
    return ran;
}
