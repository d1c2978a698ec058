/* Counter-based random numbers: a draw is a pure function of what it is for, so that nothing about batching, preemption or
 * neighbours can change it. */
#ifndef OTTER_SCHEDULER_POLICIES_RANDOM_H
#define OTTER_SCHEDULER_POLICIES_RANDOM_H

#include <stdint.h>

/* Uniform in [0, 1) with 53 bits, by Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) with
 * key = seed and counter = (position, choice, attempt, 0). */
double ot_random_uniform(uint64_t seed, uint32_t choice, uint32_t position, uint32_t attempt);

/* The generator itself, for its test vectors: out = philox4x32-10(counter, key). */
void ot_random_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

#endif
