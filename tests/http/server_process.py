"""What the HTTP tests share: a server of their own, requests to it, and a list of cases.

    from server_process import Server, expect, run_cases

    def answers(server):
        expect(server.get("/health").status, 200)

    def main():
        with Server("--threads", "1") as server:
            return run_cases([answers], server)

Server starts $OTTER_BIN (default build/otter) on a free port of 127.0.0.1, waits until /readyz answers 200, and stops it
with SIGTERM; it fails if the server died or did not end with status 0. What the server wrote to standard error is shown when
something fails. Nothing here needs more than Python itself.
"""

import contextlib
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BIN = pathlib.Path(os.environ.get("OTTER_BIN", ROOT / "build" / "otter"))
MODEL = pathlib.Path(os.environ.get("OTTER_MODEL", ROOT / "models" / "smollm2-135m-instruct-q4_1.gguf"))
HEAD = pathlib.Path(os.environ.get("OTTER_HEAD", ROOT / "heads" / "toxicity.gguf"))
SKIPPED = 77
READY_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60


class Failed(AssertionError):
    """A check did not hold; the message has both values."""


def expect(actual, expected, what=""):
    if actual != expected:
        raise Failed(f"{what}{': ' if what else ''}actual {brief(actual)}, expected {brief(expected)}")


def expect_true(held, what):
    if not held:
        raise Failed(what)


def brief(value):
    text = repr(value)
    return text if len(text) <= 2000 else text[:2000] + f"... ({len(text)} characters)"


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(SKIPPED)


class SkipCase(Exception):
    """Raised by a case that cannot run here; the reason is printed."""


def require_model():
    """Ends the test as skipped where the server or the default model is not there."""
    if not BIN.exists():
        print(f"no server at {BIN}: build it first", flush=True)
        sys.exit(1)
    if not MODEL.exists():
        skip(f"no model at {MODEL} (scripts/get-model fetches it)")


def require_head():
    """The shipped toxicity head, as flags of the server."""
    if not HEAD.exists():
        skip(f"no head at {HEAD}")
    return ["--head", f"toxicity={HEAD}"]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Response:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        try:
            return json.loads(self.body)
        except ValueError:
            raise Failed(f"status {self.status}, and the body is no JSON: {brief(self.body)}") from None

    def ok(self):
        """The parsed body of a 200; fails with the body of anything else."""
        if self.status != 200:
            raise Failed(f"status {self.status}: {brief(self.body.decode(errors='replace'))}")
        return self.json()


class Server:
    def __init__(self, *flags, model=MODEL, env=None, ready=True):
        require_model()
        self.flags = [str(flag) for flag in flags]
        self.model = model
        self.env = {**os.environ, **(env or {})}
        self.wait_for_ready = ready
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None
        self.stopped_by_test = False
        self._log = tempfile.TemporaryFile()

    # ---- Life ----------------------------------------------------------------------------------------------

    def command(self):
        return [str(BIN), "serve", "--model", str(self.model), "--host", "127.0.0.1", "--port", str(self.port),
                *self.flags]

    def __enter__(self):
        self.process = subprocess.Popen(self.command(), cwd=ROOT, env=self.env, stdin=subprocess.DEVNULL,
                                        stdout=self._log, stderr=subprocess.STDOUT)
        if self.wait_for_ready:
            try:
                self.wait_ready()
            except BaseException:
                self.kill()
                raise
        return self

    def wait_ready(self):
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            if self.process.poll() is not None:
                raise Failed(f"the server ended with status {self.process.returncode} before it was ready:\n{self.log()}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.get("/readyz", timeout=5).status == 200:
                    return
            if time.monotonic() > deadline:
                raise Failed(f"the server was not ready after {READY_TIMEOUT_S} s:\n{self.log()}")
            time.sleep(0.05)

    def terminate(self):
        """SIGTERM, without waiting."""
        self.stopped_by_test = True
        self.process.send_signal(signal.SIGTERM)

    def wait_stopped(self, timeout_s=STOP_TIMEOUT_S):
        """The exit status."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(f"the server still ran {timeout_s} s after SIGTERM:\n{self.log()}") from None

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def __exit__(self, kind, value, trace):
        died = self.process.poll() is not None and not self.stopped_by_test
        if not died and self.process.poll() is None:
            self.terminate()
            try:
                status = self.wait_stopped()
            except Failed:
                if kind is None:
                    raise
                status = 0
        else:
            status = self.process.returncode
        if kind is not None:
            print(f"---- the server ({' '.join(self.flags)}) wrote:\n{self.log()}----")
        elif died:
            raise Failed(f"the server died with status {status}:\n{self.log()}")
        elif status != 0:
            raise Failed(f"the server ended with status {status} after SIGTERM:\n{self.log()}")

    def log(self, max_bytes=8000):
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - max_bytes))
        return self._log.read().decode(errors="replace")

    # ---- Requests ------------------------------------------------------------------------------------------

    def connect(self, timeout=60):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(self, method, path, body=None, headers=None, timeout=120):
        """body: an object (sent as JSON), bytes, or None."""
        headers = dict(headers or {})
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        connection = self.connect(timeout)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Response(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, body, **options):
        return self.request("POST", path, body, **options)

    def complete(self, prompt, **fields):
        """The body of a completion; temperature 0 and 16 tokens unless told."""
        return self.post("/v1/completions", {"model": self.model_id(), "prompt": prompt, "temperature": 0,
                                             "max_tokens": 16, **fields}).ok()

    def stream(self, path, body, timeout=120):
        """Yields the parsed events of a streamed answer; ends after [DONE], which must come."""
        connection = self.connect(timeout)
        try:
            connection.request("POST", path, json.dumps({**body, "stream": True}),
                               {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise Failed(f"status {answer.status}: {brief(answer.read())}")
            expect(answer.getheader("Content-Type", "").split(";")[0], "text/event-stream", "content type")
            for line in answer:
                line = line.rstrip(b"\r\n")
                if line == b"data: [DONE]":
                    return
                if line.startswith(b"data: "):
                    yield json.loads(line[len(b"data: "):])
            raise Failed("the stream ended without [DONE]")
        finally:
            connection.close()

    def model_id(self):
        if not hasattr(self, "_model_id"):
            self._model_id = self.get("/v1/models").ok()["data"][0]["id"]
        return self._model_id

    def metrics(self):
        """{'name{labels}': value} of every sample."""
        answer = self.get("/metrics")
        expect(answer.status, 200, "/metrics")
        samples = {}
        for line in answer.body.decode().splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                samples[name] = float(value)
        return samples

    def metric(self, name, **labels):
        """The sum of the samples of one name whose labels include these."""
        total, found = 0.0, False
        for sample, value in self.metrics().items():
            if sample.split("{", 1)[0] == name and all(f'{k}="{v}"' in sample for k, v in labels.items()):
                total, found = total + value, True
        if not found and not labels:
            raise Failed(f"no metric {name}")
        return total

    def wait_for_metric(self, name, value, timeout_s=10, **labels):
        """Waits until the metric has this value: what happens one step later is not there at once."""
        deadline = time.monotonic() + timeout_s
        while (last := self.metric(name, **labels)) != value:
            if time.monotonic() > deadline:
                raise Failed(f"{name} {labels or ''} is {last} after {timeout_s} s, expected {value}")
            time.sleep(0.02)


def in_parallel(calls):
    """Runs the calls (functions without arguments) at once, each on its own thread; their results in order."""
    results, errors = [None] * len(calls), []

    def work(i):
        try:
            results[i] = calls[i]()
        except BaseException as error:  # handed on to the test below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def run_cases(cases, *arguments):
    """Calls each case with the arguments and prints how it went; the exit status: 1 if any failed, 77 if all were skipped.
    Words on the command line choose the cases whose names contain one of them."""
    words = sys.argv[1:]
    n_failed = n_skipped = n_run = 0
    for case in cases:
        name = case.__name__
        if words and not any(word in name for word in words):
            continue
        n_run += 1
        start = time.monotonic()
        try:
            case(*arguments)
        except SkipCase as reason:
            n_skipped += 1
            print(f"skipped: {name}: {reason}", flush=True)
        except Exception as error:  # a test goes on with its next case
            n_failed += 1
            if isinstance(error, Failed):
                frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
                where = f"{pathlib.Path(frames[-1].filename).name}:{frames[-1].lineno}: " if frames else ""
                print(f"FAILED  {name}: {where}{error}", flush=True)
            else:
                print(f"FAILED  {name}: {traceback.format_exc()}", flush=True)
            for argument in arguments:
                server = argument if isinstance(argument, Server) else getattr(argument, "server", None)
                if server:
                    print(f"---- the server wrote:\n{server.log(3000)}----", flush=True)
        else:
            print(f"ok      {name} ({time.monotonic() - start:.2f} s)", flush=True)
    print(f"{n_run} cases, {n_failed} failed, {n_skipped} skipped")
    if n_failed or (n_run == 0 and not words):
        return 1
    return SKIPPED if n_run and n_skipped == n_run else 0


def combined(*statuses):
    """One exit status for several calls of run_cases."""
    return 1 if 1 in statuses else 0 if 0 in statuses else SKIPPED
