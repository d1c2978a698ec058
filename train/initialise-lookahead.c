/* A start for lookahead heads: "the score stays as it is".
 *
 * Scores persist, so a head that has to find r([x, v]) for every v from nothing spends its training on r(x), which its parent knows. But
 * w . H'_parent, the parent's score before bias and activation, is linear in the parent's stream, and a stream only ever gets sums:
 * with c = kappa w * gamma'_out, one own dimension that is given c . (what the parent's stream is given) at the embedding and in
 * each layer's two output products equals c . h'_parent everywhere, and after the output norm (its own gamma' 1) kappa w . H'_parent.
 * This works because the parent's inputs of those products come first in the concatenation that its child reads. The head then
 * needs one direction u of the output matrix's space with E_v . u = 1 for all tokens v: found by least squares (embeddings have a
 * large common part: on SmolLM2-135M the fit is 1 within 0.036). W = [u / kappa, 0, ...], b = the parent's: E_v . W H' + b = r(x).
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/loss/output-floats.h"
#include "train/train-internal.h"
#include "engine/kernels.h"

#define KAPPA 0.25     /* scores before the activation reach about 6: that dimension keeps near the scale of the others */
#define ITERATIONS 60

/* u (d) with E u close to 1: conjugate gradients on the normal equations. */
static ot_status common_direction(const ot_model *base, float *u, ot_error *err)
{
    const ot_model_info *i = ot_model_get_info(base);
    const ot_kernels *k = ot_kernels_select(~0u);
    const uint32_t d = i->n_embd, n = i->n_vocab;
    float *e = NULL, *work = ot_alloc((size_t)3 * d, sizeof *work);
    if (work == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory");
    const ot_status st = ot_output_floats(&e, base, err);
    if (st != OT_OK) {
        free(work);
        return st;
    }
    float *r = work, *p = work + d, *a = work + 2 * (size_t)d;
    memset(u, 0, d * sizeof *u);
    for (uint32_t v = 0; v < n; v++)
        k->axpy(r, e + (size_t)v * d, 1.0f, d);
    memcpy(p, r, d * sizeof *p);
    double rr = k->dot(r, r, d);
    const double enough = 1e-9 * rr;
    for (int step = 0; step < ITERATIONS && rr > enough; step++) {
        memset(a, 0, d * sizeof *a);
        for (uint32_t v = 0; v < n; v++)
            k->axpy(a, e + (size_t)v * d, k->dot(e + (size_t)v * d, p, d), d);
        const float alpha = (float)(rr / k->dot(p, a, d));
        k->axpy(u, p, alpha, d);
        k->axpy(r, a, -alpha, d);
        const double next = k->dot(r, r, d);
        for (uint32_t j = 0; j < d; j++)
            p[j] = r[j] + (float)(next / rr) * p[j];
        rr = next;
    }
    free(e);
    free(work);
    return OT_OK;
}

/* Row 0 of an own matrix that writes h': c times the rows of the parent's, whose inputs come first. */
static void combine_rows(ot_param *own, const ot_param *parent, const float *c)
{
    memset(own->data, 0, own->n_in * sizeof(float));
    for (uint32_t i = 0; i < parent->n_out; i++)
        for (uint32_t j = 0; j < parent->n_in; j++)
            own->data[j] += c[i] * parent->data[(size_t)i * parent->n_in + j];
}

/* Nothing reads dimension 0 but the head: the own columns of the projections at it become 0. */
static void blind_column(ot_param *p, uint32_t d)
{
    for (uint32_t o = 0; p != NULL && o < p->n_out; o++)
        p->data[(size_t)(o + 1) * p->n_in - d] = 0.0f;
}

static void follow_layer(ot_insertion *x, ot_insertion *scorer, uint32_t layer, const float *c)
{
    static const char *const writers[] = {"attn_output", "ffn_down"}, *const readers[] = {"attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"};
    const uint32_t d = ot_insertion_get_info(x)->spec.n_embd;
    char name[64];
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "otter.blk.%u.%s.weight", layer, writers[i]);
        combine_rows(ot_insertion_find_param(x, name), ot_insertion_find_param(scorer, name), c);
    }
    for (int i = 0; i < 5; i++) {
        snprintf(name, sizeof name, "otter.blk.%u.%s.weight", layer, readers[i]);
        blind_column(ot_insertion_find_param(x, name), d);
    }
}

static ot_status follow(ot_insertion *x, const ot_model *base, ot_insertion *scorer, ot_error *err)
{
    const ot_insertion_spec *s = &ot_insertion_get_info(scorer)->spec;
    const ot_model_info *b = ot_model_get_info(base);
    const uint32_t d = ot_insertion_get_info(x)->spec.n_embd;
    const ot_param *w = ot_insertion_find_param(scorer, "otter.head.0.weight"), *gamma = ot_insertion_find_param(scorer, "otter.output_norm.weight");
    ot_param *e = ot_insertion_find_param(x, "otter.token_embd.weight"), *head = ot_insertion_find_param(x, "otter.head.0.weight");
    const ot_param *scorer_e = ot_insertion_find_param(scorer, "otter.token_embd.weight");
    float *c = ot_alloc(s->n_embd, sizeof *c), *u = ot_alloc(b->n_embd, sizeof *u);
    ot_status st = c != NULL && u != NULL ? common_direction(base, u, err) : ot_fail(err, OT_ERR_NOMEM, "out of memory");
    for (uint32_t i = 0; st == OT_OK && i < s->n_embd; i++)
        c[i] = (float)KAPPA * w->data[i] * gamma->data[i];
    for (uint32_t v = 0; st == OT_OK && v < b->n_vocab; v++) {
        e->data[(size_t)v * d] = 0.0f;
        for (uint32_t i = 0; i < s->n_embd; i++)
            e->data[(size_t)v * d] += c[i] * scorer_e->data[(size_t)v * s->n_embd + i];
    }
    for (uint32_t l = 0; st == OT_OK && l < b->n_layers; l++)
        follow_layer(x, scorer, l, c);
    for (uint32_t i = 0; st == OT_OK && i < b->n_embd; i++)
        head->data[(size_t)i * d] = u[i] / (float)KAPPA;
    if (st == OT_OK) {
        ot_insertion_find_param(x, "otter.output_norm.weight")->data[0] = 1.0f;
        ot_insertion_find_param(x, "otter.head.0.bias")->data[0] = ot_insertion_find_param(scorer, "otter.head.0.bias")->data[0];
        ot_insertion_commit(x, NULL);
    }
    free(c);
    free(u);
    return st;
}

bool ot_init_can_follow(const ot_insertion *insertion, const ot_insertion *scorer)
{
    const ot_insertion_spec *x = &ot_insertion_get_info(insertion)->spec, *s = &ot_insertion_get_info(scorer)->spec;
    const uint32_t n = ot_insertion_n_parents(scorer);
    bool first = ot_insertion_n_parents(insertion) > n && ot_insertion_parent(insertion, n) == scorer;
    for (uint32_t i = 0; first && i < n; i++)
        first = ot_insertion_parent(insertion, i) == ot_insertion_parent(scorer, i);
    return first && x->input == OT_INPUT_EXTENDED && x->n_embd > 0 && s->input == OT_INPUT_EXTENDED && s->n_embd > 0;
}

ot_status ot_init_follow(ot_insertion *insertion, const ot_model *base, const ot_insertion *scorer, const ot_insertion_options *options,
                         ot_error *err)
{
    const ot_insertion *parents[OT_MAX_PARENTS];
    const ot_insertion_info *s = ot_insertion_get_info(scorer);
    ot_insertion *floats = NULL;
    const uint32_t n = ot_insertion_n_parents(scorer);
    for (uint32_t i = 0; i < n; i++)
        parents[i] = ot_insertion_parent(scorer, i);
    ot_status st = ot_insertion_open_trainable(&floats, base, s->spec.name, s->path, parents, n, options, err);
    if (st == OT_OK)
        st = follow(insertion, base, floats, err);
    ot_insertion_close(&floats);
    return st;
}
