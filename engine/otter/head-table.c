/* Tables of heads with a value for every token, made when a file is opened.
 *
 * lm_head(W_h x + H_o) = E H_o + (E W_h) x: for a linear head that reads few inputs, G = E W_h (vocab x in) replaces a product with
 * the whole output matrix by one with a table that is d / in times smaller. Making it costs vocab x d x in
 * multiplications, once: each row of E is dequantised once for all heads of a file, and the heads' W_h stand side by side as one
 * matrix, so that the product runs at the width the kernels like. The sums are those of kernels.h, in the order of d, so
 * a table is the same bits whatever made it. It is stored in 8 bits where blocks fit, else in halves. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/step.h"

#define ROWS_PER_TASK 128
#define MAX_HALF 65504.0f

typedef struct builder {
    const ot_insertion *insertion;
    const ot_tensor *output;     /* E */
    const ot_kernels *kernels;
    uint32_t d, n_vocab, width;  /* width: in, summed over the heads */
    float *side_by_side;         /* (d, width) W_h of all heads */
    float *rows;                 /* (threads, ROWS_PER_TASK, d) of E */
    float *all;                  /* (n_vocab, width) G of all heads */
} builder;

bool ot_head_wants_table(const ot_insertion *x)
{
    const ot_insertion_spec *s = &x->info.spec;
    return s->kind != OT_HEAD_SCALAR && s->activation != OT_ACT_SILU_RESIDUAL &&
           ot_insertion_head_width(x) < x->base->info.n_embd / 2;
}

static void multiply_task(void *arg, uint32_t task, uint32_t thread)
{
    const builder *b = arg;
    const uint32_t begin = task * ROWS_PER_TASK;
    const uint32_t n = b->n_vocab - begin < ROWS_PER_TASK ? b->n_vocab - begin : ROWS_PER_TASK;
    const size_t row_bytes = b->d / ot_type_block(b->output->type) * (size_t)ot_type_block_bytes(b->output->type);
    float *rows = b->rows + (size_t)thread * ROWS_PER_TASK * b->d;
    ot_dequantize(b->output->type, b->output->data + begin * row_bytes, rows, (size_t)n * b->d);
    b->kernels->gemm_nn(b->all + (size_t)begin * b->width, b->width, rows, b->d, b->side_by_side, b->width, b->d, 0, n,
                        b->width, false);
}

static void put_side_by_side(const builder *b)
{
    const uint32_t in = ot_insertion_head_width(b->insertion);
    for (uint32_t k = 0; k < b->insertion->info.spec.n_outputs; k++)
        for (uint32_t o = 0; o < b->d; o++)
            ot_matrix_row(&b->insertion->heads[k].matrix, o, b->side_by_side + (size_t)o * b->width + (size_t)k * in);
}

/* Head k's columns of b->all as the rows of a table of their own, in `part` (n_vocab, in); *largest becomes the largest magnitude. */
static bool cut_out(const builder *b, uint32_t k, uint32_t in, float *part, float *largest)
{
    *largest = 0.0f;
    for (uint32_t v = 0; v < b->n_vocab; v++) {
        const float *src = b->all + (size_t)v * b->width + (size_t)k * in;
        for (uint32_t i = 0; i < in; i++) {
            if (!(fabsf(src[i]) <= FLT_MAX))
                return false;
            *largest = fmaxf(*largest, fabsf(src[i]));
        }
        memcpy(part + (size_t)v * in, src, in * sizeof(float));
    }
    return true;
}

static ot_status pack_table(ot_insertion *x, uint32_t k, float *part, float largest, ot_error *err)
{
    const uint32_t in = ot_insertion_head_width(x), n_vocab = x->base->info.n_vocab;
    const size_t n = (size_t)n_vocab * in;
    const ot_type type = largest > MAX_HALF ? OT_TYPE_F32 : in % ot_type_block(OT_TYPE_Q8_0) == 0 ? OT_TYPE_Q8_0 : OT_TYPE_F16;
    if (type == OT_TYPE_F32)
        return ot_matrix_pack(&x->heads[k].table, type, part, in, n_vocab, err);
    void *encoded = ot_alloc(n / ot_type_block(type), ot_type_block_bytes(type));
    if (encoded == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for the table of head %u of insertion '%s'", k, x->info.spec.name);
    ot_status st = ot_quantize(type, part, encoded, n, err);
    if (st == OT_OK)
        st = ot_matrix_pack(&x->heads[k].table, type, encoded, in, n_vocab, err);
    free(encoded);
    return st;
}

static ot_status pack_tables(ot_insertion *x, const builder *b, ot_error *err)
{
    const uint32_t in = ot_insertion_head_width(x);
    float *part = ot_alloc((size_t)b->n_vocab * in, sizeof *part), largest;
    if (part == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for the tables of insertion '%s'", x->info.spec.name);
    ot_status st = OT_OK;
    for (uint32_t k = 0; k < x->info.spec.n_outputs && st == OT_OK; k++) {
        if (!cut_out(b, k, in, part, &largest))
            st = ot_fail(err, OT_ERR_FORMAT, "%s: tensor 'otter.head.%u.weight': its product with the output matrix is not finite",
                         x->info.path, k);
        else if ((st = pack_table(x, k, part, largest, err)) == OT_OK)
            ot_matrix_free(&x->heads[k].matrix);
    }
    free(part);
    return st;
}

ot_status ot_head_tables_build(ot_insertion *x, ot_error *err)
{
    if (!ot_head_wants_table(x))
        return OT_OK;
    const ot_model *m = x->base;
    builder b = {.insertion = x, .output = ot_gguf_tensor(m->gguf, "output.weight"), .kernels = ot_kernels_select(~0u),
                 .d = m->info.n_embd, .n_vocab = m->info.n_vocab,
                 .width = ot_insertion_head_width(x) * x->info.spec.n_outputs};
    if (b.output == NULL)
        b.output = m->token_embd;
    const uint32_t n_threads = ot_available_cpus();
    ot_pool *pool = NULL;
    ot_status st = ot_pool_open(&pool, n_threads, err);
    if (st == OT_OK) {
        b.side_by_side = ot_alloc((size_t)b.d * b.width, sizeof(float));
        b.rows = ot_alloc((size_t)n_threads * ROWS_PER_TASK * b.d, sizeof(float));
        b.all = ot_alloc((size_t)b.n_vocab * b.width, sizeof(float));
        if (b.side_by_side == NULL || b.rows == NULL || b.all == NULL)
            st = ot_fail(err, OT_ERR_NOMEM, "out of memory for the tables of insertion '%s'", x->info.spec.name);
    }
    if (st == OT_OK) {
        put_side_by_side(&b);
        ot_pool_run(pool, multiply_task, &b, (b.n_vocab + ROWS_PER_TASK - 1) / ROWS_PER_TASK);
        st = pack_tables(x, &b, err);
        ot_gguf_drop_pages(m->gguf);
    }
    ot_pool_close(&pool);
    free(b.side_by_side);
    free(b.rows);
    free(b.all);
    return st;
}
