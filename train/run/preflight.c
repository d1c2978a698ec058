/* preflight.h */
#include "train/run/preflight.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- Files -------------------------------------------------------------------------------------------------- */

/* A file is written under another name and renamed, so that it is its folder that must be open to it. */
static ot_status check_place(const char *option, const char *path, ot_error *err)
{
    char folder[OT_TRAIN_PATH];
    struct stat info;
    if (path[0] == '\0')
        return OT_OK;
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode) && !S_ISCHR(info.st_mode))
        return ot_fail_param(err, OT_ERR_INVALID, option, "--%s: %s is no file", option, path);
    const char *slash = strrchr(path, '/');
    snprintf(folder, sizeof folder, "%.*s", slash == NULL ? 1 : slash == path ? 1 : (int)(slash - path), slash == NULL ? "." : path);
    if (access(folder, W_OK | X_OK) != 0)
        return ot_fail_param(err, OT_ERR_INVALID, option, "--%s: %s cannot be written there: %s", option, path, strerror(errno));
    return OT_OK;
}

ot_status ot_preflight_files(const ot_train_options *o, ot_error *err)
{
    ot_status st;
    if ((st = check_place("out", o->out, err)) != OT_OK || (st = check_place("checkpoint", o->checkpoint, err)) != OT_OK ||
        (st = check_place("curve", o->curve, err)) != OT_OK)
        return st;
    const bool there = o->checkpoint[0] != '\0' && access(o->checkpoint, F_OK) == 0;
    if (there && !o->resume && !o->force)
        return ot_fail_param(err, OT_ERR_INVALID, "checkpoint", "--checkpoint: %s is that of an earlier run: --resume goes on from it, --force "
                             "begins anew and writes over it", o->checkpoint);
    if (!there && o->resume)
        return ot_fail_param(err, OT_ERR_INVALID, "resume", "--resume: there is no checkpoint %s", o->checkpoint);
    return OT_OK;
}

/* ---- Rows --------------------------------------------------------------------------------------------------- */

static bool has_calm(const ot_run *run)
{
    return run->options->n_calm > 0 && run->options->calm_fraction > 0;
}

/* Whether an output has two different labels to learn from; rows that do not judge it count for nothing. */
static ot_status check_classes(const ot_run *run, uint32_t output, ot_error *err)
{
    const ot_dataset *d = run->data;
    float low = INFINITY, high = -INFINITY;
    for (uint32_t i = 0; i < d->n_rows; i++) {
        const float label = d->labels[(size_t)i * d->n_outputs + output];
        if (isnan(label))
            continue;
        low = fminf(low, label);
        high = fmaxf(high, label);
    }
    if (has_calm(run))
        low = fminf(low, 0);
    if (low < high)
        return OT_OK;
    const char *name = run->spec.labels[output];
    if (low > high)
        return ot_fail_param(err, OT_ERR_INVALID, "data", "%s: no row has a label for '%s'", run->options->data[0], name);
    return ot_fail_param(err, OT_ERR_INVALID, "data", "%s: every label of '%s' is %g: there is nothing to tell apart", run->options->data[0], name,
                         (double)low);
}

ot_status ot_preflight_rows(const ot_run *run, ot_error *err)
{
    for (uint32_t k = 0; run->loss == OT_LOSS_BCE && k < run->data->n_outputs; k++) {
        const ot_status st = check_classes(run, k, err);
        if (st != OT_OK)
            return st;
    }
    return OT_OK;
}
