/* otter bench: speed of this machine, as ratios within one run.
 *
 * Every case runs in turn, `rounds` times over, so that a drift of the machine's speed falls on all of them alike; the figure of a
 * case is its median. Cases go through the scheduler as requests do, without HTTP and without the prefix cache. */
#include "cli/commands.h"
#include "scheduler/scheduler.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_ROUNDS 99
#define MAX_BATCH 64
#define MAX_CASES 32

/* Ordinary prose to run on; repeated from different starts, so that sequences of a batch differ. */
static const char prose[] =
    "The harbour was quiet when the first boats came in, and the gulls had not yet begun their morning quarrel. Old Marten sat "
    "on the wall with his pipe unlit and counted the masts, as he did every day, and as every day the number came out wrong. "
    "Behind him the town climbed the hill in narrow steps: the bakery with its blue door, the school, the chapel whose bell had "
    "been silent since the storm. A girl ran down the lane with a letter in her hand. She asked him whether the ship from the "
    "north had arrived, and he told her that the wind had turned in the night and that nobody could say. She thanked him, sat "
    "down beside him, and read the letter again, slowly, with one finger under each line. ";

typedef struct bench {
    ot_model *model;
    ot_heads *heads;
    ot_scheduler *scheduler;
    int32_t *text;
    size_t n_text;
    uint32_t prompt_tokens, decode_tokens, rounds;
    const char *head; /* for signals and ARGS, or NULL */
} bench;

typedef struct bench_case {
    char name[64];
    uint32_t batch, n_prompt, n_decode;
    bool signals;
    uint32_t candidates;      /* ARGS if > 0 */
    float weight;
    const char *baseline;     /* the case it is compared with, or NULL */
    double rate[MAX_ROUNDS];  /* tokens a second */
    uint64_t scored, generated;
    double median;
} bench_case;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static ot_status add_intervention(const bench *b, const bench_case *c, ot_request_params *p, ot_error *err)
{
    if (!c->signals && c->candidates == 0)
        return OT_OK;
    ot_intervention *x = &p->intervention;
    const ot_status st = ot_heads_find(b->heads, b->head, &x->signals[0].head, &x->signals[0].output, err);
    if (st != OT_OK)
        return st;
    x->n_signals = 1;
    snprintf(x->signals[0].name, sizeof x->signals[0].name, "%s", b->head);
    x->signals[0].weight = c->weight;
    x->reward = c->candidates > 0;
    x->candidates = c->candidates;
    return OT_OK;
}

static ot_status submit(const bench *b, const bench_case *c, ot_request **requests, ot_error *err)
{
    ot_request_params params[MAX_BATCH];
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
        const ot_status st = add_intervention(b, c, p, err);
        if (st != OT_OK)
            return st;
    }
    return ot_scheduler_submit(b->scheduler, params, c->batch, requests, err);
}

/* Reads all there is; returns the tokens read and notes the time of each request's first. */
static uint32_t read_all(const bench_case *c, ot_request **requests, double *first)
{
    ot_token_out out[16];
    uint32_t tokens = 0;
    for (uint32_t i = 0; i < c->batch; i++) {
        size_t n;
        while ((n = ot_request_read(requests[i], 0, out, 16)) > 0) {
            for (size_t k = 0; k < n; k++)
                tokens += out[k].token >= 0;
            if (first[i] == 0.0)
                first[i] = now_s();
        }
    }
    return tokens;
}

static bool all_done(const bench_case *c, ot_request **requests)
{
    for (uint32_t i = 0; i < c->batch; i++)
        if (!ot_request_done(requests[i]))
            return false;
    return true;
}

/* One round of a case. Prefill (n_decode 1): prompt tokens by the time to the last first token. Decode: tokens after the last first
 * token by the time they took. */
static ot_status run_case(const bench *b, bench_case *c, uint32_t round, ot_error *err)
{
    ot_request *requests[MAX_BATCH] = {0};
    double first[MAX_BATCH] = {0}, all_first = 0.0, end = 0.0;
    uint32_t tokens = 0, at_first = 0;
    const double start = now_s();
    ot_status st = submit(b, c, requests, err);
    if (st != OT_OK)
        return st;
    for (bool done = false; !done;) {
        ot_scheduler_wait(b->scheduler, 1000);
        while (ot_scheduler_poll(b->scheduler) != NULL)
            continue;
        tokens += read_all(c, requests, first);
        end = now_s();
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

static uint32_t list_cases(const bench *b, bench_case *cases, const uint32_t *batches, uint32_t n_batches)
{
    uint32_t n = 0;
    cases[n++] = (bench_case){.name = "prefill", .batch = 1, .n_prompt = b->prompt_tokens, .n_decode = 1};
    if (b->head != NULL)
        cases[n++] = (bench_case){.name = "prefill with signals", .batch = 1, .n_prompt = b->prompt_tokens, .n_decode = 1,
                                  .signals = true, .baseline = "prefill"};
    for (uint32_t i = 0; i < n_batches && n + 5 <= MAX_CASES; i++) {
        const bench_case plain = {.batch = batches[i], .n_prompt = 32, .n_decode = b->decode_tokens};
        static char names[8][32];
        snprintf(names[i], sizeof names[i], "decode, batch %u", batches[i]);
        const struct { const char *what; bool signals; uint32_t k; float weight; } variants[] = {
            {"", false, 0, 0.0f},
            {", signals", true, 0, 0.0f},
            {", ARGS k=10 w=-1.5", false, 10, -1.5f},
            {", ARGS k=10 w=-4", false, 10, -4.0f},
            {", ARGS k=10 w=-100", false, 10, -100.0f}, /* too strong for pruning: every candidate is scored */
        };
        for (size_t v = 0; v < sizeof variants / sizeof variants[0] && (v == 0 || b->head != NULL); v++) {
            bench_case *c = &cases[n++];
            *c = plain;
            snprintf(c->name, sizeof c->name, "%.31s%.32s", names[i], variants[v].what);
            c->signals = variants[v].signals;
            c->candidates = variants[v].k;
            c->weight = variants[v].weight;
            c->baseline = v == 0 ? NULL : names[i];
        }
    }
    return n;
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

static void print_table(const bench *b, bench_case *cases, uint32_t n)
{
    printf("| case | tokens/s | min | max | time against plain | scored a token |\n|---|---|---|---|---|---|\n");
    for (uint32_t i = 0; i < n; i++) {
        bench_case *c = &cases[i];
        qsort(c->rate, b->rounds, sizeof c->rate[0], by_value);
        c->median = c->rate[b->rounds / 2];
        char ratio[32] = "", scored[32] = "";
        for (uint32_t k = 0; k < i && c->baseline != NULL; k++)
            if (strcmp(cases[k].name, c->baseline) == 0)
                snprintf(ratio, sizeof ratio, "%.2fx", cases[k].median / c->median);
        if (c->candidates > 0)
            snprintf(scored, sizeof scored, "%.2f", (double)c->scored / (double)c->generated);
        printf("| %s | %.1f | %.1f | %.1f | %s | %s |\n", c->name, c->median, c->rate[0], c->rate[b->rounds - 1], ratio, scored);
    }
}

static void usage(FILE *to)
{
    fprintf(to, "Usage: otter bench --model FILE [--head NAME=FILE] [OPTION]...\n\n"
                "Measures prefill and decoding, plain and steered by the head, in turn within one run; prints medians in\n"
                "tokens a second and times against plain decoding, as a Markdown table.\n\n"
                "  --model FILE          base model (GGUF)\n"
                "  --head NAME=FILE      insertion for the cases with signals and ARGS\n"
                "  --threads N           threads of the engine (default: all)\n"
                "  --rounds N            rounds over all cases (default 5)\n"
                "  --prompt-tokens N     prompt of the prefill case (default 512)\n"
                "  --decode-tokens N     tokens to decode in a case (default 64)\n"
                "  --batches A,B,...     sequences at once (default 1,16)\n"
                "  --cpu-mask N          instruction sets to use, as bits: 0 plain C, 1 AVX2, 3 AVX-512, 7 VNNI (default all)\n");
}

static ot_status open_bench(bench *b, const char *model, const char *head, const ot_scheduler_options *options, ot_error *err)
{
    ot_status st = ot_model_open(&b->model, model, err);
    if (st == OT_OK)
        st = ot_heads_open(&b->heads, b->model, 8, err);
    if (st == OT_OK && head != NULL) {
        static char name[64];
        const char *file = strchr(head, '=');
        if (file == NULL || (size_t)(file - head) >= sizeof name)
            return ot_fail_param(err, OT_ERR_INVALID, "head", "--head takes NAME=FILE");
        memcpy(name, head, (size_t)(file - head));
        b->head = name;
        st = ot_heads_load(b->heads, name, file + 1, NULL, err);
    }
    if (st == OT_OK)
        st = ot_scheduler_open(&b->scheduler, b->model, b->heads, options, err);
    if (st != OT_OK)
        return st;
    const size_t want = b->prompt_tokens + 7 * MAX_BATCH + 8;
    int32_t *once;
    size_t n_once;
    st = ot_tokenize(ot_model_tokenizer(b->model), prose, sizeof prose - 1, 0, &once, &n_once, err);
    if (st != OT_OK)
        return st;
    b->text = malloc(want * sizeof *b->text);
    b->n_text = want;
    for (size_t i = 0; b->text != NULL && i < want; i++)
        b->text[i] = once[i % n_once];
    free(once);
    return b->text == NULL ? ot_fail(err, OT_ERR_NOMEM, "out of memory") : OT_OK;
}

static int run_bench(bench *b, const uint32_t *batches, uint32_t n_batches, ot_error *err)
{
    static bench_case cases[MAX_CASES];
    const uint32_t n = list_cases(b, cases, batches, n_batches);
    const double start = now_s();
    for (uint32_t round = 0; round < b->rounds; round++)
        for (uint32_t i = 0; i < n; i++) {
            const double elapsed = now_s() - start;
            const uint32_t done = round * n + i;
            fprintf(stderr, "\r\033[Kround %u of %u: %s, %.0f s left", round + 1, b->rounds, cases[i].name,
                    done > 0 ? elapsed / done * (b->rounds * n - done) : 0.0);
            if (run_case(b, &cases[i], round, err) != OT_OK) {
                fprintf(stderr, "\notter bench: %s\n", err->message);
                return 1;
            }
        }
    fprintf(stderr, "\r\033[K");
    const ot_model_info *info = ot_model_get_info(b->model);
    printf("%s, %u threads; weights %.1f MiB (file %.1f), resident %.1f MiB\n\n", info->name,
           ot_scheduler_get_options(b->scheduler)->n_threads, (double)info->weight_bytes / 1048576.0,
           (double)info->file_bytes / 1048576.0, resident_mib());
    print_table(b, cases, n);
    return 0;
}

int ot_cli_bench(int argc, char **argv)
{
    static const struct option longs[] = {
        {"model", required_argument, NULL, 'm'},         {"head", required_argument, NULL, 'h'},
        {"threads", required_argument, NULL, 't'},       {"rounds", required_argument, NULL, 'r'},
        {"prompt-tokens", required_argument, NULL, 'p'}, {"decode-tokens", required_argument, NULL, 'd'},
        {"batches", required_argument, NULL, 'b'},       {"cpu-mask", required_argument, NULL, 'c'},
        {"help", no_argument, NULL, 'H'},                {NULL, 0, NULL, 0},
    };
    bench b = {.prompt_tokens = 512, .decode_tokens = 64, .rounds = 5};
    const char *model = NULL, *head = NULL;
    uint32_t batches[8] = {1, 16}, n_batches = 2;
    ot_scheduler_options options;
    ot_scheduler_options_default(&options);
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        switch (c) {
        case 'm': model = optarg; break;
        case 'h': head = optarg; break;
        case 't': options.n_threads = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 'r': b.rounds = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 'p': b.prompt_tokens = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 'd': b.decode_tokens = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 'c': options.cpu_mask = (unsigned)strtoul(optarg, NULL, 0); break;
        case 'b':
            n_batches = 0;
            for (char *p = strtok(optarg, ","); p != NULL && n_batches < 8; p = strtok(NULL, ","))
                batches[n_batches++] = (uint32_t)strtoul(p, NULL, 10);
            break;
        case 'H': usage(stdout); return 0;
        default: usage(stderr); return 2;
        }
    }
    bool valid = model != NULL && b.rounds >= 1 && b.rounds <= MAX_ROUNDS && b.decode_tokens >= 2 && b.prompt_tokens >= 1 &&
                 b.prompt_tokens <= 65536;
    for (uint32_t i = 0; i < n_batches; i++)
        valid = valid && batches[i] >= 1 && batches[i] <= MAX_BATCH;
    if (!valid) {
        usage(stderr);
        return 2;
    }
    ot_error err = {0};
    int status = 1;
    if (open_bench(&b, model, head, &options, &err) == OT_OK)
        status = run_bench(&b, batches, n_batches, &err);
    else
        fprintf(stderr, "otter bench: %s\n", err.message);
    ot_scheduler_close(&b.scheduler);
    ot_heads_close(&b.heads);
    ot_model_close(&b.model);
    free(b.text);
    return status;
}
