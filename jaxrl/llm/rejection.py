"""Learning from one's own best answers: best-of-N, and rejection sampling (STaR, Zelikman et al.
2022; RFT, Yuan et al. 2023).

    data = rejection.gather(network, state, task, key, prompts=1024, group=8, least=1.0)
    run = jaxrl.fit(SFT(network, lr=1e-4), data, key, epochs=2, start=state)

`gather` draws groups of answers, scores them on the task and keeps the best of each group if it is
good enough; fine-tuning on them and drawing again is STaR's outer loop.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.dataset import Dataset
from jaxrl.llm import answers, examples, tuning
from jaxrl.llm.model import Transformer
from jaxrl.llm.sampling import Sampling
from jaxrl.types import Env, Key, Spec


@partial(jax.jit, static_argnames=("network", "prompts", "group"))
def best_answers(
    network: Transformer,
    params: Any,
    task: Env,
    key: Key,
    sampling: Sampling | None = None,
    *,
    prompts: int,
    group: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The best of `group` answers to each of `prompts` questions -> prompts [n, P], answers [n, L],
    rewards [n], NaN where none could be scored."""
    start, drawing, scoring = jax.random.split(key, 3)
    state, obs = jax.vmap(task.reset)(jax.random.split(start, prompts))
    spec = Spec(task.obs_space, task.action_space, task.time_limit)
    everyone = jax.tree.map(lambda x: jnp.repeat(x, group, axis=0), (state, obs))
    drawn = answers.draw(network, params, spec, everyone[1], drawing, sampling or Sampling(), group)
    keys = jax.random.split(scoring, prompts * group)
    _, step = jax.vmap(task.step)(everyone[0], drawn.action, keys)
    reward = jnp.where(step.truncated & ~step.terminated, jnp.nan, step.reward)
    reward = reward.reshape(prompts, group)
    best = jnp.argmax(jnp.where(jnp.isnan(reward), -jnp.inf, reward), axis=1)
    row = jnp.arange(prompts)
    chosen = drawn.action.reshape(prompts, group, -1)[row, best]
    return obs, chosen, reward[row, best]


def gather(
    network: Transformer,
    given: Any,
    task: Env,
    key: Key,
    *,
    prompts: int,
    group: int,
    least: float,
    sampling: Sampling | None = None,
    at_once: int = 256,
) -> Dataset:
    """The best answers to `prompts` questions whose reward is at least `least`, as a dataset for
    `SFT`. `given`: parameters, a language model, or the state of an agent."""
    params = tuning.parameters(given)
    found: list[Any] = []
    for start, own in zip(
        range(0, prompts, at_once), jax.random.split(key, -(-prompts // at_once))
    ):
        size = min(at_once, prompts - start)
        out = best_answers(network, params, task, own, sampling, prompts=size, group=group)
        obs, chosen, reward = (np.asarray(x) for x in out)
        good = reward >= least  # False for NaN
        found.append((obs[good], chosen[good]))
    obs, chosen = (np.concatenate(x) for x in zip(*found, strict=True))
    if not len(obs):
        raise ValueError(
            f"none of {prompts} questions got an answer with a reward of {least} or more: write a "
            "larger group, a smaller least, or begin with a better model."
        )
    return examples.of_task(task, examples.joined(obs, chosen))
