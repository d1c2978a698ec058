/* API keys: a line of a file for each, kept as SHA-256. A client's key is hashed and compared with every stored one in constant time, so
 * that neither how much of a key was right nor which key it was shows in the time it takes.
 *
 *     KEY                            the role is `use`
 *     KEY name=ops role=manage       `manage` may load and unload heads, too; the name stands in logs
 */
#include <nettle/memops.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/exchange.h"

enum { MAX_KEYS = 4096, MAX_LINE_BYTES = 1200 };

typedef struct {
    uint8_t digest[SHA256_DIGEST_SIZE];
    ot_api_key key;
} entry;

struct ot_api_keys {
    uint32_t n;
    entry entries[];
};

static void digest_of(const char *key, size_t size, uint8_t digest[SHA256_DIGEST_SIZE])
{
    struct sha256_ctx sha;
    sha256_init(&sha);
    sha256_update(&sha, size, (const uint8_t *)key);
    sha256_digest(&sha, SHA256_DIGEST_SIZE, digest);
}

static bool is_name(const char *name)
{
    for (const char *c = name; *c; c++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.@-", *c))
            return false;
    return name[0] && strlen(name) < sizeof((ot_api_key *)0)->name;
}

/* "name=..." or "role=..." */
static ot_status read_attribute(ot_api_key *key, const char *word, const char *where, ot_error *err)
{
    if (strncmp(word, "name=", 5) == 0 && is_name(word + 5)) {
        snprintf(key->name, sizeof key->name, "%s", word + 5);
    } else if (strcmp(word, "role=use") == 0) {
        key->role = OT_KEY_USE;
    } else if (strcmp(word, "role=manage") == 0) {
        key->role = OT_KEY_MANAGE;
    } else { /* it may be a part of a key: not shown */
        return ot_fail_param(err, OT_ERR_FORMAT, "api-key-file",
                             "%s: after the key, expected name=NAME (letters, digits, _ . @ -, at most %zu) or role=use|manage", where,
                             sizeof key->name - 1);
    }
    return OT_OK;
}

static ot_status add_line(ot_api_keys **keys, char *line, const char *where, ot_error *err)
{
    char *rest = NULL, *text = strtok_r(line, " \t\r\n", &rest);
    if (!text || text[0] == '#')
        return OT_OK;
    if ((*keys)->n == MAX_KEYS)
        return ot_fail_param(err, OT_ERR_INVALID, "api-key-file", "%s: more than %d keys", where, MAX_KEYS);
    ot_api_keys *grown = realloc(*keys, sizeof *grown + ((*keys)->n + 1) * sizeof grown->entries[0]);
    if (!grown)
        return ot_fail(err, OT_ERR_NOMEM, "%s: out of memory", where);
    *keys = grown;
    entry *added = &grown->entries[grown->n++];
    *added = (entry){.key = {.role = OT_KEY_USE}};
    snprintf(added->key.name, sizeof added->key.name, "key-%u", grown->n);
    digest_of(text, strlen(text), added->digest);
    memcpy(added->key.salt, added->digest, sizeof added->key.salt);
    for (char *word; (word = strtok_r(NULL, " \t\r\n", &rest));) {
        ot_status status = read_attribute(&added->key, word, where, err);
        if (status)
            return status;
    }
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
    char line[MAX_LINE_BYTES + 2], where[512];
    for (unsigned number = 1; !status && fgets(line, sizeof line, file); number++) {
        snprintf(where, sizeof where, "%.400s:%u", path, number);
        if (!strchr(line, '\n') && !feof(file))
            status = ot_fail_param(err, OT_ERR_FORMAT, "api-key-file", "%s: longer than %d bytes", where, MAX_LINE_BYTES);
        else
            status = add_line(&keys, line, where, err);
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

bool ot_api_keys_find(const ot_api_keys *keys, const char *text, ot_api_key *key)
{
    uint8_t digest[SHA256_DIGEST_SIZE];
    uint32_t at = 0;
    digest_of(text, strlen(text), digest);
    int found = 0;
    for (uint32_t i = 0; i < keys->n; i++) {
        uint32_t same = (uint32_t)memeql_sec(digest, keys->entries[i].digest, SHA256_DIGEST_SIZE);
        at |= i & -same;
        found |= (int)same;
    }
    if (found)
        *key = keys->entries[at].key;
    return found;
}
