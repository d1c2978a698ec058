/* The fingerprint of a file's tensors: what ties an insertion to its base.
 *
 * It covers names, types, shapes and data, and neither the keys nor the order in the file, so that editing a model's description or
 * rewriting the file keeps its insertions valid, and any change of a weight does not. */
#include <nettle/sha2.h>

#include "gguf/gguf-internal.h"

enum { PIECE = 4 << 20 }; /* bytes that are read before their pages may go */

static void update_u32(struct sha256_ctx *hash, uint32_t value)
{
    uint8_t bytes[4];
    memcpy(bytes, &value, sizeof bytes);
    sha256_update(hash, sizeof bytes, bytes);
}

static void update_u64(struct sha256_ctx *hash, uint64_t value)
{
    uint8_t bytes[8];
    memcpy(bytes, &value, sizeof bytes);
    sha256_update(hash, sizeof bytes, bytes);
}

void ot_gguf_fingerprint(const ot_gguf *gguf, char digits[65])
{
    static const char hex[] = "0123456789abcdef";
    uint8_t digest[SHA256_DIGEST_SIZE];
    struct sha256_ctx hash;
    sha256_init(&hash);
    for (uint64_t i = 0; i < gguf->n_tensors; i++) {
        const ot_tensor *tensor = (const ot_tensor *)(const void *)gguf->tensor_index[i];
        sha256_update(&hash, tensor->name.size, (const uint8_t *)tensor->name.data);
        sha256_update(&hash, 1, (const uint8_t *)"");
        update_u32(&hash, (uint32_t)tensor->type);
        update_u32(&hash, tensor->n_dims);
        for (uint32_t d = 0; d < tensor->n_dims; d++)
            update_u64(&hash, tensor->dims[d]);
        for (size_t at = 0; at < tensor->bytes; at += PIECE) {
            const size_t bytes = tensor->bytes - at < PIECE ? tensor->bytes - at : PIECE;
            sha256_update(&hash, bytes, tensor->data + at);
            ot_gguf_drop_bytes(gguf, tensor->data + at, bytes);
        }
    }
    sha256_digest(&hash, sizeof digest, digest);
    for (size_t i = 0; i < sizeof digest; i++) {
        digits[2 * i] = hex[digest[i] >> 4];
        digits[2 * i + 1] = hex[digest[i] & 15];
    }
    digits[64] = 0;
}
