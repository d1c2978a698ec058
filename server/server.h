/* The HTTP front end: OpenAI's API and ours (api-spec/openapi.yaml) over a scheduler.
 *
 * One thread, the caller of ot_server_run, runs libuv's loop, and libmicrohttpd inside it; a few workers parse and format
 * what is large. Nothing on the loop blocks: a request that waits for the scheduler is suspended, and the scheduler
 * wakes the loop when there is output. While a request is suspended its socket is watched, so that a client that goes away
 * cancels its work at once.
 */
#ifndef OTTER_SERVER_SERVER_H
#define OTTER_SERVER_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "scheduler/scheduler.h"

typedef struct ot_server ot_server;

typedef enum ot_access_log { OT_ACCESS_LOG_OFF, OT_ACCESS_LOG_PLAIN, OT_ACCESS_LOG_JSON } ot_access_log;

/* A model id `base+name` whose requests get this intervention; the request's own members come first. */
typedef struct ot_server_preset {
    const char *name;
    const char *intervention; /* JSON object, as in a request */
} ot_server_preset;

struct ot_server_fresh;

/* Strings are copied when the server opens. */
typedef struct ot_server_options {
    const char *host;             /* address or name to listen on */
    uint16_t port;                /* 0: any free one (ot_server_port tells) */
    const char *model_name;       /* the base's id in /v1/models; NULL: general.name of the file */
    const char *api_key_file;     /* one key a line (api-keys.c); NULL: open to all */
    const char *const *cors_origins;  /* "*" for any; NULL-terminated, or NULL for none */
    const char *const *allowed_hosts; /* names besides localhost; "*" for any; likewise. NULL: all but on a loopback address without keys */
    const char *heads_dir;        /* POST /v1/heads loads from below it; NULL: loading is off */
    const char *chat_template;    /* a name or a file; NULL: the model's own */
    bool allow_base_mismatch;     /* for heads loaded while serving */
    const char *moderation_head;
    float moderation_threshold;   /* flagged above it */
    const char *moderation_categories; /* JSON: {category: head or {head, above}}; NULL: those of moderation_head */
    const char *speculative;      /* drafts for requests that say nothing: "lookup", a head, "model", "lookup,head"; NULL: none */
    uint32_t drain_delay_s;       /* after SIGTERM, with /readyz at 503 and work still taken */
    uint32_t drain_timeout_s;     /* after that, until what still runs is cancelled */
    uint32_t header_timeout_s;    /* for a new connection's first headers */
    uint32_t idle_timeout_s;      /* from an answer to the headers of the next request */
    uint32_t receive_timeout_s;   /* for one request's body */
    uint32_t send_timeout_s;      /* for a client to take a piece of its answer */
    uint32_t max_connections;
    size_t max_body_bytes;        /* of one request */
    size_t max_bodies_bytes;      /* of all bodies being received together */
    size_t request_memory_bytes;  /* for all that requests and their answers take, bodies included (base/heap-limit.h) */
    uint32_t n_workers;           /* threads that parse, format and load what is large */
    uint32_t max_header_bytes;    /* of one request, its first line included; a connection takes twice as much */
    uint32_t max_prompts;         /* in one request */
    uint32_t max_choices;         /* `n` */
    uint32_t max_json_depth;
    size_t grammar_memory_bytes;  /* of all grammars that are kept or used */
    ot_access_log access_log;     /* to standard error */
    const ot_server_preset *presets;
    uint32_t n_presets;
    const char *openapi_json;     /* what /openapi.json serves; NULL: 404 */
    /* Called on SIGHUP, on a thread of its own: reads the configuration again, into *fresh. NULL: SIGHUP is not handled. After an OT_OK,
     * `reloaded` tells what became of it, on the server's thread. */
    ot_status (*reload)(void *ctx, struct ot_server_fresh *fresh, ot_error *err);
    void (*reloaded)(void *ctx, struct ot_server_fresh *fresh, bool taken);
    void *reload_ctx;
} ot_server_options;
void ot_server_options_default(ot_server_options *options);

/* A configuration that was read again. Of the options those count that nothing else was sized by (server/reload.c lists them). */
typedef struct ot_server_fresh {
    const ot_server_options *options;
    ot_heads *heads;              /* a table of all heads that are to serve */
    const char *const *given_up;  /* names of heads that served and do not any more, or are loaded anew */
    uint32_t n_given_up;
    const struct ot_fresh_head {
        const char *name;
        ptrdiff_t heap_bytes;     /* that it took (ot_heap_of_thread) */
    } *loaded;                    /* those that were read for this */
    uint32_t n_loaded;
    void *state;                  /* the caller's */
} ot_server_fresh;

/* Opens the scheduler with `scheduler` (its on_output is set here), checks the presets, and listens. model and heads are
 * borrowed and must outlive the server. Errors name the option. */
ot_status ot_server_open(ot_server **out, const ot_model *model, ot_heads *heads,
                         const ot_scheduler_options *scheduler, const ot_server_options *options, ot_error *err);
uint16_t ot_server_port(const ot_server *server);
const ot_scheduler_options *ot_server_scheduler_options(const ot_server *server); /* with zeros resolved */
/* NULL, or why the chat routes are off. */
const char *ot_server_chat_problem(const ot_server *server);
/* Serves until SIGTERM or SIGINT and then drains (a second signal ends at once). OT_OK also when the drain timed out. */
ot_status ot_server_run(ot_server *server, ot_error *err);
void ot_server_close(ot_server **server);

/* "libmicrohttpd 0.9.75, ...": the versions in use, for `otter --version`. */
void ot_server_describe_libraries(char *text, size_t size);

/* Every route, for the test that holds api-spec/openapi.yaml against them: false past the last. */
typedef struct ot_route_info {
    const char *method; /* "POST" */
    const char *path;   /* "/v1/models/{id}" */
    bool needs_key;
} ot_route_info;
bool ot_server_route(size_t i, ot_route_info *out);

#endif
