/* Where the time of a step goes: the engine's stages, against the limit that binds each, and what the scheduler does around them. */
#include "cli/bench.h"

#include <stdio.h>

static const char *const units[] = {"", "GOP/s", "GFLOP/s", "GB/s"};

static double amount(const ot_work *work, ot_limit limit)
{
    return limit == OT_LIMIT_INT8 ? work->int8_ops : limit == OT_LIMIT_FLOAT ? work->float_ops : work->bytes;
}

static void print_stage(const ot_bench *b, const ot_stage_time *s, double steps, double total_s)
{
    const ot_work work = {s->int8_ops, s->float_ops, s->bytes};
    ot_limit which;
    const double least_s = ot_machine_least_s(&b->limits, &work, &which);
    char rate[64] = "", share[32] = "";
    if (which != OT_LIMIT_NONE && s->seconds > 0.0) {
        snprintf(rate, sizeof rate, "%.0f %s", 1e-9 * amount(&work, which) / s->seconds, units[which]);
        snprintf(share, sizeof share, "%.0f%% of %s", 100.0 * least_s / s->seconds, ot_limit_name(which));
    }
    printf("| %s | %.1f%% | %.1f | %.1f | %s | %s |\n", s->name, 100.0 * s->seconds / total_s, 1e6 * s->seconds / steps,
           1e6 * s->waited_s / steps, rate, share);
}

void ot_bench_print_profile(const ot_bench *b, const ot_bench_case *c)
{
    const ot_bench_tally *t = &c->tally;
    double total_s = 0.0, stages_s = 0.0;
    for (int i = 0; i < OT_N_STEP_PHASES; i++)
        total_s += t->phases_s[i];
    if (t->steps == 0 || total_s <= 0.0)
        return;
    printf("\n%s: %.0f us a step, %.2f tokens a step\n\n", c->name, 1e6 * total_s / t->steps, t->tokens / t->steps);
    printf("| stage | share | us a step | of it waiting | rate | share of limit |\n|---|---|---|---|---|---|\n");
    for (uint32_t i = 0; i < t->n_stages; i++) {
        stages_s += t->stages[i].seconds;
        if (t->stages[i].seconds > 0.0)
            print_stage(b, &t->stages[i], t->steps, total_s);
    }
    printf("| outside the stages | %.1f%% | %.1f | | | |\n\nBy the scheduler's phases:", 100.0 * (total_s - stages_s) / total_s,
           1e6 * (total_s - stages_s) / t->steps);
    for (int i = 0; i < OT_N_STEP_PHASES; i++)
        printf("%s %s %.1f us", i > 0 ? "," : "", ot_step_phase_names[i], 1e6 * t->phases_s[i] / t->steps);
    printf(".\n");
}
