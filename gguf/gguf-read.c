/* One checked pass over the directory of a GGUF file.
 *
 * A reader walks the bytes with a cursor that never passes the end: whatever is taken is first held against what is left. It
 * remembers which key or tensor it is at, so that any failure can name it together with the offset. Memory taken is
 * bounded by the file's own size, because each count is held against the least that its items occupy. */
#include <stdio.h>
#include <stdlib.h>

#include "gguf/gguf-internal.h"

#define MAX_ITEMS (1u << 20)   /* keys, and tensors: far above any real file */
#define MIN_KEY_BYTES 14       /* length, one character, type, one byte of value */
#define MIN_TENSOR_BYTES 33    /* length, one character, n_dims, one dim, type, offset */
#define MAX_ALIGNMENT (1u << 24)

typedef struct reader {
    ot_gguf *gguf;
    size_t at;
    const char *what; /* "header", "key", "tensor": what is being read ... */
    uint64_t index;   /* ... its number ... */
    ot_str name;      /* ... and its name, once that is known */
    ot_error *err;
} reader;

char *ot_gguf_printable(char dst[80], ot_str name)
{
    size_t n = name.size < 76 ? name.size : 76;
    for (size_t i = 0; i < n; i++)
        dst[i] = name.data[i] >= 0x20 && name.data[i] < 0x7f ? name.data[i] : '?';
    strcpy(dst + n, name.size > n ? "..." : "");
    return dst;
}

/* Fails with "FILE: key 'NAME' at byte N: CAUSE"; the cause is a whole phrase. */
static ot_status refuse_at(const reader *r, size_t at, ot_status code, const char *cause)
{
    char name[80], item[128];
    ot_gguf_printable(name, r->name);
    if (r->name.size > 0)
        snprintf(item, sizeof item, "%s '%s'", r->what, name);
    else if (strcmp(r->what, "header") != 0)
        snprintf(item, sizeof item, "%s number %llu", r->what, (unsigned long long)r->index);
    else
        snprintf(item, sizeof item, "%s", r->what);
    return ot_fail_param(r->err, code, name, "%s: %s at byte %zu: %s", r->gguf->label, item, at, cause);
}

static ot_status refuse(const reader *r, const char *cause)
{
    return refuse_at(r, r->at, OT_ERR_FORMAT, cause);
}

static size_t bytes_left(const reader *r)
{
    return r->gguf->size - r->at;
}

/* Checks that `count` items of at least `each` bytes can still follow. */
static ot_status expect(const reader *r, uint64_t count, size_t each, const char *field)
{
    if (count <= bytes_left(r) / each)
        return OT_OK;
    char cause[160];
    snprintf(cause, sizeof cause, "%s (%llu of %zu bytes each) does not fit in the %zu bytes left of the file", field,
             (unsigned long long)count, each, bytes_left(r));
    return refuse(r, cause);
}

static ot_status take_u32(reader *r, uint32_t *out, const char *field)
{
    ot_status status = expect(r, 1, 4, field);
    if (status == OT_OK) {
        *out = ot_load_u32(r->gguf->bytes + r->at);
        r->at += 4;
    }
    return status;
}

static ot_status take_u64(reader *r, uint64_t *out, const char *field)
{
    ot_status status = expect(r, 1, 8, field);
    if (status == OT_OK) {
        *out = ot_load_u64(r->gguf->bytes + r->at);
        r->at += 8;
    }
    return status;
}

static ot_status take_str(reader *r, ot_str *out, const char *field)
{
    uint64_t size = 0;
    ot_status status = take_u64(r, &size, field);
    if (status != OT_OK)
        return status;
    if (size > bytes_left(r)) {
        char cause[160];
        r->at -= 8;
        snprintf(cause, sizeof cause, "%s claims %llu bytes, only %zu are left of the file", field,
                 (unsigned long long)size, bytes_left(r) - 8);
        return refuse(r, cause);
    }
    *out = (ot_str){(const char *)r->gguf->bytes + r->at, (size_t)size};
    r->at += (size_t)size;
    return OT_OK;
}

/* Names go into messages, metrics and fingerprints. */
bool ot_gguf_name_is_sound(ot_str name)
{
    bool sound = name.size > 0 && name.size <= UINT16_MAX;
    for (size_t i = 0; sound && i < name.size; i++)
        sound = (unsigned char)name.data[i] >= 0x20 && name.data[i] != 0x7f;
    return sound;
}

static ot_status take_name(reader *r)
{
    ot_str name = {NULL, 0};
    const size_t at = r->at;
    r->name = name;
    ot_status status = take_str(r, &name, "the name");
    if (status != OT_OK)
        return status;
    if (!ot_gguf_name_is_sound(name))
        return refuse_at(r, at, OT_ERR_FORMAT, "the name is empty, over 65535 bytes long or holds control characters");
    r->name = name;
    return OT_OK;
}

size_t ot_gguf_type_bytes(ot_gguf_type type)
{
    switch (type) {
    case OT_GGUF_U8: case OT_GGUF_I8: case OT_GGUF_BOOL: return 1;
    case OT_GGUF_U16: case OT_GGUF_I16: return 2;
    case OT_GGUF_U32: case OT_GGUF_I32: case OT_GGUF_F32: return 4;
    case OT_GGUF_U64: case OT_GGUF_I64: case OT_GGUF_F64: return 8;
    case OT_GGUF_STRING: case OT_GGUF_ARRAY: break;
    }
    return 0;
}

const char *ot_gguf_type_name(ot_gguf_type type)
{
    static const char *const names[] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64",
                                        "i64", "f64"};
    return (size_t)type < sizeof names / sizeof names[0] ? names[type] : "?";
}

static ot_status take_value_type(reader *r, ot_gguf_type *out)
{
    uint32_t type = 0;
    ot_status status = take_u32(r, &type, "the value's type");
    if (status != OT_OK)
        return status;
    if (type > OT_GGUF_F64) {
        char cause[80];
        snprintf(cause, sizeof cause, "value type %u is not known (0 to 12 are)", type);
        return refuse_at(r, r->at - 4, OT_ERR_FORMAT, cause);
    }
    *out = (ot_gguf_type)type;
    return OT_OK;
}

/* Steps over `count` scalars; booleans must be 0 or 1, since C may assume so of what it loads. */
static ot_status skip_scalars(reader *r, ot_gguf_type type, uint64_t count)
{
    const size_t each = ot_gguf_type_bytes(type);
    ot_status status = expect(r, count, each, "the value");
    if (status != OT_OK)
        return status;
    for (uint64_t i = 0; type == OT_GGUF_BOOL && i < count; i++)
        if (r->gguf->bytes[r->at + i] > 1)
            return refuse_at(r, r->at + i, OT_ERR_FORMAT, "expected a boolean of 0 or 1");
    r->at += count * each;
    return OT_OK;
}

static ot_status skip_strings(reader *r, ot_gguf_key *key)
{
    ot_status status = expect(r, key->count, 8, "the array of strings");
    if (status != OT_OK)
        return status;
    key->string_at = malloc(key->count > 0 ? key->count * sizeof *key->string_at : 1);
    if (key->string_at == NULL)
        return refuse_at(r, r->at, OT_ERR_NOMEM, "no memory for the index of its strings");
    for (uint64_t i = 0; i < key->count; i++) {
        ot_str ignored;
        key->string_at[i] = r->at;
        status = take_str(r, &ignored, "a string of the array");
        if (status != OT_OK)
            return status;
    }
    return OT_OK;
}

static ot_status take_key(reader *r, ot_gguf_key *key)
{
    ot_status status = take_name(r);
    if (status != OT_OK)
        return status;
    key->name = r->name;
    status = take_value_type(r, &key->type);
    if (status != OT_OK)
        return status;
    if (key->type == OT_GGUF_ARRAY) {
        status = take_value_type(r, &key->element);
        if (status == OT_OK && key->element == OT_GGUF_ARRAY)
            return refuse_at(r, r->at - 4, OT_ERR_UNSUPPORTED, "an array of arrays is not supported");
        if (status == OT_OK)
            status = take_u64(r, &key->count, "the array's count");
        if (status != OT_OK)
            return status;
        key->at = r->at;
        return key->element == OT_GGUF_STRING ? skip_strings(r, key) : skip_scalars(r, key->element, key->count);
    }
    key->at = r->at;
    if (key->type == OT_GGUF_STRING) {
        ot_str ignored;
        return take_str(r, &ignored, "the string");
    }
    return skip_scalars(r, key->type, 1);
}

int ot_gguf_compare_names(ot_str a, ot_str b)
{
    int order = memcmp(a.data, b.data, a.size < b.size ? a.size : b.size);
    if (order != 0)
        return order;
    return (a.size > b.size) - (a.size < b.size);
}

static int compare_index(const void *a, const void *b)
{
    return ot_gguf_compare_names(**(const ot_str *const *)a, **(const ot_str *const *)b);
}

const ot_str *ot_gguf_find_name(const ot_str *const *index, uint64_t n, const char *name, size_t size)
{
    const ot_str wanted = {name, size};
    uint64_t low = 0, high = n;
    while (low < high) {
        const uint64_t middle = low + (high - low) / 2;
        const int order = ot_gguf_compare_names(*index[middle], wanted);
        if (order == 0)
            return index[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* Sorts the names of n items, `stride` bytes apart, and refuses two that are equal. */
static ot_status index_names(reader *r, const ot_str ***out, const void *items, size_t stride, uint64_t n)
{
    const ot_str **index = calloc(n > 0 ? n : 1, sizeof *index);
    r->name = (ot_str){NULL, 0};
    if (index == NULL)
        return refuse_at(r, r->at, OT_ERR_NOMEM, "no memory for the index of names");
    *out = index;
    for (uint64_t i = 0; i < n; i++)
        index[i] = (const ot_str *)(const void *)((const char *)items + i * stride);
    qsort(index, n, sizeof *index, compare_index);
    for (uint64_t i = 1; i < n; i++) {
        if (ot_gguf_compare_names(*index[i - 1], *index[i]) == 0) {
            const bool later = index[i]->data > index[i - 1]->data;
            r->name = later ? *index[i] : *index[i - 1];
            return refuse_at(r, (size_t)((const uint8_t *)r->name.data - r->gguf->bytes), OT_ERR_FORMAT,
                             "the name appears twice");
        }
    }
    return OT_OK;
}

static ot_status read_header(reader *r)
{
    ot_gguf *g = r->gguf;
    if (g->size < 24)
        return refuse(r, "the file is too short to be GGUF");
    if (memcmp(g->bytes, "GGUF", 4) != 0)
        return refuse(r, "not a GGUF file: it does not begin with 'GGUF'");
    r->at = 4;
    ot_status status = take_u32(r, &g->version, "the version");
    if (status == OT_OK && g->version != 2 && g->version != 3) {
        char cause[96];
        const bool swapped = (g->version & 0xffff) == 0 && g->version != 0;
        snprintf(cause, sizeof cause, swapped ? "big-endian files are not supported (version field 0x%08x)"
                                              : "GGUF version %u is not supported (2 and 3 are)", g->version);
        return refuse_at(r, 4, OT_ERR_UNSUPPORTED, cause);
    }
    if (status == OT_OK)
        status = take_u64(r, &g->n_tensors, "the tensor count");
    if (status == OT_OK)
        status = take_u64(r, &g->n_keys, "the key count");
    if (status != OT_OK)
        return status;
    if (g->n_tensors > MAX_ITEMS)
        return refuse_at(r, 8, OT_ERR_FORMAT, "the tensor count is over 1048576");
    if (g->n_keys > MAX_ITEMS)
        return refuse_at(r, 16, OT_ERR_FORMAT, "the key count is over 1048576");
    status = expect(r, g->n_keys, MIN_KEY_BYTES, "the number of keys");
    if (status == OT_OK)
        status = expect(r, g->n_tensors, MIN_TENSOR_BYTES, "the number of tensors");
    return status;
}

static ot_status read_keys(reader *r)
{
    ot_gguf *g = r->gguf;
    r->what = "key";
    g->keys = calloc(g->n_keys > 0 ? g->n_keys : 1, sizeof *g->keys);
    if (g->keys == NULL)
        return refuse_at(r, r->at, OT_ERR_NOMEM, "no memory for the keys");
    for (r->index = 0; r->index < g->n_keys; r->index++) {
        ot_status status = take_key(r, &g->keys[r->index]);
        if (status != OT_OK)
            return status;
    }
    ot_status status = index_names(r, &g->key_index, g->keys, sizeof *g->keys, g->n_keys);
    if (status != OT_OK)
        return status;
    const ot_str *found = ot_gguf_find_name(g->key_index, g->n_keys, "general.alignment", strlen("general.alignment"));
    if (found != NULL) {
        const ot_gguf_key *key = (const ot_gguf_key *)(const void *)found;
        uint32_t alignment = key->type == OT_GGUF_U32 ? ot_load_u32(g->bytes + key->at) : 0;
        r->name = key->name;
        if (alignment < 8 || alignment > MAX_ALIGNMENT || (alignment & (alignment - 1)) != 0)
            return refuse_at(r, key->at, OT_ERR_FORMAT, "the alignment must be a u32, and a power of two from 8 to 2^24");
        g->alignment = alignment;
    }
    return OT_OK;
}

/* Elements and bytes of a tensor from its dims. */
static ot_status measure_tensor(const reader *r, size_t at, ot_tensor *tensor)
{
    char cause[160];
    const uint32_t block = ot_type_block(tensor->type);
    uint64_t n = 1, bytes = 0;
    for (uint32_t i = 0; i < tensor->n_dims; i++) {
        if (tensor->dims[i] == 0)
            return refuse_at(r, at, OT_ERR_FORMAT, "a dimension is zero");
        if (__builtin_mul_overflow(n, tensor->dims[i], &n))
            return refuse_at(r, at, OT_ERR_FORMAT, "the product of its dimensions overflows");
    }
    if (tensor->dims[0] % block != 0) {
        snprintf(cause, sizeof cause, "its first dimension, %llu, is not a multiple of %u, the block of %s",
                 (unsigned long long)tensor->dims[0], block, ot_type_name(tensor->type));
        return refuse_at(r, at, OT_ERR_FORMAT, cause);
    }
    if (__builtin_mul_overflow(n / block, (uint64_t)ot_type_block_bytes(tensor->type), &bytes) || bytes > r->gguf->size) {
        snprintf(cause, sizeof cause, "its %llu elements of type %s are more than the whole file", (unsigned long long)n,
                 ot_type_name(tensor->type));
        return refuse_at(r, at, OT_ERR_FORMAT, cause);
    }
    tensor->bytes = (size_t)bytes;
    return OT_OK;
}

/* Reads one tensor header. Where the data lies is known only once all headers have been read: *offset goes to the caller. */
static ot_status take_tensor(reader *r, ot_tensor *tensor, uint64_t *offset)
{
    char cause[160];
    const size_t at = r->at;
    uint32_t type = 0;
    ot_status status = take_name(r);
    if (status != OT_OK)
        return status;
    tensor->name = r->name;
    status = take_u32(r, &tensor->n_dims, "the number of dimensions");
    if (status != OT_OK)
        return status;
    if (tensor->n_dims < 1 || tensor->n_dims > OT_GGUF_MAX_DIMS) {
        snprintf(cause, sizeof cause, "it has %u dimensions, 1 to 4 are supported", tensor->n_dims);
        return refuse_at(r, r->at - 4, OT_ERR_FORMAT, cause);
    }
    for (uint32_t i = 0; i < OT_GGUF_MAX_DIMS; i++)
        tensor->dims[i] = 1;
    for (uint32_t i = 0; i < tensor->n_dims && status == OT_OK; i++)
        status = take_u64(r, &tensor->dims[i], "a dimension");
    if (status == OT_OK)
        status = take_u32(r, &type, "the type");
    if (status != OT_OK)
        return status;
    tensor->type = (ot_type)type;
    if (ot_type_block(tensor->type) == 0) {
        snprintf(cause, sizeof cause, "tensor type %u is not known", type);
        return refuse_at(r, r->at - 4, OT_ERR_UNSUPPORTED, cause);
    }
    status = measure_tensor(r, at, tensor);
    return status == OT_OK ? take_u64(r, offset, "the data offset") : status;
}

/* Turns the offsets of all tensors into pointers. */
static ot_status place_tensors(reader *r, const uint64_t *offsets)
{
    ot_gguf *g = r->gguf;
    char cause[160];
    const size_t padded = r->at + (size_t)(g->alignment - 1);
    g->data_at = padded - padded % (size_t)g->alignment;
    const size_t available = g->data_at < g->size ? g->size - g->data_at : 0;
    for (r->index = 0; r->index < g->n_tensors; r->index++) {
        ot_tensor *tensor = &g->tensors[r->index];
        const uint64_t offset = offsets[r->index];
        const size_t header_at = (size_t)((const uint8_t *)tensor->name.data - g->bytes);
        r->name = tensor->name;
        if (offset % g->alignment != 0) {
            snprintf(cause, sizeof cause, "its data offset %llu is not a multiple of the alignment %llu",
                     (unsigned long long)offset, (unsigned long long)g->alignment);
            return refuse_at(r, header_at, OT_ERR_FORMAT, cause);
        }
        if (offset > available || tensor->bytes > available - offset) {
            snprintf(cause, sizeof cause, "its %zu bytes at data offset %llu end after the %zu bytes of tensor data",
                     tensor->bytes, (unsigned long long)offset, available);
            return refuse_at(r, header_at, OT_ERR_FORMAT, cause);
        }
        tensor->data = g->bytes + g->data_at + (size_t)offset;
    }
    return OT_OK;
}

static ot_status read_tensors(reader *r)
{
    ot_gguf *g = r->gguf;
    r->what = "tensor";
    r->name = (ot_str){NULL, 0};
    g->tensors = calloc(g->n_tensors > 0 ? g->n_tensors : 1, sizeof *g->tensors);
    uint64_t *offsets = calloc(g->n_tensors > 0 ? g->n_tensors : 1, sizeof *offsets);
    ot_status status = OT_OK;
    if (g->tensors == NULL || offsets == NULL)
        status = refuse_at(r, r->at, OT_ERR_NOMEM, "no memory for the tensor headers");
    for (r->index = 0; status == OT_OK && r->index < g->n_tensors; r->index++)
        status = take_tensor(r, &g->tensors[r->index], &offsets[r->index]);
    if (status == OT_OK)
        status = index_names(r, &g->tensor_index, g->tensors, sizeof *g->tensors, g->n_tensors);
    if (status == OT_OK)
        status = place_tensors(r, offsets);
    free(offsets);
    return status;
}

ot_status ot_gguf_index_tensors(ot_gguf *g, ot_error *err)
{
    const ot_str **index = calloc(g->n_tensors > 0 ? g->n_tensors : 1, sizeof *index);
    char name[80];
    if (index == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "%s: no memory for the index of names", g->label);
    g->tensor_index = index;
    for (uint64_t i = 0; i < g->n_tensors; i++)
        index[i] = &g->tensors[i].name;
    qsort(index, g->n_tensors, sizeof *index, compare_index);
    for (uint64_t i = 1; i < g->n_tensors; i++)
        if (ot_gguf_compare_names(*index[i - 1], *index[i]) == 0)
            return ot_fail(err, OT_ERR_FORMAT, "%s: tensor '%s' appears in two of its parts", g->label, ot_gguf_printable(name, *index[i]));
    return OT_OK;
}

ot_status ot_gguf_read_directory(ot_gguf *g, ot_error *err)
{
    reader r = {.gguf = g, .what = "header", .err = err};
    g->alignment = OT_GGUF_ALIGNMENT;
    ot_status status = read_header(&r);
    if (status == OT_OK)
        status = read_keys(&r);
    if (status == OT_OK)
        status = read_tensors(&r);
    return status;
}
