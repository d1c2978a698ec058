/* Positions before the answer are left out: nobody drafts or steers there. One exception makes both kinds of head alike: the last
 * token of the prompt decides the first of the answer. */
#include "train/data/text-targets.h"

#include <stdlib.h>

ot_status ot_text_targets_open(ot_text_targets *t, uint32_t max_rows, uint32_t n_outputs, ot_error *err)
{
    *t = (ot_text_targets){.max_rows = max_rows, .n_outputs = n_outputs};
    t->rows = ot_alloc(max_rows, sizeof *t->rows);
    t->tokens = ot_alloc((size_t)max_rows * n_outputs, sizeof *t->tokens);
    t->before = ot_alloc((size_t)max_rows * n_outputs, sizeof *t->before);
    t->list = (ot_token_targets){.rows = t->rows, .tokens = t->tokens, .before = t->before};
    return t->rows != NULL && t->tokens != NULL && t->before != NULL ? OT_OK : ot_fail(err, OT_ERR_NOMEM, "out of memory for the targets of %u rows", max_rows);
}

void ot_text_targets_close(ot_text_targets *t)
{
    free(t->rows);
    free(t->tokens);
    free(t->before);
    *t = (ot_text_targets){0};
}

void ot_text_targets_clear(ot_text_targets *t)
{
    t->list.n_rows = 0;
}

void ot_text_targets_add(ot_text_targets *t, const ot_insertion_spec *spec, const int32_t *tokens, uint32_t n, uint32_t n_before,
                         uint32_t first_row, double share, ot_rng *rng)
{
    for (uint32_t i = n_before > 0 ? n_before - 1 : 0; i + 1 < n; i++) {
        bool any = false;
        if (share < 1.0 && !(ot_rng_uniform(rng) < share))
            continue;
        int32_t *row = t->tokens + (size_t)t->list.n_rows * t->n_outputs, *before = t->before + (size_t)t->list.n_rows * t->n_outputs;
        for (uint32_t k = 0; k < t->n_outputs; k++) {
            const uint64_t at = (uint64_t)i + 1 + spec->offsets[k];
            row[k] = at < n ? tokens[at] : -1;
            before[k] = at < n ? tokens[at - 1] : -1;
            any |= at < n;
        }
        if (any)
            t->rows[t->list.n_rows++] = first_row + i;
    }
}
