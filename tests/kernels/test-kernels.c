/* Every kernel of every instruction set of this machine against the plain C reference, by equality to the last bit: odd
 * sizes and tails, buffers that end where a page may not be touched, extreme values, any number of rows, any cut of the
 * panels. OTTER_TEST_SEED sets the seed. */
#include "gguf/gguf.h"
#include "engine/kernels.h"
#include "tests/support/test-support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const ot_kernels *ref;  /* plain C */
static const ot_kernels *fast; /* the set under test */
static ot_test_rng rng;

/* ---- Values ---------------------------------------------------------------------------------------------- */

typedef enum values { ORDINARY, ZEROS, HUGE_VALUES, TINY_VALUES, DENORMALS, ANYTHING, N_VALUES } values;

static float random_float(values kind)
{
    uint32_t bits;
    float f;
    switch (kind) {
    case ORDINARY: return ot_test_rng_float(&rng, -2.0f, 2.0f);
    case ZEROS: return ot_test_rng_below(&rng, 2) ? 0.0f : -0.0f;
    case HUGE_VALUES: return ot_test_rng_float(&rng, -3e38f, 3e38f);
    case TINY_VALUES: return ot_test_rng_float(&rng, -1e-36f, 1e-36f);
    case DENORMALS: return ot_test_rng_float(&rng, -1e-38f, 1e-38f);
    default: break;
    }
    bits = (uint32_t)ot_test_rng_next(&rng); /* any exponent, but no infinity and no NaN */
    if ((bits & 0x7f800000u) == 0x7f800000u)
        bits &= ~0x00800000u;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static void fill(float *x, size_t n, values kind)
{
    for (size_t i = 0; i < n; i++)
        x[i] = random_float(kind);
}

static uint32_t below(uint32_t n)
{
    return ot_test_rng_below(&rng, n);
}

/* n floats that end at a forbidden page; their start has whatever alignment follows. */
static float *guarded_floats(size_t n)
{
    return ot_test_guarded_alloc((n ? n : 1) * sizeof(float), sizeof(float));
}

static void free_floats(float *x, size_t n)
{
    ot_test_guarded_free(x, (n ? n : 1) * sizeof(float));
}

/* Equal bits, or both NaN (which NaN comes out of a product is not ours to choose). */
static bool same(const float *a, const float *b, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++) {
        if (memcmp(&a[i], &b[i], sizeof a[i]) != 0 && !(isnan(a[i]) && isnan(b[i]))) {
            printf("%s %s: element %zu of %zu is %.9g (%a), expected %.9g (%a)\n", fast->name, what, i, n, (double)a[i],
                   (double)a[i], (double)b[i], (double)b[i]);
            return false;
        }
    }
    return true;
}

static const uint32_t lengths[] = {0, 1, 2, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 32, 33, 47, 48, 64, 65, 100, 576, 601};
enum { N_LENGTHS = sizeof lengths / sizeof *lengths };

/* ---- exp ------------------------------------------------------------------------------------------------- */

static void exp_is_accurate(void)
{
    double worst = 0;
    for (float x = -87.3f; x <= 88.7f; x += 0.00371f) {
        double error = fabs((double)ot_expf(x) - exp((double)x)) / exp((double)x);
        worst = error > worst ? error : worst;
    }
    CHECK(worst < 2e-7);
    CHECK(ot_expf(0.0f) == 1.0f);
    CHECK(ot_expf(-87.4f) == 0.0f && ot_expf(-INFINITY) == 0.0f && ot_expf(-3e38f) == 0.0f);
    CHECK(ot_expf(88.8f) == INFINITY && ot_expf(INFINITY) == INFINITY);
    CHECK(isnan(ot_expf(NAN)));
    CHECK_NEAR(ot_sigmoid(0.0f), 0.5, 0);
    CHECK(ot_sigmoid(-100.0f) == 0.0f && ot_sigmoid(100.0f) == 1.0f);
}

static void exp_of_vectors_is_exp_of_scalars(void)
{
    static const float edges[] = {-INFINITY, -87.31f, -87.3f, -87.29f, -0.0f, 0.0f, 88.69f, 88.7f, 88.71f, INFINITY, NAN};
    for (int i = 0; i < 20000; i++) {
        float x = i < 11 ? edges[i] : i & 1 ? ot_test_rng_float(&rng, -90.0f, 90.0f) : random_float(ANYTHING);
        float got = fast->sum_exp(&x, 1, 0.0f), expected = ot_expf(x);
        if (!CHECK(same(&got, &expected, 1, "exp")))
            return;
    }
}

/* ---- Vectors --------------------------------------------------------------------------------------------- */

static void check_vectors(uint32_t n, values kind)
{
    float *a = guarded_floats(n), *b = guarded_floats(n), *c = guarded_floats(n), *x = guarded_floats(n), *y = guarded_floats(n);
    float got, expected;
    const float shift = random_float(ORDINARY), factor = random_float(kind);
    REQUIRE(a && b && c && x && y);
    fill(a, n, kind);
    fill(b, n, kind == HUGE_VALUES ? ORDINARY : kind);
    fill(c, n, kind);
    ot_test_context("%s, length %u, values %d", fast->name, n, kind);

    got = fast->dot(a, b, n), expected = ref->dot(a, b, n);
    CHECK(same(&got, &expected, 1, "dot"));
    got = fast->max(a, n), expected = ref->max(a, n);
    CHECK(same(&got, &expected, 1, "max"));
    got = fast->sum_exp(a, n, shift), expected = ref->sum_exp(a, n, shift);
    CHECK(same(&got, &expected, 1, "sum_exp"));
    if (n > 0) {
        got = fast->rms_norm(x, a, b, n, 1e-5f), expected = ref->rms_norm(y, a, b, n, 1e-5f);
        CHECK(same(&got, &expected, 1, "rms_norm's factor") && same(x, y, n, "rms_norm"));
    }
    if (n > 0) {
        float mean, expected_mean;
        got = fast->layer_norm(x, a, b, c, n, 1e-5f, &mean), expected = ref->layer_norm(y, a, b, c, n, 1e-5f, &expected_mean);
        CHECK(same(&mean, &expected_mean, 1, "layer_norm's mean") && same(&got, &expected, 1, "layer_norm's factor") &&
              same(x, y, n, "layer_norm"));
    }
    fast->shift_norm(x, a, b, c, shift, factor, n), ref->shift_norm(y, a, b, c, shift, factor, n);
    CHECK(same(x, y, n, "shift_norm"));
    fast->gelu(x, a, n), ref->gelu(y, a, n);
    CHECK(same(x, y, n, "gelu"));
    fast->scale_norm(x, a, b, factor, n), ref->scale_norm(y, a, b, factor, n);
    CHECK(same(x, y, n, "scale_norm"));
    fast->silu_mul(x, a, b, n), ref->silu_mul(y, a, b, n);
    CHECK(same(x, y, n, "silu_mul"));
    memcpy(x, b, n * sizeof *x), memcpy(y, b, n * sizeof *y);
    fast->add(x, a, n), ref->add(y, a, n);
    CHECK(same(x, y, n, "add"));
    fast->axpy(x, a, factor, n), ref->axpy(y, a, factor, n);
    CHECK(same(x, y, n, "axpy"));
    free_floats(a, n), free_floats(b, n), free_floats(c, n), free_floats(x, n), free_floats(y, n);
}

static void vectors_match(void)
{
    for (int i = 0; i < N_LENGTHS; i++)
        for (int kind = 0; kind < N_VALUES; kind++)
            check_vectors(lengths[i], (values)kind);
}

/* A vocabulary's sum of exponentials: whole chunks and a rest. */
static void long_sums_match(void)
{
    static const uint32_t sizes[] = {OT_EXP_CHUNK - 1, OT_EXP_CHUNK, OT_EXP_CHUNK + 1, 3 * OT_EXP_CHUNK + 17, 12 * OT_EXP_CHUNK};
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        float *x = guarded_floats(sizes[i]);
        double exact = 0;
        REQUIRE(x);
        fill(x, sizes[i], ORDINARY);
        for (uint32_t k = 0; k < sizes[i]; k++)
            exact += exp((double)x[k] - 2);
        const float got = fast->sum_exp(x, sizes[i], 2.0f), expected = ref->sum_exp(x, sizes[i], 2.0f);
        ot_test_context("%s, %u terms", fast->name, sizes[i]);
        CHECK(same(&got, &expected, 1, "sum_exp"));
        CHECK_NEAR(got, exact, 2e-6 * exact);
        free_floats(x, sizes[i]);
    }
}

/* gelu and layer_norm against their definitions in double. */
static void gelu_is_accurate(void)
{
    const double c = sqrt(2 / acos(-1.0));
    double worst = 0;
    for (float x = -12.0f; x <= 12.0f; x += 0.0037f) {
        float got;
        fast->gelu(&got, &x, 1);
        const double expected = 0.5 * x * (1 + tanh(c * (x + 0.044715 * pow(x, 3)))), error = fabs((double)got - expected);
        worst = error > worst ? error : worst;
    }
    CHECK(worst < 1e-6);
    const float edges[] = {0.0f, 100.0f, -100.0f, INFINITY, NAN};
    float got[5];
    fast->gelu(got, edges, 5);
    CHECK(got[0] == 0.0f && got[1] == 100.0f && got[2] == 0.0f && got[3] == INFINITY && isnan(got[4]));
}

static void layer_norm_is_accurate(void)
{
    enum { N = 601 };
    float x[N], gamma[N], beta[N], got[N], mean;
    double sum = 0, squares = 0;
    fill(x, N, ORDINARY), fill(gamma, N, ORDINARY), fill(beta, N, ORDINARY);
    for (uint32_t i = 0; i < N; i++)
        x[i] += 30.0f; /* a mean far above the deviation: its square must not be subtracted from a sum of squares */
    const float inv = fast->layer_norm(got, x, gamma, beta, N, 1e-5f, &mean);
    for (uint32_t i = 0; i < N; i++)
        sum += (double)x[i] / N;
    for (uint32_t i = 0; i < N; i++)
        squares += pow(x[i] - sum, 2) / N;
    CHECK_NEAR(mean, sum, 1e-5);
    CHECK_NEAR(inv, 1 / sqrt(squares + 1e-5), 1e-6);
    for (uint32_t i = 0; i < N; i++)
        if (!CHECK_NEAR(got[i], (x[i] - sum) / sqrt(squares + 1e-5) * gamma[i] + beta[i], 3e-5))
            return;
}

static void max_ignores_nan(void)
{
    for (uint32_t n = 1; n < 40; n++) {
        float x[40], got, expected = -INFINITY;
        for (uint32_t i = 0; i < n; i++) {
            x[i] = below(3) ? random_float(ORDINARY) : NAN;
            expected = x[i] > expected ? x[i] : expected;
        }
        got = fast->max(x, n);
        CHECK(same(&got, &expected, 1, "max with NaN"));
    }
}

static void rope_matches(void)
{
    static const uint32_t dims[] = {2, 4, 6, 16, 18, 32, 34, 36, 64, 80, 96, 128};
    for (unsigned i = 0; i < 2 * sizeof dims / sizeof *dims; i++) {
        const uint32_t head_dim = dims[i / 2], n_rot = 2 + 2 * below(head_dim / 2), n_heads = 1 + below(4);
        const size_t n = (size_t)head_dim * n_heads;
        float *x = guarded_floats(n), *y = guarded_floats(n), *table = guarded_floats(n_rot);
        REQUIRE(x && y && table);
        fill(table, n_rot, ORDINARY);
        fill(x, n, i % 5 ? ORDINARY : ANYTHING);
        memcpy(y, x, n * sizeof *x);
        fast->rope(x, table, n_heads, head_dim, n_rot, i & 1);
        ref->rope(y, table, n_heads, head_dim, n_rot, i & 1);
        ot_test_context("%s, head_dim %u, n_rot %u, neox %u", fast->name, head_dim, n_rot, i & 1);
        CHECK(same(x, y, n, "rope"));
        free_floats(x, n), free_floats(y, n), free_floats(table, n_rot);
    }
}

/* ---- Activations ----------------------------------------------------------------------------------------- */

typedef struct acts_buffers {
    ot_acts acts;
    size_t x_size, q_size, b_size; /* elements */
} acts_buffers;

static void acts_open_strided(acts_buffers *b, uint32_t n_rows, uint32_t n_in, size_t x_stride, size_t b_stride)
{
    memset(b, 0, sizeof *b);
    b->acts = (ot_acts){.n_rows = n_rows, .n_in = n_in, .x_stride = x_stride, .q_stride = ((size_t)n_in + 63) / 64 * 64,
                        .b_stride = b_stride};
    b->x_size = (n_rows - 1) * x_stride + n_in;
    b->q_size = n_rows * b->acts.q_stride;
    b->b_size = n_rows * b->acts.b_stride + 1;
    b->acts.x = guarded_floats(b->x_size);
    b->acts.q = ot_test_guarded_alloc(b->q_size, 64);
    b->acts.scale = guarded_floats(b->b_size);
    b->acts.bsum = guarded_floats(b->b_size);
    b->acts.qsum = (int32_t *)(void *)guarded_floats(b->b_size);
    b->acts.wide_q = ot_test_guarded_alloc(b->q_size * sizeof(int16_t), 64);
    b->acts.wide_scale = guarded_floats(b->b_size);
    b->acts.wide_bsum = guarded_floats(b->b_size);
    b->acts.wide_qsum = (int32_t *)(void *)guarded_floats(b->b_size);
    memset(b->acts.q, 0, b->q_size);
    memset(b->acts.wide_q, 0, b->q_size * sizeof(int16_t));
    void *const of_blocks[] = {b->acts.scale, b->acts.bsum, b->acts.qsum, b->acts.wide_scale, b->acts.wide_bsum, b->acts.wide_qsum};
    for (size_t i = 0; i < sizeof of_blocks / sizeof *of_blocks; i++)
        memset(of_blocks[i], 0, b->b_size * sizeof(float));
}

static void acts_open(acts_buffers *b, uint32_t n_rows, uint32_t n_in)
{
    const size_t x_stride = n_in + below(5);
    acts_open_strided(b, n_rows, n_in, x_stride, n_in / OT_QBLOCK + below(3));
}

static void acts_close(acts_buffers *b)
{
    free_floats((float *)b->acts.x, b->x_size);
    ot_test_guarded_free(b->acts.q, b->q_size);
    free_floats(b->acts.scale, b->b_size);
    free_floats(b->acts.bsum, b->b_size);
    free_floats((float *)(void *)b->acts.qsum, b->b_size);
    ot_test_guarded_free(b->acts.wide_q, b->q_size * sizeof(int16_t));
    free_floats(b->acts.wide_scale, b->b_size);
    free_floats(b->acts.wide_bsum, b->b_size);
    free_floats((float *)(void *)b->acts.wide_qsum, b->b_size);
}

static float *acts_x(acts_buffers *b)
{
    return (float *)b->acts.x;
}

static bool same_quantised(const acts_buffers *a, const acts_buffers *b)
{
    const ot_acts *x = &a->acts, *y = &b->acts;
    return memcmp(x->q, y->q, a->q_size) == 0 && same(x->scale, y->scale, a->b_size, "scale") &&
           same(x->bsum, y->bsum, a->b_size, "bsum") && memcmp(x->qsum, y->qsum, a->b_size * sizeof(int32_t)) == 0 &&
           memcmp(x->wide_q, y->wide_q, a->q_size * sizeof(int16_t)) == 0 &&
           same(x->wide_scale, y->wide_scale, a->b_size, "wide scale") && same(x->wide_bsum, y->wide_bsum, a->b_size, "wide bsum") &&
           memcmp(x->wide_qsum, y->wide_qsum, a->b_size * sizeof(int32_t)) == 0;
}

static void quantize_matches(void)
{
    for (int i = 0; i < 200; i++) {
        acts_buffers a, b;
        const uint32_t n_rows = 1 + below(3), n_in = OT_QBLOCK * (1 + below(5));
        const values kind = (values)(i % N_VALUES);
        acts_open(&a, n_rows, n_in);
        acts_open_strided(&b, n_rows, n_in, a.acts.x_stride, a.acts.b_stride);
        fill(acts_x(&a), a.x_size, kind);
        if (i % 7 == 3)
            acts_x(&a)[below(n_in)] = i & 1 ? NAN : -INFINITY;
        if (i % 7 == 4) /* halves, which round to even */
            for (uint32_t k = 0; k < n_in; k++)
                acts_x(&a)[k] = k % OT_QBLOCK ? (float)(int)below(127) + 0.5f : i & 1 ? 127.0f : 32767.0f;
        memcpy(acts_x(&b), a.acts.x, a.x_size * sizeof(float));
        const unsigned forms = 1 + (unsigned)i % 3; /* narrow, wide, both */
        fast->quantize(&a.acts, forms, 0, n_rows);
        ref->quantize(&b.acts, forms, 0, n_rows);
        ot_test_context("%s, %u rows of %u, values %d, forms %u", fast->name, n_rows, n_in, kind, forms);
        CHECK(same_quantised(&a, &b));
        acts_close(&b), acts_close(&a);
    }
}

/* What a quantised row stands for, in either form, is within half a step of the row. */
static void quantized_rows_are_near(void)
{
    acts_buffers a;
    acts_open(&a, 2, 96);
    fill(acts_x(&a), a.x_size, ORDINARY);
    fast->quantize(&a.acts, OT_ACTS_NARROW | OT_ACTS_WIDE, 0, 2);
    for (uint32_t r = 0; r < 2; r++) {
        for (uint32_t k = 0; k < 96; k++) {
            const size_t at = r * a.acts.b_stride + k / OT_QBLOCK, q = r * a.acts.q_stride + k;
            const float x = a.acts.x[r * a.acts.x_stride + k], step = a.acts.scale[at], wide_step = a.acts.wide_scale[at];
            if (!CHECK_NEAR(step * (float)a.acts.q[q], x, step * 0.50001f) ||
                !CHECK_NEAR(wide_step * (float)a.acts.wide_q[q], x, wide_step * 0.51f))
                return;
        }
    }
    acts_close(&a);
}

/* ---- Matrix products ------------------------------------------------------------------------------------- */

static const ot_type types[] = {OT_TYPE_F32,  OT_TYPE_F16,  OT_TYPE_BF16, OT_TYPE_Q4_0, OT_TYPE_Q4_1, OT_TYPE_Q5_0,
                                OT_TYPE_Q5_1, OT_TYPE_Q8_0, OT_TYPE_Q2_K, OT_TYPE_Q3_K, OT_TYPE_Q4_K, OT_TYPE_Q5_K,
                                OT_TYPE_Q6_K, OT_TYPE_IQ4_NL, OT_TYPE_IQ4_XS, OT_TYPE_MXFP4};
enum { N_TYPES = sizeof types / sizeof *types };

/* Rows as in a file, of random bytes; the halves that are scales are made small and finite. Extreme ones have all their
 * codes at one end. */
static uint8_t *random_rows(ot_type type, uint32_t n_in, uint32_t n_out, bool extreme, size_t *row_bytes)
{
    static const struct {
        ot_type type;
        int n_halves, at[2];
    } scales[] = {{OT_TYPE_Q4_0, 1, {0}},    {OT_TYPE_Q4_1, 2, {0, 2}}, {OT_TYPE_Q5_0, 1, {0}},
                  {OT_TYPE_Q5_1, 2, {0, 2}}, {OT_TYPE_Q8_0, 1, {0}},    {OT_TYPE_Q4_K, 2, {0, 2}},
                  {OT_TYPE_Q5_K, 2, {0, 2}}, {OT_TYPE_Q6_K, 1, {208}},  {OT_TYPE_Q2_K, 2, {80, 82}},
                  {OT_TYPE_Q3_K, 1, {108}},  {OT_TYPE_IQ4_NL, 1, {0}},  {OT_TYPE_IQ4_XS, 1, {0}}};
    const size_t block_bytes = ot_type_block_bytes(type), n_blocks = (size_t)n_out * (n_in / ot_type_block(type));
    uint8_t *rows = malloc(n_blocks * block_bytes);
    *row_bytes = n_in / ot_type_block(type) * block_bytes;
    for (size_t i = 0; rows && i < n_blocks; i++) {
        uint8_t *block = rows + i * block_bytes;
        const uint8_t end = (uint8_t[]){0x00, 0xff, 0x80, 0x7f}[below(4)];
        for (size_t j = 0; j < block_bytes; j++)
            block[j] = extreme ? end : (uint8_t)below(256);
        if (type == OT_TYPE_MXFP4) /* powers of two around 1, or the least ones */
            block[0] = (uint8_t)(extreme ? below(3) : 120 + below(12));
        if (ot_type_block(type) == 1) { /* floats in -2..2 */
            float f = random_float(extreme ? TINY_VALUES : ORDINARY);
            uint16_t h = type == OT_TYPE_F16 ? ot_f32_to_f16(f) : ot_f32_to_bf16(f);
            memcpy(block, type == OT_TYPE_F32 ? (void *)&f : (void *)&h, block_bytes);
        }
        for (unsigned s = 0; s < sizeof scales / sizeof *scales; s++) {
            for (int k = 0; scales[s].type == type && k < scales[s].n_halves; k++) {
                uint16_t h = ot_f32_to_f16(random_float(ORDINARY) * (extreme ? 1e-6f : 0.01f));
                memcpy(block + scales[s].at[k], &h, sizeof h);
            }
        }
    }
    return rows;
}

static void packed_rows_are_the_files_rows(void)
{
    for (int t = 0; t < N_TYPES; t++) {
        for (uint32_t n_out = 1; n_out <= 33; n_out += 8) {
            const uint32_t n_in = ot_type_block(types[t]) == 1 ? 37 : 512;
            size_t row_bytes;
            uint8_t *rows = random_rows(types[t], n_in, n_out, false, &row_bytes);
            float got[512], expected[512];
            ot_matrix m;
            ot_error err = {0};
            REQUIRE(rows);
            REQUIRE_OK(ot_matrix_pack(&m, types[t], rows, n_in, n_out, &err), &err);
            for (uint32_t o = 0; o < n_out; o++) {
                ot_matrix_row(&m, o, got);
                ot_dequantize(types[t], rows + o * row_bytes, expected, n_in);
                for (uint32_t k = 0; k < n_in; k++) {
                    got[k] += 0.0f; /* -0 and 0 are the same weight */
                    expected[k] += 0.0f;
                }
                ot_test_context("%s, row %u of %u", ot_type_name(types[t]), o, n_out);
                CHECK_SAME_FLOATS(got, expected, n_in);
            }
            ot_matrix_free(&m);
            free(rows);
        }
    }
}

static void packing_refuses_half_blocks(void)
{
    uint8_t rows[256] = {0};
    ot_error err = {0};
    ot_matrix m;
    CHECK_INT(ot_matrix_pack(&m, OT_TYPE_Q4_1, rows, 48, 1, &err), OT_ERR_INVALID);
    CHECK(m.data == NULL);
    CHECK_INT(ot_matrix_pack(&m, OT_TYPE_Q6_K, rows, 32, 1, &err), OT_ERR_INVALID);
    CHECK_INT(ot_matrix_pack(&m, OT_TYPE_F32, rows, 0, 1, &err), OT_ERR_INVALID);
    CHECK_INT(ot_matrix_pack(&m, (ot_type)99, rows, 32, 1, &err), OT_ERR_UNSUPPORTED);
    ot_matrix_free(&m);
    ot_matrix_free(NULL);
}

static void repacking_is_packing(void)
{
    enum { N_IN = 19, N_OUT = 21 };
    float rows[N_IN * N_OUT], row[N_IN];
    ot_matrix m;
    ot_error err = {0};
    fill(rows, N_IN * N_OUT, ORDINARY);
    REQUIRE_OK(ot_matrix_pack(&m, OT_TYPE_F32, rows, N_IN, N_OUT, &err), &err);
    fill(rows, N_IN * N_OUT, ORDINARY);
    ot_matrix_repack_f32(&m, rows);
    for (uint32_t o = 0; o < N_OUT; o++) {
        ot_matrix_row(&m, o, row);
        CHECK_SAME_FLOATS(row, rows + o * N_IN, N_IN);
    }
    ot_matrix_free(&m);
}

/* The row r of activations alone. */
static ot_acts acts_row(const ot_acts *all, uint32_t r)
{
    ot_acts row = *all;
    row.n_rows = 1;
    row.x += r * row.x_stride;
    row.q += r * row.q_stride;
    row.scale += r * row.b_stride;
    row.bsum += r * row.b_stride;
    row.qsum += r * row.b_stride;
    row.wide_q += r * row.q_stride;
    row.wide_scale += r * row.b_stride;
    row.wide_bsum += r * row.b_stride;
    row.wide_qsum += r * row.b_stride;
    return row;
}

typedef void product_kernel(float *, size_t, const ot_acts *, const ot_matrix *, uint32_t, uint32_t, bool);

/* One product of n_rows rows, whole, in two cuts, and row by row: all equal to the reference; nothing is written outside. */
static void check_product(product_kernel *tested, product_kernel *reference, const ot_matrix *m, acts_buffers *a, bool accumulate)
{
    const uint32_t n_rows = a->acts.n_rows;
    const size_t stride = m->n_out + below(4), size = (n_rows - 1) * stride + m->n_out;
    float *before = guarded_floats(size), *expected = guarded_floats(size), *got = guarded_floats(size);
    const uint32_t cut = below(m->n_panels + 1);
    REQUIRE(before && expected && got);
    fill(before, size, ORDINARY);
    memcpy(expected, before, size * sizeof *got);
    reference(expected, stride, &a->acts, m, 0, m->n_panels, accumulate);

    memcpy(got, before, size * sizeof *got);
    tested(got, stride, &a->acts, m, 0, m->n_panels, accumulate);
    CHECK(same(got, expected, size, "matmul"));

    memcpy(got, before, size * sizeof *got);
    tested(got, stride, &a->acts, m, cut, m->n_panels, accumulate);
    tested(got, stride, &a->acts, m, 0, cut, accumulate);
    CHECK(same(got, expected, size, "matmul in two cuts"));

    memcpy(got, before, size * sizeof *got);
    for (uint32_t r = 0; r < n_rows; r++) {
        const ot_acts row = acts_row(&a->acts, r);
        tested(got + r * stride, stride, &row, m, 0, m->n_panels, accumulate);
    }
    CHECK(same(got, expected, size, "matmul row by row"));
    free_floats(before, size), free_floats(expected, size), free_floats(got, size);
}

static void check_matrix(ot_type type, uint32_t n_in, uint32_t n_out, uint32_t n_rows, bool extreme)
{
    size_t row_bytes;
    uint8_t *rows = random_rows(type, n_in, n_out, extreme, &row_bytes);
    acts_buffers a;
    ot_matrix m;
    ot_error err = {0};
    REQUIRE(rows);
    REQUIRE_OK(ot_matrix_pack(&m, type, rows, n_in, n_out, &err), &err);
    free(rows);
    acts_open(&a, n_rows, n_in);
    fill(acts_x(&a), a.x_size, extreme ? ANYTHING : ORDINARY);
    if (extreme && below(2)) /* every quantised activation at an end of its range */
        for (size_t i = 0; i < a.x_size; i++)
            acts_x(&a)[i] = below(8) ? 1.5f : -1.5f;
    ref->quantize(&a.acts, OT_ACTS_NARROW | OT_ACTS_WIDE, 0, n_rows);
    ot_test_context("%s, %s, %u -> %u, %u rows, extreme %d", fast->name, ot_type_name(type), n_in, n_out, n_rows, extreme);
    check_product(fast->matmul, ref->matmul, &m, &a, below(2));
    ot_test_context("%s, %s, %u -> %u, %u rows, extreme %d, wide", fast->name, ot_type_name(type), n_in, n_out, n_rows, extreme);
    check_product(fast->matmul_wide, ref->matmul_wide, &m, &a, below(2));
    acts_close(&a);
    ot_matrix_free(&m);
}

static void products_match(void)
{
    static const uint32_t outs[] = {1, 5, 15, 16, 17, 31, 32, 33, 48, 63, 64, 80};
    for (int t = 0; t < N_TYPES; t++) {
        const uint32_t block = ot_type_block(types[t]);
        for (uint32_t n_rows = 1; n_rows <= 19; n_rows++) {
            const uint32_t n_in = block == 1 ? 1 + below(90) : block * (1 + below(block == 32 ? 6 : 2));
            check_matrix(types[t], n_in, outs[below(12)], n_rows, n_rows % 4 == 0);
        }
        for (int i = 0; i < 12; i++)
            check_matrix(types[t], block == 1 ? 65 : 256, outs[i], 1 + below(3), i & 1);
        for (int i = 0; i < 4; i++) /* blocks of many rows, and what is left of them */
            check_matrix(types[t], block == 1 ? 33 : 512, outs[4 + i], (uint32_t[]){32, 63, 129, 150}[i], i & 1);
        if (block == 32) /* groups of scales that are not whole */
            check_matrix(types[t], 32 * 11, 48, 24, false);
    }
}

/* ---- Attention ------------------------------------------------------------------------------------------- */

enum { MAX_QUERIES = 64, MAX_SLOTS = 800, N_UNITS = MAX_SLOTS / OT_PAGE_TOKENS };

typedef struct attention_case {
    ot_attn_group group;
    float *queries, *outs, *scratch;
    size_t n_scratch;
    const float *q[MAX_QUERIES];
    float *out[MAX_QUERIES];
    uint32_t n_prefix[MAX_QUERIES], n_tail[MAX_QUERIES], n_unseen[MAX_QUERIES], slots[MAX_QUERIES][40];
    const uint32_t *tail[MAX_QUERIES];
    uint8_t *memory, *pages[N_UNITS];
    uint32_t units[N_UNITS];
    size_t unit_bytes;
} attention_case;

/* Pages hold K and V between two unused spans; slots past `n_slots` hold NaN, which must reach nothing. */
static bool attention_open(attention_case *c, uint32_t head_dim, uint32_t n_queries, uint32_t n_slots, ot_kv_type type)
{
    const size_t element = type == OT_KV_F16 ? 2 : 4, part = head_dim * OT_PAGE_TOKENS * element;
    memset(c, 0, sizeof *c);
    c->unit_bytes = 2 * part + 128;
    if (!(c->memory = ot_test_guarded_alloc(N_UNITS * c->unit_bytes, 64)))
        return false;
    memset(c->memory, 0xff, N_UNITS * c->unit_bytes);
    for (uint32_t i = 0; i < N_UNITS; i++) {
        c->units[i] = i * 7 % N_UNITS; /* no two the same, and neighbours apart */
        c->pages[i] = c->memory + c->units[i] * c->unit_bytes;
    }
    for (uint32_t s = 0; s < n_slots; s++) {
        float k[256], v[256];
        fill(k, head_dim, ORDINARY);
        fill(v, head_dim, ORDINARY);
        ref->kv_store(c->pages[s / OT_PAGE_TOKENS], 128, 128 + part, s % OT_PAGE_TOKENS, k, v, head_dim, type);
    }
    c->queries = guarded_floats(n_queries * head_dim);
    c->outs = guarded_floats(n_queries * head_dim);
    fill(c->queries, n_queries * head_dim, ORDINARY);
    c->group = (ot_attn_group){.n_queries = n_queries, .head_dim = head_dim, .scale = 1.0f / sqrtf((float)head_dim),
                               .q = c->q, .out = c->out, .n_prefix = c->n_prefix, .n_tail = c->n_tail, .tail = c->tail,
                               .memory = c->memory, .unit_bytes = c->unit_bytes, .units = c->units, .k_offset = 128, .v_offset = 128 + part, .kv_type = type};
    uint32_t longest = 0;
    for (uint32_t i = 0; i < n_queries; i++) {
        c->q[i] = c->queries + i * head_dim;
        c->out[i] = c->outs + i * head_dim;
        c->tail[i] = c->slots[i];
        c->n_tail[i] = below(3) ? 0 : below(n_slots < 40 ? n_slots : 40);
        c->n_prefix[i] = below(4) ? n_slots / 2 + below(n_slots / 2 + 1) : below(n_slots + 1);
        for (uint32_t j = 0; j < c->n_tail[i]; j++)
            c->slots[i][j] = below(n_slots);
        longest = c->n_prefix[i] + c->n_tail[i] > longest ? c->n_prefix[i] + c->n_tail[i] : longest;
    }
    c->group.scratch_stride = ot_attn_scratch_floats(longest);
    c->n_scratch = n_queries * c->group.scratch_stride;
    c->scratch = c->group.scratch = guarded_floats(c->n_scratch);
    return c->queries && c->outs && c->scratch;
}

static void attention_close(attention_case *c)
{
    const size_t n = (size_t)c->group.n_queries * c->group.head_dim;
    ot_test_guarded_free(c->memory, N_UNITS * c->unit_bytes);
    free_floats(c->queries, n), free_floats(c->outs, n), free_floats(c->scratch, c->n_scratch);
}

/* The steps, each in random cuts and the last cut first. What scratch held before must reach nothing. */
static void run_steps(const ot_kernels *k, attention_case *c)
{
    static float z[MAX_QUERIES];
    ot_attn_group g = c->group;
    g.z = z;
    memset(z, 0xff, sizeof z);
    memset(c->scratch, 0xff, c->n_scratch * sizeof *c->scratch);
    for (uint32_t end = N_UNITS, begin; end > 0; end = begin)
        k->attention_scores(&g, begin = below(end), end);
    for (uint32_t end = g.n_queries, begin; end > 0; end = begin)
        k->attention_weights(&g, begin = below(end), end);
    for (uint32_t end = g.head_dim, begin; end > 0; end = begin)
        k->attention_values(&g, begin = below(end) / 16 * 16, end);
}

static void check_attention(uint32_t head_dim, uint32_t n_queries, uint32_t n_slots, ot_kv_type type)
{
    static attention_case c;
    static float expected[MAX_QUERIES * 256];
    const size_t n = (size_t)n_queries * head_dim;
    REQUIRE(attention_open(&c, head_dim, n_queries, n_slots, type));
    c.group.softcap = below(3) ? 0.0f : 3.0f;
    c.group.n_unseen = below(3) ? NULL : c.n_unseen;
    for (uint32_t i = 0; i < n_queries; i++)
        c.n_unseen[i] = below(2) ? 0 : below(c.n_prefix[i] + c.n_tail[i] + 1);
    ot_test_context("%s, head_dim %u, %u queries, %u slots, kv type %d", fast->name, head_dim, n_queries, n_slots, type);
    ref->attention(&c.group);
    memcpy(expected, c.outs, n * sizeof *expected);
    memset(c.outs, 0xff, n * sizeof *expected);
    fast->attention(&c.group);
    CHECK(same(c.outs, expected, n, "attention"));

    /* Each query alone. */
    memset(c.outs, 0xff, n * sizeof *expected);
    for (uint32_t i = 0; i < n_queries; i++) {
        ot_attn_group one = c.group;
        one.n_queries = 1;
        one.q += i, one.out += i, one.n_prefix += i, one.n_tail += i, one.tail += i;
        one.n_unseen = one.n_unseen != NULL ? one.n_unseen + i : NULL;
        fast->attention(&one);
    }
    CHECK(same(c.outs, expected, n, "attention, each query alone"));
    memset(c.outs, 0xff, n * sizeof *expected);
    run_steps(fast, &c);
    CHECK(same(c.outs, expected, n, "attention in steps"));
    attention_close(&c);
}

/* Against the definition in double: the seen keys of a prefix alone, scores through the cap. */
static void windows_and_caps_are_accurate(void)
{
    static attention_case c;
    static float scratch[2048];
    enum { HD = 32, KEYS = 700 };
    for (uint32_t unseen = 0; unseen < KEYS; unseen += 1 + below(220)) {
        double out[HD] = {0}, z = 0;
        REQUIRE(attention_open(&c, HD, 1, KEYS, OT_KV_F32));
        ot_test_context("%s, %u keys unseen", fast->name, unseen);
        c.n_prefix[0] = KEYS, c.n_tail[0] = 0, c.n_unseen[0] = unseen;
        c.group.n_unseen = c.n_unseen;
        c.group.scratch = scratch, c.group.scratch_stride = ot_attn_scratch_floats(KEYS);
        c.group.softcap = unseen & 1 ? 2.0f : 0.0f;
        for (uint32_t s = unseen; s < KEYS; s++) {
            const float *k = (const float *)(const void *)(c.pages[s / OT_PAGE_TOKENS] + c.group.k_offset);
            const float *v = (const float *)(const void *)(c.pages[s / OT_PAGE_TOKENS] + c.group.v_offset);
            double score = 0;
            for (uint32_t i = 0; i < HD; i++)
                score += (double)c.q[0][i] * k[i * OT_PAGE_TOKENS + s % OT_PAGE_TOKENS] * c.group.scale;
            const double p = exp(unseen & 1 ? 2.0 * tanh(score / 2.0) : score);
            z += p;
            for (uint32_t i = 0; i < HD; i++)
                out[i] += p * v[s % OT_PAGE_TOKENS * HD + i];
        }
        fast->attention(&c.group);
        for (uint32_t i = 0; i < HD; i++)
            CHECK_NEAR(c.out[0][i], out[i] / z, 2e-5);
        attention_close(&c);
    }
}

static void attention_matches(void)
{
    static const uint32_t dims[] = {1, 4, 8, 16, 20, 32, 48, 64, 72, 80, 96, 128, 256};
    for (unsigned i = 0; i < sizeof dims / sizeof *dims; i++)
        for (uint32_t n_queries = 1; n_queries <= 14; n_queries += 1 + below(3))
            check_attention(dims[i], n_queries, 1 + below(n_queries & 1 ? 100 : 40), n_queries & 2 ? OT_KV_F16 : OT_KV_F32);
    check_attention(64, 9, MAX_SLOTS, OT_KV_F16);
    for (uint32_t n_queries = 13; n_queries <= MAX_QUERIES; n_queries += 1 + below(12)) /* several tiles on a page */
        check_attention(dims[below(12)], n_queries, 1 + below(MAX_SLOTS), OT_KV_F16);
    check_attention(64, 6, 128, OT_KV_F32);
    for (uint32_t n_slots = OT_ATTN_CHUNK - 3; n_slots < MAX_SLOTS; n_slots += OT_ATTN_CHUNK / 2 + below(30)) /* chunks end in tails */
        check_attention(dims[5 + below(8)], 2 + below(12), n_slots, n_slots & 1 ? OT_KV_F32 : OT_KV_F16);
}

/* The plain softmax of keys [0, n) with query 0, and its weighted sum of values in `out`. `bits`: in the operations that one chunk is defined by. */
static void plain_attention(const attention_case *c, uint32_t n, bool bits, double *out)
{
    static float score[MAX_SLOTS], partial[16];
    const ot_attn_group *g = &c->group;
    const uint32_t hd = g->head_dim;
    double z = 0;
    memset(partial, 0, sizeof partial);
    for (uint32_t s = 0; s < n; s++) {
        const float *k = (const float *)(const void *)(c->pages[s / OT_PAGE_TOKENS] + g->k_offset);
        score[s] = 0;
        for (uint32_t i = 0; i < hd; i++)
            score[s] = fmaf(g->q[0][i], k[i * OT_PAGE_TOKENS + s % OT_PAGE_TOKENS], score[s]);
        score[s] *= g->scale;
    }
    const float most = ref->max(score, n);
    for (uint32_t s = 0; s < n; s++) {
        partial[s % 16] += ot_expf(score[s] - most);
        z += exp((double)score[s] - most);
    }
    for (int half = 8; half > 0; half /= 2)
        for (int j = 0; j < half; j++)
            partial[j] += partial[j + half];
    for (uint32_t i = 0; i < hd; i++) {
        float sum = 0;
        out[i] = 0;
        for (uint32_t s = 0; s < n; s++) {
            const float *v = (const float *)(const void *)(c->pages[s / OT_PAGE_TOKENS] + g->v_offset);
            const float value = v[s % OT_PAGE_TOKENS * hd + i];
            sum = fmaf(ot_expf(score[s] - most), value, sum);
            out[i] += exp((double)score[s] - most) / z * value;
        }
        if (bits)
            out[i] = sum * (1.0f / partial[0]);
    }
}

/* One chunk is the plain softmax, to the bit; more are it within rounding. Large scores make the chunks' maxima far apart. */
static void chunks_are_one_softmax(void)
{
    static attention_case c;
    static const uint32_t lengths_of_texts[] = {1, 31, 255, 256, 257, 511, 512, 513, MAX_SLOTS};
    for (unsigned t = 0; t < 2 * sizeof lengths_of_texts / sizeof *lengths_of_texts; t++) {
        const uint32_t n = lengths_of_texts[t / 2];
        double expected[64];
        REQUIRE(attention_open(&c, 64, 1, MAX_SLOTS, OT_KV_F32));
        c.n_prefix[0] = n, c.n_tail[0] = 0;
        free_floats(c.scratch, c.n_scratch);
        c.n_scratch = c.group.scratch_stride = ot_attn_scratch_floats(n);
        c.scratch = c.group.scratch = guarded_floats(c.n_scratch);
        for (int i = 0; t & 1 && i < 64; i++)
            c.queries[i] *= 20.0f;
        fast->attention(&c.group);
        plain_attention(&c, n, n <= OT_ATTN_CHUNK, expected);
        ot_test_context("%s, %u keys, %s scores", fast->name, n, t & 1 ? "large" : "ordinary");
        for (int i = 0; i < 64; i++)
            if (!CHECK_NEAR(c.outs[i], expected[i], n <= OT_ATTN_CHUNK ? 0 : t & 1 ? 1e-4 : 1e-6))
                break;
        attention_close(&c);
    }
}

/* Where keys are stored cannot matter: slots of the prefix, named as a tail, give the same bits. */
static void tails_equal_prefixes(void)
{
    static attention_case c;
    float expected[2 * 64];
    REQUIRE(attention_open(&c, 64, 2, 70, OT_KV_F16));
    memcpy((float *)c.q[1], c.q[0], 64 * sizeof(float));
    c.n_prefix[0] = 35, c.n_tail[0] = 0;
    c.n_prefix[1] = 3, c.n_tail[1] = 32;
    for (uint32_t j = 0; j < 32; j++)
        c.slots[1][j] = 3 + j;
    free_floats(c.scratch, c.n_scratch);
    c.group.scratch_stride = ot_attn_scratch_floats(35);
    c.n_scratch = 2 * c.group.scratch_stride;
    c.scratch = c.group.scratch = guarded_floats(c.n_scratch);
    fast->attention(&c.group);
    memcpy(expected, c.outs, sizeof expected);
    CHECK_SAME_FLOATS(expected + 64, expected, 64);
    attention_close(&c);
}

static void kv_store_matches(void)
{
    static const uint32_t dims[] = {1, 4, 15, 16, 17, 64, 80, 100};
    for (unsigned i = 0; i < 2 * sizeof dims / sizeof *dims; i++) {
        const uint32_t d = dims[i / 2], slot = below(OT_PAGE_TOKENS);
        const size_t part = (size_t)d * OT_PAGE_TOKENS * (i & 1 ? 2 : 4), size = (2 * part + 63) / 64 * 64;
        const ot_kv_type type = i & 1 ? OT_KV_F16 : OT_KV_F32;
        uint8_t *got = ot_test_guarded_alloc(size, 64), *expected = ot_test_guarded_alloc(size, 64);
        float *k = guarded_floats(d), *v = guarded_floats(d);
        REQUIRE(got && expected && k && v);
        memset(got, 0x55, size), memset(expected, 0x55, size);
        fill(k, d, ORDINARY), fill(v, d, i % 3 ? ORDINARY : ANYTHING);
        fast->kv_store(got, 0, part, slot, k, v, d, type);
        ref->kv_store(expected, 0, part, slot, k, v, d, type);
        ot_test_context("%s, head_dim %u, slot %u, kv type %d", fast->name, d, slot, type);
        CHECK_BYTES(got, size, expected, size);
        ot_test_guarded_free(got, size), ot_test_guarded_free(expected, size);
        free_floats(k, d), free_floats(v, d);
    }
}

/* ---- Training -------------------------------------------------------------------------------------------- */

static void check_gemm(uint32_t n_k, uint32_t n_m, uint32_t n_n, bool transposed, bool accumulate)
{
    const size_t a_rows = transposed ? n_k : n_m, a_width = transposed ? n_m : n_k;
    const size_t a_stride = a_width + below(3), b_stride = n_n + below(3), c_stride = n_n + below(3);
    const size_t a_size = a_rows ? (a_rows - 1) * a_stride + a_width : 0, b_size = n_k ? (n_k - 1) * b_stride + n_n : 0;
    const size_t c_size = (n_m - 1) * c_stride + n_n;
    float *a = guarded_floats(a_size), *b = guarded_floats(b_size), *got = guarded_floats(c_size);
    float *expected = guarded_floats(c_size);
    const uint32_t cut = below(n_m + 1);
    REQUIRE(a && b && got && expected);
    fill(a, a_size, ORDINARY), fill(b, b_size, ORDINARY), fill(got, c_size, ORDINARY);
    memcpy(expected, got, c_size * sizeof *got);
    (transposed ? ref->gemm_tn : ref->gemm_nn)(expected, c_stride, a, a_stride, b, b_stride, n_k, 0, n_m, n_n, accumulate);
    for (int part = 0; part < 2; part++) /* in two cuts */
        (transposed ? fast->gemm_tn : fast->gemm_nn)(got, c_stride, a, a_stride, b, b_stride, n_k, part ? cut : 0,
                                                     part ? n_m : cut, n_n, accumulate);
    ot_test_context("%s, %u x %u, %u deep, accumulate %d", fast->name, n_m, n_n, n_k, accumulate);
    CHECK(same(got, expected, c_size, transposed ? "gemm_tn" : "gemm_nn"));
    free_floats(a, a_size), free_floats(b, b_size), free_floats(got, c_size), free_floats(expected, c_size);
}

static void gradient_products_match(void)
{
    static const uint32_t depths[] = {0, 1, 2, 33, 127, 128, 129, 300};
    for (int i = 0; i < 96; i++)
        check_gemm(depths[i % 8], 1 + below(i % 3 ? 20 : 40), 1 + below(i % 4 ? 35 : 100), i & 8, i & 16);
    check_gemm(300, 211, 50, true, false); /* several blocks of rows */
    check_gemm(200, 500, 40, false, true);
}

/* ---- Running --------------------------------------------------------------------------------------------- */

static void run_set(const ot_kernels *set)
{
    fast = set;
    printf("---- %s\n", set->name);
    RUN(exp_of_vectors_is_exp_of_scalars);
    RUN(vectors_match);
    RUN(long_sums_match);
    RUN(gelu_is_accurate);
    RUN(layer_norm_is_accurate);
    RUN(max_ignores_nan);
    RUN(rope_matches);
    RUN(quantize_matches);
    RUN(quantized_rows_are_near);
    RUN(products_match);
    RUN(kv_store_matches);
    RUN(attention_matches);
    RUN(windows_and_caps_are_accurate);
    RUN(chunks_are_one_softmax);
    RUN(tails_equal_prefixes);
    RUN(gradient_products_match);
}

int main(int argc, char **argv)
{
    static const unsigned masks[] = {0, OT_CPU_AVX2, OT_CPU_AVX2 | OT_CPU_AVX512, ~0u};
    const ot_kernels *last = NULL;

    ot_test_start(argc, argv);
    rng.state = ot_test_seed(20240607);
    ref = ot_kernels_select(0);
    CHECK_STR(ref->name, "c");
    fast = ref;
    RUN(exp_is_accurate);
    RUN(packed_rows_are_the_files_rows);
    RUN(packing_refuses_half_blocks);
    RUN(repacking_is_packing);
    for (unsigned i = 0; i < sizeof masks / sizeof *masks; i++) {
        const ot_kernels *set = ot_kernels_select(masks[i]);
        if (set != last) /* a machine without a set gets the one below again */
            run_set(set);
        last = set;
    }
    return ot_test_finish();
}
