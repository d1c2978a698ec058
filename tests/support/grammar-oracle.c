#include "tests/support/grammar-oracle.h"

#include <string.h>

enum { MAX_RULES = 32 };

/* From one place of a text: where a match may end (a bit for each place), and whether the text ends within one that could go on. */
typedef struct found {
    uint64_t ends;
    bool open;
} found;

typedef struct oracle {
    const ot_grammar_builder *b;
    const char *text;
    uint32_t size;
    bool productive[MAX_RULES]; /* the rule matches something */
    found of_rule[MAX_RULES][ORACLE_MAX_TEXT + 1];
} oracle;

static bool productive(const oracle *o, const ot_expr *e)
{
    switch (e->kind) {
    case OT_EXPR_NOTHING: return false;
    case OT_EXPR_TEXT: return true;
    case OT_EXPR_CHARS: return e->n > 0;
    case OT_EXPR_CALL: return o->productive[e->rule];
    case OT_EXPR_REPEAT: return e->min == 0 || productive(o, e->items[0]);
    case OT_EXPR_QUOTED: return productive(o, e->items[0]);
    case OT_EXPR_SEQUENCE:
        for (uint32_t i = 0; i < e->n; i++)
            if (!productive(o, e->items[i]))
                return false;
        return true;
    case OT_EXPR_EITHER:
        for (uint32_t i = 0; i < e->n; i++)
            if (productive(o, e->items[i]))
                return true;
        return false;
    case OT_EXPR_JOINED:
        for (uint32_t i = 0; i < e->n; i++)
            if (!e->optional[i] && !productive(o, e->items[i]))
                return false;
        return true;
    default: return false;
    }
}

static found match(const oracle *o, const ot_expr *e, uint32_t at);

/* From all places of a set. */
static found match_from(const oracle *o, const ot_expr *e, uint64_t places)
{
    found all = {0, false};
    for (uint32_t at = 0; at <= o->size; at++)
        if (places >> at & 1) {
            found one = match(o, e, at);
            all.ends |= one.ends;
            all.open |= one.open;
        }
    return all;
}

static found match_text(const oracle *o, const ot_expr *e, uint32_t at)
{
    for (uint32_t i = 0; i < e->n; i++) {
        if (at + i == o->size)
            return (found){0, true};
        if (o->text[at + i] != e->text[i])
            return (found){0, false};
    }
    return (found){(uint64_t)1 << (at + e->n), false};
}

static found match_chars(const oracle *o, const ot_expr *e, uint32_t at)
{
    if (at == o->size)
        return (found){0, e->n > 0};
    for (uint32_t i = 0; i < e->n; i++)
        if ((unsigned char)o->text[at] >= e->ranges[i].first && (unsigned char)o->text[at] <= e->ranges[i].last)
            return (found){(uint64_t)1 << (at + 1), false};
    return (found){0, false};
}

static found match_sequence(const oracle *o, const ot_expr *e, uint32_t at)
{
    found all = {(uint64_t)1 << at, false};
    for (uint32_t i = 0; i < e->n; i++)
        if (!productive(o, e->items[i]))
            return (found){0, false};
    for (uint32_t i = 0; i < e->n; i++) {
        found one = match_from(o, e->items[i], all.ends);
        all.ends = one.ends;
        all.open |= one.open;
    }
    return all;
}

static found match_repeat(const oracle *o, const ot_expr *e, uint32_t at)
{
    uint64_t places = (uint64_t)1 << at;
    found all = {e->min == 0 ? places : 0, false};
    if (!productive(o, e->items[0]))
        return all;
    /* More repetitions than places and the least number lead nowhere new. */
    uint32_t most = e->max < e->min + ORACLE_MAX_TEXT + 2 ? e->max : e->min + ORACLE_MAX_TEXT + 2;
    for (uint32_t i = 1; i <= most && places != 0; i++) {
        found one = match_from(o, e->items[0], places);
        places = one.ends;
        all.open |= one.open;
        if (i >= e->min)
            all.ends |= places;
    }
    return all;
}

/* All subsets of the items that may be missing, one after the other, by what was chosen so far. */
static found joined_from(const oracle *o, const ot_expr *e, uint32_t i, uint64_t places, bool begun)
{
    found all = {0, false};
    if (i == e->n) {
        uint64_t first = begun ? 0 : places, later = begun ? places : 0, seen = later;
        all.ends = places;
        while (e->further != NULL && productive(o, e->further) && (first | later) != 0) {
            found comma = match_from(o, e->separator, later);
            found item = match_from(o, e->further, comma.ends | first);
            all.open |= comma.open || item.open;
            all.ends |= item.ends;
            first = 0;
            later = item.ends & ~seen;
            seen |= later;
        }
        return all;
    }
    if (e->optional[i])
        all = joined_from(o, e, i + 1, places, begun);
    if (!productive(o, e->items[i]))
        return all;
    for (uint32_t j = i + 1; j < e->n; j++)
        if (!e->optional[j] && !productive(o, e->items[j]))
            return (found){0, false};
    found comma = begun ? match_from(o, e->separator, places) : (found){places, false};
    found item = match_from(o, e->items[i], comma.ends);
    found rest = joined_from(o, e, i + 1, item.ends, true);
    return (found){all.ends | rest.ends, all.open || comma.open || item.open || rest.open};
}

static found match(const oracle *o, const ot_expr *e, uint32_t at)
{
    found all = {0, false};
    switch (e->kind) {
    case OT_EXPR_TEXT: return match_text(o, e, at);
    case OT_EXPR_CHARS: return match_chars(o, e, at);
    case OT_EXPR_SEQUENCE: return match_sequence(o, e, at);
    case OT_EXPR_REPEAT: return match_repeat(o, e, at);
    case OT_EXPR_CALL: return o->of_rule[e->rule][at];
    case OT_EXPR_JOINED: return productive(o, e) ? joined_from(o, e, 0, (uint64_t)1 << at, false) : all;
    case OT_EXPR_EITHER:
        for (uint32_t i = 0; i < e->n; i++) {
            found one = productive(o, e->items[i]) ? match(o, e->items[i], at) : all;
            all.ends |= one.ends;
            all.open |= one.open;
        }
        return all;
    default: return all;
    }
}

grammar_verdict grammar_oracle(const ot_grammar_builder *b, const char *text, size_t size)
{
    oracle o = {.b = b, .text = text, .size = (uint32_t)size};
    const uint32_t n = ot_rule_count(b);
    for (uint32_t round = 0; round < n; round++)
        for (uint32_t r = 0; r < n; r++)
            o.productive[r] = productive(&o, ot_rule_get(b, r)->body);
    for (bool changed = true; changed;) {
        changed = false;
        for (uint32_t r = 0; r < n; r++)
            for (uint32_t at = 0; at <= o.size; at++) {
                found now = o.productive[r] ? match(&o, ot_rule_get(b, r)->body, at) : (found){0, false};
                changed |= now.ends != o.of_rule[r][at].ends || now.open != o.of_rule[r][at].open;
                o.of_rule[r][at] = now;
            }
    }
    return (grammar_verdict){(o.of_rule[0][0].ends >> size & 1) != 0, o.of_rule[0][0].open};
}
