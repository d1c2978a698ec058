/* The HTTP edge: whatever bytes arrive on a connection, the server answers or closes, and goes on serving. It runs in this process, on a
 * tiny model, in a thread of its own. */
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/server.h"
#include "tests/support/fuzz-target.h"
#include "tests/support/scheduler-fixture.h"
#include "tests/support/test-support.h"

enum { TIMEOUT_MS = 5000 };

static ot_server *server;
static pthread_t thread;

static void *serve(void *state)
{
    ot_error err;
    (void)state;
    ot_server_run(server, &err);
    return NULL;
}

static void stop(void)
{
    kill(getpid(), SIGTERM); /* drains */
    pthread_join(thread, NULL);
    ot_server_close(&server);
    ot_fixture_close();
}

static bool start(void)
{
    ot_error err = {0};
    ot_server_options options;
    ot_scheduler_options scheduler = ot_fixture_options();
    const ot_fixture *f = ot_fixture_get();
    if (server || !f)
        return server != NULL;
    ot_server_options_default(&options);
    options.port = 0;
    options.max_body_bytes = options.max_bodies_bytes = 1 << 16;
    if (!CHECK_OK(ot_server_open(&server, f->model, f->heads, &scheduler, &options, &err), &err))
        return false;
    if (pthread_create(&thread, NULL, serve, NULL) != 0)
        abort();
    atexit(stop);
    return true;
}

static int call(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(ot_server_port(server)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval patience = {.tv_sec = TIMEOUT_MS / 1000};
    int s = socket(AF_INET, SOCK_STREAM, 0);
    if (s < 0 || connect(s, (struct sockaddr *)&address, sizeof address) != 0)
        abort();
    setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return s;
}

/* Sends all, says that no more comes, and reads until the server closes or is silent for so long. */
static size_t exchange(const void *data, size_t size, int silent_ms, char *answer, size_t room)
{
    int s = call();
    size_t at = 0, n_read = 0;
    while (at < size) {
        ssize_t n = send(s, (const char *)data + at, size - at, MSG_NOSIGNAL);
        if (n <= 0)
            break;
        at += (size_t)n;
    }
    shutdown(s, SHUT_WR);
    struct pollfd ready = {.fd = s, .events = POLLIN};
    for (ssize_t n = 1; n > 0 && poll(&ready, 1, silent_ms) > 0;) {
        char piece[4096];
        n = recv(s, piece, sizeof piece, 0);
        if (n > 0 && n_read + (size_t)n < room)
            memcpy(answer + n_read, piece, (size_t)n);
        n_read += n > 0 ? (size_t)n : 0;
    }
    close(s);
    return n_read < room ? n_read : room - 1;
}

static int take(const uint8_t *data, size_t size)
{
    static const char health[] = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    static char answer[1 << 16];
    static uint32_t n_taken;
    if (!start())
        return 0;
    exchange(data, size, 10, answer, sizeof answer);
    if (n_taken++ % 16 == 0) {
        answer[exchange(health, sizeof health - 1, TIMEOUT_MS, answer, sizeof answer)] = '\0';
        CHECK(strncmp(answer, "HTTP/1.1 200", 12) == 0);
    }
    return 0;
}

OT_FUZZ_TARGET("http", 800, take)
