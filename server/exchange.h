/* One request and its response, and the server they belong to. Everything here lives on the loop's thread, but for the `work`
 * function of ot_exchange_offload, which may touch the job it was given and the immutable api context alone.
 *
 * Life of an exchange:
 *     receiving   libmicrohttpd hands over the body piece by piece
 *     handler     the route's function ran; it ends in exactly one of reply, fail, offload, wait or stream
 *     suspended   (offload, wait) the connection sleeps, its socket watched for hang-up; ot_exchange_reply or _fail
 *                 wakes it
 *     streaming   libmicrohttpd asks `fill` for more; when there is none, the connection sleeps until ot_exchange_wake
 *     over        response sent or connection lost: `release` frees the job, which cancels what still runs
 */
#ifndef OTTER_SERVER_EXCHANGE_H
#define OTTER_SERVER_EXCHANGE_H

#include <microhttpd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "server/api-context.h"
#include "server/playground.h"
#include "base/heap-limit.h"
#include "base/json-text.h"
#include "server/connections.h"
#include "server/server.h"
#include "server/workers.h"

#define OT_REQUEST_ID_BYTES 128

typedef struct ot_exchange ot_exchange;

struct ot_access_facts; /* access-log.h */

typedef enum ot_fill { OT_FILL_MORE, OT_FILL_WAIT, OT_FILL_END } ot_fill;

/* What a waiting or streaming exchange does with news. job is x->job. */
typedef struct ot_job_ops {
    void (*on_output)(ot_exchange *x);        /* the scheduler has output for one of the job's requests */
    ot_fill (*fill)(ot_exchange *x);          /* streaming: append events to x->out, which is empty */
    void (*cancel)(ot_exchange *x);           /* drain timed out: ask the scheduler to stop the job's requests */
    void (*release)(void *job);               /* frees the job; its requests are cancelled */
    void (*describe)(const void *job, struct ot_access_facts *out); /* for the access log; NULL: there is nothing to tell */
} ot_job_ops;

typedef enum ot_key_role { OT_KEY_USE, OT_KEY_MANAGE } ot_key_role;

/* What a key's line says, with the salt that keeps its cached prefixes to itself. */
typedef struct ot_api_key {
    char name[64];
    ot_key_role role;
    uint8_t salt[16];
} ot_api_key;

typedef struct ot_route {
    const char *method;
    const char *path;               /* "{...}" at its end takes all that is left, slashes, too */
    void (*handle)(ot_exchange *x);
    bool open;                      /* needs no API key, and answers while every place is taken */
    bool work;                      /* refused while draining */
    bool manage;                    /* needs a key of the role `manage` where keys are used */
} ot_route;

typedef enum ot_exchange_state {
    OT_EXCHANGE_RECEIVING,
    OT_EXCHANGE_HANDLED, /* the handler ran; suspended unless `answered` */
    OT_EXCHANGE_STREAMING
} ot_exchange_state;

struct ot_exchange {
    ot_server *server;
    struct MHD_Connection *connection;
    uint64_t number;              /* in the order of arrival */
    ot_connection *peer;          /* its place among the server's connections */
    ot_exchange *next, *previous; /* all exchanges of the server */
    ot_exchange *next_parked;     /* of those that wait for a place */
    bool parked;
    uint32_t slot;                /* of ot_server.slots */

    /* The request */
    const ot_route *route;        /* NULL: no such route or method */
    char method[16];              /* cut */
    char path[512];               /* cut */
    char host[256];               /* name and port that the request is for, cut */
    char argument[256];           /* what {...} matched */
    char request_id[OT_REQUEST_ID_BYTES + 1];
    ot_text body;
    uint64_t started_ms;
    ot_api_key key;               /* zeros without one */

    /* The response */
    ot_exchange_state state;
    bool answered;                /* `out` and `status` are the response */
    bool closes;                  /* the connection ends with this response */
    bool gone;                    /* the client hung up, or the server ends */
    bool suspended;
    bool offloaded;               /* a worker holds the job, or it waits for one: */
    struct ot_offload *offload;
    unsigned status;
    const char *content_type;
    char allow[64];
    uint32_t retry_after_s;       /* 0: no header */
    ot_text out;
    size_t out_at;                /* bytes of out that a stream has sent */

    const ot_job_ops *ops;
    void *job;
};

/* ---- How a handler ends ---------------------------------------------------------------------------------- */

/* Sends x->out. May be called from the handler or later; once. */
void ot_exchange_reply(ot_exchange *x, unsigned status, const char *content_type);
/* reply with 200 application/json, or 500 if x->out failed. */
void ot_exchange_reply_json(ot_exchange *x);
/* Sends an OpenAI error object; param and code may be NULL. */
void ot_exchange_fail_with(ot_exchange *x, unsigned status, const char *type, const char *param, const char *code,
                           const char *message);
/* The same from an ot_error: the status follows from its code. */
void ot_exchange_fail(ot_exchange *x, const ot_error *error);
/* An error object without an exchange, for events of a stream. */
void ot_error_object(ot_text *out, const ot_error *error);
/* Leaves the folders out of the paths in a message, for a client's eyes (error-text.c). */
void ot_error_hide_folders(char *message);
/* Gives the exchange a job; to be called before offload, wait and stream. */
void ot_exchange_set_job(ot_exchange *x, void *job, const ot_job_ops *ops);
/* Runs work(job) on a worker and then after(x) on the loop, unless the client has gone by then (the job is
 * released). Small work may run at once: `large` says whether it is worth a worker. */
void ot_exchange_offload(ot_exchange *x, bool large, void (*work)(void *job), void (*after)(ot_exchange *x));
/* Begins a text/event-stream response, fed by ops->fill. */
void ot_exchange_stream(ot_exchange *x);
/* A stream that waits may have more now. */
void ot_exchange_wake(ot_exchange *x);
/* For ot_request_params.owner: finds the exchange again, also after it has gone. */
void *ot_exchange_owner(const ot_exchange *x);

/* ---- The body -------------------------------------------------------------------------------------------- */

#define OT_LARGE_BODY_BYTES (64 * 1024) /* from here on parsing goes to a worker */
#define OT_MAX_SWALLOWED_BODIES 4        /* a body this many times too large is not read to its end */
/* Frees the body early, once a handler has taken what it needs. */
void ot_exchange_drop_body(ot_exchange *x);

/* ---- Handlers (each in its own file) --------------------------------------------------------------------- */

void ot_handle_completions(ot_exchange *x);
void ot_handle_chat_completions(ot_exchange *x);
void ot_handle_render_completions(ot_exchange *x);
void ot_handle_render_chat(ot_exchange *x);
void ot_handle_responses(ot_exchange *x);
void ot_handle_response(ot_exchange *x);
void ot_handle_messages(ot_exchange *x);
void ot_handle_count_tokens(ot_exchange *x);
void ot_handle_embeddings(ot_exchange *x);
void ot_handle_score(ot_exchange *x);
void ot_handle_moderations(ot_exchange *x);
void ot_handle_models(ot_exchange *x);
void ot_handle_model(ot_exchange *x);
void ot_handle_heads(ot_exchange *x);
void ot_handle_load_head(ot_exchange *x);
void ot_handle_unload_head(ot_exchange *x);
void ot_handle_tokenize(ot_exchange *x);
void ot_handle_detokenize(ot_exchange *x);
void ot_handle_apply_template(ot_exchange *x);
void ot_handle_tokenizer_info(ot_exchange *x);
void ot_handle_health(ot_exchange *x);
void ot_handle_live(ot_exchange *x);
void ot_handle_ready(ot_exchange *x);
void ot_handle_metrics(ot_exchange *x);
void ot_handle_version(ot_exchange *x);
void ot_handle_openapi(ot_exchange *x);
void ot_handle_playground(ot_exchange *x);

/* ---- The server ------------------------------------------------------------------------------------------ */

#define OT_MAX_ROUTES 32
#define OT_N_COUNTED_CODES 20

typedef struct ot_slot {
    ot_exchange *exchange;
    uint32_t generation; /* so that a stale owner finds nothing */
    uint32_t next_free;
} ot_slot;

typedef struct ot_head_memory {
    char name[64];
    ptrdiff_t bytes; /* 0: an empty place */
} ot_head_memory;

struct ot_server {
    ot_server_options options; /* strings are the arena's */
    ot_arena arena;
    ot_api_context api;
    ot_scheduler *scheduler;
    ot_heads *heads;
    ot_chat_template *chat;
    struct ot_api_keys *keys;
    struct ot_generation *generation, *retired; /* reload.c */
    struct ot_reload *reload;                   /* on its way, or NULL */
    bool reload_again;

    /* The loop (http-loop.c) */
    uv_loop_t loop;
    bool loop_open;
    struct MHD_Daemon *daemon;
    ot_connections *connections;
    ot_workers *workers;
    uint16_t port;
    bool on_loopback; /* listens where only this machine can reach it */
    uv_poll_t http_poll;
    uv_timer_t http_timer;
    uv_async_t output_async; /* sent by the engine thread */
    uv_signal_t sigterm, sigint, sighup;
    uv_timer_t drain_timer;
    bool pumping, pump_again;
    bool leaving;   /* a signal came: /readyz says so, answers end their connections */
    bool draining;  /* no new work is taken */
    bool stop;      /* the loop has been told to end */
    bool closing;   /* every connection is being ended: no handler may suspend one any more */

    /* Exchanges */
    ot_exchange *exchanges;
    uint64_t n_exchanges; /* so far */
    ot_exchange *first_parked, *last_parked; /* those that wait for a place */
    uint32_t n_parked;
    uint32_t n_working;   /* handled and not over */
    uint32_t n_offloaded;
    size_t bodies_bytes;  /* received bodies in memory */
    ot_head_memory head_memory[OT_STATS_MAX_HEADS]; /* of those that were loaded while serving */
    ot_work trim;         /* run is NULL: none is on its way */
    ot_slot *slots;
    uint32_t n_slots, free_slot;

    /* Counters (metrics.c) */
    uint64_t http_requests[OT_MAX_ROUTES + 1][OT_N_COUNTED_CODES];
    double start_time_s;  /* since the epoch */
    char page_policy[OT_PAGE_POLICY_BYTES]; /* Content-Security-Policy of what is HTML */
    uint32_t n_configured; /* heads that were there when the server opened */
    char *configured[OT_STATS_MAX_HEADS];
};

/* Runs libmicrohttpd until it has nothing to do now, and sets the timer for what it has to do later. */
void ot_server_pump(ot_server *server);

/* Suspends and wakes connections (exchange-sleep.c). */
void ot_exchange_suspend(ot_exchange *x);
void ot_exchange_resume(ot_exchange *x);
/* The client of a suspended exchange has hung up. */
void ot_exchange_hang_up(ot_exchange *x);
/* Queues the response of an exchange that is answered (exchange-reply.c). */
enum MHD_Result ot_exchange_send(ot_exchange *x);
ot_exchange *ot_exchange_from_owner(ot_server *server, void *owner);
/* libmicrohttpd's callbacks (exchange.c). */
enum MHD_Result ot_exchange_on_access(void *server, struct MHD_Connection *connection, const char *url, const char *method,
                                      const char *version, const char *data, size_t *data_size, void **state);
void ot_exchange_on_completed(void *server, struct MHD_Connection *connection, void **state,
                              enum MHD_RequestTerminationCode why);

/* Routes (routes.c): matches method and path. On failure route is NULL and *allow lists the methods that the path has ("" for
 * an unknown path). */
const ot_route *ot_route_find(const char *method, const char *path, char *argument, size_t argument_size, char allow[64]);
size_t ot_route_index(const ot_route *route); /* the table's size for NULL */
size_t ot_route_count(void);
const ot_route *ot_route_at(size_t i);

/* metrics.c */
void ot_metrics_count_http(ot_server *server, const ot_route *route, unsigned status);

/* exchange-headers.c: true if the headers alone decide the answer, which is then set. With x->closes the body's end is in doubt. */
bool ot_exchange_refused_by_headers(ot_exchange *x, const char *version);
void ot_exchange_refuse_size(ot_exchange *x);
const char *ot_exchange_header(const ot_exchange *x, const char *name);
/* exchange.c: hands free places to the requests that wait for one. */
void ot_exchanges_place(ot_server *server);

/* server-options.c */
ot_status ot_server_options_check(const ot_server_options *options, ot_error *err);
ot_status ot_server_options_copy(ot_server_options *to, const ot_server_options *from, ot_arena *arena, ot_error *err);
/* server.c: the names of loaded heads become labels of the metrics. */
ot_status ot_server_note_heads(ot_server *server, ot_error *err);

/* request-memory.c */
/* A head has been loaded and took so much, or (0) was unloaded. */
void ot_server_account_head(ot_server *server, const char *name, ptrdiff_t bytes);
/* To be called when memory may have been freed. */
void ot_server_give_memory_back(ot_server *server);

/* api-keys.c: false if the text is none of the keys. */
typedef struct ot_api_keys ot_api_keys;
ot_status ot_api_keys_open(ot_api_keys **out, const char *path, ot_error *err);
void ot_api_keys_close(ot_api_keys **keys);
bool ot_api_keys_find(const ot_api_keys *keys, const char *text, ot_api_key *key);

/* origins.c */
bool ot_is_loopback(const struct sockaddr *address);
bool ot_host_allowed(const ot_server *server, const char *authority);
bool ot_origin_allowed(const ot_exchange *x);
/* Adds the headers for an allowed Origin; the answer to a preflight request. */
void ot_cors_add(const ot_exchange *x, struct MHD_Response *response);

/* 24 random hexadecimal digits. */
void ot_random_id(char out[25]);
uint64_t ot_random_u64(void);

#endif
