/* `otter eval`: a model, a head file and a data file, opened as a server opens them. */
#include <stdlib.h>
#include <string.h>

#include "train/run/evaluate.h"
#include "train/data/chat-text.h"
#include "train/run/evaluate-language.h"
#include "train/run/evaluate-lookahead.h"
#include "train/train-internal.h"

void ot_eval_options_default(ot_eval_options *options)
{
    *options = (ot_eval_options){.max_length = 512, .batch_tokens = 1024, .threshold = 0.5};
}

typedef struct opened {
    ot_model *model;
    ot_insertion *parents[OT_MAX_PARENTS];
    uint32_t n_parents;
    ot_insertion *head;
    ot_engine *engine;
    ot_sequence_batch *sequences;
    ot_chat_template *chat;
    ot_dataset *data;
} opened;

static void close_all(opened *o)
{
    ot_dataset_close(&o->data);
    ot_chat_template_close(&o->chat);
    ot_sequence_batch_close(&o->sequences);
    ot_engine_close(&o->engine);
    ot_insertion_close(&o->head);
    while (o->n_parents > 0)
        ot_insertion_close(&o->parents[--o->n_parents]);
    ot_model_close(&o->model);
}

static ot_status open_head(opened *o, const ot_eval_options *options, ot_error *err)
{
    const ot_insertion_options open = {.allow_base_mismatch = options->allow_base_mismatch, .n_threads = options->threads};
    char parents[OT_MAX_PARENTS][OT_TRAIN_PATH];
    memcpy(parents, options->parents, sizeof parents);
    ot_status st = ot_model_open(&o->model, options->model, err);
    if (st == OT_OK)
        st = ot_train_open_parents(o->model, parents, options->n_parents, options->allow_base_mismatch, o->parents,
                                   &o->n_parents, err);
    if (st == OT_OK)
        st = ot_insertion_open(&o->head, o->model, "head", options->head, (const ot_insertion *const *)o->parents, o->n_parents,
                               &open, err);
    if (st == OT_OK && options->output >= ot_insertion_get_info(o->head)->spec.n_outputs)
        st = ot_fail_param(err, OT_ERR_INVALID, "output", "--output %u: the head has %u outputs", options->output,
                           ot_insertion_get_info(o->head)->spec.n_outputs);
    return st;
}

static ot_status open_rest(opened *o, const ot_eval_options *options, ot_error *err)
{
    const ot_insertion_spec *spec = &ot_insertion_get_info(o->head)->spec;
    ot_engine_options engine;
    ot_error no_chat = {0};
    ot_engine_options_default(&engine);
    engine.n_threads = options->threads;
    engine.max_rows = options->batch_tokens;
    engine.max_context = options->batch_tokens + 1; /* a candidate may follow a text that fills the batch */
    engine.max_insertions = o->n_parents + 1;
    ot_status st = ot_engine_open(&o->engine, o->model, &engine, err);
    if (st == OT_OK)
        st = ot_sequence_batch_open(&o->sequences, o->model, o->head, engine.kv_type, options->batch_tokens, err);
    if (st != OT_OK)
        return st;
    /* Only rows with messages need the template, and say so themselves. */
    st = ot_train_chat_template(&o->chat, o->model, options->chat_template, &no_chat);
    if (st != OT_OK && (options->chat || options->chat_template[0] != '\0'))
        return ot_fail(err, st, "%s", no_chat.message);
    if (options->only_label[0] != '\0' && strcmp(options->only_label, "0") != 0 && strcmp(options->only_label, "1") != 0)
        return ot_fail_param(err, OT_ERR_INVALID, "only-label", "--only-label '%s' is not 0 or 1", options->only_label);
    const ot_dataset_options rows = {
        .mixed_shapes = spec->kind != OT_HEAD_SCALAR,
        .only = options->only_label[0] == '\0' ? OT_ALL_LABELS : options->only_label[0] == '0' ? OT_ONLY_LABEL_0 : OT_ONLY_LABEL_1,
        .tokenizer = ot_model_tokenizer(o->model), .chat = o->chat, .n_outputs = spec->kind == OT_HEAD_SCALAR ? spec->n_outputs : 1,
        .output_labels = spec->labels, .max_length = options->max_length, .max_rows = options->max_rows,
    };
    return ot_dataset_load(&o->data, options->data, &rows, err);
}

ot_status ot_eval_file(const ot_eval_options *options, FILE *progress, ot_eval_result *result, ot_error *err)
{
    opened o = {0};
    if (options->batch_tokens < options->max_length || options->max_length == 0)
        return ot_fail_param(err, OT_ERR_INVALID, "batch-tokens", "--batch-tokens %u is less than --max-length %u",
                             options->batch_tokens, options->max_length);
    ot_status st = open_head(&o, options, err);
    if (st == OT_OK)
        st = open_rest(&o, options, err);
    if (st == OT_OK && ot_insertion_get_info(o.head)->spec.kind == OT_HEAD_GENERATION) {
        st = ot_evaluate_generation_head(o.engine, o.head, o.sequences, options->batch_tokens, o.data, progress, result, err);
    } else if (st == OT_OK && ot_insertion_get_info(o.head)->spec.kind == OT_HEAD_LOOKAHEAD) {
        st = ot_evaluate_lookahead_head(o.engine, o.head, o.sequences, options->batch_tokens, o.data, progress, result, err);
    } else if (st == OT_OK) {
        const ot_evaluator e = {
            .engine = o.engine, .insertion = o.head, .sequences = o.sequences, .batch_tokens = options->batch_tokens,
            .output = options->output, .chat = options->chat ? o.chat : NULL, .max_length = options->max_length, .progress = progress,
            .threshold = (float)options->threshold,
        };
        st = ot_evaluate(&e, o.data, result, err);
    }
    close_all(&o);
    return st;
}
