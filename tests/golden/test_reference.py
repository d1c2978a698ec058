#!/usr/bin/env python3
"""The NumPy reference itself: what everything else is held against has to hold together first.

The main case writes the method down a second time, as the paper has it: one bigger transformer whose frozen matrices
are padded with zero blocks. The reference, which has no zero blocks, must give the same numbers.
"""

import os
import sys
import tempfile
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

try:
    import numpy as np
except ImportError:
    print("skipped: NumPy is not installed")
    sys.exit(77)

import gguf_io
import make_golden
import reference

TOKENS = np.random.default_rng(5).integers(0, 300, 40)


class Skip(Exception):
    pass


def check(condition, message):
    if not condition:
        raise AssertionError(message)


def check_close(got, expected, tolerance, what):
    difference = np.abs(np.asarray(got) - np.asarray(expected)).max()
    check(difference <= tolerance, f"{what}: largest difference {difference:.3g}, allowed {tolerance:.3g}")


def make_llama_pair(folder, parents=False, architecture="llama", **sizes):
    """A base and the insertions on it, the last with the given sizes; all in float64."""
    path = os.path.join(folder, "base.gguf")
    make_golden.make_llama(path, seed=1, architecture=architecture)
    return make_on(reference.Model(path, np.float64), folder, parents, **sizes)


def make_on(model, folder, parents=False, **sizes):
    below = []
    if parents:
        for seed, (width, n_ff, heads) in enumerate([(8, 12, 2), (12, 0, 1)]):
            path = os.path.join(folder, f"parent{seed}.gguf")
            make_golden.make_insertion(path, 50 + seed, model, width, n_ff, heads, heads)
            below.append((f"parent{seed}", reference.Insertion(path, [], np.float64)))
    path = os.path.join(folder, "own.gguf")
    make_golden.make_insertion(path, 60, model, parents=below, **sizes)
    return model, [p for _, p in below] + [reference.Insertion(path, [p for _, p in below], np.float64)]


# ---- The paper's form: one matrix for each projection, with zero blocks --------------------------------------


class Padded:
    """The base and a stack of insertions, each standing on all before it or on none, as one transformer on h~."""

    def __init__(self, model, insertions):
        self.m, self.parts = model, insertions
        self.widths = [model.d] + [i.width for i in insertions]
        self.at = np.cumsum([0] + self.widths)

    def names(self, suffix, layer=None):
        """Tensor names of the base and of each insertion, with the weights they are found in."""
        prefix = "" if layer is None else f"blk.{layer}."
        return [(self.m.weights, prefix + suffix)] + [(i.weights, "otter." + prefix + suffix) for i in self.parts]

    def reads(self, part):
        """Which parts (0: the base) part `part` reads, in the order of its columns."""
        return [0] if part == 0 else [0] + [1 + self.parts.index(p) for p in self.parts[part - 1].parents] + [part]

    def matrix(self, tensors, in_sizes):
        """Rows of all parts over columns of all parts; what a part does not read is a zero block. -> W~, b~."""
        starts = np.cumsum([0] + list(in_sizes))
        rows, biases = [], []
        for part, (weights, name) in enumerate(tensors):
            if name + ".weight" not in weights:
                continue
            w = weights.get(name + ".weight")
            wide = np.zeros((len(w), starts[-1]))
            column = 0
            for source in self.reads(part):
                size = in_sizes[source]
                wide[:, starts[source]:starts[source] + size] = w[:, column:column + size]
                column += size
            assert column == w.shape[1]
            rows.append(wide)
            bias = weights.maybe(name + ".bias")
            biases.append(np.zeros(len(w)) if bias is None else bias)
        return np.concatenate(rows), np.concatenate(biases)

    def vector(self, tensors, suffix, default):
        return np.concatenate([w.get(n + suffix) if n + suffix in w else np.full(size, default)
                               for (w, n), size in zip(tensors, self.widths)])

    def norm(self, h, suffix, layer=None):
        statistics = self.m.statistics(h[:, :self.m.d])
        tensors = self.names(suffix, layer)
        return statistics.apply(h, self.vector(tensors, ".weight", 1.0), self.vector(tensors, ".bias", 0.0))

    def qkv(self, layer):
        """Three lists of tensors; the one matrix of GPT-2 is cut in three."""
        if not self.m.is_gpt2:
            return [self.names(f"attn_{x}", layer) for x in "qkv"]
        cut = {}
        for k, x in enumerate("qkv"):
            for suffix in (".weight", ".bias"):
                cut[f"{x}{suffix}"] = self.m.weights.get(f"blk.{layer}.attn_qkv{suffix}")[k * self.m.d:(k + 1) * self.m.d]
        return [[(Cut(cut), x)] + self.names(f"attn_{x}", layer)[1:] for x in "qkv"]

    def heads(self, x, layer):
        hd = self.m.head_dim
        q, k, v = (self.apply(x, *self.matrix(t, self.widths)).reshape(len(x), -1, hd) for t in self.qkv(layer))
        if self.m.rope:
            q, k = self.m.rope.turn(q), self.m.rope.turn(k)
        # One key/value head for each query head, by repetition.
        counts = [(self.m.n_heads, self.m.n_kv_heads)] + [(i.n_heads, i.n_kv_heads) for i in self.parts]
        index, first = [], 0
        for n_heads, n_kv_heads in counts:
            index += [first + i * n_kv_heads // n_heads for i in range(n_heads)]
            first += n_kv_heads
        return reference.attention(q, k[:, index], v[:, index], 1 / np.sqrt(hd))

    @staticmethod
    def apply(x, w, b):
        return x @ w.T + b

    def forward(self, tokens):
        """-> the whole last h~ after the output norm."""
        m, p = self.m, self.parts
        h = np.concatenate([w.get(n + ".weight")[tokens] for (w, n), size in zip(self.names("token_embd"), self.widths) if size], 1)
        if m.is_gpt2:
            h += np.concatenate([w.get(n + ".weight")[:len(tokens)] for w, n in self.names("position_embd")], 1)
        head_sizes = [m.n_heads * m.head_dim] + [i.n_heads * m.head_dim for i in p]
        inner_sizes = [m.n_ff] + [i.n_ff for i in p]
        for n in range(m.n_layers):
            heads = self.heads(self.norm(h, "attn_norm", n), n)
            h = h + self.apply(heads, *self.matrix(self.names("attn_output", n), head_sizes))
            x = self.norm(h, "ffn_norm", n)
            inner = m.activation(self.apply(x, *self.matrix(self.names("ffn_up" if m.is_gpt2 else "ffn_gate", n), self.widths)))
            if not m.is_gpt2:
                inner = inner * self.apply(x, *self.matrix(self.names("ffn_up", n), self.widths))
            h = h + self.apply(inner, *self.matrix(self.names("ffn_down", n), inner_sizes))
        return self.norm(h, "output_norm")


class Cut:
    """Looks like reference.Weights."""

    def __init__(self, arrays):
        self.arrays = arrays

    def __contains__(self, name):
        return name in self.arrays

    def get(self, name):
        return self.arrays[name]

    maybe = get


def compare_with_padded(model, insertions):
    result = model.forward(TOKENS, insertions)
    padded = Padded(model, insertions)
    whole = padded.forward(TOKENS)
    check_close(result.hidden, whole[:, :model.d], 1e-9, "H_o")
    for k, extended in enumerate(result.extended):
        check(extended.shape[1] == 0 or extended.std() > 0.1, "H' is all but constant")
        check_close(extended, whole[:, padded.at[k + 1]:padded.at[k + 2]], 1e-9, f"H' of insertion {k}")


SIZES = {"all parts": dict(width=24, n_ff=40, heads=4, kv_heads=2), "one grouped head": dict(width=8, n_ff=8, heads=3, kv_heads=1),
         "no heads": dict(width=16, n_ff=24, heads=0, kv_heads=0), "no FFN": dict(width=16, n_ff=0, heads=2, kv_heads=2),
         "neither": dict(width=16, n_ff=0, heads=0, kv_heads=0)}


def padded_form_gives_the_same_numbers(folder):
    for sizes in SIZES.values():
        compare_with_padded(*make_llama_pair(folder, **sizes))


def padded_form_of_a_stack(folder):
    for sizes in SIZES.values():
        compare_with_padded(*make_llama_pair(folder, parents=True, **sizes))


def padded_form_on_qwen2(folder):
    for sizes in SIZES.values():
        compare_with_padded(*make_llama_pair(folder, parents=True, architecture="qwen2", **sizes))


def neox_pairs_are_permuted_adjacent_ones(folder):
    """Turning i and i + n/2 is turning 2i and 2i + 1 of a head whose elements were permuted: what converters do to Llama's."""
    path = os.path.join(folder, "base.gguf")
    ropes = []
    for architecture in ("llama", "qwen2"):
        make_golden.make_llama(path, seed=1, architecture=architecture)
        ropes.append(reference.Model(path, np.float64).rope)
    x = np.random.default_rng(5).normal(size=(7, 3, 16))
    order = np.arange(16).reshape(2, 8).T.reshape(-1)  # 0, 8, 1, 9, ...
    check_close(ropes[0].turn(x[:, :, order]), ropes[1].turn(x)[:, :, order], 1e-12, "turned heads")


def padded_form_on_gpt2(folder):
    path = os.path.join(folder, "gpt2.gguf")
    make_golden.make_gpt2(path, seed=3)
    for parents in (False, True):
        for sizes in SIZES.values():
            sizes = {**sizes, "heads": min(sizes["heads"], 3)}
            sizes["kv_heads"] = sizes["heads"]  # GPT-2 groups no queries
            compare_with_padded(*make_on(reference.Model(path, np.float64), folder, parents, **sizes))


# ---- Properties of the method --------------------------------------------------------------------------------


def base_is_left_alone(folder):
    model, insertions = make_llama_pair(folder, parents=True, **SIZES["all parts"])
    plain, with_all = model.forward(TOKENS), model.forward(TOKENS, insertions)
    check(np.array_equal(plain.hidden, with_all.hidden), "H_o changed when insertions ran beside it")


def mirror_follows_chosen_dimensions(folder):
    """Copied rows and no inserted-to-inserted blocks: h' is the chosen dimensions of h at every place."""
    model, (_, _, insertion) = make_llama_pair(folder, parents=True, **SIZES["all parts"])
    chosen = np.arange(3, 3 + insertion.width)
    copied = lambda name: model.weights.get(name)
    cache = insertion.weights._cache
    cache["otter.token_embd.weight"] = copied("token_embd.weight")[:, chosen]
    cache["otter.output_norm.weight"] = copied("output_norm.weight")[chosen]
    for n in range(model.n_layers):
        for norm in ("attn_norm", "ffn_norm"):
            cache[f"otter.blk.{n}.{norm}.weight"] = copied(f"blk.{n}.{norm}.weight")[chosen]
        for name in ("attn_output", "ffn_down"):
            inserted = np.zeros_like(insertion.weights.get(f"otter.blk.{n}.{name}.weight"))
            rows = copied(f"blk.{n}.{name}.weight")[chosen]
            inserted[:, :rows.shape[1]] = rows
            cache[f"otter.blk.{n}.{name}.weight"] = inserted
    result = model.forward(TOKENS, insertion.parents + [insertion])
    check_close(result.extended[-1], result.hidden[:, chosen], 1e-12, "H' against H_o")


def later_tokens_change_nothing(folder):
    model, insertions = make_llama_pair(folder, **SIZES["all parts"])
    whole, half = model.forward(TOKENS, insertions), model.forward(TOKENS[:20], insertions)
    check_close(whole.hidden[:20], half.hidden, 1e-12, "H_o")
    check_close(whole.extended[0][:20], half.extended[0], 1e-12, "H'")


def float32_is_near_float64(folder):
    path = os.path.join(folder, "base.gguf")
    make_golden.make_llama(path, seed=1)
    models = [reference.Model(path, dtype) for dtype in (np.float32, np.float64)]
    logits = [m.logits(m.forward(TOKENS).hidden) for m in models]
    check(logits[0].dtype == np.float32, f"float32 ran in {logits[0].dtype}")
    check_close(logits[0], logits[1], 1e-4, "logits")


# ---- Files ---------------------------------------------------------------------------------------------------


def blocks_by_hand(folder):
    half = lambda x: np.array([x], "<f2").tobytes()
    nibbles = bytes((i % 16) | ((15 - i % 16) << 4) for i in range(16))
    low, high = np.arange(16), 15 - np.arange(16)
    q = np.concatenate([low, high])
    check(np.array_equal(gguf_io.dequantise("Q4_0", half(0.5) + nibbles), 0.5 * (q - 8)), "Q4_0")
    check(np.array_equal(gguf_io.dequantise("Q4_1", half(0.5) + half(-3) + nibbles), 0.5 * q - 3), "Q4_1")
    bits = (1 << 0) | (1 << 5) | (1 << 17) | (1 << 31)
    fifth = np.array([16 * (bits >> i & 1) for i in range(32)])
    word = bits.to_bytes(4, "little")
    check(np.array_equal(gguf_io.dequantise("Q5_0", half(2) + word + nibbles), 2 * (q + fifth - 16)), "Q5_0")
    check(np.array_equal(gguf_io.dequantise("Q5_1", half(2) + half(1) + word + nibbles), 2 * (q + fifth) + 1), "Q5_1")
    signed = np.arange(-16, 16, dtype=np.int8)
    check(np.array_equal(gguf_io.dequantise("Q8_0", half(0.25) + signed.tobytes()), 0.25 * signed), "Q8_0")


def quantised_q8_0_is_near(folder):
    x = np.random.default_rng(7).normal(size=3200).astype(np.float32)
    x[32:64] = 0
    y = gguf_io.dequantise("Q8_0", gguf_io.quantise_q8_0(x))
    step = np.abs(x.reshape(-1, 32)).max(1) / 127
    check((np.abs(x - y).reshape(-1, 32).max(1) <= step * 0.57).all(), "an element is off by more than half a step")  # the scale is a half, too
    check((y[32:64] == 0).all(), "zeros did not stay zeros")


def types_agree_with_the_gguf_package(folder):
    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError:
        raise Skip("the gguf package is not installed") from None
    rng = np.random.default_rng(8)
    for name, (_, _, block_bytes) in gguf_io.TYPES.items():
        if name == "F32":
            continue
        data = rng.integers(0, 256, (500, block_bytes), dtype=np.uint8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # random bytes hold infinities
            got = gguf_io.dequantise(name, data.tobytes())
            expected = quants.dequantize(data.reshape(1, -1), GGMLQuantizationType[name]).reshape(-1)
        check(np.array_equal(got, expected, equal_nan=True), f"{name} differs")


def a_file_is_read_as_it_was_written(folder):
    path = os.path.join(folder, "file.gguf")
    writer = gguf_io.Writer()
    values = {"u8": (gguf_io.U8, 200), "i32": (gguf_io.I32, -5), "u64": (gguf_io.U64, 1 << 40), "f64": (gguf_io.F64, 0.1),
              "yes": (gguf_io.BOOL, True), "text": (gguf_io.STRING, "größer")}
    for key, (kind, value) in values.items():
        writer.put(key, kind, value)
    writer.put("words", gguf_io.ARRAY, ["a", "", "ä"], gguf_io.STRING)
    writer.put("numbers", gguf_io.ARRAY, [1.5, -2.0], gguf_io.F32_VALUE)
    x = np.random.default_rng(9).normal(size=(5, 64)).astype(np.float32)
    for kind in ("F32", "F16", "BF16", "Q8_0"):
        writer.tensor("b." + kind, x, kind)
    writer.tensor("a", x[0, :3])
    writer.write(path)
    reader = gguf_io.Reader(path)
    check(reader.keys == {**{k: v for k, (_, v) in values.items()}, "words": ["a", "", "ä"], "numbers": [1.5, -2.0]},
          f"keys came back as {reader.keys}")
    check(np.array_equal(reader.floats("b.F32"), x), "F32")
    check(reader.tensors["b.F32"].dims == (64, 5), "dims")
    for kind, tolerance in (("F16", 1e-3), ("BF16", 8e-3), ("Q8_0", 8e-3)):
        check_close(reader.floats("b." + kind), x, 4 * tolerance, kind)
    first = gguf_io.fingerprint(reader)
    check(len(first) == 64 and first == gguf_io.fingerprint(gguf_io.Reader(path)), "the fingerprint is not stable")


CASES = [padded_form_gives_the_same_numbers, padded_form_of_a_stack, padded_form_on_gpt2, padded_form_on_qwen2,
         neox_pairs_are_permuted_adjacent_ones, base_is_left_alone,
         mirror_follows_chosen_dimensions, later_tokens_change_nothing, float32_is_near_float64, blocks_by_hand,
         quantised_q8_0_is_near, types_agree_with_the_gguf_package, a_file_is_read_as_it_was_written]


def main():
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            try:
                case(folder)
                outcome, note = "passed", ""
            except Skip as reason:
                outcome, note = "skipped", f": {reason}"
            except AssertionError as problem:
                outcome, note = "failed", f": {problem}"
        counts[outcome] += 1
        print(f"{outcome:7}  {case.__name__}{note}")
    print(", ".join(f"{n} {outcome}" for outcome, n in counts.items()))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
