/* access-log.h. Text of clients stands in quotes and is escaped as in JSON, so that none can forge a line. */
#include "server/access-log.h"

#include <inttypes.h>
#include <netdb.h>
#include <stdio.h>
#include <time.h>

static void client_address(const ot_exchange *x, char out[NI_MAXHOST])
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *address = info ? info->client_addr : NULL;
    socklen_t size = address && address->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    if (!address || getnameinfo(address, size, out, NI_MAXHOST, NULL, 0, NI_NUMERICHOST) != 0)
        snprintf(out, NI_MAXHOST, "-");
}

static void now_as_text(char out[32])
{
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &utc);
}

static void put_json(ot_text *line, const ot_exchange *x, unsigned status, uint64_t took_ms, const struct ot_access_facts *f)
{
    char when[32], client[NI_MAXHOST];
    now_as_text(when);
    client_address(x, client);
    ot_json_begin_object(line, NULL);
    ot_json_string(line, "time", when);
    ot_json_string(line, "request_id", x->request_id);
    ot_json_string(line, "client", client);
    if (x->key.name[0])
        ot_json_string(line, "key", x->key.name);
    ot_json_string(line, "method", x->method);
    ot_json_string(line, "path", x->path);
    ot_json_uint(line, "status", status);
    ot_json_uint(line, "took_ms", took_ms);
    if (f->model)
        ot_json_string(line, "model", f->model);
    if (f->has_usage) {
        ot_json_uint(line, "prompt_tokens", f->prompt_tokens);
        ot_json_uint(line, "completion_tokens", f->completion_tokens);
        ot_json_uint(line, "changed_tokens", f->changed_tokens);
        if (f->first_token_ms >= 0)
            ot_json_int(line, "first_token_ms", f->first_token_ms);
        ot_json_string(line, "finish_reason", f->finish);
    }
    ot_json_end_object(line);
}

static void put_plain(ot_text *line, const ot_exchange *x, unsigned status, uint64_t took_ms, const struct ot_access_facts *f)
{
    char when[32], client[NI_MAXHOST];
    now_as_text(when);
    client_address(x, client);
    ot_text_printf(line, "%s %s %s ", when, x->request_id, x->method);
    ot_json_string(line, NULL, x->path);
    ot_text_printf(line, " %u %" PRIu64 " ms client=%s", status, took_ms, client);
    if (x->key.name[0])
        ot_text_printf(line, " key=%s", x->key.name); /* letters and digits: api-keys.c */
    if (f->model) {
        ot_text quoted; /* of its own: after a value JSON would have a comma */
        ot_text_init(&quoted, 4096);
        ot_json_string(&quoted, NULL, f->model);
        ot_text_printf(line, " model=%s", quoted.failed ? "-" : quoted.data);
        ot_text_free(&quoted);
    }
    if (f->has_usage) {
        ot_text_printf(line, " in=%" PRIu64 " out=%" PRIu64 " changed=%" PRIu64, f->prompt_tokens, f->completion_tokens, f->changed_tokens);
        if (f->first_token_ms >= 0)
            ot_text_printf(line, " first=%" PRId64 "ms", f->first_token_ms);
        ot_text_printf(line, " finish=%s", f->finish ? f->finish : "-");
    }
}

void ot_access_log_write(const ot_exchange *x, unsigned status)
{
    uint64_t took_ms = uv_now(&x->server->loop) - x->started_ms;
    struct ot_access_facts facts = {.first_token_ms = -1};
    ot_text line;
    if (x->server->options.access_log == OT_ACCESS_LOG_OFF)
        return;
    if (x->job && x->ops->describe && !x->offloaded)
        x->ops->describe(x->job, &facts);
    ot_text_init(&line, 8192);
    if (x->server->options.access_log == OT_ACCESS_LOG_JSON)
        put_json(&line, x, status, took_ms, &facts);
    else
        put_plain(&line, x, status, took_ms, &facts);
    if (!line.failed)
        fprintf(stderr, "%s\n", line.data);
    ot_text_free(&line);
}
