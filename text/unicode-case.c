/* Upper, lower and title case: a binary search among runs of letters that are moved by the same distance, and a short list of those
 * that become several. */
#include "text/unicode-case.h"

static unsigned find_several(const ot_case_several *table, uint32_t n, uint32_t code_point, uint32_t dst[3])
{
    for (uint32_t i = 0; i < n && table[i].code_point <= code_point; i++) {
        unsigned count = 0;
        if (table[i].code_point != code_point)
            continue;
        for (; count < 3 && table[i].to[count] != 0; count++)
            dst[count] = table[i].to[count];
        return count;
    }
    return 0;
}

static uint32_t find_run(const ot_case_run *table, uint32_t n, uint32_t code_point)
{
    uint32_t low = 0, high = n; /* the first run that ends at or after the code point */
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (table[middle].last < code_point)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == n || code_point < table[low].first || (code_point - table[low].first) % table[low].step != 0)
        return code_point;
    return (uint32_t)((int32_t)code_point + table[low].delta);
}

unsigned ot_unicode_change_case(uint32_t code_point, ot_case to, uint32_t dst[3])
{
    static const struct {
        const ot_case_run *runs;
        const uint32_t *n_runs;
        const ot_case_several *several;
        const uint32_t *n_several;
    } tables[] = {{ot_upper_runs, &ot_n_upper_runs, ot_upper_several, &ot_n_upper_several},
                  {ot_lower_runs, &ot_n_lower_runs, ot_lower_several, &ot_n_lower_several},
                  {ot_title_runs, &ot_n_title_runs, ot_title_several, &ot_n_title_several}};
    dst[0] = code_point;
    if (code_point < 0x80) {
        if (to == OT_CASE_LOWER)
            dst[0] += code_point >= 'A' && code_point <= 'Z' ? 32 : 0;
        else
            dst[0] -= code_point >= 'a' && code_point <= 'z' ? 32 : 0;
        return 1;
    }
    unsigned n = find_several(tables[to].several, *tables[to].n_several, code_point, dst);
    if (n > 0)
        return n;
    dst[0] = find_run(tables[to].runs, *tables[to].n_runs, code_point);
    return 1;
}
