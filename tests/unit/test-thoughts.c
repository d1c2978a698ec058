/* Thoughts told from the answer, cut at every place. */
#include "server/thoughts.h"
#include "tests/support/test-support.h"

#include <string.h>

static const struct {
    ot_thoughts_state state;
    const char *text, *thought, *answer;
} cases[] = {
    {OT_THOUGHTS_OFF, "<think>a</think>b", "", "<think>a</think>b"},
    {OT_THOUGHTS_UNDECIDED, "<think>\nSo.\nThen.\n</think>\n\nYes.\n", "So.\nThen.", "Yes.\n"},
    {OT_THOUGHTS_UNDECIDED, "\n <think></think>x", "", "x"},
    {OT_THOUGHTS_UNDECIDED, " plain <think>a</think>", "", " plain <think>a</think>"},
    {OT_THOUGHTS_UNDECIDED, "<thi", "", "<thi"},
    {OT_THOUGHTS_UNDECIDED, "<thing>", "", "<thing>"},
    {OT_THOUGHTS_BEGIN, "\n\na < b\n\n</thin> <</think></think>c</think>", "a < b\n\n</thin> <", "</think>c</think>"},
    {OT_THOUGHTS_BEGIN, "never ends\n", "never ends\n", ""},
    {OT_THOUGHTS_BEGIN, "a</think", "a</think", ""},
    {OT_THOUGHTS_BEGIN, "\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\nx</think>y", "x", "y"},
};

static void run(size_t i, size_t cut, size_t step)
{
    ot_thoughts t = {.state = cases[i].state};
    ot_text thought, answer;
    size_t size = strlen(cases[i].text);
    ot_text_init(&thought, 1 << 16);
    ot_text_init(&answer, 1 << 16);
    for (size_t at = 0, n = cut; at < size; at += n, n = step) {
        n = n < size - at ? n : size - at;
        ot_thoughts_add(&t, true, cases[i].text + at, n, &thought, &answer);
    }
    ot_thoughts_end(&t, &thought, &answer);
    CHECK_BYTES(thought.data, thought.size, cases[i].thought, strlen(cases[i].thought));
    CHECK_BYTES(answer.data, answer.size, cases[i].answer, strlen(cases[i].answer));
    ot_text_free(&thought);
    ot_text_free(&answer);
}

static void every_cut_gives_the_same(void)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ot_test_context("%s", cases[i].text);
        for (size_t cut = 1; cut <= strlen(cases[i].text); cut++)
            run(i, cut, strlen(cases[i].text));
        run(i, 1, 1);
        run(i, 3, 3);
    }
    ot_test_context(NULL);
}

static void counts_the_tokens_of_thoughts(void)
{
    static const char *const tokens[] = {"<think>", "\n", "a", " b", "\n</", "think>", "\n\n", "Yes", "."};
    ot_thoughts t = {.state = OT_THOUGHTS_UNDECIDED}, plain = t;
    ot_text thought, answer;
    ot_text_init(&thought, 1000);
    ot_text_init(&answer, 1000);
    for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++)
        ot_thoughts_add(&t, true, tokens[i], strlen(tokens[i]), &thought, &answer);
    CHECK_UINT(t.n_tokens, 6);
    ot_thoughts_add(&plain, true, "<", 1, &thought, &answer);
    ot_thoughts_add(&plain, true, "b>", 2, &thought, &answer);
    CHECK_UINT(plain.n_tokens, 0);
    ot_text_free(&thought);
    ot_text_free(&answer);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(every_cut_gives_the_same);
    RUN(counts_the_tokens_of_thoughts);
    return ot_test_finish();
}
