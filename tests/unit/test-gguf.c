/* GGUF files: what a sound one gives, how each kind of unsound one is refused, and what the writer makes.
 *
 * Unsound files are laid out byte by byte. Each refusal is held to naming the file, the key or tensor, and the offset. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gguf/gguf.h"
#include "tests/support/gguf-bytes.h"
#include "tests/support/test-support.h"
#include "tests/support/tiny-model.h"

static gguf_bytes file;

/* Begins a new file in `file`. */
static void start(uint64_t n_tensors, uint64_t n_keys)
{
    file.size = 0;
    file.overrun = false;
    gguf_bytes_header(&file, 3, n_tensors, n_keys);
}

/* Opens `file` and expects a refusal whose message contains `item`, `cause` and " at byte " with the offset. */
static void expect_refusal(ot_status status, const char *item, size_t at, const char *cause)
{
    char where[32];
    ot_error err = {0};
    ot_gguf *gguf = (ot_gguf *)&err; /* must become NULL */
    CHECK(!file.overrun);
    CHECK_STATUS(ot_gguf_open_memory(&gguf, file.bytes, file.size, "bad.gguf", &err), status, &err);
    CHECK(gguf == NULL);
    snprintf(where, sizeof where, " at byte %zu: ", at);
    CHECK_CONTAINS(err.message, "bad.gguf: ");
    CHECK_CONTAINS(err.message, item);
    CHECK_CONTAINS(err.message, where);
    CHECK_CONTAINS(err.message, cause);
    CHECK_INT(err.code, status);
}

static ot_gguf *open_bytes(void)
{
    ot_error err = {0};
    ot_gguf *gguf = NULL;
    CHECK(!file.overrun);
    CHECK_OK(ot_gguf_open_memory(&gguf, file.bytes, file.size, "good.gguf", &err), &err);
    return gguf;
}

/* ---- Sound files ---- */

static void sample_gives_its_values(void)
{
    ot_gguf_array array = {0};
    ot_error err;
    uint32_t u = 0;
    float f = 0;
    bool b = false;
    ot_str s = {0};
    gguf_bytes_sample(&file);
    ot_gguf *g = open_bytes();
    REQUIRE(g != NULL);
    CHECK_STR(ot_gguf_path(g), "good.gguf");
    CHECK_UINT(ot_gguf_version(g), 3);
    CHECK_UINT(ot_gguf_file_bytes(g), file.size);
    CHECK_UINT(ot_gguf_key_count(g), 19);
    CHECK_OK(ot_gguf_get_u32(g, "v.u8", &u, &err), &err);
    CHECK_UINT(u, 200);
    CHECK_OK(ot_gguf_get_u32(g, "v.u16", &u, &err), &err);
    CHECK_UINT(u, 60000);
    CHECK_OK(ot_gguf_get_u32(g, "v.u32", &u, &err), &err);
    CHECK_UINT(u, 4000000000u);
    CHECK_OK(ot_gguf_get_f32(g, "v.f32", &f, &err), &err);
    CHECK_NEAR(f, 1e-5f, 0);
    CHECK_OK(ot_gguf_get_f32(g, "v.f64", &f, &err), &err);
    CHECK_NEAR(f, 0.1f, 0);
    CHECK_OK(ot_gguf_get_bool(g, "v.bool", &b, &err), &err);
    CHECK(b);
    CHECK_OK(ot_gguf_get_str(g, "general.architecture", &s, &err), &err);
    CHECK_BYTES(s.data, s.size, "llama", 5);
    CHECK_OK(ot_gguf_get_array(g, "a.string", &array, &err), &err);
    CHECK_UINT(array.count, 3);
    s = ot_gguf_array_str(&array, 2);
    CHECK_BYTES(s.data, s.size, "three", 5);
    CHECK_UINT(ot_gguf_array_str(&array, 1).size, 0);
    CHECK_OK(ot_gguf_get_array(g, "a.i16", &array, &err), &err);
    CHECK_INT(ot_gguf_array_int(&array, 1), -1);
    CHECK_NEAR(ot_gguf_array_num(&array, 2), 7, 0);
    CHECK_OK(ot_gguf_get_array(g, "a.f32", &array, &err), &err);
    CHECK_NEAR(ot_gguf_array_num(&array, 1), -2, 0);
    CHECK_OK(ot_gguf_get_array(g, "a.empty", &array, &err), &err);
    CHECK_UINT(array.count, 0);
    ot_gguf_close(&g);
    CHECK(g == NULL);
    ot_gguf_close(&g);
}

static void getters_refuse_other_values(void)
{
    static const char *const not_u32[] = {"v.i8", "v.i16", "v.i32", "v.i64", "v.u64", "v.f32", "v.string", "a.i16"};
    static const char *const not_f32[] = {"v.u32", "v.string", "v.bool", "a.f32"};
    ot_error err = {0};
    uint32_t u = 7;
    float f = 7;
    bool b = true;
    ot_str s = {"x", 1};
    ot_gguf_array array = {.count = 7};
    gguf_bytes_sample(&file);
    ot_gguf *g = open_bytes();
    REQUIRE(g != NULL);
    for (size_t i = 0; i < sizeof not_u32 / sizeof not_u32[0]; i++) {
        CHECK_STATUS(ot_gguf_get_u32(g, not_u32[i], &u, &err), OT_ERR_FORMAT, &err);
        CHECK_CONTAINS(err.message, not_u32[i]);
        CHECK_CONTAINS(err.message, "good.gguf: key '");
        CHECK_CONTAINS(err.message, " at byte ");
    }
    for (size_t i = 0; i < sizeof not_f32 / sizeof not_f32[0]; i++)
        CHECK_STATUS(ot_gguf_get_f32(g, not_f32[i], &f, &err), OT_ERR_FORMAT, &err);
    CHECK_STATUS(ot_gguf_get_bool(g, "v.u8", &b, &err), OT_ERR_FORMAT, &err);
    CHECK_STATUS(ot_gguf_get_str(g, "v.u8", &s, &err), OT_ERR_FORMAT, &err);
    CHECK_STATUS(ot_gguf_get_array(g, "v.string", &array, &err), OT_ERR_FORMAT, &err);
    CHECK(!ot_gguf_has(g, "v.nothing"));
    CHECK_STATUS(ot_gguf_get_u32(g, "v.nothing", &u, &err), OT_ERR_NOT_FOUND, &err);
    CHECK_STR(err.param, "v.nothing");
    CHECK_STATUS(ot_gguf_get_array(g, "", &array, NULL), OT_ERR_NOT_FOUND, &err);
    CHECK(u == 7 && f == 7 && b && s.size == 1 && array.count == 7);
    ot_gguf_close(&g);
}

static void floats_must_be_finite(void)
{
    ot_error err;
    float f = 7;
    start(0, 3);
    gguf_bytes_key(&file, "nan", OT_GGUF_F32), gguf_bytes_f32(&file, NAN);
    gguf_bytes_key(&file, "inf", OT_GGUF_F64), gguf_bytes_f64(&file, -INFINITY);
    gguf_bytes_key(&file, "large", OT_GGUF_F64), gguf_bytes_f64(&file, 1e300);
    ot_gguf *g = open_bytes();
    REQUIRE(g != NULL);
    CHECK_STATUS(ot_gguf_get_f32(g, "nan", &f, &err), OT_ERR_FORMAT, &err);
    CHECK_CONTAINS(err.message, "nan is not a finite float");
    CHECK_STATUS(ot_gguf_get_f32(g, "inf", &f, &err), OT_ERR_FORMAT, &err);
    CHECK_STATUS(ot_gguf_get_f32(g, "large", &f, &err), OT_ERR_FORMAT, &err);
    CHECK_NEAR(f, 7, 0);
    ot_gguf_close(&g);
}

static void values_as_text(void)
{
    static const struct { const char *key, *text; } cases[] = {
        {"general.architecture", "llama"}, {"v.u8", "200"}, {"v.i8", "-56"}, {"v.u16", "60000"}, {"v.i16", "-5536"},
        {"v.u32", "4000000000"}, {"v.i32", "-294967296"}, {"v.f32", "1e-05"}, {"v.bool", "true"},
        {"v.string", "caf\xc3\xa9\\n\\x1b[31m\\xff"}, {"v.u64", "9223372036854775808"}, {"v.i64", "-1"}, {"v.f64", "0.1"},
        {"general.alignment", "64"}, {"a.string", "[3] one, , three"}, {"a.i16", "[3] 1, -1, 7"}, {"a.f32", "[2] 1.5, -2"},
        {"a.bool", "[2] false, true"}, {"a.empty", "[0]"}};
    char text[80];
    gguf_bytes_sample(&file);
    ot_gguf *g = open_bytes();
    REQUIRE(g != NULL);
    for (uint64_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const ot_str name = ot_gguf_key_name(g, i, NULL);
        CHECK_BYTES(name.data, name.size, cases[i].key, strlen(cases[i].key));
        CHECK_STR(ot_gguf_key_text(g, i, text, sizeof text), cases[i].text);
    }
    /* Cut between characters, never within one: "caf" and a two-byte letter need six bytes with the zero. */
    CHECK_STR(ot_gguf_key_text(g, 9, text, 5), "caf");
    CHECK_STR(ot_gguf_key_text(g, 9, text, 6), "caf\xc3\xa9");
    CHECK_STR(ot_gguf_key_text(g, 9, text, 7), "caf\xc3\xa9");
    CHECK_STR(ot_gguf_key_text(g, 0, text, 1), "");
    ot_gguf_close(&g);
}

static void tensors_are_where_they_are_said_to_be(void)
{
    gguf_bytes_sample(&file);
    ot_gguf *g = open_bytes();
    REQUIRE(g != NULL);
    CHECK_UINT(ot_gguf_tensor_count(g), 9);
    const ot_tensor *first = ot_gguf_tensor_at(g, 0), *last = ot_gguf_tensor(g, "t8");
    REQUIRE(last != NULL);
    CHECK(ot_gguf_tensor(g, "t0") == first);
    CHECK(ot_gguf_tensor(g, "t") == NULL && ot_gguf_tensor(g, "t9") == NULL && ot_gguf_tensor(g, "t00") == NULL);
    CHECK_UINT((size_t)(first->data - file.bytes) % 64, 0);
    CHECK_UINT(first->data[0], 11);
    CHECK_UINT(first->bytes, 128);
    CHECK_INT(last->type, OT_TYPE_Q6_K);
    CHECK_UINT(last->n_dims, 2);
    CHECK(last->dims[0] == 256 && last->dims[1] == 1 && last->dims[2] == 1 && last->dims[3] == 1);
    CHECK_UINT(last->bytes, 210);
    CHECK(last->data + last->bytes <= file.bytes + file.size);
    ot_gguf_close(&g);
}

static void version_2_and_vocabulary_only_files_open(void)
{
    ot_gguf_array array;
    ot_error err;
    file.size = 0;
    gguf_bytes_header(&file, 2, 0, 1);
    gguf_bytes_array(&file, "tokenizer.ggml.tokens", OT_GGUF_STRING, 2);
    gguf_bytes_str(&file, "a"), gguf_bytes_str(&file, "b"); /* and no padding after the directory */
    ot_gguf *g = open_bytes();
    REQUIRE(g != NULL);
    CHECK_UINT(ot_gguf_version(g), 2);
    CHECK_UINT(ot_gguf_tensor_count(g), 0);
    CHECK_OK(ot_gguf_get_array(g, "tokenizer.ggml.tokens", &array, &err), &err);
    CHECK_UINT(array.count, 2);
    ot_gguf_close(&g);
}

/* Sized types that the engine cannot compute with are for inspection; whoever uses them asks ot_type_known. */
static void sized_but_unknown_types_open(void)
{
    start(1, 0);
    gguf_bytes_tensor(&file, "t", 16 /* IQ2_XXS */, 256, 1, 0);
    gguf_bytes_pad(&file, 32);
    for (int i = 0; i < 66; i++)
        gguf_bytes_u8(&file, 0);
    ot_gguf *g = open_bytes();
    REQUIRE(g != NULL);
    CHECK_UINT(ot_gguf_tensor_at(g, 0)->bytes, 66);
    CHECK(!ot_type_known((uint32_t)ot_gguf_tensor_at(g, 0)->type));
    ot_gguf_close(&g);
}

/* ---- Refusals ---- */

static void refuses_bad_headers(void)
{
    start(0, 0);
    file.size = 23;
    expect_refusal(OT_ERR_FORMAT, "header", 0, "too short");
    file.size = 0;
    expect_refusal(OT_ERR_FORMAT, "header", 0, "too short");
    start(0, 0);
    file.bytes[0] = 'X';
    expect_refusal(OT_ERR_FORMAT, "header", 0, "not a GGUF file");
    start(0, 0);
    file.bytes[4] = 1;
    expect_refusal(OT_ERR_UNSUPPORTED, "header", 4, "version 1 is not supported");
    memcpy(file.bytes + 4, "\0\0\0\3", 4);
    expect_refusal(OT_ERR_UNSUPPORTED, "header", 4, "big-endian");
    start(1ull << 40, 0);
    expect_refusal(OT_ERR_FORMAT, "header", 8, "tensor count");
    start(0, ~0ull);
    expect_refusal(OT_ERR_FORMAT, "header", 16, "key count");
    start(0, 1000);
    expect_refusal(OT_ERR_FORMAT, "header", 24, "the number of keys (1000 of");
    start(1000, 0);
    expect_refusal(OT_ERR_FORMAT, "header", 24, "the number of tensors (1000 of");
}

static void refuses_bad_keys(void)
{
    start(0, 1);
    gguf_bytes_key(&file, "k", (ot_gguf_type)13), gguf_bytes_u64(&file, 0);
    expect_refusal(OT_ERR_FORMAT, "key 'k'", 33, "value type 13 is not known");
    start(0, 1);
    gguf_bytes_array(&file, "k", OT_GGUF_ARRAY, 1), gguf_bytes_u64(&file, 0), gguf_bytes_u64(&file, 0);
    expect_refusal(OT_ERR_UNSUPPORTED, "key 'k'", 37, "array of arrays");
    start(0, 1);
    gguf_bytes_key(&file, "k", OT_GGUF_BOOL), gguf_bytes_u8(&file, 2);
    expect_refusal(OT_ERR_FORMAT, "key 'k'", 37, "expected a boolean of 0 or 1");
    start(0, 1);
    gguf_bytes_array(&file, "k", OT_GGUF_BOOL, 3);
    gguf_bytes_u8(&file, 1), gguf_bytes_u8(&file, 0), gguf_bytes_u8(&file, 255);
    expect_refusal(OT_ERR_FORMAT, "key 'k'", 51, "expected a boolean of 0 or 1");
    start(0, 1);
    gguf_bytes_key(&file, "k", OT_GGUF_STRING), gguf_bytes_u64(&file, 1ull << 60);
    expect_refusal(OT_ERR_FORMAT, "key 'k'", 37, "claims 1152921504606846976 bytes, only 0 are left");
    start(0, 1);
    gguf_bytes_array(&file, "k", OT_GGUF_F64, 1ull << 61), gguf_bytes_u64(&file, 0);
    expect_refusal(OT_ERR_FORMAT, "key 'k'", 49, "2305843009213693952 of 8 bytes each");
    start(0, 1);
    gguf_bytes_array(&file, "k", OT_GGUF_STRING, ~0ull), gguf_bytes_u64(&file, 0);
    expect_refusal(OT_ERR_FORMAT, "key 'k'", 49, "the array of strings");
    start(0, 1);
    gguf_bytes_array(&file, "k", OT_GGUF_STRING, 2), gguf_bytes_str(&file, "fine"), gguf_bytes_u64(&file, 9);
    expect_refusal(OT_ERR_FORMAT, "key 'k'", 61, "claims 9 bytes");
    start(0, 1);
    gguf_bytes_u64(&file, 99), gguf_bytes_u64(&file, 0);
    expect_refusal(OT_ERR_FORMAT, "key number 0", 24, "the name claims 99 bytes");
    start(0, 1);
    gguf_bytes_key(&file, "", OT_GGUF_U64), gguf_bytes_u64(&file, 0);
    expect_refusal(OT_ERR_FORMAT, "key number 0", 24, "the name is empty");
    start(0, 1);
    gguf_bytes_key(&file, "a\nb", OT_GGUF_U64), gguf_bytes_u64(&file, 0);
    expect_refusal(OT_ERR_FORMAT, "key number 0", 24, "control characters");
}

static void refuses_duplicates(void)
{
    start(0, 3);
    gguf_bytes_key(&file, "twin", OT_GGUF_U32), gguf_bytes_u32(&file, 1);
    gguf_bytes_key(&file, "other", OT_GGUF_U32), gguf_bytes_u32(&file, 1);
    size_t second = file.size + 8;
    gguf_bytes_key(&file, "twin", OT_GGUF_U8), gguf_bytes_u8(&file, 1);
    expect_refusal(OT_ERR_FORMAT, "key 'twin'", second, "appears twice");
    start(2, 0);
    gguf_bytes_tensor(&file, "t", OT_TYPE_F32, 1, 1, 0);
    second = file.size + 8;
    gguf_bytes_tensor(&file, "t", OT_TYPE_F32, 1, 1, 32);
    gguf_bytes_pad(&file, 32);
    gguf_bytes_u64(&file, 0);
    expect_refusal(OT_ERR_FORMAT, "tensor 't'", second, "appears twice");
}

static void refuses_bad_alignments(void)
{
    static const uint32_t values[] = {0, 1, 4, 24, 33, 1u << 25, 0xffffffff};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        ot_test_context("alignment %u", values[i]);
        start(0, 1);
        gguf_bytes_key(&file, "general.alignment", OT_GGUF_U32), gguf_bytes_u32(&file, values[i]);
        expect_refusal(OT_ERR_FORMAT, "key 'general.alignment'", 53, "power of two");
    }
    start(0, 1);
    gguf_bytes_key(&file, "general.alignment", OT_GGUF_U64), gguf_bytes_u64(&file, 32);
    expect_refusal(OT_ERR_FORMAT, "key 'general.alignment'", 53, "must be a u32");
}

/* One tensor "t" and 64 bytes of data. */
static void one_tensor(uint32_t type, uint64_t dim0, uint64_t dim1, uint64_t offset)
{
    start(1, 0);
    gguf_bytes_tensor(&file, "t", type, dim0, dim1, offset);
    gguf_bytes_pad(&file, 32);
    for (int i = 0; i < 8; i++)
        gguf_bytes_u64(&file, 0);
}

static void refuses_bad_tensors(void)
{
    static const struct { uint32_t type; uint64_t dim0, dim1, offset; ot_status status; size_t at; const char *cause; } cases[] = {
        {99, 32, 1, 0, OT_ERR_UNSUPPORTED, 53, "tensor type 99 is not known"},
        {4, 32, 1, 0, OT_ERR_UNSUPPORTED, 53, "tensor type 4 is not known"},
        {OT_TYPE_F32, 0, 1, 0, OT_ERR_FORMAT, 24, "a dimension is zero"},
        {OT_TYPE_F32, 1, 0, 0, OT_ERR_FORMAT, 24, "a dimension is zero"},
        {OT_TYPE_F32, 1ull << 33, 1ull << 33, 0, OT_ERR_FORMAT, 24, "overflows"},
        {OT_TYPE_F32, 1ull << 62, 1, 0, OT_ERR_FORMAT, 24, "more than the whole file"},
        {OT_TYPE_F32, 4096, 1, 0, OT_ERR_FORMAT, 24, "more than the whole file"},
        {OT_TYPE_Q8_0, 31, 32, 0, OT_ERR_FORMAT, 24, "31, is not a multiple of 32, the block of Q8_0"},
        {OT_TYPE_Q6_K, 32, 8, 0, OT_ERR_FORMAT, 24, "32, is not a multiple of 256"},
        {OT_TYPE_F32, 8, 1, 8, OT_ERR_FORMAT, 32, "offset 8 is not a multiple of the alignment 32"},
        {OT_TYPE_F32, 8, 1, 64, OT_ERR_FORMAT, 32, "end after the 64 bytes"},
        {OT_TYPE_F32, 17, 1, 0, OT_ERR_FORMAT, 32, "68 bytes at data offset 0 end after the 64"},
        {OT_TYPE_F32, 8, 1, ~0ull - 31, OT_ERR_FORMAT, 32, "end after the 64 bytes"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ot_test_context("case %zu", i);
        one_tensor(cases[i].type, cases[i].dim0, cases[i].dim1, cases[i].offset);
        expect_refusal(cases[i].status, "tensor 't'", cases[i].at, cases[i].cause);
    }
    ot_test_context(NULL);
    one_tensor(OT_TYPE_F32, 8, 2, 0);
    ot_gguf *g = open_bytes(); /* the pattern itself is sound */
    CHECK(g != NULL);
    ot_gguf_close(&g);
    for (uint32_t n_dims = 0; n_dims < 6; n_dims += 5) {
        one_tensor(OT_TYPE_F32, 8, 1, 0);
        memcpy(file.bytes + 33, &n_dims, 4);
        expect_refusal(OT_ERR_FORMAT, "tensor 't'", 33, "dimensions, 1 to 4 are supported");
    }
}

static void messages_stay_readable(void)
{
    char path[600];
    ot_error err = {0};
    ot_gguf *g = NULL;
    memset(path, 'd', sizeof path);
    memcpy(path + sizeof path - 11, "/long.gguf", 11);
    start(0, 1);
    for (int i = 0; i < 200; i++)
        file.bytes[file.size + 8 + i] = (uint8_t)(i % 2 ? 0xc3 : 'k');
    gguf_bytes_u64(&file, 200);
    file.size += 200;
    gguf_bytes_u32(&file, 77);
    CHECK_STATUS(ot_gguf_open_memory(&g, file.bytes, file.size, path, &err), OT_ERR_FORMAT, &err);
    CHECK_CONTAINS(err.message, "/long.gguf: key 'k?k?");
    CHECK_CONTAINS(err.message, "value type 77 is not known (0 to 12 are)");
    for (const char *c = err.message; *c != 0; c++)
        CHECK(*c >= 0x20 && *c < 0x7f);
}

static void refuses_what_is_no_file(void)
{
    ot_error err;
    ot_gguf *g = NULL;
    const char *missing = ot_test_temp_path("missing.gguf"), *empty = ot_test_temp_path("empty.gguf");
    const char *pipe = ot_test_temp_path("pipe.gguf");
    CHECK_STATUS(ot_gguf_open(&g, missing, &err), OT_ERR_IO, &err);
    CHECK_CONTAINS(err.message, missing);
    CHECK_STATUS(ot_gguf_open(&g, "/", &err), OT_ERR_FORMAT, &err);
    CHECK_CONTAINS(err.message, "not a regular file");
    ot_test_write_file(empty, "", 0);
    CHECK_STATUS(ot_gguf_open(&g, empty, &err), OT_ERR_FORMAT, &err);
    CHECK_CONTAINS(err.message, "empty");
    CHECK_INT(mkfifo(pipe, 0600), 0);
    CHECK_STATUS(ot_gguf_open(&g, pipe, &err), OT_ERR_FORMAT, &err);
    CHECK(g == NULL);
}

/* ---- Fingerprint ---- */

static void fingerprint_is_the_stated_hash(void)
{
    char digits[65];
    start(2, 1);
    gguf_bytes_key(&file, "general.name", OT_GGUF_STRING), gguf_bytes_str(&file, "any");
    gguf_bytes_tensor(&file, "b", OT_TYPE_F32, 2, 1, 0);
    gguf_bytes_tensor(&file, "a.weight", OT_TYPE_Q8_0, 32, 2, 32);
    gguf_bytes_pad(&file, 32);
    for (int i = 0; i < 32 + 68; i++)
        gguf_bytes_u8(&file, (uint8_t)i);
    ot_gguf *g = open_bytes();
    REQUIRE(g != NULL);
    ot_gguf_fingerprint(g, digits);
    /* hashlib.sha256(b'a.weight\0' + struct.pack('<IIQQ', 8, 2, 32, 2) + bytes(range(32, 100))
     *                + b'b\0' + struct.pack('<IIQQ', 0, 2, 2, 1) + bytes(range(8))) */
    CHECK_STR(digits, "cbcb796fa84009f79e9798acd9e29e4b465d691948be8db1254aa4adddb40f44");
    ot_gguf_close(&g);
}

static void fingerprint_of(const char *path, char digits[65])
{
    ot_error err;
    ot_gguf *g = NULL;
    digits[0] = 0;
    if (CHECK_OK(ot_gguf_open(&g, path, &err), &err))
        ot_gguf_fingerprint(g, digits);
    ot_gguf_close(&g);
}

/* Writes the tensors x = {1, 2} and y in one order or the other. */
static void write_two(const char *path, const char *name, bool y_first, float y)
{
    const float x_data[2] = {1, 2}, y_data[1] = {y};
    const uint64_t two[1] = {2}, one[1] = {1};
    ot_error err;
    ot_gguf_writer *w = NULL;
    REQUIRE_OK(ot_gguf_writer_open(&w, &err), &err);
    CHECK_OK(ot_gguf_put_str(w, "general.name", name), &err);
    if (y_first)
        CHECK_OK(ot_gguf_put_tensor(w, "y", OT_TYPE_F32, 1, one, y_data, &err), &err);
    CHECK_OK(ot_gguf_put_tensor(w, "x", OT_TYPE_F32, 1, two, x_data, &err), &err);
    if (!y_first)
        CHECK_OK(ot_gguf_put_tensor(w, "y", OT_TYPE_F32, 1, one, y_data, &err), &err);
    CHECK_OK(ot_gguf_write(w, path, &err), &err);
    ot_gguf_writer_close(&w);
    CHECK(w == NULL);
}

static void fingerprint_covers_tensors_alone(void)
{
    const char *path = ot_test_temp_path("two.gguf");
    char first[65], reordered[65], changed[65];
    write_two(path, "first", false, 3);
    fingerprint_of(path, first);
    write_two(path, "second", true, 3);
    fingerprint_of(path, reordered);
    write_two(path, "first", false, 3.0000002f);
    fingerprint_of(path, changed);
    CHECK_STR(reordered, first);
    CHECK(strcmp(changed, first) != 0);
}

/* ---- Writer ---- */

static void writes_what_is_read_back(void)
{
    static const uint32_t numbers[3] = {1, 0, 0xffffffff};
    static const float floats[2] = {0.5f, -1e30f};
    static const char *const strings[3] = {"a", "", "caf\xc3\xa9"};
    static const uint64_t vector[1] = {3}, matrix[2] = {32, 3};
    float data[3] = {1, 2, 3};
    uint8_t blocks[3 * 34];
    const char *path = ot_test_temp_path("written.gguf");
    ot_error err;
    ot_gguf_writer *w = NULL;
    ot_gguf *g = NULL;
    uint32_t u = 0;
    for (size_t i = 0; i < sizeof blocks; i++)
        blocks[i] = (uint8_t)(i + 1);
    REQUIRE_OK(ot_gguf_writer_open(&w, &err), &err);
    CHECK_OK(ot_gguf_put_u32(w, "u32", 7), &err);
    CHECK_OK(ot_gguf_put_u64(w, "u64", 1ull << 40), &err);
    CHECK_OK(ot_gguf_put_f32(w, "f32", 0.1f), &err);
    CHECK_OK(ot_gguf_put_bool(w, "bool", true), &err);
    CHECK_OK(ot_gguf_put_str(w, "str", "text"), &err);
    CHECK_OK(ot_gguf_put_u32_array(w, "u32s", numbers, 3), &err);
    CHECK_OK(ot_gguf_put_f32_array(w, "f32s", floats, 2), &err);
    CHECK_OK(ot_gguf_put_str_array(w, "strs", strings, 3), &err);
    CHECK_OK(ot_gguf_put_str_array(w, "none", NULL, 0), &err);
    CHECK_OK(ot_gguf_put_tensor(w, "v", OT_TYPE_F32, 1, vector, data, &err), &err);
    CHECK_OK(ot_gguf_put_tensor(w, "m", OT_TYPE_Q8_0, 2, matrix, blocks, &err), &err);
    data[2] = 4; /* borrowed until the file is written */
    REQUIRE_OK(ot_gguf_write(w, path, &err), &err);
    ot_gguf_writer_close(&w);
    REQUIRE_OK(ot_gguf_open(&g, path, &err), &err);
    static const char *const texts[] = {"7", "1099511627776", "0.1", "true", "text", "[3] 1, 0, 4294967295", "[2] 0.5, -1e+30",
                                        "[3] a, , caf\xc3\xa9", "[0]"};
    CHECK_UINT(ot_gguf_key_count(g), 9);
    for (uint64_t i = 0; i < ot_gguf_key_count(g) && i < 9; i++) {
        char text[64];
        CHECK_STR(ot_gguf_key_text(g, i, text, sizeof text), texts[i]);
    }
    CHECK_STATUS(ot_gguf_get_u32(g, "u64", &u, &err), OT_ERR_FORMAT, &err);
    const ot_tensor *v = ot_gguf_tensor(g, "v"), *m = ot_gguf_tensor(g, "m");
    REQUIRE(v != NULL && m != NULL);
    CHECK_BYTES(v->data, v->bytes, data, sizeof data);
    CHECK_BYTES(m->data, m->bytes, blocks, sizeof blocks);
    CHECK_UINT(ot_gguf_file_bytes(g) % 32, 0);
    CHECK_UINT((uintptr_t)m->data % 32, 0);
    ot_gguf_close(&g);
}

static void writer_refuses_what_cannot_be_read(void)
{
    static const uint64_t dims[4] = {33, 1, 1, 0}, huge[2] = {1ull << 40, 1ull << 40};
    const float x[33] = {0};
    const char *path = ot_test_temp_path("refused.gguf");
    ot_error err;
    ot_gguf_writer *w = NULL;
    REQUIRE_OK(ot_gguf_writer_open(&w, &err), &err);
    CHECK_OK(ot_gguf_put_u32(w, "k", 1), &err);
    CHECK_OK(ot_gguf_put_tensor(w, "t", OT_TYPE_F32, 1, dims, x, &err), &err);
    CHECK_STATUS(ot_gguf_put_tensor(w, "t", OT_TYPE_F32, 1, dims, x, &err), OT_ERR_INVALID, &err);
    CHECK_CONTAINS(err.message, "'t' is put twice");
    CHECK_STATUS(ot_gguf_put_tensor(w, "q", OT_TYPE_Q8_0, 1, dims, x, &err), OT_ERR_INVALID, &err);
    CHECK_STATUS(ot_gguf_put_tensor(w, "q", OT_TYPE_F32, 4, dims, x, &err), OT_ERR_INVALID, &err);
    CHECK_STATUS(ot_gguf_put_tensor(w, "q", OT_TYPE_F32, 5, dims, x, &err), OT_ERR_INVALID, &err);
    CHECK_STATUS(ot_gguf_put_tensor(w, "q", OT_TYPE_F32, 2, huge, x, &err), OT_ERR_INVALID, &err);
    CHECK_STATUS(ot_gguf_put_tensor(w, "q", (ot_type)99, 1, dims, x, &err), OT_ERR_UNSUPPORTED, &err);
    CHECK_STATUS(ot_gguf_put_tensor(w, "q\x7f", OT_TYPE_F32, 1, dims, x, &err), OT_ERR_INVALID, &err);
    CHECK_STATUS(ot_gguf_put_u32(w, "", 1), OT_ERR_INVALID, &err);
    CHECK_STATUS(ot_gguf_put_u32(w, "a\nb", 1), OT_ERR_INVALID, &err);
    CHECK_STATUS(ot_gguf_put_str(w, "k", "again"), OT_ERR_INVALID, &err);
    CHECK_STATUS(ot_gguf_put_u32(w, "general.alignment", 64), OT_ERR_INVALID, &err);
    /* A failed put fails the write, and nothing is left behind. */
    CHECK_STATUS(ot_gguf_write(w, path, &err), OT_ERR_INVALID, &err);
    CHECK_CONTAINS(err.message, path);
    CHECK(access(path, F_OK) != 0);
    ot_gguf_writer_close(&w);
}

static void a_failed_write_keeps_the_old_file(void)
{
    char missing[512], target[512], leftover[520];
    struct stat info;
    ot_error err;
    ot_gguf_writer *w = NULL;
    snprintf(missing, sizeof missing, "%s", ot_test_temp_path("no-such-folder/x.gguf"));
    snprintf(target, sizeof target, "%s", ot_test_temp_path("folder.gguf"));
    snprintf(leftover, sizeof leftover, "%s.tmp", target);
    REQUIRE(mkdir(target, 0700) == 0);
    REQUIRE_OK(ot_gguf_writer_open(&w, &err), &err);
    CHECK_OK(ot_gguf_put_u32(w, "k", 1), &err);
    CHECK_STATUS(ot_gguf_write(w, missing, &err), OT_ERR_IO, &err);
    CHECK_CONTAINS(err.message, missing);
    CHECK_STATUS(ot_gguf_write(w, target, &err), OT_ERR_IO, &err); /* a folder is in the way of the rename */
    CHECK(stat(target, &info) == 0 && S_ISDIR(info.st_mode));
    CHECK(access(leftover, F_OK) != 0);
    ot_gguf_writer_close(&w);
    rmdir(target);
}

/* ---- Models ---- */

static void tiny_models_of_every_type_open(void)
{
    static const ot_type types[] = {OT_TYPE_F32,  OT_TYPE_F16,  OT_TYPE_BF16, OT_TYPE_Q4_0, OT_TYPE_Q4_1, OT_TYPE_Q5_0,
                                    OT_TYPE_Q5_1, OT_TYPE_Q8_0, OT_TYPE_Q4_K, OT_TYPE_Q5_K, OT_TYPE_Q6_K};
    const char *path = ot_test_temp_path("tiny.gguf");
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        ot_tiny_model_options options = ot_tiny_model_defaults();
        ot_error err;
        ot_gguf *g = NULL;
        static float row[256];
        options.type = options.embd_type = types[i];
        options.separate_output = i % 2 == 1;
        if (ot_type_block(types[i]) == 256)
            options.n_embd = options.n_ff = 256, options.n_heads = 8;
        ot_test_context("%s", ot_type_name(types[i]));
        REQUIRE_OK(ot_tiny_model_write(path, &options, &err), &err);
        REQUIRE_OK(ot_gguf_open(&g, path, &err), &err);
        const ot_tensor *q = ot_gguf_tensor(g, "blk.1.attn_q.weight");
        REQUIRE(q != NULL);
        CHECK_INT(q->type, types[i]);
        CHECK(q->dims[0] == options.n_embd && q->dims[1] == options.n_heads * options.head_dim);
        CHECK((ot_gguf_tensor(g, "output.weight") != NULL) == options.separate_output);
        CHECK_UINT(ot_gguf_tensor_count(g), 1 + 9 * 2 + 1 + options.separate_output);
        ot_dequantize(q->type, q->data, row, options.n_embd);
        double sum = 0, squares = 0;
        for (uint32_t k = 0; k < options.n_embd; k++) {
            sum += row[k];
            squares += row[k] * row[k];
        }
        CHECK_NEAR(sum, 0, 5.0); /* a row has norm 1, so its sum deviates by 1 */
        CHECK_NEAR(squares, 1, 0.7);
        ot_gguf_close(&g);
    }
}

/* What the tokenizer relies on: distinct tokens, and merges of tokens that exist by then into tokens. */
static void tiny_vocabulary_is_closed(void)
{
    const char *path = ot_test_temp_path("tiny.gguf");
    ot_gguf_array tokens, joins;
    ot_error err;
    ot_gguf *g = NULL;
    REQUIRE_OK(ot_tiny_model_write(path, NULL, &err), &err);
    REQUIRE_OK(ot_gguf_open(&g, path, &err), &err);
    CHECK_OK(ot_gguf_get_array(g, "tokenizer.ggml.tokens", &tokens, &err), &err);
    CHECK_OK(ot_gguf_get_array(g, "tokenizer.ggml.merges", &joins, &err), &err);
    CHECK_UINT(tokens.count, ot_tiny_model_vocab_size());
    CHECK_UINT(tokens.count, OT_TINY_FIRST_BYTE_TOKEN + 256 + joins.count);
    CHECK(tokens.count % 16 != 0);
    for (uint64_t m = 0; m < joins.count; m++) {
        const ot_str merge = ot_gguf_array_str(&joins, m);
        const ot_str whole = ot_gguf_array_str(&tokens, OT_TINY_FIRST_BYTE_TOKEN + 256 + m);
        const char *space = memchr(merge.data, ' ', merge.size);
        REQUIRE(space != NULL);
        const size_t left = (size_t)(space - merge.data), right = merge.size - left - 1;
        bool has_left = false, has_right = false;
        for (uint64_t t = 0; t < OT_TINY_FIRST_BYTE_TOKEN + 256 + m; t++) {
            const ot_str token = ot_gguf_array_str(&tokens, t);
            has_left |= token.size == left && memcmp(token.data, merge.data, left) == 0;
            has_right |= token.size == right && memcmp(token.data, space + 1, right) == 0;
            CHECK(!(token.size == whole.size && memcmp(token.data, whole.data, whole.size) == 0));
        }
        ot_test_context("merge %.*s", (int)merge.size, merge.data);
        CHECK(has_left);
        CHECK(has_right);
        CHECK_UINT(whole.size, left + right);
    }
    ot_gguf_close(&g);
}

static void tiny_models_are_reproducible(void)
{
    const char *path = ot_test_temp_path("tiny.gguf");
    char first[65], again[65], other[65];
    ot_tiny_model_options options = ot_tiny_model_defaults();
    ot_error err;
    REQUIRE_OK(ot_tiny_model_write(path, NULL, &err), &err);
    fingerprint_of(path, first);
    REQUIRE_OK(ot_tiny_model_write(path, &options, &err), &err);
    fingerprint_of(path, again);
    options.seed = 2;
    REQUIRE_OK(ot_tiny_model_write(path, &options, &err), &err);
    fingerprint_of(path, other);
    CHECK_STR(again, first);
    CHECK(strcmp(other, first) != 0);
    options.n_kv_heads = 3;
    CHECK_STATUS(ot_tiny_model_write(path, &options, &err), OT_ERR_INVALID, &err);
    options = ot_tiny_model_defaults();
    options.type = OT_TYPE_Q6_K;
    CHECK_STATUS(ot_tiny_model_write(path, &options, &err), OT_ERR_INVALID, &err);
}

static void default_model_opens(void)
{
    const char *path = ot_test_model_path();
    ot_gguf_array tokens;
    ot_error err;
    ot_gguf *g = NULL;
    char digits[65];
    if (path == NULL)
        SKIP_CASE("the default model is not there");
    const double begin = ot_test_now_seconds();
    REQUIRE_OK(ot_gguf_open(&g, path, &err), &err);
    const double seconds = ot_test_now_seconds() - begin;
    printf("  opened in %.1f ms\n", seconds * 1e3);
    CHECK(seconds < 1.0); /* a few milliseconds; a second says that something is quadratic */
    CHECK_OK(ot_gguf_get_array(g, "tokenizer.ggml.tokens", &tokens, &err), &err);
    CHECK_UINT(tokens.count, 49152);
    CHECK_UINT(ot_gguf_tensor_count(g), 272);
    ot_gguf_fingerprint(g, digits);
    CHECK_STR(digits, "507e3606e6da09f6e65d2c0172bce3bf277442f17b317560a7ad1a01acf05fa1"); /* by Python's hashlib */
    ot_gguf_close(&g);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(sample_gives_its_values);
    RUN(getters_refuse_other_values);
    RUN(floats_must_be_finite);
    RUN(values_as_text);
    RUN(tensors_are_where_they_are_said_to_be);
    RUN(version_2_and_vocabulary_only_files_open);
    RUN(sized_but_unknown_types_open);
    RUN(refuses_bad_headers);
    RUN(refuses_bad_keys);
    RUN(refuses_duplicates);
    RUN(refuses_bad_alignments);
    RUN(refuses_bad_tensors);
    RUN(messages_stay_readable);
    RUN(refuses_what_is_no_file);
    RUN(fingerprint_is_the_stated_hash);
    RUN(fingerprint_covers_tensors_alone);
    RUN(writes_what_is_read_back);
    RUN(writer_refuses_what_cannot_be_read);
    RUN(a_failed_write_keeps_the_old_file);
    RUN(tiny_models_of_every_type_open);
    RUN(tiny_vocabulary_is_closed);
    RUN(tiny_models_are_reproducible);
    RUN(default_model_opens);
    return ot_test_finish();
}
