/* A model, its heads and a scheduler for one user at a terminal. */
#include "cli/session.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool load_head(ot_cli_session *s, const char *spec, const ot_insertion_options *options, const char *command)
{
    const char *sep = strchr(spec, '=');
    char name[64];
    if (sep == NULL || sep == spec || (size_t)(sep - spec) >= sizeof name) {
        fprintf(stderr, "otter %s: --head takes NAME=FILE, not '%s'\n", command, spec);
        return false;
    }
    snprintf(name, sizeof name, "%.*s", (int)(sep - spec), spec);
    ot_error err;
    if (ot_heads_load(s->heads, name, sep + 1, options, &err) == OT_OK)
        return true;
    fprintf(stderr, "otter %s: %s\n", command, err.message);
    return false;
}

bool ot_cli_add_head(ot_cli_session_options *o, const char *spec, const char *command)
{
    if (o->n_heads == OT_CLI_MAX_HEADS) {
        fprintf(stderr, "otter %s: more than %d heads\n", command, OT_CLI_MAX_HEADS);
        return false;
    }
    o->heads[o->n_heads++] = spec;
    return true;
}

bool ot_cli_add_model(ot_cli_session_options *o, ot_head_role role, const char *spec, const char *command)
{
    if (o->n_models == OT_CLI_MAX_MODELS) {
        fprintf(stderr, "otter %s: more than %d separate models\n", command, OT_CLI_MAX_MODELS);
        return false;
    }
    o->models[o->n_models].role = role;
    o->models[o->n_models++].spec = spec;
    return true;
}

static bool load_model(ot_cli_session *s, ot_head_role role, const char *text, const ot_insertion_options *options,
                       const char *command)
{
    ot_model_spec spec;
    ot_error err;
    ot_status st = ot_model_spec_parse(&spec, role, text, &err);
    if (st == OT_OK)
        st = ot_model_spec_load(&spec, s->heads, options, &err);
    ot_model_spec_close(&spec);
    if (st != OT_OK)
        fprintf(stderr, "otter %s: %s\n", command, err.message);
    return st == OT_OK;
}

bool ot_cli_session_open(ot_cli_session *s, const ot_cli_session_options *o, const char *command)
{
    memset(s, 0, sizeof *s);
    ot_error err;
    ot_status st = ot_model_open(&s->model, o->model, &err);
    if (st == OT_OK)
        st = ot_heads_open(&s->heads, s->model, OT_CLI_MAX_HEADS + OT_CLI_MAX_MODELS, &err);
    if (st != OT_OK) {
        fprintf(stderr, "otter %s: %s\n", command, err.message);
        return false;
    }
    const ot_insertion_options how = {.allow_base_mismatch = o->allow_base_mismatch, .n_threads = o->scheduler.n_threads};
    for (uint32_t i = 0; i < o->n_heads; i++)
        if (!load_head(s, o->heads[i], &how, command))
            return false;
    for (uint32_t i = 0; i < o->n_models; i++)
        if (!load_model(s, o->models[i].role, o->models[i].spec, &how, command))
            return false;
    if (ot_scheduler_open(&s->scheduler, s->model, s->heads, &o->scheduler, &err) == OT_OK)
        return true;
    fprintf(stderr, "otter %s: %s\n", command, err.message);
    return false;
}

void ot_cli_session_close(ot_cli_session *s)
{
    ot_scheduler_close(&s->scheduler);
    ot_heads_close(&s->heads);
    ot_model_close(&s->model);
}

int ot_cli_add_signal(const ot_cli_session *s, ot_intervention *v, const char *name, const char *command)
{
    for (uint32_t i = 0; i < v->n_signals; i++)
        if (strcmp(v->signals[i].name, name) == 0)
            return (int)i;
    ot_error err;
    if (v->n_signals == OT_MAX_SIGNALS || strlen(name) >= sizeof v->signals[0].name) {
        fprintf(stderr, "otter %s: %d signals at most, with names of less than %zu bytes\n", command, OT_MAX_SIGNALS,
                sizeof v->signals[0].name);
        return -1;
    }
    const uint32_t i = v->n_signals;
    if (ot_heads_find(s->heads, name, &v->signals[i].head, &v->signals[i].output, &err) != OT_OK) {
        fprintf(stderr, "otter %s: %s\n", command, err.message);
        return -1;
    }
    strcpy(v->signals[i].name, name);
    v->signals[i].weight = 0;
    return (int)v->n_signals++;
}

uint64_t ot_cli_resident_bytes(void)
{
    unsigned long long pages = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f == NULL)
        return 0;
    if (fscanf(f, "%llu %llu", &pages, &resident) != 2)
        resident = 0;
    fclose(f);
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}
