/* Tables of heads with a value for every token, made when a file is opened.
 *
 * lm_head(W_h x + H_o) = E H_o + (E W_h) x: for a linear head that reads few inputs, G = E W_h (vocab x in) replaces a product with
 * the whole output matrix by one with a table that is d / in times smaller. Making it costs vocab x d x in
 * multiplications, once: each row of E is dequantised once for all heads of a file, whose W_h stand side by side as one
 * matrix, so that the product runs at the width the kernels like; what comes out is encoded while it is in the cache. The
 * sums are those of kernels.h, in the order of d, so a table is the same bits whatever made it. It is stored in 8 bits where blocks
 * fit, else in halves: an error of 0.6% or 0.05% of the values. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "engine/step.h"

#define ROWS_PER_TASK 128
#define MAX_HALF 65504.0f

typedef struct builder {
    ot_insertion *insertion;
    const ot_tensor *output;         /* E */
    const ot_kernels *kernels;
    uint32_t d, n_vocab, in, width;  /* width: in, summed over the heads */
    ot_type type;                    /* of the tables */
    size_t row_bytes;                /* of a table's row */
    float *side_by_side;             /* (d, width) W_h of all heads */
    float *rows;                     /* (threads, ROWS_PER_TASK, d) of E */
    float *products;                 /* (threads, ROWS_PER_TASK, width) of G */
    uint8_t *tables;                 /* (n_outputs, n_vocab, row_bytes) */
    atomic_bool out_of_range[OT_MAX_HEADS];
    ot_status packed[OT_MAX_HEADS];
} builder;

static bool wants_table(const ot_insertion *x)
{
    const ot_insertion_spec *s = &x->info.spec;
    return s->kind != OT_HEAD_SCALAR && s->activation != OT_ACT_SILU_RESIDUAL &&
           ot_insertion_head_width(x) < x->base->info.n_embd / 2;
}

static uint8_t *table_row(const builder *b, uint32_t head, uint32_t row)
{
    return b->tables + ((size_t)head * b->n_vocab + row) * b->row_bytes;
}

static bool in_range(const float *x, uint32_t n)
{
    bool good = true;
    for (uint32_t i = 0; i < n; i++)
        good &= fabsf(x[i]) <= MAX_HALF; /* false for a NaN */
    return good;
}

/* Rows of E, times all heads' matrices, to rows of the tables. */
static void multiply_task(void *arg, uint32_t task, uint32_t thread)
{
    builder *b = arg;
    const uint32_t begin = task * ROWS_PER_TASK;
    const uint32_t n = b->n_vocab - begin < ROWS_PER_TASK ? b->n_vocab - begin : ROWS_PER_TASK;
    const size_t e_bytes = b->d / ot_type_block(b->output->type) * (size_t)ot_type_block_bytes(b->output->type);
    float *rows = b->rows + (size_t)thread * ROWS_PER_TASK * b->d;
    float *products = b->products + (size_t)thread * ROWS_PER_TASK * b->width;
    ot_dequantize(b->output->type, b->output->data + begin * e_bytes, rows, (size_t)n * b->d);
    b->kernels->gemm_nn(products, b->width, rows, b->d, b->side_by_side, b->width, b->d, 0, n, b->width, false);
    for (uint32_t k = 0; k < b->insertion->info.spec.n_outputs; k++)
        for (uint32_t r = 0; r < n; r++) {
            const float *src = products + (size_t)r * b->width + (size_t)k * b->in;
            if (!in_range(src, b->in))
                atomic_store_explicit(&b->out_of_range[k], true, memory_order_relaxed);
            ot_quantize(b->type, src, table_row(b, k, begin + r), b->in, NULL);
        }
}

static void pack_task(void *arg, uint32_t head, uint32_t thread)
{
    (void)thread;
    builder *b = arg;
    ot_head_weights *h = &b->insertion->heads[head];
    b->packed[head] = ot_matrix_pack(&h->table, b->type, table_row(b, head, 0), b->in, b->n_vocab, NULL);
    ot_matrix_free(&h->matrix);
}

static void put_side_by_side(const builder *b)
{
    for (uint32_t k = 0; k < b->insertion->info.spec.n_outputs; k++)
        for (uint32_t o = 0; o < b->d; o++)
            ot_matrix_row(&b->insertion->heads[k].matrix, o, b->side_by_side + (size_t)o * b->width + (size_t)k * b->in);
}

static ot_status run(builder *b, ot_pool *pool, ot_error *err)
{
    const ot_insertion_info *info = &b->insertion->info;
    put_side_by_side(b);
    ot_pool_run(pool, multiply_task, b, (b->n_vocab + ROWS_PER_TASK - 1) / ROWS_PER_TASK);
    for (uint32_t k = 0; k < info->spec.n_outputs; k++)
        if (atomic_load(&b->out_of_range[k]))
            return ot_fail(err, OT_ERR_FORMAT, "%s: tensor 'otter.head.%u.weight': its product with the output matrix has values "
                           "that are not finite, or too large", info->path, k);
    ot_pool_run(pool, pack_task, b, info->spec.n_outputs);
    for (uint32_t k = 0; k < info->spec.n_outputs; k++)
        if (b->packed[k] != OT_OK)
            return ot_fail(err, b->packed[k], "no memory for the table of head %u of insertion '%s'", k, info->spec.name);
    return OT_OK;
}

static bool allocate(builder *b, uint32_t n_threads)
{
    const uint32_t n_outputs = b->insertion->info.spec.n_outputs;
    b->side_by_side = ot_alloc((size_t)b->d * b->width, sizeof(float));
    b->rows = ot_alloc((size_t)n_threads * ROWS_PER_TASK * b->d, sizeof(float));
    b->products = ot_alloc((size_t)n_threads * ROWS_PER_TASK * b->width, sizeof(float));
    b->tables = ot_alloc((size_t)n_outputs * b->n_vocab, b->row_bytes);
    return b->side_by_side != NULL && b->rows != NULL && b->products != NULL && b->tables != NULL;
}

/* B_h as rows of floats: it meets one token at a time. */
static ot_status unpack_token_matrices(ot_insertion *x, ot_error *err)
{
    const uint32_t in = ot_insertion_head_width(x), d = x->base->info.n_embd;
    for (uint32_t k = 0; x->info.spec.reads_tokens && k < x->info.spec.n_outputs; k++) {
        ot_head_weights *h = &x->heads[k];
        h->token_rows = ot_alloc((size_t)in * d, sizeof(float));
        if (h->token_rows == NULL)
            return ot_fail(err, OT_ERR_NOMEM, "out of memory for the heads of insertion '%s'", x->info.spec.name);
        for (uint32_t i = 0; i < in; i++)
            ot_matrix_row(&h->token, i, h->token_rows + (size_t)i * d);
        ot_matrix_free(&h->token);
    }
    return OT_OK;
}

ot_status ot_head_tables_build(ot_insertion *x, uint32_t n_threads, ot_error *err)
{
    const ot_status unpacked = unpack_token_matrices(x, err);
    if (unpacked != OT_OK || !wants_table(x))
        return unpacked;
    const ot_model *m = x->base;
    const uint32_t in = ot_insertion_head_width(x);
    builder b = {.insertion = x, .output = ot_gguf_tensor(m->gguf, "output.weight"), .kernels = ot_kernels_select(~0u),
                 .d = m->info.n_embd, .n_vocab = m->info.n_vocab, .in = in, .width = in * x->info.spec.n_outputs,
                 .type = in % ot_type_block(OT_TYPE_Q8_0) == 0 ? OT_TYPE_Q8_0 : OT_TYPE_F16};
    if (b.output == NULL)
        b.output = ot_gguf_tensor(m->gguf, "token_embd.weight");
    b.row_bytes = in / ot_type_block(b.type) * (size_t)ot_type_block_bytes(b.type);
    if (n_threads == 0)
        n_threads = ot_available_cpus();
    ot_pool *pool = NULL;
    ot_status st = ot_pool_open(&pool, n_threads, err);
    if (st == OT_OK && !allocate(&b, n_threads))
        st = ot_fail(err, OT_ERR_NOMEM, "out of memory for the tables of insertion '%s'", x->info.spec.name);
    if (st == OT_OK) {
        st = run(&b, pool, err);
        ot_gguf_drop_pages(m->gguf);
    }
    ot_pool_close(&pool);
    free(b.side_by_side);
    free(b.rows);
    free(b.products);
    free(b.tables);
    return st;
}
