#!/usr/bin/env python3
"""Holds the interpreter of chat templates against Jinja2, set up as the transformers library does it: the same bytes, or refused by both.

    tests/golden/check-jinja.py [--binary build/tests/unit/test-jinja] [FILE.jinja | FILE.gguf]...

Templates: those in chat-templates/ beside this file, real ones in $OTTER_TEST_DATA/chat-templates where that is there, and files given as
arguments. Each is rendered for conversations of every kind: plain, with thoughts, calls and results, parts, odd roles and orders, with and without
tools, documents and variables. Every byte that a message brought must also be marked as such.

test-timeout: 240
"""
import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys

try:
    import jinja2
    import jinja2.ext
    import jinja2.sandbox
except ImportError:
    print("skipped: the package jinja2 is not installed")
    sys.exit(77)

HERE = pathlib.Path(__file__).resolve().parent
DATA = pathlib.Path(os.environ.get("OTTER_TEST_DATA", HERE.parent.parent.parent / "shared/data")) / "chat-templates"
NOW = 1764331200


class Generation(jinja2.ext.Extension):
    """The tag `generation`, which in transformers marks what an assistant wrote: a block with a scope of its own."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_call"), [], [], body).set_lineno(line)

    def _call(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.TemplateError(message)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                       extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.datetime.fromtimestamp(NOW).strftime(form)
    return env


def talk(*turns):
    return [{"role": role, **(said if isinstance(said, dict) else {"content": said})} for role, said in turns]


CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": {
    "place": "Zürich <b>", "days": 2, "f": 1.5, "big": 1e20, "yes": True, "none": None, "list": [1, "x"], "object": {"k": "v"}}}}
NOW_CALL = {"id": "call_22", "type": "function", "function": {"name": "now", "arguments": {}}}
TEXT_CALL = {"id": "call_3", "type": "function", "function": {"name": "now", "arguments": "{\"zone\": \"UTC\"}"}}
RESULT = {"content": "{\"t\": 20}", "tool_call_id": "call_1", "name": "get_weather"}
CONVERSATIONS = [
    [], talk(("user", "Hi there")), talk(("user", "")), talk(("system", ""), ("user", "x")), talk(("system", "Be brief."), ("user", "Hi there")),
    talk(("user", "Hi"), ("assistant", "Hello!"), ("user", "2+2?")),
    talk(("system", "  Be brief. \n"), ("user", " \n Hi  \n"), ("assistant", " Hello! \u00a0"), ("user", "\tX\u3000")),
    talk(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!"), ("user", "2+2?"), ("assistant", "4"), ("user", "3+3?")),
    talk(("user", "a \"quoted\" \\n 'x' {{ y }} {% z %} é 🦙 <|im_end|> &amp;")),
    talk(("user", "Hi"), ("assistant", "<think>\nhm\n</think>\n\nHello!"), ("user", "2+2?")),
    talk(("user", "Hi"), ("assistant", {"content": "Hello!", "reasoning_content": "\nhm\n", "thinking": "t", "reasoning": "r"}), ("user", "more")),
    talk(("user", "Hi"), ("assistant", {"content": "Hello!", "reasoning_content": "hm"})),
    talk(("user", "Hi"), ("assistant", "Hello!")), talk(("system", "One."), ("system", "Two."), ("user", "Hi")),
    talk(("user", "a"), ("system", "late"), ("user", "b")), talk(("user", "a"), ("user", "b")), talk(("user", "a"), ("assistant", "b"), ("assistant", "c")),
    talk(("developer", "d"), ("user", "x")), talk(("user", "x"), ("narrator", "y"), ("user", "z")), talk(("assistant", "x"), ("user", "y")),
    talk(("user", "Weather?"), ("assistant", "calling"), ("tool", "{\"t\": 20}")),
    talk(("system", "sys"), ("user", "Weather?"), ("assistant", {"content": "", "tool_calls": [CALL]}), ("tool", RESULT)),
    talk(("user", "Weather?"), ("assistant", {"content": None, "tool_calls": [CALL]}), ("tool", RESULT), ("assistant", "20"), ("user", "thanks")),
    talk(("user", "Weather?"), ("assistant", {"content": "Let me see", "reasoning_content": "so", "tool_calls": [CALL, NOW_CALL]}), ("tool", RESULT),
         ("tool", {"content": "12:00", "tool_call_id": "call_22", "name": "now"})),
    talk(("user", "Now?"), ("assistant", {"content": "", "tool_calls": [TEXT_CALL]}), ("tool", {"content": "12:00", "tool_call_id": "call_3"})),
    talk(("system", [{"type": "text", "text": "sys"}]), ("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])),
    talk(("user", [{"type": "image"}, {"type": "text", "text": "b"}])),
]
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather of a <place> & \"more\"", "parameters": {
        "type": "object", "required": ["place"], "properties": {
            "place": {"type": "string", "description": "é where"}, "days": {"type": "integer", "default": 3, "minimum": 1},
            "unit": {"type": "string", "enum": ["c", "f"]}, "l": {"type": "array", "items": {"type": "number"}},
            "o": {"type": "object", "properties": {"a": {"type": ["string", "null"]}, "items": {"type": "array", "items": {"type": "string"}}}}}}}},
    {"type": "function", "function": {"name": "now", "description": "Time", "parameters": {"type": "object", "properties": {}}}}]
VARIABLES = [
    {"tools": None, "documents": None}, {"tools": TOOLS, "documents": None}, {},
    {"tools": TOOLS, "enable_thinking": False, "thinking": False, "reasoning_effort": "low", "preserve_thinking": True},
    {"enable_thinking": True, "thinking": True, "thinking_budget": 512, "reasoning_effort": "high"},
    {"documents": [{"title": "on otters", "text": "Otters are carnivorous mammals.", "doc_id": 1}, {"title": "A", "text": "b", "doc_id": 2}], "tools": None,
     "builtin_tools": ["browser", "python", "code_interpreter"], "model_identity": "me"},
]
TRUSTED = {"bos_token": "<s>", "eos_token": "</s>"}


class Ours:
    """The C side, one process for all."""

    def __init__(self, binary):
        self.process = subprocess.Popen([binary, "--render"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")

    def render(self, source, variables):
        request = {"template": source, "variables": variables, "trusted": TRUSTED, "now": NOW}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def contents_of(value):
    """Texts that a request brought and that must never count as the template's, if they are distinctive and a template leaves them whole."""
    if isinstance(value, str):
        return [value.strip()] if len(value.strip()) > 8 and "\n" not in value else []
    if isinstance(value, dict):
        value = [item for key, item in value.items() if key not in ("role", "type")]
    return [text for item in value for text in contents_of(item)] if isinstance(value, list) else []


def wrong_origin(answer, variables):
    """A text of the request within bytes that are marked as the template's, or None."""
    data = answer["text"].encode()
    for text in contents_of(variables.get("messages", [])):
        at, size = data.find(text.encode()), len(text.encode())
        if at >= 0 and any(origin == 1 and begin < at + size and at < end for begin, end, origin in answer["spans"]):
            return text
    return None


def check(ours, env, name, source):
    counts, shown = {"same": 0, "refused": 0, "failed": 0}, 0
    try:
        template = env.from_string(source)
    except jinja2.TemplateError as error:
        template, reason = None, error
    for messages in CONVERSATIONS:
        for variables in VARIABLES:
            for prompt in (True, False):
                values = {"messages": messages, "add_generation_prompt": prompt, **variables}
                try:
                    want = template.render(**values, **TRUSTED) if template else None
                except Exception as error:  # whatever Python raises is a refusal
                    want, reason = None, error
                answer = ours.render(source, values)
                got = answer.get("text")
                mixed = got is not None and wrong_origin(answer, values)
                if got == want and not mixed:
                    counts["same" if want is not None else "refused"] += 1
                    continue
                counts["failed"] += 1
                shown += 1
                if shown <= 2:
                    print(f"  {name}: {json.dumps(values)[:300]}\n    want {want if want is None else want[-400:]!r}\n    got  "
                          f"{answer.get('error') or (got or '')[-400:]!r}" + (f"\n    marked as the template's: {mixed!r}" if mixed else "")
                          + (f"\n    Jinja2 refuses: {reason}" if want is None else ""))
    print(f"{'FAILED' if counts['failed'] else 'ok':6} {name}: {counts['same']} the same, {counts['refused']} refused by both, {counts['failed']} failed")
    return counts["failed"]


def source_of(path):
    if path.suffix != ".gguf":
        return path.read_bytes().decode()
    import gguf
    return gguf.GGUFReader(str(path)).fields["tokenizer.chat_template"].contents()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", default=os.path.join(os.environ.get("BUILD", "build"), "tests/unit/test-jinja"))
    parser.add_argument("files", nargs="*", type=pathlib.Path)
    options = parser.parse_args()
    if not os.path.exists(options.binary):
        print(f"skipped: {options.binary} is not built")
        return 77
    files = options.files or [*sorted((HERE / "chat-templates").glob("*.jinja")), *(sorted(DATA.glob("*.jinja")) if DATA.is_dir() else [])]
    ours, env = Ours(options.binary), environment()
    failed = sum(check(ours, env, path.name, source_of(path)) > 0 for path in files)
    print(f"{len(files)} templates, {failed} failed" + ("" if options.files or DATA.is_dir() else f"; no real ones at {DATA}"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
