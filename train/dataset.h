/* A file of training or evaluation rows, read and tokenised once. The shape of its first row decides which it is:
 *
 *     label    {"text", "label": 0..1}, or "labels": {output label: 0..1}; "source" is optional
 *     pair     {"messages": [{"role", "content"}...], "chosen", "rejected"}
 *     prompt   {"prompt"}: unlabelled text
 */
#ifndef OTTER_TRAIN_DATASET_H
#define OTTER_TRAIN_DATASET_H

#include "engine/chat-template.h"
#include "train/train.h"

typedef enum ot_row_shape { OT_SHAPE_LABEL, OT_SHAPE_PAIR, OT_SHAPE_PROMPT } ot_row_shape;

/* A piece of the arenas below. */
typedef struct ot_span {
    size_t first;
    uint32_t n;
} ot_span;

typedef struct ot_example {
    ot_span tokens[2];   /* label and prompt: the text as it stands; pair: the whole chat with each answer */
    uint32_t n_prompt;   /* pair: tokens that both begin with, before the answers */
    size_t text, answer; /* label and prompt: the text; pair: the last user message, and the chosen answer (in `texts`) */
    uint32_t source;     /* index into sources */
} ot_example;

typedef struct ot_dataset {
    char *path;
    ot_row_shape shape;
    uint32_t n_rows;
    uint32_t n_skipped;  /* pairs whose answers do not fit or are the same, and empty texts */
    uint64_t n_tokens;
    ot_example *rows;
    float *labels;       /* (n_rows, n_outputs); NaN: not judged by this row */
    uint32_t n_outputs;
    int32_t *tokens;     /* arena */
    char *texts;         /* arena of zero-terminated texts */
    uint32_t n_sources;
    char (*sources)[64];
} ot_dataset;

typedef struct ot_dataset_options {
    const ot_tokenizer *tokenizer;
    const ot_chat_template *chat;  /* NULL: pairs are refused */
    uint32_t n_outputs;
    const char (*output_labels)[64];
    uint32_t max_length;           /* tokens; longer texts are cut */
    uint32_t max_rows;             /* 0: all; else rows spread evenly over the file */
} ot_dataset_options;

ot_status ot_dataset_load(ot_dataset **out, const char *path, const ot_dataset_options *options, ot_error *err);
void ot_dataset_close(ot_dataset **dataset);

/* The model's own chat template, or the family named in `name` if not empty. */
ot_status ot_train_chat_template(ot_chat_template **out, const ot_model *model, const char *name, ot_error *err);

/* Tokens of a user's message, or (answer not NULL) of an exchange whose answer is still going on. *n_before: the tokens before the
 * text that counts (the user's, or the answer). *tokens is malloc'ed. */
ot_status ot_train_wrap_chat(const ot_chat_template *chat, const ot_tokenizer *tokenizer, const char *user,
                             const char *answer, int32_t **tokens, size_t *n_tokens, size_t *n_before, ot_error *err);

#endif
