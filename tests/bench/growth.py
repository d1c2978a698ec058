#!/usr/bin/env python3
"""What a step costs as the context, the batch and the number of heads grow; and starting and idling.

Runs `otter bench` with each of the sizes in turn, several times over, and takes medians. Then starts the server a few times: from its
start to the first 200 of /readyz, and the processor time that it takes while nobody asks. Writes OUT.json and a plot OUT.svg, and prints
both as Markdown tables.

    pip install -r tests/bench/requirements.txt
    tests/bench/growth.py --model models/smollm2-135m-instruct-q4_1.gguf --head heads/toxicity.gguf --out docs/growth
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from peer_runs import Failure, RunningServer

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
NO_CASE = "no case has this in its name"


def bench(args, *flags):
    """One round: the JSON that `otter bench` writes."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder, "bench.json")
        command = [args.otter, "bench", "--model", args.model, "--rounds", 1, "--json", out, *flags]
        if args.threads:
            command += ["--threads", args.threads]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
        return json.loads(out.read_text(encoding="utf-8"))


def step_ms(case):
    """A step of a decoding case makes one token of each sequence; a prompt's figure is that of one token."""
    return 1e3 * (case["batch"] if case["decode_tokens"] > 1 else 1) / case["tokens_per_s"]


def grow_context(args):
    told = bench(args, "--only", NO_CASE, "--batches", 1, "--decode-tokens", args.decode_tokens, "--contexts",
                 ",".join(map(str, args.contexts)))
    cases = {case["name"]: case for case in told["cases"]}
    return told, {kind: {n: step_ms(cases[f"{kind}, context {n}"]) for n in args.contexts} for kind in ("decode", "prefill")}


def grow_batch(args):
    told = bench(args, "--only", NO_CASE, "--prompt-tokens", 32, "--decode-tokens", args.decode_tokens, "--batches",
                 ",".join(map(str, args.batches)))
    cases = {case["name"]: case for case in told["cases"]}
    return {n: step_ms(cases[f"decode, batch {n}"]) for n in args.batches}


def grow_heads(args, n):
    """n copies of a head loaded: a step that uses none of them, and one that reports all."""
    flags = [flag for i in range(n) for flag in ("--head", f"h{i}={args.head}")]
    used = NO_CASE if n == 0 else "signals h0" if n == 1 else "signals of"
    told = bench(args, *flags, "--only", used, "--prompt-tokens", 32, "--decode-tokens", args.decode_tokens, "--batches", 1)
    decode = [case for case in told["cases"] if case["name"].startswith("decode, batch 1")]
    return step_ms(decode[0]), step_ms(decode[-1])


def processor_s(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start_and_idle(args, with_head):
    """Seconds from exec to ready, the processor's share of them, and processor seconds in the idle ones."""
    head = ["--head", f"head={args.head}"] if with_head else []
    with RunningServer(lambda port: [args.otter, "serve", "--model", args.model, "--port", port, *head], ready="/readyz") as server:
        pid = server.process.pid
        told = {"ready_s": server.ready_s, "ready_processor_s": processor_s(pid)}
        time.sleep(0.5)
        before = processor_s(pid)
        time.sleep(args.idle_seconds)
        return {**told, "idle_processor_s": processor_s(pid) - before}


def measure(args):
    rounds = []
    for i in range(args.rounds):
        print(f"round {i + 1} of {args.rounds}", file=sys.stderr)
        told, context = grow_context(args)
        heads = {n: grow_heads(args, n) for n in args.heads}
        rounds.append({"context": context, "batch": grow_batch(args), "heads": heads,
                       "start": {"model": start_and_idle(args, False), "model and head": start_and_idle(args, True)}})
    def median_of(get):
        return statistics.median(get(r) for r in rounds)
    return {
        "machine": told["machine"], "limits": told["limits"], "model": told["model"], "head": pathlib.Path(args.head).name,
        "rounds": args.rounds, "idle_seconds": args.idle_seconds,
        "context": {kind: [[n, median_of(lambda r: r["context"][kind][n])] for n in args.contexts] for kind in ("decode", "prefill")},
        "batch": [[n, median_of(lambda r: r["batch"][n])] for n in args.batches],
        "heads": [[n, median_of(lambda r: r["heads"][n][0]), median_of(lambda r: r["heads"][n][1])] for n in args.heads],
        "start": {what: {key: median_of(lambda r: r["start"][what][key]) for key in rounds[0]["start"][what]}
                  for what in rounds[0]["start"]},
    }


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def report(told):
    """All figures as Markdown."""
    prefill = dict(map(tuple, told["context"]["prefill"]))
    idle = f"processor seconds in {told['idle_seconds']:g} idle ones"
    return "\n".join([
        f"{told['machine']['processor']}, {told['machine']['threads']} threads, {told['machine']['kernels']}; {told['model']['name']}; "
        f"medians of {told['rounds']} rounds; load average {told['machine']['load_average']:.1f}.\n",
        table(["context", "decode step, ms", "prompt, ms a token"],
              [[n, f"{ms:.2f}", f"{prefill[n]:.3f}"] for n, ms in told["context"]["decode"]]),
        table(["sequences", "decode step, ms", "ms a token"], [[n, f"{ms:.2f}", f"{ms / n:.2f}"] for n, ms in told["batch"]]),
        table(["heads loaded", "step without them, ms", "step that reports all, ms"],
              [[n, f"{plain:.2f}", f"{used:.2f}" if n else ""] for n, plain, used in told["heads"]]),
        table(["server with", "start to ready, s", "processor seconds until then", idle],
              [[what, f"{s['ready_s']:.2f}", f"{s['ready_processor_s']:.2f}", f"{s['idle_processor_s']:.2f}"]
               for what, s in told["start"].items()])])


def plot(told, path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    plt.rcParams["svg.hashsalt"] = "otter"
    figure, (context, batch, heads) = plt.subplots(1, 3, figsize=(13, 4), constrained_layout=True)
    context.plot(*zip(*told["context"]["decode"]), "o-", label="decode step, ms")
    prompt = context.twinx()
    prompt.plot(*zip(*told["context"]["prefill"]), "s--", color="tab:orange")
    context.plot([], [], "s--", color="tab:orange", label="prompt, ms a token (right)")
    prompt.set_ylim(0, 1.35 * prompt.get_ylim()[1])
    context.set(title="context", xlabel="tokens")
    batch.plot(*zip(*told["batch"]), "o-", label="decode step, ms")
    batch.plot([n for n, _ in told["batch"]], [n * told["batch"][0][1] / told["batch"][0][0] for n, _ in told["batch"]], ":",
               color="gray", label="one after the other")
    batch.set(title="batch", xlabel="sequences", ylim=(0, max(ms for _, ms in told["batch"])))
    heads.plot([n for n, _, _ in told["heads"]], [ms for _, ms, _ in told["heads"]], "o-", label="loaded, not used")
    heads.plot([n for n, _, _ in told["heads"]], [ms for _, _, ms in told["heads"]], "s-", label="all reported as signals")
    heads.set(title="heads", xlabel="heads loaded", xticks=[n for n, _, _ in told["heads"]])
    for axes in (context, batch, heads):
        axes.set_ylabel("ms a step")
        axes.set_ylim(0, 1.35 * axes.get_ylim()[1])  # room for the legend
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, metadata={"Date": None})


def numbers(text):
    return [int(x) for x in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--otter", default=os.environ.get("OTTER_BIN", ROOT / "build" / "otter"))
    parser.add_argument("--model", default=ROOT / "models" / "smollm2-135m-instruct-q4_1.gguf")
    parser.add_argument("--head", default=ROOT / "heads" / "toxicity.gguf", help="a scalar insertion; loaded several times")
    parser.add_argument("--out", required=True, help="without ending")
    parser.add_argument("--threads", type=int, help="default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contexts", type=numbers, default=[256, 512, 1024, 2048, 4096, 6144, 8192], help="up to 8 of them")
    parser.add_argument("--batches", type=numbers, default=[1, 2, 4, 8, 16, 32, 48, 64], help="up to 8 of them")
    parser.add_argument("--heads", type=numbers, default=[0, 1, 2, 4, 8], help="up to 8 heads")
    parser.add_argument("--decode-tokens", type=int, default=64)
    parser.add_argument("--idle-seconds", type=float, default=5)
    args = parser.parse_args()
    try:
        told = measure(args)
    except Failure as failure:
        sys.exit(f"growth.py: {failure}")
    pathlib.Path(f"{args.out}.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(report(told))
    plot(told, f"{args.out}.svg")


if __name__ == "__main__":
    main()
