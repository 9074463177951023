"""Watching: the right place is found, and what is shown there is the episode."""

import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import drawing, enjoy, progress
from jaxrl.cli import parser

CATCH = jaxrl.envs.make("Catch-bsuite")
KEY = jax.random.key(0)
AGENT = jaxrl.PPO(num_envs=2, num_steps=16, minibatches=2, epochs=1)


def stay(obs: jax.Array) -> jax.Array:
    return jnp.ones(obs.shape[0], jnp.int32)


def shown(text: str) -> np.ndarray:
    """The half blocks of one picture as pixels again."""
    code = r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m"
    rows: list[list[list[int]]] = []
    for line in text.splitlines():
        above: list[list[int]] = []
        below: list[list[int]] = []
        for part in re.finditer(rf"{code}(▀+)", line):
            *numbers, blocks = part.groups()
            values = [int(x) for x in numbers]
            above += [values[:3]] * len(blocks)
            below += [values[3:]] * len(blocks)
        if above:
            rows += [above, below]
    return np.array(rows)


def test_half_blocks_are_the_picture() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    picture[:, 3] = picture[:, 2]  # a run of one colour is said once
    text = enjoy.blocks(picture, 80, 24, true_color=True)
    assert text.count("\n") == 3
    np.testing.assert_array_equal(shown(text), picture)


def test_a_large_picture_fits() -> None:
    picture = np.zeros((300, 200, 3), np.uint8)
    for columns, rows in ((80, 20), (10, 50)):
        found = shown(enjoy.blocks(picture, columns, rows, true_color=True))
        assert found.shape[1] <= columns and found.shape[0] <= 2 * rows
        assert found.shape[1] == columns or found.shape[0] == 2 * rows


def test_256_colours() -> None:
    for color, code in (((255, 0, 0), 196), ((0, 0, 255), 21), ((128, 128, 128), 244)):
        assert enjoy._color(np.array(color, np.uint8), False) == f"5;{code}"
    text = enjoy.blocks(np.zeros((2, 2, 3), np.uint8), 80, 24, true_color=False)
    assert ";2;" not in text and "38;5;16;48;5;16m▀▀" in text


def test_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "in_notebook", lambda: False)
    monkeypatch.setattr(enjoy, "_interactive", lambda: True)
    monkeypatch.setattr(sys, "platform", "linux")
    assert enjoy.place({"DISPLAY": ":0"}) == "window"
    monkeypatch.setattr(enjoy, "_interactive", lambda: False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert enjoy.place({"DISPLAY": ":0", "TERM": "xterm"}) == "terminal"
    assert enjoy.place({"TERM": "dumb"}) == "file"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert enjoy.place({"TERM": "xterm"}) == "file"
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    assert enjoy.place({}) == "notebook"


def test_on_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "24")
    last = enjoy.watch(stay, CATCH, key=KEY, where="terminal", fps=1000)
    out = capsys.readouterr().out
    assert last.t == 9 and last.over
    assert out.startswith("\x1b[?25l") and out.endswith("\x1b[?25h")  # the cursor comes back
    assert out.count("▀") > 0 and f"step 9  return {last.total:.4g}" in out
    pictures = re.split(r"\x1b\[\d+F", out)
    assert len(pictures) == 10
    heights = {len(x) for x in re.findall(r"\x1b\[(\d+)F", out)}
    assert len(heights) == 1
    state, _ = CATCH.reset(jax.random.split(jax.random.split(KEY)[0], 1)[0])
    first = shown(pictures[0])
    small = np.asarray(drawing.render(CATCH, state))
    assert np.abs(first.mean((0, 1)) - small.mean((0, 1))).max() < 3


def test_ctrl_c_gives_the_cursor_back(capsys: pytest.CaptureFixture[str]) -> None:
    def frames() -> Any:
        yield from enjoy.episode.frames(stay, CATCH, max_steps=2)
        raise KeyboardInterrupt

    last = enjoy._terminal(frames())
    assert last is not None and last.t == 2
    assert capsys.readouterr().out.endswith("\x1b[?25h")


def test_in_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    shows: list[Any] = []
    drawn: list[int] = []
    monkeypatch.setattr(Figure, "show", lambda self: shows.append(self))
    plt.switch_backend("agg")
    monkeypatch.setattr(
        "matplotlib.backends.backend_agg.FigureCanvasAgg.draw_idle", lambda self: drawn.append(1)
    )
    last = enjoy.watch(stay, CATCH, key=KEY, where="window", fps=1000)
    assert last.t == 9 and len(shows) == 1 and len(drawn) == 10
    assert not plt.get_fignums()


def test_where_nothing_can_be_shown_a_film_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    film = enjoy.watch(stay, CATCH, key=KEY, where="file")
    assert film.path.exists() and "episode.gif" in capsys.readouterr().err
    with pytest.raises(ValueError, match="where='tv' must be one of"):
        enjoy.watch(stay, CATCH, where="tv")  # pyright: ignore


def test_frames_are_no_faster_than_real_time() -> None:
    import time

    began = time.monotonic()
    assert len(list(enjoy._paced(enjoy.episode.frames(stay, CATCH), 0.02))) == 10
    assert time.monotonic() - began >= 0.2


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    env = jaxrl.envs.Flatten(CATCH)
    jaxrl.train(AGENT, env, jax.random.split(KEY, 2), steps=64, checkpoint="runs/a")
    assert parser.main(["enjoy", "runs/a", "--run", "1", "--output", "one.gif"]) == 0
    assert "Film('one.gif', 9 steps, return" in capsys.readouterr().out
    assert (tmp_path / "one.gif").exists()
    monkeypatch.setattr(enjoy, "place", lambda: "file")
    assert parser.main(["enjoy", "runs/a"]) == 0
    assert (tmp_path / "runs/a/episode.gif").exists()
    words = ["enjoy", "runs/a", "--where", "terminal", "--episodes", "2", "--fps", "1000"]
    assert parser.main(words) == 0
    out = capsys.readouterr().out
    assert "episode 1: 9 steps" in out and "episode 2: 9 steps" in out
    assert parser.main(["enjoy", "runs/a", "--run", "2"]) == 2
    assert "there are runs 0 to 1" in capsys.readouterr().err
