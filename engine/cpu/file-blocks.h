/* The blocks of a file's quantised types, taken apart for the packer: codes as a panel stores them, and scales as they are. */
#ifndef OTTER_ENGINE_CPU_FILE_BLOCKS_H
#define OTTER_ENGINE_CPU_FILE_BLOCKS_H

#include "engine/kernels.h"

enum { OT_FILE_BLOCK = 256 }; /* weights of the largest block */

typedef struct ot_file_scales {
    uint16_t half[2]; /* scale and minimum, or what the bytes are multiplied by */
    uint8_t byte[16]; /* of a superblock: as ot_pack_scales has them */
} ot_file_scales;

/* What a type becomes. */
typedef struct ot_file_form {
    ot_type type;
    ot_pack_format format;
    ot_pack_scales scales;
    bool has_min;
    uint8_t n_scales;
    void (*unpack)(uint8_t *code, ot_file_scales *scales, const uint8_t *block); /* ot_type_block(type) codes */
} ot_file_form;

/* NULL for types that cannot be packed. Float types have no n_scales and no unpack. */
const ot_file_form *ot_file_form_of(ot_type type);

#endif
