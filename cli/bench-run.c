/* One round of one case: its requests go to the scheduler as a server's would, and its figure comes from the clock between their tokens.
 *
 * What the engine did meanwhile comes from the scheduler's statistics, which are published once a step. A token may be read a moment before
 * the statistics know of its step, so a snapshot waits until they have counted all that was read. */
#include "cli/bench.h"

#include "base/clock.h"

#include <string.h>
#include <sys/resource.h>
#include <time.h>

static ot_status submit(const ot_bench *b, const ot_bench_case *c, ot_request **requests, ot_error *err)
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
        ot_intervention_retain(&p->intervention);
    }
    const ot_status st = ot_scheduler_submit(b->session.scheduler, params, c->batch, requests, err);
    for (uint32_t i = 0; i < c->batch && st != OT_OK; i++)
        ot_intervention_release(&params[i].intervention);
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
                first[i] = ot_clock_s();
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

/* The statistics, once they have counted n generated tokens since the process began. */
static void snapshot(const ot_bench *b, uint64_t n, ot_stats *out)
{
    const struct timespec moment = {0, 50000};
    for (ot_scheduler_get_stats(b->session.scheduler, out); out->generation_tokens < n;
         ot_scheduler_get_stats(b->session.scheduler, out))
        nanosleep(&moment, NULL);
}

/* Adds what lies between two snapshots. */
static void add_tally(ot_bench_tally *t, const ot_stats *from, const ot_stats *to, double tokens)
{
    t->tokens += tokens;
    t->steps += (double)(to->iteration_tokens.count - from->iteration_tokens.count);
    for (int i = 0; i < OT_N_STEP_PHASES; i++)
        t->phases_s[i] += to->step_s[i].sum - from->step_s[i].sum;
    t->n_stages = to->n_stages < OT_STATS_MAX_STAGES ? to->n_stages : OT_STATS_MAX_STAGES;
    for (uint32_t i = 0; i < t->n_stages; i++) {
        const ot_stage_time *x = &from->stages[i], *y = &to->stages[i];
        t->stages[i].name = y->name;
        t->stages[i].seconds += y->seconds - x->seconds;
        t->stages[i].waited_s += y->waited_s - x->waited_s;
        t->stages[i].int8_ops += y->int8_ops - x->int8_ops;
        t->stages[i].float_ops += y->float_ops - x->float_ops;
        t->stages[i].bytes += y->bytes - x->bytes;
    }
}

/* What is known of a round while it runs: at the start, when every request has its first token, at the end. */
typedef struct progress {
    ot_stats before, at_prompts, after;
    double start, all_first, end;             /* the clock then */
    double cpu_start, cpu_all_first, cpu_end; /* the process's time then */
    uint32_t tokens, tokens_at_prompts;
} progress;

static double process_s(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void follow(const ot_bench *b, const ot_bench_case *c, ot_request **requests, progress *p)
{
    double first[OT_BENCH_MAX_BATCH] = {0};
    for (bool done = false; !done;) {
        ot_scheduler_wait(b->session.scheduler, 1000);
        while (ot_scheduler_poll(b->session.scheduler) != NULL)
            continue;
        p->tokens += read_all(c, requests, first);
        p->end = ot_clock_s();
        bool started = true;
        for (uint32_t i = 0; i < c->batch; i++)
            started = started && first[i] > 0.0;
        if (started && p->all_first == 0.0) {
            p->all_first = p->end;
            p->cpu_all_first = process_s();
            p->tokens_at_prompts = p->tokens;
            snapshot(b, p->before.generation_tokens + p->tokens, &p->at_prompts);
        }
        done = all_done(c, requests);
    }
    p->cpu_end = process_s();
}

static ot_status finish(ot_bench_case *c, ot_request **requests, ot_error *err)
{
    ot_status st = OT_OK;
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
    return st;
}

static void note_prompts(ot_bench_case *c, const progress *p, uint32_t round)
{
    const double tokens = (double)c->batch * c->n_prompt;
    c->rate[round] = tokens / (p->all_first - p->start);
    add_tally(&c->tally, &p->before, &p->at_prompts, tokens);
    c->tally.wall_s += p->all_first - p->start;
    c->tally.cpu_s += p->cpu_all_first - p->cpu_start;
}

/* Prompts count until the last first token; decoding is what follows it. */
ot_status ot_bench_run_case(const ot_bench *b, ot_bench_case *cases, uint32_t i, uint32_t round, ot_error *err)
{
    ot_bench_case *c = &cases[i];
    ot_request *requests[OT_BENCH_MAX_BATCH] = {0};
    static progress p;
    memset(&p, 0, sizeof p);
    ot_scheduler_get_stats(b->session.scheduler, &p.before);
    p.cpu_start = process_s();
    p.start = ot_clock_s();
    ot_status st = submit(b, c, requests, err);
    if (st != OT_OK)
        return st;
    follow(b, c, requests, &p);
    if ((st = finish(c, requests, err)) != OT_OK)
        return st;
    if (c->n_decode == 1) {
        note_prompts(c, &p, round);
        return OT_OK;
    }
    if (c->prompt_case >= 0)
        note_prompts(&cases[c->prompt_case], &p, round);
    snapshot(b, p.before.generation_tokens + p.tokens, &p.after);
    c->rate[round] = (p.tokens - p.tokens_at_prompts) / (p.end - p.all_first);
    add_tally(&c->tally, &p.at_prompts, &p.after, (double)(p.after.generation_tokens - p.at_prompts.generation_tokens));
    c->tally.wall_s += p.end - p.all_first;
    c->tally.cpu_s += p.cpu_end - p.cpu_all_first;
    return OT_OK;
}
