"""The finite environments against Gymnasium's tables, transition by transition, and against their
own simulators."""

import collections
import functools
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.envs.toy_text.frozen_lake import generate_random_map

import jaxrl.envs
from jaxrl.envs.gridworld.frozen_lake import FrozenLake, random_map
from jaxrl.envs.tabular import blackjack
from jaxrl.envs.tabular.blackjack import Blackjack, decode, encode


def table(env: Any) -> Any:
    """All transitions in float64: [S, A, K]."""

    def everything(env: Any) -> Any:
        states, actions = jnp.arange(env.num_states), jnp.arange(env.num_actions)
        return jax.vmap(jax.vmap(env.transitions, (None, 0)), (0, None))(states, actions)

    with jax.enable_x64(True):
        return jax.device_get(jax.jit(everything)(env))


def merged(outcomes: Any) -> dict[tuple[int, float, bool], float]:
    """{(next state, reward, terminated): probability}; equal outcomes are one."""
    found: dict[tuple[int, float, bool], float] = collections.defaultdict(float)
    for p, state, reward, terminated in outcomes:
        if p > 0:
            found[int(state), round(float(reward), 9), bool(terminated)] += float(p)
    return found


def ours(t: Any, s: int, a: int) -> dict[tuple[int, float, bool], float]:
    return merged(zip(t.probability[s, a], t.next_state[s, a], t.reward[s, a], t.terminated[s, a]))


TAXI = "Taxi-v4" if "Taxi-v4" in gymnasium.registry else "Taxi-v3"
TABLES = {
    "FrozenLake-v1": ("FrozenLake-v1", {}, {}),
    "FrozenLake8x8-v1": ("FrozenLake8x8-v1", {}, {}),
    "not slippery": ("FrozenLake-v1", {"is_slippery": False}, {"is_slippery": False}),
    "random map": (
        "FrozenLake-v1",
        {"desc": random_map(6, 0.7, 3)},
        {"desc": generate_random_map(6, 0.7, 3)},
    ),
    "success_rate": ("FrozenLake-v1", {"success_rate": 0.8}, {"success_rate": 0.8}),
    "reward_schedule": (
        "FrozenLake-v1",
        {"goal_reward": 2.0, "hole_reward": -3.0, "step_reward": -0.5},
        {"reward_schedule": (2.0, -3.0, -0.5)},
    ),
    "CliffWalking-v1": ("CliffWalking-v1", {}, {}),
    "CliffWalkingSlippery-v1": ("CliffWalkingSlippery-v1", {}, {}),
    "Taxi-v4": (TAXI, {}, {}),
    "rainy": (TAXI, {"is_rainy": True}, {"is_rainy": True}),
}
NEWER = {"success_rate": "1.2", "reward_schedule": "1.2", "rainy": "1.3"}


@pytest.mark.parametrize("case", TABLES)
def test_the_table_is_that_of_gymnasium(case: str) -> None:
    """Every state, every action, and the distribution of starts."""
    name, our_arguments, their_arguments = TABLES[case]
    version = tuple(int(x) for x in gymnasium.__version__.split(".")[:2])
    if case in NEWER and version < tuple(int(x) for x in NEWER[case].split(".")):
        pytest.skip(f"Gymnasium {NEWER[case]} is the first with this")
    env: Any = jaxrl.envs.make(name, max_steps=None, **our_arguments)
    peer: Any = gymnasium.make(name, **their_arguments).unwrapped
    t = table(env)
    assert set(peer.P) == set(range(env.num_states))
    for s in peer.P:
        for a in peer.P[s]:
            theirs, mine = merged(peer.P[s][a]), ours(t, s, a)
            assert set(mine) == set(theirs), (s, a)
            assert all(abs(mine[x] - theirs[x]) < 1e-12 for x in mine), (s, a)
    starts = np.bincount(env.starts, minlength=env.num_states) / len(env.starts)
    np.testing.assert_allclose(starts, peer.initial_state_distrib, atol=1e-12)


def test_the_limits_are_those_of_gymnasium() -> None:
    for name in ("FrozenLake-v1", "FrozenLake8x8-v1", "CliffWalking-v1", "Blackjack-v1", TAXI):
        spec = gymnasium.spec(name)
        assert jaxrl.envs.make(name).time_limit == spec.max_episode_steps, name


def test_a_fickle_passenger_changes_their_mind_once() -> None:
    """At the first move with the passenger aboard: 0.3 in all for the three other stands."""
    env = jaxrl.envs.Taxi(fickle_passenger=True)
    t = table(env)
    # At the centre, passenger aboard, destination 1; state 500 + ...: undecided.
    state = (12 * 5 + 4) * 4 + 1
    north = (7 * 5 + 4) * 4
    found = ours(t, 500 + state, 1)
    expected = {north + 1: 0.7, north + 0: 0.1, north + 2: 0.1, north + 3: 0.1}
    assert {to: pytest.approx(p) for (to, _, _), p in found.items()} == expected
    assert ours(t, state, 1) == {(north + 1, -1.0, False): pytest.approx(1.0)}
    # A step that moves nothing decides nothing: an illegal pick-up, a wall.
    assert ours(t, 500 + state, 4) == {(500 + state, -10.0, False): pytest.approx(1.0)}
    edge = 500 + (2 * 5 + 4) * 4 + 1  # first row, third column
    assert ours(t, edge, 1) == {(edge, -1.0, False): pytest.approx(1.0)}
    assert (env.starts >= 500).all()
    np.testing.assert_allclose(t.probability.sum(-1), 1, atol=1e-12)


def gymnasium_hand(player: list[int], dealer: list[int], sab: bool, natural: bool) -> Any:
    env: Any = gymnasium.make("Blackjack-v1", sab=sab, natural=natural).unwrapped
    env.reset(seed=0)
    env.player, env.dealer = list(player), list(dealer)
    return env


VARIANTS = [(True, False), (False, True), (False, False)]


@functools.cache
def reference_stick(player: tuple[int, ...], shown: int, sab: bool, natural: bool) -> np.ndarray:
    """[loss, draw, win, 1.5] probabilities from Gymnasium's rules: every hand of the dealer, drawn
    out by recursion; only the comparison of finished hands is Gymnasium's own step."""
    chance = np.zeros(4)

    def deal(dealer: list[int], p: float) -> None:
        total = sum(dealer) + (10 if 1 in dealer and sum(dealer) + 10 <= 21 else 0)
        if len(dealer) >= 2 and total >= 17:
            natural_dealer = sorted(dealer) == [1, 10]
            key = (min(total, 22), natural_dealer)
            hands[key] = (hands.get(key, (0.0, dealer))[0] + p, dealer)
            return
        for card in range(1, 11):
            deal([*dealer, card], p * (4 if card == 10 else 1) / 13)

    hands: dict[tuple[int, bool], tuple[float, list[int]]] = {}
    deal([shown], 1.0)
    for p, dealer in hands.values():
        env = gymnasium_hand(list(player), dealer, sab, natural)
        reward = env.step(0)[1]
        chance[{-1.0: 0, 0.0: 1, 1.0: 2, 1.5: 3}[reward]] += p
    return chance


@pytest.mark.parametrize(("sab", "natural"), VARIANTS)
def test_sticking_has_the_odds_of_gymnasium(sab: bool, natural: bool) -> None:
    env = Blackjack(sab=sab, natural=natural)
    t = table(env)
    for player in ([2, 2], [10, 2], [9, 8], [10, 10], [1, 6], [1, 5, 5], [10, 1], [10, 9, 2]):
        usable = 1 in player and sum(player) + 10 <= 21
        total = sum(player) + 10 * usable
        for shown in (1, 2, 7, 10):
            is_natural = sorted(player) == [1, 10] and (sab or natural)
            state = blackjack.HANDS + shown if is_natural else encode(total, shown, usable)
            found = np.zeros(4)
            for (to, reward, terminated), p in ours(t, state, 0).items():
                assert terminated and to == state
                found[{-1.0: 0, 0.0: 1, 1.0: 2, 1.5: 3}[reward]] += p
            expected = reference_stick(tuple(player), shown, sab, natural)
            np.testing.assert_allclose(found, expected, atol=1e-12, err_msg=f"{player} {shown}")


def test_hitting_is_that_of_gymnasium() -> None:
    """Every hand of two or three cards, with every next card."""
    t = table(Blackjack(sab=False))
    peer: Any = gymnasium.make("Blackjack-v1", sab=False).unwrapped
    peer.reset(seed=0)
    cards = range(1, 11)
    hands = [[a, b] for a in cards for b in cards] + [[1, a, b] for a in cards for b in cards]
    for hand in hands:
        hard = sum(hand)
        usable = 1 in hand and hard + 10 <= 21
        if hard > 21:
            continue
        state = encode(hard + 10 * usable, 3, usable)
        for card in cards:
            peer.player, peer.dealer = [*hand, card], [3, 3]
            seen = peer._get_obs()
            k = card - 1
            assert decode(int(t.next_state[state, 1, k])) == tuple(int(x) for x in seen)
            bust = seen[0] > 21
            assert bool(t.terminated[state, 1, k]) == bust
            assert t.reward[state, 1, k] == (-1 if bust else 0)
            assert t.probability[state, 1, k] == pytest.approx((4 if card == 10 else 1) / 13)


@pytest.mark.parametrize(("sab", "natural"), VARIANTS)
def test_first_deals_are_those_of_the_deck(sab: bool, natural: bool) -> None:
    env = Blackjack(sab=sab, natural=natural)
    seen = np.asarray(jax.vmap(env.observe)(jnp.asarray(env.starts)))
    totals = np.array([decode(int(s)) for s in seen])
    assert len(totals) == 13**3
    assert (totals[:, 0] == 21).mean() == pytest.approx(2 * 4 / 169)  # an ace and a ten
    assert (totals[:, 2] == 1).mean() == pytest.approx(1 - (12 / 13) ** 2)
    assert (totals[:, 1] == 10).mean() == pytest.approx(4 / 13)
    assert ((totals == [12, 5, 1]).all(1)).mean() == pytest.approx(1 / 13**3)  # two aces


FINITE = [
    jaxrl.envs.FrozenLake(success_rate=0.5),
    jaxrl.envs.CliffWalking(is_slippery=True),
    jaxrl.envs.Taxi(is_rainy=True, fickle_passenger=True),
    jaxrl.envs.Blackjack(),
    jaxrl.envs.RandomWalk(right=0.3),
    jaxrl.envs.RiverSwim(),
    jaxrl.envs.Gambler(),
    jaxrl.envs.JacksCarRental(max_cars=4, max_moves=1),
    jaxrl.envs.MaximizationBias(masked=False),
    jaxrl.envs.Baird(),
    jaxrl.envs.Gridworld(slip=0.2),
    jaxrl.envs.NoisyTV(channels=3),
    jaxrl.envs.make("WindyGridworld-v0", gust=2 / 3),
]


@pytest.mark.parametrize("env", FINITE, ids=lambda env: type(env).__name__)
def test_the_simulator_draws_from_the_model(env: Any) -> None:
    """20,000 steps from each of six states: no impossible outcome, frequencies within five standard
    errors, mean reward too."""
    t = table(env)
    np.testing.assert_allclose(t.probability.sum(-1), 1, atol=1e-9)
    rng = np.random.default_rng(0)
    states = np.unique(
        rng.choice(env.starts, 3).tolist() + rng.integers(0, env.num_states, 3).tolist()
    )
    actions = rng.integers(0, env.num_actions, len(states))
    count = 20_000
    step = jax.jit(jax.vmap(jax.vmap(env.step, (None, None, 0)), (0, 0, 0)))
    keys = jax.random.split(jax.random.key(0), (len(states), count))
    after, got = jax.device_get(step(jnp.asarray(states), jnp.asarray(actions), keys))
    for i, (s, a) in enumerate(zip(states, actions)):
        chance = np.zeros((env.num_states, 2))
        np.add.at(chance, (t.next_state[s, a], t.terminated[s, a].astype(int)), t.probability[s, a])
        seen = np.zeros_like(chance)
        np.add.at(seen, (after[i], got.terminated[i].astype(int)), 1 / count)
        assert (seen[chance == 0] == 0).all()
        assert (
            np.abs(seen - chance) <= 5 * np.sqrt(chance * np.clip(1 - chance, 0, 1) / count) + 1e-9
        ).all()
        mean = (t.probability[s, a] * t.reward[s, a]).sum()
        error = got.reward[i].std() / count**0.5
        assert abs(got.reward[i].mean() - mean) <= 5 * error + 1e-4


def test_an_outcome_of_probability_zero_is_never_drawn() -> None:
    from jaxrl.envs.finite import draw

    keys = jax.random.split(jax.random.key(0), 50_000)
    p = jnp.asarray([0, 0.1, 0.0, 0.6, 0.3, 0, 0], jnp.float32)
    drawn = np.bincount(jax.jit(jax.vmap(lambda k: draw(p, k)))(keys), minlength=7) / 50_000
    assert (drawn[[0, 2, 5, 6]] == 0).all()
    np.testing.assert_allclose(drawn, p, atol=0.012)


@pytest.mark.parametrize("seed", range(5))
def test_random_maps_are_those_of_gymnasium(seed: int) -> None:
    assert list(random_map(8, 0.6, seed)) == generate_random_map(8, 0.6, seed)


def test_mistakes_are_explained() -> None:
    with pytest.raises(ValueError, match="4x4"):
        FrozenLake(desc="5x5").num_states  # noqa: B018
    with pytest.raises(ValueError, match="same length"):
        jaxrl.envs.Gridworld(map=("S..", "G")).num_states  # noqa: B018
    with pytest.raises(ValueError, match="no start"):
        jaxrl.envs.Gridworld(map=("...", "..G")).reset(jax.random.key(0))
    with pytest.raises(ValueError, match="one number per column"):
        jaxrl.envs.Gridworld(wind=(1, 2)).transitions(0, 0)
    with pytest.raises(ValueError, match="slip"):
        jaxrl.envs.make("Gridworld-v0", slip=1.5)
