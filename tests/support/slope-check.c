#include "tests/support/slope-check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The slope of the loss along u, by differences extrapolated over two step sizes (error h^4). */
static double measured_slope(const ot_slope_check *c, ot_param *p, const float *u, const float *kept, double h)
{
    const size_t n = (size_t)p->n_in * p->n_out;
    double slope[2];
    for (int k = 0; k < 2; k++) {
        const double step = h * (k + 1);
        double at[2];
        for (int side = 0; side < 2; side++) {
            for (size_t i = 0; i < n; i++)
                p->data[i] = (float)(kept[i] + (side ? -step : step) * u[i]);
            at[side] = c->loss(c->arg);
        }
        slope[k] = (at[0] - at[1]) / (2 * step);
    }
    memcpy(p->data, kept, n * sizeof *kept);
    return (4 * slope[0] - slope[1]) / 3;
}

static void compare(const ot_slope_check *c, ot_param *p, const float *u, const float *kept, const float *gradient, const char *what)
{
    const size_t n = (size_t)p->n_in * p->n_out;
    double expected = 0.0, size = 0.0, norm = 0.0;
    for (size_t i = 0; i < n; i++) {
        expected += (double)u[i] * gradient[i];
        size += (double)gradient[i] * gradient[i] * u[i] * u[i];
        norm += (double)u[i] * u[i];
    }
    const double actual = measured_slope(c, p, u, kept, 0.02 / sqrt(norm));
    ot_test_context("%s %s", p->name, what);
    CHECK_NEAR(expected, actual, 2e-5 * sqrt(norm) + (c->tolerance > 0 ? c->tolerance : 0.005) * sqrt(size));
    ot_test_context(NULL);
}

void ot_slope_check_param(const ot_slope_check *c, uint32_t index)
{
    ot_param *p = ot_insertion_param(c->insertion, index);
    const size_t n = (size_t)p->n_in * p->n_out;
    float *u = calloc(n, sizeof *u), *kept = malloc(n * sizeof *kept), *gradient = malloc(n * sizeof *gradient);
    c->loss(c->arg);
    memcpy(kept, p->data, n * sizeof *kept);
    memcpy(gradient, c->gradient_of(c->arg, index), n * sizeof *gradient);
    size_t largest = 0;
    double size = 0.0;
    for (size_t i = 0; i < n; i++) {
        size += fabs(gradient[i]);
        if (fabsf(gradient[i]) > fabsf(gradient[largest]))
            largest = i;
    }
    for (int direction = 0; direction < 2; direction++) {
        for (size_t i = 0; i < n; i++) {
            /* With the gradient's own signs once: the strongest slope there is, against which an error is smallest. */
            const float sign = ot_test_rng_below(c->rng, 2) ? 1.0f : -1.0f;
            u[i] = direction == 0 ? (gradient[i] > 0) - (gradient[i] < 0) : gradient[i] != 0 ? sign : 0;
        }
        if (size > 0)
            compare(c, p, u, kept, gradient, direction ? "random direction" : "steepest direction");
    }
    memset(u, 0, n * sizeof *u);
    u[largest] = 1.0f;
    compare(c, p, u, kept, gradient, "largest element");
    free(u);
    free(kept);
    free(gradient);
}

void ot_slope_check_all(const ot_slope_check *c)
{
    const uint32_t n = ot_insertion_n_params(c->insertion);
    CHECK(n > 0);
    for (uint32_t i = 0; i < n; i++)
        ot_slope_check_param(c, i);
}
