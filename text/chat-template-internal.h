/* What the chat template files share; private to chat-template*.c.
 *
 * A family is a row of a table: what stands before and after the content of each role, and a few flags for where
 * families differ in more than that. A template is a family with what was read from the file's own text: whether it
 * writes BOS, its default system message, whether it trims. In the strings of a family BOS and EOS stand for the
 * model's tokens of these names. */
#ifndef OTTER_TEXT_CHAT_TEMPLATE_INTERNAL_H
#define OTTER_TEXT_CHAT_TEMPLATE_INTERNAL_H

#include "text/chat-template.h"

#define BOS "\1"
#define EOS "\2"

enum {
    OT_CHAT_TRIM = 1 << 0,              /* white space around content is dropped */
    OT_CHAT_TRIM_ASSISTANT = 1 << 1,    /* around the assistant's only */
    OT_CHAT_ALTERNATE = 1 << 2,         /* user and assistant by turns, after a system message */
    OT_CHAT_SYSTEM_REFUSED = 1 << 3,    /* no place for a system message */
    OT_CHAT_SYSTEM_IN_FIRST = 1 << 4,   /* it opens the first user message */
    OT_CHAT_SYSTEM_IN_LAST = 1 << 5,    /* it opens the user message at the end, if there is one */
    OT_CHAT_SYSTEM_AT_START = 1 << 6,   /* all system messages are moved to the start */
    OT_CHAT_SYSTEM_ONCE = 1 << 7,       /* only as the first message */
    OT_CHAT_SYSTEM_ALWAYS = 1 << 8,     /* the system turn is written even without a message */
    OT_CHAT_DEFAULT_IF_NONE = 1 << 9,   /* the default counts unless there is a system message anywhere, not just first */
    OT_CHAT_DEFAULT_BARE = 1 << 10,     /* the default is written without what stands around a system message */
    OT_CHAT_DROP_THOUGHT = 1 << 11,     /* of the assistant's content only what follows the last </think> */
    OT_CHAT_PROMPT_ALWAYS = 1 << 12,    /* the generation prompt is written even if not asked for */
    OT_CHAT_PROMPT_NEVER = 1 << 13,
    OT_CHAT_PROMPT_NOT_TWICE = 1 << 14, /* none after an assistant's message */
    OT_CHAT_EOS_WITHOUT_PROMPT = 1 << 15, /* EOS where the generation prompt would stand */
    OT_CHAT_SKIP_EMPTY_SYSTEM = 1 << 16,
    OT_CHAT_TOOL_RESPONSE = 1 << 17,    /* runs of tool messages become one user turn (Qwen 2.5) */
    OT_CHAT_BOS_OPTIONAL = 1 << 18,     /* a template text that does not mention bos_token writes none */
    OT_CHAT_SYSTEM_LAST_WINS = 1 << 19, /* with OT_CHAT_SYSTEM_AT_START: the last one only, else all, joined */
    OT_CHAT_SYSTEM_OPTIONAL = 1 << 20,  /* refused by templates that do not mention the role */
    OT_CHAT_SYSTEM_AS_IS = 1 << 21,     /* never trimmed */
    OT_CHAT_LINES = 1 << 22             /* line breaks between the blocks of the template are part of its output */
};

typedef struct ot_chat_turn {
    const char *before, *after; /* NULL: the role is not allowed */
} ot_chat_turn;

typedef struct ot_chat_family {
    const char *name;
    const char *bos, *eos;  /* their texts where no tokenizer says otherwise */
    const char *needs[4];   /* parts of the canonical template text, all of which must be there */
    const char *lacks[6];   /* and none of these */
    unsigned flags;
    const char *start;      /* before everything */
    ot_chat_turn system, user, assistant, tool;
    ot_chat_turn later_system; /* where it differs from a system message that comes first */
    const char *after_last; /* instead of assistant.after at the very end; NULL: the same */
    const char *prompt;     /* where the assistant begins */
    const char *default_system; /* NULL: none, unless the template text has one */
} ot_chat_family;

/* Ends with a row whose name is NULL. */
extern const ot_chat_family ot_chat_families[];
extern const char *const ot_chat_family_names[]; /* NULL-terminated */

struct ot_chat_template {
    const ot_chat_family *family;
    unsigned flags;
    const char *start, *prompt;
    char *default_system; /* owned; NULL: none */
};

/* A rendered conversation: the text, and which parts of it come from the template. */
typedef struct ot_chat_text {
    char *text;
    size_t size, capacity;
    struct ot_text_range *marks; /* sorted, apart from each other */
    size_t n_marks, marks_capacity;
    ot_str bos, eos; /* what BOS and EOS stand for */
    bool failed; /* out of memory */
} ot_chat_text;
void ot_chat_text_free(ot_chat_text *out);
ot_status ot_chat_write(const ot_chat_template *t, const ot_chat_message *messages, size_t n, bool add_generation_prompt,
                        bool continue_final, ot_chat_text *out, ot_error *err);

/* ---- chat-template-jinja.c ---- */
/* The template text in canonical form, malloc'ed and zero-terminated; NULL if out of memory. Comments are gone, blocks
 * have taken the white space that they take when rendered (trim_blocks, lstrip_blocks, minus signs), expressions have
 * none outside strings, strings have single quotes, and x['y'] is x.y. */
char *ot_jinja_canonical(const char *jinja, size_t size);
/* The string literal content between `open` and `close` where both lie in one literal, unescaped, malloc'ed; *found
 * tells. NULL and *found: out of memory. */
char *ot_jinja_literal_between(const char *canonical, const char *open, const char *close, bool *found);

/* ---- chat-template-check.c ---- */
/* Whether the canonical text writes nothing that the template would not. *done: false if out of memory. */
bool ot_chat_writes_only_known(const ot_chat_template *t, const char *canonical, bool *done);

#endif
