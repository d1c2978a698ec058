#!/usr/bin/env python3
"""Files that are cut short in place while they serve: the process lives on, requests that use them are told so with the file's name, and
whoever does not use them notices nothing. What is damaged, and for whom, is gguf/gguf-guard.c and scheduler/damaged-files.c.

test-timeout: 300
"""

import os
import pathlib
import shutil
import sys
import tempfile
import threading

from api_support import expect_error, make_heads
from server_process import MODEL, Failed, Server, brief, expect, expect_true, require_model, run_cases

LONG = {"prompt": "Once upon a time", "max_tokens": 120, "ignore_eos": True, "temperature": 0, "stream": True}
SHORT = {"prompt": "The otter swims", "max_tokens": 6, "temperature": 0}


def cut(path):
    os.truncate(path, 4096)


class Reader(threading.Thread):
    """Reads a stream to its end; `events` are those with choices, `errors` the error objects."""

    def __init__(self, server, body):
        super().__init__(daemon=True)
        self.server, self.body, self.events, self.errors, self.failure = server, body, [], [], None
        self.under_way = threading.Event()

    def run(self):
        try:
            for event in self.server.stream("/v1/completions", self.body):
                self.errors.append(event["error"]) if "error" in event else self.events.append(event)
                if len(self.events) >= 3:
                    self.under_way.set()
        except (Failed, OSError) as failure:
            self.failure = failure
        self.under_way.set()

    def wait_until_under_way(self):
        expect_true(self.under_way.wait(60), "no tokens after 60 s")
        expect(self.errors, [], "errors before the file was cut")

    def finished(self):
        self.join(120)
        expect_true(not self.is_alive(), "the stream did not end")
        return self

    def text(self):
        return "".join(event["choices"][0]["text"] for event in self.events if event["choices"])


def read_streams(server, *bodies):
    """Readers of these streams, all of them under way."""
    readers = [Reader(server, body) for body in bodies]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.wait_until_under_way()
    return readers


def expect_told(reader, name):
    """The stream's last event is an error object that names the file."""
    reader.finished()
    expect(len(reader.errors), 1, f"error events ({brief(reader.failure)})")
    expect(reader.errors[0]["type"], "server_error")
    expect_true(name in reader.errors[0]["message"], f"no file named: {reader.errors[0]}")


def expect_refused(server, name, route="/v1/completions", **fields):
    error = expect_error(server.post(route, {**SHORT, **fields} if route == "/v1/completions" else fields), 500, kind="server_error")
    expect_true(name in error["message"], f"no file named: {error}")


def short_text(server, **fields):
    return server.post("/v1/completions", {**SHORT, **fields}).ok()["choices"][0]["text"]


def a_head_cut_short_fails_who_uses_it_alone(folder):
    heads = make_heads(cut=["--label", "toxic", "--init", "normal"], whole=["--label", "toxic", "--init", "normal", "--seed", "4"])
    path = pathlib.Path(shutil.copy(heads["cut"], folder / "cut-head.gguf"))
    flags = ["--head", f"cut={path}", "--head", f"whole={heads['whole']}", "--heads-dir", folder]
    with Server("--threads", "1", *flags) as server:
        alone = Reader(server, LONG)
        alone.run()
        expect(alone.errors, [])
        signals = {"intervention": {"signals": ["cut"]}}
        steered = {"intervention": {"reward": {"heads": {"cut": 2.0}, "candidates": 4}}}
        other = {"intervention": {"signals": ["whole"]}}
        before = short_text(server, **other)
        plain, signalled, args, with_other = read_streams(server, LONG, {**LONG, **signals}, {**LONG, **steered}, {**LONG, **other})
        cut(path)
        for reader in (signalled, args):
            expect_told(reader, path.name)
        for reader in (plain, with_other):
            expect((reader.finished().errors, reader.text()), ([], alone.text()), "a neighbour")
        expect_refused(server, path.name, **signals)
        expect_refused(server, path.name, "/v1/score", input="The otter", heads=["cut"])
        expect(short_text(server, **other), before)
        # The same name serves again once a whole file is loaded.
        expect(server.request("DELETE", "/v1/heads/cut").status, 200)
        shutil.copy(heads["cut"], folder / "again.gguf")
        answer = server.post("/v1/heads", {"name": "cut", "path": "again.gguf"})
        expect(answer.status, 201, brief(answer.body))
        expect(short_text(server, **signals), before)


def a_separate_model_cut_short_fails_who_uses_it_alone(folder):
    path = pathlib.Path(shutil.copy(MODEL, folder / "cut-expert.gguf"))
    with Server("--threads", "1", "--expert-model", f"other={path}") as server:
        alone = Reader(server, LONG)
        alone.run()
        experts = {"intervention": {"experts": {"negative": "other", "alpha": 0.5}}}
        plain, steered = read_streams(server, LONG, {**LONG, **experts})
        cut(path)
        expect_told(steered, path.name)
        expect((plain.finished().errors, plain.text()), ([], alone.text()), "a neighbour")
        expect_refused(server, path.name, **experts)
    path.unlink()


def a_model_cut_short_fails_requests_and_nothing_else(folder):
    path = pathlib.Path(shutil.copy(MODEL, folder / "cut-model.gguf"))
    with Server("--threads", "1", model=path) as server:
        chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
        kept = {route: server.request(method, route, body).body for method, route, body in WITHOUT_A_PASS}
        connection = server.connect()
        connection.request("GET", "/health")
        connection.getresponse().read()
        socket = connection.sock
        readers = read_streams(server, LONG, {**LONG, "prompt": "The otter"})
        cut(path)
        for reader in readers:
            expect_told(reader, path.name)
        expect_refused(server, path.name)
        expect_refused(server, path.name, n=3, prompt=["a", "b"])
        expect_error(server.post("/v1/chat/completions", chat), 500, kind="server_error")
        for method, route, body in WITHOUT_A_PASS:
            expect(server.request(method, route, body).body, kept[route], route)
        connection.request("GET", "/health")
        expect(connection.getresponse().status, 200, "on a connection from before")
        expect_true(connection.sock is socket, "that connection was closed")
        connection.close()
        server.wait_for_metric("vllm:kv_cache_usage_perc", 0)
    path.unlink()


# What reads no weights says what it said before.
WITHOUT_A_PASS = (("GET", "/health", None), ("GET", "/v1/models", None), ("GET", "/tokenizer_info", None),
                  ("POST", "/tokenize", {"content": "The otter's holt, 獺 123"}), ("POST", "/detokenize", {"tokens": [504, 30, 2000, 49000]}),
                  ("POST", "/apply-template", {"messages": [{"role": "user", "content": "Hi"}]}))


def main():
    require_model()
    with tempfile.TemporaryDirectory(prefix="otter-test-") as folder:
        return run_cases([a_head_cut_short_fails_who_uses_it_alone, a_separate_model_cut_short_fails_who_uses_it_alone,
                          a_model_cut_short_fails_requests_and_nothing_else], pathlib.Path(folder))


if __name__ == "__main__":
    sys.exit(main())
