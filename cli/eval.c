/* otter eval: AUC, accuracy and calibration of a scalar head on labelled rows, accuracy on pairs, or how quiet it is on prompts;
 * perplexity and hits of generation heads; how far a lookahead head agrees with exact scores. */
#include "cli/commands.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/train.h"

enum { MAX_JUDGED = 32 };

typedef struct eval_arguments {
    ot_eval_options options; /* head is set for each in turn */
    const char *heads[MAX_JUDGED];
    uint32_t n_heads;
    bool json, half, quiet;
} eval_arguments;

static void print_help(void)
{
    printf("Usage: otter eval --model FILE --head FILE... --data FILE [OPTION]...\n\n"
           "Scores the rows of a JSON Lines file (plain or gzip): {text, label} gives AUC with its 95%% interval, accuracy,\n"
           "calibration, and these by source, and how early the score passes --threshold; {messages, chosen, rejected} the accuracy on\n"
           "pairs; {prompt} how quiet the head is.\n"
           "Generation heads: perplexity, and how often each head's first or first five guesses are right, of texts as they stand, or\n"
           "of the completion of {prompt, completion}; tokens a pass: greedy decoding of these texts with a chain of drafts.\n"
           "Lookahead heads: against the exact scores of the head they are stacked on, for the base's ten likeliest next tokens.\n\n"
           "  --head FILE            the head to judge; repeated: each of them, one after the other\n"
           "  --half                 figures for the first half of each text's tokens, too\n"
           "  --chat                 texts as a user's message in the chat template\n"
           "  --only-label 0|1       of {text, label} rows only those with this label\n"
           "  --threshold X          the limit at which a score counts as noticed while a text is read (0.5)\n"
           "  --output N             which output of the head (0)\n"
           "  --max-rows N           rows, spread evenly over the file; 0: all (0)\n"
           "  --max-length N         tokens of a text; longer ones are cut (512)\n"
           "  --batch-tokens N       tokens in a batch (1024)\n"
           "  --parent NAME=FILE     an insertion that the head is stacked on (repeatable, lowest first)\n"
           "  --chat-template NAME   a template by name or file, instead of the model's own\n"
           "  --allow-base-mismatch  accept a head made for another base file\n"
           "  --threads N            0: all cores (0)\n"
           "  --json                 print JSON\n"
           "  --quiet                no progress\n");
}

/* ---- Arguments ---------------------------------------------------------------------------------------------- */

static bool set_text(char *field, size_t size, const char *value)
{
    if (strlen(value) >= size)
        return false;
    strcpy(field, value);
    return true;
}

static bool set_count(uint32_t *field, const char *value)
{
    char *end;
    errno = 0;
    const unsigned long x = strtoul(value, &end, 10);
    if (*value < '0' || *value > '9' || *end != '\0' || errno != 0 || x > (1u << 30))
        return false;
    *field = (uint32_t)x;
    return true;
}

static bool set_number(double *field, const char *value)
{
    char *end;
    const double x = strtod(value, &end);
    if (end == value || *end != '\0' || !isfinite(x))
        return false;
    *field = x;
    return true;
}

static bool set_switch(eval_arguments *a, const char *name)
{
    const struct { const char *name; bool *field; } switches[] = {
        {"--json", &a->json}, {"--half", &a->half}, {"--quiet", &a->quiet}, {"--chat", &a->options.chat},
        {"--allow-base-mismatch", &a->options.allow_base_mismatch},
    };
    for (size_t i = 0; i < sizeof switches / sizeof switches[0]; i++)
        if (strcmp(name, switches[i].name) == 0)
            return *switches[i].field = true;
    return false;
}

/* 1: taken, 0: no such option, -1: a bad value. */
static int set_option(eval_arguments *a, const char *name, const char *value)
{
    ot_eval_options *o = &a->options;
    const struct { const char *name; char *field; size_t size; } texts[] = {
        {"--model", o->model, sizeof o->model}, {"--data", o->data, sizeof o->data},
        {"--chat-template", o->chat_template, sizeof o->chat_template},
        {"--only-label", o->only_label, sizeof o->only_label},
    };
    const struct { const char *name; uint32_t *field; } counts[] = {
        {"--output", &o->output}, {"--max-rows", &o->max_rows}, {"--max-length", &o->max_length},
        {"--batch-tokens", &o->batch_tokens}, {"--threads", &o->threads},
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (strcmp(name, texts[i].name) == 0)
            return set_text(texts[i].field, texts[i].size, value) ? 1 : -1;
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        if (strcmp(name, counts[i].name) == 0)
            return set_count(counts[i].field, value) ? 1 : -1;
    if (strcmp(name, "--threshold") == 0)
        return set_number(&o->threshold, value) ? 1 : -1;
    if (strcmp(name, "--head") == 0)
        return a->n_heads < MAX_JUDGED && strlen(value) < OT_TRAIN_PATH && (a->heads[a->n_heads++] = value)[0] ? 1 : -1;
    if (strcmp(name, "--parent") == 0)
        return o->n_parents < OT_MAX_PARENTS && set_text(o->parents[o->n_parents++], OT_TRAIN_PATH, value) ? 1 : -1;
    return 0;
}

static bool parse(eval_arguments *a, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (set_switch(a, argv[i]))
            continue;
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        const int taken = set_option(a, argv[i], value);
        if (taken == 0)
            fprintf(stderr, "otter eval: no option %s; `otter eval --help` lists them\n", argv[i]);
        else if (i + 1 >= argc || taken < 0)
            fprintf(stderr, "otter eval: %s: '%s' is not a value for it\n", argv[i], value);
        if (taken <= 0 || i + 1 >= argc)
            return false;
        i++;
    }
    const char *missing = !a->options.model[0] ? "--model" : a->n_heads == 0 ? "--head" : !a->options.data[0] ? "--data" : NULL;
    if (missing != NULL)
        fprintf(stderr, "otter eval: %s is missing\n", missing);
    return missing == NULL;
}

/* ---- As text ------------------------------------------------------------------------------------------------ */

static void print_figures(const char *name, const ot_eval_figures *f)
{
    printf("%-18s %8llu %8llu  %.4f [%.4f, %.4f]  %.4f  %.4f  %.4f\n", name, (unsigned long long)f->n_rows,
           (unsigned long long)f->n_positive, f->auc, f->auc_low, f->auc_high, f->accuracy, f->brier, f->ece);
}

static void print_calibration(const ot_eval_figures *f)
{
    printf("\ncalibration       rows   mean score  mean label\n");
    for (int b = 0; b < OT_EVAL_BINS; b++)
        if (f->bin_rows[b] > 0)
            printf("%.1f to %.1f    %8llu  %10.4f  %10.4f\n", (double)b / OT_EVAL_BINS, (b + 1.0) / OT_EVAL_BINS,
                   (unsigned long long)f->bin_rows[b], f->bin_score[b], f->bin_label[b]);
}

static void print_labelled(const eval_arguments *a, const ot_eval_result *r)
{
    char name[80];
    printf("%-18s %8s %8s  %-25s  %-6s  %-6s  %-6s\n", "texts", "rows", "positive", "AUC [95% interval]", "accur.", "Brier", "ECE");
    print_figures("whole", &r->whole);
    for (uint32_t i = 0; i < r->n_sources && r->n_sources > 1; i++)
        print_figures(r->source_names[i], &r->sources[i]);
    if (a->half) {
        print_figures("half", &r->half);
        for (uint32_t i = 0; i < r->n_sources && r->n_sources > 1; i++) {
            snprintf(name, sizeof name, "half %s", r->source_names[i]);
            print_figures(name, &r->source_halves[i]);
        }
    }
    print_calibration(&r->whole);
}

static void print_language(const ot_eval_result *r)
{
    printf("%-18s %10s %12s  %-8s  %-8s\n", "next tokens", "tokens", "perplexity", "top-1", "top-5");
    if (r->has_base)
        printf("%-18s %10llu %12.4f  %.4f    %.4f\n", "base", (unsigned long long)r->base.n_tokens, exp(r->base.nll), r->base.top1,
               r->base.top5);
    for (uint32_t k = 0; k < r->n_heads; k++)
        printf("head, offset %-5u %10llu %12.4f  %.4f    %.4f\n", r->heads[k].offset, (unsigned long long)r->heads[k].n_tokens,
               exp(r->heads[k].nll), r->heads[k].top1, r->heads[k].top5);
    if (r->tokens_per_pass > 0)
        printf("tokens a pass, by a chain of drafts: %.4f\n", r->tokens_per_pass);
}

static void print_lookahead(const ot_lookahead_figures *f)
{
    printf("%llu positions, ten likeliest next tokens each\ncorrelation of scores %.4f, of changes %.4f, of differences among the ten %.4f\n"
           "names the highest of ten %.4f, the lowest %.4f\n", (unsigned long long)f->n_positions, f->score_correlation,
           f->change_correlation, f->within_correlation, f->highest_of_ten, f->lowest_of_ten);
}

static void print_stream(const ot_stream_figures *f, double threshold)
{
    if (f->n_harmful > 0)
        printf("\nabove %g while read: %.4f of %llu harmful texts, after %.3f of their tokens", threshold, f->recall,
               (unsigned long long)f->n_harmful, f->read_share);
    if (f->n_spans > 0)
        printf("; of %llu with spans %.4f before the first one ended, the others %.2f tokens after", (unsigned long long)f->n_spans, f->before_span,
               f->after_span);
    if (f->n_harmless > 0)
        printf("\nabove %g while read: %.5f of %llu harmless texts", threshold, f->false_alarms, (unsigned long long)f->n_harmless);
    putchar('\n');
}

static void print_text(const eval_arguments *a, const ot_eval_result *r)
{
    if (r->is_labelled)
        print_labelled(a, r);
    if (r->is_paired)
        printf("pairs %llu, accuracy %.4f, mean margin %.4f\n", (unsigned long long)r->n_rows, r->pair_accuracy, r->pair_margin);
    if (r->is_language)
        print_language(r);
    if (r->is_lookahead)
        print_lookahead(&r->lookahead);
    if (r->is_unlabelled)
        printf("prompts %llu: mean score %.4f, 95%% below %.4f, 99%% below %.4f, above 0.5: %.4f of the tokens\n",
               (unsigned long long)r->n_rows, r->quiet_mean, r->quiet_p95, r->quiet_p99, r->quiet_above_half);
    if (r->is_streamed)
        print_stream(&r->stream, a->options.threshold);
    printf("\n%llu tokens in %.1f s\n", (unsigned long long)r->n_tokens, r->seconds);
}

/* ---- As JSON ------------------------------------------------------------------------------------------------ */

static json_t *number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *figures_json(const ot_eval_figures *f)
{
    json_t *bins = json_array();
    for (int b = 0; b < OT_EVAL_BINS; b++)
        json_array_append_new(bins, json_pack("{s:I, s:o, s:o}", "rows", (json_int_t)f->bin_rows[b], "score",
                                              number(f->bin_score[b]), "label", number(f->bin_label[b])));
    return json_pack("{s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "rows", (json_int_t)f->n_rows, "positive",
                     (json_int_t)f->n_positive, "auc", number(f->auc), "auc_low", number(f->auc_low), "auc_high",
                     number(f->auc_high), "accuracy", number(f->accuracy), "brier", number(f->brier), "log_loss",
                     number(f->log_loss), "ece", number(f->ece), "calibration", bins);
}

static void add_labelled(json_t *root, const eval_arguments *a, const ot_eval_result *r)
{
    json_t *sources = json_object();
    json_object_set_new(root, "whole", figures_json(&r->whole));
    if (a->half)
        json_object_set_new(root, "half", figures_json(&r->half));
    for (uint32_t i = 0; i < r->n_sources; i++) {
        json_t *one = json_pack("{s:o}", "whole", figures_json(&r->sources[i]));
        if (a->half)
            json_object_set_new(one, "half", figures_json(&r->source_halves[i]));
        json_object_set_new(sources, r->source_names[i], one);
    }
    json_object_set_new(root, "sources", sources);
}

static json_t *language_json(const ot_language_figures *f)
{
    return json_pack("{s:I, s:I, s:o, s:o, s:o, s:o}", "offset", (json_int_t)f->offset, "tokens", (json_int_t)f->n_tokens, "nll",
                     number(f->nll), "perplexity", number(exp(f->nll)), "top1", number(f->top1), "top5", number(f->top5));
}

static json_t *stream_json(const ot_stream_figures *f, double threshold)
{
    return json_pack("{s:o, s:I, s:I, s:I, s:o, s:o, s:o, s:I, s:o, s:o}", "threshold", number(threshold), "harmful", (json_int_t)f->n_harmful,
                     "harmless", (json_int_t)f->n_harmless, "noticed", (json_int_t)f->n_noticed, "recall", number(f->recall), "false_alarms",
                     number(f->false_alarms), "read_share", number(f->read_share), "noticed_with_spans", (json_int_t)f->n_spans,
                     "before_span", number(f->before_span), "after_span", number(f->after_span));
}

static void add_language(json_t *root, const ot_eval_result *r)
{
    json_t *heads = json_array();
    for (uint32_t k = 0; k < r->n_heads; k++)
        json_array_append_new(heads, language_json(&r->heads[k]));
    json_object_set_new(root, "heads", heads);
    if (r->has_base)
        json_object_set_new(root, "base", language_json(&r->base));
    if (r->tokens_per_pass > 0)
        json_object_set_new(root, "tokens_per_pass", number(r->tokens_per_pass));
}

static json_t *result_json(const eval_arguments *a, const ot_eval_result *r)
{
    json_t *root = json_pack("{s:I, s:I, s:o}", "rows", (json_int_t)r->n_rows, "tokens", (json_int_t)r->n_tokens, "seconds",
                             number(r->seconds));
    if (r->is_labelled)
        add_labelled(root, a, r);
    if (r->is_paired)
        json_object_set_new(root, "pairs", json_pack("{s:o, s:o}", "accuracy", number(r->pair_accuracy), "margin",
                                                     number(r->pair_margin)));
    if (r->is_language)
        add_language(root, r);
    if (r->is_lookahead)
        json_object_set_new(root, "lookahead", json_pack("{s:I, s:o, s:o, s:o, s:o, s:o}", "positions",
                            (json_int_t)r->lookahead.n_positions, "score_correlation", number(r->lookahead.score_correlation),
                            "change_correlation", number(r->lookahead.change_correlation), "within_correlation",
                            number(r->lookahead.within_correlation), "highest_of_ten", number(r->lookahead.highest_of_ten),
                            "lowest_of_ten", number(r->lookahead.lowest_of_ten)));
    if (r->is_unlabelled)
        json_object_set_new(root, "quiet", json_pack("{s:o, s:o, s:o, s:o}", "mean", number(r->quiet_mean), "p95",
                                                     number(r->quiet_p95), "p99", number(r->quiet_p99), "above_half",
                                                     number(r->quiet_above_half)));
    if (r->is_streamed)
        json_object_set_new(root, "stream", stream_json(&r->stream, a->options.threshold));
    return root;
}

static bool print_json(const json_t *root)
{
    const bool good = root != NULL && json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(7)) == 0;
    putchar('\n');
    return good;
}

/* One head: its figures, or an object for `all`, which several share. */
static ot_status judge(eval_arguments *a, const char *head, json_t *all, ot_error *err)
{
    ot_eval_result result;
    strcpy(a->options.head, head);
    const ot_status st = ot_eval_file(&a->options, a->quiet ? NULL : stderr, &result, err);
    if (st != OT_OK)
        return st;
    if (!a->json) {
        if (a->n_heads > 1)
            printf("%s== %s\n", head == a->heads[0] ? "" : "\n", head);
        print_text(a, &result);
        return OT_OK;
    }
    json_t *figures = result_json(a, &result);
    if (a->n_heads > 1)
        json_object_set_new(figures, "head", json_string(head));
    return json_array_append_new(all, figures) == 0 ? OT_OK : ot_fail(err, OT_ERR_NOMEM, "out of memory");
}

int ot_cli_eval(int argc, char **argv)
{
    eval_arguments a = {0};
    ot_error err = {0};
    ot_eval_options_default(&a.options);
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_help();
            return 0;
        }
    if (!parse(&a, argc, argv))
        return 2;
    json_t *all = json_array();
    ot_status st = OT_OK;
    for (uint32_t i = 0; i < a.n_heads && st == OT_OK; i++)
        st = judge(&a, a.heads[i], all, &err);
    const bool printed = st != OT_OK || !a.json || print_json(a.n_heads == 1 ? json_array_get(all, 0) : all);
    json_decref(all);
    if (st != OT_OK) {
        fprintf(stderr, "otter eval: %s\n", err.message);
        return st == OT_ERR_INVALID && err.param[0] != '\0' ? 2 : 1;
    }
    return printed ? 0 : 1;
}
