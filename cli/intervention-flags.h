/* The flags that steer a text, and what they make of the loaded heads: one place for every command that generates.
 *
 * Flags are kept as they were written until the heads are loaded; then they become the JSON object that a client would send, and that is
 * read by the server's parser: a flag and a request cannot mean different things. Plain members have their flags from the table
 * (scheduler/intervention-members.h); `--intervention` takes a whole object. Each submission takes over references, so a command
 * that submits many requests retains the resolved intervention before each. */
#ifndef OTTER_CLI_INTERVENTION_FLAGS_H
#define OTTER_CLI_INTERVENTION_FLAGS_H

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "cli/session.h"

#define OT_CLI_MAX_DRAFTS 4
#define OT_CLI_MAX_MEMBERS 64

typedef struct ot_cli_steering {
    uint32_t n_rewards, n_signals, n_drafts;
    const char *rewards[OT_MAX_SIGNALS]; /* NAME=WEIGHT */
    const char *signals[OT_MAX_SIGNALS]; /* NAME */
    const char *drafts[OT_CLI_MAX_DRAFTS]; /* NAME[:N] */
    const char *guard;     /* NAME>LIMIT */
    const char *lookahead; /* NAME[:KEEP] */
    const char *experts;   /* KEY=VALUE,... */
    const char *object;    /* JSON */
    uint32_t guard_resamples;
    const char *members[OT_CLI_MAX_MEMBERS]; /* of table rows with a flag: the value, NULL if it was not given */
} ot_cli_steering;

/* The codes that getopt_long returns for the flags; from OT_CLI_MEMBER on those of the table's rows. */
enum {
    OT_CLI_REWARD = 512, OT_CLI_LOOKAHEAD, OT_CLI_EXPERTS, OT_CLI_GUARD, OT_CLI_GUARD_RESAMPLE, OT_CLI_SIGNALS, OT_CLI_DRAFT,
    OT_CLI_INTERVENTION, OT_CLI_MEMBER
};
/* The code of a table row's flag: "draft-tree". */
int ot_cli_steering_code(const char *flag);
/* A command's own long options (ended by a row of zeros) and those that steer, as getopt_long takes them. Static; one command a process. */
const struct option *ot_cli_steering_options(const struct option *own);

void ot_cli_steering_default(ot_cli_steering *steering);
/* Whether getopt's code is one of the above. */
bool ot_cli_steering_is(int code);
/* Notes one flag; `value` (which must outlive the steering) may be cut in place. False (and prints) if it does not fit. */
bool ot_cli_steering_set(ot_cli_steering *steering, int code, char *value, const char *command);
/* The lines of --help. */
void ot_cli_steering_print(FILE *to);

/* Looks all names up and takes a reference for each use; false (and prints) if one is unknown or a value cannot be. `out` is to be
 * given to ot_intervention_release in any case. */
bool ot_cli_steering_resolve(const ot_cli_steering *steering, const ot_cli_session *session, ot_intervention *out,
                             const char *command);

#endif
