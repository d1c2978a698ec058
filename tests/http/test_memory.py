#!/usr/bin/env python3
"""Promise 4: what clients can make the server hold follows from its configuration. Answers that nobody reads, bodies that do not end, JSON that
is much larger once parsed and requests that wait, all at once: resident memory stays within what docs/deploying.md adds up, short
requests are served meanwhile, and all of it comes back.

test-timeout: 300
"""

import contextlib
import json
import pathlib
import socket
import sys
import threading
import time

from api_support import expect_error, post_bytes, raw, status_of
from server_process import Server, expect, expect_true, in_parallel, require_model, run_cases

MIB = 1 << 20
REQUEST_MEMORY, KV_MEMORY, N_CLIENTS = 96 * MIB, 64 * MIB, 12
# What glibc may keep for a moment of what was freed, beside the buffers of libmicrohttpd: 2 * 32 KiB for each connection.
ALLOCATOR_SLACK = 40 * MIB
FLAGS = ("--request-memory", "96M", "--max-bodies", "48M", "--max-body", "8M", "--kv-memory", "64M", "--max-queue", "64", "--send-timeout", "20",
         "--receive-timeout", "20")


def anonymous(server):
    """Resident bytes that no file backs: all but the weights."""
    for line in pathlib.Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


def kinds():
    text = "\n" + " " * 80
    yield "unread detokenize", post_bytes("/detokenize", b'{"tokens":[' + b",".join([b"46778"] * 300000) + b"]}")
    yield "unread tokenize", post_bytes("/tokenize", json.dumps({"content": "1 " * 1000000, "return_token_strs": True}).encode())
    yield "unknown members", post_bytes("/v1/completions", b'{"prompt":"hi","max_tokens":1,' + b",".join(b'"%x":0' % i for i in range(600000)) + b"}")
    yield "token ids", post_bytes("/v1/completions", b'{"prompt":[' + b",".join([b"1"] * 1500000) + b'],"max_tokens":1}')
    yield "echo", post_bytes("/v1/completions", json.dumps({"prompt": [text * 700] * 60, "max_tokens": 0, "echo": True}).encode())
    yield "waiting texts", post_bytes("/v1/completions", json.dumps({"prompt": text * 3000, "max_tokens": 100, "n": 4}).encode())
    yield "an unread stream", post_bytes("/v1/completions", json.dumps({"prompt": "a", "max_tokens": 4000, "ignore_eos": True, "n": 16, "logprobs": 20,
                                                                        "stream": True}).encode())
    yield "an unfinished body", post_bytes("/v1/completions", b"{" + b" " * (7 * MIB))[:-1]


class Clients:
    """Connections that send and never read."""

    def __init__(self, server):
        self.server, self.sockets, self.threads = server, [], []

    def send(self, data, n):
        for _ in range(n):
            s = socket.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.connect(("127.0.0.1", self.server.port))
            self.sockets.append(s)
            thread = threading.Thread(target=self._send, args=(s, data), daemon=True)
            thread.start()
            self.threads.append(thread)

    @staticmethod
    def _send(s, data):
        with contextlib.suppress(OSError):
            s.sendall(data)

    def close(self):
        for s in self.sockets:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
            s.close()


def watch(server, seconds, start):
    """The highest growth, and how short requests fared."""
    highest, statuses, deadline = 0, [], time.monotonic() + seconds
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            statuses.append(server.post("/tokenize", {"content": "a"}, timeout=60).status)
            statuses.append(server.get("/livez", timeout=30).status)

    thread = threading.Thread(target=ask)
    thread.start()
    while time.monotonic() < deadline:
        highest = max(highest, anonymous(server) - start)
        time.sleep(0.03)
    stop.set()
    thread.join()
    return highest, statuses


def is_over(server, start):
    deadline = time.monotonic() + 60
    while server.metric("otter_request_memory_bytes") > 2 * MIB or anonymous(server) - start > KV_MEMORY + 24 * MIB:
        expect_true(time.monotonic() < deadline, f"{server.metric('otter_request_memory_bytes') / MIB:.0f} MiB in requests that have gone, "
                                                 f"{(anonymous(server) - start) / MIB:.0f} MiB resident more than at first")
        time.sleep(0.2)
    server.wait_for_metric("vllm:num_requests_running", 0)
    server.wait_for_metric("vllm:num_requests_waiting", 0)
    expect(server.complete("The otter", max_tokens=1)["usage"]["completion_tokens"], 1)


def holds(server, parts, seconds):
    server.complete("The otter", max_tokens=4)
    start = anonymous(server)
    clients = Clients(server)
    try:
        for data, n in parts:
            clients.send(data, n)
        highest, statuses = watch(server, seconds, start)
    finally:
        clients.close()
    allowed = REQUEST_MEMORY * 9 // 8 + KV_MEMORY + ALLOCATOR_SLACK
    peak = server.metric("otter_request_memory_peak_bytes")
    print(f"    {highest / MIB:.0f} MiB more, of {allowed / MIB:.0f} allowed; heap peak {peak / MIB:.0f} MiB; "
          f"{server.metric('otter_request_memory_refused_total'):.0f} refused")
    expect_true(highest < allowed, f"grew by {highest / MIB:.0f} MiB, {allowed / MIB:.0f} are configured")
    expect_true(peak <= REQUEST_MEMORY * 9 / 8 + MIB, f"{peak / MIB:.0f} MiB of {REQUEST_MEMORY / MIB:.0f}")
    expect(set(statuses), {200}, "short requests meanwhile")
    is_over(server, start)


def holds_each_kind(server):
    for name, data in kinds():
        print(f"  {name}: {len(data)} bytes each", flush=True)
        holds(server, [(data, N_CLIENTS)], 4)


def holds_the_worst_mix(server):
    holds(server, [(data, 6) for _, data in kinds()], 12)


def refuses_with_words(server):
    """What does not fit now is a 503 with Retry-After, and comes when there is room."""
    large = json.dumps({"content": "1 " * 3000000, "return_token_strs": True}).encode()
    answers = in_parallel([lambda: server.post("/tokenize", large, timeout=120) for _ in range(8)])
    refused = [a for a in answers if a.status != 200]
    expect_true(refused, "eight times 6 MB with their tokens fit into 96 MiB")
    for answer in refused:
        expect_error(answer, 503, None)
        expect_true(int(answer.headers["retry-after"]) >= 1, answer.headers)
    expect(status_of(raw(server, post_bytes("/tokenize", b'{"content": "a"}'))), 200)


def main():
    require_model()
    with Server(*FLAGS) as server:
        return run_cases([holds_each_kind, holds_the_worst_mix, refuses_with_words], server)


if __name__ == "__main__":
    sys.exit(main())
