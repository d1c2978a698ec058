/* Models in several files: the parts are one model, tensor for tensor and with one fingerprint, and parts that do not belong together are
 * refused by name. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gguf/gguf.h"
#include "tests/support/test-support.h"

#define N_PARTS 3
#define N_TENSORS 7
#define N_FLOATS 96

static ot_error err;
static float values[N_TENSORS][N_FLOATS];

typedef struct split {
    uint32_t count, stated_tensors;
    uint32_t number[N_PARTS];
    const char *twice; /* a tensor that every part has; NULL: none */
} split;

static const split sound = {N_PARTS, N_TENSORS, {0, 1, 2}, NULL};

static void put_tensors(ot_gguf_writer *w, uint32_t first, uint32_t end)
{
    const uint64_t dims[1] = {N_FLOATS};
    char name[16];
    for (uint32_t t = first; t < end; t++) {
        snprintf(name, sizeof name, "tensor.%u", t);
        CHECK_OK(ot_gguf_put_tensor(w, name, OT_TYPE_F32, 1, dims, values[t], &err), &err);
    }
}

static void part_path(char path[512], uint32_t i)
{
    char name[64];
    snprintf(name, sizeof name, "model-%05u-of-%05u.gguf", i + 1, N_PARTS);
    snprintf(path, 512, "%s", ot_test_temp_path(name));
}

/* The first part has keys and no tensors, as gguf-split writes it; the others share them. */
static void write_parts(const split *s)
{
    const uint64_t dims[1] = {N_FLOATS};
    for (uint32_t i = 0; i < N_PARTS; i++) {
        ot_gguf_writer *w;
        char path[512];
        part_path(path, i);
        REQUIRE_OK(ot_gguf_writer_open(&w, &err), &err);
        CHECK_OK(ot_gguf_put_u32(w, "split.count", s->count), &err);
        CHECK_OK(ot_gguf_put_u32(w, "split.no", s->number[i]), &err);
        CHECK_OK(ot_gguf_put_u32(w, "split.tensors.count", s->stated_tensors), &err);
        if (i == 0)
            CHECK_OK(ot_gguf_put_str(w, "general.name", "parts"), &err);
        put_tensors(w, i == 0 ? 0 : i == 1 ? 0 : 4, i == 0 ? 0 : i == 1 ? 4 : N_TENSORS);
        if (s->twice != NULL && i > 0)
            CHECK_OK(ot_gguf_put_tensor(w, s->twice, OT_TYPE_F32, 1, dims, values[0], &err), &err);
        REQUIRE_OK(ot_gguf_write(w, path, &err), &err);
        ot_gguf_writer_close(&w);
    }
}

static void write_whole(const char *path)
{
    ot_gguf_writer *w;
    REQUIRE_OK(ot_gguf_writer_open(&w, &err), &err);
    put_tensors(w, 0, N_TENSORS);
    REQUIRE_OK(ot_gguf_write(w, path, &err), &err);
    ot_gguf_writer_close(&w);
}

static void parts_are_one_model(void)
{
    char first[512], of_parts[65], of_whole[65];
    ot_gguf *g = NULL, *whole = NULL;
    part_path(first, 0);
    write_parts(&sound);
    write_whole(ot_test_temp_path("whole.gguf"));
    REQUIRE_OK(ot_gguf_open(&g, first, &err), &err);
    REQUIRE_OK(ot_gguf_open(&whole, ot_test_temp_path("whole.gguf"), &err), &err);
    CHECK_UINT(ot_gguf_tensor_count(g), N_TENSORS);
    CHECK(ot_gguf_has(g, "general.name"));
    for (uint32_t t = 0; t < N_TENSORS; t++) {
        char name[16];
        snprintf(name, sizeof name, "tensor.%u", t);
        const ot_tensor *tensor = ot_gguf_tensor(g, name);
        if (CHECK(tensor != NULL && tensor->bytes == sizeof values[t]))
            CHECK_BYTES(tensor->data, tensor->bytes, values[t], sizeof values[t]);
    }
    ot_gguf_fingerprint(g, of_parts);
    ot_gguf_fingerprint(whole, of_whole);
    CHECK_STR(of_parts, of_whole);
    CHECK(ot_gguf_file_bytes(g) > ot_gguf_file_bytes(whole));
    ot_gguf_drop_pages(g);
    CHECK_BYTES(ot_gguf_tensor(g, "tensor.5")->data, sizeof values[5], values[5], sizeof values[5]);
    ot_gguf_close(&whole);
    ot_gguf_close(&g);
}

/* Damage of a part is damage of the model. */
static void a_part_that_is_cut_short_is_noticed(void)
{
    char first[512], last[512];
    ot_gguf *g = NULL;
    part_path(first, 0), part_path(last, 2);
    write_parts(&sound);
    REQUIRE_OK(ot_gguf_open(&g, first, &err), &err);
    CHECK_OK(ot_gguf_check(g, &err), &err);
    REQUIRE(truncate(last, 10) == 0);
    CHECK_STATUS(ot_gguf_check(g, &err), OT_ERR_IO, &err);
    CHECK_CONTAINS(err.message, "model-00003-of-00003.gguf");
    ot_gguf_close(&g);
}

static void expect_refusal(const char *path, ot_status status, const char *cause, const char *more)
{
    ot_gguf *g = (ot_gguf *)&err;
    ot_test_context("%s", cause);
    CHECK_STATUS(ot_gguf_open(&g, path, &err), status, &err);
    CHECK(g == NULL);
    CHECK_CONTAINS(err.message, cause);
    CHECK_CONTAINS(err.message, more);
}

static void parts_that_do_not_belong_are_refused(void)
{
    char first[512], second[512];
    part_path(first, 0), part_path(second, 1);
    split s = sound;
    s.stated_tensors = 9;
    write_parts(&s);
    expect_refusal(first, OT_ERR_FORMAT, "'split.tensors.count' is 9", "have 7 tensors");
    s = sound;
    s.number[2] = 1;
    write_parts(&s);
    expect_refusal(first, OT_ERR_FORMAT, "expected 3 of 3", "model-00003-of-00003.gguf");
    s = sound;
    s.count = 4; /* the name says 3 */
    write_parts(&s);
    expect_refusal(first, OT_ERR_FORMAT, "must end with -00001-of-00004.gguf", "first of 4 parts");
    s = sound;
    s.twice = "again";
    s.stated_tensors = N_TENSORS + 2;
    write_parts(&s);
    expect_refusal(first, OT_ERR_FORMAT, "tensor 'again' appears in two of its parts", "model-00001");
    write_parts(&sound);
    expect_refusal(second, OT_ERR_FORMAT, "part 2 of 3; open the first part", "-00001-of-00003.gguf");
    REQUIRE(unlink(second) == 0);
    expect_refusal(first, OT_ERR_IO, "model-00002-of-00003.gguf", "cannot be opened");
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    ot_test_rng rng = {.state = 5};
    for (uint32_t t = 0; t < N_TENSORS; t++)
        for (uint32_t i = 0; i < N_FLOATS; i++)
            values[t][i] = ot_test_rng_float(&rng, -1.0f, 1.0f);
    RUN(parts_are_one_model);
    RUN(a_part_that_is_cut_short_is_noticed);
    RUN(parts_that_do_not_belong_are_refused);
    return ot_test_finish();
}
