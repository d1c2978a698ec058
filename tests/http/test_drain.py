#!/usr/bin/env python3
"""Promise 7: SIGTERM drains. No new work (503), what runs is finished, exit status 0; idle connections do not hold it up.

test-timeout: 180
"""

import http.client
import signal
import sys
import threading
import time

from server_process import Server, expect, expect_true, require_model, run_cases

LONG_ANSWER = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 300, "ignore_eos": True}


def ends_at_once_when_idle():
    for sent in (signal.SIGTERM, signal.SIGINT):
        with Server("--threads", "1") as server:
            kept_alive = server.connect()
            kept_alive.request("GET", "/health")
            kept_alive.getresponse().read()
            begin = time.monotonic()
            server.stopped_by_test = True
            server.process.send_signal(sent)
            expect(server.wait_stopped(10), 0, f"status after {sent.name}")
            expect_true(time.monotonic() - begin < 5, f"took {time.monotonic() - begin:.1f} s with nothing to do")
            kept_alive.close()


def finishes_what_runs_and_takes_nothing_new():
    with Server("--threads", "2") as server:
        whole = server.post("/v1/completions", LONG_ANSWER).ok()
        # Connections that were open before: the listener may already be closed when the server drains.
        probes = [server.connect() for _ in range(3)]
        for probe in probes:
            probe.request("GET", "/livez")
            expect(probe.getresponse().read() is not None, True)

        texts, started, errors = [], threading.Event(), []

        def read_stream():
            try:
                for chunk in server.stream("/v1/completions", LONG_ANSWER):
                    texts.extend(choice["text"] for choice in chunk["choices"])
                    started.set()
            except BaseException as error:
                errors.append(error)
            finally:
                started.set()

        reader = threading.Thread(target=read_stream, daemon=True)
        reader.start()
        expect_true(started.wait(60) and not errors, f"no stream: {errors}")
        server.terminate()
        time.sleep(0.3)
        expect_true(server.process.poll() is None, "the server ended while a request ran")

        probes[0].request("POST", "/v1/completions", b'{"prompt": "x", "max_tokens": 1}',
                          {"Content-Type": "application/json"})
        refused = probes[0].getresponse()
        expect(refused.status, 503, "new work")
        expect_true(b'"error"' in refused.read(), "an error object")
        probes[1].request("GET", "/readyz")
        expect(probes[1].getresponse().status, 503, "/readyz")
        probes[2].request("GET", "/livez")
        expect(probes[2].getresponse().status, 200, "/livez")

        reader.join(120)
        expect_true(not errors, f"the stream broke: {errors}")
        expect("".join(texts), whole["choices"][0]["text"], "the running stream")
        expect(server.wait_stopped(30), 0, "exit status")


def answers_whole_requests_too():
    """A request that does not stream is finished as well."""
    with Server("--threads", "2") as server:
        answers = []

        def ask():
            try:
                answers.append(server.post("/v1/completions", LONG_ANSWER))
            except (OSError, http.client.HTTPException) as error:
                answers.append(error)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        server.wait_for_metric("vllm:num_requests_running", 1)
        server.terminate()
        thread.join(120)
        expect_true(answers and not isinstance(answers[0], Exception), f"no answer: {answers}")
        expect(answers[0].ok()["usage"]["completion_tokens"], 300)
        expect(server.wait_stopped(30), 0, "exit status")


if __name__ == "__main__":
    require_model()
    sys.exit(run_cases([ends_at_once_when_idle, finishes_what_runs_and_takes_nothing_new, answers_whole_requests_too]))
