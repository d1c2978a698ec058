#!/usr/bin/env python3
"""Greedy ARGS against its definition (eq. 2): at each step s(v) = LM(v) + w r([x, v]) over the k most likely tokens v, computed here
from the log-probabilities of /v1/completions and the scores of /v1/score alone, one request each. The tokens, and the scores that
come back as signals, must be exactly those of one steered request. The same for the guard.

test-timeout: 400
"""

import sys

from server_process import Failed, Server, expect, expect_true, require_head, require_model, run_cases

STEPS = 12
PROMPTS = ["You are such a", "I think my boss is a complete", "The recipe begins with"]


def most_likely(server, tokens, k):
    """[(token id, log-probability)] of the next token, the most likely first."""
    choice = server.complete(tokens, max_tokens=1, logprobs=k, ignore_eos=True, return_tokens_as_token_ids=True)["choices"][0]
    found = [(int(key.removeprefix("token_id:")), value) for key, value in choice["logprobs"]["top_logprobs"][0].items()]
    return sorted(found, key=lambda pair: -pair[1])[:k]


def scores_after(server, tokens, candidates):
    """The head's score of the text with each candidate added."""
    inputs = [tokens + [candidate] for candidate in candidates]
    rows = server.post("/v1/score", {"input": inputs, "heads": ["toxicity"]}).ok()["data"]
    return [row["scores"]["toxicity"] for row in sorted(rows, key=lambda row: row["index"])]


def tokens_of(server, text):
    return server.post("/tokenize", {"content": text}).ok()["tokens"]


def by_hand(server, prompt, weight, k):
    """(tokens, scores) of STEPS steps; and how often steering changed the token."""
    tokens, scores, n_changed = tokens_of(server, prompt), [], 0
    n_prompt = len(tokens)
    for _ in range(STEPS):
        candidates = most_likely(server, tokens, k)
        rewards = scores_after(server, tokens, [token for token, _ in candidates])
        total = [logprob + weight * reward for (_, logprob), reward in zip(candidates, rewards)]
        best = max(range(k), key=total.__getitem__)
        second = max((t for i, t in enumerate(total) if i != best), default=-1e9)
        if total[best] - second < 1e-5:
            raise Failed(f"{prompt!r}: a tie at step {len(scores)}; take another prompt")
        n_changed += best != 0
        tokens, scores = tokens + [candidates[best][0]], scores + [rewards[best]]
    return tokens[n_prompt:], scores, n_changed


def steered(server, prompt, weight, k):
    return server.complete(tokens_of(server, prompt), max_tokens=STEPS, ignore_eos=True, return_token_ids=True, intervention={
        "reward": {"heads": {"toxicity": weight}, "candidates": k}})


def takes_the_tokens_of_the_definition(server):
    n_changed_in_all = 0
    for prompt in PROMPTS:
        for weight, k in ((1.5, 10), (8.0, 4), (-8.0, 10)):
            what = f"{prompt!r}, w = {weight}, k = {k}"
            tokens, scores, n_changed = by_hand(server, prompt, weight, k)
            answer = steered(server, prompt, weight, k)
            choice = answer["choices"][0]
            expect(choice["token_ids"], tokens, what)
            expect(choice["signals"]["toxicity"], scores, f"{what}: signals")
            expect_true(answer["usage"]["intervention"], f"{what}: usage.intervention")
            n_changed_in_all += n_changed
    expect_true(n_changed_in_all >= 5, f"steering changed {n_changed_in_all} tokens: the comparison shows little")


def signals_are_scores(server):
    """A signal is what /v1/score says of the text so far, and of each position with per_token."""
    for prompt in PROMPTS:
        tokens = tokens_of(server, prompt)
        choice = server.complete(tokens, max_tokens=STEPS, ignore_eos=True, return_token_ids=True,
                                 intervention={"signals": ["toxicity"]})["choices"][0]
        row = server.post("/v1/score", {"input": tokens + choice["token_ids"], "heads": ["toxicity"],
                                        "per_token": True}).ok()["data"][0]
        expect(row["per_token"]["toxicity"][len(tokens):], choice["signals"]["toxicity"], prompt)
        expect(row["scores"]["toxicity"], choice["signals"]["toxicity"][-1], f"{prompt}: the last")


def one_candidate_is_plain_decoding(server):
    for prompt in PROMPTS:
        plain = server.complete(tokens_of(server, prompt), max_tokens=STEPS, ignore_eos=True, return_token_ids=True)
        expect(steered(server, prompt, 8.0, 1)["choices"][0]["token_ids"], plain["choices"][0]["token_ids"], prompt)


def guard_stops_before_the_token(server):
    """With the limit just below the highest score of the plain answer, the answer ends right before that token."""
    n_stopped = 0
    for prompt in PROMPTS:
        tokens = tokens_of(server, prompt)
        plain = server.complete(tokens, max_tokens=STEPS, ignore_eos=True, return_token_ids=True,
                                intervention={"signals": ["toxicity"]})["choices"][0]
        signals = plain["signals"]["toxicity"]
        above = (max(signals) + sorted(signals)[-2]) / 2
        first = next(i for i, score in enumerate(signals) if score > above)
        guarded = server.complete(tokens, max_tokens=STEPS, ignore_eos=True, return_token_ids=True, intervention={
            "guard": {"head": "toxicity", "above": above, "action": "stop"}})["choices"][0]
        expect(guarded["finish_reason"], "content_filter", prompt)
        expect(guarded["token_ids"], plain["token_ids"][:first], prompt)
        expect(guarded["signals"]["toxicity"], signals[:first], f"{prompt}: signals")
        n_stopped += 1
    expect(n_stopped, len(PROMPTS))


def main():
    require_model()
    with Server("--threads", "2", *require_head()) as server:
        return run_cases([takes_the_tokens_of_the_definition, signals_are_scores, one_candidate_is_plain_decoding,
                          guard_stops_before_the_token], server)


if __name__ == "__main__":
    sys.exit(main())
