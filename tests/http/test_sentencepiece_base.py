#!/usr/bin/env python3
"""A base with a SentencePiece vocabulary, whose encoding puts a space before a text: echoed prompts and their offsets are the client's."""

import pathlib
import sys
import tempfile

from server_process import ROOT, Server, expect, expect_true, require_model, run_cases

sys.path.insert(0, str(ROOT / "tests" / "golden"))
import gguf_io  # noqa: E402
import make_golden  # noqa: E402

TEXTS = ["the otter swims", " the otter", "獺 the", "e", "  two"]
WORDS = ["▁t", "he", "▁the", "ot", "▁ot", "ter", "ot" + "ter", "▁otter", "▁s", "im", "▁▁"]


def put_vocabulary(writer):
    """Specials, the bytes, characters, and some pairs that merge. Returns its size."""
    characters = ["▁", *"abcdefghijklmnopqrstuvwxyz"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *characters, *WORDS]
    writer.put("tokenizer.ggml.model", gguf_io.STRING, "llama")
    writer.put("tokenizer.ggml.tokens", gguf_io.ARRAY, tokens, gguf_io.STRING)
    writer.put("tokenizer.ggml.scores", gguf_io.ARRAY, [-float(i) for i in range(len(tokens))], gguf_io.F32_VALUE)
    writer.put("tokenizer.ggml.token_type", gguf_io.ARRAY, [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259), gguf_io.I32)
    for name, token in (("unknown", 0), ("bos", 1), ("eos", 2)):
        writer.put(f"tokenizer.ggml.{name}_token_id", gguf_io.U32, token)
    writer.put("tokenizer.ggml.add_bos_token", gguf_io.BOOL, True)
    return len(tokens)


def offsets_count_the_clients_characters(server):
    for text in TEXTS:
        choice = server.complete(text, max_tokens=3, echo=True, logprobs=1, return_token_ids=True, ignore_eos=True)["choices"][0]
        expect(choice["text"][:len(text)], text, "echo")
        names, offsets = choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]
        n_prompt = len(choice["prompt_token_ids"])
        expect(names[0], "<s>", "first token")
        expect(offsets[:2], [0, 0], text)
        for i in range(2, n_prompt):
            if not names[i].startswith("bytes:"):
                expect(text[offsets[i]:offsets[i] + len(names[i])], names[i], f"token {i} of {text!r}")
        expect(offsets[n_prompt], len(text), f"{text!r}: the first generated token")


def prompts_of_ids_keep_their_space(server):
    tokens = server.post("/tokenize", {"content": "the otter"}).ok()["tokens"]
    choice = server.complete(tokens, max_tokens=1, echo=True, logprobs=1)["choices"][0]
    expect_true(choice["text"].startswith(" the otter"), choice["text"])
    expect((choice["logprobs"]["tokens"][:2], choice["logprobs"]["text_offset"][:2]), ([" the", " ot"], [0, 4]))


def main():
    require_model()
    with tempfile.TemporaryDirectory(prefix="otter-test-") as folder:
        path = pathlib.Path(folder) / "base.gguf"
        make_golden.make_gpt2(path, 5, d=32, heads=2, n_ff=64, vocabulary=put_vocabulary)
        with Server("--threads", "1", model=path) as server:
            return run_cases([offsets_count_the_clients_characters, prompts_of_ids_keep_their_space], server)


if __name__ == "__main__":
    sys.exit(main())
