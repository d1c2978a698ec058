/* Inside server/: what stands around a call in each format, for its grammar and its reader. */
#ifndef OTTER_SERVER_TOOL_FORMATS_H
#define OTTER_SERVER_TOOL_FORMATS_H

#include "server/tools.h"

typedef struct ot_tool_words {
    const char *mark;     /* what begins calls: as a text, or as a special token */
    const char *before;   /* from there to a name; of Llama 3 the mark is all of it */
    const char *between;  /* from a name to its arguments */
    const char *after;    /* from the arguments to the end of the call */
    const char *next;     /* from a call to the name of the next one; NULL: there is no next */
    const char *last;     /* after all calls */
} ot_tool_words;

extern const ot_tool_words ot_tool_words_of[];

#endif
