"""Low-rank adapters (Hu et al. 2021): a frozen model plus, in chosen linear maps, a product a b of
two thin matrices that is trained in its place.

    tuned = adapt(key, lm.params, rank=8)
    logits, _ = lm.network.apply(variables(tuned), tokens)      # generate and score take it as well
    gradient = jax.grad(lambda lora: loss(tuned.with_lora(lora)))(tuned.lora)
    params = merge(tuned)
    save_adapter(tuned, lm.config, "folder")                    # as PEFT lays it out

Without the adapters it is the model that it was: `tuned.base` is the reference, not a second copy.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.llm.config import Config
from jaxrl.llm.layout import flatten, layout, nest, transposed
from jaxrl.llm.shards import Shards, write
from jaxrl.struct import static, struct
from jaxrl.tensors import Array, put, refuse, strict_json

ATTENTION = ("query", "key", "value", "out")
FORWARD = ("gate", "up", "down")


@struct
class Adapted:
    """Parameters of a model with adapters; wherever `params` is asked for, this will do."""

    base: Any
    lora: Any
    """{"blocks_0": {"attention": {"query": {"a": [in, rank], "b": [rank, out]}}}}"""
    scale: float = static("what the products are multiplied by: alpha / rank")
    rank: int = static()

    def with_lora(self, lora: Any) -> Adapted:
        return dataclasses.replace(self, lora=lora)


def adapt(
    key: jax.Array,
    params: Any,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    targets: Sequence[str] = (*ATTENTION, *FORWARD),
) -> Adapted:
    """Adapters that change nothing yet: `a` is random and `b` zero."""
    flat = flatten(params)
    places = [path.removesuffix("/kernel") for path in flat if path.endswith("/kernel")]
    chosen = [place for place in places if place.split("/")[-1] in targets]
    unknown = set(targets) - {place.split("/")[-1] for place in chosen}
    if unknown:
        raise ValueError(f"This model has no linear map called {sorted(unknown)[0]!r}.")
    lora: dict[str, jax.Array] = {}
    for place, k in zip(chosen, jax.random.split(key, len(chosen)), strict=True):
        inner, outer = flat[f"{place}/kernel"].shape
        bound = inner**-0.5
        lora[f"{place}/a"] = jax.random.uniform(k, (inner, rank), minval=-bound, maxval=bound)
        lora[f"{place}/b"] = jnp.zeros((rank, outer))
    return Adapted(params, nest(lora), alpha / rank, rank)


def variables(params: Any) -> dict[str, Any]:
    """What `network.apply` wants, of plain parameters or of adapted ones."""
    if not isinstance(params, Adapted):
        return {"params": params}
    flat = flatten(params.lora)
    scaled = {p: x * params.scale if p.endswith("/b") else x for p, x in flat.items()}
    return {"params": jax.lax.stop_gradient(params.base), "lora": nest(scaled)}


def merge(tuned: Adapted) -> Any:
    """Plain parameters that give the same, in the dtypes of the base; of a quantised one, changed
    maps are float32."""
    flat, lora = flatten(tuned.base), flatten(tuned.lora)
    for place in [path[:-2] for path in lora if path.endswith("/a")]:
        product = jnp.dot(lora[f"{place}/a"], lora[f"{place}/b"], precision="highest")
        kernel = flat[f"{place}/kernel"]
        changed = kernel.astype(jnp.float32) + product * tuned.scale
        flat[f"{place}/kernel"] = changed.astype(kernel.dtype)
    return nest(flat)


# ------------------------------------------------------------------------------------------ files


def _names(config: Config) -> dict[str, str]:
    """Path of a linear map -> its name in the files; not those that share a tensor with others."""
    entries = [e for e in layout(config) if e.pack is transposed and e.paths != ("output",)]
    return {e.paths[0].removesuffix("/kernel"): e.names[0].removesuffix(".weight") for e in entries}


def save_adapter(tuned: Adapted, config: Config, folder: str | Path) -> Path:
    """adapter_config.json and adapter_model.safetensors, as PEFT reads them."""
    folder, names = Path(folder), _names(config)
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Array] = {}
    for path, x in flatten(tuned.lora).items():
        place, half = path.rsplit("/", 1)
        if place not in names:
            why = f"{place} is part of a larger tensor in the files of {config.family}"
            raise ValueError(f"{why}: merge the adapters, and save the model.")
        tensors[f"base_model.model.{names[place]}.lora_{half.upper()}.weight"] = np.asarray(x).T
    modules = {name.split(".")[-3] for name in tensors}
    settings = dict(
        peft_type="LORA",
        task_type="CAUSAL_LM",
        r=tuned.rank,
        lora_alpha=tuned.scale * tuned.rank,
        target_modules=sorted(modules),
        lora_dropout=0.0,
        bias="none",
        fan_in_fan_out=False,
        inference_mode=True,
    )
    write(
        folder / "adapter_model.safetensors",
        [(name, x.dtype, x.shape, lambda x=x: x) for name, x in tensors.items()],
    )
    put(folder / "adapter_config.json", (json.dumps(settings, indent=2) + "\n").encode())
    return folder


def load_adapter(params: Any, config: Config, folder: str | Path) -> Adapted:
    """Adapters from such a folder on top of `params`."""
    folder = Path(folder)
    about = folder / "adapter_config.json"
    settings = strict_json(about.read_bytes(), about)
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        refuse(about, "it does not describe a LoRA adapter")
    plain = dict(use_dora=False, use_rslora=False, bias="none", rank_pattern={}, alpha_pattern={})
    for key, value in plain.items():
        if settings.get(key, value) not in (value, None):
            refuse(about, f"{key} is {str(settings[key])[:60]}, which is not supported")
    source = Shards([folder / "adapter_model.safetensors"], folder)
    places = {name: place for place, name in _names(config).items()}
    sizes = flatten(params)
    rank: int = settings["r"]
    lora: dict[str, jax.Array] = {}
    for name, shape in source.shapes.items():
        module, _, half = name.removeprefix("base_model.model.").rpartition(".lora_")
        place = places.get(module)
        if place is None or half not in ("A.weight", "B.weight"):
            refuse(folder, f"tensor {name!r} belongs to no linear map of a {config.family} model")
        inner, outer = sizes[f"{place}/kernel"].shape
        expected = (rank, inner) if half == "A.weight" else (outer, rank)
        if shape != expected:
            refuse(folder, f"tensor {name!r} has shape {shape}, but should have {expected}")
        lora[f"{place}/{half[0].lower()}"] = jnp.asarray(np.ascontiguousarray(source.read(name).T))
    for path in lora:
        other = path[:-1] + ("b" if path.endswith("a") else "a")
        if other not in lora:
            refuse(folder, f"of the adapter of {path[:-2]} only one half is there")
    return Adapted(params, nest(lora), settings["lora_alpha"] / rank, rank)
