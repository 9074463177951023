"""Values and policies drawn on maps: what is drawn is what was given."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import jaxrl
from jaxrl import maps

WORLD = jaxrl.envs.Gridworld(("S.#", ".HG"))
TABLE = np.arange(24.0).reshape(6, 4)


def arrows(ax: Any) -> set[tuple[float, float, float, float]]:
    """(column, row, right, down), the direction's sign alone."""
    found: set[tuple[float, float, float, float]] = set()
    for q in ax.collections:
        for (x, y), u, v in zip(q.XY, q.U, q.V, strict=True):
            found.add((float(x), float(y), float(np.sign(u)), float(np.sign(v))))
    return found


def test_values_are_colours_and_numbers() -> None:
    ax = maps.draw(WORLD, np.array([1.0, 2.0, 99.0, 3.0, 4.0, 5.0]))
    shown = np.ma.filled(ax.images[0].get_array(), np.nan)
    np.testing.assert_equal(shown, [[1, 2, np.nan], [3, 4, 5]])  # a wall has no value
    assert ax.images[0].get_clim() == (1.0, 5.0)
    texts = {(t.get_text(), *t.get_position()) for t in ax.texts}
    assert texts == {("1", 0, 0), ("2", 1, 0), ("3", 0, 1), ("H", 1, 1), ("G", 2, 1)}


def test_arrows_point_where_the_best_actions_lead() -> None:
    table = np.zeros((6, 4))  # up, right, down, left
    table[0] = [0, 1, 1, 0]
    table[1] = [0, 0, 1, 0]
    table[3] = 0.5  # all the same: nothing is known
    table[5] = [1, 0, 0, 0]  # an end: nobody acts there
    ax = maps.draw(WORLD, table)
    assert arrows(ax) == {(0, 0, 1, 0), (0, 0, 0, 1), (1, 0, 0, 1)}
    np.testing.assert_equal(ax.images[0].get_array()[0, 0], 1.0)


def test_a_policy_of_its_own() -> None:
    ax = maps.draw(WORLD, np.zeros(6), policy=np.array([3, 0, 0, 1, 0, 0]))
    assert arrows(ax) == {(0, 0, -1, 0), (1, 0, 0, -1), (0, 1, 1, 0)}
    half = np.full((6, 4), [0.5, 0.5, 0.0, 0.0])
    ax = maps.draw(WORLD, np.zeros(6), policy=half)
    lengths = [float(np.hypot(u, v)) for q in ax.collections for u, v in zip(q.U, q.V)]
    assert lengths == pytest.approx([0.21] * 6)


def test_wrapped_and_bundled_worlds() -> None:
    for name in ("FrozenLake-v1", "CliffWalking-v1", "BlockingMaze-v0", "WindyGridworld-v0"):
        env = jaxrl.envs.make(name)
        assert maps.draw(env, np.zeros((env.obs_space.n, 4))) is not None  # pyright: ignore


def test_film(tmp_path: Path) -> None:
    path = maps.film(WORLD, [TABLE * k for k in range(3)], tmp_path / "new" / "flood.gif", fps=10)
    with Image.open(path) as film:
        assert film.n_frames == 3  # pyright: ignore[reportAttributeAccessIssue]
        assert film.info["duration"] == 100
        first = np.asarray(film.convert("RGB")).copy()
        film.seek(2)
        assert (np.asarray(film.convert("RGB")) != first).any()


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="CartPole has no map.*FrozenLake"):
        maps.draw(jaxrl.envs.CartPole(), np.zeros(4))
    with pytest.raises(ValueError, match=r"table has shape \(5,\); the map has 6 cells"):
        maps.draw(WORLD, np.zeros(5))
    with pytest.raises(ValueError, match=r"policy has shape \(2,\)"):
        maps.draw(WORLD, np.zeros(6), policy=np.zeros(2))
    with pytest.raises(ValueError, match=r"must end in \.gif"):
        maps.film(WORLD, [TABLE], tmp_path / "film.mp4")
    with pytest.raises(ValueError, match="fps=0"):
        maps.film(WORLD, [TABLE], tmp_path / "film.gif", fps=0)
    with pytest.raises(ValueError, match="tables is empty"):
        maps.film(WORLD, [], tmp_path / "film.gif")
