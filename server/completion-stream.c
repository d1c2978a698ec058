/* Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) of a completion.
 *
 * libmicrohttpd asks for more when the last piece has gone out, and only then are tokens taken from the scheduler's rings: a client
 * that reads slowly leaves its tokens there, its choices wait, and nobody else does. What is written at once is bounded by a
 * few chunks of OT_READ_TOKENS tokens.
 */
#include <string.h>

#include "server/completion.h"
#include "server/dialects/dialect.h"

enum { ENOUGH_BYTES = 16384 };

static void forget_tokens(ot_answer_choice *choice)
{
    choice->n_tokens = 0;
    ot_text_clear(&choice->text);
    ot_text_clear(&choice->thought);
}

/* Something to tell: text, numbers for a token without text (a part of a character), the end, or the opening chunk. */
static bool has_news(const ot_completion *c, const ot_answer_choice *choice)
{
    bool numbers = choice->n_tokens && (c->params.logprobs || c->n_signals || c->return_token_ids);
    return choice->text.size || choice->thought.size || numbers || ot_call_reader_has_news(&choice->calls) ||
           choice->finish != OT_FINISH_NONE || !choice->opened;
}

/* The chat role goes out ahead of the first token. An echo waits for it, as the prompt's log-probabilities do. */
static bool may_open(const ot_completion *c, const ot_answer_choice *choice)
{
    return choice->n_tokens || choice->finish != OT_FINISH_NONE || (c->chat && !c->n_signals && !c->params.logprobs);
}

/* The same in a dialect, whose last events hold the whole text again. */
static bool fill_dialect(ot_completion *c, ot_answer_choice *choice, ot_text *out)
{
    if (!choice->opened)
        c->dialect->begin(c, out);
    choice->opened = true;
    ot_text_append(&c->whole, choice->text.data ? choice->text.data : "", choice->text.size);
    if (choice->n_tokens) {
        c->last_token = choice->tokens[choice->n_tokens - 1];
        if (choice->text.size || c->params.logprobs || c->n_signals)
            c->dialect->chunk(c, out);
    }
    forget_tokens(choice);
    choice->closed = choice->finish != OT_FINISH_NONE;
    if (choice->closed)
        c->dialect->end(c, out);
    return !c->whole.failed;
}

/* Writes a chunk if there is news; false out of memory. *more: the ring may hold further tokens. */
static bool fill_choice(ot_completion *c, uint32_t index, ot_text *out, bool *more)
{
    ot_answer_choice *choice = &c->choices[index];
    size_t n;
    if (choice->closed)
        return true;
    if (!ot_completion_read(c, index, &n))
        return false;
    *more |= n == OT_READ_TOKENS;
    if (choice->finish == OT_FINISH_ERROR || choice->finish == OT_FINISH_CANCELLED)
        return true; /* told once for all choices */
    if (c->dialect)
        return fill_dialect(c, choice, out);
    if (has_news(c, choice) && (choice->opened || may_open(c, choice))) {
        ot_completion_format_chunk(c, index, !choice->opened, out);
        choice->opened = true;
        choice->closed = choice->finish != OT_FINISH_NONE;
    }
    forget_tokens(choice);
    return true;
}

static void put_event(ot_text *out, const ot_error *error)
{
    ot_text_puts(out, "data: ");
    ot_error_object(out, error);
    ot_text_puts(out, "\n\n");
}

static bool all_closed(const ot_completion *c)
{
    for (uint32_t i = 0; i < c->n_choices; i++)
        if (!c->choices[i].closed)
            return false;
    return true;
}

ot_fill ot_completion_fill(ot_exchange *x)
{
    static const ot_error no_memory = {.code = OT_ERR_NOMEM, .message = "the answer does not fit into memory"};
    ot_completion *c = x->job;
    if (c->done_sent)
        return OT_FILL_END;
    const ot_error *failure = NULL;
    bool more;
    do { /* again after many tokens without a text: nobody would call for the rest */
        more = false;
        for (uint32_t i = 0; i < c->n_choices && x->out.size < ENOUGH_BYTES && !failure; i++) {
            if (!fill_choice(c, c->next_choice, &x->out, &more))
                failure = &no_memory;
            c->next_choice = (c->next_choice + 1) % c->n_choices;
        }
    } while (more && x->out.size == 0 && !failure);
    if (!failure)
        failure = ot_completion_failure(c);
    if (failure && c->dialect)
        c->dialect->fail(c, failure, &x->out);
    else if (failure)
        put_event(&x->out, failure);
    else if (!all_closed(c))
        return x->out.size ? OT_FILL_MORE : OT_FILL_WAIT;
    else if (c->include_usage)
        ot_completion_format_usage_chunk(c, &x->out);
    if (!c->dialect)
        ot_text_puts(&x->out, "data: [DONE]\n\n");
    c->done_sent = true;
    return OT_FILL_END;
}
