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

void ot_metrics_write_edge(const ot_metrics_input *in, ot_text *out)
{
    if (in->connections)
        put_connections(out, in->connections);
}
