"""T-maze and RepeatFirst by hand, and observations without velocities."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl.envs import RepeatFirst, SelectObs, TMaze
from jaxrl.envs.memory.t_maze import EAST, NORTH, SOUTH, WEST

KEY = jax.random.key(0)


def walk(env: Any, key: Any, actions: list[int]) -> tuple[list[list[int]], list[float], list[bool]]:
    state, obs = env.reset(key)
    seen, rewards, ends = [obs.astype(int).tolist()], [], []
    for action in actions:
        state, step = env.step(state, jnp.int32(action), KEY)
        seen.append(step.obs.astype(int).tolist())
        rewards.append(round(float(step.reward), 6))
        ends.append(bool(step.terminated))
        assert not step.truncated
    return seen, rewards, ends


def goals(env: Any) -> dict[str, Any]:
    """A key for either goal."""
    found = {bool(env.reset(jax.random.key(i))[0].north): jax.random.key(i) for i in range(20)}
    return {"north": found[True], "south": found[False]}


@pytest.mark.parametrize(("goal", "sign"), [("north", [0, 1, 1]), ("south", [1, 1, 0])])
def test_t_maze_by_hand(goal: str, sign: list[int]) -> None:
    env = TMaze(length=2)
    key = goals(env)[goal]
    right, wrong = (NORTH, SOUTH) if goal == "north" else (SOUTH, NORTH)
    seen, rewards, ends = walk(env, key, [EAST, EAST, right])
    assert seen[:3] == [sign, [1, 0, 1], [0, 1, 0]]
    assert rewards == [0, 0, 4] and ends == [False, False, True]
    assert walk(env, key, [EAST, EAST, wrong])[1:] == ([0, 0, -0.1], [False, False, True])
    # Walls on all sides, and the way back to the sign.
    seen, rewards, ends = walk(env, key, [WEST, NORTH, EAST, SOUTH, EAST, EAST, WEST, WEST])
    assert rewards == [-0.1, -0.1, 0, -0.1, 0, -0.1, 0, 0] and not any(ends)
    assert seen == [sign] * 3 + [[1, 0, 1]] * 2 + [[0, 1, 0]] * 2 + [[1, 0, 1], sign]


def test_both_goals_are_as_likely() -> None:
    states, _ = jax.vmap(TMaze().reset)(jax.random.split(KEY, 2000))
    assert abs(float(states.north.mean()) - 0.5) < 0.04


def test_repeat_first_by_hand() -> None:
    env = RepeatFirst(length=4, num_values=3)
    state, obs = env.reset(KEY)
    value = int(state.value)
    assert obs.tolist() == [float(i == value) for i in range(3)] + [1.0]
    total, shown = 0.0, []
    for t, right in enumerate([True, True, False, True]):
        action = value if right else (value + 1) % 3
        state, step = env.step(state, jnp.int32(action), jax.random.key(t))
        assert float(step.reward) == (0.25 if right else -0.25)
        assert bool(step.terminated) == (t == 3)
        assert step.obs[3] == 0 and step.obs[:3].sum() == 1
        total += float(step.reward)
        shown.append(int(step.obs[:3].argmax()))
    assert total == 0.5 and int(state.value) == value
    states, steps = jax.vmap(lambda k: env.step(state, jnp.int32(0), k))(jax.random.split(KEY, 600))
    np.testing.assert_allclose(steps.obs[:, :3].mean(0), 1 / 3, atol=0.08)
    assert (states.value == value).all()


def test_select_obs_hides_the_rest() -> None:
    inner = jaxrl.envs.make("CartPole-v1")
    env = SelectObs(inner, (0, 2))
    state, obs = env.reset(KEY)
    inner_state, whole = inner.reset(KEY)
    assert obs.tolist() == [whole[0], whole[2]]
    state, step = env.step(state, jnp.int32(1), KEY)
    _, expected = inner.step(inner_state, jnp.int32(1), KEY)
    assert step.obs.tolist() == [expected.obs[0], expected.obs[2]]
    assert step.reward == expected.reward and env.time_limit == 500
    high = inner.obs_space.high
    assert env.obs_space.shape == (2,)
    np.testing.assert_allclose(np.asarray(env.obs_space.high), [high[0], high[2]])


def test_select_obs_refuses_what_is_not_there() -> None:
    with pytest.raises(ValueError, match="0 to 3"):
        SelectObs(jaxrl.envs.make("CartPole-v1"), (0, 4)).obs_space  # noqa: B018
    with pytest.raises(TypeError, match="Flatten"):
        SelectObs(jaxrl.envs.make("Catch-bsuite"), (0,)).obs_space  # noqa: B018
