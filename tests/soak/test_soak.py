#!/usr/bin/env python3
"""Everything at once, for a while: steered, streamed, cancelled, damaged, slow and greedy requests, and reloads. Each answer is that of the same request
alone, to the last bit, and at the end memory, descriptors, connections and pages are where they were.

A minute by itself; an hour by hand: `OTTER_SOAK_SECONDS=3600 .venv/bin/python tests/soak/test_soak.py`.

test-timeout: 240
"""

import collections
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import struct
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "http"))

from api_support import make_heads, post_bytes, raw, status_of  # noqa: E402
from server_process import Server, expect, expect_true, require_model  # noqa: E402

SECONDS = float(os.environ.get("OTTER_SOAK_SECONDS", "60"))
SEED = int(os.environ.get("OTTER_TEST_SEED", "1"))
MIB = 1 << 20
SETTINGS = """
head: {{toxicity: {folder}/toxicity.gguf, policy: {folder}/policy.gguf}}
presets:
  gentle: {{reward: {{heads: {{toxicity: -4}}, candidates: 6}}}}
  other{turn}: {{signals: [policy/threat]}}
moderation-threshold: {turn}
"""
MAY_BE_BUSY = (429, 503)


def requests():
    texts = ["The otter", "Once upon a time there was", "You are a", "def f(x):", "日本 🐻", "one, two, three, " * 12, "A " * 150]
    steers = [None, {"signals": ["toxicity"]}, {"reward": {"heads": {"toxicity": -3.0}, "candidates": 5}},
              {"guard": {"head": "toxicity", "above": 0.9, "action": "resample"}}, {"signals": ["policy/insult", "policy/threat"]},
              {"speculative": {"draft": "lookup", "max_draft": 5}}]
    made = []
    for i in range(24):
        body = {"prompt": texts[i % len(texts)], "max_tokens": 4 + 5 * (i % 5), "seed": i, "temperature": (0, 0.8, 1.3)[i % 3],
                "return_token_ids": True, **({"logprobs": 3} if i % 2 else {}), **({"n": 2} if i % 7 == 3 else {})}
        if steers[i % len(steers)]:
            body["intervention"] = steers[i % len(steers)]
        made.append(body)
    made[5]["model"] = "gentle"
    return made


def parts(choices):
    """What must be equal of the choices of a whole answer, or of a stream's chunks."""
    out = {}
    for c in choices:
        whole = out.setdefault(c["index"], {"text": "", "ids": [], "logprobs": [], "signals": {}, "finish": None})
        whole["text"] += c["text"]
        whole["ids"] += c.get("token_ids") or []
        whole["logprobs"] += (c.get("logprobs") or {}).get("token_logprobs") or []
        for name, values in (c.get("signals") or {}).items():
            whole["signals"].setdefault(name, []).extend(values)
        whole["finish"] = c["finish_reason"] or whole["finish"]
    return out


class Soak:
    def __init__(self, server, folder):
        self.server, self.folder = server, folder
        self.bodies = requests()
        model = server.model_id()
        for body in self.bodies:
            body["model"] = f"{model}+gentle" if body.get("model") else model
        self.counts, self.failures, self.slowest_probe = collections.Counter(), [], 0.0
        self.over = threading.Event()
        self.alone = [parts(server.post("/v1/completions", body).ok()["choices"]) for body in self.bodies]

    def fail(self, what):
        self.failures.append(what)
        if len(self.failures) >= 20:
            self.over.set()

    # ---- Kinds of clients ----------------------------------------------------------------------------------

    def asks(self, rng):
        i = rng.randrange(len(self.bodies))
        streams = rng.random() < 0.5
        answer = self.server.post("/v1/completions", {**self.bodies[i], "stream": streams}, timeout=120)
        if answer.status in MAY_BE_BUSY:
            self.counts["busy"] += 1
            time.sleep(0.2)
            return
        if answer.status != 200:
            self.fail(f"request {i}: {answer.status} {answer.body[:200]}")
            return
        if streams:
            events = [line[6:] for line in answer.body.decode().splitlines() if line.startswith("data: ")]
            if events[-1] != "[DONE]" or any('"error"' in event[:9] for event in events):
                self.fail(f"request {i}: a stream that ends with {events[-1][:200]}")
                return
            choices = [c for event in events[:-1] for c in json.loads(event)["choices"]]
        else:
            choices = answer.json()["choices"]
        self.counts["streams" if streams else "answers"] += 1
        if parts(choices) != self.alone[i]:
            self.fail(f"request {i}, stream {streams}: {parts(choices)}, alone {self.alone[i]}")

    def leaves(self, rng):
        body = {**rng.choice(self.bodies), "stream": rng.random() < 0.7, "max_tokens": 200, "ignore_eos": True}
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=60) as s:
            s.sendall(post_bytes("/v1/completions", json.dumps(body).encode()))
            time.sleep(rng.random())
            if rng.random() < 0.5:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        self.counts["left"] += 1

    def damages(self, rng):
        data = bytearray(post_bytes(rng.choice(["/v1/completions", "/tokenize", "/v1/score", "/v1/heads", "/detokenize"]),
                                    json.dumps(rng.choice(self.bodies)).encode()))
        for _ in range(rng.choice([1, 3, 30])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        raw(self.server, bytes(data[:rng.randrange(1, len(data) + 1)]), timeout=0.3, half_close=rng.random() < 0.5)
        self.counts["damaged"] += 1

    def dawdles(self, rng):
        data = post_bytes("/v1/completions", json.dumps({**rng.choice(self.bodies), "stream": True}).encode())
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=60) as s:
            for at in range(0, len(data), 40):
                s.sendall(data[at:at + 40])
                time.sleep(0.02)
            while s.recv(64):
                time.sleep(0.002)
        self.counts["slow"] += 1

    def grabs(self, rng):
        """Large answers that nobody reads."""
        body = post_bytes("/tokenize", json.dumps({"content": "1 " * rng.randrange(200000), "return_token_strs": True}).encode())
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(4)]
            for s in sockets:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                s.settimeout(60)
                s.connect(("127.0.0.1", self.server.port))
                s.sendall(body)
            time.sleep(2 * rng.random())
        self.counts["unread"] += 4

    def reloads(self, rng):
        turn = rng.randrange(9)
        shutil.copy(self.folder / "policy.gguf", self.folder / "new.gguf")
        (self.folder / "new.gguf").rename(self.folder / "policy.gguf")
        (self.folder / "new.yaml").write_text(SETTINGS.format(folder=self.folder, turn=turn))
        (self.folder / "new.yaml").rename(self.folder / "otter.yaml")
        self.server.process.send_signal(signal.SIGHUP)
        self.counts["reloads"] += 1
        time.sleep(1 + 2 * rng.random())

    def probes(self, rng):
        path = rng.choice(["/livez", "/readyz", "/metrics", "/v1/models", "/v1/heads"])
        begin = time.monotonic()
        status = status_of(raw(self.server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()))
        self.slowest_probe = max(self.slowest_probe, time.monotonic() - begin)
        if status != 200:
            self.fail(f"{path}: {status}")
        time.sleep(0.1)

    # ---- The run -------------------------------------------------------------------------------------------

    def work(self, kind, seed):
        rng = random.Random(seed)
        while not self.over.is_set():
            try:
                kind(rng)
            except Exception as error:
                if kind in (self.asks, self.probes, self.reloads):
                    self.fail(f"{kind.__name__}: {error!r}")
                else:
                    self.counts["cut"] += 1

    def run(self, seconds):
        kinds = [self.asks] * 4 + [self.leaves, self.damages, self.dawdles, self.grabs, self.reloads, self.probes]
        threads = [threading.Thread(target=self.work, args=(kind, SEED * 1000 + i)) for i, kind in enumerate(kinds)]
        self.over.clear()
        for thread in threads:
            thread.start()
        self.over.wait(seconds)
        self.over.set()
        for thread in threads:
            thread.join()

    def state(self):
        """Once all is quiet: anonymous memory in MiB and open descriptors."""
        for name in ("vllm:num_requests_running", "vllm:num_requests_waiting"):
            self.server.wait_for_metric(name, 0, timeout_s=60)
        self.server.wait_for_metric("otter_connections", 0, timeout_s=60, state="new")
        self.server.wait_for_metric("otter_connections", 0, timeout_s=60, state="receiving")
        self.server.wait_for_metric("vllm:kv_cache_usage_perc", 0, timeout_s=60)
        time.sleep(1)
        status = pathlib.Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) // 1024, len(os.listdir(f"/proc/{self.server.process.pid}/fd"))


def main():
    require_model()
    print(f"{SECONDS:.0f} s, seed {SEED}")
    with tempfile.TemporaryDirectory(prefix="otter-soak-") as name:
        folder = pathlib.Path(name)
        made = make_heads(toxicity=["--label", "toxic", "--init", "normal", "--seed", "5"],
                          policy=["--label", "threat", "--label", "insult", "--init", "normal", "--seed", "3"])
        for head, path in made.items():
            shutil.copy(path, folder / f"{head}.gguf")
        (folder / "otter.yaml").write_text(SETTINGS.format(folder=folder, turn=0))
        with Server("--config", folder / "otter.yaml", "--kv-memory", "96M", "--request-memory", "128M", "--max-bodies", "64M", "--max-queue",
                    "64", "--receive-timeout", "10", "--log-file", folder / "log") as server:
            soak = Soak(server, folder)
            soak.run(SECONDS / 4)  # what is made once is made now
            first = soak.state()
            soak.run(SECONDS * 3 / 4)
            last = soak.state()
            heap = server.metric("otter_request_memory_bytes")
            print(f"{dict(soak.counts)}; slowest probe {soak.slowest_probe:.2f} s")
            print(f"RssAnon {first[0]} -> {last[0]} MiB, descriptors {first[1]} -> {last[1]}, requests' memory {heap / MIB:.1f} MiB")
            log = (folder / "log").read_text()
            expect(soak.failures, [], "failures")
            expect(log.count("not reloaded"), 0, "reloads that failed")
            expect_true(log.count("otter: reloaded") > 0 and soak.counts["answers"] > 0 and soak.counts["streams"] > 0, "all kinds ran")
            expect_true(last[1] <= first[1] + 2, f"descriptors {first[1]} -> {last[1]}")
            expect_true(last[0] <= first[0] + 48, f"RssAnon {first[0]} -> {last[0]} MiB")
            expect_true(heap < 8 * MIB, f"{heap / MIB:.1f} MiB are left in requests that have gone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
