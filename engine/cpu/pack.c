/* Packs a file's weight rows into panels of 16 interleaved features (engine/cpu/panel-layout.h draws the quantised
 * ones), and reads single rows back. Codes and scales keep the bits that they have in the file, but for the 6-bit scales of Q3_K and
 * IQ4_XS, which become bytes; so a packed weight equals the dequantised weight of the file to the last bit. */
#include "engine/cpu/file-blocks.h"
#include "engine/cpu/panel-layout.h"
#include "engine/cpu/weight-memory.h"

#include <string.h>

/* ---- Quantised panels ------------------------------------------------------------------------------------ */

static uint32_t quad_at(const uint8_t *code, uint32_t quad, uint32_t shift)
{
    uint32_t four;
    memcpy(&four, code + 4 * quad, sizeof four);
    return four >> shift;
}

static void put_quad(uint8_t *codes, uint32_t line, uint32_t f, uint32_t four)
{
    memcpy(codes + line * 64 + f * 4, &four, sizeof four);
}

/* Two bits of each code, from `shift` on: two lines of four quads. */
static void put_bit_pairs(uint8_t *codes, uint32_t f, const uint8_t *code, uint32_t shift)
{
    for (uint32_t line = 0; line < 2; line++) {
        uint32_t four = 0;
        for (uint32_t i = 0; i < 4; i++)
            four |= (quad_at(code, 4 * line + i, shift) & 0x03030303u) << 2 * i;
        put_quad(codes, line, f, four);
    }
}

/* Bit `shift` of each code: one line of eight quads. */
static void put_bits(uint8_t *codes, uint32_t f, const uint8_t *code, uint32_t shift)
{
    uint32_t four = 0;
    for (uint32_t g = 0; g < 8; g++)
        four |= (quad_at(code, g, shift) & 0x01010101u) << g;
    put_quad(codes, 0, f, four);
}

static void put_nibbles(uint8_t *codes, uint32_t f, const uint8_t *code)
{
    for (uint32_t j = 0; j < 4; j++)
        put_quad(codes, j, f, (quad_at(code, j, 0) & 0x0f0f0f0fu) | (quad_at(code, j + 4, 0) & 0x0f0f0f0fu) << 4);
}

/* 32 codes of feature f into a block. Four codes are a 32-bit number, whose bytes do not meet. */
static void put_block(ot_pack_format format, uint8_t *codes, uint32_t f, const uint8_t code[OT_QBLOCK])
{
    switch (format) {
    case OT_PACK_U2: put_bit_pairs(codes, f, code, 0); return;
    case OT_PACK_U3: put_bit_pairs(codes, f, code, 0), put_bits(codes + 128, f, code, 2); return;
    case OT_PACK_U5: put_nibbles(codes, f, code), put_bits(codes + 256, f, code, 4); return;
    case OT_PACK_U6: put_nibbles(codes, f, code), put_bit_pairs(codes + 256, f, code, 4); return;
    case OT_PACK_S8:
        for (uint32_t g = 0; g < 8; g++)
            put_quad(codes, g, f, quad_at(code, g, 0));
        return;
    default: put_nibbles(codes, f, code); return;
    }
}

static void put_half(uint8_t *scales, uint32_t i, uint32_t f, uint16_t half)
{
    memcpy(scales + (i * OT_PANEL + f) * sizeof half, &half, sizeof half);
}

/* The scales of one block or superblock of a file, the n-th of a row, for feature f. */
static void store_scales(const ot_matrix *m, uint8_t *scales, uint32_t n, uint32_t f, const ot_file_scales *s)
{
    uint8_t *group = scales + n * ot_panel_group_bytes(m);
    uint32_t n_bytes = 0;
    switch (m->scales) {
    case OT_SCALES_HALF:
        for (uint32_t i = 0; i < ot_panel_values(m); i++)
            put_half(scales, n * ot_panel_values(m) + i, f, s->half[i]);
        return;
    case OT_SCALES_E8: scales[n * OT_PANEL + f] = s->byte[0]; return;
    case OT_SCALES_K: n_bytes = 12; break;
    case OT_SCALES_K2: n_bytes = 16; break;
    case OT_SCALES_I8: n_bytes = OT_SCALE_BLOCKS * m->n_scales; break;
    }
    put_half(group, 0, f, s->half[0]);
    if (m->has_min)
        put_half(group, 1, f, s->half[1]);
    for (uint32_t i = 0; i < n_bytes; i++)
        group[(m->has_min ? 64 : 32) + i * OT_PANEL + f] = s->byte[i];
}

static void pack_quantised(const ot_matrix *m, const ot_file_form *form, const uint8_t *rows)
{
    const uint32_t block = ot_type_block(form->type), block_bytes = ot_type_block_bytes(form->type), n_blocks = m->n_in / block;
    const size_t code_bytes = ot_panel_code_bytes(m->format);
    memset(m->data + (m->n_panels - 1) * m->panel_bytes, 0, m->panel_bytes); /* features that do not exist */
    for (uint32_t o = 0; o < m->n_out; o++) {
        uint8_t *codes = m->data + (size_t)(o / OT_PANEL) * m->panel_bytes;
        uint8_t *scales = codes + ot_panel_blocks(m) * code_bytes;
        for (uint32_t n = 0; n < n_blocks; n++, rows += block_bytes) {
            uint8_t code[OT_FILE_BLOCK];
            ot_file_scales s;
            form->unpack(code, &s, rows);
            for (uint32_t k = 0; k < block; k += OT_QBLOCK)
                put_block(m->format, codes + (n * block + k) / OT_QBLOCK * code_bytes, o % OT_PANEL, code + k);
            store_scales(m, scales, n, o % OT_PANEL, &s);
        }
    }
}

static void row_quantised(const ot_matrix *m, uint32_t o, float *dst)
{
    const uint32_t panel = o / OT_PANEL, f = o % OT_PANEL, n_blocks = ot_panel_blocks(m);
    const int32_t zero = ot_code_zero(m->format, m->has_min);
    const uint8_t *codes = ot_panel_codes(m, panel), *scales = ot_panel_scales(m, panel);
    for (uint32_t b = 0; b < n_blocks; b++, codes += ot_panel_code_bytes(m->format)) {
        float value[4] = {0};
        for (uint32_t i = 0; i < ot_panel_values(m); i++)
            value[i] = ot_panel_value(m, scales, b, i, f);
        for (uint32_t k = 0; k < OT_QBLOCK; k++) {
            const uint32_t s = k * m->n_scales / OT_QBLOCK;
            const float w = value[s] * (float)(ot_panel_code(m->format, codes, k, f) - zero);
            dst[b * OT_QBLOCK + k] = m->has_min ? w + value[m->n_scales + s] : w;
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
    return m->n_scales > 0;
}

/* Fills the sizes; n_in and n_out are below 2^32, so panel_bytes cannot overflow a size_t of 64 bits. */
static void set_sizes(ot_matrix *m, const ot_file_form *form, uint32_t n_in, uint32_t n_out)
{
    *m = (ot_matrix){.format = form->format, .n_in = n_in, .n_out = n_out, .scales = form->scales, .has_min = form->has_min,
                     .n_scales = form->n_scales};
    m->n_panels = n_out / OT_PANEL + (n_out % OT_PANEL != 0);
    if (ot_matrix_takes_q8(m))
        m->panel_bytes = ot_panel_blocks(m) * ot_panel_code_bytes(m->format) + ot_panel_scale_bytes(m);
    else
        m->panel_bytes = (size_t)n_in * OT_PANEL * float_bytes(form->format);
    m->panel_bytes = (m->panel_bytes + 63) / 64 * 64;
}

ot_status ot_matrix_pack(ot_matrix *out, ot_type type, const void *rows, uint32_t n_in, uint32_t n_out, ot_error *err)
{
    const ot_file_form *form = ot_file_form_of(type);
    size_t bytes;

    *out = (ot_matrix){0};
    if (form == NULL)
        return ot_fail(err, OT_ERR_UNSUPPORTED, "cannot pack weights of type %s", ot_type_name(type));
    if (n_in == 0 || n_out == 0 || n_in % ot_type_block(type) != 0)
        return ot_fail(err, OT_ERR_INVALID, "cannot pack %u x %u weights of type %s, which come in blocks of %u", n_out,
                       n_in, ot_type_name(type), ot_type_block(type));
    set_sizes(out, form, n_in, n_out);
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
        pack_quantised(out, form, rows);
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
