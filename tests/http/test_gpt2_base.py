#!/usr/bin/env python3
"""A GPT-2 file served from end to end, with LayerNorm insertions as heads: text through its tokenizer, log-probabilities and scores as
the NumPy reference has them, ARGS as its definition has it, and a context that ends with the table of positions.

The weights are random, from tests/golden. The vocabulary is GPT-2's own where OTTER_TEST_DATA has it, else a tiny one.

test-timeout: 300
"""

import os
import pathlib
import subprocess
import sys
import tempfile

from server_process import ROOT, Server, SkipCase, expect, expect_true, in_parallel, require_model, run_cases, skip

try:
    import numpy as np
except ImportError:
    skip("NumPy is not installed")

sys.path.insert(0, str(ROOT / "tests" / "golden"))
import gguf_io  # noqa: E402
import make_golden  # noqa: E402
import reference  # noqa: E402
import test_args_by_hand as args  # noqa: E402

DATA = pathlib.Path(os.environ.get("OTTER_TEST_DATA", ROOT.parent / "shared" / "data"))
VOCABULARY = DATA / "tokenizer" / "ggml-vocab-gpt-2.gguf"
CONTEXT = 80
TEXT = "It is the river that we came for, and the hills."


def put_gpt2_vocabulary(writer):
    """The tokenizer's keys as they stand in the vocabulary-only file."""
    reader = gguf_io.Reader(VOCABULARY)
    elements = {"tokens": gguf_io.STRING, "merges": gguf_io.STRING, "token_type": gguf_io.I32}
    for key, value in reader.keys.items():
        if key.startswith("tokenizer."):
            writer.put(key, reader.key_types[key], value, elements.get(key.rsplit(".", 1)[1]) if isinstance(value, list) else None)
    return len(reader.keys["tokenizer.ggml.tokens"])


class Files:
    """The base, a head and one stacked on it; on disk and in the reference."""

    def __init__(self, folder):
        at = lambda name: pathlib.Path(folder) / f"{name}.gguf"
        self.base, self.paths = at("base"), {"toxicity": at("toxicity"), "second": at("second")}
        make_golden.make_gpt2(self.base, 21, d=32, heads=2, n_ff=64, context=CONTEXT,
                              vocabulary=put_gpt2_vocabulary if VOCABULARY.exists() else make_golden.put_vocabulary)
        self.model = reference.Model(self.base, np.float64)
        sizes = dict(width=16, n_ff=24, heads=2, kv_heads=2)
        make_golden.make_insertion(self.paths["toxicity"], 22, self.model, **sizes)
        lower = reference.Insertion(self.paths["toxicity"], [], np.float64)
        make_golden.make_insertion(self.paths["second"], 23, self.model, parents=[("toxicity", lower)], outputs=2,
                                   activation="identity", **sizes)
        self.heads = [lower, reference.Insertion(self.paths["second"], [lower], np.float64)]

    def flags(self):
        return [flag for name, path in self.paths.items() for flag in ("--head", f"{name}={path}")]

    def forward(self, tokens):
        """With keys and values in halves, as they are served."""
        return self.model.forward(tokens, self.heads, kv_round=lambda x: x.astype(np.float16).astype(x.dtype))


def tokens_of(server, text=TEXT):
    return server.post("/tokenize", {"content": text}).ok()["tokens"]


def text_comes_back(server, files):
    tokens = tokens_of(server)
    expect_true(3 < len(tokens) < CONTEXT // 2 and max(tokens) < files.model.reader.tensors["token_embd.weight"].dims[1], f"{tokens}")
    expect(server.post("/detokenize", {"tokens": tokens}).ok()["content"], TEXT)


def log_probabilities_are_the_references(server, files):
    tokens = tokens_of(server)
    choice = server.complete(tokens, max_tokens=24, logprobs=1, ignore_eos=True, return_token_ids=True)["choices"][0]
    whole = tokens + choice["token_ids"]
    logprobs = reference.log_softmax(files.model.logits(files.forward(whole).hidden))
    for i, (token, got) in enumerate(zip(choice["token_ids"], choice["logprobs"]["token_logprobs"])):
        row = logprobs[len(tokens) - 1 + i]
        expect_true(abs(row[token] - got) < 3e-3, f"token {i}: log-probability {got}, reference {row[token]}")
        expect_true(row.max() - row[token] < 6e-3, f"token {i}: {row[token]} is not the largest, {row.max()}")
    expect(len(choice["token_ids"]), 24, "tokens")


def scores_are_the_references(server, files):
    tokens = tokens_of(server)
    columns = {"toxicity": ("toxicity", 0), "second": ("second", 0), "second/label1": ("second", 1)}
    row = server.post("/v1/score", {"input": tokens, "heads": list(columns), "per_token": True}).ok()["data"][0]
    expected = dict(zip(files.paths, files.forward(tokens).scores))
    expect(sorted(row["per_token"]), sorted(columns), "scores")
    for name, (head, k) in columns.items():
        worst = np.abs(np.array(row["per_token"][name]) - expected[head][:, k]).max()
        expect_true(worst < 3e-3, f"{name}: {worst} from the reference")
        expect_true(np.ptp(expected[head][:, k]) > 0.05, f"{name}: the scores hardly differ: the comparison shows little")


def args_takes_the_tokens_of_the_definition(server, files):
    n_changed = 0
    for weight, k in ((8.0, 4), (-8.0, 10)):
        tokens, scores, changed = args.by_hand(server, TEXT, weight, k)
        answer = args.steered(server, TEXT, weight, k)
        expect(answer["choices"][0]["token_ids"], tokens, f"w = {weight}, k = {k}")
        expect(answer["choices"][0]["signals"]["toxicity"], scores, f"w = {weight}, k = {k}: signals")
        n_changed += changed
    expect_true(n_changed >= 3, f"steering changed {n_changed} tokens: the comparison shows little")


def heads_and_neighbours_change_no_bit(server, files):
    fields = dict(max_tokens=30, logprobs=5, ignore_eos=True, return_token_ids=True)
    signalled = dict(fields, intervention={"signals": ["toxicity"]})
    steered = dict(fields, intervention={"reward": {"heads": {"toxicity": 8.0}, "candidates": 5}})
    prompts = [tokens_of(server, TEXT[i:]) for i in range(0, 12, 3)]
    calls = [lambda p=p, f=f: server.complete(p, **f)["choices"][0] for p in prompts for f in (fields, signalled, steered)]
    alone = [call() for call in calls]
    expect(in_parallel(calls), alone, "together")
    with Server("--threads", "1", "--max-batch-tokens", "64", model=files.base) as without:
        for i, prompt in enumerate(prompts):
            expect(without.complete(prompt, **fields)["choices"][0], alone[3 * i], "without heads, on one thread")


def the_context_ends_with_the_positions(server, files):
    expect(server.get("/v1/models").ok()["data"][0]["max_model_len"], CONTEXT, "max_model_len")
    tokens = (tokens_of(server) * CONTEXT)[:CONTEXT]
    body = {"model": server.model_id(), "prompt": tokens, "max_tokens": 1}
    expect(server.post("/v1/completions", body).status, 400, "a prompt as long as the context")
    choice = server.complete(tokens[:-5], max_tokens=5, ignore_eos=True, return_token_ids=True,
                             intervention={"reward": {"heads": {"toxicity": 2.0}, "candidates": 8}})["choices"][0]
    expect((len(choice["token_ids"]), choice["finish_reason"]), (5, "length"), "to the very end, with candidates")
    flags = ["--ctx-size", str(CONTEXT + 1)]
    refused = subprocess.run([*server.command(), *flags], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    expect(refused.returncode, 1, "the status of a server with a longer context")
    expect_true(str(CONTEXT) in refused.stderr, f"the message does not name the context: {refused.stderr}")


def chat_without_a_template_is_an_error_object(server, files):
    if "tokenizer.chat_template" in files.model.reader.keys:
        raise SkipCase("this vocabulary has a chat template")
    answer = server.post("/v1/chat/completions", {"model": server.model_id(), "messages": [{"role": "user", "content": "hello"}]})
    expect(answer.status, 400, "status")
    expect_true("template" in answer.json()["error"]["message"], answer.body.decode())


def main():
    require_model()
    with tempfile.TemporaryDirectory() as folder:
        files = Files(folder)
        with Server("--threads", "2", *files.flags(), model=files.base) as server:
            return run_cases([text_comes_back, log_probabilities_are_the_references, scores_are_the_references,
                              args_takes_the_tokens_of_the_definition, heads_and_neighbours_change_no_bit,
                              the_context_ends_with_the_positions, chat_without_a_template_is_an_error_object], server, files)


if __name__ == "__main__":
    sys.exit(main())
