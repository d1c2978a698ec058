/* JSON Lines, plain or gzip, one object a line; every error names file and line. */
#ifndef OTTER_BASE_JSONL_H
#define OTTER_BASE_JSONL_H

#include <jansson.h>

#include "base/status.h"

typedef struct ot_jsonl ot_jsonl;

ot_status ot_jsonl_open(ot_jsonl **out, const char *path, ot_error *err);
void ot_jsonl_close(ot_jsonl **jsonl);
/* The next object, owned by the caller (json_decref); empty lines are passed over. OT_ERR_NOT_FOUND at the end, without
 * touching err. */
ot_status ot_jsonl_next(ot_jsonl *jsonl, json_t **row, ot_error *err);
/* Of the last row: an error whose message begins with file:line. */
ot_status ot_jsonl_fail(const ot_jsonl *jsonl, ot_error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
