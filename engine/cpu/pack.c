/* Packs a file's weight rows into panels of 16 interleaved features (engine/cpu/panel-layout.h draws the quantised
 * ones), and reads single rows back. Each file format is first unpacked, 32 weights of a row at a time, into codes and
 * scales; scales that are halves in the file stay the same bits, those of K quants are products of a half and a small
 * integer and exact as floats. So a packed weight equals the dequantised weight of the file to the last bit. */
#include "engine/cpu/panel-layout.h"
#include "engine/cpu/weight-memory.h"

#include <string.h>

/* 32 weights of one row. code - zero is the quantised value; weight = scale * (code - zero) + min. */
typedef struct unpacked_block {
    uint8_t code[OT_QBLOCK];
    uint16_t narrow[2];    /* halves: scale, min */
    float wide[3];         /* floats: scales, then min */
} unpacked_block;

/* What a type becomes. */
typedef struct pack_plan {
    ot_pack_format format;
    bool wide_scales, has_min;
    uint8_t n_scales;
    void (*unpack)(unpacked_block *dst, const uint8_t *row, uint32_t block);
} pack_plan;

static uint16_t read_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

/* ---- One block of 32 from each file format. Layouts: ggml's block_q* structures -------------------------- */

static void unpack_nibbles(uint8_t code[OT_QBLOCK], const uint8_t *qs)
{
    for (int i = 0; i < 16; i++) {
        code[i] = qs[i] & 15;
        code[i + 16] = qs[i] >> 4;
    }
}

/* Adds the fifth bits (`high`, bit i for weight i), takes `offset` off, and stores as signed code + 128. */
static void finish_five_bits(uint8_t code[OT_QBLOCK], const uint8_t *high, int offset)
{
    for (int i = 0; i < OT_QBLOCK; i++)
        code[i] = (uint8_t)((code[i] | (high[i / 8] >> (i % 8) & 1) << 4) - offset + 128);
}

static void unpack_q4_0(unpacked_block *dst, const uint8_t *row, uint32_t block)
{
    const uint8_t *p = row + (size_t)block * 18;
    dst->narrow[0] = read_u16(p);
    unpack_nibbles(dst->code, p + 2);
}

static void unpack_q4_1(unpacked_block *dst, const uint8_t *row, uint32_t block)
{
    const uint8_t *p = row + (size_t)block * 20;
    dst->narrow[0] = read_u16(p);
    dst->narrow[1] = read_u16(p + 2);
    unpack_nibbles(dst->code, p + 4);
}

static void unpack_q5_0(unpacked_block *dst, const uint8_t *row, uint32_t block)
{
    const uint8_t *p = row + (size_t)block * 22;
    dst->narrow[0] = read_u16(p);
    unpack_nibbles(dst->code, p + 6);
    finish_five_bits(dst->code, p + 2, 16);
}

static void unpack_q5_1(unpacked_block *dst, const uint8_t *row, uint32_t block)
{
    const uint8_t *p = row + (size_t)block * 24;
    dst->narrow[0] = read_u16(p);
    dst->narrow[1] = read_u16(p + 2);
    unpack_nibbles(dst->code, p + 8);
    finish_five_bits(dst->code, p + 4, 0);
}

static void unpack_q8_0(unpacked_block *dst, const uint8_t *row, uint32_t block)
{
    const uint8_t *p = row + (size_t)block * 34;
    dst->narrow[0] = read_u16(p);
    for (int i = 0; i < OT_QBLOCK; i++)
        dst->code[i] = p[2 + i] ^ 0x80;
}

/* The 6-bit scale and minimum of sub-block j of Q4_K and Q5_K, times the superblock's two halves at p. */
static void unpack_k_scales(unpacked_block *dst, const uint8_t *p, uint32_t j)
{
    const uint8_t *s = p + 4;
    unsigned scale, min;
    if (j < 4) {
        scale = s[j] & 63;
        min = s[j + 4] & 63;
    } else {
        scale = (s[j + 4] & 15u) | (unsigned)(s[j - 4] >> 6) << 4;
        min = (unsigned)(s[j + 4] >> 4) | (unsigned)(s[j] >> 6) << 4;
    }
    dst->wide[0] = ot_f16_to_f32(read_u16(p)) * (float)scale;
    dst->wide[1] = -(ot_f16_to_f32(read_u16(p + 2)) * (float)min);
}

static void unpack_q4_k(unpacked_block *dst, const uint8_t *row, uint32_t block)
{
    const uint8_t *p = row + (size_t)(block / 8) * 144;
    uint32_t j = block % 8;
    const uint8_t *qs = p + 16 + 32 * (j / 2);
    unpack_k_scales(dst, p, j);
    for (int i = 0; i < OT_QBLOCK; i++)
        dst->code[i] = qs[i] >> 4 * (j & 1) & 15;
}

static void unpack_q5_k(unpacked_block *dst, const uint8_t *row, uint32_t block)
{
    const uint8_t *p = row + (size_t)(block / 8) * 176;
    uint32_t j = block % 8;
    const uint8_t *qh = p + 16, *qs = p + 48 + 32 * (j / 2);
    unpack_k_scales(dst, p, j);
    for (int i = 0; i < OT_QBLOCK; i++)
        dst->code[i] = (uint8_t)(((qs[i] >> 4 * (j & 1) & 15) | (qh[i] >> j & 1) << 4) + 128);
}

static void unpack_q6_k(unpacked_block *dst, const uint8_t *row, uint32_t block)
{
    const uint8_t *p = row + (size_t)(block / 8) * 210;
    uint32_t half = block % 8 / 4, c = block % 4;
    const uint8_t *ql = p + 64 * half + 32 * (c & 1), *qh = p + 128 + 32 * half;
    const int8_t *scales = (const int8_t *)p + 192 + 8 * half + 2 * c;
    float d = ot_f16_to_f32(read_u16(p + 208));
    for (int i = 0; i < OT_QBLOCK; i++)
        dst->code[i] = (uint8_t)(((ql[i] >> 4 * (c >> 1) & 15) | (qh[i] >> 2 * c & 3) << 4) - 32 + 128);
    dst->wide[0] = d * (float)scales[0];
    dst->wide[1] = d * (float)scales[1];
}

static bool plan_for(pack_plan *plan, ot_type type)
{
    switch (type) {
    case OT_TYPE_F32: *plan = (pack_plan){.format = OT_PACK_F32}; return true;
    case OT_TYPE_F16: *plan = (pack_plan){.format = OT_PACK_F16}; return true;
    case OT_TYPE_BF16: *plan = (pack_plan){.format = OT_PACK_BF16}; return true;
    case OT_TYPE_Q4_0: *plan = (pack_plan){OT_PACK_U4, false, false, 1, unpack_q4_0}; return true;
    case OT_TYPE_Q4_1: *plan = (pack_plan){OT_PACK_U4, false, true, 1, unpack_q4_1}; return true;
    case OT_TYPE_Q4_K: *plan = (pack_plan){OT_PACK_U4, true, true, 1, unpack_q4_k}; return true;
    case OT_TYPE_Q5_0: *plan = (pack_plan){OT_PACK_S8, false, false, 1, unpack_q5_0}; return true;
    case OT_TYPE_Q5_1: *plan = (pack_plan){OT_PACK_S8, false, true, 1, unpack_q5_1}; return true;
    case OT_TYPE_Q5_K: *plan = (pack_plan){OT_PACK_S8, true, true, 1, unpack_q5_k}; return true;
    case OT_TYPE_Q6_K: *plan = (pack_plan){OT_PACK_S8, true, false, 2, unpack_q6_k}; return true;
    case OT_TYPE_Q8_0: *plan = (pack_plan){OT_PACK_S8, false, false, 1, unpack_q8_0}; return true;
    }
    return false;
}

/* ---- Quantised panels ------------------------------------------------------------------------------------ */

/* The byte of input k of feature f in a block's codes; U4 shares it between k and k + 16. */
static size_t code_at(uint32_t k, uint32_t f)
{
    return (size_t)(k / 4) * 64 + f * 4 + k % 4;
}

static void store_codes(uint8_t *codes, ot_pack_format format, uint32_t f, const uint8_t code[OT_QBLOCK])
{
    if (format == OT_PACK_U4)
        for (uint32_t k = 0; k < 16; k++)
            codes[code_at(k, f)] = (uint8_t)(code[k] | code[k + 16] << 4);
    else
        for (uint32_t k = 0; k < OT_QBLOCK; k++)
            codes[code_at(k, f)] = code[k];
}

static void store_meta(const ot_matrix *m, uint8_t *meta, uint32_t f, const unpacked_block *b)
{
    uint32_t n = m->n_scales + (m->has_min ? 1u : 0u);
    for (uint32_t i = 0; i < n; i++) {
        if (m->wide_scales)
            memcpy(meta + (i * OT_PANEL + f) * sizeof(float), &b->wide[i], sizeof(float));
        else
            memcpy(meta + (i * OT_PANEL + f) * sizeof(uint16_t), &b->narrow[i], sizeof(uint16_t));
    }
}

static void pack_quantised(const ot_matrix *m, const pack_plan *plan, const uint8_t *rows, size_t row_bytes)
{
    uint32_t n_blocks = ot_panel_blocks(m);
    size_t code_bytes = ot_panel_code_bytes(m), meta_bytes = ot_panel_meta_bytes(m);
    unpacked_block block;
    memset(&block, 0, sizeof block);
    for (uint32_t o = 0; o < m->n_out; o++) {
        uint32_t panel = o / OT_PANEL, f = o % OT_PANEL;
        uint8_t *codes = m->data + (size_t)panel * m->panel_bytes;
        uint8_t *meta = codes + n_blocks * code_bytes;
        for (uint32_t b = 0; b < n_blocks; b++) {
            plan->unpack(&block, rows + o * row_bytes, b);
            store_codes(codes + b * code_bytes, m->format, f, block.code);
            store_meta(m, meta + b * meta_bytes, f, &block);
        }
    }
}

static void row_quantised(const ot_matrix *m, uint32_t o, float *dst)
{
    uint32_t panel = o / OT_PANEL, f = o % OT_PANEL, n_blocks = ot_panel_blocks(m);
    size_t code_bytes = ot_panel_code_bytes(m), meta_bytes = ot_panel_meta_bytes(m);
    int32_t zero = ot_panel_zero(m);
    for (uint32_t b = 0; b < n_blocks; b++) {
        const uint8_t *codes = ot_panel_codes(m, panel) + b * code_bytes;
        const uint8_t *meta = ot_panel_meta(m, panel) + b * meta_bytes;
        float values[3] = {0};
        for (uint32_t i = 0; i < ot_panel_meta_elements(m) / OT_PANEL; i++) {
            uint16_t half;
            if (m->wide_scales) {
                memcpy(&values[i], meta + (i * OT_PANEL + f) * sizeof(float), sizeof(float));
            } else {
                memcpy(&half, meta + (i * OT_PANEL + f) * sizeof half, sizeof half);
                values[i] = ot_f16_to_f32(half);
            }
        }
        for (uint32_t k = 0; k < OT_QBLOCK; k++) {
            int32_t code;
            if (m->format == OT_PACK_U4)
                code = codes[code_at(k % 16, f)] >> (k < 16 ? 0 : 4) & 15;
            else
                code = codes[code_at(k, f)];
            float w = values[k * m->n_scales / OT_QBLOCK] * (float)(code - zero);
            dst[b * OT_QBLOCK + k] = m->has_min ? w + values[m->n_scales] : w;
        }
    }
}

/* ---- Float panels ---------------------------------------------------------------------------------------- */

static size_t float_bytes(ot_pack_format format)
{
    return format == OT_PACK_F32 ? sizeof(float) : sizeof(uint16_t);
}

void ot_matrix_repack_f32(ot_matrix *m, const float *rows)
{
    for (uint32_t panel = 0; panel < m->n_panels; panel++) {
        float *dst = (float *)(void *)(m->data + (size_t)panel * m->panel_bytes);
        uint32_t n = m->n_out - panel * OT_PANEL < OT_PANEL ? m->n_out - panel * OT_PANEL : OT_PANEL;
        const float *src = rows + (size_t)panel * OT_PANEL * m->n_in;
        for (uint32_t k = 0; k < m->n_in; k++) {
            for (uint32_t f = 0; f < n; f++)
                dst[(size_t)k * OT_PANEL + f] = src[(size_t)f * m->n_in + k];
        }
    }
}

static void pack_halves(const ot_matrix *m, const uint8_t *rows)
{
    for (uint32_t o = 0; o < m->n_out; o++) {
        uint8_t *dst = m->data + (size_t)(o / OT_PANEL) * m->panel_bytes + o % OT_PANEL * sizeof(uint16_t);
        const uint8_t *src = rows + (size_t)o * m->n_in * sizeof(uint16_t);
        for (uint32_t k = 0; k < m->n_in; k++)
            memcpy(dst + (size_t)k * OT_PANEL * sizeof(uint16_t), src + k * sizeof(uint16_t), sizeof(uint16_t));
    }
}

/* ---- The public functions -------------------------------------------------------------------------------- */

bool ot_matrix_takes_q8(const ot_matrix *m)
{
    return m->format == OT_PACK_U4 || m->format == OT_PACK_S8;
}

/* Fills the sizes; n_in and n_out are below 2^32, so panel_bytes cannot overflow a size_t of 64 bits. */
static void plan_sizes(ot_matrix *m, const pack_plan *plan, uint32_t n_in, uint32_t n_out)
{
    *m = (ot_matrix){.format = plan->format, .n_in = n_in, .n_out = n_out, .wide_scales = plan->wide_scales,
                     .has_min = plan->has_min, .n_scales = plan->n_scales};
    m->n_panels = n_out / OT_PANEL + (n_out % OT_PANEL != 0);
    if (ot_matrix_takes_q8(m))
        m->panel_bytes = ot_panel_blocks(m) * (ot_panel_code_bytes(m) + ot_panel_meta_bytes(m));
    else
        m->panel_bytes = (size_t)n_in * OT_PANEL * float_bytes(plan->format);
    m->panel_bytes = (m->panel_bytes + 63) / 64 * 64;
}

ot_status ot_matrix_pack(ot_matrix *out, ot_type type, const void *rows, uint32_t n_in, uint32_t n_out, ot_error *err)
{
    pack_plan plan;
    size_t bytes;

    *out = (ot_matrix){0};
    if (!plan_for(&plan, type))
        return ot_fail(err, OT_ERR_UNSUPPORTED, "cannot pack weights of type %s", ot_type_name(type));
    if (n_in == 0 || n_out == 0 || n_in % ot_type_block(type) != 0)
        return ot_fail(err, OT_ERR_INVALID, "cannot pack %u x %u weights of type %s, which come in blocks of %u", n_out,
                       n_in, ot_type_name(type), ot_type_block(type));
    plan_sizes(out, &plan, n_in, n_out);
    if (__builtin_mul_overflow(out->panel_bytes, (size_t)out->n_panels, &bytes) ||
        !(out->data = ot_weight_memory_take(bytes))) {
        *out = (ot_matrix){0};
        return ot_fail(err, OT_ERR_NOMEM, "no memory to pack %u x %u weights of type %s", n_out, n_in,
                       ot_type_name(type));
    }
    if (type == OT_TYPE_F32)
        ot_matrix_repack_f32(out, rows);
    else if (!ot_matrix_takes_q8(out))
        pack_halves(out, rows);
    else
        pack_quantised(out, &plan, rows, (size_t)n_in / ot_type_block(type) * ot_type_block_bytes(type));
    return OT_OK;
}

void ot_matrix_row(const ot_matrix *m, uint32_t o, float *dst)
{
    const uint8_t *panel = m->data + (size_t)(o / OT_PANEL) * m->panel_bytes;
    uint32_t f = o % OT_PANEL;

    if (ot_matrix_takes_q8(m)) {
        row_quantised(m, o, dst);
        return;
    }
    for (uint32_t k = 0; k < m->n_in; k++) {
        size_t at = (size_t)k * OT_PANEL + f;
        uint16_t half;
        if (m->format == OT_PACK_F32) {
            memcpy(&dst[k], panel + at * sizeof(float), sizeof(float));
            continue;
        }
        memcpy(&half, panel + at * sizeof half, sizeof half);
        dst[k] = m->format == OT_PACK_F16 ? ot_f16_to_f32(half) : ot_bf16_to_f32(half);
    }
}

void ot_matrix_free(ot_matrix *m)
{
    if (!m)
        return;
    ot_weight_memory_release(m->data, m->n_panels * m->panel_bytes);
    *m = (ot_matrix){0};
}
