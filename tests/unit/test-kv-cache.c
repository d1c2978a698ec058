/* The KV cache: units are counted, shared, cached, evicted and given back. Units are marked through the engine's own views: each
 * page gets a byte pattern, so that sharing and copying can be seen. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kv-cache/kv-cache.h"
#include "kv-cache/page-hash.h"
#include "scheduler/heads-registry.h"
#include "tests/support/scheduler-fixture.h"
#include "tests/support/test-support.h"

#define P OT_PAGE_TOKENS
static const uint8_t salt_a[16] = {1}, salt_b[16] = {2};

static uint32_t base_heads(void)
{
    return ot_model_get_info(ot_fixture_get()->model)->n_kv_heads;
}

static ot_kv_cache *open_cache(uint32_t n_units, bool prefix)
{
    const ot_model *model = ot_fixture_get()->model;
    ot_kv_cache_options o;
    ot_kv_cache_options_default(&o);
    o.memory_bytes = n_units * ((ot_model_kv_unit_bytes(model, OT_KV_F16) + 63) / 64 * 64) + 7;
    o.prefix_cache = prefix;
    ot_kv_cache *c = NULL;
    ot_error err = {0};
    CHECK_OK(ot_kv_cache_open(&c, model, &o, &err), &err);
    return c;
}

/* "mood" (one KV head) and, on top of it, "top" (one), as a sequence needs them. */
static uint32_t components(const char *name, ot_kv_component *out)
{
    ot_head *head;
    uint32_t output, n = 0;
    ot_error err = {0};
    if (!CHECK_OK(ot_heads_find(ot_fixture_get()->heads, name, &head, &output, &err), &err))
        return 0;
    for (uint32_t i = 0; i < ot_head_n_parents(head); i++)
        out[n++] = (ot_kv_component){ot_head_insertion(ot_head_parent(head, i)), ot_head_serial(ot_head_parent(head, i))};
    out[n++] = (ot_kv_component){ot_head_insertion(head), ot_head_serial(head)};
    ot_head_release(&head); /* the table keeps it open */
    return n;
}

static ot_kv_seq *open_seq(ot_kv_cache *c, const char *head, const uint8_t *salt)
{
    ot_kv_component x[OT_KV_MAX_INSERTIONS];
    uint32_t n = head != NULL ? components(head, x) : 0;
    ot_kv_seq *seq = NULL;
    ot_error err = {0};
    CHECK_OK(ot_kv_seq_open(&seq, c, x, n, 10 * P, salt, &err), &err);
    return seq;
}

static ot_kv_cache_stats stats_of(const ot_kv_cache *c)
{
    ot_kv_cache_stats s;
    ot_kv_cache_get_stats(c, &s);
    CHECK_UINT(s.units_used + s.units_cached + s.units_free, s.units_total);
    return s;
}

static uint8_t *first_unit(const ot_kv_seq *seq, uint32_t page)
{
    const ot_kv_view *view = ot_kv_seq_view(seq);
    return view->memory + view->units[page] * ot_model_kv_unit_bytes(ot_fixture_get()->model, OT_KV_F16);
}

static void tokens_from(int32_t first, int32_t *tokens, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = first + (int32_t)i;
}

/* ---- Cases ---- */

static void siphash_gives_the_published_vectors(void)
{
    uint8_t key[16], message[15];
    for (int i = 0; i < 16; i++)
        key[i] = (uint8_t)i;
    for (int i = 0; i < 15; i++)
        message[i] = (uint8_t)i;
    static const uint8_t empty[16] = {0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6,
                                      0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02, 0x93};
    static const uint8_t one[16] = {0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44,
                                    0x34, 0x76, 0x59, 0x11, 0x9b, 0x22, 0xfc, 0x45};
    ot_page_digest d = ot_page_hash(key, message, 0);
    CHECK_BYTES(&d, 16, empty, 16);
    d = ot_page_hash(key, message, 1);
    CHECK_BYTES(&d, 16, one, 16);
    ot_page_digest e = ot_page_hash(key, message, 15);
    message[14] ^= 1;
    d = ot_page_hash(key, message, 15);
    CHECK(d.lo != e.lo && d.hi != e.hi);
}

static void a_budget_below_one_page_is_refused(void)
{
    ot_kv_cache_options o;
    ot_kv_cache_options_default(&o);
    o.memory_bytes = 100;
    ot_kv_cache *c;
    ot_error err = {0};
    CHECK_STATUS(ot_kv_cache_open(&c, ot_fixture_get()->model, &o, &err), OT_ERR_INVALID, &err);
    CHECK_STR(err.param, "kv-memory");
    CHECK(c == NULL);
}

static void units_are_counted_and_come_back(void)
{
    ot_kv_cache *c = open_cache(20, false);
    uint32_t kv = base_heads();
    ot_kv_seq *plain = open_seq(c, NULL, salt_a), *headed = open_seq(c, "top", salt_a), *thin = open_seq(c, "thin", salt_a);
    CHECK_UINT(stats_of(c).units_total, 20);
    CHECK(ot_kv_seq_reserve(plain, 1));
    CHECK_UINT(stats_of(c).units_used, kv);
    CHECK(ot_kv_seq_reserve(plain, P));
    CHECK_UINT(stats_of(c).units_used, kv);
    CHECK(ot_kv_seq_reserve(plain, P + 1));
    CHECK_UINT(stats_of(c).units_used, 2 * kv);
    CHECK(ot_kv_seq_reserve(headed, 2 * P)); /* "mood" and "top" add a unit to each page */
    CHECK_UINT(stats_of(c).units_used, 2 * kv + 2 * (kv + 2));
    CHECK(ot_kv_seq_reserve(thin, P)); /* task-head-only: keys and values of its own it has none */
    CHECK_UINT(stats_of(c).units_used, 3 * kv + 2 * (kv + 2));
    uint32_t before = stats_of(c).units_used;
    CHECK_UINT(ot_kv_seq_units_needed(headed, 6 * P), 4 * (kv + 2));
    CHECK(!ot_kv_seq_reserve(headed, 6 * P)); /* all or nothing */
    CHECK_UINT(stats_of(c).units_used, before);
    CHECK(!ot_kv_seq_reserve(plain, 10 * P + 1)); /* beyond its tables */
    ot_kv_seq_clear(headed);
    CHECK_UINT(stats_of(c).units_used, 3 * kv);
    ot_kv_seq_close(&plain);
    ot_kv_seq_close(&headed);
    ot_kv_seq_close(&thin);
    CHECK_UINT(stats_of(c).units_used, 0);
    CHECK_UINT(stats_of(c).units_free, 20);
    ot_kv_cache_close(&c);
}

static void no_unit_is_given_out_twice(void)
{
    ot_kv_cache *c = open_cache(60, false);
    ot_kv_seq *seqs[4];
    static const char *const heads[4] = {NULL, "mood", "top", NULL};
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 4; i++) {
            seqs[i] = open_seq(c, heads[i], salt_a);
            CHECK(ot_kv_seq_reserve(seqs[i], (3 + (uint32_t)i) * P));
        }
        uint32_t seen[60];
        uint32_t n = 0;
        for (int i = 0; i < 4; i++) {
            const ot_kv_view *v = ot_kv_seq_view(seqs[i]);
            for (uint32_t page = 0; page < 3 + (uint32_t)i; page++) {
                for (uint32_t h = 0; h < base_heads(); h++)
                    seen[n++] = v->units[h * v->page_stride + page];
                for (uint32_t k = 0; k < v->n_insertions; k++)
                    seen[n++] = v->insertions[k].units[page];
            }
        }
        CHECK_UINT(n, stats_of(c).units_used);
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t j = 0; j < i; j++)
                CHECK(seen[i] != seen[j] && seen[i] < stats_of(c).units_total);
        for (int i = 3; i >= 0; i--)
            ot_kv_seq_close(&seqs[i]);
        CHECK_UINT(stats_of(c).units_used, 0);
    }
    ot_kv_cache_close(&c);
}

static void a_prefix_is_found_by_tokens_and_salt(void)
{
    ot_kv_cache *c = open_cache(40, true);
    int32_t tokens[4 * P];
    tokens_from(0, tokens, 4 * P);
    ot_kv_seq *a = open_seq(c, NULL, salt_a);
    CHECK(ot_kv_seq_reserve(a, 4 * P));
    ot_kv_seq_settle(a, tokens, 3 * P + 5); /* three full pages */
    CHECK(!ot_kv_seq_writable(a, 2 * P) && ot_kv_seq_writable(a, 3 * P));

    ot_kv_seq *b = open_seq(c, NULL, salt_a);
    CHECK_UINT(ot_kv_seq_match(b, tokens, 4 * P), 3 * P);
    CHECK(first_unit(b, 2) == first_unit(a, 2));
    CHECK_UINT(stats_of(c).units_used, 4 * base_heads());
    ot_kv_seq_clear(b);
    CHECK_UINT(ot_kv_seq_match(b, tokens, 3 * P - 1), 2 * P);
    ot_kv_seq_clear(b);
    tokens[P + 3]++; /* another token in the second page */
    CHECK_UINT(ot_kv_seq_match(b, tokens, 4 * P), P);
    ot_kv_seq_close(&b);
    b = open_seq(c, NULL, salt_b);
    CHECK_UINT(ot_kv_seq_match(b, tokens, 4 * P), 0);
    ot_kv_seq_close(&b);

    ot_kv_seq_close(&a);
    CHECK_UINT(stats_of(c).units_used, 0);
    CHECK_UINT(stats_of(c).units_cached, 3 * base_heads()); /* the fourth page was not full */
    CHECK_UINT(ot_kv_cache_available(c), 40);
    ot_kv_cache_close(&c);
}

static void a_head_needs_its_own_pages(void)
{
    ot_kv_cache *c = open_cache(40, true);
    int32_t tokens[2 * P];
    tokens_from(0, tokens, 2 * P);
    ot_kv_seq *plain = open_seq(c, NULL, salt_a), *mood = open_seq(c, "mood", salt_a), *thin = open_seq(c, "thin", salt_a);
    CHECK(ot_kv_seq_reserve(plain, 2 * P));
    ot_kv_seq_settle(plain, tokens, 2 * P);
    CHECK_UINT(ot_kv_seq_match(thin, tokens, 2 * P), 2 * P); /* keeps nothing of its own */
    CHECK_UINT(ot_kv_seq_match(mood, tokens, 2 * P), 0);
    CHECK(ot_kv_seq_reserve(mood, 2 * P));
    ot_kv_seq_settle(mood, tokens, 2 * P); /* its base pages are known already; its own are new */
    ot_kv_seq_close(&mood);
    CHECK_UINT(stats_of(c).units_cached, 2);
    mood = open_seq(c, "mood", salt_a);
    CHECK_UINT(ot_kv_seq_match(mood, tokens, 2 * P), 2 * P);
    CHECK(first_unit(mood, 1) == first_unit(plain, 1));
    ot_kv_seq *top = open_seq(c, "top", salt_a);
    CHECK_UINT(ot_kv_seq_match(top, tokens, 2 * P), 0); /* "mood" is there, "top" is not */
    ot_kv_seq_close(&top);
    ot_kv_seq_close(&mood);
    ot_kv_seq_close(&plain);
    ot_kv_seq_close(&thin);
    CHECK_UINT(stats_of(c).units_used, 0);
    ot_kv_cache_close(&c);
}

static void the_least_recently_used_page_goes_first(void)
{
    uint32_t kv = base_heads();
    ot_kv_cache *c = open_cache(6 * kv, true);
    int32_t x[2 * P], y[2 * P], z[2 * P];
    tokens_from(0, x, 2 * P);
    tokens_from(1000, y, 2 * P);
    tokens_from(2000, z, 2 * P);
    int32_t *texts[3] = {x, y, z};
    for (int i = 0; i < 3; i++) {
        ot_kv_seq *s = open_seq(c, NULL, salt_a);
        CHECK(ot_kv_seq_reserve(s, 2 * P));
        ot_kv_seq_settle(s, texts[i], 2 * P);
        ot_kv_seq_close(&s);
    }
    CHECK_UINT(stats_of(c).units_cached, 6 * kv);
    ot_kv_seq *s = open_seq(c, NULL, salt_a);
    CHECK_UINT(ot_kv_seq_match(s, x, 2 * P), 2 * P); /* used again: y is the oldest now */
    ot_kv_seq_clear(s);
    CHECK(ot_kv_seq_reserve(s, P)); /* evicts the end of y */
    CHECK_UINT(stats_of(c).evicted_units, kv);
    ot_kv_seq *t = open_seq(c, NULL, salt_a);
    CHECK_UINT(ot_kv_seq_match(t, y, 2 * P), P);
    ot_kv_seq_clear(t);
    CHECK_UINT(ot_kv_seq_match(t, x, 2 * P), 2 * P);
    CHECK(!ot_kv_seq_reserve(s, 5 * P)); /* pages in use are never evicted */
    CHECK(ot_kv_seq_reserve(s, 4 * P));
    CHECK_UINT(stats_of(c).units_cached, 0);
    ot_kv_seq_close(&s);
    CHECK_UINT(ot_kv_seq_match(t, x, 2 * P), 0); /* holds pages: no second match */
    ot_kv_seq_close(&t);
    CHECK_UINT(stats_of(c).units_used, 0);
    ot_kv_cache_close(&c);
}

static void a_fork_shares_full_pages_and_copies_the_last(void)
{
    ot_kv_cache *c = open_cache(40, true);
    uint32_t kv = base_heads();
    ot_kv_seq *a = open_seq(c, "mood", salt_a), *b = open_seq(c, "mood", salt_a);
    int32_t tokens[3 * P];
    tokens_from(0, tokens, 3 * P);
    CHECK(ot_kv_seq_reserve(a, 2 * P + 7));
    memset(first_unit(a, 2), 0x5a, stats_of(c).unit_bytes);
    ot_kv_seq_settle(a, tokens, 2 * P + 7);
    CHECK_INT(ot_kv_seq_fork(b, a, 2 * P + 7), OT_OK);
    CHECK_UINT(stats_of(c).units_used, 4 * (kv + 1));
    CHECK(first_unit(b, 0) == first_unit(a, 0) && first_unit(b, 1) == first_unit(a, 1));
    CHECK(first_unit(b, 2) != first_unit(a, 2));
    CHECK_BYTES(first_unit(b, 2), stats_of(c).unit_bytes, first_unit(a, 2), stats_of(c).unit_bytes);
    CHECK(ot_kv_seq_writable(b, 2 * P + 7) && ot_kv_seq_writable(a, 2 * P + 7) && !ot_kv_seq_writable(b, P));
    tokens[2 * P + 8] = 99; /* the fork goes its own way and registers its own page */
    CHECK(ot_kv_seq_reserve(b, 3 * P));
    ot_kv_seq_settle(b, tokens, 3 * P);
    ot_kv_seq_close(&a);
    CHECK_UINT(stats_of(c).units_used, 3 * (kv + 1));
    ot_kv_seq_close(&b);
    CHECK_UINT(stats_of(c).units_used, 0);
    b = open_seq(c, "mood", salt_a);
    CHECK_UINT(ot_kv_seq_match(b, tokens, 3 * P), 3 * P);
    ot_kv_seq_close(&b);
    ot_kv_cache_close(&c);
}

/* dst would go on with the hash of tokens that it does not have, and register its own pages under them. */
static void a_fork_below_what_is_settled_is_refused(void)
{
    ot_kv_cache *c = open_cache(40, true);
    ot_kv_seq *a = open_seq(c, NULL, salt_a), *b = open_seq(c, NULL, salt_a);
    int32_t tokens[3 * P];
    tokens_from(0, tokens, 3 * P);
    CHECK(ot_kv_seq_reserve(a, 3 * P));
    ot_kv_seq_settle(a, tokens, 2 * P);
    CHECK_INT(ot_kv_seq_fork(b, a, 2 * P - 1), OT_ERR_INVALID);
    CHECK_INT(ot_kv_seq_fork(b, a, 3 * P + 1), OT_ERR_INVALID); /* more than there is */
    CHECK_UINT(ot_kv_seq_units_needed(b, 1), base_heads());
    CHECK_INT(ot_kv_seq_fork(b, a, 2 * P), OT_OK);
    ot_kv_seq_close(&a);
    ot_kv_seq_close(&b);
    CHECK_UINT(stats_of(c).units_used, 0);
    ot_kv_cache_close(&c);
}

static void a_fork_without_units_changes_nothing(void)
{
    uint32_t kv = base_heads();
    ot_kv_cache *c = open_cache(2 * kv, true);
    ot_kv_seq *a = open_seq(c, NULL, salt_a), *b = open_seq(c, NULL, salt_a);
    CHECK(ot_kv_seq_reserve(a, P + 1));
    CHECK_INT(ot_kv_seq_fork(b, a, P + 1), OT_ERR_FULL);
    CHECK_UINT(stats_of(c).units_used, 2 * kv);
    CHECK_INT(ot_kv_seq_fork(b, a, P), OT_OK); /* whole pages only: no unit needed */
    ot_kv_seq_close(&a);
    CHECK_UINT(stats_of(c).units_used, kv);
    ot_kv_seq_close(&b);
    CHECK_UINT(stats_of(c).units_used, 0);
    ot_kv_cache_close(&c);
}

/* Random opening, growing, settling, forking and closing: the counts always add up, and all comes back. */
static void nothing_leaks_in_random_use(void)
{
    ot_test_rng rng = {ot_test_seed(77)};
    ot_kv_cache *c = open_cache(48, true);
    static const char *const heads[3] = {NULL, "mood", "top"};
    ot_kv_seq *seqs[6] = {0};
    uint32_t lengths[6] = {0}, kinds[6] = {0};
    int32_t tokens[6][10 * P];
    for (int step = 0; step < 4000; step++) {
        uint32_t i = ot_test_rng_below(&rng, 6), what = ot_test_rng_below(&rng, 5);
        if (seqs[i] == NULL) {
            kinds[i] = ot_test_rng_below(&rng, 3);
            seqs[i] = open_seq(c, heads[kinds[i]], salt_a);
            tokens_from((int32_t)ot_test_rng_below(&rng, 3) * 1000, tokens[i], 10 * P);
            lengths[i] = ot_kv_seq_match(seqs[i], tokens[i], 8 * P);
        } else if (what < 2) {
            uint32_t n = lengths[i] + 1 + ot_test_rng_below(&rng, 2 * P);
            if (n < 10 * P && ot_kv_seq_reserve(seqs[i], n)) {
                CHECK(ot_kv_seq_writable(seqs[i], lengths[i]));
                lengths[i] = n;
                ot_kv_seq_settle(seqs[i], tokens[i], n);
            }
        } else if (what == 2) {
            uint32_t j = ot_test_rng_below(&rng, 6);
            if (seqs[j] == NULL && lengths[i] > 0) {
                seqs[j] = open_seq(c, heads[kinds[i]], salt_a);
                kinds[j] = kinds[i];
                memcpy(tokens[j], tokens[i], sizeof tokens[j]);
                lengths[j] = ot_kv_seq_fork(seqs[j], seqs[i], lengths[i]) == OT_OK ? lengths[i] : 0;
            }
        } else if (what == 3) {
            ot_kv_seq_clear(seqs[i]);
            lengths[i] = ot_kv_seq_match(seqs[i], tokens[i], 8 * P);
        } else {
            ot_kv_seq_close(&seqs[i]);
        }
        stats_of(c);
    }
    for (int i = 0; i < 6; i++)
        ot_kv_seq_close(&seqs[i]);
    CHECK_UINT(stats_of(c).units_used, 0);
    CHECK(stats_of(c).evicted_units > 0);
    ot_kv_cache_close(&c);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    if (ot_fixture_get() != NULL) {
        RUN(siphash_gives_the_published_vectors);
        RUN(a_budget_below_one_page_is_refused);
        RUN(units_are_counted_and_come_back);
        RUN(no_unit_is_given_out_twice);
        RUN(a_prefix_is_found_by_tokens_and_salt);
        RUN(a_head_needs_its_own_pages);
        RUN(the_least_recently_used_page_goes_first);
        RUN(a_fork_shares_full_pages_and_copies_the_last);
        RUN(a_fork_below_what_is_settled_is_refused);
    RUN(a_fork_without_units_changes_nothing);
        RUN(nothing_leaks_in_random_use);
    }
    ot_fixture_close();
    return ot_test_finish();
}
