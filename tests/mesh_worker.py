"""What tests/unit/test_mesh.py looks at, computed in a process with eight host devices.

python tests/mesh_worker.py FOLDER PART...    -> JSON on the last line
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxrl
from jaxrl import Mesh, cache, optim, train
from jaxrl.priority import Prioritized

drive = sys.modules["jaxrl.train"]
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


def apart(ours: Any, theirs: Any) -> float:
    """The largest difference between two states, relative to the largest number of each leaf."""

    def one(x: Any, y: Any) -> float:
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        return float(np.abs(x - y).max() / max(np.abs(y).max(), 1e-8)) if x.size else 0.0

    return max(jax.tree.leaves(jax.tree.map(one, ours, theirs)))


def same(ours: Any, theirs: Any) -> bool:
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in pairs)


def program(agent: Any, env: Any, key: Any, **options: Any) -> str:
    """The compiled program of a call of train."""
    names = ("evaluate_every", "log_every", "together")
    rest = {"evaluate_episodes": 8, "reset_every": 16, **dict.fromkeys(names)}
    call = drive._prepare(agent, env, key, **{**rest, **options})
    with call.plan.scope():
        run = drive._begin_jit(call.agent, call.env, call.key, plan=call.plan)
        advance = functools.partial(drive._advance_keeping.lower, plan=call.plan, room=1)
        return advance(call.agent, call.env, run, call.key, count=1).compile().as_text()


def collectives(text: str) -> dict[str, int]:
    counts = {name: len(re.findall(rf" {name}(-start)?\(", text)) for name in COLLECTIVES}
    return {name: n for name, n in counts.items() if n}


def refused(*args: Any, **options: Any) -> str:
    try:
        train(*args, **options)
    except (ValueError, TypeError) as error:
        return str(error)
    return "nothing was raised"


CARTPOLE, PENDULUM = jaxrl.envs.make("CartPole-v1"), jaxrl.envs.make("Pendulum-v1")
KEY, KEYS = jax.random.key(0), jax.random.split(jax.random.key(0), 4)
PPO = jaxrl.PPO(num_envs=16, num_steps=32, epochs=2)


def gradient(_: str) -> dict[str, Any]:
    """One gradient step: Adam's first moment is a tenth of the gradient, whatever its scale."""
    plain = jaxrl.PPO(num_envs=16, num_steps=32, epochs=1, minibatches=1, max_grad_norm=1e9)
    once = functools.partial(train, plain, CARTPOLE, KEY, steps=16 * 32)
    moments = [jax.tree.leaves(once(mesh=m).state.opt) for m in (None, Mesh(envs=8))]
    one, eight = ([x for x in m if jnp.issubdtype(x.dtype, jnp.inexact)] for m in moments)
    return {
        "gradient": apart(eight, one),
        "gradient_norm": float(sum(jnp.sum(x**2) for x in one) ** 0.5),
    }


def communication(_: str) -> dict[str, Any]:
    small = jaxrl.PPO(num_envs=16, num_steps=8, epochs=1, minibatches=1)
    return {
        "seeds": collectives(program(small, CARTPOLE, KEYS, steps=10_240, mesh=Mesh(seeds=4))),
        "envs": collectives(program(small, CARTPOLE, KEY, steps=10_240, mesh=Mesh(envs=8))),
    }


def curve(_: str) -> dict[str, Any]:
    """The same curve, and the same again for several seeds, on devices of their own or not."""
    learn = functools.partial(train, PPO, CARTPOLE, steps=16 * 32 * 40)
    alone, shared = learn(KEY), learn(KEY, mesh=Mesh(envs=8))
    shapes = {"2": Mesh(2), "4": Mesh(4), "2x2": Mesh(2, 2), "4x2": Mesh(4, 2)}
    several = {name: learn(KEYS, mesh=mesh) for name, mesh in shapes.items()}
    last = {n: np.asarray(r.metrics["episode/return"])[:, -5:].mean() for n, r in several.items()}
    before = drive._advance_donating._cache_size()
    learn(KEY, mesh=Mesh(envs=8))
    again = drive._advance_donating._cache_size() - before
    return {
        "curve": [r.metrics["episode/return"].tolist() for r in (alone, shared)],
        "seeds": same(several["2"].state, several["4"].state),
        "seeds_one": apart(learn(KEYS[:2], mesh=Mesh(1), steps=16 * 32 * 2).state,
                           learn(KEYS[:2], mesh=Mesh(2), steps=16 * 32 * 2).state),
        "both": same(several["2x2"].state, several["4x2"].state),
        "last": {n: float(x) for n, x in last.items()},
        "compiled_again": again,
    }  # fmt: skip


SMALL = {"num_envs": 8, "learning_starts": 64, "batch_size": 32}
GRU = jaxrl.networks.GRU(16)
OTHERS: dict[str, tuple[Any, Any, int]] = {
    "dqn": (jaxrl.DQN(**SMALL, capacity=800, sampler=Prioritized()), CARTPOLE, 120),
    "sac": (jaxrl.SAC(**SMALL, capacity=800, grad_steps=2), PENDULUM, 120),
    "r2d2": (jaxrl.R2D2(num_envs=8, num_steps=8, capacity=640, learning_starts=64, length=8,
                        burn_in=4, batch_size=16, sampler=Prioritized()), CARTPOLE, 256),
    "gru": (jaxrl.PPO(num_envs=8, num_steps=16, actor=GRU, critic=GRU), CARTPOLE, 256),
    "normalised": (jaxrl.NormalizeObs(jaxrl.NormalizeReward(PPO)), PENDULUM, 16 * 32 * 2),
}  # fmt: skip
"""Other agents and wrappers, for as long as no rounding has changed an action."""


def other(name: str, _: str) -> float:
    """How far a run of four devices is from that of one."""
    agent, env, steps = OTHERS[name]
    one, four = (train(agent, env, KEY, steps=steps, mesh=m) for m in (None, Mesh(envs=4)))
    return apart(four.state, one.state)


def both(_: str) -> float:
    """The same of a run among two, each of four devices."""
    agent, env, steps = OTHERS["sac"]
    one = train(agent, env, KEY, steps=steps)
    two = train(agent, env, jnp.stack([KEYS[1], KEY]), steps=steps, mesh=Mesh(2, 4))
    return apart(two[1].state, one.state)


def moves(folder: str) -> dict[str, Any]:
    """A checkpoint goes from mesh to mesh: 8 devices, 1, 2. Each call makes the run longer, so its
    step size must not depend on the length."""
    agent = dataclasses.replace(PPO, anneal_lr=optim.constant)
    where = {"checkpoint": f"{folder}/moves", "resume": True, "log_every": 16 * 32}
    calls = ((Mesh(seeds=4, envs=2), 10), (Mesh(seeds=1), 12), (Mesh(seeds=1, envs=2), 14),
             (Mesh(seeds=4), 16))  # fmt: skip
    for mesh, iterations in calls:
        moved = train(agent, CARTPOLE, KEYS, steps=16 * 32 * iterations, mesh=mesh, **where)
    straight = train(agent, CARTPOLE, KEYS, steps=16 * 32 * 16, log_every=16 * 32)
    found = {"many": [np.asarray(r.metrics["loss/value"]).tolist() for r in (moved, straight)]}
    where["checkpoint"] = f"{folder}/one"
    for mesh, iterations in ((Mesh(envs=8), 4), (None, 6), (Mesh(envs=2), 8)):
        moved = train(agent, CARTPOLE, KEY, steps=16 * 32 * iterations, mesh=mesh, **where)
    straight = train(agent, CARTPOLE, KEY, steps=16 * 32 * 8, log_every=16 * 32)
    found["one"] = [r.metrics["loss/value"].tolist() for r in (moved, straight)]
    return found


def refusals(_: str) -> dict[str, Any]:
    uneven, steps = jaxrl.PPO(num_envs=12), 10_000
    return {
        "devices": jax.device_count(),
        "uneven": refused(uneven, CARTPOLE, KEY, steps=steps, mesh=Mesh(envs=8)),
        "many": refused(PPO, CARTPOLE, KEYS, steps=steps, mesh=Mesh(seeds=4, envs=4)),
        "runs": refused(PPO, CARTPOLE, KEY, steps=steps, mesh=Mesh(seeds=2)),
        "number": refused(PPO, CARTPOLE, KEY, steps=steps, mesh=2),
    }


if __name__ == "__main__":
    cache.enable()
    parts = (gradient, communication, curve, both, moves, refusals)
    named: dict[str, Callable[[str], Any]] = {part.__name__: part for part in parts}
    named |= {name: functools.partial(other, name) for name in OTHERS}
    print(json.dumps({name: named[name](sys.argv[1]) for name in sys.argv[2:]}))
