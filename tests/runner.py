#!/usr/bin/env python3
"""Runs the tests of the tree, one program after the other, and counts them. `./test` prepares the ground and calls this.

    tests/runner.py [--list] [NAME...]      the tests whose name contains one of the words, or all

A test is one program, run from the root of the tree; it exits with 0 (passed), 77 (skipped: the last line with
"skipped" in it gives the reason) or anything else (failed: its log is shown). Found by name:

    tests/FOLDER/test-*.c                   C, built by make as $BUILD/tests/FOLDER/test-*
    tests/FOLDER/{test_*,check-*}.py        Python, run with the virtual environment's

A test that needs more than the usual time says so near its top: `test-timeout: 300` (seconds). Each runs in its own process
group, which is killed when its time is up, so that no server outlives its test.

Environment: BUILD, the build folder; OTTER_TEST_PYTHON, the Python for the tests; OTTER_TEST_EARLIER, failures from before the tests as
NAME=MESSAGE lines (a model that could not be fetched), which are counted as failed tests.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("BUILD", "build"))
PYTHON = os.environ.get("OTTER_TEST_PYTHON", sys.executable)
FOLDERS = ["lint", "unit", "kernels", "fuzz", "golden", "http", "packages"]  # first these, then any other
NOT_TESTS = {"support", "bench"}
USUAL_TIMEOUT_S = 120
SKIPPED = 77
MAX_LOG_LINES = 200


class Test:
    def __init__(self, path):
        self.path = path
        self.folder = path.parent.name
        self.name = f"{self.folder}/{path.stem}"
        self.is_c = path.suffix == ".c"
        found = re.search(r"test-timeout:\s*(\d+)", (ROOT / path).read_text(errors="replace")[:4000])
        self.timeout_s = int(found.group(1)) if found else USUAL_TIMEOUT_S

    def binary(self):
        return BUILD / "tests" / self.folder / self.path.stem

    def command(self):
        return [str(self.binary())] if self.is_c else [PYTHON, str(self.path)]


def find_tests():
    found = []
    for pattern in ("test-*.c", "test_*.py", "check-*.py"):
        found += [Test(path.relative_to(ROOT)) for path in ROOT.glob(f"tests/*/{pattern}")]
    found = [test for test in found if test.folder not in NOT_TESTS]

    def order(test):
        return FOLDERS.index(test.folder) if test.folder in FOLDERS else len(FOLDERS), test.name

    return sorted(found, key=order)


def build(tests, log):
    """Builds otter and the C tests, going on after an error. A test whose build failed has no program then."""
    for test in tests:
        if test.is_c:
            (ROOT / test.binary()).unlink(missing_ok=True)  # else an old one would pass for what no longer compiles
    targets = [str(BUILD / "otter")] + [str(test.binary()) for test in tests if test.is_c]
    command = ["make", "-k", f"-j{os.cpu_count() or 1}", f"BUILD={BUILD}", *targets]
    return subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT).returncode


def run_program(command, timeout_s, log_path):
    """The exit status, or None when the time was up; the log has what it printed."""
    with open(log_path, "wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                   start_new_session=True)
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            # Also after a good end: whatever a test left running would disturb the next.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()


def show_log(log_path):
    lines = log_path.read_text(errors="replace").splitlines()
    if len(lines) > MAX_LOG_LINES:
        half = MAX_LOG_LINES // 2
        lines = lines[:half] + [f"... {len(lines) - 2 * half} lines, all of them in {log_path} ..."] + lines[-half:]
    for line in lines:
        print(f"    | {line}")


class Counts:
    def __init__(self):
        self.passed = self.skipped = 0
        self.failed = []

    def add(self, test, status, seconds, log_path):
        reasons = [line.strip() for line in log_path.read_text(errors="replace").splitlines()
                   if line.lstrip().lower().startswith("skipped")]
        if status == 0:
            self.passed += 1
            print(f"passed   {test.name}  {seconds:.1f} s", flush=True)
            for reason in reasons:
                print(f"         in part {reason}")
        elif status == SKIPPED:
            self.skipped += 1
            print(f"skipped  {test.name}: {reasons[-1] if reasons else 'no reason given'}", flush=True)
        else:
            self.failed.append(test.name)
            if status is None:
                why = f"no end after {test.timeout_s} s"
            elif status < 0:
                why = f"signal {signal.Signals(-status).name}"
            else:
                why = f"exit status {status}"
            print(f"FAILED   {test.name}  {seconds:.1f} s, {why}")
            show_log(log_path)
            sys.stdout.flush()

    def add_failure(self, name, message):
        self.failed.append(name)
        print(f"FAILED   {name}: {message}", flush=True)


def main():
    words = [word for word in sys.argv[1:] if word != "--list"]
    tests = [test for test in find_tests() if not words or any(word in test.name for word in words)]
    if "--list" in sys.argv[1:]:
        print("\n".join(test.name for test in tests))
        return 0
    counts = Counts()
    logs = ROOT / BUILD / "test-logs"
    logs.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OTTER_BIN", str((ROOT / BUILD / "otter").resolve()))

    for line in os.environ.get("OTTER_TEST_EARLIER", "").splitlines():
        if "=" in line:
            counts.add_failure(*line.split("=", 1))

    start = time.monotonic()
    with open(logs / "build.log", "wb") as log:
        status = build(tests, log)
    print(f"built in {time.monotonic() - start:.1f} s", flush=True)
    if status != 0:
        counts.add_failure("build", f"make ended with status {status}")
        show_log(logs / "build.log")

    for test in tests:
        if test.is_c and not (ROOT / test.binary()).exists():
            counts.add_failure(test.name, "does not build")
            continue
        log_path = logs / (test.name.replace("/", "-") + ".log")
        begin = time.monotonic()
        status = run_program(test.command(), test.timeout_s, log_path)
        counts.add(test, status, time.monotonic() - begin, log_path)

    minutes, seconds = divmod(time.monotonic() - start, 60)
    print(f"\n{len(tests)} tests in {minutes:.0f} min {seconds:.0f} s; logs in {logs}")
    for name in counts.failed:
        print(f"failed: {name}")
    if not tests:
        counts.add_failure("none", f"no test has a name with any of: {' '.join(words)}")
    print(f"{counts.passed} passed, {len(counts.failed)} failed, {counts.skipped} skipped", flush=True)
    return 1 if counts.failed else 0


if __name__ == "__main__":
    sys.exit(main())
