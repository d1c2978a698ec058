/* The scheduler as others see it: opening and closing, the engine thread's loop, and the places where threads meet.
 *
 *     lock        submissions, wake-ups of the engine thread
 *     ready_lock  requests with news for their readers
 *     stats_lock  the counters' copy
 * No thread holds two of them at once, and none is held while the engine computes. The struct itself is counted: a
 * request that outlives ot_scheduler_close still finds its locks. */
#include "scheduler/counters.h"
#include "scheduler/lifecycle.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "scheduler/companion.h"
#include "scheduler/drafts/drafts.h"
#include "scheduler/policies/experts.h"
#include "scheduler/heads-registry.h"
#include "scheduler/policies/policy.h"
#include "scheduler/scheduler-state.h"

void ot_scheduler_options_default(ot_scheduler_options *o)
{
    *o = (ot_scheduler_options){
        .kv_memory_bytes = (size_t)1 << 30,
        .max_batch_tokens = 256,
        .max_sequences = 64,
        .max_queue = 256,
        .output_ring = 64,
        .kv_type = OT_KV_F16,
        .cpu_mask = ~0u,
        .prefix_cache = true,
    };
}

/* ---- Engine thread --------------------------------------------------------------------------------------- */

/* Waits for something to do, unless the last step found some. Returns the submissions; *closing ends the thread. */
static ot_request *take_incoming(ot_scheduler *s, bool busy, bool *closing)
{
    pthread_mutex_lock(&s->inbox.lock);
    while (!busy && !s->inbox.woken && !s->inbox.closing)
        pthread_cond_wait(&s->inbox.wake, &s->inbox.lock);
    s->inbox.woken = false;
    *closing = s->inbox.closing;
    ot_request *first = s->inbox.first;
    s->inbox.first = s->inbox.last = NULL;
    pthread_mutex_unlock(&s->inbox.lock);
    return first;
}

static void end_all(ot_scheduler *s)
{
    while (s->live != NULL) {
        s->stats.cancelled[s->live->was_admitted ? OT_PHASE_DECODE : OT_PHASE_QUEUE]++;
        ot_request_end(s, s->live, OT_FINISH_CANCELLED, NULL);
    }
    ot_stats_publish(s);
    ot_announce(s);
}

static void *run_engine(void *arg)
{
    ot_scheduler *s = arg;
    bool busy = false, closing = false;
    while (!closing) {
        ot_request *r = take_incoming(s, busy, &closing);
        while (r != NULL) {
            ot_request *next = r->next_incoming;
            ot_request_begin(s, r);
            r = next;
        }
        busy = !closing && ot_step_once(s);
    }
    end_all(s);
    return NULL;
}

void ot_scheduler_wake(ot_scheduler *s)
{
    pthread_mutex_lock(&s->inbox.lock);
    s->inbox.woken = true;
    pthread_cond_signal(&s->inbox.wake);
    pthread_mutex_unlock(&s->inbox.lock);
}

/* ---- Opening and closing --------------------------------------------------------------------------------- */

static ot_status check_options(ot_scheduler *s, ot_error *err)
{
    ot_scheduler_options *o = &s->options;
    uint32_t trained = ot_model_get_info(s->model)->n_ctx_train;
    if (o->ctx_size == 0)
        o->ctx_size = trained;
    if (o->ctx_size > trained)
        return ot_fail_param(err, OT_ERR_INVALID, "ctx-size", "a context of %u tokens is more than the model's %u",
                             o->ctx_size, trained);
    if (o->max_batch_tokens < OT_MAX_NODES || o->max_batch_tokens > 1u << 16)
        return ot_fail_param(err, OT_ERR_INVALID, "max-batch-tokens", "%u rows in a step; %d to %u make sense",
                             o->max_batch_tokens, OT_MAX_NODES, 1u << 16);
    if (o->max_sequences == 0 || o->max_sequences > 4096)
        return ot_fail_param(err, OT_ERR_INVALID, "max-sequences", "%u running choices; 1 to 4096 can be had",
                             o->max_sequences);
    if (o->max_sequences > o->max_batch_tokens)
        o->max_sequences = o->max_batch_tokens;
    if (o->max_queue == 0 || o->max_queue > 1u << 20)
        return ot_fail_param(err, OT_ERR_INVALID, "max-queue", "a queue of %u requests; 1 to %u can be had", o->max_queue,
                             1u << 20);
    if (o->output_ring == 0 || o->output_ring > 1u << 16)
        return ot_fail_param(err, OT_ERR_INVALID, "output-ring", "a ring of %u tokens; 1 to %u can be had", o->output_ring,
                             1u << 16);
    return OT_OK;
}

static ot_status open_engine(ot_scheduler *s, ot_error *err)
{
    ot_engine_options o;
    ot_engine_options_default(&o);
    o.n_threads = s->options.n_threads;
    o.max_rows = s->options.max_batch_tokens;
    o.max_context = s->options.ctx_size;
    s->max_insertions = s->heads != NULL ? ot_heads_max(s->heads) : 1;
    if (s->max_insertions < OT_KV_MAX_INSERTIONS && s->heads != NULL)
        s->max_insertions = OT_KV_MAX_INSERTIONS;
    o.max_insertions = s->max_insertions;
    o.max_ext_width = OT_MAX_EXT_WIDTH;
    o.kv_type = s->options.kv_type;
    o.cpu_mask = s->options.cpu_mask;
    ot_status st = ot_engine_open(&s->engine, s->model, &o, err);
    if (st == OT_OK)
        s->options.n_threads = ot_pool_threads(ot_engine_pool(s->engine));
    s->decoder.engine = s->engine;
    return st;
}

static ot_status read_vocabulary(ot_scheduler *s, ot_error *err)
{
    s->decoder.eog_tokens = malloc(s->decoder.n_vocab * sizeof *s->decoder.eog_tokens);
    if (s->decoder.eog_tokens == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "no memory for the scheduler");
    uint32_t known = ot_tokenizer_vocab_size(s->decoder.tokenizer);
    for (uint32_t i = 0; i < s->decoder.n_vocab && i < known; i++) {
        uint32_t size = (uint32_t)ot_token_bytes(s->decoder.tokenizer, (int32_t)i).size;
        if (size > s->decoder.longest_token)
            s->decoder.longest_token = size;
        if (ot_tokenizer_is_eog(s->decoder.tokenizer, (int32_t)i))
            s->decoder.eog_tokens[s->decoder.n_eog++] = (int32_t)i;
    }
    return OT_OK;
}

static ot_status open_logits(ot_scheduler *s, ot_error *err)
{
    s->logits_bytes = (size_t)OT_LOGIT_ROWS * s->decoder.n_vocab * sizeof(float);
    void *map = mmap(NULL, s->logits_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    s->logit_rows = malloc(OT_LOGIT_ROWS * sizeof *s->logit_rows);
    if (map == MAP_FAILED || s->logit_rows == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "no memory for %d rows of logits", OT_LOGIT_ROWS);
    s->logits = map;
    for (uint32_t i = 0; i < OT_LOGIT_ROWS; i++)
        s->logit_rows[i] = s->logits + (size_t)i * s->decoder.n_vocab;
    return OT_OK;
}

static ot_status open_batch(ot_scheduler *s, ot_error *err)
{
    size_t rows = s->options.max_batch_tokens, sequences = s->options.max_sequences;
    ot_step_batch *b = &s->batch;
    b->rows = calloc(rows, sizeof *b->rows);
    b->tails = calloc(rows * OT_TAIL_SLOTS_PER_ROW, sizeof *b->tails);
    b->views = calloc(sequences, sizeof *b->views);
    b->turns = calloc(sequences, sizeof *b->turns);
    b->chunks = calloc(sequences, sizeof *b->chunks);
    b->insertions = calloc(s->max_insertions, sizeof *b->insertions);
    s->line.active = calloc(sequences, sizeof *s->line.active);
    s->decoder.text_scratch = malloc(3 * (size_t)ot_output_held_bytes(OT_MAX_STOP_BYTES, s->decoder.longest_token));
    if (b->rows == NULL || b->tails == NULL || b->views == NULL || b->turns == NULL || b->chunks == NULL ||
        b->insertions == NULL || s->line.active == NULL || s->decoder.text_scratch == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "no memory for the records of a step");
    return OT_OK;
}

static ot_status open_parts(ot_scheduler *s, ot_error *err)
{
    ot_status st = check_options(s, err);
    size_t base_bytes = 0;
    if (st == OT_OK)
        st = ot_companions_divide(s, &base_bytes, err);
    if (st == OT_OK)
        st = open_engine(s, err);
    if (st == OT_OK)
        st = ot_companions_open(s, err);
    if (st == OT_OK) {
        ot_kv_cache_options o = {base_bytes, s->options.kv_type, s->options.prefix_cache};
        st = ot_kv_cache_open(&s->cache, s->model, &o, err);
    }
    if (st == OT_OK)
        st = ot_sampler_open(&s->decoder.sampler, ot_engine_kernels(s->engine), s->decoder.n_vocab, err);
    if (st == OT_OK)
        st = read_vocabulary(s, err);
    if (st == OT_OK)
        st = open_logits(s, err);
    if (st == OT_OK)
        st = ot_experts_open(&s->decoder, err);
    if (st == OT_OK)
        st = ot_draft_heads_open(&s->decoder.draft_heads, s->decoder.n_vocab, err);
    if (st == OT_OK)
        st = ot_fair_share_open(&s->line.fair_share, s->options.max_queue + s->options.max_sequences, err);
    ot_draft_costs_open(&s->decoder.draft_costs, s->options.fixed_draft_costs);
    if (st == OT_OK)
        st = open_batch(s, err);
    if (st != OT_OK)
        return st;
    ot_stats_open(s);
    s->n_kv_units = (uint32_t)s->stats.kv_units_total;
    if (pthread_create(&s->thread, NULL, run_engine, s) != 0)
        return ot_fail(err, OT_ERR_NOMEM, "cannot start the engine thread");
    s->has_thread = true;
    pthread_setname_np(s->thread, "otter-engine");
    return OT_OK;
}

ot_status ot_scheduler_open(ot_scheduler **out, const ot_model *model, ot_heads *heads, const ot_scheduler_options *options,
                            ot_error *err)
{
    *out = NULL;
    ot_scheduler *s = calloc(1, sizeof *s);
    if (s == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "no memory for the scheduler");
    atomic_init(&s->refs, 1);
    s->model = model;
    s->decoder.tokenizer = ot_model_tokenizer(model);
    s->heads = heads;
    s->decoder.scheduler = s;
    s->decoder.stats = &s->stats;
    s->options = *options;
    s->decoder.n_vocab = ot_model_get_info(model)->n_vocab;
    pthread_mutex_init(&s->inbox.lock, NULL);
    pthread_mutex_init(&s->outbox.lock, NULL);
    pthread_mutex_init(&s->stats_lock, NULL);
    pthread_cond_init(&s->inbox.wake, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->outbox.cond, &attr);
    pthread_condattr_destroy(&attr);
    ot_status st = open_parts(s, err);
    if (st != OT_OK) {
        ot_scheduler_close(&s);
        return st;
    }
    *out = s;
    return OT_OK;
}

static void free_parts(ot_scheduler *s)
{
    ot_step_batch *b = &s->batch;
    free(b->rows);
    free(b->tails);
    free(b->views);
    free(b->turns);
    free(b->chunks);
    free(b->insertions);
    free(s->line.active);
    free(s->decoder.text_scratch);
    free(s->decoder.eog_tokens);
    free(s->logit_rows);
    if (s->logits != NULL)
        munmap(s->logits, s->logits_bytes);
    ot_fair_share_close(&s->line.fair_share);
    ot_experts_close(&s->decoder);
    ot_draft_heads_close(&s->decoder.draft_heads);
    ot_sampler_close(&s->decoder.sampler);
    ot_companions_close(s);
    ot_kv_cache_close(&s->cache);
    ot_engine_close(&s->engine);
}

void ot_scheduler_close(ot_scheduler **scheduler)
{
    ot_scheduler *s = *scheduler;
    if (s == NULL)
        return;
    *scheduler = NULL;
    if (s->has_thread) {
        pthread_mutex_lock(&s->inbox.lock);
        s->inbox.closing = true;
        pthread_cond_signal(&s->inbox.wake);
        pthread_mutex_unlock(&s->inbox.lock);
        pthread_join(s->thread, NULL);
    }
    free_parts(s);
    ot_scheduler_unref(s);
}

void ot_scheduler_unref(ot_scheduler *s)
{
    if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) > 1)
        return;
    pthread_mutex_destroy(&s->inbox.lock);
    pthread_mutex_destroy(&s->outbox.lock);
    pthread_mutex_destroy(&s->stats_lock);
    pthread_cond_destroy(&s->inbox.wake);
    pthread_cond_destroy(&s->outbox.cond);
    free(s);
}

void ot_scheduler_drain(ot_scheduler *s)
{
    atomic_store(&s->draining, true);
}

bool ot_scheduler_idle(const ot_scheduler *s)
{
    return atomic_load(&s->n_live) == 0;
}

const ot_scheduler_options *ot_scheduler_get_options(const ot_scheduler *s)
{
    return &s->options;
}

void ot_scheduler_get_stats(ot_scheduler *s, ot_stats *out)
{
    pthread_mutex_lock(&s->stats_lock);
    *out = s->shared_stats;
    pthread_mutex_unlock(&s->stats_lock);
    for (int i = 0; i < OT_N_REJECTS; i++)
        out->rejected[i] = atomic_load(&s->rejected[i]);
}

/* ---- Readers --------------------------------------------------------------------------------------------- */

/* Under ready_lock. */
static void unlink_ready(ot_scheduler *s, ot_request *r)
{
    if (r->ready_prev != NULL)
        r->ready_prev->ready_next = r->ready_next;
    else
        s->outbox.first = r->ready_next;
    if (r->ready_next != NULL)
        r->ready_next->ready_prev = r->ready_prev;
    else
        s->outbox.last = r->ready_prev;
    r->ready_next = r->ready_prev = NULL;
    r->in_ready = false;
}

ot_request *ot_scheduler_poll(ot_scheduler *s)
{
    pthread_mutex_lock(&s->outbox.lock);
    ot_request *r = s->outbox.first;
    if (r != NULL)
        unlink_ready(s, r);
    pthread_mutex_unlock(&s->outbox.lock);
    return r;
}

void ot_scheduler_wait(ot_scheduler *s, uint32_t timeout_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&s->outbox.lock);
    while (s->outbox.first == NULL && pthread_cond_timedwait(&s->outbox.cond, &s->outbox.lock, &until) == 0)
        ;
    pthread_mutex_unlock(&s->outbox.lock);
}

void ot_request_cancel(ot_request *r)
{
    ot_scheduler *s = r->scheduler;
    atomic_store_explicit(&r->cancelled, true, memory_order_release);
    atomic_store(&s->cancel_asked, true);
    ot_scheduler_wake(s);
}

static bool has_ended(const ot_request *r)
{
    for (uint32_t i = 0; i < r->n_choices; i++)
        if (atomic_load_explicit(&r->choices[i].finish, memory_order_relaxed) == OT_FINISH_NONE)
            return false;
    return true;
}

void ot_request_release(ot_request **request)
{
    ot_request *r = *request;
    if (r == NULL)
        return;
    *request = NULL;
    ot_scheduler *s = r->scheduler;
    pthread_mutex_lock(&s->outbox.lock);
    r->released = true;
    if (r->in_ready)
        unlink_ready(s, r);
    pthread_mutex_unlock(&s->outbox.lock);
    if (!has_ended(r))
        ot_request_cancel(r);
    ot_request_unref(r);
}
