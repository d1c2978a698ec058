/* Finding special tokens in a text: control and user-defined ones, longest match at the leftmost place. Their texts are
 * kept sorted; a match narrows the range of those that agree with the text byte by byte, so a look-up takes time by
 * the length of the special, not by their number. */
#include "text/tokenizer-internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct sort_entry {
    ot_str text;
    int32_t id;
} sort_entry;

static int compare_entries(const void *a, const void *b)
{
    const sort_entry *x = a, *y = b;
    size_t shared = x->text.size < y->text.size ? x->text.size : y->text.size;
    int order = memcmp(x->text.data, y->text.data, shared);
    if (order != 0)
        return order;
    if (x->text.size != y->text.size)
        return x->text.size < y->text.size ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

bool ot_specials_hold(const ot_tokenizer *t, uint32_t id)
{
    const ot_symbol *s = &t->symbols[id];
    if (s->size == 0)
        return false;
    return s->type == OT_TOKEN_CONTROL || s->type == OT_TOKEN_UNKNOWN || s->type == OT_TOKEN_USER_DEFINED || s->guarded;
}

ot_status ot_specials_load(ot_tokenizer *t, ot_error *err)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n_tokens; i++)
        n += ot_specials_hold(t, i);
    sort_entry *entries = calloc((size_t)n + 1, sizeof *entries);
    t->specials = calloc((size_t)n + 1, sizeof *t->specials);
    if (entries == NULL || t->specials == NULL) {
        free(entries);
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for %u special tokens", n);
    }
    uint32_t at = 0;
    for (uint32_t i = 0; i < t->n_tokens; i++)
        if (ot_specials_hold(t, i))
            entries[at++] = (sort_entry){ot_symbol_text(t, i), (int32_t)i};
    qsort(entries, n, sizeof *entries, compare_entries);
    for (uint32_t i = 0; i < n; i++) {
        t->specials[i] = entries[i].id;
        t->special_first[(unsigned char)entries[i].text.data[0]] = true;
    }
    t->n_specials = n;
    free(entries);
    return OT_OK;
}

/* Among specials [*low, *high), which agree in their first `depth` bytes: narrows to those whose byte `depth` is c.
 * Specials of exactly `depth` bytes sort before and drop out. */
static void narrow(const ot_tokenizer *t, size_t depth, unsigned char c, uint32_t *low, uint32_t *high)
{
    uint32_t ends[2];
    for (int upper = 0; upper < 2; upper++) {
        uint32_t a = *low, b = *high;
        while (a < b) { /* the first whose byte is >= c (or > c for the upper end) */
            uint32_t middle = a + (b - a) / 2;
            ot_str text = ot_symbol_text(t, (uint32_t)t->specials[middle]);
            int byte = text.size > depth ? (unsigned char)text.data[depth] : -1;
            if (byte < c + upper)
                a = middle + 1;
            else
                b = middle;
        }
        ends[upper] = a;
    }
    *low = ends[0];
    *high = ends[1];
}

int32_t ot_specials_match(const ot_tokenizer *t, const char *text, size_t size, size_t control_size)
{
    uint32_t low = 0, high = t->n_specials;
    int32_t found = -1;
    for (size_t depth = 0; depth < size && low < high; depth++) {
        narrow(t, depth, (unsigned char)text[depth], &low, &high);
        if (low == high)
            break;
        /* Those that end here sort first; of several with one text the lowest id. */
        const ot_symbol *s = &t->symbols[t->specials[low]];
        if (s->size == depth + 1 && ((s->type == OT_TOKEN_USER_DEFINED && !s->guarded) || depth + 1 <= control_size))
            found = t->specials[low];
    }
    return found;
}

int32_t ot_specials_find(const ot_tokenizer *t, const char *text, size_t size)
{
    int32_t found = ot_specials_match(t, text, size, size);
    return found >= 0 && t->symbols[found].size == size ? found : -1;
}
