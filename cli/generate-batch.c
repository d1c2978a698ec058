/* `otter generate --batch`: a file of prompts through the scheduler, as many at once as it takes.
 *
 * Rows are read in order, submitted as long as the window has room, and end in any order; lines are written in order, so a row
 * that has ended waits in the window for those before it. The window is several times the running choices: a long answer at its
 * beginning does not keep the others from running. What a row gets depends on the row, its number and the seed alone,
 * never on the window, the threads or where a run was resumed.
 *
 * A row that cannot run (no text, too long for the context) gets a line with finish_reason "error" and goes into the counts. An interrupt
 * cancels what runs; the lines written stay, and --resume goes on after them. */
#include "cli/generate.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json-text.h"
#include "base/jsonl.h"

#define COMMAND "generate"
#define MAX_LINE_BYTES ((size_t)256 << 20)
#define MAX_TEXT_BYTES ((size_t)32 << 20)

/* What one choice of a row has given so far. */
typedef struct answer {
    ot_text text;
    int32_t *tokens;   /* (n) */
    float *logprobs;   /* (n) */
    float *signals;    /* (n, n_signals) */
    uint32_t n, capacity;
    ot_finish finish;
} answer;

/* A row between its reading and its line. */
typedef struct place {
    json_t *row;
    const char *echo;
    int32_t *prompt;
    uint32_t n_prompt;
    ot_request *request; /* NULL: refused, see problem */
    answer *answers;     /* (n_choices) */
    bool done;
    char problem[sizeof((ot_error *)0)->message];
} place;

typedef struct totals {
    uint64_t rows, prompt_tokens, completion_tokens, accepted, rejected, scored, changed, failed;
} totals;

typedef struct batch {
    const ot_generate_options *options;
    const ot_cli_session *session;
    ot_intervention intervention;
    ot_chat_template *chat;
    ot_jsonl *in;
    FILE *out;
    ot_text line;
    place *window;         /* (n_window): row i at i % n_window */
    uint32_t n_window;
    uint64_t next, written, n_rows; /* rows read, rows written, rows there are */
    uint64_t first;        /* the first row of this run */
    totals sum;
    double start_s, reported_s;
    bool terminal, failed;
} batch;

static bool complain(const ot_error *err)
{
    fprintf(stderr, "otter " COMMAND ": %s\n", err->message);
    return false;
}

/* ---- Reading ----------------------------------------------------------------------------------------------- */

/* Counts the rows and checks their shape, so that a mistake in the last line shows before hours of work. */
static bool count_rows(batch *b, bool *needs_chat)
{
    ot_error err;
    ot_jsonl *in;
    if (ot_jsonl_open(&in, b->options->batch, &err) != OT_OK)
        return complain(&err);
    json_t *row;
    ot_status st = OT_OK;
    const uint64_t max = b->options->max_rows > 0 ? b->options->max_rows : UINT32_MAX;
    while (b->n_rows < max && st == OT_OK && (st = ot_jsonl_next(in, &row, &err)) == OT_OK) {
        ot_error why;
        const char *kind = ot_batch_row_kind(row, &why);
        if (kind == NULL)
            st = ot_jsonl_fail(in, &err, "%s", why.message);
        else
            *needs_chat = *needs_chat || strcmp(kind, "text") != 0;
        json_decref(row);
        b->n_rows += st == OT_OK;
    }
    ot_jsonl_close(&in);
    return st == OT_OK || st == OT_ERR_NOT_FOUND || complain(&err);
}

/* Passes the rows by that an earlier run has answered, whose last line was `last`. */
static bool skip_rows(batch *b, uint64_t n, const json_t *last)
{
    ot_error err;
    for (uint64_t i = 0; i < n; i++) {
        json_t *row;
        if (i == b->n_rows || ot_jsonl_next(b->in, &row, &err) != OT_OK) {
            fprintf(stderr, "otter " COMMAND ": %s has more rows than %s\n", b->options->out, b->options->batch);
            return false;
        }
        const char *kind = ot_batch_row_kind(row, &err);
        const bool fits = i + 1 < n || (kind != NULL && json_equal(json_object_get(row, kind), json_object_get(last, kind)));
        json_decref(row);
        if (!fits) {
            fprintf(stderr, "otter " COMMAND ": %s answers other rows than those of %s: row %llu differs\n", b->options->out,
                    b->options->batch, (unsigned long long)n);
            return false;
        }
    }
    b->first = b->next = b->written = n;
    return true;
}

/* ---- Places ------------------------------------------------------------------------------------------------ */

static void clear_place(const batch *b, place *p)
{
    if (p->request != NULL)
        ot_request_release(&p->request);
    for (uint32_t i = 0; i < b->options->params.n_choices && p->answers != NULL; i++) {
        ot_text_free(&p->answers[i].text);
        free(p->answers[i].tokens);
        free(p->answers[i].logprobs);
        free(p->answers[i].signals);
    }
    free(p->answers);
    free(p->prompt);
    json_decref(p->row);
    memset(p, 0, sizeof *p);
}

static bool out_of_memory(batch *b)
{
    fprintf(stderr, "otter " COMMAND ": out of memory\n");
    b->failed = true;
    return false;
}

static bool submit(batch *b, place *p)
{
    ot_request_params params = b->options->params;
    const ot_tokenizer *tokenizer = ot_model_tokenizer(b->session->model);
    ot_error err;
    ot_status st = ot_batch_row_tokenize(b->options, tokenizer, b->chat, p->row, &p->echo, &p->prompt, &p->n_prompt, &err);
    bool own_fault = st != OT_ERR_NOMEM && p->echo != NULL;
    if (st == OT_OK) {
        params.prompt = p->prompt;
        params.n_prompt = p->n_prompt;
        params.best_of_index = (uint32_t)b->next * params.n_choices;
        params.intervention = b->intervention;
        params.owner = p;
        ot_intervention_retain(&params.intervention);
        st = ot_scheduler_submit(b->session->scheduler, &params, 1, &p->request, &err);
        if (st != OT_OK)
            ot_intervention_release(&params.intervention);
        own_fault = st != OT_ERR_NOMEM && st != OT_ERR_CLOSING && strncmp(err.param, "prompt", 6) == 0;
    }
    if (st == OT_OK)
        return true;
    if (!own_fault) { /* a wrong setting would fail all rows alike */
        b->failed = true;
        return complain(&err);
    }
    snprintf(p->problem, sizeof p->problem, "%s", err.message);
    p->done = true;
    b->sum.failed++;
    return true;
}

static bool take_next_row(batch *b)
{
    place *p = &b->window[b->next % b->n_window];
    const uint32_t n = b->options->params.n_choices;
    ot_error err;
    if (ot_jsonl_next(b->in, &p->row, &err) != OT_OK) {
        fprintf(stderr, "otter " COMMAND ": %s changed while it was read\n", b->options->batch);
        b->failed = true;
        return false;
    }
    p->answers = calloc(n, sizeof *p->answers);
    if (p->answers == NULL)
        return out_of_memory(b);
    for (uint32_t i = 0; i < n; i++)
        ot_text_init(&p->answers[i].text, MAX_TEXT_BYTES);
    if (!submit(b, p))
        return false;
    b->next++;
    return true;
}

/* ---- Answers ----------------------------------------------------------------------------------------------- */

static bool grow(batch *b, answer *a)
{
    if (a->n < a->capacity)
        return true;
    const uint32_t capacity = a->capacity * 2 + 64, n_signals = b->intervention.n_signals;
    int32_t *tokens = realloc(a->tokens, capacity * sizeof *tokens);
    if (tokens == NULL)
        return out_of_memory(b);
    a->tokens = tokens;
    float *logprobs = realloc(a->logprobs, capacity * sizeof *logprobs);
    if (logprobs == NULL)
        return out_of_memory(b);
    a->logprobs = logprobs;
    if (n_signals > 0) {
        float *signals = realloc(a->signals, (size_t)capacity * n_signals * sizeof *signals);
        if (signals == NULL)
            return out_of_memory(b);
        a->signals = signals;
    }
    a->capacity = capacity;
    return true;
}

static bool take_token(batch *b, answer *a, const ot_token_out *t)
{
    ot_text_append(&a->text, t->text, t->text_size);
    if (a->text.failed)
        return out_of_memory(b);
    if (t->token < 0)
        return true;
    const uint32_t n_signals = b->intervention.n_signals;
    if (!grow(b, a))
        return false;
    if (n_signals > 0)
        memcpy(a->signals + (size_t)a->n * n_signals, t->signals, n_signals * sizeof *t->signals);
    a->logprobs[a->n] = t->logprob;
    a->tokens[a->n++] = t->token;
    b->sum.completion_tokens++;
    return true;
}

static bool read_place(batch *b, place *p)
{
    ot_token_out out[16];
    bool broken = false;
    for (uint32_t i = 0; i < b->options->params.n_choices; i++) {
        for (size_t n; (n = ot_request_read(p->request, i, out, 16)) > 0;)
            for (size_t k = 0; k < n; k++)
                if (!take_token(b, &p->answers[i], &out[k]))
                    return false;
        p->answers[i].finish = ot_request_finish(p->request, i);
        broken |= p->answers[i].finish == OT_FINISH_ERROR;
    }
    if (p->done || !ot_request_done(p->request))
        return true;
    p->done = true;
    if (broken)
        snprintf(p->problem, sizeof p->problem, "%s", ot_request_error(p->request)->message);
    const ot_request_usage u = ot_request_get_usage(p->request);
    b->sum.rows += !broken;
    b->sum.failed += broken;
    b->sum.prompt_tokens += u.prompt_tokens;
    b->sum.accepted += u.accepted_prediction_tokens;
    b->sum.rejected += u.rejected_prediction_tokens;
    b->sum.scored += u.candidates_scored;
    b->sum.changed += u.changed_tokens;
    return true;
}

/* ---- Lines ------------------------------------------------------------------------------------------------- */

static void put_ids(ot_text *t, const char *key, const int32_t *ids, uint32_t n)
{
    ot_json_begin_array(t, key);
    for (uint32_t i = 0; i < n; i++)
        ot_json_int(t, NULL, ids[i]);
    ot_json_end_array(t);
}

static void put_signals(const batch *b, const answer *a, ot_text *t)
{
    const uint32_t n_signals = b->intervention.n_signals;
    ot_json_begin_object(t, "signals");
    for (uint32_t i = 0; i < n_signals; i++) {
        ot_json_begin_array(t, b->intervention.signals[i].name);
        for (uint32_t k = 0; k < a->n; k++)
            ot_json_float(t, NULL, a->signals[(size_t)k * n_signals + i]);
        ot_json_end_array(t);
    }
    ot_json_end_object(t);
}

/* Of the whole row, so only its first choice's line has it. */
static void put_usage(const place *p, ot_text *t)
{
    const ot_request_usage u = ot_request_get_usage(p->request);
    ot_json_begin_object(t, "usage");
    ot_json_uint(t, "prompt_tokens", u.prompt_tokens);
    ot_json_uint(t, "cached_tokens", u.cached_tokens);
    ot_json_uint(t, "completion_tokens", u.completion_tokens);
    ot_json_uint(t, "accepted_prediction_tokens", u.accepted_prediction_tokens);
    ot_json_uint(t, "rejected_prediction_tokens", u.rejected_prediction_tokens);
    ot_json_uint(t, "candidates_scored", u.candidates_scored);
    ot_json_uint(t, "changed_tokens", u.changed_tokens);
    ot_json_end_object(t);
}

static bool put_line(batch *b, const place *p, uint32_t choice, ot_text *t)
{
    const answer *a = &p->answers[choice];
    char *echo = json_dumps(json_object_get(p->row, p->echo), JSON_COMPACT | JSON_ENCODE_ANY);
    if (echo == NULL)
        return out_of_memory(b);
    ot_json_begin_object(t, NULL);
    ot_json_raw(t, p->echo, echo);
    free(echo);
    if (b->options->params.n_choices > 1)
        ot_json_uint(t, "choice", choice);
    ot_json_bytes(t, "completion", a->text.size > 0 ? a->text.data : "", a->text.size);
    put_ids(t, "prompt_tokens", p->prompt, p->n_prompt);
    put_ids(t, "completion_tokens", a->tokens, a->n);
    if (b->options->params.logprobs) {
        ot_json_begin_array(t, "logprobs");
        for (uint32_t i = 0; i < a->n; i++)
            ot_json_float(t, NULL, a->logprobs[i]);
        ot_json_end_array(t);
    }
    ot_json_string(t, "finish_reason", p->request == NULL ? "error" : ot_finish_names[a->finish]);
    if (p->problem[0] != '\0')
        ot_json_string(t, "error", p->problem);
    if (b->intervention.n_signals > 0)
        put_signals(b, a, t);
    if (choice == 0 && p->request != NULL)
        put_usage(p, t);
    ot_json_end_object(t);
    ot_text_puts(t, "\n");
    return true;
}

/* The lines of one row in one write. */
static bool write_row(batch *b, const place *p)
{
    ot_text *t = &b->line;
    ot_text_clear(t);
    for (uint32_t i = 0; i < b->options->params.n_choices; i++)
        if (!put_line(b, p, i, t))
            return false;
    if (t->failed)
        return out_of_memory(b);
    if (fwrite(t->data, 1, t->size, b->out) == t->size && fflush(b->out) == 0)
        return true;
    fprintf(stderr, "otter " COMMAND ": %s: cannot be written\n", b->options->out);
    b->failed = true;
    return false;
}

static void write_done(batch *b)
{
    while (!b->failed && b->written < b->next) {
        place *p = &b->window[b->written % b->n_window];
        if (!p->done || !write_row(b, p))
            return;
        clear_place(b, p);
        b->written++;
    }
}

/* ---- Running ----------------------------------------------------------------------------------------------- */

static void report(batch *b, bool last)
{
    const double now = ot_clock_s(), elapsed = now - b->start_s;
    if (!last && now - b->reported_s < (b->terminal ? 0.5 : 10))
        return;
    b->reported_s = now;
    const uint64_t done = b->sum.rows + b->sum.failed, left = b->n_rows - b->first - done;
    fprintf(stderr, "%srow %llu of %llu, %llu tokens, %.1f tokens/s", b->terminal ? "\r\033[K" : "",
            (unsigned long long)(b->first + done), (unsigned long long)b->n_rows,
            (unsigned long long)b->sum.completion_tokens, elapsed > 0 ? (double)b->sum.completion_tokens / elapsed : 0.0);
    if (!last && done > 0)
        fprintf(stderr, ", %.0f s left", elapsed / (double)done * (double)left);
    if (!b->terminal || last)
        fputc('\n', stderr);
    fflush(stderr);
}

static void run(batch *b)
{
    b->start_s = b->reported_s = ot_clock_s();
    while (!b->failed && !ot_generate_interrupted && b->written < b->n_rows) {
        while (b->next < b->n_rows && b->next - b->written < b->n_window && take_next_row(b))
            continue;
        ot_scheduler_wait(b->session->scheduler, 100);
        for (ot_request *r; !b->failed && (r = ot_scheduler_poll(b->session->scheduler)) != NULL;)
            read_place(b, ot_request_owner(r));
        write_done(b);
        report(b, false);
    }
    report(b, true);
}

/* One JSON object to standard output, for programs that compare runs. The peak is reached while a file is being packed. */
static void print_summary(const batch *b, double seconds)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    const double tokens = (double)b->sum.completion_tokens;
    printf("{\"rows\": %llu, \"failed_rows\": %llu, \"prompt_tokens\": %llu, \"completion_tokens\": %llu, \"seconds\": %.3f, "
           "\"tokens_per_second\": %.2f, \"accepted_prediction_tokens\": %llu, \"rejected_prediction_tokens\": %llu, "
           "\"candidates_scored\": %llu, \"changed_tokens\": %llu, \"resident_bytes\": %llu, "
           "\"peak_resident_bytes\": %llu}\n",
           (unsigned long long)b->sum.rows, (unsigned long long)b->sum.failed, (unsigned long long)b->sum.prompt_tokens,
           (unsigned long long)b->sum.completion_tokens, seconds, seconds > 0 ? tokens / seconds : 0.0,
           (unsigned long long)b->sum.accepted, (unsigned long long)b->sum.rejected, (unsigned long long)b->sum.scored,
           (unsigned long long)b->sum.changed, (unsigned long long)ot_cli_resident_bytes(), (unsigned long long)usage.ru_maxrss * 1024);
}

/* Opens files and the template, and passes by what is there; false (and prints) if something is wrong. */
static bool prepare(batch *b)
{
    const ot_generate_options *o = b->options;
    ot_error err;
    bool needs_chat = false;
    if (!count_rows(b, &needs_chat))
        return false;
    if ((needs_chat && ot_generate_open_chat(&b->chat, o, b->session, &err) != OT_OK) ||
        ot_jsonl_open(&b->in, o->batch, &err) != OT_OK)
        return complain(&err);
    if (!ot_cli_steering_resolve(&o->steering, b->session, &b->intervention, COMMAND))
        return false;
    b->n_window = ot_scheduler_get_options(b->session->scheduler)->max_queue;
    b->window = calloc(b->n_window, sizeof *b->window);
    if (b->window == NULL)
        return out_of_memory(b);
    uint64_t n_done = 0;
    json_t *last = NULL;
    if (ot_batch_out_open(&b->out, o->out, o->resume, o->params.n_choices, &n_done, &last, &err) != OT_OK)
        return complain(&err);
    const bool fits = skip_rows(b, n_done, last);
    json_decref(last);
    return fits;
}

int ot_generate_batch(const ot_generate_options *o, const ot_cli_session *session)
{
    batch b = {.options = o, .session = session, .terminal = isatty(STDERR_FILENO) != 0};
    ot_text_init(&b.line, MAX_LINE_BYTES);
    bool good = prepare(&b);
    if (good) {
        ot_generate_catch_signals();
        run(&b);
        print_summary(&b, ot_clock_s() - b.start_s);
        good = !b.failed && b.written == b.n_rows;
        if (ot_generate_interrupted)
            fprintf(stderr, "otter " COMMAND ": interrupted; --resume goes on after row %llu\n", (unsigned long long)b.written);
    }
    for (uint32_t i = 0; i < b.n_window && b.window != NULL; i++)
        clear_place(&b, &b.window[i]);
    free(b.window);
    ot_intervention_release(&b.intervention);
    ot_text_free(&b.line);
    ot_jsonl_close(&b.in);
    ot_chat_template_close(&b.chat);
    if (b.out != NULL && fclose(b.out) != 0)
        good = false;
    return good ? 0 : 1;
}
