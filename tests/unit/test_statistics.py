import numpy as np
import pytest

from jaxrl.statistics import bootstrap_interval, iqm


def test_iqm_drops_a_quarter_at_each_end() -> None:
    assert iqm(np.array([-1000.0, 1, 2, 3, 4, 5, 6, 1000.0])) == pytest.approx(3.5)


def test_iqm_weighs_the_border_values() -> None:
    # Six values: 1.5 are dropped at each end, so the second and fifth count half.
    assert iqm(np.array([0.0, 1, 2, 3, 4, 50])) == pytest.approx((0.5 + 2 + 3 + 2) / 3)
    assert iqm(np.array([7.0])) == 7


def test_bootstrap_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        low, high = bootstrap_interval(rng.normal(size=30), np.mean, samples=300, seed=trial)
        hits += low <= 0 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_bootstrap_resamples_each_column_on_its_own() -> None:
    # Two tasks with equal and opposite scores: resampled together the sum would always be zero.
    column = np.arange(10.0)
    scores = np.stack([column, -column], 1)
    low, high = bootstrap_interval(scores, lambda x: float(x.sum()))
    assert low < -1 and high > 1
