/* /metrics in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats/). Names, types and labels
 * are vLLM's where it has them. Every label value is ours or the operator's: routes are the table's templates, and a head that
 * was loaded over HTTP goes by the name of its file. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "server/metrics-text.h"

static const unsigned counted_codes[OT_N_COUNTED_CODES] = {200, 201, 204, 400, 401, 403, 404, 405, 408, 413,
                                                           415, 421, 429, 431, 499, 500, 501, 503, 0 /* any other */};

void ot_metrics_count_http(ot_server *server, const ot_route *route, unsigned status)
{
    size_t i = 0;
    while (counted_codes[i] && counted_codes[i] != status)
        i++;
    server->http_requests[ot_route_index(route)][i]++;
}

/* ---- The format ------------------------------------------------------------------------------------------ */

void ot_metrics_family(ot_text *out, const char *name, const char *type, const char *help)
{
    ot_text_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* A label value: backslash, quote and newline are escaped. */
static void put_label_value(ot_text *out, const char *value)
{
    ot_text_append(out, "\"", 1);
    size_t bad, size = strlen(value);
    for (size_t at = 0; at < size;) {
        size_t n = ot_text_utf8_character(value + at, size - at, &bad);
        char c = value[at];
        if (n == 0)
            ot_text_puts(out, "\xEF\xBF\xBD");
        else if (c == '\\' || c == '"')
            ot_text_append(out, (const char[]){'\\', c}, 2);
        else if (c == '\n')
            ot_text_puts(out, "\\n");
        else
            ot_text_append(out, value + at, n);
        at += n ? n : bad;
    }
    ot_text_append(out, "\"", 1);
}

static void put_labels(ot_text *out, const ot_labels *labels, const char *le)
{
    bool any = false;
    for (size_t i = 0; i < labels->n; i++) {
        ot_text_printf(out, "%s%s=", any ? "," : "{", labels->names[i]);
        put_label_value(out, labels->values[i]);
        any = true;
    }
    if (le)
        ot_text_printf(out, "%sle=\"%s\"", any ? "," : "{", le);
    if (any || le)
        ot_text_append(out, "}", 1);
}

enum { NUMBER_BYTES = 32 };

/* Most numbers are counts, which need no search for the shortest digits that read back the same. */
static void format_number(double value, char digits[NUMBER_BYTES])
{
    if (isnan(value) || isinf(value)) {
        snprintf(digits, NUMBER_BYTES, "%s", isnan(value) ? "NaN" : value > 0 ? "+Inf" : "-Inf");
    } else if (fabs(value) < 1e15 && value == (double)(int64_t)value) {
        snprintf(digits, NUMBER_BYTES, "%" PRId64, (int64_t)value);
    } else {
        for (int precision = 6; precision <= 17; precision++) {
            snprintf(digits, NUMBER_BYTES, "%.*g", precision, value);
            if (strtod(digits, NULL) == value)
                break;
        }
    }
}

static void put_number(ot_text *out, double value)
{
    char digits[NUMBER_BYTES];
    format_number(value, digits);
    ot_text_puts(out, digits);
}

void ot_metrics_sample(ot_text *out, const char *name, const ot_labels *labels, double value)
{
    ot_text_puts(out, name);
    put_labels(out, labels, NULL);
    ot_text_append(out, " ", 1);
    put_number(out, value);
    ot_text_append(out, "\n", 1);
}

void ot_metrics_histogram(ot_text *out, const char *name, const ot_labels *labels, const ot_histogram *h)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i <= h->n_bounds; i++) {
        char bound[NUMBER_BYTES];
        format_number(i < h->n_bounds ? h->bounds[i] : INFINITY, bound);
        sum += h->counts[i];
        ot_text_printf(out, "%s_bucket", name);
        put_labels(out, labels, bound);
        ot_text_printf(out, " %llu\n", (unsigned long long)sum);
    }
    ot_text_printf(out, "%s_sum", name);
    put_labels(out, labels, NULL);
    ot_text_append(out, " ", 1);
    put_number(out, h->sum);
    ot_text_printf(out, "\n%s_count", name);
    put_labels(out, labels, NULL);
    ot_text_printf(out, " %llu\n", (unsigned long long)h->count);
}

ot_labels ot_labels_with(const ot_labels *labels, const char *name, const char *value)
{
    ot_labels more = *labels;
    if (more.n < OT_MAX_LABELS) {
        more.names[more.n] = name;
        more.values[more.n++] = value;
    }
    return more;
}

/* One family with one sample. */
static void put_one(ot_text *out, const char *name, const char *type, const char *help, const ot_labels *labels, double value)
{
    ot_metrics_family(out, name, type, help);
    ot_metrics_sample(out, name, labels, value);
}

static void put_histogram(ot_text *out, const char *name, const char *help, const ot_labels *labels, const ot_histogram *h)
{
    ot_metrics_family(out, name, "histogram", help);
    ot_metrics_histogram(out, name, labels, h);
}

/* A counter with one sample for each name of a list. */
static void put_counters(ot_text *out, const char *name, const char *help, const ot_labels *labels, const char *label,
                         const char *const *names, const uint64_t *values, size_t n)
{
    ot_metrics_family(out, name, "counter", help);
    for (size_t i = 0; i < n; i++) {
        ot_labels l = ot_labels_with(labels, label, names[i]);
        ot_metrics_sample(out, name, &l, (double)values[i]);
    }
}

/* ---- Heads ----------------------------------------------------------------------------------------------- */

/* The name that the operator gave, or the file of a head that was loaded over HTTP: no label may be a client's text. */
static const char *label_of(const ot_metrics_input *in, uint32_t head)
{
    for (uint32_t i = 0; i < in->n_configured; i++)
        if (strcmp(in->configured[i], in->stats->heads[head].name) == 0)
            return in->configured[i];
    return in->stats->heads[head].file;
}

/* Two heads of one label (one file loaded under two names) are one series. */
static void merge(ot_histogram *into, const ot_histogram *h)
{
    for (uint32_t i = 0; i <= into->n_bounds && into->n_bounds == h->n_bounds; i++)
        into->counts[i] += h->counts[i];
    into->sum += h->sum;
    into->count += h->count;
}

static void put_heads(ot_text *out, const ot_metrics_input *in, const ot_labels *none)
{
    const ot_stats *s = in->stats;
    bool done[OT_STATS_MAX_HEADS] = {false};
    ot_text running;
    ot_text_init(&running, 8192);
    ot_metrics_family(out, "otter_head_score", "histogram", "Scores that a head gave to generated tokens and candidates");
    for (uint32_t i = 0; i < s->n_heads && i < OT_STATS_MAX_HEADS; i++) {
        if (done[i])
            continue;
        const char *label = label_of(in, i);
        ot_histogram sum = s->heads[i].score;
        uint64_t n_running = s->heads[i].running_requests;
        for (uint32_t j = i + 1; j < s->n_heads && j < OT_STATS_MAX_HEADS; j++)
            if (!done[j] && strcmp(label_of(in, j), label) == 0) {
                merge(&sum, &s->heads[j].score);
                n_running += s->heads[j].running_requests;
                done[j] = true;
            }
        ot_labels l = ot_labels_with(none, "head", label);
        ot_metrics_histogram(out, "otter_head_score", &l, &sum);
        if (n_running)
            ot_text_printf(&running, "%s%s", running.size ? "," : "", label);
    }
    char most[16];
    snprintf(most, sizeof most, "%d", OT_STATS_MAX_HEADS);
    ot_labels l = ot_labels_with(none, "max_lora", most);
    l = ot_labels_with(&l, "waiting_lora_adapters", "");
    l = ot_labels_with(&l, "running_lora_adapters", running.data ? running.data : "");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    put_one(out, "vllm:lora_requests_info", "gauge", "Heads in use by running requests; the value is the time of this answer", &l,
            (double)now.tv_sec + (double)now.tv_nsec / 1e9);
    ot_text_free(&running);
}

/* ---- What vLLM has --------------------------------------------------------------------------------------- */

static void put_cache_config(ot_text *out, const ot_metrics_input *in, const ot_labels *model)
{
    char block[16], blocks[24], bytes[24];
    snprintf(block, sizeof block, "%u", in->stats->page_tokens);
    snprintf(blocks, sizeof blocks, "%llu", (unsigned long long)in->stats->kv_units_total);
    snprintf(bytes, sizeof bytes, "%zu", in->stats->kv_unit_bytes);
    ot_labels l = ot_labels_with(model, "block_size", block);
    l = ot_labels_with(&l, "num_gpu_blocks", blocks);
    l = ot_labels_with(&l, "num_cpu_blocks", "0");
    l = ot_labels_with(&l, "block_bytes", bytes);
    l = ot_labels_with(&l, "enable_prefix_caching", in->prefix_cache ? "True" : "False");
    put_one(out, "vllm:cache_config_info", "gauge", "Pages of the key/value cache: one block is a page of one key/value head", &l, 1);
}

static void put_waiting(ot_text *out, const ot_stats *s, const ot_labels *m)
{
    static const char *const by_reason = "vllm:num_requests_waiting_by_reason";
    uint32_t all = 0;
    for (size_t i = 0; i < OT_N_WAITS; i++)
        all += s->requests_waiting[i];
    put_one(out, "vllm:num_requests_waiting", "gauge", "Requests waiting for admission", m, all);
    ot_metrics_family(out, by_reason, "gauge", "The same by what they wait for: a place and pages (capacity), or a client that reads (deferred)");
    for (size_t i = 0; i < OT_N_WAITS; i++) {
        ot_labels l = ot_labels_with(m, "reason", ot_wait_names[i]);
        ot_metrics_sample(out, by_reason, &l, s->requests_waiting[i]);
    }
}

static void put_drafts(ot_text *out, const ot_stats *s, const ot_labels *m)
{
    static const char *const by_position = "vllm:spec_decode_num_accepted_tokens_per_pos_total";
    put_one(out, "vllm:spec_decode_num_drafts_total", "counter", "Turns with draft tokens", m, (double)s->draft_turns);
    put_one(out, "vllm:spec_decode_num_draft_tokens_total", "counter", "Draft tokens proposed", m, (double)s->draft_tokens);
    put_one(out, "vllm:spec_decode_num_accepted_tokens_total", "counter", "Draft tokens accepted", m, (double)s->accepted_tokens);
    ot_metrics_family(out, by_position, "counter", "Draft tokens accepted, by how many were accepted before them");
    for (size_t i = 0; i < OT_STATS_DRAFT_POSITIONS; i++) {
        char position[8];
        snprintf(position, sizeof position, "%zu", i);
        ot_labels l = ot_labels_with(m, "position", position);
        ot_metrics_sample(out, by_position, &l, (double)s->accepted_at[i]);
    }
}

/* Of requests and steps. A request is a prompt with all its choices, and counts once in each. */
static void put_requests(ot_text *out, const ot_stats *s, const ot_labels *m)
{
    const struct {
        const char *name, *help;
        const ot_histogram *values;
    } rows[] = {
        {"vllm:time_to_first_token_seconds", "From arrival to the first token", &s->time_to_first_token_s},
        {"vllm:inter_token_latency_seconds", "Between two tokens of a sequence", &s->inter_token_latency_s},
        {"vllm:e2e_request_latency_seconds", "From arrival to the end of a request", &s->e2e_latency_s},
        {"vllm:request_queue_time_seconds", "From arrival to admission", &s->queue_time_s},
        {"vllm:request_prefill_time_seconds", "From admission to the first token", &s->prefill_time_s},
        {"vllm:request_decode_time_seconds", "From the first token to the last", &s->decode_time_s},
        {"vllm:request_inference_time_seconds", "From admission to the end of a request", &s->inference_time_s},
        {"vllm:request_time_per_output_token_seconds", "Mean time between the tokens of a request", &s->time_per_output_token_s},
        {"vllm:request_prompt_tokens", "Prompt tokens of a request", &s->request_prompt_tokens},
        {"vllm:request_generation_tokens", "Generated tokens of a request", &s->request_generation_tokens},
        {"vllm:request_max_num_generation_tokens", "Generated tokens of a request's longest choice", &s->request_longest_tokens},
        {"vllm:request_params_n", "Choices that a request asks for", &s->request_choices},
        {"vllm:request_params_max_tokens", "Tokens that a choice may have, cut to the context", &s->request_max_tokens},
        {"vllm:iteration_tokens_total", "Rows in a step", &s->iteration_tokens},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        put_histogram(out, rows[i].name, rows[i].help, m, rows[i].values);
}

static void put_vllm(ot_text *out, const ot_metrics_input *in, const ot_labels *m)
{
    const ot_stats *s = in->stats;
    double usage = s->kv_units_total ? (double)s->kv_units_used / (double)s->kv_units_total : 0;
    put_one(out, "vllm:num_requests_running", "gauge", "Requests being computed", m, s->requests_running);
    put_waiting(out, s, m);
    put_one(out, "vllm:kv_cache_usage_perc", "gauge", "Part of the key/value cache that sequences hold; 1 is full", m, usage);
    put_cache_config(out, in, m);
    put_one(out, "vllm:prompt_tokens_total", "counter", "Prompt tokens of finished prefills", m, (double)s->prompt_tokens);
    put_one(out, "vllm:generation_tokens_total", "counter", "Generated tokens", m, (double)s->generation_tokens);
    put_one(out, "vllm:num_preemptions_total", "counter", "Sequences that gave their pages back and were computed again", m,
            (double)s->preemptions);
    put_one(out, "vllm:prefix_cache_queries_total", "counter", "Prompt tokens looked up in the prefix cache", m,
            (double)s->prefix_cache_queries);
    put_one(out, "vllm:prefix_cache_hits_total", "counter", "Prompt tokens found in the prefix cache", m,
            (double)s->prefix_cache_hits);
    put_one(out, "vllm:prompt_tokens_cached_total", "counter", "Prompt tokens that were not computed, as a cache had them", m,
            (double)s->prefix_cache_hits);
    put_counters(out, "vllm:request_success_total", "Finished requests, each counted once whatever its choices", m, "finished_reason", ot_finish_names + 1, s->finished + 1,
                 OT_N_FINISHES - 1); /* not those that still run */
    put_drafts(out, s, m);
    put_requests(out, s, m);
}

/* ---- Ours ------------------------------------------------------------------------------------------------ */

static void put_otter(ot_text *out, const ot_metrics_input *in, const ot_labels *none)
{
    const ot_stats *s = in->stats;
    double usage = s->companion_units_total ? (double)s->companion_units_used / (double)s->companion_units_total : 0;
    put_heads(out, in, none);
    put_one(out, "otter_companion_kv_usage_perc", "gauge",
            "Part of the separate models' key/value caches that sequences hold; 1 is full, 0 also where there are none", none, usage);
    put_counters(out, "otter_intervention_requests_total", "Requests that asked for an intervention", none, "mode", ot_mode_names,
                 s->intervention_requests, OT_N_MODES);
    put_one(out, "otter_candidates_scored_total", "counter", "Candidate tokens that heads scored", none,
            (double)s->candidates_scored);
    put_counters(out, "otter_intervention_changed_tokens_total", "Tokens that differ from what the base alone would have picked",
                 none, "mode", ot_mode_names, s->intervention_changed, OT_N_MODES);
    put_counters(out, "otter_requests_rejected_total", "Requests refused at submission", none, "reason", ot_reject_names,
                 s->rejected, OT_N_REJECTS);
    put_counters(out, "otter_requests_cancelled_total", "Requests whose client went away", none, "phase", ot_phase_names,
                 s->cancelled, OT_N_PHASES);
    ot_metrics_family(out, "otter_step_seconds", "histogram", "Time of the parts of a step");
    for (size_t i = 0; i < OT_N_STEP_PHASES; i++) {
        ot_labels l = ot_labels_with(none, "phase", ot_step_phase_names[i]);
        ot_metrics_histogram(out, "otter_step_seconds", &l, &s->step_s[i]);
    }
}

static void put_grammars(ot_text *out, const ot_metrics_input *in, const ot_labels *none)
{
    const ot_grammars_stats *g = &in->grammars;
    static const char *const results[] = {"found", "compiled", "refused"};
    const uint64_t counts[] = {g->found, g->compiled - g->refused, g->refused};
    put_counters(out, "otter_grammars_total", "Grammars asked for: found compiled, compiled, or refused", none, "result", results, counts, 3);
    put_one(out, "otter_grammar_compile_seconds_total", "counter", "Time spent on compiling grammars", none, g->compile_s);
    put_one(out, "otter_grammar_bytes", "gauge", "What the grammars that are kept may take", none, (double)g->bytes);
    put_one(out, "otter_constrained_requests_total", "counter", "Requests whose answer had to follow a grammar", none,
            (double)in->stats->constrained_requests);
    put_one(out, "otter_constraint_masks_total", "counter", "Positions that were decided under a grammar", none,
            (double)in->stats->constraint_masks);
    put_one(out, "otter_constraint_seconds_total", "counter", "Time of the engine's thread spent on grammars", none, in->stats->constraint_s);
}

static void put_http(ot_text *out, const ot_metrics_input *in, const ot_labels *none)
{
    ot_metrics_family(out, "otter_http_requests_total", "counter", "HTTP requests by route and status; 499: the client left");
    for (size_t r = 0; r <= ot_route_count(); r++)
        for (size_t c = 0; c < OT_N_COUNTED_CODES; c++) {
            char code[8];
            if (in->http_requests[r][c] == 0)
                continue;
            snprintf(code, sizeof code, "%u", counted_codes[c]);
            ot_labels l = ot_labels_with(none, "method", r < ot_route_count() ? ot_route_at(r)->method : "other");
            l = ot_labels_with(&l, "route", r < ot_route_count() ? ot_route_at(r)->path : "other");
            l = ot_labels_with(&l, "code", counted_codes[c] ? code : "other");
            ot_metrics_sample(out, "otter_http_requests_total", &l, (double)in->http_requests[r][c]);
        }
}

/* /proc/self/stat: fields 14, 15 (clock ticks), 23 (bytes) and 24 (pages), counted from 1; the name in brackets may hold anything. */
static void put_process(ot_text *out, const ot_metrics_input *in, const ot_labels *none)
{
    char line[1024] = "";
    unsigned long user = 0, kernel = 0, virtual_bytes = 0;
    long pages = 0;
    FILE *file = fopen("/proc/self/stat", "re");
    if (file && fgets(line, sizeof line, file)) {
        const char *rest = strrchr(line, ')');
        if (!rest || sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d %*d %*d %*u %lu %ld",
                            &user, &kernel, &virtual_bytes, &pages) != 4)
            user = kernel = 0;
    }
    if (file)
        fclose(file);
    struct rlimit limit = {0};
    getrlimit(RLIMIT_NOFILE, &limit);
    put_one(out, "process_cpu_seconds_total", "counter", "Processor time", none,
            (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK));
    put_one(out, "process_resident_memory_bytes", "gauge", "Resident memory", none, (double)pages * (double)sysconf(_SC_PAGESIZE));
    put_one(out, "process_virtual_memory_bytes", "gauge", "Virtual memory", none, (double)virtual_bytes);
    put_one(out, "process_open_fds", "gauge", "Open file descriptors", none, in->open_fds);
    put_one(out, "process_max_fds", "gauge", "File descriptors that may be open", none, (double)limit.rlim_cur);
    put_one(out, "process_start_time_seconds", "gauge", "Start of the process, since the epoch", none, in->start_time_s);
}

void ot_metrics_write(const ot_metrics_input *in, ot_text *out)
{
    ot_labels none = {0};
    ot_labels model = ot_labels_with(&none, "model_name", in->model_name);
    put_vllm(out, in, &model);
    put_otter(out, in, &none);
    put_grammars(out, in, &none);
    put_http(out, in, &none);
    ot_metrics_write_edge(in, out);
    ot_labels build = ot_labels_with(&none, "version", OTTER_VERSION);
    build = ot_labels_with(&build, "backend", "cpu");
    put_one(out, "otter_build_info", "gauge", "The build that serves; always 1", &build, 1);
    put_process(out, in, &none);
}
