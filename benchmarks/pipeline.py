"""What the two language-model pipelines share: the model they begin with, its task, what is shown.

By default both train a small transformer from nothing on a task of their own, on the device from
end to end: additions of two-digit numbers, words to be reversed. With `--model FOLDER` (or a .gguf
file) they take a real checkpoint and ask it for sums in its own words; a verifier on the host then
reads what it says.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxrl
from benchmarks.stamp import stamp
from jaxrl import llm
from jaxrl.llm import examples, tasks
from jaxrl.llm.verifiers import Numeric, last_number
from jaxrl.statistics import bootstrap_interval

RESULTS = Path(__file__).parent / "results"


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", type=Path, help="folder or .gguf file of a real checkpoint")
    parser.add_argument("--adapters", type=int, default=0, help="rank of LoRA; 0: all parameters")
    parser.add_argument("--small", action="store_true", help="a few steps of everything")
    parser.add_argument("--write", action="store_true", help="keep the result and the picture")
    return parser


def question(a: int, b: int) -> str:
    return f"What is {a} + {b}? Answer with the number only."


class Setting:
    """A network, the parameters to begin with (None: random), and what it is asked."""

    def __init__(self, options: argparse.Namespace, task: Any) -> None:
        self.rank = options.adapters
        self.lora = llm.Lora(rank=self.rank) if self.rank else None
        self.start: Any = None
        if options.model is None:
            self.task = task
            size, end = self.task.tokenizer.size, self.task.stop
            config = llm.Config(
                size, width=64, layers=2, heads=4, hidden=256, rope=llm.Rope(16), eos=end
            )
            self.network = llm.Transformer(config)
            return
        lm = llm.load(options.model, dtype=np.float32)
        self.network, self.start = lm.network, lm.params
        tokenizer = llm.load_tokenizer(options.model)
        numbers = np.random.default_rng(0).integers(10, 100, (512, 2))
        self.task = tasks.text_task(
            prompts=[question(a, b) for a, b in numbers],
            answers=[str(a + b) for a, b in numbers],
            verifier=Numeric(extract=last_number),
            tokenizer=tokenizer,
            max_new=16,
            chat=True,
        )
        self.numbers, self.tokenizer = numbers, tokenizer

    def supervised(self, count: int, seed: int = 0) -> jaxrl.Dataset:
        """Questions with right answers."""
        if self.start is None:
            return examples.written(self.task, jax.random.key(1000 + seed), count)
        chosen = np.random.default_rng(seed).choice(len(self.numbers), count)
        prompts = [self.prompt(i) for i in chosen]
        answers = [self.tokenizer.encode(str(self.numbers[i].sum())) for i in chosen]
        room = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True)) + 1
        end = self.network.config.eos[0]
        rows = examples.supervised(prompts, answers, room=room, eos=end)
        return examples.of_task(self.task, rows.arrays)

    def prompt(self, number: int) -> list[int]:
        asked = {"role": "user", "content": question(*self.numbers[number])}
        return self.tokenizer.chat([asked])

    def until_an_eighth(self, sft: Any, data: Any, key: Any, tuned: Any, steps: int) -> Any:
        """Fine-tuned on until an eighth of the answers is right: nothing can be learned from the
        rewards of a model that is never right, and there should be something left to learn."""
        rounds = 0
        while self.exact(tuned) < 0.125:
            rounds += 1
            tuned = jaxrl.fit(sft, data, jax.random.fold_in(key, rounds), steps=steps, start=tuned)
        return tuned

    def exact(self, run: Any, episodes: int = 1024) -> float:
        """Share of right answers, the most probable tokens taken."""
        if self.start is not None:
            episodes = 64
        return jaxrl.evaluate(run, self.task, episodes=episodes).mean


class Clock:
    def __init__(self) -> None:
        self.began = time.perf_counter()

    def say(self, text: str) -> None:
        print(f"[{time.perf_counter() - self.began:5.0f} s] {text}", flush=True)


def interval(values: list[float]) -> str:
    x = np.asarray(values)
    if len(x) == 1:
        return f"{x[0]:.1%}"
    low, high = bootstrap_interval(x, np.mean)
    return f"{x.mean():.1%} [{low:.1%}, {high:.1%}]"


def table(stages: dict[str, list[float]], head: str) -> None:
    width = max(len(name) for name in stages)
    print(f"\n{'':{width}}  {head}")
    for name, values in stages.items():
        each = "  ".join(f"{v:6.1%}" for v in values)
        print(f"{name:{width}}  {interval(values):24} seeds: {each}")


def keep(name: str, result: dict[str, Any], runs: list[Any], metrics: tuple[str, ...]) -> None:
    """The result as data, and the curves of all seeds as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(metrics), figsize=(4 * len(metrics), 3))
    for axis, metric in zip(axes, metrics, strict=True):
        for run in runs:
            axis.plot(np.asarray(run.steps), np.asarray(run.metrics[metric]))
        axis.set_xlabel("answers")
        axis.set_title(metric)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"{name}.png", dpi=110)
    text = json.dumps({**result, "stamp": stamp(f"benchmarks.{name}")}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(f"written: {RESULTS / name}.json, .png")
