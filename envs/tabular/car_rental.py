"""JacksCarRental: move cars between two places overnight (Sutton & Barto, example 4.2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import poisson

from jaxrl.envs.finite import Finite, Transitions, draw
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import Key, Step


@struct
class JacksCarRental(Finite):
    """The state is (cars at the first place) * (max_cars + 1) + (cars at the second) in the
    evening. Action a moves a - max_moves cars from the first to the second place overnight, as far
    as there are so many; more than `max_cars` at one place disappear. By day Poisson numbers of
    cars are asked for and returned; returned ones can be rented the day after. It never ends.

    Rentals and returns are told apart only by what they leave behind, so the reward in
    `transitions` is the mean over all outcomes; in `step` it is what was really rented."""

    max_cars: int = static("cars a place can hold", default=20, low=1)
    max_moves: int = static("cars moved in a night at most", default=5, low=1)
    price: Float = param("income per rented car", default=10.0)
    move_cost: Float = param("cost of moving one car", default=2.0)
    first_requests: Float = param("mean requests at the first place", default=3.0, above=0.0)
    second_requests: Float = param("mean requests at the second place", default=4.0, above=0.0)
    first_returns: Float = param("mean returns at the first place", default=3.0, above=0.0)
    second_returns: Float = param("mean returns at the second place", default=2.0, above=0.0)

    @property
    def num_states(self) -> int:
        return (self.max_cars + 1) ** 2

    @property
    def num_actions(self) -> int:
        return 2 * self.max_moves + 1

    @property
    def num_outcomes(self) -> int:
        return self.num_states

    @property
    def starts(self) -> np.ndarray:
        return np.array([self.num_states // 2])

    def moved(self, state: jax.Array, action: jax.Array) -> jax.Array:
        """Cars that are really moved from the first to the second place."""
        first, second = state // (self.max_cars + 1), state % (self.max_cars + 1)
        return jnp.clip(action - self.max_moves, -second, first)

    def _morning(self, state: jax.Array, action: jax.Array) -> tuple[jax.Array, ...]:
        """-> cars at both places, cost of moving them."""
        moved = self.moved(state, action)
        first = jnp.minimum(state // (self.max_cars + 1) - moved, self.max_cars)
        second = jnp.minimum(state % (self.max_cars + 1) + moved, self.max_cars)
        return first, second, self.move_cost * jnp.abs(moved)

    def _at_most(self, mean: Float, limit: jax.Array) -> jax.Array:
        """[max_cars + 1]: probabilities of min(Poisson, limit)."""
        n = jnp.arange(self.max_cars + 1)
        below = jnp.where(n < limit, poisson.pmf(n, mean), 0)
        return jnp.where(n == limit, 1 - below.sum(), below)

    def _day(self, cars: jax.Array, requests: Float, returns: Float) -> tuple[jax.Array, jax.Array]:
        """One place: -> probabilities of the cars in the evening [max_cars + 1], mean rentals."""
        size = self.max_cars + 1
        rented = self._at_most(requests, cars)  # [size]
        n = jnp.arange(size)
        left = jnp.clip(cars - n, 0, self.max_cars)
        returned = jax.vmap(lambda room: self._at_most(returns, room))(self.max_cars - left)
        # An evening with `left + m` cars: [rented, evening].
        evening = jax.vmap(lambda row, shift: jnp.where(n >= shift, jnp.roll(row, shift), 0))(
            returned, left
        )
        return rented @ evening, rented @ n.astype(rented.dtype)

    def transitions(self, state: jax.Array, action: jax.Array) -> Transitions:
        state, action = jnp.asarray(state, jnp.int32), jnp.asarray(action, jnp.int32)
        first, second, cost = self._morning(state, action)
        one, rented_one = self._day(first, self.first_requests, self.first_returns)
        two, rented_two = self._day(second, self.second_requests, self.second_returns)
        reward = self.price * (rented_one + rented_two) - cost
        count = self.num_states
        return Transitions(
            jnp.outer(one, two).ravel(),
            jnp.arange(count, dtype=jnp.int32),
            jnp.broadcast_to(reward, (count,)),
            jnp.zeros(count, bool),
        )

    def step(self, state: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, Step]:
        first, second, cost = self._morning(state, jnp.asarray(action, jnp.int32))
        keys = jax.random.split(key, 4)

        def day(cars: jax.Array, requests: Float, returns: Float, one: Key, two: Key):
            rented = draw(self._at_most(requests, cars), one)
            left = cars - rented
            return left + draw(self._at_most(returns, self.max_cars - left), two), rented

        first, rented_one = day(first, self.first_requests, self.first_returns, keys[0], keys[1])
        second, rented_two = day(
            second, self.second_requests, self.second_returns, keys[2], keys[3]
        )
        state = (first * (self.max_cars + 1) + second).astype(jnp.int32)
        reward = self.price * (rented_one + rented_two).astype(jnp.float32) - cost
        no = jnp.zeros((), bool)
        return state, Step(state, reward.astype(jnp.float32), no, no)
