#!/usr/bin/env python3
"""/v1/embeddings: unit vectors, the same to the bit in any batch and however a text is cut, in both encodings."""

import base64
import sys

import numpy as np

from api_support import expect_error
from server_process import Server, expect, expect_true, in_parallel, require_model, run_cases

TEXTS = ["The cat sat on the mat.", "A kitten rests on a rug.", "Quarterly revenue rose by five percent.",
         "Otters hold hands while they sleep, so that they do not drift apart. " * 12]


def embed(server, texts, **fields):
    data = server.post("/v1/embeddings", {"input": texts, **fields}).ok()["data"]
    return np.array([item["embedding"] for item in data], dtype=np.float32)


def are_unit_vectors(server):
    for pooling in ("mean", "last"):
        vectors = embed(server, TEXTS, pooling=pooling)
        expect_true(np.allclose(np.linalg.norm(vectors.astype(np.float64), axis=1), 1, atol=1e-6), vectors)
    one = server.post("/tokenize", {"content": "Hello"}).ok()["tokens"]
    expect(len(one), 1)
    expect(embed(server, [one], pooling="mean").tobytes(), embed(server, [one], pooling="last").tobytes(), "the mean of one")


def tell_what_texts_are_about(server):
    cat, kitten, revenue = embed(server, TEXTS[:3]).astype(np.float64)
    expect_true(cat @ kitten > cat @ revenue, f"{cat @ kitten} and {cat @ revenue}")


def encode_alike(server):
    data = server.post("/v1/embeddings", {"input": TEXTS, "encoding_format": "base64"}).ok()["data"]
    packed = np.array([np.frombuffer(base64.b64decode(item["embedding"], validate=True), "<f4") for item in data])
    expect(packed.tobytes(), embed(server, TEXTS).tobytes())


def are_the_same_in_any_batch(server):
    alone = [embed(server, [text]) for text in TEXTS]
    busy = in_parallel([lambda: server.complete("Once upon a time", max_tokens=48, ignore_eos=True)] +
                       [lambda text=text: embed(server, [text]) for text in TEXTS])[1:]
    with Server("--max-batch-tokens", "64", "--threads", "1") as other:
        cut = [embed(other, [text]) for text in TEXTS]
        last = [embed(other, [text], pooling="last") for text in TEXTS]
    for i in range(len(TEXTS)):
        expect(busy[i].tobytes(), alone[i].tobytes(), f"text {i}, in a batch")
        expect(cut[i].tobytes(), alone[i].tobytes(), f"text {i}, read in pieces by one thread")
        for time in ("computed", "cached"):
            expect(embed(server, [TEXTS[i]], pooling="last").tobytes(), last[i].tobytes(), f"text {i}, the last token, {time}")


def refuse_by_name(server):
    for fields, name, code in (({"dimensions": 8}, "dimensions", "unsupported"), ({"encoding_format": "int8"}, "encoding_format", "invalid_value"),
                               ({"pooling": "max"}, "pooling", "invalid_value"), ({"input": []}, "input", "invalid_value")):
        expect_error(server.post("/v1/embeddings", {"input": "Hello", **fields}), 400, name, code)


def main():
    require_model()
    with Server() as server:
        return run_cases([are_unit_vectors, tell_what_texts_are_about, encode_alike, are_the_same_in_any_batch, refuse_by_name], server)


if __name__ == "__main__":
    sys.exit(main())
