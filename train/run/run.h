/* Inside the trainer: everything that a run of `otter train` holds. */
#ifndef OTTER_TRAIN_RUN_RUN_H
#define OTTER_TRAIN_RUN_RUN_H

#include "train/backward/adamw.h"
#include "train/data/candidates.h"
#include "train/run/checkpoint.h"
#include "train/data/epoch-plan.h"
#include "train/run/evaluate.h"
#include "train/backward/gradients.h"
#include "train/loss/language-loss.h"
#include "train/loss/lookahead-loss.h"
#include "train/loss/losses.h"
#include "train/data/text-targets.h"
#include "train/train-internal.h"

typedef struct ot_run {
    const ot_train_options *options;
    FILE *log;

    ot_model *model;
    ot_insertion *parents[OT_MAX_PARENTS];
    uint32_t n_parents;
    ot_insertion *insertion;        /* the one that learns */
    ot_engine *engine;
    ot_chat_template *chat;         /* NULL if the model has none */
    ot_insertion_spec spec;         /* what the options ask for, or --init-from's file holds */
    ot_dataset_options rows;        /* how data was read */
    ot_dataset *data;
    ot_dataset *dev;                /* the rows of periodic evaluations; NULL without --dev */
    ot_dataset *calm[OT_TRAIN_MAX_FILES];
    ot_train_loss loss;

    ot_sequence_batch *sequences;
    ot_gradients *gradients;
    const float **gradient_of;      /* (parameters) */
    ot_adamw adam;
    float *raw, *d_raw;             /* (batch_tokens, outputs); scalar heads */
    ot_language_loss *language;     /* generation heads; NULL for others */
    ot_text_targets targets;        /* of heads with a value for every token */
    ot_lookahead_loss *lookahead;   /* lookahead heads; NULL for others */
    const ot_insertion *scorer;     /* the parent that it predicts */
    ot_candidates candidates;
    int32_t *next_tokens;           /* (batch_tokens) of the texts, and their scores */
    float *next_scores;
    ot_score_target *score_targets; /* (batch_tokens + positions with candidates) */
    float *d_head_in;               /* (batch_tokens, d') the same */
    ot_language_gradients language_gradients;
    bool adds_token_matrices;       /* --init-from's heads read no tokens, and --read-tokens lets them */
    FILE *curve;                    /* NULL without --curve */
    ot_plan_options plan_options;
    ot_epoch_plan plan;
    ot_run_state state;
    double started;                 /* the clock, less what state.seconds already holds */
    double cpu_started;             /* processor time and tokens when this process began to train */
    uint64_t tokens_started;
    double last_penalty, last_norm;
    double last_figure;             /* of the last evaluation on dev: see ot_curve_figure; NaN before */
    const char *figure_name;
    double forward_seconds, loss_seconds, backward_seconds, update_seconds, eval_seconds;
} ot_run;

/* As --loss and the record name them, by ot_train_loss. */
extern const char *const ot_loss_names[4];

/* Opens everything that the options name, and initialises the insertion; ot_run_close in any case. */
ot_status ot_run_open(ot_run *run, const ot_train_options *options, FILE *log, ot_error *err);
void ot_run_close(ot_run *run);

/* ---- Generation heads (run-language.c) ---- */
ot_status ot_run_language_open(ot_run *run, ot_error *err);
/* After the forward pass of the plan's current batch: the loss and its derivatives (heads, and d_head_in). */
ot_status ot_run_language_loss(ot_run *run, const ot_batch *batch, double *loss, ot_error *err);
/* Held-out figures with the weights as they are. */
ot_status ot_run_language_evaluate(ot_run *run, ot_eval_result *result, ot_error *err);

/* ---- Lookahead heads (run-lookahead.c) ---- */
ot_status ot_run_lookahead_open(ot_run *run, ot_error *err);
void ot_run_lookahead_close(ot_run *run);
/* Puts the plan's current batch into the sequences, with room for candidates at some positions. */
void ot_run_lookahead_gather(ot_run *run);
ot_status ot_run_lookahead_loss(ot_run *run, const ot_batch *batch, double *loss, ot_error *err);
ot_status ot_run_lookahead_evaluate(ot_run *run, ot_eval_result *result, ot_error *err);

/* ---- Other types (requantize.c) ---- */
/* Writes options->init_from again as options->out with matrices of options->type, its record and a note. */
ot_status ot_requantize(const ot_train_options *options, const ot_model *model, ot_insertion **parents, uint32_t n_parents, FILE *log,
                        ot_error *err);

/* ---- The training curve (curve.c) ---- */
ot_status ot_curve_open(ot_run *run, ot_error *err);
void ot_curve_step(const ot_run *run, double lr);
void ot_curve_dev(const ot_run *run, const ot_eval_result *result);
/* The figure of an evaluation that stands for it in a line of progress, and its name. */
double ot_curve_figure(const ot_eval_result *result, const char **name);

/* What --type names ("": Q8_0); a path without its folders. */
ot_status ot_record_type(const char *name, ot_type *type, ot_error *err);
const char *ot_record_base_name(const char *path);
/* Writes options->out with the run's record (NULL: only the initialisation), and figures if not NULL. */
ot_status ot_record_write(const ot_train_options *options, ot_insertion *insertion, const ot_run *run,
                          const ot_eval_result *figures, ot_error *err);

#endif
