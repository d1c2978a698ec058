/* Damaged GGUF files: whatever the bytes, opening ends with a file whose every part can be read, or with an error that names the file.
 *
 * A small sound file is cut at every offset, has each byte and each number in it replaced by extreme ones, and is damaged at random in many
 * rounds from a printed seed. Each variant lies in a buffer that ends at a page that may not be touched, so that reading past the end
 * faults even without a sanitizer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf/gguf.h"
#include "tests/support/fuzz-target.h"
#include "tests/support/gguf-bytes.h"
#include "tests/support/test-support.h"

static gguf_bytes sample;
static unsigned n_opened, n_refused;
static volatile uint64_t sink; /* so that reads are not optimised away */

static void read_array(const ot_gguf *gguf, const char *name)
{
    ot_gguf_array array;
    if (ot_gguf_get_array(gguf, name, &array, NULL) != OT_OK)
        return;
    for (uint64_t i = 0; i < array.count; i++) {
        if (array.type == OT_GGUF_STRING) {
            const ot_str text = ot_gguf_array_str(&array, i);
            for (size_t k = 0; k < text.size; k++)
                sink += (unsigned char)text.data[k];
        } else {
            sink += (uint64_t)ot_gguf_array_int(&array, i);
            sink += ot_gguf_array_num(&array, i) > 0;
        }
    }
}

static void read_keys(const ot_gguf *gguf)
{
    char line[64], tiny[3], name[256];
    uint32_t u = 0;
    float f = 0;
    bool b = false;
    ot_str s;
    ot_error err;
    for (uint64_t i = 0; i < ot_gguf_key_count(gguf); i++) {
        const ot_str key = ot_gguf_key_name(gguf, i, NULL);
        sink += strlen(ot_gguf_key_text(gguf, i, line, sizeof line)) + strlen(ot_gguf_key_text(gguf, i, tiny, sizeof tiny));
        if (key.size >= sizeof name)
            continue;
        memcpy(name, key.data, key.size);
        name[key.size] = 0;
        CHECK(ot_gguf_has(gguf, name));
        ot_gguf_get_u32(gguf, name, &u, &err);
        ot_gguf_get_f32(gguf, name, &f, &err);
        ot_gguf_get_bool(gguf, name, &b, &err);
        if (ot_gguf_get_str(gguf, name, &s, &err) == OT_OK && s.size > 0)
            sink += (unsigned char)s.data[s.size - 1];
        read_array(gguf, name);
    }
}

static void read_tensors(const ot_gguf *gguf)
{
    char digits[65];
    for (uint64_t i = 0; i < ot_gguf_tensor_count(gguf); i++) {
        const ot_tensor *tensor = ot_gguf_tensor_at(gguf, i);
        const size_t n = tensor->bytes / ot_type_block_bytes(tensor->type) * ot_type_block(tensor->type);
        float *values = malloc(n * sizeof *values);
        if (values != NULL)
            ot_dequantize(tensor->type, tensor->data, values, n);
        free(values);
    }
    ot_gguf_fingerprint(gguf, digits);
    CHECK_UINT(strlen(digits), 64);
}

/* Opens `size` bytes in a guarded buffer and reads all there is. */
static void try_bytes(const void *bytes, size_t size)
{
    ot_gguf *gguf = NULL;
    ot_error err = {0};
    uint8_t *copy = ot_test_guarded_alloc(size, 1);
    REQUIRE(copy != NULL);
    memcpy(copy, bytes, size);
    if (ot_gguf_open_memory(&gguf, copy, size, "fuzzed", &err) == OT_OK) {
        n_opened++;
        read_keys(gguf);
        read_tensors(gguf);
    } else {
        n_refused++;
        CHECK(gguf == NULL);
        CHECK_CONTAINS(err.message, "fuzzed: ");
        CHECK_CONTAINS(err.message, " at byte ");
    }
    ot_gguf_close(&gguf);
    ot_test_guarded_free(copy, size);
}

static void sound_file_opens(void)
{
    n_opened = n_refused = 0;
    CHECK(!sample.overrun);
    try_bytes(sample.bytes, sample.size);
    CHECK_UINT(n_opened, 1);
}

static void cut_at_every_offset(void)
{
    n_opened = n_refused = 0;
    for (size_t size = 0; size < sample.size; size++) {
        ot_test_context("cut to %zu bytes", size);
        try_bytes(sample.bytes, size);
    }
    /* Only the padding after the last tensor may be missing. */
    CHECK(n_opened < 64);
    CHECK_UINT(n_opened + n_refused, sample.size);
}

static void every_byte_replaced(void)
{
    static const uint8_t masks[] = {0x01, 0x02, 0x08, 0x40, 0x80, 0xff};
    uint8_t bytes[sizeof sample.bytes];
    memcpy(bytes, sample.bytes, sample.size);
    for (size_t at = 0; at < sample.size; at++) {
        for (size_t i = 0; i < sizeof masks; i++) {
            ot_test_context("byte %zu ^ 0x%02x", at, masks[i]);
            bytes[at] = sample.bytes[at] ^ masks[i];
            try_bytes(bytes, sample.size);
        }
        bytes[at] = sample.bytes[at];
    }
}

/* Counts, lengths, dimensions and offsets lie anywhere: replace the eight bytes (or four) at every offset. */
static void every_number_extreme(void)
{
    static const uint64_t values[] = {0, 1, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 1ull << 61, (1ull << 63) - 1,
                                      1ull << 63, ~0ull - 7, ~0ull};
    uint8_t bytes[sizeof sample.bytes];
    for (size_t at = 4; at + 8 <= sample.size; at++) {
        for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
            const size_t width = i < 5 ? 4 : 8;
            ot_test_context("%zu bytes at %zu = 0x%llx", width, at, (unsigned long long)values[i]);
            memcpy(bytes, sample.bytes, sample.size);
            memcpy(bytes + at, &values[i], width);
            try_bytes(bytes, sample.size);
        }
    }
}

/* One to eight damages of several kinds at once. */
static void damage(ot_test_rng *rng, uint8_t *bytes, size_t *size)
{
    for (uint32_t n = 1 + ot_test_rng_below(rng, 8); n > 0; n--) {
        const uint32_t at = ot_test_rng_below(rng, (uint32_t)*size), from = ot_test_rng_below(rng, (uint32_t)*size);
        const uint32_t room = (uint32_t)*size - (at > from ? at : from), length = ot_test_rng_below(rng, room < 64 ? room : 64);
        switch (ot_test_rng_below(rng, 5)) {
        case 0: bytes[at] ^= (uint8_t)(1u << ot_test_rng_below(rng, 8)); break;
        case 1: bytes[at] = (uint8_t)ot_test_rng_next(rng); break;
        case 2: memmove(bytes + at, bytes + from, length); break;
        case 3: memset(bytes + at, ot_test_rng_below(rng, 2) ? 0xff : 0, length); break;
        default: *size = *size > 64 ? *size - ot_test_rng_below(rng, 32) : *size; break;
        }
    }
}

static void damaged_at_random(void)
{
    const uint64_t seed = ot_test_seed(20240917);
    uint8_t bytes[sizeof sample.bytes];
    n_opened = n_refused = 0;
    for (uint64_t round = 0; round < 30000; round++) {
        ot_test_rng rng = {seed + round};
        size_t size = sample.size;
        memcpy(bytes, sample.bytes, size);
        damage(&rng, bytes, &size);
        ot_test_context("seed %llu", (unsigned long long)(seed + round));
        try_bytes(bytes, size);
    }
    printf("  %u opened, %u refused\n", n_opened, n_refused);
    /* Both ways must have been taken, or the mutations test nothing. */
    CHECK(n_opened > 300);
    CHECK(n_refused > 300);
}

#ifdef OTTER_LIBFUZZER
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    try_bytes(data, size);
    return 0;
}
#else
int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    gguf_bytes_sample(&sample);
    RUN(sound_file_opens);
    RUN(cut_at_every_offset);
    RUN(every_byte_replaced);
    RUN(every_number_extreme);
    RUN(damaged_at_random);
    return ot_test_finish();
}
#endif
