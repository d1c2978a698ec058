#!/usr/bin/env python3
"""scripts/average-heads: values half way and elsewhere between two files, and what it refuses. Prints each case."""

import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
failures = 0


def check(name, good, what=""):
    global failures
    failures += not good
    print(f"{'ok     ' if good else 'FAILED '} {name}" + ("" if good else f": {what!r}"))


def write(path, values, shape=(2, 3), kind=numpy.float32):
    writer = gguf.GGUFWriter(str(path), "otter")
    writer.add_string("otter.training.init", path.stem)
    writer.add_tensor("otter.head.0.weight", numpy.full(shape, values, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def average(folder, *arguments):
    return subprocess.run([sys.executable, str(ROOT / "scripts" / "average-heads"), *arguments, "--out", "c.gguf"], cwd=folder, capture_output=True, text=True)


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write(folder / "a.gguf", 1.0)
        write(folder / "b.gguf", 5.0)
        write(folder / "wide.gguf", 5.0, (2, 4))
        write(folder / "half.gguf", 5.0, kind=numpy.float16)
        for flags, expected in (([], 3.0), (["--weight-of-b", "0.25"], 2.0), (["--weight-of-b", "0"], 1.0)):
            done = average(folder, "a.gguf", "b.gguf", *flags)
            check(f"{flags}: status", done.returncode == 0, done.stderr)
            reader = gguf.GGUFReader(folder / "c.gguf")
            check(f"{flags}: values", numpy.all(reader.tensors[0].data == expected), reader.tensors[0].data)
            check(f"{flags}: the record of the first", reader.fields["otter.training.init"].contents() == "a")
        for arguments, says in ((("a.gguf", "wide.gguf"), "do not have the same tensors"), (("a.gguf", "half.gguf"), "half.gguf: otter.head.0.weight is F16"),
                                (("a.gguf", "b.gguf", "--weight-of-b", "2"), "must be 0 to 1")):
            done = average(folder, *arguments)
            check(f"{arguments}", done.returncode != 0 and says in done.stderr, done.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
