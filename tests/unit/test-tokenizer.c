/* Tokenizers: llama.cpp's cases on two vocabularies (where OTTER_TEST_DATA has them), the default model against ids
 * obtained with the package tokenizers, and small vocabularies made here for what real ones rarely show. */
#include "text/tokenizer.h"
#include "tests/support/test-support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* NULL, and a failed check, if it does not open. */
static ot_tokenizer *open_file(const char *path)
{
    ot_error err = {0};
    ot_gguf *gguf;
    ot_tokenizer *t = NULL;
    if (CHECK_OK(ot_gguf_open(&gguf, path, &err), &err)) {
        CHECK_OK(ot_tokenizer_open(&t, gguf, &err), &err);
        ot_gguf_close(&gguf);
    }
    return t;
}

/* Ids with spaces between, in one of four buffers that take turns. */
static const char *ids_of(const ot_tokenizer *t, const char *text, size_t size, unsigned flags)
{
    static char buffers[4][4096];
    static unsigned turn;
    char *dst = buffers[turn++ % 4];
    ot_error err = {0};
    int32_t *ids;
    size_t n, at = 0;
    dst[0] = '\0';
    if (!CHECK_OK(ot_tokenize(t, text, size, flags, &ids, &n, &err), &err))
        return dst;
    for (size_t i = 0; i < n && at < sizeof buffers[0]; i++)
        at += (size_t)snprintf(dst + at, sizeof buffers[0] - at, i == 0 ? "%d" : " %d", ids[i]);
    free(ids);
    return dst;
}

static bool round_trips(const ot_tokenizer *t, const char *text, size_t size, unsigned flags)
{
    ot_error err = {0};
    int32_t *ids;
    char *back;
    size_t n, n_back;
    if (!CHECK_OK(ot_tokenize(t, text, size, flags, &ids, &n, &err), &err))
        return false;
    bool same = false;
    if (CHECK_OK(ot_detokenize(t, ids, n, true, true, &back, &n_back, &err), &err)) {
        same = CHECK_BYTES(back, n_back, text, size);
        free(back);
    }
    free(ids);
    return same;
}

/* ---- Published vocabularies ------------------------------------------------------------------------------ */

static char *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return NULL;
    char *text = calloc(1, 1 << 16);
    *size = text == NULL ? 0 : fread(text, 1, (1 << 16) - 1, file);
    fclose(file);
    return text;
}

static void run_published_cases(const char *vocabulary)
{
    static const char divider[] = "\n__ggml_vocab_test__\n";
    const char *data = getenv("OTTER_TEST_DATA");
    char path[256], inputs[300], outputs[300];
    size_t n_in, n_out;
    int n_cases = 0;
    snprintf(path, sizeof path, "%s/tokenizer/ggml-vocab-%s.gguf", data != NULL ? data : "../shared/data", vocabulary);
    snprintf(inputs, sizeof inputs, "%s.inp", path);
    snprintf(outputs, sizeof outputs, "%s.out", path);
    char *in = read_file(inputs, &n_in), *out = read_file(outputs, &n_out);
    if (in == NULL || out == NULL) {
        free(in);
        free(out);
        SKIP_CASE("OTTER_TEST_DATA has no published vocabularies");
    }
    ot_tokenizer *t = open_file(path);
    char *text = in, *line = out;
    while (t != NULL && text != NULL) {
        char *end = strstr(text, divider), *line_end = strchr(line, '\n');
        if (end == NULL || line_end == NULL)
            break; /* after the last divider nothing follows */
        *line_end = '\0';
        ot_test_context("%s, text %d", vocabulary, n_cases);
        CHECK_STR(ids_of(t, text, (size_t)(end - text), 0), line + strspn(line, " "));
        round_trips(t, text, (size_t)(end - text), 0);
        text = end + sizeof divider - 1;
        line = line_end + 1;
        n_cases++;
    }
    ot_test_context(NULL);
    CHECK_INT(n_cases, 46);
    ot_tokenizer_close(&t);
    free(in);
    free(out);
}

static void published_cases_of_gpt2(void)
{
    run_published_cases("gpt-2");
}

static void published_cases_of_llama(void)
{
    run_published_cases("llama-spm");
}

/* ---- The default model ----------------------------------------------------------------------------------- */

static const struct {
    const char *text;
    int32_t ids[32];
} smollm_cases[] = {
    {"Hello, world!", {19556, 28, 905, 17}},
    {"I've 1234 apples, they're Bob's.", {57, 3543, 216, 33, 34, 35, 36, 13855, 28, 502, 2316, 8363, 506, 30}},
    {"  two  spaces\n\n\tand tabs ", {216, 827, 216, 5600, 1116, 197, 397, 29416, 216}},
    {"na\xC3\xAFve caf\xC3\xA9 \xE2\x80\x94 \xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E \xF0\x9F\xA6\x99", {3546, 46494, 37366, 1841, 17097, 241, 115, 40993, 179, 120, 248, 15107, 116, 243}},
    {"def f(x):\n    return x**2  # square\n", {1604, 275, 24, 104, 727, 472, 1003, 1792, 828, 34, 216, 907, 5222, 198}},
    {"123456789012345", {33, 34, 35, 36, 37, 38, 39, 40, 41, 32, 33, 34, 35, 36, 37}},
    {"\xD1\x82\xD0\xB5\xD1\x81\xD1\x82 \xC2\xBD \xE2\x85\xA7 \xE0\xB8\x81", {8355, 6643, 24674, 216, 16738, 216, 173, 223, 117, 216, 10283, 219}},
    {"antidisestablishmentarianismantidisestablishmentarianism", {403, 17889, 30834, 358, 35050, 403, 17889, 30834, 358, 35050}},
    {"<|im_end|> stays text", {44, 108, 306, 79, 486, 108, 46, 13895, 1694}},
    {"a\xCC\x81\xE2\x80\x8D\xEF\xB8\x8F''''''!!!???", {81, 151, 219, 321, 231, 31752, 3816, 3816, 3816, 29646, 16693, 47}},
};

static void default_model_agrees_with_the_reference(void)
{
    if (ot_test_model_path() == NULL)
        SKIP_CASE("the default model is not there");
    ot_tokenizer *t = open_file(ot_test_model_path());
    REQUIRE(t != NULL);
    for (size_t i = 0; i < COUNT(smollm_cases); i++) {
        char want[512] = "";
        size_t at = 0;
        for (size_t k = 0; k < COUNT(smollm_cases[i].ids) && smollm_cases[i].ids[k] != 0; k++)
            at += (size_t)snprintf(want + at, sizeof want - at, k == 0 ? "%d" : " %d", smollm_cases[i].ids[k]);
        ot_test_context("\"%s\"", smollm_cases[i].text);
        CHECK_STR(ids_of(t, smollm_cases[i].text, strlen(smollm_cases[i].text), 0), want);
        round_trips(t, smollm_cases[i].text, strlen(smollm_cases[i].text), 0);
    }
    ot_test_context(NULL);
    ot_tokenizer_close(&t);
}

static void default_model_knows_its_special_tokens(void)
{
    if (ot_test_model_path() == NULL)
        SKIP_CASE("the default model is not there");
    ot_tokenizer *t = open_file(ot_test_model_path());
    REQUIRE(t != NULL);
    CHECK_STR(ot_tokenizer_model(t), "gpt2");
    CHECK_STR(ot_tokenizer_pre(t), "smollm");
    CHECK_UINT(ot_tokenizer_vocab_size(t), 49152);
    CHECK_INT(ot_tokenizer_bos(t), 1);
    CHECK_INT(ot_tokenizer_eos(t), 2);
    CHECK(!ot_tokenizer_adds_bos(t));
    CHECK_INT(ot_tokenizer_find(t, "<|im_end|>", 10), 2);
    CHECK_INT(ot_tokenizer_find(t, "<|im_en", 7), -1);
    CHECK_INT(ot_tokenizer_find(t, "Hello", 5), 19556);
    CHECK(ot_tokenizer_is_eog(t, 2) && ot_tokenizer_is_eog(t, 0));
    CHECK(!ot_tokenizer_is_eog(t, 1) && !ot_tokenizer_is_eog(t, 19556) && !ot_tokenizer_is_eog(t, -1));
    CHECK(!ot_tokenizer_is_eog(t, 49152));
    CHECK(ot_tokenizer_is_special(t, 1) && !ot_tokenizer_is_special(t, 19556));
    CHECK_STR(ids_of(t, "a<|im_end|>b", 12, OT_TOKENIZE_SPECIAL), "81 2 82");
    CHECK_STR(ids_of(t, "a<|im_end|>b", 12, 0), "81 44 108 306 79 486 108 46 82");
    CHECK_STR(ids_of(t, "a", 1, OT_TOKENIZE_BOS), "81"); /* the file wants none */
    ot_str bytes = ot_token_bytes(t, 905);
    CHECK_BYTES(bytes.data, bytes.size, " world", 6);
    ot_tokenizer_close(&t);
}

/* ---- A small BPE vocabulary ------------------------------------------------------------------------------ */

enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER = 4, BYTE = 6 };

typedef struct vocabulary {
    const char *tokens[700];
    char texts[700][8];
    uint32_t types[700];
    float scores[700];
    uint32_t n;
} vocabulary;

static uint32_t add_token(vocabulary *v, const char *text, uint32_t type, float score)
{
    v->tokens[v->n] = text;
    v->types[v->n] = type;
    v->scores[v->n] = score;
    return v->n++;
}

/* Tokens 0 to 255: the bytes, in GPT-2's writing. */
static void add_bytes(vocabulary *v)
{
    uint32_t hidden = 0x100;
    for (uint32_t b = 0; b < 256; b++) {
        bool visible = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
        uint32_t c = visible ? b : hidden++;
        char *text = v->texts[v->n];
        if (c < 0x80)
            snprintf(text, sizeof v->texts[0], "%c", (char)c);
        else
            snprintf(text, sizeof v->texts[0], "%c%c", (char)(0xC0 | c >> 6), (char)(0x80 | (c & 0x3F)));
        add_token(v, text, NORMAL, 0);
    }
}

static const char *write_vocabulary(const char *model, const char *pre, const vocabulary *v, const char *const *merges,
                                    size_t n_merges, void (*more)(ot_gguf_writer *))
{
    const char *path = ot_test_temp_path("vocabulary.gguf");
    ot_error err = {0};
    ot_gguf_writer *w;
    if (!CHECK_OK(ot_gguf_writer_open(&w, &err), &err))
        return NULL;
    ot_gguf_put_str(w, "general.architecture", "llama");
    ot_gguf_put_str(w, "tokenizer.ggml.model", model);
    if (pre != NULL)
        ot_gguf_put_str(w, "tokenizer.ggml.pre", pre);
    ot_gguf_put_str_array(w, "tokenizer.ggml.tokens", v->tokens, v->n);
    ot_gguf_put_u32_array(w, "tokenizer.ggml.token_type", v->types, v->n);
    if (strcmp(model, "llama") == 0)
        ot_gguf_put_f32_array(w, "tokenizer.ggml.scores", v->scores, v->n);
    else if (merges != NULL)
        ot_gguf_put_str_array(w, "tokenizer.ggml.merges", merges, n_merges);
    if (more != NULL)
        more(w);
    bool written = CHECK_OK(ot_gguf_write(w, path, &err), &err);
    ot_gguf_writer_close(&w);
    return written ? path : NULL;
}

static ot_tokenizer *open_vocabulary(const char *model, const char *pre, const vocabulary *v, const char *const *merges,
                                     size_t n_merges, void (*more)(ot_gguf_writer *))
{
    const char *path = write_vocabulary(model, pre, v, merges, n_merges, more);
    return path == NULL ? NULL : open_file(path);
}

static const char *const small_merges[] = {"a a", "aa aa", "b c", "a b", "ab c", "aaaa aaaa", "\xC4\xA0 a", "x y", "xy z"};

/* 256 to: "aa", "aaaa", "bc", "ab", "abc", "aaaaaaaa", " a"; "xy" is no token, "xyz" is; then the specials. */
static void small_bpe(vocabulary *v)
{
    static const char *const merged[] = {"aa", "aaaa", "bc", "ab", "abc", "aaaaaaaa", ("\xC4\xA0" "a"), "xyz"};
    memset(v, 0, sizeof *v);
    add_bytes(v);
    for (size_t i = 0; i < COUNT(merged); i++)
        add_token(v, merged[i], NORMAL, 0);
    add_token(v, "<|end|>", CONTROL, 0);     /* 264 */
    add_token(v, "<|end|>>", CONTROL, 0);    /* 265 */
    add_token(v, "<tool>", USER, 0);         /* 266 */
    add_token(v, "  ", USER, 0);             /* 267 */
    add_token(v, "<|user|>", USER, 0);       /* 268: looks like a mark of conversation, so it counts as one */
    add_token(v, "<unk>", UNKNOWN, 0);       /* 269 */
}

static vocabulary v;

static void merges_go_by_rank_then_from_the_left(void)
{
    static const struct {
        const char *text, *ids;
    } cases[] = {
        {"aaa", "256 97"}, {"aaaaa", "257 97"}, {"aaaaaaaaaa", "261 256"},
        {"abc", "97 258"}, /* "b c" ranks before "a b" */
        {"ab", "259"}, {"ab a", "259 262"}, {"ba", "98 97"},
        {"xyz", "263"}, {"xy", "120 121"}, /* through a symbol that is no token */
        {"xyy", "120 121 121"}, {"", ""},
    };
    small_bpe(&v);
    ot_tokenizer *t = open_vocabulary("gpt2", "gpt-2", &v, small_merges, COUNT(small_merges), NULL);
    REQUIRE(t != NULL);
    for (size_t i = 0; i < COUNT(cases); i++) {
        ot_test_context("\"%s\"", cases[i].text);
        CHECK_STR(ids_of(t, cases[i].text, strlen(cases[i].text), 0), cases[i].ids);
    }
    ot_test_context(NULL);
    ot_tokenizer_close(&t);
}

/* A pre-tokenizer that ignores merges takes a whole word that is a token: "abc" is one, though merging ends elsewhere. */
static void whole_words_come_before_merges_where_the_file_says_so(void)
{
    small_bpe(&v);
    ot_tokenizer *t = open_vocabulary("gpt2", "llama-bpe", &v, small_merges, COUNT(small_merges), NULL);
    REQUIRE(t != NULL);
    CHECK_STR(ids_of(t, "abc", 3, 0), "260");
    CHECK_STR(ids_of(t, "abcb", 4, 0), "97 258 98");
    ot_tokenizer_close(&t);
}

/* The heap (long words) and the plain search (short ones) are the same function: a long word of repeats that cannot merge
 * across equals its parts. */
static void long_words_merge_as_short_ones(void)
{
    small_bpe(&v);
    ot_tokenizer *t = open_vocabulary("gpt2", "gpt-2", &v, small_merges, COUNT(small_merges), NULL);
    REQUIRE(t != NULL);
    ot_test_rng rng = {ot_test_seed(7)};
    for (int round = 0; round < 500; round++) {
        char part[16], whole[256];
        size_t n = 1 + ot_test_rng_below(&rng, 15), at = 0;
        for (size_t i = 0; i < n; i++)
            part[i] = "abcxyz"[ot_test_rng_below(&rng, 6)];
        char want[4096] = "";
        size_t n_want = 0;
        for (int k = 0; k < 10; k++) { /* q is in no merge */
            memcpy(whole + at, part, n);
            whole[at + n] = 'q';
            at += n + 1;
            n_want += (size_t)snprintf(want + n_want, sizeof want - n_want, "%s%s 113", k == 0 ? "" : " ", ids_of(t, part, n, 0));
        }
        ot_test_context("round %d, ten times \"%.*s\"", round, (int)n, part);
        CHECK_STR(ids_of(t, whole, at, 0), want);
    }
    ot_test_context(NULL);
    ot_tokenizer_close(&t);
}

static void specials_are_found_first_and_longest(void)
{
    small_bpe(&v);
    ot_tokenizer *t = open_vocabulary("gpt2", "gpt-2", &v, small_merges, COUNT(small_merges), NULL);
    REQUIRE(t != NULL);
    CHECK_STR(ids_of(t, "a<|end|>", 8, OT_TOKENIZE_SPECIAL), "97 264");
    CHECK_STR(ids_of(t, "<|end|>>>", 9, OT_TOKENIZE_SPECIAL), "265 62");
    CHECK_STR(ids_of(t, "<|end|>", 7, 0), "60 124 101 110 100 124 62");
    CHECK_STR(ids_of(t, "<|end|", 6, OT_TOKENIZE_SPECIAL), "60 124 101 110 100 124");
    CHECK_STR(ids_of(t, "a<tool>a", 8, 0), "97 266 97"); /* user-defined: always */
    CHECK_STR(ids_of(t, "a  a", 4, 0), "97 267 97");
    CHECK_STR(ids_of(t, "<|user|>", 8, 0), "60 124 117 115 101 114 124 62"); /* not this one */
    CHECK_STR(ids_of(t, "<|user|>", 8, OT_TOKENIZE_SPECIAL), "268");
    CHECK(ot_tokenizer_is_special(t, 268) && ot_tokenizer_is_special(t, 264) && !ot_tokenizer_is_special(t, 266));
    CHECK(ot_tokenizer_is_eog(t, 264) && !ot_tokenizer_is_eog(t, 268));
    CHECK_STR(ids_of(t, "<unk>", 5, OT_TOKENIZE_SPECIAL), "269");
    CHECK_INT(ot_tokenizer_bos(t), -1);

    const int32_t ids[] = {97, 264, 266, 269, 98};
    ot_error err = {0};
    char *text;
    size_t size;
    REQUIRE_OK(ot_detokenize(t, ids, 5, false, true, &text, &size, &err), &err);
    CHECK_STR(text, "a<tool>b");
    free(text);
    REQUIRE_OK(ot_detokenize(t, ids, 5, true, true, &text, &size, &err), &err);
    CHECK_STR(text, "a<|end|><tool><unk>b");
    free(text);
    const int32_t wrong[] = {97, 270}, negative[] = {-1};
    CHECK_STATUS(ot_detokenize(t, wrong, 2, false, true, &text, &size, &err), OT_ERR_INVALID, &err);
    CHECK_CONTAINS(err.message, "270");
    CHECK_STATUS(ot_detokenize(t, negative, 1, false, true, &text, &size, &err), OT_ERR_INVALID, &err);
    ot_tokenizer_close(&t);
}

/* All but U+2581, which is a space to SentencePiece. */
static void any_bytes_round_trip(const ot_tokenizer *t)
{
    static const char *const pieces[] = {"a", " ", "\xE2\x96\x82", "<0x0A>", "<s>", "</s>", "\xFF", "\xE2\x96", "\xF0\x9F", "\xC3\xA9", "\n",
                                         "bc", "\x80", "  ", "<tool>", "\xE6\x97\xA5"};
    ot_test_rng rng = {ot_test_seed(99)};
    char text[256];
    for (int round = 0; round < 2000; round++) {
        size_t n = 0, want = ot_test_rng_below(&rng, 120);
        while (n < want) {
            const char *piece = pieces[ot_test_rng_below(&rng, COUNT(pieces))];
            if (round % 2) {
                text[n++] = (char)ot_test_rng_below(&rng, 256);
            } else {
                memcpy(text + n, piece, strlen(piece));
                n += strlen(piece);
            }
        }
        ot_test_context("round %d", round);
        if (!round_trips(t, text, n, 0))
            break;
    }
    ot_test_context(NULL);
}

static void any_bytes_round_trip_through_bpe(void)
{
    static const char *const pre[] = {"gpt-2", "smollm", "llama-bpe", "qwen2", "deepseek-llm", "falcon", "gpt-4o", "bloom"};
    small_bpe(&v);
    for (size_t i = 0; i < COUNT(pre); i++) {
        ot_tokenizer *t = open_vocabulary("gpt2", pre[i], &v, small_merges, COUNT(small_merges), NULL);
        REQUIRE(t != NULL);
        any_bytes_round_trip(t);
        ot_tokenizer_close(&t);
    }
}

static void a_million_letters_take_no_quadratic_time(const ot_tokenizer *t)
{
    size_t n = 1 << 20, n_ids;
    char *text = malloc(n);
    int32_t *ids;
    ot_error err = {0};
    REQUIRE(text != NULL);
    for (int pattern = 0; pattern < 3; pattern++) {
        for (size_t i = 0; i < n; i++)
            text[i] = pattern == 0 ? 'a' : pattern == 1 ? "abc"[i % 3] : "<|end"[i % 5];
        double begin = ot_test_now_seconds();
        REQUIRE_OK(ot_tokenize(t, text, n, OT_TOKENIZE_SPECIAL, &ids, &n_ids, &err), &err);
        double seconds = ot_test_now_seconds() - begin;
        ot_test_context("pattern %d took %.1f s", pattern, seconds);
        CHECK(seconds < 20.0); /* about 0.3 s; with quadratic time it would be an hour */
        CHECK(n_ids > 0 && n_ids <= n + 1);
        free(ids);
    }
    ot_test_context(NULL);
    free(text);
}

static void long_words_take_no_quadratic_time(void)
{
    small_bpe(&v);
    ot_tokenizer *t = open_vocabulary("gpt2", "gpt-2", &v, small_merges, COUNT(small_merges), NULL);
    REQUIRE(t != NULL);
    a_million_letters_take_no_quadratic_time(t);
    ot_tokenizer_close(&t);
}

static void bytes_that_the_vocabulary_lacks_are_dropped(void)
{
    static const char *const merges[] = {"a b"};
    memset(&v, 0, sizeof v);
    add_token(&v, "a", NORMAL, 0);
    add_token(&v, "b", NORMAL, 0);
    add_token(&v, "ab", NORMAL, 0);
    ot_tokenizer *t = open_vocabulary("gpt2", "gpt-2", &v, merges, 1, NULL);
    REQUIRE(t != NULL);
    CHECK_STR(ids_of(t, "abcab", 5, 0), "2 2");
    CHECK_STR(ids_of(t, "acb", 3, 0), "2"); /* before merging, as the reference does */
    CHECK_STR(ids_of(t, "cccc", 4, 0), "");
    ot_tokenizer_close(&t);
}

/* ---- A small SentencePiece vocabulary -------------------------------------------------------------------- */

#define SP "\xE2\x96\x81"

static void no_space_prefix(ot_gguf_writer *w)
{
    ot_gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", false);
    ot_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", false);
}

/* 0 <unk>, 1 <s>, 2 </s>, 3 to 258 the bytes, then pieces. */
static void small_spm(void)
{
    memset(&v, 0, sizeof v);
    add_token(&v, "<unk>", UNKNOWN, 0);
    add_token(&v, "<s>", CONTROL, 0);
    add_token(&v, "</s>", CONTROL, 0);
    for (unsigned b = 0; b < 256; b++) {
        snprintf(v.texts[v.n], sizeof v.texts[0], "<0x%02X>", b);
        add_token(&v, v.texts[v.n], BYTE, 0);
    }
    add_token(&v, "a", NORMAL, -10);        /* 259 */
    add_token(&v, "b", NORMAL, -11);        /* 260 */
    add_token(&v, SP, NORMAL, -12);         /* 261 */
    add_token(&v, "ab", NORMAL, -3);        /* 262 */
    add_token(&v, SP "a", NORMAL, -2);      /* 263 */
    add_token(&v, "ba", NORMAL, -3);        /* 264 */
    add_token(&v, SP SP, NORMAL, -4);       /* 265 */
    add_token(&v, "<", NORMAL, -20);        /* 266 */
    add_token(&v, "s>", NORMAL, -5);        /* 267 */
    add_token(&v, "s", NORMAL, -13);        /* 268 */
    add_token(&v, ">", NORMAL, -14);        /* 269 */
    add_token(&v, "<tool>", USER, 0);       /* 270 */
    add_token(&v, "  ", USER, 0);           /* 271 */
}

static void pieces_merge_by_score(void)
{
    static const struct {
        const char *text, *ids;
        unsigned flags;
    } cases[] = {
        {"", "", 0},
        {"ab", "263 260", 0},                   /* " a" scores more than "ab" */
        {"ab", "1 263 260", OT_TOKENIZE_BOS},
        {"bab", "261 264 260", 0},              /* of equal scores the leftmost */
        {" a", "261 263", 0}, {"  ", "271", 0},
        {"\xC3\xA9", "261 198 172", 0},         /* bytes where there is no piece */
        {"\n", "261 13", 0},
        {"<s>", "261 266 267", 0},              /* text never becomes a control token, nor a byte's name a byte */
        {"<0x0A>", "261 266 51 123 51 68 269", 0},
        {"a<s>b", "263 1 261 260", OT_TOKENIZE_SPECIAL},
        {"a<tool>a", "263 270 263", 0},
        {SP, "265", 0}, {"b" SP "a", "261 260 263", 0}, /* U+2581 is a space, as in SentencePiece itself */
        {"a  a", "263 271 263", 0},             /* user-defined runs of spaces come before merging */
    };
    small_spm();
    ot_tokenizer *t = open_vocabulary("llama", NULL, &v, NULL, 0, NULL);
    REQUIRE(t != NULL);
    for (size_t i = 0; i < COUNT(cases); i++) {
        ot_test_context("\"%s\"", cases[i].text);
        CHECK_STR(ids_of(t, cases[i].text, strlen(cases[i].text), cases[i].flags), cases[i].ids);
    }
    ot_test_context(NULL);
    CHECK_STR(ot_tokenizer_model(t), "llama");
    CHECK_STR(ot_tokenizer_pre(t), "");
    CHECK(ot_tokenizer_adds_bos(t) && ot_tokenizer_bos(t) == 1 && ot_tokenizer_is_eog(t, 2));
    ot_str bytes = ot_token_bytes(t, 263);
    CHECK_BYTES(bytes.data, bytes.size, " a", 2);
    bytes = ot_token_bytes(t, 13);
    CHECK_BYTES(bytes.data, bytes.size, "\n", 1);
    ot_tokenizer_close(&t);

    t = open_vocabulary("llama", "default", &v, NULL, 0, no_space_prefix);
    REQUIRE(t != NULL);
    CHECK_STR(ids_of(t, "ab", 2, OT_TOKENIZE_BOS), "262");
    CHECK_STR(ids_of(t, " a", 2, 0), "263");
    round_trips(t, " a", 2, 0);
    ot_tokenizer_close(&t);
}

static void any_bytes_round_trip_through_sentencepiece(void)
{
    small_spm();
    for (int prefix = 0; prefix < 2; prefix++) {
        ot_tokenizer *t = open_vocabulary("llama", NULL, &v, NULL, 0, prefix ? NULL : no_space_prefix);
        REQUIRE(t != NULL);
        any_bytes_round_trip(t);
        a_million_letters_take_no_quadratic_time(t);
        ot_tokenizer_close(&t);
    }
}

/* A piece with a space inside is found too: then words are not cut apart before merging. */
static void a_piece_may_join_words(void)
{
    small_spm();
    add_token(&v, "b" SP "a", NORMAL, -1); /* 272 */
    ot_tokenizer *t = open_vocabulary("llama", NULL, &v, NULL, 0, NULL);
    REQUIRE(t != NULL);
    CHECK_STR(ids_of(t, "b ab", 4, 0), "261 272 260");
    CHECK_STR(ids_of(t, "a a", 3, 0), "263 263");
    ot_tokenizer_close(&t);
}

/* BOS and EOS are control tokens even where the file has them as ordinary ones; </s> ends only where it is control. */
static void ends_in_bc(ot_gguf_writer *w)
{
    ot_gguf_put_u32(w, "tokenizer.ggml.eos_token_id", 258);
    ot_gguf_put_u32(w, "tokenizer.ggml.bos_token_id", 257);
    ot_gguf_put_u32(w, "tokenizer.ggml.eot_token_id", 4000000000u);
}

static void keys_of_the_file_make_control_tokens(void)
{
    small_bpe(&v);
    add_token(&v, "</s>", USER, 0); /* 270 */
    ot_tokenizer *t = open_vocabulary("gpt2", "llama-bpe", &v, small_merges, COUNT(small_merges), ends_in_bc);
    REQUIRE(t != NULL);
    CHECK(ot_tokenizer_is_special(t, 258) && ot_tokenizer_is_eog(t, 258));
    CHECK(ot_tokenizer_is_special(t, 257) && !ot_tokenizer_is_eog(t, 257));
    CHECK(!ot_tokenizer_is_special(t, 270) && !ot_tokenizer_is_eog(t, 270));
    CHECK_STR(ids_of(t, "bc", 2, 0), "98 99");
    CHECK_STR(ids_of(t, "</s>", 4, 0), "60 47 115 62"); /* not from what somebody typed */
    CHECK_STR(ids_of(t, "</s>", 4, OT_TOKENIZE_SPECIAL), "270");
    CHECK_STR(ids_of(t, "bc", 2, OT_TOKENIZE_SPECIAL | OT_TOKENIZE_BOS), "257 258"); /* llama-bpe wants BOS */
    ot_tokenizer_close(&t);
}

/* Command R's vocabulary has some characters twice: spelt in the byte alphabet, and as they are. Merging makes the former. */
static void raw_twins_are_never_made(void)
{
    static const char *const merges[] = {"\xC3\xA2 \xC4\xA2", "\xC3\xA2\xC4\xA2 \xC4\xAF"};
    small_bpe(&v);
    add_token(&v, "\xE2\x80\x8D", NORMAL, 0);                   /* 270: U+200D as it is */
    add_token(&v, "\xC3\xA2\xC4\xA2\xC4\xAF", NORMAL, 0);      /* 271: the same, spelt */
    add_token(&v, "\xC3\xA2\xC4\xA2", NORMAL, 0);
    ot_tokenizer *t = open_vocabulary("gpt2", "gpt-2", &v, merges, COUNT(merges), NULL);
    REQUIRE(t != NULL);
    CHECK_STR(ids_of(t, "\xE2\x80\x8D", 3, 0), "271");
    ot_str raw = ot_token_bytes(t, 270);
    CHECK_BYTES(raw.data, raw.size, "\xE2\x80\x8D", 3);
    ot_tokenizer_close(&t);
}

static void decoding_can_keep_the_first_space(void)
{
    small_spm();
    ot_tokenizer *t = open_vocabulary("llama", NULL, &v, NULL, 0, NULL);
    REQUIRE(t != NULL);
    const int32_t ids[] = {1, 263, 260};
    ot_error err = {0};
    char *text;
    size_t size;
    REQUIRE_OK(ot_detokenize(t, ids, 3, false, false, &text, &size, &err), &err);
    CHECK_STR(text, " ab");
    free(text);
    REQUIRE_OK(ot_detokenize(t, ids, 3, false, true, &text, &size, &err), &err);
    CHECK_STR(text, "ab");
    free(text);
    ot_tokenizer_close(&t);
}

/* ---- Files that are refused ------------------------------------------------------------------------------ */

static void refused(const char *path, ot_status status, const char *part)
{
    ot_error err = {0};
    ot_gguf *gguf;
    ot_tokenizer *t;
    REQUIRE(path != NULL);
    REQUIRE_OK(ot_gguf_open(&gguf, path, &err), &err);
    CHECK_STATUS(ot_tokenizer_open(&t, gguf, &err), status, &err);
    CHECK_CONTAINS(err.message, part);
    CHECK(t == NULL);
    ot_tokenizer_close(&t);
    ot_gguf_close(&gguf);
}

static void short_types(ot_gguf_writer *w)
{
    const float scores[2] = {0, 0};
    ot_gguf_put_f32_array(w, "tokenizer.ggml.scores", scores, 2);
}

static void bad_files_are_refused_by_name(void)
{
    static const char *const no_space[] = {"a b", "ab"};
    small_bpe(&v);
    refused(write_vocabulary("gpt2", "no-such-pre", &v, small_merges, COUNT(small_merges), NULL), OT_ERR_UNSUPPORTED,
            "no-such-pre");
    refused(write_vocabulary("bert", "gpt-2", &v, small_merges, COUNT(small_merges), NULL), OT_ERR_UNSUPPORTED, "bert");
    refused(write_vocabulary("gpt2", "gpt-2", &v, no_space, 2, NULL), OT_ERR_FORMAT, "'tokenizer.ggml.merges'[1] at byte ");
    refused(write_vocabulary("gpt2", "gpt-2", &v, NULL, 0, NULL), OT_ERR_NOT_FOUND, "tokenizer.ggml.merges");
    refused(write_vocabulary("gpt2", "gpt-2", &v, small_merges, COUNT(small_merges), short_types), OT_ERR_FORMAT,
            "tokenizer.ggml.scores");
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(published_cases_of_gpt2);
    RUN(published_cases_of_llama);
    RUN(default_model_agrees_with_the_reference);
    RUN(default_model_knows_its_special_tokens);
    RUN(merges_go_by_rank_then_from_the_left);
    RUN(whole_words_come_before_merges_where_the_file_says_so);
    RUN(long_words_merge_as_short_ones);
    RUN(specials_are_found_first_and_longest);
    RUN(any_bytes_round_trip_through_bpe);
    RUN(long_words_take_no_quadratic_time);
    RUN(bytes_that_the_vocabulary_lacks_are_dropped);
    RUN(pieces_merge_by_score);
    RUN(any_bytes_round_trip_through_sentencepiece);
    RUN(a_piece_may_join_words);
    RUN(keys_of_the_file_make_control_tokens);
    RUN(raw_twins_are_never_made);
    RUN(decoding_can_keep_the_first_space);
    RUN(bad_files_are_refused_by_name);
    return ot_test_finish();
}
