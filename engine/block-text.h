/* An architecture's block in words, for people: `otter inspect --block`. */
#ifndef OTTER_ENGINE_BLOCK_TEXT_H
#define OTTER_ENGINE_BLOCK_TEXT_H

#include "engine/architecture.h"

/* What an operation of the block does, with the names that its weights have in a file: "x = rms(h) * attn_norm". */
void ot_block_op_text(const ot_architecture *arch, const ot_op *op, char *text, size_t size);
/* A tensor's shape in symbols: "[D, Q]". */
void ot_tensor_row_text(const ot_tensor_row *row, char *text, size_t size);

#endif
