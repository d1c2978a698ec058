/* The table of loaded insertions and separate models. A head is a counted reference to an open insertion that itself counts on its parents; the
 * table holds one reference to each of its own. So removing a name only takes it out of the table: the insertion closes when the last
 * request that uses it ends. A separate model stays for good: its engine and pages are part of what is opened at start. Files are opened outside the lock, since that takes a while, and the name is checked
 * again when the head is entered. */
#include "scheduler/heads-registry.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/asserts.h"

struct ot_head {
    _Atomic uint32_t refs;
    uint64_t serial;
    char name[64];
    char file[64];           /* an insertion's file, without folder and ending, cut */
    ot_head_role role;
    ot_model *model;         /* a separate model; NULL for an insertion into the base */
    ot_head *model_owner;    /* a reference to the head whose model it is; NULL: it is this one's own */
    dev_t device;            /* of the model's file, with the inode its identity */
    ino_t inode;
    ot_insertion *insertion; /* NULL for expert and draft models */
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
    if (h == NULL)
        return;
    const uint32_t refs = atomic_fetch_sub_explicit(&h->refs, 1, memory_order_acq_rel);
    OT_ASSERT(refs > 0);
    if (refs > 1)
        return;
    ot_insertion_close(&h->insertion);
    for (uint32_t i = 0; i < h->n_parents; i++)
        ot_head_release(&h->parents[i]);
    if (h->model_owner != NULL)
        ot_head_release(&h->model_owner);
    else
        ot_model_close(&h->model);
    free(h);
}

void ot_intervention_retain(const ot_intervention *v)
{
    for (uint32_t i = 0; i < v->n_signals; i++)
        ot_head_retain(v->signals[i].head);
    ot_head *others[] = {v->experts.positive, v->experts.negative, v->drafting.head};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (others[i] != NULL)
            ot_head_retain(others[i]);
}

void ot_intervention_release(ot_intervention *v)
{
    for (uint32_t i = 0; i < v->n_signals; i++)
        ot_head_release(&v->signals[i].head);
    v->n_signals = 0;
    ot_head_release(&v->experts.positive);
    ot_head_release(&v->experts.negative);
    ot_head_release(&v->drafting.head);
}

const ot_insertion *ot_head_insertion(const ot_head *head)
{
    return head->insertion;
}

ot_head_role ot_head_get_role(const ot_head *head)
{
    return head->role;
}

const ot_model *ot_head_model(const ot_head *head)
{
    return head->model;
}

uint64_t ot_head_serial(const ot_head *head)
{
    return head->serial;
}

const char *ot_head_name(const ot_head *head)
{
    return head->name;
}

const char *ot_head_file(const ot_head *head)
{
    return head->file;
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
            if (loaded[j]->role == OT_ROLE_INSERTION && loaded[j]->insertion == parent) {
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

static ot_status make(ot_head **out, const char *name, ot_head_role role, ot_error *err)
{
    *out = NULL;
    ot_status st = check_name(name, err);
    if (st != OT_OK)
        return st;
    ot_head *head = calloc(1, sizeof *head);
    if (head == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "no memory for head '%s'", name);
    atomic_init(&head->refs, 1);
    head->serial = atomic_fetch_add(&next_serial, 1);
    head->role = role;
    strcpy(head->name, name);
    *out = head;
    return OT_OK;
}

static void note_file(ot_head *head, const char *path)
{
    const char *base = strrchr(path, '/');
    base = base != NULL ? base + 1 : path;
    const char *dot = strrchr(base, '.');
    const size_t size = dot != NULL && dot != base ? (size_t)(dot - base) : strlen(base);
    snprintf(head->file, sizeof head->file, "%.*s", (int)(size < sizeof head->file ? size : sizeof head->file - 1), base);
}

/* Opens the file behind a new head, which may stand on any of the loaded ones. */
static ot_status open_insertion(const ot_heads *h, ot_head *head, const char *path, ot_head *const *loaded, uint32_t n_loaded,
                                const ot_insertion_options *options, ot_error *err)
{
    const ot_insertion *insertions[OT_STATS_MAX_HEADS];
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_loaded; i++) {
        if (strcmp(loaded[i]->name, head->name) == 0)
            return ot_fail_param(err, OT_ERR_INVALID, "name", "a head named '%s' is already loaded", head->name);
        if (loaded[i]->role == OT_ROLE_INSERTION)
            insertions[n++] = loaded[i]->insertion;
    }
    ot_status st = ot_insertion_open(&head->insertion, h->model, head->name, path, insertions, n, options, err);
    return st == OT_OK ? keep_parents(head, loaded, n_loaded, err) : st;
}

ot_status ot_heads_load(ot_heads *h, const char *name, const char *path, const ot_insertion_options *options,
                        ot_error *err)
{
    ot_head *head;
    ot_status st = make(&head, name, OT_ROLE_INSERTION, err);
    if (st != OT_OK)
        return st;
    note_file(head, path);
    ot_head *loaded[OT_STATS_MAX_HEADS];
    uint32_t n_loaded = retain_all(h, loaded);
    st = open_insertion(h, head, path, loaded, n_loaded, options, err);
    if (st == OT_OK)
        st = enter(h, head, err);
    if (st != OT_OK)
        ot_head_release(&head);
    for (uint32_t i = 0; i < n_loaded; i++)
        ot_head_release(&loaded[i]);
    return st;
}

/* ---- Separate models ------------------------------------------------------------------------------------- */

/* Token ids must mean the same to both. */
static ot_status check_vocabulary(const ot_model *base, const ot_model *model, const char *path, ot_error *err)
{
    const ot_tokenizer *a = ot_model_tokenizer(base), *b = ot_model_tokenizer(model);
    uint32_t n = ot_tokenizer_vocab_size(a), others = ot_tokenizer_vocab_size(b);
    for (uint32_t i = 0; i < n && i < others; i++) {
        ot_str x = ot_token_bytes(a, (int32_t)i), y = ot_token_bytes(b, (int32_t)i);
        if (x.size != y.size || memcmp(x.data, y.data, x.size) != 0 ||
            ot_tokenizer_is_special(a, (int32_t)i) != ot_tokenizer_is_special(b, (int32_t)i))
            return ot_fail(err, OT_ERR_MISMATCH, "%s: token %u is '%.*s', not '%.*s' as in the base: another vocabulary", path, i,
                           (int)(y.size < 40 ? y.size : 40), y.data, (int)(x.size < 40 ? x.size : 40), x.data);
    }
    if (n != others)
        return ot_fail(err, OT_ERR_MISMATCH, "%s: token %u is only in one of the vocabularies: %u tokens, the base's has %u", path,
                       n < others ? n : others, others, n);
    uint32_t rows = ot_model_get_info(base)->n_vocab, their_rows = ot_model_get_info(model)->n_vocab;
    if (rows != their_rows)
        return ot_fail(err, OT_ERR_MISMATCH, "%s: %u rows of logits, the base has %u", path, their_rows, rows);
    return OT_OK;
}

static ot_status open_reward_head(ot_head *head, const char *path, const ot_insertion_options *options, ot_error *err)
{
    if (path == NULL)
        return ot_fail_param(err, OT_ERR_INVALID, "reward-model", "reward model '%s' needs the file of its scalar head, too",
                             head->name);
    ot_status st = ot_insertion_open(&head->insertion, head->model, head->name, path, NULL, 0, options, err);
    if (st == OT_OK && ot_insertion_get_info(head->insertion)->spec.kind != OT_HEAD_SCALAR)
        return ot_fail(err, OT_ERR_MISMATCH, "%s: a reward model takes a scalar head, which this is not", path);
    return st;
}

/* Opens the model of a new head, or shares that of a head which was loaded from the same file. */
static ot_status open_model(ot_heads *h, ot_head *head, const char *path, ot_error *err)
{
    struct stat file;
    bool known = stat(path, &file) == 0; /* where it fails, opening says why */
    ot_head *loaded[OT_STATS_MAX_HEADS];
    uint32_t n_loaded = known ? retain_all(h, loaded) : 0;
    for (uint32_t i = 0; i < n_loaded; i++) {
        ot_head *other = loaded[i];
        if (head->model == NULL && other->model != NULL && other->device == file.st_dev && other->inode == file.st_ino) {
            head->model = other->model;
            head->model_owner = other->model_owner != NULL ? other->model_owner : other;
            ot_head_retain(head->model_owner);
        }
        ot_head_release(&loaded[i]);
    }
    if (known) {
        head->device = file.st_dev;
        head->inode = file.st_ino;
    }
    if (head->model != NULL)
        return OT_OK;
    ot_status st = ot_model_open(&head->model, path, err);
    return st == OT_OK ? check_vocabulary(h->model, head->model, path, err) : st;
}

ot_status ot_heads_load_model(ot_heads *h, const char *name, ot_head_role role, const char *model_path, const char *head_path,
                              const ot_insertion_options *options, ot_error *err)
{
    ot_head *head;
    ot_status st = make(&head, name, role, err);
    if (st != OT_OK)
        return st;
    st = open_model(h, head, model_path, err);
    if (st == OT_OK && role == OT_ROLE_REWARD_MODEL)
        st = open_reward_head(head, head_path, options, err);
    if (st == OT_OK)
        st = enter(h, head, err);
    if (st != OT_OK)
        ot_head_release(&head);
    return st;
}

ot_status ot_heads_unload(ot_heads *h, const char *name, ot_error *err)
{
    pthread_mutex_lock(&h->lock);
    ot_head *head = find_locked(h, name, strlen(name));
    if (head != NULL && head->role != OT_ROLE_INSERTION) {
        pthread_mutex_unlock(&h->lock);
        return ot_fail_param(err, OT_ERR_UNSUPPORTED, "name", "'%.60s' is a separate model: it is loaded at start and stays", name);
    }
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

/* ---- Exchanging the table -------------------------------------------------------------------------------- */

ot_status ot_heads_share(ot_heads *to, ot_heads *from, const char *name, ot_error *err)
{
    pthread_mutex_lock(&from->lock);
    ot_head *head = find_locked(from, name, strlen(name));
    if (head != NULL)
        ot_head_retain(head);
    pthread_mutex_unlock(&from->lock);
    ot_status st = head != NULL ? enter(to, head, err) : ot_fail_param(err, OT_ERR_NOT_FOUND, "name", "no head named '%.60s' is loaded", name);
    if (st != OT_OK)
        ot_head_release(&head);
    return st;
}

static bool is_among(const char *name, const char *const *names, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return false;
}

ot_status ot_heads_replace(ot_heads *h, ot_heads *next, const char *const *given_up, uint32_t n_given_up, ot_error *err)
{
    ot_head *merged[2 * OT_STATS_MAX_HEADS], *left[OT_STATS_MAX_HEADS];
    uint32_t n = next->n, n_left = 0;
    memcpy(merged, next->table, n * sizeof merged[0]);
    pthread_mutex_lock(&h->lock);
    for (uint32_t i = 0; i < h->n; i++) {
        ot_head *head = h->table[i];
        if (find_locked(next, head->name, strlen(head->name)) != NULL || is_among(head->name, given_up, n_given_up))
            left[n_left++] = head;
        else
            merged[n++] = head; /* loaded meanwhile */
    }
    bool fits = n <= h->max;
    if (fits) {
        memcpy(h->table, merged, n * sizeof merged[0]);
        h->n = n;
        next->n = 0; /* its references are h's now */
    }
    pthread_mutex_unlock(&h->lock);
    for (uint32_t i = 0; fits && i < n_left; i++)
        ot_head_release(&left[i]);
    return fits ? OT_OK : ot_fail(err, OT_ERR_FULL, "%u heads, with those that were loaded meanwhile; there is room for %u", n, h->max);
}

/* ---- Finding --------------------------------------------------------------------------------------------- */

static bool find_label(const ot_insertion *insertion, const char *label, uint32_t *output)
{
    if (insertion == NULL)
        return false;
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
