#!/usr/bin/env python3
"""Promise 6: a client that goes away frees its rows and pages, in the queue, in prefill, while decoding and in the fan-out of
candidates; and the server goes on as if it had never been there.

test-timeout: 240
"""

import json
import sys
import time

from server_process import HEAD, Server, SkipCase, combined, expect, expect_true, require_model, run_cases

# At a few hundred tokens a second this would take long: the test would not end in time if it were not cancelled.
ENDLESS = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 1900, "ignore_eos": True}
LONG_PROMPT = {"prompt": "one two three four five six seven eight " * 200, "temperature": 0, "max_tokens": 8}


class Client:
    """A request whose client can leave."""

    def __init__(self, server, body):
        self.connection = server.connect()
        self.connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        self.answer = None

    def read_events(self, n):
        self.answer = self.connection.getresponse()
        expect(self.answer.status, 200)
        while n:
            line = self.answer.readline()
            expect_true(line, "the stream ended")
            n -= line.startswith(b"data: ")

    def leave(self):
        # The answer holds the socket as well as the connection does.
        if self.answer:
            self.answer.close()
        self.connection.close()


def all_free(server):
    server.wait_for_metric("vllm:num_requests_running", 0)
    server.wait_for_metric("vllm:num_requests_waiting", 0)
    server.wait_for_metric("vllm:kv_cache_usage_perc", 0)
    expect(server.complete("Two and two is", max_tokens=4)["usage"]["completion_tokens"], 4, "the next request")


def leaves(server, body, phase, wait):
    """One client comes, `wait` brings it to its phase, it leaves: then all is free and counted."""
    before = server.metric("otter_requests_cancelled_total", phase=phase)
    client = Client(server, body)
    wait(client)
    begin = time.monotonic()
    client.leave()
    server.wait_for_metric("otter_requests_cancelled_total", before + 1, phase=phase)
    server.wait_for_metric("vllm:num_requests_running", 0)
    seconds = time.monotonic() - begin
    expect_true(seconds < 2, f"freed only after {seconds:.1f} s")
    all_free(server)


def while_decoding_a_stream(server):
    leaves(server, {**ENDLESS, "stream": True}, "decode", lambda client: client.read_events(5))


def while_decoding_a_whole_answer(server):
    def wait(_):
        generated = server.metric("vllm:generation_tokens_total")
        deadline = time.monotonic() + 20
        while server.metric("vllm:generation_tokens_total") < generated + 5:
            expect_true(time.monotonic() < deadline, "no token came")
            time.sleep(0.02)

    leaves(server, ENDLESS, "decode", wait)


def with_several_choices(server):
    leaves(server, {**ENDLESS, "stream": True, "n": 4, "temperature": 1, "seed": 1}, "decode",
           lambda client: client.read_events(12))


def in_the_candidates(server):
    if not HEAD.exists():
        raise SkipCase(f"no head at {HEAD}")
    # A sampled choice compares all its candidates in every step.
    body = {**ENDLESS, "temperature": 1, "seed": 1, "stream": True,
            "intervention": {"reward": {"heads": {"toxicity": -4.0}, "candidates": 10}}}
    leaves(server, body, "candidates", lambda client: client.read_events(5))


def in_prefill(server):
    """64 rows a step: the prompt takes 26 of them."""
    leaves(server, LONG_PROMPT, "prefill", lambda _: server.wait_for_metric("vllm:num_requests_running", 1))


def in_the_queue(server):
    """Pages for one long prompt: the second waits for the first."""
    first = Client(server, {**LONG_PROMPT, "max_tokens": 400, "ignore_eos": True, "stream": True})
    try:
        first.read_events(1)
        before = server.metric("otter_requests_cancelled_total", phase="queue")
        # Another prompt, so that no pages are shared.
        second = Client(server, {**LONG_PROMPT, "prompt": "nine " + LONG_PROMPT["prompt"]})
        server.wait_for_metric("vllm:num_requests_waiting", 1)
        second.leave()
        server.wait_for_metric("otter_requests_cancelled_total", before + 1, phase="queue")
        server.wait_for_metric("vllm:num_requests_waiting", 0)
        expect(server.metric("vllm:num_requests_running"), 1, "the first goes on")
    finally:
        first.leave()
    all_free(server)


def before_the_body_is_whole(server):
    connection = server.connect()
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", "100000")
    connection.endheaders()
    connection.send(b'{"prompt": "')
    connection.close()
    all_free(server)


def many_times(server):
    """What leaks a little each time would be gone after these."""
    for i in range(24):
        client = Client(server, {**ENDLESS, "stream": True})
        if i % 3:
            client.read_events(i % 3)
        client.leave()
    all_free(server)


def main():
    require_model()
    head = ["--head", f"toxicity={HEAD}"] if HEAD.exists() else []
    with Server("--threads", "2", *head) as server:
        status = run_cases([while_decoding_a_stream, while_decoding_a_whole_answer, with_several_choices, in_the_candidates,
                            before_the_body_is_whole, many_times], server)
    # Pages for about 1,800 tokens, so that one long prompt of 1,600 tokens has room and a second has not.
    with Server("--threads", "1", "--max-batch-tokens", "64", "--kv-memory", str(42 << 20)) as server:
        return combined(status, run_cases([in_prefill, in_the_queue], server))


if __name__ == "__main__":
    sys.exit(main())
