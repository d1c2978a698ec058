/* Calls of tools: how a family of models writes them, the grammar that holds an answer to that and arguments to their schema, and reading them
 * back out of the answer, piece by piece.
 *
 * An answer is a text, calls, or a text and then calls. What stands around names and arguments is fixed to the byte, as the family's chat
 * template writes it, so that reading needs no guessing and forced tokens cost no pass. */
#ifndef OTTER_SERVER_TOOLS_H
#define OTTER_SERVER_TOOLS_H

#include <jansson.h>

#include "base/json-text.h"
#include "grammar/grammar.h"
#include "server/request-fields.h"
#include "text/tokenizer.h"

typedef enum ot_tool_format {
    OT_TOOLS_OFF,
    OT_TOOLS_HERMES,  /* <tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>: Hermes, Qwen, and templates that know no tools */
    OT_TOOLS_LLAMA3,  /* {"name": "f", "parameters": {}} instead of a text */
    OT_TOOLS_MISTRAL  /* [TOOL_CALLS][{"name": "f", "arguments": {}}] */
} ot_tool_format;

typedef enum ot_tool_choice { OT_TOOL_CHOICE_AUTO, OT_TOOL_CHOICE_REQUIRED, OT_TOOL_CHOICE_NAMED } ot_tool_choice;

/* What a request asks for. Borrowed from its body. */
typedef struct ot_tool_use {
    ot_tool_format format;  /* OT_TOOLS_OFF: no calls */
    ot_tool_choice choice;
    const char *name;       /* of a named one */
    bool parallel;          /* several calls in one answer */
    const json_t *tools;
} ot_tool_use;

/* The format that a chat template (its Jinja text) speaks of. */
ot_tool_format ot_tool_format_of(const char *jinja, size_t size);
/* tools, tool_choice, parallel_tool_calls. */
ot_status ot_parse_tools(ot_fields f, ot_tool_format format, ot_tool_use *out, ot_error *err);
/* The grammar of an answer; `text` is what it may be instead of calls or before them, NULL: any text. Adds rule 0. */
void ot_tools_read_grammar(ot_grammar_builder *b, const ot_tool_use *use, bool special_mark, const json_t *text_schema);
/* The token that stands before calls and has no text of its own; -1: none. */
int32_t ot_tool_mark(ot_tool_format format, const ot_tokenizer *tokenizer);

/* For a model whose template shows no tools, or no calls: the body with both as text in its messages (tool-prompt.c), a new reference; NULL where
 * nothing has to be changed. Tools are described in the system's message, or in the
 * first one where the template has no system. False: out of memory. */
bool ot_tools_as_text(const json_t *body, bool shows_tools, bool shows_calls, bool has_system, json_t **out);

/* ---- Reading an answer ------------------------------------------------------------------------------------- */

typedef struct ot_tool_call {
    char id[32];
    ot_text name, arguments;
    size_t told;            /* of the arguments, in a stream */
    bool opened;            /* id and name are told */
} ot_tool_call;

typedef struct ot_call_reader {
    ot_tool_format format;  /* OT_TOOLS_OFF: all is text */
    int state;
    size_t at;              /* bytes of the current literal that were read */
    uint32_t depth;         /* of the arguments' braces */
    bool in_string, escaped, began;
    ot_text held;           /* what may be the beginning of a call */
    uint32_t n_calls, capacity;
    ot_tool_call *calls;
    bool failed;            /* out of memory */
} ot_call_reader;

void ot_call_reader_open(ot_call_reader *r, ot_tool_format format);
void ot_call_reader_close(ot_call_reader *r);
/* More of the answer; what is text is appended to `text`. */
void ot_call_reader_add(ot_call_reader *r, const char *data, size_t size, ot_text *text);
/* The mark of calls came (ot_tool_mark). */
void ot_call_reader_mark(ot_call_reader *r);
/* The answer is over: what was held back is text. */
void ot_call_reader_end(ot_call_reader *r, ot_text *text);
/* Whether a stream has something of the calls to tell. */
bool ot_call_reader_has_news(const ot_call_reader *r);
/* "tool_calls": all of them, or what is new for a chunk. Nothing without calls. */
void ot_tool_calls_write(const ot_call_reader *r, ot_text *out);
void ot_tool_calls_write_news(ot_call_reader *r, ot_text *out);

#endif
