/* How keys and values lie in memory: what the engine, its kernels and whoever keeps the units must agree on. */
#ifndef OTTER_ENGINE_KV_LAYOUT_H
#define OTTER_ENGINE_KV_LAYOUT_H

#define OT_PAGE_TOKENS 32 /* positions in a KV page */

typedef enum ot_kv_type { OT_KV_F16, OT_KV_F32 } ot_kv_type;

/* A KV unit holds one KV head of all layers for OT_PAGE_TOKENS slots:
 *     [layer]{ K: [head_dim][OT_PAGE_TOKENS], V: [OT_PAGE_TOKENS][head_dim] }    of half or float
 * K is transposed so that the scores of 16 slots come from one vector, in a fixed order of summation over head_dim.
 * Slot s of a sequence lies in units[s / OT_PAGE_TOKENS] at s % OT_PAGE_TOKENS. */

#endif
