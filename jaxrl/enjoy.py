"""Watching an episode as it is played: in a window, in a notebook, or on the terminal."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxrl import episode, progress, video
from jaxrl.result import Policy, Result
from jaxrl.types import Env, Key, PyTree

Place = Literal["window", "notebook", "terminal", "file"]

PLACES = ("window", "notebook", "terminal", "file")

FILM = "episode.gif"
"""What is written where nothing can be shown."""


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """Where an episode can be shown."""
    if progress.in_notebook():
        return "notebook"
    if _display(environment) and _interactive():
        return "window"
    if sys.stdout.isatty() and environment.get("TERM", "dumb") != "dumb":
        return "terminal"
    return "file"


def _display(environment: Mapping[str, str]) -> bool:
    if sys.platform in ("darwin", "win32"):
        return "SSH_CONNECTION" not in environment
    return bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))


def _interactive() -> bool:
    """Whether matplotlib finds something to make windows with. It tries them in turn."""
    import matplotlib

    try:
        importlib.import_module("matplotlib.pyplot")
        return matplotlib.get_backend().lower() not in ("agg", "pdf", "svg", "ps", "cairo")
    except (ImportError, RuntimeError):
        return False


def watch(
    policy: Result | Policy | Callable[[PyTree], Any],
    env: Env | None = None,
    *,
    key: Key | None = None,
    max_steps: int = episode.MAX_STEPS,
    explore: bool = False,
    fps: float | None = None,
    where: Place | None = None,
    path: str | Path = FILM,
) -> Any:
    """Play an episode and show it: in a window where there is a display, in the notebook, on the
    terminal, or as a film at `path`; `where` chooses one of "window", "notebook", "terminal" and
    "file". -> the last `jaxrl.episode.Frame` that was seen, or the film."""
    from jaxrl import drawing

    env = episode.task(policy, env)
    chosen = place() if where is None else where
    if chosen not in PLACES:
        raise ValueError(f"where={where!r} must be one of {', '.join(map(repr, PLACES))}.")
    if chosen in ("notebook", "file"):
        path = Path(path)
        film = video.record(
            policy, path, env, key=key, max_steps=max_steps, explore=explore, fps=fps
        )
        if chosen == "notebook":
            display: Any = importlib.import_module("IPython.display")
            display.display(film)
        print(f"{film}", file=sys.stderr)
        return film
    if fps is not None and not fps > 0:
        raise ValueError(f"fps={fps:g} must be above 0.")
    pace = 1 / (drawing.fps(env) if fps is None else fps)
    seen = episode.frames(policy, env, key=key, max_steps=max_steps, explore=explore)
    return (_window if chosen == "window" else _terminal)(_paced(seen, pace))


def _paced(frames: Iterable[episode.Frame], pause: float) -> Iterator[episode.Frame]:
    """No faster than real time; what takes longer is not made up for."""
    due = time.monotonic()
    for frame in frames:
        yield frame
        due = max(due + pause, time.monotonic())
        time.sleep(due - time.monotonic() if due > time.monotonic() else 0)


# --------------------------------------------------------------------------------------- window


def _window(frames: Iterable[episode.Frame]) -> episode.Frame | None:
    """Closing the window ends the episode."""
    plt: Any = importlib.import_module("matplotlib.pyplot")
    figure: Any = None
    image: Any = None
    last = None
    for frame in frames:
        picture, last = video.captioned(frame), frame
        if figure is None:
            height, width, _ = picture.shape
            figure = plt.figure("jaxrl", figsize=(width / 80, height / 80), dpi=80)
            ax = figure.add_axes((0, 0, 1, 1))
            ax.axis("off")
            image = ax.imshow(picture)
            figure.show()
        image.set_data(picture)
        figure.canvas.draw_idle()
        figure.canvas.flush_events()
        if not plt.fignum_exists(figure.number):
            break
    if figure is not None:
        plt.close(figure)
    return last


# ------------------------------------------------------------------------------------- terminal


def _terminal(frames: Iterable[episode.Frame]) -> episode.Frame | None:
    """Two pixels in each character. Ctrl-C ends the episode."""
    last = None
    lines = 0
    true_color = os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit")
    out = sys.stdout
    out.write("\x1b[?25l")  # hide the cursor
    try:
        for frame in frames:
            columns, rows = shutil.get_terminal_size()
            text = blocks(frame.picture, columns - 1, rows - 3, true_color)
            back = f"\x1b[{lines}F" if lines else ""
            out.write(f"{back}{text}\x1b[K step {frame.t}  return {frame.total:.4g}\n")
            out.flush()
            lines, last = text.count("\n") + 1, frame
    except KeyboardInterrupt:
        pass
    finally:
        out.write("\x1b[0m\x1b[?25h")
        out.flush()
    return last


def blocks(picture: np.ndarray[Any, Any], columns: int, rows: int, true_color: bool) -> str:
    """The picture as lines of half blocks, at most so many columns and rows of characters."""
    from PIL import Image

    height, width, _ = picture.shape
    scale = min(columns / width, 2 * rows / height, 1.0)
    size = max(1, round(width * scale)), max(2, round(height * scale / 2) * 2)
    small = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
    lines: list[str] = []
    for top, bottom in zip(small[::2], small[1::2], strict=True):
        line, before = "", ""
        for above, below in zip(top, bottom, strict=True):
            code = f"\x1b[38;{_color(above, true_color)};48;{_color(below, true_color)}m"
            line += (code if code != before else "") + "▀"
            before = code
        lines.append(line + "\x1b[0m\x1b[K\n")
    return "".join(lines)


def _color(pixel: np.ndarray[Any, Any], true_color: bool) -> str:
    red, green, blue = (int(x) for x in pixel)
    if true_color:
        return f"2;{red};{green};{blue}"
    if max(red, green, blue) - min(red, green, blue) < 12 and 8 <= red <= 238:
        return f"5;{232 + (red - 8) // 10}"  # the 24 greys of the 256 colours
    r, g, b = (round(x / 255 * 5) for x in (red, green, blue))  # the cube of 6 x 6 x 6
    return f"5;{16 + 36 * r + 6 * g + b}"
