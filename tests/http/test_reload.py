#!/usr/bin/env python3
"""SIGHUP reads the configuration again: keys, presets, thresholds, log files and heads change at one moment, or nothing does and the log says why.
Requests that run go on with what they had, and none is lost.

test-timeout: 240
"""

import pathlib
import shutil
import signal
import sys
import tempfile
import threading
import time

from api_support import expect_error, make_heads
from server_process import Server, expect, expect_true, require_model, run_cases

SETTINGS = """
head: {{first: {folder}/first.gguf, second: {folder}/second.gguf}}
api-key-file: {folder}/keys
log-file: {folder}/log
access-log: plain
moderation-head: first
moderation-threshold: {threshold}
presets:
  kind: {{signals: [{preset}]}}
"""


class Place:
    """A server with a folder for its configuration."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        made = make_heads(first=["--label", "toxic", "--init", "normal", "--seed", "5"], second=["--label", "toxic", "--init", "normal", "--seed", "6"],
                          third=["--label", "toxic", "--init", "normal", "--seed", "7"])
        for name, path in made.items():
            shutil.copy(path, self.folder / f"{name}.gguf")
        self.write(keys="sk-one name=one\n")
        self.server = Server("--config", self.folder / "otter.yaml")

    def write(self, keys=None, settings=SETTINGS, threshold=0.5, preset="first", more=""):
        if keys is not None:
            (self.folder / "keys").write_text(keys)
        new = self.folder / "otter.yaml.new"
        new.write_text(settings.format(folder=self.folder, threshold=threshold, preset=preset) + more)
        new.rename(self.folder / "otter.yaml")  # a reload that is under way must not see half of it

    def log(self):
        return (self.folder / "log").read_text()

    def reload(self, said="otter: reloaded"):
        """Sends the signal and waits for its line in the log."""
        before = self.log().count(said)
        self.server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 30
        while self.log().count(said) <= before:
            expect_true(time.monotonic() < deadline, f"no line '{said}': {self.log()[-2000:]}")
            time.sleep(0.02)

    def get(self, path, key="sk-one"):
        return self.server.get(path, headers={"Authorization": f"Bearer {key}"})

    def post(self, path, body, key="sk-one"):
        return self.server.post(path, body, headers={"Authorization": f"Bearer {key}"})

    def signals(self, **fields):
        body = {"prompt": "The otter", "max_tokens": 3, "temperature": 0, **fields}
        return self.post("/v1/completions", body).ok()["choices"][0]["signals"]

    def head_names(self):
        return [head["name"] for head in self.get("/v1/heads").ok()["data"]]


def takes_new_keys(place):
    place.write(keys="sk-two name=two\nsk-one role=manage\n")
    expect(place.get("/v1/models", "sk-two").status, 401, "before")
    place.reload()
    expect([place.get("/v1/models", key).status for key in ("sk-one", "sk-two")], [200, 200])
    place.write(keys="sk-one\n")
    place.reload()
    expect_error(place.get("/v1/models", "sk-two"), 401)


def takes_new_presets_and_thresholds(place):
    before = place.signals(model=place.get("/v1/models").ok()["data"][1]["id"])
    expect(list(before), ["first"])
    place.write(preset="second", threshold=-1000, more="  other: {signals: [first, second]}\n")
    place.reload()
    names = [model["id"].partition("+")[2] for model in place.get("/v1/models").ok()["data"]]
    expect(names, ["", "kind", "other"])
    kind = place.get("/v1/models").ok()["data"][1]["id"]
    expect(list(place.signals(model=kind)), ["second"])
    expect(place.post("/v1/moderations", {"input": "a"}).ok()["results"][0]["flagged"], True, "above -1000")
    place.write(threshold=1000)
    place.reload()
    expect(place.post("/v1/moderations", {"input": "a"}).ok()["results"][0]["flagged"], False, "above 1000")
    expect_error(place.post("/v1/completions", {"model": names and kind.replace("kind", "other"), "prompt": "a"}), 404, "model")


def takes_new_heads(place):
    """A replaced file is loaded anew, a new name is added, one that is gone is taken away; what did not change is not read again."""
    first = place.signals(intervention={"signals": ["first", "second"]})
    shutil.copy(place.folder / "third.gguf", place.folder / "new.gguf")
    (place.folder / "new.gguf").rename(place.folder / "first.gguf")
    place.write(settings=SETTINGS.replace("second: {folder}/second.gguf", "third: {folder}/third.gguf"))
    place.reload()
    expect(sorted(place.head_names()), ["first", "third"])
    now = place.signals(intervention={"signals": ["first", "third"]})
    expect_true(now["first"] != first["first"], "the new file's scores")
    expect(now["first"], now["third"], "first and third are one file's copies")
    expect_error(place.post("/v1/completions", {"prompt": "a", "intervention": {"signals": ["second"]}}), 400)
    n_loaded = place.log().count("otter: head")
    place.reload()
    expect(place.log().count("otter: head"), n_loaded, "heads read for nothing")
    place.write()
    place.reload()
    expect(sorted(place.head_names()), ["first", "second"])
    expect(place.signals(intervention={"signals": ["second"]})["second"], first["second"], "second is back")


def changes_nothing_on_failure(place):
    """Whatever is wrong, the good parts of the same reload do not come either."""
    place.write(threshold=1000)
    place.reload()
    signals = place.signals(intervention={"signals": ["first", "second"]})
    (place.folder / "broken.gguf").write_bytes(b"GGUF nonsense")
    for what, said, arguments in (
            ("a key that is no setting", "no-such-setting", {"more": "no-such-setting: 1\n"}),
            ("bad YAML", "otter.yaml", {"more": "head: [\n"}),
            ("an empty key file", "holds no key", {"keys": "# none\n"}),
            ("a bad head", "broken.gguf", {"settings": SETTINGS.replace("second.gguf", "broken.gguf")}),
            ("a missing head", "missing.gguf", {"settings": SETTINGS.replace("second.gguf", "missing.gguf")}),
            ("a preset with an unknown head", "preset 'kind'", {"preset": "nobody"}),
            ("a log file in no folder", "log-file", {"settings": SETTINGS.replace("{folder}/log", "{folder}/none/log")})):
        place.write(**{"keys": "sk-three\n", "threshold": -1000, **arguments})
        place.reload("otter: not reloaded")
        line = [line for line in place.log().splitlines() if "not reloaded" in line][-1]
        expect_true(said in line, f"{what}: {line}")
        expect([place.get("/v1/models", key).status for key in ("sk-one", "sk-three")], [200, 401], what)
        expect(place.post("/v1/moderations", {"input": "a"}).ok()["results"][0]["flagged"], False, what)
        expect(sorted(place.head_names()), ["first", "second"], what)
    expect(place.signals(intervention={"signals": ["first", "second"]}), signals)
    place.write(keys="sk-one\n", more="kv-memory: 123M\n")
    place.reload("otter: kv-memory has changed")
    place.write()
    place.reload()


def opens_its_log_again(place):
    old = place.folder / "log.1"
    (place.folder / "log").rename(old)
    (place.folder / "log").touch()
    place.reload()
    place.server.get("/health", headers={"X-Request-Id": "after-the-turn"})
    time.sleep(0.2)
    expect_true("after-the-turn" in place.log(), "the new file is written")
    expect_true("after-the-turn" not in old.read_text(), "the old one is not")


def loses_nothing_under_load(place):
    """Reloads as fast as they come, with heads that change each time, while streams and short requests run."""
    def resident():
        status = pathlib.Path(f"/proc/{place.server.process.pid}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) // 1024

    body = {"prompt": "The otter", "max_tokens": 5, "temperature": 0, "ignore_eos": True}
    plain = place.post("/v1/completions", body).ok()["choices"][0]["text"]
    results, over = [], threading.Event()

    def ask(fields):
        while not over.is_set():
            try:
                answer = place.post("/v1/completions", {**body, **fields})
                results.append((answer.status, answer.json()["choices"][0]["text"] if answer.status == 200 else answer.body))
            except Exception as error:
                results.append((0, repr(error)))

    kind = place.get("/v1/models").ok()["data"][1]["id"]
    threads = [threading.Thread(target=ask, args=(fields,)) for fields in ({}, {}, {"model": kind}, {"intervention": {"signals": ["first"]}})]
    for thread in threads:
        thread.start()
    memory = []
    for i in range(24):
        shutil.copy(place.folder / ("second.gguf" if i % 2 else "third.gguf"), place.folder / "new.gguf")
        (place.folder / "new.gguf").rename(place.folder / "first.gguf")
        place.write(threshold=i, preset="second" if i % 3 else "first")
        place.server.process.send_signal(signal.SIGHUP)
        if i % 4 == 0:
            place.reload()
            memory.append(resident())
    place.reload()
    over.set()
    for thread in threads:
        thread.join(60)
    expect({status for status, _ in results}, {200}, f"{results[-3:]}")
    expect({text for _, text in results}, {plain})
    time.sleep(1)
    print(f"{len(results)} requests, none lost; RssAnon in MiB {memory}, at the end {resident()}")
    expect_true(resident() < memory[0] + 48, f"grew: {memory}, {resident()}")
    expect_true(place.server.metric("otter_request_memory_bytes") < 4 << 20, "heads count as requests' memory")


def main():
    require_model()
    with tempfile.TemporaryDirectory(prefix="otter-test-") as folder:
        place = Place(folder)
        with place.server:
            return run_cases([takes_new_keys, takes_new_presets_and_thresholds, takes_new_heads, changes_nothing_on_failure, opens_its_log_again,
                              loses_nothing_under_load], place)


if __name__ == "__main__":
    sys.exit(main())
