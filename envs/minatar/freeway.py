"""Freeway from MinAtar (Young and Tian 2019): cross a road of eight lanes, again and again."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import palette
from jaxrl.drawing import Picture, board
from jaxrl.spaces import Box, Discrete
from jaxrl.struct import Float, param, struct
from jaxrl.types import Key, Step

SIZE = 10
LANES = 8
START = SIZE - 1
CROSSING = 4
"""The column in which the chicken walks."""
REST = 3
"""A step of the chicken takes this many frames."""
DURATION = 2500
SLOWEST = 5

ROW = np.arange(SIZE, dtype=np.int32)[:, None]
COLUMN = np.arange(SIZE, dtype=np.int32)[None, :]
LANE = np.arange(1, LANES + 1, dtype=np.int32)


@struct
class Traffic:
    period: jax.Array  # [8] int32, 1 to 5: frames from one move to the next, less one
    right: jax.Array  # [8] bool: where the car is heading


@struct
class Road:
    chicken: jax.Array  # int32: row, 9 is the start and 0 the goal
    rest: jax.Array  # int32: frames until the chicken may walk again
    cars: jax.Array  # [8] int32: column of the car in lane i, which is row i + 1
    wait: jax.Array  # [8] int32: frames until the car moves
    traffic: Traffic
    left: jax.Array  # int32: frames left
    last_action: jax.Array  # int32


def draw_traffic(key: Key) -> Traffic:
    """Each lane's period and heading, all ten pairs equally likely: one draw for both."""
    pair = jnp.floor(jax.random.uniform(key, (LANES,)) * (2 * SLOWEST)).astype(jnp.int32)
    return Traffic(period=1 + pair // 2, right=pair % 2 == 1)


def open_road(traffic: Traffic) -> Road:
    """The first road: all cars at the left edge."""
    return Road(
        chicken=jnp.asarray(START, jnp.int32),
        rest=jnp.asarray(REST, jnp.int32),
        cars=jnp.zeros(LANES, jnp.int32),
        wait=traffic.period,
        traffic=traffic,
        left=jnp.asarray(DURATION, jnp.int32),
        last_action=jnp.zeros((), jnp.int32),
    )


def advance(state: Road, action: jax.Array, new: Traffic) -> tuple[Road, jax.Array, jax.Array]:
    """One frame with the action that is really taken -> road, reward, terminated. `new` is the
    traffic that comes if the goal is reached in this frame."""
    walks = (action != 0) & (state.rest == 0)
    way = jnp.where(action == 1, -1, 1)
    chicken = jnp.clip(state.chicken + jnp.where(walks, way, 0), 0, START)
    rest = jnp.maximum(jnp.where(walks, REST, state.rest) - 1, 0)

    # New traffic changes speeds and headings only; the cars stay where they are.
    goal = chicken == 0
    chicken = jnp.where(goal, START, chicken)
    period = jnp.where(goal, new.period, state.traffic.period)
    right = jnp.where(goal, new.right, state.traffic.right)
    wait = jnp.where(goal, new.period, state.wait)

    moves = wait == 0
    ahead = (state.cars + jnp.where(right, 1, SIZE - 1)) % SIZE
    cars = jnp.where(moves, ahead, state.cars)
    wait = jnp.where(moves, period, wait - 1)

    # A lane has one car and the start has none, so that no order of the cars has to be kept. Hit is
    # also who walks into a car as it drives off.
    hit = jnp.any((chicken == LANE) & ((state.cars == CROSSING) | (cars == CROSSING)))
    left = state.left - 1
    state = Road(
        chicken=jnp.where(hit, START, chicken),
        rest=rest,
        cars=cars,
        wait=wait,
        traffic=Traffic(period, right),
        left=left,
        last_action=action.astype(jnp.int32),
    )
    return state, goal.astype(jnp.float32), left < 0


def observe(state: Road) -> jax.Array:
    """-> [10, 10, 7] bool: chicken, cars, and behind each car a trail in its period's plane."""
    chicken = (state.chicken == ROW) & (COLUMN == CROSSING)
    behind = (state.cars + jnp.where(state.traffic.right, SIZE - 1, 1)) % SIZE
    car = state.cars[:, None] == COLUMN  # [8, 10]
    trail = behind[:, None] == COLUMN
    period = state.traffic.period[:, None]
    planes = jnp.stack([car, *(trail & (period == p) for p in range(1, SLOWEST + 1))], axis=-1)
    lanes = jnp.pad(planes, ((1, 1), (0, 0), (0, 0)))
    return jnp.concatenate([chicken[..., None], lanes], axis=-1)


_seen = jax.jit(observe)
CELL = 28
COLORS = (
    *(palette.mix(palette.RED, "#15181c", 0.3 + 0.12 * i) for i in range(SLOWEST)),  # trails
    palette.ORANGE,
    palette.PAPER,
)
"""Of the planes as they are drawn, from below to the top."""


@struct
class Freeway:
    """+1 for each crossing, after which the cars change their speeds; a car sends the chicken back.
    The episode ends after 2501 frames. Actions: stay, up, down."""

    sticky: Float = param(
        "probability that the last action is taken again", default=0.1, low=0.0, high=1.0
    )

    fps = 30

    @property
    def obs_space(self) -> Box:
        return Box(0, 1, (SIZE, SIZE, 2 + SLOWEST), np.bool_)

    @property
    def action_space(self) -> Discrete:
        return Discrete(3)

    @property
    def time_limit(self) -> None:
        return None

    def reset(self, key: Key) -> tuple[Road, jax.Array]:
        state = open_road(draw_traffic(key))
        return state, observe(state)

    def step(self, state: Road, action: jax.Array, key: Key) -> tuple[Road, Step]:
        sticky_key, traffic_key = jax.random.split(key)
        repeat = jax.random.uniform(sticky_key) < self.sticky
        action = jnp.where(repeat, state.last_action, action)
        state, reward, over = advance(state, action, draw_traffic(traffic_key))
        return state, Step(observe(state), reward, over, jnp.zeros((), bool))

    def render(self, state: Road) -> Picture:
        planes = np.asarray(_seen(state))
        return board(planes[..., (2, 3, 4, 5, 6, 1, 0)], COLORS, CELL)
