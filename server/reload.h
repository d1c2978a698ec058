/* Reading the configuration again, on SIGHUP.
 *
 *     a worker   the caller's `reload` reads options and heads; keys are read, presets checked against the new heads
 *     the loop   all of it takes the place of what was there, at one moment; or, if anything failed, the log says what, and nothing has changed
 *
 * Requests that were begun before keep what they had: a head by its references, presets and texts of options because a generation is freed only when
 * no exchange is left that is older than its end. */
#ifndef OTTER_SERVER_RELOAD_H
#define OTTER_SERVER_RELOAD_H

#include "server/exchange.h"

typedef struct ot_generation {
    struct ot_generation *next; /* of those that have been replaced */
    uint64_t last_exchange;     /* the youngest that may have seen it */
    ot_arena arena;             /* of the texts below */
    ot_server_options options;  /* without presets */
    ot_api_defaults defaults;
    ptrdiff_t heap_bytes;       /* what it took while serving: not the clients' */
} ot_generation;

/* api->heads tells which table the names are looked up in; its defaults are not used. *out may be half-built on failure. */
ot_status ot_generation_open(ot_generation **out, const ot_api_context *api, const ot_server_options *options, ot_error *err);
void ot_generation_close(ot_generation **generation);

/* From here on SIGHUP reloads (0, or libuv's code). */
int ot_reload_listen(ot_server *server);
/* An exchange has ended: frees what nobody can see any more. */
void ot_reload_collect(ot_server *server);
/* After the loop and the workers have ended. */
void ot_reload_close(ot_server *server);

#endif
