/* The element types of tensors: names and block sizes.
 *
 * Types that ggml knows and this engine cannot compute with are listed too: their size is known, so that a file holding them
 * can be opened and inspected. Whoever uses a tensor asks ot_type_known first. */
#include "gguf/gguf.h"

typedef struct type_info {
    const char *name;
    uint16_t block;       /* elements; 0: no such type */
    uint16_t block_bytes;
    bool known;           /* ot_dequantize does it */
} type_info;

static const type_info types[] = {
    [OT_TYPE_F32] = {"F32", 1, 4, true},       [OT_TYPE_F16] = {"F16", 1, 2, true},
    [OT_TYPE_Q4_0] = {"Q4_0", 32, 18, true},   [OT_TYPE_Q4_1] = {"Q4_1", 32, 20, true},
    [OT_TYPE_Q5_0] = {"Q5_0", 32, 22, true},   [OT_TYPE_Q5_1] = {"Q5_1", 32, 24, true},
    [OT_TYPE_Q8_0] = {"Q8_0", 32, 34, true},   [OT_TYPE_Q4_K] = {"Q4_K", 256, 144, true},
    [OT_TYPE_Q5_K] = {"Q5_K", 256, 176, true}, [OT_TYPE_Q6_K] = {"Q6_K", 256, 210, true},
    [OT_TYPE_Q2_K] = {"Q2_K", 256, 84, true},  [OT_TYPE_Q3_K] = {"Q3_K", 256, 110, true},
    [OT_TYPE_IQ4_NL] = {"IQ4_NL", 32, 18, true}, [OT_TYPE_IQ4_XS] = {"IQ4_XS", 256, 136, true},
    [OT_TYPE_BF16] = {"BF16", 1, 2, true},     [OT_TYPE_MXFP4] = {"MXFP4", 32, 17, true},
    [15] = {"Q8_K", 256, 292, false},          [16] = {"IQ2_XXS", 256, 66, false},
    [17] = {"IQ2_XS", 256, 74, false},         [18] = {"IQ3_XXS", 256, 98, false},
    [19] = {"IQ1_S", 256, 50, false},          [21] = {"IQ3_S", 256, 110, false},
    [22] = {"IQ2_S", 256, 82, false},          [24] = {"I8", 1, 1, false},
    [25] = {"I16", 1, 2, false},               [26] = {"I32", 1, 4, false},
    [27] = {"I64", 1, 8, false},               [28] = {"F64", 1, 8, false},
    [29] = {"IQ1_M", 256, 56, false},          [34] = {"TQ1_0", 256, 54, false},
    [35] = {"TQ2_0", 256, 66, false},
};

static const type_info *info_of(uint32_t type)
{
    static const type_info none = {"?", 0, 0, false};
    if (type >= sizeof types / sizeof types[0] || types[type].block == 0)
        return &none;
    return &types[type];
}

const char *ot_type_name(ot_type type)
{
    return info_of(type)->name;
}

bool ot_type_known(uint32_t type)
{
    return info_of(type)->known;
}

uint32_t ot_type_block(ot_type type)
{
    return info_of(type)->block;
}

uint32_t ot_type_block_bytes(ot_type type)
{
    return info_of(type)->block_bytes;
}
