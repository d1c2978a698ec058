/* Answers and chunks in OpenAI's shapes (https://platform.openai.com/docs/api-reference), with `signals` and `token_ids` beside. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/completion.h"
#include "server/dialects/dialect.h"
#include "server/token-name.h"

/* What is infinitely improbable; JSON has no infinity, and OpenAI's API writes this. */
#define LOWEST_LOGPROB (-9999.0f)

static void put_finish(const ot_answer_choice *choice, ot_text *out)
{
    bool calls = choice->calls.n_calls > 0 && choice->finish == OT_FINISH_STOP;
    ot_json_string(out, "finish_reason", calls ? "tool_calls" : ot_finish_names[choice->finish]);
}

static void put_logprob(ot_text *out, const char *key, float logprob)
{
    ot_json_float(out, key, logprob < LOWEST_LOGPROB ? LOWEST_LOGPROB : logprob);
}

static void name_token(const ot_completion *c, int32_t token, ot_token_name *out)
{
    ot_name_token(c->api->tokenizer, token, c->tokens_as_ids, out);
}

static void put_token_value(const ot_completion *c, ot_text *out, const char *key, int32_t token)
{
    ot_put_token_name(out, key, c->api->tokenizer, token, c->tokens_as_ids);
}

/* ---- Log-probabilities, text completions ----------------------------------------------------------------- */

/* One object of top_logprobs: the alternatives, and the token itself if it is none of them. Two tokens of one name (cut
 * characters have names of their own, so this is rare) keep the more probable. */
static void put_top_object(const ot_completion *c, ot_text *out, const ot_token_logprob *top, uint32_t n, int32_t token,
                           float logprob)
{
    ot_token_name name, earlier;
    bool listed = false;
    while (n > 0 && top[n - 1].token < 0)
        n--; /* a vocabulary of fewer tokens than were asked for */
    ot_json_begin_object(out, NULL);
    for (uint32_t i = 0; i <= n; i++) {
        if (i == n && listed)
            break;
        int32_t id = i < n ? top[i].token : token;
        listed |= id == token;
        name_token(c, id, &name);
        bool repeated = false;
        for (uint32_t j = 0; j < i && !repeated; j++) {
            name_token(c, top[j].token, &earlier);
            repeated = earlier.size == name.size && memcmp(earlier.data, name.data, name.size) == 0;
        }
        if (repeated)
            continue;
        ot_json_key(out, name.data, name.size);
        put_logprob(out, NULL, i < n ? top[i].logprob : logprob);
    }
    ot_json_end_object(out);
}

/* The prompt's part of an echoed choice; nothing precedes its first token. */
static ot_prompt_out prompt_of(const ot_completion *c, uint32_t choice, const ot_prompt **prompt)
{
    *prompt = &c->prompts.items[choice / c->n];
    return ot_request_prompt(c->requests[choice / c->n]);
}

/* Bytes of a token that opens a client's text and were not in it: the space that SentencePiece encoding puts before a text. */
static size_t prefix_bytes(const ot_tokenizer *tokenizer, int32_t token)
{
    char *text = NULL;
    size_t size = 0;
    ot_error err;
    if (ot_detokenize(tokenizer, &token, 1, true, true, &text, &size, &err))
        return 0;
    free(text);
    return ot_token_bytes(tokenizer, token).size - size;
}

/* Where each token begins, in characters from the start of the prompt, as a client indexes its string: OpenAI counts so whether or not the
 * prompt is echoed. A token that goes on with a cut character begins after it. What the server put before a client's text, a start token or
 * a space, is no part of it. */
static void put_text_offsets(const ot_completion *c, const ot_answer_choice *choice, const ot_prompt *prompt, uint32_t n_prompt,
                             ot_text *out)
{
    size_t characters = 0, before = ot_text_utf8_count(prompt->text, prompt->text_bytes);
    bool opens = !prompt->from_ids;
    ot_json_begin_array(out, "text_offset");
    for (uint32_t i = 0; i < n_prompt; i++) {
        ot_json_uint(out, NULL, characters);
        ot_str piece = ot_token_bytes(c->api->tokenizer, prompt->tokens[i]);
        size_t skip = 0;
        if (i < prompt->n_added) {
            skip = piece.size;
        } else if (opens) {
            skip = prefix_bytes(c->api->tokenizer, prompt->tokens[i]);
            opens = false;
        }
        for (size_t j = skip; j < piece.size; j++)
            characters += ((unsigned char)piece.data[j] & 0xC0) != 0x80;
    }
    for (uint32_t i = 0; i < choice->n_tokens; i++)
        ot_json_uint(out, NULL, before + choice->offsets[i]);
    ot_json_end_array(out);
}

static void put_text_logprobs(const ot_completion *c, uint32_t index, bool with_prompt, ot_text *out)
{
    const ot_answer_choice *choice = &c->choices[index];
    const ot_prompt *prompt;
    ot_prompt_out results = prompt_of(c, index, &prompt);
    uint32_t n_prompt = with_prompt ? prompt->n_tokens : 0, width = c->params.top_logprobs;
    ot_json_begin_object(out, "logprobs");
    ot_json_begin_array(out, "tokens");
    for (uint32_t i = 0; i < n_prompt; i++)
        put_token_value(c, out, NULL, prompt->tokens[i]);
    for (uint32_t i = 0; i < choice->n_tokens; i++)
        put_token_value(c, out, NULL, choice->tokens[i]);
    ot_json_end_array(out);
    ot_json_begin_array(out, "token_logprobs");
    for (uint32_t i = 0; i < n_prompt; i++)
        put_logprob(out, NULL, i && results.logprobs ? results.logprobs[i] : NAN);
    for (uint32_t i = 0; i < choice->n_tokens; i++)
        put_logprob(out, NULL, choice->logprobs[i]);
    ot_json_end_array(out);
    ot_json_begin_array(out, "top_logprobs");
    for (uint32_t i = 0; i < n_prompt; i++) {
        if (i == 0 || !results.logprobs)
            ot_json_null(out, NULL);
        else
            put_top_object(c, out, results.top + (size_t)i * width, results.top ? width : 0, prompt->tokens[i],
                           results.logprobs[i]);
    }
    for (uint32_t i = 0; i < choice->n_tokens; i++)
        put_top_object(c, out, choice->top + (size_t)i * width, choice->n_top[i], choice->tokens[i], choice->logprobs[i]);
    ot_json_end_array(out);

    put_text_offsets(c, choice, prompt, n_prompt, out);
    ot_json_end_object(out);
}

/* ---- Log-probabilities, chat ----------------------------------------------------------------------------- */

static void put_chat_entry(const ot_completion *c, ot_text *out, int32_t token, float logprob)
{
    ot_str bytes = ot_token_bytes(c->api->tokenizer, token);
    put_token_value(c, out, "token", token);
    put_logprob(out, "logprob", logprob);
    ot_json_begin_array(out, "bytes");
    for (size_t i = 0; i < bytes.size; i++)
        ot_json_uint(out, NULL, (unsigned char)bytes.data[i]);
    ot_json_end_array(out);
}

void ot_completion_put_token_logprobs(const ot_completion *c, const ot_answer_choice *choice, const char *key, ot_text *out)
{
    ot_json_begin_array(out, key);
    for (uint32_t i = 0; i < choice->n_tokens; i++) {
        ot_json_begin_object(out, NULL);
        put_chat_entry(c, out, choice->tokens[i], choice->logprobs[i]);
        ot_json_begin_array(out, "top_logprobs");
        for (uint32_t j = 0; j < choice->n_top[i]; j++) {
            const ot_token_logprob *top = &choice->top[(size_t)i * c->params.top_logprobs + j];
            ot_json_begin_object(out, NULL);
            put_chat_entry(c, out, top->token, top->logprob);
            ot_json_end_object(out);
        }
        ot_json_end_array(out);
        ot_json_end_object(out);
    }
    ot_json_end_array(out);
}

static void put_chat_logprobs(const ot_completion *c, const ot_answer_choice *choice, ot_text *out)
{
    ot_json_begin_object(out, "logprobs");
    ot_completion_put_token_logprobs(c, choice, "content", out);
    ot_json_null(out, "refusal");
    ot_json_end_object(out);
}

/* ---- Parts common to answers and chunks ------------------------------------------------------------------ */

static void put_logprobs(const ot_completion *c, uint32_t index, bool with_prompt, ot_text *out)
{
    const ot_answer_choice *choice = &c->choices[index];
    if (!c->params.logprobs || (choice->n_tokens == 0 && !with_prompt && c->stream))
        ot_json_null(out, "logprobs");
    else if (c->chat)
        put_chat_logprobs(c, choice, out);
    else
        put_text_logprobs(c, index, with_prompt, out);
}

void ot_completion_put_signals(const ot_completion *c, const ot_answer_choice *choice, ot_text *out)
{
    if (c->n_signals == 0)
        return;
    ot_json_begin_object(out, "signals");
    for (uint32_t s = 0; s < c->n_signals; s++) {
        ot_json_begin_array(out, c->signal_names[s]);
        for (uint32_t i = 0; i < choice->n_tokens; i++)
            ot_json_float(out, NULL, choice->signals[(size_t)i * c->n_signals + s]);
        ot_json_end_array(out);
    }
    ot_json_end_object(out);
}

static void put_ids(ot_text *out, const char *key, const int32_t *ids, uint32_t n)
{
    ot_json_begin_array(out, key);
    for (uint32_t i = 0; i < n; i++)
        ot_json_int(out, NULL, ids[i]);
    ot_json_end_array(out);
}

/* What the guard refused, where that ended the choice. */
void ot_completion_put_guard(const ot_completion *c, const ot_answer_choice *choice, ot_text *out)
{
    if (choice->finish != OT_FINISH_FILTER || choice->refused.token < 0)
        return;
    ot_json_begin_object(out, "guard");
    ot_json_string(out, "head", c->guard_name);
    ot_json_float(out, "score", choice->refused.score);
    put_token_value(c, out, "token", choice->refused.token);
    ot_json_end_object(out);
}

static void put_extensions(const ot_completion *c, uint32_t index, bool first, ot_text *out)
{
    const ot_answer_choice *choice = &c->choices[index];
    const ot_prompt *prompt = &c->prompts.items[index / c->n];
    ot_completion_put_signals(c, choice, out);
    ot_completion_put_guard(c, choice, out);
    if (!c->return_token_ids)
        return;
    put_ids(out, "token_ids", choice->tokens, choice->n_tokens);
    if (first)
        put_ids(out, "prompt_token_ids", prompt->tokens, prompt->n_tokens);
}

static void put_head(const ot_completion *c, const char *object, ot_text *out)
{
    ot_json_begin_object(out, NULL);
    ot_json_string(out, "id", c->id);
    ot_json_string(out, "object", object);
    ot_json_int(out, "created", c->created_s);
    ot_json_string(out, "model", c->model_id);
    ot_json_string(out, "system_fingerprint", c->api->fingerprint);
}

ot_request_usage ot_completion_usage(const ot_completion *c)
{
    ot_request_usage sum = {0};
    for (uint32_t i = 0; i < c->n_requests; i++) {
        ot_request_usage u = ot_request_get_usage(c->requests[i]);
        sum.prompt_tokens += u.prompt_tokens;
        sum.cached_tokens += u.cached_tokens;
        sum.completion_tokens += u.completion_tokens;
        sum.accepted_prediction_tokens += u.accepted_prediction_tokens;
        sum.rejected_prediction_tokens += u.rejected_prediction_tokens;
        sum.candidates_scored += u.candidates_scored;
        sum.changed_tokens += u.changed_tokens;
    }
    return sum;
}

void ot_completion_put_intervention_usage(const ot_completion *c, ot_text *out)
{
    if (!c->intervened)
        return;
    ot_request_usage sum = ot_completion_usage(c);
    ot_json_begin_object(out, "intervention");
    ot_json_uint(out, "candidates_scored", sum.candidates_scored);
    ot_json_uint(out, "changed_tokens", sum.changed_tokens);
    ot_json_end_object(out);
}

static void put_usage(const ot_completion *c, ot_text *out)
{
    ot_request_usage sum = ot_completion_usage(c);
    uint64_t reasoning_tokens = 0;
    for (uint32_t i = 0; i < c->n_choices; i++)
        reasoning_tokens += c->choices[i].thoughts.n_tokens;
    ot_json_begin_object(out, "usage");
    ot_json_uint(out, "prompt_tokens", sum.prompt_tokens);
    ot_json_uint(out, "completion_tokens", sum.completion_tokens);
    ot_json_uint(out, "total_tokens", (uint64_t)sum.prompt_tokens + sum.completion_tokens);
    ot_json_begin_object(out, "prompt_tokens_details");
    ot_json_uint(out, "cached_tokens", sum.cached_tokens);
    ot_json_end_object(out);
    ot_json_begin_object(out, "completion_tokens_details");
    ot_json_uint(out, "accepted_prediction_tokens", sum.accepted_prediction_tokens);
    ot_json_uint(out, "rejected_prediction_tokens", sum.rejected_prediction_tokens);
    if (c->thinks)
        ot_json_uint(out, "reasoning_tokens", reasoning_tokens);
    ot_json_end_object(out);
    ot_completion_put_intervention_usage(c, out);
    ot_json_end_object(out);
}

/* ---- Answers --------------------------------------------------------------------------------------------- */

/* null where there was none. */
static void put_thought(const ot_completion *c, const ot_answer_choice *choice, ot_text *out)
{
    if (!c->thinks)
        return;
    if (choice->thought.size)
        ot_json_bytes(out, "reasoning_content", choice->thought.data, choice->thought.size);
    else
        ot_json_null(out, "reasoning_content");
}

/* Echoed prompt and text as one string, written in two parts. */
static void put_text(const ot_completion *c, uint32_t index, bool with_prompt, ot_text *out)
{
    const ot_answer_choice *choice = &c->choices[index];
    const ot_prompt *prompt = &c->prompts.items[index / c->n];
    if (with_prompt) {
        ot_json_bytes(out, "text", prompt->text, prompt->text_bytes);
        if (choice->text.size == 0 || out->failed)
            return;
        out->size--; /* the closing quote: what follows goes on, less its opening quote */
        size_t at = out->size;
        ot_json_bytes(out, NULL, choice->text.data, choice->text.size);
        if (out->failed)
            return;
        size_t added = out->size - at, skip = out->data[at] == ',' ? 2 : 1;
        memmove(out->data + at, out->data + at + skip, added - skip + 1);
        out->size -= skip;
        return;
    }
    ot_json_bytes(out, "text", choice->text.data ? choice->text.data : "", choice->text.size);
}

static void put_choice(const ot_completion *c, uint32_t index, ot_text *out)
{
    const ot_answer_choice *choice = &c->choices[index];
    ot_json_begin_object(out, NULL);
    ot_json_uint(out, "index", index);
    if (c->chat) {
        ot_json_begin_object(out, "message");
        ot_json_string(out, "role", "assistant");
        put_thought(c, choice, out);
        if (choice->calls.n_calls > 0 && choice->text.size == 0)
            ot_json_null(out, "content");
        else
            ot_json_bytes(out, "content", choice->text.data ? choice->text.data : "", choice->text.size);
        ot_json_null(out, "refusal");
        ot_tool_calls_write(&choice->calls, out);
        ot_json_end_object(out);
    } else {
        put_text(c, index, c->echo, out);
    }
    put_logprobs(c, index, c->echo, out);
    put_finish(choice, out);
    put_extensions(c, index, true, out);
    ot_json_end_object(out);
}

void ot_completion_format(void *job)
{
    const ot_completion *c = job;
    if (c->dialect) {
        c->dialect->format(c, c->out);
        return;
    }
    put_head(c, c->chat ? "chat.completion" : "text_completion", c->out);
    ot_json_begin_array(c->out, "choices");
    for (uint32_t i = 0; i < c->n_choices; i++)
        put_choice(c, i, c->out);
    ot_json_end_array(c->out);
    put_usage(c, c->out);
    ot_json_end_object(c->out);
}

/* ---- Chunks ---------------------------------------------------------------------------------------------- */

static void begin_chunk(const ot_completion *c, ot_text *out)
{
    ot_text_puts(out, "data: ");
    put_head(c, c->chat ? "chat.completion.chunk" : "text_completion", out);
    ot_json_begin_array(out, "choices");
}

void ot_completion_format_chunk(ot_completion *c, uint32_t index, bool first, ot_text *out)
{
    ot_answer_choice *choice = &c->choices[index];
    begin_chunk(c, out);
    ot_json_begin_object(out, NULL);
    ot_json_uint(out, "index", index);
    if (c->chat) {
        ot_json_begin_object(out, "delta");
        if (first)
            ot_json_string(out, "role", "assistant");
        if (choice->thought.size)
            put_thought(c, choice, out);
        if (first || choice->text.size)
            ot_json_bytes(out, "content", choice->text.data ? choice->text.data : "", choice->text.size);
        ot_tool_calls_write_news(&choice->calls, out);
        ot_json_end_object(out);
    } else {
        put_text(c, index, c->echo && first, out);
    }
    put_logprobs(c, index, c->echo && first, out);
    put_finish(choice, out);
    put_extensions(c, index, first, out);
    ot_json_end_object(out);
    ot_json_end_array(out);
    if (c->include_usage)
        ot_json_null(out, "usage");
    ot_json_end_object(out);
    ot_text_puts(out, "\n\n");
}

void ot_completion_format_usage_chunk(const ot_completion *c, ot_text *out)
{
    begin_chunk(c, out);
    ot_json_end_array(out);
    put_usage(c, out);
    ot_json_end_object(out);
    ot_text_puts(out, "\n\n");
}
