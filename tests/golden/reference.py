"""The method in plain NumPy: a frozen base transformer, and insertions that read it and write to themselves only.

Independent of the C engine: written from the equations (Yuan et al. 2024, eq. 7, 8 and section 3; Medusa-1) and from the names
and shapes of the insertion file. One sequence at a time, whole, with no cache and no cleverness: what cannot be
read off at a glance does not belong here. `dtype` is float32, or float64 to see what float32 costs.

Shapes: n positions, d width of the base, d' of an insertion. A weight of GGUF shape [in, out] is an array
(out, in), so that y = x @ W.T. An insertion reads vectors in the order base, parents (lowest first), own.
"""

from dataclasses import dataclass, field

import numpy as np

import gguf_io


# ---- Small functions -----------------------------------------------------------------------------------------


def sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def silu(x):
    return x * sigmoid(x)


def gelu(x):
    """The tanh form, as GPT-2 has it."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi).astype(x.dtype) * (x + x.dtype.type(0.044715) * x ** 3)))


def softmax(x):
    p = np.exp(x - x.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def log_softmax(x):
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@dataclass
class Statistics:
    """What n(.) divides by, taken from h alone, also where h' is normalised."""
    mean: np.ndarray     # (n, 1); zero for RMSNorm
    inverse: np.ndarray  # (n, 1)

    @staticmethod
    def rms(h, eps):
        return Statistics(np.zeros_like(h[:, :1]), 1 / np.sqrt(np.mean(h * h, axis=1, keepdims=True) + h.dtype.type(eps)))

    @staticmethod
    def layer(h, eps):
        mean = np.mean(h, axis=1, keepdims=True)
        variance = np.mean((h - mean) ** 2, axis=1, keepdims=True)
        return Statistics(mean, 1 / np.sqrt(variance + h.dtype.type(eps)))

    def apply(self, x, gamma, beta=None):
        y = (x - self.mean) * self.inverse * gamma
        return y if beta is None else y + beta


def soft_cap(x, cap):
    """cap tanh(x / cap), or x where there is none."""
    return x if cap is None else x.dtype.type(cap) * np.tanh(x / x.dtype.type(cap))


def attention(q, k, v, scale, window=None, cap=None):
    """Causal. q (n, heads, hd); k and v (n, kv_heads, hd); query head i reads key/value head i // (heads / kv_heads). With a window, a row sees
    the last so many keys, its own among them; with a cap, scores go through it."""
    n, heads, hd = q.shape
    group = heads // k.shape[1] if heads else 1
    out = np.empty_like(q)
    hidden = np.triu(np.ones((n, n), bool), 1)
    if window is not None:
        hidden |= np.tril(np.ones((n, n), bool), -window)
    for i in range(heads):
        scores = soft_cap((q[:, i] @ k[:, i // group].T) * q.dtype.type(scale), cap)
        scores[hidden] = -np.inf
        out[:, i] = softmax(scores) @ v[:, i // group]
    return out.reshape(n, heads * hd)


# Architectures whose files leave W_Q and W_K as they were trained.
NEOX = {"qwen2", "qwen3", "olmo2", "phi3", "gemma2", "gemma3"}


# ---- Rotary embedding ----------------------------------------------------------------------------------------


class Rope:
    """Rotary embedding: pairs of a head's elements turn by position * theta_i. In the layout of llama GGUF files, whose W_Q and W_K are
    permuted for it, these are elements 2i and 2i+1; in the layout of the papers' code (NeoX) i and i + n/2."""

    def __init__(self, reader, head_dim, plain_base=None):
        """plain_base: frequencies of this base, without the file's scaling."""
        architecture = reader.keys["general.architecture"]
        self.neox = architecture in NEOX
        key = lambda name, default: reader.keys.get(f"{architecture}.rope.{name}", default)
        self.n_rot = key("dimension_count", head_dim)
        base = plain_base or key("freq_base", 10000.0)
        pair = np.arange(self.n_rot // 2, dtype=np.float64)
        theta = base ** (-2 * pair / self.n_rot)
        if "rope_freqs.weight" in reader.tensors:  # llama 3: one divisor for each pair
            theta = theta / reader.floats("rope_freqs.weight").astype(np.float64)
        kind, factor = ("none", 1.0) if plain_base else (key("scaling.type", "none"), key("scaling.factor", 1.0))
        if f"{architecture}.rope.scale_linear" in reader.keys:
            kind, factor = "linear", key("scale_linear", 1.0)
        self.magnitude = 1.0
        if kind == "linear":
            theta = theta / factor
        elif kind == "yarn":
            context = key("scaling.original_context_length", reader.keys[architecture + ".context_length"])
            theta = self._yarn(theta, pair, base, factor, context)
            self.magnitude = key("scaling.attn_factor", 1.0) * (1 + 0.1 * np.log(factor))
        elif kind != "none":
            raise ValueError(f"rope scaling {kind}")
        self.theta = theta

    def _yarn(self, theta, pair, base, factor, context, beta_fast=32.0, beta_slow=1.0):
        """Peng et al. 2023, section 3.2: high frequencies stay, low ones are interpolated, a ramp lies between."""
        pair_of = lambda turns: self.n_rot * np.log(context / (turns * 2 * np.pi)) / (2 * np.log(base))
        low = max(0, np.floor(pair_of(beta_fast)))
        high = min(self.n_rot - 1, np.ceil(pair_of(beta_slow)))
        interpolated = np.clip((pair - low) / max(0.001, high - low), 0, 1)
        return theta * (1 - interpolated) + theta / factor * interpolated

    def turn(self, x):
        """x (n, heads, hd), positions 0 .. n-1."""
        angle = np.arange(len(x), dtype=np.float64)[:, None, None] * self.theta
        cos = (np.cos(angle) * self.magnitude).astype(x.dtype)
        sin = (np.sin(angle) * self.magnitude).astype(x.dtype)
        y = x.copy()
        half = self.n_rot // 2
        first, second = (slice(0, half), slice(half, self.n_rot)) if self.neox else (slice(0, self.n_rot, 2), slice(1, self.n_rot, 2))
        a, b = x[:, :, first], x[:, :, second]
        y[:, :, first] = a * cos - b * sin
        y[:, :, second] = a * sin + b * cos
        return y


# ---- Tensors by name -----------------------------------------------------------------------------------------


class Weights:
    """Tensors of a file as floats, dequantised when first asked for."""

    def __init__(self, reader, dtype):
        self.reader, self.dtype, self._cache = reader, dtype, {}

    def __contains__(self, name):
        return name in self.reader.tensors

    def get(self, name):
        if name not in self._cache:
            self._cache[name] = self.reader.floats(name).astype(self.dtype)
        return self._cache[name]

    def maybe(self, name):
        return self.get(name) if name in self else None

    def linear(self, name, x, inputs):
        """x W^T + b. `inputs(tensor name, x)` may replace the input, to study other arithmetics."""
        y = inputs(name + ".weight", x) @ self.get(name + ".weight").T
        bias = self.maybe(name + ".bias")
        return y if bias is None else y + bias


def unchanged(_name, x):
    return x


# ---- Insertions ----------------------------------------------------------------------------------------------


class Insertion:
    """An insertion file. `parents` are the Insertion objects named by otter.parents, lowest first."""

    def __init__(self, path, parents=(), dtype=np.float32):
        reader = gguf_io.Reader(path)
        key = lambda name, default=None: reader.keys.get("otter." + name, default)
        self.width = key("embedding_length")
        self.n_ff = key("feed_forward_length")
        self.n_heads, self.n_kv_heads = key("attention.head_count"), key("attention.head_count_kv")
        self.parents = list(parents)
        assert len(self.parents) == len(key("parents", []))
        self.kind = key("head.kind")
        self.input, self.activation, self.n_outputs = key("head.input"), key("head.activation"), key("head.count")
        self.offsets, self.reads_tokens = key("head.offsets", [0] * self.n_outputs), key("head.reads_tokens", False)
        self.weights = Weights(reader, dtype)

    def scores(self, head_in):
        """head_in (n, d' or d) -> (n, outputs). Eq. 7."""
        out = np.empty((len(head_in), self.n_outputs), head_in.dtype)
        for k in range(self.n_outputs):
            z = head_in @ self.weights.get(f"otter.head.{k}.weight").reshape(-1)
            bias = self.weights.maybe(f"otter.head.{k}.bias")
            z = z if bias is None else z + bias[0]
            out[:, k] = sigmoid(z) if self.activation == "sigmoid" else z
        return out


    def product(self, k, head_in):
        return head_in @ self.weights.get(f"otter.head.{k}.weight").T

    def residual(self, k):
        """rho: how much of H_o stands in what generation head k says. 1, unless the head reads tokens."""
        return self.weights.get(f"otter.head.{k}.residual.weight").reshape(-1)[0] if self.reads_tokens else 1

    def expected_hidden(self, k, head_in, hidden):
        """What lm_head reads for generation head k: W_h x + rho H_o (eq. 8 with rho 1), or SiLU(W H_o) + H_o (Medusa-1)."""
        u = self.product(k, head_in)
        return (silu(u) if self.activation == "silu_residual" else u) + self.residual(k) * hidden

    def token_part(self, k, embedding):
        """B_k e of a head that reads tokens (Hydra's dependence on the drafts before): (n, d) -> (n, d')."""
        return embedding @ self.weights.get(f"otter.head.{k}.token.weight").T

    def values(self, head_in, hidden, logits, embedding_told):
        """A value for every token: (n, outputs, vocab). Generation heads: their logits less rho times the base's own. Lookahead:
        sigma(lm_head(W_h x) + b). `logits` is lm_head; embedding_told(offset) are the base's embeddings of the tokens that heads
        which read them are told."""
        out, h = [], head_in
        for k in range(self.n_outputs):
            if self.reads_tokens:
                head_in = h + self.token_part(k, embedding_told(self.offsets[k]))
            if self.kind == "lookahead":
                z = logits(self.product(k, head_in)) + self.weights.get(f"otter.head.{k}.bias")[0]
                out.append(sigmoid(z) if self.activation == "sigmoid" else z)
            else:
                out.append(logits(self.expected_hidden(k, head_in, hidden)) - self.residual(k) * logits(hidden))
        return np.stack(out, axis=1)


@dataclass
class Stream:
    """One insertion while a sequence runs."""
    insertion: Insertion
    h: np.ndarray                        # (n, d')
    parents: list = field(default_factory=list)
    normed: np.ndarray = None            # n(h') of the current norm
    heads: np.ndarray = None             # attention output of the own heads in this layer
    inner: np.ndarray = None             # own FFN inner activation in this layer

    def join(self, base_part, part):
        """[base; parents; own] of `part`: "normed", "heads" or "inner"."""
        return np.concatenate([base_part] + [getattr(s, part) for s in self.parents] + [getattr(self, part)], axis=1)


# ---- The base and the forward pass ---------------------------------------------------------------------------


@dataclass
class Result:
    hidden: np.ndarray                   # H_o (n, d)
    extended: list                       # H' (n, d') of each insertion
    scores: list                         # of each insertion: (n, outputs), or (n, outputs, vocab) of heads with a value for every token


class Model:
    """A base model file. Biases are added, norms done, where the file has one; what else tells architectures apart stands in
    __init__ and _turns."""

    def __init__(self, path, dtype=np.float32):
        self.reader = gguf_io.Reader(path)
        self.weights = Weights(self.reader, dtype)
        self.dtype = dtype
        self.architecture = self.reader.keys["general.architecture"]
        key = lambda name, default=None: self.reader.keys.get(f"{self.architecture}.{name}", default)
        self.d, self.n_layers, self.n_ff = key("embedding_length"), key("block_count"), key("feed_forward_length")
        self.n_context = key("context_length")
        self.n_heads = key("attention.head_count")
        self.n_kv_heads = key("attention.head_count_kv", self.n_heads)
        self.head_dim = key("attention.key_length", self.d // self.n_heads)
        self.is_gpt2 = self.architecture == "gpt2"
        self.eps = key("attention.layer_norm_epsilon" if self.is_gpt2 else "attention.layer_norm_rms_epsilon")
        self.rope = None if self.is_gpt2 else Rope(self.reader, self.head_dim)
        self.is_gemma = self.architecture in ("gemma2", "gemma3")
        self.activation = gelu if self.is_gpt2 or self.is_gemma else silu
        self.window, self.score_cap = key("attention.sliding_window"), key("attn_logit_softcapping")
        self.logit_cap = key("final_logit_softcapping")
        if self.architecture == "gemma3":
            self.local_rope = Rope(self.reader, self.head_dim, 10000.0)
        # Granite's scales; whoever has no such key has none.
        self.embedding_scale = key("embedding_scale", np.sqrt(self.d) if self.is_gemma else 1)
        self.residual_scale = key("residual_scale", 1)
        self.attention_scale, self.logit_divisor = key("attention.scale", 1 / np.sqrt(self.head_dim)), key("logit_scale", 1)

    def statistics(self, h):
        return Statistics.layer(h, self.eps) if self.is_gpt2 else Statistics.rms(h, self.eps)

    def _norm(self, name, h, streams):
        """n(h) of the base; n(h') of every stream goes to stream.normed, by the statistics of h alone. h itself where the file has no
        such norm (OLMo 2)."""
        if name + ".weight" not in self.weights:
            for s in streams:
                s.normed = s.h
            return h
        statistics = self.statistics(h)
        for s in streams:
            w = s.insertion.weights
            s.normed = s.h if s.insertion.width == 0 else statistics.apply(
                s.h, w.get(f"otter.{name}.weight"), w.maybe(f"otter.{name}.bias"))
        return statistics.apply(h, self.weights.get(name + ".weight"), self.weights.maybe(name + ".bias"))

    def _add(self, layer, post_norm, h, y, streams, own):
        """h + y, the same for h' and `own` of each stream; y is normalised first where the file says so, that of streams by y's statistics."""
        name = f"blk.{layer}.{post_norm}.weight"
        if name in self.weights:
            statistics = self.statistics(y)
            y = statistics.apply(y, self.weights.get(name))
            own = [x if x is None else statistics.apply(x, s.insertion.weights.get("otter." + name)) for s, x in zip(streams, own)]
        for s, x in zip(streams, own):
            if x is not None:
                s.h = s.h + x * self.dtype(self.residual_scale)
        return h + y * self.dtype(self.residual_scale)

    def _is_local(self, layer):
        """Layers with a window: in Gemma 2 every other, in Gemma 3 five of six, in Phi-3 all."""
        period = {"gemma2": 2, "gemma3": 6}.get(self.architecture)
        return layer % period != period - 1 if period else self.architecture == "phi3"

    def _turn(self, layer, x):
        """By position: in SmolLM3 not in every fourth layer, in Gemma 3 where there is a window with frequencies of their own."""
        if self.rope is None or (self.architecture == "smollm3" and layer % 4 == 3):
            return x
        return (self.local_rope if self.architecture == "gemma3" and self._is_local(layer) else self.rope).turn(x)

    def _qk_norm(self, layer, weights, prefix, q, k, statistics=None):
        """Of each head by itself (Qwen3); or of all heads together (OLMo 2): of a stream by the base's statistics. -> q, k and these."""
        names = [f"{prefix}blk.{layer}.attn_{x}_norm.weight" for x in "qk"]
        if names[0] not in weights:
            return q, k, None
        gammas = [weights.get(n) for n in names]
        if len(self.weights.get(f"blk.{layer}.attn_q_norm.weight")) == self.head_dim:
            by_head = lambda x, gamma: self.statistics(x.reshape(-1, self.head_dim)).apply(x.reshape(-1, self.head_dim), gamma).reshape(x.shape)
            return by_head(q, gammas[0]), by_head(k, gammas[1]), None
        statistics = statistics or (self.statistics(q), self.statistics(k))
        return statistics[0].apply(q, gammas[0]), statistics[1].apply(k, gammas[1]), statistics

    def _heads(self, layer, q, k, v, kv_round):
        """Flat q, k, v -> concatenated head outputs (n, heads * hd)."""
        q, k, v = (x.reshape(len(x), -1, self.head_dim) for x in (q, k, v))
        return attention(self._turn(layer, q), kv_round(self._turn(layer, k)), kv_round(v), self.attention_scale,
                         self.window if self._is_local(layer) else None, self.score_cap)

    def _base_qkv(self, layer, x, inputs):
        w = self.weights
        if f"blk.{layer}.attn_qkv.weight" in w:
            q, kv = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
            return np.split(w.linear(f"blk.{layer}.attn_qkv", x, inputs), [q, q + kv], axis=1)
        return [w.linear(f"blk.{layer}.attn_{name}", x, inputs) for name in "qkv"]

    def _attention_block(self, layer, h, streams, inputs, kv_round):
        x = self._norm(f"blk.{layer}.attn_norm", h, streams)
        q, k, v = self._base_qkv(layer, x, inputs)
        q, k, statistics = self._qk_norm(layer, self.weights, "", q, k)
        heads = self._heads(layer, q, k, v, kv_round)
        for s in streams:
            s.heads = np.zeros((len(h), 0), h.dtype)
            if s.insertion.n_heads:
                wide = s.join(x, "normed")
                q, k, v = (s.insertion.weights.linear(f"otter.blk.{layer}.attn_{name}", wide, inputs) for name in "qkv")
                q, k, _ = self._qk_norm(layer, s.insertion.weights, "otter.", q, k, statistics)
                s.heads = self._heads(layer, q, k, v, kv_round)
        own = [s.insertion.weights.linear(f"otter.blk.{layer}.attn_output", s.join(heads, "heads"), inputs)
               if s.insertion.width else None for s in streams]
        return self._add(layer, "post_attention_norm", h, self.weights.linear(f"blk.{layer}.attn_output", heads, inputs), streams, own)

    def _inner(self, weights, prefix, x, inputs):
        up = weights.linear(prefix + "ffn_up", x, inputs)
        if self.is_gpt2:
            return gelu(up)
        if prefix + "ffn_gate.weight" in weights:
            return self.activation(weights.linear(prefix + "ffn_gate", x, inputs)) * up
        gate, up = np.split(up, 2, axis=1)  # one matrix for both (Phi-3)
        return self.activation(gate) * up

    def _ffn_block(self, layer, h, streams, inputs):
        x = self._norm(f"blk.{layer}.ffn_norm", h, streams)
        inner = self._inner(self.weights, f"blk.{layer}.", x, inputs)
        for s in streams:
            s.inner = np.zeros((len(h), 0), h.dtype)
            if s.insertion.n_ff:
                s.inner = self._inner(s.insertion.weights, f"otter.blk.{layer}.", s.join(x, "normed"), inputs)
        own = [s.insertion.weights.linear(f"otter.blk.{layer}.ffn_down", s.join(inner, "inner"), inputs)
               if s.insertion.width else None for s in streams]
        return self._add(layer, "post_ffw_norm", h, self.weights.linear(f"blk.{layer}.ffn_down", inner, inputs), streams, own)

    def _embed(self, weights, prefix, tokens, width):
        if width == 0:
            return np.zeros((len(tokens), 0), self.dtype)
        h = weights.get(prefix + "token_embd.weight")[tokens] * self.dtype(self.embedding_scale)
        position = weights.maybe(prefix + "position_embd.weight")
        return h if position is None else h + position[:len(tokens)]

    def forward(self, tokens, insertions=(), inputs=unchanged, kv_round=lambda x: x, values=True, told=None):
        """tokens: ids of one sequence from position 0. insertions: parents before their children. values=False leaves out those
        for every token, which are large. told(tokens, offset) gives the tokens that heads of this offset read, one for each row."""
        tokens = np.asarray(tokens)
        h = self._embed(self.weights, "", tokens, self.d)
        streams, of = [], {}
        for insertion in insertions:
            s = Stream(insertion, self._embed(insertion.weights, "otter.", tokens, insertion.width),
                       [of[id(parent)] for parent in insertion.parents])
            of[id(insertion)] = s
            streams.append(s)
        for layer in range(self.n_layers):
            h = self._attention_block(layer, h, streams, inputs, kv_round)
            h = self._ffn_block(layer, h, streams, inputs)
        hidden = self._norm("output_norm", h, streams)
        extended = [s.normed for s in streams]
        head_in = [hidden if i.input == "base" else e for i, e in zip(insertions, extended)]
        embedding_told = lambda offset: self.weights.get("token_embd.weight")[told(tokens, offset)]
        scores = [i.scores(x) if i.kind == "scalar" else i.values(x, hidden, self.uncapped_logits, embedding_told) if values else None
                  for i, x in zip(insertions, head_in)]
        return Result(hidden, extended, scores)

    def uncapped_logits(self, hidden, inputs=unchanged):
        """(n, d) -> (n, vocab): the output matrix, or the embedding where the two are tied."""
        name = "output" if "output.weight" in self.weights else "token_embd"
        return self.weights.linear(name, hidden, inputs) / self.dtype(self.logit_divisor)

    def logits(self, hidden, inputs=unchanged):
        return soft_cap(self.uncapped_logits(hidden, inputs), self.logit_cap)

    def token_logprobs(self, tokens, hidden, inputs=unchanged, chunk=128):
        """log p(tokens[i] | tokens[:i]) for i = 1 .. n-1, as float64, from H_o of the same tokens."""
        tokens, hidden = np.asarray(tokens), hidden[:-1]
        out = []
        for begin in range(0, len(hidden), chunk):
            logits = self.logits(hidden[begin:begin + chunk], inputs).astype(np.float64)
            out.append(log_softmax(logits)[np.arange(len(logits)), tokens[begin + 1:begin + 1 + len(logits)]])
        return np.concatenate(out)
