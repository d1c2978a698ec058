"""Untrained heads of every kind for the default model, and a model that differs from it a little: what the tests of steering load.

A generation or lookahead head is a scalar one as `otter init` writes it with other outputs: random, so that it says something definite,
and small, so that what it steers stays text. Names and kinds are those of the heads that are shipped.
"""

import pathlib
import sys

import numpy as np

from api_support import head_flags, make_heads
from server_process import MODEL

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "golden"))
import gguf_io  # noqa: E402


def rewrite(path, kind, activation, offsets, scale, seed, reads_tokens=False):
    """Replaces the outputs of an insertion file by `len(offsets)` matrices of this kind."""
    reader, writer = gguf_io.Reader(path), gguf_io.Writer()
    d = reader.keys["otter.base.embedding_length"]
    n_in = reader.keys["otter.embedding_length"] if reader.keys["otter.head.input"] == "extended" else d
    for key, value in reader.keys.items():
        if not key.startswith(("otter.head.", "general.alignment")):
            element = gguf_io.STRING if isinstance(value, list) else None  # otter.parents is the one array left
            writer.put(key, reader.key_types[key], value, element)
    writer.put("otter.head.kind", gguf_io.STRING, kind)
    writer.put("otter.head.input", gguf_io.STRING, reader.keys["otter.head.input"])
    writer.put("otter.head.activation", gguf_io.STRING, activation)
    writer.put("otter.head.count", gguf_io.U32, len(offsets))
    writer.put("otter.head.offsets", gguf_io.ARRAY, offsets, gguf_io.U32)
    writer.put("otter.head.labels", gguf_io.ARRAY, [f"out{i}" for i in range(len(offsets))], gguf_io.STRING)
    if reads_tokens:
        writer.put("otter.head.reads_tokens", gguf_io.BOOL, True)
    for name, tensor in reader.tensors.items():
        if not name.startswith("otter.head."):
            writer.raw_tensor(name, tensor.type, tensor.dims, bytes(tensor.data))
    random = np.random.default_rng(seed)
    for k in range(len(offsets)):
        writer.tensor(f"otter.head.{k}.weight", random.normal(0, scale, (d, n_in)).astype(np.float32), "F16")
        if reads_tokens:
            writer.tensor(f"otter.head.{k}.token.weight", random.normal(0, 0.3, (n_in, d)).astype(np.float32), "F16")
            writer.tensor(f"otter.head.{k}.residual.weight", np.full(1, 0.4, np.float32))
        if kind == "lookahead":
            writer.tensor(f"otter.head.{k}.bias", np.zeros(1, np.float32))
    data = path.with_suffix(".new")
    writer.write(data)
    data.replace(path)


def make_all_heads():
    """{name: path} in the order of loading: toxicity and policy score; toxic stands on nontoxic; drafts of both kinds; a lookahead head
    on toxicity; linear reads the base alone."""
    scalar = ["--init", "normal"]
    small = ["--width", "32", "--heads", "1", "--ffn", "32", "--init", "mirror", "--label", "x"]
    paths = make_heads(toxicity=["--label", "toxic", *scalar, "--seed", "5"],
                       policy=["--label", "threat", "--label", "insult", *scalar, "--seed", "3"],
                       linear=["--label", "toxic", "--width", "0", "--seed", "2"],
                       nontoxic=[*small, "--seed", "11"])
    stacked = {"toxic": "nontoxic", "toxicity-lookahead": "toxicity"}
    for child, parent in stacked.items():
        paths.update(make_heads(**{child: [*small, "--parent", f"{parent}={paths[parent]}", "--seed", "12"]}))
    paths.update(make_heads(**{"draft-otter": [*small, "--seed", "13"], "draft-medusa": ["--width", "0", "--label", "x"]}))
    rewrite(paths["nontoxic"], "generation", "linear", [0], 0.01, 1)
    rewrite(paths["toxic"], "generation", "linear", [0], 0.01, 2)
    rewrite(paths["draft-otter"], "generation", "linear", [1, 2, 3], 0.003, 3, reads_tokens=True)
    rewrite(paths["draft-medusa"], "generation", "silu_residual", [1, 2, 3], 0.003, 4)
    rewrite(paths["toxicity-lookahead"], "lookahead", "sigmoid", [0], 0.01, 5)
    return paths


def make_other_model(path, seed=1, spread=0.5):
    """The default model with its last norm disturbed: another distribution over the same vocabulary."""
    data = bytearray(MODEL.read_bytes())
    norm = gguf_io.Reader(MODEL).tensors["output_norm.weight"]
    at = data.find(bytes(norm.data))
    changed = norm.floats() * np.random.default_rng(seed).normal(1, spread, norm.dims).astype(np.float32)
    data[at:at + len(norm.data)] = changed.astype("<f4").tobytes()
    pathlib.Path(path).write_bytes(data)


def make_small_model(path, n_layers=10):
    """The lowest layers of the default model: fast enough that its guesses can pay, and not often right."""
    reader, writer = gguf_io.Reader(MODEL), gguf_io.Writer()
    writer.copy_keys(reader, {"llama.block_count": n_layers})
    for name, tensor in reader.tensors.items():
        if not name.startswith("blk.") or int(name.split(".")[1]) < n_layers:
            writer.raw_tensor(name, tensor.type, tensor.dims, bytes(tensor.data))
    writer.write(path)


def make_wide_model(path):
    """The default model in half precision: the same weights but for rounding, in three times the bytes."""
    reader, writer = gguf_io.Reader(MODEL), gguf_io.Writer()
    writer.copy_keys(reader)
    for name, tensor in reader.tensors.items():
        writer.tensor(name, tensor.floats(), "F32" if len(tensor.dims) == 1 else "F16")
    writer.write(path)


def all_flags(paths, other=None, small=None):
    """Flags that load them all, with separate models: judge scores as toxicity does, twin is the default model again, and the draft model
    is a small one or, as heavy as the base, one that never pays."""
    flags = [*head_flags(paths), "--reward-model", f"judge={MODEL},{paths['toxicity']}", "--expert-model", f"twin={MODEL}",
             "--draft-model", small or MODEL]
    return [*flags, "--expert-model", f"other={other}"] if other else flags
