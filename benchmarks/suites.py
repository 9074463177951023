"""Adapted suites: steps per second through our rollout against each library's own loop.

    python -m benchmarks.suites                # all that are installed, Craftax excepted
    python -m benchmarks.suites craftax/Craftax-Classic-Symbolic-v1

Both sides play 64 environments with uniformly random available actions, in one compiled scan, and
use all they see. The library's side resets as the library does (at the end of an episode, inside
its step), ours as the driver does. The sides take turns; the median of the rounds counts. Writes
benchmarks/results/suites.json and prints a Markdown table for docs/adapters.md.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jaxrl
from benchmarks.stamp import stamp
from jaxrl import policies, rollout, spaces
from jaxrl.envs.adapters import settled
from jaxrl.struct import static, struct
from jaxrl.types import ActOut, Key, Metrics, PyTree, Rollout, Spec

RESULTS = Path(__file__).parent / "results" / "suites.json"
ENVS, STEPS, ROUNDS = 64, 128, 5

Loop = Callable[[Key], tuple[Any, Callable[[Any, Key], tuple[Any, jax.Array]]]]
"""key -> carry, and carry, key -> carry, what was seen; one step of all environments."""


def choose(space: spaces.Space, mask: jax.Array | None, key: Key, count: int) -> jax.Array:
    """Uniformly random available actions."""
    if isinstance(space, spaces.Box):
        return jax.vmap(space.sample)(jax.random.split(key, count))
    logits = jnp.zeros((count, spaces.size(space)))
    return policies.policy(logits, space, policies.Gaussian, mask).sample(key)


@struct
class Random:
    """Draws available actions uniformly, and learns nothing."""

    num_envs: int = static("parallel environments", default=ENVS, low=1)
    num_steps: int = static("steps per rollout", default=STEPS, low=1)

    def init(self, key: Key, spec: Spec) -> PyTree:
        return Only(spec)

    def act(self, state: Any, obs: PyTree, key: Key, explore: bool = True) -> ActOut:
        mask = policies.mask(state.spec.obs_space, obs)
        return ActOut(choose(state.spec.action_space, mask, key, self.num_envs))

    def update(self, state: PyTree, rollout: Rollout, key: Key) -> tuple[PyTree, Metrics]:
        return state, {"policy/seen": seen((rollout.obs, rollout.reward))}


@struct
class Only:
    spec: Spec = static("of the task")


def seen(tree: PyTree) -> jax.Array:
    """A number that needs all of `tree`: XLA would not simulate what nobody looks at."""
    total = sum(jnp.sum(x.astype(jnp.float32)) for x in jax.tree.leaves(tree))
    return jnp.asarray(total, jnp.float32)


def keys(key: Key) -> jax.Array:
    return jax.random.key_data(jax.random.split(key, ENVS))


# ------------------------------------------------------------------- each library's own loop


def pgx_loop(name: str) -> Loop:
    """Two moves are one step of ours where there are two players."""
    import pgx
    from pgx.experimental import auto_reset

    env: Any = pgx.make(name)  # pyright: ignore
    step = jax.vmap(auto_reset(env.step, env.init))

    def loop(key: Key) -> Any:
        def move(state: Any, key: Key) -> Any:
            act_key, step_key = jax.random.split(key)
            actions = choose(
                spaces.Discrete(int(env.num_actions)), state.legal_action_mask, act_key, ENVS
            )
            return settled(step(state, actions, keys(step_key)))

        def both(state: Any, key: Key) -> tuple[Any, jax.Array]:
            for its_key in jax.random.split(key, env.num_players):
                state = move(state, its_key)
            return state, seen((state.observation, state.rewards))

        return settled(jax.vmap(env.init)(keys(key))), both

    return loop


def jumanji_loop(name: str) -> Loop:
    import jumanji
    from jumanji.wrappers import AutoResetWrapper

    env: Any = AutoResetWrapper(jumanji.make(name))
    space = jaxrl.envs.make(f"jumanji/{name}").action_space

    def loop(key: Key) -> Any:
        def one(carry: Any, key: Key) -> tuple[Any, jax.Array]:
            state, timestep = carry
            mask = timestep.observation.action_mask.reshape(ENVS, -1)
            state, timestep = settled(jax.vmap(env.step)(state, choose(space, mask, key, ENVS)))
            return (state, timestep), seen((timestep.observation, timestep.reward))

        return settled(jax.vmap(env.reset)(keys(key))), one

    return loop


def navix_loop(name: str) -> Loop:
    import navix

    env: Any = navix.make(name)
    space = spaces.Discrete(len(env.action_set))

    def loop(key: Key) -> Any:
        def one(timestep: Any, key: Key) -> tuple[Any, jax.Array]:
            timestep = settled(jax.vmap(env.step)(timestep, choose(space, None, key, ENVS)))
            return timestep, seen((timestep.observation, timestep.reward))

        return settled(jax.vmap(env.reset)(keys(key))), one

    return loop


def xminigrid_loop(name: str) -> Loop:
    import xminigrid
    from xminigrid.wrappers import GymAutoResetWrapper

    env, params = xminigrid.make(name)
    env = GymAutoResetWrapper(env)
    space = spaces.Discrete(env.num_actions(params))

    def loop(key: Key) -> Any:
        def one(timestep: Any, key: Key) -> tuple[Any, jax.Array]:
            actions = choose(space, None, key, ENVS)
            timestep = settled(jax.vmap(env.step, (None, 0, 0))(params, timestep, actions))
            return timestep, seen((timestep.observation, timestep.reward))

        return settled(jax.vmap(env.reset, (None, 0))(params, keys(key))), one

    return loop


def craftax_loop(name: str) -> Loop:
    from craftax.craftax_env import make_craftax_env_from_name

    env: Any = make_craftax_env_from_name(name, auto_reset=True)
    space, params = spaces.Discrete(env.num_actions), env.default_params

    def loop(key: Key) -> Any:
        def one(state: Any, key: Key) -> tuple[Any, jax.Array]:
            act_key, step_key = jax.random.split(key)
            actions = choose(space, None, act_key, ENVS)
            obs, state, reward, _, _ = jax.vmap(env.step, (0, 0, 0, None))(
                keys(step_key), state, actions, params
            )
            return settled(state), seen((obs, reward))

        return settled(jax.vmap(env.reset, (0, None))(keys(key), params)[1]), one

    return loop


def jaxmarl_loop(name: str) -> Loop:
    space = jaxrl.envs.make(f"jaxmarl/{name}").action_space  # imports it without its greeting
    import jaxmarl

    env: Any = jaxmarl.make(name)

    def loop(key: Key) -> Any:
        def one(state: Any, key: Key) -> tuple[Any, jax.Array]:
            act_key, step_key = jax.random.split(key)
            joint = choose(space, None, act_key, ENVS)
            actions = {agent: joint[:, i] for i, agent in enumerate(env.agents)}
            obs, state, rewards, _, _ = jax.vmap(env.step)(keys(step_key), state, actions)
            return settled(state), seen((obs, rewards))

        return settled(jax.vmap(env.reset)(keys(key))[1]), one

    return loop


# --------------------------------------------------------------------------------- measuring

TASKS: dict[str, tuple[Callable[[str], Loop], int]] = {  # how many times STEPS steps a round has
    "pgx/2048": (pgx_loop, 4),
    "pgx/connect_four": (pgx_loop, 40),
    "pgx/tic_tac_toe": (pgx_loop, 40),
    "jumanji/Snake-v1": (jumanji_loop, 40),
    "jumanji/Game2048-v1": (jumanji_loop, 20),
    "navix/Navix-Empty-5x5-v0": (navix_loop, 20),
    "xminigrid/MiniGrid-Empty-5x5": (xminigrid_loop, 40),
    "jaxmarl/MPE_simple_spread_v3": (jaxmarl_loop, 10),
    "jaxmarl/overcooked": (jaxmarl_loop, 20),
    "craftax/Craftax-Classic-Symbolic-v1": (craftax_loop, 1),
}


def ours(name: str, repeats: int) -> Callable[[Key], Any]:
    env, agent = jaxrl.envs.make(name), Random()
    spec = Spec(env.obs_space, env.action_space, env.time_limit)

    @jax.jit
    def play(streams: Any, key: Key) -> tuple[Any, jax.Array]:
        def one(streams: Any, key: Key) -> tuple[Any, jax.Array]:
            streams, got, _ = rollout.collect(agent, env, spec, Only(spec), streams, key)
            return streams, agent.update((), got, key)[1]["policy/seen"]

        return jax.lax.scan(one, streams, jax.random.split(key, repeats))

    streams = jax.jit(lambda key: rollout.start(agent, env, key))(jax.random.key(0))
    return lambda key: play(streams, key)


def theirs(name: str, repeats: int) -> Callable[[Key], Any]:
    begin = TASKS[name][0](name.partition("/")[2])

    @jax.jit
    def play(carry: Any, key: Key) -> Any:
        return jax.lax.scan(begin(key)[1], carry, jax.random.split(key, repeats * STEPS))

    carry = jax.jit(lambda key: begin(key)[0])(jax.random.key(0))
    return lambda key: play(carry, key)


def measure(name: str, repeats: int | None = None, rounds: int = ROUNDS) -> dict[str, Any]:
    """One row: steps per second of both sides, the median of rounds that alternate."""
    repeats = TASKS[name][1] if repeats is None else repeats
    sides = {"jaxrl": ours(name, repeats), "library": theirs(name, repeats)}
    compiling: dict[str, float] = {}
    for side, play in sides.items():
        began = time.perf_counter()
        jax.block_until_ready(play(jax.random.key(0)))
        compiling[side] = time.perf_counter() - began
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for i in range(rounds):
        order = list(sides) if i % 2 else list(sides)[::-1]
        for side in order:
            began = time.perf_counter()
            jax.block_until_ready(sides[side](jax.random.key(i)))
            rates[side].append(repeats * STEPS * ENVS / (time.perf_counter() - began))
    return {
        "env": name,
        **{side: statistics.median(found) for side, found in rates.items()},
        "first_call_seconds": compiling,
        "rounds": rates,
    }


def main() -> None:
    rows: list[dict[str, Any]] = []
    chosen = sys.argv[1:] or [name for name in TASKS if not name.startswith("craftax/")]
    print("| environment | jaxrl, steps/s | the library's own loop, steps/s | ratio |")
    print("|---|---|---|---|")
    for name in chosen:
        row = measure(name)
        rows.append(row)
        ratio = row["jaxrl"] / row["library"]
        print(
            f"| `{name}` | {row['jaxrl']:,.0f} | {row['library']:,.0f} | {ratio:.2f} |", flush=True
        )
    mark = stamp("benchmarks.suites", num_envs=ENVS, num_steps=STEPS, rounds=ROUNDS)
    RESULTS.write_text(json.dumps({"stamp": mark, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
