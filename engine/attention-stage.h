/* The attention of a layer: keys and values into their pages, rotated queries, softmax(q K^T) V. */
#ifndef OTTER_ENGINE_ATTENTION_STAGE_H
#define OTTER_ENGINE_ATTENTION_STAGE_H

#include "engine/step.h"

/* Keys and values of the groups that do not store by themselves; with stage->stores_all of all groups. */
void ot_attention_store(const ot_stage *stage);
void ot_attention_run(const ot_stage *stage);
/* Books the attention of so many layers for the rows of a set. */
void ot_attention_count(ot_engine *e, uint32_t set, uint32_t n_layers);

#endif
