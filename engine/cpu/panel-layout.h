/* The inside of a packed quantised panel (OT_PACK_U4, OT_PACK_S8), for the kernels and the packer alone.
 *
 * A panel holds 16 output features. Its codes come first, block after block of 32 inputs, then the scales and minima
 * of all blocks; so the codes of any format stay on 64-byte lines, and a panel is two streams that are read from front
 * to back:
 *
 *     codes: [n_blocks][256 bytes (U4) or 512 bytes (S8)]
 *     meta:  [n_blocks]{ scale[n_scales][16], min[16] if has_min }     half, or float if wide_scales
 *     zeros up to a multiple of 64 bytes
 *
 * Codes are unsigned. A 64-byte line is 16 features x 4 consecutive inputs (a quad), byte f*4 + t: what vpdpbusd sums
 * into 16 lanes, and what two maddubs sum in AVX2.
 *     S8: line g holds quad g (inputs 4g .. 4g+3); code = q + 128.
 *     U4: line j holds quad j in its low nibbles and quad j+4 in its high nibbles.
 * weight = scale * (code - zero) + min; zero is 128 for S8, 8 for U4 without minima (Q4_0), else 0. The integer
 * product is then sum(code * x) - zero * sum(x), exact.
 */
#ifndef OTTER_ENGINE_CPU_PANEL_LAYOUT_H
#define OTTER_ENGINE_CPU_PANEL_LAYOUT_H

#include "engine/kernels.h"

static inline uint32_t ot_panel_blocks(const ot_matrix *m)
{
    return m->n_in / OT_QBLOCK;
}

/* Bytes of codes in a block. */
static inline size_t ot_panel_code_bytes(const ot_matrix *m)
{
    return m->format == OT_PACK_U4 ? OT_PANEL * OT_QBLOCK / 2 : OT_PANEL * OT_QBLOCK;
}

/* Scales and minima in a block, in elements. */
static inline size_t ot_panel_meta_elements(const ot_matrix *m)
{
    return (size_t)OT_PANEL * (m->n_scales + (m->has_min ? 1u : 0u));
}

static inline size_t ot_panel_meta_bytes(const ot_matrix *m)
{
    return ot_panel_meta_elements(m) * (m->wide_scales ? sizeof(float) : sizeof(uint16_t));
}

static inline int32_t ot_panel_zero(const ot_matrix *m)
{
    if (m->format == OT_PACK_S8)
        return 128;
    return m->has_min ? 0 : 8;
}

static inline const uint8_t *ot_panel_codes(const ot_matrix *m, uint32_t panel)
{
    return m->data + (size_t)panel * m->panel_bytes;
}

static inline const uint8_t *ot_panel_meta(const ot_matrix *m, uint32_t panel)
{
    return ot_panel_codes(m, panel) + ot_panel_blocks(m) * ot_panel_code_bytes(m);
}

#endif
