/* Names of heads to references: each use of a head wants a kind, and a name of another kind is refused by the field that holds
 * it. */
#include "server/api-context.h"

#include <string.h>

static const ot_insertion_spec *spec_of(const ot_head *head)
{
    const ot_insertion *insertion = ot_head_insertion(head);
    return insertion ? &ot_insertion_get_info(insertion)->spec : NULL;
}

/* The first output with an offset of at least min, and at most max; n_outputs if there is none. */
static uint32_t find_offset(const ot_insertion_spec *spec, uint32_t min, uint32_t max)
{
    uint32_t i = 0;
    while (i < spec->n_outputs && (spec->offsets[i] < min || spec->offsets[i] > max))
        i++;
    return i;
}

bool ot_head_serves(const ot_head *head, ot_head_use use)
{
    const ot_insertion_spec *spec = spec_of(head);
    ot_head_role role = ot_head_get_role(head);
    bool inserted = role == OT_ROLE_INSERTION && spec, generates = inserted && spec->kind == OT_HEAD_GENERATION;
    bool scores = role == OT_ROLE_REWARD_MODEL || (inserted && spec->kind == OT_HEAD_SCALAR);
    bool looks_ahead = inserted && spec->kind == OT_HEAD_LOOKAHEAD;
    switch (use) {
    case OT_USE_SCORE: return scores;
    case OT_USE_SIGNAL: return scores || looks_ahead;
    case OT_USE_LOOKAHEAD: return looks_ahead;
    case OT_USE_EXPERT:
        return role == OT_ROLE_EXPERT_MODEL || (generates && find_offset(spec, 0, 0) < spec->n_outputs);
    case OT_USE_DRAFT:
        return role == OT_ROLE_DRAFT_MODEL || (generates && find_offset(spec, 1, UINT32_MAX) < spec->n_outputs);
    }
    return false;
}

static const char *wanted(ot_head_use use)
{
    switch (use) {
    case OT_USE_SCORE: return "a scalar head or a reward model";
    case OT_USE_SIGNAL: return "a scalar head, a lookahead head or a reward model";
    case OT_USE_LOOKAHEAD: return "a lookahead head";
    case OT_USE_EXPERT: return "a generation head with offset 0 or an expert model";
    case OT_USE_DRAFT: return "a generation head with offsets from 1 on or the draft model";
    }
    return "another head";
}

ot_status ot_resolve_head(const ot_api_context *api, ot_fields f, const char *name, const char *to_find, ot_head_use use,
                          ot_head **head, uint32_t *output, ot_error *err)
{
    ot_error cause;
    *head = NULL;
    *output = 0;
    if (!api->heads || ot_heads_find(api->heads, to_find, head, output, &cause))
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, "names a head that is not loaded: '%.100s'", to_find);
    const ot_insertion_spec *spec = spec_of(*head);
    bool labelled = strchr(to_find, '/') != NULL;
    bool fits = ot_head_serves(*head, use) && !(labelled && use == OT_USE_DRAFT);
    if (fits && use == OT_USE_EXPERT && spec) {
        if (!labelled)
            *output = find_offset(spec, 0, 0);
        fits = spec->offsets[*output] == 0;
    }
    if (fits)
        return OT_OK;
    ot_head_release(head);
    return ot_fields_fail(f, name, OT_ERR_INVALID, err, "needs %s, and '%.100s' is none", wanted(use), to_find);
}
