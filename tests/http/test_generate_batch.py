#!/usr/bin/env python3
"""`otter generate --batch`: rows of every shape, the same line whatever runs beside it, and runs that were broken off.

test-timeout: 300
"""

import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from api_support import head_flags
from server_process import BIN, MODEL, expect, expect_true, require_model, run_cases
from value_heads import make_all_heads

folder = None
ROWS = [
    {"prompt": "Name three colours."},
    {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is rain?"}], "note": 1},
    {"text": "One, two, three, four. One, two, three,"},
    {"prompt": "Wie heißt du? “Ünïcödé” \U0001f600"},
    {"text": "The old man and the"},
]


def write_rows(rows, name="in.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def command(source, out, *flags):
    return [str(BIN), "generate", "--model", str(MODEL), "--batch", str(source), "--out", str(out), "--threads", "2", *flags]


def run(source, name, *flags, status=0):
    """The parsed lines, and what was printed."""
    out = folder / name
    out.unlink(missing_ok=True)
    done = subprocess.run(command(source, out, *flags), capture_output=True, text=True, timeout=250)
    expect(done.returncode, status, done.stderr)
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()], done


def single(*flags):
    done = subprocess.run([str(BIN), "generate", "--model", str(MODEL), "--threads", "2", *flags], capture_output=True, text=True,
                          timeout=120)
    expect(done.returncode, 0, done.stderr)
    return done.stdout


def ids_of(text, decode=False):
    done = subprocess.run([str(BIN), "tokenize", "--model", str(MODEL), *(["--decode"] if decode else [])], input=text,
                          capture_output=True, text=True, timeout=60)
    expect(done.returncode, 0, done.stderr)
    return done.stdout


def rows_come_out_in_order_as_single_prompts_would():
    lines, done = run(write_rows(ROWS), "plain.jsonl", "--max-tokens", "24", "--logprobs")
    expect(len(lines), len(ROWS))
    for row, line in zip(ROWS, lines):
        kind = next(key for key in ("prompt", "messages", "text") if key in row)
        expect(line[kind], row[kind], "echo")
        flags = {"prompt": ["--chat"], "text": [], "messages": ["--chat", "--system", "Be brief."]}[kind]
        prompt = row["messages"][1]["content"] if kind == "messages" else row[kind]
        expect(line["completion"] + "\n", single("--prompt", prompt, "--max-tokens", "24", *flags), f"row {row}")
        expect(line["finish_reason"] in ("stop", "length"), True, line["finish_reason"])
        expect(line["usage"]["prompt_tokens"], len(line["prompt_tokens"]), "prompt tokens")
        expect(line["usage"]["completion_tokens"], len(line["completion_tokens"]), "completion tokens")
        expect(len(line["logprobs"]), len(line["completion_tokens"]), "log-probabilities")
        expect_true(all(value <= 0 for value in line["logprobs"]), "a log-probability above 0")
        if line["finish_reason"] == "length":
            expect(len(line["completion_tokens"]), 24, "length")
    text = lines[2]
    expect([int(part) for part in ids_of(ROWS[2]["text"]).replace(",", " ").strip("[]\n ").split()], text["prompt_tokens"], "ids")
    summary = json.loads(done.stdout)
    expect(summary["rows"], len(ROWS), "rows of the summary")
    expect(summary["completion_tokens"], sum(len(line["completion_tokens"]) for line in lines), "tokens of the summary")


def a_row_depends_on_itself_alone():
    """Steered, sampled and drafted, several answers each: one at a time, and all at once."""
    heads = make_all_heads()
    rows = write_rows(ROWS, "steered-in.jsonl")
    steering = [*head_flags(heads), "--max-tokens", "12", "--temperature", "0.8", "--seed", "7", "--n", "3", "--logprobs",
                "--experts", "positive=nontoxic,negative=toxic,alpha=1.5,top-p=0.9", "--reward", "toxicity=-3",
                "--candidates", "6", "--signals", "policy/insult"]
    alone, _ = run(rows, "alone.jsonl", *steering, "--max-sequences", "1")
    together, _ = run(rows, "together.jsonl", *steering, "--max-sequences", "32")
    drafted, _ = run(rows, "drafted.jsonl", *steering, "--draft", "lookup", "--draft", "draft-otter:3")
    expect(len(alone), 3 * len(ROWS))
    for a, b, c in zip(alone, together, drafted):
        for key in ("choice", "completion", "completion_tokens", "logprobs", "signals"):
            expect(b[key], a[key], f"{key}, all at once")
            expect(c[key], a[key], f"{key}, with drafts")
        expect(sorted(a["signals"]), ["policy/insult", "toxicity"], "signals")
    texts = {line["completion"] for line in alone[:3]}
    expect_true(len(texts) > 1, f"three draws of one answer are all {texts}")
    plain, _ = run(rows, "unsteered.jsonl", "--max-tokens", "12", "--temperature", "0.8", "--seed", "7", "--n", "3")
    expect_true([p["completion"] for p in plain] != [a["completion"] for a in alone], "steering changed nothing")
    twice, _ = run(write_rows([ROWS[4], ROWS[4]], "twice.jsonl"), "twice-out.jsonl", "--max-tokens", "12", "--temperature", "1")
    expect_true(twice[0]["completion"] != twice[1]["completion"], "two rows had the same draws")


def an_interrupted_run_goes_on():
    rows = [{"text": f"Chapter {i}. The"} for i in range(24)]
    source = write_rows(rows, "long.jsonl")
    flags = ["--max-tokens", "24", "--max-sequences", "2", "--temperature", "1", "--n", "2"]
    run(source, "whole.jsonl", *flags)
    whole = (folder / "whole.jsonl").read_bytes()
    out = folder / "broken.jsonl"
    process = subprocess.Popen(command(source, out, *flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        deadline = time.time() + 60
        while time.time() < deadline and (not out.exists() or out.stat().st_size == 0):
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        expect(process.wait(30), 1, "status of an interrupted run")
    finally:
        process.kill()
    part = out.read_bytes()
    expect_true(0 < len(part) < len(whole), f"{len(part)} of {len(whole)} bytes: not interrupted midway")
    expect_true(whole.startswith(part) and part.endswith(b"\n"), "what an interrupted run leaves is no beginning in whole lines")
    out.write_bytes(part[:-20])  # as if the machine had gone down in the last line
    done = subprocess.run(command(source, out, *flags, "--resume", "--max-sequences", "7"), capture_output=True, timeout=120)
    expect(done.returncode, 0, done.stderr.decode())
    expect_true(out.read_bytes() == whole, "the resumed file differs from the whole one")
    again = subprocess.run(command(source, out, *flags, "--resume"), capture_output=True, timeout=60)
    expect(again.returncode, 0, "resuming a finished run")
    expect_true(out.read_bytes() == whole, "resuming a finished run changed it")


def mistakes_are_named():
    for rows, words in (([{"prompt": "a"}, {"question": "b"}], ["bad.jsonl:2", "none of"]),
                        ([{"prompt": "a", "text": "b"}], ["bad.jsonl:1", "'prompt' and 'text'"])):
        _, done = run_expecting_no_file(write_rows(rows, "bad.jsonl"))
        expect_true(all(word in done.stderr for word in words), f"{words} are not in {done.stderr!r}")
    source = write_rows(ROWS[:2], "two.jsonl")
    kept = folder / "kept.jsonl"
    kept.write_text('{"prompt":"other","completion":"x"}\n')
    for flags, word in (([], "--resume"), (["--resume"], "other rows")):
        done = subprocess.run(command(source, kept, *flags), capture_output=True, text=True, timeout=60)
        expect(done.returncode, 1, done.stderr)
        expect_true(word in done.stderr, f"{word!r} is not in {done.stderr!r}")
        expect(kept.read_text(), '{"prompt":"other","completion":"x"}\n', "an answer file that was refused")
    lines, _ = run(write_rows([{"text": "word " * 600}, {"text": "Hello"}], "too-long.jsonl"), "too-long-out.jsonl", "--ctx-size",
                   "256", "--max-tokens", "4")
    expect(lines[0]["finish_reason"], "error")
    expect_true("tokens" in lines[0]["error"], lines[0]["error"])
    expect(len(lines[1]["completion_tokens"]), 4, "the row after one that is too long")


def a_bad_row_costs_its_own_line_alone():
    """Rows of no text, of another type, of no messages: a line that says so each, and the rows after them run, also when resumed."""
    bad = [({"text": ""}, "tokens"), ({"prompt": 5}, "'prompt' must be a text"), ({"messages": []}, "messages"),
           ({"messages": [{"role": "user"}]}, "content")]
    source = write_rows([*(row for row, _ in bad), {"text": "Hello"}], "bad-rows.jsonl")
    lines, done = run(source, "bad-rows-out.jsonl", "--max-tokens", "4")
    expect(len(lines), len(bad) + 1)
    for (row, word), line in zip(bad, lines):
        kind = next(iter(row))
        expect((line[kind], line["finish_reason"], line["completion"]), (row[kind], "error", ""))
        expect_true(word in line["error"], f"{word!r} is not in {line['error']!r}")
    expect(len(lines[-1]["completion_tokens"]), 4, "the row after those")
    summary = json.loads(done.stdout)
    expect((summary["rows"], summary["failed_rows"]), (1, len(bad)))
    out = folder / "bad-rows-out.jsonl"
    whole = out.read_text()
    out.write_text("".join(line + "\n" for line in whole.splitlines()[:2]))
    done = subprocess.run(command(source, out, "--max-tokens", "4", "--resume"), capture_output=True, text=True, timeout=120)
    expect(done.returncode, 0, done.stderr)
    expect(out.read_text(), whole, "resumed after a bad row")


def an_interrupted_prompt_is_status_1():
    process = subprocess.Popen([str(BIN), "generate", "--model", str(MODEL), "--prompt", "Once", "--ignore-eos", "--max-tokens", "4000"],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        expect(process.wait(30), 1, "status of an interrupted prompt")
    finally:
        process.kill()
        process.stdout.close()


def run_expecting_no_file(source):
    out = folder / "none.jsonl"
    done = subprocess.run(command(source, out), capture_output=True, text=True, timeout=60)
    expect(done.returncode, 1, done.stderr)
    expect(out.exists(), False, "an answer file for rows that were refused")
    return out, done


def wrong_usage_is_status_2():
    source = write_rows(ROWS[:1], "usage.jsonl")
    model = ["generate", "--model", str(MODEL)]
    for flags in (["--batch", str(source)], ["--batch", str(source), "--prompt", "x", "--out", "x"], ["--prompt", "x", "--n", "2"],
                  ["--batch", str(source), "--out", str(folder / "x"), "--chat"], ["--prompt", "x", "--draft-tree", "1000"]):
        done = subprocess.run([str(BIN), *model, *flags], capture_output=True, text=True, timeout=60)
        expect(done.returncode, 2, f"{flags}: {done.stderr}")
    for flags in (["--experts", "positive=x"], ["--experts", "alpha=2"], ["--experts", "neg=toxic"], ["--draft", "nothing"],
                  ["--lookahead", "none:3"], ["--reward", "x"]):
        done = subprocess.run([str(BIN), *model, "--prompt", "x", *flags], capture_output=True, text=True, timeout=60)
        expect(done.returncode, 1, f"{flags}: {done.stderr}")
        expect_true(done.stderr.startswith("otter generate: "), f"{flags}: {done.stderr!r}")


def main():
    global folder
    require_model()
    with tempfile.TemporaryDirectory(prefix="otter-test-batch-") as name:
        folder = pathlib.Path(name)
        return run_cases([rows_come_out_in_order_as_single_prompts_would, an_interrupted_run_goes_on, mistakes_are_named,
                          a_bad_row_costs_its_own_line_alone, an_interrupted_prompt_is_status_1, wrong_usage_is_status_2,
                          a_row_depends_on_itself_alone])


if __name__ == "__main__":
    sys.exit(main())
