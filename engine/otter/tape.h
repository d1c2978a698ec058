/* The tape of training (engine.h, ot_tape): what a pass computed of one insertion, layer by layer. */
#ifndef OTTER_ENGINE_OTTER_TAPE_H
#define OTTER_ENGINE_OTTER_TAPE_H

#include "engine/step.h"

/* Records h' as it enters the layer (n_layers: as it leaves the last), and makes the taped lane compute into the tape. */
void ot_tape_layer(const ot_stage *stage);
/* Points what a norm writes into the tape: before it runs. */
void ot_tape_norm(const ot_stage *stage);
/* For one row, before and after its norm. */
void ot_tape_norm_row(const ot_stage *stage, uint32_t row);
void ot_tape_norm_factor(const ot_stage *stage, uint32_t row);
/* For one row, with its last norm done; `in` is what the heads read. */
void ot_tape_head_row(const ot_stage *stage, uint32_t row, const float *in);

#endif
