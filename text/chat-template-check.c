/* Does a template write what its family writes and nothing else? Two templates may share all their marks and still differ by
 * a few words (a fixed beginning of the answer, an added instruction). So every string that an expression of the
 * template writes must be part of what the C rendering can write. Templates with branches for tools write much that plain
 * conversations never see: of them only the beginning of the answer is checked. */
#include "text/chat-template-internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct known {
    char *text; /* everything that the rendering writes, '\3' between separate strings */
    size_t size, capacity;
    bool failed;
} known;

static void add(known *k, const char *text, size_t size)
{
    if (!k->failed && size >= k->capacity - k->size) {
        char *grown = realloc(k->text, k->capacity * 2 + size + 512);
        k->failed = grown == NULL;
        if (!k->failed) {
            k->text = grown;
            k->capacity = k->capacity * 2 + size + 512;
        }
    }
    if (k->failed)
        return;
    memcpy(k->text + k->size, text, size);
    k->size += size;
    k->text[k->size] = '\0';
}

/* A string of the family, with BOS and EOS as their texts. */
static void add_mark(known *k, const ot_chat_family *f, const char *mark)
{
    for (; mark != NULL && *mark != '\0'; mark++) {
        const char *token = *mark == BOS[0] ? f->bos : *mark == EOS[0] ? f->eos : NULL;
        if (token != NULL)
            add(k, token, strlen(token));
        else
            add(k, mark, 1);
    }
}

static void collect(known *k, const ot_chat_template *t)
{
    const ot_chat_family *f = t->family;
    const ot_chat_turn *turns[] = {&f->system, &f->user, &f->assistant, &f->tool, &f->later_system};
    add(k, "user\3assistant\3system\3tool\3", 27);
    add_mark(k, f, t->start);
    for (size_t i = 0; i < sizeof turns / sizeof turns[0]; i++) {
        add(k, "\3", 1);
        add_mark(k, f, turns[i]->before);
        add(k, "\3", 1);
        add_mark(k, f, turns[i]->after);
    }
    add(k, "\3", 1);
    add_mark(k, f, f->after_last);
    add(k, "\3", 1);
    add_mark(k, f, t->prompt);
    if (t->default_system != NULL) {
        bool bare = t->flags & OT_CHAT_DEFAULT_BARE;
        add(k, "\3", 1);
        add_mark(k, f, bare ? "" : f->system.before);
        add(k, t->default_system, strlen(t->default_system));
        add_mark(k, f, bare ? "" : f->system.after);
    }
}

/* Past the literal at its opening quote; its content, unescaped, goes to dst, which must have room. */
static const char *read_literal(const char *at, char *dst)
{
    for (at++; *at != '\0' && *at != '\''; at++) {
        char c = *at;
        if (c == '\\' && at[1] != '\0') {
            c = *++at;
            c = c == 'n' ? '\n' : c == 't' ? '\t' : c;
        }
        *dst++ = c;
    }
    *dst = '\0';
    return *at == '\0' ? at : at + 1;
}

/* Past the tag at "{{" or "{%"; whether all strings in it are known. */
static const char *check_tag(const char *at, const known *k, char *buffer, bool *all_known)
{
    bool writes = at[1] == '{' && strncmp(at + 2, "raise_exception(", 16) != 0;
    const char *close = at[1] == '{' ? "}}" : "%}";
    for (at += 2; *at != '\0' && strncmp(at, close, 2) != 0;) {
        if (*at != '\'') {
            at++;
            continue;
        }
        at = read_literal(at, buffer);
        if (writes && strstr(k->text, buffer) == NULL)
            *all_known = false;
    }
    return *at == '\0' ? at : at + 2;
}

/* Whether some string of the template is the beginning of the answer, to its end; a line break at its end may also be one
 * between blocks. */
static bool has_prompt(const ot_chat_template *t, const char *canonical, char *buffer)
{
    size_t size = strlen(t->prompt);
    bool broken = (t->flags & OT_CHAT_LINES) && size > 0 && t->prompt[size - 1] == '\n';
    const char *after = strstr(canonical, "add_generation_prompt");
    if (size == 0 || after == NULL)
        return true;
    for (const char *at = strchr(after, '\''); at != NULL; at = strchr(at, '\'')) {
        at = read_literal(at, buffer);
        if (strcmp(buffer, t->prompt) == 0 ||
            (broken && strlen(buffer) == size - 1 && strncmp(buffer, t->prompt, size - 1) == 0))
            return true;
    }
    return false;
}

static bool check(const ot_chat_template *t, const char *canonical, const known *k, char *buffer)
{
    bool all_known = true;
    for (const char *at = canonical; *at != '\0';) {
        if (at[0] == '{' && (at[1] == '{' || at[1] == '%')) {
            at = check_tag(at, k, buffer, &all_known);
            continue;
        }
        if (*at != '\n' || !(t->flags & OT_CHAT_LINES))
            return false; /* text between the blocks */
        at++;
    }
    if (strstr(canonical, "tool") != NULL)
        all_known = true;
    return all_known && has_prompt(t, canonical, buffer);
}

bool ot_chat_writes_only_known(const ot_chat_template *t, const char *canonical, bool *done)
{
    known k = {NULL, 0, 0, false};
    char *buffer = malloc(strlen(canonical) + 1);
    bool result = false;
    collect(&k, t);
    *done = buffer != NULL && !k.failed;
    if (*done)
        result = check(t, canonical, &k, buffer);
    free(buffer);
    free(k.text);
    return result;
}
