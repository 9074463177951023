"""Torsos that remember: flax's cells, resets, and one step against a sequence."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import networks, spaces
from jaxrl.types import PyTree, Spec

KEY = jax.random.key(0)
T, N, D, H = 7, 3, 4, 5
X = jax.random.normal(jax.random.key(1), (T, N, D))
NEVER = jnp.zeros((T, N), bool)


def close(a: PyTree, b: PyTree) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


def made(kind: Any, **fields: Any) -> tuple[Any, PyTree]:
    """A module and parameters of which none is zero."""
    module = kind(H, **fields)
    params = module.init(KEY, X[0])
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    moved = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return module, jax.tree.unflatten(treedef, moved)


def test_gru_is_that_of_flax() -> None:
    module, params = made(networks.GRU)
    own = params["params"]
    inner: dict[str, Any] = {}
    for i, gate in enumerate("rzn"):
        cut = slice(i * H, (i + 1) * H)
        inner[f"i{gate}"] = {"kernel": own["input"][:, cut], "bias": own["bias"][cut]}
        inner[f"h{gate}"] = {"kernel": own["recurrent"][:, cut]}
    inner["hn"]["bias"] = own["candidate_bias"]
    memory = jax.random.normal(jax.random.key(3), (N, H))
    expected, _ = nn.GRUCell(H).apply({"params": inner}, memory, X[0])
    features, after = module.apply(params, X[0], memory)
    close(after, expected)
    close(features, expected)


def test_lstm_is_that_of_flax() -> None:
    module, params = made(networks.LSTM)
    own = params["params"]
    inner: dict[str, Any] = {}
    for i, gate in enumerate("ifgo"):
        cut = slice(i * H, (i + 1) * H)
        inner[f"i{gate}"] = {"kernel": own["input"][:, cut]}
        inner[f"h{gate}"] = {"kernel": own["recurrent"][:, cut], "bias": own["bias"][cut]}
    memory = tuple(jax.random.normal(jax.random.key(k), (N, H)) for k in (3, 4))
    expected, output = nn.LSTMCell(H).apply({"params": inner}, memory, X[0])
    features, after = module.apply(params, X[0], memory)
    close(after, expected)
    close(features, output)


def test_initial_parameters() -> None:
    params = networks.LSTM(H).init(KEY, X[0])["params"]
    np.testing.assert_array_equal(params["bias"], [0.0] * H + [1.0] * H + [0.0] * 2 * H)
    for gate in jnp.split(params["recurrent"], 4, axis=1):
        close(gate @ gate.T, jnp.eye(H))


KINDS = pytest.mark.parametrize("kind", [networks.GRU, networks.LSTM])


@KINDS
def test_a_sequence_is_its_steps(kind: Any) -> None:
    module, params = made(kind, torso=networks.MLP((6,)))
    memory = module.initial_memory(N)
    features, memories = module.apply(params, X, memory, NEVER)
    for t in range(T):
        alone, memory = module.apply(params, X[t], memory)
        close(features[t], alone)
        close(jax.tree.map(lambda m, t=t: m[t], memories), memory)


@KINDS
def test_p8_a_reset_begins_afresh_at_its_own_step(kind: Any) -> None:
    module, params = made(kind)
    memory = jax.tree.map(lambda m: m + 1.0, module.initial_memory(N))
    first = NEVER.at[2, 1].set(True)
    features, _ = module.apply(params, X, memory, first)
    kept, _ = module.apply(params, X, memory, NEVER)
    fresh, _ = module.apply(params, X[2:], module.initial_memory(N), NEVER[2:])
    close(features[2:, 1], fresh[:, 1])
    close(features[:2], kept[:2])
    close(features[:, [0, 2]], kept[:, [0, 2]])
    assert float(jnp.abs(features[2:, 1] - kept[2:, 1]).max()) > 1e-2


@KINDS
def test_p8_no_gradient_flows_through_a_reset(kind: Any) -> None:
    module, params = made(kind)
    memory = module.initial_memory(N)

    def last(x: jax.Array) -> jax.Array:
        return module.apply(params, x, memory, NEVER.at[4].set(True))[0][-1].sum()

    gradient = jax.grad(last)(X)
    assert not gradient[:4].any()
    assert (jnp.abs(gradient[4:]).sum((1, 2)) > 0).all()


@KINDS
def test_without_a_memory_it_is_a_first_step(kind: Any) -> None:
    module, params = made(kind)
    alone = module.apply(params, X[0])
    close(alone, module.apply(params, X[0], module.initial_memory(N))[0])
    assert networks.run(module, params, X[0])[1] is None


@pytest.mark.parametrize("head", [networks.Headed, networks.Dueling])
def test_heads_pass_the_memory_on(head: Any) -> None:
    network = head(networks.GRU(H), 2)
    params = network.init(KEY, X[0])
    memory = jnp.ones((N, H))
    out, after = networks.run(network, params, X[0], memory)
    features, expected = networks.GRU(H).apply({"params": params["params"]["torso"]}, X[0], memory)
    assert out.shape == (N, 2)
    close(after, expected)
    outs, memories = networks.run(network, params, X, memory, NEVER)
    assert outs.shape == (T, N, 2) and memories.shape == (T, N, H)
    close(outs[0], out)


def test_agents_without_memory_refuse_it() -> None:
    spec = Spec(spaces.Box(-1, 1, (4,)), spaces.Discrete(2))
    with pytest.raises(TypeError, match="R2D2"):
        jaxrl.DQN(torso=networks.GRU(8)).init(KEY, spec)
    with pytest.raises(TypeError, match="does not remember"):
        jaxrl.R2D2(torso=networks.MLP((8,))).init(KEY, spec)
    with pytest.raises(TypeError, match="GRU"):
        jaxrl.R2D2().init(KEY, Spec(spaces.Box(-1, 1, (4,)), spaces.Box(-1, 1, (1,))))
    with pytest.raises(ValueError, match="rank 3"):
        jaxrl.PPO(actor=networks.GRU(8, torso=networks.MinAtarCNN())).init(KEY, spec)
