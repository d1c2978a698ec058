/* Inside scheduler/: what a head is beyond its public face. */
#ifndef OTTER_SCHEDULER_HEADS_REGISTRY_H
#define OTTER_SCHEDULER_HEADS_REGISTRY_H

#include "scheduler/scheduler.h"

/* A number that no other head of this process ever had: it names the head's weights in the prefix cache. */
uint64_t ot_head_serial(const ot_head *head);
/* The name of an insertion's file without folder and ending; "" for a separate model. */
const char *ot_head_file(const ot_head *head);
/* The insertions that a head stands on, lowest first, as heads (borrowed). */
uint32_t ot_head_n_parents(const ot_head *head);
const ot_head *ot_head_parent(const ot_head *head, uint32_t i);
/* How many heads the table holds at most. */
uint32_t ot_heads_max(const ot_heads *heads);

#endif
