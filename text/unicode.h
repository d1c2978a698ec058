/* What text splitting needs of Unicode: reading UTF-8 that may be broken, and the class of a character. */
#ifndef OTTER_TEXT_UNICODE_H
#define OTTER_TEXT_UNICODE_H

#include <stddef.h>
#include <stdint.h>

/* Classes are single bits, so that a set of them is a mask. A character has one of the category bits, and
 * OT_CLASS_SPACE besides if it has the property White_Space (which a regular expression calls \s). */
typedef enum ot_class {
    OT_CLASS_UPPER = 1 << 0,    /* Lu */
    OT_CLASS_LOWER = 1 << 1,    /* Ll */
    OT_CLASS_TITLE = 1 << 2,    /* Lt */
    OT_CLASS_MODIFIER = 1 << 3, /* Lm */
    OT_CLASS_CASELESS = 1 << 4, /* Lo */
    OT_CLASS_MARK = 1 << 5,     /* M */
    OT_CLASS_NUMBER = 1 << 6,   /* N */
    OT_CLASS_PUNCT = 1 << 7,    /* P */
    OT_CLASS_SYMBOL = 1 << 8,   /* S */
    OT_CLASS_OTHER = 1 << 9,    /* Z, C */
    OT_CLASS_SPACE = 1 << 10,
    OT_CLASS_LETTER = OT_CLASS_UPPER | OT_CLASS_LOWER | OT_CLASS_TITLE | OT_CLASS_MODIFIER | OT_CLASS_CASELESS
} ot_class;

/* A mask of ot_class for any number; beyond U+10FFFF it is OT_CLASS_OTHER. */
unsigned ot_unicode_class(uint32_t code_point);

#define OT_UTF8_REPLACEMENT 0xFFFDu

/* Reads the character at text (size > 0 bytes are there) and sets *length to its bytes, 1 to 4. A byte that
 * begins no whole, well-formed character (overlong forms and surrogates are none) gives OT_UTF8_REPLACEMENT and
 * length 1. */
uint32_t ot_utf8_decode(const char *text, size_t size, size_t *length);
/* Writes a code point (at most U+10FFFF) as 1 to 4 bytes; returns how many. */
size_t ot_utf8_encode(uint32_t code_point, char *dst);

#endif
