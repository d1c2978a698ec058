#!/usr/bin/env python3
"""Takes out of held-out rows those that have a near twin among training rows, so that a figure says what was learnt and not what was kept.

    tests/bench/near_twins.py --train TRAIN.jsonl[.gz]... --data DEV.jsonl[.gz] [--text FIELD] --out KEPT.jsonl

Two texts are near twins if the sets of their words, in lower case and without punctuation, have a Jaccard index of 0.7 or more: they share at
least 70% of all words that either has. A row of two texts (`chosen`, `rejected`) goes if either has a twin. Says how many were taken out.
"""

import argparse
import collections
import gzip
import json
import math
import re
import sys

FIELDS = ("text", "chosen", "rejected", "prompt", "continuation")


def read(path):
    opener = gzip.open if path.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def words_of(text):
    return frozenset(re.findall(r"\w+", text.lower()))


class Twins:
    """Finds the sets of words that are near one. Of two sets with a Jaccard index of j or more, the rarest (1 - j) share of the words of each, and one
    more, have a word in common: only that much of each set is looked up."""

    def __init__(self, sets, limit):
        self.limit, self.sets = limit, list(set(sets))
        self.count = collections.Counter(word for words in self.sets for word in words)
        self.having = collections.defaultdict(list)
        for number, words in enumerate(self.sets):
            for word in self.rarest(words):
                self.having[word].append(number)

    def rarest(self, words):
        kept = len(words) - math.ceil(self.limit * len(words)) + 1
        return sorted(words, key=lambda word: (self.count[word], word))[:kept]

    def has_twin(self, words):
        return any(len(words & self.sets[number]) >= self.limit * len(words | self.sets[number])
                   for number in {number for word in self.rarest(words) for number in self.having.get(word, ())})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", action="append", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--text", help="the field that is compared (default: whichever of %s a row has)" % ", ".join(FIELDS))
    parser.add_argument("--limit", type=float, default=0.7)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    twins = Twins((words_of(row[field]) for path in args.train for row in read(path) for field in FIELDS if row.get(field)), args.limit)
    rows, fields = read(args.data), [args.text] if args.text else FIELDS
    kept = [row for row in rows if not any(twins.has_twin(words_of(row[field])) for field in fields if row.get(field))]
    with open(args.out, "w", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
    print(f"{args.data}: {len(rows) - len(kept)} of {len(rows)} rows had a near twin", file=sys.stderr)


if __name__ == "__main__":
    main()
