/* otter bench: speed of this machine, as ratios within one run.
 *
 * Every case runs in turn, `rounds` times over, so that a drift of the machine's speed falls on all of them alike; the figure of a
 * case is its median. Cases go through the scheduler as requests do, without HTTP and without the prefix cache. */
#include "cli/bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"

#define COMMAND "bench"

/* Ordinary prose to run on; repeated from different starts, so that sequences of a batch differ. */
static const char prose[] =
    "The harbour was quiet when the first boats came in, and the gulls had not yet begun their morning quarrel. Old Marten sat "
    "on the wall with his pipe unlit and counted the masts, as he did every day, and as every day the number came out wrong. "
    "Behind him the town climbed the hill in narrow steps: the bakery with its blue door, the school, the chapel whose bell had "
    "been silent since the storm. A girl ran down the lane with a letter in her hand. She asked him whether the ship from the "
    "north had arrived, and he told her that the wind had turned in the night and that nobody could say. She thanked him, sat "
    "down beside him, and read the letter again, slowly, with one finger under each line. ";

typedef struct bench {
    ot_cli_session_options options;
    ot_cli_session session;
    int32_t *text;
    size_t n_text;
    ot_bench_sizes sizes;
    uint32_t rounds;
} bench;

static ot_status submit(const bench *b, const ot_bench_case *c, ot_request **requests, ot_error *err)
{
    ot_request_params params[OT_BENCH_MAX_BATCH];
    memset(params, 0, sizeof params);
    for (uint32_t i = 0; i < c->batch; i++) {
        ot_request_params *p = &params[i];
        p->prompt = b->text + (size_t)i * 7 % (b->n_text - c->n_prompt);
        p->n_prompt = c->n_prompt;
        p->n_choices = 1;
        p->max_tokens = c->n_decode;
        p->ignore_eos = true;
        p->no_prefix_cache = true;
        p->sampling.top_p = 1.0f;
        p->sampling.repetition_penalty = 1.0f;
        p->intervention = c->intervention;
        ot_cli_intervention_retain(&p->intervention);
    }
    const ot_status st = ot_scheduler_submit(b->session.scheduler, params, c->batch, requests, err);
    for (uint32_t i = 0; i < c->batch && st != OT_OK; i++)
        ot_cli_intervention_release(&params[i].intervention);
    return st;
}

/* Reads all there is; returns the tokens read and notes the time of each request's first. */
static uint32_t read_all(const ot_bench_case *c, ot_request **requests, double *first)
{
    ot_token_out out[16];
    uint32_t tokens = 0;
    for (uint32_t i = 0; i < c->batch; i++) {
        size_t n;
        while ((n = ot_request_read(requests[i], 0, out, 16)) > 0) {
            for (size_t k = 0; k < n; k++)
                tokens += out[k].token >= 0;
            if (first[i] == 0.0)
                first[i] = ot_cli_now_s();
        }
    }
    return tokens;
}

static bool all_done(const ot_bench_case *c, ot_request **requests)
{
    for (uint32_t i = 0; i < c->batch; i++)
        if (!ot_request_done(requests[i]))
            return false;
    return true;
}

/* One round of a case. Prefill (n_decode 1): prompt tokens by the time to the last first token. Decode: tokens after the last first
 * token by the time they took. */
static ot_status run_case(const bench *b, ot_bench_case *c, uint32_t round, ot_error *err)
{
    ot_request *requests[OT_BENCH_MAX_BATCH] = {0};
    double first[OT_BENCH_MAX_BATCH] = {0}, all_first = 0.0, end = 0.0;
    uint32_t tokens = 0, at_first = 0;
    const double start = ot_cli_now_s();
    ot_status st = submit(b, c, requests, err);
    if (st != OT_OK)
        return st;
    for (bool done = false; !done;) {
        ot_scheduler_wait(b->session.scheduler, 1000);
        while (ot_scheduler_poll(b->session.scheduler) != NULL)
            continue;
        tokens += read_all(c, requests, first);
        end = ot_cli_now_s();
        bool started = true;
        for (uint32_t i = 0; i < c->batch; i++)
            started = started && first[i] > 0.0;
        if (started && all_first == 0.0) {
            all_first = end;
            at_first = tokens;
        }
        done = all_done(c, requests);
    }
    for (uint32_t i = 0; i < c->batch; i++) {
        const ot_request_usage u = ot_request_get_usage(requests[i]);
        c->scored += u.candidates_scored;
        c->generated += u.completion_tokens;
        c->accepted += u.accepted_prediction_tokens;
        if (ot_request_finish(requests[i], 0) != OT_FINISH_LENGTH)
            st = ot_fail(err, OT_ERR_IO, "case '%s': a request did not run to its length: %s", c->name,
                         ot_request_error(requests[i]) != NULL ? ot_request_error(requests[i])->message : "");
        ot_request_release(&requests[i]);
    }
    c->rate[round] = c->n_decode == 1 ? c->batch * c->n_prompt / (all_first - start)
                                      : (tokens - at_first) / (end - all_first);
    return st;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double resident_mib(void)
{
    long pages = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f != NULL) {
        if (fscanf(f, "%ld %ld", &pages, &resident) != 2)
            resident = 0;
        fclose(f);
    }
    return (double)resident * 4096.0 / 1048576.0;
}

static void print_table(const bench *b, ot_bench_case *cases, uint32_t n)
{
    printf("| case | tokens/s | min | max | time against plain | scored a token | tokens a pass |\n|---|---|---|---|---|---|---|\n");
    for (uint32_t i = 0; i < n; i++) {
        ot_bench_case *c = &cases[i];
        qsort(c->rate, b->rounds, sizeof c->rate[0], by_value);
        c->median = c->rate[b->rounds / 2];
        char ratio[32] = "", scored[32] = "", pass[32] = "";
        if (c->baseline >= 0)
            snprintf(ratio, sizeof ratio, "%.2fx", cases[c->baseline].median / c->median);
        if (c->scored > 0)
            snprintf(scored, sizeof scored, "%.2f", (double)c->scored / (double)c->generated);
        if (c->steering.n_drafts > 0 && c->generated > c->accepted)
            snprintf(pass, sizeof pass, "%.2f", (double)c->generated / (double)(c->generated - c->accepted));
        printf("| %s | %.1f | %.1f | %.1f | %s | %s | %s |\n", c->name, c->median, c->rate[0], c->rate[b->rounds - 1], ratio, scored,
               pass);
    }
}

static void print_head(const bench *b)
{
    const ot_model_info *info = ot_model_get_info(b->session.model);
    printf("%s, %u threads; weights %.1f MiB (file %.1f), resident %.1f MiB with all that is loaded\n\n", info->name,
           ot_scheduler_get_options(b->session.scheduler)->n_threads, (double)info->weight_bytes / 1048576.0,
           (double)info->file_bytes / 1048576.0, resident_mib());
}

static void usage(FILE *to)
{
    fprintf(to, "Usage: otter bench --model FILE [OPTION]...\n"
                "       otter bench paper [OPTION]...\n\n"
                "Measures prefill and decoding, plain and in every way that the loaded heads and models allow, in turn within one\n"
                "run; prints medians in tokens a second and times against plain decoding, as a Markdown table. `otter bench paper` runs\n"
                "tests/bench/compare.py of the source tree (its --help tells more), with the Python in $OTTER_PYTHON or python3.\n\n"
                "  --model FILE          base model (GGUF)\n"
                "  --head NAME=FILE      insertion (repeatable): scalar, lookahead, experts or drafts\n"
                "  --reward-model NAME=MODEL,HEAD, --expert-model NAME=MODEL, --draft-model MODEL\n"
                "                        the same by separate models\n"
                "  --only WORD[,...]     plain cases, and those whose names hold a word\n"
                "  --threads N           threads of the engine (default: all)\n"
                "  --rounds N            rounds over all cases (default 5)\n"
                "  --prompt-tokens N     prompt of the prefill case (default 512)\n"
                "  --decode-tokens N     tokens to decode in a case (default 64)\n"
                "  --batches A,B,...     sequences at once (default 1,16)\n"
                "  --cpu-mask N          instruction sets to use, as bits: 0 plain C, 1 AVX2, 3 AVX-512, 7 VNNI (default all)\n");
}

/* The text that prompts are cut from; false (and prints) on failure. */
static bool make_text(bench *b)
{
    const size_t want = b->sizes.prompt_tokens + 7 * OT_BENCH_MAX_BATCH + 8;
    int32_t *once;
    size_t n_once;
    ot_error err;
    if (ot_tokenize(ot_model_tokenizer(b->session.model), prose, sizeof prose - 1, 0, &once, &n_once, &err) != OT_OK) {
        fprintf(stderr, "otter " COMMAND ": %s\n", err.message);
        return false;
    }
    b->text = malloc(want * sizeof *b->text);
    b->n_text = want;
    for (size_t i = 0; b->text != NULL && i < want; i++)
        b->text[i] = once[i % n_once];
    free(once);
    if (b->text == NULL)
        fprintf(stderr, "otter " COMMAND ": out of memory\n");
    return b->text != NULL;
}

static int run_bench(bench *b, ot_bench_case *cases, uint32_t n)
{
    ot_error err = {0};
    const double start = ot_cli_now_s();
    for (uint32_t round = 0; round < b->rounds; round++)
        for (uint32_t i = 0; i < n; i++) {
            const double elapsed = ot_cli_now_s() - start;
            const uint32_t done = round * n + i;
            fprintf(stderr, "\r\033[Kround %u of %u: %s, %.0f s left", round + 1, b->rounds, cases[i].name,
                    done > 0 ? elapsed / done * (b->rounds * n - done) : 0.0);
            if (run_case(b, &cases[i], round, &err) != OT_OK) {
                fprintf(stderr, "\notter " COMMAND ": %s\n", err.message);
                return 1;
            }
        }
    fprintf(stderr, "\r\033[K");
    print_head(b);
    print_table(b, cases, n);
    return 0;
}

/* Becomes the comparison program beside this one in the source tree, or below the working folder. */
static int run_paper(char **argv)
{
    static const char script[] = "tests/bench/compare.py";
    char path[4096] = {0}, self[3072] = {0}, *python = getenv("OTTER_PYTHON");
    if (readlink("/proc/self/exe", self, sizeof self - 1) > 0 && strrchr(self, '/') != NULL) {
        setenv("OTTER_BIN", self, 0);
        *strrchr(self, '/') = '\0';
        snprintf(path, sizeof path, "%s/../%s", self, script);
    }
    if (access(path, R_OK) != 0)
        snprintf(path, sizeof path, "%s", script);
    if (access(path, R_OK) != 0) {
        fprintf(stderr, "otter " COMMAND ": no %s beside this program's folder or below this one: it comes with the sources\n", script);
        return 1;
    }
    argv[-1] = python != NULL ? python : "python3";
    argv[0] = path;
    execvp(argv[-1], argv - 1);
    fprintf(stderr, "otter " COMMAND ": %s: %s\n", argv[-1], strerror(errno));
    return 1;
}

static const struct option long_options[] = {
    {"model", required_argument, NULL, 'm'},         {"head", required_argument, NULL, 'h'},
    {"reward-model", required_argument, NULL, 'R'},  {"expert-model", required_argument, NULL, 'E'},
    {"draft-model", required_argument, NULL, 'D'},   {"only", required_argument, NULL, 'o'},
    {"threads", required_argument, NULL, 't'},       {"rounds", required_argument, NULL, 'r'},
    {"prompt-tokens", required_argument, NULL, 'p'}, {"decode-tokens", required_argument, NULL, 'd'},
    {"batches", required_argument, NULL, 'b'},       {"cpu-mask", required_argument, NULL, 'c'},
    {"help", no_argument, NULL, 'H'},                {NULL, 0, NULL, 0},
};

static void parse_batches(ot_bench_sizes *sizes, char *text)
{
    sizes->n_batches = 0;
    for (char *save, *p = strtok_r(text, ",", &save); p != NULL && sizes->n_batches < 8; p = strtok_r(NULL, ",", &save))
        sizes->batches[sizes->n_batches++] = (uint32_t)strtoul(p, NULL, 10);
}

/* False for what no option is, or what cannot be taken. */
static bool parse_option(bench *b, int c)
{
    ot_cli_session_options *o = &b->options;
    switch (c) {
    case 'm': o->model = optarg; return true;
    case 'h': return ot_cli_add_head(o, optarg, COMMAND);
    case 'R': return ot_cli_add_model(o, OT_ROLE_REWARD_MODEL, optarg, COMMAND);
    case 'E': return ot_cli_add_model(o, OT_ROLE_EXPERT_MODEL, optarg, COMMAND);
    case 'D': return ot_cli_add_model(o, OT_ROLE_DRAFT_MODEL, optarg, COMMAND);
    case 'o': b->sizes.only = optarg; return true;
    case 't': o->scheduler.n_threads = (uint32_t)strtoul(optarg, NULL, 10); return true;
    case 'r': b->rounds = (uint32_t)strtoul(optarg, NULL, 10); return true;
    case 'p': b->sizes.prompt_tokens = (uint32_t)strtoul(optarg, NULL, 10); return true;
    case 'd': b->sizes.decode_tokens = (uint32_t)strtoul(optarg, NULL, 10); return true;
    case 'c': o->scheduler.cpu_mask = (unsigned)strtoul(optarg, NULL, 0); return true;
    case 'b': parse_batches(&b->sizes, optarg); return true;
    default: return false;
    }
}

static bool is_valid(const bench *b)
{
    const ot_bench_sizes *z = &b->sizes;
    bool valid = b->options.model != NULL && b->rounds >= 1 && b->rounds <= OT_BENCH_MAX_ROUNDS && z->decode_tokens >= 2 &&
                 z->prompt_tokens >= 1 && z->prompt_tokens <= 65536 && z->n_batches > 0;
    for (uint32_t i = 0; i < z->n_batches; i++)
        valid = valid && z->batches[i] >= 1 && z->batches[i] <= OT_BENCH_MAX_BATCH;
    return valid;
}

int ot_cli_bench(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "paper") == 0)
        return run_paper(argv + 1);
    static bench b;
    static ot_bench_case cases[OT_BENCH_MAX_CASES];
    b = (bench){.sizes = {.prompt_tokens = 512, .decode_tokens = 64, .batches = {1, 16}, .n_batches = 2}, .rounds = 5};
    ot_scheduler_options_default(&b.options.scheduler);
    for (int c; (c = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
        if (c == 'H') {
            usage(stdout);
            return 0;
        }
        if (!parse_option(&b, c)) {
            usage(stderr);
            return 2;
        }
    }
    if (!is_valid(&b)) {
        usage(stderr);
        return 2;
    }
    int status = 1;
    uint32_t n;
    if (ot_cli_session_open(&b.session, &b.options, COMMAND) && make_text(&b) && (n = ot_bench_list(&b.session, &b.sizes, cases)) > 0)
        status = run_bench(&b, cases, n);
    for (uint32_t i = 0; i < OT_BENCH_MAX_CASES; i++)
        ot_cli_intervention_release(&cases[i].intervention);
    ot_cli_session_close(&b.session);
    free(b.text);
    return status;
}
