/* Rows come as they are, or
 *     - as a user's message, with the template's call for an answer behind it: the label holds from the message on;
 *     - as the assistant's answer to a quiet prompt: the label holds from the answer on;
 *     - behind another row that is harmless: the label holds from the row on.
 * Quiet samples are a prompt as it stands or as a user's message, cut after calm_length tokens, an exchange with the first
 * calm_length / 2 tokens of its good answer, or an answer alone.
 *
 * For batches, the samples are shuffled, sorted by length within windows, cut where a batch is full, and the batches are
 * shuffled: a batch then holds texts of about one length, but not the same ones in each epoch. Every random choice is
 * drawn from the stream of (seed, epoch, row), so that no choice depends on another row's. */
#include "train/data/epoch-plan.h"

#include <stdlib.h>
#include <string.h>

#include "train/data/chat-text.h"
#include "train/train-internal.h"

#define WINDOW 1024          /* samples sorted by length together */
#define PROMPT_BYTES 240     /* quiet prompts before an answer are taken up to this long */

enum { STREAM_ROW = 16, STREAM_CALM, STREAM_ORDER };

typedef struct planner {
    ot_epoch_plan *plan;
    const ot_plan_options *o;
    uint64_t epoch;
    ot_error *err;
} planner;

/* ---- Samples ------------------------------------------------------------------------------------------------ */

static ot_status out_of_memory(const planner *p)
{
    return ot_fail(p->err, OT_ERR_NOMEM, "out of memory for an epoch of %u samples", p->plan->n_samples);
}

/* Appends tokens to the plan's arena. */
static ot_status put_tokens(planner *p, const int32_t *tokens, size_t n, ot_span *span)
{
    ot_epoch_plan *e = p->plan;
    if (e->n_tokens + n > e->tokens_capacity) {
        const size_t capacity = (e->n_tokens + n) * 3 / 2 + 65536;
        int32_t *larger = realloc(e->tokens, capacity * sizeof *larger);
        if (larger == NULL)
            return out_of_memory(p);
        e->tokens = larger;
        e->tokens_capacity = capacity;
    }
    if (n > 0)
        memcpy(e->tokens + e->n_tokens, tokens, n * sizeof *tokens);
    *span = (ot_span){e->n_tokens, (uint32_t)n};
    e->n_tokens += n;
    return OT_OK;
}

static ot_status put_sample(planner *p, const ot_sample *sample)
{
    ot_epoch_plan *e = p->plan;
    if (e->n_samples == e->samples_capacity) {
        const uint32_t capacity = e->samples_capacity * 2 + 1024;
        ot_sample *larger = realloc(e->samples, capacity * sizeof *larger);
        if (larger == NULL)
            return out_of_memory(p);
        e->samples = larger;
        e->samples_capacity = capacity;
    }
    e->samples[e->n_samples++] = *sample;
    return OT_OK;
}

/* `onset`: bytes of the text until its label holds (ot_example). */
static ot_status put_one(planner *p, const int32_t *tokens, size_t n, size_t n_before, size_t limit, const float *labels, uint32_t onset)
{
    ot_sample s = {.n_leaves = 1, .labels = labels};
    if (n > limit)
        n = limit;
    if (n == 0 || n_before >= n)
        return OT_OK;
    const ot_status st = put_tokens(p, tokens, n, &s.leaf[0].tokens);
    s.leaf[0].n_before = (uint32_t)n_before;
    if (onset > 0)
        s.leaf[0].onset = ot_train_tokens_of_bytes(p->o->tokenizer, tokens + n_before, (uint32_t)(n - n_before), onset);
    return st == OT_OK ? put_sample(p, &s) : st;
}

/* At most `after` tokens behind the template's opening. *put (may be NULL): whether a sample came of it. */
static ot_status put_chat(planner *p, const char *user, const char *answer, size_t after, const float *labels, uint32_t onset, bool *put)
{
    int32_t *tokens = NULL;
    size_t n = 0, n_before = 0;
    const uint32_t old = p->plan->n_samples;
    ot_status st = ot_train_wrap_chat(p->o->chat, p->o->tokenizer, user, answer, &tokens, &n, &n_before, p->err);
    const size_t limit = n_before + after < p->o->max_length ? n_before + after : p->o->max_length;
    if (st == OT_OK)
        st = put_one(p, tokens, n, n_before, limit, labels, onset);
    free(tokens);
    if (put != NULL)
        *put = p->plan->n_samples > old;
    return st;
}

static const ot_example *random_calm(const planner *p, ot_rng *rng, const ot_dataset **from)
{
    *from = p->o->calm[ot_rng_below(rng, p->o->n_calm)];
    return &(*from)->rows[ot_rng_below(rng, (*from)->n_rows)];
}

/* A quiet prompt that is not too long, for an answer to stand behind. */
static const char *quiet_prompt(const planner *p, ot_rng *rng)
{
    for (int attempt = 0; p->o->n_calm > 0 && attempt < 16; attempt++) {
        const ot_dataset *from;
        const ot_example *x = random_calm(p, rng, &from);
        const char *text = from->texts + x->text;
        if (text[0] != '\0' && strlen(text) <= PROMPT_BYTES)
            return text;
    }
    return "Write a sentence.";
}

static bool is_harmless(const ot_dataset *d, uint32_t row)
{
    for (uint32_t k = 0; k < d->n_outputs; k++)
        if (!(d->labels[(size_t)row * d->n_outputs + k] == 0.0f))
            return false;
    return true;
}

static ot_status put_behind_another(planner *p, ot_rng *rng, uint32_t row, const float *labels)
{
    const ot_dataset *d = p->o->data;
    const ot_span own = d->rows[row].tokens[0];
    ot_span other = {0, 0};
    for (int attempt = 0; attempt < 16 && other.n == 0; attempt++) {
        const uint32_t i = ot_rng_below(rng, d->n_rows);
        if (i != row && is_harmless(d, i) && d->rows[i].tokens[0].n + own.n <= p->o->max_length)
            other = d->rows[i].tokens[0];
    }
    int32_t *both = ot_alloc((size_t)own.n + other.n, sizeof *both);
    if (both == NULL)
        return out_of_memory(p);
    memcpy(both, d->tokens + other.first, other.n * sizeof *both);
    memcpy(both + other.n, d->tokens + own.first, own.n * sizeof *both);
    const ot_status st = put_one(p, both, (size_t)own.n + other.n, other.n, p->o->max_length, labels, d->rows[row].onset);
    free(both);
    return st;
}

static ot_status put_row(planner *p, uint32_t row)
{
    const ot_dataset *d = p->o->data;
    const ot_example *x = &d->rows[row];
    const float *labels = d->labels + (size_t)row * d->n_outputs;
    const char *text = d->texts + x->text;
    ot_rng rng = ot_rng_at(p->o->seed, STREAM_ROW + (p->epoch << 8), row);
    const double u = ot_rng_uniform(&rng);
    if (u < p->o->chat_fraction / 2)
        return put_chat(p, text, NULL, p->o->max_length, labels, x->onset, NULL);
    if (u < p->o->chat_fraction)
        return put_chat(p, quiet_prompt(p, &rng), text, p->o->max_length, labels, x->onset, NULL);
    if (u < p->o->chat_fraction + p->o->context_fraction)
        return put_behind_another(p, &rng, row, labels);
    return put_one(p, d->tokens + x->tokens[0].first, x->tokens[0].n, 0, p->o->max_length, labels, x->onset);
}

/* Whole pages in which two texts begin alike; of the second at least one token is left. */
static uint32_t n_shared(const int32_t *a, uint32_t n_a, const int32_t *b, uint32_t n_b)
{
    uint32_t n = 0;
    while (n < n_a && n + 1 < n_b && a[n] == b[n])
        n++;
    return n / OT_PAGE_TOKENS * OT_PAGE_TOKENS;
}

static ot_status put_pair(planner *p, uint32_t row)
{
    const ot_dataset *d = p->o->data;
    const ot_example *x = &d->rows[row];
    ot_sample s = {.n_leaves = 2};
    ot_status st = OT_OK;
    for (int i = 0; st == OT_OK && i < 2; i++) {
        st = put_tokens(p, d->tokens + x->tokens[i].first, x->tokens[i].n, &s.leaf[i].tokens);
        s.leaf[i].n_before = x->n_prompt;
    }
    s.leaf[1].n_shared = n_shared(d->tokens + x->tokens[0].first, x->tokens[0].n, d->tokens + x->tokens[1].first, x->tokens[1].n);
    return st == OT_OK ? put_sample(p, &s) : st;
}

/* A row as a text to model. */
static ot_status put_text(planner *p, uint32_t row)
{
    const ot_dataset *d = p->o->data;
    const ot_example *x = &d->rows[row];
    if (x->shape == OT_SHAPE_LABEL || x->shape == OT_SHAPE_PROMPT)
        return put_row(p, row);
    return put_one(p, d->tokens + x->tokens[0].first, x->tokens[0].n, x->n_prompt, p->o->max_length, NULL, 0);
}

static ot_status put_calm(planner *p, uint32_t i)
{
    ot_rng rng = ot_rng_at(p->o->seed, STREAM_CALM + (p->epoch << 8), i);
    const ot_dataset *from;
    const ot_example *x = random_calm(p, &rng, &from);
    const char *text = from->texts + x->text;
    const uint32_t limit = p->o->calm_length < p->o->max_length ? p->o->calm_length : p->o->max_length;
    const bool plain_pair = from->shape == OT_SHAPE_PAIR && text[0] == '\0';
    const bool pair = !plain_pair && (from->shape == OT_SHAPE_PAIR || from->shape == OT_SHAPE_ANSWER);
    /* Half of them in a chat, as far as the template leaves room; half as they stand, an answer without its question. */
    if (p->o->chat != NULL && ot_rng_below(&rng, 2) == 0) {
        bool put = false;
        const ot_status st = put_chat(p, plain_pair ? from->texts + x->answer : text, pair ? from->texts + x->answer : NULL,
                                      pair ? limit / 2 : limit, NULL, 0, &put);
        if (st != OT_OK || put)
            return st;
    }
    const uint32_t skip = pair ? x->n_prompt : 0;
    return put_one(p, from->tokens + x->tokens[0].first + skip, x->tokens[0].n - skip, 0, limit, NULL, 0);
}

/* ---- Batches ------------------------------------------------------------------------------------------------ */

uint32_t ot_sample_rows(const ot_sample *sample)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < sample->n_leaves; i++)
        n += sample->leaf[i].tokens.n - sample->leaf[i].n_shared;
    return n;
}

static void shuffle(uint32_t *x, uint32_t n, ot_rng *rng)
{
    for (uint32_t i = n; i > 1; i--) {
        const uint32_t j = ot_rng_below(rng, i), t = x[i - 1];
        x[i - 1] = x[j];
        x[j] = t;
    }
}

/* Stable merge sort by length, within scratch: equal lengths keep their shuffled order on every machine. */
static void sort_by_length(uint32_t *x, uint32_t n, uint32_t *scratch, const ot_sample *samples)
{
    if (n < 2)
        return;
    const uint32_t half = n / 2;
    sort_by_length(x, half, scratch, samples);
    sort_by_length(x + half, n - half, scratch, samples);
    memcpy(scratch, x, n * sizeof *x);
    for (uint32_t a = 0, b = half, i = 0; i < n; i++) {
        const bool left = b == n || (a < half && ot_sample_rows(&samples[scratch[a]]) <= ot_sample_rows(&samples[scratch[b]]));
        x[i] = scratch[left ? a++ : b++];
    }
}

/* Cuts order into batches of at most batch_tokens; fills batch_first. */
static uint32_t cut_batches(const ot_epoch_plan *e, uint32_t batch_tokens, uint32_t *first)
{
    uint32_t n_batches = 0, tokens = 0;
    for (uint32_t i = 0; i < e->n_samples; i++) {
        const uint32_t n = ot_sample_rows(&e->samples[e->order[i]]);
        if (i == 0 || tokens + n > batch_tokens || i % WINDOW == 0) {
            first[n_batches++] = i;
            tokens = 0;
        }
        tokens += n;
    }
    first[n_batches] = e->n_samples;
    return n_batches;
}

/* Puts the batches themselves in random order. */
static ot_status shuffle_batches(planner *p, const uint32_t *first, ot_rng *rng)
{
    ot_epoch_plan *e = p->plan;
    uint32_t *turn = ot_alloc(e->n_batches, sizeof *turn), *order = ot_alloc(e->n_samples, sizeof *order);
    e->batch_first = ot_alloc((size_t)e->n_batches + 1, sizeof *e->batch_first);
    if (turn == NULL || order == NULL || e->batch_first == NULL) {
        free(turn);
        free(order);
        return out_of_memory(p);
    }
    for (uint32_t b = 0; b < e->n_batches; b++)
        turn[b] = b;
    shuffle(turn, e->n_batches, rng);
    uint32_t at = 0;
    for (uint32_t b = 0; b < e->n_batches; b++) {
        const uint32_t begin = first[turn[b]], n = first[turn[b] + 1] - begin;
        memcpy(order + at, e->order + begin, n * sizeof *order);
        e->batch_first[b] = at;
        at += n;
    }
    e->batch_first[e->n_batches] = at;
    free(turn);
    free(e->order);
    e->order = order;
    return OT_OK;
}

static ot_status make_batches(planner *p)
{
    ot_epoch_plan *e = p->plan;
    ot_rng rng = ot_rng_at(p->o->seed, STREAM_ORDER, p->epoch);
    e->order = ot_alloc(e->n_samples, sizeof *e->order);
    uint32_t *scratch = ot_alloc((size_t)e->n_samples + 1, sizeof *scratch);
    if (e->order == NULL || scratch == NULL) {
        free(scratch);
        return out_of_memory(p);
    }
    for (uint32_t i = 0; i < e->n_samples; i++)
        e->order[i] = i;
    shuffle(e->order, e->n_samples, &rng);
    for (uint32_t i = 0; i < e->n_samples; i += WINDOW)
        sort_by_length(e->order + i, e->n_samples - i < WINDOW ? e->n_samples - i : WINDOW, scratch, e->samples);
    e->n_batches = cut_batches(e, p->o->batch_tokens, scratch);
    const ot_status st = shuffle_batches(p, scratch, &rng);
    free(scratch);
    return st;
}

static ot_status check(const planner *p)
{
    const ot_plan_options *o = p->o;
    const uint32_t leaves = o->data->shape == OT_SHAPE_PAIR && !o->texts ? 2 : 1;
    if (o->batch_tokens < leaves * o->max_length)
        return ot_fail_param(p->err, OT_ERR_INVALID, "batch-tokens", "--batch-tokens %u cannot hold %u texts of --max-length %u",
                             o->batch_tokens, leaves, o->max_length);
    if (o->chat == NULL && o->chat_fraction > 0)
        return ot_fail_param(p->err, OT_ERR_INVALID, "chat-fraction", "--chat-fraction needs a chat template");
    return OT_OK;
}

ot_status ot_epoch_plan_make(ot_epoch_plan *plan, const ot_plan_options *options, uint64_t epoch, ot_error *err)
{
    planner p = {plan, options, epoch, err};
    const ot_dataset *d = options->data;
    *plan = (ot_epoch_plan){0};
    ot_status st = check(&p);
    for (uint32_t i = 0; st == OT_OK && i < d->n_rows; i++)
        st = options->texts ? put_text(&p, i) : d->shape == OT_SHAPE_PAIR ? put_pair(&p, i) : put_row(&p, i);
    const double n_calm = options->n_calm > 0 && d->shape == OT_SHAPE_LABEL ? options->calm_fraction * d->n_rows : 0.0;
    for (uint32_t i = 0; st == OT_OK && i < n_calm; i++)
        st = put_calm(&p, i);
    if (st == OT_OK && plan->n_samples == 0)
        st = ot_fail(err, OT_ERR_FORMAT, "%s: no samples to train on", d->path);
    if (st == OT_OK)
        st = make_batches(&p);
    if (st != OT_OK)
        ot_epoch_plan_free(plan);
    return st;
}

void ot_epoch_plan_free(ot_epoch_plan *plan)
{
    free(plan->tokens);
    free(plan->samples);
    free(plan->order);
    free(plan->batch_first);
    *plan = (ot_epoch_plan){0};
}
