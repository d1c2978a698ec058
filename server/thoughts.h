/* Tells the thoughts of an answer from the answer itself, in text that comes piece by piece: what stands between <think> and </think> at its
 * beginning, or up to </think> where the prompt has opened it. Line breaks next to the tags belong to them. */
#ifndef OTTER_SERVER_THOUGHTS_H
#define OTTER_SERVER_THOUGHTS_H

#include "base/json-text.h"

typedef enum ot_thoughts_state {
    OT_THOUGHTS_OFF,       /* all is answer */
    OT_THOUGHTS_UNDECIDED, /* white space so far, or a part of <think> */
    OT_THOUGHTS_BEGIN,     /* behind <think> */
    OT_THOUGHTS_INSIDE,
    OT_THOUGHTS_GAP,       /* behind </think> */
    OT_THOUGHTS_ANSWER
} ot_thoughts_state;

typedef struct ot_thoughts {
    ot_thoughts_state state;
    unsigned n_held;
    char held[64];     /* what may become a tag, or be dropped before one */
    uint32_t n_tokens; /* of thoughts, with their tags */
} ot_thoughts;

/* Takes a piece of text; what is decided goes to either of the two. `token`: the piece is a token, not more text of the last one. */
void ot_thoughts_add(ot_thoughts *t, bool token, const char *text, size_t size, ot_text *thought, ot_text *answer);
/* Whether what comes next is a thought. */
bool ot_thoughts_inside(const ot_thoughts *t);
/* No more will come, or what comes is answer: what is held goes where it belongs. */
void ot_thoughts_end(ot_thoughts *t, ot_text *thought, ot_text *answer);

#endif
