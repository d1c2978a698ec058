/* The two halves of the Messages dialect. */
#ifndef OTTER_SERVER_DIALECTS_MESSAGES_H
#define OTTER_SERVER_DIALECTS_MESSAGES_H

#include "server/dialects/dialect.h"

/* As ot_dialect's members (messages-request.c). */
ot_status ot_messages_translate(const json_t *body, json_t **chat, ot_error *err);
const char *ot_messages_own_name(const char *field);

#endif
