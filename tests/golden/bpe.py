"""Just enough of byte-level BPE to turn the texts in tests/golden/text into token ids of a smollm vocabulary.

The tokenizer has tests of its own elsewhere; here any ids of real text will do, and these do not come from the
engine under test. Letters and digits are Python's classes, which is right for the texts at hand.
"""

import re

_SPECIAL = re.compile(r"(<\|im_start\|>|<\|im_end\|>|<\|endoftext\|>)")
_WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+|\d| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")


def byte_symbols():
    """byte -> the printable character that stands for it in the vocabulary."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    symbols = {b: chr(b) for b in plain}
    symbols.update((b, chr(256 + i)) for i, b in enumerate(b for b in range(256) if b not in symbols))
    return symbols


class Tokenizer:
    def __init__(self, reader):
        self.ids = {text: i for i, text in enumerate(reader.keys["tokenizer.ggml.tokens"])}
        self.rank = {tuple(pair.split(" ")): i for i, pair in enumerate(reader.keys["tokenizer.ggml.merges"])}
        self.symbols = byte_symbols()

    def _word(self, word):
        parts = [self.symbols[b] for b in word.encode()]
        while len(parts) > 1:
            rank, i = min((self.rank.get(pair, len(self.rank)), i) for i, pair in enumerate(zip(parts, parts[1:])))
            if rank == len(self.rank):
                break
            parts[i:i + 2] = [parts[i] + parts[i + 1]]
        return [self.ids[part] for part in parts]

    def encode(self, text):
        out = []
        for piece in _SPECIAL.split(text):
            if _SPECIAL.fullmatch(piece):
                out.append(self.ids[piece])
            else:
                for word in _WORD.findall(piece):
                    out += self._word(word)
        return out
