#include "tests/support/golden-file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Manifest -------------------------------------------------------------------------------------------- */

static bool read_insertion(ot_golden_case *c, const char *folder, char **rest)
{
    const char *name = strtok_r(NULL, " ", rest), *file = strtok_r(NULL, " ", rest);
    if (name == NULL || file == NULL || c->n_insertions == OT_GOLDEN_MAX_INSERTIONS)
        return false;
    ot_golden_insertion *insertion = &c->insertions[c->n_insertions];
    snprintf(insertion->name, sizeof insertion->name, "%s", name);
    snprintf(insertion->path, sizeof insertion->path, "%s/%s", folder, file);
    for (const char *parent; (parent = strtok_r(NULL, " ", rest)) != NULL;) {
        uint32_t i = 0;
        while (i < c->n_insertions && strcmp(c->insertions[i].name, parent) != 0)
            i++;
        if (i == c->n_insertions || insertion->n_parents == OT_GOLDEN_MAX_PARENTS)
            return false;
        insertion->parents[insertion->n_parents++] = i;
    }
    c->n_insertions++;
    return true;
}

static bool read_tolerance(const char *first, char **rest, double *scores, double *logits)
{
    const char *second = strtok_r(NULL, " ", rest);
    *scores = atof(first);
    *logits = second != NULL ? atof(second) : 0;
    return *scores > 0 && *logits > 0;
}

/* One line, without its newline, of the case being read (m->cases[m->n_cases]). */
static bool read_line(ot_golden_manifest *m, const char *folder, char *line)
{
    if (m->n_cases == OT_GOLDEN_MAX_CASES)
        return false;
    ot_golden_case *c = &m->cases[m->n_cases];
    char *rest = NULL;
    const char *word = strtok_r(line, " ", &rest);
    if (word == NULL)
        return true;
    if (strcmp(word, "end") == 0) {
        m->n_cases++;
        return true;
    }
    if (strcmp(word, "insertion") == 0)
        return read_insertion(c, folder, &rest);
    const char *value = strtok_r(NULL, " ", &rest);
    if (value == NULL)
        return false;
    if (strcmp(word, "case") == 0) {
        *c = (ot_golden_case){.n_insertions = 0};
        snprintf(c->name, sizeof c->name, "%s", value);
    } else if (strcmp(word, "model") == 0) {
        snprintf(c->model_path, sizeof c->model_path, "%s/%s", folder, value);
    } else if (strcmp(word, "expected") == 0) {
        snprintf(c->expected_path, sizeof c->expected_path, "%s/%s", folder, value);
    } else if (strcmp(word, "tolerance") == 0) {
        return read_tolerance(value, &rest, &c->score_tolerance, &c->logit_tolerance);
    } else if (strcmp(word, "half-tolerance") == 0) {
        return read_tolerance(value, &rest, &c->half_score_tolerance, &c->half_logit_tolerance);
    } else {
        return false;
    }
    return true;
}

bool ot_golden_read_manifest(ot_golden_manifest *manifest, const char *folder)
{
    char path[600], line[600];
    snprintf(path, sizeof path, "%s/manifest.txt", folder);
    manifest->n_cases = 0;
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        printf("cannot open %s\n", path);
        return false;
    }
    bool good = true;
    for (int number = 1; good && fgets(line, sizeof line, file) != NULL; number++) {
        line[strcspn(line, "\n")] = '\0';
        char copy[600];
        memcpy(copy, line, sizeof copy);
        good = read_line(manifest, folder, line);
        if (!good)
            printf("%s:%d: cannot read '%s'\n", path, number, copy);
    }
    fclose(file);
    return good && manifest->n_cases > 0;
}

/* ---- Expected results ------------------------------------------------------------------------------------ */

/* Walks through the file; `left` counts bytes, and runs out instead of running over. */
typedef struct cursor {
    const uint8_t *at;
    size_t left;
    bool good;
} cursor;

/* n items of four bytes: everything in the file is made of them, so all of it stays aligned. */
static const void *take(cursor *c, size_t n)
{
    const void *taken = c->at;
    if (!c->good || n > c->left / 4) {
        c->good = false;
        return NULL;
    }
    c->at += 4 * n;
    c->left -= 4 * n;
    return taken;
}

static bool parse(ot_golden_expected *e, cursor *c)
{
    const char *magic = take(c, 2);
    const uint32_t *header = take(c, 5);
    if (!c->good || memcmp(magic, "OTGOLD02", 8) != 0 || header[2] > OT_GOLDEN_MAX_INSERTIONS)
        return false;
    e->n_tokens = header[0];
    e->n_vocab = header[1];
    e->n_insertions = header[2];
    e->n_candidates = header[3];
    e->position = header[4];
    e->widths = take(c, e->n_insertions);
    e->tokens = take(c, e->n_tokens);
    e->logits = take(c, (size_t)e->n_tokens * e->n_vocab);
    for (uint32_t i = 0; i < e->n_insertions && c->good; i++)
        e->scores[i] = take(c, (size_t)e->n_tokens * e->widths[i]);
    e->half_logits = take(c, (size_t)e->n_tokens * e->n_vocab);
    for (uint32_t i = 0; i < e->n_insertions && c->good; i++)
        e->half_scores[i] = take(c, (size_t)e->n_tokens * e->widths[i]);
    e->candidates = take(c, e->n_candidates);
    e->candidate_logits = take(c, (size_t)e->n_candidates * e->n_vocab);
    for (uint32_t i = 0; i < e->n_insertions && c->good; i++)
        e->candidate_scores[i] = take(c, (size_t)e->n_candidates * e->widths[i]);
    return c->good && c->left == 0 && e->position < e->n_tokens;
}

bool ot_golden_read_expected(ot_golden_expected *expected, const char *path)
{
    *expected = (ot_golden_expected){.n_tokens = 0};
    FILE *file = fopen(path, "rb");
    long size = -1;
    if (file != NULL && fseek(file, 0, SEEK_END) == 0)
        size = ftell(file);
    if (size > 0 && fseek(file, 0, SEEK_SET) == 0)
        expected->data = malloc((size_t)size);
    bool good = expected->data != NULL && fread(expected->data, 1, (size_t)size, file) == (size_t)size;
    if (file != NULL)
        fclose(file);
    cursor c = {.at = expected->data, .left = good ? (size_t)size : 0, .good = good};
    good = good && parse(expected, &c);
    if (!good)
        printf("cannot read %s\n", path);
    return good;
}

void ot_golden_close_expected(ot_golden_expected *expected)
{
    free(expected->data);
    *expected = (ot_golden_expected){.n_tokens = 0};
}
