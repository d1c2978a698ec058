/* What `generate`, `score` and `bench` share: a model, its heads and a scheduler for one user at a terminal. */
#ifndef OTTER_CLI_SESSION_H
#define OTTER_CLI_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "config/model-spec.h"
#include "scheduler/scheduler.h"

#define OT_CLI_MAX_HEADS 16
#define OT_CLI_MAX_MODELS 8

typedef struct ot_cli_session_options {
    const char *model;
    uint32_t n_heads;
    const char *heads[OT_CLI_MAX_HEADS]; /* NAME=FILE */
    uint32_t n_models;
    struct {
        ot_head_role role;
        const char *spec;                /* as model-spec.h has it */
    } models[OT_CLI_MAX_MODELS];
    bool allow_base_mismatch;
    ot_scheduler_options scheduler;
} ot_cli_session_options;

typedef struct ot_cli_session {
    ot_model *model;
    ot_heads *heads;
    ot_scheduler *scheduler;
} ot_cli_session;

/* The value of --head, which is kept; false (and prints) if there are too many. */
bool ot_cli_add_head(ot_cli_session_options *options, const char *spec, const char *command);
/* The value of --reward-model, --expert-model or --draft-model, which is kept; false (and prints) if there are too many. */
bool ot_cli_add_model(ot_cli_session_options *options, ot_head_role role, const char *spec, const char *command);

/* Opens all three; prints what is wrong, with the command's name. Close it in any case. */
bool ot_cli_session_open(ot_cli_session *session, const ot_cli_session_options *options, const char *command);
void ot_cli_session_close(ot_cli_session *session);


/* Adds the head to the request's signals unless it is there, and takes a reference. Returns its index, or -1 (and prints). */
int ot_cli_add_signal(const ot_cli_session *session, ot_intervention *v, const char *name, const char *command);

/* What the process holds now: model, heads, workspace and the pages of texts. 0 if the system does not tell. */
uint64_t ot_cli_resident_bytes(void);

#endif
