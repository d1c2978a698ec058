/* Tensors of a file, checked: their shape, their type, their values. */
#ifndef OTTER_ENGINE_TENSORS_H
#define OTTER_ENGINE_TENSORS_H

#include "gguf/gguf.h"

/* Finds a tensor and checks its shape: n_out 0 means a vector of n_in. Missing or of another shape: an error that names it. */
ot_status ot_tensor_require(const ot_gguf *gguf, const char *name, uint32_t n_in, uint32_t n_out, const ot_tensor **out,
                            ot_error *err);
/* Where a row of a matrix begins. */
const uint8_t *ot_tensor_row_data(const ot_tensor *t, uint64_t row);
/* Elements [first, first + n) of a vector as newly allocated floats. OT_ERR_FORMAT if one of them is not finite. */
ot_status ot_tensor_load_floats(const ot_gguf *gguf, const ot_tensor *t, uint32_t first, uint32_t n, float **out, ot_error *err);

#endif
