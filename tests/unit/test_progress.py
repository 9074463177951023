"""The line that says how a run is getting on."""

import io
import sys
import types
from typing import Any

import numpy as np
import pytest

import jaxrl
from jaxrl import progress
from jaxrl.progress import Progress
from jaxrl.result import Timing

AGENT = jaxrl.PPO(num_envs=2, num_steps=5)  # ten steps per iteration


class Stream(io.StringIO):
    def __init__(self, tty: bool, encoding: str = "utf-8") -> None:
        super().__init__()
        self.tty, self.code = tty, encoding

    def isatty(self) -> bool:
        return self.tty

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.code


class Lanes:
    count, devices, group, groups, envs = 3, 1, 1, 4, 1


def returns(*columns: Any) -> dict[str, Any]:
    return {"episode/return": np.array(columns, float).T}


def run(monkeypatch: pytest.MonkeyPatch, stream: Stream, **options: Any) -> Progress:
    monkeypatch.setattr(sys, "stderr", stream)
    return Progress(options.pop("show", None), 100, AGENT, options.pop("lanes", None), **options)


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")


TIMING = Timing(compile_seconds=1.0, run_seconds=10.0, steps=250)


def test_a_pipe_hears_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(tty=False)
    show = run(monkeypatch, stream)
    show.compiling("12 MiB")
    show.compiled(1.0)
    show.advanced(25, returns(1.0), TIMING)
    show.close()
    assert stream.getvalue() == ""


def test_a_terminal_has_one_line_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(tty=True)
    show = run(monkeypatch, stream)
    show.compiling("12 MiB")
    show.compiled(1.0)
    show.advanced(25, returns(1.0), TIMING)
    show.advanced(50, returns(2.0), TIMING)
    show.close()
    lines = stream.getvalue().split("\n")
    assert lines[0] == "PPO: 1 run x 1,000 steps, about 12 MiB; compiling ..."
    assert lines[1] == "PPO: compiled in 1.0 s"
    first, second = lines[2].split("\r")
    assert first == "█████···············  25%  250 steps  25 steps/s  0:30 left  return 1.0"
    assert second.startswith(
        "██████████··········  50%  500 steps  25 steps/s  0:10 left  return 2.0"
    )
    assert lines[3:] == [""]


def test_a_line_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = Stream(tty=True)
    show = run(monkeypatch, stream)
    show.advanced(25, returns(1.0), TIMING)
    assert len(stream.getvalue().split("\n")[-1]) == 39


def test_ascii_where_nothing_else_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(tty=True, encoding="ascii")
    show = run(monkeypatch, stream, lanes=Lanes())
    show.advanced(25, returns([1.0, 2.0, 3.0]), TIMING)
    assert stream.getvalue().isascii() and "#####...." in stream.getvalue()


def test_ci_hears_something_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = Stream(tty=False)
    show = run(monkeypatch, stream)
    show.compiling("12 MiB")
    show.compiled(1.0)
    for i, second in enumerate((1, 9, 11, 12, 22, 23)):
        now[0] = float(second)
        show.advanced(10 * (i + 1), returns(1.0), TIMING)
    show.close()
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["30%", "50%"]


@pytest.mark.parametrize("value", ["", "0", "false"])
def test_no_ci(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Stream(tty=False))
    assert progress.place({"CI": value}) == "elsewhere"
    assert progress.place({"CI": "1"}) == "ci"


def test_a_dumb_terminal_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Stream(tty=True))
    assert progress.place({"TERM": "dumb"}) == "elsewhere"
    assert progress.place({"TERM": "xterm"}) == "terminal"


def test_asked_for_it_speaks_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(tty=False)
    show = run(monkeypatch, stream, show=True)
    show.compiling("")
    show.advanced(25, returns(1.0), TIMING)
    show.advanced(100, returns(np.nan), TIMING)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3 and "\r" not in stream.getvalue()
    assert lines[2].endswith("in 0:10  return 1.0")  # the last that is known


def test_the_spread_is_over_runs_and_not_over_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(tty=False)
    show = run(monkeypatch, stream, show=True, lanes=Lanes())
    show.advanced(25, returns([1.0, np.nan, 5.0, 900.0], [3.0, np.nan, np.nan, 900.0]), TIMING)
    assert stream.getvalue().splitlines()[-1].endswith("return 4.0 ± 1.0 over 2 runs")
    show.advanced(30, returns([np.nan] * 4), TIMING)
    assert "return 4.0 ± 1.0" in stream.getvalue().splitlines()[-1]


def test_no_episode_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(tty=False)
    show = run(monkeypatch, stream, show=True)
    show.advanced(25, returns(np.nan), TIMING)
    assert stream.getvalue().endswith("no episode ended yet\n")


def test_time_left_counts_from_where_the_run_went_on(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(tty=False)
    show = run(monkeypatch, stream, show=True, begun=50)
    show.advanced(60, returns(1.0), TIMING)  # ten iterations in ten seconds, forty to go
    assert "0:40 left" in stream.getvalue()


def test_a_notebook_has_one_output_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, data: dict[str, str], raw: bool) -> None:
            shown.append(data["text/plain"])

    def display(data: dict[str, str], raw: bool, display_id: bool) -> Handle:
        shown.append("NEW " + data["text/plain"])
        return Handle()

    ipython: Any = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(config={"IPKernelApp": {}})
    module: Any = types.ModuleType("IPython.display")
    module.display = display
    ipython.display = module
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    stream = Stream(tty=False)
    show = run(monkeypatch, stream)
    show.compiling("12 MiB")
    show.compiled(1.0)
    show.advanced(25, returns(1.0), TIMING)
    show.close()
    assert stream.getvalue() == ""
    assert [text.startswith("NEW ") for text in shown] == [True, False, False]
    assert shown[2].startswith("PPO: 1 run x 1,000 steps\n█████")


def test_wrapped_agents_have_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Stream(tty=True))
    show = Progress(None, 100, jaxrl.NormalizeObs(AGENT), None)
    assert show.name == "NormalizeObs(PPO)"
