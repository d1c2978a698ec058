/* SIGHUP for `otter serve`: the same arguments and file are read again, into a configuration and a table of heads of their own. A head whose file and
 * parents are as they were is taken over; the others are loaded beside those that serve. Nothing here touches what serves. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/heap-limit.h"
#include "cli/serve.h"

typedef struct fresh_state {
    ot_config *config;
    ot_served_heads served;
    const char **given_up; /* names, of the old configuration */
    struct ot_fresh_head *loaded;
    int log_fd; /* -1: none */
} fresh_state;

static const ot_served_head *find(const ot_served_heads *served, const char *name)
{
    for (uint32_t i = 0; i < served->n; i++)
        if (strcmp(served->items[i].name, name) == 0)
            return &served->items[i];
    return NULL;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
           a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static bool was_loaded(const ot_server_fresh *fresh, const char *name)
{
    for (uint32_t i = 0; i < fresh->n_loaded; i++)
        if (strcmp(fresh->loaded[i].name, name) == 0)
            return true;
    return false;
}

/* The head serves, its file is as it was, and it stands on none that was loaded anew. */
static bool may_stay(const ot_serve *serve, const ot_server_fresh *fresh, const ot_config_head *wanted)
{
    const ot_served_head *old = find(&serve->served, wanted->name);
    struct stat file;
    ot_head *head = NULL;
    uint32_t output;
    ot_error ignored;
    if (!old || strcmp(old->path, wanted->path) != 0 || stat(wanted->path, &file) || !same_file(&file, &old->file) ||
        ot_heads_find(serve->heads, wanted->name, &head, &output, &ignored))
        return false;
    bool stays = true;
    const ot_insertion *insertion = ot_head_insertion(head);
    for (uint32_t i = 0; i < ot_insertion_n_parents(insertion); i++)
        stays &= !was_loaded(fresh, ot_insertion_get_info(insertion)->spec.parents[i]);
    ot_head_release(&head);
    return stays;
}

static ot_status keep(ot_served_heads *served, const ot_served_head *old, ot_error *err)
{
    ot_served_head *grown = realloc(served->items, (served->n + 1) * sizeof *grown);
    if (!grown)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory while reloading");
    served->items = grown;
    ot_served_head *copy = &grown[served->n++];
    *copy = (ot_served_head){strdup(old->name), strdup(old->path), old->file};
    return copy->name && copy->path ? OT_OK : ot_fail(err, OT_ERR_NOMEM, "out of memory while reloading");
}

static ot_status read_heads(const ot_serve *serve, ot_server_fresh *fresh, fresh_state *s, ot_error *err)
{
    ot_status status = OT_OK;
    for (uint32_t i = 0; i < s->config->n_heads && !status; i++) {
        const ot_config_head *wanted = &s->config->heads[i];
        if (may_stay(serve, fresh, wanted)) {
            status = ot_heads_share(fresh->heads, serve->heads, wanted->name, err);
            if (!status)
                status = keep(&s->served, find(&serve->served, wanted->name), err);
            continue;
        }
        ptrdiff_t before = ot_heap_of_thread();
        status = ot_serve_load_head(fresh->heads, s->config, wanted, &s->served, err);
        s->loaded[fresh->n_loaded++] = (struct ot_fresh_head){wanted->name, ot_heap_of_thread() - before};
    }
    return status;
}

/* What else is in the table goes on: separate models, and heads that were loaded over HTTP. */
static ot_status take_over_others(const ot_serve *serve, ot_server_fresh *fresh, ot_error *err)
{
    ot_head *heads[OT_STATS_MAX_HEADS] = {0};
    uint32_t n = ot_heads_list(serve->heads, heads, OT_STATS_MAX_HEADS);
    ot_status status = OT_OK;
    for (uint32_t i = 0; i < n && i < OT_STATS_MAX_HEADS; i++) {
        const char *name = ot_head_name(heads[i]);
        ot_head *known = NULL;
        uint32_t output;
        ot_error ignored;
        bool configured = find(&serve->served, name) || ot_heads_find(fresh->heads, name, &known, &output, &ignored) == OT_OK;
        if (!status && !configured)
            status = ot_heads_share(fresh->heads, serve->heads, name, err);
        ot_head_release(&known);
        ot_head_release(&heads[i]);
    }
    return status;
}

static void free_state(fresh_state *s)
{
    ot_config_close(&s->config);
    ot_served_heads_free(&s->served);
    free(s->given_up);
    free(s->loaded);
    if (s->log_fd >= 0)
        close(s->log_fd);
    free(s);
}

static ot_status read_configuration(const ot_serve *serve, fresh_state *s, ot_error *err)
{
    ot_status status = ot_config_open(&s->config, err);
    if (!status)
        status = ot_config_read_arguments(s->config, serve->argc, serve->argv, err);
    if (!status)
        status = ot_config_check(s->config, err);
    if (status)
        return status;
    s->given_up = calloc(serve->served.n + 1, sizeof *s->given_up);
    s->loaded = calloc(s->config->n_heads + 1, sizeof *s->loaded);
    return s->given_up && s->loaded ? OT_OK : ot_fail(err, OT_ERR_NOMEM, "out of memory while reloading");
}

ot_status ot_serve_reload(void *ctx, ot_server_fresh *fresh, ot_error *err)
{
    const ot_serve *serve = ctx; /* the loop changes it only in ot_serve_reloaded, after this */
    fresh_state *s = calloc(1, sizeof *s);
    if (!s)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory while reloading");
    s->log_fd = -1;
    *fresh = (ot_server_fresh){.state = s};
    ot_status status = read_configuration(serve, s, err);
    fresh->loaded = s->loaded;
    if (!status)
        status = ot_heads_open(&fresh->heads, serve->model, OT_STATS_MAX_HEADS, err);
    if (!status)
        status = read_heads(serve, fresh, s, err);
    if (!status)
        status = take_over_others(serve, fresh, err);
    if (!status)
        status = ot_serve_open_log(s->config, &s->log_fd, err);
    if (status) {
        ot_serve_reloaded(ctx, fresh, false);
        return status;
    }
    for (uint32_t i = 0; i < serve->served.n; i++) {
        const char *name = serve->served.items[i].name;
        if (!find(&s->served, name) || was_loaded(fresh, name))
            s->given_up[fresh->n_given_up++] = name;
    }
    fresh->given_up = s->given_up;
    fresh->options = &s->config->server;
    return OT_OK;
}

/* Settings that sizes or sockets were made by. */
static void tell_what_waits(const ot_config *before, const ot_config *now)
{
    static const char *const taken[] = {"api-key-file", "cors-origins", "allowed-hosts", "moderation-head", "moderation-threshold", "speculative",
                                        "access-log", "log-file", "drain-delay", "drain-timeout", "header-timeout", "idle-timeout",
                                        "receive-timeout", "send-timeout"};
    size_t at = 0;
    for (const char *name; (name = ot_config_next_change(before, now, &at));) {
        bool known = false;
        for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++)
            known |= strcmp(taken[i], name) == 0;
        if (!known)
            fprintf(stderr, "otter: %s has changed: that takes effect at the next start\n", name);
    }
}

/* On failure all of it goes; else it is what serves now, and what served before goes. */
void ot_serve_reloaded(void *ctx, ot_server_fresh *fresh, bool taken)
{
    ot_serve *serve = ctx;
    fresh_state *s = fresh->state;
    ot_heads_close(&fresh->heads);
    if (taken) {
        ot_serve_use_log(&s->log_fd);
        tell_what_waits(serve->config, s->config);
        ot_config *config = serve->config;
        serve->config = s->config;
        s->config = config;
        ot_served_heads served = serve->served;
        serve->served = s->served;
        s->served = served;
    }
    free_state(s);
}
