/* What parsing a request needs to know of the server: immutable while it runs (the table of heads locks itself, the defaults are
 * exchanged whole), so that bodies can be parsed on the loop's thread or on a worker. */
#ifndef OTTER_SERVER_API_CONTEXT_H
#define OTTER_SERVER_API_CONTEXT_H

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "text/chat-template.h"
#include "scheduler/intervention-members.h"
#include "grammar/grammar-cache.h"
#include "scheduler/scheduler.h"
#include "server/request-arena.h"
#include "server/request-fields.h"
#include "server/tools.h"

typedef struct ot_api_preset {
    char *model_id;       /* "base+preset" */
    json_t *intervention; /* checked when the server opened */
} ot_api_preset;

/* What requests get that do not say it themselves. Immutable; a reload puts another one in its place, and frees this one when no exchange is
 * left that could have seen it (reload.c). */
typedef struct ot_api_defaults {
    uint32_t n_presets;
    ot_api_preset *presets;
    ot_drafting drafting; /* of requests that say nothing about it: max_draft 0 if there is none. Holds its head */
    const struct ot_categories *moderation; /* as configured; NULL: those of the moderation head */
} ot_api_defaults;

typedef struct ot_api_context {
    const ot_model *model;
    const ot_tokenizer *tokenizer;
    ot_heads *heads;
    const ot_chat_template *chat; /* NULL: the chat route is off, because of ... */
    char chat_problem[448];
    bool chat_has_system; /* the template takes a system's message */
    char *model_id;
    char fingerprint[48]; /* system_fingerprint: the build and the model's weights */
    uint32_t n_vocab;
    uint32_t ctx_size;       /* tokens of prompt and completion together */
    uint32_t max_prompts;    /* in one request */
    uint32_t max_choices;    /* `n` */
    _Atomic(const ot_api_defaults *) defaults;
    ot_json_limits json;
    ot_token_trie *trie;     /* of the vocabulary ... */
    ot_tool_format tool_format; /* of the model's family ... */
    int32_t tool_mark;       /* ... and the token that begins calls there, if it is a special one; else -1 */
    ot_grammars *grammars;   /* ... and the grammars that were compiled for it */
} ot_api_context;

/* Those of now: valid for as long as the exchange that asks lives. */
const ot_api_defaults *ot_api_get_defaults(const ot_api_context *api);
/* The `model` field: absent or the base's id, or a preset's. *id is borrowed from the context, *preset is NULL for the base.
 * An unknown one is OT_ERR_NOT_FOUND. */
ot_status ot_api_find_model(const ot_api_context *api, ot_fields f, const char **id, const json_t **preset, ot_error *err);

/* ---- Prompts (parse-prompt.c, parse-chat.c) ---------------------------------------------------------------------------- */

typedef struct ot_prompt {
    int32_t *tokens;
    uint32_t n_tokens; /* at least 1 */
    const char *text;  /* as the client sent it; NULL where token ids were sent */
    size_t text_bytes;
    bool from_ids;
    uint32_t n_added;  /* tokens at the beginning that no text of the client's stands for */
    bool opens_thought; /* ends within an open <think> */
} ot_prompt;

typedef struct ot_prompts {
    ot_prompt *items;
    uint32_t n;
} ot_prompts;

/* A string, a list of strings, a list of token ids or a list of such lists; texts are tokenised with these ot_tokenize_flags. A text
 * that begins with BOS in letters, as chat templates write it, gets no second one where specials are read. Memory is the arena's. */
ot_status ot_parse_prompts(const ot_api_context *api, ot_arena *arena, ot_fields f, const char *name, unsigned flags,
                           ot_prompts *out, ot_error *err);
/* The texts of content parts {"type": "text", "text"} one after the other, to be freed; zero-terminated. `name` is the list's. */
ot_status ot_join_parts(const json_t *parts, const char *name, char **out, size_t *out_size, ot_error *err);
/* The same as one prompt. */
ot_status ot_parse_parts(const ot_api_context *api, ot_arena *arena, const json_t *parts, const char *name, unsigned flags,
                         ot_prompts *out, ot_error *err);
/* `messages` and what goes with them, for the chat template. `continues` is what a route does by itself: the last message goes on, instead
 * of a new one that begins. *out is closed by the caller, and is closed already after a failure. */
ot_status ot_parse_chat_input(const ot_api_context *api, ot_fields f, bool continues, ot_chat_input *out, ot_error *err);
/* The same through the chat template, as one prompt. */
ot_status ot_parse_messages(const ot_api_context *api, ot_arena *arena, ot_fields f, bool continues, ot_prompt *out, ot_error *err);
/* OT_ERR_TOO_LONG for a prompt that the context has no room for, with a token to be generated after it if `generates`; `name` is the field that
 * the prompts came from. */
ot_status ot_check_lengths(const ot_api_context *api, const ot_prompts *prompts, const char *name, bool generates, ot_error *err);
/* Where the scheduler found fault with the prompt: names the field that it came from. */
void ot_name_prompt_field(const char *name, ot_error *err);
/* A list of token ids, each checked against the vocabulary; may be empty. */
ot_status ot_parse_token_ids(const ot_api_context *api, ot_arena *arena, const json_t *array, const char *name,
                             int32_t **out, uint32_t *n, ot_error *err);

/* ---- Heads (resolve-heads.c) ----------------------------------------------------------------------------- */

/* Whether a head of this kind can be put to this use. */
bool ot_head_serves(const ot_head *head, ot_head_use use);
/* The head that `to_find` names ("toxicity", "policy/label") as a new reference, and its output. For an expert without a label that is
 * the first output with offset 0; drafts use all outputs and take no label. `f` and `name` name the field that holds it. */
ot_status ot_resolve_head(const ot_api_context *api, ot_fields f, const char *name, const char *to_find, ot_head_use use,
                          ot_head **head, uint32_t *output, ot_error *err);

/* ---- Interventions (parse-intervention.c) ---------------------------------------------------------------- */

/* `preset` (may be NULL) gives members that `request` (may be NULL) does not have; a null or false member turns the preset's off,
 * or the server's own drafts. On success *out holds a reference to each head, on failure none. */
ot_status ot_parse_intervention(const ot_api_context *api, const json_t *preset, const json_t *request,
                                ot_intervention *out, ot_error *err);
/* Adds a head that scores by the client's name, or finds it again; *index is its place in `signals`. `f` and `name` name the
 * field that holds it. */
ot_status ot_intervention_add(const ot_api_context *api, ot_fields f, const char *name, const char *head, ot_head_use use,
                              ot_intervention *out, uint32_t *index, ot_error *err);
/* What drafts for requests that say nothing: "lookup", a head or "model", or "lookup" and one of these, with a comma. *out holds a
 * reference to the head. */
ot_status ot_parse_default_drafts(const ot_api_context *api, const char *names, ot_drafting *out, ot_error *err);

/* ---- Constraints (parse-constraint.c) -------------------------------------------------------------------- */

/* What the answer must follow: a new reference, or NULL if nothing is asked for. `tools` (may be NULL): calls that it may have. Compiling may take a second: not for the loop's thread. */
ot_status ot_parse_constraint(const ot_api_context *api, ot_fields f, const ot_tool_use *tools, ot_grammar **out, ot_error *err);
/* Whether a body, unparsed, may ask for that: then it is parsed by a worker. */
bool ot_body_may_constrain(const char *body, size_t size);

/* ---- Sampling and stopping (parse-sampling.c) ------------------------------------------------------------ */

/* Fills params->sampling, max_tokens (default_max where absent), min_tokens, ignore_eos, stops and stop tokens. Pointers are
 * the arena's or the object's, which must live until submission. */
ot_status ot_parse_sampling(const ot_api_context *api, ot_arena *arena, ot_fields f, uint32_t default_max,
                            ot_request_params *params, ot_error *err);

#endif
