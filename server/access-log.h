/* The access log: a line for each request, as text or as JSON, to standard error. */
#ifndef OTTER_SERVER_ACCESS_LOG_H
#define OTTER_SERVER_ACCESS_LOG_H

#include "server/exchange.h"

/* What a job knows of its request beyond HTTP; what is not set is not written. */
struct ot_access_facts {
    const char *model;           /* the base's id, or a preset's */
    bool has_usage;
    uint64_t prompt_tokens, completion_tokens;
    uint64_t changed_tokens;     /* by steering and guards */
    int64_t first_token_ms;      /* from arrival; -1: there was none */
    const char *finish;          /* of the choice that ended last in the order of ot_finish; NULL: none has ended */
};

/* To be called when the exchange is over and its job is still there. */
void ot_access_log_write(const ot_exchange *x, unsigned status);

#endif
