/* A fuzz target: one parser that takes bytes, whatever they are, and neither crashes nor leaks. A target is a program of tests/fuzz/:
 *
 *     static int take(const uint8_t *data, size_t size) { ...; return 0; }
 *     OT_FUZZ_TARGET("yaml", 3000, take)
 *
 * As a test it replays the kept inputs of tests/fuzz/corpus/NAME/, whole and cut, and as many damaged ones from a printed seed; or the
 * files of its arguments, such as an input that libFuzzer found. Each input lies against a page that may not be touched.
 * `make fuzz-yaml` builds the same file with clang's libFuzzer (OTTER_LIBFUZZER) and lets it look for new ones.
 */
#ifndef OTTER_TESTS_SUPPORT_FUZZ_TARGET_H
#define OTTER_TESTS_SUPPORT_FUZZ_TARGET_H

#include <stddef.h>
#include <stdint.h>

typedef int ot_fuzz_take(const uint8_t *data, size_t size);

/* The exit status for main. */
int ot_fuzz_replay(int argc, char **argv, const char *name, uint32_t rounds, ot_fuzz_take *take);
/* The path of a file of this process alone that holds the input, for parsers that read files; the same at each call. */
const char *ot_fuzz_file(const uint8_t *data, size_t size);

#ifdef OTTER_LIBFUZZER
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
#define OT_FUZZ_TARGET(name, rounds, take)                          \
    int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)    \
    {                                                               \
        return take(data, size);                                    \
    }
#else
#define OT_FUZZ_TARGET(name, rounds, take)                          \
    int main(int argc, char **argv)                                 \
    {                                                               \
        return ot_fuzz_replay(argc, argv, name, rounds, take);      \
    }
#endif

#endif
