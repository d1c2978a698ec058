/* A loaded head or separate model, as /v1/heads and the landing page show it. */
#ifndef OTTER_SERVER_HEAD_DESCRIPTION_H
#define OTTER_SERVER_HEAD_DESCRIPTION_H

#include "scheduler/scheduler.h"
#include "base/json-text.h"

typedef struct ot_head_description {
    const char *role;           /* "insertion", "reward_model", "expert_model", "draft_model" */
    const char *kind;           /* "scalar", "generation", "lookahead" */
    uint64_t parameters;        /* of a separate model: its own and its head's */
    size_t bytes;               /* packed weights in memory, likewise */
    size_t kv_bytes_per_token;  /* of a sequence that uses it */
} ot_head_description;

void ot_head_describe(const ot_head *head, ot_head_description *out);
/* All of it as a JSON object (schema Head of api-spec/openapi.yaml). */
void ot_head_put(const ot_head *head, ot_text *out);

#endif
