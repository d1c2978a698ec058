/* The stages of a layer that multiply by weights: products are listed, cut into tasks, and run together.
 *
 * Few rows are cut by panels, so that each weight is read by one thread, and tasks become smaller towards the end, so that threads
 * finish together. Many rows are cut by rows, in shares (ot_pool_run_shares): a thread then has the same rows in most stages, and finds
 * in its own cache what it made of them before.
 *
 * The products into an FFN are activated and quantised by the task that made them, a tile at a time: only what is quantised leaves
 * the cache. No result depends on the cut (kernels.h). */
#include "engine/product-stage.h"
#include "base/asserts.h"

/* Products of this many rows a thread and more are cut by rows: what a thread has made of its rows is still in its cache when
 * the next stage reads it. Fewer rows are cut by panels, so that each weight is read by one thread. */
enum { CUT_ROWS_PER_THREAD = 64 };

/* ---- Listing ------------------------------------------------------------------------------------------------------ */

void ot_products_add(ot_product_list *list, float *y, size_t y_stride, const ot_acts *x, bool wide, uint32_t n_rows,
                     const ot_matrix *w, bool accumulate)
{
    ot_engine *e = list->stage->e;
    if (n_rows == 0)
        return;
    OT_ASSERT(list->n < e->max_products);
    e->products[list->n++] = (ot_product){.y = y, .y_stride = y_stride, .x = x, .n_rows = n_rows,
                                          .wide = wide && x->wide_q != NULL, .w = w, .accumulate = accumulate};
}

void ot_products_add_ffn_in(ot_product_list *list, const ot_lane *lane, bool wide)
{
    const ot_stage *s = list->stage;
    const ot_layer *l = ot_stage_layer(s, lane);
    const uint32_t before = list->n;
    ot_products_add(list, lane->up, l->up.w.n_out, &lane->parts[OT_PART_IN].acts, wide, lane->rows[s->set].n, &l->up.w, false);
    if (list->n == before)
        return;
    ot_product *p = &s->e->products[before];
    p->lane = lane;
    p->up = &l->up;
    p->gate = l->gate.w.data != NULL ? &l->gate : NULL;
    p->gate_y = lane->gate;
}

/* ---- A task ------------------------------------------------------------------------------------------------------- */

/* Rows [row, row + n_rows) of a listed product's activations times panels [begin, end) of w; row 0 of y is the first of them. */
static void multiply(const ot_engine *e, const ot_product *p, const ot_matrix *w, float *y, size_t y_stride, uint32_t row,
                     uint32_t n_rows, uint32_t begin, uint32_t end)
{
    const ot_acts x = ot_acts_part(p->x, row, n_rows, 0, p->x->n_in);
    (p->wide ? e->kernels->matmul_wide : e->kernels->matmul)(y, y_stride, &x, w, begin, end, p->accumulate);
}

/* Columns [column, column + n) of rows [row, row + n_rows) of a buffer, quantised from floats that stand elsewhere. */
static void quantize_from(const ot_engine *e, const ot_buffer *b, const float *x, size_t x_stride, uint32_t row, uint32_t n_rows,
                          uint32_t column, uint32_t n, unsigned forms)
{
    ot_acts acts = ot_acts_part(&b->acts, row, n_rows, column, n);
    acts.x = x;
    acts.x_stride = x_stride;
    e->kernels->quantize(&acts, b->acts.wide_q != NULL ? forms : forms & ~(unsigned)OT_ACTS_WIDE, 0, n_rows);
}

/* Whether an FFN's inner activations are read as floats: by the product that follows, a lane above, or a tape. */
static bool keeps_inner(const ot_stage *s, const ot_lane *lane)
{
    return s->e->plan.gathers[OT_PART_INNER] || !lane->in_blocks[OT_PART_INNER] ||
           !ot_matrix_takes_q8(&ot_stage_layer(s, lane)->down.w);
}

/* dst may be up; gate is not kept. */
static void activate(const ot_engine *e, ot_ffn_kind ffn, float *dst, float *gate, const float *up, uint32_t n)
{
    switch (ffn) {
    case OT_FFN_GELU_GATED:
        e->kernels->gelu(gate, gate, n);
        for (uint32_t i = 0; i < n; i++)
            dst[i] = gate[i] * up[i];
        break;
    case OT_FFN_SILU_GATED: e->kernels->silu_mul(dst, gate, up, n); break;
    case OT_FFN_GELU: e->kernels->gelu(dst, up, n); break;
    }
}

/* A part of a task of the products into an FFN, small enough to stay in the cache: n_rows rows from `row`, panels [begin, end). Gate and
 * up go to the task's tile (or the tape), are activated there, and leave it quantised. */
static void run_ffn_part(const ot_stage *s, const ot_product *p, uint32_t row, uint32_t n_rows, uint32_t begin, uint32_t end,
                         float *tile)
{
    const ot_engine *e = s->e;
    const ot_lane *lane = p->lane;
    const ot_buffer *inner = &lane->parts[OT_PART_INNER];
    const uint32_t first = begin * OT_PANEL, last = end * OT_PANEL < p->w->n_out ? end * OT_PANEL : p->w->n_out, n = last - first;
    const uint32_t column = ot_lane_own_column(lane, OT_PART_INNER) + first;
    const size_t stride = p->y != NULL ? p->y_stride : OT_FFN_TILE_FLOATS / n_rows / OT_QBLOCK * OT_QBLOCK;
    float *up = p->y != NULL ? p->y + row * stride + first : tile;
    float *gate = p->gate_y != NULL ? p->gate_y + row * stride + first : tile + OT_FFN_TILE_FLOATS;
    /* The kernel writes feature o at y[o]: the first feature of this part shall be column 0. */
    if (p->gate != NULL)
        multiply(e, p, &p->gate->w, gate - first, stride, row, n_rows, begin, end);
    multiply(e, p, p->w, up - first, stride, row, n_rows, begin, end);

    const bool keeps = keeps_inner(s, lane);
    float *to = keeps ? inner->x + (size_t)row * inner->width + column : up;
    const size_t to_stride = keeps ? inner->width : stride;
    for (uint32_t r = 0; r < n_rows; r++) {
        ot_add_bias(e, up + r * stride, p->up, first, n);
        if (p->gate != NULL)
            ot_add_bias(e, gate + r * stride, p->gate, first, n);
        activate(e, s->op->ffn, to + r * to_stride, gate + r * stride, up + r * stride, n);
    }
    if (!lane->in_blocks[OT_PART_INNER])
        return;
    quantize_from(e, inner, to, to_stride, row, n_rows, column, n, s->wide ? OT_ACTS_NARROW | OT_ACTS_WIDE : OT_ACTS_NARROW);
    for (uint32_t r = row; r < row + n_rows && e->plan.n_lanes > 1; r++) {
        uint32_t n_lanes;
        const uint32_t of = lane->rows[s->set].rows[r];
        ot_lane *const *lanes = ot_stage_lanes(s, of, &n_lanes);
        ot_lane_give(lane, s->set, of, OT_PART_INNER, first, n, lanes, n_lanes);
    }
}

static void run_ffn_in(const ot_stage *s, const ot_product *product, const ot_product_task *t, float *tile)
{
    for (uint32_t r = 0; r < t->n_rows; r += OT_FFN_TILE_ROWS) {
        const uint32_t n_rows = t->n_rows - r < OT_FFN_TILE_ROWS ? t->n_rows - r : OT_FFN_TILE_ROWS;
        const uint32_t n_panels = OT_FFN_TILE_FLOATS / n_rows / OT_QBLOCK * (OT_QBLOCK / OT_PANEL);
        for (uint32_t p = t->begin; p < t->end; p += n_panels)
            run_ffn_part(s, product, t->row + r, n_rows, p, t->end - p < n_panels ? t->end : p + n_panels, tile);
    }
}

static void product_task(void *arg, uint32_t task, uint32_t thread)
{
    const ot_stage *s = arg;
    const ot_engine *e = s->e;
    const ot_product_task *t = &e->product_tasks[task];
    const ot_product *p = &e->products[t->product];
    if (p->lane != NULL)
        run_ffn_in(s, p, t, e->tiles + (size_t)thread * OT_TILE_ROWS * OT_TILE_COLUMNS);
    else
        multiply(e, p, p->w, p->y + t->row * p->y_stride, p->y_stride, t->row, t->n_rows, t->begin, t->end);
}

/* ---- Cutting ------------------------------------------------------------------------------------------------------ */

/* Work of a panel: inputs, times the runs over them. */
static uint64_t panel_work(const ot_product *p)
{
    return (uint64_t)p->w->n_in * (p->gate != NULL ? 2 : 1) * (p->wide ? 2 : 1);
}

/* Cuts the queued products into tasks: large ones first, then smaller and smaller, so that threads finish together and yet take
 * few. A panel's result does not depend on the cut. Panels go in pairs: whole blocks of activations where products feed an FFN, and
 * a tile of the kernels. */
static uint32_t cut_by_panels(const ot_engine *e, uint32_t n_products)
{
    const uint64_t n_threads = e->options.n_threads;
    uint64_t left = 0;
    for (uint32_t k = 0; k < n_products; k++)
        left += e->products[k].w->n_panels * panel_work(&e->products[k]);
    const uint64_t least = left / (OT_PRODUCT_TASKS_PER_THREAD * n_threads) + 1;
    uint32_t n_tasks = 0;
    for (uint32_t k = 0; k < n_products; k++) {
        const ot_product *p = &e->products[k];
        const uint64_t work = panel_work(p);
        for (uint32_t begin = 0; begin < p->w->n_panels;) {
            const uint64_t share = left / (3 * n_threads) > least ? left / (3 * n_threads) : least;
            const uint64_t n = (share + 2 * work - 1) / (2 * work) * 2;
            const uint32_t end = n < p->w->n_panels - begin ? begin + (uint32_t)n : p->w->n_panels;
            e->product_tasks[n_tasks++] = (ot_product_task){k, begin, end, 0, p->n_rows};
            left -= (end - begin) * work;
            begin = end;
        }
    }
    return n_tasks;
}

/* Cuts the queued products into blocks of rows, all products of the first block before those of the next. Products with fewer rows
 * than others (those of insertions) are cut into as many blocks. */
static uint32_t cut_by_rows(const ot_engine *e, uint32_t n_products, uint32_t n_rows)
{
    const uint32_t n_threads = e->options.n_threads, room = OT_PRODUCT_TASKS_PER_THREAD * n_threads / n_products;
    uint32_t n_blocks = n_rows / (CUT_ROWS_PER_THREAD / 2), n_tasks = 0;
    n_blocks = n_blocks < room ? n_blocks : room > 0 ? room : 1;
    for (uint64_t b = 0; b < n_blocks; b++)
        for (uint32_t k = 0; k < n_products; k++) {
            const ot_product *p = &e->products[k];
            const uint64_t quads = (p->n_rows + 3u) / 4; /* the rows of a tile */
            const uint32_t begin = (uint32_t)(b * quads / n_blocks * 4), end = (uint32_t)((b + 1) * quads / n_blocks * 4);
            const uint32_t last = end < p->n_rows ? end : p->n_rows;
            if (begin < last)
                e->product_tasks[n_tasks++] = (ot_product_task){k, 0, p->w->n_panels, begin, last - begin};
        }
    return n_tasks;
}

void ot_products_run(ot_product_list *list, int stage)
{
    ot_engine *e = list->stage->e;
    void *arg = (void *)(uintptr_t)list->stage;
    uint32_t n_rows = 0;
    for (uint32_t k = 0; k < list->n; k++) {
        const ot_product *p = &e->products[k];
        ot_step_count_product(e, stage, p->w, p->n_rows);
        if (p->gate != NULL)
            ot_step_count_product(e, stage, &p->gate->w, p->n_rows);
        n_rows = p->n_rows > n_rows ? p->n_rows : n_rows;
    }
    if (n_rows >= CUT_ROWS_PER_THREAD * e->options.n_threads)
        ot_step_run_shares(e, stage, product_task, arg, cut_by_rows(e, list->n, n_rows));
    else
        ot_step_run(e, stage, product_task, arg, cut_by_panels(e, list->n));
    list->n = 0;
}
