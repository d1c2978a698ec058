/* API keys: one a line of a file, kept as SHA-256. A client's key is hashed and compared with every stored one in constant time, so
 * that neither how much of a key was right nor which key it was shows in the time it takes. */
#include <nettle/memops.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/exchange.h"

enum { MAX_KEYS = 4096, MAX_KEY_BYTES = 1024 };

struct ot_api_keys {
    uint32_t n;
    uint8_t digests[][SHA256_DIGEST_SIZE];
};

static void digest_of(const char *key, size_t size, uint8_t digest[SHA256_DIGEST_SIZE])
{
    struct sha256_ctx sha;
    sha256_init(&sha);
    sha256_update(&sha, size, (const uint8_t *)key);
    sha256_digest(&sha, SHA256_DIGEST_SIZE, digest);
}

static ot_status add_line(ot_api_keys **keys, char *line, const char *path, unsigned number, ot_error *err)
{
    line += strspn(line, " \t");
    size_t n = strcspn(line, "\r\n");
    while (n && (line[n - 1] == ' ' || line[n - 1] == '\t'))
        n--;
    if (n == 0 || line[0] == '#')
        return OT_OK;
    if ((*keys)->n == MAX_KEYS)
        return ot_fail_param(err, OT_ERR_INVALID, "api-key-file", "%s:%u: more than %d keys", path, number, MAX_KEYS);
    ot_api_keys *grown = realloc(*keys, sizeof *grown + ((*keys)->n + 1) * sizeof grown->digests[0]);
    if (!grown)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory while reading %s", path);
    digest_of(line, n, grown->digests[grown->n++]);
    *keys = grown;
    return OT_OK;
}

ot_status ot_api_keys_open(ot_api_keys **out, const char *path, ot_error *err)
{
    *out = NULL;
    FILE *file = fopen(path, "re");
    if (!file)
        return ot_fail_param(err, OT_ERR_IO, "api-key-file", "%s: %m", path);
    ot_api_keys *keys = calloc(1, sizeof *keys);
    ot_status status = keys ? OT_OK : ot_fail(err, OT_ERR_NOMEM, "out of memory while reading %s", path);
    char line[MAX_KEY_BYTES + 2];
    for (unsigned number = 1; !status && fgets(line, sizeof line, file); number++) {
        if (!strchr(line, '\n') && !feof(file))
            status = ot_fail_param(err, OT_ERR_FORMAT, "api-key-file", "%s:%u: longer than %d bytes", path, number,
                                   MAX_KEY_BYTES);
        else
            status = add_line(&keys, line, path, number, err);
    }
    if (!status && ferror(file))
        status = ot_fail_param(err, OT_ERR_IO, "api-key-file", "%s: cannot be read", path);
    if (!status && keys->n == 0) /* a server that was meant to be closed must not stand open */
        status = ot_fail_param(err, OT_ERR_FORMAT, "api-key-file", "%s: holds no key", path);
    fclose(file);
    if (status)
        free(keys);
    else
        *out = keys;
    return status;
}

void ot_api_keys_close(ot_api_keys **keys)
{
    free(*keys);
    *keys = NULL;
}

bool ot_api_keys_check(const ot_api_keys *keys, const char *authorization, uint8_t salt[16])
{
    memset(salt, 0, 16);
    if (!keys)
        return true;
    if (!authorization || strncasecmp(authorization, "Bearer ", 7) != 0)
        return false;
    const char *key = authorization + 7 + strspn(authorization + 7, " ");
    size_t n = strlen(key);
    uint8_t digest[SHA256_DIGEST_SIZE];
    digest_of(key, n, digest);
    int found = 0;
    for (uint32_t i = 0; i < keys->n; i++)
        found |= memeql_sec(digest, keys->digests[i], SHA256_DIGEST_SIZE);
    if (found)
        memcpy(salt, digest, 16);
    return found;
}
