/* Chat templates: conversations to prompts. The template is the Jinja text of the model file, of a file that the operator names, or one of
 * a few that are known by name; it is run by text/jinja.h.
 *
 * Message content is never parsed for special tokens. The interpreter keeps for each byte of the result whether the template wrote
 * it or a message brought it; only where the template wrote may control tokens be recognised. */
#ifndef OTTER_TEXT_CHAT_TEMPLATE_H
#define OTTER_TEXT_CHAT_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "text/jinja.h"
#include "text/tokenizer.h"

/* ---- Templates ------------------------------------------------------------------------------------------- */

typedef struct ot_chat_template ot_chat_template;

/* What a template does with what only some templates know, found by trying it. */
typedef struct ot_chat_traits {
    bool tools;          /* `tools` show in the prompt */
    bool tool_calls;     /* calls in an assistant's message do */
    bool arguments_text; /* their arguments are wanted as JSON text, not as objects */
    bool null_content;   /* beside calls, a message without content is wanted with None, not with an empty text */
    bool developer;      /* there is a role of this name; elsewhere it is the system's */
    bool thinks;         /* thoughts stand between <think> and </think> */
    bool prompt_thinks;  /* the generation prompt ends within an open <think> */
} ot_chat_traits;

/* From the text of a template (as in tokenizer.chat_template). What Jinja2 would refuse is OT_ERR_FORMAT, what it would not is
 * OT_ERR_UNSUPPORTED; the message names the line. */
ot_status ot_chat_template_parse(ot_chat_template **out, const char *jinja, size_t size, ot_error *err);
/* By name ("chatml", "llama3", ...), for files without a template. */
ot_status ot_chat_template_named(ot_chat_template **out, const char *name, ot_error *err);
/* What an operator gives: a name, or the path of a file, which has a slash or a dot in it. */
ot_status ot_chat_template_open(ot_chat_template **out, const char *name_or_path, ot_error *err);
void ot_chat_template_close(ot_chat_template **tmpl);
/* Its name; "jinja" where it has none. */
const char *ot_chat_template_name(const ot_chat_template *tmpl);
/* All names, NULL-terminated. */
const char *const *ot_chat_template_names(void);
const ot_chat_traits *ot_chat_template_traits(const ot_chat_template *tmpl);
/* Whether it has this name, or a string literal that is this. */
bool ot_chat_template_mentions(const ot_chat_template *tmpl, const char *name);

/* ---- Conversations of every kind --------------------------------------------------------------------------- */

/* What a template is run with, as values that its caller makes with the builders of text/jinja.h in `memory`. A message is a dict: role,
 * content, and what else a template may read (tool_calls, tool_call_id, name, reasoning_content ...). */
typedef struct ot_chat_input {
    ot_jinja_memory *memory;
    ot_jinja_value messages;  /* a list of dicts */
    ot_jinja_value tools;     /* a list, or None */
    ot_jinja_value documents; /* a list, or None */
    ot_jinja_value kwargs;    /* a dict of further variables, or None */
    bool add_generation_prompt; /* the text ends where the assistant begins */
    bool continue_final;      /* the text ends with the content of the last message, which is the assistant's */
    time_t now;               /* what strftime_now reads; 0: the clock */
} ot_chat_input;

enum { OT_CHAT_MAX_BYTES = 256 << 20 }; /* of memory for a rendering */

/* Zero-initialises, with memory of its own; false if there is none. Freed by ot_chat_input_close. */
bool ot_chat_input_open(ot_chat_input *input);
void ot_chat_input_close(ot_chat_input *input);
/* A role as a value: the common ones count as text of the template, which may be part of a control token, others do not. */
ot_jinja_value ot_chat_role(ot_jinja_memory *m, const char *role, size_t size);

/* Renders to text; *out is malloc'ed. bos_token and eos_token are the tokenizer's, empty without one. What the template refuses is
 * OT_ERR_INVALID, param "messages". */
ot_status ot_chat_render(const ot_chat_template *tmpl, const ot_tokenizer *tokenizer, const ot_chat_input *input, char **out, size_t *size,
                         ot_error *err);
/* Renders straight to tokens: template text with specials, message content without. */
ot_status ot_chat_tokenize(const ot_chat_template *tmpl, const ot_tokenizer *tokenizer, const ot_chat_input *input, int32_t **out,
                           size_t *n_out, ot_error *err);

/* ---- Plain conversations ----------------------------------------------------------------------------------- */

typedef struct ot_chat_message {
    const char *role;    /* "system", "user", "assistant", ... */
    const char *content; /* UTF-8, zero-terminated */
} ot_chat_message;

ot_status ot_chat_template_render(const ot_chat_template *tmpl, const ot_tokenizer *tokenizer, const ot_chat_message *messages, size_t n,
                                  bool add_generation_prompt, bool continue_final, char **out, size_t *size, ot_error *err);
ot_status ot_chat_template_tokenize(const ot_chat_template *tmpl, const ot_tokenizer *tokenizer,
                                    const ot_chat_message *messages, size_t n, bool add_generation_prompt,
                                    bool continue_final, int32_t **out, size_t *n_out, ot_error *err);

#endif
