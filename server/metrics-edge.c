/* The part of /metrics that is about clients rather than requests: their connections and the memory that they take. */
#include "server/metrics-text.h"

static void put_connections(ot_text *out, const ot_connection_counts *c)
{
    const ot_labels none = {0};
    ot_metrics_family(out, "otter_connections", "gauge", "Open connections by what they are doing");
    for (int i = 0; i < OT_N_CONNECTION_STATES; i++) {
        ot_labels l = ot_labels_with(&none, "state", ot_connection_state_names[i]);
        ot_metrics_sample(out, "otter_connections", &l, c->n[i]);
    }
    ot_metrics_family(out, "otter_connections_limit", "gauge", "Connections that may have a request at once");
    ot_metrics_sample(out, "otter_connections_limit", &none, c->max);
    ot_metrics_family(out, "otter_connections_ended_total", "counter", "Connections that the server ended, and why");
    for (int i = 0; i < OT_N_CONNECTION_ENDS; i++) {
        ot_labels l = ot_labels_with(&none, "reason", ot_connection_end_names[i]);
        ot_metrics_sample(out, "otter_connections_ended_total", &l, (double)c->ended[i]);
    }
}

static void put_memory(ot_text *out, const ot_heap_usage *heap)
{
    const ot_labels none = {0};
    const struct {
        const char *name, *type, *help;
        double value;
    } rows[] = {
        {"otter_request_memory_bytes", "gauge", "Memory that requests and their answers take", (double)heap->bytes},
        {"otter_request_memory_peak_bytes", "gauge", "The most that they have taken", (double)heap->peak_bytes},
        {"otter_request_memory_limit_bytes", "gauge", "What they may take; past it requests get 503", (double)heap->limit_bytes},
        {"otter_request_memory_refused_total", "counter", "Allocations refused for it", (double)heap->n_refused},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ot_metrics_family(out, rows[i].name, rows[i].type, rows[i].help);
        ot_metrics_sample(out, rows[i].name, &none, rows[i].value);
    }
}

void ot_metrics_write_edge(const ot_metrics_input *in, ot_text *out)
{
    if (in->connections)
        put_connections(out, in->connections);
    if (in->heap)
        put_memory(out, in->heap);
}
