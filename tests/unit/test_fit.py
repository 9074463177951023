"""The driver for datasets, with an agent of three lines: the mean of the examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import random
from jaxrl.checkpoint import Folder
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import Counter


@struct
class State:
    mean: jax.Array
    steps: Counter


@struct
class Mean:
    lr: Float = param("step size", default=0.1, above=0)
    batch_size: int = static("examples per step", default=4, low=1)

    def init(self, key: jax.Array, spec: Any) -> State:
        return State(jax.random.normal(key), Counter.zero())

    def start_from(self, state: State, given: Any) -> State:
        return State(jnp.asarray(given, jnp.float32), state.steps)

    def learn(self, state: State, batch: Any, key: jax.Array) -> Any:
        gap = batch["x"].mean() - state.mean
        metrics = {"loss/total": gap**2, "value/mean": batch["x"].sum()}
        return State(state.mean + self.lr * gap, state.steps.add(1)), metrics


X = np.arange(10, dtype=np.float32)
KEY = jax.random.key(0)


@pytest.mark.parametrize("n", [5, 64, 100, 1000, 4097])
def test_an_order_has_every_element_once(n: int) -> None:
    orders = [np.asarray(random.permuted(jax.random.key(s), n, jnp.arange(n))) for s in range(2)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(n))
    assert (orders[0] != orders[1]).any()
    some = random.permuted(jax.random.key(0), n, jnp.array([3, 1]))
    np.testing.assert_array_equal(some, orders[0][[3, 1]])


def test_orders_are_fair() -> None:
    """Where the first element goes, over many keys: each place as likely."""
    keys = jax.random.split(KEY, 4000)
    places = jax.jit(jax.vmap(lambda k: random.permuted(k, 70, jnp.arange(1))[0]))(keys)
    count = np.bincount(np.asarray(places), minlength=70)
    chi = ((count - 4000 / 70) ** 2 / (4000 / 70)).sum()
    assert chi < 69 + 4 * np.sqrt(2 * 69)


def test_an_epoch_has_every_example_once_and_the_next_another_order() -> None:
    data = jaxrl.Dataset({"x": jnp.arange(100)})
    rows = [np.asarray(data.batch(KEY, jnp.asarray(i), 25)["x"]) for i in range(8)]
    for epoch in (rows[:4], rows[4:]):
        np.testing.assert_array_equal(np.sort(np.concatenate(epoch)), np.arange(100))
    assert (np.concatenate(rows[:4]) != np.concatenate(rows[4:])).any()


def test_fit_takes_steps_or_epochs() -> None:
    run = jaxrl.fit(Mean(batch_size=5), {"x": X}, KEY, epochs=3, log_every=1)
    assert list(np.asarray(run.steps)) == [1, 2, 3, 4, 5, 6]
    assert int(run.state.steps.value) == 6
    sums = np.asarray(run.metrics["value/mean"])
    np.testing.assert_allclose(sums[0::2] + sums[1::2], X.sum())
    assert "loss" in repr(run) and "episode/return" not in run.metrics
    for options in ({}, {"steps": 3, "epochs": 1}):
        with pytest.raises(ValueError, match="steps=... or epochs="):
            jaxrl.fit(Mean(), {"x": X}, KEY, **options)


def test_many_runs_and_settings() -> None:
    keys = jax.random.split(KEY, 3)
    runs = jaxrl.fit(Mean(), {"x": X}, keys, steps=40)
    alone = jaxrl.fit(Mean(), {"x": X}, keys[1], steps=40)
    np.testing.assert_array_equal(runs[1].state.mean, alone.state.mean)
    rates = Mean(lr=jnp.array([0.01, 0.5]))
    two = jaxrl.fit(rates, {"x": X}, KEY, steps=40)
    assert np.asarray(two.state.mean).shape == (2,)
    assert two.state.mean[0] != two.state.mean[1]


def test_a_run_goes_on_with_the_same_bits_and_only_with_its_examples(tmp_path: Path) -> None:
    options: dict[str, Any] = {"log_every": 5}
    whole = jaxrl.fit(Mean(), {"x": X}, KEY, steps=20, **options)
    path = tmp_path / "run"
    jaxrl.fit(Mean(), {"x": X}, KEY, steps=10, checkpoint=path, **options)
    with pytest.raises(ValueError, match="dataset of 10 examples"):
        jaxrl.fit(Mean(), {"x": X + 1}, KEY, steps=20, checkpoint=path, resume=True, **options)
    both = jaxrl.fit(Mean(), {"x": X}, KEY, steps=20, checkpoint=path, resume=True, **options)
    np.testing.assert_array_equal(whole.state.mean, both.state.mean)
    np.testing.assert_array_equal(whole.metrics["loss/total"], both.metrics["loss/total"])
    assert len(both.metrics["loss/total"]) == 4


def test_the_best_checkpoint_has_the_smallest_loss(tmp_path: Path) -> None:
    kept = jaxrl.Checkpoints(tmp_path / "run", latest=1, best=1)
    run = jaxrl.fit(Mean(), {"x": X}, KEY, steps=40, log_every=5, every=5, checkpoint=kept)
    losses = np.asarray(run.metrics["loss/total"])
    folder = Folder(tmp_path / "run")
    assert folder.best() == (1 + int(losses.argmin())) * 5


def test_start() -> None:
    run = jaxrl.fit(Mean(lr=1e-9), {"x": X}, KEY, steps=1, start=7.0)
    assert float(run.state.mean) == pytest.approx(7.0)
    inside = jax.jit(lambda x: jaxrl.fit(Mean(lr=1e-9), {"x": X}, KEY, steps=1, start=x).state.mean)
    assert float(inside(3.0)) == pytest.approx(3.0)


def test_bad_input_is_refused() -> None:
    env = jaxrl.envs.make("CartPole-v1")
    cases: list[tuple[Any, str]] = [
        (lambda: jaxrl.fit(Mean(batch_size=11), {"x": X}, KEY, steps=1), "batch_size=11"),
        (lambda: jaxrl.fit(Mean(), {"x": X, "y": X[:3]}, KEY, steps=1), "one row per example"),
        (lambda: jaxrl.fit(Mean(), {}, KEY, steps=1), "nothing"),
        (lambda: jaxrl.fit(Mean(lr=-1.0), {"x": X}, KEY, steps=1), "lr"),
        (lambda: jaxrl.fit(Mean, {"x": X}, KEY, steps=1), "write agent=Mean"),
        (lambda: jaxrl.fit(jaxrl.PPO(), {"x": X}, KEY, steps=1), "jaxrl.train"),
        (lambda: jaxrl.train(Mean(), env, KEY, steps=512), "jaxrl.fit"),
        (lambda: jaxrl.train(jaxrl.PPO(), env, KEY, steps=512, start=1.0), "start_from"),
    ]
    for call, said in cases:
        with pytest.raises((ValueError, TypeError), match=said):
            call()


def test_progress_shows_the_loss(capsys: pytest.CaptureFixture[str]) -> None:
    jaxrl.fit(Mean(), {"x": X}, KEY, steps=8, progress=True)
    said = capsys.readouterr().err
    assert "loss " in said and "return" not in said
