/* Small model files for tests: a random llama-architecture GGUF with every key, tensor and vocabulary part that a real one has.
 *
 *     ot_tiny_model_options options = ot_tiny_model_defaults();
 *     options.type = OT_TYPE_Q4_1;
 *     REQUIRE_OK(ot_tiny_model_write(ot_test_temp_path("tiny.gguf"), &options, &err), &err);
 *     REQUIRE_OK(ot_model_open(&model, ot_test_temp_path("tiny.gguf"), &err), &err);
 *
 * The same options give the same bytes on every machine. Norm weights lie near 1 and matrices are scaled by their input size, so that
 * activations and attention scores are of order 1 and logits have a standard deviation of about 2: a distribution with clear winners.
 *
 * The vocabulary is byte-level BPE (tokenizer.ggml.model gpt2, pre smollm): <|endoftext|> 0, <|im_start|> 1, <|im_end|> 2, the 256
 * bytes from 3 on in byte order, then one token for each merge. Any text can be tokenised. bos, eos, unknown and padding
 * ids and the ChatML template are as in SmolLM2. */
#ifndef OTTER_TESTS_SUPPORT_TINY_MODEL_H
#define OTTER_TESTS_SUPPORT_TINY_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "gguf/gguf.h"
#include "base/status.h"

#define OT_TINY_FIRST_BYTE_TOKEN 3

typedef struct ot_tiny_model_options {
    uint64_t seed;
    uint32_t n_layers;
    uint32_t n_embd;
    uint32_t n_heads, n_kv_heads;
    uint32_t head_dim;      /* even; n_heads * head_dim need not be n_embd: attention.key_length says so */
    uint32_t n_ff;
    uint32_t n_ctx;
    ot_type type;           /* of the layers' matrices: any known type. Inputs (n_embd, n_heads * head_dim, n_ff) must be
                             * multiples of its block: 32, or 256 for the K types */
    ot_type embd_type;      /* of token_embd.weight and output.weight */
    bool separate_output;   /* output.weight of its own; else token_embd.weight is the output matrix, too */
    float rope_freq_base;
    const char *spoilt;     /* a tensor, of F32 if it is a matrix, that is all NaN; NULL: none */
    const char *stranger;   /* a vector that no architecture has a place for, in addition; NULL: none */
    const char *key;        /* a key after "ARCHITECTURE.", in addition; NULL: none */
    float key_value;        /* a boolean if it is 0 or 1 */
    bool gemma2;            /* architecture gemma2: norms of what is added, a window of 24 keys in the first of two layers, caps of 20 on scores
                             * and 3 on logits */
    bool gpt2;              /* architecture gpt2: LayerNorm, learned positions, fused W_QKV, biases, no gate. n_embd is
                             * n_heads * head_dim then, and n_kv_heads is n_heads */
} ot_tiny_model_options;

/* seed 1, 2 layers, 64 wide, 4 heads on 2 key/value heads of 32, n_ff 128, context 512, all F32, tied output, rope base 10000. */
ot_tiny_model_options ot_tiny_model_defaults(void);

/* Writes the file (NULL options: the defaults). OT_ERR_INVALID for sizes that do not go together, else what ot_gguf_write says. */
ot_status ot_tiny_model_write(const char *path, const ot_tiny_model_options *options, ot_error *err);

/* Tokens in the vocabulary; no multiple of 16, so that tails are met. */
uint32_t ot_tiny_model_vocab_size(void);

#endif
