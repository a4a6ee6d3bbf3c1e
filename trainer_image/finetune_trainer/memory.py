"""Predict the peak GPU memory of a training step, term by term. Pure; called by :mod:`finetune_trainer.plan`.

Counts what autograd keeps in the decoder of transformers (RMSNorm, scaled dot-product attention, gated feed-forward)
under bfloat16 autocast, with PEFT's LoRA layers and TRL's tiled output layer, as the train stage runs them. All
sizes are bytes. Measured against an H200 in docs/benchmarks.md; benchmarks/memory.py repeats the measurement.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from finetune_api.v1alpha1.adapter import AdapterType

DECODERS = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Model types whose decoder layer is the one counted here, plain and by :mod:`finetune_trainer.kernels`."""
LINEARS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
"""Names of the layer's linears."""
QK_NORM = frozenset({"qwen3"})
QKV_BIAS = frozenset({"qwen2"})

FP32, BF16 = 4, 2
ADAM_BYTES = {"AdamW": 8.0, "AdamW8bit": 2 + 8 / 256}
"""Optimiser state per trained weight: two moments in float32, or in 8 bits with a float32 scale each for 256 of them."""
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Per weight: 4 bits, a doubly quantised scale per 64 weights, a float32 scale per 256 of those (QLoRA, arXiv:2305.14314)."""
CUBLAS_WORKSPACE = 68 * 2**20
LOGIT_TILE = 4096 * 32768 * BF16
"""TRL computes logits in tiles of 4096 tokens by 32768 vocabulary entries."""
FRAGMENTATION_FULL, FRAGMENTATION_ADAPTER, FRAGMENTATION_FUSED, FRAGMENTATION_KEPT = 0.08, 0.12, 0.08, 0.008
"""Of Full, of adapters, of those with fused kernels, and of all without recomputation: what the allocator holds beyond what is used, measured with expandable segments: with recomputation, a share of what comes
and goes in a step; without it, of everything."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int
    tied: bool
    """Whether the output layer is the embedding."""
    qk_norm: bool = False
    qkv_bias: bool = False

    @property
    def query(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_size

    @property
    def key_value(self) -> int:
        """Width of all key (or value) heads."""
        return self.key_value_heads * self.head_size

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(in, out) of a layer's q, k, v, o, gate, up and down."""
        h, q, kv, f = self.hidden, self.query, self.key_value, self.intermediate
        return [(h, q), (h, kv), (h, kv), (q, h), (h, f), (h, f), (f, h)]

    @property
    def linear_weights(self) -> int:
        """Weights of all decoder layers' linears."""
        return self.layers * sum(wide * out for wide, out in self.linears)

    @property
    def other_weights(self) -> int:
        """Embedding, output layer, norms and biases."""
        norms = 2 * self.hidden + (2 * self.head_size if self.qk_norm else 0)
        bias = self.query + 2 * self.key_value if self.qkv_bias else 0
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.hidden + self.layers * (norms + bias)

    @property
    def weights(self) -> int:
        """All parameters."""
        return self.linear_weights + self.other_weights


def shape_of(config: Any) -> Shape | None:
    """Of a transformers configuration; None where the architecture is not one that is counted here."""
    if config.model_type not in DECODERS or getattr(config, "hidden_act", "silu") != "silu":
        return None
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Shape(
        config.hidden_size,
        config.intermediate_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.num_key_value_heads or config.num_attention_heads,
        head,
        config.vocab_size,
        bool(config.tie_word_embeddings),
        config.model_type in QK_NORM,
        config.model_type in QKV_BIAS or bool(getattr(config, "attention_bias", False)),
    )


@dataclass(frozen=True)
class Load:
    """What a step is made of."""

    adapter: AdapterType
    length: int
    """Tokens of a row."""
    rows: int
    """Of a micro batch."""
    recompute: bool
    """Gradient checkpointing of every layer."""
    accumulation: int = 1
    rank: int = 16
    dropout: float = 0.0
    optimizer: Literal["AdamW", "AdamW8bit"] = "AdamW"
    fused: bool = False
    """Norms, rotary positions and the gate by :mod:`finetune_trainer.kernels`."""

    @property
    def tokens(self) -> int:
        """Of a micro batch."""
        return self.rows * self.length


class Memory(NamedTuple):
    """Peak of a step on one GPU, by what takes it."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """Kept for the backward pass, and the widest layer's temporaries."""
    logits: int
    """Output layer: tiles, and gradients of its input."""
    allocated: int
    """All of it: torch.cuda.max_memory_allocated."""
    reserved: int
    """What the allocator holds: torch.cuda.max_memory_reserved."""


COUNTED = frozenset({"Full", "LoRA", "RsLoRA", "LoraPlus", "QLoRA", "DoRA"})


def predict(shape: Shape, load: Load) -> Memory | None:
    """The peak; None for adapters that are not counted (QDoRA, IA3, Prefix, Prompt)."""
    if load.adapter not in COUNTED:
        return None
    trained = trained_weights(shape, load)
    weights = _weights(shape, load, trained) + CUBLAS_WORKSPACE
    optimizer = _moments(shape, load, trained)
    gradients = trained * FP32
    per_layer = _kept_per_layer(shape, load) * load.tokens
    kept = _kept(shape, load, per_layer, trained)
    logits = LOGIT_TILE + 8 * shape.hidden * load.tokens
    if load.adapter == "Full":
        logits += shape.vocabulary * shape.hidden * FP32 + 32768 * shape.hidden * BF16
    during = max(_temporaries(shape, load, per_layer), _cast(shape, load, trained))
    # Early in the backward pass everything is kept and the gradients are few; late it is the other way round.
    before = gradients if load.accumulation > 1 else 0
    early = before + kept + max(logits, during)
    late = gradients + _last(shape, load, per_layer)
    peak = max(early, late)
    shown = (gradients, peak - gradients, 0) if late >= early else (before, kept + during, max(0, logits - during))
    allocated = weights + optimizer + peak
    of_adapter = FRAGMENTATION_FUSED if load.fused else FRAGMENTATION_ADAPTER
    share = FRAGMENTATION_FULL if load.adapter == "Full" else of_adapter
    spare = peak * share if load.recompute else allocated * FRAGMENTATION_KEPT
    return Memory(weights, shown[0], optimizer, shown[1], shown[2], allocated, allocated + int(spare))


def _moments(shape: Shape, load: Load, trained: int) -> int:
    """transformers keeps those of embeddings in float32."""
    embeddings = shape.vocabulary * shape.hidden if load.adapter == "Full" else 0
    return int(embeddings * ADAM_BYTES["AdamW"] + (trained - embeddings) * ADAM_BYTES[load.optimizer])


def trained_weights(shape: Shape, load: Load) -> int:
    """How many weights learn; DoRA's magnitudes included."""
    if load.adapter == "Full":
        return shape.weights
    magnitudes = sum(out for _, out in shape.linears) if load.adapter == "DoRA" else 0
    return shape.layers * (load.rank * sum(wide + out for wide, out in shape.linears) + magnitudes)


def flops_per_token(shape: Shape, load: Load) -> float:
    """Floating-point operations of a token's step, recomputation included; attention is causal.

    Full 6N + 3A; a frozen base 4N + 3A + 6P for P adapter weights: it needs no gradient of its own. Recomputing adds the
    forward pass of the layers (Kaplan et al., arXiv:2001.08361, and PaLM's appendix B, arXiv:2204.02311).
    """
    attention = 2 * shape.layers * shape.query * load.length
    layers, head = shape.linear_weights, shape.vocabulary * shape.hidden
    again = 2 * layers + attention if load.recompute else 0
    if load.adapter == "Full":
        return 6 * (layers + head) + 3 * attention + again
    return 4 * (layers + head) + 3 * attention + 6 * trained_weights(shape, load) + again


def _weights(shape: Shape, load: Load, trained: int) -> int:
    if load.adapter == "Full":
        return shape.weights * FP32
    per_linear = NF4_BYTES if load.adapter.startswith("Q") else BF16
    return int(shape.linear_weights * per_linear) + shape.other_weights * BF16 + trained * FP32


def _kept_per_layer(shape: Shape, load: Load) -> int:
    """Bytes per token that a layer's forward pass keeps."""
    h, q, kv, f = shape.hidden, shape.query, shape.key_value, shape.intermediate
    attention = 4 * q + 4 * kv + 4 * shape.heads  # rotated queries and keys, values, output, log-sum-exp
    gated = 4 * f if load.fused else 6 * f  # gate and up; plain, the gate's activation too
    normed = 2 if load.fused else 4  # plain, a norm keeps a float32 copy of its bfloat16 input
    norms = 8 + (normed * (q + kv) + 4 * (shape.heads + shape.key_value_heads) if shape.qk_norm else 0)
    if load.adapter == "Full":
        # Float32 residual of both norms, plain also normalised; a bfloat16 copy for each of q, k, v, gate, up, down.
        return (8 if load.fused else 16) * h + 10 * h + attention + gated + 2 * f + norms
    inputs = 4 * h + 2 * f  # of q, k, v together, of gate and up together, of down; o's is the attention's output
    if load.adapter == "DoRA":  # computes in float32: a copy for every linear
        inputs = 10 * h + 2 * q + 2 * f
    if load.dropout:  # a copy and a mask for every linear
        inputs = 3 * (5 * h + q + f)
    middle = 2 * load.rank * len(shape.linears)
    kept = 2 * normed * h + attention + gated + inputs + middle + norms
    if load.adapter == "DoRA":  # the plain and the low-rank output of every linear
        kept += 4 * sum(out for _, out in shape.linears)
        if load.dropout:
            kept += 2 * (q + 2 * kv + 2 * h)
    return kept


def _kept(shape: Shape, load: Load, per_layer: int, trained: int) -> int:
    """Everything kept when the backward pass begins."""
    h = shape.hidden
    full = load.adapter == "Full"
    after = (12 if full else 6) * h * load.tokens  # last norm, and its output for the output layer
    if load.recompute:
        return shape.layers * (4 if full else 2) * h * load.tokens + after
    copies = BF16 * (shape.linear_weights if full else trained)  # autocast's, kept by autograd
    first = 0 if full else 4 * h * load.tokens  # nothing before the first adapter needs a gradient
    return shape.layers * per_layer + after - first + copies


def _temporaries(shape: Shape, load: Load, per_layer: int) -> int:
    """Of the widest moment in a layer's backward pass."""
    widest = max(wide * out for wide, out in shape.linears)
    matrices = {"QLoRA": widest * BF16, "DoRA": 3 * widest * FP32}.get(
        load.adapter, 0
    )  # dequantised; low-rank product and norms
    if not load.recompute:
        return matrices
    wide = {"Full": 4, "QLoRA": 2, "DoRA": 13}.get(load.adapter, 3)  # bytes per feed-forward unit, measured
    return per_layer + wide * shape.intermediate * load.tokens + matrices


def _cast(shape: Shape, load: Load, trained: int) -> int:
    """When a forward pass ends that keeps nothing of its layers: autocast's copies of what learns, until it is left, and the first tile."""
    if not load.recompute:
        return 0  # kept by autograd
    copies = BF16 * (shape.linear_weights if load.adapter == "Full" else trained)
    return copies + LOGIT_TILE + 8 * shape.hidden * load.tokens


def _last(shape: Shape, load: Load, per_layer: int) -> int:
    """At the end of the backward pass: the first layer, then, where it is the output layer too, the embedding's gradient."""
    layer = (per_layer if load.recompute else 0) + 4 * shape.intermediate * load.tokens
    if load.adapter != "Full":
        return layer
    return max(layer, shape.vocabulary * shape.hidden * FP32 if shape.tied else 0)
