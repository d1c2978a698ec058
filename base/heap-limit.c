/* heap-limit.h. The counters are relaxed: a limit of megabytes need not be exact to the byte while threads race. */
#include "base/heap-limit.h"

#include <stdatomic.h>

#define SMALL_BYTES ((size_t)16 << 10)
#define LARGE_BYTES ((size_t)1 << 20)

static atomic_ptrdiff_t total, base; /* of the process; what of it does not count */
static atomic_ptrdiff_t peak, recent_peak; /* ever; since the last fall */
static atomic_size_t limit;
static atomic_uint_fast64_t n_refused;
static _Thread_local bool for_clients;
static _Thread_local ptrdiff_t of_thread;

static ptrdiff_t used(void)
{
    ptrdiff_t bytes = atomic_load_explicit(&total, memory_order_relaxed) - atomic_load_explicit(&base, memory_order_relaxed);
    return bytes > 0 ? bytes : 0;
}

void ot_heap_set_limit(size_t bytes)
{
    atomic_store(&base, atomic_load(&total));
    atomic_store(&peak, 0);
    atomic_store(&recent_peak, 0);
    atomic_store(&limit, bytes);
}

bool ot_heap_for_clients(bool yes)
{
    bool before = for_clients;
    for_clients = yes;
    return before;
}

void ot_heap_exempt(ptrdiff_t bytes)
{
    atomic_fetch_add_explicit(&base, bytes, memory_order_relaxed);
}

ptrdiff_t ot_heap_of_thread(void)
{
    return of_thread;
}

void ot_heap_get(ot_heap_usage *out)
{
    *out = (ot_heap_usage){
        .bytes = (size_t)used(),
        .peak_bytes = (size_t)atomic_load_explicit(&peak, memory_order_relaxed),
        .limit_bytes = atomic_load_explicit(&limit, memory_order_relaxed),
        .n_refused = atomic_load_explicit(&n_refused, memory_order_relaxed),
    };
}

bool ot_heap_has_fallen(size_t bytes)
{
    ptrdiff_t now = used();
    if (atomic_load_explicit(&recent_peak, memory_order_relaxed) - now < (ptrdiff_t)bytes)
        return false;
    atomic_store_explicit(&recent_peak, now, memory_order_relaxed);
    return true;
}

bool ot_heap_admit(size_t bytes)
{
    size_t max = atomic_load_explicit(&limit, memory_order_relaxed);
    if (!for_clients || max == 0)
        return true;
    max = bytes < SMALL_BYTES ? max + max / 8 : bytes >= LARGE_BYTES ? max - max / 4 : max;
    if (bytes <= max && (size_t)used() <= max - bytes)
        return true;
    atomic_fetch_add_explicit(&n_refused, 1, memory_order_relaxed);
    return false;
}

static void raise_to(atomic_ptrdiff_t *highest, ptrdiff_t now)
{
    ptrdiff_t before = atomic_load_explicit(highest, memory_order_relaxed);
    while (now > before && !atomic_compare_exchange_weak_explicit(highest, &before, now, memory_order_relaxed, memory_order_relaxed))
        continue;
}

void ot_heap_count(ptrdiff_t bytes)
{
    of_thread += bytes;
    atomic_fetch_add_explicit(&total, bytes, memory_order_relaxed);
    if (bytes <= 0)
        return;
    ptrdiff_t now = used();
    raise_to(&peak, now);
    raise_to(&recent_peak, now);
}
