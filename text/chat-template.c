/* Templates and what is made with them: opening, the variables that a template sees, and the way from the rendered text to tokens. */
#include "text/chat-template-internal.h"
#include "text/tokenizer-internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILE_BYTES = 4 << 20 };

/* ---- Opening --------------------------------------------------------------------------------------------- */

static ot_status open_source(ot_chat_template **out, const char *name, const char *source, size_t size, ot_error *err)
{
    *out = NULL;
    ot_chat_template *t = calloc(1, sizeof *t);
    if (t == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for the chat template");
    snprintf(t->name, sizeof t->name, "%s", name);
    ot_error cause = {.message = ""};
    ot_status status = ot_jinja_parse(&t->jinja, source, size, &cause);
    if (status != OT_OK) {
        free(t);
        return ot_fail(err, status, "the chat template, %s", cause.message);
    }
    ot_chat_probe(t);
    *out = t;
    return OT_OK;
}

ot_status ot_chat_template_parse(ot_chat_template **out, const char *jinja, size_t size, ot_error *err)
{
    *out = NULL;
    if (size == 0)
        return ot_fail(err, OT_ERR_UNSUPPORTED, "the model's file has no chat template (--chat-template names one)");
    return open_source(out, "jinja", jinja, size, err);
}

ot_status ot_chat_template_named(ot_chat_template **out, const char *name, ot_error *err)
{
    char names[400] = "";
    *out = NULL;
    for (const ot_chat_named *t = ot_chat_named_templates; t->name != NULL; t++) {
        if (strcmp(t->name, name) == 0)
            return open_source(out, name, t->source, strlen(t->source), err);
        size_t at = strlen(names);
        snprintf(names + at, sizeof names - at, "%s%s", at == 0 ? "" : ", ", t->name);
    }
    return ot_fail(err, OT_ERR_UNSUPPORTED, "no chat template is called '%.40s'; known are %s", name, names);
}

static ot_status open_file(ot_chat_template **out, const char *path, ot_error *err)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return ot_fail(err, OT_ERR_IO, "%s: %s", path, strerror(errno));
    char *text = malloc(MAX_FILE_BYTES + 1);
    size_t size = text == NULL ? 0 : fread(text, 1, MAX_FILE_BYTES + 1, file);
    bool failed = ferror(file);
    fclose(file);
    ot_status status = text == NULL            ? ot_fail(err, OT_ERR_NOMEM, "%s: out of memory", path)
                       : failed                ? ot_fail(err, OT_ERR_IO, "%s: cannot be read", path)
                       : size > MAX_FILE_BYTES ? ot_fail(err, OT_ERR_UNSUPPORTED, "%s: larger than %d bytes", path, MAX_FILE_BYTES)
                                               : ot_chat_template_parse(out, text, size, err);
    free(text);
    return status;
}

ot_status ot_chat_template_open(ot_chat_template **out, const char *name_or_path, ot_error *err)
{
    *out = NULL;
    for (const ot_chat_named *t = ot_chat_named_templates; t->name != NULL; t++) /* llama3.1 is a name */
        if (strcmp(t->name, name_or_path) == 0)
            return ot_chat_template_named(out, name_or_path, err);
    return strpbrk(name_or_path, "/.") != NULL ? open_file(out, name_or_path, err) : ot_chat_template_named(out, name_or_path, err);
}

void ot_chat_template_close(ot_chat_template **tmpl)
{
    if (*tmpl == NULL)
        return;
    ot_jinja_close(&(*tmpl)->jinja);
    free(*tmpl);
    *tmpl = NULL;
}

const char *ot_chat_template_name(const ot_chat_template *tmpl)
{
    return tmpl->name;
}

const char *const *ot_chat_template_names(void)
{
    return ot_chat_named_names;
}

const ot_chat_traits *ot_chat_template_traits(const ot_chat_template *tmpl)
{
    return &tmpl->traits;
}

bool ot_chat_template_mentions(const ot_chat_template *tmpl, const char *name)
{
    return ot_jinja_mentions(tmpl->jinja, name);
}

/* ---- Input ----------------------------------------------------------------------------------------------- */

bool ot_chat_input_open(ot_chat_input *input)
{
    *input = (ot_chat_input){.memory = ot_jinja_memory_open(OT_CHAT_MAX_BYTES)};
    if (input->memory == NULL)
        return false;
    input->messages = ot_jinja_list(input->memory, OT_JINJA_CONTENT);
    input->tools = input->documents = input->kwargs = ot_jinja_none();
    return true;
}

void ot_chat_input_close(ot_chat_input *input)
{
    ot_jinja_memory_close(&input->memory);
}

/* Many templates write the role into a control token, <|user|>. That is a choice among a few words and no content. */
ot_jinja_value ot_chat_role(ot_jinja_memory *m, const char *role, size_t size)
{
    static const char *const common[] = {"system", "user", "assistant", "tool", "developer", "function", "ipython", "model", NULL};
    ot_jinja_origin origin = OT_JINJA_CONTENT;
    for (const char *const *at = common; *at != NULL; at++)
        if (strlen(*at) == size && memcmp(*at, role, size) == 0)
            origin = OT_JINJA_TEMPLATE;
    return ot_jinja_string(m, role, size, origin);
}

static void add_messages(ot_chat_input *input, const ot_chat_template *tmpl, const ot_chat_message *messages, size_t n)
{
    ot_jinja_memory *m = input->memory;
    for (size_t i = 0; i < n; i++) {
        ot_jinja_value message = ot_jinja_dict(m, OT_JINJA_CONTENT);
        const char *role = messages[i].role;
        if (strcmp(role, "developer") == 0 && !tmpl->traits.developer)
            role = "system";
        ot_jinja_put(m, message, "role", 4, ot_chat_role(m, role, strlen(role)));
        ot_jinja_put(m, message, "content", 7, ot_jinja_string(m, messages[i].content, strlen(messages[i].content), OT_JINJA_CONTENT));
        ot_jinja_append(m, input->messages, message);
    }
}

/* ---- Rendering ------------------------------------------------------------------------------------------- */

static void put(ot_jinja_memory *m, ot_jinja_value dict, const char *name, ot_jinja_value value)
{
    ot_jinja_put(m, dict, name, strlen(name), value);
}

ot_status ot_chat_run(const ot_chat_template *tmpl, const ot_chat_input *input, ot_str bos, ot_str eos, ot_jinja_text *out, ot_error *err)
{
    ot_jinja_memory *m = input->memory;
    ot_jinja_value variables = ot_jinja_dict(m, OT_JINJA_TEMPLATE);
    ot_jinja_limits limits = ot_jinja_limits_default();
    ot_error cause = {.message = ""};
    limits.now = input->now;
    /* A request's variables come first, so that it cannot have others in the place of these. */
    for (size_t i = 0; i < ot_jinja_count(input->kwargs); i++)
        ot_jinja_put_value(m, variables, ot_jinja_key_at(input->kwargs, i), ot_jinja_value_at(input->kwargs, i));
    put(m, variables, "bos_token", ot_jinja_string(m, bos.data, bos.size, OT_JINJA_TEMPLATE));
    put(m, variables, "eos_token", ot_jinja_string(m, eos.data, eos.size, OT_JINJA_TEMPLATE));
    put(m, variables, "messages", input->messages);
    put(m, variables, "tools", input->tools);
    put(m, variables, "documents", input->documents);
    put(m, variables, "add_generation_prompt", ot_jinja_bool(input->add_generation_prompt, OT_JINJA_TEMPLATE));
    ot_status status = ot_jinja_render(tmpl->jinja, m, variables, &limits, out, &cause);
    return status == OT_OK ? OT_OK : ot_fail_param(err, status, "messages", "the chat template, %s", cause.message);
}

/* The input with the content of the last message marked, or with other content instead. */
static ot_chat_input mark_final(const ot_chat_input *input, const char *instead)
{
    ot_jinja_memory *m = input->memory;
    size_t n = ot_jinja_count(input->messages);
    ot_chat_input marked = *input;
    marked.messages = ot_jinja_list(m, OT_JINJA_CONTENT);
    for (size_t i = 0; i + 1 < n; i++)
        ot_jinja_append(m, marked.messages, ot_jinja_value_at(input->messages, i));
    ot_jinja_value last = ot_jinja_value_at(input->messages, n - 1), copy = ot_jinja_dict(m, OT_JINJA_CONTENT);
    for (size_t i = 0; i < ot_jinja_count(last); i++)
        ot_jinja_put_value(m, copy, ot_jinja_key_at(last, i), ot_jinja_value_at(last, i));
    const ot_jinja_value *content = ot_jinja_get(last, "content");
    ot_str text = content == NULL ? (ot_str){"", 0} : ot_jinja_bytes(*content);
    put(m, copy, "content", instead != NULL ? ot_jinja_string(m, instead, strlen(instead), OT_JINJA_FINAL)
                                            : ot_jinja_string(m, text.data, text.size, OT_JINJA_FINAL));
    ot_jinja_append(m, marked.messages, copy);
    return marked;
}

/* Where the last byte with the mark ends; with `begin`, where the run that it ends begins. 0 and false: there is none. */
static bool find_final(const ot_jinja_text *text, bool begin, size_t *at)
{
    size_t end = text->size;
    while (end > 0 && text->origins[end - 1] != OT_JINJA_FINAL)
        end--;
    *at = end;
    while (begin && *at > 0 && text->origins[*at - 1] == OT_JINJA_FINAL)
        --*at;
    return end > 0;
}

static bool ends_with_assistant(const ot_chat_input *input)
{
    size_t n = ot_jinja_count(input->messages);
    const ot_jinja_value *role = n == 0 ? NULL : ot_jinja_get(ot_jinja_value_at(input->messages, n - 1), "role");
    ot_str text = role == NULL ? (ot_str){"", 0} : ot_jinja_bytes(*role);
    return text.size == 9 && memcmp(text.data, "assistant", 9) == 0;
}

/* Renders, and cuts behind the content of the last message where that is to be continued. Content that leaves nothing behind (empty, or
 * white space that is trimmed) is tried with a letter in its place, and cut before it. */
static ot_status run(const ot_chat_template *tmpl, const ot_tokenizer *tokenizer, const ot_chat_input *input, ot_jinja_text *out, ot_error *err)
{
    ot_str none = {"", 0}, bos = none, eos = none;
    if (tokenizer != NULL && ot_tokenizer_bos(tokenizer) >= 0)
        bos = ot_token_bytes(tokenizer, ot_tokenizer_bos(tokenizer));
    if (tokenizer != NULL && ot_tokenizer_eos(tokenizer) >= 0)
        eos = ot_token_bytes(tokenizer, ot_tokenizer_eos(tokenizer));
    if (!input->continue_final || !ends_with_assistant(input))
        return ot_chat_run(tmpl, input, bos, eos, out, err);
    for (int attempt = 0; attempt < 2; attempt++) {
        ot_chat_input marked = mark_final(input, attempt == 0 ? NULL : "x");
        size_t at;
        marked.add_generation_prompt = false;
        ot_status status = ot_chat_run(tmpl, &marked, bos, eos, out, err);
        if (status != OT_OK)
            return status;
        if (find_final(out, attempt > 0, &at)) {
            out->size = at;
            return OT_OK;
        }
    }
    return ot_fail_param(err, OT_ERR_INVALID, "messages", "the chat template leaves out the last message, which was to be continued");
}

ot_status ot_chat_render(const ot_chat_template *tmpl, const ot_tokenizer *tokenizer, const ot_chat_input *input, char **out, size_t *size,
                         ot_error *err)
{
    ot_jinja_text text;
    *out = NULL;
    *size = 0;
    ot_status status = run(tmpl, tokenizer, input, &text, err);
    if (status != OT_OK)
        return status;
    if ((*out = malloc(text.size + 1)) == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for a prompt of %zu bytes", text.size);
    memcpy(*out, text.data, text.size);
    (*out)[text.size] = '\0';
    *size = text.size;
    return OT_OK;
}

/* The ranges that the template wrote; malloc'ed, NULL if out of memory. */
static ot_text_range *template_ranges(const ot_jinja_text *text, size_t *n)
{
    size_t count = 0;
    for (size_t i = 0; i < text->size; i++)
        count += text->origins[i] == OT_JINJA_TEMPLATE && (i == 0 || text->origins[i - 1] != OT_JINJA_TEMPLATE);
    ot_text_range *ranges = malloc((count + 1) * sizeof *ranges);
    *n = 0;
    for (size_t i = 0, end; ranges != NULL && i < text->size; i = end) {
        for (end = i + 1; end < text->size && (text->origins[end] == OT_JINJA_TEMPLATE) == (text->origins[i] == OT_JINJA_TEMPLATE); end++)
            ;
        if (text->origins[i] == OT_JINJA_TEMPLATE)
            ranges[(*n)++] = (ot_text_range){i, end};
    }
    return ranges;
}

ot_status ot_chat_tokenize(const ot_chat_template *tmpl, const ot_tokenizer *tokenizer, const ot_chat_input *input, int32_t **out,
                           size_t *n_out, ot_error *err)
{
    ot_jinja_text text;
    ot_token_list list = {0};
    size_t n_ranges;
    *out = NULL;
    *n_out = 0;
    ot_status status = run(tmpl, tokenizer, input, &text, err);
    if (status != OT_OK)
        return status;
    ot_text_range *ranges = template_ranges(&text, &n_ranges);
    if (ranges == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory while tokenizing a prompt of %zu bytes", text.size);
    status = ot_tokenize_ranges(tokenizer, text.data, text.size, ranges, n_ranges, &list, err);
    free(ranges);
    if (status == OT_OK && list.ids == NULL && (list.ids = malloc(sizeof *list.ids)) == NULL)
        status = ot_fail(err, OT_ERR_NOMEM, "out of memory while tokenizing a prompt of %zu bytes", text.size);
    if (status != OT_OK) {
        free(list.ids);
        return status;
    }
    *out = list.ids;
    *n_out = list.n;
    return OT_OK;
}

/* ---- Plain conversations ----------------------------------------------------------------------------------- */

ot_status ot_chat_template_render(const ot_chat_template *tmpl, const ot_tokenizer *tokenizer, const ot_chat_message *messages, size_t n,
                                  bool add_generation_prompt, bool continue_final, char **out, size_t *size, ot_error *err)
{
    ot_chat_input input;
    *out = NULL;
    *size = 0;
    if (!ot_chat_input_open(&input))
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for %zu messages", n);
    add_messages(&input, tmpl, messages, n);
    input.add_generation_prompt = add_generation_prompt;
    input.continue_final = continue_final;
    ot_status status = ot_chat_render(tmpl, tokenizer, &input, out, size, err);
    ot_chat_input_close(&input);
    return status;
}

ot_status ot_chat_template_tokenize(const ot_chat_template *tmpl, const ot_tokenizer *tokenizer,
                                    const ot_chat_message *messages, size_t n, bool add_generation_prompt,
                                    bool continue_final, int32_t **out, size_t *n_out, ot_error *err)
{
    ot_chat_input input;
    *out = NULL;
    *n_out = 0;
    if (!ot_chat_input_open(&input))
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for %zu messages", n);
    add_messages(&input, tmpl, messages, n);
    input.add_generation_prompt = add_generation_prompt;
    input.continue_final = continue_final;
    ot_status status = ot_chat_tokenize(tmpl, tokenizer, &input, out, n_out, err);
    ot_chat_input_close(&input);
    return status;
}
