/* Prompts of all four shapes to token ids. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api-context.h"

static ot_status out_of_memory(ot_error *err)
{
    return ot_fail(err, OT_ERR_NOMEM, "out of memory while reading the request");
}

ot_status ot_check_lengths(const ot_api_context *api, const ot_prompts *prompts, const char *name, bool generates, ot_error *err)
{
    for (uint32_t i = 0; i < prompts->n; i++) {
        char param[64];
        if (prompts->items[i].n_tokens + generates <= api->ctx_size)
            continue;
        snprintf(param, sizeof param, prompts->n > 1 ? "%s[%" PRIu32 "]" : "%s", name, i);
        return ot_fail_param(err, OT_ERR_TOO_LONG, param,
                             "'%s' has %" PRIu32 " tokens; this server's context is %" PRIu32 " tokens, prompt and completion together",
                             param, prompts->items[i].n_tokens, api->ctx_size);
    }
    return OT_OK;
}

void ot_name_prompt_field(const char *name, ot_error *err)
{
    if (strcmp(err->param, "prompt") == 0)
        snprintf(err->param, sizeof err->param, "%s", name);
}

/* An empty text still needs a token to start from: the beginning of text, or what ends the text before. */
static ot_status start_token(const ot_api_context *api, ot_arena *arena, const char *name, ot_prompt *out, ot_error *err)
{
    int32_t token = ot_tokenizer_bos(api->tokenizer);
    if (token < 0)
        token = ot_tokenizer_eos(api->tokenizer);
    if (token < 0)
        return ot_fail_param(err, OT_ERR_INVALID, name, "'%s' is empty, and this model has no token to start a text from", name);
    out->tokens = ot_arena_alloc(arena, 1, sizeof *out->tokens);
    if (!out->tokens)
        return out_of_memory(err);
    out->tokens[0] = token;
    out->n_tokens = out->n_added = 1;
    return OT_OK;
}

/* Whether the text opens with the letters of BOS. */
static bool begins_with_bos(const ot_tokenizer *tokenizer, const char *text, size_t size)
{
    int32_t bos = ot_tokenizer_bos(tokenizer);
    ot_str letters = bos < 0 ? (ot_str){0} : ot_token_bytes(tokenizer, bos);
    return letters.size > 0 && size >= letters.size && memcmp(text, letters.data, letters.size) == 0;
}

/* A text in arena memory to a prompt. */
static ot_status tokenize_text(const ot_api_context *api, ot_arena *arena, const char *text, size_t size, const char *name, unsigned flags,
                               ot_prompt *out, ot_error *err)
{
    out->text = text;
    out->text_bytes = size;
    if ((flags & OT_TOKENIZE_SPECIAL) && begins_with_bos(api->tokenizer, out->text, out->text_bytes))
        flags &= ~(unsigned)OT_TOKENIZE_BOS;
    int32_t *tokens = NULL;
    size_t n = 0;
    ot_status status = ot_tokenize(api->tokenizer, out->text, out->text_bytes, flags, &tokens, &n, err);
    if (status)
        return status;
    out->n_added = (flags & OT_TOKENIZE_BOS) && ot_tokenizer_adds_bos(api->tokenizer) && ot_tokenizer_bos(api->tokenizer) >= 0;
    if (n == 0) {
        free(tokens);
        return start_token(api, arena, name, out, err);
    }
    if (!ot_arena_adopt(arena, tokens))
        return out_of_memory(err);
    out->tokens = tokens;
    out->n_tokens = (uint32_t)n;
    return OT_OK;
}

ot_status ot_parse_token_ids(const ot_api_context *api, ot_arena *arena, const json_t *array, const char *name,
                             int32_t **out, uint32_t *n, ot_error *err)
{
    size_t count = json_array_size(array);
    *out = ot_arena_alloc(arena, count, sizeof **out);
    if (!*out)
        return out_of_memory(err);
    *n = (uint32_t)count; /* at most max_values of the JSON limits */
    for (size_t i = 0; i < count; i++) {
        const json_t *v = json_array_get(array, i);
        json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id >= (json_int_t)api->n_vocab) {
            char param[64];
            snprintf(param, sizeof param, "%s[%zu]", name, i);
            return ot_fail_param(err, OT_ERR_INVALID, param, "'%s' must be a token id between 0 and %" PRIu32, param,
                                 api->n_vocab - 1);
        }
        (*out)[i] = (int32_t)id;
    }
    return OT_OK;
}

static ot_status prompt_from_text(const ot_api_context *api, ot_arena *arena, const json_t *text, const char *name, unsigned flags,
                                  ot_prompt *out, ot_error *err)
{
    size_t size = json_string_length(text);
    const char *copy = ot_arena_copy(arena, json_string_value(text), size);
    return copy ? tokenize_text(api, arena, copy, size, name, flags, out, err) : out_of_memory(err);
}

static ot_status prompt_from_ids(const ot_api_context *api, ot_arena *arena, const json_t *array, const char *name,
                                 ot_prompt *out, ot_error *err)
{
    if (json_array_size(array) == 0)
        return ot_fail_param(err, OT_ERR_INVALID, name, "'%s' is an empty list of token ids", name);
    out->from_ids = true;
    return ot_parse_token_ids(api, arena, array, name, &out->tokens, &out->n_tokens, err);
}

/* A list: its first element tells whether it is one prompt of ids or a batch, which must be of one kind. */
static ot_status parse_list(const ot_api_context *api, ot_arena *arena, const json_t *list, const char *name, unsigned flags,
                            ot_prompts *out, ot_error *err)
{
    size_t count = json_array_size(list);
    const json_t *first = json_array_get(list, 0);
    if (json_is_integer(first)) {
        out->items = ot_arena_alloc(arena, 1, sizeof *out->items);
        out->n = 1;
        return out->items ? prompt_from_ids(api, arena, list, name, &out->items[0], err) : out_of_memory(err);
    }
    if (count == 0 || !(json_is_string(first) || json_is_array(first)))
        return ot_fail_param(err, OT_ERR_INVALID, name,
                             "'%s' must be a string, a list of strings, a list of token ids or a list of such lists", name);
    if (count > api->max_prompts)
        return ot_fail_param(err, OT_ERR_INVALID, name, "'%s' has %zu entries; one request may have %" PRIu32, name, count,
                             api->max_prompts);
    out->items = ot_arena_alloc(arena, count, sizeof *out->items);
    if (!out->items)
        return out_of_memory(err);
    out->n = (uint32_t)count;
    for (size_t i = 0; i < count; i++) {
        const json_t *entry = json_array_get(list, i);
        char param[64];
        snprintf(param, sizeof param, "%s[%zu]", name, i);
        ot_status status;
        if (json_typeof(entry) != json_typeof(first))
            status = ot_fail_param(err, OT_ERR_INVALID, param, "'%s' must be %s as the first entry is, not %s", param,
                                   json_is_string(first) ? "a string" : "a list of token ids", ot_json_kind(entry));
        else if (json_is_string(entry))
            status = prompt_from_text(api, arena, entry, param, flags, &out->items[i], err);
        else
            status = prompt_from_ids(api, arena, entry, param, &out->items[i], err);
        if (status)
            return status;
    }
    return OT_OK;
}

ot_status ot_parse_prompts(const ot_api_context *api, ot_arena *arena, ot_fields f, const char *name, unsigned flags,
                           ot_prompts *out, ot_error *err)
{
    const json_t *value = ot_fields_get(f, name);
    if (!value)
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, "is required");
    if (json_is_array(value))
        return parse_list(api, arena, value, name, flags, out, err);
    if (!json_is_string(value))
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, "must be a string or a list, not %s", ot_json_kind(value));
    out->items = ot_arena_alloc(arena, 1, sizeof *out->items);
    if (!out->items)
        return out_of_memory(err);
    out->n = 1;
    return prompt_from_text(api, arena, value, name, flags, &out->items[0], err);
}

/* ---- Content in parts ------------------------------------------------------------------------------------ */

ot_status ot_join_parts(const json_t *parts, const char *name, char **out, size_t *out_size, ot_error *err)
{
    size_t size = 0, at = 0, i;
    const json_t *part;
    json_array_foreach(parts, i, part) {
        char param[96];
        snprintf(param, sizeof param, "%.64s[%zu]", name, i);
        ot_fields f = {part, param};
        const char *type = "text", *text = NULL;
        if (!json_is_object(part))
            return ot_fail_param(err, OT_ERR_INVALID, param, "'%s' must be an object, not %s", param, ot_json_kind(part));
        ot_status status = ot_fields_string(f, "type", 64, &type, err);
        if (!status && strcmp(type, "text") != 0)
            return ot_fields_fail(f, "type", OT_ERR_UNSUPPORTED, err, "must be \"text\": this model reads nothing else");
        if (!status)
            status = ot_fields_string(f, "text", SIZE_MAX, &text, err);
        if (status)
            return status;
        if (!text)
            return ot_fields_fail(f, "text", OT_ERR_INVALID, err, "is required");
        size += strlen(text);
    }
    char *joined = malloc(size + 1);
    if (!joined)
        return out_of_memory(err);
    json_array_foreach(parts, i, part) {
        const char *text = json_string_value(json_object_get(part, "text"));
        memcpy(joined + at, text, strlen(text));
        at += strlen(text);
    }
    joined[size] = '\0';
    *out = joined;
    *out_size = size;
    return OT_OK;
}

ot_status ot_parse_parts(const ot_api_context *api, ot_arena *arena, const json_t *parts, const char *name, unsigned flags,
                         ot_prompts *out, ot_error *err)
{
    char *text;
    size_t size;
    out->items = ot_arena_alloc(arena, 1, sizeof *out->items);
    if (!out->items)
        return out_of_memory(err);
    out->n = 1;
    ot_status status = ot_join_parts(parts, name, &text, &size, err);
    if (status)
        return status;
    if (!ot_arena_adopt(arena, text))
        return out_of_memory(err);
    return tokenize_text(api, arena, text, size, name, flags, &out->items[0], err);
}
