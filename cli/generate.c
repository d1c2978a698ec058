/* `otter generate`: one prompt in the terminal, or a file of them (generate-batch.c). The text goes to standard output as it is made, its
 * signals beside it if asked for, and a summary to standard error. */
#include "cli/generate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/arguments.h"
#include "cli/commands.h"

#define COMMAND "generate"

typedef ot_generate_options options;

static void print_usage(FILE *to)
{
    fprintf(to,
            "Usage: otter generate --model FILE --prompt TEXT|- [OPTION]...\n"
            "       otter generate --model FILE --batch FILE --out FILE [OPTION]...\n\n"
            "Continues a text, or answers it with --chat, and prints the result as it is made.\n\n"
            "  --model FILE              the base model (GGUF)\n"
            "  --head NAME=FILE          load an insertion (repeatable)\n"
            "  --reward-model NAME=MODEL,HEAD  load a separate reward model with its scalar head: used like a head (repeatable)\n"
            "  --expert-model NAME=MODEL load a separate model to use as an expert (repeatable)\n"
            "  --draft-model MODEL       load a small model that guesses ahead, with --draft model\n"
            "  --allow-base-mismatch     take heads that were trained on another copy of the base\n"
            "  --prompt TEXT             the prompt; - reads it from standard input\n"
            "  --chat                    the prompt is a user's message, put into the model's chat template\n"
            "  --system TEXT             with --chat, or rows with a prompt: the system message\n"
            "  --chat-template NAME      a template by name (chatml, llama3 ...) or file instead of the model's\n"
            "  --max-tokens N            tokens to generate at most (128)\n"
            "  --temperature T           0 picks the best token every time (0)\n"
            "  --top-p P, --top-k K, --min-p P, --repetition-penalty R, --seed N\n"
            "  --stop TEXT               end before this text (repeatable)\n"
            "  --ignore-eos              go on after an end of text\n");
    ot_cli_steering_print(to);
    fprintf(to,
            "  --show-signals            one line for each token: its scores and its text\n"
            "  --threads N, --ctx-size N\n"
            "  --help                    print this\n\n"
            "A file of prompts:\n"
            "  --batch FILE              JSON lines, plain or gzip: {\"prompt\"} (a user's message), {\"messages\"} or\n"
            "                            {\"text\"} (to be continued as it stands)\n"
            "  --out FILE                one JSON line for each row, in the same order\n"
            "  --n N                     answers to each row, a line each (1)\n"
            "  --logprobs                also the model's own log-probability of each token, before any steering\n"
            "  --rows N                  the first N rows only\n"
            "  --resume                  go on after the last whole line of --out\n"
            "  --max-sequences N         answers that run at once (64)\n"
            "  --max-batch-tokens N      rows in a step of the engine (256)\n\n"
            "On a terminal the text is coloured by the first signal. Exit status: 0 done, 1 failed, 2 wrong usage.\n");
}

/* ---- Options --------------------------------------------------------------------------------------------- */

enum { SYSTEM = 256, CHAT_TEMPLATE, MAX_TOKENS, TEMPERATURE, TOP_P, TOP_K, MIN_P, REPETITION, SEED, STOP, IGNORE_EOS, SHOW,
       THREADS, CTX, MISMATCH, CHAT, BATCH, OUT, CHOICES, LOGPROBS, ROWS, RESUME, SEQUENCES, BATCH_TOKENS,
       REWARD_MODEL, EXPERT_MODEL, DRAFT_MODEL };

static const struct option long_options[] = {
    {"model", required_argument, NULL, 'm'},
    {"head", required_argument, NULL, 'H'},
    {"reward-model", required_argument, NULL, REWARD_MODEL},
    {"expert-model", required_argument, NULL, EXPERT_MODEL},
    {"draft-model", required_argument, NULL, DRAFT_MODEL},
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
    {"show-signals", no_argument, NULL, SHOW},
    {"threads", required_argument, NULL, THREADS},
    {"ctx-size", required_argument, NULL, CTX},
    {"batch", required_argument, NULL, BATCH},
    {"out", required_argument, NULL, OUT},
    {"n", required_argument, NULL, CHOICES},
    {"logprobs", no_argument, NULL, LOGPROBS},
    {"rows", required_argument, NULL, ROWS},
    {"resume", no_argument, NULL, RESUME},
    {"max-sequences", required_argument, NULL, SEQUENCES},
    {"max-batch-tokens", required_argument, NULL, BATCH_TOKENS},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static bool parse_number(options *o, int flag)
{
    ot_sampling *s = &o->params.sampling;
    ot_scheduler_options *run = &o->session.scheduler;
    switch (flag) {
    case MAX_TOKENS: return ot_cli_parse_u32(optarg, "--max-tokens", UINT32_MAX, &o->params.max_tokens, COMMAND);
    case TEMPERATURE: return ot_cli_parse_float(optarg, "--temperature", &s->temperature, COMMAND);
    case TOP_P: return ot_cli_parse_float(optarg, "--top-p", &s->top_p, COMMAND);
    case TOP_K: return ot_cli_parse_u32(optarg, "--top-k", UINT32_MAX, &s->top_k, COMMAND);
    case MIN_P: return ot_cli_parse_float(optarg, "--min-p", &s->min_p, COMMAND);
    case REPETITION: return ot_cli_parse_float(optarg, "--repetition-penalty", &s->repetition_penalty, COMMAND);
    case THREADS: return ot_cli_parse_u32(optarg, "--threads", 1024, &run->n_threads, COMMAND);
    case CTX: return ot_cli_parse_u32(optarg, "--ctx-size", UINT32_MAX, &run->ctx_size, COMMAND);
    case CHOICES: return ot_cli_parse_u32(optarg, "--n", UINT32_MAX, &o->params.n_choices, COMMAND);
    case ROWS: return ot_cli_parse_u32(optarg, "--rows", UINT32_MAX, &o->max_rows, COMMAND);
    case SEQUENCES: return ot_cli_parse_u32(optarg, "--max-sequences", 4096, &run->max_sequences, COMMAND);
    case BATCH_TOKENS: return ot_cli_parse_u32(optarg, "--max-batch-tokens", 65536, &run->max_batch_tokens, COMMAND);
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
    case BATCH: o->batch = optarg; return 0;
    case OUT: o->out = optarg; return 0;
    case LOGPROBS: o->params.logprobs = true; return 0;
    case RESUME: o->resume = true; return 0;
    case SHOW: o->show_signals = true; return 0;
    case MISMATCH: o->session.allow_base_mismatch = true; return 0;
    case IGNORE_EOS: o->params.ignore_eos = true; return 0;
    case 'H': return ot_cli_add_head(&o->session, optarg, COMMAND) ? 0 : 2;
    case REWARD_MODEL: return ot_cli_add_model(&o->session, OT_ROLE_REWARD_MODEL, optarg, COMMAND) ? 0 : 2;
    case EXPERT_MODEL: return ot_cli_add_model(&o->session, OT_ROLE_EXPERT_MODEL, optarg, COMMAND) ? 0 : 2;
    case DRAFT_MODEL: return ot_cli_add_model(&o->session, OT_ROLE_DRAFT_MODEL, optarg, COMMAND) ? 0 : 2;
    case STOP:
        if (o->params.n_stops == OT_MAX_STOPS)
            return ot_cli_wrong_usage(COMMAND, "too many stop texts", "");
        o->stops[o->params.n_stops++] = optarg;
        return 0;
    case ':': return ot_cli_wrong_usage(COMMAND, "a value is missing after ", argv[optind - 1]);
    case '?': return ot_cli_wrong_usage(COMMAND, "unknown option ", argv[optind - 1]);
    default:
        if (ot_cli_steering_is(c))
            return ot_cli_steering_set(&o->steering, c, optarg, COMMAND) ? 0 : 2;
        return parse_number(o, c) ? 0 : 2;
    }
}

/* One prompt or a file of them, and only the flags that go with it. */
static int check_mode(options *o)
{
    if ((o->prompt != NULL) == (o->batch != NULL))
        return ot_cli_wrong_usage(COMMAND, "one of --prompt TEXT and --batch FILE is needed", "");
    if ((o->batch != NULL) != (o->out != NULL))
        return ot_cli_wrong_usage(COMMAND, "--batch FILE and --out FILE go together", "");
    if (o->batch != NULL)
        return o->chat || o->show_signals ? ot_cli_wrong_usage(COMMAND, "--chat and --show-signals are for one prompt", "") : 0;
    if (o->params.n_choices != 1 || o->params.logprobs || o->max_rows > 0 || o->resume)
        return ot_cli_wrong_usage(COMMAND, "--n, --logprobs, --rows and --resume are for --batch", "");
    return 0;
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
    ot_cli_steering_default(&o->steering);
    optind = 0;
    opterr = 0;
    const struct option *all = ot_cli_steering_options(long_options);
    for (int c; (c = getopt_long(argc, argv, "+:m:H:p:h", all, NULL)) != -1;) {
        int status = parse_option(o, c, argv);
        if (status != 0 || o->help)
            return status;
    }
    if (optind < argc)
        return ot_cli_wrong_usage(COMMAND, "unexpected argument ", argv[optind]);
    if (o->session.model == NULL)
        return ot_cli_wrong_usage(COMMAND, "--model FILE is missing", "");
    return check_mode(o);
}

/* ---- Request --------------------------------------------------------------------------------------------- */

ot_status ot_generate_open_chat(ot_chat_template **out, const ot_generate_options *o, const ot_cli_session *s, ot_error *err)
{
    const ot_str jinja = ot_model_chat_template(s->model);
    return o->chat_template != NULL ? ot_chat_template_open(out, o->chat_template, err)
                                    : ot_chat_template_parse(out, jinja.data, jinja.size, err);
}

static ot_status tokenize_chat(const ot_cli_session *s, const options *o, const char *text, int32_t **out, size_t *n,
                               ot_error *err)
{
    ot_chat_template *tmpl;
    ot_status st = ot_generate_open_chat(&tmpl, o, s, err);
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

volatile sig_atomic_t ot_generate_interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    ot_generate_interrupted = 1;
}

void ot_generate_catch_signals(void)
{
    signal(SIGINT, on_interrupt);
    signal(SIGTERM, on_interrupt);
}

static void print_summary(const ot_request *r, const printer *p, double first_s, double all_s)
{
    const ot_request_usage u = ot_request_get_usage(r);
    fprintf(stderr, "\n[%s] prompt %u tokens, first token after %.3f s; %u tokens", ot_finish_names[ot_request_finish(r, 0)],
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
    const double start = ot_clock_s();
    if (ot_scheduler_submit(s->scheduler, &o->params, 1, &r, &err) != OT_OK) {
        fprintf(stderr, "otter " COMMAND ": %s\n", err.message);
        ot_intervention_release(&o->params.intervention);
        return 1;
    }
    printer p = {.v = &o->params.intervention, .lines = o->show_signals};
    p.colour = !p.lines && p.v->n_signals > 0 && isatty(STDOUT_FILENO);
    ot_generate_catch_signals();
    double first_s = 0;
    while (!ot_request_done(r)) {
        ot_token_out out[8];
        ot_scheduler_wait(s->scheduler, 200);
        ot_scheduler_poll(s->scheduler);
        for (size_t n; (n = ot_request_read(r, 0, out, 8)) > 0;) {
            if (first_s == 0)
                first_s = ot_clock_s() - start;
            for (size_t i = 0; i < n; i++)
                print_token(&p, &out[i]);
        }
        fflush(stdout);
        if (ot_generate_interrupted)
            ot_request_cancel(r);
    }
    if (p.colour)
        fputs("\033[0m", stdout);
    if (!p.lines)
        putchar('\n');
    fflush(stdout);
    print_summary(r, &p, first_s, ot_clock_s() - start);
    const ot_finish finish = ot_request_finish(r, 0);
    if (finish == OT_FINISH_ERROR)
        fprintf(stderr, "otter " COMMAND ": %s\n", ot_request_error(r)->message);
    ot_request_release(&r);
    return finish == OT_FINISH_ERROR || finish == OT_FINISH_CANCELLED ? 1 : 0;
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
    const bool opened = ot_cli_session_open(&s, &o.session, COMMAND);
    if (opened && o.batch != NULL) {
        status = ot_generate_batch(&o, &s);
    } else if (opened && tokenize_prompt(&s, &o, &prompt)) {
        if (ot_cli_steering_resolve(&o.steering, &s, &o.params.intervention, COMMAND))
            status = stream(&s, &o);
        else
            ot_intervention_release(&o.params.intervention);
    }
    free(prompt);
    ot_cli_session_close(&s);
    return status;
}
