/* Categories of /v1/moderations: OpenAI's, and those that a configuration or a head's labels add; which head judges each, and above which
 * score it is flagged. A category without a head is answered, with a score of 0, and never flagged. */
#ifndef OTTER_SERVER_MODERATION_H
#define OTTER_SERVER_MODERATION_H

#include "base/json-text.h"
#include "server/api-context.h"

#define OT_MAX_CATEGORIES 64

typedef struct ot_category {
    const char *name;
    const char *head; /* "toxicity" or "policy/label"; NULL: nothing judges it */
    float above;
    uint32_t signal;  /* of the request's intervention, once its head is there */
} ot_category;

typedef struct ot_categories {
    uint32_t n;
    ot_category items[OT_MAX_CATEGORIES];
} ot_categories;

/* Reads the configuration's map: category -> head, or {head, above} with the threshold where `above` is missing. Names are copied to the
 * arena. */
ot_status ot_categories_read(ot_categories *out, ot_arena *arena, const char *json, float threshold, ot_error *err);
/* Without a configuration: the head's labels are categories, or its name if it has one output, which then also answers for OpenAI's
 * `harassment`: what is rude or hostile to somebody. Names are copied to the arena. */
ot_status ot_categories_of_head(ot_categories *out, const ot_api_context *api, ot_arena *arena, const char *head, float threshold,
                                ot_error *err);
/* Adds the heads to what a request reports. OT_ERR_NOT_FOUND for one that is not loaded. */
ot_status ot_categories_resolve(ot_categories *categories, const ot_api_context *api, ot_intervention *out, ot_error *err);
/* One result in OpenAI's shape. `scores` has a score for each signal. */
void ot_categories_put(const ot_categories *categories, const float *scores, ot_text *out);

#endif
