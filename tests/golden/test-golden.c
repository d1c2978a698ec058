/* The engine against the NumPy reference, on small files with every legal combination of sizes.
 *
 * make_golden.py writes models, insertions and float64 results (into $BUILD/golden; this test runs it). For each case the
 * sequence runs in one chunk, and its logits and scores must lie within the case's tolerances of the reference. Every other way
 * to run the same rows (odd chunks, one at a time, candidates, a draft tree, beside other sequences, in plain C on one
 * thread) must then give the same bits as the one chunk: promises 1 and 2 of the engine.
 *
 * test-timeout: 300 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "engine/engine.h"
#include "engine/kernels.h"
#include "tests/support/golden-file.h"
#include "tests/support/kv-units.h"
#include "tests/support/test-support.h"

#define MAX_ROWS 600
#define SLOTS 600 /* positions, and room for candidates and drafts behind them */

/* ---- What a case holds while it runs --------------------------------------------------------------------- */

static ot_golden_manifest manifest;
static const ot_golden_case *current;
static ot_golden_expected want;
static ot_model *model;
static ot_insertion *insertions[OT_GOLDEN_MAX_INSERTIONS];

/* Results of rows in the order they were run. */
typedef struct results {
    uint32_t n_rows;
    float *logits;                           /* (MAX_ROWS, n_vocab) */
    float *scores[OT_GOLDEN_MAX_INSERTIONS]; /* (MAX_ROWS, width) */
} results;

static bool results_open(results *r)
{
    *r = (results){.logits = calloc((size_t)MAX_ROWS * want.n_vocab, sizeof(float))};
    bool good = r->logits != NULL;
    for (uint32_t i = 0; i < want.n_insertions; i++) {
        r->scores[i] = calloc((size_t)MAX_ROWS * want.widths[i], sizeof(float));
        good = good && r->scores[i] != NULL;
    }
    return good;
}

static void results_close(results *r)
{
    free(r->logits);
    for (uint32_t i = 0; i < OT_GOLDEN_MAX_INSERTIONS; i++)
        free(r->scores[i]);
}

static const float *logits_of(const results *r, uint32_t row) { return r->logits + (size_t)row * want.n_vocab; }
static const float *scores_of(const results *r, uint32_t i, uint32_t row)
{
    return r->scores[i] + (size_t)row * want.widths[i];
}

static bool open_engine(ot_engine **engine, uint32_t n_threads, ot_kv_type kv_type, unsigned cpu_mask)
{
    ot_error err = {0};
    ot_engine_options options;
    ot_engine_options_default(&options);
    options.n_threads = n_threads;
    options.max_rows = MAX_ROWS;
    options.max_context = SLOTS;
    options.max_insertions = OT_GOLDEN_MAX_INSERTIONS;
    options.kv_type = kv_type;
    options.cpu_mask = cpu_mask;
    return CHECK_OK(ot_engine_open(engine, model, &options, &err), &err);
}

static bool open_kv(ot_test_kv *kv, ot_kv_type type, uint32_t n_insertions, uint64_t seed)
{
    ot_error err = {0};
    const ot_insertion *const *list = (const ot_insertion *const *)insertions;
    return CHECK_OK(ot_test_kv_open(kv, model, type, list, n_insertions, SLOTS, seed), &err);
}

/* ---- Running rows ---------------------------------------------------------------------------------------- */

static ot_row plain_row(uint32_t position)
{
    return (ot_row){.token = want.tokens[position], .position = position, .slot = position, .n_prefix = position + 1,
                    .flags = OT_ROW_OUTPUT};
}

static const ot_insertion_spec *spec_of(uint32_t i)
{
    return &ot_insertion_get_info(insertions[i])->spec;
}

static ot_head_kind kind_of(uint32_t i)
{
    return spec_of(i)->kind;
}

/* Where the values of an insertion's output at a row of results belong. */
static float *values_at(const results *r, uint32_t i, uint32_t row, uint32_t output)
{
    return r->scores[i] + (size_t)row * want.widths[i] + (size_t)output * want.n_vocab;
}

/* Some tokens of a lookahead head by themselves: the bits of the whole vocabulary. */
static void check_lookahead(ot_engine *engine, uint32_t row, uint32_t i, uint32_t output, const float *values)
{
    ot_error err = {0};
    int32_t tokens[9];
    float some[9], of_all[9];
    for (uint32_t k = 0; k < 9; k++) {
        tokens[k] = (int32_t)((row * 31 + k * 37) % want.n_vocab);
        of_all[k] = values[tokens[k]];
    }
    tokens[8] = (int32_t)want.n_vocab - 1;
    of_all[8] = values[tokens[8]];
    if (CHECK_OK(ot_engine_lookahead(engine, row, insertions[i], output, tokens, 9, some, &err), &err))
        CHECK_SAME_FLOATS(some, of_all, 9);
}

/* What make_golden.py's `told` says. */
static int32_t told_at(const ot_row *row, uint32_t offset)
{
    return (int32_t)((7 * (uint32_t)row->token + 13 * offset + row->position) % want.n_vocab);
}

/* Values for every token at the listed rows of the last batch, to the results that are about to be appended: all heads in one
 * call while they fit. */
static bool run_heads(ot_engine *engine, const ot_kv_view *views, const ot_row *rows, const uint32_t *list, uint32_t n_list,
                      results *r)
{
    enum { MAX_HEADS = 32 };
    static uint32_t used[MAX_HEADS][MAX_ROWS];
    static float *values[MAX_HEADS][MAX_ROWS];
    static int32_t told[MAX_HEADS][MAX_ROWS];
    ot_head_rows heads[MAX_HEADS];
    ot_error err = {0};
    uint32_t n_heads = 0, n_rows = 0;
    bool good = true;
    for (uint32_t k = 0; k < want.n_insertions; k++)
        for (uint32_t o = 0; kind_of(k) != OT_HEAD_SCALAR && o < want.widths[k] / want.n_vocab; o++) {
            if (n_heads == MAX_HEADS || n_rows + n_list > MAX_ROWS) {
                good = CHECK_OK(ot_engine_project_heads(engine, heads, n_heads, &err), &err) && good;
                n_heads = n_rows = 0;
            }
            ot_head_rows *h = &heads[n_heads];
            *h = (ot_head_rows){insertions[k], o, 0, used[n_heads], values[n_heads],
                                spec_of(k)->reads_tokens ? told[n_heads] : NULL, 0};
            for (uint32_t i = 0; i < n_list; i++) {
                if (k >= views[rows[list[i]].sequence].n_insertions)
                    continue;
                used[n_heads][h->n_rows] = list[i];
                told[n_heads][h->n_rows] = told_at(&rows[list[i]], spec_of(k)->offsets[o]);
                values[n_heads][h->n_rows++] = values_at(r, k, r->n_rows + i, o);
            }
            n_rows += h->n_rows;
            n_heads++;
        }
    good = CHECK_OK(ot_engine_project_heads(engine, heads, n_heads, &err), &err) && good;
    for (uint32_t k = 0; good && k < want.n_insertions; k++)
        for (uint32_t i = 0; kind_of(k) == OT_HEAD_LOOKAHEAD && i < n_list && i < 5; i++)
            if (k < views[rows[list[i]].sequence].n_insertions)
                check_lookahead(engine, list[i], k, 0, values_at(r, k, r->n_rows + i, 0));
    return good;
}

/* Runs the rows as one batch and appends the results of those that have OT_ROW_OUTPUT. */
static bool run_rows(ot_engine *engine, const ot_kv_view *views, uint32_t n_views, const ot_row *rows, uint32_t n, results *r)
{
    ot_error err = {0};
    const ot_batch batch = {.n_rows = n, .rows = rows, .n_sequences = n_views, .sequences = views};
    uint32_t list[MAX_ROWS], n_list = 0;
    float *logits[MAX_ROWS];
    if (!CHECK_OK(ot_engine_forward(engine, &batch, &err), &err))
        return false;
    for (uint32_t i = 0; i < n; i++) {
        if (!(rows[i].flags & OT_ROW_OUTPUT))
            continue;
        const uint32_t to = r->n_rows + n_list;
        logits[n_list] = r->logits + (size_t)to * want.n_vocab;
        list[n_list++] = i;
        for (uint32_t k = 0; k < views[rows[i].sequence].n_insertions; k++)
            for (uint32_t o = 0; kind_of(k) == OT_HEAD_SCALAR && o < want.widths[k]; o++)
                r->scores[k][(size_t)to * want.widths[k] + o] = ot_engine_score(engine, i, insertions[k], o);
    }
    const bool good = run_heads(engine, views, rows, list, n_list, r);
    r->n_rows += n_list;
    return good && (n_list == 0 || CHECK_OK(ot_engine_project(engine, list, n_list, logits, &err), &err));
}

/* Positions [begin, end) of sequence 0, in chunks of sizes that repeat. */
static bool run_chunks(ot_engine *engine, const ot_test_kv *kv, uint32_t begin, uint32_t end, const uint32_t *sizes,
                       uint32_t n_sizes, results *r)
{
    ot_row rows[MAX_ROWS];
    bool good = true;
    for (uint32_t at = begin, c = 0; good && at < end; c++) {
        uint32_t n = 0;
        for (; n < sizes[c % n_sizes] && at < end; n++, at++)
            rows[n] = plain_row(at);
        good = run_rows(engine, &kv->view, 1, rows, n, r);
    }
    return good;
}

static bool run_whole(ot_engine *engine, const ot_test_kv *kv, uint32_t begin, uint32_t end, results *r)
{
    const uint32_t all = MAX_ROWS;
    return run_chunks(engine, kv, begin, end, &all, 1, r);
}

/* ---- Comparing ------------------------------------------------------------------------------------------- */

static double largest_difference(const float *a, const float *b, size_t n, size_t *at)
{
    double largest = 0;
    *at = 0;
    for (size_t i = 0; i < n; i++) {
        const double difference = fabs((double)a[i] - (double)b[i]);
        if (!(difference <= largest)) { /* NaN, too */
            largest = isnan(difference) ? INFINITY : difference;
            *at = i;
        }
    }
    return largest;
}

static double worst_score, worst_logit, worst_half_score, worst_half_logit;

static void check_close(const char *what, const float *got, const float *expected, size_t n_rows, size_t width, double tolerance,
                        double *worst)
{
    size_t at;
    const double largest = largest_difference(got, expected, n_rows * width, &at);
    if (largest > *worst)
        *worst = largest;
    if (!CHECK(largest <= tolerance))
        printf("    %s of row %zu, element %zu: engine %.9g, reference %.9g, difference %.3g, allowed %.3g\n", what, at / width,
               at % width, (double)got[at], (double)expected[at], largest, tolerance);
}

static void check_against_reference(const results *r)
{
    check_close("logits", r->logits, want.logits, want.n_tokens, want.n_vocab, current->logit_tolerance, &worst_logit);
    for (uint32_t i = 0; i < want.n_insertions; i++)
        check_close(current->insertions[i].name, r->scores[i], want.scores[i], want.n_tokens, want.widths[i],
                    current->score_tolerance, &worst_score);
}

/* Row `row` of r has the bits of row `base_row` of base, for the first n_insertions. */
static void check_same_row(const results *r, uint32_t row, const results *base, uint32_t base_row, uint32_t n_insertions)
{
    CHECK_SAME_FLOATS(logits_of(r, row), logits_of(base, base_row), want.n_vocab);
    for (uint32_t i = 0; i < n_insertions; i++)
        CHECK_SAME_FLOATS(scores_of(r, i, row), scores_of(base, i, base_row), want.widths[i]);
}

/* Rows [0, n) of r are rows first, first + 1, ... of base. */
static void check_same_rows(const results *r, uint32_t n, const results *base, uint32_t first)
{
    CHECK_UINT(r->n_rows, n);
    for (uint32_t i = 0; i < n && i < r->n_rows; i++)
        check_same_row(r, i, base, first + i, want.n_insertions);
}

/* ---- Ways to run the same rows --------------------------------------------------------------------------- */

static void chunked(ot_engine *engine, const results *whole)
{
    static const uint32_t odd[] = {1, 7, 2, 13, 3, 5, 31}, single[] = {1};
    const struct { const uint32_t *sizes; uint32_t n; } ways[] = {{odd, 7}, {single, 1}};
    for (size_t w = 0; w < 2; w++) {
        ot_test_kv kv = {0};
        results r;
        if (CHECK(results_open(&r)) && open_kv(&kv, OT_KV_F32, want.n_insertions, 11 + w) &&
            run_chunks(engine, &kv, 0, want.n_tokens, ways[w].sizes, ways[w].n, &r))
            check_same_rows(&r, want.n_tokens, whole, 0);
        ot_test_kv_close(&kv);
        results_close(&r);
    }
}

/* Only each third row asks for output. */
static void few_outputs(ot_engine *engine, const results *whole)
{
    ot_test_kv kv = {0};
    results r;
    ot_row rows[MAX_ROWS];
    for (uint32_t p = 0; p < want.n_tokens; p++) {
        rows[p] = plain_row(p);
        rows[p].flags = p % 3 == 2 ? OT_ROW_OUTPUT : 0;
    }
    if (CHECK(results_open(&r)) && open_kv(&kv, OT_KV_F32, want.n_insertions, 21) &&
        run_rows(engine, &kv.view, 1, rows, want.n_tokens, &r))
        for (uint32_t i = 0; i < r.n_rows; i++)
            check_same_row(&r, i, whole, 3 * i + 2, want.n_insertions);
    ot_test_kv_close(&kv);
    results_close(&r);
}

/* All candidates of `position` as rows of one batch, in slots behind it; then the first one, which is the true token, moves to its
 * place and the sequence goes on. */
static void candidates(ot_engine *engine, const results *whole)
{
    ot_test_kv kv = {0};
    results prefix, r, rest;
    ot_row rows[MAX_ROWS];
    uint32_t slots[MAX_ROWS];
    const uint32_t n = want.n_candidates, p = want.position;
    for (uint32_t i = 0; i < n; i++) {
        slots[i] = p + 3 * (n - 1 - i); /* the last one takes the slot of the position itself */
        rows[i] = (ot_row){.token = want.candidates[i], .position = p, .slot = slots[i], .n_prefix = p, .n_tail = 1,
                           .tail = &slots[i], .flags = OT_ROW_OUTPUT};
    }
    const bool opened = CHECK((int)results_open(&prefix) & results_open(&r) & results_open(&rest));
    if (opened && open_kv(&kv, OT_KV_F32, want.n_insertions, 31) && run_whole(engine, &kv, 0, p, &prefix) &&
        run_rows(engine, &kv.view, 1, rows, n, &r)) {
        check_close("candidate logits", r.logits, want.candidate_logits, n, want.n_vocab, current->logit_tolerance,
                    &worst_logit);
        for (uint32_t i = 0; i < want.n_insertions; i++)
            check_close("candidate scores", r.scores[i], want.candidate_scores[i], n, want.widths[i],
                        current->score_tolerance, &worst_score);
        check_same_row(&r, 0, whole, p, want.n_insertions);
        ot_test_kv_copy_slot(&kv, p, slots[0]);
        if (run_whole(engine, &kv, p + 1, want.n_tokens, &rest))
            check_same_rows(&rest, want.n_tokens - p - 1, whole, p + 1);
    }
    ot_test_kv_close(&kv);
    results_close(&prefix);
    results_close(&r);
    results_close(&rest);
}

/* The next tokens as a chain of draft nodes in slots that run backwards, with a wrong branch beside it. */
static void draft_tree(ot_engine *engine, const results *whole)
{
    enum { DEPTH = 9 };
    ot_test_kv kv = {0};
    results prefix, r;
    ot_row rows[2 * DEPTH];
    uint32_t chain[DEPTH], wrong[DEPTH];
    const uint32_t p = want.position;
    for (uint32_t i = 0; i < DEPTH; i++) {
        chain[i] = p + 2 * (DEPTH - i);
        wrong[i] = i < 2 ? chain[i] : p + 2 * i + 1; /* leaves the chain after two nodes */
        rows[2 * i] = (ot_row){.token = want.tokens[p + i], .position = p + i, .slot = chain[i], .n_prefix = p,
                               .n_tail = i + 1, .tail = chain, .flags = OT_ROW_OUTPUT};
        rows[2 * i + 1] = rows[2 * i];
        if (i >= 2) {
            rows[2 * i + 1].token = (want.tokens[p + i] + 1) % (int32_t)want.n_vocab;
            rows[2 * i + 1].slot = wrong[i];
            rows[2 * i + 1].tail = wrong;
        }
    }
    /* The first two nodes are shared: drop their copies. */
    memmove(&rows[1], &rows[2], sizeof rows[0]);
    memmove(&rows[2], &rows[4], (2 * DEPTH - 4) * sizeof rows[0]);
    if (CHECK((int)results_open(&prefix) & results_open(&r)) && open_kv(&kv, OT_KV_F32, want.n_insertions, 41) &&
        run_whole(engine, &kv, 0, p, &prefix) && run_rows(engine, &kv.view, 1, rows, 2 * DEPTH - 2, &r)) {
        check_same_row(&r, 0, whole, p, want.n_insertions);
        check_same_row(&r, 1, whole, p + 1, want.n_insertions);
        for (uint32_t i = 2; i < DEPTH; i++)
            check_same_row(&r, 2 * i - 2, whole, p + i, want.n_insertions);
    }
    ot_test_kv_close(&kv);
    results_close(&prefix);
    results_close(&r);
}

/* Rows of three sequences in turn: without insertions, with the first one alone (which has no parents), and with all. */
static void beside_others(ot_engine *engine, const results *whole)
{
    const uint32_t runs[3] = {0, want.n_insertions > 0 ? 1 : 0, want.n_insertions};
    ot_test_kv kv[3] = {0};
    ot_kv_view views[3];
    ot_row rows[MAX_ROWS];
    results r;
    bool good = CHECK(results_open(&r));
    for (uint32_t s = 0; s < 3; s++) {
        good = open_kv(&kv[s], OT_KV_F32, runs[s], 51 + s) && good;
        views[s] = kv[s].view;
    }
    const uint32_t n = want.n_tokens < MAX_ROWS / 3 ? want.n_tokens : MAX_ROWS / 3;
    for (uint32_t i = 0; i < 3 * n; i++) {
        rows[i] = plain_row(i / 3);
        rows[i].sequence = i % 3;
    }
    if (good && run_rows(engine, views, 3, rows, 3 * n, &r))
        for (uint32_t i = 0; i < 3 * n; i++)
            check_same_row(&r, i, whole, i / 3, runs[i % 3]);
    for (uint32_t s = 0; s < 3; s++)
        ot_test_kv_close(&kv[s]);
    results_close(&r);
}

/* One thread, and each instruction set: the same bits. */
static void other_machines(const results *whole)
{
    static const unsigned masks[] = {0, OT_CPU_AVX2, OT_CPU_AVX2 | OT_CPU_AVX512};
    for (size_t m = 0; m < sizeof masks / sizeof masks[0]; m++) {
        ot_engine *engine = NULL;
        ot_test_kv kv = {0};
        results r;
        if (CHECK(results_open(&r)) && open_engine(&engine, 1, OT_KV_F32, masks[m]) &&
            open_kv(&kv, OT_KV_F32, want.n_insertions, 61) && run_whole(engine, &kv, 0, want.n_tokens, &r))
            check_same_rows(&r, want.n_tokens, whole, 0);
        ot_test_kv_close(&kv);
        ot_engine_close(&engine);
        results_close(&r);
    }
}

/* Half-precision keys and values: as in the reference with the same rounding, and the same bits in any chunks. */
static void half_kv(void)
{
    static const uint32_t odd[] = {3, 1, 17, 6};
    ot_engine *engine = NULL;
    ot_test_kv kv = {0}, chunks_kv = {0};
    results r, chunks;
    if (CHECK((int)results_open(&r) & results_open(&chunks)) && open_engine(&engine, 2, OT_KV_F16, ~0u) &&
        open_kv(&kv, OT_KV_F16, want.n_insertions, 71) && open_kv(&chunks_kv, OT_KV_F16, want.n_insertions, 72) &&
        run_whole(engine, &kv, 0, want.n_tokens, &r) &&
        run_chunks(engine, &chunks_kv, 0, want.n_tokens, odd, 4, &chunks)) {
        check_close("logits (half)", r.logits, want.half_logits, want.n_tokens, want.n_vocab, current->half_logit_tolerance,
                    &worst_half_logit);
        for (uint32_t i = 0; i < want.n_insertions; i++)
            check_close("scores (half)", r.scores[i], want.half_scores[i], want.n_tokens, want.widths[i],
                        current->half_score_tolerance, &worst_half_score);
        check_same_rows(&chunks, want.n_tokens, &r, 0);
    }
    ot_test_kv_close(&kv);
    ot_test_kv_close(&chunks_kv);
    ot_engine_close(&engine);
    results_close(&r);
    results_close(&chunks);
}

/* ---- Cases ----------------------------------------------------------------------------------------------- */

static bool open_files(void)
{
    ot_error err = {0};
    if (!CHECK(ot_golden_read_expected(&want, current->expected_path)) ||
        !CHECK_OK(ot_model_open(&model, current->model_path, &err), &err))
        return false;
    for (uint32_t i = 0; i < current->n_insertions; i++) {
        const ot_golden_insertion *g = &current->insertions[i];
        if (!CHECK_OK(ot_insertion_open(&insertions[i], model, g->name, g->path, (const ot_insertion *const *)insertions, i,
                                        NULL, &err), &err))
            return false;
    }
    return CHECK_UINT(want.n_insertions, current->n_insertions) &&
           CHECK_UINT(want.n_vocab, ot_model_get_info(model)->n_vocab) && CHECK(want.n_tokens + 40 <= SLOTS);
}

static void close_files(void)
{
    for (uint32_t i = OT_GOLDEN_MAX_INSERTIONS; i > 0; i--)
        ot_insertion_close(&insertions[i - 1]);
    ot_model_close(&model);
    ot_golden_close_expected(&want);
}

static void run_case(void)
{
    ot_engine *engine = NULL;
    ot_test_kv kv = {0};
    results whole = {0};
    worst_score = worst_logit = worst_half_score = worst_half_logit = 0;
    if (open_files() && CHECK(results_open(&whole)) && open_engine(&engine, 2, OT_KV_F32, ~0u) &&
        open_kv(&kv, OT_KV_F32, want.n_insertions, 1) && run_whole(engine, &kv, 0, want.n_tokens, &whole)) {
        check_against_reference(&whole);
        chunked(engine, &whole);
        few_outputs(engine, &whole);
        candidates(engine, &whole);
        draft_tree(engine, &whole);
        beside_others(engine, &whole);
        other_machines(&whole);
        half_kv();
        printf("    largest difference: scores %.2g, logits %.2g; half keys and values: %.2g, %.2g\n", worst_score, worst_logit,
               worst_half_score, worst_half_logit);
    }
    ot_test_kv_close(&kv);
    ot_engine_close(&engine);
    results_close(&whole);
    close_files();
}

static const ot_golden_case *find_case(const char *name)
{
    for (uint32_t i = 0; i < manifest.n_cases; i++)
        if (strcmp(manifest.cases[i].name, name) == 0)
            return &manifest.cases[i];
    return NULL;
}

/* An insertion made for another base of the same shape is refused, and by name when its parent is not there. */
static void refuses_what_does_not_belong(void)
{
    ot_error err = {0};
    const ot_golden_case *stacked = find_case("stacked"), *linear = find_case("base-linear");
    REQUIRE(stacked != NULL && linear != NULL);
    const ot_golden_insertion *parent = &stacked->insertions[0], *child = &stacked->insertions[1];
    REQUIRE_OK(ot_model_open(&model, linear->model_path, &err), &err);
    CHECK_STATUS(ot_insertion_open(&insertions[0], model, "x", parent->path, NULL, 0, NULL, &err), OT_ERR_MISMATCH, &err);
    CHECK(insertions[0] == NULL);
    ot_model_close(&model);
    REQUIRE_OK(ot_model_open(&model, stacked->model_path, &err), &err);
    CHECK(ot_insertion_open(&insertions[0], model, "x", child->path, NULL, 0, NULL, &err) != OT_OK);
    CHECK_CONTAINS(err.message, "full");
    CHECK(insertions[0] == NULL);
    close_files();
}

/* Runs the generator, which does nothing where its files are up to date. Its exit status. */
static int make_files(const char *folder)
{
    char command[700];
    const char *python = getenv("OTTER_TEST_PYTHON");
    snprintf(command, sizeof command, "'%s' tests/golden/make_golden.py '%s'", python != NULL ? python : "python3", folder);
    fflush(stdout);
    const int status = system(command);
    return status != -1 && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int main(int argc, char **argv)
{
    char folder[512];
    const char *build = getenv("BUILD");
    snprintf(folder, sizeof folder, "%s/golden", build != NULL && build[0] != '\0' ? build : "build");
    const int made = make_files(folder);
    if (made == 77)
        return ot_test_skip("make_golden.py needs NumPy");
    ot_test_start(argc, argv);
    if (!CHECK_INT(made, 0) || !CHECK(ot_golden_read_manifest(&manifest, folder)))
        return ot_test_finish();
    for (uint32_t i = 0; i < manifest.n_cases; i++) {
        current = &manifest.cases[i];
        ot_test_run(current->name, run_case);
    }
    RUN(refuses_what_does_not_belong);
    return ot_test_finish();
}
