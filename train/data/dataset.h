/* Files of training or evaluation rows, read and tokenised once. The shape of a file's first row decides which it is:
 *
 *     label    {"text", "label": 0..1}, or "labels": {output label: 0..1}; "source" is optional, and so is "spans": [[begin, end]...],
 *              the characters (Unicode code points) that earned the label: from the end of the first one on a beginning of the text has it
 *     pair     {"messages": [{"role", "content"}...], "chosen", "rejected"}: two answers in a chat; without messages ([]) two plain texts
 *     prompt   {"prompt"}: unlabelled text
 *     answer   {"prompt", "completion"}, as a user's message and its answer in the chat template; or as `otter generate --batch` writes
 *              it, with "prompt_tokens" and "completion_tokens", which are taken as they are, and "finish_reason", where "stop" adds
 *              the end token that the model said
 */
#ifndef OTTER_TRAIN_DATA_DATASET_H
#define OTTER_TRAIN_DATA_DATASET_H

#include "text/chat-template.h"
#include "train/train.h"

typedef enum ot_row_shape { OT_SHAPE_LABEL, OT_SHAPE_PAIR, OT_SHAPE_PROMPT, OT_SHAPE_ANSWER } ot_row_shape;

/* Which labelled rows to take. */
typedef enum ot_label_filter { OT_ALL_LABELS, OT_ONLY_LABEL_0, OT_ONLY_LABEL_1 } ot_label_filter;

/* A piece of the arenas below. */
typedef struct ot_span {
    size_t first;
    uint32_t n;
} ot_span;

typedef struct ot_example {
    ot_span tokens[2];   /* label and prompt: the text as it stands; pair: the whole chat with each answer; answer: all of it */
    uint32_t n_prompt;   /* pair: tokens that both begin with, before the answers; answer: tokens before the completion */
    ot_row_shape shape;
    size_t text, answer; /* label and prompt: the text; pair and answer: the last user message, and the (chosen) answer (in `texts`) */
    uint32_t source;     /* index into sources */
    uint32_t onset;      /* label: bytes of the text up to the end of its first span; 0: not known */
} ot_example;

typedef struct ot_dataset {
    char *path;          /* of the first file */
    ot_row_shape shape;  /* of the first file's rows */
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
    const ot_chat_template *chat;  /* NULL: rows with messages are refused */
    uint32_t n_outputs;
    const char (*output_labels)[64];
    uint32_t max_length;           /* tokens; longer texts are cut */
    uint32_t max_rows;             /* 0: all; else rows of each file, spread evenly over it */
    bool mixed_shapes;             /* files may have rows of different shapes */
    ot_label_filter only;          /* by the first output's label; others are passed over without being counted as skipped */
} ot_dataset_options;

ot_status ot_dataset_load(ot_dataset **out, const char *path, const ot_dataset_options *options, ot_error *err);
/* The rows of several files, one file after the other. */
ot_status ot_dataset_load_files(ot_dataset **out, const char (*paths)[OT_TRAIN_PATH], uint32_t n, const ot_dataset_options *options,
                                ot_error *err);
void ot_dataset_close(ot_dataset **dataset);

#endif
