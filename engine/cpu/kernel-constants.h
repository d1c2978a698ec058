/* Constants that every variant of the kernels shares, so that results agree to the last bit.
 *
 * This library's exp:
 *     t = fma(x, LOG2E, MAGIC)      the low bits of t are n = round(x / ln 2): MAGIC = 1.5 * 2^23
 *     n = t - MAGIC                 exact
 *     r = fma(-n, LN2_HI, x); r = fma(-n, LN2_LO, r)         |r| <= ln2 / 2
 *     p = 1 + r + r^2 (C2 + r (C3 + r (C4 + r (C5 + r C6)))), all by fma
 *     e = p with (bits of t) << 23 added to its bits: times 2^n, since both p and e are normal numbers
 *
 * C2..C6 minimise the largest relative error (3.1e-9 before rounding; found by Remez's exchange).
 */
#ifndef OTTER_ENGINE_CPU_KERNEL_CONSTANTS_H
#define OTTER_ENGINE_CPU_KERNEL_CONSTANTS_H

#define OT_EXP_MIN -87.3f /* below: 0 */
#define OT_EXP_MAX 88.7f  /* above: infinity */
#define OT_EXP_LOG2E 0x1.715476p+0f
#define OT_EXP_MAGIC 0x1.8p+23f
#define OT_EXP_LN2_HI 0x1.62ep-1f
#define OT_EXP_LN2_LO 0x1.0bfbe8p-15f
#define OT_EXP_C2 0x1.fffffcp-2f
#define OT_EXP_C3 0x1.555492p-3f
#define OT_EXP_C4 0x1.5558f4p-5f
#define OT_EXP_C5 0x1.123a20p-7f
#define OT_EXP_C6 0x1.6a23c8p-10f

/* The tanh form of GELU is x * sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)) = x / (1 + exp(x (C0 + C1 x^2))):
 * C0 = -2 sqrt(2/pi), C1 = 0.044715 C0. */
#define OT_GELU_C0 -0x1.988454p+0f
#define OT_GELU_C1 -0x1.2444f2p-4f

/* Quantisation of a block of activations: below TINY (127 / amax would overflow soon after) the block is zero; from
 * INF_BITS on (as the bits of the largest magnitude) it holds an infinity or NaN, and its scale becomes NaN. */
#define OT_QUANT_TINY 0x1p-100f
#define OT_QUANT_INF_BITS 0x7f800000u
/* The largest codes of the narrow and of the wide form. */
#define OT_QUANT_NARROW 127.0f
#define OT_QUANT_WIDE 32767.0f

#endif
