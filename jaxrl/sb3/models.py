"""PPO, DQN and SAC with the arguments, the defaults and the methods of Stable-Baselines3."""

from __future__ import annotations

import dataclasses
import inspect
import math
import secrets
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxrl
from jaxrl import checks, replay, sinks
from jaxrl.losses import policy as policy_losses
from jaxrl.losses import value as value_losses
from jaxrl.optim import identity
from jaxrl.result import Policy, Result
from jaxrl.sb3 import arguments, files
from jaxrl.sb3.evaluation import as_env, as_obs
from jaxrl.struct import map_nodes
from jaxrl.targets import Hard, Polyak
from jaxrl.train import go_on
from jaxrl.types import Counter, Spec

M = TypeVar("M", bound="Model")

NO_CALLBACK = (
    "callback= is not supported, because training is compiled. Write log=... or checkpoint=... in "
    "jaxrl.train for files, or your own loop: for state, metrics in jaxrl.stream(model.agent, "
    "model.env, key, steps=...)."
)


class Model:
    """An agent with its state and its environment."""

    agent: Any
    taken: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        agent: Any,
        env: Any,
        *,
        tensorboard_log: str | None,
        verbose: int,
        seed: int | None,
        device: Any,
    ) -> None:
        if str(device) not in ("auto", "cpu", "cuda") or str(device) == "cuda" != _backend():
            raise ValueError(
                f'device={device!r}: write "auto". JAX runs on {_backend()} here; the environment '
                "variable JAX_PLATFORMS=cpu or cuda decides."
            )
        self.agent, self.env, self.verbose = agent, env, verbose
        self.tensorboard_log = tensorboard_log
        self.num_timesteps = 0
        self.result: Result | None = None
        """What the last `learn` returned, with all its curves."""
        seed = secrets.randbits(31) if seed is None else seed
        self.seed = int(seed)
        self._key = jax.random.key(self.seed)
        self._drawn = 0
        self.spec: Spec = checks.task(agent, env, self._each)
        self._state = agent.init(self._next_key(), self.spec)

    @property
    def _each(self) -> int:
        """Environment steps between two updates."""
        return self.agent.num_envs * self.agent.num_steps

    @property
    def n_envs(self) -> int:
        return self.agent.num_envs

    @property
    def policy(self) -> Policy:
        """For this library: an observation to an action, `jaxrl.Policy`."""
        return Policy(self.agent, self._state, self.spec)

    def _next_key(self) -> jax.Array:
        self._drawn += 1
        return jax.random.fold_in(self._key, self._drawn)

    # -------------------------------------------------------------------------------- learning

    def learn(
        self: M,
        total_timesteps: int,
        callback: Any = None,
        log_interval: int | None = None,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> M:
        """Train for `total_timesteps` environment steps, rounded up to whole updates.

        Called again it goes on with what was learned; schedules and counters begin anew unless
        `reset_num_timesteps` is False. `log_interval` counts updates between points of the curves.
        """
        if callback is not None:
            raise TypeError(NO_CALLBACK)
        checks.positive_int(total_timesteps, "total_timesteps")
        steps = math.ceil(total_timesteps / self._each) * self._each
        before = 0 if reset_num_timesteps else self.num_timesteps
        state = self._state
        if self.result is not None or self.num_timesteps:
            state = _broken_off(state)
        if reset_num_timesteps:
            state = _restarted(state)
        spec = dataclasses.replace(self.spec, steps=before + steps)
        # Copies: what training is given it may write over, and the model stays if it is stopped.
        state = jax.tree.map(jnp.copy, dataclasses.replace(state, spec=spec))
        self.result = go_on(
            self.agent,
            self.env,
            self._next_key(),
            state,
            steps=steps,
            log_every=None if log_interval is None else log_interval * self._each,
            progress=True if progress_bar or self.verbose else None,
            log=self._log(tb_log_name),
        )
        self._state, self.spec = self.result.state, spec
        self.num_timesteps = before + steps
        return self

    def _log(self, name: str | None) -> Any:
        if self.tensorboard_log is None:
            return None
        folder, name = Path(self.tensorboard_log), name or type(self).__name__
        number = 1
        while (folder / f"{name}_{number}").exists():
            number += 1
        return sinks.TensorBoard(folder / f"{name}_{number}", tags="sb3")

    def set_env(self, env: Any) -> None:
        """The environment to go on learning in; of the same spaces and number."""
        env = as_env(env, self.n_envs)
        checks.same_task(self.spec, checks.task(self.agent, env, self._each))
        self.env = env

    def get_env(self) -> Any:
        raise TypeError(
            "get_env() does not exist here: environments are opened when they are needed. To watch "
            "the policy write env = gymnasium.make(...), obs, _ = env.reset(), action, _ = "
            "model.predict(obs), obs, reward, terminated, truncated, info = env.step(action)."
        )

    # --------------------------------------------------------------------------------- playing

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray[Any, Any], Any]:
        """-> the action for one observation, or the actions for a batch of them; and `state`, which
        is for policies that remember, None here."""
        del episode_start
        obs = as_obs(self.spec.obs_space, observation)
        key = None if deterministic else self._next_key()
        action = np.array(self.policy(obs, key=key, explore=not deterministic))
        if np.issubdtype(action.dtype, np.integer):
            action = action.astype(np.int64)
        return action, state

    # ----------------------------------------------------------------------------------- files

    def save(self, path: str | Path) -> None:
        """Write the agent and what it has learned to one file, `.zip`. The replay is left out."""
        files.save(path, type(self).__name__, self.agent, self.spec, self._state, self._content())

    def _content(self) -> dict[str, Any]:
        return {"num_timesteps": self.num_timesteps, "seed": self.seed}

    @classmethod
    def load(cls: type[M], path: str | Path, env: Any = None, **others: Any) -> M:
        """Read what `save` wrote. `env` is needed only to learn more."""
        if others:
            name = next(iter(others))
            raise TypeError(
                f"load({name}=...) is not supported: what was saved stays as it was. Build the "
                "model anew for other settings."
            )
        agent, spec, state, content = files.load(path, cls.__name__)
        model = object.__new__(cls)
        model.agent, model.spec, model._state = agent, spec, state
        model.verbose, model.tensorboard_log, model.result = 0, None, None
        model.num_timesteps, model.seed = content["num_timesteps"], content["seed"]
        model._key, model._drawn = jax.random.key(secrets.randbits(31)), 0
        model.env = None
        if env is not None:
            model.set_env(env)
        return model


def _backend() -> str:
    return {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())


def _broken_off(state: Any) -> Any:
    """The environments begin anew: no transition leads from the old ones to the new. A replay that
    has no place to say so begins empty."""
    buffer = getattr(state, "replay", None)
    if buffer is None:
        return state
    if buffer.spec.time_limit == 1:
        return dataclasses.replace(state, replay=replay.close(buffer))
    return dataclasses.replace(state, replay=jax.tree.map(jnp.zeros_like, buffer))


def _restarted(state: Any) -> Any:
    """Counters at zero, but for the positions in a replay."""
    kept = getattr(state, "replay", None)

    def zero(x: Any) -> Any:
        return Counter.zero() if isinstance(x, Counter) else x

    if kept is not None:
        state = dataclasses.replace(state, replay=None)
    state = map_nodes(zero, state, Counter)
    return state if kept is None else dataclasses.replace(state, replay=kept)


def _whole(value: Any, name: str) -> int:
    """train_freq: a number, or a pair of a number and "step"."""
    if isinstance(value, tuple) and len(value) == 2 and value[1] == "step":
        value = value[0]
    if isinstance(value, tuple):
        raise TypeError(f'{name}={value!r}: an update follows on steps here; write (1, "step").')
    checks.positive_int(value, name)
    return int(value)


def _count(env: Any, n_envs: int | None) -> int:
    """Parallel environments: those of a vector environment, else what was asked for."""
    there: int | None = getattr(env, "num_envs", None)
    return there or n_envs or 1


class PPO(Model):
    """Proximal policy optimisation: `jaxrl.PPO` with Stable-Baselines3's arguments."""

    def __init__(
        self,
        policy: str,
        env: Any,
        learning_rate: Any = 3e-4,
        n_steps: int = 2048,
        batch_size: int = 64,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: Any = 0.2,
        clip_range_vf: float | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        target_kl: float | None = None,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: Any = "auto",
        n_envs: int | None = None,
        **others: Any,
    ) -> None:
        arguments.refuse("PPO", others, _names(PPO))
        env = as_env(env, n_envs)
        n_envs = _count(env, n_envs)
        actor, critic = arguments.torsos(policy, policy_kwargs, (64, 64), nn.tanh)
        lr, anneal_lr = arguments.rate(learning_rate, "learning_rate")
        clip, anneal_clip = arguments.rate(clip_range, "clip_range")
        size = n_steps * n_envs
        if batch_size < 1 or size % batch_size:
            fits = math.gcd(size, batch_size) if batch_size > 0 else size
            raise ValueError(
                f"batch_size={batch_size} does not divide n_steps={n_steps} x {n_envs} "
                f"environments = {size}: write for example batch_size={fits}."
            )
        value_loss: Any = policy_losses.value_error
        if clip_range_vf is not None:
            value_loss = arguments.ClippedValueError(float(clip_range_vf))
        agent = jaxrl.PPO(
            lr=lr,
            anneal_lr=anneal_lr,
            gamma=gamma,
            lam=gae_lambda,
            clip=clip,
            anneal_clip=anneal_clip,
            entropy=ent_coef,
            value_weight=2.0 * vf_coef,  # ours is of half the squared error
            max_grad_norm=max_grad_norm,
            adam_eps=1e-5,
            target_kl=None if target_kl is None else 1.5 * target_kl,  # where theirs stops
            num_envs=n_envs,
            num_steps=n_steps,
            epochs=n_epochs,
            minibatches=size // batch_size,
            normalize_minibatch=policy_losses.normalize if normalize_advantage else identity,
            value_loss=value_loss,
            policy=arguments.Unscaled,
            actor=actor,
            critic=critic,
        )
        super().__init__(
            agent, env, tensorboard_log=tensorboard_log, verbose=verbose, seed=seed, device=device
        )


class DQN(Model):
    """Deep Q-network: `jaxrl.DQN` with Stable-Baselines3's arguments."""

    def __init__(
        self,
        policy: str,
        env: Any,
        learning_rate: Any = 1e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 32,
        tau: float = 1.0,
        gamma: float = 0.99,
        train_freq: Any = 4,
        gradient_steps: int = 1,
        n_steps: int = 1,
        target_update_interval: int = 10_000,
        exploration_fraction: float = 0.1,
        exploration_initial_eps: float = 1.0,
        exploration_final_eps: float = 0.05,
        max_grad_norm: float = 10.0,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: Any = "auto",
        n_envs: int | None = None,
        **others: Any,
    ) -> None:
        arguments.refuse("DQN", others, _names(DQN))
        env = as_env(env, n_envs)
        n_envs = _count(env, n_envs)
        torso, _ = arguments.torsos(policy, policy_kwargs, (64, 64), nn.relu)
        lr, anneal_lr = arguments.rate(learning_rate, "learning_rate")
        num_steps = _whole(train_freq, "train_freq")
        grad_steps = num_steps * n_envs if gradient_steps == -1 else gradient_steps
        updates = max(target_update_interval // n_envs, 1) / num_steps * grad_steps
        if tau < 1.0 and round(updates) > 1:
            raise ValueError(
                f"tau={tau} with target_update_interval={target_update_interval} is not supported: "
                f"write target_update_interval={num_steps * n_envs} for a copy that follows at "
                "every step, or tau=1 for one that is replaced."
            )
        agent = jaxrl.DQN(
            lr=lr,
            anneal_lr=anneal_lr,
            gamma=gamma,
            epsilon_start=exploration_initial_eps,
            epsilon_end=exploration_final_eps,
            explore_share=exploration_fraction,
            max_grad_norm=max_grad_norm,
            num_envs=n_envs,
            num_steps=num_steps,
            grad_steps=grad_steps,
            batch_size=batch_size,
            capacity=max(buffer_size // n_envs, 1) * n_envs,
            learning_starts=learning_starts,
            n_steps=n_steps,
            copy=Hard(max(1, round(updates))) if tau == 1.0 else Polyak(tau),
            target=value_losses.max_value,
            loss=value_losses.huber,
            torso=torso,
        )
        super().__init__(
            agent, env, tensorboard_log=tensorboard_log, verbose=verbose, seed=seed, device=device
        )


class SAC(Model):
    """Soft actor-critic: `jaxrl.SAC` with Stable-Baselines3's arguments."""

    def __init__(
        self,
        policy: str,
        env: Any,
        learning_rate: float = 3e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: Any = 1,
        gradient_steps: int = 1,
        n_steps: int = 1,
        ent_coef: str | float = "auto",
        target_update_interval: int = 1,
        target_entropy: str | float = "auto",
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: Any = "auto",
        n_envs: int | None = None,
        **others: Any,
    ) -> None:
        arguments.refuse("SAC", others, _names(SAC))
        env = as_env(env, n_envs)
        n_envs = _count(env, n_envs)
        actor, critic = arguments.torsos(policy, policy_kwargs, (256, 256), nn.relu)
        if callable(learning_rate):
            raise TypeError("learning_rate of SAC must be a number here, not a schedule.")
        if target_update_interval != 1:
            raise ValueError(
                f"target_update_interval={target_update_interval} is not supported: write 1."
            )
        alpha, learned = _temperature(ent_coef)
        num_steps = _whole(train_freq, "train_freq")
        agent = jaxrl.SAC(
            actor_lr=learning_rate,
            critic_lr=learning_rate,
            alpha_lr=learning_rate if learned else 0.0,
            gamma=gamma,
            tau=tau,
            alpha_start=alpha,
            target_entropy=None if target_entropy == "auto" else float(target_entropy),
            num_envs=n_envs,
            num_steps=num_steps,
            grad_steps=None if gradient_steps == -1 else gradient_steps,
            batch_size=batch_size,
            capacity=max(buffer_size // n_envs, 1) * n_envs,
            learning_starts=learning_starts,
            n_steps=n_steps,
            actor=actor,
            critic=critic,
        )
        super().__init__(
            agent, env, tensorboard_log=tensorboard_log, verbose=verbose, seed=seed, device=device
        )


def _temperature(given: Any) -> tuple[float, bool]:
    """ent_coef -> where the temperature starts, whether it is learned."""
    if isinstance(given, str):
        kind, _, start = given.partition("_")
        if kind != "auto":
            raise ValueError(f'ent_coef={given!r}: write "auto", "auto_0.1" or a number.')
        return float(start or 1.0), True
    return float(given), False


def _names(model: type) -> list[str]:
    skipped = ("self", "others")
    return [n for n in inspect.signature(model.__init__).parameters if n not in skipped]
