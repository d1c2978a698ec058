/* What `otter bench` found, as a Markdown table and as JSON.
 *
 * A share sets the measured rate against the limit that binds it: what the engine counted a token (products, bytes of weights, keys
 * and values; engine.h, ot_stage_time) takes so long at least on this machine (machine-limits.h). The cores that the process really had
 * meanwhile tell how much of a low share is a neighbour's doing. */
#include "cli/bench.h"
#include "engine/kernels.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void ot_bench_settle(const ot_bench *b, ot_bench_case *cases, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        qsort(cases[i].rate, b->rounds, sizeof cases[i].rate[0], by_value);
        cases[i].median = (cases[i].rate[(b->rounds - 1) / 2] + cases[i].rate[b->rounds / 2]) / 2.0;
    }
}

static double time_against_plain(const ot_bench_case *cases, const ot_bench_case *c)
{
    return c->baseline >= 0 ? cases[c->baseline].median / c->median : 0.0;
}

static double tokens_a_pass(const ot_bench_case *c)
{
    return c->steering.n_drafts > 0 && c->generated > c->accepted ? (double)c->generated / (double)(c->generated - c->accepted) : 0.0;
}

static double scored_a_token(const ot_bench_case *c)
{
    return c->scored > 0 ? (double)c->scored / (double)c->generated : 0.0;
}

static double cores(const ot_bench_case *c)
{
    return c->tally.wall_s > 0.0 ? c->tally.cpu_s / c->tally.wall_s : 0.0;
}

/* What a token of the case needs on average. */
static ot_work work_a_token(const ot_bench_case *c)
{
    ot_work w = {0};
    for (uint32_t i = 0; i < c->tally.n_stages && c->tally.tokens > 0; i++) {
        w.int8_ops += c->tally.stages[i].int8_ops / c->tally.tokens;
        w.float_ops += c->tally.stages[i].float_ops / c->tally.tokens;
        w.bytes += c->tally.stages[i].bytes / c->tally.tokens;
    }
    return w;
}

double ot_bench_share(const ot_machine_limits *limits, const ot_bench_case *c, ot_limit *which)
{
    const ot_work w = work_a_token(c);
    return ot_machine_least_s(limits, &w, which) * c->median;
}

/* ---- Tables ---------------------------------------------------------------------------------------------- */

void ot_bench_print_limits(const ot_bench *b, uint32_t n_threads)
{
    printf("limits of %u threads, %s: read %.1f GB/s, int8 %.0f GOP/s, float %.0f GFLOP/s\n", n_threads,
           ot_kernels_select(b->options.scheduler.cpu_mask)->name, b->limits.read_gb_s, b->limits.int8_gop_s,
           b->limits.float_gflop_s);
}

void ot_bench_print_table(const ot_bench *b, const ot_bench_case *cases, uint32_t n)
{
    printf("| case | tokens/s | min | max | time against plain | scored a token | tokens a pass | share of limit | cores |\n"
           "|---|---|---|---|---|---|---|---|---|\n");
    for (uint32_t i = 0; i < n; i++) {
        const ot_bench_case *c = &cases[i];
        char ratio[32] = "", scored[32] = "", pass[32] = "", share[32] = "";
        ot_limit which;
        const double of_limit = ot_bench_share(&b->limits, c, &which);
        if (c->baseline >= 0)
            snprintf(ratio, sizeof ratio, "%.2fx", time_against_plain(cases, c));
        if (c->scored > 0)
            snprintf(scored, sizeof scored, "%.2f", scored_a_token(c));
        if (tokens_a_pass(c) > 0.0)
            snprintf(pass, sizeof pass, "%.2f", tokens_a_pass(c));
        if (which != OT_LIMIT_NONE)
            snprintf(share, sizeof share, "%.0f%% of %s", 100.0 * of_limit, ot_limit_name(which));
        printf("| %s | %.1f | %.1f | %.1f | %s | %s | %s | %s | %.2f |\n", c->name, c->median, c->rate[0], c->rate[b->rounds - 1], ratio,
               scored, pass, share, cores(c));
    }
}

/* ---- JSON ------------------------------------------------------------------------------------------------ */

static json_t *real_or_null(double value)
{
    return value > 0.0 ? json_real(value) : json_null();
}

static json_t *case_json(const ot_bench *b, const ot_bench_case *cases, const ot_bench_case *c)
{
    ot_limit which;
    const double share = ot_bench_share(&b->limits, c, &which);
    const ot_work w = work_a_token(c);
    json_t *rates = json_array();
    for (uint32_t r = 0; r < b->rounds; r++)
        json_array_append_new(rates, json_real(c->rate[r]));
    return json_pack("{s:s, s:f, s:f, s:f, s:o, s:o, s:i, s:i, s:i, s:o, s:o, s:o, s:s?, s:f, s:{s:f, s:f, s:f}}", "name", c->name,
                     "tokens_per_s", c->median, "min", c->rate[0], "max", c->rate[b->rounds - 1], "rates", rates, "ratio",
                     real_or_null(time_against_plain(cases, c)), "batch", (int)c->batch, "prompt_tokens", (int)c->n_prompt,
                     "decode_tokens", (int)c->n_decode, "scored_a_token", real_or_null(scored_a_token(c)), "tokens_a_pass",
                     real_or_null(tokens_a_pass(c)), "share", real_or_null(share), "limit",
                     which != OT_LIMIT_NONE ? ot_limit_name(which) : NULL, "cores", cores(c), "work_a_token", "int8_ops", w.int8_ops, "float_ops",
                     w.float_ops, "bytes", w.bytes);
}

/* The processor's name as Linux tells it, or "". */
static void read_processor(char *out, size_t size)
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "r");
    out[0] = '\0';
    while (f != NULL && out[0] == '\0' && fgets(line, sizeof line, f) != NULL) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon != NULL)
            snprintf(out, size, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
    }
    if (f != NULL)
        fclose(f);
}

static json_t *machine_json(const ot_bench *b)
{
    char processor[128];
    double load[1] = {0};
    read_processor(processor, sizeof processor);
    if (getloadavg(load, 1) != 1)
        load[0] = 0.0;
    return json_pack("{s:s, s:i, s:s, s:f}", "processor", processor, "threads", (int)ot_pool_threads(b->pool), "kernels",
                     ot_kernels_select(b->options.scheduler.cpu_mask)->name, "load_average", load[0]);
}

static json_t *model_json(const ot_bench *b)
{
    if (b->session.model == NULL)
        return json_null();
    const ot_model_info *info = ot_model_get_info(b->session.model);
    return json_pack("{s:s, s:I, s:I}", "name", info->name, "weight_bytes", (json_int_t)info->weight_bytes, "file_bytes",
                     (json_int_t)info->file_bytes);
}

bool ot_bench_write_json(const ot_bench *b, const ot_bench_case *cases, uint32_t n)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < n; i++)
        json_array_append_new(list, case_json(b, cases, &cases[i]));
    json_t *all = json_pack("{s:{s:f, s:f, s:f}, s:o, s:o, s:o, s:i}", "limits", "read_gb_s", b->limits.read_gb_s, "int8_gop_s",
                            b->limits.int8_gop_s, "float_gflop_s", b->limits.float_gflop_s, "machine", machine_json(b), "model",
                            model_json(b), "cases", list, "rounds", (int)b->rounds);
    const bool written = all != NULL && json_dump_file(all, b->json, JSON_INDENT(1) | JSON_REAL_PRECISION(7)) == 0;
    json_decref(all);
    if (!written)
        fprintf(stderr, "otter bench: cannot write %s\n", b->json);
    return written;
}
