"""TRL's trainers around one tiny Llama, without a network or real data, to be asked for losses.

Nothing is trained with them: their loss functions are called with batches that are given. Their
settings are attributes of the trainer, or of its `args`; `loss_of` sets both where they exist.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import datasets  # pyright: ignore
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tokenizers  # pyright: ignore
import torch  # pyright: ignore
import transformers  # pyright: ignore

from jaxrl import llm
from jaxrl.llm import layout, tuning
from jaxrl.types import Spec

PAD, END, VOCAB = 0, 1, 24

CONFIG = llm.Config(
    VOCAB, width=16, layers=2, heads=4, kv_heads=2, hidden=24, rope=llm.Rope(dims=4),
    max_positions=64, eos=(END,), pad=PAD,
)  # fmt: skip
NETWORK = llm.Transformer(CONFIG)


def make(folder: Path) -> None:
    """Two folders that both libraries read: the policy, and a reference that is another model."""
    key = jax.random.key(0)
    params = jax.jit(NETWORK.init)(key, jnp.zeros((1, 2), jnp.int32))["params"]
    leaves, tree = jax.tree.flatten(params)
    for name, scale in (("policy", 0.3), ("reference", 0.35)):
        noise = jax.random.split(jax.random.fold_in(key, int(scale == 0.3)), len(leaves))
        moved = [
            x + scale * jax.random.normal(k, x.shape) for x, k in zip(leaves, noise, strict=True)
        ]
        lm = llm.LanguageModel(jax.tree.unflatten(tree, moved), NETWORK)
        llm.save(lm, folder / name)


def tokenizer() -> Any:
    """Words w2, w3, ... for the tokens 2, 3, ..."""
    words = {"<pad>": PAD, "</s>": END} | {f"w{n}": n for n in range(2, VOCAB)}
    model = tokenizers.models.WordLevel(words, unk_token="<pad>")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", bos_token="</s>",
        padding_side="left",
    )  # fmt: skip


def model(folder: Path, name: str = "policy") -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder / name)


def scorer(folder: Path) -> Any:
    """The policy's trunk with a head that says one number."""
    torch.manual_seed(0)
    read = transformers.AutoModelForSequenceClassification.from_pretrained
    made = read(folder / "policy", num_labels=1)
    torch.nn.init.normal_(made.score.weight)
    return made


ROWS: dict[str, dict[str, Any]] = {
    "prompts": {"prompt": "w2 w3"},
    "pairs": {"prompt": "w2 w3", "chosen": "w4", "rejected": "w5"},
    "thumbs": {"prompt": "w2 w3", "completion": "w4", "label": True},
    "choices": {"chosen": "w2 w3", "rejected": "w2 w4"},
    "texts": {"text": "w2 w3"},
}


def dataset(kind: str, rows: int = 12) -> Any:
    row = ROWS[kind]
    return datasets.Dataset.from_list([row | {"label": n % 2 == 0} if "label" in row else row
                                       for n in range(rows)])  # fmt: skip


def settings(folder: Path, **own: Any) -> dict[str, Any]:
    return dict(
        output_dir=str(folder / "out"), use_cpu=True, bf16=False, report_to="none",
        per_device_train_batch_size=6, gradient_checkpointing=False, disable_tqdm=True,
    ) | own  # fmt: skip


def ready(trainer: Any) -> Any:
    """As it is inside of `train`, with one batch per step."""
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


def configure(trainer: Any, **given: Any) -> None:
    for name, value in given.items():
        known = False
        for holder in (trainer, trainer.args):
            if hasattr(holder, name):
                setattr(holder, name, value)
                known = True
        if not known:
            raise AttributeError(f"TRL's trainer has no setting {name}")


def tensors(tree: Any) -> Any:
    """Arrays as tensors, integers and flags as int64."""

    def one(x: Any) -> Any:
        x = np.asarray(x)
        return torch.tensor(x if x.dtype.kind == "f" else x.astype(np.int64))

    return jax.tree.map(one, tree)


@dataclasses.dataclass
class Found:
    loss: float
    gradient: dict[str, np.ndarray]
    """By the names of PyTorch's parameters."""


def backward(loss: Any, module: Any) -> Found:
    loss.backward()
    gradient = {
        n: p.grad.numpy().copy() for n, p in module.named_parameters() if p.grad is not None
    }
    module.zero_grad(set_to_none=True)
    return Found(float(loss.detach()), gradient)


def by_their_names(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Parameters or gradients of our transformer as PyTorch calls and lays them out."""
    flat = layout.flatten(jax.tree.map(np.asarray, tree))
    found: dict[str, np.ndarray] = {}
    for entry in layout.layout(CONFIG):
        packed = entry.pack([flat[path] for path in entry.paths])
        found |= {prefix + n: x for n, x in zip(entry.names, packed, strict=True)}
    return found


# ------------------------------------------------------------------------------- comparisons

LOSS, GRADIENT = 2e-5, 1e-4
"""Relative bounds"""
KEY = jax.random.key(0)
SPEC: Any = Spec(None, None, None, 100)  # pyright: ignore
PLAIN = tuning.AdamW(max_grad_norm=1e9)


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def same(ours: Any, theirs: Any, bound: float) -> None:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(theirs).max() > 1e-6  # or nothing is compared
    assert np.abs(ours - theirs).max() <= bound * np.abs(theirs).max()


def same_everywhere(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        same(ours[name], theirs[name], GRADIENT)


def started(agent: Any, policy: Any, reference: Any = None) -> Any:
    """The agent's state with these parameters, and that reference."""
    state = agent.start_from(agent.init(KEY, SPEC), policy)
    if reference is None:
        return state
    return tuning.Tuned(state.params, reference, state.opt, state.updates, state.spec)


def gradient(state: Any) -> Any:
    """Of the only step so far, from Adam's first moment."""
    return jax.tree.map(lambda x: x / (1 - 0.9), optax.tree_utils.tree_get(state.opt, "mu"))


def step(agent: Any, state: Any, batch: Any) -> tuple[float, dict[str, np.ndarray]]:
    batch = jax.tree.map(jnp.asarray, batch)
    after, metrics = jax.jit(lambda s, b: agent.learn(s, b, KEY))(state, batch)
    return float(metrics["loss/total"]), by_their_names(gradient(after))
