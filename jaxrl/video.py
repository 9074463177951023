"""Films of episodes: GIF with Pillow, MP4 with ffmpeg."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrl import episode, palette
from jaxrl.result import Policy, Result
from jaxrl.types import Env, Key, PyTree

Picture = np.ndarray[Any, Any]

KINDS = (".gif", ".mp4")

HOLD = 1.0
"""Seconds for which the last frame stands."""

STRIP = 22
"""Height of the caption in pixels."""

FLAT, MANY, APART = 128, 8192, 8
"""Colours of a GIF of a flat drawing, which is one with fewer than so many in all, and how far they
are from each other."""


@dataclasses.dataclass(frozen=True)
class Film:
    """A film that was written, and the episode that it shows."""

    path: Path
    steps: int
    total: float
    """The sum of rewards."""
    over: bool
    """Whether the episode came to its end."""
    fps: float

    def __repr__(self) -> str:
        cut = "" if self.over else ", stopped before its end"
        return (
            f"Film({str(self.path)!r}, {self.steps} steps, return {self.total:.2f}{cut}, "
            f"{self.path.stat().st_size / 1000:,.0f} kB)"
        )

    def _repr_html_(self) -> str:
        """In a notebook it plays."""
        from jaxrl.report.page import film

        return film(self.path)


def record(
    policy: Result | Policy | Callable[[PyTree], jax.Array],
    path: str | Path,
    env: Env | None = None,
    *,
    key: Key | None = None,
    max_steps: int = episode.MAX_STEPS,
    explore: bool = False,
    fps: float | None = None,
    caption: bool = True,
) -> Film:
    """Play an episode and write it to `path`, whose ending (.gif or .mp4) says how.

    The episode is that of `jaxrl.evaluate(policy, env, episodes=1, key=key)`. `fps` is the
    environment's own unless it is given; `caption` writes step and return above the picture.
    """
    from jaxrl import drawing

    path = _place(path)
    env = episode.task(policy, env)
    fps = float(drawing.fps(env) if fps is None else fps)
    if not 0 < fps <= 100:
        raise ValueError(f"fps={fps:g} must lie above 0 and up to 100.")
    write = write_gif if path.suffix == ".gif" else functools.partial(_write_mp4, _ffmpeg())
    last: list[episode.Frame] = []

    def pictures() -> Iterator[Picture]:
        for frame in episode.frames(policy, env, key=key, max_steps=max_steps, explore=explore):
            last[:] = [frame]
            yield captioned(frame) if caption else frame.picture

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".film-") as folder:
        draft = Path(folder) / path.name  # all or nothing
        write(draft, pictures(), fps)
        draft.replace(path)
    return Film(path, last[0].t, last[0].total, last[0].over, fps)


def _place(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix not in KINDS:
        raise ValueError(f"path={str(path)!r} must end in .gif or .mp4.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


# ------------------------------------------------------------------------------------- captions


@functools.cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def captioned(frame: episode.Frame) -> Picture:
    """The picture below a strip that says how far the episode is and what it brought."""
    from PIL import Image, ImageDraw

    width = frame.picture.shape[1]
    strip = Image.new("RGB", (width, STRIP), palette.PAPER)
    draw = ImageDraw.Draw(strip)
    left, right = f"step {frame.t}", f"return {frame.total:.4g}"
    draw.text((8, STRIP / 2), left, palette.INK, _font(13), anchor="lm")
    draw.text((width - 8, STRIP / 2), right, palette.INK, _font(13), anchor="rm")
    return np.concatenate([np.asarray(strip), frame.picture])


# -------------------------------------------------------------------------------------- writing


def write_gif(path: Path, pictures: Iterable[Picture], fps: float) -> None:
    """One palette for all frames: what does not change is then not stored again."""
    from PIL import Image

    pause = 10 * max(1, round(100 / fps))  # in steps of 10 ms
    frames = [Image.fromarray(x) for x in pictures]
    some = frames[:: max(1, len(frames) // 16)] + frames[-1:]
    colors = few_colors(Image.fromarray(np.concatenate([np.asarray(x) for x in some])))
    flat = [x.quantize(palette=colors, dither=Image.Dither.NONE) for x in frames]
    durations = [pause] * (len(flat) - 1) + [round(HOLD * 1000)]
    flat[0].save(
        path, save_all=True, append_images=flat[1:], duration=durations, loop=0, optimize=True
    )


def few_colors(image: Any) -> Any:
    """An image whose palette is for that one. Of a flat drawing the colours of areas are kept as
    they are, and those of edges go to the nearest. A GIF has 256, of which one is "as before"."""
    from PIL import Image

    found = image.getcolors(MANY)
    if found is None:
        return image.quantize(255, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    kept = np.zeros((0, 3), int)
    for _, color in sorted(found, reverse=True):
        # Pillow looks for the nearest by the upper bits only: an edge must not win over an area.
        if len(kept) < FLAT and (np.abs(kept - color).max(1) >= APART).all():
            kept = np.vstack([kept, color])
    chosen = Image.new("P", (1, 1))
    chosen.putpalette(kept.ravel().tolist())
    return chosen


def _ffmpeg() -> str:
    try:
        module: Any = importlib.import_module("imageio_ffmpeg")
        return module.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        found = shutil.which("ffmpeg")
    if found is None:
        raise ModuleNotFoundError(
            'MP4 needs ffmpeg: pip install "jaxrl[video]", or install ffmpeg, or write a .gif.'
        )
    return found


def _write_mp4(ffmpeg: str, path: Path, pictures: Iterable[Picture], fps: float) -> None:
    process: Any = None
    picture: Picture | None = None
    with tempfile.TemporaryFile() as said:
        try:
            for picture in pictures:
                picture = _even(picture)
                if process is None:
                    height, width, _ = picture.shape
                    command = [
                        *[ffmpeg, "-loglevel", "error", "-y", "-f", "rawvideo"],
                        *["-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}"],
                        *["-i", "-", "-an", "-c:v", "libx264", "-crf", "20"],
                        *["-pix_fmt", "yuv420p", "-movflags", "+faststart", str(path)],
                    ]
                    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=said)
                process.stdin.write(picture.tobytes())
            assert picture is not None and process is not None
            for _ in range(round(HOLD * fps)):
                process.stdin.write(picture.tobytes())
        except BrokenPipeError:
            pass  # it says why
        except BaseException:
            if process is not None:
                process.kill()
                process.wait()
            raise
        finally:
            if process is not None:
                with contextlib.suppress(OSError):  # what is left in a buffer that nobody reads
                    process.stdin.close()
        if process is not None and process.wait():
            said.seek(0)
            reason = said.read().decode(errors="replace").strip()
            raise RuntimeError(f"ffmpeg could not write {path.name}: {reason}")


def _even(picture: Picture) -> Picture:
    """The format stores colours for 2 x 2 pixels."""
    height, width, _ = picture.shape
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
