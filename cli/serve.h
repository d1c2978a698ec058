/* Inside `otter serve`: what was loaded under which name, and reading the configuration again. */
#ifndef OTTER_CLI_SERVE_H
#define OTTER_CLI_SERVE_H

#include <sys/stat.h>

#include "config/config.h"
#include "engine/engine.h"
#include "scheduler/scheduler.h"

/* A head of the configuration and the file that it came from, so that a reload reads only what has changed. */
typedef struct ot_served_head {
    char *name, *path;
    struct stat file;
} ot_served_head;

typedef struct ot_served_heads {
    uint32_t n;
    ot_served_head *items; /* (n), in order of loading */
} ot_served_heads;

typedef struct ot_serve {
    int argc;
    char **argv;       /* of the subcommand, to be read again */
    ot_config *config; /* that serves */
    ot_served_heads served;
    const ot_model *model;
    ot_heads *heads;
} ot_serve;

/* Loads a head of the configuration, says so, and remembers its file. */
ot_status ot_serve_load_head(ot_heads *heads, const ot_config *config, const ot_config_head *head, ot_served_heads *served, ot_error *err);
void ot_served_heads_free(ot_served_heads *served);
/* Opens --log-file; *fd is -1 without one. */
ot_status ot_serve_open_log(const ot_config *config, int *fd, ot_error *err);
/* From now on standard error goes there; takes the descriptor over. */
void ot_serve_use_log(int *fd);

/* For ot_server_options (serve-reload.c); ctx is the ot_serve. */
ot_status ot_serve_reload(void *ctx, ot_server_fresh *fresh, ot_error *err);
void ot_serve_reloaded(void *ctx, ot_server_fresh *fresh, bool taken);

#endif
