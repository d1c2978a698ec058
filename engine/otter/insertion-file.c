/* Opening an insertion file: the keys of api.md checked against the base, then the tensors. */
#include "gguf/gguf-errors.h"
#include "engine/otter/insertion.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct reader {
    const ot_gguf *gguf;
    const char *path;
    ot_error *err;
} reader;

static ot_status get_u32(const reader *r, const char *key, uint32_t *out)
{
    const ot_status st = ot_gguf_get_u32(r->gguf, key, out, r->err);
    return st == OT_ERR_NOT_FOUND ? ot_fail_param(r->err, OT_ERR_FORMAT, key, "%s: key '%s' is missing", r->path, key) : st;
}

static ot_status get_text(const reader *r, const char *key, char *dst, size_t size)
{
    ot_str s;
    const ot_status st = ot_gguf_get_str(r->gguf, key, &s, r->err);
    if (st == OT_ERR_NOT_FOUND)
        return ot_fail_param(r->err, OT_ERR_FORMAT, key, "%s: key '%s' is missing", r->path, key);
    if (st != OT_OK)
        return st;
    if (s.size >= size || memchr(s.data, '\0', s.size) != NULL)
        return ot_gguf_fail_key(r->gguf, OT_ERR_FORMAT, key, r->err, "longer than %zu bytes, or it holds a zero", size - 1);
    memcpy(dst, s.data, s.size);
    dst[s.size] = '\0';
    return OT_OK;
}

/* The index of a key's text among n choices. */
static ot_status get_choice(const reader *r, const char *key, const char *const *choices, int n, int *out)
{
    char text[64];
    const ot_status st = get_text(r, key, text, sizeof text);
    if (st != OT_OK)
        return st;
    for (int i = 0; i < n; i++)
        if (strcmp(text, choices[i]) == 0) {
            *out = i;
            return OT_OK;
        }
    return ot_gguf_fail_key(r->gguf, OT_ERR_FORMAT, key, r->err, "'%s' is not known", text);
}

static ot_status check_base(const reader *r, const ot_model_info *base, bool allow_mismatch)
{
    const struct { const char *key; uint32_t want; } sizes[] = {
        {"otter.base.embedding_length", base->n_embd},
        {"otter.base.block_count", base->n_layers},
        {"otter.base.vocab_size", base->n_vocab},
    };
    char text[128];
    uint32_t version, value;
    ot_status st;
    if ((st = get_text(r, "general.architecture", text, sizeof text)) != OT_OK)
        return st;
    if (strcmp(text, "otter") != 0)
        return ot_gguf_fail_key(r->gguf, OT_ERR_FORMAT, "general.architecture", r->err, "'%s': not an insertion file", text);
    if ((st = get_u32(r, "otter.version", &version)) != OT_OK)
        return st;
    if (version != 1)
        return ot_gguf_fail_key(r->gguf, OT_ERR_UNSUPPORTED, "otter.version", r->err, "%u, this build reads 1", version);
    if ((st = get_text(r, "otter.base.architecture", text, sizeof text)) != OT_OK)
        return st;
    if (strcmp(text, base->architecture) != 0)
        return ot_gguf_fail_key(r->gguf, OT_ERR_MISMATCH, "otter.base.architecture", r->err,
                                "made for architecture '%s', the base model is '%s'", text, base->architecture);
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        if ((st = get_u32(r, sizes[k].key, &value)) != OT_OK)
            return st;
        if (value != sizes[k].want)
            return ot_gguf_fail_key(r->gguf, OT_ERR_MISMATCH, sizes[k].key, r->err, "%u, the base model has %u", value,
                                    sizes[k].want);
    }
    if ((st = get_text(r, "otter.base.fingerprint", text, sizeof text)) != OT_OK)
        return st;
    if (!allow_mismatch && strcmp(text, base->fingerprint) != 0)
        return ot_gguf_fail_key(r->gguf, OT_ERR_MISMATCH, "otter.base.fingerprint", r->err,
                                "trained on a base with fingerprint %.16s..., this one has %.16s... "
                                "(--allow-base-mismatch loads it all the same)", text, base->fingerprint);
    return OT_OK;
}

static ot_status get_str_array(const reader *r, const char *key, uint32_t max, char (*dst)[64], uint32_t *n)
{
    ot_gguf_array a;
    *n = 0;
    const ot_status st = ot_gguf_get_array(r->gguf, key, &a, r->err);
    if (st == OT_ERR_NOT_FOUND)
        return OT_OK;
    if (st != OT_OK)
        return st;
    if ((a.type != OT_GGUF_STRING && a.count > 0) || a.count > max)
        return ot_gguf_fail_key(r->gguf, OT_ERR_FORMAT, key, r->err, "not an array of at most %u strings", max);
    for (uint64_t i = 0; i < a.count; i++) {
        const ot_str s = ot_gguf_array_str(&a, i);
        if (s.size == 0 || s.size >= 64 || memchr(s.data, '\0', s.size) != NULL)
            return ot_gguf_fail_entry(&a, i, key, r->err, "not a text of 1 to 63 bytes");
        memcpy(dst[i], s.data, s.size);
        dst[i][s.size] = '\0';
    }
    *n = (uint32_t)a.count;
    return OT_OK;
}

static ot_status get_offsets(const reader *r, ot_insertion_spec *s)
{
    static const char key[] = "otter.head.offsets";
    ot_gguf_array a;
    const ot_status st = ot_gguf_get_array(r->gguf, key, &a, r->err);
    if (st == OT_ERR_NOT_FOUND && s->kind == OT_HEAD_GENERATION)
        return ot_fail_param(r->err, OT_ERR_FORMAT, key, "%s: key '%s' is missing", r->path, key);
    if (st == OT_ERR_NOT_FOUND)
        return OT_OK;
    if (st != OT_OK)
        return st;
    if (a.type == OT_GGUF_STRING || a.type == OT_GGUF_BOOL || a.type == OT_GGUF_F32 || a.type == OT_GGUF_F64)
        return ot_gguf_fail_key(r->gguf, OT_ERR_FORMAT, key, r->err, "not an array of integers");
    if (a.count != s->n_outputs || a.count > OT_MAX_HEADS)
        return ot_gguf_fail_key(r->gguf, OT_ERR_FORMAT, key, r->err, "%llu entries for %u outputs", (unsigned long long)a.count,
                                s->n_outputs);
    for (uint32_t i = 0; i < s->n_outputs; i++) {
        const int64_t offset = ot_gguf_array_int(&a, i);
        if (offset < 0 || offset > UINT32_MAX)
            return ot_gguf_fail_key(r->gguf, OT_ERR_FORMAT, key, r->err, "entry %u, %lld, is out of range", i, (long long)offset);
        s->offsets[i] = (uint32_t)offset;
    }
    return OT_OK;
}

static ot_status read_spec(const reader *r, ot_insertion_spec *s)
{
    uint32_t n_labels;
    int kind = 0, input = 0, activation = 0;
    ot_status st;
    if ((st = get_u32(r, "otter.embedding_length", &s->n_embd)) != OT_OK ||
        (st = get_u32(r, "otter.feed_forward_length", &s->n_ff)) != OT_OK ||
        (st = get_u32(r, "otter.attention.head_count", &s->n_heads)) != OT_OK ||
        (st = get_u32(r, "otter.attention.head_count_kv", &s->n_kv_heads)) != OT_OK ||
        (st = get_choice(r, "otter.head.kind", ot_head_kind_names, 3, &kind)) != OT_OK ||
        (st = get_choice(r, "otter.head.input", ot_head_input_names, 2, &input)) != OT_OK ||
        (st = get_choice(r, "otter.head.activation", ot_activation_names, 4, &activation)) != OT_OK ||
        (st = get_u32(r, "otter.head.count", &s->n_outputs)) != OT_OK ||
        (st = get_str_array(r, "otter.parents", OT_MAX_PARENTS, s->parents, &s->n_parents)) != OT_OK ||
        (st = get_str_array(r, "otter.head.labels", OT_MAX_HEADS, s->labels, &n_labels)) != OT_OK)
        return st;
    ot_error why = {0};
    st = ot_gguf_get_bool(r->gguf, "otter.head.reads_tokens", &s->reads_tokens, &why);
    if (st != OT_OK && st != OT_ERR_NOT_FOUND)
        return ot_fail_param(r->err, st, "otter.head.reads_tokens", "%s", why.message);
    s->kind = (ot_head_kind)kind;
    s->input = (ot_head_input)input;
    s->activation = (ot_activation)activation;
    if (n_labels != 0 && n_labels != s->n_outputs)
        return ot_gguf_fail_key(r->gguf, OT_ERR_FORMAT, "otter.head.labels", r->err, "%u entries for %u outputs", n_labels,
                                s->n_outputs);
    return get_offsets(r, s);
}

static ot_status find_parents(ot_insertion *x, const ot_insertion *const *loaded, uint32_t n_loaded, ot_error *err)
{
    const ot_insertion_spec *s = &x->info.spec;
    for (uint32_t p = 0; p < s->n_parents; p++) {
        const ot_insertion *found = NULL;
        for (uint32_t i = 0; i < n_loaded; i++)
            if (strcmp(loaded[i]->info.spec.name, s->parents[p]) == 0)
                found = loaded[i];
        if (found == NULL)
            return ot_fail_param(err, OT_ERR_NOT_FOUND, "otter.parents",
                                 "insertion '%s' is stacked on '%s', which is not loaded: load that one first", s->name,
                                 s->parents[p]);
        /* A parent's own parents must come before it in the list, so that the concatenation is the one it was trained in. */
        for (uint32_t g = 0; g < found->n_parents; g++)
            if (g >= p || x->parents[g] != found->parents[g])
                return ot_fail_param(err, OT_ERR_MISMATCH, "otter.parents",
                                     "insertion '%s': the parents of '%s' must stand before it", s->name, s->parents[p]);
        x->parents[p] = found;
        x->n_parents = p + 1;
    }
    return OT_OK;
}

/* What is wrong with a spec says which key it is, but not where that stands. */
static ot_status check_spec(const reader *r, ot_insertion *x, const ot_insertion *const *loaded, uint32_t n_loaded)
{
    ot_error why = {0};
    ot_status st = find_parents(x, loaded, n_loaded, &why);
    if (st == OT_OK)
        st = ot_insertion_prepare(x, &why);
    if (st == OT_OK)
        return OT_OK;
    return why.param[0] != '\0' ? ot_gguf_fail_key(r->gguf, st, why.param, r->err, "%s", why.message)
                                : ot_fail(r->err, st, "%s: %s", r->path, why.message);
}

static ot_status load_slot(void *arg, const ot_slot *slot, ot_error *err)
{
    const ot_insertion *x = arg;
    return ot_slot_load(x->gguf, slot, err);
}

static ot_status read_training(ot_insertion *x, ot_error *err)
{
    static const char prefix[] = "otter.training.";
    const uint64_t n_keys = ot_gguf_key_count(x->gguf);
    uint32_t n = 0;
    ot_gguf_type type;
    for (uint64_t i = 0; i < n_keys; i++) {
        const ot_str key = ot_gguf_key_name(x->gguf, i, &type);
        n += key.size > sizeof prefix - 1 && memcmp(key.data, prefix, sizeof prefix - 1) == 0;
    }
    x->training = ot_alloc(n ? 2 * (size_t)n : 1, sizeof *x->training);
    if (x->training == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory");
    x->info.n_training = n;
    uint32_t at = 0;
    for (uint64_t i = 0; i < n_keys; i++) {
        const ot_str key = ot_gguf_key_name(x->gguf, i, &type);
        if (key.size <= sizeof prefix - 1 || memcmp(key.data, prefix, sizeof prefix - 1) != 0)
            continue;
        char value[1024];
        ot_gguf_key_text(x->gguf, i, value, sizeof value);
        x->training[at] = strndup(key.data + sizeof prefix - 1, key.size - (sizeof prefix - 1));
        x->training[n + at] = strdup(value);
        if (x->training[at] == NULL || x->training[n + at] == NULL)
            return ot_fail(err, OT_ERR_NOMEM, "out of memory");
        at++;
    }
    x->info.training_keys = (const char *const *)x->training;
    x->info.training_values = (const char *const *)(x->training + n);
    return OT_OK;
}

static ot_status open_file(ot_insertion *x, const char *path, const ot_insertion *const *loaded, uint32_t n_loaded,
                           const ot_insertion_options *options, bool builds_tables, ot_error *err)
{
    ot_status st;
    if ((st = ot_gguf_open(&x->gguf, path, err)) != OT_OK)
        return st;
    const reader r = {x->gguf, path, err};
    if ((st = check_base(&r, &x->base->info, options != NULL && options->allow_base_mismatch)) != OT_OK ||
        (st = read_spec(&r, &x->info.spec)) != OT_OK || (st = check_spec(&r, x, loaded, n_loaded)) != OT_OK ||
        (st = ot_insertion_walk(x, load_slot, x, err)) != OT_OK ||
        (builds_tables && (st = ot_head_tables_build(x, options != NULL ? options->n_threads : 0, err)) != OT_OK) || (st = read_training(x, err)) != OT_OK)
        return st;
    ot_insertion_finish(x);
    ot_gguf_drop_pages(x->gguf);
    return ot_gguf_check(x->gguf, err);
}

ot_status ot_insertion_open_file(ot_insertion **out, const ot_model *base, const char *name, const char *path,
                                 const ot_insertion *const *loaded, uint32_t n_loaded, const ot_insertion_options *options,
                                 bool builds_tables, ot_error *err)
{
    *out = NULL;
    ot_insertion *x = ot_alloc(1, sizeof *x);
    if (x == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory");
    x->base = base;
    snprintf(x->info.path, sizeof x->info.path, "%s", path);
    ot_status st = OT_OK;
    if (name[0] == '\0' || strlen(name) >= sizeof x->info.spec.name)
        st = ot_fail_param(err, OT_ERR_INVALID, "name", "a head's name has 1 to %zu bytes", sizeof x->info.spec.name - 1);
    snprintf(x->info.spec.name, sizeof x->info.spec.name, "%s", name);
    if (st == OT_OK)
        st = open_file(x, path, loaded, n_loaded, options, builds_tables, err);
    if (st != OT_OK) {
        ot_insertion_close(&x);
        return st;
    }
    *out = x;
    return OT_OK;
}

ot_status ot_insertion_open(ot_insertion **out, const ot_model *base, const char *name, const char *path,
                            const ot_insertion *const *loaded, uint32_t n_loaded, const ot_insertion_options *options,
                            ot_error *err)
{
    return ot_insertion_open_file(out, base, name, path, loaded, n_loaded, options, true, err);
}
