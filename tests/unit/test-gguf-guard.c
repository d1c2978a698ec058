/* A file that is cut short or overwritten while it is mapped: reads past its end give zeros, the damage is known, other files and other faults are not touched. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/engine.h"
#include "gguf/gguf.h"
#include "tests/support/kv-units.h"
#include "tests/support/test-support.h"
#include "tests/support/tiny-model.h"

static const char *path_of(const char *name)
{
    return ot_test_temp_path(name);
}

static bool write_model(const char *name)
{
    ot_error err = {0};
    const ot_tiny_model_options o = ot_tiny_model_defaults();
    return CHECK_OK(ot_tiny_model_write(path_of(name), &o, &err), &err);
}

static uint64_t sum_of_all(const ot_gguf *g)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < ot_gguf_tensor_count(g); i++) {
        const ot_tensor *t = ot_gguf_tensor_at(g, i);
        for (size_t b = 0; b < t->bytes; b++)
            sum += t->data[b];
    }
    return sum;
}

static void reads_past_the_new_end_are_zeros(void)
{
    ot_error err = {0};
    ot_gguf *cut = NULL, *whole = NULL;
    REQUIRE(write_model("cut.gguf") && write_model("whole.gguf"));
    for (int round = 0; round < 2; round++) { /* the second time in an entry that was used before */
        REQUIRE(write_model("cut.gguf"));
        REQUIRE_OK(ot_gguf_open(&cut, path_of("cut.gguf"), &err), &err);
        REQUIRE_OK(ot_gguf_open(&whole, path_of("whole.gguf"), &err), &err);
        const uint64_t before = sum_of_all(whole);
        CHECK_UINT(sum_of_all(cut), before);
        CHECK(!ot_gguf_is_damaged(cut));
        CHECK_OK(ot_gguf_check(cut, &err), &err);
        REQUIRE(truncate(path_of("cut.gguf"), 64) == 0);
        CHECK_UINT(sum_of_all(cut), 0);
        CHECK(ot_gguf_is_damaged(cut));
        CHECK_STATUS(ot_gguf_check(cut, &err), OT_ERR_IO, &err);
        CHECK_CONTAINS(err.message, "cut.gguf");
        CHECK_UINT(sum_of_all(whole), before);
        CHECK(!ot_gguf_is_damaged(whole));
        ot_gguf_close(&cut);
        ot_gguf_close(&whole);
    }
}

static ot_status forward(const ot_model *model, ot_error *err)
{
    ot_engine *engine = NULL;
    ot_engine_options o;
    ot_engine_options_default(&o);
    o.n_threads = 1;
    o.max_rows = 16;
    o.max_context = OT_PAGE_TOKENS;
    ot_status st = ot_engine_open(&engine, model, &o, err);
    if (st != OT_OK)
        return st;
    ot_test_kv kv = {0};
    st = ot_test_kv_open(&kv, model, o.kv_type, NULL, 0, OT_PAGE_TOKENS, 1);
    const ot_row row = {.token = 5, .n_prefix = 1, .flags = OT_ROW_OUTPUT};
    const ot_batch batch = {.n_rows = 1, .rows = &row, .n_sequences = 1, .sequences = &kv.view};
    if (st == OT_OK)
        st = ot_engine_forward(engine, &batch, err);
    ot_engine_close(&engine);
    ot_test_kv_close(&kv);
    return st;
}

static void a_step_that_read_zeros_fails(void)
{
    ot_error err = {0};
    ot_model *model = NULL;
    REQUIRE(write_model("model.gguf"));
    REQUIRE_OK(ot_model_open(&model, path_of("model.gguf"), &err), &err);
    CHECK_OK(forward(model, &err), &err);
    REQUIRE(truncate(path_of("model.gguf"), 64) == 0);
    CHECK_STATUS(forward(model, &err), OT_ERR_IO, &err);
    CHECK_CONTAINS(err.message, "model.gguf");
    ot_model_close(&model);
}

/* `cp other.gguf model.gguf`: as many bytes, no signal. */
static void a_step_on_an_overwritten_file_fails(void)
{
    ot_error err = {0};
    ot_model *model = NULL;
    REQUIRE(write_model("model.gguf"));
    REQUIRE_OK(ot_model_open(&model, path_of("model.gguf"), &err), &err);
    CHECK_OK(forward(model, &err), &err);
    /* Renaming another over it is how it should be done: the old one stays as it was for whoever has it open. */
    REQUIRE(write_model("next.gguf") && rename(path_of("next.gguf"), path_of("model.gguf")) == 0);
    CHECK_OK(forward(model, &err), &err);
    ot_model_close(&model);
    REQUIRE_OK(ot_model_open(&model, path_of("model.gguf"), &err), &err);
    usleep(20000); /* file systems tell times to a tick of the kernel, 10 ms at most */
    FILE *f = fopen(path_of("model.gguf"), "r+b");
    REQUIRE(f != NULL);
    CHECK(fseek(f, -64, SEEK_END) == 0 && fputc('x', f) == 'x');
    fclose(f);
    CHECK_STATUS(forward(model, &err), OT_ERR_IO, &err);
    CHECK_CONTAINS(err.message, "model.gguf");
    CHECK_CONTAINS(err.message, "overwritten");
    CHECK_STATUS(ot_model_check(model, &err), OT_ERR_IO, &err);
    ot_model_close(&model);
    REQUIRE_OK(ot_model_open(&model, path_of("model.gguf"), &err), &err);
    CHECK_OK(forward(model, &err), &err);
    ot_model_close(&model);
}

/* What is no mapping of ours ends the process as it always did. */
static void other_bus_errors_are_left_alone(void)
{
    ot_error err = {0};
    ot_gguf *g = NULL;
    REQUIRE(write_model("guarded.gguf") && write_model("other.gguf"));
    REQUIRE_OK(ot_gguf_open(&g, path_of("guarded.gguf"), &err), &err);
    for (int sent = 0; sent < 2; sent++) {
        const pid_t child = fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            FILE *f = fopen(path_of("other.gguf"), "rb");
            const volatile char *bytes = mmap(NULL, 1 << 16, PROT_READ, MAP_PRIVATE, fileno(f), 0);
            if (sent)
                raise(SIGBUS);
            else if (truncate(path_of("other.gguf"), 0) == 0)
                (void)bytes[5000];
            _exit(0);
        }
        int status = 0;
        REQUIRE(waitpid(child, &status, 0) == child);
        ot_test_context("%s", sent ? "sent" : "raised");
        CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == SIGBUS : WEXITSTATUS(status) != 0); /* a sanitizer exits */
        ot_test_context(NULL);
    }
    CHECK(!ot_gguf_is_damaged(g));
    ot_gguf_close(&g);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(reads_past_the_new_end_are_zeros);
    RUN(a_step_that_read_zeros_fails);
    RUN(a_step_on_an_overwritten_file_fails);
    RUN(other_bus_errors_are_left_alone);
    return ot_test_finish();
}
