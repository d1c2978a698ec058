/* Routes that say what would run, and run nothing: the prompts of a request as token ids, or their number. */
#include "server/completion.h"
#include "server/dialects/dialect.h"

/* [{"index": 0, "token_ids": [...], "count": 7}, ...] */
static void render_prompts(const ot_completion *c, ot_text *out)
{
    ot_json_begin_object(out, NULL);
    ot_json_string(out, "object", "list");
    ot_json_string(out, "model", c->model_id);
    ot_json_begin_array(out, "data");
    for (uint32_t i = 0; i < c->prompts.n; i++) {
        const ot_prompt *prompt = &c->prompts.items[i];
        ot_json_begin_object(out, NULL);
        ot_json_uint(out, "index", i);
        ot_json_begin_array(out, "token_ids");
        for (uint32_t t = 0; t < prompt->n_tokens; t++)
            ot_json_int(out, NULL, prompt->tokens[t]);
        ot_json_end_array(out);
        ot_json_uint(out, "count", prompt->n_tokens);
        ot_json_end_object(out);
    }
    ot_json_end_array(out);
    ot_json_end_object(out);
}

static void render_count(const ot_completion *c, ot_text *out)
{
    ot_json_begin_object(out, NULL);
    ot_json_uint(out, "input_tokens", c->prompts.items[0].n_tokens);
    ot_json_end_object(out);
}

void ot_handle_render_completions(ot_exchange *x)
{
    ot_completion_begin(x, false, NULL, render_prompts);
}

void ot_handle_render_chat(ot_exchange *x)
{
    ot_completion_begin(x, true, NULL, render_prompts);
}

void ot_handle_count_tokens(ot_exchange *x)
{
    ot_completion_begin(x, true, &ot_dialect_messages, render_count);
}

/* GET and DELETE /v1/responses/{id}: an answer exists only while it is sent, whatever `store` says. */
void ot_handle_response(ot_exchange *x)
{
    ot_exchange_fail(x, &(ot_error){.code = OT_ERR_NOT_FOUND, .message = "this server stores no responses"});
}
