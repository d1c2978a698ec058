/* The course of a reward over a text: how strong it is at a position, and where it ends (`decay` and `until` of an intervention).
 *
 * At the t-th generated token (from 0 on) weights are w decay^t. Steering ends before token t if `until.tokens` <= t, and after the first
 * token with which the text's weighted scores, sum of w r without decay, reach `until.score`. It never begins again: from there on the
 * request decides as it would without `reward`, while signals, guard, experts and drafts go on. All of it follows from
 * the text and its scores, so a preemption changes nothing. */
#ifndef OTTER_SCHEDULER_POLICIES_REWARD_COURSE_H
#define OTTER_SCHEDULER_POLICIES_REWARD_COURSE_H

#include <stdbool.h>

#include "scheduler/request.h"

/* Whether the reward steers position c->n_text. */
bool ot_reward_steers(const ot_choice *c);
/* decay^t for that position, by repeated squaring in double: the same on every machine. */
double ot_reward_scale(const ot_choice *c);
/* A token joins the text with these scores, one for each signal. */
void ot_reward_note(ot_choice *c, const float *scores);

#endif
