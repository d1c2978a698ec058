/* What requests take from the heap, and how it comes back: heads that are loaded while serving are not the clients', and pages that a large
 * request has left behind go back to the system. The limit itself is base/heap-limit.h. */
#include <malloc.h>
#include <stdio.h>
#include <string.h>

#include "server/exchange.h"

#define WORTH_A_TRIM_BYTES ((size_t)32 << 20)

void ot_server_account_head(ot_server *server, const char *name, ptrdiff_t bytes)
{
    ot_head_memory *free_place = NULL;
    for (size_t i = 0; i < OT_STATS_MAX_HEADS; i++) {
        ot_head_memory *place = &server->head_memory[i];
        if (place->bytes == 0) {
            free_place = free_place ? free_place : place;
        } else if (strcmp(place->name, name) == 0) {
            ot_heap_exempt(bytes - place->bytes);
            place->bytes = bytes;
            return;
        }
    }
    if (bytes == 0 || !free_place) /* there are as many places as heads */
        return;
    snprintf(free_place->name, sizeof free_place->name, "%s", name);
    free_place->bytes = bytes;
    ot_heap_exempt(bytes);
}

static void trim(ot_work *work)
{
    (void)work;
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

static void trimmed(ot_work *work, bool cancelled)
{
    (void)cancelled;
    work->run = NULL; /* free for the next time */
}

void ot_server_give_memory_back(ot_server *server)
{
    if (server->trim.run || server->closing || !ot_heap_has_fallen(WORTH_A_TRIM_BYTES))
        return;
    server->trim = (ot_work){.run = trim, .done = trimmed};
    ot_workers_submit(server->workers, &server->trim);
}
