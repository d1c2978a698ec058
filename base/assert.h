/* OT_ASSERT: invariants that a comment states (the end of an arena, an index of a plan, a list's membership) get a tripwire. It is
 * compiled in where OT_ASSERTS is defined (tests, fuzzing, `make debug`), and costs nothing in a release. It never handles input: what
 * comes from a file or a request is checked, and an ot_status says so. */
#ifndef OTTER_BASE_ASSERT_H
#define OTTER_BASE_ASSERT_H

#ifdef OT_ASSERTS
/* Prints the condition and where it stands, and aborts. */
_Noreturn void ot_assert_failed(const char *condition, const char *file, int line);
#define OT_ASSERT(condition) ((condition) ? (void)0 : ot_assert_failed(#condition, __FILE__, __LINE__))
#else
#define OT_ASSERT(condition) ((void)sizeof((condition) ? 1 : 0))
#endif

#endif
