/* What the tokenizer's own files share; private to tokenizer*.c, bpe.c, spm.c and chat-template*.c.
 *
 * A vocabulary is a list of symbols: the file's tokens by id and, for BPE, further symbols that are no tokens but
 * that merges pass through. The text of a symbol is the bytes that it stands for: the byte alphabet of BPE files and
 * the U+2581 that SentencePiece files write for a space are undone at load. */
#ifndef OTTER_TEXT_TOKENIZER_INTERNAL_H
#define OTTER_TEXT_TOKENIZER_INTERNAL_H

#include "text/pretokenizer.h"
#include "text/tokenizer.h"

/* Numbers as in tokenizer.ggml.token_type. */
typedef enum ot_token_type {
    OT_TOKEN_NORMAL = 1, OT_TOKEN_UNKNOWN = 2, OT_TOKEN_CONTROL = 3, OT_TOKEN_USER_DEFINED = 4, OT_TOKEN_UNUSED = 5,
    OT_TOKEN_BYTE = 6
} ot_token_type;

typedef struct ot_symbol {
    size_t offset; /* of its text in the arena */
    uint32_t size; /* bytes of its text */
    float score;   /* SentencePiece */
    uint8_t type;  /* ot_token_type */
    bool eog;
    bool guarded;  /* found in a text only where control tokens are, whatever its type */
    bool unspelt;  /* no text becomes it by merging: its text in the file is no spelling in the byte alphabet */
} ot_symbol;

typedef struct ot_merge {
    int32_t left, right; /* left < 0: an empty slot */
    uint32_t rank;
    int32_t result;
} ot_merge;

typedef enum ot_tokenizer_model_kind { OT_MODEL_BPE, OT_MODEL_SPM } ot_tokenizer_model_kind;

struct ot_tokenizer {
    ot_tokenizer_model_kind kind;
    char pre[64];
    uint32_t n_tokens, n_symbols, symbol_capacity;
    ot_symbol *symbols;
    char *arena;
    size_t arena_size, arena_capacity;
    size_t longest; /* bytes of the longest symbol that text may match */

    /* Text to symbol: an open hash of symbol numbers + 1, 0 for empty. Holds the symbols that ordinary text may
     * become: never control, unknown or byte tokens. */
    uint32_t *text_slots;
    uint32_t text_mask;

    /* Tokens found in the text before anything else, sorted by their text: control, unknown and user-defined. */
    int32_t *specials;
    uint32_t n_specials;
    bool special_first[256]; /* whether a special begins with this byte */

    int32_t bos, eos, unknown;
    bool adds_bos, adds_space_prefix;
    bool joins_words; /* SentencePiece: some piece has a space after another character */
    int32_t byte_token[256];  /* the token of a single byte, or -1 */

    /* BPE */
    const ot_pretokenizer *pretokenizer;
    ot_merge *merges;         /* an open hash over (left, right) */
    uint32_t merge_mask;
};

/* A growing list of tokens. */
typedef struct ot_token_list {
    int32_t *ids;
    size_t n, capacity;
} ot_token_list;
bool ot_token_list_push(ot_token_list *list, int32_t id); /* false: out of memory */

/* Working memory of one ot_tokenize; grows as needed. Zero-initialised at first. */
typedef struct ot_tokenize_scratch {
    void *nodes, *heap;
    size_t nodes_bytes, heap_bytes;
} ot_tokenize_scratch;
/* Makes *buffer at least `count` items of `size` bytes, keeping what is there; false: out of memory. */
bool ot_scratch_reserve(void **buffer, size_t *bytes, size_t count, size_t size);
void ot_scratch_free(ot_tokenize_scratch *scratch);

static inline ot_str ot_symbol_text(const ot_tokenizer *t, uint32_t symbol)
{
    ot_str text = {t->arena + t->symbols[symbol].offset, t->symbols[symbol].size};
    return text;
}

/* ---- tokenizer-vocab.c ---- */
/* Tokens, types, scores, special ids. Fills everything but the model's own part. */
ot_status ot_vocab_load(ot_tokenizer *t, const ot_gguf *gguf, ot_error *err);
/* The symbol that ordinary text of exactly this becomes, or -1. */
int32_t ot_vocab_match(const ot_tokenizer *t, const char *text, size_t size);
/* Adds a symbol that is no token; returns its number, or -1 if out of memory. */
int32_t ot_vocab_add_symbol(ot_tokenizer *t, const char *text, size_t size);
/* Undoes the byte alphabet of GPT-2 in text; dst has room for size bytes. Returns the bytes written; *all (if not NULL) tells whether
 * every character was of the alphabet. Others stay as they are. */
size_t ot_byte_alphabet_decode(const char *text, size_t size, char *dst, bool *all);

/* ---- tokenizer-specials.c ---- */
/* Collects and sorts the specials of a loaded vocabulary. */
ot_status ot_specials_load(ot_tokenizer *t, ot_error *err);
/* Whether a token is found before anything else. */
bool ot_specials_hold(const ot_tokenizer *t, uint32_t id);
/* The longest special at the start of text, or -1. Control, unknown and guarded tokens must end within the first
 * `control_size` bytes, user-defined ones within size. */
int32_t ot_specials_match(const ot_tokenizer *t, const char *text, size_t size, size_t control_size);
/* The special whose text is exactly this, or -1. */
int32_t ot_specials_find(const ot_tokenizer *t, const char *text, size_t size);

/* ---- bpe.c, spm.c: one stretch of text without specials ---- */
ot_status ot_bpe_load(ot_tokenizer *t, const ot_gguf *gguf, ot_error *err);
bool ot_bpe_encode(const ot_tokenizer *t, const char *text, size_t size, ot_tokenize_scratch *scratch,
                   ot_token_list *out);
ot_status ot_spm_load(ot_tokenizer *t, const ot_gguf *gguf, ot_error *err);
bool ot_spm_encode(const ot_tokenizer *t, const char *text, size_t size, ot_tokenize_scratch *scratch,
                   ot_token_list *out);

/* ---- tokenizer.c ---- */
/* A range of a text in which special tokens are recognised: [begin, end). */
typedef struct ot_text_range {
    size_t begin, end;
} ot_text_range;
/* ot_tokenize with control tokens recognised in some ranges only (sorted, apart from each other). Appends to
 * `out`, which the caller frees also on failure. No BOS is added. */
ot_status ot_tokenize_ranges(const ot_tokenizer *t, const char *text, size_t size, const ot_text_range *ranges,
                             size_t n_ranges, ot_token_list *out, ot_error *err);

#endif
