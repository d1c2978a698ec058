/* Errors about what a key of a file holds. For the files of engine/ that read models and insertions. */
#ifndef OTTER_GGUF_GGUF_ERRORS_H
#define OTTER_GGUF_GGUF_ERRORS_H

#include "gguf/gguf.h"

/* Fails with "FILE: key 'KEY' at byte N: CAUSE", param the key; the cause is what `format` makes. A key that the file does not have has no
 * byte. Returns code. */
ot_status ot_gguf_fail_key(const ot_gguf *gguf, ot_status code, const char *key, ot_error *err, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
/* The same of entry i of an array of strings, whose byte is the entry's: "FILE: key 'KEY'[i] at byte N: CAUSE". */
ot_status ot_gguf_fail_entry(const ot_gguf_array *array, uint64_t i, const char *key, ot_error *err, const char *cause);

#endif
