/* Tasks of attention that threads share: over a long text, results have the bits that one thread alone computes. */
#include <string.h>

#include "engine/engine.h"
#include "engine/kernels.h"
#include "tests/support/kv-units.h"
#include "tests/support/test-support.h"
#include "tests/support/tiny-insertion.h"
#include "tests/support/tiny-model.h"

#define N_TEXT 2090 /* long enough to be shared, and inside a page */
#define N_SHORT 40
#define CHUNK 190
#define N_SLOTS (N_TEXT + 20)
#define MAX_BATCH 8
#define WIDTH 128

typedef struct fixture {
    ot_model *model;
    ot_insertion *insertion;
    ot_test_kv kv[2]; /* of a long text with the insertion, and of a short one without */
    ot_engine *alone; /* one thread: nothing is shared */
} fixture;

static ot_error err;
static const uint32_t slots[] = {N_TEXT, N_TEXT + 1, N_TEXT + 2, N_TEXT + 3, N_TEXT + 4, N_TEXT + 5, N_TEXT + 6, N_TEXT + 7};

static ot_engine *open_engine(const fixture *f, uint32_t n_threads, unsigned cpu_mask, ot_kv_type type)
{
    ot_engine *engine = NULL;
    ot_engine_options o;
    ot_engine_options_default(&o);
    o.n_threads = n_threads;
    o.max_rows = CHUNK;
    o.max_context = N_SLOTS;
    o.max_ext_width = 256;
    o.cpu_mask = cpu_mask;
    o.kv_type = type;
    CHECK_OK(ot_engine_open(&engine, f->model, &o, &err), &err);
    return engine;
}

static int32_t token_at(const fixture *f, uint32_t p)
{
    return (int32_t)((p * 7919u + p / 13) % ot_model_get_info(f->model)->n_vocab);
}

/* The text's keys and values. */
static bool prefill(fixture *f, uint32_t sequence, uint32_t n)
{
    ot_row rows[CHUNK];
    for (uint32_t p = 0; p < n; p += CHUNK) {
        const uint32_t m = n - p < CHUNK ? n - p : CHUNK;
        for (uint32_t r = 0; r < m; r++)
            rows[r] = (ot_row){.token = token_at(f, p + r), .position = p + r, .slot = p + r, .n_prefix = p + r + 1};
        const ot_batch batch = {.n_rows = m, .rows = rows, .n_sequences = 1, .sequences = &f->kv[sequence].view};
        if (!CHECK_OK(ot_engine_forward(f->alone, &batch, &err), &err))
            return false;
    }
    return true;
}

/* Blocks: everything is in blocks of 32, so that the parts of a shared task quantise their columns for the insertion as well. */
static bool open_fixture(fixture *f, ot_kv_type type, bool blocks)
{
    *f = (fixture){.model = NULL};
    ot_tiny_model_options o = ot_tiny_model_defaults();
    o.n_embd = WIDTH;
    o.n_ctx = N_SLOTS;
    o.n_heads = 6;
    o.head_dim = 64;
    o.type = blocks ? OT_TYPE_Q8_0 : OT_TYPE_F32;
    ot_insertion_spec spec = ot_tiny_insertion_spec("mood", OT_HEAD_SCALAR, 32, 2);
    spec.n_ff = 32;
    const char *path = ot_test_temp_path("long.gguf"), *head = ot_test_temp_path("mood.head");
    if (!CHECK_OK(ot_tiny_model_write(path, &o, &err), &err) || !CHECK_OK(ot_model_open(&f->model, path, &err), &err) ||
        !CHECK_OK(ot_tiny_insertion_write(head, f->model, &spec, NULL, blocks ? OT_TYPE_Q8_0 : OT_TYPE_F32, 5, &err), &err) ||
        !CHECK_OK(ot_insertion_open(&f->insertion, f->model, "mood", head, NULL, 0, NULL, &err), &err))
        return false;
    const ot_insertion *const insertions[] = {f->insertion};
    f->alone = open_engine(f, 1, ~0u, type);
    return f->alone != NULL && CHECK_OK(ot_test_kv_open(&f->kv[0], f->model, type, insertions, 1, N_SLOTS, 3), &err) &&
           CHECK_OK(ot_test_kv_open(&f->kv[1], f->model, type, NULL, 0, N_SHORT + 1, 4), &err) && prefill(f, 0, N_TEXT) &&
           prefill(f, 1, N_SHORT);
}

static void close_fixture(fixture *f)
{
    ot_test_kv_close(&f->kv[0]);
    ot_test_kv_close(&f->kv[1]);
    ot_engine_close(&f->alone);
    ot_insertion_close(&f->insertion);
    ot_model_close(&f->model);
}

/* A row at the end of the text, candidates for one place, a chain of drafts, or the first with a row of a short text before it. */
typedef enum shape { ONE_ROW, CANDIDATES, DRAFTS, BESIDE_A_SHORT_TEXT, N_SHAPES } shape;

static uint32_t make_rows(const fixture *f, shape s, ot_row *rows)
{
    const ot_row last = {.token = 11, .position = N_TEXT, .slot = N_TEXT, .n_prefix = N_TEXT + 1, .flags = OT_ROW_OUTPUT};
    const uint32_t n = s == CANDIDATES ? 7 : s == DRAFTS ? 5 : s == ONE_ROW ? 1 : 2;
    for (uint32_t k = 0; k < n; k++) {
        rows[k] = last;
        rows[k].token = token_at(f, 3 * k + 1);
        if (s == ONE_ROW || s == BESIDE_A_SHORT_TEXT)
            continue;
        rows[k].slot = slots[k];
        rows[k].n_prefix = N_TEXT;
        rows[k].position = s == DRAFTS ? N_TEXT + k : N_TEXT;
        rows[k].tail = s == DRAFTS ? slots : slots + k;
        rows[k].n_tail = s == DRAFTS ? k + 1 : 1;
    }
    if (s == BESIDE_A_SHORT_TEXT)
        rows[0] = (ot_row){.token = 9, .position = N_SHORT, .sequence = 1, .slot = N_SHORT, .n_prefix = N_SHORT + 1,
                           .flags = OT_ROW_OUTPUT};
    return n;
}

typedef struct results {
    float hidden[MAX_BATCH][WIDTH], scores[MAX_BATCH][2];
} results;

static bool run(const fixture *f, ot_engine *engine, shape s, results *out)
{
    ot_row rows[MAX_BATCH];
    const ot_kv_view views[] = {f->kv[0].view, f->kv[1].view};
    const ot_batch batch = {.n_rows = make_rows(f, s, rows), .rows = rows, .n_sequences = 2, .sequences = views};
    memset(out, 0, sizeof *out);
    if (!CHECK_OK(ot_engine_forward(engine, &batch, &err), &err))
        return false;
    for (uint32_t r = 0; r < batch.n_rows; r++) {
        memcpy(out->hidden[r], ot_engine_hidden(engine, r), sizeof out->hidden[r]);
        for (uint32_t k = 0; k < 2 && rows[r].sequence == 0; k++)
            out->scores[r][k] = ot_engine_score(engine, r, f->insertion, k);
    }
    return true;
}

static void check_type(ot_kv_type type, bool blocks)
{
    static const struct { uint32_t threads; unsigned mask; } machines[] = {{2, ~0u}, {5, ~0u}, {3, OT_CPU_AVX2}, {2, 0}};
    static results expected, got;
    fixture f;
    if (open_fixture(&f, type, blocks)) {
        for (unsigned m = 0; m < sizeof machines / sizeof *machines; m++) {
            ot_engine *engine = open_engine(&f, machines[m].threads, machines[m].mask, type);
            for (shape s = 0; s < N_SHAPES && engine != NULL; s++) {
                ot_test_context("kv type %d, blocks %d, %u threads, mask %u, shape %d", type, blocks, machines[m].threads,
                                machines[m].mask, s);
                if (run(&f, f.alone, s, &expected) && run(&f, engine, s, &got)) {
                    CHECK_SAME_FLOATS(got.hidden[0], expected.hidden[0], MAX_BATCH * WIDTH);
                    CHECK_SAME_FLOATS(got.scores[0], expected.scores[0], MAX_BATCH * 2);
                }
            }
            ot_engine_close(&engine);
        }
    }
    close_fixture(&f);
}

static void blocks_and_half_keys(void)
{
    check_type(OT_KV_F16, true);
}

static void floats_and_float_keys(void)
{
    check_type(OT_KV_F32, false);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(blocks_and_half_keys);
    RUN(floats_and_float_keys);
    return ot_test_finish();
}
