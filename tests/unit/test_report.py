"""The page of a run: whole, sound, harmless, and readable in a real browser."""

import dataclasses
import importlib.util
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import report
from jaxrl.cli import parser
from jaxrl.guard import Sick
from jaxrl.report import chart, page
from jaxrl.report.page import Content
from jaxrl.statistics import iqm

KEY = jax.random.key(0)
EVIL = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Checks that tags are closed in order, and gathers what is in them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, (tag, self.open)

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data + " "

    def named(self, tag: str) -> list[dict[str, Any]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs") / "a & b"
    run = jaxrl.train(
        jaxrl.PPO(num_envs=2, num_steps=16, minibatches=2, epochs=1, lr=7.5e-4),
        jaxrl.envs.make("CartPole-v1"),
        jax.random.split(KEY, 3),
        steps=960,
        evaluate_every=480,
        evaluate_episodes=2,
        log=place,
    )
    run[0].video(place / "first.gif", max_steps=10)
    return place


def content(**changed: Any) -> Content:
    steps = np.array([10, 20, 30])
    metrics = {
        "episode/return": np.array([[1.0, 2, 3], [2, 4, np.nan], [0, 0, 9]]),
        "loss/value": np.array([[1.0, np.inf, 3], [2, 4, np.nan], [0, 0, 9]]),
        "evaluate/return": np.full((3, 3), np.nan),
    }
    whole = Content("Agent on Env", {}, {}, {"steps": 30}, [], steps, metrics)
    return dataclasses.replace(whole, **changed)


def test_the_page_of_a_folder_says_it_all(folder: Path) -> None:
    path = report.write(report.of_folder(folder), folder / "report.html")
    found = Page(path.read_text())
    assert path.read_text().startswith("<!doctype html>")
    steps, metrics = jaxrl.sinks.files.read(folder / "metrics.csv")
    for name in metrics:
        assert name in found.text
    for word in ("PPO on CartPole", "0.00075", "half_length", "jaxlib", "matmul_precision",
                 "evaluate_every", "960", "a & b", "first.gif", "git"):  # fmt: skip
        assert word in found.text, word
    assert len(found.named("svg")) == len(metrics) + 1  # every metric, and the score once large
    assert all(svg["viewbox"] and svg["aria-label"] for svg in found.named("svg"))
    assert found.named("img")[0]["src"].startswith("data:image/gif;base64,")
    final = np.nanmean(metrics["evaluate/return"][:, -10:], 1)
    assert chart.number(iqm(final)) in found.text
    rows = re.findall(r'<tr><td class="n">(\d+)</td>', path.read_text())
    assert rows == ["0", "1", "2"]
    assert not list(folder.glob("*.saving"))


def test_nothing_is_asked_of_the_network(folder: Path) -> None:
    text = page.written(report.of_folder(folder))
    found = Page(text)
    for _, attrs in found.tags:
        for name in ("src", "href", "srcset", "poster", "action", "data"):
            assert str(attrs.get(name, "data:")).startswith("data:")
    assert not re.search(r"@import|url\(|https?:", text)
    assert not found.named("script") and not found.named("link")
    assert "prefers-color-scheme: dark" in text


def test_every_text_is_escaped() -> None:
    evil = content(
        title=EVIL,
        agent={"class": EVIL, "fields": {EVIL: EVIL, "x": {"class": EVIL, "fields": {EVIL: 1}}}},
        env={"make": EVIL, "constants": {EVIL: [EVIL]}},
        call={EVIL: {"opaque": EVIL}},
        sessions=[{"command": [EVIL], EVIL: EVIL, "git": {"branch": EVIL, "commit": EVIL},
                   "versions": {EVIL: EVIL}, "hardware": {EVIL: [EVIL]}, "time": EVIL}],
        metrics={EVIL: np.ones((2, 3)), f"episode/return{EVIL}": np.full((2, 3), np.nan)},
        notes=[EVIL],
        place=EVIL,
    )  # fmt: skip
    text = page.written(evil)
    found = Page(text)
    assert not found.named("script") and not found.named("img")
    assert "<script" not in text and found.text.count("document.title") > 15
    for _, attrs in found.tags:
        assert not any(name.startswith("on") for name in attrs)
    (policy,) = [m["content"] for m in found.named("meta") if "http-equiv" in m]
    assert policy.startswith("default-src 'none'") and "script" not in policy


def test_the_page_of_a_result(tmp_path: Path) -> None:
    agent = jaxrl.NormalizeObs(jaxrl.PPO(num_envs=2, num_steps=16, minibatches=2, epochs=1))
    run = jaxrl.train(agent, jaxrl.envs.make("CartPole-v1", gravity=7.25), KEY, steps=64)
    text = run.report(tmp_path / "new" / "r.html").read_text()
    found = Page(text)
    for word in (
        "NormalizeObs(PPO) on CartPole",
        "steps_per_second",
        "7.25",
        "minibatches",
        "cores",
    ):
        assert word in found.text
    assert 'class="run"' not in text  # of a single run there is the curve alone
    assert "mine" in Page(run.report(tmp_path / "r.html", title="mine").read_text()).text


def test_a_run_that_stopped_is_named() -> None:
    run = jaxrl.Result(
        agent=jaxrl.PPO(),
        state=(),
        metrics={"episode/return": jnp.ones((2, 3))},
        steps=jnp.ones((2, 3)),
        spec=None,  # pyright: ignore
        sick=(Sick(1, 7, 448, ("params.actor",)),),
    )
    text = page.written(report.of_result(run))
    assert "Stopped: run 1 became non-finite in iteration 7" in text


def test_curves_lie_where_they_should() -> None:
    steps, values = np.array([0, 50, 100]), np.array([[0.0, 5, 10]])
    text = chart.chart(steps, values, "x")
    (points,) = re.findall(r'class="middle" points="([^"]*)"', text)
    places = np.array([p.split(",") for p in points.split()], float)
    x, y = places.T
    assert x[0] == 46 and x[2] == 268 and x[1] == pytest.approx((x[0] + x[2]) / 2, abs=0.1)
    assert y[0] > y[1] > y[2] and y[1] == pytest.approx((y[0] + y[2]) / 2, abs=0.1)
    labels = re.findall(r'text-anchor="end">([^<]*)<', text)
    assert labels == ["0", "2.5", "5", "7.5", "10"]


def test_values_that_do_not_exist_are_left_out() -> None:
    text = page.written(content())
    assert "nan" not in text.lower().replace("nanum", "") and "inf" not in re.findall(
        r'points="([^"]*)"', text
    )
    assert "Never had a value: evaluate/return." in text
    assert "episode/return: return per episode" in text  # the score, as nothing was evaluated
    one = chart.chart(np.array([5]), np.array([[2.0]]), "x")
    assert 'class="dot"' in one
    empty = Page(page.written(content(metrics={}, steps=np.zeros(0, int)))).text
    assert "No metrics yet." in empty


def test_long_curves_are_thinned_and_keep_their_end() -> None:
    steps = np.arange(5001)
    text = chart.chart(steps, steps[None].astype(float), "x")
    (points,) = re.findall(r'class="middle" points="([^"]*)"', text)
    assert 150 < len(points.split()) <= 202 and points.split()[-1].startswith("268.0,")


def test_a_thousand_runs_are_quick_and_not_too_large() -> None:
    import time

    metrics = {f"loss/{i}": np.random.default_rng(i).normal(size=(1500, 100)) for i in range(8)}
    metrics["episode/return"] = metrics["loss/0"]
    began = time.process_time()
    text = page.written(content(metrics=metrics, steps=np.arange(100)))
    assert time.process_time() - began < 10
    assert len(text) < 1_500_000 and "476 more in metrics.csv" in text


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (12.5, "12.5"), (1234.56, "1235"), (12345, "12.35k"), (2000, "2k"), (2.5e6, "2.5M"),
     (-20000, "-20k"), (1e-5, "1e-05"), (float("nan"), "-"), (float("inf"), "-")],
)  # fmt: skip
def test_numbers(value: float, said: str) -> None:
    assert chart.number(value) == said


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [
        (0, 8, [0, 2, 4, 6, 8]),
        (-0.4, 8.4, [0, 2, 4, 6, 8]),
        (3, 3, [3]),
        (0, 2e-4, [0, 1e-4, 2e-4]),
    ],
)
def test_ticks_are_round(low: float, high: float, marks: list[float]) -> None:
    np.testing.assert_allclose(chart.ticks(low, high, 4 if high > 1 else 2), marks, atol=1e-12)


def test_damaged_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no run.json"):
        report.of_folder(tmp_path)
    said: dict[str, Any] = {"kind": "jaxrl run", "agent": 3, "env": [1], "call": "x", "sessions": 4}
    (tmp_path / "run.json").write_text(json.dumps(said))
    Page(page.written(report.of_folder(tmp_path)))
    said["sessions"] = [{"git": 3, "versions": [], "hardware": None, "command": None}, 5]
    (tmp_path / "run.json").write_text(json.dumps(said))
    Page(page.written(report.of_folder(tmp_path)))
    (tmp_path / "metrics.csv").write_text("steps,run,a\n")
    Page(page.written(report.of_folder(tmp_path)))
    (tmp_path / "metrics.csv").write_text("what,is,this\n")
    with pytest.raises(ValueError, match="is not a table of metrics"):
        report.of_folder(tmp_path)
    with pytest.raises(ValueError, match="must end in .html"):
        report.write(content(), tmp_path / "x.pdf")


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert parser.main(["report", str(folder), "--title", "Mine"]) == 0
    made = Path(capsys.readouterr().out.strip())
    assert made == folder / "report.html" and "<h1>Mine</h1>" in made.read_text()
    assert parser.main(["report", str(folder / "no")]) == 2


# ------------------------------------------------------------------------------- a real browser


BROWSERS = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome")
"""Looked for in PATH, where Playwright has not installed its own (playwright install chromium)."""


def launch(chromium: Any) -> Any:
    from playwright.sync_api import Error

    paths = [None, *(found for name in BROWSERS if (found := shutil.which(name)))]
    for path in paths:
        try:
            return chromium.launch(executable_path=path)
        except Error as error:
            said = str(error).splitlines()[0]
    pytest.skip(f"no browser: {said}")


@pytest.fixture(scope="module")
def browser() -> Any:
    if not importlib.util.find_spec("playwright"):
        pytest.skip("playwright is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = launch(play.chromium)
        yield opened
        opened.close()


def visit(browser: Any, path: Path, **options: Any) -> tuple[Any, list[str]]:
    """-> the page, and what was asked for or went wrong"""
    tab = browser.new_context(**options).new_page()
    found: list[str] = []
    tab.on("request", lambda r: found.append(r.url))
    tab.on("pageerror", lambda e: found.append(str(e)))
    tab.goto(path.as_uri())
    return tab, [x for x in found if not x.startswith("data:")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(browser: Any, folder: Path, tmp_path: Path, scheme: str) -> None:
    path = report.write(report.of_folder(folder), tmp_path / "r.html")
    tab, asked = visit(browser, path, color_scheme=scheme, viewport={"width": 1000, "height": 800})
    assert asked == [path.as_uri()]
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    shade = sum(map(int, re.findall(r"\d+", ground)[:3]))
    assert (shade > 600) == (scheme == "light")
    assert tab.title() == "PPO on CartPole"
    film = tab.locator(".film img")
    assert film.evaluate("x => x.complete && x.naturalWidth") == 480
    for i in range(tab.locator("svg").count()):
        box = tab.locator("svg").nth(i).bounding_box()
        assert box["width"] > 200 and box["height"] > 100
    assert tab.locator("figure svg").first.bounding_box()["width"] > 800
    curve = tab.locator("figure .middle").first
    assert curve.bounding_box()["width"] > 400  # the evaluations are in the second half
    assert "rgb" in curve.evaluate("x => getComputedStyle(x).stroke")
    # No text of a small chart leaves it, and the page does not scroll sideways.
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    outside = """Array.from(document.querySelectorAll('svg text')).filter(t => {
        const a = t.getBoundingClientRect(), b = t.ownerSVGElement.getBoundingClientRect();
        return a.left < b.left - 1 || a.right > b.right + 1 || a.bottom > b.bottom + 1;
    }).map(t => t.textContent)"""
    assert tab.evaluate(outside) == []


def test_on_a_telephone(browser: Any, folder: Path, tmp_path: Path) -> None:
    path = report.write(report.of_folder(folder), tmp_path / "r.html")
    tab, _ = visit(browser, path, viewport={"width": 390, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_script_in_a_setting_does_not_run(browser: Any, tmp_path: Path) -> None:
    path = report.write(content(call={EVIL: EVIL}, notes=[EVIL]), tmp_path / "r.html")
    tab, asked = visit(browser, path)
    tab.wait_for_timeout(200)
    assert tab.title() == "Agent on Env" and asked == [path.as_uri()]
    # Even unescaped it would not: the page forbids scripts.
    raw = path.read_text().replace("</body>", f"{EVIL}</body>")
    path.write_text(raw)
    tab, _ = visit(browser, path)
    tab.wait_for_timeout(200)
    assert tab.title() == "Agent on Env"
