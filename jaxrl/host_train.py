"""Training in environments of the host, by the same calls as everywhere.

The driver alternates between pools and the compiled agent (`jaxrl.host_programs`). Agents notice
nothing: they are given the `Rollout` of `jaxrl.types`.

The program runs ahead of Python where that changes nothing: an update is only waited for when the
next action is needed, and with `groups=2` half of the environments step while the device chooses
the actions of the other half.

A pool has no state that could be saved. Where a saved run goes on its environments begin anew, and
`jaxrl.replay.close` ends the episodes that were running in a replay.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import checks, host_play, lanes, rollout
from jaxrl import host_programs as programs
from jaxrl.host import EVALUATION, SEEDS, Array, HostEnv, Pool, arrange, seeds
from jaxrl.types import Key, Metrics, PyTree

if TYPE_CHECKING:
    from jaxrl.train import Plan, Run


class Group:
    """Some of the environments of every run, and what they have brought back so far."""

    def __init__(self, pool: Pool, seeds: Array, steps: int, memory: PyTree, lead: Any) -> None:
        self.pool, self.lead = pool, lead  # lead: (N,) or (lanes, N)
        size = math.prod(lead)
        self.obs = self._shaped(pool.reset(seeds.ravel()))
        self.first = np.ones(lead, np.bool_)
        self.memory = self.begun = memory
        self.store: PyTree = None  # [T, N, ...] on the device
        self.steps = steps
        self.returns, self.lengths = np.zeros(size), np.zeros(size, np.int64)
        zero = jax.tree.map(lambda x: np.zeros((steps, *x.shape), x.dtype), self.obs)
        self._nothing = jax.tree.map(lambda x: jnp.asarray(self._time(x)), zero)
        self.clear()

    def _shaped(self, obs: PyTree) -> PyTree:
        """[lanes * N, ...] -> [lanes, N, ...]"""
        if len(self.lead) == 1:
            return obs
        return jax.tree.map(lambda x: x.reshape(*self.lead, *x.shape[1:]), obs)

    def _time(self, rows: Array) -> Array:
        """[T, lanes, N, ...] -> [lanes, T, N, ...]"""
        return rows if len(self.lead) == 1 else np.swapaxes(rows, 0, 1)

    def clear(self) -> None:
        """New arrays each time: the device may still be reading the old ones."""
        shape = (self.steps, *self.lead)
        self.begun = self.memory
        self.reward = np.zeros(shape, np.float32)
        self.terminated, self.truncated = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        self.firsts = np.zeros(shape, np.bool_)
        self.final_obs: PyTree = None

    def step(self, action: Array, t: int) -> None:
        moved = self.pool.step(action.reshape(-1, *action.shape[len(self.lead) :]))
        self.firsts[t] = self.first
        self.reward[t] = moved.reward.reshape(self.lead)
        self.terminated[t] = moved.terminated.reshape(self.lead)
        self.truncated[t] = moved.truncated.reshape(self.lead)
        self.first = self.terminated[t] | self.truncated[t]
        self.obs = self._shaped(moved.obs)
        if moved.final_obs is not None:
            if self.final_obs is None:
                self.final_obs = jax.tree.map(
                    lambda x: np.zeros((self.steps, *x.shape), x.dtype), self.obs
                )
            for rows, x in zip(
                jax.tree.leaves(self.final_obs),
                jax.tree.leaves(self._shaped(moved.final_obs)),
                strict=True,
            ):
                rows[t] = x

    def played(self) -> programs.Played:
        """To be looked at before `clear`."""
        final = self._nothing
        if self.final_obs is not None:
            final = jax.tree.map(self._time, self.final_obs)
        return programs.Played(
            stored=self.store,
            reward=self._time(self.reward),
            terminated=self._time(self.terminated),
            truncated=self._time(self.truncated),
            first=self._time(self.firsts),
            final_obs=final,
            last_obs=self.obs,
            memory=self.begun,
            last_memory=self.memory,
        )

    def episodes(self) -> tuple[Array, Array, Array]:
        """Sums of the returns and lengths of the episodes that ended, and how many did: [] or
        [lanes]. Counts on what is left open."""
        size = self.returns.size
        ended = (self.terminated | self.truncated).reshape(self.steps, size)
        reward = self.reward.reshape(self.steps, size)
        t = np.arange(1, self.steps + 1)[:, None]
        last = np.max(np.where(ended, t, 0), axis=0)  # [size]: steps until the last end
        some = last > 0
        before = np.sum(reward, axis=0, where=t <= last, dtype=np.float64)
        after = np.sum(reward, axis=0, where=t > last, dtype=np.float64)
        returns = np.where(some, self.returns + before, 0.0)
        lengths = np.where(some, self.lengths + last, 0)
        self.returns = np.where(some, after, self.returns + after)
        self.lengths = np.where(some, 0, self.lengths) + self.steps - last
        parts = (returns, lengths, ended.sum(0))
        first, second, third = (np.sum(x.reshape(self.lead), -1) for x in parts)
        return first, second, third


class Driver:
    """The host's counterpart of a compiled chunk: `points` makes points of the curves."""

    def __init__(self, env: HostEnv, donate: bool) -> None:
        self.env = env
        self._learn = programs.learn_donating if donate else programs.learn_keeping
        self._groups: list[Group] = []
        self._names: list[str] = []  # of the metrics, in their order
        self._players: list[Pool] = []

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        pools = [group.pool for group in self._groups] + self._players
        self._groups, self._players = [], []
        for pool in pools:
            pool.close()

    def points(
        self, agent: Any, env: HostEnv, run: Run, key: Key, *, count: int, plan: Plan, room: int
    ) -> tuple[Run, Metrics]:
        """`count` points; none at all opens the environments and compiles."""
        del env, room
        begun = int(run.iteration.value)
        own = (agent, key) if checks.stacked(agent) else (None, key)
        common = None if checks.stacked(agent) else agent
        if not self._groups:
            run = self._open(agent, common, own, run, plan, begun)
        rows: list[dict[str, Array]] = []
        for _ in range(count):
            run, row, begun = self._point(agent, common, own, run, plan, begun)
            rows.append(row)
        names = rows[0] if rows else {}
        return run, {name: np.stack([r[name] for r in rows], -1) for name in names}  # pyright: ignore

    def _open(self, agent: Any, common: Any, own: Any, run: Run, plan: Plan, begun: int) -> Run:
        count = () if plan.lanes is None else (plan.lanes.count,)
        each = agent.num_envs // self.env.groups
        memory = rollout.initial_memory(agent, each)
        if count:
            memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (*count, *x.shape)), memory)
        if begun:
            run = programs.close(run, plan=plan.lanes)
            print(
                "The environments begin anew: they run outside of JAX and are not saved. All else "
                "goes on.",
                file=sys.stderr,
            )
        shape = (self.env.groups, each)
        if count:
            starts = np.stack([seeds(k, shape, SEEDS, begun) for k in own[1]], axis=1)
        else:
            starts = seeds(own[1], shape, SEEDS, begun)  # [groups, N] or [groups, lanes, N]
        for i in range(self.env.groups):
            pool = self.env.open(math.prod(count) * each)
            group = Group(pool, starts[i], agent.num_steps, memory, (*count, each))
            self._groups.append(group)
        state = run.state if plan.lanes is None else lanes.pick(run.state, 0)
        one = agent if common is not None else jax.tree.map(lambda x: x[0], agent)
        self._names = sorted(jax.eval_shape(lambda s: programs.metrics(one, s, plan.spec), state))
        # Compile: `act` for the shapes of what it stores, and then both for good.
        group = self._groups[0]
        when = np.zeros(3, np.int32)
        for each_group in self._groups:
            each_group.store = self._blank(common, own, run, each_group, when, plan)
        parts = (run.state, group.memory)
        programs.act.lower(
            common, (*own, *parts), group.store, group.obs, group.first, when, plan=plan.lanes
        ).compile()
        played = [group.played() for group in self._groups]
        none = {name: np.zeros(count, np.float32) for name in programs.EPISODE}
        self._learn.lower(common, own, run, played, none, plan=plan.lanes).compile()
        return run

    @staticmethod
    def _blank(common: Any, own: Any, run: Run, group: Group, when: Array, plan: Plan) -> PyTree:
        """Room for T steps of what `act` stores."""

        def act(own: Any, obs: PyTree, first: Any) -> Any:
            agent, key, state, memory = own
            agent = common if agent is None else agent
            out = rollout.act(agent, state, obs, key, memory, first, explore=True)
            return obs, out.action, out.extras

        def first_lane(tree: PyTree) -> PyTree:
            return tree if plan.lanes is None else lanes.pick(tree, 0)

        one = first_lane(((*own, run.state, group.memory), group.obs, group.first))
        shapes = jax.eval_shape(act, *one)
        lead = (group.steps,) if plan.lanes is None else (plan.lanes.count, group.steps)
        return jax.tree.map(lambda x: jnp.zeros((*lead, *x.shape), x.dtype), shapes)

    def _episodes(self) -> Metrics:
        sums = [group.episodes() for group in self._groups]
        totals = [np.asarray(sum(parts), np.float32) for parts in zip(*sums, strict=True)]
        return cast(Metrics, dict(zip(programs.EPISODE, totals, strict=True)))

    def _iterate(
        self, agent: Any, common: Any, own: Any, run: Run, plan: Plan, count: int
    ) -> tuple[Run, jax.Array]:
        groups = self._groups
        for group in groups:
            group.clear()

        def act(i: int, t: int) -> jax.Array:
            group, when = groups[i], np.array((count, t, i), np.int32)
            action, group.memory, group.store = programs.act(
                common,
                (*own, run.state, group.memory),
                group.store,
                group.obs,
                group.first,
                when,
                plan=plan.lanes,
            )
            return action

        pending = [act(i, 0) for i in range(len(groups))]
        for t in range(agent.num_steps):
            for i, group in enumerate(groups):
                group.step(np.asarray(pending[i]), t)
                if t + 1 < agent.num_steps:
                    pending[i] = act(i, t + 1)
        played = [group.played() for group in groups]
        return self._learn(common, own, run, played, self._episodes(), plan=plan.lanes)

    def _point(
        self, agent: Any, common: Any, own: Any, run: Run, plan: Plan, begun: int
    ) -> tuple[Run, dict[str, Array], int]:
        """Averaged as on the device: see `jaxrl.train`."""
        bound = min(plan.per_point - begun % plan.per_point, plan.iterations - begun)
        vectors: list[jax.Array] = []
        for i in range(bound):
            run, vector = self._iterate(agent, common, own, run, plan, begun + i)
            vectors.append(vector)
        names = self._names
        values = np.stack(jax.device_get(vectors))  # [iterations, (lanes,) metrics]
        exists = ~np.isnan(values)
        sums = np.sum(values, 0, where=exists)
        with np.errstate(invalid="ignore"):
            means = sums / np.sum(exists, 0)
            row = {name: means[..., i] for i, name in enumerate(names)}
            episodes = sums[..., names.index("episode/count")]
            for name in ("episode/return", "episode/length"):
                row[name] = sums[..., names.index(name)] / episodes
        row["episode/count"] = episodes
        begun += bound
        if plan.evaluate_points:
            row |= self._evaluate(own, common, run, plan, begun)
        return run, row, begun

    def _evaluate(
        self, own: Any, common: Any, run: Run, plan: Plan, begun: int
    ) -> dict[str, Array]:
        shape = () if plan.lanes is None else (plan.lanes.count,)
        nan = np.full(shape, np.nan)
        if begun % (plan.per_point * plan.evaluate_points) and begun != plan.iterations:
            return {"evaluate/return": nan, "evaluate/length": nan}
        agent, key = own
        state, among = run.state, plan.lanes
        if among is None:  # one lane
            key, state, among = key[None], lanes.stack_one(state), arrange(1, None)
        keys = jax.vmap(lambda k: jax.random.fold_in(jax.random.fold_in(k, EVALUATION), begun))(key)
        played = host_play.play(
            common,
            (agent, state, keys),
            self.env,
            plan.evaluate_episodes,
            host_play.MAX_STEPS,
            among,
            pools=self._players,
        )
        return {
            "evaluate/return": np.asarray(played.returns).mean(-1).reshape(shape),
            "evaluate/length": np.asarray(played.lengths).mean(-1).reshape(shape),
        }
