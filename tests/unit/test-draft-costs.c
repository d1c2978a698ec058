/* What rows and guesses cost: the built-in times without experience, and what steps teach. */
#include <stdio.h>

#include "base/clock.h"
#include "scheduler/drafts/draft-costs.h"
#include "tests/support/test-support.h"

static ot_draft_costs costs;

static float relative(uint32_t n_rows)
{
    return ot_draft_cost_of_rows(&costs, n_rows) / ot_draft_cost_of_rows(&costs, 1);
}

static void steps(uint32_t n, uint32_t n_rows, double seconds)
{
    while (n-- > 0)
        ot_draft_costs_end_step(&costs, true, n_rows, seconds);
}

static void built_in_times_come_first(void)
{
    ot_draft_costs_open(&costs, false);
    CHECK_NEAR(relative(1), 1, 0);
    CHECK(relative(2) > 1 && relative(4) < 2);
    for (uint32_t n = 2; n < 200; n++)
        CHECK(relative(n) > relative(n - 1));
    CHECK(ot_draft_cost_of_guess(&costs, true) < ot_draft_cost_of_guess(&costs, false));
    CHECK(ot_draft_cost_of_guess(&costs, false) < 1);
}

static void times_of_steps_are_learnt(void)
{
    ot_draft_costs_open(&costs, false);
    steps(20, 1, 4e-3);
    CHECK_NEAR(relative(5), 1.5, 1e-3); /* one size alone says nothing about others: they keep their proportion */
    steps(20, 5, 4.2e-3);
    CHECK(relative(5) < 1.2f);
    CHECK(relative(6) < 1.7f); /* its neighbour was thought to take as much too long */
    steps(40, 5, 16e-3);       /* things change */
    CHECK(relative(5) > 3);
    for (uint32_t n = 2; n < 200; n++)
        CHECK(relative(n) >= relative(n - 1));
}

static void one_slow_step_counts_little(void)
{
    ot_draft_costs_open(&costs, false);
    steps(20, 1, 4e-3);
    steps(20, 4, 5e-3);
    const float before = relative(4);
    steps(1, 4, 5);
    CHECK(relative(4) < before * 1.2f);
}

static void guesses_are_set_against_steps(void)
{
    ot_draft_costs_open(&costs, false);
    steps(20, 1, 4e-3);
    const float before = ot_draft_cost_of_guess(&costs, true);
    for (int i = 0; i < 20; i++) {
        const double until = ot_clock_thread_s() + 4e-4;
        ot_draft_costs_begin_guesses(&costs);
        while (ot_clock_thread_s() < until)
            continue;
        ot_draft_costs_end_guesses(&costs, true, 2);
        ot_draft_costs_end_step(&costs, true, 1, 4.4e-3); /* what guessing took is no part of the pass */
    }
    printf("    %g, then %g\n", before / ot_draft_cost_of_rows(&costs, 1), ot_draft_cost_of_guess(&costs, true) / ot_draft_cost_of_rows(&costs, 1));
    CHECK_NEAR(ot_draft_cost_of_guess(&costs, true) / ot_draft_cost_of_rows(&costs, 1), 0.05, 0.02);
    CHECK_NEAR(ot_draft_cost_of_rows(&costs, 1), 4e-3, 1e-4);
}

static void other_steps_teach_nothing(void)
{
    for (int fixed = 0; fixed < 2; fixed++) {
        ot_draft_costs_open(&costs, fixed);
        const float one = ot_draft_cost_of_rows(&costs, 1), many = ot_draft_cost_of_rows(&costs, 64);
        ot_draft_costs_end_step(&costs, fixed, 1, 1e-3); /* with prompts in it, or where nothing is to be learnt */
        ot_draft_costs_end_step(&costs, true, 0, 1e-3);
        ot_draft_costs_end_step(&costs, true, 1, -1e-3);
        ot_draft_costs_end_step(&costs, true, 1000, 1e-3);
        CHECK_NEAR(ot_draft_cost_of_rows(&costs, 1), one, 0);
        CHECK_NEAR(ot_draft_cost_of_rows(&costs, 64), many, 0);
    }
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(built_in_times_come_first);
    RUN(times_of_steps_are_learnt);
    RUN(one_slow_step_counts_little);
    RUN(guesses_are_set_against_steps);
    RUN(other_steps_teach_nothing);
    return ot_test_finish();
}
