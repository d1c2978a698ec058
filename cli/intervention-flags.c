/* Steering from the command line: texts such as "toxicity=-4" to an ot_intervention with references to loaded heads. */
#include "cli/intervention-flags.h"

#include <stdlib.h>
#include <string.h>

#include "cli/arguments.h"

void ot_cli_steering_default(ot_cli_steering *s)
{
    memset(s, 0, sizeof *s);
    s->candidates = OT_DEFAULT_CANDIDATES;
}

bool ot_cli_steering_is(int code)
{
    return code >= OT_CLI_REWARD && code <= OT_CLI_DRAFT_FIXED;
}

void ot_cli_steering_print(FILE *to)
{
    fprintf(to,
            "  --reward NAME=WEIGHT      steer by this head: weight times score is added to log-probabilities (repeatable)\n"
            "  --candidates K            how many tokens are scored at each step (10)\n"
            "  --lookahead NAME[:KEEP]   a lookahead head picks the KEEP (2) candidates that are scored exactly\n"
            "  --experts negative=NAME[,positive=NAME][,alpha=A][,top-p=P]\n"
            "                            towards one generation head and away from another (alpha 1, all tokens)\n"
            "  --guard 'NAME>LIMIT'      refuse tokens that raise this head's score above the limit\n"
            "  --guard-resample N        try up to N other tokens before the guard ends the text (0: it ends at once)\n"
            "  --signals NAME[,NAME...]  report these heads\n"
            "  --draft NAME[:N]          guess up to N (4) tokens ahead; the text stays the same. NAME is lookup (what the text\n"
            "                            holds already), a generation head or a draft model; lookup and one other combine\n"
            "  --draft-tree N            let a draft head guess a tree of up to N tokens instead of a chain\n"
            "  --draft-fixed             as many guesses as that, whether or not they pay\n");
}

/* ---- Flags ----------------------------------------------------------------------------------------------- */

static bool add(const char **list, uint32_t *n, uint32_t max, const char *value, const char *flag, const char *command)
{
    if (*n < max) {
        list[(*n)++] = value;
        return true;
    }
    fprintf(stderr, "otter %s: %s can be given %u times at most\n", command, flag, max);
    return false;
}

/* Comma-separated names; cut in place. */
static bool add_names(ot_cli_steering *s, char *names, const char *command)
{
    for (char *save, *name = strtok_r(names, ",", &save); name != NULL; name = strtok_r(NULL, ",", &save))
        if (!add(s->signals, &s->n_signals, OT_MAX_SIGNALS, name, "--signals", command))
            return false;
    return true;
}

bool ot_cli_steering_set(ot_cli_steering *s, int code, char *value, const char *command)
{
    switch (code) {
    case OT_CLI_REWARD: return add(s->rewards, &s->n_rewards, OT_MAX_SIGNALS, value, "--reward", command);
    case OT_CLI_CANDIDATES:
        return ot_cli_parse_u32(value, "--candidates", OT_MAX_CANDIDATES, &s->candidates, command);
    case OT_CLI_LOOKAHEAD: s->lookahead = value; return true;
    case OT_CLI_EXPERTS: s->experts = value; return true;
    case OT_CLI_GUARD: s->guard = value; return true;
    case OT_CLI_GUARD_RESAMPLE:
        return ot_cli_parse_u32(value, "--guard-resample", OT_MAX_CANDIDATES - 1, &s->guard_resamples, command);
    case OT_CLI_SIGNALS: return add_names(s, value, command);
    case OT_CLI_DRAFT: return add(s->drafts, &s->n_drafts, OT_CLI_MAX_DRAFTS, value, "--draft", command);
    case OT_CLI_DRAFT_TREE: return ot_cli_parse_u32(value, "--draft-tree", OT_MAX_TREE, &s->draft_tree, command);
    case OT_CLI_DRAFT_FIXED: s->draft_fixed = true; return true;
    default: return false;
    }
}

/* ---- Names to heads -------------------------------------------------------------------------------------- */

typedef struct context {
    const ot_cli_session *session;
    ot_intervention *out;
    const char *command;
} context;

/* "toxicity=-4" or "toxicity>0.8" -> the signal's index and the number; -1 if it is not so. */
static int signal_with_number(context c, const char *spec, char sep, const char *flag, float *number)
{
    const char *at = strchr(spec, sep);
    char name[128];
    if (at == NULL || at == spec || (size_t)(at - spec) >= sizeof name) {
        fprintf(stderr, "otter %s: %s takes NAME%cNUMBER, not '%s'\n", c.command, flag, sep, spec);
        return -1;
    }
    snprintf(name, sizeof name, "%.*s", (int)(at - spec), spec);
    return ot_cli_parse_float(at + 1, flag, number, c.command) ? ot_cli_add_signal(c.session, c.out, name, c.command) : -1;
}

static bool resolve_rewards(const ot_cli_steering *s, context c)
{
    for (uint32_t i = 0; i < s->n_rewards; i++) {
        float weight;
        const int at = signal_with_number(c, s->rewards[i], '=', "--reward", &weight);
        if (at < 0)
            return false;
        c.out->signals[at].weight = weight;
        c.out->reward = true;
    }
    return true;
}

static bool resolve_guard(const ot_cli_steering *s, context c)
{
    if (s->guard == NULL)
        return true;
    const int at = signal_with_number(c, s->guard, '>', "--guard", &c.out->guard_above);
    if (at < 0)
        return false;
    c.out->guard_signal = (uint32_t)at;
    c.out->guard = s->guard_resamples > 0 ? OT_GUARD_RESAMPLE : OT_GUARD_STOP;
    c.out->guard_max_resamples = s->guard_resamples;
    return true;
}

/* "NAME:N" -> the name, and the number if there is one. */
static bool name_and_number(const char *spec, const char *flag, uint32_t max, char name[128], uint32_t *number,
                            const char *command)
{
    const char *colon = strrchr(spec, ':');
    const size_t size = colon != NULL ? (size_t)(colon - spec) : strlen(spec);
    if (size == 0 || size >= 128) {
        fprintf(stderr, "otter %s: %s takes NAME or NAME:N, not '%s'\n", command, flag, spec);
        return false;
    }
    snprintf(name, 128, "%.*s", (int)size, spec);
    return colon == NULL || ot_cli_parse_u32(colon + 1, flag, max, number, command);
}

static bool resolve_lookahead(const ot_cli_steering *s, context c)
{
    if (s->lookahead == NULL)
        return true;
    char name[128];
    uint32_t keep = 2;
    if (!name_and_number(s->lookahead, "--lookahead", OT_MAX_CANDIDATES, name, &keep, c.command))
        return false;
    const int at = ot_cli_add_signal(c.session, c.out, name, c.command);
    if (at < 0)
        return false;
    c.out->lookahead_signal = (uint32_t)at;
    c.out->lookahead_keep = keep;
    return true;
}

static bool find(context c, const char *name, ot_head **head, uint32_t *output)
{
    ot_error err;
    if (*head != NULL) {
        fprintf(stderr, "otter %s: '%s' is one head too many\n", c.command, name);
        return false;
    }
    if (ot_heads_find(c.session->heads, name, head, output, &err) == OT_OK)
        return true;
    fprintf(stderr, "otter %s: %s\n", c.command, err.message);
    return false;
}

static bool resolve_expert(context c, const char *key, const char *value)
{
    ot_experts *x = &c.out->experts;
    if (strcmp(key, "positive") == 0)
        return find(c, value, &x->positive, &x->positive_output);
    if (strcmp(key, "negative") == 0)
        return find(c, value, &x->negative, &x->negative_output);
    if (strcmp(key, "alpha") == 0)
        return ot_cli_parse_float(value, "--experts alpha", &x->alpha, c.command);
    if (strcmp(key, "top-p") == 0)
        return ot_cli_parse_float(value, "--experts top-p", &x->top_p, c.command);
    fprintf(stderr, "otter %s: --experts takes positive, negative, alpha and top-p, not '%s'\n", c.command, key);
    return false;
}

static bool resolve_experts(const ot_cli_steering *s, context c)
{
    c.out->experts.alpha = OT_DEFAULT_ALPHA;
    c.out->experts.top_p = 1;
    if (s->experts == NULL)
        return true;
    char text[512];
    if (strlen(s->experts) >= sizeof text) {
        fprintf(stderr, "otter %s: --experts is longer than %zu bytes\n", c.command, sizeof text - 1);
        return false;
    }
    strcpy(text, s->experts);
    for (char *save, *pair = strtok_r(text, ",", &save); pair != NULL; pair = strtok_r(NULL, ",", &save)) {
        char *value = strchr(pair, '=');
        if (value == NULL) {
            fprintf(stderr, "otter %s: --experts takes KEY=VALUE pairs, not '%s'\n", c.command, pair);
            return false;
        }
        *value++ = '\0';
        if (!resolve_expert(c, pair, value))
            return false;
    }
    if (c.out->experts.negative != NULL)
        return true;
    fprintf(stderr, "otter %s: --experts needs at least negative=NAME\n", c.command);
    return false;
}

static bool resolve_drafts(const ot_cli_steering *s, context c)
{
    ot_drafting *d = &c.out->drafting;
    for (uint32_t i = 0; i < s->n_drafts; i++) {
        char name[128];
        uint32_t n = OT_DEFAULT_MAX_DRAFT, output;
        if (!name_and_number(s->drafts[i], "--draft", OT_MAX_DRAFT, name, &n, c.command))
            return false;
        if (n > d->max_draft)
            d->max_draft = n;
        if (strcmp(name, "lookup") == 0)
            d->lookup = true;
        else if (!find(c, name, &d->head, &output))
            return false;
    }
    d->tree = s->draft_tree;
    d->fixed = s->draft_fixed;
    return true;
}

bool ot_cli_steering_resolve(const ot_cli_steering *s, const ot_cli_session *session, ot_intervention *out,
                             const char *command)
{
    memset(out, 0, sizeof *out);
    out->candidates = s->candidates;
    const context c = {session, out, command};
    for (uint32_t i = 0; i < s->n_signals; i++)
        if (ot_cli_add_signal(session, out, s->signals[i], command) < 0)
            return false;
    return resolve_rewards(s, c) && resolve_guard(s, c) && resolve_lookahead(s, c) && resolve_experts(s, c) &&
           resolve_drafts(s, c);
}
