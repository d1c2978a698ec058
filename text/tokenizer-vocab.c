/* The vocabulary: tokens with their texts, types and scores, which of them end a generation, and the hash from
 * text to symbol. All texts lie in one arena. */
#include "gguf/gguf-errors.h"
#include "text/tokenizer-internal.h"
#include "text/unicode.h"

#include <stdlib.h>
#include <string.h>

#define KEY_TOKENS "tokenizer.ggml.tokens"
#define KEY_TYPES "tokenizer.ggml.token_type"
#define KEY_SCORES "tokenizer.ggml.scores"

/* ---- The arena and the hash ------------------------------------------------------------------------------ */

static bool arena_reserve(ot_tokenizer *t, size_t more)
{
    if (more <= t->arena_capacity - t->arena_size)
        return true;
    if (more > SIZE_MAX / 4 || t->arena_capacity > SIZE_MAX / 4)
        return false;
    size_t capacity = t->arena_capacity * 2 + more + 1024;
    char *arena = realloc(t->arena, capacity);
    if (arena == NULL)
        return false;
    t->arena = arena;
    t->arena_capacity = capacity;
    return true;
}

static uint32_t hash_text(const char *text, size_t size)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < size; i++)
        h = (h ^ (unsigned char)text[i]) * 0x100000001b3u;
    return (uint32_t)(h ^ h >> 32);
}

/* The slot that holds this text, or the empty one where it would go. */
static uint32_t *find_slot(const ot_tokenizer *t, const char *text, size_t size)
{
    for (uint32_t at = hash_text(text, size) & t->text_mask;; at = (at + 1) & t->text_mask) {
        uint32_t *slot = &t->text_slots[at];
        if (*slot == 0)
            return slot;
        ot_str other = ot_symbol_text(t, *slot - 1);
        if (other.size == size && memcmp(other.data, text, size) == 0)
            return slot;
    }
}

/* Room for twice `symbols` entries and more, so that probing stays short. */
static bool hash_resize(ot_tokenizer *t, uint32_t symbols)
{
    uint32_t slots = 64;
    while (slots / 2 < symbols && slots < (1u << 31))
        slots *= 2;
    uint32_t *old = t->text_slots, old_slots = old == NULL ? 0 : t->text_mask + 1;
    t->text_slots = calloc(slots, sizeof *t->text_slots);
    if (t->text_slots == NULL) {
        t->text_slots = old;
        return false;
    }
    t->text_mask = slots - 1;
    for (uint32_t i = 0; i < old_slots; i++)
        if (old[i] != 0) {
            ot_str text = ot_symbol_text(t, old[i] - 1);
            *find_slot(t, text.data, text.size) = old[i];
        }
    free(old);
    return true;
}

int32_t ot_vocab_match(const ot_tokenizer *t, const char *text, size_t size)
{
    if (size > t->longest)
        return -1;
    return (int32_t)*find_slot(t, text, size) - 1;
}

/* Enters a symbol into the hash unless its text is there already: the first of several wins. */
static void hash_symbol(ot_tokenizer *t, uint32_t symbol)
{
    ot_str text = ot_symbol_text(t, symbol);
    uint32_t *slot = find_slot(t, text.data, text.size);
    if (*slot == 0)
        *slot = symbol + 1;
    if (text.size > t->longest)
        t->longest = text.size;
}

int32_t ot_vocab_add_symbol(ot_tokenizer *t, const char *text, size_t size)
{
    if (t->n_symbols >= INT32_MAX || size > UINT32_MAX)
        return -1;
    if (t->n_symbols == t->symbol_capacity) {
        size_t capacity = (size_t)t->symbol_capacity + t->symbol_capacity / 2 + 64;
        ot_symbol *symbols = capacity > INT32_MAX ? NULL : realloc(t->symbols, capacity * sizeof *symbols);
        if (symbols == NULL)
            return -1;
        t->symbols = symbols;
        t->symbol_capacity = (uint32_t)capacity;
    }
    if (t->n_symbols >= t->text_mask / 2 && !hash_resize(t, t->n_symbols + t->n_symbols / 2))
        return -1;
    if (!arena_reserve(t, size))
        return -1;
    ot_symbol *s = &t->symbols[t->n_symbols];
    *s = (ot_symbol){.offset = t->arena_size, .size = (uint32_t)size, .type = OT_TOKEN_NORMAL};
    memcpy(t->arena + t->arena_size, text, size);
    t->arena_size += size;
    hash_symbol(t, t->n_symbols);
    return (int32_t)t->n_symbols++;
}

/* ---- Texts ----------------------------------------------------------------------------------------------- */

/* GPT-2 writes each byte as a visible character: those that are visible in Latin-1 stand for themselves, the
 * others, in order, for U+0100 and on. Returns the byte, or -1 for a character outside this alphabet. */
static int byte_of_alphabet(uint32_t code_point)
{
    if ((code_point >= 0x21 && code_point <= 0x7E) || (code_point >= 0xA1 && code_point <= 0xFF && code_point != 0xAD))
        return (int)code_point;
    if (code_point < 0x100 || code_point > 0x143)
        return -1;
    uint32_t i = code_point - 0x100;
    if (i <= 0x20)
        return (int)i; /* 00 to 20 */
    return i <= 0x41 ? (int)(i - 0x21 + 0x7F) : i == 0x42 ? 0xA0 : 0xAD; /* 7F to A0, and AD */
}

size_t ot_byte_alphabet_decode(const char *text, size_t size, char *dst, bool *all)
{
    size_t written = 0, length;
    if (all != NULL)
        *all = true;
    for (size_t at = 0; at < size; at += length) {
        int byte = byte_of_alphabet(ot_utf8_decode(text + at, size - at, &length));
        if (byte >= 0) {
            dst[written++] = (char)byte;
        } else {
            memcpy(dst + written, text + at, length);
            written += length;
            if (all != NULL)
                *all = false;
        }
    }
    return written;
}

/* SentencePiece writes a space as U+2581. */
static size_t decode_space_marks(const char *text, size_t size, char *dst)
{
    size_t written = 0;
    for (size_t at = 0; at < size;) {
        if (size - at >= 3 && memcmp(text + at, "\xE2\x96\x81", 3) == 0) {
            dst[written++] = ' ';
            at += 3;
        } else {
            dst[written++] = text[at++];
        }
    }
    return written;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte of a text like <0x0A>, or -1. */
static int byte_of_name(ot_str text)
{
    if (text.size != 6 || memcmp(text.data, "<0x", 3) != 0 || text.data[5] != '>')
        return -1;
    int high = hex_digit(text.data[3]), low = hex_digit(text.data[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static bool is_one_of(ot_str text, const char *const *names)
{
    for (; *names != NULL; names++)
        if (strlen(*names) == text.size && memcmp(*names, text.data, text.size) == 0)
            return true;
    return false;
}

/* Tokens that end a turn or a text in the known families, whatever keys the file has. */
static bool ends_generation(ot_str text)
{
    static const char *const names[] = {
        "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>",
        "<|eot|>", "<|eom|>", "<|return|>", "<|call|>", "<|END_OF_TURN_TOKEN|>", "<\xEF\xBD\x9C" "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
        "<end_of_utterance>", "<EOT>", "_<EOT>", "[EOT]", NULL};
    return is_one_of(text, names);
}

/* Marks of conversation that some files wrongly list as ordinary or user-defined. Treating them as control tokens
 * keeps message content from forging a turn. */
static bool looks_special(ot_str text)
{
    static const char *const names[] = {"<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]",
                                        "[/SYSTEM_PROMPT]", "<bos>", "<eos>", NULL};
    if (text.size >= 5 && memcmp(text.data, "<|", 2) == 0 && memcmp(text.data + text.size - 2, "|>", 2) == 0)
        return true;
    if (text.size >= 9 && memcmp(text.data, "<\xEF\xBD\x9C", 4) == 0 &&
        memcmp(text.data + text.size - 4, "\xEF\xBD\x9C>", 4) == 0)
        return true;
    return is_one_of(text, names);
}

/* ---- Loading --------------------------------------------------------------------------------------------- */

/* An optional array with one entry a token; *present tells. */
static ot_status get_parallel_array(const ot_gguf *gguf, const char *key, uint32_t n_tokens, ot_gguf_array *array,
                                    bool *present, ot_error *err)
{
    *present = ot_gguf_has(gguf, key);
    if (!*present)
        return OT_OK;
    ot_status status = ot_gguf_get_array(gguf, key, array, err);
    if (status != OT_OK)
        return status;
    if (array->type == OT_GGUF_STRING || array->type == OT_GGUF_ARRAY)
        return ot_gguf_fail_key(gguf, OT_ERR_FORMAT, key, err, "it holds no numbers");
    if (array->count < n_tokens)
        return ot_gguf_fail_key(gguf, OT_ERR_FORMAT, key, err, "it has %llu entries, %s has %u", (unsigned long long)array->count,
                                KEY_TOKENS, n_tokens);
    return OT_OK;
}

static uint8_t settle_type(const ot_tokenizer *t, ot_str text, int64_t type)
{
    if (type < OT_TOKEN_NORMAL || type > OT_TOKEN_BYTE)
        type = OT_TOKEN_NORMAL;
    if (type == OT_TOKEN_NORMAL || type == OT_TOKEN_USER_DEFINED) {
        if (looks_special(text) || ends_generation(text))
            return OT_TOKEN_CONTROL;
        if (type == OT_TOKEN_NORMAL && t->kind == OT_MODEL_SPM && byte_of_name(text) >= 0)
            return OT_TOKEN_BYTE;
    }
    return (uint8_t)type;
}

/* Copies token `id` and its text, in the form that its type asks for. */
static ot_status load_token(ot_tokenizer *t, uint32_t id, ot_str text, ot_error *err)
{
    ot_symbol *s = &t->symbols[id];
    if (text.size > UINT32_MAX || !arena_reserve(t, text.size))
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for the text of token %u", id);
    char *dst = t->arena + t->arena_size;
    size_t size = text.size;
    int byte = s->type == OT_TOKEN_BYTE ? byte_of_name(text) : -1;
    if (byte >= 0) {
        dst[0] = (char)byte;
        size = 1;
        if (t->byte_token[byte] < 0)
            t->byte_token[byte] = (int32_t)id;
    } else if (t->kind == OT_MODEL_SPM && (s->type == OT_TOKEN_NORMAL || s->type == OT_TOKEN_UNUSED ||
                                           s->type == OT_TOKEN_USER_DEFINED)) {
        size = decode_space_marks(text.data, text.size, dst);
    } else if (t->kind == OT_MODEL_BPE && (s->type == OT_TOKEN_NORMAL || s->type == OT_TOKEN_UNUSED)) {
        /* Some vocabularies (Command R) have a character beside its spelling in the byte alphabet; only the latter is ever made. */
        bool all;
        size = ot_byte_alphabet_decode(text.data, text.size, dst, &all);
        s->unspelt = !all;
    } else if (size > 0) {
        memcpy(dst, text.data, size);
    }
    s->offset = t->arena_size;
    s->size = (uint32_t)size;
    t->arena_size += size;
    return OT_OK;
}

static ot_status load_tokens(ot_tokenizer *t, const ot_gguf *gguf, ot_error *err)
{
    ot_gguf_array tokens, types, scores;
    bool has_types, has_scores;
    ot_status status = ot_gguf_get_array(gguf, KEY_TOKENS, &tokens, err);
    if (status != OT_OK)
        return status;
    if (tokens.type != OT_GGUF_STRING || tokens.count == 0 || tokens.count > INT32_MAX / 4)
        return ot_gguf_fail_key(gguf, OT_ERR_FORMAT, KEY_TOKENS, err, "no list of strings of a usable length");
    t->n_tokens = t->n_symbols = (uint32_t)tokens.count;
    if ((status = get_parallel_array(gguf, KEY_TYPES, t->n_tokens, &types, &has_types, err)) != OT_OK ||
        (status = get_parallel_array(gguf, KEY_SCORES, t->n_tokens, &scores, &has_scores, err)) != OT_OK)
        return status;
    if (t->kind == OT_MODEL_SPM && !has_scores)
        return ot_fail(err, OT_ERR_FORMAT, "%s: %s is missing, which SentencePiece needs", ot_gguf_path(gguf), KEY_SCORES);
    t->symbol_capacity = t->n_tokens + 64;
    t->symbols = calloc(t->symbol_capacity, sizeof *t->symbols);
    if (t->symbols == NULL || !hash_resize(t, t->symbol_capacity))
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for a vocabulary of %u tokens", t->n_tokens);
    for (uint32_t i = 0; i < t->n_tokens; i++) {
        ot_str text = ot_gguf_array_str(&tokens, i);
        ot_symbol *s = &t->symbols[i];
        s->type = settle_type(t, text, has_types ? ot_gguf_array_int(&types, i) : OT_TOKEN_NORMAL);
        s->score = has_scores ? (float)ot_gguf_array_num(&scores, i) : 0.0f;
        /* The end of a text of old; elsewhere a mark of HTML, which ends nothing and shows, but is not taken from typed text. */
        bool old_end = text.size == 4 && memcmp(text.data, "</s>", 4) == 0;
        s->eog = s->type == OT_TOKEN_CONTROL && (old_end || ends_generation(text));
        s->guarded = old_end;
        if ((status = load_token(t, i, text, err)) != OT_OK)
            return status;
    }
    return OT_OK;
}

/* *id stays as it is where the key is missing; a number that is no token makes it -1. */
static ot_status get_token_id(const ot_tokenizer *t, const ot_gguf *gguf, const char *key, int32_t *id, ot_error *err)
{
    uint32_t value;
    if (ot_gguf_has(gguf, key)) {
        ot_status status = ot_gguf_get_u32(gguf, key, &value, err);
        if (status != OT_OK)
            return status;
        *id = value < t->n_tokens ? (int32_t)value : -1;
    }
    if (*id >= (int32_t)t->n_tokens)
        *id = -1;
    return OT_OK;
}

static ot_status load_special_ids(ot_tokenizer *t, const ot_gguf *gguf, ot_error *err)
{
    /* SentencePiece files without the keys mean the ids that its trainer gives by default. */
    bool spm = t->kind == OT_MODEL_SPM;
    t->bos = spm ? 1 : -1;
    t->eos = spm ? 2 : -1;
    t->unknown = spm ? 0 : -1;
    int32_t eot = -1, eom = -1;
    ot_status status;
    if ((status = get_token_id(t, gguf, "tokenizer.ggml.bos_token_id", &t->bos, err)) != OT_OK ||
        (status = get_token_id(t, gguf, "tokenizer.ggml.eos_token_id", &t->eos, err)) != OT_OK ||
        (status = get_token_id(t, gguf, "tokenizer.ggml.unknown_token_id", &t->unknown, err)) != OT_OK ||
        (status = get_token_id(t, gguf, "tokenizer.ggml.eot_token_id", &eot, err)) != OT_OK ||
        (status = get_token_id(t, gguf, "tokenizer.ggml.eom_token_id", &eom, err)) != OT_OK)
        return status;
    const int32_t controls[] = {t->eos, eot, eom, t->bos};
    for (size_t i = 0; i < sizeof controls / sizeof controls[0]; i++)
        if (controls[i] >= 0) {
            ot_symbol *s = &t->symbols[controls[i]];
            s->type = OT_TOKEN_CONTROL; /* whatever the file says */
            s->eog = s->eog || controls[i] != t->bos || t->bos == t->eos;
        }
    t->adds_space_prefix = spm;
    if (spm && ot_gguf_has(gguf, "tokenizer.ggml.add_space_prefix"))
        return ot_gguf_get_bool(gguf, "tokenizer.ggml.add_space_prefix", &t->adds_space_prefix, err);
    return OT_OK;
}

ot_status ot_vocab_load(ot_tokenizer *t, const ot_gguf *gguf, ot_error *err)
{
    for (int i = 0; i < 256; i++)
        t->byte_token[i] = -1;
    ot_status status = load_tokens(t, gguf, err);
    if (status == OT_OK)
        status = load_special_ids(t, gguf, err);
    if (status != OT_OK)
        return status;
    for (uint32_t i = 0; i < t->n_tokens; i++) {
        const ot_symbol *s = &t->symbols[i];
        bool ordinary = s->type == OT_TOKEN_NORMAL || s->type == OT_TOKEN_UNUSED;
        if (ordinary && s->size > 0 && !s->guarded && !s->unspelt)
            hash_symbol(t, i);
    }
    return OT_OK;
}
