/* Texts in a chat template. */
#include "train/data/chat-text.h"

#include <stdlib.h>
#include <string.h>

uint32_t ot_train_common_prefix(const int32_t *a, size_t n_a, const int32_t *b, size_t n_b)
{
    uint32_t n = 0;
    while (n < n_a && n < n_b && a[n] == b[n])
        n++;
    return n;
}

uint32_t ot_train_tokens_of_bytes(const ot_tokenizer *tokenizer, const int32_t *tokens, uint32_t n, size_t n_bytes)
{
    uint32_t i = n > 0 && tokens[0] == ot_tokenizer_bos(tokenizer) ? 1 : 0;
    const ot_str first = i < n ? ot_token_bytes(tokenizer, tokens[i]) : (ot_str){0};
    if (strcmp(ot_tokenizer_model(tokenizer), "llama") == 0 && first.size > 0 && first.data[0] == ' ')
        n_bytes++;
    for (size_t read = 0; i < n; i++)
        if ((read += ot_token_bytes(tokenizer, tokens[i]).size) >= n_bytes)
            return i + 1;
    return n + 1;
}

ot_status ot_train_chat_template(ot_chat_template **out, const ot_model *model, const char *name, ot_error *err)
{
    const ot_str text = ot_model_chat_template(model);
    *out = NULL;
    if (name[0] != '\0')
        return ot_chat_template_open(out, name, err);
    if (text.size == 0)
        return ot_fail(err, OT_ERR_UNSUPPORTED, "the model file has no chat template; give --chat-template");
    return ot_chat_template_parse(out, text.data, text.size, err);
}

static ot_status render(const ot_chat_template *chat, const ot_tokenizer *tokenizer, const char *user, const char *answer,
                        int32_t **tokens, size_t *n, ot_error *err)
{
    const ot_chat_message m[2] = {{"user", user}, {"assistant", answer}};
    return ot_chat_template_tokenize(chat, tokenizer, m, answer != NULL ? 2 : 1, answer == NULL, answer != NULL, tokens, n, err);
}

ot_status ot_train_wrap_chat(const ot_chat_template *chat, const ot_tokenizer *tokenizer, const char *user,
                             const char *answer, int32_t **tokens, size_t *n_tokens, size_t *n_before, ot_error *err)
{
    /* What precedes the text is what it shares with the same chat around an empty text. */
    int32_t *empty = NULL;
    size_t n_empty = 0;
    *tokens = NULL;
    ot_status st = render(chat, tokenizer, answer != NULL ? user : "", answer != NULL ? "" : NULL, &empty, &n_empty, err);
    if (st == OT_OK)
        st = render(chat, tokenizer, user, answer, tokens, n_tokens, err);
    if (st == OT_OK)
        *n_before = ot_train_common_prefix(*tokens, *n_tokens, empty, n_empty);
    free(empty);
    return st;
}
