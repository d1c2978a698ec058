/* A tiny model with heads and a scheduler. */
#include "tests/support/scheduler-fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/test-support.h"
#include "tests/support/tiny-insertion.h"
#include "tests/support/tiny-model.h"

static ot_fixture fixture;
static bool is_open;

/* ---- Heads ---- */

/* Writes a random insertion and loads it under its name. */
static ot_status add_head(ot_fixture *f, const ot_insertion_spec *spec, const ot_insertion *const *parents, uint64_t seed,
                          ot_error *err)
{
    char file[80];
    snprintf(file, sizeof file, "%s.gguf", spec->name);
    const char *path = ot_test_temp_path(file);
    const ot_insertion_options options = {false};
    const ot_status st = ot_tiny_insertion_write(path, f->model, spec, parents, OT_TYPE_F32, seed, err);
    return st == OT_OK ? ot_heads_load(f->heads, spec->name, path, &options, err) : st;
}

static ot_status add_stacked(ot_fixture *f, ot_error *err)
{
    ot_head *mood;
    uint32_t output;
    ot_status st = ot_heads_find(f->heads, "mood", &mood, &output, err);
    if (st != OT_OK)
        return st;
    const ot_insertion *parent = ot_head_insertion(mood);
    ot_insertion_spec top = {.name = "top", .n_embd = 16, .n_ff = 16, .n_heads = 1, .n_kv_heads = 1, .kind = OT_HEAD_SCALAR,
                             .input = OT_INPUT_EXTENDED, .activation = OT_ACT_SIGMOID, .n_outputs = 1, .n_parents = 1};
    strcpy(top.parents[0], "mood");
    strcpy(top.labels[0], "top");
    st = add_head(f, &top, &parent, 44, err);
    ot_head_release(&mood);
    return st;
}

static ot_status add_heads(ot_fixture *f, ot_error *err)
{
    ot_insertion_spec mood = {.name = "mood", .n_embd = 16, .n_ff = 32, .n_heads = 2, .n_kv_heads = 1,
                              .kind = OT_HEAD_SCALAR, .input = OT_INPUT_EXTENDED, .activation = OT_ACT_SIGMOID, .n_outputs = 1};
    strcpy(mood.labels[0], "mood");
    ot_insertion_spec thin = {.name = "thin", .kind = OT_HEAD_SCALAR, .input = OT_INPUT_BASE, .activation = OT_ACT_SIGMOID,
                              .n_outputs = 1};
    strcpy(thin.labels[0], "thin");
    ot_insertion_spec pair = {.name = "pair", .n_embd = 32, .n_ff = 32, .kind = OT_HEAD_SCALAR, .input = OT_INPUT_EXTENDED,
                              .activation = OT_ACT_IDENTITY, .n_outputs = 2};
    pair.offsets[0] = pair.offsets[1] = 0;
    strcpy(pair.labels[0], "a");
    strcpy(pair.labels[1], "b");
    ot_status st = add_head(f, &mood, NULL, 41, err);
    if (st == OT_OK)
        st = add_head(f, &thin, NULL, 42, err);
    if (st == OT_OK)
        st = add_head(f, &pair, NULL, 43, err);
    return st == OT_OK ? add_stacked(f, err) : st;
}

static bool caps_logits;

void ot_fixture_cap_logits(void)
{
    caps_logits = true;
}

ot_fixture *ot_fixture_get(void)
{
    if (is_open)
        return &fixture;
    ot_error err = {0};
    const char *path = ot_test_temp_path("fixture.gguf");
    ot_tiny_model_options options = ot_tiny_model_defaults();
    options.gemma2 = caps_logits;
    options.separate_output = true; /* with a tied one a random model repeats its last token for ever */
    ot_status st = ot_tiny_model_write(path, &options, &err);
    if (st == OT_OK)
        st = ot_model_open(&fixture.model, path, &err);
    if (st == OT_OK)
        st = ot_heads_open(&fixture.heads, fixture.model, 16, &err);
    if (st == OT_OK)
        st = add_heads(&fixture, &err);
    is_open = CHECK_OK(st, &err);
    return is_open ? &fixture : NULL;
}

void ot_fixture_close(void)
{
    ot_heads_close(&fixture.heads);
    ot_model_close(&fixture.model);
    is_open = false;
}

/* ---- Scheduler and requests ---- */

ot_scheduler_options ot_fixture_options(void)
{
    ot_scheduler_options o;
    ot_scheduler_options_default(&o);
    o.n_threads = 2;
    o.kv_memory_bytes = (size_t)4 << 20;
    o.max_batch_tokens = 64;
    o.max_sequences = 24;
    o.max_queue = 64;
    o.fixed_draft_costs = true;
    return o;
}

ot_scheduler *ot_fixture_scheduler(const ot_scheduler_options *options)
{
    ot_fixture *f = ot_fixture_get();
    ot_scheduler_options o = options != NULL ? *options : ot_fixture_options();
    ot_scheduler *s = NULL;
    ot_error err = {0};
    if (f != NULL)
        CHECK_OK(ot_scheduler_open(&s, f->model, f->heads, &o, &err), &err);
    return s;
}

ot_request_params ot_fixture_params(const int32_t *prompt, uint32_t n_prompt, uint32_t max_tokens)
{
    ot_request_params p = {.prompt = prompt, .n_prompt = n_prompt, .n_choices = 1, .max_tokens = max_tokens};
    p.logprobs = true;
    p.ignore_eos = true;
    p.sampling.top_p = 1;
    p.sampling.repetition_penalty = 1;
    return p;
}

uint32_t ot_fixture_signal(ot_request_params *p, const char *name, float weight)
{
    ot_error err = {0};
    uint32_t i = p->intervention.n_signals;
    if (CHECK_OK(ot_heads_find(ot_fixture_get()->heads, name, &p->intervention.signals[i].head,
                               &p->intervention.signals[i].output, &err),
                 &err)) {
        strcpy(p->intervention.signals[i].name, name);
        p->intervention.signals[i].weight = weight;
        p->intervention.n_signals++;
    }
    return i;
}

void ot_fixture_repeat_one(ot_request_params *p)
{
    static const int32_t token = 77;
    static const float value = 100;
    p->sampling.n_bias = 1;
    p->sampling.bias_tokens = &token;
    p->sampling.bias_values = &value;
}

void ot_fixture_prompt(uint64_t seed, int32_t *tokens, uint32_t n)
{
    ot_test_rng rng = {seed * 7919 + 17};
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = OT_TINY_FIRST_BYTE_TOKEN + (int32_t)ot_test_rng_below(&rng, ot_tiny_model_vocab_size() - OT_TINY_FIRST_BYTE_TOKEN);
}

/* ---- Results ---- */

ot_request *ot_fixture_submit(ot_scheduler *s, const ot_request_params *params)
{
    ot_request *r = NULL;
    ot_error err = {0};
    CHECK_OK(ot_scheduler_submit(s, params, 1, &r, &err), &err);
    return r;
}

static void append(ot_result *r, const ot_token_out *t)
{
    if (r->text_size + t->text_size < sizeof r->text) {
        memcpy(r->text + r->text_size, t->text, t->text_size);
        r->text_size += t->text_size;
        r->text[r->text_size] = '\0';
    }
    if (t->token < 0 || r->n == OT_FIXTURE_MAX_TOKENS)
        return;
    uint32_t i = r->n++;
    r->tokens[i] = t->token;
    r->logprobs[i] = t->logprob;
    r->n_top[i] = t->n_top;
    memcpy(r->top[i], t->top, sizeof r->top[i]);
    memcpy(r->signals[i], t->signals, sizeof r->signals[i]);
}

bool ot_result_read(ot_result *r, ot_request *request, uint32_t choice)
{
    ot_token_out out[8];
    for (size_t n; (n = ot_request_read(request, choice, out, 8)) > 0;)
        for (size_t i = 0; i < n; i++)
            append(r, &out[i]);
    r->finish = ot_request_finish(request, choice);
    return r->finish != OT_FINISH_NONE;
}

bool ot_fixture_finish(ot_scheduler *s, ot_request **requests, uint32_t n, uint32_t n_choices, ot_result *results)
{
    memset(results, 0, (size_t)n * n_choices * sizeof *results);
    double until = ot_test_now_seconds() + 120;
    for (bool done = false; !done;) {
        if (!CHECK(ot_test_now_seconds() < until))
            return false;
        ot_scheduler_wait(s, 50);
        while (ot_scheduler_poll(s) != NULL)
            ;
        done = true;
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t c = 0; c < n_choices && requests[i] != NULL; c++)
                done &= ot_result_read(&results[i * n_choices + c], requests[i], c);
    }
    return true;
}

bool ot_fixture_run(ot_scheduler *s, const ot_request_params *params, ot_result *result)
{
    ot_request *r = ot_fixture_submit(s, params);
    bool ok = r != NULL && ot_fixture_finish(s, &r, 1, 1, result);
    ot_request_release(&r);
    return ok;
}

void ot_check_same_result(const ot_result *a, const ot_result *b, uint32_t n_signals, const char *what)
{
    ot_test_context("%s", what);
    CHECK_UINT(a->n, b->n);
    uint32_t n = a->n < b->n ? a->n : b->n;
    CHECK_BYTES(a->tokens, n * sizeof a->tokens[0], b->tokens, n * sizeof b->tokens[0]);
    CHECK_SAME_FLOATS(a->logprobs, b->logprobs, n);
    for (uint32_t i = 0; i < n; i++)
        if (!CHECK_SAME_FLOATS(a->signals[i], b->signals[i], n_signals))
            break;
    CHECK_BYTES(a->text, a->text_size, b->text, b->text_size);
    CHECK_INT(a->finish, b->finish);
    ot_test_context(NULL);
}

bool ot_fixture_is_clean(ot_scheduler *s)
{
    ot_stats stats;
    uint64_t units;
    uint32_t waiting;
    double until = ot_test_now_seconds() + 30;
    do {
        ot_scheduler_get_stats(s, &stats);
        units = stats.kv_units_used + stats.companion_units_used;
        waiting = stats.requests_waiting[OT_WAIT_CAPACITY] + stats.requests_waiting[OT_WAIT_DEFERRED];
        if (ot_scheduler_idle(s) && units == 0 && stats.requests_running + waiting == 0)
            return true;
        ot_scheduler_wait(s, 1);
    } while (ot_test_now_seconds() < until);
    printf("    %llu units used, %u running, %u waiting\n", (unsigned long long)units, stats.requests_running, waiting);
    return false;
}

/* ---- Many unlike requests ---- */

bool ot_mix_run(const ot_mix *mix, const ot_scheduler_options *options, ot_result *results, ot_request_usage *usage, ot_stats *stats)
{
    ot_request *requests[OT_MIX_MAX] = {0};
    ot_scheduler *s = ot_fixture_scheduler(options);
    bool good = s != NULL && CHECK(mix->n <= OT_MIX_MAX);
    for (uint32_t i = 0; i < mix->n && good; i++) {
        int32_t text[OT_MIX_TEXT];
        ot_request_params p = mix->request(i, text, mix->drafts);
        requests[i] = ot_fixture_submit(s, &p);
        good = requests[i] != NULL && (!mix->apart || ot_fixture_finish(s, &requests[i], 1, 1, &results[i]));
    }
    if (good && !mix->apart)
        good = ot_fixture_finish(s, requests, mix->n, 1, results);
    for (uint32_t i = 0; i < mix->n && good && usage != NULL; i++)
        usage[i] = ot_request_get_usage(requests[i]);
    for (uint32_t i = 0; i < mix->n; i++)
        ot_request_release(&requests[i]);
    good = good && CHECK(ot_fixture_is_clean(s));
    *stats = (ot_stats){0};
    if (s != NULL)
        ot_scheduler_get_stats(s, stats);
    ot_scheduler_close(&s);
    return good;
}

uint64_t ot_mix_check_drafts(const ot_request_usage *usage, uint32_t n, const ot_stats *stats)
{
    uint64_t accepted = 0, rejected = 0;
    for (uint32_t i = 0; i < n; i++) {
        accepted += usage[i].accepted_prediction_tokens;
        rejected += usage[i].rejected_prediction_tokens;
    }
    CHECK_UINT(stats->accepted_tokens, accepted);
    CHECK_UINT(stats->draft_tokens, accepted + rejected);
    return accepted;
}

void ot_check_same_results(const ot_result *actual, const ot_result *expected, uint32_t n, uint32_t n_signals)
{
    for (uint32_t i = 0; i < n; i++) {
        char what[32];
        snprintf(what, sizeof what, "request %u", i);
        ot_check_same_result(&actual[i], &expected[i], n_signals, what);
    }
}

/* ---- By hand ---- */

static void close_under_parents(ot_by_hand *h, const ot_insertion *x)
{
    for (uint32_t i = 0; i < h->n_insertions; i++)
        if (h->insertions[i] == x)
            return;
    for (uint32_t i = 0; i < ot_insertion_n_parents(x); i++)
        close_under_parents(h, ot_insertion_parent(x, i));
    h->insertions[h->n_insertions++] = x;
}

bool ot_by_hand_open(ot_by_hand *h, const ot_request_params *params, uint32_t n_threads)
{
    ot_fixture *f = ot_fixture_get();
    ot_error err = {0};
    memset(h, 0, sizeof *h);
    if (f == NULL)
        return false;
    const ot_intervention *v = &params->intervention;
    for (uint32_t i = 0; i < v->n_signals; i++)
        close_under_parents(h, ot_head_insertion(v->signals[i].head));
    const ot_head *others[] = {v->experts.positive, v->experts.negative, v->drafting.head};
    for (int i = 0; i < 3; i++)
        if (others[i] != NULL && ot_head_get_role(others[i]) == OT_ROLE_INSERTION)
            close_under_parents(h, ot_head_insertion(others[i]));
    ot_engine_options o;
    ot_engine_options_default(&o);
    o.n_threads = n_threads;
    o.max_rows = 512;
    h->logits = malloc(ot_model_get_info(f->model)->n_vocab * sizeof(float));
    h->uncapped = malloc(ot_model_get_info(f->model)->n_vocab * sizeof(float));
    return CHECK(h->logits != NULL) && CHECK_OK(ot_engine_open(&h->engine, f->model, &o, &err), &err) &&
           CHECK_INT(ot_test_kv_open(&h->kv, f->model, OT_KV_F16, h->insertions, h->n_insertions, 512, 5), OT_OK);
}

void ot_by_hand_close(ot_by_hand *h)
{
    ot_test_kv_close(&h->kv);
    ot_engine_close(&h->engine);
    free(h->logits);
    free(h->uncapped);
}

bool ot_by_hand_add(ot_by_hand *h, const int32_t *tokens, uint32_t n, const ot_request_params *params, float *scores)
{
    static ot_row rows[512];
    ot_error err = {0};
    if (!CHECK(n > 0 && h->n + n <= 512))
        return false;
    for (uint32_t i = 0; i < n; i++)
        rows[i] = (ot_row){.token = tokens[i], .position = h->n + i, .slot = h->n + i, .n_prefix = h->n + i + 1,
                           .flags = i + 1 == n ? OT_ROW_OUTPUT : 0};
    h->batch = (ot_batch){.n_rows = n, .rows = rows, .n_sequences = 1, .sequences = &h->kv.view};
    h->n += n;
    uint32_t last = n - 1;
    if (!CHECK_OK(ot_engine_forward(h->engine, &h->batch, &err), &err) ||
        !CHECK_OK(ot_engine_project(h->engine, &last, 1, &h->logits, &err), &err) ||
        !CHECK_OK(ot_engine_project_uncapped(h->engine, &last, 1, &h->uncapped, &err), &err))
        return false;
    for (uint32_t i = 0; scores != NULL && i < params->intervention.n_signals; i++) {
        const ot_insertion *x = ot_head_insertion(params->intervention.signals[i].head);
        if (ot_insertion_get_info(x)->spec.kind == OT_HEAD_SCALAR)
            scores[i] = ot_engine_score(h->engine, last, x, params->intervention.signals[i].output);
    }
    return true;
}

void ot_by_hand_drop(ot_by_hand *h)
{
    h->n--;
}

static uint32_t vocab(void)
{
    return ot_model_get_info(ot_fixture_get()->model)->n_vocab;
}

double ot_by_hand_logprob(const ot_by_hand *h, int32_t token)
{
    double max = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < vocab(); i++)
        max = h->logits[i] > max ? h->logits[i] : max;
    for (uint32_t i = 0; i < vocab(); i++)
        sum += exp(h->logits[i] - max);
    return h->logits[token] - max - log(sum);
}

int32_t ot_by_hand_argmax(const ot_by_hand *h)
{
    int32_t best;
    ot_by_hand_top(h, 1, &best);
    return best;
}

void ot_by_hand_top(const ot_by_hand *h, uint32_t k, int32_t *tokens)
{
    for (uint32_t n = 0; n < k; n++) {
        int32_t best = -1;
        for (int32_t i = 0; i < (int32_t)vocab(); i++) {
            bool taken = false;
            for (uint32_t j = 0; j < n; j++)
                taken |= tokens[j] == i;
            if (!taken && (best < 0 || h->logits[i] > h->logits[best]))
                best = i;
        }
        tokens[n] = best;
    }
}
