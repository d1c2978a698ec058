/* Half precision (IEEE 754 binary16) and bfloat16 to and from float, in plain integer arithmetic: the same bits on every machine,
 * subnormals, infinities and NaN included, rounding to nearest, ties to even. */
#include "base/float-bits.h"
#include "gguf/gguf.h"

float ot_f16_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    const uint32_t exponent = (h >> 10) & 31, mantissa = h & 1023;
    if (exponent == 0) { /* zero and subnormals: mantissa * 2^-24, exact in float */
        const float magnitude = (float)mantissa * 0x1p-24f;
        return ot_float_from_bits(ot_float_to_bits(magnitude) | sign);
    }
    if (exponent == 31) /* NaN becomes quiet, as the processor's own conversion has it */
        return ot_float_from_bits(sign | 0x7f800000 | mantissa << 13 | (mantissa != 0 ? 0x400000u : 0));
    return ot_float_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t ot_f32_to_f16(float f)
{
    const uint32_t bits = ot_float_to_bits(f), magnitude = bits & 0x7fffffff;
    const uint16_t sign = (uint16_t)((bits >> 16) & 0x8000);
    if (magnitude > 0x7f800000) /* NaN stays one, quiet, with the top of its payload */
        return (uint16_t)(sign | 0x7e00 | ((magnitude >> 13) & 0x3ff));
    if (magnitude >= 0x47800000) /* 65536 and above; what lies below and rounds up overflows by its carry */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude >= 0x38800000) { /* 2^-14 and above: normal; the carry runs into the exponent */
        const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
        return (uint16_t)(sign | ((rounded >> 13) - (112 << 10)));
    }
    if (magnitude < 0x33000000) /* below 2^-25: nothing is left */
        return sign;
    /* Subnormal: the 24-bit significand shifted so that its unit is 2^-24, rounded on what falls off. */
    const uint32_t shift = 126 - (magnitude >> 23), significand = (magnitude & 0x7fffff) | 0x800000;
    const uint32_t kept = significand >> shift, lost = significand & ((1u << shift) - 1), half = 1u << (shift - 1);
    return (uint16_t)(sign | (kept + (lost > half || (lost == half && (kept & 1)))));
}

float ot_bf16_to_f32(uint16_t b)
{
    return ot_float_from_bits((uint32_t)b << 16);
}

uint16_t ot_f32_to_bf16(float f)
{
    const uint32_t bits = ot_float_to_bits(f);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
