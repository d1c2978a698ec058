/* The options of `otter init` and `otter train`: one table gives flags, YAML keys, help and types. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/option-value.h"
#include "base/yaml-tree.h"
#include "train/train-internal.h"

typedef enum kind { TEXT, TEXTS, UINT, NUMBER, SEED, SWITCH } kind;

typedef struct option {
    const char *name;
    kind kind;
    size_t at;            /* offset of the field */
    size_t size;          /* TEXT: bytes; TEXTS: entries */
    size_t count_at;      /* TEXTS: offset of the count */
    double min, max;      /* NUMBER, UINT */
    bool init;            /* an option of init, too */
    const char *what;
} option;

#define FIELD(f) offsetof(ot_train_options, f)
#define SIZE(f) sizeof(((ot_train_options *)0)->f)
#define TEXT_OPTION(name, f, init, what) {name, TEXT, FIELD(f), SIZE(f), 0, 0, 0, init, what}
#define TEXTS_OPTION(name, f, n, init, what) {name, TEXTS, FIELD(f), SIZE(f) / OT_TRAIN_PATH, FIELD(n), 0, 0, init, what}
#define UINT_OPTION(name, f, min, max, init, what) {name, UINT, FIELD(f), 0, 0, min, max, init, what}
#define NUMBER_OPTION(name, f, min, max, what) {name, NUMBER, FIELD(f), 0, 0, min, max, false, what}
#define SWITCH_OPTION(name, f, init, what) {name, SWITCH, FIELD(f), 0, 0, 0, 0, init, what}

static const option table[] = {
    TEXT_OPTION("model", model, true, "FILE  the base model"),
    TEXT_OPTION("out", out, true, "FILE  the insertion to write"),
    TEXT_OPTION("name", name, true, "NAME  general.name of the insertion (default: the label)"),
    TEXTS_OPTION("parent", parents, n_parents, true, "NAME=FILE  stack on this insertion (repeatable, lowest first)"),
    UINT_OPTION("width", width, 0, 65536, true, "N  d', the width of the inserted stream; 0: task-head-only (32)"),
    UINT_OPTION("heads", heads, 0, 1024, true, "N  new attention heads (3)"),
    UINT_OPTION("kv-heads", kv_heads, 0, 1024, true, "N  new key/value heads (1)"),
    UINT_OPTION("ffn", ffn, 0, 1u << 20, true, "N  f', new inner units of the FFN (64)"),
    TEXT_OPTION("kind", kind, true, "scalar|generation|lookahead  kind of the head (scalar)"),
    TEXT_OPTION("input", input, true, "extended|base  what the head reads (extended; base if --width is 0)"),
    TEXT_OPTION("activation", activation, true, "sigmoid|identity (sigmoid; identity with --loss pairwise); of generation heads\n"
                "                         linear|silu_residual (linear; silu_residual, as Medusa-1, where they read the base)"),
    UINT_OPTION("outputs", outputs, 1, OT_MAX_HEADS, true, "N  outputs of the head (as many as labels or offsets, or 1)"),
    TEXT_OPTION("offsets", offsets, true, "N[,N...]  generation heads: how far each looks ahead; 0: the next token (0)"),
    SWITCH_OPTION("read-tokens", read_tokens, true, "heads with offsets from 1 on: each also reads the token before the one it names"),
    TEXTS_OPTION("label", labels, n_labels, true, "NAME  name of an output (repeatable)"),
    TEXT_OPTION("init", init, true, "random|normal|copy|mirror  initialisation (mirror)"),
    {"seed", SEED, FIELD(seed), 0, 0, 0, 0, true, "N  seed of every random choice (1)"},
    TEXT_OPTION("type", type, true, "q4_0|q4_1|q5_0|q5_1|q8_0|f16|bf16|f32  matrices in the file (q8_0; init: f32)"),
    SWITCH_OPTION("allow-base-mismatch", allow_base_mismatch, true, "accept parents made for another base file"),
    TEXT_OPTION("init-from", init_from, true, "FILE  start from this insertion, which keeps its kind, sizes and outputs, instead of\n"
                "                         a new one; init: write it again as --type, with its training record"),
    SWITCH_OPTION("neutral-typography", neutral_typography, true, "init --init-from, generation heads: leave typographic quotes, dashes and spaces as\n"
                  "                         likely as the base has them"),
    TEXTS_OPTION("data", data, n_data, false, "FILE  JSON Lines (plain or gzip) to train on (repeatable: mixed)"),
    TEXT_OPTION("dev", dev, false, "FILE  held-out rows"),
    TEXT_OPTION("only-label", only_label, false, "0|1  of {text, label} rows only those with this label"),
    TEXT_OPTION("loss", loss, false, "bce|pairwise|language|lookahead  (by the kind, and the shape of the rows)"),
    NUMBER_OPTION("lr", lr, 0, 1e3, "X  peak learning rate (4e-3)"),
    NUMBER_OPTION("head-lr", head_lr, 0, 1e3, "X  learning rate of the heads' own weights, relative to --lr (1)"),
    NUMBER_OPTION("warmup", warmup, 0, 1e9, "N  steps of linear warm-up (30)"),
    UINT_OPTION("steps", steps, 0, 1u << 30, false, "N  steps; 0: by --epochs"),
    NUMBER_OPTION("epochs", epochs, 0, 1e6, "X  passes over the data (1)"),
    NUMBER_OPTION("max-minutes", max_minutes, 0, 1e6, "X  end sooner, decay included, when training has taken this long"),
    UINT_OPTION("batch-tokens", batch_tokens, 1, 1u << 20, false, "N  tokens in a step (1024)"),
    UINT_OPTION("max-length", max_length, 1, 1u << 20, false, "N  tokens of a text; longer ones are cut (256)"),
    UINT_OPTION("max-rows", max_rows, 0, UINT32_MAX, false, "N  rows of each --data file, spread evenly; 0: all"),
    NUMBER_OPTION("lambda", lambda, 0, 1e6, "X  weight of the regulariser (0.01)"),
    NUMBER_OPTION("clip", clip, 0, 1e9, "X  largest norm of a gradient; 0: none (1)"),
    NUMBER_OPTION("weight-decay", weight_decay, 0, 1e3, "X  AdamW's, on matrices only (0)"),
    NUMBER_OPTION("beta1", beta1, 0, 0.999999, "X  (0.9)"),
    NUMBER_OPTION("beta2", beta2, 0, 0.999999, "X  (0.98)"),
    NUMBER_OPTION("adam-eps", adam_eps, 0, 1, "X  (1e-8)"),
    NUMBER_OPTION("prefix-weight", prefix_weight, 0, 1, "X  share of the loss on a text's prefixes (0.5)"),
    NUMBER_OPTION("prefix-power", prefix_power, 0, 100, "X  a positive label counts (i/n)^X at token i of n (1)"),
    NUMBER_OPTION("monotone", monotone, 0, 1e3, "X  weight of a penalty on a harmful text's score that falls again (0)"),
    UINT_OPTION("smooth", smooth, 1, 1024, false, "N  the loss reads the mean raw score of the last N tokens (1)"),
    TEXTS_OPTION("calm", calm, n_calm, false, "FILE  quiet rows ({prompt}, or pairs): further samples of label 0 (repeatable)"),
    NUMBER_OPTION("calm-fraction", calm_fraction, 0, 10, "X  quiet samples, relative to the rows (0.1)"),
    UINT_OPTION("calm-length", calm_length, 1, 1u << 20, false, "N  tokens of a quiet sample at most (64)"),
    NUMBER_OPTION("chat-fraction", chat_fraction, 0, 1, "X  of the rows: inside the chat template (0)"),
    NUMBER_OPTION("context-fraction", context_fraction, 0, 1, "X  of the rows: behind a harmless row (0)"),
    NUMBER_OPTION("positions", positions, 0, 1, "X  share of the positions that a step trains generation or lookahead heads on (1)"),
    NUMBER_OPTION("offset-decay", offset_decay, 0, 1, "X  generation: a head with offset k weighs X^k (0.8)"),
    NUMBER_OPTION("tail", tail, 0, 0.1, "X  generation: probabilities below X are sampled in the gradient; 0: exact and slow (0.01)"),
    UINT_OPTION("candidates", candidates, 0, 64, false, "N  lookahead: likely next tokens that are scored at a chosen position (10)"),
    UINT_OPTION("random-candidates", random_candidates, 0, 64, false, "N  lookahead: random ones beside them (6)"),
    NUMBER_OPTION("change-weight", change_weight, 0, 1e3, "X  lookahead: weight of the differences among candidates (1)"),
    NUMBER_OPTION("rank-weight", rank_weight, 0, 1e3, "X  lookahead: the same, each position measured by its own spread (0)"),
    TEXT_OPTION("chat-template", chat_template, false, "NAME  a template by name or file, instead of the model's own"),
    UINT_OPTION("eval-every", eval_every, 0, 1u << 30, false, "N  steps between evaluations on --dev; 0: only at the end (200)"),
    UINT_OPTION("eval-rows", eval_rows, 0, UINT32_MAX, false, "N  rows of --dev in those; 0: all (500)"),
    TEXT_OPTION("checkpoint", checkpoint, false, "FILE  where to keep the state of the run"),
    UINT_OPTION("checkpoint-every", checkpoint_every, 0, 1u << 30, false, "N  steps between checkpoints; 0: only when interrupted (200)"),
    SWITCH_OPTION("resume", resume, false, "go on from --checkpoint"),
    SWITCH_OPTION("force", force, false, "begin anew where --checkpoint is that of an earlier run, and write over it"),
    TEXT_OPTION("curve", curve, false, "FILE  the training curve: a JSON object a line, at every line of progress and evaluation"),
    UINT_OPTION("log-every", log_every, 1, 1u << 30, false, "N  steps between lines of progress (10)"),
    UINT_OPTION("threads", threads, 0, 1024, false, "N  threads; 0: all cores (0)"),
};
#define N_OPTIONS (sizeof table / sizeof table[0])

void ot_train_options_default(ot_train_options *options)
{
    *options = (ot_train_options){
        .width = 32, .heads = 3, .kv_heads = 1, .ffn = 64, .seed = 1, .kind = "scalar", .init = "mirror",
        .lr = 4e-3, .warmup = 30, .lambda = 0.01, .clip = 1, .beta1 = 0.9, .beta2 = 0.98, .adam_eps = 1e-8, .epochs = 1,
        .batch_tokens = 1024, .max_length = 256, .eval_every = 200, .eval_rows = 500, .checkpoint_every = 200,
        .log_every = 10, .prefix_weight = 0.5, .prefix_power = 1, .smooth = 1, .calm_fraction = 0.1, .calm_length = 64,
        .head_lr = 1, .positions = 1, .offset_decay = 0.8, .tail = 0.01, .change_weight = 1, .candidates = 10, .random_candidates = 6,
    };
}

static const option *find_option(const char *name)
{
    for (size_t i = 0; i < N_OPTIONS; i++)
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    return NULL;
}

bool ot_train_options_is_switch(const char *name)
{
    const option *o = find_option(name);
    return o != NULL && o->kind == SWITCH;
}

/* ---- Values ------------------------------------------------------------------------------------------------- */

/* How messages name an option. */
#define FLAG_BYTES 72
static ot_option_place place_of(const option *o, char flag[FLAG_BYTES])
{
    snprintf(flag, FLAG_BYTES, "--%s", o->name);
    return (ot_option_place){flag, o->name};
}

static ot_status set_integer(const option *o, void *field, const char *value, ot_error *err)
{
    char flag[FLAG_BYTES];
    uint64_t x;
    const ot_status st = ot_option_integer(value, (uint64_t)o->min, (uint64_t)o->max, place_of(o, flag), &x, err);
    if (st == OT_OK)
        *(uint32_t *)field = (uint32_t)x;
    return st;
}

static ot_status set_text(const option *o, char *field, size_t size, const char *value, ot_error *err)
{
    if (strlen(value) >= size)
        return ot_fail_param(err, OT_ERR_INVALID, o->name, "--%s: longer than %zu bytes", o->name, size - 1);
    strcpy(field, value);
    return OT_OK;
}

static ot_status set_value(ot_train_options *options, const option *o, const char *value, ot_error *err)
{
    char *field = (char *)options + o->at, flag[FLAG_BYTES];
    switch (o->kind) {
    case TEXT: return set_text(o, field, o->size, value, err);
    case TEXTS: {
        uint32_t *n = (uint32_t *)((char *)options + o->count_at);
        if (*n >= o->size)
            return ot_fail_param(err, OT_ERR_INVALID, o->name, "--%s: more than %zu", o->name, o->size);
        const ot_status st = set_text(o, field + (size_t)*n * OT_TRAIN_PATH, OT_TRAIN_PATH, value, err);
        *n += st == OT_OK;
        return st;
    }
    case UINT: return set_integer(o, field, value, err);
    case NUMBER: return ot_option_number(value, o->min, o->max, place_of(o, flag), (double *)(void *)field, err);
    case SEED: return ot_option_integer(value, 0, UINT64_MAX, place_of(o, flag), (uint64_t *)(void *)field, err);
    case SWITCH: return ot_option_bool(value, place_of(o, flag), (bool *)(void *)field, err);
    }
    return OT_OK;
}

ot_status ot_train_options_set(ot_train_options *options, const char *name, const char *value, ot_error *err)
{
    const option *o = find_option(name);
    if (o == NULL)
        return ot_fail_param(err, OT_ERR_NOT_FOUND, name, "no option named '%s'", name);
    return set_value(options, o, value, err);
}

/* ---- YAML --------------------------------------------------------------------------------------------------- */

/* A scalar, or one of a list. */
static ot_status set_from_yaml(ot_train_options *options, const char *name, const ot_yaml *value, const char *path, ot_error *err)
{
    ot_error why = {0};
    if (value->kind != OT_YAML_SCALAR)
        return ot_fail_param(err, OT_ERR_FORMAT, name, "%s:%u: expected a scalar or a list of them", path, value->line);
    const ot_status st = ot_train_options_set(options, name, value->text, &why);
    return st == OT_OK ? st : ot_fail_param(err, st, name, "%s:%u: %s", path, value->line, why.message);
}

static ot_status read_setting(ot_train_options *options, const char *name, const ot_yaml *value, const char *path, ot_error *err)
{
    ot_status st = OT_OK;
    if (value->kind != OT_YAML_LIST)
        return set_from_yaml(options, name, value, path, err);
    for (size_t i = 0; i < value->n && st == OT_OK; i++)
        st = set_from_yaml(options, name, value->items[i], path, err);
    return st;
}

ot_status ot_train_options_load(ot_train_options *options, const char *path, ot_error *err)
{
    ot_yaml *tree;
    ot_status st = ot_yaml_read_file(&tree, path, err);
    if (st != OT_OK)
        return st;
    if (tree->kind != OT_YAML_MAP)
        st = ot_fail(err, OT_ERR_FORMAT, "%s:%u: expected a map of options", path, tree->line);
    for (size_t i = 0; i < tree->n && st == OT_OK; i++)
        st = read_setting(options, tree->keys[i], tree->items[i], path, err);
    ot_yaml_close(&tree);
    return st;
}

/* ---- Command lines ------------------------------------------------------------------------------------------ */

/* The value of argv[*i]: behind '=', or the next argument. */
static ot_status flag_value(int argc, char **argv, int *i, char *name, size_t size, const char **value, ot_error *err)
{
    const char *arg = argv[*i];
    if (strncmp(arg, "--", 2) != 0 || strlen(arg) - 2 >= size)
        return ot_fail(err, OT_ERR_INVALID, "unexpected argument '%s'", arg);
    strcpy(name, arg + 2);
    char *eq = strchr(name, '=');
    if (eq != NULL) {
        *eq = '\0';
        *value = strchr(arg, '=') + 1;
        return OT_OK;
    }
    if (ot_train_options_is_switch(name)) {
        *value = "true";
        return OT_OK;
    }
    if (*i + 1 >= argc)
        return ot_fail_param(err, OT_ERR_INVALID, name, "%s needs a value", arg);
    *value = argv[++*i];
    return OT_OK;
}

ot_status ot_train_options_check_names(const ot_train_options *o, ot_error *err)
{
    const char *slash = strrchr(o->out, '/'), *file = slash != NULL ? slash + 1 : o->out;
    const size_t stem = strcspn(file, ".");
    const bool own = o->out[0] == '\0' || (strlen(o->name) == stem && strncmp(o->name, file, stem) == 0);
    const bool scalar = o->kind[0] == '\0' || strcmp(o->kind, "scalar") == 0;
    if (o->name_from_file && !own)
        return ot_fail_param(err, OT_ERR_INVALID, "name", "--name is missing: the configuration is that of the head '%s', and this one goes to %s",
                             o->name, o->out);
    if (scalar && o->labels_from_file && !o->name_from_file && o->name[0] != '\0')
        return ot_fail_param(err, OT_ERR_INVALID, "label", "--label is missing: what the head's score means (the configuration says '%s'; give it "
                             "again if that is it)", o->labels[0]);
    if (scalar && o->n_labels == 0 && o->outputs <= 1 && o->init_from[0] == '\0')
        return ot_fail_param(err, OT_ERR_INVALID, "label", "--label is missing: what the head's score means, such as toxic");
    return OT_OK;
}

ot_status ot_train_options_parse(ot_train_options *options, int argc, char **argv, bool *help, ot_error *err)
{
    char name[OT_TRAIN_PATH + 64];
    const char *value = NULL;
    bool dropped[N_OPTIONS] = {false};
    ot_status st = OT_OK;
    *help = false;
    for (int i = 1; i < argc; i++)
        *help |= strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0;
    if (*help)
        return OT_OK;
    for (int i = 1; st == OT_OK && i < argc; i++)
        if ((st = flag_value(argc, argv, &i, name, sizeof name, &value, err)) == OT_OK && strcmp(name, "config") == 0)
            st = ot_train_options_load(options, value, err);
    options->name_from_file = options->name[0] != '\0';
    options->labels_from_file = options->n_labels > 0;
    for (int i = 1; st == OT_OK && i < argc; i++) {
        st = flag_value(argc, argv, &i, name, sizeof name, &value, err);
        const option *o = find_option(name);
        if (st != OT_OK || strcmp(name, "config") == 0)
            continue;
        if (o == NULL)
            return ot_fail_param(err, OT_ERR_INVALID, name, "no option --%s", name);
        if (o->kind == TEXTS && !dropped[o - table]) {
            *(uint32_t *)((char *)options + o->count_at) = 0;
            dropped[o - table] = true;
        }
        st = set_value(options, o, value, err);
        options->name_from_file &= strcmp(name, "name") != 0;
        options->labels_from_file &= strcmp(name, "label") != 0;
    }
    return st;
}

void ot_train_options_print(FILE *to, bool init_only)
{
    if (!init_only)
        fprintf(to, "  --%-20s %s\n", "config", "FILE  YAML with these names; flags beat it");
    for (size_t i = 0; i < N_OPTIONS; i++)
        if (table[i].init || !init_only)
            fprintf(to, "  --%-20s %s\n", table[i].name, table[i].what);
}

/* ---- Sizes and kind ----------------------------------------------------------------------------------------- */

static ot_status unknown(const char *name, const char *value, const char *expected, ot_error *err)
{
    return ot_fail_param(err, OT_ERR_INVALID, name, "--%s '%s' is not %s", name, value, expected);
}

/* The index of a text among n choices, or -1. */
static int index_of(const char *text, const char *const *choices, int n)
{
    for (int i = 0; i < n; i++)
        if (strcmp(text, choices[i]) == 0)
            return i;
    return -1;
}

static ot_status spec_kind(const ot_train_options *o, ot_insertion_spec *s, ot_error *err)
{
    const char *const input_name = o->input[0] ? o->input : ot_head_input_names[o->width == 0 ? OT_INPUT_BASE : OT_INPUT_EXTENDED];
    const int which = index_of(o->kind, ot_head_kind_names, 3), input = index_of(input_name, ot_head_input_names, 2);
    int activation = index_of(o->activation, ot_activation_names, 4);
    if (which < 0)
        return unknown("kind", o->kind, "scalar, generation or lookahead", err);
    if (input < 0)
        return unknown("input", o->input, "extended or base", err);
    s->kind = (ot_head_kind)which;
    s->input = (ot_head_input)input;
    if (o->activation[0] == '\0')
        activation = s->kind != OT_HEAD_GENERATION ? strcmp(o->loss, "pairwise") == 0 : s->input == OT_INPUT_BASE ? 3 : 2;
    if (s->kind == OT_HEAD_GENERATION ? activation < 2 : activation < 0 || activation > 1)
        return unknown("activation", o->activation,
                       s->kind == OT_HEAD_GENERATION ? "linear or silu_residual" : "sigmoid or identity", err);
    s->activation = (ot_activation)activation;
    s->reads_tokens = o->read_tokens;
    return OT_OK;
}

/* "1,2,4" to the offsets of generation heads. */
static ot_status spec_offsets(const ot_train_options *o, ot_insertion_spec *s, ot_error *err)
{
    const char *at = o->offsets[0] ? o->offsets : "0";
    for (s->n_outputs = 0;; at++) {
        char *end;
        const unsigned long x = strtoul(at, &end, 10);
        if (*at < '0' || *at > '9' || x > 64 || (*end != ',' && *end != '\0') || s->n_outputs == OT_MAX_HEADS)
            return unknown("offsets", o->offsets, "one to 16 numbers from 0 to 64, with commas", err);
        s->offsets[s->n_outputs++] = (uint32_t)x;
        at = end;
        if (*at == '\0')
            return OT_OK;
    }
}

static ot_status spec_labels(const ot_train_options *o, ot_insertion_spec *s, ot_error *err)
{
    if (o->n_labels > s->n_outputs)
        return ot_fail_param(err, OT_ERR_INVALID, "label", "%u labels for %u outputs", o->n_labels, s->n_outputs);
    for (uint32_t k = 0; k < s->n_outputs; k++) {
        if (k < o->n_labels && strlen(o->labels[k]) >= sizeof s->labels[k])
            return ot_fail_param(err, OT_ERR_INVALID, "label", "--label '%.64s...' is too long", o->labels[k]);
        if (k < o->n_labels)
            strcpy(s->labels[k], o->labels[k]);
        else if (s->kind == OT_HEAD_GENERATION)
            snprintf(s->labels[k], sizeof s->labels[k], "offset-%u", s->offsets[k]);
        else
            snprintf(s->labels[k], sizeof s->labels[k], s->n_outputs > 1 ? "score-%u" : "score", k);
    }
    return OT_OK;
}

ot_status ot_train_options_spec(const ot_train_options *o, ot_insertion_spec *s, ot_error *err)
{
    *s = (ot_insertion_spec){.n_embd = o->width};
    if (o->width > 0) {
        s->n_ff = o->ffn;
        s->n_heads = o->heads;
        s->n_kv_heads = o->heads > 0 ? o->kv_heads : 0;
    }
    ot_status st = spec_kind(o, s, err);
    if (st != OT_OK)
        return st;
    s->n_outputs = o->outputs > 0 ? o->outputs : o->n_labels > 0 ? o->n_labels : 1;
    if (s->kind == OT_HEAD_GENERATION && (st = spec_offsets(o, s, err)) != OT_OK)
        return st;
    if (o->outputs > 0 && o->outputs != s->n_outputs)
        return ot_fail_param(err, OT_ERR_INVALID, "outputs", "--outputs %u, but %u offsets: a generation head has an output for each",
                             o->outputs, s->n_outputs);
    if ((st = spec_labels(o, s, err)) != OT_OK)
        return st;
    memcpy(s->name, o->name[0] ? o->name : s->labels[0], sizeof s->name);
    s->n_parents = o->n_parents;
    for (uint32_t i = 0; i < o->n_parents; i++) {
        const char *eq = strchr(o->parents[i], '=');
        const size_t n = eq != NULL ? (size_t)(eq - o->parents[i]) : 0;
        if (n == 0 || n >= sizeof s->parents[i])
            return ot_fail_param(err, OT_ERR_INVALID, "parent", "--parent '%s' is not NAME=FILE", o->parents[i]);
        memcpy(s->parents[i], o->parents[i], n);
    }
    return OT_OK;
}
