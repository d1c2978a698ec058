/* The handlers of /v1/completions and /v1/chat/completions: parse, submit, collect, answer. */
#include "server/completion.h"
#include "server/dialects/dialect.h"

#include "server/access-log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* From here on an answer is put together by a worker: about a millisecond of work. */
#define LARGE_ANSWER_VALUES 4096
#define MAX_CHOICE_TEXT_BYTES ((size_t)64 << 20)

ot_token_out *ot_completion_scratch(void)
{
    static ot_token_out scratch[OT_READ_TOKENS]; /* only the loop's thread reads */
    return scratch;
}

/* ---- Collecting ------------------------------------------------------------------------------------------ */

static bool grow(ot_completion *c, ot_answer_choice *choice)
{
    if (choice->n_tokens < choice->capacity)
        return true;
    uint32_t capacity = choice->capacity ? choice->capacity * 2 : OT_READ_TOKENS; /* at most the context, doubled */
    void *tokens = realloc(choice->tokens, capacity * sizeof *choice->tokens);
    choice->tokens = tokens ? tokens : choice->tokens;
    void *logprobs = realloc(choice->logprobs, capacity * sizeof *choice->logprobs);
    choice->logprobs = logprobs ? logprobs : choice->logprobs;
    void *n_top = realloc(choice->n_top, capacity * sizeof *choice->n_top);
    choice->n_top = n_top ? n_top : choice->n_top;
    void *offsets = realloc(choice->offsets, capacity * sizeof *choice->offsets);
    choice->offsets = offsets ? offsets : choice->offsets;
    size_t width = c->params.top_logprobs;
    void *top = width ? realloc(choice->top, capacity * width * sizeof *choice->top) : NULL;
    choice->top = top ? top : choice->top;
    void *signals = c->n_signals ? realloc(choice->signals, (size_t)capacity * c->n_signals * sizeof(float)) : NULL;
    choice->signals = signals ? signals : choice->signals;
    if (!tokens || !logprobs || !n_top || !offsets || (width && !top) || (c->n_signals && !signals))
        return false;
    choice->capacity = capacity;
    return true;
}

/* Hands on what thoughts have left of a text: to the calls, which leave the rest to the answer. */
static void pass_said(ot_answer_choice *choice)
{
    if (choice->said.size)
        ot_call_reader_add(&choice->calls, choice->said.data, choice->said.size, &choice->text);
    ot_text_clear(&choice->said);
}

static void add_text(const ot_completion *c, ot_answer_choice *choice, const ot_token_out *t)
{
    bool mark = t->token == c->api->tool_mark && t->token >= 0, thinks = ot_thoughts_inside(&choice->thoughts);
    if (mark && !thinks) { /* what was held back is none of a thought */
        ot_thoughts_end(&choice->thoughts, &choice->thought, &choice->said);
        pass_said(choice);
        ot_call_reader_mark(&choice->calls);
    }
    ot_thoughts_add(&choice->thoughts, t->token >= 0, t->text, t->text_size, &choice->thought, &choice->said);
    pass_said(choice);
}

static void end_text(ot_answer_choice *choice)
{
    ot_thoughts_end(&choice->thoughts, &choice->thought, &choice->said);
    pass_said(choice);
    ot_call_reader_end(&choice->calls, &choice->text);
}

static bool add_token(ot_completion *c, ot_answer_choice *choice, const ot_token_out *t)
{
    if (t->token >= 0) { /* else a continuation of the last one's text */
        if (!grow(c, choice))
            return false;
        uint32_t i = choice->n_tokens++;
        uint32_t n_top = t->n_top < c->params.top_logprobs ? t->n_top : c->params.top_logprobs;
        choice->tokens[i] = t->token;
        choice->logprobs[i] = t->logprob;
        choice->n_top[i] = n_top;
        choice->offsets[i] = choice->n_characters;
        if (n_top)
            memcpy(choice->top + (size_t)i * c->params.top_logprobs, t->top, n_top * sizeof *t->top);
        if (c->n_signals)
            memcpy(choice->signals + (size_t)i * c->n_signals, t->signals, c->n_signals * sizeof *t->signals);
    }
    choice->n_characters += (uint32_t)ot_text_utf8_count(t->text, t->text_size);
    add_text(c, choice, t);
    return !choice->text.failed && !choice->thought.failed && !choice->said.failed && !choice->calls.failed;
}

bool ot_completion_read(ot_completion *c, uint32_t index, size_t *n)
{
    ot_token_out *tokens = ot_completion_scratch();
    ot_request *request = c->requests[index / c->n];
    ot_answer_choice *choice = &c->choices[index];
    *n = ot_request_read(request, index % c->n, tokens, OT_READ_TOKENS);
    if (*n > 0 && c->first_token_ms < 0)
        c->first_token_ms = (int64_t)(uv_now(&c->x->server->loop) - c->x->started_ms);
    for (size_t i = 0; i < *n; i++)
        if (!add_token(c, choice, &tokens[i]))
            return false;
    choice->finish = ot_request_finish(request, index % c->n);
    choice->refused = ot_request_refusal(request, index % c->n);
    if (choice->finish != OT_FINISH_NONE)
        end_text(choice);
    return !choice->text.failed && !choice->thought.failed && !choice->said.failed && !choice->calls.failed;
}

const ot_error *ot_completion_failure(const ot_completion *c)
{
    static const ot_error cancelled = {.code = OT_ERR_CANCELLED, .message = "the server ended this request before it was done"};
    for (uint32_t i = 0; i < c->n_choices; i++) {
        if (c->choices[i].finish == OT_FINISH_ERROR)
            return ot_request_error(c->requests[i / c->n]);
        if (c->choices[i].finish == OT_FINISH_CANCELLED)
            return &cancelled;
    }
    return NULL;
}

/* ---- The end --------------------------------------------------------------------------------------------- */

static void release_requests(ot_completion *c)
{
    for (uint32_t i = 0; i < c->n_requests; i++)
        ot_request_release(&c->requests[i]);
    c->n_requests = 0;
}

static void release(void *job)
{
    ot_completion *c = job;
    if (c->n_requests == 0) {
        ot_intervention_release(&c->params.intervention);
        ot_grammar_release(&c->params.grammar);
    }
    release_requests(c);
    for (uint32_t i = 0; i < c->n_choices; i++) {
        ot_answer_choice *choice = &c->choices[i];
        ot_text_free(&choice->text);
        ot_call_reader_close(&choice->calls);
        ot_text_free(&choice->thought);
        ot_text_free(&choice->said);
        free(choice->tokens);
        free(choice->logprobs);
        free(choice->n_top);
        free(choice->top);
        free(choice->signals);
        free(choice->offsets);
    }
    json_decref(c->body);
    json_decref(c->asked);
    ot_text_free(&c->whole);
    ot_arena_free(&c->arena);
    free(c);
}

static void describe(const void *job, struct ot_access_facts *out)
{
    const ot_completion *c = job;
    ot_request_usage usage = ot_completion_usage(c);
    ot_finish last = OT_FINISH_NONE;
    for (uint32_t i = 0; i < c->n_choices; i++)
        last = c->choices[i].finish > last ? c->choices[i].finish : last;
    *out = (struct ot_access_facts){.model = c->model_id, .has_usage = c->n_requests > 0, .prompt_tokens = usage.prompt_tokens,
                                    .completion_tokens = usage.completion_tokens, .changed_tokens = usage.changed_tokens,
                                    .first_token_ms = c->first_token_ms, .finish = ot_finish_names[last]};
}

static void cancel(ot_exchange *x)
{
    ot_completion *c = x->job;
    for (uint32_t i = 0; i < c->n_requests; i++)
        ot_request_cancel(c->requests[i]);
}

static void after_format(ot_exchange *x)
{
    ot_exchange_reply_json(x);
}

static void answer(ot_exchange *x)
{
    ot_completion *c = x->job;
    const ot_error *failure = ot_completion_failure(c);
    if (failure) {
        ot_exchange_fail(x, failure);
        return;
    }
    size_t values = 0;
    for (uint32_t i = 0; i < c->n_choices; i++)
        values += (size_t)c->choices[i].n_tokens * (1 + c->params.top_logprobs + c->n_signals);
    for (uint32_t i = 0; c->params.prompt_logprobs && i < c->prompts.n; i++)
        values += (size_t)c->prompts.items[i].n_tokens * c->n * (1 + c->params.top_logprobs);
    c->out = &x->out;
    ot_exchange_offload(x, values >= LARGE_ANSWER_VALUES, ot_completion_format, after_format);
}

static void on_output(ot_exchange *x)
{
    ot_completion *c = x->job;
    if (x->state == OT_EXCHANGE_STREAMING) {
        ot_exchange_wake(x);
        return;
    }
    if (x->answered || x->offloaded)
        return;
    bool done = true;
    for (uint32_t i = 0; i < c->n_choices; i++) {
        size_t n = OT_READ_TOKENS;
        while (n == OT_READ_TOKENS)
            if (!ot_completion_read(c, i, &n)) {
                cancel(x);
                ot_exchange_fail(x, &(ot_error){.code = OT_ERR_NOMEM, .message = "the answer does not fit into memory"});
                return;
            }
        done &= c->choices[i].finish != OT_FINISH_NONE;
    }
    if (done)
        answer(x);
}

/* ---- Submission ------------------------------------------------------------------------------------------ */

/* What an answer may come to at most: choices, and log-probabilities (of which each takes some thirty bytes of JSON). */
static ot_status check_size(ot_completion *c)
{
    const uint64_t max_logprobs = (uint64_t)1 << 22;
    uint64_t n_choices = (uint64_t)c->prompts.n * c->n, n_tokens = 0;
    if (c->prompts.n > 1 && n_choices > c->api->max_prompts)
        return ot_fail_param(&c->error, OT_ERR_INVALID, "n", "'n' times %" PRIu32 " prompts are %" PRIu64 " choices; one request may have %" PRIu32,
                             c->prompts.n, n_choices, c->api->max_prompts);
    for (uint32_t i = 0; i < c->prompts.n; i++) {
        uint32_t n_prompt = c->prompts.items[i].n_tokens, room = c->api->ctx_size - n_prompt;
        n_tokens += c->params.max_tokens < room ? c->params.max_tokens : room;
        n_tokens += c->params.prompt_logprobs ? n_prompt : 0;
    }
    if (c->params.logprobs && n_tokens * c->n * (1 + c->params.top_logprobs) > max_logprobs)
        return ot_fail_param(&c->error, OT_ERR_INVALID, c->chat ? "top_logprobs" : "logprobs",
                             "the answer could have more than %" PRIu64 " log-probabilities: ask for fewer tokens, choices or alternatives",
                             max_logprobs);
    return OT_OK;
}

static ot_status submit(ot_completion *c)
{
    ot_status size_status = check_size(c);
    if (size_status)
        return size_status;
    ot_request_params *params = ot_arena_alloc(&c->arena, c->prompts.n, sizeof *params);
    c->requests = ot_arena_alloc(&c->arena, c->prompts.n, sizeof *c->requests);
    c->choices = ot_arena_alloc(&c->arena, (size_t)c->prompts.n * c->n, sizeof *c->choices);
    if (!params || !c->requests || !c->choices)
        return ot_fail(&c->error, OT_ERR_NOMEM, "out of memory while submitting the request");
    c->n_choices = c->prompts.n * c->n;
    for (uint32_t i = 0; i < c->n_choices; i++) {
        ot_text_init(&c->choices[i].text, MAX_CHOICE_TEXT_BYTES);
        ot_call_reader_open(&c->choices[i].calls, c->tools.format);
        ot_text_init(&c->choices[i].thought, MAX_CHOICE_TEXT_BYTES);
        ot_text_init(&c->choices[i].said, MAX_CHOICE_TEXT_BYTES);
        if (c->thinks)
            c->choices[i].thoughts.state = c->prompts.items[i / c->n].opens_thought ? OT_THOUGHTS_BEGIN : OT_THOUGHTS_UNDECIDED;
    }
    for (uint32_t i = 0; i < c->prompts.n; i++) {
        const ot_prompt *prompt = &c->prompts.items[i];
        uint32_t room = c->api->ctx_size - prompt->n_tokens;
        params[i] = c->params;
        params[i].prompt = prompt->tokens;
        params[i].n_prompt = prompt->n_tokens;
        params[i].n_choices = c->n;
        params[i].best_of_index = i * c->n;
        params[i].owner = ot_exchange_owner(c->x);
        if (params[i].max_tokens > room)
            params[i].max_tokens = room; /* the finish reason says `length`, as it does at max_tokens */
        if (params[i].min_tokens > params[i].max_tokens)
            params[i].min_tokens = params[i].max_tokens;
        if (i > 0) {
            ot_intervention_retain(&params[i].intervention);
            ot_grammar_retain(params[i].grammar);
        }
    }
    ot_status status = ot_scheduler_submit(c->x->server->scheduler, params, c->prompts.n, c->requests, &c->error);
    if (status) {
        for (uint32_t i = 1; i < c->prompts.n; i++) {
            ot_intervention_release(&params[i].intervention);
            ot_grammar_release(&params[i].grammar);
        }
        ot_name_prompt_field(c->chat ? "messages" : "prompt", &c->error);
        return status;
    }
    c->n_requests = c->prompts.n;
    return OT_OK;
}

static void after_parse(ot_exchange *x)
{
    ot_completion *c = x->job;
    ot_exchange_drop_body(x);
    c->source = NULL;
    if (c->error.code == OT_ERR_TOO_LONG)
        ot_scheduler_count_too_long(x->server->scheduler, c->prompts.n);
    if (!c->error.code && !c->render && submit(c) && !c->error.code)
        c->error.code = OT_ERR_NOMEM;
    json_decref(c->body);
    c->body = NULL;
    if (c->error.code) {
        if (c->dialect)
            ot_dialect_rename(c->dialect, &c->error);
        ot_exchange_fail(x, &c->error);
        return;
    }
    if (c->render) {
        c->render(c, &x->out);
        ot_exchange_reply_json(x);
        return;
    }
    if (c->stream)
        ot_exchange_stream(x);
}

void ot_completion_begin(ot_exchange *x, bool chat, const ot_dialect *dialect, void (*render)(const ot_completion *c, ot_text *out))
{
    static const ot_job_ops ops = {on_output, ot_completion_fill, cancel, release, describe};
    ot_completion *c = calloc(1, sizeof *c);
    if (!c) {
        ot_exchange_fail(x, &(ot_error){.code = OT_ERR_NOMEM, .message = "out of memory"});
        return;
    }
    char random[25];
    ot_random_id(random);
    snprintf(c->id, sizeof c->id, "%s%s", dialect ? dialect->id_prefix : chat ? "chatcmpl-" : "cmpl-", random);
    ot_text_init(&c->whole, MAX_CHOICE_TEXT_BYTES);
    c->created_s = (int64_t)time(NULL);
    c->api = &x->server->api;
    c->x = x;
    c->source = &x->body;
    c->first_token_ms = -1;
    c->chat = chat;
    c->dialect = dialect;
    c->render = render;
    memcpy(c->params.cache_salt, x->key.salt, sizeof c->params.cache_salt);
    memcpy(&c->params.client, x->key.salt, sizeof c->params.client); /* clients are told apart by their keys */
    ot_exchange_set_job(x, c, &ops);
    ot_exchange_offload(x, x->body.size >= OT_LARGE_BODY_BYTES || ot_body_may_constrain(x->body.data, x->body.size),
                        ot_completion_parse, after_parse);
}

void ot_handle_completions(ot_exchange *x)
{
    ot_completion_begin(x, false, NULL, NULL);
}

void ot_handle_chat_completions(ot_exchange *x)
{
    ot_completion_begin(x, true, NULL, NULL);
}

void ot_handle_responses(ot_exchange *x)
{
    ot_completion_begin(x, true, &ot_dialect_responses, NULL);
}

void ot_handle_messages(ot_exchange *x)
{
    ot_completion_begin(x, true, &ot_dialect_messages, NULL);
}
