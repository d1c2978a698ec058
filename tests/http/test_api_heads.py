#!/usr/bin/env python3
"""/v1/heads: listing, loading and unloading while serving, from below the configured folder only, heads that stand on others; presets as
models; the server's own drafts.

test-timeout: 400
"""

import os
import pathlib
import sys
import tempfile

from api_support import expect_error, head_flags, make_heads
from server_process import MODEL, Server, expect, expect_true, in_parallel, require_model, run_cases
from value_heads import make_all_heads


class Folder:
    """heads/: one.gguf, damaged.gguf, sub/two.gguf, a link that leads out of it; and outside.gguf beside it."""

    def __init__(self, paths):
        self.root = tempfile.TemporaryDirectory(prefix="otter-test-")
        base = pathlib.Path(self.root.name)
        self.heads = base / "heads"
        (self.heads / "sub").mkdir(parents=True)
        os.link(paths["one"], self.heads / "one.gguf") if os.stat(paths["one"]).st_dev == os.stat(base).st_dev else \
            (self.heads / "one.gguf").write_bytes(paths["one"].read_bytes())
        (self.heads / "sub" / "two.gguf").write_bytes(paths["two"].read_bytes())
        (base / "outside.gguf").write_bytes(paths["two"].read_bytes())
        (self.heads / "damaged.gguf").write_bytes(paths["one"].read_bytes()[:5000])
        (self.heads / "leads-out.gguf").symlink_to(base / "outside.gguf")
        (base / "heads-beside").mkdir()
        (base / "heads-beside" / "x.gguf").write_bytes(b"x")


def names(server):
    return [head["name"] for head in server.get("/v1/heads").ok()["data"]]


def load(server, name, path):
    return server.post("/v1/heads", {"name": name, "path": path})


def lists_what_was_configured(server, folder):
    head = server.get("/v1/heads").ok()["data"][0]
    expect(head["name"], "start")
    expect(head["kind"], "scalar")
    expect(head["input"], "extended")
    expect(head["labels"], ["toxic"])
    expect([head["embedding_length"], head["feed_forward_length"], head["head_count"], head["head_count_kv"]], [32, 64, 3, 1])
    expect_true(head["bytes"] > 1 << 20 and head["parameters"] > 1e6, head)
    expect_true(isinstance(head["training"], dict), head)


def loads_and_unloads(server, folder):
    answer = load(server, "new", "one.gguf")
    expect(answer.status, 201, str(answer.body))
    expect(answer.json()["name"], "new")
    expect(names(server), ["start", "new"])
    text = {"prompt": "The otter", "max_tokens": 4, "intervention": {"signals": ["new", "start"]}}
    signals = server.post("/v1/completions", text).ok()["choices"][0]["signals"]
    expect(signals["new"], signals["start"], "the same file under two names")
    expect_error(load(server, "new", "one.gguf"), 400)
    expect(load(server, "two", "sub/two.gguf").status, 201)
    expect(load(server, "absolute", str(folder.heads / "sub" / ".." / "one.gguf")).status, 201)
    for name in ("new", "two", "absolute"):
        expect(server.request("DELETE", f"/v1/heads/{name}").ok(), {"id": name, "object": "head", "deleted": True})
    expect(names(server), ["start"])
    expect_error(server.post("/v1/completions", text), 400, "intervention.signals")
    expect_error(server.request("DELETE", "/v1/heads/new"), 404)


def stays_inside_the_folder(server, folder):
    base = folder.heads.parent
    for path in ("../outside.gguf", str(base / "outside.gguf"), "leads-out.gguf", "sub/../../outside.gguf", "/etc/passwd", ".",
                 "", "missing.gguf", "../heads-beside/x.gguf", str(base / "heads-beside" / "x.gguf"), "x" * 5000):
        expect_error(load(server, "bad", path), 400, "path")
    expect_error(load(server, "bad", "a\u0000b"), 400, "path")
    for name in ("", "a/b", "a b", "x" * 64, "\u00fc", "a\"b", 5, None):
        expect_error(load(server, name, "one.gguf"), 400, "name")
    message = expect_error(load(server, "bad", "damaged.gguf"), 400)["message"]
    expect_true("damaged.gguf" in message and str(base) not in message, f"a folder of the server: {message}")
    expect(names(server), ["start"])


def keeps_a_head_that_is_in_use(server, folder):
    expect(load(server, "brief", "one.gguf").status, 201)
    body = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 60, "ignore_eos": True, "intervention": {"signals": ["brief"]}}
    whole = server.post("/v1/completions", body).ok()["choices"][0]["signals"]["brief"]
    scores, unloaded = [], False
    for event in server.stream("/v1/completions", body):
        for choice in event["choices"]:
            scores += choice["signals"]["brief"]
        if not unloaded:
            expect(server.request("DELETE", "/v1/heads/brief").status, 200)
            unloaded = True
    expect(scores, whole, "signals of a head that was unloaded meanwhile")


def counts_a_head_by_its_file(server, folder):
    """Another file under the same name is another series; and however many names come and go, heads are counted."""
    def used(name, path):
        expect(load(server, name, path).status, 201)
        server.complete("The otter", max_tokens=2, ignore_eos=True, intervention={"signals": [name]})
        expect(server.request("DELETE", f"/v1/heads/{name}").status, 200)
        return {head: server.metric("otter_head_score_count", head=head) for head in ("one", "two")}

    before = used("again", "one.gguf")
    expect(used("again", "sub/two.gguf"), {"one": before["one"], "two": before["two"] + 2}, "another file")
    for i in range(32):
        used(f"name{i}", "one.gguf")
    two = server.metric("otter_head_score_count", head="two")
    expect(used("last", "sub/two.gguf")["two"], two + 2, "after 32 others")


def loads_while_busy(server, folder):
    def use():
        return server.complete("Once upon a time", max_tokens=30)["choices"][0]["text"]

    def churn():
        for i in range(3):
            expect(load(server, f"churn{i}", "one.gguf").status, 201)
            expect(server.request("DELETE", f"/v1/heads/churn{i}").status, 200)

    texts = in_parallel([use, churn, use, use])
    expect(texts[0], texts[2])


# ---- Heads that stand on others ----------------------------------------------------------------------------

STACKED = {"nontoxic": "stacked/nontoxic.gguf", "toxic": "stacked/toxic.gguf", "toxicity": "stacked/toxicity.gguf",
           "toxicity-lookahead": "stacked/toxicity-lookahead.gguf", "draft": "stacked/draft-otter.gguf"}


def load_stacked(server, *which):
    for name in which:
        expect(load(server, name, STACKED[name]).status, 201, name)


def unload(server, *which):
    for name in which:
        expect(server.request("DELETE", f"/v1/heads/{name}").status, 200, name)


def asks_for_parents_first(server, folder):
    error = expect_error(load(server, "toxic", STACKED["toxic"]), 400)
    expect_true("nontoxic" in error["message"], error)
    load_stacked(server, "nontoxic", "toxic")
    expect(server.get("/v1/heads").ok()["data"][-1]["parents"], ["nontoxic"])
    unload(server, "toxic", "nontoxic")
    expect(names(server), ["start"])


def keeps_a_parent_while_its_child_is_there(server, folder):
    load_stacked(server, "nontoxic", "toxic")
    body = {"prompt": "The otter", "temperature": 0, "max_tokens": 12, "ignore_eos": True, "return_token_ids": True}
    anti = {**body, "intervention": {"experts": {"negative": "toxic"}}}
    both = {**body, "intervention": {"experts": {"positive": "nontoxic", "negative": "toxic"}}}
    steered = server.post("/v1/completions", anti).ok()["choices"]
    server.post("/v1/completions", both).ok()
    unload(server, "nontoxic")
    expect_error(server.post("/v1/completions", both), 400, "intervention.experts.positive")
    expect(server.post("/v1/completions", anti).ok()["choices"], steered, "the child without its parent's name")
    # The name is free for another head; the child goes on with the parent that it has.
    expect(load(server, "nontoxic", "one.gguf").status, 201)
    expect(server.post("/v1/completions", anti).ok()["choices"], steered, "the child beside a namesake of its parent")
    unload(server, "toxic", "nontoxic")


EVERY_USE = {
    "experts": {"experts": {"positive": "nontoxic", "negative": "toxic"}},
    "lookahead": {"reward": {"heads": {"toxicity": -4, "toxicity-lookahead": -1}, "candidates": 4}},
    "drafts": {"speculative": {"draft": ["lookup", "draft"], "tree": 8}, "signals": ["toxicity"]},
}


def unloads_under_running_requests(server, folder):
    """Children and parents go while a stream uses them; what it says is what it says undisturbed."""
    load_stacked(server, *STACKED)
    base = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 60, "ignore_eos": True, "return_token_ids": True}

    def tokens_of(use, after_first=lambda: None):
        tokens, signals, first = [], {}, True
        for event in server.stream("/v1/completions", {**base, "intervention": EVERY_USE[use]}):
            for choice in event["choices"]:
                tokens += choice["token_ids"]
                for name, values in choice.get("signals", {}).items():
                    signals.setdefault(name, []).extend(values)
            if first:
                after_first()
            first = False
        expect(len(tokens), 60, use)
        return tokens, signals

    alone = {use: tokens_of(use) for use in EVERY_USE}
    for use in EVERY_USE:
        def all_go():
            unload(server, *STACKED)
            expect(names(server), ["start"])
            load_stacked(server, *STACKED)

        expect(tokens_of(use, all_go), alone[use], use)
    together = dict(zip(EVERY_USE, in_parallel([lambda u=u: tokens_of(u) for u in EVERY_USE])))
    expect(together, alone)

    def churn():
        for _ in range(2):
            unload(server, "toxic", "nontoxic")
            load_stacked(server, "nontoxic", "toxic")

    busy = in_parallel([lambda: tokens_of("lookahead"), churn, lambda: tokens_of("drafts")])
    expect([busy[0], busy[2]], [alone["lookahead"], alone["drafts"]])
    unload(server, *STACKED)
    expect(server.metric("vllm:num_requests_running"), 0)


def names_no_client_in_metrics(server, folder):
    expect(load(server, "secret-name", "one.gguf").status, 201)
    server.post("/v1/completions", {"prompt": "x", "max_tokens": 2, "intervention": {"signals": ["secret-name"]}}).ok()
    text = server.get("/metrics").body.decode()
    expect_true("secret-name" not in text, "a client's name is a label")
    expect_true('otter_head_score_count{head="one"}' in text, "the file's name is not")
    server.request("DELETE", "/v1/heads/secret-name")


def is_off_without_a_folder(server, folder):
    with Server() as other:
        expect_error(load(other, "x", "one.gguf"), 403)
        expect_error(other.request("DELETE", "/v1/heads/x"), 403)
        expect(names(other), [])


# ---- Presets -----------------------------------------------------------------------------------------------

PRESETS = """
model: %s
model-name: base
head: {start: "%s"}
presets:
  up: {reward: {heads: {start: 50.0}, candidates: 8}}
  seen: {signals: [start]}
  off: {experts: null, speculative: false}
"""
STEERED_PRESETS = """
model: %s
model-name: base
head:
  toxicity: %s
  nontoxic: %s
  toxic: %s
  draft: %s
speculative: lookup,draft
presets:
  detoxified: {experts: {positive: nontoxic, negative: toxic, alpha: 2.0, top_p: 0.9}}
  anti: {experts: {negative: toxic}, speculative: {draft: draft, max_draft: 3, tree: 8}}
  patient: {speculative: false}
"""


def presets_are_models(server, folder):
    config = folder.heads.parent / "presets.yaml"
    config.write_text(PRESETS % (MODEL, folder.heads / "one.gguf"))
    with Server("--config", config) as other:
        models = other.get("/v1/models").ok()["data"]
        expect([m["id"] for m in models], ["base", "base+up", "base+seen", "base+off"])
        expect([m["parent"] for m in models], [None, "base", "base", "base"])
        for path in ("/v1/models/base+seen", "/v1/models/base%2Bseen"):
            expect(other.get(path).ok(), models[2])
        expect(models[2]["intervention"], {"signals": ["start"]})
        expect_error(other.get("/v1/models/base+nobody"), 404, "model", "model_not_found")

        def complete(model, **fields):
            body = {"model": model, "prompt": "The otter is", "temperature": 0, "max_tokens": 8, **fields}
            answer = other.post("/v1/completions", body).ok()
            expect(answer["model"], model)
            return answer["choices"][0]

        plain = complete("base")
        expect_true("signals" not in plain and "signals" not in complete("base+off"), "signals of nothing")
        seen = complete("base+seen")
        expect([seen["text"], sorted(seen["signals"])], [plain["text"], ["start"]])
        by_hand = complete("base", intervention={"reward": {"heads": {"start": 50.0}, "candidates": 8}})
        up = complete("base+up")
        expect([up["text"], up["signals"]], [by_hand["text"], by_hand["signals"]])
        expect_true(up["text"] != plain["text"], "the preset changes nothing")
        # The request's own members come first; null turns one off.
        expect(complete("base+up", intervention={"reward": None})["text"], plain["text"])
        expect(complete("base+up", intervention={"reward": {"heads": {"start": 0}}})["text"], plain["text"])
        expect(complete("base+up", intervention={"signals": ["start"]})["text"], up["text"])


def presets_steer_and_draft(server, folder):
    config = folder.heads.parent / "steered.yaml"
    config.write_text(STEERED_PRESETS % (MODEL, *(folder.heads / STACKED[name] for name in ("toxicity", "nontoxic", "toxic", "draft"))))
    with Server("--config", config) as other:
        def complete(model, **fields):
            body = {"model": model, "prompt": "one two three one two three one two", "max_tokens": 24, "seed": 4, "temperature": 0.3, **fields}
            answer = other.post("/v1/completions", body).ok()
            return answer["choices"][0]["text"], answer["usage"]["completion_tokens_details"]["accepted_prediction_tokens"], answer

        # The server drafts for who says nothing, which changes no token; null, false, or a preset's false turns it off.
        plain, accepted, answer = complete("base")
        expect_true(accepted > 0 and "intervention" not in answer["usage"], f"{accepted} accepted by the server's own drafts")
        for off in (complete("base", intervention={"speculative": None}), complete("base", intervention={"speculative": False}), complete("base+patient")):
            expect(off[:2], (plain, 0))
        expect_true(complete("base+patient", intervention={"speculative": {"draft": "lookup"}})[1] > 0, "the request's own drafts")
        experts = {"positive": "nontoxic", "negative": "toxic", "alpha": 2.0, "top_p": 0.9}
        by_hand = complete("base", intervention={"experts": experts})[0]
        expect(complete("base+detoxified")[0], by_hand)
        expect_true(by_hand != plain, "the preset changes nothing")
        expect(complete("base+detoxified", intervention={"experts": None})[0], plain)
        expect(complete("base+anti")[0], complete("base", intervention={"experts": {"negative": "toxic"}, "speculative": None})[0])
        models = {model["id"]: model.get("intervention") for model in other.get("/v1/models").ok()["data"]}
        expect(models["base+detoxified"], {"experts": experts})
    for drafts in ("nobody", "toxicity", "lookup,draft,draft", ""):
        config.write_text((STEERED_PRESETS % (MODEL, *(folder.heads / STACKED[name] for name in ("toxicity", "nontoxic", "toxic", "draft"))))
                          .replace("lookup,draft", f"'{drafts}'"))
        ends_at_once(config, "speculative")


def ends_at_once(config, *parts):
    """The server does not start, and says why."""
    other = Server("--config", config, ready=False)
    with other:
        other.stopped_by_test = True
        status = other.process.wait(60)
        expect(status in (1, 2), True, f"status {status}")
        log = other.log()
        for part in parts:
            expect_true(part in log, log)
        other.process.returncode = 0  # the expected end


def presets_are_checked_at_the_start(server, folder):
    config = folder.heads.parent / "bad.yaml"
    for preset, part in (("{reward: {heads: {nobody: 1}}}", "nobody"), ("{rewards: 1}", "rewards"),
                         ("{experts: {negative: x}}", "experts"), ("{guard: {head: start}}", "above"), ("5", "intervention")):
        config.write_text(f"model: {MODEL}\nhead: {{start: '{folder.heads / 'one.gguf'}'}}\npresets: {{p: {preset}}}\n")
        ends_at_once(config, part, "p")


def main():
    require_model()
    paths = make_heads(one=["--label", "toxic", "--init", "normal", "--seed", "5"], two=["--label", "other", "--init", "normal"])
    folder = Folder(paths)
    (folder.heads / "stacked").mkdir()
    for name, path in make_all_heads().items():
        (folder.heads / "stacked" / path.name).write_bytes(path.read_bytes())
    cases = [lists_what_was_configured, loads_and_unloads, stays_inside_the_folder, keeps_a_head_that_is_in_use, counts_a_head_by_its_file, loads_while_busy,
             asks_for_parents_first, keeps_a_parent_while_its_child_is_there, unloads_under_running_requests,
             names_no_client_in_metrics, is_off_without_a_folder, presets_are_models, presets_steer_and_draft,
             presets_are_checked_at_the_start]
    with Server(*head_flags({"start": paths["one"]}), "--heads-dir", folder.heads) as server:
        return run_cases(cases, server, folder)


if __name__ == "__main__":
    sys.exit(main())
