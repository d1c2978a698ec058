#!/usr/bin/env python3
"""The comparison program without a model: figures of texts by hand, judges and near twins on made-up files, and the page that is made of
figures. Prints each case."""

import json
import math
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench"))
import comparison_report as report  # noqa: E402
import judges  # noqa: E402
import near_twins  # noqa: E402
import text_measures as measures  # noqa: E402
from comparison_runs import Runner  # noqa: E402
from comparison_systems import Files, draft_systems, expert_systems, reward_systems  # noqa: E402

failures = 0


def check(name, actual, expected):
    global failures
    good = math.isclose(actual, expected, rel_tol=1e-12) if isinstance(expected, float) else actual == expected
    failures += not good
    print(f"{'ok     ' if good else 'FAILED '} {name}" + ("" if good else f": {actual!r}, expected {expected!r}"))


def measures_by_hand():
    check("distinct-2: 3 of 4 bigrams differ", measures.distinct(["a b a b", "b c"], 2), 0.75)
    check("distinct-2 of nothing", math.isnan(measures.distinct(["a"], 2)), True)
    # a b a b a: bigrams 2 of 4, trigrams 2 of 3, 4-grams 2 of 2
    check("diversity", measures.diversity("a b a b a"), 2 / 4 * 2 / 3)
    check("diversity of short texts", measures.diversity("a"), 1.0)
    check("perplexity weighs tokens, not rows", measures.perplexity([[-1.0], [-2.0, -3.0, -2.0]]), math.exp(2.0))
    worst, toxic = measures.worst_of_samples([0.1, 0.6, 0.2, 0.3, 0.49, 0.0], 3)
    check("worst of three samples", worst, [0.6, 0.49])
    check("whether any reaches one half", toxic, [1.0, 0.0])
    check("change, pair by pair", measures.change([1.0, 2.0], [0.5, 1.0])["mean"], 0.75)
    low, high = measures.interval([0.0, 1.0] * 50)
    check("the interval of a coin", 0.38 < low < 0.45 and 0.55 < high < 0.62, True)


def degenerate_texts_are_rows_of_signs():
    good = ["", " ", "He said “no”, and left—for good…", "Well... (sort of) it costs $5.", "a_b = c[0] + 2; // ok", "naïve café, schön, 日本語の文章です"]
    bad = ["– –– – –– – –", "“’s’s” “” ‘’ – “”", "word \u00a0\u00a0 word", "and then \u2003\u2003\u2003 nothing", "so ---- it goes on and on here", "!!!! no"]
    check("texts of words", [text for text in good if measures.is_degenerate(text)], [])
    check("rows of signs", [text for text in bad if not measures.is_degenerate(text)], [])


class Intruder:
    def __reduce__(self):
        return os.system, ("touch intruded",)


class Tokenizer:
    """Pickled as a judge's vocabulary is: an object of a class that the reader does not have."""

    def __init__(self):
        self.word_index = {"mild": 1, "wild": 19999, "unknown": 20000}


def pickles_cannot_run_anything():
    with tempfile.TemporaryDirectory() as name:
        path = pathlib.Path(name, "words.pickle")
        path.write_bytes(pickle.dumps([{"steps": (Intruder(), Tokenizer())}]))
        check("a vocabulary among other things, cut to what is known", judges.vocabulary(path), {"mild": 1, "wild": 19999})
        check("nothing was run", pathlib.Path("intruded").exists(), False)
        path.write_bytes(pickle.dumps([1, 2]))
        try:
            judges.vocabulary(path)
            check("no vocabulary", False, True)
        except ValueError as why:
            check("no vocabulary", str(why), f"{path}: no vocabulary is in it")
        config = pathlib.Path(name, "config.py")
        config.write_text("import nowhere\nWORDS = \"a|b\"\n", encoding="utf-8")
        check("a constant of a file that is not run", judges.constant(config, "WORDS"), "a|b")
        there, missing = judges.installed(pathlib.Path(name))
        check("judges that are not installed are named", {"tox-block", "toxic-comment-classifier"} <= set(missing) and not set(missing) & set(there), True)


def near_twins_are_found():
    sets = [near_twins.words_of(text) for text in ("You are a complete fool, my friend!", "the cat sat on the mat", "one two three four five six seven")]
    twins = near_twins.Twins(sets, 0.7)
    for text, expected in (("you are a COMPLETE fool my friend", True), ("You are a complete fool, my enemy.", True), ("You are no complete fool, enemy", False),
                           ("one two three four five six eight", True), ("one two three four nine six eight", False), ("the cat", False), ("mat the sat cat on", True)):
        check(f"twin of {text!r}", twins.has_twin(near_twins.words_of(text)), expected)
    with tempfile.TemporaryDirectory() as name:
        train, dev, out = (f"{name}/{file}.jsonl" for file in ("train", "dev", "out"))
        pathlib.Path(train).write_text(json.dumps({"messages": [], "chosen": "all good here", "rejected": "all bad here"}) + "\n", encoding="utf-8")
        rows = [{"text": "All bad here!", "label": 1}, {"text": "something else", "label": 0}]
        pathlib.Path(dev).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        subprocess.run([sys.executable, str(ROOT / "bench" / "near_twins.py"), "--train", train, "--data", dev, "--out", out], check=True, stderr=subprocess.DEVNULL)
        check("rows without a twin", [json.loads(line) for line in open(out, encoding="utf-8")], rows[1:])


def systems_need_their_files():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for head in ("toxicity", "toxic", "toxicity-model", "toxicity-model-head"):
            (folder / f"{head}.gguf").write_bytes(b"")
        files = Files("base.gguf", [folder], ["nontoxic=elsewhere.gguf"])
        rewards = {s.key: s for s in reward_systems("toxicity", [-4.0, -8.0], 10)}
        check("missing", [rewards[k].missing(files) for k in ("plain", "otter", "separate", "lookahead")], [[], [], [], ["toxicity-lookahead"]])
        check("flags of a separate reward model", rewards["separate"].load_flags(files),
              ["--reward-model", f"toxicity-model={folder}/toxicity-model.gguf,{folder}/toxicity-model-head.gguf"])
        check("the base stands in for it", rewards["separate"].load_flags(files, "linear.gguf"),
              ["--reward-model", "toxicity-model=base.gguf,linear.gguf"])
        check("steering flags", rewards["otter"].steer, ("--reward", "toxicity=-4", "--candidates", "10"))
        check("a row for a further weight", rewards["otter-8"].steer[1], "toxicity=-8")
        experts = {s.key: s for s in expert_systems(2, 0.9)}
        check("a named file, parents first", experts["otter"].load_flags(files),
              ["--head", "nontoxic=elsewhere.gguf", "--head", f"toxic={folder}/toxic.gguf"])
        drafts = {s.key: s for s in draft_systems(4, 24)}
        check("drafts combine", drafts["otter-lookup"].steer, ("--draft", "lookup:4", "--draft", "draft-otter:4"))
        for systems in (rewards, experts, drafts):
            rivals = {s.compares_with for s in systems.values() if s.compares_with}
            check("rows to beat exist", rivals <= set(systems), True)


def kept_answers_are_those_of_all_they_depend_on():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for file in ("otter", "base.gguf", "head.gguf"):
            (folder / file).write_bytes(b"")
        runner = lambda threads: Runner(folder / "otter", Files(folder / "base.gguf", [], []), folder / "texts", threads)
        key = lambda flags=(), text="a", threads=2: runner(threads).key(["--head", f"x={folder}/head.gguf", *flags], text)
        keys = [key(), key(["--tree", "8"]), key(text="b"), key(threads=1)]
        check("the same again", key(), keys[0])
        for file in ("otter", "base.gguf", "head.gguf"):
            (folder / file).write_bytes(b"changed")
            keys.append(key())
        check("a key for each change", len(set(keys)), len(keys))


def what_has_no_prompts_is_not_run():
    with tempfile.TemporaryDirectory() as name:
        def compare(*flags):
            done = subprocess.run([sys.executable, str(ROOT / "bench" / "compare.py"), "--work", name, "--out", f"{name}/page", *flags],
                                  capture_output=True, text=True, env={**os.environ, "OTTER_TEST_DATA": name}, timeout=60)
            return done.returncode, done.stderr
        status, said = compare()
        check("nothing to run", status, 1)
        check("what is missing is named", f"drafts: not run, there is no {name}/instructions.dev.jsonl.gz (--instructions)" in said, True)
        check("no traceback", "Traceback" in said, False)
        check("nothing asked for", compare("--tables", "")[0], 0)
        check("an unknown table", compare("--tables", "drafts,nonsense")[1].startswith("no table named nonsense"), True)


def timing(time_ratio, space_ratio):
    return {"tokens_per_second": 50 / time_ratio, "time_ratio": time_ratio, "resident_mib": 200.0, "space_ratio": space_ratio}


def the_page_says_what_was_saved_and_what_is_missing():
    figures = {"perplexity": 3.5, "distinct_2": 0.5, "diversity": 0.6, "tokens": 9.0}
    score = {"mean": 0.25, "interval": [0.2, 0.3], "n": 5, "change": {"mean": -0.125, "interval": [-0.2, -0.1], "n": 5}}
    degenerate = {**score, "mean": 0.02}
    result = {"task": "toxicity", "weights": [-4], "candidates": 10, "prompts": 5, "max_tokens": 9, "scorer": "judge-model",
              "missing": {"head-only": ["toxicity-task-head-only"]}, "quality": {k: {**figures, "toxicity by tox-block": score, "separate": score, "degenerate": degenerate}
                                                                           for k in ("plain", "otter")},
              "timing": {"plain": timing(1, 1), "otter": timing(1.25, 1.1), "separate": timing(3, 2)},
              "systems": [["plain", "plain", None], ["separate", "separate", None], ["head-only", "head only", "separate"],
                          ["otter", "Otter", "separate"]],
              "run": {"date": "2026-01-02", "model": "m.gguf", "threads": 2, "rounds": 0, "load": 0.7},
              "timing_run": {"date": "2026-01-01", "model": "m.gguf", "threads": 2, "rounds": 3, "load": 0.5}}
    curve = [{"step": 1, "tokens": 10, "loss": 0.7}, {"step": 2, "tokens": 20, "loss": 0.5}, {"step": 2, "tokens": 20, "dev": {"rows": 4, "auc": 0.9}}]
    with tempfile.TemporaryDirectory() as name:
        out = pathlib.Path(name, "page")
        report.write({"tables": {"toxicity": result}, "curves": {"copy": curve}, "sizes": {}}, out)
        lines = out.with_suffix(".md").read_text(encoding="utf-8").splitlines()
    row = next(line for line in lines if line.startswith("| Otter "))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    check("a row", cells, ["Otter", "0.250", "-0.125 (-0.200 to -0.100)", "0.250", "-0.125 (-0.200 to -0.100)", "2.0%", "3.50", "0.600", "0.500", "40.0", "1.25x", "1.10x",
                           "88%", "90%"])
    check("a separate model is timed without its quality", [line for line in lines if line.startswith("| separate ")],
          ["| separate |  |  |  |  |  |  |  |  | 16.7 | 3.00x | 2.00x |  |  |"])
    check("what is missing", "Not run: head only (no toxicity-task-head-only)." in lines, True)
    check("when the times were measured", any("Time and space: measured on 2026-01-01, 2 threads, medians of 3 rounds" in line for line in lines), True)
    check("a curve's last figures", "| copy | 2 | 20 | 0.5000 | 4 | 0.9000 |" in lines, True)


if __name__ == "__main__":
    measures_by_hand()
    degenerate_texts_are_rows_of_signs()
    pickles_cannot_run_anything()
    near_twins_are_found()
    systems_need_their_files()
    kept_answers_are_those_of_all_they_depend_on()
    what_has_no_prompts_is_not_run()
    the_page_says_what_was_saved_and_what_is_missing()
    sys.exit(1 if failures else 0)
