/* What the C tests share: checks that print both values, cases with names, a seeded generator, guarded
 * buffers, temporary files, and the way to the default model.
 *
 * A test is one program. Its main runs its cases and returns ot_test_finish():
 *
 *     static void decodes_empty_text(void) { CHECK_INT(decode(""), 0); }
 *     int main(int argc, char **argv)
 *     {
 *         ot_test_start(argc, argv);
 *         RUN(decodes_empty_text);
 *         return ot_test_finish();
 *     }
 *
 * A failed check prints and is counted, and the case goes on; REQUIRE leaves the case (it returns from a function
 * without a result). Exit status: 0 all passed, 1 a check failed, 77 skipped (`return ot_test_skip("why")` before
 * any case). One case can be skipped by itself with SKIP_CASE("why"), which is printed and counted.
 * `PROGRAM NAME...` runs only the cases whose name contains one of the words.
 * Threads: the checks may be used from several threads; the rest from main alone.
 */
#ifndef OTTER_TESTS_SUPPORT_TEST_SUPPORT_H
#define OTTER_TESTS_SUPPORT_TEST_SUPPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- Cases ----------------------------------------------------------------------------------------------- */

void ot_test_start(int argc, char **argv);
/* Prints the counts and removes the temporary folder; the exit status for main. */
int ot_test_finish(void);
/* Prints the reason; returns 77 for main. */
int ot_test_skip(const char *format, ...) __attribute__((format(printf, 1, 2)));

void ot_test_run(const char *name, void (*test_case)(void));
#define RUN(test_case) ot_test_run(#test_case, test_case)
/* A label for the failures that follow (a row of a table, a file), printed with them; NULL takes it away. */
void ot_test_context(const char *format, ...) __attribute__((format(printf, 1, 2)));
void ot_test_skip_case(const char *reason);
#define SKIP_CASE(reason)            \
    do {                             \
        ot_test_skip_case(reason);   \
        return;                      \
    } while (0)

/* ---- Checks: actual first, then expected. Each is an expression that is true if the check held ----------- */

#define CHECK(condition) ot_check_true(!!(condition), #condition, __FILE__, __LINE__)
#define CHECK_INT(actual, expected) \
    ot_check_int((long long)(actual), (long long)(expected), #actual, __FILE__, __LINE__)
#define CHECK_UINT(actual, expected) \
    ot_check_uint((unsigned long long)(actual), (unsigned long long)(expected), #actual, __FILE__, __LINE__)
#define CHECK_STR(actual, expected) ot_check_str((actual), (expected), #actual, __FILE__, __LINE__)
/* Bytes, which need not end in a zero. */
#define CHECK_BYTES(actual, n_actual, expected, n_expected) \
    ot_check_bytes((actual), (n_actual), (expected), (n_expected), #actual, __FILE__, __LINE__)
/* |actual - expected| <= tolerance; NaN never holds. */
#define CHECK_NEAR(actual, expected, tolerance) \
    ot_check_near((double)(actual), (double)(expected), (double)(tolerance), #actual, __FILE__, __LINE__)
/* The same bits, so that -0 differs from 0 and a NaN equals itself. */
#define CHECK_SAME_FLOATS(actual, expected, n) \
    ot_check_same_floats((actual), (expected), (n), #actual, __FILE__, __LINE__)
/* The text contains the part: for error messages that must name something. */
#define CHECK_CONTAINS(text, part) ot_check_contains((text), (part), #text, __FILE__, __LINE__)

/* A status of the project (an int here, so that this header needs no other). `err` is an ot_error *, not NULL: its
 * message is printed. */
#define CHECK_STATUS(actual, expected, err) \
    ot_check_status((int)(actual), (int)(expected), (err)->message, #actual, __FILE__, __LINE__)
#define CHECK_OK(actual, err) CHECK_STATUS(actual, 0, err)

#define REQUIRE(condition)                                                 \
    do {                                                                   \
        if (!ot_check_true(!!(condition), #condition, __FILE__, __LINE__)) \
            return;                                                        \
    } while (0)
#define REQUIRE_OK(actual, err)      \
    do {                             \
        if (!CHECK_OK(actual, err))  \
            return;                  \
    } while (0)

bool ot_check_true(bool held, const char *what, const char *file, int line);
bool ot_check_int(long long actual, long long expected, const char *what, const char *file, int line);
bool ot_check_uint(unsigned long long actual, unsigned long long expected, const char *what, const char *file, int line);
bool ot_check_str(const char *actual, const char *expected, const char *what, const char *file, int line);
bool ot_check_bytes(const void *actual, size_t n_actual, const void *expected, size_t n_expected, const char *what,
                    const char *file, int line);
bool ot_check_near(double actual, double expected, double tolerance, const char *what, const char *file, int line);
bool ot_check_same_floats(const float *actual, const float *expected, size_t n, const char *what, const char *file,
                          int line);
bool ot_check_contains(const char *text, const char *part, const char *what, const char *file, int line);
bool ot_check_status(int actual, int expected, const char *message, const char *what, const char *file, int line);

/* ---- Surroundings ---------------------------------------------------------------------------------------- */

/* The default model: $OTTER_MODEL, or models/... under the current folder; NULL if there is none. Borrowed. */
const char *ot_test_model_path(void);
/* A path under a folder of this process alone, removed by ot_test_finish. Valid for the next seven calls. */
const char *ot_test_temp_path(const char *name);
/* Writes a whole file; false (and a failed check) if it cannot. */
bool ot_test_write_file(const char *path, const void *data, size_t size);

/* splitmix64. ot_test_seed returns $OTTER_TEST_SEED, else the given default, and prints it. */
typedef struct ot_test_rng {
    uint64_t state;
} ot_test_rng;
uint64_t ot_test_seed(uint64_t default_seed);
uint64_t ot_test_rng_next(ot_test_rng *rng);
/* Uniform in [0, n); n > 0. */
uint32_t ot_test_rng_below(ot_test_rng *rng, uint32_t n);
/* Uniform in [lo, hi). */
float ot_test_rng_float(ot_test_rng *rng, float lo, float hi);

/* A buffer whose last byte is the last before a page that may not be touched, so that an access past its end
 * faults. `align` (a power of two) is kept for the start: size must be a multiple of it. NULL if out of memory. */
void *ot_test_guarded_alloc(size_t size, size_t align);
void ot_test_guarded_free(void *buffer, size_t size);

/* Monotonic seconds. */
double ot_test_now_seconds(void);

#endif
