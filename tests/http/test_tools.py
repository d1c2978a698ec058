#!/usr/bin/env python3
"""Tools over HTTP: calls are made when they must be, arguments follow their schema, a stream tells the same calls piece by piece, histories with
calls and results are read, and the unmodified OpenAI client works in its default mode. What a call says is up to the model; that it is one is not.

test-timeout: 300
"""

import json
import sys

import jsonschema
import openai

from api_support import expect_error
from server_process import Server, expect, expect_true, in_parallel, require_model, run_cases

WEATHER = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["C", "F"]},
                                            "days": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 7}, "maxItems": 3}},
           "required": ["city", "unit", "days"], "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "The weather of a city.", "parameters": WEATHER}},
         {"type": "function", "function": {"name": "now"}}]
SCHEMAS = {"get_weather": WEATHER, "now": {"type": "object", "maxProperties": 0}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]
HISTORY = [*QUESTION, {"role": "assistant", "content": None, "tool_calls": [
    {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\": \"Paris\", \"unit\": \"C\", \"days\": []}"}}]},
    {"role": "tool", "tool_call_id": "call_1", "content": "19 degrees and sunny."}]


def chat(server, messages=QUESTION, **fields):
    return server.post("/v1/chat/completions", {"messages": messages, "tools": TOOLS, "max_tokens": 200, "temperature": 0, **fields}).ok()["choices"]


def check_calls(choice, least=1, most=16):
    calls = choice["message"].get("tool_calls", [])
    if choice["finish_reason"] == "length":
        return calls
    expect(choice["finish_reason"], "tool_calls")
    expect_true(least <= len(calls) <= most, f"{len(calls)} calls")
    for call in calls:
        expect(call["type"], "function")
        expect_true(call["id"].startswith("call_"), call["id"])
        jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMAS[call["function"]["name"]])
    expect(len({call["id"] for call in calls}), len(calls), "different ids")
    return calls


# ---- Cases -------------------------------------------------------------------------------------------------

def calls_are_made_when_they_must_be(server):
    for fields in ({"temperature": 0}, {"temperature": 1, "seed": 1, "n": 3}, {"temperature": 1.5, "seed": 2, "top_p": 0.9, "logprobs": True}):
        for choice in chat(server, tool_choice="required", parallel_tool_calls=False, **fields):
            check_calls(choice, most=1)
            expect(choice["message"]["content"], None)
        for choice in chat(server, tool_choice=NAMED, **fields):
            for call in check_calls(choice, most=1):
                expect(call["function"]["name"], "get_weather")
    several = chat(server, tool_choice="required", max_tokens=120)[0]
    expect_true(len(check_calls(several)) >= 1, "calls")


def auto_leaves_the_model_a_choice(server):
    choice = chat(server, max_tokens=30)[0]
    expect_true(choice["message"]["content"] or choice["message"]["tool_calls"], "a text or calls")
    # A model that goes on from the mark of a call has to finish it.
    told = [*QUESTION, {"role": "assistant", "content": "<tool_call>"}]
    text = chat(server, told, continue_final_message=True, tool_choice="none", max_tokens=4)[0]
    expect_true("tool_calls" not in text["message"], "none: no calls")
    expect_true("tool_calls" not in chat(server, tool_choice="none", max_tokens=8)[0]["message"], "none: no calls")


def a_stream_tells_the_same_calls(server):
    for fields in ({"tool_choice": NAMED}, {"tool_choice": "required", "max_tokens": 90}, {"max_tokens": 20}):
        whole = chat(server, **fields)[0]
        text, calls, finish = "", [], None
        for event in server.stream("/v1/chat/completions", {"messages": QUESTION, "tools": TOOLS, "max_tokens": 200, "temperature": 0, **fields}):
            choice = event["choices"][0]
            text += choice["delta"].get("content") or ""
            for piece in choice["delta"].get("tool_calls", []):
                if "id" in piece:
                    expect(piece["index"], len(calls), "calls in order")
                    calls.append({"name": piece["function"]["name"], "arguments": "", "pieces": 0})
                calls[piece["index"]]["arguments"] += piece["function"]["arguments"]
                calls[piece["index"]]["pieces"] += 1
            finish = choice["finish_reason"] or finish
        expect(finish, whole["finish_reason"])
        expect(text, whole["message"]["content"] or "")
        expect([(c["name"], c["arguments"]) for c in calls],
               [(c["function"]["name"], c["function"]["arguments"]) for c in whole["message"].get("tool_calls", [])])
        expect_true(not calls or calls[0]["pieces"] > 1, "arguments come in pieces")


def the_same_alone_and_among_others(server):
    def run(i):
        choice = chat(server, tool_choice=["required", NAMED, "auto"][i % 3], temperature=1, seed=i, max_tokens=60)[0]
        return choice["message"]["content"], [call["function"] for call in choice["message"].get("tool_calls", [])], choice["finish_reason"]
    alone = [run(i) for i in range(9)]
    expect(in_parallel([lambda i=i: run(i) for i in range(9)]), alone)


def histories_are_read(server):
    prompt = server.post("/apply-template", {"messages": HISTORY, "tools": TOOLS}).ok()["prompt"]
    for part in ('"name": "get_weather"', "<tool_call>", '"city": "Paris"', "<tool_response>\n19 degrees and sunny.\n</tool_response>"):
        expect_true(part in prompt, f"{part!r} in {prompt!r}")
    expect_true(chat(server, HISTORY, max_tokens=12)[0]["message"]["content"], "an answer")
    two = [*HISTORY[:2], HISTORY[2], {**HISTORY[2], "content": "And windy."}]
    prompt = server.post("/apply-template", {"messages": two}).ok()["prompt"]
    expect(prompt.count("<|im_start|>user"), 2, "results side by side are one message")


def a_schema_beside_tools(server):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}}}
    choice = chat(server, response_format=form)[0]
    if choice["message"].get("tool_calls"):
        check_calls(choice)
    else:
        expect_true(isinstance(json.loads(choice["message"]["content"])["ok"], bool), choice)


def the_openai_client_calls_tools(server):
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0, timeout=120)
    model = client.models.list().data[0].id
    answer = client.chat.completions.create(model=model, messages=QUESTION, tools=TOOLS, tool_choice="required", parallel_tool_calls=False,
                                            temperature=0, max_tokens=100)
    call = answer.choices[0].message.tool_calls[0]
    json.loads(call.function.arguments)
    messages = [*QUESTION, answer.choices[0].message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": "19"}]
    expect_true(client.chat.completions.create(model=model, messages=messages, tools=TOOLS, temperature=0, max_tokens=8).choices[0].message, "an answer")
    strict = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]
    with client.chat.completions.stream(model=model, messages=QUESTION, tools=strict, tool_choice=NAMED, temperature=0, max_tokens=100) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
    expect(len(done), 1)
    jsonschema.validate(done[0].parsed_arguments or json.loads(done[0].arguments), WEATHER)


def responses_and_messages_tell_calls(server):
    flat = [{"type": "function", "name": "get_weather", "parameters": WEATHER}]
    body = {"input": "What is the weather in Paris?", "tools": flat, "tool_choice": {"type": "function", "name": "get_weather"}, "temperature": 0,
            "max_output_tokens": 120}
    item = server.post("/v1/responses", body).ok()["output"][0]
    expect((item["type"], item["name"], item["status"]), ("function_call", "get_weather", "completed"))
    jsonschema.validate(json.loads(item["arguments"]), WEATHER)
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0, timeout=120)
    with client.responses.stream(model=server.model_id(), **{k: v for k, v in body.items()}) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    expect_true("response.function_call_arguments.done" in kinds, kinds)
    expect([i.arguments for i in final.output if i.type == "function_call"], [item["arguments"]])

    body = {"messages": QUESTION, "tools": [{"name": "get_weather", "input_schema": WEATHER}], "tool_choice": {"type": "tool", "name": "get_weather"},
            "temperature": 0, "max_tokens": 120}
    answer = server.post("/v1/messages", body).ok()
    expect(answer["stop_reason"], "tool_use")
    expect([block["type"] for block in answer["content"]], ["tool_use"])
    jsonschema.validate(answer["content"][0]["input"], WEATHER)


def what_cannot_be_done_is_refused(server):
    bad = [
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "object", "properties": {"x": {"not": {}}}}}}]}, "tools", "'not'"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0]", "a name"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice", "no tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice", "none of the tools"),
        ({"guided_regex": "a"}, "guided_regex", "beside 'tools'"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "messages[0].tool_calls", ""),
    ]
    for fields, param, part in bad:
        body = {"messages": QUESTION, "tools": TOOLS, "max_tokens": 4, **fields}
        error = expect_error(server.post("/v1/chat/completions", body), 400, param=param)
        expect_true(part in error["message"], f"{part!r} in {error['message']!r}")


def main():
    require_model()
    with Server() as server:
        return run_cases([calls_are_made_when_they_must_be, auto_leaves_the_model_a_choice, a_stream_tells_the_same_calls,
                          the_same_alone_and_among_others, histories_are_read, a_schema_beside_tools, the_openai_client_calls_tools, responses_and_messages_tell_calls,
                          what_cannot_be_done_is_refused], server)


if __name__ == "__main__":
    sys.exit(main())
