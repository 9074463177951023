"""What a decoder transformer looks like: one frozen record for every family that is known here.

`jaxrl.llm.hf_read` and `hf_write` read and write it as the `config.json` of Hugging Face folders.
"""

from __future__ import annotations

import dataclasses

MANY = 10_000
"""No model has as many layers, or experts in one of them."""


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary positions: how far each pair of numbers turns per position, and its scaling for
    contexts that are longer than those of the training."""

    dims: int
    """Numbers of a head that are turned; the others stay."""
    base: float = 10_000.0
    kind: str = "default"
    """default, linear, dynamic, llama3, yarn or longrope"""
    factor: float = 1.0
    trained: int = 0
    """Positions before the scaling."""
    attention_factor: float = 1.0
    """Multiplies the turned numbers (yarn, longrope)."""
    low: float = 1.0
    """llama3: low_freq_factor; yarn: beta_slow"""
    high: float = 4.0
    """llama3: high_freq_factor; yarn: beta_fast"""
    truncate: bool = True
    """yarn: bounds of the ramp are whole numbers"""
    short: tuple[float, ...] = ()
    """longrope: a factor per pair, for contexts up to `trained`"""
    long: tuple[float, ...] = ()
    """longrope: a factor per pair, for longer contexts"""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and choices of a decoder transformer. The defaults are those of a small Llama."""

    vocab: int
    width: int
    layers: int
    heads: int
    hidden: int
    """Width inside the feed-forward part."""
    family: str = "llama"
    """The `model_type` that files are written for."""
    kv_heads: int = 0
    """Heads of keys and values; 0: as many as `heads`."""
    head_dim: int = 0
    """0: width / heads"""
    max_positions: int = 2048
    rope: Rope | None = None
    """None: a table of learned positions instead"""
    local_rope: Rope | None = None
    """For the layers with a window, where it differs (Gemma 3)"""
    windows: tuple[int, ...] = ()
    """Positions each layer looks back, itself included; 0: all of them. Empty: all 0."""
    norm: str = "rms"
    """rms, rms1 (multiplied by 1 + weight) or layer"""
    norm_eps: float = 1e-6
    norm_places: str = "pre"
    """pre, post (OLMo 2: on the output of a part) or both (Gemma 2 and 3)"""
    parallel: bool = False
    """Attention and feed-forward read the same input (GPT-NeoX)."""
    qk_norm: str = ""
    """head: queries and keys are normalised per head; all: over all heads"""
    activation: str = "silu"
    """silu, gelu, gelu_tanh or relu"""
    gated: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    attention_scale: float = 0.0
    """0: 1 / sqrt(head_dim)"""
    attention_cap: float = 0.0
    """Scores pass cap * tanh(score / cap); 0: they do not"""
    final_cap: float = 0.0
    embed_scale: float = 1.0
    tied: bool = False
    """The head is the transposed embedding."""
    experts: int = 0
    """In the layers that are mixtures; 0: there are none"""
    experts_per_token: int = 0
    expert_hidden: int = 0
    experts_normalised: bool = True
    """The chosen experts' weights add up to one."""
    dense_layers: tuple[int, ...] = ()
    """Layers of a mixture that are not mixed"""
    bos: int | None = None
    eos: tuple[int, ...] = ()
    pad: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("kv_heads", self.heads), ("head_dim", self.width // self.heads)):
            if not getattr(self, name):
                object.__setattr__(self, name, value)
        if not self.windows:
            object.__setattr__(self, "windows", (0,) * self.layers)
        if not self.attention_scale:
            object.__setattr__(self, "attention_scale", self.head_dim**-0.5)
        if len(self.windows) != self.layers:
            raise ValueError(f"windows: {len(self.windows)} values, but {self.layers} layers.")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} heads of keys.")

    def mixed(self, layer: int) -> bool:
        """Whether the layer's feed-forward part is a mixture of experts."""
        return self.experts > 0 and layer not in self.dense_layers
