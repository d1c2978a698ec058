/* Health, version, the API's statement, and the landing page. */
#include <stdio.h>
#include <string.h>

#include "server/exchange.h"
#include "server/head-description.h"

static void reply_status(ot_exchange *x, unsigned code, const char *status)
{
    ot_json_begin_object(&x->out, NULL);
    ot_json_string(&x->out, "status", status);
    ot_json_end_object(&x->out);
    ot_exchange_reply(x, code, "application/json");
}

/* The process answers: also while it drains, so that nobody restarts it then. */
void ot_handle_health(ot_exchange *x)
{
    reply_status(x, 200, x->server->draining ? "draining" : "ok");
}

void ot_handle_live(ot_exchange *x)
{
    reply_status(x, 200, "ok");
}

/* New work is welcome. */
void ot_handle_ready(ot_exchange *x)
{
    reply_status(x, x->server->draining ? 503 : 200, x->server->draining ? "draining" : "ok");
}

void ot_handle_version(ot_exchange *x)
{
    const ot_model_info *info = ot_model_get_info(x->server->api.model);
    ot_json_begin_object(&x->out, NULL);
    ot_json_string(&x->out, "version", OTTER_VERSION);
    ot_json_string(&x->out, "backend", "cpu");
    ot_json_begin_object(&x->out, "model");
    ot_json_string(&x->out, "id", x->server->api.model_id);
    ot_json_string(&x->out, "name", info->name);
    ot_json_string(&x->out, "architecture", info->architecture);
    ot_json_uint(&x->out, "parameters", info->n_params);
    ot_json_string(&x->out, "fingerprint", info->fingerprint);
    ot_json_end_object(&x->out);
    ot_json_end_object(&x->out);
    ot_exchange_reply_json(x);
}

void ot_handle_openapi(ot_exchange *x)
{
    if (!x->server->options.openapi_json) {
        ot_exchange_fail(x, &(ot_error){.code = OT_ERR_NOT_FOUND, .message = "this server was opened without its API's statement"});
        return;
    }
    ot_text_puts(&x->out, x->server->options.openapi_json);
    ot_exchange_reply_json(x);
}

/* ---- Landing page ---------------------------------------------------------------------------------------- */

static void put_html(ot_text *out, const char *text)
{
    for (; *text; text++) {
        const char *escaped = *text == '<' ? "&lt;" : *text == '>' ? "&gt;" : *text == '&' ? "&amp;" : *text == '"' ? "&quot;" : NULL;
        if (escaped)
            ot_text_puts(out, escaped);
        else
            ot_text_append(out, text, 1);
    }
}

static void put_heads(ot_exchange *x)
{
    ot_head *heads[OT_STATS_MAX_HEADS] = {0};
    uint32_t n = x->server->heads ? ot_heads_list(x->server->heads, heads, OT_STATS_MAX_HEADS) : 0;
    ot_text_puts(&x->out, "<h2>Heads</h2>\n<ul>\n");
    for (uint32_t i = 0; i < n && i < OT_STATS_MAX_HEADS; i++) {
        ot_head_description d;
        ot_head_describe(heads[i], &d);
        ot_text_puts(&x->out, "<li><code>");
        put_html(&x->out, ot_head_name(heads[i]));
        ot_text_printf(&x->out, "</code>: %s, %s, %.1f M parameters</li>\n", d.role, d.kind, (double)d.parameters / 1e6);
        ot_head_release(&heads[i]);
    }
    ot_text_puts(&x->out, n ? "</ul>\n" : "<li>none is loaded</li></ul>\n");
}

void ot_handle_landing(ot_exchange *x)
{
    ot_text *out = &x->out;
    ot_text_puts(out, "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>Otter</title>\n"
                      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                      "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:44em;margin:2em auto;padding:0 1em}"
                      "pre{background:#f4f4f4;padding:1em;overflow-x:auto}</style></head>\n<body>\n<h1>Otter</h1>\n<p>Serving <code>");
    put_html(out, x->server->api.model_id);
    ot_text_printf(out, "</code>, version %s. One forward pass gives tokens and scores. Try:</p>\n", OTTER_VERSION);
    ot_text_printf(out, "<pre>curl http://127.0.0.1:%u/v1/completions -H 'Content-Type: application/json' -d '"
                        "{\"prompt\": \"The otter is\", \"max_tokens\": 16}'</pre>\n", x->server->port);
    put_heads(x);
    ot_text_puts(out, "<h2>Routes</h2>\n<ul>\n");
    for (size_t i = 0; i < ot_route_count(); i++) {
        ot_text_printf(out, "<li><code>%s ", ot_route_at(i)->method);
        put_html(out, ot_route_at(i)->path);
        ot_text_puts(out, "</code></li>\n");
    }
    ot_text_puts(out, "</ul>\n<p><a href=\"/openapi.json\">The full statement of the API</a></p>\n</body>\n</html>\n");
    ot_exchange_reply(x, 200, "text/html; charset=utf-8");
}
