#!/usr/bin/env python3
"""The rows that the shipped toxicity head was trained further on: texts of several kinds, with soft labels and spans, so that no kind is all toxic.

    tests/bench/toxicity_rows.py --wide toxicity-wide.train.jsonl.gz --own toxicity.train.jsonl.gz --out rows.jsonl

`wide` has sources `civil-comments` (all toxic, with the spans that earned it), `stormfront` (forum sentences) and `prompts` (prose with a score from
0 to 1); `own` those of the first training. Of a comment come two rows: what surrounds its first span, with the span, and, as a harmless comment, its
sentences without one: harmless comments of that kind are not to be had otherwise. Prompts count twice, half of the quiet forum sentences is left
out, of the own rows a random 13,000 are taken, and ParaDetox loses its tell-tale: its toxic rows are in lower case and its harmless ones are not.
"""

import argparse
import gzip
import json
import random
import re

BEFORE, AFTER, QUIET = 160, 80, 240  # characters kept before and behind a span, and of a harmless comment


def read(path):
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def restyle(text, rng):
    u = rng.random()
    return text[:1].upper() + text[1:] if u < 0.3 else text.lower() if u < 0.45 else text


def around_span(row, ends):
    """The sentence of the span that ends first, with a little before and behind it; None if no span lies in that."""
    text, (begin, end) = row["text"], min(row["spans"], key=lambda span: span[1])
    start = 0
    if begin > BEFORE:
        near = [at for at in ends if begin - BEFORE <= at < begin]
        start = max(near, default=0)
    if begin - start > BEFORE + 40:
        before = [at for at in ends if at <= begin]
        start = before[-1] if before else max(0, begin - BEFORE)
    stop = min(min((at for at in ends if at >= end), default=len(text)), end + AFTER)
    spans = [[a - start, b - start] for a, b in row["spans"] if a >= start and b <= stop]
    return {"text": text[start:stop], "label": 1, "spans": spans, "source": row["source"]} if spans else None


def quiet_sentences(row, ends):
    text, start, kept = row["text"], 0, []
    for end in [*ends, len(text)]:
        if end - start > 30 and all(b <= start or a >= end for a, b in row["spans"]):
            kept.append(text[start:end].strip())
        start = end
    return {"text": " ".join(kept)[:QUIET], "label": 0, "source": row["source"]} if kept else None


def rows_of_comment(row):
    if not row["spans"]:
        return [row]
    ends = [match.end() for match in re.finditer(r"[.!?]\s+", row["text"])]
    return [made for made in (around_span(row, ends), quiet_sentences(row, ends)) if made]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--wide", required=True)
    parser.add_argument("--own", required=True)
    parser.add_argument("--own-rows", type=int, default=13000)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    rng, rows = random.Random(args.seed), []
    for row in read(args.wide):
        if row["source"] == "prompts":
            rows += [row, row]
        elif row["source"] == "civil-comments":
            rows += rows_of_comment(row)
        elif row["label"] == 1 or rng.random() < 0.45:
            rows.append(row)
    own = read(args.own)
    rng.shuffle(own)
    rows += [{**row, "text": restyle(row["text"], rng)} if row["source"] == "paradetox" else row for row in own[:args.own_rows]]
    rng.shuffle(rows)
    with open(args.out, "w", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    main()
