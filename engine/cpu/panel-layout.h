/* The inside of a packed quantised panel, for the kernels and the packer alone.
 *
 * A panel holds 16 output features. Its codes come first, block after block of 32 inputs, then the scales and minima
 * of all blocks; so the codes of any format stay on 64-byte lines, and a panel is two streams that are read from front
 * to back:
 *
 *     codes:  [n_blocks][ot_panel_code_bytes]
 *     scales: of all blocks, laid out by ot_pack_scales
 *     zeros up to a multiple of 64 bytes
 *
 * A quad is 4 consecutive inputs; a 64-byte line belongs to 16 features x 4 inputs, byte f*4 + t: what vpdpbusd sums into 16 lanes,
 * what two maddubs sum in AVX2. A block is 8 quads, whose codes are
 *     S8:       8 lines; line g holds quad g.
 *     U4, I4, F4: 4 lines; line j holds quad j in its low nibbles and quad j+4 in its high ones.
 *     U5:       as U4, then a line whose bit g is bit 4 of quad g.
 *     U6:       as U4, then two lines: bits 2i and 2i + 1 of line h are bits 4 and 5 of quad 4h + i.
 *     U2:       two lines: bits 2i and 2i + 1 of line h are quad 4h + i.
 *     U3:       as U2, then a line whose bit g is bit 2 of quad g.
 * A code as it is multiplied is unsigned: S8 is q + 128, I4 and F4 are entries of a table (also + 128), the others the bits themselves.
 * weight = scale * (code - zero) + min; zero is 128, or for U codes half their range where there is no minimum, else 0. The integer
 * product is then sum(code * x) - zero * sum(x), exact.
 *
 * Scales are in groups of 8 blocks, a superblock of the K types, whose half scales are multiplied by small integers in the kernel:
 * both factors are short enough that the float product is exact.
 *     HALF: [block]{ half scale[n_scales][16], half min[n_scales][16] if has_min }
 *     K:    half d[16], dmin[16], then 12 x [16] bytes: a feature's are those of the file, scale_j and min_j in 6 bits each (ot_k_scales);
 *           scale = d scale_j, min = -(dmin min_j)
 *     K2:   half d[16], dmin[16], then [16 parts][16] bytes, scale in the low nibble, min in the high one
 *     I8:   half d[16], then [8 n_scales][16] signed bytes; scale = d byte
 *     E8:   [block][16] bytes e; scale = 2^(e - 128)
 */
#ifndef OTTER_ENGINE_CPU_PANEL_LAYOUT_H
#define OTTER_ENGINE_CPU_PANEL_LAYOUT_H

#include "base/float-bits.h"
#include "engine/kernels.h"

#include <string.h>

enum { OT_SCALE_BLOCKS = 8 }; /* blocks in a group of scales */

static inline uint32_t ot_panel_blocks(const ot_matrix *m)
{
    return m->n_in / OT_QBLOCK;
}

/* ---- Codes ------------------------------------------------------------------------------------------------ */

/* Bytes of codes in a block. */
static inline size_t ot_panel_code_bytes(ot_pack_format format)
{
    switch (format) {
    case OT_PACK_U2: return 128;
    case OT_PACK_U3: return 192;
    case OT_PACK_U4:
    case OT_PACK_I4:
    case OT_PACK_F4: return 256;
    case OT_PACK_U5: return 320;
    case OT_PACK_U6: return 384;
    default: return 512;
    }
}

/* What is taken off a code before it is multiplied. */
static inline int32_t ot_code_zero(ot_pack_format format, bool has_min)
{
    switch (format) {
    case OT_PACK_U2: return has_min ? 0 : 2;
    case OT_PACK_U3: return has_min ? 0 : 4;
    case OT_PACK_U4: return has_min ? 0 : 8;
    case OT_PACK_U5: return has_min ? 0 : 16;
    case OT_PACK_U6: return has_min ? 0 : 32;
    default: return 128;
    }
}

/* The 16 values of a nibble, + 128. */
extern const uint8_t ot_i4_codes[16], ot_f4_codes[16];

static inline const uint8_t *ot_code_table(ot_pack_format format)
{
    return format == OT_PACK_F4 ? ot_f4_codes : ot_i4_codes;
}

/* Input k of feature f of a block, as it is multiplied. */
static inline int32_t ot_panel_code(ot_pack_format format, const uint8_t *codes, uint32_t k, uint32_t f)
{
    const uint32_t quad = k / 4, at = f * 4 + k % 4, shift = 2 * (quad % 4);
    const int32_t nibble = codes[quad % 4 * 64 + at] >> (quad < 4 ? 0 : 4) & 15;
    switch (format) {
    case OT_PACK_U2: return codes[quad / 4 * 64 + at] >> shift & 3;
    case OT_PACK_U3: return (codes[quad / 4 * 64 + at] >> shift & 3) | (codes[128 + at] >> quad & 1) << 2;
    case OT_PACK_U4: return nibble;
    case OT_PACK_U5: return nibble | (codes[256 + at] >> quad & 1) << 4;
    case OT_PACK_U6: return nibble | (codes[256 + quad / 4 * 64 + at] >> shift & 3) << 4;
    case OT_PACK_I4:
    case OT_PACK_F4: return ot_code_table(format)[nibble];
    default: return codes[quad * 64 + at];
    }
}

/* ---- Scales ----------------------------------------------------------------------------------------------- */

/* Scales and minima of a block and feature. */
static inline uint32_t ot_panel_values(const ot_matrix *m)
{
    return m->n_scales * (m->has_min ? 2u : 1u);
}

/* Bytes of the scales of a group of 8 blocks. */
static inline size_t ot_panel_group_bytes(const ot_matrix *m)
{
    switch (m->scales) {
    case OT_SCALES_K: return 2 * 32 + 12 * OT_PANEL;
    case OT_SCALES_K2: return 2 * 32 + 16 * OT_PANEL;
    case OT_SCALES_I8: return 32 + OT_SCALE_BLOCKS * m->n_scales * (size_t)OT_PANEL;
    case OT_SCALES_E8: return OT_SCALE_BLOCKS * (size_t)OT_PANEL;
    default: return OT_SCALE_BLOCKS * sizeof(uint16_t) * OT_PANEL * ot_panel_values(m);
    }
}

/* Bytes of all scales; only those of HALF and E8 may end within a group. */
static inline size_t ot_panel_scale_bytes(const ot_matrix *m)
{
    return ot_panel_blocks(m) * (ot_panel_group_bytes(m) / OT_SCALE_BLOCKS);
}

static inline const uint8_t *ot_panel_codes(const ot_matrix *m, uint32_t panel)
{
    return m->data + (size_t)panel * m->panel_bytes;
}

static inline const uint8_t *ot_panel_scales(const ot_matrix *m, uint32_t panel)
{
    return ot_panel_codes(m, panel) + ot_panel_blocks(m) * ot_panel_code_bytes(m->format);
}

/* The 6-bit scales and minima of a superblock, from 12 bytes, `stride` apart: the first four of each lie in the low 6 bits of bytes 0-3
 * and 4-7; of the others the low 4 bits are the nibbles of bytes 8-11, the high 2 bits the tops of bytes 0-3 and 4-7. */
static inline uint32_t ot_k_scale(const uint8_t *s, size_t stride, uint32_t j)
{
    return j < 4 ? s[j * stride] & 63u : (s[(j + 4) * stride] & 15u) | (uint32_t)(s[(j - 4) * stride] >> 6) << 4;
}

static inline uint32_t ot_k_min(const uint8_t *s, size_t stride, uint32_t j)
{
    return j < 4 ? s[(j + 4) * stride] & 63u : (uint32_t)(s[(j + 4) * stride] >> 4) | (uint32_t)(s[j * stride] >> 6) << 4;
}

/* 2^(e - 128), which for e < 2 is not a normal number. */
static inline float ot_e8_scale(uint8_t e)
{
    return ot_float_from_bits(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23);
}

static inline float ot_half_at(const uint8_t *p, uint32_t i)
{
    uint16_t half;
    memcpy(&half, p + i * sizeof half, sizeof half);
    return ot_f16_to_f32(half);
}

/* Value i of block b of feature f: the scales, then the minima. `scales` are the panel's. */
static inline float ot_panel_value(const ot_matrix *m, const uint8_t *scales, uint32_t b, uint32_t i, uint32_t f)
{
    const uint32_t j = b % OT_SCALE_BLOCKS;
    const bool min = i >= m->n_scales;
    const uint8_t *group = scales + b / OT_SCALE_BLOCKS * ot_panel_group_bytes(m);
    switch (m->scales) {
    case OT_SCALES_K:
        return min ? -(ot_half_at(group + 32, f) * (float)ot_k_min(group + 64 + f, OT_PANEL, j))
                   : ot_half_at(group, f) * (float)ot_k_scale(group + 64 + f, OT_PANEL, j);
    case OT_SCALES_K2: {
        const uint8_t both = group[64 + (2 * j + i % 2) * OT_PANEL + f];
        return min ? -(ot_half_at(group + 32, f) * (float)(both >> 4)) : ot_half_at(group, f) * (float)(both & 15);
    }
    case OT_SCALES_I8:
        return ot_half_at(group, f) * (float)(int8_t)group[32 + (j * m->n_scales + i) * OT_PANEL + f];
    case OT_SCALES_E8: return ot_e8_scale(scales[b * OT_PANEL + f]);
    default: return ot_half_at(scales, (b * ot_panel_values(m) + i) * OT_PANEL + f);
    }
}

#endif
