/* An interpreter for the part of Jinja that chat templates are written in: what Jinja2 gives with the settings of the
 * transformers library (a sandbox that changes nothing, trim_blocks, lstrip_blocks, break and continue, `generation` tags,
 * raise_exception, strftime_now, and tojson without escapes), byte for byte or else a refusal that says what and where.
 *
 * Two things are particular here. Every string remembers for each of its bytes where it came from (ot_jinja_origin), through
 * every filter and operation, so that whoever turns the result into tokens knows which bytes the template itself wrote. And a
 * rendering is bounded: in steps, in nesting, in memory, which is one arena that goes as a whole. A template reaches the
 * variables that it is given and nothing else. */
#ifndef OTTER_TEXT_JINJA_H
#define OTTER_TEXT_JINJA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "base/status.h"
#include "gguf/gguf.h"

/* ---- Values ---------------------------------------------------------------------------------------------- */

typedef enum ot_jinja_origin {
    OT_JINJA_CONTENT,  /* from a request: never a control token */
    OT_JINJA_TEMPLATE, /* written in the template, or as good as that */
    OT_JINJA_FINAL     /* content of the message that an answer continues */
} ot_jinja_origin;

typedef enum ot_jinja_kind {
    OT_JINJA_UNDEFINED, OT_JINJA_NONE, OT_JINJA_BOOL, OT_JINJA_INT, OT_JINJA_FLOAT, OT_JINJA_STRING, OT_JINJA_LIST,
    OT_JINJA_TUPLE, OT_JINJA_DICT,
    /* Kinds that only a template makes. */
    OT_JINJA_RANGE, OT_JINJA_VIEW, OT_JINJA_ITERATOR, OT_JINJA_NAMESPACE, OT_JINJA_MACRO, OT_JINJA_LOOP, OT_JINJA_METHOD,
    OT_JINJA_FUNCTION, OT_JINJA_CYCLER, OT_JINJA_JOINER
} ot_jinja_kind;

typedef struct ot_jinja_value {
    uint8_t kind;   /* ot_jinja_kind */
    uint8_t origin; /* ot_jinja_origin of what it looks like when written; a string's bytes may differ */
    union {
        bool truth;
        int64_t integer;
        double number;
        struct ot_jinja_string *string;
        struct ot_jinja_list *list; /* LIST, TUPLE, VIEW, ITERATOR */
        struct ot_jinja_dict *dict; /* DICT, NAMESPACE */
        void *object;
    } as;
} ot_jinja_value;

/* The memory of one rendering: the variables, everything that the template makes of them, and the result. Running out of
 * it, or past max_bytes, is remembered: builders then return None, and rendering fails. */
typedef struct ot_jinja_memory ot_jinja_memory;
/* NULL if out of memory at once. */
ot_jinja_memory *ot_jinja_memory_open(size_t max_bytes);
void ot_jinja_memory_close(ot_jinja_memory **memory);

ot_jinja_value ot_jinja_none(void);
ot_jinja_value ot_jinja_bool(bool truth, ot_jinja_origin origin);
ot_jinja_value ot_jinja_int(int64_t integer, ot_jinja_origin origin);
ot_jinja_value ot_jinja_float(double number, ot_jinja_origin origin);
/* Copies the bytes. */
ot_jinja_value ot_jinja_string(ot_jinja_memory *m, const char *data, size_t size, ot_jinja_origin origin);
ot_jinja_value ot_jinja_list(ot_jinja_memory *m, ot_jinja_origin origin);
void ot_jinja_append(ot_jinja_memory *m, ot_jinja_value list, ot_jinja_value item);
ot_jinja_value ot_jinja_dict(ot_jinja_memory *m, ot_jinja_origin origin);
/* Sets or replaces an entry; the key is copied, with the origin of the dict. */
void ot_jinja_put(ot_jinja_memory *m, ot_jinja_value dict, const char *key, size_t key_size, ot_jinja_value value);
void ot_jinja_put_value(ot_jinja_memory *m, ot_jinja_value dict, ot_jinja_value key, ot_jinja_value value);
/* The entry, or NULL; also for what is no dict. */
const ot_jinja_value *ot_jinja_get(ot_jinja_value dict, const char *key);
/* Items of a list or tuple, or entries of a dict; 0 for all else. */
size_t ot_jinja_count(ot_jinja_value v);
ot_jinja_value ot_jinja_value_at(ot_jinja_value v, size_t i);
ot_jinja_value ot_jinja_key_at(ot_jinja_value dict, size_t i);
/* The bytes of a string; none for all else. */
ot_str ot_jinja_bytes(ot_jinja_value v);

/* ---- Templates ------------------------------------------------------------------------------------------- */

typedef struct ot_jinja ot_jinja;

/* A template is immutable once parsed and may be shared by threads. Errors name the line. */
ot_status ot_jinja_parse(ot_jinja **out, const char *source, size_t size, ot_error *err);
void ot_jinja_close(ot_jinja **tmpl);
/* Whether the name occurs as a variable or an attribute, or a string literal is exactly this. */
bool ot_jinja_mentions(const ot_jinja *tmpl, const char *name);
/* Whether a string literal, or the text between tags, has this in it. */
bool ot_jinja_writes(const ot_jinja *tmpl, const char *part);

typedef struct ot_jinja_limits {
    uint64_t max_steps;      /* nodes evaluated, and bytes looked through in 256s */
    uint32_t max_depth;      /* of nested nodes, calls and values */
    size_t max_output_bytes;
    time_t now;              /* what strftime_now reads; 0: the clock */
} ot_jinja_limits;
ot_jinja_limits ot_jinja_limits_default(void);

/* What was written, in the memory of the rendering. */
typedef struct ot_jinja_text {
    const char *data;
    const uint8_t *origins; /* ot_jinja_origin of each byte */
    size_t size;
} ot_jinja_text;

/* Renders with the entries of the dict `variables`. A template that calls raise_exception, or goes wrong as it would in
 * Jinja2: OT_ERR_INVALID; a limit: OT_ERR_TOO_LONG; what is not supported: OT_ERR_UNSUPPORTED. */
ot_status ot_jinja_render(const ot_jinja *tmpl, ot_jinja_memory *m, ot_jinja_value variables, const ot_jinja_limits *limits,
                          ot_jinja_text *out, ot_error *err);

#endif
