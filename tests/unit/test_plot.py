"""Curves, comparisons and landscapes: what is drawn is what was measured."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_hex

import jaxrl
from jaxrl import landscape, palette, plot
from jaxrl.cli import parser
from jaxrl.statistics import iqm
from jaxrl.sweep import Sweep

STEPS = np.array([100, 200, 300])


def result(values: Any, steps: Any = STEPS) -> jaxrl.Result:
    values = jnp.asarray(values, jnp.float32)
    return jaxrl.Result(
        agent=jaxrl.PPO(),
        state=(),
        metrics={"episode/return": values, "loss/value": -values},
        steps=jnp.broadcast_to(jnp.asarray(steps), values.shape),
        spec=None,  # pyright: ignore
    )


FOUR = result([[0.0, 1, 2], [0, 2, 4], [0, 3, 6], [0, np.nan, 80]])


def middles(ax: Any) -> list[Any]:
    return [line for line in ax.get_lines() if line.get_gid() == plot.MIDDLE]


def test_a_curve_is_the_interquartile_mean_in_its_band() -> None:
    ax = FOUR.plot()
    (line,) = middles(ax)
    np.testing.assert_allclose(line.get_xdata(), STEPS)
    np.testing.assert_allclose(line.get_ydata(), [0, iqm(np.array([1, 2, 3])), 5])
    assert len(ax.get_lines()) == 1  # no other lines
    (area,) = ax.collections
    low, high = area.get_datalim(ax.transData).intervaly
    assert low == 0 and 5 < high <= 80
    assert ax.get_ylabel() == "return per episode"
    assert ax.get_xlabel() == "environment steps of each run"
    assert ax.get_legend().get_texts()[0].get_text() == "PPO, 4 runs"


def test_the_interval_lies_round_the_middle_also_for_few_runs() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 7, 300):
        middle, low, high = plot.band(rng.normal(size=(n, 20)))
        assert (low <= middle).all() and (middle <= high).all()


def test_the_interval_of_many_runs_agrees_with_the_bootstrap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(1).exponential(size=(400, 4))
    _, low, high = plot.band(values)
    monkeypatch.setattr(plot, "MANY", 1000)
    middle, slow, shigh = plot.band(values, samples=2000)
    np.testing.assert_allclose(low, slow, atol=0.2 * (shigh - slow).mean())
    np.testing.assert_allclose(high, shigh, atol=0.2 * (shigh - slow).mean())


def test_a_fan_shows_every_run_and_the_middle_thick() -> None:
    ax = FOUR.plot(fan=True, metric="loss/value")
    thin = [line for line in ax.get_lines() if line.get_gid() != plot.MIDDLE]
    assert [list(line.get_ydata()) for line in thin] == [[0, -1, -2], [0, -2, -4], [0, -3, -6],
                                                         [0, -80]]  # fmt: skip
    assert thin[3].get_xdata().tolist() == [100, 300]  # no point where there is no value
    assert middles(ax)[0].get_linewidth() > 3 * thin[0].get_linewidth()
    assert not ax.collections and ax.get_ylabel() == "value loss"


def test_a_single_run_is_its_curve() -> None:
    ax = FOUR[1].plot()
    assert middles(ax)[0].get_ydata().tolist() == [0, 2, 4]
    assert not ax.collections and ax.get_xlabel() == "environment steps" and not ax.get_title()


def test_comparing_results_of_different_lengths(tmp_path: Path) -> None:
    short = result([[1.0, 5.0]], [100, 150])
    ax = jaxrl.plot.compare({"all": FOUR, "short": short}, tmp_path / "new/two.png")
    one, other = middles(ax)
    assert [to_hex(x.get_color()) for x in (one, other)] == [palette.BLUE, palette.RED]
    assert other.get_xdata().tolist() == [100, 150]
    texts = [t.get_text() for t in ax.get_legend().get_texts()]
    assert texts == ["all, 4 runs", "short"]
    assert (tmp_path / "new/two.png").read_bytes().startswith(b"\x89PNG")


def test_more_curves_than_colours_differ_in_stroke() -> None:
    ax = plot.compare({str(i): FOUR[0] for i in range(9)})
    looks = {(to_hex(x.get_color()), x.get_linestyle()) for x in middles(ax)}
    assert len(looks) == 9


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match=r"metric='loss/policy' is unknown to 'a'; there are"):
        plot.compare({"a": FOUR}, metric="loss/policy")
    for wrong in ({}, [FOUR], FOUR):
        with pytest.raises(TypeError, match="results must name what is compared"):
            plot.compare(wrong)  # pyright: ignore


def test_colours_stay_apart_for_colour_blind_eyes() -> None:
    # Machado, Oliveira and Fernandes (2009), severity 1: protanopia and deuteranopia.
    blind = [
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
         [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
         [-0.011820, 0.042940, 0.968881]],
    ]  # fmt: skip
    colors = palette.SERIES
    seen = np.array([palette.rgb(c) for c in colors]) / 255
    linear = np.where(seen <= 0.04045, seen / 12.92, ((seen + 0.055) / 1.055) ** 2.4)
    for matrix in [np.eye(3), *map(np.array, blind)]:
        eyes = np.clip(linear @ matrix.T, 0, 1) ** (1 / 2.4)
        apart = np.linalg.norm(eyes[:, None] - eyes[None], axis=-1)
        assert apart[np.triu_indices(len(colors), 1)].min() > 0.15


# ----------------------------------------------------------------------------------- landscapes


def sweep(**values: list[Any]) -> Sweep:
    """Scores are the sum of the places of the values, and the number of the seed over ten."""
    import itertools

    settings = [dict(zip(values, v)) for v in itertools.product(*values.values())]
    results: list[jaxrl.Result] = []
    for setting in settings:
        score = sum(10**i * values[n].index(v) for i, (n, v) in enumerate(setting.items()))
        results.append(result([[score + 0.1 * seed] * 3 for seed in range(3)]))
    return Sweep(settings, results, 1)


def test_a_heat_map_has_each_cell_in_its_place(tmp_path: Path) -> None:
    got = sweep(lr=[1e-2, 1e-4, 1e-3], gamma=[0.9, 0.99])  # not in order
    ax = got.plot(tmp_path / "heat.png")
    (image,) = ax.images
    np.testing.assert_allclose(image.get_array(), [[1.1, 2.1, 0.1], [11.1, 12.1, 10.1]], rtol=1e-6)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0.0001", "0.001", "0.01"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0.9", "0.99"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("lr", "gamma")
    (box,) = [p for p in ax.patches if p.get_edgecolor()[:3] == pytest.approx(
        np.array(palette.rgb(palette.RED)) / 255)]  # fmt: skip
    assert box.get_xy() == (0.5, 0.5)  # round the best
    assert (tmp_path / "heat.png").stat().st_size > 5000


def test_one_field_is_a_line_on_the_right_axis() -> None:
    ax = sweep(lr=[1e-3, 1e-4, 1e-2]).plot()
    line = ax.get_lines()[-1]
    np.testing.assert_allclose(line.get_xdata(), [1e-4, 1e-3, 1e-2])
    np.testing.assert_allclose(line.get_ydata(), [1.1, 0.1, 2.1], rtol=1e-6)
    assert ax.get_xscale() == "log"
    assert sweep(epochs=[1, 2, 3, 4]).plot().get_xscale() == "linear"


def test_words_are_no_axis_of_numbers() -> None:
    ax = sweep(anneal_lr=[jaxrl.optim.constant, jaxrl.optim.linear]).plot()
    assert [t.get_text() for t in ax.get_xticklabels()] == ["constant", "linear"]


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ([1e-4, 3e-4, 1e-3, 3e-3], True),
        ([1, 10], True),
        ([32, 64, 128, 256, 512], True),
        ([0.0, 0.01, 0.1], False),
        ([1, 5], False),
        ([1, 10, 20, 30], False),
        ([0.9, 0.95, 0.99], False),
    ],
)
def test_which_values_are_spaced_by_factors(values: list[Any], log: bool) -> None:
    assert landscape.logarithmic(values) is log


def test_three_fields_need_one_to_be_held() -> None:
    got = sweep(lr=[1e-4, 1e-3], gamma=[0.9, 0.99], epochs=[1, 2])
    with pytest.raises(ValueError, match=r"varies 3 fields.*plot\(at=\{'epochs': 1\}\)"):
        got.plot()
    ax = got.plot(at={"epochs": 2})
    np.testing.assert_allclose(ax.images[0].get_array(), [[100.1, 101.1], [110.1, 111.1]])
    with pytest.raises(ValueError, match="is not in the sweep, which has 1, 2"):
        got.plot(at={"epochs": 3})
    with pytest.raises(ValueError, match="the sweep is over lr, gamma, epochs"):
        got.plot(at={"lam": 3})
    with pytest.raises(ValueError, match="varies 0 fields"):
        sweep(lr=[1e-3]).plot()
    with pytest.raises(ValueError, match="metric='reward' is unknown"):
        got.plot(metric="reward")


def test_a_setting_without_a_score_is_a_hole() -> None:
    got = sweep(lr=[1e-4, 1e-3], gamma=[0.9, 0.99])
    got.results[0] = dataclasses.replace(
        got.results[0], metrics={"episode/return": jnp.full((3, 3), jnp.nan)}
    )
    for other in got.results[1:]:
        other.metrics.pop("loss/value")
    ax = got.plot()
    assert np.isnan(np.ma.filled(ax.images[0].get_array(), np.nan)[0, 0])


def test_the_command_line_draws_a_fan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    jaxrl.train(
        jaxrl.PPO(num_envs=2, num_steps=16, minibatches=2, epochs=1),
        jaxrl.envs.make("CartPole-v1"),
        jax.random.split(jax.random.key(0), 2),
        steps=256,
        log="runs/a",
    )
    assert parser.main(["plot", "runs/a", "--fan", "--metric", "loss/value"]) == 0
    fan = (tmp_path / capsys.readouterr().out.strip()).read_bytes()
    assert parser.main(["plot", "runs/a", "--metric", "loss/value"]) == 0
    assert fan != (tmp_path / "runs/a/curve.png").read_bytes()
