/* Rotary position embedding: inverse frequencies with the scalings that Llama files use.
 *
 *     theta_i = base^(-2i / n_rot)
 *   linear    theta_i / factor                                    (position interpolation, Chen et al. 2023)
 *   llama3    theta_i / freqs[i], the file's rope_freqs.weight
 *   yarn      a ramp between interpolated and original frequencies, and a magnitude   (YaRN, Peng et al. 2023, eq. 22, 23)
 */
#include "engine/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PI 3.14159265358979323846

/* The dimension index at which a rotation of `turns` full turns happens within the original context (YaRN, eq. 17 inverted). */
static double turns_to_dim(double turns, double n_rot, double base, double n_ctx_original)
{
    return n_rot * log(n_ctx_original / (turns * 2.0 * PI)) / (2.0 * log(base));
}

static void scale_yarn(ot_rope *rope, double factor, double base, double n_ctx_original, double attn_factor)
{
    const double low = fmax(0.0, floor(turns_to_dim(32.0, rope->n_rot, base, n_ctx_original)));
    const double high = fmin(rope->n_rot - 1.0, ceil(turns_to_dim(1.0, rope->n_rot, base, n_ctx_original)));
    for (uint32_t i = 0; i < rope->n_rot / 2; i++) {
        const double t = (i - low) / fmax(0.001, high - low);
        const double interpolated = t < 0.0 ? 0.0 : t > 1.0 ? 1.0 : t;
        rope->inv_freq[i] *= interpolated / factor + (1.0 - interpolated);
    }
    rope->magnitude = attn_factor * (1.0 + 0.1 * log(factor));
}

static ot_status get_f32(const ot_gguf *gguf, const char *arch, const char *key, float *value, ot_error *err)
{
    char full[128];
    snprintf(full, sizeof full, "%s.%s", arch, key);
    const ot_status st = ot_gguf_get_f32(gguf, full, value, err);
    return st == OT_ERR_NOT_FOUND ? OT_OK : st;
}

static ot_status apply_scaling(ot_rope *rope, const ot_gguf *gguf, const char *arch, double base, ot_error *err)
{
    char key[128];
    ot_str type = {"none", 4};
    float factor = 1.0f, attn_factor = 1.0f;
    uint32_t n_ctx_original = 0;
    snprintf(key, sizeof key, "%s.rope.scaling.type", arch);
    ot_status st = ot_gguf_get_str(gguf, key, &type, err);
    if (st != OT_OK && st != OT_ERR_NOT_FOUND)
        return st;
    if ((st = get_f32(gguf, arch, "rope.scaling.factor", &factor, err)) != OT_OK)
        return st;
    if (factor != 1.0f && !ot_gguf_has(gguf, key))
        return ot_fail(err, OT_ERR_UNSUPPORTED, "%s: %s.rope.scaling.factor is %g, and no %s.rope.scaling.type says what it scales",
                       ot_gguf_path(gguf), arch, (double)factor, arch);
    if (type.size == 4 && memcmp(type.data, "none", 4) == 0) {
        /* Older files state a linear scale without a type. */
        float old = 1.0f;
        if ((st = get_f32(gguf, arch, "rope.scale_linear", &old, err)) != OT_OK)
            return st;
        if (old != 1.0f) {
            type = (ot_str){"linear", 6};
            factor = old;
        }
    }
    if (!(factor > 0.0f) || !isfinite(factor))
        return ot_fail(err, OT_ERR_FORMAT, "%s: %s.rope.scaling.factor is %g, not a positive number", ot_gguf_path(gguf),
                       arch, (double)factor);
    if (type.size == 4 && memcmp(type.data, "none", 4) == 0)
        return OT_OK;
    if (type.size == 6 && memcmp(type.data, "linear", 6) == 0) {
        for (uint32_t i = 0; i < rope->n_rot / 2; i++)
            rope->inv_freq[i] /= factor;
        return OT_OK;
    }
    if (type.size == 4 && memcmp(type.data, "yarn", 4) == 0) {
        snprintf(key, sizeof key, "%s.rope.scaling.original_context_length", arch);
        if ((st = ot_gguf_get_u32(gguf, key, &n_ctx_original, err)) != OT_OK)
            return ot_fail(err, OT_ERR_FORMAT, "%s: key '%s', which YaRN scaling needs, is missing or no integer",
                           ot_gguf_path(gguf), key);
        if ((st = get_f32(gguf, arch, "rope.scaling.attn_factor", &attn_factor, err)) != OT_OK)
            return st;
        scale_yarn(rope, factor, base, n_ctx_original ? n_ctx_original : 1, attn_factor);
        return OT_OK;
    }
    return ot_fail(err, OT_ERR_UNSUPPORTED, "%s: %s.rope.scaling.type '%.*s' is not supported (none, linear, yarn)",
                   ot_gguf_path(gguf), arch, (int)(type.size < 40 ? type.size : 40), type.data);
}

ot_status ot_rope_read_size(ot_rope *rope, const ot_gguf *gguf, const ot_architecture *arch, uint32_t head_dim, ot_error *err)
{
    const ot_op *rotary = ot_architecture_op(arch, OT_OP_ROTARY);
    char key[128];
    if (rotary == NULL)
        return OT_OK;
    rope->pairs = rotary->pairs;
    rope->n_rot = head_dim;
    snprintf(key, sizeof key, "%s.rope.dimension_count", arch->name);
    const ot_status st = ot_gguf_get_u32(gguf, key, &rope->n_rot, err);
    if (st != OT_OK && st != OT_ERR_NOT_FOUND)
        return st;
    if (rope->n_rot == 0 || rope->n_rot % 2 != 0 || rope->n_rot > head_dim)
        return ot_fail(err, OT_ERR_FORMAT, "%s: %s is %u, not an even number up to the head size %u",
                       ot_gguf_path(gguf), key, rope->n_rot, head_dim);
    return OT_OK;
}

ot_status ot_rope_open_plain(ot_rope *rope, const ot_rope *like, double base, ot_error *err)
{
    rope->n_rot = like->n_rot;
    rope->pairs = like->pairs;
    rope->magnitude = 1.0;
    rope->inv_freq = ot_alloc(rope->n_rot / 2, sizeof *rope->inv_freq);
    if (rope->inv_freq == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for rotary frequencies");
    for (uint32_t i = 0; i < rope->n_rot / 2; i++)
        rope->inv_freq[i] = pow(base, -2.0 * i / rope->n_rot);
    return OT_OK;
}

ot_status ot_rope_open(ot_rope *rope, const ot_gguf *gguf, const char *arch, const float *factors, ot_error *err)
{
    float base = 10000.0f;
    if (rope->n_rot == 0)
        return OT_OK;
    const ot_status st = get_f32(gguf, arch, "rope.freq_base", &base, err);
    if (st != OT_OK)
        return st;
    if (!(base > 1.0f) || !isfinite(base))
        return ot_fail(err, OT_ERR_FORMAT, "%s: %s.rope.freq_base is %g, not above 1", ot_gguf_path(gguf), arch,
                       (double)base);
    const ot_status made = ot_rope_open_plain(rope, rope, (double)base, err);
    if (made != OT_OK)
        return made;
    for (uint32_t i = 0; factors != NULL && i < rope->n_rot / 2; i++)
        rope->inv_freq[i] /= factors[i];
    return apply_scaling(rope, gguf, arch, (double)base, err);
}

void ot_rope_close(ot_rope *rope)
{
    free(rope->inv_freq);
    rope->inv_freq = NULL;
}

void ot_rope_table(const ot_rope *rope, uint32_t position, float *table)
{
    for (uint32_t i = 0; i < rope->n_rot / 2; i++) {
        const double angle = position * rope->inv_freq[i];
        table[2 * i] = (float)(cos(angle) * rope->magnitude);
        table[2 * i + 1] = (float)(sin(angle) * rope->magnitude);
    }
}

void ot_model_rope_table(const ot_model *model, uint32_t position, float *table, uint32_t *n_rot, bool *neox)
{
    ot_rope_table(&model->ropes[OT_ROPE_MAIN], position, table);
    *n_rot = model->ropes[OT_ROPE_MAIN].n_rot;
    *neox = model->ropes[OT_ROPE_MAIN].pairs == OT_PAIRS_NEOX;
}
