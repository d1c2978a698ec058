/* The text format of /metrics: escapes, histograms, one series a label set, and the names of heads that clients loaded. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/metrics-text.h"
#include "tests/support/test-support.h"

static const double bounds[] = {0.25, 0.5, 1};

static void escapes_label_values(void)
{
    ot_text t;
    ot_text_init(&t, 4096);
    ot_labels none = {0};
    ot_labels l = ot_labels_with(&none, "model", "a\"b\\c\nd\xFF");
    l = ot_labels_with(&l, "empty", "");
    ot_metrics_sample(&t, "name", &l, 0.1);
    ot_metrics_sample(&t, "name", &none, 1e15);
    ot_metrics_sample(&t, "name", &none, INFINITY);
    CHECK_STR(t.data, "name{model=\"a\\\"b\\\\c\\nd\xEF\xBF\xBD\",empty=\"\"} 0.1\nname 1e+15\nname +Inf\n");
    ot_text_free(&t);
}

static void accumulates_histograms(void)
{
    ot_histogram h;
    ot_histogram_init(&h, bounds, 3);
    static const double values[] = {0.1, 0.25, 0.3, 0.7, 5};
    for (size_t i = 0; i < 5; i++)
        ot_histogram_observe(&h, values[i]);
    ot_text t;
    ot_text_init(&t, 4096);
    ot_labels none = {0}, l = ot_labels_with(&none, "head", "x");
    ot_metrics_histogram(&t, "h", &l, &h);
    CHECK_STR(t.data, "h_bucket{head=\"x\",le=\"0.25\"} 2\nh_bucket{head=\"x\",le=\"0.5\"} 3\nh_bucket{head=\"x\",le=\"1\"} 4\n"
                      "h_bucket{head=\"x\",le=\"+Inf\"} 5\nh_sum{head=\"x\"} 6.35\nh_count{head=\"x\"} 5\n");
    ot_text_free(&t);
}

static ot_stats *make_stats(void)
{
    ot_stats *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    ot_histogram *plain[] = {&s->time_to_first_token_s, &s->inter_token_latency_s, &s->e2e_latency_s, &s->queue_time_s,
                             &s->request_prompt_tokens, &s->request_generation_tokens, &s->iteration_tokens};
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++)
        ot_histogram_init(plain[i], bounds, 3);
    for (size_t i = 0; i < OT_N_STEP_PHASES; i++)
        ot_histogram_init(&s->step_s[i], bounds, 3);
    return s;
}

static void add_head(ot_stats *s, const char *name, const char *file, int n_observed, uint64_t running)
{
    uint32_t i = s->n_heads++;
    snprintf(s->heads[i].name, sizeof s->heads[i].name, "%s", name);
    snprintf(s->heads[i].file, sizeof s->heads[i].file, "%s", file);
    ot_histogram_init(&s->heads[i].score, bounds, 3);
    for (int j = 0; j < n_observed; j++)
        ot_histogram_observe(&s->heads[i].score, 0.3);
    s->heads[i].running_requests = running;
}

/* Heads that a client named go by the file that the operator named; two of one file are one series. */
static void labels_heads_by_what_the_operator_named(void)
{
    ot_stats *s = make_stats();
    REQUIRE(s != NULL);
    add_head(s, "toxicity", "toxicity-v2", 1, 2);
    add_head(s, "evil\"} 1\nfake 2", "file", 2, 1);
    add_head(s, "other", "file", 4, 0);
    static const char *const configured[] = {"toxicity"};
    static uint64_t http[OT_MAX_ROUTES + 1][OT_N_COUNTED_CODES];
    http[0][0] = 3;
    ot_metrics_input in = {.stats = s, .model_name = "m", .n_configured = 1, .configured = configured,
                           .http_requests = (const uint64_t(*)[OT_N_COUNTED_CODES])http};
    ot_text t;
    ot_text_init(&t, 1 << 20);
    ot_metrics_write(&in, &t);
    REQUIRE(!t.failed && t.data);
    CHECK_CONTAINS(t.data, "\notter_head_score_count{head=\"toxicity\"} 1\n");
    CHECK_CONTAINS(t.data, "\notter_head_score_count{head=\"file\"} 6\n");
    CHECK_CONTAINS(t.data, "running_lora_adapters=\"toxicity,file\"");
    CHECK(strstr(t.data, "evil") == NULL);
    CHECK(strstr(t.data, "other\"") == NULL || strstr(t.data, "route=\"other\"") != NULL);
    CHECK_CONTAINS(t.data, "otter_http_requests_total{method=\"POST\",route=\"/v1/completions\",code=\"200\"} 3\n");
    ot_text_free(&t);
    free(s);
}

/* The caches of separate models are counted apart from the base's. */
static void shows_how_full_the_caches_are(void)
{
    static const struct { uint64_t total, used; const char *line; } cases[] = {
        {0, 0, "\notter_companion_kv_usage_perc 0\n"},
        {200, 50, "\notter_companion_kv_usage_perc 0.25\n"},
        {200, 200, "\notter_companion_kv_usage_perc 1\n"},
    };
    static uint64_t http[OT_MAX_ROUTES + 1][OT_N_COUNTED_CODES];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ot_stats *s = make_stats();
        REQUIRE(s != NULL);
        s->kv_units_total = 400;
        s->kv_units_used = 300;
        s->companion_units_total = cases[i].total;
        s->companion_units_used = cases[i].used;
        ot_metrics_input in = {.stats = s, .model_name = "m", .http_requests = (const uint64_t(*)[OT_N_COUNTED_CODES])http};
        ot_text t;
        ot_text_init(&t, 1 << 20);
        ot_metrics_write(&in, &t);
        REQUIRE(!t.failed && t.data);
        CHECK_CONTAINS(t.data, cases[i].line);
        CHECK_CONTAINS(t.data, "\nvllm:kv_cache_usage_perc{model_name=\"m\"} 0.75\n");
        ot_text_free(&t);
        free(s);
    }
}

/* Every sample belongs to the family declared last, each family is declared once, no series is there twice. */
static void is_well_formed(void)
{
    ot_stats *s = make_stats();
    REQUIRE(s != NULL);
    add_head(s, "a", "b", 1, 1);
    static uint64_t http[OT_MAX_ROUTES + 1][OT_N_COUNTED_CODES];
    for (size_t r = 0; r <= ot_route_count(); r++)
        for (size_t c = 0; c < OT_N_COUNTED_CODES; c++)
            http[r][c] = c < 15; /* the places in use */
    ot_metrics_input in = {.stats = s, .model_name = "m", .http_requests = (const uint64_t(*)[OT_N_COUNTED_CODES])http};
    ot_text t;
    ot_text_init(&t, 1 << 22);
    ot_metrics_write(&in, &t);
    REQUIRE(!t.failed && t.data);
    char family[128] = "";
    const char *seen[1024];
    size_t n_families = 0, n_samples = 0;
    char *save = NULL;
    for (char *line = strtok_r(t.data, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        ot_test_context("%s", line);
        if (strncmp(line, "# HELP ", 7) == 0) {
            snprintf(family, sizeof family, "%.*s", (int)strcspn(line + 7, " "), line + 7);
            n_families++;
            continue;
        }
        if (strncmp(line, "# TYPE ", 7) == 0) {
            CHECK(strncmp(line + 7, family, strlen(family)) == 0);
            continue;
        }
        CHECK(strncmp(line, family, strlen(family)) == 0);
        char *value = strrchr(line, ' ');
        REQUIRE(value != NULL);
        *value = '\0';
        for (size_t i = 0; i < n_samples && i < 1024; i++)
            CHECK(strcmp(seen[i], line) != 0);
        if (n_samples < 1024)
            seen[n_samples] = line;
        n_samples++;
    }
    ot_test_context(NULL);
    CHECK(n_families >= 35);
    CHECK(n_samples > 200 && n_samples < 1024);
    ot_text_free(&t);
    free(s);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(escapes_label_values);
    RUN(accumulates_histograms);
    RUN(labels_heads_by_what_the_operator_named);
    RUN(shows_how_full_the_caches_are);
    RUN(is_well_formed);
    return ot_test_finish();
}
