/* What of an error a client may read. Messages of the rooms below name files by their whole path, which is for the operator's
 * eyes; a client is told the file's name. */
#include "server/exchange.h"

#include <string.h>

static bool is_route(const char *word, size_t size)
{
    for (size_t i = 0; i < ot_route_count(); i++) {
        const char *path = ot_route_at(i)->path;
        if (strncmp(path, word, size) == 0 && (path[size] == '\0' || path[size] == '/'))
            return true;
    }
    return false;
}

/* A word that begins with a slash and is no route of ours is a path: what stands before its last slash goes. Words that
 * a client sent stand in quotes, and stay. */
void ot_error_hide_folders(char *message)
{
    char *out = message;
    for (char *at = message; *at;) {
        size_t n = strcspn(at, " ");
        size_t word = strcspn(at, " :;,)");
        if (*at == '/' && word > 1 && !is_route(at, word)) {
            size_t name = word;
            while (at[name - 1] != '/')
                name--;
            at += name;
            n -= name;
        }
        n += strspn(at + n, " ");
        memmove(out, at, n);
        out += n;
        at += n;
    }
    *out = '\0';
}
