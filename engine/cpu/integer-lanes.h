/* Integer sums of 16 features at a time, for integer-products.h: `line16` is a line of codes (16 features x 4 inputs),
 * `quad16` four activations (two of 16 bits) in every lane, `sums16` the running sums. Chosen by instruction set like lanes.h. */
#ifndef OTTER_ENGINE_CPU_INTEGER_LANES_H
#define OTTER_ENGINE_CPU_INTEGER_LANES_H

#include "engine/cpu/lanes.h"
#include "engine/kernels.h"

#include <stdbool.h>
#include <stdint.h>

/* What a product needs to know of the weights, and of the activations, at compile time. */
typedef struct code_kind {
    ot_pack_format format;
    bool has_min;
    int n_scales;
    bool halves; /* scales are halves, read where they lie; others are unpacked to floats first, 8 blocks at a time */
    bool wide;   /* 16-bit activations */
    bool apart;  /* codes have been taken apart: a line for each quad, as it is multiplied */
} code_kind;

/* How vpmaddubsw sums products of codes with 8-bit activations: codes of up to 4 bits stay within 16 bits over a whole block, those of
 * up to 6 over a pair. Larger ones are multiplied as signed numbers, code - 128, and need no correction. */
OT_INLINE bool codes_fit_block(code_kind kind)
{
    return kind.format == OT_PACK_U2 || kind.format == OT_PACK_U3 || kind.format == OT_PACK_U4;
}
OT_INLINE bool codes_fit_pair(code_kind kind) { return kind.format == OT_PACK_U5 || kind.format == OT_PACK_U6; }

#if defined(__AVX512F__)
#include "engine/cpu/integer-lanes-avx512.h"
#elif defined(__AVX2__)
#include "engine/cpu/integer-lanes-avx2.h"
#endif

#ifdef OT_LANES
/* The sum of 16 activations. */
OT_INLINE int32_t sum_of_16(const int8_t *q)
{
    __m128i bytes = _mm_xor_si128(_mm_loadu_si128((const __m128i *)(const void *)q), _mm_set1_epi8(-128));
    __m128i sums = _mm_sad_epu8(bytes, _mm_setzero_si128());
    return _mm_cvtsi128_si32(sums) + _mm_extract_epi32(sums, 2) - 16 * 128;
}

OT_INLINE int32_t sum_of_16_wide(const int16_t *q)
{
    const __m256i *at = (const __m256i *)(const void *)q;
    __m256i eight = _mm256_madd_epi16(_mm256_loadu_si256(at), _mm256_set1_epi16(1));
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
#endif

#endif
