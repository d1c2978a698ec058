/* What rows and guesses cost, learnt from the steps themselves.
 *
 * Whether a guess pays depends on how much longer a step with one more row takes, and that differs between machines: where reading
 * weights is slow, further rows are nearly free; where arithmetic is, they are not. So each step that only decodes is timed,
 * by its number of rows, and so is each proposal. What is learnt is a multiple of the built-in times below, which give the shape where
 * nothing has been seen: a size of step that never ran is thought to be off by what its neighbours are off by.
 *
 * The clock is the processor time of the engine thread, which takes part in all arithmetic: a neighbour who takes the core away for
 * a while does not make rows look dear. Averages forget (an old step counts 7/8 of the next one), since contexts grow and requests change.
 *
 * None of this can be seen in the text: it is all about how many rows a turn asks for. Nothing is allocated. */
#include "scheduler/drafts/draft-costs.h"

#include "base/clock.h"

/* Forward and project of SmolLM2-135M Q4_1 after 200 tokens, one thread of an EPYC with AVX-512, by 1, 2, 3, 4, 6, 8, 16, 32 rows: 6.5 ms
 * times 1, 1.10, 1.19, 1.32, 1.73, 2.17, 3.75, 7.05. */
#define CHEAP_ROWS 4
#define CHEAP_ROW_TIME 0.1f  /* of a one-row pass: each row up to CHEAP_ROWS ... */
#define ROW_TIME 0.2f        /* ... and beyond */
/* Values and the best tokens of one head at one row, of the likely third of the vocabulary: 0.15 ms of processor from a table of 96
 * inputs, 0.45 ms through the output matrix, where a pass of one row took 6.1 ms. */
#define HEAD_TIME 0.025f
#define WIDE_HEAD_TIME 0.075f

#define MEMORY 8          /* steps that an average is over, and a time needs to be believed */
#define MOST 2.0          /* times the average that one step can count: it may have paid for something else */

static const uint32_t largest[OT_COST_SIZES] = {1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 48, OT_COST_ROWS};

static float built_in_time(uint32_t n_rows)
{
    const uint32_t few = n_rows < CHEAP_ROWS ? n_rows : CHEAP_ROWS;
    return 1 + CHEAP_ROW_TIME * (float)(few - 1) + ROW_TIME * (float)(n_rows - few);
}

static float built_in_guess_time(bool has_tables)
{
    return has_tables ? HEAD_TIME : WIDE_HEAD_TIME;
}

static uint32_t size_of(uint32_t n_rows)
{
    uint32_t size = 0;
    while (size + 1 < OT_COST_SIZES && largest[size] < n_rows)
        size++;
    return size;
}

static void learn(ot_learnt_cost *c, double multiple)
{
    if (c->n == 0)
        c->multiple = (float)multiple;
    if (multiple > MOST * c->multiple)
        multiple = MOST * c->multiple;
    if (c->n < MEMORY)
        c->n++;
    c->multiple += ((float)multiple - c->multiple) / (float)c->n;
}

/* By what the built-in times of this size are off: the average over all sizes seen, by how near they are and how often they were. */
static float multiple_of(const ot_draft_costs *costs, uint32_t size)
{
    float sum = 0, weights = 0;
    for (uint32_t i = 0; i < OT_COST_SIZES; i++) {
        const float apart = (float)i - (float)size, weight = (float)costs->steps[i].n / (1 + 8 * apart * apart);
        sum += weight * costs->steps[i].multiple;
        weights += weight;
    }
    return weights > 0 ? sum / weights : 1;
}

static void make_table(ot_draft_costs *costs)
{
    uint32_t size = 0;
    float multiple = multiple_of(costs, 0);
    costs->of_rows[0] = 0;
    for (uint32_t n = 1; n <= OT_COST_ROWS; n++) {
        if (n > largest[size])
            multiple = multiple_of(costs, ++size);
        const float time = multiple * built_in_time(n);
        costs->of_rows[n] = time > costs->of_rows[n - 1] ? time : costs->of_rows[n - 1];
    }
}

void ot_draft_costs_open(ot_draft_costs *costs, bool fixed)
{
    *costs = (ot_draft_costs){.fixed = fixed};
    make_table(costs);
}

float ot_draft_cost_of_rows(const ot_draft_costs *costs, uint32_t n_rows)
{
    if (n_rows <= OT_COST_ROWS)
        return costs->of_rows[n_rows];
    return costs->of_rows[OT_COST_ROWS] * built_in_time(n_rows) / built_in_time(OT_COST_ROWS);
}

float ot_draft_cost_of_guess(const ot_draft_costs *costs, bool has_tables)
{
    const ot_learnt_cost *c = &costs->guesses[has_tables];
    /* Without a step that was timed there is nothing to set seconds against. */
    const bool believed = c->n == MEMORY && costs->is_timed;
    return built_in_guess_time(has_tables) * (believed ? c->multiple : costs->of_rows[1] / built_in_time(1));
}

/* ---- Times ----------------------------------------------------------------------------------------------- */

void ot_draft_costs_begin_guesses(ot_draft_costs *costs)
{
    costs->guessing_began_s = ot_clock_thread_s();
}

void ot_draft_costs_end_guesses(ot_draft_costs *costs, bool has_tables, uint32_t n_guesses)
{
    const double seconds = ot_clock_thread_s() - costs->guessing_began_s;
    costs->guessing_s += seconds;
    if (!costs->fixed && n_guesses > 0)
        learn(&costs->guesses[has_tables], seconds / n_guesses / built_in_guess_time(has_tables));
}

void ot_draft_costs_end_step(ot_draft_costs *costs, bool is_decoding, uint32_t n_rows, double seconds)
{
    seconds -= costs->guessing_s;
    costs->guessing_s = 0;
    if (costs->fixed || !is_decoding || n_rows == 0 || n_rows > OT_COST_ROWS || seconds <= 0)
        return;
    learn(&costs->steps[size_of(n_rows)], seconds / built_in_time(n_rows));
    costs->is_timed = true;
    make_table(costs);
}
