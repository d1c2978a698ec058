/* The body of a completion request to a job. Runs on the loop's thread, or on a worker if the body is large; touches nothing
 * but the job and the immutable api context. */
#include <inttypes.h>
#include <string.h>

#include "server/completion.h"
#include "server/dialects/dialect.h"
#include "server/known-fields.h"

enum { DEFAULT_MAX_TOKENS = 16 }; /* of a text completion, as OpenAI has it; a chat answer may fill the context */

static ot_status parse_logprobs(ot_completion *c, ot_fields f, ot_error *err)
{
    ot_request_params *p = &c->params;
    if (c->chat) {
        ot_status status = ot_fields_bool(f, "logprobs", &p->logprobs, err);
        if (!status)
            status = ot_fields_u32(f, "top_logprobs", 0, OT_MAX_TOP_LOGPROBS, &p->top_logprobs, err);
        if (!status && p->top_logprobs && !p->logprobs)
            status = ot_fields_fail(f, "top_logprobs", OT_ERR_INVALID, err, "needs 'logprobs' to be true");
        return status;
    }
    p->logprobs = ot_fields_get(f, "logprobs") != NULL;
    return ot_fields_u32(f, "logprobs", 0, OT_MAX_TOP_LOGPROBS, &p->top_logprobs, err);
}

static ot_status parse_stream(ot_completion *c, ot_fields f, ot_error *err)
{
    json_t *options = NULL;
    ot_status status = ot_fields_bool(f, "stream", &c->stream, err);
    if (!status)
        status = ot_fields_object(f, "stream_options", &options, err);
    if (status || !options)
        return status;
    if (!c->stream)
        return ot_fields_fail(f, "stream_options", OT_ERR_INVALID, err, "is only allowed when 'stream' is true");
    ot_fields members = {options, "stream_options"};
    status = ot_check_known_fields(members, c->chat ? OT_ON_CHAT : OT_ON_COMPLETIONS, err);
    return status ? status : ot_fields_bool(members, "include_usage", &c->include_usage, err);
}

static ot_status parse_shape(ot_completion *c, ot_fields f, ot_error *err)
{
    uint32_t best_of = 0;
    c->n = 1;
    ot_status status = ot_fields_u32(f, "n", 1, c->api->max_choices, &c->n, err);
    if (!status)
        status = ot_fields_u32(f, "best_of", 1, c->api->max_choices, &best_of, err);
    if (!status && best_of && best_of != c->n)
        status = ot_fields_fail(f, "best_of", OT_ERR_UNSUPPORTED, err, "must equal 'n': this server does not rank further choices");
    if (!status)
        status = parse_stream(c, f, err);
    if (!status)
        status = parse_logprobs(c, f, err);
    if (!status && !c->chat)
        status = ot_fields_bool(f, "echo", &c->echo, err);
    if (!status)
        status = ot_fields_bool(f, "return_token_ids", &c->return_token_ids, err);
    if (!status)
        status = ot_fields_bool(f, "return_tokens_as_token_ids", &c->tokens_as_ids, err);
    return status;
}

static ot_status parse_chat_prompt(ot_completion *c, ot_fields f, ot_error *err)
{
    c->prompts.items = ot_arena_alloc(&c->arena, 1, sizeof *c->prompts.items);
    if (!c->prompts.items)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory while reading the request");
    c->prompts.n = 1;
    c->thinks = true;
    ot_status status = ot_fields_bool(f, "separate_reasoning", &c->thinks, err);
    if (!status)
        status = ot_parse_messages(c->api, &c->arena, f, false, &c->prompts.items[0], err);
    c->thinks = !status && c->thinks && !c->dialect && ot_chat_template_traits(c->api->chat)->thinks; /* dialects have no place for them */
    return status;
}

static ot_status parse_text_prompts(ot_completion *c, ot_fields f, ot_error *err)
{
    bool bos = true, specials = true;
    ot_status status = ot_fields_bool(f, "add_special_tokens", &bos, err);
    if (!status)
        status = ot_fields_bool(f, "parse_special", &specials, err);
    unsigned flags = (bos ? OT_TOKENIZE_BOS : 0) | (specials ? OT_TOKENIZE_SPECIAL : 0);
    return status ? status : ot_parse_prompts(c->api, &c->arena, f, "prompt", flags, &c->prompts, err);
}

/* A prompt of token ids needs its text to be echoed, and to count offsets from. */
static ot_status make_prompt_text(ot_completion *c, ot_error *err)
{
    bool needed = c->echo || (c->params.logprobs && !c->chat);
    for (uint32_t i = 0; needed && i < c->prompts.n; i++) {
        ot_prompt *p = &c->prompts.items[i];
        char *text = NULL;
        if (p->text)
            continue;
        ot_status status = ot_detokenize(c->api->tokenizer, p->tokens, p->n_tokens, true, false, &text, &p->text_bytes, err);
        if (status)
            return status;
        p->text = ot_arena_adopt(&c->arena, text);
        if (!p->text)
            return ot_fail(err, OT_ERR_NOMEM, "out of memory while reading the request");
    }
    return OT_OK;
}

/* The names outlive the submission, at which the request takes the heads over. */
static ot_status keep_signal_names(ot_completion *c, ot_error *err)
{
    const ot_intervention *v = &c->params.intervention;
    c->n_signals = v->n_signals;
    for (uint32_t i = 0; i < v->n_signals; i++) {
        c->signal_names[i] = ot_arena_copy(&c->arena, v->signals[i].name, strlen(v->signals[i].name));
        if (!c->signal_names[i])
            return ot_fail(err, OT_ERR_NOMEM, "out of memory while reading the request");
    }
    c->guard_name = v->guard == OT_GUARD_NONE ? NULL : c->signal_names[v->guard_signal];
    return OT_OK;
}

static ot_status parse_object(ot_completion *c, ot_fields f, ot_error *err)
{
    const json_t *preset = NULL, *request = ot_fields_get(f, "intervention");
    ot_status status = ot_api_find_model(c->api, f, &c->model_id, &preset, err);
    if (!status)
        status = ot_check_known_fields(f, c->chat ? OT_ON_CHAT : OT_ON_COMPLETIONS, err);
    if (!status)
        status = parse_shape(c, f, err);
    if (!status)
        status = ot_parse_sampling(c->api, &c->arena, f, c->chat ? c->api->ctx_size : DEFAULT_MAX_TOKENS, &c->params, err);
    if (!status && ot_fields_get(f, "seed") == NULL)
        c->params.sampling.seed = ot_random_u64();
    if (!status)
        status = c->chat ? parse_chat_prompt(c, f, err) : parse_text_prompts(c, f, err);
    if (!status)
        status = ot_check_lengths(c->api, &c->prompts, c->chat ? "messages" : "prompt", c->params.max_tokens > 0, err);
    if (!status)
        status = make_prompt_text(c, err);
    if (!status)
        status = c->chat ? ot_parse_tools(f, c->api->tool_format, &c->tools, err) : OT_OK;
    if (!status)
        status = ot_parse_constraint(c->api, f, &c->tools, &c->params.grammar, err);
    /* Last, so that nothing after it can fail without giving the heads back. */
    if (!status)
        status = ot_parse_intervention(c->api, preset, request, &c->params.intervention, err);
    if (!status)
        status = keep_signal_names(c, err);
    c->intervened = preset || request;
    c->params.prompt_logprobs = c->echo && c->params.logprobs;
    return status;
}

void ot_completion_parse(void *job)
{
    ot_completion *c = job;
    ot_status status = ot_json_read(c->source->data, c->source->size, &c->api->json, &c->body, &c->error);
    if (!status && c->dialect) {
        c->asked = c->body;
        c->body = NULL;
        status = c->dialect->translate(c->asked, &c->body, &c->error);
    }
    if (!status)
        status = parse_object(c, (ot_fields){c->body, ""}, &c->error);
    if (!status && c->dialect && c->n > 1)
        status = ot_fail_param(&c->error, OT_ERR_UNSUPPORTED, "n", "'n' is not supported by this route: an answer has one text");
    if (status && !c->error.code)
        c->error.code = status;
}
