/* ARGS (Khanov et al. 2024; method: eq. 2 and 3): s(v) = LM(v) + sum over heads of w * r([x, v]) for the k most likely tokens v.
 *
 * The k candidates are k rows of one pass that share the text's keys and values; the winner's row also gives the next logits,
 * so a token costs one pass. At temperature 0 the best s wins, ties to the more likely token; otherwise the
 * candidates are first cut by min_p, top_k and top_p and one is drawn from softmax(s / temperature). s is summed in double,
 * in the order of the signals, so that whoever repeats it from the reported numbers gets the same winner.
 *
 * Exact pruning (greedy, all steering heads sigmoids): a score lies in [0, 1], so s(v) lies between LM(v) + sum of min(w, 0) and
 * LM(v) + sum of max(w, 0). A candidate whose upper bound is below the top candidate's lower bound cannot win. Bounds are
 * summed in the order of s itself and floating-point addition is monotonic, so this holds to the last bit.
 * Where one candidate is left its row is the ordinary decode row. A guard that resamples may need the runners-up:
 * nothing is pruned then. */
#include "scheduler/policy.h"

#include <math.h>

#include "scheduler/random.h"

static void plan(const ot_choice *c, ot_turn *t)
{
    t->n_nodes = c->pending.n;
    for (uint32_t i = 0; i < c->pending.n; i++)
        t->nodes[i] = (ot_node){c->pending.candidates[i].token, -1};
}

/* ---- Choosing candidates --------------------------------------------------------------------------------- */

/* s(v) with every score at its best (or worst) for v. */
static double bound(const ot_request *r, double lm, bool best)
{
    double s = lm;
    for (uint32_t i = 0; i < r->n_signals; i++) {
        double w = r->signals[i].weight;
        if ((w > 0) == best)
            s += w;
    }
    return s;
}

static bool can_prune(const ot_request *r)
{
    if (r->sampling.temperature > 0 || r->guard == OT_GUARD_RESAMPLE)
        return false;
    for (uint32_t i = 0; i < r->n_signals; i++)
        if (r->signals[i].weight != 0 && !r->signals[i].bounded)
            return false;
    return true;
}

/* Candidates come best first, so those that cannot win are at the end. */
static uint32_t prune(const ot_request *r, const ot_candidate *v, uint32_t n)
{
    double floor = bound(r, v[0].lm, false);
    while (n > 1 && bound(r, v[n - 1].lm, true) < floor)
        n--;
    return n;
}

static void advance(ot_scheduler *s, ot_choice *c, ot_turn *t, const ot_logits *logits)
{
    (void)t;
    const ot_request *r = c->request;
    const ot_sampling *how = &r->sampling;
    ot_position at;
    ot_policy_read(s, c, &logits[0], true, &at);
    ot_log_norm norm = at.adjusted == at.raw ? at.raw_norm : ot_sampler_normalize(s->sampler, at.adjusted);
    int32_t tokens[OT_MAX_CANDIDATES];
    uint32_t n = ot_sampler_top(s->sampler, at.adjusted, r->n_candidates, tokens);
    n = ot_sampler_filter(s->sampler, at.adjusted, how, tokens, n);
    ot_pending *p = &c->pending;
    for (uint32_t i = 0; i < n; i++)
        p->candidates[i] = (ot_candidate){
            .token = tokens[i],
            .lm = ot_log_prob(norm, at.adjusted, tokens[i]),
            .logprob = r->logprobs ? ot_log_prob(at.raw_norm, at.raw, tokens[i]) : 0,
        };
    p->base_token = tokens[0];
    if (how->temperature > 0) /* what the same draw would have picked without steering */
        ot_sampler_pick(s->sampler, at.adjusted, how, at.draw, 1, &p->base_token);
    p->n = can_prune(r) ? prune(r, p->candidates, n) : n;
}

/* ---- Picking the winner ---------------------------------------------------------------------------------- */

typedef struct contest {
    uint32_t n;
    bool out[OT_MAX_CANDIDATES]; /* refused by the guard */
    double s[OT_MAX_CANDIDATES];
    float scores[OT_MAX_CANDIDATES][OT_MAX_SIGNALS];
} contest;

static void score_candidates(const ot_scheduler *s, const ot_choice *c, const ot_turn *t, contest *k)
{
    const ot_request *r = c->request;
    k->n = t->n_nodes;
    for (uint32_t i = 0; i < k->n; i++) {
        ot_policy_scores(s, t, i, k->scores[i]);
        double sum = c->pending.candidates[i].lm;
        for (uint32_t j = 0; j < r->n_signals; j++)
            if (r->signals[j].weight != 0)
                sum += (double)r->signals[j].weight * k->scores[i][j];
        k->s[i] = isnan(sum) ? -INFINITY : sum;
        k->out[i] = false;
    }
}

static uint32_t best_of(const contest *k)
{
    uint32_t best = k->n;
    for (uint32_t i = 0; i < k->n; i++)
        if (!k->out[i] && (best == k->n || k->s[i] > k->s[best]))
            best = i;
    return best;
}

/* Draws from softmax(s / temperature) over those that are left. */
static uint32_t draw_from(const contest *k, const ot_choice *c, uint32_t attempt)
{
    const ot_sampling *how = &c->request->sampling;
    uint32_t best = best_of(k);
    if (best == k->n)
        return best;
    double mass[OT_MAX_CANDIDATES], whole = 0;
    for (uint32_t i = 0; i < k->n; i++) {
        mass[i] = k->out[i] ? 0 : ot_expf((float)((k->s[i] - k->s[best]) / how->temperature));
        whole += mass[i];
    }
    double target = whole * ot_random_uniform(how->seed, c->request->first_choice + c->index, c->n_text, attempt);
    uint32_t found = best;
    for (uint32_t i = 0; i < k->n; i++) {
        if (!(mass[i] > 0))
            continue;
        found = i;
        if (target < mass[i])
            break;
        target -= mass[i];
    }
    return found;
}

/* The first candidate, in order of choice, that the guard lets pass; k->n if it refuses all that may be tried. */
static uint32_t pick_winner(contest *k, const ot_choice *c)
{
    const ot_request *r = c->request;
    for (uint32_t attempt = 0; attempt < ot_guard_attempts(r); attempt++) {
        uint32_t i = r->sampling.temperature > 0 ? draw_from(k, c, attempt) : best_of(k);
        if (i == k->n || !ot_guard_refuses(r, k->scores[i]))
            return i;
        k->out[i] = true;
    }
    return k->n;
}

static void judge(ot_scheduler *s, ot_choice *c, ot_turn *t)
{
    ot_request *r = c->request;
    contest k;
    score_candidates(s, c, t, &k);
    s->stats.candidates_scored += k.n;
    atomic_fetch_add_explicit(&r->candidates_scored, k.n, memory_order_relaxed);
    uint32_t winner = pick_winner(&k, c);
    if (winner == k.n) {
        ot_choice_end(s, c, OT_FINISH_FILTER);
        return;
    }
    const ot_candidate *v = &c->pending.candidates[winner];
    if (v->token != c->pending.base_token)
        ot_policy_count_changed(s, c, OT_MODE_REWARD);
    ot_policy_accept(t, winner);
    ot_policy_emit(s, c, v, k.scores[winner]);
    if (c->state != OT_CHOICE_FINISHED)
        ot_policy_want(t, winner);
}

const ot_policy ot_policy_args = {"args", plan, judge, advance};
