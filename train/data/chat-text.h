/* Texts of rows in the model's chat template, as tokens. */
#ifndef OTTER_TRAIN_DATA_CHAT_TEXT_H
#define OTTER_TRAIN_DATA_CHAT_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include "text/chat-template.h"
#include "engine/engine.h"

/* The model's own chat template, or the one named in `name`, by name or file, if not empty. */
ot_status ot_train_chat_template(ot_chat_template **out, const ot_model *model, const char *name, ot_error *err);

/* Tokens of a user's message, or (answer not NULL) of an exchange whose answer is still going on. *n_before: the tokens before the
 * text that counts (the user's, or the answer). *tokens is malloc'ed. */
ot_status ot_train_wrap_chat(const ot_chat_template *chat, const ot_tokenizer *tokenizer, const char *user,
                             const char *answer, int32_t **tokens, size_t *n_tokens, size_t *n_before, ot_error *err);

/* How many of the tokens of a text cover its first n_bytes bytes; n + 1 where they do not reach so far (the text was cut). A BOS token in front
 * and the space that SentencePiece puts there are none of the text. */
uint32_t ot_train_tokens_of_bytes(const ot_tokenizer *tokenizer, const int32_t *tokens, uint32_t n, size_t n_bytes);

/* How many tokens two texts begin with together. */
uint32_t ot_train_common_prefix(const int32_t *a, size_t n_a, const int32_t *b, size_t n_b);

#endif
