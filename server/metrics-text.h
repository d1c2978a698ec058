/* The pieces of Prometheus' text format, and all of /metrics from plain numbers: what the unit test feeds by hand and the route
 * from the running server. */
#ifndef OTTER_SERVER_METRICS_TEXT_H
#define OTTER_SERVER_METRICS_TEXT_H

#include "scheduler/stats.h"
#include "server/exchange.h"
#include "base/heap-limit.h"
#include "base/json-text.h"

#define OT_MAX_LABELS 8

typedef struct ot_labels {
    size_t n;
    const char *names[OT_MAX_LABELS];
    const char *values[OT_MAX_LABELS]; /* any text: escaped when written */
} ot_labels;

ot_labels ot_labels_with(const ot_labels *labels, const char *name, const char *value);
void ot_metrics_family(ot_text *out, const char *name, const char *type, const char *help);
void ot_metrics_sample(ot_text *out, const char *name, const ot_labels *labels, double value);
void ot_metrics_histogram(ot_text *out, const char *name, const ot_labels *labels, const ot_histogram *h);

typedef struct ot_metrics_input {
    const ot_stats *stats;
    ot_grammars_stats grammars;
    const char *model_name;
    bool prefix_cache;
    uint32_t n_configured;          /* heads named by the operator */
    const char *const *configured;
    const uint64_t (*http_requests)[OT_N_COUNTED_CODES]; /* (routes + 1) */
    double start_time_s;
    uint32_t open_fds;
    const ot_connection_counts *connections; /* NULL: left out */
    const ot_heap_usage *heap;               /* likewise */
} ot_metrics_input;

/* Everything. in is read only here; the caller holds it still. */
void ot_metrics_write(const ot_metrics_input *in, ot_text *out);
/* Its part about clients (metrics-edge.c). */
void ot_metrics_write_edge(const ot_metrics_input *in, ot_text *out);

#endif
