/* Draft heads (method: eq. 6 and A.3; Medusa-1 likewise): K generation heads with offsets 1..K guess the K tokens after the pending one
 * from the hidden state that decided it. Offset k at the row of text position x predicts position x + 1 + k.
 *
 * The row's own logits are still at hand when its choice has been advanced, so a head's logits are those plus its values
 * (ot_engine_project_heads), and all heads at all rows of a group of logits take one run of the pool. Choices of one prompt share the
 * row that they begin with, and its guesses. A head that fails to give values gives no guesses; the text does not need them. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "scheduler/drafts.h"

/* One row whose guesses are wanted. */
typedef struct job {
    const ot_insertion *insertion;
    const ot_logits *logits;
    uint32_t n_branches;
    ot_choice *first;     /* the others of its request are among `sharers` */
} job;

struct ot_draft_heads {
    uint32_t n_vocab, n_jobs, n_sharers;
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

static bool share(ot_draft_heads *d, ot_choice *c, const ot_logits *logits)
{
    const job *last = d->n_jobs > 0 ? &d->jobs[d->n_jobs - 1] : NULL;
    if (last == NULL || last->logits != logits || last->first->request != c->request || d->n_sharers == OT_MAX_CHOICES)
        return false;
    d->sharers[2 * d->n_sharers] = c;
    d->sharers[2 * d->n_sharers + 1] = last->first;
    d->n_sharers++;
    return true;
}

void ot_draft_heads_add(ot_scheduler *s, ot_choice *c, const ot_logits *logits)
{
    ot_draft_heads *d = s->draft_heads;
    const ot_request *r = c->request;
    if (r->draft.insertion == NULL || !ot_draft_wanted(c) || c->pending.n == 0)
        return;
    c->proposal.n_depths = 0;
    if (share(d, c, logits))
        return;
    if (d->n_jobs == OT_LOGIT_ROWS)
        ot_draft_heads_run(s);
    d->jobs[d->n_jobs++] = (job){r->draft.insertion, logits, r->draft_tree > 0 ? OT_DRAFT_BRANCHES : 1, c};
}

/* ---- Running --------------------------------------------------------------------------------------------- */

/* Values of one depth become the best tokens of base logits + values. */
static uint32_t read_depth(ot_scheduler *s, const job *j, float *values, ot_proposal *p, uint32_t depth)
{
    const float *base = j->logits->raw;
    int32_t tokens[OT_DRAFT_BRANCHES];
    for (uint32_t i = 0; i < s->n_vocab; i++)
        values[i] += base[i];
    uint32_t n = ot_sampler_top(s->sampler, values, j->n_branches, tokens);
    ot_log_norm norm = ot_sampler_normalize(s->sampler, values);
    for (uint32_t i = 0; i < n; i++) {
        p->guesses[depth][i].token = tokens[i];
        p->guesses[depth][i].logprob = ot_log_prob(norm, values, tokens[i]);
    }
    return n;
}

/* values[i * stride] are those of depth i. */
static void read_proposal(ot_scheduler *s, const job *j, float *const *values, uint32_t stride)
{
    ot_proposal *p = &j->first->proposal;
    uint32_t n = n_depths(j);
    p->at = j->first->n_text;
    p->n_depths = 0;
    while (p->n_depths < n) {
        uint32_t depth = p->n_depths;
        p->n_branches[depth] = read_depth(s, j, values[depth * stride], p, depth);
        if (p->n_branches[depth] == 0)
            return;
        p->n_depths++;
    }
}

/* Whether two rows can go through the same heads together. */
static bool goes_with(const job *a, const job *b)
{
    return a->insertion == b->insertion && n_depths(a) == n_depths(b);
}

/* The jobs from `begin` on that go together and whose values fit; returns the first that is left. Value i * n + j is of depth i and
 * the j-th of the n jobs. */
static uint32_t run_some(ot_scheduler *s, uint32_t begin)
{
    ot_draft_heads *d = s->draft_heads;
    const job *first = &d->jobs[begin];
    const ot_insertion_spec *spec = &ot_insertion_get_info(first->insertion)->spec;
    uint32_t rows[OT_LOGIT_ROWS], depths = n_depths(first), n = 0;
    for (; begin + n < d->n_jobs && (n + 1) * depths <= OT_LOGIT_ROWS && goes_with(first, first + n); n++)
        rows[n] = first[n].logits->row;
    ot_head_rows heads[OT_MAX_DRAFT];
    for (uint32_t i = 0; i < depths; i++)
        heads[i] = (ot_head_rows){first->insertion, find_offset(spec, i + 1), n, rows, &d->rows[i * n]};
    ot_error err;
    if (ot_engine_project_heads(s->engine, heads, depths, &err) == OT_OK)
        for (uint32_t j = 0; j < n; j++)
            read_proposal(s, first + j, d->rows + j, n);
    return begin + n;
}

void ot_draft_heads_run(ot_scheduler *s)
{
    ot_draft_heads *d = s->draft_heads;
    for (uint32_t i = 0; i < d->n_jobs;)
        i = run_some(s, i);
    for (uint32_t i = 0; i < d->n_sharers; i++)
        d->sharers[2 * i]->proposal = d->sharers[2 * i + 1]->proposal;
    d->n_jobs = d->n_sharers = 0;
}
