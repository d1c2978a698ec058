#!/usr/bin/env python3
"""A limit on threads (prlimit --nproc, a container's pids limit): all threads are there before the server listens, or it says why it does not
start. libuv's own pool would start with the first large body, and abort the process if it could not.

test-timeout: 120
"""

import json
import os
import subprocess
import sys

from server_process import BIN, MODEL, Server, expect, expect_true, require_model, run_cases, skip

USER = 54321  # has no other processes: the limit counts by user, and root has none
LARGE = json.dumps({"content": "The otter swims. " * 20000})


class Limited(Server):
    def __init__(self, n, *flags, **options):
        super().__init__(*flags, **options)
        self.n = n

    def command(self):
        return ["setpriv", f"--reuid={USER}", "--clear-groups", "prlimit", f"--nproc={self.n}:{self.n}", *super().command()]


def starts_with_all_threads_or_says_why():
    started = []
    for n in range(1, 12):
        with Limited(n, "--threads", "2", ready=False) as server:
            try:
                server.wait_ready()
            except AssertionError:
                server.stopped_by_test = True
                expect(server.process.wait(60), 1, f"status with {n} threads: {server.log()}")
                expect_true("thread" in server.log(), f"with {n} threads: {server.log()}")
                server.process.returncode = 0  # the expected end
                continue
            started.append(n)
            expect(server.post("/tokenize", LARGE).status, 200, f"a large body with {n} threads")
            expect(server.complete("a", max_tokens=2)["usage"]["completion_tokens"], 2)
    print(f"started with {started}")
    expect_true(started and started == list(range(started[0], 12)), f"started with {started}")


def main():
    require_model()
    if os.geteuid() != 0:
        skip("only root can become a user whose threads are limited")
    reads = subprocess.run(["setpriv", f"--reuid={USER}", "--clear-groups", "test", "-x", str(BIN), "-a", "-r", str(MODEL)], check=False)
    if reads.returncode != 0:
        skip(f"another user cannot read {BIN} and {MODEL}")
    return run_cases([starts_with_all_threads_or_says_why])


if __name__ == "__main__":
    sys.exit(main())
