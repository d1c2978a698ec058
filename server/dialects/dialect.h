/* Dialects: other vendors' routes as thin adapters over a chat completion.
 *
 * A dialect rewrites a request's body into that of a chat completion, which is parsed, checked and run like any other, so that sampling,
 * interventions, signals and presets work there as they do everywhere; and it writes the answer, or the events of a stream, in its own
 * shape. What it does not know is passed on under its name: the chat route's fields (`seed`, `intervention`, ...) may be given here, too, and
 * what that route refuses is refused here.
 *
 *     responses-request.c, responses-answer.c    POST /v1/responses     OpenAI's Responses API
 *     messages-request.c, messages-answer.c      POST /v1/messages      Anthropic's Messages API
 *     translation.c                              what the two rewrite alike
 */
#ifndef OTTER_SERVER_DIALECTS_DIALECT_H
#define OTTER_SERVER_DIALECTS_DIALECT_H

#include "server/completion.h"

/* A stream has one choice. Its events are begun once, then text comes in pieces, then the end. */
struct ot_dialect {
    const char *id_prefix;
    /* *chat: the chat completion's body, a new reference. Names at fault in err are the dialect's. Loop or worker. */
    ot_status (*translate)(const json_t *body, json_t **chat, ot_error *err);
    /* The dialect's name of a field of the chat completion ("max_tokens"); the same where it has no other. */
    const char *(*own_name)(const char *field);
    /* The whole answer. Loop or worker. */
    void (*format)(const ot_completion *c, ot_text *out);
    /* Events of a stream. `chunk` is called with the tokens of the chunk in the choice, also where their text is empty; `end` after the last. */
    void (*begin)(ot_completion *c, ot_text *out);
    void (*chunk)(ot_completion *c, ot_text *out);
    void (*end)(ot_completion *c, ot_text *out);
    void (*fail)(ot_completion *c, const ot_error *error, ot_text *out);
};

extern const ot_dialect ot_dialect_responses, ot_dialect_messages;

/* An error of the chat completion in the dialect's words: the field's own name, also where the message begins with it. */
void ot_dialect_rename(const ot_dialect *dialect, ot_error *error);

/* ---- Rewriting (translation.c) ----------------------------------------------------------------------------------- */

/* A chat completion's body in the making. `failed` means out of memory, and is looked at once at the end. */
typedef struct ot_translation {
    json_t *chat;     /* the body */
    json_t *messages; /* its list, borrowed */
    bool failed;
} ot_translation;

/* Begins with every member of the body but those that are named (a list that ends in NULL). */
void ot_translation_begin(ot_translation *t, const json_t *body, const char *const *without);
/* chat[name] = value, of which a new reference is taken; nothing for NULL and null. */
void ot_translation_put(ot_translation *t, const char *name, const json_t *value);
/* Adds {"role": role, "content": content}; takes the reference to content. Returns the message, borrowed, or NULL. */
json_t *ot_translation_add(ot_translation *t, const char *role, json_t *content);
/* OT_OK and the body, or OT_ERR_NOMEM. */
ot_status ot_translation_end(ot_translation *t, json_t **chat, ot_error *err);
void ot_translation_drop(ot_translation *t);

/* Content that is a string, or parts {"type": one of `types`, "text": ...}, as a string or as the chat route's parts. A part of another type is
 * OT_ERR_UNSUPPORTED by the name of its place. *out is a new reference. */
ot_status ot_translate_content(const json_t *content, const char *const *types, const char *where, json_t **out, ot_error *err);

/* ---- Writing ------------------------------------------------------------------------------------------------------- */

/* "event: NAME\ndata: "; the caller writes one JSON value and then ot_event_end. */
void ot_event_begin(ot_text *out, const char *name);
void ot_event_end(ot_text *out);

#endif
