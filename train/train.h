/* Training of insertions: initialisation, losses, gradients of the inserted stream, AdamW, data, evaluation.
 *
 * It runs the engine's own forward pass on the frozen (quantised) base with a float32 insertion on top, takes the
 * intermediate values that the pass leaves on an ot_tape, and propagates the gradient through h' alone: everything that
 * depends on h only is a constant. A run is described by ot_train_options, whose fields are the command line's flags and
 * the keys of a YAML file. Diagnostics and progress go to `log`, results to files.
 *
 * Threads: all of it is called from one thread; the arithmetic is cut into tasks for the engine's pool, in a way that
 * never changes a result.
 */
#ifndef OTTER_TRAIN_TRAIN_H
#define OTTER_TRAIN_TRAIN_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "engine/engine.h"

/* ---- Initialisation (method.md, "Training") ---------------------------------------------------------------- */

typedef enum ot_init_method {
    OT_INIT_RANDOM, /* uniform (-0.5, 0.5), as in the paper; overflows on deep bases */
    OT_INIT_NORMAL, /* mean and variance of the matching base tensor */
    OT_INIT_COPY,   /* rows, columns and whole heads of the base */
    OT_INIT_MIRROR  /* copy, with what reads the inserted stream at zero: h' equals chosen dimensions of h */
} ot_init_method;

/* False if the name is none of random, normal, copy, mirror. */
bool ot_init_method_named(const char *name, ot_init_method *out);

/* Sets all parameters of a trainable insertion and commits them. `chosen` (may be NULL) receives the d' dimensions of h that
 * copy and mirror took, ascending. Where d' exceeds d, or f' the base's inner size, copy and mirror are OT_ERR_INVALID. */
ot_status ot_init_params(ot_insertion *insertion, const ot_model *base, ot_init_method method, uint64_t seed,
                         uint32_t *chosen, ot_error *err);

/* ---- Options ------------------------------------------------------------------------------------------------ */

#define OT_TRAIN_PATH 512
#define OT_TRAIN_MAX_FILES 8

typedef enum ot_train_loss {
    OT_LOSS_BCE, OT_LOSS_PAIRWISE, /* scalar heads: texts with labels, pairs of answers */
    OT_LOSS_LANGUAGE,              /* generation heads: the tokens that come (eq. 6) */
    OT_LOSS_LOOKAHEAD              /* lookahead heads: the scores of a parent at the next position */
} ot_train_loss;

/* Everything of `otter init` and `otter train`. Texts are empty where not given. */
typedef struct ot_train_options {
    char model[OT_TRAIN_PATH], dev[OT_TRAIN_PATH], out[OT_TRAIN_PATH];
    char init_from[OT_TRAIN_PATH], checkpoint[OT_TRAIN_PATH], curve[OT_TRAIN_PATH];
    char data[OT_TRAIN_MAX_FILES][OT_TRAIN_PATH];
    uint32_t n_data;
    char parents[OT_MAX_PARENTS][OT_TRAIN_PATH]; /* NAME=FILE, lowest first */
    uint32_t n_parents;
    char labels[OT_MAX_HEADS][OT_TRAIN_PATH];
    uint32_t n_labels;
    char calm[OT_TRAIN_MAX_FILES][OT_TRAIN_PATH];
    uint32_t n_calm;
    char name[64], chat_template[64], type[16], kind[16], input[16], activation[16], init[16], loss[16], only_label[16];
    char offsets[64];              /* of generation heads: "0", "1,2,3" */
    bool read_tokens;
    uint32_t width, heads, kv_heads, ffn, outputs;
    uint64_t seed;
    double lr, warmup, lambda, clip, weight_decay, beta1, beta2, adam_eps;
    double epochs, max_minutes;
    uint32_t steps, batch_tokens, max_length, max_rows, threads;
    uint32_t eval_every, eval_rows, checkpoint_every, log_every;
    double prefix_weight, prefix_power, monotone, chat_fraction, context_fraction, calm_fraction;
    uint32_t calm_length, smooth;
    double positions, offset_decay, tail;     /* generation */
    double change_weight, rank_weight;        /* lookahead */
    uint32_t candidates, random_candidates;
    double head_lr;                           /* of the heads' own parameters, relative to lr */
    bool resume, force, allow_base_mismatch, neutral_typography;
    bool name_from_file, labels_from_file; /* --config says so, and no flag does */
} ot_train_options;

void ot_train_options_default(ot_train_options *options);
/* Sets one option by its flag's name without dashes ("batch-tokens"). Repeatable ones append. An unknown name is
 * OT_ERR_NOT_FOUND, a value that does not fit OT_ERR_INVALID; err names the option. */
ot_status ot_train_options_set(ot_train_options *options, const char *name, const char *value, ot_error *err);
/* Whether the option is a switch, which takes no value on the command line. */
bool ot_train_options_is_switch(const char *name);
/* Reads a YAML file: one mapping of option names to scalars, or lists of scalars for repeatable ones. */
ot_status ot_train_options_load(ot_train_options *options, const char *path, ot_error *err);
/* Reads argv[1..): a --config file first, then flags, which beat it: the first use of a repeatable flag drops the file's list.
 * *help is set if --help was there; nothing is checked then. */
ot_status ot_train_options_parse(ot_train_options *options, int argc, char **argv, bool *help, ot_error *err);
/* A recipe names the head that it was written for: OT_ERR_INVALID if --out is another file and no flag says what the new head and its
 * labels are called; so it is for a scalar head without any label. */
ot_status ot_train_options_check_names(const ot_train_options *options, ot_error *err);
/* Prints one line for each option, for --help: those of `init` only, or all. */
void ot_train_options_print(FILE *to, bool init_only);
/* Sizes and kind as a spec; errors name the option. */
ot_status ot_train_options_spec(const ot_train_options *options, ot_insertion_spec *spec, ot_error *err);

/* ---- Runs --------------------------------------------------------------------------------------------------- */

/* `otter init`: creates, initialises and writes options->out; with options->init_from it writes that insertion again as options->type,
 * a scalar one with options->activation where that is given, generation heads without typography where that is asked for, with its record and
 * a note that it was. */
ot_status ot_train_init_file(const ot_train_options *options, FILE *log, ot_error *err);

/* `otter train`: trains and writes options->out with its record. When *stop becomes nonzero (a signal handler may set
 * it) a checkpoint is written and OT_ERR_CANCELLED returned. */
ot_status ot_train_run(const ot_train_options *options, const volatile int *stop, FILE *log, ot_error *err);

/* ---- Evaluation --------------------------------------------------------------------------------------------- */

#define OT_EVAL_BINS 10
#define OT_EVAL_MAX_SOURCES 16

/* Figures of one set of labelled scores. */
typedef struct ot_eval_figures {
    uint64_t n_rows, n_positive;
    double auc, auc_low, auc_high; /* 95% interval (DeLong et al. 1988); NaN where a class is missing */
    double accuracy;               /* at 0.5 */
    double brier, log_loss;
    double ece;                    /* expected calibration error over ten bins of equal width */
    uint64_t bin_rows[OT_EVAL_BINS];
    double bin_score[OT_EVAL_BINS], bin_label[OT_EVAL_BINS]; /* means */
} ot_eval_figures;

/* Scores of texts as they are read, token by token, against a limit: what a guard at that limit would see. */
typedef struct ot_stream_figures {
    uint64_t n_harmful, n_harmless; /* rows by label (above one half, or not); prompts are harmless */
    uint64_t n_noticed;             /* harmful rows whose score passes the limit somewhere */
    double recall, false_alarms;    /* shares of the harmful and of the harmless rows that pass it */
    double read_share;              /* of the noticed: mean share of the text's tokens that had been read by then */
    uint64_t n_spans;               /* of the noticed: rows with spans */
    double before_span;             /* share of these that were noticed before their first span ended: too early, or by what leads to it */
    double after_span;              /* of the others: mean tokens from its end to the notice; 0: at once */
} ot_stream_figures;

/* Figures of one generation head on the tokens that came, each position with the text before it given. */
typedef struct ot_language_figures {
    uint32_t offset;
    uint64_t n_tokens;
    double nll;                    /* mean, natural logarithm: exp is the perplexity */
    double top1, top5;             /* share of the tokens that were the likeliest, or among the five likeliest */
} ot_language_figures;

/* Figures of a lookahead head over positions of texts, on the base's ten likeliest next tokens v of each. */
typedef struct ot_lookahead_figures {
    uint64_t n_positions;
    double score_correlation;      /* of predictions with r([x, v]): high already for who repeats r(x) */
    double change_correlation;     /* of prediction - r(x) with r([x, v]) - r(x), over all pairs */
    double within_correlation;     /* of the differences from the mean of the ten */
    double highest_of_ten, lowest_of_ten; /* how often the same token is named as the exact scores name; chance: .1 */
} ot_lookahead_figures;

typedef struct ot_eval_result {
    uint64_t n_rows, n_tokens;
    double seconds;
    bool is_labelled;              /* whole, half and sources are filled */
    ot_eval_figures whole, half;   /* half: the score after half of a text's tokens */
    uint32_t n_sources;
    char source_names[OT_EVAL_MAX_SOURCES][64];
    ot_eval_figures sources[OT_EVAL_MAX_SOURCES], source_halves[OT_EVAL_MAX_SOURCES];
    bool is_paired;
    double pair_accuracy;          /* share of pairs with r(chosen) > r(rejected); ties count half */
    double pair_margin;            /* mean of r(chosen) - r(rejected) */
    bool is_unlabelled;            /* prompts: how quiet the head is, over all positions but the first */
    double quiet_mean, quiet_p95, quiet_p99, quiet_above_half;
    bool is_streamed;              /* labelled rows and prompts */
    ot_stream_figures stream;
    bool is_language;              /* generation heads */
    uint32_t n_heads;
    ot_language_figures heads[OT_MAX_HEADS];
    bool has_base;                 /* the base's own next tokens, for comparison */
    ot_language_figures base;
    double tokens_per_pass;        /* heads with offsets 1, 2, ...: greedy decoding of these texts by a chain of drafts, if the texts
                                    * are what the base decodes greedily; 0 for others */
    bool is_lookahead;
    ot_lookahead_figures lookahead;
} ot_eval_result;

typedef struct ot_eval_options {
    char model[OT_TRAIN_PATH], head[OT_TRAIN_PATH], data[OT_TRAIN_PATH];
    char parents[OT_MAX_PARENTS][OT_TRAIN_PATH];
    uint32_t n_parents;
    char chat_template[64], only_label[16];
    uint32_t output;               /* which output of the head */
    uint32_t max_rows;             /* 0: all; else rows spread evenly over the file */
    uint32_t max_length, batch_tokens, threads;
    bool chat;                     /* labelled texts and prompts as a user's message in the chat template */
    bool allow_base_mismatch;
    double threshold;              /* the limit of ot_stream_figures */
} ot_eval_options;
void ot_eval_options_default(ot_eval_options *options);
/* `otter eval`: opens everything as a server would (quantised weights, half-precision KV) and measures. */
ot_status ot_eval_file(const ot_eval_options *options, FILE *progress, ot_eval_result *result, ot_error *err);
/* Figures from n scores in [0, 1] with labels 0 or 1 (labels above one half count as 1 for AUC and accuracy). */
ot_status ot_eval_figures_of(const float *scores, const float *labels, uint64_t n, ot_eval_figures *figures, ot_error *err);

#endif
