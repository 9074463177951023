"""The `config.json` of Hugging Face folders, with the names that transformers 4 or 5 gives things.

`jaxrl.llm.hf_write` writes one that both versions read.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from jaxrl.llm.config import MANY, Config, Rope
from jaxrl.tensors import FileRefused, refuse

Json = Any

LLAMA: dict[str, Json] = {
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "sliding_window": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
"""Keys of `config.json` and what is meant where one is missing."""

GEMMA = {
    **LLAMA,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
GEMMA2 = {**GEMMA, "num_key_value_heads": 4, "query_pre_attn_scalar": 256, "sliding_window": 4096}
QWEN = {**LLAMA, "num_key_value_heads": 32, "max_position_embeddings": 32768,
        "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}  # fmt: skip
EXPERTS = ("num_local_experts", "num_experts")
MIXED = {"num_experts_per_tok": 2, "num_local_experts": 8}

FAMILIES: dict[str, dict[str, Json]] = {
    "gpt2": {
        "n_inner": None, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
        "n_positions": 1024, "tie_word_embeddings": True, "bos_token_id": 50256,
        "eos_token_id": 50256, "pad_token_id": None,
    },
    "gpt_neox": {
        **LLAMA, "hidden_act": "gelu", "layer_norm_eps": 1e-5, "rotary_pct": 0.25,
        "rotary_emb_base": 10_000.0, "use_parallel_residual": True, "attention_bias": True,
        "bos_token_id": 0, "eos_token_id": 2,
    },
    "llama": {**LLAMA, "bos_token_id": 1, "eos_token_id": 2},
    "mistral": {**LLAMA, "num_key_value_heads": 8, "max_position_embeddings": 4096 * 32,
                "sliding_window": 4096, "bos_token_id": 1, "eos_token_id": 2},
    "mixtral": {**LLAMA, **MIXED, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
                "max_position_embeddings": 4096 * 32, "rope_theta": 1e6, "bos_token_id": 1,
                "eos_token_id": 2},
    "qwen2": QWEN,
    "qwen3": {**QWEN, "head_dim": 128},
    "qwen3_moe": {**QWEN, "num_experts_per_tok": 8, "num_experts": 128,
                  "num_key_value_heads": 4, "moe_intermediate_size": 768,
                  "norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": None},
    "gemma": GEMMA,
    "gemma2": {**GEMMA2, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3_text": {**GEMMA2, "max_position_embeddings": 131_072, "rope_theta": 1e6,
                    "rope_local_base_freq": 10_000.0, "sliding_window_pattern": 6},
    "phi3": {**LLAMA, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096,
             "original_max_position_embeddings": 4096, "partial_rotary_factor": 1.0,
             "bos_token_id": 1, "eos_token_id": 32000, "pad_token_id": 32000},
    "olmo2": {**LLAMA, "rms_norm_eps": 1e-5, "eos_token_id": 50279, "pad_token_id": 1},
}  # fmt: skip
"""The families known here, by `model_type`."""

GPT2_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}

UNSUPPORTED: dict[str, tuple[Json, ...]] = {
    "quantization_config": (None,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "use_bidirectional_attention": (None, False),
    "is_encoder_decoder": (False,),
    "clip_qkv": (None,),
}
"""Keys of which only these values can be had."""

ROPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


def config_from_hf(data: Mapping[str, Json], where: object = "config.json") -> Config:
    """The configuration that a `config.json` describes. `where` is what errors call it."""
    family = data.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        refuse(where, f"its model_type is {str(family)[:60]!r}; known are {', '.join(FAMILIES)}")
    for key, values in UNSUPPORTED.items():
        if key in data and data[key] not in values:
            refuse(where, f"{key} is {str(data[key])[:60]}, which is not supported")
    try:
        return _config(family, {**FAMILIES[family], **data}, where)
    except FileRefused:
        raise
    except (ValueError, TypeError, AttributeError, KeyError, ArithmeticError) as error:
        refuse(where, f"its settings make no sense ({type(error).__name__}: {str(error)[:100]})")


def _config(family: str, d: Mapping[str, Json], where: object) -> Config:
    def whole(key: str) -> int:
        key = GPT2_NAMES.get(key, key) if family == "gpt2" else key
        value = d.get(key)
        if type(value) is not int or value <= 0:
            refuse(where, f"{key} is {str(value)[:60]!r}, not a positive whole number")
        return value

    heads, width, layers = (
        whole(key) for key in ("num_attention_heads", "hidden_size", "num_hidden_layers")
    )
    if layers > MANY or max(d.get(key) or 0 for key in EXPERTS) > MANY:
        refuse(where, f"it has {layers:,} layers, and experts beyond counting")
    act = d.get("hidden_activation") or d.get("activation_function") or d.get("hidden_act")
    if family == "gemma" and act == "gelu":  # in the first files; the tanh form was always meant
        act = "gelu_pytorch_tanh"
    if act not in ACTIVATIONS:
        refuse(where, f"its activation is {act!r}; known are {', '.join(ACTIVATIONS)}")
    eos = d["eos_token_id"]
    chosen: dict[str, Json] = dict(
        vocab=whole("vocab_size"),
        width=width,
        layers=layers,
        heads=heads,
        family=family,
        max_positions=whole("max_position_embeddings"),
        activation=ACTIVATIONS[act],
        tied=bool(d["tie_word_embeddings"]),
        bos=d["bos_token_id"],
        eos=() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
        pad=d["pad_token_id"],
    )
    if family == "gpt2":
        return Config(
            **chosen,
            hidden=d["n_inner"] or 4 * width,
            norm="layer",
            norm_eps=d["layer_norm_epsilon"],
            gated=False,
            qkv_bias=True,
            out_bias=True,
            mlp_bias=True,
        )
    chosen.update(
        hidden=whole("intermediate_size"),
        kv_heads=d["num_key_value_heads"] or 0,
        head_dim=d["head_dim"] or width // heads,
        norm_eps=d.get("layer_norm_eps") or d["rms_norm_eps"],
        windows=_windows(d, family, layers),
        qkv_bias=d["attention_bias"] or family == "qwen2",
        out_bias=d["attention_bias"],
        mlp_bias=d["mlp_bias"],
    )
    chosen.update(_ropes(d, family, chosen["head_dim"], where))
    if family == "gpt_neox":
        chosen.update(norm="layer", gated=False, mlp_bias=True, kv_heads=heads)
        chosen.update(parallel=d["use_parallel_residual"])
    if family in ("qwen3", "qwen3_moe", "gemma3_text"):
        chosen.update(qk_norm="head")
    if family == "olmo2":
        chosen.update(qk_norm="all", norm_places="post")
    if family.startswith("gemma"):
        chosen.update(norm="rms1", embed_scale=math.sqrt(width))
    if family in ("gemma2", "gemma3_text"):
        chosen.update(
            norm_places="both",
            attention_scale=d["query_pre_attn_scalar"] ** -0.5,
            attention_cap=d.get("attn_logit_softcapping") or 0.0,
            final_cap=d.get("final_logit_softcapping") or 0.0,
        )
    if family in ("mixtral", "qwen3_moe"):
        step, only = d.get("decoder_sparse_step", 1), d.get("mlp_only_layers") or ()
        chosen.update(
            experts=whole(next(key for key in EXPERTS if key in d)),
            experts_per_token=whole("num_experts_per_tok"),
            expert_hidden=d.get("moe_intermediate_size", chosen["hidden"]),
            experts_normalised=d.get("norm_topk_prob", True),
            dense_layers=tuple(n for n in range(layers) if n in only or (n + 1) % step),
        )
    return Config(**chosen)


def _windows(d: Mapping[str, Json], family: str, layers: int) -> tuple[int, ...]:
    """How far each layer looks back; 0: all the way."""
    window = d["sliding_window"] if d.get("use_sliding_window", True) else None
    if not window or family in ("llama", "gemma", "olmo2", "gpt_neox"):
        return (0,) * layers
    kinds = d.get("layer_types")
    if kinds is None and family in ("qwen2", "qwen3"):
        return tuple(window if n >= d["max_window_layers"] else 0 for n in range(layers))
    if kinds is None and family in ("gemma2", "gemma3_text"):
        pattern = d.get("sliding_window_pattern") or 2
        return tuple(window if (n + 1) % pattern else 0 for n in range(layers))
    if kinds is None or family not in ("qwen2", "qwen3", "gemma2", "gemma3_text"):
        return (window,) * layers
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


def _ropes(d: Mapping[str, Json], family: str, head: int, where: object) -> dict[str, Json]:
    """-> rope and local_rope"""
    new: Mapping[str, Json] = d.get("rope_parameters") or {}
    old: Mapping[str, Json] = d.get("rope_scaling") or {}
    base = d["rotary_emb_base"] if family == "gpt_neox" else d["rope_theta"]
    if family == "gemma3_text":  # one for each kind of layer
        full = {"rope_theta": base, **(new.get("full_attention") or {}), **old}
        near = {"rope_theta": d["rope_local_base_freq"], **(new.get("sliding_attention") or {})}
        return dict(
            rope=_rope(full, d, family, head, where), local_rope=_rope(near, d, family, head, where)
        )
    return dict(rope=_rope({"rope_theta": base, **(old or new)}, d, family, head, where))


def _rope(
    r: Mapping[str, Json], d: Mapping[str, Json], family: str, head: int, where: object
) -> Rope:
    kind = r.get("rope_type", r.get("type", "default"))
    if family == "phi3" and kind in ("su", "yarn"):  # names of the first files
        kind = "longrope"
    if kind not in ROPES:
        refuse(where, f"its rope_type is {kind!r}; known are {', '.join(ROPES)}")
    part = r.get("partial_rotary_factor", d.get("rotary_pct", d.get("partial_rotary_factor", 1.0)))
    if part != 1.0 and family not in ("gpt_neox", "phi3"):
        refuse(where, f"partial_rotary_factor is {part}, which {family} does not have")
    dims, longest = int(head * part), d["max_position_embeddings"]
    rope = Rope(dims=dims, base=float(r["rope_theta"]), kind=kind)
    if kind == "default":
        return rope

    def number(key: str, otherwise: float | None = None) -> float:
        value = r.get(key)
        value = otherwise if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float):
            refuse(where, f"rope type {kind} needs the number {key}, not {value!r}")
        return float(value)

    if kind in ("linear", "dynamic"):
        return dataclasses.replace(rope, factor=number("factor"), trained=longest)
    trained = r.get("original_max_position_embeddings") or longest
    trained = d.get("original_max_position_embeddings") or trained
    factor = number("factor", longest / trained)
    if kind == "llama3":
        return dataclasses.replace(
            rope,
            factor=factor,
            trained=trained,
            low=number("low_freq_factor"),
            high=number("high_freq_factor"),
        )
    if kind == "yarn":
        scales: list[Json] = [r.get("mscale"), r.get("mscale_all_dim")]
        usual = _yarn_scale(factor, 1.0)
        if all(scales):
            usual = _yarn_scale(factor, scales[0]) / _yarn_scale(factor, scales[1])
        return dataclasses.replace(
            rope,
            factor=factor,
            trained=trained,
            attention_factor=number("attention_factor", usual),
            low=r.get("beta_slow") or 1.0,
            high=r.get("beta_fast") or 32.0,
            truncate=r.get("truncate", True),
        )
    usual = math.sqrt(1 + math.log(factor) / math.log(trained)) if factor > 1 else 1.0
    factors: dict[str, tuple[float, ...]] = {}
    for name in ("short", "long"):
        given = r.get(f"{name}_factor")
        if not isinstance(given, list) or len(given) != dims // 2:
            refuse(where, f"longrope needs a list of {dims // 2} numbers as {name}_factor")
        factors[name] = tuple(float(x) for x in given)
    return dataclasses.replace(
        rope,
        factor=factor,
        trained=trained,
        attention_factor=number("attention_factor", usual),
        **factors,
    )


def _yarn_scale(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0
