#!/usr/bin/env python3
"""`./run` and the entry point of the image, with a stub in the place of `otter` that writes down what it was called with: which model and
heads the arguments leave to the script, in which order, and what is announced."""

import pathlib
import shutil
import subprocess
import sys
import tempfile

from server_process import ROOT, SkipCase, expect, expect_true, run_cases

STUB = """#!/bin/sh
for word in "$@"; do echo "$word"; done >"$0.called"
[ -z "$ADDRESS" ] || echo "otter: listening on $ADDRESS" >&2
echo "otter: farewell" >&2
"""
DEFAULT_MODEL = "models/smollm2-135m-instruct-q4_1.gguf"
SHIPPED = (ROOT / "heads" / "shipped").read_text().split()
DEFAULTS = ["--model", DEFAULT_MODEL, *(flag for name in SHIPPED for flag in ("--head", f"{name}=heads/{name}.gguf"))]


def write_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


class Tree:
    """A folder with a copy of `run` or of serve-container, the stub, empty heads and whatever the script calls besides."""

    def __init__(self, heads=SHIPPED, models=(DEFAULT_MODEL,)):
        self.folder = tempfile.TemporaryDirectory(prefix="otter-test-")
        self.path = pathlib.Path(self.folder.name)
        shutil.copy(ROOT / "run", self.path)
        write_program(self.path / "build" / "otter", STUB)
        for script in ("install-packages", "get-model"):
            write_program(self.path / "scripts" / script, f"#!/bin/sh\necho {script} >>scripts/called\n")
        for file in (*models, *(f"heads/{name}.gguf" for name in heads)):
            (self.path / file).parent.mkdir(exist_ok=True)
            (self.path / file).touch()
        (self.path / "heads").mkdir(exist_ok=True)
        shutil.copy(ROOT / "heads" / "shipped", self.path / "heads")
        (self.path / "models").mkdir(exist_ok=True)
        inside = (ROOT / "docker" / "serve-container").read_text()
        for folder in ("/models", "/heads"):
            inside = inside.replace(folder, f"{self.path}{folder}")
        write_program(self.path / "serve-container", inside)

    def call(self, script, *arguments, address=""):
        """The finished script; `called` and `scripts` are what the stub and the other scripts were called with, None where they were not."""
        path = f"{self.path}/build:/usr/local/bin:/usr/bin:/bin"
        done = subprocess.run([str(self.path / script), *arguments], cwd="/", env={"PATH": path, "ADDRESS": address}, capture_output=True,
                              text=True, stdin=subprocess.DEVNULL, timeout=60)
        read = lambda file: (self.path / file).read_text().splitlines() if (self.path / file).exists() else None
        done.called, done.scripts = read("build/otter.called"), read("scripts/called")
        return done


def flags_of_run(*arguments):
    """What `./run` starts `otter serve` with."""
    called = Tree().call("run", *arguments).called
    expect_true(called and called[0] == "serve", f"otter was called with {called}")
    return called[1:]


def run_adds_the_model_and_every_head():
    expect(flags_of_run(), DEFAULTS)
    expect_true(SHIPPED.index("toxicity") < SHIPPED.index("toxicity-lookahead") and SHIPPED.index("nontoxic") < SHIPPED.index("toxic"),
                f"a head before the one that it stands on: {SHIPPED}")
    tree = Tree()
    expect(tree.call("run").scripts, ["install-packages", "get-model"])


def run_loads_no_head_of_yours():
    """heads/mine.gguf is where a user trained it; who wants it served says so."""
    expect(Tree(heads=[*SHIPPED, "mine", "another"]).call("run").called, ["serve", *DEFAULTS])


def ships_what_is_listed():
    tracked = subprocess.run(["git", "ls-files", "heads/*.gguf"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not tracked:
        raise SkipCase("no git here")
    expect(sorted(pathlib.Path(file).stem for file in tracked), sorted(SHIPPED))


def run_passes_arguments_on():
    for arguments in (["--port", "9000", "--threads", "4"], ["--host=::1"], ["--model-name", "x y"], ["--model-name=x"],
                      ["--reward-model", "judge=m.gguf,h.gguf"], ["--head", "toxicity=other.gguf"]):
        expect(flags_of_run(*arguments), [*DEFAULTS, *arguments])


def run_leaves_a_model_of_yours_alone():
    for arguments in (["--model", "other.gguf"], ["--model=other.gguf", "--head", "x=x.gguf"], ["--config", "otter.yaml"], ["--config=otter.yaml"],
                      ["--port", "1", "--model", "other.gguf"], ["--help"]):
        tree = Tree()
        done = tree.call("run", *arguments)
        expect(done.called, ["serve", *arguments])
        expect(done.scripts, ["install-packages"], "other scripts called")


def run_announces_the_address_that_the_server_names():
    for address, shown in (("http://127.0.0.1:8080", "http://127.0.0.1:8080"), ("http://0.0.0.0:41234", "http://127.0.0.1:41234"),
                           ("http://10.0.0.0:90", "http://10.0.0.0:90"), ("http://[::]:90", "http://[::1]:90"),
                           ("http://[fe80::1]:90", "http://[fe80::1]:90")):
        done = Tree().call("run", "--port", "0", address=address)
        expect_true(f"\nReady at {shown}." in done.stdout and f"\ncurl -s {shown}/v1/completions " in done.stdout, done.stdout)
        expect_true('"intervention": {"signals": ["toxicity"]}' in done.stdout, done.stdout)
        expect(done.stderr.splitlines()[-2:], [f"otter: listening on {address}", "otter: farewell"])
    done = Tree(heads=["nontoxic"]).call("run", address="http://127.0.0.1:8080")
    expect_true("Ready at" in done.stdout and "intervention" not in done.stdout, done.stdout)
    expect(Tree().call("run").stdout, "", "announced without a server")


def the_container_adds_the_model_and_every_head():
    tree = Tree()
    model, heads = f"{tree.path}/{DEFAULT_MODEL}", [flag for name in SHIPPED for flag in ("--head", f"{name}={tree.path}/heads/{name}.gguf")]
    for arguments in ([], ["--port", "1"], ["--model-name", "x y"], ["--model-name=x"], ["--config-like"]):
        done = tree.call("serve-container", *arguments)
        expect(done.called, ["serve", "--host", "0.0.0.0", "--model", model, *heads, *arguments])
    other = Tree(models=["models/other.gguf"])
    expect(other.call("serve-container").called, ["serve", "--host", "0.0.0.0", "--model", f"{other.path}/models/other.gguf"])


def the_container_leaves_a_model_of_yours_alone():
    for arguments in (["--model", "other.gguf"], ["--model=other.gguf"], ["--config", "otter.yaml"], ["--port", "1", "--config=otter.yaml"]):
        expect(Tree().call("serve-container", *arguments).called, ["serve", "--host", "0.0.0.0", *arguments])


def the_container_wants_one_model():
    for models in ([], ["models/a.gguf", "models/b.gguf"]):
        done = Tree(models=models).call("serve-container", "--model-name", "x")
        expect((done.returncode, done.called), (2, None), done.stderr)
        expect_true(f"has {len(models)} models" in done.stderr, done.stderr)


if __name__ == "__main__":
    sys.exit(run_cases([run_adds_the_model_and_every_head, run_loads_no_head_of_yours, ships_what_is_listed, run_passes_arguments_on, run_leaves_a_model_of_yours_alone,
                        run_announces_the_address_that_the_server_names, the_container_adds_the_model_and_every_head,
                        the_container_leaves_a_model_of_yours_alone, the_container_wants_one_model]))
