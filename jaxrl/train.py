"""The one driver: any agent with `update` on any environment, one run or thousands.

Called with ordinary values, `train` compiles one program for a chunk of training, runs it chunk
after chunk (so that progress can be shown and a run can be stopped), and returns a `Result`. Called
with traced values, inside the user's own `jit` or `vmap`, it is the same computation as one scan.
Both give the same numbers, whatever the chunks.

The random numbers of iteration i come from `fold_in(key, i)`: a run depends on its key alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import (
    checks,
    distributed,
    host,
    host_programs,
    host_train,
    lanes,
    memory,
    record,
    rollout,
    spaces,
)
from jaxrl import guard as guards
from jaxrl import mesh as meshes
from jaxrl.checkpoint import CheckpointError, Checkpoints
from jaxrl.dataset import Dataset
from jaxrl.evaluate import MAX_STEPS, play
from jaxrl.host import HostEnv
from jaxrl.lanes import Lanes
from jaxrl.mesh import Mesh
from jaxrl.progress import Progress
from jaxrl.result import Result, Task, Timing
from jaxrl.rollout import RESET_EVERY, Streams
from jaxrl.struct import struct
from jaxrl.types import Agent, Counter, Env, Key, Metrics, PyTree, Spec

if TYPE_CHECKING:
    from jaxrl.keeper import Keeper, Past

POINTS = 100
"""Points of a learning curve, unless `log_every` says otherwise."""

CACHE, TOGETHER = 2**20, 128
"""Bytes of runs that are advanced together on a CPU, and how many of them at most (measured: PPO,
DQN, SAC and tables are then within a tenth of what the best number for each gives)."""

STEP = 32
"""Bytes of a step beside observation and action: reward, flags, log-probability, value."""

CHUNK_SECONDS = 1.0
"""How long a chunk should take: the interval between two lines of progress."""


@struct
class Run:
    """Everything needed to go on."""

    state: Any
    streams: Streams | None  # None where the environments run on the host
    iteration: Counter
    health: guards.Health | None = None  # None where nobody asked to look at it


@dataclasses.dataclass(frozen=True)
class Plan:
    """What of a call to `train` is part of the program."""

    spec: Spec
    iterations: int
    per_point: int  # iterations averaged into one point of the curves
    evaluate_points: int  # points between two evaluations; 0 for none
    evaluate_episodes: int
    reset_every: int
    lanes: Lanes | None  # None: a single run, without a lane axis
    guard: bool = False
    envs: int = 1  # devices that share each run
    per_iteration: int = 1  # steps of a run

    @property
    def devices(self) -> int:
        """How many devices, or rows of them, runs are spread over."""
        return 1 if self.lanes is None else self.lanes.devices

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Entered while the program is traced and run."""
        return meshes.scope(self.devices, self.envs)

    @property
    def points(self) -> int:
        return math.ceil(self.iterations / self.per_point)

    def ends(self, begun: int = 0) -> np.ndarray[Any, Any]:
        """The iterations with which points of the curves end, after `begun` of them."""
        first = begun // self.per_point + 1
        whole = np.arange(first, self.points + 1) * self.per_point
        ends = np.minimum(whole, self.iterations)
        return ends[ends > begun]


def begin(agent: Agent, env: Env, key: Key, plan: Plan, start: PyTree = None) -> Run:
    init_key, env_key = jax.random.split(jax.random.fold_in(key, 2**31))
    state = agent.init(init_key, plan.spec)
    if start is not None:
        state = agent.start_from(state, start)  # pyright: ignore
    streams = None  # a host's environments are no arrays: see jaxrl.host_train
    if not isinstance(env, HostEnv | Dataset):
        streams = rollout.start(agent, env, env_key, plan.reset_every)
    run = Run(meshes.whole(state), streams, Counter.zero())
    if plan.guard:
        metrics = jax.eval_shape(lambda run: _metrics(agent, env, run, key, plan), run)
        run = dataclasses.replace(run, health=guards.healthy(state, metrics))
    return run


def _metrics(agent: Agent, env: Env, run: Run, key: Key, plan: Plan) -> Metrics:
    """Of one iteration, to be evaluated for their shapes."""
    if isinstance(env, HostEnv):
        return host_programs.metrics(agent, run.state, plan.spec)
    return iterate(agent, env, run, key, plan)[1]


def iterate(agent: Agent, env: Env, run: Run, key: Key, plan: Plan) -> tuple[Run, Metrics]:
    """One rollout and one update, or one batch of a dataset and one gradient step."""
    count = run.iteration.value
    if isinstance(env, Dataset):
        gradient: Any = agent
        order = jax.random.fold_in(key, 2**31 + 2)
        batch = meshes.spread(env.batch(order, count, gradient.batch_size))
        state, metrics = gradient.learn(run.state, batch, jax.random.fold_in(key, count))
        return _checked(run, state, None, metrics)
    rollout_key, update_key = jax.random.split(jax.random.fold_in(key, count))
    assert run.streams is not None
    streams, experience, episodes = rollout.collect(
        agent, env, plan.spec, run.state, run.streams, rollout_key, count, plan.reset_every
    )
    state, metrics = agent.update(run.state, experience, update_key)
    metrics = {
        **metrics,
        **{f"measure/{name}": jnp.nanmean(x) for name, x in dict(experience.measures).items()},
        "episode/return": episodes.returns,
        "episode/length": episodes.lengths,
        "episode/count": episodes.count,
    }
    return _checked(run, state, streams, metrics)


def _checked(
    run: Run, state: Any, streams: Streams | None, metrics: Metrics
) -> tuple[Run, Metrics]:
    """The run after an iteration, looked through where that was asked for."""
    health = run.health
    if health is not None:
        health, metrics = guards.check(health, state, metrics, run.iteration.value)
    state, health, metrics = meshes.whole((state, health, metrics))
    return Run(state, streams, run.iteration.add(1), health), metrics


def _point(agent: Agent, env: Env, run: Run, key: Key, plan: Plan) -> tuple[Run, Metrics]:
    """One point of the learning curves: `per_point` iterations, or as many as are left.

    A metric is averaged over the iterations in which it exists (is not NaN); episode metrics are
    averaged over the episodes that ended.
    """
    begun = run.iteration.value
    names = sorted(jax.eval_shape(lambda r, k: iterate(agent, env, r, k, plan)[1], run, key))
    zeros = jnp.zeros(len(names))  # one vector: a short iteration cannot afford an addition each

    def body(_: jax.Array, carry: tuple[Run, jax.Array, jax.Array]) -> tuple[Any, ...]:
        run, sums, counts = carry
        run, metrics = iterate(agent, env, run, key, plan)
        values = jnp.stack([metrics[name] for name in names])
        exists = ~jnp.isnan(values)
        return run, sums + jnp.where(exists, values, 0), counts + exists

    # A point ends at a multiple of `per_point`, also after a shorter run was made longer.
    bound = jnp.minimum(plan.per_point - begun % plan.per_point, plan.iterations - begun)
    run, sums, counts = jax.lax.fori_loop(0, bound, body, (run, zeros, zeros))
    metrics = dict(zip(names, sums / counts, strict=True))
    totals = dict(zip(names, sums, strict=True))
    if "episode/count" in totals:
        episodes = totals["episode/count"]
        for name in ("episode/return", "episode/length"):
            metrics[name] = totals[name] / episodes
        metrics["episode/count"] = episodes
    if plan.evaluate_points:
        due = run.iteration.value % (plan.per_point * plan.evaluate_points) == 0
        due |= run.iteration.value == plan.iterations

        def assess(state: Any) -> tuple[jax.Array, jax.Array]:
            eval_key = jax.random.fold_in(jax.random.fold_in(key, 2**31 + 1), run.iteration.value)
            played = play(agent, env, plan.spec, state, eval_key, plan.evaluate_episodes, MAX_STEPS)
            return played.returns.mean(), played.lengths.mean()

        nan = jnp.full((), jnp.nan)
        score, length = jax.lax.cond(due, assess, lambda _: (nan, nan), run.state)
        metrics |= {"evaluate/return": score, "evaluate/length": length}
    return run, metrics


def _points(
    agent: Agent, env: Env, run: Run, key: Key, plan: Plan, count: jax.Array | int, room: int
) -> tuple[Run, Metrics]:
    """`count` points (at most `room`, which sets the shape of the metrics)."""
    shapes = jax.eval_shape(lambda r, k: _point(agent, env, r, k, plan)[1], run, key)
    rows = {name: jnp.full(room, jnp.nan) for name in shapes}

    def body(i: jax.Array, carry: tuple[Run, Metrics]) -> tuple[Run, Metrics]:
        run, rows = carry
        run, metrics = _point(agent, env, run, key, plan)
        return run, {name: rows[name].at[i].set(metrics[name]) for name in rows}

    return jax.lax.fori_loop(0, count, body, (run, rows))


def _split(agent: Agent, key: Key, plan: Plan) -> tuple[PyTree, PyTree]:
    """-> what all lanes share, what each has its own of."""
    if checks.stacked(agent):
        return None, (agent, key)
    return agent, (None, key)


def _begin_all(agent: Agent, env: Env, key: Key, plan: Plan, start: PyTree = None) -> Run:
    if plan.lanes is None:
        return begin(agent, env, key, plan, start)
    common, own = _split(agent, key, plan)

    def one(shared: PyTree, split: PyTree) -> Run:
        common, env, start = shared
        agent, key = split
        return begin(common if agent is None else agent, env, key, plan, start)

    return lanes.each(one, (common, env, start), own, plan.lanes)


def _points_all(
    agent: Agent, env: Env, run: Run, key: Key, plan: Plan, count: jax.Array | int, room: int
) -> tuple[Run, Metrics]:
    if plan.lanes is None:
        return _points(agent, env, run, key, plan, count, room)
    common, own = _split(agent, key, plan)

    def one(shared: PyTree, split: PyTree) -> tuple[Run, Metrics]:
        common, env, count = shared
        run, (agent, key) = split
        return _points(common if agent is None else agent, env, run, key, plan, count, room)

    return lanes.each(one, (common, env, count), (run, own), plan.lanes, onward=True)


_begin_jit = jax.jit(_begin_all, static_argnames=("plan",))
_advance_donating = jax.jit(_points_all, static_argnames=("plan", "room"), donate_argnames=("run",))
_advance_keeping = jax.jit(_points_all, static_argnames=("plan", "room"))


@dataclasses.dataclass
class _Call:
    """The arguments of `train` after checking."""

    agent: Any
    env: Any
    key: Key
    plan: Plan
    start: PyTree = None


def _prepare(
    agent: Agent,
    env: Env,
    key: Key,
    *,
    steps: int,
    evaluate_every: int | None,
    evaluate_episodes: int,
    log_every: int | None,
    reset_every: int | None,
    together: int | None,
    every: int | None = None,
    guard: bool = False,
    mesh: Mesh | None = None,
    start: PyTree = None,
) -> _Call:
    traced = checks.is_traced((agent, env, key, start))
    data = isinstance(env, Dataset)
    spec = checks.fitting(agent, env, steps) if data else checks.task(agent, env, steps)
    checks.start(agent, spec, start)
    hosted = isinstance(env, HostEnv)
    if hosted:
        host.check(agent, env, traced)
        if mesh is not None or distributed.several():
            raise TypeError(
                "environments on the host are stepped by one process for one device: leave mesh= "
                "away, or use an environment of jaxrl.envs.make."
            )
    key, count = checks.keys(key, agent)
    shared: int = getattr(agent, "batch_size" if data else "num_envs")
    wish = meshes.parse(mesh, shared, count)
    if traced and mesh is not None:
        raise TypeError(
            f"mesh={mesh} lays out devices, which a program inside jit or vmap cannot: call "
            "jaxrl.train with concrete values (an array of keys is several runs)."
        )
    spacings = {"log_every": log_every, "evaluate_every": evaluate_every, "every": every}
    for name, value in spacings.items():
        if value is not None:
            checks.positive_int(value, name)
    checks.positive_int(evaluate_episodes, "evaluate_episodes")
    if reset_every is None:
        reset_every = int(getattr(agent, "reset_every", RESET_EVERY))
    checks.positive_int(reset_every, "reset_every")
    if together is not None:
        checks.positive_int(together, "lanes")
    elif count is not None and not traced and not hosted and jax.default_backend() == "cpu":
        together = _suits(agent, env, spec)
    per_iteration = 1 if data else agent.num_envs * agent.num_steps
    iterations = steps // per_iteration
    spacing = log_every or min(steps / POINTS, every or steps)
    if every is not None and every < spacing:
        raise ValueError(
            f"every={every:_} is less than log_every={log_every:_}, but checkpoints are saved at "
            f"points of the curves: write log_every={every:_}, or nothing."
        )
    per_point = max(1, round(spacing / per_iteration))
    evaluate_points = 0
    if evaluate_every is not None:
        period = max(1, round(evaluate_every / per_iteration))
        evaluate_points = math.ceil(period / per_point)
        per_point = max(1, round(period / evaluate_points))
    on_device = functools.partial(lanes.arrange, spread=not traced, wish=wish)
    arrange = host.arrange if hosted else on_device
    plan = Plan(
        spec=spec,
        iterations=iterations,
        per_point=min(per_point, iterations),
        evaluate_points=evaluate_points,
        evaluate_episodes=evaluate_episodes,
        reset_every=reset_every,
        lanes=None if count is None else arrange(count, together),
        guard=guard,
        envs=wish.envs,
        per_iteration=per_iteration,
    )
    if traced:
        return _Call(agent, env, key, plan, start)
    # A single run that is not shared is made by every process for itself.
    processes = jax.process_count() if count is not None or wish.envs > 1 else 1
    checks.memory(agent, spec, count or 1, wish.envs, processes)
    agent, env = _strong(agent, jnp.float32), _strong(env)
    if plan.lanes is not None:
        key = lanes.pad(key, plan.lanes)
        if checks.stacked(agent):
            agent = jax.tree.map(lambda x: jnp.broadcast_to(x, count), agent)
            agent = lanes.pad(agent, plan.lanes)
    return _Call(agent, env, key, plan, start)


def _suits(agent: Agent, env: Env, spec: Spec) -> int:
    """How many runs a CPU should advance together: those that its cache holds, with what each of
    them looks at in an iteration. Of large runs that is one; of small ones many, since an operation
    on small arrays takes as long for ten of them as for one. An agent may know better: one whose
    runs would wait for one another says `together = 1`."""
    own = getattr(agent, "together", None)
    if own is not None:
        return own
    if isinstance(env, Dataset):
        seen = memory.of(env.arrays) * agent.batch_size // env.size  # pyright: ignore
    else:
        one = (spec.obs_space, spec.action_space)
        step = jax.eval_shape(lambda: [spaces.zeros(space) for space in one])
        seen = (memory.of(step) + STEP) * agent.num_envs * agent.num_steps
    return max(1, min(TOGETHER, CACHE // (memory.of(checks.begun(agent, spec)) + seen)))


def _strong(tree: PyTree, dtype: Any = None) -> PyTree:
    """Arrays of definite type: 1, 1.0 and a float32 scalar must be the same program."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype or jnp.result_type(x)), tree)


def _result(
    call: _Call,
    run: Run,
    metrics: Metrics,
    timing: Timing,
    ends: np.ndarray[Any, Any],
) -> Result:
    """`metrics` without padding, at the iterations `ends`."""
    plan, data = call.plan, isinstance(call.env, Dataset)
    agent, state, health = call.agent, *distributed.gathered((run.state, run.health))
    if plan.lanes is not None:
        state = lanes.trim(state, plan.lanes)
        health = lanes.trim(health, plan.lanes)
        if checks.stacked(agent):
            agent = lanes.trim(agent, plan.lanes)
    if health is not None:
        state = guards.mended(health, state)
    steps = jnp.asarray(ends) * plan.per_iteration
    return Result(
        agent=agent,
        state=state,
        metrics=metrics,
        steps=jnp.broadcast_to(steps, next(iter(metrics.values())).shape),
        spec=plan.spec,
        timing=timing,
        sick=_sick(call, run, metrics),
        task=None if data or checks.is_traced((call.env, metrics)) else Task(call.env),
    )


def _trim(tree: PyTree, plan: Plan) -> PyTree:
    return tree if plan.lanes is None else lanes.trim(tree, plan.lanes)


def train(
    agent: Agent,
    env: Env,
    key: Key,
    *,
    steps: int,
    progress: bool | None = None,
    evaluate_every: int | None = None,
    evaluate_episodes: int = 128,
    log_every: int | None = None,
    reset_every: int | None = None,
    lanes: int | None = None,
    checkpoint: str | Path | Checkpoints | None = None,
    every: int | None = None,
    resume: bool | str = False,
    guard: bool = False,
    log: Any = None,
    mesh: Mesh | None = None,
    start: PyTree = None,
) -> Result:
    """Train `agent` on `env` for `steps` environment steps per run (rounded down to whole
    iterations of `agent.num_envs * agent.num_steps`).

    `key` is one key, or an array of keys for as many independent runs; `agent` may be a stack of
    agents, one setting of its float hyperparameters per run. Runs are spread over all devices;
    `lanes` says how many are advanced together on each (by default all of them on an accelerator,
    and on a CPU as many as its cache holds, which is one after the other where they are large).
    `mesh=jaxrl.Mesh(envs=4)` lets four devices share each run; see docs/devices.md.

    `progress` shows a line per second: None means only on a terminal. `evaluate_every` adds
    `evaluate/return`, the mean of `evaluate_episodes` episodes played without exploration, about
    every so many steps. `log_every` sets the spacing of the learning curves (a hundred points by
    default). `reset_every` is explained in `jaxrl.rollout`; 1 makes every start a fresh one, 16 is
    the default of most agents.

    `checkpoint` is a folder in which everything needed to go on is saved about `every` so many
    steps (ten times by default) and at the end; `resume=True` goes on from the newest of what is
    there, or begins where there is nothing; see docs/checkpoints.md. `guard=True` stops a run in
    the iteration in which a loss or a parameter becomes infinite or NaN, and keeps what was there
    before: of several runs the others go on and `result.sick` tells of those that stopped; when
    none is left `jaxrl.NonFinite` is raised, with the result.

    `log` is where the metrics go while the run goes on: a folder, a sink of `jaxrl.sinks` or one of
    your own, or a list of those; a folder for checkpoints gets them in any case. See
    docs/watching.md.

    `start` is what the agent begins with instead of random parameters, where it can begin with
    something: the parameters of a language model, say. A run that is resumed does not need it.
    """
    folders, sinks = record.parse(log)
    if isinstance(start, Result):
        start = start.state
    _check_options(checkpoint, every, resume, guard)
    call = _prepare(
        agent,
        env,
        key,
        steps=steps,
        evaluate_every=evaluate_every,
        evaluate_episodes=evaluate_episodes,
        log_every=log_every,
        reset_every=reset_every,
        together=lanes,
        every=every,
        guard=guard,
        mesh=mesh,
        start=start,
    )
    plan = call.plan
    if checks.is_traced((agent, env, key, start)):
        if checkpoint is not None or guard or log is not None:
            name = "guard" if guard else "log" if checkpoint is None else "checkpoint"
            raise TypeError(
                f"{name}= needs to look at the run from outside, which it cannot inside jit or "
                "vmap: call jaxrl.train with concrete values (an array of keys is several runs)."
            )
        # Constants of the caller's program must not be folded into ours: same numbers, same bits.
        own = (_strong(call.agent, jnp.float32), _strong(call.env))
        agent, env = jax.lax.optimization_barrier(own)
        run = _begin_all(agent, env, call.key, plan, start)
        run, metrics = _points_all(agent, env, run, call.key, plan, plan.points, plan.points)
        return _result(call, run, _trim(metrics, plan), Timing(), plan.ends())

    if checkpoint is None and log is None:
        return _drive(call, progress)
    arguments = {
        "steps": steps,
        "log_every": log_every,
        "evaluate_every": evaluate_every,
        "evaluate_episodes": evaluate_episodes,
        "reset_every": plan.reset_every,
        "lanes": lanes,
        "every": every,
        "guard": guard,
    }
    content = _content(call, agent, env, arguments)
    kept = None if checkpoint is None else _checkpoints(checkpoint)
    with contextlib.ExitStack() as stack:
        keeper = None
        if kept is not None:
            keeper = stack.enter_context(_keeper(call, kept, resume, content))
            call.plan = keeper.plan
            folders.insert(0, Path(kept.path))
        sink = record.Log(folders, sinks) if distributed.first() else record.Log([], [])
        distributed.by_first(lambda: sink.check(folders if not resume else folders[1:]))
        stack.callback(sink.close)
        past = None if keeper is None else keeper.past
        if past is None or past.ends[-1] < call.plan.iterations:
            _open(sink, call, content, past)
        return _drive(call, progress, keeper, sink)


def go_on(
    agent: Agent,
    env: Env,
    key: Key,
    state: Any,
    *,
    steps: int,
    log_every: int | None = None,
    progress: bool | None = None,
    log: Any = None,
) -> Result:
    """`train` for one run that begins with a state that was trained before; environments and
    memories begin anew. The state is given away, and must say `steps` in its spec."""
    folders, sinks = record.parse(log)
    call = _prepare(
        agent,
        env,
        key,
        steps=steps,
        evaluate_every=None,
        evaluate_episodes=1,
        log_every=log_every,
        reset_every=RESET_EVERY,
        together=None,
    )
    run = _begin_jit(call.agent, call.env, call.key, plan=call.plan)
    run = dataclasses.replace(run, state=state)
    if log is None:
        return _drive(call, progress, start=run)
    with contextlib.closing(record.Log(folders, sinks)) as sink:
        sink.check(folders)
        content = _content(call, agent, env, {"steps": steps, "log_every": log_every})
        sink.open(content, [], None)
        return _drive(call, progress, log=sink, start=run)


def _check_options(checkpoint: Any, every: Any, resume: Any, guard: Any) -> None:
    if not isinstance(guard, bool):
        raise TypeError(f"guard={guard!r} must be True or False.")
    if resume not in (True, False, "newest good"):
        raise ValueError(f'resume={resume!r} must be True, False or "newest good".')
    if checkpoint is None:
        for name, value in (("every", every), ("resume", resume or None)):
            if value is not None:
                raise ValueError(
                    f'{name}={value!r} says nothing without a folder: write checkpoint="runs/x" '
                    "too."
                )


def _checkpoints(checkpoint: Any) -> Checkpoints:
    options = checkpoint if isinstance(checkpoint, Checkpoints) else Checkpoints(checkpoint)
    options.check()
    return options


def _content(call: _Call, agent: Any, env: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """What the call was given, as JSON."""
    from jaxrl import keeper

    return {
        "agent": keeper.described(agent),
        "env": keeper.described(env),
        "key": keeper.save_key(_trim(call.key, call.plan)),
        "call": arguments,
    }


def _keeper(
    call: _Call, options: Checkpoints, resume: bool | str, content: dict[str, Any]
) -> Keeper:
    from jaxrl import keeper

    kept = {name: getattr(options, name) for name in ("latest", "best", "metric")}
    content = {**content, "call": {**content["call"], **kept}}

    def shapes(plan: Plan) -> Run:
        begin = functools.partial(_begin_all, plan=plan)
        return jax.eval_shape(begin, call.agent, call.env, call.key)

    return keeper.Keeper(options, resume, content, call.plan, shapes, call.plan.per_iteration)


def _open(log: record.Log, call: _Call, content: dict[str, Any], past: Past | None) -> None:
    """Begin the files, or go on with them after what was saved."""
    if past is None:
        log.open(content, [], None)
    else:
        each = call.plan.per_iteration
        log.open(content, [int(x) * each for x in past.ends], past.metrics)


def _drive(
    call: _Call,
    progress: bool | None,
    keeper: Keeper | None = None,
    log: record.Log | None = None,
    start: Run | None = None,
) -> Result:
    """Chunk after chunk to the end, from the beginning, from `start` or from what was saved."""
    plan = call.plan
    past = keeper.past if keeper is not None else None
    rows: list[Metrics] = [] if past is None else [past.metrics]
    ends = begun = np.zeros(0, int) if past is None else past.ends

    def result(run: Run, timing: Timing) -> Result:
        parts = {name: [np.asarray(row[name]) for row in rows] for name in rows[0]}
        metrics = {name: jnp.asarray(np.concatenate(part, -1)) for name, part in parts.items()}
        return _result(call, run, metrics, timing, ends)

    last = (past.run, Timing()) if past is not None else None
    every = None if keeper is None else keeper.points
    chunks = _chunks(call, progress, donate=True, past=past, every=every, start=start)
    for run, new, timing in chunks:
        last = run, timing
        rows.append(_trim(new, plan))
        made = sum(_points_in(row) for row in rows)
        ends = np.concatenate([begun, plan.ends(begun[-1] if begun.size else 0)])[:made]
        if log is not None:
            log.after(
                [int(x) * plan.per_iteration for x in ends[made - _points_in(rows[-1]) :]],
                rows[-1],
                timing,
            )
        sick = _sick(call, run, new)
        if len(sick) == (1 if plan.lanes is None else plan.lanes.count):
            raise guards.NonFinite(guards.message(sick, keeper is not None), result(run, timing))
        if keeper is not None:
            try:
                keeper.after(run, rows, ends)
            except CheckpointError as error:
                error.result = result(run, timing)
                raise
    assert last is not None
    over = result(*last)
    if keeper is not None:
        try:
            distributed.by_first(keeper.wait)
        except CheckpointError as error:
            error.result = over
            raise
    return over


def _points_in(metrics: Metrics) -> int:
    return next(iter(metrics.values())).shape[-1]


def _sick(call: _Call, run: Run, metrics: Metrics) -> tuple[guards.Sick, ...]:
    if run.health is None:
        return ()
    runs = None if call.plan.lanes is None else call.plan.lanes.count
    health = distributed.gathered(run.health)
    return guards.report(health, run.state, metrics, call.plan.per_iteration, runs)


def restored(agent: Any, env: Any, key: Key, content: Any, read: Callable[..., Past]) -> Result:
    """What was saved, as a result: `read(shapes, plan)` gives the run of that form."""
    options = {**content["call"], "together": content["call"]["lanes"]}
    for name in ("lanes", "latest", "best", "metric"):
        del options[name]
    call = _prepare(agent, env, key, **options)
    call.plan = dataclasses.replace(call.plan, **content["plan"])
    begin = functools.partial(_begin_all, plan=call.plan)
    past = read(jax.eval_shape(begin, call.agent, call.env, call.key), call.plan)
    return _result(call, past.run, past.metrics, Timing(), past.ends)


def stream(
    agent: Agent,
    env: Env,
    key: Key,
    *,
    steps: int,
    log_every: int | None = None,
    evaluate_every: int | None = None,
    evaluate_episodes: int = 128,
    reset_every: int | None = None,
    lanes: int | None = None,
    mesh: Mesh | None = None,
    start: PyTree = None,
) -> Iterator[tuple[Any, Metrics]]:
    """`train` as a loop of your own: yields the agent's state and the metrics after every point of
    the learning curve. The state is yours to keep; leaving the loop stops the run."""
    call = _prepare(
        agent,
        env,
        key,
        steps=steps,
        evaluate_every=evaluate_every,
        evaluate_episodes=evaluate_episodes,
        log_every=log_every,
        reset_every=reset_every,
        together=lanes,
        mesh=mesh,
        start=start.state if isinstance(start, Result) else start,
    )
    if checks.is_traced((agent, env, key)):
        raise TypeError(
            "jaxrl.stream was called inside jit or vmap, where a Python loop cannot follow a run; "
            "call jaxrl.train there, or stream with concrete values outside."
        )
    return _stream(call)


def _stream(call: _Call) -> Iterator[tuple[Any, Metrics]]:
    for run, metrics, _ in _chunks(call, progress=False, donate=False, chunk=1):
        state = distributed.gathered(run.state)
        if call.plan.lanes is not None:
            state, metrics = lanes.trim((state, metrics), call.plan.lanes)
        yield state, {name: jnp.asarray(row[..., 0]) for name, row in metrics.items()}


def _chunks(
    call: _Call,
    progress: bool | None,
    donate: bool,
    chunk: int | None = None,
    past: Past | None = None,
    every: int | None = None,
    start: Run | None = None,
) -> Iterator[tuple[Run, Metrics, Timing]]:
    """Advance chunk by chunk, from `past` on; the metrics, NumPy's, are those of the points made.
    No chunk goes beyond a multiple of `every` points."""
    begun = int(past.ends[-1]) if past is not None and len(past.ends) else 0
    if begun >= call.plan.iterations:
        return
    progress = progress if distributed.first() else False
    plan = call.plan
    show = Progress(progress, plan.iterations, call.agent, plan.lanes, begun, plan.per_iteration)
    try:
        with _program(call, donate) as advance:
            yield from _advance(call, show, advance, chunk, past, every, start)
    finally:
        show.close()


@contextlib.contextmanager
def _program(call: _Call, donate: bool) -> Generator[Callable[..., tuple[Run, Metrics]]]:
    """What makes points of the curves: a compiled loop, or one that steps Python objects."""
    if isinstance(call.env, HostEnv):
        with host_train.Driver(call.env, donate) as driver:
            yield driver.points
    else:
        yield _advance_donating if donate else _advance_keeping


def estimate(call: _Call, advance: Any, there: bool = False) -> memory.Estimate:
    """What a call will take; tracing it costs nothing, because the call needs that too. `there`
    says that the runs are in memory already."""
    plan = call.plan
    with plan.scope():
        run = _begin_jit.eval_shape(call.agent, call.env, call.key, plan=plan, start=call.start)
        traced = advance.func.trace(
            call.agent, call.env, run, call.key, count=0, **advance.keywords
        )
    needed = memory.estimate(traced.jaxpr, run, plan.envs)
    memory.warn(needed, plan.lanes, jax.process_count(), needed.state if there else 0)
    return needed


def _advance(
    call: _Call,
    show: Progress,
    advance: Callable[..., tuple[Run, Metrics]],
    chunk: int | None,
    past: Past | None,
    every: int | None,
    start: Run | None,
) -> Iterator[tuple[Run, Metrics, Timing]]:
    plan = call.plan
    made = 0 if past is None else len(past.ends)
    begun = int(past.ends[-1]) if made and past is not None else 0
    ends = plan.ends(begun)
    if not ends.size:
        return
    ends = np.concatenate([np.zeros(made, int), ends])
    advance = functools.partial(advance, plan=plan, room=chunk or plan.points)
    began = time.perf_counter()
    there = past is not None or start is not None
    needed = None if isinstance(call.env, HostEnv) else estimate(call, advance, there)
    show.compiling("" if needed is None else str(needed))
    given = call.agent, call.env, call.key
    if distributed.several() and plan.devices * plan.envs > 1:
        given = distributed.place(given, meshes.devices(plan.devices, plan.envs))
    with plan.scope():
        run = past.run if past is not None else start
        if run is None:
            run = _begin_jit(*given, plan=plan, start=call.start)
        # No points: compiles, and runs nothing.
        run, _ = jax.block_until_ready(advance(*given[:2], run, given[2], count=0))
    compile_seconds = time.perf_counter() - began
    show.compiled(compile_seconds)

    size, began = 1, time.perf_counter()
    while made < len(ends):
        size = min(size, len(ends) - made, chunk or plan.points)
        if every is not None:
            size = min(size, every - made % every)
        chunk_began = time.perf_counter()
        with plan.scope():
            run, metrics = advance(*given[:2], run, given[2], count=size)
        if distributed.several():
            metrics = {name: distributed.fetch(row) for name, row in metrics.items()}
        # Cut by NumPy: sizes depend on the clock, and JAX would compile for every new one.
        whole = jax.device_get(metrics)
        points: dict[str, Any] = {k: np.array(row[..., :size]) for k, row in whole.items()}
        took = time.perf_counter() - chunk_began
        made += size
        iterations = int(ends[made - 1])
        runs = 1 if plan.lanes is None else plan.lanes.count
        timing = Timing(
            compile_seconds=compile_seconds,
            memory=0 if needed is None else needed.total,
            run_seconds=time.perf_counter() - began,
            steps=(iterations - begun) * plan.per_iteration * runs,
        )
        show.advanced(iterations, points, timing)
        yield run, points, timing
        size = max(1, int(size * min(4.0, CHUNK_SECONDS / max(took, 1e-6))))
        if distributed.several():  # clocks differ
            size = int(distributed.exchange(size)[0, 0])
