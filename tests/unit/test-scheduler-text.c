/* From tokens to text: whole characters, stop strings, ends of text; first the output alone, byte by byte, then through the
 * scheduler with a logit bias that says what comes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/steps/output.h"
#include "tests/support/scheduler-fixture.h"
#include "tests/support/test-support.h"
#include "tests/support/tiny-model.h"

/* ---- An output by itself ---- */

typedef struct rig {
    ot_output o;
    ot_stop stops[4];
    uint16_t fails[4][OT_MAX_STOP_BYTES];
    uint16_t states[4];
    ot_token_out ring[256];
    uint32_t ends[256];
    char held[4096], scratch[3 * 4096];
    /* what was read */
    uint32_t n_tokens, n_entries, text_size;
    int32_t tokens[8192];
    char text[65536];
} rig;

static rig *open_rig(uint32_t ring, uint32_t longest_token, uint32_t n_stops, const char *const *stops)
{
    rig *r = calloc(1, sizeof *r);
    if (!CHECK(r != NULL))
        return NULL;
    uint32_t longest = 0;
    for (uint32_t i = 0; i < n_stops; i++) {
        uint16_t size = (uint16_t)strlen(stops[i]);
        ot_stop_prepare(stops[i], size, r->fails[i]);
        r->stops[i] = (ot_stop){stops[i], size, r->fails[i]};
        longest = size > longest ? size : longest;
    }
    uint32_t held = ot_output_held_bytes(longest, longest_token);
    r->o = (ot_output){.ring = r->ring, .capacity = ot_output_capacity(ring, held), .reserve = ot_output_reserve(held),
                       .n_stops = n_stops, .stops = r->stops, .held = r->held, .held_capacity = held, .ends = r->ends,
                       .states = r->states};
    CHECK(r->o.capacity <= 256 && held <= sizeof r->held);
    return r;
}

static void drain(rig *r)
{
    ot_token_out out[3];
    for (size_t n; (n = ot_output_read(&r->o, out, 3)) > 0;)
        for (size_t i = 0; i < n; i++) {
            char clean[3 * sizeof out[i].text];
            CHECK_UINT(ot_utf8_sanitize(out[i].text, out[i].text_size, clean), out[i].text_size); /* valid already? */
            CHECK_BYTES(clean, out[i].text_size, out[i].text, out[i].text_size);
            memcpy(r->text + r->text_size, out[i].text, out[i].text_size);
            r->text_size += out[i].text_size;
            r->n_entries++;
            if (out[i].token >= 0)
                r->tokens[r->n_tokens++] = out[i].token;
        }
}

static bool put(rig *r, int32_t token, const char *text, size_t size)
{
    ot_token_out e;
    memset(&e, 0, sizeof e);
    e.token = token;
    if (!CHECK(ot_output_has_room(&r->o)))
        return true;
    return ot_output_put(&r->o, &e, (ot_str){text, size}, true, r->scratch);
}

static bool put_str(rig *r, int32_t token, const char *text)
{
    return put(r, token, text, strlen(text));
}

#define CHECK_TEXT(r, expected) CHECK_BYTES((r)->text, (r)->text_size, expected, strlen(expected))

static void a_character_is_never_cut(void)
{
    rig *r = open_rig(16, 8, 0, NULL);
    REQUIRE(r != NULL);
    put_str(r, 0, "a\xe2");
    drain(r);
    CHECK_TEXT(r, "");
    put_str(r, 1, "\x82");
    drain(r);
    CHECK_TEXT(r, "");
    put_str(r, 2, "\xac"
                  "b");
    drain(r);
    CHECK_TEXT(r, "a\xe2\x82\xac"
                  "b");
    CHECK_UINT(r->n_tokens, 3);
    put_str(r, 3, "\xff!"); /* invalid, and no later byte can help */
    drain(r);
    CHECK_TEXT(r, "a\xe2\x82\xac"
                  "b\xef\xbf\xbd!");
    put_str(r, 4, "\xf0\x9f");
    drain(r);
    CHECK_UINT(r->n_tokens, 4);
    ot_output_flush(&r->o, r->scratch); /* the end: what is cut stays cut */
    drain(r);
    CHECK_UINT(r->n_tokens, 5);
    CHECK_TEXT(r, "a\xe2\x82\xac"
                  "b\xef\xbf\xbd!\xef\xbf\xbd");
    free(r);
}

static void stop_strings_are_found_across_tokens(void)
{
    static const char *const stops[] = {"END", "STOP"};
    static const struct {
        const char *tokens[8];
        const char *text; /* what is sent */
        int stops_at;     /* token that completes a stop string, or -1 */
    } cases[] = {
        {{"a", "END", "b"}, "a", 1},
        {{"aE", "N", "Db"}, "a", 2},
        {{"E", "N", "E", "N", "D"}, "EN", 4},
        {{"EN", "x", "STO", "STOP", "y"}, "ENxSTO", 3},
        {{"STOEND"}, "STO", 0},
        {{"EEND"}, "E", 0},
        {{"E", "N"}, "EN", -1}, /* a beginning at the end of the text is text */
        {{"\xc3", "\xa9"
                  "EN",
          "D"},
         "\xc3\xa9", 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ot_test_context("case %zu", i);
        rig *r = open_rig(16, 8, 2, stops);
        REQUIRE(r != NULL);
        int stopped = -1, n = 0;
        for (; n < 8 && cases[i].tokens[n] != NULL && stopped < 0; n++) {
            if (put_str(r, n, cases[i].tokens[n]))
                stopped = n;
            drain(r);
        }
        ot_output_flush(&r->o, r->scratch);
        drain(r);
        CHECK_INT(stopped, cases[i].stops_at);
        CHECK_TEXT(r, cases[i].text);
        CHECK_INT(r->n_tokens, n); /* every token is told, also those whose text is not sent */
        free(r);
    }
    ot_test_context(NULL);
}

static void text_that_may_be_a_stop_is_held_back_no_longer_than_needed(void)
{
    static const char *const stops[] = {"abcab!"};
    rig *r = open_rig(32, 8, 1, stops);
    REQUIRE(r != NULL);
    static const char *const tokens[] = {"x", "ab", "ca", "b", "c", "z"};
    static const char *const sent[] = {"x", "x", "x", "x", "xab", "xabcabcz"}; /* whole tokens */
    for (int i = 0; i < 6; i++) {
        CHECK(!put_str(r, i, tokens[i]));
        drain(r);
        CHECK_TEXT(r, sent[i]);
    }
    CHECK_UINT(r->n_tokens, 6);
    free(r);
}

static void a_long_token_goes_out_in_pieces(void)
{
    static char text[1800];
    for (size_t i = 0; i < sizeof text; i += 3)
        memcpy(text + i, i % 2 ? "\xe2\x82\xac" : "\xff\xfe\xfd", 3); /* every other three bytes are invalid */
    static char clean[3 * sizeof text];
    size_t size = ot_utf8_sanitize(text, sizeof text, clean);
    rig *r = open_rig(8, sizeof text, 0, NULL);
    REQUIRE(r != NULL);
    put(r, 7, text, sizeof text);
    drain(r);
    ot_output_flush(&r->o, r->scratch);
    drain(r);
    CHECK_UINT(r->n_tokens, 1);
    CHECK(r->n_entries > 3);
    CHECK_BYTES(r->text, r->text_size, clean, size);
    free(r);
}

/* A stop string of a thousand bytes that arrives byte by byte would fill the ring with tokens that cannot be sent. */
static void held_tokens_do_not_jam_the_ring(void)
{
    static char stop[1001];
    memset(stop, 'a', 999);
    stop[999] = '!';
    const char *const stops[] = {stop};
    rig *r = open_rig(16, 8, 1, stops);
    REQUIRE(r != NULL);
    for (int i = 0; i < 995; i++) {
        if (!ot_output_has_room(&r->o))
            drain(r);
        CHECK(!put_str(r, i, "a"));
    }
    CHECK_TEXT(r, "");
    drain(r);
    CHECK(!put_str(r, 995, "b"));
    drain(r);
    ot_output_flush(&r->o, r->scratch);
    drain(r);
    CHECK_UINT(r->n_tokens, 996);
    CHECK_UINT(r->text_size, 996);
    for (uint32_t i = 0; i < 996; i++)
        CHECK_INT(r->tokens[i], i);
    free(r);
}

/* Random texts cut into random tokens: what is sent is the text up to the first stop string, sanitised. */
static void random_texts_come_out_whole(void)
{
    ot_test_rng rng = {ot_test_seed(5)};
    static const char *const stops[] = {"ab", "aab", "ca\xc3\xa9"};
    static const char *const parts[] = {"a", "b", "c", "\xc3", "\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xff", "aa"};
    for (int round = 0; round < 500; round++) {
        char text[400], clean[1200];
        uint32_t size = 0, n_put = 0;
        rig *r = open_rig(4 + ot_test_rng_below(&rng, 20), 16, round % 4, stops);
        REQUIRE(r != NULL);
        while (size < 300) {
            const char *part = parts[ot_test_rng_below(&rng, 9)];
            memcpy(text + size, part, strlen(part));
            size += (uint32_t)strlen(part);
        }
        uint32_t end = size, at = 0;
        for (uint32_t i = 0; i < size && end == size; i++) /* i: the last byte of a match */
            for (int s = 0; s < round % 4; s++) {
                uint32_t n = (uint32_t)strlen(stops[s]);
                if (i + 1 >= n && memcmp(text + i + 1 - n, stops[s], n) == 0 && i + 1 - n < end)
                    end = i + 1 - n;
            }
        for (bool stopped = false; at < size && !stopped; n_put++) {
            uint32_t n = ot_test_rng_below(&rng, 7);
            n = n < size - at ? n : size - at;
            if (!ot_output_has_room(&r->o) || ot_test_rng_below(&rng, 4) == 0)
                drain(r);
            stopped = put(r, (int32_t)n_put, text + at, n);
            at += n;
            CHECK(!stopped || end < size);
        }
        drain(r);
        ot_output_flush(&r->o, r->scratch);
        drain(r);
        CHECK_BYTES(r->text, r->text_size, clean, ot_utf8_sanitize(text, end, clean));
        CHECK_UINT(r->n_tokens, n_put);
        free(r);
    }
}

/* ---- Through the scheduler ---- */

static ot_result got;

/* A request whose next token is always `token`, with overwhelming probability. */
static void run_biased(const int32_t *bias, uint32_t n_bias, ot_request_params *p)
{
    static int32_t prompt[20];
    static const float values[8] = {100, 99.5f, 99, 98, 97, 96, 95, 94};
    ot_fixture_prompt(2, prompt, 20);
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    p->prompt = prompt;
    p->n_prompt = 20;
    p->sampling.n_bias = n_bias;
    p->sampling.bias_tokens = bias;
    p->sampling.bias_values = values;
    CHECK(ot_fixture_run(s, p, &got));
    CHECK(ot_fixture_is_clean(s));
    ot_scheduler_close(&s);
}

enum { END = 2 /* <|im_end|> */, A = OT_TINY_FIRST_BYTE_TOKEN + 'a', EURO = OT_TINY_FIRST_BYTE_TOKEN + 0xe2 };

static void an_end_of_text_ends_without_text(void)
{
    int32_t bias = END;
    for (int signals = 0; signals < 2; signals++) {
        ot_request_params p = ot_fixture_params(NULL, 0, 10);
        p.ignore_eos = false;
        if (signals)
            ot_fixture_signal(&p, "mood", 0);
        run_biased(&bias, 1, &p);
        CHECK_INT(got.finish, OT_FINISH_STOP);
        CHECK_UINT(got.n, 1); /* counted and told, as a token without text */
        CHECK_INT(got.tokens[0], END);
        CHECK_UINT(got.text_size, 0);
        CHECK(signals ? got.signals[0][0] > 0 : true);
    }
    ot_request_params p = ot_fixture_params(NULL, 0, 10);
    run_biased(&bias, 1, &p); /* ignore_eos */
    CHECK_INT(got.finish, OT_FINISH_LENGTH);
    CHECK_UINT(got.n, 10);
    CHECK_UINT(got.text_size, 0);
}

static void min_tokens_puts_off_every_end(void)
{
    const int32_t bias[] = {END, A};
    ot_request_params p = ot_fixture_params(NULL, 0, 10);
    p.ignore_eos = false;
    p.min_tokens = 4;
    run_biased(bias, 2, &p);
    CHECK_INT(got.finish, OT_FINISH_STOP);
    CHECK_UINT(got.n, 5);
    CHECK_STR(got.text, "aaaa");
    const int32_t stop = A;
    p.n_stop_tokens = 1;
    p.stop_tokens = &stop;
    p.ignore_eos = true;
    p.min_tokens = 0;
    run_biased(bias + 1, 1, &p);
    CHECK_INT(got.finish, OT_FINISH_STOP);
    CHECK_UINT(got.n, 1);
    CHECK_STR(got.text, "");
    const char *text = "aa";
    p.n_stop_tokens = 0;
    p.n_stops = 1;
    p.stops = &text;
    run_biased(bias + 1, 1, &p);
    CHECK_INT(got.finish, OT_FINISH_STOP);
    CHECK_UINT(got.n, 2);
    CHECK_STR(got.text, "");
    p.min_tokens = 4;
    run_biased(bias + 1, 1, &p);
    CHECK_INT(got.finish, OT_FINISH_STOP);
    CHECK_UINT(got.n, 6);
    CHECK_STR(got.text, "aaaa");
}

static void invalid_bytes_never_reach_the_reader(void)
{
    int32_t bias = EURO; /* the first byte of a character, again and again */
    ot_request_params p = ot_fixture_params(NULL, 0, 3);
    run_biased(&bias, 1, &p);
    CHECK_UINT(got.n, 3);
    CHECK_STR(got.text, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
}

static void penalties_act_on_the_text_so_far(void)
{
    static int32_t prompt[20];
    ot_fixture_prompt(8, prompt, 20);
    ot_request_params p = ot_fixture_params(prompt, 20, 40);
    p.sampling.presence_penalty = 1;
    p.sampling.frequency_penalty = 0.5f;
    p.sampling.repetition_penalty = 1.3f;
    ot_by_hand h;
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    if (s != NULL && ot_fixture_run(s, &p, &got) && ot_by_hand_open(&h, &p, 1) && ot_by_hand_add(&h, prompt, 20, &p, NULL)) {
        for (uint32_t at = 0; at < 40; at++) {
            uint32_t n_vocab = ot_model_get_info(ot_fixture_get()->model)->n_vocab, repeated = 0;
            for (int32_t t = 0; t < (int32_t)n_vocab; t++) {
                uint32_t count = 0;
                bool seen = false;
                for (uint32_t i = 0; i < 20; i++)
                    seen |= prompt[i] == t;
                for (uint32_t i = 0; i < at; i++)
                    count += got.tokens[i] == t;
                if (seen || count > 0)
                    h.logits[t] = h.logits[t] > 0 ? h.logits[t] / 1.3f : h.logits[t] * 1.3f;
                if (count > 0)
                    h.logits[t] = h.logits[t] - 0.5f * (float)count - 1;
                repeated += count;
            }
            CHECK_UINT(repeated, at);
            if (!CHECK_INT(got.tokens[at], ot_by_hand_argmax(&h)))
                break;
            ot_by_hand_add(&h, &got.tokens[at], 1, &p, NULL);
        }
        ot_by_hand_close(&h);
    }
    ot_scheduler_close(&s);
}

static void alternatives_are_the_models_own(void)
{
    int32_t bias = A;
    ot_request_params p = ot_fixture_params(NULL, 0, 4);
    p.top_logprobs = 5;
    run_biased(&bias, 1, &p);
    for (uint32_t i = 0; i < got.n; i++) {
        CHECK_INT(got.tokens[i], A);
        CHECK_UINT(got.n_top[i], 5);
        for (int j = 1; j < 5; j++)
            CHECK(got.top[i][j - 1].logprob >= got.top[i][j].logprob);
        CHECK(got.top[i][0].token == A || got.logprobs[i] <= got.top[i][0].logprob);
    }
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(a_character_is_never_cut);
    RUN(stop_strings_are_found_across_tokens);
    RUN(text_that_may_be_a_stop_is_held_back_no_longer_than_needed);
    RUN(a_long_token_goes_out_in_pieces);
    RUN(held_tokens_do_not_jam_the_ring);
    RUN(random_texts_come_out_whole);
    RUN(an_end_of_text_ends_without_text);
    RUN(min_tokens_puts_off_every_end);
    RUN(invalid_bytes_never_reach_the_reader);
    RUN(penalties_act_on_the_text_so_far);
    RUN(alternatives_are_the_models_own);
    ot_fixture_close();
    return ot_test_finish();
}
