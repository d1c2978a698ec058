/* The general category of every code point; text/unicode-tables.c is written by scripts/make-unicode-tables. */
#ifndef OTTER_TEXT_UNICODE_TABLES_H
#define OTTER_TEXT_UNICODE_TABLES_H

#include <stdint.h>

typedef enum ot_category {
    OT_CATEGORY_CN, OT_CATEGORY_LU, OT_CATEGORY_LL, OT_CATEGORY_LT, OT_CATEGORY_LM, OT_CATEGORY_LO,
    OT_CATEGORY_MN, OT_CATEGORY_MC, OT_CATEGORY_ME, OT_CATEGORY_ND, OT_CATEGORY_NL, OT_CATEGORY_NO,
    OT_CATEGORY_PC, OT_CATEGORY_PD, OT_CATEGORY_PS, OT_CATEGORY_PE, OT_CATEGORY_PI, OT_CATEGORY_PF,
    OT_CATEGORY_PO, OT_CATEGORY_SM, OT_CATEGORY_SC, OT_CATEGORY_SK, OT_CATEGORY_SO, OT_CATEGORY_ZS,
    OT_CATEGORY_ZL, OT_CATEGORY_ZP, OT_CATEGORY_CC, OT_CATEGORY_CF, OT_CATEGORY_CS, OT_CATEGORY_CO
} ot_category;

/* Sorted: first code point << 5 | category. A range ends where the next begins. */
extern const uint32_t ot_unicode_ranges[];
extern const uint32_t ot_unicode_n_ranges;

/* For each of the first 0x200 pages of 256 code points, the range that holds its first one; one entry more
 * closes the last page. */
#define OT_UNICODE_PAGES 0x200
extern const uint16_t ot_unicode_pages[];

#endif
