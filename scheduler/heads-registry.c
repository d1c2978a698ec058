/* The table of loaded insertions. A head is a counted reference to an open insertion that itself counts on its parents; the
 * table holds one reference to each of its own. So removing a name only takes it out of the table: the insertion closes when the last
 * request that uses it ends. Files are opened outside the lock, since that takes a while, and the name is checked
 * again when the head is entered. */
#include "scheduler/heads-registry.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct ot_head {
    _Atomic uint32_t refs;
    uint64_t serial;
    char name[64];
    ot_insertion *insertion;
    uint32_t n_parents;
    ot_head *parents[OT_MAX_PARENTS];
};

struct ot_heads {
    pthread_mutex_t lock; /* of the table; heads themselves are immutable */
    const ot_model *model;
    uint32_t max, n;
    ot_head *table[];     /* (max) in order of loading */
};

static _Atomic uint64_t next_serial = 1;

ot_status ot_heads_open(ot_heads **out, const ot_model *model, uint32_t max_heads, ot_error *err)
{
    *out = NULL;
    if (max_heads == 0 || max_heads > OT_STATS_MAX_HEADS)
        return ot_fail(err, OT_ERR_INVALID, "room for %u heads; 1 to %d can be had", max_heads, OT_STATS_MAX_HEADS);
    ot_heads *h = calloc(1, sizeof *h + max_heads * sizeof h->table[0]);
    if (h == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "no memory for the table of heads");
    pthread_mutex_init(&h->lock, NULL);
    h->model = model;
    h->max = max_heads;
    *out = h;
    return OT_OK;
}

void ot_heads_close(ot_heads **heads)
{
    ot_heads *h = *heads;
    if (h == NULL)
        return;
    while (h->n > 0)
        ot_head_release(&h->table[--h->n]);
    pthread_mutex_destroy(&h->lock);
    free(h);
    *heads = NULL;
}

void ot_head_retain(ot_head *head)
{
    atomic_fetch_add_explicit(&head->refs, 1, memory_order_relaxed);
}

void ot_head_release(ot_head **head)
{
    ot_head *h = *head;
    *head = NULL;
    if (h == NULL || atomic_fetch_sub_explicit(&h->refs, 1, memory_order_acq_rel) > 1)
        return;
    ot_insertion_close(&h->insertion);
    for (uint32_t i = 0; i < h->n_parents; i++)
        ot_head_release(&h->parents[i]);
    free(h);
}

const ot_insertion *ot_head_insertion(const ot_head *head)
{
    return head->insertion;
}

uint64_t ot_head_serial(const ot_head *head)
{
    return head->serial;
}

const char *ot_head_name(const ot_head *head)
{
    return head->name;
}

uint32_t ot_head_n_parents(const ot_head *head)
{
    return head->n_parents;
}

const ot_head *ot_head_parent(const ot_head *head, uint32_t i)
{
    return head->parents[i];
}

uint32_t ot_heads_max(const ot_heads *heads)
{
    return heads->max;
}

/* ---- Loading --------------------------------------------------------------------------------------------- */

static ot_head *find_locked(const ot_heads *h, const char *name, size_t size)
{
    for (uint32_t i = 0; i < h->n; i++)
        if (strlen(h->table[i]->name) == size && memcmp(h->table[i]->name, name, size) == 0)
            return h->table[i];
    return NULL;
}

static ot_status check_name(const char *name, ot_error *err)
{
    size_t size = strlen(name);
    if (size == 0 || size >= sizeof((ot_head *)0)->name)
        return ot_fail_param(err, OT_ERR_INVALID, "name", "a head's name has 1 to %zu bytes, not %zu",
                             sizeof((ot_head *)0)->name - 1, size);
    if (strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-") != size)
        return ot_fail_param(err, OT_ERR_INVALID, "name",
                             "a head's name is made of letters, digits, '_', '.' and '-', unlike '%.60s'", name);
    return OT_OK;
}

/* References to all heads, so that none of them closes while a file that may stand on them is opened. */
static uint32_t retain_all(ot_heads *h, ot_head *out[OT_STATS_MAX_HEADS])
{
    pthread_mutex_lock(&h->lock);
    uint32_t n = h->n;
    for (uint32_t i = 0; i < n; i++) {
        ot_head_retain(h->table[i]);
        out[i] = h->table[i];
    }
    pthread_mutex_unlock(&h->lock);
    return n;
}

/* Keeps references to the loaded heads that the new one stands on. */
static ot_status keep_parents(ot_head *head, ot_head *const *loaded, uint32_t n_loaded, ot_error *err)
{
    uint32_t n = ot_insertion_n_parents(head->insertion);
    for (uint32_t i = 0; i < n && i < OT_MAX_PARENTS; i++) {
        const ot_insertion *parent = ot_insertion_parent(head->insertion, i);
        for (uint32_t j = 0; j < n_loaded; j++)
            if (loaded[j]->insertion == parent) {
                ot_head_retain(loaded[j]);
                head->parents[head->n_parents++] = loaded[j];
                break;
            }
        if (head->n_parents != i + 1)
            return ot_fail(err, OT_ERR_MISMATCH, "%s stands on an insertion that is not loaded", head->name);
    }
    return OT_OK;
}

static ot_status enter(ot_heads *h, ot_head *head, ot_error *err)
{
    ot_status st = OT_OK;
    pthread_mutex_lock(&h->lock);
    if (find_locked(h, head->name, strlen(head->name)) != NULL)
        st = ot_fail_param(err, OT_ERR_INVALID, "name", "a head named '%s' is already loaded", head->name);
    else if (h->n == h->max)
        st = ot_fail(err, OT_ERR_FULL, "%u heads are loaded, which is the most there is room for", h->n);
    else
        h->table[h->n++] = head;
    pthread_mutex_unlock(&h->lock);
    return st;
}

ot_status ot_heads_load(ot_heads *h, const char *name, const char *path, const ot_insertion_options *options,
                        ot_error *err)
{
    ot_status st = check_name(name, err);
    if (st != OT_OK)
        return st;
    ot_head *loaded[OT_STATS_MAX_HEADS];
    const ot_insertion *insertions[OT_STATS_MAX_HEADS];
    uint32_t n_loaded = retain_all(h, loaded);
    for (uint32_t i = 0; i < n_loaded; i++) {
        insertions[i] = loaded[i]->insertion;
        if (strcmp(loaded[i]->name, name) == 0)
            st = ot_fail_param(err, OT_ERR_INVALID, "name", "a head named '%s' is already loaded", name);
    }
    ot_head *head = st == OT_OK ? calloc(1, sizeof *head) : NULL;
    if (head != NULL) {
        atomic_init(&head->refs, 1);
        head->serial = atomic_fetch_add(&next_serial, 1);
        strcpy(head->name, name);
        st = ot_insertion_open(&head->insertion, h->model, name, path, insertions, n_loaded, options, err);
        if (st == OT_OK)
            st = keep_parents(head, loaded, n_loaded, err);
        if (st == OT_OK)
            st = enter(h, head, err);
        if (st != OT_OK)
            ot_head_release(&head);
    } else if (st == OT_OK) {
        st = ot_fail(err, OT_ERR_NOMEM, "no memory for head '%s'", name);
    }
    for (uint32_t i = 0; i < n_loaded; i++)
        ot_head_release(&loaded[i]);
    return st;
}

ot_status ot_heads_unload(ot_heads *h, const char *name, ot_error *err)
{
    pthread_mutex_lock(&h->lock);
    ot_head *head = find_locked(h, name, strlen(name));
    for (uint32_t i = 0, kept = 0; head != NULL && i < h->n; i++)
        if (h->table[i] != head)
            h->table[kept++] = h->table[i];
    if (head != NULL)
        h->n--;
    pthread_mutex_unlock(&h->lock);
    if (head == NULL)
        return ot_fail_param(err, OT_ERR_NOT_FOUND, "name", "no head named '%.60s' is loaded", name);
    ot_head_release(&head); /* outside the lock: it may be the last */
    return OT_OK;
}

/* ---- Finding --------------------------------------------------------------------------------------------- */

static bool find_label(const ot_insertion *insertion, const char *label, uint32_t *output)
{
    const ot_insertion_spec *spec = &ot_insertion_get_info(insertion)->spec;
    for (uint32_t i = 0; i < spec->n_outputs && i < OT_MAX_HEADS; i++)
        if (strcmp(spec->labels[i], label) == 0) {
            *output = i;
            return true;
        }
    return false;
}

ot_status ot_heads_find(ot_heads *h, const char *name, ot_head **head, uint32_t *output, ot_error *err)
{
    *head = NULL;
    *output = 0;
    const char *slash = strchr(name, '/');
    size_t size = slash != NULL ? (size_t)(slash - name) : strlen(name);
    pthread_mutex_lock(&h->lock);
    ot_head *found = find_locked(h, name, size);
    if (found != NULL)
        ot_head_retain(found);
    pthread_mutex_unlock(&h->lock);
    if (found == NULL)
        return ot_fail(err, OT_ERR_NOT_FOUND, "no head named '%.*s' is loaded", (int)(size < 60 ? size : 60), name);
    if (slash != NULL && !find_label(found->insertion, slash + 1, output)) {
        ot_fail(err, OT_ERR_NOT_FOUND, "head '%s' has no output labelled '%.60s'", found->name, slash + 1);
        ot_head_release(&found);
        return OT_ERR_NOT_FOUND;
    }
    *head = found;
    return OT_OK;
}

uint32_t ot_heads_list(ot_heads *h, ot_head **out, uint32_t max)
{
    pthread_mutex_lock(&h->lock);
    uint32_t n = h->n;
    for (uint32_t i = 0; i < n && i < max; i++) {
        ot_head_retain(h->table[i]);
        out[i] = h->table[i];
    }
    pthread_mutex_unlock(&h->lock);
    return n;
}
