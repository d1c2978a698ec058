/* Rows are kept as spans of two arenas (tokens and texts), so that a file of any number of rows costs a handful of allocations.
 * Texts are kept beside their tokens because augmentation renders them anew inside chat templates. */
#include "train/data/dataset-rows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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

ot_status ot_loader_out_of_memory(const ot_loader *l)
{
    return ot_fail(l->err, OT_ERR_NOMEM, "%s: out of memory after %u rows", l->d->path, l->d->n_rows);
}

ot_status ot_loader_keep_tokens(ot_loader *l, const int32_t *tokens, size_t n, ot_span *span)
{
    if (n > l->o->max_length)
        n = l->o->max_length;
    if (!reserve((void **)&l->d->tokens, &l->tokens_capacity, l->n_tokens + n, sizeof(int32_t)))
        return ot_loader_out_of_memory(l);
    if (n > 0)
        memcpy(l->d->tokens + l->n_tokens, tokens, n * sizeof *tokens);
    *span = (ot_span){l->n_tokens, (uint32_t)n};
    l->n_tokens += n;
    return OT_OK;
}

ot_status ot_loader_keep_text(ot_loader *l, const char *text, size_t *at)
{
    const size_t size = strlen(text) + 1;
    if (!reserve((void **)&l->d->texts, &l->texts_capacity, l->n_texts + size, 1))
        return ot_loader_out_of_memory(l);
    memcpy(l->d->texts + l->n_texts, text, size);
    *at = l->n_texts;
    l->n_texts += size;
    return OT_OK;
}

/* A new row with its labels unset; NULL when out of memory. */
ot_example *ot_loader_new_row(ot_loader *l)
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

static ot_status load_rows(ot_loader *l, const char *path, bool first_file)
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
            st = ot_loader_take_shape(l, row, first_file);
        if (st == OT_OK && wanted)
            st = ot_loader_add_row(l, row);
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
    ot_loader l = {.d = d, .o = options, .err = err};
    ot_status st = OT_OK;
    for (uint32_t i = 0; st == OT_OK && i < n; i++) {
        const uint32_t before = d->n_rows, skipped = d->n_skipped;
        if ((st = ot_jsonl_open(&l.file, paths[i], err)) == OT_OK)
            st = load_rows(&l, paths[i], i == 0);
        ot_jsonl_close(&l.file);
        if (st == OT_OK && d->n_rows == before)
            st = ot_fail(err, OT_ERR_FORMAT, "%s: no usable rows: %u skipped (empty, or alike or without an answer within the length)", paths[i],
                         d->n_skipped - skipped);
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
