"""Makes the separate models that Otter is compared with: a reward model, a classifier, an expert, an anti-expert, a draft model.

Development only: nothing of the server needs it (`pip install torch numpy`). Layers of the base are trained on with
PyTorch and written as an ordinary GGUF model that `otter serve --reward-model / --expert-model / --draft-model` takes.

    separate_models.py reward --base BASE.gguf --data pairs.jsonl.gz ... --out reward.gguf --head-out reward-head.gguf
    separate_models.py classify --base BASE.gguf --data toxicity.train.jsonl.gz --out ... --head-out ...
    separate_models.py expert --base BASE.gguf --data toxicity.train.jsonl.gz --only-label 1 --out toxic-model.gguf
    separate_models.py draft --base BASE.gguf --keep-layers 0,1,2,28,29 --data answers.jsonl --out draft-model.gguf
    separate_models.py evaluate --base MODEL.gguf [--head HEAD.gguf] --data dev.jsonl.gz

What is trained. The lowest layers stay as they are; `--train-layers N` says how many of the top are trained, and the file records it.
What the frozen layers give is computed once for a text and kept in half precision, so that a further epoch costs the trained layers alone. The
embedding and the output matrix are never trained. A draft model is a few of the base's layers and its output norm, all
of them trained on the base's own answers. --max-minutes bounds a training, the learning rate's decay included, in processor time, so that
a busy machine makes it slower and not shorter; Ctrl-C ends it after the step, and what has been trained until then is written.

Trained matrices are written as Q8_0: the steps of a fine-tuning are finer than four bits. So such a model is larger than
a Q4_1 base; for time and memory ratios at equal size let the base file itself stand in for it.

`evaluate` judges such a file (or a base): {text, label} rows by the head's AUC, pairs by accuracy, both at the last token; without a head, and
for {prompt_tokens, completion_tokens}, by nats a token.
"""

import argparse
import contextlib
import gzip
import json
import math
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

import torch_llama

SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
LOGITS_CHUNK = 256  # positions whose logits over the whole vocabulary are in memory at once


# ---- Texts ---------------------------------------------------------------------------------------------------


def rows_of(paths):
    for path in paths:
        with (gzip.open if str(path).endswith(".gz") else open)(path, "rt") as file:
            for line in file:
                yield json.loads(line)


def chat_tokens(file, messages, answer):
    """The conversation in SmolLM2's own chat form, up to the answer's last token: an answer is scored before it is ended."""
    text = "" if messages[0]["role"] == "system" else SYSTEM
    text += "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    return file.encode(f"{text}<|im_start|>assistant\n{answer}")


def example_of(file, row, args):
    """A dict: tokens (of one text or a pair), label, first (the position from which the next token is learnt). None: of no use."""
    if "chosen" in row:
        pair = [chat_tokens(file, row["messages"], row[k]) for k in ("chosen", "rejected")]
        if args.task == "evaluate":
            pair = [tokens[:args.max_length] for tokens in pair]
        return {"tokens": pair} if max(map(len, pair)) <= args.max_length and pair[0] != pair[1] else None
    if "completion_tokens" in row:
        prompt = row["prompt_tokens"]
        tokens = (prompt + row["completion_tokens"])[:args.max_length]
        return {"tokens": [tokens], "first": len(prompt) - 1} if len(tokens) > len(prompt) else None
    if args.only_label is not None and row["label"] != args.only_label:
        return None
    tokens = file.encode(row["text"])[:args.max_length]
    return {"tokens": [tokens], "label": row["label"], "first": 0} if tokens else None


def load_examples(file, args):
    return [x for x in (example_of(file, row, args) for row in rows_of(args.data)) if x is not None]


def batches(examples, batch_tokens, rng):
    """Lists of example indices, of similar length within a list, lists in random order."""
    longest = np.array([max(map(len, e["tokens"])) for e in examples])
    order = np.argsort(longest * rng.uniform(1, 1.1, len(examples)))
    out, chosen, width = [], [], 0
    for i in order:
        width = max(width, longest[i])
        if chosen and (len(chosen) + 1) * width * len(examples[i]["tokens"]) > batch_tokens:
            out.append(chosen)
            chosen, width = [], longest[i]
        chosen.append(i)
    out.append(chosen)
    rng.shuffle(out)
    return out


class Batch:
    """tokens (B, T) with zeros behind, lengths (B); of pairs the rows alternate."""

    def __init__(self, examples, chosen):
        texts = [torch.tensor(t) for i in chosen for t in examples[i]["tokens"]]
        self.tokens = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
        self.lengths = torch.tensor([len(t) for t in texts])
        column = lambda name: torch.tensor([examples[i].get(name, 0) for i in chosen])
        self.labels, self.first = column("label").float(), column("first")

    def last(self, x):
        """x (B, T) -> its value at the last token of each text."""
        return x.gather(1, self.lengths[:, None] - 1)[:, 0]

    def learnt(self):
        """(B, T - 1): the positions whose next token counts."""
        i = torch.arange(self.tokens.shape[1] - 1)
        return (i >= self.first[:, None]) & (i + 1 < self.lengths[:, None])


# ---- Losses --------------------------------------------------------------------------------------------------


def reward_loss(model, x, batch):
    """-log sigmoid(r(chosen) - r(rejected)) at the last tokens (Ouyang et al. 2022)."""
    last = batch.last(model.score(x))
    return F.softplus(last[1::2] - last[0::2]).mean()


def classify_loss(model, x, batch):
    """Cross-entropy, half of it on the last token, half on the prefixes: a toxic text counts (i / n) at its i-th token."""
    z, label, n = model.score(x), batch.labels[:, None], batch.lengths[:, None]
    i = torch.arange(z.shape[1]) + 1
    prefixes = 0.5 / (n - 1).clamp(min=1) * torch.where(label > 0, i / n, 1.0)
    weight = torch.where(i == n, 0.5, torch.where(i < n, prefixes, 0.0))
    return (F.binary_cross_entropy_with_logits(z, label.expand_as(z), reduction="none") * weight).sum() / len(z)


class OutputLoss(torch.autograd.Function):
    """Mean cross-entropy of targets (n) by hidden states x (n, d) through the output matrix, a few positions at a time: the gradient
    of each chunk is taken at once, so that the logits of one chunk are all that is ever in memory."""

    @staticmethod
    def forward(ctx, x, targets, output):
        total, gradients = 0.0, []
        for part, target in zip(x.split(LOGITS_CHUNK), targets.split(LOGITS_CHUNK)):
            with torch.enable_grad():
                leaf = part.detach().requires_grad_()
                loss = F.cross_entropy(F.linear(leaf, output).float(), target, reduction="sum")
            gradients += torch.autograd.grad(loss, leaf)
            total += loss.detach()
        ctx.save_for_backward(torch.cat(gradients) / len(x))
        return total / len(x)

    @staticmethod
    def backward(ctx, outer):
        return ctx.saved_tensors[0] * outer, None, None


def language_loss(model, x, batch):
    """Cross-entropy of the next token from position `first` on."""
    use = batch.learnt()
    return OutputLoss.apply(x[:, :-1][use], batch.tokens[:, 1:][use], model.output)


LOSSES = {"reward": reward_loss, "classify": classify_loss, "expert": language_loss, "draft": language_loss}


# ---- Training ------------------------------------------------------------------------------------------------


class Interrupt:
    """True once Ctrl-C (or SIGTERM) came: the step under way is finished first."""

    def __init__(self):
        self.came = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.note)

    def note(self, *_):
        self.came = True

    def __bool__(self):
        return self.came


class States:
    """What the trained layers read. Of a text that comes again it is kept, as float16."""

    def __init__(self, model, keep):
        self.model, self.keep, self.kept = model, keep, {}

    def of(self, chosen, batch):
        """(B, T, d) for the examples `chosen`."""
        if self.model.n_frozen and all(i in self.kept for i in chosen):
            return torch.nn.utils.rnn.pad_sequence([s for i in chosen for s in self.kept[i]], batch_first=True).float()
        h = self.model.frozen(batch.tokens)
        if self.model.n_frozen and self.keep:
            texts = [row[:n].half() for row, n in zip(h, batch.lengths)]
            each = len(texts) // len(chosen)
            self.kept.update((i, texts[j * each:(j + 1) * each]) for j, i in enumerate(chosen))
        return h


def make_optimizer(model, rate):
    """AdamW; an output that starts from zero learns ten times as fast as what is already trained."""
    new = [p for name, p in model.named_parameters() if name in ("weight", "bias")]
    old = [p for name, p in model.named_parameters() if name not in ("weight", "bias") and p.requires_grad]
    groups = [{"params": old, "peak": rate}] + ([{"params": new, "peak": 10 * rate}] if new else [])
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01, fused=True)


def train(model, args, examples):
    """Trains in place; returns figures for the record."""
    optimizer, states, interrupted = make_optimizer(model, args.lr), States(model, args.epochs > 1), Interrupt()
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    spent = lambda begin=time.process_time(): (time.process_time() - begin) / args.threads
    rng, begin, steps, smooth, tokens, epoch, progress = np.random.default_rng(args.seed), time.time(), 0, None, 0, 0, 0.0
    while progress < 1 and not interrupted:
        plan = batches(examples, args.batch_tokens, rng)
        for at, chosen in enumerate(plan):
            progress = max((epoch + at / len(plan)) / args.epochs, spent() / (60 * args.max_minutes))
            if progress >= 1 or interrupted:
                break
            steps += 1
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * min(1, steps / args.warmup) * (1 - progress)
            batch = Batch(examples, chosen)
            with args.precision():
                value = LOSSES[args.task](model, model(states.of(chosen, batch)), batch)
            value.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
            tokens += int(batch.lengths.sum())
            smooth = value.item() if smooth is None else 0.97 * smooth + 0.03 * value.item()
            if steps % 10 == 0:
                wall = time.time() - begin
                print(f"step {steps} epoch {epoch + 1} loss {smooth:.4f} {tokens / wall:.0f} tokens/s "
                      f"left {wall / max(progress, 1e-6) * (1 - progress) / 60:.1f} min", file=sys.stderr, flush=True)
        epoch += 1
    return {"steps": steps, "tokens": tokens, "epochs": f"{tokens / sum(len(t) for e in examples for t in e['tokens']):.2f}",
            "loss": f"{smooth:.4f}", "processor_seconds": round(spent())}


def train_task(args):
    file = torch_llama.File(args.base)
    examples = load_examples(file, args)
    if not examples:
        sys.exit("no row is of use")
    np.random.default_rng(args.seed).shuffle(examples)
    examples = examples[:args.max_rows or None]
    print(f"{len(examples)} rows, {sum(len(t) for e in examples for t in e['tokens'])} tokens", file=sys.stderr, flush=True)
    model = make_model(file, args, 0 if args.task == "draft" else max(0, file.n_layers - args.train_layers))
    figures = train(model, args, examples)
    what = ",".join(map(str, model.layers[model.n_frozen:])) + f" of {file.n_layers}"
    record = {"task": args.task, "data": ", ".join(Path(p).name for p in args.data), "only_label": args.only_label, "rows": len(examples),
              "max_length": args.max_length, "trained_layers": what, "lr": args.lr, "batch_tokens": args.batch_tokens, "seed": args.seed, **figures}
    record = {key: value for key, value in record.items() if value is not None}
    torch_llama.write_model(args.out, model, args.name, record)
    if args.head_out:
        activation = "sigmoid" if args.task == "classify" else "identity"
        torch_llama.write_head(args.head_out, args.out, model, args.name, args.label or args.name, activation, record)
    print(json.dumps(record))


def make_model(file, args, n_frozen=None):
    """All layers are frozen unless `n_frozen` says otherwise; the output matrix beside them has the products' precision."""
    layers = [int(n) for n in args.keep_layers.split(",")] if args.keep_layers else range(file.n_layers)
    with args.precision():
        model = torch_llama.Model(file, layers, len(layers) if n_frozen is None else n_frozen, scalar=bool(args.head_out or args.head))
        model.output = file.output if args.float32 else file.output.bfloat16()
    return model


# ---- Evaluation ----------------------------------------------------------------------------------------------


def auc_of(scores, labels):
    """AUC with its 95% interval (DeLong et al. 1988)."""
    positive, negative = (np.sort(scores[labels == label]) for label in (1, 0))
    below = lambda x, of: (np.searchsorted(of, x, "left") + np.searchsorted(of, x, "right")) / 2 / len(of)
    p, q = below(positive, negative), 1 - below(negative, positive)
    margin = 1.959964 * math.sqrt(p.var(ddof=1) / len(p) + q.var(ddof=1) / len(q))
    return {"auc": p.mean(), "low": max(0, p.mean() - margin), "high": min(1, p.mean() + margin)}


def accuracy_of(right):
    """A share with its 95% interval (Wilson 1927)."""
    n, share, z = len(right), right.mean(), 1.959964
    centre, margin = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return {"accuracy": share, "low": (centre - margin) / (1 + z * z / n), "high": (centre + margin) / (1 + z * z / n)}


@torch.no_grad()
def evaluate(args):
    file = torch_llama.File(args.base)
    examples = load_examples(file, args)
    if args.max_rows and args.max_rows < len(examples):  # spread evenly over the file
        examples = [examples[i * len(examples) // args.max_rows] for i in range(args.max_rows)]
    model = make_model(file, args)
    if args.head:
        torch_llama.read_head(args.head, model)
    scores, nats, first_right, n_targets = {}, 0.0, 0, 0
    for chosen in batches(examples, args.batch_tokens, np.random.default_rng(0)):
        batch = Batch(examples, chosen)
        with args.precision():
            x = model(model.frozen(batch.tokens))
            if args.head:
                last = batch.last(model.score(x)).reshape(len(chosen), -1)
                scores.update((i, row.numpy()) for i, row in zip(chosen, last))
                continue
            use = batch.learnt()
            for part, target in zip(x[:, :-1][use].split(LOGITS_CHUNK), batch.tokens[:, 1:][use].split(LOGITS_CHUNK)):
                logits = F.linear(part.to(model.output.dtype), model.output).float()
                nats += F.cross_entropy(logits, target, reduction="sum").item()
                first_right += int((logits.argmax(-1) == target).sum())
                n_targets += len(target)
    out = {"rows": len(examples)}
    if not args.head:
        out |= {"tokens": n_targets, "nats": nats / n_targets, "perplexity": math.exp(nats / n_targets), "top1": first_right / n_targets}
    elif "label" in examples[0]:
        out |= auc_of(np.array([scores[i][0] for i in range(len(examples))]), np.array([e["label"] for e in examples]))
    else:
        out |= accuracy_of(np.array([float(scores[i][0] > scores[i][1]) for i in range(len(examples))]))
    print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in out.items()}))


# ---- Command line --------------------------------------------------------------------------------------------


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("task", choices=[*LOSSES, "evaluate"])
    p.add_argument("--base", required=True, help="the model that is trained on, or judged")
    p.add_argument("--data", required=True, nargs="+")
    p.add_argument("--out", help="the model to write")
    p.add_argument("--head-out", help="reward, classify: the scalar insertion to write")
    p.add_argument("--head", help="evaluate: the scalar insertion to judge")
    p.add_argument("--name", help="general.name of the model (the task)")
    p.add_argument("--label", help="label of the head's output")
    p.add_argument("--only-label", type=int, help="expert, evaluate: rows of this label only")
    p.add_argument("--train-layers", type=int, default=10)
    p.add_argument("--layers", type=int, default=4, help="draft: the first so many layers")
    p.add_argument("--keep-layers", help="draft, evaluate: these layers of the base instead, such as 0,1,2,28,29")
    p.add_argument("--max-length", type=int, help="tokens of a text (256; evaluate: 512); longer ones are cut, longer pairs left out in training")
    p.add_argument("--max-rows", type=int, default=0)
    p.add_argument("--batch-tokens", type=int, default=1024)
    p.add_argument("--epochs", type=float, default=2)
    p.add_argument("--max-minutes", type=float, default=30)
    p.add_argument("--lr", type=float, default=1e-4)
    p.add_argument("--warmup", type=int, default=20, help="steps")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--float32", action="store_true", help="no bfloat16 in matrix products")
    args = p.parse_args()
    args.name = args.name or args.task
    args.max_length = args.max_length or (512 if args.task == "evaluate" else 256)
    if args.keep_layers and args.task not in ("draft", "evaluate"):
        p.error("--keep-layers belongs to draft and evaluate")
    if args.task == "draft" and not args.keep_layers:
        args.keep_layers = ",".join(map(str, range(args.layers)))
    if args.task != "evaluate" and not args.out:
        p.error("--out is missing")
    if (args.task in ("reward", "classify")) != bool(args.head_out):
        p.error("--head-out belongs to reward and classify, and they need it")
    args.precision = contextlib.nullcontext if args.float32 else torch_llama.half
    return args


def main():
    args = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    evaluate(args) if args.task == "evaluate" else train_task(args)


if __name__ == "__main__":
    main()
