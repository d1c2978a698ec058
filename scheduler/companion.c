/* companion.h: opening, the rows of a step, and what they give.
 *
 * Memory. --kv-memory is the total of all caches. A token takes some bytes of it in the base and some in each companion, and each
 * cache gets the share in that proportion, so that all hold the same number of tokens: a text that uses a companion then
 * fits both or neither. The base's insertions live in the base's share. A companion's pages are taken only by choices that use it,
 * and memory that was never used is not resident. */
#include "scheduler/companion.h"

#include <stdlib.h>
#include <string.h>

#include "scheduler/heads-registry.h"
#include "scheduler/policies/policy.h"
#include "scheduler/scheduler-state.h"

/* ---- Opening ------------------------------------------------------------------------------------------------- */

/* Units as the cache will cut them. */
static uint64_t kv_bytes_per_page(const ot_scheduler *s, const ot_model *model, const ot_kv_component *components, uint32_t n)
{
    uint64_t unit = (ot_model_kv_unit_bytes(model, s->options.kv_type) + 63) & ~(uint64_t)63;
    return unit * ot_kv_units_per_page(model, components, n);
}

static const char *const role_names[] = {"", "reward model", "expert model", "draft model"};

/* The companion that runs a head's model: one for all that mirror the base, one for each that drafts. */
static ot_companion *companion_for(ot_scheduler *s, const ot_head *head)
{
    bool drafts = ot_head_get_role(head) == OT_ROLE_DRAFT_MODEL;
    for (uint32_t i = 0; i < s->n_companions && !drafts; i++)
        if (!s->companions[i].drafts && s->companions[i].model == ot_head_model(head))
            return &s->companions[i];
    if (s->n_companions == OT_MAX_COMPANIONS)
        return NULL;
    ot_companion *c = &s->companions[s->n_companions++];
    c->drafts = drafts;
    c->model = ot_head_model(head);
    c->pass_time = (float)ot_model_get_info(c->model)->weight_bytes / (float)ot_model_get_info(s->model)->weight_bytes;
    uint32_t trained = ot_model_get_info(c->model)->n_ctx_train;
    c->ctx_size = s->options.ctx_size < trained ? s->options.ctx_size : trained;
    return c;
}

/* The reference to `head` is taken over, whatever is returned. */
static ot_status enter(ot_scheduler *s, ot_head *head, ot_error *err)
{
    ot_companion *c = companion_for(s, head);
    const ot_insertion *insertion = ot_head_insertion(head);
    if (c == NULL || (insertion != NULL && c->n_components == OT_KV_MAX_INSERTIONS)) {
        ot_head_release(&head);
        return c == NULL ? ot_fail(err, OT_ERR_FULL, "more separate models are loaded than can run: at most %d", OT_MAX_COMPANIONS)
                         : ot_fail(err, OT_ERR_FULL, "more reward models of one file than can run: at most %d", OT_KV_MAX_INSERTIONS);
    }
    c->heads[c->n_heads++] = head; /* as many as the table of heads may list */
    if (insertion != NULL)
        c->components[c->n_components++] = (ot_kv_component){insertion, ot_head_serial(head)};
    if (c->ctx_size < s->options.ctx_size && !c->drafts)
        return ot_fail_param(err, OT_ERR_INVALID, "ctx-size", "a context of %u tokens is more than the %u of %s '%s'",
                             s->options.ctx_size, c->ctx_size, role_names[ot_head_get_role(head)], ot_head_name(head));
    return OT_OK;
}

static ot_status find_models(ot_scheduler *s, ot_error *err)
{
    ot_head *heads[OT_STATS_MAX_HEADS];
    uint32_t n = s->heads != NULL ? ot_heads_list(s->heads, heads, OT_STATS_MAX_HEADS) : 0, n_models = 0;
    for (uint32_t i = 0; i < n; i++)
        n_models += ot_head_get_role(heads[i]) != OT_ROLE_INSERTION;
    n_models = n_models < OT_MAX_COMPANIONS ? n_models : OT_MAX_COMPANIONS; /* some may share one */
    ot_status st = OT_OK;
    if (n_models > 0 && (s->companions = calloc(n_models, sizeof *s->companions)) == NULL)
        st = ot_fail(err, OT_ERR_NOMEM, "no memory for %u separate models", n_models);
    for (uint32_t i = 0; i < n; i++)
        if (st == OT_OK && ot_head_get_role(heads[i]) != OT_ROLE_INSERTION)
            st = enter(s, heads[i], err);
        else
            ot_head_release(&heads[i]);
    return st;
}

/* Bytes of the budget for something that takes `part` of `whole` bytes for each page of text. */
static size_t share(size_t budget, uint64_t part, uint64_t whole)
{
    return (size_t)((double)budget * ((double)part / (double)whole));
}

ot_status ot_companions_divide(ot_scheduler *s, size_t *base_bytes, ot_error *err)
{
    size_t budget = *base_bytes = s->options.kv_memory_bytes;
    ot_status st = find_models(s, err);
    if (st != OT_OK || s->n_companions == 0)
        return st;
    uint64_t whole = kv_bytes_per_page(s, s->model, NULL, 0);
    for (uint32_t i = 0; i < s->n_companions; i++) {
        const ot_companion *c = &s->companions[i];
        whole += kv_bytes_per_page(s, c->model, c->components, c->n_components);
    }
    for (uint32_t i = 0; i < s->n_companions; i++) {
        ot_companion *c = &s->companions[i];
        c->kv_memory_bytes = share(budget, kv_bytes_per_page(s, c->model, c->components, c->n_components), whole);
        *base_bytes -= c->kv_memory_bytes;
    }
    return OT_OK;
}

/* What its widest insertion adds to vectors; 1 stands for nothing, since 0 would be the default. */
static uint32_t extension_width(const ot_companion *c)
{
    const ot_model_info *m = ot_model_get_info(c->model);
    uint32_t most = 1;
    for (uint32_t i = 0; i < c->n_components; i++) {
        const ot_insertion_info *x = ot_insertion_get_info(c->components[i].insertion);
        uint32_t widths[] = {x->width_in - m->n_embd, x->width_attn - m->n_heads * m->head_dim, x->width_ff - m->n_ff};
        for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++)
            most = widths[w] > most ? widths[w] : most;
    }
    return most;
}

static ot_status open_engine(ot_scheduler *s, ot_companion *c, ot_error *err)
{
    ot_engine_options o;
    ot_engine_options_default(&o);
    o.n_threads = s->options.n_threads;
    o.max_rows = s->options.max_batch_tokens;
    o.max_context = c->ctx_size;
    o.max_insertions = c->n_components > 0 ? c->n_components : 1;
    o.max_ext_width = extension_width(c);
    o.kv_type = s->options.kv_type;
    o.cpu_mask = s->options.cpu_mask;
    o.pool = ot_engine_pool(s->engine);
    return ot_engine_open(&c->engine, c->model, &o, err);
}

static ot_status open_companion(ot_scheduler *s, ot_companion *c, ot_error *err)
{
    ot_kv_cache_options o = {c->kv_memory_bytes, s->options.kv_type, s->options.prefix_cache};
    ot_status st = open_engine(s, c, err);
    if (st == OT_OK)
        st = ot_kv_cache_open(&c->cache, c->model, &o, err);
    if (st != OT_OK)
        return st;
    ot_kv_cache_stats kv;
    ot_kv_cache_get_stats(c->cache, &kv);
    c->kv_slots = (uint64_t)(kv.units_total / ot_kv_units_per_page(c->model, c->components, c->n_components)) * OT_PAGE_TOKENS;
    c->rows = calloc(s->options.max_batch_tokens, sizeof *c->rows);
    c->row_of = calloc(s->options.max_batch_tokens, sizeof *c->row_of);
    c->views = calloc(s->options.max_sequences, sizeof *c->views);
    c->guessers = calloc(s->options.max_sequences, sizeof *c->guessers);
    if (c->guessers == NULL || c->rows == NULL || c->row_of == NULL || c->views == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "no memory for the rows of %s '%s'", role_names[ot_head_get_role(c->heads[0])],
                       ot_head_name(c->heads[0]));
    return OT_OK;
}

ot_status ot_companions_open(ot_scheduler *s, ot_error *err)
{
    ot_status st = OT_OK;
    for (uint32_t i = 0; i < s->n_companions && st == OT_OK; i++)
        st = open_companion(s, &s->companions[i], err);
    return st;
}

void ot_companions_close(ot_scheduler *s)
{
    for (uint32_t i = 0; i < s->n_companions; i++) {
        ot_companion *c = &s->companions[i];
        free(c->rows);
        free(c->row_of);
        free(c->views);
        free(c->guessers);
        ot_kv_cache_close(&c->cache);
        ot_engine_close(&c->engine);
        for (uint32_t h = 0; h < c->n_heads; h++)
            ot_head_release(&c->heads[h]);
    }
    free(s->companions);
    s->companions = NULL;
    s->n_companions = 0;
}

/* ---- Requests ------------------------------------------------------------------------------------------------ */

static ot_companion *find_companion(const ot_scheduler *s, const ot_head *head)
{
    for (uint32_t i = 0; i < s->n_companions; i++)
        for (uint32_t h = 0; h < s->companions[i].n_heads; h++)
            if (s->companions[i].heads[h] == head)
                return &s->companions[i];
    return NULL;
}

static ot_status use_head(const ot_scheduler *s, const ot_head *head, ot_companion_use *use, ot_error *err)
{
    if (head == NULL || ot_head_get_role(head) == OT_ROLE_INSERTION)
        return OT_OK;
    ot_companion *c = find_companion(s, head);
    if (c == NULL)
        return ot_fail_param(err, OT_ERR_INVALID, "intervention", "%s '%s' was loaded after the scheduler had started",
                             role_names[ot_head_get_role(head)], ot_head_name(head));
    if (c->drafts) {
        use->draft = c;
        return OT_OK;
    }
    for (uint32_t i = 0; i < use->n_mirrors; i++)
        if (use->mirrors[i] == c)
            return OT_OK;
    use->mirrors[use->n_mirrors++] = c; /* distinct, so never more than there are */
    return OT_OK;
}

ot_status ot_companions_resolve(const ot_scheduler *s, const ot_intervention *v, ot_companion_use *use, ot_error *err)
{
    memset(use, 0, sizeof *use);
    ot_status st = OT_OK;
    for (uint32_t i = 0; i < v->n_signals && st == OT_OK; i++)
        st = use_head(s, v->signals[i].head, use, err);
    if (st == OT_OK)
        st = use_head(s, v->experts.positive, use, err);
    if (st == OT_OK)
        st = use_head(s, v->experts.negative, use, err);
    if (st == OT_OK && v->drafting.max_draft > 0)
        st = use_head(s, v->drafting.head, use, err);
    return st;
}

void ot_companions_attach(const ot_scheduler *s, const ot_intervention *v, ot_request *r)
{
    ot_companions_resolve(s, v, &r->resolved.companions, NULL);
    for (uint32_t i = 0; i < r->intervention->n_signals; i++)
        r->resolved.signals[i].companion = find_companion(s, v->signals[i].head);
    r->resolved.positive.companion = find_companion(s, v->experts.positive);
    r->resolved.negative.companion = find_companion(s, v->experts.negative);
}

uint32_t ot_companion_components(const ot_companion *c, const ot_request *r, ot_kv_component out[OT_KV_MAX_INSERTIONS])
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_components; i++) {
        bool used = false;
        for (uint32_t j = 0; j < r->intervention->n_signals && !used; j++)
            used = r->resolved.signals[j].companion == c && r->resolved.signals[j].insertion == c->components[i].insertion;
        if (used)
            out[n++] = c->components[i];
    }
    return n;
}

uint64_t ot_companions_longest(const ot_companion_use *use)
{
    uint64_t longest = UINT64_MAX;
    for (uint32_t i = 0; i < use->n_mirrors; i++)
        longest = use->mirrors[i]->kv_slots < longest ? use->mirrors[i]->kv_slots : longest;
    return longest;
}

/* ---- Steps --------------------------------------------------------------------------------------------------- */

/* Takes a run of the base's rows over, all of one choice. */
static void mirror_rows(const ot_scheduler *s, ot_companion *c, const ot_choice *choice, uint32_t first, uint32_t n)
{
    const ot_companion_use *use = &choice->request->resolved.companions;
    uint32_t at = 0;
    while (at < use->n_mirrors && use->mirrors[at] != c)
        at++;
    if (at == use->n_mirrors)
        return;
    for (uint32_t i = first; i < first + n; i++) {
        ot_row *row = &c->rows[c->batch.n_rows];
        *row = s->batch.rows[i];
        row->sequence = c->batch.n_sequences;
        c->row_of[i] = c->batch.n_rows++;
    }
    c->views[c->batch.n_sequences++] = *ot_kv_seq_view(choice->mirrors[at]);
}

static ot_status forward(ot_scheduler *s, ot_companion *c, ot_error *err)
{
    const ot_step_batch *b = &s->batch;
    c->batch = (ot_batch){.rows = c->rows, .sequences = c->views};
    memset(c->row_of, 0xff, b->engine.n_rows * sizeof *c->row_of);
    for (uint32_t i = 0; i < b->n_turns; i++)
        mirror_rows(s, c, b->turns[i].choice, b->turns[i].first_row, b->turns[i].n_nodes);
    for (uint32_t i = 0; i < b->n_chunks; i++)
        mirror_rows(s, c, b->chunks[i].choice, b->chunks[i].first_row, b->chunks[i].n);
    return c->batch.n_rows > 0 ? ot_engine_forward(c->engine, &c->batch, err) : OT_OK;
}

ot_status ot_companions_forward(ot_scheduler *s, ot_error *err)
{
    ot_status st = OT_OK;
    for (uint32_t i = 0; i < s->n_companions && st == OT_OK; i++)
        if (!s->companions[i].drafts)
            st = forward(s, &s->companions[i], err);
    return st;
}

float ot_signal_score(const ot_engine *base, uint32_t row, const ot_signal *signal)
{
    const ot_companion *c = signal->companion;
    if (c == NULL)
        return ot_engine_score(base, row, signal->insertion, signal->output);
    return ot_engine_score(c->engine, c->row_of[row], signal->insertion, signal->output);
}

ot_status ot_companion_values(const ot_used_head *expert, const uint32_t *rows, uint32_t n, uint32_t n_vocab,
                              const float *const *base, float *const *values, ot_error *err)
{
    const ot_companion *c = expert->companion;
    uint32_t own[OT_LOGIT_ROWS] = {0};
    if (c == NULL || n > OT_LOGIT_ROWS)
        return ot_fail(err, OT_ERR_INVALID, "%u rows of an expert model", n);
    for (uint32_t i = 0; i < n; i++)
        if ((own[i] = c->row_of[rows[i]]) == OT_NO_ROW)
            return ot_fail(err, OT_ERR_INVALID, "expert model '%s' did not run row %u", ot_head_name(expert->head), rows[i]);
    ot_status st = ot_engine_project_uncapped(c->engine, own, n, values, err); /* as `base` is */
    for (uint32_t i = 0; i < n && st == OT_OK; i++)
        for (uint32_t v = 0; v < n_vocab; v++)
            values[i][v] -= base[i][v];
    return st;
}
