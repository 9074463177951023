"""Floating-point operations counted by hand: multiply and add are two.

Only matrix products are counted. Backward is two products for each of the forward's, except that no
gradient is needed for the input of the first layer.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.settings import Task


def forward(sizes: Sequence[int]) -> int:
    """One example through a fully connected net of these widths, input and output included."""
    return sum(2 * a * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))


def backward(sizes: Sequence[int], inputs: bool = False) -> int:
    """Gradients of the weights; `inputs` also of the input."""
    first = 0 if inputs else 2 * sizes[0] * sizes[1]
    return 2 * forward(sizes) - first


def gradient(sizes: Sequence[int]) -> int:
    """Forward and backward of one example."""
    return forward(sizes) + backward(sizes)


SIZES = {"CartPole-v1": (4, 2), "Pendulum-v1": (3, 1)}
"""Observation and action widths."""


def per_step(task: Task) -> float:
    """Of one environment step, with its share of the updates."""
    obs, actions = SIZES[task.env]
    if task.algorithm == "ppo":
        actor, critic = (obs, *task.hidden, actions), (obs, *task.hidden, 1)
        play = forward(actor) + forward(critic)
        return play + task.epochs * (gradient(actor) + gradient(critic))
    updates = task.updates / task.num_envs * task.batch_size
    if task.algorithm == "dqn":
        net = (obs, *task.hidden, actions)
        # Double Q-learning looks at the next observation with both nets.
        return forward(net) + updates * (gradient(net) + 2 * forward(net))
    if task.algorithm == "sac":
        actor, critic = (obs, *task.hidden, 2 * actions), (obs + actions, *task.hidden, 1)
        learn_critic = forward(actor) + 2 * forward(critic) + 2 * gradient(critic)
        # The actor's gradient goes through both critics down to their input, not to their weights.
        through = 2 * (forward(critic) + forward(critic))
        return forward(actor) + updates * (learn_critic + gradient(actor) + through)
    raise ValueError(f"no count for algorithm={task.algorithm!r}; there are ppo, dqn, sac.")
