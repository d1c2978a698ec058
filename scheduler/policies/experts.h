/* Experts: logits shifted before anything is chosen (Liu et al. 2021; method: eq. 4, 5). See experts.c. */
#ifndef OTTER_SCHEDULER_POLICIES_EXPERTS_H
#define OTTER_SCHEDULER_POLICIES_EXPERTS_H

#include "scheduler/policies/policy.h"

/* Maps the buffers; memory is taken only where requests with experts write. Closing takes what was never opened. */
ot_status ot_experts_open(ot_decoder *d, ot_error *err);
void ot_experts_close(ot_decoder *d);

/* A row of a logits group whose request has experts. */
typedef struct ot_steered_row {
    const ot_request *request;
    float *raw;        /* logits->raw, before the base's cap; after the call it has been put on */
    ot_logits *logits; /* raw and row are there; steered is to be set. Valid until the next call */
} ot_steered_row;
/* Steers n rows (at most OT_LOGIT_ROWS) of the last batch: all heads of all rows in one run of the pool where they fit. A row that cannot
 * be steered, such as one whose experts gave something else than finite numbers, has steered == NULL then, and err says why. */
void ot_experts_steer(ot_decoder *d, const ot_steered_row *rows, uint32_t n, ot_error *err);

#endif
