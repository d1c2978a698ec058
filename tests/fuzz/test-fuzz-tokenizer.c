/* Damaged vocabularies and template texts: whatever a file holds, opening ends in a tokenizer that works or in an error,
 * never in a crash. Meant to be run with the address sanitizer as well. */
#include "text/tokenizer.h"
#include "tests/support/fuzz-target.h"
#include "tests/support/test-support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static ot_test_rng rng;

/* A vocabulary of a few tokens, as a file in memory. */
static size_t make_file(const char *model, uint8_t *bytes, size_t capacity)
{
    static const char *const tokens[] = {"<unk>", "<s>", "</s>", "<0x41>", "a", "b", "ab", "\xE2\x96\x81" "a", "\xC4\xA0" "a", "<|x|>",
                                         "<t>", "\xFF\xC4", ""};
    static const char *const merges[] = {"a b", "\xC4\xA0 a", "ab ab", "q r"};
    const uint32_t types[COUNT(tokens)] = {2, 3, 3, 6, 1, 1, 1, 1, 1, 3, 4, 1, 1};
    const float scores[COUNT(tokens)] = {0, 0, 0, 0, -1, -2, -3, -4, -5, 0, 0, -6, -7};
    const char *path = ot_test_temp_path("fuzz.gguf");
    ot_error err = {0};
    ot_gguf_writer *w;
    if (!CHECK_OK(ot_gguf_writer_open(&w, &err), &err))
        return 0;
    ot_gguf_put_str(w, "general.architecture", "llama");
    ot_gguf_put_str(w, "tokenizer.ggml.model", model);
    ot_gguf_put_str(w, "tokenizer.ggml.pre", "smollm");
    ot_gguf_put_str_array(w, "tokenizer.ggml.tokens", tokens, COUNT(tokens));
    ot_gguf_put_u32_array(w, "tokenizer.ggml.token_type", types, COUNT(types));
    ot_gguf_put_f32_array(w, "tokenizer.ggml.scores", scores, COUNT(scores));
    ot_gguf_put_str_array(w, "tokenizer.ggml.merges", merges, COUNT(merges));
    ot_gguf_put_u32(w, "tokenizer.ggml.bos_token_id", 1);
    ot_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", true);
    CHECK_OK(ot_gguf_write(w, path, &err), &err);
    ot_gguf_writer_close(&w);
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return 0;
    size_t size = fread(bytes, 1, capacity, file);
    fclose(file);
    return size;
}

/* Encodes and decodes a little with whatever has been opened. */
static void use(const ot_tokenizer *t)
{
    static const char text[] = "ab aab <s> <|x|>\xFF\xE2\x96\x81 <t>\n";
    ot_error err = {0};
    int32_t *ids;
    size_t n, size;
    char *back;
    for (unsigned flags = 0; flags < 4; flags++) {
        if (ot_tokenize(t, text, sizeof text - 1, flags, &ids, &n, &err) != OT_OK)
            continue;
        for (size_t i = 0; i < n; i++)
            CHECK(ids[i] >= 0 && (uint32_t)ids[i] < ot_tokenizer_vocab_size(t));
        if (ot_detokenize(t, ids, n, flags & 1, flags & 2, &back, &size, &err) == OT_OK)
            free(back);
        free(ids);
    }
    CHECK(ot_tokenizer_bos(t) < (int32_t)ot_tokenizer_vocab_size(t));
    CHECK(ot_tokenizer_eos(t) < (int32_t)ot_tokenizer_vocab_size(t));
}

static void damage_files(const char *model)
{
    static uint8_t whole[1 << 16], damaged[1 << 16];
    size_t size = make_file(model, whole, sizeof whole), n_opened = 0;
    REQUIRE(size > 0 && size < sizeof whole);
    for (int round = 0; round < 20000; round++) {
        ot_error err = {0};
        ot_gguf *gguf;
        ot_tokenizer *t = NULL;
        memcpy(damaged, whole, size);
        for (uint32_t k = ot_test_rng_below(&rng, 4); k > 0; k--)
            damaged[ot_test_rng_below(&rng, (uint32_t)size)] = (uint8_t)ot_test_rng_below(&rng, 256);
        ot_test_context("round %d", round);
        if (ot_gguf_open_memory(&gguf, damaged, size, "damaged", &err) != OT_OK)
            continue;
        if (ot_tokenizer_open(&t, gguf, &err) == OT_OK) {
            n_opened++;
            use(t);
        } else {
            CHECK(t == NULL && err.message[0] != '\0');
        }
        ot_tokenizer_close(&t);
        ot_gguf_close(&gguf);
    }
    ot_test_context(NULL);
    CHECK(n_opened > 1000);
}

static void damaged_bpe_files(void)
{
    damage_files("gpt2");
}

static void damaged_sentencepiece_files(void)
{
    damage_files("llama");
}

#ifdef OTTER_LIBFUZZER
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ot_gguf *gguf = NULL;
    ot_tokenizer *t = NULL;
    ot_error err;
    if (ot_gguf_open_memory(&gguf, data, size, "input", &err) == OT_OK && ot_tokenizer_open(&t, gguf, &err) == OT_OK)
        use(t);
    ot_tokenizer_close(&t);
    ot_gguf_close(&gguf);
    return 0;
}
#else
int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    rng.state = ot_test_seed(4711);
    RUN(damaged_bpe_files);
    RUN(damaged_sentencepiece_files);
    return ot_test_finish();
}
#endif
