/* Fuzz targets without a fuzzer: kept inputs, and damage done to them. */
#include "tests/support/fuzz-target.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/test-support.h"

enum { MAX_INPUTS = 256, MAX_BYTES = 1 << 20 };

typedef struct input {
    char name[256];
    uint8_t *bytes;
    size_t size;
} input;

static input inputs[MAX_INPUTS];
static uint32_t n_inputs;
static ot_fuzz_take *target;
static uint32_t n_rounds;

/* ---- Files ----------------------------------------------------------------------------------------------- */

const char *ot_fuzz_file(const uint8_t *data, size_t size)
{
    static char path[512];
    if (path[0] == '\0')
        snprintf(path, sizeof path, "%s", ot_test_temp_path("input"));
    ot_test_write_file(path, data, size);
    return path;
}

static void add_input(const char *path, const char *name)
{
    if (n_inputs == MAX_INPUTS)
        return;
    input *in = &inputs[n_inputs];
    FILE *file = fopen(path, "rb");
    in->bytes = file ? malloc(MAX_BYTES) : NULL;
    if (CHECK(in->bytes != NULL)) {
        in->size = fread(in->bytes, 1, MAX_BYTES, file);
        snprintf(in->name, sizeof in->name, "%s", name);
        n_inputs++;
    }
    if (file)
        fclose(file);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const input *)a)->name, ((const input *)b)->name);
}

static void add_folder(const char *folder)
{
    char path[768];
    DIR *dir = opendir(folder);
    for (const struct dirent *entry; dir && (entry = readdir(dir)) != NULL;) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        add_input(path, entry->d_name);
    }
    if (dir)
        closedir(dir);
    qsort(inputs, n_inputs, sizeof inputs[0], by_name);
}

/* ---- Damage ---------------------------------------------------------------------------------------------- */

/* Removes `gone` bytes at `at`, and puts n others there as far as there is room. */
static size_t splice(uint8_t *bytes, size_t size, size_t at, size_t gone, const uint8_t *others, size_t n)
{
    if (size - gone + n > MAX_BYTES)
        n = MAX_BYTES - (size - gone);
    memmove(bytes + at + n, bytes + at + gone, size - at - gone);
    memcpy(bytes + at, others, n);
    return size - gone + n;
}

static size_t damage(ot_test_rng *rng, uint8_t *bytes, size_t size)
{
    static const char signs[] = "{}[]\",:\\'0919-+.eE \n\t%&*!|<>/";
    for (uint32_t n = 1 + ot_test_rng_below(rng, 6); n > 0; n--) {
        size_t at = ot_test_rng_below(rng, (uint32_t)size + 1), rest = size - at;
        size_t length = ot_test_rng_below(rng, (uint32_t)(rest < 24 ? rest : 24) + 1);
        const input *other = &inputs[ot_test_rng_below(rng, n_inputs)];
        size_t from = ot_test_rng_below(rng, (uint32_t)other->size + 1), piece = other->size - from < 32 ? other->size - from : 32;
        uint8_t byte = (uint8_t)ot_test_rng_next(rng), sign = (uint8_t)signs[ot_test_rng_below(rng, sizeof signs - 1)];
        switch (ot_test_rng_below(rng, 7)) {
        case 0: size = splice(bytes, size, at, rest > 0, &byte, 1); break;
        case 1: size = splice(bytes, size, at, rest > 0, &sign, 1); break;
        case 2: size = splice(bytes, size, at, 0, &sign, 1); break;
        case 3: size = splice(bytes, size, at, length, &sign, 0); break;
        case 4: size = splice(bytes, size, at, length, other->bytes + from, piece); break;
        case 5: size = splice(bytes, size, at, 0, other->bytes + from, piece); break;
        default:
            if (rest > 0)
                bytes[at] ^= (uint8_t)(1u << ot_test_rng_below(rng, 8));
        }
    }
    return size;
}

/* ---- Cases ----------------------------------------------------------------------------------------------- */

static void try_bytes(const uint8_t *bytes, size_t size)
{
    uint8_t *copy = ot_test_guarded_alloc(size ? size : 1, 1);
    if (!CHECK(copy != NULL))
        return;
    memcpy(copy, bytes, size);
    target(copy, size);
    ot_test_guarded_free(copy, size ? size : 1);
}

static void takes_kept_inputs(void)
{
    CHECK(n_inputs > 0);
    for (uint32_t i = 0; i < n_inputs; i++) {
        ot_test_context("%s", inputs[i].name);
        try_bytes(inputs[i].bytes, inputs[i].size);
    }
    ot_test_context(NULL);
}

static void takes_cut_inputs(void)
{
    for (uint32_t i = 0; i < n_inputs; i++)
        for (uint32_t k = 0; k < 32; k++) {
            size_t size = inputs[i].size * k / 32;
            ot_test_context("%s cut to %zu bytes", inputs[i].name, size);
            try_bytes(inputs[i].bytes, size);
        }
    ot_test_context(NULL);
}

static void takes_damaged_inputs(void)
{
    uint64_t seed = ot_test_seed(20260811);
    uint8_t *bytes = malloc(MAX_BYTES);
    REQUIRE(bytes != NULL);
    for (uint64_t round = 0; round < n_rounds && n_inputs > 0; round++) {
        ot_test_rng rng = {seed + round};
        const input *in = &inputs[ot_test_rng_below(&rng, n_inputs)];
        memcpy(bytes, in->bytes, in->size);
        ot_test_context("seed %llu, %s", (unsigned long long)(seed + round), in->name);
        try_bytes(bytes, damage(&rng, bytes, in->size));
    }
    ot_test_context(NULL);
    free(bytes);
}

int ot_fuzz_replay(int argc, char **argv, const char *name, uint32_t rounds, ot_fuzz_take *take)
{
    char folder[256];
    ot_test_start(1, argv);
    target = take;
    n_rounds = argc > 1 ? 0 : rounds;
    snprintf(folder, sizeof folder, "tests/fuzz/corpus/%s", name);
    for (int i = 1; i < argc; i++)
        add_input(argv[i], argv[i]);
    if (argc <= 1)
        add_folder(folder);
    RUN(takes_kept_inputs);
    RUN(takes_cut_inputs);
    RUN(takes_damaged_inputs);
    for (uint32_t i = 0; i < n_inputs; i++)
        free(inputs[i].bytes);
    return ot_test_finish();
}
