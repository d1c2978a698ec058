/* The operations of lanes.h on one AVX-512 register. */
#ifndef OTTER_ENGINE_CPU_LANES_AVX512_H
#define OTTER_ENGINE_CPU_LANES_AVX512_H
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

#include "engine/cpu/lanes.h"

#include <immintrin.h>
#include <math.h>
#include <stdint.h>

#define OT_LANES 16
typedef __m512 v16;

/* Shapes of register tiles, out of 32 registers. */
#define OT_TILE_ROWS 8       /* float products: rows x panels (vectors) */
#define OT_TILE_PANELS 2
#define OT_SCORE_QUERIES 8   /* attention scores: queries x 16-slot vectors */
#define OT_SCORE_VECTORS 2
#define OT_VALUE_QUERIES 6   /* attention values: queries x 16-float vectors of a head */
#define OT_VALUE_VECTORS 4

/* The first n lanes, n <= 16. */
OT_INLINE __mmask16 v16_first(uint32_t n)
{
    return (__mmask16)((1u << n) - 1u);
}

OT_INLINE v16 v16_zero(void) { return _mm512_setzero_ps(); }
OT_INLINE v16 v16_set1(float f) { return _mm512_set1_ps(f); }
OT_INLINE v16 v16_load(const float *p) { return _mm512_loadu_ps(p); }
OT_INLINE void v16_store(float *p, v16 v) { _mm512_storeu_ps(p, v); }
/* Touch the first n floats alone; lanes that are not loaded are 0. */
OT_INLINE v16 v16_load_n(const float *p, uint32_t n) { return _mm512_maskz_loadu_ps(v16_first(n), p); }
OT_INLINE void v16_store_n(float *p, v16 v, uint32_t n) { _mm512_mask_storeu_ps(p, v16_first(n), v); }
OT_INLINE v16 v16_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p)); }
OT_INLINE v16 v16_load_bf16(const uint16_t *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
OT_INLINE v16 v16_load_u8(const uint8_t *p) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p))); }
OT_INLINE v16 v16_load_i8(const uint8_t *p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p))); }
OT_INLINE void v16_store_f16(uint16_t *p, v16 v)
{
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

OT_INLINE v16 v16_add(v16 a, v16 b) { return _mm512_add_ps(a, b); }
OT_INLINE v16 v16_sub(v16 a, v16 b) { return _mm512_sub_ps(a, b); }
OT_INLINE v16 v16_mul(v16 a, v16 b) { return _mm512_mul_ps(a, b); }
OT_INLINE v16 v16_div(v16 a, v16 b) { return _mm512_div_ps(a, b); }
/* a * b + c, and c - a * b */
OT_INLINE v16 v16_fma(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a, b, c); }
OT_INLINE v16 v16_fnma(v16 a, v16 b, v16 c) { return _mm512_fnmadd_ps(a, b, c); }
/* x if x > y, else y: y if either is NaN */
OT_INLINE v16 v16_max(v16 x, v16 y) { return _mm512_max_ps(x, y); }
/* The first n lanes from a, the others from b. */
OT_INLINE v16 v16_first_of(v16 a, v16 b, uint32_t n) { return _mm512_mask_blend_ps(v16_first(n), b, a); }

OT_INLINE __m256 v16_upper(v16 v) { return _mm512_extractf32x8_ps(v, 1); }
OT_INLINE __m256 v16_lower(v16 v) { return _mm512_castps512_ps256(v); }

/* a[i], -b[i] + c[i], ... : even lanes a - b, odd lanes a + b */
OT_INLINE v16 v16_subadd(v16 a, v16 b) { return _mm512_mask_sub_ps(_mm512_add_ps(a, b), 0x5555, a, b); }
OT_INLINE v16 v16_dup_even(v16 v) { return _mm512_moveldup_ps(v); }
OT_INLINE v16 v16_dup_odd(v16 v) { return _mm512_movehdup_ps(v); }
OT_INLINE v16 v16_swap_pairs(v16 v) { return _mm512_permute_ps(v, 0xb1); }
/* The even and odd elements of 32 floats. */
OT_INLINE void v16_load_pairs(const float *p, v16 *even, v16 *odd)
{
    const __m512i at = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    v16 a = v16_load(p), b = v16_load(p + 16);
    *even = _mm512_permutex2var_ps(a, at, b);
    *odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(at, _mm512_set1_epi32(1)), b);
}

/* The last steps of exp (kernel-constants.h): p * 2^n where t holds n in its low bits, for x in range. */
OT_INLINE v16 v16_exp_finish(v16 x, v16 t, v16 p)
{
    __m512i bits = _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(t), 23));
    v16 e = _mm512_castsi512_ps(bits);
    e = _mm512_mask_mov_ps(e, _mm512_cmp_ps_mask(x, _mm512_set1_ps(OT_EXP_MIN), _CMP_LT_OQ), _mm512_setzero_ps());
    e = _mm512_mask_mov_ps(e, _mm512_cmp_ps_mask(x, _mm512_set1_ps(OT_EXP_MAX), _CMP_GT_OQ), _mm512_set1_ps(INFINITY));
    return _mm512_mask_mov_ps(e, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x);
}

/* The largest magnitude of 32 floats, as bits (NaN is above infinity). */
OT_INLINE uint32_t v16_amax_bits(v16 a, v16 b)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i x = _mm512_and_si512(_mm512_castps_si512(a), magnitude), y = _mm512_and_si512(_mm512_castps_si512(b), magnitude);
    return (uint32_t)_mm512_reduce_max_epi32(_mm512_max_epi32(x, y));
}

/* Rounds 32 floats in -127.5..127.5 to nearest even, stores them as bytes and returns their sum. */
OT_INLINE int32_t v16_store_i8(int8_t *dst, v16 a, v16 b)
{
    __m512i x = _mm512_cvtps_epi32(a), y = _mm512_cvtps_epi32(b);
    _mm_storeu_si128((__m128i *)(void *)dst, _mm512_cvtepi32_epi8(x));
    _mm_storeu_si128((__m128i *)(void *)(dst + 16), _mm512_cvtepi32_epi8(y));
    return _mm512_reduce_add_epi32(_mm512_add_epi32(x, y));
}

/* The same in -32767.5..32767.5, as 16-bit numbers. */
OT_INLINE int32_t v16_store_i16(int16_t *dst, v16 a, v16 b)
{
    __m512i x = _mm512_cvtps_epi32(a), y = _mm512_cvtps_epi32(b);
    _mm256_storeu_si256((__m256i *)(void *)dst, _mm512_cvtepi32_epi16(x));
    _mm256_storeu_si256((__m256i *)(void *)(dst + 16), _mm512_cvtepi32_epi16(y));
    return _mm512_reduce_add_epi32(_mm512_add_epi32(x, y));
}

#endif
#endif
