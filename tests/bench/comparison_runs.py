"""Runs of `otter generate --batch`: texts of a system for its quality, and rounds of all systems in turn for time and memory.

Texts are kept in the work folder under a key of everything they depend on (flags, prompts, threads, and size and time of the program and of
the files), and go on where an earlier run was broken off; so a comparison can be stopped, extended by a system or drawn again without repeating what
is known. Time and memory are never kept: a round runs every system once, one prompt at a time, and systems are compared within
rounds of one call.
"""

import gzip
import hashlib
import json
import pathlib
import random
import statistics
import subprocess


def read_rows(path, want, seed):
    """`want` rows of a JSON Lines file, in a shuffled order that is always the same."""
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    random.Random(seed).shuffle(rows)
    return rows[:want] if want else rows


class Runner:
    def __init__(self, otter, files, work, threads):
        self.otter, self.files, self.threads = str(otter), files, threads
        self.work = pathlib.Path(work)
        self.work.mkdir(parents=True, exist_ok=True)

    def key(self, flags, source_text):
        """A name for answers. Threads and the program count too: how many drafts are tried follows what a pass costs."""
        parts = [part for flag in flags for part in flag.split("=", 1)[-1].split(",") if part.endswith(".gguf")]
        stats = [[str(path), path.stat().st_size, path.stat().st_mtime_ns]
                 for path in map(pathlib.Path, [self.otter, self.files.base, *parts]) if path.exists()]
        return hashlib.sha256(json.dumps([flags, self.threads, stats, source_text]).encode()).hexdigest()[:16]

    def generate(self, flags, source, out, resume):
        command = [self.otter, "generate", "--model", str(self.files.base), "--batch", str(source), "--out", str(out),
                   "--threads", str(self.threads), *flags]
        if resume:
            command.append("--resume")
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: status {done.returncode}")
        return json.loads(done.stdout)

    def texts(self, rows, flags):
        """The answers' lines, from the work folder or made now."""
        source_text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        name = self.key(flags, source_text)
        source, out = self.work / f"{name}.in.jsonl", self.work / f"{name}.jsonl"
        source.write_text(source_text, encoding="utf-8")
        per_row = int(flags[flags.index("--n") + 1]) if "--n" in flags else 1
        if not out.exists() or sum(1 for _ in open(out, encoding="utf-8")) < len(rows) * per_row:
            self.generate(flags, source, out, resume=True)
        with open(out, encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def time_once(self, rows, flags):
        source, out = self.work / "timing.in.jsonl", self.work / "timing.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        out.unlink(missing_ok=True)
        return self.generate([*flags, "--max-sequences", "1"], source, out, resume=False)

    def rounds(self, rows, flags_of, n_rounds, tell):
        """flags_of: {key: flags}. Every system once a round; {key: medians, and the ratio to `plain` within each round}."""
        seen = {key: [] for key in flags_of}
        for i in range(n_rounds):
            for key, flags in flags_of.items():
                tell(f"timing, round {i + 1} of {n_rounds}: {key}")
                seen[key].append(self.time_once(rows, flags))
        result = {}
        for key, runs in seen.items():
            seconds = [run["seconds"] / max(1, run["completion_tokens"]) for run in runs]
            plain = [run["seconds"] / max(1, run["completion_tokens"]) for run in seen["plain"]]
            ratios = [a / b for a, b in zip(seconds, plain)]
            memory = max(run["resident_bytes"] for run in runs)
            result[key] = {
                "tokens_per_second": statistics.median(1 / s for s in seconds),
                "time_ratio": statistics.median(ratios), "time_ratios": ratios,
                "resident_mib": memory / 2**20,
                "space_ratio": memory / max(run["resident_bytes"] for run in seen["plain"]),
            }
        return result
