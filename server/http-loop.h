/* Opening, running and closing the loop of a server, in the order of these functions; server.c puts the scheduler between them. */
#ifndef OTTER_SERVER_HTTP_LOOP_H
#define OTTER_SERVER_HTTP_LOOP_H

#include "server/exchange.h"

ot_status ot_http_loop_open(ot_server *server, ot_error *err);
/* For ot_scheduler_options.on_output, with the server as its context. */
void (*ot_http_loop_on_output(void))(void *);
ot_status ot_http_loop_listen(ot_server *server, ot_error *err);
ot_status ot_http_loop_run(ot_server *server, ot_error *err);
/* Ends all connections: after this no exchange is left, and nothing holds a request of the scheduler. */
void ot_http_loop_close(ot_server *server);
void ot_http_loop_free(ot_server *server);

/* drain.c: acts on SIGTERM and SIGINT from here on (0, or libuv's code); ends the loop once what ran is over. */
int ot_drain_listen(ot_server *server);
void ot_drain_check(ot_server *server);

#endif
