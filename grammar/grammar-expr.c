/* The builder of expressions: memory in blocks, within a budget, and the few rules that keep expressions in order. */
#include "grammar/grammar-expr.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_BYTES = 64 * 1024, MAX_BYTES = 32 << 20, MAX_RULES = 16384 };
#define MAX_WORK ((uint64_t)256 << 20)

typedef struct block {
    struct block *next;
    size_t used, size;
    _Alignas(16) unsigned char data[];
} block;

struct ot_grammar_builder {
    ot_error error; /* code OT_OK: none so far */
    block *blocks;  /* newest first */
    size_t bytes;
    uint64_t work;
    ot_rule *rules;
    uint32_t n_rules, rule_capacity;
};

ot_status ot_grammar_builder_open(ot_grammar_builder **out, ot_error *err)
{
    *out = calloc(1, sizeof **out);
    return *out != NULL ? OT_OK : ot_fail(err, OT_ERR_NOMEM, "no memory for a grammar");
}

void ot_grammar_builder_close(ot_grammar_builder **builder)
{
    ot_grammar_builder *b = *builder;
    if (b == NULL)
        return;
    while (b->blocks != NULL) {
        block *next = b->blocks->next;
        free(b->blocks);
        b->blocks = next;
    }
    free(b->rules);
    free(b);
    *builder = NULL;
}

ot_status ot_grammar_builder_status(const ot_grammar_builder *b, ot_error *err)
{
    if (b->error.code != OT_OK && err != NULL)
        *err = b->error;
    return b->error.code;
}

void ot_grammar_builder_fail(ot_grammar_builder *b, ot_status code, const char *format, ...)
{
    if (b->error.code != OT_OK)
        return;
    char message[sizeof b->error.message];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    ot_fail(&b->error, code, "%s", message);
}

void ot_grammar_builder_work(ot_grammar_builder *b, uint64_t steps)
{
    b->work += steps;
    if (b->work > MAX_WORK)
        ot_grammar_builder_fail(b, OT_ERR_INVALID, "the grammar is too complex: reading it takes too long");
}

void *ot_grammar_builder_take(ot_grammar_builder *b, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > MAX_BYTES || b->bytes + bytes > MAX_BYTES) {
        ot_grammar_builder_fail(b, OT_ERR_INVALID, "the grammar is too large: it takes more than %d MB", MAX_BYTES >> 20);
        return NULL;
    }
    bytes = (bytes + 15) & ~(size_t)15;
    if (b->blocks == NULL || b->blocks->size - b->blocks->used < bytes) {
        size_t room = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
        block *fresh = calloc(1, sizeof *fresh + room);
        if (fresh == NULL) {
            ot_grammar_builder_fail(b, OT_ERR_NOMEM, "no memory for a grammar");
            return NULL;
        }
        fresh->size = room;
        fresh->next = b->blocks;
        b->blocks = fresh;
    }
    void *at = b->blocks->data + b->blocks->used;
    b->blocks->used += bytes;
    b->bytes += bytes;
    return at;
}

static void *copy(ot_grammar_builder *b, const void *from, size_t n, size_t size)
{
    void *to = ot_grammar_builder_take(b, n, size);
    if (to != NULL && n > 0)
        memcpy(to, from, n * size);
    return to;
}

/* ---- Rules ----------------------------------------------------------------------------------------------- */

uint32_t ot_rule_add(ot_grammar_builder *b, const char *name)
{
    if (b->n_rules == MAX_RULES) {
        ot_grammar_builder_fail(b, OT_ERR_INVALID, "the grammar has more than %d rules", MAX_RULES);
        return UINT32_MAX;
    }
    if (b->n_rules == b->rule_capacity) {
        uint32_t capacity = b->rule_capacity > 0 ? 2 * b->rule_capacity : 64;
        ot_rule *grown = realloc(b->rules, capacity * sizeof *grown);
        if (grown == NULL) {
            ot_grammar_builder_fail(b, OT_ERR_NOMEM, "no memory for a grammar");
            return UINT32_MAX;
        }
        b->rules = grown;
        b->rule_capacity = capacity;
    }
    const char *own = copy(b, name, strlen(name) + 1, 1);
    b->rules[b->n_rules] = (ot_rule){own != NULL ? own : "", NULL};
    return b->n_rules++;
}

void ot_rule_define(ot_grammar_builder *b, uint32_t rule, ot_expr *body)
{
    if (rule < b->n_rules)
        b->rules[rule].body = body;
}

uint32_t ot_rule_count(const ot_grammar_builder *b)
{
    return b->n_rules;
}

const ot_rule *ot_rule_get(const ot_grammar_builder *b, uint32_t rule)
{
    return &b->rules[rule];
}

/* ---- Expressions ----------------------------------------------------------------------------------------- */

static ot_expr *new_expr(ot_grammar_builder *b, ot_expr_kind kind)
{
    ot_expr *e = b->error.code == OT_OK ? ot_grammar_builder_take(b, 1, sizeof *e) : NULL;
    if (e != NULL)
        e->kind = kind;
    return e;
}

ot_expr *ot_expr_nothing(ot_grammar_builder *b)
{
    return new_expr(b, OT_EXPR_NOTHING);
}

ot_expr *ot_expr_text(ot_grammar_builder *b, const char *text, size_t size)
{
    ot_expr *e = new_expr(b, OT_EXPR_TEXT);
    if (e == NULL)
        return NULL;
    e->text = copy(b, text, size, 1);
    e->n = (uint32_t)size; /* within the budget */
    return e->text != NULL ? e : NULL;
}

ot_expr *ot_expr_word(ot_grammar_builder *b, const char *text)
{
    return ot_expr_text(b, text, strlen(text));
}

static int compare_ranges(const void *a, const void *b)
{
    const ot_char_range *x = a, *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

/* Sorts, joins what touches, and turns the set around if asked to. out has room for n + 1. */
static uint32_t order_ranges(ot_char_range *out, uint32_t n, bool inverted)
{
    qsort(out, n, sizeof *out, compare_ranges);
    uint32_t n_joined = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (n_joined > 0 && out[i].first <= out[n_joined - 1].last + 1) {
            if (out[i].last > out[n_joined - 1].last)
                out[n_joined - 1].last = out[i].last;
        } else {
            out[n_joined++] = out[i];
        }
    }
    if (!inverted)
        return n_joined;
    uint32_t next = 0, kept = 0;
    for (uint32_t i = 0; i < n_joined; i++) {
        ot_char_range taken = out[i];
        if (taken.first > next)
            out[kept++] = (ot_char_range){next, taken.first - 1};
        next = taken.last + 1;
    }
    if (next <= OT_LAST_CHARACTER)
        out[kept++] = (ot_char_range){next, OT_LAST_CHARACTER};
    return kept;
}

ot_expr *ot_expr_chars(ot_grammar_builder *b, const ot_char_range *ranges, uint32_t n, bool inverted)
{
    ot_expr *e = new_expr(b, OT_EXPR_CHARS);
    if (e == NULL)
        return NULL;
    e->ranges = ot_grammar_builder_take(b, (size_t)n + 1, sizeof *ranges);
    if (e->ranges == NULL)
        return NULL;
    if (n > 0)
        memcpy(e->ranges, ranges, n * sizeof *ranges);
    e->n = order_ranges(e->ranges, n, inverted);
    return e;
}

ot_expr *ot_expr_list(ot_grammar_builder *b, ot_expr_kind kind, ot_expr *const *items, uint32_t n)
{
    if (n == 1)
        return items[0];
    ot_expr *e = new_expr(b, kind);
    if (e == NULL)
        return NULL;
    e->items = copy(b, items, n, sizeof *items);
    e->n = n;
    for (uint32_t i = 0; i < n && e->items != NULL; i++) {
        if (items[i] == NULL)
            return NULL;
        e->calls |= items[i]->calls;
    }
    return e->items != NULL ? e : NULL;
}

ot_expr *ot_expr_pair(ot_grammar_builder *b, ot_expr_kind kind, ot_expr *first, ot_expr *second)
{
    ot_expr *const items[] = {first, second};
    ot_expr *e = ot_expr_list(b, kind, items, 2);
    if (e != NULL && e->calls && (kind == OT_EXPR_BOTH || kind == OT_EXPR_LESS))
        ot_grammar_builder_fail(b, OT_ERR_INVALID, "texts that match two rules at once can only be found of rules that call no others");
    return e;
}

ot_expr *ot_expr_joined(ot_grammar_builder *b, ot_expr *const *items, const bool *optional, uint32_t n, ot_expr *separator, ot_expr *further)
{
    ot_expr *e = separator != NULL ? new_expr(b, OT_EXPR_JOINED) : NULL;
    if (e == NULL)
        return NULL;
    e->n = n;
    e->items = copy(b, items, n, sizeof *items);
    e->optional = copy(b, optional, n, sizeof *optional);
    e->separator = separator;
    e->further = further;
    e->calls = separator->calls || (further != NULL && further->calls);
    for (uint32_t i = 0; i < n; i++) {
        if (items[i] == NULL)
            return NULL;
        e->calls |= items[i]->calls;
    }
    return e->items != NULL && e->optional != NULL ? e : NULL;
}

ot_expr *ot_expr_repeat(ot_grammar_builder *b, ot_expr *item, uint32_t min, uint32_t max)
{
    if (max < min)
        return ot_expr_nothing(b);
    ot_expr *e = item != NULL ? new_expr(b, OT_EXPR_REPEAT) : NULL;
    if (e == NULL)
        return NULL;
    e->items = copy(b, &item, 1, sizeof item);
    e->n = 1;
    e->min = min;
    e->max = max;
    e->calls = item->calls;
    return e->items != NULL ? e : NULL;
}

ot_expr *ot_expr_call(ot_grammar_builder *b, uint32_t rule)
{
    ot_expr *e = rule < b->n_rules ? new_expr(b, OT_EXPR_CALL) : NULL;
    if (e == NULL)
        return NULL;
    e->rule = rule;
    e->calls = true;
    return e;
}

ot_expr *ot_expr_quoted(ot_grammar_builder *b, ot_expr *item)
{
    ot_expr *e = item != NULL ? new_expr(b, OT_EXPR_QUOTED) : NULL;
    if (e == NULL)
        return NULL;
    e->items = copy(b, &item, 1, sizeof item);
    e->n = 1;
    if (item->calls)
        ot_grammar_builder_fail(b, OT_ERR_INVALID, "what is quoted may call no rules");
    return e->items != NULL ? e : NULL;
}

void ot_expr_push(ot_grammar_builder *b, ot_expr_items *list, ot_expr *item)
{
    if (list->n == list->capacity) {
        uint32_t capacity = list->capacity > 0 ? 2 * list->capacity : 8;
        ot_expr **grown = ot_grammar_builder_take(b, capacity, sizeof *grown);
        if (grown == NULL)
            return;
        if (list->n > 0)
            memcpy(grown, list->items, list->n * sizeof *grown);
        list->items = grown;
        list->capacity = capacity;
    }
    list->items[list->n++] = item;
}
