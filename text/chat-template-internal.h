/* What the chat template files share; private to chat-template*.c. */
#ifndef OTTER_TEXT_CHAT_TEMPLATE_INTERNAL_H
#define OTTER_TEXT_CHAT_TEMPLATE_INTERNAL_H

#include "text/chat-template.h"

/* A template that is known by name. The list ends with a NULL name. */
typedef struct ot_chat_named {
    const char *name, *source;
} ot_chat_named;
extern const ot_chat_named ot_chat_named_templates[];
extern const char *const ot_chat_named_names[]; /* NULL-terminated */

struct ot_chat_template {
    ot_jinja *jinja;
    char name[32];
    ot_chat_traits traits;
};

/* Renders the input with these texts for bos_token and eos_token. */
ot_status ot_chat_run(const ot_chat_template *tmpl, const ot_chat_input *input, ot_str bos, ot_str eos, ot_jinja_text *out, ot_error *err);
/* Finds out what a template makes of tools and calls, by trying (chat-template-probe.c). */
void ot_chat_probe(ot_chat_template *tmpl);

#endif
