/* ARGS (Khanov et al. 2024; method: eq. 2 and 3): s(v) = LM(v) + sum over heads of w * r([x, v]) for the k most likely tokens v.
 *
 * w is that of the position (reward-course.h); where the course of the reward has ended plain decoding takes over.
 *
 * The k candidates are k rows of one pass that share the text's keys and values; the winner's row also gives the next logits,
 * so a token costs one pass. At temperature 0 the best s wins, ties to the more likely token; otherwise the
 * candidates are first cut by min_p, top_k and top_p and one is drawn from softmax(s / temperature). s is summed in double,
 * in the order of the signals, so that whoever repeats it from the reported numbers gets the same winner. LM(v) is that of the
 * steered logits where there are experts.
 *
 * Exact pruning (greedy, all steering heads sigmoids): a score lies in [0, 1], so s(v) lies between LM(v) + sum of min(w, 0) and
 * LM(v) + sum of max(w, 0). A candidate whose upper bound is below the best lower bound cannot win. Bounds are
 * summed in the order of s itself and floating-point addition is monotonic, so this holds to the last bit.
 * Where one candidate is left its row is the ordinary decode row. A guard that resamples may need the runners-up:
 * nothing is pruned then.
 *
 * Two waves. Once the score of the likeliest candidate is known, its bounds are one number, and mostly nobody else can win: a text that
 * scores .01 leaves those within w * .01 of it. So where that is cheaper (by what rows cost on this machine, and by how often it sufficed
 * in this text) the likeliest candidate runs alone; only if others can still win do they run in the next turn, and it again with
 * them, since the winner's row has to give the next logits. Which rows run depends on the neighbours, who wins does not.
 *
 * Lookahead heads predict r([x, v]) from the row of x, beside its logits. Their scores are known when the candidates are, so they
 * enter the bounds as they are; and if no other head steers, the winner is known, too: ot_args_decide, one row a token, under
 * the plain or the drafting policy. A request may also have a lookahead head pick which candidates are worth a row: its
 * prediction stands in for every exact score, and the lookahead_keep best by that run, always with the most likely one.
 *
 * Guesses (drafts.h) hang below the most likely candidate. If it wins, its row and theirs are there already: as long as the likeliest
 * candidate of the next position is a node of the turn and its score settles the position, or all candidates are nodes, the turn goes on.
 * Where nothing can be pruned it would take a guess of all k, so nothing is guessed. */
#include "scheduler/drafts/drafts.h"

#include <math.h>
#include <string.h>

#include "scheduler/policies/random.h"
#include "scheduler/policies/reward-course.h"

/* ---- Choosing candidates --------------------------------------------------------------------------------- */

/* The k most likely tokens that the filters leave, most likely first, become pending, with what lookahead heads say of them. False if
 * the request ended over it. */
static bool find_candidates(ot_decoder *d, ot_choice *c, const ot_position *at)
{
    const ot_request *r = c->request;
    const ot_sampling *how = &r->sampling;
    ot_log_norm norm = at->adjusted == at->raw ? at->raw_norm : ot_sampler_normalize(d->sampler, at->adjusted);
    int32_t tokens[OT_MAX_CANDIDATES];
    uint32_t n = ot_sampler_top(d->sampler, at->adjusted, r->intervention->candidates, tokens);
    ot_pending *p = &c->pending;
    p->n = n = ot_sampler_filter(d->sampler, at->adjusted, how, n);
    for (uint32_t i = 0; i < n; i++)
        p->candidates[i] = (ot_candidate){
            .token = tokens[i],
            .lm = ot_log_prob(norm, at->adjusted, tokens[i]),
            .logprob = r->logprobs ? ot_log_prob(at->raw_norm, at->raw, tokens[i]) : 0,
        };
    p->shifted_token = n > 0 ? tokens[0] : -1;
    if (n > 0 && how->temperature > 0) /* what the same draw would have picked without scores */
        ot_sampler_pick(d->sampler, at->adjusted, how, at->draw, 1, &p->shifted_token);
    p->base_token = at->base_token >= 0 ? at->base_token : p->shifted_token;
    return ot_policy_look_ahead(d, c, at->row);
}

/* s(v) of a candidate with every score that is not known yet at its best (or worst) for it. */
static double bound(const ot_request *r, const ot_pending *p, uint32_t candidate, double scale, bool best)
{
    double s = p->candidates[candidate].lm;
    for (uint32_t i = 0; i < r->intervention->n_signals; i++) {
        double w = (double)r->resolved.signals[i].weight * scale;
        if (r->resolved.signals[i].lookahead && w != 0)
            s += w * p->ahead[candidate][i];
        else if ((w > 0) == best)
            s += w;
    }
    return s;
}

static bool can_prune(const ot_request *r)
{
    if (r->sampling.temperature > 0 || r->intervention->guard == OT_GUARD_RESAMPLE)
        return false;
    for (uint32_t i = 0; i < r->intervention->n_signals; i++)
        if (r->resolved.signals[i].weight != 0 && !r->resolved.signals[i].bounded && !r->resolved.signals[i].lookahead)
            return false;
    return true;
}

/* ---- Two waves ------------------------------------------------------------------------------------------- */

#define PACE_PRIOR 4.0f       /* positions that the beginning counts like */
#define UNDECIDED_PRIOR 0.25f
#define LEFT_PRIOR 3.0f
#define PACE_DECAY 0.95f

/* Whether the likeliest candidate should run alone first. */
static bool tries_first(const ot_decoder *d, const ot_choice *c, uint32_t n_sharing)
{
    const ot_args_pace *pace = &c->args_pace;
    const ot_pending *p = &c->pending;
    if (p->n < 2 || p->first_was_tried || !can_prune(c->request))
        return false;
    const float undecided = (pace->undecided + PACE_PRIOR * UNDECIDED_PRIOR) / (pace->tried + PACE_PRIOR);
    const float left = (pace->n_left + PACE_PRIOR * UNDECIDED_PRIOR * LEFT_PRIOR) / (pace->undecided + PACE_PRIOR * UNDECIDED_PRIOR);
    const uint32_t n_left = left < (float)p->n ? (uint32_t)(left + 0.5f) : p->n;
    const ot_draft_costs *costs = &d->draft_costs;
    return ot_draft_cost_of_rows(costs, n_sharing) + undecided * ot_draft_cost_of_rows(costs, n_sharing * n_left) <
           ot_draft_cost_of_rows(costs, n_sharing * p->n);
}

static void note_pace(ot_args_pace *pace, uint32_t n_left)
{
    pace->tried = PACE_DECAY * pace->tried + 1;
    pace->undecided = PACE_DECAY * pace->undecided + (n_left > 1);
    pace->n_left = PACE_DECAY * pace->n_left + (n_left > 1 ? (float)n_left : 0);
}

static void move_candidate(ot_pending *p, uint32_t to, uint32_t from)
{
    p->candidates[to] = p->candidates[from];
    memmove(p->ahead[to], p->ahead[from], sizeof p->ahead[to]);
}

/* Leaves those that may win, in their order. */
static void prune(const ot_request *r, ot_pending *p, double scale)
{
    double floor = -INFINITY;
    for (uint32_t i = 0; i < p->n; i++) {
        double least = bound(r, p, i, scale, false);
        floor = least > floor ? least : floor; /* never NaN */
    }
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n; i++)
        if (!(bound(r, p, i, scale, true) < floor))
            move_candidate(p, n++, i);
    p->n = n;
}

/* s(v) with the prediction of the picking head in place of every exact score. */
static double estimate(const ot_request *r, const ot_pending *p, uint32_t candidate, double scale)
{
    double s = p->candidates[candidate].lm;
    for (uint32_t i = 0; i < r->intervention->n_signals; i++) {
        const ot_signal *x = &r->resolved.signals[i];
        if (x->weight != 0)
            s += (double)x->weight * scale * p->ahead[candidate][x->lookahead ? i : r->intervention->lookahead_signal];
    }
    return isnan(s) ? -INFINITY : s;
}

/* Leaves the most likely candidate and the best others by the estimate, in their order. */
static void keep_best(const ot_request *r, ot_pending *p, double scale)
{
    double s[OT_MAX_CANDIDATES];
    bool kept[OT_MAX_CANDIDATES] = {true};
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n; i++)
        s[i] = estimate(r, p, i, scale);
    for (uint32_t n_kept = 1; n_kept < r->intervention->lookahead_keep && n_kept < p->n; n_kept++) {
        uint32_t best = p->n;
        for (uint32_t i = 0; i < p->n; i++)
            if (!kept[i] && (best == p->n || s[i] > s[best]))
                best = i;
        kept[best] = true;
    }
    for (uint32_t i = 0; i < p->n; i++)
        if (kept[i])
            move_candidate(p, n++, i);
    p->n = n;
}

/* What may win position c->n_text becomes pending. */
static void decide(ot_decoder *d, ot_choice *c, const ot_logits *logits)
{
    const ot_request *r = c->request;
    ot_position at;
    if (!ot_reward_steers(c)) {
        ot_policy_decide(d, c, logits);
        return;
    }
    if (!ot_policy_read(d, c, logits, true, &at) || !find_candidates(d, c, &at))
        return;
    const double scale = ot_reward_scale(c);
    if (can_prune(r))
        prune(r, &c->pending, scale);
    if (r->intervention->lookahead_keep > 0)
        keep_best(r, &c->pending, scale);
}

/* ---- Picking the winner ---------------------------------------------------------------------------------- */

typedef struct contest {
    uint32_t n;
    bool refused;                /* some were, by the guard: */
    bool out[OT_MAX_CANDIDATES];
    double s[OT_MAX_CANDIDATES];
    float scores[OT_MAX_CANDIDATES][OT_MAX_SIGNALS];
} contest;

static double sum_scores(const ot_request *r, double lm, const float *scores, double scale)
{
    double sum = lm;
    for (uint32_t j = 0; j < r->intervention->n_signals; j++)
        if (r->resolved.signals[j].weight != 0)
            sum += (double)r->resolved.signals[j].weight * scale * scores[j];
    return isnan(sum) ? -INFINITY : sum;
}

static void score_candidates(const ot_decoder *d, const ot_choice *c, const ot_turn *t, const uint8_t *nodes, contest *k)
{
    const double scale = ot_reward_scale(c);
    k->n = c->pending.n;
    k->refused = false;
    for (uint32_t i = 0; i < k->n; i++) {
        ot_policy_scores(d, t, nodes[i], k->scores[i]);
        k->s[i] = sum_scores(c->request, c->pending.candidates[i].lm, k->scores[i], scale);
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

static uint32_t next_in_order(const contest *k, const ot_choice *c, uint32_t attempt)
{
    return c->request->sampling.temperature > 0 ? draw_from(k, c, attempt) : best_of(k);
}

/* The first candidate, in order of choice, that the guard lets pass; k->n if it refuses all that may be tried. */
static uint32_t pick_winner(contest *k, ot_choice *c)
{
    const ot_request *r = c->request;
    for (uint32_t attempt = 0; attempt < ot_guard_attempts(r); attempt++) {
        uint32_t i = next_in_order(k, c, attempt);
        if (i == k->n || !ot_guard_refuses(c, c->pending.candidates[i].token, k->scores[i]))
            return i;
        k->out[i] = k->refused = true;
    }
    return k->n;
}

static void count_scored(ot_decoder *d, ot_request *r, uint32_t n)
{
    d->stats->candidates_scored += n;
    atomic_fetch_add_explicit(&r->candidates_scored, n, memory_order_relaxed);
}

/* Whether the score of the likeliest candidate, which has run as this node, settles the position. Those that it leaves out are no
 * longer pending; a tie goes to the likelier. */
static bool first_settles(const ot_decoder *d, ot_choice *c, const ot_turn *t, uint32_t node)
{
    const ot_request *r = c->request;
    ot_pending *p = &c->pending;
    float scores[OT_MAX_SIGNALS];
    const double scale = ot_reward_scale(c);
    ot_policy_scores(d, t, node, scores);
    const double least = sum_scores(r, p->candidates[0].lm, scores, scale);
    uint32_t n = 1;
    for (uint32_t i = 1; i < p->n; i++)
        if (bound(r, p, i, scale, true) > least)
            move_candidate(p, n++, i);
    p->n = n;
    p->first_was_tried = true;
    note_pace(&c->args_pace, n);
    return n == 1;
}

/* Candidate i has run as nodes[i]: the winner joins the text and is sent. Returns its node, or -1 if the choice has ended. */
static int32_t settle(ot_decoder *d, ot_choice *c, ot_turn *t, const uint8_t *nodes)
{
    contest k;
    score_candidates(d, c, t, nodes, &k);
    count_scored(d, c->request, k.n);
    uint32_t winner = pick_winner(&k, c);
    if (winner == k.n) {
        ot_choice_end(d->scheduler, c, OT_FINISH_FILTER);
        return -1;
    }
    const ot_candidate *v = &c->pending.candidates[winner];
    ot_policy_count_change(d, c, v->token, k.refused);
    ot_policy_accept(t, nodes[winner]);
    ot_policy_emit(d, c, v, k.scores[winner]);
    return c->state != OT_CHOICE_FINISHED ? nodes[winner] : -1;
}

/* ---- Turns ----------------------------------------------------------------------------------------------- */

#define LIKELIEST_WINS 0.6f /* where the score decides: how often, before a choice has its own experience */

static void plan(const ot_decoder *d, const ot_choice *c, ot_turn *t)
{
    t->n_nodes = tries_first(d, c, t->n_sharing) ? 1 : c->pending.n;
    for (uint32_t i = 0; i < t->n_nodes; i++)
        t->nodes[i] = (ot_node){c->pending.candidates[i].token, -1};
    if (ot_draft_limit(c->request) > 0 && (c->request->intervention->candidates == 1 || can_prune(c->request)))
        ot_draft_plan(&d->draft_costs, c, t, c->pending.n == 1 ? 1 : LIKELIEST_WINS);
}

static void end_turn(ot_decoder *d, ot_choice *c, const ot_turn *t)
{
    if (ot_draft_limit(c->request) > 0)
        ot_draft_end_turn(d, c, t);
}

static void judge(ot_decoder *d, ot_choice *c, ot_turn *t)
{
    uint8_t nodes[OT_MAX_NODES];
    if (t->n_nodes - t->n_optional < c->pending.n && !first_settles(d, c, t, 0)) {
        count_scored(d, c->request, 1);
        end_turn(d, c, t);
        return;
    }
    for (uint32_t i = 0; i < c->pending.n; i++)
        nodes[i] = (uint8_t)i;
    int32_t winner = settle(d, c, t, nodes);
    if (winner >= 0)
        ot_draft_want(t, (uint32_t)winner);
    else
        end_turn(d, c, t);
}

/* The nodes after `parent` that bear the candidates which may win; false if one has none. */
static bool find_nodes(const ot_decoder *d, ot_choice *c, const ot_turn *t, uint32_t parent, uint8_t *nodes)
{
    const int32_t first = c->pending.n > 1 ? ot_draft_child(t, parent, c->pending.candidates[0].token) : -1;
    if (first >= 0 && can_prune(c->request))
        first_settles(d, c, t, (uint32_t)first);
    for (uint32_t i = 0; i < c->pending.n; i++) {
        int32_t node = ot_draft_child(t, parent, c->pending.candidates[i].token);
        if (node < 0)
            return false;
        nodes[i] = (uint8_t)node;
    }
    return c->pending.n > 0;
}

static void advance(ot_decoder *d, ot_choice *c, ot_turn *t, const ot_logits *logits)
{
    decide(d, c, &logits[0]);
    if (t == NULL)
        return;
    uint8_t nodes[OT_MAX_NODES];
    int32_t node = t->wanted[0];
    while (!c->pending.is_plain && ot_draft_goes_on(c) && find_nodes(d, c, t, (uint32_t)node, nodes) && (node = settle(d, c, t, nodes)) >= 0) {
        t->decided = ot_draft_logits_of(t, (uint32_t)node);
        decide(d, c, &logits[t->decided]);
    }
    end_turn(d, c, t);
}

/* ---- Lookahead alone ------------------------------------------------------------------------------------- */

bool ot_args_decide(ot_decoder *d, ot_choice *c, const ot_position *at)
{
    if (!find_candidates(d, c, at))
        return false;
    ot_pending *p = &c->pending;
    ot_pending order = {.n = 0};
    contest k = {.n = p->n};
    const double scale = ot_reward_scale(c);
    for (uint32_t i = 0; i < k.n; i++)
        k.s[i] = sum_scores(c->request, p->candidates[i].lm, p->ahead[i], scale);
    count_scored(d, c->request, k.n);
    uint32_t attempts = ot_guard_attempts(c->request);
    for (uint32_t i; order.n < attempts && (i = next_in_order(&k, c, order.n)) < k.n; k.out[i] = true) {
        order.candidates[order.n] = p->candidates[i];
        memcpy(order.ahead[order.n++], p->ahead[i], sizeof p->ahead[i]);
    }
    memcpy(p->candidates, order.candidates, order.n * sizeof order.candidates[0]);
    memcpy(p->ahead, order.ahead, order.n * sizeof order.ahead[0]);
    p->n = order.n;
    return true;
}

const ot_policy ot_policy_args = {"args", plan, judge, advance};
