/* Inside grammar/: what the files that read JSON Schemas share. */
#ifndef OTTER_GRAMMAR_JSON_SCHEMA_READER_H
#define OTTER_GRAMMAR_JSON_SCHEMA_READER_H

#include "grammar/grammar.h"

#define OT_SCHEMA_MAX_DEPTH 256

/* Rules that any schema may use, made when they are first asked for. */
typedef enum ot_json_rule { OT_JSON_VALUE, OT_JSON_OBJECT, OT_JSON_ARRAY, OT_JSON_STRING, OT_JSON_LONG_CHARACTER, OT_JSON_BLANK, OT_N_JSON_RULES } ot_json_rule;

typedef struct ot_schema_reader {
    ot_grammar_builder *b;
    const json_t *root;
    ot_json_space space;
    uint32_t rules[OT_N_JSON_RULES]; /* UINT32_MAX: not made yet */
    json_t *by_content;       /* string: number of the rule, for strings and numbers that are asked for several times */
    json_t *made;             /* list that keeps what merging has made */
    struct ot_schema_target *targets; /* schemas that $ref has led to */
    uint32_t depth;
    char path[256];           /* for messages: "properties.name" */
} ot_schema_reader;

/* Refuses the schema at the reader's path. Returns NULL. */
ot_expr *ot_schema_fail(ot_schema_reader *k, const char *format, ...) __attribute__((format(printf, 2, 3)));
static inline bool ot_schema_failed(const ot_schema_reader *k)
{
    return ot_grammar_builder_status(k->b, NULL) != OT_OK;
}

/* json-schema-basics.c: JSON without a schema. */
ot_expr *ot_json_rule_call(ot_schema_reader *k, ot_json_rule rule);
ot_expr *ot_json_literal(ot_schema_reader *k, const json_t *value);
ot_expr *ot_json_spaced(ot_schema_reader *k, const char *mark); /* the mark, and white space that may follow it */
ot_expr *ot_json_closing(ot_schema_reader *k, const char *mark); /* white space that may precede the mark, and the mark */
ot_expr *ot_json_object_of(ot_schema_reader *k, ot_expr *members);
/* A string whose value the expression matches. */
ot_expr *ot_json_string_of(ot_schema_reader *k, ot_expr *value);

/* json-schema-strings.c, json-schema-numbers.c: a schema of that type. */
ot_expr *ot_schema_string(ot_schema_reader *k, const json_t *schema);
/* Whether a string of an enum meets the other keywords. */
bool ot_schema_string_allows(ot_schema_reader *k, const json_t *schema, const json_t *string);
bool ot_schema_number_allows(const json_t *schema, const json_t *number);
ot_expr *ot_schema_number(ot_schema_reader *k, const json_t *schema, bool integer);

/* json-schema-merge.c */
/* What $ref points to; NULL: nothing, and the reader has failed. */
const json_t *ot_schema_resolve(ot_schema_reader *k, const json_t *reference);
/* The same schema without $ref and allOf at its top. Borrowed. NULL if the reader has failed. */
const json_t *ot_schema_flatten(ot_schema_reader *k, const json_t *schema);
/* What meets both. Borrowed. */
const json_t *ot_schema_merge(ot_schema_reader *k, const json_t *a, const json_t *b);
/* Whether no value can meet both, as far as types, constants and required properties show. */
bool ot_schema_excludes(ot_schema_reader *k, const json_t *a, const json_t *b);

#endif
