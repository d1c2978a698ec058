/* Text to token ids and back, as the model file says: byte-level BPE (tokenizer.ggml.model = gpt2, with the
 * pre-tokenizer that tokenizer.ggml.pre names) and SentencePiece (llama). Immutable after opening, so that any
 * thread may use one tokenizer. */
#ifndef OTTER_TEXT_TOKENIZER_H
#define OTTER_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gguf/gguf.h"
#include "base/status.h"

typedef struct ot_tokenizer ot_tokenizer;

/* Copies what it needs: the file may be closed afterwards. An unknown model or pre-tokenizer is
 * OT_ERR_UNSUPPORTED and named. */
ot_status ot_tokenizer_open(ot_tokenizer **out, const ot_gguf *gguf, ot_error *err);
void ot_tokenizer_close(ot_tokenizer **tokenizer);

uint32_t ot_tokenizer_vocab_size(const ot_tokenizer *t);
int32_t ot_tokenizer_bos(const ot_tokenizer *t); /* -1 where the file names none */
int32_t ot_tokenizer_eos(const ot_tokenizer *t);
bool ot_tokenizer_is_eog(const ot_tokenizer *t, int32_t token); /* ends a generation: eos, eot, <|im_end|> ... */
bool ot_tokenizer_is_special(const ot_tokenizer *t, int32_t token); /* control token */
bool ot_tokenizer_adds_bos(const ot_tokenizer *t); /* the file wants BOS before a plain prompt */
/* The token whose text is exactly this (specials included), or -1. */
int32_t ot_tokenizer_find(const ot_tokenizer *t, const char *text, size_t size);
const char *ot_tokenizer_model(const ot_tokenizer *t); /* "gpt2", "llama" */
const char *ot_tokenizer_pre(const ot_tokenizer *t);   /* "smollm"; "" for SentencePiece */

typedef enum ot_tokenize_flags {
    OT_TOKENIZE_BOS = 1,     /* put BOS first if the file wants it (ot_tokenizer_adds_bos) */
    OT_TOKENIZE_SPECIAL = 2  /* texts of special tokens in the input become those tokens: for text from
                              * templates only, never for a user's content */
} ot_tokenize_flags;

/* Encodes any bytes (UTF-8 or not). *out is malloc'ed, to be freed by the caller; *n_out tokens. Time is
 * O(n log n) at worst. Fails only for lack of memory. */
ot_status ot_tokenize(const ot_tokenizer *t, const char *text, size_t size, unsigned flags,
                      int32_t **out, size_t *n_out, ot_error *err);

/* The bytes of one token (special tokens: their text). Borrowed from the tokenizer; for SentencePiece the
 * leading-space mark is already a space. token must be in range. */
ot_str ot_token_bytes(const ot_tokenizer *t, int32_t token);

/* Decodes n tokens to bytes; *out is malloc'ed and zero-terminated. Specials are written if `special`. For
 * SentencePiece the space that encoding put in front is removed if `strip_prefix_space`. */
ot_status ot_detokenize(const ot_tokenizer *t, const int32_t *tokens, size_t n, bool special,
                        bool strip_prefix_space, char **out, size_t *size, ot_error *err);

/* Streaming UTF-8: how many of the size bytes may be sent now without splitting a character that can still be
 * completed by later bytes (0 to 3 bytes are held back). Invalid bytes are never held back. */
size_t ot_utf8_complete(const char *text, size_t size);
/* Copies src to dst with each invalid byte or cut sequence replaced by U+FFFD, as the Unicode standard
 * recommends (maximal subparts); dst needs 3 * size bytes. Returns the bytes written. */
size_t ot_utf8_sanitize(const char *src, size_t size, char *dst);

#endif
