/* A binary heap of merge candidates. */
#include "text/merge-heap.h"

static bool comes_before(const ot_merge_candidate *a, const ot_merge_candidate *b)
{
    return a->order != b->order ? a->order < b->order : a->at < b->at;
}

bool ot_merge_heap_push(ot_merge_heap *h, ot_merge_candidate entry)
{
    if (!ot_scratch_reserve(&h->scratch->heap, &h->scratch->heap_bytes, h->n + 1, sizeof entry))
        return false;
    ot_merge_candidate *entries = h->scratch->heap;
    size_t at = h->n++;
    for (; at > 0 && comes_before(&entry, &entries[(at - 1) / 2]); at = (at - 1) / 2)
        entries[at] = entries[(at - 1) / 2];
    entries[at] = entry;
    return true;
}

ot_merge_candidate ot_merge_heap_pop(ot_merge_heap *h)
{
    ot_merge_candidate *entries = h->scratch->heap, top = entries[0], last = entries[--h->n];
    size_t at = 0;
    for (size_t child = 1; child < h->n; child = 2 * at + 1) {
        if (child + 1 < h->n && comes_before(&entries[child + 1], &entries[child]))
            child++;
        if (!comes_before(&entries[child], &last))
            break;
        entries[at] = entries[child];
        at = child;
    }
    entries[at] = last;
    return top;
}
