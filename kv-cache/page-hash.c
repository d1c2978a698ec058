/* SipHash-2-4-128. Written from the paper "SipHash: a fast short-input PRF" (Aumasson, Bernstein) and its
 * published test vectors; data words are little-endian, as everywhere in this project. */
#include "kv-cache/page-hash.h"

#include <string.h>

typedef struct sip {
    uint64_t v0, v1, v2, v3;
} sip;

static uint64_t rotl(uint64_t x, int b)
{
    return x << b | x >> (64 - b);
}

static void rounds(sip *s, int n)
{
    for (int i = 0; i < n; i++) {
        s->v0 += s->v1;
        s->v2 += s->v3;
        s->v1 = rotl(s->v1, 13) ^ s->v0;
        s->v3 = rotl(s->v3, 16) ^ s->v2;
        s->v0 = rotl(s->v0, 32);
        s->v2 += s->v1;
        s->v0 += s->v3;
        s->v1 = rotl(s->v1, 17) ^ s->v2;
        s->v3 = rotl(s->v3, 21) ^ s->v0;
        s->v2 = rotl(s->v2, 32);
    }
}

static void absorb(sip *s, uint64_t word)
{
    s->v3 ^= word;
    rounds(s, 2);
    s->v0 ^= word;
}

ot_page_digest ot_page_hash(const uint8_t key[16], const void *data, size_t size)
{
    uint64_t k[2];
    memcpy(k, key, sizeof k);
    sip s = {
        k[0] ^ 0x736f6d6570736575u,
        k[1] ^ 0x646f72616e646f6du ^ 0xee, /* 0xee marks the 128-bit variant */
        k[0] ^ 0x6c7967656e657261u,
        k[1] ^ 0x7465646279746573u,
    };
    const uint8_t *p = data;
    size_t left = size;
    for (; left >= 8; left -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        absorb(&s, word);
    }
    uint64_t last = 0;
    memcpy(&last, p, left);
    absorb(&s, last | (uint64_t)size << 56);

    ot_page_digest d;
    s.v2 ^= 0xee;
    rounds(&s, 4);
    d.lo = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
    s.v1 ^= 0xdd;
    rounds(&s, 4);
    d.hi = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
    return d;
}
