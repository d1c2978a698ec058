/* Dequantisation of every known block format to float32.
 *
 * A block holds 32 elements (Q4_0 ... Q8_0) or a super-block of 256 (the K types) and its scales in half precision. Bytes are addressed by
 * offset, since blocks in a file are aligned to two bytes at most. Layouts, in file order:
 *
 *   Q4_0   d  qs[16]                        d * (q - 8)       element i in the low nibble of qs[i], i + 16 in the high one
 *   Q4_1   d m  qs[16]                      d * q + m
 *   Q5_0   d  qh[4] qs[16]                  d * (q - 16)      bit i of qh is the fifth bit of element i
 *   Q5_1   d m  qh[4] qs[16]                d * q + m
 *   Q8_0   d  qs[32]                        d * q
 *   IQ4_NL d  qs[16]                        d * iq4[q]        nibbles as in Q4_0, which are entries of a table
 *   MXFP4  e  qs[16]                        2^(e - 128) * (twice the E2M1 number q), nibbles as in Q4_0
 *   Q2_K   scales[16] qs[64] d dmin         (d * sc) * q - (dmin * mn), sixteen sub-blocks of 16, sc and mn the nibbles of a byte
 *   Q3_K   hmask[32] qs[64] scales[12] d    (d * (sc - 32)) * (q - 4), sixteen sub-blocks of 16 with 6-bit sc
 *   Q4_K   d dmin  scales[12] qs[128]       (d * sc) * q - (dmin * mn), eight sub-blocks of 32 with 6-bit sc and mn
 *   Q5_K   d dmin  scales[12] qh[32] qs[128]
 *   Q6_K   ql[128] qh[64] scales[16] d      (d * sc) * (q - 32), sixteen sub-blocks of 16
 *   IQ4_XS d scales_h scales_l[4] qs[128]   (d * (sc - 32)) * iq4[q], eight sub-blocks of 32 with 6-bit sc, each with nibbles as in Q4_0
 *
 * The parentheses are the order of the float32 operations, and products are not fused with sums (-ffp-contract=off): the values are
 * those of ggml's reference, to the bit. Source: the block structures and dequantize_row_* of ggml. */
#include <math.h>
#include <string.h>

#include "gguf/gguf.h"

#define BLOCK 32

static float load_half(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return ot_f16_to_f32(h);
}

static void dequantize_f16(const uint8_t *src, float *dst, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = load_half(src + 2 * i);
}

static void dequantize_bf16(const uint8_t *src, float *dst, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t b;
        memcpy(&b, src + 2 * i, sizeof b);
        dst[i] = ot_bf16_to_f32(b);
    }
}

static void block_q4_0(const uint8_t *src, float *dst)
{
    const float d = load_half(src);
    for (int i = 0; i < 16; i++) {
        dst[i] = d * (float)((src[2 + i] & 15) - 8);
        dst[i + 16] = d * (float)((src[2 + i] >> 4) - 8);
    }
}

static void block_q4_1(const uint8_t *src, float *dst)
{
    const float d = load_half(src), m = load_half(src + 2);
    for (int i = 0; i < 16; i++) {
        dst[i] = d * (float)(src[4 + i] & 15) + m;
        dst[i + 16] = d * (float)(src[4 + i] >> 4) + m;
    }
}

/* The 5-bit number of element i: qh and qs as in the layout above. */
static int five_bits(const uint8_t *qh, const uint8_t *qs, int i)
{
    const int low = i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
    return low | ((qh[i / 8] >> (i % 8)) & 1) << 4;
}

static void block_q5_0(const uint8_t *src, float *dst)
{
    const float d = load_half(src);
    for (int i = 0; i < BLOCK; i++)
        dst[i] = d * (float)(five_bits(src + 2, src + 6, i) - 16);
}

static void block_q5_1(const uint8_t *src, float *dst)
{
    const float d = load_half(src), m = load_half(src + 2);
    for (int i = 0; i < BLOCK; i++)
        dst[i] = d * (float)five_bits(src + 4, src + 8, i) + m;
}

static void block_q8_0(const uint8_t *src, float *dst)
{
    const float d = load_half(src);
    for (int i = 0; i < BLOCK; i++)
        dst[i] = d * (float)(int8_t)src[2 + i];
}

/* Scale and minimum of sub-block j of Q4_K and Q5_K. The first four of each lie in the low 6 bits of bytes 0-3 and 4-7; of the others the
 * low 4 bits are the nibbles of bytes 8-11 and the high 2 bits the tops of bytes 0-3 and 4-7. */
static void k_scale_min(const uint8_t *scales, int j, int *scale, int *minimum)
{
    if (j < 4) {
        *scale = scales[j] & 63;
        *minimum = scales[j + 4] & 63;
    } else {
        *scale = (scales[j + 4] & 15) | (scales[j - 4] >> 6) << 4;
        *minimum = (scales[j + 4] >> 4) | (scales[j] >> 6) << 4;
    }
}

/* Sub-blocks come in pairs over 32 bytes of qs: the even one in the low nibbles, the odd one in the high ones. */
static void block_q4_k(const uint8_t *src, float *dst)
{
    const float d = load_half(src), dmin = load_half(src + 2);
    for (int j = 0; j < 8; j++) {
        const uint8_t *qs = src + 16 + j / 2 * 32;
        int scale, minimum;
        k_scale_min(src + 4, j, &scale, &minimum);
        const float step = d * (float)scale, offset = dmin * (float)minimum;
        for (int i = 0; i < 32; i++)
            dst[32 * j + i] = step * (float)((qs[i] >> 4 * (j % 2)) & 15) - offset;
    }
}

/* As Q4_K; bit j of qh[i] is the fifth bit of element i of sub-block j. */
static void block_q5_k(const uint8_t *src, float *dst)
{
    const float d = load_half(src), dmin = load_half(src + 2);
    const uint8_t *qh = src + 16;
    for (int j = 0; j < 8; j++) {
        const uint8_t *qs = src + 48 + j / 2 * 32;
        int scale, minimum;
        k_scale_min(src + 4, j, &scale, &minimum);
        const float step = d * (float)scale, offset = dmin * (float)minimum;
        for (int i = 0; i < 32; i++) {
            const int q = ((qs[i] >> 4 * (j % 2)) & 15) | ((qh[i] >> j) & 1) << 4;
            dst[32 * j + i] = step * (float)q - offset;
        }
    }
}

/* Two halves of 128 elements, each four groups of 32: groups 0 and 1 in the low nibbles of 64 bytes of ql, 2 and 3 in the high ones;
 * bits 2g and 2g + 1 of qh are the top two bits of group g. */
static void block_q6_k(const uint8_t *src, float *dst)
{
    const float d = load_half(src + 208);
    for (int half = 0; half < 2; half++) {
        const uint8_t *ql = src + 64 * half, *qh = src + 128 + 32 * half, *scales = src + 192 + 8 * half;
        for (int group = 0; group < 4; group++) {
            for (int i = 0; i < 32; i++) {
                const int low = (ql[32 * (group % 2) + i] >> 4 * (group / 2)) & 15;
                const int q = (low | ((qh[i] >> 2 * group) & 3) << 4) - 32;
                const float step = d * (float)(int8_t)scales[2 * group + i / 16];
                dst[128 * half + 32 * group + i] = step * (float)q;
            }
        }
    }
}

/* What the nibbles of IQ4_NL and IQ4_XS stand for; and those of MXFP4, E2M1 numbers times two. */
static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const int8_t e2m1_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static void table_nibbles(const uint8_t *qs, const int8_t *table, float d, float *dst)
{
    for (int i = 0; i < 16; i++) {
        dst[i] = d * (float)table[qs[i] & 15];
        dst[i + 16] = d * (float)table[qs[i] >> 4];
    }
}

static void block_iq4_nl(const uint8_t *src, float *dst)
{
    table_nibbles(src + 2, iq4_values, load_half(src), dst);
}

/* The scale is half of what the byte says, since the table is doubled: 2^-127 is not a normal number any more, 2^-128 neither. */
static void block_mxfp4(const uint8_t *src, float *dst)
{
    table_nibbles(src + 1, e2m1_values, ldexpf(1.0f, src[0] - 128), dst);
}

static void block_iq4_xs(const uint8_t *src, float *dst)
{
    const float d = load_half(src);
    for (int b = 0; b < 8; b++) {
        const int low = (src[4 + b / 2] >> 4 * (b % 2)) & 15, high = (src[2 + b / 4] >> 2 * (b % 4)) & 3;
        table_nibbles(src + 8 + 16 * b, iq4_values, d * (float)((low | high << 4) - 32), dst + 32 * b);
    }
}

/* Two halves of 128 elements, each four groups of 32 over the same 32 bytes, two bits of each. */
static void block_q2_k(const uint8_t *src, float *dst)
{
    const float d = load_half(src + 80), dmin = load_half(src + 82);
    for (int part = 0; part < 16; part++) {
        const uint8_t *qs = src + 16 + part / 8 * 32 + part % 2 * 16;
        const float step = d * (float)(src[part] & 15), offset = dmin * (float)(src[part] >> 4);
        for (int i = 0; i < 16; i++)
            dst[16 * part + i] = step * (float)((qs[i] >> 2 * (part % 8 / 2)) & 3) - offset;
    }
}

/* As Q2_K; bit g of hmask[i] is the third bit of element i of group g. The scales' low four bits are the nibbles of the first eight
 * bytes, their high two bits lie in the other four. */
static void block_q3_k(const uint8_t *src, float *dst)
{
    const float d = load_half(src + 108);
    const uint8_t *scales = src + 96;
    for (int part = 0; part < 16; part++) {
        const uint8_t *qs = src + 32 + part / 8 * 32 + part % 2 * 16, *hmask = src + part % 2 * 16;
        const int low = part < 8 ? scales[part] & 15 : scales[part - 8] >> 4, high = (scales[8 + part % 4] >> 2 * (part / 4)) & 3;
        const float step = d * (float)((low | high << 4) - 32);
        for (int i = 0; i < 16; i++) {
            const int q = ((qs[i] >> 2 * (part % 8 / 2)) & 3) | ((hmask[i] >> (part / 2)) & 1) << 2;
            dst[16 * part + i] = step * (float)(q - 4);
        }
    }
}

static void each_block(void (*one)(const uint8_t *, float *), ot_type type, const uint8_t *src, float *dst, size_t n)
{
    const uint32_t block = ot_type_block(type), bytes = ot_type_block_bytes(type);
    for (size_t i = 0; i < n / block; i++)
        one(src + i * bytes, dst + i * block);
}

void ot_dequantize(ot_type type, const void *src, float *dst, size_t n)
{
    switch (type) {
    case OT_TYPE_F32: memcpy(dst, src, n * sizeof *dst); return;
    case OT_TYPE_F16: dequantize_f16(src, dst, n); return;
    case OT_TYPE_BF16: dequantize_bf16(src, dst, n); return;
    case OT_TYPE_Q4_0: each_block(block_q4_0, type, src, dst, n); return;
    case OT_TYPE_Q4_1: each_block(block_q4_1, type, src, dst, n); return;
    case OT_TYPE_Q5_0: each_block(block_q5_0, type, src, dst, n); return;
    case OT_TYPE_Q5_1: each_block(block_q5_1, type, src, dst, n); return;
    case OT_TYPE_Q8_0: each_block(block_q8_0, type, src, dst, n); return;
    case OT_TYPE_Q4_K: each_block(block_q4_k, type, src, dst, n); return;
    case OT_TYPE_Q5_K: each_block(block_q5_k, type, src, dst, n); return;
    case OT_TYPE_Q6_K: each_block(block_q6_k, type, src, dst, n); return;
    case OT_TYPE_Q2_K: each_block(block_q2_k, type, src, dst, n); return;
    case OT_TYPE_Q3_K: each_block(block_q3_k, type, src, dst, n); return;
    case OT_TYPE_IQ4_NL: each_block(block_iq4_nl, type, src, dst, n); return;
    case OT_TYPE_IQ4_XS: each_block(block_iq4_xs, type, src, dst, n); return;
    case OT_TYPE_MXFP4: each_block(block_mxfp4, type, src, dst, n); return;
    }
    /* A type that ot_type_known denies: nothing that could be taken for weights. */
    for (size_t i = 0; i < n; i++)
        dst[i] = NAN;
}
