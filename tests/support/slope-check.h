/* Gradients against central differences of a loss.
 *
 * A tensor is checked along directions: (L(w + h u) - L(w - h u)) / 2h against u . grad, with u the gradient's own signs, a random sign in
 * every element that matters, and the element with the largest gradient. A wrong element anywhere in a tensor shows in a
 * direction, and the difference quotient of a sum of many elements stands clear of float32's rounding. */
#ifndef OTTER_TESTS_SUPPORT_SLOPE_CHECK_H
#define OTTER_TESTS_SUPPORT_SLOPE_CHECK_H

#include "engine/engine.h"
#include "tests/support/test-support.h"

typedef struct ot_slope_check {
    ot_insertion *insertion;
    void *arg;
    double (*loss)(void *arg);                             /* with the parameters as they are now; makes the gradients, too */
    const float *(*gradient_of)(void *arg, uint32_t i);    /* of parameter i, after loss */
    double tolerance;                                      /* relative; 0: 0.005 */
    ot_test_rng *rng;
} ot_slope_check;

/* All three directions of parameter i. */
void ot_slope_check_param(const ot_slope_check *c, uint32_t i);
/* Of every parameter; fails if there is none. */
void ot_slope_check_all(const ot_slope_check *c);

#endif
