#!/usr/bin/env python3
"""Otter beside llama.cpp on one machine, in alternating rounds: prefill, decoding, and servers under load.

    make bench-peer                                   builds the peer once, and runs this
    tests/bench/peer.py --peer-dir DIR --out NAME     with a folder that has llama.cpp's tools; writes NAME.md and NAME.json

Every round runs Otter, the peer on the same file and the peer on its own Q4_0 of the same weights, every other round in the
opposite order, so that a drift of the machine's speed falls on all alike. The figures are medians; what else runs on the machine falls on both, but not alike:
llama.cpp's threads wait for each other by spinning. Measure on a quiet machine, and look at the load average that the report states.

Needs no package beyond Python itself. The peer with 64 clients takes most of the time; `--load 16 --load-rounds 1`
or `--load none` shorten a run.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from statistics import median

import peer_report
import peer_runs
from peer_report import OTTER, PEER, PEER_Q4_0

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL = ROOT / "models" / "smollm2-135m-instruct-q4_1.gguf"
TOOLS = ("llama-bench", "llama-batched-bench", "llama-server", "llama-quantize")


def counts(text):
    """'1,4,16' as numbers; 'none' as no number."""
    try:
        found = [] if text == "none" else [int(word) for word in text.split(",")]
    except ValueError:
        found = [0]
    if any(not 1 <= n <= 1024 for n in found):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of counts from 1 to 1024")
    return found


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL, help="GGUF file for both (default: the default model)")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="folder with otter and tests/bench/load-client (default build)")
    parser.add_argument("--peer-dir", type=Path, default=ROOT / "build" / "peer" / "bin", help="folder with llama.cpp's tools")
    parser.add_argument("--out", type=Path, help="writes NAME.md and NAME.json after every round", metavar="NAME")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each side (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="of prefill and decoding (default 5)")
    parser.add_argument("--prompt-tokens", type=int, default=512, help="of the prefill case (default 512)")
    parser.add_argument("--decode-tokens", type=int, default=64, help="of a decode case (default 64)")
    parser.add_argument("--batches", type=counts, default=[1, 16], help="sequences decoded together (default 1,16)")
    parser.add_argument("--q4-0", choices=["pure", "mixed", "none"], default="pure",
                        help="also the peer on Q4_0 of the same weights: every matrix (pure), or with the larger types that llama-quantize "
                             "mixes in; kept beside --peer-dir (default pure)")
    parser.add_argument("--load", type=counts, default=[1, 4, 16, 64], help="clients of the servers at once, or none (default 1,4,16,64)")
    parser.add_argument("--load-rounds", type=int, default=3, help="rounds that have the servers as well (default 3)")
    parser.add_argument("--load-prompt-words", type=int, default=512, help="of each client, about a token each (default 512)")
    parser.add_argument("--load-tokens", type=int, default=64, help="that each client asks for (default 64)")
    parser.add_argument("--peer-slots", type=int, default=16, help="llama-server's -np (default 16)")
    options = parser.parse_args()
    if options.rounds < 1 or options.threads < 1 or not options.batches:
        parser.error("--rounds, --threads and --batches need at least one")
    return options


def check_files(options):
    needed = [options.model, options.build / "otter", *(options.peer_dir / tool for tool in TOOLS)]
    if options.load:
        needed.append(options.build / "tests" / "bench" / "load-client")
    missing = [str(path) for path in needed if not path.exists()]
    if missing:
        raise peer_runs.Failure(f"not there: {', '.join(missing)} (`make bench-peer` builds what it needs, scripts/get-model fetches the model)")


def speed_systems(options):
    """{system: function that runs its cases}."""
    otter, tools = options.build / "otter", options.peer_dir
    systems = {OTTER: lambda: peer_runs.run_otter(otter, options.model, options),
               PEER: lambda: peer_runs.run_peer(tools, options.model, options)}
    if options.q4_0 != "none":
        own = options.peer_dir.parent / f"{options.model.stem}-q4_0-{options.q4_0}.gguf"
        peer_runs.quantize(tools, options.model, own, options.q4_0 == "pure", options.threads)
        systems[PEER_Q4_0] = lambda: peer_runs.run_peer(tools, own, options)
    return systems


def load_systems(options):
    """{system: function of a port that gives the server's command}."""
    return {OTTER: lambda port: peer_runs.otter_command(options.build / "otter", options.model, options, port),
            PEER: lambda port: peer_runs.peer_command(options.peer_dir, options.model, options, port)}


def in_turn(systems, round_number):
    """The systems of a round, every other round from the last to the first."""
    names = list(systems)
    return names if round_number % 2 == 0 else names[::-1]


def run_round(number, options, systems, told):
    """The figures of a round; `told` takes what each system says of itself and the machine."""
    def show(what):
        print(f"round {number + 1} of {options.rounds}: {what}", file=sys.stderr, flush=True)

    found = {"speed": {}, "limits": None}
    for name in in_turn(systems, number):
        show(name)
        found["speed"][name], told[name] = systems[name]()
    found["limits"] = told[OTTER]["limits"]
    if options.load and number < options.load_rounds:
        found["load"] = {}
        commands = load_systems(options)
        for name in in_turn(commands, number):
            show(f"{name} serves {', '.join(map(str, options.load))} clients")
            client = options.build / "tests" / "bench" / "load-client"
            found["load"][name] = peer_runs.run_load(client, commands[name], options, seed=number + 1)
        found["load"] = {name: found["load"][name] for name in commands}
    found["speed"] = {name: found["speed"][name] for name in systems}  # as they are listed, whatever the order of the round
    return found


def result_of(options, rounds, told, load_average):
    own = told[OTTER]
    sizes = {name: getattr(options, name) for name in ("threads", "prompt_tokens", "decode_tokens", "batches", "q4_0", "load",
                                                       "load_prompt_words", "load_tokens", "peer_slots")}
    limits = {name: median(r["limits"][name] for r in rounds) for name in own["limits"]}
    return {"machine": own["machine"], "limits": limits, "model": own["model"], "load_average": load_average, "sizes": sizes,
            "peer": {key: told[PEER][key] for key in ("build_commit", "build_number", "model_type")}, "rounds": rounds}


def write(out, result, text):
    out.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{out}.json").write_text(json.dumps(result, indent=1) + "\n")
    Path(f"{out}.md").write_text(text + "\n")


def main():
    options = parse_arguments()
    start, load_average = time.monotonic(), os.getloadavg()[0]
    rounds, told = [], {}
    try:
        check_files(options)
        systems = speed_systems(options)
        for number in range(options.rounds):
            rounds.append(run_round(number, options, systems, told))
            result = result_of(options, rounds, told, load_average)
            text = peer_report.report(result)
            if options.out:
                write(options.out, result, text)
    except (peer_runs.Failure, OSError) as failure:
        print(f"peer: {failure}", file=sys.stderr)
        return 1
    print(text)
    print(f"{time.monotonic() - start:.0f} s in all", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
