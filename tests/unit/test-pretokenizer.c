/* Pre-tokenizers: each against the words that the expressions of its tokenizer.json give (obtained with the package
 * tokenizers), and on random bytes for what must hold of all: the words are the text, in linear time. */
#include "text/pretokenizer.h"
#include "tests/support/test-support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* The names share their results on these texts; words are divided by bars, which the texts do not have. */
static const struct {
    const char *names;
    const char *words[3];
} expected[] = {
    {"gpt-2",
     {"Hello| | World|'s| 12345| HTTPServer|'|LL|!?|\r\n\n | x",
      "été| あ漢字一| 가| \u0301|a| '|İ|'|S|\t\t|\u00A0|y| 3|/|4|//|\n",
      "a|.|b|,|c| (|d|)| +|1|.|50|$| `|x|`| <|y|>~| “|q|”|  \n \n"}},
    {"smollm starcoder",
     {"Hello| | World|'s| |1|2|3|4|5| HTTPServer|'|LL|!?|\r\n\n | x",
      "été| あ漢字一| 가| \u0301|a| '|İ|'|S|\t\t|\u00A0|y| |3|/|4|//|\n",
      "a|.|b|,|c| (|d|)| +|1|.|5|0|$| `|x|`| <|y|>~| “|q|”|  \n \n"}},
    {"llama-bpe dbrx minicpm5",
     {"Hello| | World|'s| |123|45| HTTPServer|'LL|!?\r\n\n| | x",
      "été| あ漢字一| 가| \u0301|a| '|İ|'S|\t\t|\u00A0y| |3|/|4|//\n",
      "a|.b|,c| (|d|)| +|1|.|50|$| `|x|`| <|y|>~| “|q|”|  \n \n"}},
    {"qwen2",
     {"Hello| | World|'s| |1|2|3|4|5| HTTPServer|'LL|!?\r\n\n| | x",
      "été| あ漢字一| 가| \u0301|a| '|İ|'S|\t\t|\u00A0y| |3|/|4|//\n",
      "a|.b|,c| (|d|)| +|1|.|5|0|$| `|x|`| <|y|>~| “|q|”|  \n \n"}},
    {"qwen35 tekken",
     {"Hello| | World|'s| |1|2|3|4|5| HTTPServer|'LL|!?\r\n\n| | x",
      "été| あ漢字一| 가| \u0301a| '|İ|'S|\t\t|\u00A0y| |3|/|4|//\n",
      "a|.b|,c| (|d|)| +|1|.|5|0|$| `|x|`| <|y|>~| “|q|”|  \n \n"}},
    {"seed-coder",
     {"Hello| | World|'s| |1|2|3|4|5| HTTPServer|'LL|!?|\r\n\n| | x",
      "été| あ漢字一| 가| \u0301|a| '|İ|'S|\t\t|\u00A0y| |3|/|4|//|\n",
      "a|.b|,c| (|d|)| +|1|.|5|0|$| `|x|`| <|y|>~| “|q|”|  \n \n"}},
    {"gpt-4o",
     {"Hello| | World's| |123|45| HTTPServer'LL|!?\r\n\n| | x",
      "été| あ漢字一| 가| \u0301a| '|İ'S|\t\t|\u00A0y| |3|/|4|//\n",
      "a|.b|,c| (|d|)| +|1|.|50|$| `|x|`| <|y|>~| “|q|”|  \n \n"}},
    {"laguna",
     {"Hello| | World|'s| |1|2|3|4|5| HTTPServer|'LL|!?\r|\n\n| | x",
      "été| あ漢字一| 가| \u0301|a| '|İ|'S|\t\t|\u00A0y| |3|/|4|//|\n",
      "a|.b|,c| (|d|)| +|1|.|5|0|$| `|x|`| <|y|>~| “|q|”|  |\n| |\n"}},
    {"deepseek-coder",
     {"Hello| | World|'|s| |1|2|3|4|5| HTTPServer|'|LL|!?|\r|\n|\n| | x",
      "été| |あ漢字一| |가| \u0301|a| '|İ|'|S|\t\t|\u00A0y| |3|/|4|//|\n",
      "a|.|b|,|c| (|d|)| +|1|.|5|0|$ `|x|` <|y|>~| |“|q|”|  |\n| |\n"}},
    {"deepseek-v3",
     {"Hello| | World|'s| |123|45| HTTPServer|'LL|!?\r\n\n| | x",
      "été| |あ漢字一| 가| \u0301a| '|İ|'S|\t\t|\u00A0y| |3|/|4|//\n",
      "a|.b|,c| (|d|)| +|1|.|50|$| `|x|`| <|y|>~| “|q|”|  \n \n"}},
    {"falcon",
     {"Hello| | World|'|s| |123|45| HTTPServer|'|LL|!?|\r\n\n | x",
      "été| あ漢字一| 가| \u0301|a| |'|İ|'|S|\t\t|\u00A0|y| 3|/|4|//|\n",
      "a|.|b|,|c| |(|d|)| |+|1|.|50|$| |`|x|`| |<|y|>~| |“|q|”|  \n \n"}},
    {"default",
     {"Hello| | World|'|s| |123|45| HTTPServer|'|LL|!?|\r\n\n | x",
      "été| あ漢字一| 가| \u0301|a| |'|İ|'|S|\t\t|\u00A0|y| |3|/|4|//|\n",
      "a|.|b|,|c| |(|d|)| |+|1|.|50|$| `|x|`| |<|y|>~| |“|q|”|  \n \n"}},
    {"bloom",
     {"Hello| | World's| 12345| HTTPServer'LL|!?\r\n\n | x",
      "été| あ漢字一| 가| \u0301a| 'İ'S|\t\t\u00A0|y| 3/4//|\n",
      "a|.|b|,|c| (|d|)| +1|.|50$| `x`| <y>~| “q”|  \n \n"}},
    {"viking",
     {"Hello| | World's| |1|2|3|4|5| HTTPServer'LL|!?\r\n\n | x",
      "été| あ漢字一| 가| \u0301a| 'İ'S|\t\t\u00A0|y| |3|/|4|//|\n",
      "a|.|b|,|c| (|d|)| +|1|.|5|0|$| `x`| <y>~| “q”|  \n \n"}},
    {"deepseek-llm",
     {"Hello| | World|'|s| |12345| HTTPServer|'|LL|!?|\r|\n|\n| | x",
      "é|t|é| |あ漢字一| |가| \u0301|a| '|İ|'|S|\t\t|\u00A0y| |3|/|4|//|\n",
      "a|.|b|,|c| (|d|)| +|1|.|50|$| `|x|`| <|y|>~| |“|q|”|  |\n| |\n"}},
};

typedef struct collector {
    char words[512]; /* with bars between */
    size_t size;
} collector;

static bool collect(void *context, const char *word, size_t size)
{
    collector *c = context;
    if (c->size + size + 2 > sizeof c->words)
        return false;
    if (c->size > 0)
        c->words[c->size++] = '|';
    memcpy(c->words + c->size, word, size);
    c->size += size;
    c->words[c->size] = '\0';
    return true;
}

static void check_words(const char *name, size_t name_size, const char *words)
{
    char text[512];
    size_t size = 0;
    for (const char *at = words; *at != '\0'; at++)
        if (*at != '|')
            text[size++] = *at;
    collector c = {.size = 0};
    const ot_pretokenizer *p = ot_pretokenizer_find(name, name_size);
    ot_test_context("pre-tokenizer %.*s", (int)name_size, name);
    REQUIRE(p != NULL);
    CHECK(ot_pretokenize(p, text, size, collect, &c));
    CHECK_STR(c.words, words);
}

static void splits_as_the_expressions_do(void)
{
    for (size_t i = 0; i < COUNT(expected); i++)
        for (const char *name = expected[i].names; *name != '\0'; name += strspn(name, " ")) {
            size_t size = strcspn(name, " ");
            for (size_t k = 0; k < COUNT(expected[i].words); k++)
                check_words(name, size, expected[i].words[k]);
            name += size;
        }
    ot_test_context(NULL);
}

static void other_names_of_the_same(void)
{
    static const struct {
        const char *name, *like;
    } same[] = {{"llama3", "llama-bpe"}, {"llama-v3", "llama-bpe"}, {"falcon3", "llama-bpe"}, {"mpt", "gpt-2"},
                {"olmo", "gpt-2"}, {"refact", "starcoder"}, {"command-r", "starcoder"}, {"stablelm2", "qwen2"},
                {"smaug-bpe", "dbrx"}, {"llama4", "gpt-4o"}, {"", "default"}};
    for (size_t i = 0; i < COUNT(same); i++) {
        const ot_pretokenizer *p = ot_pretokenizer_find(same[i].name, strlen(same[i].name));
        ot_test_context("%s", same[i].name);
        CHECK(p != NULL && p == ot_pretokenizer_find(same[i].like, strlen(same[i].like)));
    }
    ot_test_context(NULL);
    CHECK(ot_pretokenizer_find("gpt", 3) == NULL);
    CHECK(ot_pretokenizer_find("gpt-2 ", 6) == NULL);
    CHECK(ot_pretokenizer_find("GPT-2", 5) == NULL);
    CHECK(ot_pretokenizer_find("bert", 4) == NULL);
}

static bool count_bytes(void *context, const char *word, size_t size)
{
    const char **at = context;
    bool next = word == *at && size > 0;
    *at += size;
    return next;
}

static void words_are_the_text(void)
{
    static const char alphabet[] = "aZ'sStTlLrReE  \t\n\r09!/$`\xC3\xA9\xE4\xB8\x80\xCC\x81\xE3\x80\x80\xFF\xF0\x9F";
    ot_test_rng rng = {ot_test_seed(20240607)};
    char text[300];
    for (int round = 0; round < 2000; round++) {
        size_t size = ot_test_rng_below(&rng, sizeof text);
        for (size_t i = 0; i < size; i++)
            text[i] = round % 2 ? (char)ot_test_rng_below(&rng, 256) : alphabet[ot_test_rng_below(&rng, sizeof alphabet - 1)];
        for (size_t i = 0; i < COUNT(expected); i++) {
            const ot_pretokenizer *p = ot_pretokenizer_find(expected[i].names, strcspn(expected[i].names, " "));
            const char *at = text;
            REQUIRE(p != NULL);
            ot_test_context("round %d, %s", round, expected[i].names);
            REQUIRE(ot_pretokenize(p, text, size, count_bytes, &at));
            REQUIRE(at == text + size);
        }
    }
    ot_test_context(NULL);
}

/* Runs that tempt a matcher to look ahead from each position: quadratic time would be minutes. */
static void time_is_linear(void)
{
    static const char *const patterns[] = {" ", "\n", " \n", "a", "A", "Aa", "1", "'", "!", "\xE3\x80\x80", "\xCC\x81" "A", "\xE3\x81\x82" "A",
                                           "\xFF", ". ", "\t "};
    const size_t size = 1 << 17;
    char *text = malloc(size + 1);
    REQUIRE(text != NULL);
    for (size_t k = 0; k < COUNT(patterns); k++) {
        size_t period = strlen(patterns[k]);
        for (size_t i = 0; i < size; i++)
            text[i] = patterns[k][i % period];
        text[size - 1] = 'x';
        for (size_t i = 0; i < COUNT(expected); i++) {
            const ot_pretokenizer *p = ot_pretokenizer_find(expected[i].names, strcspn(expected[i].names, " "));
            const char *at = text;
            REQUIRE(p != NULL);
            double begin = ot_test_now_seconds();
            CHECK(ot_pretokenize(p, text, size, count_bytes, &at));
            double seconds = ot_test_now_seconds() - begin;
            ot_test_context("%s on a run of pattern %zu took %.1f s", expected[i].names, k, seconds);
            CHECK(seconds < 5.0);
        }
    }
    ot_test_context(NULL);
    free(text);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(splits_as_the_expressions_do);
    RUN(other_names_of_the_same);
    RUN(words_are_the_text);
    RUN(time_is_linear);
    return ot_test_finish();
}
