/* Lines are read through zlib, which passes plain files on as they are, into a buffer that grows up to a stated maximum. */
#include "base/jsonl.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define MAX_LINE_BYTES (64u << 20)

struct ot_jsonl {
    gzFile file;
    char *path;
    char *line;
    size_t capacity;
    unsigned long number;
};

ot_status ot_jsonl_open(ot_jsonl **out, const char *path, ot_error *err)
{
    *out = NULL;
    ot_jsonl *j = calloc(1, sizeof *j);
    if (j == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory");
    j->capacity = 1 << 16;
    j->path = strdup(path);
    j->line = malloc(j->capacity);
    if (j->path == NULL || j->line == NULL) {
        ot_jsonl_close(&j);
        return ot_fail(err, OT_ERR_NOMEM, "out of memory");
    }
    j->file = gzopen(path, "rb");
    if (j->file == NULL) {
        ot_jsonl_close(&j);
        return ot_fail(err, OT_ERR_IO, "%s: cannot be opened for reading", path);
    }
    gzbuffer(j->file, 1 << 17);
    *out = j;
    return OT_OK;
}

void ot_jsonl_close(ot_jsonl **jsonl)
{
    ot_jsonl *j = *jsonl;
    if (j == NULL)
        return;
    if (j->file != NULL)
        gzclose(j->file);
    free(j->path);
    free(j->line);
    free(j);
    *jsonl = NULL;
}

ot_status ot_jsonl_fail(const ot_jsonl *j, ot_error *err, const char *format, ...)
{
    char what[320];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return ot_fail(err, OT_ERR_FORMAT, "%s:%lu: %s", j->path, j->number, what);
}

/* Reads one line into j->line without its newline; *size excludes the closing zero. */
static ot_status read_line(ot_jsonl *j, size_t *size, ot_error *err)
{
    size_t n = 0;
    for (;;) {
        if (gzgets(j->file, j->line + n, (int)(j->capacity - n)) == NULL) {
            int code;
            const char *text = gzerror(j->file, &code);
            if (code != Z_OK && code != Z_STREAM_END) {
                j->number++;
                return ot_jsonl_fail(j, err, "reading failed: %s", text);
            }
            if (n == 0)
                return OT_ERR_NOT_FOUND;
            break;
        }
        n += strlen(j->line + n);
        if (n > 0 && j->line[n - 1] == '\n')
            break;
        if (n + 1 < j->capacity)
            continue; /* the end of a file without a newline, or a zero byte, which the parser will refuse */
        if (j->capacity >= MAX_LINE_BYTES) {
            j->number++;
            return ot_jsonl_fail(j, err, "the line is longer than %u bytes", MAX_LINE_BYTES);
        }
        char *larger = realloc(j->line, j->capacity * 2);
        if (larger == NULL)
            return ot_fail(err, OT_ERR_NOMEM, "out of memory");
        j->line = larger;
        j->capacity *= 2;
    }
    *size = n;
    j->number++;
    return OT_OK;
}

ot_status ot_jsonl_next(ot_jsonl *j, json_t **row, ot_error *err)
{
    size_t n = 0;
    ot_status st;
    do {
        st = read_line(j, &n, err);
        if (st != OT_OK)
            return st;
    } while (strspn(j->line, " \t\r\n") == n);
    json_error_t why;
    *row = json_loadb(j->line, n, JSON_REJECT_DUPLICATES, &why);
    if (*row == NULL)
        return ot_jsonl_fail(j, err, "not JSON: %s (column %d)", why.text, why.column);
    if (!json_is_object(*row)) {
        json_decref(*row);
        return ot_jsonl_fail(j, err, "not a JSON object");
    }
    return OT_OK;
}
