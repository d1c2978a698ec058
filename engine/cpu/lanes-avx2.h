/* The operations of lanes.h on a pair of AVX2 registers (with FMA and F16C). lanes-avx512.h says what each does. */
#ifndef OTTER_ENGINE_CPU_LANES_AVX2_H
#define OTTER_ENGINE_CPU_LANES_AVX2_H
#if defined(__AVX2__) && !defined(__AVX512F__)

#include "engine/cpu/lanes.h"

#include <immintrin.h>
#include <math.h>
#include <stdint.h>

#define OT_LANES 16
typedef struct v16 {
    __m256 lo, hi;
} v16;

/* Shapes of register tiles, out of 16 registers; a v16 takes two. */
#define OT_TILE_ROWS 6
#define OT_TILE_PANELS 1
#define OT_SCORE_QUERIES 6
#define OT_SCORE_VECTORS 1
#define OT_VALUE_QUERIES 6
#define OT_VALUE_VECTORS 1

OT_INLINE v16 v16_pair(__m256 lo, __m256 hi) { return (v16){lo, hi}; }
OT_INLINE __m256i v16_mask8(int32_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

OT_INLINE v16 v16_zero(void) { return v16_pair(_mm256_setzero_ps(), _mm256_setzero_ps()); }
OT_INLINE v16 v16_set1(float f) { return v16_pair(_mm256_set1_ps(f), _mm256_set1_ps(f)); }
OT_INLINE v16 v16_load(const float *p) { return v16_pair(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
OT_INLINE void v16_store(float *p, v16 v)
{
    _mm256_storeu_ps(p, v.lo);
    _mm256_storeu_ps(p + 8, v.hi);
}
OT_INLINE v16 v16_load_n(const float *p, uint32_t n)
{
    return v16_pair(_mm256_maskload_ps(p, v16_mask8((int32_t)n)), _mm256_maskload_ps(p + 8, v16_mask8((int32_t)n - 8)));
}
OT_INLINE void v16_store_n(float *p, v16 v, uint32_t n)
{
    _mm256_maskstore_ps(p, v16_mask8((int32_t)n), v.lo);
    _mm256_maskstore_ps(p + 8, v16_mask8((int32_t)n - 8), v.hi);
}
OT_INLINE __m128i v16_load_halves(const uint16_t *p) { return _mm_loadu_si128((const __m128i *)(const void *)p); }
OT_INLINE v16 v16_load_f16(const uint16_t *p)
{
    return v16_pair(_mm256_cvtph_ps(v16_load_halves(p)), _mm256_cvtph_ps(v16_load_halves(p + 8)));
}
OT_INLINE __m256 v16_widen_bf16(__m128i halves)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
OT_INLINE v16 v16_load_bf16(const uint16_t *p)
{
    return v16_pair(v16_widen_bf16(v16_load_halves(p)), v16_widen_bf16(v16_load_halves(p + 8)));
}
OT_INLINE __m128i v16_load_8(const uint8_t *p) { return _mm_loadl_epi64((const __m128i *)(const void *)p); }
OT_INLINE v16 v16_load_u8(const uint8_t *p)
{
    return v16_pair(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(v16_load_8(p))), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(v16_load_8(p + 8))));
}
OT_INLINE v16 v16_load_i8(const uint8_t *p)
{
    return v16_pair(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v16_load_8(p))), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v16_load_8(p + 8))));
}
OT_INLINE void v16_store_f16(uint16_t *p, v16 v)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(v.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128((__m128i *)(void *)(p + 8), _mm256_cvtps_ph(v.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

OT_INLINE v16 v16_add(v16 a, v16 b) { return v16_pair(_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)); }
OT_INLINE v16 v16_sub(v16 a, v16 b) { return v16_pair(_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)); }
OT_INLINE v16 v16_mul(v16 a, v16 b) { return v16_pair(_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)); }
OT_INLINE v16 v16_div(v16 a, v16 b) { return v16_pair(_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)); }
OT_INLINE v16 v16_fma(v16 a, v16 b, v16 c)
{
    return v16_pair(_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi));
}
OT_INLINE v16 v16_fnma(v16 a, v16 b, v16 c)
{
    return v16_pair(_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi));
}
OT_INLINE v16 v16_max(v16 x, v16 y) { return v16_pair(_mm256_max_ps(x.lo, y.lo), _mm256_max_ps(x.hi, y.hi)); }
OT_INLINE v16 v16_first_of(v16 a, v16 b, uint32_t n)
{
    return v16_pair(_mm256_blendv_ps(b.lo, a.lo, _mm256_castsi256_ps(v16_mask8((int32_t)n))),
                    _mm256_blendv_ps(b.hi, a.hi, _mm256_castsi256_ps(v16_mask8((int32_t)n - 8))));
}

OT_INLINE __m256 v16_upper(v16 v) { return v.hi; }
OT_INLINE __m256 v16_lower(v16 v) { return v.lo; }

OT_INLINE v16 v16_subadd(v16 a, v16 b) { return v16_pair(_mm256_addsub_ps(a.lo, b.lo), _mm256_addsub_ps(a.hi, b.hi)); }
OT_INLINE v16 v16_dup_even(v16 v) { return v16_pair(_mm256_moveldup_ps(v.lo), _mm256_moveldup_ps(v.hi)); }
OT_INLINE v16 v16_dup_odd(v16 v) { return v16_pair(_mm256_movehdup_ps(v.lo), _mm256_movehdup_ps(v.hi)); }
OT_INLINE v16 v16_swap_pairs(v16 v)
{
    return v16_pair(_mm256_permute_ps(v.lo, 0xb1), _mm256_permute_ps(v.hi, 0xb1));
}
/* Even or odd elements (`which` 0x88 or 0xdd) of two registers, in order. */
#define V16_EVERY_OTHER(a, b, which) \
    _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(_mm256_shuffle_ps(a, b, which)), 0xd8))
OT_INLINE void v16_load_pairs(const float *p, v16 *even, v16 *odd)
{
    v16 a = v16_load(p), b = v16_load(p + 16);
    *even = v16_pair(V16_EVERY_OTHER(a.lo, a.hi, 0x88), V16_EVERY_OTHER(b.lo, b.hi, 0x88));
    *odd = v16_pair(V16_EVERY_OTHER(a.lo, a.hi, 0xdd), V16_EVERY_OTHER(b.lo, b.hi, 0xdd));
}

OT_INLINE __m256 v16_exp_finish8(__m256 x, __m256 t, __m256 p)
{
    __m256i bits = _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(t), 23));
    __m256 e = _mm256_castsi256_ps(bits);
    e = _mm256_blendv_ps(e, _mm256_setzero_ps(), _mm256_cmp_ps(x, _mm256_set1_ps(OT_EXP_MIN), _CMP_LT_OQ));
    e = _mm256_blendv_ps(e, _mm256_set1_ps(INFINITY), _mm256_cmp_ps(x, _mm256_set1_ps(OT_EXP_MAX), _CMP_GT_OQ));
    return _mm256_blendv_ps(e, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}
OT_INLINE v16 v16_exp_finish(v16 x, v16 t, v16 p)
{
    return v16_pair(v16_exp_finish8(x.lo, t.lo, p.lo), v16_exp_finish8(x.hi, t.hi, p.hi));
}

OT_INLINE __m256i v16_magnitude(__m256 v)
{
    return _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fffffff));
}
OT_INLINE uint32_t v16_amax_bits(v16 a, v16 b)
{
    __m256i m = _mm256_max_epi32(_mm256_max_epi32(v16_magnitude(a.lo), v16_magnitude(a.hi)),
                                 _mm256_max_epi32(v16_magnitude(b.lo), v16_magnitude(b.hi)));
    __m128i n = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
    n = _mm_max_epi32(n, _mm_shuffle_epi32(n, 0x4e));
    n = _mm_max_epi32(n, _mm_shuffle_epi32(n, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(n);
}

OT_INLINE int32_t sum_of_i32(__m256i sum)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s);
}

OT_INLINE int32_t v16_store_i8(int8_t *dst, v16 a, v16 b)
{
    __m256i i0 = _mm256_cvtps_epi32(a.lo), i1 = _mm256_cvtps_epi32(a.hi);
    __m256i i2 = _mm256_cvtps_epi32(b.lo), i3 = _mm256_cvtps_epi32(b.hi);
    /* The packs work within halves of 128 bits: dwords 0 4 1 5 2 6 3 7 put the bytes back in order. */
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(i0, i1), _mm256_packs_epi32(i2, i3));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)(void *)dst, bytes);
    return sum_of_i32(_mm256_add_epi32(_mm256_add_epi32(i0, i1), _mm256_add_epi32(i2, i3)));
}

/* The same in -32767.5..32767.5, as 16-bit numbers. */
OT_INLINE int32_t v16_store_i16(int16_t *dst, v16 a, v16 b)
{
    __m256i i0 = _mm256_cvtps_epi32(a.lo), i1 = _mm256_cvtps_epi32(a.hi);
    __m256i i2 = _mm256_cvtps_epi32(b.lo), i3 = _mm256_cvtps_epi32(b.hi);
    _mm256_storeu_si256((__m256i *)(void *)dst, _mm256_permute4x64_epi64(_mm256_packs_epi32(i0, i1), 0xd8));
    _mm256_storeu_si256((__m256i *)(void *)(dst + 16), _mm256_permute4x64_epi64(_mm256_packs_epi32(i2, i3), 0xd8));
    return sum_of_i32(_mm256_add_epi32(_mm256_add_epi32(i0, i1), _mm256_add_epi32(i2, i3)));
}

#endif
#endif
