/* Stages that go through rows: embeddings, norms, parts put together, heads. A task has a few rows, and does all lanes of each, those
 * below first. */
#ifndef OTTER_ENGINE_ROW_STAGE_H
#define OTTER_ENGINE_ROW_STAGE_H

#include "engine/step.h"

/* h of all lanes, and the rotary table, of each row. */
void ot_rows_embed(const ot_stage *stage);
/* x = n(h) or h, quantised and given: an operation OT_OP_NORM or OT_OP_READ. */
void ot_rows_norm(const ot_stage *stage);
/* OT_OP_QK_NORM: of the queries, or the keys. A lane's are normalised by the base's statistics, as its stream is. */
void ot_rows_norm_queries(const ot_stage *stage);
void ot_rows_norm_keys(const ot_stage *stage);
/* h += y, what stands between the product of stage->op and its OT_OP_ADD done to y first. */
void ot_rows_add(const ot_stage *stage);
/* Rows that are not kept are left behind: those of h and of the rotary table that the set of kept rows goes on with move to its order. */
void ot_rows_keep(ot_engine *e);
/* Lanes whose part is not in blocks: put together from those below, and quantised. */
void ot_rows_gather(const ot_stage *stage, ot_part part);
/* The last norm, and the scalar heads on it (eq. 7: sigma(w . H' + b)), of rows with output. */
void ot_rows_heads(const ot_stage *stage);

#endif
