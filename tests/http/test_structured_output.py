#!/usr/bin/env python3
"""Structured output over HTTP: every answer follows its schema, expression or grammar, greedy or sampled, streamed, in batches, steered and with
drafts; it is the same to the bit alone and among others; the OpenAI client's own parsing works; what cannot be done is refused by name.

test-timeout: 600
"""

import json
import re
import sys

import jsonschema
import openai
import pydantic

from api_support import expect_error
from server_process import HEAD, Server, expect, expect_true, in_parallel, require_model, run_cases

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2, "maxLength": 20},
        "born": {"type": "string", "format": "date"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "height": {"type": "number", "exclusiveMinimum": 0, "maximum": 3},
        "mail": {"type": "string", "format": "email", "maxLength": 24},
        "tags": {"type": "array", "items": {"enum": ["kind", "old", "é\"\\"]}, "minItems": 1, "maxItems": 3},
        "boss": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/name"}]},
        "id": {"type": "string", "pattern": "^[A-F0-9]{4}-[a-z]+$", "maxLength": 10},
    },
    "required": ["name", "born", "age", "height", "mail", "tags", "boss", "id"],
    "additionalProperties": False,
    "$defs": {"name": {"type": "object", "properties": {"name": {"const": "Otto"}}, "required": ["name"], "additionalProperties": False}},
}
TREE = {"$ref": "#/$defs/tree", "$defs": {"tree": {
    "type": "object", "properties": {"leaf": {"type": "boolean"}, "below": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}},
    "required": ["leaf", "below"], "additionalProperties": False}}}
SUM = 'start: NUMBER ("+" NUMBER)* "=" NUMBER\nNUMBER: /[0-9]{1,3}/\n%ignore " "'
LIST = 'root ::= "[" item (", " item){2} "]"\nitem ::= [a-z]{3}'


def is_json(schema):
    def check(text):
        value = json.loads(text)
        jsonschema.validate(value, schema, format_checker=jsonschema.FormatChecker())
    return check


def matches(pattern):
    def check(text):
        expect_true(re.fullmatch(pattern, text), f"{text!r} does not match {pattern}")
    return check


# What is asked for, and what holds of the answer.
FORMS = {
    "person": ({"response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}}, is_json(PERSON)),
    "tree": ({"guided_json": TREE, "max_tokens": 300}, is_json(TREE)),
    "text of a schema": ({"guided_json": json.dumps({"type": "array", "items": {"type": "boolean"}, "maxItems": 4})},
                         is_json({"type": "array", "items": {"type": "boolean"}, "maxItems": 4})),
    "compact": ({"structured_outputs": {"json": PERSON, "disable_any_whitespace": True}}, is_json(PERSON)),
    "llama-server's schema": ({"json_schema": {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}}, matches(r'\{\s*"a":\s*null\s*\}')),
    "regex": ({"guided_regex": r"[A-Z][a-z]{2,8} is \d{1,3} years old\."}, matches(r"[A-Z][a-z]{2,8} is \d{1,3} years old\.")),
    "choice": ({"structured_outputs": {"choice": ["otter", "beaver", "ünïcödé"]}}, matches("otter|beaver|ünïcödé")),
    "gbnf": ({"grammar": LIST}, matches(r"\[[a-z]{3}(, [a-z]{3}){2}\]")),
    "lark": ({"guided_grammar": SUM, "stop_token_ids": []}, matches(r"[0-9 ]+(\+[0-9 ]+)*=[0-9 ]+")),
}


def ask(name, **fields):
    form, _ = FORMS[name]
    return {"messages": [{"role": "user", "content": "Tell me about Anna."}], "max_tokens": 250, "return_token_ids": True, **form, **fields}


def check(name, choice, may_be_cut=True):
    if choice["finish_reason"] == "stop":
        FORMS[name][1](choice["message"]["content"])
    else:
        expect_true(may_be_cut and choice["finish_reason"] == "length", f"{name}: {choice['finish_reason']}")


# ---- Cases -------------------------------------------------------------------------------------------------

def every_answer_follows_its_form(server):
    ended = 0
    for name in FORMS:
        for fields in ({"temperature": 0}, {"seed": 1, "n": 2, "top_p": 0.95, "logprobs": True}):
            answer = server.post("/v1/chat/completions", ask(name, **fields)).ok()
            for choice in answer["choices"]:
                check(name, choice)
                ended += choice["finish_reason"] == "stop"
    expect_true(ended >= 20, f"only {ended} of 27 answers came to their end")


def a_stream_is_the_same_text(server):
    whole = server.post("/v1/chat/completions", ask("person", temperature=0)).ok()["choices"][0]
    events = server.stream("/v1/chat/completions", ask("person", temperature=0, stream=True))
    text = "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])
    expect(text, whole["message"]["content"])


def alone_and_among_others(server):
    steered = {"intervention": {"reward": {"heads": {"toxicity": -3.0}, "candidates": 6}}}
    guarded = {"intervention": {"guard": {"head": "toxicity", "above": 0.5, "action": "resample"}}}
    drafted = {"intervention": {"speculative": {"draft": "lookup", "max_draft": 6}}}
    names = ["person", "regex", "gbnf", "lark"]
    requests = [ask(name, temperature=0.9, seed=i, max_tokens=80, logprobs=True, **more) for i, name in enumerate(names)
                for more in ({}, steered, guarded)]
    plain = [ask(name, temperature=0, max_tokens=80) for name in names]

    def run(body):
        return server.post("/v1/chat/completions", body).ok()["choices"][0]

    alone = [run(body) for body in requests + plain]
    together = in_parallel([lambda body=body: run(body) for body in requests + plain])
    for body, one, other in zip(requests + plain, alone, together):
        expect(other, one, f"{body}")
    for i, name in enumerate(names):
        for choice in alone[3 * i:3 * i + 2]:
            check(name, choice)
        if alone[3 * i + 2]["finish_reason"] != "content_filter":
            check(name, alone[3 * i + 2])
        expect(run({**plain[i], **drafted}), alone[len(requests) + i], "with drafts")


def a_batch_of_prompts(server):
    answer = server.post("/v1/completions", {"prompt": ["Anna", "Otto", "Hannah"], "n": 2, "seed": 4, "max_tokens": 60, "guided_regex": "(ab|ba){2,20}!"}).ok()
    expect(len(answer["choices"]), 6)
    for choice in answer["choices"]:
        expect_true(re.fullmatch("(ab|ba){2,20}!", choice["text"]), choice["text"])


def the_openai_client_parses(server):
    class Step(pydantic.BaseModel):
        explanation: str
        output: float

    class Reasoning(pydantic.BaseModel):
        steps: list[Step] = pydantic.Field(max_length=2)
        answer: int

    client = openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0, timeout=120)
    done = client.chat.completions.parse(model=client.models.list().data[0].id, messages=[{"role": "user", "content": "Solve 2x = 8."}],
                                         response_format=Reasoning, temperature=0, max_tokens=400)
    expect_true(isinstance(done.choices[0].message.parsed, Reasoning), f"parsed: {done.choices[0]}")


def a_grammar_is_compiled_once(server):
    before = server.metric("otter_grammars_total", result="compiled")
    found = server.metric("otter_grammars_total", result="found")
    body = {"prompt": "x", "max_tokens": 4, "guided_regex": "never-seen-before-[0-9]"}
    for _ in range(3):
        server.post("/v1/completions", body).ok()
    expect(server.metric("otter_grammars_total", result="compiled"), before + 1)
    expect(server.metric("otter_grammars_total", result="found"), found + 2)
    expect_true(server.metric("otter_constraint_masks_total") > 0, "masks are counted")


def what_cannot_be_done_is_refused(server):
    cases = [
        ({"guided_json": {"type": "array", "uniqueItems": True}}, "guided_json", "'uniqueItems' is not enforced"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "is required"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}}, "response_format", "'not'"),
        ({"guided_regex": "a(?=b)"}, "guided_regex", "looking around"),
        ({"guided_regex": 5}, "guided_regex", "must be a string"),
        ({"guided_choice": ["a", 1]}, "guided_choice", "entry 1 is an integer"),
        ({"guided_json": "{"}, "guided_json", "holds no JSON"),
        ({"grammar": "root ::= x"}, "grammar", "'x' is used but not defined"),
        ({"grammar": 'root ::= ([ab]* "a" [ab]{30})+ "c"'}, "grammar", "too complex"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag", "not supported"),
        ({"structured_outputs": {"regex": "a"}, "guided_regex": "b"}, "guided_regex", "two forms"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice", "only one can be followed"),
    ]
    for fields, param, part in cases:
        error = expect_error(server.post("/v1/completions", {"prompt": "x", "max_tokens": 2, **fields}), 400, param=param)
        expect_true(part in error["message"], f"{part!r} in {error['message']!r}")
    for nothing in ({"response_format": {"type": "text"}}, {"guided_json": None}, {"grammar": ""}, {"structured_outputs": {}}):
        server.post("/v1/completions", {"prompt": "x", "max_tokens": 2, **nothing}).ok()


def main():
    require_model()
    with Server("--head", f"toxicity={HEAD}") as server:
        return run_cases([every_answer_follows_its_form, a_stream_is_the_same_text, alone_and_among_others, a_batch_of_prompts,
                          the_openai_client_parses, a_grammar_is_compiled_once, what_cannot_be_done_is_refused], server)


if __name__ == "__main__":
    sys.exit(main())
