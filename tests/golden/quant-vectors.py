#!/usr/bin/env python3
"""Prints the table of tests/unit/test-quants.c from gguf-py's NumPy reference.

    pip install gguf && python3 tests/golden/quant-vectors.py

Development only. Blocks come from splitmix64, as the test makes them; only a hash of all results and a few of them are kept.
"""

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

HALVES = {"F16": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2],
          "Q6_K": [208], "Q2_K": [80, 82], "Q3_K": [108], "IQ4_NL": [0], "IQ4_XS": [0]}
NAMES = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "Q2_K", "Q3_K", "IQ4_NL", "IQ4_XS", "MXFP4"]
N_BLOCKS = 64
MASK = (1 << 64) - 1


def splitmix64(state):
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        yield z ^ (z >> 31)


def fnv1a(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & MASK
    return h


def blocks(name, kind):
    """N_BLOCKS random blocks; the top exponent bit of each half is cleared, so that it is finite and below 2."""
    random = splitmix64(1000 + int(kind))
    n_bytes = GGML_QUANT_SIZES[kind][1]
    out = np.array([[next(random) & 255 for _ in range(n_bytes)] for _ in range(N_BLOCKS)], np.uint8)
    for at in HALVES.get(name, []):
        out[:, at + 1] &= 0xBF
    if name == "BF16":
        out[:, 1] &= 0xBF
    return out


def floats():
    """Blocks of 32 with scales 2^-6 ... 2^5, then one of zeros, one constant and one with a single element."""
    random = splitmix64(7)
    x = np.array([((next(random) >> 40) - (1 << 23)) * 2.0 ** -23 * 2.0 ** (i // 32 % 12 - 6) for i in range(32 * 61)])
    return np.concatenate([x, np.zeros(32), np.full(32, 1.25), np.where(np.arange(32) == 3, -5, 0)]).astype(np.float32).reshape(-1, 32)


def main():
    for name in NAMES:
        kind = GGMLQuantizationType[name]
        raw = blocks(name, kind)
        values = quants.dequantize(raw.reshape(1, -1) if name in ("F16", "BF16") else raw, kind).astype(np.float32).reshape(-1)
        at = [0, 17, 31, len(values) // 2 + 7, len(values) - 1]
        encoded = "0"
        if name in ("F16", "BF16", "Q4_0", "Q4_1", "Q8_0"):
            encoded = f"0x{fnv1a(np.ascontiguousarray(quants.quantize(floats(), kind)).tobytes()):016x}"
        print(f"    {{OT_TYPE_{name.upper()}, 0x{fnv1a(values.tobytes()):016x}, {encoded},")
        print("     {" + ", ".join(float(values[i]).hex() + "f" for i in at) + "}},")


if __name__ == "__main__":
    main()
