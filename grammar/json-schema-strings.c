/* Strings of a schema: length, pattern, format. What a pattern speaks of is the string's value; in the text characters are written as
 * themselves where JSON allows it. Each kind of string is a rule of its own, made once, so that its masks are found once. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json-text.h"
#include "grammar/grammar-dfa.h"
#include "grammar/grammar-regex.h"
#include "grammar/json-schema-reader.h"

enum { MAX_LENGTH = 1 << 16 };

#define YEAR "(000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
#define LEAP_YEAR "([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
#define DAY "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
#define DATE "(" YEAR "-" DAY "|" LEAP_YEAR "-02-29)"
#define TIME "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
#define OCTET "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
#define IPV4 OCTET "(\\." OCTET "){3}"
#define H16 "[0-9a-fA-F]{1,4}"
#define LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define NAMES LABEL "(\\." LABEL ")*"

/* RFC 3339, 4122, 5321 (without quoted local parts), 2673, 4291 (without embedded IPv4), 1123, 3986, 6570 left out. */
static const struct {
    const char *name, *pattern;
} formats[] = {
    {"date", DATE},
    {"time", TIME},
    {"date-time", DATE "[Tt]" TIME},
    {"duration", "P([0-9]+W|([0-9]+Y)?([0-9]+M)?([0-9]+D)?(T([0-9]+H([0-9]+M)?([0-9]+(\\.[0-9]+)?S)?|[0-9]+M([0-9]+(\\.[0-9]+)?S)?|"
                 "[0-9]+(\\.[0-9]+)?S)))|P([0-9]+Y([0-9]+M)?([0-9]+D)?|[0-9]+M([0-9]+D)?|[0-9]+D)"},
    {"uuid", "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"},
    {"email", "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,64}(\\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,64})*@" NAMES},
    {"hostname", NAMES},
    {"ipv4", IPV4},
    {"ipv6", "(" H16 ":){7}" H16 "|(" H16 ":){1,7}:|(" H16 ":){1,6}:" H16 "|(" H16 ":){1,5}(:" H16 "){1,2}|(" H16 ":){1,4}(:" H16
             "){1,3}|(" H16 ":){1,3}(:" H16 "){1,4}|(" H16 ":){1,2}(:" H16 "){1,5}|" H16 ":(:" H16 "){1,6}|:((:" H16 "){1,7}|:)"},
    {"uri", "[A-Za-z][A-Za-z0-9+.-]*:([A-Za-z0-9._~:/?#@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+"},
};

static bool read_length(ot_schema_reader *k, const json_t *schema, const char *name, uint32_t *out)
{
    const json_t *v = json_object_get(schema, name);
    if (v == NULL)
        return false;
    double n = json_number_value(v);
    if (!json_is_number(v) || n < 0 || n > MAX_LENGTH || n != (double)(uint32_t)n) {
        ot_schema_fail(k, "'%s' must be a whole number from 0 to %d", name, MAX_LENGTH);
        return false;
    }
    *out = (uint32_t)n;
    return true;
}

static ot_expr *read_format(ot_schema_reader *k, const json_t *format)
{
    const char *name = json_string_value(format);
    for (size_t i = 0; name != NULL && i < sizeof formats / sizeof formats[0]; i++)
        if (strcmp(formats[i].name, name) == 0)
            return ot_grammar_read_regex(k->b, formats[i].pattern, strlen(formats[i].pattern), false);
    return ot_schema_fail(k, "the 'format' %.40s is not enforced; date, time, date-time, duration, uuid, email, hostname, ipv4, ipv6 and uri are",
                          name != NULL ? name : "that is no string");
}

static ot_expr *read_pattern(ot_schema_reader *k, const json_t *pattern)
{
    if (!json_is_string(pattern))
        return ot_schema_fail(k, "'pattern' must be a string");
    return ot_grammar_read_regex(k->b, json_string_value(pattern), json_string_length(pattern), true);
}

/* Narrows what is there by one keyword, which merging may have made a list of. */
static ot_expr *narrow(ot_schema_reader *k, ot_expr *so_far, const json_t *keyword, ot_expr *(*read)(ot_schema_reader *, const json_t *))
{
    size_t n = json_is_array(keyword) ? json_array_size(keyword) : keyword != NULL;
    for (size_t i = 0; i < n && !ot_schema_failed(k); i++) {
        ot_expr *e = read(k, json_is_array(keyword) ? json_array_get(keyword, i) : keyword);
        so_far = so_far != NULL ? ot_expr_pair(k->b, OT_EXPR_BOTH, so_far, e) : e;
    }
    return so_far;
}

/* So many characters of any kind: the common ones as bytes of this rule, the others as calls. */
static ot_expr *of_length(ot_schema_reader *k, uint32_t min, uint32_t max)
{
    static const ot_char_range ascii[] = {{' ', '!'}, {'#', '['}, {']', 0x7F}};
    ot_expr *character = ot_expr_pair(k->b, OT_EXPR_EITHER, ot_expr_chars(k->b, ascii, 3, false), ot_json_rule_call(k, OT_JSON_LONG_CHARACTER));
    ot_expr *const items[] = {ot_expr_word(k->b, "\""), ot_expr_repeat(k->b, character, min, max), ot_expr_word(k->b, "\"")};
    return ot_expr_list(k->b, OT_EXPR_SEQUENCE, items, 3);
}

/* What pattern and format ask of the value; NULL: nothing. */
static ot_expr *read_value(ot_schema_reader *k, const json_t *schema)
{
    ot_expr *value = narrow(k, NULL, json_object_get(schema, "pattern"), read_pattern);
    return narrow(k, value, json_object_get(schema, "format"), read_format);
}

static ot_expr *make(ot_schema_reader *k, const json_t *schema)
{
    uint32_t min = 0, max = OT_REPEAT_NO_END;
    bool has_min = read_length(k, schema, "minLength", &min), has_max = read_length(k, schema, "maxLength", &max);
    ot_expr *value = read_value(k, schema);
    if (ot_schema_failed(k))
        return NULL;
    if (max < min)
        return ot_expr_nothing(k->b);
    if (value == NULL)
        return has_min || has_max ? of_length(k, min, max) : ot_json_rule_call(k, OT_JSON_STRING);
    if (has_min || has_max)
        value = ot_expr_pair(k->b, OT_EXPR_BOTH, value, ot_expr_repeat(k->b, ot_expr_any(k->b, false), min, max));
    return ot_json_string_of(k, value);
}

bool ot_schema_string_allows(ot_schema_reader *k, const json_t *schema, const json_t *string)
{
    uint32_t min = 0, max = UINT32_MAX, q = 0;
    const char *text = json_string_value(string);
    size_t size = json_string_length(string), length = ot_text_utf8_count(text, size);
    read_length(k, schema, "minLength", &min);
    read_length(k, schema, "maxLength", &max);
    ot_expr *value = read_value(k, schema);
    if (length < min || length > max || value == NULL)
        return length >= min && length <= max && !ot_schema_failed(k);
    ot_dfa dfa = {0};
    bool matches = ot_dfa_of_expr(&dfa, k->b, value, false, &q);
    for (size_t i = 0; i < size && matches; i++)
        matches = (q = ot_dfa_next(&dfa, q, (uint8_t)text[i])) != OT_NO_STATE;
    matches = matches && (dfa.flags[q] & OT_DFA_FINAL) != 0;
    ot_dfa_free(&dfa);
    return matches;
}

ot_expr *ot_schema_string(ot_schema_reader *k, const json_t *schema)
{
    static const char *const keywords[] = {"minLength", "maxLength", "pattern", "format"};
    json_t *part = json_object();
    for (size_t i = 0; i < sizeof keywords / sizeof keywords[0]; i++)
        if (json_object_get(schema, keywords[i]) != NULL)
            json_object_set(part, keywords[i], json_object_get(schema, keywords[i]));
    if (json_object_size(part) == 0) {
        json_decref(part);
        return ot_json_rule_call(k, OT_JSON_STRING);
    }
    char *content = json_dumps(part, JSON_COMPACT | JSON_SORT_KEYS);
    const json_t *known = content != NULL ? json_object_get(k->by_content, content) : NULL;
    uint32_t rule = known != NULL ? (uint32_t)json_integer_value(known) : ot_rule_add(k->b, "json-string-of");
    if (known == NULL) {
        ot_rule_define(k->b, rule, make(k, part));
        if (content != NULL)
            json_object_set_new(k->by_content, content, json_integer(rule));
    }
    free(content);
    json_decref(part);
    return ot_expr_call(k->b, rule);
}
