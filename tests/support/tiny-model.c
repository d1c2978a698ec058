/* Writing tiny models: weights from a seeded generator, the vocabulary, and the keys.
 *
 * Random numbers are sums of four uniform ones: near enough to normal, and the same everywhere, since the only function of libm
 * involved is sqrt, which is correctly rounded. */
#include "tests/support/tiny-model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/test-support.h"

#define N_SPECIALS OT_TINY_FIRST_BYTE_TOKEN
#define N_BYTES 256
#define MAX_TOKEN_TEXT 24

/* The space mark: byte 32 in the byte-level alphabet. Both sides of a merge are tokens of earlier lines. */
#define SP "\xc4\xa0"
static const char *const merges[] = {
    SP " t",   SP " a",   "h e",     "i n",     "r e",     "o n",      SP "t he", "e r",   SP " s",
    "a t",     SP " o",   "e n",     SP " w",   "i s",     "o r",      "i t",     SP " c", "l l",
    "a n",     SP " an",  SP "an d", "in g",    "e d",     SP " in",   SP "t o",  SP "o f", "o u",
    SP " y",   SP "y ou", "a r",     SP " h",   SP "t h",  SP "th at", "l d",     SP "w or", SP "wor ld",
    "H e",     "He ll",   "Hell o",  SP " b",   "s t",
};
#define N_MERGES (sizeof merges / sizeof merges[0])
#define N_VOCAB (N_SPECIALS + N_BYTES + N_MERGES)

static const char chat_template[] =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n"
    "' + message['content'] + '<|im_end|>' + '\n"
    "'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n"
    "' }}{% endif %}";

/* A model being written: the data of its tensors lives until the file is. */
typedef struct tiny {
    const ot_tiny_model_options *options;
    ot_gguf_writer *writer;
    ot_test_rng rng;
    void **data;
    size_t n_data, data_capacity;
    ot_error *err;
} tiny;

ot_tiny_model_options ot_tiny_model_defaults(void)
{
    return (ot_tiny_model_options){.seed = 1, .n_layers = 2, .n_embd = 64, .n_heads = 4, .n_kv_heads = 2, .head_dim = 32,
                                   .n_ff = 128, .n_ctx = 512, .type = OT_TYPE_F32, .embd_type = OT_TYPE_F32,
                                   .rope_freq_base = 10000.0f};
}

uint32_t ot_tiny_model_vocab_size(void)
{
    return N_VOCAB;
}

/* ---- Vocabulary ---- */

/* The byte-level alphabet: printable bytes of Latin-1 stand for themselves, the n-th other one for U+0100 + n. As UTF-8. */
static void byte_text(int byte, char *dst)
{
    unsigned code = (unsigned)byte, n = 0;
    for (int b = 0; b <= byte; b++) {
        const bool plain = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if (b == byte && !plain)
            code = 256 + n;
        n += !plain;
    }
    if (code < 0x80)
        snprintf(dst, MAX_TOKEN_TEXT, "%c", (int)code);
    else
        snprintf(dst, MAX_TOKEN_TEXT, "%c%c", (char)(0xc0 | code >> 6), (char)(0x80 | (code & 0x3f)));
}

static void make_vocabulary(char texts[N_VOCAB][MAX_TOKEN_TEXT], uint32_t types[N_VOCAB])
{
    static const char *const specials[N_SPECIALS] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    for (uint32_t i = 0; i < N_VOCAB; i++)
        types[i] = i < N_SPECIALS ? 3 /* control */ : 1 /* normal */;
    for (uint32_t i = 0; i < N_SPECIALS; i++)
        strcpy(texts[i], specials[i]);
    for (int b = 0; b < N_BYTES; b++)
        byte_text(b, texts[N_SPECIALS + b]);
    for (uint32_t i = 0; i < N_MERGES; i++) {
        const char *space = strchr(merges[i], ' ');
        snprintf(texts[N_SPECIALS + N_BYTES + i], MAX_TOKEN_TEXT, "%.*s%s", (int)(space - merges[i]), merges[i], space + 1);
    }
}

static void put_vocabulary(ot_gguf_writer *w)
{
    static char texts[N_VOCAB][MAX_TOKEN_TEXT];
    static uint32_t types[N_VOCAB];
    const char *tokens[N_VOCAB];
    make_vocabulary(texts, types);
    for (uint32_t i = 0; i < N_VOCAB; i++)
        tokens[i] = texts[i];
    ot_gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", false);
    ot_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", false);
    ot_gguf_put_str(w, "tokenizer.ggml.model", "gpt2");
    ot_gguf_put_str(w, "tokenizer.ggml.pre", "smollm");
    ot_gguf_put_str_array(w, "tokenizer.ggml.tokens", tokens, N_VOCAB);
    ot_gguf_put_u32_array(w, "tokenizer.ggml.token_type", types, N_VOCAB);
    ot_gguf_put_str_array(w, "tokenizer.ggml.merges", merges, N_MERGES);
    ot_gguf_put_u32(w, "tokenizer.ggml.bos_token_id", 1);
    ot_gguf_put_u32(w, "tokenizer.ggml.eos_token_id", 2);
    ot_gguf_put_u32(w, "tokenizer.ggml.unknown_token_id", 0);
    ot_gguf_put_u32(w, "tokenizer.ggml.padding_token_id", 2);
    ot_gguf_put_str(w, "tokenizer.chat_template", chat_template);
}

static void put_size(ot_gguf_writer *w, const char *arch, const char *name, uint32_t value)
{
    char key[64];
    snprintf(key, sizeof key, "%s.%s", arch, name);
    ot_gguf_put_u32(w, key, value);
}

static void put_number(ot_gguf_writer *w, const char *arch, const char *name, float value)
{
    char key[64];
    snprintf(key, sizeof key, "%s.%s", arch, name);
    ot_gguf_put_f32(w, key, value);
}

static void put_extra_key(ot_gguf_writer *w, const char *arch, const ot_tiny_model_options *o)
{
    char key[64];
    snprintf(key, sizeof key, "%s.%s", arch, o->key);
    if (o->key_value == 0.0f || o->key_value == 1.0f)
        ot_gguf_put_bool(w, key, o->key_value != 0.0f);
    else
        put_number(w, arch, o->key, o->key_value);
}

/* Failed puts are remembered by the writer. */
static void put_sizes(ot_gguf_writer *w, const ot_tiny_model_options *o)
{
    const char *arch = o->gpt2 ? "gpt2" : o->gemma2 ? "gemma2" : "llama";
    ot_gguf_put_str(w, "general.architecture", arch);
    ot_gguf_put_str(w, "general.type", "model");
    ot_gguf_put_str(w, "general.name", "Tiny");
    ot_gguf_put_u32(w, "general.quantization_version", 2);
    put_size(w, arch, "block_count", o->n_layers);
    if (o->key != NULL)
        put_extra_key(w, arch, o);
    put_size(w, arch, "context_length", o->n_ctx);
    put_size(w, arch, "embedding_length", o->n_embd);
    put_size(w, arch, "feed_forward_length", o->n_ff);
    put_size(w, arch, "attention.head_count", o->n_heads);
    if (o->gpt2) {
        ot_gguf_put_f32(w, "gpt2.attention.layer_norm_epsilon", 1e-5f);
        return;
    }
    put_size(w, arch, "attention.head_count_kv", o->n_kv_heads);
    if (o->n_heads * o->head_dim != o->n_embd) {
        put_size(w, arch, "attention.key_length", o->head_dim);
        put_size(w, arch, "attention.value_length", o->head_dim);
    }
    put_number(w, arch, "rope.freq_base", o->rope_freq_base);
    put_number(w, arch, "attention.layer_norm_rms_epsilon", 1e-5f);
    if (o->gemma2) {
        put_size(w, arch, "attention.sliding_window", 24);
        put_number(w, arch, "attn_logit_softcapping", 20.0f);
        put_number(w, arch, "final_logit_softcapping", 3.0f);
    }
    put_size(w, arch, "vocab_size", N_VOCAB);
    put_size(w, arch, "rope.dimension_count", o->head_dim);
}

/* ---- Weights ---- */

/* Mean 0, variance 1. */
static float normal(ot_test_rng *rng)
{
    float sum = 0;
    for (int i = 0; i < 4; i++)
        sum += ot_test_rng_float(rng, -1.0f, 1.0f);
    return sum * 0.8660254f; /* the sum's variance is 4/3 */
}

static void *keep(tiny *t, size_t bytes)
{
    if (t->n_data == t->data_capacity) {
        const size_t capacity = t->data_capacity > 0 ? 2 * t->data_capacity : 64;
        void **grown = reallocarray(t->data, capacity, sizeof *grown);
        if (grown == NULL)
            return NULL;
        t->data = grown;
        t->data_capacity = capacity;
    }
    void *data = malloc(bytes);
    if (data != NULL)
        t->data[t->n_data++] = data;
    return data;
}

static void store_half(uint8_t *p, float f)
{
    const uint16_t h = ot_f32_to_f16(f);
    memcpy(p, &h, sizeof h);
}

/* One block of a type that cannot be quantised to: random quants, and scales that give the values a mean near 0 and about this
 * standard deviation (uniform quants of 5 bits deviate by 9.2, of 4 bits by 4.6, of 6 bits by 18.5; 6-bit scales average 32). */
static void random_block(ot_test_rng *rng, ot_type type, uint8_t *block, float deviation)
{
    for (uint32_t i = 0; i < ot_type_block_bytes(type); i++)
        block[i] = (uint8_t)ot_test_rng_next(rng);
    const float d5 = deviation / 9.2f, d4 = deviation / 4.6f;
    switch (type) {
    case OT_TYPE_Q5_0:
        store_half(block, d5);
        break;
    case OT_TYPE_Q5_1:
        store_half(block, d5);
        store_half(block + 2, -15.5f * d5);
        break;
    case OT_TYPE_Q4_K:
    case OT_TYPE_Q5_K: /* each minimum equal to its scale, so that one ratio of d and dmin centres all sub-blocks */
        memcpy(block + 8, block + 4, 4);
        for (int i = 12; i < 16; i++)
            block[i] = (uint8_t)((block[i] & 15) * 17);
        store_half(block, (type == OT_TYPE_Q4_K ? d4 : d5) / 36.0f);
        store_half(block + 2, (type == OT_TYPE_Q4_K ? 7.5f * d4 : 15.5f * d5) / 36.0f);
        break;
    default: /* Q6_K: signed 8-bit scales deviate by 74 */
        store_half(block + 208, deviation / (18.5f * 74.0f));
        break;
    }
}

static bool quantisable(ot_type type)
{
    return type == OT_TYPE_F32 || type == OT_TYPE_F16 || type == OT_TYPE_BF16 || type == OT_TYPE_Q8_0 ||
           type == OT_TYPE_Q4_0 || type == OT_TYPE_Q4_1;
}

static void spoil(const tiny *t, const char *name, void *data, size_t bytes)
{
    if (t->options->spoilt != NULL && strcmp(t->options->spoilt, name) == 0)
        memset(data, 0xff, bytes);
}

/* A matrix [n_in, n_out] of the given standard deviation. */
static ot_status put_matrix(tiny *t, const char *name, ot_type type, uint32_t n_in, uint32_t n_out, float deviation)
{
    const uint64_t dims[2] = {n_in, n_out};
    const size_t n = (size_t)n_in * n_out, n_blocks = n / ot_type_block(type);
    uint8_t *data = keep(t, n_blocks * ot_type_block_bytes(type));
    float *values = malloc(n * sizeof *values);
    ot_status status = OT_OK;
    if (data == NULL || values == NULL) {
        status = ot_fail(t->err, OT_ERR_NOMEM, "no memory for %s", name);
    } else if (quantisable(type)) {
        for (size_t i = 0; i < n; i++)
            values[i] = normal(&t->rng) * deviation;
        status = ot_quantize(type, values, data, n, t->err);
    } else {
        for (size_t i = 0; i < n_blocks; i++)
            random_block(&t->rng, type, data + i * ot_type_block_bytes(type), deviation);
    }
    free(values);
    if (status == OT_OK)
        spoil(t, name, data, n_blocks * ot_type_block_bytes(type));
    return status == OT_OK ? ot_gguf_put_tensor(t->writer, name, type, 2, dims, data, t->err) : status;
}

static ot_status put_vector(tiny *t, const char *name, uint32_t n, float mean)
{
    const uint64_t dims[1] = {n};
    float *values = keep(t, n * sizeof *values);
    if (values == NULL)
        return ot_fail(t->err, OT_ERR_NOMEM, "no memory for %s", name);
    for (uint32_t i = 0; i < n; i++)
        values[i] = mean + 0.1f * normal(&t->rng);
    spoil(t, name, values, n * sizeof *values);
    return ot_gguf_put_tensor(t->writer, name, OT_TYPE_F32, 1, dims, values, t->err);
}

/* PREFIX.weight, and the bias of a LayerNorm. */
static ot_status put_norm(tiny *t, const char *prefix, uint32_t n)
{
    char name[64];
    snprintf(name, sizeof name, "%s.weight", prefix);
    const ot_status status = put_vector(t, name, n, 1.0f);
    snprintf(name, sizeof name, "%s.bias", prefix);
    return status == OT_OK && t->options->gpt2 ? put_vector(t, name, n, 0.0f) : status;
}

/* Rows of 1/sqrt(n_in) keep the scale; what is added to the stream is smaller, so that it stays of order 1 over all layers. */
static ot_status put_layer(tiny *t, uint32_t layer)
{
    const ot_tiny_model_options *o = t->options;
    const uint32_t q = o->n_heads * o->head_dim, kv = o->n_kv_heads * o->head_dim;
    const float added = 1.0f / sqrtf(2.0f * (float)o->n_layers);
    const bool llama = !o->gpt2;
    const struct { bool exists; const char *name; uint32_t n_in, n_out; float gain; } matrices[] = {
        {llama, "attn_q", o->n_embd, q, 1},     {llama, "attn_k", o->n_embd, kv, 1},
        {llama, "attn_v", o->n_embd, kv, 1},    {o->gpt2, "attn_qkv", o->n_embd, q + 2 * kv, 1},
        {true, "attn_output", q, o->n_embd, added}, {llama, "ffn_gate", o->n_embd, o->n_ff, 1},
        {true, "ffn_up", o->n_embd, o->n_ff, 1},    {true, "ffn_down", o->n_ff, o->n_embd, added},
    };
    char name[64];
    snprintf(name, sizeof name, "blk.%u.attn_norm", layer);
    ot_status status = put_norm(t, name, o->n_embd);
    snprintf(name, sizeof name, "blk.%u.ffn_norm", layer);
    if (status == OT_OK)
        status = put_norm(t, name, o->n_embd);
    for (int k = 0; status == OT_OK && o->gemma2 && k < 2; k++) {
        snprintf(name, sizeof name, "blk.%u.%s", layer, k == 0 ? "post_attention_norm" : "post_ffw_norm");
        status = put_norm(t, name, o->n_embd);
    }
    for (size_t i = 0; status == OT_OK && i < sizeof matrices / sizeof matrices[0]; i++) {
        const uint32_t n_in = matrices[i].n_in, n_out = matrices[i].n_out;
        if (!matrices[i].exists)
            continue;
        snprintf(name, sizeof name, "blk.%u.%s.weight", layer, matrices[i].name);
        status = put_matrix(t, name, o->type, n_in, n_out, matrices[i].gain / sqrtf((float)n_in));
        snprintf(name, sizeof name, "blk.%u.%s.bias", layer, matrices[i].name);
        if (status == OT_OK && o->gpt2)
            status = put_vector(t, name, n_out, 0.0f);
    }
    return status;
}

static ot_status put_weights(tiny *t)
{
    const ot_tiny_model_options *o = t->options;
    const float deviation = 2.0f / sqrtf((float)o->n_embd);
    ot_status status = put_matrix(t, "token_embd.weight", o->embd_type, o->n_embd, N_VOCAB, deviation);
    if (status == OT_OK && o->gpt2)
        status = put_matrix(t, "position_embd.weight", o->embd_type, o->n_embd, o->n_ctx, 0.3f * deviation);
    for (uint32_t i = 0; status == OT_OK && i < o->n_layers; i++)
        status = put_layer(t, i);
    if (status == OT_OK)
        status = put_norm(t, "output_norm", o->n_embd);
    if (status == OT_OK && o->stranger != NULL)
        status = put_vector(t, o->stranger, o->n_embd, 1.0f);
    if (status == OT_OK && o->separate_output)
        status = put_matrix(t, "output.weight", o->embd_type, o->n_embd, N_VOCAB, deviation);
    return status;
}

static ot_status check_options(const ot_tiny_model_options *o, ot_error *err)
{
    const uint32_t most = 4096;
    if (!ot_type_known(o->type) || !ot_type_known(o->embd_type))
        return ot_fail(err, OT_ERR_INVALID, "tiny model: types %d and %d are not both known", (int)o->type, (int)o->embd_type);
    const uint32_t block = ot_type_block(o->type), q = o->n_heads * o->head_dim;
    if (o->n_layers < 1 || o->n_layers > 64 || o->n_embd < 1 || o->n_embd > most || o->n_ff < 1 || o->n_ff > most ||
        o->n_heads < 1 || o->n_heads > 64 || o->n_kv_heads < 1 || o->n_heads % o->n_kv_heads != 0 || o->head_dim < 2 ||
        o->head_dim > 256 || o->head_dim % 2 != 0)
        return ot_fail(err, OT_ERR_INVALID, "tiny model: sizes out of range, or heads no multiple of key/value heads");
    if (o->gpt2 && (q != o->n_embd || o->n_kv_heads != o->n_heads))
        return ot_fail(err, OT_ERR_INVALID, "tiny model: in GPT-2 the heads together are as wide as the stream, each with its own keys");
    if (o->n_embd % block != 0 || o->n_ff % block != 0 || q % block != 0 || o->n_embd % ot_type_block(o->embd_type) != 0)
        return ot_fail(err, OT_ERR_INVALID, "tiny model: n_embd %u, n_ff %u and heads of %u together must be multiples of %u",
                       o->n_embd, o->n_ff, q, block);
    return OT_OK;
}

ot_status ot_tiny_model_write(const char *path, const ot_tiny_model_options *options, ot_error *err)
{
    const ot_tiny_model_options defaults = ot_tiny_model_defaults();
    tiny t = {.options = options != NULL ? options : &defaults, .err = err};
    ot_status status = check_options(t.options, err);
    if (status == OT_OK)
        status = ot_gguf_writer_open(&t.writer, err);
    if (status == OT_OK) {
        t.rng.state = t.options->seed;
        put_sizes(t.writer, t.options);
        put_vocabulary(t.writer);
        status = put_weights(&t);
    }
    if (status == OT_OK)
        status = ot_gguf_write(t.writer, path, err);
    ot_gguf_writer_close(&t.writer);
    for (size_t i = 0; i < t.n_data; i++)
        free(t.data[i]);
    free(t.data);
    return status;
}
