/* The two halves of the Responses dialect. */
#ifndef OTTER_SERVER_DIALECTS_RESPONSES_H
#define OTTER_SERVER_DIALECTS_RESPONSES_H

#include "server/dialects/dialect.h"

/* As ot_dialect's members (responses-request.c). */
ot_status ot_responses_translate(const json_t *body, json_t **chat, ot_error *err);
const char *ot_responses_own_name(const char *field);

#endif
