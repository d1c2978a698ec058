"""The systems that are compared: for each of the paper's tables, what steers or drafts, and the files that it takes.

A file is looked for by name in the folders given to the comparison, so a system runs as soon as its files are there; one
whose files are missing is reported as such. A separate model takes a GGUF file, and a reward model also a scalar head that was made
for it (NAME-head.gguf); tests/bench/separate_models.py makes both.
"""

import dataclasses
import pathlib


class Files:
    """Where heads and models are: NAME.gguf in the folders, in order, unless NAME=FILE says otherwise."""

    def __init__(self, base, folders, named):
        self.base = pathlib.Path(base)
        self.folders = [pathlib.Path(folder) for folder in folders]
        self.named = dict(pair.split("=", 1) for pair in named)

    def find(self, name):
        if name == "base":
            return self.base
        if name in self.named:
            return pathlib.Path(self.named[name])
        for folder in self.folders:
            if (folder / f"{name}.gguf").exists():
                return folder / f"{name}.gguf"
        return None


@dataclasses.dataclass(frozen=True)
class System:
    key: str
    label: str
    table: str
    steer: tuple = ()         # flags of otter generate
    heads: tuple = ()         # insertions to load, parents first
    reward_models: tuple = () # separate models, by file name; NAME-head beside each
    expert_models: tuple = ()
    draft_model: str = None
    compares_with: str = None # the separate-model row of the same use, for "extra time saved"

    def files(self):
        names = list(self.heads) + list(self.expert_models) + ([self.draft_model] if self.draft_model else [])
        for model in self.reward_models:
            names += [model, f"{model}-head"]
        return names

    def missing(self, files):
        return [name for name in self.files() if files.find(name) is None]

    def load_flags(self, files, stand_in=None):
        """Flags that load its files. `stand_in` (for time and memory at equal size) puts the base file and a head that
        reads it in the place of separate models."""
        flags = []
        for name in self.heads:
            flags += ["--head", f"{name}={files.find(name)}"]
        for name in self.reward_models:
            model, head = (files.base, stand_in) if stand_in else (files.find(name), files.find(f"{name}-head"))
            flags += ["--reward-model", f"{name}={model},{head}"]
        for name in self.expert_models:
            flags += ["--expert-model", f"{name}={files.base if stand_in else files.find(name)}"]
        if self.draft_model:
            flags += ["--draft-model", str(files.find(self.draft_model))]
        return flags


def reward_systems(task, weights, candidates):
    """Table 1: ARGS, by what scores the candidates. `task` is the name of the head and of its files; the head alone has a row for each weight."""
    def row(key, label, **more):
        name = more.pop("by")
        extra = more.pop("flags", ())
        weight = more.pop("weight", weights[0])
        return System(key, label, f"reward-{task}", ("--reward", f"{name}={weight:g}", "--candidates", str(candidates), *extra), **more)

    ahead = f"{task}-lookahead"
    return [
        System("plain", "plain decoding", f"reward-{task}"),
        row("separate", "ARGS, separate reward model", by=f"{task}-model", reward_models=(f"{task}-model",)),
        row("head-only", "ARGS, task head only", by=f"{task}-task-head-only", heads=(f"{task}-task-head-only",), compares_with="separate"),
        row("otter", "ARGS, Otter head", by=task, heads=(task,), compares_with="separate"),
        *(row(f"otter{weight:g}", f"ARGS, Otter head, weight {weight:g}", by=task, weight=weight, heads=(task,)) for weight in weights[1:]),
        row("lookahead", "ARGS, Otter lookahead alone", by=ahead, heads=(task, ahead), compares_with="separate"),
        row("lookahead-3", "ARGS, Otter head on 3 that lookahead picks", by=task, flags=("--lookahead", f"{ahead}:3"), heads=(task, ahead),
            compares_with="separate"),
    ]


def expert_systems(alpha, top_p):
    """Table 2: DExperts, and anti-expert only."""
    def row(key, label, positive, negative, **more):
        names = (f"positive={positive}," if positive else "") + f"negative={negative},alpha={alpha:g},top-p={top_p:g}"
        return System(key, label, "experts", ("--experts", names), **more)

    return [
        System("plain", "plain sampling", "experts"),
        row("separate", "DExperts, separate models", "nontoxic-model", "toxic-model", expert_models=("nontoxic-model", "toxic-model")),
        row("separate-anti", "anti-expert only, separate model", None, "toxic-model", expert_models=("toxic-model",)),
        row("head-only", "DExperts, task heads only", "nontoxic-task-head-only", "toxic-task-head-only",
            heads=("nontoxic-task-head-only", "toxic-task-head-only"), compares_with="separate"),
        row("otter", "DExperts, Otter heads", "nontoxic", "toxic", heads=("nontoxic", "toxic"), compares_with="separate"),
        row("otter-anti", "anti-expert only, Otter head", None, "toxic", heads=("nontoxic", "toxic"), compares_with="separate-anti"),
    ]


def draft_systems(max_draft, tree):
    """Table 3: who guesses ahead."""
    def row(key, label, drafts, *flags, **more):
        return System(key, label, "drafts", (*(part for name in drafts for part in ("--draft", f"{name}:{max_draft}")), *flags), **more)

    as_tree = ("--draft-tree", str(tree))
    in_every_pass = (*as_tree, "--draft-fixed")
    return [
        System("plain", "plain decoding", "drafts"),
        row("lookup", "prompt lookup", ["lookup"]),
        row("model", "draft model", ["model"], draft_model="draft-model"),
        row("medusa", "Medusa-1, chain", ["draft-medusa"], heads=("draft-medusa",), compares_with="model"),
        row("medusa-tree", "Medusa-1, tree", ["draft-medusa"], *as_tree, heads=("draft-medusa",), compares_with="model"),
        row("otter", "Otter drafts, chain", ["draft-otter"], heads=("draft-otter",), compares_with="model"),
        row("otter-tree", "Otter drafts, tree", ["draft-otter"], *as_tree, heads=("draft-otter",), compares_with="model"),
        row("otter-lookup", "Otter drafts, chain, with prompt lookup", ["lookup", "draft-otter"], heads=("draft-otter",),
            compares_with="model"),
        row("medusa-fixed", "Medusa-1, tree in every pass", ["draft-medusa"], *in_every_pass, heads=("draft-medusa",),
            compares_with="model"),
        row("otter-fixed", "Otter drafts, tree in every pass", ["draft-otter"], *in_every_pass, heads=("draft-otter",),
            compares_with="model"),
        row("otter-lookup-fixed", "Otter drafts and lookup, tree in every pass", ["lookup", "draft-otter"], *in_every_pass,
            heads=("draft-otter",), compares_with="model"),
    ]
