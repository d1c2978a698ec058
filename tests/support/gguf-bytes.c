/* Laying out GGUF bytes by hand. */
#include "tests/support/gguf-bytes.h"

#include <string.h>

void gguf_bytes_raw(gguf_bytes *b, const void *data, size_t n)
{
    if (n > sizeof b->bytes - b->size) {
        b->overrun = true;
        return;
    }
    memcpy(b->bytes + b->size, data, n);
    b->size += n;
}

void gguf_bytes_u8(gguf_bytes *b, uint8_t value)
{
    gguf_bytes_raw(b, &value, sizeof value);
}

void gguf_bytes_u16(gguf_bytes *b, uint16_t value)
{
    gguf_bytes_raw(b, &value, sizeof value);
}

void gguf_bytes_u32(gguf_bytes *b, uint32_t value)
{
    gguf_bytes_raw(b, &value, sizeof value);
}

void gguf_bytes_u64(gguf_bytes *b, uint64_t value)
{
    gguf_bytes_raw(b, &value, sizeof value);
}

void gguf_bytes_f32(gguf_bytes *b, float value)
{
    gguf_bytes_raw(b, &value, sizeof value);
}

void gguf_bytes_f64(gguf_bytes *b, double value)
{
    gguf_bytes_raw(b, &value, sizeof value);
}

void gguf_bytes_str(gguf_bytes *b, const char *text)
{
    gguf_bytes_u64(b, strlen(text));
    gguf_bytes_raw(b, text, strlen(text));
}

void gguf_bytes_header(gguf_bytes *b, uint32_t version, uint64_t n_tensors, uint64_t n_keys)
{
    gguf_bytes_raw(b, "GGUF", 4);
    gguf_bytes_u32(b, version);
    gguf_bytes_u64(b, n_tensors);
    gguf_bytes_u64(b, n_keys);
}

void gguf_bytes_key(gguf_bytes *b, const char *name, ot_gguf_type type)
{
    gguf_bytes_str(b, name);
    gguf_bytes_u32(b, (uint32_t)type);
}

void gguf_bytes_array(gguf_bytes *b, const char *name, ot_gguf_type element, uint64_t count)
{
    gguf_bytes_key(b, name, OT_GGUF_ARRAY);
    gguf_bytes_u32(b, (uint32_t)element);
    gguf_bytes_u64(b, count);
}

void gguf_bytes_tensor(gguf_bytes *b, const char *name, uint32_t type, uint64_t dim0, uint64_t dim1, uint64_t offset)
{
    gguf_bytes_str(b, name);
    gguf_bytes_u32(b, 2);
    gguf_bytes_u64(b, dim0);
    gguf_bytes_u64(b, dim1);
    gguf_bytes_u32(b, type);
    gguf_bytes_u64(b, offset);
}

void gguf_bytes_pad(gguf_bytes *b, size_t alignment)
{
    while (b->size % alignment != 0 && !b->overrun)
        gguf_bytes_u8(b, 0);
}

static void sample_keys(gguf_bytes *b)
{
    gguf_bytes_key(b, "general.architecture", OT_GGUF_STRING), gguf_bytes_str(b, "llama");
    gguf_bytes_key(b, "v.u8", OT_GGUF_U8), gguf_bytes_u8(b, 200);
    gguf_bytes_key(b, "v.i8", OT_GGUF_I8), gguf_bytes_u8(b, 200);
    gguf_bytes_key(b, "v.u16", OT_GGUF_U16), gguf_bytes_u16(b, 60000);
    gguf_bytes_key(b, "v.i16", OT_GGUF_I16), gguf_bytes_u16(b, 60000);
    gguf_bytes_key(b, "v.u32", OT_GGUF_U32), gguf_bytes_u32(b, 4000000000u);
    gguf_bytes_key(b, "v.i32", OT_GGUF_I32), gguf_bytes_u32(b, 4000000000u);
    gguf_bytes_key(b, "v.f32", OT_GGUF_F32), gguf_bytes_f32(b, 1e-5f);
    gguf_bytes_key(b, "v.bool", OT_GGUF_BOOL), gguf_bytes_u8(b, 1);
    gguf_bytes_key(b, "v.string", OT_GGUF_STRING), gguf_bytes_str(b, "caf\xc3\xa9\n\x1b[31m\xff");
    gguf_bytes_key(b, "v.u64", OT_GGUF_U64), gguf_bytes_u64(b, 1ull << 63);
    gguf_bytes_key(b, "v.i64", OT_GGUF_I64), gguf_bytes_u64(b, ~0ull);
    gguf_bytes_key(b, "v.f64", OT_GGUF_F64), gguf_bytes_f64(b, 0.1);
    gguf_bytes_key(b, "general.alignment", OT_GGUF_U32), gguf_bytes_u32(b, 64);
    gguf_bytes_array(b, "a.string", OT_GGUF_STRING, 3);
    gguf_bytes_str(b, "one"), gguf_bytes_str(b, ""), gguf_bytes_str(b, "three");
    gguf_bytes_array(b, "a.i16", OT_GGUF_I16, 3);
    gguf_bytes_u16(b, 1), gguf_bytes_u16(b, 0xffff), gguf_bytes_u16(b, 7);
    gguf_bytes_array(b, "a.f32", OT_GGUF_F32, 2), gguf_bytes_f32(b, 1.5f), gguf_bytes_f32(b, -2.0f);
    gguf_bytes_array(b, "a.bool", OT_GGUF_BOOL, 2), gguf_bytes_u8(b, 0), gguf_bytes_u8(b, 1);
    gguf_bytes_array(b, "a.empty", OT_GGUF_STRING, 0);
}

void gguf_bytes_sample(gguf_bytes *b)
{
    static const uint32_t types[] = {OT_TYPE_F32,  OT_TYPE_F16,  OT_TYPE_Q4_0, OT_TYPE_Q4_1, OT_TYPE_Q5_0,
                                     OT_TYPE_Q5_1, OT_TYPE_Q8_0, OT_TYPE_BF16, OT_TYPE_Q6_K};
    const uint32_t n = sizeof types / sizeof types[0];
    uint64_t offset = 0;
    b->size = 0;
    b->overrun = false;
    gguf_bytes_header(b, 3, n, 19);
    sample_keys(b);
    for (uint32_t i = 0; i < n; i++) {
        const char name[] = {'t', (char)('0' + i), 0};
        const uint32_t block = ot_type_block((ot_type)types[i]), width = block > 32 ? block : 32;
        gguf_bytes_tensor(b, name, types[i], width, 1, offset);
        offset += width / block * ot_type_block_bytes((ot_type)types[i]);
        offset += (64 - offset % 64) % 64;
    }
    gguf_bytes_pad(b, 64);
    for (uint64_t i = 0; i < offset; i++)
        gguf_bytes_u8(b, (uint8_t)(i * 37 + 11));
}
