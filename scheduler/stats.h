/* What the scheduler counts, for /metrics: plain numbers, copied out under a lock. Names and buckets of the histograms that vLLM has
 * are vLLM's (api.md, Metrics); the server only formats them. */
#ifndef OTTER_SCHEDULER_STATS_H
#define OTTER_SCHEDULER_STATS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"

#define OT_HISTOGRAM_MAX_BUCKETS 32

typedef struct ot_histogram {
    const double *bounds;      /* upper bounds, ascending; static storage; +Inf is implied */
    uint32_t n_bounds;
    uint64_t counts[OT_HISTOGRAM_MAX_BUCKETS + 1]; /* not cumulative; the last is +Inf */
    double sum;
    uint64_t count;
} ot_histogram;
void ot_histogram_init(ot_histogram *h, const double *bounds, uint32_t n_bounds);
void ot_histogram_observe(ot_histogram *h, double value);

/* How a choice ended; names are those that clients and metrics get. */
typedef enum ot_finish {
    OT_FINISH_NONE,      /* still running; no name */
    OT_FINISH_STOP,      /* "stop": end of text, or a stop string or token */
    OT_FINISH_LENGTH,    /* "length": max_tokens or the context */
    OT_FINISH_FILTER,    /* "content_filter": guard */
    OT_FINISH_CANCELLED, /* "abort" */
    OT_FINISH_ERROR,     /* "error": ot_request_error tells */
    OT_N_FINISHES
} ot_finish;
extern const char *const ot_finish_names[OT_N_FINISHES]; /* NULL for OT_FINISH_NONE */

enum { OT_PHASE_QUEUE, OT_PHASE_PREFILL, OT_PHASE_DECODE, OT_PHASE_CANDIDATES, OT_N_PHASES };   /* cancelled{phase} */
enum { OT_STEP_SCHEDULE, OT_STEP_FORWARD, OT_STEP_POLICY, OT_STEP_PROJECT, OT_STEP_OUTPUT, OT_N_STEP_PHASES };
enum { OT_MODE_REWARD, OT_MODE_EXPERTS, OT_MODE_GUARD, OT_MODE_SIGNALS, OT_MODE_SPECULATIVE, OT_N_MODES };
enum { OT_REJECT_QUEUE_FULL, OT_REJECT_TOO_LONG, OT_REJECT_DRAINING, OT_REJECT_INVALID, OT_N_REJECTS };
enum { OT_WAIT_CAPACITY, OT_WAIT_DEFERRED, OT_N_WAITS }; /* for a place and pages; for its own reader */
extern const char *const ot_phase_names[OT_N_PHASES];           /* "queue", "prefill", "decode", "candidates" */
extern const char *const ot_step_phase_names[OT_N_STEP_PHASES]; /* "schedule", "forward", ... */
extern const char *const ot_mode_names[OT_N_MODES];             /* "reward", ... */
extern const char *const ot_reject_names[OT_N_REJECTS];
extern const char *const ot_wait_names[OT_N_WAITS];             /* "capacity", "deferred" */

#define OT_STATS_MAX_HEADS 32
#define OT_STATS_MAX_STAGES 16
#define OT_STATS_DRAFT_POSITIONS 16 /* OT_MAX_DRAFT */

typedef struct ot_stats {
    uint32_t requests_running, requests_waiting[OT_N_WAITS];
    uint64_t kv_units_total, kv_units_used; /* used: held by sequences, not merely cached */
    size_t kv_unit_bytes;
    uint64_t companion_units_total, companion_units_used; /* of all separate models together */
    uint32_t page_tokens;
    uint64_t prompt_tokens, generation_tokens, preemptions;
    uint64_t prefix_cache_queries, prefix_cache_hits; /* tokens */
    uint64_t finished[OT_N_FINISHES]; /* requests, by the last of these that one of its choices ended with */
    uint64_t cancelled[OT_N_PHASES];
    uint64_t rejected[OT_N_REJECTS];
    uint64_t draft_turns, draft_tokens, accepted_tokens; /* turns with at least one guess */
    uint64_t accepted_at[OT_STATS_DRAFT_POSITIONS];     /* accepted guesses by how far ahead they were; each counts in accepted_tokens */
    uint64_t candidates_scored;
    uint64_t constrained_requests, constraint_masks; /* masks: positions that were decided under a grammar ... */
    double constraint_s;                             /* ... and the time that finding their masks took */
    uint64_t intervention_requests[OT_N_MODES], intervention_changed[OT_N_MODES];
    ot_histogram time_to_first_token_s, inter_token_latency_s, e2e_latency_s, queue_time_s;
    /* Once for each request that ended, over all its choices; times from admission on for those that were admitted. */
    ot_histogram prefill_time_s, decode_time_s, inference_time_s; /* to the first token, from there to the last, to the end */
    ot_histogram time_per_output_token_s;                         /* of the longest choice, with at least two tokens */
    ot_histogram request_prompt_tokens, request_generation_tokens, request_longest_tokens;
    ot_histogram request_choices, request_max_tokens;             /* as asked for, cut to the context */
    ot_histogram iteration_tokens;
    ot_histogram step_s[OT_N_STEP_PHASES];
    uint32_t n_stages;
    ot_stage_time stages[OT_STATS_MAX_STAGES]; /* of the base's engine; separate models have engines of their own */
    uint32_t n_heads;
    struct {
        char name[64], file[64]; /* as loaded; the file without folder and ending, "" for a separate model */
        ot_histogram score;
        uint64_t running_requests;
    } heads[OT_STATS_MAX_HEADS];
} ot_stats;

#endif
