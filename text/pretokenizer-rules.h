/* The rules that pre-tokenizers are made of; private to pretokenizer*.c. */
#ifndef OTTER_TEXT_PRETOKENIZER_RULES_H
#define OTTER_TEXT_PRETOKENIZER_RULES_H

#include <stdbool.h>
#include <stddef.h>

/* A piece of text; offsets count from its begin, and nothing outside it is seen. */
typedef struct ot_piece {
    const char *text;
    size_t size;
} ot_piece;

/* A rule stands for a regular expression. Does it match at offset `at` (at < size)? If so: true, and *end is where
 * the match ends (> at). If not: false, and *end is the next offset worth a try (> at). `options` is a mask that the
 * rule defines. */
typedef bool (*ot_rule_fn)(const ot_piece *piece, size_t at, unsigned options, size_t *end);

bool ot_rule_gpt2(const ot_piece *piece, size_t at, unsigned options, size_t *end);
bool ot_rule_numbers(const ot_piece *piece, size_t at, unsigned options, size_t *end); /* options: 1, 3, 0 = any */
bool ot_rule_three_digits(const ot_piece *piece, size_t at, unsigned options, size_t *end);
bool ot_rule_punctuation(const ot_piece *piece, size_t at, unsigned options, size_t *end); /* 1: ` as well */
bool ot_rule_line_break(const ot_piece *piece, size_t at, unsigned options, size_t *end);
bool ot_rule_lines(const ot_piece *piece, size_t at, unsigned options, size_t *end);
bool ot_rule_space_class(const ot_piece *piece, size_t at, unsigned options, size_t *end); /* options: ot_class */
bool ot_rule_final_space(const ot_piece *piece, size_t at, unsigned options, size_t *end);
bool ot_rule_bloom(const ot_piece *piece, size_t at, unsigned options, size_t *end);

/* The family of Llama 3, Qwen 2, GPT-4o and others; options: */
enum {
    OT_WORD_ONE_DIGIT = 1,       /* \p{N} instead of \p{N}{1,3} */
    OT_WORD_ANY_DIGITS = 2,      /* \p{N}+ */
    OT_WORD_CASED = 4,           /* words end where lower case turns into upper case */
    OT_WORD_MARKS = 8,           /* marks belong to words */
    OT_WORD_SLASH_TAIL = 16,     /* [\r\n/]* after punctuation instead of [\r\n]* */
    OT_WORD_NO_TAIL = 32,        /* nothing after punctuation */
    OT_WORD_NO_CONTRACTION = 64  /* no English 's 't 're ... */
};
bool ot_rule_words(const ot_piece *piece, size_t at, unsigned options, size_t *end);

/* DeepSeek's sets of characters, written out in its tokenizer files. */
bool ot_rule_deepseek_letters(const ot_piece *piece, size_t at, unsigned options, size_t *end);
bool ot_rule_deepseek_punctuation(const ot_piece *piece, size_t at, unsigned options, size_t *end);
bool ot_rule_deepseek_cjk(const ot_piece *piece, size_t at, unsigned options, size_t *end); /* 1: with kana only */
bool ot_rule_deepseek3(const ot_piece *piece, size_t at, unsigned options, size_t *end);

#endif
