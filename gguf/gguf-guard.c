/* What keeps a mapped file from ending the process. Whoever cuts a file short while it is mapped (an editor, a download that starts
 * over) makes reads past the new end raise SIGBUS. The handler here puts zeros where the file was, from the page of the read to the end of
 * the mapping, and notes the damage: the read goes on, nothing that was checked before is out of bounds, and whoever would give results
 * away asks first (ot_gguf_is_damaged; a forward pass fails). It costs nothing until it happens. The alternative, a copy of every
 * row that may be read again, would cost a third of the model's memory.
 *
 * The table of mappings is process-wide, as signals are. The handler reads it without a lock: an entry is published by its begin,
 * which is zero while the entry is free. Any other SIGBUS goes to whoever handled it before. */
#include "gguf/gguf-internal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_MAPPINGS 256 /* heads and separate models are far fewer */

typedef struct mapping {
    _Atomic uintptr_t begin;
    _Atomic size_t bytes;
    _Atomic bool damaged;
} mapping;

static mapping mappings[MAX_MAPPINGS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of taking entries, and of the installation */
static bool installed;
static uintptr_t page_bytes;
static struct sigaction previous;

static mapping *find(uintptr_t address)
{
    for (int i = 0; i < MAX_MAPPINGS; i++) {
        const uintptr_t begin = atomic_load_explicit(&mappings[i].begin, memory_order_acquire);
        if (begin != 0 && address >= begin && address - begin < atomic_load(&mappings[i].bytes))
            return &mappings[i];
    }
    return NULL;
}

/* Only what may be called in a signal handler: atomics, and mmap, which is a bare system call. */
static void on_bus_error(int number, siginfo_t *info, void *context)
{
    (void)context;
    const int error = errno;
    mapping *m = info->si_code > 0 ? find((uintptr_t)info->si_addr) : NULL;
    if (m != NULL) {
        const uintptr_t page = (uintptr_t)info->si_addr & ~(page_bytes - 1);
        const size_t rest = atomic_load(&m->begin) + atomic_load(&m->bytes) - page;
        atomic_store(&m->damaged, true);
        if (mmap((void *)page, rest, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED) {
            errno = error;
            return;
        }
    }
    sigaction(SIGBUS, &previous, NULL);
    raise(number); /* taken when this returns */
    errno = error;
}

static ot_status install(ot_error *err)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigemptyset(&action.sa_mask);
    page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
    if (sigaction(SIGBUS, &action, &previous) != 0)
        return ot_fail(err, OT_ERR_IO, "reads of mapped files cannot be guarded");
    installed = true;
    return OT_OK;
}

ot_status ot_gguf_guard(ot_gguf *g, const char *path, ot_error *err)
{
    pthread_mutex_lock(&lock);
    ot_status status = installed ? OT_OK : install(err);
    int i = 0;
    while (i < MAX_MAPPINGS && atomic_load(&mappings[i].begin) != 0)
        i++;
    if (status == OT_OK && i == MAX_MAPPINGS)
        status = ot_fail(err, OT_ERR_FULL, "%s: more than %d files are open", path, MAX_MAPPINGS);
    if (status == OT_OK) {
        atomic_store(&mappings[i].damaged, false);
        atomic_store(&mappings[i].bytes, g->size);
        atomic_store_explicit(&mappings[i].begin, (uintptr_t)g->bytes, memory_order_release);
        g->guard = i + 1;
    }
    pthread_mutex_unlock(&lock);
    return status;
}

void ot_gguf_unguard(ot_gguf *g)
{
    if (g->guard > 0)
        atomic_store(&mappings[g->guard - 1].begin, 0);
    g->guard = 0;
}

static bool part_is_damaged(const ot_gguf *g)
{
    return g->guard > 0 && atomic_load_explicit(&mappings[g->guard - 1].damaged, memory_order_acquire);
}

bool ot_gguf_is_damaged(const ot_gguf *g)
{
    bool damaged = part_is_damaged(g);
    for (uint32_t i = 0; i < g->n_parts; i++)
        damaged |= part_is_damaged(g->parts[i]);
    return damaged;
}

/* Other bytes of as many in the place of the old ones raise no signal, but move the time of the last change. Asking for it takes a fraction
 * of a microsecond, once a step for each file. */
static bool was_written_to(const ot_gguf *g)
{
    struct stat now;
    return g->mapped && (fstat(g->file, &now) != 0 || (uintmax_t)now.st_size != g->size ||
                         now.st_mtim.tv_sec != g->modified.tv_sec || now.st_mtim.tv_nsec != g->modified.tv_nsec);
}

ot_status ot_gguf_check(const ot_gguf *g, ot_error *err)
{
    for (uint32_t i = 0; i < g->n_parts; i++) {
        const ot_status status = ot_gguf_check(g->parts[i], err);
        if (status != OT_OK)
            return status;
    }
    if (!part_is_damaged(g) && !was_written_to(g))
        return OT_OK;
    return ot_fail(err, OT_ERR_IO, "%s: the file was cut short, overwritten or became unreadable while it was in use; load it again", g->label);
}
