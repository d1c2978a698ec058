/* Small things that the trainer's files share: random numbers, parents by name. */
#include "train/train-internal.h"

#include <math.h>
#include <string.h>

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t ot_rng_next(ot_rng *rng)
{
    rng->state += 0x9e3779b97f4a7c15u;
    return mix(rng->state);
}

ot_rng ot_rng_at(uint64_t seed, uint64_t a, uint64_t b)
{
    ot_rng rng = {mix(seed + 0x9e3779b97f4a7c15u)};
    rng.state = mix(rng.state ^ (a * 0xd1342543de82ef95u + 1));
    rng.state = mix(rng.state ^ (b * 0xaf251af3b0f025b5u + 1));
    return rng;
}

uint32_t ot_rng_below(ot_rng *rng, uint32_t n)
{
    return (uint32_t)(((ot_rng_next(rng) >> 32) * n) >> 32);
}

float ot_rng_uniform(ot_rng *rng)
{
    return (float)(ot_rng_next(rng) >> 40) * 0x1p-24f;
}

float ot_rng_normal(ot_rng *rng)
{
    /* Box and Muller (1958); the second value is thrown away, to keep the state a single number. */
    const double u = ((double)(ot_rng_next(rng) >> 11) + 1.0) * 0x1p-53;
    const double v = (double)(ot_rng_next(rng) >> 11) * 0x1p-53;
    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}

ot_status ot_train_open_parents(const ot_model *model, char (*parents)[OT_TRAIN_PATH], uint32_t n_parents,
                                bool allow_base_mismatch, ot_insertion **opened, uint32_t *n, ot_error *err)
{
    const ot_insertion_options options = {.allow_base_mismatch = allow_base_mismatch};
    *n = 0;
    for (uint32_t i = 0; i < n_parents; i++) {
        const char *eq = strchr(parents[i], '=');
        char name[64];
        if (eq == NULL || eq == parents[i] || (size_t)(eq - parents[i]) >= sizeof name || eq[1] == '\0')
            return ot_fail_param(err, OT_ERR_INVALID, "parent", "--parent '%s' is not NAME=FILE", parents[i]);
        memcpy(name, parents[i], (size_t)(eq - parents[i]));
        name[eq - parents[i]] = '\0';
        const ot_status st = ot_insertion_open(&opened[i], model, name, eq + 1, (const ot_insertion *const *)opened, *n,
                                               &options, err);
        if (st != OT_OK)
            return st;
        *n += 1;
    }
    return OT_OK;
}
