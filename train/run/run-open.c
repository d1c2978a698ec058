/* Opening and closing of a training run, and `otter init`. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/run/evaluate-lookahead.h"
#include "train/data/chat-text.h"
#include "train/run/preflight.h"
#include "train/run/run.h"

/* ---- The insertion ------------------------------------------------------------------------------------------ */

/* Those of `opened` that the insertion stands on, in its own order. Opening it found them all. */
static void order_parents(const ot_insertion_spec *spec, ot_insertion **opened, uint32_t n_opened, const ot_insertion **ordered)
{
    for (uint32_t p = 0; p < spec->n_parents; p++)
        for (uint32_t i = 0; i < n_opened; i++)
            if (strcmp(ot_insertion_get_info(opened[i])->spec.name, spec->parents[p]) == 0)
                ordered[p] = opened[i];
}

/* Replaces heads that read no tokens by ones that do, with token matrices of zero: they give the values that they gave, and what
 * the tokens tell is learnt from there on. */
static ot_status let_read_tokens(const ot_model *model, ot_insertion **parents, uint32_t n_parents, ot_insertion **x, ot_error *err)
{
    const ot_insertion *ordered[OT_MAX_PARENTS] = {NULL};
    ot_insertion_spec spec = ot_insertion_get_info(*x)->spec;
    ot_insertion *reading = NULL;
    spec.reads_tokens = true;
    order_parents(&spec, parents, n_parents, ordered);
    const ot_status st = ot_insertion_create(&reading, model, &spec, ordered, err);
    for (uint32_t i = 0; st == OT_OK && i < ot_insertion_n_params(*x); i++) {
        const ot_param *from = ot_insertion_param(*x, i);
        memcpy(ot_insertion_find_param(reading, from->name)->data, from->data, (size_t)from->n_in * from->n_out * sizeof(float));
    }
    if (st == OT_OK)
        ot_init_residuals(reading, 1.0f);
    ot_insertion_close(x);
    *x = reading;
    if (st == OT_OK)
        ot_insertion_commit(reading, NULL);
    return st;
}

/* What the options say about the insertion, where they say something, against what the file holds. */
static ot_status hold_against_file(const ot_train_options *o, const ot_insertion_spec *asked, const ot_insertion_spec *held, ot_error *err)
{
    ot_train_options unset;
    ot_train_options_default(&unset);
    const struct { const char *name; bool given; uint32_t asked, held; } sizes[] = {
        {"width", o->width != unset.width, asked->n_embd, held->n_embd},
        {"heads", o->heads != unset.heads, asked->n_heads, held->n_heads},
        {"kv-heads", o->kv_heads != unset.kv_heads, asked->n_kv_heads, held->n_kv_heads},
        {"ffn", o->ffn != unset.ffn, asked->n_ff, held->n_ff},
        {"input", o->input[0] != '\0', asked->input, held->input},
        {"activation", o->activation[0] != '\0', asked->activation, held->activation},
        {"outputs", o->outputs > 0 || o->n_labels > 0 || o->offsets[0] != '\0', asked->n_outputs, held->n_outputs},
    };
    const char *other = NULL;
    if (asked->kind != held->kind)
        return ot_fail_param(err, OT_ERR_INVALID, "kind", "%s is of kind %s, --kind says %s", o->init_from, ot_head_kind_names[held->kind],
                             ot_head_kind_names[asked->kind]);
    for (size_t i = 0; other == NULL && i < sizeof sizes / sizeof sizes[0]; i++)
        if (sizes[i].given && sizes[i].asked != sizes[i].held)
            other = sizes[i].name;
    for (uint32_t k = 0; other == NULL && k < held->n_outputs; k++)
        if (o->offsets[0] != '\0' && asked->offsets[k] != held->offsets[k])
            other = "offsets";
        else if (k < o->n_labels && strcmp(asked->labels[k], held->labels[k]) != 0)
            other = "label";
    if (other == NULL)
        return OT_OK;
    return ot_fail_param(err, OT_ERR_INVALID, other, "--%s is not what %s has: an insertion that is trained further keeps its kind, sizes "
                         "and outputs", other, o->init_from);
}

/* --init-from: the insertion, which from here on says what is trained. */
static ot_status open_from_file(ot_run *run, ot_error *err)
{
    const ot_train_options *o = run->options;
    const ot_insertion_options open = {.allow_base_mismatch = o->allow_base_mismatch};
    ot_status st = ot_insertion_open_trainable(&run->insertion, run->model, run->spec.name, o->init_from,
                                               (const ot_insertion *const *)run->parents, run->n_parents, &open, err);
    if (st == OT_OK)
        st = hold_against_file(o, &run->spec, &ot_insertion_get_info(run->insertion)->spec, err);
    if (st == OT_OK && o->read_tokens && !ot_insertion_get_info(run->insertion)->spec.reads_tokens) {
        fprintf(run->log, "the heads of %s learn to read tokens, through matrices of zero at first\n", o->init_from);
        run->adds_token_matrices = true;
        st = let_read_tokens(run->model, run->parents, run->n_parents, &run->insertion, err);
    }
    if (st == OT_OK)
        run->spec = ot_insertion_get_info(run->insertion)->spec;
    return st;
}

/* A lookahead head starts from its parent's score of the text so far, where its place in the stack allows it. */
static ot_status start_lookahead(const ot_train_options *o, const ot_model *model, ot_insertion *x, ot_error *err)
{
    const ot_insertion_options open = {.allow_base_mismatch = o->allow_base_mismatch};
    const ot_insertion *scorer;
    const ot_status st = ot_lookahead_scorer(x, &scorer, err);
    return st == OT_OK && ot_init_can_follow(x, scorer) ? ot_init_follow(x, model, scorer, &open, err) : st;
}

/* A new insertion, as the options describe it. */
static ot_status make_insertion(const ot_train_options *o, const ot_model *model, ot_insertion **parents, uint32_t n_parents,
                                bool pairwise, FILE *log, ot_insertion **out, ot_error *err)
{
    ot_insertion_spec spec;
    ot_init_method method;
    ot_status st = ot_train_options_spec(o, &spec, err);
    if (st != OT_OK)
        return st;
    if (!ot_init_method_named(o->init, &method))
        return ot_fail_param(err, OT_ERR_INVALID, "init", "--init '%s' is not random, normal, copy or mirror", o->init);
    if (pairwise && o->activation[0] == '\0')
        spec.activation = OT_ACT_IDENTITY;
    if (spec.kind == OT_HEAD_LOOKAHEAD && o->activation[0] == '\0')
        for (uint32_t i = 0; i < n_parents; i++)
            if (ot_insertion_get_info(parents[i])->spec.kind == OT_HEAD_SCALAR)
                spec.activation = ot_insertion_get_info(parents[i])->spec.activation;
    st = ot_insertion_create(out, model, &spec, (const ot_insertion *const *)parents, err);
    if (st == OT_OK)
        st = ot_init_params(*out, model, method, o->seed, NULL, err);
    if (st == OT_OK && spec.kind == OT_HEAD_LOOKAHEAD)
        st = start_lookahead(o, model, *out, err);
    if (st == OT_OK && log != NULL)
        fprintf(log, "initialised %llu parameters (%s): width %u, %u heads on %u, ffn %u\n",
                (unsigned long long)ot_insertion_get_info(*out)->n_params, o->init, spec.n_embd, spec.n_heads, spec.n_kv_heads,
                spec.n_ff);
    return st;
}

/* Gradients and initialisations are those of the llama block: RMSNorm, a gated FFN, no biases. */
static ot_status require_llama(const ot_model *model, ot_error *err)
{
    const char *architecture = ot_model_get_info(model)->architecture;
    if (strcmp(architecture, "llama") == 0)
        return OT_OK;
    return ot_fail_param(err, OT_ERR_UNSUPPORTED, "model", "insertions cannot be made or trained on a base of architecture '%s' yet, "
                         "only on 'llama'; those that exist can be served", architecture);
}

ot_status ot_train_init_file(const ot_train_options *options, FILE *log, ot_error *err)
{
    ot_model *model = NULL;
    ot_insertion *parents[OT_MAX_PARENTS], *insertion = NULL;
    uint32_t n_parents = 0;
    ot_train_options o = *options;
    if (o.model[0] == '\0' || o.out[0] == '\0')
        return ot_fail_param(err, OT_ERR_INVALID, o.model[0] ? "out" : "model", "--%s is missing", o.model[0] ? "out" : "model");
    const bool again = o.init_from[0] != '\0';
    if (!again && o.neutral_typography)
        return ot_fail_param(err, OT_ERR_INVALID, "neutral-typography", "--neutral-typography changes heads that are trained: give --init-from");
    if (again && o.read_tokens)
        return ot_fail_param(err, OT_ERR_INVALID, "read-tokens", "init --init-from only writes a file again: heads learn to read tokens "
                             "by `otter train --init-from %s --read-tokens`", o.init_from);
    if (o.type[0] == '\0')
        strcpy(o.type, "f32");
    ot_status st = ot_model_open(&model, o.model, err);
    if (st == OT_OK && !again)
        st = require_llama(model, err);
    if (st == OT_OK)
        st = ot_train_open_parents(model, o.parents, o.n_parents, o.allow_base_mismatch, parents, &n_parents, err);
    if (st == OT_OK && again)
        st = ot_requantize(&o, model, parents, n_parents, log, err);
    else if (st == OT_OK)
        st = make_insertion(&o, model, parents, n_parents, false, log, &insertion, err);
    if (st == OT_OK && !again)
        st = ot_record_write(&o, insertion, NULL, NULL, err);
    ot_insertion_close(&insertion);
    while (n_parents > 0)
        ot_insertion_close(&parents[--n_parents]);
    ot_model_close(&model);
    return st;
}

/* ---- A run -------------------------------------------------------------------------------------------------- */

static ot_status require_options(const ot_train_options *o, ot_error *err)
{
    const struct { const char *name, *value; } required[] = {
        {"model", o->model}, {"data", o->n_data > 0 ? o->data[0] : ""}, {"out", o->out}};
    for (size_t i = 0; i < sizeof required / sizeof required[0]; i++)
        if (required[i].value[0] == '\0')
            return ot_fail_param(err, OT_ERR_INVALID, required[i].name, "--%s is missing", required[i].name);
    if (o->resume && o->checkpoint[0] == '\0')
        return ot_fail_param(err, OT_ERR_INVALID, "checkpoint", "--resume needs --checkpoint");
    if (o->neutral_typography)
        return ot_fail_param(err, OT_ERR_INVALID, "neutral-typography", "--neutral-typography is for `otter init --init-from`, after training");
    if (o->steps == 0 && o->epochs <= 0)
        return ot_fail_param(err, OT_ERR_INVALID, "epochs", "neither --steps nor --epochs is above 0");
    return OT_OK;
}

/* How rows are to be read; the texts and labels of spec are borrowed. */
static ot_status row_options(ot_run *run, ot_error *err)
{
    const ot_train_options *o = run->options;
    ot_error no_chat = {0};
    const ot_status st = ot_train_chat_template(&run->chat, run->model, o->chat_template, &no_chat);
    if (st != OT_OK && o->chat_template[0] != '\0')
        return ot_fail(err, st, "%s", no_chat.message);
    run->rows = (ot_dataset_options){
        .tokenizer = ot_model_tokenizer(run->model), .chat = run->chat, .n_outputs = run->spec.n_outputs,
        .output_labels = (const char (*)[64])run->spec.labels, .max_length = o->max_length, .max_rows = o->max_rows,
    };
    if (run->spec.kind != OT_HEAD_SCALAR) {
        run->rows.mixed_shapes = true;
        run->rows.n_outputs = 1;
    }
    if (o->only_label[0] != '\0' && strcmp(o->only_label, "0") != 0 && strcmp(o->only_label, "1") != 0)
        return ot_fail_param(err, OT_ERR_INVALID, "only-label", "--only-label '%s' is not 0 or 1", o->only_label);
    run->rows.only = o->only_label[0] == '\0' ? OT_ALL_LABELS : o->only_label[0] == '0' ? OT_ONLY_LABEL_0 : OT_ONLY_LABEL_1;
    return OT_OK;
}

static ot_status load_data(ot_run *run, ot_error *err)
{
    const ot_train_options *o = run->options;
    ot_status st;
    if ((st = row_options(run, err)) != OT_OK ||
        (st = ot_dataset_load_files(&run->data, o->data, o->n_data, &run->rows, err)) != OT_OK)
        return st;
    ot_dataset_options rows = run->rows;
    rows.max_rows = o->eval_rows;
    if (o->dev[0] != '\0' && (st = ot_dataset_load(&run->dev, o->dev, &rows, err)) != OT_OK)
        return st;
    if (run->dev != NULL && run->spec.kind == OT_HEAD_SCALAR && (st = ot_evaluate_check(run->dev, err)) != OT_OK)
        return st;
    if (o->n_calm > 0 && run->data->shape != OT_SHAPE_LABEL)
        return ot_fail_param(err, OT_ERR_INVALID, "calm", "--calm adds texts of label 0 to labelled ones, which the rows of %s are not",
                             o->data[0]);
    rows.max_rows = 0;
    rows.only = OT_ALL_LABELS;
    for (uint32_t i = 0; i < o->n_calm; i++) {
        if ((st = ot_dataset_load(&run->calm[i], o->calm[i], &rows, err)) != OT_OK)
            return st;
        if (run->calm[i]->shape == OT_SHAPE_LABEL)
            return ot_fail_param(err, OT_ERR_INVALID, "calm", "%s: quiet rows have no label", o->calm[i]);
    }
    fprintf(run->log, "%s%s: %u rows, %llu tokens%s\n", o->data[0], o->n_data > 1 ? " and others" : "", run->data->n_rows,
            (unsigned long long)run->data->n_tokens,
            run->data->n_skipped > 0 ? " (some rows skipped: empty, or alike or without an answer within --max-length)" : "");
    return OT_OK;
}

const char *const ot_loss_names[4] = {"bce", "pairwise", "language", "lookahead"};

static ot_status choose_loss(ot_run *run, ot_error *err)
{
    const char *name = run->options->loss;
    const ot_row_shape shape = run->data->shape;
    if (run->spec.kind == OT_HEAD_SCALAR && shape != OT_SHAPE_PAIR && shape != OT_SHAPE_LABEL)
        return ot_fail_param(err, OT_ERR_INVALID, "data", "%s: rows without a label or a pair of answers", run->options->data[0]);
    run->loss = run->spec.kind == OT_HEAD_GENERATION ? OT_LOSS_LANGUAGE : run->spec.kind == OT_HEAD_LOOKAHEAD ? OT_LOSS_LOOKAHEAD
                : shape == OT_SHAPE_PAIR ? OT_LOSS_PAIRWISE : OT_LOSS_BCE;
    if (name[0] != '\0' && strcmp(name, ot_loss_names[run->loss]) != 0)
        return ot_fail_param(err, OT_ERR_INVALID, "loss", "--loss '%s' does not fit the kind of head and the rows of %s, which are for %s",
                             name, run->options->data[0], ot_loss_names[run->loss]);
    return OT_OK;
}

static ot_status open_engine(ot_run *run, ot_error *err)
{
    const ot_train_options *o = run->options;
    ot_engine_options e;
    ot_engine_options_default(&e);
    e.n_threads = o->threads;
    e.max_rows = o->batch_tokens;
    e.max_context = o->batch_tokens + 1; /* a candidate may follow a text that fills the batch */
    e.max_insertions = OT_MAX_PARENTS + 1;
    e.kv_type = OT_KV_F16;
    ot_status st = ot_engine_open(&run->engine, run->model, &e, err);
    if (st == OT_OK)
        st = ot_sequence_batch_open(&run->sequences, run->model, run->insertion, e.kv_type, o->batch_tokens, err);
    if (st == OT_OK)
        st = ot_gradients_open(&run->gradients, run->engine, run->insertion, o->batch_tokens, o->max_length, o->lambda, err);
    return st;
}

static ot_status open_learner(ot_run *run, ot_error *err)
{
    const ot_train_options *o = run->options;
    const uint32_t n_params = ot_insertion_n_params(run->insertion);
    const uint32_t n_outputs = run->spec.n_outputs;
    const ot_status st = ot_adamw_open(&run->adam, run->insertion, err);
    if (st != OT_OK)
        return st;
    run->adam.beta1 = o->beta1;
    run->adam.beta2 = o->beta2;
    run->adam.eps = o->adam_eps;
    run->adam.weight_decay = o->weight_decay;
    run->gradient_of = ot_alloc(n_params, sizeof *run->gradient_of);
    run->raw = ot_alloc((size_t)o->batch_tokens * n_outputs, sizeof(float));
    run->d_raw = ot_alloc((size_t)o->batch_tokens * n_outputs, sizeof(float));
    run->d_head_in = ot_alloc((size_t)o->batch_tokens * run->spec.n_embd, sizeof(float));
    if (run->gradient_of == NULL || run->raw == NULL || run->d_raw == NULL || run->d_head_in == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory");
    for (uint32_t i = 0; i < n_params; i++)
        run->gradient_of[i] = ot_gradients_of(run->gradients, i);
    run->adam.head_rate = o->head_lr;
    return run->loss == OT_LOSS_LANGUAGE    ? ot_run_language_open(run, err)
           : run->loss == OT_LOSS_LOOKAHEAD ? ot_run_lookahead_open(run, err) : OT_OK;
}

static void set_plan_options(ot_run *run)
{
    const ot_train_options *o = run->options;
    run->plan_options = (ot_plan_options){
        .data = run->data, .calm = (const ot_dataset *const *)run->calm, .n_calm = o->n_calm,
        .tokenizer = ot_model_tokenizer(run->model), .chat = run->chat, .chat_fraction = o->chat_fraction,
        .context_fraction = o->context_fraction, .calm_fraction = o->calm_fraction, .calm_length = o->calm_length,
        .max_length = o->max_length, .batch_tokens = o->batch_tokens, .seed = o->seed,
        .texts = run->spec.kind != OT_HEAD_SCALAR,
    };
    run->state = (ot_run_state){.seed = o->seed, .n_rows = run->data->n_rows, .batch_tokens = o->batch_tokens,
                                .max_length = o->max_length};
}

static ot_status resume(ot_run *run, ot_error *err)
{
    const ot_run_state expected = run->state;
    const ot_status st = ot_checkpoint_read(run->options->checkpoint, run->insertion, &run->adam, &run->state, err);
    if (st != OT_OK)
        return st;
    if (run->state.seed != expected.seed || run->state.n_rows != expected.n_rows ||
        run->state.batch_tokens != expected.batch_tokens || run->state.max_length != expected.max_length)
        return ot_fail(err, OT_ERR_MISMATCH, "%s: made with another seed, data, --batch-tokens or --max-length",
                       run->options->checkpoint);
    fprintf(run->log, "going on after step %llu\n", (unsigned long long)run->state.n_steps);
    return OT_OK;
}

ot_status ot_run_open(ot_run *run, const ot_train_options *o, FILE *log, ot_error *err)
{
    *run = (ot_run){.options = o, .log = log, .last_figure = NAN};
    char parents[OT_MAX_PARENTS][OT_TRAIN_PATH];
    memcpy(parents, o->parents, sizeof parents);
    ot_status st = require_options(o, err);
    if (st != OT_OK || (st = ot_preflight_files(o, err)) != OT_OK || (st = ot_model_open(&run->model, o->model, err)) != OT_OK ||
        (st = require_llama(run->model, err)) != OT_OK ||
        (st = ot_train_open_parents(run->model, parents, o->n_parents, o->allow_base_mismatch, run->parents, &run->n_parents,
                                    err)) != OT_OK ||
        (st = ot_train_options_spec(o, &run->spec, err)) != OT_OK ||
        (o->init_from[0] != '\0' && (st = open_from_file(run, err)) != OT_OK) ||
        (st = load_data(run, err)) != OT_OK || (st = choose_loss(run, err)) != OT_OK ||
        (st = ot_preflight_rows(run, err)) != OT_OK ||
        (run->insertion == NULL && (st = make_insertion(o, run->model, run->parents, run->n_parents, run->loss == OT_LOSS_PAIRWISE,
                                                        log, &run->insertion, err)) != OT_OK) ||
        (st = open_engine(run, err)) != OT_OK || (st = open_learner(run, err)) != OT_OK)
        return st;
    set_plan_options(run);
    if ((st = ot_curve_open(run, err)) != OT_OK)
        return st;
    return o->resume ? resume(run, err) : OT_OK;
}

void ot_run_close(ot_run *run)
{
    if (run->curve != NULL)
        fclose(run->curve);
    ot_run_lookahead_close(run);
    ot_language_loss_close(&run->language);
    ot_text_targets_close(&run->targets);
    free(run->d_head_in);
    ot_epoch_plan_free(&run->plan);
    ot_adamw_close(&run->adam);
    free(run->gradient_of);
    free(run->raw);
    free(run->d_raw);
    ot_gradients_close(&run->gradients);
    ot_sequence_batch_close(&run->sequences);
    ot_engine_close(&run->engine);
    for (uint32_t i = 0; i < OT_TRAIN_MAX_FILES; i++)
        ot_dataset_close(&run->calm[i]);
    ot_dataset_close(&run->dev);
    ot_dataset_close(&run->data);
    ot_chat_template_close(&run->chat);
    ot_insertion_close(&run->insertion);
    while (run->n_parents > 0)
        ot_insertion_close(&run->parents[--run->n_parents]);
    ot_model_close(&run->model);
}
