/* token-name.h */
#include "server/token-name.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { MAX_BYTES = 512 }; /* of a token's text; what is longer is cut */

static bool is_utf8(ot_str s)
{
    size_t bad;
    for (size_t at = 0; at < s.size;) {
        size_t length = ot_text_utf8_character(s.data + at, s.size - at, &bad);
        if (length == 0)
            return false;
        at += length;
    }
    return true;
}

void ot_name_token(const ot_tokenizer *tokenizer, int32_t token, bool as_id, ot_token_name *out)
{
    if (as_id) {
        out->size = (size_t)snprintf(out->data, sizeof out->data, "token_id:%" PRId32, token);
        return;
    }
    ot_str bytes = ot_token_bytes(tokenizer, token);
    if (bytes.size > MAX_BYTES)
        bytes.size = MAX_BYTES;
    if (is_utf8(bytes)) {
        memcpy(out->data, bytes.data, bytes.size);
        out->size = bytes.size;
        return;
    }
    out->size = (size_t)snprintf(out->data, sizeof out->data, "bytes:");
    for (size_t i = 0; i < bytes.size; i++)
        out->size += (size_t)snprintf(out->data + out->size, 5, "\\x%02x", (unsigned char)bytes.data[i]);
}

void ot_put_token_name(ot_text *out, const char *key, const ot_tokenizer *tokenizer, int32_t token, bool as_id)
{
    ot_token_name name;
    ot_name_token(tokenizer, token, as_id, &name);
    ot_json_bytes(out, key, name.data, name.size);
}
