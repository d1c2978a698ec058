/* Who is connected, for how long, and who gives way to whom.
 *
 * The server accepts by itself and hands each socket to libmicrohttpd, so that it alone decides what a full house means. A connection is
 * in one of the states below; each state but `working` has a time limit, and the lists are kept in the order of their deadlines.
 *
 * When all `max-connections` places are taken, new connections get one of some spare places. The open routes (health, metrics) answer there
 * at once; any other request needs an ordinary place and displaces the connection that will be missed least: one that has said nothing
 * yet, or is idle between two requests. If every place has a request that runs, it waits for one. When the spare places are taken, too, a
 * new connection displaces the one that will be missed least there; where keys are used that is the one that has gone without a key for longest,
 * whatever it is doing. If nobody can give way the listener rests until the first connection ends.
 */
#ifndef OTTER_SERVER_CONNECTIONS_H
#define OTTER_SERVER_CONNECTIONS_H

#include <microhttpd.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/status.h"

struct ot_server;

typedef enum ot_connection_state {
    OT_CONNECTION_NEW,       /* no whole header has come yet: header-timeout */
    OT_CONNECTION_KEPT,      /* between two requests: idle-timeout */
    OT_CONNECTION_RECEIVING, /* a body is on its way: receive-timeout, for all of it */
    OT_CONNECTION_SENDING,   /* an answer is on its way: send-timeout, for each piece of it */
    OT_CONNECTION_WORKING,   /* the server's turn: no limit */
    OT_CONNECTION_ENDING,    /* shut down; libmicrohttpd is about to close it */
    OT_N_CONNECTION_STATES
} ot_connection_state;

extern const char *const ot_connection_state_names[OT_N_CONNECTION_STATES];

/* Why the server ended a connection. */
typedef enum ot_connection_end {
    OT_END_HEADER_TIMEOUT,
    OT_END_IDLE_TIMEOUT,
    OT_END_RECEIVE_TIMEOUT,
    OT_END_SEND_TIMEOUT,
    OT_END_DISPLACED, /* gave its place to a newer one */
    OT_N_CONNECTION_ENDS
} ot_connection_end;

extern const char *const ot_connection_end_names[OT_N_CONNECTION_ENDS];

typedef struct ot_connection {
    struct ot_connection *next, *previous; /* of its state, oldest first */
    uint64_t since_ms;                     /* in this state */
    uint64_t number;                       /* in the order of arrival */
    int fd;
    int queued; /* bytes that waited for the client at the last look, or 0 */
    uint16_t told; /* a status that the server sent past libmicrohttpd, or 0 */
    ot_connection_state state;
    bool spare; /* holds no ordinary place */
    bool keyed; /* has shown a valid key */
    struct ot_server *server;
    struct ot_exchange *exchange; /* its request, or NULL */
    uv_poll_t hang_up;
} ot_connection;

typedef struct ot_connections ot_connections;

typedef struct ot_connection_counts {
    uint32_t n[OT_N_CONNECTION_STATES];
    uint32_t max; /* ordinary places: max-connections, or what the descriptor limit leaves */
    uint64_t ended[OT_N_CONNECTION_ENDS];
} ot_connection_counts;

/* Takes over listen_fd, a listening socket without blocking. Raises the descriptor limit as far as it may; what that
 * does not allow lowers the number of places. Nothing is accepted before ot_connections_listen. */
ot_status ot_connections_open(struct ot_server *server, int listen_fd, ot_error *err);
ot_status ot_connections_listen(struct ot_server *server, ot_error *err);
/* Takes what is already connected and closes the listening socket: whoever comes later is refused by the kernel, and so goes elsewhere. */
void ot_connections_stop_listening(struct ot_server *server);
void ot_connections_close(struct ot_server *server);
/* After libmicrohttpd has run: sets the timer for the next deadline. */
void ot_connections_schedule(struct ot_server *server);
/* How many connections libmicrohttpd must take. */
uint32_t ot_connections_limit(const struct ot_server *server);
/* How many requests may wait on spare places for an ordinary one: the others are for the open routes. */
uint32_t ot_connections_max_waiting(const struct ot_server *server);
void ot_connections_count(const struct ot_server *server, ot_connection_counts *out);

/* libmicrohttpd's callback at the beginning and end of a connection. */
void ot_connection_on_notify(void *server, struct MHD_Connection *handle, void **connection,
                             enum MHD_ConnectionNotificationCode code);
ot_connection *ot_connection_of(struct MHD_Connection *handle);
/* Entering the state that it is in begins its time anew. */
void ot_connection_enter(struct ot_server *server, ot_connection *connection, ot_connection_state state);
/* A client that hangs up from now on is noticed. Level-triggered, unlike libmicrohttpd's own watch, which misses an end that came together with
 * data, and does not look at a suspended connection at all. */
void ot_connection_watch(ot_connection *connection);
/* Gives a spare connection an ordinary place, if one is free or can be made free. */
bool ot_connection_promote(struct ot_server *server, ot_connection *connection);

#endif
