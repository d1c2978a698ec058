/* Random insertions: created trainable, filled, put into a file. */
#include "tests/support/tiny-insertion.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/support/test-support.h"

ot_insertion_spec ot_tiny_insertion_spec(const char *name, ot_head_kind kind, uint32_t width, uint32_t n_outputs)
{
    ot_insertion_spec s = {.n_embd = width, .kind = kind, .n_outputs = n_outputs,
                           .input = width > 0 ? OT_INPUT_EXTENDED : OT_INPUT_BASE,
                           .activation = kind == OT_HEAD_GENERATION ? OT_ACT_LINEAR : OT_ACT_SIGMOID};
    snprintf(s.name, sizeof s.name, "%s", name);
    if (width > 0) {
        s.n_ff = 24;
        s.n_heads = 2;
        s.n_kv_heads = 1;
    }
    for (uint32_t k = 0; k < n_outputs && k < OT_MAX_HEADS; k++) {
        snprintf(s.labels[k], sizeof s.labels[k], "label%u", k);
        s.offsets[k] = kind == OT_HEAD_GENERATION && n_outputs > 1 ? k + 1 : 0;
    }
    return s;
}

/* Uniform with a variance of 1 / n_in for matrices; E' as large as the base's embedding would make it is not needed for tests. */
void ot_tiny_insertion_randomize(ot_insertion *x, uint64_t seed)
{
    ot_test_rng rng = {seed};
    for (uint32_t i = 0; i < ot_insertion_n_params(x); i++) {
        ot_param *p = ot_insertion_param(x, i);
        const bool norm = strstr(p->name, "norm") != NULL;
        const float spread = norm ? 0.2f : sqrtf(3.0f / (float)(p->is_vector ? 16 : p->n_in));
        for (size_t k = 0; k < (size_t)p->n_in * p->n_out; k++)
            p->data[k] = (norm ? 1.0f : 0.0f) + ot_test_rng_float(&rng, -spread, spread);
    }
    ot_insertion_commit(x, NULL);
}

ot_status ot_tiny_insertion_write(const char *path, const ot_model *base, const ot_insertion_spec *spec,
                                  const ot_insertion *const *parents, ot_type type, uint64_t seed, ot_error *err)
{
    ot_insertion *x;
    ot_gguf_writer *w = NULL;
    ot_status st = ot_insertion_create(&x, base, spec, parents, err);
    if (st != OT_OK)
        return st;
    ot_tiny_insertion_randomize(x, seed);
    if ((st = ot_gguf_writer_open(&w, err)) == OT_OK && (st = ot_insertion_put(x, w, type, err)) == OT_OK)
        st = ot_gguf_write(w, path, err);
    ot_gguf_writer_close(&w);
    ot_insertion_close(&x);
    return st;
}
