/* Chat templates: which family a template text belongs to, and what in it differs from the family's usual form. */
#include "text/chat-template-internal.h"
#include "text/tokenizer-internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Recognising ----------------------------------------------------------------------------------------- */

static bool matches(const ot_chat_family *f, const char *canonical)
{
    for (size_t i = 0; i < sizeof f->needs / sizeof f->needs[0] && f->needs[i] != NULL; i++)
        if (strstr(canonical, f->needs[i]) == NULL)
            return false;
    for (size_t i = 0; i < sizeof f->lacks / sizeof f->lacks[0] && f->lacks[i] != NULL; i++)
        if (strstr(canonical, f->lacks[i]) != NULL)
            return false;
    return true;
}

static bool is_family(const ot_chat_template *t, const char *name)
{
    return strcmp(t->family->name, name) == 0;
}

/* Where the template text says when the assistant's beginning is written. */
static void read_prompt(ot_chat_template *t, const char *canonical)
{
    if (strstr(canonical, "add_generation_prompt") == NULL) {
        bool always = strstr(canonical, "{%endfor%}{{'<|start_header_id|>assistant<|end_header_id|>\\n\\n'}}") != NULL;
        t->flags |= always ? OT_CHAT_PROMPT_ALWAYS : OT_CHAT_PROMPT_NEVER;
    }
    if (strstr(canonical, "add_generation_promptandmessages[-1].role!='assistant'") != NULL)
        t->flags |= OT_CHAT_PROMPT_NOT_TWICE;
    if (strstr(canonical, "{%else%}{{eos_token}}{%endif%}") != NULL)
        t->flags |= OT_CHAT_EOS_WITHOUT_PROMPT;
}

/* What the template text says beyond its family. */
static ot_status read_variant(ot_chat_template *t, const char *canonical, ot_error *err)
{
    if (t->flags & OT_CHAT_BOS_OPTIONAL)
        t->start = strstr(canonical, "bos_token") != NULL ? BOS : "";
    if ((t->flags & OT_CHAT_SYSTEM_OPTIONAL) && strstr(canonical, "'system'") == NULL)
        t->flags |= OT_CHAT_SYSTEM_REFUSED;
    if (strstr(canonical, "!=(loop.index0%2==0)") != NULL)
        t->flags |= OT_CHAT_ALTERNATE;
    if (strstr(canonical, "message.content|trim+eos_token") != NULL)
        t->flags |= OT_CHAT_TRIM_ASSISTANT;
    if (strstr(canonical, "message.role=='system'andmessage.content") != NULL)
        t->flags |= OT_CHAT_SKIP_EMPTY_SYSTEM;
    read_prompt(t, canonical);
    if (is_family(t, "deepseek3")) {
        if (strstr(canonical, "content.split('</think>')[-1]") != NULL)
            t->flags |= OT_CHAT_DROP_THOUGHT;
        if (strstr(canonical, "is_first_sp") == NULL)
            t->flags |= OT_CHAT_SYSTEM_LAST_WINS;
        if (strstr(canonical, "\xEF\xBD\x9C><think>\\n'}}") != NULL)
            t->prompt = "<\xEF\xBD\x9C" "Assistant\xEF\xBD\x9C><think>\n";
    }
    if (is_family(t, "chatml") || is_family(t, "qwen2")) {
        if (strstr(canonical, "content|trim") != NULL || strstr(canonical, "content.strip()") != NULL)
            t->flags |= OT_CHAT_TRIM;
        bool found;
        free(t->default_system);
        t->default_system = ot_jinja_literal_between(canonical, "<|im_start|>system\\n", "<|im_end|>", &found);
        if (found && t->default_system == NULL)
            return ot_fail(err, OT_ERR_NOMEM, "out of memory for the chat template");
    }
    return OT_OK;
}

static ot_status open_family(ot_chat_template **out, const ot_chat_family *f, ot_error *err)
{
    ot_chat_template *t = calloc(1, sizeof *t);
    if (t != NULL && f->default_system != NULL && (t->default_system = strdup(f->default_system)) == NULL) {
        free(t);
        t = NULL;
    }
    if (t == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for the chat template");
    t->family = f;
    t->flags = f->flags;
    t->start = f->start;
    t->prompt = f->prompt;
    *out = t;
    return OT_OK;
}

/* "chatml, qwen2, ..." */
static void list_names(char *dst, size_t size)
{
    size_t at = 0;
    dst[0] = '\0';
    for (const ot_chat_family *f = ot_chat_families; f->name != NULL && at < size; f++)
        at += (size_t)snprintf(dst + at, size - at, "%s%s", at == 0 ? "" : ", ", f->name);
}

static ot_status fail_unknown(ot_error *err, const char *what)
{
    char names[360];
    list_names(names, sizeof names);
    return ot_fail(err, OT_ERR_UNSUPPORTED, "%s; known are %s", what, names);
}

static ot_status check_known(const ot_chat_template *t, const char *canonical, ot_error *err)
{
    bool done;
    if (ot_chat_writes_only_known(t, canonical, &done))
        return OT_OK;
    if (!done)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for the chat template");
    char what[160];
    snprintf(what, sizeof what, "the chat template looks like %s but writes more than that", t->family->name);
    return fail_unknown(err, what);
}

ot_status ot_chat_template_detect(ot_chat_template **out, const char *jinja, size_t size, ot_error *err)
{
    *out = NULL;
    char *canonical = ot_jinja_canonical(jinja, size);
    if (canonical == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for a chat template of %zu bytes", size);
    const ot_chat_family *f = ot_chat_families;
    while (f->name != NULL && !matches(f, canonical))
        f++;
    ot_status status;
    if (f->name == NULL)
        status = fail_unknown(err, "the chat template is none of the known families");
    else if ((status = open_family(out, f, err)) == OT_OK)
        status = read_variant(*out, canonical, err);
    if (status == OT_OK)
        status = check_known(*out, canonical, err);
    if (status != OT_OK)
        ot_chat_template_close(out);
    free(canonical);
    return status;
}

ot_status ot_chat_template_named(ot_chat_template **out, const char *name, ot_error *err)
{
    *out = NULL;
    for (const ot_chat_family *f = ot_chat_families; f->name != NULL; f++)
        if (strcmp(f->name, name) == 0)
            return open_family(out, f, err);
    return fail_unknown(err, "no chat template has this name");
}

void ot_chat_template_close(ot_chat_template **tmpl)
{
    if (*tmpl == NULL)
        return;
    free((*tmpl)->default_system);
    free(*tmpl);
    *tmpl = NULL;
}

const char *ot_chat_template_name(const ot_chat_template *tmpl)
{
    return tmpl->family->name;
}

const char *const *ot_chat_template_names(void)
{
    return ot_chat_family_names;
}

/* ---- Rendering ------------------------------------------------------------------------------------------- */

ot_status ot_chat_template_render(const ot_chat_template *tmpl, const ot_chat_message *messages, size_t n,
                                  bool add_generation_prompt, bool continue_final, char **out, size_t *size, ot_error *err)
{
    *out = NULL;
    *size = 0;
    ot_chat_text text = {.bos = {tmpl->family->bos, strlen(tmpl->family->bos)},
                         .eos = {tmpl->family->eos, strlen(tmpl->family->eos)}};
    ot_status status = ot_chat_write(tmpl, messages, n, add_generation_prompt, continue_final, &text, err);
    if (status == OT_OK) {
        *out = text.text;
        *size = text.size;
        text.text = NULL;
    }
    ot_chat_text_free(&text);
    return status;
}

static ot_str token_text(const ot_tokenizer *tokenizer, int32_t token)
{
    ot_str none = {"", 0};
    return token < 0 ? none : ot_token_bytes(tokenizer, token);
}

ot_status ot_chat_template_tokenize(const ot_chat_template *tmpl, const ot_tokenizer *tokenizer,
                                    const ot_chat_message *messages, size_t n, bool add_generation_prompt,
                                    bool continue_final, int32_t **out, size_t *n_out, ot_error *err)
{
    *out = NULL;
    *n_out = 0;
    ot_chat_text text = {.bos = token_text(tokenizer, ot_tokenizer_bos(tokenizer)),
                         .eos = token_text(tokenizer, ot_tokenizer_eos(tokenizer))};
    ot_token_list list = {0};
    ot_status status = ot_chat_write(tmpl, messages, n, add_generation_prompt, continue_final, &text, err);
    if (status == OT_OK)
        status = ot_tokenize_ranges(tokenizer, text.text, text.size, text.marks, text.n_marks, &list, err);
    if (status == OT_OK && list.ids == NULL && (list.ids = malloc(sizeof *list.ids)) == NULL)
        status = ot_fail(err, OT_ERR_NOMEM, "out of memory while tokenizing %zu messages", n);
    ot_chat_text_free(&text);
    if (status != OT_OK) {
        free(list.ids);
        return status;
    }
    *out = list.ids;
    *n_out = list.n;
    return OT_OK;
}
