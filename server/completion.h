/* A job of the completion routes, and of those that are adapters over them (dialects/dialect.h): parsed, submitted as one scheduler request a
 * prompt, collected or streamed, formatted.
 *
 *     completion-parse.c    the body to a job                  (loop or worker)
 *     completion.c          handlers, submission, collection   (loop)
 *     completion-format.c   one choice or chunk as JSON        (loop or worker)
 *     completion-stream.c   events                             (loop)
 *
 * Choice i of the answer is choice i % n of prompt i / n.
 */
#ifndef OTTER_SERVER_COMPLETION_H
#define OTTER_SERVER_COMPLETION_H

#include "server/exchange.h"
#include "server/thoughts.h"

typedef struct ot_dialect ot_dialect;

/* Tokens of one choice: all of them, or in a stream those of the chunk being written. */
typedef struct ot_answer_choice {
    ot_text text;
    ot_text thought;         /* told apart from the text, where the model thinks */
    ot_text said;            /* on its way from the thoughts to the calls */
    ot_thoughts thoughts;
    uint32_t n_tokens, capacity;
    int32_t *tokens;         /* (n_tokens) */
    float *logprobs;         /* (n_tokens) */
    uint32_t *n_top;         /* (n_tokens) */
    ot_token_logprob *top;   /* (n_tokens, top_logprobs) */
    float *signals;          /* (n_tokens, n_signals) */
    uint32_t *offsets;       /* (n_tokens): characters of text before the token */
    uint32_t n_characters;   /* of all text so far */
    ot_call_reader calls;    /* takes calls out of the text */
    ot_finish finish;
    ot_refusal refused;      /* by a guard, once finish says so */
    /* A stream's progress */
    bool opened;             /* the first chunk (role, echo) is out */
    bool closed;             /* the chunk with finish_reason is out */
} ot_answer_choice;

typedef struct ot_completion {
    const ot_api_context *api;
    ot_exchange *x;          /* loop only */
    ot_arena arena;
    json_t *body;            /* kept until submission: stop strings are borrowed from it */
    ot_text *source;         /* the body's text until it is parsed */
    bool chat;
    const ot_dialect *dialect; /* NULL: OpenAI's completions */
    json_t *asked;           /* a dialect's body as it was sent; kept to the end, since answers repeat parts of it */
    /* What answers instead of running the prompts, or NULL (render-routes.c). */
    void (*render)(const struct ot_completion *c, ot_text *out);
    bool thinks;             /* thoughts are told apart: reasoning_content */
    ot_error error;          /* of parsing or submission */

    /* Asked for */
    const char *model_id;
    bool stream, include_usage, echo;
    bool return_token_ids, tokens_as_ids;
    bool intervened;         /* usage.intervention is given */
    uint32_t n;              /* choices a prompt */
    ot_prompts prompts;
    ot_tool_use tools;       /* borrowed from the body until submission: only the format outlives it */
    ot_request_params params; /* common to all prompts; holds the heads until submission */
    const char *signal_names[OT_MAX_SIGNALS]; /* outlive submission */
    uint32_t n_signals;
    const char *guard_name;  /* the head that guards, among them; NULL: none */

    /* Running */
    char id[40];
    int64_t created_s;
    uint32_t n_requests;     /* submitted: prompts.n, or 0 */
    ot_request **requests;
    uint32_t n_choices;      /* prompts.n * n */
    ot_answer_choice *choices;
    uint32_t next_choice;    /* a stream serves its choices in turn */
    bool done_sent;          /* of a stream */
    uint64_t n_events;       /* of a dialect's stream */
    ot_text whole;           /* ... and all of its text so far */
    int32_t last_token;      /* ... and its last token */
    int64_t first_token_ms;  /* from arrival to the first token that could be read; -1: none was */
    ot_text *out;            /* for a worker that formats: x->out */
} ot_completion;

/* completion-parse.c: fills the job from job->source; job->error tells. */
void ot_completion_parse(void *job);

/* completion.c */
/* Begins a job for an exchange: a text or chat completion, the latter also in a dialect. `render` as in ot_completion. */
void ot_completion_begin(ot_exchange *x, bool chat, const ot_dialect *dialect, void (*render)(const ot_completion *c, ot_text *out));
ot_token_out *ot_completion_scratch(void); /* room for OT_READ_TOKENS, of the loop's thread */
#define OT_READ_TOKENS 32
/* Reads what is settled of one choice, at most OT_READ_TOKENS; false out of memory. *n is how many came. */
bool ot_completion_read(ot_completion *c, uint32_t choice, size_t *n);
/* The error of the first request that has failed or was cancelled, or NULL. */
const ot_error *ot_completion_failure(const ot_completion *c);

/* completion-format.c */
void ot_completion_format(void *job); /* the whole answer into job->out */
/* One chunk of a choice. `first` asks for role or echo; the finish reason is written if the choice has ended. */
void ot_completion_format_chunk(ot_completion *c, uint32_t choice, bool first, ot_text *out);
void ot_completion_format_usage_chunk(const ot_completion *c, ot_text *out);
/* Parts of an answer, for dialects. */
ot_request_usage ot_completion_usage(const ot_completion *c); /* of all requests together */
void ot_completion_put_intervention_usage(const ot_completion *c, ot_text *out);
void ot_completion_put_signals(const ot_completion *c, const ot_answer_choice *choice, ot_text *out);
void ot_completion_put_guard(const ot_completion *c, const ot_answer_choice *choice, ot_text *out);
/* A list with an entry for each token of the choice, as chat completions have it. */
void ot_completion_put_token_logprobs(const ot_completion *c, const ot_answer_choice *choice, const char *key, ot_text *out);

/* completion-stream.c */
ot_fill ot_completion_fill(ot_exchange *x);

#endif
