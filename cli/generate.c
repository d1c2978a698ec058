/* `otter generate`: one prompt in the terminal. The text goes to standard output as it is made, its signals beside it if asked for, and a
 * summary to standard error. */
#include "cli/commands.h"
#include "cli/session.h"
#include "engine/chat-template.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define COMMAND "generate"
#define MAX_NAMES OT_MAX_SIGNALS

typedef struct options {
    ot_cli_session_options session;
    const char *prompt, *system, *chat_template, *guard;
    bool chat, show_signals, help;
    uint32_t n_rewards, n_signals;
    const char *rewards[MAX_NAMES]; /* NAME=WEIGHT */
    const char *signals[MAX_NAMES];
    ot_request_params params;
    const char *stops[OT_MAX_STOPS];
} options;

static void print_usage(FILE *to)
{
    fprintf(to,
            "Usage: otter generate --model FILE --prompt TEXT|- [OPTION]...\n\n"
            "Continues a text, or answers it with --chat, and prints the result as it is made.\n\n"
            "  --model FILE              the base model (GGUF)\n"
            "  --head NAME=FILE          load an insertion (repeatable)\n"
            "  --allow-base-mismatch     take heads that were trained on another copy of the base\n"
            "  --prompt TEXT             the prompt; - reads it from standard input\n"
            "  --chat                    the prompt is a user's message, put into the model's chat template\n"
            "  --system TEXT             with --chat: the system message\n"
            "  --chat-template NAME      with --chat: this template family instead of the model's\n"
            "  --max-tokens N            tokens to generate at most (128)\n"
            "  --temperature T           0 picks the best token every time (0)\n"
            "  --top-p P, --top-k K, --min-p P, --repetition-penalty R, --seed N\n"
            "  --stop TEXT               end before this text (repeatable)\n"
            "  --ignore-eos              go on after an end of text\n"
            "  --reward NAME=WEIGHT      steer by this head: weight times score is added to log-probabilities (repeatable)\n"
            "  --candidates K            how many tokens are scored at each step (10)\n"
            "  --guard 'NAME>LIMIT'      refuse tokens that raise this head's score above the limit\n"
            "  --guard-resample N        try up to N other tokens before the guard ends the text (0: it ends at once)\n"
            "  --signals NAME[,NAME...]  report these heads\n"
            "  --draft lookup[:N]        guess up to N (4) tokens ahead from what the text holds already; the text stays the same\n"
            "  --show-signals            one line for each token: its scores and its text\n"
            "  --threads N, --ctx-size N\n"
            "  --help                    print this\n\n"
            "On a terminal the text is coloured by the first signal. Exit status: 0 done, 1 failed, 2 wrong usage.\n");
}

/* ---- Options --------------------------------------------------------------------------------------------- */

static int wrong_usage(const char *what, const char *value)
{
    fprintf(stderr, "otter " COMMAND ": %s%s; `otter " COMMAND " --help` tells more\n", what, value);
    return 2;
}

static bool add(const char **list, uint32_t *n, uint32_t max, const char *value)
{
    if (*n == max)
        return false;
    list[(*n)++] = value;
    return true;
}

/* Comma-separated names; cut in place. */
static bool add_names(options *o, char *names)
{
    for (char *save, *name = strtok_r(names, ",", &save); name != NULL; name = strtok_r(NULL, ",", &save))
        if (!add(o->signals, &o->n_signals, MAX_NAMES, name))
            return false;
    return true;
}

/* "lookup" or "lookup:N". */
static bool parse_draft(ot_intervention *v, const char *value)
{
    static const char name[] = "lookup";
    const size_t size = sizeof name - 1;
    if (strncmp(value, name, size) != 0 || (value[size] != '\0' && value[size] != ':')) {
        fprintf(stderr, "otter " COMMAND ": --draft takes lookup or lookup:N, not '%s'\n", value);
        return false;
    }
    v->drafting.lookup = true;
    v->drafting.max_draft = 4;
    return value[size] == '\0' || ot_cli_parse_u32(value + size + 1, "--draft", OT_MAX_DRAFT, &v->drafting.max_draft, COMMAND);
}

enum { SYSTEM = 256, CHAT_TEMPLATE, MAX_TOKENS, TEMPERATURE, TOP_P, TOP_K, MIN_P, REPETITION, SEED, STOP, IGNORE_EOS, REWARD,
       CANDIDATES, GUARD, GUARD_RESAMPLE, SIGNALS, SHOW, DRAFT, THREADS, CTX, MISMATCH, CHAT };

static const struct option long_options[] = {
    {"model", required_argument, NULL, 'm'},
    {"head", required_argument, NULL, 'H'},
    {"allow-base-mismatch", no_argument, NULL, MISMATCH},
    {"prompt", required_argument, NULL, 'p'},
    {"chat", no_argument, NULL, CHAT},
    {"system", required_argument, NULL, SYSTEM},
    {"chat-template", required_argument, NULL, CHAT_TEMPLATE},
    {"max-tokens", required_argument, NULL, MAX_TOKENS},
    {"temperature", required_argument, NULL, TEMPERATURE},
    {"top-p", required_argument, NULL, TOP_P},
    {"top-k", required_argument, NULL, TOP_K},
    {"min-p", required_argument, NULL, MIN_P},
    {"repetition-penalty", required_argument, NULL, REPETITION},
    {"seed", required_argument, NULL, SEED},
    {"stop", required_argument, NULL, STOP},
    {"ignore-eos", no_argument, NULL, IGNORE_EOS},
    {"reward", required_argument, NULL, REWARD},
    {"candidates", required_argument, NULL, CANDIDATES},
    {"guard", required_argument, NULL, GUARD},
    {"guard-resample", required_argument, NULL, GUARD_RESAMPLE},
    {"signals", required_argument, NULL, SIGNALS},
    {"show-signals", no_argument, NULL, SHOW},
    {"draft", required_argument, NULL, DRAFT},
    {"threads", required_argument, NULL, THREADS},
    {"ctx-size", required_argument, NULL, CTX},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static bool parse_number(options *o, int flag)
{
    ot_sampling *s = &o->params.sampling;
    ot_intervention *v = &o->params.intervention;
    switch (flag) {
    case MAX_TOKENS: return ot_cli_parse_u32(optarg, "--max-tokens", UINT32_MAX, &o->params.max_tokens, COMMAND);
    case TEMPERATURE: return ot_cli_parse_float(optarg, "--temperature", &s->temperature, COMMAND);
    case TOP_P: return ot_cli_parse_float(optarg, "--top-p", &s->top_p, COMMAND);
    case TOP_K: return ot_cli_parse_u32(optarg, "--top-k", UINT32_MAX, &s->top_k, COMMAND);
    case MIN_P: return ot_cli_parse_float(optarg, "--min-p", &s->min_p, COMMAND);
    case REPETITION: return ot_cli_parse_float(optarg, "--repetition-penalty", &s->repetition_penalty, COMMAND);
    case CANDIDATES: return ot_cli_parse_u32(optarg, "--candidates", OT_MAX_CANDIDATES, &v->candidates, COMMAND);
    case THREADS: return ot_cli_parse_u32(optarg, "--threads", 1024, &o->session.scheduler.n_threads, COMMAND);
    case CTX: return ot_cli_parse_u32(optarg, "--ctx-size", UINT32_MAX, &o->session.scheduler.ctx_size, COMMAND);
    case GUARD_RESAMPLE:
        v->guard = OT_GUARD_RESAMPLE;
        return ot_cli_parse_u32(optarg, "--guard-resample", OT_MAX_CANDIDATES - 1, &v->guard_max_resamples, COMMAND);
    case SEED: {
        uint32_t seed;
        bool ok = ot_cli_parse_u32(optarg, "--seed", UINT32_MAX, &seed, COMMAND);
        s->seed = seed;
        return ok;
    }
    default: return false;
    }
}

/* 0, or the exit status of wrong usage. */
static int parse_option(options *o, int c, char **argv)
{
    switch (c) {
    case 'm': o->session.model = optarg; return 0;
    case 'p': o->prompt = optarg; return 0;
    case 'h': o->help = true; return 0;
    case SYSTEM: o->system = optarg; return 0;
    case CHAT: o->chat = true; return 0;
    case CHAT_TEMPLATE: o->chat_template = optarg; return 0;
    case GUARD: o->guard = optarg; return 0;
    case SHOW: o->show_signals = true; return 0;
    case MISMATCH: o->session.allow_base_mismatch = true; return 0;
    case IGNORE_EOS: o->params.ignore_eos = true; return 0;
    case DRAFT: return parse_draft(&o->params.intervention, optarg) ? 0 : 2;
    case 'H':
        return add(o->session.heads, &o->session.n_heads, OT_CLI_MAX_HEADS, optarg) ? 0 : wrong_usage("too many heads", "");
    case REWARD: return add(o->rewards, &o->n_rewards, MAX_NAMES, optarg) ? 0 : wrong_usage("too many rewards", "");
    case SIGNALS: return add_names(o, optarg) ? 0 : wrong_usage("too many signals", "");
    case STOP:
        return add(o->stops, &o->params.n_stops, OT_MAX_STOPS, optarg) ? 0 : wrong_usage("too many stop texts", "");
    case ':': return wrong_usage("a value is missing after ", argv[optind - 1]);
    case '?': return wrong_usage("unknown option ", argv[optind - 1]);
    default: return parse_number(o, c) ? 0 : 2;
    }
}

static int parse_options(int argc, char **argv, options *o)
{
    memset(o, 0, sizeof *o);
    ot_scheduler_options_default(&o->session.scheduler);
    o->params.max_tokens = 128;
    o->params.n_choices = 1;
    o->params.stops = o->stops;
    o->params.sampling.top_p = 1;
    o->params.sampling.repetition_penalty = 1;
    o->params.intervention.candidates = 10;
    optind = 0;
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, "+:m:H:p:h", long_options, NULL)) != -1;) {
        int status = parse_option(o, c, argv);
        if (status != 0 || o->help)
            return status;
    }
    if (optind < argc)
        return wrong_usage("unexpected argument ", argv[optind]);
    if (o->session.model == NULL)
        return wrong_usage("--model FILE is missing", "");
    if (o->prompt == NULL)
        return wrong_usage("--prompt TEXT is missing", "");
    return 0;
}

/* ---- Request --------------------------------------------------------------------------------------------- */

/* "toxicity=-4" or "toxicity>0.8" -> the signal's index and the number; -1 if it is not so. */
static int resolve(const ot_cli_session *s, ot_intervention *v, const char *spec, char sep, const char *flag, float *number)
{
    const char *at = strchr(spec, sep);
    char name[96];
    if (at == NULL || at == spec || (size_t)(at - spec) >= sizeof name) {
        fprintf(stderr, "otter " COMMAND ": %s takes NAME%cNUMBER, not '%s'\n", flag, sep, spec);
        return -1;
    }
    snprintf(name, sizeof name, "%.*s", (int)(at - spec), spec);
    if (!ot_cli_parse_float(at + 1, flag, number, COMMAND))
        return -1;
    return ot_cli_add_signal(s, v, name, COMMAND);
}

static bool resolve_intervention(const ot_cli_session *s, options *o)
{
    ot_intervention *v = &o->params.intervention;
    for (uint32_t i = 0; i < o->n_signals; i++)
        if (ot_cli_add_signal(s, v, o->signals[i], COMMAND) < 0)
            return false;
    for (uint32_t i = 0; i < o->n_rewards; i++) {
        float weight;
        int at = resolve(s, v, o->rewards[i], '=', "--reward", &weight);
        if (at < 0)
            return false;
        v->signals[at].weight = weight;
        v->reward = true;
    }
    if (o->guard != NULL) {
        int at = resolve(s, v, o->guard, '>', "--guard", &v->guard_above);
        if (at < 0)
            return false;
        v->guard_signal = (uint32_t)at;
        if (v->guard == OT_GUARD_NONE || v->guard_max_resamples == 0)
            v->guard = OT_GUARD_STOP;
    } else {
        v->guard = OT_GUARD_NONE;
    }
    return true;
}

static ot_status tokenize_chat(const ot_cli_session *s, const options *o, const char *text, int32_t **out, size_t *n,
                               ot_error *err)
{
    ot_chat_template *tmpl;
    const ot_str jinja = ot_model_chat_template(s->model);
    ot_status st = o->chat_template != NULL ? ot_chat_template_named(&tmpl, o->chat_template, err)
                                            : ot_chat_template_detect(&tmpl, jinja.data, jinja.size, err);
    if (st != OT_OK)
        return st;
    const ot_chat_message messages[2] = {{"system", o->system}, {"user", text}};
    const bool has_system = o->system != NULL;
    st = ot_chat_template_tokenize(tmpl, ot_model_tokenizer(s->model), messages + !has_system, 1u + has_system, true, false,
                                   out, n, err);
    ot_chat_template_close(&tmpl);
    return st;
}

static bool tokenize_prompt(const ot_cli_session *s, options *o, int32_t **out)
{
    char *input = NULL;
    const char *text = o->prompt;
    size_t size = strlen(text), n = 0;
    if (strcmp(text, "-") == 0) {
        input = ot_cli_read_input(&size, COMMAND);
        if (input == NULL)
            return false;
        text = input;
    }
    ot_error err;
    ot_status st = o->chat ? tokenize_chat(s, o, text, out, &n, &err)
                           : ot_tokenize(ot_model_tokenizer(s->model), text, size, OT_TOKENIZE_BOS, out, &n, &err);
    free(input);
    if (st != OT_OK) {
        fprintf(stderr, "otter " COMMAND ": %s\n", err.message);
        return false;
    }
    if (n > UINT32_MAX / 4) {
        fprintf(stderr, "otter " COMMAND ": a prompt of %zu tokens is too long\n", n);
        return false;
    }
    o->params.prompt = *out;
    o->params.n_prompt = (uint32_t)n;
    return true;
}

/* ---- Printing -------------------------------------------------------------------------------------------- */

typedef struct printer {
    const ot_intervention *v;
    bool lines, colour;
    double sums[OT_MAX_SIGNALS];
    uint32_t n_tokens;
} printer;

/* From green over yellow to red, in the 6x6x6 cube of 256-colour terminals. */
static int colour_of(float score)
{
    const float x = score < 0 ? 0 : score > 1 ? 1 : score;
    const int red = x < 0.5f ? (int)(x * 10 + 0.5f) : 5, green = x < 0.5f ? 5 : (int)((1 - x) * 10 + 0.5f);
    return 16 + 36 * red + 6 * green;
}

static void print_quoted(const char *text, size_t size)
{
    putchar('"');
    for (size_t i = 0; i < size; i++) {
        const unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c == '\n')
            fputs("\\n", stdout);
        else if (c < 32)
            printf("\\x%02x", c);
        else
            putchar(c);
    }
    putchar('"');
}

static void print_token(printer *p, const ot_token_out *t)
{
    if (t->token >= 0) {
        p->n_tokens++;
        for (uint32_t i = 0; i < p->v->n_signals; i++)
            p->sums[i] += t->signals[i];
    }
    if (p->lines) {
        for (uint32_t i = 0; i < p->v->n_signals && t->token >= 0; i++)
            printf("%.4f\t", (double)t->signals[i]);
        print_quoted(t->text, t->text_size);
        putchar('\n');
        return;
    }
    if (p->colour && t->token >= 0)
        printf("\033[38;5;%dm", colour_of(t->signals[0]));
    fwrite(t->text, 1, t->text_size, stdout);
}

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static const char *finish_name(ot_finish finish)
{
    switch (finish) {
    case OT_FINISH_STOP: return "stop";
    case OT_FINISH_LENGTH: return "length";
    case OT_FINISH_FILTER: return "content_filter";
    case OT_FINISH_CANCELLED: return "cancelled";
    case OT_FINISH_ERROR: return "error";
    case OT_FINISH_NONE: break;
    }
    return "running";
}

static void print_summary(const ot_request *r, const printer *p, double first_s, double all_s)
{
    const ot_request_usage u = ot_request_get_usage(r);
    fprintf(stderr, "\n[%s] prompt %u tokens, first token after %.3f s; %u tokens", finish_name(ot_request_finish(r, 0)),
            u.prompt_tokens, first_s, u.completion_tokens);
    if (u.completion_tokens > 1)
        fprintf(stderr, ", %.1f tokens/s", (u.completion_tokens - 1) / (all_s - first_s));
    fputc('\n', stderr);
    for (uint32_t i = 0; i < p->v->n_signals && p->n_tokens > 0; i++)
        fprintf(stderr, "%s: mean %.4f\n", p->v->signals[i].name, p->sums[i] / p->n_tokens);
    if (p->v->drafting.max_draft > 0)
        fprintf(stderr, "drafts accepted: %u of %u\n", u.accepted_prediction_tokens,
                u.accepted_prediction_tokens + u.rejected_prediction_tokens);
    if (u.candidates_scored > 0 || u.changed_tokens > 0)
        fprintf(stderr, "candidates scored: %llu, tokens changed: %u\n", (unsigned long long)u.candidates_scored,
                u.changed_tokens);
}

static int stream(const ot_cli_session *s, options *o)
{
    ot_error err;
    ot_request *r;
    const double start = now_s();
    if (ot_scheduler_submit(s->scheduler, &o->params, 1, &r, &err) != OT_OK) {
        fprintf(stderr, "otter " COMMAND ": %s\n", err.message);
        ot_cli_release_signals(&o->params.intervention);
        return 1;
    }
    printer p = {.v = &o->params.intervention, .lines = o->show_signals};
    p.colour = !p.lines && p.v->n_signals > 0 && isatty(STDOUT_FILENO);
    signal(SIGINT, on_interrupt);
    double first_s = 0;
    while (!ot_request_done(r)) {
        ot_token_out out[8];
        ot_scheduler_wait(s->scheduler, 200);
        ot_scheduler_poll(s->scheduler);
        for (size_t n; (n = ot_request_read(r, 0, out, 8)) > 0;) {
            if (first_s == 0)
                first_s = now_s() - start;
            for (size_t i = 0; i < n; i++)
                print_token(&p, &out[i]);
        }
        fflush(stdout);
        if (interrupted)
            ot_request_cancel(r);
    }
    if (p.colour)
        fputs("\033[0m", stdout);
    if (!p.lines)
        putchar('\n');
    fflush(stdout);
    print_summary(r, &p, first_s, now_s() - start);
    const bool failed = ot_request_finish(r, 0) == OT_FINISH_ERROR;
    if (failed)
        fprintf(stderr, "otter " COMMAND ": %s\n", ot_request_error(r)->message);
    ot_request_release(&r);
    return failed ? 1 : 0;
}

int ot_cli_generate(int argc, char **argv)
{
    options o;
    int status = parse_options(argc, argv, &o);
    if (status != 0)
        return status;
    if (o.help) {
        print_usage(stdout);
        return 0;
    }
    ot_cli_session s;
    int32_t *prompt = NULL;
    status = 1;
    if (ot_cli_session_open(&s, &o.session, COMMAND) && tokenize_prompt(&s, &o, &prompt)) {
        if (resolve_intervention(&s, &o))
            status = stream(&s, &o);
        else
            ot_cli_release_signals(&o.params.intervention);
    }
    free(prompt);
    ot_cli_session_close(&s);
    return status;
}
