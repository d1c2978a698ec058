/* Random insertions of every kind, for tests: values are drawn so that activations stay of order 1.
 *
 *     ot_insertion_spec spec = ot_tiny_insertion_spec("expert", OT_HEAD_GENERATION, 16, 1);
 *     REQUIRE_OK(ot_tiny_insertion_write(ot_test_temp_path("expert.gguf"), model, &spec, NULL, OT_TYPE_F32, 7, &err), &err);
 *     REQUIRE_OK(ot_insertion_open(&x, model, "expert", ot_test_temp_path("expert.gguf"), NULL, 0, NULL, &err), &err);
 *
 * The same arguments give the same bytes. */
#ifndef OTTER_TESTS_SUPPORT_TINY_INSERTION_H
#define OTTER_TESTS_SUPPORT_TINY_INSERTION_H

#include "engine/engine.h"

/* An insertion of width d' (with two heads on one key/value head, and an FFN of 24), or with d' 0 one that reads H_o. Scalar and
 * lookahead heads have a sigmoid, generation heads are linear with offsets 1.. (0 if there is one output). Change what
 * should differ. */
ot_insertion_spec ot_tiny_insertion_spec(const char *name, ot_head_kind kind, uint32_t width, uint32_t n_outputs);
/* Draws all parameters of a trainable insertion anew, and commits them. */
void ot_tiny_insertion_randomize(ot_insertion *insertion, uint64_t seed);
/* Writes a random insertion; spec->n_parents entries of `parents`, lowest first. */
ot_status ot_tiny_insertion_write(const char *path, const ot_model *base, const ot_insertion_spec *spec,
                                  const ot_insertion *const *parents, ot_type type, uint64_t seed, ot_error *err);

#endif
