/* Prompt lookup by a backwards scan. A table of n-grams would have to be kept beside every text and rebuilt for forks; a scan needs
 * nothing, and most places fail at their first token, so it costs microseconds for a whole context where a pass costs
 * milliseconds. */
#include "scheduler/drafts/ngram-drafts.h"

enum {
    SHORTEST = 2,
    WINDOW = 8192 /* bounds the work of a step, for texts of any length */
};

/* How many tokens, up to OT_NGRAM_LONGEST, the text up to and including `at` and the text followed by `next` end with in common. */
static uint32_t common_ending(const int32_t *text, uint32_t n_text, int32_t next, uint32_t at)
{
    uint32_t n = 0;
    if (text[at] == next)
        for (n = 1; n < OT_NGRAM_LONGEST && n <= at && text[at - n] == text[n_text - n];)
            n++;
    return n;
}

uint32_t ot_ngram_draft(const int32_t *text, uint32_t n_text, int32_t next, uint32_t max, int32_t *draft, uint32_t *matched)
{
    uint32_t oldest = n_text > WINDOW ? n_text - WINDOW : 0, best = 0, place = 0;
    for (uint32_t at = n_text; at-- > oldest && best < OT_NGRAM_LONGEST;) {
        uint32_t n = common_ending(text, n_text, next, at);
        if (n > best) {
            best = n;
            place = at;
        }
    }
    *matched = best;
    if (best < SHORTEST)
        return 0;
    for (uint32_t i = 0; i < max; i++) {
        uint32_t from = place + 1 + i;
        draft[i] = from < n_text ? text[from] : from == n_text ? next : draft[from - n_text - 1];
    }
    return max;
}
