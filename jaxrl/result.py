"""What training returns: states, curves, policies, pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxrl import checks, lanes, rollout
from jaxrl.guard import Sick
from jaxrl.struct import static, struct
from jaxrl.types import Env, Key, Metrics, PyTree, Spec

if TYPE_CHECKING:
    from jaxrl.video import Film

if TYPE_CHECKING:
    from jaxrl.export import Export


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds, steps and bytes of one call; `steps` counts those of all runs together, and `memory`
    is what was estimated before compiling."""

    compile_seconds: float = 0.0
    run_seconds: float = 0.0
    steps: int = 0
    memory: int = 0

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.run_seconds if self.run_seconds else 0.0


class Task:
    """What a result remembers of its environment: beside the arrays, and compared by identity."""

    def __init__(self, env: Env) -> None:
        self.env = env


@struct
class Policy:
    """A trained agent that only acts."""

    agent: Any
    state: Any
    spec: Spec = static()

    runs = None

    def __call__(self, obs: PyTree, key: Key | None = None, explore: bool = False) -> jax.Array:
        """The action for one observation, or the actions for a batch of them.

        Exploring needs a key. The observation must have the shape the agent was trained on.
        """
        if rollout.initial_memory(self.agent, 1) is not None:
            raise TypeError(
                "this policy remembers: write memory = policy.initial_memory() where an episode "
                "begins, and then action, memory = policy.step(obs, memory)."
            )
        return self._act(obs, key, explore, None)[0]

    def initial_memory(self, num_envs: int | None = None) -> PyTree:
        """What `step` is given where an episode begins: of one environment, or of `num_envs`. None
        for a policy that does not remember."""
        memory = rollout.initial_memory(self.agent, num_envs or 1)
        return memory if num_envs else jax.tree.map(lambda x: x[0], memory)

    def step(
        self, obs: PyTree, memory: PyTree, key: Key | None = None, explore: bool = False
    ) -> tuple[jax.Array, PyTree]:
        """-> the action for one observation and what is remembered then, or those of a batch."""
        return self._act(obs, key, explore, memory)

    def _act(
        self, obs: PyTree, key: Key | None, explore: bool, memory: PyTree
    ) -> tuple[jax.Array, PyTree]:
        if explore and key is None:
            raise ValueError("explore=True draws random actions: give policy(obs, key=...).")
        obs, leading = checks.observation(self.spec.obs_space, obs)
        if leading == 0:
            obs, memory = jax.tree.map(lambda x: x[None], (obs, memory))
        key = jax.random.key(0) if key is None else key
        out = _act(self.agent, self.state, obs, key, explore, memory)
        return out if leading else jax.tree.map(lambda x: x[0], out)

    def save(self, path: str | Path) -> Path:
        """Write what acting needs to a file, which `jaxrl.load_policy` reads. -> the path"""
        from jaxrl.saved import save

        return save(self, path)

    def export(self, path: str | Path, format: str = "jax") -> Export:
        """Write a program that acts as this policy without exploration: "jax" (`jax.export`, for
        CPUs and CUDA) or "onnx". See docs/policies.md."""
        from jaxrl.export import export

        return export(self, path, format)


def _act_one(
    agent: Any, state: Any, obs: PyTree, key: Key, explore: bool, memory: PyTree
) -> tuple[jax.Array, PyTree]:
    given = () if memory is None else (memory,)
    out = agent.act(state, obs, key, explore, *given)
    return out.action, out.memory


_act = jax.jit(_act_one, static_argnames="explore")


@struct
class Result:
    """One run, or several: then `state` and `metrics` have a leading axis and `result[i]` is one.

    `metrics[name]` and `steps` are arrays [points] or [runs, points]; `steps` counts the
    environment steps of one run.
    """

    agent: Any
    state: Any
    metrics: Metrics
    steps: jax.Array
    spec: Spec = static()
    timing: Timing = static(default=Timing())
    sick: tuple[Sick, ...] = static(default=())
    """Of a guarded call: the runs that stopped because they became infinite or NaN."""
    task: Task | None = static(default=None)

    @property
    def env(self) -> Env | None:
        """What was trained on; None where `train` was called inside jit or vmap."""
        return None if self.task is None else self.task.env

    @property
    def runs(self) -> int | None:
        """How many runs; None for a single one without a leading axis."""
        return None if self.steps.ndim == 1 else self.steps.shape[0]

    @property
    def policy(self) -> Policy:
        if self.runs is not None:
            raise TypeError(
                f"this result holds {self.runs} runs: write result[i].policy for one of them, or "
                "jaxrl.evaluate(result, env) to play them all."
            )
        return Policy(self.agent, self.state, self.spec)

    def save_policy(self, path: str | Path) -> Path:
        """Write the policy to a file, which `jaxrl.load_policy` reads. -> the path"""
        return self.policy.save(path)

    def export(self, path: str | Path, format: str = "jax") -> Export:
        """Write the policy as a program that needs no jaxrl: "jax" or "onnx"."""
        return self.policy.export(path, format)

    @property
    def compile_seconds(self) -> float:
        return self.timing.compile_seconds

    @property
    def memory(self) -> int:
        """Bytes that training was estimated to take, before it was compiled (jaxrl.memory)."""
        return self.timing.memory

    @property
    def steps_per_second(self) -> float:
        """Environment steps per second of all runs together, compilation left out."""
        return self.timing.steps_per_second

    def __len__(self) -> int:
        if self.runs is None:
            raise TypeError("this result is a single run and has no length.")
        return self.runs

    def __getitem__(self, index: int | slice) -> Result:
        """Run number `index`, or several of them."""
        if self.runs is None:
            raise TypeError("this result is a single run; use it as it is, without [i].")
        if not isinstance(index, slice) and not -self.runs <= index < self.runs:
            raise IndexError(f"run {index} of {self.runs}: give 0 to {self.runs - 1}.")
        agent = self.agent
        if checks.stacked(agent):
            agent = jax.tree.map(lambda x: x[index], agent)
        return dataclasses.replace(
            self,
            agent=agent,
            state=lanes.pick(self.state, index),
            metrics={name: row[index] for name, row in self.metrics.items()},
            steps=self.steps[index],
            sick=self._sick(index),
        )

    def _sick(self, index: int | slice) -> tuple[Sick, ...]:
        chosen = range(self.runs or 0)[index]
        if isinstance(chosen, int):
            return tuple(dataclasses.replace(x, run=None) for x in self.sick if x.run == chosen)
        place = {run: i for i, run in enumerate(chosen)}
        return tuple(dataclasses.replace(x, run=place[x.run]) for x in self.sick if x.run in place)

    def __repr__(self) -> str:
        runs = "1 run" if self.runs is None else f"{self.runs} runs"
        text = f"Result({type(self.agent).__name__}, {runs} x {int(np.max(self.steps)):,} steps"
        name, what, digits = "episode/return", "return", 2
        if name not in self.metrics:
            name, what, digits = "loss/total", "loss", 4
        values = np.asarray(self.metrics[name])
        if values.shape[-1]:
            text += f", last {what} {np.nanmean(values[..., -1]):.{digits}f}"
        if self.timing.steps:
            text += (
                f", compiled in {self.compile_seconds:.1f} s, {self.steps_per_second:,.0f} steps/s"
            )
        return text + ")"

    def plot(
        self,
        path: str | Path | None = None,
        metric: str = "episode/return",
        ax: Any = None,
        fan: bool = False,
    ) -> Any:
        """Draw a learning curve: the interquartile mean over runs with the band of its middle
        95 % bootstrap interval or, as a fan, with every run; the curve itself for a single run.
        `jaxrl.plot.compare` draws several results. -> the matplotlib axes."""
        from jaxrl.plot import curve, rows

        name = type(self.agent).__name__
        return curve(*rows(self, metric), metric, label=name, path=path, ax=ax, fan=fan)

    def video(
        self,
        path: str | Path,
        env: Env | None = None,
        *,
        key: Key | None = None,
        max_steps: int = 1000,
        explore: bool = False,
        fps: float | None = None,
        caption: bool = True,
    ) -> Film:
        """Play an episode and write it to `path`, a .gif or .mp4. Of several runs write
        `result[3].video(...)`. See `jaxrl.video.record`."""
        from jaxrl.video import record

        return record(
            self,
            path,
            env,
            key=key,
            max_steps=max_steps,
            explore=explore,
            fps=fps,
            caption=caption,
        )

    def enjoy(
        self,
        env: Env | None = None,
        *,
        key: Key | None = None,
        max_steps: int = 1000,
        explore: bool = False,
        fps: float | None = None,
    ) -> Any:
        """Watch an episode: in a window, in the notebook or on the terminal, whichever there is,
        or else as a film that is written. See `jaxrl.enjoy`."""
        from jaxrl.enjoy import watch

        return watch(self, env, key=key, max_steps=max_steps, explore=explore, fps=fps)

    def report(self, path: str | Path, *, title: str | None = None) -> Path:
        """Write a page with every metric, the settings and the circumstances: one HTML file that
        needs nothing else."""
        from jaxrl.report import of_result, write

        return write(of_result(self, title), path)
