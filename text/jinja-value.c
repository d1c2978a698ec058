/* Values and their memory. Values are small and passed by value; what they point at lies in the arena of one rendering and
 * never changes once it can be seen, except for namespaces, iterators and the tail of a growing buffer.
 *
 * A string's bytes each have a mark, where they came from. A string with one origin throughout has no array of marks; one
 * that was put together shares both arrays with the buffer that it was written into. Adding to a string that ends where its
 * buffer ends writes behind it, so that `ns.text = ns.text + more` in a loop takes time by the bytes added. */
#include "text/jinja-internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Memory ---------------------------------------------------------------------------------------------- */

typedef struct jinja_block {
    struct jinja_block *next;
    size_t used, size;
    max_align_t data[];
} jinja_block;

enum { BLOCK_BYTES = 32 << 10 };

ot_jinja_memory *ot_jinja_memory_open(size_t max_bytes)
{
    ot_jinja_memory *m = calloc(1, sizeof *m);
    if (m != NULL)
        m->max_bytes = max_bytes;
    return m;
}

void ot_jinja_memory_close(ot_jinja_memory **memory)
{
    if (*memory == NULL)
        return;
    for (jinja_block *b = (*memory)->blocks, *next; b != NULL; b = next) {
        next = b->next;
        free(b);
    }
    free(*memory);
    *memory = NULL;
}

void *jinja_alloc(ot_jinja_memory *m, size_t n, size_t size)
{
    const size_t align = sizeof(max_align_t);
    if (size != 0 && n > (SIZE_MAX / 2 - align) / size) {
        m->failed = true;
        return NULL;
    }
    size_t bytes = (n * size + align - 1) / align * align;
    jinja_block *b = m->blocks;
    if (b == NULL || bytes > b->size - b->used) {
        size_t room = bytes > BLOCK_BYTES / 4 ? bytes : BLOCK_BYTES;
        m->full = m->full || room > m->max_bytes - m->bytes;
        if (m->failed || m->full || (b = malloc(sizeof *b + room)) == NULL) {
            m->failed = true;
            return NULL;
        }
        m->bytes += room;
        b->used = 0;
        b->size = room;
        if (m->blocks != NULL && room == bytes) { /* a large piece: the block in use stays in front */
            b->next = m->blocks->next;
            m->blocks->next = b;
        } else {
            b->next = m->blocks;
            m->blocks = b;
        }
    }
    void *found = (char *)b->data + b->used;
    b->used += bytes;
    return memset(found, 0, bytes);
}

/* Doubles an array of items of `size` bytes that is full; false if there is no room. */
static bool grow(ot_jinja_memory *m, void **items, size_t n, size_t *capacity, size_t size)
{
    if (n < *capacity)
        return true;
    size_t more = *capacity * 2 + 4;
    void *grown = jinja_alloc(m, more, size);
    if (grown == NULL)
        return false;
    if (n > 0)
        memcpy(grown, *items, n * size);
    *items = grown;
    *capacity = more;
    return true;
}

/* ---- Simple values --------------------------------------------------------------------------------------- */

jvalue ot_jinja_none(void)
{
    return (jvalue){.kind = OT_JINJA_NONE, .origin = OT_JINJA_TEMPLATE};
}

jvalue ot_jinja_bool(bool truth, ot_jinja_origin origin)
{
    return (jvalue){.kind = OT_JINJA_BOOL, .origin = origin, .as.truth = truth};
}

jvalue ot_jinja_int(int64_t integer, ot_jinja_origin origin)
{
    return (jvalue){.kind = OT_JINJA_INT, .origin = origin, .as.integer = integer};
}

jvalue ot_jinja_float(double number, ot_jinja_origin origin)
{
    return (jvalue){.kind = OT_JINJA_FLOAT, .origin = origin, .as.number = number};
}

/* Undefined keeps, as its string, what is said if more is wanted of it than to be written. */
jvalue jinja_undefined(ot_jinja_memory *m, const char *format, ...)
{
    char text[200];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    jvalue v = ot_jinja_string(m, text, strlen(text), OT_JINJA_TEMPLATE);
    if (v.kind == OT_JINJA_STRING)
        v.kind = OT_JINJA_UNDEFINED;
    return v;
}

/* ---- Strings --------------------------------------------------------------------------------------------- */

jvalue jinja_borrow(ot_jinja_memory *m, const char *data, size_t size, ot_jinja_origin origin)
{
    jstring *s = jinja_alloc(m, 1, sizeof *s);
    if (s == NULL)
        return ot_jinja_none();
    *s = (jstring){.data = data, .size = size, .origin = origin};
    return (jvalue){.kind = OT_JINJA_STRING, .origin = origin, .as.string = s};
}

jvalue jinja_literal(ot_jinja_memory *m, const char *text)
{
    return jinja_borrow(m, text, strlen(text), OT_JINJA_TEMPLATE);
}

jvalue ot_jinja_string(ot_jinja_memory *m, const char *data, size_t size, ot_jinja_origin origin)
{
    char *copy = jinja_alloc(m, size < SIZE_MAX ? size + 1 : size, 1);
    if (copy == NULL)
        return ot_jinja_none();
    if (size > 0)
        memcpy(copy, data, size);
    return jinja_borrow(m, copy, size, origin);
}

jvalue jinja_cut(ot_jinja_memory *m, const jstring *s, size_t from, size_t to)
{
    jvalue v = jinja_borrow(m, s->data + from, to - from, s->origin);
    if (v.kind != OT_JINJA_STRING)
        return v;
    v.as.string->safe = s->safe;
    if (s->marks != NULL)
        v.as.string->marks = s->marks + from;
    if (to == s->size)
        v.as.string->buffer = s->buffer;
    return v;
}

static bool buffer_reserve(ot_jinja_memory *m, jinja_buffer *b, size_t more)
{
    if (more <= b->capacity - b->size)
        return true;
    if (more > SIZE_MAX / 8 || b->capacity > SIZE_MAX / 8) {
        m->failed = true;
        return false;
    }
    size_t capacity = b->size + more + (b->size + more) / 2 + 32;
    char *data = jinja_alloc(m, capacity, 1);
    uint8_t *marks = jinja_alloc(m, capacity, 1);
    if (data == NULL || marks == NULL)
        return false;
    if (b->size > 0) {
        memcpy(data, b->data, b->size);
        memcpy(marks, b->marks, b->size);
    }
    b->data = data;
    b->marks = marks;
    b->capacity = capacity;
    return true;
}

void jinja_buffer_add(ot_jinja_memory *m, jinja_buffer *b, const char *data, size_t size, const uint8_t *marks, uint8_t origin)
{
    if (size == 0 || !buffer_reserve(m, b, size))
        return;
    memcpy(b->data + b->size, data, size);
    if (marks != NULL)
        memcpy(b->marks + b->size, marks, size);
    else
        memset(b->marks + b->size, origin, size);
    b->size += size;
}

void jinja_buffer_string(ot_jinja_memory *m, jinja_buffer *b, const jstring *s)
{
    jinja_buffer_add(m, b, s->data, s->size, s->marks, s->origin);
}

void jinja_buffer_text(ot_jinja_memory *m, jinja_buffer *b, const char *text, uint8_t origin)
{
    jinja_buffer_add(m, b, text, strlen(text), NULL, origin);
}

jvalue jinja_buffer_value(ot_jinja_memory *m, const jinja_buffer *b, bool safe)
{
    jvalue v = jinja_borrow(m, b->size > 0 ? b->data : "", b->size, OT_JINJA_TEMPLATE);
    if (v.kind != OT_JINJA_STRING)
        return v;
    v.as.string->safe = safe;
    v.as.string->marks = b->size > 0 ? b->marks : NULL;
    /* A number or a truth value made of this text is the template's only if all of it is. */
    if (b->size > 0 && memchr(b->marks, OT_JINJA_CONTENT, b->size) != NULL)
        v.origin = v.as.string->origin = OT_JINJA_CONTENT;
    return v;
}

jvalue jinja_concat(ot_jinja_memory *m, const jstring *a, const jstring *b)
{
    jinja_buffer *buffer = a->buffer;
    bool in_place = buffer != NULL && a->marks != NULL && a->data + a->size == buffer->data + buffer->size &&
                    b->size <= buffer->capacity - buffer->size;
    if (!in_place) {
        buffer = jinja_alloc(m, 1, sizeof *buffer);
        if (buffer == NULL || !buffer_reserve(m, buffer, a->size + b->size))
            return ot_jinja_none();
        jinja_buffer_string(m, buffer, a);
    }
    size_t begin = in_place ? (size_t)(a->data - buffer->data) : 0;
    jinja_buffer_string(m, buffer, b);
    jvalue v = jinja_borrow(m, buffer->data + begin, buffer->size - begin,
                            a->origin == OT_JINJA_TEMPLATE && b->origin == OT_JINJA_TEMPLATE ? OT_JINJA_TEMPLATE : OT_JINJA_CONTENT);
    if (v.kind != OT_JINJA_STRING)
        return v;
    v.as.string->marks = buffer->marks + begin;
    v.as.string->buffer = buffer;
    v.as.string->safe = a->safe || b->safe;
    return v;
}

/* ---- Lists ----------------------------------------------------------------------------------------------- */

jvalue jinja_new_list(ot_jinja_memory *m, ot_jinja_kind kind, size_t capacity)
{
    jlist *list = jinja_alloc(m, 1, sizeof *list);
    if (list == NULL)
        return ot_jinja_none();
    if (capacity > 0 && (list->items = jinja_alloc(m, capacity, sizeof *list->items)) == NULL)
        return ot_jinja_none();
    list->capacity = capacity;
    return (jvalue){.kind = kind, .origin = OT_JINJA_TEMPLATE, .as.list = list};
}

jvalue ot_jinja_list(ot_jinja_memory *m, ot_jinja_origin origin)
{
    jvalue v = jinja_new_list(m, OT_JINJA_LIST, 0);
    v.origin = origin;
    return v;
}

void ot_jinja_append(ot_jinja_memory *m, jvalue list, jvalue item)
{
    if (list.kind != OT_JINJA_LIST && list.kind != OT_JINJA_TUPLE && list.kind != OT_JINJA_VIEW && list.kind != OT_JINJA_ITERATOR)
        return;
    jlist *l = list.as.list;
    if (grow(m, (void **)&l->items, l->n, &l->capacity, sizeof *l->items))
        l->items[l->n++] = item;
}

/* ---- Dicts ----------------------------------------------------------------------------------------------- */

enum { FEW_ENTRIES = 8 }; /* looked through one by one */

jvalue ot_jinja_dict(ot_jinja_memory *m, ot_jinja_origin origin)
{
    jdict *d = jinja_alloc(m, 1, sizeof *d);
    return d == NULL ? ot_jinja_none() : (jvalue){.kind = OT_JINJA_DICT, .origin = origin, .as.dict = d};
}

enum { MAX_KEY_DEPTH = 50 }; /* of tuples within tuples */

static bool hashable_at(jvalue v, unsigned depth)
{
    if (v.kind == OT_JINJA_TUPLE) {
        if (depth > MAX_KEY_DEPTH)
            return false;
        for (size_t i = 0; i < v.as.list->n; i++)
            if (!hashable_at(v.as.list->items[i], depth + 1))
                return false;
    }
    return v.kind != OT_JINJA_LIST && v.kind != OT_JINJA_DICT;
}

bool jinja_hashable(jvalue v)
{
    return hashable_at(v, 0);
}

/* Equal keys have equal hashes: 1, 1.0 and true are one key in Python. */
static uint64_t hash_key(jvalue key)
{
    uint64_t h = 0xcbf29ce484222325u;
    double number;
    switch (key.kind) {
    case OT_JINJA_STRING:
        for (size_t i = 0; i < key.as.string->size; i++)
            h = (h ^ (unsigned char)key.as.string->data[i]) * 0x100000001b3u;
        return h ^ h >> 32;
    case OT_JINJA_BOOL:
    case OT_JINJA_INT:
    case OT_JINJA_FLOAT:
        number = key.kind == OT_JINJA_FLOAT ? key.as.number : (double)jinja_integer(key);
        number += 0.0; /* -0.0 and 0.0 are one key */
        memcpy(&h, &number, sizeof h);
        return (h ^ h >> 29) * 0x9E3779B97F4A7C15u >> 20;
    case OT_JINJA_TUPLE:
        for (size_t i = 0; i < key.as.list->n; i++)
            h = (h ^ hash_key(key.as.list->items[i])) * 0x100000001b3u;
        return h ^ h >> 32;
    default:
        return key.kind;
    }
}

static uint32_t *find_slot(const jdict *d, jvalue key)
{
    for (uint64_t at = hash_key(key);; at++) {
        uint32_t *slot = &d->slots[at & (d->n_slots - 1)];
        if (*slot == 0 || jinja_equal(d->entries[*slot - 1].key, key))
            return slot;
    }
}

jinja_entry *jinja_dict_find(const jdict *d, jvalue key)
{
    if (d->slots != NULL) {
        uint32_t *slot = find_slot(d, key);
        return *slot == 0 ? NULL : &d->entries[*slot - 1];
    }
    for (size_t i = 0; i < d->n; i++)
        if (jinja_equal(d->entries[i].key, key))
            return &d->entries[i];
    return NULL;
}

/* Twice as many slots as entries, once there are more than a few of these. */
static void rehash(ot_jinja_memory *m, jdict *d)
{
    size_t n_slots = 32;
    while (n_slots < d->capacity * 2)
        n_slots *= 2;
    uint32_t *slots = jinja_alloc(m, n_slots, sizeof *slots);
    if (slots == NULL)
        return;
    d->slots = slots;
    d->n_slots = n_slots;
    for (size_t i = 0; i < d->n; i++)
        *find_slot(d, d->entries[i].key) = (uint32_t)i + 1;
}

void jinja_dict_set(ot_jinja_memory *m, jdict *d, jvalue key, jvalue value)
{
    jinja_entry *found = jinja_dict_find(d, key);
    if (found != NULL) {
        found->value = value;
        return;
    }
    bool grows = d->n == d->capacity;
    if (d->n >= UINT32_MAX / 4 || !grow(m, (void **)&d->entries, d->n, &d->capacity, sizeof *d->entries)) {
        m->failed = true;
        return;
    }
    d->entries[d->n++] = (jinja_entry){key, value};
    if (d->n > FEW_ENTRIES && (grows || d->slots == NULL))
        rehash(m, d);
    else if (d->slots != NULL)
        *find_slot(d, key) = (uint32_t)d->n;
}

void ot_jinja_put(ot_jinja_memory *m, jvalue dict, const char *key, size_t key_size, jvalue value)
{
    jvalue k = ot_jinja_string(m, key, key_size, dict.origin);
    if (dict.kind == OT_JINJA_DICT && k.kind == OT_JINJA_STRING)
        jinja_dict_set(m, dict.as.dict, k, value);
}

const jvalue *ot_jinja_get(jvalue dict, const char *key)
{
    jstring s = {.data = key, .size = strlen(key)};
    if (dict.kind != OT_JINJA_DICT)
        return NULL;
    jinja_entry *e = jinja_dict_find(dict.as.dict, (jvalue){.kind = OT_JINJA_STRING, .as.string = &s});
    return e == NULL ? NULL : &e->value;
}

void ot_jinja_put_value(ot_jinja_memory *m, jvalue dict, jvalue key, jvalue value)
{
    if (dict.kind == OT_JINJA_DICT && jinja_hashable(key))
        jinja_dict_set(m, dict.as.dict, key, value);
}

size_t ot_jinja_count(jvalue v)
{
    return v.kind == OT_JINJA_DICT ? v.as.dict->n : jinja_is_sequence(v) ? v.as.list->n : 0;
}

jvalue ot_jinja_value_at(jvalue v, size_t i)
{
    return v.kind == OT_JINJA_DICT ? v.as.dict->entries[i].value : v.as.list->items[i];
}

jvalue ot_jinja_key_at(jvalue dict, size_t i)
{
    return dict.as.dict->entries[i].key;
}

ot_str ot_jinja_bytes(jvalue v)
{
    return v.kind == OT_JINJA_STRING ? (ot_str){v.as.string->data, v.as.string->size} : (ot_str){"", 0};
}
