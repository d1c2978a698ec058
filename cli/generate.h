/* Inside `otter generate`: what its two ways share, one prompt in the terminal and a file of prompts. */
#ifndef OTTER_CLI_GENERATE_H
#define OTTER_CLI_GENERATE_H

#include <jansson.h>
#include <signal.h>

#include "cli/intervention-flags.h"
#include "cli/session.h"
#include "text/chat-template.h"

typedef struct ot_generate_options {
    ot_cli_session_options session;
    const char *prompt, *system, *chat_template;
    const char *batch, *out; /* files of rows; NULL: one prompt */
    uint32_t max_rows;       /* of the file; 0: all */
    bool chat, show_signals, help, resume;
    ot_cli_steering steering;
    ot_request_params params; /* without a prompt and heads */
    const char *stops[OT_MAX_STOPS];
} ot_generate_options;

/* Set by an interrupt, after ot_generate_catch_signals. */
extern volatile sig_atomic_t ot_generate_interrupted;
void ot_generate_catch_signals(void);

/* The template named in the options, or the model's own. */
ot_status ot_generate_open_chat(ot_chat_template **out, const ot_generate_options *o, const ot_cli_session *session,
                                ot_error *err);

/* `otter generate --batch`: runs all rows and returns the exit status. */
int ot_generate_batch(const ot_generate_options *o, const ot_cli_session *session);

/* ---- The rows of a batch (batch-rows.c) -------------------------------------------------------------------- */

/* A row {"prompt"}, {"messages"} or {"text"}; "prompt" is a user's message, put after the options' system message. Chat may
 * be NULL where no row needs it. The row's own member, as it is echoed, is *echo ("prompt", ...). *tokens is malloc'ed. */
ot_status ot_batch_row_tokenize(const ot_generate_options *o, const ot_tokenizer *tokenizer, const ot_chat_template *chat,
                                const json_t *row, const char **echo, int32_t **tokens, uint32_t *n_tokens, ot_error *err);
/* The member that a row is made from, or NULL (and err) where it has none or several. */
const char *ot_batch_row_kind(const json_t *row, ot_error *err);

/* Opens the file that lines go to. With `resume` it may hold lines already: *n_rows whole rows of `per_row` lines are kept, what follows
 * them is cut off, and *last is the last line kept (NULL if none). Without, a file with something in it is refused. */
ot_status ot_batch_out_open(FILE **out, const char *path, bool resume, uint32_t per_row, uint64_t *n_rows, json_t **last,
                            ot_error *err);

#endif
