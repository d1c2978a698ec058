/* DExperts (Liu et al. 2021): z + alpha (z+ - z-), and anti-expert only (1 + alpha) z - alpha z-, on the logits of every position
 * before penalties, candidates or drafts are looked at (method: eq. 4, 5).
 *
 * Heads and separate models alike give D = z_expert - z_base, so both equations are one: z + alpha (D+ - D-), with D+ = 0 where there is no
 * positive expert; with heads, nothing of full width is computed but D itself. The optional filter keeps the tokens inside the
 * base's own top-p nucleus (at temperature 1, before penalties) and makes the others impossible.
 *
 * Every position has a buffer for D- and one for D+, in a mapping of its own that is resident only as far as it has been used. The
 * steered logits take the place of D-. Each value is made of its row's alone, so a row's neighbours cannot show. */
#include "scheduler/policies/experts.h"

#include <float.h>
#include <math.h>
#include <sys/mman.h>

#include "scheduler/companion.h"

#define MAX_ASKS (2 * OT_LOGIT_ROWS)

/* One expert at one row. */
typedef struct ask {
    const ot_used_head *head;
    uint32_t row;
    const float *base; /* (n_vocab) */
    float *values;     /* (n_vocab) */
} ask;

static size_t buffer_bytes(const ot_decoder *d)
{
    return (size_t)MAX_ASKS * d->n_vocab * sizeof(float);
}

ot_status ot_experts_open(ot_decoder *d, ot_error *err)
{
    void *map = mmap(NULL, buffer_bytes(d), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return ot_fail(err, OT_ERR_NOMEM, "no memory for the logits of experts at %d rows", OT_LOGIT_ROWS);
    d->expert_values = map;
    return OT_OK;
}

void ot_experts_close(ot_decoder *d)
{
    if (d->expert_values != NULL)
        munmap(d->expert_values, buffer_bytes(d));
    d->expert_values = NULL;
}

/* The buffers of row i: D-, then D+. */
static float *values_of(const ot_decoder *d, uint32_t i, bool positive)
{
    return d->expert_values + (size_t)(2 * i + positive) * d->n_vocab;
}

/* ---- Asking ---------------------------------------------------------------------------------------------- */

static bool same_expert(const ot_used_head *a, const ot_used_head *b)
{
    return a->head == b->head && a->output == b->output;
}

/* Lists what is asked for: each head's rows side by side, heads before models. */
static uint32_t list_asks(const ot_decoder *d, const ot_steered_row *rows, uint32_t n, ask *out)
{
    ask all[MAX_ASKS];
    bool taken[MAX_ASKS] = {false};
    uint32_t n_all = 0, n_out = 0;
    for (uint32_t i = 0; i < n; i++) {
        const ot_request *r = rows[i].request;
        const ot_logits *l = rows[i].logits;
        all[n_all++] = (ask){&r->resolved.negative, l->row, l->raw, values_of(d, i, false)};
        if (r->resolved.positive.head != NULL)
            all[n_all++] = (ask){&r->resolved.positive, l->row, l->raw, values_of(d, i, true)};
    }
    for (int models = 0; models < 2; models++)
        for (uint32_t i = 0; i < n_all; i++) {
            if ((all[i].head->insertion == NULL) != models)
                continue;
            for (uint32_t j = i; j < n_all && !taken[i]; j++)
                if (!taken[j] && same_expert(all[i].head, all[j].head))
                    out[n_out++] = all[j];
            for (uint32_t j = n_all; j-- > i;)
                taken[j] |= same_expert(all[i].head, all[j].head);
        }
    return n_out;
}

/* Values for at most OT_LOGIT_ROWS asks: heads in one run of the pool, then each model. */
static ot_status answer(ot_decoder *d, const ask *asks, uint32_t n, ot_error *err)
{
    uint32_t rows[OT_LOGIT_ROWS], n_lists = 0, i = 0;
    float *values[OT_LOGIT_ROWS];
    const float *base[OT_LOGIT_ROWS];
    ot_head_rows lists[OT_LOGIT_ROWS];
    for (uint32_t j = 0; j < n; j++) {
        rows[j] = asks[j].row;
        values[j] = asks[j].values;
        base[j] = asks[j].base;
    }
    ot_status st = OT_OK;
    for (uint32_t end; i < n && st == OT_OK; i = end) {
        const ot_used_head *head = asks[i].head;
        for (end = i + 1; end < n && same_expert(asks[end].head, head); end++)
            ;
        if (head->insertion != NULL)
            lists[n_lists++] = (ot_head_rows){head->insertion, head->output, end - i, rows + i, values + i, NULL, 0};
        else
            st = ot_companion_values(head, rows + i, end - i, d->n_vocab, base + i, values + i, err);
    }
    if (st == OT_OK && n_lists > 0)
        st = ot_engine_project_heads(d->engine, lists, n_lists, err);
    return st;
}

/* ---- Shifting -------------------------------------------------------------------------------------------- */

/* Raw logits and values are those before a cap of the base; it comes last (method: eq. 8 factors before any cap).
 *
 * values becomes raw + alpha (positive - values); positive may be NULL, for 0. False if some result is no finite number. */
static bool shift(float *values, const float *raw, const float *positive, float alpha, uint32_t n)
{
    bool finite = true;
    for (uint32_t i = 0; i < n; i++) {
        float difference = positive != NULL ? positive[i] - values[i] : -values[i];
        values[i] = raw[i] + alpha * difference;
        finite &= fabsf(values[i]) <= FLT_MAX;
    }
    return finite;
}

void ot_experts_steer(ot_decoder *d, const ot_steered_row *rows, uint32_t n, ot_error *err)
{
    ask asks[MAX_ASKS];
    uint32_t n_asks = list_asks(d, rows, n, asks);
    ot_status st = OT_OK;
    for (uint32_t i = 0; i < n; i++)
        rows[i].logits->steered = NULL;
    for (uint32_t i = 0; i < n_asks && st == OT_OK; i += OT_LOGIT_ROWS)
        st = answer(d, asks + i, n_asks - i < OT_LOGIT_ROWS ? n_asks - i : OT_LOGIT_ROWS, err);
    for (uint32_t i = 0; i < n && st == OT_OK; i++) {
        const ot_request *r = rows[i].request;
        float *values = values_of(d, i, false);
        const float *positive = r->resolved.positive.head != NULL ? values_of(d, i, true) : NULL;
        if (!shift(values, rows[i].logits->raw, positive, r->intervention->experts.alpha, d->n_vocab)) {
            ot_fail_param(err, OT_ERR_MISMATCH, "intervention.experts", "with alpha %g the experts give non-finite logits",
                          (double)r->intervention->experts.alpha);
            continue;
        }
        ot_engine_cap_logits(d->engine, values);
        ot_engine_cap_logits(d->engine, rows[i].raw);
        ot_sampler_keep_nucleus(d->sampler, rows[i].logits->raw, r->intervention->experts.top_p, values);
        rows[i].logits->steered = values;
    }
}
