/* Layouts are ggml's block_q* structures; gguf/quants.c draws them. */
#include "engine/cpu/file-blocks.h"
#include "engine/cpu/panel-layout.h"

#include <string.h>

const uint8_t ot_i4_codes[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
const uint8_t ot_f4_codes[16] = {128, 129, 130, 131, 132, 134, 136, 140, 128, 127, 126, 125, 124, 122, 120, 116};

static uint16_t read_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

/* ---- Blocks of 32 ------------------------------------------------------------------------------------------ */

static void unpack_nibbles(uint8_t *code, const uint8_t *qs)
{
    for (int i = 0; i < 16; i++) {
        code[i] = qs[i] & 15;
        code[i + 16] = qs[i] >> 4;
    }
}

/* The fifth bits: bit i of `high` for weight i. */
static void add_fifth_bits(uint8_t *code, const uint8_t *high)
{
    for (int i = 0; i < OT_QBLOCK; i++)
        code[i] |= (uint8_t)((high[i / 8] >> (i % 8) & 1) << 4);
}

static void unpack_q4_0(uint8_t *code, ot_file_scales *s, const uint8_t *p)
{
    s->half[0] = read_u16(p);
    unpack_nibbles(code, p + 2);
}

static void unpack_q4_1(uint8_t *code, ot_file_scales *s, const uint8_t *p)
{
    s->half[0] = read_u16(p);
    s->half[1] = read_u16(p + 2);
    unpack_nibbles(code, p + 4);
}

static void unpack_q5_0(uint8_t *code, ot_file_scales *s, const uint8_t *p)
{
    s->half[0] = read_u16(p);
    unpack_nibbles(code, p + 6);
    add_fifth_bits(code, p + 2);
}

static void unpack_q5_1(uint8_t *code, ot_file_scales *s, const uint8_t *p)
{
    s->half[0] = read_u16(p);
    s->half[1] = read_u16(p + 2);
    unpack_nibbles(code, p + 8);
    add_fifth_bits(code, p + 4);
}

static void unpack_q8_0(uint8_t *code, ot_file_scales *s, const uint8_t *p)
{
    s->half[0] = read_u16(p);
    for (int i = 0; i < OT_QBLOCK; i++)
        code[i] = p[2 + i] ^ 0x80;
}

static void unpack_mxfp4(uint8_t *code, ot_file_scales *s, const uint8_t *p)
{
    s->byte[0] = p[0];
    unpack_nibbles(code, p + 1);
}

/* ---- Superblocks of 256 ------------------------------------------------------------------------------------ */

static void unpack_k_scales(ot_file_scales *s, const uint8_t *p)
{
    s->half[0] = read_u16(p);
    s->half[1] = read_u16(p + 2);
    memcpy(s->byte, p + 4, 12);
}

/* Pairs of 32 weights over 32 bytes: the even ones in the low nibbles, the odd ones in the high ones. */
static void unpack_k_nibbles(uint8_t *code, const uint8_t *qs)
{
    for (int i = 0; i < 256; i++)
        code[i] = qs[i / 64 * 32 + i % 32] >> (i % 64 < 32 ? 0 : 4) & 15;
}

static void unpack_q4_k(uint8_t *code, ot_file_scales *s, const uint8_t *p)
{
    unpack_k_scales(s, p);
    unpack_k_nibbles(code, p + 16);
}

static void unpack_q5_k(uint8_t *code, ot_file_scales *s, const uint8_t *p)
{
    unpack_k_scales(s, p);
    unpack_k_nibbles(code, p + 48);
    for (int i = 0; i < 256; i++)
        code[i] |= (uint8_t)((p[16 + i % 32] >> (i / 32) & 1) << 4);
}

static void unpack_q6_k(uint8_t *code, ot_file_scales *s, const uint8_t *p)
{
    s->half[0] = read_u16(p + 208);
    memcpy(s->byte, p + 192, 16);
    for (int i = 0; i < 256; i++) {
        const int half = i / 128, group = i % 128 / 32;
        const int low = p[64 * half + 32 * (group & 1) + i % 32] >> 4 * (group >> 1) & 15;
        code[i] = (uint8_t)(low | (p[128 + 32 * half + i % 32] >> 2 * group & 3) << 4);
    }
}

static void unpack_two_bits(uint8_t *code, const uint8_t *qs)
{
    for (int i = 0; i < 256; i++)
        code[i] = qs[i / 128 * 32 + i % 32] >> 2 * (i % 128 / 32) & 3;
}

static void unpack_q2_k(uint8_t *code, ot_file_scales *s, const uint8_t *p)
{
    s->half[0] = read_u16(p + 80);
    s->half[1] = read_u16(p + 82);
    memcpy(s->byte, p, 16);
    unpack_two_bits(code, p + 16);
}

static void unpack_q3_k(uint8_t *code, ot_file_scales *s, const uint8_t *p)
{
    const uint8_t *scales = p + 96;
    s->half[0] = read_u16(p + 108);
    for (int i = 0; i < 16; i++) {
        const int low = i < 8 ? scales[i] & 15 : scales[i - 8] >> 4, high = scales[8 + i % 4] >> 2 * (i / 4) & 3;
        s->byte[i] = (uint8_t)((low | high << 4) - 32);
    }
    unpack_two_bits(code, p + 32);
    for (int i = 0; i < 256; i++)
        code[i] |= (uint8_t)((p[i % 32] >> (i / 32) & 1) << 2);
}

static void unpack_iq4_xs(uint8_t *code, ot_file_scales *s, const uint8_t *p)
{
    const unsigned high = read_u16(p + 2);
    s->half[0] = read_u16(p);
    for (int b = 0; b < 8; b++) {
        s->byte[b] = (uint8_t)((int)((p[4 + b / 2] >> 4 * (b % 2) & 15u) | (high >> 2 * b & 3u) << 4) - 32);
        unpack_nibbles(code + OT_QBLOCK * b, p + 8 + 16 * b);
    }
}

static const ot_file_form forms[] = {
    {.type = OT_TYPE_F32, .format = OT_PACK_F32},
    {.type = OT_TYPE_F16, .format = OT_PACK_F16},
    {.type = OT_TYPE_BF16, .format = OT_PACK_BF16},
    {OT_TYPE_Q4_0, OT_PACK_U4, OT_SCALES_HALF, false, 1, unpack_q4_0},
    {OT_TYPE_Q4_1, OT_PACK_U4, OT_SCALES_HALF, true, 1, unpack_q4_1},
    {OT_TYPE_Q5_0, OT_PACK_U5, OT_SCALES_HALF, false, 1, unpack_q5_0},
    {OT_TYPE_Q5_1, OT_PACK_U5, OT_SCALES_HALF, true, 1, unpack_q5_1},
    {OT_TYPE_Q8_0, OT_PACK_S8, OT_SCALES_HALF, false, 1, unpack_q8_0},
    {OT_TYPE_Q2_K, OT_PACK_U2, OT_SCALES_K2, true, 2, unpack_q2_k},
    {OT_TYPE_Q3_K, OT_PACK_U3, OT_SCALES_I8, false, 2, unpack_q3_k},
    {OT_TYPE_Q4_K, OT_PACK_U4, OT_SCALES_K, true, 1, unpack_q4_k},
    {OT_TYPE_Q5_K, OT_PACK_U5, OT_SCALES_K, true, 1, unpack_q5_k},
    {OT_TYPE_Q6_K, OT_PACK_U6, OT_SCALES_I8, false, 2, unpack_q6_k},
    {OT_TYPE_IQ4_NL, OT_PACK_I4, OT_SCALES_HALF, false, 1, unpack_q4_0},
    {OT_TYPE_IQ4_XS, OT_PACK_I4, OT_SCALES_I8, false, 1, unpack_iq4_xs},
    {OT_TYPE_MXFP4, OT_PACK_F4, OT_SCALES_E8, false, 1, unpack_mxfp4},
};

const ot_file_form *ot_file_form_of(ot_type type)
{
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (forms[i].type == type)
            return &forms[i];
    return NULL;
}
