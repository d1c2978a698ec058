/* Measuring what machine-limits.h promises: short runs of all threads at once, the best of them. A run is a millisecond or two, so
 * that some fall between the time slices of a neighbour; threads wait for each other before it, so that none works alone. */
#include "engine/machine-limits.h"
#include "engine/kernels.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "engine/cpu/peak-loops.h"

enum { READ_BYTES = 256 << 20, READ_WINDOWS = 4, FILL_TASKS = 64, CALLS = 16 };
#define MEASURE_S 0.12

/* A run: every thread of the pool has one task, and none begins before all are there. */
typedef struct meter {
    const ot_peaks *peaks;
    void (*loop)(void);        /* called CALLS times by each thread, or NULL: ... */
    const uint8_t *data;       /* ... the window that is read */
    size_t part_bytes;         /* of it, by each thread */
    uint32_t n_threads;
    _Atomic uint32_t n_there;
    _Atomic uint64_t sum;      /* so that the reads are not left out */
    double *begin_s, *end_s;   /* (n_threads) */
} meter;

static double clock_s(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* For the plain C kernels. */
static uint64_t read_words(const uint8_t *data, size_t bytes)
{
    const uint64_t *words = (const uint64_t *)(const void *)data;
    uint64_t sum = 0;
    for (size_t i = 0; i < bytes / sizeof *words; i++)
        sum += words[i];
    return sum;
}

static const ot_peaks plain_c = {.read = read_words};

static const ot_peaks *select_peaks(unsigned cpu_mask)
{
    const char *name = ot_kernels_select(cpu_mask)->name;
    static const struct {
        const char *kernels;
        const ot_peaks *peaks;
    } known[] = {{"avx512vnni", &ot_peaks_vnni}, {"avx512", &ot_peaks_avx512}, {"avx2", &ot_peaks_avx2}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (__builtin_strcmp(known[i].kernels, name) == 0)
            return known[i].peaks;
    return &plain_c;
}

static void run_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    meter *m = arg;
    m->n_there++;
    while (m->n_there < m->n_threads)
        continue;
    const clockid_t clock = m->loop != NULL ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
    m->begin_s[task] = clock_s(clock);
    for (int i = 0; i < CALLS && m->loop != NULL; i++)
        m->loop();
    if (m->loop == NULL)
        m->sum += m->peaks->read(m->data + task * m->part_bytes, m->part_bytes);
    m->end_s[task] = clock_s(clock);
}

/* Reading: from the first thread's beginning to the last one's end, since threads share the memory. Loops, which share nothing: the longest
 * time that a thread spent, so that losing the core meanwhile does not count. */
static double run_s(meter *m, ot_pool *pool)
{
    m->n_there = 0;
    ot_pool_run(pool, run_task, m, m->n_threads);
    double begin = m->begin_s[0], end = m->end_s[0], longest = end - begin;
    for (uint32_t i = 1; i < m->n_threads; i++) {
        begin = m->begin_s[i] < begin ? m->begin_s[i] : begin;
        end = m->end_s[i] > end ? m->end_s[i] : end;
        longest = m->end_s[i] - m->begin_s[i] > longest ? m->end_s[i] - m->begin_s[i] : longest;
    }
    return m->loop != NULL ? longest : end - begin;
}

/* The best rate of runs of `amount` each, in units of 1e9 a second. Reading goes on to another window each time, so that no run finds
 * what the one before left in a cache. */
static double best_rate(meter *m, ot_pool *pool, const uint8_t *data, void (*loop)(void), double amount)
{
    const double begin = clock_s(CLOCK_MONOTONIC);
    double best = 0.0;
    m->loop = loop;
    for (uint32_t i = 0; i < 8 || clock_s(CLOCK_MONOTONIC) - begin < MEASURE_S; i++) {
        m->data = data + (size_t)(i % READ_WINDOWS) * (READ_BYTES / READ_WINDOWS);
        const double rate = 1e-9 * amount / run_s(m, pool);
        best = rate > best ? rate : best;
    }
    return best;
}

static void raise_to(double *limit, double measured)
{
    *limit = measured > *limit ? measured : *limit;
}

static void fill_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    __builtin_memset((uint8_t *)arg + (size_t)task * (READ_BYTES / FILL_TASKS), 1, READ_BYTES / FILL_TASKS);
}

ot_status ot_machine_limits_raise(ot_machine_limits *limits, ot_pool *pool, unsigned cpu_mask, ot_error *err)
{
    const uint32_t n = ot_pool_threads(pool);
    uint8_t *data = mmap(NULL, READ_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    double *times = calloc(n, 2 * sizeof *times);
    if (data == MAP_FAILED || times == NULL) {
        if (data != MAP_FAILED)
            munmap(data, READ_BYTES);
        free(times);
        return ot_fail(err, OT_ERR_NOMEM, "no memory for %d MiB to read", READ_BYTES >> 20);
    }
    madvise(data, READ_BYTES, MADV_HUGEPAGE); /* a limit is not held back by address translation */
    ot_pool_run(pool, fill_task, data, FILL_TASKS);
    meter m = {.peaks = select_peaks(cpu_mask), .n_threads = n, .begin_s = times, .end_s = times + n};
    m.part_bytes = READ_BYTES / READ_WINDOWS / n / 256 * 256;
    raise_to(&limits->read_gb_s, best_rate(&m, pool, data, NULL, (double)m.part_bytes * n));
    if (m.peaks->int8 != NULL) {
        raise_to(&limits->int8_gop_s, best_rate(&m, pool, data, m.peaks->int8, m.peaks->int8_ops * CALLS * n));
        raise_to(&limits->float_gflop_s, best_rate(&m, pool, data, m.peaks->float32, m.peaks->float_ops * CALLS * n));
    }
    munmap(data, READ_BYTES);
    free(times);
    return OT_OK;
}

const char *ot_limit_name(ot_limit limit)
{
    static const char *const names[] = {"", "int8", "float", "read"};
    return names[limit];
}

double ot_machine_least_s(const ot_machine_limits *limits, const ot_work *work, ot_limit *which)
{
    const struct {
        ot_limit limit;
        double amount, rate;
    } asked[] = {{OT_LIMIT_INT8, work->int8_ops, limits->int8_gop_s},
                 {OT_LIMIT_FLOAT, work->float_ops, limits->float_gflop_s},
                 {OT_LIMIT_READ, work->bytes, limits->read_gb_s}};
    ot_limit binds = OT_LIMIT_NONE;
    double least = 0.0;
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
        const double seconds = asked[i].rate > 0.0 ? 1e-9 * asked[i].amount / asked[i].rate : 0.0;
        if (seconds > least) {
            least = seconds;
            binds = asked[i].limit;
        }
    }
    if (which != NULL)
        *which = binds;
    return least;
}
