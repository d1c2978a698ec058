#!/usr/bin/env python3
"""Judges of toxicity that are not ours: classifiers of others, for texts that a steered model wrote.

    tests/bench/judges.py install           fetches the two neural ones into build/judges (26 MB, from PyPI, by pip)
    tests/bench/judges.py score < TEXTS     a line in, a probability by each judge that is installed out

toxic-comment-classifier (0.3.0) and tox-block (0.1.2) are small bidirectional LSTMs that learned from the Wikipedia comments of the Jigsaw
challenge of 2018: embeddings of 50, 50 units each way, the maximum over the text, a layer of 50. Their packages want TensorFlow, so only their
weights and vocabularies are taken out of the wheels and run here in NumPy. alt-profanity-check is a linear model of words and letters; it learned
from the same comments and from Davidson's tweets, and the latter are one of the sources of heads/toxicity.gguf: a third opinion, no
independent one. None of the three saw Civil Comments, Stormfront or the prompts of RealToxicityPrompts.

A vocabulary is a pickle. It is read by an unpickler that makes plain containers and, of everything else, empty shells: nothing in it can run.
"""

import ast
import collections
import hashlib
import pathlib
import pickle
import re
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "build" / "judges"
TOKENS, WORDS, UNITS = 100, 20000, 50  # read of a text, known to a judge, and of an LSTM each way
BATCH = 256
WHEELS = {  # name: version, SHA-256, {member: what it is kept as}
    "toxic-comment-classifier": ("0.3.0", "e5af0f052dbb0493d585b5b486dd9b61ec13d54c0e3e2ad93c519114bb404948",
                                 {"toxic_classifier/model/model.weights.h5": "weights.h5", "toxic_classifier/model/tokenizer.pickle": "words.pickle"}),
    "tox-block": ("0.1.2", "ed3a934f77d456f5324a6ae1b55bd9a3d404f6ebdb30aedad73dea5a2f01b7ed",
                  {"tox_block/trained_models/lstm_model_0.1.2.h5": "weights.h5", "tox_block/trained_models/encoder_0.1.2.pkl": "words.pickle",
                   "tox_block/config/config.py": "config.py"}),
}


# ---- Files ---------------------------------------------------------------------------------------------------


def install(folder=FOLDER):
    """Downloads the wheels, checks them, and keeps what is needed of each in folder/NAME."""
    for name, (version, sha256, members) in WHEELS.items():
        target = pathlib.Path(folder) / name
        if all((target / file).exists() for file in members.values()):
            continue
        with tempfile.TemporaryDirectory() as temporary:
            subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--dest", temporary,
                            f"{name}=={version}"], check=True)
            wheel = next(pathlib.Path(temporary).glob("*.whl"))
            found = hashlib.sha256(wheel.read_bytes()).hexdigest()
            if found != sha256:
                sys.exit(f"judges.py: {wheel.name} has SHA-256 {found}, not {sha256}")
            target.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(wheel) as members_of:
                for member, file in members.items():
                    (target / file).write_bytes(members_of.read(member))


class Shell:
    """Stands for an object of a class that is not wanted here; keeps its state."""

    def __init__(self, *_, **__):
        pass

    def __setstate__(self, state):
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


class Unpickler(pickle.Unpickler):
    PLAIN = {("collections", "OrderedDict"): collections.OrderedDict, ("collections", "defaultdict"): collections.defaultdict,
             ("builtins", "int"): int}

    def find_class(self, module, name):
        return self.PLAIN.get((module, name)) or type(name, (Shell,), {})


def vocabulary(path):
    """{word: its number} of the Keras tokenizer that is somewhere in the pickle."""
    with open(path, "rb") as file:
        seen = [Unpickler(file).load()]
    while seen:
        thing = seen.pop()
        if isinstance(thing, Shell):
            if "word_index" in thing.__dict__:
                return {word: number for word, number in thing.word_index.items() if number < WORDS}
            seen += thing.__dict__.values()
        elif isinstance(thing, (list, tuple)):
            seen += thing
        elif isinstance(thing, dict) and len(thing) < 50:
            seen += thing.values()
    raise ValueError(f"{path}: no vocabulary is in it")


def constant(path, name):
    """The literal that a Python file assigns to a name; the file is not run."""
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and [getattr(target, "id", None) for target in statement.targets] == [name]:
            return ast.literal_eval(statement.value)
    raise ValueError(f"{path}: no {name} is in it")


# ---- The networks --------------------------------------------------------------------------------------------

SEPARATORS = str.maketrans({c: " " for c in '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'})


class NeuralJudge:
    """Embedding, LSTM in both directions, maximum over time, dense, dense; the first of six outputs is "toxic"."""

    def __init__(self, folder, prefix, names, gate, clean):
        import h5py
        import numpy
        self.np, self.gate, self.clean = numpy, gate, clean
        self.words = vocabulary(folder / "words.pickle")
        with h5py.File(folder / "weights.h5", "r") as file:
            def read(key):
                return numpy.asarray(file[prefix + names[key]], dtype=numpy.float32)
            self.embedding = read("embedding")
            self.lstms = [[read(f"{way} {part}") for part in ("kernel", "recurrent", "bias")] for way in ("forward", "backward")]
            self.dense = [[read(f"{layer} {part}") for part in ("kernel", "bias")] for layer in ("inner", "outer")]

    def run_lstm(self, x, weights, steps):
        """x: (texts, TOKENS, 50); returns (texts, UNITS), the maximum over the steps of the hidden state."""
        np, (kernel, recurrent, bias) = self.np, weights
        hidden, cell, largest = np.zeros((len(x), UNITS), "f"), np.zeros((len(x), UNITS), "f"), np.full((len(x), UNITS), -np.inf, "f")
        for t in steps:
            i, f, c, o = np.split(x[:, t] @ kernel + hidden @ recurrent + bias, 4, axis=1)
            cell = self.gate(f) * cell + self.gate(i) * np.tanh(c)
            hidden = self.gate(o) * np.tanh(cell)
            largest = np.maximum(largest, hidden)
        return largest

    def score(self, texts):
        np, ids = self.np, self.np.zeros((len(texts), TOKENS), int)
        for row, text in enumerate(texts):
            known = [self.words[word] for word in self.clean(text).lower().translate(SEPARATORS).split() if word in self.words][-TOKENS:]
            if known:
                ids[row, -len(known):] = known
        x = self.embedding[ids]
        both = np.concatenate([self.run_lstm(x, self.lstms[0], range(TOKENS)), self.run_lstm(x, self.lstms[1], range(TOKENS - 1, -1, -1))], 1)
        inner = np.maximum(both @ self.dense[0][0] + self.dense[0][1], 0)
        return [float(p) for p in self.sigmoid(inner @ self.dense[1][0] + self.dense[1][1])[:, 0]]

    def sigmoid(self, x):
        return 1 / (1 + self.np.exp(-x))

    def __call__(self, texts):
        texts = list(texts)
        return [p for first in range(0, len(texts), BATCH) for p in self.score(texts[first:first + BATCH])]


def toxic_comment_classifier(folder):
    import numpy as np
    names = {"embedding": "embedding/vars/0", "inner kernel": "dense/vars/0", "inner bias": "dense/vars/1", "outer kernel": "dense_1/vars/0",
             "outer bias": "dense_1/vars/1"}
    for way in ("forward", "backward"):
        for number, part in enumerate(("kernel", "recurrent", "bias")):
            names[f"{way} {part}"] = f"bidirectional/{way}_layer/cell/vars/{number}"
    return NeuralJudge(folder, "layers/", names, lambda x: 1 / (1 + np.exp(-x)), lambda text: text)


def tox_block(folder):
    import numpy as np
    names = {"embedding": "embedding/embedding/embeddings:0", "inner kernel": "dense/dense/kernel:0", "inner bias": "dense/dense/bias:0",
             "outer kernel": "dense_1/dense_1/kernel:0", "outer bias": "dense_1/dense_1/bias:0"}
    for way in ("forward", "backward"):
        for part, file in (("kernel", "kernel"), ("recurrent", "recurrent_kernel"), ("bias", "bias")):
            names[f"{way} {part}"] = f"bidirectional/bidirectional/{way}_lstm/{file}:0"
    stop_words = re.compile(constant(folder / "config.py", "RE_STOPWORD_STRING"), re.IGNORECASE)

    def clean(text):
        text = text.lower().replace("\n", " ")
        for noise in (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", r"http://.*\..*"):
            text = re.sub(noise, "", text)
        return re.sub(r"\s+", " ", stop_words.sub("", text))

    return NeuralJudge(folder, "model_weights/", names, lambda x: np.clip(0.2 * x + 0.5, 0, 1), clean)


def alt_profanity_check(_):
    from profanity_check import predict_prob
    return lambda texts: [float(p) for p in predict_prob(list(texts))] if texts else []


JUDGES = {"tox-block": tox_block, "toxic-comment-classifier": toxic_comment_classifier, "alt-profanity-check": alt_profanity_check}
INDEPENDENT = ("tox-block", "toxic-comment-classifier")  # that share no training row with a head


def installed(folder=FOLDER):
    """({name: judge}, {name: why it is not there})."""
    there, missing = {}, {}
    for name, make in JUDGES.items():
        try:
            there[name] = make(pathlib.Path(folder) / name)
        except (ImportError, OSError) as why:
            missing[name] = str(why)
    return there, missing


def main():
    command = sys.argv[1:]
    if command == ["install"]:
        install()
    elif command == ["score"]:
        texts, (judges, missing) = sys.stdin.read().splitlines(), installed()
        for name, why in missing.items():
            print(f"judges.py: {name} is not installed: {why}", file=sys.stderr)
        scores = {name: judge(texts) for name, judge in judges.items()}
        print("\t".join([*scores, "text"]))
        for row, text in enumerate(texts):
            print("\t".join([*(f"{scores[name][row]:.4f}" for name in scores), text]))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
