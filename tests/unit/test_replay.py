"""The ring against a plain list of transitions, and the traps of windows, heads and stacks."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import replay, spaces
from jaxrl.replay import Index
from jaxrl.types import Rollout, Spec

GAMMA = 0.9


class Stream:
    """N environments whose observations say which one, which episode and which step they are."""

    def __init__(self, num_envs: int, limit: int | None, stack: int = 1, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.num_envs, self.limit, self.stack = num_envs, limit, stack
        self.episode = np.zeros(num_envs, int)
        self.age = np.zeros(num_envs, int)
        self.log: list[list[dict]] = [[] for _ in range(num_envs)]

    def frames(self, env: int, episode: int, age: int) -> np.ndarray:
        """The stacked observation [2 * stack], oldest frame first, padded with the first frame."""
        ages = [max(age - j, 0) for j in reversed(range(self.stack))]
        return np.concatenate([[1000.0 * env + episode, a] for a in ages]).astype(np.float32)

    def rollout(self, num_steps: int) -> Rollout:
        n, dim = self.num_envs, 2 * self.stack
        limit = self.limit
        rows = 0 if limit is None else -(-num_steps // limit)
        shape = (num_steps, n)
        obs, final = np.zeros((*shape, dim), np.float32), np.zeros((rows, n, dim), np.float32)
        action = self.rng.integers(0, 3, shape)
        reward = self.rng.normal(size=shape).astype(np.float32)
        terminated, truncated, first = (np.zeros(shape, bool) for _ in range(3))
        for t in range(num_steps):
            for e in range(n):
                obs[t, e] = self.frames(e, self.episode[e], self.age[e])
                first[t, e] = self.age[e] == 0
                self.age[e] += 1
                terminated[t, e] = self.rng.random() < 0.15
                out_of_time = limit is not None and self.age[e] >= limit
                # with limit 1 nothing is promised: truncation comes whenever it likes
                truncated[t, e] = (
                    out_of_time and not terminated[t, e] and (limit > 1 or self.rng.random() < 0.3)
                )
                following = self.frames(e, self.episode[e], self.age[e])
                if truncated[t, e]:
                    final[t // limit, e] = following
                self.log[e].append(
                    {
                        "obs": obs[t, e],
                        "action": action[t, e],
                        "reward": reward[t, e],
                        "terminated": terminated[t, e],
                        "truncated": truncated[t, e],
                        "next_obs": following,
                    }
                )
                if terminated[t, e] or truncated[t, e]:
                    self.episode[e] += 1
                    self.age[e] = 0
        last = np.stack([self.frames(e, self.episode[e], self.age[e]) for e in range(n)])
        return Rollout(
            obs=jnp.array(obs),
            action=jnp.array(action, jnp.int32),
            reward=jnp.array(reward),
            terminated=jnp.array(terminated),
            truncated=jnp.array(truncated),
            first=jnp.array(first),
            last_obs=jnp.array(last),
            final_obs=jnp.array(final),
            extras=(),
            memory=None,
            last_memory=None,
        )

    def window(self, env: int, time: int, n: int) -> dict:
        total = 0.0
        for j in range(n):
            step = self.log[env][time + j]
            total += GAMMA**j * step["reward"]
            if step["terminated"] or step["truncated"]:
                break
        begin = self.log[env][time]
        discount = 0.0 if step["terminated"] else GAMMA ** (j + 1)
        return {
            "obs": begin["obs"],
            "action": begin["action"],
            "reward": total,
            "discount": discount,
            "next_obs": step["next_obs"],
        }

    def spec(self) -> Spec:
        box = spaces.Box(-np.inf, np.inf, (2 * self.stack,))
        return Spec(box, spaces.Discrete(3), self.limit)


def all_windows(ring: replay.Replay, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Ages and environments of every window that may be drawn."""
    ages = np.arange(n, n + int(replay.windows(ring, n)))
    return tuple(x.ravel() for x in np.meshgrid(ages, np.arange(ring.num_envs)))


@pytest.mark.parametrize(
    ("limit", "n", "stack"),
    [(None, 1, 1), (1, 1, 1), (3, 1, 1), (50, 3, 1), (7, 3, 1), (1, 3, 2), (3, 3, 2), (7, 1, 3)],
)
def test_equals_a_list_of_transitions(limit: int | None, n: int, stack: int) -> None:
    stream = Stream(num_envs=3, limit=limit, stack=stack)
    ring = replay.init(stream.spec(), capacity=3 * 20, num_envs=3, stack=stack)
    add = jax.jit(replay.add)
    read = jax.jit(functools.partial(replay.gather, n=n))
    for num_steps in (1, 6, 6, 1, 1, 6, 6, 6, 6, 1, 6, 6):
        ring = add(ring, stream.rollout(num_steps))
        now = len(stream.log[0])
        assert int(ring.filled.value) == min(now, 20)
        ages, envs = all_windows(ring, n)
        size = max(len(ages), 1)
        padded = np.resize(ages, 60) if size else ages
        row = (int(ring.head.value) - padded) % 21
        index = Index(jnp.array(row), jnp.array(np.resize(envs, 60)), jnp.ones(60))
        if not len(ages):
            continue
        batch = read(ring, index, gamma=GAMMA)
        for i, (age, env) in enumerate(zip(ages, envs, strict=True)):
            right = stream.window(env, now - age, n)
            assert batch.action[i] == right["action"]
            np.testing.assert_allclose(batch.reward[i], right["reward"], atol=1e-5)
            np.testing.assert_allclose(batch.discount[i], right["discount"], atol=1e-6)
            np.testing.assert_array_equal(batch.obs[i], right["obs"])
            if right["discount"]:
                np.testing.assert_array_equal(batch.next_obs[i], right["next_obs"])
    expected = 20 - (n - 1) - (stack - 1)
    assert int(replay.windows(ring, n)) == expected, "a full ring offers all it can"


def one_env(
    rewards: list[float],
    terminated: int | None = None,
    truncated: int | None = None,
    limit: int | None = 1,
) -> tuple[replay.Replay, Rollout]:
    steps = len(rewards)
    at = np.arange(steps)
    rows = 0 if limit is None else -(-steps // limit)
    roll = Rollout(
        obs=jnp.arange(steps, dtype=jnp.float32)[:, None, None],
        action=jnp.zeros((steps, 1), jnp.int32),
        reward=jnp.array(rewards, jnp.float32)[:, None],
        terminated=jnp.array(at == terminated)[:, None],
        truncated=jnp.array(at == truncated)[:, None],
        first=jnp.array(at == 0)[:, None],
        last_obs=jnp.full((1, 1), float(steps)),
        final_obs=jnp.full((rows, 1, 1), -10.0),
        extras=(),
        memory=None,
        last_memory=None,
    )
    spec = Spec(spaces.Box(-np.inf, np.inf, (1,)), spaces.Discrete(2), limit)
    return replay.init(spec, steps + 2, 1), roll


def target(ring: replay.Replay, row: int, n: int, gamma: float, boot: dict[float, float]) -> float:
    batch = replay.gather(ring, Index(jnp.array([row]), jnp.array([0]), jnp.ones(1)), n, gamma)
    value = boot[float(batch.next_obs[0, 0])] if float(batch.discount[0]) else 0.0
    return float(batch.reward[0] + batch.discount[0] * value)


def test_s1_truncation_bootstraps_from_the_final_observation() -> None:
    ring, roll = one_env([1.0], truncated=0)
    boot = {-10.0: 10.0, 1.0: 3.0}  # V(final), V(reset)
    assert target(replay.add(ring, roll), 0, 1, 0.99, boot) == pytest.approx(10.9, abs=1e-5)


def test_s4_window_stops_at_a_termination() -> None:
    ring, roll = one_env([1, 2, 4, 0], terminated=1)
    boot = dict.fromkeys((1.0, 2.0, 3.0, 4.0, -10.0), 10.0)
    assert target(replay.add(ring, roll), 0, 3, 0.9, boot) == pytest.approx(2.8, abs=1e-5)


def test_s5_truncated_window_discounts_by_the_steps_used() -> None:
    ring, roll = one_env([1, 2, 4, 0], truncated=1)
    boot = {-10.0: 10.0} | dict.fromkeys((1.0, 2.0, 3.0, 4.0), 77.0)
    assert target(replay.add(ring, roll), 0, 3, 0.9, boot) == pytest.approx(10.9, abs=1e-5)


def test_d17_bootstrap_is_discounted_over_n_steps() -> None:
    ring, roll = one_env([1, 1, 1], limit=None)
    assert target(replay.add(ring, roll), 0, 3, 0.9, {3.0: 10.0}) == pytest.approx(10.0, abs=1e-5)


def test_s12_windows_never_cross_the_write_head() -> None:
    spec = Spec(spaces.Box(-np.inf, np.inf, (1,)), spaces.Discrete(2), None)
    ring = replay.init(spec, 5, 1)
    _, roll = one_env([0], limit=None)
    for i in range(7):  # transition i starts in observation i
        step = dataclasses.replace(
            roll, obs=jnp.full((1, 1, 1), float(i)), last_obs=jnp.full((1, 1), i + 1.0)
        )
        ring = replay.add(ring, step)
    one = replay.sample(ring, jax.random.key(0), 500)
    two = replay.sample(ring, jax.random.key(0), 500, n=2)
    assert set(np.unique(one.obs)) == {2, 3, 4, 5, 6}
    assert set(np.unique(two.obs)) == {2, 3, 4, 5}
    np.testing.assert_array_equal(one.next_obs, one.obs + 1)
    np.testing.assert_array_equal(two.next_obs, two.obs + 2)


def test_unfilled_rows_are_never_drawn() -> None:
    stream = Stream(2, None)
    ring = replay.add(replay.init(stream.spec(), 2000, 2), stream.rollout(4))
    index = replay.draw(ring, jax.random.key(1), 4000)
    assert set(np.unique(index.row)) == {0, 1, 2, 3}
    counts = np.bincount(np.asarray(index.row) * 2 + np.asarray(index.env))
    assert np.abs(counts - 500).max() < 5 * np.sqrt(500), "uniform over time and environments"


def test_compact_storage_and_the_byte_estimate() -> None:
    obs = spaces.Dict(
        {
            "observation": spaces.Box(0, 1, (10, 10, 4), bool),
            "action_mask": spaces.Box(0, 1, (6,), bool),
        }
    )
    spec = Spec(obs, spaces.Discrete(6), 100)
    ring = replay.init(spec, 1000, 10)
    assert ring.obs["observation"].dtype == bool and ring.action.dtype == np.uint8
    rows, final = 101, 2
    per_obs = 400 + 6
    expected = (rows + final) * 10 * per_obs + rows * 10 * (1 + 4 + 1) + 3 * 4
    assert replay.bytes_needed(spec, 1000, 10) == expected
    assert sum(x.nbytes for x in jax.tree.leaves(ring)) == expected
    assert replay.bytes_needed(spec, 1000, 10, lanes=8) == 8 * expected
    stacked = replay.bytes_needed(spec, 1000, 10, stack=2)
    assert stacked == expected - (rows + final) * 10 * 200, "only the newest frame is stored"


def test_images_as_bytes_and_dict_observations_come_back_as_they_went_in() -> None:
    obs = spaces.Dict({"a": spaces.Box(0, 255, (2, 2), np.uint8), "b": spaces.Discrete(5)})
    spec = Spec(obs, spaces.Box(-1, 1, (2,)), None)
    ring = replay.init(spec, 12, 2)
    _, roll = one_env([1.0, 2.0, 3.0], limit=None)
    images = np.arange(4 * 2 * 4, dtype=np.uint8).reshape(4, 2, 2, 2)
    numbers = np.arange(8, dtype=np.int32).reshape(4, 2) % 5
    actions = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 2, 2)
    flag = jnp.zeros((3, 2), bool)
    ring = replay.add(
        ring,
        dataclasses.replace(
            roll,
            obs={"a": jnp.array(images[:3]), "b": jnp.array(numbers[:3])},
            last_obs={"a": jnp.array(images[3]), "b": jnp.array(numbers[3])},
            final_obs={"a": jnp.zeros((0, 2, 2, 2), jnp.uint8), "b": jnp.zeros((0, 2), jnp.int32)},
            action=jnp.array(actions),
            reward=jnp.ones((3, 2)),
            terminated=flag,
            truncated=flag,
            first=flag,
        ),
    )
    batch = replay.gather(ring, Index(jnp.array([2, 0]), jnp.array([1, 0]), jnp.ones(2)))
    np.testing.assert_array_equal(batch.obs["a"], images[[2, 0], [1, 0]])
    np.testing.assert_array_equal(batch.next_obs["b"], numbers[[3, 1], [1, 0]])
    np.testing.assert_array_equal(batch.action, actions[[2, 0], [1, 0]])
    assert batch.obs["a"].dtype == np.uint8


def test_lanes_are_independent_and_positions_stay_shared() -> None:
    streams = [Stream(2, 3, seed=s) for s in range(3)]
    rolls = [[s.rollout(2) for _ in range(9)] for s in streams]
    alone = [replay.init(s.spec(), 20, 2) for s in streams]
    ring = replay.init(streams[0].spec(), 20, 2)
    axes = dataclasses.replace(jax.tree.map(lambda _: 0, ring), head=None, filled=None, clock=None)
    together = dataclasses.replace(
        jax.tree.map(lambda x: jnp.stack([x] * 3), ring),
        head=ring.head,
        filled=ring.filled,
        clock=ring.clock,
    )
    add = jax.jit(jax.vmap(replay.add, in_axes=(axes, 0), out_axes=axes))
    for step in range(9):
        alone = [replay.add(a, r[step]) for a, r in zip(alone, rolls, strict=True)]
        batch = jax.tree.map(lambda *x: jnp.stack(x), *[r[step] for r in rolls])
        together = add(together, batch)
    for i, one in enumerate(alone):
        for a, b in zip(
            jax.tree.leaves(one),
            jax.tree.leaves(
                dataclasses.replace(
                    jax.tree.map(
                        lambda x, i=i: x[i],
                        dataclasses.replace(together, head=None, filled=None, clock=None),
                    ),
                    head=together.head,
                    filled=together.filled,
                    clock=together.clock,
                )
            ),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("lanes", [0, 2])
def test_no_copy_of_the_ring_inside_a_scan(lanes: int) -> None:
    """A step of a scan over a large ring compiles to writes in place: no operation but the first
    copy of the argument produces an array as large as the ring."""
    rows = 4096
    spec = Spec(spaces.Box(-np.inf, np.inf, (4,)), spaces.Discrete(2), 8)
    ring = replay.init(spec, rows * 4, 4)
    flags = jnp.zeros((1, 4), bool)
    roll = Rollout(
        obs=jnp.ones((1, 4, 4)),
        action=jnp.zeros((1, 4), jnp.int32),
        reward=jnp.ones((1, 4)),
        terminated=flags,
        truncated=flags,
        first=flags,
        last_obs=jnp.ones((4, 4)),
        final_obs=jnp.ones((1, 4, 4)),
        extras=(),
        memory=None,
        last_memory=None,
    )

    def body(ring: replay.Replay, key: jax.Array) -> tuple[replay.Replay, jax.Array]:
        ring = replay.add(ring, roll)
        batch = replay.sample(ring, key, 32, n=3)
        return ring, batch.reward.sum() + batch.next_obs.sum()

    step = body
    keys = jax.random.split(jax.random.key(0), 5)
    if lanes:
        counters = {"head": ring.head, "filled": ring.filled, "clock": ring.clock}
        none = dict.fromkeys(counters)
        axes = dataclasses.replace(jax.tree.map(lambda _: 0, ring), **none)
        stacked = jax.tree.map(lambda x: jnp.stack([x] * lanes), ring)
        ring = dataclasses.replace(stacked, **counters)
        keys = jax.random.split(jax.random.key(0), (5, lanes))
        step = jax.vmap(body, in_axes=(axes, 0), out_axes=(axes, 0))
    program = jax.jit(lambda r, k: jax.lax.scan(step, r, k)).lower(ring, keys).compile()
    text = program.as_text()
    inside = text[: text.index("ENTRY")]  # the entry may copy its argument once
    big = [
        line
        for line in inside.splitlines()
        if f",{rows + 1 + rows // 8 + 1},4,4]" in line.replace("[", ",").split("=")[-1][:60]
        and " copy(" in line
    ]
    assert not big, big


def test_refusals_say_what_to_type() -> None:
    spec = Spec(spaces.Box(-1, 1, (5,)), spaces.Discrete(2), None)
    with pytest.raises(ValueError, match="capacity=96"):
        replay.init(spec, 100, 8)
    with pytest.raises(ValueError, match="FrameStack"):
        replay.init(spec, 100, 10, stack=2)
    stream = Stream(2, None)
    with pytest.raises(ValueError, match="raise capacity to at least 12"):
        replay.add(replay.init(stream.spec(), 8, 2), stream.rollout(6))
