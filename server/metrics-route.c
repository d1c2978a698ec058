/* GET /metrics: gathers what metrics.c writes. */
#include <dirent.h>
#include <stdlib.h>

#include "server/metrics-text.h"

static uint32_t count_descriptors(void)
{
    uint32_t n = 0;
    DIR *dir = opendir("/proc/self/fd");
    if (!dir)
        return 0;
    while (readdir(dir))
        n++;
    closedir(dir);
    return n >= 3 ? n - 3 : 0; /* ".", ".." and the folder itself */
}

void ot_handle_metrics(ot_exchange *x)
{
    ot_server *server = x->server;
    ot_stats *stats = malloc(sizeof *stats);
    if (!stats) {
        ot_exchange_fail(x, &(ot_error){.code = OT_ERR_NOMEM, .message = "out of memory"});
        return;
    }
    ot_scheduler_get_stats(server->scheduler, stats);
    ot_connection_counts connections;
    ot_connections_count(server, &connections);
    ot_heap_usage heap;
    ot_heap_get(&heap);
    ot_metrics_input in = {
        .stats = stats,
        .model_name = server->api.model_id,
        .prefix_cache = ot_scheduler_get_options(server->scheduler)->prefix_cache,
        .n_configured = server->n_configured,
        .configured = (const char *const *)server->configured,
        .http_requests = (const uint64_t(*)[OT_N_COUNTED_CODES])server->http_requests,
        .start_time_s = server->start_time_s,
        .open_fds = count_descriptors(),
        .connections = &connections,
        .heap = &heap,
    };
    ot_grammars_get_stats(server->api.grammars, &in.grammars);
    ot_metrics_write(&in, &x->out);
    free(stats);
    ot_exchange_reply(x, 200, "text/plain; version=0.0.4; charset=utf-8");
}
