/* The operations of integer-lanes.h on AVX-512.
 *
 * With VNNI, vpdpbusd multiplies unsigned codes by signed activations and adds four products to each sum; sums start
 * at minus the correction. Without it, vpmaddubsw makes pairs of products in 16 bits, as integer-lanes-avx2.h says. Products of 16-bit
 * activations are summed in pairs, vpdpwssd or vpmaddwd.
 */
#ifndef OTTER_ENGINE_CPU_INTEGER_LANES_AVX512_H
#define OTTER_ENGINE_CPU_INTEGER_LANES_AVX512_H
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

#include "engine/cpu/integer-lanes.h"

#include <string.h>

/* The register tile: rows x panels. */
#define OT_INT_ROWS 4
#define OT_INT_PANELS 2

typedef __m512i line16;
typedef __m512i quad16;
typedef __m512i sums16;

OT_INLINE line16 line_load(const uint8_t *codes) { return _mm512_loadu_si512(codes); }
OT_INLINE void line_store(uint8_t *p, line16 c) { _mm512_store_si512(p, c); }
OT_INLINE line16 line_and(line16 c, int byte) { return _mm512_and_si512(c, _mm512_set1_epi8((char)byte)); }
OT_INLINE line16 line_add(line16 c, int byte) { return _mm512_add_epi8(c, _mm512_set1_epi8((char)byte)); }
OT_INLINE line16 line_or(line16 a, line16 b) { return _mm512_or_si512(a, b); }
/* Bits move up, or down where `bits` is negative; from one byte into the next, too. */
OT_INLINE line16 line_shift(line16 c, int bits)
{
    return bits >= 0 ? _mm512_slli_epi16(c, (unsigned)bits) : _mm512_srli_epi16(c, (unsigned)-bits);
}
/* Entries of a table of 16 bytes, by the low nibble of bytes below 128. */
OT_INLINE line16 line_table(line16 c, const uint8_t *table)
{
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)table)), c);
}
OT_INLINE quad16 quad_set1(int32_t i) { return _mm512_set1_epi32(i); }
/* *i * 2^bits. The shift is made on the vector: a scalar one costs a register more than there are, and a way between the units. */
OT_INLINE quad16 quad_scaled(const int32_t *i, int bits) { return _mm512_slli_epi32(_mm512_set1_epi32(*i), bits); }
OT_INLINE quad16 quad_load(const int8_t *q)
{
    int32_t quad;
    memcpy(&quad, q, sizeof quad);
    return _mm512_set1_epi32(quad);
}

/* Inputs 0 and 1 (half 0) or 2 and 3 (half 1) of each feature of a line, as 16-bit numbers. */
OT_INLINE line16 line_pairs(line16 c, int half)
{
    const __m128i first = _mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1);
    const __m128i last = _mm_setr_epi8(2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1);
    return _mm512_shuffle_epi8(c, _mm512_broadcast_i32x4(half == 0 ? first : last));
}
/* Two 16-bit activations in every lane. */
OT_INLINE quad16 pair_load(const int16_t *q)
{
    int32_t pair;
    memcpy(&pair, q, sizeof pair);
    return _mm512_set1_epi32(pair);
}

OT_INLINE sums16 sum_add(sums16 a, sums16 b) { return _mm512_add_epi32(a, b); }

#if defined(__AVX512VNNI__)

OT_INLINE sums16 sum_pair(sums16 sum, line16 pairs, quad16 pair)
{
    return _mm512_dpwssd_epi32(sum, pairs, pair);
}

OT_INLINE sums16 sum_start(quad16 correction)
{
    return _mm512_sub_epi32(_mm512_setzero_si512(), correction);
}

OT_INLINE sums16 sum_quad(sums16 sum, line16 codes, quad16 quad, code_kind kind)
{
    (void)kind;
    return _mm512_dpbusd_epi32(sum, codes, quad);
}

OT_INLINE v16 sum_finish(sums16 sum, quad16 correction, code_kind kind)
{
    (void)correction;
    (void)kind;
    return _mm512_cvtepi32_ps(sum);
}

#else

OT_INLINE sums16 sum_pair(sums16 sum, line16 pairs, quad16 pair)
{
    sum = _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, pair));
    __asm__("" : "+v"(sum)); /* as in integer-lanes-avx2.h: gcc would turn the chain into a tree */
    return sum;
}

OT_INLINE sums16 sum_start(quad16 correction)
{
    (void)correction;
    return _mm512_setzero_si512();
}

OT_INLINE sums16 sum_quad(sums16 sum, line16 codes, quad16 quad, code_kind kind)
{
    if (codes_fit_block(kind)) {
        sum = _mm512_add_epi16(sum, _mm512_maddubs_epi16(codes, quad));
    } else if (codes_fit_pair(kind)) {
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(codes, quad), _mm512_set1_epi16(1)));
    } else {
        __m512i q = _mm512_xor_si512(codes, _mm512_set1_epi8(-128));
        __m512i x = _mm512_mask_sub_epi8(quad, _mm512_movepi8_mask(q), _mm512_setzero_si512(), quad);
        __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(q), x);
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
    }
    __asm__("" : "+v"(sum)); /* as in integer-lanes-avx2.h: gcc would turn the chain into a tree */
    return sum;
}

OT_INLINE v16 sum_finish(sums16 sum, quad16 correction, code_kind kind)
{
    if (kind.wide || codes_fit_pair(kind))
        sum = _mm512_sub_epi32(sum, correction);
    else if (codes_fit_block(kind))
        sum = _mm512_sub_epi32(_mm512_madd_epi16(sum, _mm512_set1_epi16(1)), correction);
    return _mm512_cvtepi32_ps(sum);
}

#endif

#endif
#endif
