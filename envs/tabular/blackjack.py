"""Blackjack with an endless deck (Sutton & Barto, example 5.1; Gymnasium's Blackjack-v1)."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.envs.finite import Finite
from jaxrl.spaces import Discrete
from jaxrl.struct import Float, param, static, struct

DECK = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10)
CARDS = np.bincount(DECK)[1:] / 13  # [10]: probabilities of ace, 2 .. 9, ten
HANDS = 32 * 11 * 2  # player's sum, dealer's card, usable ace


def encode(total: int, dealer: int, usable: bool | int) -> int:
    """The observation of the hand Gymnasium calls (total, dealer, usable)."""
    return (total * 11 + dealer) * 2 + int(usable)


def decode(obs: int) -> tuple[int, int, int]:
    return obs // 22, obs // 2 % 11, obs % 2


def _add(hard: int, ace: bool, card: int) -> tuple[int, bool]:
    return hard + card, ace or card == 1


def _total(hard: int, ace: bool) -> int:
    return hard + 10 if ace and hard + 10 <= 21 else hard


@functools.cache
def _dealt(hard: int, ace: bool) -> np.ndarray:
    """[22]: probabilities of the dealer's final total, 0 for bust."""
    result = np.zeros(22)
    if _total(hard, ace) > 21:
        result[0] = 1
    elif _total(hard, ace) >= 17:
        result[_total(hard, ace)] = 1
    else:
        for card, p in enumerate(CARDS, 1):
            result += p * _dealt(*_add(hard, ace, card))
    return result


@functools.cache
def _stick_table(natural_wins: bool) -> np.ndarray:
    """[23, 11, 3]: probabilities of loss, draw and win by the player's total and the dealer's card.
    Row 22 is a natural. Where the dealer's card is 0 no game stands: a draw."""
    table = np.zeros((23, 11, 3))
    table[:, 0, 1] = 1
    for dealer in range(1, 11):
        final = _dealt(*_add(0, False, dealer))
        for total in range(22):
            table[total, dealer] = final[total + 1 :].sum(), final[total], final[:total].sum()
        table[22, dealer] = table[21, dealer]
        if natural_wins:
            # The dealer's natural is the only hand that draws with one.
            draws = {1: CARDS[9], 10: CARDS[0]}.get(dealer, 0.0)
            table[22, dealer] = 0, draws, 1 - draws
    return table


@struct
class Blackjack(Finite):
    """Action 0 sticks, 1 hits. Win 1, draw 0, loss -1. The observation is (player's sum * 11 +
    dealer's card) * 2 + usable ace: `encode` and `decode` go from and to Gymnasium's three numbers.

    Three variants, as in Gymnasium. `sab=True` are the rules of the book: an ace and a ten in the
    first two cards win at once unless the dealer has the same. `natural=True` (without `sab`): if
    they win, they pay `natural_reward`. Neither: they are worth no more than any other 21. That a
    21 is a natural is a part of the state that is not observed; sticking is right either way.

    The best expected return is -0.043113 with `sab` and -0.046556 with neither."""

    sab: bool = static("the rules of Sutton & Barto", default=True)
    natural: bool = static("a natural pays more", default=False)
    natural_reward: Float = param("what a natural pays", default=1.5)

    @property
    def num_states(self) -> int:
        return HANDS + 11 if self._knows_naturals else HANDS

    @property
    def _knows_naturals(self) -> bool:
        return self.sab or self.natural

    @property
    def num_actions(self) -> int:
        return 2

    @property
    def num_outcomes(self) -> int:
        return 10

    @property
    def obs_space(self) -> Discrete:
        return Discrete(HANDS)

    def observe(self, state: jax.Array) -> jax.Array:
        natural = encode(21, 0, True) + 2 * (state - HANDS)
        return jnp.where(state >= HANDS, natural, state)

    @property
    def starts(self) -> np.ndarray:
        return _starts(self._knows_naturals)

    def _hand(self, state: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """-> player's sum, dealer's card, usable, natural."""
        obs = self.observe(state)
        return obs // 22, obs // 2 % 11, obs % 2, state >= HANDS

    def probabilities(self, state: jax.Array, action: jax.Array) -> jax.Array:
        total, dealer, _, natural = self._hand(state)
        table = jnp.asarray(_stick_table(self.sab))
        row = jnp.where(natural, 22, jnp.where(total > 21, 0, total))
        sticks = jnp.pad(table[row, dealer], (0, 7))
        return jnp.where(action == 1, jnp.asarray(CARDS), sticks)

    def outcome(
        self, state: jax.Array, action: jax.Array, k: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        total, dealer, usable, natural = self._hand(state)
        hits = action == 1
        card = k + 1
        # A hand with an ace that is not usable has 12 or more: it never becomes usable again.
        hard = jnp.minimum(total - 10 * usable + card, 31)
        now = ((usable == 1) | (card == 1)) & (hard + 10 <= 21)
        after = ((hard + 10 * now) * 11 + dealer) * 2 + now
        bust = hard > 21
        won = k - 1.0
        if self.natural and not self.sab:
            won = jnp.where(natural & (k == 2), self.natural_reward, won)
        reward = jnp.where(hits, jnp.where(bust, -1.0, 0.0), won)
        return jnp.where(hits, after, state), reward, ~hits | bust


@functools.cache
def _starts(naturals: bool) -> np.ndarray:
    """All 13^3 first deals: two cards of the player and one of the dealer."""
    states: list[int] = []
    for one in DECK:
        for two in DECK:
            hard, ace = _add(*_add(0, False, one), two)
            for dealer in DECK:
                if naturals and {one, two} == {1, 10}:
                    states.append(HANDS + dealer)
                else:
                    usable = ace and hard + 10 <= 21
                    states.append(encode(_total(hard, ace), dealer, usable))
    return np.array(states)
