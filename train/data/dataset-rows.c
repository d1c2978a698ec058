/* A row of each shape: its fields are checked, with file and line in the error, and its texts tokenised. */
#include "train/data/dataset-rows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/data/chat-text.h"
#include "train/train-internal.h"

static const char *get_text(ot_loader *l, const json_t *row, const char *key)
{
    const json_t *value = json_object_get(row, key);
    if (value == NULL)
        ot_jsonl_fail(l->file, l->err, "'%s' is missing", key);
    else if (!json_is_string(value))
        ot_jsonl_fail(l->file, l->err, "'%s' is not a string", key);
    else
        return json_string_value(value);
    return NULL;
}

static ot_status read_label(ot_loader *l, const json_t *value, const char *name, float *label)
{
    const double x = json_is_true(value) ? 1.0 : json_is_false(value) ? 0.0 : json_is_number(value) ? json_number_value(value) : NAN;
    if (!(x >= 0.0 && x <= 1.0))
        return ot_jsonl_fail(l->file, l->err, "'%s' is not a number from 0 to 1", name);
    *label = (float)x;
    return OT_OK;
}

static ot_status read_labels(ot_loader *l, const json_t *row, float *labels)
{
    const json_t *one = json_object_get(row, "label"), *many = json_object_get(row, "labels");
    if (many == NULL)
        return read_label(l, one, "label", &labels[0]);
    if (!json_is_object(many))
        return ot_jsonl_fail(l->file, l->err, "'labels' is not an object");
    for (uint32_t k = 0; k < l->o->n_outputs; k++) {
        const json_t *value = json_object_get(many, l->o->output_labels[k]);
        const ot_status st = value == NULL ? OT_OK : read_label(l, value, l->o->output_labels[k], &labels[k]);
        if (st != OT_OK)
            return st;
    }
    return OT_OK;
}

/* The byte of a UTF-8 text at which its n-th character (code point) begins; its size where it has n; SIZE_MAX where it has fewer. */
static size_t byte_of_character(const char *text, size_t n)
{
    size_t at = 0;
    for (; n > 0; n--) {
        if (text[at] == '\0')
            return SIZE_MAX;
        do
            at++;
        while (((unsigned char)text[at] & 0xc0) == 0x80);
    }
    return at;
}

/* [begin, end] of one span as bytes; false if it is none of the text. */
static bool read_span(const json_t *span, const char *text, size_t *end)
{
    const json_t *a = json_array_get(span, 0), *b = json_array_get(span, 1);
    if (json_array_size(span) != 2 || !json_is_integer(a) || !json_is_integer(b) || json_integer_value(a) < 0 ||
        json_integer_value(b) <= json_integer_value(a))
        return false;
    *end = byte_of_character(text, (size_t)json_integer_value(b));
    return *end != SIZE_MAX;
}

/* *onset: the bytes of the text up to the end of the span that ends first; 0 without spans. */
static ot_status read_spans(ot_loader *l, const json_t *row, const char *text, uint32_t *onset)
{
    const json_t *spans = json_object_get(row, "spans");
    const json_t *label = json_object_get(row, "label");
    size_t first = SIZE_MAX;
    *onset = 0;
    if (spans == NULL || json_is_null(spans))
        return OT_OK;
    if (!json_is_array(spans))
        return ot_jsonl_fail(l->file, l->err, "'spans' is not an array");
    if (json_array_size(spans) > 0 && (json_is_false(label) || (json_is_number(label) && json_number_value(label) == 0.0)))
        return ot_jsonl_fail(l->file, l->err, "'spans' say what earned the label, and the label is 0");
    for (size_t i = 0; i < json_array_size(spans); i++) {
        size_t end;
        if (!read_span(json_array_get(spans, i), text, &end))
            return ot_jsonl_fail(l->file, l->err, "spans[%zu] is not [begin, end] of characters of the text, 0 <= begin < end", i);
        first = end < first ? end : first;
    }
    *onset = first == SIZE_MAX ? 0 : first > UINT32_MAX ? UINT32_MAX : (uint32_t)first;
    return OT_OK;
}

/* Sources become names of keys in a file's record: cut to whole characters, without control characters. */
static void copy_source(char dst[64], const char *text)
{
    size_t n = strlen(text);
    if (n > 63)
        for (n = 63; ((unsigned char)text[n] & 0xc0) == 0x80; n--)
            ;
    for (size_t i = 0; i < n; i++)
        dst[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? ' ' : text[i];
    dst[n] = '\0';
}

static ot_status read_source(ot_loader *l, const json_t *row, uint32_t *source)
{
    const json_t *value = json_object_get(row, "source");
    char name[64];
    ot_dataset *d = l->d;
    copy_source(name, json_is_string(value) ? json_string_value(value) : "");
    for (*source = 0; *source < d->n_sources; ++*source)
        if (strcmp(d->sources[*source], name) == 0)
            return OT_OK;
    if (d->n_sources >= 4096)
        return ot_jsonl_fail(l->file, l->err, "more than 4096 different sources");
    char (*larger)[64] = realloc(d->sources, (d->n_sources + 1) * sizeof d->sources[0]);
    if (larger == NULL)
        return ot_loader_out_of_memory(l);
    d->sources = larger;
    memcpy(d->sources[d->n_sources++], name, sizeof name);
    return OT_OK;
}

static ot_status tokenize_text(ot_loader *l, const char *text, ot_span *span)
{
    int32_t *tokens = NULL;
    size_t n = 0;
    ot_status st = ot_tokenize(l->o->tokenizer, text, strlen(text), OT_TOKENIZE_BOS, &tokens, &n, l->err);
    if (st == OT_OK)
        st = ot_loader_keep_tokens(l, tokens, n, span);
    free(tokens);
    return st;
}

/* The row that was just added cannot be used. */
static void drop_row(ot_loader *l)
{
    l->d->n_rows--;
    l->d->n_skipped++;
}

/* Whether the label of the row that was just added is not the wanted one. */
static bool filtered_out(const ot_loader *l)
{
    const float label = l->d->labels[(size_t)(l->d->n_rows - 1) * l->d->n_outputs];
    return l->shape == OT_SHAPE_LABEL && l->o->only != OT_ALL_LABELS && !((label > 0.5f) == (l->o->only == OT_ONLY_LABEL_1));
}

/* A labelled text or a prompt. */
static ot_status add_text(ot_loader *l, const json_t *row, const char *key)
{
    const char *text = get_text(l, row, key);
    if (text == NULL)
        return OT_ERR_FORMAT;
    ot_example *x = ot_loader_new_row(l);
    if (x == NULL)
        return ot_loader_out_of_memory(l);
    ot_status st = tokenize_text(l, text, &x->tokens[0]);
    if (st == OT_OK)
        st = ot_loader_keep_text(l, text, &x->text);
    if (st == OT_OK && l->shape == OT_SHAPE_LABEL)
        st = read_labels(l, row, &l->d->labels[(size_t)(l->d->n_rows - 1) * l->d->n_outputs]);
    if (st == OT_OK && l->shape == OT_SHAPE_LABEL)
        st = read_spans(l, row, text, &x->onset);
    if (st == OT_OK)
        st = read_source(l, row, &x->source);
    if (st == OT_OK && x->tokens[0].n == 0)
        drop_row(l);
    else if (st == OT_OK && filtered_out(l))
        l->d->n_rows--;
    return st;
}

/* Fills messages with the row's, leaving room for the answer; *user is the last user message. None: the answers are plain texts. */
static ot_status read_messages(ot_loader *l, const json_t *row, ot_chat_message **out, size_t *n, const char **user)
{
    const json_t *list = json_object_get(row, "messages");
    if (!json_is_array(list))
        return ot_jsonl_fail(l->file, l->err, "'messages' is missing or not an array");
    ot_chat_message *m = calloc(json_array_size(list) + 1, sizeof *m);
    if (m == NULL)
        return ot_loader_out_of_memory(l);
    *out = m;
    *n = json_array_size(list);
    for (size_t i = 0; i < *n; i++) {
        const json_t *message = json_array_get(list, i);
        m[i].role = json_string_value(json_object_get(message, "role"));
        m[i].content = json_string_value(json_object_get(message, "content"));
        if (m[i].role == NULL || m[i].content == NULL)
            return ot_jsonl_fail(l->file, l->err, "messages[%zu] lacks a 'role' or 'content' that is a string", i);
        if (strcmp(m[i].role, "user") == 0)
            *user = m[i].content;
    }
    return OT_OK;
}

/* One of the two answers of a pair: behind its messages, or as it stands where there are none. */
static ot_status add_leaf(ot_loader *l, ot_chat_message *m, size_t n, const char *answer, ot_span *span)
{
    int32_t *tokens = NULL;
    size_t n_tokens = 0;
    ot_error why = {0};
    if (n == 0)
        return tokenize_text(l, answer, span);
    m[n] = (ot_chat_message){"assistant", answer};
    const ot_status st = ot_chat_template_tokenize(l->o->chat, l->o->tokenizer, m, n + 1, false, true, &tokens, &n_tokens, &why);
    if (st == OT_ERR_INVALID)
        return ot_jsonl_fail(l->file, l->err, "%s", why.message);
    if (st != OT_OK)
        return ot_fail(l->err, st, "%s", why.message);
    const ot_status kept = ot_loader_keep_tokens(l, tokens, n_tokens, span);
    free(tokens);
    return kept;
}

static ot_status add_pair_messages(ot_loader *l, const json_t *row, ot_chat_message *m, size_t n, const char *user)
{
    const char *chosen = get_text(l, row, "chosen"), *rejected = chosen != NULL ? get_text(l, row, "rejected") : NULL;
    if (rejected == NULL)
        return OT_ERR_FORMAT;
    ot_example *x = ot_loader_new_row(l);
    if (x == NULL)
        return ot_loader_out_of_memory(l);
    ot_status st;
    if ((st = add_leaf(l, m, n, chosen, &x->tokens[0])) != OT_OK || (st = add_leaf(l, m, n, rejected, &x->tokens[1])) != OT_OK ||
        (st = ot_loader_keep_text(l, user, &x->text)) != OT_OK || (st = ot_loader_keep_text(l, chosen, &x->answer)) != OT_OK ||
        (st = read_source(l, row, &x->source)) != OT_OK)
        return st;
    const ot_span *t = x->tokens;
    x->n_prompt = ot_train_common_prefix(l->d->tokens + t[0].first, t[0].n, l->d->tokens + t[1].first, t[1].n);
    if (x->n_prompt >= t[0].n || x->n_prompt >= t[1].n)
        drop_row(l); /* cut before they part, or the same: nothing to learn from */
    return OT_OK;
}

static ot_status add_pair(ot_loader *l, const json_t *row)
{
    ot_chat_message *m = NULL;
    size_t n = 0;
    const char *user = "";
    ot_status st = read_messages(l, row, &m, &n, &user);
    if (st == OT_OK && n > 0 && l->o->chat == NULL)
        st = ot_jsonl_fail(l->file, l->err, "rows with messages need a chat template: give --chat-template");
    if (st == OT_OK)
        st = add_pair_messages(l, row, m, n, user);
    free(m);
    return st;
}

/* An array of token ids, appended to tokens[*n] as far as there is room; *n counts them all. */
static ot_status read_tokens(ot_loader *l, const json_t *row, const char *key, int32_t *tokens, size_t room, size_t *n)
{
    const json_t *list = json_object_get(row, key);
    const json_int_t n_vocab = ot_tokenizer_vocab_size(l->o->tokenizer);
    if (!json_is_array(list))
        return ot_jsonl_fail(l->file, l->err, "'%s' is missing or not an array", key);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *id = json_array_get(list, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= n_vocab)
            return ot_jsonl_fail(l->file, l->err, "'%s'[%zu] is not a token of the model", key, i);
        if (*n < room)
            tokens[*n] = (int32_t)json_integer_value(id);
        ++*n;
    }
    return OT_OK;
}

/* As generated: ids. An answer that stopped by itself ends in the token that said so, which the file leaves out or not. */
static ot_status generated_tokens(ot_loader *l, const json_t *row, int32_t *tokens, size_t room, size_t *n, size_t *n_prompt)
{
    const char *finish = json_string_value(json_object_get(row, "finish_reason"));
    const int32_t end = ot_tokenizer_eos(l->o->tokenizer);
    ot_status st = read_tokens(l, row, "prompt_tokens", tokens, room, n);
    *n_prompt = *n;
    if (st == OT_OK)
        st = read_tokens(l, row, "completion_tokens", tokens, room, n);
    if (st == OT_OK && end >= 0 && finish != NULL && strcmp(finish, "stop") == 0 && *n < room &&
        !ot_tokenizer_is_eog(l->o->tokenizer, tokens[*n > 0 ? *n - 1 : 0]))
        tokens[(*n)++] = end;
    return st;
}

/* A prompt and its whole answer in the chat template, with the end token. */
static ot_status wrap_whole(ot_loader *l, const char *prompt, const char *text, int32_t **tokens, size_t *n, size_t *n_prompt)
{
    const ot_status st = ot_train_wrap_chat(l->o->chat, l->o->tokenizer, prompt, text, tokens, n, n_prompt, l->err);
    const int32_t end = ot_tokenizer_eos(l->o->tokenizer);
    if (st != OT_OK || end < 0)
        return st;
    int32_t *larger = realloc(*tokens, (*n + 1) * sizeof **tokens);
    if (larger == NULL)
        return ot_loader_out_of_memory(l);
    *tokens = larger;
    larger[(*n)++] = end;
    return OT_OK;
}

static ot_status add_answer_tokens(ot_loader *l, ot_example *x, const int32_t *tokens, size_t n, size_t n_prompt)
{
    const ot_status st = ot_loader_keep_tokens(l, tokens, n, &x->tokens[0]);
    x->n_prompt = n_prompt < x->tokens[0].n ? (uint32_t)n_prompt : x->tokens[0].n;
    if (st == OT_OK && x->n_prompt == x->tokens[0].n)
        drop_row(l); /* no answer within max_length */
    return st;
}

static ot_status add_answer(ot_loader *l, const json_t *row)
{
    const bool ids = json_object_get(row, "completion_tokens") != NULL;
    const char *prompt = json_string_value(json_object_get(row, "prompt")), *text = json_string_value(json_object_get(row, "completion"));
    size_t n = 0, n_prompt = 0, room = l->o->max_length;
    int32_t *tokens = NULL;
    if (!ids && (prompt == NULL || text == NULL))
        return ot_jsonl_fail(l->file, l->err, "'prompt' or 'completion' is missing or not a string");
    if (!ids && l->o->chat == NULL)
        return ot_jsonl_fail(l->file, l->err, "a prompt and its completion need a chat template: give --chat-template");
    ot_example *x = ot_loader_new_row(l);
    if (x == NULL)
        return ot_loader_out_of_memory(l);
    ot_status st = ot_loader_keep_text(l, prompt != NULL ? prompt : "", &x->text);
    if (st == OT_OK)
        st = ot_loader_keep_text(l, text != NULL ? text : "", &x->answer);
    if (st == OT_OK && ids) {
        tokens = ot_alloc(room, sizeof *tokens);
        st = tokens != NULL ? generated_tokens(l, row, tokens, room, &n, &n_prompt) : ot_loader_out_of_memory(l);
        n = n < room ? n : room;
    } else if (st == OT_OK) {
        st = wrap_whole(l, prompt, text, &tokens, &n, &n_prompt);
    }
    if (st == OT_OK)
        st = add_answer_tokens(l, x, tokens, n, n_prompt);
    free(tokens);
    return st;
}

ot_status ot_loader_take_shape(ot_loader *l, const json_t *row, bool first_file)
{
    if (json_object_get(row, "completion") != NULL || json_object_get(row, "completion_tokens") != NULL)
        l->shape = OT_SHAPE_ANSWER;
    else if (json_object_get(row, "chosen") != NULL)
        l->shape = OT_SHAPE_PAIR;
    else if (json_object_get(row, "label") != NULL || json_object_get(row, "labels") != NULL)
        l->shape = OT_SHAPE_LABEL;
    else if (json_object_get(row, "prompt") != NULL || json_object_get(row, "text") != NULL)
        l->shape = OT_SHAPE_PROMPT;
    else
        return ot_jsonl_fail(l->file, l->err,
                             "the row is none of {text, label}, {messages, chosen, rejected}, {prompt}, {prompt, completion}");
    if (first_file)
        l->d->shape = l->shape;
    else if (l->shape != l->d->shape && !l->o->mixed_shapes)
        return ot_jsonl_fail(l->file, l->err, "rows of another shape than those of %s", l->d->path);
    return OT_OK;
}

ot_status ot_loader_add_row(ot_loader *l, const json_t *row)
{
    switch (l->shape) {
    case OT_SHAPE_LABEL: return add_text(l, row, "text");
    case OT_SHAPE_PAIR: return add_pair(l, row);
    case OT_SHAPE_ANSWER: return add_answer(l, row);
    default: return add_text(l, row, json_object_get(row, "prompt") != NULL ? "prompt" : "text");
    }
}
