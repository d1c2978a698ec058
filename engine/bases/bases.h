/* What a file of this folder includes, and the list of them that bases.c makes. */
#ifndef OTTER_ENGINE_BASES_BASES_H
#define OTTER_ENGINE_BASES_BASES_H

#include "engine/weights.h"

#define OT_NORM_AT(field) offsetof(ot_layer, field)

extern const ot_architecture ot_base_llama, ot_base_qwen2, ot_base_qwen3, ot_base_olmo2, ot_base_smollm3, ot_base_granite, ot_base_phi3,
    ot_base_gemma2, ot_base_gemma3, ot_base_gpt2;

#endif
