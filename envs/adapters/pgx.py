"""Pgx (extra `suites`): `jaxrl.envs.make("pgx/connect_four")`.

A game of several players is seen by one of them, the learner. Whom it plays is drawn at every
reset, and so is who begins; the others move until it is the learner's turn again, or the game is
over. They choose uniformly among the legal moves, unless `opponent` says otherwise:

    def first_legal(obs, key):  # one observation as the learner sees them, from their side
        return jnp.argmax(obs["action_mask"])

    env = jaxrl.envs.make("pgx/tic_tac_toe", opponent=first_legal)

Rewards are the learner's, summed over its move and the replies. An illegal move loses the game, as
Pgx has it; the observation's `action_mask` says which are legal. Games of one player (2048,
MinAtar) are as they are. Other options go to the constructor of the game: `size`, `komi`,
`sticky_action_prob`, ...
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, cast

import jax
import jax.numpy as jnp

from jaxrl import checks, spaces
from jaxrl.envs.adapters import box, check_name, library, once, settled
from jaxrl.envs.adapters import recipe as recall
from jaxrl.envs.wrappers import TimeLimit
from jaxrl.struct import static, struct
from jaxrl.types import Env, Key, PyTree, Step

Opponent: TypeAlias = Callable[[PyTree, Key], jax.Array]

SIZES: dict[str, dict[str, Any]] = {"go_9x9": {"size": 9}, "go_19x19": {"size": 19}}
"""What the names of Pgx stand for besides a class."""


def uniform(obs: PyTree, key: Key) -> jax.Array:
    """Any legal move."""
    return jax.random.categorical(key, jnp.where(obs["action_mask"], 0.0, -jnp.inf))


@struct
class Match:
    """A game of Pgx, and which of its players the agent is."""

    game: PyTree
    learner: jax.Array  # int32


@struct
class Pgx:
    """A Pgx game from the side of one player. It ends, and is never cut short."""

    env: Any = static("the Pgx environment, compared by identity")
    opponent: Opponent = static("observation, key -> move of all other players", default=uniform)

    def recipe(self) -> tuple[str, dict[str, Any]] | None:
        """The call of `jaxrl.envs.make` that gives this environment, for files."""
        found = recall(_made, self.env, "pgx")
        return found and (found[0], found[1] | {"opponent": self.opponent})

    @property
    def obs_space(self) -> spaces.Dict:
        state = jax.eval_shape(self.env.init, jax.random.PRNGKey(0))
        seen, mask = box(_floats(state.observation)), box(state.legal_action_mask)
        return spaces.Dict({"observation": seen, "action_mask": mask})

    @property
    def action_space(self) -> spaces.Discrete:
        return spaces.Discrete(int(self.env.num_actions))

    @property
    def time_limit(self) -> int | None:
        return None

    def reset(self, key: Key) -> tuple[Match, PyTree]:
        start_key, learner_key, reply_key = jax.random.split(key, 3)
        if self.env.num_players == 1:
            game = settled(self.env.init(jax.random.key_data(key)))
            return Match(game, jnp.zeros((), jnp.int32)), self._seen(game, game.current_player)
        game = settled(self.env.init(jax.random.key_data(start_key)))
        learner = jax.random.randint(learner_key, (), 0, self.env.num_players, jnp.int32)
        game, _ = self._replies(game, learner, reply_key)
        return Match(game, learner), self._seen(game, learner)

    def step(self, state: Match, action: jax.Array, key: Key) -> tuple[Match, Step]:
        learner = state.learner
        if self.env.num_players == 1:
            game = settled(self.env.step(state.game, action, jax.random.key_data(key)))
            reward = game.rewards[learner]
        else:
            move_key, reply_key = jax.random.split(key)
            game = settled(self.env.step(state.game, action, jax.random.key_data(move_key)))
            reward = game.rewards[learner]
            game, more = self._replies(game, learner, reply_key)
            reward = reward + more
        truncated = game.truncated & ~game.terminated
        step = Step(self._seen(game, learner), _float(reward), game.terminated, truncated)
        return Match(game, learner), step

    def _replies(self, game: PyTree, learner: jax.Array, key: Key) -> tuple[PyTree, jax.Array]:
        """All moves until it is the learner's turn or the game is over, and what they brought it.
        Not one alone: in some games a player moves twice, or there are three."""

        def waits(carry: tuple[Any, ...]) -> jax.Array:
            game = carry[0]
            return (game.current_player != learner) & ~game.terminated & ~game.truncated

        def reply(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            game, total, key = carry
            key, choice_key, step_key = jax.random.split(key, 3)
            obs = {
                "observation": _floats(game.observation),
                "action_mask": game.legal_action_mask,
            }
            move = jnp.asarray(self.opponent(obs, choice_key), jnp.int32)
            game = settled(self.env.step(game, move, jax.random.key_data(step_key)))
            return game, total + _float(game.rewards[learner]), key

        game, total, _ = jax.lax.while_loop(waits, reply, (game, jnp.zeros(()), key))
        return game, total

    def _seen(self, game: PyTree, player: jax.Array) -> PyTree:
        # Pgx's own `observation` is the mover's: after the last move that may be an opponent.
        seen = self.env._observe(game, player)
        return {"observation": _floats(seen), "action_mask": game.legal_action_mask}


def _float(x: Any) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


def _floats(x: Any) -> Any:
    """Flags stay flags, which take an eighth of the room or less; all others become float32."""
    if x.dtype == jnp.bool_:
        return x
    if isinstance(x, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(x.shape, jnp.float32)
    return _float(x)


def names() -> list[str]:
    """What `make` accepts after "pgx/"."""
    return sorted(library("pgx", "pgx").available_envs())


_made: dict[Any, Any] = {}


def make(
    name: str, opponent: Opponent = uniform, max_steps: int | None = None, **options: Any
) -> Env:
    """A Pgx game by its name there. `max_steps` cuts games that may never end (some of MinAtar)."""
    pgx = library("pgx", "pgx")
    check_name(name, "pgx", names())
    if not callable(opponent):
        raise TypeError(f"opponent={opponent!r} must be a function: observation, key -> move.")

    def build() -> Any:
        env = pgx.make(name)
        return type(env)(**(SIZES.get(name, {}) | options)) if options else env

    env = Pgx(once(_made, (name, *sorted(options.items())), build), opponent)
    if max_steps is None:
        return cast(Env, env)
    checks.positive_int(max_steps, "max_steps")
    return cast(Env, TimeLimit(env, max_steps))
