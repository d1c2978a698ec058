/* Writing an insertion with the record of how it came about: otter.training.* keys. Files are named without their
 * folders, which mean nothing on another machine. */
#include <math.h>
#include <string.h>
#include <time.h>

#include "train/run/run.h"

const char *ot_record_base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

ot_status ot_record_type(const char *name, ot_type *type, ot_error *err)
{
    static const struct { const char *name; ot_type type; } types[] = {
        {"", OT_TYPE_Q8_0}, {"q8_0", OT_TYPE_Q8_0}, {"f16", OT_TYPE_F16}, {"bf16", OT_TYPE_BF16}, {"f32", OT_TYPE_F32},
        {"q4_0", OT_TYPE_Q4_0}, {"q4_1", OT_TYPE_Q4_1}, {"q5_0", OT_TYPE_Q5_0}, {"q5_1", OT_TYPE_Q5_1}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(types[i].name, name) == 0) {
            *type = types[i].type;
            return OT_OK;
        }
    return ot_fail_param(err, OT_ERR_INVALID, "type", "--type '%s' is not q4_0, q4_1, q5_0, q5_1, q8_0, f16, bf16 or f32", name);
}

/* Keys are put until one fails; the caller sees the first failure. */
typedef struct recorder {
    ot_gguf_writer *w;
    ot_status st;
} recorder;

static void put_text(recorder *r, const char *key, const char *value)
{
    char full[128];
    snprintf(full, sizeof full, "otter.training.%s", key);
    if (r->st == OT_OK)
        r->st = ot_gguf_put_str(r->w, full, value);
}

static void put_count(recorder *r, const char *key, uint64_t value)
{
    char full[128];
    snprintf(full, sizeof full, "otter.training.%s", key);
    if (r->st == OT_OK)
        r->st = ot_gguf_put_u64(r->w, full, value);
}

/* A figure that is not finite, such as the AUC of rows of one class, says nothing. */
static void put_number(recorder *r, const char *key, double value)
{
    char full[128];
    if (!isfinite(value))
        return;
    snprintf(full, sizeof full, "otter.training.%s", key);
    if (r->st == OT_OK)
        r->st = ot_gguf_put_f32(r->w, full, (float)value);
}

/* Names of files, with commas. */
static const char *list_of(const char (*paths)[OT_TRAIN_PATH], uint32_t n, char list[OT_TRAIN_MAX_FILES * 128])
{
    size_t at = 0;
    list[0] = '\0';
    for (uint32_t i = 0; i < n; i++, at = strlen(list))
        snprintf(list + at, OT_TRAIN_MAX_FILES * 128 - at, "%s%.100s", i > 0 ? ", " : "", ot_record_base_name(paths[i]));
    return list;
}

static void put_settings(recorder *r, const ot_train_options *o, const ot_run *run)
{
    char list[OT_TRAIN_MAX_FILES * 128];
    put_text(r, "data", list_of(o->data, o->n_data, list));
    put_count(r, "rows", run->data->n_rows);
    if (o->n_calm > 0) {
        put_text(r, "calm", list_of(o->calm, o->n_calm, list));
        put_number(r, "calm_fraction", o->calm_fraction);
    }
    if (o->only_label[0] != '\0')
        put_text(r, "only_label", o->only_label);
    put_text(r, "loss_function", ot_loss_names[run->loss]);
    put_number(r, "lr", o->lr);
    if (o->head_lr != 1)
        put_number(r, "head_lr", o->head_lr);
    put_number(r, "warmup", o->warmup);
    put_number(r, "lambda", o->lambda);
    put_number(r, "clip", o->clip);
    put_number(r, "weight_decay", o->weight_decay);
    put_number(r, "beta1", o->beta1);
    put_number(r, "beta2", o->beta2);
    put_count(r, "batch_tokens", o->batch_tokens);
    put_count(r, "max_length", o->max_length);
    if (run->spec.kind != OT_HEAD_SCALAR)
        put_number(r, "positions", o->positions);
    if (run->loss == OT_LOSS_LANGUAGE)
        put_number(r, "offset_decay", o->offset_decay);
    if (run->loss == OT_LOSS_LOOKAHEAD) {
        put_number(r, "change_weight", o->change_weight);
        put_number(r, "rank_weight", o->rank_weight);
        put_count(r, "candidates", o->candidates);
        put_count(r, "random_candidates", o->random_candidates);
    }
    if (run->loss == OT_LOSS_BCE) {
        put_number(r, "prefix_weight", o->prefix_weight);
        put_number(r, "prefix_power", o->prefix_power);
        put_number(r, "monotone", o->monotone);
    }
    if (run->spec.kind == OT_HEAD_SCALAR)
        put_count(r, "smooth", o->smooth);
    if (run->loss != OT_LOSS_PAIRWISE) {
        put_number(r, "chat_fraction", o->chat_fraction);
        put_number(r, "context_fraction", o->context_fraction);
    }
}

static void put_outcome(recorder *r, const ot_run *run)
{
    put_count(r, "steps", run->state.n_steps);
    put_number(r, "epochs", run->state.epoch + (run->plan.n_batches > 0 ? (double)run->state.batch / run->plan.n_batches : 0));
    put_count(r, "tokens", run->state.n_tokens);
    put_number(r, "seconds", run->state.seconds);
    put_number(r, "loss", run->state.loss);
}

static void put_language_figures(recorder *r, const ot_eval_result *e)
{
    char key[96];
    for (uint32_t k = 0; k < e->n_heads; k++) {
        const ot_language_figures *f = &e->heads[k];
        const struct { const char *name; double value; } figures[] = {{"nll", f->nll}, {"top1", f->top1}, {"top5", f->top5}};
        for (size_t i = 0; i < 3; i++) {
            snprintf(key, sizeof key, "dev_%s.%u", figures[i].name, f->offset);
            put_number(r, key, figures[i].value);
        }
    }
    if (e->has_base)
        put_number(r, "dev_nll.base", e->base.nll);
    if (e->tokens_per_pass > 0)
        put_number(r, "dev_tokens_per_pass", e->tokens_per_pass);
}

static void put_figures(recorder *r, const ot_train_options *o, const ot_insertion_spec *spec, const ot_eval_result *e)
{
    char key[96];
    put_text(r, "dev", ot_record_base_name(o->dev));
    put_count(r, "dev_rows", e->n_rows);
    if (spec->kind == OT_HEAD_SCALAR && spec->n_outputs > 1)
        put_text(r, "dev_output", spec->labels[0]); /* the one that the figures are of */
    if (e->is_paired) {
        put_number(r, "dev_pair_accuracy", e->pair_accuracy);
        return;
    }
    if (e->is_lookahead) {
        put_number(r, "dev_score_correlation", e->lookahead.score_correlation);
        put_number(r, "dev_change_correlation", e->lookahead.change_correlation);
        put_number(r, "dev_within_correlation", e->lookahead.within_correlation);
        put_number(r, "dev_highest_of_ten", e->lookahead.highest_of_ten);
        put_number(r, "dev_lowest_of_ten", e->lookahead.lowest_of_ten);
        return;
    }
    if (e->is_language) {
        put_language_figures(r, e);
        return;
    }
    if (e->is_unlabelled) {
        put_number(r, "dev_quiet_mean", e->quiet_mean);
        put_number(r, "dev_quiet_above_half", e->quiet_above_half);
        return;
    }
    put_number(r, "dev_auc", e->whole.auc);
    put_number(r, "dev_auc_low", e->whole.auc_low);
    put_number(r, "dev_auc_high", e->whole.auc_high);
    put_number(r, "dev_auc_half", e->half.auc);
    put_number(r, "dev_accuracy", e->whole.accuracy);
    put_number(r, "dev_brier", e->whole.brier);
    put_number(r, "dev_ece", e->whole.ece);
    for (uint32_t i = 0; i < e->n_sources; i++) {
        if (e->source_names[i][0] == '\0')
            continue;
        snprintf(key, sizeof key, "dev_auc.%s", e->source_names[i]);
        put_number(r, key, e->sources[i].auc);
        snprintf(key, sizeof key, "dev_auc_half.%s", e->source_names[i]);
        put_number(r, key, e->source_halves[i].auc);
    }
}

static void put_origin(recorder *r, const ot_train_options *o, const ot_run *run)
{
    char date[32] = "";
    const time_t now = time(NULL);
    struct tm utc;
    if (gmtime_r(&now, &utc) != NULL)
        strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", &utc);
    put_text(r, "init", o->init_from[0] != '\0' ? ot_record_base_name(o->init_from) : o->init);
    if (run != NULL && run->adds_token_matrices)
        put_text(r, "init_token_weights", "zero");
    put_count(r, "seed", o->seed);
    put_text(r, "date", date);
    put_text(r, "otter_version", OTTER_VERSION);
}

ot_status ot_record_write(const ot_train_options *options, ot_insertion *insertion, const ot_run *run,
                          const ot_eval_result *figures, ot_error *err)
{
    ot_type type = OT_TYPE_Q8_0;
    recorder r = {NULL, OT_OK};
    ot_status st = ot_record_type(options->type, &type, err);
    if (st == OT_OK)
        st = ot_gguf_writer_open(&r.w, err);
    if (st == OT_OK)
        st = ot_insertion_put(insertion, r.w, type, err);
    if (st == OT_OK) {
        put_origin(&r, options, run);
        if (run != NULL) {
            put_settings(&r, options, run);
            put_outcome(&r, run);
        }
        if (figures != NULL)
            put_figures(&r, options, &ot_insertion_get_info(insertion)->spec, figures);
        st = r.st == OT_OK ? ot_gguf_write(r.w, options->out, err) : ot_fail(err, r.st, "%s: its record cannot be put together: %s", options->out, ot_status_name(r.st));
    }
    ot_gguf_writer_close(&r.w);
    return st;
}
