#!/usr/bin/env python3
"""Writes small random models and insertions, and what the NumPy reference makes of them, for test-golden.c.

    make_golden.py FOLDER [--force]

Everything comes from fixed seeds, so the folder can be thrown away; a stamp of these sources tells whether it is up to
date, and then nothing is done. Exit status 77: no NumPy. `manifest.txt` lists the cases, one word and its arguments a line:

    case NAME
    model FILE
    insertion NAME FILE [PARENT ...]     parents first; all of them run, in this order
    expected FILE
    tolerance SCORES LOGITS              largest absolute differences allowed with float32 keys and values
    half-tolerance SCORES LOGITS         and with half-precision ones
    end

An expected file is little-endian: the text OTGOLD02; u32 n_tokens, n_vocab, n_insertions, n_candidates, position;
u32 width of each insertion's scores (outputs; outputs times n_vocab where a head has a value for every token); i32 tokens (n_tokens); f32 logits (n_tokens, n_vocab); for each insertion f32 scores
(n_tokens, width); the same logits and scores again with keys and values rounded to half precision; then candidates for `position`, which follow tokens[0 .. position): i32 (n_candidates), and their
logits (n_candidates, n_vocab) and, for each insertion, scores (n_candidates, width).
"""

import hashlib
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

try:
    import numpy as np
except ImportError:
    print("skipped: NumPy is not installed")
    sys.exit(77)

import bpe
import gguf_io
import reference

HERE = os.path.dirname(os.path.abspath(__file__))
CHATML = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
          "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ġ t", "h e", "i n", "Ġ a", "r e", "o n", "Ġt he", "e r", "Ġ s", "a t", "Ġ w", "e n", "Ġ o", "i s", "i t",
          "o u", "a n", "Ġ c", "e s", "in g", "o r", "Ġ f", "a l", "Ġ b", "Ġ p", "e d", "Ġo f", "Ġ m", "Ġan d", "Ġ in",
          "l e", "Ġt o", "a r", "Ġ d", "i c", "Ġ h", "an d", "s t", "Ġ l", "v e", "o m", "l l"]
N_TOKENS = 71    # more than two pages, and odd
POSITION = 45    # of the candidates: inside the second page, so that some of their slots lie on the third
# The same for texts whose attention takes more than one chunk of 256 keys: two full ones and a rest; a draft from there on crosses the end of the second.
LONG_N_TOKENS, LONG_POSITION = 530, 510


# ---- Files ---------------------------------------------------------------------------------------------------


def put_vocabulary(writer):
    """A complete byte-level vocabulary of 300 tokens. Returns its size."""
    merges = [m for m in MERGES if m != "Ġan d"] + ["Ġa nd"]
    tokens = SPECIALS + [bpe.byte_symbols()[b] for b in range(256)]
    for merge in merges:
        if len(tokens) < 300 and merge.replace(" ", "") not in tokens:
            tokens.append(merge.replace(" ", ""))
    assert len(tokens) == 300, len(tokens)
    merges = [m for m in merges if m.replace(" ", "") in tokens]
    writer.put("tokenizer.ggml.model", gguf_io.STRING, "gpt2")
    writer.put("tokenizer.ggml.pre", gguf_io.STRING, "smollm")
    writer.put("tokenizer.ggml.tokens", gguf_io.ARRAY, tokens, gguf_io.STRING)
    writer.put("tokenizer.ggml.token_type", gguf_io.ARRAY, [3] * 3 + [1] * (len(tokens) - 3), gguf_io.I32)
    writer.put("tokenizer.ggml.merges", gguf_io.ARRAY, merges, gguf_io.STRING)
    writer.put("tokenizer.ggml.bos_token_id", gguf_io.U32, 1)
    writer.put("tokenizer.ggml.eos_token_id", gguf_io.U32, 2)
    writer.put("tokenizer.ggml.add_bos_token", gguf_io.BOOL, False)
    writer.put("tokenizer.chat_template", gguf_io.STRING, CHATML)
    return len(tokens)


def random_blocks(rng, type_name, n_out, n_in):
    """Random bytes of a block type, with scales such that the weights have a variance of about 1 / n_in."""
    _, block, block_bytes = gguf_io.TYPES[type_name]
    data = rng.integers(0, 256, (n_out * n_in // block, block_bytes), dtype=np.uint8)
    levels = {"Q4_0": 4.6, "Q4_1": 4.6, "Q5_0": 9.2, "Q5_1": 9.2, "Q8_0": 74.0, "Q4_K": 150.0, "Q5_K": 300.0,
              "Q6_K": 1370.0}[type_name]  # standard deviation of the integers, sub-scales included
    scale = (rng.uniform(0.7, 1.3, len(data)) / (levels * np.sqrt(n_in))).astype(np.float16)
    middle = {"Q4_1": -7.5, "Q5_1": -15.5, "Q4_K": 7.5, "Q5_K": 15.5}.get(type_name)
    at = 208 if type_name == "Q6_K" else 0
    data[:, at:at + 2] = scale.view(np.uint8).reshape(-1, 2)
    if middle is not None:
        data[:, at + 2:at + 4] = (scale * middle).astype(np.float16).view(np.uint8).reshape(-1, 2)
    return data.tobytes()


class Maker:
    """Puts random tensors into a writer."""

    def __init__(self, seed, type_of=None):
        self.rng = np.random.default_rng(seed)
        self.type_of = type_of or {}
        self.writer = gguf_io.Writer()

    def matrix(self, name, n_out, n_in, scale=1.0):
        """Block types are drawn as blocks, of a standard deviation near 1 / sqrt(n_in) whatever the scale."""
        kind = "head" if name.startswith("otter.head.") else name.split(".")[-2]
        type_name = self.type_of.get(kind, self.type_of.get("*", "F32"))
        if type_name in ("F32", "F16", "BF16"):
            x = self.rng.normal(0, scale / np.sqrt(n_in), (n_out, n_in)).astype(np.float32)
            self.writer.tensor(name, x, type_name)
        else:
            self.writer.raw_tensor(name, type_name, (n_in, n_out), random_blocks(self.rng, type_name, n_out, n_in))

    def vector(self, name, n, mean=0.0, spread=0.2):
        self.writer.tensor(name, self.rng.normal(mean, spread, n).astype(np.float32))


def put_llama_layer(maker, architecture, b, d, head_dim, heads, kv_heads, n_ff):
    q, kv = heads * head_dim, kv_heads * head_dim
    has_norms = architecture != "olmo2"
    if has_norms:
        maker.vector(b + "attn_norm.weight", d, 1)
    if architecture == "phi3":
        maker.matrix(b + "attn_qkv.weight", q + 2 * kv, d, 1.3)
    else:
        maker.matrix(b + "attn_q.weight", q, d, 1.5)
        maker.matrix(b + "attn_k.weight", kv, d, 1.5)
        maker.matrix(b + "attn_v.weight", kv, d)
    if architecture == "qwen2":
        for name, size in (("attn_q", q), ("attn_k", kv), ("attn_v", kv)):
            maker.vector(b + name + ".bias", size, spread=0.5)
    if architecture in ("qwen3", "olmo2", "gemma3"):
        maker.vector(b + "attn_q_norm.weight", q if architecture == "olmo2" else head_dim, 1.2)
        maker.vector(b + "attn_k_norm.weight", kv if architecture == "olmo2" else head_dim, 1.2)
    maker.matrix(b + "attn_output.weight", d, q)
    if architecture in ("olmo2", "gemma2", "gemma3"):
        maker.vector(b + "post_attention_norm.weight", d, 0.7)
        maker.vector(b + "post_ffw_norm.weight", d, 0.7)
    if has_norms:
        maker.vector(b + "ffn_norm.weight", d, 1)
    if architecture == "phi3":
        maker.matrix(b + "ffn_up.weight", 2 * n_ff, d)
    else:
        maker.matrix(b + "ffn_gate.weight", n_ff, d)
        maker.matrix(b + "ffn_up.weight", n_ff, d)
    maker.matrix(b + "ffn_down.weight", d, n_ff)


def make_llama(path, seed, d=64, head_dim=16, heads=4, kv_heads=2, n_ff=160, layers=3, tied=True, n_rot=None, scaling=None,
               freqs=False, context=256, type_of=None, architecture="llama", numbers=None):
    """A small file of Llama or an architecture like it. `scaling`: keys under ARCHITECTURE.rope; `numbers`: those under ARCHITECTURE.
    Embedding rows have unit variance."""
    maker = Maker(seed, type_of)
    w = maker.writer
    w.put("general.architecture", gguf_io.STRING, architecture)
    w.put("general.name", gguf_io.STRING, "golden " + os.path.basename(path).removesuffix(".gguf"))
    for key, value in {"block_count": layers, "context_length": context, "embedding_length": d, "feed_forward_length": n_ff,
                       "attention.head_count": heads, "attention.head_count_kv": kv_heads, "attention.key_length": head_dim,
                       "attention.value_length": head_dim, "rope.dimension_count": n_rot or head_dim}.items():
        w.put(f"{architecture}.{key}", gguf_io.U32, value)
    w.put(architecture + ".rope.freq_base", gguf_io.F32_VALUE, 10000.0)
    w.put(architecture + ".attention.layer_norm_rms_epsilon", gguf_io.F32_VALUE, 1e-5)
    for key, value in (scaling or {}).items():
        kind = {str: gguf_io.STRING, int: gguf_io.U32, float: gguf_io.F32_VALUE}[type(value)]
        w.put(f"{architecture}.rope.{key}", kind, value)
    for key, value in (numbers or {}).items():
        w.put(f"{architecture}.{key}", gguf_io.U32 if isinstance(value, int) else gguf_io.F32_VALUE, value)
    n_vocab = put_vocabulary(w)
    w.put(architecture + ".vocab_size", gguf_io.U32, n_vocab)
    maker.matrix("token_embd.weight", n_vocab, d, scale=1.0 if tied else np.sqrt(d))
    if freqs:
        w.tensor("rope_freqs.weight", np.linspace(1, 8, (n_rot or head_dim) // 2).astype(np.float32))
    for n in range(layers):
        put_llama_layer(maker, architecture, f"blk.{n}.", d, head_dim, heads, kv_heads, n_ff)
    maker.vector("output_norm.weight", d, 1)
    if not tied:
        maker.matrix("output.weight", n_vocab, d)
    w.write(path)


def make_gpt2(path, seed, d=48, heads=3, n_ff=96, layers=2, context=96, tied=True, type_of=None, vocabulary=put_vocabulary):
    """A small GPT-2 file: LayerNorm, learned positions, one matrix for Q, K and V, biases everywhere. `vocabulary` puts one into a
    writer and returns its size."""
    maker = Maker(seed, type_of)
    w = maker.writer
    w.put("general.architecture", gguf_io.STRING, "gpt2")
    w.put("general.name", gguf_io.STRING, "golden " + os.path.basename(path).removesuffix(".gguf"))
    for key, value in {"block_count": layers, "context_length": context, "embedding_length": d, "feed_forward_length": n_ff,
                       "attention.head_count": heads}.items():
        w.put("gpt2." + key, gguf_io.U32, value)
    w.put("gpt2.attention.layer_norm_epsilon", gguf_io.F32_VALUE, 1e-5)
    n_vocab = vocabulary(w)
    maker.matrix("token_embd.weight", n_vocab, d)
    maker.matrix("position_embd.weight", context, d, 0.3)
    for n in range(layers):
        b = f"blk.{n}."
        for norm in ("attn_norm", "ffn_norm"):
            maker.vector(b + norm + ".weight", d, 1)
            maker.vector(b + norm + ".bias", d)
        for name, n_out, n_in in (("attn_qkv", 3 * d, d), ("attn_output", d, d), ("ffn_up", n_ff, d), ("ffn_down", d, n_ff)):
            maker.matrix(b + name + ".weight", n_out, n_in)
            maker.vector(b + name + ".bias", n_out)
    maker.vector("output_norm.weight", d, 1)
    maker.vector("output_norm.bias", d)
    if not tied:
        maker.matrix("output.weight", n_vocab, d)
    w.write(path)


def put_inserted_norm(maker, base, name, width):
    maker.vector(name + ".weight", width, 1)
    if base.is_gpt2:
        maker.vector(name + ".bias", width)


def put_inserted_layer(maker, base, prefix, width, n_ff, heads, kv_heads, n_in, n_attn, n_inner):
    """n_in, n_attn and n_inner are the widths D, A and F that the layer's matrices read."""
    hd = base.head_dim
    matrices = [("attn_output", width, n_attn, 1.0), ("ffn_down", width, n_inner, 1.0)]
    if heads:
        matrices += [("attn_q", heads * hd, n_in, 1.5), ("attn_k", kv_heads * hd, n_in, 1.5), ("attn_v", kv_heads * hd, n_in, 1.0)]
    if n_ff:
        matrices += [("ffn_up", n_ff, n_in, 1.0)] + ([] if base.is_gpt2 else [("ffn_gate", n_ff, n_in, 1.0)])
    for name, rows, columns, scale in matrices:
        maker.matrix(prefix + name + ".weight", rows, columns, scale)
        fused = "attn_qkv" if base.is_gpt2 and name in ("attn_q", "attn_k", "attn_v") else name
        if f"blk.0.{fused}.bias" in base.weights:
            maker.vector(prefix + name + ".bias", rows)
    for name in ("attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm"):
        if f"blk.0.{name}.weight" in base.weights:
            put_inserted_norm(maker, base, prefix + name, width)
    for name, own in (("attn_q_norm", heads), ("attn_k_norm", kv_heads)):
        if own and f"blk.0.{name}.weight" in base.weights:
            whole = len(base.weights.get(f"blk.0.{name}.weight")) != hd
            maker.vector(prefix + name + ".weight", own * hd if whole else hd, 1.2)


def make_insertion(path, seed, base, width, n_ff, heads, kv_heads, parents=(), outputs=1, activation="sigmoid", reads="extended",
                   type_of=None, kind="scalar", first_offset=0, head_scale=0.7, reads_tokens=False):
    """A small insertion for `base` (a reference.Model). `parents`: (name, reference.Insertion) pairs, lowest first."""
    maker = Maker(seed, type_of)
    w = maker.writer
    keys = base.reader.keys
    n_vocab = base.reader.tensors["token_embd.weight"].dims[1]
    w.put("general.architecture", gguf_io.STRING, "otter")
    w.put("otter.version", gguf_io.U32, 1)
    w.put("otter.base.architecture", gguf_io.STRING, keys["general.architecture"])
    w.put("otter.base.name", gguf_io.STRING, keys["general.name"])
    w.put("otter.base.fingerprint", gguf_io.STRING, gguf_io.fingerprint(base.reader))
    for key, value in {"base.embedding_length": base.d, "base.block_count": base.n_layers, "base.vocab_size": n_vocab,
                       "embedding_length": width, "feed_forward_length": n_ff, "attention.head_count": heads,
                       "attention.head_count_kv": kv_heads, "head.count": outputs}.items():
        w.put("otter." + key, gguf_io.U32, value)
    w.put("otter.parents", gguf_io.ARRAY, [name for name, _ in parents], gguf_io.STRING)
    w.put("otter.head.kind", gguf_io.STRING, kind)
    w.put("otter.head.input", gguf_io.STRING, reads)
    w.put("otter.head.activation", gguf_io.STRING, activation)
    w.put("otter.head.offsets", gguf_io.ARRAY,
          [first_offset + k if kind == "generation" else 0 for k in range(outputs)], gguf_io.U32)
    w.put("otter.head.labels", gguf_io.ARRAY, [f"label{k}" for k in range(outputs)], gguf_io.STRING)
    if reads_tokens:
        w.put("otter.head.reads_tokens", gguf_io.BOOL, True)
    w.put("otter.training.data", gguf_io.STRING, "none: random weights")

    hd = base.head_dim
    n_in = base.d + sum(p.width for _, p in parents) + width
    n_attn = (base.n_heads + sum(p.n_heads for _, p in parents) + heads) * hd
    n_inner = base.n_ff + sum(p.n_ff for _, p in parents) + n_ff
    if width:
        # h' starts at the scale of h, which it is normalised with.
        spread = base.weights.get("token_embd.weight").std()
        maker.matrix("otter.token_embd.weight", n_vocab, width, np.sqrt(width) * spread)
        if base.is_gpt2:
            maker.matrix("otter.position_embd.weight", base.n_context, width, np.sqrt(width) * spread * 0.3)
        for n in range(base.n_layers):
            put_inserted_layer(maker, base, f"otter.blk.{n}.", width, n_ff, heads, kv_heads, n_in, n_attn, n_inner)
        put_inserted_norm(maker, base, "otter.output_norm", width)
    for k in range(outputs):
        n_head = base.d if reads == "base" else width
        if kind == "scalar":
            maker.matrix(f"otter.head.{k}.weight", 1, n_head, 1.5)
        else:
            maker.matrix(f"otter.head.{k}.weight", base.d, n_head, head_scale)
        if reads_tokens:
            # B_h e(token) about as large as H'.
            length = np.sqrt(base.d) * base.weights.get("token_embd.weight").std()
            maker.matrix(f"otter.head.{k}.token.weight", n_head, base.d, np.sqrt(base.d) / length)
            maker.vector(f"otter.head.{k}.residual.weight", 1, spread=0.5)
        if kind != "generation":
            maker.vector(f"otter.head.{k}.bias", 1, spread=0.5)
    w.write(path)


# ---- Cases ---------------------------------------------------------------------------------------------------

# Largest differences of scores and logits; the logits here have a standard deviation of about 1.
EXACT = (1e-4, 2e-4)      # float weights: what float32 sums in another order may differ by
HALF = (3e-3, 6e-3)       # half-precision keys and values: now and then one is rounded the other way than in float64
QUANTISED = (0.05, 0.25)  # block types: activations in 8 bits
# Values of heads for every token, of a standard deviation of about 0.7, from a table made at load: in halves, or in 8 bits.
HALF_TABLE = (2e-3, 2e-4)
BYTE_TABLE = (4e-2, 2e-4)

BLOCK_TYPES = {"token_embd": "Q6_K", "attn_q": "Q4_K", "attn_k": "Q5_K", "attn_v": "Q6_K", "attn_output": "Q4_0",
               "ffn_gate": "Q5_0", "ffn_up": "Q5_1", "ffn_down": "Q8_0", "output": "Q4_1"}
SMALL_BLOCKS = {"token_embd": "Q8_0", "attn_q": "Q4_1", "attn_k": "Q4_1", "attn_v": "Q5_1", "attn_output": "Q4_1",
                "ffn_gate": "Q4_0", "ffn_up": "Q4_1", "ffn_down": "Q4_1"}

MODELS = {
    "tied": dict(seed=1),
    "separate": dict(seed=2, tied=False, head_dim=32, heads=3, kv_heads=1),
    "half": dict(seed=3, type_of={"*": "F16"}),
    "bfloat": dict(seed=4, tied=False, type_of={"*": "BF16"}, d=48, n_ff=72, heads=6, kv_heads=3),
    "partial": dict(seed=5, head_dim=32, n_rot=20, heads=2, kv_heads=2),
    "linear": dict(seed=6, scaling={"scaling.type": "linear", "scaling.factor": 4.0}),
    "llama3": dict(seed=7, freqs=True, head_dim=32),
    "yarn": dict(seed=8, head_dim=32, scaling={"scaling.type": "yarn", "scaling.factor": 8.0,
                                               "scaling.original_context_length": 32}),
    "blocks": dict(seed=9, d=256, n_ff=256, heads=8, kv_heads=4, head_dim=32, layers=2, tied=False, type_of=BLOCK_TYPES),
    "broad": dict(seed=11, d=128, n_ff=96, heads=4, kv_heads=2, head_dim=32, layers=2, tied=False),
    "q4": dict(seed=10, d=96, n_ff=192, heads=3, kv_heads=3, head_dim=32, type_of=SMALL_BLOCKS),
}

# name -> (base, sizes)
INSERTIONS = {
    "full": ("tied", dict(seed=101, width=24, n_ff=40, heads=4, kv_heads=2)),
    "single": ("tied", dict(seed=102, width=16, n_ff=16, heads=1, kv_heads=1)),
    "grouped": ("tied", dict(seed=103, width=32, n_ff=64, heads=3, kv_heads=1)),
    "own-kv": ("tied", dict(seed=104, width=32, n_ff=32, heads=3, kv_heads=3)),
    "no-heads": ("tied", dict(seed=105, width=32, n_ff=48, heads=0, kv_heads=0)),
    "no-ffn": ("tied", dict(seed=106, width=32, n_ff=0, heads=2, kv_heads=1)),
    "stream-only": ("tied", dict(seed=107, width=20, n_ff=0, heads=0, kv_heads=0)),
    "odd": ("tied", dict(seed=108, width=5, n_ff=7, heads=6, kv_heads=3)),
    "one-wide": ("tied", dict(seed=109, width=1, n_ff=1, heads=1, kv_heads=1)),
    "wide": ("tied", dict(seed=110, width=80, n_ff=200, heads=8, kv_heads=4)),
    "task-head": ("tied", dict(seed=111, width=0, n_ff=0, heads=0, kv_heads=0, reads="base")),
    "outputs": ("tied", dict(seed=112, width=16, n_ff=24, heads=2, kv_heads=1, outputs=3, activation="identity")),
    "task-outputs": ("tied", dict(seed=113, width=0, n_ff=0, heads=0, kv_heads=0, reads="base", outputs=2,
                                  activation="identity")),
    "stacked": ("tied", dict(seed=114, width=16, n_ff=24, heads=2, kv_heads=2, parents=["full"])),
    "stacked-no-heads": ("tied", dict(seed=115, width=12, n_ff=0, heads=0, kv_heads=0, parents=["full"])),
    "stacked-on-thin": ("tied", dict(seed=116, width=16, n_ff=8, heads=1, kv_heads=1, parents=["stream-only"])),
    "stacked-on-two": ("tied", dict(seed=117, width=16, n_ff=24, heads=2, kv_heads=1, parents=["grouped", "no-ffn"])),
    "third": ("tied", dict(seed=118, width=8, n_ff=8, heads=1, kv_heads=1, parents=["full", "stacked"])),
    "half-full": ("half", dict(seed=119, width=24, n_ff=40, heads=4, kv_heads=2, type_of={"*": "F16"})),
    "bfloat-full": ("bfloat", dict(seed=120, width=24, n_ff=40, heads=2, kv_heads=1, type_of={"*": "BF16"})),
    "separate-full": ("separate", dict(seed=121, width=24, n_ff=40, heads=4, kv_heads=2)),
    "yarn-full": ("yarn", dict(seed=122, width=24, n_ff=40, heads=2, kv_heads=1)),
    "partial-full": ("partial", dict(seed=123, width=24, n_ff=40, heads=2, kv_heads=1)),
    "q4-full": ("q4", dict(seed=124, width=32, n_ff=64, heads=3, kv_heads=1, type_of={"*": "Q8_0", "head": "F32"})),
    "expert": ("tied", dict(seed=126, width=24, n_ff=40, heads=2, kv_heads=1, kind="generation", activation="linear")),
    "anti-expert": ("tied", dict(seed=127, width=20, n_ff=24, heads=2, kv_heads=2, kind="generation", activation="linear",
                                 parents=["expert"])),
    "drafts": ("tied", dict(seed=128, width=16, n_ff=24, heads=1, kv_heads=1, kind="generation", activation="linear", outputs=3,
                            first_offset=1)),
    "wide-drafts": ("tied", dict(seed=129, width=40, n_ff=24, heads=2, kv_heads=1, kind="generation", activation="linear",
                                 outputs=2, first_offset=1)),
    "medusa": ("tied", dict(seed=130, width=0, n_ff=0, heads=0, kv_heads=0, kind="generation", activation="silu_residual",
                            reads="base", outputs=3, first_offset=1)),
    "linear-on-base": ("tied", dict(seed=131, width=0, n_ff=0, heads=0, kv_heads=0, kind="generation", activation="linear",
                                    reads="base")),
    "lookahead": ("tied", dict(seed=132, width=8, n_ff=8, heads=1, kv_heads=1, kind="lookahead", parents=["full"])),
    "lookahead-wide": ("tied", dict(seed=133, width=33, n_ff=0, heads=0, kv_heads=0, kind="lookahead", activation="identity",
                                    outputs=2)),
    "lookahead-on-base": ("tied", dict(seed=134, width=0, n_ff=0, heads=0, kv_heads=0, kind="lookahead", reads="base")),
    "broad-expert": ("broad", dict(seed=135, width=32, n_ff=32, heads=2, kv_heads=1, kind="generation", activation="linear")),
    "broad-anti-expert": ("broad", dict(seed=136, width=32, n_ff=32, heads=2, kv_heads=1, kind="generation", activation="linear",
                                        parents=["broad-expert"])),
    "broad-medusa": ("broad", dict(seed=137, width=0, n_ff=0, heads=0, kv_heads=0, kind="generation",
                                   activation="silu_residual", reads="base", outputs=2, first_offset=1)),
    "q4-medusa": ("q4", dict(seed=138, width=0, n_ff=0, heads=0, kv_heads=0, kind="generation", activation="silu_residual",
                             reads="base", outputs=2, first_offset=1, type_of={"*": "Q8_0"})),
    "q4-float": ("q4", dict(seed=125, width=24, n_ff=40, heads=2, kv_heads=1)),
}

GPT2_MODELS = {
    "gpt2": dict(seed=11),
    "gpt2-separate": dict(seed=12, tied=False, d=64, heads=2, n_ff=112, layers=3),
    "gpt2-half": dict(seed=13, d=40, heads=5, n_ff=56, type_of={"*": "F16"}),
    "gpt2-q8": dict(seed=14, d=96, heads=3, n_ff=192, layers=3, type_of={"*": "Q8_0"}),
    "gpt2-blocks": dict(seed=15, d=256, heads=8, n_ff=256, tied=False,
                        type_of={"token_embd": "Q6_K", "position_embd": "F32", "attn_qkv": "Q4_K", "attn_output": "Q5_0",
                                 "ffn_up": "Q5_K", "ffn_down": "Q4_1", "output": "Q6_K"}),
}
GPT2_INSERTIONS = {
    "gpt2-full": ("gpt2", dict(seed=126, width=24, n_ff=40, heads=3, kv_heads=3)),
    "gpt2-grouped": ("gpt2", dict(seed=127, width=16, n_ff=24, heads=4, kv_heads=2)),
    "gpt2-no-heads": ("gpt2", dict(seed=128, width=32, n_ff=48, heads=0, kv_heads=0)),
    "gpt2-no-ffn": ("gpt2", dict(seed=129, width=32, n_ff=0, heads=2, kv_heads=2)),
    "gpt2-stream-only": ("gpt2", dict(seed=130, width=20, n_ff=0, heads=0, kv_heads=0)),
    "gpt2-odd": ("gpt2", dict(seed=131, width=5, n_ff=7, heads=1, kv_heads=1, outputs=3, activation="identity")),
    "gpt2-task-head": ("gpt2", dict(seed=132, width=0, n_ff=0, heads=0, kv_heads=0, reads="base")),
    "gpt2-stacked": ("gpt2", dict(seed=133, width=16, n_ff=24, heads=2, kv_heads=2, parents=["gpt2-full"])),
    "gpt2-third": ("gpt2", dict(seed=134, width=8, n_ff=8, heads=1, kv_heads=1, parents=["gpt2-full", "gpt2-stacked"])),
    "gpt2-separate-full": ("gpt2-separate", dict(seed=135, width=24, n_ff=40, heads=2, kv_heads=2)),
    "gpt2-half-full": ("gpt2-half", dict(seed=136, width=24, n_ff=40, heads=2, kv_heads=2, type_of={"*": "F16"})),
    "gpt2-expert": ("gpt2", dict(seed=148, width=20, n_ff=40, heads=2, kv_heads=2, kind="generation", activation="linear")),
    "gpt2-medusa": ("gpt2", dict(seed=149, width=0, n_ff=0, heads=0, kv_heads=0, kind="generation", activation="silu_residual",
                                 reads="base", outputs=2, first_offset=1)),
    "gpt2-q8-full": ("gpt2-q8", dict(seed=137, width=32, n_ff=64, heads=3, kv_heads=3, type_of={"*": "Q8_0", "head": "F32"})),
}

# Architectures like Llama's.
OTHER_MODELS = {
    "qwen2": dict(seed=21, architecture="qwen2"),
    "qwen2-yarn": dict(seed=22, architecture="qwen2", tied=False, head_dim=32, heads=3, kv_heads=1,
                       scaling={"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 64}),
    "qwen3": dict(seed=24, architecture="qwen3"),
    "olmo2": dict(seed=25, architecture="olmo2", tied=False),
    "smollm3": dict(seed=26, architecture="smollm3", layers=5),
    "granite": dict(seed=27, architecture="granite", numbers={"embedding_scale": 1.5, "residual_scale": 0.6, "attention.scale": 0.2,
                                                              "logit_scale": 2.0}),
    "phi3": dict(seed=28, architecture="phi3", head_dim=32, n_rot=24, heads=4, kv_heads=2, tied=False),
    "phi3-window": dict(seed=29, architecture="phi3", numbers={"attention.sliding_window": 20}),
    "gemma2": dict(seed=30, architecture="gemma2", layers=4, numbers={"attention.sliding_window": 33, "attn_logit_softcapping": 3.0,
                                                                    "final_logit_softcapping": 4.0}),
    "gemma3": dict(seed=31, architecture="gemma3", layers=7, numbers={"attention.sliding_window": 30},
                   scaling={"scaling.type": "linear", "scaling.factor": 8.0}),
    "qwen2-q8": dict(seed=23, architecture="qwen2", d=96, n_ff=192, heads=3, kv_heads=3, head_dim=32, type_of={"*": "Q8_0"}),
}
OTHER_INSERTIONS = {
    "qwen2-full": ("qwen2", dict(seed=160, width=24, n_ff=40, heads=4, kv_heads=2)),
    "qwen2-stacked": ("qwen2", dict(seed=161, width=16, n_ff=24, heads=2, kv_heads=2, parents=["qwen2-full"])),
    "qwen2-yarn-expert": ("qwen2-yarn", dict(seed=162, width=20, n_ff=40, heads=2, kv_heads=1, kind="generation", activation="linear")),
    "qwen3-full": ("qwen3", dict(seed=164, width=24, n_ff=40, heads=4, kv_heads=2)),
    "qwen3-no-heads": ("qwen3", dict(seed=165, width=16, n_ff=24, heads=0, kv_heads=0, parents=["qwen3-full"])),
    "olmo2-full": ("olmo2", dict(seed=166, width=24, n_ff=40, heads=4, kv_heads=2)),
    "olmo2-stacked": ("olmo2", dict(seed=167, width=16, n_ff=24, heads=3, kv_heads=1, parents=["olmo2-full"])),
    "smollm3-full": ("smollm3", dict(seed=168, width=24, n_ff=40, heads=2, kv_heads=1)),
    "granite-full": ("granite", dict(seed=169, width=24, n_ff=40, heads=2, kv_heads=1)),
    "granite-expert": ("granite", dict(seed=170, width=20, n_ff=40, heads=2, kv_heads=1, kind="generation", activation="linear")),
    "gemma2-full": ("gemma2", dict(seed=172, width=24, n_ff=40, heads=2, kv_heads=1)),
    "gemma2-expert": ("gemma2", dict(seed=173, width=20, n_ff=40, heads=2, kv_heads=1, kind="generation", activation="linear")),
    "gemma3-full": ("gemma3", dict(seed=174, width=24, n_ff=40, heads=4, kv_heads=2)),
    "gemma3-stacked": ("gemma3", dict(seed=175, width=16, n_ff=24, heads=1, kv_heads=1, parents=["gemma3-full"])),
    "phi3-full": ("phi3", dict(seed=171, width=24, n_ff=40, heads=2, kv_heads=2)),
    "qwen2-q8-full": ("qwen2-q8", dict(seed=163, width=32, n_ff=64, heads=3, kv_heads=1, type_of={"*": "Q8_0", "head": "F32"})),
}

# Heads that read tokens: with tables in halves and in 8 bits, and through the output matrix; GPT-2 adds positions to embeddings, which
# heads do not read.
DRAFTS = dict(kind="generation", activation="linear", first_offset=1, reads_tokens=True)
READING = {
    "reading": ("tied", dict(seed=150, width=16, n_ff=24, heads=1, kv_heads=1, outputs=3, **DRAFTS)),
    "reading-wide": ("separate", dict(seed=151, width=40, n_ff=24, heads=2, kv_heads=1, outputs=2, **DRAFTS)),
    "reading-broad": ("broad", dict(seed=152, width=32, n_ff=0, heads=0, kv_heads=0, outputs=4, **DRAFTS)),
    "reading-q4": ("q4", dict(seed=153, width=32, n_ff=32, heads=0, kv_heads=0, outputs=2, type_of={"*": "Q8_0"}, **DRAFTS)),
    "reading-gpt2": ("gpt2", dict(seed=154, width=20, n_ff=40, heads=2, kv_heads=2, outputs=2, **DRAFTS)),
}

LONG_MODELS = {"long": dict(seed=16, d=48, head_dim=24, heads=4, kv_heads=2, n_ff=96, layers=2, context=640)}
LONG_INSERTIONS = {"long-full": ("long", dict(seed=155, width=24, n_ff=40, heads=2, kv_heads=1))}

LOOSE = {"reading": HALF_TABLE, "reading-broad": BYTE_TABLE, "reading-gpt2": HALF_TABLE, "expert": HALF_TABLE, "anti-expert": HALF_TABLE, "drafts": HALF_TABLE, "lookahead": HALF_TABLE, "broad-expert": BYTE_TABLE,
         "broad-anti-expert": BYTE_TABLE, "q4-medusa": (0.25, 0.25), "reading-q4": (0.25, 0.25),
         "gpt2-expert": HALF_TABLE, "qwen2-yarn-expert": HALF_TABLE, "granite-expert": HALF_TABLE, "gemma2-expert": HALF_TABLE}


def cases_of(models, insertions, quantised):
    """One case for each base alone and each insertion with its parents: name, model, insertions (parents first), tolerance."""
    how = lambda base: QUANTISED if base in quantised else EXACT
    return ([("base-" + name, name, [], how(name)) for name in models] +
            [(name, base, sizes.get("parents", []) + [name], LOOSE.get(name, how(base)))
             for name, (base, sizes) in insertions.items()])


CASES = cases_of(MODELS, INSERTIONS, ("blocks", "q4"))
CASES += [("two", "tied", ["full", "grouped"], EXACT),
          ("many", "tied", ["no-heads", "task-head", "full", "stacked", "outputs", "odd"], EXACT),
          ("every-kind", "tied", ["full", "lookahead", "expert", "anti-expert", "wide-drafts", "medusa", "lookahead-on-base"],
           HALF_TABLE),
          ("two-broad", "broad", ["broad-expert", "broad-anti-expert", "broad-medusa"], BYTE_TABLE)]
CASES += cases_of(GPT2_MODELS, GPT2_INSERTIONS, ("gpt2-q8", "gpt2-blocks"))
CASES += [("gpt2-many", "gpt2", ["gpt2-no-heads", "gpt2-task-head", "gpt2-full", "gpt2-stacked", "gpt2-odd", "gpt2-grouped"], EXACT)]
CASES += cases_of(OTHER_MODELS, OTHER_INSERTIONS, ("qwen2-q8",))
CASES += cases_of({}, READING, ("q4",))
CASES += cases_of(LONG_MODELS, LONG_INSERTIONS, ())
CASES += [("reading-and-others", "tied", ["drafts", "reading", "medusa"], HALF_TABLE)]


def told(tokens, offset):
    """What test-golden tells heads that read tokens, at a row: any token will do that follows from the row alone."""
    return (7 * tokens + 13 * offset + np.arange(len(tokens))) % 300


def expected_rows(model, insertions, tokens, **how):
    result = model.forward(tokens, insertions, told=told, **how)
    return model.logits(result.hidden), [s.reshape(len(s), -1) for s in result.scores]


def write_expected(path, model, insertions, rng, n_tokens, position):
    """Runs the reference in float64 and writes its results rounded to float32."""
    n_vocab = model.reader.tensors["token_embd.weight"].dims[1]
    tokens = rng.integers(0, n_vocab, n_tokens)
    to_half = lambda x: x.astype(np.float16).astype(x.dtype)
    sequence = [expected_rows(model, insertions, tokens), expected_rows(model, insertions, tokens, kv_round=to_half)]
    candidates = rng.choice(n_vocab, 5, replace=False)
    candidates[0] = tokens[position]
    rows = [expected_rows(model, insertions, np.append(tokens[:position], c)) for c in candidates]
    with open(path, "wb") as file:
        file.write(b"OTGOLD02")
        file.write(np.array([n_tokens, n_vocab, len(insertions), len(candidates), position], "<u4").tobytes())
        file.write(np.array([s.shape[1] for s in sequence[0][1]], "<u4").tobytes())
        file.write(tokens.astype("<i4").tobytes())
        for logits, scores in sequence:
            file.write(logits.astype("<f4").tobytes() + b"".join(s.astype("<f4").tobytes() for s in scores))
        file.write(candidates.astype("<i4").tobytes())
        file.write(np.stack([r[0][-1] for r in rows]).astype("<f4").tobytes())
        for i in range(len(insertions)):
            file.write(np.stack([r[1][i][-1] for r in rows]).astype("<f4").tobytes())


def source_stamp():
    digest = hashlib.sha256()
    for name in ("make_golden.py", "reference.py", "gguf_io.py", "bpe.py"):
        with open(os.path.join(HERE, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def make_all(folder):
    at = lambda name: os.path.join(folder, name + ".gguf")
    models, insertions = {}, {}
    for name in [*MODELS, *LONG_MODELS, *GPT2_MODELS, *OTHER_MODELS]:
        if name in GPT2_MODELS:
            make_gpt2(at(name), **GPT2_MODELS[name])
        else:
            make_llama(at(name), **{**MODELS, **LONG_MODELS, **OTHER_MODELS}[name])
        models[name] = reference.Model(at(name), np.float64)
    recipes = {**INSERTIONS, **GPT2_INSERTIONS, **OTHER_INSERTIONS, **READING, **LONG_INSERTIONS}
    for name, (base, how) in recipes.items():
        parents = [(p, insertions[p]) for p in how.get("parents", [])]
        make_insertion(at(name + ".head"), base=models[base], **{**how, "parents": parents})
        insertions[name] = reference.Insertion(at(name + ".head"), [p for _, p in parents], np.float64)
    lines = []
    for number, (name, base, used, tolerance) in enumerate(CASES):
        text = (LONG_N_TOKENS, LONG_POSITION) if base in LONG_MODELS else (N_TOKENS, POSITION)
        write_expected(os.path.join(folder, name + ".expected"), models[base], [insertions[i] for i in used],
                       np.random.default_rng(1000 + number), *text)
        lines += [f"case {name}", f"model {base}.gguf"]
        lines += [" ".join(["insertion", i, i + ".head.gguf"] + recipes[i][1].get("parents", [])) for i in used]
        half = tuple(max(pair) for pair in zip(HALF, tolerance))
        lines += [f"expected {name}.expected", f"tolerance {tolerance[0]:g} {tolerance[1]:g}",
                  f"half-tolerance {half[0]:g} {half[1]:g}", "end"]
    with open(os.path.join(folder, "manifest.txt"), "w") as file:
        file.write("\n".join(lines) + "\n")


def main(arguments):
    folders = [a for a in arguments if a != "--force"]
    if len(folders) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    folder = folders[0]
    os.makedirs(folder, exist_ok=True)
    stamp = os.path.join(folder, "stamp")
    if "--force" not in arguments and os.path.exists(stamp) and open(stamp).read() == source_stamp():
        print(f"{folder}: {len(CASES)} golden cases, up to date")
        return 0
    make_all(folder)
    with open(stamp, "w") as file:
        file.write(source_stamp())
    print(f"{folder}: {len(CASES)} golden cases written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
