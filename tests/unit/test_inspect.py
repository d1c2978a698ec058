#!/usr/bin/env python3
"""`otter inspect`: what it prints of an insertion, as text and as JSON, and how it fails. Prints each case; exit 0 or 1, 77 without the program."""

import hashlib
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

OTTER = pathlib.Path(os.environ.get("BUILD", "build")) / "otter"
failures = 0


def check(name, actual, expected):
    global failures
    good = actual == expected
    failures += not good
    print(f"{'ok     ' if good else 'FAILED '} {name}" + ("" if good else f": {actual!r}, expected {expected!r}"))


def text(value):
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def value(item):
    """Type and bytes: bool, int as u32, float as f32, str as string, list of str or int as array."""
    if isinstance(item, bool):
        return 7, struct.pack("<?", item)
    if isinstance(item, int):
        return 4, struct.pack("<I", item)
    if isinstance(item, float):
        return 6, struct.pack("<f", item)
    if isinstance(item, list):
        kinds = [value(part) for part in item]
        return 9, struct.pack("<IQ", kinds[0][0] if kinds else 8, len(item)) + b"".join(data for _, data in kinds)
    return 8, text(item)


def gguf(keys, tensors):
    """tensors: name -> (type, dims, data)."""
    out = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys))
    for name, item in keys.items():
        kind, data = value(item)
        out += text(name) + struct.pack("<I", kind) + data
    offset, blob = 0, b""
    for name, (kind, dims, data) in tensors.items():
        out += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
        blob += data + bytes(-len(data) % 32)
        offset = len(blob)
    return out + bytes(-len(out) % 32) + blob


def inspect(*arguments):
    return subprocess.run([str(OTTER), "inspect", *map(str, arguments)], capture_output=True, text=True, timeout=60)


KEYS = {
    "general.architecture": "otter", "otter.version": 1, "otter.base.architecture": "llama", "otter.base.name": "SomeBase",
    "otter.base.embedding_length": 576, "otter.base.block_count": 30, "otter.base.vocab_size": 49152,
    "otter.base.fingerprint": "ab" * 32, "otter.embedding_length": 32, "otter.feed_forward_length": 64,
    "otter.attention.head_count": 3, "otter.attention.head_count_kv": 1, "otter.head.kind": "scalar",
    "otter.head.input": "extended", "otter.head.count": 1, "otter.head.labels": ["toxic"], "otter.head.activation": "sigmoid",
    "otter.training.data": "some rows\x1b[31m", "otter.training.steps": 800, "otter.training.loss": 0.125,
}
TENSORS = {
    "otter.output_norm.weight": (0, [32], bytes(range(128))),
    "otter.head.0.weight": (8, [32, 1], bytes(34)),
    "odd": (16, [256], bytes(66)),  # IQ2_XXS: a size that is known, a type that is not computed with
}


def listing_for_people(path):
    done = inspect(path)
    check("exit status", done.returncode, 0)
    lines = done.stdout.splitlines()
    for line in ["  architecture otter, name -", "  sizes     d' 32, f' 64, 3 new heads on 1 key/value heads",
                 "  heads     1 scalar reading extended, activation sigmoid", "  labels    [1] toxic", "  offsets   -",
                 "  base      SomeBase (llama), width 576, 30 layers, vocabulary 49152"]:
        check(f"line {line.strip()!r}", line in lines, True)
    order = [done.stdout.find(f"\n{title}") for title in ("Insertion", "Training", "Keys (20)", "Tensors (3)", "Totals", "Fingerprint")]
    check("order of the parts", (min(order) > 0, order), (True, sorted(order)))
    record = dict(line.split(None, 1) for line in done.stdout.split("\nTraining\n")[1].split("\n\n")[0].splitlines())
    check("training record", record, {"data": "some rows\\x1b[31m", "steps": "800", "loss": "0.125"})
    check("no escape reaches the terminal", "\x1b" in done.stdout, False)
    drafts = path.with_name("drafts.gguf")
    drafts.write_bytes(gguf({**KEYS, "otter.head.kind": "generation", "otter.head.reads_tokens": True}, TENSORS))
    check("heads that read tokens", "  heads     1 generation reading extended and tokens, activation sigmoid" in inspect(drafts).stdout.splitlines(),
          True)
    marked = [line.split()[0] for line in lines if "not a type that the engine computes with" in line]
    check("marked types", marked, ["odd"])


def listing_as_json(path, data):
    done = inspect("--json", path)
    check("exit status of --json", done.returncode, 0)
    listing = json.loads(done.stdout)
    check("bytes", listing["bytes"], len(data))
    check("insertion", listing["insertion"], True)
    check("no chat template", listing["chat_template"], None)
    check("a string", listing["keys"]["otter.head.kind"], {"type": "string", "value": "scalar"})
    check("an array", listing["keys"]["otter.head.labels"]["value"], {"element_type": "string", "count": 1, "first": ["toxic"]})
    check("a tensor", listing["tensors"][1], {"name": "otter.head.0.weight", "type": "Q8_0", "shape": [32, 1], "bytes": 34})
    check("totals", listing["totals"]["all"], {"tensors": 3, "elements": 32 + 32 + 256, "bytes": 128 + 34 + 66})
    digest = hashlib.sha256()
    for name, (kind, dims, content) in sorted(TENSORS.items()):
        digest.update(name.encode() + b"\0" + struct.pack(f"<II{len(dims)}Q", kind, len(dims), *dims) + content)
    check("fingerprint", listing["fingerprint"], digest.hexdigest())


def block_of_a_base(folder):
    base = folder / "base.gguf"
    base.write_bytes(gguf({"general.architecture": "qwen2"}, {}))
    done = inspect("--block", base)
    lines = done.stdout.splitlines()
    check("--block", (done.returncode, lines[0]), (0, "Block of qwen2, once for each layer, on the stream h"))
    check("an operation", "  q = attn_q x + bias; k = attn_k x + bias; v = attn_v x + bias" in lines, True)
    check("a tensor", ["blk.N.attn_k.bias", "[KV]"] in [line.split() for line in lines], True)
    done = inspect("--block", folder / "head.gguf")
    check("--block of an insertion", (done.returncode, "'otter'" in done.stderr, done.stdout), (1, True, ""))


def chat_templates(folder):
    for source, line, member in (
            ("{% for m in messages %}{{ m.content }}{% endfor %}", "  chat template: tools not shown, calls not shown, thoughts none",
             {"problem": None, "tools": False, "tool_calls": False, "thoughts": False}),
            ("{{ tools }}{% for m in messages %}{{ m.content.split('</think>')[-1] }}{{ m.tool_calls | tojson if m.tool_calls }}{% endfor %}",
             "  chat template: tools shown, calls shown, thoughts told apart", {"problem": None, "tools": True, "tool_calls": True, "thoughts": True}),
            ("a\n{% if %}", "  chat is off: the chat template, line 2: expected an expression", {"problem": "the chat template, line 2: expected an expression"})):
        path = folder / "chat.gguf"
        path.write_bytes(gguf({"general.architecture": "llama", "tokenizer.chat_template": source}, TENSORS))
        check(f"line of {source[:20]!r}", line in inspect(path).stdout.splitlines(), True)
        check(f"member of {source[:20]!r}", json.loads(inspect("--json", path).stdout)["chat_template"], member)


def failing(folder):
    broken = folder / "broken.gguf"
    broken.write_bytes(gguf(KEYS, TENSORS)[:200])
    done = inspect(broken)
    check("a cut file", (done.returncode, str(broken) in done.stderr and "at byte" in done.stderr, done.stdout), (1, True, ""))
    check("no file", inspect(folder / "none.gguf").returncode, 1)
    check("no argument", inspect().returncode, 2)
    check("two files", inspect(broken, broken).returncode, 2)
    check("unknown option", inspect("--yaml", broken).returncode, 2)
    done = inspect("--help")
    check("--help", (done.returncode, done.stdout.startswith("Usage: otter inspect")), (0, True))


def main():
    if not OTTER.exists():
        print(f"skipped: {OTTER} is not built")
        return 77
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        data = gguf(KEYS, TENSORS)
        (folder / "head.gguf").write_bytes(data)
        listing_for_people(folder / "head.gguf")
        listing_as_json(folder / "head.gguf", data)
        block_of_a_base(folder)
        chat_templates(folder)
        failing(folder)
    print(f"{failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
