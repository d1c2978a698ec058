/* Lack of memory at any point: a model and a head are opened, a scheduler started, a request admitted and run to its end; in round n the
 * n-th allocation of all this fails, on whatever thread. Each round ends as if nothing had happened or with an error that says something, and
 * gives back all it took. The linker puts these wrappers before the C library's functions (Makefile); what libraries allocate
 * for themselves is not looked at. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "scheduler/scheduler.h"
#include "tests/support/test-support.h"
#include "tests/support/tiny-insertion.h"
#include "tests/support/tiny-model.h"

/* ---- Allocations ----------------------------------------------------------------------------------------- */

static _Atomic bool counting;
static _Atomic long asked, fails_at, living;

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *old, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
char *__real_strdup(const char *text);
void __real_free(void *pointer);
void *__real_mmap(void *address, size_t size, int protection, int flags, int file, off_t offset);

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);
char *__wrap_strdup(const char *text);
void __wrap_free(void *pointer);
void *__wrap_mmap(void *address, size_t size, int protection, int flags, int file, off_t offset);

static bool fails(void)
{
    return atomic_load(&counting) && atomic_fetch_add(&asked, 1) + 1 == atomic_load(&fails_at);
}

static void *taken(void *pointer)
{
    if (pointer != NULL && atomic_load(&counting))
        atomic_fetch_add(&living, 1);
    return pointer;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : taken(__real_malloc(size));
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : taken(__real_calloc(n, size));
}

void *__wrap_realloc(void *old, size_t size)
{
    if (fails())
        return NULL;
    return old == NULL ? taken(__real_realloc(old, size)) : __real_realloc(old, size);
}

void *__wrap_aligned_alloc(size_t align, size_t size)
{
    return fails() ? NULL : taken(__real_aligned_alloc(align, size));
}

char *__wrap_strdup(const char *text)
{
    return fails() ? NULL : taken(__real_strdup(text));
}

void __wrap_free(void *pointer)
{
    if (pointer != NULL && atomic_load(&counting))
        atomic_fetch_sub(&living, 1);
    __real_free(pointer);
}

void *__wrap_mmap(void *address, size_t size, int protection, int flags, int file, off_t offset)
{
    return fails() ? MAP_FAILED : __real_mmap(address, size, protection, flags, file, offset);
}

/* ---- What is done ---------------------------------------------------------------------------------------- */

enum { N_PROMPT = 40, N_NEW = 6 };

static char model_path[512], head_path[512];

static ot_status submit(ot_scheduler *s, ot_heads *heads, ot_request **out, ot_error *err)
{
    static const char *const stops[] = {"never to be found"};
    int32_t prompt[N_PROMPT];
    for (int i = 0; i < N_PROMPT; i++)
        prompt[i] = OT_TINY_FIRST_BYTE_TOKEN + (i * 7) % 100;
    ot_request_params p = {.prompt = prompt, .n_prompt = N_PROMPT, .n_choices = 2, .max_tokens = N_NEW, .ignore_eos = true, .n_stops = 1,
                           .stops = stops, .logprobs = true, .top_logprobs = 2, .prompt_logprobs = true,
                           .sampling = {.temperature = 1, .top_p = 0.9f, .repetition_penalty = 1.1f, .seed = 3}};
    ot_intervention *v = &p.intervention;
    ot_status st = ot_heads_find(heads, "mood", &v->signals[0].head, &v->signals[0].output, err);
    if (st != OT_OK)
        return st;
    strcpy(v->signals[0].name, "mood");
    v->signals[0].weight = -1;
    v->n_signals = 1;
    v->reward = true;
    v->candidates = 3;
    v->drafting = (ot_drafting){.lookup = true, .max_draft = 2, .fixed = true};
    st = ot_scheduler_submit(s, &p, 1, out, err);
    if (st != OT_OK)
        ot_intervention_release(v);
    return st;
}

/* Reads to the end; the request's own error is the answer's. */
static ot_status finish(ot_scheduler *s, ot_request *r, ot_error *err)
{
    static ot_token_out tokens[N_NEW];
    while (!ot_request_done(r)) {
        while (ot_scheduler_poll(s) != NULL)
            for (uint32_t i = 0; i < 2; i++)
                while (ot_request_read(r, i, tokens, N_NEW) > 0)
                    ;
        ot_scheduler_wait(s, 100);
    }
    if (ot_request_finish(r, 0) != OT_FINISH_ERROR)
        return OT_OK;
    *err = *ot_request_error(r);
    return err->code;
}

static ot_status work(ot_error *err)
{
    ot_model *model = NULL;
    ot_heads *heads = NULL;
    ot_scheduler *s = NULL;
    ot_request *r = NULL;
    const ot_insertion_options insertion = {.n_threads = 1};
    ot_scheduler_options options;
    ot_scheduler_options_default(&options);
    options.n_threads = 2;
    options.kv_memory_bytes = (size_t)2 << 20;
    options.max_batch_tokens = 64;
    options.max_sequences = 4;
    options.max_queue = 4;
    options.fixed_draft_costs = true;
    ot_status st = ot_model_open(&model, model_path, err);
    if (st == OT_OK)
        st = ot_heads_open(&heads, model, 4, err);
    if (st == OT_OK)
        st = ot_heads_load(heads, "mood", head_path, &insertion, err);
    if (st == OT_OK)
        st = ot_scheduler_open(&s, model, heads, &options, err);
    if (st == OT_OK)
        st = submit(s, heads, &r, err);
    if (st == OT_OK)
        st = finish(s, r, err);
    ot_request_release(&r);
    ot_scheduler_close(&s);
    ot_heads_close(&heads);
    ot_model_close(&model);
    return st;
}

/* ---- Cases ----------------------------------------------------------------------------------------------- */

static bool write_files(void)
{
    ot_error err = {0};
    ot_model *model = NULL;
    ot_tiny_model_options options = ot_tiny_model_defaults();
    options.n_layers = 1;
    ot_insertion_spec spec = ot_tiny_insertion_spec("mood", OT_HEAD_SCALAR, 16, 1);
    snprintf(model_path, sizeof model_path, "%s", ot_test_temp_path("base.gguf"));
    snprintf(head_path, sizeof head_path, "%s", ot_test_temp_path("mood.gguf"));
    bool good = CHECK_OK(ot_tiny_model_write(model_path, &options, &err), &err) && CHECK_OK(ot_model_open(&model, model_path, &err), &err) &&
                CHECK_OK(ot_tiny_insertion_write(head_path, model, &spec, NULL, OT_TYPE_F32, 7, &err), &err);
    ot_model_close(&model);
    return good;
}

static long run_with(long n, ot_status *st, ot_error *err)
{
    *err = (ot_error){0};
    atomic_store(&fails_at, n);
    atomic_store(&asked, 0);
    atomic_store(&living, 0);
    atomic_store(&counting, true);
    *st = work(err);
    atomic_store(&counting, false);
    return atomic_load(&asked);
}

static void fails_in_words_at_every_allocation(void)
{
    ot_error err;
    ot_status st;
    REQUIRE(write_files());
    long n_asked = run_with(0, &st, &err), n_failed = 0;
    REQUIRE_OK(st, &err);
    CHECK_INT(atomic_load(&living), 0);
    CHECK(n_asked > 50);
    for (long n = 1; n <= n_asked; n++) {
        ot_test_context("allocation %ld of about %ld", n, n_asked);
        run_with(n, &st, &err);
        CHECK_INT(atomic_load(&living), 0);
        n_failed += st != OT_OK;
        if (st != OT_OK) {
            CHECK_INT(err.code, st);
            CHECK(err.message[0] != '\0');
        }
    }
    ot_test_context(NULL);
    printf("    %ld allocations, of which %ld are needed\n", n_asked, n_failed);
    CHECK(n_failed > n_asked / 2);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(fails_in_words_at_every_allocation);
    return ot_test_finish();
}
