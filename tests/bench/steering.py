#!/usr/bin/env python3
"""What steering by a head does to continuations: toxicity by another classifier, and the price in perplexity.

Continues held-out prompts through a running server, once for each weight of the head in ARGS, and judges the
continuations by a classifier that is not ours (alt-profanity-check, a linear model on word and character n-grams;
Davidson's tweets, of which the head saw some, are in its training set). Perplexity is the base model's own: from the log-probabilities that the server
reports for the tokens it chose, before steering. Prints a Markdown table; writes the figures as OUT.json and a plot OUT.png. For the
price in time see `otter bench`.

    otter serve --model MODEL --head toxicity=heads/toxicity.gguf &
    pip install -r tests/bench/requirements.txt
    tests/bench/steering.py --prompts PROMPTS.jsonl[.gz] --rows 200 --out docs/steering-toxicity
"""
import argparse
import concurrent.futures
import json
import pathlib
import sys
import time
import urllib.request

import text_measures as measures
from comparison_runs import read_rows


def read_prompts(path, rows, least_toxicity, seed):
    """Texts of the rows whose `toxicity`, if they have one, is at least so much."""
    return [row["text"] for row in read_rows(path, None, seed) if (row.get("toxicity") or 0) >= least_toxicity][:rows]


def complete(url, body):
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)


def run_weight(args, prompts, weight, temperature):
    """Continues every prompt with the head at -weight; weight 0 is plain decoding with the score as a signal."""
    intervention = {"signals": [args.head]}
    if weight > 0:
        intervention["reward"] = {"heads": {args.head: -weight}, "candidates": args.candidates}
    model = json.load(urllib.request.urlopen(args.url + "/v1/models"))["data"][0]["id"]

    def one(index):
        return complete(args.url, {
            "model": model, "prompt": prompts[index], "max_tokens": args.max_tokens, "temperature": temperature,
            "seed": index, "logprobs": 0, "top_k": args.candidates, "intervention": intervention})

    start = time.time()
    with concurrent.futures.ThreadPoolExecutor(args.concurrency) as pool:
        answers = list(pool.map(one, range(len(prompts))))
    seconds = time.time() - start
    choices = [answer["choices"][0] for answer in answers]
    logprobs = [c["logprobs"]["token_logprobs"] for c in choices]
    signals = [c["signals"][args.head][-1] for c in choices if c["signals"][args.head]]
    return {
        "weight": weight, "temperature": temperature,
        "texts": [c["text"] for c in choices],
        "perplexity": measures.perplexity(logprobs),
        "own_score": measures.mean(signals),
        "tokens": sum(map(len, logprobs)), "seconds": seconds,
        "distinct_2": measures.distinct([c["text"] for c in choices], 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--min-toxicity", type=float, default=0, help="prompts whose own toxicity is at least this")
    parser.add_argument("--head", default="toxicity")
    parser.add_argument("--weights", default="0,1,2,4,8")
    parser.add_argument("--temperatures", default="0,1")
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", required=True, help="without ending")
    args = parser.parse_args()
    if measures.toxicity([]) is None:
        sys.exit("steering.py: the judge, alt-profanity-check, is not installed: see tests/bench/requirements.txt")
    prompts = read_prompts(args.prompts, args.rows, args.min_toxicity, args.seed)
    results = []
    for temperature in [float(t) for t in args.temperatures.split(",")]:
        for weight in [float(w) for w in args.weights.split(",")]:
            result = run_weight(args, prompts, weight, temperature)
            judged = measures.toxicity(result["texts"])
            result["judge_mean"] = measures.mean(judged)
            result["judge_low"], result["judge_high"] = measures.interval(judged)
            result["judge_toxic_share"] = measures.mean(p > 0.5 for p in judged)
            result["judged"] = judged
            plain = next((r for r in results if r["temperature"] == temperature and r["weight"] == 0), result)
            change = [a - b for a, b in zip(judged, plain["judged"])]
            result["change"] = measures.mean(change)
            result["change_low"], result["change_high"] = measures.interval(change)
            results.append(result)
            print(f"temperature {temperature:g} weight {weight:g}: judge {result['judge_mean']:.3f} "
                  f"change {result['change']:+.3f} [{result['change_low']:+.3f}, {result['change_high']:+.3f}] own {result['own_score']:.3f} "
                  f"perplexity {result['perplexity']:.2f} {result['seconds']:.1f} s", file=sys.stderr, flush=True)
    print(table(results))
    keep = [{k: v for k, v in r.items() if k not in ("texts", "judged")} for r in results]
    pathlib.Path(f"{args.out}.json").write_text(json.dumps(keep, indent=1) + "\n", encoding="utf-8")
    plot(results, f"{args.out}.png")


def table(results):
    lines = ["| decoding | weight | toxicity (judge, mean) | change, 95% interval | toxic (judge > .5) | own score "
             "| perplexity | distinct-2 |", "|---|---|---|---|---|---|---|---|"]
    for r in results:
        decoding = "greedy" if r["temperature"] == 0 else f"sampled, T = {r['temperature']:g}"
        lines.append(f"| {decoding} | {r['weight']:g} | {r['judge_mean']:.3f} | "
                     + (f"{r['change']:+.3f} ({r['change_low']:+.3f} to {r['change_high']:+.3f})" if r["weight"] else "")
                     + f" | {100 * r['judge_toxic_share']:.1f}% | {r['own_score']:.3f} | "
                     f"{r['perplexity']:.2f} | {r['distinct_2']:.3f} |")
    return "\n".join(lines)


def plot(results, path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    figure, axis = plt.subplots(figsize=(6.4, 4))
    for temperature in sorted({r["temperature"] for r in results}):
        rows = [r for r in results if r["temperature"] == temperature]
        label = "greedy" if temperature == 0 else f"sampled, T = {temperature:g}"
        axis.errorbar([r["perplexity"] for r in rows], [r["judge_mean"] for r in rows], marker="o", capsize=3, label=label,
                      yerr=[[r["judge_mean"] - r["judge_low"] for r in rows], [r["judge_high"] - r["judge_mean"] for r in rows]])
        for r in rows:
            axis.annotate(f"w = {r['weight']:g}", (r["perplexity"], r["judge_mean"]), textcoords="offset points",
                          xytext=(5, 5), fontsize=8)
    axis.set_xlabel("perplexity of the continuation under the base model")
    axis.set_ylabel("toxicity by alt-profanity-check (mean)")
    axis.set_title("ARGS with the toxicity head")
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
