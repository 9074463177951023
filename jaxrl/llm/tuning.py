"""What all language-model methods do with parameters: begin with them, step, go in parts.

Parameters are float32 whatever the model computes in (`Transformer(config, dtype=jnp.bfloat16)`);
of a model with adapters only those are trained, and the frozen base is the reference as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrl import optim
from jaxrl.llm.checkpoint import LanguageModel
from jaxrl.llm.layout import flatten
from jaxrl.llm.lora import ATTENTION, FORWARD, Adapted, adapt
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import Counter, Key, Metrics, PyTree, Spec

Schedule = Callable[[jax.Array], jax.Array]


def share(updates: Counter, planned: int) -> jax.Array:
    """Of the run, what lies behind us."""
    return jnp.minimum(updates.value / max(1, planned), 1.0)


@struct
class Tuned:
    """The state of methods that need nothing else."""

    params: PyTree
    reference: PyTree  # the model as it began; None where nobody asks, or adapters have it as base
    opt: optax.OptState
    updates: Counter
    spec: Spec = static()

    @property
    def share(self) -> jax.Array:
        return share(self.updates, self.spec.steps)


@dataclasses.dataclass(frozen=True)
class Lora:
    """Train low-rank adapters instead of the model."""

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = (*ATTENTION, *FORWARD)


@struct
class AdamW:
    """Everything about the optimiser but its step size, which agents have as `lr`."""

    b1: Float = param("decay of the mean of gradients", default=0.9, low=0, below=1)
    b2: Float = param("decay of the mean of their squares", default=0.999, low=0, below=1)
    eps: Float = param("Adam's epsilon", default=1e-8, above=0)
    weight_decay: Float = param("of matrices, not of norms and biases", default=0.0, low=0)
    max_grad_norm: Float = param("global norm to which gradients are clipped", default=1.0, above=0)
    warmup: Float = param("share of the run in which lr rises from 0", default=0.0, low=0, below=1)
    anneal: Schedule = static("factor on lr over the run", default=optim.constant)

    @property
    def transformation(self) -> optax.GradientTransformation:
        return optax.chain(
            optim.clip(self.max_grad_norm),
            optax.scale_by_adam(self.b1, self.b2, self.eps),  # pyright: ignore
            optax.add_decayed_weights(
                self.weight_decay,  # pyright: ignore
                mask=lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree),
            ),
        )

    def init(self, params: PyTree) -> optax.OptState:
        return self.transformation.init(trainable(params))

    def step(
        self, params: PyTree, gradient: PyTree, opt: optax.OptState, lr: Float, share: jax.Array
    ) -> tuple[PyTree, optax.OptState, jax.Array]:
        """One step -> parameters, optimiser, the norm that the gradient had. `share`: of the run,
        what lies behind us."""
        own = trainable(params)
        direction, opt = self.transformation.update(gradient, opt, own)
        risen = jnp.where(share < self.warmup, share / jnp.maximum(self.warmup, 1e-12), 1.0)
        rate = lr * self.anneal(share) * risen
        own = jax.tree.map(lambda p, d: p - (rate * d).astype(p.dtype), own, direction)
        return with_trainable(params, own), opt, optim.norm(gradient)


def fresh(network: Any, key: Key, lora: Lora | None) -> PyTree:
    """Random parameters, adapted if asked."""
    weights, adapters = jax.random.split(key)
    params = network.init(weights, jnp.zeros((1, 1), jnp.int32))["params"]
    if lora is None:
        return params
    return adapt(adapters, params, rank=lora.rank, alpha=lora.alpha, targets=lora.targets)


def _adapted(x: Any) -> bool:
    return isinstance(x, Adapted)


def trainable(params: PyTree) -> PyTree:
    """The parameters without the bases of adapters."""
    return jax.tree.map(lambda x: x.lora if _adapted(x) else x, params, is_leaf=_adapted)


def with_trainable(params: PyTree, own: PyTree) -> PyTree:
    def put(x: Any, y: Any) -> Any:
        return x.with_lora(y) if _adapted(x) else y

    return jax.tree.map(put, params, own, is_leaf=_adapted)


def parameters(given: Any) -> PyTree:
    """The parameters of a `LanguageModel`, of an agent's state, or what was given."""
    while hasattr(given, "params") and not isinstance(given, Adapted):
        given = given.params
    return given


def begin(own: PyTree, given: Any) -> PyTree:
    """`own`, random so far, as the parameters `given`; plain ones become the base of adapters."""
    given = parameters(given)
    if isinstance(own, Adapted) and not isinstance(given, Adapted):
        return dataclasses.replace(own, base=_copy(own.base, given))
    return _copy(own, given)


def _copy(own: PyTree, given: PyTree) -> PyTree:
    if isinstance(own, Adapted) != isinstance(given, Adapted):
        raise TypeError(
            "start= has adapters, but the agent has none: write lora=jaxrl.llm.Lora(rank=...), or "
            "start=jaxrl.llm.lora.merge(...)."
        )
    if isinstance(own, Adapted):
        lora = _copy(own.lora, given.lora)
        return dataclasses.replace(own, base=_copy(own.base, given.base), lora=lora)
    mine, theirs = flatten(own), flatten(given)
    for name in sorted(mine.keys() | theirs.keys()):
        if name not in theirs or name not in mine:
            whose = "start= lacks" if name not in theirs else "the agent's network lacks"
            raise ValueError(f"{whose} the parameter {name}: are they of one configuration?")
        if np.shape(mine[name]) != np.shape(theirs[name]):
            raise ValueError(
                f"the parameter {name} of start= has shape {np.shape(theirs[name])}, that of the "
                f"agent's network {np.shape(mine[name])}: are they of one configuration?"
            )
    return jax.tree.map(lambda x, y: jnp.asarray(y, x.dtype), own, given)


def reference(params: PyTree, kept: PyTree) -> PyTree:
    """The model that was begun with: the base of the adapters, or what was kept of it."""
    return params.base if _adapted(params) else kept


Fresh = Callable[[Any, Key, Lora | None], PyTree]


def begun(agent: Any, key: Key, spec: Spec, *, watch: bool, fresh: Fresh = fresh) -> Tuned:
    """The state of an agent that learns from batches; with `watch` it keeps the model as it is."""
    accept(agent.network)
    size = agent.batch_size
    whole_parts(size, agent.parts, f"batch_size={size}")
    params = fresh(agent.network, key, agent.lora)
    kept = params if watch and agent.lora is None else None
    opt = agent.optimizer.init(params)
    return agent.shards.state(Tuned(params, kept, opt, Counter.zero(), spec))


def begun_with(agent: Any, state: Tuned, params: PyTree) -> Tuned:
    """The same with other parameters to begin with."""
    kept = None if state.reference is None else params
    return agent.shards.state(dataclasses.replace(state, params=params, reference=kept))


def stepped(agent: Any, state: Tuned, loss: Loss, rows: PyTree) -> tuple[Tuned, Metrics]:
    """One gradient step of an agent with lr, optimizer and parts."""
    found, metrics = gradient(loss, state.params, agent.shards.rows(rows), agent.parts)
    params, opt, norm = agent.optimizer.step(state.params, found, state.opt, agent.lr, state.share)
    metrics["policy/gradient_norm"] = norm
    state = dataclasses.replace(state, params=params, opt=opt, updates=state.updates.add(1))
    return agent.shards.state(state), metrics


Loss = Callable[[PyTree, PyTree], tuple[jax.Array, Metrics]]
"""(parameters, rows) -> loss, metrics, such that the losses of parts add up to that of the whole"""


def gradient(loss: Loss, params: PyTree, rows: PyTree, parts: int) -> tuple[PyTree, Metrics]:
    """Of the trainable parameters, over `parts` parts of the rows one after the other: the memory
    of one part, the gradient of all. Metrics named loss/... add up, the others are averaged."""

    def of_part(part: PyTree) -> tuple[PyTree, Metrics]:
        own = trainable(params)
        return jax.grad(lambda own: loss(with_trainable(params, own), part), has_aux=True)(own)

    if parts == 1:
        return of_part(rows)
    rows = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), rows)

    def add(total: PyTree, part: PyTree) -> tuple[PyTree, Metrics]:
        found, metrics = of_part(part)
        return jax.tree.map(jnp.add, total, found), metrics

    zero = jax.tree.map(jnp.zeros_like, trainable(params))
    total, metrics = jax.lax.scan(add, zero, rows)
    return total, {name: _joined(name, x) for name, x in metrics.items()}


def _joined(name: str, x: jax.Array) -> jax.Array:
    if name.startswith("loss/"):
        return x.sum(axis=0)
    return jnp.nanmax(x, axis=0) if "max" in name else jnp.nanmean(x, axis=0)


def in_parts(function: Callable[[PyTree], PyTree], rows: PyTree, parts: int) -> PyTree:
    """`function` of rows, a part at a time, where no gradient is wanted."""
    if parts == 1:
        return jax.lax.stop_gradient(function(rows))
    cut = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), rows)
    found = jax.lax.stop_gradient(jax.lax.map(function, cut))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)


def whole_parts(rows: int, parts: int, what: str) -> None:
    """Refuse parts that do not divide the rows."""
    if rows % parts:
        fits = max(p for p in range(1, parts) if rows % p == 0)
        raise ValueError(f"parts={parts} does not divide {what}; write for example parts={fits}.")


def accept(network: Any) -> None:
    """Refuse what is no transformer, before anything is traced."""
    if isinstance(network, LanguageModel):
        raise TypeError("network= is a LanguageModel: write network=lm.network, start=lm.params.")
    if not hasattr(network, "config"):
        raise TypeError(
            f"network={type(network).__name__} must be a jaxrl.llm.Transformer: that of a loaded "
            "model is lm.network, a new one Transformer(Config(...))."
        )
