/* Every field of a request that this server knows, and what becomes of it: its own, and those of OpenAI, vLLM, SGLang, llama-server,
 * Ollama and others whose clients may be pointed here. One table, used by all routes and stated in api-spec/openapi.yaml; a unit test
 * holds the two together.
 *
 * A field that asks for something is done or refused by name, unless its value asks for nothing. A field that is in no row is ignored, but
 * for one that is a slip of the pen away from a field of its route: that is told. Any thread.
 */
#ifndef OTTER_SERVER_KNOWN_FIELDS_H
#define OTTER_SERVER_KNOWN_FIELDS_H

#include "server/request-fields.h"

/* Routes, as bits. */
typedef enum ot_field_route {
    OT_ON_COMPLETIONS = 1,
    OT_ON_CHAT = 2,
    OT_ON_SCORE = 4,
    OT_ON_MODERATIONS = 8,
    OT_ON_TOKENIZE = 16,
    OT_ON_DETOKENIZE = 32,
    OT_ON_APPLY_TEMPLATE = 64,
    OT_ON_LOAD_HEAD = 128,
    OT_ON_EMBEDDINGS = 256
} ot_field_route;

typedef enum ot_field_fate {
    OT_FIELD_DONE,    /* the route reads it */
    OT_FIELD_SYNONYM, /* another name of a field that the route reads */
    OT_FIELD_HINT,    /* taken, and changes no answer: nothing here depends on it */
    OT_FIELD_REFUSED  /* a 400, unless the value asks for nothing */
} ot_field_fate;

/* Of a refused field: which values ask for nothing. Of a hint: its type. */
typedef enum ot_field_rule {
    OT_VALUE_ANY,          /* a hint of any type */
    OT_VALUE_NONE,         /* refused whatever it says */
    OT_VALUE_EMPTY,        /* false, "", [] or {} */
    OT_VALUE_FALSE,
    OT_VALUE_TRUE,
    OT_VALUE_ZERO,
    OT_VALUE_ONE,
    OT_VALUE_NOT_POSITIVE, /* 0 or a negative number */
    OT_VALUE_TEXT_FORMAT,  /* {"type": "text"} */
    OT_VALUE_NO_CHOICE,    /* "none" or "auto": there are no tools to choose from */
    OT_VALUE_TEXT_ONLY,    /* ["text"] */
    OT_VALUE_MEDIUM,       /* "medium" */
    OT_VALUE_BOOLEAN,
    OT_VALUE_NUMBER,
    OT_VALUE_STRING,
    OT_VALUE_OBJECT
} ot_field_rule;

typedef struct ot_known_field {
    const char *name;    /* members of members have a dot: "stream_options.include_usage" */
    unsigned routes;     /* where the row holds */
    ot_field_fate fate;
    ot_field_rule rule;
    const char *instead; /* synonym: the field it names. Refused: the field to use, or NULL */
} ot_known_field;

/* The table: NULL past the last row. */
const ot_known_field *ot_known_field_at(size_t i);

/* Checks the members of f against the table; the error names the first one at fault. */
ot_status ot_check_known_fields(ot_fields f, ot_field_route route, ot_error *err);

/* The name under which the object gives a field: `name`, or else the synonym that is there. */
const char *ot_field_given(ot_fields f, const char *name);

#endif
