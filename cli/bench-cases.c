/* The cases of `otter bench`: what the loaded heads and models can do, each in the ways that a request may ask for it.
 *
 * A scorer (scalar head, reward model, lookahead head) steers ARGS; generation heads of offset 0 and expert models shift logits, with
 * the head they stand on as the positive expert; generation heads of further offsets and a draft model guess ahead, and so does prompt
 * lookup, without any file. */
#include "cli/bench.h"

#include <stdio.h>
#include <string.h>

#define COMMAND "bench"
#define MAX_HEADS (OT_CLI_MAX_HEADS + OT_CLI_MAX_MODELS)

typedef struct list {
    ot_bench_case *cases;
    uint32_t n;
    const ot_bench_sizes *sizes;
    bool failed;
} list;

static bool is_wanted(const char *name, const char *only)
{
    for (const char *word = only; word != NULL && *word != '\0';) {
        const size_t size = strcspn(word, ",");
        char text[64];
        snprintf(text, sizeof text, "%.*s", (int)size, word);
        if (size > 0 && strstr(name, text) != NULL)
            return true;
        word += size + (word[size] == ',');
    }
    return only == NULL;
}

/* Another case like the plain one at `baseline`, with `what` after its name; NULL if nobody asked for it or the list is full. */
static ot_bench_case *add(list *l, int baseline, const char *what)
{
    const ot_bench_case *plain = &l->cases[baseline];
    char name[sizeof plain->name];
    snprintf(name, sizeof name, "%.40s, %.80s", plain->name, what);
    if (l->failed || !is_wanted(name, l->sizes->only))
        return NULL;
    if (l->n == OT_BENCH_MAX_CASES) {
        fprintf(stderr, "otter " COMMAND ": more than %d cases; --only picks some\n", OT_BENCH_MAX_CASES);
        l->failed = true;
        return NULL;
    }
    ot_bench_case *c = &l->cases[l->n++];
    memset(c, 0, sizeof *c);
    strcpy(c->name, name);
    c->baseline = baseline;
    c->prompt_case = -1;
    c->batch = plain->batch;
    c->n_prompt = plain->n_prompt;
    c->n_decode = plain->n_decode;
    ot_cli_steering_default(&c->steering);
    return c;
}

static void set(list *l, ot_bench_case *c, int code, const char *value)
{
    if (c == NULL || l->failed)
        return;
    char *text = c->texts[c->n_texts++];
    snprintf(text, sizeof c->texts[0], "%s", value);
    l->failed = !ot_cli_steering_set(&c->steering, code, text, COMMAND);
}

/* ---- What a head is good for ----------------------------------------------------------------------------- */

static const ot_insertion_spec *spec_of(const ot_head *head)
{
    return ot_head_insertion(head) != NULL ? &ot_insertion_get_info(ot_head_insertion(head))->spec : NULL;
}

static bool is_scorer(const ot_head *head)
{
    return spec_of(head) != NULL && spec_of(head)->kind == OT_HEAD_SCALAR;
}

static bool is_lookahead(const ot_head *head)
{
    return ot_head_get_role(head) == OT_ROLE_INSERTION && spec_of(head)->kind == OT_HEAD_LOOKAHEAD;
}

static bool is_expert(const ot_head *head)
{
    return ot_head_get_role(head) == OT_ROLE_EXPERT_MODEL ||
           (ot_head_get_role(head) == OT_ROLE_INSERTION && spec_of(head)->kind == OT_HEAD_GENERATION && spec_of(head)->offsets[0] == 0);
}

static bool is_draft_head(const ot_head *head)
{
    return ot_head_get_role(head) == OT_ROLE_INSERTION && spec_of(head)->kind == OT_HEAD_GENERATION && spec_of(head)->offsets[0] > 0;
}

/* ---- Cases ----------------------------------------------------------------------------------------------- */

static void add_args(list *l, int baseline, const char *name, const char *weight)
{
    char what[96], reward[160];
    snprintf(what, sizeof what, "ARGS %.48s k=10 w=%s", name, weight);
    snprintf(reward, sizeof reward, "%.96s=%s", name, weight);
    set(l, add(l, baseline, what), OT_CLI_REWARD, reward);
}

/* The first scorer at several strengths: greedy ARGS leaves out candidates that cannot win, and -100 leaves none out. */
static void add_scorer(list *l, int baseline, const char *name, bool is_first)
{
    if (is_first) {
        char what[96];
        snprintf(what, sizeof what, "signals %.48s", name);
        set(l, add(l, baseline, what), OT_CLI_SIGNALS, name);
        add_args(l, baseline, name, "-1.5");
    }
    add_args(l, baseline, name, "-4");
    add_args(l, baseline, name, "-100");
}

static void add_lookahead(list *l, int baseline, const ot_head *head)
{
    const char *name = ot_head_name(head);
    add_args(l, baseline, name, "-4");
    const ot_insertion_spec *spec = spec_of(head);
    if (spec->n_parents == 0)
        return;
    const char *exact = spec->parents[spec->n_parents - 1];
    char what[128], reward[160], keep[160];
    snprintf(what, sizeof what, "ARGS %.32s w=-4, 3 by %.32s", exact, name);
    snprintf(reward, sizeof reward, "%.64s=-4", exact);
    snprintf(keep, sizeof keep, "%.96s:3", name);
    ot_bench_case *c = add(l, baseline, what);
    set(l, c, OT_CLI_REWARD, reward);
    set(l, c, OT_CLI_LOOKAHEAD, keep);
}

static void add_experts(list *l, int baseline, const char *positive, const char *negative)
{
    char what[128], experts[160];
    if (positive != NULL) {
        snprintf(what, sizeof what, "experts %.32s against %.32s", positive, negative);
        snprintf(experts, sizeof experts, "positive=%.56s,negative=%.56s", positive, negative);
    } else {
        snprintf(what, sizeof what, "anti-expert %.48s", negative);
        snprintf(experts, sizeof experts, "negative=%.96s", negative);
    }
    set(l, add(l, baseline, what), OT_CLI_EXPERTS, experts);
}

/* A head stands on its positive expert; models are paired as they come, the second against the first. */
static void add_expert(list *l, int baseline, const ot_head *head, const char *model_before)
{
    const char *name = ot_head_name(head);
    add_experts(l, baseline, NULL, name);
    const bool is_model = ot_head_get_role(head) == OT_ROLE_EXPERT_MODEL;
    if (is_model && model_before != NULL)
        add_experts(l, baseline, model_before, name);
    else if (!is_model && spec_of(head)->n_parents > 0)
        add_experts(l, baseline, spec_of(head)->parents[spec_of(head)->n_parents - 1], name);
}

static void add_drafts(list *l, int baseline, const char *name, const char *with, const char *tree)
{
    char what[128], draft[160];
    snprintf(what, sizeof what, "drafts %.48s%s%s", name, with != NULL ? " and lookup" : "", tree != NULL ? ", tree" : "");
    snprintf(draft, sizeof draft, "%.96s:4", name);
    ot_bench_case *c = add(l, baseline, what);
    set(l, c, OT_CLI_DRAFT, draft);
    if (with != NULL)
        set(l, c, OT_CLI_DRAFT, with);
    if (tree != NULL)
        set(l, c, ot_cli_steering_code("draft-tree"), tree);
}

/* All inserted scorers at once, where there are several: what each further one costs. */
static void add_all_signals(list *l, int baseline, ot_head *const *heads, uint32_t n)
{
    uint32_t scorers[OT_BENCH_CASE_TEXTS], n_scorers = 0;
    char what[32];
    for (uint32_t i = 0; i < n && n_scorers < OT_BENCH_CASE_TEXTS; i++)
        if (is_scorer(heads[i]) && ot_head_get_role(heads[i]) == OT_ROLE_INSERTION)
            scorers[n_scorers++] = i;
    snprintf(what, sizeof what, "signals of %u heads", n_scorers);
    ot_bench_case *c = n_scorers > 1 ? add(l, baseline, what) : NULL;
    for (uint32_t i = 0; i < n_scorers; i++)
        set(l, c, OT_CLI_SIGNALS, ot_head_name(heads[scorers[i]]));
}

static void add_steered(list *l, int baseline, ot_head *const *heads, uint32_t n)
{
    bool any_scorer = false;
    const char *expert_model = NULL;
    for (uint32_t i = 0; i < n && !l->failed; i++) {
        const ot_head *head = heads[i];
        if (is_scorer(head))
            add_scorer(l, baseline, ot_head_name(head), !any_scorer);
        any_scorer = any_scorer || is_scorer(head);
        if (is_lookahead(head))
            add_lookahead(l, baseline, head);
        if (is_expert(head))
            add_expert(l, baseline, head, expert_model);
        if (ot_head_get_role(head) == OT_ROLE_EXPERT_MODEL)
            expert_model = ot_head_name(head);
    }
    add_all_signals(l, baseline, heads, n);
    add_drafts(l, baseline, "lookup", NULL, NULL);
    for (uint32_t i = 0; i < n && !l->failed; i++) {
        if (!is_draft_head(heads[i]) && ot_head_get_role(heads[i]) != OT_ROLE_DRAFT_MODEL)
            continue;
        add_drafts(l, baseline, ot_head_name(heads[i]), NULL, NULL);
        if (is_draft_head(heads[i]))
            add_drafts(l, baseline, ot_head_name(heads[i]), NULL, "24");
        add_drafts(l, baseline, ot_head_name(heads[i]), "lookup:4", NULL);
    }
}

/* ---- The list -------------------------------------------------------------------------------------------- */

static int add_plain(list *l, const char *name, uint32_t batch, uint32_t n_prompt, uint32_t n_decode)
{
    if (l->n == OT_BENCH_MAX_CASES) {
        l->failed = true;
        return 0;
    }
    ot_bench_case *c = &l->cases[l->n];
    memset(c, 0, sizeof *c);
    snprintf(c->name, sizeof c->name, "%s", name);
    c->baseline = c->prompt_case = -1;
    c->batch = batch;
    c->n_prompt = n_prompt;
    c->n_decode = n_decode;
    ot_cli_steering_default(&c->steering);
    return (int)l->n++;
}

/* One sequence up to `context` tokens: decoding at its end, and on the way there its prompt. */
static void add_context(list *l, uint32_t context, uint32_t n_decode)
{
    char name[64];
    snprintf(name, sizeof name, "prefill, context %u", context);
    const int prompt = add_plain(l, name, 1, context - n_decode, 1);
    snprintf(name, sizeof name, "decode, context %u", context);
    const int decode = add_plain(l, name, 1, context - n_decode, n_decode);
    if (l->failed)
        return;
    l->cases[prompt].rides = true;
    l->cases[decode].prompt_case = prompt;
}

uint32_t ot_bench_list(const ot_cli_session *session, const ot_bench_sizes *sizes, ot_bench_case *cases)
{
    list l = {.cases = cases, .sizes = sizes};
    ot_head *heads[MAX_HEADS];
    const uint32_t n = ot_heads_list(session->heads, heads, MAX_HEADS);
    const int prefill = add_plain(&l, "prefill", 1, sizes->prompt_tokens, 1);
    for (uint32_t i = 0; i < n; i++)
        if (is_scorer(heads[i])) {
            set(&l, add(&l, prefill, "signals"), OT_CLI_SIGNALS, ot_head_name(heads[i]));
            break;
        }
    for (uint32_t i = 0; i < sizes->n_batches && !l.failed; i++) {
        char name[64];
        snprintf(name, sizeof name, "decode, batch %u", sizes->batches[i]);
        add_steered(&l, add_plain(&l, name, sizes->batches[i], 32, sizes->decode_tokens), heads, n);
    }
    for (uint32_t i = 0; i < sizes->n_contexts && !l.failed; i++)
        add_context(&l, sizes->contexts[i], sizes->decode_tokens);
    for (uint32_t i = 0; i < n; i++)
        ot_head_release(&heads[i]);
    if (l.failed)
        return 0;
    for (uint32_t i = 0; i < l.n; i++)
        if (!ot_cli_steering_resolve(&cases[i].steering, session, &cases[i].intervention, COMMAND))
            return 0;
    return l.n;
}
