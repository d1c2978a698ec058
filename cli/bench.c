/* otter bench: speed of this machine, as ratios within one run, and as shares of what the processor can do at the most.
 *
 * Every case runs in turn, `rounds` times over, so that a drift of the machine's speed falls on all of them alike; the figure of a
 * case is its median. The processor's limits are measured before each round and after the last, and the best counts: they do not
 * depend on the moment, only what a neighbour leaves of them does. Cases go through the scheduler as requests do, without HTTP and
 * without the prefix cache. */
#include "cli/bench.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/arguments.h"
#include "cli/commands.h"

#define COMMAND "bench"
#define MAX_TEXT 65536 /* tokens of a prompt, a context or what is decoded */

/* Ordinary prose to run on; repeated from different starts, so that sequences of a batch differ. */
static const char prose[] =
    "The harbour was quiet when the first boats came in, and the gulls had not yet begun their morning quarrel. Old Marten sat "
    "on the wall with his pipe unlit and counted the masts, as he did every day, and as every day the number came out wrong. "
    "Behind him the town climbed the hill in narrow steps: the bakery with its blue door, the school, the chapel whose bell had "
    "been silent since the storm. A girl ran down the lane with a letter in her hand. She asked him whether the ship from the "
    "north had arrived, and he told her that the wind had turned in the night and that nobody could say. She thanked him, sat "
    "down beside him, and read the letter again, slowly, with one finger under each line. ";

static void print_head(const ot_bench *b)
{
    const ot_model_info *info = ot_model_get_info(b->session.model);
    printf("%s, %u threads; weights %.1f MiB (file %.1f), resident %.1f MiB with all that is loaded\n", info->name,
           ot_pool_threads(b->pool), (double)info->weight_bytes / 1048576.0,
           (double)info->file_bytes / 1048576.0, (double)ot_cli_resident_bytes() / 1048576.0);
    ot_bench_print_limits(b, ot_pool_threads(b->pool));
    printf("\n");
}

static void usage(FILE *to)
{
    fprintf(to, "Usage: otter bench --model FILE [OPTION]...\n"
                "       otter bench paper [OPTION]...\n\n"
                "Measures prefill and decoding, plain and in every way that the loaded heads and models allow, in turn within one\n"
                "run; prints medians in tokens a second, times against plain decoding and shares of what this machine can do at the most, as a Markdown\n"
                "table. `otter bench paper` runs tests/bench/compare.py of the source tree (its --help tells more), with the Python in\n"
                "$OTTER_PYTHON or python3.\n\n"
                "  --model FILE          base model (GGUF)\n"
                "  --head NAME=FILE      insertion (repeatable): scalar, lookahead, experts or drafts\n"
                "  --reward-model NAME=MODEL,HEAD, --expert-model NAME=MODEL, --draft-model MODEL\n"
                "                        the same by separate models\n"
                "  --only WORD[,...]     plain cases, and those whose names hold a word\n"
                "  --threads N           threads of the engine (default: all)\n"
                "  --rounds N            rounds over all cases (default 5)\n"
                "  --prompt-tokens N     prompt of the prefill case (default 512)\n"
                "  --decode-tokens N     tokens to decode in a case (default 64)\n"
                "  --batches A,B,...     sequences at once (default 1,2,4,8,16,32; with heads or models 1,16)\n"
                "  --contexts A,B,...    also one sequence up to so many tokens: its prompt, and decoding at its end\n"
                "  --limits              only measures the machine: reading memory, 8-bit and float products; needs no model\n"
                "  --profile             also where the time of a step goes, for every case\n"
                "  --json FILE           writes all figures and limits\n"
                "  --cpu-mask N          instruction sets to use, as bits: 0 plain C, 1 AVX2, 3 AVX-512, 7 VNNI (default all)\n");
}

/* The text that prompts are cut from; false (and prints) on failure. */
static bool make_text(ot_bench *b)
{
    size_t longest = b->sizes.prompt_tokens;
    for (uint32_t i = 0; i < b->sizes.n_contexts; i++)
        longest = b->sizes.contexts[i] > longest ? b->sizes.contexts[i] : longest;
    const size_t want = longest + 7 * OT_BENCH_MAX_BATCH + 8;
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

/* The first case once, not counted: the first steps of a process touch memory that nobody has touched before. */
static ot_status warm_up(const ot_bench *b, ot_bench_case *cases, ot_error *err)
{
    const ot_bench_case untouched = cases[0];
    const ot_status st = ot_bench_run_case(b, cases, 0, 0, err);
    cases[0] = untouched;
    return st;
}

/* Every case `rounds` times over, the limits in between. */
static bool run_rounds(ot_bench *b, ot_bench_case *cases, uint32_t n)
{
    ot_error err = {0};
    const unsigned mask = b->options.scheduler.cpu_mask;
    const double start = ot_clock_s();
    ot_status st = ot_machine_limits_raise(&b->limits, b->pool, mask, &err);
    if (st == OT_OK && n > 0 && !cases[0].rides)
        st = warm_up(b, cases, &err);
    for (uint32_t round = 0; st == OT_OK && round < b->rounds; round++) {
        for (uint32_t i = 0; st == OT_OK && i < n; i++) {
            const double elapsed = ot_clock_s() - start;
            const uint32_t done = round * n + i;
            fprintf(stderr, "\r\033[Kround %u of %u: %s, %.0f s left", round + 1, b->rounds, cases[i].name,
                    done > 0 ? elapsed / done * (b->rounds * n - done) : 0.0);
            if (!cases[i].rides)
                st = ot_bench_run_case(b, cases, i, round, &err);
        }
        if (st == OT_OK)
            st = ot_machine_limits_raise(&b->limits, b->pool, mask, &err);
    }
    fprintf(stderr, "\r\033[K");
    if (st != OT_OK)
        fprintf(stderr, "otter " COMMAND ": %s\n", err.message);
    return st == OT_OK;
}

static bool open_pool(ot_bench *b, uint32_t n_threads)
{
    ot_error err;
    if (ot_pool_open(&b->pool, n_threads, &err) == OT_OK)
        return true;
    fprintf(stderr, "otter " COMMAND ": %s\n", err.message);
    return false;
}

static int run_bench(ot_bench *b, ot_bench_case *cases)
{
    if (!ot_cli_session_open(&b->session, &b->options, COMMAND) || !make_text(b) ||
        !open_pool(b, ot_scheduler_get_options(b->session.scheduler)->n_threads))
        return 1;
    const uint32_t n = ot_bench_list(&b->session, &b->sizes, cases);
    if (n == 0 || !run_rounds(b, cases, n))
        return 1;
    ot_bench_settle(b, cases, n);
    print_head(b);
    ot_bench_print_table(b, cases, n);
    for (uint32_t i = 0; i < n && b->profile; i++)
        ot_bench_print_profile(b, &cases[i]);
    return b->json == NULL || ot_bench_write_json(b, cases, n) ? 0 : 1;
}

/* The machine alone. */
static int run_limits(ot_bench *b)
{
    enum { TIMES = 4 };
    ot_error err;
    cpu_set_t cpus;
    uint32_t n_threads = b->options.scheduler.n_threads;
    if (n_threads == 0)
        n_threads = sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? (uint32_t)CPU_COUNT(&cpus) : 1;
    if (!open_pool(b, n_threads))
        return 1;
    for (int i = 0; i < TIMES; i++)
        if (ot_machine_limits_raise(&b->limits, b->pool, b->options.scheduler.cpu_mask, &err) != OT_OK) {
            fprintf(stderr, "otter " COMMAND ": %s\n", err.message);
            return 1;
        }
    ot_bench_print_limits(b, n_threads);
    return b->json == NULL || ot_bench_write_json(b, NULL, 0) ? 0 : 1;
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
    {"contexts", required_argument, NULL, 'C'},      {"json", required_argument, NULL, 'j'},
    {"limits", no_argument, NULL, 'L'},              {"profile", no_argument, NULL, 'P'},
    {"help", no_argument, NULL, 'H'},                {NULL, 0, NULL, 0},
};

static bool parse_u32(const char *flag, uint32_t max, uint32_t *out)
{
    return ot_cli_parse_u32(optarg, flag, max, out, COMMAND);
}

/* "1,16": at most OT_BENCH_MAX_SIZES numbers. */
static bool parse_sizes(const char *flag, uint32_t max, uint32_t *sizes, uint32_t *n)
{
    *n = 0;
    for (char *save, *p = strtok_r(optarg, ",", &save); p != NULL && *n < OT_BENCH_MAX_SIZES; p = strtok_r(NULL, ",", &save))
        if (!ot_cli_parse_u32(p, flag, max, &sizes[(*n)++], COMMAND))
            return false;
    return true;
}

static bool parse_mask(unsigned *out)
{
    char *end;
    *out = (unsigned)strtoul(optarg, &end, 0);
    if (end != optarg && *end == '\0')
        return true;
    fprintf(stderr, "otter " COMMAND ": --cpu-mask takes a number, not '%s'\n", optarg);
    return false;
}

/* False (and prints) for what cannot be taken. */
static bool parse_option(ot_bench *b, int c, char **argv)
{
    ot_cli_session_options *o = &b->options;
    ot_bench_sizes *z = &b->sizes;
    switch (c) {
    case 'm': o->model = optarg; return true;
    case 'h': return ot_cli_add_head(o, optarg, COMMAND);
    case 'R': return ot_cli_add_model(o, OT_ROLE_REWARD_MODEL, optarg, COMMAND);
    case 'E': return ot_cli_add_model(o, OT_ROLE_EXPERT_MODEL, optarg, COMMAND);
    case 'D': return ot_cli_add_model(o, OT_ROLE_DRAFT_MODEL, optarg, COMMAND);
    case 'o': b->sizes.only = optarg; return true;
    case 't': return parse_u32("--threads", 1024, &o->scheduler.n_threads);
    case 'r': return parse_u32("--rounds", OT_BENCH_MAX_ROUNDS, &b->rounds);
    case 'p': return parse_u32("--prompt-tokens", MAX_TEXT, &z->prompt_tokens);
    case 'd': return parse_u32("--decode-tokens", MAX_TEXT, &z->decode_tokens);
    case 'c': return parse_mask(&o->scheduler.cpu_mask);
    case 'b': return parse_sizes("--batches", OT_BENCH_MAX_BATCH, z->batches, &z->n_batches);
    case 'C': return parse_sizes("--contexts", MAX_TEXT, z->contexts, &z->n_contexts);
    case 'j': b->json = optarg; return true;
    case 'L': b->limits_only = true; return true;
    case 'P': b->profile = true; return true;
    case ':': return ot_cli_wrong_usage(COMMAND, "a value is missing after ", argv[optind - 1]) == 0;
    default: return ot_cli_wrong_usage(COMMAND, "unknown option ", argv[optind - 1]) == 0;
    }
}

/* What cannot be run; NULL if nothing. */
static const char *find_fault(const ot_bench *b)
{
    const ot_bench_sizes *z = &b->sizes;
    if (b->limits_only)
        return NULL;
    if (b->options.model == NULL)
        return "--model FILE is missing";
    if (b->rounds == 0 || z->prompt_tokens == 0 || z->decode_tokens < 2)
        return "there is nothing to measure: at least 1 round, 1 prompt token and 2 decoded tokens";
    for (uint32_t i = 0; i < z->n_batches; i++)
        if (z->batches[i] == 0)
            return "--batches holds a 0";
    for (uint32_t i = 0; i < z->n_contexts; i++)
        if (z->contexts[i] <= z->decode_tokens)
            return "--contexts holds one without room for the decoded tokens";
    return NULL;
}

static void default_batches(ot_bench *b)
{
    static const uint32_t all[] = {1, 2, 4, 8, 16, 32}, some[] = {1, 16};
    const bool steers = b->options.n_heads + b->options.n_models > 0;
    const uint32_t n = steers ? sizeof some / sizeof some[0] : sizeof all / sizeof all[0];
    if (b->sizes.n_batches > 0)
        return;
    memcpy(b->sizes.batches, steers ? some : all, n * sizeof all[0]);
    b->sizes.n_batches = n;
}

int ot_cli_bench(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "paper") == 0)
        return run_paper(argv + 1);
    static ot_bench b;
    static ot_bench_case cases[OT_BENCH_MAX_CASES];
    b = (ot_bench){.sizes = {.prompt_tokens = 512, .decode_tokens = 64}, .rounds = 5};
    ot_scheduler_options_default(&b.options.scheduler);
    optind = 0;
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, "+:", long_options, NULL)) != -1;) {
        if (c == 'H') {
            usage(stdout);
            return 0;
        }
        if (!parse_option(&b, c, argv))
            return 2;
    }
    if (optind < argc)
        return ot_cli_wrong_usage(COMMAND, "unknown argument ", argv[optind]);
    const char *fault = find_fault(&b);
    if (fault != NULL)
        return ot_cli_wrong_usage(COMMAND, fault, "");
    default_batches(&b);
    const int status = b.limits_only ? run_limits(&b) : run_bench(&b, cases);
    for (uint32_t i = 0; i < OT_BENCH_MAX_CASES; i++)
        ot_intervention_release(&cases[i].intervention);
    ot_pool_close(&b.pool);
    ot_cli_session_close(&b.session);
    free(b.text);
    return status;
}
