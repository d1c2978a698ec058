/* Steering from the command line: texts such as "toxicity=-4" to the JSON object that a client would send, and that to an ot_intervention
 * with references to loaded heads. */
#include "cli/intervention-flags.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "cli/arguments.h"
#include "server/api-context.h"

#define DEFAULT_KEEP 2
#define MAX_OPTIONS 96

void ot_cli_steering_default(ot_cli_steering *s)
{
    memset(s, 0, sizeof *s);
}

bool ot_cli_steering_is(int code)
{
    return code >= OT_CLI_REWARD && code < OT_CLI_MEMBER + OT_CLI_MAX_MEMBERS;
}

static bool takes_value(const ot_member *m)
{
    return m->kind != OT_MEMBER_BOOL && m->kind != OT_MEMBER_NOT;
}

/* ---- Options and help ------------------------------------------------------------------------------------ */

static const struct option written_out[] = {
    {"reward", required_argument, NULL, OT_CLI_REWARD},
    {"lookahead", required_argument, NULL, OT_CLI_LOOKAHEAD},
    {"experts", required_argument, NULL, OT_CLI_EXPERTS},
    {"guard", required_argument, NULL, OT_CLI_GUARD},
    {"guard-resample", required_argument, NULL, OT_CLI_GUARD_RESAMPLE},
    {"signals", required_argument, NULL, OT_CLI_SIGNALS},
    {"draft", required_argument, NULL, OT_CLI_DRAFT},
    {"intervention", required_argument, NULL, OT_CLI_INTERVENTION},
};

const struct option *ot_cli_steering_options(const struct option *own)
{
    static struct option all[MAX_OPTIONS];
    size_t n = 0;
    const ot_member *m;
    for (; own->name != NULL && n < MAX_OPTIONS - 1; own++)
        all[n++] = *own;
    for (size_t i = 0; i < sizeof written_out / sizeof written_out[0] && n < MAX_OPTIONS - 1; i++)
        all[n++] = written_out[i];
    for (size_t i = 0; (m = ot_member_at(i)) != NULL && n < MAX_OPTIONS - 1; i++)
        if (m->flag != NULL)
            all[n++] = (struct option){m->flag, takes_value(m) ? required_argument : no_argument, NULL, OT_CLI_MEMBER + (int)i};
    all[n] = (struct option){0};
    return all;
}

int ot_cli_steering_code(const char *flag)
{
    const ot_member *m;
    for (size_t i = 0; (m = ot_member_at(i)) != NULL; i++)
        if (m->flag != NULL && strcmp(m->flag, flag) == 0)
            return OT_CLI_MEMBER + (int)i;
    return -1;
}

static void print_member(FILE *to, const ot_member *m)
{
    char flag[64], standard[32] = "";
    snprintf(flag, sizeof flag, "--%s%s", m->flag, takes_value(m) ? " N" : "");
    if (takes_value(m) && !m->optional)
        snprintf(standard, sizeof standard, " (%g)", m->otherwise);
    fprintf(to, "  %-25s %s%s\n", flag, m->help, standard);
}

void ot_cli_steering_print(FILE *to)
{
    const ot_member *m;
    fprintf(to,
            "  --reward NAME=WEIGHT      steer by this head: weight times score is added to log-probabilities (repeatable)\n"
            "  --lookahead NAME[:KEEP]   a lookahead head picks the KEEP (2) candidates that are scored exactly\n"
            "  --experts negative=NAME[,positive=NAME][,alpha=A][,top-p=P]\n"
            "                            towards one generation head and away from another (alpha %g, all tokens)\n"
            "  --guard 'NAME>LIMIT'      refuse tokens that raise this head's score above the limit\n"
            "  --guard-resample N        try up to N other tokens before the guard ends the text (0: it ends at once)\n"
            "  --signals NAME[,NAME...]  report these heads\n"
            "  --draft NAME[:N]          guess up to N (4) tokens ahead; the text stays the same. NAME is lookup (what the text\n"
            "                            holds already), a generation head or a draft model; lookup and one other combine\n",
            (double)OT_DEFAULT_ALPHA);
    for (size_t i = 0; (m = ot_member_at(i)) != NULL; i++)
        if (m->flag != NULL)
            print_member(to, m);
    fprintf(to, "  --intervention JSON       an object as requests have it; flags add to it and come before it\n");
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

/* The value of a plain member as JSON; NULL (and prints) if it cannot be. */
static json_t *member_value(const ot_member *m, const char *value, const char *command)
{
    char flag[64];
    uint32_t number;
    float real;
    snprintf(flag, sizeof flag, "--%s", m->flag);
    switch (m->kind) {
    case OT_MEMBER_BOOL: return json_true();
    case OT_MEMBER_NOT: return json_false();
    case OT_MEMBER_U32: return ot_cli_parse_u32(value, flag, (uint32_t)m->high, &number, command) ? json_integer(number) : NULL;
    case OT_MEMBER_FLOAT: return ot_cli_parse_float(value, flag, &real, command) ? json_real((double)real) : NULL;
    default: return json_string(value);
    }
}

static bool set_member(ot_cli_steering *s, size_t row, const char *value, const char *command)
{
    json_t *read = member_value(ot_member_at(row), value, command);
    s->members[row] = value != NULL ? value : "";
    json_decref(read);
    return read != NULL;
}

bool ot_cli_steering_set(ot_cli_steering *s, int code, char *value, const char *command)
{
    switch (code) {
    case OT_CLI_REWARD: return add(s->rewards, &s->n_rewards, OT_MAX_SIGNALS, value, "--reward", command);
    case OT_CLI_LOOKAHEAD: s->lookahead = value; return true;
    case OT_CLI_EXPERTS: s->experts = value; return true;
    case OT_CLI_GUARD: s->guard = value; return true;
    case OT_CLI_GUARD_RESAMPLE:
        return ot_cli_parse_u32(value, "--guard-resample", OT_MAX_CANDIDATES - 1, &s->guard_resamples, command);
    case OT_CLI_SIGNALS: return add_names(s, value, command);
    case OT_CLI_DRAFT: return add(s->drafts, &s->n_drafts, OT_CLI_MAX_DRAFTS, value, "--draft", command);
    case OT_CLI_INTERVENTION: s->object = value; return true;
    default: return ot_cli_steering_is(code) && set_member(s, (size_t)(code - OT_CLI_MEMBER), value, command);
    }
}

/* ---- Flags to JSON ----------------------------------------------------------------------------------------- */

/* The object to build, and whose flags they are. */
typedef struct builder {
    json_t *object;
    const char *command;
} builder;

/* The object at a path of groups, made where it is not there yet. */
static json_t *group_at(const builder *b, const char *path)
{
    json_t *at = b->object;
    while (*path != '\0') {
        char name[64];
        const size_t size = strcspn(path, ".");
        snprintf(name, sizeof name, "%.*s", (int)size, path);
        json_t *below = json_object_get(at, name);
        if (!json_is_object(below)) {
            below = json_object();
            json_object_set_new(at, name, below);
        }
        at = below;
        path += size + (path[size] == '.');
    }
    return at;
}

static void put(const builder *b, const char *group, const char *name, json_t *value)
{
    json_object_set_new(group_at(b, group), name, value);
}

/* "toxicity=-4" or "toxicity>0.8": the name before the sign and the number behind it. */
static bool name_with_number(const builder *b, const char *spec, char sign, const char *flag, char name[128], float *number)
{
    const char *at = strchr(spec, sign);
    if (at == NULL || at == spec || (size_t)(at - spec) >= 128) {
        fprintf(stderr, "otter %s: %s: expected NAME%cNUMBER, got '%s'\n", b->command, flag, sign, spec);
        return false;
    }
    snprintf(name, 128, "%.*s", (int)(at - spec), spec);
    return ot_cli_parse_float(at + 1, flag, number, b->command);
}

/* "NAME:N": the name, and the number if there is one. */
static bool name_with_count(const builder *b, const char *spec, const char *flag, uint32_t max, char name[128], uint32_t *number)
{
    const char *colon = strrchr(spec, ':');
    const size_t size = colon != NULL ? (size_t)(colon - spec) : strlen(spec);
    if (size == 0 || size >= 128) {
        fprintf(stderr, "otter %s: %s: expected NAME or NAME:N, got '%s'\n", b->command, flag, spec);
        return false;
    }
    snprintf(name, 128, "%.*s", (int)size, spec);
    return colon == NULL || ot_cli_parse_u32(colon + 1, flag, max, number, b->command);
}

static bool put_rewards(const builder *b, const ot_cli_steering *s)
{
    for (uint32_t i = 0; i < s->n_rewards; i++) {
        char name[128];
        float weight;
        if (!name_with_number(b, s->rewards[i], '=', "--reward", name, &weight))
            return false;
        put(b, "reward.heads", name, json_real((double)weight));
    }
    return true;
}

static bool put_guard(const builder *b, const ot_cli_steering *s)
{
    char name[128];
    float limit;
    if (s->guard == NULL)
        return true;
    if (!name_with_number(b, s->guard, '>', "--guard", name, &limit))
        return false;
    put(b, "guard", "head", json_string(name));
    put(b, "guard", "above", json_real((double)limit));
    if (s->guard_resamples > 0) {
        put(b, "guard", "action", json_string("resample"));
        put(b, "guard", "max_resamples", json_integer(s->guard_resamples));
    }
    return true;
}

static bool put_lookahead(const builder *b, const ot_cli_steering *s)
{
    char name[128];
    uint32_t keep = DEFAULT_KEEP;
    if (s->lookahead == NULL)
        return true;
    if (!name_with_count(b, s->lookahead, "--lookahead", OT_MAX_CANDIDATES, name, &keep))
        return false;
    put(b, "reward.lookahead", "head", json_string(name));
    put(b, "reward.lookahead", "keep", json_integer(keep));
    return true;
}

static bool put_expert(const builder *b, const char *key, const char *value)
{
    float number;
    if (strcmp(key, "positive") == 0 || strcmp(key, "negative") == 0) {
        put(b, "experts", key, json_string(value));
        return true;
    }
    if (strcmp(key, "alpha") != 0 && strcmp(key, "top-p") != 0) {
        fprintf(stderr, "otter %s: --experts: expected positive, negative, alpha or top-p, got '%s'\n", b->command, key);
        return false;
    }
    if (!ot_cli_parse_float(value, key[0] == 'a' ? "--experts alpha" : "--experts top-p", &number, b->command))
        return false;
    put(b, "experts", key[0] == 'a' ? "alpha" : "top_p", json_real((double)number));
    return true;
}

static bool put_experts(const builder *b, const ot_cli_steering *s)
{
    char text[512];
    if (s->experts == NULL)
        return true;
    if (strlen(s->experts) >= sizeof text) {
        fprintf(stderr, "otter %s: --experts is longer than %zu bytes\n", b->command, sizeof text - 1);
        return false;
    }
    strcpy(text, s->experts);
    for (char *save, *pair = strtok_r(text, ",", &save); pair != NULL; pair = strtok_r(NULL, ",", &save)) {
        char *value = strchr(pair, '=');
        if (value == NULL) {
            fprintf(stderr, "otter %s: --experts: expected KEY=VALUE pairs, got '%s'\n", b->command, pair);
            return false;
        }
        *value++ = '\0';
        if (!put_expert(b, pair, value))
            return false;
    }
    return true;
}

static bool put_drafts(const builder *b, const ot_cli_steering *s)
{
    uint32_t most = 0;
    json_t *names = json_array();
    for (uint32_t i = 0; i < s->n_drafts; i++) {
        char name[128];
        uint32_t n = OT_DEFAULT_MAX_DRAFT;
        if (!name_with_count(b, s->drafts[i], "--draft", OT_MAX_DRAFT, name, &n)) {
            json_decref(names);
            return false;
        }
        most = n > most ? n : most;
        json_array_append_new(names, json_string(name));
    }
    if (s->n_drafts == 0) {
        json_decref(names);
        return true;
    }
    put(b, "speculative", "draft", names);
    put(b, "speculative", "max_draft", json_integer(most));
    return true;
}

static void put_members(const builder *b, const ot_cli_steering *s)
{
    const ot_member *m;
    for (size_t i = 0; (m = ot_member_at(i)) != NULL; i++) {
        char group[64];
        if (s->members[i] == NULL)
            continue;
        const int size = (int)(ot_member_name(m) - m->path);
        snprintf(group, sizeof group, "%.*s", size > 0 ? size - 1 : 0, m->path);
        put(b, group, ot_member_name(m), member_value(m, s->members[i], b->command));
    }
}

static json_t *read_object(const char *text, const char *command)
{
    json_error_t cause;
    json_t *object = text != NULL ? json_loads(text, JSON_REJECT_DUPLICATES, &cause) : json_object();
    if (json_is_object(object))
        return object;
    fprintf(stderr, "otter %s: --intervention: expected a JSON object%s%s\n", command, object == NULL ? ": " : "",
            object == NULL ? cause.text : "");
    json_decref(object);
    return NULL;
}

bool ot_cli_steering_resolve(const ot_cli_steering *s, const ot_cli_session *session, ot_intervention *out, const char *command)
{
    memset(out, 0, sizeof *out);
    const builder b = {read_object(s->object, command), command};
    if (b.object == NULL)
        return false;
    bool good = put_rewards(&b, s) && put_guard(&b, s) && put_lookahead(&b, s) && put_experts(&b, s) && put_drafts(&b, s);
    if (good)
        put_members(&b, s);
    if (good && s->n_signals > 0) {
        json_t *names = json_array();
        for (uint32_t i = 0; i < s->n_signals; i++)
            json_array_append_new(names, json_string(s->signals[i]));
        put(&b, "", "signals", names);
    }
    ot_error err;
    static const ot_api_defaults none; /* flags say everything: there is no server that drafts by default */
    const ot_api_context api = {.heads = session->heads, .defaults = &none};
    if (good && ot_parse_intervention(&api, NULL, b.object, out, &err) != OT_OK) {
        fprintf(stderr, "otter %s: %s\n", command, err.message);
        good = false;
    }
    json_decref(b.object);
    return good;
}
