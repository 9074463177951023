"""Figures of Sutton and Barto's chapter 2, run again and beside a plain NumPy loop.

    python -m benchmarks.book_bandit              all of them, in a few minutes
    python -m benchmarks.book_bandit epsilon      some
    python -m benchmarks.book_bandit --list

The book prints curves and no numbers: what is known here is what the loop finds, 2000 runs of 1000
pulls on the 10-armed testbed, share of the best arm over the last 100 pulls (figures 2.2 to 2.5) or
mean reward over the first 1000 (figure 2.6). Results go to benchmarks/results/book_bandit.json.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxrl
from benchmarks import book_linear
from jaxrl import random
from jaxrl.agents.bandit.gradient_bandit import nothing
from jaxrl.behaviour import UCB, EpsilonGreedy
from jaxrl.types import Rollout, Spec

RESULTS = Path(__file__).parent / "results" / "book_bandit.json"


@functools.partial(jax.jit, static_argnames=("build", "steps"))
def play(
    agent: Any, build: Callable[[jax.Array], Any], drawn: jax.Array, keys: jax.Array, steps: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """-> rewards, whether the arm was the best one, its regret, [runs, steps]. Every run has the
    environment `build` makes of its own `drawn` numbers."""

    def run(key: jax.Array, means: jax.Array) -> Any:
        env = build(means)
        spec = Spec(env.obs_space, env.action_space, None, steps)
        one, two, three = jax.random.split(key, 3)
        world, obs = env.reset(one)

        def pull(carry: Any, key: jax.Array) -> Any:
            state, world, obs = carry
            act, step = jax.random.split(key)
            action = agent.act(state, obs[None], act).action
            best, worth = env.optimal(world), means_of(world)
            world, seen = env.step(world, action[0], step)
            no = jnp.zeros((1, 1), bool)
            played = Rollout(
                obs[None, None], action[None], seen.reward[None, None], no, no, no, seen.obs[None],
                (), (), None, None,
            )  # fmt: skip
            state, _ = agent.update(state, played, step)
            lost = worth[best] - worth[action[0]]
            return (state, world, seen.obs), (seen.reward, action[0] == best, lost)

        begin = (agent.init(two, spec), world, obs)
        return jax.lax.scan(pull, begin, jax.random.split(three, steps))[1]

    return jax.vmap(run)(keys, drawn)


def means_of(world: Any) -> jax.Array:
    """Of the arms, as things stand."""
    return world.weights @ world.x if hasattr(world, "weights") else world


def ten(means: jax.Array) -> Any:
    return jaxrl.envs.Bandit(means=means)


def two(means: jax.Array) -> Any:
    return jaxrl.envs.BernoulliBandit(arms=2, means=means)


def context(weights: jax.Array) -> Any:
    return jaxrl.envs.ContextualBandit(weights=weights)


def keys(runs: int) -> jax.Array:
    return random.unrolled(jax.random.split(jax.random.key(2026), runs))


@dataclasses.dataclass(frozen=True)
class Method:
    """An agent, and the same as a loop: `kind` and its numbers."""

    agent: Any
    kind: str
    step: float | None = None  # None: averages
    epsilon: float = 0.0
    initial: float = 0.0
    c: float = 0.0
    offset: float = 0.0  # of all means
    baseline: bool = True


def epsilon(value: float) -> Method:
    agent = jaxrl.ActionValues(exploration=EpsilonGreedy(value))
    return Method(agent, "values", epsilon=value)


def gradient(lr: float, baseline: bool) -> Method:
    agent = jaxrl.GradientBandit(lr=lr)
    if not baseline:
        agent = dataclasses.replace(agent, baseline=nothing)
    return Method(agent, "gradient", lr, offset=4.0, baseline=baseline)


METHODS: dict[str, Method] = {
    "epsilon 0": epsilon(0.0),
    "epsilon 0.01": epsilon(0.01),
    "epsilon 0.1": epsilon(0.1),
    "optimistic": Method(
        jaxrl.ActionValues(lr=0.1, initial=5.0, exploration=EpsilonGreedy(0.0)),
        "values", 0.1, initial=5.0,
    ),
    "constant step, epsilon 0.1": Method(
        jaxrl.ActionValues(lr=0.1, exploration=EpsilonGreedy(0.1)), "values", 0.1, epsilon=0.1
    ),
    "UCB 2": Method(jaxrl.ActionValues(exploration=UCB(2.0)), "ucb", c=2.0),
    "gradient 0.1": gradient(0.1, True),
    "gradient 0.4": gradient(0.4, True),
    "gradient 0.1 without baseline": gradient(0.1, False),
    "gradient 0.4 without baseline": gradient(0.4, False),
}  # fmt: skip


def testbed(
    name: str, runs: int = 2000, steps: int = 1000, after: int = 900
) -> tuple[float, float]:
    """Share of the best arm in the pulls from `after` on; -> mean, its standard error."""
    method = METHODS[name]
    means = method.offset + jax.random.normal(jax.random.key(7), (runs, 10))
    _, best, _ = play(method.agent, ten, means, keys(runs), steps)
    return book_linear.score(np.asarray(best[:, after:]).mean(1))


def rewards(name: str, runs: int = 2000, steps: int = 1000) -> tuple[float, float]:
    """Mean reward of all pulls (figure 2.6)."""
    method = METHODS[name]
    means = method.offset + jax.random.normal(jax.random.key(7), (runs, 10))
    got, _, _ = play(method.agent, ten, means, keys(runs), steps)
    return book_linear.score(np.asarray(got).mean(1) - method.offset)


def loop(
    name: str, runs: int = 2000, steps: int = 1000, after: int = 900, reward: bool = False
) -> tuple[float, float]:
    """The same in NumPy, all runs at once."""
    m, rng = METHODS[name], np.random.default_rng(11)
    means = m.offset + rng.normal(size=(runs, 10))
    q, n = np.full((runs, 10), m.initial), np.zeros((runs, 10))
    mean, best = np.zeros(runs), means.argmax(1)
    hits, total, row = np.zeros(runs), np.zeros(runs), np.arange(runs)
    for t in range(steps):
        if m.kind == "gradient":
            p = np.exp(q - q.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            a = (rng.random(runs)[:, None] > p.cumsum(1)).sum(1).clip(max=9)
        else:
            worth = q
            if m.kind == "ucb":
                bound = m.c * np.sqrt(np.log(max(t, 1)) / np.maximum(n, 1))
                worth = np.where(n == 0, np.inf, q + bound)
            top = worth == worth.max(1, keepdims=True)
            a = (rng.random((runs, 10)) * top).argmax(1)
            a = np.where(rng.random(runs) < m.epsilon, rng.integers(0, 10, runs), a)
        r = means[row, a] + rng.normal(size=runs)
        hits += (a == best) * (t >= after)
        total += r - m.offset
        n[row, a] += 1
        if m.kind == "gradient":
            b = 0.0 if not m.baseline else (r if t == 0 else mean)
            q += m.step * (r - b)[:, None] * (np.eye(10)[a] - p)
            mean += (r - mean) / (t + 1)
        else:
            q[row, a] += (r - q[row, a]) * (1 / n[row, a] if m.step is None else m.step)
    return book_linear.score(total / steps if reward else hits / (steps - after))


# ----------------------------------------------------------------------------- regret, contexts

TWO = (0.8, 0.6)


def lai_robbins(steps: int) -> float:
    """log(T) times the sum of gap / KL(mean, best mean): as T grows, what no method that is good
    everywhere can stay below, but for what grows more slowly than log(T)."""
    best, bound = max(TWO), 0.0
    for p in TWO:
        if p < best:
            kl = p * math.log(p / best) + (1 - p) * math.log((1 - p) / (1 - best))
            bound += (best - p) / kl
    return bound * math.log(steps)


REGRET = {
    "Thompson": jaxrl.BernoulliThompson(),
    "UCB1": jaxrl.UCB1(),
}


def regret(name: str, runs: int = 2000, steps: int = 10_000) -> tuple[float, float]:
    """What was lost on Bernoulli arms .8 and .6."""
    means = jnp.tile(jnp.asarray(TWO), (runs, 1))
    found = play(REGRET[name], two, means, keys(runs), steps)
    return book_linear.score(np.asarray(found[2]).sum(1))


def regret_loop(name: str, runs: int = 1000, steps: int = 10_000) -> tuple[float, float]:
    """The same in NumPy."""
    rng, p, row = np.random.default_rng(3), np.array(TWO), np.arange(runs)
    ones, pulls, lost = np.zeros((runs, 2)), np.zeros((runs, 2)), np.zeros(runs)
    for t in range(steps):
        if name == "Thompson":
            worth = rng.beta(1 + ones, 1 + pulls - ones)
        else:
            n = np.maximum(pulls, 1)
            bound = ones / n + np.sqrt(2 * np.log(max(t, 1)) / n)
            worth = np.where(pulls == 0, 2.0 + rng.random((runs, 2)), bound)
        a = worth.argmax(1)
        ones[row, a] += rng.random(runs) < p[a]
        pulls[row, a] += 1
        lost += max(TWO) - p[a]
    return book_linear.score(lost)


def contextual(agent: Any, runs: int = 200, steps: int = 1000) -> tuple[float, float]:
    """Share of the best arm in the last 100 pulls of the contextual bandit."""
    weights = jax.random.normal(jax.random.key(8), (runs, 10, 5))
    _, best, _ = play(agent, context, weights, keys(runs), steps)
    return book_linear.score(np.asarray(best[:, -100:]).mean(1))


def reference(name: str, reward: bool = False) -> tuple[float | None, float]:
    return book_linear.noisy(loop(name, reward=reward))


FIGURES: dict[str, book_linear.Row] = {
    name: (functools.partial(testbed, name), functools.partial(reference, name)) for name in METHODS
}
FIGURES |= {
    f"2.6 {name}": (
        functools.partial(rewards, name),
        functools.partial(reference, name, reward=True),
    )
    for name in ("epsilon 0.1", "optimistic", "UCB 2", "gradient 0.1")
}
FIGURES |= {
    f"regret {name}": (
        functools.partial(regret, name),
        lambda name=name: book_linear.noisy(regret_loop(name)),
    )
    for name in REGRET
}


def main() -> None:
    book_linear.report(FIGURES, RESULTS, "benchmarks/book_bandit.py", __doc__)


if __name__ == "__main__":
    main()
