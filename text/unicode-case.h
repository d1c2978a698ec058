/* Upper, lower and title case of characters, as Python's strings change it. */
#ifndef OTTER_TEXT_UNICODE_CASE_H
#define OTTER_TEXT_UNICODE_CASE_H

#include <stdint.h>

typedef enum ot_case { OT_CASE_UPPER, OT_CASE_LOWER, OT_CASE_TITLE } ot_case;

/* What the code point becomes, 1 to 3 code points; returns how many. A capital sigma at the end of a word is not told apart. */
unsigned ot_unicode_change_case(uint32_t code_point, ot_case to, uint32_t dst[3]);

/* ---- The tables (unicode-case-tables.c, written by scripts/make-unicode-tables) -------------------------- */

typedef struct ot_case_run {
    uint32_t first, last, step; /* every step-th code point from first to last */
    int32_t delta;
} ot_case_run;

typedef struct ot_case_several {
    uint32_t code_point, to[3]; /* 0 after the last */
} ot_case_several;

extern const ot_case_run ot_upper_runs[], ot_lower_runs[], ot_title_runs[];
extern const ot_case_several ot_upper_several[], ot_lower_several[], ot_title_several[];
extern const uint32_t ot_n_upper_runs, ot_n_lower_runs, ot_n_title_runs, ot_n_upper_several, ot_n_lower_several, ot_n_title_several;

#endif
