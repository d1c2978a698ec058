#!/usr/bin/env python3
"""Writes a model file of a real shape and a real mix of block types, with random weights: it says nothing, but costs what a real one does.

    python3 tests/bench/make-model.py OUT.gguf [--shape 1b] [--types q4_k_m] [--seed 1]

The shape 1b is that of Llama 3.2 1B (width 2048, 16 layers, 32 heads on 8, FFN 8192, 128,256 tokens, output tied to the embedding), small is
a tenth of it for trying this out. Types: q4_k_m is llama.cpp's mix of that name (Q4_K; Q6_K for the embedding and, in half of the layers, V and
the FFN's output), or one type for all matrices: q8_0, q4_0, q4_1, bf16. Weights: codes and sub-scales of blocks are uniform over their range,
a block's scale is uniform in 0.7 to 1.3 of what gives weights a variance of 1 / n_in; BF16 is normal of that variance. The vocabulary is
byte-level with made-up tokens that no text is split into, so that a word takes as many tokens as bytes. Needs NumPy.
"""
import argparse
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "golden"))
import bpe  # noqa: E402
import gguf_io  # noqa: E402
import make_golden  # noqa: E402

SHAPES = {"1b": dict(d=2048, layers=16, heads=32, kv_heads=8, head_dim=64, n_ff=8192, n_vocab=128256),
          "small": dict(d=512, layers=8, heads=8, kv_heads=2, head_dim=64, n_ff=2048, n_vocab=16384)}


def vocabulary(n):
    """Three special tokens, 256 bytes, then tokens that no merge makes."""
    return make_golden.SPECIALS + [bpe.byte_symbols()[b] for b in range(256)] + ["ĠĠ"] + [f"<made-up-{i}>" for i in range(n - 260)]


def put_keys(writer, name, s):
    put = writer.put
    put("general.architecture", gguf_io.STRING, "llama")
    put("general.name", gguf_io.STRING, name)
    for key, value in {"block_count": s["layers"], "context_length": 131072, "embedding_length": s["d"], "feed_forward_length": s["n_ff"],
                       "attention.head_count": s["heads"], "attention.head_count_kv": s["kv_heads"], "attention.key_length": s["head_dim"],
                       "attention.value_length": s["head_dim"], "rope.dimension_count": s["head_dim"], "vocab_size": s["n_vocab"]}.items():
        put("llama." + key, gguf_io.U32, value)
    put("llama.rope.freq_base", gguf_io.F32_VALUE, 500000.0)
    put("llama.attention.layer_norm_rms_epsilon", gguf_io.F32_VALUE, 1e-5)
    tokens = vocabulary(s["n_vocab"])
    put("tokenizer.ggml.model", gguf_io.STRING, "gpt2")
    put("tokenizer.ggml.pre", gguf_io.STRING, "smollm")
    put("tokenizer.ggml.tokens", gguf_io.ARRAY, tokens, gguf_io.STRING)
    put("tokenizer.ggml.token_type", gguf_io.ARRAY, [3] * 3 + [1] * (len(tokens) - 3), gguf_io.I32)
    put("tokenizer.ggml.merges", gguf_io.ARRAY, ["Ġ Ġ"], gguf_io.STRING)
    put("tokenizer.ggml.bos_token_id", gguf_io.U32, 1)
    put("tokenizer.ggml.eos_token_id", gguf_io.U32, 2)
    put("tokenizer.ggml.add_bos_token", gguf_io.BOOL, False)


def type_of(types, tensor, layer, n_layers):
    """llama.cpp's rule for Q4_K_M: more bits in the first and last eighth of the layers and in every third between."""
    if types != "q4_k_m":
        return types.upper()
    more = layer < n_layers // 8 or layer >= 7 * n_layers // 8 or (layer - n_layers // 8) % 3 == 2
    return "Q6_K" if tensor == "token_embd" or (more and tensor in ("attn_v", "ffn_down")) else "Q4_K"


def put_matrix(writer, rng, name, type_name, n_out, n_in):
    if type_name == "BF16":
        writer.tensor(name, rng.standard_normal((n_out, n_in), dtype=np.float32) / np.float32(np.sqrt(n_in)), type_name)
    else:
        writer.raw_tensor(name, type_name, (n_in, n_out), make_golden.random_blocks(rng, type_name, n_out, n_in))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="1b")
    parser.add_argument("--types", choices=["q4_k_m", "q8_0", "q4_0", "q4_1", "bf16"], default="q4_k_m")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    s, rng, writer = SHAPES[args.shape], np.random.default_rng(args.seed), gguf_io.Writer()
    put_keys(writer, f"{args.shape} shape, {args.types}, random", s)
    put_matrix(writer, rng, "token_embd.weight", type_of(args.types, "token_embd", 0, s["layers"]), s["n_vocab"], s["d"])
    writer.tensor("output_norm.weight", np.full(s["d"], 0.5, np.float32))
    q, kv = s["heads"] * s["head_dim"], s["kv_heads"] * s["head_dim"]
    for layer in range(s["layers"]):
        for norm in ("attn_norm", "ffn_norm"):
            writer.tensor(f"blk.{layer}.{norm}.weight", np.ones(s["d"], np.float32))
        for tensor, n_out, n_in in (("attn_q", q, s["d"]), ("attn_k", kv, s["d"]), ("attn_v", kv, s["d"]), ("attn_output", s["d"], q),
                                    ("ffn_gate", s["n_ff"], s["d"]), ("ffn_up", s["n_ff"], s["d"]), ("ffn_down", s["d"], s["n_ff"])):
            put_matrix(writer, rng, f"blk.{layer}.{tensor}.weight", type_of(args.types, tensor, layer, s["layers"]), n_out, n_in)
    writer.write(args.out)
    print(f"{args.out}: {pathlib.Path(args.out).stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
