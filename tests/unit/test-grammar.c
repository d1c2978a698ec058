/* Grammars: masks of random grammars against a matcher by brute force, token by token; left recursion, ambiguity and limits; characters
 * cut by tokens of the default model's vocabulary; what is kept, and made anew. */
#include "grammar/grammar.h"
#include "tests/support/grammar-oracle.h"
#include "tests/support/test-support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum { BYTE = 6, NORMAL = 1, CONTROL = 3, END = 0, MARK = 1 };

static ot_tokenizer *tokenizer, *real_tokenizer;
static ot_token_trie *trie, *real_trie;

/* ---- A small vocabulary ---------------------------------------------------------------------------------- */

/* </s> and a mark, then texts over a, b, c, comma: all single ones, some twice, and longer ones. */
static bool open_small_vocabulary(void)
{
    static char texts[64][8];
    const char *tokens[64] = {"</s>", "<mark>"};
    uint32_t types[64] = {CONTROL, CONTROL}, n = 2;
    float scores[64] = {0};
    ot_test_rng rng = {99};
    for (const char *single = "abc,ab"; *single != '\0'; single++, n++) {
        snprintf(texts[n], sizeof texts[n], "%c", *single);
        tokens[n] = texts[n];
        types[n] = NORMAL;
    }
    for (; n < COUNT(tokens); n++) {
        uint32_t size = 2 + ot_test_rng_below(&rng, 5);
        for (uint32_t i = 0; i < size; i++)
            texts[n][i] = "abc,"[ot_test_rng_below(&rng, i == 0 ? 3 : 4)];
        tokens[n] = texts[n];
        types[n] = NORMAL;
    }
    ot_error err = {0};
    ot_gguf_writer *w;
    ot_gguf *gguf;
    const char *path = ot_test_temp_path("small-vocabulary.gguf");
    if (!CHECK_OK(ot_gguf_writer_open(&w, &err), &err))
        return false;
    ot_gguf_put_str(w, "general.architecture", "llama");
    ot_gguf_put_str(w, "tokenizer.ggml.model", "llama");
    ot_gguf_put_str_array(w, "tokenizer.ggml.tokens", tokens, n);
    ot_gguf_put_u32_array(w, "tokenizer.ggml.token_type", types, n);
    ot_gguf_put_f32_array(w, "tokenizer.ggml.scores", scores, n);
    ot_gguf_put_u32(w, "tokenizer.ggml.eos_token_id", END);
    bool written = CHECK_OK(ot_gguf_write(w, path, &err), &err);
    ot_gguf_writer_close(&w);
    if (!written || !CHECK_OK(ot_gguf_open(&gguf, path, &err), &err))
        return false;
    bool opened = CHECK_OK(ot_tokenizer_open(&tokenizer, gguf, &err), &err);
    ot_gguf_close(&gguf);
    return opened && CHECK_OK(ot_token_trie_open(&trie, tokenizer, n, &err), &err);
}

static bool is_allowed(const uint64_t *mask, int32_t token)
{
    return mask != NULL && (mask[token / 64] >> token % 64 & 1) != 0;
}

/* ---- Random grammars ------------------------------------------------------------------------------------- */

static ot_expr *random_expr(ot_grammar_builder *b, ot_test_rng *rng, uint32_t n_rules, int depth)
{
    static const char letters[] = "abc";
    uint32_t kind = ot_test_rng_below(rng, depth > 0 ? 10 : 4);
    ot_expr *items[3];
    bool optional[3];
    if (kind <= 1) {
        char text[3];
        uint32_t n = ot_test_rng_below(rng, 8) == 0 ? 0 : 1 + ot_test_rng_below(rng, 2);
        for (uint32_t i = 0; i < n; i++)
            text[i] = letters[ot_test_rng_below(rng, 3)];
        return ot_expr_text(b, text, n);
    }
    if (kind == 2) {
        uint32_t first = ot_test_rng_below(rng, 3);
        return ot_expr_chars(b, &(ot_char_range){(uint32_t)letters[first], (uint32_t)letters[first + ot_test_rng_below(rng, 3 - first)]}, 1, false);
    }
    if (kind == 3)
        return ot_test_rng_below(rng, 12) == 0 ? ot_expr_nothing(b) : ot_expr_call(b, ot_test_rng_below(rng, n_rules));
    uint32_t n = 2 + ot_test_rng_below(rng, 2);
    for (uint32_t i = 0; i < n; i++) {
        items[i] = random_expr(b, rng, n_rules, depth - 1);
        optional[i] = ot_test_rng_below(rng, 2) == 0;
    }
    if (kind <= 6)
        return ot_expr_list(b, OT_EXPR_SEQUENCE, items, n);
    if (kind == 7)
        return ot_expr_list(b, OT_EXPR_EITHER, items, n);
    if (kind == 8) {
        uint32_t min = ot_test_rng_below(rng, 3);
        return ot_expr_repeat(b, items[0], min, ot_test_rng_below(rng, 2) == 0 ? OT_REPEAT_NO_END : min + ot_test_rng_below(rng, 3));
    }
    return ot_expr_joined(b, items, optional, n - 1, ot_expr_word(b, ","), ot_test_rng_below(rng, 2) == 0 ? items[n - 1] : NULL);
}

/* Every token at the place of a text: allowed exactly if the text with it can become one of the grammar. */
static bool mask_is_exact(const ot_grammar_builder *b, const uint64_t *mask, const char *text, size_t size)
{
    grammar_verdict now = grammar_oracle(b, text, size);
    bool exact = CHECK_INT(is_allowed(mask, END), now.matches) && CHECK_INT(is_allowed(mask, MARK), false);
    for (int32_t token = MARK + 1; token < (int32_t)trie->n_vocab && exact; token++) {
        char longer[ORACLE_MAX_TEXT + 16];
        ot_str bytes = ot_token_bytes(tokenizer, token);
        memcpy(longer, text, size);
        memcpy(longer + size, bytes.data, bytes.size);
        grammar_verdict then = grammar_oracle(b, longer, size + bytes.size);
        ot_test_context("text '%.*s', token '%.*s'", (int)size, text, (int)bytes.size, bytes.data);
        exact = CHECK_INT(is_allowed(mask, token), then.matches || then.goes_on);
    }
    ot_test_context(NULL);
    return exact;
}

/* Writes a text by random tokens that the mask allows. True if all masks were exact. */
static bool walk(const ot_grammar_builder *b, ot_grammar *g, ot_test_rng *rng)
{
    ot_constraint c;
    ot_error err;
    char text[ORACLE_MAX_TEXT + 16];
    size_t size = 0;
    bool exact = true;
    ot_constraint_begin(&c, g);
    while (exact && size < 24) {
        const uint64_t *mask = ot_constraint_mask(&c, &err);
        int32_t allowed[64];
        uint32_t n = 0;
        exact = CHECK(mask != NULL) && mask_is_exact(b, mask, text, size) && CHECK_INT(ot_constraint_may_end(&c), is_allowed(mask, END));
        for (int32_t token = MARK + 1; token < (int32_t)trie->n_vocab && exact; token++)
            if (is_allowed(mask, token))
                allowed[n++] = token;
        if (n == 0)
            break;
        int32_t token = allowed[ot_test_rng_below(rng, n)];
        ot_str bytes = ot_token_bytes(tokenizer, token);
        memcpy(text + size, bytes.data, bytes.size);
        size += bytes.size;
        exact = exact && CHECK(ot_constraint_accept(&c, token, &err));
    }
    ot_constraint_end(&c);
    return exact;
}

static void masks_of_random_grammars_are_exact(void)
{
    ot_test_rng rng = {ot_test_seed(16)};
    int n_compiled = 0, n_refused = 0;
    for (int round = 0; round < 200; round++) {
        ot_error err;
        ot_grammar_builder *b;
        ot_grammar *g;
        REQUIRE_OK(ot_grammar_builder_open(&b, &err), &err);
        uint32_t n_rules = 1 + ot_test_rng_below(&rng, 4);
        for (uint32_t r = 0; r < n_rules; r++)
            ot_rule_add(b, "rule");
        for (uint32_t r = 0; r < n_rules; r++)
            ot_rule_define(b, r, random_expr(b, &rng, n_rules, 3));
        ot_status st = ot_grammar_compile(&g, b, trie, &err);
        if (st == OT_OK) {
            bool exact = walk(b, g, &rng) && walk(b, g, &rng);
            n_compiled++;
            ot_grammar_release(&g);
            if (!exact) {
                printf("round %d\n", round);
                ot_grammar_builder_close(&b);
                return;
            }
        } else {
            n_refused++;
            grammar_verdict nothing = grammar_oracle(b, "", 0);
            if (strstr(err.message, "no text matches") != NULL)
                CHECK(!nothing.matches && !nothing.goes_on);
            else
                CHECK_CONTAINS(err.message, "begin with each other");
        }
        ot_grammar_builder_close(&b);
    }
    printf("    %d grammars, %d refused\n", n_compiled, n_refused);
    CHECK(n_compiled > 120);
}

/* ---- By hand --------------------------------------------------------------------------------------------- */

static ot_grammar *compile_gbnf(const char *text, const ot_token_trie *t)
{
    ot_error err = {0};
    ot_grammar_builder *b;
    ot_grammar *g = NULL;
    if (CHECK_OK(ot_grammar_builder_open(&b, &err), &err)) {
        ot_grammar_read_gbnf(b, text, strlen(text));
        CHECK_OK(ot_grammar_compile(&g, b, t, &err), &err);
        ot_grammar_builder_close(&b);
    }
    return g;
}

static void refuse_gbnf(const char *text, const char *part)
{
    ot_error err = {0};
    ot_grammar_builder *b;
    ot_grammar *g = NULL;
    REQUIRE_OK(ot_grammar_builder_open(&b, &err), &err);
    ot_grammar_read_gbnf(b, text, strlen(text));
    CHECK_INT(ot_grammar_compile(&g, b, trie, &err), OT_ERR_INVALID);
    CHECK_CONTAINS(err.message, part);
    CHECK(g == NULL);
    ot_grammar_builder_close(&b);
}

static void rules_may_begin_with_themselves(void)
{
    ot_grammar *g = compile_gbnf("root ::= root \",\" item | item\nitem ::= \"a\"+ | \"(\" root \")\"", trie);
    REQUIRE(g != NULL);
    CHECK(ot_grammar_matches(g, "a,aa,(a,a),a", 12));
    CHECK(!ot_grammar_matches(g, "a,,a", 4));
    CHECK(!ot_grammar_matches(g, ",a", 2));
    CHECK(!ot_grammar_matches(g, "", 0));
    ot_grammar_release(&g);
}

/* Every way of putting brackets around up to 200 a's: their number grows as 4^n, the work must not. */
static void ambiguity_is_no_explosion(void)
{
    ot_grammar *g = compile_gbnf("root ::= root root | \"a\" | \"a\" root \"a\"", trie);
    char text[200];
    memset(text, 'a', sizeof text);
    REQUIRE(g != NULL);
    for (size_t n = 1; n <= sizeof text; n += 7)
        CHECK(ot_grammar_matches(g, text, n));
    ot_grammar_release(&g);
}

static void stacks_are_tidied_when_they_are_many(void)
{
    ot_grammar *g = compile_gbnf("root ::= (\"a\" root \"b\" | \"a\" root \"c\" | \",\")", trie);
    ot_constraint c[8];
    ot_error err = {0};
    REQUIRE(g != NULL);
    int32_t a = ot_tokenizer_find(tokenizer, "a", 1), comma = ot_tokenizer_find(tokenizer, ",", 1), b = ot_tokenizer_find(tokenizer, "b", 1);
    for (int round = 0; round < 400; round++)
        for (size_t i = 0; i < COUNT(c); i++) {
            if (round == 0)
                ot_constraint_begin(&c[i], g);
            if (!CHECK(ot_constraint_accept(&c[i], a, &err)) || !CHECK(ot_constraint_mask(&c[i], &err) != NULL))
                return;
        }
    for (size_t i = 0; i < COUNT(c); i++) {
        CHECK(ot_constraint_accept(&c[i], comma, &err));
        for (int round = 0; round < 400; round++)
            if (!CHECK(ot_constraint_accept(&c[i], b, &err)))
                return;
        CHECK(ot_constraint_may_end(&c[i]));
        CHECK(!ot_constraint_accept(&c[i], b, &err));
        ot_constraint_end(&c[i]);
    }
    ot_grammar_release(&g);
}

static void forced_bytes_become_tokens(void)
{
    ot_grammar *g = compile_gbnf("root ::= \"a\" (\"bcab,ca\" | \"c\" [ab] \"bb\")", trie);
    ot_constraint c;
    ot_error err = {0};
    int32_t tokens[16];
    char text[64];
    size_t size = 0;
    REQUIRE(g != NULL);
    ot_constraint_begin(&c, g);
    REQUIRE(ot_constraint_accept(&c, ot_tokenizer_find(tokenizer, "a", 1), &err));
    CHECK_UINT(ot_constraint_forced(&c, tokens, 16), 0); /* b or c */
    uint32_t n = ot_constraint_forced_after(&c, ot_tokenizer_find(tokenizer, "b", 1), tokens, 16);
    for (uint32_t i = 0; i < n; i++) {
        ot_str bytes = ot_token_bytes(tokenizer, tokens[i]);
        memcpy(text + size, bytes.data, bytes.size);
        size += bytes.size;
    }
    CHECK_BYTES(text, size, "cab,ca", 6);
    CHECK_UINT(ot_constraint_forced_after(&c, ot_tokenizer_find(tokenizer, "c", 1), tokens, 16), 0);
    ot_constraint_end(&c);
    ot_grammar_release(&g);
}

static void what_is_too_much_is_refused(void)
{
    refuse_gbnf("root ::= \"a\" root", "no text matches");
    refuse_gbnf("root ::= a\na ::= b \"x\" | \"x\"\nb ::= a \"y\" | \"y\"", "begin with each other");
    refuse_gbnf("root ::= missing", "'missing' is used but not defined");
    refuse_gbnf("root ::= \"a\"{70000}", "more than 65536 times");
    refuse_gbnf("root ::= ((\"a\"{1000}){1000}){1000}", "too large");
    refuse_gbnf("root ::= ([ab]* \"a\" [ab]{30})+ \"c\"", "too complex");
    refuse_gbnf("root ::= \"a", "literal");
    refuse_gbnf("root ::= (\"a\"", "no )");
    refuse_gbnf("", "'root' is used but not defined");
}

/* ---- The default model's vocabulary ---------------------------------------------------------------------- */

static size_t utf8_size(unsigned char lead)
{
    return lead < 0x80 ? 1 : lead >= 0xC2 && lead < 0xE0 ? 2 : lead >= 0xE0 && lead < 0xF0 ? 3 : lead >= 0xF0 && lead < 0xF5 ? 4 : 0;
}

/* Whether bytes are characters between U+0080 and U+10FFFF, the last of which may be cut, after `owed` bytes of one before. */
static bool is_long_text(const unsigned char *text, size_t size)
{
    for (size_t at = 0; at < size;) {
        size_t n = utf8_size(text[at]);
        if (n < 2)
            return false;
        for (size_t i = 1; i < n && at + i < size; i++) {
            unsigned char low = i > 1 ? 0x80 : text[at] == 0xE0 ? 0xA0 : text[at] == 0xF0 ? 0x90 : 0x80;
            unsigned char high = i > 1 ? 0xBF : text[at] == 0xED ? 0x9F : text[at] == 0xF4 ? 0x8F : 0xBF;
            if (text[at + i] < low || text[at + i] > high)
                return false;
        }
        at += n;
    }
    return true;
}

static void characters_may_be_cut_by_tokens(void)
{
    ot_error err = {0};
    unsigned char text[512];
    size_t size = 0, n_cut = 0;
    if (real_trie == NULL)
        SKIP_CASE("no model");
    ot_grammar *g = compile_gbnf("root ::= [^\\x00-\\x7f]*", real_trie);
    REQUIRE(g != NULL);
    ot_constraint c;
    ot_test_rng rng = {ot_test_seed(5)};
    ot_constraint_begin(&c, g);
    while (size < 200) {
        const uint64_t *mask = ot_constraint_mask(&c, &err);
        int32_t chosen = -1;
        uint32_t n_allowed = 0;
        REQUIRE(mask != NULL);
        for (int32_t token = 0; token < (int32_t)real_trie->n_vocab; token++) {
            ot_str bytes = ot_token_bytes(real_tokenizer, token);
            if (bytes.size == 0 || bytes.size > 64 || ot_tokenizer_is_special(real_tokenizer, token))
                continue;
            memcpy(text + size, bytes.data, bytes.size);
            if (!CHECK_INT(is_allowed(mask, token), is_long_text(text, size + bytes.size)))
                return;
            if (is_allowed(mask, token) && ot_test_rng_below(&rng, ++n_allowed) == 0)
                chosen = token;
        }
        REQUIRE(chosen >= 0);
        ot_str bytes = ot_token_bytes(real_tokenizer, chosen);
        memcpy(text + size, bytes.data, bytes.size);
        size += bytes.size;
        REQUIRE(ot_constraint_accept(&c, chosen, &err));
        n_cut += !ot_constraint_may_end(&c);
    }
    CHECK(n_cut > 10);
    ot_constraint_end(&c);
    ot_grammar_release(&g);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    ot_error err = {0};
    ot_gguf *gguf;
    const char *model = ot_test_model_path();
    if (!open_small_vocabulary())
        return ot_test_finish();
    if (model != NULL && ot_gguf_open(&gguf, model, &err) == OT_OK) {
        if (CHECK_OK(ot_tokenizer_open(&real_tokenizer, gguf, &err), &err))
            CHECK_OK(ot_token_trie_open(&real_trie, real_tokenizer, ot_tokenizer_vocab_size(real_tokenizer), &err), &err);
        ot_gguf_close(&gguf);
    }
    RUN(masks_of_random_grammars_are_exact);
    RUN(rules_may_begin_with_themselves);
    RUN(ambiguity_is_no_explosion);
    RUN(stacks_are_tidied_when_they_are_many);
    RUN(forced_bytes_become_tokens);
    RUN(what_is_too_much_is_refused);
    RUN(characters_may_be_cut_by_tokens);
    ot_token_trie_close(&trie);
    ot_tokenizer_close(&tokenizer);
    ot_token_trie_close(&real_trie);
    ot_tokenizer_close(&real_tokenizer);
    return ot_test_finish();
}
