/* Filling an ot_error. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void fill(ot_error *err, ot_status code, const char *param, const char *format, va_list args)
{
    if (err == NULL)
        return;
    err->code = code;
    snprintf(err->param, sizeof err->param, "%s", param);
    vsnprintf(err->message, sizeof err->message, format, args);
}

ot_status ot_fail(ot_error *err, ot_status code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fill(err, code, "", format, args);
    va_end(args);
    return code;
}

ot_status ot_fail_param(ot_error *err, ot_status code, const char *param, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fill(err, code, param, format, args);
    va_end(args);
    return code;
}

const char *ot_status_name(ot_status code)
{
    switch (code) {
    case OT_OK: return "ok";
    case OT_ERR_NOMEM: return "out of memory";
    case OT_ERR_IO: return "input/output";
    case OT_ERR_FORMAT: return "format";
    case OT_ERR_UNSUPPORTED: return "unsupported";
    case OT_ERR_INVALID: return "invalid";
    case OT_ERR_MISMATCH: return "mismatch";
    case OT_ERR_FULL: return "full";
    case OT_ERR_NOT_FOUND: return "not found";
    case OT_ERR_CANCELLED: return "cancelled";
    case OT_ERR_CLOSING: return "closing";
    case OT_ERR_TOO_LONG: return "too long";
    }
    return "unknown";
}
