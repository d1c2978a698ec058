/* `otter inspect --block` (inspect-block.c). */
#ifndef OTTER_CLI_INSPECT_BLOCK_H
#define OTTER_CLI_INSPECT_BLOCK_H

#include "gguf/gguf.h"

/* Prints the block and the tensors of the file's architecture. The exit status: 1 for one that is not known as a base. */
int ot_cli_print_block(const ot_gguf *gguf);

#endif
