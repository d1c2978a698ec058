/* Writing GGUF files, version 3.
 *
 * Keys are serialised as they are put, into one growing buffer; tensor headers are kept apart, since their offsets follow from all of
 * them. Writing goes to `path.tmp`, is synced, and only then takes the name, so that a reader finds either the old file or
 * the whole new one. The first failed put is remembered and fails the write, so that a caller may check once, at the end. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "gguf/gguf-internal.h"

/* Grows by doubling; bounded by what one file's keys may take. */
#define MAX_BUFFER_BYTES ((size_t)1 << 30)

typedef struct buffer {
    uint8_t *bytes;
    size_t size, capacity;
} buffer;

struct ot_gguf_writer {
    buffer keys;       /* serialised */
    uint64_t n_keys;
    size_t *key_at;    /* offset in keys of each key's name, to find duplicates */
    size_t key_capacity;
    ot_tensor *tensors; /* names are copies, data is borrowed */
    uint64_t n_tensors;
    size_t tensor_capacity;
    ot_status failed;  /* of the first put that failed */
};

static ot_status append(buffer *b, const void *bytes, size_t n)
{
    if (n > MAX_BUFFER_BYTES - b->size)
        return OT_ERR_NOMEM;
    if (b->size + n > b->capacity) {
        size_t capacity = b->capacity > 0 ? b->capacity : 4096;
        while (capacity < b->size + n)
            capacity *= 2;
        uint8_t *grown = realloc(b->bytes, capacity);
        if (grown == NULL)
            return OT_ERR_NOMEM;
        b->bytes = grown;
        b->capacity = capacity;
    }
    if (n > 0)
        memcpy(b->bytes + b->size, bytes, n);
    b->size += n;
    return OT_OK;
}

static ot_status append_u32(buffer *b, uint32_t value)
{
    return append(b, &value, sizeof value);
}

static ot_status append_u64(buffer *b, uint64_t value)
{
    return append(b, &value, sizeof value);
}

static ot_status append_str(buffer *b, const char *data, size_t size)
{
    ot_status status = append_u64(b, size);
    return status == OT_OK ? append(b, data, size) : status;
}

/* Makes room for one more item of `each` bytes. */
static ot_status reserve(void **items, size_t *capacity, uint64_t n, size_t each)
{
    if (n < *capacity)
        return OT_OK;
    const size_t grown = *capacity > 0 ? *capacity * 2 : 64;
    void *moved = reallocarray(*items, grown, each);
    if (moved == NULL)
        return OT_ERR_NOMEM;
    *items = moved;
    *capacity = grown;
    return OT_OK;
}

ot_status ot_gguf_writer_open(ot_gguf_writer **out, ot_error *err)
{
    *out = calloc(1, sizeof **out);
    return *out != NULL ? OT_OK : ot_fail(err, OT_ERR_NOMEM, "no memory for a GGUF writer");
}

void ot_gguf_writer_close(ot_gguf_writer **writer)
{
    ot_gguf_writer *w = *writer;
    if (w == NULL)
        return;
    for (uint64_t i = 0; i < w->n_tensors; i++)
        free((char *)(uintptr_t)w->tensors[i].name.data);
    free(w->tensors);
    free(w->key_at);
    free(w->keys.bytes);
    free(w);
    *writer = NULL;
}

/* ---- Keys ---- */

static ot_str key_name(const ot_gguf_writer *w, uint64_t i)
{
    const uint8_t *at = w->keys.bytes + w->key_at[i];
    return (ot_str){(const char *)at + 8, (size_t)ot_load_u64(at)};
}

/* The alignment is the format's default and not the caller's to state. */
static bool key_allowed(const ot_gguf_writer *w, const char *key)
{
    const ot_str name = {key, strlen(key)};
    if (!ot_gguf_name_is_sound(name) || strcmp(key, "general.alignment") == 0)
        return false;
    for (uint64_t i = 0; i < w->n_keys; i++)
        if (ot_gguf_compare_names(key_name(w, i), name) == 0)
            return false;
    return true;
}

/* A key's bytes are appended piece by piece; if one piece fails, the whole key is taken back. */
static ot_status finish_key(ot_gguf_writer *w, size_t size_before, ot_status status)
{
    if (status == OT_OK) {
        w->n_keys++;
        return OT_OK;
    }
    w->keys.size = size_before;
    if (w->failed == OT_OK)
        w->failed = status;
    return status;
}

/* Name and type; the value follows. */
static ot_status begin_key(ot_gguf_writer *w, const char *key, ot_gguf_type type)
{
    if (!key_allowed(w, key))
        return OT_ERR_INVALID;
    ot_status status = reserve((void **)&w->key_at, &w->key_capacity, w->n_keys, sizeof *w->key_at);
    if (status != OT_OK)
        return status;
    w->key_at[w->n_keys] = w->keys.size;
    status = append_str(&w->keys, key, strlen(key));
    return status == OT_OK ? append_u32(&w->keys, (uint32_t)type) : status;
}

static ot_status put_scalar(ot_gguf_writer *w, const char *key, ot_gguf_type type, const void *value)
{
    const size_t before = w->keys.size;
    ot_status status = begin_key(w, key, type);
    if (status == OT_OK)
        status = append(&w->keys, value, ot_gguf_type_bytes(type));
    return finish_key(w, before, status);
}

ot_status ot_gguf_put_u32(ot_gguf_writer *w, const char *key, uint32_t value)
{
    return put_scalar(w, key, OT_GGUF_U32, &value);
}

ot_status ot_gguf_put_u64(ot_gguf_writer *w, const char *key, uint64_t value)
{
    return put_scalar(w, key, OT_GGUF_U64, &value);
}

ot_status ot_gguf_put_f32(ot_gguf_writer *w, const char *key, float value)
{
    return put_scalar(w, key, OT_GGUF_F32, &value);
}

ot_status ot_gguf_put_bool(ot_gguf_writer *w, const char *key, bool value)
{
    const uint8_t byte = value ? 1 : 0;
    return put_scalar(w, key, OT_GGUF_BOOL, &byte);
}

ot_status ot_gguf_put_str(ot_gguf_writer *w, const char *key, const char *value)
{
    const size_t before = w->keys.size;
    ot_status status = begin_key(w, key, OT_GGUF_STRING);
    if (status == OT_OK)
        status = append_str(&w->keys, value, strlen(value));
    return finish_key(w, before, status);
}

/* Element type and count; the elements follow. */
static ot_status begin_array(ot_gguf_writer *w, const char *key, ot_gguf_type element, size_t n)
{
    ot_status status = begin_key(w, key, OT_GGUF_ARRAY);
    if (status == OT_OK)
        status = append_u32(&w->keys, (uint32_t)element);
    return status == OT_OK ? append_u64(&w->keys, n) : status;
}

static ot_status put_numbers(ot_gguf_writer *w, const char *key, ot_gguf_type element, const void *values, size_t n)
{
    const size_t before = w->keys.size;
    size_t bytes = 0;
    ot_status status = begin_array(w, key, element, n);
    if (status == OT_OK && __builtin_mul_overflow(n, ot_gguf_type_bytes(element), &bytes))
        status = OT_ERR_NOMEM;
    if (status == OT_OK)
        status = append(&w->keys, values, bytes);
    return finish_key(w, before, status);
}

ot_status ot_gguf_put_u32_array(ot_gguf_writer *w, const char *key, const uint32_t *values, size_t n)
{
    return put_numbers(w, key, OT_GGUF_U32, values, n);
}

ot_status ot_gguf_put_f32_array(ot_gguf_writer *w, const char *key, const float *values, size_t n)
{
    return put_numbers(w, key, OT_GGUF_F32, values, n);
}

ot_status ot_gguf_put_str_array(ot_gguf_writer *w, const char *key, const char *const *values, size_t n)
{
    const size_t before = w->keys.size;
    ot_status status = begin_array(w, key, OT_GGUF_STRING, n);
    for (size_t i = 0; status == OT_OK && i < n; i++)
        status = append_str(&w->keys, values[i], strlen(values[i]));
    return finish_key(w, before, status);
}

/* ---- Tensors ---- */

static ot_status measure(ot_tensor *tensor, const char *name, ot_error *err)
{
    const uint32_t block = ot_type_block(tensor->type);
    uint64_t n = 1, bytes = 0;
    if (block == 0)
        return ot_fail(err, OT_ERR_UNSUPPORTED, "tensor '%s': type %u is not known", name, (unsigned)tensor->type);
    for (uint32_t i = 0; i < tensor->n_dims; i++)
        if (tensor->dims[i] == 0 || __builtin_mul_overflow(n, tensor->dims[i], &n))
            return ot_fail(err, OT_ERR_INVALID, "tensor '%s': dimension %u is zero or too large", name, i);
    if (tensor->dims[0] % block != 0)
        return ot_fail(err, OT_ERR_INVALID, "tensor '%s': its first dimension, %llu, is not a multiple of %u, the block of %s",
                       name, (unsigned long long)tensor->dims[0], block, ot_type_name(tensor->type));
    if (__builtin_mul_overflow(n / block, (uint64_t)ot_type_block_bytes(tensor->type), &bytes) || bytes > SIZE_MAX / 4)
        return ot_fail(err, OT_ERR_INVALID, "tensor '%s' is too large", name);
    tensor->bytes = (size_t)bytes;
    return OT_OK;
}

static ot_status add_tensor(ot_gguf_writer *w, const char *name, ot_tensor tensor, ot_error *err)
{
    const size_t size = strlen(name);
    for (uint64_t i = 0; i < w->n_tensors; i++)
        if (ot_gguf_compare_names(w->tensors[i].name, (ot_str){name, size}) == 0)
            return ot_fail(err, OT_ERR_INVALID, "tensor '%s' is put twice", name);
    ot_status status = measure(&tensor, name, err);
    if (status != OT_OK)
        return status;
    char *copy = strdup(name);
    if (copy == NULL || reserve((void **)&w->tensors, &w->tensor_capacity, w->n_tensors, sizeof *w->tensors) != OT_OK) {
        free(copy);
        return ot_fail(err, OT_ERR_NOMEM, "no memory for the header of tensor '%s'", name);
    }
    tensor.name = (ot_str){copy, size};
    w->tensors[w->n_tensors++] = tensor;
    return OT_OK;
}

ot_status ot_gguf_put_tensor(ot_gguf_writer *w, const char *name, ot_type type, uint32_t n_dims, const uint64_t *dims,
                             const void *data, ot_error *err)
{
    ot_status status = OT_OK;
    ot_tensor tensor = {.type = type, .n_dims = n_dims, .data = data};
    if (n_dims < 1 || n_dims > OT_GGUF_MAX_DIMS || !ot_gguf_name_is_sound((ot_str){name, strlen(name)})) {
        status = ot_fail(err, OT_ERR_INVALID, "tensor '%s': it has %u dimensions, 1 to 4 are possible, or no usable name",
                         name, n_dims);
    } else {
        for (uint32_t i = 0; i < OT_GGUF_MAX_DIMS; i++)
            tensor.dims[i] = i < n_dims ? dims[i] : 1;
        status = add_tensor(w, name, tensor, err);
    }
    if (status != OT_OK && w->failed == OT_OK)
        w->failed = status;
    return status;
}

/* ---- The file ---- */

static size_t padding_after(uint64_t size)
{
    return (size_t)((OT_GGUF_ALIGNMENT - size % OT_GGUF_ALIGNMENT) % OT_GGUF_ALIGNMENT);
}

/* Everything before the tensor data. */
static ot_status make_directory(const ot_gguf_writer *w, buffer *out)
{
    static const uint8_t zeros[OT_GGUF_ALIGNMENT];
    uint64_t offset = 0;
    ot_status status = append(out, "GGUF\3\0\0\0", 8);
    if (status == OT_OK)
        status = append_u64(out, w->n_tensors);
    if (status == OT_OK)
        status = append_u64(out, w->n_keys);
    if (status == OT_OK)
        status = append(out, w->keys.bytes, w->keys.size);
    for (uint64_t i = 0; status == OT_OK && i < w->n_tensors; i++) {
        const ot_tensor *tensor = &w->tensors[i];
        status = append_str(out, tensor->name.data, tensor->name.size);
        if (status == OT_OK)
            status = append_u32(out, tensor->n_dims);
        if (status == OT_OK)
            status = append(out, tensor->dims, tensor->n_dims * sizeof tensor->dims[0]);
        if (status == OT_OK)
            status = append_u32(out, (uint32_t)tensor->type);
        if (status == OT_OK)
            status = append_u64(out, offset);
        offset += tensor->bytes + padding_after(tensor->bytes);
    }
    return status == OT_OK ? append(out, zeros, padding_after(out->size)) : status;
}

static bool write_all(int fd, const void *bytes, size_t n)
{
    const uint8_t *at = bytes;
    while (n > 0) {
        const ssize_t written = write(fd, at, n < ((size_t)1 << 30) ? n : (size_t)1 << 30);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return false;
        at += written;
        n -= (size_t)written;
    }
    return true;
}

static bool write_contents(const ot_gguf_writer *w, const buffer *directory, int fd)
{
    static const uint8_t zeros[OT_GGUF_ALIGNMENT];
    bool good = write_all(fd, directory->bytes, directory->size);
    for (uint64_t i = 0; good && i < w->n_tensors; i++)
        good = write_all(fd, w->tensors[i].data, w->tensors[i].bytes) &&
               write_all(fd, zeros, padding_after(w->tensors[i].bytes));
    return good && fsync(fd) == 0;
}

/* The new name lasts only once the folder is on disk, too. Some file systems cannot sync folders: not an error. */
static void sync_folder_of(const char *path)
{
    char copy[PATH_MAX];
    if (strlen(path) >= sizeof copy)
        return;
    strcpy(copy, path);
    const int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

static ot_status write_file(const ot_gguf_writer *w, const buffer *directory, const char *path, const char *tmp,
                            ot_error *err)
{
    const int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return ot_fail(err, OT_ERR_IO, "%s: cannot be made: %s", tmp, strerror(errno));
    bool good = write_contents(w, directory, fd);
    int cause = errno;
    if (close(fd) != 0 && good) {
        good = false;
        cause = errno;
    }
    if (good && rename(tmp, path) != 0) {
        good = false;
        cause = errno;
    }
    if (good) {
        sync_folder_of(path);
        return OT_OK;
    }
    unlink(tmp);
    return ot_fail(err, OT_ERR_IO, "%s: cannot be written: %s", path, strerror(cause));
}

ot_status ot_gguf_write(ot_gguf_writer *w, const char *path, ot_error *err)
{
    if (w->failed != OT_OK)
        return ot_fail(err, w->failed, "%s: not written: putting a key or tensor failed before (%s)", path,
                       ot_status_name(w->failed));
    buffer directory = {0};
    const size_t size = strlen(path) + sizeof ".tmp";
    char *tmp = malloc(size);
    ot_status status = tmp != NULL ? make_directory(w, &directory) : OT_ERR_NOMEM;
    if (status != OT_OK) {
        status = ot_fail(err, status, "%s: no memory for the directory of the file", path);
    } else {
        snprintf(tmp, size, "%s.tmp", path);
        status = write_file(w, &directory, path, tmp, err);
    }
    free(tmp);
    free(directory.bytes);
    return status;
}
