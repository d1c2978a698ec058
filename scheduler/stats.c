/* Histograms and the names of what is counted. */
#include "scheduler/stats.h"

void ot_histogram_init(ot_histogram *h, const double *bounds, uint32_t n_bounds)
{
    *h = (ot_histogram){.bounds = bounds,
                        .n_bounds = n_bounds < OT_HISTOGRAM_MAX_BUCKETS ? n_bounds : OT_HISTOGRAM_MAX_BUCKETS};
}

void ot_histogram_observe(ot_histogram *h, double value)
{
    uint32_t i = 0;
    while (i < h->n_bounds && value > h->bounds[i])
        i++;
    h->counts[i]++;
    h->sum += value;
    h->count++;
}

const char *const ot_phase_names[OT_N_PHASES] = {"queue", "prefill", "decode", "candidates"};
const char *const ot_step_phase_names[OT_N_STEP_PHASES] = {"schedule", "forward", "policy", "project", "output"};
const char *const ot_mode_names[OT_N_MODES] = {"reward", "experts", "guard", "signals", "speculative"};
const char *const ot_finish_names[OT_N_FINISHES] = {NULL, "stop", "length", "content_filter", "abort", "error"};
const char *const ot_reject_names[OT_N_REJECTS] = {"queue_full", "too_long", "draining", "invalid"};
const char *const ot_wait_names[OT_N_WAITS] = {"capacity", "deferred"};
