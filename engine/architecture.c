/* The architectures that run as a base model. */
#include "engine/architecture.h"

#include <stdio.h>
#include <string.h>

static const ot_architecture architectures[] = {
    {"llama", OT_NORM_RMS, "attention.layer_norm_rms_epsilon", false, false, OT_FFN_SILU_GATED, 0},
    {"gpt2", OT_NORM_LAYER, "attention.layer_norm_epsilon", true, true, OT_FFN_GELU,
     OT_BIAS_QKV | OT_BIAS_ATTN_OUT | OT_BIAS_FFN},
};
#define N_ARCHITECTURES (sizeof architectures / sizeof architectures[0])

const ot_architecture *ot_architecture_find(const char *name)
{
    for (size_t i = 0; i < N_ARCHITECTURES; i++)
        if (strcmp(architectures[i].name, name) == 0)
            return &architectures[i];
    return NULL;
}

void ot_architecture_list(char *text, size_t size)
{
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < N_ARCHITECTURES && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s", i > 0 ? ", " : "", architectures[i].name);
}
