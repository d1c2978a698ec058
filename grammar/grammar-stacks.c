/* grammar-stacks.h */
#include "grammar/grammar-stacks.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 1024, MAX_FRAMES = 64 };

static uint32_t slots_for(uint32_t n_nodes)
{
    uint32_t n = 64;
    while (n < 2 * n_nodes)
        n *= 2;
    return n;
}

size_t ot_stacks_bytes(uint32_t n_nodes)
{
    return (size_t)n_nodes * (sizeof(uint32_t) + sizeof(uint16_t) + 2 * sizeof(ot_frame)) + slots_for(n_nodes) * sizeof(uint32_t) +
           OT_STACK_MEMO * sizeof(ot_stack_pair);
}

bool ot_stacks_open(ot_stacks *s, uint32_t n_nodes)
{
    *s = (ot_stacks){.node_capacity = n_nodes, .frame_capacity = 2 * n_nodes, .mask = slots_for(n_nodes) - 1};
    s->begins = calloc((size_t)n_nodes + 1, sizeof *s->begins);
    s->depths = calloc(n_nodes, sizeof *s->depths);
    s->frames = malloc(s->frame_capacity * sizeof *s->frames);
    s->slots = calloc((size_t)s->mask + 1, sizeof *s->slots);
    s->memo = calloc(OT_STACK_MEMO, sizeof *s->memo);
    if (s->memo == NULL || s->begins == NULL || s->depths == NULL || s->frames == NULL || s->slots == NULL) {
        ot_stacks_close(s);
        return false;
    }
    ot_stack_push(s, OT_FRAME_END, 0); /* OT_STACK_END and OT_STACK_HOLE; below them is nothing */
    ot_stack_push(s, OT_FRAME_HOLE, 0);
    return true;
}

void ot_stacks_close(ot_stacks *s)
{
    free(s->begins);
    free(s->depths);
    free(s->frames);
    free(s->slots);
    free(s->memo);
    *s = (ot_stacks){0};
}

static uint32_t hash_frames(const ot_frame *frames, uint32_t n)
{
    uint64_t h = n;
    for (uint32_t i = 0; i < n; i++)
        h = (h ^ ((uint64_t)frames[i].state << 32 | frames[i].below)) * 0x9E3779B97F4A7C15u, h ^= h >> 29;
    return (uint32_t)(h ^ h >> 32);
}

/* The node with these frames. They may lie behind s->frames' end already. */
static uint32_t find_or_add(ot_stacks *s, const ot_frame *frames, uint32_t n)
{
    uint32_t at = hash_frames(frames, n) & s->mask, depth = 0;
    for (; s->slots[at] != 0; at = (at + 1) & s->mask) {
        uint32_t node = s->slots[at] - 1;
        if (ot_stack_size(s, node) == n && memcmp(s->frames + s->begins[node], frames, n * sizeof *frames) == 0)
            return node;
    }
    for (uint32_t i = 0; i < n; i++)
        if (frames[i].state < OT_FRAME_HOLE && s->depths[frames[i].below] + 1u > depth)
            depth = s->depths[frames[i].below] + 1u;
    if (depth > MAX_DEPTH)
        return OT_NO_STACK;
    if (s->n_nodes == s->node_capacity || s->frame_capacity - s->n_frames < n) {
        s->full = true;
        return OT_NO_STACK;
    }
    uint32_t node = s->n_nodes++;
    memcpy(s->frames + s->n_frames, frames, n * sizeof *frames);
    s->n_frames += n;
    s->begins[node + 1] = s->n_frames;
    s->depths[node] = (uint16_t)depth;
    s->slots[at] = node + 1;
    return node;
}

uint32_t ot_stack_push(ot_stacks *s, uint32_t state, uint32_t below)
{
    const ot_frame frame = {state, below};
    return find_or_add(s, &frame, 1);
}

static uint32_t make_union(ot_stacks *s, uint32_t a, uint32_t b)
{
    ot_frame joined[MAX_FRAMES];
    uint32_t n = 0, i = 0, j = 0;
    while (i < ot_stack_size(s, a) || j < ot_stack_size(s, b)) {
        if (n == MAX_FRAMES) {
            s->full = true;
            return OT_NO_STACK;
        }
        bool has_a = i < ot_stack_size(s, a), has_b = j < ot_stack_size(s, b);
        ot_frame x = has_a ? ot_stack_frame(s, a, i) : (ot_frame){0}, y = has_b ? ot_stack_frame(s, b, j) : (ot_frame){0};
        if (has_a && has_b && x.state == y.state) {
            uint32_t below = ot_stack_union(s, x.below, y.below);
            if (below == OT_NO_STACK)
                return OT_NO_STACK;
            joined[n++] = (ot_frame){x.state, below};
            i++;
            j++;
        } else if (!has_b || (has_a && x.state < y.state)) {
            joined[n++] = x;
            i++;
        } else {
            joined[n++] = y;
            j++;
        }
    }
    return find_or_add(s, joined, n);
}

/* What was joined lately is remembered, since the parts of a set share most of what lies below them. */
uint32_t ot_stack_union(ot_stacks *s, uint32_t a, uint32_t b)
{
    if (a == b)
        return a;
    const ot_stack_pair pair = {a < b ? a : b, a < b ? b : a, 0};
    ot_stack_pair *memo = &s->memo[((uint64_t)pair.a * 0x9E3779B1u ^ (uint64_t)pair.b * 0x85EBCA77u) >> 8 & (OT_STACK_MEMO - 1)];
    if (memo->a == pair.a && memo->b == pair.b && memo->joined != OT_STACK_END)
        return memo->joined;
    if (s->unions_left == 0) {
        s->full = true;
        return OT_NO_STACK;
    }
    s->unions_left--;
    uint32_t joined = make_union(s, a, b);
    if (joined != OT_NO_STACK)
        *memo = (ot_stack_pair){pair.a, pair.b, joined};
    return joined;
}

uint32_t ot_stack_move(const ot_stacks *from, ot_stacks *to, uint32_t node, uint32_t *moved)
{
    if (node <= OT_STACK_HOLE)
        return node;
    if (moved[node] != OT_NO_STACK)
        return moved[node];
    ot_frame frames[MAX_FRAMES];
    uint32_t n = ot_stack_size(from, node);
    for (uint32_t i = 0; i < n; i++) {
        frames[i] = ot_stack_frame(from, node, i);
        if (frames[i].state < OT_FRAME_HOLE)
            frames[i].below = ot_stack_move(from, to, frames[i].below, moved);
    }
    return moved[node] = find_or_add(to, frames, n);
}
