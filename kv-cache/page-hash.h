/* The names of prefix pages: a keyed 128-bit hash of everything that a page's keys and values depend on. */
#ifndef OTTER_KV_CACHE_PAGE_HASH_H
#define OTTER_KV_CACHE_PAGE_HASH_H

#include <stddef.h>
#include <stdint.h>

/* SipHash-2-4 with 128 bits of output (Aumasson and Bernstein, 2012; the 128-bit variant of their reference). With a key
 * drawn at start it is a pseudorandom function: a client who cannot see the key cannot make two prompts collide, and
 * so cannot read another's pages. */
typedef struct ot_page_digest {
    uint64_t lo, hi;
} ot_page_digest;

/* Digest of `size` bytes under a 16-byte key. */
ot_page_digest ot_page_hash(const uint8_t key[16], const void *data, size_t size);

#endif
