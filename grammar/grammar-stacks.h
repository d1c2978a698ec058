/* Inside grammar/: sets of stacks. Where a grammar is ambiguous a text may stand at several places of it at once, each with its own
 * stack of rules to return to. A set of stacks is a node: the frames that lie on top, each with the set of what lies below it. Equal
 * sets are one node, so sets are compared, and found in caches, by number.
 *
 * Belongs to one thread. Nodes are only added; ot_stacks_keep leaves those that are still needed. */
#ifndef OTTER_GRAMMAR_GRAMMAR_STACKS_H
#define OTTER_GRAMMAR_GRAMMAR_STACKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OT_FRAME_END 0xFFFFFFFEu  /* below this frame is nothing: the whole text may end */
#define OT_FRAME_HOLE 0xFFFFFFFDu /* what is below is left open: see token-mask.c */

#define OT_STACK_END 0u    /* the empty stack alone */
#define OT_STACK_HOLE 1u
#define OT_NO_STACK UINT32_MAX

typedef struct ot_frame {
    uint32_t state; /* to return to */
    uint32_t below; /* a node */
} ot_frame;

#define OT_STACK_MEMO 16384

typedef struct ot_stack_pair {
    uint32_t a, b, joined; /* OT_STACK_END: nothing is remembered; no union is that */
} ot_stack_pair;

typedef struct ot_stacks {
    uint32_t n_nodes, node_capacity, n_frames, frame_capacity;
    uint32_t *begins;   /* (node_capacity + 1) */
    uint16_t *depths;   /* (node_capacity) frames of the longest stack */
    ot_frame *frames;   /* (frame_capacity), by state in each node */
    uint32_t *slots, mask;
    ot_stack_pair *memo; /* (OT_STACK_MEMO) */
    uint32_t unions_left; /* that may be made before this counts as full: the caller sets it */
    bool full;          /* some node found no room since this was cleared */
} ot_stacks;

bool ot_stacks_open(ot_stacks *s, uint32_t n_nodes);
void ot_stacks_close(ot_stacks *s);
size_t ot_stacks_bytes(uint32_t n_nodes);

static inline uint32_t ot_stack_size(const ot_stacks *s, uint32_t node)
{
    return s->begins[node + 1] - s->begins[node];
}
static inline ot_frame ot_stack_frame(const ot_stacks *s, uint32_t node, uint32_t i)
{
    return s->frames[s->begins[node] + i];
}

/* OT_NO_STACK where that is deeper than stacks may be, or there is no room (s->full). */
uint32_t ot_stack_push(ot_stacks *s, uint32_t state, uint32_t below);
uint32_t ot_stack_union(ot_stacks *s, uint32_t a, uint32_t b);
/* Copies a node and all below it into fresh stacks. `moved` (n_nodes of the old ones, OT_NO_STACK at first) tells what became of each. */
uint32_t ot_stack_move(const ot_stacks *from, ot_stacks *to, uint32_t node, uint32_t *moved);

#endif
