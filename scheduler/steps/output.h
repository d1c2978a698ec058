/* The way out of one choice: text assembly, stop strings, and the ring that its reader empties.
 *
 * The engine thread puts tokens in; a token is *staged* until its text is settled (no character cut in two, no beginning of a stop
 * string at the end) and then *published* into the ring, which one reader thread empties. Neither side ever waits for the
 * other: ot_output_has_room tells the engine thread whether another token fits, and a choice without room sits
 * out.
 */
#ifndef OTTER_SCHEDULER_STEPS_OUTPUT_H
#define OTTER_SCHEDULER_STEPS_OUTPUT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scheduler/scheduler.h"

#define OT_MAX_STOP_BYTES 1024

/* A stop string with its failure function (Knuth, Morris, Pratt 1977): fail[i] is the length of the longest proper
 * beginning of text[0..i] that also ends it. */
typedef struct ot_stop {
    const char *text;
    uint16_t size;
    const uint16_t *fail; /* (size) */
} ot_stop;
void ot_stop_prepare(const char *text, uint16_t size, uint16_t *fail);

typedef struct ot_output {
    /* fixed */
    ot_token_out *ring;
    uint32_t capacity;       /* entries */
    uint32_t reserve;        /* entries that a further token, or the end, can take */
    uint32_t n_stops;
    const ot_stop *stops;
    char *held;              /* text that is not published */
    uint32_t held_capacity;  /* ot_output_held_bytes */
    uint32_t *ends;          /* (capacity) of staged entries: where their text ends, counted as `text_end` */
    uint16_t *states;        /* (n_stops) length of the stop string's beginning that the text ends with */
    /* engine thread */
    uint32_t held_size;
    uint32_t text_end;       /* bytes ever put, wrapping; held text is the last held_size of them */
    uint32_t staged;
    uint32_t written;        /* = published, the engine's own copy */
    /* meeting point */
    _Atomic uint32_t published; /* entries ever published, wrapping */
    _Atomic uint32_t taken;     /* entries ever read, wrapping */
} ot_output;

/* Sizes of what an output needs, for the arena. longest_stop is 0 without stop strings. */
uint32_t ot_output_held_bytes(uint32_t longest_stop, uint32_t longest_token);
uint32_t ot_output_reserve(uint32_t held_bytes);
/* The ring's size: `wanted` tokens and the reserve, so that so many always fit; but enough for the reserve to leave room. */
uint32_t ot_output_capacity(uint32_t wanted, uint32_t held_bytes);

/* ---- Engine thread ----------------------------------------------------------------------------------------- */

/* Whether a token can be put now. */
bool ot_output_has_room(const ot_output *o);
/* Whether the reader has emptied half of the ring: when a choice that ran out of room goes on. */
bool ot_output_is_half_empty(const ot_output *o);
/* Stages a token: `entry` gives all but the text. Stop strings are looked for if `match`. Publishes what is settled. Returns true if a stop
 * string is complete: the text from its beginning on is dropped and everything is published. scratch: 3 *
 * held_capacity bytes. */
bool ot_output_put(ot_output *o, const ot_token_out *entry, ot_str text, bool match, char *scratch);
/* Publishes everything that is left: the choice ends. */
void ot_output_flush(ot_output *o, char *scratch);

/* ---- Reader ------------------------------------------------------------------------------------------------ */

size_t ot_output_read(ot_output *o, ot_token_out *out, size_t max);
bool ot_output_is_empty(const ot_output *o);

#endif
