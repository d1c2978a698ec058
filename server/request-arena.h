/* Memory of one request: many small allocations, freed together when the request is over. */
#ifndef OTTER_SERVER_REQUEST_ARENA_H
#define OTTER_SERVER_REQUEST_ARENA_H

#include <stddef.h>

typedef struct ot_arena {
    struct ot_arena_block *blocks; /* newest first */
} ot_arena;

/* n * size bytes, zeroed, aligned for any type; NULL if that overflows or memory is short. n or size may be 0. */
void *ot_arena_alloc(ot_arena *arena, size_t n, size_t size);
/* A zero-terminated copy. */
char *ot_arena_copy(ot_arena *arena, const char *data, size_t size);
/* Takes over a malloc'ed pointer; frees it at once and returns NULL if that fails. */
void *ot_arena_adopt(ot_arena *arena, void *pointer);
void ot_arena_free(ot_arena *arena);

#endif
