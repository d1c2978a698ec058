/* The one interface of decoding policies: *which rows next* and *what do these results mean*.
 *
 * A choice that has read its prompt takes turns. In a turn its policy
 *     plan     asks for rows: a small tree of nodes that continue the text. Plain sampling asks for one, ARGS for k
 *              candidates side by side, a drafting policy for a chain or a tree.
 *     judge    sees the scores of those rows, may accept nodes, and says whose logits it needs.
 *     advance  sees these logits, may accept further nodes, and decides what is pending for the next turn. It is
 *              also called once with the logits of the prompt's end (turn NULL), for each choice of the request.
 * Accepted nodes form a path from the root. Their tokens join the text at once, their keys and values are moved into place
 * after the turn; whatever else the turn wrote is scratch.
 *
 * A policy keeps what it needs between turns in ot_choice.pending, and nothing anywhere else: all of its decisions
 * must follow from the request, the text, logits and scores. How many rows it asks for may follow from more (ot_choice.pace,
 * the batch), since that must not show in the text.
 */
#ifndef OTTER_SCHEDULER_POLICIES_POLICY_H
#define OTTER_SCHEDULER_POLICIES_POLICY_H

#include "scheduler/lifecycle.h"
#include "scheduler/policies/decoder.h"
#include "scheduler/policies/sampling.h"
#include "scheduler/request.h"

#define OT_MAX_NODES OT_MAX_CANDIDATES

typedef struct ot_node {
    int32_t token;
    int32_t parent; /* an earlier node of the turn, or -1: it follows the text */
} ot_node;

/* What a node of a turn is, if it is a guess. */
typedef struct ot_guess {
    float chance;   /* that it is right, as far as we know */
    float claimed;  /* the same as a head or a model puts it; 0 if it did not guess this */
    bool by_lookup;
} ot_guess;

typedef struct ot_turn {
    ot_choice *choice;
    const struct ot_policy *policy; /* that planned it, judges it and advances from it */
    uint32_t start;                /* n_text when the turn began; node i writes slot start + i */
    uint32_t first_row;            /* node i is row first_row + i of the batch */
    uint32_t spare_rows;           /* how many rows beyond the first the step has to spare */
    uint32_t n_sharing;            /* sequences among which the step is divided, this one among them */
    uint32_t n_nodes;
    uint32_t n_optional;           /* the last ones, that the turn can do without if pages are short; 0 unless plan says */
    ot_node nodes[OT_MAX_NODES];
    uint32_t n_path;
    uint8_t path[OT_MAX_NODES];    /* accepted nodes, root first */
    uint32_t n_wanted;
    uint8_t wanted[OT_MAX_NODES];  /* nodes whose logits advance will get, in this order */
    uint32_t decided;              /* of those: whose logits decided what is pending now. 0 unless advance says */
    ot_guess guesses[OT_MAX_NODES]; /* of the last n_optional nodes (draft-tree.c) */
} ot_turn;

/* Logits of one row, n_vocab floats each. */
typedef struct ot_logits {
    const float *raw;     /* the model's own */
    const float *steered; /* shifted by the request's experts; raw itself without experts */
    uint32_t row;         /* of the engine's batch: its hidden states can still be asked for */
} ot_logits;

typedef struct ot_policy {
    const char *name;
    /* Fills t->nodes (at least one). Must not change the choice: the turn may not be run. */
    void (*plan)(const ot_decoder *d, const ot_choice *c, ot_turn *t);
    void (*judge)(ot_decoder *d, ot_choice *c, ot_turn *t);
    /* logits[i] are those of t->wanted[i], or logits[0] of the prompt's last token if t is NULL. */
    void (*advance)(ot_decoder *d, ot_choice *c, ot_turn *t, const ot_logits *logits);
} ot_policy;

extern const ot_policy ot_policy_plain; /* policy-plain.c */
extern const ot_policy ot_policy_args;  /* policy-args.c */
extern const ot_policy ot_policy_draft; /* policy-draft.c */
const ot_policy *ot_policy_for(const ot_request_params *params);
/* Whose turn is next: the request's own policy, or a plain one where its reward has ended. */
const ot_policy *ot_policy_now(const ot_choice *c);

/* ---- What policies build on (policy.c) --------------------------------------------------------------------- */

/* The logits of a position as policies see them. */
typedef struct ot_position {
    const float *raw, *adjusted;   /* adjusted: after experts, penalties, bias, bans and constraint; raw itself if nothing changes */
    uint32_t row;                  /* of the engine's batch */
    int32_t base_token;            /* what the same draw would have picked without experts; -1 without experts: see adjusted */
    ot_log_norm raw_norm;          /* valid if the client asked for log-probabilities, or adjusted == raw and norm was asked for */
    ot_draw draw;
} ot_position;
/* Reads the logits that decide position c->n_text: fills *p, starts c->pending anew and notes the alternatives to report. False if the
 * constraint cannot say what may come: the request has ended then. */
bool ot_policy_read(ot_decoder *d, ot_choice *c, const ot_logits *logits, bool needs_norm, ot_position *p);
/* Ends a request whose logits are not finite: the fault of the base model's weights, not of the client. */
void ot_policy_fail_logits(ot_decoder *d, ot_request *r);
/* Fills pending.ahead for the candidates that are pending: what lookahead heads predict from the row of the logits. False if that
 * cannot be, or there is no candidate (logits that are not finite): the request has ended then. */
bool ot_policy_look_ahead(ot_decoder *d, ot_choice *c, uint32_t row);
/* Scores of a node of the turn, one for each signal of the request. The node's token is one of the pending candidates. */
void ot_policy_scores(const ot_decoder *d, const ot_turn *t, uint32_t node, float *scores);
/* The node's token joins the text. */
void ot_policy_accept(ot_turn *t, uint32_t node);
/* Asks for the node's logits. */
void ot_policy_want(ot_turn *t, uint32_t node);
/* Sends a token to the reader; ends the choice if it was the last. scores may be NULL without signals. */
void ot_policy_emit(ot_decoder *d, ot_choice *c, const ot_candidate *candidate, const float *scores);
/* Decides position c->n_text from its logits: what may be tried for it, in order, becomes pending. Unless a signal needs the token's
 * own row to run first it is sent. */
void ot_policy_decide(ot_decoder *d, ot_choice *c, const ot_logits *logits);
/* The row of a node with the pending token has run: it joins the text (and is sent, if it was not), unless the guard refuses it;
 * then the next candidate is pending, or the choice ends. True if the choice goes on from this node. */
bool ot_policy_take(ot_decoder *d, ot_choice *c, ot_turn *t, uint32_t node);
/* Counts a token that differs from what the base alone would have picked, by what changed it: the guard if it `refused` another
 * token first. To be called before it is sent. */
void ot_policy_count_change(ot_decoder *d, ot_choice *c, int32_t token, bool refused);

/* ---- Lookahead (policy-args.c) ------------------------------------------------------------------------------- */

/* ARGS without rows of candidates: what the lookahead heads that steer would choose, in order, becomes pending. False if the request
 * ended over it. */
bool ot_args_decide(ot_decoder *d, ot_choice *c, const ot_position *at);

/* ---- Guard (policy-guard.c): asked by every policy before a token is accepted -------------------------------- */

/* Whether the text up to and including a token with these scores is refused. */
bool ot_guard_refuses(ot_choice *c, int32_t token, const float *scores);
/* How many tokens may be tried for one position. */
uint32_t ot_guard_attempts(const ot_request *r);

#endif
