/* A token as a string in an answer: its text; "bytes:\xf0\x9f" where it is no text by itself, as OpenAI's API writes it, so that two
 * tokens never look alike for that; or "token_id:123". Any thread. */
#ifndef OTTER_SERVER_TOKEN_NAME_H
#define OTTER_SERVER_TOKEN_NAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json-text.h"
#include "text/tokenizer.h"

typedef struct ot_token_name {
    char data[2200];
    size_t size;
} ot_token_name;

void ot_name_token(const ot_tokenizer *tokenizer, int32_t token, bool as_id, ot_token_name *out);
void ot_put_token_name(ot_text *out, const char *key, const ot_tokenizer *tokenizer, int32_t token, bool as_id);

#endif
