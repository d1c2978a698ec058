/* Drafts without parameters (prompt lookup): the text's last few tokens, where they occurred before, are likely to go on as they did. */
#ifndef OTTER_SCHEDULER_DRAFTS_NGRAM_DRAFTS_H
#define OTTER_SCHEDULER_DRAFTS_NGRAM_DRAFTS_H

#include <stdint.h>

#define OT_NGRAM_LONGEST 6 /* tokens in common beyond which places count as equal: the latest wins */

/* Guesses what follows text[0 .. n_text) and then `next`: the continuation of the earlier place that shares the longest ending
 * with it, of 2 tokens at least; the latest such place. The guess may run into `next` and into itself, so that a loop is drafted round
 * and round. Fills draft with up to max tokens; returns how many (0: no such place). *matched: how many tokens
 * they have in common, OT_NGRAM_LONGEST at most.
 * Allocates nothing; looks at the last 8192 tokens of the text at most. */
uint32_t ot_ngram_draft(const int32_t *text, uint32_t n_text, int32_t next, uint32_t max, int32_t *draft, uint32_t *matched);

#endif
