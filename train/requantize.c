/* `otter init --init-from`: an insertion that exists, written again with matrices of another type, and of a scalar one on demand with
 * another activation: identity makes a sigmoid head's score its logit, which goes on telling texts apart where the sigmoid is near 0 or
 * 1; generation heads may lose their taste in typography. Everything else is kept: sizes, name, parents, and the training record as it was, held-out figures included. A key otter.training.requantized says what was done, so that
 * nobody takes these figures for measurements of the new file; doing it again adds to the key. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "train/run/run.h"
#include "train/train-internal.h"

#define NOTE_KEY "otter.training.requantized"
#define NEUTRAL_KEY "otter.training.neutral_typography"

/* A text of the source as a C string. */
static ot_status copy_text(const ot_gguf *source, ot_gguf_writer *w, const char *key, ot_error *err)
{
    ot_str value;
    ot_status st = ot_gguf_get_str(source, key, &value, err);
    char *text = st == OT_OK ? strndup(value.data, value.size) : NULL;
    if (st == OT_OK)
        st = text == NULL ? OT_ERR_NOMEM : ot_gguf_put_str(w, key, text);
    free(text);
    return st;
}

/* One key of the record. What otter does not write there is kept as text. */
static ot_status copy_key(const ot_gguf *source, uint64_t i, const char *key, ot_gguf_type type, ot_gguf_writer *w, ot_error *err)
{
    char text[1024];
    uint32_t count;
    ot_status st;
    switch (type) {
    case OT_GGUF_STRING: return copy_text(source, w, key, err);
    case OT_GGUF_U32:
        st = ot_gguf_get_u32(source, key, &count, err);
        return st == OT_OK ? ot_gguf_put_u32(w, key, count) : st;
    /* By way of their digits, which read back as the same number; so does a NaN, which the getter refuses. */
    case OT_GGUF_F32: return ot_gguf_put_f32(w, key, strtof(ot_gguf_key_text(source, i, text, sizeof text), NULL));
    case OT_GGUF_U64: return ot_gguf_put_u64(w, key, strtoull(ot_gguf_key_text(source, i, text, sizeof text), NULL, 10));
    default: return ot_gguf_put_str(w, key, ot_gguf_key_text(source, i, text, sizeof text));
    }
}

/* But for the note, which is written anew, and one key more. */
static ot_status copy_record(const ot_gguf *source, const char *skipped, ot_gguf_writer *w, ot_error *err)
{
    static const char prefix[] = "otter.training.";
    ot_status st = OT_OK;
    for (uint64_t i = 0; st == OT_OK && i < ot_gguf_key_count(source); i++) {
        ot_gguf_type type;
        char key[256];
        const ot_str name = ot_gguf_key_name(source, i, &type);
        if (name.size >= sizeof key || name.size < sizeof prefix || memcmp(name.data, prefix, sizeof prefix - 1) != 0)
            continue;
        memcpy(key, name.data, name.size);
        key[name.size] = '\0';
        if (strcmp(key, NOTE_KEY) != 0 && strcmp(key, skipped) != 0)
            st = copy_key(source, i, key, type, w, err);
    }
    return st;
}

/* The type that stands for a file's matrices. */
static const char *type_of_file(const ot_gguf *gguf)
{
    const ot_tensor *t = ot_gguf_tensor(gguf, "otter.blk.0.attn_output.weight");
    if (t == NULL)
        t = ot_gguf_tensor(gguf, "otter.head.0.weight");
    return t != NULL ? ot_type_name(t->type) : "?";
}

/* "Q8_0 of toxicity.gguf to Q4_1 on 2025-01-31", after what the source says of the kind. */
static ot_status put_note(const ot_train_options *o, const ot_gguf *source, ot_type type, ot_gguf_writer *w, ot_error *err)
{
    char note[1024], date[16] = "";
    ot_str before = {"", 0};
    const time_t now = time(NULL);
    struct tm utc;
    if (gmtime_r(&now, &utc) != NULL)
        strftime(date, sizeof date, "%Y-%m-%d", &utc);
    const ot_status st = ot_gguf_get_str(source, NOTE_KEY, &before, err);
    if (st != OT_OK && st != OT_ERR_NOT_FOUND)
        return st;
    snprintf(note, sizeof note, "%.*s%s%s of %.200s to %s%s%.20s on %s, after training and its figures",
             (int)(before.size < 600 ? before.size : 600), before.data, before.size > 0 ? "; " : "", type_of_file(source),
             ot_record_base_name(ot_gguf_path(source)), ot_type_name(type), o->activation[0] != '\0' ? ", activation to " : "",
             o->activation, date);
    return ot_gguf_put_str(w, NOTE_KEY, note);
}

/* The name in the file, where the options give none. */
static ot_status name_of(const ot_train_options *o, const ot_gguf *source, char *name, size_t size, ot_error *err)
{
    ot_str in_file = {"", 0};
    if (o->name[0] == '\0') {
        const ot_status st = ot_gguf_get_str(source, "general.name", &in_file, err);
        if (st != OT_OK || in_file.size == 0 || in_file.size >= size)
            return ot_fail_param(err, OT_ERR_INVALID, "name", "%s: no usable general.name: give --name", o->init_from);
    }
    snprintf(name, size, "%.*s", o->name[0] != '\0' ? (int)size - 1 : (int)in_file.size, o->name[0] != '\0' ? o->name : in_file.data);
    return OT_OK;
}

/* The activation that the options ask for, if any. */
static ot_status change_activation(const ot_train_options *o, ot_insertion *x, ot_error *err)
{
    if (o->activation[0] == '\0')
        return OT_OK;
    if (strcmp(o->activation, "sigmoid") != 0 && strcmp(o->activation, "identity") != 0)
        return ot_fail_param(err, OT_ERR_INVALID, "activation", "--activation: expected sigmoid or identity, got '%s'", o->activation);
    return ot_insertion_set_activation(x, o->activation[0] == 's' ? OT_ACT_SIGMOID : OT_ACT_IDENTITY, err);
}

/* The labels that the options ask for, if any. */
static ot_status change_labels(const ot_train_options *o, ot_insertion *x, ot_error *err)
{
    const uint32_t n = ot_insertion_get_info(x)->spec.n_outputs;
    if (o->n_labels > 0 && o->n_labels != n)
        return ot_fail_param(err, OT_ERR_INVALID, "label", "--label: %u given, and %s has %u outputs", o->n_labels, o->init_from, n);
    for (uint32_t i = 0; i < o->n_labels; i++)
        ot_insertion_set_label(x, i, o->labels[i]);
    return OT_OK;
}

/* n_neutral: directions that were taken out, if that was asked for. */
static ot_status write_file(const ot_train_options *o, ot_type type, const ot_gguf *source, ot_insertion *x, uint32_t n_neutral, ot_error *err)
{
    ot_gguf_writer *w = NULL;
    ot_status st = ot_gguf_writer_open(&w, err);
    if (st == OT_OK)
        st = ot_insertion_put(x, w, type, err);
    if (st == OT_OK)
        st = copy_record(source, o->neutral_typography ? NEUTRAL_KEY : "", w, err);
    if (st == OT_OK && o->neutral_typography)
        st = ot_gguf_put_u32(w, NEUTRAL_KEY, n_neutral);
    if (st == OT_OK)
        st = put_note(o, source, type, w, err);
    if (st == OT_OK)
        st = ot_gguf_write(w, o->out, err);
    ot_gguf_writer_close(&w);
    return st;
}

ot_status ot_requantize(const ot_train_options *o, const ot_model *model, ot_insertion **parents, uint32_t n_parents, FILE *log,
                        ot_error *err)
{
    ot_gguf *source = NULL;
    ot_insertion *x = NULL;
    ot_type type;
    uint32_t n_neutral = 0;
    char name[64];
    /* Never for a base with another fingerprint: the new file would claim to have been trained on it. */
    const ot_insertion_options open = {.allow_base_mismatch = false};
    ot_status st = ot_record_type(o->type, &type, err);
    if (st == OT_OK)
        st = ot_gguf_open(&source, o->init_from, err);
    if (st == OT_OK)
        st = name_of(o, source, name, sizeof name, err);
    if (st == OT_OK)
        st = ot_insertion_open_trainable(&x, model, name, o->init_from, (const ot_insertion *const *)parents, n_parents, &open, err);
    if (st == OT_OK)
        st = change_activation(o, x, err);
    if (st == OT_OK)
        st = change_labels(o, x, err);
    if (st == OT_OK && o->neutral_typography)
        st = ot_neutral_typography(x, model, &n_neutral, err);
    if (st == OT_OK)
        st = write_file(o, type, source, x, n_neutral, err);
    if (st == OT_OK && log != NULL)
        fprintf(log, "%s: matrices of %s written as %s\n", o->out, type_of_file(source), ot_type_name(type));
    ot_insertion_close(&x);
    ot_gguf_close(&source);
    return st;
}
