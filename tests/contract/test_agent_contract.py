"""One suite over every agent. A new agent adds one line to AGENTS."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import checks, llm, networks, rollout
from jaxrl.struct import is_static
from jaxrl.types import Counter, PyTree, Spec
from tests.echo import NETWORK, Echo

GRU = networks.GRU(8)
LLM = {"prompts": 2, "lr": 1e-3}

# Small enough to compile in seconds, large enough to learn from what was played.
AGENTS: dict[str, tuple[Callable[..., Any], Any]] = {
    "PPO": (lambda: jaxrl.PPO(num_envs=2, num_steps=8, minibatches=2, epochs=2), "CartPole-v1"),
    "PPO continuous": (
        lambda: jaxrl.PPO(num_envs=2, num_steps=8, minibatches=2, epochs=2, target_kl=0.02),
        "Pendulum-v1",
    ),
    "PPO recurrent": (
        lambda: jaxrl.PPO(
            num_envs=2, num_steps=8, minibatches=2, epochs=2, actor=GRU, critic=networks.LSTM(8)
        ),
        "CartPole-v1",
    ),
    "PPO recurrent continuous": (
        lambda: jaxrl.NormalizeObs(
            jaxrl.PPO(num_envs=2, num_steps=8, minibatches=2, epochs=2, actor=GRU)
        ),
        "Pendulum-v1",
    ),
    "NormalizeObs": (
        lambda: jaxrl.NormalizeObs(
            jaxrl.NormalizeReward(jaxrl.PPO(num_envs=2, num_steps=8, minibatches=2, epochs=1))
        ),
        "CartPole-v1",
    ),
    "DQN": (
        lambda: jaxrl.DQN(num_envs=2, capacity=64, batch_size=8, learning_starts=8),
        "CartPole-v1",
    ),
    "R2D2": (
        lambda: jaxrl.R2D2(
            num_envs=2,
            num_steps=4,
            burn_in=2,
            length=4,
            n_steps=2,
            capacity=64,
            batch_size=8,
            learning_starts=8,
            torso=GRU,
        ),
        "CartPole-v1",
    ),
    "SAC": (
        lambda: jaxrl.SAC(num_envs=2, capacity=64, batch_size=8, learning_starts=8),
        "Pendulum-v1",
    ),
}

LANGUAGE = {
    "GRPO": lambda: llm.GRPO(NETWORK, group=4, **LLM),
    "GRPO refilled": lambda: llm.DAPO(NETWORK, group=4, overlong=1.0, **LLM),
    "GRPO of tokens": lambda: llm.ReinforcePlusPlus(NETWORK, **LLM | {"prompts": 8}),
    "GRPO greedy": lambda: llm.ReMax(NETWORK, group=4, **LLM),
    "PPO of a language model": lambda: llm.PPO(NETWORK, minibatches=2, **LLM | {"prompts": 8}),
}
AGENTS |= {name: (build, Echo()) for name, build in LANGUAGE.items()}

# Of each kind of memory one by default; the others differ in what they compute alone.
TABLES = (
    jaxrl.QLearning,
    jaxrl.SARSALambda,
    jaxrl.TD,
    jaxrl.MonteCarloControl,
    jaxrl.DynaQ,
)
MORE_TABLES = (
    jaxrl.ExpectedSARSA,
    jaxrl.DoubleQLearning,
    jaxrl.SARSA,
    jaxrl.TreeBackup,
    jaxrl.QSigma,
    jaxrl.TrueOnlineSARSA,
    jaxrl.QLambda,
    jaxrl.PengQLambda,
    jaxrl.TDLambda,
    jaxrl.TrueOnlineTD,
    jaxrl.MonteCarlo,
    jaxrl.LambdaReturn,
    jaxrl.ImportanceSampling,
    jaxrl.OffPolicyMonteCarlo,
    jaxrl.DynaQPlus,
    jaxrl.PrioritizedSweeping,
)

# On a lake, with enough steps for the end of an episode in every rollout.
AGENTS |= {
    agent.__name__: (lambda agent=agent: agent(num_envs=2, num_steps=64), "FrozenLake-v1")
    for agent in (*TABLES, *MORE_TABLES)
}
SLOW = {agent.__name__ for agent in MORE_TABLES} | set(LANGUAGE)

LINEAR = (
    jaxrl.LinearTD,
    jaxrl.LinearTDLambda,
    jaxrl.LinearTrueOnlineTD,
    jaxrl.LinearSARSA,
    jaxrl.LinearSARSALambda,
    jaxrl.LinearTrueOnlineSARSA,
    jaxrl.LinearQLearning,
    jaxrl.LinearExpectedSARSA,
    jaxrl.DifferentialSARSA,
    jaxrl.GTD2,
    jaxrl.TDC,
    jaxrl.EmphaticTD,
    jaxrl.LSTD,
    jaxrl.LSPI,
)

AGENTS |= {
    agent.__name__: (lambda agent=agent: agent(num_envs=2, num_steps=8), "MountainCar-v0")
    for agent in LINEAR
}
AGENTS["LinearTrueOnlineSARSA Fourier"] = (
    lambda: jaxrl.LinearTrueOnlineSARSA(
        features=jaxrl.features.Fourier(2), lr=0.01, num_envs=2, num_steps=8
    ),
    "MountainCar-v0",
)
AGENTS["LinearSARSALambda Recent"] = (
    lambda: jaxrl.LinearSARSALambda(trace=jaxrl.traces.Recent(64), num_envs=2, num_steps=8),
    "MountainCar-v0",
)

BANDITS = (
    jaxrl.ActionValues,
    jaxrl.UCB1,
    jaxrl.GradientBandit,
    jaxrl.BernoulliThompson,
    jaxrl.GaussianThompson,
    jaxrl.LinUCB,
    jaxrl.LinearThompson,
)

AGENTS |= {
    agent.__name__: (
        lambda agent=agent: agent(num_envs=2, num_steps=8),
        "ContextualBandit-v0" if hasattr(agent, "features") else "BernoulliBandit-v0",
    )
    for agent in BANDITS
}

# Agents of a family share all but the rule: one of each kind runs by default.
FIRST = {"LinearSARSALambda Recent", "GradientBandit"}
SLOW |= {name for name, (_, env) in AGENTS.items() if env == "MountainCar-v0"} - FIRST
SLOW |= {agent.__name__ for agent in BANDITS} - FIRST
PARAMS = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in AGENTS]

CERTAIN = {"UCB1", "LinUCB"}
"""An upper bound decides: nothing is left to chance but ties."""

GLOSSARY = {"loss", "policy", "value", "q", "episode", "evaluate", "replay", "temperature", "time"}
GLOSSARY |= {"reward", "length", "group", "sampler", "reference"}  # of language models


@dataclasses.dataclass
class Case:
    agent: Any
    env: Any
    spec: Spec
    state: PyTree
    rollout: Any
    update: Callable[..., Any]


@pytest.fixture(scope="module", params=PARAMS)
def case(request: pytest.FixtureRequest) -> Case:
    build, name = AGENTS[request.param]
    agent, env = build(), jaxrl.envs.make(name) if isinstance(name, str) else name
    spec = Spec(env.obs_space, env.action_space, env.time_limit, 10_000)
    state = agent.init(jax.random.key(0), spec)
    streams = rollout.start(agent, env, jax.random.key(1))
    update = jax.jit(lambda agent, state, played, key: agent.update(state, played, key))
    collect = jax.jit(lambda s, t, k: rollout.collect(agent, env, spec, s, t, k))
    played = None
    for i in range(10):  # past any warm-up
        streams, played, _ = collect(state, streams, jax.random.key(i + 2))
        state, _ = update(agent, state, played, jax.random.key(i + 100))
    return Case(agent, env, spec, state, played, update)


def shapes(tree: PyTree) -> list[Any]:
    arrays = [jnp.asarray(x) for x in jax.tree.leaves(tree)]
    return [(x.shape, x.dtype, x.weak_type) for x in arrays]


def first_obs(case: Case) -> PyTree:
    return jax.tree.map(lambda x: x[0], case.rollout.obs)


def test_the_constructor_only_stores(case: Case) -> None:
    names = [f.name for f in dataclasses.fields(case.agent) if not is_static(f)]
    placeholder = object()
    copy = dataclasses.replace(case.agent, **dict.fromkeys(names, placeholder))
    assert all(getattr(copy, name) is placeholder for name in names)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(case.agent, names[0], 1)


def test_every_field_says_what_it_is(case: Case) -> None:
    for field in dataclasses.fields(case.agent):
        if field.name != "agent":
            assert field.metadata["bounds"].doc, field.name


def test_state_is_all_arrays(case: Case) -> None:
    for leaf in jax.tree.leaves(case.state):
        assert isinstance(leaf, jax.Array)
        assert not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key), "the driver owns the key"


def test_update_keeps_structure_and_types(case: Case) -> None:
    fresh = case.agent.init(jax.random.key(5), case.spec)
    assert jax.tree.structure(fresh) == jax.tree.structure(case.state)
    assert shapes(fresh) == shapes(case.state)


def test_update_learns_and_is_finite(case: Case) -> None:
    state, metrics = case.update(case.agent, case.state, case.rollout, jax.random.key(7))
    moved = [
        bool((x != y).any())
        for x, y in zip(jax.tree.leaves(case.state), jax.tree.leaves(state), strict=True)
    ]
    assert any(moved)
    for leaf in jax.tree.leaves(state):
        assert np.isfinite(np.asarray(leaf, np.float64)).all()
    assert all(np.isfinite(float(x)) for x in metrics.values()), metrics


def test_metrics_are_scalars_with_names_of_the_glossary(case: Case) -> None:
    _, metrics = case.update(case.agent, case.state, case.rollout, jax.random.key(7))
    for name, value in metrics.items():
        assert name.split("/")[0] in GLOSSARY and name.count("/") == 1, name
        assert value.shape == () and value.dtype == jnp.float32, name


def test_same_key_same_bits_and_other_key_other_bits(case: Case) -> None:
    act = jax.jit(lambda s, o, k: case.agent.act(s, o, k))
    obs = first_obs(case)
    a, b = (act(case.state, obs, jax.random.key(1)) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    many = [np.asarray(act(case.state, obs, jax.random.key(i)).action) for i in range(64)]
    assert type(case.agent).__name__ in CERTAIN or any((x != many[0]).any() for x in many)
    one, two = (
        case.update(case.agent, case.state, case.rollout, jax.random.key(3))[0] for _ in range(2)
    )
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_without_exploration_the_key_does_not_matter(case: Case) -> None:
    act = jax.jit(lambda s, o, k: case.agent.act(s, o, k, explore=False).action)
    obs = first_obs(case)
    first = act(case.state, obs, jax.random.key(0))
    for i in range(1, 8):
        np.testing.assert_array_equal(first, act(case.state, obs, jax.random.key(i)))


def test_actions_are_in_their_space(case: Case) -> None:
    obs = first_obs(case)
    for explore in (True, False):
        action = case.agent.act(case.state, obs, jax.random.key(0), explore).action
        for row in np.asarray(action):
            assert case.spec.action_space.contains(row.astype(case.spec.action_space.dtype))
    assert action.dtype == case.spec.action_space.dtype


def test_environments_of_a_batch_do_not_leak_into_each_other(case: Case) -> None:
    obs = first_obs(case)
    other = jax.tree.map(lambda x: x.at[1].set(x[1] + 1), obs)
    act = jax.jit(lambda o: case.agent.act(case.state, o, jax.random.key(0), False).action)
    np.testing.assert_array_equal(act(obs)[0], act(other)[0])


def test_lanes_do_not_leak_into_each_other(case: Case) -> None:
    # A run beside a run whose state is all NaN is what it is beside itself.
    def poison(x: jax.Array) -> jax.Array:
        bad = jnp.full_like(x, jnp.nan) if jnp.issubdtype(x.dtype, jnp.floating) else x
        return jnp.stack([x, bad])

    axes = _axes(case.state)
    twin = jax.tree.map(
        lambda x: x if isinstance(x, Counter) else poison(x),
        case.state,
        is_leaf=lambda x: isinstance(x, Counter),
    )
    update = jax.vmap(
        lambda s: case.agent.update(s, case.rollout, jax.random.key(3))[0], (axes,), axes
    )
    got = jax.jit(update)(twin)
    for leaf, axis in zip(
        jax.tree.leaves(got), jax.tree.leaves(_per_leaf(case.state)), strict=True
    ):
        if axis == 0 and jnp.issubdtype(leaf.dtype, jnp.floating):
            assert np.isfinite(np.asarray(leaf[0])).all()


def _axes(state: PyTree) -> PyTree:
    return jax.tree.map(
        lambda x: None if isinstance(x, Counter) else 0,
        state,
        is_leaf=lambda x: isinstance(x, Counter),
    )


def _per_leaf(state: PyTree) -> PyTree:
    return jax.tree.map(
        lambda x: -1 if isinstance(x, Counter) else 0,
        state,
        is_leaf=lambda x: isinstance(x, Counter),
    )


def test_vmaps_over_each_float_field(case: Case) -> None:
    leaves, treedef = jax.tree.flatten(case.agent)
    for i in range(len(leaves)):
        two = [jnp.array([x, x]) if j == i else x for j, x in enumerate(leaves)]
        agents = jax.tree.unflatten(treedef, two)
        axes = jax.tree.unflatten(treedef, [0 if j == i else None for j in range(len(leaves))])
        keys = jax.random.split(jax.random.key(0), 2)

        def both(agent: Any, key: jax.Array) -> PyTree:
            state = agent.init(key, case.spec)
            out = agent.act(state, first_obs(case), key)
            return agent.update(state, case.rollout, key)[1], out.action

        result = jax.eval_shape(jax.vmap(both, (axes, 0)), agents, keys)
        assert all(x.shape[0] == 2 for x in jax.tree.leaves(result))


def test_nan_hyperparameters_are_refused(case: Case) -> None:
    for field in dataclasses.fields(case.agent):
        if is_static(field) or getattr(case.agent, field.name) is None or field.name == "agent":
            continue
        if not isinstance(getattr(case.agent, field.name), float):
            continue
        bad = dataclasses.replace(case.agent, **{field.name: float("nan")})
        with pytest.raises(ValueError, match=field.name):
            checks.hyperparameters(bad)
