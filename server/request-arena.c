/* request-arena.h. Blocks of 4 KiB serve small pieces from their end; a large piece gets a block of its own. */
#include "server/request-arena.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_BYTES = 4096 };

struct ot_arena_block {
    struct ot_arena_block *next;
    void *adopted;
    size_t used, capacity;
    alignas(max_align_t) unsigned char data[];
};

static struct ot_arena_block *add_block(ot_arena *arena, size_t capacity)
{
    struct ot_arena_block *block = malloc(sizeof *block + capacity);
    if (!block)
        return NULL;
    block->adopted = NULL;
    block->used = 0;
    block->capacity = capacity;
    block->next = arena->blocks;
    arena->blocks = block;
    return block;
}

void *ot_arena_alloc(ot_arena *arena, size_t n, size_t size)
{
    const size_t align = alignof(max_align_t);
    if (size && n > (SIZE_MAX / 2 - align) / size)
        return NULL;
    size_t bytes = (n * size + align - 1) / align * align;
    struct ot_arena_block *block = arena->blocks;
    if (!block || block->capacity - block->used < bytes) {
        block = add_block(arena, bytes > BLOCK_BYTES / 2 ? bytes : BLOCK_BYTES);
        if (!block)
            return NULL;
    }
    void *p = block->data + block->used;
    block->used += bytes;
    return memset(p, 0, bytes);
}

char *ot_arena_copy(ot_arena *arena, const char *data, size_t size)
{
    if (size == SIZE_MAX)
        return NULL;
    char *copy = ot_arena_alloc(arena, size + 1, 1);
    if (copy && size)
        memcpy(copy, data, size);
    return copy;
}

void *ot_arena_adopt(ot_arena *arena, void *pointer)
{
    if (!pointer)
        return NULL;
    struct ot_arena_block *block = add_block(arena, 0);
    if (!block) {
        free(pointer);
        return NULL;
    }
    block->adopted = pointer;
    return pointer;
}

void ot_arena_free(ot_arena *arena)
{
    while (arena->blocks) {
        struct ot_arena_block *block = arena->blocks;
        arena->blocks = block->next;
        free(block->adopted);
        free(block);
    }
}
