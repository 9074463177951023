"""The figures of the book: what of them is computed here and not by an agent."""

import jax
import numpy as np

import jaxrl
from benchmarks import figures_tables as figures

KEYS = jax.random.split(jax.random.key(0), 40)
TRUTH = np.arange(1, 6) / 6


def test_batch_values_of_the_random_walk() -> None:
    env = jaxrl.envs.make("RandomWalk5-v0")
    td, mc = (np.asarray(x) for x in jax.vmap(lambda k: figures.batches(env, k, 60))(KEYS))
    # One walk: all that it saw led to its one end, for both; what it did not see stays at 1/2.
    for values in (td[:, 0, 1:6], mc[:, 0, 1:6]):
        assert np.isin(np.round(values, 4), (0.0, 0.5, 1.0)).all()
        assert (values[:, 2] != 0.5).all()  # all begin in the middle
    np.testing.assert_allclose(td[:, 0], mc[:, 0], atol=1e-4)
    # Many: both near the truth on average, TD nearer in each.
    errors = [np.sqrt(((x[:, -1, 1:6] - TRUTH) ** 2).mean(-1)).mean() for x in (td, mc)]
    assert errors[0] < 0.75 * errors[1] < 0.1
    np.testing.assert_allclose(mc[:, -1, 1:6].mean(0), TRUTH, atol=0.05)


def test_a_grid_is_its_runs_one_by_one() -> None:
    env = jaxrl.envs.make("RandomWalk5-v0")
    agent = jaxrl.TD(gamma=1.0)
    both = figures.grid(agent, env, "lr", [0.1, 0.5], 3, 2)
    assert both["length"].shape == (2, 3, 2)
    keys = jax.random.split(jax.random.key(2026), 6)[3:]
    one = figures.book.by_episode(
        jax.tree.map(lambda x: jax.numpy.full(3, x), jaxrl.TD(gamma=1.0, lr=0.5)), env, keys, 2
    )
    np.testing.assert_array_equal(both["length"][1], one["length"])
