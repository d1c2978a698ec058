#!/usr/bin/env python3
"""The comparison of the paper's tables on one base model: steering and drafts by insertions beside the same by separate models.

    pip install -r tests/bench/requirements.txt
    otter bench paper [OPTION]...           (which calls this program)
    tests/bench/compare.py [OPTION]...

Table 1: ARGS, by what scores the candidates. Table 2: DExperts. Table 3: drafts. Figure 3 and Table 4: from training curves
that `otter train --curve` wrote (--curve, --size). Every system is a row of comparison_systems.py; one whose files are not found is
reported as missing. Quality comes from batches (`otter generate --batch`), time and memory from rounds in which every system runs
once, one prompt at a time, and is compared with the plain run of its round. In these rounds separate models are as large as
the base, for which the base's own file stands in: what time costs does not depend on what they have learnt.

Writes OUT.json (all figures), OUT.md and plots OUT-*.png. Figures already in OUT.json are kept for tables that are not asked for.
"""

import argparse
import datetime
import json
import math
import os
import pathlib
import platform
import subprocess
import sys

import comparison_report as report
import judges as judges_of_others
import text_measures as measures
from comparison_runs import Runner, read_rows
from comparison_systems import Files, draft_systems, expert_systems, reward_systems

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TABLES = {"toxicity": "continuations", "experts": "continuations", "drafts": "instructions", "harmless": "chat_prompts"}  # and its prompts
DEFAULT_TABLES = "toxicity,experts,drafts"  # there is no harmless head among the shipped ones


def tell(text):
    print(f"{datetime.datetime.now():%H:%M:%S} {text}", file=sys.stderr, flush=True)


def linear_head(runner, work, activation):
    """A scalar head that reads the base alone, untrained: what a separate reward model of the base's size would carry."""
    path = pathlib.Path(work) / f"stand-in-{activation}.gguf"
    if not path.exists():
        subprocess.run([runner.otter, "init", "--model", str(runner.files.base), "--out", str(path), "--width", "0", "--label", "score",
                        "--activation", activation], check=True, stdout=subprocess.DEVNULL)
    return path


def run_of(args, runner):
    return {"date": f"{datetime.datetime.now():%Y-%m-%d}", "machine": platform.machine(), "threads": args.threads or os.cpu_count(),
            "rounds": args.rounds, "load": os.getloadavg()[1], "model": runner.files.base.name}


def split(systems, files, wanted):
    """Those that can run and are asked for, and {key: what is missing} of the others; plain decoding is always asked for."""
    missing = {system.key: system.missing(files) for system in systems}
    asked = [system for system in systems if not wanted or system.key in ("plain", *wanted.split(","))]
    return [system for system in asked if not missing[system.key]], {key: names for key, names in missing.items() if names}


def paired(values, base):
    return {**measures.estimate(values), "change": measures.change(values, base)}


# ---- Table 1 -------------------------------------------------------------------------------------------------


def reward_judge(task, files):
    """(name, flags that load it) of a separate reward model that scores the answers, one that steers no row if there is such; or None. The head that
    steers is no judge of what it did."""
    for name in (f"{task}-judge", f"{task}-model"):
        if files.find(name) and files.find(f"{name}-head"):
            return name, ["--reward-model", f"{name}={files.find(name)},{files.find(name + '-head')}"]
    return None


def quality_flags(system, files, scorer):
    flags = system.load_flags(files)
    if scorer is None:
        return flags
    name, load = scorer
    return [*flags, *([] if name in system.reward_models else load), "--signals", name]


def judge(texts, judges):
    """{"toxicity by NAME": a probability a text, ..., "degenerate": 0 or 1 a text}."""
    scores = {f"toxicity by {name}": judge_texts(texts) for name, judge_texts in judges.items()}
    return {**scores, "degenerate": [float(measures.is_degenerate(text)) for text in texts]}


def reward_quality(lines, scorer, judges):
    texts = [line["completion"] for line in lines]
    result = {
        "perplexity": measures.perplexity([line["logprobs"] for line in lines]),
        "distinct_2": measures.distinct(texts, 2),
        "diversity": measures.mean(measures.diversity(text) for text in texts),
        "tokens": measures.mean(len(line["completion_tokens"]) for line in lines),
    }
    separate = {"separate": [line["signals"][scorer[0]][-1] for line in lines]} if scorer else {}
    return result, {**separate, **judge(texts, judges)}


def time_systems(args, runner, table, rows, flags_of):
    """Rounds of today; without any (--rounds 0) what an earlier run found, with its own note."""
    if args.rounds == 0:
        earlier = args.earlier["tables"].get(table, {})
        return earlier.get("timing", {}), earlier.get("timing_run") or earlier.get("run")
    return runner.rounds(rows[:args.time_prompts], flags_of, args.rounds, tell), run_of(args, runner)


def run_rewards(args, runner, task, judges):
    files, is_chat = runner.files, task == "harmless"
    weights = [args.harmless_weight] if is_chat else [-abs(float(w)) for w in args.toxicity_weights.split(",")]
    everything = reward_systems(task, weights, args.candidates)
    systems, missing = split(everything, files, args.systems)
    if len(systems) == 1:
        sys.exit(f"{task}: none of its heads and models is there: {', '.join(sorted({name for names in missing.values() for name in names}))}")
    scorer = reward_judge(task, files)
    rows = [{"messages": row["messages"]} if is_chat else {"text": row["text"]}
            for row in read_rows(args.chat_prompts if is_chat else args.continuations, args.rows, args.seed)]
    common = ["--max-tokens", str(args.max_tokens), "--logprobs"]
    quality, plain = {}, None
    for system in systems:
        tell(f"{task}: {system.label}")
        figures, scores = reward_quality(runner.texts(rows, [*common, *system.steer, *quality_flags(system, files, scorer)]), scorer, judges)
        plain = plain or scores
        quality[system.key] = {**figures, **{who: paired(values, plain[who]) for who, values in scores.items()}}
    time_flags = ["--max-tokens", str(args.time_tokens), "--ignore-eos"]
    stand_in = linear_head(runner, args.work, "identity" if is_chat else "sigmoid")
    timed = [s for s in everything if not s.missing(files) or s.reward_models]
    timing, timing_run = time_systems(args, runner, task, rows,
                                      {s.key: [*time_flags, *s.steer, *s.load_flags(files, stand_in)] for s in timed})
    return {"task": task, "weights": weights, "candidates": args.candidates, "prompts": len(rows), "max_tokens": args.max_tokens,
            "scorer": scorer[0] if scorer else None, "missing": missing, "quality": quality, "timing": timing,
            "timing_run": timing_run, "systems": [[s.key, s.label, s.compares_with] for s in everything]}


# ---- Table 2 -------------------------------------------------------------------------------------------------


def expert_quality(lines, per_prompt, judges):
    texts = [line["completion"] for line in lines]
    groups = [texts[i:i + per_prompt] for i in range(0, len(texts), per_prompt)]
    result = {"perplexity": measures.perplexity([line["logprobs"] for line in lines])}
    for n in (1, 2, 3):
        result[f"distinct_{n}"] = measures.mean(measures.distinct(group, n) for group in groups)
    scores = {}
    for what, values in judge(texts, judges).items():
        if what != "degenerate":
            scores[what.replace("toxicity", "worst")], scores[what.replace("toxicity", "probability")] = measures.worst_of_samples(values, per_prompt)
        # One figure a prompt, so that an interval is one over prompts.
        scores[what] = [measures.mean(values[i:i + per_prompt]) for i in range(0, len(values), per_prompt)]
    return result, scores


def run_experts(args, runner, judges):
    files, everything = runner.files, expert_systems(args.alpha, args.experts_top_p)
    systems, missing = split(everything, files, args.systems)
    rows = [{"text": row["text"]} for row in read_rows(args.continuations, args.sample_prompts, args.seed)]
    sampling = ["--temperature", "1", "--top-p", str(args.top_p), "--seed", str(args.seed)]
    common = ["--max-tokens", str(args.sample_tokens), "--n", str(args.samples), "--logprobs", *sampling]
    quality, plain = {}, None
    for system in systems:
        tell(f"experts: {system.label}")
        figures, scores = expert_quality(runner.texts(rows, [*common, *system.steer, *system.load_flags(files)]), args.samples, judges)
        plain = plain or scores
        quality[system.key] = {**figures, **{what: paired(values, plain[what]) for what, values in scores.items()}}
    time_flags = ["--max-tokens", str(args.time_tokens), "--ignore-eos", *sampling]
    timed = [s for s in everything if not s.missing(files) or s.expert_models]
    timing, timing_run = time_systems(args, runner, "experts", rows, {s.key: [*time_flags, *s.steer, *s.load_flags(files, True)] for s in timed})
    return {"alpha": args.alpha, "experts_top_p": args.experts_top_p, "top_p": args.top_p, "prompts": len(rows),
            "samples": args.samples, "max_tokens": args.sample_tokens, "missing": missing, "quality": quality, "timing": timing,
            "timing_run": timing_run, "systems": [[s.key, s.label, s.compares_with] for s in everything]}


# ---- Table 3 -------------------------------------------------------------------------------------------------


def tokens_a_pass(lines):
    """Each accepted draft saved a pass. The interval is a bootstrap over answers."""
    pairs = [(line["usage"]["completion_tokens"], line["usage"]["completion_tokens"] - line["usage"]["accepted_prediction_tokens"])
             for line in lines]
    rng, ratios = measures.random.Random(0), []
    for _ in range(1000):
        drawn = rng.choices(pairs, k=len(pairs))
        ratios.append(sum(a for a, _ in drawn) / sum(b for _, b in drawn))
    ratios.sort()
    return {"mean": sum(a for a, _ in pairs) / sum(b for _, b in pairs), "interval": [ratios[25], ratios[975]], "n": len(pairs)}


def run_drafts(args, runner, _):
    files, everything = runner.files, draft_systems(args.max_draft, args.tree)
    systems, missing = split(everything, files, args.systems)
    rows = [{"prompt": row["prompt"]} for row in read_rows(args.instructions, args.rows, args.seed)]
    common = ["--max-tokens", str(args.draft_tokens)]
    quality, plain = {}, None
    for system in systems:
        tell(f"drafts: {system.label}")
        # One at a time: how many drafts are tried follows what a pass costs, which differs in a full batch.
        flags = [*common, *system.steer, *system.load_flags(files), "--max-sequences", "1"]
        lines = runner.texts(rows, flags)
        plain = plain or lines
        quality[system.key] = {
            "tokens_a_pass": tokens_a_pass(lines),
            "accepted_share": sum(line["usage"]["accepted_prediction_tokens"] for line in lines)
            / max(1, sum(line["usage"]["accepted_prediction_tokens"] + line["usage"]["rejected_prediction_tokens"] for line in lines)),
            "different_answers": sum(a["completion_tokens"] != b["completion_tokens"] for a, b in zip(lines, plain)),
        }
    timing, timing_run = time_systems(args, runner, "drafts", rows, {s.key: [*common, *s.steer, *s.load_flags(files)] for s in systems})
    return {"max_draft": args.max_draft, "tree": args.tree, "prompts": len(rows), "max_tokens": args.draft_tokens, "missing": missing,
            "quality": quality, "timing": timing, "timing_run": timing_run, "systems": [[s.key, s.label, s.compares_with] for s in everything]}


# ---- Curves --------------------------------------------------------------------------------------------------


def read_curves(named):
    curves = {}
    for pair in named:
        label, path = pair.split("=", 1)
        with open(path, encoding="utf-8") as lines:
            curves[label] = [json.loads(line) for line in lines]
    return curves


# ---- All -----------------------------------------------------------------------------------------------------


def parse_arguments():
    data = pathlib.Path(os.environ.get("OTTER_TEST_DATA", ROOT.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--otter", default=os.environ.get("OTTER_BIN", ROOT / "build" / "otter"))
    add("--model", default=ROOT / "models" / "smollm2-135m-instruct-q4_1.gguf")
    add("--dir", action="append", default=[], help="further folders of heads and models (heads, build/comparison)")
    add("--file", action="append", default=[], metavar="NAME=FILE", help="a head or model that is elsewhere")
    add("--tables", default=DEFAULT_TABLES, help=f"of {','.join(TABLES)}; empty: draw again what is known")
    add("--chat-prompts", default=data / "preference-hh-harmless.dev.jsonl.gz", help="rows with `messages`, for the table `harmless`")
    add("--continuations", default=data / "continuation-prompts.dev.jsonl.gz", help="rows with `text`, for `toxicity` and `experts`")
    add("--instructions", default=data / "instructions.dev.jsonl.gz", help="rows with `prompt`, for `drafts`")
    add("--rows", type=int, default=100, help="prompts of Tables 1 and 3")
    add("--max-tokens", type=int, default=48, help="of an answer in Table 1")
    add("--harmless-weight", type=float, default=1.5)
    add("--systems", default="", metavar="KEY[,KEY...]", help="only these rows' texts (plain, otter, lookahead, ...: comparison_systems.py); all by default")
    add("--toxicity-weights", default="4", metavar="W[,W...]", help="every row has the first; the head alone also the others")
    add("--candidates", type=int, default=10)
    add("--sample-prompts", type=int, default=100, help="prompts of Table 2")
    add("--samples", type=int, default=25)
    add("--sample-tokens", type=int, default=20)
    add("--top-p", type=float, default=0.9, help="of the sampling in Table 2")
    add("--alpha", type=float, default=1)
    add("--experts-top-p", type=float, default=0.9, help="tokens of the base that experts choose from")
    add("--draft-tokens", type=int, default=128)
    add("--max-draft", type=int, default=4)
    add("--tree", type=int, default=24)
    add("--time-prompts", type=int, default=4)
    add("--time-tokens", type=int, default=48)
    add("--rounds", type=int, default=5, help="of timing; 0: keep the times of an earlier run")
    add("--judges", default=judges_of_others.FOLDER, help="where `tests/bench/judges.py install` put the judges")
    add("--threads", type=int, default=0, help="0: all")
    add("--seed", type=int, default=1)
    add("--curve", action="append", default=[], metavar="LABEL=FILE", help="Figure 3: a training curve")
    add("--size", action="append", default=[], metavar="LABEL=FILE", help="Table 4: the curve of a size")
    add("--work", default=ROOT / "build" / "comparison" / "texts", help="where texts are kept between calls")
    add("--out", default=ROOT / "docs" / "comparison")
    return parser.parse_args()


def finite(value):
    """JSON has no word for what is not a number."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def tables_to_run(args):
    """Those asked for whose prompts are there; says which are not."""
    asked = list(filter(None, args.tables.split(",")))
    for table in asked:
        if table not in TABLES:
            sys.exit(f"no table named {table}; there are {', '.join(TABLES)}")
    runnable = []
    for table in asked:
        prompts = pathlib.Path(getattr(args, TABLES[table]))
        if prompts.exists():
            runnable.append(table)
        else:
            tell(f"{table}: not run, there is no {prompts} (--{TABLES[table].replace('_', '-')})")
    if asked and not runnable:
        sys.exit("no table can be run")
    return runnable


def main():
    args = parse_arguments()
    tables = tables_to_run(args)
    files = Files(args.model, [*args.dir, ROOT / "heads", ROOT / "build" / "comparison"], args.file)
    runner = Runner(args.otter, files, args.work, args.threads)
    out = pathlib.Path(args.out)
    kept = out.with_suffix(".json")
    results = json.loads(kept.read_text()) if kept.exists() else {"tables": {}, "curves": {}, "sizes": {}}
    args.earlier = results
    judges, missing = judges_of_others.installed(args.judges)
    for name, why in missing.items():
        tell(f"without the judge {name}, which is not installed: {why}")
    for table in tables:
        if table in ("harmless", "toxicity"):
            result = run_rewards(args, runner, table, judges)
        else:
            result = {"experts": run_experts, "drafts": run_drafts}[table](args, runner, judges)
        result["run"] = run_of(args, runner)
        results["tables"][table] = result
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(finite(results), indent=1) + "\n")
    results["curves"].update(read_curves(args.curve))
    results["sizes"].update(read_curves(args.size))
    kept.write_text(json.dumps(finite(results), indent=1) + "\n")
    report.write(results, out)
    tell(f"written: {out}.md")


if __name__ == "__main__":
    main()
