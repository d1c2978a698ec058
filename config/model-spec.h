/* A separate model as a flag or a line of the file names it:
 *     reward model   NAME=MODEL.gguf,HEAD.gguf   the head is a scalar insertion that was made for that model
 *     expert model   NAME=MODEL.gguf
 *     draft model    MODEL.gguf                  its name is "model" */
#ifndef OTTER_CONFIG_MODEL_SPEC_H
#define OTTER_CONFIG_MODEL_SPEC_H

#include "scheduler/scheduler.h"

typedef struct ot_model_spec {
    ot_head_role role;
    char *text;            /* owned; the others point into it, or are constant */
    const char *name, *model_path;
    const char *head_path; /* NULL but for a reward model */
} ot_model_spec;

#define OT_DRAFT_MODEL_NAME "model"

/* Copies the text. err->param is the flag's name. Closing takes a spec that failed. */
ot_status ot_model_spec_parse(ot_model_spec *out, ot_head_role role, const char *text, ot_error *err);
void ot_model_spec_close(ot_model_spec *spec);
ot_status ot_model_spec_load(const ot_model_spec *spec, ot_heads *heads, const ot_insertion_options *options, ot_error *err);

#endif
