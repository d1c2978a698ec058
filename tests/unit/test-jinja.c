/* The interpreter of chat templates: what it writes, what it refuses, its limits, and that every byte keeps its origin.
 *
 * `test-jinja --render` is the C side of tests/golden/check-chat-templates.py. Each line of standard input is a JSON object: `template`,
 * `variables` (from a request), `trusted` (variables that count as the template's) and `now` (seconds). The answer is a JSON object with
 * `text` and `spans` ([begin, end, origin]), or with `error` and `status`. */
#include "text/jinja.h"
#include "server/json-values.h"
#include "tests/support/test-support.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const char variables_json[] =
    "{\"s\": \"<b>Ab c</b>\", \"n\": 7, \"f\": 1.5, \"list\": [3, 1, 2], \"none\": null, \"yes\": true, \"empty\": [],"
    " \"d\": {\"b\": 1, \"A\": [1, \"x\"], \"items\": \"own\"}, \"words\": \"one two  three\", \"u\": \"\\u00e9\\u03a3\\ud83e\\udd99\","
    " \"messages\": [{\"role\": \"user\", \"content\": \"hi\"}, {\"role\": \"assistant\", \"content\": \"yo\"}]}";

/* Renders with the variables above; the text is malloc'ed. */
static ot_status render(const char *source, const ot_jinja_limits *limits, char **text, char *marks, ot_error *err)
{
    ot_jinja *t;
    *text = NULL;
    ot_status status = ot_jinja_parse(&t, source, strlen(source), err);
    if (status != OT_OK)
        return status;
    ot_jinja_memory *m = ot_jinja_memory_open(8 << 20);
    json_t *json = json_loads(variables_json, 0, NULL);
    ot_jinja_value variables = ot_json_to_value(m, json, OT_JINJA_CONTENT);
    ot_jinja_text out;
    json_decref(json);
    status = ot_jinja_render(t, m, variables, limits, &out, err);
    if (status == OT_OK) {
        *text = malloc(out.size + 1);
        memcpy(*text, out.data, out.size);
        (*text)[out.size] = '\0';
        for (size_t i = 0; marks != NULL && i < out.size && i < 200; i++) {
            marks[i] = out.origins[i] == OT_JINJA_TEMPLATE ? 't' : out.origins[i] == OT_JINJA_CONTENT ? 'c' : 'f';
            marks[i + 1] = '\0';
        }
    }
    ot_jinja_memory_close(&m);
    ot_jinja_close(&t);
    return status;
}

/* Results as Jinja2 3.1 gives them. */
static const struct {
    const char *source, *text;
} cases[] = {
    {"a\n{% if yes %}\n  b\n{% endif %}\nc\n", "a\n  b\nc"},
    {"x   {%- if yes -%}   y   {%- endif -%}   z", "xyz"},
    {"  {%+ if yes %}y{% endif +%}\nz", "  y\nz"},
    {"a {# c #}\nb{#- d -#}  e", "a b" "e"},
    {"{% raw %}{{ x }}{% endraw %}", "{{ x }}"},
    {"{{ 'a' 'b' }}{{ \"\\u00e9\\n\\x41\\q\" }}", "ab\xC3\xA9\nA\\q"},
    {"{{ 1 + 2 * 3 ** 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 1 ~ 2 }}", "19 3 -4 2 3.5 12"},
    {"{{ 1e16 }} {{ 0.1 + 0.2 }} {{ 1e-5 }} {{ 100.0 }} {{ 123456789012345680.0 }}", "1e+16 0.30000000000000004 1e-05 100.0 1.2345678901234568e+17"},
    {"{{ 1 < 2 < 3 }} {{ 3 > 2 > 2 }} {{ 'b' in 'abc' }} {{ 4 not in list }} {{ not yes or yes }}", "True False True True True"},
    {"{{ list }} {{ (1,) }} {{ d }} {{ [none, 'a\"', \"b'\"] }}", "[3, 1, 2] (1,) {'b': 1, 'A': [1, 'x'], 'items': 'own'} [None, 'a\"', \"b'\"]"},
    {"{{ d.items }}|{{ d['items'] }}|{{ d.items() | list | length }}|{{ d.get('x', 5) }}", NULL},
    {"{{ d['items'] }}|{{ d.items() | list | length }}|{{ d.get('x', 5) }}|{{ d.b }}", "own|3|5|1"},
    {"{{ nothing }}[{{ d.nothing }}]{{ nothing is defined }}{{ nothing | default('x') }}{{ '' | default('y', true) }}", "[]Falsexy"},
    {"{{ words[1:3] }} {{ list[::-1] }} {{ list[-1] }} {{ u[1] }} {{ words[::2] }}", "ne [2, 1, 3] 2 \xCE\xA3 oeto he"},
    {"{% for x in list %}{{ loop.index }}{{ loop.first }}{{ loop.last }}{{ loop.previtem }};{% endfor %}", "1TrueFalse;2FalseFalse3;3FalseTrue1;"},
    {"{% for x in list if x > 1 %}{{ x }}/{{ loop.length }} {% else %}none{% endfor %}", "3/2 2/2 "},
    {"{% for x in empty %}{% else %}none{% endfor %}", "none"},
    {"{% for k, v in d | dictsort %}{{ k }}={{ v }};{% endfor %}", "A=[1, 'x'];b=1;items=own;"},
    {"{% for x in list %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% if x == 2 %}{% break %}{% endif %}{% endfor %}", "32"},
    {"{% set x = 1 %}{% for i in list %}{% set x = i %}{% endfor %}{{ x }}", "1"},
    {"{% set ns = namespace(x=1) %}{% for i in list %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}", "7"},
    {"{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set c %}x{{ a }}{% endset %}{{ c }}{% set e | upper %}q{% endset %}{{ e }}", "12x1Q"},
    {"{% macro m(a, b=a, c='z') %}[{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}]{% endmacro %}{{ m(1) }}{{ m(1, 2, 3, 4, k=5) }}",
     "[11z(){}][123(4,){'k': 5}]"},
    {"{% macro m() %}<{{ caller('x') }}>{% endmacro %}{% call(y) m() %}{{ y }}{{ n }}{% endcall %}", "<x7>"},
    {"{% macro f(k) %}{{ k }}{% if k > 0 %}{{ f(k - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "3210"},
    {"{% for x in [[1, [2, []]]] recursive %}{{ x[0] }}({% if x[1] %}{{ loop([x[1]]) }}{% endif %}){% endfor %}", "1(2())"},
    {"{% filter upper %}ab{{ 1 }}{% endfilter %}{% with a = 5, b = n %}{{ a }}{{ b }}{% endwith %}", "AB157"},
    {"{% generation %}g{% set q = 1 %}{% endgeneration %}{{ q is defined }}", "gFalse"},
    {"{{ words.split() }} {{ words.split(' ', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'x'.join(['a', 'b']) }}",
     "['one', 'two', 'three'] ['one', 'two  three'] ['a,b', 'c'] axb"},
    {"{{ ' a '.strip() }}|{{ 'xxaxx'.lstrip('x') }}|{{ 'abc'.startswith(('b', 'a')) }}|{{ 'abc'.find('c') }}|{{ 'aXbX'.replace('X', '-', 1) }}",
     "a|axx|True|2|a-bX"},
    {"{{ '%s is %d, %.2f, %5s|%-5s|%%' % ('a', 5, 1.239, 'r', 'l') }}", "a is 5, 1.24,     r|l    |%"},
    {"{{ '{} {1} {x!r:>5} {y:03d}'.format(1, 2, x='a', y=7) }}", "1 2   'a' 007"},
    {"{{ s | e }} {{ ('<' | safe) + '<' }} {{ s | trim('<>') }} {{ 'aB' | title }} {{ u | upper }}",
     "&lt;b&gt;Ab c&lt;/b&gt; <&lt; b>Ab c</b Ab \xC3\x89\xCE\xA3\xF0\x9F\xA6\x99"},
    {"{{ d | tojson }} {{ u | tojson }} {{ u | tojson(ensure_ascii=true) }}",
     "{\"b\": 1, \"A\": [1, \"x\"], \"items\": \"own\"} \"\xC3\xA9\xCE\xA3\xF0\x9F\xA6\x99\" \"\\u00e9\\u03a3\\ud83e\\udd99\""},
    {"{{ d | tojson(indent=1, sort_keys=true) }} {{ [1, {}] | tojson(separators=(',', ':')) }} {{ 'a<\"\\n\\t' | tojson }}",
     "{\n \"A\": [\n  1,\n  \"x\"\n ],\n \"b\": 1,\n \"items\": \"own\"\n} [1,{}] \"a<\\\"\\n\\t\""},
    {"{{ messages | map(attribute='role') | join(', ') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "user, assistant 1"},
    {"{{ list | sort }} {{ list | max }} {{ list | sum }} {{ list | first }} {{ list | reverse | list }} {{ list | unique | list }}",
     "[1, 2, 3] 3 6 3 [2, 1, 3] [3, 1, 2]"},
    {"{{ list | batch(2) | list }} {{ list | slice(2) | list }} {{ 'a\nb\n\nc' | indent(2) }}", "[[3, 1], [2]] [[3, 1], [2]] a\n  b\n\n  c"},
    {"{{ '3' | int + 1 }} {{ 'x' | int(9) }} {{ '2.7' | int }} {{ 2.5 | round }} {{ 2.567 | round(1) }} {{ -3 | abs }}", "4 9 2 2.0 2.6 3"},
    {"{{ 1 is odd }}{{ s is string }}{{ d is mapping }}{{ list is sequence }}{{ none is none }}{{ 4 is divisibleby 2 }}{{ yes is boolean }}{{ n is number }}",
     "TrueTrueTrueTrueTrueTrueTrueTrue"},
    {"{{ 'a' if n > 5 }}{{ 'b' if n > 9 }}{{ 'c' if n > 9 else 'd' }}", "ad"},
    {"{{ (list | select('odd')) | first }}{% if [] | select %}generators are true{% endif %}", "3generators are true"},
    {"{% set j = joiner('; ') %}{% for x in list %}{{ j() }}{{ x }}{% endfor %}{{ loop is defined }}", "3; 1; 2False"},
    {"{{ range(3) | list }} {{ range(5, 0, -2) | list }} {{ dict(a=1, b=2) }}", "[0, 1, 2] [5, 3, 1] {'a': 1, 'b': 2}"},
    {"{{ range(0, 5, 2) }} {{ range(4)[1:5:2] }} {{ 'x' % nothing }}{{ '%s|' % nothing }}{{ '{:>3}'.format(yes) }}", "range(0, 5, 2) range(1, 4, 2) x|  1"},
    {"{{ ('<b>' | safe) | list }} {{ (s | safe)[0] + '<' }}", "['<', 'b', '>'] <&lt;"},
    {"{{ strftime_now('%Y-%m-%d') }}", "2025-11-28"},
    {"{% if n is filter %}{% endif %}{{ 'upper' is filter }}{{ 'nope' is filter }}", "TrueFalse"},
    {"{{ 'STRASSE \xC3\x9F'.lower() }} {{ '\xC3\x9F' | upper }} {{ '\xCE\x9F\xCE\xA3'.lower() }}", "strasse \xC3\x9F SS \xCE\xBF\xCF\x82"},
};

static ot_jinja_limits fixed_time(void)
{
    ot_jinja_limits limits = ot_jinja_limits_default();
    limits.now = 1764331200; /* noon of 2025-11-28, UTC */
    return limits;
}

static void writes_what_jinja2_writes(void)
{
    const ot_jinja_limits limits = fixed_time();
    for (size_t i = 0; i < COUNT(cases); i++) {
        ot_error err = {0};
        char *text;
        ot_test_context("%s", cases[i].source);
        if (cases[i].text == NULL) {
            CHECK_STATUS(render(cases[i].source, &limits, &text, NULL, &err), OT_ERR_UNSUPPORTED, &err);
        } else if (CHECK_OK(render(cases[i].source, &limits, &text, NULL, &err), &err)) {
            CHECK_STR(text, cases[i].text);
        }
        free(text);
    }
    ot_test_context(NULL);
}

static void refuses_with_line_and_reason(void)
{
    static const struct {
        const char *source;
        ot_status status;
        const char *says;
    } bad[] = {
        {"a\n{% if %}", OT_ERR_FORMAT, "line 2"},
        {"{% for x in list %}", OT_ERR_FORMAT, "endfor"},
        {"{{ x | nonsense }}", OT_ERR_FORMAT, "no filter 'nonsense'"},
        {"{% if no %}{{ x | nonsense }}{% endif %}{{ s | nonsense if yes }}", OT_ERR_INVALID, "no filter 'nonsense'"},
        {"{{ x is nonsense }}", OT_ERR_FORMAT, "no test 'nonsense'"},
        {"{{ s | pprint }}", OT_ERR_UNSUPPORTED, "pprint"},
        {"{% include 'x' %}", OT_ERR_UNSUPPORTED, "include"},
        {"{% nonsense %}", OT_ERR_FORMAT, "nonsense"},
        {"{{ 'a }}", OT_ERR_FORMAT, "string"},
        {"{{ (1 }}", OT_ERR_FORMAT, "line 1"},
        {"{% break %}", OT_ERR_FORMAT, "break"},
        {"{{ a.b.c }}", OT_ERR_INVALID, "'a' is undefined"},
        {"\n\n{{ 'x' + 1 }}", OT_ERR_INVALID, "line 3: unsupported operand types"},
        {"{{ 1 / 0 }}", OT_ERR_INVALID, "division by zero"},
        {"{{ raise_exception('told so') }}", OT_ERR_INVALID, "told so"},
        {"{{ list.append(1) }}", OT_ERR_INVALID, "may not change"},
        {"{{ s.__class__ }}", OT_ERR_UNSUPPORTED, "__class__"},
        {"{{ 9223372036854775807 + 1 }}", OT_ERR_UNSUPPORTED, "64 bits"},
        {"{{ nothing | tojson }}", OT_ERR_INVALID, "JSON"},
        {"{{ none.x.y }}", OT_ERR_INVALID, "has no attribute 'x'"},
        {"{{ n[1:] }}", OT_ERR_INVALID, "cannot be sliced"},
        {"{{ '%d' % 1e22 }}", OT_ERR_UNSUPPORTED, "64 bits"},
        {"{{ [1] < ['a'] }}", OT_ERR_INVALID, "no order"},
        {"{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", OT_ERR_INVALID, "takes not more than 1"},
        {"{% set d.x = 1 %}", OT_ERR_INVALID, "non-namespace"},
        {"{% for a, b in [[1]] %}{% endfor %}", OT_ERR_INVALID, "unpack"},
    };
    const ot_jinja_limits limits = fixed_time();
    for (size_t i = 0; i < COUNT(bad); i++) {
        ot_error err = {0};
        char *text;
        ot_test_context("%s", bad[i].source);
        CHECK_STATUS(render(bad[i].source, &limits, &text, NULL, &err), bad[i].status, &err);
        CHECK_CONTAINS(err.message, bad[i].says);
        CHECK(text == NULL);
        free(text);
    }
    ot_test_context(NULL);
}

/* t: written by the template, c: from a request. */
static void every_byte_keeps_its_origin(void)
{
    static const struct {
        const char *source, *text, *marks;
    } rows[] = {
        {"<{{ words[:3] }}>", "<one>", "tccct"},
        {"{{ '[' + words[:3] | upper + ']' }}", "[ONE]", "tccct"},
        {"{% set x %}a{{ words[4:7] }}b{% endset %}{{ x | trim | replace('w', 'W') }}", "atWob", "tctct"},
        {"{{ ('a' ~ words[:3]).split('n')[0] }}{{ words.split()[2][::-1] }}", "aoeerht", "tcccccc"},
        {"{% macro m(v) %}({{ v }}){% endmacro %}{{ m(words[:1]) * 2 }}", "(o)(o)", "tcttct"},
        {"{{ ['-', words[:2]] | join('+') }}{{ n }}{{ n + 1 }}{{ 5 }}", "-+on785", "ttcccct"},
        {"{{ 'x%sy%d' % (words[:1], n) }}{{ '{}z'.format(words[:1]) }}", "xoy7oz", "tctcct"},
        {"{{ list | tojson }}{{ [words[:1]] | tojson }}", "[3, 1, 2][\"o\"]", "ccccccccctccct"},
        {"{% for m in messages %}{{ m.role }}:{{ m.content | indent(2, true) }}{% endfor %}", "user:  hiassistant:  yo", "cccctttccccccccccctttcc"},
        {"{{ s | e }}", "&lt;b&gt;Ab c&lt;/b&gt;", "ccccccccccccccccccccccc"},
        {"{{ d }}", "{'b': 1, 'A': [1, 'x'], 'items': 'own'}", "ccccccccccccccccccccccccccccccccccccccc"},
    };
    const ot_jinja_limits limits = fixed_time();
    for (size_t i = 0; i < COUNT(rows); i++) {
        ot_error err = {0};
        char *text, marks[256] = "";
        ot_test_context("%s", rows[i].source);
        if (CHECK_OK(render(rows[i].source, &limits, &text, marks, &err), &err)) {
            CHECK_STR(text, rows[i].text);
            CHECK_STR(marks, rows[i].marks);
        }
        free(text);
    }
    ot_test_context(NULL);
}

static void is_bounded(void)
{
    static const char *const greedy[] = {
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% set ns = namespace(x='ab') %}{% for a in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{{ 'a' * 9000000000 }}",
        "{% for a in range(100000) %}{{ words }}{{ words }}{{ words }}{{ words }}{{ words }}{{ words }}{{ words }}{{ words }}{% endfor %}",
        "{% set ns = namespace(x=[]) %}{% for a in range(5000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[]) %}{% for a in range(5000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}",
        "{{ range(1000000) }}",
    };
    ot_jinja_limits limits = fixed_time();
    limits.max_output_bytes = 1 << 20;
    for (size_t i = 0; i < COUNT(greedy); i++) {
        ot_error err = {0};
        char *text;
        ot_test_context("%s", greedy[i]);
        CHECK_STATUS(render(greedy[i], &limits, &text, NULL, &err), OT_ERR_TOO_LONG, &err);
        CHECK(text == NULL);
        free(text);
    }
    ot_test_context(NULL);
}

static void deep_sources_are_refused(void)
{
    static const char *const pieces[][3] = {{"{{ ", "(", " }}"}, {"{{ ", "-", "1 }}"}, {"{{ 1", "+1", " }}"}, {"{{ ", "not ", "1 }}"},
                                            {"{{ x", ".y", " }}"}, {"{{ x", "|e", " }}"}, {"", "{% if 1 %}", ""}, {"{% if 1 %}", "{% elif 1 %}", "{% endif %}"},
                                            {"{{ ", "[", " }}"}, {"{{ 1", " if 1 else 1", " }}"}};
    for (size_t i = 0; i < COUNT(pieces); i++) {
        enum { TIMES = 100000 };
        ot_error err = {0};
        ot_jinja *t;
        size_t size = strlen(pieces[i][1]), at = strlen(pieces[i][0]);
        char *source = malloc(at + size * TIMES + 32);
        ot_test_context("%s", pieces[i][1]);
        memcpy(source, pieces[i][0], at);
        for (size_t k = 0; k < TIMES; k++, at += size)
            memcpy(source + at, pieces[i][1], size);
        at += (size_t)sprintf(source + at, "%s", pieces[i][2]);
        CHECK(ot_jinja_parse(&t, source, at, &err) != OT_OK);
        CHECK(t == NULL && err.message[0] != '\0');
        free(source);
    }
    ot_test_context(NULL);
}

/* Ten thousand additions to one string take time by what is added. */
static void growing_strings_take_little_memory(void)
{
    ot_error err = {0};
    char *text;
    const ot_jinja_limits limits = fixed_time();
    const char *source = "{% set ns = namespace(x='') %}{% for a in range(10000) %}{% set ns.x = ns.x + words %}{% endfor %}{{ ns.x | length }}";
    if (CHECK_OK(render(source, &limits, &text, NULL, &err), &err))
        CHECK_STR(text, "140000");
    free(text);
}

/* ---- The C side of the check against Jinja2 -------------------------------------------------------------- */

static json_t *spans_of(const ot_jinja_text *text)
{
    json_t *spans = json_array();
    for (size_t begin = 0, end; begin < text->size; begin = end) {
        for (end = begin + 1; end < text->size && text->origins[end] == text->origins[begin]; end++)
            ;
        json_array_append_new(spans, json_pack("[I, I, i]", (json_int_t)begin, (json_int_t)end, text->origins[begin]));
    }
    return spans;
}

static json_t *answer(const json_t *request)
{
    ot_error err = {0};
    ot_jinja *t;
    ot_jinja_text text;
    const json_t *source = json_object_get(request, "template");
    ot_status status = ot_jinja_parse(&t, json_string_value(source), json_string_length(source), &err);
    if (status != OT_OK)
        return json_pack("{s:s, s:s}", "error", err.message, "status", ot_status_name(status));
    ot_jinja_memory *m = ot_jinja_memory_open(256u << 20);
    ot_jinja_value variables = ot_json_to_value(m, json_object_get(request, "variables"), OT_JINJA_CONTENT);
    ot_jinja_limits limits = ot_jinja_limits_default();
    const char *key;
    json_t *value, *result;
    json_object_foreach(json_object_get(request, "trusted"), key, value)
        ot_jinja_put(m, variables, key, strlen(key), ot_json_to_value(m, value, OT_JINJA_TEMPLATE));
    limits.now = (time_t)json_integer_value(json_object_get(request, "now"));
    status = ot_jinja_render(t, m, variables, &limits, &text, &err);
    result = status != OT_OK ? json_pack("{s:s, s:s}", "error", err.message, "status", ot_status_name(status))
                             : json_pack("{s:s%, s:o}", "text", text.data, text.size, "spans", spans_of(&text));
    ot_jinja_memory_close(&m);
    ot_jinja_close(&t);
    return result;
}

static int answer_requests(void)
{
    char *line = NULL;
    size_t capacity = 0;
    while (getline(&line, &capacity, stdin) > 1) {
        json_t *request = json_loads(line, JSON_ALLOW_NUL, NULL), *result = answer(request);
        char *text = json_dumps(result, JSON_COMPACT);
        puts(text != NULL ? text : "null");
        fflush(stdout);
        free(text);
        json_decref(result);
        json_decref(request);
    }
    free(line);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--render") == 0)
        return answer_requests();
    ot_test_start(argc, argv);
    RUN(writes_what_jinja2_writes);
    RUN(refuses_with_line_and_reason);
    RUN(every_byte_keeps_its_origin);
    RUN(is_bounded);
    RUN(deep_sources_are_refused);
    RUN(growing_strings_take_little_memory);
    return ot_test_finish();
}
