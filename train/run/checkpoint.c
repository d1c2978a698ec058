/* Layout, in the machine's own byte order (a checkpoint is for the machine that wrote it):
 *     magic[8], n_params u64, n_values u64, ot_run_state, adam steps u64, weights, m, v    (n_values floats each) */
#include "train/run/checkpoint.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char magic[8] = "ottrun1\n";

typedef struct header {
    char magic[8];
    uint64_t n_params, n_values;
    ot_run_state state;
    uint64_t adam_steps;
} header;

static bool write_all(FILE *f, ot_insertion *x, const ot_adamw *adam, const header *h)
{
    bool good = fwrite(h, sizeof *h, 1, f) == 1;
    for (uint32_t i = 0; good && i < ot_insertion_n_params(x); i++) {
        const ot_param *p = ot_insertion_param(x, i);
        const size_t n = (size_t)p->n_in * p->n_out;
        good = fwrite(p->data, sizeof(float), n, f) == n;
    }
    good = good && fwrite(adam->m, sizeof(float), adam->n_values, f) == adam->n_values &&
           fwrite(adam->v, sizeof(float), adam->n_values, f) == adam->n_values;
    return good && fflush(f) == 0 && fsync(fileno(f)) == 0;
}

ot_status ot_checkpoint_write(const char *path, ot_insertion *insertion, const ot_adamw *adam, const ot_run_state *state,
                              ot_error *err)
{
    header h;
    memset(&h, 0, sizeof h);
    memcpy(h.magic, magic, sizeof magic);
    h.n_params = ot_insertion_n_params(insertion);
    h.n_values = adam->n_values;
    h.state = *state;
    h.adam_steps = adam->n_steps;
    const size_t size = strlen(path) + 5;
    char *temporary = malloc(size);
    if (temporary == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory");
    snprintf(temporary, size, "%s.tmp", path);
    FILE *f = fopen(temporary, "wb");
    bool good = f != NULL && write_all(f, insertion, adam, &h);
    if (f != NULL && fclose(f) != 0)
        good = false;
    good = good && rename(temporary, path) == 0;
    const int why = errno;
    if (!good)
        unlink(temporary);
    free(temporary);
    return good ? OT_OK : ot_fail(err, OT_ERR_IO, "%s: the checkpoint cannot be written: %s", path, strerror(why));
}

static bool read_all(FILE *f, ot_insertion *x, ot_adamw *adam)
{
    bool good = true;
    for (uint32_t i = 0; good && i < ot_insertion_n_params(x); i++) {
        const ot_param *p = ot_insertion_param(x, i);
        const size_t n = (size_t)p->n_in * p->n_out;
        good = fread(p->data, sizeof(float), n, f) == n;
    }
    return good && fread(adam->m, sizeof(float), adam->n_values, f) == adam->n_values &&
           fread(adam->v, sizeof(float), adam->n_values, f) == adam->n_values;
}

ot_status ot_checkpoint_read(const char *path, ot_insertion *insertion, ot_adamw *adam, ot_run_state *state, ot_error *err)
{
    header h;
    struct stat info;
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        return ot_fail(err, OT_ERR_IO, "%s: %s", path, strerror(errno));
    ot_status st = OT_OK;
    if (fread(&h, sizeof h, 1, f) != 1 || memcmp(h.magic, magic, sizeof magic) != 0)
        st = ot_fail(err, OT_ERR_FORMAT, "%s: not a checkpoint", path);
    else if (h.n_params != ot_insertion_n_params(insertion) || h.n_values != adam->n_values)
        st = ot_fail(err, OT_ERR_MISMATCH, "%s: a checkpoint of %llu values in %llu tensors, this run has %zu in %u", path,
                     (unsigned long long)h.n_values, (unsigned long long)h.n_params, adam->n_values,
                     ot_insertion_n_params(insertion));
    else if (fstat(fileno(f), &info) != 0 || (uint64_t)info.st_size != sizeof h + 3 * sizeof(float) * h.n_values)
        st = ot_fail(err, OT_ERR_FORMAT, "%s: the checkpoint is cut short", path);
    else if (!read_all(f, insertion, adam))
        st = ot_fail(err, OT_ERR_IO, "%s: the checkpoint cannot be read", path);
    fclose(f);
    if (st != OT_OK)
        return st;
    *state = h.state;
    adam->n_steps = h.adam_steps;
    ot_insertion_commit(insertion, NULL);
    return OT_OK;
}
