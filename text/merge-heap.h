/* Candidates for merging neighbours, best first: a binary heap in the working memory of a tokenization. BPE takes the lowest rank,
 * SentencePiece the highest score; of equals the leftmost. */
#ifndef OTTER_TEXT_MERGE_HEAP_H
#define OTTER_TEXT_MERGE_HEAP_H

#include "text/tokenizer-internal.h"

typedef struct ot_merge_candidate {
    double order;          /* the lowest comes first: a rank, or a negated score */
    uint32_t at;           /* the left node */
    uint32_t size;         /* SentencePiece: bytes of both nodes; the candidate is stale if they have changed since */
    const ot_merge *merge; /* BPE: the rule */
} ot_merge_candidate;

typedef struct ot_merge_heap {
    ot_tokenize_scratch *scratch; /* whose `heap` holds the entries */
    size_t n;
} ot_merge_heap;

bool ot_merge_heap_push(ot_merge_heap *h, ot_merge_candidate entry); /* false: out of memory */
ot_merge_candidate ot_merge_heap_pop(ot_merge_heap *h);              /* h->n > 0 */

#endif
