/* yaml-tree.h. */
#include "base/yaml-tree.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { MAX_DEPTH = 32 };
#define MAX_FILE_BYTES ((size_t)4 << 20)

typedef struct reader {
    yaml_parser_t parser;
    const char *name;
    ot_error *err;
} reader;

void ot_yaml_close(ot_yaml **tree)
{
    ot_yaml *t = *tree;
    if (!t)
        return;
    *tree = NULL;
    for (size_t i = 0; i < t->n; i++) {
        if (t->keys)
            free(t->keys[i]);
        ot_yaml_close(&t->items[i]);
    }
    free(t->keys);
    free(t->items);
    free(t->text);
    free(t);
}

static ot_status out_of_memory(const reader *r)
{
    return ot_fail(r->err, OT_ERR_NOMEM, "%s: out of memory", r->name);
}

static ot_status next_event(reader *r, yaml_event_t *event)
{
    if (yaml_parser_parse(&r->parser, event))
        return OT_OK;
    const char *problem = r->parser.problem ? r->parser.problem : "cannot be read";
    return ot_fail(r->err, OT_ERR_FORMAT, "%s:%zu: %s", r->name, r->parser.problem_mark.line + 1, problem);
}

/* Room for one more entry. */
static bool grow(ot_yaml *t)
{
    if (t->n & (t->n - 1)) /* sizes are powers of two */
        return true;
    size_t capacity = t->n ? t->n * 2 : 1;
    ot_yaml **items = realloc(t->items, capacity * sizeof *items);
    if (!items)
        return false;
    t->items = items;
    if (t->kind != OT_YAML_MAP)
        return true;
    char **keys = realloc(t->keys, capacity * sizeof *keys);
    if (!keys)
        return false;
    t->keys = keys;
    return true;
}

static ot_status read_node(reader *r, const yaml_event_t *event, unsigned depth, ot_yaml **out);

static ot_status read_item(reader *r, const yaml_event_t *event, unsigned depth, ot_yaml *parent, char *key)
{
    ot_yaml *item = NULL;
    ot_status status = read_node(r, event, depth, &item);
    if (status || !grow(parent)) {
        ot_yaml_close(&item);
        free(key);
        return status ? status : out_of_memory(r);
    }
    if (parent->kind == OT_YAML_MAP)
        parent->keys[parent->n] = key;
    parent->items[parent->n++] = item;
    return OT_OK;
}

static ot_status read_key(reader *r, const yaml_event_t *event, const ot_yaml *map, char **key)
{
    size_t line = event->start_mark.line + 1;
    if (event->type != YAML_SCALAR_EVENT)
        return ot_fail(r->err, OT_ERR_FORMAT, "%s:%zu: a key must be a plain name", r->name, line);
    const char *text = (const char *)event->data.scalar.value;
    if (strlen(text) != event->data.scalar.length)
        return ot_fail(r->err, OT_ERR_FORMAT, "%s:%zu: a key holds a zero character", r->name, line);
    if (ot_yaml_get(map, text))
        return ot_fail_param(r->err, OT_ERR_FORMAT, text, "%s:%zu: '%.100s' is there twice", r->name, line, text);
    *key = strdup(text);
    return *key ? OT_OK : out_of_memory(r);
}

/* Entries until the end event, which is taken, too. */
static ot_status read_entries(reader *r, unsigned depth, ot_yaml *parent)
{
    for (;;) {
        yaml_event_t event;
        char *key = NULL;
        ot_status status = next_event(r, &event);
        if (status)
            return status;
        if (event.type == YAML_MAPPING_END_EVENT || event.type == YAML_SEQUENCE_END_EVENT) {
            yaml_event_delete(&event);
            return OT_OK;
        }
        if (parent->kind == OT_YAML_MAP) {
            status = read_key(r, &event, parent, &key);
            yaml_event_delete(&event);
            if (!status)
                status = next_event(r, &event);
            if (status) {
                free(key);
                return status;
            }
        }
        status = read_item(r, &event, depth, parent, key);
        yaml_event_delete(&event);
        if (status)
            return status;
    }
}

static ot_status read_node(reader *r, const yaml_event_t *event, unsigned depth, ot_yaml **out)
{
    size_t line = event->start_mark.line + 1;
    if (event->type == YAML_ALIAS_EVENT)
        return ot_fail(r->err, OT_ERR_UNSUPPORTED, "%s:%zu: aliases are not taken here", r->name, line);
    if (depth > MAX_DEPTH)
        return ot_fail(r->err, OT_ERR_FORMAT, "%s:%zu: nested deeper than %d levels", r->name, line, MAX_DEPTH);
    ot_yaml *t = *out = calloc(1, sizeof *t);
    if (!t)
        return out_of_memory(r);
    t->line = (unsigned)line;
    if (event->type == YAML_SCALAR_EVENT) {
        t->kind = OT_YAML_SCALAR;
        t->quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
        t->text = strdup((const char *)event->data.scalar.value);
        if (t->text && strlen(t->text) != event->data.scalar.length)
            return ot_fail(r->err, OT_ERR_FORMAT, "%s:%zu: the value holds a zero character", r->name, line);
        return t->text ? OT_OK : out_of_memory(r);
    }
    t->kind = event->type == YAML_MAPPING_START_EVENT ? OT_YAML_MAP : OT_YAML_LIST;
    return read_entries(r, depth + 1, t);
}

/* The events of a document: stream start, document start, a node, document end, stream end. */
static ot_status read_document(reader *r, ot_yaml **out)
{
    ot_status status = OT_OK;
    bool done = false;
    while (!status && !done) {
        yaml_event_t event;
        status = next_event(r, &event);
        if (status)
            return status;
        done = event.type == YAML_STREAM_END_EVENT;
        bool is_node = event.type == YAML_SCALAR_EVENT || event.type == YAML_SEQUENCE_START_EVENT ||
                       event.type == YAML_MAPPING_START_EVENT || event.type == YAML_ALIAS_EVENT;
        if (is_node && *out)
            status = ot_fail(r->err, OT_ERR_FORMAT, "%s:%zu: a second document", r->name, event.start_mark.line + 1);
        else if (is_node)
            status = read_node(r, &event, 0, out);
        yaml_event_delete(&event);
    }
    if (!status && !*out) {
        *out = calloc(1, sizeof **out);
        if (!*out)
            return out_of_memory(r);
        (*out)->kind = OT_YAML_MAP;
        (*out)->line = 1;
    }
    return status;
}

ot_status ot_yaml_parse(ot_yaml **out, const char *text, size_t size, const char *name, ot_error *err)
{
    reader r = {.name = name, .err = err};
    *out = NULL;
    if (!yaml_parser_initialize(&r.parser))
        return out_of_memory(&r);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, size);
    ot_status status = read_document(&r, out);
    yaml_parser_delete(&r.parser);
    if (status)
        ot_yaml_close(out);
    return status;
}

ot_status ot_yaml_read_file(ot_yaml **out, const char *path, ot_error *err)
{
    *out = NULL;
    FILE *file = fopen(path, "re");
    if (!file)
        return ot_fail(err, OT_ERR_IO, "%s: %s", path, strerror(errno));
    char *text = malloc(MAX_FILE_BYTES + 1);
    size_t size = text ? fread(text, 1, MAX_FILE_BYTES + 1, file) : 0;
    ot_status status;
    if (!text)
        status = ot_fail(err, OT_ERR_NOMEM, "%s: out of memory", path);
    else if (ferror(file))
        status = ot_fail(err, OT_ERR_IO, "%s: cannot be read", path);
    else if (size > MAX_FILE_BYTES)
        status = ot_fail(err, OT_ERR_FORMAT, "%s: larger than %zu bytes", path, MAX_FILE_BYTES);
    else
        status = ot_yaml_parse(out, text, size, path, err);
    free(text);
    fclose(file);
    return status;
}

const ot_yaml *ot_yaml_get(const ot_yaml *map, const char *key)
{
    for (size_t i = 0; map->keys && i < map->n; i++)
        if (strcmp(map->keys[i], key) == 0)
            return map->items[i];
    return NULL;
}
