#!/usr/bin/env python3
"""`otter eval` with several heads judges each of them, as it does alone; `otter train` asks what a head is called before anything else."""

import json
import pathlib
import subprocess
import sys
import tempfile

from api_support import make_heads
from server_process import BIN, MODEL, ROOT, expect, expect_true, require_model, run_cases

ROWS = [{"text": text, "label": i % 2} for i, text in enumerate(["You are kind.", "You fool.", "Thank you.", "Go away.", "Well done.", "Shut up."])]


def run(*arguments):
    return subprocess.run([str(BIN), *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=100)


def evaluate(data, *heads, json_wanted=True):
    flags = [part for head in heads for part in ("--head", head)]
    done = run("eval", "--model", MODEL, "--data", data, "--quiet", *(["--json"] if json_wanted else []), *flags)
    expect(done.returncode, 0, done.stderr)
    return json.loads(done.stdout) if json_wanted else done.stdout


def judges_every_head(folder, heads):
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    alone = [evaluate(data, head) for head in heads.values()]
    both = evaluate(data, *heads.values())
    expect([entry["head"] for entry in both], [str(head) for head in heads.values()])
    expect([entry["whole"] for entry in both], [entry["whole"] for entry in alone])
    expect_true(alone[0]["whole"] != alone[1]["whole"], "two heads that agree show nothing")
    text = evaluate(data, *heads.values(), json_wanted=False)
    expect([line for line in text.splitlines() if line.startswith("== ")], [f"== {head}" for head in heads.values()])
    expect_true("==" not in evaluate(data, heads["one"], json_wanted=False), "a title over a single head")


def asks_for_a_name(folder, heads):
    done = run("train", "--config", ROOT / "heads" / "toxicity.yaml", "--model", MODEL, "--data", folder / "none.jsonl", "--out", folder / "mine.gguf")
    expect(done.returncode, 2, done.stderr)
    expect_true("--name is missing" in done.stderr and "'toxicity'" in done.stderr, done.stderr)


def main():
    require_model()
    heads = make_heads(one=["--label", "toxic", "--init", "normal", "--seed", "5"], two=["--label", "rude", "--init", "normal", "--seed", "6"])
    with tempfile.TemporaryDirectory(prefix="otter-test-") as folder:
        return run_cases([judges_every_head, asks_for_a_name], pathlib.Path(folder), heads)


if __name__ == "__main__":
    sys.exit(main())
