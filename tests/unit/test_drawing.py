"""Every bundled environment draws its states, and draws what is in them."""

import dataclasses
import importlib.util
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import drawing, palette
from jaxrl.drawing import NoPicture
from jaxrl.envs import wrappers
from jaxrl.envs.adapters import camera, mjx

WITHOUT = {
    # Nothing to see but a number or two.
    "DiscountingChain-bsuite",
    "MemoryChain-bsuite",
    "RepeatFirst-v0",
    *(f"{name}-v0" for name in ("Baird", "Gambler", "JacksCarRental", "MaximizationBias")),
    *(f"{name}-v0" for name in ("LongWalk", "RandomWalk5", "RandomWalk19", "RiverSwim")),
    *(name for name in jaxrl.envs.names() if "Bandit" in name),
    "Blackjack-v1",
    *(name for name in jaxrl.envs.names() if name.startswith("Probe-")),
}
BUNDLED = [name for name in jaxrl.envs.names() if "-" in name]
KEY = jax.random.key(3)


def start(env: Any, key: jax.Array = KEY) -> Any:
    return jax.jit(env.reset)(key)[0]


def where(picture: np.ndarray, color: str) -> np.ndarray:
    """[n, 2]: row and column of the pixels that have a colour, about."""
    near = np.abs(picture.astype(int) - palette.rgb(color)).sum(-1) < 24
    return np.argwhere(near)


def center(picture: np.ndarray, color: str) -> tuple[float, float]:
    """-> x, y from the middle of the picture, y upwards, as parts of half its size"""
    height, width, _ = picture.shape
    row, column = where(picture, color).mean(0)
    return (column + 0.5) / width * 2 - 1, 1 - (row + 0.5) / height * 2


@pytest.mark.parametrize("name", BUNDLED)
def test_every_environment_draws_or_is_known_not_to(name: str) -> None:
    env = jaxrl.envs.make(name)
    if name in WITHOUT:
        with pytest.raises(NoPicture, match=r"has no picture: give it a method render\(state\)"):
            env.render(start(env)) if hasattr(env, "render") else drawing.render(env, start(env))
        return

    step = jax.jit(lambda state, key: env.step(state, env.action_space.sample(key), key)[0])
    states = [start(env)]
    for i in range(6):
        states.append(jax.device_get(step(states[-1], jax.random.fold_in(KEY, i))))
    first, *others = [drawing.render(env, state) for state in states]
    assert first.dtype == np.uint8 and first.shape[2:] == (3,)
    assert all(side % 2 == 0 and 100 <= side <= 640 for side in first.shape[:2])
    assert all(x.shape == first.shape for x in others)
    assert any((x != first).any(-1).sum() > 20 for x in others)  # something moved
    assert 5 <= drawing.fps(env) <= 50


def test_cartpole() -> None:
    env = jaxrl.envs.CartPole()
    upright = env.render(jnp.zeros(4))
    x, y = center(upright, palette.ORANGE)
    assert abs(x) < 0.01
    for position, angle in ((1.0, 0.3), (-1.0, -0.3)):
        picture = env.render(jnp.array([position, 0, angle, 0]))
        cart, _ = center(picture, palette.INK)
        pole, height = center(picture, palette.ORANGE)
        assert cart == pytest.approx(position / 2.7, abs=0.01)
        assert (pole - cart) * angle > 0 and height < y
    short = dataclasses.replace(env, half_length=0.25).render(jnp.zeros(4))
    assert len(where(short, palette.ORANGE)) < 0.7 * len(where(upright, palette.ORANGE))


def test_acrobot() -> None:
    env = jaxrl.envs.Acrobot()
    hanging = env.render(jnp.zeros(4))
    x, y = center(hanging, palette.BLUE)
    assert abs(x) < 0.01 and y == pytest.approx(-1.5 / 2.3, abs=0.05)
    _, up = center(env.render(jnp.array([math.pi, 0, 0, 0])), palette.BLUE)
    assert up == pytest.approx(1.5 / 2.3, abs=0.05)
    right, _ = center(env.render(jnp.array([0, math.pi / 2, 0, 0])), palette.BLUE)
    assert right > 0.1


@pytest.mark.parametrize("name", ["MountainCar", "MountainCarContinuous"])
def test_mountain_car(name: str) -> None:
    env = getattr(jaxrl.envs, name)()
    places = [center(env.render(jnp.array([x, 0.0])), palette.ORANGE) for x in (-1.0, -0.5, 0.4)]
    assert places[0][0] < places[1][0] < places[2][0]
    assert places[1][1] < places[0][1] < places[2][1]  # in the valley, on the slope, near the top
    flag, _ = center(env.render(jnp.array([-0.5, 0.0])), palette.GREEN)
    assert flag > places[2][0]


def test_pendulum() -> None:
    env = jaxrl.envs.Pendulum()
    assert center(env.render(jnp.array([0.0, 0])), palette.RED)[1] > 0.3
    assert center(env.render(jnp.array([math.pi, 0])), palette.RED)[1] < -0.3
    assert center(env.render(jnp.array([math.pi / 2, 0])), palette.RED)[0] < -0.3


def test_catch_and_deep_sea() -> None:
    env = jaxrl.envs.Catch()
    state, _ = env.reset(KEY)
    state = dataclasses.replace(state, ball=jnp.array([3, 4]), paddle=jnp.array(1))
    picture = env.render(state)
    assert picture.shape == (400, 200, 3)
    assert tuple(picture[3 * 40 + 20, 4 * 40 + 20]) == palette.rgb(palette.ORANGE)
    assert tuple(picture[400 - 8, 1 * 40 + 20]) == palette.rgb(palette.BLUE)
    sea = jaxrl.envs.DeepSea(size=4)
    picture = sea.render(jnp.array([2, 1]))
    assert tuple(picture[2 * 40 + 20, 1 * 40 + 20]) == palette.rgb(palette.BLUE)
    assert tuple(picture[3 * 40 + 20, 3 * 40 + 20]) == palette.rgb(palette.YELLOW)
    assert len(where(sea.render(jnp.array([4, 3])), palette.BLUE)) > 100  # on the sea bed


def test_t_maze() -> None:
    env = jaxrl.envs.TMaze(length=4)
    state, _ = env.reset(KEY)
    for north in (True, False):
        here = dataclasses.replace(state, north=jnp.array(north))
        green, red = (center(env.render(here), c)[1] for c in (palette.GREEN, palette.RED))
        assert (green > red) == north
        away = dataclasses.replace(here, x=jnp.array(2))
        assert len(where(env.render(away), palette.GREEN)) < len(
            where(env.render(here), palette.GREEN)
        )


def test_gridworlds() -> None:
    maze = jaxrl.envs.Gridworld(("S#", ".G"), changes=((5, ("S.", "#G")),))
    before, later = maze.render(jnp.int32(2)), maze.render(jnp.int32(1 + 4 * 5))
    assert before.shape == (80, 80, 3)
    assert tuple(before[20, 60]) == tuple(later[60, 20]) == palette.rgb(palette.INK)
    assert tuple(before[60, 20]) == tuple(later[20, 60]) == palette.rgb(palette.ORANGE)
    assert tuple(before[60, 60]) == tuple(later[60, 60]) == palette.rgb(palette.GREEN)
    tv = jaxrl.envs.make("NoisyTV-v0").env
    corner = int(np.flatnonzero([x == "T" for x in "".join(tv.map)])[0])
    pictures = {tv.render(jnp.int32(corner + tv.cells * k)).tobytes() for k in range(16)}
    assert len(pictures) == 16


def test_taxi() -> None:
    taxi = jaxrl.envs.Taxi()
    encode = lambda cell, passenger, goal: jnp.int32((cell * 5 + passenger) * 4 + goal)  # noqa: E731
    waits = taxi.render(encode(12, 0, 3))
    assert tuple(waits[100, 100]) == palette.rgb(palette.ORANGE)  # the middle of 200 x 200
    assert tuple(waits[20, 20]) == palette.rgb(palette.INK)  # waits on red
    assert tuple(taxi.render(encode(12, 4, 3))[100, 100]) == palette.rgb(palette.INK)
    goals = [len(where(taxi.render(encode(12, 4, g)), palette.BLUE)) for g in (0, 3)]
    assert goals[1] > 3 * goals[0] > 0


def test_minatar_boards() -> None:
    env = jaxrl.envs.make("Breakout-MinAtar").env
    state, obs = env.reset(KEY)
    picture = env.render(state)
    assert picture.shape == (280, 280, 3)
    middles = picture[14::28, 14::28].astype(int)
    for plane, color in zip((3, 0), (palette.RED, palette.SKY)):
        lit = (middles == palette.rgb(color)).all(-1)
        np.testing.assert_array_equal(lit, np.asarray(obs[..., plane] & ~obs[..., 1]))  # the ball


def test_the_plane_on_top_is_the_last() -> None:
    planes = np.ones((1, 2, 2), bool)
    planes[0, 1, 1] = False
    picture = drawing.board(planes, [palette.RED, palette.BLUE], 4)
    assert tuple(picture[2, 2]) == palette.rgb(palette.BLUE)
    assert tuple(picture[2, 6]) == palette.rgb(palette.RED)


def test_wrappers_show_what_is_inside() -> None:
    inner = jaxrl.envs.CartPole()
    sticky = wrappers.StickyAction(inner)
    env: Any = wrappers.EpisodeStatistics(
        wrappers.FrameStack(wrappers.TimeLimit(wrappers.SelectObs(sticky, (0, 2)), 9), 2)
    )
    state = start(env)
    innermost = state.inner.inner.inner.inner
    np.testing.assert_array_equal(env.render(state), inner.render(innermost))
    assert drawing.fps(env) == 50


def test_a_random_world_is_drawn_as_it_is() -> None:
    def draw(key: jax.Array, env: Any) -> Any:
        del key
        return dataclasses.replace(env, half_length=0.25)

    env = wrappers.Randomize(jaxrl.envs.CartPole(), draw)
    state = start(env)
    short = dataclasses.replace(jaxrl.envs.CartPole(), half_length=0.25)
    np.testing.assert_array_equal(env.render(state), short.render(state.inner))


# --------------------------------------------------------------------------------- MuJoCo's own

CART = """
<mujoco>
  <worldbody>
    <light pos="0 0 3"/>
    <body><joint name="slide" type="slide" axis="1 0 0"/>
      <geom type="box" size=".2 .1 .1" mass="1" rgba=".8 .2 .1 1"/></body>
  </worldbody>
  <actuator><motor joint="slide"/></actuator>
</mujoco>
"""


def cart() -> Any:
    return mjx.task(CART, observe=lambda d: d.qpos, reward=lambda d, a: d.qpos[0], max_steps=5)


def pictures(env: Any, *states: Any) -> list[np.ndarray]:
    try:
        return [drawing.render(env, state) for state in states]
    except NoPicture as error:
        if "libegl1" not in str(error):
            raise
        pytest.skip(f"no OpenGL: {error}")


def test_mjx_draws_with_mujoco() -> None:
    env = cart()
    state = start(env)
    moved = dataclasses.replace(state, inner=state.inner.replace(qpos=jnp.array([0.5])))
    larger = dataclasses.replace(
        env, env=dataclasses.replace(env.env, model=env.env.model.replace(
            geom_size=env.env.model.geom_size * 2))
    )  # fmt: skip
    (here, there), (large,) = pictures(env, state, moved), pictures(larger, state)
    assert here.shape == (camera.HEIGHT, camera.WIDTH, 3)
    red = [(p[..., 0].astype(int) - p[..., 2] > 30) for p in (here, there, large)]
    assert 200 < red[0].sum() < red[2].sum() and (red[0] != red[1]).sum() > 100


def test_brax_draws_with_mujoco() -> None:
    if not importlib.util.find_spec("brax"):
        pytest.skip("Brax is not installed")
    env = jaxrl.envs.make("brax/inverted_pendulum", backend="generalized")
    state = start(env)
    body = state.inner.pipeline_state
    fallen = body.replace(q=jnp.array([0.0, 1.2]))
    moved = dataclasses.replace(state, inner=state.inner.replace(pipeline_state=fallen))
    one, other = pictures(env, state, moved)
    assert one.std() > 5 and (one != other).any(-1).sum() > 200
    assert drawing.fps(env) == 25


def test_without_opengl_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import mujoco

    def broken(*_: Any) -> Any:
        raise RuntimeError("no context")

    monkeypatch.setattr(mujoco, "Renderer", broken)
    monkeypatch.setattr(camera, "_kept", {})
    monkeypatch.setattr(camera, "_without_a_display", lambda: None)
    env = cart()
    with pytest.raises(NoPicture, match="apt install libegl1"):
        drawing.render(env, start(env))


def test_a_model_that_only_mjx_knows() -> None:
    env = cart()
    stranger = dataclasses.replace(env.env, model=env.env.model.replace(names=b"other\0"))
    with pytest.raises(NoPicture, match="mjx.task"):
        drawing.render(stranger, start(stranger))
