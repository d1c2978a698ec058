/* JSON Lines, plain or gzip: every row of whatever a file holds, with the error of the first that is none. */
#include "base/jsonl.h"
#include "tests/support/fuzz-target.h"

static int take(const uint8_t *data, size_t size)
{
    ot_jsonl *file = NULL;
    ot_error err;
    json_t *row = NULL;
    if (ot_jsonl_open(&file, ot_fuzz_file(data, size), &err) == OT_OK)
        while (ot_jsonl_next(file, &row, &err) == OT_OK)
            json_decref(row);
    ot_jsonl_close(&file);
    return 0;
}

OT_FUZZ_TARGET("jsonl", 1500, take)
