/* Rows are scored in order of length, many in one batch. A text is run once: the score at its last token is the whole
 * text's, the one after half of its tokens the half text's, since a score never sees what comes later. */
#include "train/run/evaluate.h"
#include "engine/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/data/chat-text.h"
#include "train/train-internal.h"

/* One sequence to run, and where its scores go. */
typedef struct job {
    const int32_t *tokens;
    uint32_t n, n_before;   /* the half is of what follows n_before */
    uint32_t row, leaf;
    uint32_t first;         /* its first row in the current batch */
} job;

typedef struct run {
    const ot_evaluator *e;
    const ot_dataset *d;
    job *jobs;
    uint32_t n_jobs;
    int32_t *wrapped;       /* tokens of rows in a chat template */
    float *whole, *half;    /* (n_rows, 2): by leaf */
    float *all;             /* prompts: scores of all positions but the first */
    uint32_t *noticed;      /* (n_rows) tokens read when the score first passes the limit; 0: never */
    uint32_t *n_own, *onset; /* (n_rows) tokens of the text, and of these up to the end of its first span */
    uint64_t n_all, n_tokens;
    ot_eval_progress progress;
    ot_error *err;
} run;

static int by_length(const void *a, const void *b)
{
    const job *x = a, *y = b;
    return x->n != y->n ? (x->n > y->n) - (x->n < y->n) : (x->row > y->row) - (x->row < y->row);
}

/* ---- Jobs --------------------------------------------------------------------------------------------------- */

static ot_status wrap_texts(run *r)
{
    size_t at = 0, capacity = 0;
    for (uint32_t i = 0; i < r->n_jobs; i++) {
        job *j = &r->jobs[i];
        int32_t *tokens = NULL;
        size_t n = 0, before = 0;
        const ot_status st = ot_train_wrap_chat(r->e->chat, ot_model_tokenizer(ot_engine_model(r->e->engine)),
                                                r->d->texts + r->d->rows[j->row].text, NULL, &tokens, &n, &before, r->err);
        if (st != OT_OK)
            return st;
        if (n > r->e->max_length)
            n = r->e->max_length;
        if (at + n > capacity) {
            capacity = (at + n) * 2;
            int32_t *larger = realloc(r->wrapped, capacity * sizeof *larger);
            if (larger == NULL) {
                free(tokens);
                return ot_fail(r->err, OT_ERR_NOMEM, "out of memory");
            }
            r->wrapped = larger;
        }
        memcpy(r->wrapped + at, tokens, n * sizeof *tokens);
        free(tokens);
        j->n = (uint32_t)n;
        j->n_before = before < n ? (uint32_t)before : 0;
        at += n;
    }
    at = 0;
    for (uint32_t i = 0; i < r->n_jobs; at += r->jobs[i++].n)
        r->jobs[i].tokens = r->wrapped + at;
    return OT_OK;
}

static ot_status list_jobs(run *r)
{
    const uint32_t leaves = r->d->shape == OT_SHAPE_PAIR ? 2 : 1;
    r->jobs = ot_alloc((size_t)r->d->n_rows * leaves, sizeof *r->jobs);
    r->whole = ot_alloc((size_t)r->d->n_rows * 2, sizeof(float));
    r->half = ot_alloc((size_t)r->d->n_rows * 2, sizeof(float));
    r->noticed = ot_alloc(r->d->n_rows, sizeof *r->noticed);
    r->n_own = ot_alloc(r->d->n_rows, sizeof *r->n_own);
    r->onset = ot_alloc(r->d->n_rows, sizeof *r->onset);
    if (r->jobs == NULL || r->whole == NULL || r->half == NULL || r->noticed == NULL || r->n_own == NULL || r->onset == NULL)
        return ot_fail(r->err, OT_ERR_NOMEM, "out of memory for %u rows", r->d->n_rows);
    for (uint32_t i = 0; i < r->d->n_rows; i++)
        for (uint32_t leaf = 0; leaf < leaves; leaf++) {
            const ot_span t = r->d->rows[i].tokens[leaf];
            r->jobs[r->n_jobs++] = (job){.tokens = r->d->tokens + t.first, .n = t.n, .row = i, .leaf = leaf};
        }
    if (r->e->chat != NULL && leaves == 1) {
        const ot_status st = wrap_texts(r);
        if (st != OT_OK)
            return st;
    }
    qsort(r->jobs, r->n_jobs, sizeof *r->jobs, by_length);
    uint64_t total = 0;
    for (uint32_t i = 0; i < r->n_jobs; i++)
        total += r->jobs[i].n;
    r->all = ot_alloc(r->d->shape == OT_SHAPE_PROMPT ? total : 1, sizeof(float));
    return r->all != NULL ? OT_OK : ot_fail(r->err, OT_ERR_NOMEM, "out of memory for %llu scores", (unsigned long long)total);
}

/* The row of a job after whose token half of the text is read. */
static uint32_t half_row(const job *j)
{
    const uint32_t n = j->n - j->n_before;
    return j->n_before + (n > 1 ? n / 2 - 1 : 0);
}

/* ---- Progress ----------------------------------------------------------------------------------------------- */

ot_eval_progress ot_eval_progress_begin(FILE *to)
{
    const double now = ot_clock_s();
    return (ot_eval_progress){to, now, now};
}

void ot_eval_progress_report(ot_eval_progress *p, uint32_t done, uint32_t n_texts, uint64_t n_tokens)
{
    const double now = ot_clock_s();
    if (p->to == NULL || (now - p->last < 5.0 && done < n_texts))
        return;
    p->last = now;
    fprintf(p->to, "evaluated %u of %u texts, %.0f tokens/s\n", done, n_texts, (double)n_tokens / (now - p->start));
    fflush(p->to);
}

/* ---- Batches ------------------------------------------------------------------------------------------------ */

/* When the score of a text passes the limit; position 0, on which everything leans, says nothing yet where more follows. */
static void watch(run *r, const job *j)
{
    const ot_example *x = &r->d->rows[j->row];
    const uint32_t from = j->n_before > 0 || j->n == 1 ? j->n_before : 1;
    r->n_own[j->row] = j->n - j->n_before;
    r->noticed[j->row] = 0;
    for (uint32_t t = from; t < j->n && r->noticed[j->row] == 0; t++)
        if (ot_engine_score(r->e->engine, j->first + t, r->e->insertion, r->e->output) > r->e->threshold)
            r->noticed[j->row] = t + 1 - j->n_before;
    r->onset[j->row] = x->onset == 0 ? 0
        : ot_train_tokens_of_bytes(ot_model_tokenizer(ot_engine_model(r->e->engine)), j->tokens + j->n_before, j->n - j->n_before, x->onset);
}

static ot_status run_batch(run *r, uint32_t begin, uint32_t end)
{
    const bool prompts = r->d->shape == OT_SHAPE_PROMPT, pairs = r->d->shape == OT_SHAPE_PAIR;
    const ot_evaluator *e = r->e;
    ot_batch batch;
    ot_sequence_batch_clear(e->sequences);
    for (uint32_t i = begin; i < end; i++) {
        job *j = &r->jobs[i];
        j->first = ot_sequence_batch_add(e->sequences, j->tokens, j->n, pairs ? 0 : OT_ROW_OUTPUT);
        ot_sequence_batch_flag(e->sequences, j->first + half_row(j), OT_ROW_OUTPUT);
        ot_sequence_batch_flag(e->sequences, j->first + j->n - 1, OT_ROW_OUTPUT);
    }
    ot_status st = ot_sequence_batch_finish(e->sequences, &batch, NULL, r->err);
    if (st == OT_OK)
        st = ot_engine_forward(e->engine, &batch, r->err);
    for (uint32_t i = begin; st == OT_OK && i < end; i++) {
        const job *j = &r->jobs[i];
        r->whole[2 * j->row + j->leaf] = ot_engine_score(e->engine, j->first + j->n - 1, e->insertion, e->output);
        r->half[2 * j->row + j->leaf] = ot_engine_score(e->engine, j->first + half_row(j), e->insertion, e->output);
        if (!isfinite(r->whole[2 * j->row + j->leaf]))
            return ot_fail(r->err, OT_ERR_INVALID, "%s, row %u: the score is not finite; the extended stream overflowed",
                           r->d->path, j->row + 1);
        for (uint32_t t = 1; prompts && t < j->n; t++)
            r->all[r->n_all++] = ot_engine_score(e->engine, j->first + t, e->insertion, e->output);
        if (!pairs)
            watch(r, j);
    }
    r->n_tokens += batch.n_rows;
    return st;
}

static ot_status run_jobs(run *r)
{
    ot_status st = OT_OK;
    for (uint32_t begin = 0, end; st == OT_OK && begin < r->n_jobs; begin = end) {
        uint32_t tokens = 0;
        for (end = begin; end < r->n_jobs && tokens + r->jobs[end].n <= r->e->batch_tokens; end++)
            tokens += r->jobs[end].n;
        if (end == begin)
            return ot_fail(r->err, OT_ERR_INVALID, "%s, row %u: %u tokens do not fit into --batch-tokens %u", r->d->path,
                           r->jobs[end].row + 1, r->jobs[end].n, r->e->batch_tokens);
        st = run_batch(r, begin, end);
        ot_eval_progress_report(&r->progress, end, r->n_jobs, r->n_tokens);
    }
    return st;
}

/* ---- Figures ------------------------------------------------------------------------------------------------ */

/* Rows of one source (all: UINT32_MAX) that have a label for the output. */
static ot_status figures_of(run *r, const float *scores, uint32_t source, ot_eval_figures *figures)
{
    float *s = ot_alloc(r->d->n_rows, sizeof *s), *y = ot_alloc(r->d->n_rows, sizeof *y);
    uint64_t n = 0;
    ot_status st = s != NULL && y != NULL ? OT_OK : ot_fail(r->err, OT_ERR_NOMEM, "out of memory");
    for (uint32_t i = 0; st == OT_OK && i < r->d->n_rows; i++) {
        const float label = r->d->labels[(size_t)i * r->d->n_outputs + r->e->output];
        if (isnan(label) || (source != UINT32_MAX && r->d->rows[i].source != source))
            continue;
        /* A head with the identity activation is judged by the sigmoid of its output. */
        const bool raw = ot_insertion_get_info(r->e->insertion)->spec.activation == OT_ACT_IDENTITY;
        s[n] = raw ? ot_sigmoid(scores[2 * i]) : scores[2 * i];
        y[n++] = label;
    }
    if (st == OT_OK)
        st = ot_eval_figures_of(s, y, n, figures, r->err);
    free(s);
    free(y);
    return st;
}

static ot_status finish_labelled(run *r, ot_eval_result *result)
{
    const ot_dataset *d = r->d;
    result->is_labelled = true;
    result->n_sources = d->n_sources < OT_EVAL_MAX_SOURCES ? d->n_sources : OT_EVAL_MAX_SOURCES;
    ot_status st = figures_of(r, r->whole, UINT32_MAX, &result->whole);
    if (st == OT_OK)
        st = figures_of(r, r->half, UINT32_MAX, &result->half);
    for (uint32_t i = 0; st == OT_OK && i < result->n_sources; i++) {
        memcpy(result->source_names[i], d->sources[i], sizeof result->source_names[i]);
        st = figures_of(r, r->whole, i, &result->sources[i]);
        if (st == OT_OK)
            st = figures_of(r, r->half, i, &result->source_halves[i]);
    }
    return st;
}

static void finish_pairs(const run *r, ot_eval_result *result)
{
    double right = 0, margin = 0;
    for (uint32_t i = 0; i < r->d->n_rows; i++) {
        const double m = (double)r->whole[2 * i] - r->whole[2 * i + 1];
        right += m > 0 ? 1.0 : m == 0 ? 0.5 : 0.0;
        margin += m;
    }
    result->is_paired = true;
    result->pair_accuracy = right / r->d->n_rows;
    result->pair_margin = margin / r->d->n_rows;
}

/* Labels of the output of all rows, where they have such. */
static ot_status finish_stream(run *r, ot_eval_result *result)
{
    float *labels = NULL;
    if (r->d->shape == OT_SHAPE_LABEL) {
        if ((labels = ot_alloc(r->d->n_rows, sizeof *labels)) == NULL)
            return ot_fail(r->err, OT_ERR_NOMEM, "out of memory");
        for (uint32_t i = 0; i < r->d->n_rows; i++)
            labels[i] = r->d->labels[(size_t)i * r->d->n_outputs + r->e->output];
    }
    ot_stream_figures_of(r->noticed, r->n_own, r->onset, labels, r->d->n_rows, &result->stream);
    result->is_streamed = true;
    free(labels);
    return OT_OK;
}

static int by_value(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void finish_prompts(run *r, ot_eval_result *result)
{
    const uint64_t n = r->n_all;
    result->is_unlabelled = true;
    if (n == 0)
        return;
    qsort(r->all, n, sizeof *r->all, by_value);
    uint64_t above = 0;
    for (uint64_t i = 0; i < n; i++) {
        result->quiet_mean += r->all[i] / (double)n;
        above += r->all[i] > 0.5f;
    }
    result->quiet_p95 = r->all[(n - 1) * 95 / 100];
    result->quiet_p99 = r->all[(n - 1) * 99 / 100];
    result->quiet_above_half = (double)above / (double)n;
}

ot_status ot_evaluate_check(const ot_dataset *data, ot_error *err)
{
    if (data->shape != OT_SHAPE_ANSWER)
        return OT_OK;
    return ot_fail(err, OT_ERR_INVALID, "%s: rows of {prompt, completion} say nothing about a scalar head: it is evaluated on {text, label}, "
                   "{messages, chosen, rejected} or {prompt}", data->path);
}

ot_status ot_evaluate(const ot_evaluator *e, const ot_dataset *data, ot_eval_result *result, ot_error *err)
{
    run r = {.e = e, .d = data, .progress = ot_eval_progress_begin(e->progress), .err = err};
    *result = (ot_eval_result){.n_rows = data->n_rows};
    ot_status st = ot_evaluate_check(data, err);
    if (st == OT_OK)
        st = list_jobs(&r);
    if (st == OT_OK)
        st = run_jobs(&r);
    result->n_tokens = r.n_tokens;
    result->seconds = ot_clock_s() - r.progress.start;
    if (st == OT_OK) {
        if (data->shape == OT_SHAPE_PAIR)
            finish_pairs(&r, result);
        else if (data->shape == OT_SHAPE_PROMPT)
            finish_prompts(&r, result);
        else
            st = finish_labelled(&r, result);
        if (st == OT_OK && data->shape != OT_SHAPE_PAIR)
            st = finish_stream(&r, result);
    }
    free(r.noticed);
    free(r.n_own);
    free(r.onset);
    free(r.jobs);
    free(r.wrapped);
    free(r.whole);
    free(r.half);
    free(r.all);
    return st;
}
