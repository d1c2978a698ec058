/* /tokenize, /detokenize, /apply-template and /tokenizer_info: the tokenizer and the chat template by themselves. The fields are those that
 * llama.cpp's and vLLM's servers have, so that both kinds of client get along. */
#include <stdlib.h>
#include <string.h>

#include "server/exchange.h"
#include "server/known-fields.h"
#include "server/token-name.h"

typedef enum { TOKENIZE, DETOKENIZE, APPLY_TEMPLATE } text_task;

typedef struct ot_text_job {
    const ot_api_context *api;
    text_task task;
    ot_arena arena;
    ot_text *source, *out;
    ot_error error;
} ot_text_job;

static void put_tokens(const ot_text_job *job, const int32_t *tokens, size_t n, bool pieces)
{
    ot_json_begin_object(job->out, NULL);
    ot_json_begin_array(job->out, "tokens");
    for (size_t i = 0; i < n; i++)
        ot_json_int(job->out, NULL, tokens[i]);
    ot_json_end_array(job->out);
    if (pieces) {
        ot_json_begin_array(job->out, "token_strs");
        for (size_t i = 0; i < n; i++)
            ot_put_token_name(job->out, NULL, job->api->tokenizer, tokens[i], false);
        ot_json_end_array(job->out);
    }
    ot_json_uint(job->out, "count", n);
    ot_json_uint(job->out, "max_model_len", job->api->ctx_size);
    ot_json_end_object(job->out);
}

/* Messages are tokenised as the chat route would. */
static ot_status tokenize_messages(ot_text_job *job, ot_fields f, int32_t **tokens, size_t *n, ot_error *err)
{
    ot_chat_input input;
    ot_status status = ot_parse_chat_input(job->api, f, false, &input, err);
    if (status)
        return status;
    status = ot_chat_tokenize(job->api->chat, job->api->tokenizer, &input, tokens, n, err);
    ot_chat_input_close(&input);
    return status;
}

/* One text alone, by the name that llama-server's, vLLM's or chat clients have for it. */
static ot_status refuse_two_texts(ot_fields f, ot_error *err)
{
    static const char *const names[] = {"content", "prompt", "messages"};
    const char *first = NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (!ot_fields_get(f, names[i]))
            continue;
        if (first)
            return ot_fields_fail(f, names[i], OT_ERR_INVALID, err, "and '%s' exclude each other", first);
        first = names[i];
    }
    return OT_OK;
}

static ot_status tokenize(ot_text_job *job, ot_fields f, ot_error *err)
{
    const json_t *content = ot_fields_get(f, "content"), *prompt = ot_fields_get(f, "prompt");
    bool specials = prompt != NULL, parse_specials = false, pieces = false; /* llama.cpp's content has none by default */
    ot_status status = refuse_two_texts(f, err);
    if (!status)
        status = ot_fields_bool(f, "add_special", &specials, err);
    if (!status)
        status = ot_fields_bool(f, "add_special_tokens", &specials, err);
    if (!status)
        status = ot_fields_bool(f, "parse_special", &parse_specials, err);
    if (!status)
        status = ot_fields_bool(f, "return_token_strs", &pieces, err);
    if (status)
        return status;
    const json_t *text = content ? content : prompt;
    const char *name = content ? "content" : "prompt";
    int32_t *tokens = NULL;
    size_t n = 0;
    if (!text && ot_fields_get(f, "messages")) {
        status = tokenize_messages(job, f, &tokens, &n, err);
    } else if (!json_is_string(text)) {
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, text ? "must be a string, not %s" : "is required%s",
                              text ? ot_json_kind(text) : "");
    } else {
        unsigned flags = (specials ? OT_TOKENIZE_BOS : 0) | (parse_specials ? OT_TOKENIZE_SPECIAL : 0);
        status = ot_tokenize(job->api->tokenizer, json_string_value(text), json_string_length(text), flags, &tokens, &n, err);
    }
    if (!status)
        put_tokens(job, tokens, n, pieces);
    free(tokens);
    return status;
}

static ot_status detokenize(ot_text_job *job, ot_fields f, ot_error *err)
{
    json_t *array = NULL;
    int32_t *tokens;
    uint32_t n;
    ot_status status = ot_fields_array(f, "tokens", &array, err);
    if (!status && !array)
        status = ot_fields_fail(f, "tokens", OT_ERR_INVALID, err, "is required");
    if (!status)
        status = ot_parse_token_ids(job->api, &job->arena, array, "tokens", &tokens, &n, err);
    if (status)
        return status;
    char *text = NULL;
    size_t size = 0;
    status = ot_detokenize(job->api->tokenizer, tokens, n, true, true, &text, &size, err);
    if (status)
        return status;
    ot_json_begin_object(job->out, NULL);
    ot_json_bytes(job->out, "content", text, size);
    ot_json_bytes(job->out, "prompt", text, size);
    ot_json_end_object(job->out);
    free(text);
    return OT_OK;
}

static ot_status apply_template(ot_text_job *job, ot_fields f, ot_error *err)
{
    ot_chat_input input;
    char *text = NULL;
    size_t size = 0;
    ot_status status = ot_parse_chat_input(job->api, f, false, &input, err);
    if (status)
        return status;
    status = ot_chat_render(job->api->chat, job->api->tokenizer, &input, &text, &size, err);
    ot_chat_input_close(&input);
    if (status)
        return status;
    ot_json_begin_object(job->out, NULL);
    ot_json_bytes(job->out, "prompt", text, size);
    ot_json_end_object(job->out);
    free(text);
    return OT_OK;
}

static void work(void *state)
{
    ot_text_job *job = state;
    json_t *body = NULL;
    ot_status status = ot_json_read(job->source->data, job->source->size, &job->api->json, &body, &job->error);
    static const ot_field_route routes[] = {[TOKENIZE] = OT_ON_TOKENIZE, [DETOKENIZE] = OT_ON_DETOKENIZE, [APPLY_TEMPLATE] = OT_ON_APPLY_TEMPLATE};
    ot_fields f = {body, ""};
    if (!status)
        status = ot_check_known_fields(f, routes[job->task], &job->error);
    if (!status && job->task == TOKENIZE)
        status = tokenize(job, f, &job->error);
    else if (!status && job->task == DETOKENIZE)
        status = detokenize(job, f, &job->error);
    else if (!status)
        status = apply_template(job, f, &job->error);
    if (status && !job->error.code)
        job->error.code = status;
    json_decref(body);
}

static void after(ot_exchange *x)
{
    ot_text_job *job = x->job;
    if (job->error.code)
        ot_exchange_fail(x, &job->error);
    else
        ot_exchange_reply_json(x);
}

static void release(void *state)
{
    ot_text_job *job = state;
    ot_arena_free(&job->arena);
    free(job);
}

static void handle(ot_exchange *x, text_task task)
{
    static const ot_job_ops ops = {NULL, NULL, NULL, release, NULL};
    ot_text_job *job = calloc(1, sizeof *job);
    if (!job) {
        ot_exchange_fail(x, &(ot_error){.code = OT_ERR_NOMEM, .message = "out of memory"});
        return;
    }
    job->api = &x->server->api;
    job->task = task;
    job->source = &x->body;
    job->out = &x->out;
    ot_exchange_set_job(x, job, &ops);
    ot_exchange_offload(x, x->body.size >= OT_LARGE_BODY_BYTES, work, after);
}

void ot_handle_tokenize(ot_exchange *x)
{
    handle(x, TOKENIZE);
}

void ot_handle_detokenize(ot_exchange *x)
{
    handle(x, DETOKENIZE);
}

void ot_handle_apply_template(ot_exchange *x)
{
    handle(x, APPLY_TEMPLATE);
}

static void put_token(ot_text *out, const char *key, const ot_tokenizer *t, int32_t token)
{
    if (token < 0) {
        ot_json_null(out, key);
        return;
    }
    ot_str bytes = ot_token_bytes(t, token);
    ot_json_bytes(out, key, bytes.data, bytes.size);
}

/* What a client needs to count and cut in tokens without a copy of the tokenizer: lm-eval asks for it, in vLLM's names. */
void ot_handle_tokenizer_info(ot_exchange *x)
{
    const ot_api_context *api = &x->server->api;
    const ot_tokenizer *t = api->tokenizer;
    ot_str chat_template = ot_model_chat_template(api->model);
    ot_json_begin_object(&x->out, NULL);
    ot_json_string(&x->out, "model", ot_tokenizer_model(t));
    ot_json_string(&x->out, "pre", ot_tokenizer_pre(t));
    ot_json_uint(&x->out, "vocab_size", ot_tokenizer_vocab_size(t));
    ot_json_uint(&x->out, "model_max_length", api->ctx_size);
    ot_json_bool(&x->out, "add_bos_token", ot_tokenizer_adds_bos(t));
    put_token(&x->out, "bos_token", t, ot_tokenizer_bos(t));
    put_token(&x->out, "eos_token", t, ot_tokenizer_eos(t));
    ot_json_null(&x->out, "pad_token");
    if (chat_template.size)
        ot_json_bytes(&x->out, "chat_template", chat_template.data, chat_template.size);
    else
        ot_json_null(&x->out, "chat_template");
    ot_json_end_object(&x->out);
    ot_exchange_reply_json(x);
}
