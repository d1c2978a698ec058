/* See test-support.h. State is global on purpose: one test program is one run. The counters are atomic so that checks
 * may be made from several threads; output is line-buffered, so that the log of a crashed test ends where it crashed. */
#include "tests/support/test-support.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_SKIPPED = 77, MAX_PRINTED_PER_CASE = 20 };

static struct {
    int n_words;
    char **words;
    int n_cases, n_failed_cases, n_skipped_cases;
    atomic_int n_failed; /* checks, in the case that runs */
    atomic_int n_outside; /* failed checks outside any case */
    bool in_case, case_skipped;
    char context[256];
    char temp_dir[64];
} run;

static bool is_wanted(const char *name)
{
    for (int i = 0; i < run.n_words; i++)
        if (strstr(name, run.words[i]))
            return true;
    return run.n_words == 0;
}

void ot_test_start(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    run.n_words = argc > 1 ? argc - 1 : 0;
    run.words = argv + 1;
}

static void remove_temp_dir(void)
{
    if (!run.temp_dir[0])
        return;
    DIR *dir = opendir(run.temp_dir);
    if (dir) {
        struct dirent *entry;
        while ((entry = readdir(dir)))
            if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
                unlinkat(dirfd(dir), entry->d_name, 0);
        closedir(dir);
    }
    rmdir(run.temp_dir);
    run.temp_dir[0] = 0;
}

int ot_test_finish(void)
{
    remove_temp_dir();
    int n_outside = atomic_load(&run.n_outside);
    printf("%d cases, %d failed, %d skipped\n", run.n_cases, run.n_failed_cases, run.n_skipped_cases);
    if (n_outside)
        printf("and %d checks failed outside the cases\n", n_outside);
    if (run.n_cases == 0 && run.n_words)
        printf("no case has a name with such a word\n");
    if (run.n_failed_cases || n_outside || run.n_cases == 0)
        return 1;
    return run.n_skipped_cases == run.n_cases ? EXIT_SKIPPED : 0;
}

int ot_test_skip(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    printf("skipped: ");
    vprintf(format, args);
    printf("\n");
    va_end(args);
    remove_temp_dir();
    return EXIT_SKIPPED;
}

void ot_test_run(const char *name, void (*test_case)(void))
{
    if (!is_wanted(name))
        return;
    atomic_store(&run.n_failed, 0);
    run.case_skipped = false;
    run.in_case = true;
    run.context[0] = 0;
    double start = ot_test_now_seconds();
    test_case();
    double seconds = ot_test_now_seconds() - start;
    run.in_case = false;
    run.context[0] = 0;
    run.n_cases++;
    int n_failed = atomic_load(&run.n_failed);
    if (n_failed) {
        run.n_failed_cases++;
        printf("FAILED  %s (%d checks, %.2f s)\n", name, n_failed, seconds);
    } else if (run.case_skipped) {
        run.n_skipped_cases++;
    } else {
        printf("ok      %s (%.2f s)\n", name, seconds);
    }
}

void ot_test_context(const char *format, ...)
{
    run.context[0] = 0;
    if (!format)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(run.context, sizeof run.context, format, args);
    va_end(args);
}

void ot_test_skip_case(const char *reason)
{
    run.case_skipped = true;
    printf("skipped: %s\n", reason);
}

/* Counts a failure and prints where it was. False once a case has printed enough: the rest is only counted. */
static bool begin_failure(const char *what, const char *file, int line)
{
    int n = atomic_fetch_add(run.in_case ? &run.n_failed : &run.n_outside, 1);
    if (n == MAX_PRINTED_PER_CASE)
        printf("(further failures are only counted)\n");
    if (n >= MAX_PRINTED_PER_CASE)
        return false;
    printf("%s:%d: %s%s%s%s\n", file, line, what, run.context[0] ? "  [" : "", run.context, run.context[0] ? "]" : "");
    return true;
}

bool ot_check_true(bool held, const char *what, const char *file, int line)
{
    if (!held)
        begin_failure(what, file, line);
    return held;
}

bool ot_check_int(long long actual, long long expected, const char *what, const char *file, int line)
{
    if (actual == expected)
        return true;
    if (begin_failure(what, file, line))
        printf("    actual   %lld\n    expected %lld\n", actual, expected);
    return false;
}

bool ot_check_uint(unsigned long long actual, unsigned long long expected, const char *what, const char *file, int line)
{
    if (actual == expected)
        return true;
    if (begin_failure(what, file, line))
        printf("    actual   %llu\n    expected %llu\n", actual, expected);
    return false;
}

static void print_quoted(const char *label, const char *bytes, size_t size)
{
    printf("    %s ", label);
    if (!bytes) {
        printf("NULL\n");
        return;
    }
    putchar('"');
    for (size_t i = 0; i < size && i < 1000; i++) {
        unsigned char c = (unsigned char)bytes[i];
        if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c == '\n')
            printf("\\n");
        else if (c < 0x20 || c >= 0x7f)
            printf("\\x%02x", c);
        else
            putchar(c);
    }
    printf("\"%s (%zu bytes)\n", size > 1000 ? " ..." : "", size);
}

bool ot_check_bytes(const void *actual, size_t n_actual, const void *expected, size_t n_expected, const char *what,
                    const char *file, int line)
{
    if (n_actual == n_expected && (n_actual == 0 || (actual && expected && memcmp(actual, expected, n_actual) == 0)))
        return true;
    if (begin_failure(what, file, line)) {
        print_quoted("actual  ", actual, n_actual);
        print_quoted("expected", expected, n_expected);
    }
    return false;
}

bool ot_check_str(const char *actual, const char *expected, const char *what, const char *file, int line)
{
    if (!actual && !expected)
        return true;
    if (actual && expected && strcmp(actual, expected) == 0)
        return true;
    if (begin_failure(what, file, line)) {
        print_quoted("actual  ", actual, actual ? strlen(actual) : 0);
        print_quoted("expected", expected, expected ? strlen(expected) : 0);
    }
    return false;
}

bool ot_check_near(double actual, double expected, double tolerance, const char *what, const char *file, int line)
{
    if (fabs(actual - expected) <= tolerance || actual == expected)
        return true;
    if (begin_failure(what, file, line))
        printf("    actual   %.9g\n    expected %.9g, differs by %.3g, tolerance %.3g\n", actual, expected,
               fabs(actual - expected), tolerance);
    return false;
}

bool ot_check_same_floats(const float *actual, const float *expected, size_t n, const char *what, const char *file,
                          int line)
{
    size_t n_differ = 0, first = 0;
    for (size_t i = 0; i < n; i++) {
        if (memcmp(&actual[i], &expected[i], sizeof(float)) != 0 && n_differ++ == 0)
            first = i;
    }
    if (!n_differ)
        return true;
    if (begin_failure(what, file, line))
        printf("    %zu of %zu values differ; the first at %zu\n    actual   %.9g (%a)\n    expected %.9g (%a)\n", n_differ,
               n, first, (double)actual[first], (double)actual[first], (double)expected[first], (double)expected[first]);
    return false;
}

bool ot_check_contains(const char *text, const char *part, const char *what, const char *file, int line)
{
    if (text && strstr(text, part))
        return true;
    if (begin_failure(what, file, line)) {
        print_quoted("actual            ", text, text ? strlen(text) : 0);
        print_quoted("should contain    ", part, strlen(part));
    }
    return false;
}

bool ot_check_status(int actual, int expected, const char *message, const char *what, const char *file, int line)
{
    if (actual == expected)
        return true;
    if (begin_failure(what, file, line))
        printf("    status   %d: %s\n    expected %d\n", actual, actual ? message : "good", expected);
    return false;
}

const char *ot_test_model_path(void)
{
    const char *path = getenv("OTTER_MODEL");
    if (!path || !path[0])
        path = "models/smollm2-135m-instruct-q4_1.gguf";
    return access(path, R_OK) == 0 ? path : NULL;
}

const char *ot_test_temp_path(const char *name)
{
    static char paths[8][256];
    static unsigned next;
    if (!run.temp_dir[0]) {
        snprintf(run.temp_dir, sizeof run.temp_dir, "/tmp/otter-test-XXXXXX");
        if (!mkdtemp(run.temp_dir)) {
            perror("mkdtemp");
            run.temp_dir[0] = 0;
        }
    }
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", run.temp_dir, name);
    return path;
}

bool ot_test_write_file(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    bool good = file && fwrite(data, 1, size, file) == size;
    if (file && fclose(file) != 0)
        good = false;
    return ot_check_true(good, path, __FILE__, __LINE__);
}

uint64_t ot_test_seed(uint64_t default_seed)
{
    const char *text = getenv("OTTER_TEST_SEED");
    uint64_t seed = text && text[0] ? strtoull(text, NULL, 0) : default_seed;
    printf("seed %" PRIu64 " (set OTTER_TEST_SEED for another)\n", seed);
    return seed;
}

uint64_t ot_test_rng_next(ot_test_rng *rng)
{
    uint64_t z = rng->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint32_t ot_test_rng_below(ot_test_rng *rng, uint32_t n)
{
    return (uint32_t)(((ot_test_rng_next(rng) >> 32) * n) >> 32);
}

float ot_test_rng_float(ot_test_rng *rng, float lo, float hi)
{
    float unit = (float)(ot_test_rng_next(rng) >> 40) * 0x1p-24f;
    float value = lo + (hi - lo) * unit;
    return value < hi ? value : lo;
}

static size_t guarded_pages_bytes(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (size + page - 1) / page * page;
}

void *ot_test_guarded_alloc(size_t size, size_t align)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = guarded_pages_bytes(size);
    if (align > page || (align && size % align != 0)) {
        printf("ot_test_guarded_alloc: size %zu is no multiple of %zu\n", size, align);
        return NULL;
    }
    uint8_t *base = mmap(NULL, bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
    if (mprotect(base + bytes, page, PROT_NONE) != 0) {
        munmap(base, bytes + page);
        return NULL;
    }
    return base + bytes - size;
}

void ot_test_guarded_free(void *buffer, size_t size)
{
    if (!buffer)
        return;
    size_t bytes = guarded_pages_bytes(size);
    munmap((uint8_t *)buffer + size - bytes, bytes + (size_t)sysconf(_SC_PAGESIZE));
}

double ot_test_now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}
