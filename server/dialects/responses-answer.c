/* Answers and events of POST /v1/responses, as OpenAI's clients read them. An answer is one message of one text; `signals`, where the request
 * asked for any, stand beside its text, and in a stream beside each piece. */
#include <stdio.h>
#include <string.h>

#include "server/dialects/responses.h"

/* ---- Objects ----------------------------------------------------------------------------------------------------- */

/* A member of the request as it was given, or a value that stands for none. */
static void put_asked(const ot_completion *c, ot_text *out, const char *name, const char *otherwise)
{
    const json_t *value = json_object_get(c->asked, name);
    char *text = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    ot_json_raw(out, name, text ? text : otherwise);
    free(text);
}

static void put_usage(const ot_completion *c, ot_text *out)
{
    ot_request_usage usage = ot_completion_usage(c);
    ot_json_begin_object(out, "usage");
    ot_json_uint(out, "input_tokens", usage.prompt_tokens);
    ot_json_begin_object(out, "input_tokens_details");
    ot_json_uint(out, "cached_tokens", usage.cached_tokens);
    ot_json_uint(out, "cache_write_tokens", 0);
    ot_json_end_object(out);
    ot_json_uint(out, "output_tokens", usage.completion_tokens);
    ot_json_begin_object(out, "output_tokens_details");
    ot_json_uint(out, "reasoning_tokens", 0);
    ot_json_end_object(out);
    ot_json_uint(out, "total_tokens", (uint64_t)usage.prompt_tokens + usage.completion_tokens);
    ot_completion_put_intervention_usage(c, out);
    ot_json_end_object(out);
}

static bool is_incomplete(ot_finish finish)
{
    return finish == OT_FINISH_LENGTH || finish == OT_FINISH_FILTER;
}

static const char *status_of(ot_finish finish)
{
    return finish == OT_FINISH_NONE ? "in_progress" : is_incomplete(finish) ? "incomplete" : "completed";
}

/* The part of the message that holds its text; `text` NULL: empty, before the first token. */
static void put_part(const ot_completion *c, const char *key, const ot_text *text, bool with_tokens, ot_text *out)
{
    ot_json_begin_object(out, key);
    ot_json_string(out, "type", "output_text");
    ot_json_bytes(out, "text", text && text->data ? text->data : "", text ? text->size : 0);
    ot_json_begin_array(out, "annotations");
    ot_json_end_array(out);
    if (with_tokens && c->params.logprobs)
        ot_completion_put_token_logprobs(c, &c->choices[0], "logprobs", out);
    if (with_tokens)
        ot_completion_put_signals(c, &c->choices[0], out);
    ot_json_end_object(out);
}

static void put_message(const ot_completion *c, const char *key, const ot_text *text, bool begun, bool with_tokens, ot_text *out)
{
    ot_json_begin_object(out, key);
    ot_json_string(out, "type", "message");
    char id[48];
    snprintf(id, sizeof id, "msg_%s", c->id + strlen("resp_"));
    ot_json_string(out, "id", id);
    ot_json_string(out, "status", begun ? "in_progress" : status_of(c->choices[0].finish));
    ot_json_string(out, "role", "assistant");
    ot_json_begin_array(out, "content");
    if (!begun)
        put_part(c, NULL, text, with_tokens, out);
    ot_json_end_array(out);
    ot_json_end_object(out);
}

/* A call is an item of its own, told when it is complete. `begun`: without its arguments. */
static void put_call(const ot_completion *c, const char *key, const ot_tool_call *call, bool begun, ot_text *out)
{
    char id[48];
    snprintf(id, sizeof id, "fc_%s", call->id + strlen("call_"));
    ot_json_begin_object(out, key);
    ot_json_string(out, "type", "function_call");
    ot_json_string(out, "id", id);
    ot_json_string(out, "call_id", call->id);
    ot_json_bytes(out, "name", call->name.data ? call->name.data : "", call->name.size);
    ot_json_bytes(out, "arguments", call->arguments.data && !begun ? call->arguments.data : "", begun ? 0 : call->arguments.size);
    ot_json_string(out, "status", begun ? "in_progress" : status_of(c->choices[0].finish));
    ot_json_end_object(out);
}

static void put_output(const ot_completion *c, const ot_text *text, bool with_tokens, ot_text *out)
{
    const ot_call_reader *calls = &c->choices[0].calls;
    if (calls->n_calls == 0 || text->size > 0 || c->stream) /* a stream has begun it */
        put_message(c, NULL, text, false, with_tokens, out);
    for (uint32_t i = 0; i < calls->n_calls; i++)
        put_call(c, NULL, &calls->calls[i], false, out);
}

/* `text` NULL: nothing is there yet. */
static void put_response(const ot_completion *c, const char *key, const ot_text *text, bool with_tokens, ot_text *out)
{
    ot_finish finish = text ? c->choices[0].finish : OT_FINISH_NONE;
    ot_json_begin_object(out, key);
    ot_json_string(out, "id", c->id);
    ot_json_string(out, "object", "response");
    ot_json_int(out, "created_at", c->created_s);
    ot_json_string(out, "status", status_of(finish));
    ot_json_bool(out, "background", false);
    ot_json_null(out, "error");
    if (is_incomplete(finish)) {
        ot_json_begin_object(out, "incomplete_details");
        ot_json_string(out, "reason", finish == OT_FINISH_LENGTH ? "max_output_tokens" : "content_filter");
        ot_json_end_object(out);
    } else {
        ot_json_null(out, "incomplete_details");
    }
    put_asked(c, out, "instructions", "null");
    put_asked(c, out, "max_output_tokens", "null");
    ot_json_string(out, "model", c->model_id);
    ot_json_begin_array(out, "output");
    if (text)
        put_output(c, text, with_tokens, out);
    ot_json_end_array(out);
    put_asked(c, out, "parallel_tool_calls", "true");
    ot_json_null(out, "previous_response_id");
    put_asked(c, out, "reasoning", "{\"effort\":null,\"summary\":null}");
    ot_json_bool(out, "store", false);
    ot_json_float(out, "temperature", c->params.sampling.temperature);
    put_asked(c, out, "text", "{\"format\":{\"type\":\"text\"}}");
    put_asked(c, out, "tool_choice", "\"auto\"");
    put_asked(c, out, "tools", "[]");
    ot_json_float(out, "top_p", c->params.sampling.top_p);
    ot_json_string(out, "truncation", "disabled");
    if (text)
        put_usage(c, out);
    else
        ot_json_null(out, "usage");
    put_asked(c, out, "metadata", "{}");
    ot_completion_put_guard(c, &c->choices[0], out);
    ot_json_end_object(out);
}

static void format(const ot_completion *c, ot_text *out)
{
    put_response(c, NULL, &c->choices[0].text, true, out);
}

/* ---- Events ------------------------------------------------------------------------------------------------------ */

static void begin_event(ot_completion *c, ot_text *out, const char *type)
{
    ot_event_begin(out, type);
    ot_json_begin_object(out, NULL);
    ot_json_string(out, "type", type);
    ot_json_uint(out, "sequence_number", c->n_events++);
}

static void end_event(ot_text *out)
{
    ot_json_end_object(out);
    ot_event_end(out);
}

static void put_place(const ot_completion *c, ot_text *out, bool in_message)
{
    char id[48];
    snprintf(id, sizeof id, "msg_%s", c->id + strlen("resp_"));
    if (in_message)
        ot_json_string(out, "item_id", id);
    ot_json_uint(out, "output_index", 0);
    if (in_message)
        ot_json_uint(out, "content_index", 0);
}

static void begin(ot_completion *c, ot_text *out)
{
    static const char *const first[] = {"response.created", "response.in_progress"};
    for (int i = 0; i < 2; i++) {
        begin_event(c, out, first[i]);
        put_response(c, "response", NULL, false, out);
        end_event(out);
    }
    begin_event(c, out, "response.output_item.added");
    put_place(c, out, false);
    put_message(c, "item", NULL, true, false, out);
    end_event(out);
    begin_event(c, out, "response.content_part.added");
    put_place(c, out, true);
    put_part(c, "part", NULL, false, out);
    end_event(out);
}

static void chunk(ot_completion *c, ot_text *out)
{
    const ot_answer_choice *choice = &c->choices[0];
    begin_event(c, out, "response.output_text.delta");
    put_place(c, out, true);
    ot_json_bytes(out, "delta", choice->text.data ? choice->text.data : "", choice->text.size);
    if (c->params.logprobs) {
        ot_completion_put_token_logprobs(c, choice, "logprobs", out);
    } else {
        ot_json_begin_array(out, "logprobs");
        ot_json_end_array(out);
    }
    ot_completion_put_signals(c, choice, out);
    end_event(out);
}

static void put_call_events(ot_completion *c, const ot_tool_call *call, uint32_t index, ot_text *out)
{
    static const char *const types[] = {"response.function_call_arguments.delta", "response.function_call_arguments.done"};
    char id[48];
    snprintf(id, sizeof id, "fc_%s", call->id + strlen("call_"));
    begin_event(c, out, "response.output_item.added");
    ot_json_uint(out, "output_index", index);
    put_call(c, "item", call, true, out);
    end_event(out);
    for (int i = 0; i < 2; i++) {
        begin_event(c, out, types[i]);
        ot_json_string(out, "item_id", id);
        ot_json_uint(out, "output_index", index);
        if (i == 1)
            ot_json_bytes(out, "name", call->name.data ? call->name.data : "", call->name.size);
        ot_json_bytes(out, i == 0 ? "delta" : "arguments", call->arguments.data ? call->arguments.data : "", call->arguments.size);
        end_event(out);
    }
    begin_event(c, out, "response.output_item.done");
    ot_json_uint(out, "output_index", index);
    put_call(c, "item", call, false, out);
    end_event(out);
}

static void end(ot_completion *c, ot_text *out)
{
    const ot_text *text = &c->whole;
    begin_event(c, out, "response.output_text.done");
    put_place(c, out, true);
    ot_json_bytes(out, "text", text->data ? text->data : "", text->size);
    ot_json_begin_array(out, "logprobs");
    ot_json_end_array(out);
    end_event(out);
    begin_event(c, out, "response.content_part.done");
    put_place(c, out, true);
    put_part(c, "part", text, false, out);
    end_event(out);
    begin_event(c, out, "response.output_item.done");
    put_place(c, out, false);
    put_message(c, "item", text, false, false, out);
    end_event(out);
    for (uint32_t i = 0; i < c->choices[0].calls.n_calls; i++)
        put_call_events(c, &c->choices[0].calls.calls[i], i + 1, out);
    begin_event(c, out, is_incomplete(c->choices[0].finish) ? "response.incomplete" : "response.completed");
    put_response(c, "response", text, false, out);
    end_event(out);
}

static void fail(ot_completion *c, const ot_error *error, ot_text *out)
{
    begin_event(c, out, "error");
    ot_json_string(out, "code", "server_error");
    ot_json_string(out, "message", error->message);
    ot_json_null(out, "param");
    end_event(out);
}

const ot_dialect ot_dialect_responses = {
    .id_prefix = "resp_",
    .translate = ot_responses_translate,
    .own_name = ot_responses_own_name,
    .format = format,
    .begin = begin,
    .chunk = chunk,
    .end = end,
    .fail = fail,
};
