/* The machine's limits: what a piece of work needs at the least, and that measuring finds something and only ever raises it. */
#include "engine/kernels.h"
#include "engine/machine-limits.h"
#include "tests/support/test-support.h"

static const ot_machine_limits machine = {.read_gb_s = 20.0, .int8_gop_s = 500.0, .float_gflop_s = 100.0};

static void the_largest_share_binds(void)
{
    static const struct {
        const char *what;
        ot_work work;
        double least_s;
        ot_limit which;
    } rows[] = {
        {"one sequence: its weights", {.int8_ops = 0.25e9, .float_ops = 1e6, .bytes = 0.1e9}, 5e-3, OT_LIMIT_READ},
        {"a prompt: its products", {.int8_ops = 100e9, .float_ops = 9e9, .bytes = 0.1e9}, 0.2, OT_LIMIT_INT8},
        {"a long prompt: attention", {.int8_ops = 100e9, .float_ops = 40e9, .bytes = 0.1e9}, 0.4, OT_LIMIT_FLOAT},
        {"nothing", {0.0, 0.0, 0.0}, 0.0, OT_LIMIT_NONE},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ot_limit which;
        ot_test_context("%s", rows[i].what);
        CHECK_NEAR(ot_machine_least_s(&machine, &rows[i].work, &which), rows[i].least_s, 1e-9);
        CHECK_STR(ot_limit_name(which), ot_limit_name(rows[i].which));
        CHECK_NEAR(ot_machine_least_s(&machine, &rows[i].work, NULL), rows[i].least_s, 1e-9);
    }
    ot_test_context(NULL);
}

static void an_unknown_limit_asks_for_nothing(void)
{
    const ot_machine_limits only_reads = {.read_gb_s = 20.0};
    const ot_work work = {.int8_ops = 100e9, .bytes = 0.1e9};
    ot_limit which;
    CHECK_NEAR(ot_machine_least_s(&only_reads, &work, &which), 5e-3, 1e-9);
    CHECK_STR(ot_limit_name(which), "read");
}

/* No figure can be known in advance; a processor that this project runs on does more than this, with neighbours too. */
static void measuring_finds_something(void)
{
    ot_pool *pool;
    ot_error err;
    REQUIRE(ot_pool_open(&pool, 2, &err) == OT_OK);
    ot_machine_limits l = {0};
    CHECK_INT(ot_machine_limits_raise(&l, pool, 0, &err), OT_OK);
    CHECK(l.read_gb_s > 0.05);
    CHECK_NEAR(l.int8_gop_s, 0.0, 0.0);
    const unsigned have = ot_cpu_detect();
    if (have != 0) {
        CHECK_INT(ot_machine_limits_raise(&l, pool, have, &err), OT_OK);
        CHECK(l.int8_gop_s > 1.0);
        CHECK(l.float_gflop_s > 0.5);
        CHECK(l.int8_gop_s > l.float_gflop_s);
    }
    ot_pool_close(&pool);
}

static void a_measurement_never_lowers_a_limit(void)
{
    ot_pool *pool;
    ot_error err;
    REQUIRE(ot_pool_open(&pool, 1, &err) == OT_OK);
    ot_machine_limits l = {.read_gb_s = 1e6, .int8_gop_s = 1e9, .float_gflop_s = 1e9};
    CHECK_INT(ot_machine_limits_raise(&l, pool, ~0u, &err), OT_OK);
    CHECK_NEAR(l.read_gb_s, 1e6, 0.0);
    CHECK_NEAR(l.int8_gop_s, 1e9, 0.0);
    CHECK_NEAR(l.float_gflop_s, 1e9, 0.0);
    ot_pool_close(&pool);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(the_largest_share_binds);
    RUN(an_unknown_limit_asks_for_nothing);
    RUN(measuring_finds_something);
    RUN(a_measurement_never_lowers_a_limit);
    return ot_test_finish();
}
