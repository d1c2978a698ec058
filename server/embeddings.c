/* /v1/embeddings: a text as one vector of length 1, the mean of the base's last hidden states H_o over its tokens (or the last one's), in OpenAI's
 * shape. Bit for bit the same in any batch and with any cutting of the text into steps. */
#include <math.h>
#include <string.h>

#include <nettle/base64.h>

#include "server/known-fields.h"
#include "server/reading-job.h"

typedef struct ot_embedding_job {
    ot_reading reading; /* first */
    uint32_t n_embd;
    bool as_base64;     /* of little-endian float32, as OpenAI's clients ask for by default */
} ot_embedding_job;

static ot_status parse(ot_reading *r, ot_fields f, ot_error *err)
{
    ot_embedding_job *job = (ot_embedding_job *)r;
    const json_t *preset;
    const char *encoding = "float", *pooling = "mean";
    job->n_embd = ot_model_get_info(r->api->model)->n_embd;
    uint32_t dimensions = job->n_embd;
    ot_status status = ot_api_find_model(r->api, f, &r->model_id, &preset, err);
    if (!status)
        status = ot_fields_string(f, "encoding_format", 64, &encoding, err);
    if (!status)
        status = ot_fields_string(f, "pooling", 64, &pooling, err);
    if (!status)
        status = ot_fields_u32(f, "dimensions", 1, UINT32_MAX, &dimensions, err);
    if (status)
        return status;
    job->as_base64 = strcmp(encoding, "base64") == 0;
    if (!job->as_base64 && strcmp(encoding, "float") != 0)
        return ot_fields_fail(f, "encoding_format", OT_ERR_INVALID, err, "must be 'float' or 'base64', not '%.40s'", encoding);
    if (dimensions != job->n_embd)
        return ot_fields_fail(f, "dimensions", OT_ERR_UNSUPPORTED, err, "must be %u, the model's own: it was not trained for shorter vectors",
                              job->n_embd);
    r->params.pooling = strcmp(pooling, "last") == 0 ? OT_POOL_LAST : OT_POOL_MEAN;
    if (r->params.pooling == OT_POOL_MEAN && strcmp(pooling, "mean") != 0)
        return ot_fields_fail(f, "pooling", OT_ERR_INVALID, err, "must be 'mean' or 'last', not '%.40s'", pooling);
    return ot_parse_prompts(r->api, &r->arena, f, "input", OT_TOKENIZE_BOS, &r->prompts, err);
}

static size_t n_values(const ot_reading *r)
{
    return (size_t)r->n_requests * ((const ot_embedding_job *)r)->n_embd;
}

static double length_of(const double *v, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += v[i] * v[i];
    return sum > 0 ? sqrt(sum) : 1;
}

/* Quote, characters and quote as they stand; blocks of whole triples of bytes, so that padding comes at the end alone. */
static void put_base64(const double *v, uint32_t n, double length, ot_text *out)
{
    enum { FLOATS = 48 }; /* 192 bytes, 256 characters */
    char text[BASE64_ENCODE_RAW_LENGTH(FLOATS * sizeof(float))];
    ot_text_puts(out, "\"");
    for (uint32_t i = 0; i < n; i += FLOATS) {
        float block[FLOATS];
        uint32_t count = n - i < FLOATS ? n - i : FLOATS;
        for (uint32_t j = 0; j < count; j++)
            block[j] = (float)(v[i + j] / length);
        base64_encode_raw(text, count * sizeof(float), (const uint8_t *)block);
        ot_text_append(out, text, BASE64_ENCODE_RAW_LENGTH(count * sizeof(float)));
    }
    ot_text_puts(out, "\"");
}

static void put_embedding(const ot_embedding_job *job, uint32_t i, ot_text *out)
{
    const double *v = ot_request_prompt(job->reading.requests[i]).pooled;
    const double length = length_of(v, job->n_embd);
    ot_json_begin_object(out, NULL);
    ot_json_string(out, "object", "embedding");
    ot_json_uint(out, "index", i);
    if (job->as_base64) {
        ot_json_key(out, "embedding", strlen("embedding"));
        put_base64(v, job->n_embd, length, out);
    } else {
        ot_json_begin_array(out, "embedding");
        for (uint32_t j = 0; j < job->n_embd; j++)
            ot_json_float(out, NULL, (float)(v[j] / length));
        ot_json_end_array(out);
    }
    ot_json_end_object(out);
}

static void format(const ot_reading *r, ot_text *out)
{
    ot_json_begin_object(out, NULL);
    ot_json_string(out, "object", "list");
    ot_json_begin_array(out, "data");
    for (uint32_t i = 0; i < r->n_requests; i++)
        put_embedding((const ot_embedding_job *)r, i, out);
    ot_json_end_array(out);
    ot_json_string(out, "model", r->model_id);
    ot_reading_put_usage(r, out);
    ot_json_end_object(out);
}

void ot_handle_embeddings(ot_exchange *x)
{
    static const ot_reading_kind kind = {sizeof(ot_embedding_job), "embd-", OT_ON_EMBEDDINGS, parse, n_values, format};
    ot_reading_begin(x, &kind, NULL);
}
