/* engine-dump f16|f32 MODEL IDS OUT [HEAD ...]: what the engine makes of given tokens, for test_accuracy.py.
 *
 * IDS: one line of token ids for each text. OUT: little-endian float32, rows of 1 + outputs numbers, for i = 1 .. n - 1 of each text in
 * turn: log p(token i | tokens before it) in nats, and then the scores, at token i - 1, of each output of each HEAD, an
 * insertion file without parents; of a generation head, log p(token i) by softmax(base logits + its values). The first word is the type of keys and values. Exit status: 0 done, 1 failed, 2 wrong usage. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "tests/support/kv-units.h"

#define CHUNK 64
#define MAX_TOKENS 8192
#define MAX_HEADS 8
#define MAX_COLUMNS (1 + MAX_HEADS * OT_MAX_HEADS)

typedef struct scorer {
    ot_model *model;
    ot_engine *engine;
    ot_kv_type kv_type;
    uint32_t n_vocab;
    float *logits; /* (CHUNK, n_vocab) */
    float *values; /* (n_vocab) */
    uint32_t n_heads;
    ot_insertion *heads[MAX_HEADS];
    FILE *out;
} scorer;

/* Ids of the next line; 0 at the end of the file, -1 for what is no list of ids of the model. */
static int read_ids(FILE *file, int32_t *ids, uint32_t n_vocab)
{
    static char line[MAX_TOKENS * 8];
    int n = 0;
    if (fgets(line, sizeof line, file) == NULL)
        return 0;
    for (char *at = line, *end; ; at = end) {
        errno = 0;
        const long id = strtol(at, &end, 10);
        if (end == at)
            break;
        if (errno != 0 || id < 0 || (unsigned long)id >= n_vocab || n == MAX_TOKENS)
            return -1;
        ids[n++] = (int32_t)id;
    }
    return n > 1 ? n : -1;
}

static float log_probability(const float *logits, uint32_t n, int32_t token)
{
    double max = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n; i++)
        max = logits[i] > max ? logits[i] : max;
    for (uint32_t i = 0; i < n; i++)
        sum += exp(logits[i] - max);
    return (float)(logits[token] - max - log(sum));
}

/* The log-probability of `next` with a generation head's values added to the base's logits. */
static ot_status score_generation(scorer *s, uint32_t row, const ot_insertion *head, uint32_t output, int32_t next, float *score,
                                  ot_error *err)
{
    const ot_head_rows rows = {head, output, 1, &row, &s->values, NULL, 0};
    const ot_status st = ot_engine_project_heads(s->engine, &rows, 1, err);
    for (uint32_t v = 0; v < s->n_vocab; v++)
        s->values[v] += s->logits[(size_t)row * s->n_vocab + v];
    *score = log_probability(s->values, s->n_vocab, next);
    return st;
}

/* One row of the output file: the log-probability of `next` and all scores, of row i of the last batch. */
static ot_status write_row(scorer *s, uint32_t i, int32_t next, ot_error *err)
{
    float columns[MAX_COLUMNS];
    uint32_t n = 0;
    ot_status st = OT_OK;
    columns[n++] = log_probability(s->logits + (size_t)i * s->n_vocab, s->n_vocab, next);
    for (uint32_t h = 0; h < s->n_heads; h++) {
        const ot_insertion_spec *spec = &ot_insertion_get_info(s->heads[h])->spec;
        for (uint32_t o = 0; st == OT_OK && o < spec->n_outputs; o++, n++)
            if (spec->kind == OT_HEAD_GENERATION)
                st = score_generation(s, i, s->heads[h], o, next, &columns[n], err);
            else
                columns[n] = ot_engine_score(s->engine, i, s->heads[h], o);
    }
    if (st != OT_OK)
        return st;
    return fwrite(columns, sizeof columns[0], n, s->out) == n ? OT_OK : ot_fail(err, OT_ERR_IO, "cannot write the results");
}

/* Positions [begin, begin + n) of a text, each of which predicts the next token. */
static ot_status score_chunk(scorer *s, const ot_test_kv *kv, const int32_t *ids, uint32_t begin, uint32_t n, ot_error *err)
{
    ot_row rows[CHUNK];
    uint32_t list[CHUNK];
    float *logits[CHUNK];
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t p = begin + i;
        rows[i] = (ot_row){.token = ids[p], .position = p, .slot = p, .n_prefix = p + 1, .flags = OT_ROW_OUTPUT};
        list[i] = i;
        logits[i] = s->logits + (size_t)i * s->n_vocab;
    }
    const ot_batch batch = {.n_rows = n, .rows = rows, .n_sequences = 1, .sequences = &kv->view};
    ot_status st = ot_engine_forward(s->engine, &batch, err);
    if (st == OT_OK)
        st = ot_engine_project(s->engine, list, n, logits, err);
    for (uint32_t i = 0; st == OT_OK && i < n; i++)
        st = write_row(s, i, ids[begin + i + 1], err);
    return st;
}

static ot_status score_text(scorer *s, const int32_t *ids, uint32_t n, ot_error *err)
{
    ot_test_kv kv;
    ot_status st = ot_test_kv_open(&kv, s->model, s->kv_type, (const ot_insertion *const *)s->heads, s->n_heads, n, 1);
    if (st != OT_OK)
        return ot_fail(err, st, "no memory for keys and values");
    for (uint32_t at = 0; st == OT_OK && at + 1 < n; at += CHUNK)
        st = score_chunk(s, &kv, ids, at, n - 1 - at < CHUNK ? n - 1 - at : CHUNK, err);
    ot_test_kv_close(&kv);
    return st;
}

static ot_status open_heads(scorer *s, char **paths, int n, ot_error *err)
{
    ot_status st = OT_OK;
    for (int i = 0; st == OT_OK && i < n; i++) {
        char name[16];
        snprintf(name, sizeof name, "head%d", i);
        st = ot_insertion_open(&s->heads[i], s->model, name, paths[i], NULL, 0, NULL, err);
        s->n_heads += st == OT_OK;
    }
    return st;
}

static ot_status open_engine(scorer *s, ot_error *err)
{
    ot_engine_options options;
    ot_engine_options_default(&options);
    options.max_rows = CHUNK;
    options.max_context = MAX_TOKENS;
    options.max_insertions = MAX_HEADS;
    options.kv_type = s->kv_type;
    ot_status st = ot_engine_open(&s->engine, s->model, &options, err);
    if (st != OT_OK)
        return st;
    s->n_vocab = ot_model_get_info(s->model)->n_vocab;
    s->logits = malloc((size_t)CHUNK * s->n_vocab * sizeof(float));
    s->values = malloc(s->n_vocab * sizeof(float));
    return s->logits != NULL && s->values != NULL ? OT_OK : ot_fail(err, OT_ERR_NOMEM, "no memory for logits");
}

static ot_status score_file(scorer *s, FILE *file, ot_error *err)
{
    static int32_t ids[MAX_TOKENS];
    ot_status st = OT_OK;
    int n = 0;
    while (st == OT_OK && (n = read_ids(file, ids, s->n_vocab)) > 0)
        st = score_text(s, ids, (uint32_t)n, err);
    return n < 0 ? ot_fail(err, OT_ERR_FORMAT, "a line is no list of 2 to %d token ids", MAX_TOKENS) : st;
}

static ot_status run(scorer *s, char **words, int n_words, ot_error *err)
{
    FILE *ids = fopen(words[2], "r");
    s->out = fopen(words[3], "wb");
    ot_status st = ids != NULL && s->out != NULL ? OT_OK : ot_fail(err, OT_ERR_IO, "cannot open %s or %s", words[2], words[3]);
    if (st == OT_OK)
        st = ot_model_open(&s->model, words[1], err);
    if (st == OT_OK)
        st = open_heads(s, words + 4, n_words - 4, err);
    if (st == OT_OK)
        st = open_engine(s, err);
    if (st == OT_OK)
        st = score_file(s, ids, err);
    if (s->out != NULL && fclose(s->out) != 0 && st == OT_OK)
        st = ot_fail(err, OT_ERR_IO, "cannot write %s", words[3]);
    if (ids != NULL)
        fclose(ids);
    return st;
}

int main(int argc, char **argv)
{
    scorer s = {0};
    ot_error err = {0};
    const bool half = argc > 1 && strcmp(argv[1], "f16") == 0;
    if (argc < 5 || argc > 5 + MAX_HEADS || (!half && strcmp(argv[1], "f32") != 0)) {
        fprintf(stderr, "usage: engine-dump f16|f32 MODEL IDS OUT [HEAD ...]\n");
        return 2;
    }
    s.kv_type = half ? OT_KV_F16 : OT_KV_F32;
    const ot_status st = run(&s, argv + 1, argc - 1, &err);
    free(s.logits);
    free(s.values);
    ot_engine_close(&s.engine);
    for (uint32_t i = 0; i < MAX_HEADS; i++)
        ot_insertion_close(&s.heads[i]);
    ot_model_close(&s.model);
    if (st != OT_OK)
        fprintf(stderr, "engine-dump: %s\n", err.message);
    return st == OT_OK ? 0 : 1;
}
