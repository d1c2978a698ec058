/* The flags that steer a text, and what they make of the loaded heads: one place for every command that generates.
 *
 * Flags are kept as they were written until the heads are loaded; then one ot_intervention is resolved from them. Each
 * submission takes over references, so a command that submits many requests retains the resolved one before each. */
#ifndef OTTER_CLI_INTERVENTION_FLAGS_H
#define OTTER_CLI_INTERVENTION_FLAGS_H

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "cli/session.h"

#define OT_CLI_MAX_DRAFTS 4

typedef struct ot_cli_steering {
    uint32_t n_rewards, n_signals, n_drafts;
    const char *rewards[OT_MAX_SIGNALS]; /* NAME=WEIGHT */
    const char *signals[OT_MAX_SIGNALS]; /* NAME */
    const char *drafts[OT_CLI_MAX_DRAFTS]; /* NAME[:N] */
    const char *guard;     /* NAME>LIMIT */
    const char *lookahead; /* NAME[:KEEP] */
    const char *experts;   /* KEY=VALUE,... */
    uint32_t candidates, guard_resamples, draft_tree;
    bool draft_fixed;
} ot_cli_steering;

/* For a command's table of long options, and the codes that getopt_long returns for them. */
enum {
    OT_CLI_REWARD = 512, OT_CLI_CANDIDATES, OT_CLI_LOOKAHEAD, OT_CLI_EXPERTS, OT_CLI_GUARD, OT_CLI_GUARD_RESAMPLE,
    OT_CLI_SIGNALS, OT_CLI_DRAFT, OT_CLI_DRAFT_TREE, OT_CLI_DRAFT_FIXED
};
#define OT_CLI_STEERING_OPTIONS                                            \
    {"reward", required_argument, NULL, OT_CLI_REWARD},                    \
    {"candidates", required_argument, NULL, OT_CLI_CANDIDATES},            \
    {"lookahead", required_argument, NULL, OT_CLI_LOOKAHEAD},              \
    {"experts", required_argument, NULL, OT_CLI_EXPERTS},                  \
    {"guard", required_argument, NULL, OT_CLI_GUARD},                      \
    {"guard-resample", required_argument, NULL, OT_CLI_GUARD_RESAMPLE},    \
    {"signals", required_argument, NULL, OT_CLI_SIGNALS},                  \
    {"draft", required_argument, NULL, OT_CLI_DRAFT},                      \
    {"draft-tree", required_argument, NULL, OT_CLI_DRAFT_TREE},            \
    {"draft-fixed", no_argument, NULL, OT_CLI_DRAFT_FIXED}

void ot_cli_steering_default(ot_cli_steering *steering);
/* Whether getopt's code is one of the above. */
bool ot_cli_steering_is(int code);
/* Notes one flag; `value` (which must outlive the steering) may be cut in place. False (and prints) if it does not fit. */
bool ot_cli_steering_set(ot_cli_steering *steering, int code, char *value, const char *command);
/* The lines of --help. */
void ot_cli_steering_print(FILE *to);

/* Looks all names up and takes a reference for each use; false (and prints) if one is unknown or a number is none. `out` is to be
 * given to ot_intervention_release in any case. */
bool ot_cli_steering_resolve(const ot_cli_steering *steering, const ot_cli_session *session, ot_intervention *out,
                             const char *command);

#endif
