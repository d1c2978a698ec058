/* A job that reads prompts once and generates nothing: scores, moderation, embeddings. A route's own job begins with an ot_reading; this file runs
 * it: parse, submit one scheduler request a prompt, collect, format. */
#ifndef OTTER_SERVER_READING_JOB_H
#define OTTER_SERVER_READING_JOB_H

#include "server/exchange.h"

typedef struct ot_reading ot_reading;

typedef struct ot_reading_kind {
    size_t job_bytes;      /* of the route's job */
    const char *id_prefix; /* "score-" */
    unsigned fields;       /* ot_field_route: the rows of the table of known fields */
    /* The body to prompts and params. Loop or worker. */
    ot_status (*parse)(ot_reading *r, ot_fields f, ot_error *err);
    /* Whether so many values are written that a worker should do it. */
    size_t (*n_values)(const ot_reading *r);
    /* The answer. Loop or worker. */
    void (*format)(const ot_reading *r, ot_text *out);
} ot_reading_kind;

struct ot_reading {
    const ot_reading_kind *kind;
    const ot_api_context *api;
    ot_exchange *x;            /* loop only */
    ot_arena arena;
    json_t *body;
    ot_text *source;
    ot_error error;
    const char *model_id;
    const char *prompt_field;  /* that the prompts came from; "input" unless parse says otherwise */
    ot_prompts prompts;
    ot_request_params params;  /* common to all prompts; holds the heads until submission */
    uint32_t n_requests;
    ot_request **requests;
    ot_text *out;
    char id[40];
};

/* Begins the exchange's job: zeroed, then `set_up` (NULL: nothing) with what only the loop knows. */
void ot_reading_begin(ot_exchange *x, const ot_reading_kind *kind, void (*set_up)(ot_reading *r, const ot_server *server));
/* "usage": the tokens of all prompts. */
void ot_reading_put_usage(const ot_reading *r, ot_text *out);

#endif
