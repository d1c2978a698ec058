/* Bodies of requests: JSON, the fields of every route, prompts, messages, sampling and interventions, against a tiny model with heads. */
#include <stdlib.h>
#include <string.h>

#include "server/api-context.h"
#include "server/known-fields.h"
#include "tests/support/fuzz-target.h"
#include "tests/support/scheduler-fixture.h"

static const ot_api_context *context(void)
{
    static ot_api_context api;
    static const ot_api_defaults none;
    static ot_chat_template *chat;
    ot_error err;
    if (api.model)
        return &api;
    const ot_fixture *f = ot_fixture_get();
    if (!f)
        abort();
    ot_str text = ot_model_chat_template(f->model);
    ot_chat_template_parse(&chat, text.data, text.size, &err);
    api = (ot_api_context){.model = f->model, .tokenizer = ot_model_tokenizer(f->model), .heads = f->heads, .chat = chat, .model_id = "tiny",
                           .n_vocab = ot_model_get_info(f->model)->n_vocab, .ctx_size = 512, .max_prompts = 8, .max_choices = 8,
                           .defaults = &none, .tool_mark = -1};
    ot_json_limits_default(&api.json);
    return &api;
}

static void parse(const ot_api_context *api, json_t *body)
{
    ot_arena arena = {0};
    ot_fields f = {body, ""};
    ot_error err;
    ot_prompts prompts = {0};
    ot_prompt prompt = {0};
    ot_request_params params = {0};
    const char *id;
    const json_t *preset;
    for (unsigned route = OT_ON_COMPLETIONS; route <= OT_ON_LOAD_HEAD; route *= 2)
        ot_check_known_fields(f, (ot_field_route)route, &err);
    ot_api_find_model(api, f, &id, &preset, &err);
    ot_parse_sampling(api, &arena, f, 16, &params, &err);
    if (ot_parse_prompts(api, &arena, f, "prompt", OT_TOKENIZE_BOS | OT_TOKENIZE_SPECIAL, &prompts, &err) == OT_OK)
        ot_check_lengths(api, &prompts, "prompt", true, &err);
    ot_parse_prompts(api, &arena, f, "input", OT_TOKENIZE_BOS, &prompts, &err);
    ot_parse_messages(api, &arena, f, false, &prompt, &err);
    if (ot_parse_intervention(api, NULL, json_object_get(body, "intervention"), &params.intervention, &err) == OT_OK)
        ot_intervention_release(&params.intervention);
    ot_arena_free(&arena);
}

static int take(const uint8_t *data, size_t size)
{
    const ot_api_context *api = context();
    json_t *body = NULL;
    ot_error err;
    char *text = malloc(size + 1);
    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    if (ot_json_read(text, size, &api->json, &body, &err) == OT_OK)
        parse(api, body);
    json_decref(body);
    free(text);
    return 0;
}

OT_FUZZ_TARGET("request", 8000, take)
