#!/usr/bin/env python3
"""Connections: what happens when all places are taken, and how long each part of a request may take.

test-timeout: 300
"""

import contextlib
import json
import os
import pathlib
import resource
import signal
import socket
import sys
import tempfile
import threading
import time

from api_support import expect_error, post_bytes, raw, status_of
from server_process import Server, expect, expect_true, in_parallel, require_model, run_cases

LONG = {"prompt": "Once upon a time", "max_tokens": 4000, "ignore_eos": True, "stream": True}


def connect(server, receive_bytes=None):
    s = socket.socket()
    if receive_bytes:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    s.settimeout(20)
    s.connect(("127.0.0.1", server.port))
    return s


@contextlib.contextmanager
def connections(server, n, data=b""):
    made = [connect(server) for _ in range(n)]
    try:
        for s in made:
            if data:
                s.sendall(data)
        yield made
    finally:
        for s in made:
            s.close()


def health(server, path="/livez"):
    begin = time.monotonic()
    status = status_of(raw(server, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode(), timeout=5))
    took = time.monotonic() - begin
    expect_true(took < 3, f"{path} took {took:.1f} s")
    return status


def ended(s, timeout_s=15):
    """Seconds until the server ends the connection, and what it said."""
    begin, said = time.monotonic(), b""
    s.settimeout(timeout_s)
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while piece := s.recv(65536):
            said += piece
    return time.monotonic() - begin, said


# ---- All places taken --------------------------------------------------------------------------------------

def accepts_again_after_the_limit():
    """Connections that end together, while one more waits, left libmicrohttpd without its listening socket, for ever."""
    for n_limit, n_open in ((300, 301), (20, 21), (20, 200)):
        with Server("--max-connections", str(n_limit)) as server:
            for wait_s in (0, 0.3):
                with connections(server, n_open):
                    time.sleep(wait_s)
                    expect(health(server), 200, f"health with {n_open} of {n_limit} connections")
                expect(health(server), 200, "after all ended")
            displaced = server.metric("otter_connections_ended_total", reason="displaced")
            expect_true(displaced > 0 or n_open <= n_limit + 96, "those that said nothing gave way")
            server.wait_for_metric("otter_connections", 0, state="new")


def accepts_again_after_a_stall():
    """They end in one instant, as the loop sees it."""
    with Server("--max-connections", "64") as server:
        open_ones = [connect(server) for _ in range(64)]
        time.sleep(0.3)
        server.process.send_signal(signal.SIGSTOP)
        for s in open_ones:
            s.close()
        time.sleep(0.05)
        server.process.send_signal(signal.SIGCONT)
        expect(health(server), 200)


def fits_into_few_descriptors():
    """The limit of the system is met before max-connections: the places are fewer, and the log says so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    class Limited(Server):
        def command(self):
            return ["prlimit", "--nofile=64:64", *super().command()]

    with Limited() as server:
        expect_true("descriptors" in server.log(), server.log())
        for _ in range(3):
            with connections(server, 60):
                expect(health(server), 200)
            expect(health(server), 200)
            expect(server.complete("a", max_tokens=1)["usage"]["completion_tokens"], 1)
    expect(resource.getrlimit(resource.RLIMIT_NOFILE), (soft, hard))

    class Starved(Server):
        def command(self):
            return ["prlimit", "--nofile=24:24", *super().command()]

    with Starved(ready=False) as server:
        server.stopped_by_test = True
        expect(server.process.wait(60), 1)
        expect_true("max-connections" in server.log(), server.log())
        server.process.returncode = 0  # the expected end


def answers_health_while_every_place_works():
    """All places have a request that runs: health answers, and others wait for a place or hear that there is none."""
    with Server("--max-connections", "4", "--max-sequences", "4") as server:
        streams = [connect(server) for _ in range(4)]
        for s in streams:
            s.sendall(post_bytes("/v1/completions", json.dumps(LONG).encode()))
            expect_true(s.recv(100), "a stream")
        for path in ("/livez", "/readyz", "/health", "/metrics"):
            expect(health(server, path), 200, path)
        waiting = [connect(server) for _ in range(90)]
        for s in waiting:
            s.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        time.sleep(0.5)
        expect(health(server), 200, "and with a queue for places")
        for s in streams:
            s.close()
        statuses = [status_of(ended(s)[1]) for s in waiting]
        expect(set(statuses), {200, 503})
        expect(statuses.count(200), 80, "those that could wait")
        expect(server.complete("a", max_tokens=1)["usage"]["completion_tokens"], 1)


def keeps_places_for_keys():
    """Connections without a key, whatever they are doing, make room for those that have one."""
    with tempfile.TemporaryDirectory(prefix="otter-test-") as folder:
        keys = pathlib.Path(folder, "keys")
        keys.write_text("sk-test\n")
        with Server("--api-key-file", keys, "--max-connections", "8") as server:
            body = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{"
            kinds = (b"", b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", body, body.replace(b"Host: x", b"Host: x\r\nAuthorization: Bearer no"))
            for data in kinds:
                with connections(server, 100, data):
                    calls = [lambda: server.post("/v1/completions", {"prompt": "a", "max_tokens": 1},
                                                 headers={"Authorization": "Bearer sk-test"}).status] * 4
                    expect(in_parallel(calls), [200] * 4, f"with a key, beside {data[:40]}")


def checks_keys_before_bodies():
    """A body without a valid key takes no memory; one that is asked for first is not asked for."""
    with tempfile.TemporaryDirectory(prefix="otter-test-") as folder:
        keys = pathlib.Path(folder, "keys")
        keys.write_text("sk-test\n")
        with Server("--api-key-file", keys, "--max-bodies", "16M") as server:
            head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 8000000\r\n"
            with connections(server, 16, head + b"\r\n" + b" " * 2000000) as made:
                key = {"Authorization": "Bearer sk-test"}
                expect(server.post("/v1/completions", {"prompt": "a", "max_tokens": 1}, headers=key).status, 200)
                made[0].sendall(b" " * 6000000)
                expect(status_of(made[0].recv(1000)), 401, "at the body's end")
            asked = raw(server, head + b"Expect: 100-continue\r\n\r\n", timeout=5)
            expect(status_of(asked), 401, "no 100 Continue")
            too_large = raw(server, head.replace(b"8000000", b"9" * 12) + b"Authorization: Bearer sk-test\r\n\r\n", timeout=5)
            expect(status_of(too_large), 413)


# ---- Deadlines ---------------------------------------------------------------------------------------------

def trickle(s, piece, every_s=0.2, for_s=15):
    """Sends pieces until the server ends the connection; seconds and what it said."""
    begin, said = time.monotonic(), b""
    s.settimeout(every_s)
    while time.monotonic() - begin < for_s:
        try:
            s.sendall(piece)
            if not (got := s.recv(65536)):
                break
            said += got
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - begin, said


def ends_slow_headers_and_bodies(server):
    body = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    silent, headers, stalled, dripping, kept = [connect(server) for _ in range(5)]
    headers.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
    stalled.sendall(body)
    dripping.sendall(body)
    kept.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    expect_true(kept.recv(1000).startswith(b"HTTP/1.1 200"), "a kept connection")
    kept.sendall(b"GET /livez HTTP/1.1\r\n")
    waits = in_parallel([lambda: ended(silent), lambda: trickle(headers, b"X: y\r\n"), lambda: ended(stalled), lambda: trickle(dripping, b" "),
                         lambda: trickle(kept, b"X: y\r\n")])
    names = ("says nothing", "trickles headers", "stalls in the body", "trickles the body", "trickles its second headers")
    for name, (took, said), limit_s in zip(names, waits, (2, 2, 3, 3, 4)):
        expect_true(limit_s - 0.5 < took < limit_s + 2, f"{name}: ended after {took:.1f} s, expected {limit_s}")
        expect(status_of(said), 408 if "body" in name else None, name)
    for reason in ("header_timeout", "receive_timeout", "idle_timeout"):
        expect_true(server.metric("otter_connections_ended_total", reason=reason) >= 1, reason)
    expect(server.metric("otter_http_requests_total", code="408"), 2)


def ends_readers_that_stopped(server):
    """An answer that nobody takes, of one piece or a stream; one that is taken slowly comes whole."""
    text = post_bytes("/tokenize", json.dumps({"content": "1 " * 400000, "return_token_strs": True}).encode())
    unread, streamed, slow = connect(server, 4096), connect(server, 4096), connect(server, 65536)
    unread.sendall(text)
    slow.sendall(text)
    streamed.sendall(post_bytes("/v1/completions", json.dumps({**LONG, "n": 16, "logprobs": 20, "return_tokens_as_token_ids": True}).encode()))
    deadline = time.monotonic() + 60
    got = b""
    while server.metric("otter_connections_ended_total", reason="send_timeout") < 2:
        expect_true(time.monotonic() < deadline, "readers that stopped are still there")
        for _ in range(10):
            got += slow.recv(30000)
        time.sleep(0.02)
    server.wait_for_metric("vllm:num_requests_running", 0)
    while piece := slow.recv(1 << 20):
        got += piece
    length = int(got.lower().split(b"content-length: ")[1].split(b"\r")[0])
    print(f"{time.monotonic() - deadline + 60:.1f} s")
    expect(len(got.split(b"\r\n\r\n", 1)[1]), length, "a slow reader's answer")
    for s in (unread, streamed, slow):
        s.close()


def goes_on_beside_a_chunk_that_does_not_fit(server):
    """libmicrohttpd waits for ever for the end of a chunk extension that is larger than its buffer, and would not let the loop sleep or serve."""
    stuck = connect(server)
    stuck.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
                  b"1e;" + b"a" * 100000)
    before = server.metric("process_cpu_seconds_total")
    for _ in range(5):
        expect(health(server), 200)
    took, said = ended(stuck)
    expect_true(took < 5, f"ended after {took:.1f} s, where receive-timeout is 3")
    expect(status_of(said) in (None, 408, 413), True, said[:200])
    used = server.metric("process_cpu_seconds_total") - before
    expect_true(used < 1.5, f"{used} s of processor time in {took:.1f} s of waiting")


def lets_long_work_go_on(server):
    """No deadline is for the server's own time: an answer that takes longer than all of them comes."""
    begin = time.monotonic()
    answers = in_parallel([lambda: server.post("/v1/completions", {"prompt": "Once", "max_tokens": 400, "ignore_eos": True, "n": 4}).status] * 3)
    expect(answers, [200] * 3)
    print(f"took {time.monotonic() - begin:.1f} s")


def main():
    require_model()
    cases = [accepts_again_after_the_limit, accepts_again_after_a_stall, fits_into_few_descriptors, answers_health_while_every_place_works,
             keeps_places_for_keys, checks_keys_before_bodies]
    status = run_cases(cases)
    with Server("--header-timeout", "2", "--receive-timeout", "3", "--idle-timeout", "4", "--send-timeout", "3") as server:
        return run_cases([ends_slow_headers_and_bodies, ends_readers_that_stopped, goes_on_beside_a_chunk_that_does_not_fit, lets_long_work_go_on], server) or status


if __name__ == "__main__":
    sys.exit(main())
