/* `otter inspect --block`: what a base model's file is computed with, from the table of its architecture. */
#include "cli/inspect-block.h"
#include "engine/block-text.h"

#include <stdio.h>
#include <string.h>

static void print_tensors(const ot_architecture *arch)
{
    char shape[40];
    printf("\nTensors\n");
    for (const ot_tensor_row *row = arch->tensors; row->name != NULL; row++) {
        char name[48] = "";
        if (row > arch->tensors && strcmp(row->name, row[-1].name) == 0)
            continue;
        if (ot_tensor_row_of_layer(row))
            snprintf(name, sizeof name, "blk.N.%s", row->name + strlen("blk.%u."));
        else
            snprintf(name, sizeof name, "%s", row->name);
        ot_tensor_row_text(row, shape, sizeof shape);
        printf("  %-32s %s%s\n", name, shape, row->flags & OT_TENSOR_OPTIONAL ? " (optional)" : "");
    }
}

int ot_cli_print_block(const ot_gguf *gguf)
{
    char text[200], name[32] = "";
    ot_str s;
    if (ot_gguf_get_str(gguf, "general.architecture", &s, NULL) == OT_OK)
        snprintf(name, sizeof name, "%.*s", (int)(s.size < sizeof name ? s.size : sizeof name - 1), s.data);
    const ot_architecture *arch = ot_architecture_find(name);
    if (arch == NULL) {
        ot_architecture_list(text, sizeof text);
        fprintf(stderr, "otter inspect: %s: architecture '%s' is not a base model's that this build knows (%s)\n", ot_gguf_path(gguf),
                name, text);
        return 1;
    }
    printf("Block of %s, once for each layer, on the stream h\n", arch->name);
    for (const ot_op *op = arch->block; op->kind != OT_OP_END; op++) {
        ot_block_op_text(arch, op, text, sizeof text);
        printf("  %s\n", text);
    }
    print_tensors(arch);
    return 0;
}
