/* Inside `otter bench`: a case, and the list of them that the loaded heads and models call for. */
#ifndef OTTER_CLI_BENCH_H
#define OTTER_CLI_BENCH_H

#include "cli/intervention-flags.h"
#include "cli/session.h"

#define OT_BENCH_MAX_ROUNDS 99
#define OT_BENCH_MAX_BATCH 64
#define OT_BENCH_MAX_CASES 128
#define OT_BENCH_CASE_TEXTS 4

typedef struct ot_bench_case {
    char name[128];
    int baseline;                     /* index of the plain case it is compared with; -1: it is one itself */
    uint32_t batch, n_prompt, n_decode;
    ot_cli_steering steering;         /* the flags that would ask for it, ... */
    char texts[OT_BENCH_CASE_TEXTS][160]; /* ... with their values */
    uint32_t n_texts;
    ot_intervention intervention;     /* with references */
    double rate[OT_BENCH_MAX_ROUNDS]; /* tokens a second */
    uint64_t scored, generated, accepted;
    double median;
} ot_bench_case;

typedef struct ot_bench_sizes {
    uint32_t prompt_tokens, decode_tokens, n_batches;
    uint32_t batches[8];
    const char *only;                 /* cases whose names hold one of these words, comma-separated, and what they are compared with */
} ot_bench_sizes;

/* Lists and resolves the cases; returns how many, or 0 (and prints) on failure. `cases` has room for OT_BENCH_MAX_CASES; each case's
 * intervention is to be released. */
uint32_t ot_bench_list(const ot_cli_session *session, const ot_bench_sizes *sizes, ot_bench_case *cases);

#endif
