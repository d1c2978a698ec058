/* Sampling, stopping and lengths, common to both completion routes. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api-context.h"
#include "server/known-fields.h"

enum { MAX_BIAS = 1024, MAX_STOP_BYTES = 256, MAX_STOP_TOKENS = 64 };

static ot_status out_of_memory(ot_error *err)
{
    return ot_fail(err, OT_ERR_NOMEM, "out of memory while reading the request");
}

/* "5" and "05" are two members and one token. */
static bool is_listed(const int32_t *tokens, uint32_t n, long id)
{
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] == id)
            return true;
    return false;
}

static ot_status parse_bias(const ot_api_context *api, ot_arena *arena, ot_fields f, ot_sampling *sampling, ot_error *err)
{
    json_t *bias = NULL;
    ot_status status = ot_fields_object(f, "logit_bias", &bias, err);
    size_t n = json_object_size(bias);
    if (status || n == 0)
        return status;
    if (n > MAX_BIAS)
        return ot_fields_fail(f, "logit_bias", OT_ERR_INVALID, err, "has %zu entries; %d are the limit", n, MAX_BIAS);
    int32_t *tokens = ot_arena_alloc(arena, n, sizeof *tokens);
    float *values = ot_arena_alloc(arena, n, sizeof *values);
    if (!tokens || !values)
        return out_of_memory(err);
    ot_fields members = {bias, "logit_bias"};
    const char *key;
    json_t *value;
    uint32_t i = 0;
    json_object_foreach(bias, key, value) {
        char *end;
        errno = 0;
        long id = strtol(key, &end, 10);
        if (key[0] < '0' || key[0] > '9' || *end || errno || id >= (long)api->n_vocab)
            return ot_fields_fail(members, key, OT_ERR_INVALID, err, "is no token id between 0 and %" PRIu32, api->n_vocab - 1);
        if (is_listed(tokens, i, id))
            return ot_fields_fail(members, key, OT_ERR_INVALID, err, "names token %ld for the second time", id);
        status = ot_fields_float(members, key, -100, 100, &values[i], err);
        if (status)
            return status;
        tokens[i++] = (int32_t)id;
    }
    sampling->n_bias = i;
    sampling->bias_tokens = tokens;
    sampling->bias_values = values;
    return OT_OK;
}

static ot_status check_stop(ot_fields f, const char *name, const json_t *stop, const char **out, ot_error *err)
{
    if (!json_is_string(stop))
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, "must be a string, not %s", ot_json_kind(stop));
    size_t size = json_string_length(stop);
    *out = json_string_value(stop);
    if (size == 0 || size > MAX_STOP_BYTES || strlen(*out) != size)
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, "must have 1 to %d bytes, none of them zero", MAX_STOP_BYTES);
    return OT_OK;
}

static ot_status parse_stops(ot_arena *arena, ot_fields f, ot_request_params *params, ot_error *err)
{
    const json_t *stop = ot_fields_get(f, "stop");
    if (!stop)
        return OT_OK;
    size_t n = json_is_array(stop) ? json_array_size(stop) : 1;
    if (n > OT_MAX_STOPS)
        return ot_fields_fail(f, "stop", OT_ERR_INVALID, err, "has %zu entries; %d are the limit", n, OT_MAX_STOPS);
    const char **stops = ot_arena_alloc(arena, n, sizeof *stops);
    if (!stops)
        return out_of_memory(err);
    params->stops = stops;
    params->n_stops = (uint32_t)n;
    if (!json_is_array(stop))
        return check_stop(f, "stop", stop, &stops[0], err);
    for (size_t i = 0; i < n; i++) {
        char name[32];
        snprintf(name, sizeof name, "stop[%zu]", i);
        ot_status status = check_stop(f, name, json_array_get(stop, i), &stops[i], err);
        if (status)
            return status;
    }
    return OT_OK;
}

static ot_status parse_stop_tokens(const ot_api_context *api, ot_arena *arena, ot_fields f, ot_request_params *params,
                                   ot_error *err)
{
    json_t *ids = NULL;
    ot_status status = ot_fields_array(f, "stop_token_ids", &ids, err);
    if (status || json_array_size(ids) == 0)
        return status;
    if (json_array_size(ids) > MAX_STOP_TOKENS)
        return ot_fields_fail(f, "stop_token_ids", OT_ERR_INVALID, err, "has more than %d entries", MAX_STOP_TOKENS);
    int32_t *tokens;
    status = ot_parse_token_ids(api, arena, ids, "stop_token_ids", &tokens, &params->n_stop_tokens, err);
    params->stop_tokens = tokens;
    return status;
}

static ot_status parse_numbers(const ot_api_context *api, ot_fields f, ot_sampling *s, ot_error *err)
{
    *s = (ot_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1};
    int64_t top_k = 0, seed = (int64_t)s->seed;
    ot_status status = ot_fields_float(f, "temperature", 0, 2, &s->temperature, err);
    if (!status)
        status = ot_fields_float(f, "top_p", 0, 1, &s->top_p, err);
    if (!status)
        status = ot_fields_float(f, "min_p", 0, 1, &s->min_p, err);
    if (!status)
        status = ot_fields_i64(f, "top_k", -1, INT32_MAX, &top_k, err);
    if (!status)
        status = ot_fields_float(f, "presence_penalty", -2, 2, &s->presence_penalty, err);
    if (!status)
        status = ot_fields_float(f, "frequency_penalty", -2, 2, &s->frequency_penalty, err);
    if (!status)
        status = ot_fields_float(f, ot_field_given(f, "repetition_penalty"), 0.01f, 10, &s->repetition_penalty, err);
    if (!status)
        status = ot_fields_i64(f, "seed", INT64_MIN, INT64_MAX, &seed, err);
    if (s->top_p <= 0)
        s->top_p = 1e-9f; /* the most probable token alone, as OpenAI has it; 0 itself means off to the scheduler's readers */
    s->top_k = top_k <= 0 ? 0 : top_k > api->n_vocab ? api->n_vocab : (uint32_t)top_k;
    s->seed = (uint64_t)seed;
    return status;
}

/* Under the name that the client uses. llama-server's -1 is as much as fits, which whoever submits cuts to what the context holds. */
static ot_status parse_max_tokens(ot_fields f, uint32_t *max_tokens, ot_error *err)
{
    const char *name = ot_field_given(f, "max_tokens");
    const json_t *value = ot_fields_get(f, name);
    if (strcmp(name, "n_predict") == 0 && json_is_integer(value) && json_integer_value(value) == -1) {
        *max_tokens = INT32_MAX;
        return OT_OK;
    }
    return ot_fields_u32(f, name, 0, INT32_MAX, max_tokens, err);
}

ot_status ot_parse_sampling(const ot_api_context *api, ot_arena *arena, ot_fields f, uint32_t default_max,
                            ot_request_params *params, ot_error *err)
{
    int64_t priority = 0;
    params->max_tokens = default_max;
    ot_status status = parse_numbers(api, f, &params->sampling, err);
    if (!status)
        status = parse_max_tokens(f, &params->max_tokens, err);
    if (!status)
        status = ot_fields_u32(f, "max_completion_tokens", 0, INT32_MAX, &params->max_tokens, err);
    if (!status)
        status = ot_fields_u32(f, "min_tokens", 0, INT32_MAX, &params->min_tokens, err);
    if (!status && params->min_tokens > params->max_tokens)
        status = ot_fields_fail(f, "min_tokens", OT_ERR_INVALID, err, "is greater than max_tokens (%" PRIu32 ")",
                                params->max_tokens);
    if (!status)
        status = ot_fields_bool(f, "ignore_eos", &params->ignore_eos, err);
    if (!status)
        status = ot_fields_i64(f, "priority", INT32_MIN, INT32_MAX, &priority, err);
    params->priority = (int32_t)priority;
    if (!status)
        status = parse_bias(api, arena, f, &params->sampling, err);
    if (!status)
        status = parse_stops(arena, f, params, err);
    if (!status)
        status = parse_stop_tokens(api, arena, f, params, err);
    return status;
}
