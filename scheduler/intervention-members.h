/* The members of an `intervention`, in one table: what each is called, what values it takes, where in ot_intervention it goes, which flag
 * of the command line gives it. JSON (server/parse-intervention.c), flags (cli/intervention-flags.c), the check at submission
 * (intervention-check.c) and a test that holds api-spec/openapi.yaml to it are all driven by this table. A new plain member
 * is a field of ot_intervention, a row here, a statement in openapi.yaml, and the code that uses it.
 */
#ifndef OTTER_SCHEDULER_INTERVENTION_MEMBERS_H
#define OTTER_SCHEDULER_INTERVENTION_MEMBERS_H

#include <stdbool.h>
#include <stddef.h>

#include "scheduler/scheduler.h"

typedef enum ot_member_kind {
    OT_MEMBER_GROUP,   /* an object: the rows below it have its name and a dot before theirs */
    OT_MEMBER_U32,
    OT_MEMBER_FLOAT,
    OT_MEMBER_BOOL,
    OT_MEMBER_NOT,     /* a bool, kept as its opposite */
    OT_MEMBER_ONE_OF,  /* a word of `words`, kept as its number (an enum; 0 is none of them) */
    OT_MEMBER_SIGNAL,  /* a head that scores, kept as its index in `signals` (a uint32_t) */
    OT_MEMBER_EXPERT,  /* a head, kept as its reference; its output is at `offset_output` */
    OT_MEMBER_WEIGHTS, /* heads by name, with a weight each: signals */
    OT_MEMBER_NAMES,   /* a list of heads: signals */
    OT_MEMBER_DRAFTS   /* "lookup", a head or "model", or a list: ot_drafting */
} ot_member_kind;

/* What a head is asked to do. */
typedef enum ot_head_use {
    OT_USE_SCORE,     /* scores of a text: scalar heads and reward models */
    OT_USE_SIGNAL,    /* scores of generated tokens: these, and lookahead heads */
    OT_USE_LOOKAHEAD, /* lookahead heads alone */
    OT_USE_EXPERT,    /* logits of the next token: generation heads with offset 0, and expert models */
    OT_USE_DRAFT      /* guesses ahead: generation heads with offsets from 1 on, and the draft model */
} ot_head_use;

typedef struct ot_member {
    const char *path;          /* "reward.candidates" */
    ot_member_kind kind;
    size_t offset;             /* in ot_intervention; of a group: where it says that it is there (a bool), or NO_OFFSET */
    size_t offset_output;
    size_t offset_given;       /* of a number that is off if it is not there: where it says that it is there (a bool); or 0 */
    bool required;             /* in its group */
    bool optional;             /* off if it is not there: `otherwise` is no value that could be given */
    bool needs_member;         /* of a group: says nothing without one */
    double low, high;          /* of a number, both included */
    double otherwise;          /* the value of a number, a bool or a word where nothing is said */
    ot_head_use use;
    const char *const *words;  /* (NULL-terminated) */
    const char *flag;          /* that gives a plain value: "candidates"; NULL: none of its own */
    const char *help;          /* of that flag */
    bool (*is_used)(const ot_intervention *v); /* whether the row counts for v, of a group also those below it. NULL: its group says */
} ot_member;
#define OT_NO_OFFSET SIZE_MAX

/* The table: NULL past the last row. A group comes before its members, and groups in the order in which their heads enter `signals`. */
const ot_member *ot_member_at(size_t i);
/* The row of a path; NULL if there is none. */
const ot_member *ot_member_find(const char *path);
/* The name within its group: "candidates". */
const char *ot_member_name(const ot_member *m);
/* Whether m is a member of the group itself; of the intervention itself, for NULL. */
bool ot_member_is_in(const ot_member *m, const ot_member *group);
/* Sets what is not said of a group's members: numbers, bools and words. */
void ot_members_default(const ot_member *group, ot_intervention *v);
/* A number, bool or word as it is kept, and back. */
double ot_member_get(const ot_member *m, const ot_intervention *v);
void ot_member_set(const ot_member *m, ot_intervention *v, double value);
/* OT_ERR_INVALID, and which it is, if a number that counts lies outside its range. */
ot_status ot_members_check_ranges(const ot_intervention *v, ot_error *err);

/* intervention-check.c: ranges, the kind of every head, and what members ask of each other; err->param names the field as a client
 * writes it. */
ot_status ot_intervention_check(const ot_intervention *v, ot_error *err);

#endif
