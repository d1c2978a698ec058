"""A llama-architecture GGUF model in PyTorch, for training: read from a file, run over batches, written back as a file.

Development only, used by separate_models.py. Master weights and the residual stream are float32; within `half()` products with
weights take bfloat16 operands. Frozen layers keep their matrices in bfloat16, which saves casting them at every step.

Shapes: B texts in a batch, T positions, d width, hd head size. Texts begin at position 0 and are padded behind, where causal attention
never looks from a real position.
"""

import functools
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "golden"))
import bpe  # noqa: E402
import gguf_io  # noqa: E402

MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
NORMS = ("attn_norm", "ffn_norm")


def half():
    return torch.autocast("cpu", torch.bfloat16)


class File:
    """Sizes, tokenizer and weights of a GGUF file."""

    def __init__(self, path):
        self.reader = gguf_io.Reader(path)
        keys = self.reader.keys
        key = lambda name: keys["llama." + name]
        self.d, self.n_layers, self.n_heads = key("embedding_length"), key("block_count"), key("attention.head_count")
        self.eps, self.head_dim = key("attention.layer_norm_rms_epsilon"), self.d // self.n_heads
        n_rot, freq_base = key("rope.dimension_count"), key("rope.freq_base")
        self.theta = freq_base ** (-2 * torch.arange(n_rot // 2, dtype=torch.float64) / n_rot)
        self.embedding = self.tensor("token_embd.weight")
        self.output = self.tensor("output.weight") if "output.weight" in self.reader.tensors else self.embedding
        tokenizer = bpe.Tokenizer(self.reader)
        tokenizer._word = functools.cache(tokenizer._word)  # words recur: a million tokens in seconds
        self.encode = tokenizer.encode

    def tensor(self, name):
        return torch.from_numpy(self.reader.floats(name).copy())


def rotate(x, cos, sin):
    """x (B, heads, T, hd), cos and sin (T, hd / 2), float32: elements 2i and 2i + 1 turn together, as in llama GGUF files."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


class Block(nn.Module):
    """Layer number `n` of the file."""

    def __init__(self, file, n):
        super().__init__()
        self.eps, self.head_dim = file.eps, file.head_dim
        for name in MATRICES + NORMS:
            setattr(self, name, nn.Parameter(file.tensor(f"blk.{n}.{name}.weight")))

    def forward(self, h, cos, sin):
        """h (B, T, d) -> the same shape."""
        x = F.rms_norm(h, h.shape[-1:], self.attn_norm, self.eps)
        split = lambda y: y.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        q, k, v = (split(F.linear(x, w)) for w in (self.attn_q, self.attn_k, self.attn_v))
        with torch.autocast("cpu", enabled=False):  # its bfloat16 gradient takes twice the time of float32
            out = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v.float(), is_causal=True, enable_gqa=True)
        h = h + F.linear(out.transpose(1, 2).flatten(2), self.attn_output)
        x = F.rms_norm(h, h.shape[-1:], self.ffn_norm, self.eps)
        return h + F.linear(F.silu(F.linear(x, self.ffn_gate)) * F.linear(x, self.ffn_up), self.ffn_down)


class Model(nn.Module):
    """The layers `layers` of the file in this order, the lowest `n_frozen` of them as they are, with `scalar` an output on top:
    w . norm(h) + b, zero at first. The embedding is never trained."""

    def __init__(self, file, layers, n_frozen, scalar=False):
        super().__init__()
        self.file, self.layers, self.n_frozen = file, list(layers), n_frozen
        self.blocks = nn.ModuleList(Block(file, n) for n in layers)
        self.output_norm = nn.Parameter(file.tensor("output_norm.weight"))
        if scalar:
            self.weight, self.bias = nn.Parameter(torch.zeros(file.d)), nn.Parameter(torch.zeros(()))
        for block in self.blocks[:n_frozen]:
            block.requires_grad_(False)
            if torch.is_autocast_enabled("cpu"):
                for name in MATRICES:
                    getattr(block, name).data = getattr(block, name).data.bfloat16()

    def run(self, blocks, h):
        angle = torch.outer(torch.arange(h.shape[1], dtype=torch.float64), self.file.theta)
        cos, sin = angle.cos().float(), angle.sin().float()
        for block in blocks:
            h = block(h, cos, sin)
        return h

    @torch.no_grad()
    def frozen(self, tokens):
        """tokens (B, T) -> what the trained layers read, (B, T, d)."""
        return self.run(self.blocks[:self.n_frozen], self.file.embedding[tokens])

    def forward(self, h):
        """What `frozen` gave -> normalised last hidden state (B, T, d)."""
        h = self.run(self.blocks[self.n_frozen:], h)
        return F.rms_norm(h, h.shape[-1:], self.output_norm, self.file.eps)

    def score(self, x):
        """Normalised hidden states -> the scalar output, without activation."""
        return (x * self.weight).sum(-1) + self.bias  # no product of matrices: float32 also within half()


# ---- Files ---------------------------------------------------------------------------------------------------


def array(parameter):
    return parameter.detach().float().numpy()


def write_model(path, model, name, record):
    """The trained model as a GGUF file: trained matrices in Q8_0, all else byte for byte as in its base."""
    reader, w = model.file.reader, gguf_io.Writer()
    w.copy_keys(reader, {"llama.block_count": len(model.layers), "general.name": name})
    for key, value in record.items():
        w.put(f"training.{key}", gguf_io.STRING, str(value))

    def copy(new_name, old_name):
        tensor = reader.tensors[old_name]
        w.raw_tensor(new_name, tensor.type, tensor.dims, bytes(tensor.data))

    for tensor in reader.tensors:
        if tensor == "output_norm.weight":
            w.tensor(tensor, array(model.output_norm))
        elif not tensor.startswith("blk."):
            copy(tensor, tensor)
    for i, (n, block) in enumerate(zip(model.layers, model.blocks)):
        for part in MATRICES + NORMS:
            if i < model.n_frozen:
                copy(f"blk.{i}.{part}.weight", f"blk.{n}.{part}.weight")
            else:
                w.tensor(f"blk.{i}.{part}.weight", array(getattr(block, part)), "F32" if part in NORMS else "Q8_0")
    w.write(path)


def write_head(path, model_path, model, name, label, activation, record):
    """The model's scalar output as an insertion without a stream of its own, which reads the last hidden state."""
    reader = gguf_io.Reader(model_path)
    w = gguf_io.Writer()
    text = lambda key, value: w.put(key, gguf_io.STRING, value)
    number = lambda key, value: w.put(key, gguf_io.U32, value)
    text("general.architecture", "otter")
    text("general.name", name)
    number("otter.version", 1)
    text("otter.base.architecture", reader.keys["general.architecture"])
    text("otter.base.name", reader.keys["general.name"])
    text("otter.base.fingerprint", gguf_io.fingerprint(reader))
    number("otter.base.embedding_length", model.file.d)
    number("otter.base.block_count", len(model.layers))
    number("otter.base.vocab_size", len(model.file.embedding))
    for key in ("embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv"):
        number("otter." + key, 0)
    w.put("otter.parents", gguf_io.ARRAY, [], gguf_io.STRING)
    text("otter.head.kind", "scalar")
    text("otter.head.input", "base")
    number("otter.head.count", 1)
    w.put("otter.head.offsets", gguf_io.ARRAY, [0], gguf_io.U32)
    w.put("otter.head.labels", gguf_io.ARRAY, [label], gguf_io.STRING)
    text("otter.head.activation", activation)
    for key, value in record.items():
        text(f"otter.training.{key}", str(value))
    w.tensor("otter.head.0.weight", array(model.weight)[None])
    w.tensor("otter.head.0.bias", array(model.bias)[None])
    w.write(path)


def read_head(path, model):
    """Puts the scalar head of `path` on top of the model."""
    reader = gguf_io.Reader(path)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(reader.floats("otter.head.0.weight").copy()).reshape(-1))
        model.bias.copy_(torch.from_numpy(reader.floats("otter.head.0.bias").copy()).reshape(()))
