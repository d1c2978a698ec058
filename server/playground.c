/* The playground at `/`: one page with its style and scripts inside, which needs nothing from elsewhere and calls this server alone.
 *
 * The page is the same for everybody and tells nothing of the server, so it needs no key; what it calls does. Its content policy
 * (W3C, Content Security Policy Level 3) names the hashes of the one <style> and the one <script>, so that a browser runs nothing else,
 * whatever a model writes. */
#include "server/playground.h"

#include <stdio.h>
#include <string.h>

#include <nettle/base64.h>
#include <nettle/sha2.h>

#include "server/embedded.h"
#include "server/exchange.h"

/* 'sha256-...' of what stands between the first <tag> and </tag>. */
static void put_hash(const char *page, const char *tag, char hash[BASE64_ENCODE_RAW_LENGTH(SHA256_DIGEST_SIZE) + 1])
{
    char opening[16], closing[16];
    snprintf(opening, sizeof opening, "<%s>", tag);
    snprintf(closing, sizeof closing, "</%s>", tag);
    const char *begin = strstr(page, opening);
    const char *end = begin ? strstr(begin, closing) : NULL;
    hash[0] = '\0';
    if (!end)
        return;
    begin += strlen(opening);
    struct sha256_ctx context;
    uint8_t digest[SHA256_DIGEST_SIZE];
    sha256_init(&context);
    sha256_update(&context, (size_t)(end - begin), (const uint8_t *)begin);
    sha256_digest(&context, sizeof digest, digest);
    base64_encode_raw(hash, sizeof digest, digest);
    hash[BASE64_ENCODE_RAW_LENGTH(sizeof digest)] = '\0';
}

void ot_playground_policy(char policy[OT_PAGE_POLICY_BYTES])
{
    char style[BASE64_ENCODE_RAW_LENGTH(SHA256_DIGEST_SIZE) + 1], script[sizeof style];
    put_hash(ot_playground_html, "style", style);
    put_hash(ot_playground_html, "script", script);
    snprintf(policy, OT_PAGE_POLICY_BYTES,
             "default-src 'none'; connect-src 'self'; style-src 'sha256-%s'; script-src 'sha256-%s'; "
             "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
             style, script);
}

void ot_handle_playground(ot_exchange *x)
{
    ot_text_append(&x->out, ot_playground_html, ot_playground_html_size);
    ot_exchange_reply(x, 200, "text/html; charset=utf-8");
}
