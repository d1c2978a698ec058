/* OT_ASSERT(condition): a tripwire on an invariant that a comment states, such as an arena's end, a list's membership, a reference
 * count. It is for our own mistakes: input is checked and refused, never asserted. `make RELEASE=1` leaves it out; then the
 * condition is not evaluated, so it must have no effect. */
#ifndef OTTER_BASE_ASSERTS_H
#define OTTER_BASE_ASSERTS_H

/* Says which condition of which line does not hold, and ends the process with a trap that a debugger or a core file shows. */
_Noreturn void ot_assert_failed(const char *condition, const char *file, int line);

#ifdef OT_NO_ASSERTS
#define OT_ASSERT(condition) ((void)sizeof(condition))
#else
#define OT_ASSERT(condition) ((condition) ? (void)0 : ot_assert_failed(#condition, __FILE__, __LINE__))
#endif

#endif
