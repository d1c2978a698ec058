/* The files that tests/golden/make_golden.py writes: a manifest of cases, and for each the results to expect.
 * The format is drawn in that script. */
#ifndef OTTER_TESTS_SUPPORT_GOLDEN_FILE_H
#define OTTER_TESTS_SUPPORT_GOLDEN_FILE_H

#include <stdbool.h>
#include <stdint.h>

#define OT_GOLDEN_MAX_CASES 128
#define OT_GOLDEN_MAX_INSERTIONS 8
#define OT_GOLDEN_MAX_PARENTS 4

typedef struct ot_golden_insertion {
    char name[64];
    char path[512];
    uint32_t n_parents;
    uint32_t parents[OT_GOLDEN_MAX_PARENTS]; /* indices of earlier insertions of the case */
} ot_golden_insertion;

typedef struct ot_golden_case {
    char name[64];
    char model_path[512];
    char expected_path[512];
    uint32_t n_insertions;
    ot_golden_insertion insertions[OT_GOLDEN_MAX_INSERTIONS];
    double score_tolerance, logit_tolerance;           /* with float32 keys and values */
    double half_score_tolerance, half_logit_tolerance; /* with half-precision ones */
} ot_golden_case;

typedef struct ot_golden_manifest {
    uint32_t n_cases;
    ot_golden_case cases[OT_GOLDEN_MAX_CASES];
} ot_golden_manifest;

/* Paths come out relative to the current folder. false: a message was printed. */
bool ot_golden_read_manifest(ot_golden_manifest *manifest, const char *folder);

typedef struct ot_golden_expected {
    uint32_t n_tokens, n_vocab, n_insertions, n_candidates;
    uint32_t position;              /* of the candidates */
    const uint32_t *widths;         /* (n_insertions) of scores: outputs, or outputs * n_vocab of heads with a value for every token */
    const int32_t *tokens;          /* (n_tokens) */
    const float *logits;            /* (n_tokens, n_vocab) */
    const float *scores[OT_GOLDEN_MAX_INSERTIONS];           /* (n_tokens, widths[i]) */
    const float *half_logits;       /* the same with keys and values in half precision */
    const float *half_scores[OT_GOLDEN_MAX_INSERTIONS];
    const int32_t *candidates;      /* (n_candidates); the first is tokens[position] */
    const float *candidate_logits;  /* (n_candidates, n_vocab) */
    const float *candidate_scores[OT_GOLDEN_MAX_INSERTIONS]; /* (n_candidates, widths[i]) */
    void *data;                     /* owns all of the above */
} ot_golden_expected;

/* false: a message was printed. Close either way. */
bool ot_golden_read_expected(ot_golden_expected *expected, const char *path);
void ot_golden_close_expected(ot_golden_expected *expected);

#endif
