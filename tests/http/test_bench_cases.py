#!/usr/bin/env python3
"""`otter bench`: the cases that the loaded heads and models call for, each of them run once.

test-timeout: 300
"""

import json
import math
import os
import shutil
import statistics
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
    few, many = (float(rows[plain + f"ARGS toxicity k=10 w={w}"][4]) for w in (-4, -100))
    expect_true(1 <= few <= many <= 10 and many > 1, f"candidates scored a token: {few} at -4, {many} at -100")
    expect(rows[plain + "ARGS toxicity w=-4, 3 by toxicity-lookahead"][4], "3.00", "candidates that lookahead leaves")


def figures_come_with_limits_and_work():
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "bench.json")
        printed = bench("--model", str(MODEL), *SMALL, "--rounds", "2", "--only", "plain", "--contexts", "48", "--json", out, "--profile").stdout
        with open(out, encoding="utf-8") as f:
            told = json.load(f)
    rows = rows_of(printed.split("us a step")[0])
    cases = {case["name"]: case for case in told["cases"]}
    expect(list(cases), ["prefill", "decode, batch 1", "prefill, context 48", "decode, context 48"])
    expect_true(set(told["limits"]) == {"read_gb_s", "int8_gop_s", "float_gflop_s"} and told["limits"]["read_gb_s"] > 0, told["limits"])
    expect(told["machine"]["threads"], 2)
    for name, case in cases.items():
        expect_true(case["rates"] == [case["min"], case["max"]], case)
        expect_true(math.isclose(case["tokens_per_s"], statistics.median(case["rates"]), rel_tol=1e-5), case)
        expect_true(abs(float(rows[name][0]) - case["tokens_per_s"]) < 0.06, f"{rows[name]} and {case}")
        expect_true(case["limit"] in ("int8", "float", "read", None) and (case["share"] is None) == (case["limit"] is None), case)
    # A decoded token takes two operations for each weight, and reads each once: 4 to 8 bits each, scales included.
    decode, weights = cases["decode, batch 1"]["work_a_token"], told["model"]["weight_bytes"]
    expect_true(2 * weights < decode["int8_ops"] < 4 * weights, f"{decode['int8_ops']} operations a token, {weights} bytes of weights")
    expect_true(0.9 * weights < decode["bytes"] < 1.2 * weights, f"{decode['bytes']} bytes a token, {weights} of weights")
    expect_true(cases["prefill, context 48"]["prompt_tokens"] == 42, cases["prefill, context 48"])
    expect_true("| qkv | " in printed and "outside the stages" in printed, printed)


def the_machine_alone_is_measured():
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "limits.json")
        printed = bench("--limits", "--threads", "1", "--json", out).stdout
        with open(out, encoding="utf-8") as f:
            told = json.load(f)
    expect_true("read" in printed and told["cases"] == [] and told["limits"]["read_gb_s"] > 0, printed)
    bench("--limits", "--json", "/nonexistent/limits.json", status=1)


def only_picks_cases_and_keeps_the_plain_ones():
    rows = rows_of(bench("--model", str(MODEL), *SMALL, "--only", "nothing,like this").stdout)
    expect(list(rows), ["prefill", "decode, batch 1"])


def what_is_wrong_is_status_2():
    for flags in ([], ["--model", str(MODEL), "--rounds", "0"], ["--model", str(MODEL), "--contexts", "64"], ["--model", str(MODEL), "--batches", "65"], ["--unknown"]):
        expect_true(bench(*flags, status=2).stderr.startswith("otter bench: "), f"{flags}: no word about what is wrong")
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
    return run_cases([a_model_alone_has_plain_cases_and_lookup, figures_come_with_limits_and_work, the_machine_alone_is_measured, only_picks_cases_and_keeps_the_plain_ones, what_is_wrong_is_status_2,
                      the_comparison_is_found, every_way_has_a_case_that_runs])


if __name__ == "__main__":
    sys.exit(main())
