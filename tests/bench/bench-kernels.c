/* Times every kernel of each instruction set, in one binary, as a share of this machine's limits: integer and float
 * peak, and read bandwidth (engine/machine-limits.h).
 *
 *     bench-kernels [THREADS]      default: all cores
 *
 * Each figure is the best of several short runs, so that a neighbour on the machine disturbs it least; one thread unless
 * the line says otherwise. Sizes are those of a 135 M model: 576 wide, 1536 inner, heads of 64.
 */
#include "gguf/gguf.h"
#include "engine/kernels.h"
#include "engine/machine-limits.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds of one call, the best over about 0.1 s of batches of calls. */
static double time_by(clockid_t clock, void (*call)(void *), void *arg)
{
    double best = 1e9, start = now(clock), batch;
    call(arg);
    batch = now(clock) - start;
    const int n = batch > 1e-3 ? 1 : (int)(1e-3 / (batch + 1e-9)) + 1;
    const double begin = now(CLOCK_MONOTONIC);
    for (int i = 0; i < 3 || now(CLOCK_MONOTONIC) - begin < 0.1; i++) {
        double t = now(clock);
        for (int k = 0; k < n; k++)
            call(arg);
        t = (now(clock) - t) / n;
        best = t < best ? t : best;
    }
    return best;
}

/* One thread's own time, so that losing the core does not count; with several threads, the clock on the wall. */
static double time_call(void (*call)(void *), void *arg)
{
    return time_by(CLOCK_THREAD_CPUTIME_ID, call, arg);
}

static double time_pool(void (*call)(void *), void *arg)
{
    return time_by(CLOCK_MONOTONIC, call, arg);
}

static void *checked(void *p)
{
    if (!p) {
        fprintf(stderr, "bench-kernels: out of memory\n");
        exit(1);
    }
    return p;
}

static void *buffer(size_t bytes)
{
    void *p = checked(aligned_alloc(64, (bytes + 63) / 64 * 64));
    memset(p, 1, (bytes + 63) / 64 * 64);
    return p;
}

static float *floats(size_t n)
{
    float *x = buffer(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(i * 7919 % 1013) / 506.0f - 1.0f;
    return x;
}

/* ---- Limits ---------------------------------------------------------------------------------------------- */

typedef struct limits {
    double int8;  /* GOP/s */
    double fma;   /* GFLOP/s */
    double read1; /* GB/s, one thread */
    double read;  /* GB/s, all threads */
} limits;

static volatile float sink;

/* `one` has a single thread. */
static limits measure_limits(unsigned mask, ot_pool *one, ot_pool *pool)
{
    ot_machine_limits alone = {0}, all = {0};
    ot_error err;
    if (ot_machine_limits_raise(&alone, one, mask, &err) != OT_OK || ot_machine_limits_raise(&all, pool, mask, &err) != OT_OK) {
        fprintf(stderr, "bench-kernels: %s\n", err.message);
        exit(1);
    }
    const limits l = {.int8 = alone.int8_gop_s, .fma = alone.float_gflop_s, .read1 = alone.read_gb_s, .read = all.read_gb_s};
    printf("limits: int8 %.0f GOP/s and float %.0f GFLOP/s a thread; read %.1f GB/s with one thread, %.1f with %u\n", l.int8,
           l.fma, l.read1, l.read, ot_pool_threads(pool));
    return l;
}

/* ---- Matrix products ------------------------------------------------------------------------------------- */

typedef struct product_bench {
    const ot_kernels *k;
    ot_pool *pool; /* NULL: one thread */
    ot_matrix w;
    ot_acts x;
    float *y;
} product_bench;

static void product_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    product_bench *b = arg;
    const uint32_t end = (task + 1) * 4 < b->w.n_panels ? (task + 1) * 4 : b->w.n_panels;
    b->k->matmul(b->y, b->w.n_out, &b->x, &b->w, task * 4, end, false);
}

static void run_product(void *arg)
{
    product_bench *b = arg;
    const uint32_t n_tasks = (b->w.n_panels + 3) / 4;
    if (b->pool)
        ot_pool_run(b->pool, product_task, b, n_tasks);
    else
        b->k->matmul(b->y, b->w.n_out, &b->x, &b->w, 0, b->w.n_panels, false);
}

static void open_product(product_bench *b, const ot_kernels *k, ot_type type, uint32_t n_in, uint32_t n_out,
                         uint32_t max_rows)
{
    const size_t row_bytes = n_in / ot_type_block(type) * ot_type_block_bytes(type);
    uint8_t *rows = buffer(row_bytes * n_out);
    ot_error err;
    memset(rows, type == OT_TYPE_F32 ? 0x3c : 0x14, row_bytes * n_out);
    *b = (product_bench){.k = k};
    if (ot_matrix_pack(&b->w, type, rows, n_in, n_out, &err) != OT_OK) {
        fprintf(stderr, "bench-kernels: %s\n", err.message);
        exit(1);
    }
    free(rows);
    b->x = (ot_acts){.n_rows = max_rows, .n_in = n_in, .x_stride = n_in, .q_stride = (n_in + 63) / 64 * 64,
                     .b_stride = n_in / OT_QBLOCK};
    b->x.x = floats((size_t)max_rows * n_in);
    b->x.q = buffer((size_t)max_rows * b->x.q_stride);
    b->x.scale = floats((size_t)max_rows * b->x.b_stride);
    b->x.bsum = floats((size_t)max_rows * b->x.b_stride);
    b->x.qsum = buffer((size_t)max_rows * b->x.b_stride * sizeof(int32_t));
    b->y = floats((size_t)max_rows * n_out);
    k->quantize(&b->x, OT_ACTS_NARROW, 0, max_rows);
}

static void close_product(product_bench *b)
{
    ot_matrix_free(&b->w);
    free((float *)b->x.x), free(b->x.q), free(b->x.scale), free(b->x.bsum), free(b->x.qsum), free(b->y);
}

static void bench_products(const ot_kernels *k, const limits *l, ot_pool *pool)
{
    static const ot_type kinds[] = {OT_TYPE_Q4_1, OT_TYPE_Q4_0, OT_TYPE_Q8_0, OT_TYPE_Q6_K, OT_TYPE_F16, OT_TYPE_F32};
    static const uint32_t rows[] = {1, 2, 3, 4, 8, 10, 16, 64, 512};
    const uint32_t n_threads = ot_pool_threads(pool);
    for (unsigned t = 0; t < sizeof kinds / sizeof *kinds; t++) {
        product_bench b;
        const uint32_t n_in = kinds[t] == OT_TYPE_Q6_K ? 512 : 576;
        open_product(&b, k, kinds[t], n_in, 1536, 512);
        printf("%-11s matmul %s %ux1536, GOP/s (%% of peak) at rows:", k->name, ot_type_name(kinds[t]), n_in);
        for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
            b.x.n_rows = rows[i];
            const double ops = 2e-9 * n_in * 1536 * rows[i] / time_call(run_product, &b);
            printf(" %u: %.0f (%.0f%%)", rows[i], ops, 100 * ops / (ot_matrix_takes_q8(&b.w) ? l->int8 : l->fma));
        }
        b.pool = pool;
        const double ops = 2e-9 * n_in * 1536 * 512 / time_pool(run_product, &b);
        printf("; 512 on %u threads: %.0f (%.0f%%)\n", n_threads, ops,
               100 * ops / (ot_matrix_takes_q8(&b.w) ? l->int8 : l->fma) / n_threads);
        close_product(&b);
    }
    for (int t = 0; t < 2; t++) {
        product_bench b;
        const ot_type type = t ? OT_TYPE_Q8_0 : OT_TYPE_Q4_1;
        open_product(&b, k, type, 576, 1 << 18, 16);
        const double bytes = 1e-9 * (double)b.w.panel_bytes * b.w.n_panels;
        for (uint32_t n = 1; n <= 16; n *= 4) {
            b.x.n_rows = n;
            b.pool = NULL;
            const double one = bytes / time_call(run_product, &b);
            b.pool = pool;
            const double all = bytes / time_pool(run_product, &b);
            printf("%-11s matmul %s %.0f MB from memory, %2u rows: %.1f GB/s (%.0f%% of reading) with one thread, %.1f (%.0f%%) "
                   "with %u\n",
                   k->name, ot_type_name(type), bytes * 1e3, n, one, 100 * one / l->read1, all, 100 * all / l->read, n_threads);
        }
        close_product(&b);
    }
}

/* ---- Attention ------------------------------------------------------------------------------------------- */

enum { HEAD_DIM = 64, MAX_CONTEXT = 4096, MAX_QUERIES = 96 };

typedef struct attention_bench {
    const ot_kernels *k;
    ot_attn_group group;
    const float *q[MAX_QUERIES];
    float *out[MAX_QUERIES];
    uint32_t n_prefix[MAX_QUERIES], n_tail[MAX_QUERIES];
    const uint32_t *tail[MAX_QUERIES];
    uint32_t units[MAX_CONTEXT / OT_PAGE_TOKENS];
} attention_bench;

static void run_attention(void *arg)
{
    attention_bench *b = arg;
    b->k->attention(&b->group);
}

static void bench_attention(const ot_kernels *k, const limits *l)
{
    static const struct {
        const char *what;
        uint32_t n_rows, context, n_tail;
    } cases[] = {{"decode, context 128", 1, 128, 0},    {"decode, context 1024", 1, 1024, 0},
                 {"decode, context 4096", 1, 4096, 0},  {"prefill of 32 rows at 512", 32, 512, 0},
                 {"10 candidates on 512", 10, 512, 1}};
    static attention_bench b;
    static uint32_t slots[] = {5, 6, 7, 8};
    const size_t part = HEAD_DIM * OT_PAGE_TOKENS * 2;
    uint8_t *pages = buffer(2 * part * (MAX_CONTEXT / OT_PAGE_TOKENS));
    float *q = floats(MAX_QUERIES * HEAD_DIM), *out = floats(MAX_QUERIES * HEAD_DIM);
    float *scratch = floats(MAX_QUERIES * ot_attn_scratch_floats(MAX_CONTEXT)), *v = floats(HEAD_DIM);
    for (uint32_t s = 0; s < MAX_CONTEXT; s++)
        k->kv_store(pages + s / OT_PAGE_TOKENS * 2 * part, 0, part, s % OT_PAGE_TOKENS, v, v, HEAD_DIM, OT_KV_F16);
    for (uint32_t i = 0; i < MAX_CONTEXT / OT_PAGE_TOKENS; i++)
        b.units[i] = i;
    for (unsigned c = 0; c < sizeof cases / sizeof *cases; c++) {
        double ops = 0;
        const uint32_t n = cases[c].n_rows * 3;
        for (uint32_t i = 0; i < n; i++) {
            b.q[i] = q + i * HEAD_DIM;
            b.out[i] = out + i * HEAD_DIM;
            b.n_prefix[i] = cases[c].context - (cases[c].n_tail ? 0 : cases[c].n_rows - 1 - i / 3);
            b.n_tail[i] = cases[c].n_tail;
            b.tail[i] = slots;
            ops += 4e-9 * HEAD_DIM * (b.n_prefix[i] + b.n_tail[i]);
        }
        b.k = k;
        b.group = (ot_attn_group){.n_queries = n, .head_dim = HEAD_DIM, .scale = 0.125f, .q = b.q, .out = b.out,
                                  .n_prefix = b.n_prefix, .n_tail = b.n_tail, .tail = b.tail, .memory = pages,
                                  .unit_bytes = 2 * part, .units = b.units,
                                  .v_offset = part, .kv_type = OT_KV_F16, .scratch = scratch,
                                  .scratch_stride = ot_attn_scratch_floats(MAX_CONTEXT)};
        const double seconds = time_call(run_attention, &b);
        printf("%-11s attention, 3 heads on a key, %s: %.2f us, %.0f GFLOP/s (%.0f%% of peak), keys and values %.1f GB/s\n",
               k->name, cases[c].what, seconds * 1e6, ops / seconds, 100 * ops / seconds / l->fma,
               4e-9 * HEAD_DIM * cases[c].context / seconds);
    }
    free(pages), free(q), free(out), free(scratch), free(v);
}

/* ---- Training -------------------------------------------------------------------------------------------- */

typedef struct gemm_bench {
    const ot_kernels *k;
    bool transposed;
    uint32_t n_k, n_m, n_n;
    float *a, *b, *c;
} gemm_bench;

static void run_gemm(void *arg)
{
    gemm_bench *g = arg;
    if (g->transposed)
        g->k->gemm_tn(g->c, g->n_n, g->a, g->n_m, g->b, g->n_n, g->n_k, 0, g->n_m, g->n_n, true);
    else
        g->k->gemm_nn(g->c, g->n_n, g->a, g->n_k, g->b, g->n_n, g->n_k, 0, g->n_m, g->n_n, false);
}

static void bench_gemm(const ot_kernels *k, const limits *l)
{
    static const gemm_bench cases[] = {{NULL, true, 1500, 64, 608, 0, 0, 0},    {NULL, true, 1500, 256, 1600, 0, 0, 0},
                                       {NULL, true, 1500, 32, 1024, 0, 0, 0},   {NULL, false, 64, 1500, 32, 0, 0, 0},
                                       {NULL, false, 256, 1500, 256, 0, 0, 0}, {NULL, false, 64, 1500, 608, 0, 0, 0}};
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        gemm_bench g = cases[i];
        g.k = k;
        g.a = floats((size_t)g.n_m * g.n_k), g.b = floats((size_t)g.n_k * g.n_n), g.c = floats((size_t)g.n_m * g.n_n);
        const double flops = 2e-9 * g.n_m * g.n_k * g.n_n / time_call(run_gemm, &g);
        printf("%-11s %s %ux%u, %u deep: %.0f GFLOP/s (%.0f%% of peak)\n", k->name, g.transposed ? "gemm_tn" : "gemm_nn",
               g.n_m, g.n_n, g.n_k, flops, 100 * flops / l->fma);
        free(g.a), free(g.b), free(g.c);
    }
}

/* ---- Vectors --------------------------------------------------------------------------------------------- */

typedef struct vector_bench {
    const ot_kernels *k;
    float *x, *y, *z;
    ot_acts acts;
    uint8_t *unit;
} vector_bench;

static void run_rms_norm(void *arg) { vector_bench *b = arg; b->k->rms_norm(b->z, b->x, b->y, 576, 1e-5f); }
static void run_layer_norm(void *arg)
{
    vector_bench *b = arg;
    float mean;
    b->k->layer_norm(b->z, b->x, b->y, b->y, 768, 1e-5f, &mean);
}
static void run_gelu(void *arg) { vector_bench *b = arg; b->k->gelu(b->z, b->x, 3072); }
static void run_silu_mul(void *arg) { vector_bench *b = arg; b->k->silu_mul(b->z, b->x, b->y, 1536); }
static void run_dot(void *arg) { vector_bench *b = arg; sink = b->k->dot(b->x, b->y, 576); }
static void run_max(void *arg) { vector_bench *b = arg; sink = b->k->max(b->x, 49152); }
static void run_sum_exp(void *arg) { vector_bench *b = arg; sink = b->k->sum_exp(b->x, 49152, 1.0f); }
static void run_rope(void *arg) { vector_bench *b = arg; b->k->rope(b->z, b->y, 9, 64, 64, false); }
static void run_neox(void *arg) { vector_bench *b = arg; b->k->rope(b->z, b->y, 9, 64, 64, true); }
static void run_quantize(void *arg) { vector_bench *b = arg; b->k->quantize(&b->acts, OT_ACTS_NARROW, 0, 1); }
static void run_kv_store(void *arg)
{
    vector_bench *b = arg;
    b->k->kv_store(b->unit, 0, 4096, 7, b->x, b->y, 64, OT_KV_F16);
}

static void bench_vectors(const ot_kernels *k)
{
    static const struct {
        const char *what;
        void (*run)(void *);
        double elements;
    } cases[] = {{"rms_norm 576", run_rms_norm, 576}, {"silu_mul 1536", run_silu_mul, 1536},  {"dot 576", run_dot, 576},
                 {"max 49152", run_max, 49152},       {"sum_exp 49152", run_sum_exp, 49152},  {"rope 9x64", run_rope, 576},
                 {"rope neox 9x64", run_neox, 576},   {"quantize 576", run_quantize, 576},    {"kv_store 64", run_kv_store, 64},
                 {"layer_norm 768", run_layer_norm, 768}, {"gelu 3072", run_gelu, 3072}};
    vector_bench b = {.k = k, .x = floats(49152), .y = floats(49152), .z = floats(49152), .unit = buffer(8192)};
    b.acts = (ot_acts){.n_rows = 1, .n_in = 576, .x = b.x, .x_stride = 576, .q = buffer(576), .q_stride = 576,
                       .scale = floats(18), .b_stride = 18, .bsum = floats(18), .qsum = buffer(18 * sizeof(int32_t))};
    printf("%-11s ns (elements/ns):", k->name);
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        const double ns = 1e9 * time_call(cases[i].run, &b);
        printf("  %s %.0f (%.1f)", cases[i].what, ns, cases[i].elements / ns);
    }
    printf("\n");
    free(b.x), free(b.y), free(b.z), free(b.unit), free(b.acts.q), free(b.acts.scale), free(b.acts.bsum), free(b.acts.qsum);
}

static void empty_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)arg, (void)task, (void)thread;
}

static void run_empty(void *arg)
{
    ot_pool_run(arg, empty_task, NULL, 16);
}

int main(int argc, char **argv)
{
    static const unsigned masks[] = {OT_CPU_AVX2, OT_CPU_AVX2 | OT_CPU_AVX512, OT_CPU_AVX2 | OT_CPU_AVX512 | OT_CPU_VNNI};
    const unsigned have = ot_cpu_detect();
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    const uint32_t n_threads = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : cores > 0 ? (uint32_t)cores : 1;
    ot_pool *pool, *one;
    ot_error err;

    if (ot_pool_open(&pool, n_threads, &err) != OT_OK || ot_pool_open(&one, 1, &err) != OT_OK) {
        fprintf(stderr, "bench-kernels: %s\n", err.message);
        return 1;
    }
    printf("an empty job on %u threads: %.2f us\n", n_threads, 1e6 * time_pool(run_empty, pool));
    for (unsigned i = 0; i < sizeof masks / sizeof *masks; i++) {
        if ((masks[i] & have) != masks[i])
            continue;
        const ot_kernels *k = ot_kernels_select(masks[i]);
        const limits l = measure_limits(masks[i], one, pool);
        bench_products(k, &l, pool);
        bench_attention(k, &l);
        bench_gemm(k, &l);
        bench_vectors(k);
    }
    ot_pool_close(&one);
    ot_pool_close(&pool);
    return 0;
}
