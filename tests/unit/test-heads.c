/* Heads with a value for every token: what files may say, what values are, and that their bits depend on their row alone.
 * tests/golden holds the values against NumPy; this needs no Python, and looks at the default model where it is there. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/kernels.h"
#include "engine/engine.h"
#include "tests/support/kv-units.h"
#include "tests/support/test-support.h"
#include "tests/support/tiny-insertion.h"
#include "tests/support/tiny-model.h"

#define N_ROWS 23
#define MAX_ROWS 64
#define MAX_INSERTIONS 8

/* ---- A base, insertions of every kind, and one batch of rows -------------------------------------------------- */

typedef struct fixture {
    ot_model *model;
    uint32_t n_vocab, n_insertions;
    ot_insertion *insertions[MAX_INSERTIONS];
    ot_engine *engine;
    ot_test_kv kv;
    ot_row rows[N_ROWS];
    ot_batch batch;
} fixture;

static ot_error err;

static bool add(fixture *f, ot_insertion_spec spec, ot_type type)
{
    char name[80];
    snprintf(name, sizeof name, "%s.head", spec.name);
    const char *path = ot_test_temp_path(name);
    const ot_insertion *const *loaded = (const ot_insertion *const *)f->insertions;
    const ot_insertion *parents[OT_MAX_PARENTS];
    for (uint32_t p = 0; p < spec.n_parents; p++)
        for (uint32_t i = 0; i < f->n_insertions; i++)
            if (strcmp(ot_insertion_get_info(loaded[i])->spec.name, spec.parents[p]) == 0)
                parents[p] = loaded[i];
    if (!CHECK_OK(ot_tiny_insertion_write(path, f->model, &spec, parents, type, 40 + f->n_insertions, &err), &err) ||
        !CHECK_OK(ot_insertion_open(&f->insertions[f->n_insertions], f->model, spec.name, path, loaded, f->n_insertions, NULL,
                                    &err), &err))
        return false;
    f->n_insertions++;
    return true;
}

static ot_insertion_spec stacked(ot_insertion_spec spec, const char *parent)
{
    spec.n_parents = 1;
    strcpy(spec.parents[0], parent);
    return spec;
}

static ot_insertion_spec medusa(uint32_t n_outputs)
{
    ot_insertion_spec s = ot_tiny_insertion_spec("medusa", OT_HEAD_GENERATION, 0, n_outputs);
    s.activation = OT_ACT_SILU_RESIDUAL;
    return s;
}

static ot_insertion_spec reading(uint32_t n_outputs)
{
    ot_insertion_spec s = ot_tiny_insertion_spec("reading", OT_HEAD_GENERATION, 32, n_outputs);
    s.reads_tokens = true;
    return s;
}

enum { MOOD, EXPERT, ANTI_EXPERT, DRAFTS, MEDUSA, AHEAD, AHEAD_ON_BASE, READING };

/* Tables in 8 bits (expert, anti-expert) and halves (ahead), and heads through the output matrix. */
static bool add_all(fixture *f)
{
    return add(f, ot_tiny_insertion_spec("mood", OT_HEAD_SCALAR, 16, 2), OT_TYPE_F32) &&
           add(f, ot_tiny_insertion_spec("expert", OT_HEAD_GENERATION, 32, 1), OT_TYPE_Q8_0) &&
           add(f, stacked(ot_tiny_insertion_spec("anti-expert", OT_HEAD_GENERATION, 32, 1), "expert"), OT_TYPE_Q8_0) &&
           add(f, ot_tiny_insertion_spec("drafts", OT_HEAD_GENERATION, 64, 3), OT_TYPE_Q8_0) &&
           add(f, medusa(2), OT_TYPE_Q8_0) &&
           add(f, stacked(ot_tiny_insertion_spec("ahead", OT_HEAD_LOOKAHEAD, 8, 2), "mood"), OT_TYPE_F32) &&
           add(f, ot_tiny_insertion_spec("ahead-on-base", OT_HEAD_LOOKAHEAD, 0, 1), OT_TYPE_F16) &&
           add(f, reading(2), OT_TYPE_Q8_0);
}

static ot_engine *open_engine(const fixture *f, uint32_t n_threads, unsigned cpu_mask, ot_pool *pool)
{
    ot_engine *engine = NULL;
    ot_engine_options o;
    ot_engine_options_default(&o);
    o.n_threads = n_threads;
    o.max_rows = MAX_ROWS;
    o.max_context = 64;
    o.max_ext_width = 1024;
    o.cpu_mask = cpu_mask;
    o.pool = pool;
    CHECK_OK(ot_engine_open(&engine, f->model, &o, &err), &err);
    return engine;
}

/* All rows of one sequence; row 5 has no output. */
static bool open_rows(fixture *f)
{
    f->n_vocab = ot_model_get_info(f->model)->n_vocab;
    for (uint32_t p = 0; p < N_ROWS; p++)
        f->rows[p] = (ot_row){.token = (int32_t)((p * p * 17 + 5) % f->n_vocab), .position = p, .slot = p, .n_prefix = p + 1,
                              .flags = p == 5 ? 0 : OT_ROW_OUTPUT};
    if (!CHECK_OK(ot_test_kv_open(&f->kv, f->model, OT_KV_F16, (const ot_insertion *const *)f->insertions, f->n_insertions, 64,
                                  3), &err))
        return false;
    f->batch = (ot_batch){.n_rows = N_ROWS, .rows = f->rows, .n_sequences = 1, .sequences = &f->kv.view};
    f->engine = open_engine(f, 2, ~0u, NULL);
    return f->engine != NULL && CHECK_OK(ot_engine_forward(f->engine, &f->batch, &err), &err);
}

static void close_fixture(fixture *f)
{
    ot_engine_close(&f->engine);
    ot_test_kv_close(&f->kv);
    while (f->n_insertions > 0)
        ot_insertion_close(&f->insertions[--f->n_insertions]);
    ot_model_close(&f->model);
}

static bool open_tiny(fixture *f)
{
    ot_tiny_model_options o = ot_tiny_model_defaults();
    *f = (fixture){.n_insertions = 0};
    o.n_embd = 128;
    o.type = OT_TYPE_Q4_1;
    o.embd_type = OT_TYPE_Q4_1;
    const char *path = ot_test_temp_path("tiny.gguf");
    return CHECK_OK(ot_tiny_model_write(path, &o, &err), &err) && CHECK_OK(ot_model_open(&f->model, path, &err), &err);
}

static bool open_all(fixture *f)
{
    return open_tiny(f) && add_all(f) && open_rows(f);
}

/* What a head that reads tokens is told at a row. */
static int32_t told_at(const fixture *f, uint32_t row, uint32_t output)
{
    return (int32_t)((row * 31 + output * 7 + 3) % f->n_vocab);
}

/* Values of one output at one row, in new memory. */
static float *values_of(const fixture *f, ot_engine *engine, uint32_t insertion, uint32_t output, uint32_t row)
{
    float *values = calloc(f->n_vocab, sizeof *values);
    const int32_t told = told_at(f, row, output);
    const ot_head_rows head = {f->insertions[insertion], output, 1, &row, &values, &told, 0};
    if (values == NULL || !CHECK_OK(ot_engine_project_heads(engine, &head, 1, &err), &err)) {
        free(values);
        return NULL;
    }
    return values;
}

/* ---- The same bits in any company ---------------------------------------------------------------------------- */

#define N_HEADS 12
static const struct { uint32_t insertion, output; } all_heads[N_HEADS] = {
    {EXPERT, 0}, {DRAFTS, 0}, {AHEAD, 0}, {DRAFTS, 1}, {MEDUSA, 0}, {AHEAD_ON_BASE, 0}, {DRAFTS, 2}, {ANTI_EXPERT, 0},
    {MEDUSA, 1}, {AHEAD, 1}, {READING, 1}, {READING, 0},
};

/* Head k at rows k, k + 4, ...: all in one call. values: (N_HEADS, N_ROWS, n_vocab). */
static bool run_together(const fixture *f, ot_engine *engine, float *values, uint32_t rows[N_HEADS][N_ROWS],
                         uint32_t n_rows[N_HEADS])
{
    static float *at[N_HEADS][N_ROWS];
    static int32_t told[N_HEADS][N_ROWS];
    ot_head_rows heads[N_HEADS];
    for (uint32_t k = 0; k < N_HEADS; k++) {
        n_rows[k] = 0;
        for (uint32_t r = k; r < N_ROWS; r += 4)
            if (r != 5) {
                at[k][n_rows[k]] = values + ((size_t)k * N_ROWS + r) * f->n_vocab;
                told[k][n_rows[k]] = told_at(f, r, all_heads[k].output);
                rows[k][n_rows[k]++] = r;
            }
        heads[k] = (ot_head_rows){f->insertions[all_heads[k].insertion], all_heads[k].output, n_rows[k], rows[k], at[k],
                                   told[k], 0};
    }
    return CHECK_OK(ot_engine_project_heads(engine, heads, N_HEADS, &err), &err);
}

static void values_depend_on_their_row_alone(void)
{
    static const struct { uint32_t threads; unsigned mask; } machines[] = {
        {1, 0}, {1, ~0u}, {2, OT_CPU_AVX2}, {3, OT_CPU_AVX2 | OT_CPU_AVX512},
    };
    fixture f;
    uint32_t rows[N_HEADS][N_ROWS], n_rows[N_HEADS];
    if (open_all(&f)) {
        const size_t n = (size_t)N_HEADS * N_ROWS * f.n_vocab;
        float *together = calloc(n, sizeof *together), *other = calloc(n, sizeof *other);
        if (CHECK(together != NULL && other != NULL) && run_together(&f, f.engine, together, rows, n_rows)) {
            for (uint32_t k = 0; k < N_HEADS; k++)
                for (uint32_t i = 0; i < n_rows[k]; i += 2) {
                    float *alone = values_of(&f, f.engine, all_heads[k].insertion, all_heads[k].output, rows[k][i]);
                    ot_test_context("head %u, row %u", k, rows[k][i]);
                    if (alone != NULL)
                        CHECK_SAME_FLOATS(together + ((size_t)k * N_ROWS + rows[k][i]) * f.n_vocab, alone, f.n_vocab);
                    free(alone);
                }
            for (size_t m = 0; m < sizeof machines / sizeof machines[0]; m++) {
                ot_engine *engine = open_engine(&f, machines[m].threads, machines[m].mask, NULL);
                ot_test_context("%u threads, mask %x", machines[m].threads, machines[m].mask);
                if (engine != NULL && CHECK_OK(ot_engine_forward(engine, &f.batch, &err), &err) &&
                    run_together(&f, engine, other, rows, n_rows))
                    CHECK_SAME_FLOATS(other, together, n);
                ot_engine_close(&engine);
            }
            ot_test_context(NULL);
        }
        free(together);
        free(other);
    }
    close_fixture(&f);
}

/* Values of the first tokens only are the bits that they have among all, beside heads of which more is wanted. */
static void the_first_tokens_have_the_values_that_they_have_among_all(void)
{
    static const uint32_t wanted[] = {1, 16, 17, 100, 0, 1u << 20};
    fixture f;
    if (open_all(&f)) {
        float *all[N_HEADS] = {NULL}, *some[N_HEADS] = {NULL};
        bool good = true;
        for (uint32_t k = 0; k < N_HEADS; k++) {
            all[k] = values_of(&f, f.engine, all_heads[k].insertion, all_heads[k].output, 9);
            some[k] = calloc(f.n_vocab, sizeof(float));
            good = good && CHECK(all[k] != NULL && some[k] != NULL);
        }
        for (size_t w = 0; good && w < sizeof wanted / sizeof wanted[0]; w++) {
            ot_head_rows heads[N_HEADS];
            int32_t told[N_HEADS];
            uint32_t row = 9, n[N_HEADS];
            for (uint32_t k = 0; k < N_HEADS; k++) {
                told[k] = told_at(&f, row, all_heads[k].output);
                n[k] = wanted[(w + k) % (sizeof wanted / sizeof wanted[0])];
                heads[k] = (ot_head_rows){f.insertions[all_heads[k].insertion], all_heads[k].output, 1, &row, &some[k], &told[k], n[k]};
                memset(some[k], 0xff, f.n_vocab * sizeof(float));
            }
            if (CHECK_OK(ot_engine_project_heads(f.engine, heads, N_HEADS, &err), &err))
                for (uint32_t k = 0; k < N_HEADS; k++)
                    CHECK_SAME_FLOATS(some[k], all[k], n[k] > 0 && n[k] < f.n_vocab ? n[k] : f.n_vocab);
        }
        for (uint32_t k = 0; k < N_HEADS; k++) {
            free(all[k]);
            free(some[k]);
        }
    }
    close_fixture(&f);
}

/* One row may be asked behind several tokens at once. */
static void a_row_is_read_behind_several_tokens(void)
{
    fixture f;
    if (open_all(&f)) {
        const uint32_t rows[3] = {9, 9, 9};
        const int32_t told[3] = {told_at(&f, 9, 1), 5, told_at(&f, 9, 1)};
        float *values[3], *alone = values_of(&f, f.engine, READING, 1, 9);
        for (int i = 0; i < 3; i++)
            values[i] = calloc(f.n_vocab, sizeof(float));
        const ot_head_rows head = {f.insertions[READING], 1, 3, rows, values, told, 0};
        if (CHECK(alone != NULL && values[0] != NULL && values[1] != NULL && values[2] != NULL) &&
            CHECK_OK(ot_engine_project_heads(f.engine, &head, 1, &err), &err)) {
            CHECK_SAME_FLOATS(values[0], alone, f.n_vocab);
            CHECK_SAME_FLOATS(values[2], alone, f.n_vocab);
            CHECK(memcmp(values[1], alone, f.n_vocab * sizeof(float)) != 0);
        }
        for (int i = 0; i < 3; i++)
            free(values[i]);
        free(alone);
    }
    close_fixture(&f);
}

static void lookahead_scores_are_those_of_all_tokens(void)
{
    static const struct { uint32_t insertion, output; } heads[] = {{AHEAD, 0}, {AHEAD, 1}, {AHEAD_ON_BASE, 0}};
    fixture f;
    if (open_all(&f))
        for (size_t h = 0; h < 3; h++) {
            int32_t tokens[20];
            float some[20], of_all[20];
            float *all = values_of(&f, f.engine, heads[h].insertion, heads[h].output, 9);
            if (all == NULL)
                break;
            for (uint32_t i = 0; i < 20; i++) {
                tokens[i] = (int32_t)(i == 0 ? f.n_vocab - 1 : i * 83 % f.n_vocab);
                of_all[i] = all[tokens[i]];
                CHECK(all[tokens[i]] > 0.0f && all[tokens[i]] < 1.0f);
            }
            if (CHECK_OK(ot_engine_lookahead(f.engine, 9, f.insertions[heads[h].insertion], heads[h].output, tokens, 20, some,
                                             &err), &err))
                CHECK_SAME_FLOATS(some, of_all, 20);
            free(all);
        }
    close_fixture(&f);
}

/* A sequence that runs the parent alone, and one that runs its child too: the parent's scores and values and the base's logits are
 * the same bits. */
static void a_child_changes_nothing_below_it(void)
{
    fixture f;
    if (!open_all(&f)) {
        close_fixture(&f);
        return;
    }
    ot_test_kv alone = {0}, bare = {0};
    ot_kv_view views[3];
    ot_row rows[3 * N_ROWS - 6];
    const ot_insertion *const parents[] = {f.insertions[MOOD], f.insertions[EXPERT]};
    if (CHECK_OK(ot_test_kv_open(&alone, f.model, OT_KV_F16, parents, 2, 64, 9), &err) &&
        CHECK_OK(ot_test_kv_open(&bare, f.model, OT_KV_F16, NULL, 0, 64, 10), &err)) {
        views[0] = f.kv.view;
        views[1] = alone.view;
        views[2] = bare.view;
        uint32_t n = 0;
        for (uint32_t r = 0; r + 2 < N_ROWS; r++)
            for (uint32_t q = 0; q < 3; q++) {
                rows[n] = f.rows[r];
                rows[n++].sequence = q;
            }
        f.batch = (ot_batch){.n_rows = n, .rows = rows, .n_sequences = 3, .sequences = views};
        REQUIRE_OK(ot_engine_forward(f.engine, &f.batch, &err), &err);
        float *logits[3];
        for (uint32_t q = 0; q < 3; q++)
            logits[q] = calloc(f.n_vocab, sizeof(float));
        for (uint32_t r = 0; r < n; r += 9) {
            const uint32_t three[] = {r, r + 1, r + 2};
            if (!(rows[r].flags & OT_ROW_OUTPUT))
                continue;
            float *with = values_of(&f, f.engine, EXPERT, 0, r), *without = values_of(&f, f.engine, EXPERT, 0, r + 1);
            if (with != NULL && without != NULL)
                CHECK_SAME_FLOATS(with, without, f.n_vocab);
            for (uint32_t o = 0; o < 2; o++) {
                const float a = ot_engine_score(f.engine, r, parents[0], o), b = ot_engine_score(f.engine, r + 1, parents[0], o);
                CHECK_SAME_FLOATS(&a, &b, 1);
            }
            if (CHECK_OK(ot_engine_project(f.engine, three, 3, logits, &err), &err)) {
                CHECK_SAME_FLOATS(logits[0], logits[2], f.n_vocab);
                CHECK_SAME_FLOATS(logits[1], logits[2], f.n_vocab);
            }
            free(with);
            free(without);
        }
        for (uint32_t q = 0; q < 3; q++)
            free(logits[q]);
    }
    ot_test_kv_close(&alone);
    ot_test_kv_close(&bare);
    close_fixture(&f);
}

/* A lookahead head on the shipped toxicity head, which goes on giving the scores it has without it. */
static void the_toxicity_head_bears_a_lookahead_head(void)
{
    static const char path[] = "heads/toxicity.gguf";
    fixture f = {.n_insertions = 0};
    ot_test_kv alone = {0};
    if (ot_test_model_path() == NULL || access(path, R_OK) != 0)
        SKIP_CASE("no default model, or not run in the project's folder");
    REQUIRE_OK(ot_model_open(&f.model, ot_test_model_path(), &err), &err);
    if (CHECK_OK(ot_insertion_open(&f.insertions[0], f.model, "toxicity", path, NULL, 0, NULL, &err), &err)) {
        f.n_insertions = 1;
        if (add(&f, stacked(ot_tiny_insertion_spec("ahead", OT_HEAD_LOOKAHEAD, 16, 1), "toxicity"), OT_TYPE_Q8_0) && open_rows(&f) &&
            CHECK_OK(ot_test_kv_open(&alone, f.model, OT_KV_F16, (const ot_insertion *const *)f.insertions, 1, 64, 8), &err)) {
            float with[N_ROWS], without[N_ROWS];
            float *ahead = values_of(&f, f.engine, 1, 0, 12);
            for (uint32_t r = 0; r < N_ROWS; r++)
                with[r] = r == 5 ? 0 : ot_engine_score(f.engine, r, f.insertions[0], 0);
            f.batch.sequences = &alone.view;
            if (CHECK_OK(ot_engine_forward(f.engine, &f.batch, &err), &err))
                for (uint32_t r = 0; r < N_ROWS; r++)
                    without[r] = r == 5 ? 0 : ot_engine_score(f.engine, r, f.insertions[0], 0);
            CHECK_SAME_FLOATS(with, without, N_ROWS);
            for (uint32_t v = 0; ahead != NULL && v < f.n_vocab; v += 1001)
                CHECK(ahead[v] > 0 && ahead[v] < 1);
            free(ahead);
        }
    }
    ot_test_kv_close(&alone);
    close_fixture(&f);
}

/* ---- Values --------------------------------------------------------------------------------------------------- */

/* W_h x + H_o of a row from a trainable copy's parameters; x is H_o, the input of heads on the base. */
static void add_to_hidden(const ot_param *w, const float *hidden, bool silu, float *dst)
{
    for (uint32_t o = 0; o < w->n_out; o++) {
        double u = 0;
        for (uint32_t i = 0; i < w->n_in; i++)
            u += (double)w->data[(size_t)o * w->n_in + i] * hidden[i];
        dst[o] = (float)((silu ? u / (1 + exp(-u)) : u) + hidden[o]);
    }
}

/* values + base logits against lm_head of the sum, as the equations have it. */
static void check_sum(const fixture *f, uint32_t insertion, uint32_t output, const float *x, uint32_t row, double tolerance)
{
    float *values = values_of(f, f->engine, insertion, output, row);
    float *logits[2] = {calloc(f->n_vocab, sizeof(float)), calloc(f->n_vocab, sizeof(float))};
    double square = 0, size = 0, worst = 0;
    if (CHECK(values != NULL && logits[0] != NULL && logits[1] != NULL) &&
        CHECK_OK(ot_engine_project(f->engine, &row, 1, &logits[0], &err), &err) &&
        CHECK_OK(ot_engine_project_vectors(f->engine, x, ot_model_get_info(f->model)->n_embd, 1, &logits[1], &err), &err)) {
        for (uint32_t v = 0; v < f->n_vocab; v++) {
            const double difference = (double)logits[0][v] + values[v] - logits[1][v];
            square += difference * difference;
            size += (double)values[v] * values[v];
            worst = fmax(worst, fabs(difference));
        }
        printf("    output %u, row %u: rms of values %.3f, difference rms %.5f, largest %.5f\n", output, row,
               sqrt(size / f->n_vocab), sqrt(square / f->n_vocab), worst);
        CHECK(size > 0);
        CHECK(sqrt(square / size) < tolerance);
    }
    free(values);
    free(logits[0]);
    free(logits[1]);
}

/* Heads that read H_o, whose input the test can see: Medusa-1, linear through the output matrix; and with H' = an expert's table. */
static void check_equation(fixture *f, uint32_t insertion, const char *file, bool silu)
{
    ot_insertion *copy = NULL;
    float *x = calloc(ot_model_get_info(f->model)->n_embd, sizeof *x);
    const ot_insertion_spec *s = &ot_insertion_get_info(f->insertions[insertion])->spec;
    if (CHECK(x != NULL) && CHECK_OK(ot_insertion_open_trainable(&copy, f->model, s->name, ot_test_temp_path(file),
                                                                (const ot_insertion *const *)f->insertions, insertion, NULL,
                                                                &err), &err))
        for (uint32_t o = 0; o < s->n_outputs; o++) {
            char name[64];
            snprintf(name, sizeof name, "otter.head.%u.weight", o);
            add_to_hidden(ot_insertion_find_param(copy, name), ot_engine_hidden(f->engine, 7 + o), silu, x);
            check_sum(f, insertion, o, x, 7 + o, 0.01);
        }
    ot_insertion_close(&copy);
    free(x);
}

/* The tape hands out H', so that a head on it can be checked as well: head_in of a trainable copy, whose bits are those of the file
 * since both hold floats. */
static void check_extended(fixture *f, uint32_t insertion, const char *file, double tolerance)
{
    const ot_model_info *b = ot_model_get_info(f->model);
    const ot_insertion *file_x = f->insertions[insertion];
    const ot_insertion_info *i = ot_insertion_get_info(file_x);
    const uint32_t L = b->n_layers, hd = b->head_dim, de = i->spec.n_embd;
    const size_t widths[] = {(size_t)L * i->width_in, (size_t)L * i->spec.n_heads * hd, (size_t)L * i->spec.n_kv_heads * hd,
                             (size_t)L * i->spec.n_kv_heads * hd, (size_t)L * i->width_attn, (size_t)L * i->width_in,
                             (size_t)L * i->spec.n_ff, (size_t)L * i->spec.n_ff, (size_t)L * i->width_ff,
                             (size_t)(L + 1) * de, L, L, 1, L, de};
    float *parts[15];
    bool good = true;
    for (int k = 0; k < 15; k++) {
        parts[k] = calloc(widths[k] * MAX_ROWS, sizeof(float));
        good = good && parts[k] != NULL;
    }
    ot_tape tape = {file_x, MAX_ROWS, parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], parts[6], parts[7], parts[8],
                    parts[9], parts[10], parts[11], parts[12], parts[13], parts[14]};
    f->batch.tape = &tape;
    ot_insertion *copy = NULL;
    float *x = calloc(b->n_embd, sizeof *x);
    if (CHECK(good && x != NULL) && CHECK_OK(ot_engine_forward(f->engine, &f->batch, &err), &err) &&
        CHECK_OK(ot_insertion_open_trainable(&copy, f->model, i->spec.name, ot_test_temp_path(file),
                                             (const ot_insertion *const *)f->insertions, insertion, NULL, &err), &err))
        for (uint32_t o = 0; o < i->spec.n_outputs; o++) {
            char name[64];
            snprintf(name, sizeof name, "otter.head.%u.weight", o);
            const ot_param *w = ot_insertion_find_param(copy, name);
            const float *head_in = tape.head_in + (size_t)(7 + o) * de, *hidden = ot_engine_hidden(f->engine, 7 + o);
            for (uint32_t d = 0; d < b->n_embd; d++) {
                double u = hidden[d];
                for (uint32_t k = 0; k < de; k++)
                    u += (double)w->data[(size_t)d * de + k] * head_in[k];
                x[d] = (float)u;
            }
            check_sum(f, insertion, o, x, 7 + o, tolerance);
        }
    f->batch.tape = NULL;
    ot_insertion_close(&copy);
    free(x);
    for (int k = 0; k < 15; k++)
        free(parts[k]);
}

static void check_all_equations(fixture *f)
{
    ot_insertion_spec linear = ot_tiny_insertion_spec("linear", OT_HEAD_GENERATION, 0, 1);
    if (add(f, ot_tiny_insertion_spec("drafts", OT_HEAD_GENERATION, 32, 3), OT_TYPE_F32) && add(f, medusa(2), OT_TYPE_F32) &&
        add(f, linear, OT_TYPE_F32) && open_rows(f)) {
        check_equation(f, 1, "medusa.head", true);
        check_equation(f, 2, "linear.head", false);
        check_extended(f, 0, "drafts.head", 0.02);
    }
    close_fixture(f);
}

static void values_and_base_logits_are_the_lm_head_of_the_sum(void)
{
    fixture f;
    if (open_tiny(&f))
        check_all_equations(&f);
}

static void the_default_model_agrees(void)
{
    fixture f = {.n_insertions = 0};
    if (ot_test_model_path() == NULL)
        SKIP_CASE("no default model");
    REQUIRE_OK(ot_model_open(&f.model, ot_test_model_path(), &err), &err);
    check_all_equations(&f);
}

/* A trainable insertion has no tables: its values come through the output matrix, and agree with those of its file. */
static void a_trainable_insertion_has_values_too(void)
{
    fixture f;
    ot_insertion *copy = NULL;
    if (open_tiny(&f) && add(&f, ot_tiny_insertion_spec("expert", OT_HEAD_GENERATION, 32, 1), OT_TYPE_F32) &&
        CHECK_OK(ot_insertion_open_trainable(&copy, f.model, "copy", ot_test_temp_path("expert.head"), NULL, 0, NULL, &err), &err)) {
        f.insertions[f.n_insertions++] = copy;
        if (open_rows(&f)) {
            float *file = values_of(&f, f.engine, 0, 0, 11), *trainable = values_of(&f, f.engine, 1, 0, 11);
            double square = 0, size = 0;
            for (uint32_t v = 0; CHECK(file != NULL && trainable != NULL) && v < f.n_vocab; v++) {
                square += ((double)file[v] - trainable[v]) * ((double)file[v] - trainable[v]);
                size += (double)file[v] * file[v];
            }
            CHECK(size > 0 && square > 0 && sqrt(square / size) < 0.02);
            CHECK(isnan(ot_engine_score(f.engine, 11, copy, 0)));
            free(file);
            free(trainable);
        }
    }
    close_fixture(&f);
}

static void an_engine_may_borrow_threads(void)
{
    fixture f;
    if (open_all(&f)) {
        ot_engine *guest = open_engine(&f, 7, ~0u, ot_engine_pool(f.engine));
        float *own = values_of(&f, f.engine, DRAFTS, 1, 3);
        if (guest != NULL && own != NULL && CHECK(ot_engine_pool(guest) == ot_engine_pool(f.engine)) &&
            CHECK_OK(ot_engine_forward(guest, &f.batch, &err), &err)) {
            float *borrowed = values_of(&f, guest, DRAFTS, 1, 3);
            if (borrowed != NULL)
                CHECK_SAME_FLOATS(borrowed, own, f.n_vocab);
            free(borrowed);
        }
        ot_engine_close(&guest);
        /* The owner still has its pool. */
        CHECK_OK(ot_engine_forward(f.engine, &f.batch, &err), &err);
        free(own);
    }
    close_fixture(&f);
}

/* ---- What is refused ------------------------------------------------------------------------------------------- */

static void wrong_questions_are_refused(void)
{
    fixture f;
    float *values[MAX_ROWS + 1] = {NULL}, score;
    uint32_t rows[MAX_ROWS + 1];
    const int32_t tokens[] = {1, -1, 1 << 20};
    if (open_all(&f)) {
        for (uint32_t i = 0; i <= MAX_ROWS; i++)
            rows[i] = 7;
        const struct { uint32_t insertion, output, n_rows, row; const char *names; } bad[] = {
            {MOOD, 0, 1, 7, "mood"}, {EXPERT, 1, 1, 7, "output 1"}, {EXPERT, 0, 1, 5, "row 5"}, {EXPERT, 0, 1, N_ROWS, "row 23"},
            {EXPERT, 0, MAX_ROWS + 1, 7, "at most 64"},
        };
        for (size_t k = 0; k < sizeof bad / sizeof bad[0]; k++) {
            const ot_head_rows head = {f.insertions[bad[k].insertion], bad[k].output, bad[k].n_rows,
                                       bad[k].n_rows == 1 ? &bad[k].row : rows, values, NULL, 0};
            CHECK_STATUS(ot_engine_project_heads(f.engine, &head, 1, &err), OT_ERR_INVALID, &err);
            CHECK_CONTAINS(err.message, bad[k].names);
        }
        const int32_t told[] = {-1, (int32_t)f.n_vocab};
        for (int i = -1; i < 2; i++) {
            const ot_head_rows head = {f.insertions[READING], 0, 1, rows, values, i < 0 ? NULL : &told[i], 0};
            CHECK_STATUS(ot_engine_project_heads(f.engine, &head, 1, &err), OT_ERR_INVALID, &err);
            CHECK_CONTAINS(err.message, "'reading' reads tokens");
            CHECK_CONTAINS(err.message, "row 7");
        }
        CHECK_STATUS(ot_engine_lookahead(f.engine, 7, f.insertions[EXPERT], 0, tokens, 1, &score, &err), OT_ERR_INVALID, &err);
        CHECK_STATUS(ot_engine_lookahead(f.engine, 7, f.insertions[AHEAD], 2, tokens, 1, &score, &err), OT_ERR_INVALID, &err);
        for (int i = 1; i < 3; i++)
            CHECK_STATUS(ot_engine_lookahead(f.engine, 7, f.insertions[AHEAD], 0, tokens + i, 1, &score, &err), OT_ERR_INVALID,
                         &err);
        CHECK_STATUS(ot_engine_project_vectors(f.engine, NULL, 0, MAX_ROWS + 1, values, &err), OT_ERR_INVALID, &err);
        CHECK(isnan(ot_engine_score(f.engine, 7, f.insertions[EXPERT], 0)));
    }
    close_fixture(&f);
}

static uint8_t *read_bytes(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    uint8_t *bytes = file != NULL ? malloc(1 << 20) : NULL;
    *size = bytes != NULL ? fread(bytes, 1, 1 << 20, file) : 0;
    if (file != NULL)
        fclose(file);
    return bytes;
}

/* Writes the file anew with the first `from` after `anchor` replaced by `to`, of the same length, and opens it. */
static void check_patched(fixture *f, const char *file, const char *anchor, const void *from, const void *to, size_t n,
                          const char *named)
{
    size_t size, at;
    uint8_t *bytes = read_bytes(ot_test_temp_path(file), &size);
    uint8_t *start = bytes != NULL ? memmem(bytes, size, anchor, strlen(anchor)) : NULL;
    uint8_t *found = start != NULL ? memmem(start, size - (size_t)(start - bytes), from, n) : NULL;
    ot_insertion *x = NULL;
    ot_test_context("%s: %s", file, anchor);
    if (CHECK(found != NULL)) {
        at = (size_t)(found - bytes);
        memcpy(bytes + at, to, n);
        ot_test_write_file(ot_test_temp_path("patched.head"), bytes, size);
        CHECK(ot_insertion_open(&x, f->model, "x", ot_test_temp_path("patched.head"), NULL, 0, NULL, &err) != OT_OK);
        CHECK_CONTAINS(err.message, named);
        CHECK_CONTAINS(err.message, "patched.head: ");
        CHECK(x == NULL);
    }
    ot_test_context(NULL);
    free(bytes);
}

static void bad_files_are_named(void)
{
    fixture f;
    ot_insertion_spec expert = ot_tiny_insertion_spec("expert", OT_HEAD_GENERATION, 32, 2);
    ot_insertion_spec ahead = ot_tiny_insertion_spec("ahead", OT_HEAD_LOOKAHEAD, 8, 1);
    if (open_tiny(&f) && add(&f, expert, OT_TYPE_F32) && add(&f, ahead, OT_TYPE_F32) && add(&f, reading(2), OT_TYPE_F32)) {
        const uint32_t ordinary[2] = {0, 2};
        const uint64_t right[2] = {32, 128}, transposed[2] = {128, 32};
        const uint32_t offsets[2] = {1, 2}, far[2] = {1, 65}, negative[2] = {1, (uint32_t)-1}, count = 2, counts = 3;
        const float not_a_number = NAN;
        check_patched(&f, "expert.head", "otter.head.offsets", "offsets", "offsetz", 7, "otter.head.offsets");
        check_patched(&f, "expert.head", "otter.head.activation", "linear", "square", 6, "otter.head.activation");
        check_patched(&f, "ahead.head", "otter.head.activation", "sigmoid", "sigmoit", 7, "otter.head.activation");
        check_patched(&f, "expert.head", "otter.head.kind", "generation", "generators", 10, "otter.head.kind");
        check_patched(&f, "expert.head", "otter.head.count", &count, &counts, 4, "otter.head.");
        check_patched(&f, "expert.head", "otter.head.offsets", offsets, far, 8, "otter.head.offsets");
        check_patched(&f, "expert.head", "otter.head.offsets", offsets, negative, 8, "otter.head.offsets");
        check_patched(&f, "expert.head", "otter.head.offsets", offsets, far, 8, "' at byte ");
        const uint32_t u32_array[2] = {OT_GGUF_U32, 0}, f32_array[2] = {OT_GGUF_F32, 0}; /* type, half of the count's eight bytes */
        check_patched(&f, "expert.head", "otter.head.offsets", u32_array, f32_array, 4, "not an array of integers");
        check_patched(&f, "expert.head", "otter.head.1.weight", right, transposed, 16, "otter.head.1.weight");
        check_patched(&f, "expert.head", "otter.head.1.weight", "weight", "weihgt", 6, "otter.head.1.weight");
        check_patched(&f, "ahead.head", "otter.head.0.bias", "bias", "biaz", 4, "otter.head.0.bias");
        check_patched(&f, "reading.head", "otter.head.offsets", offsets, ordinary, 8, "otter.head.offsets");
        check_patched(&f, "reading.head", "otter.head.1.token.weight", "token", "tokem", 5, "otter.head.1.token.weight");
        check_patched(&f, "reading.head", "otter.head.0.token.weight", transposed, right, 16, "otter.head.0.token.weight");
        /* The last bytes of the file are the last head's weights; the writer pads after them to 32 bytes at most. */
        size_t size;
        uint8_t *bytes = read_bytes(ot_test_temp_path("expert.head"), &size);
        ot_insertion *x = NULL;
        if (CHECK(bytes != NULL && size > 64)) {
            memcpy(bytes + size - 64, &not_a_number, sizeof not_a_number);
            ot_test_write_file(ot_test_temp_path("patched.head"), bytes, size);
            CHECK_STATUS(ot_insertion_open(&x, f.model, "x", ot_test_temp_path("patched.head"), NULL, 0, NULL, &err),
                         OT_ERR_FORMAT, &err);
            CHECK_CONTAINS(err.message, "otter.head.1.weight");
        }
        free(bytes);
    }
    close_fixture(&f);
}

static void specs_that_make_no_sense_are_refused(void)
{
    fixture f;
    ot_insertion *x;
    if (open_tiny(&f)) {
        ot_insertion_spec bad[11];
        for (int k = 0; k < 11; k++) {
            bad[k] = ot_tiny_insertion_spec("bad", k < 4 ? OT_HEAD_GENERATION : OT_HEAD_LOOKAHEAD, 16, 2);
            if (k >= 6)
                bad[k] = reading(2);
        }
        const char *const named[11] = {"otter.head.activation", "otter.head.input", "otter.head.offsets", "otter.head.count",
                                       "otter.head.activation", "otter.head.activation", "otter.head.offsets",
                                       "otter.head.reads_tokens", "otter.head.reads_tokens", "otter.head.reads_tokens", "otter.parents"};
        bad[0].activation = OT_ACT_SIGMOID;
        bad[1].activation = OT_ACT_SILU_RESIDUAL;
        bad[2].offsets[1] = 65;
        bad[3].n_outputs = OT_MAX_HEADS + 1;
        bad[4].activation = OT_ACT_LINEAR;
        bad[5].activation = OT_ACT_SILU_RESIDUAL;
        bad[6].offsets[0] = 0;
        bad[7] = ot_tiny_insertion_spec("bad", OT_HEAD_SCALAR, 16, 2);
        bad[7].reads_tokens = true;
        bad[8].kind = OT_HEAD_LOOKAHEAD;
        bad[8].activation = OT_ACT_IDENTITY;
        bad[9] = medusa(2);
        bad[9].reads_tokens = true;
        bad[10] = ot_tiny_insertion_spec("bad", OT_HEAD_SCALAR, 16, 1);
        bad[10].n_parents = 2; /* the same one twice */
        strcpy(bad[10].parents[0], "below");
        strcpy(bad[10].parents[1], "below");
        const ot_insertion *below[2] = {NULL, NULL};
        for (int k = 0; k < 11; k++) {
            CHECK_STATUS(ot_insertion_create(&x, f.model, &bad[k], below, &err), OT_ERR_INVALID, &err);
            CHECK_STR(err.param, named[k]);
        }
    }
    close_fixture(&f);
}

/* Sizes that a file has in memory: the table of each head counts, and replaces the matrix that it was made from. */
static void tables_count_as_memory(void)
{
    fixture f;
    ot_insertion_spec with = ot_tiny_insertion_spec("with", OT_HEAD_GENERATION, 32, 3);
    ot_insertion_spec scalar = ot_tiny_insertion_spec("scalar", OT_HEAD_SCALAR, 32, 3);
    if (open_tiny(&f) && add(&f, with, OT_TYPE_F32) && add(&f, scalar, OT_TYPE_F32)) {
        const ot_insertion_info *a = ot_insertion_get_info(f.insertions[0]), *b = ot_insertion_get_info(f.insertions[1]);
        const size_t n_panels = (ot_model_get_info(f.model)->n_vocab + OT_PANEL - 1) / OT_PANEL;
        const size_t table = n_panels * ((OT_PANEL * (32 + 2) + 63) / 64 * 64); /* 8 bits, and a half for each block of 32 */
        const size_t heads = 3 * sizeof(float) * (32 + 1);
        CHECK_UINT(a->bytes, b->bytes - heads + 3 * table);
        CHECK_UINT(a->n_params, b->n_params - 3 * 33 + 3 * 32 * 128);
        CHECK_UINT(a->spec.offsets[0], 1);
        CHECK_UINT(a->spec.offsets[2], 3);
        CHECK_INT(a->spec.kind, OT_HEAD_GENERATION);
        CHECK_INT(a->spec.activation, OT_ACT_LINEAR);
        CHECK_STR(a->spec.labels[2], "label2");
        /* What a file may leave out is no error: none is left behind. */
        ot_insertion *again = NULL;
        ot_error untouched = {0};
        CHECK_OK(ot_insertion_open(&again, f.model, "again", ot_test_temp_path("with.head"), NULL, 0, NULL, &untouched), &untouched);
        CHECK_STR(untouched.message, "");
        CHECK_STR(untouched.param, "");
        ot_insertion_close(&again);
    }
    close_fixture(&f);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(values_depend_on_their_row_alone);
    RUN(the_first_tokens_have_the_values_that_they_have_among_all);
    RUN(a_row_is_read_behind_several_tokens);
    RUN(lookahead_scores_are_those_of_all_tokens);
    RUN(a_child_changes_nothing_below_it);
    RUN(the_toxicity_head_bears_a_lookahead_head);
    RUN(values_and_base_logits_are_the_lm_head_of_the_sum);
    RUN(the_default_model_agrees);
    RUN(a_trainable_insertion_has_values_too);
    RUN(an_engine_may_borrow_threads);
    RUN(wrong_questions_are_refused);
    RUN(bad_files_are_named);
    RUN(specs_that_make_no_sense_are_refused);
    RUN(tables_count_as_memory);
    return ot_test_finish();
}
