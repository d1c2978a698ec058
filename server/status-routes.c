/* Health, version, and the API's statement. */
#include "server/exchange.h"

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
    reply_status(x, 200, x->server->leaving ? "draining" : "ok");
}

void ot_handle_live(ot_exchange *x)
{
    reply_status(x, 200, "ok");
}

/* New work is welcome. */
void ot_handle_ready(ot_exchange *x)
{
    reply_status(x, x->server->leaving ? 503 : 200, x->server->leaving ? "draining" : "ok");
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
