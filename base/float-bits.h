/* A float's bits as a number, and back. */
#ifndef OTTER_BASE_FLOAT_BITS_H
#define OTTER_BASE_FLOAT_BITS_H

#include <stdint.h>
#include <string.h>

static inline uint32_t ot_float_to_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static inline float ot_float_from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

#endif
