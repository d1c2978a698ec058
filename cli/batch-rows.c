/* The rows of `otter generate --batch`: what a line of the input asks for, and how a file of answers is gone on with.
 *
 * An answer file is only ever appended to, a whole row at a time, so that whatever ended a run, what is there is a beginning of
 * what the whole run writes; only the last line may be cut, and is then cut off. */
#include "cli/generate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *ot_batch_row_kind(const json_t *row, ot_error *err)
{
    static const char *const kinds[] = {"prompt", "messages", "text"};
    const char *found = NULL;
    for (size_t i = 0; i < 3; i++) {
        if (json_object_get(row, kinds[i]) == NULL)
            continue;
        if (found != NULL) {
            ot_fail(err, OT_ERR_FORMAT, "has both '%s' and '%s'", found, kinds[i]);
            return NULL;
        }
        found = kinds[i];
    }
    if (found == NULL)
        ot_fail(err, OT_ERR_FORMAT, "has none of 'prompt', 'messages' and 'text'");
    return found;
}

static ot_status tokenize_messages(const ot_tokenizer *tokenizer, const ot_chat_template *chat, const json_t *list,
                                   int32_t **tokens, size_t *n, ot_error *err)
{
    const size_t count = json_array_size(list);
    if (count == 0)
        return ot_fail(err, OT_ERR_FORMAT, "'messages' must be a list of messages");
    ot_chat_message *messages = calloc(count, sizeof *messages);
    if (messages == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory");
    ot_status st = OT_OK;
    for (size_t i = 0; i < count && st == OT_OK; i++) {
        const json_t *message = json_array_get(list, i);
        messages[i].role = json_string_value(json_object_get(message, "role"));
        messages[i].content = json_string_value(json_object_get(message, "content"));
        if (messages[i].role == NULL || messages[i].content == NULL)
            st = ot_fail(err, OT_ERR_FORMAT, "'messages[%zu]' needs the texts 'role' and 'content'", i);
    }
    if (st == OT_OK)
        st = ot_chat_template_tokenize(chat, tokenizer, messages, count, true, false, tokens, n, err);
    free(messages);
    return st;
}

ot_status ot_batch_row_tokenize(const ot_generate_options *o, const ot_tokenizer *tokenizer, const ot_chat_template *chat,
                                const json_t *row, const char **echo, int32_t **tokens, uint32_t *n_tokens, ot_error *err)
{
    *tokens = NULL;
    *echo = ot_batch_row_kind(row, err);
    if (*echo == NULL)
        return OT_ERR_FORMAT;
    const json_t *value = json_object_get(row, *echo);
    size_t n = 0;
    ot_status st;
    if (strcmp(*echo, "messages") == 0) {
        st = tokenize_messages(tokenizer, chat, value, tokens, &n, err);
    } else if (!json_is_string(value)) {
        return ot_fail(err, OT_ERR_FORMAT, "'%s' must be a text", *echo);
    } else if (strcmp(*echo, "text") == 0) {
        st = ot_tokenize(tokenizer, json_string_value(value), json_string_length(value), OT_TOKENIZE_BOS, tokens, &n, err);
    } else {
        const ot_chat_message messages[2] = {{"system", o->system}, {"user", json_string_value(value)}};
        const bool has_system = o->system != NULL;
        st = ot_chat_template_tokenize(chat, tokenizer, messages + !has_system, 1u + has_system, true, false, tokens, &n, err);
    }
    if (st == OT_OK && (n == 0 || n > UINT32_MAX / 4))
        st = ot_fail(err, OT_ERR_FORMAT, "'%s' makes %zu tokens", *echo, n);
    *n_tokens = (uint32_t)n;
    return st;
}

/* ---- Going on ---------------------------------------------------------------------------------------------- */

/* Finds the end of the last whole row: *end bytes and *n_rows rows; *line_at is where its last line begins. */
static ot_status measure(FILE *f, const char *path, uint32_t per_row, uint64_t *n_rows, off_t *end, off_t *line_at,
                         ot_error *err)
{
    char buffer[1 << 14];
    off_t at = 0, line = 0, next = 0;
    uint64_t n_lines = 0;
    *n_rows = 0;
    *end = *line_at = 0;
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, f)) > 0;)
        for (size_t i = 0; i < n; i++) {
            at++;
            if (buffer[i] != '\n')
                continue;
            line = next;
            next = at;
            if (++n_lines % per_row == 0) {
                *n_rows = n_lines / per_row;
                *end = at;
                *line_at = line;
            }
        }
    return ferror(f) ? ot_fail(err, OT_ERR_IO, "%s: reading failed: %s", path, strerror(errno)) : OT_OK;
}

static ot_status read_line_at(FILE *f, const char *path, off_t from, off_t end, json_t **last, ot_error *err)
{
    const size_t size = (size_t)(end - from);
    char *line = malloc(size);
    if (line == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory");
    ot_status st = OT_OK;
    if (fseeko(f, from, SEEK_SET) != 0 || fread(line, 1, size, f) != size)
        st = ot_fail(err, OT_ERR_IO, "%s: reading failed: %s", path, strerror(errno));
    else if ((*last = json_loadb(line, size, 0, NULL)) == NULL)
        st = ot_fail(err, OT_ERR_FORMAT, "%s: the last whole line is not JSON", path);
    free(line);
    return st;
}

ot_status ot_batch_out_open(FILE **out, const char *path, bool resume, uint32_t per_row, uint64_t *n_rows, json_t **last,
                            ot_error *err)
{
    *last = NULL;
    *n_rows = 0;
    FILE *f = fopen(path, "a+b");
    if (f == NULL)
        return ot_fail(err, OT_ERR_IO, "%s: cannot be opened for writing: %s", path, strerror(errno));
    off_t end = 0, line_at = 0;
    fseeko(f, 0, SEEK_END);
    const bool has_lines = ftello(f) > 0;
    rewind(f);
    ot_status st = OT_OK;
    if (has_lines && !resume)
        st = ot_fail(err, OT_ERR_INVALID, "%s: exists; --resume goes on after its last line", path);
    if (st == OT_OK)
        st = measure(f, path, per_row, n_rows, &end, &line_at, err);
    if (st == OT_OK && *n_rows > 0)
        st = read_line_at(f, path, line_at, end, last, err);
    if (st == OT_OK && ftruncate(fileno(f), end) != 0)
        st = ot_fail(err, OT_ERR_IO, "%s: cannot be cut after its last whole line: %s", path, strerror(errno));
    if (st == OT_OK && fseeko(f, 0, SEEK_END) == 0) {
        *out = f;
        return OT_OK;
    }
    fclose(f);
    return st != OT_OK ? st : ot_fail(err, OT_ERR_IO, "%s: cannot be appended to", path);
}
