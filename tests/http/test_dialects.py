#!/usr/bin/env python3
"""/v1/responses, /v1/messages and the render routes: the same answers as chat completions, in other shapes."""

import json
import sys

from api_support import expect_error
from server_process import Server, expect, expect_true, require_head, require_model, run_cases

CONVERSATION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello to an otter."}]
FIELDS = {"temperature": 0, "intervention": {"signals": ["toxicity"], "reward": {"heads": {"toxicity": -4}}}}


def chat(server, **fields):
    return server.post("/v1/chat/completions", {"messages": CONVERSATION, "max_tokens": 12, **FIELDS, **fields}).ok()


def events_of(server, path, body):
    answer = server.post(path, {**body, "stream": True})
    expect(answer.status, 200, path)
    events = []
    for block in answer.body.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        expect(name.removeprefix("event: "), event["type"])
        events.append(event)
    return events


def responses_answer_as_chat_does(server):
    asked = chat(server)
    choice = asked["choices"][0]
    body = {"instructions": "Be brief.", "input": "Say hello to an otter.", "max_output_tokens": 12, **FIELDS}
    whole = server.post("/v1/responses", body).ok()
    part = whole["output"][0]["content"][0]
    expect(part["text"], choice["message"]["content"])
    expect(part["signals"], choice["signals"])
    expect([whole["status"], whole["incomplete_details"]], ["incomplete", {"reason": "max_output_tokens"}])
    expect(whole["usage"]["input_tokens"], asked["usage"]["prompt_tokens"])
    expect(whole["usage"]["intervention"], asked["usage"]["intervention"])
    events = events_of(server, "/v1/responses", body)
    expect([e["sequence_number"] for e in events], list(range(len(events))))
    expect([events[0]["type"], events[-1]["type"]], ["response.created", "response.incomplete"])
    deltas = [e for e in events if e["type"] == "response.output_text.delta"]
    expect("".join(e["delta"] for e in deltas), part["text"])
    expect([score for e in deltas for score in e["signals"]["toxicity"]], part["signals"]["toxicity"])
    expect(events[-1]["response"]["output"][0]["content"][0]["text"], part["text"])


def responses_take_items(server):
    items = [{"role": "developer", "content": "Be brief."},
             {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Say hello"}, {"type": "input_text", "text": " to an otter."}]}]
    whole = server.post("/v1/responses", {"input": items, "max_output_tokens": 12, **FIELDS}).ok()
    expect(whole["output"][0]["content"][0]["text"], chat(server)["choices"][0]["message"]["content"])
    logprobs = server.post("/v1/responses", {"input": items, "max_output_tokens": 2, "include": ["message.output_text.logprobs"],
                                             "top_logprobs": 3}).ok()["output"][0]["content"][0]["logprobs"]
    expect([len(logprobs), len(logprobs[0]["top_logprobs"])], [2, 3])


def responses_refuse_by_their_own_names(server):
    ask = lambda **body: server.post("/v1/responses", {"input": "Hi", "max_output_tokens": 1, **body})  # noqa: E731
    expect_error(ask(max_output_tokens=-1), 400, "max_output_tokens", "invalid_value")
    expect_true("'max_output_tokens'" in ask(max_output_tokens=-1).json()["error"]["message"], "the message has the own name")
    expect_error(ask(input=None), 400, "input", "invalid_value")
    expect_error(ask(input=3), 400, "input", "invalid_value")
    expect_error(ask(input=[]), 400, "input", "invalid_value")
    expect_error(ask(input=[{"type": "item_reference", "id": "x"}]), 400, "input[0]", "unsupported")
    expect_error(ask(previous_response_id="resp_1"), 400, "previous_response_id", "unsupported")
    expect_error(ask(background=True), 400, "background", "unsupported")
    expect_error(ask(truncation="auto"), 400, "truncation", "unsupported")
    expect_error(ask(n=2), 400, "n", "unsupported")
    expect_error(ask(intervention={"signals": ["nobody"]}), 400, "intervention.signals", "invalid_value")
    expect(ask(store=True, metadata={"a": "b"}, reasoning={"effort": "low"}, prompt_cache_key="k").ok()["metadata"], {"a": "b"})
    expect(server.get("/v1/responses/resp_1").status, 404)


def messages_answer_as_chat_does(server):
    choice = chat(server)["choices"][0]
    body = {"system": [{"type": "text", "text": "Be brief."}], "messages": [{"role": "user", "content": "Say hello to an otter."}],
            "max_tokens": 12, **FIELDS}
    whole = server.post("/v1/messages", body).ok()
    expect(whole["content"], [{"type": "text", "text": choice["message"]["content"]}])
    expect([whole["signals"], whole["stop_reason"]], [choice["signals"], "max_tokens"])
    events = events_of(server, "/v1/messages", body)
    deltas = [e for e in events if e["type"] == "content_block_delta"]
    expect("".join(e["delta"]["text"] for e in deltas), choice["message"]["content"])
    expect([score for e in deltas for score in e["signals"]["toxicity"]], choice["signals"]["toxicity"])
    expect([e["type"] for e in events if e not in deltas], ["message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"])
    expect(events[-2]["usage"]["output_tokens"], 12)


def messages_tell_why_they_stopped(server):
    first = chat(server)["choices"][0]["message"]["content"].split()[2]
    body = {"system": "Be brief.", "messages": [{"role": "user", "content": "Say hello to an otter."}], "max_tokens": 12, **FIELDS}
    stopped = server.post("/v1/messages", {**body, "stop_sequences": [first]}).ok()
    expect([stopped["stop_reason"], stopped["stop_sequence"]], ["stop_sequence", first])
    expect(events_of(server, "/v1/messages", {**body, "stop_sequences": [first]})[-2]["delta"], {"stop_reason": "stop_sequence", "stop_sequence": first})
    guarded = server.post("/v1/messages", {**body, "intervention": {"guard": {"head": "toxicity", "above": 0.0001}}}).ok()
    expect(guarded["stop_reason"], "refusal")
    expect(guarded["guard"]["head"], "toxicity")


def messages_go_on_with_an_answer(server):
    begun = {"max_tokens": 3, "temperature": 0, "messages": [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "One, two,"}]}
    continued = server.post("/v1/chat/completions", {**begun, "continue_final_message": True}).ok()["choices"][0]["message"]["content"]
    expect(server.post("/v1/messages", begun).ok()["content"][0]["text"], continued)


def messages_refuse_by_place(server):
    ask = lambda content, **body: server.post("/v1/messages", {"messages": [{"role": "user", "content": content}], "max_tokens": 1, **body})  # noqa: E731
    expect_error(ask([{"type": "image", "source": {}}]), 400, "messages[0].content[0]", "unsupported")
    expect_error(ask(3), 400, "messages[0].content", "invalid_value")
    expect_error(ask("Hi", thinking={"type": "enabled", "budget_tokens": 1024}), 400, "thinking", "unsupported")
    expect_error(ask("Hi", stop_sequences=3), 400, "stop_sequences", "invalid_value")
    expect_error(server.post("/v1/messages", {"max_tokens": 1}), 400, "messages", "invalid_value")
    expect(ask("Hi", thinking={"type": "disabled"}, metadata={"user_id": "u"}).status, 200)


def what_would_run_is_what_runs(server):
    ran = chat(server, return_token_ids=True, max_tokens=1)["choices"][0]["prompt_token_ids"]
    expect(server.post("/v1/chat/completions/render", {"messages": CONVERSATION}).ok()["data"], [{"index": 0, "token_ids": ran, "count": len(ran)}])
    counted = server.post("/v1/messages/count_tokens", {"system": "Be brief.", "messages": CONVERSATION[1:]}).ok()
    expect(counted, {"input_tokens": len(ran)})
    texts = server.post("/v1/completions/render", {"prompt": ["Hello", "Hello world"]}).ok()["data"]
    expect([server.post("/detokenize", {"tokens": text["token_ids"]}).ok() for text in texts],
           [server.post("/detokenize", {"tokens": server.post("/tokenize", {"content": t}).ok()["tokens"]}).ok() for t in ("Hello", "Hello world")])


def main():
    require_model()
    with Server(*require_head()) as server:
        return run_cases([responses_answer_as_chat_does, responses_take_items, responses_refuse_by_their_own_names, messages_answer_as_chat_does,
                          messages_tell_why_they_stopped, messages_go_on_with_an_answer, messages_refuse_by_place, what_would_run_is_what_runs], server)


if __name__ == "__main__":
    sys.exit(main())
