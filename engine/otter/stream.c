/* The inserted stream: h' beside h, for the rows whose sequence uses an insertion (method: the extended transformer).
 *
 * Zero blocks are neither stored nor multiplied: each inserted projection reads a concatenation [base; parents; own] that is
 * gathered here, and writes to its own part alone. n(h') takes the statistics of h, so it is one scaling (and shift).
 * Rows of a stream are compact: compact row c belongs to batch row rows[c]. A parent has at least its child's rows, and
 * comes earlier in e->streams. */
#include "engine/step.h"

#include <string.h>

/* ---- Which rows belong to which stream ----------------------------------------------------------------------- */

ot_stream *ot_streams_find(const ot_engine *e, const ot_insertion *x)
{
    for (uint32_t k = 0; k < e->n_streams; k++)
        if (e->streams[k].insertion == x)
            return &e->streams[k];
    return NULL;
}

static void bind_buffer(ot_buffer *b, float *x, uint32_t width)
{
    b->x = x;
    b->width = width;
    b->acts.x = x;
    b->acts.n_in = width;
    b->acts.x_stride = width;
    b->acts.q_stride = ((size_t)width + 63) / 64 * 64;
    b->acts.b_stride = width / OT_QBLOCK;
}

static bool has_blocks(const ot_linear *linear)
{
    return linear->w.data == NULL || ot_matrix_takes_q8(&linear->w);
}

/* Whether all parts of the stream's concatenations are whole blocks, and none of its matrices reads floats. Parents have been asked. */
static bool can_take_blocks(const ot_engine *e, const ot_stream *s)
{
    const ot_insertion *x = s->insertion;
    const ot_insertion_spec *spec = &x->info.spec;
    const uint32_t own_heads = spec->n_heads > 0 ? spec->n_heads / spec->n_kv_heads * e->model->info.head_dim : 0;
    bool can = e->batch->tape == NULL && spec->n_embd > 0 && ot_step_heads_in_blocks(e) && e->xn.acts.q != NULL &&
               e->inner.acts.q != NULL && (spec->n_embd | spec->n_ff | own_heads) % OT_QBLOCK == 0;
    for (uint32_t p = 0; p < s->n_parents; p++)
        can = can && (s->parents[p]->in_blocks || s->parents[p]->insertion->info.spec.n_embd == 0);
    for (uint32_t k = 0; can && k < e->model->info.n_layers; k++) {
        const ot_layer *l = &x->weights.layers[k];
        can = has_blocks(&l->q) && has_blocks(&l->k) && has_blocks(&l->v) && has_blocks(&l->o) && has_blocks(&l->gate) &&
              has_blocks(&l->up) && has_blocks(&l->down);
    }
    return can;
}

static ot_status open_stream(ot_engine *e, const ot_insertion *x, ot_error *err)
{
    const ot_insertion_info *i = &x->info;
    const ot_model_info *b = &e->model->info;
    const uint32_t room = e->options.max_ext_width, heads = i->spec.n_heads * b->head_dim;
    if (e->n_streams == e->options.max_insertions)
        return ot_fail(err, OT_ERR_FULL, "more than %u insertions in one batch", e->options.max_insertions);
    if (i->width_in - b->n_embd > room || i->width_attn - b->n_heads * b->head_dim > room || i->width_ff - b->n_ff > room ||
        heads > room)
        return ot_fail(err, OT_ERR_FULL, "insertion '%s' is wider than the engine's limit of %u", i->spec.name, room);
    ot_stream *s = &e->streams[e->n_streams];
    s->insertion = x;
    s->n_rows = 0;
    s->n_parents = x->n_parents;
    for (uint32_t p = 0; p < x->n_parents; p++) {
        s->parents[p] = ot_streams_find(e, x->parents[p]);
        if (s->parents[p] == NULL)
            return ot_fail(err, OT_ERR_INVALID, "insertion '%s' runs without its parent '%s'", i->spec.name,
                           x->parents[p]->info.spec.name);
    }
    bind_buffer(&s->in, s->storage_in, i->width_in);
    bind_buffer(&s->attn, s->storage_attn, i->width_attn);
    bind_buffer(&s->ff, s->storage_ff, i->width_ff);
    s->q = s->storage_q;
    s->k = s->storage_k;
    s->v = s->storage_v;
    s->gate = s->up = NULL;
    s->in_blocks = can_take_blocks(e, s);
    e->gathers |= !s->in_blocks && i->spec.n_embd > 0;
    memset(s->index, 0xff, e->batch->n_rows * sizeof *s->index);
    e->n_streams++;
    return OT_OK;
}

/* h' of the next compact row. H' is not there yet: its place is free. */
static void embed_row(const ot_stream *s, const ot_row *row)
{
    const size_t at = (size_t)s->n_rows * s->insertion->info.spec.n_embd;
    ot_weights_embed(&s->insertion->weights, row->token, row->position, s->ext + at, s->out + at);
}

ot_status ot_streams_begin(ot_engine *e, const ot_batch *batch, ot_error *err)
{
    e->n_streams = 0;
    e->gathers = false;
    for (uint32_t q = 0; q < batch->n_sequences; q++) {
        const ot_kv_view *view = &batch->sequences[q];
        if (view->n_insertions > e->options.max_insertions)
            return ot_fail(err, OT_ERR_FULL, "sequence %u uses %u insertions, at most %u", q, view->n_insertions,
                           e->options.max_insertions);
        for (uint32_t j = 0; j < view->n_insertions; j++) {
            const ot_insertion *x = view->insertions[j].insertion;
            const ot_status st = ot_streams_find(e, x) == NULL ? open_stream(e, x, err) : OT_OK;
            if (st != OT_OK)
                return st;
            e->stream_of[(size_t)q * e->options.max_insertions + j] = ot_streams_find(e, x);
        }
    }
    if (e->n_streams == 0)
        return OT_OK;
    for (uint32_t r = 0; r < batch->n_rows; r++) {
        uint32_t n;
        ot_stream *const *of = ot_streams_of_row(e, r, &n);
        for (uint32_t j = 0; j < n; j++) {
            ot_stream *s = of[j];
            s->index[r] = (int32_t)s->n_rows;
            s->rows[s->n_rows] = r;
            if (s->insertion->info.spec.n_embd > 0)
                embed_row(s, &batch->rows[r]);
            s->n_rows++;
        }
    }
    return OT_OK;
}

ot_stream *const *ot_streams_of_row(const ot_engine *e, uint32_t row, uint32_t *n)
{
    const uint32_t q = e->batch->rows[row].sequence;
    *n = e->batch->sequences[q].n_insertions;
    return e->stream_of + (size_t)q * e->options.max_insertions;
}

void ot_streams_keep_output_rows(ot_engine *e)
{
    for (uint32_t k = 0; k < e->n_streams; k++) {
        ot_stream *s = &e->streams[k];
        const size_t de = s->insertion->info.spec.n_embd;
        uint32_t n = 0;
        for (uint32_t c = 0; c < s->n_rows; c++) {
            const int32_t output = e->output_index[s->rows[c]];
            if (output < 0)
                continue;
            if (de > 0)
                memmove(s->ext + n * de, s->ext + c * de, de * sizeof(float));
            s->rows[n++] = (uint32_t)output;
        }
        s->n_rows = n;
        memset(s->index, 0xff, e->n_outputs * sizeof *s->index);
        for (uint32_t c = 0; c < n; c++)
            s->index[s->rows[c]] = (int32_t)c;
    }
}

/* A row's output is never behind the row: going down, an index is read before it is overwritten. */
void ot_streams_restore_rows(ot_engine *e, uint32_t n_rows)
{
    for (uint32_t k = 0; k < e->n_streams; k++) {
        ot_stream *s = &e->streams[k];
        for (uint32_t r = n_rows; r-- > 0;) {
            s->index[r] = e->output_index[r] >= 0 ? s->index[e->output_index[r]] : -1;
            if (s->index[r] >= 0)
                s->rows[s->index[r]] = r;
        }
    }
}

/* ---- The tape: training reads what the pass computed ---------------------------------------------------------- */

static float *tape_at(const ot_tape *t, float *base, uint32_t layer, uint32_t width)
{
    return base + (size_t)layer * t->max_rows * width;
}

void ot_streams_layer(ot_engine *e)
{
    const ot_tape *t = e->batch->tape;
    ot_stream *s = t != NULL ? ot_streams_find(e, t->insertion) : NULL;
    if (s == NULL || t->insertion->info.spec.n_embd == 0)
        return;
    const ot_insertion_info *i = &s->insertion->info;
    const uint32_t hd = e->model->info.head_dim, layer = e->layer;
    memcpy(tape_at(t, t->ext, layer, i->spec.n_embd), s->ext, (size_t)s->n_rows * i->spec.n_embd * sizeof(float));
    if (layer == e->model->info.n_layers)
        return;
    bind_buffer(&s->in, tape_at(t, t->attn_in, layer, i->width_in), i->width_in);
    bind_buffer(&s->attn, tape_at(t, t->attn_cat, layer, i->width_attn), i->width_attn);
    bind_buffer(&s->ff, tape_at(t, t->ffn_cat, layer, i->width_ff), i->width_ff);
    s->q = tape_at(t, t->q, layer, i->spec.n_heads * hd);
    s->k = tape_at(t, t->k, layer, i->spec.n_kv_heads * hd);
    s->v = tape_at(t, t->v, layer, i->spec.n_kv_heads * hd);
    s->gate = tape_at(t, t->gate, layer, i->spec.n_ff);
    s->up = tape_at(t, t->up, layer, i->spec.n_ff);
}

static void tape_norm_row(const ot_engine *e, uint32_t row, bool ffn)
{
    const ot_tape *t = e->batch->tape;
    const float *h = e->h + (size_t)row * e->model->info.n_embd;
    const uint32_t d = e->model->info.n_embd;
    *(tape_at(t, ffn ? t->inv_ffn : t->inv_attn, e->layer, 1) + row) = e->inv[row];
    /* h entering a layer is h leaving the one before; the last is recorded with the heads. */
    if (!ffn && e->layer > 0)
        *(tape_at(t, t->ms_base, e->layer - 1, 1) + row) = e->kernels->dot(h, h, d) / (float)d;
}

/* ---- Rows ------------------------------------------------------------------------------------------------------ */

static ot_buffer *part_buffer(ot_stream *s, ot_part_kind kind)
{
    return kind == OT_PART_IN ? &s->in : kind == OT_PART_HEADS ? &s->attn : &s->ff;
}

static const ot_buffer *const_part_buffer(const ot_stream *s, ot_part_kind kind)
{
    return kind == OT_PART_IN ? &s->in : kind == OT_PART_HEADS ? &s->attn : &s->ff;
}

static const ot_buffer *base_buffer(const ot_engine *e, ot_part_kind kind)
{
    return kind == OT_PART_IN ? &e->xn : kind == OT_PART_HEADS ? &e->att : &e->inner;
}

/* Width of a stream's own part. */
static uint32_t own_width(const ot_engine *e, const ot_stream *s, ot_part_kind kind)
{
    const ot_insertion_spec *spec = &s->insertion->info.spec;
    return kind == OT_PART_IN ? spec->n_embd : kind == OT_PART_HEADS ? spec->n_heads * e->model->info.head_dim : spec->n_ff;
}

uint32_t ot_stream_own_column(const ot_engine *e, const ot_stream *s, ot_part_kind kind)
{
    return const_part_buffer(s, kind)->width - own_width(e, s, kind);
}

/* Floats of the base and of the parents to compact row c of a concatenation. */
static void gather(const ot_engine *e, const ot_stream *s, const ot_buffer *to, uint32_t row, ot_part_kind kind)
{
    const ot_buffer *base = base_buffer(e, kind);
    float *dst = to->x + (size_t)s->index[row] * to->width;
    memcpy(dst, base->x + (size_t)row * base->width, base->width * sizeof(float));
    dst += base->width;
    for (uint32_t p = 0; p < s->n_parents; p++) {
        const ot_stream *parent = s->parents[p];
        const ot_buffer *b = const_part_buffer(parent, kind);
        const uint32_t n = own_width(e, parent, kind);
        memcpy(dst, b->x + (size_t)(parent->index[row] + 1) * b->width - n, n * sizeof(float));
        dst += n;
    }
}

/* Whether a stream's concatenations have a part from this source (NULL: the base), and its first column. */
static bool find_part(const ot_engine *e, const ot_stream *s, const ot_stream *source, ot_part_kind kind, uint32_t *column)
{
    *column = 0;
    if (source == NULL)
        return true;
    *column = base_buffer(e, kind)->width;
    for (uint32_t p = 0; p < s->n_parents; p++) {
        if (s->parents[p] == source)
            return true;
        *column += own_width(e, s->parents[p], kind);
    }
    return false;
}

static void copy_blocks(const ot_acts *dst, size_t dst_row, uint32_t dst_column, const ot_acts *src, size_t src_row,
                        uint32_t src_column, uint32_t n)
{
    const size_t to = dst_row * dst->b_stride + dst_column / OT_QBLOCK, n_blocks = n / OT_QBLOCK;
    const size_t from = src_row * src->b_stride + src_column / OT_QBLOCK;
    memcpy(dst->q + dst_row * dst->q_stride + dst_column, src->q + src_row * src->q_stride + src_column, n);
    memcpy(dst->scale + to, src->scale + from, n_blocks * sizeof *dst->scale);
    memcpy(dst->bsum + to, src->bsum + from, n_blocks * sizeof *dst->bsum);
    memcpy(dst->qsum + to, src->qsum + from, n_blocks * sizeof *dst->qsum);
}

void ot_streams_give_blocks(ot_engine *e, uint32_t row, ot_part_kind kind, const ot_stream *source, uint32_t column, uint32_t n)
{
    uint32_t n_streams, to;
    ot_stream *const *of = ot_streams_of_row(e, row, &n_streams);
    const ot_buffer *from = source != NULL ? const_part_buffer(source, kind) : base_buffer(e, kind);
    const size_t from_row = source != NULL ? (size_t)source->index[row] : row;
    const uint32_t from_column = column + (source != NULL ? ot_stream_own_column(e, source, kind) : 0);
    for (uint32_t j = 0; j < n_streams; j++) {
        ot_stream *s = of[j];
        if (s->in_blocks && find_part(e, s, source, kind, &to))
            copy_blocks(&part_buffer(s, kind)->acts, (size_t)s->index[row], to + column, &from->acts, from_row, from_column, n);
    }
}

/* n(h') and, where parts are not whole blocks, the concatenation around it. */
static void norm_stream_row(ot_engine *e, const ot_stream *s, uint32_t row, bool ffn)
{
    const uint32_t de = s->insertion->info.spec.n_embd, c = (uint32_t)s->index[row];
    const ot_layer *l = &s->insertion->weights.layers[e->layer];
    const ot_tape *t = e->batch->tape != NULL && e->batch->tape->insertion == s->insertion ? e->batch->tape : NULL;
    float *ext = s->ext + (size_t)c * de;
    ot_buffer in = s->in;
    if (ffn && t != NULL)
        in.x = tape_at(t, t->ffn_in, e->layer, in.width);
    in.acts.x = in.x;
    ot_step_norm_extended(e, row, ot_step_norm_of(e->op, l), ext, de, in.x + (size_t)(c + 1) * in.width - de);
    if (s->in_blocks) {
        ot_buffer_quantize_blocks(e, &in, OT_ACTS_NARROW, c, c + 1, in.width - de, de);
        ot_streams_give_blocks(e, row, OT_PART_IN, s, 0, de);
    } else {
        gather(e, s, &in, row, OT_PART_IN);
        if (s->insertion->takes_q8)
            ot_buffer_quantize(e, &in, OT_ACTS_NARROW, c, c + 1);
    }
    if (t != NULL)
        tape_norm_row(e, row, ffn);
    if (!e->narrows)
        ot_step_add_bias(e, ext, ffn ? &l->down : &l->o, 0, de);
}

/* A parent comes before its children, which take its part. */
void ot_streams_norm_row(ot_engine *e, uint32_t row, bool ffn)
{
    uint32_t n;
    ot_stream *const *of = ot_streams_of_row(e, row, &n);
    if (n > 0)
        ot_streams_give_blocks(e, row, OT_PART_IN, NULL, 0, e->xn.width);
    for (uint32_t j = 0; j < n; j++)
        if (of[j]->insertion->info.spec.n_embd > 0)
            norm_stream_row(e, of[j], row, ffn);
}

void ot_streams_gather_row(ot_engine *e, uint32_t row, ot_part_kind kind)
{
    uint32_t n;
    ot_stream *const *of = ot_streams_of_row(e, row, &n);
    for (uint32_t j = 0; j < n; j++) {
        ot_stream *s = of[j];
        const uint32_t c = (uint32_t)s->index[row];
        if (s->in_blocks || s->insertion->info.spec.n_embd == 0)
            continue;
        gather(e, s, part_buffer(s, kind), row, kind);
        if (s->insertion->takes_q8)
            ot_buffer_quantize(e, part_buffer(s, kind), OT_ACTS_NARROW, c, c + 1);
    }
}

/* ---- Products -------------------------------------------------------------------------------------------------- */

void ot_streams_add_keys_values(ot_engine *e)
{
    const uint32_t hd = e->model->info.head_dim;
    for (uint32_t k = 0; k < e->n_streams; k++) {
        ot_stream *s = &e->streams[k];
        const size_t width = (size_t)s->insertion->info.spec.n_kv_heads * hd;
        if (width == 0)
            continue;
        const ot_layer *l = &s->insertion->weights.layers[e->layer];
        ot_step_add_matmul(e, s->k, width, &s->in, false, s->n_rows, &l->k.w, false);
        ot_step_add_matmul(e, s->v, width, &s->in, false, s->n_rows, &l->v.w, false);
    }
}

void ot_streams_add_queries(ot_engine *e)
{
    const uint32_t hd = e->model->info.head_dim;
    for (uint32_t k = 0; k < e->n_streams; k++) {
        ot_stream *s = &e->streams[k];
        const size_t width = (size_t)s->insertion->info.spec.n_heads * hd;
        if (width > 0)
            ot_step_add_matmul(e, s->q, width, &s->in, false, s->n_rows, &s->insertion->weights.layers[e->layer].q.w, false);
    }
}

void ot_streams_add_attn_out(ot_engine *e)
{
    for (uint32_t k = 0; k < e->n_streams; k++) {
        ot_stream *s = &e->streams[k];
        const uint32_t de = s->insertion->info.spec.n_embd;
        if (de > 0)
            ot_step_add_matmul(e, s->ext, de, &s->attn, false, s->n_rows, &s->insertion->weights.layers[e->layer].o.w, true);
    }
}

void ot_streams_add_ffn_in(ot_engine *e)
{
    const ot_tape *t = e->batch->tape;
    for (uint32_t k = 0; k < e->n_streams; k++) {
        ot_stream *s = &e->streams[k];
        const ot_insertion_spec *spec = &s->insertion->info.spec;
        if (spec->n_ff == 0)
            continue;
        const ot_layer *l = &s->insertion->weights.layers[e->layer];
        if (t != NULL && t->insertion == s->insertion)
            bind_buffer(&s->in, tape_at(t, t->ffn_in, e->layer, s->in.width), s->in.width);
        ot_step_add_ffn_in(e, s, &s->in, false, s->n_rows, &l->gate, &l->up);
    }
}

void ot_streams_add_ffn_out(ot_engine *e)
{
    for (uint32_t k = 0; k < e->n_streams; k++) {
        ot_stream *s = &e->streams[k];
        const uint32_t de = s->insertion->info.spec.n_embd;
        if (de > 0)
            ot_step_add_matmul(e, s->ext, de, &s->ff, false, s->n_rows, &s->insertion->weights.layers[e->layer].down.w, true);
    }
}

/* ---- Heads (eq. 7): sigma(w . H' + b) --------------------------------------------------------------------------- */

void ot_streams_head_row(ot_engine *e, uint32_t row, const float *hidden)
{
    uint32_t n;
    ot_stream *const *of = ot_streams_of_row(e, row, &n);
    const uint32_t d = e->model->info.n_embd;
    for (uint32_t j = 0; j < n; j++) {
        ot_stream *s = of[j];
        const ot_insertion *x = s->insertion;
        const ot_insertion_spec *spec = &x->info.spec;
        const size_t c = (size_t)s->index[row];
        float *out = s->out + c * spec->n_embd;
        if (spec->n_embd > 0)
            ot_step_norm_extended(e, row, &x->weights.output_norm, s->ext + c * spec->n_embd, spec->n_embd, out);
        const bool base = spec->input == OT_INPUT_BASE;
        const float *in = base ? hidden : out;
        const uint32_t width = ot_insertion_head_width(x);
        for (uint32_t k = 0; spec->kind == OT_HEAD_SCALAR && k < spec->n_outputs; k++) {
            const float z = e->kernels->dot(x->heads[k].weight, in, width) + x->heads[k].bias[0];
            s->scores[c * OT_MAX_HEADS + k] = spec->activation == OT_ACT_SIGMOID ? ot_sigmoid(z) : z;
        }
        const ot_tape *t = e->batch->tape;
        if (t != NULL && t->insertion == x) {
            const float *h = e->h + (size_t)row * d;
            memcpy(t->head_in + c * width, in, width * sizeof(float));
            t->inv_out[c] = e->inv[row];
            if (spec->n_embd > 0)
                *(tape_at(t, t->ms_base, e->model->info.n_layers - 1, 1) + c) = e->kernels->dot(h, h, d) / (float)d;
        }
    }
}
