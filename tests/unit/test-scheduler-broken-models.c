/* Models that are not what they should be: weights that are not finite, a draft model's file cut short while it is mapped. A request that
 * such a base cannot serve ends with an error; a draft model only ever guesses, so no text may show that it is broken. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/scheduler-fixture.h"
#include "tests/support/test-support.h"
#include "tests/support/tiny-model.h"

static int32_t prompt[40];
static ot_result results[3];

static ot_status write_model(const char *file, ot_type type, const char *spoilt, ot_error *err)
{
    ot_tiny_model_options o = ot_tiny_model_defaults(); /* with these, the fixture's weights */
    o.separate_output = true;
    o.type = o.embd_type = type;
    o.spoilt = spoilt;
    return ot_tiny_model_write(ot_test_temp_path(file), &o, err);
}

static void a_vector_that_is_not_finite_is_refused_at_load(void)
{
    static const char *const names[] = {"output_norm.weight", "blk.1.ffn_norm.weight"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        ot_error err = {0};
        ot_model *model = NULL;
        REQUIRE_OK(write_model("vector.gguf", OT_TYPE_F32, names[i], &err), &err);
        CHECK_STATUS(ot_model_open(&model, ot_test_temp_path("vector.gguf"), &err), OT_ERR_FORMAT, &err);
        CHECK_CONTAINS(err.message, names[i]);
        CHECK_CONTAINS(err.message, "vector.gguf");
        ot_model_close(&model);
    }
}

/* What is read from logits: alternatives, the prompt's log-probabilities, the first tokens of several choices. */
static void check_requests_fail(ot_scheduler *s)
{
    ot_fixture_prompt(5, prompt, 40);
    for (uint32_t way = 0; way < 4; way++) {
        ot_test_context("way %u", way);
        ot_request_params p = ot_fixture_params(prompt, 40, way == 0 ? 0 : 10);
        p.prompt_logprobs = way < 2;
        p.top_logprobs = way == 2 ? 0 : 5;
        p.n_choices = way == 3 ? 3 : 1;
        p.sampling.temperature = way == 3 ? 1 : 0;
        ot_request *r = ot_fixture_submit(s, &p);
        REQUIRE(r != NULL);
        CHECK(ot_fixture_finish(s, &r, 1, p.n_choices, results));
        for (uint32_t i = 0; i < p.n_choices; i++) {
            CHECK_INT(results[i].finish, OT_FINISH_ERROR);
            CHECK_UINT(results[i].n, 0);
        }
        CHECK_INT(ot_request_error(r)->code, OT_ERR_IO);
        CHECK_CONTAINS(ot_request_error(r)->message, "non-finite logits");
        ot_request_release(&r);
        CHECK(ot_fixture_is_clean(s));
    }
    ot_test_context(NULL);
}

static void a_base_whose_logits_are_no_numbers_fails_its_requests(void)
{
    static const char *const names[] = {"blk.1.ffn_down.weight", "output.weight"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        ot_error err = {0};
        ot_model *model = NULL;
        ot_scheduler *s = NULL;
        const ot_scheduler_options o = ot_fixture_options();
        REQUIRE_OK(write_model("base.gguf", OT_TYPE_F32, names[i], &err), &err);
        REQUIRE_OK(ot_model_open(&model, ot_test_temp_path("base.gguf"), &err), &err);
        if (CHECK_OK(ot_scheduler_open(&s, model, NULL, &o, &err), &err))
            check_requests_fail(s);
        ot_scheduler_close(&s);
        ot_model_close(&model);
    }
}

/* ---- Draft models -------------------------------------------------------------------------------------------- */

typedef struct bench {
    ot_heads *heads;
    ot_scheduler *scheduler;
} bench;

/* The fixture's base with one draft model, "guesser". */
static bool open_bench(bench *b, const char *file)
{
    const ot_insertion_options options = {false};
    ot_scheduler_options o = ot_fixture_options();
    ot_error err = {0};
    *b = (bench){NULL, NULL};
    o.kv_memory_bytes *= 2;
    return ot_fixture_get() != NULL && CHECK_OK(ot_heads_open(&b->heads, ot_fixture_get()->model, 4, &err), &err) &&
           CHECK_OK(ot_heads_load_model(b->heads, "guesser", OT_ROLE_DRAFT_MODEL, ot_test_temp_path(file), NULL, &options, &err), &err) &&
           CHECK_OK(ot_scheduler_open(&b->scheduler, ot_fixture_get()->model, b->heads, &o, &err), &err);
}

static void close_bench(bench *b)
{
    ot_scheduler_close(&b->scheduler);
    ot_heads_close(&b->heads);
}

/* Guesses that came to be checked. */
static uint32_t count_guesses(bench *b, ot_result *result)
{
    ot_error err = {0};
    uint32_t output;
    ot_fixture_prompt(61, prompt, 20);
    ot_request_params p = ot_fixture_params(prompt, 20, 100);
    if (result != &results[0]) {
        CHECK_OK(ot_heads_find(b->heads, "guesser", &p.intervention.drafting.head, &output, &err), &err);
        p.intervention.drafting.max_draft = 5;
    }
    ot_request *r = ot_fixture_submit(b->scheduler, &p);
    if (r == NULL || !ot_fixture_finish(b->scheduler, &r, 1, 1, result))
        return 0;
    const ot_request_usage usage = ot_request_get_usage(r);
    ot_request_release(&r);
    CHECK(ot_fixture_is_clean(b->scheduler));
    return usage.accepted_prediction_tokens + usage.rejected_prediction_tokens;
}

/* As cheap as the sound one beside it, so that it would be asked. */
static void a_draft_model_without_numbers_guesses_nothing(void)
{
    ot_error err = {0};
    bench b;
    REQUIRE_OK(write_model("numbers.gguf", OT_TYPE_Q8_0, "output.weight", &err), &err);
    if (open_bench(&b, "numbers.gguf")) {
        CHECK_UINT(count_guesses(&b, &results[0]), 0);
        CHECK_UINT(count_guesses(&b, &results[1]), 0);
        ot_check_same_result(&results[1], &results[0], 0, "with a draft model without numbers");
    }
    close_bench(&b);
}

static void a_draft_model_cut_short_guesses_nothing_more(void)
{
    ot_error err = {0};
    bench b;
    REQUIRE_OK(write_model("cut.gguf", OT_TYPE_Q8_0, NULL, &err), &err);
    if (open_bench(&b, "cut.gguf")) {
        CHECK_UINT(count_guesses(&b, &results[0]), 0);
        CHECK(count_guesses(&b, &results[1]) > 20);
        ot_check_same_result(&results[1], &results[0], 0, "with a sound file");
        REQUIRE(truncate(ot_test_temp_path("cut.gguf"), 4096) == 0);
        for (int i = 0; i < 2; i++) {
            CHECK_UINT(count_guesses(&b, &results[2]), 0);
            ot_check_same_result(&results[2], &results[0], 0, "with the file cut short");
        }
    }
    close_bench(&b);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(a_vector_that_is_not_finite_is_refused_at_load);
    RUN(a_base_whose_logits_are_no_numbers_fails_its_requests);
    RUN(a_draft_model_without_numbers_guesses_nothing);
    RUN(a_draft_model_cut_short_guesses_nothing_more);
    ot_fixture_close();
    return ot_test_finish();
}
