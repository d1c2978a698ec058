/* `otter score`: what heads say about texts. Texts come from the arguments or, one a line, from standard input; each gives one line of
 * JSON. Texts run in batches through the scheduler, and lines come out in the order of the texts. A text that cannot be scored (an empty
 * one, one too long) gets a line with "error" in the place of its scores, and the others go on. */
#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/session.h"

#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMMAND "score"
#define MAX_NAMES OT_MAX_SIGNALS
#define BATCH 64

typedef struct options {
    ot_cli_session_options session;
    bool per_token, jsonl, help;
    const char *field;
    uint32_t n_names;
    const char *names[MAX_NAMES];
    int n_texts;
    char **texts;
} options;

/* One text on its way. */
typedef struct item {
    json_t *source;      /* the JSONL row, or NULL */
    size_t number;       /* of its line or argument, from 1 */
    ot_request *request; /* NULL: it cannot be scored, see problem */
    size_t n_tokens;
    ot_error problem;
} item;

typedef struct scoring {
    const options *options;
    ot_cli_session session;
    ot_intervention outputs; /* the signals that are asked for */
    bool failed;             /* some text could not be scored */
} scoring;

static void print_usage(FILE *to)
{
    fprintf(to,
            "Usage: otter score --model FILE --head NAME=FILE... [OPTION]... [TEXT]...\n\n"
            "Scores whole texts by heads and prints one JSON object for each. Without TEXT arguments, each line of standard\n"
            "input is a text. What cannot be scored gets an object with \"error\".\n\n"
            "  --model FILE           the base model (GGUF)\n"
            "  --head NAME=FILE       load an insertion (repeatable)\n"
            "  --reward-model NAME=MODEL,HEAD  load a separate reward model with its scalar head: used like a head (repeatable)\n"
            "  --allow-base-mismatch  take heads that were trained on another copy of the base\n"
            "  --heads NAME[,...]     score by these outputs only (NAME or NAME/LABEL); all loaded heads otherwise\n"
            "  --per-token            also the score after each token\n"
            "  --jsonl                lines of standard input are JSON objects; \"text\" is scored, the rest is passed on\n"
            "  --field NAME           with --jsonl: this member instead of \"text\"\n"
            "  --threads N, --ctx-size N\n"
            "  --help                 print this\n\n"
            "Exit status: 0 done, 1 failed (all, or some text), 2 wrong usage.\n");
}

/* ---- Options --------------------------------------------------------------------------------------------- */

enum { HEADS = 256, PER_TOKEN, JSONL, FIELD, THREADS, CTX, MISMATCH, REWARD_MODEL };

static const struct option long_options[] = {
    {"model", required_argument, NULL, 'm'},
    {"head", required_argument, NULL, 'H'},
    {"reward-model", required_argument, NULL, REWARD_MODEL},
    {"allow-base-mismatch", no_argument, NULL, MISMATCH},
    {"heads", required_argument, NULL, HEADS},
    {"per-token", no_argument, NULL, PER_TOKEN},
    {"jsonl", no_argument, NULL, JSONL},
    {"field", required_argument, NULL, FIELD},
    {"threads", required_argument, NULL, THREADS},
    {"ctx-size", required_argument, NULL, CTX},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static int add_names(options *o, char *names)
{
    for (char *save, *name = strtok_r(names, ",", &save); name != NULL; name = strtok_r(NULL, ",", &save)) {
        if (o->n_names == MAX_NAMES)
            return ot_cli_wrong_usage(COMMAND, "too many names in --heads", "");
        o->names[o->n_names++] = name;
    }
    return 0;
}

static int parse_option(options *o, int c, char **argv)
{
    switch (c) {
    case 'm': o->session.model = optarg; return 0;
    case 'h': o->help = true; return 0;
    case MISMATCH: o->session.allow_base_mismatch = true; return 0;
    case HEADS: return add_names(o, optarg);
    case REWARD_MODEL: return ot_cli_add_model(&o->session, OT_ROLE_REWARD_MODEL, optarg, COMMAND) ? 0 : 2;
    case PER_TOKEN: o->per_token = true; return 0;
    case JSONL: o->jsonl = true; return 0;
    case FIELD: o->field = optarg; return 0;
    case THREADS: return ot_cli_parse_u32(optarg, "--threads", 1024, &o->session.scheduler.n_threads, COMMAND) ? 0 : 2;
    case CTX: return ot_cli_parse_u32(optarg, "--ctx-size", UINT32_MAX, &o->session.scheduler.ctx_size, COMMAND) ? 0 : 2;
    case 'H': return ot_cli_add_head(&o->session, optarg, COMMAND) ? 0 : 2;
    case ':': return ot_cli_wrong_usage(COMMAND, "a value is missing after ", argv[optind - 1]);
    default: return ot_cli_wrong_usage(COMMAND, "unknown option ", argv[optind - 1]);
    }
}

static int parse_options(int argc, char **argv, options *o)
{
    memset(o, 0, sizeof *o);
    o->field = "text";
    ot_scheduler_options_default(&o->session.scheduler);
    optind = 0;
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, "+:m:H:h", long_options, NULL)) != -1;) {
        int status = parse_option(o, c, argv);
        if (status != 0 || o->help)
            return status;
    }
    o->texts = argv + optind;
    o->n_texts = argc - optind;
    if (o->session.model == NULL)
        return ot_cli_wrong_usage(COMMAND, "--model FILE is missing", "");
    if (o->session.n_heads + o->session.n_models == 0)
        return ot_cli_wrong_usage(COMMAND, "--head NAME=FILE is missing", "");
    if (o->jsonl && o->n_texts > 0)
        return ot_cli_wrong_usage(COMMAND, "--jsonl reads standard input and takes no ", "texts");
    return 0;
}

/* All outputs of all loaded heads that score: "name", or "name/label" where there are several. */
static bool add_all_outputs(const ot_cli_session *s, ot_intervention *v)
{
    ot_head *heads[OT_STATS_MAX_HEADS];
    const uint32_t n = ot_heads_list(s->heads, heads, OT_STATS_MAX_HEADS);
    bool ok = true;
    for (uint32_t i = 0; i < n; i++) {
        /* score has no use for expert and draft models and takes no flags for them, so each has an insertion. */
        const ot_insertion_spec *spec = &ot_insertion_get_info(ot_head_insertion(heads[i]))->spec;
        for (uint32_t j = 0; ok && spec->kind == OT_HEAD_SCALAR && j < spec->n_outputs; j++) {
            char name[136];
            snprintf(name, sizeof name, spec->n_outputs == 1 ? "%s" : "%s/%s", ot_head_name(heads[i]), spec->labels[j]);
            ok = ot_cli_add_signal(s, v, name, COMMAND) >= 0;
        }
        ot_head_release(&heads[i]);
    }
    if (ok && v->n_signals == 0)
        fprintf(stderr, "otter " COMMAND ": no scalar head and no reward model is loaded\n");
    return ok && v->n_signals > 0;
}

static bool add_signals(scoring *s)
{
    const options *o = s->options;
    if (o->n_names == 0)
        return add_all_outputs(&s->session, &s->outputs);
    for (uint32_t i = 0; i < o->n_names; i++)
        if (ot_cli_add_signal(&s->session, &s->outputs, o->names[i], COMMAND) < 0)
            return false;
    return true;
}

/* ---- Texts ----------------------------------------------------------------------------------------------- */

/* Nine digits: enough to give the float back exactly. */
static json_t *score_json(float score)
{
    if (!isfinite(score))
        return json_null();
    char text[32];
    snprintf(text, sizeof text, "%.9g", (double)score);
    return json_real(strtod(text, NULL));
}

static void put_scores(const scoring *s, const item *it, json_t *line)
{
    const ot_intervention *v = &s->outputs;
    const ot_prompt_out out = ot_request_prompt(it->request);
    json_t *scores = json_object(), *tokens = s->options->per_token ? json_object() : NULL;
    for (uint32_t i = 0; i < v->n_signals; i++) {
        json_object_set_new(scores, v->signals[i].name, score_json(out.last_scores[i]));
        if (tokens == NULL)
            continue;
        json_t *list = json_array();
        for (size_t t = 0; t < it->n_tokens; t++)
            json_array_append_new(list, score_json(out.scores[i * it->n_tokens + t]));
        json_object_set_new(tokens, v->signals[i].name, list);
    }
    json_object_set_new(line, "tokens", json_integer((json_int_t)it->n_tokens));
    json_object_set_new(line, "scores", scores);
    if (tokens != NULL)
        json_object_set_new(line, "per_token", tokens);
}

/* The text's line. False if it cannot be written. */
static bool print_result(scoring *s, item *it)
{
    json_t *line = it->source != NULL ? it->source : json_object();
    it->source = NULL;
    const bool ran = it->request != NULL && ot_request_finish(it->request, 0) != OT_FINISH_ERROR;
    if (ran) {
        put_scores(s, it, line);
    } else {
        const ot_error *why = it->request != NULL ? ot_request_error(it->request) : &it->problem;
        s->failed = true;
        fprintf(stderr, "otter " COMMAND ": %s %zu: %s\n", s->options->n_texts > 0 ? "text" : "line", it->number, why->message);
        json_object_set_new(line, "error", json_string(why->message));
    }
    const bool ok = json_dumpf(line, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9)) == 0 && putchar('\n') != EOF;
    json_decref(line);
    return ok;
}

/* Waits for the batch and prints it; releases everything in any case. */
static bool finish_batch(scoring *s, item *items, uint32_t n)
{
    bool ok = true;
    for (uint32_t i = 0; i < n; i++) {
        while (items[i].request != NULL && !ot_request_done(items[i].request)) {
            ot_scheduler_wait(s->session.scheduler, 1000);
            ot_scheduler_poll(s->session.scheduler);
        }
        ok = ok && print_result(s, &items[i]);
        if (items[i].request != NULL)
            ot_request_release(&items[i].request);
        json_decref(items[i].source);
    }
    fflush(stdout);
    return ok;
}

/* Tokenises and submits one text; what is wrong becomes its problem. False if other texts would fare no better. */
static bool submit_text(const scoring *s, const char *text, size_t size, item *it)
{
    const ot_intervention *v = &s->outputs;
    ot_error *err = &it->problem;
    int32_t *tokens = NULL;
    ot_request_params p = {.n_choices = 1, .prompt_scores = s->options->per_token};
    p.sampling.top_p = p.sampling.repetition_penalty = 1;
    ot_status st = ot_tokenize(ot_model_tokenizer(s->session.model), text, size, OT_TOKENIZE_BOS, &tokens, &it->n_tokens, err);
    bool own_fault = st != OT_ERR_NOMEM;
    if (st == OT_OK) {
        p.prompt = tokens;
        p.n_prompt = it->n_tokens < UINT32_MAX ? (uint32_t)it->n_tokens : UINT32_MAX;
        p.intervention = *v;
        ot_intervention_retain(v);
        st = ot_scheduler_submit(s->session.scheduler, &p, 1, &it->request, err);
        if (st != OT_OK)
            ot_intervention_release(&p.intervention);
        own_fault = strncmp(err->param, "prompt", 6) == 0;
    }
    free(tokens);
    return st == OT_OK || own_fault;
}

static bool score_arguments(scoring *s)
{
    const options *o = s->options;
    item items[BATCH];
    bool ok = true;
    for (int at = 0; ok && at < o->n_texts;) {
        uint32_t n = 0;
        for (; ok && n < BATCH && at < o->n_texts; at++) {
            items[n] = (item){.number = (size_t)at + 1};
            ok = submit_text(s, o->texts[at], strlen(o->texts[at]), &items[n++]);
        }
        ok = finish_batch(s, items, n) && ok;
    }
    return ok;
}

/* Submits a line: the text itself or, with --jsonl, that of its row. */
static bool submit_line(const scoring *s, const char *line, size_t size, item *it)
{
    if (!s->options->jsonl)
        return submit_text(s, line, size, it);
    json_error_t err;
    json_t *row = json_loadb(line, size, 0, &err);
    const json_t *text = json_object_get(row, s->options->field);
    if (json_is_object(row))
        it->source = row;
    else
        json_decref(row);
    if (json_is_string(text))
        return submit_text(s, json_string_value(text), json_string_length(text), it);
    ot_fail(&it->problem, OT_ERR_FORMAT, "%s", row == NULL ? err.text : "no such text member in this object");
    return true;
}

static bool score_lines(scoring *s)
{
    item items[BATCH];
    char *line = NULL;
    size_t capacity = 0, number = 0;
    bool ok = true, more = true;
    while (ok && more) {
        uint32_t n = 0;
        while (ok && n < BATCH) {
            ssize_t got = getline(&line, &capacity, stdin);
            more = got >= 0;
            if (!more)
                break;
            size_t size = (size_t)got;
            number++;
            if (size > 0 && line[size - 1] == '\n')
                line[--size] = '\0';
            if (size == 0 && s->options->jsonl)
                continue; /* no row */
            items[n] = (item){.number = number};
            ok = submit_line(s, line, size, &items[n++]);
        }
        ok = finish_batch(s, items, n) && ok;
    }
    free(line);
    return ok;
}

int ot_cli_score(int argc, char **argv)
{
    options o;
    int status = parse_options(argc, argv, &o);
    if (status != 0)
        return status;
    if (o.help) {
        print_usage(stdout);
        return 0;
    }
    scoring s = {.options = &o};
    bool ok = ot_cli_session_open(&s.session, &o.session, COMMAND) && add_signals(&s);
    if (ok)
        ok = o.n_texts > 0 ? score_arguments(&s) : score_lines(&s);
    ot_intervention_release(&s.outputs);
    ot_cli_session_close(&s.session);
    return ok && !s.failed ? 0 : 1;
}
