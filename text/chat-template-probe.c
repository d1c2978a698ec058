/* What a template does with tools, calls and thoughts, found out by rendering small conversations with it when it is opened: templates differ in
 * whether they want the arguments of a call as an object or as JSON text, and a wrong guess shows in the prompt, not as an error. */
#include "text/chat-template-internal.h"

#include <string.h>

static const char key[] = "probe_key", word[] = "probe_value", tool_name[] = "probe_tool";

static ot_jinja_value text(ot_jinja_memory *m, const char *s)
{
    return ot_jinja_string(m, s, strlen(s), OT_JINJA_CONTENT);
}

static void put(ot_jinja_memory *m, ot_jinja_value dict, const char *name, ot_jinja_value value)
{
    ot_jinja_put(m, dict, name, strlen(name), value);
}

static ot_jinja_value add_message(ot_chat_input *in, const char *role, const char *content)
{
    ot_jinja_value message = ot_jinja_dict(in->memory, OT_JINJA_CONTENT);
    put(in->memory, message, "role", ot_chat_role(in->memory, role, strlen(role)));
    put(in->memory, message, "content", text(in->memory, content));
    ot_jinja_append(in->memory, in->messages, message);
    return message;
}

static ot_jinja_value tools(ot_jinja_memory *m)
{
    ot_jinja_value list = ot_jinja_list(m, OT_JINJA_CONTENT), tool = ot_jinja_dict(m, OT_JINJA_CONTENT);
    ot_jinja_value function = ot_jinja_dict(m, OT_JINJA_CONTENT), parameters = ot_jinja_dict(m, OT_JINJA_CONTENT);
    put(m, parameters, "type", text(m, "object"));
    put(m, parameters, "properties", ot_jinja_dict(m, OT_JINJA_CONTENT));
    put(m, parameters, "required", ot_jinja_list(m, OT_JINJA_CONTENT));
    put(m, function, "name", text(m, tool_name));
    put(m, function, "description", text(m, "A tool."));
    put(m, function, "parameters", parameters);
    put(m, tool, "type", text(m, "function"));
    put(m, tool, "function", function);
    ot_jinja_append(m, list, tool);
    return list;
}

static ot_jinja_value calls(ot_jinja_memory *m, bool as_text)
{
    ot_jinja_value list = ot_jinja_list(m, OT_JINJA_CONTENT), call = ot_jinja_dict(m, OT_JINJA_CONTENT);
    ot_jinja_value function = ot_jinja_dict(m, OT_JINJA_CONTENT), arguments = ot_jinja_dict(m, OT_JINJA_CONTENT);
    put(m, arguments, key, text(m, word));
    put(m, function, "name", text(m, tool_name));
    put(m, function, "arguments", as_text ? text(m, "{\"probe_key\": \"probe_value\"}") : arguments);
    put(m, call, "id", text(m, "call00001"));
    put(m, call, "type", text(m, "function"));
    put(m, call, "function", function);
    ot_jinja_append(m, list, call);
    return list;
}

/* Whether the rendering succeeds and has the part in it. */
static bool shows(const ot_chat_template *t, ot_chat_input *in, const char *part, ot_jinja_text *out)
{
    ot_str bos = {"<bos>", 5}, eos = {"<eos>", 5};
    return ot_chat_run(t, in, bos, eos, out, NULL) == OT_OK && memmem(out->data, out->size, part, strlen(part)) != NULL;
}

typedef struct call_form {
    bool as_text, null_content, shown;
} call_form;

/* Whether a call shows in a conversation as it should: not as Python writes a dict, nor as JSON within JSON. */
static bool shows_call(const ot_chat_template *t, const call_form *form, bool *plain)
{
    ot_chat_input in;
    ot_jinja_text out;
    if (!ot_chat_input_open(&in))
        return false;
    add_message(&in, "user", "Question?");
    ot_jinja_value message = add_message(&in, "assistant", "");
    put(in.memory, message, "tool_calls", calls(in.memory, form->as_text));
    if (form->null_content)
        put(in.memory, message, "content", ot_jinja_none());
    bool found = shows(t, &in, word, &out);
    *plain = found && memmem(out.data, out.size, "{'probe_key'", 12) == NULL && memmem(out.data, out.size, "\\\"probe_key", 11) == NULL;
    ot_chat_input_close(&in);
    return found;
}

/* The first form in which a call shows plainly, else the first in which it shows at all. */
static call_form find_call_form(const ot_chat_template *t)
{
    call_form found = {false, false, false};
    for (int i = 0; i < 4; i++) {
        call_form form = {i >= 2, i % 2 == 1, true};
        bool plain;
        if (!shows_call(t, &form, &plain))
            continue;
        if (plain)
            return form;
        if (!found.shown)
            found = form;
    }
    return found;
}

static bool shows_tools(const ot_chat_template *t)
{
    ot_chat_input in;
    ot_jinja_text out;
    if (!ot_chat_input_open(&in))
        return false;
    add_message(&in, "user", "Question?");
    in.tools = tools(in.memory);
    in.add_generation_prompt = true;
    bool found = shows(t, &in, tool_name, &out);
    ot_chat_input_close(&in);
    return found;
}

/* Whether a prompt ends with an open <think>, white space aside. */
static bool opens_thought(const ot_chat_template *t)
{
    static const char open[] = "<think>";
    ot_chat_input in;
    ot_jinja_text out;
    if (!ot_chat_input_open(&in))
        return false;
    add_message(&in, "user", "Question?");
    in.add_generation_prompt = true;
    bool found = shows(t, &in, open, &out);
    while (found && out.size > 0 && strchr(" \n", out.data[out.size - 1]) != NULL)
        out.size--;
    found = found && out.size >= sizeof open - 1 && memcmp(out.data + out.size - (sizeof open - 1), open, sizeof open - 1) == 0;
    ot_chat_input_close(&in);
    return found;
}

void ot_chat_probe(ot_chat_template *t)
{
    call_form form = find_call_form(t);
    t->traits = (ot_chat_traits){.tools = shows_tools(t), .tool_calls = form.shown, .arguments_text = form.as_text,
                                 .null_content = form.null_content, .developer = ot_jinja_mentions(t->jinja, "developer"),
                                 .thinks = ot_jinja_writes(t->jinja, "</think>"), .prompt_thinks = opens_thought(t)};
}
