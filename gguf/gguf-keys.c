/* Values of keys: typed getters, arrays by element, and any value as text.
 *
 * Getters convert between the number types of the file where the value fits, because writers disagree about them (a count may be
 * u32, u64 or i32). What does not fit, is not finite or has another type is an error that names file, key and offset. */
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "gguf/gguf-errors.h"
#include "gguf/gguf-internal.h"

static const ot_gguf_key *find_key(const ot_gguf *g, const char *name)
{
    return (const ot_gguf_key *)(const void *)ot_gguf_find_name(g->key_index, g->n_keys, name, strlen(name));
}

static ot_status find(const ot_gguf *g, const char *name, const ot_gguf_key **key, ot_error *err)
{
    *key = find_key(g, name);
    return *key != NULL ? OT_OK : ot_fail_param(err, OT_ERR_NOT_FOUND, name, "%s: key '%s' is missing", g->label, name);
}

static ot_status wrong_value(const ot_gguf *g, const ot_gguf_key *key, const char *wanted, ot_error *err)
{
    char name[80], value[64];
    ot_gguf_printable(name, key->name);
    ot_gguf_key_text(g, (uint64_t)(key - g->keys), value, sizeof value);
    return ot_fail_param(err, OT_ERR_FORMAT, name, "%s: key '%s' at byte %zu: %s %s is not %s", g->label, name, key->at,
                         ot_gguf_type_name(key->type), value, wanted);
}

ot_status ot_gguf_fail_key(const ot_gguf *g, ot_status code, const char *name, ot_error *err, const char *format, ...)
{
    char cause[sizeof err->message], at[40] = "";
    const ot_gguf_key *key = find_key(g, name);
    va_list args;
    va_start(args, format);
    vsnprintf(cause, sizeof cause, format, args);
    va_end(args);
    if (key != NULL)
        snprintf(at, sizeof at, " at byte %zu", key->at);
    return ot_fail_param(err, code, name, "%s: key '%s'%s: %s", g->label, name, at, cause);
}

ot_status ot_gguf_fail_entry(const ot_gguf_array *a, uint64_t i, const char *key, ot_error *err, const char *cause)
{
    return ot_fail_param(err, OT_ERR_FORMAT, key, "%s: key '%s'[%llu] at byte %llu: %s", a->gguf->label, key, (unsigned long long)i,
                         (unsigned long long)a->string_at[i], cause);
}

/* Any integer type, or a boolean. False: not an integer, or a u64 beyond int64_t. */
static bool load_int(ot_gguf_type type, const uint8_t *p, int64_t *out)
{
    uint64_t u = 0;
    uint32_t w = 0;
    uint16_t s = 0;
    switch (type) {
    case OT_GGUF_U8: case OT_GGUF_BOOL: *out = *p; return true;
    case OT_GGUF_I8: *out = (int8_t)*p; return true;
    case OT_GGUF_U16: memcpy(&s, p, 2); *out = s; return true;
    case OT_GGUF_I16: memcpy(&s, p, 2); *out = (int16_t)s; return true;
    case OT_GGUF_U32: memcpy(&w, p, 4); *out = w; return true;
    case OT_GGUF_I32: memcpy(&w, p, 4); *out = (int32_t)w; return true;
    case OT_GGUF_U64: memcpy(&u, p, 8); *out = (int64_t)u; return u <= INT64_MAX;
    case OT_GGUF_I64: memcpy(&u, p, 8); *out = (int64_t)u; return true;
    default: return false;
    }
}

static bool load_num(ot_gguf_type type, const uint8_t *p, double *out)
{
    float f = 0;
    int64_t i = 0;
    switch (type) {
    case OT_GGUF_F32: memcpy(&f, p, 4); *out = f; return true;
    case OT_GGUF_F64: memcpy(out, p, 8); return true;
    case OT_GGUF_U64: *out = (double)ot_load_u64(p); return true;
    default: break;
    }
    if (!load_int(type, p, &i))
        return false;
    *out = (double)i;
    return true;
}

bool ot_gguf_has(const ot_gguf *gguf, const char *key)
{
    return find_key(gguf, key) != NULL;
}

ot_status ot_gguf_get_u32(const ot_gguf *gguf, const char *name, uint32_t *out, ot_error *err)
{
    const ot_gguf_key *key;
    int64_t value = 0;
    ot_status status = find(gguf, name, &key, err);
    if (status != OT_OK)
        return status;
    if (!load_int(key->type, gguf->bytes + key->at, &value) || value < 0 || value > UINT32_MAX)
        return wrong_value(gguf, key, "an integer from 0 to 4294967295", err);
    *out = (uint32_t)value;
    return OT_OK;
}

ot_status ot_gguf_get_f32(const ot_gguf *gguf, const char *name, float *out, ot_error *err)
{
    const ot_gguf_key *key;
    double value = 0;
    ot_status status = find(gguf, name, &key, err);
    if (status != OT_OK)
        return status;
    if ((key->type != OT_GGUF_F32 && key->type != OT_GGUF_F64) || !load_num(key->type, gguf->bytes + key->at, &value) ||
        !(fabs(value) <= (double)FLT_MAX))
        return wrong_value(gguf, key, "a finite float", err);
    *out = (float)value;
    return OT_OK;
}

ot_status ot_gguf_get_bool(const ot_gguf *gguf, const char *name, bool *out, ot_error *err)
{
    const ot_gguf_key *key;
    int64_t value = 0;
    ot_status status = find(gguf, name, &key, err);
    if (status != OT_OK)
        return status;
    if (!load_int(key->type, gguf->bytes + key->at, &value) || value < 0 || value > 1)
        return wrong_value(gguf, key, "a boolean", err);
    *out = value == 1;
    return OT_OK;
}

static ot_str str_at(const ot_gguf *g, size_t at)
{
    return (ot_str){(const char *)g->bytes + at + 8, (size_t)ot_load_u64(g->bytes + at)};
}

ot_status ot_gguf_get_str(const ot_gguf *gguf, const char *name, ot_str *out, ot_error *err)
{
    const ot_gguf_key *key;
    ot_status status = find(gguf, name, &key, err);
    if (status != OT_OK)
        return status;
    if (key->type != OT_GGUF_STRING)
        return wrong_value(gguf, key, "a string", err);
    *out = str_at(gguf, key->at);
    return OT_OK;
}

static ot_gguf_array array_of(const ot_gguf *g, const ot_gguf_key *key)
{
    return (ot_gguf_array){.type = key->element,
                           .count = key->count,
                           .data = key->element == OT_GGUF_STRING ? NULL : g->bytes + key->at,
                           .string_at = key->string_at,
                           .gguf = g};
}

ot_status ot_gguf_get_array(const ot_gguf *gguf, const char *name, ot_gguf_array *out, ot_error *err)
{
    const ot_gguf_key *key;
    ot_status status = find(gguf, name, &key, err);
    if (status != OT_OK)
        return status;
    if (key->type != OT_GGUF_ARRAY)
        return wrong_value(gguf, key, "an array", err);
    *out = array_of(gguf, key);
    return OT_OK;
}

ot_str ot_gguf_array_str(const ot_gguf_array *array, uint64_t i)
{
    return str_at(array->gguf, (size_t)array->string_at[i]);
}

int64_t ot_gguf_array_int(const ot_gguf_array *array, uint64_t i)
{
    int64_t value = 0;
    if (!load_int(array->type, array->data + i * ot_gguf_type_bytes(array->type), &value))
        value = array->type == OT_GGUF_U64 ? INT64_MAX : 0;
    return value;
}

double ot_gguf_array_num(const ot_gguf_array *array, uint64_t i)
{
    double value = 0;
    load_num(array->type, array->data + i * ot_gguf_type_bytes(array->type), &value);
    return value;
}

uint64_t ot_gguf_key_count(const ot_gguf *gguf)
{
    return gguf->n_keys;
}

ot_str ot_gguf_key_name(const ot_gguf *gguf, uint64_t i, ot_gguf_type *type)
{
    if (type != NULL)
        *type = gguf->keys[i].type;
    return gguf->keys[i].name;
}

/* ---- Values as text ---- */

/* A bounded buffer: what does not fit as a whole is left off, and nothing after it is written. */
typedef struct text {
    char *at, *end; /* end: where the closing zero may be at the latest */
    bool full;
} text;

static void put(text *t, const char *bytes, size_t n)
{
    if (t->full || (size_t)(t->end - t->at) < n) {
        t->full = true;
        return;
    }
    memcpy(t->at, bytes, n);
    t->at += n;
    *t->at = 0;
}

/* Length of the UTF-8 character at s (1 to 4), 0 if it is malformed or a control character: those could steer a terminal. */
static size_t plain_character(const unsigned char *s, size_t n)
{
    if (s[0] < 0x80)
        return s[0] >= 0x20 && s[0] != 0x7f;
    const size_t length = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4 || length > n)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    const bool overlong = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90);
    const bool outside = (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf4 && s[1] > 0x8f);
    const bool control = s[0] == 0xc2 && s[1] < 0xa0;
    return overlong || outside || control ? 0 : length;
}

/* Valid UTF-8 whatever the file holds: other bytes come as \n, \t or \xNN. */
static void put_str(text *t, ot_str str)
{
    for (size_t i = 0; i < str.size && !t->full;) {
        const unsigned char *s = (const unsigned char *)str.data + i;
        const size_t length = plain_character(s, str.size - i);
        char escape[8];
        if (length > 0) {
            put(t, (const char *)s, length);
            i += length;
            continue;
        }
        if (*s == '\n' || *s == '\t')
            snprintf(escape, sizeof escape, "\\%c", *s == '\n' ? 'n' : 't');
        else
            snprintf(escape, sizeof escape, "\\x%02x", *s);
        put(t, escape, strlen(escape));
        i++;
    }
}

/* The shortest digits that read back as the same value. */
static void put_scalar(text *t, ot_gguf_type type, const uint8_t *p)
{
    char digits[40] = "";
    int64_t i = 0;
    double f = 0;
    if (type == OT_GGUF_BOOL) {
        snprintf(digits, sizeof digits, "%s", *p ? "true" : "false");
    } else if (load_int(type, p, &i)) {
        snprintf(digits, sizeof digits, "%lld", (long long)i);
    } else if (type == OT_GGUF_U64) {
        snprintf(digits, sizeof digits, "%llu", (unsigned long long)ot_load_u64(p));
    } else if (load_num(type, p, &f)) {
        const int most = type == OT_GGUF_F32 ? 9 : 17;
        for (int n = most - 3; n <= most; n++) {
            snprintf(digits, sizeof digits, "%.*g", n, f);
            if (type == OT_GGUF_F32 ? strtof(digits, NULL) == (float)f : strtod(digits, NULL) == f)
                break;
        }
    }
    put(t, digits, strlen(digits));
}

static void put_array(text *t, const ot_gguf_array *array)
{
    char count[32];
    snprintf(count, sizeof count, "[%llu]", (unsigned long long)array->count);
    put(t, count, strlen(count));
    for (uint64_t i = 0; i < array->count && !t->full; i++) {
        put(t, i == 0 ? " " : ", ", i == 0 ? 1 : 2);
        if (array->type == OT_GGUF_STRING)
            put_str(t, ot_gguf_array_str(array, i));
        else
            put_scalar(t, array->type, array->data + i * ot_gguf_type_bytes(array->type));
    }
}

char *ot_gguf_key_text(const ot_gguf *gguf, uint64_t i, char *dst, size_t size)
{
    const ot_gguf_key *key = &gguf->keys[i];
    if (size == 0)
        return dst;
    text t = {.at = dst, .end = dst + size - 1};
    *dst = 0;
    if (key->type == OT_GGUF_ARRAY) {
        const ot_gguf_array array = array_of(gguf, key);
        put_array(&t, &array);
    } else if (key->type == OT_GGUF_STRING) {
        put_str(&t, str_at(gguf, key->at));
    } else {
        put_scalar(&t, key->type, gguf->bytes + key->at);
    }
    return dst;
}
