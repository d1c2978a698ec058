/* From guesses to nodes. Lookup and head (or model) each say how likely what they guess is; the turn gets the nodes that add most.
 *
 * Heads guess each depth on its own, so a tree of their guesses has a node for every combination, as likely as the product of its
 * parts (Cai et al. 2024, Medusa). It is grown best first: of all nodes whose parent is in the turn the likeliest is taken, as long as
 * it adds more tokens for its time than the turn gives on average so far; that is where tokens by time are highest, since
 * each further node is less likely and costs no less. What the lookup found is one more branch of the tree. A token
 * that both guess is as likely as that not both are wrong.
 *
 * Heads that read tokens guess behind the tokens that they were told: the likeliest one at each depth, and in a tree also those behind
 * the second likeliest at the first. Only nodes on these paths have children by the head.
 *
 * A chain is one path: the lookup's, or the likeliest tokens of the head, whichever promises more right tokens. */
#include <math.h>

#include "scheduler/drafts/drafts.h"
#include "scheduler/drafts/ngram-drafts.h"
#include "scheduler/policies/constrain.h"

#define SUREST 0.97f /* nothing is certain, whatever its past */
#define NO_PATH (-1)

typedef struct growth {
    const ot_draft_costs *costs;
    const ot_choice *c;
    ot_turn *t;
    const ot_proposal *proposal; /* NULL: none */
    uint32_t n_lookup;
    int32_t lookup[OT_MAX_DRAFT];
    float lookup_chance, scale;
    uint32_t max_depth, max_nodes, n_plain;
    float sure, expected;        /* tokens that the turn gives, on average */
} growth;

/* ---- Chances --------------------------------------------------------------------------------------------- */

/* Guesses of the head behind what is before a depth: on that path of the proposal, or NO_PATH. */
static uint32_t n_branches(const growth *g, int path, uint32_t depth)
{
    return g->proposal != NULL && path != NO_PATH && depth < g->proposal->n_depths ? g->proposal->n_branches[path][depth] : 0;
}

static int32_t branch_token(const growth *g, int path, uint32_t depth, uint32_t branch)
{
    return g->proposal->guesses[path][depth][branch].token;
}

/* What the head claims for a token; 0 if it is not among its guesses. */
static float claimed_for(const growth *g, int path, uint32_t depth, int32_t token)
{
    for (uint32_t i = 0; i < n_branches(g, path, depth); i++)
        if (branch_token(g, path, depth, i) == token) {
            float p = expf(g->proposal->guesses[path][depth][i].logprob);
            return p > 0 ? p : 0; /* also for what is no number */
        }
    return 0;
}

/* The path that leads on behind a token at a depth of a path. */
static int path_behind(const growth *g, int path, uint32_t depth, int32_t token)
{
    if (g->proposal == NULL || g->proposal->n_paths == 0)
        return 0;
    const uint32_t n_ways = depth == 0 ? g->proposal->n_paths : 1; /* each is behind another of the first guesses */
    for (uint32_t i = 0; i < n_ways && i < n_branches(g, path, depth); i++)
        if (branch_token(g, path, depth, i) == token)
            return depth == 0 ? (int)i : path;
    return NO_PATH;
}

/* Given that everything before it is right. on_lookup: what is before it is as the lookup has it. */
static ot_guess judge_guess(const growth *g, uint32_t depth, int32_t token, bool on_lookup, int path)
{
    ot_guess v = {.claimed = claimed_for(g, path, depth, token)};
    v.by_lookup = on_lookup && depth < g->n_lookup && g->lookup[depth] == token;
    float head = v.claimed * g->scale, lookup = v.by_lookup ? g->lookup_chance : 0;
    head = head < SUREST ? head : SUREST;
    v.chance = 1 - (1 - head) * (1 - lookup);
    v.chance = v.chance < SUREST ? v.chance : SUREST;
    return v;
}

/* Whether one more row for a token this likely raises tokens by time. */
static bool pays(const growth *g, float chance)
{
    if (g->c->request->intervention->drafting.fixed)
        return true;
    uint32_t n = g->t->n_optional, n_sharing = g->t->n_sharing;
    float now = ot_draft_time(g->costs, n_sharing, g->n_plain, n), more = ot_draft_time(g->costs, n_sharing, g->n_plain, n + 1);
    float proposal = g->proposal != NULL ? ot_draft_proposal_time(g->costs, g->c, n_sharing) : 0;
    return chance * (now + proposal) > g->expected * (more - now);
}

static uint32_t add_guess(growth *g, uint32_t parent, int32_t token, ot_guess v)
{
    ot_turn *t = g->t;
    t->nodes[t->n_nodes] = (ot_node){token, (int32_t)parent};
    t->guesses[t->n_nodes] = v;
    t->n_optional++;
    g->expected += v.chance;
    return t->n_nodes++;
}

/* ---- Chain ----------------------------------------------------------------------------------------------- */

typedef struct laid_path {
    uint32_t n;
    int32_t tokens[OT_MAX_DRAFT];
    ot_guess guesses[OT_MAX_DRAFT]; /* of the path up to there */
    float expected;
} laid_path;

static void lay_path(const growth *g, bool by_lookup, laid_path *p)
{
    float chance = g->sure, claimed = g->sure;
    bool on_lookup = true;
    int path = 0;
    *p = (laid_path){0};
    for (uint32_t depth = 0; depth < g->max_depth; depth++) {
        if (by_lookup ? depth >= g->n_lookup : n_branches(g, path, depth) == 0)
            break;
        int32_t token = by_lookup ? g->lookup[depth] : branch_token(g, path, depth, 0);
        ot_guess v = judge_guess(g, depth, token, on_lookup, path);
        on_lookup = v.by_lookup;
        path = path_behind(g, path, depth, token);
        chance = v.chance *= chance;
        claimed = v.claimed *= claimed;
        p->tokens[depth] = token;
        p->guesses[depth] = v;
        p->expected += chance;
        p->n++;
    }
}

static void grow_chain(growth *g)
{
    laid_path a, b;
    lay_path(g, true, &a);
    lay_path(g, false, &b);
    const laid_path *p = a.expected >= b.expected ? &a : &b;
    uint32_t parent = 0;
    for (uint32_t i = 0; i < p->n && g->t->n_optional < g->max_nodes && pays(g, p->guesses[i].chance); i++)
        parent = add_guess(g, parent, p->tokens[i], p->guesses[i]);
}

/* ---- Tree ------------------------------------------------------------------------------------------------ */

/* A node that may come next. Of the head's branches below a parent only the best one left is open. */
typedef struct opening {
    uint32_t parent, depth, branch;
    bool by_lookup;   /* the lookup's, not a branch */
    bool on_lookup;   /* the parent is the lookup's */
    int path;         /* of the proposal that the parent is on, or NO_PATH */
    int32_t token;
    ot_guess guess;   /* of the path up to there */
} opening;

typedef struct frontier {
    uint32_t n;
    opening open[3 * (OT_MAX_TREE + 1)];
} frontier;

static ot_guess root_guess(const growth *g, uint32_t node)
{
    return node == 0 ? (ot_guess){g->sure, g->sure, true} : g->t->guesses[node];
}

static void open_node(const growth *g, frontier *f, opening o)
{
    if (o.by_lookup ? o.depth >= g->n_lookup : o.branch >= n_branches(g, o.path, o.depth))
        return;
    ot_guess before = root_guess(g, o.parent);
    o.token = o.by_lookup ? g->lookup[o.depth] : branch_token(g, o.path, o.depth, o.branch);
    o.guess = judge_guess(g, o.depth, o.token, o.on_lookup, o.path);
    o.guess.chance *= before.chance;
    o.guess.claimed *= before.claimed;
    f->open[f->n++] = o;
}

static void open_below(const growth *g, frontier *f, uint32_t node, uint32_t depth, bool on_lookup, int path)
{
    if (depth >= g->max_depth)
        return;
    open_node(g, f, (opening){.parent = node, .depth = depth, .on_lookup = on_lookup, .path = path});
    if (on_lookup)
        open_node(g, f, (opening){.parent = node, .depth = depth, .on_lookup = true, .path = path, .by_lookup = true});
}

static opening take_best(frontier *f)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < f->n; i++)
        if (f->open[i].guess.chance > f->open[best].guess.chance)
            best = i;
    opening o = f->open[best];
    f->open[best] = f->open[--f->n];
    return o;
}

static void grow_tree(growth *g)
{
    frontier f = {0};
    open_below(g, &f, 0, 0, true, 0);
    while (f.n > 0 && g->t->n_optional < g->max_nodes) {
        opening o = take_best(&f);
        if (!pays(g, o.guess.chance))
            return;
        if (ot_draft_child(g->t, o.parent, o.token) < 0) {
            uint32_t node = add_guess(g, o.parent, o.token, o.guess);
            open_below(g, &f, node, o.depth + 1, o.guess.by_lookup, path_behind(g, o.path, o.depth, o.token));
        }
        if (!o.by_lookup) {
            o.branch++;
            open_node(g, &f, o);
        }
    }
}

/* ---- Both ------------------------------------------------------------------------------------------------ */

/* What the grammar leaves no choice about comes before what the text had earlier. It is learnt like a lookup: a model may cut the same bytes
 * into other tokens. */
static void ask_lookup(growth *g)
{
    const ot_choice *c = g->c;
    uint32_t matched = OT_NGRAM_LONGEST;
    g->n_lookup = ot_constrain_guess(c, g->t->nodes[0].token, g->lookup, g->max_depth);
    if (g->n_lookup == 0 && c->request->intervention->drafting.lookup)
        g->n_lookup = ot_ngram_draft(c->tokens, c->n_text, g->t->nodes[0].token, g->max_depth, g->lookup, &matched);
    if (g->n_lookup > 0)
        g->lookup_chance = ot_draft_lookup_chance(&c->pace, matched);
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

void ot_draft_plan(const ot_draft_costs *costs, const ot_choice *c, ot_turn *t, float sure)
{
    const ot_request *r = c->request;
    t->n_optional = 0;
    if (!ot_draft_wanted(c) || t->spare_rows < t->n_nodes)
        return;
    growth g = {.costs = costs, .c = c, .t = t, .n_plain = t->n_nodes, .sure = sure, .expected = 1};
    if (c->proposal.n_depths > 0 && c->proposal.at == c->n_text)
        g.proposal = &c->proposal;
    g.scale = ot_draft_scale(&c->pace);
    /* The row of node 0 gives one token, what is below it the others. The text's slots end with max_new. */
    g.max_depth = least(ot_draft_limit(r), r->max_new - c->n_generated - 1);
    g.max_nodes = least(r->intervention->drafting.tree > 0 ? r->intervention->drafting.tree : g.max_depth, r->n_prompt + r->max_new - c->n_text);
    g.max_nodes = least(least(g.max_nodes, OT_MAX_NODES - t->n_nodes), t->spare_rows + 1 - t->n_nodes);
    ask_lookup(&g);
    if (r->intervention->drafting.tree > 0)
        grow_tree(&g);
    else
        grow_chain(&g);
}
