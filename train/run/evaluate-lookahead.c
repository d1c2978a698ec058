/* At one position in EVERY of each text, whatever the batches, the base's ten likeliest tokens are scored exactly and by the head. */
#include "train/run/evaluate-lookahead.h"

#include <math.h>
#include <stdlib.h>

#include "train/data/candidates.h"
#include "train/run/evaluate.h"

#define TOP 10
#define EVERY 16
#define POSITION_SEED 20240501

/* Sums for a correlation. */
typedef struct moments {
    double n, x, y, xx, yy, xy;
} moments;

typedef struct lookahead_run {
    const ot_lookahead_evaluator *e;
    const ot_dataset *d;
    ot_candidates candidates;
    float *predicted;            /* (positions, TOP) */
    moments level, change, within;
    uint64_t positions, same_highest, same_lowest, n_tokens;
    ot_eval_progress progress;
    ot_error *err;
} lookahead_run;

static void add(moments *m, double x, double y)
{
    m->n += 1;
    m->x += x;
    m->y += y;
    m->xx += x * x;
    m->yy += y * y;
    m->xy += x * y;
}

static double correlation(const moments *m)
{
    const double xx = m->xx - m->x * m->x / m->n, yy = m->yy - m->y * m->y / m->n, xy = m->xy - m->x * m->y / m->n;
    return xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : NAN;
}

static void count_position(lookahead_run *r, const float *exact, const float *predicted, double before)
{
    uint32_t high = 0, low = 0, predicted_high = 0, predicted_low = 0;
    double mean = 0.0, predicted_mean = 0.0;
    for (uint32_t j = 0; j < TOP; j++) {
        mean += exact[j] / (double)TOP;
        predicted_mean += predicted[j] / (double)TOP;
        high = exact[j] > exact[high] ? j : high;
        low = exact[j] < exact[low] ? j : low;
        predicted_high = predicted[j] > predicted[predicted_high] ? j : predicted_high;
        predicted_low = predicted[j] < predicted[predicted_low] ? j : predicted_low;
    }
    for (uint32_t j = 0; j < TOP; j++) {
        add(&r->level, predicted[j], exact[j]);
        add(&r->change, predicted[j] - before, exact[j] - before);
        add(&r->within, predicted[j] - predicted_mean, exact[j] - mean);
    }
    r->positions++;
    r->same_highest += high == predicted_high;
    r->same_lowest += low == predicted_low;
}

static ot_status judge(lookahead_run *r)
{
    const ot_lookahead_evaluator *e = r->e;
    ot_candidates *c = &r->candidates;
    ot_status st = ot_candidates_choose(c, e->engine, e->scorer, 0, POSITION_SEED, r->err);
    for (uint32_t i = 0; st == OT_OK && i < c->n_positions; i++)
        st = e->predict(e->arg, c->rows[i], c->tokens + (size_t)i * TOP, TOP, r->predicted + (size_t)i * TOP, r->err);
    if (st == OT_OK)
        st = ot_candidates_score(c, e->engine, e->sequences, e->scorer, 0, r->err);
    for (uint32_t i = 0; st == OT_OK && i < c->n_positions; i++)
        count_position(r, c->scores + (size_t)i * TOP, r->predicted + (size_t)i * TOP, c->before[i]);
    return st;
}

/* The first position of a text that is judged; further ones follow in steps of EVERY. */
static uint32_t first_position(uint32_t row)
{
    ot_rng rng = ot_rng_at(POSITION_SEED, row, 0);
    return ot_rng_below(&rng, EVERY);
}

static uint32_t positions_of(const lookahead_run *r, uint32_t row)
{
    const uint32_t n = r->d->rows[row].tokens[0].n, first = first_position(row);
    return n > first ? (n - first - 1) / EVERY + 1 : 0;
}

static ot_status run_batch(lookahead_run *r, uint32_t begin, uint32_t end)
{
    const ot_lookahead_evaluator *e = r->e;
    ot_batch batch;
    ot_sequence_batch_clear(e->sequences);
    ot_candidates_clear(&r->candidates);
    for (uint32_t i = begin; i < end; i++) {
        const ot_span t = r->d->rows[i].tokens[0];
        const uint32_t first = ot_sequence_batch_add_room(e->sequences, r->d->tokens + t.first, t.n, positions_of(r, i) * TOP, OT_ROW_OUTPUT);
        for (uint32_t at = first_position(i); at < t.n; at += EVERY)
            r->candidates.rows[r->candidates.n_positions++] = first + at;
    }
    ot_status st = ot_sequence_batch_finish(e->sequences, &batch, e->tape, r->err);
    if (st == OT_OK)
        st = ot_engine_forward(e->engine, &batch, r->err);
    r->n_tokens += ot_sequence_batch_rows(e->sequences);
    return st == OT_OK ? judge(r) : st;
}

static ot_status run_all(lookahead_run *r)
{
    ot_status st = OT_OK;
    for (uint32_t begin = 0, end; st == OT_OK && begin < r->d->n_rows; begin = end) {
        uint32_t tokens = 0, positions = 0;
        for (end = begin; end < r->d->n_rows && tokens + r->d->rows[end].tokens[0].n <= r->e->batch_tokens &&
                          positions + positions_of(r, end) <= r->candidates.max_positions; end++) {
            tokens += r->d->rows[end].tokens[0].n;
            positions += positions_of(r, end);
        }
        if (end == begin)
            return ot_fail(r->err, OT_ERR_INVALID, "%s, row %u: %u tokens do not fit into --batch-tokens %u", r->d->path, begin + 1,
                           r->d->rows[begin].tokens[0].n, r->e->batch_tokens);
        st = run_batch(r, begin, end);
        ot_eval_progress_report(&r->progress, end, r->d->n_rows, r->n_tokens);
    }
    return st;
}

ot_status ot_evaluate_lookahead(const ot_lookahead_evaluator *e, const ot_dataset *data, ot_eval_result *result, ot_error *err)
{
    lookahead_run r = {.e = e, .d = data, .progress = ot_eval_progress_begin(e->progress), .err = err};
    *result = (ot_eval_result){.n_rows = data->n_rows, .is_lookahead = true};
    ot_status st = ot_candidates_open(&r.candidates, e->engine, TOP, 0, e->batch_tokens, err);
    if (st == OT_OK && (r.predicted = ot_alloc((size_t)r.candidates.max_positions * TOP, sizeof(float))) == NULL)
        st = ot_fail(err, OT_ERR_NOMEM, "out of memory");
    if (st == OT_OK)
        st = run_all(&r);
    result->n_tokens = r.n_tokens;
    result->seconds = ot_clock_s() - r.progress.start;
    result->lookahead = (ot_lookahead_figures){
        .n_positions = r.positions, .score_correlation = correlation(&r.level), .change_correlation = correlation(&r.change),
        .within_correlation = correlation(&r.within), .highest_of_ten = (double)r.same_highest / (double)r.positions,
        .lowest_of_ten = (double)r.same_lowest / (double)r.positions,
    };
    free(r.predicted);
    ot_candidates_close(&r.candidates);
    return st;
}

/* ---- A head that is loaded ------------------------------------------------------------------------------------ */

ot_status ot_lookahead_scorer(const ot_insertion *insertion, const ot_insertion **scorer, ot_error *err)
{
    for (uint32_t i = ot_insertion_n_parents(insertion); i-- > 0;) {
        *scorer = ot_insertion_parent(insertion, i);
        if (ot_insertion_get_info(*scorer)->spec.kind == OT_HEAD_SCALAR)
            return OT_OK;
    }
    return ot_fail_param(err, OT_ERR_INVALID, "parent", "a lookahead head is stacked on the scalar head that it predicts: give --parent");
}

typedef struct loaded_head {
    ot_engine *engine;
    const ot_insertion *insertion;
} loaded_head;

static ot_status predict(void *arg, uint32_t row, const int32_t *tokens, uint32_t n, float *scores, ot_error *err)
{
    const loaded_head *h = arg;
    return ot_engine_lookahead(h->engine, row, h->insertion, 0, tokens, n, scores, err);
}

ot_status ot_evaluate_lookahead_head(ot_engine *engine, const ot_insertion *insertion, ot_sequence_batch *sequences,
                                     uint32_t batch_tokens, const ot_dataset *data, FILE *progress, ot_eval_result *result,
                                     ot_error *err)
{
    loaded_head head = {engine, insertion};
    ot_lookahead_evaluator e = {.engine = engine, .sequences = sequences, .batch_tokens = batch_tokens, .predict = predict,
                                .arg = &head, .progress = progress};
    const ot_status st = ot_lookahead_scorer(insertion, &e.scorer, err);
    return st == OT_OK ? ot_evaluate_lookahead(&e, data, result, err) : st;
}
