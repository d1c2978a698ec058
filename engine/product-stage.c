/* The stages of a layer that multiply by weights: products are queued, cut into tasks, and run together.
 *
 * Few rows are cut by panels, so that each weight is read by one thread, and tasks become smaller towards the end, so that threads
 * finish together. Many rows are cut by rows, in shares (ot_pool_run_shares): a thread then has the same rows in most stages, and finds
 * in its own cache what it made of them before.
 *
 * The products into an FFN are activated and quantised by the task that made them, a tile at a time: only what is quantised leaves
 * the cache. No result depends on the cut (kernels.h). */
#include "engine/step.h"

/* ---- Queueing ----------------------------------------------------------------------------------------------------- */

void ot_step_add_matmul(ot_engine *e, float *y, size_t y_stride, ot_buffer *x, bool wide, uint32_t n_rows,
                        const ot_matrix *w, bool accumulate)
{
    x->acts.n_rows = n_rows;
    if (n_rows > 0)
        e->matmuls[e->n_matmuls++] =
            (ot_matmul){.y = y, .y_stride = y_stride, .x = &x->acts, .wide = wide, .w = w, .accumulate = accumulate};
}

void ot_step_add_ffn_in(ot_engine *e, ot_stream *s, ot_buffer *x, bool wide, uint32_t n_rows, const ot_linear *gate,
                        const ot_linear *up)
{
    if (n_rows == 0)
        return;
    ot_step_add_matmul(e, s != NULL ? s->up : NULL, up->w.n_out, x, wide, n_rows, &up->w, false);
    ot_matmul *m = &e->matmuls[e->n_matmuls - 1];
    m->up = up;
    m->gate = e->op->ffn == OT_FFN_SILU_GATED ? gate : NULL;
    m->gate_y = s != NULL ? s->gate : NULL;
    m->stream = s;
}

/* ---- A task ------------------------------------------------------------------------------------------------------- */

/* Whether an FFN's inner activations are read as floats: by the product that follows, a concatenation, or a tape. */
static bool keeps_inner(const ot_engine *e, const ot_stream *s, const ot_buffer *inner)
{
    return e->gathers || inner->acts.q == NULL || (s != NULL ? !s->in_blocks : !ot_matrix_takes_q8(&e->model->weights.layers[e->layer].down.w));
}

/* Rows [row, row + n_rows) of a queued product's activations times panels [begin, end) of w; row 0 of y is the first of them. */
static void multiply(const ot_engine *e, const ot_matmul *m, const ot_matrix *w, float *y, size_t y_stride, uint32_t row,
                     uint32_t n_rows, uint32_t begin, uint32_t end)
{
    const ot_acts x = ot_acts_part(m->x, row, n_rows, 0, m->x->n_in);
    (m->wide ? e->kernels->matmul_wide : e->kernels->matmul)(y, y_stride, &x, w, begin, end, m->accumulate);
}

/* Columns [column, column + n) of rows [row, row + n_rows) of a buffer, quantised from floats that stand elsewhere. */
static void quantize_from(const ot_engine *e, const ot_buffer *b, const float *x, size_t x_stride, uint32_t row, uint32_t n_rows,
                          uint32_t column, uint32_t n, unsigned forms)
{
    ot_acts acts = ot_acts_part(&b->acts, row, n_rows, column, n);
    acts.x = x;
    acts.x_stride = x_stride;
    e->kernels->quantize(&acts, forms, 0, n_rows);
}

/* A part of a task of the products into an FFN, small enough to stay in the cache: n_rows rows from `row`, panels [begin, end). Gate and
 * up go to the task's tile (or the tape), are activated there, and leave it quantised. */
static void run_ffn_part(ot_engine *e, const ot_matmul *m, uint32_t row, uint32_t n_rows, uint32_t begin, uint32_t end, float *tile)
{
    ot_stream *s = m->stream;
    ot_buffer *inner = s != NULL ? &s->ff : &e->inner;
    const uint32_t first = begin * OT_PANEL, last = end * OT_PANEL < m->w->n_out ? end * OT_PANEL : m->w->n_out, n = last - first;
    const uint32_t column = (s != NULL ? ot_stream_own_column(e, s, OT_PART_FF) : 0) + first;
    const size_t stride = m->y != NULL ? m->y_stride : OT_FFN_TILE_FLOATS / n_rows / OT_QBLOCK * OT_QBLOCK;
    float *up = m->y != NULL ? m->y + row * stride + first : tile;
    float *gate = m->gate_y != NULL ? m->gate_y + row * stride + first : tile + OT_FFN_TILE_FLOATS;
    /* The kernel writes feature o at y[o]: the first feature of this part shall be column 0. */
    if (m->gate != NULL)
        multiply(e, m, &m->gate->w, gate - first, stride, row, n_rows, begin, end);
    multiply(e, m, m->w, up - first, stride, row, n_rows, begin, end);

    const bool keeps = keeps_inner(e, s, inner);
    float *to = keeps ? inner->x + (size_t)row * inner->width + column : up;
    const size_t to_stride = keeps ? inner->width : stride;
    for (uint32_t r = 0; r < n_rows; r++) {
        ot_step_add_bias(e, up + r * stride, m->up, first, n);
        if (m->gate != NULL)
            ot_step_add_bias(e, gate + r * stride, m->gate, first, n);
        ot_step_activate(e, to + r * to_stride, gate + r * stride, up + r * stride, n);
    }
    if (inner->acts.q != NULL && (s == NULL || s->in_blocks))
        quantize_from(e, inner, to, to_stride, row, n_rows, column, n,
                      s == NULL && ot_step_is_last_layer(e) ? OT_ACTS_NARROW | OT_ACTS_WIDE : OT_ACTS_NARROW);
    for (uint32_t r = row; r < row + n_rows && e->n_streams > 0; r++)
        ot_streams_give_blocks(e, s != NULL ? s->rows[r] : r, OT_PART_FF, s, first, n);
}

static void run_ffn_in(ot_engine *e, const ot_matmul *m, const ot_matmul_task *t, float *tile)
{
    for (uint32_t r = 0; r < t->n_rows; r += OT_FFN_TILE_ROWS) {
        const uint32_t n_rows = t->n_rows - r < OT_FFN_TILE_ROWS ? t->n_rows - r : OT_FFN_TILE_ROWS;
        const uint32_t n_panels = OT_FFN_TILE_FLOATS / n_rows / OT_QBLOCK * (OT_QBLOCK / OT_PANEL);
        for (uint32_t p = t->begin; p < t->end; p += n_panels)
            run_ffn_part(e, m, t->row + r, n_rows, p, t->end - p < n_panels ? t->end : p + n_panels, tile);
    }
}

static void matmul_task(void *arg, uint32_t task, uint32_t thread)
{
    ot_engine *e = arg;
    const ot_matmul_task *t = &e->matmul_tasks[task];
    const ot_matmul *m = &e->matmuls[t->matmul];
    if (m->up != NULL)
        run_ffn_in(e, m, t, e->tiles + (size_t)thread * OT_TILE_ROWS * OT_TILE_COLUMNS);
    else
        multiply(e, m, m->w, m->y + t->row * m->y_stride, m->y_stride, t->row, t->n_rows, t->begin, t->end);
}

/* ---- Cutting ------------------------------------------------------------------------------------------------------ */

/* Work of a panel: inputs, times the runs over them. */
static uint64_t panel_work(const ot_matmul *m)
{
    return (uint64_t)m->w->n_in * (m->gate != NULL ? 2 : 1) * (m->wide ? 2 : 1);
}

/* Cuts the queued products into tasks: large ones first, then smaller and smaller, so that threads finish together and yet take
 * few. A panel's result does not depend on the cut. Panels go in pairs: whole blocks of activations where products feed an FFN, and
 * a tile of the kernels. */
static uint32_t cut_by_panels(ot_engine *e)
{
    const uint64_t n_threads = e->options.n_threads;
    uint64_t left = 0;
    for (uint32_t k = 0; k < e->n_matmuls; k++)
        left += e->matmuls[k].w->n_panels * panel_work(&e->matmuls[k]);
    const uint64_t least = left / (OT_MATMUL_TASKS_PER_THREAD * n_threads) + 1;
    uint32_t n_tasks = 0;
    for (uint32_t k = 0; k < e->n_matmuls; k++) {
        const ot_matmul *m = &e->matmuls[k];
        const uint64_t work = panel_work(m);
        for (uint32_t begin = 0; begin < m->w->n_panels;) {
            const uint64_t share = left / (3 * n_threads) > least ? left / (3 * n_threads) : least;
            const uint64_t n = (share + 2 * work - 1) / (2 * work) * 2;
            const uint32_t end = n < m->w->n_panels - begin ? begin + (uint32_t)n : m->w->n_panels;
            e->matmul_tasks[n_tasks++] = (ot_matmul_task){k, begin, end, 0, m->x->n_rows};
            left -= (end - begin) * work;
            begin = end;
        }
    }
    return n_tasks;
}

/* Cuts the queued products into blocks of rows, all products of the first block before those of the next. Products with fewer rows
 * than others (those of insertions) are cut into as many blocks. */
static uint32_t cut_by_rows(ot_engine *e, uint32_t n_rows)
{
    const uint32_t n_threads = e->options.n_threads, room = OT_MATMUL_TASKS_PER_THREAD * n_threads / e->n_matmuls;
    uint32_t n_blocks = n_rows / (OT_CUT_ROWS_PER_THREAD / 2), n_tasks = 0;
    n_blocks = n_blocks < room ? n_blocks : room > 0 ? room : 1;
    for (uint64_t b = 0; b < n_blocks; b++)
        for (uint32_t k = 0; k < e->n_matmuls; k++) {
            const ot_matmul *m = &e->matmuls[k];
            const uint64_t quads = (m->x->n_rows + 3u) / 4; /* the rows of a tile */
            const uint32_t begin = (uint32_t)(b * quads / n_blocks * 4), end = (uint32_t)((b + 1) * quads / n_blocks * 4);
            const uint32_t last = end < m->x->n_rows ? end : m->x->n_rows;
            if (begin < last)
                e->matmul_tasks[n_tasks++] = (ot_matmul_task){k, 0, m->w->n_panels, begin, last - begin};
        }
    return n_tasks;
}

/* All queued products in one run. */
void ot_step_run_matmuls(ot_engine *e, int stage)
{
    uint32_t n_rows = 0;
    for (uint32_t k = 0; k < e->n_matmuls; k++) {
        const ot_matmul *m = &e->matmuls[k];
        ot_step_count_product(e, stage, m->w, m->x->n_rows);
        if (m->gate != NULL)
            ot_step_count_product(e, stage, &m->gate->w, m->x->n_rows);
        n_rows = m->x->n_rows > n_rows ? m->x->n_rows : n_rows;
    }
    if (n_rows >= OT_CUT_ROWS_PER_THREAD * e->options.n_threads)
        ot_step_run_rows(e, stage, matmul_task, cut_by_rows(e, n_rows));
    else
        ot_step_run(e, stage, matmul_task, cut_by_panels(e));
    e->n_matmuls = 0;
}
