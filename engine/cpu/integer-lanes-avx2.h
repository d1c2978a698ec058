/* The operations of integer-lanes.h on pairs of AVX2 registers: features 0 to 7 and 8 to 15.
 *
 * vpmaddubsw makes pairs of products in 16 bits: of codes up to 15 they stay below 30,480 over a whole block and are widened
 * once; of codes up to 63, within 16,002, they are widened at once, and so are those of bytes, |q| x (the activation with the sign of
 * q), within 32,512. Products of 16-bit activations are summed in pairs by vpmaddwd.
 */
#ifndef OTTER_ENGINE_CPU_INTEGER_LANES_AVX2_H
#define OTTER_ENGINE_CPU_INTEGER_LANES_AVX2_H
#if defined(__AVX2__) && !defined(__AVX512F__)

#include "engine/cpu/integer-lanes.h"

#include <string.h>

/* The register tile: rows x panels. */
#define OT_INT_ROWS 4
#define OT_INT_PANELS 1

typedef struct line16 {
    __m256i lo, hi;
} line16;
typedef __m256i quad16;
typedef line16 sums16;

OT_INLINE __m256i line_half(const uint8_t *p) { return _mm256_load_si256((const __m256i *)(const void *)p); }
OT_INLINE line16 line_load(const uint8_t *codes) { return (line16){line_half(codes), line_half(codes + 32)}; }
OT_INLINE void line_store(uint8_t *p, line16 c)
{
    _mm256_store_si256((__m256i *)(void *)p, c.lo);
    _mm256_store_si256((__m256i *)(void *)(p + 32), c.hi);
}
OT_INLINE line16 line_and(line16 c, int byte)
{
    const __m256i mask = _mm256_set1_epi8((char)byte);
    return (line16){_mm256_and_si256(c.lo, mask), _mm256_and_si256(c.hi, mask)};
}
OT_INLINE line16 line_add(line16 c, int byte)
{
    const __m256i all = _mm256_set1_epi8((char)byte);
    return (line16){_mm256_add_epi8(c.lo, all), _mm256_add_epi8(c.hi, all)};
}
OT_INLINE line16 line_or(line16 a, line16 b) { return (line16){_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }
/* Bits move up, or down where `bits` is negative; from one byte into the next, too. */
OT_INLINE line16 line_shift(line16 c, int bits)
{
    if (bits >= 0)
        return (line16){_mm256_slli_epi16(c.lo, bits), _mm256_slli_epi16(c.hi, bits)};
    return (line16){_mm256_srli_epi16(c.lo, -bits), _mm256_srli_epi16(c.hi, -bits)};
}
/* Entries of a table of 16 bytes, by the low nibble of bytes below 128. */
OT_INLINE line16 line_table(line16 c, const uint8_t *table)
{
    const __m256i entries = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)table));
    return (line16){_mm256_shuffle_epi8(entries, c.lo), _mm256_shuffle_epi8(entries, c.hi)};
}
OT_INLINE quad16 quad_set1(int32_t i) { return _mm256_set1_epi32(i); }
/* *i * 2^bits. The shift is made on the vector: a scalar one costs a register more than there are, and a way between the units. */
OT_INLINE quad16 quad_scaled(const int32_t *i, int bits) { return _mm256_slli_epi32(_mm256_set1_epi32(*i), bits); }
OT_INLINE quad16 quad_load(const int8_t *q)
{
    int32_t quad;
    memcpy(&quad, q, sizeof quad);
    return _mm256_set1_epi32(quad);
}

/* Inputs 0 and 1 (half 0) or 2 and 3 (half 1) of each feature of a line, as 16-bit numbers. */
OT_INLINE line16 line_pairs(line16 c, int half)
{
    const __m128i first = _mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1);
    const __m128i last = _mm_setr_epi8(2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1);
    const __m256i order = _mm256_broadcastsi128_si256(half == 0 ? first : last);
    return (line16){_mm256_shuffle_epi8(c.lo, order), _mm256_shuffle_epi8(c.hi, order)};
}
/* Two 16-bit activations in every lane. */
OT_INLINE quad16 pair_load(const int16_t *q)
{
    int32_t pair;
    memcpy(&pair, q, sizeof pair);
    return _mm256_set1_epi32(pair);
}

OT_INLINE __m256i sum_pair_half(__m256i sum, __m256i pairs, quad16 pair)
{
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, pair));
    __asm__("" : "+x"(sum)); /* see sum_half */
    return sum;
}

OT_INLINE sums16 sum_pair(sums16 sum, line16 pairs, quad16 pair)
{
    return (sums16){sum_pair_half(sum.lo, pairs.lo, pair), sum_pair_half(sum.hi, pairs.hi, pair)};
}

OT_INLINE sums16 sum_add(sums16 a, sums16 b)
{
    return (sums16){_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}

OT_INLINE sums16 sum_start(quad16 correction)
{
    (void)correction;
    return (sums16){_mm256_setzero_si256(), _mm256_setzero_si256()};
}

/* The empty asm keeps each addition where it is: gcc would turn the chain into a tree, whose leaves do not fit the
 * registers. */
OT_INLINE __m256i sum_half(__m256i sum, __m256i codes, quad16 quad, code_kind kind)
{
    if (codes_fit_block(kind)) {
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, quad));
    } else if (codes_fit_pair(kind)) {
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, quad), _mm256_set1_epi16(1)));
    } else {
        __m256i q = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
        __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(quad, q));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    __asm__("" : "+x"(sum));
    return sum;
}

OT_INLINE sums16 sum_quad(sums16 sum, line16 codes, quad16 quad, code_kind kind)
{
    return (sums16){sum_half(sum.lo, codes.lo, quad, kind), sum_half(sum.hi, codes.hi, quad, kind)};
}

OT_INLINE __m256 finish_half(__m256i sum, quad16 correction, code_kind kind)
{
    if (kind.wide || codes_fit_pair(kind))
        sum = _mm256_sub_epi32(sum, correction);
    else if (codes_fit_block(kind))
        sum = _mm256_sub_epi32(_mm256_madd_epi16(sum, _mm256_set1_epi16(1)), correction);
    return _mm256_cvtepi32_ps(sum);
}

OT_INLINE v16 sum_finish(sums16 sum, quad16 correction, code_kind kind)
{
    return v16_pair(finish_half(sum.lo, correction, kind), finish_half(sum.hi, correction, kind));
}

#endif
#endif
