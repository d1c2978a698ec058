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
    s->gate = s->storage_gate;
    s->up = s->storage_up;
    memset(s->index, 0xff, e->batch->n_rows * sizeof *s->index);
    e->n_streams++;
    return OT_OK;
}

/* h' of the next compact row. H' is not there yet: its place is free. */
static void embed_row(const ot_stream *s, const ot_row *row)
{
    const size_t at = (size_t)s->n_rows * s->insertion->info.spec.n_embd;
    ot_insertion_embed(s->insertion, row->token, row->position, s->ext + at, s->out + at);
}

ot_status ot_streams_begin(ot_engine *e, const ot_batch *batch, ot_error *err)
{
    e->n_streams = 0;
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

/* [base; parents' own parts; own part] of compact row c: dst gets the base's n_base floats and each parent's last n floats. */
static void gather(float *dst, const float *base, uint32_t n_base, const ot_stream *s, uint32_t row,
                   const ot_buffer *(*buffer_of)(const ot_stream *), uint32_t (*own_width)(const ot_stream *, uint32_t hd),
                   uint32_t hd)
{
    memcpy(dst, base, n_base * sizeof(float));
    dst += n_base;
    for (uint32_t p = 0; p < s->n_parents; p++) {
        const ot_stream *parent = s->parents[p];
        const ot_buffer *b = buffer_of(parent);
        const uint32_t n = own_width(parent, hd);
        memcpy(dst, b->x + (size_t)(parent->index[row] + 1) * b->width - n, n * sizeof(float));
        dst += n;
    }
}

static const ot_buffer *buffer_in(const ot_stream *s) { return &s->in; }
static const ot_buffer *buffer_attn(const ot_stream *s) { return &s->attn; }
static const ot_buffer *buffer_ff(const ot_stream *s) { return &s->ff; }
static uint32_t own_embd(const ot_stream *s, uint32_t hd) { (void)hd; return s->insertion->info.spec.n_embd; }
static uint32_t own_heads(const ot_stream *s, uint32_t hd) { return s->insertion->info.spec.n_heads * hd; }
static uint32_t own_ff(const ot_stream *s, uint32_t hd) { (void)hd; return s->insertion->info.spec.n_ff; }

/* The own part of a compact row in a concatenation. */
static float *own_part(const ot_buffer *b, uint32_t c, uint32_t n_own)
{
    return b->x + (size_t)(c + 1) * b->width - n_own;
}

void ot_streams_norm_row(ot_engine *e, uint32_t row, bool ffn)
{
    uint32_t n;
    ot_stream *const *of = ot_streams_of_row(e, row, &n);
    const uint32_t d = e->model->info.n_embd;
    for (uint32_t j = 0; j < n; j++) {
        const ot_stream *s = of[j];
        const uint32_t de = s->insertion->info.spec.n_embd, c = (uint32_t)s->index[row];
        if (de == 0)
            continue;
        const ot_ext_layer *l = &s->insertion->layers[e->layer];
        const ot_tape *t = e->batch->tape;
        ot_buffer in = s->in;
        if (ffn && t != NULL && t->insertion == s->insertion)
            in.x = tape_at(t, t->ffn_in, e->layer, in.width);
        in.acts.x = in.x;
        gather(in.x + (size_t)c * in.width, e->xn.x + (size_t)row * d, d, s, row, buffer_in, own_embd, 0);
        ot_step_norm_extended(e, row, ffn ? &l->ffn_norm : &l->attn_norm, s->ext + (size_t)c * de, de, own_part(&in, c, de));
        if (s->insertion->takes_q8)
            ot_buffer_quantize(e, &in, c, c + 1, false);
        if (t != NULL && t->insertion == s->insertion)
            tape_norm_row(e, row, ffn);
    }
}

void ot_streams_concat_row(ot_engine *e, uint32_t row)
{
    uint32_t n;
    ot_stream *const *of = ot_streams_of_row(e, row, &n);
    for (uint32_t j = 0; j < n; j++) {
        const ot_stream *s = of[j];
        const uint32_t c = (uint32_t)s->index[row];
        const uint32_t de = s->insertion->info.spec.n_embd;
        if (de == 0)
            continue;
        ot_step_add_bias(e, s->ext + (size_t)c * de, &s->insertion->layers[e->layer].o, 0, de);
        /* The own heads were written in place by the attention. */
        gather(s->attn.x + (size_t)c * s->attn.width, e->att.x + (size_t)row * e->att.width, e->att.width, s, row,
               buffer_attn, own_heads, e->model->info.head_dim);
        if (s->insertion->takes_q8)
            ot_buffer_quantize(e, &s->attn, c, c + 1, false);
    }
}

void ot_streams_act_row(ot_engine *e, uint32_t row)
{
    uint32_t n;
    ot_stream *const *of = ot_streams_of_row(e, row, &n);
    for (uint32_t j = 0; j < n; j++) {
        const ot_stream *s = of[j];
        const ot_insertion_spec *spec = &s->insertion->info.spec;
        const uint32_t c = (uint32_t)s->index[row];
        if (spec->n_embd == 0)
            continue;
        const ot_ext_layer *l = &s->insertion->layers[e->layer];
        if (spec->n_ff > 0) {
            float *gate = s->gate + (size_t)c * spec->n_ff, *up = s->up + (size_t)c * spec->n_ff;
            ot_step_add_bias(e, gate, &l->gate, 0, spec->n_ff);
            ot_step_add_bias(e, up, &l->up, 0, spec->n_ff);
            ot_step_activate(e, own_part(&s->ff, c, spec->n_ff), gate, up, spec->n_ff);
        }
        ot_step_add_bias(e, s->ext + (size_t)c * spec->n_embd, &l->down, 0, spec->n_embd);
        gather(s->ff.x + (size_t)c * s->ff.width, e->inner.x + (size_t)row * e->inner.width, e->inner.width, s, row,
               buffer_ff, own_ff, 0);
        if (s->insertion->takes_q8)
            ot_buffer_quantize(e, &s->ff, c, c + 1, false);
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
        const ot_ext_layer *l = &s->insertion->layers[e->layer];
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
            ot_step_add_matmul(e, s->q, width, &s->in, false, s->n_rows, &s->insertion->layers[e->layer].q.w, false);
    }
}

void ot_streams_add_attn_out(ot_engine *e)
{
    for (uint32_t k = 0; k < e->n_streams; k++) {
        ot_stream *s = &e->streams[k];
        const uint32_t de = s->insertion->info.spec.n_embd;
        if (de > 0)
            ot_step_add_matmul(e, s->ext, de, &s->attn, false, s->n_rows, &s->insertion->layers[e->layer].o.w, true);
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
        const ot_ext_layer *l = &s->insertion->layers[e->layer];
        if (t != NULL && t->insertion == s->insertion)
            bind_buffer(&s->in, tape_at(t, t->ffn_in, e->layer, s->in.width), s->in.width);
        if (e->model->arch->ffn == OT_FFN_SILU_GATED)
            ot_step_add_matmul(e, s->gate, spec->n_ff, &s->in, false, s->n_rows, &l->gate.w, false);
        ot_step_add_matmul(e, s->up, spec->n_ff, &s->in, false, s->n_rows, &l->up.w, false);
    }
}

void ot_streams_add_ffn_out(ot_engine *e)
{
    for (uint32_t k = 0; k < e->n_streams; k++) {
        ot_stream *s = &e->streams[k];
        const uint32_t de = s->insertion->info.spec.n_embd;
        if (de > 0)
            ot_step_add_matmul(e, s->ext, de, &s->ff, false, s->n_rows, &s->insertion->layers[e->layer].down.w, true);
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
            ot_step_norm_extended(e, row, &x->output_norm, s->ext + c * spec->n_embd, spec->n_embd, out);
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
