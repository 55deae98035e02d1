"""What a decoder-only transformer is made of, as frozen data.

One definition serves every supported family: a family is a choice of parts (where the
norms stand, which layers see a window, how positions rotate), not code of its own.
"""

from dataclasses import dataclass
from typing import Literal

# Attention projections that have a bias, by ModelConfig.attention_bias.
BIASED: dict[str, tuple[str, ...]] = {
    "none": (),
    "qkv": ("query", "key", "value"),
    "qkvo": ("query", "key", "value", "output"),
}
# Norms of a branch, by ModelConfig.norms: before it, after it, or on both sides.
NORMS: dict[str, tuple[str, ...]] = {
    "before": ("attention_norm", "mlp_norm"),
    "after": ("attention_post_norm", "mlp_post_norm"),
    "both": ("attention_norm", "attention_post_norm", "mlp_norm", "mlp_post_norm"),
}
ACTIVATIONS = ("silu", "gelu", "gelu_tanh")


@dataclass(frozen=True)
class LinearRope:
    """Positions divided by `factor` before they rotate (rope_type "linear")."""

    factor: float


@dataclass(frozen=True)
class Llama3Rope:
    """Llama 3.1's frequencies (rope_type "llama3").

    With wavelength w = 2 pi / frequency and n the original context: unchanged where
    w < n / high_freq_factor, divided by `factor` where w > n / low_freq_factor, and in
    between the mix of both with weight (n / w - low) / (high - low) on the unchanged.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class Experts:
    """A mixture of experts in place of the MLP: `per_token` of `count`, dropless.

    Weights are softmax over all experts in float32; `normalize` divides those of the
    chosen by their sum.
    """

    count: int
    per_token: int
    normalize: bool = True


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer; the defaults are a 0.2 M parameter Llama.

    Names are those of a Hugging Face config where it has one. Raises ValueError, in
    one line, for what does not fit together.

    family            `model_type` of the config.json that `save_pretrained` writes
    attention_bias    biased attention projections: none, qkv (Qwen2), qkvo
    mlp_bias          biases in the MLP
    activation        of the gate: silu, gelu, gelu_tanh
    norms             RMSNorms before each branch (Llama), after (OLMo2), both (Gemma2)
    norm_offset       added to every norm's scale: 1.0 in Gemma, whose scales start at 0
    qk_norm           RMSNorm on queries and keys: none, head (each head by itself:
                      Qwen3), width (all heads as one vector: OLMo2)
    rope_scaling      of layers that see everything
    rotary_dim        leading entries of a head that rotate; None: all
    local_rope_theta  base of windowed layers, unscaled (Gemma3); None: as the others
    no_rope_layers    layers whose positions do not rotate (SmolLM3)
    layer_types       full or sliding, for each layer; empty: all full
    sliding_window    tokens that a sliding layer sees, the query's own included
    attention_scale   factor of q.k; None: head_dim ** -0.5
    attention_softcap c tanh(x / c) on attention scores; None: none
    logit_softcap     the same on logits
    embedding_scale   factor of the embeddings (Gemma: hidden_size ** 0.5)
    experts           mixture of experts of intermediate_size; None: one MLP
    """

    vocab_size: int
    hidden_size: int = 64
    intermediate_size: int = 192
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 16
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = True
    max_position_embeddings: int = 512
    attention_bias: Literal["none", "qkv", "qkvo"] = "none"
    mlp_bias: bool = False
    activation: Literal["silu", "gelu", "gelu_tanh"] = "silu"
    norms: Literal["before", "after", "both"] = "before"
    norm_offset: float = 0.0
    qk_norm: Literal["none", "head", "width"] = "none"
    rope_scaling: LinearRope | Llama3Rope | None = None
    rotary_dim: int | None = None
    local_rope_theta: float | None = None
    no_rope_layers: tuple[int, ...] = ()
    layer_types: tuple[Literal["full", "sliding"], ...] = ()
    sliding_window: int | None = None
    attention_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    embedding_scale: float = 1.0
    experts: Experts | None = None
    family: str = "llama"

    def __post_init__(self) -> None:
        _check_sizes(self)
        _check_choices(self)
        _check_layers(self)

    @property
    def windows(self) -> tuple[int | None, ...]:
        """Tokens that each layer sees, None for all before."""
        if not self.layer_types:
            return (None,) * self.num_hidden_layers
        return tuple(
            self.sliding_window if kind == "sliding" else None
            for kind in self.layer_types
        )

    @property
    def rotations(self) -> tuple[Literal["none", "global", "local"], ...]:
        """How positions rotate in each layer."""

        def kind(layer: int, window: int | None) -> Literal["none", "global", "local"]:
            if layer in self.no_rope_layers:
                return "none"
            local = window is not None and self.local_rope_theta is not None
            return "local" if local else "global"

        return tuple(kind(i, window) for i, window in enumerate(self.windows))


def _refuse(name: str, value: object, write: str) -> None:
    raise ValueError(f"ModelConfig.{name} is {value!r}; {write}")


def _check_sizes(config: ModelConfig) -> None:
    for name in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "head_dim",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
    ):
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            _refuse(name, value, "give a positive integer")
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    if heads % groups:
        what = f"give a divisor of num_attention_heads ({heads})"
        _refuse("num_key_value_heads", groups, what)
    if config.head_dim % 2:
        what = "rotary positions rotate pairs, give an even number"
        _refuse("head_dim", config.head_dim, what)
    rotary = config.rotary_dim
    if rotary is not None and (rotary % 2 or not 0 < rotary <= config.head_dim):
        what = f"give an even number up to head_dim ({config.head_dim}), or None"
        _refuse("rotary_dim", rotary, what)
    for name in (
        "rope_theta",
        "rms_norm_eps",
        "embedding_scale",
        "local_rope_theta",
        "attention_scale",
        "attention_softcap",
        "logit_softcap",
    ):
        value = getattr(config, name)
        if value is not None and not value > 0:
            _refuse(name, value, "give a number > 0")


def _check_choices(config: ModelConfig) -> None:
    for name, choices in (
        ("attention_bias", tuple(BIASED)),
        ("norms", tuple(NORMS)),
        ("activation", ACTIVATIONS),
        ("qk_norm", ("none", "head", "width")),
    ):
        value = getattr(config, name)
        if value not in choices:
            _refuse(name, value, f"give one of {', '.join(choices)}")
    experts = config.experts
    if experts is not None and not 1 <= experts.per_token <= experts.count:
        what = f"give 1 to {experts.count} experts per token"
        _refuse("experts.per_token", experts.per_token, what)
    if experts is not None and config.mlp_bias:
        _refuse("mlp_bias", True, "experts have no biases, give False")


def _check_layers(config: ModelConfig) -> None:
    layers, types = config.num_hidden_layers, config.layer_types
    if types and len(types) != layers:
        _refuse("layer_types", types, f"give one type per layer ({layers}), or none")
    unknown = sorted(set(types) - {"full", "sliding"})
    if unknown:
        _refuse("layer_types", unknown[0], "give full or sliding")
    window = config.sliding_window
    if ("sliding" in types) != (window is not None):
        what = "give a window if and only if layer_types holds a sliding layer"
        _refuse("sliding_window", window, what)
    if window is not None and (not isinstance(window, int) or window < 1):
        _refuse("sliding_window", window, "give a positive integer")
    if config.local_rope_theta is not None and window is None:
        what = "no layer has a window, give None"
        _refuse("local_rope_theta", config.local_rope_theta, what)
    for layer in config.no_rope_layers:
        if not 0 <= layer < layers:
            _refuse("no_rope_layers", layer, f"give layers in [0, {layers})")
