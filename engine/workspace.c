/* The memory of an engine: one mapping for the whole workspace, sized when the engine opens. Pages that a batch never touches are
 * never resident, so generous bounds cost address space only. Two passes over one layout function: the first adds
 * up sizes, the second hands out pointers. */
#include "engine/step.h"

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
    b->width = width;
    b->x = take(e, (size_t)n_rows * width, sizeof(float));
    take_acts(e, &b->acts, n_rows, width, wide);
    b->acts.n_in = width;
    b->acts.x = b->x;
    b->acts.x_stride = width;
    b->acts.q_stride = ((size_t)width + 63) / 64 * 64;
    b->acts.b_stride = width / OT_QBLOCK;
    if (width % OT_QBLOCK != 0)
        b->acts.q = NULL;
}

static void take_stream(ot_engine *e, ot_stream *s)
{
    const ot_model_info *i = &e->model->info;
    const size_t n = e->options.max_rows, w = e->options.max_ext_width;
    s->rows = take(e, n, sizeof *s->rows);
    s->index = take(e, n, sizeof *s->index);
    s->ext = take(e, n * w, sizeof(float));
    s->out = take(e, n * w, sizeof(float));
    s->scores = take(e, n * OT_MAX_HEADS, sizeof(float));
    s->storage_in = take(e, n * (i->n_embd + w), sizeof(float));
    s->storage_attn = take(e, n * (i->n_heads * i->head_dim + w), sizeof(float));
    s->storage_ff = take(e, n * (i->n_ff + w), sizeof(float));
    s->storage_q = take(e, n * w, sizeof(float));
    s->storage_k = take(e, n * w, sizeof(float));
    s->storage_v = take(e, n * w, sizeof(float));
    take_acts(e, &s->in.acts, e->options.max_rows, i->n_embd + (uint32_t)w, false);
    take_acts(e, &s->attn.acts, e->options.max_rows, i->n_heads * i->head_dim + (uint32_t)w, false);
    take_acts(e, &s->ff.acts, e->options.max_rows, i->n_ff + (uint32_t)w, false);
}

static void lay_out(ot_engine *e)
{
    const ot_model_info *i = &e->model->info;
    const ot_engine_options *o = &e->options;
    const size_t n = o->max_rows, q = (size_t)i->n_heads * i->head_dim, kv = (size_t)i->n_kv_heads * i->head_dim;
    const uint32_t group = i->n_heads / i->n_kv_heads;
    /* New heads may form larger groups than the base's: bounded by the width of the new heads. */
    const size_t ext_heads = o->max_ext_width / i->head_dim;
    const size_t queries = OT_GROUP_QUERIES > group ? OT_GROUP_QUERIES : group;
    e->scratch_stride = ot_attn_scratch_floats(o->max_context);
    e->scratch_floats = (queries > ext_heads ? queries : ext_heads) * e->scratch_stride;
    e->max_attn_tasks = (uint32_t)(n * (i->n_kv_heads + o->max_insertions * ext_heads));

    e->arena_used = 0;
    e->h = take(e, n * i->n_embd, sizeof(float));
    e->inv = take(e, n, sizeof(float));
    e->mean = take(e, n, sizeof(float));
    take_buffer(e, &e->xn, o->max_rows, i->n_embd, true);
    e->q = take(e, n * q, sizeof(float));
    e->k = take(e, n * kv, sizeof(float));
    e->v = take(e, n * kv, sizeof(float));
    take_buffer(e, &e->att, o->max_rows, (uint32_t)q, false);
    take_buffer(e, &e->inner, o->max_rows, i->n_ff, true);
    e->rope = take(e, n * e->model->rope.n_rot, sizeof(float));
    take_buffer(e, &e->hidden, o->max_rows, i->n_embd, false);
    e->output_index = take(e, n, sizeof *e->output_index);
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
    e->streams = take(e, o->max_insertions, sizeof *e->streams);
    e->stream_of = take(e, n * o->max_insertions, sizeof *e->stream_of);
    e->groups = take(e, n, sizeof *e->groups);
    e->sequence_groups = take(e, n, sizeof *e->sequence_groups);
    e->kept_rows = take(e, n, sizeof *e->kept_rows);
    e->attn_tasks = take(e, e->max_attn_tasks, sizeof *e->attn_tasks);
    const size_t n_shared = OT_MAX_SHARED((size_t)o->n_threads);
    e->shared = take(e, n_shared, sizeof *e->shared);
    e->shared_scores = take(e, n_shared * OT_GROUP_QUERIES, e->scratch_stride * sizeof(float));
    const size_t layer_matmuls = 3 + 3 * (size_t)o->max_insertions;
    const size_t n_matmuls = layer_matmuls > n ? layer_matmuls : n;
    e->matmuls = take(e, n_matmuls, sizeof *e->matmuls);
    e->matmul_tasks = take(e, (size_t)o->n_threads * OT_MATMUL_TASKS_PER_THREAD + n_matmuls, sizeof *e->matmul_tasks);
    ot_stream unused;
    for (uint32_t k = 0; k < o->max_insertions; k++)
        take_stream(e, e->arena != NULL ? &e->streams[k] : &unused);
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
