/* Inside `otter bench`: a case, the list of them that the loaded heads and models call for, running one, and the reports.
 *
 *     bench.c          options, rounds
 *     bench-cases.c    the list
 *     bench-run.c      one round of one case: its rate, and what the engine did meanwhile
 *     bench-report.c   the table, and the same as JSON
 *     bench-profile.c  where the time of a step goes */
#ifndef OTTER_CLI_BENCH_H
#define OTTER_CLI_BENCH_H

#include "cli/intervention-flags.h"
#include "cli/session.h"
#include "engine/machine-limits.h"

#define OT_BENCH_MAX_ROUNDS 99
#define OT_BENCH_MAX_BATCH 64
#define OT_BENCH_MAX_CASES 128
#define OT_BENCH_CASE_TEXTS 8
#define OT_BENCH_MAX_SIZES 8

/* What the scheduler and its engine did in the measured part of a case, all rounds together. */
typedef struct ot_bench_tally {
    double tokens;                         /* read (prefill) or generated (decode) */
    double steps;
    double wall_s, cpu_s;                  /* on the clock, and of processor time that all threads of this process got */
    double phases_s[OT_N_STEP_PHASES];
    uint32_t n_stages;
    ot_stage_time stages[OT_STATS_MAX_STAGES];
} ot_bench_tally;

typedef struct ot_bench_case {
    char name[128];
    int baseline;                     /* index of the plain case it is compared with; -1: it is one itself */
    int prompt_case;                  /* index of the prefill case that this one's prompt is measured for; -1: none */
    bool rides;                       /* it is such a case, and not run by itself */
    uint32_t batch, n_prompt, n_decode;
    ot_cli_steering steering;         /* the flags that would ask for it, ... */
    char texts[OT_BENCH_CASE_TEXTS][160]; /* ... with their values */
    uint32_t n_texts;
    ot_intervention intervention;     /* with references */
    double rate[OT_BENCH_MAX_ROUNDS]; /* tokens a second; ascending after ot_bench_settle */
    uint64_t scored, generated, accepted;
    ot_bench_tally tally;
    double median;
} ot_bench_case;

typedef struct ot_bench_sizes {
    uint32_t prompt_tokens, decode_tokens, n_batches, n_contexts;
    uint32_t batches[OT_BENCH_MAX_SIZES];
    uint32_t contexts[OT_BENCH_MAX_SIZES]; /* tokens of the sequence when a case ends, prompt and decoded ones together */
    const char *only;                 /* cases whose names hold one of these words, comma-separated, and what they are compared with */
} ot_bench_sizes;

typedef struct ot_bench {
    ot_cli_session_options options;
    ot_cli_session session;
    int32_t *text;                    /* what prompts are cut from */
    size_t n_text;
    ot_bench_sizes sizes;
    uint32_t rounds;
    bool limits_only, profile;
    const char *json;                 /* file to write, or NULL */
    ot_pool *pool;                    /* as many threads as the scheduler's engine: for the limits */
    ot_machine_limits limits;
} ot_bench;

/* Lists and resolves the cases; returns how many, or 0 (and prints) on failure. `cases` has room for OT_BENCH_MAX_CASES; each case's
 * intervention is to be released. */
uint32_t ot_bench_list(const ot_cli_session *session, const ot_bench_sizes *sizes, ot_bench_case *cases);

/* One round of case i: fills in rate[round], of its prompt_case as well, and adds to the counters. */
ot_status ot_bench_run_case(const ot_bench *b, ot_bench_case *cases, uint32_t i, uint32_t round, ot_error *err);

/* Sorts the rates and takes their medians. */
void ot_bench_settle(const ot_bench *b, ot_bench_case *cases, uint32_t n);
/* The share of the limit that binds the case at its median rate, 0 where no limit is known. */
double ot_bench_share(const ot_machine_limits *limits, const ot_bench_case *c, ot_limit *which);
void ot_bench_print_limits(const ot_bench *b, uint32_t n_threads);
void ot_bench_print_table(const ot_bench *b, const ot_bench_case *cases, uint32_t n);
/* False (and prints) if it cannot be written. `cases` may be empty. */
bool ot_bench_write_json(const ot_bench *b, const ot_bench_case *cases, uint32_t n);
void ot_bench_print_profile(const ot_bench *b, const ot_bench_case *c);

#endif
