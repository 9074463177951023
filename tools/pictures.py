"""Makes the pictures of docs/pictures.md: python -m tools.pictures [names]

curves, sweeps, films, environments, report; all of them unless some are named. Takes about five
minutes on two cores. The report is photographed with Playwright's Chromium, where there is one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
from PIL import Image, ImageDraw

import jaxrl
from jaxrl import cache, drawing, palette, video
from jaxrl import report as pages

PLACE = Path(__file__).parents[1] / "docs" / "images"
DPI = 75
KEY = jax.random.key(0)
CARTPOLE = jaxrl.envs.make("CartPole-v1")


def small(ax: Any, name: str) -> None:
    path = PLACE / name
    ax.figure.savefig(path, dpi=DPI)
    put(Image.open(path).convert("RGB"), path)


def put(image: Image.Image, path: Path) -> None:
    """In few colours."""
    flat = image.quantize(palette=video.few_colors(image), dither=Image.Dither.NONE)
    flat.save(path, optimize=True)


def curves() -> None:
    ppo = jaxrl.train(jaxrl.PPO(), CARTPOLE, jax.random.split(KEY, 64), steps=100_000)
    dqn = jaxrl.train(jaxrl.DQN(), CARTPOLE, jax.random.split(KEY, 10), steps=100_000)
    small(jaxrl.plot.compare({"PPO": ppo[:10], "DQN": dqn}), "compare.png")
    small(ppo.plot(fan=True), "fan.png")


def sweeps() -> None:
    over = {"lr": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2], "gamma": [0.8, 0.9, 0.95, 0.98, 0.99, 0.995]}
    sweep = jaxrl.sweep(jaxrl.PPO(), CARTPOLE, KEY, over=over, seeds=5, steps=50_000)
    small(sweep.plot(), "heat.png")
    small(sweep.plot(at={"gamma": 0.99}), "line.png")


def films() -> None:
    acrobot = jaxrl.envs.make("Acrobot-v1")
    run = jaxrl.train(jaxrl.PPO(num_envs=16), acrobot, KEY, steps=300_000)
    print(run.video(PLACE / "acrobot.gif", key=jax.random.key(2), max_steps=120))
    breakout = jaxrl.envs.make("Breakout-MinAtar")
    agent = jaxrl.PPO(num_envs=64, lr=1e-3)
    run = jaxrl.train(agent, jaxrl.envs.Flatten(breakout), KEY, steps=1_000_000)
    print(run.video(PLACE / "breakout.gif", key=jax.random.key(1), max_steps=150))
    maze = jaxrl.envs.make("TMaze-v0", length=6)
    run = jaxrl.train(jaxrl.R2D2(), maze, KEY, steps=100_000)
    print(run.video(PLACE / "tmaze.gif", fps=3))


def environments() -> None:
    """A still of each, after some random steps."""
    stills: list[Image.Image] = []
    side = 180
    for name in jaxrl.envs.names():
        env: Any = jaxrl.envs.make(name)
        state, _ = env.reset(KEY)
        try:
            drawing.render(env, state)
        except drawing.NoPicture:
            continue
        step = jax.jit(env.step)
        for i in range(4 if "bsuite" in name else 30):
            key = jax.random.fold_in(KEY, i)
            after, made = step(state, env.action_space.sample(key), key)
            if made.terminated:
                break
            state = after
        still = Image.fromarray(drawing.render(env, jax.device_get(state)))
        still.thumbnail((side, side))
        card = Image.new("RGB", (side + 20, side + 40), palette.PAPER)
        card.paste(still, ((side + 20 - still.width) // 2, (side - still.height) // 2 + 8))
        draw = ImageDraw.Draw(card)
        place = ((side + 20) / 2, side + 24)
        draw.text(place, name, palette.INK, video._font(13), anchor="mm")
        stills.append(card)
    columns = 5
    rows = -(-len(stills) // columns)
    width, height = stills[0].size
    sheet = Image.new("RGB", (columns * width, rows * height), palette.PAPER)
    for i, card in enumerate(stills):
        sheet.paste(card, (i % columns * width, i // columns * height))
    put(sheet, PLACE / "environments.png")


def report() -> None:
    if not importlib.util.find_spec("playwright"):
        print("playwright is not installed: report.png stays as it is")
        return
    from playwright.sync_api import sync_playwright

    with (
        tempfile.TemporaryDirectory() as place,
        contextlib.chdir(place),
        sync_playwright() as play,
    ):
        folder = "runs/cartpole"
        run = jaxrl.train(
            jaxrl.PPO(), CARTPOLE, jax.random.split(KEY, 10), steps=100_000, log=folder
        )
        run[0].video(Path(folder) / "episode.gif", max_steps=200)
        page = pages.write(pages.of_folder(folder), Path(folder) / "r.html").absolute()
        browser = play.chromium.launch(executable_path=shutil.which("chromium"))  # or its own
        halves: list[Image.Image] = []
        for scheme in ("light", "dark"):
            tab = browser.new_context(
                color_scheme=scheme, viewport={"width": 900, "height": 1100}
            ).new_page()
            tab.goto(page.as_uri())
            shot = Path(folder) / f"{scheme}.png"
            tab.screenshot(path=shot)
            half = Image.open(shot).convert("RGB")
            halves.append(half.resize((450, 550), Image.Resampling.LANCZOS))
        browser.close()
    both = Image.new("RGB", (910, 550), palette.PAPER)
    both.paste(halves[0], (0, 0))
    both.paste(halves[1], (460, 0))
    put(both, PLACE / "report.png")


ALL = {f.__name__: f for f in (curves, sweeps, films, environments, report)}

if __name__ == "__main__":
    cache.enable()
    PLACE.mkdir(exist_ok=True)
    for chosen in sys.argv[1:] or list(ALL):
        ALL[chosen]()
    total = sum(x.stat().st_size for x in PLACE.iterdir())
    print(f"{total / 1000:.0f} kB in {PLACE}")
