/* Answers and events of POST /v1/messages, as Anthropic's clients read them. `signals`, where the request asked for any, stand beside the
 * content, and in a stream beside each piece of text. */
#include <string.h>

#include "server/dialects/messages.h"

/* Why the text ended. A stop string is told from an end token by what was asked: the text without the string does not tell which it was, so
 * that `stop_sequence` names it where only one was given. */
static void put_stop(const ot_completion *c, ot_text *out)
{
    const ot_answer_choice *choice = &c->choices[0];
    int32_t last = choice->n_tokens ? choice->tokens[choice->n_tokens - 1] : c->last_token;
    bool by_string = choice->finish == OT_FINISH_STOP && c->params.n_stops > 0 && !ot_tokenizer_is_eog(c->api->tokenizer, last);
    bool calls = choice->calls.n_calls > 0 && choice->finish == OT_FINISH_STOP;
    const char *reason = calls                               ? "tool_use"
                         : choice->finish == OT_FINISH_LENGTH ? "max_tokens"
                         : choice->finish == OT_FINISH_FILTER ? "refusal"
                         : by_string                         ? "stop_sequence"
                                                             : "end_turn";
    const json_t *stops = json_object_get(c->asked, "stop_sequences");
    ot_json_string(out, "stop_reason", choice->finish == OT_FINISH_NONE ? NULL : reason);
    ot_json_string(out, "stop_sequence", by_string && json_array_size(stops) == 1 ? json_string_value(json_array_get(stops, 0)) : NULL);
}

static void put_usage(const ot_completion *c, bool begun, ot_text *out)
{
    ot_request_usage usage = ot_completion_usage(c);
    ot_json_begin_object(out, "usage");
    ot_json_uint(out, "input_tokens", c->prompts.items[0].n_tokens - usage.cached_tokens);
    ot_json_uint(out, "cache_creation_input_tokens", 0);
    ot_json_uint(out, "cache_read_input_tokens", usage.cached_tokens);
    ot_json_uint(out, "output_tokens", begun ? 0 : usage.completion_tokens);
    if (!begun)
        ot_completion_put_intervention_usage(c, out);
    ot_json_end_object(out);
}

static void begin_message(const ot_completion *c, const char *key, ot_text *out)
{
    ot_json_begin_object(out, key);
    ot_json_string(out, "id", c->id);
    ot_json_string(out, "type", "message");
    ot_json_string(out, "role", "assistant");
    ot_json_string(out, "model", c->model_id);
    ot_json_begin_array(out, "content");
}

static void put_text_block(const char *key, const ot_text *text, ot_text *out)
{
    ot_json_begin_object(out, key);
    ot_json_string(out, "type", "text");
    ot_json_bytes(out, "text", text && text->data ? text->data : "", text ? text->size : 0);
    ot_json_end_object(out);
}

/* With its arguments, or as a stream begins it. Arguments that the answer's length has cut are no JSON: the empty object stands for them. */
static void put_call_block(const char *key, const ot_tool_call *call, bool begins, ot_text *out)
{
    json_t *input = begins ? NULL : json_loadb(call->arguments.data ? call->arguments.data : "", call->arguments.size, 0, NULL);
    ot_json_begin_object(out, key);
    ot_json_string(out, "type", "tool_use");
    ot_json_string(out, "id", call->id);
    ot_json_bytes(out, "name", call->name.data ? call->name.data : "", call->name.size);
    ot_json_raw(out, "input", input ? call->arguments.data : "{}");
    ot_json_end_object(out);
    json_decref(input);
}

static void format(const ot_completion *c, ot_text *out)
{
    const ot_call_reader *calls = &c->choices[0].calls;
    begin_message(c, NULL, out);
    if (calls->n_calls == 0 || c->choices[0].text.size > 0)
        put_text_block(NULL, &c->choices[0].text, out);
    for (uint32_t i = 0; i < calls->n_calls; i++)
        put_call_block(NULL, &calls->calls[i], false, out);
    ot_json_end_array(out);
    put_stop(c, out);
    put_usage(c, false, out);
    ot_completion_put_signals(c, &c->choices[0], out);
    ot_completion_put_guard(c, &c->choices[0], out);
    ot_json_end_object(out);
}

/* ---- Events ------------------------------------------------------------------------------------------------------ */

static void begin_event(ot_text *out, const char *type, bool of_block)
{
    ot_event_begin(out, type);
    ot_json_begin_object(out, NULL);
    ot_json_string(out, "type", type);
    if (of_block)
        ot_json_uint(out, "index", 0);
}

static void begin_block_event(ot_text *out, const char *type, uint32_t index)
{
    begin_event(out, type, false);
    ot_json_uint(out, "index", index);
}

static void end_event(ot_text *out)
{
    ot_json_end_object(out);
    ot_event_end(out);
}

static void begin(ot_completion *c, ot_text *out)
{
    begin_event(out, "message_start", false);
    begin_message(c, "message", out);
    ot_json_end_array(out);
    ot_json_null(out, "stop_reason");
    ot_json_null(out, "stop_sequence");
    put_usage(c, true, out);
    ot_json_end_object(out);
    end_event(out);
    begin_event(out, "content_block_start", true);
    put_text_block("content_block", NULL, out);
    end_event(out);
}

static void chunk(ot_completion *c, ot_text *out)
{
    const ot_answer_choice *choice = &c->choices[0];
    begin_event(out, "content_block_delta", true);
    ot_json_begin_object(out, "delta");
    ot_json_string(out, "type", "text_delta");
    ot_json_bytes(out, "text", choice->text.data ? choice->text.data : "", choice->text.size);
    ot_json_end_object(out);
    ot_completion_put_signals(c, choice, out);
    end_event(out);
}

/* A call as a block of its own, told when it is complete. */
static void put_call_events(const ot_tool_call *call, uint32_t index, ot_text *out)
{
    begin_block_event(out, "content_block_start", index);
    put_call_block("content_block", call, true, out);
    end_event(out);
    begin_block_event(out, "content_block_delta", index);
    ot_json_begin_object(out, "delta");
    ot_json_string(out, "type", "input_json_delta");
    ot_json_bytes(out, "partial_json", call->arguments.data ? call->arguments.data : "", call->arguments.size);
    ot_json_end_object(out);
    end_event(out);
    begin_block_event(out, "content_block_stop", index);
    end_event(out);
}

static void end(ot_completion *c, ot_text *out)
{
    begin_event(out, "content_block_stop", true);
    end_event(out);
    for (uint32_t i = 0; i < c->choices[0].calls.n_calls; i++)
        put_call_events(&c->choices[0].calls.calls[i], i + 1, out);
    begin_event(out, "message_delta", false);
    ot_json_begin_object(out, "delta");
    put_stop(c, out);
    ot_json_end_object(out);
    put_usage(c, false, out);
    ot_completion_put_guard(c, &c->choices[0], out);
    end_event(out);
    begin_event(out, "message_stop", false);
    end_event(out);
}

static void fail(ot_completion *c, const ot_error *error, ot_text *out)
{
    (void)c;
    begin_event(out, "error", false);
    ot_json_begin_object(out, "error");
    ot_json_string(out, "type", "api_error");
    ot_json_string(out, "message", error->message);
    ot_json_end_object(out);
    end_event(out);
}

const ot_dialect ot_dialect_messages = {
    .id_prefix = "msg_",
    .translate = ot_messages_translate,
    .own_name = ot_messages_own_name,
    .format = format,
    .begin = begin,
    .chunk = chunk,
    .end = end,
    .fail = fail,
};
