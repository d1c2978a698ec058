/* The draft model: a second, smaller model that reads the same text and guesses how it goes on (Leviathan et al. 2023; the paper's A.3
 * compares with it). What it guesses is checked like any other draft (policy-draft.c), so nothing here can be seen in a text.
 *
 * Before the turns of a step are planned, one forward pass of the draft model reads what is new in the texts of all choices that draft
 * with it: pieces of prompts, as many rows as a step has, and for a choice that decodes what was accepted since, with the pending token
 * at the end. Its best next token is the first guess; a row for each guess, in one pass for all choices, gives the next one, up to
 * max_draft. So a chain of n guesses takes n passes of the small model, however many choices draft. A choice goes on as
 * long as the chance that all its guesses are right (what the model claims, corrected by what such claims came to: draft-pace.c) is
 * more than the time of another pass and another row to check; a draft model as slow as the base guesses nothing.
 *
 * Slot p of a choice's sequence holds text position p. The tokens that ran beyond the text are kept in `ahead`: as far as they became the
 * text their keys stay, the others are overwritten. A prompt is read beside the base's own steps and never waited for: until it
 * has been read there are no guesses. While drafts rest nothing is read. If pages are short there are none either; nobody is preempted for them. */
#include <math.h>

#include "base/clock.h"
#include "scheduler/companion.h"
#include "scheduler/drafts/drafts.h"
#include "scheduler/drafts/ngram-drafts.h"
#include "scheduler/scheduler-state.h"

/* ---- What to read -------------------------------------------------------------------------------------------- */

/* Tokens that were guessed, or pending, and then became text have been read. */
static void take_over_ahead(ot_choice *c)
{
    ot_draft_reader *d = &c->reader;
    uint32_t n = 0;
    while (n < d->n_ahead && d->n_read < c->n_text && d->ahead[n] == c->tokens[d->n_read]) {
        d->n_read++;
        n++;
    }
    d->n_ahead = 0; /* what is left is not the text, or is written again */
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Whether one more guess, after n of them, is worth its pass and its row, if this is the chance that it is needed and right. */
static bool pays(const ot_scheduler *s, const ot_companion *m, const ot_choice *c, uint32_t n, float chance)
{
    const ot_draft_costs *costs = &s->decoder.draft_costs;
    if (c->request->intervention->drafting.fixed)
        return true;
    float row = ot_draft_time(costs, s->line.n_active, 1, n + 1) - ot_draft_time(costs, s->line.n_active, 1, n);
    return chance > m->pass_time + row;
}

/* How likely the prompt lookup guesses right without any pass; 0 for a request without it. */
static float lookup_chance(const ot_choice *c)
{
    int32_t draft[1];
    uint32_t matched;
    if (!c->request->intervention->drafting.lookup ||
        ot_ngram_draft(c->tokens, c->n_text, c->pending.candidates[c->pending.at].token, 1, draft, &matched) == 0)
        return 0;
    return ot_draft_lookup_chance(&c->pace, matched);
}

/* How many guesses the next turn of a choice could use; 0 while it does not decode, or where they cannot pay. */
static uint32_t guesses_wanted(const ot_scheduler *s, const ot_companion *m, const ot_choice *c)
{
    const ot_request *r = c->request;
    uint32_t end = c->n_text + 1; /* behind the pending token */
    if (c->state != OT_CHOICE_DECODE || c->pending.n == 0 || c->out_of_room || end >= m->ctx_size || !ot_draft_wanted(c) ||
        !pays(s, m, c, 0, 1 - lookup_chance(c)))
        return 0;
    return least(least(r->intervention->drafting.max_draft, OT_MAX_DRAFT), least(r->max_new - c->n_generated - 1, m->ctx_size - end));
}

static void add_row(ot_companion *m, uint32_t position, int32_t token, uint32_t sequence, uint32_t flags)
{
    m->rows[m->batch.n_rows++] = (ot_row){
        .token = token,
        .position = position,
        .sequence = sequence,
        .slot = position,
        .n_prefix = position + 1,
        .flags = flags,
    };
}

/* Enters what the choice has to read, and its pending token if guesses are wanted and all of the text is read then. */
static void add_reading(const ot_scheduler *s, ot_companion *m, ot_choice *c)
{
    ot_draft_reader *d = &c->reader;
    c->proposal.n_depths = 0;
    take_over_ahead(c);
    if (d->n_read == 0 && c->request->uses_cache)
        d->n_read = ot_kv_seq_match(d->seq, c->tokens, c->n_text);
    uint32_t room = s->options.max_batch_tokens - m->batch.n_rows, wanted = guesses_wanted(s, m, c);
    if (wanted == 0 && (c->state == OT_CHOICE_DECODE || !pays(s, m, c, 0, 1)))
        return; /* while drafts rest the text waits: many rows at once cost less than one by one */
    uint32_t text = least(c->n_text, m->ctx_size), n = least(text - d->n_read, room);
    bool guesses = wanted > 0 && d->n_read + n == c->n_text && n < room;
    if (n + guesses == 0 || !ot_kv_seq_reserve(d->seq, d->n_read + n + (guesses ? wanted : 0)))
        return;
    for (uint32_t i = 0; i < n; i++, d->n_read++)
        add_row(m, d->n_read, c->tokens[d->n_read], m->batch.n_sequences, 0);
    if (guesses) {
        d->ahead[d->n_ahead++] = c->pending.candidates[c->pending.at].token;
        m->guessers[m->n_guessers] = (ot_guesser){c, m->batch.n_sequences, m->batch.n_rows, wanted, 1};
        m->n_guessers++;
        c->proposal.at = c->n_text;
        add_row(m, c->n_text, d->ahead[0], m->batch.n_sequences, OT_ROW_OUTPUT);
    }
    m->views[m->batch.n_sequences++] = *ot_kv_seq_view(d->seq);
}

/* ---- Guessing ------------------------------------------------------------------------------------------------ */

/* The likeliest token after a guesser's last row. */
static void note_guess(ot_scheduler *s, ot_guesser *g, const float *logits)
{
    ot_proposal *p = &g->choice->proposal;
    ot_log_norm norm = ot_sampler_normalize(s->decoder.sampler, logits);
    int32_t token;
    if (!isfinite(norm.log_sum) || ot_sampler_top(s->decoder.sampler, logits, 1, &token) == 0) {
        g->wanted = 0; /* logits that are not finite say nothing */
        return;
    }
    uint32_t depth = p->n_depths++;
    ot_draft_guess *guess = &p->guesses[0][depth][0];
    p->n_branches[0][depth] = 1;
    *guess = (ot_draft_guess){token, ot_log_prob(norm, logits, token)};
    g->chance *= expf(guess->logprob);
}

static ot_status guess_once(ot_scheduler *s, ot_companion *m, ot_error *err)
{
    ot_status st = OT_OK;
    for (uint32_t from = 0; from < m->n_guessers && st == OT_OK; from += OT_LOGIT_ROWS) {
        uint32_t n = least(m->n_guessers - from, OT_LOGIT_ROWS), rows[OT_LOGIT_ROWS];
        for (uint32_t i = 0; i < n; i++)
            rows[i] = m->guessers[from + i].row;
        st = ot_engine_project(m->engine, rows, n, s->logit_rows, err);
        for (uint32_t i = 0; i < n && st == OT_OK; i++)
            note_guess(s, &m->guessers[from + i], s->logit_rows[i]);
    }
    return st;
}

/* Whether the choice wants another guess after its last one; nothing follows the end of a text. The next one is needed if those
 * before it are right, so that chance, which is known, bounds its own. */
static bool goes_on(const ot_scheduler *s, const ot_companion *m, const ot_guesser *g)
{
    const ot_proposal *p = &g->choice->proposal;
    if (p->n_depths >= g->wanted || !pays(s, m, g->choice, p->n_depths, g->chance * ot_draft_scale(&g->choice->pace)))
        return false;
    int32_t last = p->guesses[0][p->n_depths - 1][0].token;
    return g->choice->request->ignore_eos || !ot_tokenizer_is_eog(s->decoder.tokenizer, last);
}

/* The last guesses as rows, of those who go on. Views stay where they are. */
static void add_guesses(const ot_scheduler *s, ot_companion *m)
{
    uint32_t kept = 0;
    m->batch.n_rows = 0;
    for (uint32_t i = 0; i < m->n_guessers; i++) {
        ot_guesser g = m->guessers[i];
        if (!goes_on(s, m, &g))
            continue;
        ot_draft_reader *d = &g.choice->reader;
        const ot_proposal *p = &g.choice->proposal;
        int32_t token = p->guesses[0][p->n_depths - 1][0].token;
        g.row = m->batch.n_rows;
        add_row(m, d->n_read + d->n_ahead, token, g.sequence, OT_ROW_OUTPUT);
        d->ahead[d->n_ahead++] = token;
        m->guessers[kept++] = g;
    }
    m->n_guessers = kept;
}

/* A pass failed: the model's file was cut short while it is mapped. It would fail again, so nothing is guessed with it any more; texts do
 * not need guesses. */
static void give_up(ot_scheduler *s, ot_companion *m)
{
    m->failed = true;
    for (uint32_t i = 0; i < s->line.n_active; i++)
        if (s->line.active[i]->request->resolved.companions.draft == m) {
            ot_draft_reader *d = &s->line.active[i]->reader;
            ot_kv_seq_clear(d->seq);
            d->n_read = d->n_ahead = s->line.active[i]->proposal.n_depths = 0;
        }
}

static void run(ot_scheduler *s, ot_companion *m)
{
    m->batch = (ot_batch){.rows = m->rows, .sequences = m->views};
    m->n_guessers = 0;
    for (uint32_t i = 0; i < s->line.n_active; i++)
        if (s->line.active[i]->request->resolved.companions.draft == m)
            add_reading(s, m, s->line.active[i]);
    ot_error err;
    ot_status st = OT_OK;
    for (bool first = true; st == OT_OK && m->batch.n_rows > 0; first = false) {
        st = ot_engine_forward(m->engine, &m->batch, &err);
        for (uint32_t i = 0; i < s->line.n_active && first && st == OT_OK; i++) {
            const ot_choice *c = s->line.active[i];
            if (c->request->resolved.companions.draft == m && c->request->uses_cache)
                ot_kv_seq_settle(c->reader.seq, c->tokens, c->reader.n_read);
        }
        if (st == OT_OK)
            st = guess_once(s, m, &err);
        if (st == OT_OK)
            add_guesses(s, m);
    }
    if (st != OT_OK)
        give_up(s, m);
}

void ot_draft_models_run(ot_scheduler *s)
{
    s->draft_models_s = 0;
    for (uint32_t i = 0; i < s->n_companions; i++) {
        if (!s->companions[i].drafts || s->companions[i].failed)
            continue;
        double begin = ot_clock_s();
        run(s, &s->companions[i]);
        s->draft_models_s += ot_clock_s() - begin;
    }
}
