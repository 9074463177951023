"""Sums, differences and products of whole numbers, digit by digit."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.llm.tasks.task import Written, WrittenTask, to_the_left, to_the_right
from jaxrl.llm.tokenizer import CharTokenizer
from jaxrl.struct import static, struct
from jaxrl.types import Key

TOKENS = CharTokenizer("0123456789+-*=")
SIGNS = ("+", "-", "*")
MINUS = 11


def digits_of(n: jax.Array, width: int) -> tuple[jax.Array, jax.Array]:
    """The decimal digits of n >= 0 [width], the highest first, and which of them are written."""
    powers = jnp.asarray([10**k for k in range(width - 1, -1, -1)], jnp.int32)
    return n // powers % 10, (n >= powers) | (powers == 1)


@struct
class Arithmetic(WrittenTask):
    """12+34= is to be followed by 46. Both numbers have up to `digits` digits and are drawn
    uniformly; so is one of the `operations`."""

    digits: int = static("digits of a number", default=2, low=1, high=9)
    operations: tuple[str, ...] = static("some of +, -, *", default=("+",))
    backwards: bool = static("answers begin with their last digit", default=False)

    @property
    def tokenizer(self) -> CharTokenizer:
        return TOKENS

    @property
    def longest_prompt(self) -> int:
        return 2 * self.digits + 2

    @property
    def longest_answer(self) -> int:
        return self._width(self.digits + 1) + 1  # a difference has a sign

    def _width(self, difference: int) -> int:
        self._check()
        sizes = {"+": self.digits + 1, "-": difference, "*": 2 * self.digits}
        return max(sizes[sign] for sign in self.operations)

    def _check(self) -> None:
        if not self.operations or set(self.operations) - set(SIGNS):
            raise ValueError(f'operations={self.operations!r} must be some of "+", "-" and "*".')
        most = 4 if "*" in self.operations else 9
        if not 1 <= self.digits <= most:
            raise ValueError(
                f"digits={self.digits} must be from 1 to {most} with operations="
                f"{self.operations!r}: the results are int32."
            )

    def write(self, key: Key) -> Written:
        self._check()
        number_key, sign_key = jax.random.split(key)
        a, b = jax.random.randint(number_key, (2,), 0, 10**self.digits, jnp.int32)
        which = jax.random.randint(sign_key, (), 0, len(self.operations))
        signs = jnp.asarray([SIGNS.index(sign) for sign in self.operations])
        sign = signs[which]
        product = a * b if "*" in self.operations else a
        result = jnp.select([sign == 0, sign == 1], [a + b, a - b], product)

        left, left_here = digits_of(a, self.digits)
        right, right_here = digits_of(b, self.digits)
        one = jnp.ones(1, bool)
        prompt = jnp.concatenate([left, 10 + sign[None], right, jnp.array([13])])
        present = jnp.concatenate([left_here, one, right_here, one])

        found, found_here = digits_of(jnp.abs(result), self._width(self.digits))
        if self.backwards:
            found, found_here = found[::-1], found_here[::-1]
        answer = jnp.concatenate([jnp.array([MINUS]), found, jnp.array(self.stop)])
        answered = jnp.concatenate([(result < 0)[None], found_here, one])
        return Written(
            to_the_right(prompt, present, self.longest_prompt),
            to_the_left(answer, answered, self.max_new),
        )


@struct
class Addition(Arithmetic):
    """12+34= is to be followed by 46."""
