/* Sampling: penalties, filters, draws. The vocabulary is walked in blocks of 64 logits, so that summing exponentials runs on the
 * kernels' vectors: a draw finds its block by the blocks' sums before it looks at single tokens. The k best are found in
 * sampling-best.c. */
#include "scheduler/policies/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/policies/random.h"

#define N_BUCKETS 2048 /* of 1/64 nat below the best token */

ot_status ot_sampler_open(ot_sampler **out, const ot_kernels *kernels, uint32_t n_vocab, ot_error *err)
{
    ot_sampler *s = calloc(1, sizeof *s);
    *out = s;
    if (s == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "no memory for the sampler");
    s->kernels = kernels;
    s->n_vocab = n_vocab;
    s->n_blocks = (n_vocab + OT_SAMPLER_BLOCK - 1) / OT_SAMPLER_BLOCK;
    s->adjusted = malloc(n_vocab * sizeof(float));
    s->scaled = malloc(n_vocab * sizeof(float));
    s->block = malloc(s->n_blocks * sizeof(float));
    s->heap = malloc(s->n_blocks * sizeof(float));
    s->counts = calloc(n_vocab, sizeof(uint32_t));
    s->ids = malloc(n_vocab * sizeof(int32_t));
    s->weights = malloc(n_vocab * sizeof(float));
    s->keys[0] = malloc(n_vocab * sizeof(uint64_t));
    s->keys[1] = malloc(n_vocab * sizeof(uint64_t));
    if (s->adjusted == NULL || s->scaled == NULL || s->block == NULL || s->heap == NULL || s->counts == NULL ||
        s->ids == NULL || s->weights == NULL || s->keys[0] == NULL || s->keys[1] == NULL) {
        ot_sampler_close(out);
        return ot_fail(err, OT_ERR_NOMEM, "no memory for the sampler");
    }
    return OT_OK;
}

void ot_sampler_close(ot_sampler **sampler)
{
    ot_sampler *s = *sampler;
    if (s == NULL)
        return;
    free(s->adjusted);
    free(s->scaled);
    free(s->block);
    free(s->heap);
    free(s->counts);
    free(s->ids);
    free(s->weights);
    free(s->keys[0]);
    free(s->keys[1]);
    free(s);
    *sampler = NULL;
}

ot_log_norm ot_sampler_normalize(ot_sampler *s, const float *logits)
{
    float max = s->kernels->max(logits, s->n_vocab);
    return (ot_log_norm){max, logf(s->kernels->sum_exp(logits, s->n_vocab, max))};
}

/* ---- Penalties, bias, bans ------------------------------------------------------------------------------- */

static void repetition(ot_sampler *s, float *z, const ot_adjust *a)
{
    float r = a->sampling->repetition_penalty;
    for (uint32_t i = 0; i < a->n_text; i++) {
        int32_t t = a->text[i];
        if (s->counts[t]++ == 0)
            z[t] = z[t] > 0 ? z[t] / r : z[t] * r;
    }
    for (uint32_t i = 0; i < a->n_text; i++)
        s->counts[a->text[i]] = 0;
}

static void presence_and_frequency(ot_sampler *s, float *z, const ot_adjust *a)
{
    const ot_sampling *p = a->sampling;
    for (uint32_t i = a->n_prompt; i < a->n_text; i++)
        s->counts[a->text[i]]++;
    for (uint32_t i = a->n_prompt; i < a->n_text; i++) {
        int32_t t = a->text[i];
        if (s->counts[t] == 0)
            continue;
        z[t] -= p->frequency_penalty * (float)s->counts[t];
        z[t] -= p->presence_penalty;
        s->counts[t] = 0;
    }
}

/* Tokens whose bit is missing become impossible. Most words of a mask are all zeros or all ones, or nearly. */
static void keep_allowed(float *z, const uint64_t *allowed, uint32_t n_vocab)
{
    for (uint32_t begin = 0; begin < n_vocab; begin += 64) {
        const uint32_t n = n_vocab - begin < 64 ? n_vocab - begin : 64;
        const uint64_t there = n < 64 ? ((uint64_t)1 << n) - 1 : ~(uint64_t)0;
        const uint64_t kept = allowed[begin / 64] & there;
        if (kept == 0) {
            for (uint32_t i = 0; i < n; i++)
                z[begin + i] = -INFINITY;
            continue;
        }
        for (uint64_t left = there & ~kept; left != 0; left &= left - 1)
            z[begin + (uint32_t)__builtin_ctzll(left)] = -INFINITY;
    }
}

const float *ot_sampler_adjust(ot_sampler *s, const float *logits, const ot_adjust *a)
{
    const ot_sampling *p = a->sampling;
    bool repeats = p->repetition_penalty != 1.0f;
    bool counts = (p->presence_penalty != 0 || p->frequency_penalty != 0) && a->n_text > a->n_prompt;
    if (!repeats && !counts && p->n_bias == 0 && a->n_banned[0] + a->n_banned[1] == 0 && a->allowed == NULL)
        return logits;
    float *z = s->adjusted;
    memcpy(z, logits, s->n_vocab * sizeof *z);
    if (repeats)
        repetition(s, z, a);
    if (counts)
        presence_and_frequency(s, z, a);
    for (uint32_t i = 0; i < p->n_bias; i++)
        z[p->bias_tokens[i]] += p->bias_values[i];
    for (int list = 0; list < 2; list++)
        for (uint32_t i = 0; i < a->n_banned[list]; i++)
            z[a->banned[list][i]] = -INFINITY;
    if (a->allowed != NULL)
        keep_allowed(z, a->allowed, s->n_vocab);
    return z;
}

/* ---- Filters --------------------------------------------------------------------------------------------- */

static bool is_filtered(const ot_sampling *p)
{
    return p->top_k > 0 || p->top_p < 1 || p->min_p > 0;
}

/* Writes (logits - max) / temperature; returns max. */
static float scale_logits(ot_sampler *s, const float *logits, float temperature)
{
    float max = s->kernels->max(logits, s->n_vocab);
    for (uint32_t i = 0; i < s->n_vocab; i++)
        s->scaled[i] = (logits[i] - max) / temperature;
    return max;
}

/* How many tokens min_p leaves, which are the best ones. */
static uint32_t count_min_p(const ot_sampler *s, float min_p)
{
    float floor = logf(min_p); /* the best token's scaled logit is 0 */
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_vocab; i++)
        n += s->scaled[i] >= floor;
    return n > 0 ? n : 1;
}

/* Weighs ids[begin, n) and returns where their cumulative mass, from *sum on, reaches `target`: the number of tokens that takes, or n
 * + 1 if it takes more. */
static uint32_t weigh_until(ot_sampler *s, uint32_t begin, uint32_t n, double *sum, double target)
{
    for (uint32_t i = begin; i < n; i++) {
        s->weights[i] = ot_expf(s->scaled[s->ids[i]]);
        *sum += s->weights[i];
        if (*sum >= target)
            return i + 1;
    }
    return n + 1;
}

/* Sorts the vocabulary by buckets of 1/64 nat into s->ids, best bucket first, ids ascending in each; ends[b] is where bucket b ends. */
static void sort_by_buckets(ot_sampler *s, uint32_t ends[N_BUCKETS])
{
    uint32_t *bucket = (uint32_t *)s->keys[0], begin = 0;
    memset(ends, 0, N_BUCKETS * sizeof ends[0]);
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        float depth = s->scaled[i] * -64;
        bucket[i] = depth < N_BUCKETS - 1 ? (uint32_t)depth : N_BUCKETS - 1; /* NaN: the last */
        ends[bucket[i]]++;
    }
    for (uint32_t b = 0; b < N_BUCKETS; b++) {
        uint32_t n = ends[b];
        ends[b] = begin;
        begin += n;
    }
    for (uint32_t i = 0; i < s->n_vocab; i++)
        s->ids[ends[bucket[i]]++] = (int32_t)i;
}

/* top_p alone, over the whole vocabulary. Most often a few tokens hold the mass; otherwise whole buckets are taken as long as they are
 * inside, and only the one that the limit falls in is sorted. */
static uint32_t nucleus(ot_sampler *s, float top_p)
{
    double target = top_p * (double)s->kernels->sum_exp(s->scaled, s->n_vocab, 0), sum = 0;
    uint32_t n = ot_sampler_top(s, s->scaled, 64, s->ids);
    uint32_t cut = weigh_until(s, 0, n, &sum, target);
    if (cut <= n)
        return cut;
    uint32_t ends[N_BUCKETS], begin = 0;
    sort_by_buckets(s, ends);
    sum = 0;
    for (uint32_t b = 0; b < N_BUCKETS; b++) {
        double before = sum;
        cut = weigh_until(s, begin, ends[b], &sum, target);
        if (cut <= ends[b]) {
            ot_sampler_sort(s->scaled, s->ids + begin, ends[b] - begin);
            sum = before;
            cut = weigh_until(s, begin, ends[b], &sum, target);
            return cut <= ends[b] ? cut : ends[b];
        }
        begin = ends[b];
    }
    return begin;
}

/* The tokens that the filters leave, in s->ids, and their weights. s->scaled is filled. Returns their number, at least 1. */
static uint32_t filtered_set(ot_sampler *s, const ot_sampling *p)
{
    uint32_t limit = p->top_k > 0 && p->top_k < s->n_vocab ? p->top_k : s->n_vocab;
    if (p->min_p > 0) {
        uint32_t n = count_min_p(s, p->min_p);
        limit = n < limit ? n : limit;
    }
    if (limit == s->n_vocab && p->top_p < 1)
        return nucleus(s, p->top_p);
    uint32_t n = ot_sampler_top(s, s->scaled, limit, s->ids);
    double whole = 0, sum = 0;
    weigh_until(s, 0, n, &whole, INFINITY);
    if (p->top_p >= 1)
        return n;
    uint32_t cut = weigh_until(s, 0, n, &sum, p->top_p * whole);
    return cut <= n ? cut : n;
}

uint32_t ot_sampler_filter(ot_sampler *s, const float *logits, const ot_sampling *p, uint32_t n)
{
    if (n == 0 || !is_filtered(p) || p->temperature <= 0)
        return n;
    if (p->top_k > 0 && p->top_k <= n && p->top_p >= 1 && p->min_p <= 0)
        return p->top_k;
    scale_logits(s, logits, p->temperature);
    uint32_t left = filtered_set(s, p);
    return left < n ? left : n;
}

void ot_sampler_keep_nucleus(ot_sampler *s, const float *logits, float top_p, float *out)
{
    if (top_p >= 1)
        return;
    scale_logits(s, logits, 1);
    uint32_t n = nucleus(s, top_p);
    for (uint32_t i = 0; i < n; i++)
        s->counts[s->ids[i]] = 1;
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        if (s->counts[i] == 0)
            out[i] = -INFINITY;
        s->counts[i] = 0;
    }
}

bool ot_sampler_has_choice(const ot_sampler *s, const float *logits)
{
    return s->kernels->max(logits, s->n_vocab) > -INFINITY;
}

/* ---- Draws ----------------------------------------------------------------------------------------------- */

/* The token at `target` of the cumulative mass over the whole vocabulary, in order of ids. s->block holds the blocks' sums,
 * which add up to the mass. -1 if there is no mass. */
static int32_t find_in_blocks(const ot_sampler *s, double target)
{
    int32_t last = -1;
    for (uint32_t b = 0; b < s->n_blocks; b++) {
        if (!(s->block[b] > 0))
            continue;
        if (target >= s->block[b] && b + 1 < s->n_blocks) {
            target -= s->block[b];
            last = (int32_t)b;
            continue;
        }
        last = (int32_t)b;
        break;
    }
    if (last < 0)
        return -1;
    uint32_t begin = (uint32_t)last * OT_SAMPLER_BLOCK, end = begin + ot_sampler_block_size(s, (uint32_t)last);
    int32_t found = -1;
    for (uint32_t i = begin; i < end; i++) {
        float e = ot_expf(s->scaled[i]);
        if (!(e > 0))
            continue;
        found = (int32_t)i; /* the last one with any mass takes what rounding leaves over */
        if (target < e)
            break;
        target -= e;
    }
    return found;
}

static void sum_block(ot_sampler *s, uint32_t b)
{
    s->block[b] = s->kernels->sum_exp(s->scaled + (size_t)b * OT_SAMPLER_BLOCK, ot_sampler_block_size(s, b), 0);
}

static uint32_t pick_from_all(ot_sampler *s, ot_draw d, uint32_t n, int32_t *tokens)
{
    for (uint32_t b = 0; b < s->n_blocks; b++)
        sum_block(s, b);
    uint32_t got = 0;
    for (; got < n; got++) {
        double whole = 0;
        for (uint32_t b = 0; b < s->n_blocks; b++)
            whole += s->block[b];
        int32_t token = find_in_blocks(s, whole * ot_random_uniform(d.seed, d.choice, d.position, got));
        if (token < 0)
            break;
        tokens[got] = token;
        s->scaled[token] = -INFINITY;
        if (got + 1 < n)
            sum_block(s, (uint32_t)token / OT_SAMPLER_BLOCK);
    }
    return got;
}

static uint32_t pick_from_set(ot_sampler *s, uint32_t n_set, ot_draw d, uint32_t n, int32_t *tokens)
{
    uint32_t got = 0;
    for (; got < n && got < n_set; got++) {
        double whole = 0;
        for (uint32_t i = 0; i < n_set; i++)
            whole += s->weights[i];
        double target = whole * ot_random_uniform(d.seed, d.choice, d.position, got);
        uint32_t found = n_set;
        for (uint32_t i = 0; i < n_set; i++) {
            if (!(s->weights[i] > 0))
                continue;
            found = i;
            if (target < s->weights[i])
                break;
            target -= s->weights[i];
        }
        if (found == n_set)
            break;
        tokens[got] = s->ids[found];
        s->weights[found] = 0;
    }
    return got;
}

static bool is_among(const int32_t *tokens, uint32_t n, int32_t token)
{
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] == token)
            return true;
    return false;
}

/* Goes on with the best tokens that are not there yet. */
static uint32_t append_best(ot_sampler *s, const float *logits, uint32_t got, uint32_t n, int32_t *tokens)
{
    uint32_t n_best = ot_sampler_top(s, logits, n, s->ids);
    uint32_t n_drawn = got;
    for (uint32_t i = 0; i < n_best && got < n; i++)
        if (!is_among(tokens, n_drawn, s->ids[i]))
            tokens[got++] = s->ids[i];
    return got;
}

uint32_t ot_sampler_pick(ot_sampler *s, const float *logits, const ot_sampling *p, ot_draw draw, uint32_t n,
                         int32_t *tokens)
{
    uint32_t got = 0;
    if (p->temperature > 0) {
        scale_logits(s, logits, p->temperature);
        got = is_filtered(p) ? pick_from_set(s, filtered_set(s, p), draw, n, tokens)
                             : pick_from_all(s, draw, n, tokens);
    }
    return got < n ? append_best(s, logits, got, n, tokens) : got;
}
