/* Draft heads (method: eq. 6 and A.3; Medusa-1 likewise): K generation heads with offsets 1..K guess the K tokens after the pending one
 * from the hidden state that decided it. Offset k at the row of text position x predicts position x + 1 + k.
 *
 * The row's own logits are still at hand when its choice has been advanced, so a head's logits are those plus its values
 * (ot_engine_project_heads), and all heads at all rows of a group of logits take one run of the pool. Heads that read tokens go one
 * after the other instead, each told the likeliest guess of the one before; for a tree also behind the second likeliest first
 * guess, as a further row of the same products. Choices of one prompt share the row that they begin
 * with, and its guesses. A head that fails to give values gives no guesses; the text does not need them.
 *
 * A guess costs a product with a table of the vocabulary, so only the likelier part of it is looked at: byte pair encodings and unigram
 * vocabularies are made in the order of what text is made of. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "scheduler/drafts/drafts.h"

/* Of 56,200 tokens that SmolLM2-135M answered, 94% were in the first third of its vocabulary of 49,152, and 97% in the first half. A
 * missed token costs that guess, the other two thirds twice the time of each. */
#define LIKELY_SHARE 3
/* Whoever has so few is read whole: there is not much to save. */
#define FEW_TOKENS 8192

/* How often a guess behind a right path is right, at best. */
#define RIGHT_AT_BEST 0.5f

/* One row whose guesses are wanted. */
typedef struct job {
    const ot_insertion *insertion;
    const ot_logits *logits;
    uint32_t n_branches;
    ot_choice *first;     /* the others of its request are among `sharers` */
} job;

struct ot_draft_heads {
    uint32_t n_vocab, n_likely, n_jobs, n_sharers;
    job jobs[OT_LOGIT_ROWS];
    ot_choice *sharers[OT_MAX_CHOICES * 2]; /* pairs: a choice, and the one whose guesses it takes */
    float *values;                          /* (OT_LOGIT_ROWS, n_vocab) */
    float *rows[OT_LOGIT_ROWS];             /* pointers into it */
    size_t bytes;
};

ot_status ot_draft_heads_open(ot_draft_heads **out, uint32_t n_vocab, ot_error *err)
{
    ot_draft_heads *d = *out = calloc(1, sizeof *d);
    if (d == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "no memory for draft heads");
    d->n_vocab = n_vocab;
    d->n_likely = n_vocab / LIKELY_SHARE > FEW_TOKENS ? n_vocab / LIKELY_SHARE : n_vocab < FEW_TOKENS ? n_vocab : FEW_TOKENS;
    d->bytes = (size_t)OT_LOGIT_ROWS * n_vocab * sizeof(float);
    void *map = mmap(NULL, d->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) {
        ot_draft_heads_close(out);
        return ot_fail(err, OT_ERR_NOMEM, "no memory for the values of draft heads");
    }
    d->values = map;
    for (uint32_t i = 0; i < OT_LOGIT_ROWS; i++)
        d->rows[i] = d->values + (size_t)i * n_vocab;
    return OT_OK;
}

void ot_draft_heads_close(ot_draft_heads **heads)
{
    ot_draft_heads *d = *heads;
    if (d == NULL)
        return;
    if (d->values != NULL)
        munmap(d->values, d->bytes);
    free(d);
    *heads = NULL;
}

/* The output with an offset, or n_outputs. */
static uint32_t find_offset(const ot_insertion_spec *spec, uint32_t offset)
{
    uint32_t i = 0;
    while (i < spec->n_outputs && spec->offsets[i] != offset)
        i++;
    return i;
}

uint32_t ot_draft_head_depths(const ot_insertion *insertion)
{
    const ot_insertion_spec *spec = &ot_insertion_get_info(insertion)->spec;
    uint32_t n = 0;
    while (n < OT_MAX_DRAFT && find_offset(spec, n + 1) < spec->n_outputs)
        n++;
    return n;
}

static uint32_t n_depths(const job *j)
{
    return ot_draft_depth(j->first, ot_draft_head_depths(j->insertion));
}

/* ---- Collecting ------------------------------------------------------------------------------------------ */

static int32_t pending_token(const ot_choice *c)
{
    return c->pending.candidates[c->pending.at].token;
}

static bool reads_tokens(const ot_insertion *insertion)
{
    return ot_insertion_get_info(insertion)->spec.reads_tokens;
}

/* How many ways on are asked about one token at a time; 0 where heads are told none. */
static uint32_t n_paths(const job *j)
{
    return !reads_tokens(j->insertion) ? 0 : j->n_branches > 1 ? OT_DRAFT_PATHS : 1;
}

static bool share(ot_draft_heads *d, ot_choice *c, const ot_logits *logits)
{
    const job *last = d->n_jobs > 0 ? &d->jobs[d->n_jobs - 1] : NULL;
    if (last == NULL || last->logits != logits || last->first->request != c->request || d->n_sharers == OT_MAX_CHOICES)
        return false;
    if (reads_tokens(last->insertion) && pending_token(last->first) != pending_token(c))
        return false;
    d->sharers[2 * d->n_sharers] = c;
    d->sharers[2 * d->n_sharers + 1] = last->first;
    d->n_sharers++;
    return true;
}

void ot_draft_heads_add(ot_decoder *e, ot_choice *c, const ot_logits *logits)
{
    ot_draft_heads *d = e->draft_heads;
    const ot_request *r = c->request;
    if (r->resolved.draft.insertion == NULL || !ot_draft_wanted(c) || c->pending.n == 0)
        return;
    c->proposal.n_depths = 0;
    if (share(d, c, logits))
        return;
    if (d->n_jobs == OT_LOGIT_ROWS)
        ot_draft_heads_run(e);
    d->jobs[d->n_jobs++] = (job){r->resolved.draft.insertion, logits, r->intervention->drafting.tree > 0 ? OT_DRAFT_BRANCHES : 1, c};
}

/* ---- Running --------------------------------------------------------------------------------------------- */

static void begin_proposal(const job *j)
{
    ot_proposal *p = &j->first->proposal;
    p->at = j->first->n_text;
    p->n_depths = 0;
    p->n_paths = n_paths(j);
    memset(p->n_branches, 0, sizeof p->n_branches);
}

/* The next depth of a path: values become the best tokens of base logits + values. Nothing, if an earlier depth found nothing. */
static void add_depth(ot_decoder *e, const job *j, float *values, uint32_t path, uint32_t depth)
{
    ot_proposal *p = &j->first->proposal;
    if (p->n_depths < depth)
        return;
    const ot_insertion_spec *spec = &ot_insertion_get_info(j->insertion)->spec;
    const float residual = ot_insertion_residual(j->insertion, find_offset(spec, depth + 1));
    p->n_branches[path][depth] = ot_draft_best(ot_engine_kernels(e->engine), j->logits->raw, residual, values,
                                               e->draft_heads->n_likely, j->n_branches, p->guesses[path][depth]);
    p->n_depths += path == 0 && p->n_branches[path][depth] > 0;
}

/* Whether two rows can go through the same heads together. */
static bool goes_with(const job *a, const job *b)
{
    return a->insertion == b->insertion && n_depths(a) == n_depths(b) && n_paths(a) == n_paths(b);
}

/* All heads at once: value i * n + j is of depth i and the j-th of the n jobs. */
static void run_together(ot_decoder *e, const job *jobs, uint32_t n, const uint32_t *rows)
{
    ot_draft_heads *d = e->draft_heads;
    const ot_insertion_spec *spec = &ot_insertion_get_info(jobs->insertion)->spec;
    const uint32_t depths = n_depths(jobs);
    ot_head_rows heads[OT_MAX_DRAFT];
    ot_error err;
    for (uint32_t i = 0; i < depths; i++)
        heads[i] = (ot_head_rows){jobs->insertion, find_offset(spec, i + 1), n, rows, &d->rows[i * n], NULL, d->n_likely};
    if (ot_engine_project_heads(e->engine, heads, depths, &err) != OT_OK)
        return;
    for (uint32_t i = 0; i < depths; i++)
        for (uint32_t j = 0; j < n; j++)
            add_depth(e, jobs + j, d->rows[i * n + j], 0, i);
}

/* What the head of one depth is asked: a row for each path. */
typedef struct question {
    uint32_t n;
    const job *jobs[OT_LOGIT_ROWS];
    uint32_t paths[OT_LOGIT_ROWS], rows[OT_LOGIT_ROWS];
    int32_t before[OT_LOGIT_ROWS]; /* the token that it is told */
} question;

/* How likely a path is right down to a depth, by what its head claims and what such claims came to. */
static float path_chance(const job *j, uint32_t path, uint32_t depth)
{
    const ot_proposal *p = &j->first->proposal;
    const float scale = ot_draft_scale(&j->first->pace);
    float chance = 1;
    for (uint32_t i = 0; i < depth; i++) {
        const float claimed = expf(p->guesses[i == 0 ? 0 : path][i][i == 0 ? path : 0].logprob) * scale;
        chance *= claimed < 1 ? claimed : 1;
    }
    return chance;
}

/* Asking a head at a depth behind a path less likely than this costs more than it gives: the asking and a row more, for a pass saved
 * if the path and the guess are right. */
static float least_chance(const ot_decoder *e, const job *j, uint32_t depth)
{
    const ot_draft_costs *costs = &e->draft_costs;
    const float row = ot_draft_cost_of_rows(costs, depth + 2) - ot_draft_cost_of_rows(costs, depth + 1);
    const float asking = ot_draft_cost_of_guess(costs, ot_insertion_get_info(j->insertion)->has_head_tables);
    return (row + asking) / (RIGHT_AT_BEST * ot_draft_cost_of_rows(costs, 1));
}

/* Goes on along the paths that have a guess at the depth before, as long as one more on top of it can be worth the asking. The first
 * path is the longest: a proposal ends where it does. */
static void ask_about(const ot_decoder *e, question *q, const job *j, uint32_t depth)
{
    const ot_proposal *p = &j->first->proposal;
    for (uint32_t path = 0; path < (depth == 0 ? 1 : n_paths(j)); path++) {
        const uint32_t from = depth == 1 ? 0 : path, branch = depth == 1 ? path : 0;
        if (depth > 0 && (p->n_branches[from][depth - 1] <= branch ||
                          (!j->first->request->intervention->drafting.fixed && path_chance(j, path, depth) < least_chance(e, j, depth))))
            return;
        q->jobs[q->n] = j;
        q->paths[q->n] = path;
        q->rows[q->n] = j->logits->row;
        q->before[q->n++] = depth == 0 ? pending_token(j->first) : p->guesses[from][depth - 1][branch].token;
    }
}

/* Head by head, each behind the likeliest guesses so far. */
static void run_in_turn(ot_decoder *e, const job *jobs, uint32_t n)
{
    ot_draft_heads *d = e->draft_heads;
    const ot_insertion_spec *spec = &ot_insertion_get_info(jobs->insertion)->spec;
    ot_error err;
    for (uint32_t i = 0; i < n_depths(jobs); i++) {
        question q = {.n = 0};
        for (uint32_t j = 0; j < n; j++)
            ask_about(e, &q, jobs + j, i);
        const ot_head_rows head = {jobs->insertion, find_offset(spec, i + 1), q.n, q.rows, d->rows, q.before, d->n_likely};
        if (q.n == 0 || ot_engine_project_heads(e->engine, &head, 1, &err) != OT_OK)
            return;
        for (uint32_t k = 0; k < q.n; k++)
            add_depth(e, q.jobs[k], d->rows[k], q.paths[k], i);
    }
}

/* Depths that the proposals of n jobs have. */
static uint32_t count_guesses(const job *jobs, uint32_t n)
{
    uint32_t sum = 0;
    for (uint32_t j = 0; j < n; j++)
        sum += jobs[j].first->proposal.n_depths;
    return sum;
}

/* The jobs from `begin` on that go together and whose values fit; returns the first that is left. */
static uint32_t run_some(ot_decoder *e, uint32_t begin)
{
    const job *first = &e->draft_heads->jobs[begin];
    const uint32_t values = n_paths(first) > 0 ? n_paths(first) : n_depths(first); /* of a row, at a time */
    uint32_t rows[OT_LOGIT_ROWS], n = 0;
    for (; begin + n < e->draft_heads->n_jobs && (n + 1) * values <= OT_LOGIT_ROWS && goes_with(first, first + n); n++) {
        rows[n] = first[n].logits->row;
        begin_proposal(first + n);
    }
    ot_draft_costs_begin_guesses(&e->draft_costs);
    if (n_paths(first) > 0)
        run_in_turn(e, first, n);
    else
        run_together(e, first, n, rows);
    ot_draft_costs_end_guesses(&e->draft_costs, ot_insertion_get_info(first->insertion)->has_head_tables, count_guesses(first, n));
    return begin + n;
}

void ot_draft_heads_run(ot_decoder *e)
{
    ot_draft_heads *d = e->draft_heads;
    for (uint32_t i = 0; i < d->n_jobs;)
        i = run_some(e, i);
    for (uint32_t i = 0; i < d->n_sharers; i++)
        d->sharers[2 * i]->proposal = d->sharers[2 * i + 1]->proposal;
    d->n_jobs = d->n_sharers = 0;
}
