"""Makes the separate models that Otter is compared with: a reward model, a classifier, an expert, an anti-expert, a draft model.

Development only: nothing of the server needs it (`pip install jax==0.10.2 numpy`). The base's upper layers (all of a draft model's) are trained on in
float32 with JAX, and written as an ordinary GGUF model that `otter serve --reward-model / --expert-model / --draft-model` takes.

    separate_models.py reward --base BASE.gguf --data pairs.jsonl.gz ... --out reward.gguf --head-out reward-head.gguf
    separate_models.py classify --base BASE.gguf --data toxicity.train.jsonl.gz --out ... --head-out ...
    separate_models.py expert --base BASE.gguf --data toxicity.train.jsonl.gz --only-label 1 --out toxic-model.gguf
    separate_models.py draft --base BASE.gguf --layers 4 --data answers.jsonl --out draft-model.gguf

What is trained. The lowest layers stay as they are: their output is computed once for every text and kept in half
precision, so that an epoch costs the trained layers alone. `--train-layers N` says how many of the top; the file records it. The
embedding and the output matrix are never trained. A draft model is the base's first `--layers` layers and its
output norm, all of them trained on the base's own answers.

Trained matrices are written as Q8_0: the steps of a fine-tuning are finer than four bits. So such a model is larger than
a Q4_1 base; for time and memory ratios at equal size let the base file itself stand in for it.
"""

import argparse
import gzip
import json
import math
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "golden"))
import bpe  # noqa: E402
import gguf_io  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
NORMS = ("attn_norm", "ffn_norm")


# ---- The model -----------------------------------------------------------------------------------------------


class Base:
    """Sizes and weights of a llama-architecture GGUF file."""

    def __init__(self, path):
        self.reader = gguf_io.Reader(path)
        keys = self.reader.keys
        key = lambda name: keys["llama." + name]
        self.d, self.n_layers, self.n_heads = key("embedding_length"), key("block_count"), key("attention.head_count")
        self.n_kv_heads, self.eps = key("attention.head_count_kv"), key("attention.layer_norm_rms_epsilon")
        self.head_dim = self.d // self.n_heads
        n_rot, freq_base = key("rope.dimension_count"), key("rope.freq_base")
        self.theta = freq_base ** (-2 * np.arange(n_rot // 2) / n_rot)
        self.embedding = self.reader.floats("token_embd.weight")
        output = "output.weight" if "output.weight" in self.reader.tensors else "token_embd.weight"
        self.output = self.embedding if output == "token_embd.weight" else self.reader.floats(output)
        self.tokenizer = bpe.Tokenizer(self.reader)
        self.end = keys["tokenizer.ggml.eos_token_id"]

    def layer(self, n):
        return {name: jnp.asarray(self.reader.floats(f"blk.{n}.{name}.weight")) for name in MATRICES + NORMS}

    def encode(self, text):
        return self.tokenizer.encode(text)


def rms_norm(x, gamma, eps):
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps) * gamma


def rotate(x, theta):
    """x (B, T, heads, hd); elements 2i and 2i + 1 turn together, as in llama GGUF files."""
    angle = jnp.arange(x.shape[1])[:, None] * theta
    cos, sin = jnp.cos(angle)[None, :, None], jnp.sin(angle)[None, :, None]
    a, b = x[..., 0::2], x[..., 1::2]
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)


def block(base, w, h):
    """One layer over (B, T, d); texts begin at 0 and are padded behind, which causal attention never sees."""
    b, t, _ = h.shape
    x = rms_norm(h, w["attn_norm"], base.eps)
    split = lambda y: y.reshape(b, t, -1, base.head_dim)
    theta = jnp.asarray(base.theta, jnp.float32)
    q, k = rotate(split(x @ w["attn_q"].T), theta), rotate(split(x @ w["attn_k"].T), theta)
    v = split(x @ w["attn_v"].T)
    q = q.reshape(b, t, base.n_kv_heads, -1, base.head_dim)
    scores = jnp.einsum("btkgh,bskh->bkgts", q, k) / math.sqrt(base.head_dim)
    scores = jnp.where(jnp.tril(jnp.ones((t, t), bool)), scores, -1e30)
    out = jnp.einsum("bkgts,bskh->btkgh", jax.nn.softmax(scores, axis=-1), v).reshape(b, t, -1)
    h = h + out @ w["attn_output"].T
    x = rms_norm(h, w["ffn_norm"], base.eps)
    return h + (jax.nn.silu(x @ w["ffn_gate"].T) * (x @ w["ffn_up"].T)) @ w["ffn_down"].T


def run_blocks(base, layers, h):
    for w in layers:
        h = block(base, w, h)
    return h


# ---- Texts ---------------------------------------------------------------------------------------------------


def rows_of(paths):
    for path in paths:
        with (gzip.open if str(path).endswith(".gz") else open)(path, "rt") as file:
            for line in file:
                yield json.loads(line)


def chat_tokens(base, messages, answer=None):
    """The conversation in SmolLM2's own chat form; with an answer, ended as a finished turn."""
    text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    if messages[0]["role"] != "system":
        text = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n" + text
    if answer is not None:
        text += f"<|im_start|>assistant\n{answer}<|im_end|>\n"
    return base.encode(text)


def load_examples(base, args):
    """A list of dicts: tokens (or a pair of them), label, first (where the loss begins)."""
    out = []
    for row in rows_of(args.data):
        if args.task == "reward":
            pair = [chat_tokens(base, row["messages"], row[k]) for k in ("chosen", "rejected")]
            if max(map(len, pair)) <= args.max_length:
                out.append({"tokens": pair})
        elif args.task == "draft":
            prompt, answer = row["prompt_tokens"], row["completion_tokens"]
            if len(answer) > 1:
                out.append({"tokens": [(prompt + answer)[:args.max_length]], "first": len(prompt) - 1})
        elif args.only_label is None or row["label"] == args.only_label:
            tokens = base.encode(row["text"])[:args.max_length]
            if len(tokens) > 1:
                out.append({"tokens": [tokens], "label": row["label"], "first": 0})
    return out


def batches(examples, batch_tokens, rng):
    """Lists of example indices of similar length; the padded length is a multiple of 32, so that few shapes are compiled."""
    longest = np.array([max(map(len, e["tokens"])) for e in examples])
    order = np.argsort(longest + rng.uniform(0, 16, len(examples)))
    out, at = [], 0
    while at < len(order):
        padded = lambda i: -(-int(longest[order[i]]) // 32) * 32
        n = 1
        while at + n < len(order) and (n + 1) * padded(at + n) * len(examples[0]["tokens"]) <= batch_tokens:
            n += 1
        out.append(order[at:at + n])
        at += n
    rng.shuffle(out)
    return out


def pad(examples, chosen, batch_tokens):
    """(B, T) tokens and lengths. B is rounded so that a shape recurs: missing rows have length 0."""
    texts = [t for i in chosen for t in examples[i]["tokens"]]
    length = -(-max(map(len, texts)) // 32) * 32
    n = max(len(texts), batch_tokens // length // len(examples[0]["tokens"]) * len(examples[0]["tokens"]))
    tokens = np.zeros((n, length), np.int32)
    lengths = np.zeros(n, np.int32)
    for i, text in enumerate(texts):
        tokens[i, :len(text)] = text
        lengths[i] = len(text)
    return tokens, lengths


# ---- Losses --------------------------------------------------------------------------------------------------


def scores_of(params, base, h):
    x = rms_norm(h, params["output_norm"], base.eps)
    return x @ params["head"] + params["bias"]


def reward_loss(params, base, h, batch):
    """-log sigmoid(r(chosen) - r(rejected)) at the last tokens (Ouyang et al. 2022); rows alternate."""
    lengths = batch["lengths"]
    last = jnp.take_along_axis(scores_of(params, base, h), jnp.maximum(lengths - 1, 0)[:, None], axis=1)[:, 0]
    margin = last[0::2] - last[1::2]
    real = (lengths[0::2] > 0).astype(jnp.float32)
    return jnp.sum(jax.nn.softplus(-margin) * real) / jnp.maximum(real.sum(), 1)


def classify_loss(params, base, h, batch):
    """Cross-entropy, half of it on the last token, half on the prefixes: a toxic text counts (i / n) at its i-th token."""
    z, lengths, label = scores_of(params, base, h), batch["lengths"], batch["labels"]
    i = jnp.arange(z.shape[1])[None] + 1
    n = jnp.maximum(lengths, 1)[:, None]
    ramp = jnp.where(label[:, None] > 0, i / n, 1.0)
    weight = jnp.where(i == n, 0.5, jnp.where(i < n, 0.5 / jnp.maximum(n - 1, 1) * ramp, 0)) * (lengths > 0)[:, None]
    each = jax.nn.softplus(z) - label[:, None] * z
    return jnp.sum(each * weight) / jnp.maximum((lengths > 0).sum(), 1)


def language_loss(params, base, h, batch):
    """Cross-entropy of the next token from position `first` on."""
    x = rms_norm(h, params["output_norm"], base.eps)[:, :-1]
    logits = x @ batch["output"].T
    target = batch["tokens"][:, 1:]
    i = jnp.arange(target.shape[1])[None]
    use = (i >= batch["first"][:, None]) & (i + 1 < batch["lengths"][:, None])
    each = jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]
    return jnp.sum(each * use) / jnp.maximum(use.sum(), 1)


LOSSES = {"reward": reward_loss, "classify": classify_loss, "expert": language_loss, "draft": language_loss}


# ---- Training ------------------------------------------------------------------------------------------------


def lower_states(base, examples, n_frozen, batch_tokens):
    """Output of the frozen layers for every text, as float16: [example][text] (n, d). The progress goes to stderr."""
    layers = [base.layer(n) for n in range(n_frozen)]
    run = jax.jit(partial(run_blocks, base))
    out = [None] * len(examples)
    begin, done = time.time(), 0
    for chosen in batches(examples, batch_tokens, np.random.default_rng(0)):
        tokens, lengths = pad(examples, chosen, batch_tokens)
        h = np.asarray(run(layers, jnp.asarray(base.embedding[tokens]))).astype(np.float16)
        at = 0
        for i in chosen:
            n_texts = len(examples[i]["tokens"])
            out[i] = [h[at + j, :lengths[at + j]] for j in range(n_texts)]
            at += n_texts
        done += int(lengths.sum())
        print(f"\rfrozen layers: {done} tokens, {done / (time.time() - begin):.0f} a second", end="", file=sys.stderr)
    print(file=sys.stderr)
    return out


def adam_init(params):
    zeros = lambda: jax.tree.map(jnp.zeros_like, params)
    return zeros(), zeros()


def make_step(base, loss):
    def step(params, m, v, count, rate, h, batch):
        value, grad = jax.value_and_grad(lambda p: loss(p, base, run_blocks(base, p["layers"], h), batch))(params)
        norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(grad)))
        scale = jnp.minimum(1.0, 1.0 / (norm + 1e-9))
        m = jax.tree.map(lambda a, g: 0.9 * a + 0.1 * g * scale, m, grad)
        v = jax.tree.map(lambda a, g: 0.98 * a + 0.02 * (g * scale) ** 2, v, grad)
        c1, c2 = 1 - 0.9 ** count, 1 - 0.98 ** count
        params = jax.tree.map(lambda p, a, b: p - rate * (a / c1) / (jnp.sqrt(b / c2) + 1e-8), params, m, v)
        return params, m, v, value
    return jax.jit(step, donate_argnums=(0, 1, 2))


def device_batch(base, args, examples, states, chosen):
    tokens, lengths = pad(examples, chosen, args.batch_tokens)
    if states is None:
        h = base.embedding[tokens]
    else:
        h = np.zeros((*tokens.shape, base.d), np.float32)
        for row, state in enumerate(s for i in chosen for s in states[i]):
            h[row, :len(state)] = state
    batch = {"tokens": tokens, "lengths": lengths}
    fill = lambda name, kind: np.pad(np.array([examples[i][name] for i in chosen], kind), (0, len(tokens) - len(chosen)))
    if args.task == "classify":
        batch["labels"] = fill("label", np.float32)
    if args.task in ("expert", "draft"):
        batch["first"] = fill("first", np.int32)
        batch["output"] = args.output_matrix
    return jnp.asarray(h), batch


def train(base, args, params, examples, states):
    step, (m, v) = make_step(base, LOSSES[args.task]), adam_init(params)
    rng = np.random.default_rng(args.seed)
    begin, count, smooth, tokens, epoch = time.time(), 0, None, 0, 0
    progress = 0.0
    while epoch < args.epochs and progress < 1:
        plan = batches(examples, args.batch_tokens, rng)
        for at, chosen in enumerate(plan):
            by_epoch = (epoch + at / len(plan)) / args.epochs
            progress = max(by_epoch, (time.time() - begin) / (60 * args.max_minutes))
            if progress >= 1:
                break
            count += 1
            rate = args.lr * min(1, count / 30) * (1 - progress)
            h, batch = device_batch(base, args, examples, states, chosen)
            params, m, v, value = step(params, m, v, count, rate, h, batch)
            tokens += int(batch["lengths"].sum())
            smooth = float(value) if smooth is None else 0.98 * smooth + 0.02 * float(value)
            if count % 10 == 0:
                spent = time.time() - begin
                print(f"\rstep {count} epoch {epoch + 1} loss {smooth:.4f} {tokens / spent:.0f} tokens/s "
                      f"left {spent / max(progress, 1e-6) * (1 - progress) / 60:.1f} min ", end="", file=sys.stderr)
        epoch += 1
    print(file=sys.stderr)
    return params, {"steps": count, "tokens": tokens, "epochs": epoch, "loss": smooth, "seconds": time.time() - begin}


# ---- Writing -------------------------------------------------------------------------------------------------


def write_model(base, args, params, first_trained, n_layers, record):
    w = gguf_io.Writer()
    w.copy_keys(base.reader, {"llama.block_count": n_layers, "general.name": args.name})
    for key, value in record.items():
        w.put(f"training.{key}", gguf_io.STRING, str(value))
    for name, tensor in base.reader.tensors.items():
        part = name.split(".")
        if name == "output_norm.weight":
            w.tensor(name, np.asarray(params["output_norm"]))
        elif part[0] != "blk" or int(part[1]) < min(first_trained, n_layers):
            w.raw_tensor(name, tensor.type, tensor.dims, bytes(tensor.data))
        elif int(part[1]) < n_layers:
            x = np.asarray(params["layers"][int(part[1]) - first_trained][part[2]])
            w.tensor(name, x, "F32" if x.ndim == 1 else "Q8_0")
    w.write(args.out)


def write_head(base, args, params, record):
    """A scalar insertion without a stream of its own, which reads the model's last hidden state."""
    model = gguf_io.Reader(args.out)
    w = gguf_io.Writer()
    text = lambda key, value: w.put(key, gguf_io.STRING, value)
    number = lambda key, value: w.put(key, gguf_io.U32, value)
    text("general.architecture", "otter")
    text("general.name", args.name)
    number("otter.version", 1)
    text("otter.base.architecture", model.keys["general.architecture"])
    text("otter.base.name", model.keys["general.name"])
    text("otter.base.fingerprint", gguf_io.fingerprint(model))
    number("otter.base.embedding_length", base.d)
    number("otter.base.block_count", base.n_layers)
    number("otter.base.vocab_size", len(base.embedding))
    for key in ("embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv"):
        number("otter." + key, 0)
    w.put("otter.parents", gguf_io.ARRAY, [], gguf_io.STRING)
    text("otter.head.kind", "scalar")
    text("otter.head.input", "base")
    number("otter.head.count", 1)
    w.put("otter.head.offsets", gguf_io.ARRAY, [0], gguf_io.U32)
    w.put("otter.head.labels", gguf_io.ARRAY, [args.label or args.name], gguf_io.STRING)
    text("otter.head.activation", "sigmoid" if args.task == "classify" else "identity")
    for key, value in record.items():
        text(f"otter.training.{key}", str(value))
    w.tensor("otter.head.0.weight", np.asarray(params["head"])[None])
    w.tensor("otter.head.0.bias", np.asarray(params["bias"])[None])
    w.write(args.head_out)


# ---- Command line --------------------------------------------------------------------------------------------


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("task", choices=list(LOSSES))
    p.add_argument("--base", required=True)
    p.add_argument("--data", required=True, nargs="+")
    p.add_argument("--out", required=True)
    p.add_argument("--head-out", help="reward, classify: the scalar insertion to write")
    p.add_argument("--name", help="general.name of the model (the task)")
    p.add_argument("--label", help="label of the head's output")
    p.add_argument("--only-label", type=int, help="expert: rows of this label only")
    p.add_argument("--train-layers", type=int, default=8)
    p.add_argument("--layers", type=int, default=4, help="draft: layers of the draft model")
    p.add_argument("--max-length", type=int, default=256)
    p.add_argument("--max-rows", type=int, default=0)
    p.add_argument("--batch-tokens", type=int, default=2048)
    p.add_argument("--epochs", type=float, default=2)
    p.add_argument("--max-minutes", type=float, default=30)
    p.add_argument("--lr", type=float, default=1e-4)
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    args.name = args.name or args.task
    if (args.task in ("reward", "classify")) != bool(args.head_out):
        p.error("--head-out belongs to reward and classify")
    return args


def main():
    args = parse()
    base = Base(args.base)
    args.output_matrix = jnp.asarray(base.output)
    examples = load_examples(base, args)
    np.random.default_rng(args.seed).shuffle(examples)
    if args.max_rows:
        examples = examples[:args.max_rows]
    print(f"{len(examples)} rows, {sum(len(t) for e in examples for t in e['tokens'])} tokens", file=sys.stderr)
    n_layers = args.layers if args.task == "draft" else base.n_layers
    first = 0 if args.task == "draft" else base.n_layers - args.train_layers
    states = lower_states(base, examples, first, args.batch_tokens) if first else None
    params = {"layers": [base.layer(n) for n in range(first, n_layers)],
              "output_norm": jnp.asarray(base.reader.floats("output_norm.weight"))}
    if args.head_out:
        params |= {"head": jnp.zeros(base.d), "bias": jnp.zeros(())}
    params, figures = train(base, args, params, examples, states)
    record = {"task": args.task, "data": ", ".join(Path(p).name for p in args.data), "rows": len(examples),
              "trained_layers": f"{first}..{n_layers - 1} of {n_layers}", "lr": args.lr, **figures}
    write_model(base, args, params, first, n_layers, record)
    if args.head_out:
        write_head(base, args, params, record)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
