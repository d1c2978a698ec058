/* Thoughts and answer told apart, byte by byte: at most a tag and the line breaks before it are held back. */
#include "server/thoughts.h"

#include <string.h>

static const char opening[] = "<think>", closing[] = "</think>";

static void release(ot_thoughts *t, ot_text *to)
{
    ot_text_append(to, t->held, t->n_held);
    t->n_held = 0;
}

/* How many of the held bytes, behind leading ones of `space`, agree with the tag; SIZE_MAX: they do not. */
static size_t tag_progress(const ot_thoughts *t, const char *space, const char *tag)
{
    size_t skipped = 0;
    while (skipped < t->n_held && strchr(space, t->held[skipped]) != NULL)
        skipped++;
    size_t n = t->n_held - skipped;
    return n <= strlen(tag) && memcmp(t->held + skipped, tag, n) == 0 ? n : SIZE_MAX;
}

/* One more byte of what may be an opening tag. */
static void add_undecided(ot_thoughts *t, char c, ot_text *answer)
{
    t->held[t->n_held++] = c;
    size_t n = c == '\0' ? SIZE_MAX : tag_progress(t, " \n", opening);
    if (n == sizeof opening - 1) {
        t->n_held = 0;
        t->state = OT_THOUGHTS_BEGIN;
    } else if (n == SIZE_MAX || t->n_held == sizeof t->held) {
        release(t, answer);
        t->state = OT_THOUGHTS_ANSWER;
        t->n_tokens = 0;
    }
}

/* One more byte of thoughts: line breaks and parts of the closing tag are held. */
static void add_inside(ot_thoughts *t, char c, ot_text *thought)
{
    t->held[t->n_held++] = c;
    size_t n = c == '\0' ? SIZE_MAX : tag_progress(t, "\n", closing);
    if (n == sizeof closing - 1) {
        t->n_held = 0;
        t->state = OT_THOUGHTS_GAP;
    } else if (n == SIZE_MAX) { /* the last byte may begin what the others did not */
        t->n_held--;
        release(t, thought);
        t->held[t->n_held++] = c;
        if (c == '\0' || tag_progress(t, "\n", closing) == SIZE_MAX)
            release(t, thought);
    } else if (t->n_held == sizeof t->held) {
        release(t, thought);
    }
}

static void add_byte(ot_thoughts *t, char c, ot_text *thought, ot_text *answer)
{
    if (t->state == OT_THOUGHTS_BEGIN && c != '\n')
        t->state = OT_THOUGHTS_INSIDE;
    if (t->state == OT_THOUGHTS_GAP && c != '\n')
        t->state = OT_THOUGHTS_ANSWER;
    if (t->state == OT_THOUGHTS_UNDECIDED)
        add_undecided(t, c, answer);
    else if (t->state == OT_THOUGHTS_INSIDE)
        add_inside(t, c, thought);
    else if (t->state == OT_THOUGHTS_ANSWER)
        ot_text_append(answer, &c, 1);
}

void ot_thoughts_add(ot_thoughts *t, bool token, const char *text, size_t size, ot_text *thought, ot_text *answer)
{
    if (t->state == OT_THOUGHTS_OFF || t->state == OT_THOUGHTS_ANSWER) {
        ot_text_append(answer, text, size);
        return;
    }
    t->n_tokens += token && t->state != OT_THOUGHTS_GAP;
    for (size_t i = 0; i < size; i++)
        add_byte(t, text[i], thought, answer);
}

bool ot_thoughts_inside(const ot_thoughts *t)
{
    return t->state == OT_THOUGHTS_BEGIN || t->state == OT_THOUGHTS_INSIDE;
}

void ot_thoughts_end(ot_thoughts *t, ot_text *thought, ot_text *answer)
{
    if (t->state == OT_THOUGHTS_UNDECIDED)
        t->n_tokens = 0;
    release(t, ot_thoughts_inside(t) ? thought : answer);
    if (t->state != OT_THOUGHTS_OFF)
        t->state = OT_THOUGHTS_ANSWER;
}
