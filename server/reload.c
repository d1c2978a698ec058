/* reload.h */
#include "server/reload.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

struct ot_reload {
    ot_work work; /* first */
    ot_server *server;
    bool read;    /* `fresh` is to be given back to the caller */
    ot_server_fresh fresh;
    ot_generation *generation;
    ot_api_keys *keys;
    ot_status status;
    ot_error error;
};

static void on_signal(uv_signal_t *signal, int number);

/* ---- On a worker ----------------------------------------------------------------------------------------- */

static ot_status read_all(struct ot_reload *r, ot_error *err)
{
    const ot_server *server = r->server;
    ot_status status = server->options.reload(server->options.reload_ctx, &r->fresh, err);
    r->read = status == OT_OK;
    if (!status)
        status = ot_server_options_check(r->fresh.options, err);
    if (status)
        return status;
    ot_api_context api = server->api;
    api.heads = r->fresh.heads;
    ptrdiff_t before = ot_heap_of_thread();
    status = ot_generation_open(&r->generation, &api, r->fresh.options, err);
    if (r->generation)
        r->generation->heap_bytes = ot_heap_of_thread() - before;
    if (!status && r->fresh.options->api_key_file)
        status = ot_api_keys_open(&r->keys, r->fresh.options->api_key_file, err);
    return status;
}

static void prepare(ot_work *work)
{
    struct ot_reload *r = (struct ot_reload *)work;
    bool for_clients = ot_heap_for_clients(false);
    r->status = read_all(r, &r->error);
    ot_heap_for_clients(for_clients);
}

/* ---- On the loop ----------------------------------------------------------------------------------------- */

/* What of the options may change while serving: nothing that sizes depend on. */
static void take_options(ot_server_options *o, const ot_server_options *fresh)
{
    o->api_key_file = fresh->api_key_file;
    o->cors_origins = fresh->cors_origins;
    o->allowed_hosts = fresh->allowed_hosts;
    o->moderation_head = fresh->moderation_head;
    o->moderation_categories = fresh->moderation_categories;
    o->moderation_threshold = fresh->moderation_threshold;
    o->speculative = fresh->speculative;
    o->access_log = fresh->access_log;
    o->drain_delay_s = fresh->drain_delay_s;
    o->drain_timeout_s = fresh->drain_timeout_s;
    o->header_timeout_s = fresh->header_timeout_s;
    o->idle_timeout_s = fresh->idle_timeout_s;
    o->receive_timeout_s = fresh->receive_timeout_s;
    o->send_timeout_s = fresh->send_timeout_s;
}

static void retire(ot_server *server, ot_generation *old)
{
    old->last_exchange = server->n_exchanges;
    old->next = server->retired;
    server->retired = old;
    ot_reload_collect(server);
}

static void commit(struct ot_reload *r)
{
    ot_server *server = r->server;
    const ot_server_fresh *fresh = &r->fresh;
    for (uint32_t i = 0; i < fresh->n_given_up; i++)
        ot_server_account_head(server, fresh->given_up[i], 0);
    for (uint32_t i = 0; i < fresh->n_loaded; i++)
        ot_server_account_head(server, fresh->loaded[i].name, fresh->loaded[i].heap_bytes);
    ot_error ignored;
    ot_server_note_heads(server, &ignored); /* a name that is not noted goes by its file in the metrics */
    ot_api_keys_close(&server->keys);       /* the loop's alone: exchanges keep a copy of their key */
    server->keys = r->keys;
    r->keys = NULL;
    take_options(&server->options, &r->generation->options);
    ot_generation *old = server->generation;
    server->generation = r->generation;
    r->generation = NULL;
    ot_heap_exempt(server->generation->heap_bytes);
    atomic_store_explicit(&server->api.defaults, &server->generation->defaults, memory_order_release);
    retire(server, old);
}

static void discard(struct ot_reload *r, bool taken)
{
    if (r->read)
        r->server->options.reloaded(r->server->options.reload_ctx, &r->fresh, taken);
    if (r->generation)
        r->generation->heap_bytes = 0; /* was never exempt */
    ot_generation_close(&r->generation);
    ot_api_keys_close(&r->keys);
    free(r);
}

static void finish(ot_work *work, bool cancelled)
{
    struct ot_reload *r = (struct ot_reload *)work;
    ot_server *server = r->server;
    if (!r->status && !cancelled)
        r->status = ot_heads_replace(server->heads, r->fresh.heads, r->fresh.given_up, r->fresh.n_given_up, &r->error);
    bool taken = !r->status && !cancelled;
    uint32_t n_loaded = r->fresh.n_loaded;
    if (taken)
        commit(r);
    else
        fprintf(stderr, "otter: not reloaded, all goes on as before: %s\n", r->error.message);
    server->reload = NULL;
    bool again = server->reload_again;
    discard(r, taken);
    if (taken) /* in the new log */
        fprintf(stderr, "otter: reloaded: %u heads were read, %u presets, %s\n", n_loaded, server->generation->defaults.n_presets,
                server->keys ? "keys are needed" : "no keys");
    if (again)
        on_signal(&server->sighup, SIGHUP);
}

static void on_signal(uv_signal_t *signal, int number)
{
    (void)number;
    ot_server *server = signal->data;
    server->reload_again = server->reload != NULL; /* once more, since files may have changed after they were read */
    if (server->reload)
        return;
    if (server->leaving) {
        fprintf(stderr, "otter: not reloaded: the server is stopping\n");
        return;
    }
    bool for_clients = ot_heap_for_clients(false);
    struct ot_reload *r = calloc(1, sizeof *r);
    ot_heap_for_clients(for_clients);
    if (!r) {
        fprintf(stderr, "otter: not reloaded: out of memory\n");
        return;
    }
    r->work = (ot_work){.run = prepare, .done = finish};
    r->server = server;
    server->reload = r;
    ot_workers_submit(server->workers, &r->work);
}

int ot_reload_listen(ot_server *server)
{
    return server->options.reload ? uv_signal_start(&server->sighup, on_signal, SIGHUP) : 0;
}

/* ---- The end of a generation ----------------------------------------------------------------------------- */

void ot_reload_collect(ot_server *server)
{
    if (!server->retired)
        return;
    uint64_t oldest = UINT64_MAX;
    for (const ot_exchange *x = server->exchanges; x; x = x->next)
        oldest = x->number < oldest ? x->number : oldest;
    for (ot_generation **at = &server->retired; *at;) {
        ot_generation *g = *at;
        if (g->last_exchange >= oldest) {
            at = &g->next;
            continue;
        }
        *at = g->next;
        ot_generation_close(&g);
    }
}

void ot_reload_close(ot_server *server)
{
    if (server->reload)
        discard(server->reload, false);
    server->reload = NULL;
    while (server->retired) {
        ot_generation *g = server->retired;
        server->retired = g->next;
        ot_generation_close(&g);
    }
    ot_generation_close(&server->generation);
}
