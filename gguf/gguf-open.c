/* Opening and closing GGUF files, and what an open one tells.
 *
 * A file is mapped, and stays so while it is open; one that is cut short or overwritten in place meanwhile is noticed (gguf-guard.c). One that is
 * replaced by renaming another over it, as ot_gguf_write does, stays whole for whoever has it open. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gguf/gguf-internal.h"

static ot_status set_path(ot_gguf *g, const char *path, ot_error *err)
{
    const size_t length = strlen(path);
    if (length < sizeof g->label)
        memcpy(g->label, path, length + 1);
    else
        snprintf(g->label, sizeof g->label, "...%s", path + length - (sizeof g->label - 4));
    g->path = strdup(path);
    return g->path != NULL ? OT_OK : ot_fail(err, OT_ERR_NOMEM, "%s: no memory for the path", g->label);
}

/* Reads the directory of g, whose bytes and size are set, or closes it. */
static ot_status read_all(ot_gguf **out, ot_gguf *g, const char *path, ot_error *err)
{
    ot_status status = set_path(g, path, err);
    if (status == OT_OK)
        status = ot_gguf_read_directory(g, err);
    if (status == OT_OK)
        status = ot_gguf_check(g, err);
    if (status == OT_OK)
        *out = g;
    else
        ot_gguf_close(&g);
    return status;
}

ot_status ot_gguf_open_memory(ot_gguf **out, const void *data, size_t bytes, const char *name, ot_error *err)
{
    *out = NULL;
    ot_gguf *g = calloc(1, sizeof *g);
    if (g == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "%s: no memory to open it", name);
    g->bytes = data;
    g->size = bytes;
    return read_all(out, g, name, err);
}

/* O_NONBLOCK: a named pipe must not block the server before it can be refused. */
static ot_status map_file(ot_gguf *g, const char *path, ot_error *err)
{
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return ot_fail(err, OT_ERR_IO, "%s: cannot be opened: %s", path, strerror(errno));
    ot_status status = OT_OK;
    if (fstat(fd, &info) != 0)
        status = ot_fail(err, OT_ERR_IO, "%s: cannot be examined: %s", path, strerror(errno));
    else if (!S_ISREG(info.st_mode))
        status = ot_fail(err, OT_ERR_FORMAT, "%s: not a regular file", path);
    else if (info.st_size <= 0 || (uintmax_t)info.st_size > SIZE_MAX / 2)
        status = ot_fail(err, OT_ERR_FORMAT, "%s: header at byte 0: the file is %s", path,
                         info.st_size <= 0 ? "empty" : "too large to be mapped");
    if (status == OT_OK) {
        void *bytes = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (bytes == MAP_FAILED) {
            status = ot_fail(err, OT_ERR_IO, "%s: cannot be mapped: %s", path, strerror(errno));
        } else {
            g->bytes = bytes;
            g->size = (size_t)info.st_size;
            g->mapped = true;
            g->file = fd;
            g->modified = info.st_mtim;
            status = ot_gguf_guard(g, path, err);
        }
    }
    if (!g->mapped)
        close(fd);
    return status;
}

ot_status ot_gguf_open_part(ot_gguf **out, const char *path, ot_error *err)
{
    *out = NULL;
    ot_gguf *g = calloc(1, sizeof *g);
    if (g == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "%s: no memory to open it", path);
    ot_status status = map_file(g, path, err);
    if (status != OT_OK) {
        ot_gguf_close(&g);
        return status;
    }
    return read_all(out, g, path, err);
}

ot_status ot_gguf_open(ot_gguf **out, const char *path, ot_error *err)
{
    ot_gguf *g;
    *out = NULL;
    ot_status status = ot_gguf_open_part(&g, path, err);
    if (status == OT_OK)
        status = ot_gguf_open_parts(g, err);
    if (status == OT_OK)
        *out = g;
    else
        ot_gguf_close(&g);
    return status;
}

void ot_gguf_close(ot_gguf **gguf)
{
    ot_gguf *g = *gguf;
    if (g == NULL)
        return;
    for (uint32_t i = 0; i < g->n_parts; i++)
        ot_gguf_close(&g->parts[i]);
    free(g->parts);
    for (uint64_t i = 0; g->keys != NULL && i < g->n_keys; i++)
        free(g->keys[i].string_at);
    free(g->keys);
    free(g->tensors);
    free(g->key_index);
    free(g->tensor_index);
    free(g->path);
    ot_gguf_unguard(g);
    if (g->mapped) {
        munmap((void *)(uintptr_t)g->bytes, g->size);
        close(g->file);
    }
    free(g);
    *gguf = NULL;
}

const char *ot_gguf_path(const ot_gguf *gguf)
{
    return gguf->path;
}

uint32_t ot_gguf_version(const ot_gguf *gguf)
{
    return gguf->version;
}

size_t ot_gguf_file_bytes(const ot_gguf *gguf)
{
    size_t bytes = gguf->size;
    for (uint32_t i = 0; i < gguf->n_parts; i++)
        bytes += gguf->parts[i]->size;
    return bytes;
}

uint64_t ot_gguf_tensor_count(const ot_gguf *gguf)
{
    return gguf->n_tensors;
}

const ot_tensor *ot_gguf_tensor_at(const ot_gguf *gguf, uint64_t i)
{
    return &gguf->tensors[i];
}

const ot_tensor *ot_gguf_tensor(const ot_gguf *gguf, const char *name)
{
    return (const ot_tensor *)(const void *)ot_gguf_find_name(gguf->tensor_index, gguf->n_tensors, name, strlen(name));
}

static void drop_all_pages(const ot_gguf *g)
{
    if (g->mapped)
        madvise((void *)(uintptr_t)g->bytes, g->size, MADV_DONTNEED);
}

void ot_gguf_drop_pages(const ot_gguf *g)
{
    drop_all_pages(g);
    for (uint32_t i = 0; i < g->n_parts; i++)
        drop_all_pages(g->parts[i]);
}

/* Pages that the bytes share with their neighbours go too, and come back with them. */
void ot_gguf_drop_bytes(const ot_gguf *g, const uint8_t *data, size_t bytes)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)data / page * page;
    if (g->mapped && bytes >= 16 * page) /* a call costs more than a few pages are worth */
        madvise((void *)begin, (uintptr_t)data + bytes - begin, MADV_DONTNEED);
}

void ot_gguf_drop_tensor(const ot_gguf *g, const ot_tensor *tensor)
{
    ot_gguf_drop_bytes(g, tensor->data, tensor->bytes);
}
