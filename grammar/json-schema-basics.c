/* JSON itself (RFC 8259) as rules. White space between tokens is one space, or a line break and what indents the next line (after a
 * colon one space at most), so that a model is free in its style and cannot go on with white space for ever; numbers are as long as a double needs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar-regex.h"
#include "grammar/json-schema-reader.h"

enum { MAX_INDENT = 32, MAX_TABS = 8 };

/* What may come after a mark, or before a closing one. */
static ot_expr *blank(ot_schema_reader *k, char mark)
{
    const bool colon = mark == ':', between = colon || mark == ',';
    if (k->space == OT_JSON_SPACE_NONE || (k->space == OT_JSON_SPACE_LINE && !between))
        return ot_expr_word(k->b, "");
    if (k->space == OT_JSON_SPACE_LINE || colon)
        return ot_expr_repeat(k->b, ot_expr_word(k->b, " "), 0, 1);
    return ot_json_rule_call(k, OT_JSON_BLANK);
}

ot_expr *ot_json_spaced(ot_schema_reader *k, const char *mark)
{
    return ot_expr_pair(k->b, OT_EXPR_SEQUENCE, ot_expr_word(k->b, mark), blank(k, mark[0]));
}

ot_expr *ot_json_closing(ot_schema_reader *k, const char *mark)
{
    return ot_expr_pair(k->b, OT_EXPR_SEQUENCE, blank(k, mark[0]), ot_expr_word(k->b, mark));
}

ot_expr *ot_json_string_of(ot_schema_reader *k, ot_expr *value)
{
    ot_expr *const items[] = {ot_expr_word(k->b, "\""), ot_expr_quoted(k->b, value), ot_expr_word(k->b, "\"")};
    return ot_expr_list(k->b, OT_EXPR_SEQUENCE, items, 3);
}

ot_expr *ot_json_object_of(ot_schema_reader *k, ot_expr *members)
{
    ot_expr *const items[] = {ot_json_spaced(k, "{"), members, ot_json_closing(k, "}")};
    return ot_expr_list(k->b, OT_EXPR_SEQUENCE, items, 3);
}

/* ---- Rules ----------------------------------------------------------------------------------------------- */

static ot_expr *space(ot_schema_reader *k)
{
    ot_expr *indent = ot_expr_pair(k->b, OT_EXPR_EITHER, ot_expr_repeat(k->b, ot_expr_word(k->b, " "), 0, MAX_INDENT),
                                   ot_expr_repeat(k->b, ot_expr_word(k->b, "\t"), 1, MAX_TABS));
    ot_expr *const line[] = {ot_expr_word(k->b, "\n"), indent};
    ot_expr *const ways[] = {ot_expr_word(k->b, ""), ot_expr_word(k->b, " "), ot_expr_list(k->b, OT_EXPR_SEQUENCE, line, 2)};
    return ot_expr_list(k->b, OT_EXPR_EITHER, ways, 3);
}

/* \" and the like, \u00e9, or two halves of a pair. */
static ot_expr *escape(ot_schema_reader *k)
{
    static const char pattern[] = "\\\\([\"\\\\/bfnrt]|u([0-9a-cA-CefEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}|"
                                  "[dD][89abAB][0-9a-fA-F]{2}\\\\u[dD][c-fC-F][0-9a-fA-F]{2}))";
    return ot_grammar_read_regex(k->b, pattern, sizeof pattern - 1, false);
}

/* Characters that stand in a string as they are, from a code point on. */
static ot_expr *plain_characters(ot_schema_reader *k, uint32_t first, uint32_t last)
{
    const ot_char_range ranges[] = {{' ', '!'}, {'#', '['}, {']', OT_LAST_CHARACTER}};
    ot_char_range within[3];
    uint32_t n = 0;
    for (int i = 0; i < 3; i++) {
        uint32_t low = ranges[i].first > first ? ranges[i].first : first, high = ranges[i].last < last ? ranges[i].last : last;
        if (low <= high)
            within[n++] = (ot_char_range){low, high};
    }
    return ot_expr_chars(k->b, within, n, false);
}

static ot_expr *string(ot_schema_reader *k)
{
    ot_expr *character = ot_expr_pair(k->b, OT_EXPR_EITHER, plain_characters(k, 0, OT_LAST_CHARACTER), escape(k));
    ot_expr *const items[] = {ot_expr_word(k->b, "\""), ot_expr_repeat(k->b, character, 0, OT_REPEAT_NO_END), ot_expr_word(k->b, "\"")};
    return ot_expr_list(k->b, OT_EXPR_SEQUENCE, items, 3);
}

/* What takes several bytes: apart from the ASCII characters, so that a string of so many characters has a state for each, not twenty. */
static ot_expr *long_character(ot_schema_reader *k)
{
    return ot_expr_pair(k->b, OT_EXPR_EITHER, plain_characters(k, 0x80, OT_LAST_CHARACTER), escape(k));
}

static ot_expr *object(ot_schema_reader *k)
{
    ot_expr *const member[] = {ot_json_rule_call(k, OT_JSON_STRING), ot_json_spaced(k, ":"), ot_json_rule_call(k, OT_JSON_VALUE)};
    return ot_json_object_of(k, ot_expr_joined(k->b, NULL, NULL, 0, ot_json_spaced(k, ","), ot_expr_list(k->b, OT_EXPR_SEQUENCE, member, 3)));
}

static ot_expr *array(ot_schema_reader *k)
{
    ot_expr *items = ot_expr_joined(k->b, NULL, NULL, 0, ot_json_spaced(k, ","), ot_json_rule_call(k, OT_JSON_VALUE));
    ot_expr *const all[] = {ot_json_spaced(k, "["), items, ot_json_closing(k, "]")};
    return ot_expr_list(k->b, OT_EXPR_SEQUENCE, all, 3);
}

static ot_expr *value(ot_schema_reader *k)
{
    ot_expr *const ways[] = {ot_json_rule_call(k, OT_JSON_OBJECT), ot_json_rule_call(k, OT_JSON_ARRAY), ot_json_rule_call(k, OT_JSON_STRING),
                             ot_schema_number(k, NULL, false), ot_expr_word(k->b, "true"), ot_expr_word(k->b, "false"),
                             ot_expr_word(k->b, "null")};
    return ot_expr_list(k->b, OT_EXPR_EITHER, ways, 7);
}

ot_expr *ot_json_rule_call(ot_schema_reader *k, ot_json_rule rule)
{
    static const struct {
        const char *name;
        ot_expr *(*make)(ot_schema_reader *);
    } rules[OT_N_JSON_RULES] = {
        [OT_JSON_VALUE] = {"json-value", value},   [OT_JSON_OBJECT] = {"json-object", object},
        [OT_JSON_ARRAY] = {"json-array", array},   [OT_JSON_STRING] = {"json-string", string},
        [OT_JSON_BLANK] = {"json-space", space},   [OT_JSON_LONG_CHARACTER] = {"json-long-character", long_character},
    };
    if (k->rules[rule] == UINT32_MAX && !ot_schema_failed(k)) {
        k->rules[rule] = ot_rule_add(k->b, rules[rule].name);
        ot_rule_define(k->b, k->rules[rule], rules[rule].make(k));
    }
    return ot_expr_call(k->b, k->rules[rule]);
}

/* ---- Literals -------------------------------------------------------------------------------------------- */

/* With the fewest digits that read back as the same double. */
static ot_expr *number_literal(ot_schema_reader *k, const json_t *value)
{
    char text[40];
    if (json_is_integer(value)) {
        snprintf(text, sizeof text, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        return ot_expr_word(k->b, text);
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, json_real_value(value));
        if (strtod(text, NULL) == json_real_value(value))
            break;
    }
    return ot_expr_word(k->b, text);
}

static ot_expr *object_literal(ot_schema_reader *k, const json_t *value)
{
    ot_expr_items list = {0};
    const char *key;
    size_t key_size;
    json_t *member;
    json_object_keylen_foreach((json_t *)(uintptr_t)value, key, key_size, member)
    {
        ot_expr *const items[] = {ot_json_string_of(k, ot_expr_text(k->b, key, key_size)), ot_json_spaced(k, ":"), ot_json_literal(k, member)};
        if (list.n > 0)
            ot_expr_push(k->b, &list, ot_json_spaced(k, ","));
        ot_expr_push(k->b, &list, ot_expr_list(k->b, OT_EXPR_SEQUENCE, items, 3));
    }
    return ot_json_object_of(k, ot_expr_list(k->b, OT_EXPR_SEQUENCE, list.items, list.n));
}

static ot_expr *array_literal(ot_schema_reader *k, const json_t *value)
{
    ot_expr_items list = {0};
    ot_expr_push(k->b, &list, ot_json_spaced(k, "["));
    for (size_t i = 0; i < json_array_size(value); i++) {
        if (i > 0)
            ot_expr_push(k->b, &list, ot_json_spaced(k, ","));
        ot_expr_push(k->b, &list, ot_json_literal(k, json_array_get(value, i)));
    }
    ot_expr_push(k->b, &list, ot_json_closing(k, "]"));
    return ot_expr_list(k->b, OT_EXPR_SEQUENCE, list.items, list.n);
}

ot_expr *ot_json_literal(ot_schema_reader *k, const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT: return object_literal(k, value);
    case JSON_ARRAY: return array_literal(k, value);
    case JSON_STRING: return ot_json_string_of(k, ot_expr_text(k->b, json_string_value(value), json_string_length(value)));
    case JSON_INTEGER:
    case JSON_REAL: return number_literal(k, value);
    case JSON_TRUE: return ot_expr_word(k->b, "true");
    case JSON_FALSE: return ot_expr_word(k->b, "false");
    case JSON_NULL: return ot_expr_word(k->b, "null");
    }
    return NULL;
}
