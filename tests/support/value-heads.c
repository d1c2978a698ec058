/* Heads with a value for every token in the fixture, and the same by hand. */
#include "tests/support/value-heads.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/test-support.h"
#include "tests/support/tiny-insertion.h"

ot_head *ot_value_heads_find(const char *name, uint32_t *output)
{
    ot_head *head = NULL;
    uint32_t ignored;
    ot_error err = {0};
    CHECK_OK(ot_heads_find(ot_fixture_get()->heads, name, &head, output != NULL ? output : &ignored, &err), &err);
    return head;
}

static bool add(ot_insertion_spec spec, const char *parent, uint64_t seed)
{
    ot_fixture *f = ot_fixture_get();
    ot_error err = {0};
    char file[80];
    ot_head *head = parent != NULL ? ot_value_heads_find(parent, NULL) : NULL;
    const ot_insertion *parents[] = {head != NULL ? ot_head_insertion(head) : NULL};
    if (head != NULL) {
        spec.n_parents = 1;
        strcpy(spec.parents[0], parent);
    }
    snprintf(file, sizeof file, "%s.gguf", spec.name);
    const char *path = ot_test_temp_path(file);
    const ot_insertion_options options = {false};
    bool ok = CHECK_OK(ot_tiny_insertion_write(path, f->model, &spec, parents, OT_TYPE_F32, seed, &err), &err) &&
              CHECK_OK(ot_heads_load(f->heads, spec.name, path, &options, &err), &err);
    ot_head_release(&head);
    return ok;
}

bool ot_value_heads_load(void)
{
    static const ot_model *model;
    static bool loaded;
    if (ot_fixture_get() == NULL || model == ot_fixture_get()->model)
        return ot_fixture_get() != NULL && loaded;
    model = ot_fixture_get()->model;
    ot_insertion_spec swish = ot_tiny_insertion_spec("swish", OT_HEAD_GENERATION, 0, 1);
    swish.activation = OT_ACT_SILU_RESIDUAL;
    ot_insertion_spec flat = ot_tiny_insertion_spec("flat", OT_HEAD_LOOKAHEAD, 0, 2);
    flat.activation = OT_ACT_IDENTITY;
    loaded = add(ot_tiny_insertion_spec("plus", OT_HEAD_GENERATION, 16, 1), NULL, 51) &&
             add(ot_tiny_insertion_spec("minus", OT_HEAD_GENERATION, 16, 1), "plus", 52) && add(swish, NULL, 53) &&
             add(ot_tiny_insertion_spec("ahead", OT_HEAD_LOOKAHEAD, 16, 1), "mood", 54) && add(flat, NULL, 55) &&
             add(ot_tiny_insertion_spec("guess", OT_HEAD_GENERATION, 16, 3), NULL, 56);
    return loaded;
}

void ot_value_heads_experts(ot_request_params *p, const char *positive, const char *negative, float alpha, float top_p)
{
    ot_experts *e = &p->intervention.experts;
    *e = (ot_experts){.alpha = alpha, .top_p = top_p};
    if (positive != NULL)
        e->positive = ot_value_heads_find(positive, &e->positive_output);
    if (negative != NULL)
        e->negative = ot_value_heads_find(negative, &e->negative_output);
}

/* ---- By hand ---- */

static uint32_t vocab(void)
{
    return ot_model_get_info(ot_fixture_get()->model)->n_vocab;
}

bool ot_by_hand_values(ot_by_hand *h, uint32_t row, const ot_head *head, uint32_t output, float *values)
{
    ot_error err = {0};
    ot_head_rows rows = {ot_head_insertion(head), output, 1, &row, &values, NULL, 0};
    return CHECK_OK(ot_engine_project_heads(h->engine, &rows, 1, &err), &err);
}

static const float *order_by;

static int compare(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return order_by[x] > order_by[y] ? -1 : order_by[x] < order_by[y] ? 1 : x - y;
}

/* -inf for everything after the most likely tokens that hold top_p. */
static void cut(const float *base, float top_p, float *logits)
{
    static int32_t ids[4096];
    double max = -INFINITY, whole = 0, sum = 0;
    uint32_t n = vocab();
    for (uint32_t i = 0; i < n; i++) {
        ids[i] = (int32_t)i;
        max = base[i] > max ? base[i] : max;
    }
    for (uint32_t i = 0; i < n; i++)
        whole += exp(base[i] - max);
    order_by = base;
    qsort(ids, n, sizeof ids[0], compare);
    for (uint32_t i = 0; i < n; i++) {
        if (sum >= top_p * whole)
            logits[ids[i]] = -INFINITY;
        sum += exp(base[ids[i]] - max);
    }
}

bool ot_by_hand_steer(ot_by_hand *h, uint32_t row, const ot_request_params *p, float *logits)
{
    static float plus[4096], minus[4096];
    const ot_experts *e = &p->intervention.experts;
    memset(plus, 0, sizeof plus);
    memset(minus, 0, sizeof minus);
    if (!CHECK(vocab() <= 4096) || (e->positive != NULL && !ot_by_hand_values(h, row, e->positive, e->positive_output, plus)) ||
        (e->negative != NULL && !ot_by_hand_values(h, row, e->negative, e->negative_output, minus)))
        return false;
    for (uint32_t i = 0; i < vocab(); i++)
        logits[i] = e->negative != NULL ? h->uncapped[i] + e->alpha * (plus[i] - minus[i]) : h->logits[i];
    if (e->negative != NULL)
        ot_engine_cap_logits(h->engine, logits);
    if (e->negative != NULL && e->top_p < 1)
        cut(h->logits, e->top_p, logits);
    return true;
}
