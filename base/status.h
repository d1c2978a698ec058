/* The one status type of the project.
 *
 * Every fallible function returns an ot_status: 0 is good, negative is a cause. Where the cause is known,
 * the function also fills an ot_error, which may be NULL if the caller does not care. A message names the
 * file, key, field or offset at fault, so that it can be shown to a user as it is.
 */
#ifndef OTTER_BASE_STATUS_H
#define OTTER_BASE_STATUS_H

typedef enum ot_status {
    OT_OK = 0,
    OT_ERR_NOMEM = -1,       /* an allocation failed, or a fixed budget is too small */
    OT_ERR_IO = -2,          /* the operating system refused: open, read, map, bind */
    OT_ERR_FORMAT = -3,      /* a file or a text is not what it claims to be */
    OT_ERR_UNSUPPORTED = -4, /* well formed, but not something this build can do */
    OT_ERR_INVALID = -5,     /* an argument, option or request field is out of its range */
    OT_ERR_MISMATCH = -6,    /* two things that must belong together do not (insertion and base) */
    OT_ERR_FULL = -7,        /* a bounded queue or pool has no room now; later it may */
    OT_ERR_NOT_FOUND = -8,   /* no such name */
    OT_ERR_CANCELLED = -9,   /* stopped on request */
    OT_ERR_CLOSING = -10,    /* draining or shut down: takes no new work */
    OT_ERR_TOO_LONG = -11    /* a text that there will never be room for */
} ot_status;

typedef struct ot_error {
    ot_status code;
    char param[64];    /* the request field, option or key at fault; "" where there is none */
    char message[448]; /* one sentence, no newline */
} ot_error;

/* Fills err (if not NULL) with a printf-formatted message and returns code, so that a function can end in
 * `return ot_fail(err, OT_ERR_FORMAT, "...")`. Over-long messages are cut. */
ot_status ot_fail(ot_error *err, ot_status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same, and names the field at fault in err->param. */
ot_status ot_fail_param(ot_error *err, ot_status code, const char *param, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* A short lower-case name, e.g. "invalid", for logs. */
const char *ot_status_name(ot_status code);

#endif
