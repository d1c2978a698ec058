/* The list of architectures that run as a base model, and questions about their tables. */
#include "engine/bases/bases.h"

#include <stdio.h>
#include <string.h>

static const ot_architecture *const architectures[] = {
    &ot_base_llama, &ot_base_qwen2, &ot_base_qwen3, &ot_base_olmo2, &ot_base_smollm3, &ot_base_granite, &ot_base_phi3, &ot_base_gemma2,
    &ot_base_gemma3, &ot_base_gpt2,
};
#define N_ARCHITECTURES (sizeof architectures / sizeof architectures[0])

const ot_architecture *ot_architecture_at(uint32_t i)
{
    return i < N_ARCHITECTURES ? architectures[i] : NULL;
}

const ot_architecture *ot_architecture_find(const char *name)
{
    for (size_t i = 0; i < N_ARCHITECTURES; i++)
        if (strcmp(architectures[i]->name, name) == 0)
            return architectures[i];
    return NULL;
}

void ot_architecture_list(char *text, size_t size)
{
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < N_ARCHITECTURES && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s", i > 0 ? ", " : "", architectures[i]->name);
}

const ot_op *ot_architecture_op(const ot_architecture *arch, ot_op_kind kind)
{
    for (const ot_op *op = arch->block; op->kind != OT_OP_END; op++)
        if (op->kind == kind)
            return op;
    return NULL;
}

const ot_op *ot_architecture_op_in(const ot_architecture *arch, ot_op_kind kind, uint32_t layer)
{
    const bool global = arch->global.period == 0 || layer % arch->global.period == arch->global.phase;
    for (const ot_op *op = arch->block; op->kind != OT_OP_END; op++)
        if (op->kind == kind && (op->layers == OT_ALL_LAYERS || (op->layers == OT_GLOBAL_LAYERS) == global))
            return op;
    return NULL;
}

bool ot_tensor_row_of_layer(const ot_tensor_row *row)
{
    return strncmp(row->name, "blk.", 4) == 0;
}

const ot_tensor_row *ot_architecture_tensor(const ot_architecture *arch, bool of_layer, size_t at)
{
    for (const ot_tensor_row *row = arch->tensors; row->name != NULL; row++)
        if (ot_tensor_row_of_layer(row) == of_layer && row->at == at)
            return row;
    return NULL;
}
