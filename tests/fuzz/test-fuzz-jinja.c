/* The interpreter of chat templates on damaged and scrambled templates: no crash, no read past an end, an end in bounded time, and a reason for
 * every refusal. The corpus are the templates of tests/golden/chat-templates and pieces of the language. */
#include "text/chat-template.h"
#include "tests/support/test-support.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define CORPUS "tests/golden/chat-templates"

static ot_test_rng rng;
static size_t n_rendered;

/* Opens and renders; the text is copied to memory of exactly its size, so that a read past the end is seen. */
static void try_text(const char *text, size_t size)
{
    static const ot_chat_message messages[] = {{"system", "Be <b>brief</b>.\n"}, {"user", "hello"}, {"assistant", "<think>a</think>b"}};
    ot_error err = {0};
    ot_jinja *t;
    char *exact = malloc(size > 0 ? size : 1);
    REQUIRE(exact != NULL);
    memcpy(exact, text, size);
    if (ot_jinja_parse(&t, exact, size, &err) != OT_OK) {
        CHECK(t == NULL && err.message[0] != '\0');
        free(exact);
        return;
    }
    free(exact);
    ot_jinja_memory *m = ot_jinja_memory_open(4 << 20);
    ot_jinja_value variables = ot_jinja_dict(m, OT_JINJA_TEMPLATE), list = ot_jinja_list(m, OT_JINJA_CONTENT);
    for (size_t i = 0; i < COUNT(messages); i++) {
        ot_jinja_value message = ot_jinja_dict(m, OT_JINJA_CONTENT);
        ot_jinja_put(m, message, "role", 4, ot_jinja_string(m, messages[i].role, strlen(messages[i].role), OT_JINJA_CONTENT));
        ot_jinja_put(m, message, "content", 7, ot_jinja_string(m, messages[i].content, strlen(messages[i].content), OT_JINJA_CONTENT));
        ot_jinja_append(m, list, message);
    }
    ot_jinja_put(m, variables, "messages", 8, list);
    ot_jinja_put(m, variables, "tools", 5, list);
    ot_jinja_put(m, variables, "n", 1, ot_jinja_int(3, OT_JINJA_CONTENT));
    ot_jinja_limits limits = {.max_steps = 20000, .max_depth = 200, .max_output_bytes = 1 << 20, .now = 1};
    ot_jinja_text out;
    if (ot_jinja_render(t, m, variables, &limits, &out, &err) == OT_OK) {
        n_rendered++;
        for (size_t i = 0; i < out.size; i++)
            CHECK(out.origins[i] <= OT_JINJA_FINAL);
    } else {
        CHECK(err.message[0] != '\0');
    }
    ot_jinja_memory_close(&m);
    ot_jinja_close(&t);
}

static void scrambled_pieces(void)
{
    static const char *const pieces[] = {
        "{{ ", " }}", "{% ", " %}", "{%- ", " -%}", "{#", "#}", "if ", "elif ", "else", "endif", "for x in ", "endfor", "set x = ", "endset", "macro m(a, b=1)",
        "endmacro", "m(x)", "call m(1)", "endcall", "messages", "tools", "n", "x", "'a'", "\"b\\n\"", "12", "1.5", "[", "]", "(", ")", "{", "}", ":", ",", ".", "|",
        " + ", " - ", " * ", " / ", " // ", " % ", " ** ", " ~ ", " == ", " < ", " in ", " not ", " and ", " or ", " is ", "string", "defined", "mapping",
        "trim", "tojson", "join(',')", "length", "list", "sort", "replace('a', n)", "map(attribute='role')", "selectattr('role', 'equalto', 'user')", "batch(2)",
        "indent(n)", "first", "items", "dictsort", "split('l')", "strip()", "upper()", "format(x, n)", "get('role')", "[::-1]", "[1:n]", "namespace(a=1)",
        "range(n)", "loop.index", "loop.last", "break", "continue", "recursive", "loop(x)", "raw", "endraw", "filter upper", "endfilter", "with a = x", "endwith",
        "generation", "endgeneration", "caller()", "varargs", "'%s%5d' % (x, n)", "\xC3\xA9", "\xFF", "\n", "  ", "safe", "true", "none", "raise_exception(x)"};
    for (int round = 0; round < 60000; round++) {
        char text[1200];
        size_t n = 0;
        for (uint32_t k = ot_test_rng_below(&rng, 24); k > 0; k--) {
            const char *piece = pieces[ot_test_rng_below(&rng, COUNT(pieces))];
            memcpy(text + n, piece, strlen(piece));
            n += strlen(piece);
        }
        ot_test_context("round %d", round);
        try_text(text, n);
    }
    ot_test_context(NULL);
}

/* Expressions that are whole, so that most of them are evaluated. */
static size_t add_expression(char *dst, unsigned depth)
{
    static const char *const leaves[] = {"messages", "messages[0].content", "n", "'abc def'", "[3, 'x', none]", "{'k': 1, 'j': 'v'}", "1.25", "true", "undefined_name",
                                         "(1, 2)", "''", "-7", "loop", "range(4)", "messages[2]['content']", "namespace(a='q')"};
    static const char *const formats[] = {
        "(%s)|trim", "(%s)|upper", "(%s)|tojson", "(%s)|list", "(%s)|join('-')", "(%s)|length", "(%s)|first", "(%s)|last", "(%s)|sort", "(%s)|string|replace('a', 'bb')",
        "(%s)|int", "(%s)|float", "(%s)|round(1)", "(%s)|reverse", "(%s)|unique|list", "(%s)|map('upper')|list", "(%s)|select|list", "(%s)|default('d', true)",
        "(%s)|indent(2, true)", "(%s)|batch(2)|list", "(%s)|groupby('role')", "(%s)|dictsort", "(%s)|items|list", "(%s)|max", "(%s)|sum", "(%s)|safe + '<'",
        "(%s)[1:]", "(%s)[::-1]", "(%s)[0]", "(%s).content", "(%s).split('e')", "(%s).strip('ab')", "(%s).items()|list", "(%s).get('k')", "(%s) * 3", "'%%s' %% (%s)",
        "'{:>9}'.format(%s)", "(%s) ~ n", "[%s]", "{'a': %s}", "(%s) is string", "not (%s)", "(%s) in 'abc'", "n in (%s)", "(%s) + (%s)", "(%s) == (%s)", "(%s) < (%s)",
        "(%s) if (%s) else 2", "(%s) and (%s)", "(%s) %% (%s)", "(%s) // (%s)", "(%s)|truncate(5)|title", "(%s)|wordcount", "(%s)|center(9)", "(%s)|e|forceescape"};
    if (depth == 0)
        return (size_t)sprintf(dst, "%s", leaves[ot_test_rng_below(&rng, COUNT(leaves))]);
    char a[4000], b[4000];
    add_expression(a, depth - 1);
    add_expression(b, ot_test_rng_below(&rng, depth));
    return (size_t)sprintf(dst, formats[ot_test_rng_below(&rng, COUNT(formats))], a, b);
}

static void whole_expressions(void)
{
    for (int round = 0; round < 30000; round++) {
        char text[9000];
        size_t n = (size_t)sprintf(text, "{{ ");
        n += add_expression(text + n, ot_test_rng_below(&rng, 5));
        n += (size_t)sprintf(text + n, " }}");
        ot_test_context("%.300s", text);
        try_text(text, n);
    }
    ot_test_context(NULL);
}

static char *read_whole(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    char *text = malloc(1 << 16);
    *size = file == NULL || text == NULL ? 0 : fread(text, 1, 1 << 16, file);
    if (file != NULL)
        fclose(file);
    return text;
}

/* Bytes changed, taken out, doubled, and the end cut off. */
static void damage(const char *text, size_t size)
{
    char copy[(1 << 16) + 256];
    for (int round = 0; round < 1500; round++) {
        size_t n = size;
        memcpy(copy, text, size);
        for (uint32_t k = 1 + ot_test_rng_below(&rng, 4); k > 0 && n > 40; k--) {
            size_t at = ot_test_rng_below(&rng, (uint32_t)n - 32), length = 1 + ot_test_rng_below(&rng, 24);
            switch (ot_test_rng_below(&rng, 4)) {
            case 0: copy[at] = (char)ot_test_rng_below(&rng, 256); break;
            case 1: memmove(copy + at, copy + at + length, n - at - length); n -= length; break;
            case 2: memmove(copy + at + length, copy + at, n - at); n += length; break;
            default: n -= ot_test_rng_below(&rng, 4) == 0 ? ot_test_rng_below(&rng, (uint32_t)n) : 0; break;
            }
        }
        try_text(copy, n);
    }
}

static void damaged_templates(void)
{
    DIR *folder = opendir(CORPUS);
    REQUIRE(folder != NULL);
    size_t n_files = 0;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        char path[400];
        size_t size;
        if (strstr(entry->d_name, ".jinja") == NULL)
            continue;
        snprintf(path, sizeof path, "%s/%s", CORPUS, entry->d_name);
        char *text = read_whole(path, &size);
        ot_test_context("%s", path);
        CHECK(size > 0);
        damage(text, size);
        free(text);
        n_files++;
    }
    closedir(folder);
    ot_test_context(NULL);
    CHECK(n_files >= 5);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    rng.state = ot_test_seed(1907);
    RUN(scrambled_pieces);
    RUN(whole_expressions);
    RUN(damaged_templates);
    printf("%zu texts were rendered\n", n_rendered);
    return ot_test_finish();
}
