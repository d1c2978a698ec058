"""Runs of Otter and of llama.cpp for peer.py: each function starts a program, waits for it, and returns plain figures.

Speeds are in tokens a second. Both sides get the same file, the same threads and the same sizes: one prompt of `prompt_tokens`, then
sequences that decode `decode_tokens` each after a prompt of DECODE_PROMPT. llama.cpp's tools neither tokenize nor pick a token while the clock
runs; `otter bench` goes through its scheduler and picks them.
"""

import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

DECODE_PROMPT = 32  # what `otter bench` decodes after
READY_TIMEOUT_S = 120
RUN_TIMEOUT_S = 1800


class Failure(Exception):
    """What the user is told; one sentence or two."""


def output_of(command):
    """What a program wrote to standard output; its standard error is shown where it fails."""
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=RUN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise Failure(f"{Path(command[0]).name} did not finish in {RUN_TIMEOUT_S} s") from None
    if done.returncode != 0:
        raise Failure(f"{Path(command[0]).name} ended with status {done.returncode}:\n{(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


# ---- Speeds of the engine -----------------------------------------------------------------------------------


def run_otter(binary, model, sizes):
    """One round of `otter bench`: {case: {"tokens_per_s", "share", "limit"}} and the rest of its JSON."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "bench.json")
        output_of([binary, "bench", "--model", model, "--threads", sizes.threads, "--rounds", 1, "--only", "plain cases alone",
                   "--prompt-tokens", sizes.prompt_tokens, "--decode-tokens", sizes.decode_tokens,
                   "--batches", ",".join(map(str, sizes.batches)), "--json", out])
        told = json.loads(out.read_text())
    return {case["name"]: case for case in told["cases"]}, told


def run_peer(tools, model, sizes):
    """The same cases by llama-bench (prefill) and llama-batched-bench (decoding): {case: {"tokens_per_s"}} and what llama-bench says of itself."""
    common = ["-m", model, "-t", sizes.threads]
    told = json.loads(output_of([tools / "llama-bench", *common, "-p", sizes.prompt_tokens, "-n", 0, "-r", 1, "-o", "json"]))[0]
    cases = {"prefill": {"tokens_per_s": told["avg_ts"]}}
    for batch in sizes.batches:
        context = batch * max(256, -(-(DECODE_PROMPT + sizes.decode_tokens) // 256) * 256)  # each sequence's share is a multiple of 256
        lines = output_of([tools / "llama-batched-bench", *common, "-tb", sizes.threads, "-c", context, "-npp", DECODE_PROMPT,
                           "-ntg", sizes.decode_tokens, "-npl", batch, "--output-format", "jsonl"])
        rows = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
        if len(rows) != 1:
            raise Failure(f"llama-batched-bench gave {len(rows)} results for {batch} sequences, not one:\n{lines[-1000:]}")
        cases[f"decode, batch {batch}"] = {"tokens_per_s": rows[0]["speed_tg"]}
    return cases, told


def quantize(tools, model, out, pure, threads):
    """Makes llama.cpp's Q4_0 of the same weights, once. `pure` has every matrix in Q4_0, else the tool keeps some larger."""
    if out.exists() and out.stat().st_mtime >= model.stat().st_mtime:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    output_of([tools / "llama-quantize", "--allow-requantize", *(["--pure"] if pure else []), model, part, "Q4_0", threads])
    part.replace(out)


# ---- Servers ------------------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def otter_command(binary, model, sizes, port):
    """The server as a user would start it."""
    return [binary, "serve", "--model", model, "--host", "127.0.0.1", "--port", port, "--threads", sizes.threads]


def peer_command(tools, model, sizes, port):
    """llama-server with `peer_slots` sequences at once, room for each, and nothing on that these clients do not use."""
    words = sizes.load_prompt_words
    room = -(-(words + words // 4 + sizes.load_tokens + 64) // 256) * 256
    return [tools / "llama-server", "-m", model, "--host", "127.0.0.1", "--port", port, "-t", sizes.threads, "-tb", sizes.threads,
            "-np", sizes.peer_slots, "-c", sizes.peer_slots * room, "--cont-batching", "--no-webui", "--cache-ram", 0]


class RunningServer:
    """A server on 127.0.0.1, ready on entry (its path `ready` answers 200; `ready_s` after its start) and stopped at the end; what it wrote is
    shown where it fails."""

    def __init__(self, make_command, ready="/health"):
        self.ready = ready
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [str(word) for word in make_command(self.port)]
        self._log = tempfile.TemporaryFile()

    def __enter__(self):
        self._start = time.monotonic()
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT)
        try:
            self._wait_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def _wait_ready(self):
        while True:
            try:
                with urllib.request.urlopen(self.url + self.ready, timeout=5) as answer:
                    self.ready_s = time.monotonic() - self._start
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            if self.process.poll() is not None or time.monotonic() - self._start > READY_TIMEOUT_S:
                raise Failure(f"{Path(self.command[0]).name} did not become ready:\n{self.log()}")
            time.sleep(0.005)

    def _stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __exit__(self, *_):
        self._stop()

    def log(self):
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 3000))
        return self._log.read().decode(errors="replace")


def run_load(client, make_command, sizes, seed):
    """{clients: what load-client measured} of a server that is started for it; `seed` makes prompts that no cache has seen."""
    with RunningServer(make_command) as server:
        command = [client, "--url", server.url, "--clients", ",".join(map(str, sizes.load)), "--prompt-words", sizes.load_prompt_words,
                   "--max-tokens", sizes.load_tokens, "--seed", seed]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        if done.returncode != 0:  # shown, and counted in the table
            print(f"\n{Path(server.command[0]).name}: {done.stderr.strip()[-1000:]}\n{server.log()}", flush=True)
        if len(rows) != len(sizes.load):
            raise Failure(f"load-client ended with status {done.returncode}: {done.stderr[-1000:]}")
    return {row["clients"]: row for row in rows}
