#!/usr/bin/env python3
"""Every way of steering end to end, by inserted heads and by separate models, and each against what it must equal: experts with alpha 0
are plain decoding and with separate models follow eq. 4 and 5 computed from log-probabilities; a reward model that is the base with
a head scores as the head does; lookahead that keeps all candidates is exact ARGS; drafts of any kind change nothing but the number of
passes. The heads are untrained.

test-timeout: 600
"""

import math
import sys
import tempfile

from api_support import expect_error
from server_process import MODEL, Server, expect, expect_true, require_model, run_cases
from value_heads import all_flags, make_all_heads, make_other_model, make_small_model, make_wide_model

PROMPTS = ["My neighbour is a complete", "The capital of France is"]
REPEATING = "one, two, three, four. one, two, three, four. one, two,"
BOTH = {"positive": "nontoxic", "negative": "toxic"}
REWARD = {"heads": {"toxicity": -3.0}, "candidates": 6}
SAMPLED = {"temperature": 1, "seed": 7, "n": 2}
EXACT = {"max_tokens": 24, "logprobs": 3, "return_token_ids": True, "ignore_eos": True}


def complete(server, prompt, intervention=None, **fields):
    more = {"intervention": intervention} if intervention is not None else {}
    return server.complete(prompt, **{**EXACT, **fields, **more})


def without_signals(choices):
    return [{key: value for key, value in choice.items() if key != "signals"} for choice in choices]


def texts(answer):
    return [choice["token_ids"] for choice in answer["choices"]]


# ---- Listing -----------------------------------------------------------------------------------------------

def lists_heads_and_models(server):
    heads = {head["name"]: head for head in server.get("/v1/heads").ok()["data"]}
    expect({name: (head["role"], head["kind"], head["input"]) for name, head in heads.items()}, {
        "toxicity": ("insertion", "scalar", "extended"), "policy": ("insertion", "scalar", "extended"),
        "linear": ("insertion", "scalar", "base"), "nontoxic": ("insertion", "generation", "extended"),
        "toxic": ("insertion", "generation", "extended"), "toxicity-lookahead": ("insertion", "lookahead", "extended"),
        "draft-otter": ("insertion", "generation", "extended"), "draft-medusa": ("insertion", "generation", "base"),
        "judge": ("reward_model", "scalar", "extended"), "twin": ("expert_model", "generation", "base"),
        "other": ("expert_model", "generation", "base"), "model": ("draft_model", "generation", "base")})
    expect({name: head["offsets"] for name, head in heads.items() if head["role"] == "insertion" and head["kind"] == "generation"},
           {"nontoxic": [0], "toxic": [0], "draft-otter": [1, 2, 3], "draft-medusa": [1, 2, 3]})
    expect([name for name, head in heads.items() if head["reads_tokens"]], ["draft-otter"])
    expect([heads["toxic"]["parents"], heads["toxicity-lookahead"]["parents"]], [["nontoxic"], ["toxicity"]])
    base = server.get("/version").ok()["model"]
    for name in ("judge", "twin", "other", "model"):
        model = heads[name]["model"]
        expect(model["architecture"], base["architecture"], name)
        expect(model["parameters"] == base["parameters"], name != "model", f"parameters of {name}")
        expect_true(heads[name]["bytes"] >= model["bytes"] > 1 << 20, heads[name])
        expect(model["fingerprint"] == base["fingerprint"], name in ("judge", "twin"), f"fingerprint of {name}")
        error = expect_error(server.request("DELETE", f"/v1/heads/{name}"), 403 if not server.heads_dir else 400)
        expect_true(not server.heads_dir or "separate model" in error["message"], error)
    expect(heads["judge"]["parameters"], base["parameters"] + heads["toxicity"]["parameters"])
    expect([head["model"] for head in heads.values() if head["role"] == "insertion"], [None] * 8)


# ---- Experts -----------------------------------------------------------------------------------------------

def experts_shift_the_logits(server):
    steered = server.metric("otter_intervention_requests_total", mode="experts")
    counted = server.metric("otter_intervention_changed_tokens_total", mode="experts")
    n_changed = n_requests = 0
    for prompt in PROMPTS:
        for sampling in ({}, SAMPLED):
            plain = complete(server, prompt, **sampling)
            for experts in (BOTH, {"negative": "toxic"}, {"positive": None, "negative": "nontoxic"}):
                off = complete(server, prompt, {"experts": {**experts, "alpha": 0}}, **sampling)
                expect(off["choices"], plain["choices"], f"{experts}, alpha 0")
                expect(off["usage"]["intervention"]["changed_tokens"], 0)
                on = complete(server, prompt, {"experts": experts}, **sampling)
                expect_true(texts(on) != texts(plain), f"{prompt!r}, {experts}: nothing changed")
                n_changed += on["usage"]["intervention"]["changed_tokens"]
                n_requests += 2
    expect(server.metric("otter_intervention_requests_total", mode="experts"), steered + n_requests)
    expect_true(n_changed > 0, "no token counted")
    expect(server.metric("otter_intervention_changed_tokens_total", mode="experts"), counted + n_changed)


def alpha_left_out_is_what_the_specification_says(server):
    alpha = server.get("/openapi.json").ok()["components"]["schemas"]["Intervention"]["properties"]["experts"]["properties"]["alpha"]["default"]
    expect(alpha, 1)
    left_out, stated = ([complete(server, prompt, {"experts": experts})["choices"] for prompt in PROMPTS]
                        for experts in (BOTH, {**BOTH, "alpha": alpha}))
    expect(left_out, stated)
    expect_true(left_out != [complete(server, prompt, {"experts": {**BOTH, "alpha": 2 * alpha}})["choices"] for prompt in PROMPTS],
                "twice as much gives the same: the prompts tell nothing")


def experts_report_the_models_own_logprobs(server):
    """Token by token, the log-probabilities of the steered text are those that echoing it gives."""
    choice = complete(server, PROMPTS[0], {"experts": BOTH}, max_tokens=12)["choices"][0]
    ids = choice["prompt_token_ids"] + choice["token_ids"]
    echo = server.complete(ids, max_tokens=0, echo=True, logprobs=0)["choices"][0]["logprobs"]["token_logprobs"]
    expect(echo[len(choice["prompt_token_ids"]):], choice["logprobs"]["token_logprobs"])


def models_like_the_base_change_nothing(server):
    for experts in ({"negative": "twin"}, {"positive": "twin", "negative": "twin", "alpha": 5}):
        for sampling in ({}, SAMPLED):
            expect(complete(server, PROMPTS[0], {"experts": experts}, **sampling)["choices"],
                   complete(server, PROMPTS[0], **sampling)["choices"], str(experts))


def logprobs_after(server, tokens, candidates):
    """The log-probability of each candidate as the next token."""
    rows = server.complete([tokens + [v] for v in candidates], max_tokens=0, echo=True, logprobs=0)["choices"]
    return [row["logprobs"]["token_logprobs"][-1] for row in sorted(rows, key=lambda row: row["index"])]


def most_likely(server, tokens, k):
    choice = server.complete(tokens, max_tokens=1, logprobs=k, ignore_eos=True, return_tokens_as_token_ids=True)["choices"][0]
    found = [(int(key.removeprefix("token_id:")), value) for key, value in choice["logprobs"]["top_logprobs"][0].items()]
    return sorted(found, key=lambda pair: -pair[1])[:k]


def experts_by_hand(server, other, prompt, top_p, choose):
    """Greedy tokens of `choose`(log-probability of the base, of the other model) within the base's nucleus, as long as that is known;
    how many are not plain ones. Log-probabilities serve as logits: what sets them apart is the same for every token."""
    tokens, n_changed = server.post("/tokenize", {"content": prompt}).ok()["tokens"], 0
    n_prompt = len(tokens)
    for _ in range(10):
        top = most_likely(server, tokens, 20)
        nucleus, mass = [], 0.0
        for v, z in top:
            nucleus.append((v, z))
            mass += math.exp(z)
            if mass >= top_p:
                break
        if mass < top_p:
            break  # more tokens than log-probabilities are reported for
        shifted = [choose(z, z2) for (_, z), z2 in zip(nucleus, logprobs_after(other, tokens, [v for v, _ in nucleus]))]
        best = max(range(len(nucleus)), key=shifted.__getitem__)
        second = max((s for i, s in enumerate(shifted) if i != best), default=-1e9)
        expect_true(shifted[best] - second > 1e-3, f"{prompt!r}: a tie; take another prompt")
        n_changed += best != 0
        tokens = tokens + [nucleus[best][0]]
    return tokens[n_prompt:], n_changed


def experts_follow_the_equations(server, other):
    alpha, top_p, n_in_all, n_changed_in_all = 8.0, 0.6, 0, 0
    for prompt in [*PROMPTS, "The recipe begins with", REPEATING]:
        for experts, choose in (({"negative": "other"}, lambda z, z2: (1 + alpha) * z - alpha * z2),
                                ({"positive": "other", "negative": "twin"}, lambda z, z2: z + alpha * (z2 - z))):
            tokens, n_changed = experts_by_hand(server, other, prompt, top_p, choose)
            answer = complete(server, prompt, {"experts": {**experts, "alpha": alpha, "top_p": top_p}}, max_tokens=10)
            expect(texts(answer)[0][:len(tokens)], tokens, f"{prompt!r}, {experts}")
            n_in_all += len(tokens)
            n_changed_in_all += n_changed
    expect_true(n_in_all >= 25 and n_changed_in_all >= 4, f"{n_changed_in_all} of {n_in_all} tokens changed: that shows little")


# ---- Rewards -----------------------------------------------------------------------------------------------

def reward_models_score_like_their_head(server):
    rows = server.post("/v1/score", {"input": PROMPTS, "heads": ["toxicity", "judge"], "per_token": True}).ok()["data"]
    for row in rows:
        expect(row["per_token"]["judge"], row["per_token"]["toxicity"])
    for sampling in ({}, SAMPLED):
        head = complete(server, PROMPTS[0], {"reward": REWARD}, **sampling)
        model = complete(server, PROMPTS[0], {"reward": {**REWARD, "heads": {"judge": -3.0}}}, **sampling)
        expect(without_signals(model["choices"]), without_signals(head["choices"]))
        expect([c["signals"]["judge"] for c in model["choices"]], [c["signals"]["toxicity"] for c in head["choices"]])
    limit = sorted(complete(server, PROMPTS[0], {"signals": ["judge"]})["choices"][0]["signals"]["judge"])[-2]
    guards = [complete(server, PROMPTS[0], {"guard": {"head": head, "above": limit, "action": "resample"}}) for head in ("judge", "toxicity")]
    expect(texts(guards[0]), texts(guards[1]))


def all_scalar_heads_are_scored(server):
    scores = server.post("/v1/score", {"input": "x"}).ok()["data"][0]["scores"]
    expect(sorted(scores), ["judge", "linear", "policy/insult", "policy/threat", "toxicity"])
    for head in ("toxic", "toxicity-lookahead", "twin", "model"):
        expect_error(server.post("/v1/score", {"input": "x", "heads": [head]}), 400, "heads")


def lookahead_steers(server):
    for prompt in PROMPTS:
        plain = complete(server, prompt)
        look = {"heads": {"toxicity-lookahead": 0}, "candidates": 6}
        off = complete(server, prompt, {"reward": look})
        expect(without_signals(off["choices"]), plain["choices"], "weight 0")
        expect(len(off["choices"][0]["signals"]["toxicity-lookahead"]), EXACT["max_tokens"])
        expect(complete(server, prompt, {"signals": ["toxicity-lookahead"]})["choices"], off["choices"], "signals alone")
        on = complete(server, prompt, {"reward": {**look, "heads": {"toxicity-lookahead": -40.0}}})
        expect_true(texts(on) != texts(plain), f"{prompt!r}: nothing changed")
        exact = complete(server, prompt, {"reward": REWARD, "signals": ["toxicity-lookahead"]})
        kept = {**REWARD, "lookahead": {"head": "toxicity-lookahead", "keep": REWARD["candidates"]}}
        all_kept = complete(server, prompt, {"reward": kept})
        expect(all_kept["choices"], exact["choices"], "keep as many as there are")
        few = complete(server, prompt, {"reward": {**kept, "lookahead": {**kept["lookahead"], "keep": 2}}})
        expect_true(few["usage"]["intervention"]["candidates_scored"] < all_kept["usage"]["intervention"]["candidates_scored"],
                    f"{few['usage']} against {all_kept['usage']}")
        one = complete(server, prompt, {"reward": {**kept, "lookahead": {**kept["lookahead"], "keep": 1}}})
        expect(without_signals(one["choices"]), plain["choices"], "keep the likeliest alone")


# ---- Drafts ------------------------------------------------------------------------------------------------

DRAFTS = [{"draft": "lookup", "max_draft": 8}, {"draft": "draft-otter"}, {"draft": "draft-otter", "max_draft": 3, "tree": 12},
          {"draft": "draft-medusa", "max_draft": 2}, {"draft": "draft-medusa", "tree": 48}, {"draft": "model", "max_draft": 6},
          {"draft": ["lookup", "draft-otter"], "tree": 16}, {"draft": ["model", "lookup"]},
          {"draft": "draft-otter", "tree": 16, "adaptive": False}, {"draft": ["lookup", "model"], "adaptive": False}]
STEERING = {"plain": {}, "signals": {"signals": ["toxicity", "judge"]}, "experts": {"experts": {**BOTH, "alpha": 1}}, "reward": {"reward": REWARD},
            "lookahead": {"reward": {"heads": {"toxicity-lookahead": -4}}}, "models": {"experts": {"negative": "other", "top_p": 0.9}},
            "guard": {"guard": {"head": "toxicity", "above": 0.5, "action": "resample"}}}


def drafts_change_nothing(server):
    drafted = server.metric("otter_intervention_requests_total", mode="speculative")
    before = server.metric("vllm:spec_decode_num_accepted_tokens_total")
    accepted, tried, n = {}, {}, 0
    for name, steering in STEERING.items():
        for sampling in ({}, {"temperature": 0.8, "seed": 3}):
            without = complete(server, REPEATING, steering, max_tokens=20, **sampling)
            for drafts in DRAFTS:
                answer = complete(server, REPEATING, {**steering, "speculative": drafts}, max_tokens=20, **sampling)
                expect(answer["choices"], without["choices"], f"{name}, {sampling}, {drafts}")
                expect(answer["usage"]["completion_tokens"], without["usage"]["completion_tokens"])
                details, key = answer["usage"]["completion_tokens_details"], str(drafts["draft"])
                accepted[key] = accepted.get(key, 0) + details["accepted_prediction_tokens"]
                tried[key] = tried.get(key, 0) + details["accepted_prediction_tokens"] + details["rejected_prediction_tokens"]
                n += 1
    expect(server.metric("otter_intervention_requests_total", mode="speculative"), drafted + n)
    expect(server.metric("vllm:spec_decode_num_accepted_tokens_total"), before + sum(accepted.values()))
    for draft in ("lookup", "['model', 'lookup']", "['lookup', 'draft-otter']"):
        expect_true(accepted[draft] > 20, f"{draft}: {accepted}")
    expect_true(all(n > 0 for n in tried.values()), tried)


def a_lighter_twin_drafts_rightly(path):
    """A draft model with the weights of the base, but for rounding, is right about almost every greedy token."""
    with Server("--threads", "2", "--draft-model", MODEL, model=path) as server:
        without = complete(server, PROMPTS[0], {}, max_tokens=40)
        answer = complete(server, PROMPTS[0], {"speculative": {"draft": "model"}}, max_tokens=40)
    expect(answer["choices"], without["choices"])
    details = answer["usage"]["completion_tokens_details"]
    expect_true(details["accepted_prediction_tokens"] >= 15, details)
    expect_true(details["rejected_prediction_tokens"] <= 5, details)


# ---- All together ------------------------------------------------------------------------------------------

def all_at_once(server):
    whole = {"experts": {**BOTH, "alpha": 0.5}, "reward": {"heads": {"toxicity": -2.0, "judge": 1.0, "toxicity-lookahead": -1.0}, "candidates": 8},
             "guard": {"head": "policy/insult", "above": 0.9, "action": "resample"}, "signals": ["linear", "policy/threat"]}
    for sampling in ({}, {"temperature": 1, "seed": 2}):
        without = complete(server, PROMPTS[0], whole, **sampling)
        drafted = complete(server, PROMPTS[0], {**whole, "speculative": {"draft": ["lookup", "draft-otter"], "tree": 8}}, **sampling)
        expect(drafted["choices"], without["choices"])
        expect(sorted(drafted["choices"][0]["signals"]), ["judge", "linear", "policy/insult", "policy/threat", "toxicity", "toxicity-lookahead"])
        events = list(server.stream("/v1/completions", {"prompt": PROMPTS[0], "temperature": 0, **EXACT, **sampling, "intervention": whole}))
        expect([v for e in events for c in e["choices"] for v in c["signals"]["toxicity-lookahead"]],
               without["choices"][0]["signals"]["toxicity-lookahead"], "streamed")


def refuses_the_wrong_kind_by_name(server):
    bad = [
        ({"signals": ["toxic"]}, "intervention.signals"), ({"signals": ["twin"]}, "intervention.signals"),
        ({"signals": ["model"]}, "intervention.signals"),
        ({"guard": {"head": "toxicity-lookahead", "above": 0.5}}, "intervention.guard.head"),
        ({"guard": {"head": "nontoxic", "above": 0.5}}, "intervention.guard.head"),
        ({"reward": {"heads": {"toxic": 1}}}, "intervention.reward.heads.toxic"),
        ({"reward": {"heads": {"twin": 1}}}, "intervention.reward.heads.twin"),
        ({"reward": {**REWARD, "lookahead": 5}}, "intervention.reward.lookahead"),
        ({"reward": {**REWARD, "lookahead": {}}}, "intervention.reward.lookahead.head"),
        ({"reward": {**REWARD, "lookahead": {"head": "toxicity-lookahead"}}}, "intervention.reward.lookahead.keep"),
        ({"reward": {**REWARD, "lookahead": {"head": "toxicity-lookahead", "keep": 0}}}, "intervention.reward.lookahead.keep"),
        ({"reward": {**REWARD, "lookahead": {"head": "toxicity-lookahead", "keep": 65}}}, "intervention.reward.lookahead.keep"),
        ({"reward": {**REWARD, "lookahead": {"head": "toxicity", "keep": 2}}}, "intervention.reward.lookahead.head"),
        ({"reward": {**REWARD, "lookahead": {"head": "toxicity-lookahead", "keep": 2, "x": 1}}}, "intervention.reward.lookahead.x"),
        ({"reward": {"heads": {"toxicity-lookahead": 1}, "lookahead": {"head": "toxicity-lookahead", "keep": 2}}},
         "intervention.reward.lookahead"),
        ({"experts": {}}, "intervention.experts.negative"), ({"experts": {"positive": "nontoxic"}}, "intervention.experts.negative"),
        ({"experts": {"negative": "toxicity"}}, "intervention.experts.negative"),
        ({"experts": {"negative": "judge"}}, "intervention.experts.negative"),
        ({"experts": {"negative": "model"}}, "intervention.experts.negative"),
        ({"experts": {"negative": "twin/x"}}, "intervention.experts.negative"),
        ({"experts": {"negative": "toxic/x"}}, "intervention.experts.negative"),
        ({"experts": {"negative": "draft-otter"}}, "intervention.experts.negative"),
        ({"experts": {"negative": "toxic", "positive": "nobody"}}, "intervention.experts.positive"),
        ({"experts": {"negative": "toxic", "positive": 5}}, "intervention.experts.positive"),
        ({"experts": {"negative": "toxic", "alpha": "2"}}, "intervention.experts.alpha"),
        ({"experts": {"negative": "toxic", "alpha": 1e300}}, "intervention.experts.alpha"),
        ({"experts": {"negative": "toxic", "alpha": 101}}, "intervention.experts.alpha"),
        ({"experts": {"negative": "toxic", "top_p": 0}}, "intervention.experts.top_p"),
        ({"experts": {"negative": "toxic", "top_p": 1.5}}, "intervention.experts.top_p"),
        ({"experts": {"negative": "toxic", "beta": 1}}, "intervention.experts.beta"),
        ({"speculative": {"draft": "toxic"}}, "intervention.speculative.draft"),
        ({"speculative": {"draft": "twin"}}, "intervention.speculative.draft"),
        ({"speculative": {"draft": "toxicity"}}, "intervention.speculative.draft"),
        ({"speculative": {"draft": "draft-otter/out0"}}, "intervention.speculative.draft"),
        ({"speculative": {"draft": "model/x"}}, "intervention.speculative.draft"),
        ({"speculative": {"draft": ["draft-otter", "model"]}}, "intervention.speculative.draft"),
        ({"speculative": {"draft": "model", "tree": 8}}, "intervention.speculative.tree"),
        ({"speculative": {"draft": "draft-otter", "tree": 49}}, "intervention.speculative.tree"),
        ({"speculative": {"draft": "draft-otter", "tree": -1}}, "intervention.speculative.tree"),
        ({"speculative": {"draft": "draft-otter", "adaptive": 1}}, "intervention.speculative.adaptive"),
    ]
    for intervention, param in bad:
        expect_error(server.post("/v1/completions", {"prompt": "x", "max_tokens": 2, "intervention": intervention}), 400, param)
    body = '{"prompt": "x", "intervention": {"experts": {"negative": "toxic", "alpha": %s}}}'
    for number in ("NaN", "Infinity", "1e999"):
        expect_error(server.post("/v1/completions", body % number), 400)
    expect(server.metric("vllm:num_requests_running"), 0)


def main():
    require_model()
    paths = make_all_heads()
    with tempfile.TemporaryDirectory(prefix="otter-test-") as folder:
        other_model, small_model, wide_model = (f"{folder}/{name}.gguf" for name in ("other", "small", "wide"))
        make_other_model(other_model)
        make_small_model(small_model)
        make_wide_model(wide_model)
        flags = ["--threads", "2", *all_flags(paths, other_model, small_model)]

        def experts_follow_eq_4_and_5(server):
            with Server("--threads", "2", model=other_model) as other:
                experts_follow_the_equations(server, other)

        def a_twin_drafts_rightly(_server):
            a_lighter_twin_drafts_rightly(wide_model)

        with Server(*flags) as server:
            server.heads_dir = False
            return run_cases([lists_heads_and_models, experts_shift_the_logits, alpha_left_out_is_what_the_specification_says,
                              experts_report_the_models_own_logprobs, models_like_the_base_change_nothing, experts_follow_eq_4_and_5,
                              reward_models_score_like_their_head,
                              all_scalar_heads_are_scored, lookahead_steers, drafts_change_nothing, a_twin_drafts_rightly,
                              all_at_once, refuses_the_wrong_kind_by_name], server)


if __name__ == "__main__":
    sys.exit(main())
