/* The limit on what clients may allocate, counted by hand: this program has no hooks. */
#include "base/heap-limit.h"
#include "tests/support/test-support.h"

#define MIB ((size_t)1 << 20)

static ot_heap_usage usage(void)
{
    ot_heap_usage u;
    ot_heap_get(&u);
    return u;
}

static void own_threads_are_not_limited(void)
{
    ot_heap_set_limit(8 * MIB);
    CHECK(ot_heap_admit(1000 * MIB));
    ot_heap_for_clients(true);
    CHECK(!ot_heap_admit(1000 * MIB));
    CHECK(ot_heap_for_clients(false));
    CHECK(ot_heap_admit(1000 * MIB));
    CHECK_UINT(usage().n_refused, 1);
}

static void sizes_have_limits_of_their_own(void)
{
    ot_heap_set_limit(8 * MIB);
    ot_heap_for_clients(true);
    ot_heap_count((ptrdiff_t)(6 * MIB));
    CHECK(!ot_heap_admit(1 * MIB)); /* large: a quarter is left to others */
    CHECK(ot_heap_admit(100000));
    ot_heap_count((ptrdiff_t)(2 * MIB));
    CHECK(!ot_heap_admit(100000));
    CHECK(ot_heap_admit(1000)); /* small: the words of a refusal */
    ot_heap_count((ptrdiff_t)(1 * MIB));
    CHECK(!ot_heap_admit(1000));
    CHECK(!ot_heap_admit(SIZE_MAX));
    ot_heap_count(-(ptrdiff_t)(9 * MIB));
    CHECK(ot_heap_admit(6 * MIB));
    CHECK(!ot_heap_admit(6 * MIB + 1));
    ot_heap_for_clients(false);
}

static void counts_and_exempts(void)
{
    ptrdiff_t before = ot_heap_of_thread();
    ot_heap_set_limit(8 * MIB);
    CHECK_UINT(usage().bytes, 0);
    ot_heap_count((ptrdiff_t)(3 * MIB));
    CHECK_UINT(usage().bytes, 3 * MIB);
    ot_heap_exempt((ptrdiff_t)(2 * MIB)); /* a head */
    CHECK_UINT(usage().bytes, 1 * MIB);
    ot_heap_count(-(ptrdiff_t)(1 * MIB));
    CHECK_UINT(usage().bytes, 0);
    CHECK_UINT(usage().peak_bytes, 3 * MIB);
    CHECK(ot_heap_has_fallen(2 * MIB));
    CHECK(!ot_heap_has_fallen(2 * MIB)); /* once */
    CHECK(ot_heap_of_thread() - before == (ptrdiff_t)(2 * MIB));
    ot_heap_count(-(ptrdiff_t)(2 * MIB));
    CHECK_UINT(usage().bytes, 0); /* freed before the exemption ends: never below nothing */
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(own_threads_are_not_limited);
    RUN(sizes_have_limits_of_their_own);
    RUN(counts_and_exempts);
    return ot_test_finish();
}
