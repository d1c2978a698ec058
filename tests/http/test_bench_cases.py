#!/usr/bin/env python3
"""`otter bench`: the cases that the loaded heads and models call for, each of them run once.

test-timeout: 300
"""

import os
import shutil
import subprocess
import sys
import tempfile

from server_process import BIN, MODEL, expect, expect_true, require_model, run_cases
from value_heads import all_flags, make_all_heads

SMALL = ["--rounds", "1", "--batches", "1", "--decode-tokens", "6", "--prompt-tokens", "16", "--threads", "2"]


def bench(*flags, status=0, env=None):
    done = subprocess.run([str(BIN), "bench", *flags], capture_output=True, text=True, timeout=250, env={**os.environ, **(env or {})})
    expect(done.returncode, status, done.stderr[-2000:])
    return done


def rows_of(output):
    """{case: cells} of the table."""
    lines = [line.strip("|").split("|") for line in output.splitlines() if line.startswith("| ")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines[1:]}


def a_model_alone_has_plain_cases_and_lookup():
    rows = rows_of(bench("--model", str(MODEL), *SMALL).stdout)
    expect(list(rows), ["prefill", "decode, batch 1", "decode, batch 1, drafts lookup"])
    for name, cells in rows.items():
        expect_true(float(cells[0]) > 0, f"{name}: {cells}")
    expect_true(float(rows["decode, batch 1, drafts lookup"][5]) >= 1, "tokens a pass")


def every_way_has_a_case_that_runs():
    rows = rows_of(bench("--model", str(MODEL), *SMALL, *map(str, all_flags(make_all_heads()))).stdout)
    plain = "decode, batch 1, "
    wanted = ["signals toxicity", "ARGS toxicity k=10 w=-4", "ARGS linear k=10 w=-4", "ARGS judge k=10 w=-4",
              "ARGS toxicity-lookahead k=10 w=-4", "ARGS toxicity w=-4, 3 by toxicity-lookahead", "anti-expert toxic",
              "experts nontoxic against toxic", "anti-expert twin", "drafts lookup", "drafts draft-otter", "drafts draft-otter, tree",
              "drafts draft-otter and lookup", "drafts draft-medusa", "drafts model"]
    for name in wanted:
        expect_true(plain + name in rows, f"no case {name} among {list(rows)}")
    for name, cells in rows.items():
        expect_true(float(cells[0]) > 0, f"{name}: {cells}")
    expect(rows[plain + "ARGS toxicity k=10 w=-100"][4], "10.00", "candidates scored a token")
    expect(rows[plain + "ARGS toxicity w=-4, 3 by toxicity-lookahead"][4], "3.00", "candidates that lookahead leaves")


def only_picks_cases_and_keeps_the_plain_ones():
    rows = rows_of(bench("--model", str(MODEL), *SMALL, "--only", "nothing,like this").stdout)
    expect(list(rows), ["prefill", "decode, batch 1"])


def what_is_wrong_is_status_2():
    for flags in ([], ["--model", str(MODEL), "--rounds", "0"], ["--model", str(MODEL), "--batches", "65"], ["--unknown"]):
        expect_true("Usage" in bench(*flags, status=2).stderr, f"{flags}: no usage")
    bench("--model", "/nonexistent.gguf", status=1)


def the_comparison_is_found():
    done = bench("paper", "--help", env={"OTTER_PYTHON": sys.executable})
    expect_true("--tables" in done.stdout, done.stdout)
    with tempfile.TemporaryDirectory() as folder:  # a program without its sources says so
        copy = os.path.join(folder, "otter")
        shutil.copy(BIN, copy)
        done = subprocess.run([copy, "bench", "paper"], capture_output=True, text=True, timeout=60, cwd=folder)
        expect(done.returncode, 1, done.stderr)
        expect_true("tests/bench/compare.py" in done.stderr, done.stderr)


def main():
    require_model()
    return run_cases([a_model_alone_has_plain_cases_and_lookup, only_picks_cases_and_keeps_the_plain_ones, what_is_wrong_is_status_2,
                      the_comparison_is_found, every_way_has_a_case_that_runs])


if __name__ == "__main__":
    sys.exit(main())
