"""Where the time of an iteration goes, and what share of the machine's matmul rate the update gets.

    python -m benchmarks.profile ppo --envs 4 64

Every piece is compiled alone, at the shapes it has in training, and repeated inside one program, so
that the cost of calling it does not count. Pieces overlap (the rollout contains the environment);
indented ones are parts of the one above. What XLA fuses in the whole iteration it cannot fuse
across pieces: they need not add up.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import itertools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("NPROC", "4")

import jax
import jax.numpy as jnp

import jaxrl
from benchmarks import flops, settings, stamp
from benchmarks.peers.jaxrl_side import agent_for
from benchmarks.settings import Task
from jaxrl import checks, networks, random, returns, rollout
from jaxrl.networks import product as turned

train: Any = importlib.import_module("jaxrl.train")  # `jaxrl.train` is the function

RESULTS = Path(__file__).resolve().parent / "results"
SECONDS = 0.25
"""How long one measurement lasts."""


@dataclasses.dataclass
class Piece:
    name: str
    seconds: float  # per iteration
    level: int = 0
    flops: float = 0.0


def timed(function: Callable[[Any, jax.Array], Any], carry: Any, rounds: int = 3) -> float:
    """Seconds of one `function(carry, i) -> carry`, the best of some rounds.

    The carry is what keeps XLA from computing the piece once, or not at all: all of it is returned.
    """

    def repeat(carry: Any, count: jax.Array) -> Any:
        return jax.lax.fori_loop(0, count, lambda i, carry: function(carry, i), carry)

    compiled = jax.jit(repeat)
    jax.block_until_ready(compiled(carry, 1))

    def once(count: int) -> float:
        began = time.perf_counter()
        jax.block_until_ready(compiled(carry, count))
        return time.perf_counter() - began

    count = 8
    while (took := once(count)) < SECONDS / 8 and count < 10**7:
        count *= 4
    count = max(1, round(count * SECONDS / took))
    return min(once(count) for _ in range(rounds)) / count


def matmul_rate(size: int = 2048, rounds: int = 20) -> float:
    """FLOP/s of the fastest of some large float32 products on this machine, now."""
    a = jax.random.normal(jax.random.key(0), (size, size)) / size**0.5
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        product(a, a).block_until_ready()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def alone(function: Callable[..., Any], *args: jax.Array) -> float:
    """Seconds of a function that stands alone: nothing is fused with it, nothing is left out."""

    def step(carry: Any, i: jax.Array) -> Any:
        args, _ = jax.lax.optimization_barrier(carry)
        return args, function(*args)

    return timed(step, (args, function(*args)))


def kernels(
    net: tuple[int, ...],
    rows: int,
    active: Callable[[jax.Array], jax.Array] = jnp.tanh,
    forward: int = 1,
    weights: int = 1,
    inputs: int = 1,
) -> float:
    """Seconds of a net's products, activations and their slopes, each standing alone: what these
    kernels take if they follow one another without a pause. So often `forward`, and so often the
    gradients of `weights` and of the `inputs` of all layers but the first."""

    def of_weights(x: jax.Array, w: jax.Array, slope: jax.Array) -> jax.Array:
        pull = jax.vjp(lambda w: turned.dot_general(x, w, (((1,), (0,)), ((), ()))), w)[1]
        return pull(slope)[0]

    def of_activation(y: jax.Array, slope: jax.Array) -> jax.Array:
        return slope * (1 - y * y if active is jnp.tanh else y > 0)

    total = 0.0
    for layer, (width, outputs) in enumerate(itertools.pairwise(net)):
        x, w = jnp.ones((rows, width)), jnp.ones((width, outputs))
        slope = jnp.ones((rows, outputs))
        total += forward * alone(jnp.matmul, x, w)
        total += weights * alone(of_weights, x, w, slope)
        total += weights * alone(lambda g: g.sum(0), slope)
        if layer:
            total += inputs * alone(lambda g, w: g @ w.T, slope, w)
        if layer < len(net) - 2:
            total += forward * alone(active, slope)
            total += inputs * alone(of_activation, slope, slope)
    return total


def touch(x: jax.Array, *used: Any) -> jax.Array:
    """`x` unchanged in value (short of infinities), but dependent on `used`."""
    total = sum(jnp.sum(y.astype(jnp.float32)) for y in jax.tree.leaves(used))
    return x + 0.0 * total


def floats(tree: Any) -> list[jax.Array]:
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]


def setup(task: Task) -> tuple[Any, ...]:
    """-> agent, env, plan, key, run: a run after its first iterations."""
    agent, env = agent_for(task), jaxrl.envs.make(task.env)
    key = jax.random.key(0)
    spec = checks.task(agent, env, task.steps)
    plan = train.Plan(
        spec=spec, iterations=10**6, per_point=1, evaluate_points=0, evaluate_episodes=1,
        reset_every=rollout.RESET_EVERY, lanes=None,
    )  # fmt: skip
    agent, env = jax.tree.map(jnp.asarray, (agent, env))
    run = jax.jit(train.begin, static_argnames="plan")(agent, env, key, plan=plan)
    warm = max(3, task.warmup // (agent.num_envs * agent.num_steps) + 2)

    def body(_: jax.Array, run: Any) -> Any:
        return train.iterate(agent, env, run, key, plan)[0]

    run = jax.jit(lambda run: jax.lax.fori_loop(0, warm, body, run))(run)
    return agent, env, plan, key, run


def _common(task: Task) -> tuple[list[Piece], tuple[Any, ...]]:
    """Whole iteration, rollout and its parts: the same for every agent."""
    agent, env, plan, key, run = setup(task)
    spec, num_steps, num_envs = plan.spec, agent.num_steps, agent.num_envs
    work = flops.per_step(task) * num_steps * num_envs
    found: list[Piece] = []

    def whole(run: Any, i: jax.Array) -> Any:
        run, metrics = train.iterate(agent, env, run, key, plan)
        return dataclasses.replace(
            run, streams=dataclasses.replace(
                run.streams, episode_return=touch(run.streams.episode_return, metrics)
            )
        )  # fmt: skip

    found.append(Piece("whole iteration", timed(whole, run), 0, work))

    def play(streams: Any, i: jax.Array) -> Any:
        streams, experience, episodes = rollout.collect(
            agent, env, spec, run.state, streams, jax.random.fold_in(key, i), i, plan.reset_every
        )
        used = touch(streams.episode_return, experience, episodes)
        return dataclasses.replace(streams, episode_return=used)

    found.append(Piece("rollout", timed(play, run.streams), 1))

    actions = (
        jax.vmap(lambda k: jax.vmap(env.action_space.sample)(jax.random.split(k, num_envs)))(
            jax.random.split(key, num_steps)
        )
        if hasattr(env.action_space, "sample")
        else jnp.zeros((num_steps, num_envs), jnp.int32)
    )
    spare_state, spare_obs = jax.tree.map(lambda x: x[0], run.streams.spares)
    step_keys = jax.random.split(key, num_envs)

    def simulate(carry: Any, i: jax.Array) -> Any:
        def step(carry: Any, action: jax.Array) -> Any:
            state, total = carry
            state, out = jax.vmap(env.step)(state, action, step_keys)
            ended = out.terminated | out.truncated
            state = rollout.select(ended, spare_state, state)
            obs = rollout.select(ended, spare_obs, out.obs)
            return (state, total + out.reward), (obs, out.reward, ended)

        carry, rows = jax.lax.scan(step, carry, actions)
        return carry[0], touch(carry[1], rows)

    found.append(
        Piece("environment and its resets by select",
              timed(simulate, (run.streams.env_state, jnp.zeros(num_envs))), 2)
    )  # fmt: skip

    def policy(total: jax.Array, i: jax.Array) -> jax.Array:
        # One action per step, each waiting for the one before, as in a rollout.
        def step(total: jax.Array, k: jax.Array) -> Any:
            obs = jax.tree.map(lambda x: touch(x, total), run.streams.obs)
            out = agent.act(run.state, obs, k)
            return total + jnp.sum(out.action.astype(jnp.float32)), (out.action, out.extras)

        keys = jax.random.split(jax.random.fold_in(key, i), num_steps)
        total, rows = jax.lax.scan(step, total, keys)
        return touch(total, rows)

    found.append(Piece("policy, with its random numbers", timed(policy, jnp.zeros(())), 2))

    def keys_only(total: jax.Array, i: jax.Array) -> jax.Array:
        a, b, c = jax.random.split(jax.random.fold_in(key, i), 3)
        rows = jax.random.split(a, num_steps), jax.random.split(b, (num_steps, num_envs))
        return total + sum(jnp.sum(jax.random.key_data(x)).astype(jnp.float32) for x in rows)

    found.append(Piece("splitting keys", timed(keys_only, jnp.zeros(())), 2))

    count = max(1, num_steps // plan.reset_every)
    share = min(1.0, num_steps / plan.reset_every)

    def resets(total: jax.Array, i: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.fold_in(key, i), (count, num_envs))
        return touch(total, floats(jax.vmap(jax.vmap(env.reset))(keys)))

    found.append(Piece("fresh starts", share * timed(resets, jnp.zeros(())), 2))

    def empty(carry: Any, i: jax.Array) -> Any:
        def step(carry: Any, t: jax.Array) -> Any:
            return jax.tree.map(lambda x: x + 1, carry), carry[0]

        carry, rows = jax.lax.scan(step, carry, jnp.arange(num_steps))
        return (touch(carry[0], rows), *carry[1:])

    carry = (jnp.zeros((num_envs, 4)), *(jnp.zeros(num_envs) for _ in range(6)))
    found.append(Piece("scan that only counts", timed(empty, carry), 2))

    experience = jax.jit(
        lambda streams: rollout.collect(
            agent, env, spec, run.state, streams, key, jnp.int32(0), plan.reset_every
        )[1]
    )(run.streams)

    def update(state: Any, i: jax.Array) -> Any:
        return agent.update(state, experience, jax.random.fold_in(key, i))[0]

    found.append(Piece("update", timed(update, run.state), 1, work))
    return found, (agent, env, spec, key, run, experience)


def ppo(task: Task) -> list[Piece]:
    """The rollout, and the update piece by piece."""
    found, (agent, env, spec, key, run, experience) = _common(task)
    size = agent.num_envs * agent.num_steps
    rows_each = size // agent.minibatches
    obs, actions = flops.SIZES[task.env]
    nets = [(obs, *task.hidden, actions), (obs, *task.hidden, 1)]
    learning = task.epochs * size * sum(flops.gradient(net) for net in nets)
    found[-1].flops = learning + size * flops.forward(nets[1])

    def values(reward: jax.Array, i: jax.Array) -> jax.Array:
        value, next_value = returns.rollout_values(
            lambda obs: agent.value(run.state, obs + reward[0, 0]), experience, spec
        )
        return touch(reward, value, next_value)

    found.append(
        Piece("values", timed(values, experience.reward), 2, size * flops.forward(nets[1]))
    )

    def advantages(reward: jax.Array, i: jax.Array) -> jax.Array:
        return touch(
            reward,
            returns.gae(
                reward, reward, reward, experience.terminated, experience.truncated,
                agent.gamma, agent.lam,
            ),
        )  # fmt: skip

    found.append(Piece("GAE", timed(advantages, experience.reward), 2))

    def shuffle(total: jax.Array, i: jax.Array) -> jax.Array:
        def epoch(total: jax.Array, key: jax.Array) -> Any:
            order = random.permutation(key, size)
            return total + order[0].astype(jnp.float32) + order[-1], None

        keys = jax.random.split(jax.random.fold_in(key, i), agent.epochs)
        return jax.lax.scan(epoch, total, keys)[0]

    found.append(Piece("shuffles", timed(shuffle, jnp.zeros(())), 2))

    def sort(total: jax.Array, i: jax.Array) -> jax.Array:
        def epoch(total: jax.Array, key: jax.Array) -> Any:
            order = jnp.argsort(jax.random.bits(key, (size,)))
            return total + order[0].astype(jnp.float32) + order[-1], None

        keys = jax.random.split(jax.random.fold_in(key, i), agent.epochs)
        return jax.lax.scan(epoch, total, keys)[0]

    found.append(Piece("(what sorting random bits would cost)", timed(sort, jnp.zeros(())), 3))

    batch = _batch(agent, spec, experience, size)
    order = jnp.stack(
        [jax.random.permutation(k, size) for k in jax.random.split(key, agent.epochs)]
    )
    order = order.reshape(-1, rows_each)

    def gather(total: jax.Array, i: jax.Array) -> jax.Array:
        def step(total: jax.Array, rows: jax.Array) -> Any:
            shifted = (rows + total.astype(jnp.int32)) % size
            taken = [x[shifted] for x in jax.tree.leaves(batch)]
            return touch(total, taken), None

        return jax.lax.scan(step, total, order)[0]

    found.append(Piece("gathering minibatches", timed(gather, jnp.zeros(())), 2))

    minibatch = jax.tree.map(lambda x: x[:rows_each], batch)

    def gradients(state: Any, i: jax.Array) -> Any:
        def step(state: Any, _: Any) -> Any:
            state, metrics = agent.learn(state, minibatch, key)
            return state, metrics

        state, metrics = jax.lax.scan(step, state, None, agent.epochs * agent.minibatches)
        return state

    found.append(Piece("gradient steps", timed(gradients, run.state), 2, learning))

    def products(params: Any, i: jax.Array) -> Any:
        """The same nets, a loss of nothing, no optimiser: the matrix products and activations."""

        def loss(params: Any) -> jax.Array:
            x = minibatch.obs
            actor: Any = agent._actor(spec).apply(params["actor"], x)
            return sum(jnp.sum(y) for y in jax.tree.leaves(actor)) + jnp.sum(
                agent._value(params, x)[0]
            )

        def step(params: Any, _: Any) -> Any:
            slopes = jax.grad(loss)(params)
            return jax.tree.map(lambda p, g: p - 1e-9 * g, params, slopes), None

        return jax.lax.scan(step, params, None, agent.epochs * agent.minibatches)[0]

    found.append(
        Piece("forward and backward of the nets alone", timed(products, run.state.params), 3,
              learning)
    )  # fmt: skip
    steps = agent.epochs * agent.minibatches
    found.append(
        Piece(
            "each of their kernels alone",
            steps * sum(kernels(net, rows_each) for net in nets),
            4,
            learning,
        )
    )

    def optimise(carry: Any, i: jax.Array) -> Any:
        def step(carry: Any, _: Any) -> Any:
            params, opt = carry
            steps, opt = agent.optimizer.update(params, opt, params)
            return (jax.tree.map(lambda p, s: p - 1e-9 * s, params, steps), opt), None

        return jax.lax.scan(step, carry, None, agent.epochs * agent.minibatches)[0]

    found.append(
        Piece("Adam and clipping alone", timed(optimise, (run.state.params, run.state.opt)), 3)
    )
    return found


def _batch(agent: Any, spec: Any, experience: Any, size: int) -> Any:
    from jaxrl.agents.policy.ppo import Batch

    raw, log_prob = experience.extras
    reward = experience.reward
    batch = Batch(
        obs=networks.prepare(spec.obs_space, experience.obs), mask=None, raw=raw,
        log_prob=log_prob, value=reward, advantage=jnp.cumsum(reward, 0) % 7, target=reward,
    )  # fmt: skip
    return jax.tree.map(lambda x: x.reshape(size, *x.shape[2:]), batch)


def others(task: Task) -> list[Piece]:
    return _common(task)[0]


def sac(task: Task) -> list[Piece]:
    """Two critics see their own batch, the one for targets and the actor's actions; the actor this
    observation and the next."""
    found = others(task)
    obs, actions = flops.SIZES[task.env]
    actor, critic = (obs, *task.hidden, 2 * actions), (obs + actions, *task.hidden, 1)
    seconds = kernels(actor, task.batch_size, jax.nn.relu, forward=2)
    seconds += kernels(critic, task.batch_size, jax.nn.relu, forward=6, weights=2, inputs=4)
    work = found[-1].flops
    found.append(Piece("each of its nets' kernels alone", seconds, 2, work))
    return found


PROFILES = {"ppo": ppo, "dqn": others, "sac": sac}


def table(task: Task, pieces: list[Piece], peak: float) -> str:
    whole = pieces[0].seconds
    agent = agent_for(task)
    steps = agent.num_envs * agent.num_steps
    lines = [
        f"\n### {task.name}: {1e6 * whole:,.0f} us per iteration of {steps} steps, "
        f"{steps / whole:,.0f} steps/s\n",
        "| piece | us | share of iteration | GFLOP/s | share of matmul rate |",
        "|---|---|---|---|---|",
    ]
    for piece in pieces:
        rate = piece.flops / piece.seconds
        shown = f"{rate / 1e9:.1f} | {100 * rate / peak:.1f} %" if rate else " | "
        lines.append(
            f"| {'&nbsp;&nbsp;' * piece.level}{piece.name} | {1e6 * piece.seconds:,.0f} | "
            f"{100 * piece.seconds / whole:.0f} % | {shown} |"
        )
    return "\n".join(lines)


def tasks(args: argparse.Namespace) -> list[Task]:
    chosen = ("ppo", "dqn", "sac") if args.algorithm == "all" else (args.algorithm,)
    found: list[Task] = []
    for algorithm in chosen:
        if algorithm == "ppo":
            found += [settings.ppo(n) for n in args.envs]
        elif algorithm == "dqn":
            found += [settings.dqn(1), settings.dqn(10)]
        else:
            found.append(settings.sac())
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("benchmarks.profile", description=__doc__)
    parser.add_argument("algorithm", choices=(*PROFILES, "all"))
    parser.add_argument("--envs", type=int, nargs="+", default=[4, 64], help="of PPO")
    parser.add_argument("--out", default=None, help="name of the files in benchmarks/results/")
    args = parser.parse_args(argv)
    peak = matmul_rate()
    stamped = stamp.stamp("benchmarks.profile", matmul_gflops=peak / 1e9, seeds=[0])
    print(f"large float32 matrix product: {peak / 1e9:,.0f} GFLOP/s", flush=True)
    text, data = "", []
    for task in tasks(args):
        pieces = PROFILES[task.algorithm](task)
        shown = table(task, pieces, peak)
        print(shown, flush=True)
        text += shown + "\n"
        data.append({"task": dataclasses.asdict(task), "pieces": [vars(p) for p in pieces]})
    RESULTS.mkdir(exist_ok=True)
    name = args.out or f"profile-{args.algorithm}"
    (RESULTS / f"{name}.json").write_text(
        json.dumps({"stamp": stamped, "profiles": data}, indent=1) + "\n"
    )
    head = f"{stamp.line(stamped)}; large matrix product {peak / 1e9:,.0f} GFLOP/s\n"
    (RESULTS / f"{name}.md").write_text(head + text)


if __name__ == "__main__":
    main()
