/* Quantisation to 4 and 5 bits with the least squared error that a short search finds: what trained insertions are written with.
 *
 * By the extremes of a block, which quants-encode.c takes, the squared error of bell-shaped weights is 1.15 times what it need be: a step
 * that is a little shorter cuts the outermost weights and resolves all others better. So several steps are tried. Each gives codes; for codes that are
 * fixed the best scale (and minimum) is a linear regression of the weights on the codes; those, rounded to the halves that the file
 * holds, give the codes of the trial, and its error is measured as the reader will see it. The first trial is the range as it is, so
 * that no block comes out worse than by its extremes, and one that is made of representable values comes out as it is. */
#include <math.h>
#include <string.h>

#include "gguf/gguf.h"

#define BLOCK 32
#define MAX_HALF 65504.0f

typedef struct block_form {
    int bits;         /* of a code: 4 or 5 */
    bool has_minimum; /* weight = d * q + m; else d * (q - 2^(bits - 1)) */
} block_form;

typedef struct trial {
    float d, m;       /* values of halves; without a minimum m = -d * 2^(bits - 1) */
    uint8_t q[BLOCK];
    double error;     /* sum of squares */
} trial;

static float as_half(float x)
{
    return ot_f16_to_f32(ot_f32_to_f16(x));
}

static uint8_t code_of(float x, int top)
{
    return x > 0 ? x < (float)top ? (uint8_t)(x + 0.5f) : (uint8_t)top : 0;
}

/* Codes for steps of d from m, which need not be halves. */
static void choose_codes(trial *t, const float *x, int top)
{
    const float inverse = t->d != 0 ? 1.0f / t->d : 0.0f;
    for (int i = 0; i < BLOCK; i++)
        t->q[i] = isfinite(inverse) ? code_of((x[i] - t->m) * inverse, top) : 0;
}

/* Rounds d and m to halves, chooses codes for these, and measures. */
static void settle(trial *t, const float *x, block_form form)
{
    const int top = (1 << form.bits) - 1, zero = 1 << (form.bits - 1);
    t->d = as_half(t->d);
    t->m = form.has_minimum ? as_half(t->m) : -t->d * (float)zero;
    choose_codes(t, x, top);
    t->error = 0;
    for (int i = 0; i < BLOCK; i++) {
        const float read = form.has_minimum ? t->d * (float)t->q[i] + t->m : t->d * (float)(t->q[i] - zero);
        t->error += ((double)x[i] - read) * ((double)x[i] - read);
    }
}

/* Sets d and m to the regression of x on the trial's codes; false where the codes say nothing. */
static bool regress(trial *t, const float *x, block_form form)
{
    const int zero = form.has_minimum ? 0 : 1 << (form.bits - 1);
    double sum_q = 0, sum_qq = 0, sum_x = 0, sum_xq = 0;
    for (int i = 0; i < BLOCK; i++) {
        const double q = t->q[i] - zero;
        sum_q += q;
        sum_qq += q * q;
        sum_x += x[i];
        sum_xq += q * x[i];
    }
    const double spread = form.has_minimum ? BLOCK * sum_qq - sum_q * sum_q : sum_qq;
    if (!(spread > 0))
        return false;
    t->d = as_half((float)((form.has_minimum ? BLOCK * sum_xq - sum_q * sum_x : sum_xq) / spread));
    if (form.has_minimum)
        t->m = (float)((sum_x - (double)t->d * sum_q) / BLOCK);
    return true;
}

static void keep_better(trial *best, const trial *t)
{
    if (t->error < best->error)
        *best = *t;
}

static void try_step(trial *best, float d, float m, const float *x, block_form form)
{
    trial t = {.d = d, .m = m};
    choose_codes(&t, x, (1 << form.bits) - 1);
    if (!regress(&t, x, form))
        return;
    settle(&t, x, form);
    keep_better(best, &t);
}

/* From a step that is 8% too long to one that cuts a fifth of the range. */
enum { FIRST_TRIAL = -4, LAST_TRIAL = 12 };
static float stretch_of(int k, block_form form)
{
    return 0.25f * (float)k * (float)(1 << form.bits) / 16.0f;
}

static void fit_with_minimum(trial *best, const float *x, block_form form)
{
    const float top = (float)((1 << form.bits) - 1);
    float least = x[0], most = x[0];
    for (int i = 1; i < BLOCK; i++) {
        least = fminf(least, x[i]);
        most = fmaxf(most, x[i]);
    }
    *best = (trial){.d = (most - least) / top, .m = least};
    settle(best, x, form);
    const float centre = least + (most - least) / 2;
    for (int k = FIRST_TRIAL; k <= LAST_TRIAL && best->error > 0; k++) {
        const float d = (most - least) / (top + stretch_of(k, form));
        try_step(best, d, centre - d * top / 2, x, form);
    }
}

/* The codes reach one step further below zero than above it: the extreme is put at the one end, then at the other. */
static void fit_about_zero(trial *best, const float *x, block_form form)
{
    const float zero = (float)(1 << (form.bits - 1));
    float extreme = 0;
    for (int i = 0; i < BLOCK; i++)
        if (fabsf(x[i]) > fabsf(extreme))
            extreme = x[i];
    *best = (trial){.d = extreme / -zero, .m = extreme};
    settle(best, x, form);
    for (int k = FIRST_TRIAL; k <= LAST_TRIAL && best->error > 0; k++) {
        const float half_stretch = stretch_of(k, form) / 2;
        const float down = -extreme / (zero + half_stretch), up = extreme / (zero - 1 + half_stretch);
        try_step(best, down, -zero * down, x, form);
        try_step(best, up, -zero * up, x, form);
    }
}

/* Layouts as in quants.c. */
static void put_block(const trial *t, block_form form, uint8_t *dst)
{
    const uint16_t d = ot_f32_to_f16(t->d), m = ot_f32_to_f16(t->m);
    uint32_t fifth = 0;
    memcpy(dst, &d, sizeof d);
    dst += sizeof d;
    if (form.has_minimum) {
        memcpy(dst, &m, sizeof m);
        dst += sizeof m;
    }
    if (form.bits == 5) {
        for (int i = 0; i < BLOCK; i++)
            fifth |= (uint32_t)(t->q[i] >> 4) << i;
        for (int i = 0; i < 4; i++)
            *dst++ = (uint8_t)(fifth >> 8 * i);
    }
    for (int i = 0; i < BLOCK / 2; i++)
        dst[i] = (uint8_t)((t->q[i] & 15) | (t->q[i + BLOCK / 2] & 15) << 4);
}

static bool form_of(ot_type type, block_form *form)
{
    switch (type) {
    case OT_TYPE_Q4_0: *form = (block_form){4, false}; return true;
    case OT_TYPE_Q4_1: *form = (block_form){4, true}; return true;
    case OT_TYPE_Q5_0: *form = (block_form){5, false}; return true;
    case OT_TYPE_Q5_1: *form = (block_form){5, true}; return true;
    default: return false;
    }
}

ot_status ot_quantize_fitted(ot_type type, const float *src, void *dst, size_t n, ot_error *err)
{
    block_form form;
    if (!form_of(type, &form))
        return ot_quantize(type, src, dst, n, err);
    if (n % BLOCK != 0)
        return ot_fail(err, OT_ERR_INVALID, "%zu floats are not a multiple of %d, the block of %s", n, BLOCK, ot_type_name(type));
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(src[i]) <= MAX_HALF))
            return ot_fail(err, OT_ERR_INVALID, "element %zu is %g: the scales of %s reach %g", i, (double)src[i],
                           ot_type_name(type), (double)MAX_HALF);
    uint8_t *block = dst;
    for (size_t i = 0; i < n; i += BLOCK, block += ot_type_block_bytes(type)) {
        trial best;
        if (form.has_minimum)
            fit_with_minimum(&best, src + i, form);
        else
            fit_about_zero(&best, src + i, form);
        put_block(&best, form, block);
    }
    return OT_OK;
}
