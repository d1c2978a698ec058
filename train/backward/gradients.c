/* Backward through the inserted stream of a Llama block (method.md, "The extended transformer"), layer by layer from the
 * top. With x the stream entering a layer, n(x) = x * inv * gamma (inv = 1 / rms of the base's h: a constant):
 *
 *     mid = x + W_O' [base heads; parents' heads; heads(n(x))]      x_next = mid + W_d' [base inner; ...; inner(n(mid))]
 *
 * Every projection reads base, parents and own part; the first two are constants, so an input gradient needs only the
 * own columns of each weight matrix (a few dozen), while a weight gradient needs them all. Nearly all of the time is thus
 * in the weight gradients dW = dY^T X over all rows of the batch, which are cut into tiles of output features.
 * A layer is three jobs of the pool: rows down to the attention output; attention of each sequence and key/value head; rows
 * down to the layer's input, beside the tiles of weight gradients. Each value is computed by one task in a fixed order,
 * so gradients do not depend on the number of threads.
 */
#include "train/backward/gradients-internal.h"

#include <math.h>
#include <string.h>

#include "train/data/block-exp.h"

#define ROWS_PER_TASK 64

/* ---- Heads and output norm ---------------------------------------------------------------------------------- */

static size_t at_layer(const ot_gradients *g, uint32_t layer, uint32_t width)
{
    return (size_t)layer * g->max_rows * width;
}

static uint32_t head_width(const ot_gradients *g)
{
    return g->info->spec.input == OT_INPUT_BASE ? g->d_base : g->d;
}

void ot_gradients_outputs(ot_gradients *g, const ot_batch *batch, float *raw)
{
    const uint32_t width = head_width(g);
    for (uint32_t r = 0; r < batch->n_rows; r++)
        for (uint32_t k = 0; k < g->n_outputs; k++) {
            float *y = &raw[(size_t)r * g->n_outputs + k];
            *y = 0.0f;
            if (batch->rows[r].flags & OT_ROW_OUTPUT)
                *y = g->kernels->dot(g->head_w[k].w, g->tape.head_in + (size_t)r * width, width) + g->head_b[k].w[0];
        }
}

/* Gradients of scalar heads; dx = derivative by H' (if they read it). */
static void scalar_heads_backward(ot_gradients *g, const float *d_raw)
{
    const ot_kernels *k = g->kernels;
    const uint32_t width = head_width(g), rows = g->batch->n_rows;
    const bool extended = g->info->spec.input == OT_INPUT_EXTENDED && g->d > 0;
    for (uint32_t o = 0; o < g->n_outputs; o++) {
        memset(g->head_w[o].g, 0, width * sizeof(float));
        g->head_b[o].g[0] = 0.0f;
    }
    if (g->d > 0)
        memset(g->dx, 0, (size_t)rows * g->d * sizeof(float));
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t o = 0; o < g->n_outputs; o++) {
            const float dy = d_raw[(size_t)r * g->n_outputs + o];
            if (dy == 0.0f)
                continue;
            k->axpy(g->head_w[o].g, g->tape.head_in + (size_t)r * width, dy, width);
            g->head_b[o].g[0] += dy;
            if (extended)
                k->axpy(g->dx + (size_t)r * g->d, g->head_w[o].w, dy, g->d);
        }
}

/* Through the output norm: dx by H' becomes dx by the stream leaving the last layer. */
static void output_norm_backward(ot_gradients *g)
{
    const float *last = g->tape.ext + at_layer(g, g->n_layers, g->d);
    memset(g->out_norm.g, 0, g->d * sizeof(float));
    for (uint32_t r = 0; r < g->batch->n_rows; r++) {
        float *dx = g->dx + (size_t)r * g->d;
        const float inv = g->tape.inv_out[r];
        const float *x = last + (size_t)r * g->d;
        for (uint32_t j = 0; j < g->d; j++) {
            g->out_norm.g[j] += dx[j] * (x[j] * inv);
            dx[j] *= inv * g->out_norm.w[j];
        }
    }
}

/* ---- One layer ---------------------------------------------------------------------------------------------- */

/* Adds the regulariser's derivative by the stream leaving the current layer, and keeps its value for each row. */
static void penalty_rows(ot_gradients *g, uint32_t begin, uint32_t end)
{
    const float *ms = g->tape.ms_base + at_layer(g, g->layer, 1);
    const float *x = g->tape.ext + at_layer(g, g->layer + 1, g->d);
    const double width = (double)g->d_base + g->d;
    for (uint32_t r = begin; r < end; r++) {
        if (g->batch->rows[r].position == 0)
            continue;
        const float *xr = x + (size_t)r * g->d;
        const double sum = g->kernels->dot(xr, xr, g->d);
        const double base = sqrt((double)ms[r] + g->eps);
        const double both = sqrt((g->d_base * (double)ms[r] + sum) / width + g->eps);
        g->row_penalty[r] += (base - both) * (base - both);
        const float slope = (float)(-2.0 * (base - both) / (both * width) * g->penalty_scale);
        g->kernels->axpy(g->dx + (size_t)r * g->d, xr, slope, g->d);
    }
}

/* d_gate and d_up from d_inner, where inner = silu(gate) * up. */
static void silu_mul_backward(const ot_gradients *g, uint32_t begin, uint32_t end)
{
    const size_t n = (size_t)(end - begin) * g->f, at = (size_t)begin * g->f;
    const float *gate = g->tape.gate + at_layer(g, g->layer, g->f) + at;
    const float *up = g->tape.up + at_layer(g, g->layer, g->f) + at;
    const float *d = g->d_inner + at;
    float *d_gate = g->d_gate + at, *d_up = g->d_up + at;
    ot_sigmoids(d_gate, gate, n);
    for (size_t i = 0; i < n; i++) {
        const float s = d_gate[i];
        d_gate[i] = d[i] * up[i] * (s + gate[i] * s * (1.0f - s));
        d_up[i] = d[i] * gate[i] * s;
    }
}

/* dst (rows, d) = base + d_n * inv * gamma */
static void norm_backward_rows(const ot_gradients *g, float *dst, const float *base, const float *d_n, const float *inv,
                               const ot_weight_gradient *gamma, uint32_t begin, uint32_t end)
{
    for (uint32_t r = begin; r < end; r++)
        for (uint32_t j = 0; j < g->d; j++) {
            const size_t i = (size_t)r * g->d + j;
            dst[i] = base[i] + d_n[i] * (inv[r] * gamma->w[j]);
        }
}

/* dst (+)= d_out * (own columns of w): the derivative by the last `width` inputs of w. */
static void own_inputs(const ot_gradients *g, float *dst, const float *d_out, const ot_weight_gradient *w, uint32_t width,
                       uint32_t begin, uint32_t end, bool accumulate)
{
    g->kernels->gemm_nn(dst, width, d_out, w->n_out, w->w + (w->n_in - width), w->n_in, w->n_out, begin, end, width,
                        accumulate);
}

/* From dx (leaving the layer) through the FFN to d_mid, and on to the own heads' outputs. */
static void upper_task(void *arg, uint32_t task, uint32_t thread)
{
    ot_gradients *g = arg;
    const ot_layer_gradients *w = &g->layers[g->layer];
    const uint32_t rows = g->batch->n_rows, begin = task * ROWS_PER_TASK;
    const uint32_t end = begin + ROWS_PER_TASK < rows ? begin + ROWS_PER_TASK : rows;
    (void)thread;
    if (g->penalty_scale > 0.0f)
        penalty_rows(g, begin, end);
    if (g->f > 0) {
        own_inputs(g, g->d_inner, g->dx, &w->down, g->f, begin, end, false);
        silu_mul_backward(g, begin, end);
        own_inputs(g, g->d_n2, g->d_gate, &w->gate, g->d, begin, end, false);
        own_inputs(g, g->d_n2, g->d_up, &w->up, g->d, begin, end, true);
        norm_backward_rows(g, g->d_mid, g->dx, g->d_n2, g->tape.inv_ffn + at_layer(g, g->layer, 1), &w->ffn_norm, begin,
                           end);
    } else {
        memcpy(g->d_mid + (size_t)begin * g->d, g->dx + (size_t)begin * g->d, (size_t)(end - begin) * g->d * sizeof(float));
    }
    if (g->width_q > 0)
        own_inputs(g, g->d_heads, g->d_mid, &w->o, g->width_q, begin, end, false);
}

static void attention_task(void *arg, uint32_t task, uint32_t thread)
{
    ot_gradients *g = arg;
    const uint32_t n_kv = g->info->spec.n_kv_heads, s = task / n_kv;
    const ot_attention_backward a = {
        .kernels = g->kernels, .head_dim = g->hd, .n_heads = g->info->spec.n_heads, .n_kv_heads = n_kv,
        .scale = 1.0f / sqrtf((float)g->hd),
        .q = g->tape.q + at_layer(g, g->layer, g->width_q), .k = g->tape.k + at_layer(g, g->layer, g->width_kv),
        .v = g->tape.v + at_layer(g, g->layer, g->width_kv), .d_out = g->d_heads,
        .d_q = g->d_q, .d_k = g->d_k, .d_v = g->d_v,
        .rope_back = g->rope_back, .n_rot = g->n_rot, .neox = g->neox,
    };
    ot_attention_backward_run(&a, &g->sequences[s], task % n_kv, g->scratch + thread * g->scratch_floats);
}

/* From d_q, d_k, d_v and d_mid to the stream entering the layer. */
static void lower_rows(ot_gradients *g, uint32_t task)
{
    const ot_layer_gradients *w = &g->layers[g->layer];
    const uint32_t rows = g->batch->n_rows, begin = task * ROWS_PER_TASK;
    const uint32_t end = begin + ROWS_PER_TASK < rows ? begin + ROWS_PER_TASK : rows;
    if (g->width_q == 0) {
        memcpy(g->dx_next + (size_t)begin * g->d, g->d_mid + (size_t)begin * g->d,
               (size_t)(end - begin) * g->d * sizeof(float));
        return;
    }
    own_inputs(g, g->d_n1, g->d_q, &w->q, g->d, begin, end, false);
    own_inputs(g, g->d_n1, g->d_k, &w->k, g->d, begin, end, true);
    own_inputs(g, g->d_n1, g->d_v, &w->v, g->d, begin, end, true);
    norm_backward_rows(g, g->dx_next, g->d_mid, g->d_n1, g->tape.inv_attn + at_layer(g, g->layer, 1), &w->attn_norm,
                       begin, end);
}

static void lower_task(void *arg, uint32_t task, uint32_t thread)
{
    ot_gradients *g = arg;
    (void)thread;
    /* Tiles first: they are the longest. */
    if (task >= g->n_tiles) {
        lower_rows(g, task - g->n_tiles);
        return;
    }
    const ot_gradient_tile *t = &g->tiles[task];
    g->kernels->gemm_tn(t->w->g, t->w->n_in, t->d_out, t->w->n_out, t->x, t->w->n_in, g->batch->n_rows, t->begin, t->end,
                        t->w->n_in, false);
}

static void add_tiles(ot_gradients *g, const ot_weight_gradient *w, const float *d_out, const float *x)
{
    for (uint32_t begin = 0; w->w != NULL && begin < w->n_out; begin += g->tile_features) {
        const uint32_t end = begin + g->tile_features < w->n_out ? begin + g->tile_features : w->n_out;
        g->tiles[g->n_tiles++] = (ot_gradient_tile){w, d_out, x, begin, end};
    }
}

static void list_tiles(ot_gradients *g)
{
    const ot_layer_gradients *w = &g->layers[g->layer];
    const ot_insertion_info *i = g->info;
    const float *attn_in = g->tape.attn_in + at_layer(g, g->layer, i->width_in);
    const float *ffn_in = g->tape.ffn_in + at_layer(g, g->layer, i->width_in);
    g->n_tiles = 0;
    add_tiles(g, &w->down, g->dx, g->tape.ffn_cat + at_layer(g, g->layer, i->width_ff));
    add_tiles(g, &w->o, g->d_mid, g->tape.attn_cat + at_layer(g, g->layer, i->width_attn));
    add_tiles(g, &w->q, g->d_q, attn_in);
    add_tiles(g, &w->k, g->d_k, attn_in);
    add_tiles(g, &w->v, g->d_v, attn_in);
    add_tiles(g, &w->gate, g->d_gate, ffn_in);
    add_tiles(g, &w->up, g->d_up, ffn_in);
}

/* mid, the stream between attention and FFN, of one row and dimension: it is not on the tape. */
static float mid_value(const ot_gradients *g, uint32_t r, uint32_t j)
{
    const uint32_t width = g->info->width_attn;
    const float *cat = g->tape.attn_cat + at_layer(g, g->layer, width) + (size_t)r * width;
    return g->tape.ext[at_layer(g, g->layer, g->d) + (size_t)r * g->d + j] +
           g->kernels->dot(g->layers[g->layer].o.w + (size_t)j * width, cat, width);
}

/* d_gamma[j] = sum over rows of d_n * x * inv. For the FFN norm, x * inv is n(mid) / gamma, unless gamma is 0. */
static void norm_weights(ot_gradients *g)
{
    const ot_layer_gradients *w = &g->layers[g->layer];
    const uint32_t rows = g->batch->n_rows, d = g->d, width = g->info->width_in;
    const float *x = g->tape.ext + at_layer(g, g->layer, d);
    const float *inv_attn = g->tape.inv_attn + at_layer(g, g->layer, 1);
    const float *inv_ffn = g->tape.inv_ffn + at_layer(g, g->layer, 1);
    const float *n_mid = g->tape.ffn_in + at_layer(g, g->layer, width) + (width - d);
    memset(w->attn_norm.g, 0, d * sizeof(float));
    memset(w->ffn_norm.g, 0, d * sizeof(float));
    for (uint32_t r = 0; g->width_q > 0 && r < rows; r++)
        for (uint32_t j = 0; j < d; j++)
            w->attn_norm.g[j] += g->d_n1[(size_t)r * d + j] * (x[(size_t)r * d + j] * inv_attn[r]);
    if (g->f == 0)
        return;
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t j = 0; j < d; j++)
            w->ffn_norm.g[j] += g->d_n2[(size_t)r * d + j] * n_mid[(size_t)r * width + j];
    for (uint32_t j = 0; j < d; j++) {
        if (fabsf(w->ffn_norm.w[j]) > 1e-12f) {
            w->ffn_norm.g[j] /= w->ffn_norm.w[j];
            continue;
        }
        w->ffn_norm.g[j] = 0.0f;
        for (uint32_t r = 0; r < rows; r++)
            w->ffn_norm.g[j] += g->d_n2[(size_t)r * d + j] * mid_value(g, r, j) * inv_ffn[r];
    }
}

/* ---- The whole pass ----------------------------------------------------------------------------------------- */

static void list_sequences(ot_gradients *g)
{
    const ot_batch *b = g->batch;
    g->n_sequences = 0;
    for (uint32_t r = 0; r < b->n_rows; r++) {
        const bool begins = r == 0 || b->rows[r].sequence != b->rows[r - 1].sequence;
        if (begins && b->rows[r].position == 0)
            g->sequences[g->n_sequences++] = (ot_sequence_rows){.first = r};
        ot_sequence_rows *s = &g->sequences[g->n_sequences - 1];
        if (begins && b->rows[r].position > 0) {
            s->fork = r;
            s->n_shared = b->rows[r].position;
        }
        if (s->n_shared > 0)
            s->n_fork++;
        else
            s->n++;
    }
}

static void embedding_backward(ot_gradients *g)
{
    for (uint32_t i = 0; i < g->n_touched; i++)
        memset(g->embedding.g + (size_t)g->touched[i] * g->d, 0, g->d * sizeof(float));
    g->n_touched = g->batch->n_rows;
    for (uint32_t r = 0; r < g->batch->n_rows; r++) {
        const int32_t token = g->batch->rows[r].token;
        g->touched[r] = token;
        g->kernels->axpy(g->embedding.g + (size_t)token * g->d, g->dx + (size_t)r * g->d, 1.0f, g->d);
    }
}

static void begin_penalty(ot_gradients *g)
{
    uint32_t n = 0;
    for (uint32_t r = 0; r < g->batch->n_rows; r++) {
        n += g->batch->rows[r].position > 0;
        g->row_penalty[r] = 0.0;
    }
    g->penalty_scale = n > 0 ? g->lambda / (float)n : 0.0f;
}

/* All layers, from dx by H'. Returns the regulariser. */
static double stream_backward(ot_gradients *g)
{
    const ot_batch *batch = g->batch;
    output_norm_backward(g);
    g->n_row_tasks = (batch->n_rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK;
    list_sequences(g);
    begin_penalty(g);
    for (uint32_t l = g->n_layers; l-- > 0;) {
        g->layer = l;
        ot_pool_run(g->pool, upper_task, g, g->n_row_tasks);
        if (g->width_q > 0)
            ot_pool_run(g->pool, attention_task, g, g->n_sequences * g->info->spec.n_kv_heads);
        list_tiles(g);
        ot_pool_run(g->pool, lower_task, g, g->n_tiles + g->n_row_tasks);
        norm_weights(g);
        float *swap = g->dx;
        g->dx = g->dx_next;
        g->dx_next = swap;
    }
    embedding_backward(g);
    double penalty = 0.0;
    for (uint32_t r = 0; r < batch->n_rows; r++)
        penalty += g->row_penalty[r];
    return penalty * g->penalty_scale;
}

double ot_gradients_backward(ot_gradients *g, const ot_batch *batch, const float *d_raw)
{
    g->batch = batch;
    scalar_heads_backward(g, d_raw);
    return g->d > 0 ? stream_backward(g) : 0.0;
}

double ot_gradients_backward_from(ot_gradients *g, const ot_batch *batch, const float *d_head_in)
{
    g->batch = batch;
    if (g->d == 0)
        return 0.0;
    if (g->info->spec.input == OT_INPUT_EXTENDED)
        memcpy(g->dx, d_head_in, (size_t)batch->n_rows * g->d * sizeof(float));
    else
        memset(g->dx, 0, (size_t)batch->n_rows * g->d * sizeof(float));
    return stream_backward(g);
}

float *ot_gradients_of_head(ot_gradients *g, uint32_t output, ot_head_part part)
{
    switch (part) {
    case OT_HEAD_WEIGHT: return g->head_w[output].g;
    case OT_HEAD_BIAS: return g->head_b[output].g;
    case OT_HEAD_TOKEN_WEIGHT: return g->head_t[output].g;
    case OT_HEAD_RESIDUAL: return g->head_r[output].g;
    }
    return NULL;
}

static void norm_task(void *arg, uint32_t task, uint32_t thread)
{
    ot_gradients *g = arg;
    const size_t begin = (size_t)task * OT_NORM_CHUNK, left = g->n_values - begin;
    const size_t n = left < OT_NORM_CHUNK ? left : OT_NORM_CHUNK;
    double sum = 0.0;
    (void)thread;
    for (size_t i = 0; i < n; i += 1024) {
        const uint32_t part = (uint32_t)(n - i < 1024 ? n - i : 1024);
        const float *p = g->g_buffer + begin + i;
        sum += g->kernels->dot(p, p, part);
    }
    g->norm_parts[task] = sum;
}

double ot_gradients_norm(ot_gradients *g)
{
    const uint32_t n = ot_gradients_norm_chunks(g);
    double sum = 0.0;
    ot_pool_run(g->pool, norm_task, g, n);
    for (uint32_t i = 0; i < n; i++)
        sum += g->norm_parts[i];
    return sqrt(sum);
}
