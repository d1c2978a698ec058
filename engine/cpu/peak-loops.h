/* The loops behind machine-limits.h, for one instruction set: peak-avx2.c, peak-avx512.c and peak-vnni.c include this with the flags of
 * their kernels and OT_PEAKS set to the table's name.
 *
 * A loop has twelve independent chains, more than latency times throughput of any of these instructions; the empty asm keeps
 * each in its register and the loop as written. */
#ifndef OTTER_ENGINE_CPU_PEAK_LOOPS_H
#define OTTER_ENGINE_CPU_PEAK_LOOPS_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ot_peaks {
    double int8_ops, float_ops;                           /* of one call */
    void (*int8)(void);
    void (*float32)(void);
    uint64_t (*read)(const uint8_t *data, size_t bytes);  /* 64-byte aligned, a multiple of 256 bytes; the sum of its words */
} ot_peaks;

extern const ot_peaks ot_peaks_avx2;
extern const ot_peaks ot_peaks_avx512;
extern const ot_peaks ot_peaks_vnni;

#ifdef OT_PEAKS

enum { PEAK_ROUNDS = 20000, PEAK_CHAINS = 12 };
#define TWELVE(x) x(0) x(1) x(2) x(3) x(4) x(5) x(6) x(7) x(8) x(9) x(10) x(11)

#if defined(__AVX512F__)
typedef __m512i peak_ints;
typedef __m512 peak_floats;
#define INTS_SET1(i) _mm512_set1_epi8(i)
#define INTS_LOAD(p) _mm512_load_si512((const void *)(p))
#define INTS_ADD(a, b) _mm512_add_epi64(a, b)
#define FLOATS_SET1(x) _mm512_set1_ps(x)
#define FLOATS_FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#else
typedef __m256i peak_ints;
typedef __m256 peak_floats;
#define INTS_SET1(i) _mm256_set1_epi8(i)
#define INTS_LOAD(p) _mm256_load_si256((const __m256i *)(const void *)(p))
#define INTS_ADD(a, b) _mm256_add_epi64(a, b)
#define FLOATS_SET1(x) _mm256_set1_ps(x)
#define FLOATS_FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#endif

/* A product of all bytes, and its sum: in 32 bits at once, or in pairs of 16 bits. */
static void peak_int8(void)
{
    peak_ints s[PEAK_CHAINS];
    const peak_ints c = INTS_SET1(3);
#define START(i) s[i] = INTS_SET1(i);
#if defined(__AVX512VNNI__)
#define STEP(i)                                                  \
    s[i] = _mm512_dpbusd_epi32(s[i], c, c);                      \
    __asm__ volatile("" : "+v"(s[i]));
#else
    peak_ints pairs;
#define STEP(i) __asm__ volatile("vpmaddubsw %2, %2, %1\n\tvpaddw %1, %0, %0" : "+v"(s[i]), "=&v"(pairs) : "v"(c));
#endif
    TWELVE(START)
    for (int i = 0; i < PEAK_ROUNDS; i++) {
        TWELVE(STEP)
    }
#undef STEP
#undef START
}

static void peak_float32(void)
{
    peak_floats s[PEAK_CHAINS];
    const peak_floats c = FLOATS_SET1(0.5f);
#define START(i) s[i] = FLOATS_SET1(i);
#define STEP(i)                                                  \
    s[i] = FLOATS_FMA(s[i], c, c);                               \
    __asm__ volatile("" : "+v"(s[i]));
    TWELVE(START)
    for (int i = 0; i < PEAK_ROUNDS; i++) {
        TWELVE(STEP)
    }
#undef STEP
#undef START
}

static uint64_t peak_read(const uint8_t *data, size_t bytes)
{
    enum { WIDTH = sizeof(peak_ints) };
    peak_ints s[4] = {INTS_SET1(0), INTS_SET1(0), INTS_SET1(0), INTS_SET1(0)};
    for (size_t i = 0; i < bytes; i += 4 * WIDTH)
        for (int j = 0; j < 4; j++)
            s[j] = INTS_ADD(s[j], INTS_LOAD(data + i + (size_t)j * WIDTH));
    _Alignas(64) uint64_t lanes[WIDTH / sizeof(uint64_t)];
    const peak_ints sum = INTS_ADD(INTS_ADD(s[0], s[1]), INTS_ADD(s[2], s[3]));
    __builtin_memcpy(lanes, &sum, sizeof lanes);
    uint64_t total = 0;
    for (size_t i = 0; i < sizeof lanes / sizeof lanes[0]; i++)
        total += lanes[i];
    return total;
}

/* A byte's product and its addition. */
const ot_peaks OT_PEAKS = {
    .int8_ops = 2.0 * PEAK_ROUNDS * PEAK_CHAINS * sizeof(peak_ints),
    .float_ops = 2.0 * PEAK_ROUNDS * PEAK_CHAINS * sizeof(peak_floats) / sizeof(float),
    .int8 = peak_int8,
    .float32 = peak_float32,
    .read = peak_read,
};

#endif
#endif
