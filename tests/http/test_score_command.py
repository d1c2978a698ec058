#!/usr/bin/env python3
"""`otter score` says what /v1/score says, and a text that cannot be scored costs its own line alone."""

import json
import subprocess
import sys

import numpy as np

from api_support import head_flags, make_heads
from server_process import BIN, MODEL, Server, expect, expect_true, require_model, run_cases
from value_heads import rewrite

TEXTS = ["The otter swims.", "Wie heißt du? “Ünïcödé” \U0001f600", "One, two, three, four."]
heads, drafts = {}, {}


def score(*flags, stdin="", status=0):
    """The parsed lines, and what was printed to standard error."""
    done = subprocess.run([str(BIN), "score", "--model", str(MODEL), "--threads", "1", *flags], input=stdin, capture_output=True,
                          text=True, timeout=100)
    expect(done.returncode, status, done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def as_floats(scores):
    return {name: np.float32(score) for name, score in scores.items()}


def names_and_scores_are_those_of_the_route():
    """Loaded under a name that is not the file's own; a head of several outputs has all of them as NAME/LABEL."""
    with Server("--threads", "1", *head_flags(heads)) as server:
        rows = server.post("/v1/score", {"input": TEXTS, "per_token": True}).ok()["data"]
    expect(sorted(rows[0]["scores"]), ["mine", "policy/a", "policy/b"], "names")
    for lines in (score(*head_flags(heads), "--per-token", *TEXTS)[0],
                  score(*head_flags(heads), "--per-token", stdin="".join(text + "\n" for text in TEXTS))[0]):
        expect(len(lines), len(TEXTS))
        for line, row in zip(lines, rows):
            expect(line["tokens"], len(line["per_token"]["mine"]), "tokens")
            expect(as_floats(line["scores"]), as_floats(row["scores"]), "scores")
            expect(line["per_token"]["policy/b"][-1], line["scores"]["policy/b"], "the last token's score")


def a_text_that_cannot_be_scored_costs_its_own_line():
    flags = [*head_flags(heads), "--heads", "policy/b", "--ctx-size", "64"]
    lines, stderr = score(*flags, stdin="a\n\n" + "word " * 100 + "\nb\n", status=1)
    expect(["error" in line for line in lines], [False, True, True, False])
    expect(sorted(lines[3]["scores"]), ["policy/b"])
    for number in (2, 3):
        expect_true(f"line {number}: " in stderr, stderr)
    rows = [{"text": "a", "id": 1}, {"text": 5, "id": 2}, {"other": "", "id": 3}, {"text": "b", "id": 4}]
    lines, stderr = score(*flags, "--jsonl", stdin="".join(json.dumps(row) + "\n" for row in rows) + "\nno json\n", status=1)
    expect([line.get("id") for line in lines], [1, 2, 3, 4, None])
    expect(["error" in line for line in lines], [False, True, True, False, True])
    expect_true("line 6: " in stderr, stderr)
    _, stderr = score(*flags, "", status=1)
    expect_true("text 1: " in stderr, stderr)


def without_a_head_that_scores_nothing_is_scored():
    _, stderr = score(*head_flags(drafts), "text", status=1)
    expect_true("no scalar head" in stderr, stderr)
    _, stderr = score("--head", f"mine={heads['mine']}", "--heads", "other", "text", status=1)
    expect_true("other" in stderr, stderr)
    _, stderr = score("text", status=2)
    expect_true(stderr.startswith("otter score: "), stderr)


def main():
    require_model()
    small = ["--width", "16", "--heads", "1", "--ffn", "16", "--init", "normal"]
    paths = make_heads(toxic=["--label", "toxic", *small], policy=["--label", "a", "--label", "b", *small], draft=["--label", "x", *small])
    rewrite(paths["draft"], "generation", "linear", [1, 2], 0.003, 3)
    heads.update(mine=paths["toxic"], policy=paths["policy"])
    drafts.update(draft=paths["draft"])
    return run_cases([names_and_scores_are_those_of_the_route, a_text_that_cannot_be_scored_costs_its_own_line,
                      without_a_head_that_scores_nothing_is_scored])


if __name__ == "__main__":
    sys.exit(main())
