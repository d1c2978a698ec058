#!/usr/bin/env python3
"""Promise 7: SIGTERM drains. No new work (503), what runs is finished, exit status 0; idle connections do not hold it up.

test-timeout: 180
"""

import http.client
import json
import select
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


class Balancer:
    """What nginx does by default with two replicas and kept connections: an answer is passed on, whatever it says; only a connection that
    cannot be made goes to the other one."""

    def __init__(self, servers):
        self.servers, self.kept, self.turn, self.lock = servers, {server: [] for server in servers}, 0, threading.Lock()

    def connection(self, server):
        with self.lock:
            while self.kept[server]:
                kept = self.kept[server].pop()
                if not select.select([kept.sock], [], [], 0)[0]:  # else it has been closed, as nginx notices
                    return kept
        made = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        made.connect()
        return made

    def request(self, body):
        with self.lock:
            self.turn += 1
            order = self.servers[self.turn % 2:] + self.servers[:self.turn % 2]
        for server in order:
            try:
                connection = self.connection(server)
            except ConnectionRefusedError:
                continue
            connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            with self.lock:
                if answer.will_close:
                    connection.close()
                else:
                    self.kept[server].append(connection)
            return server, answer.status, text
        raise ConnectionRefusedError("both replicas")


def loses_nothing_behind_a_proxy_without_retries():
    """With --drain-delay one of two replicas leaves under load, and every request is answered."""
    body = b'{"prompt": "Once", "max_tokens": 3, "temperature": 0, "ignore_eos": true}'
    with Server("--threads", "1", "--drain-delay", "3") as leaving, Server("--threads", "1") as staying:
        balancer, results, errors, over = Balancer([leaving, staying]), [], [], threading.Event()

        def ask():
            while not over.is_set():
                begin = time.monotonic()
                try:
                    results.append((*balancer.request(body), begin))
                except Exception as error:
                    errors.append(error)
                    return

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        leaving.terminate()
        deadline = time.monotonic() + 2
        while leaving.get("/readyz").status != 503:
            expect_true(time.monotonic() < deadline, "/readyz still says 200")
        n_at_signal, signalled = len(results), time.monotonic()
        expect(leaving.wait_stopped(30), 0, "exit status")
        n_at_end = len(results)
        time.sleep(1)
        over.set()
        for thread in threads:
            thread.join(60)
        expect(errors, [], "lost")
        expect_true(any(server is leaving and begin > signalled for server, _, _, begin in results), "work is taken during the delay")
        expect({status for _, status, _, _ in results}, {200}, f"{len(results)} answers")
        expect(len({json.loads(text)["choices"][0]["text"] for _, _, text, _ in results}), 1, "texts")
        expect_true(len(results) > n_at_end > n_at_signal, "load before and after")
        print(f"{len(results)} requests, {sum(server is leaving for server, _, _, _ in results)} by the replica that left")


def a_second_signal_ends_the_delay():
    with Server("--threads", "1", "--drain-delay", "60") as server:
        server.terminate()
        time.sleep(0.3)
        expect(server.post("/v1/completions", {"prompt": "a", "max_tokens": 1}).status, 200, "work during the delay")
        begin = time.monotonic()
        server.terminate()
        expect(server.wait_stopped(10), 0)
        expect_true(time.monotonic() - begin < 5, "a second signal ends the delay")


if __name__ == "__main__":
    require_model()
    sys.exit(run_cases([ends_at_once_when_idle, finishes_what_runs_and_takes_nothing_new, answers_whole_requests_too,
                        loses_nothing_behind_a_proxy_without_retries, a_second_signal_ends_the_delay]))
