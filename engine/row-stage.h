/* Stages that go through rows: embeddings, norms, parts put together, heads. A task has a few rows, and does all lanes of each, those
 * below first. */
#ifndef OTTER_ENGINE_ROW_STAGE_H
#define OTTER_ENGINE_ROW_STAGE_H

#include "engine/step.h"

/* h of all lanes, and the rotary table, of each row. */
void ot_rows_embed(const ot_stage *stage);
/* x = n(h), quantised and given: an operation OT_OP_NORM. */
void ot_rows_norm(const ot_stage *stage);
/* Rows that are not kept are left behind: those of h and of the rotary table that the set of kept rows goes on with move to its order. */
void ot_rows_keep(ot_engine *e);
/* Lanes whose part is not in blocks: put together from those below, and quantised. */
void ot_rows_gather(const ot_stage *stage, ot_part part);
/* The last norm, and the scalar heads on it (eq. 7: sigma(w . H' + b)), of rows with output. */
void ot_rows_heads(const ot_stage *stage);

#endif
