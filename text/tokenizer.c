/* The tokenizer's front: opening, the way from text through specials to words and back, and what others may ask. */
#include "text/tokenizer-internal.h"

#include <stdlib.h>
#include <string.h>

#define KEY_MODEL "tokenizer.ggml.model"
#define TEXT_LIMIT ((size_t)INT32_MAX) /* bytes: offsets into a text are 32 bits wide */

/* ---- Opening --------------------------------------------------------------------------------------------- */

static ot_status load(ot_tokenizer *t, const ot_gguf *gguf, ot_error *err)
{
    ot_str model;
    ot_status status = ot_gguf_get_str(gguf, KEY_MODEL, &model, err);
    if (status != OT_OK)
        return status;
    if (model.size == 4 && memcmp(model.data, "gpt2", 4) == 0)
        t->kind = OT_MODEL_BPE;
    else if (model.size == 5 && memcmp(model.data, "llama", 5) == 0)
        t->kind = OT_MODEL_SPM;
    else
        return ot_fail(err, OT_ERR_UNSUPPORTED, "%s: %s is \"%.*s\"; known are \"gpt2\" (BPE) and \"llama\" (SentencePiece)",
                       ot_gguf_path(gguf), KEY_MODEL, model.size > 64 ? 64 : (int)model.size, model.data);
    if ((status = ot_vocab_load(t, gguf, err)) != OT_OK)
        return status;
    status = t->kind == OT_MODEL_BPE ? ot_bpe_load(t, gguf, err) : ot_spm_load(t, gguf, err);
    if (status == OT_OK && ot_gguf_has(gguf, "tokenizer.ggml.add_bos_token"))
        status = ot_gguf_get_bool(gguf, "tokenizer.ggml.add_bos_token", &t->adds_bos, err);
    if (status == OT_OK && t->bos < 0)
        t->adds_bos = false;
    return status == OT_OK ? ot_specials_load(t, err) : status;
}

ot_status ot_tokenizer_open(ot_tokenizer **out, const ot_gguf *gguf, ot_error *err)
{
    *out = NULL;
    ot_tokenizer *t = calloc(1, sizeof *t);
    if (t == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for the tokenizer");
    ot_status status = load(t, gguf, err);
    if (status == OT_OK)
        *out = t;
    else
        ot_tokenizer_close(&t);
    return status;
}

void ot_tokenizer_close(ot_tokenizer **tokenizer)
{
    ot_tokenizer *t = *tokenizer;
    if (t == NULL)
        return;
    free(t->merges);
    free(t->specials);
    free(t->text_slots);
    free(t->symbols);
    free(t->arena);
    free(t);
    *tokenizer = NULL;
}

/* ---- Questions ------------------------------------------------------------------------------------------- */

uint32_t ot_tokenizer_vocab_size(const ot_tokenizer *t)
{
    return t->n_tokens;
}

int32_t ot_tokenizer_bos(const ot_tokenizer *t)
{
    return t->bos;
}

int32_t ot_tokenizer_eos(const ot_tokenizer *t)
{
    return t->eos;
}

bool ot_tokenizer_is_eog(const ot_tokenizer *t, int32_t token)
{
    return token >= 0 && token < (int32_t)t->n_tokens && t->symbols[token].eog;
}

bool ot_tokenizer_is_special(const ot_tokenizer *t, int32_t token)
{
    return token >= 0 && token < (int32_t)t->n_tokens &&
           (t->symbols[token].type == OT_TOKEN_CONTROL || t->symbols[token].type == OT_TOKEN_UNKNOWN);
}

bool ot_tokenizer_adds_bos(const ot_tokenizer *t)
{
    return t->adds_bos;
}

int32_t ot_tokenizer_find(const ot_tokenizer *t, const char *text, size_t size)
{
    int32_t token = ot_specials_find(t, text, size);
    if (token < 0)
        token = ot_vocab_match(t, text, size);
    return token < (int32_t)t->n_tokens ? token : -1;
}

const char *ot_tokenizer_model(const ot_tokenizer *t)
{
    return t->kind == OT_MODEL_BPE ? "gpt2" : "llama";
}

const char *ot_tokenizer_pre(const ot_tokenizer *t)
{
    return t->pre;
}

ot_str ot_token_bytes(const ot_tokenizer *t, int32_t token)
{
    return ot_symbol_text(t, (uint32_t)token);
}

/* ---- Encoding -------------------------------------------------------------------------------------------- */

bool ot_token_list_push(ot_token_list *list, int32_t id)
{
    if (list->n == list->capacity) {
        size_t capacity = list->capacity + list->capacity / 2 + 32;
        int32_t *ids = realloc(list->ids, capacity * sizeof *ids);
        if (ids == NULL)
            return false;
        list->ids = ids;
        list->capacity = capacity;
    }
    list->ids[list->n++] = id;
    return true;
}

bool ot_scratch_reserve(void **buffer, size_t *bytes, size_t count, size_t size)
{
    if (count <= *bytes / size)
        return true;
    if (count > SIZE_MAX / size / 2)
        return false;
    size_t more = (count + count / 2 + 64) * size;
    void *grown = realloc(*buffer, more);
    if (grown == NULL)
        return false;
    *buffer = grown;
    *bytes = more;
    return true;
}

void ot_scratch_free(ot_tokenize_scratch *scratch)
{
    free(scratch->nodes);
    free(scratch->heap);
}

typedef struct encode_state {
    const ot_tokenizer *t;
    ot_tokenize_scratch scratch;
    ot_token_list *out;
    char *spaced; /* SentencePiece: a copy of a stretch with the space in front */
} encode_state;

#define SPACE_MARK "\xE2\x96\x81" /* U+2581 */

/* A stretch without specials. SentencePiece files may ask for a space in front of each of them: at the start of a
 * text and after a special. SentencePiece writes spaces as U+2581, so to it one that was typed is a space. */
static bool encode_plain(encode_state *s, const char *text, size_t size)
{
    if (size == 0)
        return true;
    if (s->t->kind == OT_MODEL_BPE)
        return ot_bpe_encode(s->t, text, size, &s->scratch, s->out);
    bool prefix = s->t->adds_space_prefix;
    if (!prefix && memmem(text, size, SPACE_MARK, 3) == NULL)
        return ot_spm_encode(s->t, text, size, &s->scratch, s->out);
    char *spaced = realloc(s->spaced, size + 1);
    if (spaced == NULL)
        return false;
    s->spaced = spaced;
    spaced[0] = ' ';
    size_t written = prefix;
    for (size_t at = 0; at < size; written++) {
        bool mark = size - at >= 3 && memcmp(text + at, SPACE_MARK, 3) == 0;
        spaced[written] = mark ? ' ' : text[at];
        at += mark ? 3 : 1;
    }
    return ot_spm_encode(s->t, spaced, written, &s->scratch, s->out);
}

static bool encode_ranges(encode_state *s, const char *text, size_t size, const ot_text_range *ranges, size_t n_ranges)
{
    const ot_tokenizer *t = s->t;
    size_t plain = 0; /* where the stretch without specials began */
    for (size_t at = 0; at < size;) {
        if (!t->special_first[(unsigned char)text[at]]) {
            at++;
            continue;
        }
        while (n_ranges > 0 && ranges->end <= at) {
            ranges++;
            n_ranges--;
        }
        size_t control_size = n_ranges > 0 && ranges->begin <= at ? ranges->end - at : 0;
        int32_t special = ot_specials_match(t, text + at, size - at, control_size);
        if (special < 0) {
            at++;
            continue;
        }
        if (!encode_plain(s, text + plain, at - plain) || !ot_token_list_push(s->out, special))
            return false;
        at += t->symbols[special].size;
        plain = at;
    }
    return encode_plain(s, text + plain, size - plain);
}

ot_status ot_tokenize_ranges(const ot_tokenizer *t, const char *text, size_t size, const ot_text_range *ranges,
                             size_t n_ranges, ot_token_list *out, ot_error *err)
{
    if (size >= TEXT_LIMIT)
        return ot_fail(err, OT_ERR_NOMEM, "a text of %zu bytes is too long to tokenize", size);
    encode_state s = {t, {0}, out, NULL};
    bool done = encode_ranges(&s, text, size, ranges, n_ranges);
    ot_scratch_free(&s.scratch);
    free(s.spaced);
    return done ? OT_OK : ot_fail(err, OT_ERR_NOMEM, "out of memory while tokenizing %zu bytes", size);
}

ot_status ot_tokenize(const ot_tokenizer *t, const char *text, size_t size, unsigned flags, int32_t **out,
                      size_t *n_out, ot_error *err)
{
    ot_text_range all = {0, size};
    ot_token_list list = {0};
    *out = NULL;
    *n_out = 0;
    ot_status status = OT_OK;
    if ((flags & OT_TOKENIZE_BOS) && t->adds_bos && !ot_token_list_push(&list, t->bos))
        status = ot_fail(err, OT_ERR_NOMEM, "out of memory while tokenizing");
    if (status == OT_OK)
        status = ot_tokenize_ranges(t, text, size, &all, flags & OT_TOKENIZE_SPECIAL ? 1 : 0, &list, err);
    if (status == OT_OK && list.ids == NULL && (list.ids = malloc(sizeof *list.ids)) == NULL)
        status = ot_fail(err, OT_ERR_NOMEM, "out of memory while tokenizing");
    if (status != OT_OK) {
        free(list.ids);
        return status;
    }
    *out = list.ids;
    *n_out = list.n;
    return OT_OK;
}

/* ---- Decoding -------------------------------------------------------------------------------------------- */

ot_status ot_detokenize(const ot_tokenizer *t, const int32_t *tokens, size_t n, bool special, bool strip_prefix_space,
                        char **out, size_t *size, ot_error *err)
{
    *out = NULL;
    *size = 0;
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= (int32_t)t->n_tokens)
            return ot_fail(err, OT_ERR_INVALID, "token %d at %zu is not in the vocabulary of %u", tokens[i], i, t->n_tokens);
        size_t more = t->symbols[tokens[i]].size;
        if (more > SIZE_MAX - 1 - bytes)
            return ot_fail(err, OT_ERR_NOMEM, "out of memory for the text of %zu tokens", n);
        bytes += more;
    }
    char *text = malloc(bytes + 1);
    if (text == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for the text of %zu tokens", n);
    /* Encoding put a space in front of each stretch without specials: the same places here lose it again. */
    bool strips = strip_prefix_space && t->kind == OT_MODEL_SPM && t->adds_space_prefix, stretch_begins = true;
    size_t written = 0;
    for (size_t i = 0; i < n; i++) {
        ot_str piece = ot_token_bytes(t, tokens[i]);
        bool apart = ot_specials_hold(t, (uint32_t)tokens[i]);
        if (strips && stretch_begins && !apart && piece.size > 0 && piece.data[0] == ' ') {
            piece.data++;
            piece.size--;
        }
        stretch_begins = apart;
        if (!special && ot_tokenizer_is_special(t, tokens[i]))
            continue;
        memcpy(text + written, piece.data, piece.size);
        written += piece.size;
    }
    text[written] = '\0';
    *out = text;
    *size = written;
    return OT_OK;
}
