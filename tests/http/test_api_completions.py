#!/usr/bin/env python3
"""POST /v1/completions by raw HTTP: shapes of prompts and answers, streams that say what whole answers say, log-probabilities,
signals and steering, and every bad field refused by name.

test-timeout: 300
"""

import json
import sys

from api_support import expect_error, head_flags, make_heads
from server_process import Failed, Server, expect, expect_true, in_parallel, require_model, run_cases

PROMPT = "The capital of France is"


def tokenize(server, text):
    return server.post("/tokenize", {"content": text}).ok()["tokens"]


def choice_of(server, prompt=PROMPT, **fields):
    return server.complete(prompt, **fields)["choices"][0]


# ---- Shapes ------------------------------------------------------------------------------------------------

def has_openais_shape(server):
    answer = server.complete(PROMPT, max_tokens=3)
    expect(answer["object"], "text_completion")
    expect_true(answer["id"].startswith("cmpl-"), answer["id"])
    expect(answer["model"], server.model_id())
    choice = answer["choices"][0]
    expect(sorted(choice), ["finish_reason", "index", "logprobs", "text"])
    expect(choice["finish_reason"], "length")
    expect(choice["logprobs"], None)
    expect(answer["usage"]["prompt_tokens"], len(tokenize(server, PROMPT)))
    expect(answer["usage"]["completion_tokens"], 3)
    expect(answer["usage"]["total_tokens"], answer["usage"]["prompt_tokens"] + 3)
    expect_true("intervention" not in answer["usage"], "usage.intervention without an intervention")


def takes_all_shapes_of_prompts(server):
    ids = tokenize(server, PROMPT)
    whole = choice_of(server)["text"]
    expect(choice_of(server, ids)["text"], whole, "token ids")
    for batch in ([PROMPT, "Once"], [ids, tokenize(server, "Once")]):
        choices = server.complete(batch)["choices"]
        expect([c["index"] for c in choices], [0, 1])
        expect(choices[0]["text"], whole)
        expect(choices[1]["text"], choice_of(server, "Once")["text"])
    expect_true(len(choice_of(server, "", max_tokens=4)["text"]) > 0, "an empty prompt starts a text")


def uses_defaults_like_openai(server):
    answer = server.post("/v1/completions", {"prompt": PROMPT, "ignore_eos": True}).ok()
    expect(answer["usage"]["completion_tokens"], 16)
    expect(server.post("/v1/completions", {"prompt": PROMPT, "max_tokens": None, "temperature": None, "stop": None, "n": None,
                                           "logprobs": None, "intervention": None, "unknown_field": {"a": [1]},
                                           "user": "me", "ignore_eos": True}).ok()["usage"]["completion_tokens"], 16)


def priority_changes_no_answer(server):
    plain = server.complete(PROMPT, max_tokens=12)["choices"][0]["text"]
    for priority in (-5, 0, 7, None):
        expect(server.complete(PROMPT, max_tokens=12, priority=priority)["choices"][0]["text"], plain)


def numbers_choices_by_prompt(server):
    fields = {"n": 3, "temperature": 1, "seed": 7, "max_tokens": 6}
    choices = server.complete([PROMPT, "Once upon a time"], **fields)["choices"]
    expect([c["index"] for c in choices], list(range(6)))
    expect([c["text"] for c in server.complete([PROMPT, "Once upon a time"], **fields)["choices"]],
           [c["text"] for c in choices], "the same seed")
    expect_true(len({c["text"] for c in choices[:3]}) > 1, "three choices are alike")
    answer = server.complete(PROMPT, n=2, best_of=2, max_tokens=2)
    expect(len(answer["choices"]), 2)


def echoes(server):
    choice = choice_of(server, echo=True, max_tokens=0, logprobs=0)
    ids = tokenize(server, PROMPT)
    expect(choice["text"], PROMPT)
    expect(choice["finish_reason"], "length")
    expect(len(choice["logprobs"]["tokens"]), len(ids))
    expect("".join(choice["logprobs"]["tokens"]), PROMPT)
    expect(choice["logprobs"]["token_logprobs"][0], None)
    expect(choice["logprobs"]["top_logprobs"][0], None)
    # With text after it: one string, and offsets that index it.
    choice = choice_of(server, echo=True, max_tokens=5, logprobs=2)
    expect_true(choice["text"].startswith(PROMPT) and len(choice["text"]) > len(PROMPT), choice["text"])
    for token, offset in zip(choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]):
        expect(choice["text"][offset:offset + len(token)], token)
    # Offsets count from the start of the prompt, echoed or not, whatever its form.
    for prompt in (PROMPT, tokenize(server, PROMPT)):
        expect(choice_of(server, prompt, max_tokens=5, logprobs=2)["logprobs"]["text_offset"],
               choice["logprobs"]["text_offset"][-5:])
        streamed = [offset for event in server.stream("/v1/completions", {"prompt": prompt, "max_tokens": 5, "temperature": 0, "logprobs": 2})
                    for part in event["choices"] for offset in (part["logprobs"] or {}).get("text_offset", [])]
        expect(streamed, choice["logprobs"]["text_offset"][-5:], "streamed")
    awkward = "Ünï \"q\" \\ \n\t\u20ac \U0001f9a6 end"
    for prompt in (awkward, tokenize(server, awkward)):
        expect(choice_of(server, prompt, echo=True, max_tokens=0)["text"], awkward)
        choice = choice_of(server, prompt, echo=True, max_tokens=3)
        expect_true(choice["text"].startswith(awkward), repr(choice["text"]))
        expect(choice["text"][len(awkward):], choice_of(server, prompt, max_tokens=3)["text"])


def reports_logprobs(server):
    logprobs = choice_of(server, logprobs=5, max_tokens=8)["logprobs"]
    expect({key: len(value) for key, value in logprobs.items()},
           {"tokens": 8, "token_logprobs": 8, "top_logprobs": 8, "text_offset": 8})
    for token, logprob, top in zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"]):
        expect_true(5 <= len(top) <= 6, top)
        expect(max(top.values()), logprob, "greedy takes the most probable")
        expect(top[token], logprob)
        expect(sorted(top.values(), reverse=True), list(top.values()), "order")
    ids = choice_of(server, logprobs=1, max_tokens=4, return_tokens_as_token_ids=True, return_token_ids=True)
    expect(ids["logprobs"]["tokens"], [f"token_id:{i}" for i in ids["token_ids"]])
    expect(ids["prompt_token_ids"], tokenize(server, PROMPT))
    # A cut character has a name of its own.
    otter = "\U0001f9a6"
    pieces = choice_of(server, otter, echo=True, logprobs=0, max_tokens=0)["logprobs"]["tokens"]
    expect_true(len(pieces) == 1 or all(p.startswith("bytes:\\x") for p in pieces), pieces)


def stops(server):
    text = choice_of(server, max_tokens=24)["text"]
    stop = text[5:9]
    for value in (stop, [stop], ["\u0000never"[1:], stop]):
        choice = choice_of(server, max_tokens=24, stop=value)
        expect(choice["text"], text[:text.index(stop)])
        expect(choice["finish_reason"], "stop")
    ids = choice_of(server, max_tokens=24, return_token_ids=True)["token_ids"]
    choice = choice_of(server, max_tokens=24, stop_token_ids=[ids[4]], return_token_ids=True)
    expect(choice["finish_reason"], "stop")
    expect(choice["token_ids"][:4], ids[:4])


# ---- Streams -----------------------------------------------------------------------------------------------

def join(events, n_choices=1):
    """A stream's chunks as whole choices, and the usage."""
    choices, usage = [{"text": "", "signals": {}, "token_ids": [], "tokens": []} for _ in range(n_choices)], None
    for event in events:
        usage = event.get("usage") or usage
        for part in event["choices"]:
            choice = choices[part["index"]]
            expect_true("finish_reason" not in choice or choice["finish_reason"] is None, "a chunk after the end")
            choice["text"] += part["text"]
            choice["finish_reason"] = part["finish_reason"]
            choice["token_ids"] += part.get("token_ids", [])
            choice["tokens"] += (part["logprobs"] or {}).get("tokens", [])
            for name, scores in part.get("signals", {}).items():
                choice["signals"].setdefault(name, []).extend(scores)
    return choices, usage


def streams_what_a_whole_answer_says(server):
    cases = [
        {"prompt": PROMPT, "max_tokens": 12, "temperature": 0},
        {"prompt": [PROMPT, "Once upon a time"], "n": 2, "max_tokens": 10, "seed": 5, "temperature": 0.9},
        {"prompt": PROMPT, "max_tokens": 12, "temperature": 0, "logprobs": 3, "return_token_ids": True},
        {"prompt": PROMPT, "max_tokens": 6, "temperature": 0, "echo": True, "logprobs": 1},
        {"prompt": PROMPT, "max_tokens": 24, "temperature": 0, "stop": ["is", "\n\n"]},
        {"prompt": "Write the otter emoji: \U0001f9a6\U0001f9a6\U0001f9a6", "max_tokens": 12, "temperature": 0, "ignore_eos": True,
         "return_token_ids": True},
        {"prompt": PROMPT, "max_tokens": 0, "echo": True},
        {"prompt": PROMPT, "max_tokens": 10, "temperature": 0,
         "intervention": {"signals": ["toxicity"], "reward": {"heads": {"toxicity": -4, "policy/insult": 1}, "candidates": 5}}},
    ]
    for fields in cases:
        whole = server.post("/v1/completions", fields).ok()
        options = {"stream_options": {"include_usage": True}}
        choices, usage = join(server.stream("/v1/completions", {**fields, **options}), len(whole["choices"]))
        details = {"prompt_tokens_details": None}  # the second one finds the first one's prefix
        expect({**usage, **details}, {**whole["usage"], **details}, "usage")
        for streamed, expected in zip(choices, whole["choices"]):
            expect(streamed["text"], expected["text"], str(fields))
            expect(streamed["finish_reason"], expected["finish_reason"])
            expect(streamed["signals"], expected.get("signals", {}))
            expect(streamed["token_ids"], expected.get("token_ids", []))
            expect(streamed["tokens"], (expected["logprobs"] or {}).get("tokens", []))


def streams_events_one_by_one(server):
    events = list(server.stream("/v1/completions", {"prompt": PROMPT, "max_tokens": 8, "ignore_eos": True}))
    expect_true(len(events) >= 4, f"{len(events)} events for 8 tokens")
    expect_true(all("usage" not in event for event in events), "usage that nobody asked for")
    expect(len({event["id"] for event in events}), 1)
    events = list(server.stream("/v1/completions", {"prompt": PROMPT, "max_tokens": 2, "stream_options": {"include_usage": True}}))
    expect([event["choices"] == [] for event in events][-2:], [False, True])
    expect([event["usage"] is None for event in events][-2:], [True, False])


# ---- Interventions -----------------------------------------------------------------------------------------

def reports_signals(server):
    choice = choice_of(server, max_tokens=6, intervention={"signals": ["toxicity", "policy/insult", "policy"]})
    expect(sorted(choice["signals"]), ["policy", "policy/insult", "toxicity"])
    expect({len(scores) for scores in choice["signals"].values()}, {6})
    expect_true(all(0 <= s <= 1 for scores in choice["signals"].values() for s in scores), choice["signals"])
    expect(choice["text"], choice_of(server, max_tokens=6)["text"], "signals change nothing")
    expect_true("signals" not in choice_of(server, intervention={}), "signals without any")


def steers(server):
    plain = server.complete(PROMPT, max_tokens=12)
    fields = {"reward": {"heads": {"toxicity": 50}, "candidates": 8}}
    up = server.complete(PROMPT, max_tokens=12, intervention=fields)
    expect(up["usage"]["intervention"]["candidates_scored"] > 0, True)
    expect_true(up["usage"]["intervention"]["changed_tokens"] > 0, "nothing changed")
    expect_true(up["choices"][0]["text"] != plain["choices"][0]["text"], "the same text")
    down = server.complete(PROMPT, max_tokens=12, intervention={"reward": {"heads": {"toxicity": -50}, "candidates": 8}})

    def mean(answer):
        scores = answer["choices"][0]["signals"]["toxicity"]
        return sum(scores) / len(scores)

    expect_true(mean(down) < mean(up), f"{mean(down)} against {mean(up)}")
    zero = server.complete(PROMPT, max_tokens=12, intervention={"reward": {"heads": {"toxicity": 0}}})
    expect(zero["choices"][0]["text"], plain["choices"][0]["text"], "weight 0")
    # null and false members are off, as if they were not there.
    off = choice_of(server, max_tokens=12, intervention={"reward": None, "guard": None, "signals": None, "experts": None,
                                                         "speculative": False})
    expect(off["text"], plain["choices"][0]["text"])


def guards(server):
    signals = choice_of(server, max_tokens=12, intervention={"signals": ["toxicity"]})["signals"]["toxicity"]
    limit = sorted(signals)[-1] - 1e-6
    at = next(i for i, score in enumerate(signals) if score > limit)
    guard = {"head": "toxicity", "above": limit, "action": "stop"}
    choice = choice_of(server, max_tokens=12, return_token_ids=True, intervention={"guard": guard})
    expect(choice["finish_reason"], "content_filter")
    expect(len(choice["token_ids"]), at, "tokens before the offending one")
    free = choice_of(server, max_tokens=12, logprobs=0, intervention={"signals": ["toxicity"]})
    refused = {"head": "toxicity", "score": signals[at], "token": free["logprobs"]["tokens"][at]}
    expect(choice["guard"], refused, "what was refused")
    events = list(server.stream("/v1/completions", {"prompt": PROMPT, "max_tokens": 12, "temperature": 0, "intervention": {"guard": guard}}))
    told = [part["guard"] for event in events for part in event["choices"] if "guard" in part]
    expect(told, [refused], "in a stream, with the end")
    expect_true("guard" not in choice_of(server, max_tokens=12, intervention={"guard": {**guard, "above": 0.999}}), "a guard that refused nothing")
    guard["action"] = "resample"
    choice = choice_of(server, max_tokens=12, intervention={"guard": guard})
    expect_true("toxicity" in choice["signals"], "a guard's head is reported")


def drafts_change_nothing_but_the_passes(server):
    prompt = "one, two, three, four. " * 6
    drafts = {"draft": "lookup", "max_draft": 6, "adaptive": False}  # busy neighbours would make it draft less
    accepted = server.metric("vllm:spec_decode_num_accepted_tokens_total")
    counted = 0
    for fields in ({}, {"temperature": 1, "seed": 5, "n": 3}, {"temperature": 0.4, "seed": 1, "frequency_penalty": 0.2, "stop": "five"}):
        fields = {"temperature": 0, "max_tokens": 40, "logprobs": 2, "return_token_ids": True, **fields}
        plain = server.complete(prompt, **fields)
        drafted = server.complete(prompt, intervention={"speculative": drafts}, **fields)
        expect(drafted["choices"], plain["choices"])
        expect(drafted["usage"]["completion_tokens"], plain["usage"]["completion_tokens"])
        counted += drafted["usage"]["completion_tokens_details"]["accepted_prediction_tokens"]
        expect(plain["usage"]["completion_tokens_details"], {"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0})
    expect_true(counted > 20, f"{counted} accepted")
    expect(server.metric("vllm:spec_decode_num_accepted_tokens_total"), accepted + counted)
    both = {"signals": ["toxicity"], "speculative": drafts}
    expect(choice_of(server, prompt, max_tokens=20, intervention=both),
           choice_of(server, prompt, max_tokens=20, intervention={"signals": ["toxicity"]}))


# ---- Refusals ----------------------------------------------------------------------------------------------

def refuses_by_name(server):
    bad = [
        ({}, "prompt"), ({"prompt": None}, "prompt"), ({"prompt": 5}, "prompt"), ({"prompt": {}}, "prompt"),
        ({"prompt": []}, "prompt"), ({"prompt": [[]]}, "prompt[0]"), ({"prompt": [{}]}, "prompt"),
        ({"prompt": ["a", 5]}, "prompt[1]"), ({"prompt": [[1], "a"]}, "prompt[1]"), ({"prompt": ["a", [1]]}, "prompt[1]"), ({"prompt": [1, "a"]}, "prompt[1]"), ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [10**6]}, "prompt[0]"), ({"prompt": [1.5]}, "prompt"), ({"prompt": ["x"] * 1000}, "prompt"),
        ({"prompt": [1] * 9000}, "prompt"), ({"prompt": "word " * 9000}, "prompt"), ({"prompt": [[1, True]]}, "prompt[0][1]"),
        ({"max_tokens": -1}, "max_tokens"), ({"max_tokens": "5"}, "max_tokens"), ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 2**40}, "max_tokens"), ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": []}, "max_completion_tokens"), ({"min_tokens": 99, "max_tokens": 5}, "min_tokens"),
        ({"temperature": -0.1}, "temperature"), ({"temperature": 2.1}, "temperature"), ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.1}, "top_p"), ({"top_p": -1}, "top_p"), ({"top_k": -2}, "top_k"), ({"top_k": 1.5}, "top_k"),
        ({"min_p": 2}, "min_p"), ({"presence_penalty": 3}, "presence_penalty"), ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"), ({"seed": "x"}, "seed"), ({"seed": 1.5}, "seed"),
        ({"priority": "high"}, "priority"), ({"priority": 2**31}, "priority"),
        ({"n": 0}, "n"), ({"n": 100000}, "n"), ({"n": "2"}, "n"), ({"best_of": 2}, "best_of"), ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"), ({"logprobs": -1}, "logprobs"), ({"echo": 1}, "echo"), ({"stream": "yes"}, "stream"),
        ({"stream_options": {}}, "stream_options"), ({"stream": True, "stream_options": []}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stop": 5}, "stop"), ({"stop": ""}, "stop"), ({"stop": ["a", 5]}, "stop[1]"), ({"stop": ["a"] * 17}, "stop"),
        ({"stop": "x" * 257}, "stop"), ({"stop": "a\u0000b"}, "stop"), ({"stop_token_ids": "x"}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"), ({"logit_bias": []}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x"), ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"5": 1, "05": 2}}, "logit_bias.05"), ({"seed": 2**64}, "seed"), ({"n_predict": -2}, "n_predict"),
        ({"n_predict": "x"}, "n_predict"), ({"max_new_tokens": 1.5}, "max_new_tokens"), ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"max_tokens": 5, "n_predict": 6}, "n_predict"), ({"max_token": 5}, "max_token"), ({"user": 5}, "user"),
        ({"mirostat": 2}, "mirostat"), ({"grammar_lazy": True}, "grammar_lazy"), ({"messages": [1]}, "messages"),
        ({"stream": True, "stream_options": {"continuous_usage_stats": True}}, "stream_options.continuous_usage_stats"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias.99999999"), ({"logit_bias": {"-1": 1}}, "logit_bias.-1"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"), ({"suffix": "end"}, "suffix"),
        ({"tools": [{}]}, "tools"), ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"guided_json": {"not": {}}}, "guided_json"), ({"use_beam_search": True}, "use_beam_search"),
        ({"model": 5}, "model"), ({"ignore_eos": 1}, "ignore_eos"), ({"return_token_ids": 1}, "return_token_ids"),
    ]
    for fields, param in bad:
        body = {**({} if "prompt" in fields or not fields else {"prompt": "x"}), **fields}
        try:
            expect_error(server.post("/v1/completions", body), 400, param)
        except Failed as failure:
            raise Failed(f"{json.dumps(fields)[:200]}: {failure}") from None
    expect_error(server.post("/v1/completions", {"prompt": "x", "model": "gpt-4"}), 404, "model", "model_not_found")
    error = expect_error(server.post("/v1/completions", {"prompt": [1] * 9000}), 400, "prompt", "context_length_exceeded")
    expect_true("8192" in error["message"], error["message"])
    expect_error(server.post("/v1/completions", {"prompt": ["x"] * 64, "n": 3}), 400, "n")
    expect_error(server.post("/v1/completions", {"prompt": "x", "n": 64, "max_tokens": 8000, "logprobs": 20}), 400, "logprobs")
    for harmless in ({"suffix": ""}, {"tools": []}, {"mirostat": 0, "mirostat_tau": 5, "typical_p": 1, "cache_prompt": True},
                     {"metadata": {"trace": 2**64}, "nobody_reads": 10**400}, {"response_format": {"type": "text"}}, {"tool_choice": "none"}):
        server.complete("x", max_tokens=1, **harmless)


def reads_control_tokens_of_a_text_prompt(server):
    """What /apply-template gives can be sent back; `parse_special` turns it off, and a message's text is never more than text."""
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    text = server.post("/apply-template", {"messages": messages}).ok()["prompt"]
    ids = server.post("/tokenize", {"messages": messages}).ok()["tokens"]
    chat = server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 12, "temperature": 0}).ok()["choices"][0]
    for fields in ({}, {"parse_special": True}, {"add_special_tokens": False}):
        choice = choice_of(server, text, max_tokens=12, return_token_ids=True, **fields)
        expect(choice["prompt_token_ids"], ids, str(fields))
        expect(choice["text"], chat["message"]["content"])
    letters = choice_of(server, text, parse_special=False, return_token_ids=True)["prompt_token_ids"]
    expect_true(len(letters) > len(ids), f"{len(letters)} tokens of letters")
    expect(letters, server.post("/tokenize", {"content": text}).ok()["tokens"])
    echoed = choice_of(server, text, max_tokens=2, echo=True, logprobs=0)
    for token, offset in zip(echoed["logprobs"]["tokens"], echoed["logprobs"]["text_offset"]):
        expect(echoed["text"][offset:offset + len(token)], token, "a control token counts as the letters that were sent")
    expect_error(server.post("/v1/chat/completions", {"messages": messages, "parse_special": True}), 400, "parse_special", "unsupported")
    expect_error(server.post("/v1/completions", {"prompt": "x", "parse_special": 1}), 400, "parse_special")


def takes_other_names(server):
    """What llama-server, SGLang and Ollama call what OpenAI's or vLLM's fields say."""
    expect(choice_of(server, n_predict=3, max_tokens=None, ignore_eos=True, return_token_ids=True),
           choice_of(server, max_tokens=3, ignore_eos=True, return_token_ids=True))
    expect(len(choice_of(server, max_new_tokens=5, max_tokens=None, ignore_eos=True, return_token_ids=True)["token_ids"]), 5)
    plain, penalised = (choice_of(server, "cat cat cat cat", max_tokens=12, **fields)
                        for fields in ({}, {"repetition_penalty": 1.9}))
    expect_true(plain["text"] != penalised["text"], "a penalty that changes nothing")
    expect(choice_of(server, "cat cat cat cat", max_tokens=12, repeat_penalty=1.9), penalised)
    text = choice_of(server, max_tokens=24, ignore_eos=True)["text"]
    unlimited = choice_of(server, max_tokens=None, n_predict=-1, ignore_eos=True, stop=text[-9:])
    expect((unlimited["finish_reason"], unlimited["text"]), ("stop", text[:text.index(text[-9:])]), "-1: as many as fit")
    body = b'{"prompt": "x", "max_tokens": 1, "metadata": {"trace": 18446744073709551615, "a\\u0000b": 1e400}}'
    expect(server.post("/v1/completions", body).status, 200)


def refuses_bad_interventions_by_name(server):
    reward, guard = {"heads": {"toxicity": 1}}, {"head": "toxicity", "above": 0.5}
    bad = [
        (5, "intervention"), ([], "intervention"), ({"rewards": reward}, "intervention.rewards"),
        ({"reward": 5}, "intervention.reward"), ({"reward": {}}, "intervention.reward.heads"),
        ({"reward": {"heads": {}}}, "intervention.reward.heads"), ({"reward": {"heads": ["toxicity"]}}, "intervention.reward.heads"),
        ({"reward": {"heads": {"nobody": 1}}}, "intervention.reward.heads.nobody"),
        ({"reward": {"heads": {"toxicity": "1"}}}, "intervention.reward.heads.toxicity"),
        ({"reward": {"heads": {"toxicity": None}}}, "intervention.reward.heads.toxicity"),
        ({"reward": {"heads": {"toxicity": 1e39}}}, "intervention.reward.heads.toxicity"),
        ({"reward": {"heads": {"policy/nobody": 1}}}, "intervention.reward.heads.policy/nobody"),
        ({"reward": {"heads": {"toxicity": -4, "toxicity/toxic": -4}}}, "intervention.reward.heads"),
        ({"guard": {**guard, "above": 1}}, "intervention.guard.above"), ({"guard": {**guard, "above": 1e9}}, "intervention.guard.above"),
        ({"reward": {**reward, "candidates": 0}}, "intervention.reward.candidates"),
        ({"reward": {**reward, "candidates": 65}}, "intervention.reward.candidates"),
        ({"reward": {**reward, "candidate": 5}}, "intervention.reward.candidate"),
        ({"reward": {**reward, "decay": 0}}, "intervention.reward.decay"), ({"reward": {**reward, "decay": 1.01}}, "intervention.reward.decay"),
        ({"reward": {**reward, "until": {}}}, "intervention.reward.until"), ({"reward": {**reward, "until": 5}}, "intervention.reward.until"),
        ({"reward": {**reward, "until": {"tokens": 0}}}, "intervention.reward.until.tokens"),
        ({"reward": {**reward, "until": {"score": "low"}}}, "intervention.reward.until.score"),
        ({"reward": {**reward, "until": {"text": "."}}}, "intervention.reward.until.text"),
        ({"guard": []}, "intervention.guard"), ({"guard": {"above": 1}}, "intervention.guard.head"),
        ({"guard": {"head": "toxicity"}}, "intervention.guard.above"),
        ({"guard": {**guard, "head": "nobody"}}, "intervention.guard.head"), ({"guard": {**guard, "head": 5}}, "intervention.guard.head"),
        ({"guard": {**guard, "above": "x"}}, "intervention.guard.above"),
        ({"guard": {**guard, "above": 1e300}}, "intervention.guard.above"),
        ({"guard": {**guard, "action": "explode"}}, "intervention.guard.action"),
        ({"guard": {**guard, "max_resamples": 0}}, "intervention.guard.max_resamples"),
        ({"guard": {**guard, "below": 0}}, "intervention.guard.below"),
        ({"signals": "toxicity"}, "intervention.signals"), ({"signals": [5]}, "intervention.signals"),
        ({"signals": ["nobody"]}, "intervention.signals"), ({"signals": ["x" * 300]}, "intervention.signals"),
        ({"experts": {"negative": "toxic"}}, "intervention.experts.negative"), ({"experts": True}, "intervention.experts"),
        ({"experts": {"negative": "toxicity"}}, "intervention.experts.negative"), ({"experts": {}}, "intervention.experts.negative"),
        ({"speculative": True}, "intervention.speculative"), ({"speculative": {}}, "intervention.speculative.draft"),
        ({"speculative": {"draft": "medusa"}}, "intervention.speculative.draft"),
        ({"speculative": {"draft": 5}}, "intervention.speculative.draft"),
        ({"speculative": {"draft": []}}, "intervention.speculative.draft"),
        ({"speculative": {"draft": ["lookup", 5]}}, "intervention.speculative.draft"),
        ({"speculative": {"draft": ["lookup", "toxicity"]}}, "intervention.speculative.draft"),
        ({"speculative": {"draft": "model"}}, "intervention.speculative.draft"),
        ({"speculative": {"draft": "lookup", "tree": 8}}, "intervention.speculative.tree"),
        ({"speculative": {"draft": "lookup", "tree": 49}}, "intervention.speculative.tree"),
        ({"speculative": {"draft": "lookup", "max_draft": 0}}, "intervention.speculative.max_draft"),
        ({"speculative": {"draft": "lookup", "max_draft": 17}}, "intervention.speculative.max_draft"),
        ({"speculative": {"draft": "lookup", "draft_max": 4}}, "intervention.speculative.draft_max"),
    ]
    for intervention, param in bad:
        try:
            expect_error(server.post("/v1/completions", {"prompt": "x", "intervention": intervention}), 400, param)
        except Failed as failure:
            raise Failed(f"{json.dumps(intervention)[:200]}: {failure}") from None
    # Nothing of all this held on to a head or a page.
    expect(server.metric("vllm:num_requests_running"), 0)
    expect(server.metric("vllm:num_requests_waiting"), 0)


def answers_many_alike(server):
    alone = server.complete(PROMPT, max_tokens=20)["choices"]
    together = in_parallel([lambda: server.complete(PROMPT, max_tokens=20)["choices"]] * 12)
    expect(together, [alone] * 12)


def main():
    require_model()
    heads = make_heads(toxicity=["--label", "toxic", "--init", "normal", "--seed", "5"], policy=["--label", "threat", "--label", "insult", "--init", "normal", "--seed", "3"])
    cases = [has_openais_shape, takes_all_shapes_of_prompts, uses_defaults_like_openai, numbers_choices_by_prompt, echoes,
             reports_logprobs, stops, streams_what_a_whole_answer_says, streams_events_one_by_one, reports_signals, steers, guards,
             drafts_change_nothing_but_the_passes, priority_changes_no_answer,
             refuses_by_name, takes_other_names, reads_control_tokens_of_a_text_prompt, refuses_bad_interventions_by_name, answers_many_alike]
    with Server(*head_flags(heads)) as server:
        return run_cases(cases, server)


if __name__ == "__main__":
    sys.exit(main())
