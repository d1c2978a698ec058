/* What an answer must follow, as five servers' clients say it: OpenAI's response_format, vLLM's structured_outputs and guided_*, llama-server's
 * json_schema and grammar, SGLang's regex and ebnf. Each is read into one source, compiled by grammar/ or found there by its content.
 * Runs where bodies are parsed: on a worker, if a body may hold a grammar. */
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar-cache.h"
#include "server/api-context.h"

enum { MAX_CHOICES = 4096 };

typedef enum source_kind { JSON_SCHEMA, REGEX, CHOICE, EBNF, GBNF, TOOLS } source_kind;

/* Borrowed from the request. */
typedef struct source {
    source_kind kind;
    bool compact;          /* JSON without white space */
    const json_t *value;   /* the schema, or the list of choices */
    const char *text;      /* the expression or grammar */
    size_t size;
    const ot_tool_use *tools; /* of TOOLS: with value the schema of a text beside the calls, or NULL */
    bool special_mark;     /* calls begin with a special token */
    const char *field;     /* its full name, for messages; NULL: nothing is asked for */
} source;

/* ---- Compiling ------------------------------------------------------------------------------------------- */

static void read_choices(ot_grammar_builder *b, const json_t *list)
{
    ot_expr_items items = {0};
    uint32_t root = ot_rule_add(b, "root");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *choice = json_array_get(list, i);
        ot_expr_push(b, &items, ot_expr_text(b, json_string_value(choice), json_string_length(choice)));
    }
    ot_rule_define(b, root, ot_expr_list(b, OT_EXPR_EITHER, items.items, items.n));
}

static void read_source(ot_grammar_builder *b, const void *what)
{
    const source *s = what;
    switch (s->kind) {
    case JSON_SCHEMA:
        ot_grammar_read_json_schema(b, s->value, s->compact ? OT_JSON_SPACE_NONE : OT_JSON_SPACE_FREE);
        return;
    case REGEX: {
        uint32_t root = ot_rule_add(b, "root");
        ot_rule_define(b, root, ot_grammar_read_regex(b, s->text, s->size, false));
        return;
    }
    case CHOICE:
        read_choices(b, s->value);
        return;
    case EBNF:
        if (ot_grammar_is_lark(s->text, s->size))
            ot_grammar_read_lark(b, s->text, s->size);
        else
            ot_grammar_read_gbnf(b, s->text, s->size);
        return;
    case GBNF:
        ot_grammar_read_gbnf(b, s->text, s->size);
        return;
    case TOOLS:
        ot_tools_read_grammar(b, s->tools, s->special_mark, s->value);
        return;
    }
}

/* All that the grammar depends on, as a text: the kind, and the source as it was sent. The order of properties counts, so keys stay as
 * they are. */
static char *content_of(const source *s, size_t *size)
{
    char *json = NULL;
    if (s->kind == TOOLS) {
        const ot_tool_use *t = s->tools;
        json_t *all = json_pack("[O,O?,i,i,s?,b,b]", t->tools, s->value, (int)t->format, (int)t->choice, t->name, t->parallel, s->special_mark);
        json = all != NULL ? json_dumps(all, JSON_COMPACT) : NULL;
        json_decref(all);
    } else if (s->value != NULL) {
        json = json_dumps(s->value, JSON_COMPACT | JSON_ENCODE_ANY);
    }
    const bool is_json = s->kind == TOOLS || s->value != NULL;
    const char *text = is_json ? json : s->text;
    const size_t n = is_json ? (json != NULL ? strlen(json) : 0) : s->size;
    char *content = text != NULL ? malloc(n + 2) : NULL;
    if (content != NULL) {
        content[0] = (char)('a' + s->kind);
        content[1] = s->compact ? 'c' : ' ';
        memcpy(content + 2, text, n);
        *size = n + 2;
    }
    free(json);
    return content;
}

static ot_status compile(const ot_api_context *api, ot_fields f, const source *s, ot_grammar **out, ot_error *err)
{
    size_t size = 0;
    ot_error inner = {0};
    char *content = content_of(s, &size);
    if (content == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory while reading the request");
    ot_status status = ot_grammars_get(api->grammars, content, size, read_source, s, out, &inner);
    free(content);
    if (status == OT_ERR_INVALID)
        return ot_fields_fail(f, s->field, status, err, "cannot be followed: %s", inner.message);
    if (status)
        *err = inner; /* nothing that the field says */
    return status;
}

/* ---- Fields ---------------------------------------------------------------------------------------------- */

/* A second source is an error: both cannot be meant. */
static ot_status choose(ot_fields f, source *out, source found, ot_error *err)
{
    if (out->field != NULL)
        return ot_fields_fail(f, found.field, OT_ERR_INVALID, err, "asks for another form of the answer than '%s' does: only one can be followed",
                              out->field);
    *out = found;
    return OT_OK;
}

static bool is_empty(const json_t *v)
{
    return json_is_false(v) || (json_is_object(v) && json_object_size(v) == 0) || (json_is_array(v) && json_array_size(v) == 0) ||
           (json_is_string(v) && json_string_length(v) == 0);
}

/* A schema as JSON; vLLM's clients may send it as a string. A string's value is kept by `holder` until the end of the request. */
static ot_status read_schema(ot_fields f, const char *name, const json_t *v, bool compact, json_t *holder, source *out, ot_error *err)
{
    const json_t *schema = v;
    if (json_is_string(v)) {
        json_error_t where;
        json_t *parsed = json_loads(json_string_value(v), JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &where);
        if (parsed == NULL || json_array_append_new(holder, parsed) != 0)
            return ot_fields_fail(f, name, OT_ERR_INVALID, err, "is a string that holds no JSON: %s (line %d)", where.text, where.line);
        schema = parsed;
    }
    if (!json_is_object(schema) && !json_is_boolean(schema))
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, "must be a JSON Schema, not %s", ot_json_kind(schema));
    return choose(f, out, (source){.kind = JSON_SCHEMA, .compact = compact, .value = schema, .field = name}, err);
}

static ot_status read_text(ot_fields f, const char *name, source_kind kind, const json_t *v, source *out, ot_error *err)
{
    if (!json_is_string(v))
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, "must be a string, not %s", ot_json_kind(v));
    return choose(f, out, (source){.kind = kind, .text = json_string_value(v), .size = json_string_length(v), .field = name}, err);
}

static ot_status read_choice(ot_fields f, const char *name, const json_t *v, source *out, ot_error *err)
{
    if (!json_is_array(v) || json_array_size(v) > MAX_CHOICES)
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, "must be a list of at most %d strings", MAX_CHOICES);
    for (size_t i = 0; i < json_array_size(v); i++)
        if (!json_is_string(json_array_get(v, i)))
            return ot_fields_fail(f, name, OT_ERR_INVALID, err, "must be a list of strings; entry %zu is %s", i, ot_json_kind(json_array_get(v, i)));
    return choose(f, out, (source){.kind = CHOICE, .value = v, .field = name}, err);
}

/* {"type": "text"}, {"type": "json_object"} with llama-server's `schema`, or {"type": "json_schema", "json_schema": {"schema": ...}}. */
static ot_status read_response_format(ot_fields f, json_t *holder, source *out, ot_error *err)
{
    json_t *format = NULL, *inner = NULL;
    const char *type = NULL;
    ot_status status = ot_fields_object(f, "response_format", &format, err);
    if (status || format == NULL)
        return status;
    ot_fields members = {format, "response_format"};
    status = ot_fields_string(members, "type", 64, &type, err);
    if (!status && type == NULL)
        status = ot_fields_fail(members, "type", OT_ERR_INVALID, err, "is required");
    if (status || strcmp(type, "text") == 0)
        return status;
    const json_t *schema = ot_fields_get(members, "schema");
    if (strcmp(type, "json_schema") == 0) {
        status = ot_fields_object(members, "json_schema", &inner, err);
        if (status)
            return status;
        if (inner != NULL)
            schema = ot_fields_get((ot_fields){inner, "response_format.json_schema"}, "schema");
        else if (schema == NULL)
            return ot_fields_fail(members, "json_schema", OT_ERR_INVALID, err, "is required");
    } else if (strcmp(type, "json_object") != 0) {
        return ot_fields_fail(members, "type", OT_ERR_UNSUPPORTED, err, "must be \"text\", \"json_object\" or \"json_schema\", not \"%.40s\"", type);
    }
    if (schema == NULL) { /* any object */
        json_t *any = json_pack("{s:s}", "type", "object");
        if (any == NULL || json_array_append_new(holder, any) != 0)
            return ot_fail(err, OT_ERR_NOMEM, "out of memory while reading the request");
        schema = any;
    }
    return read_schema(f, "response_format", schema, false, holder, out, err);
}

static ot_status read_structured_outputs(ot_fields f, json_t *holder, source *out, ot_error *err)
{
    json_t *object = NULL;
    bool compact = false, any = false;
    ot_status status = ot_fields_object(f, "structured_outputs", &object, err);
    if (status || json_object_size(object) == 0)
        return status;
    ot_fields m = {object, "structured_outputs"};
    status = ot_fields_bool(m, "disable_any_whitespace", &compact, err);
    if (!status)
        status = ot_fields_bool(m, "json_object", &any, err);
    static const char *const refused[] = {"structural_tag", "whitespace_pattern"};
    for (size_t i = 0; i < 2 && !status; i++)
        if (ot_fields_get(m, refused[i]) != NULL)
            return ot_fields_fail(m, refused[i], OT_ERR_UNSUPPORTED, err, "is not supported by this server");
    const json_t *v;
    if (!status && (v = ot_fields_get(m, "json")) != NULL)
        status = read_schema(m, "json", v, compact, holder, out, err);
    if (!status && any) {
        json_t *object_schema = json_pack("{s:s}", "type", "object");
        if (object_schema == NULL || json_array_append_new(holder, object_schema) != 0)
            return ot_fail(err, OT_ERR_NOMEM, "out of memory while reading the request");
        status = read_schema(m, "json_object", object_schema, compact, holder, out, err);
    }
    if (!status && (v = ot_fields_get(m, "regex")) != NULL)
        status = read_text(m, "regex", REGEX, v, out, err);
    if (!status && (v = ot_fields_get(m, "choice")) != NULL)
        status = read_choice(m, "choice", v, out, err);
    if (!status && (v = ot_fields_get(m, "grammar")) != NULL)
        status = read_text(m, "grammar", EBNF, v, out, err);
    return status;
}

static ot_status read_fields(ot_fields f, json_t *holder, source *out, ot_error *err)
{
    static const struct {
        const char *name;
        source_kind kind;
    } fields[] = {
        {"guided_json", JSON_SCHEMA}, {"guided_regex", REGEX}, {"guided_choice", CHOICE}, {"guided_grammar", EBNF},
        {"json_schema", JSON_SCHEMA}, {"grammar", GBNF}, {"regex", REGEX}, {"ebnf", EBNF},
    };
    ot_status status = read_response_format(f, holder, out, err);
    for (size_t i = 0; i < sizeof fields / sizeof fields[0] && !status; i++) {
        const json_t *v = ot_fields_get(f, fields[i].name);
        if (v == NULL || is_empty(v))
            continue;
        if (fields[i].kind == JSON_SCHEMA)
            status = read_schema(f, fields[i].name, v, false, holder, out, err);
        else if (fields[i].kind == CHOICE)
            status = read_choice(f, fields[i].name, v, out, err);
        else
            status = read_text(f, fields[i].name, fields[i].kind, v, out, err);
    }
    return status;
}

/* Calls beside another form: a schema may say what a text is where there is no call. */
static ot_status join_tools(const ot_api_context *api, ot_fields f, const ot_tool_use *tools, source *plain, const source *nested, ot_error *err)
{
    if (tools == NULL || tools->format == OT_TOOLS_OFF)
        return OT_OK;
    if (nested->field != NULL || (plain->field != NULL && plain->kind != JSON_SCHEMA))
        return ot_fields_fail(f, nested->field != NULL ? "structured_outputs" : plain->field, OT_ERR_UNSUPPORTED, err,
                              "cannot be followed beside 'tools': a JSON Schema in 'response_format' can");
    *plain = (source){.kind = TOOLS, .value = plain->value, .tools = tools, .special_mark = api->tool_mark >= 0, .field = "tools"};
    return OT_OK;
}

ot_status ot_parse_constraint(const ot_api_context *api, ot_fields f, const ot_tool_use *tools, ot_grammar **out, ot_error *err)
{
    source plain = {0}, nested = {0};
    ot_fields outputs = {ot_fields_get(f, "structured_outputs"), "structured_outputs"};
    json_t *holder = json_array();
    *out = NULL;
    if (holder == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory while reading the request");
    ot_status status = read_fields(f, holder, &plain, err);
    if (!status)
        status = read_structured_outputs(f, holder, &nested, err);
    if (!status && plain.field != NULL && nested.field != NULL)
        status = ot_fields_fail(f, plain.field, OT_ERR_INVALID, err, "and 'structured_outputs' ask for two forms of the answer: only one can be followed");
    if (!status)
        status = join_tools(api, f, tools, &plain, &nested, err);
    if (!status && plain.field != NULL)
        status = compile(api, f, &plain, out, err);
    else if (!status && nested.field != NULL)
        status = compile(api, outputs, &nested, out, err);
    json_decref(holder);
    return status;
}

bool ot_body_may_constrain(const char *body, size_t size)
{
    static const char *const words[] = {"response_format", "structured_outputs", "guided_", "json_schema", "\"grammar\"", "\"regex\"", "\"ebnf\"",
                                        "\"tools\""};
    for (size_t i = 0; size > 0 && i < sizeof words / sizeof words[0]; i++)
        if (memmem(body, size, words[i], strlen(words[i])) != NULL)
            return true;
    return false;
}
