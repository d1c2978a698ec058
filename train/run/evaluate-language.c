/* Each text is run once; the head's distribution at a position is judged by the token that stands there. Tokens a pass come from walking
 * over a text as speculative decoding would: a pass gives the token that the base decides and, behind it, the leading drafts that are
 * right; the next drafts are those of the last accepted position. */
#include "train/run/evaluate-language.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/run/evaluate.h"
#include "train/loss/output-floats.h"

typedef struct totals {
    double nll;
    uint64_t n, top1, top5;
} totals;

typedef struct language_run {
    const ot_language_evaluator *e;
    const ot_dataset *d;
    uint32_t *order;            /* (n_rows) by length */
    uint32_t *first;            /* (n_rows) of a row: its first batch row */
    uint32_t n_outputs;
    ot_text_targets targets;
    ot_token_outcome *outcomes; /* (batch_tokens, n_outputs) */
    ot_token_outcome *base;     /* (batch_tokens) */
    int32_t *target_of;         /* (batch_tokens) batch row -> index into targets, or -1 */
    totals heads[OT_MAX_HEADS], base_total;
    bool is_chain;              /* offsets are 1, 2, ... */
    uint64_t walked, passes, n_tokens;
    ot_eval_progress progress;
    ot_error *err;
} language_run;

static void count(totals *t, const ot_token_outcome *o)
{
    if (isnan(o->nll))
        return;
    t->n++;
    t->nll += o->nll;
    t->top1 += o->rank < 1;
    t->top5 += o->rank < 5;
}

/* Right drafts behind the token that batch row decides, of at most n. */
static uint32_t leading_hits(const language_run *r, uint32_t row, uint32_t n)
{
    const int32_t at = r->target_of[row];
    uint32_t hits = 0;
    while (at >= 0 && hits < n && hits < r->n_outputs && r->outcomes[(size_t)at * r->n_outputs + hits].rank == 0)
        hits++;
    return hits;
}

static void walk(language_run *r, uint32_t index)
{
    const ot_example *x = &r->d->rows[index];
    const uint32_t n = x->tokens[0].n, begin = x->n_prompt > 0 ? x->n_prompt - 1 : 0;
    for (uint32_t i = begin; i + 1 < n;) {
        const uint32_t got = 1 + leading_hits(r, r->first[index] + i, n - i - 2);
        r->walked += got;
        r->passes++;
        i += got;
    }
}

static uint32_t tokens_of(const language_run *r, uint32_t index)
{
    return r->d->rows[index].tokens[0].n;
}

static ot_status run_batch(language_run *r, uint32_t begin, uint32_t end)
{
    const ot_language_evaluator *e = r->e;
    ot_batch batch;
    ot_sequence_batch_clear(e->sequences);
    ot_text_targets_clear(&r->targets);
    for (uint32_t i = begin; i < end; i++) {
        const ot_example *x = &r->d->rows[r->order[i]];
        const int32_t *tokens = r->d->tokens + x->tokens[0].first;
        const uint32_t first = ot_sequence_batch_add(e->sequences, tokens, x->tokens[0].n, OT_ROW_OUTPUT);
        r->first[r->order[i]] = first;
        ot_text_targets_add(&r->targets, e->spec, tokens, x->tokens[0].n, x->n_prompt, first, 1.0, NULL);
    }
    ot_status st = ot_sequence_batch_finish(e->sequences, &batch, e->tape, r->err);
    if (st == OT_OK)
        st = ot_engine_forward(e->engine, &batch, r->err);
    if (st == OT_OK)
        st = e->outcomes(e->arg, &batch, &r->targets.list, r->outcomes, r->base, r->err);
    if (st != OT_OK)
        return st;
    memset(r->target_of, 0xff, batch.n_rows * sizeof *r->target_of);
    for (uint32_t i = 0; i < r->targets.list.n_rows; i++) {
        r->target_of[r->targets.rows[i]] = (int32_t)i;
        for (uint32_t k = 0; k < r->n_outputs; k++)
            count(&r->heads[k], &r->outcomes[(size_t)i * r->n_outputs + k]);
        count(&r->base_total, &r->base[i]);
    }
    for (uint32_t i = begin; r->is_chain && i < end; i++)
        walk(r, r->order[i]);
    r->n_tokens += batch.n_rows;
    return OT_OK;
}

static ot_status run_all(language_run *r)
{
    ot_status st = OT_OK;
    for (uint32_t begin = 0, end; st == OT_OK && begin < r->d->n_rows; begin = end) {
        uint32_t tokens = 0;
        for (end = begin; end < r->d->n_rows && tokens + tokens_of(r, r->order[end]) <= r->e->batch_tokens; end++)
            tokens += tokens_of(r, r->order[end]);
        if (end == begin)
            return ot_fail(r->err, OT_ERR_INVALID, "%s, row %u: %u tokens do not fit into --batch-tokens %u", r->d->path,
                           r->order[begin] + 1, tokens_of(r, r->order[begin]), r->e->batch_tokens);
        st = run_batch(r, begin, end);
        ot_eval_progress_report(&r->progress, end, r->d->n_rows, r->n_tokens);
    }
    return st;
}

/* Longest texts last, equal ones in their order: a counting sort. */
static ot_status sort_rows(language_run *r)
{
    uint32_t longest = 0, at = 0;
    for (uint32_t i = 0; i < r->d->n_rows; i++)
        longest = tokens_of(r, i) > longest ? tokens_of(r, i) : longest;
    uint32_t *starts = ot_alloc((size_t)longest + 2, sizeof *starts);
    if (starts == NULL)
        return ot_fail(r->err, OT_ERR_NOMEM, "out of memory");
    for (uint32_t i = 0; i < r->d->n_rows; i++)
        starts[tokens_of(r, i)]++;
    for (uint32_t n = 0; n <= longest; n++) {
        const uint32_t count_of = starts[n];
        starts[n] = at;
        at += count_of;
    }
    for (uint32_t i = 0; i < r->d->n_rows; i++)
        r->order[starts[tokens_of(r, i)]++] = i;
    free(starts);
    return OT_OK;
}

static ot_language_figures figures_of(const totals *t, uint32_t offset)
{
    const double n = (double)t->n;
    return (ot_language_figures){.offset = offset, .n_tokens = t->n, .nll = t->nll / n, .top1 = (double)t->top1 / n,
                                 .top5 = (double)t->top5 / n};
}

static ot_status allocate(language_run *r)
{
    const uint32_t rows = r->e->batch_tokens;
    r->order = ot_alloc(r->d->n_rows, sizeof *r->order);
    r->first = ot_alloc(r->d->n_rows, sizeof *r->first);
    r->outcomes = ot_alloc((size_t)rows * r->n_outputs, sizeof *r->outcomes);
    r->base = ot_alloc(rows, sizeof *r->base);
    r->target_of = ot_alloc(rows, sizeof *r->target_of);
    if (!r->order || !r->first || !r->outcomes || !r->base || !r->target_of)
        return ot_fail(r->err, OT_ERR_NOMEM, "out of memory for %u texts", r->d->n_rows);
    return ot_text_targets_open(&r->targets, rows, r->n_outputs, r->err);
}

ot_status ot_evaluate_language(const ot_language_evaluator *e, const ot_dataset *data, ot_eval_result *result, ot_error *err)
{
    language_run r = {.e = e, .d = data, .n_outputs = e->spec->n_outputs, .is_chain = true,
                      .progress = ot_eval_progress_begin(e->progress), .err = err};
    *result = (ot_eval_result){.n_rows = data->n_rows, .is_language = true, .n_heads = r.n_outputs};
    for (uint32_t k = 0; k < r.n_outputs; k++)
        r.is_chain = r.is_chain && e->spec->offsets[k] == k + 1;
    ot_status st = allocate(&r);
    if (st == OT_OK && (st = sort_rows(&r)) == OT_OK)
        st = run_all(&r);
    for (uint32_t k = 0; k < r.n_outputs; k++)
        result->heads[k] = figures_of(&r.heads[k], e->spec->offsets[k]);
    result->has_base = r.base_total.n > 0;
    if (result->has_base)
        result->base = figures_of(&r.base_total, 0);
    result->tokens_per_pass = r.passes > 0 ? (double)r.walked / (double)r.passes : 0.0;
    result->n_tokens = r.n_tokens;
    result->seconds = ot_clock_s() - r.progress.start;
    free(r.order);
    free(r.first);
    free(r.outcomes);
    free(r.base);
    free(r.target_of);
    ot_text_targets_close(&r.targets);
    return st;
}
