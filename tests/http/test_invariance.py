#!/usr/bin/env python3
"""Promises 1 and 2 over HTTP: what a request gets depends on the request alone, to the last bit.

Requests of every sort (greedy, sampled, scored, echoed, chat, batches; steered by rewards, lookahead, experts and guards, by heads and by
separate models; with drafts of every kind) are run one by one on a fresh server with one thread that has heads of every kind loaded.
What came back, every log-probability and signal included, must come back again from the same requests all at once, from the
prefix cache, with two threads, with the prompt in small pieces, with so few pages that requests are preempted, and, for those
without an intervention, from a server that has no heads. What differs in drafts alone must be alike in what it says, too.

test-timeout: 900
"""

import json
import sys
import tempfile

from server_process import Failed, Server, brief, expect, expect_true, in_parallel, require_model, run_cases
from value_heads import all_flags, make_all_heads, make_other_model, make_small_model

LONG = ("Otters are playful animals that live along rivers and coasts. They eat fish, crabs and sea urchins, and they use "
        "stones as tools. ") * 12
CONTINUE = {"temperature": 0, "max_tokens": 40, "logprobs": 5, "return_token_ids": True, "ignore_eos": True}
SAMPLE = {"max_tokens": 40, "logprobs": 3, "return_token_ids": True, "ignore_eos": True, "temperature": 1}
SIGNALS = {"intervention": {"signals": ["toxicity"]}}
BOTH = {"positive": "nontoxic", "negative": "toxic", "alpha": 1.0}
ALL = {"experts": {**BOTH, "top_p": 0.95}, "reward": {"heads": {"toxicity": -2.0, "toxicity-lookahead": -1.0}, "candidates": 6},
       "guard": {"head": "policy/insult", "above": 0.86, "action": "resample"}, "signals": ["linear", "judge"]}
SHORT = {"max_tokens": 24}


def steer(weight, k, **more):
    return {"intervention": {"reward": {"heads": {"toxicity": weight}, "candidates": k}, **more}}


def steered_by(**intervention):
    return {"intervention": intervention}


def completion(prompt, *fields):
    return "/v1/completions", {"prompt": prompt, **{k: v for f in fields for k, v in f.items()}}


def chat(content, *fields):
    body = {"messages": [{"role": "user", "content": content}]}
    return "/v1/chat/completions", {**body, **{k: v for f in fields for k, v in f.items()}}


REQUESTS = {
    "greedy": completion("The history of the otter begins", CONTINUE),
    "greedy-long": completion(LONG, CONTINUE),
    "greedy-batch": completion(["One two three", "Once upon a time", LONG[:400]], CONTINUE),
    "sampled": completion("My favourite animal is", SAMPLE, {"seed": 1, "top_p": 0.9}),
    "sampled-n": completion(LONG[:700], SAMPLE, {"seed": 2, "n": 3, "top_k": 50, "min_p": 0.01}),
    "penalised": completion("again and again and again and", CONTINUE, {"frequency_penalty": 1, "presence_penalty": 0.5}),
    "echoed": completion(LONG[:900], {"max_tokens": 0, "echo": True, "logprobs": 5}),
    "chat": chat("Name three rivers.", {"temperature": 0, "max_tokens": 40, "logprobs": True, "top_logprobs": 5}),
    "chat-sampled": chat("Tell me a joke.", {"seed": 3, "max_tokens": 40, "logprobs": True, "top_logprobs": 2}),
    "signals": completion("You people are all", CONTINUE, SIGNALS),
    "signals-long": completion(LONG, CONTINUE, SIGNALS),
    "signals-sampled": completion("I really hate", SAMPLE, SIGNALS, {"seed": 4}),
    "steered": completion("You are such a", CONTINUE, steer(-4.0, 10)),
    "steered-sampled": completion("The new neighbours are", SAMPLE, steer(-2.0, 6), {"seed": 5}),
    "steered-chat": chat("Insult me.", {"temperature": 0, "max_tokens": 40, "logprobs": True}, steer(-8.0, 10)),
    "resampled": completion("You are such a", CONTINUE, SHORT,
                            steered_by(guard={"head": "toxicity", "above": 0.5, "action": "resample"})),
    "reward-model": completion("You are such a", CONTINUE, SHORT, steered_by(reward={"heads": {"judge": -4.0}, "candidates": 6})),
    "lookahead": completion(LONG[:400], CONTINUE, SHORT, steered_by(reward={"heads": {"toxicity-lookahead": -40.0}})),
    "lookahead-keeps": completion("You are such a", SAMPLE, SHORT, {"seed": 6}, steered_by(reward={
        "heads": {"toxicity": -4.0}, "candidates": 8, "lookahead": {"head": "toxicity-lookahead", "keep": 3}})),
    "experts": completion("My neighbour is a complete", CONTINUE, SHORT, steered_by(experts=BOTH)),
    "experts-long": completion(LONG, SAMPLE, SHORT, {"seed": 7, "n": 2}, steered_by(experts={**BOTH, "top_p": 0.9})),
    "anti-expert": chat("Say something rude.", {"temperature": 0, "max_tokens": 24, "logprobs": True},
                        steered_by(experts={"negative": "toxic"}, signals=["toxicity"])),
    "expert-models": completion("My neighbour is a complete", SAMPLE, SHORT, {"seed": 8},
                                steered_by(experts={"positive": "twin", "negative": "other", "alpha": 0.5, "top_p": 0.9})),
    "drafts-lookup": completion(LONG[:520], CONTINUE, steered_by(speculative={"draft": "lookup", "max_draft": 8})),
    "drafts-head": completion("The history of the otter begins", CONTINUE, steered_by(speculative={"draft": "draft-otter"})),
    "drafts-tree": completion(LONG[:300], SAMPLE, {"seed": 9}, steered_by(speculative={"draft": ["lookup", "draft-medusa"], "tree": 24})),
    "drafts-model": completion("Once upon a time", CONTINUE, steered_by(speculative={"draft": "model", "max_draft": 6})),
    "all": completion("My neighbour is a complete", CONTINUE, SHORT, steered_by(**ALL)),
    "all-drafted": completion("My neighbour is a complete", CONTINUE, SHORT,
                              steered_by(**ALL, speculative={"draft": ["lookup", "draft-otter"], "tree": 8})),
    "all-sampled": completion("My neighbour is a complete", SAMPLE, SHORT, {"seed": 10, "n": 2},
                              steered_by(**ALL, speculative={"draft": ["lookup", "model"]})),
    "scored-by-all": ("/v1/score", {"input": [LONG[:600], "what a lovely day"], "per_token": True}),
    "scored": ("/v1/score", {"input": [LONG, "what a lovely day", "you idiot"], "heads": ["toxicity"], "per_token": True}),
}
# What may differ between two answers to one request: the counters of the prefix cache, the stamps, and how much was guessed ahead (which
# depends on the rows that others leave), with the candidates that were scored to find the winner (in one wave or two, by what rows cost).
VOLATILE = {"id", "created", "prompt_tokens_details", "cached_tokens", "completion_tokens_details", "candidates_scored"}


def settled(value):
    """The answer without what may differ."""
    if isinstance(value, dict):
        return {key: settled(item) for key, item in value.items() if key not in VOLATILE}
    return [settled(item) for item in value] if isinstance(value, list) else value


def ask(server, name):
    path, body = REQUESTS[name]
    return settled(server.post(path, body, timeout=300).ok())


def first_difference(a, b, path=""):
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return next((d for key in a if (d := first_difference(a[key], b[key], f"{path}.{key}"))), None)
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return next((d for i in range(len(a)) if (d := first_difference(a[i], b[i], f"{path}[{i}]"))), None)
    return None if a == b else f"{path}: actual {brief(a)}, expected {brief(b)}"


def same_as(reference, answers, how):
    different = [f"{name} ({how}) differs at {first_difference(answer, reference[name])}"
                 for name, answer in answers.items() if json.dumps(answer) != json.dumps(reference[name])]
    if different:
        raise Failed("\n    ".join(different))


def ask_all(server, names):
    """All at once; twice as many threads would only wait in the queue."""
    return dict(zip(names, in_parallel([lambda n=n: ask(server, n) for n in names])))


def make_reference(flags):
    """Each request alone, on a server that has seen nothing that could be in its prefix cache but the requests before; these
    share no page with it, or are compared by the other cases."""
    with Server("--threads", "1", *flags) as server:
        return {name: ask(server, name) for name in REQUESTS}


def has_something_to_compare(reference, flags):
    """The comparison below would be empty if the answers were."""
    ids = reference["greedy"]["choices"][0]["token_ids"]
    expect(len(ids), 40)
    expect(len(reference["signals"]["choices"][0]["signals"]["toxicity"]), 40)
    texts = [choice["text"] for choice in reference["sampled-n"]["choices"]]
    expect(len(set(texts)), 3, "three samples")
    expect_true(reference["steered"]["usage"]["intervention"], "usage.intervention")
    expect(reference["all-drafted"]["choices"], reference["all"]["choices"], "with drafts and without")
    expect(reference["drafts-head"]["choices"], reference["greedy"]["choices"], "with drafts and without")
    for name in ("lookahead", "experts", "experts-long", "expert-models", "reward-model", "all", "all-sampled"):
        expect_true(reference[name]["usage"]["intervention"]["changed_tokens"] > 0, f"{name}: {reference[name]['usage']}")


def alike_in_one_batch(reference, flags):
    with Server("--threads", "1", *flags) as server:
        same_as(reference, ask_all(server, list(REQUESTS)), "all at once")


def alike_from_the_prefix_cache(reference, flags):
    with Server("--threads", "1", *flags) as server:
        for name in ("greedy-long", "signals-long", "scored", "echoed", "sampled-n", "experts-long", "lookahead", "drafts-lookup"):
            same_as(reference, {name: ask(server, name)}, "first time")
            hits = server.metric("vllm:prefix_cache_hits_total")
            same_as(reference, {name: ask(server, name)}, "second time")
            if name in ("greedy-long", "signals-long", "sampled-n", "experts-long", "lookahead", "drafts-lookup"):
                expect_true(server.metric("vllm:prefix_cache_hits_total") > hits, f"{name}: no hit in the prefix cache")


def alike_with_two_threads(reference, flags):
    with Server("--threads", "2", *flags) as server:
        same_as(reference, ask_all(server, list(REQUESTS)), "2 threads, at once")
    with Server("--threads", "2", *flags) as server:
        same_as(reference, {name: ask(server, name) for name in ("greedy-long", "steered", "scored", "all-sampled")}, "2 threads, alone")


def alike_in_small_pieces(reference, flags):
    with Server("--threads", "2", "--max-batch-tokens", "64", *flags) as server:
        same_as(reference, ask_all(server, list(REQUESTS)), "64 rows a step")


def alike_after_preemption(reference, flags):
    """Long answers of requests that fit one by one, but not together: some give their pages up and are run again."""
    names = [name for name in REQUESTS if name != "greedy-batch"]
    # 22.5 KiB a token of SmolLM2 at 16 bits, for the base and for each of four separate models: room for about 1,400 tokens,
    # extensions not counted.
    with Server("--threads", "2", "--kv-memory", str(5 * 32 << 20), *flags) as server:
        for attempt in range(3):
            same_as(reference, ask_all(server, names), f"32 MiB of pages each, round {attempt}")
            if server.metric("vllm:num_preemptions_total") > 0:
                return
        raise Failed("no request was preempted: the test compares nothing")


def alike_without_heads(reference, flags):
    names = [name for name, (path, body) in REQUESTS.items() if "intervention" not in body and path != "/v1/score"]
    with Server("--threads", "1") as server:
        same_as(reference, ask_all(server, names), "no heads loaded")


def compare(flags):
    reference = make_reference(flags)
    return run_cases([has_something_to_compare, alike_in_one_batch, alike_from_the_prefix_cache, alike_with_two_threads,
                      alike_in_small_pieces, alike_after_preemption, alike_without_heads], reference, flags)


def main():
    require_model()
    with tempfile.TemporaryDirectory(prefix="otter-test-") as folder:
        other_model, small_model = f"{folder}/other.gguf", f"{folder}/small.gguf"
        make_other_model(other_model)
        make_small_model(small_model)
        return compare(all_flags(make_all_heads(), other_model, small_model))


if __name__ == "__main__":
    sys.exit(main())
