/* Regular expressions, GBNF and Lark: what texts they match, and what is refused by name; the list of compiled grammars. */
#include "grammar/grammar-cache.h"
#include "tests/support/test-support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const ot_token_trie no_tokens = {0};

typedef enum language { REGEX, SEARCH, GBNF, LARK } language;

static void read_language(ot_grammar_builder *b, language l, const char *text)
{
    if (l == GBNF) {
        ot_grammar_read_gbnf(b, text, strlen(text));
    } else if (l == LARK) {
        ot_grammar_read_lark(b, text, strlen(text));
    } else {
        uint32_t root = ot_rule_add(b, "root");
        ot_rule_define(b, root, ot_grammar_read_regex(b, text, strlen(text), l == SEARCH));
    }
}

static ot_grammar *compile(language l, const char *text, ot_error *err)
{
    ot_grammar_builder *b;
    ot_grammar *g = NULL;
    if (!CHECK_OK(ot_grammar_builder_open(&b, err), err))
        return NULL;
    read_language(b, l, text);
    ot_grammar_compile(&g, b, &no_tokens, err);
    ot_grammar_builder_close(&b);
    return g;
}

/* Texts end in a zero each, and the list in an empty one; "\1" stands for the empty text. */
typedef struct language_case {
    const char *source, *yes, *no;
} language_case;

static void check_texts(ot_grammar *g, const char *texts, bool expected)
{
    for (const char *at = texts; *at != '\0'; at += strlen(at) + 1) {
        ot_test_context("'%s'", at);
        CHECK_INT(ot_grammar_matches(g, at, strcmp(at, "\1") == 0 ? 0 : strlen(at)), expected);
    }
}

static void check_cases(language l, const language_case *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        ot_error err = {0};
        ot_grammar *g = compile(l, cases[i].source, &err);
        ot_test_context("%s: %s", cases[i].source, err.message);
        if (!CHECK(g != NULL))
            continue;
        check_texts(g, cases[i].yes, true);
        check_texts(g, cases[i].no, false);
        ot_grammar_release(&g);
    }
    ot_test_context(NULL);
}

static void check_refused(language l, const char *source, const char *part)
{
    ot_error err = {0};
    ot_test_context("%s", source);
    ot_grammar *g = compile(l, source, &err);
    CHECK(g == NULL);
    CHECK_CONTAINS(err.message, part);
    ot_grammar_release(&g);
    ot_test_context(NULL);
}

static void regular_expressions(void)
{
    static const language_case cases[] = {
        {"a|b*c", "a\0c\0bbc\0", "\1\0b\0ac\0"},
        {"^(?:ab)+?$", "ab\0abab\0", "\1\0aba\0"},
        {"(?P<year>\\d{4})-(?<m>\\d{2})", "2024-12\0", "204-12\0"},
        {"[^\\]\\-a-c]{2,3}", "xy\0xyz\0", "x\0ab\0]x\0-x\0wxyz\0"},
        {"[a-]+", "a-a\0", "b\0"},
        {"\\w+\\s\\S\\.", "ab_1 x.\0", "a.\0a  .x\0"},
        {".", "x\0\xC3\xA9\0\xF0\x9F\x98\x80\0", "\n\0\xC3\0xy\0\1\0"},
        {"\\u00e9\\x41\\u{1F600}\\ud83d\\ude00", "\xC3\xA9" "A\xF0\x9F\x98\x80\xF0\x9F\x98\x80\0", "e\0"},
        {"\\p{Lu}\\P{L}", "\xC3\x89" "1\0A.\0", "a1\0AA\0"},
        {"x{2}y{1,}z{0,1}{", "xxy{\0xxyyz{\0", "xy{\0xxz{\0"},
        {"()", "\1\0", "a\0"},
        {"[\xC3\xA0-\xC3\xAF]", "\xC3\xA9\0", "\xC3\xB0\0a\0"},
    };
    static const language_case searches[] = {
        {"b", "b\0abc\0\nb\n\0", "\1\0a\0"},
        {"^b", "b\0bc\0", "ab\0"},
        {"^a|c$", "ab\0bc\0a\0", "b\0ca\0"},
    };
    check_cases(REGEX, cases, COUNT(cases));
    check_cases(SEARCH, searches, COUNT(searches));
    check_refused(REGEX, "a(?!b)", "looking around");
    check_refused(REGEX, "(a)\\1", "back reference");
    check_refused(REGEX, "\\bx", "word boundary");
    check_refused(REGEX, "a++", "possessive");
    check_refused(REGEX, "(?i)a", "flags");
    check_refused(REGEX, "a^b", "an anchor within");
    check_refused(REGEX, "(a", "no )");
    check_refused(REGEX, "a)", "without its (");
    check_refused(REGEX, "[z-a]", "ends before it begins");
    check_refused(REGEX, "*a", "follows nothing");
    check_refused(REGEX, "\\p{Greek}", "category");
    check_refused(REGEX, "\\q", "unknown escape");
    check_refused(REGEX, "(a|aa)*b{65537}", "more than 65536");
}

/* What takes backtracking matchers exponential time. */
static void matching_takes_time_by_the_length_of_the_text(void)
{
    ot_error err = {0};
    char text[4001];
    memset(text, 'a', sizeof text);
    ot_grammar *g = compile(REGEX, "(a+)+(a|a)*(a*a*)*b", &err);
    REQUIRE(g != NULL);
    CHECK(!ot_grammar_matches(g, text, sizeof text));
    text[4000] = 'b';
    CHECK(ot_grammar_matches(g, text, sizeof text));
    ot_grammar_release(&g);
}

static void gbnf(void)
{
    static const language_case cases[] = {
        {"root ::= \"yes\" | \"no\" reason?\nreason ::= \", because \" [a-z ]{1,40} \".\" # why", "yes\0no\0no, because of it.\0", "no,\0yes.\0"},
        {"root ::= (item\n  | \"-\" item)+\n\n# a comment\nitem ::= [0-9]\n  | \"\\x41\\n\\u00e9\"", "1-2\0-A\n\xC3\xA9" "3\0", "\1\0-\0A\0"},
        {"root ::= [^\"\\\\\\]] .", "a\n\0", "\"a\0]a\0"},
        {"root ::= object\nobject ::= \"{\" ws ( pair ( \",\" ws pair )* )? \"}\" ws\npair ::= string \":\" ws value\nvalue ::= object | string\n"
         "string ::= \"\\\"\" [a-z]* \"\\\"\" ws\nws ::= [ \\t\\n]*", "{}\0{ \"a\": {\"b\":\"c\"}, \"d\":\"\" }\0", "{\"a\":}\0{,}\0"},
        {"root ::= \"a\"{2,} \"b\"{,2}", "aa\0", "\0"},
    };
    check_cases(GBNF, cases, COUNT(cases) - 1);
    check_refused(GBNF, cases[COUNT(cases) - 1].source, "a number is missing");
    check_refused(GBNF, "root ::= \"a\"\nroot ::= \"b\"", "defined twice");
    check_refused(GBNF, "root ::= <|end|>", "line 1, column 10: expected a literal");
    check_refused(GBNF, "root = \"a\"", "expected a rule");
    check_refused(GBNF, "root ::= [a", "within a literal");
}

static void lark(void)
{
    static const language_case cases[] = {
        {"start: \"yes\"i | \"no\"", "yes\0YeS\0no\0", "NO\0"},
        {"?start: sum\n?sum: product | sum \"+\" product -> add\n     | sum \"-\" product\n?product: atom | product \"*\" atom\n"
         "atom: NUMBER | \"(\" sum \")\"\n%import common.NUMBER\n%import common.WS_INLINE\n%ignore WS_INLINE", "1+2*3\0 ( 1 - 2.5 ) * 3 \0",
         "1+\0(1\0+1\0"},
        {"start: WORD~2 [\",\" TAIL] \"z\"~1..2\nWORD: \"a\"..\"c\" /[0-9]/\nTAIL.2: (\"x\"|\"y\")+ // comment\n", "a1b2z\0c3c3,xyxzz\0", "a1z\0a1 b2z\0a1b2,z\0"},
        {"%import common (INT, CNAME -> NAME)\nstart: NAME \"=\" INT", "a_1=23\0", "1=2\0"},
        {"start: /a\\/[/b]/", "a//\0a/b\0", "a/\0"},
    };
    check_cases(LARK, cases, COUNT(cases));
    CHECK(ot_grammar_is_lark(cases[0].source, strlen(cases[0].source)));
    CHECK(!ot_grammar_is_lark("root ::= \"a\"", 12));
    check_refused(LARK, "start: _sep{\"a\"}", "templates");
    check_refused(LARK, "start: \"a\"\n%declare X", "directives");
    check_refused(LARK, "%import .other.X\nstart: X", "common");
    check_refused(LARK, "start: /a/s", "flag");
    check_refused(LARK, "%import common.NOTHING\nstart: NOTHING", "'NOTHING'");
    check_refused(LARK, "begin: \"a\"", "'start' is used but not defined");
}

/* ---- Kept by content ------------------------------------------------------------------------------------- */

static int n_read;

static void read_counted(ot_grammar_builder *b, const void *source)
{
    n_read++;
    read_language(b, GBNF, source);
}

static ot_status get(ot_grammars *grammars, const char *text, ot_grammar **out, ot_error *err)
{
    return ot_grammars_get(grammars, text, strlen(text), read_counted, text, out, err);
}

static void equal_grammars_are_compiled_once(void)
{
    ot_error err = {0};
    ot_grammars *grammars;
    ot_grammar *a, *b, *c;
    REQUIRE_OK(ot_grammars_open(&grammars, &no_tokens, (size_t)64 << 20, &err), &err);
    n_read = 0;
    CHECK_OK(get(grammars, "root ::= \"a\"", &a, &err), &err);
    CHECK_OK(get(grammars, "root ::= \"a\"", &b, &err), &err);
    CHECK_OK(get(grammars, "root ::= \"b\"", &c, &err), &err);
    CHECK(a == b && a != c);
    CHECK_INT(n_read, 2);
    ot_grammar *empty = NULL, *none = NULL;
    CHECK_OK(get(grammars, "root ::= ", &empty, &err), &err);
    CHECK_INT(get(grammars, "root ::= x", &none, &err), OT_ERR_INVALID);
    CHECK(none == NULL);
    ot_grammar_release(&empty);
    ot_grammars_stats stats;
    ot_grammars_get_stats(grammars, &stats);
    CHECK_UINT(stats.found, 1);
    CHECK_UINT(stats.compiled, 4);
    CHECK_UINT(stats.refused, 1);
    ot_grammar_release(&b);
    ot_grammars_close(&grammars);
    CHECK(ot_grammar_matches(a, "a", 1)); /* outlives the list */
    ot_grammar_release(&a);
    ot_grammar_release(&c);
}

static void memory_of_grammars_is_bounded(void)
{
    ot_error err = {0};
    ot_grammars *grammars;
    ot_grammar *first, *second, *third = NULL;
    ot_grammars_stats stats;
    REQUIRE_OK(ot_grammars_open(&grammars, &no_tokens, (size_t)64 << 20, &err), &err);
    REQUIRE_OK(get(grammars, "root ::= \"a\"", &first, &err), &err);
    const size_t one = ot_grammar_memory(first) + 1024;
    ot_grammar_release(&first);
    ot_grammars_close(&grammars);
    REQUIRE_OK(ot_grammars_open(&grammars, &no_tokens, 2 * one, &err), &err);
    REQUIRE_OK(get(grammars, "root ::= \"a\"", &first, &err), &err);
    REQUIRE_OK(get(grammars, "root ::= \"b\"", &second, &err), &err);
    CHECK_INT(get(grammars, "root ::= \"c\"", &third, &err), OT_ERR_FULL);
    CHECK_CONTAINS(err.message, "running requests");
    ot_grammar_release(&first);
    CHECK_OK(get(grammars, "root ::= \"c\"", &third, &err), &err);
    ot_grammars_get_stats(grammars, &stats);
    CHECK_UINT(stats.n, 2);
    CHECK(stats.bytes <= 2 * one);
    n_read = 0;
    ot_grammar_release(&third);
    CHECK_OK(get(grammars, "root ::= \"b\"", &third, &err), &err);
    CHECK_INT(n_read, 0); /* the one in use stayed */
    ot_grammar_release(&second);
    ot_grammar_release(&third);
    ot_grammars_close(&grammars);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(regular_expressions);
    RUN(matching_takes_time_by_the_length_of_the_text);
    RUN(gbnf);
    RUN(lark);
    RUN(equal_grammars_are_compiled_once);
    RUN(memory_of_grammars_is_bounded);
    return ot_test_finish();
}
