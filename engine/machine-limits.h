/* What the processor can do at the most, measured, and how far a piece of work is from it.
 *
 * Three limits, each of all threads of a pool together: 8-bit products as the kernels make them (vpdpbusd, or vpmaddubsw with sums in 16
 * bits, from registers), float32 multiply-adds from registers, and reading memory that lies in no cache. A step can take no less than
 * its largest share of one of them; `ot_machine_least_s` says how much and which. Nothing but programs that measure calls this. */
#ifndef OTTER_ENGINE_MACHINE_LIMITS_H
#define OTTER_ENGINE_MACHINE_LIMITS_H

#include "engine/threads.h"

typedef struct ot_machine_limits {
    double read_gb_s;     /* 1e9 bytes a second */
    double int8_gop_s;    /* 1e9 operations: a product is one, an addition another; 0 for the plain C kernels, which have no such loop */
    double float_gflop_s; /* likewise */
} ot_machine_limits;

/* Raises *limits, which may begin as zeros, to what the pool's threads reach now with the instruction sets in cpu_mask: a neighbour on
 * the machine makes a measurement smaller, never larger, so several of them tell more than one. Takes about 0.4 s and, while
 * it runs, 256 MiB. OT_ERR_NOMEM. */
ot_status ot_machine_limits_raise(ot_machine_limits *limits, ot_pool *pool, unsigned cpu_mask, ot_error *err);

/* What arithmetic needs: as ot_stage_time counts it. */
typedef struct ot_work {
    double int8_ops, float_ops, bytes;
} ot_work;

typedef enum ot_limit { OT_LIMIT_NONE, OT_LIMIT_INT8, OT_LIMIT_FLOAT, OT_LIMIT_READ } ot_limit;
const char *ot_limit_name(ot_limit limit); /* "int8", "float", "read"; "" for none */

/* Seconds that the work takes at the limit that binds it: the largest of what each limit asks for. Limits that are not known (0) ask
 * for nothing. *which may be NULL. */
double ot_machine_least_s(const ot_machine_limits *limits, const ot_work *work, ot_limit *which);

#endif
