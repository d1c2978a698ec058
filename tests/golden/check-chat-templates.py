#!/usr/bin/env python3
"""Holds plain conversations in the public templates of many families against Jinja2, and the templates that are known by name against these.

    tests/golden/check-chat-templates.py [--binary build/tests/unit/test-chat-template]

Each family has one or more template texts below: the public one where it is short, else what is left of it without its tool branches (marked
"cut"). Every text is rendered by Jinja2, set up as the transformers library does it, and by the C code, for many conversations; the results must be
the same bytes, and what one refuses the other must. A family's template that the C code has by name (--chat-template) must be one of its texts.
check-jinja.py does the same for conversations with tools, thoughts and all that.
"""
import argparse
import datetime
import itertools
import os
import subprocess
import sys

try:
    import jinja2
    import jinja2.sandbox
except ImportError:
    print("skipped: the package jinja2 is not installed")
    sys.exit(77)

ALTERNATE = ("{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
             "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}")
CHATML = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
          "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def chatml_default(system):
    return ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
            "{{ '<|im_start|>system\\n" + system + "<|im_end|>\\n' }}{% endif %}"
            "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def mistral_v3(inst, assistant):  # cut
    return ('{%- if messages[0]["role"] == "system" %}\n    {%- set system_message = messages[0]["content"] %}\n'
            '    {%- set loop_messages = messages[1:] %}\n{%- else %}\n    {%- set loop_messages = messages %}\n{%- endif %}\n'
            '{%- set ns = namespace() %}\n{%- set ns.index = 0 %}\n{%- for message in loop_messages %}\n'
            '    {%- if not (message.role == "tool" or message.role == "tool_results") %}\n'
            '        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}\n'
            '            {{- raise_exception("roles must alternate") }}\n        {%- endif %}\n'
            '        {%- set ns.index = ns.index + 1 %}\n    {%- endif %}\n{%- endfor %}\n\n{{- bos_token }}\n'
            '{%- for message in loop_messages %}\n    {%- if message["role"] == "user" %}\n'
            '        {%- if loop.last and system_message is defined %}\n'
            '            {{- "' + inst + '" + system_message + "\\n\\n" + message["content"] + "[/INST]" }}\n'
            '        {%- else %}\n            {{- "' + inst + '" + message["content"] + "[/INST]" }}\n        {%- endif %}\n'
            '    {%- elif message["role"] == "assistant" %}\n        {{- ' + assistant + ' + eos_token}}\n    {%- else %}\n'
            '        {{- raise_exception("Only user and assistant roles are supported") }}\n    {%- endif %}\n{%- endfor %}\n')


def deepseek_system(joined):
    first = ("{%- if ns.is_first_sp %}{% set ns.system_prompt = ns.system_prompt + message['content'] %}"
             "{% set ns.is_first_sp = false %}{%- else %}"
             "{% set ns.system_prompt = ns.system_prompt + '\\n\\n' + message['content'] %}{%- endif %}")
    last = "{% set ns.system_prompt = message['content'] %}"
    return ("{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
            "{% set ns = namespace(is_first=false, system_prompt=''" + (", is_first_sp=true" if joined else "") + ") %}"
            "{%- for message in messages %}{%- if message['role'] == 'system' %}" + (first if joined else last) +
            "{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}")


def deepseek3(joined, thinks):  # cut
    content = "{% set content = message['content'] %}"
    if thinks:
        content += "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    return (deepseek_system(joined) + "{%- for message in messages %}{%- if message['role'] == 'user' %}"
            "{{'<｜User｜>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' %}" + content +
            "{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endfor -%}"
            "{% if add_generation_prompt %}{{'<｜Assistant｜>" + ("<think>\\n" if thinks else "") + "'}}{% endif %}")


def turns(system, user, assistant, rest):
    """Zephyr and its kind: one block a line, so that each expression is followed by a line break."""
    blocks = [("user", user), ("system", system), ("assistant", assistant)]
    text = "{% for message in messages %}\n"
    for i, (role, block) in enumerate((r, b) for r, b in blocks if b):
        text += "{%% %s message['role'] == '%s' %%}\n{{ %s }}\n" % ("elif" if i else "if", role, block)
    return text + "{% endif %}\n" + rest + "{% endfor %}"


LLAMA3_TURN = ("'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + "
               "'<|eot_id|>'")
LLAMA3 = ("{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = " + LLAMA3_TURN + " %}"
          "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}")
LLAMA3_PROMPT = "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
TULU = ("{% for message in messages %}{% if message['role'] == 'system' %}{{ '<|system|>\\n' + message['content'] + '\\n' }}"
        "{% elif message['role'] == 'user' %}{{ '<|user|>\\n' + message['content'] + '\\n' }}"
        "{% elif message['role'] == 'assistant' %}{% if not loop.last %}"
        "{{ '<|assistant|>\\n'  + message['content'] + eos_token + '\\n' }}{% else %}"
        "{{ '<|assistant|>\\n'  + message['content'] + eos_token }}{% endif %}{% endif %}"
        "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}")
PHI3_TURNS = ("{% elif message['role'] == 'user' %}{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}"
              "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}"
              "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}"
              "{% endif %}")
PHI3_OLD = ("{% for message in messages %}{% if (message['role'] == 'user') %}{{'<|user|>' + '\\n' + message['content'] + "
            "'<|end|>' + '\\n' + '<|assistant|>' + '\\n'}}{% elif (message['role'] == 'assistant') %}"
            "{{message['content'] + '<|end|>' + '\\n'}}{% endif %}{% endfor %}")
PHI3_ROLES = "{% for message in messages %}{{'<|' + message['role'] + '|>' + '\\n' + message['content'] + '<|end|>\\n' }}{% endfor %}"
COMMAND_R_TURN = "{{ '<|START_OF_TURN_TOKEN|><|%s_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}"

# (family, template text)
TEMPLATES = [
    ("chatml", CHATML),
    ("chatml", "{{ bos_token }}" + CHATML),
    ("chatml", CHATML.split("{% if add")[0]),
    ("chatml", CHATML.replace("message['content']", "message['content'] | trim")),
    ("chatml", chatml_default("You are a helpful AI assistant named SmolLM, trained by Hugging Face")),
    ("chatml", chatml_default("You are a helpful assistant.")),
    ("chatml", chatml_default("It\\'s \\\"quoted\\\".\\nTwo lines.")),
    ("chatml", chatml_default("x").replace("\\n", "\n")),
    ("chatml", chatml_default("x").replace("'", '"').replace('["role"]', ".role").replace('["content"]', ".content")),
    ("qwen2",  # cut
     "{%- if messages[0]['role'] == 'system' %}\n    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n"
     "{%- else %}\n    {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
     "<|im_end|>\\n' }}\n{%- endif %}\n{%- for message in messages %}\n"
     "    {%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) or "
     "(message.role == \"assistant\" and not message.tool_calls) %}\n"
     "        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n"
     "    {%- elif message.role == \"tool\" %}\n"
     "        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != \"tool\") %}\n"
     "            {{- '<|im_start|>user' }}\n        {%- endif %}\n        {{- '\\n<tool_response>\\n' }}\n"
     "        {{- message.content }}\n        {{- '\\n</tool_response>' }}\n"
     "        {%- if loop.last or (messages[loop.index0 + 1].role != \"tool\") %}\n            {{- '<|im_end|>\\n' }}\n"
     "        {%- endif %}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n"
     "    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n"),
    ("phi4",
     "{% for message in messages %}{% if (message['role'] == 'system') %}{{'<|im_start|>system<|im_sep|>' + message['content'] "
     "+ '<|im_end|>'}}{% elif (message['role'] == 'user') %}{{'<|im_start|>user<|im_sep|>' + message['content'] + "
     "'<|im_end|>'}}{% elif (message['role'] == 'assistant') %}{{'<|im_start|>assistant<|im_sep|>' + message['content'] + "
     "'<|im_end|>'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"),
    ("phi4-open",
     "{% for message in messages %}{% if (message['role'] == 'system') %}{{'<|im_start|>system<|im_sep|>' + message['content'] "
     "+ '<|im_end|>'}}{% elif (message['role'] == 'user') %}{{'<|im_start|>user<|im_sep|>' + message['content'] + "
     "'<|im_end|><|im_start|>assistant<|im_sep|>'}}{% elif (message['role'] == 'assistant') %}{{message['content'] + "
     "'<|im_end|>'}}{% endif %}{% endfor %}"),
    ("llama2",
     "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
     "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
     "{% set system_message = false %}{% endif %}{% for message in loop_messages %}" + ALTERNATE +
     "{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + "
     "'\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}"
     "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
     "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"),
    ("llama3", LLAMA3 + LLAMA3_PROMPT),
    ("llama3", LLAMA3 + "{% if add_generation_prompt %}" + LLAMA3_PROMPT + "{% endif %}"),
    ("llama3", (LLAMA3 + "{% if add_generation_prompt %}" + LLAMA3_PROMPT + "{% endif %}").replace(
        "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}", "")),
    ("llama3.1",  # cut
     "{{- bos_token }}\n{%- if not date_string is defined %}\n    {%- if strftime_now is defined %}\n"
     "        {%- set date_string = strftime_now(\"%d %b %Y\") %}\n    {%- else %}\n"
     "        {%- set date_string = \"26 Jul 2024\" %}\n    {%- endif %}\n{%- endif %}\n\n{#- The system message. #}\n"
     "{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content']|trim %}\n"
     "    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = \"\" %}\n{%- endif %}\n\n"
     "{{- \"<|start_header_id|>system<|end_header_id|>\\n\\n\" }}\n{{- \"Cutting Knowledge Date: December 2023\\n\" }}\n"
     "{{- \"Today Date: \" + date_string + \"\\n\\n\" }}\n{{- system_message }}\n{{- \"<|eot_id|>\" }}\n"
     "{%- for message in messages %}\n    {{- " + LLAMA3_TURN + " }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n"
     "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n"),
    ("mistral",
     "{{ bos_token }}{% for message in messages %}" + ALTERNATE + "{% if message['role'] == 'user' %}"
     "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
     "{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}"
     "{% endif %}{% endfor %}"),
    ("mistral-spaced",
     "{{ bos_token }}{% for message in messages %}" + ALTERNATE + "{% if message['role'] == 'user' %}"
     "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
     "{{ message['content'] + eos_token + ' ' }}{% else %}"
     "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"),
    ("mistral-v1",
     "{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content'] %}\n"
     "    {%- set loop_messages = messages[1:] %}\n{%- else %}\n    {%- set loop_messages = messages %}\n{%- endif %}\n\n"
     "{{- bos_token }}\n{%- for message in loop_messages %}\n"
     "    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\n        {{- raise_exception('alternate') }}\n"
     "    {%- endif %}\n    {%- if message['role'] == 'user' %}\n"
     "        {%- if loop.first and system_message is defined %}\n"
     "            {{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}\n        {%- else %}\n"
     "            {{- ' [INST] ' + message['content'] + ' [/INST]' }}\n        {%- endif %}\n"
     "    {%- elif message['role'] == 'assistant' %}\n        {{- ' ' + message['content'] + eos_token}}\n    {%- else %}\n"
     "        {{- raise_exception('Only user and assistant roles are supported') }}\n    {%- endif %}\n{%- endfor %}\n"),
    ("mistral-v3", mistral_v3("[INST] ", '" " + message["content"]|trim')),
    ("mistral-v3-tekken", mistral_v3("[INST]", 'message["content"]')),
    ("mistral-v3-tekken", mistral_v3("[INST]", 'message["content"]|trim')),
    ("mistral-v7",
     "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
     "{{ '[INST] ' + message['content'] + '[/INST]' }}{% elif message['role'] == 'system' %}"
     "{{ '[SYSTEM_PROMPT] ' + message['content'] + '[/SYSTEM_PROMPT]' }}{% elif message['role'] == 'assistant' %}"
     "{{ ' ' + message['content'] + eos_token }}{% else %}{{ raise_exception('Only user, system and assistant roles') }}"
     "{% endif %}{% endfor %}"),
    ("mistral-v7-tekken",
     "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
     "{{ '[INST]' + message['content'] + '[/INST]' }}{% elif message['role'] == 'system' %}"
     "{{ '[SYSTEM_PROMPT]' + message['content'] + '[/SYSTEM_PROMPT]' }}{% elif message['role'] == 'assistant' %}"
     "{{ message['content'] + eos_token }}{% else %}{{ raise_exception('Only user, system and assistant roles') }}"
     "{% endif %}{% endfor %}"),
    ("gemma",
     "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
     "{% for message in messages %}" + ALTERNATE + "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
     "{% else %}{% set role = message['role'] %}{% endif %}"
     "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
     "{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"),
    ("gemma3",  # cut
     "{{ bos_token }}\n{%- if messages[0]['role'] == 'system' -%}\n"
     "    {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}\n    {%- set loop_messages = messages[1:] -%}\n"
     "{%- else -%}\n    {%- set first_user_prefix = \"\" -%}\n    {%- set loop_messages = messages -%}\n{%- endif -%}\n"
     "{%- for message in loop_messages -%}\n    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}\n"
     "        {{ raise_exception(\"Conversation roles must alternate user/assistant/user/assistant/...\") }}\n"
     "    {%- endif -%}\n    {%- if (message['role'] == 'assistant') -%}\n        {%- set role = \"model\" -%}\n"
     "    {%- else -%}\n        {%- set role = message['role'] -%}\n    {%- endif -%}\n"
     "    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else \"\") }}\n"
     "    {%- if message['content'] is string -%}\n        {{ message['content'] | trim }}\n    {%- endif -%}\n"
     "    {{ '<end_of_turn>\n' }}\n{%- endfor -%}\n{%- if add_generation_prompt -%}\n    {{'<start_of_turn>model\n'}}\n"
     "{%- endif -%}\n"),
    ("phi3", "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\\n' + message['content'] + "
             "'<|end|>\\n'}}" + PHI3_TURNS),
    ("phi3", "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>\\n' + "
             "message['content'] + '<|end|>\\n'}}" + PHI3_TURNS),
    ("phi3", "{{ bos_token }}" + PHI3_ROLES + "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}"
             "{% endif %}"),
    ("phi3", PHI3_ROLES + "{% if add_generation_prompt and messages[-1]['role'] != 'assistant' %}{{- '<|assistant|>\\n' -}}"
             "{% endif %}"),
    ("phi3-medium", PHI3_OLD),
    ("phi3-medium", "{{ bos_token }}" + PHI3_OLD),
    ("phi4-mini",  # cut
     "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
     "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"),
    ("zephyr", turns("'<|system|>\\n' + message['content'] + eos_token", "'<|user|>\\n' + message['content'] + eos_token",
                     "'<|assistant|>\\n'  + message['content'] + eos_token",
                     "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n")),
    ("vicuna",
     "{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] | trim + '\\n\\n' %}"
     "{% set messages = messages[1:] %}{% else %}{% set system_message = '' %}{% endif %}{{ bos_token + system_message }}"
     "{% for message in messages %}" + ALTERNATE + "{% if message['role'] == 'user' %}"
     "{{ 'USER: ' + message['content'] | trim + '\\n' }}{% elif message['role'] == 'assistant' %}"
     "{{ 'ASSISTANT: ' + message['content'] | trim + eos_token + '\\n' }}{% endif %}{% endfor %}"
     "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"),
    ("vicuna-plain",
     "{%- for message in messages %}{%- if message['role'] == 'system' -%}{{- '' + message['content'] + '\n\n' -}}"
     "{%- else -%}{%- if message['role'] == 'user' -%}{{-'USER: ' + message['content'] + '\n'-}}{%- else -%}"
     "{{-'ASSISTANT: ' + message['content'] + '</s>\n' -}}{%- endif -%}{%- endif -%}{%- endfor -%}"
     "{%- if add_generation_prompt -%}{{-'ASSISTANT:'-}}{%- endif -%}"),
    ("vicuna-orca",
     "{%- for message in messages %}{%- if message['role'] == 'system' -%}{{-'SYSTEM: ' + message['content'] + '\n' -}}"
     "{%- else -%}{%- if message['role'] == 'user' -%}{{-'USER: ' + message['content'] + '\n'-}}{%- else -%}"
     "{{-'ASSISTANT: ' + message['content'] + '</s>\n' -}}{%- endif -%}{%- endif -%}{%- endfor -%}"
     "{%- if add_generation_prompt -%}{{-'ASSISTANT:'-}}{%- endif -%}"),
    ("deepseek",
     "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{{ bos_token }}"
     "{% for message in messages %}{% if message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\\n\\n' }}"
     "{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token }}"
     "{% elif message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}{% endif %}{% endfor %}"
     "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"),
    ("deepseek-coder",
     "{% if not add_generation_prompt is defined %}\n{% set add_generation_prompt = false %}\n{% endif %}\n"
     "{%- set ns = namespace(found=false) -%}\n{%- for message in messages -%}\n    {%- if message['role'] == 'system' -%}\n"
     "        {%- set ns.found = true -%}\n    {%- endif -%}\n{%- endfor -%}\n{{bos_token}}{%- if not ns.found -%}\n"
     "{{'You are an AI programming assistant, utilizing the Deepseek Coder model, developed by Deepseek Company, and you only "
     "answer questions related to computer science. For politically sensitive questions, security and privacy issues, and "
     "other non-computer science questions, you will refuse to answer\\n'}}\n{%- endif %}\n{%- for message in messages %}\n"
     "    {%- if message['role'] == 'system' %}\n{{ message['content'] }}\n    {%- else %}\n"
     "        {%- if message['role'] == 'user' %}\n{{'### Instruction:\\n' + message['content'] + '\\n'}}\n"
     "        {%- else %}\n{{'### Response:\\n' + message['content'] + '\\n<|EOT|>\\n'}}\n        {%- endif %}\n"
     "    {%- endif %}\n{%- endfor %}\n{% if add_generation_prompt %}\n{{'### Response:'}}\n{% endif %}"),
    ("deepseek3", deepseek3(False, False)),
    ("deepseek3", deepseek3(True, False)),
    ("deepseek3", deepseek3(True, True)),
    ("falcon3", TULU),
    ("olmo2", "{{ bos_token }}" + TULU),
    ("olmo", "{{ eos_token }}" + turns(None, "'<|user|>\\n' + message['content']",
                                       "'<|assistant|>\\n'  + message['content'] + eos_token",
                                       "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n")),
    ("olmo", "{{ eos_token }}" + turns("'<|system|>\\n' + message['content']", "'<|user|>\\n' + message['content']",
                                       "'<|assistant|>\\n'  + message['content'] + eos_token",
                                       "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n")),
    ("granite",  # cut
     "{%- for message in messages %}\n    {%- if message['role'] == 'system' %}\n"
     "    {{- '<|start_of_role|>system<|end_of_role|>' + message['content'] + '<|end_of_text|>\\n' }}\n"
     "    {%- elif message['role'] == 'user' %}\n"
     "    {{- '<|start_of_role|>user<|end_of_role|>' + message['content'] + '<|end_of_text|>\\n' }}\n"
     "    {%- elif message['role'] == 'assistant' %}\n"
     "    {{- '<|start_of_role|>assistant<|end_of_role|>'  + message['content'] + '<|end_of_text|>\\n' }}\n    {%- endif %}\n"
     "    {%- if loop.last and add_generation_prompt %}\n    {{- '<|start_of_role|>assistant<|end_of_role|>' }}\n"
     "    {%- endif %}\n{%- endfor %}"),
    ("command-r",
     "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
     "{% set system_message = messages[0]['content'] %}{% elif false == true %}{% set loop_messages = messages %}"
     "{% set system_message = 'You are Command-R.' %}{% else %}{% set loop_messages = messages %}"
     "{% set system_message = false %}{% endif %}{% if system_message != false %}"
     "{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + system_message + '<|END_OF_TURN_TOKEN|>' }}{% endif %}"
     "{% for message in loop_messages %}" + ALTERNATE + "{% set content = message['content'] %}"
     "{% if message['role'] == 'user' %}" + COMMAND_R_TURN % "USER" + "{% elif message['role'] == 'assistant' %}" +
     COMMAND_R_TURN % "CHATBOT" + "{% endif %}{% endfor %}{% if add_generation_prompt %}"
     "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"),
]

CONTENTS = {
    "system": ["Be brief.", "  spaced\n", "", "Two\n\nlines"],
    "user": ["Hello", "", "  spaced \u00a0\n", "\n\nbreaks\n", "it's \"quoted\" {{ braces }} <|im_end|>", "日本語 🦙\u2003"],
    "assistant": ["Hi there", "   I am an assistant   ", "", "<think>\nhm\n</think>\n\nYes.", "\u3000wide"],
    "tool": ["{\"t\": 72}", ""],
}
ORDERS = ["u", "su", "ua", "sua", "uau", "suau", "uaua", "suaua", "s", "us", "uas", "suasu", "a", "uu", "ssu", "uaa", "ut", "uat",
          "uatta", "sut"]
ROLES = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}


def conversations():
    for order in ORDERS:
        for shift in range(6):
            messages = []
            for i, letter in enumerate(order):
                role = ROLES[letter]
                messages.append({"role": role, "content": CONTENTS[role][(i + shift) % len(CONTENTS[role])]})
            yield messages


def raise_exception(message):
    raise jinja2.TemplateError(message)


def compile_template(text):
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                       extensions=["jinja2.ext.loopcontrols"])
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return env.from_string(text)


def render(template, messages, prompt):
    try:
        return template.render(messages=messages, bos_token="", eos_token="", add_generation_prompt=prompt, tools=None, documents=None)
    except (jinja2.TemplateError, TypeError):
        return None


def hexed(text):
    return text.encode().hex() or "-"


def ask(binary, requests):
    lines = []
    for text, messages, prompt, final in requests:
        words = [text if text.startswith("@") else hexed(text), str(int(prompt)), str(int(final))]
        for message in messages:
            words += [message["role"], hexed(message["content"])]
        lines.append(" ".join(words))
    done = subprocess.run([binary, "--render"], input="\n".join(lines) + "\n", capture_output=True, text=True, check=True)
    answers = done.stdout.split("\n")[:-1]
    if len(answers) != len(lines):
        raise SystemExit("%s gave %d answers to %d requests" % (binary, len(answers), len(lines)))
    for answer in answers:
        name, _, rest = answer.partition(" ")
        yield (name, None) if name == "!" else (name, bytes.fromhex(rest).decode())


def check_one(binary, source, text):
    """Cases, failures and refusals. `source` is what C is given: the text, or @NAME."""
    template = compile_template(text)
    cases = list(itertools.product(conversations(), (True, False)))
    n_failed = n_refused = 0
    for (messages, prompt), (_, got) in zip(cases, ask(binary, [(source, messages, prompt, False) for messages, prompt in cases])):
        want = render(template, messages, prompt)
        n_refused += want is None
        if (None if want is None else want) != got:
            n_failed += 1
            if n_failed <= 2:
                print("  prompt %s\n    messages %r\n    want %r\n    got  %r" % (prompt, messages, want, got))
    return len(cases), n_failed, n_refused


def check_continue(binary, text):
    """continue_final leaves off what follows the final content, and nothing else."""
    template = compile_template(text)
    mark = "FINAL CONTENT"
    cases = [[{"role": ROLES[c], "content": mark if i == len(order) - 1 else "x"} for i, c in enumerate(order)]
             for order in ("ua", "sua", "uaua")]
    n_failed = 0
    for messages, (_, got) in zip(cases, ask(binary, [(text, messages, True, True) for messages in cases])):
        want = render(template, messages, False)
        want = want and want[:want.rindex(mark) + len(mark)]
        if got != want:
            n_failed += 1
            print("  continued\n    want %r\n    got  %r" % (want, got))
    return n_failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", default=os.path.join(os.environ.get("BUILD", "build"), "tests/unit/test-chat-template"))
    options = parser.parse_args()
    if not os.path.exists(options.binary):
        print("skipped: %s is not built" % options.binary)
        return 77
    failed = 0
    by_name = {}
    for family, text in TEMPLATES:
        n_cases, n_failed, n_refused = check_one(options.binary, text, text)
        n_failed += check_continue(options.binary, text)
        by_name.setdefault(family, []).append(text)
        print("%-6s %-18s %d conversations, %d refused, %d failed" % ("FAILED" if n_failed else "ok", family, n_cases, n_refused, n_failed))
        failed += n_failed > 0
    conversation = [{"role": role, "content": role} for role in ("user", "assistant", "user")]
    for name in subprocess.run([options.binary, "--names"], capture_output=True, text=True, check=True).stdout.split():
        got = [text for _, text in ask(options.binary, [("@" + name, conversation, prompt, False) for prompt in (True, False)])]
        same = [text for text in by_name.get(name, []) if [render(compile_template(text), conversation, prompt) for prompt in (True, False)] == got]
        whole = bool(same) and check_one(options.binary, "@" + name, same[0])[1] == 0
        print("%-6s %-18s by name" % ("ok" if whole else "FAILED", name))
        failed += not whole
    print("%d templates, %d failed" % (len(TEMPLATES), failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
