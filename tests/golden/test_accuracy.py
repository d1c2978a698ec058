#!/usr/bin/env python3
"""The engine on the default model against float32 NumPy on the dequantised weights, on the texts in tests/golden/text.

Log-probabilities: they may differ by 0.06 nats a token on average, and the mean negative log-likelihood by 0.01, with
half-precision keys and values (what is served) and with float32 ones.

Scores: within the base's own error. That error is measured by a random head on H_o: its outputs' root mean square error over
their standard deviation. A random insertion's outputs, which read H', may not be further off, stored as F32 or as Q8_0. The
shipped toxicity head's scores may differ by 0.01 on average.

Generation heads, random ones: log-probabilities by the base's logits and the head's values together, from a table in 8 bits
(d' 32) and through the output matrix (Medusa-1), are held to the limits of the base's own. The heads are of a size that moves a token
by about half a nat: a random head that moves it further magnifies the error in H_o as well. test-timeout: 600

    test_accuracy.py [--binary FILE]     else engine-dump is built with make, into $BUILD
"""

import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

try:
    import numpy as np
except ImportError:
    print("skipped: NumPy is not installed")
    sys.exit(77)

import bpe
import make_golden
import reference

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LARGEST_MEAN_DIFFERENCE = 0.06   # nats a token
LARGEST_NLL_DIFFERENCE = 0.01    # nats a token
LARGEST_SCORE_DIFFERENCE = 0.01  # mean over the tokens
OUTPUTS = 16                     # of the random scalar heads
GENERATION = ("expert", "medusa")

results = []


def verdict(held, text):
    results.append(held)
    print(f"{'passed' if held else 'FAILED'}  {text}", flush=True)


def find_model():
    path = os.environ.get("OTTER_MODEL") or ROOT / "models/smollm2-135m-instruct-q4_1.gguf"
    return str(path) if os.path.exists(path) else None


def find_binary():
    if "--binary" in sys.argv:
        return sys.argv[sys.argv.index("--binary") + 1]
    build = os.environ.get("BUILD", "build")
    binary = f"{build}/tests/golden/engine-dump"
    subprocess.run(["make", "-s", f"BUILD={build}", binary], cwd=ROOT, check=True)
    return ROOT / binary


def make_heads(folder, model):
    """Paths of the insertions to compare, by name; the outputs of the random ones are no probabilities."""
    at = lambda name: os.path.join(folder, name + ".gguf")
    random = dict(outputs=OUTPUTS, activation="identity")
    inserted = dict(width=32, n_ff=64, heads=3, kv_heads=1, **random)
    make_golden.make_insertion(at("base"), 201, model, 0, 0, 0, 0, reads="base", **random)
    make_golden.make_insertion(at("float"), 202, model, **inserted)
    make_golden.make_insertion(at("q8"), 203, model, type_of={"*": "Q8_0", "head": "F32"}, **inserted)
    make_golden.make_insertion(at("expert"), 204, model, width=32, n_ff=64, heads=3, kv_heads=1, kind="generation",
                               activation="linear", type_of={"*": "Q8_0", "head": "F16"},
                               head_scale=2.5)
    make_golden.make_insertion(at("medusa"), 205, model, 0, 0, 0, 0, reads="base", kind="generation", activation="silu_residual",
                               type_of={"head": "F16"}, head_scale=0.3)
    heads = {name: at(name) for name in ("base", "float", "q8") + GENERATION}
    shipped = ROOT / "heads/toxicity.gguf"
    if shipped.exists():
        heads["toxicity"] = str(shipped)
    return heads


def run_reference(model, texts, heads):
    """-> the columns that engine-dump writes."""
    insertions = [reference.Insertion(path) for path in heads.values()]
    rows = []
    for text in texts:
        result = model.forward(text, insertions, values=False)
        columns = [model.token_logprobs(text, result.hidden)[:, None]]
        for insertion, extended, scores in zip(insertions, result.extended, result.scores):
            if insertion.kind == "scalar":
                columns.append(scores[:-1])
            else:
                head_in = result.hidden if insertion.input == "base" else extended
                columns.append(model.token_logprobs(text, insertion.expected_hidden(0, head_in, result.hidden))[:, None])
        rows.append(np.concatenate(columns, axis=1))
    return np.concatenate(rows)


def run_engine(folder, binary, path, texts, heads, kv_type, n_columns):
    ids, out = os.path.join(folder, "ids"), os.path.join(folder, "out")
    with open(ids, "w") as file:
        file.writelines(" ".join(map(str, text)) + "\n" for text in texts)
    subprocess.run([binary, kv_type, path, ids, out, *heads.values()], check=True)
    return np.fromfile(out, "<f4").reshape(-1, n_columns).astype(np.float64)


def compare_logprobs(label, names, lengths, expected, got, base=None):
    at = 0
    spread = f", against the base's own {np.abs(expected - base).mean():.2f} apart" if base is not None else ""
    for name, n in zip(names, lengths):
        e, g = expected[at:at + n], got[at:at + n]
        at += n
        print(f"        {name:14}{n:5} tokens: mean |difference| {np.abs(g - e).mean():.4f}, mean NLL {-g.mean():.4f} against "
              f"{-e.mean():.4f}")
    mean, nll = np.abs(got - expected).mean(), abs(got.mean() - expected.mean())
    verdict(mean <= LARGEST_MEAN_DIFFERENCE and nll <= LARGEST_NLL_DIFFERENCE,
            f"{label}: {len(got)} tokens, mean |difference| {mean:.4f} nats (at most {LARGEST_MEAN_DIFFERENCE}), largest "
            f"{np.abs(got - expected).max():.3f}; mean NLL {-got.mean():.4f} against {-expected.mean():.4f}, difference {nll:.4f} "
            f"(at most {LARGEST_NLL_DIFFERENCE}){spread}")


def compare_scores(label, expected, got):
    """Columns of each scalar head: base, float, q8, and toxicity where it is."""
    relative = {}
    for k, name in enumerate(("base", "float", "q8")):
        e, g = (x[:, k * OUTPUTS:(k + 1) * OUTPUTS] for x in (expected, got))
        relative[name] = np.sqrt(np.mean((g - e) ** 2)) / e.std()
    for name in ("float", "q8"):
        verdict(relative[name] <= relative["base"], f"{label}, random insertion ({name}): relative error of its outputs "
                f"{relative[name]:.4f} (at most that of outputs on H_o, {relative['base']:.4f})")
    if expected.shape[1] > 3 * OUTPUTS:
        difference = np.abs(got - expected)[:, 3 * OUTPUTS:]
        verdict(difference.mean() <= LARGEST_SCORE_DIFFERENCE, f"{label}, heads/toxicity.gguf: mean |difference| of scores "
                f"{difference.mean():.5f} (at most {LARGEST_SCORE_DIFFERENCE}), largest {difference.max():.4f}")


def main():
    path = find_model()
    if path is None:
        print("skipped: no default model (scripts/get-model fetches it)")
        return 77
    binary = find_binary()
    model = reference.Model(path)
    tokenizer = bpe.Tokenizer(model.reader)
    files = sorted((HERE / "text").glob("*.txt"))
    texts = [tokenizer.encode(file.read_text()) for file in files]
    with tempfile.TemporaryDirectory() as folder:
        heads = make_heads(folder, model)
        expected = run_reference(model, texts, heads)
        for kv_type in ("f16", "f32"):
            got = run_engine(folder, binary, path, texts, heads, kv_type, expected.shape[1])
            label = f"{kv_type} keys and values"
            lengths = [len(text) - 1 for text in texts]
            compare_logprobs(label, [file.name for file in files], lengths, expected[:, 0], got[:, 0])
            first = 1 + 3 * OUTPUTS
            for k, name in enumerate(GENERATION, first):
                compare_logprobs(f"{label}, {name}", [file.name for file in files], lengths, expected[:, k], got[:, k],
                                 expected[:, 0])
            scalar = [k for k in range(1, expected.shape[1]) if not first <= k < first + len(GENERATION)]
            compare_scores(label, expected[:, scalar], got[:, scalar])
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed, 0 skipped")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
