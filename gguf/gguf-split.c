/* Models in several files, NAME-00001-of-0000N.gguf: the first part holds the keys, and every part its own tensors. Opening the first
 * opens them all, and its directory becomes that of the whole, as if it were one file: who reads tensors, checks the files or takes the
 * fingerprint sees no difference. A part is a file like any other, checked like one; that it is part i of N, with as many tensors
 * in all as the first says, is checked here. */
#include <stdio.h>
#include <stdlib.h>

#include "gguf/gguf-internal.h"

enum { MAX_PARTS = 99999 }; /* five digits */

/* Sets dst to the path of part `number` (from 1), given that of the first. */
static ot_status part_path(char *dst, size_t size, const ot_gguf *g, uint32_t number, uint32_t n, ot_error *err)
{
    char ending[40];
    const size_t length = strlen(g->path), n_ending = (size_t)snprintf(ending, sizeof ending, "-00001-of-%05u.gguf", n);
    if (length < n_ending || strcmp(g->path + length - n_ending, ending) != 0)
        return ot_fail(err, OT_ERR_FORMAT, "%s: the first of %u parts; its name must end with %s, for the others to be found", g->label, n,
                       ending);
    snprintf(dst, size, "%.*s-%05u-of-%05u.gguf", (int)(length - n_ending), g->path, number, n);
    return OT_OK;
}

static ot_status open_part(ot_gguf *g, uint32_t i, uint32_t n, ot_error *err)
{
    uint32_t number = 0, count = 0;
    const size_t size = strlen(g->path) + 1;
    char *path = malloc(size);
    if (path == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "%s: no memory for the path of a part", g->label);
    ot_status status = part_path(path, size, g, i + 1, n, err);
    if (status == OT_OK)
        status = ot_gguf_open_part(&g->parts[i - 1], path, err);
    if (status == OT_OK && (ot_gguf_get_u32(g->parts[i - 1], "split.no", &number, NULL) != OT_OK || number != i ||
                            ot_gguf_get_u32(g->parts[i - 1], "split.count", &count, NULL) != OT_OK || count != n))
        status = ot_fail(err, OT_ERR_FORMAT, "%s: keys 'split.no' and 'split.count' say part %u of %u, expected %u of %u", path, number + 1,
                         count, i + 1, n);
    free(path);
    return status;
}

/* Takes the parts' tensors into g's directory. */
static ot_status join_tensors(ot_gguf *g, uint32_t n, ot_error *err)
{
    uint64_t total = g->n_tensors, expected = 0;
    for (uint32_t i = 1; i < n; i++)
        total += g->parts[i - 1]->n_tensors;
    uint32_t stated;
    if (ot_gguf_get_u32(g, "split.tensors.count", &stated, NULL) == OT_OK)
        expected = stated;
    if (expected != 0 && expected != total)
        return ot_fail(err, OT_ERR_FORMAT, "%s: key 'split.tensors.count' is %llu, but the %u parts have %llu tensors", g->label,
                       (unsigned long long)expected, n, (unsigned long long)total);
    ot_tensor *all = calloc(total > 0 ? total : 1, sizeof *all);
    if (all == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "%s: no memory for the tensors of all parts", g->label);
    uint64_t at = 0;
    for (uint32_t i = 0; i < n; i++) {
        const ot_gguf *part = i == 0 ? g : g->parts[i - 1];
        memcpy(all + at, part->tensors, part->n_tensors * sizeof *all);
        at += part->n_tensors;
    }
    free(g->tensors);
    free(g->tensor_index);
    g->tensors = all;
    g->n_tensors = total;
    g->tensor_index = NULL;
    return ot_gguf_index_tensors(g, err);
}

ot_status ot_gguf_open_parts(ot_gguf *g, ot_error *err)
{
    uint32_t number = 0, n = 0;
    if (ot_gguf_get_u32(g, "split.count", &n, NULL) != OT_OK || n <= 1)
        return OT_OK;
    if (ot_gguf_get_u32(g, "split.no", &number, NULL) == OT_OK && number != 0)
        return ot_fail(err, OT_ERR_FORMAT, "%s: part %u of %u; open the first part, whose name ends with -00001-of-%05u.gguf", g->label,
                       number + 1, n, n);
    if (n > MAX_PARTS)
        return ot_fail(err, OT_ERR_FORMAT, "%s: key 'split.count' is %u, expected at most %d", g->label, n, MAX_PARTS);
    g->parts = calloc(n - 1, sizeof *g->parts);
    if (g->parts == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "%s: no memory for %u parts", g->label, n);
    g->n_parts = n - 1;
    for (uint32_t i = 1; i < n; i++) {
        const ot_status status = open_part(g, i, n, err);
        if (status != OT_OK)
            return status;
    }
    return join_tensors(g, n, err);
}
