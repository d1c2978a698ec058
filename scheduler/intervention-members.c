/* intervention-members.h: the rows, and what can be done with any of them. */
#include "scheduler/intervention-members.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/asserts.h"

enum { DEFAULT_RESAMPLES = 8, MAX_RESAMPLES = 64 };
#define MAX_ALPHA 100.0
#define LOWEST_TOP_P 1e-6
#define HIGHEST_SCORE 1e30

static bool has_reward(const ot_intervention *v)
{
    return v->reward;
}

static bool has_lookahead(const ot_intervention *v)
{
    return v->lookahead_keep > 0;
}

static bool decays(const ot_intervention *v)
{
    return v->decay != 0;
}

static bool ends_by_tokens(const ot_intervention *v)
{
    return v->until_tokens > 0;
}

static bool ends_by_score(const ot_intervention *v)
{
    return v->has_until_score;
}

static bool has_guard(const ot_intervention *v)
{
    return v->guard != OT_GUARD_NONE;
}

static bool resamples(const ot_intervention *v)
{
    return v->guard == OT_GUARD_RESAMPLE;
}

static bool has_experts(const ot_intervention *v)
{
    return v->experts.negative != NULL;
}

static bool has_drafts(const ot_intervention *v)
{
    return v->drafting.max_draft > 0;
}

static const char *const actions[] = {[OT_GUARD_STOP - 1] = "stop", [OT_GUARD_RESAMPLE - 1] = "resample", NULL};

#define AT(field) .offset = offsetof(ot_intervention, field)
#define GROUP(name, condition) {name, OT_MEMBER_GROUP, .offset = OT_NO_OFFSET, .is_used = condition}

static const ot_member rows[] = {
    {"reward", OT_MEMBER_GROUP, AT(reward), .is_used = has_reward},
    {"reward.heads", OT_MEMBER_WEIGHTS, .required = true, .use = OT_USE_SIGNAL},
    {"reward.candidates", OT_MEMBER_U32, AT(candidates), .low = 1, .high = OT_MAX_CANDIDATES, .otherwise = OT_DEFAULT_CANDIDATES,
     .flag = "candidates", .help = "how many tokens are scored at each step"},
    {"reward.decay", OT_MEMBER_FLOAT, AT(decay), .low = 1e-3, .high = 1, .otherwise = 1, .flag = "decay",
     .help = "weights at the t-th token are multiplied by N^t", .is_used = decays},
    {"reward.until", OT_MEMBER_GROUP, .offset = OT_NO_OFFSET, .needs_member = true, .is_used = has_reward},
    {"reward.until.tokens", OT_MEMBER_U32, AT(until_tokens), .optional = true, .low = 1, .high = 1 << 24, .flag = "until-tokens",
     .help = "steer the first N tokens alone", .is_used = ends_by_tokens},
    {"reward.until.score", OT_MEMBER_FLOAT, AT(until_score), .offset_given = offsetof(ot_intervention, has_until_score), .optional = true,
     .low = -HIGHEST_SCORE, .high = HIGHEST_SCORE, .flag = "until-score",
     .help = "steer until the weighted scores of the text reach N", .is_used = ends_by_score},
    GROUP("reward.lookahead", has_lookahead),
    {"reward.lookahead.head", OT_MEMBER_SIGNAL, AT(lookahead_signal), .required = true, .use = OT_USE_LOOKAHEAD},
    {"reward.lookahead.keep", OT_MEMBER_U32, AT(lookahead_keep), .required = true, .low = 1, .high = OT_MAX_CANDIDATES},

    GROUP("guard", has_guard),
    {"guard.head", OT_MEMBER_SIGNAL, AT(guard_signal), .required = true, .use = OT_USE_SCORE},
    {"guard.above", OT_MEMBER_FLOAT, AT(guard_above), .required = true, .low = -HIGHEST_SCORE, .high = HIGHEST_SCORE},
    {"guard.action", OT_MEMBER_ONE_OF, AT(guard), .words = actions, .otherwise = OT_GUARD_STOP},
    {"guard.max_resamples", OT_MEMBER_U32, AT(guard_max_resamples), .low = 1, .high = MAX_RESAMPLES, .otherwise = DEFAULT_RESAMPLES,
     .is_used = resamples},

    GROUP("experts", has_experts),
    {"experts.positive", OT_MEMBER_EXPERT, AT(experts.positive), .offset_output = offsetof(ot_intervention, experts.positive_output),
     .use = OT_USE_EXPERT},
    {"experts.negative", OT_MEMBER_EXPERT, AT(experts.negative), .offset_output = offsetof(ot_intervention, experts.negative_output),
     .required = true, .use = OT_USE_EXPERT},
    {"experts.alpha", OT_MEMBER_FLOAT, AT(experts.alpha), .low = -MAX_ALPHA, .high = MAX_ALPHA, .otherwise = OT_DEFAULT_ALPHA},
    {"experts.top_p", OT_MEMBER_FLOAT, AT(experts.top_p), .low = LOWEST_TOP_P, .high = 1, .otherwise = 1},

    GROUP("speculative", has_drafts),
    {"speculative.draft", OT_MEMBER_DRAFTS, .required = true, .use = OT_USE_DRAFT},
    {"speculative.max_draft", OT_MEMBER_U32, AT(drafting.max_draft), .low = 1, .high = OT_MAX_DRAFT, .otherwise = OT_DEFAULT_MAX_DRAFT},
    {"speculative.tree", OT_MEMBER_U32, AT(drafting.tree), .low = 0, .high = OT_MAX_TREE, .flag = "draft-tree",
     .help = "let a draft head guess a tree of up to so many tokens instead of a chain"},
    {"speculative.adaptive", OT_MEMBER_NOT, AT(drafting.fixed), .otherwise = 1, .flag = "draft-fixed",
     .help = "as many guesses as that, whether or not they pay"},

    {"signals", OT_MEMBER_NAMES, .use = OT_USE_SIGNAL},
};

const ot_member *ot_member_at(size_t i)
{
    return i < sizeof rows / sizeof rows[0] ? &rows[i] : NULL;
}

const ot_member *ot_member_find(const char *path)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (strcmp(rows[i].path, path) == 0)
            return &rows[i];
    return NULL;
}

const char *ot_member_name(const ot_member *m)
{
    const char *dot = strrchr(m->path, '.');
    return dot != NULL ? dot + 1 : m->path;
}

bool ot_member_is_in(const ot_member *m, const ot_member *group)
{
    const size_t above = (size_t)(ot_member_name(m) - m->path);
    if (group == NULL)
        return above == 0;
    const size_t size = strlen(group->path);
    return above == size + 1 && strncmp(m->path, group->path, size) == 0;
}

/* ---- Values ---------------------------------------------------------------------------------------------- */

double ot_member_get(const ot_member *m, const ot_intervention *v)
{
    const char *at = (const char *)v + m->offset;
    switch (m->kind) {
    case OT_MEMBER_U32:
    case OT_MEMBER_SIGNAL: return *(const uint32_t *)at;
    case OT_MEMBER_FLOAT: return (double)*(const float *)at;
    case OT_MEMBER_BOOL:
    case OT_MEMBER_GROUP: return *(const bool *)at;
    case OT_MEMBER_NOT: return !*(const bool *)at;
    case OT_MEMBER_ONE_OF: return *(const int *)at;
    case OT_MEMBER_EXPERT:
    case OT_MEMBER_WEIGHTS:
    case OT_MEMBER_NAMES:
    case OT_MEMBER_DRAFTS: break;
    }
    OT_ASSERT(!"a member without a value");
    return 0;
}

void ot_member_set(const ot_member *m, ot_intervention *v, double value)
{
    char *at = (char *)v + m->offset;
    switch (m->kind) {
    case OT_MEMBER_U32:
    case OT_MEMBER_SIGNAL: *(uint32_t *)at = (uint32_t)value; return;
    case OT_MEMBER_FLOAT:
        *(float *)at = (float)value;
        if (m->offset_given != 0)
            *((bool *)v + m->offset_given) = true;
        return;
    case OT_MEMBER_BOOL:
    case OT_MEMBER_GROUP: *(bool *)at = value != 0; return;
    case OT_MEMBER_NOT: *(bool *)at = value == 0; return;
    case OT_MEMBER_ONE_OF: *(int *)at = (int)value; return;
    case OT_MEMBER_EXPERT:
    case OT_MEMBER_WEIGHTS:
    case OT_MEMBER_NAMES:
    case OT_MEMBER_DRAFTS: break;
    }
    OT_ASSERT(!"a member without a value");
}

static bool is_plain(const ot_member *m)
{
    return m->kind == OT_MEMBER_U32 || m->kind == OT_MEMBER_FLOAT || m->kind == OT_MEMBER_BOOL || m->kind == OT_MEMBER_NOT ||
           m->kind == OT_MEMBER_ONE_OF;
}

void ot_members_default(const ot_member *group, ot_intervention *v)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (is_plain(&rows[i]) && !rows[i].required && !rows[i].optional && ot_member_is_in(&rows[i], group))
            ot_member_set(&rows[i], v, rows[i].otherwise);
}

/* Whether the row, or else its group, holds for v. */
static bool is_used(const ot_member *m, const ot_intervention *v)
{
    const ot_member *group = m;
    while (group->is_used == NULL || (group != m && !ot_member_is_in(m, group)))
        group--;
    return group->is_used(v);
}

ot_status ot_members_check_ranges(const ot_intervention *v, ot_error *err)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const ot_member *m = &rows[i];
        if ((m->kind != OT_MEMBER_U32 && m->kind != OT_MEMBER_FLOAT) || !is_used(m, v))
            continue;
        const double value = ot_member_get(m, v);
        if ((float)value >= (float)m->low && (float)value <= (float)m->high) /* false for NaN */
            continue;
        char param[64];
        snprintf(param, sizeof param, "intervention.%s", m->path);
        return ot_fail_param(err, OT_ERR_INVALID, param, "%s: expected a number from %g to %g, got %g", param, m->low, m->high, value);
    }
    return OT_OK;
}
