"""Answers to prompts, as agents draw them in `act` and learn from them in `update`.

Tasks speak in token ids: an observation is a prompt [P], padded on the left, an action an answer
[L], padded on the right with the stop token in it if one was drawn, both with -1 for padding. An
answer is one step: its episode is over, terminated if it was scored and truncated if nobody could.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import spaces
from jaxrl.llm import scoring, tuning
from jaxrl.llm.generate import generate
from jaxrl.llm.losses import diagnostics
from jaxrl.llm.losses.aggregate import Layout
from jaxrl.llm.model import Transformer
from jaxrl.llm.sampling import Sampling
from jaxrl.llm.tasks.task import PAD
from jaxrl.struct import struct
from jaxrl.types import ActOut, Key, Metrics, Rollout, Spec


@struct
class Drawn:
    """What an agent knows of its answers besides their tokens."""

    log_prob: jax.Array  # [R, L] under the distribution that was drawn from
    kept: jax.Array | None  # [R, L, V / 32] bits: what truncation left; None if everything
    stopped: jax.Array  # [R] bool: ended by a stop token, not for want of room


@struct
class Answers:
    """R rows to learn from."""

    prompt: jax.Array  # [R, P]
    prompt_mask: jax.Array
    tokens: jax.Array  # [R, L]
    mask: jax.Array
    drawn: Drawn
    reward: jax.Array  # [R]; NaN where nobody could score

    @property
    def layout(self) -> Layout:
        return Layout(self.mask)

    @property
    def lengths(self) -> jax.Array:
        return self.mask.sum(axis=1).astype(jnp.float32)


def rooms(spec: Spec) -> tuple[int, int]:
    """Tokens of a prompt and of an answer, at most."""
    return spec.obs_space.shape[0], spec.action_space.shape[0]  # pyright: ignore


def _row_of_integers(space: spaces.Box) -> bool:
    return len(space.shape) == 1 and jnp.issubdtype(space.dtype, jnp.integer)


def check(spec: Spec, network: Transformer) -> None:
    """Refuse tasks that do not speak in tokens, or in others than the network's."""
    for name, space in (("obs_space", spec.obs_space), ("action_space", spec.action_space)):
        if not isinstance(space, spaces.Box) or not _row_of_integers(space):
            raise TypeError(
                f"env.{name} is {spaces.describe(space)}; a language model reads and writes rows "
                "of token ids, Box(-1, vocab - 1, (length,), int32): see jaxrl.llm.tasks."
            )
        highest = int(np.max(space.high))
        if highest >= network.config.vocab:
            raise ValueError(
                f"env.{name} has tokens up to {highest}, but the network only "
                f"{network.config.vocab} of them: write Config(vocab={highest + 1}), or give the "
                "task the tokenizer of the model."
            )


def draw(
    network: Transformer,
    params: Any,
    spec: Spec,
    obs: jax.Array,
    key: Key,
    sampling: Sampling,
    group: int,
) -> ActOut:
    """`group` answers for every `group`-th of the prompts obs [N, P], which stand that often."""
    prompts = obs[::group]
    out = generate(
        network,
        params,
        jnp.maximum(prompts, 0),
        prompts != PAD,
        key,
        sampling,
        max_new=rooms(spec)[1],
        group=group,
        stop=network.config.eos,
    )
    drawn = Drawn(out.log_probs, out.kept, out.stopped)
    return ActOut(jnp.where(out.mask, out.tokens, PAD), drawn)


def reply(
    agent: Any, state: Any, obs: jax.Array, key: Key, explore: bool, params: Any = None
) -> ActOut:
    """What agents that learn from datasets answer when they are tried on a task."""
    if state.spec.action_space is None:
        raise ValueError(
            "this model was fitted to a dataset that does not say how long answers may be: give "
            "jaxrl.Dataset(arrays, obs_space=task.obs_space, action_space=task.action_space)."
        )
    sampling = Sampling(greedy=not explore)
    params = state.params if params is None else params
    return draw(agent.network, params, state.spec, obs, key, sampling, 1)


def from_rollout(rollout: Rollout) -> Answers:
    prompt, tokens = rollout.obs[0], rollout.action[0]
    drawn = jax.tree.map(lambda x: x[0], rollout.extras)
    reward = jnp.where(rollout.truncated[0], jnp.nan, rollout.reward[0])
    return Answers(
        prompt=jnp.maximum(prompt, 0),
        prompt_mask=prompt != PAD,
        tokens=jnp.maximum(tokens, 0),
        mask=tokens != PAD,
        drawn=drawn,
        reward=reward,
    )


def score(
    network: Transformer, params: Any, rows: Answers, sampling: Sampling, chunk: int
) -> tuple[jax.Array, jax.Array]:
    """Log-probability and entropy of the answers' tokens [R, L], replayed as they were drawn."""
    return scoring.of_completions(
        network,
        params,
        rows.prompt,
        rows.prompt_mask,
        rows.tokens,
        rows.mask,
        rows.drawn.kept,
        sampling,
        chunk=chunk,
    )


def reference(agent: Any, state: Any, rows: Answers) -> jax.Array:
    """Log-probabilities [R, L] of the model that an agent began with."""
    params = tuning.reference(state.params, state.reference)

    def of(rows: Answers) -> jax.Array:
        return score(agent.network, params, rows, agent.sampling, agent.chunk)[0]

    return tuning.in_parts(of, rows, agent.parts)


def beside_gold(rollout: Rollout) -> Metrics:
    """The rewards beside what they stand for, where the task measures that."""
    gold = dict(rollout.measures).get("gold")
    return {} if gold is None else diagnostics.gold_gap(from_rollout(rollout).reward, gold[0])


def metrics(rows: Answers) -> Metrics:
    """What can be said of answers without a model."""
    known = ~jnp.isnan(rows.reward)
    best = jnp.max(jnp.where(known, rows.reward, -jnp.inf))
    return {
        "reward/mean": jnp.nanmean(rows.reward),
        "reward/std": jnp.nanstd(rows.reward),
        "reward/unscored": 1.0 - known.mean(),
        "length/mean": rows.lengths.mean(),
        "length/stopped": rows.drawn.stopped.mean(),
        "length/reward_correlation": diagnostics.length_reward_correlation(
            rows.lengths, rows.reward
        ),
        **diagnostics.length_by_correctness(rows.lengths, rows.reward >= best),
        "policy/repetition": repetition(rows.tokens, rows.mask),
    }


def repetition(tokens: jax.Array, mask: jax.Array, n: int = 4) -> jax.Array:
    """Share of the n-grams of answers that stood in the same answer before; 0 without n-grams."""
    L = tokens.shape[1]
    if n > L:
        return jnp.zeros(())
    grams = jnp.stack([tokens[:, i : L - n + 1 + i] for i in range(n)], axis=-1)  # [R, L', n]
    real = mask[:, n - 1 :]
    hashed = jnp.zeros(grams.shape[:-1], jnp.uint32)
    for i in range(n):  # a hash instead of n comparisons of all pairs
        hashed = (hashed ^ grams[..., i].astype(jnp.uint32)) * jnp.uint32(0x01000193)
    hashed = jnp.sort(jnp.where(real, hashed, jnp.uint32(0xFFFFFFFF)), axis=1)
    count = real.sum(axis=1)
    inside = jnp.arange(1, hashed.shape[1]) < count[:, None]
    again = ((hashed[:, 1:] == hashed[:, :-1]) & inside).sum(axis=1)
    return jnp.mean(again / jnp.maximum(count, 1))


def take(rows: Any, index: jax.Array) -> Any:
    return jax.tree.map(lambda x: x[index], rows)
