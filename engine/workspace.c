/* The memory of an engine: one mapping for the whole workspace, sized when the engine opens. Pages that a batch never touches are
 * never resident, so generous bounds cost address space only. Two passes over one layout function: the first adds
 * up sizes, the second hands out pointers. */
#include "base/asserts.h"
#include "engine/product-stage.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

void ot_engine_options_default(ot_engine_options *o)
{
    memset(o, 0, sizeof *o);
    o->max_rows = 512;
    o->max_context = 0;
    o->max_insertions = 8;
    o->kv_type = OT_KV_F16;
    o->cpu_mask = ~0u;
}

/* With e->arena NULL this only counts. A zero-sized take is legal. Overflow saturates, so that the mapping fails. */
static void *take(ot_engine *e, size_t n, size_t size)
{
    size_t bytes, end;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX / 2) {
        e->arena_used = SIZE_MAX;
        return NULL;
    }
    bytes = (bytes + 63) / 64 * 64;
    if (__builtin_add_overflow(e->arena_used, bytes, &end)) {
        e->arena_used = SIZE_MAX;
        return NULL;
    }
    void *p = e->arena != NULL ? e->arena + e->arena_used : NULL;
    e->arena_used = end;
    return p;
}

static void take_acts(ot_engine *e, ot_acts *a, uint32_t n_rows, uint32_t max_width, bool wide)
{
    const size_t n = n_rows, blocks = (max_width + OT_QBLOCK - 1) / OT_QBLOCK, row = blocks * OT_QBLOCK + 64;
    a->q = take(e, n, row);
    a->scale = take(e, n * blocks, sizeof(float));
    a->bsum = take(e, n * blocks, sizeof(float));
    a->qsum = take(e, n * blocks, sizeof(int32_t));
    a->wide_q = NULL;
    if (!wide)
        return;
    a->wide_q = take(e, n * row, sizeof(int16_t));
    a->wide_scale = take(e, n * blocks, sizeof(float));
    a->wide_bsum = take(e, n * blocks, sizeof(float));
    a->wide_qsum = take(e, n * blocks, sizeof(int32_t));
}

static void take_buffer(ot_engine *e, ot_buffer *b, uint32_t n_rows, uint32_t width, bool wide)
{
    float *x = take(e, (size_t)n_rows * width, sizeof(float));
    take_acts(e, &b->acts, n_rows, width, wide);
    ot_buffer_bind(b, x, width);
    if (width % OT_QBLOCK != 0)
        b->acts.q = NULL;
}

static void take_lane_rows(ot_engine *e, ot_lane *lane)
{
    const size_t n = e->options.max_rows;
    for (int set = 0; set < OT_N_ROW_SETS; set++) {
        lane->rows[set].rows = take(e, n, sizeof *lane->rows[set].rows);
        lane->rows[set].index = take(e, n, sizeof *lane->rows[set].index);
    }
}

static void take_base_lane(ot_engine *e, ot_lane *lane)
{
    const ot_model *m = e->model;
    const ot_widths *w = &m->widths;
    const uint32_t n = e->options.max_rows, heads = m->info.n_heads / m->info.n_kv_heads * m->info.head_dim;
    *lane = (ot_lane){.weights = &m->weights, .widths = w, .n_heads = m->info.n_heads, .n_kv_heads = m->info.n_kv_heads,
                      .takes_q8 = true};
    take_lane_rows(e, lane);
    lane->h = take(e, (size_t)n * w->d, sizeof(float));
    take_buffer(e, &lane->parts[OT_PART_IN], n, w->d, true);
    lane->q = take(e, (size_t)n * w->q, sizeof(float));
    lane->k = take(e, (size_t)n * w->kv, sizeof(float));
    lane->v = take(e, (size_t)n * w->kv, sizeof(float));
    take_buffer(e, &lane->parts[OT_PART_HEADS], n, w->q, false);
    take_buffer(e, &lane->parts[OT_PART_INNER], n, w->f, true);
    lane->out = take(e, (size_t)n * w->d, sizeof(float));
    for (int part = 0; part < OT_N_PARTS; part++)
        lane->in_blocks[part] = lane->parts[part].acts.q != NULL;
    /* A task of attention quantises the heads of its key/value head. */
    lane->in_blocks[OT_PART_HEADS] = lane->in_blocks[OT_PART_HEADS] && heads % OT_QBLOCK == 0;
}

static void take_lane(ot_engine *e, ot_lane *lane)
{
    const ot_widths *base = &e->model->widths;
    const size_t n = e->options.max_rows, w = e->options.max_ext_width;
    const size_t widths[6] = {base->d + w, base->q + w, base->f + w, w, w, w}; /* parts, q, k, v */
    take_lane_rows(e, lane);
    lane->h = take(e, n * w, sizeof(float));
    lane->out = take(e, n * w, sizeof(float));
    lane->scores = take(e, n * OT_MAX_HEADS, sizeof(float));
    for (int k = 0; k < 6; k++)
        lane->storage[k] = take(e, n * widths[k], sizeof(float));
    for (int part = 0; part < OT_N_PARTS; part++)
        take_acts(e, &lane->parts[part].acts, e->options.max_rows, (uint32_t)widths[part], false);
}

static void lay_out_plan(ot_engine *e)
{
    const ot_engine_options *o = &e->options;
    ot_plan *plan = &e->plan;
    const size_t n = o->max_rows;
    plan->max_lanes = 1 + o->max_insertions;
    plan->max_attn_tasks = (uint32_t)(n * (e->model->info.n_kv_heads + o->max_insertions * (o->max_ext_width / e->model->info.head_dim)));
    plan->lanes = take(e, plan->max_lanes, sizeof *plan->lanes);
    plan->lanes_of = take(e, n * plan->max_lanes, sizeof *plan->lanes_of);
    plan->kept_rows = take(e, n, sizeof *plan->kept_rows);
    plan->kept_from = take(e, n, sizeof *plan->kept_from);
    plan->sequence_groups = take(e, n, sizeof *plan->sequence_groups);
    plan->output_index = take(e, n, sizeof *plan->output_index);
    for (int set = 0; set < OT_N_ROW_SETS; set++) {
        ot_row_set *s = &plan->sets[set];
        s->groups = take(e, n, sizeof *s->groups);
        s->attn_tasks = take(e, plan->max_attn_tasks, sizeof *s->attn_tasks);
        s->shared = take(e, OT_MAX_SHARED((size_t)o->n_threads), sizeof *s->shared);
    }
}

static void lay_out(ot_engine *e)
{
    const ot_model_info *i = &e->model->info;
    const ot_engine_options *o = &e->options;
    const size_t n = o->max_rows;
    const uint32_t group = i->n_heads / i->n_kv_heads;
    /* New heads may form larger groups than the base's: bounded by the width of the new heads. */
    const size_t ext_heads = o->max_ext_width / i->head_dim;
    const size_t queries = OT_GROUP_QUERIES > group ? OT_GROUP_QUERIES : group;
    e->scratch_stride = ot_attn_scratch_floats(o->max_context);
    e->scratch_floats = (queries > ext_heads ? queries : ext_heads) * e->scratch_stride;

    e->unit_bytes = ot_model_kv_unit_bytes(e->model, o->kv_type);

    e->arena_used = 0;
    lay_out_plan(e);
    ot_lane unused;
    for (uint32_t k = 0; k < e->plan.max_lanes; k++)
        (k == 0 ? take_base_lane : take_lane)(e, e->arena != NULL ? &e->plan.lanes[k] : &unused);
    e->inv = take(e, n, sizeof(float));
    e->mean = take(e, n, sizeof(float));
    for (int k = 0; k < OT_N_ROPES; k++)
        e->rope[k] = take(e, n * e->model->ropes[k].n_rot, sizeof(float));
    take_buffer(e, &e->project_in, o->max_rows, i->n_embd, true);
    e->token_row = take(e, e->model->info.n_embd, sizeof *e->token_row);
    e->full_rows_silu = take(e, n, sizeof *e->full_rows_silu);
    /* Whole cache lines a row, so that every part has the alignment that kernels ask for. */
    const uint32_t head_width = i->n_embd > o->max_ext_width ? i->n_embd : o->max_ext_width;
    take_buffer(e, &e->head_in, o->max_rows, (head_width + 63) / 64 * 64, true);
    e->head_parts = take(e, n, sizeof *e->head_parts);
    e->projections = take(e, n + 1, sizeof *e->projections);
    e->out_rows = take(e, 2 * n, sizeof *e->out_rows);
    e->tiles = take(e, (size_t)o->n_threads * OT_TILE_ROWS * OT_TILE_COLUMNS, sizeof(float));
    e->scratch = take(e, (size_t)o->n_threads * e->scratch_floats, sizeof(float));
    const size_t n_shared = OT_MAX_SHARED((size_t)o->n_threads);
    e->shared_z = take(e, n_shared * OT_GROUP_QUERIES, sizeof(float));
    e->shared_scores = take(e, n_shared * OT_GROUP_QUERIES, e->scratch_stride * sizeof(float));
    const uint32_t layer_products = 3 * e->plan.max_lanes;
    e->max_products = layer_products > o->max_rows ? layer_products : o->max_rows;
    e->products = take(e, e->max_products, sizeof *e->products);
    e->product_tasks = take(e, (size_t)o->n_threads * OT_PRODUCT_TASKS_PER_THREAD + e->max_products, sizeof *e->product_tasks);
    OT_ASSERT(e->arena == NULL || e->arena_used == e->arena_bytes);
}

uint32_t ot_available_cpus(void)
{
    cpu_set_t set;
    const int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n > 0 ? (uint32_t)n : 1;
}

static ot_status resolve_options(ot_engine *e, const ot_engine_options *options, ot_error *err)
{
    ot_engine_options *o = &e->options;
    *o = *options;
    if (o->pool != NULL)
        o->n_threads = ot_pool_threads(o->pool);
    if (o->n_threads == 0)
        o->n_threads = ot_available_cpus();
    if (o->max_context == 0)
        o->max_context = e->model->info.n_ctx_train;
    if (o->max_ext_width == 0)
        o->max_ext_width = 4096;
    if (o->n_threads > 1024)
        return ot_fail_param(err, OT_ERR_INVALID, "threads", "%u threads, at most 1024", o->n_threads);
    if (o->max_rows == 0 || o->max_rows > (1u << 20))
        return ot_fail_param(err, OT_ERR_INVALID, "max_rows", "%u rows in a batch, expected 1 to %u", o->max_rows, 1u << 20);
    if (o->max_insertions == 0 || o->max_insertions > 256)
        return ot_fail_param(err, OT_ERR_INVALID, "max_insertions", "%u insertions in a batch, expected 1 to 256",
                             o->max_insertions);
    return OT_OK;
}

ot_status ot_engine_open(ot_engine **out, const ot_model *model, const ot_engine_options *options, ot_error *err)
{
    *out = NULL;
    ot_engine *e = ot_alloc(1, sizeof *e);
    if (e == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory");
    e->model = model;
    ot_status st = resolve_options(e, options, err);
    if (st == OT_OK) {
        e->kernels = ot_kernels_select(e->options.cpu_mask);
        e->owns_pool = e->options.pool == NULL;
        e->pool = e->options.pool;
        st = e->owns_pool ? ot_pool_open(&e->pool, e->options.n_threads, err) : OT_OK;
    }
    if (st == OT_OK) {
        lay_out(e);
        e->arena_bytes = e->arena_used;
        void *p = mmap(NULL, e->arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) {
            st = ot_fail(err, OT_ERR_NOMEM, "out of memory for a workspace of %zu bytes", e->arena_bytes);
        } else {
            e->arena = p;
            lay_out(e);
        }
    }
    if (st != OT_OK) {
        ot_engine_close(&e);
        return st;
    }
    *out = e;
    return OT_OK;
}

void ot_engine_close(ot_engine **engine)
{
    ot_engine *e = *engine;
    if (e == NULL)
        return;
    if (e->owns_pool)
        ot_pool_close(&e->pool);
    if (e->arena != NULL)
        munmap(e->arena, e->arena_bytes);
    free(e);
    *engine = NULL;
}

ot_pool *ot_engine_pool(ot_engine *engine)
{
    return engine->pool;
}

const ot_kernels *ot_engine_kernels(const ot_engine *engine)
{
    return engine->kernels;
}

const ot_model *ot_engine_model(const ot_engine *engine)
{
    return engine->model;
}
