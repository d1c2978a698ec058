/* Chat templates. The Jinja text in a model file is recognised as one of the known families, each of which is
 * rendered in C. Message content is never parsed for special tokens: the result is a list of segments, and only
 * segments of the template itself may hold specials. */
#ifndef OTTER_TEXT_CHAT_TEMPLATE_H
#define OTTER_TEXT_CHAT_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "text/tokenizer.h"

typedef struct ot_chat_message {
    const char *role;    /* "system", "user", "assistant" ("developer" counts as system; "tool" as the family has it) */
    const char *content; /* UTF-8, zero-terminated */
} ot_chat_message;

typedef struct ot_chat_template ot_chat_template;

/* Recognises the template text (as in tokenizer.chat_template). Unknown: OT_ERR_UNSUPPORTED, and the message
 * says which families are known. */
ot_status ot_chat_template_detect(ot_chat_template **out, const char *jinja, size_t size, ot_error *err);
/* By family name ("chatml", "llama2", "llama3", "mistral", "gemma", "phi3", "zephyr", "vicuna", ...). */
ot_status ot_chat_template_named(ot_chat_template **out, const char *name, ot_error *err);
void ot_chat_template_close(ot_chat_template **tmpl);
const char *ot_chat_template_name(const ot_chat_template *tmpl);
/* All family names, NULL-terminated. */
const char *const *ot_chat_template_names(void);

/* Renders to text; *out is malloc'ed. With add_generation_prompt the text ends where the assistant begins.
 * If the last message is the assistant's and continue_final is set, its end mark is left off.
 * A role or order that the family does not allow: OT_ERR_INVALID, param "messages[i].role". */
ot_status ot_chat_template_render(const ot_chat_template *tmpl, const ot_chat_message *messages, size_t n,
                                  bool add_generation_prompt, bool continue_final,
                                  char **out, size_t *size, ot_error *err);
/* Renders straight to tokens: template text with specials, message content without. */
ot_status ot_chat_template_tokenize(const ot_chat_template *tmpl, const ot_tokenizer *tokenizer,
                                    const ot_chat_message *messages, size_t n, bool add_generation_prompt,
                                    bool continue_final, int32_t **out, size_t *n_out, ot_error *err);

#endif
