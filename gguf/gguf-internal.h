/* What the gguf-*.c files share: the parsed directory of a file. Nobody else includes this.
 *
 * Lookup is a binary search in pointers sorted by name. That costs O(n log n) whatever the names are, so that a file made to
 * collide in a hash cannot stall the server; equal neighbours are the duplicates that opening refuses; and the order
 * is the one that the fingerprint needs. */
#ifndef OTTER_GGUF_GGUF_INTERNAL_H
#define OTTER_GGUF_GGUF_INTERNAL_H

#include <string.h>
#include <time.h>

#include "gguf/gguf.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF data is used in place and is little-endian");

#define OT_GGUF_ALIGNMENT 32 /* where general.alignment is missing */

typedef struct ot_gguf_key {
    ot_str name;          /* first: see ot_gguf_find_name */
    ot_gguf_type type;
    ot_gguf_type element; /* arrays: type of the elements */
    uint64_t count;       /* arrays: number of elements */
    size_t at;            /* offset of the value; of an array, of its first element */
    uint64_t *string_at;  /* arrays of strings: offset of each length field; owned */
} ot_gguf_key;

struct ot_gguf {
    const uint8_t *bytes;
    size_t size;
    bool mapped;              /* bytes is our mapping, else borrowed: there is no file then */
    int file;                 /* open as long as it is mapped, to see ... */
    struct timespec modified; /* ... whether it was written to */
    int guard;                /* 1 + its entry in gguf-guard.c; 0: none */
    char *path;
    char label[128];          /* the path as messages show it: its end, if it is long */
    uint32_t version;
    uint64_t alignment;
    size_t data_at;           /* offset of the tensor data */
    uint64_t n_keys, n_tensors;
    ot_gguf_key *keys;        /* file order */
    ot_tensor *tensors;       /* file order */
    const ot_str **key_index; /* the names in keys / tensors, sorted */
    const ot_str **tensor_index;
    struct ot_gguf **parts;   /* the other files of a model in several; `tensors` has theirs too */
    uint32_t n_parts;
};

/* The member `name` of the item of this name, which is also the item's address; NULL if there is none. */
const ot_str *ot_gguf_find_name(const ot_str *const *index, uint64_t n, const char *name, size_t size);
/* Bytewise order, a prefix first. */
int ot_gguf_compare_names(ot_str a, ot_str b);
/* Of a key or tensor: 1 to 65535 bytes, none of them a control character. */
bool ot_gguf_name_is_sound(ot_str name);
/* A name from a file, made fit for a message: cut, and control or non-ASCII bytes replaced. Returns dst. */
char *ot_gguf_printable(char dst[80], ot_str name);
/* Bytes of one value; 0 for strings and arrays. */
size_t ot_gguf_type_bytes(ot_gguf_type type);
const char *ot_gguf_type_name(ot_gguf_type type);

/* Reads keys and tensor headers of an opened file, whose bytes, size and label are set. err names the key or tensor, and the offset. What was
 * made before a failure is freed by ot_gguf_close. */
ot_status ot_gguf_read_directory(ot_gguf *gguf, ot_error *err);
/* Indexes g's tensors by name again; two of one name are refused. */
ot_status ot_gguf_index_tensors(ot_gguf *gguf, ot_error *err);
/* Opens a file by itself, whatever it says of others. */
ot_status ot_gguf_open_part(ot_gguf **out, const char *path, ot_error *err);
/* Opens the other files of a model whose first file has been read, if there are any, and takes in their tensors. */
ot_status ot_gguf_open_parts(ot_gguf *gguf, ot_error *err);
/* ot_gguf_drop_tensor of a part of one. */
void ot_gguf_drop_bytes(const ot_gguf *gguf, const uint8_t *data, size_t bytes);
/* Registers a mapping, whose bytes and size are set, for the handler of SIGBUS, and takes it out again before it is unmapped. */
ot_status ot_gguf_guard(ot_gguf *gguf, const char *path, ot_error *err);
void ot_gguf_unguard(ot_gguf *gguf);

static inline uint32_t ot_load_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint64_t ot_load_u64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

#endif
