/* Rows are kept as spans of two arenas (tokens and texts), so that a file of any number of rows costs a handful of allocations.
 * Texts are kept beside their tokens because augmentation renders them anew inside chat templates. */
#include "train/dataset.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/jsonl.h"
#include "train/train-internal.h"

typedef struct loader {
    ot_dataset *d;
    const ot_dataset_options *o;
    ot_jsonl *file;
    size_t n_tokens, tokens_capacity;
    size_t n_texts, texts_capacity;
    size_t rows_capacity;
    ot_row_shape shape;      /* of the current file */
    ot_error *err;
} loader;

/* ---- Arenas ------------------------------------------------------------------------------------------------- */

static bool reserve(void **buffer, size_t *capacity, size_t needed, size_t size)
{
    size_t n = *capacity > 0 ? *capacity : 1024, bytes;
    if (needed <= *capacity)
        return true;
    while (n < needed)
        if (__builtin_mul_overflow(n, 2, &n))
            return false;
    if (__builtin_mul_overflow(n, size, &bytes))
        return false;
    void *larger = realloc(*buffer, bytes);
    if (larger == NULL)
        return false;
    *buffer = larger;
    *capacity = n;
    return true;
}

static ot_status out_of_memory(const loader *l)
{
    return ot_fail(l->err, OT_ERR_NOMEM, "%s: out of memory after %u rows", l->d->path, l->d->n_rows);
}

static ot_status keep_tokens(loader *l, const int32_t *tokens, size_t n, ot_span *span)
{
    if (n > l->o->max_length)
        n = l->o->max_length;
    if (!reserve((void **)&l->d->tokens, &l->tokens_capacity, l->n_tokens + n, sizeof(int32_t)))
        return out_of_memory(l);
    if (n > 0)
        memcpy(l->d->tokens + l->n_tokens, tokens, n * sizeof *tokens);
    *span = (ot_span){l->n_tokens, (uint32_t)n};
    l->n_tokens += n;
    return OT_OK;
}

static ot_status keep_text(loader *l, const char *text, size_t *at)
{
    const size_t size = strlen(text) + 1;
    if (!reserve((void **)&l->d->texts, &l->texts_capacity, l->n_texts + size, 1))
        return out_of_memory(l);
    memcpy(l->d->texts + l->n_texts, text, size);
    *at = l->n_texts;
    l->n_texts += size;
    return OT_OK;
}

/* A new row with its labels unset; NULL when out of memory. */
static ot_example *new_row(loader *l)
{
    ot_dataset *d = l->d;
    const size_t old = l->rows_capacity;
    if (d->n_rows == UINT32_MAX || !reserve((void **)&d->rows, &l->rows_capacity, (size_t)d->n_rows + 1, sizeof *d->rows))
        return NULL;
    if (l->rows_capacity != old) {
        size_t bytes;
        float *labels = NULL;
        if (!__builtin_mul_overflow(l->rows_capacity, d->n_outputs * sizeof *labels, &bytes))
            labels = realloc(d->labels, bytes);
        if (labels == NULL)
            return NULL;
        d->labels = labels;
    }
    for (uint32_t k = 0; k < d->n_outputs; k++)
        d->labels[(size_t)d->n_rows * d->n_outputs + k] = NAN;
    ot_example *row = &d->rows[d->n_rows++];
    *row = (ot_example){.shape = l->shape};
    return row;
}

/* ---- Rows --------------------------------------------------------------------------------------------------- */

static const char *get_text(loader *l, const json_t *row, const char *key)
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

static ot_status read_label(loader *l, const json_t *value, const char *name, float *label)
{
    const double x = json_is_true(value) ? 1.0 : json_is_false(value) ? 0.0 : json_is_number(value) ? json_number_value(value) : NAN;
    if (!(x >= 0.0 && x <= 1.0))
        return ot_jsonl_fail(l->file, l->err, "'%s' is not a number from 0 to 1", name);
    *label = (float)x;
    return OT_OK;
}

static ot_status read_labels(loader *l, const json_t *row, float *labels)
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

static ot_status read_source(loader *l, const json_t *row, uint32_t *source)
{
    const json_t *value = json_object_get(row, "source");
    const char *name = json_is_string(value) ? json_string_value(value) : "";
    ot_dataset *d = l->d;
    for (*source = 0; *source < d->n_sources; ++*source)
        if (strncmp(d->sources[*source], name, sizeof d->sources[0] - 1) == 0)
            return OT_OK;
    if (d->n_sources >= 4096)
        return ot_jsonl_fail(l->file, l->err, "more than 4096 different sources");
    char (*larger)[64] = realloc(d->sources, (d->n_sources + 1) * sizeof d->sources[0]);
    if (larger == NULL)
        return out_of_memory(l);
    d->sources = larger;
    strncpy(d->sources[d->n_sources], name, sizeof d->sources[0] - 1);
    d->sources[d->n_sources++][63] = '\0';
    return OT_OK;
}

static ot_status tokenize_text(loader *l, const char *text, ot_span *span)
{
    int32_t *tokens = NULL;
    size_t n = 0;
    ot_status st = ot_tokenize(l->o->tokenizer, text, strlen(text), OT_TOKENIZE_BOS, &tokens, &n, l->err);
    if (st == OT_OK)
        st = keep_tokens(l, tokens, n, span);
    free(tokens);
    return st;
}

/* The row that was just added cannot be used. */
static void drop_row(loader *l)
{
    l->d->n_rows--;
    l->d->n_skipped++;
}

/* Whether the label of the row that was just added is not the wanted one. */
static bool filtered_out(const loader *l)
{
    const float label = l->d->labels[(size_t)(l->d->n_rows - 1) * l->d->n_outputs];
    return l->shape == OT_SHAPE_LABEL && l->o->only != OT_ALL_LABELS && !((label > 0.5f) == (l->o->only == OT_ONLY_LABEL_1));
}

/* A labelled text or a prompt. */
static ot_status add_text(loader *l, const json_t *row, const char *key)
{
    const char *text = get_text(l, row, key);
    if (text == NULL)
        return OT_ERR_FORMAT;
    ot_example *x = new_row(l);
    if (x == NULL)
        return out_of_memory(l);
    ot_status st = tokenize_text(l, text, &x->tokens[0]);
    if (st == OT_OK)
        st = keep_text(l, text, &x->text);
    if (st == OT_OK && l->shape == OT_SHAPE_LABEL)
        st = read_labels(l, row, &l->d->labels[(size_t)(l->d->n_rows - 1) * l->d->n_outputs]);
    if (st == OT_OK)
        st = read_source(l, row, &x->source);
    if (st == OT_OK && x->tokens[0].n == 0)
        drop_row(l);
    else if (st == OT_OK && filtered_out(l))
        l->d->n_rows--;
    return st;
}

/* Fills messages with the row's, leaving room for the answer; *user is the last user message. */
static ot_status read_messages(loader *l, const json_t *row, ot_chat_message **out, size_t *n, const char **user)
{
    const json_t *list = json_object_get(row, "messages");
    if (!json_is_array(list) || json_array_size(list) == 0)
        return ot_jsonl_fail(l->file, l->err, "'messages' is missing, empty, or not an array");
    ot_chat_message *m = calloc(json_array_size(list) + 1, sizeof *m);
    if (m == NULL)
        return out_of_memory(l);
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

static ot_status add_leaf(loader *l, ot_chat_message *m, size_t n, const char *answer, ot_span *span)
{
    int32_t *tokens = NULL;
    size_t n_tokens = 0;
    ot_error why = {0};
    m[n] = (ot_chat_message){"assistant", answer};
    const ot_status st = ot_chat_template_tokenize(l->o->chat, l->o->tokenizer, m, n + 1, false, true, &tokens, &n_tokens, &why);
    if (st == OT_ERR_INVALID)
        return ot_jsonl_fail(l->file, l->err, "%s", why.message);
    if (st != OT_OK)
        return ot_fail(l->err, st, "%s", why.message);
    const ot_status kept = keep_tokens(l, tokens, n_tokens, span);
    free(tokens);
    return kept;
}

static uint32_t common_prefix(const int32_t *a, size_t n_a, const int32_t *b, size_t n_b)
{
    uint32_t n = 0;
    while (n < n_a && n < n_b && a[n] == b[n])
        n++;
    return n;
}

static ot_status add_pair_messages(loader *l, const json_t *row, ot_chat_message *m, size_t n, const char *user)
{
    const char *chosen = get_text(l, row, "chosen"), *rejected = chosen != NULL ? get_text(l, row, "rejected") : NULL;
    if (rejected == NULL)
        return OT_ERR_FORMAT;
    ot_example *x = new_row(l);
    if (x == NULL)
        return out_of_memory(l);
    ot_status st;
    if ((st = add_leaf(l, m, n, chosen, &x->tokens[0])) != OT_OK || (st = add_leaf(l, m, n, rejected, &x->tokens[1])) != OT_OK ||
        (st = keep_text(l, user, &x->text)) != OT_OK || (st = keep_text(l, chosen, &x->answer)) != OT_OK ||
        (st = read_source(l, row, &x->source)) != OT_OK)
        return st;
    const ot_span *t = x->tokens;
    x->n_prompt = common_prefix(l->d->tokens + t[0].first, t[0].n, l->d->tokens + t[1].first, t[1].n);
    if (x->n_prompt >= t[0].n || x->n_prompt >= t[1].n)
        drop_row(l); /* cut before they part, or the same: nothing to learn from */
    return OT_OK;
}

static ot_status add_pair(loader *l, const json_t *row)
{
    ot_chat_message *m = NULL;
    size_t n = 0;
    const char *user = "";
    if (l->o->chat == NULL)
        return ot_jsonl_fail(l->file, l->err, "rows with messages need a chat template: give --chat-template");
    ot_status st = read_messages(l, row, &m, &n, &user);
    if (st == OT_OK)
        st = add_pair_messages(l, row, m, n, user);
    free(m);
    return st;
}

/* An array of token ids, appended to tokens[*n] as far as there is room; *n counts them all. */
static ot_status read_tokens(loader *l, const json_t *row, const char *key, int32_t *tokens, size_t room, size_t *n)
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
static ot_status generated_tokens(loader *l, const json_t *row, int32_t *tokens, size_t room, size_t *n, size_t *n_prompt)
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
static ot_status wrap_whole(loader *l, const char *prompt, const char *text, int32_t **tokens, size_t *n, size_t *n_prompt)
{
    const ot_status st = ot_train_wrap_chat(l->o->chat, l->o->tokenizer, prompt, text, tokens, n, n_prompt, l->err);
    const int32_t end = ot_tokenizer_eos(l->o->tokenizer);
    if (st != OT_OK || end < 0)
        return st;
    int32_t *larger = realloc(*tokens, (*n + 1) * sizeof **tokens);
    if (larger == NULL)
        return out_of_memory(l);
    *tokens = larger;
    larger[(*n)++] = end;
    return OT_OK;
}

static ot_status add_answer_tokens(loader *l, ot_example *x, const int32_t *tokens, size_t n, size_t n_prompt)
{
    const ot_status st = keep_tokens(l, tokens, n, &x->tokens[0]);
    x->n_prompt = n_prompt < x->tokens[0].n ? (uint32_t)n_prompt : x->tokens[0].n;
    if (st == OT_OK && x->n_prompt == x->tokens[0].n)
        drop_row(l); /* no answer within max_length */
    return st;
}

static ot_status add_answer(loader *l, const json_t *row)
{
    const bool ids = json_object_get(row, "completion_tokens") != NULL;
    const char *prompt = json_string_value(json_object_get(row, "prompt")), *text = json_string_value(json_object_get(row, "completion"));
    size_t n = 0, n_prompt = 0, room = l->o->max_length;
    int32_t *tokens = NULL;
    if (!ids && (prompt == NULL || text == NULL))
        return ot_jsonl_fail(l->file, l->err, "'prompt' or 'completion' is missing or not a string");
    if (!ids && l->o->chat == NULL)
        return ot_jsonl_fail(l->file, l->err, "a prompt and its completion need a chat template: give --chat-template");
    ot_example *x = new_row(l);
    if (x == NULL)
        return out_of_memory(l);
    ot_status st = keep_text(l, prompt != NULL ? prompt : "", &x->text);
    if (st == OT_OK)
        st = keep_text(l, text != NULL ? text : "", &x->answer);
    if (st == OT_OK && ids) {
        tokens = ot_train_alloc(room, sizeof *tokens);
        st = tokens != NULL ? generated_tokens(l, row, tokens, room, &n, &n_prompt) : out_of_memory(l);
        n = n < room ? n : room;
    } else if (st == OT_OK) {
        st = wrap_whole(l, prompt, text, &tokens, &n, &n_prompt);
    }
    if (st == OT_OK)
        st = add_answer_tokens(l, x, tokens, n, n_prompt);
    free(tokens);
    return st;
}

static ot_status shape_of_file(loader *l, const json_t *row, bool first_file)
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

static ot_status add_row(loader *l, const json_t *row)
{
    switch (l->shape) {
    case OT_SHAPE_LABEL: return add_text(l, row, "text");
    case OT_SHAPE_PAIR: return add_pair(l, row);
    case OT_SHAPE_ANSWER: return add_answer(l, row);
    default: return add_text(l, row, json_object_get(row, "prompt") != NULL ? "prompt" : "text");
    }
}

/* ---- Files -------------------------------------------------------------------------------------------------- */

static ot_status count_lines(const char *path, uint64_t *n, ot_error *err)
{
    ot_jsonl *file;
    json_t *row;
    ot_status st = ot_jsonl_open(&file, path, err);
    *n = 0;
    if (st != OT_OK)
        return st;
    while ((st = ot_jsonl_next(file, &row, err)) == OT_OK) {
        json_decref(row);
        ++*n;
    }
    ot_jsonl_close(&file);
    return st == OT_ERR_NOT_FOUND ? OT_OK : st;
}

static ot_status load_rows(loader *l, const char *path, bool first_file)
{
    uint64_t total = 0, seen = 0;
    json_t *row;
    ot_status st = OT_OK;
    if (l->o->max_rows > 0 && (st = count_lines(path, &total, l->err)) != OT_OK)
        return st;
    while ((st = ot_jsonl_next(l->file, &row, l->err)) == OT_OK) {
        /* Every row that starts another max_rows-th part of the file. */
        const bool wanted = total <= l->o->max_rows || seen * l->o->max_rows / total != (seen + 1) * l->o->max_rows / total;
        if (seen++ == 0)
            st = shape_of_file(l, row, first_file);
        if (st == OT_OK && wanted)
            st = add_row(l, row);
        json_decref(row);
        if (st != OT_OK)
            return st;
    }
    return st == OT_ERR_NOT_FOUND ? OT_OK : st;
}

ot_status ot_dataset_load_files(ot_dataset **out, const char (*paths)[OT_TRAIN_PATH], uint32_t n, const ot_dataset_options *options,
                                ot_error *err)
{
    *out = NULL;
    ot_dataset *d = calloc(1, sizeof *d);
    if (d == NULL || (d->path = strdup(n > 0 ? paths[0] : "")) == NULL) {
        free(d);
        return ot_fail(err, OT_ERR_NOMEM, "out of memory");
    }
    d->n_outputs = options->n_outputs > 0 ? options->n_outputs : 1;
    loader l = {.d = d, .o = options, .err = err};
    ot_status st = OT_OK;
    for (uint32_t i = 0; st == OT_OK && i < n; i++) {
        const uint32_t before = d->n_rows;
        if ((st = ot_jsonl_open(&l.file, paths[i], err)) == OT_OK)
            st = load_rows(&l, paths[i], i == 0);
        ot_jsonl_close(&l.file);
        if (st == OT_OK && d->n_rows == before)
            st = ot_fail(err, OT_ERR_FORMAT, "%s: no usable rows", paths[i]);
    }
    d->n_tokens = l.n_tokens;
    if (st != OT_OK)
        ot_dataset_close(&d);
    *out = d;
    return st;
}

ot_status ot_dataset_load(ot_dataset **out, const char *path, const ot_dataset_options *options, ot_error *err)
{
    char paths[1][OT_TRAIN_PATH];
    if (strlen(path) >= sizeof paths[0])
        return ot_fail(err, OT_ERR_INVALID, "%.60s...: the path is too long", path);
    strcpy(paths[0], path);
    return ot_dataset_load_files(out, (const char (*)[OT_TRAIN_PATH])paths, 1, options, err);
}

void ot_dataset_close(ot_dataset **dataset)
{
    ot_dataset *d = *dataset;
    if (d == NULL)
        return;
    free(d->path);
    free(d->rows);
    free(d->labels);
    free(d->tokens);
    free(d->texts);
    free(d->sources);
    free(d);
    *dataset = NULL;
}

/* ---- Chat --------------------------------------------------------------------------------------------------- */

ot_status ot_train_chat_template(ot_chat_template **out, const ot_model *model, const char *name, ot_error *err)
{
    const ot_str text = ot_model_chat_template(model);
    *out = NULL;
    if (name[0] != '\0')
        return ot_chat_template_named(out, name, err);
    if (text.size == 0)
        return ot_fail(err, OT_ERR_UNSUPPORTED, "the model file has no chat template; give --chat-template");
    return ot_chat_template_detect(out, text.data, text.size, err);
}

static ot_status render(const ot_chat_template *chat, const ot_tokenizer *tokenizer, const char *user, const char *answer,
                        int32_t **tokens, size_t *n, ot_error *err)
{
    const ot_chat_message m[2] = {{"user", user}, {"assistant", answer}};
    return ot_chat_template_tokenize(chat, tokenizer, m, answer != NULL ? 2 : 1, answer == NULL, answer != NULL, tokens, n, err);
}

ot_status ot_train_wrap_chat(const ot_chat_template *chat, const ot_tokenizer *tokenizer, const char *user,
                             const char *answer, int32_t **tokens, size_t *n_tokens, size_t *n_before, ot_error *err)
{
    /* What precedes the text is what it shares with the same chat around an empty text. */
    int32_t *empty = NULL;
    size_t n_empty = 0;
    *tokens = NULL;
    ot_status st = render(chat, tokenizer, answer != NULL ? user : "", answer != NULL ? "" : NULL, &empty, &n_empty, err);
    if (st == OT_OK)
        st = render(chat, tokenizer, user, answer, tokens, n_tokens, err);
    if (st == OT_OK)
        *n_before = common_prefix(*tokens, *n_tokens, empty, n_empty);
    free(empty);
    return st;
}
