/* Inside scheduler/: the beginnings and ends of requests and choices, and telling others about them. */
#ifndef OTTER_SCHEDULER_LIFECYCLE_H
#define OTTER_SCHEDULER_LIFECYCLE_H

#include "scheduler/request.h"

void ot_request_begin(ot_scheduler *s, ot_request *r);
void ot_choice_end(ot_scheduler *s, ot_choice *c, ot_finish finish);
/* Ends all choices of a request; OT_FINISH_ERROR with the error. */
void ot_request_end(ot_scheduler *s, ot_request *r, ot_finish finish, const ot_error *err);
/* Ends the requests that were cancelled. */
void ot_take_cancellations(ot_scheduler *s);
/* Something of the request can be read. */
void ot_note_news(ot_scheduler *s, ot_request *r);
/* Announces news and lets go of requests that ended. */
void ot_announce(ot_scheduler *s);

#endif
