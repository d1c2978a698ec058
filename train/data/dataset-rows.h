/* Inside the dataset: a file on its way into the arenas. */
#ifndef OTTER_TRAIN_DATA_DATASET_ROWS_H
#define OTTER_TRAIN_DATA_DATASET_ROWS_H

#include "train/data/dataset.h"
#include "base/jsonl.h"

typedef struct ot_loader {
    ot_dataset *d;
    const ot_dataset_options *o;
    ot_jsonl *file;
    size_t n_tokens, tokens_capacity;
    size_t n_texts, texts_capacity;
    size_t rows_capacity;
    ot_row_shape shape;      /* of the current file */
    ot_error *err;
} ot_loader;

/* ---- Arenas (dataset.c) --------------------------------------------------------------------------------------- */

/* Copies tokens (at most max_length of them), or a text with its zero, to the end of its arena. */
ot_status ot_loader_keep_tokens(ot_loader *l, const int32_t *tokens, size_t n, ot_span *span);
ot_status ot_loader_keep_text(ot_loader *l, const char *text, size_t *at);
/* A new row with its labels unset; NULL when out of memory. */
ot_example *ot_loader_new_row(ot_loader *l);
/* Says so, with the file; returns OT_ERR_NOMEM. */
ot_status ot_loader_out_of_memory(const ot_loader *l);

/* ---- Rows (dataset-rows.c) ------------------------------------------------------------------------------------ */

/* Decides by its first row what rows a file has. */
ot_status ot_loader_take_shape(ot_loader *l, const json_t *row, bool first_file);
/* Adds the row, or counts it as skipped, or passes it over. */
ot_status ot_loader_add_row(ot_loader *l, const json_t *row);

#endif
