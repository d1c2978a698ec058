/* Splitting text into words before byte-level BPE, as the pre-tokenizer that a model file names does. */
#ifndef OTTER_TEXT_PRETOKENIZER_H
#define OTTER_TEXT_PRETOKENIZER_H

#include <stdbool.h>
#include <stddef.h>

typedef struct ot_pretokenizer ot_pretokenizer;

/* By the value of tokenizer.ggml.pre ("" for a file that has none: the same as "default"). NULL if unknown. All
 * are constants. */
const ot_pretokenizer *ot_pretokenizer_find(const char *name, size_t size);
/* A word that is a token as it stands is not merged from its parts (Llama 3, Mistral's tekken). */
bool ot_pretokenizer_ignores_merges(const ot_pretokenizer *p);
/* Whether BOS goes in front where the file has no tokenizer.ggml.add_bos_token. */
bool ot_pretokenizer_adds_bos(const ot_pretokenizer *p);

/* Called with each word in order; returns false to stop. */
typedef bool (*ot_word_fn)(void *context, const char *word, size_t size);
/* Calls `word` for consecutive, non-empty pieces that together are the text. Bytes that are no UTF-8 count as
 * symbols, one each. Time is linear in size, nothing is allocated. Returns false if `word` did. */
bool ot_pretokenize(const ot_pretokenizer *p, const char *text, size_t size, ot_word_fn word, void *context);

#endif
