#!/usr/bin/env python3
"""/v1/score, /v1/moderations, /tokenize and /detokenize: scores are those that `signals` report while generating, to the last bit.

test-timeout: 200
"""

import re
import pathlib
import sys
import tempfile

from api_support import expect_error, head_flags, make_heads
from server_process import Failed, Server, combined, expect, expect_true, require_model, run_cases

TEXTS = ["You are a wonderful friend.", "An otter, \u00fcn\u00efcode and \U0001f9a6!", "No."]


def score(server, **fields):
    return server.post("/v1/score", fields).ok()


def tokenize(server, text):
    return server.post("/tokenize", {"content": text}).ok()["tokens"]


def scores_every_loaded_head(server):
    answer = score(server, input=TEXTS[0])
    expect(answer["object"], "list")
    expect(sorted(answer["data"][0]), ["index", "object", "scores"])
    expect(sorted(answer["data"][0]["scores"]), ["policy/insult", "policy/threat", "toxicity"])
    expect(answer["usage"]["prompt_tokens"], len(tokenize(server, TEXTS[0])))


def scores_batches_like_single_texts(server):
    batch = score(server, input=TEXTS, heads=["toxicity"], per_token=True)["data"]
    expect([entry["index"] for entry in batch], [0, 1, 2])
    ids = [tokenize(server, text) for text in TEXTS]
    expect(score(server, input=ids, heads=["toxicity"], per_token=True)["data"], batch, "token ids")
    for text, entry, tokens in zip(TEXTS, batch, ids):
        alone = score(server, input=text, heads=["toxicity"], per_token=True)["data"][0]
        expect({**alone, "index": entry["index"]}, entry)
        expect(len(entry["per_token"]["toxicity"]), len(tokens))
        expect(entry["per_token"]["toxicity"][-1], entry["scores"]["toxicity"])
        # A score judges the text up to its token: the same for any longer text.
        half = score(server, input=tokens[:len(tokens) // 2 + 1], heads=["toxicity"], per_token=True)["data"][0]
        expect(half["per_token"]["toxicity"], entry["per_token"]["toxicity"][:len(tokens) // 2 + 1])


def agrees_with_signals(server):
    heads = ["toxicity", "policy/insult"]
    for steering in ({}, {"reward": {"heads": {"toxicity": -6}, "candidates": 6}}):
        choice = server.complete(TEXTS[0], max_tokens=10, return_token_ids=True, intervention={"signals": heads, **steering})["choices"][0]
        per_token = score(server, input=choice["prompt_token_ids"] + choice["token_ids"], heads=heads, per_token=True)["data"][0]["per_token"]
        n = len(choice["prompt_token_ids"])
        for head in heads:
            expect(per_token[head][n:], choice["signals"][head], head)


def scores_conversations(server):
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Go away, you fool"}]
    answer = score(server, messages=messages, heads=["toxicity"], per_token=True)["data"][0]
    rendered = server.post("/apply-template", {"messages": messages, "continue_final_message": True}).ok()["prompt"]
    expect_true(rendered.endswith("fool"), rendered)
    ids = server.post("/tokenize", {"content": rendered, "parse_special": True}).ok()["tokens"]
    expect(answer["scores"], score(server, input=ids, heads=["toxicity"])["data"][0]["scores"])
    whole = score(server, messages=messages, heads=["toxicity"], per_token=True, continue_final_message=False)["data"][0]
    expect_true(len(whole["per_token"]["toxicity"]) > len(answer["per_token"]["toxicity"]), "the end mark")


def finds_prefixes_again(server):
    text = "A long text that fills more than one page of keys and values, so that its beginning can be found again. " * 3
    first = score(server, input=text, heads=["toxicity"], per_token=True)
    again = score(server, input=text, heads=["toxicity"], per_token=True)
    expect(again["data"], first["data"], "scores with a cached prefix")


def refuses_by_name(server):
    bad = [
        ({}, "input"), ({"input": 5}, "input"), ({"input": []}, "input"), ({"input": "x", "heads": "toxicity"}, "heads"),
        ({"input": "x", "heads": []}, "heads"), ({"input": "x", "heads": [5]}, "heads"), ({"input": "x", "heads": ["nobody"]}, "heads"),
        ({"input": "x", "per_token": "yes"}, "per_token"), ({"input": "x", "messages": [{"role": "user", "content": "x"}]}, "messages"),
        ({"messages": []}, "messages"), ({"input": [10**7]}, "input[0]"), ({"input": "word " * 9000}, "input"),
    ]
    for fields, param in bad:
        try:
            expect_error(server.post("/v1/score", fields), 400, param)
        except Failed as failure:
            raise Failed(f"{str(fields)[:200]}: {failure}") from None
    expect_error(server.post("/v1/score", {"input": "x", "model": "gpt-4"}), 404, "model", "model_not_found")


OPENAI_CATEGORIES = ["harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
                     "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic"]


def moderates(server):
    answer = server.post("/v1/moderations", {"input": TEXTS, "model": "omni-moderation-latest"}).ok()
    expect(len(answer["results"]), 3)
    scores = [entry["scores"]["toxicity"] for entry in score(server, input=TEXTS, heads=["toxicity"])["data"]]
    for result, value in zip(answer["results"], scores):
        expect(sorted(result), ["categories", "category_applied_input_types", "category_scores", "flagged"])
        expect(sorted(result["categories"]), sorted([*OPENAI_CATEGORIES, "toxicity"]))
        judged = {"toxicity": value, "harassment": value}
        expect(result["category_scores"], {**dict.fromkeys(OPENAI_CATEGORIES, 0), **judged})
        expect(result["categories"], {**dict.fromkeys(OPENAI_CATEGORIES, False), **dict.fromkeys(judged, value > 0.5)})
        expect(result["category_applied_input_types"], {**{name: [] for name in OPENAI_CATEGORIES}, **dict.fromkeys(judged, ["text"])})
        expect(result["flagged"], value > 0.5)
    expect_error(server.post("/v1/moderations", {}), 400, "input")


def moderates_content_parts(server):
    """One input, as one message would be."""
    parts = [{"type": "text", "text": TEXTS[0]}, {"type": "text", "text": TEXTS[1]}]
    results = server.post("/v1/moderations", {"input": parts}).ok()["results"]
    expect(results, server.post("/v1/moderations", {"input": TEXTS[0] + TEXTS[1]}).ok()["results"])
    for bad, param, code in (([{"type": "image_url", "image_url": {"url": "x"}}], "input[0].type", "unsupported"),
                             ([{"type": "text"}], "input[0].text", "invalid_value"), ([{"type": "text", "text": "a"}, "b"], "input[1]", None)):
        expect_error(server.post("/v1/moderations", {"input": bad}), 400, param, code)


def moderates_by_the_configured_head(server, heads):
    with Server(*head_flags(heads), "--moderation-head", "policy", "--moderation-threshold", "-1") as other:
        result = other.post("/v1/moderations", {"input": "x"}).ok()["results"][0]
        expect(sorted(result["categories"]), sorted([*OPENAI_CATEGORIES, "insult", "threat"]))
        expect(result["flagged"], True, "all scores are above -1")
        expect({name for name, flagged in result["categories"].items() if flagged}, {"insult", "threat"}, "a category without a head is never flagged")
    with Server() as other:
        expect_error(other.post("/v1/moderations", {"input": "x"}), 404)
        expect_error(other.post("/v1/score", {"input": "x"}), 400, "heads")


def moderates_by_configured_categories(server, heads):
    with tempfile.TemporaryDirectory(prefix="otter-test-") as folder:
        config = pathlib.Path(folder) / "otter.yaml"

        def serve(categories):
            config.write_text(f"moderation-threshold: 0.25\nmoderation-categories: {categories}\n")
            return Server(*head_flags(heads), "--config", config)

        with serve("{violence: {head: policy/threat, above: -1}, harassment: toxicity, spam: {head: policy/insult, above: 2}}") as other:
            result = other.post("/v1/moderations", {"input": TEXTS[0]}).ok()["results"][0]
            scores = score(other, input=TEXTS[0])["data"][0]["scores"]
            expect(sorted(result["categories"]), sorted([*OPENAI_CATEGORIES, "spam"]))
            expect({name: result["category_scores"][name] for name in ("violence", "harassment", "spam", "hate")},
                   {"violence": scores["policy/threat"], "harassment": scores["toxicity"], "spam": scores["policy/insult"], "hate": 0})
            expect((result["categories"]["violence"], result["categories"]["harassment"], result["categories"]["spam"]),
                   (True, scores["toxicity"] > 0.25, False))
        for wrong, told in (("{violence: nobody}", "violence"), ("{violence: {above: 1}}", "must be a head"), ("{violence: 5}", "must be a head"),
                            ("{violence: {head: toxicity, over: 1}}", "must be a head"), ("[violence]", "a map")):
            other = serve(wrong)
            try:
                with other:
                    raise Failed(f"served with {wrong}")
            except Failed as failure:
                expect_true("moderation-categories" in str(failure) and told in str(failure), f"{wrong}: {failure}")


def tokenizes_and_back(server):
    for text in [*TEXTS, "", " ", "\n\n\t", "<|im_end|>", "\u0000zero", "a" * 5000, "\U0001f9a6" * 100, "e\u0301"]:
        answer = server.post("/tokenize", {"content": text}).ok()
        expect(answer["count"], len(answer["tokens"]))
        back = server.post("/detokenize", {"tokens": answer["tokens"]}).ok()
        expect(back["content"], text)
        expect(back["prompt"], text)
    answer = server.post("/tokenize", {"prompt": TEXTS[0], "return_token_strs": True}).ok()
    expect("".join(answer["token_strs"]), TEXTS[0])
    answer = server.post("/tokenize", {"content": "\u65e5\u672c \U0001f43b", "return_token_strs": True}).ok()
    expect(len(set(answer["token_strs"])), len(set(answer["tokens"])), f"token_strs tell tokens apart: {answer['token_strs']}")
    for two in ({"content": "a", "prompt": "b"}, {"prompt": "b", "messages": [{"role": "user", "content": "c"}]}):
        expect_error(server.post("/tokenize", two), 400, list(two)[1])
    expect(answer["max_model_len"], 8192)
    expect_true(len(server.post("/tokenize", {"content": "<|im_end|>"}).ok()["tokens"]) > 1, "a special token from content")
    # A token that is a part of a character comes back as U+FFFD, and the answer is still UTF-8.
    otter = server.post("/tokenize", {"content": "\U0001f9a6"}).ok()["tokens"]
    if len(otter) > 1:
        expect(server.post("/detokenize", {"tokens": otter[:1]}).ok()["content"].strip("\ufffd"), "")
    for body, param in (({}, "prompt"), ({"content": 5}, "content"), ({"prompt": ["x"]}, "prompt"), ({"messages": 5}, "messages")):
        expect_error(server.post("/tokenize", body), 400, param)
    for body, param in (({}, "tokens"), ({"tokens": "x"}, "tokens"), ({"tokens": [1, -1]}, "tokens[1]"), ({"tokens": [10**9]}, "tokens[0]")):
        expect_error(server.post("/detokenize", body), 400, param)


def many_outputs_and_long_names():
    """Names of the full 63 characters; more outputs than one request may have."""
    long = "x" * 59
    labels = [f"{long}{i:04}" for i in range(10)]
    head = make_heads(**{long: [*(part for label in labels for part in ("--label", label)), "--width", "0"]})
    flags = head_flags({f"{long}-{i}aa"[:63]: head[long] for i in range(2)})
    with Server("--threads", "1", "--moderation-head", f"{long}-0aa", *flags) as server:
        name = f"{long}-0aa/{labels[9]}"
        expect(list(score(server, input="a", heads=[name])["data"][0]["scores"]), [name])
        message = expect_error(server.post("/v1/score", {"input": "a"}), 400, "heads")["message"]
        expect_true("20 outputs" in message, message)
        result = server.post("/v1/moderations", {"input": "a"}).ok()["results"][0]
        expect(sorted(set(result["categories"]) - set(OPENAI_CATEGORIES)), labels, "categories")


def prompts_as_long_as_the_context():
    """Where nothing is generated the whole context can be the prompt; what is longer is counted, and told of the request's own field."""
    head = make_heads(toxicity=["--label", "toxic", "--width", "0"])
    with Server("--threads", "1", "--ctx-size", "192", "--kv-memory", "4M", *head_flags(head)) as server:
        message = expect_error(server.post("/v1/completions", {"prompt": [5] * 192, "max_tokens": 0}), 400, "prompt",
                               "context_length_exceeded")["message"]
        limit = int(re.search(r"room for (\d+)", message).group(1))  # by the memory for keys and values, here
        expect_true(limit < 192, message)
        expect(len(score(server, input=[5] * limit, per_token=True)["data"][0]["per_token"]["toxicity"]), limit)
        expect(server.post("/v1/completions", {"prompt": [5] * limit, "max_tokens": 0, "echo": True}).status, 200)
        chat = {"messages": [{"role": "user", "content": "a " * 300}]}
        for route, body, param in (
                ("/v1/completions", {"prompt": [5] * limit}, "prompt"), ("/v1/score", {"input": [5] * (limit + 1)}, "input"),
                ("/v1/chat/completions", chat, "messages"), ("/v1/score", chat, "messages"),
                ("/v1/completions", {"prompt": [[5], [5] * 193], "max_tokens": 0}, "prompt[1]")):
            expect_error(server.post(route, body), 400, param, "context_length_exceeded")
        expect(server.metric("otter_requests_rejected_total", reason="too_long"), 7)  # the last one was two


def tokenizes_large_texts_aside(server):
    text = "The quick brown otter swims over the lazy log. " * 40000
    answer = server.post("/tokenize", {"content": text}).ok()
    expect_true(answer["count"] > 300000, answer["count"])
    expect(server.post("/detokenize", {"tokens": answer["tokens"]}).ok()["content"], text)


def main():
    require_model()
    heads = make_heads(toxicity=["--label", "toxic", "--init", "normal", "--seed", "5"],
                       policy=["--label", "threat", "--label", "insult", "--init", "normal", "--seed", "3"])

    def moderates_by_another_head(server):
        moderates_by_the_configured_head(server, heads)

    def moderates_by_categories(server):
        moderates_by_configured_categories(server, heads)

    cases = [scores_every_loaded_head, scores_batches_like_single_texts, agrees_with_signals, scores_conversations,
             finds_prefixes_again, refuses_by_name, moderates, moderates_content_parts, moderates_by_another_head,
             moderates_by_categories, tokenizes_and_back,
             tokenizes_large_texts_aside]
    with Server(*head_flags(heads)) as server:
        return combined(run_cases(cases, server), run_cases([many_outputs_and_long_names, prompts_as_long_as_the_context]))


if __name__ == "__main__":
    sys.exit(main())
