/* Quantisation: the formats that this project writes (insertions, test models). Layouts are in quants.c.
 *
 * Scales come from the block's extremes and quants are rounded with the unrounded float32 scale, as ggml's reference does, so that
 * files made here and there agree to the bit. */
#include <math.h>
#include <string.h>

#include "gguf/gguf.h"

static void store_half(uint8_t *p, float f)
{
    const uint16_t h = ot_f32_to_f16(f);
    memcpy(p, &h, sizeof h);
}

/* NaN and what is out of range end at the nearest bound: converting them as they are would be undefined. */
static int clamped(float x, int low, int high)
{
    if (!(x > (float)low))
        return low;
    return x < (float)high ? (int)x : high;
}

static float inverse(float d)
{
    return d != 0 ? 1.0f / d : 0.0f;
}

/* d = (the element of largest magnitude, with its sign) / -8, so that this element is exact at q = 0. */
static void encode_q4_0(const float *src, uint8_t *dst)
{
    float extreme = 0;
    for (int i = 0; i < 32; i++)
        if (fabsf(src[i]) > fabsf(extreme))
            extreme = src[i];
    const float d = extreme / -8.0f, id = inverse(d);
    store_half(dst, d);
    for (int i = 0; i < 16; i++) {
        const int low = clamped(src[i] * id + 8.5f, 0, 15), high = clamped(src[i + 16] * id + 8.5f, 0, 15);
        dst[2 + i] = (uint8_t)(low | high << 4);
    }
}

static void encode_q4_1(const float *src, uint8_t *dst)
{
    float least = src[0], most = src[0];
    for (int i = 1; i < 32; i++) {
        least = src[i] < least ? src[i] : least;
        most = src[i] > most ? src[i] : most;
    }
    const float d = (most - least) / 15.0f, id = inverse(d);
    store_half(dst, d);
    store_half(dst + 2, least);
    for (int i = 0; i < 16; i++) {
        const int low = clamped((src[i] - least) * id + 0.5f, 0, 15);
        const int high = clamped((src[i + 16] - least) * id + 0.5f, 0, 15);
        dst[4 + i] = (uint8_t)(low | high << 4);
    }
}

/* Rounds half away from zero. */
static void encode_q8_0(const float *src, uint8_t *dst)
{
    float extreme = 0;
    for (int i = 0; i < 32; i++)
        extreme = fabsf(src[i]) > extreme ? fabsf(src[i]) : extreme;
    const float d = extreme / 127.0f, id = inverse(d);
    store_half(dst, d);
    for (int i = 0; i < 32; i++)
        dst[2 + i] = (uint8_t)(int8_t)clamped(roundf(src[i] * id), -127, 127);
}

static void each_block(void (*one)(const float *, uint8_t *), ot_type type, const float *src, uint8_t *dst, size_t n)
{
    const uint32_t block = ot_type_block(type), bytes = ot_type_block_bytes(type);
    for (size_t i = 0; i < n / block; i++)
        one(src + i * block, dst + i * bytes);
}

static void each_half(uint16_t (*one)(float), const float *src, uint8_t *dst, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const uint16_t h = one(src[i]);
        memcpy(dst + 2 * i, &h, sizeof h);
    }
}

ot_status ot_quantize(ot_type type, const float *src, void *dst, size_t n, ot_error *err)
{
    const uint32_t block = ot_type_block(type);
    if (block != 0 && n % block != 0)
        return ot_fail(err, OT_ERR_INVALID, "%zu floats are not a multiple of %u, the block of %s", n, block,
                       ot_type_name(type));
    switch (type) {
    case OT_TYPE_F32: memcpy(dst, src, n * sizeof *src); return OT_OK;
    case OT_TYPE_F16: each_half(ot_f32_to_f16, src, dst, n); return OT_OK;
    case OT_TYPE_BF16: each_half(ot_f32_to_bf16, src, dst, n); return OT_OK;
    case OT_TYPE_Q4_0: each_block(encode_q4_0, type, src, dst, n); return OT_OK;
    case OT_TYPE_Q4_1: each_block(encode_q4_1, type, src, dst, n); return OT_OK;
    case OT_TYPE_Q8_0: each_block(encode_q8_0, type, src, dst, n); return OT_OK;
    default: break;
    }
    return ot_fail(err, OT_ERR_UNSUPPORTED, "cannot quantise to type %u (%s): only F32, F16, BF16, Q8_0, Q4_0 and Q4_1",
                   (unsigned)type, ot_type_name(type));
}
