/* The tiny model with an insertion that is to be trained. */
#include "tests/support/train-base.h"

#include <math.h>
#include <string.h>

#include "tests/support/tiny-model.h"

bool ot_train_base_open(ot_train_base *b, uint32_t max_rows)
{
    ot_error err = {0};
    *b = (ot_train_base){0};
    ot_engine_options options;
    ot_engine_options_default(&options);
    options.n_threads = 2;
    options.max_rows = max_rows;
    options.max_context = OT_TRAIN_BASE_CONTEXT;
    options.max_insertions = 2;
    options.kv_type = OT_KV_F32;
    return CHECK_OK(ot_tiny_model_write(ot_test_temp_path("tiny.gguf"), NULL, &err), &err) &&
           CHECK_OK(ot_model_open(&b->model, ot_test_temp_path("tiny.gguf"), &err), &err) &&
           CHECK_OK(ot_engine_open(&b->engine, b->model, &options, &err), &err);
}

static void randomise(ot_insertion *x, float head_size, ot_test_rng *rng)
{
    for (uint32_t i = 0; i < ot_insertion_n_params(x); i++) {
        ot_param *p = ot_insertion_param(x, i);
        const bool norm = strstr(p->name, "norm") != NULL, head = strncmp(p->name, "otter.head.", 11) == 0;
        const float size = norm ? 0.5f : p->is_vector ? 0.7f : (head ? head_size : 1.7f) / sqrtf((float)p->n_in);
        for (size_t j = 0; j < (size_t)p->n_in * p->n_out; j++)
            p->data[j] = (norm ? 1.0f : 0.0f) + ot_test_rng_float(rng, -size, size);
    }
    ot_insertion_commit(x, NULL);
}

bool ot_train_base_insert(ot_train_base *b, const ot_insertion_spec *spec, const ot_insertion_spec *below, float head_size,
                          ot_test_rng *rng)
{
    ot_error err = {0};
    ot_insertion_spec top = *spec;
    if (below != NULL) {
        ot_insertion_spec s = *below;
        strcpy(s.name, "below");
        if (!CHECK_OK(ot_insertion_create(&b->parent, b->model, &s, NULL, &err), &err))
            return false;
        randomise(b->parent, head_size, rng);
        top.n_parents = 1;
        strcpy(top.parents[0], "below");
    }
    const ot_insertion *parents[1] = {b->parent};
    if (!CHECK_OK(ot_insertion_create(&b->x, b->model, &top, parents, &err), &err))
        return false;
    randomise(b->x, head_size, rng);
    return true;
}

void ot_train_base_close(ot_train_base *b)
{
    ot_insertion_close(&b->x);
    ot_insertion_close(&b->parent);
    ot_engine_close(&b->engine);
    ot_model_close(&b->model);
}

ot_train_options ot_train_base_options(const char *data, const char *out)
{
    ot_train_options o;
    ot_train_options_default(&o);
    strcpy(o.model, ot_test_temp_path("tiny.gguf"));
    strcpy(o.data[o.n_data++], ot_test_temp_path(data));
    strcpy(o.out, ot_test_temp_path(out));
    o.width = 16;
    o.heads = 2;
    o.ffn = 32;
    o.steps = 10;
    o.warmup = 4;
    o.lr = 0.01;
    o.batch_tokens = 256;
    o.max_length = 64;
    o.threads = 2;
    o.eval_every = 5;
    return o;
}

void ot_check_same_tensors(const char *actual, const char *expected)
{
    ot_error err = {0};
    ot_gguf *x = NULL, *y = NULL;
    if (CHECK_OK(ot_gguf_open(&x, actual, &err), &err) && CHECK_OK(ot_gguf_open(&y, expected, &err), &err) &&
        CHECK_UINT(ot_gguf_tensor_count(x), ot_gguf_tensor_count(y)))
        for (uint64_t i = 0; i < ot_gguf_tensor_count(x); i++) {
            const ot_tensor *s = ot_gguf_tensor_at(x, i), *t = ot_gguf_tensor_at(y, i);
            ot_test_context("%.*s", (int)s->name.size, s->name.data);
            CHECK_BYTES(s->data, s->bytes, t->data, t->bytes);
        }
    ot_test_context(NULL);
    ot_gguf_close(&x);
    ot_gguf_close(&y);
}
