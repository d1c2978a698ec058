/* Element types: dequantisation to the bit against ggml's reference, quantisation, and half conversions against first principles.
 *
 * The table of vectors was printed by tests/golden/quant-vectors.py from the NumPy reference of the package gguf. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "gguf/gguf.h"
#include "tests/support/test-support.h"

#define N_BLOCKS 64
#define MAX_BLOCK_BYTES 210
#define N_FLOATS (32 * 64)

/* The top exponent bit of every half in a random block is cleared, so that it is finite. Offsets of the halves; -1: none. */
typedef struct vector {
    ot_type type;
    uint64_t values_hash;  /* FNV-1a of the N_BLOCKS dequantised blocks */
    uint64_t encoded_hash; /* FNV-1a of test_floats, quantised; 0: not a type that is quantised to */
    float some[5];         /* elements 0, 17, 31, n / 2 + 7, n - 1 */
} vector;

static const vector vectors[] = {
    {OT_TYPE_F16, 0xe98846922c1ba8ce, 0xdb022be2fa016964,
     {0x1.35p-9f, -0x1.404p-3f, 0x1.bacp-14f, -0x1.454p-14f, 0x1.d5cp+0f}},
    {OT_TYPE_BF16, 0xc7a9f3572de1c5a7, 0x548b1d429a2aad01,
     {0x1.72p-75f, 0x1.32p-116f, -0x1.24p-82f, 0x1.18p-77f, 0x1.74p+0f}},
    {OT_TYPE_Q4_0, 0x9798149dc5327d60, 0x53ca36b1a45ec96e,
     {-0x1.bf4p-10f, 0x1.bf4p-11f, 0x1.bf4p-11f, 0x1.004p+3f, 0x1.a34p-2f}},
    {OT_TYPE_Q4_1, 0xad2d98d4bf709e71, 0x40bb3872f00790a1,
     {0x1.09p-2f, 0x1.ep-2f, 0x1.c7p-1f, -0x1.402p-5f, 0x1.a4p-5f}},
    {OT_TYPE_Q5_0, 0xd2a6f5637fc45967, 0,
     {0x1.9718p-2f, 0x1.22c8p-2f, 0x1.5cfp-2f, 0x0p+0f, 0x1.458p+3f}},
    {OT_TYPE_Q5_1, 0xfec5d1049a928249, 0,
     {0x1.4864p+3f, 0x1.3ebep+4f, 0x1.49c8p+4f, -0x1.3c1ab2p+1f, -0x1.85cp-10f}},
    {OT_TYPE_Q8_0, 0xded7c8258cab678d, 0xe08cd7cf003deba4,
     {0x1.0932p+5f, -0x1.f554p+4f, -0x1.3128p+3f, 0x1.01eep-5f, -0x1.1f5bp-6f}},
    {OT_TYPE_Q4_K, 0x7630bdeac15674de, 0,
     {0x1.40064p+8f, 0x1.746e8p+7f, 0x1.a7b9p+6f, -0x1.032p+1f, 0x1.949b2p+1f}},
    {OT_TYPE_Q5_K, 0x503af69b2a1c3373, 0,
     {-0x1.5a6b8p+2f, -0x1.c693cp+3f, -0x1.019ecp+3f, -0x1.6e6cp-4f, -0x1.1b2c4p-2f}},
    {OT_TYPE_Q6_K, 0x10e65f420391506a, 0,
     {-0x1.4d78cp+9f, -0x1.86f78p+9f, 0x1.d529p+8f, -0x1.1d168p+8f, 0x1.9f5ccp+8f}},
    {OT_TYPE_Q2_K, 0xc6a88573448a1b3b, 0,
     {0x1.b9d8p-9f, -0x1.10c7p-4f, 0x1.269p-8f, -0x1.09584p-6f, -0x1.2cfp+0f}},
    {OT_TYPE_Q3_K, 0xbc93bb03014d793d, 0,
     {0x1.6608p-11f, -0x1.e084p-10f, 0x1.4058p-10f, 0x1.7d6p+1f, 0x0p+0f}},
    {OT_TYPE_IQ4_NL, 0xda8593ac38f4a44c, 0,
     {-0x1.99fcp-1f, 0x1.0855p+0f, 0x1.5ea5p+0f, 0x1.7412p-8f, -0x1.2458p-3f}},
    {OT_TYPE_IQ4_XS, 0xc31ea11b7fa3f3fd, 0,
     {0x1.73b35p+0f, 0x1.305d08p+1f, 0x1.0d592p-1f, -0x1.9b978p+0f, -0x1.0be6p+3f}},
    {OT_TYPE_MXFP4, 0x403069169ca3b066, 0,
     {0x1p+100f, 0x1p+98f, 0x0p+0f, 0x1p+50f, 0x1p+50f}},
};
#define N_VECTORS (sizeof vectors / sizeof vectors[0])

static uint64_t fnv1a(const void *data, size_t n)
{
    const uint8_t *bytes = data;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}

static size_t random_blocks(ot_type type, uint8_t *dst)
{
    const size_t each = ot_type_block_bytes(type);
    ot_test_rng rng = {1000 + (uint64_t)type};
    for (size_t i = 0; i < N_BLOCKS * each; i++)
        dst[i] = (uint8_t)ot_test_rng_next(&rng);
    const bool has_minimum = type == OT_TYPE_Q4_1 || type == OT_TYPE_Q5_1 || type == OT_TYPE_Q4_K || type == OT_TYPE_Q5_K || type == OT_TYPE_Q2_K;
    const size_t half = type == OT_TYPE_Q6_K ? 208 : type == OT_TYPE_Q2_K ? 80 : type == OT_TYPE_Q3_K ? 108 : 0;
    for (uint8_t *block = dst; block < dst + N_BLOCKS * each && type != OT_TYPE_MXFP4; block += each) {
        block[half + 1] &= 0xbf;
        if (has_minimum)
            block[half + 3] &= 0xbf;
    }
    return N_BLOCKS * ot_type_block(type);
}

static void dequantises_as_the_reference(void)
{
    static uint8_t blocks[N_BLOCKS * MAX_BLOCK_BYTES];
    static float values[N_BLOCKS * 256];
    for (size_t v = 0; v < N_VECTORS; v++) {
        const size_t n = random_blocks(vectors[v].type, blocks), at[5] = {0, 17, 31, n / 2 + 7, n - 1};
        ot_test_context("%s", ot_type_name(vectors[v].type));
        ot_dequantize(vectors[v].type, blocks, values, n);
        for (int i = 0; i < 5; i++)
            CHECK_SAME_FLOATS(&values[at[i]], &vectors[v].some[i], 1);
        CHECK_UINT(fnv1a(values, n * sizeof *values), vectors[v].values_hash);
    }
}

/* As floats() of the generator: scales 2^-6 ... 2^5, then a block of zeros, a constant one, and one with a single element. */
static void test_floats(float x[N_FLOATS])
{
    ot_test_rng rng = {7};
    memset(x, 0, N_FLOATS * sizeof *x);
    for (int i = 0; i < 32 * 61; i++)
        x[i] = ldexpf((float)((int64_t)(ot_test_rng_next(&rng) >> 40) - (1 << 23)), i / 32 % 12 - 6 - 23);
    for (int i = 0; i < 32; i++)
        x[32 * 62 + i] = 1.25f;
    x[32 * 63 + 3] = -5.0f;
}

static void quantises_as_the_reference(void)
{
    static float x[N_FLOATS];
    static uint8_t encoded[N_FLOATS * 4];
    ot_error err;
    test_floats(x);
    for (size_t v = 0; v < N_VECTORS; v++) {
        const ot_type type = vectors[v].type;
        ot_test_context("%s", ot_type_name(type));
        if (vectors[v].encoded_hash == 0) {
            CHECK_STATUS(ot_quantize(type, x, encoded, N_FLOATS, &err), OT_ERR_UNSUPPORTED, &err);
            CHECK_CONTAINS(err.message, ot_type_name(type));
            continue;
        }
        REQUIRE_OK(ot_quantize(type, x, encoded, N_FLOATS, &err), &err);
        const size_t bytes = N_FLOATS / ot_type_block(type) * ot_type_block_bytes(type);
        CHECK_UINT(fnv1a(encoded, bytes), vectors[v].encoded_hash);
    }
}

/* The error of a block is at most half a step (Q4_0: its range ends at 7 steps, so a whole one), and what half precision takes
 * from the scale. */
static void quantisation_error_is_bounded(void)
{
    static const struct { ot_type type; float steps, worst; } cases[] = {
        {OT_TYPE_Q8_0, 127, 0.5f}, {OT_TYPE_Q4_1, 15, 0.5f}, {OT_TYPE_Q4_0, 8, 1.0f}};
    static float x[N_FLOATS], back[N_FLOATS];
    static uint8_t encoded[N_FLOATS * 4];
    ot_error err;
    test_floats(x);
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        ot_test_context("%s", ot_type_name(cases[c].type));
        REQUIRE_OK(ot_quantize(cases[c].type, x, encoded, N_FLOATS, &err), &err);
        ot_dequantize(cases[c].type, encoded, back, N_FLOATS);
        for (int block = 0; block < N_FLOATS / 32; block++) {
            float least = 0, most = 0, worst = 0;
            for (int i = 32 * block; i < 32 * block + 32; i++) {
                least = fminf(least, x[i]);
                most = fmaxf(most, x[i]);
                worst = fmaxf(worst, fabsf(back[i] - x[i]));
            }
            const float range = cases[c].type == OT_TYPE_Q4_1 ? most - least : fmaxf(most, -least);
            CHECK_NEAR(worst, 0, range / cases[c].steps * cases[c].worst + range * 0x1p-10f);
        }
    }
}

/* Infinities and NaN cannot be kept by block formats; the call must stay defined and the neighbours' blocks as they are. */
static void quantises_what_is_not_finite(void)
{
    static const ot_type types[] = {OT_TYPE_Q8_0, OT_TYPE_Q4_0, OT_TYPE_Q4_1};
    float x[96], back[96];
    uint8_t encoded[3 * 34];
    ot_error err;
    for (size_t t = 0; t < 3; t++) {
        ot_test_context("%s", ot_type_name(types[t]));
        for (int i = 0; i < 96; i++)
            x[i] = 1.0f;
        x[40] = NAN;
        x[41] = INFINITY;
        x[42] = -INFINITY;
        x[43] = 3e38f;
        REQUIRE_OK(ot_quantize(types[t], x, encoded, 96, &err), &err);
        ot_dequantize(types[t], encoded, back, 96);
        CHECK_NEAR(back[5], 1, 0.01);
        CHECK_NEAR(back[90], 1, 0.01);
    }
}

/* ---- Fitted scales ---- */

static const ot_type fitted_types[] = {OT_TYPE_Q4_0, OT_TYPE_Q4_1, OT_TYPE_Q5_0, OT_TYPE_Q5_1};
enum { N_FITTED = sizeof fitted_types / sizeof fitted_types[0] };

static double squared_error(const float *x, const float *back, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += ((double)x[i] - back[i]) * ((double)x[i] - back[i]);
    return sum;
}

/* Blocks of a bell shape, of which extremes are far out: the sum of four uniform numbers. */
static void bell_floats(float *x, int n, uint64_t seed)
{
    ot_test_rng rng = {seed};
    for (int i = 0; i < n; i++) {
        x[i] = 0;
        for (int k = 0; k < 4; k++)
            x[i] += ldexpf((float)((int64_t)(ot_test_rng_next(&rng) >> 40) - (1 << 23)), -23);
    }
}

/* No block is worse than by its extremes, and a bell shape is better by a good part. */
static void fitted_scales_have_less_error(void)
{
    static float x[N_FLOATS], by_extremes[N_FLOATS], fitted[N_FLOATS];
    static uint8_t encoded[N_FLOATS * 4];
    static const ot_type types[] = {OT_TYPE_Q4_0, OT_TYPE_Q4_1};
    ot_error err;
    for (int shape = 0; shape < 2; shape++) {
        if (shape == 0)
            test_floats(x);
        else
            bell_floats(x, N_FLOATS, 11);
        for (size_t t = 0; t < 2; t++) {
            double before = 0, after = 0;
            REQUIRE_OK(ot_quantize(types[t], x, encoded, N_FLOATS, &err), &err);
            ot_dequantize(types[t], encoded, by_extremes, N_FLOATS);
            REQUIRE_OK(ot_quantize_fitted(types[t], x, encoded, N_FLOATS, &err), &err);
            ot_dequantize(types[t], encoded, fitted, N_FLOATS);
            for (int i = 0; i < N_FLOATS; i += 32) {
                ot_test_context("%s, shape %d, block %d", ot_type_name(types[t]), shape, i / 32);
                const double a = squared_error(x + i, by_extremes + i, 32), b = squared_error(x + i, fitted + i, 32);
                CHECK(b <= a);
                before += a;
                after += b;
            }
            ot_test_context("%s, shape %d: %g against %g", ot_type_name(types[t]), shape, after, before);
            CHECK(shape == 0 || after < 0.9 * before);
        }
    }
    ot_test_context(NULL);
}

/* The root of a block's mean squared error is at most half a step of its range (of the symmetric types, whose range ends a step
 * earlier at one side, a whole one), and what half precision takes. */
static void fitted_error_is_bounded(void)
{
    static float x[N_FLOATS], back[N_FLOATS];
    static uint8_t encoded[N_FLOATS * 4];
    ot_error err;
    test_floats(x);
    for (size_t t = 0; t < N_FITTED; t++) {
        const ot_type type = fitted_types[t];
        const bool about_zero = type == OT_TYPE_Q4_0 || type == OT_TYPE_Q5_0;
        const float top = type == OT_TYPE_Q4_0 || type == OT_TYPE_Q4_1 ? 15 : 31;
        REQUIRE_OK(ot_quantize_fitted(type, x, encoded, N_FLOATS, &err), &err);
        ot_dequantize(type, encoded, back, N_FLOATS);
        for (int i = 0; i < N_FLOATS; i += 32) {
            float least = x[i], most = x[i], largest;
            for (int j = i; j < i + 32; j++) {
                least = fminf(least, x[j]);
                most = fmaxf(most, x[j]);
            }
            largest = fmaxf(most, -least);
            ot_test_context("%s, block %d", ot_type_name(type), i / 32);
            const float step = about_zero ? 2 * largest / top : (most - least) / top / 2;
            CHECK_NEAR(sqrt(squared_error(x + i, back + i, 32) / 32), 0, step + largest * 0x1p-10f);
        }
    }
    ot_test_context(NULL);
}

/* A block that the type can hold comes back to the bit: of random codes, with both ends among them, and of zeros. */
static void fitted_blocks_return(void)
{
    ot_test_rng rng = {23};
    for (size_t t = 0; t < N_FITTED; t++) {
        const ot_type type = fitted_types[t];
        const bool about_zero = type == OT_TYPE_Q4_0 || type == OT_TYPE_Q5_0;
        const int top = type == OT_TYPE_Q4_0 || type == OT_TYPE_Q4_1 ? 15 : 31;
        for (int k = 0; k < 50; k++) {
            const float d = ldexpf((float)(1024 + ot_test_rng_below(&rng, 64) * 16), -14), m = -d * (float)(about_zero ? (top + 1) / 2 : 7);
            float x[32], back[32];
            uint8_t encoded[32];
            ot_error err;
            for (int i = 0; i < 32; i++)
                x[i] = k == 0 ? 0 : d * (float)(i == 3 ? 0 : i == 20 ? top : (int)ot_test_rng_below(&rng, (uint32_t)top + 1)) + m;
            ot_test_context("%s, block %d", ot_type_name(type), k);
            REQUIRE_OK(ot_quantize_fitted(type, x, encoded, 32, &err), &err);
            ot_dequantize(type, encoded, back, 32);
            for (int i = 0; i < 32; i++)
                CHECK_NEAR(back[i], x[i], 0);
        }
    }
    ot_test_context(NULL);
}

/* The ends of what the scales hold, and ranges that no half can divide. */
static void fitted_extremes(void)
{
    static const float worst[] = {65504.0f, -65504.0f, 0x1p-24f, -0x1p-24f, 1e-30f, -1e-30f, 0x1p-149f};
    for (size_t t = 0; t < N_FITTED; t++)
        for (size_t k = 0; k < 7; k++)
            for (int both = 0; both < 2; both++) {
                float x[32] = {0}, back[32];
                uint8_t encoded[32];
                ot_error err;
                x[5] = worst[k];
                x[6] = both ? -worst[k] : 0;
                ot_test_context("%s of %g, %d", ot_type_name(fitted_types[t]), (double)worst[k], both);
                REQUIRE_OK(ot_quantize_fitted(fitted_types[t], x, encoded, 32, &err), &err);
                ot_dequantize(fitted_types[t], encoded, back, 32);
                for (int i = 0; i < 32; i++)
                    CHECK_NEAR(back[i], x[i], fabs((double)worst[k]) / 3 + 0x1p-20);
            }
    ot_test_context(NULL);
}

static void fitted_refuses_what_has_no_scale(void)
{
    const float bad[] = {NAN, INFINITY, -INFINITY, 65536.0f, -3e38f};
    for (size_t t = 0; t < N_FITTED; t++)
        for (size_t k = 0; k < sizeof bad / sizeof bad[0]; k++) {
            float x[64] = {0};
            uint8_t encoded[64];
            ot_error err = {0};
            x[41] = bad[k];
            CHECK_STATUS(ot_quantize_fitted(fitted_types[t], x, encoded, 64, &err), OT_ERR_INVALID, &err);
            CHECK_CONTAINS(err.message, "element 41");
            CHECK_STATUS(ot_quantize_fitted(fitted_types[t], x, encoded, 33, &err), OT_ERR_INVALID, &err);
            CHECK_CONTAINS(err.message, "33 floats");
        }
    float x[32] = {1.5f, -2}, back[32];
    ot_error err;
    uint8_t encoded[64];
    REQUIRE_OK(ot_quantize_fitted(OT_TYPE_F16, x, encoded, 32, &err), &err);
    ot_dequantize(OT_TYPE_F16, encoded, back, 32);
    CHECK_SAME_FLOATS(back, x, 32);
    CHECK_STATUS(ot_quantize_fitted(OT_TYPE_Q4_K, x, encoded, 0, &err), OT_ERR_UNSUPPORTED, &err);
}

static void refuses_parts_of_blocks(void)
{
    float x[64] = {0};
    uint8_t dst[256];
    ot_error err = {0};
    CHECK_STATUS(ot_quantize(OT_TYPE_Q8_0, x, dst, 33, &err), OT_ERR_INVALID, &err);
    CHECK_CONTAINS(err.message, "33 floats");
    CHECK_STATUS(ot_quantize((ot_type)77, x, dst, 32, &err), OT_ERR_UNSUPPORTED, &err);
    CHECK_CONTAINS(err.message, "77");
    CHECK_OK(ot_quantize(OT_TYPE_Q8_0, x, dst, 0, &err), &err);
}

static void knows_its_types(void)
{
    static const struct { uint32_t type; const char *name; uint32_t block, bytes; bool known; } cases[] = {
        {0, "F32", 1, 4, true},      {1, "F16", 1, 2, true},      {30, "BF16", 1, 2, true},    {2, "Q4_0", 32, 18, true},
        {3, "Q4_1", 32, 20, true},   {6, "Q5_0", 32, 22, true},   {7, "Q5_1", 32, 24, true},   {8, "Q8_0", 32, 34, true},
        {12, "Q4_K", 256, 144, true}, {13, "Q5_K", 256, 176, true}, {14, "Q6_K", 256, 210, true},
        {10, "Q2_K", 256, 84, true}, {11, "Q3_K", 256, 110, true}, {20, "IQ4_NL", 32, 18, true}, {23, "IQ4_XS", 256, 136, true},
        {39, "MXFP4", 32, 17, true}, {16, "IQ2_XXS", 256, 66, false}, {29, "IQ1_M", 256, 56, false},
        {4, "?", 0, 0, false},       {31, "?", 0, 0, false},      {99, "?", 0, 0, false},      {0xffffffff, "?", 0, 0, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const ot_type type = (ot_type)cases[i].type;
        ot_test_context("type %u", cases[i].type);
        CHECK_STR(ot_type_name(type), cases[i].name);
        CHECK_UINT(ot_type_block(type), cases[i].block);
        CHECK_UINT(ot_type_block_bytes(type), cases[i].bytes);
        CHECK_INT(ot_type_known(cases[i].type), cases[i].known);
    }
}

/* A type that cannot be computed with must not look like weights. */
static void dequantises_unknown_types_to_nan(void)
{
    uint8_t block[84] = {0};
    float values[256] = {0};
    ot_dequantize((ot_type)16, block, values, 256);
    CHECK(isnan(values[0]) && isnan(values[255]));
}

/* ---- Half and bfloat16 ---- */

/* The value of a finite half by its definition. */
static float half_value(uint16_t h)
{
    const int exponent = (h >> 10) & 31, mantissa = h & 1023;
    const float magnitude = exponent == 0 ? ldexpf((float)mantissa, -24) : ldexpf((float)(1024 + mantissa), exponent - 25);
    return h & 0x8000 ? -magnitude : magnitude;
}

static void halves_have_their_values(void)
{
    for (uint32_t h = 0; h < 0x10000; h++) {
        if ((h & 0x7c00) == 0x7c00)
            continue;
        const float actual = ot_f16_to_f32((uint16_t)h), expected = half_value((uint16_t)h);
        ot_test_context("half 0x%04x", h);
        if (!CHECK_SAME_FLOATS(&actual, &expected, 1) || !CHECK_UINT(ot_f32_to_f16(actual), h))
            return;
    }
    CHECK(ot_f16_to_f32(0x7c00) == INFINITY);
    CHECK(ot_f16_to_f32(0xfc00) == -INFINITY);
    CHECK(isnan(ot_f16_to_f32(0x7c01)) && isnan(ot_f16_to_f32(0xffff)));
}

/* Between any two neighbours: the middle goes to the even one, and the floats beside the middle to the nearer. */
static void halves_round_to_nearest_even(void)
{
    for (uint32_t h = 0; h < 0x7c00; h++) {
        const float low = half_value((uint16_t)h), high = h == 0x7bff ? 65536.0f : half_value((uint16_t)(h + 1));
        const float middle = low + (high - low) / 2;
        ot_test_context("after half 0x%04x", h);
        if (!CHECK_UINT(ot_f32_to_f16(middle), h + (h & 1)) || !CHECK_UINT(ot_f32_to_f16(nextafterf(middle, 0)), h) ||
            !CHECK_UINT(ot_f32_to_f16(nextafterf(middle, INFINITY)), h + 1) ||
            !CHECK_UINT(ot_f32_to_f16(-middle), 0x8000 | (h + (h & 1))))
            return;
    }
    CHECK_UINT(ot_f32_to_f16(3.4e38f), 0x7c00);
    CHECK_UINT(ot_f32_to_f16(-INFINITY), 0xfc00);
    CHECK_UINT(ot_f32_to_f16(1e-45f), 0);
    CHECK_UINT(ot_f32_to_f16(-0.0f), 0x8000);
    CHECK((ot_f32_to_f16(NAN) & 0x7fff) > 0x7c00);
}

static float from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static void bfloats_round_to_nearest_even(void)
{
    for (uint32_t b = 0; b < 0x7f80; b++) {
        const uint32_t bits = b << 16;
        const float value = from_bits(bits), actual = ot_bf16_to_f32((uint16_t)b);
        ot_test_context("bfloat 0x%04x", b);
        if (!CHECK_SAME_FLOATS(&actual, &value, 1) || !CHECK_UINT(ot_f32_to_bf16(value), b) ||
            !CHECK_UINT(ot_f32_to_bf16(from_bits(bits | 0x7fff)), b) ||
            !CHECK_UINT(ot_f32_to_bf16(from_bits(bits | 0x8000)), b + (b & 1)) ||
            !CHECK_UINT(ot_f32_to_bf16(-from_bits(bits | 0x8001)), 0x8000 | (b + 1)))
            return;
    }
    CHECK_UINT(ot_f32_to_bf16(INFINITY), 0x7f80);
    CHECK((ot_f32_to_bf16(from_bits(0x7f800001)) & 0x7fff) > 0x7f80);
    CHECK((ot_f32_to_bf16(from_bits(0xffffffff)) & 0x7fff) > 0x7f80);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(dequantises_as_the_reference);
    RUN(quantises_as_the_reference);
    RUN(quantisation_error_is_bounded);
    RUN(quantises_what_is_not_finite);
    RUN(fitted_scales_have_less_error);
    RUN(fitted_error_is_bounded);
    RUN(fitted_blocks_return);
    RUN(fitted_extremes);
    RUN(fitted_refuses_what_has_no_scale);
    RUN(refuses_parts_of_blocks);
    RUN(knows_its_types);
    RUN(dequantises_unknown_types_to_nan);
    RUN(halves_have_their_values);
    RUN(halves_round_to_nearest_even);
    RUN(bfloats_round_to_nearest_even);
    return ot_test_finish();
}
