"""Torsos that remember: `networks.GRU(64)` in the place of `networks.MLP((64,))`.

A memory is a pytree of arrays [..., hidden], all zero where an episode begins. Over a sequence
[T, N, ...] everything that does not depend on the memory (the inner torso, the input's share of
the gates) is computed for all steps at once; only the recurrence itself is a scan, and it resets
the memory wherever `first` says that an observation begins an episode.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrl.networks.orthogonal import Initializer, orthogonal
from jaxrl.types import PyTree


def _per_gate(gates: int) -> Initializer:
    """An orthogonal matrix for each gate, side by side."""
    one = orthogonal()

    def init(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
        part = (shape[0], shape[1] // gates)
        return jnp.concatenate([one(k, part, dtype) for k in jax.random.split(key, gates)], axis=1)

    return init


class Recurrent(nn.Module):
    """What `GRU` and `LSTM` have in common. There are three ways to call one:

    module(x)                 -> features           one step with an empty memory
    module(x, memory)         -> features, memory   one step
    module(x, memory, first)  -> features, memories [T, N, ...]: a sequence, with resets
    """

    hidden: int = 64
    torso: nn.Module | None = None

    gates = 0

    @property
    def input_rank(self) -> int | None:
        return 1 if self.torso is None else getattr(self.torso, "input_rank", None)

    @nn.nowrap
    def initial_memory(self, *shape: int) -> PyTree:
        """As it is before the first step of an episode."""
        raise NotImplementedError

    @nn.nowrap
    def features(self, memory: PyTree) -> jax.Array:
        """What of the memory the next layer sees."""
        raise NotImplementedError

    @nn.nowrap
    def parameters(self) -> dict[str, jax.Array]:
        """What a step needs beside its input's share of the gates."""
        shape = (self.hidden, self.gates * self.hidden)
        return {"recurrent": self.param("recurrent", _per_gate(self.gates), shape)}

    @nn.nowrap
    def advance(self, params: dict[str, jax.Array], memory: PyTree, inputs: jax.Array) -> PyTree:
        """One step; `inputs` [..., gates * hidden] is the input's share of the gates."""
        raise NotImplementedError

    @nn.nowrap
    def bias(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        del key
        return jnp.zeros(shape)

    @nn.compact
    def __call__(self, x: jax.Array, memory: PyTree = None, first: jax.Array | None = None) -> Any:
        if self.torso is not None:
            x = self.torso(x)
        width = self.gates * self.hidden
        kernel = self.param("input", _per_gate(self.gates), (x.shape[-1], width))
        inputs = x @ kernel + self.param("bias", self.bias, (width,))
        params = self.parameters()
        if memory is None:
            return self.features(self.advance(params, self.initial_memory(*x.shape[:-1]), inputs))
        if first is None:
            memory = self.advance(params, memory, inputs)
            return self.features(memory), memory

        def step(memory: PyTree, x: tuple[jax.Array, jax.Array]) -> tuple[PyTree, PyTree]:
            inputs, first = x
            memory = jax.tree.map(lambda m: jnp.where(first[..., None], 0.0, m), memory)
            memory = self.advance(params, memory, inputs)
            return memory, memory

        _, memories = jax.lax.scan(step, memory, (inputs, first))
        return self.features(memories), memories


class GRU(Recurrent):
    """Gated recurrent unit (Cho et al. 2014, arXiv:1406.1078), with the reset gate behind the
    matrix product:

    r, z = sigmoid(W x + U h), n = tanh(W x + r (U h + b)), h' = (1 - z) n + z h.
    """

    gates = 3

    @nn.nowrap
    def initial_memory(self, *shape: int) -> jax.Array:
        return jnp.zeros((*shape, self.hidden))

    @nn.nowrap
    def features(self, memory: PyTree) -> jax.Array:
        return memory

    @nn.nowrap
    def parameters(self) -> dict[str, jax.Array]:
        bias = self.param("candidate_bias", nn.initializers.zeros, (self.hidden,))
        return {**super().parameters(), "candidate_bias": bias}

    @nn.nowrap
    def advance(self, params: dict[str, jax.Array], memory: PyTree, inputs: jax.Array) -> jax.Array:
        from_x = jnp.split(inputs, 3, axis=-1)
        from_h = jnp.split(memory @ params["recurrent"], 3, axis=-1)
        reset = jax.nn.sigmoid(from_x[0] + from_h[0])
        update = jax.nn.sigmoid(from_x[1] + from_h[1])
        candidate = jnp.tanh(from_x[2] + reset * (from_h[2] + params["candidate_bias"]))
        return (1.0 - update) * candidate + update * memory


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997) with a forget gate, whose bias starts
    at 1 (Gers et al. 2000). The memory is (cell, output).

    i, f, o = sigmoid(W x + U h), g = tanh(W x + U h), c' = f c + i g, h' = o tanh(c').
    """

    gates = 4

    @nn.nowrap
    def initial_memory(self, *shape: int) -> tuple[jax.Array, jax.Array]:
        zeros = jnp.zeros((*shape, self.hidden))
        return zeros, zeros

    @nn.nowrap
    def features(self, memory: PyTree) -> jax.Array:
        return memory[1]

    @nn.nowrap
    def bias(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        del key
        return jnp.zeros(shape).at[self.hidden : 2 * self.hidden].set(1.0)

    @nn.nowrap
    def advance(
        self, params: dict[str, jax.Array], memory: PyTree, inputs: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        cell, output = memory
        i, f, g, o = jnp.split(inputs + output @ params["recurrent"], 4, axis=-1)
        cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        return cell, jax.nn.sigmoid(o) * jnp.tanh(cell)


def initial_memory(torso: nn.Module, num_envs: int) -> PyTree:
    """The memory of a torso before an episode, None where it has none."""
    return torso.initial_memory(num_envs) if isinstance(torso, Recurrent) else None


def run(
    module: nn.Module,
    params: PyTree,
    x: jax.Array,
    memory: PyTree = None,
    first: jax.Array | None = None,
) -> tuple[Any, PyTree]:
    """-> outputs, memory, of a network with or without one. With `first` [T, N] and a memory, `x`
    is a sequence and the memories after all its steps are returned."""
    if memory is None:
        return module.apply(params, x), None
    out: Any = module.apply(params, x, memory, first)
    return out


__all__ = ["GRU", "LSTM", "Recurrent", "initial_memory", "run"]
