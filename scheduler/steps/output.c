/* Text assembly and the output ring.
 *
 * Held text is a short buffer: at most the longest stop string, an incomplete character and one token. Staged tokens are written
 * into ring entries beyond `published` right away, without text; publishing gives each the settled text up to its end,
 * whole characters only, so that what does not fit or is cut flows on to the next entry. Only the last staged token
 * can leave text over, which goes out in entries of its own (token -1). Should tokens without settled text fill half the ring (a long
 * stop string, arriving in tiny tokens), the oldest go out with what text there is, since a reader who has nothing
 * to read would never make room. */
#include "scheduler/steps/output.h"

#include <string.h>

#include "base/asserts.h"
#include "text/tokenizer.h"

#define TEXT_MAX ((uint32_t)sizeof((ot_token_out *)0)->text)

void ot_stop_prepare(const char *text, uint16_t size, uint16_t *fail)
{
    if (size == 0)
        return;
    fail[0] = 0;
    uint16_t k = 0;
    for (uint16_t i = 1; i < size; i++) {
        while (k > 0 && text[i] != text[k])
            k = fail[k - 1];
        if (text[i] == text[k])
            k++;
        fail[i] = k;
    }
}

uint32_t ot_output_held_bytes(uint32_t longest_stop, uint32_t longest_token)
{
    return longest_stop + 4 + longest_token;
}

uint32_t ot_output_reserve(uint32_t held_bytes)
{
    /* Sanitising can triple the text, and an entry may waste the last three bytes for a character's sake. */
    return 2 + 3 * held_bytes / (TEXT_MAX - 3);
}

uint32_t ot_output_capacity(uint32_t wanted, uint32_t held_bytes)
{
    uint32_t reserve = ot_output_reserve(held_bytes);
    return wanted > reserve + 4 ? wanted + reserve : 2 * reserve + 4;
}

static uint32_t space(const ot_output *o)
{
    uint32_t taken = atomic_load_explicit(&o->taken, memory_order_acquire);
    return o->capacity - (o->written - taken) - o->staged;
}

bool ot_output_has_room(const ot_output *o)
{
    return space(o) >= o->reserve;
}

bool ot_output_is_half_empty(const ot_output *o)
{
    return space(o) >= o->reserve && space(o) >= o->capacity / 2 - o->staged / 2;
}

/* ---- Publishing ------------------------------------------------------------------------------------------ */

static ot_token_out *entry_at(ot_output *o, uint32_t i)
{
    return &o->ring[i % o->capacity];
}

/* Moves up to n held bytes into the entry as valid UTF-8; `whole` if no later bytes can complete a cut character. */
static void fill_text(ot_output *o, ot_token_out *e, uint32_t n, bool whole, char *scratch)
{
    bool all = whole && n <= TEXT_MAX;
    if (n > TEXT_MAX)
        n = TEXT_MAX;
    if (!all)
        n = (uint32_t)ot_utf8_complete(o->held, n);
    size_t size = ot_utf8_sanitize(o->held, n, scratch);
    if (size > TEXT_MAX) { /* mostly invalid bytes: a third always fits */
        n = (uint32_t)ot_utf8_complete(o->held, TEXT_MAX / 3);
        size = ot_utf8_sanitize(o->held, n, scratch);
    }
    memcpy(e->text, scratch, size);
    e->text_size = (uint32_t)size;
    o->held_size -= n;
    memmove(o->held, o->held + n, o->held_size);
}

/* Publishes the oldest staged token with the settled text that belongs to it: of `settled` held bytes, those up to its end. Returns
 * the settled bytes left. */
static uint32_t publish_staged(ot_output *o, uint32_t settled, bool whole, char *scratch)
{
    uint32_t begin = o->text_end - o->held_size;
    uint32_t until = o->ends[o->written % o->capacity] - begin;
    bool last = o->staged == 1;
    if (until > settled)
        until = settled;
    uint32_t before = o->held_size;
    fill_text(o, entry_at(o, o->written), until, whole && last && until == o->held_size, scratch);
    o->written++;
    o->staged--;
    return settled - (before - o->held_size);
}

static void publish_rest(ot_output *o, uint32_t settled, bool whole, char *scratch)
{
    while (settled > 0 && space(o) > 0) { /* full only when a choice without room is cancelled */
        ot_token_out *e = entry_at(o, o->written);
        e->token = -1;
        e->logprob = 0;
        e->n_top = 0;
        uint32_t before = o->held_size;
        fill_text(o, e, settled, whole && settled == o->held_size, scratch);
        if (before == o->held_size)
            return;
        settled -= before - o->held_size;
        o->written++;
    }
}

/* Publishes the staged tokens whose text is among the first `settled` held bytes. */
static void publish(ot_output *o, uint32_t settled, bool whole, char *scratch)
{
    while (o->staged > 0) {
        uint32_t begin = o->text_end - o->held_size;
        uint32_t until = o->ends[o->written % o->capacity] - begin;
        bool is_settled = whole || until <= settled;
        if (!is_settled && o->staged <= o->capacity / 2)
            break;
        bool last = o->staged == 1;
        settled = publish_staged(o, settled, whole, scratch);
        if (last && is_settled)
            publish_rest(o, settled, whole, scratch);
    }
    atomic_store_explicit(&o->published, o->written, memory_order_release);
}

/* ---- Stop strings ---------------------------------------------------------------------------------------- */

/* Feeds one byte to all stop strings. Returns the longest one that it completes, or NULL. */
static const ot_stop *step_stops(ot_output *o, char byte)
{
    const ot_stop *hit = NULL;
    for (uint32_t i = 0; i < o->n_stops; i++) {
        const ot_stop *stop = &o->stops[i];
        uint16_t k = o->states[i];
        while (k > 0 && stop->text[k] != byte)
            k = stop->fail[k - 1];
        if (stop->text[k] == byte)
            k++;
        if (k == stop->size) {
            if (hit == NULL || stop->size > hit->size)
                hit = stop;
            k = stop->fail[k - 1];
        }
        o->states[i] = k;
    }
    return hit;
}

/* How much of the text's end may be the beginning of a stop string. */
static uint32_t held_for_stops(const ot_output *o)
{
    uint32_t longest = 0;
    for (uint32_t i = 0; i < o->n_stops; i++)
        if (o->states[i] > longest)
            longest = o->states[i];
    return longest;
}

bool ot_output_put(ot_output *o, const ot_token_out *entry, ot_str text, bool match, char *scratch)
{
    bool stopped = false;
    uint32_t n = (uint32_t)text.size;
    OT_ASSERT(n <= o->held_capacity - o->held_size); /* longest_token bounds it */
    for (uint32_t i = 0; i < n && !stopped; i++) {
        o->held[o->held_size++] = text.data[i];
        o->text_end++;
        const ot_stop *hit = match ? step_stops(o, text.data[i]) : NULL;
        if (hit != NULL) {
            o->held_size -= hit->size;
            o->text_end -= hit->size;
            stopped = true;
        }
    }
    uint32_t at = o->written + o->staged++;
    o->ends[at % o->capacity] = o->text_end;
    ot_token_out *e = entry_at(o, at);
    memcpy(e, entry, offsetof(ot_token_out, text));
    e->text_size = 0;
    if (stopped)
        ot_output_flush(o, scratch);
    else
        publish(o, (uint32_t)ot_utf8_complete(o->held, o->held_size - held_for_stops(o)), false, scratch);
    return stopped;
}

void ot_output_flush(ot_output *o, char *scratch)
{
    publish(o, o->held_size, true, scratch);
    publish_rest(o, o->held_size, true, scratch);
    atomic_store_explicit(&o->published, o->written, memory_order_release);
}

/* ---- Reader ---------------------------------------------------------------------------------------------- */

size_t ot_output_read(ot_output *o, ot_token_out *out, size_t max)
{
    uint32_t taken = atomic_load_explicit(&o->taken, memory_order_relaxed);
    uint32_t published = atomic_load_explicit(&o->published, memory_order_acquire);
    size_t n = 0;
    while (n < max && taken != published) {
        const ot_token_out *e = entry_at(o, taken++);
        memcpy(&out[n], e, offsetof(ot_token_out, text));
        memcpy(out[n].text, e->text, e->text_size);
        n++;
    }
    /* Sequentially consistent, as is the engine's look after it says that it waits: one of the two sees the other. */
    atomic_store(&o->taken, taken);
    return n;
}

bool ot_output_is_empty(const ot_output *o)
{
    return atomic_load_explicit(&o->published, memory_order_acquire) ==
           atomic_load_explicit(&o->taken, memory_order_acquire);
}
